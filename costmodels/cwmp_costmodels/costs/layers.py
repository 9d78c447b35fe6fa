"""Joules per kept entry of every parameter tensor of a model: what the selector spends its budget on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cwmp_costmodels.costs.interval import Interval, interval_j
from cwmp_costmodels.costs.places import places_of
from cwmp_costmodels.costs.scenario import Scenario, open_links
from cwmp_costmodels.costs.tensor import CAUSES, LayerCost
from cwmp_costmodels.costs.tiers import TensorCosts
from cwmp_costmodels.errors import ModelError, ProfileError
from cwmp_costmodels.networks.inspect import inspect_model
from cwmp_costmodels.networks.tensors import Inspection, TensorInfo
from cwmp_costmodels.profile.factors import NAME_PREFIX, Factor, UpdateFactors, factor_of, sparse_mode
from cwmp_costmodels.profile.prices import Prices, Static
from cwmp_costmodels.profile.validity import validity_remark
from cwmp_costmodels.profile.writes import ADD, part_factors
from cwmp_profiler.counts import STATE_TENSORS, Optimizer
from cwmp_profiler.display import ShortTable, Shown
from cwmp_profiler.provenance import Provenance, weakest
from cwmp_profiler.si_prefixes import si

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cwmp_costmodels.networks.gradient_flops import GradientFlops
    from cwmp_costmodels.profile.operators import Part
    from cwmp_costmodels.profile.schema import Profile


SHOWN = 8
"""Tensors that a short table lists."""


class LayerCosts(Shown):
    """Joules per kept entry for every parameter tensor that training updates. `layer_costs` makes it.

    Attributes:
        layers: Cost of each tensor by parameter name.
        scenario: What an entry causes.
        static: Whether static power over the time of an operation is part of the cost.
        provenance: The weakest provenance of profile and radio.
        skipped: Parameters without a cost, and why.
        validity: What differs here from where the profile's operators were timed, in one line; "" where nothing does.
        gradient: Counted weight-gradient operations and what could not be counted; None if not asked for.
    """

    def __init__(
        self, layers: Sequence[LayerCost], *, inspection: Inspection, gradient: GradientFlops | None = None
    ) -> None:
        self.layers = {layer.tensor.name: layer for layer in layers}
        self.scenario = layers[0].scenario
        self._prices, self._links, self._inspection = layers[0].prices, layers[0].links, inspection
        self.static = self._prices.static
        self.skipped = dict(inspection.skipped)
        self.gradient = gradient
        sources = [self.profile.provenance]
        if self._links.radio is not None:
            sources.append(self._links.radio.provenance)
        self.provenance: Provenance = weakest(sources)
        self.validity = validity_remark(self.profile)

    @property
    def profile(self) -> Profile:
        """The profile that the joules come from."""
        return self._prices.profile

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader must know: derived and missing coefficients, the radio's own remarks, software that differs."""
        radio = self._links.radio
        own = () if radio is None else tuple(f"radio {radio.name}: {remark}" for remark in radio.remarks)
        validity = (self.validity,) if self.validity else ()
        return (*self._prices.remarks, *self._decay_remarks(), *own, *validity)

    def _decay_remarks(self) -> tuple[str, ...]:
        if not self.scenario.decays:
            return ()
        what = "weights" if self.scenario.optimizer == "sgd" else f"the state of {self.scenario.optimizer}"
        lazy = (
            f"state_decay lazy: {what} decays where entries are kept only; a zero-filled gradient through torch.optim decays it "
            "everywhere, which is state_decay='dense'"
        )
        dense = f"state_decay dense: {what} decays everywhere, so each touched tensor pays a whole dense step once"
        return (dense if self.scenario.state_decay == "dense" else lazy,)

    def short_table(self) -> ShortTable:
        """Return joules per entry and in all of the first tensors; `cwmp-profile costs` prints more."""
        density = self.scenario.density
        rows = [
            (
                name,
                self.layers[name].level,
                f"{self.numel(name):,}",
                si(self.entry_j(name, density), "J"),
                si(self.entry_j(name, 1.0) * self.numel(name), "J"),
            )
            for name in self.names()[:SHOWN]
        ]
        more = len(self.names()) - len(rows)
        return ShortTable(
            title=f"layer costs by {self.profile.name} ({self.provenance}), {self.scenario.optimizer}, density {density:g}",
            columns=("parameter", "lives in", "entries", "per entry", "all entries"),
            rows=rows,
            notes=[
                *([f"and {more} more tensors"] if more else []),
                f"dense {si(self.dense_j(), 'J')}, spread {self.spread():.3g}x",
            ],
        )

    def names(self) -> tuple[str, ...]:
        """Return the parameter names, as in `model.named_parameters()`."""
        return tuple(self.layers)

    def numel(self, name: str) -> int:
        """Return the number of entries of a tensor."""
        return self._layer(name).tensor.numel

    def entry_j(self, name: str, density: float) -> float:
        """Return the mean joules per kept entry at `density` (kept / numel) of a tensor, fixed parts excluded.

        A density below one entry counts as one entry.
        """
        layer = self._layer(name)
        kept = self._kept(layer, density)
        return layer.entry_j(kept)

    def marginal_j(self, name: str, density: float) -> float:
        """Return the joules that one more kept entry adds at `density`, fixed parts excluded.

        It is below `entry_j` as far as entries share lines and position bits. Numeric derivative with the small
        temporaries held where they are at `density`.
        """
        layer = self._layer(name)
        n = layer.tensor.numel
        if n == 1:
            return layer.entry_j(1)
        kept = self._kept(layer, density)
        step = max(kept, 1.0) * 1e-3
        low, high = max(kept - step, 0.0), min(kept + step, n * (1 - 1e-9))
        low = min(low, high - step)
        at = [amount * layer.entry_j(amount, temporaries_of=kept) if amount else 0.0 for amount in (low, high)]
        return (at[1] - at[0]) / (high - low)

    def fixed_j(self, name: str) -> float:
        """Return the joules caused once if anything of the tensor is kept: operator calls, and a bitmask if positions are one."""
        return self._layer(name).fixed_j()

    def burst_j(self) -> float:
        """Return the joules caused once by a payload that is not empty: promotion and tail of the uplink.

        The downlink's bursts happen once a round, whatever this payload holds; they are not part of its cost.
        """
        return self._links.burst_j

    @property
    def payload_j(self) -> float:
        """What the selector charges once for a payload: `burst_j` and `first_j`."""
        return self.burst_j() + self.first_j()

    def first_j(self) -> float:
        """Return the joules of an update's first write by the compiled loops, whose code has left the caches since the last; 0 if untimed."""
        return _cold_j(self._prices, self.scenario, "first") if any(x.compiled for x in self.layers.values()) else 0.0

    @property
    def bit_j(self) -> float:
        """Joules of one bit of the payload, sent and received by every receiver."""
        return self._links.up_j_per_bit + self.scenario.receivers * self._links.down_j_per_bit

    def tensor_costs(self, name: str) -> TensorCosts:
        """Return the joules by entry, line and tensor that a selection is charged, the radio left out (`Tiers`)."""
        layer, tiers = self._layer(name), self._layer(name).tiers
        entry_j, dense_j = sum(tiers.entry.values()), sum(tiers.whole.values())
        return TensorCosts(entry_j, tiers.line_j, layer.line_entries, tiers.once_j, dense_j)

    def near(self, indices: Mapping[str, torch.Tensor]) -> LayerCosts:
        """Return these costs with tiers of the places that a selection chose, instead of random ones at the scenario's density.

        What a line costs depends on whether it follows others that are touched, which a price cannot know beforehand. Selections of
        neighbouring steps look alike: with prices near the last one, the next is charged what it takes.

        Args:
            indices: Chosen flat positions by parameter name, ascending, as `SparseUpdate.indices`; tensors of which nothing or all
                was chosen keep their tiers.

        Raises:
            ModelError: If a name is unknown.
        """
        chosen = float(sum(index.numel() for index in indices.values()))
        layers = {name: replace(layer, chosen=chosen) for name, layer in self.layers.items()}
        for name, index in indices.items():
            layer = self._layer(name)
            if 0 < index.numel() < layer.tensor.numel:
                layers[name] = replace(layers[name], places=places_of(index.numpy(force=True), layer.line_entries))
        return LayerCosts(list(layers.values()), inspection=self._inspection, gradient=self.gradient)

    def parts_j(
        self,
        kept: Mapping[str, int],
        *,
        lines: Mapping[str, int] | None = None,
        payload_bits: float | None = None,
        fixed: bool = True,
    ) -> dict[str, float]:
        """Return the joules by cause: `memory`, `compute`, `uplink`, `downlink`, `fixed`.

        Args:
            kept: Entries kept by parameter name; absent names keep none.
            lines: Lines that they lie in, by parameter name, as a selection counts them; None takes entries at random places.
            payload_bits: Bits of the payload as it was encoded; they replace the modelled bits.
            fixed: Whether operator calls count where a whole tensor is written the cheaper way.

        Raises:
            ModelError: If a name is unknown or more is kept than there is.
        """
        total = dict.fromkeys(CAUSES, 0.0)
        for name, count in kept.items():
            layer = self._layer(name)
            if not 0 <= count <= layer.tensor.numel:
                raise ModelError(f"cannot keep {count} of the {layer.tensor.numel} entries of {name}")
            # Counted lines and bits replace all that is expected.
            parts = {} if lines is not None and payload_bits is not None else layer.parts_j(count)
            if lines is not None:
                parts |= layer.tiers.parts_j(count, lines[name], layer.tensor.numel, fixed=fixed)
            for cause, joules in parts.items():
                total[cause] += joules
        if payload_bits is not None:
            total["uplink"] = payload_bits * self._links.up_j_per_bit
            total["downlink"] = payload_bits * self._links.down_j_per_bit * self.scenario.receivers
        if any(kept.values()):
            total["fixed"] += self.payload_j
        return total

    def interval_j(self, kept: Mapping[str, int]) -> Interval:
        """Return the device's joules of kept entries with a 95% interval: coefficients, held-out error, slope of the meter."""
        return interval_j(self.profile, self.layers, kept)

    def always_j(self) -> dict[str, float]:
        """Return the joules that a round spends whatever is kept, by cause: `select`, `zero_grad`. No budget of entries pays them.

        `select` is one read of every gradient entry and one comparison: the least that a rule does.
        """
        total = {"select": 0.0, "zero_grad": 0.0}
        for layer in self.layers.values():
            for cause, joules in layer.always_j().items():
                total[cause] += joules
        return total

    def dense_from(self, name: str) -> float | None:
        """Return the density from which writing the whole tensor densely, zeros included, beats scattering; None if it never does."""
        return self._layer(name).dense_from()

    def dense_j(self) -> float:
        """Return the joules of keeping everything: dense kernels, values without positions."""
        return sum(self.parts_j({name: self.numel(name) for name in self.layers}).values())

    def spread(self) -> float:
        """Return the dearest over the cheapest `entry_j` at the scenario's density."""
        costs = [self.entry_j(name, self.scenario.density) for name in self.layers]
        return max(costs) / min(costs)

    def variation(self) -> float:
        """Return the coefficient of variation of the cost of an entry drawn at random: it ignores how few entries are odd."""
        weights = [layer.tensor.numel for layer in self.layers.values()]
        costs = [self.entry_j(name, self.scenario.density) for name in self.layers]
        mean = sum(w * c for w, c in zip(weights, costs, strict=True)) / sum(weights)
        square = sum(w * (c - mean) ** 2 for w, c in zip(weights, costs, strict=True)) / sum(weights)
        return float(square**0.5 / mean)

    def _layer(self, name: str) -> LayerCost:
        try:
            return self.layers[name]
        except KeyError:
            why = f"it is {self.skipped[name]}" if name in self.skipped else "the model has no such parameter"
            raise ModelError(f"no cost for parameter {name!r}: {why}") from None

    @staticmethod
    def _kept(layer: LayerCost, density: float) -> float:
        if not 0 <= density <= 1:
            raise ModelError(f"density of {layer.tensor.name} is kept / numel, from 0 to 1, got {density}")
        return max(density * layer.tensor.numel, 1.0) if density < 1 else float(layer.tensor.numel)


def layer_costs(
    profile: Profile,
    model: nn.Module,
    scenario: Scenario | None = None,
    *,
    static: Static | None = None,
    gradient_inputs: Sequence[Any] | None = None,
) -> LayerCosts:
    """Return the joules per kept entry of every parameter tensor of a model.

    Args:
        profile: Device profile.
        model: Any torch module; only names, shapes and types of its parameters are used.
        scenario: What an entry causes; None takes `Scenario()`.
        static: `attributed` adds static power over the time that the update takes; None does so where the profile has times.
        gradient_inputs: Inputs of `model.forward`; if given, the weight gradient's operations are counted with them and are
            part of `compute`.

    Raises:
        ProfileError: If the profile lacks a coefficient that is needed.
        ModelError: If the model has parameters without a cost model.
        RadioError: If the scenario's radio is not known.
    """
    scenario = scenario or Scenario()
    prices, links = Prices(profile, static), open_links(scenario, profile)
    inspection, info = inspect_model(model), profile.device.info()
    gradient = None
    if gradient_inputs is not None:
        from cwmp_costmodels.networks.gradient_flops import count_gradient_flops

        gradient = count_gradient_flops(model, gradient_inputs)
    layers = [
        LayerCost(
            tensor=tensor,
            level=info.level_of(own := _set_bytes(inspection, tensor, scenario, 2 + STATE_TENSORS[scenario.optimizer])),
            receiver_level=info.level_of(theirs := _set_bytes(inspection, tensor, scenario, 1)),
            shares=info.shares_of(own),
            receiver_shares=info.shares_of(theirs),
            factors=UpdateFactors(profile, tensor, scenario.optimizer),
            receiver_factors=UpdateFactors(profile, tensor, "sgd"),
            compiled=sparse_mode(profile, tensor, scenario.optimizer) == "entries",
            receiver_compiled=sparse_mode(profile, tensor, "sgd") == "entries",
            parts=_parts(profile, tensor, scenario.optimizer, own / (2 + STATE_TENSORS[scenario.optimizer])),
            receiver_parts=_parts(profile, tensor, "sgd", theirs, writes=ADD),
            chosen=scenario.density * sum(each.numel for each in inspection.tensors),
            cold_j=_cold_j(prices, scenario, "tensor"),
            gradient_flops=gradient.per_entry(tensor) if gradient is not None else 0.0,
            prices=prices,
            scenario=scenario,
            links=links,
        )
        for tensor in inspection.tensors
    ]
    costs = LayerCosts(layers, inspection=inspection, gradient=gradient)
    for name in costs.names():
        if not costs.entry_j(name, scenario.density) > 0:
            raise ProfileError(
                f"an entry of {name} costs 0 J by profile {profile.name}: its coefficients for {costs.layers[name].level} are 0 "
                "@ $.coefficients, so nothing can be weighed; measure again with a larger preset"
            )
    return costs


def _cold_j(prices: Prices, scenario: Scenario, what: str) -> float:
    """Return the joules of cold writes (`first` of an update or of a `tensor`); 0 where nobody timed them.

    Local steps each have one, and so has each receiver. A processor that waits for its caches does no work: static power over that time.
    """
    if prices.static != "attributed" or scenario.residency == "tensor":
        return 0.0
    seconds: Mapping[str, Mapping[str, float]] = prices.profile.device.details.get("cold_write_s", {})
    own, theirs = (seconds.get(name, {}).get(what, 0.0) for name in (scenario.optimizer, "sgd"))
    static_w = prices.profile.coefficients["static_power"].value
    return static_w * (scenario.local_steps * own + scenario.receivers * theirs)


def _parts(
    profile: Profile, tensor: TensorInfo, optimizer: Optimizer, set_bytes: float, *, writes: str | None = None
) -> Mapping[Part, Factor] | None:
    """Return the corrections of compiled writes of a tensor that lives among so many bytes of parameters, None without any.

    Those are the profile's `writes` of that name, where it has them, else those of the optimiser.
    """
    own = profile.writes.get(writes or optimizer) or profile.writes.get(optimizer)
    named = (factor_of(profile, tensor, optimizer, "entries").key or "").startswith(NAME_PREFIX)
    return None if own is None or named else part_factors(own, set_bytes / tensor.entry_bytes, optimizer)


def _set_bytes(inspection: Inspection, tensor: TensorInfo, scenario: Scenario, copies: int) -> float:
    """Bytes among which a tensor lives between updates: `copies` counts parameter, gradient and state tensors of the step."""
    if scenario.residency == "memory":
        return math.inf
    tensors = inspection.tensors if scenario.residency == "step" else (tensor,)
    return sum(t.numel * t.entry_bytes for t in tensors) * copies
