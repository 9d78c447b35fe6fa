"""From raw readings to joules: tracking, counter edges, what a meter is like, joules of a command."""
