"""Verb `profiles`: the device profiles that ship, with where their numbers come from."""

from __future__ import annotations

from typing import Any

from cwmp_cli.options.console import Json, out, print_json


def profiles(as_json: Json = False) -> None:
    """List the profiles that ship: names that `costs`, `show`, `train` and `cwmp.load_profile` take.

    [bold]Example:[/bold] cwmp-profile profiles
    """
    from rich.table import Table

    from cwmp_costmodels.profile.files import load_profile, shipped_profiles

    rows: list[dict[str, Any]] = []
    for name, path in shipped_profiles().items():
        profile = load_profile(path)
        rows.append(
            {
                "name": name,
                "provenance": str(profile.provenance),
                "device": f"{profile.device.kind}: {profile.device.model}",
                "meter": profile.meter.name,
                "coefficients": len(profile.coefficients),
                "radios": sorted(profile.radios),
                "file": str(path),
            }
        )
    if as_json:
        print_json(rows)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "provenance", "device", "coefficients"):
        table.add_column(heading, justify="right" if heading == "coefficients" else "left")
    for row in rows:
        table.add_row(row["name"], row["provenance"], row["device"], str(row["coefficients"]))
    out().print(table)
    out().print("[dim]also: two-class:RATIO (literature), and any file that 'cwmp-profile fit' wrote[/dim]")
