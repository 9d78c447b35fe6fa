"""Meters: every source of joules or watts that this project reads. `registry` finds and opens them."""
