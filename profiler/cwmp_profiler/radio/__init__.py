"""Real bytes over a real socket: the sending side, the sink, and what both agree on."""
