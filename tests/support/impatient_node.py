"""Flower's SuperNode, whose absence is noticed after 20 s in place of 60: it promises a heartbeat every 10 s, the least that is admitted."""

from flwr.supercore import heartbeat
from flwr.supernode import fleet_http_connection
from flwr.supernode.cli import flower_supernode

SECONDS = 10

for module in (heartbeat, fleet_http_connection):
    assert module.HEARTBEAT_DEFAULT_INTERVAL > SECONDS
    module.HEARTBEAT_DEFAULT_INTERVAL = SECONDS

flower_supernode()
