"""Keys of a train message's configuration by which the server hands out a common threshold."""

LAMBDA = "cwmp-lambda"
"""Value per joule below which no client keeps an entry."""

CAP = "cwmp-cap-j"
"""Joules that a client may spend at most."""

STEPS = "cwmp-steps"
"""Local steps of a contact, instead of whole passes over a client's images."""
