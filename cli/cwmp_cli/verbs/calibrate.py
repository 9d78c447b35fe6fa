"""Verb `calibrate`: slope and offset of a profile's meter against a reference, read at once or from an instrument's CSV file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cwmp_cli.options.console import DeviceName, Json, SysfsRoot, err, out, print_json

if TYPE_CHECKING:
    from cwmp_cli.options.targets import Target
    from cwmp_costmodels.profile.calibrated import Calibration
    from cwmp_costmodels.profile.schema import Profile
    from cwmp_profiler.calibration.lag import Alignment
    from cwmp_profiler.calibration.readings import LoadWindow
    from cwmp_profiler.meters.base import Meter


def calibrate(
    profile: Annotated[
        str, typer.Argument(metavar="PROFILE", help="Profile that gets slope and offset.", show_default=False)
    ],
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="METER", help="Meter that is believed; read while the loads run."),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Times and watts of an external instrument; with --loads."),
    ] = None,
    loads: Annotated[
        Path | None, typer.Option("--loads", metavar="FILE", help="Loads that ran while the instrument logged.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option("--record", metavar="FILE", help="Only run the loads, while an instrument logs.")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            "--pairs",
            metavar="TABLE",
            help="Table of both meters' power, a row a load; with --meter-power and --reference-power.",
        ),
    ] = None,
    meter_power: Annotated[
        str | None,
        typer.Option("--meter-power", metavar="EXPR:UNIT", help="The meter's power in TABLE, as 'import' takes it."),
    ] = None,
    reference_power: Annotated[
        str | None, typer.Option("--reference-power", metavar="EXPR:UNIT", help="The reference's power in TABLE.")
    ] = None,
    load_column: Annotated[
        str | None,
        typer.Option(
            "--load-column", metavar="NAME", help="Column of TABLE that names the load. Default: each row is one."
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log",
            metavar="FILE",
            help="The meter's own power log (nvidia-smi, spl.txt); with --csv, instead of --loads.",
        ),
    ] = None,
    log_zone_h: Annotated[
        float, typer.Option("--log-zone-h", help="Hours that the log's local time is ahead of UTC.")
    ] = 0.0,
    time_column: Annotated[
        str | None, typer.Option("--time-column", metavar="NAME", help="Column of the times. Default: found by name.")
    ] = None,
    power_column: Annotated[
        str | None, typer.Option("--power-column", metavar="NAME", help="Column of the power. Default: found by name.")
    ] = None,
    max_lag_s: Annotated[
        float, typer.Option("--max-lag-s", min=0.0, help="Largest difference of the two clocks to look for.")
    ] = 120.0,
    device: Annotated[DeviceName, typer.Option("--device", help="What runs the loads.")] = DeviceName.auto,
    truth: Annotated[
        str | None, typer.Option("--truth", metavar="FILE", help="Profile that a simulated device takes as its truth.")
    ] = None,
    meter: Annotated[
        str | None, typer.Option("--meter", metavar="NAME", help="Meter to calibrate. Default: the profile's.")
    ] = None,
    window_s: Annotated[float, typer.Option("--window-s", min=0.5, help="Seconds per window at least.")] = 5.0,
    rounds: Annotated[int, typer.Option("--rounds", min=2, help="Windows per load.")] = 3,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the order of loads.")] = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Profile to write. Default: PROFILE itself.")
    ] = None,
    sysfs_root: SysfsRoot = None,
    as_json: Json = False,
) -> None:
    """Calibrate a profile's meter against a better one: slope and offset with 95% intervals, stored in the profile.

    Two meters on this machine: --reference METER. An external instrument: start its logging, --record LOADS, stop it, and
    then --loads LOADS --csv FILE. Recorded by others: --pairs TABLE, or --log FILE --csv FILE. The profile's joules stay as the
    meter read them.

    [bold]Example:[/bold] cwmp-profile calibrate this-pc.json --reference joulescope
    """
    from cwmp_costmodels.profile.calibrated import fit_slope, with_calibration
    from cwmp_costmodels.profile.files import load_profile, refined_target, save_profile
    from cwmp_profiler.calibration.readings import measured_pairs

    recorded = pairs is not None or log is not None
    _one_way(reference, csv, loads, record, pairs, log)
    found = load_profile(profile)
    if not recorded:
        _ours(found)
    target = refined_target(profile, output, what="calibrated") if record is None else None
    alignment: Alignment | None = None
    windows: list[LoadWindow] = []
    readings: list[tuple[str, float, float]] | None = None
    if pairs is not None:
        readings, against = _from_table(pairs, meter_power, reference_power, load_column)
    elif csv is not None and log is not None:
        against = csv.name
        windows, alignment = _from_log(log, log_zone_h, window_s, csv, time_column, power_column, max_lag_s)
    elif csv is not None and loads is not None:
        against = csv.name
        windows, alignment = _from_csv(found, loads, csv, time_column, power_column, max_lag_s)
    else:
        windows, against = _run(
            found,
            reference,
            record,
            device=device.value,
            meter=meter or found.meter.name,
            truth=truth,
            sysfs_root=sysfs_root,
            least_s=window_s,
            rounds=rounds,
            seed=seed,
        )
    if target is None:
        err().print(
            f"{len(windows)} windows in {record}; next: cwmp-profile calibrate {profile} --loads {record} --csv FILE"
        )
        if as_json:
            print_json({"loads": str(record), "windows": len(windows)})
        return
    result = fit_slope(readings if readings is not None else measured_pairs(windows))
    save_profile(with_calibration(found, result, against), target)
    if as_json:
        lag = (
            {"lag_s": alignment.lag_s, "correlation": alignment.correlation, "left_out": alignment.left_out}
            if alignment
            else None
        )
        print_json(
            {
                "profile": str(target),
                "meter": found.meter.name,
                "reference": against,
                "alignment": lag,
                **result.to_json(),
            }
        )
    else:
        _show(result, found.meter.name, against, alignment, target)


def _one_way(
    reference: str | None,
    csv: Path | None,
    loads: Path | None,
    record: Path | None,
    pairs: Path | None,
    log: Path | None,
) -> None:
    """Refuse anything but one of the ways.

    Raises:
        typer.BadParameter: For wrong usage.
    """
    if sum(way is not None for way in (reference, csv, record, pairs)) != 1:
        raise typer.BadParameter(
            "give one of --reference METER, --record FILE, --pairs TABLE, or --loads FILE (or --log FILE) with --csv FILE"
        )
    if (csv is None) != (loads is None and log is None) or (loads is not None and log is not None):
        raise typer.BadParameter(
            "--csv goes with --loads or --log: the instrument's file, and the loads that ran (or the meter's own log) meanwhile"
        )


def _from_table(
    table: Path, meter_power: str | None, reference_power: str | None, load_column: str | None
) -> tuple[list[tuple[str, float, float]], str]:
    from cwmp_profiler.imports.pairs import read_pairs

    if meter_power is None or reference_power is None:
        raise typer.BadParameter("--pairs needs --meter-power EXPR:UNIT and --reference-power EXPR:UNIT")
    return read_pairs(table, meter_power, reference_power, load_column), table.name


def _from_log(
    log: Path,
    zone_h: float,
    window_s: float,
    csv: Path,
    time_column: str | None,
    power_column: str | None,
    max_lag_s: float,
) -> tuple[list[LoadWindow], Alignment]:
    from cwmp_profiler.calibration.instrument_csv import read_power_csv
    from cwmp_profiler.calibration.lag import align
    from cwmp_profiler.imports.pairs import log_windows, read_power_log

    trace = read_power_csv(csv, time_column=time_column, power_column=power_column)
    interval_s = (trace.times_s[-1] - trace.times_s[0]) / (len(trace.times_s) - 1)
    windows = log_windows(read_power_log(log), window_s, reference_interval_s=interval_s, shift_s=-3600.0 * zone_h)
    return align(trace, windows, max_lag_s=max_lag_s)


def _from_csv(
    profile: Profile, loads: Path, csv: Path, time_column: str | None, power_column: str | None, max_lag_s: float
) -> tuple[list[LoadWindow], Alignment]:
    from cwmp_profiler.calibration.instrument_csv import read_power_csv
    from cwmp_profiler.calibration.lag import align
    from cwmp_profiler.calibration.loads_file import read_loads

    recorded = read_loads(loads)
    _same(profile, recorded.meter, recorded.device, str(loads))
    trace = read_power_csv(csv, time_column=time_column, power_column=power_column)
    return align(trace, recorded.load_windows(), max_lag_s=max_lag_s)


def _same(profile: Profile, meter: str, device: str, where: str) -> None:
    """Refuse loads of another meter or device than the profile's.

    Raises:
        ProfileError: With both.
    """
    from cwmp_costmodels.errors import ProfileError

    if (meter, device) != (profile.meter.name, profile.device.model):
        raise ProfileError(
            f"{where} is of meter {meter} on {device}, profile {profile.name} of meter {profile.meter.name} on "
            f"{profile.device.model}; calibrate the profile's own meter on its device"
        )


def _run(
    profile: Profile,
    reference: str | None,
    save_to: Path | None,
    *,
    device: str,
    meter: str,
    truth: str | None,
    sysfs_root: str | None,
    least_s: float,
    rounds: int,
    seed: int,
) -> tuple[list[LoadWindow], str]:
    """Run the loads here; return the windows and the reference's name."""
    from contextlib import ExitStack

    from cwmp_cli.options.targets import open_targets
    from cwmp_profiler.calibration.readings import record

    with ExitStack() as stack:
        targets = stack.enter_context(open_targets(device, meter=meter, truth=truth, seed=seed, sysfs_root=sysfs_root))
        target = targets[0]
        _same(profile, target.meter.name, target.device.info.model, "this machine")
        against = None
        if reference is not None:
            against = stack.enter_context(_open_reference(reference, target, sysfs_root, seed))
        with _bar() as tell:
            windows = record(target.device, target.meter, against, least_s=least_s, rounds=rounds, seed=seed, tell=tell)
        if save_to is not None:
            _save_loads(save_to, target, windows)
        return windows, against.name if against is not None else ""


def _ours(profile: Profile) -> None:
    """Refuse a profile of readings that others took: its meter cannot be read here.

    Raises:
        ProfileError: If it is one.
    """
    from cwmp_costmodels.errors import ProfileError
    from cwmp_profiler.provenance import Provenance

    if profile.meter.provenance is Provenance.PUBLISHED:
        raise ProfileError(
            f"profile {profile.name} holds readings that others published ({profile.meter.name}); their meter cannot be held against "
            "one here: measure this device yourself ('cwmp-profile measure')"
        )


def _open_reference(name: str, target: Target, sysfs_root: str | None, seed: int) -> Meter:
    """Open the reference.

    Raises:
        MeterError: If it is not available, or the meter that is to be calibrated.
    """
    from cwmp_profiler.devices.simulated import SimulatedDevice
    from cwmp_profiler.devices.simulated_wall import SimulatedWall
    from cwmp_profiler.errors import MeterError
    from cwmp_profiler.meters.base import MeterContext
    from cwmp_profiler.meters.registry import open_meter

    if isinstance(target.device, SimulatedDevice):
        if name != "simulated":
            raise MeterError(
                f"a simulated device has its own reference, got --reference {name}; give --reference simulated"
            )
        return SimulatedWall(target.device, seed=seed)
    if name in ("auto", target.meter.name):
        raise MeterError(
            f"--reference {name} is no second meter beside {target.meter.name}; name one of 'cwmp-profile devices'"
        )
    return open_meter(name, MeterContext.from_environment(Path(sysfs_root) if sysfs_root else None))


def _bar() -> Any:
    from contextlib import contextmanager

    @contextmanager
    def bar() -> Any:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[load]}"))
        with Progress(*columns, console=err(), transient=True) as shown:
            task = shown.add_task("windows", total=None, load="")
            yield lambda done, total, load: shown.update(task, completed=done, total=total, load=load)

    return bar()


def _save_loads(path: Path, target: Target, windows: list[LoadWindow]) -> None:
    from dataclasses import asdict
    from datetime import datetime, timezone

    from cwmp_costmodels.profile.files import write_atomic
    from cwmp_profiler.calibration.loads_file import LoadsFile, WindowRecord

    file = LoadsFile(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        meter=target.meter.name,
        provenance=target.meter.provenance,
        device=target.device.info.model,
        windows=[WindowRecord(**asdict(window)) for window in windows],
    )
    write_atomic(path, file.model_dump_json(indent=1) + "\n")


def _show(result: Calibration, meter: str, against: str, alignment: Alignment | None, target: Path) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("load", "windows", f"{meter} W", "reference W", "off the line W"):
        table.add_column(heading, justify="left" if heading == "load" else "right")
    for load in sorted(result.loads, key=lambda load: load.read_w):
        table.add_row(
            load.load, str(load.windows), f"{load.read_w:.3f}", f"{load.reference_w:.3f}", f"{load.residual_w:+.3f}"
        )
    console = out()
    console.print(table)
    if alignment is not None:
        console.print(
            f"instrument's clock {alignment.lag_s:+.2f} s against this machine's (within {alignment.step_s:.2g} s; correlation "
            f"{alignment.correlation:.3f}), {alignment.left_out} windows left out for gaps"
        )
    console.print(
        f"{against} = {result.offset_w:.3g} W ({result.offset_low_w:.3g} to {result.offset_high_w:.3g}) + {result.slope:.4f} "
        f"({result.slope_low:.4f} to {result.slope_high:.4f}) x {meter}",
        markup=False,
    )
    err().print(f"stored in {target}; its joules stay as {meter} read them", markup=False)
