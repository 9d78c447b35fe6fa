"""The pictures of a fit, drawn once for the page and for files: predicted against read, residuals, and the energy roofline.

Axes are joules of one operation (one iteration of the point's work), with plain ticks: 2 mJ, not 2 x 10^-3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cwmp_costmodels.profile.schema import Profile, Residual
from cwmp_costmodels.units import STATIC_POWER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

COLOURS = {"memory": "#0072b2", "compute": "#d55e00", "update": "#009e73"}
"""Colours by family, told apart by people who see colours differently (Okabe and Ito)."""

MARKERS = {"memory": "o", "compute": "s", "update": "^"}
MOST_TICKS = 5

Drawing = Callable[["Axes", Profile], None]


def drawings(profile: Profile) -> dict[str, Drawing]:
    """Return what can be drawn of a profile, by caption; nothing where it keeps no residuals."""
    if profile.fit is None or not profile.fit.residuals:
        return {}
    found: dict[str, Drawing] = {
        "Predicted against read: one mark a point, the line is equality.": draw_predicted,
        "Residuals by family; updates were not fitted.": draw_residuals,
    }
    if _main_kind(profile) is not None:
        found["Energy roofline: marks were read; the roof is what memory and arithmetic cost at least."] = draw_roofline
    return found


def draw_predicted(axes: Axes, profile: Profile) -> None:
    """Draw predicted over read joules of an operation."""
    residuals = _residuals(profile)
    each = all(r.iterations for r in residuals)
    pairs = [(r, (r.iterations or 1.0) if each else 1.0) for r in residuals]
    values = [value / n for r, n in pairs for value in (r.measured_j, r.predicted_j) if value > 0]
    ends = [min(values) * 0.8, max(values) * 1.25]
    axes.plot(ends, ends, color="black", linewidth=1)
    for family, group in _by_family(residuals):
        share = [(r.iterations or 1.0) if each else 1.0 for r in group]
        axes.plot(
            [r.measured_j / n for r, n in zip(group, share, strict=True)],
            [r.predicted_j / n for r, n in zip(group, share, strict=True)],
            **style(family),
        )
    what = "an operation" if each else "a window"
    axes.set(xscale="log", yscale="log", xlabel=f"{profile.provenance} joules of {what}", ylabel="predicted")
    plain(axes.xaxis, "J", ends)
    plain(axes.yaxis, "J", ends)
    axes.legend(frameon=False)


def draw_residuals(axes: Axes, profile: Profile) -> None:
    """Draw the relative error of each point, family beside family."""
    axes.axhline(0, color="black", linewidth=1)
    place = 0
    for family, group in _by_family(_residuals(profile)):
        places = range(place, place + len(group))
        axes.plot(places, [100 * (r.predicted_j / r.measured_j - 1) for r in group], **style(family))
        place += len(group)
    axes.set(xlabel="point", ylabel="predicted - read (% of read)")
    axes.legend(frameon=False)


def draw_roofline(axes: Axes, profile: Profile) -> None:
    """Draw joules per operation of the main arithmetic over its intensity, with the roof of each memory level."""
    kind = _main_kind(profile)
    if kind is None:
        return
    points = [r for r in _residuals(profile) if r.arithmetic == kind and r.moved_bytes > 0]
    intensity = [r.flops / r.moved_bytes for r in points]
    for family, group in _by_family(points):
        axes.plot([r.flops / r.moved_bytes for r in group], [r.measured_j / r.flops for r in group], **style(family))
    low, high = min(intensity) / 2, max(intensity) * 2
    grid = [low * (high / low) ** (step / 100) for step in range(101)]
    floor = _attributed(profile, kind)
    ends = [r.measured_j / r.flops for r in points]
    for level, dashes in zip(reversed(profile.device.levels), ("-", "--", ":", "-."), strict=False):
        both = [f"{level.name}_{way}" for way in ("read", "write")]
        if all(name in profile.coefficients and name in profile.times for name in both):
            per_byte = sum(_attributed(profile, name) for name in both) / 2
            roof = [floor + per_byte / x for x in grid]
            ends += [min(roof), max(roof)]
            axes.plot(grid, roof, color="black", linestyle=dashes, linewidth=1, label=f"roof, {level.name}")
    axes.set(xscale="log", yscale="log", xlabel=f"{kind} per byte moved", ylabel=f"joules per {kind}")
    plain(axes.xaxis, "", [low, high])
    plain(axes.yaxis, "J", [min(ends), max(ends)])
    axes.legend(frameon=False, fontsize=8)


def plain(axis: Axis, unit: str, ends: Sequence[float]) -> None:
    """Give a logarithmic axis a few ticks with SI prefixes, and none between them; zeros have no place on it.

    Args:
        axis: The axis.
        unit: Unit after the prefix.
        ends: What is drawn; with nothing above zero the axis stays as it is.
    """
    import math

    from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

    ends = [end for end in ends if end > 0]
    if not ends:
        return
    low, high = math.log10(min(ends)), math.log10(max(ends))
    steps = (1, 1.5, 2, 3, 5, 7) if high - low < 1 else (1, 2, 5) if high - low < 2 else (1,)
    ticks = [
        step * 10.0**power
        for power in range(math.floor(low) - 1, math.ceil(high) + 1)
        for step in steps
        if 10**low <= step * 10.0**power <= 10**high
    ]
    if len(ticks) < 2:
        ticks = sorted({float(f"{10**end:.3g}") for end in (low, high)})
    every = max(math.ceil(len(ticks) / MOST_TICKS), 1)
    axis.set_major_locator(FixedLocator(ticks[::every]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(EngFormatter(unit, sep=" " if unit else ""))


def style(family: str) -> dict[str, Any]:
    """Return marker, colour and label of a family; what was not fitted is hollow."""
    found: dict[str, Any] = {
        "marker": MARKERS.get(family, "d"),
        "linestyle": "none",
        "markersize": 5,
        "color": COLOURS.get(family, "#cc79a7"),
        "label": "update (not fitted)" if family == "update" else family,
    }
    return {**found, "markerfacecolor": "none"} if family == "update" else found


def _residuals(profile: Profile) -> Sequence[Residual]:
    return profile.fit.residuals if profile.fit is not None else ()


def _by_family(residuals: Sequence[Residual]) -> list[tuple[str, list[Residual]]]:
    families = dict.fromkeys(residual.family for residual in residuals)
    return [(family, [r for r in residuals if r.family == family]) for family in families]


def _main_kind(profile: Profile) -> str | None:
    """Return the arithmetic with the most points of its own, float32 first; types are never mixed in one picture."""
    if STATIC_POWER not in profile.coefficients:
        return None
    kinds = [
        r.arithmetic
        for r in _residuals(profile)
        if r.arithmetic and r.moved_bytes > 0 and r.arithmetic in profile.times
    ]
    return max(dict.fromkeys(kinds), key=lambda kind: (kind == "flop_float32", kinds.count(kind)), default=None)


def _attributed(profile: Profile, name: str) -> float:
    return profile.coefficients[name].value + profile.coefficients[STATIC_POWER].value * profile.times[name].value
