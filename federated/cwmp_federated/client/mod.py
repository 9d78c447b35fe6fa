"""The CWMP mod: put it on any Flower ClientApp and its updates leave sparse, within an energy budget, with error feedback.

message from the server            the app's own train function
arrays, or sparse changes  --->  receives dense arrays, returns dense arrays
|
encoded update, report     <---  change + residual, selection by joules, residual back into context.state
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor, nn

from cwmp_federated.client.energy import Work
from cwmp_federated.client.node import LAST, Client, round_of, setup_of
from cwmp_federated.client.setup import Setup
from cwmp_federated.errors import FederatedError
from cwmp_federated.wire import flower
from cwmp_federated.wire import records as wire
from cwmp_federated.wire.keys import ARRAYS_KEY, BASE, INITIAL, VERSION
from cwmp_federated.wire.state import State, aliases, buffer_shapes, parameter_shapes
from cwmp_selector.update import SparseUpdate

MODEL = "cwmp-model"
"""Record of a node's state that holds the model to which the server will send changes."""

_NOT_METRICS = ("steps", "images", "lambda", "price")

SetupOf = Callable[[Context], Setup]
TrainFunction = Callable[[Message, Context], Message]


class CwmpMod:
    """A Flower mod for train messages; see the module.

    Attributes:
        setup_of: Gives the set-up for a context: model, device profile, budget.
    """

    def __init__(self, setup_of: SetupOf = setup_of) -> None:
        self.setup_of = setup_of

    def __call__(self, message: Message, context: Context, call_next: TrainFunction) -> Message:
        """Handle one message; other messages than train pass unchanged."""
        if not message.metadata.message_type.startswith("train"):
            return call_next(message, context)
        client = Client(context, self.setup_of(context))
        bytes_down = flower.message_bytes(message)
        client.settle(message)
        base, written = receive(message, context, client.setup.model, client.setup)
        config, key = wire.config_of(message), wire.arrays_key(message.content)
        arrays = wire.to_record(base) if key is None else message.content.array_records[key]
        key = str(config.get(ARRAYS_KEY, wire.ARRAYS)) if key is None else key
        message.content = RecordDict({key: arrays, wire.config_key(message.content): config})
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        return _compress(client, message, reply, base, written, bytes_down)


def receive(
    message: Message, context: Context, model: nn.Module, setup: Setup | None = None
) -> tuple[State, dict[str, Tensor]]:
    """Return the model that the server sent, and the sorted flat positions that this wrote, by name, if it came sparse.

    Args:
        message: Message from the server.
        context: The node's context; keeps the model if the server will send changes to it.
        model: Tells what travels.
        setup: Gives the model that a run starts from; None knows none.

    Raises:
        FederatedError: If it came as changes to a model that this node does not have.
    """
    content = message.content
    written: dict[str, Tensor] = {}
    key = wire.arrays_key(content)
    if key is not None:
        state = wire.to_state(content.array_records[key])
    else:
        state, written = _apply_changes(message, context, model, setup)
    for name, first in aliases(model).items():
        if name in state:
            state[name] = state[first]
    version = wire.whole(wire.config_of(message), VERSION)
    if version is not None:
        context.state[MODEL] = wire.to_record(state)
        context.state[VERSION] = MetricRecord({"version": version})
    return state, written


def _apply_changes(
    message: Message, context: Context, model: nn.Module, setup: Setup | None
) -> tuple[State, dict[str, Tensor]]:
    """Return the model after the changes, and the entries written: what came, and what the last sparse step had moved."""
    shapes, config = parameter_shapes(model), wire.config_of(message)
    wanted = wire.whole(config, BASE)
    held = wire.whole(context.state.metric_records.get(VERSION, MetricRecord()), "version")
    if wire.UPDATE not in message.content.array_records:
        raise FederatedError("the server sent no model and no changes to one; use the same release on both sides")
    if MODEL in context.state.array_records and held == wanted:
        state = wire.to_state(context.state.array_records[MODEL])
    elif setup is not None and wanted == 0 and setup.initial_digest() == config.get(INITIAL):
        state = OrderedDict((name, tensor.clone()) for name, tensor in setup.initial.items())
    else:
        raise FederatedError(f"this node holds model version {held}, not {wanted}; the server will send it whole")
    last = context.state.array_records.get(LAST, ArrayRecord())
    moved = {name: [index] for name, index in wire.to_state(last).items()}
    parameters = {name: state[name] for name in shapes}
    for key, array in message.content.array_records[wire.UPDATE].items():
        if key == wire.BUFFERS:
            buffers = {name: shape for name, shape in buffer_shapes(model).items() if name in state}
            for name, value in wire.buffers_from_bytes(array.data, buffers).items():
                state[name].copy_(value)
        else:
            update = SparseUpdate.from_bytes(array.data, parameters)
            update.apply_to(parameters)
            for name, index in update.indices.items():
                moved.setdefault(name, []).append(index)
    nothing = torch.zeros(0, dtype=torch.int64)
    return state, {name: torch.unique(torch.cat(moved[name])) if name in moved else nothing for name in shapes}


def _compress(
    client: Client, message: Message, reply: Message, base: State, written: dict[str, Tensor], bytes_down: int
) -> Message:
    shapes = parameter_shapes(client.setup.model)
    buffer_names = buffer_shapes(client.setup.model).keys() & base.keys()
    trained = _trained(client, reply, base)
    metrics = _metrics(reply)
    changes = {name: trained[name] - base[name] for name in shapes}
    moved = wire.to_state(reply.content.array_records[wire.KEPT]) if wire.KEPT in reply.content.array_records else None
    steps = wire.whole(metrics, "steps", 1) or 1
    feedback = client.feedback()
    if moved is None:
        update = client.select(changes, feedback, message, local_steps=0)
    else:
        update = client.send(changes, feedback, moved, message, steps, wire.real(metrics, "price"))
        update = replace(update, lambda_=wire.real(metrics, "lambda") or 0.0)
    joined = client.meet(round_of(message), moved)
    payload = update.to_bytes()
    client.remember(feedback, payload, message)
    arrays = OrderedDict({wire.PAYLOAD: wire.opaque(payload)})
    if buffer_names:
        buffers = {name: trained[name] for name in buffer_names}
        arrays[wire.BUFFERS] = wire.opaque(wire.buffers_to_bytes(buffers))
    images = wire.whole(metrics, "images", wire.whole(metrics, wire.NUM_EXAMPLES))
    if images is None:
        raise FederatedError(
            f"the train function returned neither {wire.NUM_EXAMPLES} nor images; put one into the reply's MetricRecord: "
            "what training costs follows from it"
        )
    out = Message(RecordDict({wire.UPDATE: ArrayRecord(arrays)}), reply_to=message)
    report = wire.Report(
        profile=client.energy.profile.name,
        provenance=client.energy.provenance,
        numbers=dict.fromkeys(wire.LEDGER_FIELDS, 0.0),
        metrics={name: value for name, value in metrics.items() if name not in _NOT_METRICS},
    )
    out.content.update(wire.report_records(report))
    work = Work(
        kept=update.kept,
        lines=client.energy.lines(update.indices if moved is None else moved),
        payload_bytes=len(payload),
        bytes_up=flower.message_bytes(out),
        bytes_down=bytes_down,
        steps=steps,
        images=images,
        written={name: len(index) for name, index in written.items()},
        written_lines=client.energy.lines(written),
        sparse_step=moved is not None,
        moved=None if moved is None else {name: len(index) for name, index in moved.items()},
        left_out=frozenset(name for name, index in (moved or {}).items() if not len(index)),
        joined=joined,
    )
    report.numbers.update(_numbers(client, work, update.lambda_), round=float(round_of(message)))
    out.content.update(wire.report_records(report))
    return out


def _trained(client: Client, reply: Message, base: State) -> State:
    """Return what training made of the arrays (FederatedError if it is not theirs, or would not reach the server)."""
    names = [name for name in reply.content.array_records if name != wire.KEPT]
    if len(names) != 1:
        raise FederatedError(
            f"the train function returned {len(names)} ArrayRecords ({', '.join(names) or 'none'}); return one with every array it got"
        )
    trained = wire.to_state(reply.content.array_records[names[0]])
    if trained.keys() != base.keys():
        odd = sorted(trained.keys() ^ base.keys())
        raise FederatedError(
            f"the train function returned other arrays than it received, {odd[0]!r} for one; return every array it got"
        )
    for name, tensor in base.items():
        if trained[name].shape != tensor.shape:
            raise FederatedError(f"the train function returned {name} in another shape, {tuple(trained[name].shape)}")
    model = client.setup.model
    shapes, buffers = parameter_shapes(model), buffer_shapes(model)
    if missing := [name for name in shapes if name not in base]:
        raise FederatedError(
            f"the server's arrays hold no {missing[0]!r}, but {', '.join(list(base)[:3])}, ...; start the strategy from "
            "ArrayRecord(model.state_dict()) of the same model"
        )
    for name, other in aliases(model).items():
        if name in trained and not torch.equal(trained[name], trained[other]):
            raise FederatedError(
                f"{name} and {other} are one parameter, but the train function returned two different ones"
            )
    for name in base.keys() - shapes.keys() - buffers.keys() - aliases(model).keys():
        if base[name].is_floating_point() and not torch.equal(trained[name], base[name]):
            raise FederatedError(
                f"training changed {name!r}, which does not travel: it is frozen or no buffer in the state of the set-up's model; "
                "make it trainable there, or leave it alone"
            )
    return trained


def _metrics(reply: Message) -> MetricRecord:
    """Return the app's metrics (FederatedError if they are not one record, or the reply holds what the mod does not carry)."""
    records = reply.content.metric_records
    if len(records) != 1:
        raise FederatedError(f"the train function returned {len(records)} MetricRecords; return one")
    if reply.content.config_records:
        raise FederatedError(
            f"the train function returned the ConfigRecord {next(iter(reply.content.config_records))!r}, which the mod does not "
            "carry; return numbers, as metrics"
        )
    (metrics,) = records.values()
    if wire.LEDGER in metrics:
        raise FederatedError(f"a metric is called {wire.LEDGER}, which is the mod's own; rename it")
    return metrics


def _numbers(client: Client, work: Work, lambda_: float) -> dict[str, float]:
    joules = client.energy.report(work)
    dense_j = client.energy.marginal(work.steps if work.sparse_step else 0).dense_j()
    budget_j = None if client.config.keeps_all else client.budget.joules(dense_j)
    return {
        **joules,
        "client": client.index,
        "lambda": lambda_ if math.isfinite(lambda_) else -1.0,
        "budget": -1.0 if budget_j is None else budget_j,
        "payload_bytes": work.payload_bytes,
        "bytes_up": work.bytes_up,
        "bytes_down": work.bytes_down,
        "steps": work.steps,
        "images": work.images,
        "kept": sum(work.kept.values()),
        "entries": sum(client.energy.costs.numel(name) for name in client.energy.costs.names()),
    }
