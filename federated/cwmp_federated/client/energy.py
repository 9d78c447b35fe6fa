"""What a client's round costs by its device profile: the budget's currency, and the entries of the ledger.

Budgets are about what selection can change: writing and sending the kept entries. What is paid whatever is selected (passes, operator
calls, promotion and tail of the radio, the payload's header and the message's envelope) stands beside it in the ledger and is in no
budget on updates; `--total-budget` is about all of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

import torch
from torch import nn

from cwmp_costmodels.costs.interval import UPDATES, Error, relative_error
from cwmp_costmodels.costs.layers import LayerCosts, layer_costs
from cwmp_costmodels.costs.scenario import Scenario
from cwmp_costmodels.costs.tiers import TensorCosts
from cwmp_costmodels.profile.factors import added
from cwmp_costmodels.profile.files import load_profile
from cwmp_costmodels.profile.prices import Prices, Static
from cwmp_costmodels.profile.validity import validity_remark
from cwmp_costmodels.radio import Planned, Radio, load_radio, payload_bits, schedule_energy
from cwmp_federated.client.passes import Pass, count_pass
from cwmp_federated.records.config import RunConfig
from cwmp_federated.records.intervals import Sure
from cwmp_federated.wire.state import parameter_shapes
from cwmp_profiler.counts import Counts, Optimizer, add, scale, stream
from cwmp_profiler.provenance import Provenance
from cwmp_selector.update import SparseUpdate, lines_touched

TYPICAL_DENSITY = 0.01
"""Share of a tensor's entries that written and received updates are taken to hold where their prices are asked for before any is known."""

UNSURE = "what update curves err by is not in the profile and so not in the intervals; fit its measurements again"

PRICE_NOT_WORK = (
    "after dense local steps the joules of writing the kept entries are a price and no work: no client writes them; "
    "a sparse step, the default, charges what is written"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a client did in a round, as far as it costs joules.

    Attributes:
        kept: Entries sent by parameter name.
        lines: Memory lines that the written entries lie in (those sent, where `moved` is None), by parameter name.
        moved: Entries that the steps of a sparse step wrote, by parameter name; None for those sent.
        payload_bytes: Bytes of the encoded update.
        bytes_up: Bytes of the message to the server.
        bytes_down: Bytes of the message from the server.
        steps: Local optimiser steps.
        images: Images trained on, counted once per epoch.
        written: Entries of the model that receiving it wrote, by parameter name, where it came sparse; absent names came whole.
        written_lines: Memory lines that they lie in.
        sparse_step: Whether the local optimiser wrote only the kept entries, which were chosen before training.
        left_out: Parameters without a weight gradient in every step but the first.
        joined: Whether the download shared the burst of this client's last upload.
    """

    kept: Mapping[str, int]
    lines: Mapping[str, int]
    payload_bytes: int
    bytes_up: int
    bytes_down: int
    steps: int
    images: int
    written: Mapping[str, int] = field(default_factory=dict)
    written_lines: Mapping[str, int] = field(default_factory=dict)
    sparse_step: bool = False
    left_out: frozenset[str] = frozenset()
    joined: bool = False
    moved: Mapping[str, int] | None = None


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


@dataclass(frozen=True, slots=True)
class Sending:
    """Joules of sending alone, of entries that were written already or never will be here: bits, and nothing else.

    Attributes:
        bit_j: Joules of a bit, above 0.
        frame_bits: Bits of a payload that holds nothing: in no budget.
    """

    bit_j: float
    frame_bits: float

    def joules(self, payload_bytes: int) -> float:
        """Return the joules of a payload without its frame."""
        return max(8.0 * payload_bytes - self.frame_bits, 0.0) * self.bit_j

    def bits(self, joules: float) -> float:
        """Return the bits that a payload may have for so many joules."""
        return joules / self.bit_j + self.frame_bits


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
        self._config, self._model, self._images = config, model, images
        self._costs_of_steps: dict[int, LayerCosts] = {}
        self._marginal_of_steps: dict[int, MarginalCosts] = {}
        self._writing_of_steps: dict[int, MarginalCosts] = {}
        self._gradient_j: dict[str, float] = {}
        self._frame_bits = empty_update(parameter_shapes(model)).payload_bits
        self.costs = self.layer_costs(int(config.chooses_first))
        plain = Scenario(residency=self.costs.scenario.residency)
        self._receiving = layer_costs(self.profile, model, plain, static=self.costs.static)
        self.provenance: Provenance = self.costs.provenance
        self._prices = Prices(self.profile, self.costs.static)
        self._passes: dict[frozenset[str], Pass] = {}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was derived or left out of the joules."""
        own = () if self._config.chooses_first else (PRICE_NOT_WORK,)
        # Training takes torch's threads, whatever measuring would take here.
        validity = validity_remark(self.profile, threads=torch.get_num_threads())
        priced = (remark for remark in self.costs.remarks if remark != self.costs.validity)
        unsure = (UNSURE,) if UPDATES in self._error.lacks and self._error.holds else ()
        return tuple(dict.fromkeys((*priced, *self._prices.remarks, *own, *unsure, *filter(None, [validity]))))

    def layer_costs(self, local_steps: int) -> LayerCosts:
        """Return the layer costs of an update that is written in `local_steps` steps of the local optimiser.

        0 steps: the entries are chosen after training, and priced as written once, plainly.
        """
        if local_steps not in self._costs_of_steps:
            static: Static | None = None
            if self._config.static:
                static = "attributed" if self._config.static == "attributed" else "excluded"
            scenario = Scenario(
                radio=self.radio,
                optimizer=cast("Optimizer", self._config.optimizer) if local_steps else "sgd",
                local_steps=max(local_steps, 1),
                value_bits=self._config.value_bits,
                index_code="rice",
                residency="tensor" if self._config.residency == "tensor" else "step",
            )
            self._costs_of_steps[local_steps] = layer_costs(self.profile, self._model, scenario, static=static)
        return self._costs_of_steps[local_steps]

    def lines(self, indices: Mapping[str, torch.Tensor]) -> dict[str, int]:
        """Return the memory lines that some entries lie in, by parameter name, given their flat positions."""
        layers = self.costs.layers
        return {name: lines_touched(index, layers[name].line_entries) for name, index in indices.items()}

    def marginal(self, local_steps: int) -> MarginalCosts:
        """Return the same without fixed parts: what the selector gets."""
        if local_steps not in self._marginal_of_steps:
            self._marginal_of_steps[local_steps] = MarginalCosts(self.layer_costs(local_steps), self._frame_bits)
        return self._marginal_of_steps[local_steps]

    def writing(self, local_steps: int) -> MarginalCosts:
        """Return the same for writing alone, in `local_steps` steps."""
        if local_steps not in self._writing_of_steps:
            scenario = replace(self.layer_costs(local_steps).scenario, radio=None)
            costs = layer_costs(self.profile, self._model, scenario, static=self.costs.static)
            self._writing_of_steps[local_steps] = MarginalCosts(costs, self._frame_bits)
        return self._writing_of_steps[local_steps]

    def sending(self) -> Sending | None:
        """Return what sending alone costs; None where it costs nothing."""
        bit_j = 0.0 if self.radio is None else self.radio.marginal_j_per_bit("up")
        return Sending(bit_j, self._frame_bits) if bit_j else None

    def lines_at_most(self, name: str, entries: int) -> int:
        """Return the most memory lines that so many entries of a tensor can lie in."""
        layer = self.costs.layers[name]
        return min(entries, -(-layer.tensor.numel // layer.line_entries))

    def gradient_j(self, name: str) -> float:
        """Return the joules that one local step of a whole batch spends on a tensor's weight gradient: a pass with it less one without."""
        if name not in self._gradient_j:
            self._gradient_j[name] = max(self.step_j() - self.step_j(frozenset({name})), 0.0)
        return self._gradient_j[name]

    def step_j(self, left_out: frozenset[str] = frozenset()) -> float:
        """Return the joules of one forward and backward pass of a whole batch, without some tensors' weight gradients."""
        counts = self.pass_counts(1, float(self._config.batch_size), left_out)
        return math.fsum(self._prices.joules(counts).values())

    def sure(self) -> Sure | None:
        """Return what this profile's joules may be over what it says, by the mix of work of a short round; None if unknown.

        The round is one dense local step, an update of a hundredth of the entries written, and one received. The radio's joules are taken to
        err as the device's: what is known of a radio's error is not in its settings.
        """
        relative, holds, _ = self._error
        if not holds:
            return None
        slope = 1.0 if self.profile.meter.slope is None else self.profile.meter.slope.value
        return Sure(max(slope * (1 - relative), 0.0), slope * (1 + relative), holds)

    @cached_property
    def _error(self) -> Error:
        counts = self.pass_counts(1, float(self._config.batch_size), frozenset())
        for layer in self.costs.layers.values():
            counts = add(counts, layer.dense_step_counts(cast("Optimizer", self._config.optimizer)))
        prices = {count: self._prices.price(count) for count, amount in counts.items() if amount}
        sources = {
            count: (counts[count] * price.dynamic_j, counts[count] * price.static_j) for count, price in prices.items()
        }
        corrections = []
        for layer in (*self.costs.layers.values(), *self._receiving.layers.values()):
            kept = max(layer.tensor.numel * TYPICAL_DENSITY, 1.0)
            for count, (dynamic_j, static_j) in layer.device_sources_j(kept).items():
                before = sources.get(count, (0.0, 0.0))
                sources[count] = (before[0] + dynamic_j, before[1] + static_j)
            corrections.append(layer.corrections_j(kept))
        return relative_error(self.profile, sources, added(corrections))

    def report(self, work: Work) -> dict[str, float]:
        """Return the joules of a client's round by cause, their `total`, and `update`: the part that budgets on updates are about.

        Args:
            work: What the client did.

        Raises:
            ProfileError: If the profile lacks a coefficient that the work needs.
        """
        written_in = work.steps if work.sparse_step else 0
        costs = self.layer_costs(written_in)
        if work.moved is None:
            update, fixed_j = self.marginal(written_in).split_j(
                work.kept, lines=work.lines, payload_bits=8.0 * work.payload_bytes
            )
        else:
            update, fixed_j = self.writing(work.steps).split_j(work.moved, lines=work.lines, payload_bits=0.0)
            sending = self.sending()
            if sending is not None:
                update["uplink"] = sending.joules(work.payload_bytes)
                fixed_j += costs.burst_j() if any(work.kept.values()) else 0.0
        launches_j = fixed_j - (costs.burst_j() if any(work.kept.values()) else 0.0)
        training = self._prices.joules(self._training_counts(work))
        received = self._received_j(work)
        up_j, down_j, radio_fixed_j = self._radio_joules(work)
        causes = {
            "memory": update["memory"] + training["memory"] + received["memory"],
            "compute": update["compute"] + training["compute"] + received["compute"],
            "uplink": update["uplink"],
            "downlink": down_j,
            "fixed": math.fsum(
                (
                    max(launches_j, 0.0),
                    training["launch"],
                    received["fixed"],
                    max(up_j - update["uplink"], 0.0),
                    radio_fixed_j,
                )
            ),
        }
        return {**causes, "update": math.fsum(update.values()), "total": math.fsum(causes.values())}

    def download_j(self, bytes_down: int) -> float:
        """Return the joules of receiving a message in a burst of its own."""
        if self.radio is None:
            return 0.0
        transfers = schedule_energy(self.radio, [Planned(bits=8.0 * bytes_down, direction="down")])
        return transfers.down_j + transfers.fixed_j

    def _training_counts(self, work: Work) -> Counts:
        """Passes, the local optimiser's dense steps, writing the model that was received, and choosing what to send."""
        counts: Counts = {}
        later = work.steps - 1
        for steps, left_out in ((1, frozenset[str]()), (later, work.left_out)):
            if steps:
                counts = add(counts, self.pass_counts(steps, work.images * steps / work.steps, left_out))
        optimizer = cast("Optimizer", self._config.optimizer)
        for name, layer in self.costs.layers.items():
            size, width = layer.tensor.numel, layer.tensor.entry_bytes
            shares = layer.shares or {layer.level: 1.0}
            touched = min(work.lines.get(name, 0) * layer.line_entries, size) / size
            read, written = self._choice_streams(touched, sparse_step=work.sparse_step)
            if name not in work.written:
                written += 1
            for level, share in shares.items():
                part = size * width * share
                counts = add(counts, stream(level, read_bytes=read * part, written_bytes=written * part))
            if not work.sparse_step:
                counts = add(counts, scale(layer.dense_step_counts(optimizer), work.steps))
        return counts

    def _choice_streams(self, touched: float, *, sparse_step: bool) -> tuple[float, float]:
        """Return how often choosing what to send reads and writes the whole of a tensor.

        The search reads the candidates once; error feedback reads and writes the residual. After dense local steps the change is
        the difference to the model that was received, which had to be kept: written, and read with the trained one. Where sending
        is free all that was written is sent, so the residual is rounding, and read and written at those lines alone: a share
        `touched` of the tensor.
        """
        if self._config.keeps_all:
            return 0.0, 0.0
        if sparse_step and self.sending() is None:
            return (1.0 + touched, touched) if self._config.error_feedback else (1.0, 0.0)
        read, written = (2.0, 1.0) if self._config.error_feedback else (1.0, 0.0)
        return (read, written) if sparse_step else (read + 2.0, written + 1.0)

    def pass_counts(self, steps: int, images: float, left_out: frozenset[str]) -> Counts:
        """Return the counts of some steps' forward and backward passes.

        Parameters and their gradients live where the layer costs say; an operator's activations in the nearest level that holds
        all that the operator touches.

        Args:
            steps: Steps.
            images: Images of all these steps.
            left_out: Parameters without a weight gradient.
        """
        if left_out not in self._passes:
            self._passes[left_out] = count_pass(self._model, self._images, left_out)
        found, batch, device = self._passes[left_out], images / steps, self.profile.device.info()
        counts: Counts = {"flop_float32": found.flops_per_image * batch, "launch": float(len(found.operations))}
        for operation in found.operations:
            read, written = operation.read_bytes * batch, operation.written_bytes * batch
            fixed = sum(operation.parameters.values()) + sum(operation.gradients.values())
            level = device.level_of(read + written + fixed)
            counts = add(counts, stream(level, read_bytes=read, written_bytes=written, launches=0.0))
            for name in {**operation.parameters, **operation.gradients}:
                layer = self.costs.layers.get(name)
                if layer is None:
                    continue
                read_bytes, written_bytes = operation.parameters.get(name, 0), operation.gradients.get(name, 0)
                for place, share in (layer.shares or {layer.level: 1.0}).items():
                    part = stream(
                        place, read_bytes=read_bytes * share, written_bytes=written_bytes * share, launches=0.0
                    )
                    counts = add(counts, part)
        return scale(counts, steps)

    def received_entry_j(self, name: str) -> float:
        """Return the joules of receiving and writing one entry of a sparse model, at the density of a hundredth."""
        size, density = self._receiving.numel(name), TYPICAL_DENSITY
        down = 0.0 if self.radio is None else self.radio.marginal_j_per_bit("down")
        kept = max(size * density, 1.0)
        bits = payload_bits(size, kept, self._config.value_bits, "rice") / kept
        return self._receiving.entry_j(name, density) + bits * down

    def _received_j(self, work: Work) -> dict[str, float]:
        """Return the joules by cause of writing the entries of a model that came sparse: a plain addition where it changed."""
        written = {name: count for name, count in work.written.items() if count}
        return self._receiving.parts_j(written, lines=work.written_lines)

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
        fixed_j = transfers.fixed_j
        if work.joined:
            # The last upload's round paid a whole tail, and this download found the radio awake.
            fixed_j = max(fixed_j - self.radio.promotion_j() - self.radio.tail_j(), 0.0)
        return transfers.up_j, transfers.down_j, fixed_j

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
