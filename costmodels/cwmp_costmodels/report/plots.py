"""A fit as a picture file. Provenance stands in the title, so that a picture that travels alone still says whether anything was measured."""

from __future__ import annotations

import os
from pathlib import Path

from cwmp_costmodels.errors import FitError
from cwmp_costmodels.profile.schema import Profile
from cwmp_costmodels.report.draw import drawings
from cwmp_profiler.provenance import banner


def plot_fit(profile: Profile, path: str | os.PathLike[str]) -> Path:
    """Draw a profile against the points it was fitted to (and updates, which it did not see).

    Args:
        profile: A fitted profile.
        path: PNG, SVG or PDF to write, by its suffix.

    Raises:
        FitError: If the profile keeps no residuals, or the file cannot be written.
        ModuleNotFoundError: If matplotlib is missing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = drawings(profile)
    if not found:
        raise FitError(f"profile {profile.name} keeps no residuals to plot; fit it anew with 'cwmp-profile fit'")
    figure = Figure(figsize=(4.4 * len(found), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    for one, (caption, draw) in zip(axes, found.items(), strict=True):
        draw(one, profile)
        one.set_title(caption.split(":")[0].split(";")[0].rstrip("."))
    verdict = f", fit {profile.fit.verdict}" if profile.fit is not None and profile.fit.verdict else ""
    figure.suptitle(f"{profile.name}: {banner(profile.provenance, profile.meter.name)}{verdict}", fontweight="bold")
    try:
        figure.savefig(os.fspath(path), dpi=140)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FitError(f"cannot write plot {os.fspath(path)}: {reason}; choose another .png, .svg or .pdf") from None
    return Path(path)
