"""Verb `report`: one self-contained page about a profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cwmp_cli.options.console import err
from cwmp_cli.verbs.costs import OptimizerName


def report(
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="Profile file or shipped name.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="HTML file to write.")],
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="SPEC", help="Add the costs of a model, as 'costs' takes it; 'none' for none."),
    ] = "resnet18",
    optimizer: Annotated[
        OptimizerName, typer.Option("--optimizer", help="Optimiser of the local steps.")
    ] = OptimizerName.sgd,
    density: Annotated[float, typer.Option("--density", help="Share of entries kept.")] = 0.01,
) -> None:
    """Write one HTML page with fit, residuals, energy roofline, costs of a model, validation and provenance.

    The page loads nothing from elsewhere, reads on a phone and prints.

    [bold]Example:[/bold] cwmp-profile report this-pc.json -o this-pc.html
    """
    from cwmp_costmodels.costs.layers import layer_costs
    from cwmp_costmodels.costs.scenario import Scenario
    from cwmp_costmodels.networks.source import load_model
    from cwmp_costmodels.profile.files import load_profile, write_atomic
    from cwmp_costmodels.report.page import report_html
    from cwmp_selector.gain.expected import expected_gain

    loaded = load_profile(profile)
    costs, verdict = None, ""
    if model and model != "none":
        costs = layer_costs(loaded, load_model(model), Scenario(optimizer=optimizer.value, density=density))
        entries = sum(costs.numel(name) for name in costs.names())
        verdict = expected_gain(costs, k=max(density * entries, 1.0)).verdict
    write_atomic(output, report_html(loaded, costs=costs, verdict=verdict, model=model or ""))
    err().print(f"wrote {output}", markup=False)
