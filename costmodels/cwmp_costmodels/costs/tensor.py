"""Joules of one parameter tensor as a function of how many of its entries are kept, by cause.

A kept entry of a tensor with n entries, k of them kept, costs

    local_steps x (lines touched, indices and values streamed, arithmetic)  by the scenario's optimiser
  + receivers x (the same for a plain addition)
  + (value bits + position bits) x (uplink J/bit + receivers x downlink J/bit)

divided by k. Operator calls (launches) are paid once per touched tensor, promotion and tail of the radio once per payload;
they stand apart as fixed joules. A tensor that is kept whole takes the dense kernels and sends no positions.

Where the scenario decays densely, a kept entry is scattered into a gradient that is zero elsewhere, and the zeroing and the whole
dense step that follows are paid once per touched tensor.

A table asks what k entries at random places cost. A selection asks for prices that add up: joules by entry, by line really touched,
and by tensor (`Tiers`). What does not add up, where the small temporaries live and which lines are fetched ahead, is taken as it is at
the scenario's density, or where an earlier selection chose (`LayerCosts.near`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from cwmp_costmodels.costs.scenario import Links, Scenario
from cwmp_costmodels.networks.tensors import TensorInfo
from cwmp_costmodels.profile.factors import Corrections, Factor, UpdateFactors, added
from cwmp_costmodels.profile.operators import Part
from cwmp_costmodels.profile.prices import Prices
from cwmp_costmodels.profile.writes import MEMORY, split, together
from cwmp_profiler.counts import (
    INDEX_BYTES,
    SELECT,
    STATE_TENSORS,
    ZERO_GRAD,
    Counts,
    Kernel,
    Optimizer,
    Places,
    add,
    blend,
    dense_update,
    elementwise,
    fused_step,
    random_places,
    scale,
    scattered,
    sparse_update,
)
from cwmp_profiler.workloads.update import AGAIN

CAUSES = ("memory", "compute", "uplink", "downlink", "fixed")
PER_ENTRY = CAUSES[:-1]

TEMPORARY_BYTES = 24
"""Bytes of indices, values and one temporary per kept entry: where they live is decided as the microbenchmark `update` does."""


LEAST = 1e-9
"""Joules of an entry over those of its line at least: free entries could not be weighed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiers:
    """Joules of one tensor that add up, the radio left out.

    Attributes:
        entry: Joules of a kept entry by cause: `memory`, `compute`.
        line_j: Joules of a touched line, parameter and optimiser state, local steps and receivers.
        once_j: Joules of touching the tensor: operator calls.
        whole: Joules of the whole tensor by dense kernels by cause: `memory`, `compute`, `fixed`.
    """

    entry: Mapping[str, float]
    line_j: float
    once_j: float
    whole: Mapping[str, float]

    def parts_j(self, kept: int, lines: int, numel: int, *, fixed: bool = True) -> dict[str, float]:
        """Return the joules by cause of kept entries in so many lines; of a whole tensor the cheaper way.

        Args:
            kept: Entries kept.
            lines: Lines they lie in.
            numel: Entries of the tensor.
            fixed: Whether operator calls count when the cheaper way is chosen.
        """
        if not kept:
            return dict.fromkeys(("memory", "compute", "fixed"), 0.0)
        parts = {
            "memory": kept * self.entry["memory"] + lines * self.line_j,
            "compute": kept * self.entry["compute"],
            "fixed": self.once_j,
        }
        weighed = ("memory", "compute", "fixed") if fixed else ("memory", "compute")
        dearer = sum(self.whole[cause] for cause in weighed) >= sum(parts[cause] for cause in weighed)
        return parts if kept < numel or dearer else dict(self.whole)


class Write(NamedTuple):
    """Something that an update does to a tensor.

    Attributes:
        times: How often.
        factor: Its correction.
        counts: Its counts.
        part: The part of a compiled write that it is; None for a whole update.
    """

    times: int
    factor: Factor
    counts: Counts
    part: Part | None = None


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """Cost of one parameter tensor.

    Attributes:
        tensor: Name, layer type, shape and type.
        level: Memory level where parameter and optimiser state live between local steps.
        receiver_level: The same for the plain addition of a receiver.
        shares: Shares of the working set by level, where it lives at several (see `DeviceInfo.shares_of`); None is all at `level`.
        receiver_shares: The same for a receiver.
        compiled: Whether chosen entries are written by this project's compiled kernels, as the profile measured them (one pass), or
            by torch's indexed ones (gather, compute, scatter).
        receiver_compiled: The same of a receiver's addition, which is priced as a step of SGD.
        parts: Corrections of the compiled kernels part by part, in the place of `factors`; None where the profile has none.
        receiver_parts: The same of a receiver's addition.
        chosen: Entries of the whole update, this tensor's included: where their positions and values lie.
        cold_j: Joules once, where the compiled kernels find the tensor's own bookkeeping and pages no longer in a cache.
        places: Where an earlier selection chose, which `tiers` are then of; None takes random places at the scenario's density.
        factors: Corrections of the local update.
        receiver_factors: Corrections of a receiver's addition.
        gradient_flops: Floating-point operations of the weight gradient per entry and local step; 0 if not asked for.
        prices: Joules per count.
        scenario: What an entry causes.
        links: The radio's joules per bit.
    """

    tensor: TensorInfo
    level: str
    receiver_level: str
    factors: UpdateFactors
    receiver_factors: UpdateFactors
    gradient_flops: float
    prices: Prices
    scenario: Scenario
    links: Links
    shares: Mapping[str, float] | None = None
    receiver_shares: Mapping[str, float] | None = None
    compiled: bool = False
    receiver_compiled: bool = False
    parts: Mapping[Part, Factor] | None = None
    receiver_parts: Mapping[Part, Factor] | None = None
    chosen: float = 0.0
    cold_j: float = 0.0
    places: Places | None = None

    @cached_property
    def line_entries(self) -> int:
        """Entries of a line."""
        return max(self.prices.profile.device.line_bytes // self.tensor.entry_bytes, 1)

    @cached_property
    def tiers(self) -> Tiers:
        """Joules by entry, line and tensor, at the scenario's density or at `places`."""
        n = self.tensor.numel
        wanted = self.places.kept if self.places else max(self.scenario.density * n, 1.0)
        kept = min(wanted, n * (1 - 1e-9), n - 0.5)
        line_j = 0.0
        for writes, touched in zip(self._updates(kept, None), self._touched(kept), strict=True):
            for times, factor, counts, part in writes:
                if part in (None, "line", "streamed", "run"):
                    lines = touched if part is None else counts
                    joules = self.prices.joules(lines, factor=factor.value, time_factor=factor.time_value)
                    line_j += times * joules["memory"] / self.lines(kept)
        parts, whole = self.parts_j(kept), self.parts_j(n)
        memory_j = max((parts["memory"] - line_j * self.lines(kept)) / kept, LEAST * line_j)
        return Tiers(
            entry={"memory": memory_j, "compute": parts["compute"] / kept},
            line_j=line_j,
            once_j=parts["fixed"],
            whole={cause: whole[cause] for cause in ("memory", "compute", "fixed")},
        )

    def lines(self, kept: float) -> float:
        """Return the lines that so many entries lie in: at `places`, else as expected at random places."""
        return self._places(kept).lines

    def _places(self, kept: float) -> Places:
        if self.places is not None and kept == self.places.kept:
            return self.places
        return random_places(
            self.tensor.numel,
            kept,
            entry_bytes=self.tensor.entry_bytes,
            line_bytes=self.prices.profile.device.line_bytes,
        )

    def _touched(self, kept: float) -> list[Counts]:
        """Return the lines touched, of all that `_updates` counts: on this device with optimiser state, and on receivers."""
        device = self.prices.profile.device.info()

        def counts(shares: Mapping[str, float], tensors: int) -> Counts:
            return blend(
                shares,
                lambda level: scale(
                    scattered(
                        self.tensor.numel,
                        kept,
                        level,
                        entry_bytes=self.tensor.entry_bytes,
                        line_bytes=device.line_bytes,
                        processor_caches=device.processor_caches,
                    ),
                    tensors,
                ),
            )

        states = 0 if self._decays_whole else STATE_TENSORS[self.scenario.optimizer]
        own = counts(self.shares or {self.level: 1.0}, 1 + states)
        if not self.scenario.receivers:
            return [own]
        return [own, counts(self.receiver_shares or {self.receiver_level: 1.0}, 1)]

    def parts_j(self, kept: float, *, temporaries_of: float | None = None) -> dict[str, float]:
        """Return the joules by cause (`CAUSES`) of keeping `kept` of the entries.

        Args:
            kept: Entries kept, 0 <= kept <= numel; may be an expectation.
            temporaries_of: Entries that decide where the step's small temporaries live; None takes `kept`.
        """
        parts = dict.fromkeys(CAUSES, 0.0)
        if kept == 0:
            return parts
        for times, factor, counts, _ in self._writes(kept, temporaries_of):
            joules = self.prices.joules(counts, factor=factor.value, time_factor=factor.time_value)
            for cause, part in (("memory", "memory"), ("compute", "compute"), ("fixed", "launch")):
                parts[cause] += times * joules[part]
        if self._by_loops(kept):
            parts["fixed"] += self.cold_j
        if self._decays_whole and kept < self.tensor.numel:
            parts["fixed"] += self._whole_step_j()
        if self.gradient_flops:
            flops = self.gradient_flops * kept * self.scenario.local_steps
            parts["compute"] += flops * self.prices.price(f"flop_{self.tensor.dtype}").joules()
        parts["uplink"], parts["downlink"] = self._air_j(self.bits(kept))
        return parts

    def dense_from(self) -> float | None:
        """Return the density from which a dense write of the whole tensor, zeros included, takes fewer joules than the scatter.

        None if the scatter is cheaper at every density. The radio, which sends the chosen entries either way, is left out.
        """
        whole_j = sum(self.parts_j(self.tensor.numel)[cause] for cause in ("memory", "compute", "fixed"))

        def dearer(kept: float) -> bool:
            parts = self.parts_j(kept)
            return parts["memory"] + parts["compute"] + parts["fixed"] > whole_j

        low, high = 0.0, self.tensor.numel * (1 - 1e-9)
        if self.tensor.numel < 2 or not dearer(high):
            return None
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if dearer(middle) else (middle, high)
        return high / self.tensor.numel

    def _by_loops(self, kept: float) -> bool:
        """Return whether the compiled loops write so many entries on this device; else torch's dense or indexed kernels do."""
        return self.compiled and kept < self.tensor.numel

    @property
    def _decays_whole(self) -> bool:
        return self.scenario.state_decay == "dense" and self.scenario.decays

    def _whole_step_j(self) -> float:
        """Return the joules of zeroing a gradient and stepping densely, all local steps."""
        factor = self.factors.at("dense", 1.0)
        joules = self.prices.joules(self._whole_step_counts(), factor=factor.value, time_factor=factor.time_value)
        return self.scenario.local_steps * sum(joules.values())

    def _whole_step_counts(self) -> Counts:
        shares, caches = self.shares or {self.level: 1.0}, self.prices.profile.device.info().processor_caches
        size, width = self.tensor.numel, self.tensor.entry_bytes
        zero = blend(shares, lambda level: elementwise(size, level, ZERO_GRAD[:1], width, processor_caches=caches))
        decay = self.scenario.weight_decay
        return add(zero, self._counts(size, shares, self.scenario.optimizer, None, weight_decay=decay))

    def always_j(self) -> dict[str, float]:
        """Return the joules that are spent whatever is kept: `select` once, `zero_grad` in every local step.

        Selecting is counted as one read and one comparison of every gradient entry, the least that any rule does.
        """
        caches = self.prices.profile.device.info().processor_caches

        def joules(kernels: tuple[Kernel, ...]) -> float:
            counts = blend(
                self.shares or {self.level: 1.0},
                lambda level: elementwise(
                    self.tensor.numel, level, kernels, self.tensor.entry_bytes, processor_caches=caches
                ),
            )
            return sum(self.prices.joules(counts).values())

        zeroing = self.scenario.local_steps * joules(ZERO_GRAD) if self.scenario.zero_grad else 0.0
        return {"select": joules((SELECT,)), "zero_grad": zeroing}

    def bits(self, kept: float) -> float:
        """Return the modelled payload bits, values and positions."""
        if self.links.radio is None:
            return 0.0
        from cwmp_costmodels.radio import payload_bits

        code = "dense" if kept == self.tensor.numel else self.scenario.index_code
        return payload_bits(self.tensor.numel, kept, self.scenario.value_bits, code)

    def mask_bits(self, kept: float) -> float:
        """Return the position bits that are paid once, however many entries are kept (a bitmask)."""
        if self.scenario.index_code != "bitmask" or kept in (0, self.tensor.numel):
            return 0.0
        return max(self.bits(kept) - kept * self.scenario.value_bits, 0.0)

    def fixed_j(self) -> float:
        """Return the joules paid once if anything of the tensor, but not all, is kept: operator calls and a bitmask."""
        kept = min(1.0, self.tensor.numel / 2)
        up, down = self._air_j(self.mask_bits(kept))
        return self.parts_j(kept)["fixed"] + up + down

    def entry_parts_j(self, kept: float, *, temporaries_of: float | None = None) -> dict[str, float]:
        """Return the joules per kept entry by cause, without what is paid once."""
        parts = self.parts_j(kept, temporaries_of=temporaries_of)
        parts["uplink"], parts["downlink"] = self._air_j(self.bits(kept) - self.mask_bits(kept))
        return {cause: parts[cause] / kept for cause in PER_ENTRY}

    def entry_j(self, kept: float, *, temporaries_of: float | None = None) -> float:
        """Return the mean joules per kept entry, without what is paid once."""
        return sum(self.entry_parts_j(kept, temporaries_of=temporaries_of).values())

    def sources_j(self, kept: float) -> dict[str, float]:
        """Return the joules per kept entry by coefficient (see `Prices.origin`), `uplink` and `downlink`."""
        sources: dict[str, float] = {}
        for times, factor, counts, _ in self._writes(kept, None):
            for count, amount in counts.items():
                if count != "launch" and amount:
                    origin = self.prices.origin(count)
                    price = self.prices.price(count).joules(factor.value, factor.time_value)
                    joules = times * amount * price / kept
                    sources[origin] = sources.get(origin, 0.0) + joules
        if self.gradient_flops:
            origin = f"flop_{self.tensor.dtype}"
            sources[origin] = self.gradient_flops * self.scenario.local_steps * self.prices.price(origin).joules()
        parts = self.entry_parts_j(kept)
        return sources | {cause: parts[cause] for cause in ("uplink", "downlink") if parts[cause]}

    def device_sources_j(self, kept: float) -> dict[str, tuple[float, float]]:
        """Return (dynamic, static) joules of the device by count, operator calls and what is paid once included."""
        found: dict[str, tuple[float, float]] = {}

        def add_to(times: float, factor: Factor, counts: Counts) -> None:
            for count, amount in counts.items():
                price = self.prices.price(count)
                dynamic_j, static_j = found.get(count, (0.0, 0.0))
                found[count] = (
                    dynamic_j + times * amount * factor.value * price.dynamic_j,
                    static_j + times * amount * factor.time_value * price.static_j,
                )

        for times, factor, counts in self._corrected(kept):
            add_to(times, factor, counts)
        if self.gradient_flops:
            flops = {f"flop_{self.tensor.dtype}": self.gradient_flops * kept}
            add_to(self.scenario.local_steps, Factor(1.0, 1.0, None), flops)
        return found

    def corrections_j(self, kept: float) -> Corrections:
        """Return the device's joules that corrections of updates price, with what these err by."""

        def one(times: float, factor: Factor, counts: Counts) -> Corrections:
            prices = {count: self.prices.price(count) for count, amount in counts.items() if amount}
            return factor.corrected(
                sum(times * counts[count] * factor.value * price.dynamic_j for count, price in prices.items()),
                sum(times * counts[count] * factor.time_value * price.static_j for count, price in prices.items()),
            )

        return added(one(times, factor, counts) for times, factor, counts in self._corrected(kept))

    def _corrected(self, kept: float) -> list[tuple[int, Factor, Counts]]:
        """Return all that is done to entries of the tensor on the device: how often, its correction, its counts."""
        found = [(times, factor, counts) for times, factor, counts, _ in self._writes(kept, None)]
        if self._decays_whole and kept < self.tensor.numel:
            found.append((self.scenario.local_steps, self.factors.at("dense", 1.0), self._whole_step_counts()))
        return found

    def _air_j(self, bits: float) -> tuple[float, float]:
        return bits * self.links.up_j_per_bit, bits * self.links.down_j_per_bit * self.scenario.receivers

    def _writes(self, kept: float, temporaries_of: float | None) -> list[Write]:
        return [write for update in self._updates(kept, temporaries_of) for write in update]

    def _updates(self, kept: float, temporaries_of: float | None) -> list[list[Write]]:
        """Return what the step on this device does, and, if there are receivers, what their additions do."""
        scenario = self.scenario
        whole = kept == self.tensor.numel
        compiled = self._by_loops(kept)
        mode = "dense" if whole else "sparse"
        density = max(kept, 1.0) / self.tensor.numel
        scattered_only = self._decays_whole and not whole
        optimizer = "sgd" if scattered_only else scenario.optimizer
        decay = scenario.weight_decay and not scattered_only
        own = self._counts(
            kept,
            self.shares or {self.level: 1.0},
            optimizer,
            temporaries_of,
            compiled=compiled,
            weight_decay=decay,
        )
        parts = self.parts if compiled else None
        updates = [self._split(scenario.local_steps, self.factors.at(mode, density), own, parts, kept)]
        if scenario.receivers:
            shares = self.receiver_shares or {self.receiver_level: 1.0}
            compiled = self.receiver_compiled and not whole
            theirs = self._counts(kept, shares, "sgd", temporaries_of, compiled=compiled)
            parts = self.receiver_parts if compiled else None
            updates.append(
                self._split(scenario.receivers, self.receiver_factors.at(mode, density), theirs, parts, kept)
            )
        return updates

    def _split(
        self, times: int, factor: Factor, counts: Counts, parts: Mapping[Part, Factor] | None, kept: float
    ) -> list[Write]:
        if parts is None:
            return [Write(times, factor, counts)]
        line_bytes = self.prices.profile.device.line_bytes
        by_part = split(counts, self._places(kept), line_entries=self.line_entries, line_bytes=line_bytes)

        def static_j(part: Part) -> float:
            joules = sum(self.prices.price(name).static_j * amount for name, amount in by_part[part].items())
            return parts[part].time_value * joules

        work, memory = static_j("work"), sum(static_j(part) for part in MEMORY)
        share = float(together(work, memory)) / (work + memory) if work + memory else 1.0
        shares = dict.fromkeys(("work", *MEMORY), share)
        return [
            Write(times, replace(parts[part], time_value=parts[part].time_value * shares.get(part, 1.0)), own, part)
            for part, own in by_part.items()
        ]

    def dense_step_counts(self, optimizer: Optimizer) -> Counts:
        """Return what one dense step of an optimiser on this tensor does: operator calls, bytes and operations by name."""
        return self._counts(self.tensor.numel, self.shares or {self.level: 1.0}, optimizer, None)

    def _counts(
        self,
        kept: float,
        shares: Mapping[str, float],
        optimizer: Optimizer,
        temporaries_of: float | None,
        *,
        compiled: bool = False,
        weight_decay: bool = False,
    ) -> Counts:
        tensor, device = self.tensor, self.prices.profile.device.info()
        caches = device.processor_caches
        if kept == tensor.numel:
            return blend(
                shares,
                lambda level: blend(
                    device.shares_of(AGAIN * tensor.numel * tensor.entry_bytes),
                    lambda near: dense_update(
                        tensor.numel,
                        level,
                        optimizer,
                        again=device.nearer(level, near),
                        entry_bytes=tensor.entry_bytes,
                        processor_caches=caches,
                        weight_decay=weight_decay,
                    ),
                ),
            )
        temporaries = kept if temporaries_of is None else temporaries_of
        near = device.level_of(temporaries * TEMPORARY_BYTES)
        if compiled:
            near = device.level_of(max(self.chosen, temporaries) * (INDEX_BYTES + tensor.entry_bytes))
            # Weight decay is part of the compiled loops whether there is any or not.
            places = self._places(kept)
            return blend(
                shares,
                lambda level: fused_step(
                    places,
                    level,
                    optimizer,
                    entry_bytes=tensor.entry_bytes,
                    line_bytes=device.line_bytes,
                    temporary_level=near,
                    processor_caches=caches,
                ),
            )
        return blend(
            shares,
            lambda level: sparse_update(
                tensor.numel,
                kept,
                level,
                optimizer,
                entry_bytes=tensor.entry_bytes,
                line_bytes=device.line_bytes,
                temporary_level=near,
                processor_caches=caches,
                weight_decay=weight_decay,
            ),
        )
