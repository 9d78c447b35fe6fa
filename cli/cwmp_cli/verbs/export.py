"""Verb `export`: a measurements file as a flat table, for spreadsheets and data frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cwmp_cli.options.console import err


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Measurements file.", show_default=False)],
    *,
    csv: Annotated[bool, typer.Option("--csv", help="As CSV (to stdout without -o).")] = False,
    parquet: Annotated[bool, typer.Option("--parquet", help="As Parquet; needs -o, pandas and pyarrow.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="TABLE", help="Where to write.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing table.")] = False,
) -> None:
    """Write one row per window: joules by rail, seconds, work counts, environment, flags, meter and provenance.

    In Python: `cwmp_profiler.sessions.table.to_frame(read_measurements(path))`.

    [bold]Example:[/bold] cwmp-profile export this-pc.jsonl --csv -o this-pc.csv
    """
    from cwmp_profiler.errors import CwmpError
    from cwmp_profiler.sessions.measurements import read_measurements
    from cwmp_profiler.sessions.table import to_csv, to_frame

    if csv == parquet:
        raise typer.BadParameter("give one of them", param_hint="--csv, --parquet")
    if parquet and output is None:
        raise typer.BadParameter("a Parquet file needs a name: -o TABLE.parquet", param_hint="--parquet")
    found = read_measurements(file)
    if output is None:
        print(to_csv(found), end="")
        return
    if output.exists() and output.samefile(file):
        raise CwmpError(f"{output} is the measurements file itself; choose another target with -o")
    if output.exists() and not force:
        raise CwmpError(f"{output} exists; replace it with --force or choose another target with -o")
    from cwmp_costmodels.profile.files import write_atomic

    write_atomic(output, to_csv(found) if csv else to_frame(found).to_parquet(index=False))
    err().print(f"wrote {len(found.windows)} rows to {output}", markup=False)
