"""Seconds and joules of a traced step: by what was measured of its operators, else by their families, and what of it nobody knows.

measured at the same distances -> measured at others -> regressed within the family's shapes -> outside: said, above 10% no claim
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cwmp_costmodels.errors import ProfileError
from cwmp_costmodels.fit.conformal import quantile
from cwmp_costmodels.operators.family import FamilyModel
from cwmp_costmodels.operators.measured import CALL_S, WHOLE, beside_s
from cwmp_costmodels.operators.power import physics_power_w, static_power_w
from cwmp_costmodels.operators.sample import Sample, sample_of
from cwmp_costmodels.operators.scale import LEAST, MOST_OUTSIDE, measured_scale, regressed_scale
from cwmp_costmodels.profile.operators import MeasuredOperator, OperatorsBlock
from cwmp_costmodels.profile.schema import Profile
from cwmp_costmodels.profile.validity import validity_remark
from cwmp_profiler.operators.block_records import calls_of
from cwmp_profiler.operators.operator import Operator
from cwmp_profiler.operators.physics import physics_of
from cwmp_profiler.operators.trace import Trace

DEFAULT_SCORE = 2.5
"""Score taken for the interval where no block was held out: a guess, and said to be one."""

UNHELD = (
    "no block was held out, so the width of the interval is a guess; measure the plan for families ('cwmp-profile measure --families') "
    "and fit it in"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One distinct operator of a priced step.

    Attributes:
        operator: What it is.
        runs: How often a step runs it.
        seconds: Of one run.
        power_w: Watts while it runs, static power included.
        source: `measured`, `measured elsewhere` (at other distances), `family`, or `physics`.
        error: Relative error expected.
        outside: Why nothing is claimed of it; empty otherwise.
    """

    operator: Operator
    runs: int
    seconds: float
    power_w: float
    source: str
    error: float
    outside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Predicted seconds and joules of a step, with 95% intervals.

    Attributes:
        seconds: Time; processor time on one thread.
        low_s: Lower end of the interval.
        high_s: Upper end.
        energy_j: Joules, static power included.
        low_j: Lower end, meter slope included.
        high_j: Upper end.
        parts: Its operators.
        beside_s: Seconds of calls and views.
        faults_s: Seconds of page faults.
        measured_share: Share of the operators' time that was measured.
        outside_share: Share of `seconds` of operators outside of everything measured.
        remarks: What a reader must know.
    """

    seconds: float
    low_s: float
    high_s: float
    energy_j: float
    low_j: float
    high_j: float
    parts: tuple[Part, ...]
    beside_s: float
    faults_s: float
    measured_share: float
    outside_share: float
    remarks: tuple[str, ...]

    @property
    def claimed(self) -> bool:
        """Whether a point estimate is given: at most a tenth of the time lies outside of what was measured."""
        return self.outside_share <= MOST_OUTSIDE

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; a step of which too much is outside has no point estimate."""
        claimed = self.claimed
        return {
            "seconds": self.seconds if claimed else None,
            "low_s": self.low_s if claimed else None,
            "high_s": self.high_s if claimed else None,
            "energy_j": self.energy_j if claimed else None,
            "low_j": self.low_j if claimed else None,
            "high_j": self.high_j if claimed else None,
            "beside_s": self.beside_s,
            "faults_s": self.faults_s,
            "measured_share": self.measured_share,
            "outside_share": self.outside_share,
            "outside": {label: list(why) for label, why in self.outside().items()},
            "remarks": list(self.remarks),
        }

    def outside(self) -> dict[str, tuple[str, ...]]:
        """Return why operators lie outside, by their label, the dearest first."""
        found = sorted((part for part in self.parts if part.outside), key=lambda part: -part.seconds * part.runs)
        return {part.operator.label(): part.outside for part in found}


class OperatorPrices:
    """Prices traced steps with a profile.

    Args:
        profile: A profile with operators.
        use_models: Whether what was measured of named models counts; False prices by families alone.

    Raises:
        ProfileError: If the profile holds no operators.
    """

    def __init__(self, profile: Profile, *, use_models: bool = True) -> None:
        if profile.operators is None:
            raise ProfileError(
                f"profile {profile.name} holds no operators, so it cannot price steps of models; measure them with 'cwmp-profile "
                "measure --model SPEC' (or --families) and fit them in"
            )
        self.profile = profile
        self.block: OperatorsBlock = profile.operators
        self._device = profile.device.info()
        self._static_w = static_power_w(profile)
        self._exact: dict[str, MeasuredOperator] = {}
        self._near: dict[str, list[tuple[Operator, MeasuredOperator]]] = {}
        for model in self.block.models.values() if use_models else ():
            for measured in model.operators:
                operator = Operator.from_json(measured.operator)
                self._exact[operator.id] = measured
                self._near.setdefault(operator.shape_id, []).append((operator, measured))

    @cached_property
    def families(self) -> Mapping[str, FamilyModel]:
        """Regressions by family."""
        return {name: FamilyModel.from_json(data) for name, data in self.block.families.items()}

    def price(self, trace: Trace) -> StepCost:
        """Return what a step costs.

        Args:
            trace: The traced step (`cwmp_profiler.operators.trace.trace`).
        """
        parts = self._parts(trace)
        calls = calls_of([(call.operator, call.phase, 1.0) for call in trace.calls], trace.views)
        beside, faults = beside_s(calls, self.block.overhead_s), trace.faults * self.block.fault_s
        work = math.fsum(part.seconds * part.runs for part in parts)
        seconds = work + beside + faults
        known = math.fsum(part.seconds * part.runs for part in parts if part.source.startswith("measured"))
        measured_share = known / work if work else 0.0
        half, remarks = self._half(parts, beside, measured=measured_share > 1 - MOST_OUTSIDE)
        outside = math.fsum(part.seconds * part.runs for part in parts if part.outside) / seconds if seconds else 0.0
        others_w = self._static_w + self._other_dynamic_w(parts, work)
        energy = math.fsum(part.seconds * part.runs * part.power_w for part in parts) + (beside + faults) * others_w
        slope = self._slope()
        half_j = math.hypot(half, slope)
        return StepCost(
            seconds=seconds,
            low_s=seconds * math.exp(-half),
            high_s=seconds * math.exp(half),
            energy_j=energy,
            low_j=energy * math.exp(-half_j),
            high_j=energy * math.exp(half_j),
            parts=tuple(parts),
            beside_s=beside,
            faults_s=faults,
            measured_share=measured_share,
            outside_share=outside,
            remarks=(*remarks, *((remark,) if (remark := validity_remark(self.profile)) else ())),
        )

    def _parts(self, trace: Trace) -> list[Part]:
        found: list[Part] = []
        regress: dict[str, list[tuple[Operator, int, Sample]]] = {}
        for operator, runs in trace.operators.items():
            measured, source = self._measured(operator)
            if measured is not None:
                power = measured.power_w if measured.power_w is not None else self._power_w(operator)
                error = measured.noise if source == "measured" else math.hypot(measured.noise, 0.1)
                found.append(
                    Part(
                        operator=operator,
                        runs=runs,
                        seconds=measured.seconds,
                        power_w=power,
                        source=source,
                        error=error,
                    )
                )
            else:
                regress.setdefault(operator.family, []).append((operator, runs, sample_of(operator, self._device)))
        for family, members in regress.items():
            found += self._regressed(family, members)
        return found

    def _measured(self, operator: Operator) -> tuple[MeasuredOperator | None, str]:
        if operator.id in self._exact:
            return self._exact[operator.id], "measured"
        near = self._near.get(operator.shape_id)
        if not near:
            return None, ""
        return min(near, key=lambda pair: _apart(operator, pair[0]))[1], "measured elsewhere"

    def _regressed(self, family: str, members: list[tuple[Operator, int, Sample]]) -> list[Part]:
        model = self.families.get(family)
        if model is None:
            return [self._by_physics(operator, runs, family) for operator, runs, _ in members]
        predicted = model.predict_all([sample for _, _, sample in members])
        return [
            Part(
                operator=operator,
                runs=runs,
                seconds=max(one.value - CALL_S, 0.0),
                power_w=self._power_w(operator),
                source="family",
                error=one.error,
                outside=one.outside,
            )
            for (operator, runs, _), one in zip(members, predicted, strict=True)
        ]

    def _by_physics(self, operator: Operator, runs: int, family: str) -> Part:
        """Return a guess, so that its share can be said: by the linear times of the profile, never claimed."""
        counts = physics_of(operator).counts(self._device)
        times = self.profile.times
        seconds = math.fsum(times[name].value * amount for name, amount in counts.items() if name in times)
        why = f"family {family} was never measured" if family != "other" else f"no rule knows {operator.name}"
        return Part(
            operator=operator,
            runs=runs,
            seconds=seconds,
            power_w=self._power_w(operator),
            source="physics",
            error=1.0,
            outside=(why,),
        )

    def _power_w(self, operator: Operator) -> float:
        physical = physics_power_w(operator, self.profile, self._device) or 0.0
        return self._static_w + physical * self.block.power_ratio.get(operator.family, 1.0)

    def _other_dynamic_w(self, parts: list[Part], work_s: float) -> float:
        """Return the dynamic power taken for calls: the mean of the operators'."""
        if not work_s:
            return 0.0
        return math.fsum((part.power_w - self._static_w) * part.seconds * part.runs for part in parts) / work_s

    def _half(self, parts: list[Part], beside: float, *, measured: bool) -> tuple[float, list[str]]:
        kind = "measured" if measured else "families"
        scale = (
            measured_scale([(part.seconds * part.runs, part.error) for part in parts], beside)
            if measured
            else regressed_scale(
                [(part.operator.family, part.seconds * part.runs, part.error) for part in parts], beside
            )
        )
        scores: dict[bool, list[float]] = {}
        for error in self.block.errors:
            if error.kind == kind:
                scores.setdefault(error.block.startswith(WHOLE), []).append(abs(error.log_error) / error.scale)
        if not scores:
            return DEFAULT_SCORE * scale, [UNHELD]
        # Blocks that were all predicted to the last digit promise no such thing of the next.
        # Whole networks are few among many blocks: what they ask for must not drown. Beside what families err, a whole step adds nothing.
        asked = scores.values() if measured else [scores.get(False) or scores[True]]
        return max(max(map(quantile, asked)) * scale, LEAST), []

    def _slope(self) -> float:
        """Return the relative half-width of the meter's slope; 0 where it is unknown (and said so beside the meter)."""
        slope = self.profile.meter.slope
        if slope is None or slope.low is None or slope.high is None or not slope.value:
            return 0.0
        return (slope.high - slope.low) / 2 / slope.value


def _apart(first: Operator, second: Operator) -> float:
    """Return how differently far the operands of two operators of one shape are: sum over operands in powers of two."""
    pairs = zip((*first.inputs, *first.outputs), (*second.inputs, *second.outputs), strict=True)
    return math.fsum(
        abs(math.log2(1 + (a.distance_bytes or 0)) - math.log2(1 + (b.distance_bytes or 0))) for a, b in pairs
    )
