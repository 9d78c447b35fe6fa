"""What a client's round costs by its device profile: the budget's currency, and the entries of the ledger.

Budgets are about what selection can change: writing and sending the kept entries. Fixed joules (operator calls, promotion and
tail of the radio, the payload's header and the message's envelope) are paid whatever is selected; they stand beside it in the ledger and are in no budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cwmp_costmodels.costs.layers import LayerCosts, layer_costs
from cwmp_costmodels.costs.scenario import Scenario
from cwmp_costmodels.costs.tiers import TensorCosts
from cwmp_costmodels.profile.files import load_profile
from cwmp_costmodels.profile.prices import Prices, Static
from cwmp_costmodels.radio import Planned, Radio, load_radio, schedule_energy
from cwmp_federated.client.learning import parameter_shapes
from cwmp_federated.records.config import RunConfig
from cwmp_profiler.counts import Counts, Optimizer, add, scale, stream
from cwmp_profiler.provenance import Provenance
from cwmp_selector.update import SparseUpdate, lines_touched


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a client did in a round, as far as it costs joules.

    Attributes:
        kept: Entries sent by parameter name.
        lines: Memory lines that they lie in, by parameter name.
        payload_bytes: Bytes of the encoded update.
        bytes_up: Bytes of the message to the server.
        bytes_down: Bytes of the message from the server.
        steps: Local optimiser steps.
        images: Images trained on, counted once per epoch.
        received: Entries received by parameter name, where the model came sparse; absent names came whole.
    """

    kept: Mapping[str, int]
    lines: Mapping[str, int]
    payload_bytes: int
    bytes_up: int
    bytes_down: int
    steps: int
    images: int
    received: Mapping[str, int] = field(default_factory=dict)


class MarginalCosts:
    """Layer costs without their fixed parts: what a budget is spent on. Has the selector's `ItemisedCosts` interface."""

    def __init__(self, costs: LayerCosts, frame_bits: float) -> None:
        """See the class.

        Args:
            costs: Costs with all their parts.
            frame_bits: Bits of a payload that holds nothing: its header, which is in no budget.
        """
        self._costs, self._frame_bits = costs, frame_bits
        self._dense_j: float | None = None

    @property
    def bit_j(self) -> float:
        """Joules of a bit of the payload."""
        return self._costs.bit_j

    @property
    def payload_j(self) -> float:
        """0: fixed parts are in no budget."""
        return 0.0

    def names(self) -> tuple[str, ...]:
        """Return the parameter names."""
        return self._costs.names()

    def numel(self, name: str) -> int:
        """Return the number of entries of a tensor."""
        return self._costs.numel(name)

    def tensor_costs(self, name: str) -> TensorCosts:
        """Return the joules by entry and line, with no operator calls."""
        whole = self._costs.layers[name].tiers.whole
        return self._costs.tensor_costs(name)._replace(tensor_j=0.0, dense_j=whole["memory"] + whole["compute"])

    def parts_j(self, kept: Mapping[str, int], *, lines: Mapping[str, int], payload_bits: float) -> dict[str, float]:
        """Return the joules by cause, `fixed` being 0; of `payload_bits`, the header's are left out."""
        return self.split_j(kept, lines=lines, payload_bits=payload_bits)[0]

    def split_j(
        self, kept: Mapping[str, int], *, lines: Mapping[str, int], payload_bits: float
    ) -> tuple[dict[str, float], float]:
        """Return what `parts_j` returns, and the fixed joules that are in no budget."""
        bits = max(payload_bits - self._frame_bits, 0.0)
        parts = self._costs.parts_j(kept, lines=lines, payload_bits=bits, fixed=False)
        return {**parts, "fixed": 0.0}, parts["fixed"]

    def dense_j(self) -> float:
        """Return the joules of keeping everything."""
        if self._dense_j is None:
            kept = {name: self.numel(name) for name in self.names()}
            lines = {name: -(-kept[name] // self._costs.layers[name].line_entries) for name in kept}
            bits = sum(kept.values()) * self._costs.scenario.value_bits + self._frame_bits
            self._dense_j = math.fsum(self.parts_j(kept, lines=lines, payload_bits=bits).values())
        return self._dense_j


class ClientEnergy:
    """Prices of one device for one model.

    Attributes:
        provenance: Weakest provenance of profile and radio.
        costs: Full layer costs of one update (of one local step each, for a sparse step).
    """

    def __init__(self, profile_name: str, model: nn.Module, images: torch.Tensor, config: RunConfig) -> None:
        """See the class.

        Args:
            profile_name: Name or path of the profile.
            model: The model; only shapes matter, and one pass counts its operations.
            images: Two images, shape (2, channels, height, width).
            config: The run.

        Raises:
            ProfileError: If the profile lacks what is needed.
            RadioError: If there is no such radio.
        """
        self.profile = load_profile(profile_name)
        self.radio: Radio | None = load_radio(config.radio, profile=self.profile) if config.radio else None
        self._config, self._model = config, model
        self._costs_of_steps: dict[int, LayerCosts] = {}
        self._marginal_of_steps: dict[int, MarginalCosts] = {}
        self._frame_bits = empty_update(parameter_shapes(model)).payload_bits
        self.costs = self.layer_costs(1)
        self.provenance: Provenance = self.costs.provenance
        self._prices = Prices(self.profile, self.costs.static)
        self._flops_per_image = training_flops(model, images) / len(images)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was derived or left out of the joules."""
        return tuple(dict.fromkeys((*self.costs.remarks, *self._prices.remarks)))

    def layer_costs(self, local_steps: int) -> LayerCosts:
        """Return the layer costs of an update that is written in `local_steps` steps of the local optimiser.

        Without `sparse_step` the selection is made after training and written once, plainly.
        """
        steps = local_steps if self._config.sparse_step else 1
        if steps not in self._costs_of_steps:
            static: Static | None = None
            if self._config.static:
                static = "attributed" if self._config.static == "attributed" else "excluded"
            scenario = Scenario(
                radio=self.radio,
                optimizer=self._optimizer(),
                local_steps=steps,
                value_bits=self._config.value_bits,
                index_code="rice",
                residency="tensor" if self._config.residency == "tensor" else "step",
            )
            self._costs_of_steps[steps] = layer_costs(self.profile, self._model, scenario, static=static)
        return self._costs_of_steps[steps]

    def lines(self, update: SparseUpdate) -> dict[str, int]:
        """Return the memory lines that an update's entries lie in, by parameter name."""
        layers = self.costs.layers
        return {name: lines_touched(index, layers[name].line_entries) for name, index in update.indices.items()}

    def marginal(self, local_steps: int) -> MarginalCosts:
        """Return the same without fixed parts: what the selector gets."""
        steps = local_steps if self._config.sparse_step else 1
        if steps not in self._marginal_of_steps:
            self._marginal_of_steps[steps] = MarginalCosts(self.layer_costs(steps), self._frame_bits)
        return self._marginal_of_steps[steps]

    def _optimizer(self) -> Optimizer:
        return cast("Optimizer", self._config.optimizer) if self._config.sparse_step else "sgd"

    def report(self, work: Work) -> dict[str, float]:
        """Return the joules of a client's round by cause, and `update`: the part that budgets are about.

        Args:
            work: What the client did.

        Raises:
            ProfileError: If the profile lacks a coefficient that the work needs.
        """
        costs = self.layer_costs(work.steps)
        update, fixed_j = self.marginal(work.steps).split_j(
            work.kept, lines=work.lines, payload_bits=8.0 * work.payload_bytes
        )
        launches_j = fixed_j - (costs.burst_j() if any(work.kept.values()) else 0.0)
        training = self._prices.joules(self._training_counts(work))
        up_j, down_j, radio_fixed_j = self._radio_joules(work)
        return {
            "memory": update["memory"] + training["memory"],
            "compute": update["compute"] + training["compute"],
            "uplink": update["uplink"],
            "downlink": down_j,
            "fixed": max(launches_j, 0.0) + training["launch"] + max(up_j - update["uplink"], 0.0) + radio_fixed_j,
            "update": math.fsum(update.values()),
        }

    def _training_counts(self, work: Work) -> Counts:
        """Forward and backward arithmetic, the local optimiser's dense steps, and writing the model that was received.

        Traffic of activations and weights inside forward and backward passes is not counted: it is the same for all rules.
        """
        counts: Counts = {"flop_float32": self._flops_per_image * work.images}
        optimizer = cast("Optimizer", self._config.optimizer)
        for name, layer in self.costs.layers.items():
            size, width = layer.tensor.numel, layer.tensor.entry_bytes
            received = work.received.get(name, size) * width
            for level, share in (layer.shares or {layer.level: 1.0}).items():
                counts = add(counts, stream(level, written_bytes=received * share))
            if not self._config.sparse_step:
                counts = add(counts, scale(layer.dense_step_counts(optimizer), work.steps))
        return counts

    def _radio_joules(self, work: Work) -> tuple[float, float, float]:
        if self.radio is None:
            return 0.0, 0.0, 0.0
        transfers = schedule_energy(
            self.radio,
            [
                Planned(bits=8.0 * work.bytes_down, direction="down", gap_s=self._training_s(work)),
                Planned(bits=8.0 * work.bytes_up, direction="up"),
            ],
        )
        return transfers.up_j, transfers.down_j, transfers.fixed_j

    def _training_s(self, work: Work) -> float | None:
        """Seconds between download and upload by the profile's times; None where it has none: then two bursts are paid."""
        times, counts = self.profile.times, self._training_counts(work)
        if any(amount and name not in times for name, amount in counts.items()):
            return None
        return math.fsum(amount * times[name].value for name, amount in counts.items() if amount)


def empty_update(shapes: Mapping[str, tuple[int, ...]]) -> SparseUpdate:
    """Return an update that keeps nothing."""
    return SparseUpdate(
        indices={name: torch.zeros(0, dtype=torch.int64) for name in shapes},
        values={name: torch.zeros(0) for name in shapes},
        shapes=dict(shapes),
        value_formats=dict.fromkeys(shapes, "float32"),
    )


class _FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up floating-point operations by torch's own formulas.

    torch's `FlopCounterMode` imports torch's compiler, which takes a second or more; a fleet starts a process for every message.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from importing its compiler only to keep it out of here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it if there is a formula for it."""
        del types
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **(kwargs or {}), out_val=out))
        return out


def training_flops(model: nn.Module, images: torch.Tensor) -> int:
    """Return the floating-point operations of a forward and backward pass, by torch's own formulas.

    Matrix products and convolutions are counted; elementwise operations are not. The model is left as it was.
    """
    saved = [buffer.clone() for buffer in model.buffers()]
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    with _FlopCounter() as counter:
        torch.autograd.grad(model(images).sum(), parameters, allow_unused=True)
    for buffer, value in zip(model.buffers(), saved, strict=True):
        buffer.copy_(value)
    return int(counter.flops)
