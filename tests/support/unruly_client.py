"""The package's ClientApp with nodes that misbehave on request of their node-config; part of a test app, never of the product.

`stall-round=N stall-file=PATH`: in round N create the file and hang.   `hostile=true`: send another kind of garbage every round.
"""

import os
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from cwmp_federated.client.app import app as honest
from cwmp_federated.client.node import round_of
from cwmp_federated.wire import records as wire

app = ClientApp()


@app.train()
def train(message, context):
    number = round_of(message)
    node = dict(context.node_config)
    if node.get("stall-round") == number:
        Path(str(node["stall-file"])).touch()
        time.sleep(3600)
    reply = honest(message, context)
    if node.get("hostile"):
        reply.content = [random_bytes, not_numbers, heavy][(number - 1) % 3](reply.content)
    return reply


def random_bytes(content):
    """A payload of the right envelope and length that is noise."""
    record = content.array_records[wire.UPDATE]
    size = len(record[wire.PAYLOAD].data)
    content[wire.UPDATE] = ArrayRecord({wire.PAYLOAD: wire.opaque(os.urandom(size))})
    return content


def not_numbers(content):
    """What a plain Flower client would send, all NaN."""
    arrays = ArrayRecord({"0": Array(np.full((64, 10), np.nan, np.float32))})
    return RecordDict({wire.ARRAYS: arrays, wire.METRICS: MetricRecord({wire.NUM_EXAMPLES: 100})})


def heavy(content):
    """A valid update that claims to speak for a billion billion images."""
    content.metric_records[wire.METRICS][wire.NUM_EXAMPLES] = 10**18
    return content
