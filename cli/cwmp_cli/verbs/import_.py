"""Verb `import`: readings of others, a table or a log, become a measurements file that `check` and `fit` take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cwmp_cli.options.console import Json, err, out, print_json, warn

if TYPE_CHECKING:
    from cwmp_profiler.imports.mapping import Mapping
    from cwmp_profiler.imports.session import Imported

SHOWN = 3
"""Bad rows of a reason that are shown without --all."""


def import_(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Table, log or folder of readings.")],
    *,
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Measurements file; '{device}' in it writes one per device."
        ),
    ],
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FILE|KEY=EXPR",
            help="Mapping file (TOML), or one piece: energy=COL:uJ, power=COL:W, duration=COL:ms, iterations=COL, "
            "clock=COL:MHz, workload=NAME, params=COL,COL, or a count as dram_read=EXPR. May recur.",
        ),
    ] = None,
    device_name: Annotated[
        str | None, typer.Option("--device-name", metavar="NAME", help="Model of the device, as it shall be called.")
    ] = None,
    device_column: Annotated[
        str | None, typer.Option("--device-column", metavar="COL", help="Column that tells several devices apart.")
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="VALUE", help="Value of that column for the device wanted.")
    ] = None,
    semantics: Annotated[
        str | None,
        typer.Option("--semantics", help="What a reading is: total, mean, max, min (of samples), or per-part."),
    ] = None,
    parts: Annotated[
        int | None, typer.Option("--parts", min=1, help="Equal parts that a per-part reading is one of (sockets).")
    ] = None,
    save_map: Annotated[
        Path | None, typer.Option("--save-map", metavar="FILE", help="Keep the whole mapping as TOML.")
    ] = None,
    reader: Annotated[
        str, typer.Option("--reader", help="auto, csv, zeus, codecarbon, nvidia-smi, mlperf or eembc.")
    ] = "auto",
    every: Annotated[bool, typer.Option("--all", help="Name every row that was left out.")] = False,
    as_json: Json = False,
) -> None:
    """Import readings of others: tables of work and joules (or watts and seconds), and logs of power.

    Rows that cannot be true are named, counted and left out. The file holds provenance 'published' and goes through the same
    'check' and 'fit' as one that was measured.

    [bold]Example:[/bold] cwmp-profile import roofline.csv -o a100.jsonl --device-name A100 --map power=W --map duration=1:s
    --map dram_read=GBps*1e9 --map elem_float32=GFlops*1e9 --map params=its
    """
    from cwmp_profiler.imports.readers import open_table
    from cwmp_profiler.imports.session import devices_of, import_table, write_session

    found, preset = open_table(table, reader)
    mapping = _mapping(preset, maps or [], str(table))
    mapping = _with_options(mapping, device_name, device_column, only, semantics, parts)
    names = devices_of(found, mapping)
    split = "{device}" in output and mapping.device.only is None and bool(names)
    chosen = [_of_device(mapping, name) for name in names] if split else [mapping]
    results: list[tuple[Path, Imported]] = []
    for one in chosen:
        target = Path(output.replace("{device}", one.device.only or one.device.name))
        result = import_table(found, one)
        write_session(target, result)
        results.append((target, result))
    if save_map is not None:
        _save(save_map, mapping)
    if as_json:
        print_json({"sessions": [_to_json(path, result) for path, result in results]})
        return
    for path, result in results:
        _show(path, result, every=every)


def _mapping(preset: dict[str, Any] | None, maps: list[str], where: str) -> Mapping:
    """Join what the reader knows, mapping files, and single pieces; later ones win."""
    from cwmp_profiler.imports.mapping import make_mapping, read_mapping

    data: dict[str, Any] = preset or {}
    work: dict[str, Any] = {}
    for text in maps:
        key, sign, value = text.partition("=")
        if not sign:
            data = read_mapping(Path(text)).model_dump(exclude_defaults=True)
            continue
        _add_piece(work, key.strip(), value.strip())
    if work:
        works = data.get("work") or [{}]
        counts = {"counts": work.pop("counts")} if "counts" in work else {}
        replaced = [
            {**one, **work, **({"counts": {**one.get("counts", {}), **counts["counts"]}} if counts else {})}
            for one in works
        ]
        for one in replaced:
            if "energy" in work:
                one.pop("power", None)
            elif "power" in work:
                one.pop("energy", None)
        data = {**data, "work": replaced}
    if not data.get("work"):
        raise typer.BadParameter(
            f"{where} is a plain table: say what its columns are with --map, for example --map energy=joules:J --map duration=seconds:s",
            param_hint="--map",
        )
    return make_mapping(data, where)


def _add_piece(work: dict[str, Any], key: str, value: str) -> None:
    from cwmp_costmodels.units import count_unit

    if key in {"energy", "power", "duration", "iterations", "clock", "temperature", "when"}:
        work[key] = value
    elif key == "workload":
        work["name"] = value
    elif key == "params":
        work["params"] = [name.strip() for name in value.split(",") if name.strip()]
    else:
        try:
            count_unit(key)
        except ValueError:
            raise typer.BadParameter(
                f"{key!r} is neither a quantity (energy, power, duration, iterations, clock, temperature, when, workload, params) nor "
                "a count (dram_read, flop_float32, launch, run_NAME, ...)",
                param_hint="--map",
            ) from None
        work.setdefault("counts", {})[key] = value


def _with_options(
    mapping: Mapping,
    device_name: str | None,
    device_column: str | None,
    only: str | None,
    semantics: str | None,
    parts: int | None,
) -> Mapping:
    from cwmp_profiler.imports.mapping import make_mapping

    data = mapping.model_dump(exclude_defaults=True)
    given = {"name": device_name, "column": device_column, "only": only}
    meter = {"semantics": semantics, "parts": parts}
    for block, values in (("device", given), ("meter", meter)):
        chosen = {key: value for key, value in values.items() if value is not None}
        if chosen:
            data[block] = {**data.get(block, {}), **chosen}
    return make_mapping(data, "options")


def _of_device(mapping: Mapping, name: str) -> Mapping:
    own = mapping.device.name.replace("{device}", name) if mapping.device.name else name
    return mapping.model_copy(update={"device": mapping.device.model_copy(update={"only": name, "name": own})})


def _save(path: Path, mapping: Mapping) -> None:
    from cwmp_costmodels.profile.files import write_atomic
    from cwmp_profiler.imports.mapping import to_toml

    write_atomic(path, to_toml(mapping))
    err().print(f"mapping kept in {path}", markup=False)


def _to_json(path: Path, found: Imported) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "file": str(path),
        "device": found.header.device_info().model,
        "provenance": str(found.header.meter.provenance),
        "rows": found.rows,
        "windows": len(found.windows),
        "bad": [asdict(row) for row in found.bad],
        "other_clock": found.other_clock,
    }


def _show(path: Path, found: Imported, *, every: bool) -> None:
    from cwmp_profiler.imports.rows import by_reason
    from cwmp_profiler.provenance import banner

    meter = found.header.meter
    points = len(found.header.plan.points)
    out().print(
        f"{found.header.device_info().model}: {len(found.windows)} windows of {points} points from {found.rows} rows, "
        f"{banner(meter.provenance, meter.name)}",
        markup=False,
    )
    for reason, rows in by_reason(found.bad).items():
        shown = rows if every else rows[:SHOWN]
        more = f"; and {len(rows) - len(shown)} more (--all)" if len(shown) < len(rows) else ""
        where = "; ".join(f"line {row.line}{f' {row.work}' if row.work else ''}, {row.detail}" for row in shown)
        warn(f"{len(rows)} left out, {reason}: {where}{more}")
    if found.other_clock:
        warn(f"{found.other_clock} left out at a lower clock than the highest")
    err().print(f"wrote {path}; next: cwmp-profile check {path}, cwmp-profile fit {path}", markup=False)
