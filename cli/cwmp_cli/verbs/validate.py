"""Verb `validate`: measure work that the fit never saw and hold the profile's predictions against it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cwmp_cli.options.console import DeviceName, Json, Preset, SysfsRoot, TdpW, err, out, print_json, si, warn
from cwmp_cli.options.residency import settle_levels

if TYPE_CHECKING:
    from cwmp_costmodels.profile.schema import Profile, ValidationBlock
    from cwmp_profiler.sessions.measurements import Measurements


def validate(
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="Profile file or shipped name.")],
    device: Annotated[DeviceName | None, typer.Option("--device", help="Default: the profile's device.")] = None,
    meter: Annotated[str | None, typer.Option("--meter", metavar="NAME", help="Default: the profile's meter.")] = None,
    preset: Annotated[Preset, typer.Option("--preset", help="quick takes a few cases, standard all.")] = Preset.quick,
    repeats: Annotated[int | None, typer.Option("--repeats", min=1, help="Windows per case.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of order and operands.")] = 1,
    truth: Annotated[str | None, typer.Option("--truth", metavar="FILE", help="Truth of a simulated device.")] = None,
    tdp_w: TdpW = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Profile to write (default: the one given).")
    ] = None,
    windows: Annotated[
        Path | None,
        typer.Option("--windows", metavar="FILE", help="Keep the measurements (default: beside the profile)."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Write the calibration plot (PNG).")
    ] = None,
    sysfs_root: SysfsRoot = None,
    as_json: Json = False,
) -> None:
    """Measure whole training steps that the fit never saw and compare them with the profile's predictions.

    The result goes into the profile, and 'show' displays it.

    [bold]Example:[/bold] cwmp-profile validate this-pc.json --plot calibration.png
    """
    import cwmp
    from cwmp_cli.options.session import run_session, show_plan
    from cwmp_cli.options.targets import open_targets
    from cwmp_costmodels.errors import ProfileError
    from cwmp_costmodels.profile.files import load_profile, refined_target, save_profile
    from cwmp_costmodels.validation.predictions import check_same_device
    from cwmp_costmodels.validation.predictions import validate as compare
    from cwmp_costmodels.validation.work import FAMILY, validation_points
    from cwmp_profiler.sessions.plan import make_plan
    from cwmp_profiler.sessions.session import Session

    loaded = load_profile(profile)
    if not loaded.times:
        raise ProfileError(
            f"profile {loaded.name} has no $.times ({loaded.provenance}), so it cannot predict whole work"
        )
    target_path = refined_target(profile, output, what="validated")
    kind = device.value if device is not None else loaded.device.kind
    named = meter or (None if kind == "simulated" else loaded.meter.name)
    rated_w = tdp_w or assumed_power_w(loaded, named)
    with open_targets(kind, meter=named, truth=truth, seed=seed, sysfs_root=sysfs_root, tdp_w=rated_w) as targets:
        target = targets[0]
        check_same_device(loaded, target.device.info, target.meter.name)
        settle_levels(target.device, loaded.device.info())
        plan = make_plan(
            target.device.info,
            target.meter,
            preset=preset.value,
            repeats=repeats,
            seed=seed,
            families=["idle"],
            extra=validation_points(preset.value),
        )
        session = Session(
            target.device, target.meter, plan, tool=f"cwmp-profile {cwmp.__version__}", gpu_state=target.state
        )
        if not as_json:
            show_plan(session)
        kept = windows or target_path.with_name(f"{target_path.stem}.{FAMILY}.jsonl")
        found = run_session(session, kept, overwrite=windows is None)
    block = compare(loaded, found)
    validated = loaded.model_copy(update={"validation": block})
    save_profile(validated, target_path)
    if plot is not None:
        from cwmp_costmodels.validation.plot import plot_validation

        plot_validation(validated, plot)
    if as_json:
        print_json({"profile": str(target_path), "windows": str(kept), **block.model_dump(mode="json")})
        return
    show_validation(validated, block)
    _warn_of_load(found)
    err().print(f"wrote {target_path} (measurements in {kept}){f', {plot}' if plot else ''}")


def _warn_of_load(found: Measurements) -> None:
    busy = sum("background load" in window.flags for window in found.windows)
    if busy:
        warn(
            f"other programs were busy in {busy} of {len(found.windows)} windows, so the errors are theirs as much as the "
            "profile's; validate again when the machine is quiet"
        )


def assumed_power_w(profile: Profile, meter: str | None) -> float | None:
    """Return the watts that an estimated profile took, so that its estimate is held against itself and not against another."""
    static = profile.coefficients.get("static_power")
    estimated = str(profile.meter.provenance) == "estimated" and meter == profile.meter.name
    return static.value if estimated and static is not None else None


def show_validation(profile: Profile, block: ValidationBlock) -> None:
    """Print predicted against measured joules, case by case."""
    from rich.table import Table

    from cwmp_cli.tables.costs import LACKING
    from cwmp_profiler.provenance import banner

    console = out()
    if str(block.provenance) != "measured":
        warn(f"these joules: {banner(block.provenance, block.meter)}")
    table = Table(title=f"{profile.name}: joules per step", title_justify="left", box=None, pad_edge=False)
    for heading in ("case", "predicted", "95% interval", str(block.provenance), "error", "spread"):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    for case in block.cases:
        table.add_row(
            case.case,
            si(case.predicted_j, "J"),
            _interval(case.detail),
            si(case.measured_j, "J"),
            f"{case.error:+.1%}",
            f"{case.detail.get('spread', 0.0):.1%}",
        )
    console.print(table)
    console.print(f"mean absolute error {block.mean_abs_error:.1%}, worst {block.worst_abs_error:.1%}")
    within = [
        case.detail["low_j"] <= case.measured_j <= case.detail["high_j"]
        for case in block.cases
        if "low_j" in case.detail
    ]
    if within:
        console.print(f"{sum(within)} of {len(within)} measured values lie within their 95% interval")
    for what in dict.fromkeys(what for case in block.cases for what in case.detail.get("interval_lacks", ())):
        console.print(f"of these intervals: {LACKING[what]}")
    for case in block.cases:
        if case.detail.get("outside"):
            warn(
                f"{case.case}: {case.detail['outside_share']:.0%} of its predicted time lies outside of what was measured "
                f"({case.detail['outside'][0]}, ...); time its operators with 'cwmp-profile measure --model'"
            )


def _interval(detail: dict[str, Any]) -> str:
    if "low_j" not in detail:
        return "-"
    return f"{si(detail['low_j'], 'J')} to {si(detail['high_j'], 'J')}"
