"""A fit as a picture: predicted against measured joules, residuals over the session, and the energy roofline.

Provenance stands in the title, so that a picture that travels alone still says whether anything was measured.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cwmp_costmodels.errors import FitError
from cwmp_costmodels.profile.schema import Profile
from cwmp_costmodels.units import STATIC_POWER
from cwmp_profiler.provenance import banner
from cwmp_profiler.sessions.measurements import Window

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"memory": "#0072b2", "compute": "#d55e00", "update": "#009e73", "idle": "#7f7f7f"}
"""Colours by family, told apart by people who see colours differently (Okabe and Ito)."""

MARKERS = {"memory": "o", "compute": "s", "update": "^", "idle": "x"}


def predict(profile: Profile, window: Window) -> tuple[float, float] | None:
    """Return (joules, seconds) that a profile predicts for a window from its counts; None if it lacks a coefficient.

    A window without work is predicted for its own duration.
    """
    worked = {name: amount for name, amount in window.counts.items() if amount}
    if any(name not in profile.coefficients or name not in profile.times for name in worked):
        return None
    seconds = sum(amount * profile.times[name].value for name, amount in worked.items()) or window.duration_s
    dynamic = sum(amount * profile.coefficients[name].value for name, amount in worked.items())
    return profile.coefficients[STATIC_POWER].value * seconds + dynamic, seconds


def plot_fit(profile: Profile, windows: Sequence[Window], path: str | os.PathLike[str]) -> Path:
    """Draw a profile against the windows it was fitted to (and update windows, which it did not see).

    Args:
        profile: A fitted profile.
        windows: Windows of its sessions.
        path: PNG, SVG or PDF to write, by its suffix.

    Returns:
        The path.

    Raises:
        FitError: If no window can be predicted, or the file cannot be written.
        ModuleNotFoundError: If matplotlib is missing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = [(window, pair) for window in windows if window.energy_j > 0 and (pair := predict(profile, window))]
    if not found:
        raise FitError("no window to plot: none has energy and counts that the profile knows")
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    shown = [window for window, _ in found]
    joules = np.array([pair[0] for _, pair in found])
    _predicted(left, shown, joules, str(profile.provenance))
    _residuals(middle, shown, joules)
    _roofline(right, profile, shown)
    verdict = f", fit {profile.fit.verdict}" if profile.fit is not None and profile.fit.verdict else ""
    figure.suptitle(f"{profile.name}: {banner(profile.provenance, profile.meter.name)}{verdict}", fontweight="bold")
    try:
        figure.savefig(os.fspath(path), dpi=140)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FitError(f"cannot write plot {os.fspath(path)}: {reason}; choose another .png, .svg or .pdf") from None
    return Path(path)


def _families(windows: Sequence[Window]) -> list[tuple[str, Any]]:
    families = np.array([window.family for window in windows])
    return [(str(name), families == name) for name in dict.fromkeys(families)]


def _style(family: str) -> dict[str, Any]:
    colour = COLOURS.get(family, "#cc79a7")
    hollow = family == "update"
    style: dict[str, Any] = {
        "marker": MARKERS.get(family, "d"),
        "linestyle": "none",
        "markersize": 5,
        "color": colour,
        "alpha": 0.7,
    }
    return {**style, "markerfacecolor": "none"} if hollow else style


def _label(family: str) -> str:
    return "update (not fitted)" if family == "update" else family


def _predicted(axes: Axes, windows: Sequence[Window], joules: Any, provenance: str) -> None:
    measured = np.array([window.energy_j for window in windows])
    ends = [min(measured.min(), joules.min()) * 0.8, max(measured.max(), joules.max()) * 1.25]
    axes.plot(ends, ends, color="black", linewidth=1, label="1:1")
    for family, mask in _families(windows):
        axes.plot(measured[mask], joules[mask], label=_label(family), **_style(family))
    axes.set(xscale="log", yscale="log", xlabel=f"{provenance} (J per window)", ylabel="predicted from counts (J)")
    axes.set_title("Energy of each window")
    axes.legend(fontsize=8)


def _residuals(axes: Axes, windows: Sequence[Window], joules: Any) -> None:
    order = np.arange(len(windows))
    error = 100 * (joules / np.array([window.energy_j for window in windows]) - 1)
    axes.axhline(0, color="black", linewidth=1)
    for family, mask in _families(windows):
        axes.plot(order[mask], error[mask], **_style(family))
    axes.set(xlabel="window, in the order measured", ylabel="predicted over meter - 1 (%)")
    axes.set_title("Residuals over the session")


def _roofline(axes: Axes, profile: Profile, windows: Sequence[Window]) -> None:
    """Draw joules per flop against flops per byte: what was read, and the model for each memory level."""
    kinds = [name for name in profile.coefficients if name.startswith(("flop_", "elem_"))]
    axes.set(
        xscale="log", yscale="log", xlabel="arithmetic intensity (flop/B)", ylabel="J/flop, static power attributed"
    )
    axes.set_title("Energy roofline")
    intensities: list[float] = []
    line_bytes = profile.device.line_bytes
    for kind, marker in zip(kinds, "sovD^P*X", strict=False):
        tried = [_intensity(window, kind, line_bytes) for window in windows if window.counts.get(kind)]
        points = [point for point in tried if point is not None]
        if points and kind in profile.times:
            intensities += [point[0] for point in points]
            axes.plot(
                *zip(*points, strict=True),
                marker=marker,
                linestyle="none",
                markersize=4,
                alpha=0.6,
                label=f"meter, {kind}",
            )
    if not intensities:
        return
    grid = np.geomspace(min(intensities) / 1.5, max(intensities) * 1.5, 100)
    main = next((kind for kind in ("flop_float32", *kinds) if kind in kinds), kinds[0])
    for level in profile.device.levels:
        both = [f"{level.name}_read", f"{level.name}_write"]
        if all(name in profile.coefficients and name in profile.times for name in both):
            per_byte = np.mean([_attributed(profile, name) for name in both])
            axes.plot(
                grid, _attributed(profile, main) + per_byte / grid, linewidth=1.2, label=f"model, {main}, {level.name}"
            )
    axes.legend(fontsize=7)


def _attributed(profile: Profile, name: str) -> float:
    return profile.coefficients[name].value + profile.coefficients[STATIC_POWER].value * profile.times[name].value


def _intensity(window: Window, kind: str, line_bytes: int) -> tuple[float, float] | None:
    """Return (flop/B, J/flop) of a window whose arithmetic is all of one kind."""
    others = [
        name
        for name, amount in window.counts.items()
        if name.startswith(("flop_", "elem_")) and amount and name != kind
    ]
    moved = sum(amount for name, amount in window.counts.items() if name.endswith(("_read", "_write")))
    moved += line_bytes * sum(2 * amount for name, amount in window.counts.items() if name.endswith("_line"))
    if others or not moved:
        return None
    return window.counts[kind] / moved, window.energy_j / window.counts[kind]
