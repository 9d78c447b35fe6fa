"""The CWMP mod: put it on any Flower ClientApp and its updates leave sparse, within an energy budget, with error feedback.

message from the server            the app's own train function
arrays, or sparse changes  --->  receives dense arrays, returns dense arrays
|
encoded update, report     <---  change + residual, selection by joules, residual back into context.state
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor

from cwmp_federated.client.energy import ClientEnergy, Work
from cwmp_federated.client.learning import State, parameter_shapes
from cwmp_federated.client.selection import VALUE_FORMATS, select_update
from cwmp_federated.client.setup import Setup, client_of, make_setup, number
from cwmp_federated.errors import FederatedError
from cwmp_federated.records.config import RunConfig
from cwmp_federated.wire import records as wire
from cwmp_federated.wire.threshold import CAP, LAMBDA
from cwmp_selector.feedback import ErrorFeedback
from cwmp_selector.update import SparseUpdate

RESIDUAL, MODEL, VERSION = "cwmp-residual", "cwmp-model", "cwmp-version"
ROUND, BASE = "server-round", "cwmp-base"

SetupOf = Callable[[Context], Setup]
TrainFunction = Callable[[Message, Context], Message]


def setup_of(context: Context) -> Setup:
    """Return the set-up that a context's run configuration describes."""
    return make_setup(_config_of(json.dumps(dict(context.run_config))))


@lru_cache(maxsize=16)
def _config_of(settings: str) -> RunConfig:
    return RunConfig.from_run_config(json.loads(settings))


class Client:
    """One client as its context describes it: which data, which device, which budget, and what it remembers."""

    def __init__(self, context: Context, setup: Setup) -> None:
        self.context, self.setup, self.config = context, setup, setup.config
        self.index = client_of(context.node_config, setup.config)
        self.profile = str(context.node_config.get("cwmp-profile", setup.profiles[self.index]))
        self.energy: ClientEnergy = setup.energy(self.profile)
        self.budget = setup.budget(self.profile, str(context.node_config.get("cwmp-budget", "")))

    def select(
        self, changes: Mapping[str, Tensor], feedback: ErrorFeedback | None, message: Message, local_steps: int
    ) -> SparseUpdate:
        """Return the update to send for these changes."""
        return select_update(
            changes,
            energy=self.energy,
            budget=self.budget,
            config=self.config,
            feedback=feedback,
            local_steps=local_steps,
            lambda_=wire.real(wire.config_of(message), LAMBDA),
            cap_j=wire.real(wire.config_of(message), CAP),
            seed=number(self.config.seed, round_of(message), self.index, 2),
        )

    def feedback(self) -> ErrorFeedback | None:
        """Return the error feedback with the residual that the node's state holds; None if the run has none."""
        if not self.config.error_feedback or self.config.rule == "dense":
            return None
        feedback = ErrorFeedback()
        if RESIDUAL in self.context.state:
            residual = wire.to_state(self.context.state.array_records[RESIDUAL])
            feedback.load_state_dict({"momentum": 0.0, "masking": False, "residual": residual, "velocity": {}})
        return feedback

    def remember(self, feedback: ErrorFeedback | None) -> None:
        """Put the residual into the node's state."""
        if feedback is not None:
            self.context.state[RESIDUAL] = wire.to_record(feedback.state_dict()["residual"])


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
        bytes_down = wire.message_bytes(message)
        base, received = receive(message, context, parameter_shapes(client.setup.model))
        whole = message.content.array_records.get(wire.ARRAYS)
        arrays = wire.to_record(base) if whole is None else whole
        message.content = RecordDict({wire.ARRAYS: arrays, wire.CONFIG: wire.config_of(message)})
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        return _compress(client, message, reply, base, received, bytes_down)


def receive(message: Message, context: Context, shapes: Mapping[str, tuple[int, ...]]) -> tuple[State, dict[str, int]]:
    """Return the model that the server sent, and how many entries of each tensor came if it came sparse.

    Args:
        message: Message from the server.
        context: The node's context; keeps the model if the server will send changes to it.
        shapes: Shapes of the trainable parameters, in order.

    Raises:
        FederatedError: If it came as changes to a model that this node does not have.
    """
    content = message.content
    received: dict[str, int] = {}
    if wire.ARRAYS in content.array_records:
        state = wire.to_state(content.array_records[wire.ARRAYS])
    else:
        state, received = _apply_changes(message, context, shapes)
    version = wire.whole(wire.config_of(message), VERSION)
    if version is not None:
        context.state[MODEL] = wire.to_record(state)
        context.state[VERSION] = MetricRecord({"version": version})
    return state, received


def _apply_changes(
    message: Message, context: Context, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[State, dict[str, int]]:
    wanted = wire.whole(wire.config_of(message), BASE)
    held = wire.whole(context.state.metric_records.get(VERSION, MetricRecord()), "version")
    if MODEL not in context.state.array_records or held != wanted or wire.UPDATE not in message.content.array_records:
        raise FederatedError(f"this node holds model version {held}, not {wanted}; the server will send it whole")
    state = wire.to_state(context.state.array_records[MODEL])
    received: dict[str, int] = {}
    parameters = {name: state[name] for name in shapes}
    for key, array in message.content.array_records[wire.UPDATE].items():
        if key == wire.BUFFERS:
            buffers = {name: tuple(t.shape) for name, t in state.items() if name not in shapes}
            for name, value in wire.buffers_from_bytes(array.data, buffers).items():
                state[name].copy_(value)
        else:
            update = SparseUpdate.from_bytes(array.data, parameters)
            update.apply_to(parameters)
            for name, kept in update.kept.items():
                received[name] = received.get(name, 0) + kept
    return state, received


def _compress(
    client: Client, message: Message, reply: Message, base: State, received: dict[str, int], bytes_down: int
) -> Message:
    shapes = parameter_shapes(client.setup.model)
    trained = wire.to_state(reply.content.array_records[wire.ARRAYS])
    if trained.keys() != base.keys():
        raise FederatedError("the train function returned other arrays than it received; return every array it got")
    metrics = next(iter(reply.content.metric_records.values()))
    changes = {name: trained[name] - base[name] for name in shapes}
    if wire.KEPT in reply.content.array_records:
        update, feedback = _sparse_step_update(client, reply.content.array_records[wire.KEPT], changes)
        update = replace(update, lambda_=wire.real(metrics, "lambda") or 0.0)
    else:
        feedback = client.feedback()
        update = client.select(changes, feedback, message, local_steps=1)
    client.remember(feedback)
    payload = update.to_bytes()
    arrays = OrderedDict({wire.PAYLOAD: wire.opaque(payload)})
    buffers = {name: tensor for name, tensor in trained.items() if name not in shapes}
    if buffers:
        arrays[wire.BUFFERS] = wire.opaque(wire.buffers_to_bytes(buffers))
    examples = wire.whole(metrics, wire.NUM_EXAMPLES)
    if examples is None:
        raise FederatedError(
            f"the train function returned no {wire.NUM_EXAMPLES}; put it into the reply's MetricRecord"
        )
    steps = wire.whole(metrics, "steps", 1) or 1
    images = wire.whole(metrics, "images", examples) or examples
    out = Message(RecordDict({wire.UPDATE: ArrayRecord(arrays)}), reply_to=message)
    report = wire.Report(
        num_examples=examples,
        loss=wire.real(metrics, "loss") or 0.0,
        profile=client.energy.profile.name,
        provenance=client.energy.provenance,
        numbers=dict.fromkeys(wire.LEDGER_FIELDS, 0.0),
    )
    out.content.update(wire.report_records(report))
    work = Work(
        kept=update.kept,
        lines=client.energy.lines(update),
        payload_bytes=len(payload),
        bytes_up=wire.message_bytes(out),
        bytes_down=bytes_down,
        steps=steps,
        images=images,
        received=received,
    )
    report.numbers.update(_numbers(client, work, steps, update.lambda_))
    out.content.update(wire.report_records(report))
    return out


def _numbers(client: Client, work: Work, steps: int, lambda_: float) -> dict[str, float]:
    joules = client.energy.report(work)
    dense_j = client.energy.marginal(steps).dense_j()
    budget_j = None if client.config.rule == "dense" else client.budget.joules(dense_j)
    return {
        **joules,
        "client": client.index,
        "lambda": lambda_ if math.isfinite(lambda_) else -1.0,
        "budget": -1.0 if budget_j is None else budget_j,
        "payload_bytes": work.payload_bytes,
        "bytes_up": work.bytes_up,
        "bytes_down": work.bytes_down,
        "kept": sum(work.kept.values()),
        "entries": sum(client.energy.costs.numel(name) for name in client.energy.costs.names()),
    }


def _sparse_step_update(
    client: Client, record: ArrayRecord, changes: Mapping[str, Tensor]
) -> tuple[SparseUpdate, ErrorFeedback | None]:
    """Return the update of a sparse step: entries chosen before training, with the changes that training then made.

    What is not sent stays in the residual as the estimate that the choice was made from: training never wrote it.
    """
    chosen = wire.to_state(record)
    indices = {name: chosen[f"index/{name}"] for name in changes}
    merged: dict[str, Tensor] = {}
    for name, change in changes.items():
        flat = chosen[f"estimate/{name}"].view(-1)
        flat[indices[name]] = change.reshape(-1)[indices[name]]
        merged[name] = flat.view(change.shape)
    feedback = client.feedback()
    corrected: Mapping[str, Tensor] = merged if feedback is None else feedback.add(merged)
    update = SparseUpdate(
        indices=indices,
        values={name: corrected[name].reshape(-1)[index] for name, index in indices.items()},
        shapes={name: tuple(change.shape) for name, change in changes.items()},
        value_formats=dict.fromkeys(changes, "float32"),
        rule=client.config.rule,
    ).quantized(VALUE_FORMATS[client.config.value_bits])
    if feedback is not None:
        feedback.sent(update)
    return update, feedback


def round_of(message: Message) -> int:
    """Return the round that a train message belongs to; 0 if the server does not say."""
    return wire.whole(wire.config_of(message), ROUND) or 0
