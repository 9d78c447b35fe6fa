"""Keys of a train message's configuration: what the server tells a client beside the model."""

ROUND = "server-round"
"""The round that a message belongs to; Flower's own key."""

VERSION = "cwmp-version"
"""Version of the public model that a client holds after this message."""

BASE = "cwmp-base"
"""Version that the changes in a message lead on from."""

INITIAL = "cwmp-initial"
"""Digest of the weights that the run starts from: a client that draws the same holds version 0."""

ACCEPTED = "cwmp-accepted"
"""The last round in which the server counted this node's update; 0 for none."""

ARRAYS_KEY = "cwmp-arrays-key"
"""Where the app expects the model, in a message that brings only changes to it."""

LAMBDA = "cwmp-lambda"
"""Value per joule below which no client keeps an entry."""

PRICE = "cwmp-price"
"""Share of a contact's squared change that a joule has to buy, for entries and for tensors in backward."""

CAP = "cwmp-cap-j"
"""Joules that a client may spend at most."""

STEPS = "cwmp-steps"
"""Local steps of a contact, instead of whole passes over a client's images."""
