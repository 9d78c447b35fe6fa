"""The Flower ClientApp: local training as Flower users write it, made sparse by the CWMP mod.

Point a Flower project at it: `clientapp = "cwmp_federated.client.app:app"`.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from cwmp_federated.client.learning import batches, evaluate, first_gradient, train
from cwmp_federated.client.mod import CwmpMod
from cwmp_federated.client.node import Client, round_of, setup_of
from cwmp_federated.client.setup import generator, number
from cwmp_federated.wire import records as wire
from cwmp_federated.wire.keys import STEPS
from cwmp_federated.wire.state import load_state, put_back, state_of

app = ClientApp()


@app.train(mods=[CwmpMod()])
def train_client(message: Message, context: Context) -> Message:
    """Train the model of the message on this client's images; return all arrays, changed."""
    setup = setup_of(context)
    client = Client(context, setup)
    with torch.random.fork_rng(devices=[]):
        # What a model draws while it trains (dropout) depends on round and client, not on what this process did before.
        torch.manual_seed(number(setup.config.seed, round_of(message), client.index, 3))
        return _train(client, message)


def _train(client: Client, message: Message) -> Message:
    setup, config, model = client.setup, client.config, client.setup.model
    load_state(model, wire.to_state(wire.arrays_of(message)))
    put_back(model, setup.home)
    images, labels = setup.images(client.index)
    wanted = wire.whole(wire.config_of(message), STEPS)
    once = -(-len(labels) // config.batch_size)
    epochs = config.local_epochs if wanted is None else -(-wanted // max(once - 1, 1))
    plan = batches(len(labels), config.batch_size, epochs, generator(config.seed, round_of(message), client.index, 1))
    plan = plan[:wanted]
    records: OrderedDict[str, ArrayRecord] = OrderedDict()
    threshold: dict[str, float] = {}
    kept: dict[str, Tensor] | None = None
    first: tuple[dict[str, Tensor], float] | None = None
    if config.chooses_first:
        first = first_gradient(model, images, labels, plan[0])
        expected = {name: -config.learning_rate * len(plan) * g for name, g in first[0].items()}
        update = client.choose(expected, message, len(plan))
        kept = dict(update.indices)
        threshold["lambda"] = update.lambda_
        if (price := client.price(expected, message)) is not None:
            threshold["price"] = price
        records[wire.KEPT] = wire.to_record(kept)
    done = train(
        model,
        images,
        labels,
        plan,
        learning_rate=config.learning_rate,
        optimizer=config.optimizer,
        kept=kept,
        first=first,
    )
    records[wire.ARRAYS] = wire.to_record(state_of(model))
    metrics = MetricRecord(
        {wire.NUM_EXAMPLES: len(labels), "loss": done.loss, "steps": done.steps, "images": done.images, **threshold}
    )
    return Message(RecordDict({**records, wire.METRICS: metrics}), reply_to=message)


@app.evaluate()
def evaluate_client(message: Message, context: Context) -> Message:
    """Test the model of the message on the shared test set."""
    setup = setup_of(context)
    load_state(setup.model, wire.to_state(wire.arrays_of(message)))
    accuracy, loss = evaluate(setup.model, setup.dataset)
    metrics = MetricRecord({wire.NUM_EXAMPLES: len(setup.dataset.test_y), "accuracy": accuracy, "loss": loss})
    return Message(RecordDict({wire.METRICS: metrics}), reply_to=message)
