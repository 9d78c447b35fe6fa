"""Two sessions side by side: joules and seconds of the same work, workload by workload, before any model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import t as t_distribution

from cwmp_costmodels.compare.profiles import Comparison, Difference, Quantity, Ratio
from cwmp_costmodels.errors import FitError
from cwmp_costmodels.fit.samples import Array
from cwmp_profiler.sessions.measurements import Measurements, Window, difference


def compare_sessions(first: Measurements, second: Measurements) -> Comparison:
    """Compare the windows of points that both sessions hold.

    The logarithms of joules (and seconds) per iteration are averaged over repeats and differenced point by point. The
    interval of a workload's mean ratio holds the noise of repeats and the spread between its points, whichever is larger.

    Raises:
        FitError: If they have no point in common, or are one session.
    """
    if first.header.session == second.header.session:
        raise FitError(f"{first.path} and {second.path} are the same session; give two")
    ratios = (*_ratios("energy", first, second), *_ratios("time", first, second))
    if not ratios:
        raise FitError(
            f"{first.path} and {second.path} have no point in common; measure both with the same --preset on the same device"
        )
    return Comparison(
        first=f"{first.path.name} ({first.header.meter.provenance})",
        second=f"{second.path.name} ({second.header.meter.provenance})",
        ratios=ratios,
        remarks=tuple(_remarks(first, second)),
    )


def _ratios(quantity: Quantity, first: Measurements, second: Measurements) -> Iterator[Ratio]:
    sides = _values(quantity, first.windows), _values(quantity, second.windows)
    workloads = {window.point: window.workload for window in first.windows}
    common = [point for point in sides[0] if point in sides[1]]
    noise, degrees = _noise([values for side in sides for values in side.values()])
    for workload in sorted({workloads[point] for point in common}):
        pairs = [(sides[0][point], sides[1][point]) for point in common if workloads[point] == workload]
        yield _ratio(quantity, workload, pairs, noise, degrees)


def _values(quantity: Quantity, windows: Sequence[Window]) -> dict[str, Array]:
    """Return logarithms of joules (seconds) per iteration by point; per second for windows without work."""
    found: dict[str, list[float]] = {}
    for window in windows:
        work = window.iterations if any(window.counts.values()) and window.iterations else window.duration_s
        value = (window.energy_j if quantity == "energy" else window.duration_s) / work
        if value > 0 and not (quantity == "time" and work == window.duration_s):
            found.setdefault(window.point, []).append(value)
    return {point: np.log(values) for point, values in found.items()}


def _noise(groups: Sequence[Array]) -> tuple[float, int]:
    """Return variance and degrees of freedom of repeats, pooled over points and sessions."""
    degrees = sum(len(group) - 1 for group in groups)
    square = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    return (square / degrees if degrees else 0.0), degrees


def _ratio(
    quantity: Quantity, workload: str, pairs: Sequence[tuple[Array, Array]], noise: float, degrees: int
) -> Ratio:
    steps = np.array([second.mean() - first.mean() for first, second in pairs])
    within = sum(noise * (1 / len(first) + 1 / len(second)) for first, second in pairs) / len(pairs) ** 2
    halves = [t_distribution.ppf(0.975, degrees) * within**0.5] if degrees else []
    if len(steps) > 1:
        between = float(steps.var(ddof=1)) / len(steps)
        halves.append(float(t_distribution.ppf(0.975, len(steps) - 1)) * between**0.5)
    middle = float(steps.mean())
    levels = [float(np.exp(np.mean([pair[side].mean() for pair in pairs]))) for side in (0, 1)]
    low = high = None
    verdict: Difference = "cannot tell"
    if halves:
        low, high = float(np.exp(middle - max(halves))), float(np.exp(middle + max(halves)))
        verdict = "differs" if low > 1 or high < 1 else "no difference shown"
    rests = workload.startswith("idle")
    unit = ("W" if rests else "J/iter") if quantity == "energy" else "s/iter"
    return Ratio(
        quantity=quantity,
        name=workload,
        unit=unit,
        first=levels[0],
        second=levels[1],
        ratio=float(np.exp(middle)),
        low=low,
        high=high,
        difference=verdict,
    )


def _remarks(first: Measurements, second: Measurements) -> Iterator[str]:
    if differs := difference(first.header, second.header):
        field, left, right = differs
        yield f"{field} differs: {left!r} against {right!r}"
    alone = {window.point for window in first.windows} ^ {window.point for window in second.windows}
    if alone:
        yield f"{len(alone)} points are in one session only and were left out"
