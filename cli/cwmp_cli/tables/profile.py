"""Tables of a profile, as `fit` and `show` print them: values with their doubts, provenance first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cwmp_cli.options.console import si
from cwmp_profiler.provenance import Provenance, banner

if TYPE_CHECKING:
    from rich.text import Text

    from cwmp_costmodels.profile.schema import Coefficient, FitBlock, LackOfFit, Profile

STATUS_STYLE = {"identified": "green", "coarse": "yellow", "not identified": "red", "at bound": "red"}


def heading(profile: Profile) -> list[Any]:
    """Return what a profile is and where its numbers come from."""
    from rich.text import Text

    from cwmp_profiler.devices.residency import residency_remark

    lines = [Text.assemble((profile.name, "bold"), "  ", profile.description)]
    quiet = profile.provenance is Provenance.MEASURED
    lines.append(
        Text(banner(profile.provenance, profile.meter.name), style="bold green" if quiet else "bold black on yellow")
    )
    rails = ", ".join(rail.name for rail in profile.meter.rails)
    device = profile.device
    levels = ", ".join(
        f"{level.name} {si(level.capacity_bytes, 'B') if level.capacity_bytes else ''}".strip()
        for level in device.levels
    )
    lines.append(Text(f"device  {device.kind}: {device.model}, {device.threads} threads, {levels}"))
    if remark := residency_remark(device.info()):
        lines.append(Text(f"        {remark}", style="dim"))
    lines.append(Text(f"meter   {profile.meter.name} ({profile.meter.provenance}){': ' + rails if rails else ''}"))
    calibration = profile.meter.calibration()
    if calibration is not None:
        lines.append(Text(f"        {calibration}", style="" if profile.meter.slope else "yellow"))
    lines.extend(Text(f"        {note}", style="dim") for note in profile.meter.notes)
    lines.append(Text(f"made    {profile.created} by {profile.tool}", style="dim"))
    return lines


def coefficient_table(title: str, coefficients: Mapping[str, Coefficient]) -> Any:
    """Return value, +-, percent and status of each coefficient; the last column holds a citation or remark, if any has one."""
    from rich.table import Table
    from rich.text import Text

    notes = {name: found.citation or found.remark or "" for name, found in coefficients.items()}
    distinct = dict.fromkeys(note for note in notes.values() if note)
    shared = [note for note in distinct if list(notes.values()).count(note) > len(notes) / 2]
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in ("value", "+-", "percent"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    show_notes = bool(distinct) and not shared
    if show_notes:
        table.add_column("source", overflow="fold")
    untold = [name for name, found in coefficients.items() if not found.told]
    for name, found in coefficients.items():
        if name in untold:
            continue
        half = half_width(found)
        percent = "" if half is None or found.value == 0 else f"{half / found.value:.1%}"
        row: list[str | Text] = [
            name,
            amount(found.value, found.unit),
            "" if half is None else amount(half, found.unit),
            percent,
            Text(found.status, style=STATUS_STYLE.get(found.status, "")),
        ]
        table.add_row(*row, *([notes[name]] if show_notes else []))
    lines = []
    if shared:
        lines = [f"{', '.join(name for name, text in notes.items() if text == note)}: {note}" for note in distinct]
        lines[list(distinct).index(shared[0])] = shared[0]
    if untold:
        why = dict.fromkeys(notes[name] for name in untold if notes[name] and not shared)
        lines.append(f"not identified, without a value: {', '.join(untold)}" + (f" ({'; '.join(why)})" if why else ""))
    if lines:
        table.caption, table.caption_justify = "\n".join(lines), "left"
    return table


def amount(value: float, unit: str) -> str:
    """Return a value with an SI prefix, or plain where the unit is 1."""
    return f"{value:.3g}" if unit == "1" else si(value, unit)


def half_width(coefficient: Coefficient) -> float | None:
    """Return the wider half of the 95% interval, None without one."""
    if coefficient.low is None or coefficient.high is None:
        return None
    return max(coefficient.high - coefficient.value, coefficient.value - coefficient.low)


def layer_table(profile: Profile) -> Any:
    """Return the factors per kind of update on energy and time."""
    from rich.table import Table

    table = Table(
        title=f"{profile.provenance} over modelled, by kind of update",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    table.add_column("")
    for name in ("energy", "time", "windows"):
        table.add_column(name, justify="right", no_wrap=True)
    for key, layer in profile.layers.items():
        table.add_row(key, _factor(layer.factor), _factor(layer.time_factor), str(layer.windows))
    return table


def _factor(coefficient: Coefficient | None) -> str:
    if coefficient is None:
        return "-"
    if coefficient.low is None or coefficient.high is None:
        return f"{coefficient.value:.2f}"
    return f"{coefficient.value:.2f} [{coefficient.low:.2f}, {coefficient.high:.2f}]"


def statistics(block: FitBlock) -> Iterator[tuple[str, str]]:
    """Yield fit statistics as label and text."""
    if block.verdict is not None:
        yield "verdict", block.verdict
    yield "data", f"{block.windows} windows of {block.points} points"
    if block.left_out:
        yield "left out", ", ".join(f"{count} {reason}" for reason, count in block.left_out.items())
    yield "error on them", _errors(block.energy_error, block.time_error)
    yield from _held_out(block)
    if block.dynamic_share is not None:
        yield "joules of work", f"up to {block.dynamic_share:.1%} of a window's; the rest is static power"
    yield from _misfit(block)
    yield from _conditioning(block)
    yield "bootstrap", f"{block.bootstrap} draws, seed {block.seed}"
    for source in block.measurements:
        yield "from", f"{source.name} ({source.windows} windows, sha256 {source.sha256[:12]})"


def _held_out(block: FitBlock) -> Iterator[tuple[str, str]]:
    if block.held_out_energy_error is not None and block.held_out_time_error is not None:
        yield "error held out", _errors(block.held_out_energy_error, block.held_out_time_error)
    for group in block.held_out:
        yield f"  without {group.family}", _errors(group.energy_error, group.time_error)
    if block.not_held_out:
        yield "  cannot be left out", ", ".join(block.not_held_out)


def _misfit(block: FitBlock) -> Iterator[tuple[str, str]]:
    if block.repeat_spread is not None:
        yield "repeats differ by", f"{block.repeat_spread:.2%} (median standard deviation)"
    for name, lack in (("energy", block.energy_lack), ("time", block.time_lack)):
        if lack is not None:
            yield f"lack of fit, {name}", _lack(lack)
    if block.order_correlation is not None:
        drift = f", drift {block.drift:.1%}" if block.drift else ""
        yield "serial correlation", f"{block.order_correlation:.2f}{drift}"


def _conditioning(block: FitBlock) -> Iterator[tuple[str, str]]:
    yield "condition number", f"{block.condition_number:.3g}"
    if block.vif:
        name = max(block.vif, key=lambda key: block.vif[key])
        yield "variance inflation", f"at most {block.vif[name]:.3g} ({name})"
    if block.idle_power_w is not None:
        yield "power at rest", f"{si(block.idle_power_w, 'W')} (not the static power)"
    if block.static == "attributed":
        yield "static power", "attributed only: energy is proportional to time"
    if block.static == "included":
        yield "static power", "not identified: the joules per count include it"


def _errors(energy: float, time: float) -> str:
    return f"energy {energy:.1%}, time {time:.1%}"


def _lack(lack: LackOfFit) -> str:
    return f"F({lack.points}, {lack.repeats}) = {lack.statistic:.3g}, p = {lack.p_value:.2g}, misfit {lack.misfit:.1%}"


def print_profile(console: Any, profile: Profile) -> None:
    """Print a whole profile: heading, coefficients, layers, radios, fit, validation, warnings."""
    from rich.table import Table
    from rich.text import Text

    for line in heading(profile):
        console.print(line)
    console.print()
    console.print(coefficient_table("energy", profile.coefficients))
    if profile.times:
        console.print()
        console.print(coefficient_table("time", profile.times))
    if profile.layers:
        console.print()
        console.print(layer_table(profile))
    if profile.radios:
        console.print()
        for line in radio_lines(profile):
            console.print(Text(line))
    if profile.fit is not None:
        console.print()
        table = Table(
            title="fit", title_justify="left", title_style="bold", box=None, pad_edge=False, show_header=False
        )
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for label, text in statistics(profile.fit):
            style = (
                {"bad": "bold red", "doubtful": "yellow", "good": "green"}.get(text, "") if label == "verdict" else ""
            )
            table.add_row(label, Text(text, style=style))
        console.print(table)
    for line in operator_lines(profile):
        console.print(Text(line))
    console.print()
    console.print(Text(validation_line(profile)))
    for warning in warnings_of(profile):
        console.print(Text.assemble(("warning: ", "yellow"), warning))


def operator_lines(profile: Profile) -> Iterator[str]:
    """Yield what a profile knows of operators: models timed, families with their samples, overheads, what they hold for."""
    found = profile.operators
    if found is None:
        return
    yield ""
    if found.models:
        yield f"operators timed of {', '.join(sorted(found.models))}"
    if found.families:
        sizes = (f"{name} {len(data.get('samples', ()))}" for name, data in sorted(found.families.items()))
        yield f"families of operators (samples): {', '.join(sizes)}"
    calls = ", ".join(
        f"{si(seconds, 's')} per {'call of a step without a backward pass' if kind == 'alone' else f'{kind} call'}"
        for kind, seconds in found.overhead_s.items()
        if kind not in {"view", "step"}
    )
    yield f"beside operators: {calls}, {si(found.overhead_s.get('view', 0.0), 's')} per view, {si(found.overhead_s.get('step', 0.0), 's')} a step, {si(found.fault_s, 's')} per page fault"
    yield f"they hold for torch {found.validity.torch} on {found.validity.threads} thread(s)"


def radio_lines(profile: Profile) -> Iterator[str]:
    """Yield one line per radio: marginal joules per bit at its own rate and fixed joules per burst, apart."""
    from cwmp_costmodels.radio import profile_radio

    for name in sorted(profile.radios):
        radio = profile_radio(profile, name)
        up, down = (si(radio.marginal_j_per_bit(way), "J/bit") for way in ("up", "down"))
        yield f"radio {name} ({radio.provenance}): up {up}, down {down}, {si(radio.burst_j('up'), 'J')} per burst"


def warnings_of(profile: Profile) -> list[str]:
    """Return the warnings of the fit; of a profile that was not fitted, what published values make doubtful."""
    if profile.fit is not None:
        return profile.fit.warnings
    from cwmp_costmodels.profile.plausibility import plausibility_warnings

    return plausibility_warnings(profile)


def validation_line(profile: Profile) -> str:
    """Return one line on how far predictions were checked against work that the fit never saw."""
    found = profile.validation
    if found is None:
        return (
            "not validated: predictions were never held against work that the fit did not see ('cwmp-profile validate')"
        )
    return (
        f"validated {found.created} on {len(found.cases)} cases ({found.provenance}, meter {found.meter}): mean error "
        f"{found.mean_abs_error:.1%}, worst {found.worst_abs_error:.1%}"
    )
