"""The calibration plot: predicted against measured joules of work that the fit never saw."""

from __future__ import annotations

from pathlib import Path

from cwmp_costmodels.errors import ProfileError
from cwmp_costmodels.profile.schema import Profile
from cwmp_profiler.provenance import banner

BAND = 0.10
"""Relative error of the band drawn about the line of equality."""


def plot_validation(profile: Profile, path: Path) -> Path:
    """Draw predicted over measured joules per step of every validation case, log by log, with a band of 10%.

    Args:
        profile: A validated profile.
        path: PNG (or any format that matplotlib knows by its suffix).

    Raises:
        ProfileError: If the profile is not validated, or the file cannot be written.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    block = profile.validation
    if block is None:
        raise ProfileError(f"profile {profile.name} is not validated; run 'cwmp-profile validate' first")
    figure, axis = plt.subplots(figsize=(6.4, 6.0), layout="constrained")
    for kind, marker in (("train", "o"), ("update", "s")):
        for update, colour in (("dense", "#1b6ca8"), ("sparse", "#d1603d")):
            cases = [c for c in block.cases if c.case.startswith(kind) and c.case.endswith(update)]
            axis.scatter(
                [c.measured_j for c in cases],
                [c.predicted_j for c in cases],
                marker=marker,
                color=colour,
                s=42,
                alpha=0.85,
                label=f"{'training step' if kind == 'train' else 'update only'}, {update}",
            )
    low = 0.7 * min(min(c.measured_j, c.predicted_j or c.measured_j) for c in block.cases)
    high = 1.4 * max(max(c.measured_j, c.predicted_j) for c in block.cases)
    ends = [low, high]
    axis.plot(ends, ends, color="black", linewidth=1)
    axis.fill_between(
        ends,
        [x * (1 - BAND) for x in ends],
        [x * (1 + BAND) for x in ends],
        color="black",
        alpha=0.1,
        label="within 10%",
    )
    axis.set(xscale="log", yscale="log", xlim=ends, ylim=ends, ylabel="predicted joules per step")
    axis.set_xlabel(f"{block.provenance} joules per step (meter {block.meter})")
    axis.set_title(
        f"{profile.name}: mean error {block.mean_abs_error:.1%}, worst {block.worst_abs_error:.1%}\n"
        f"{banner(block.provenance, block.meter)}"
    )
    axis.legend(frameon=False)
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise ProfileError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}; choose another target"
        ) from None
    finally:
        plt.close(figure)
    return path
