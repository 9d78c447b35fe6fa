"""Verb `demo`: the whole way on this machine, from joules to a profile to a training run. `make demo` calls it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cwmp_cli.options.console import DeviceName, SysfsRoot, TdpW, err, si

if TYPE_CHECKING:
    from cwmp_cli.options.targets import Target
    from cwmp_costmodels.costs.layers import LayerCosts
    from cwmp_costmodels.profile.schema import Profile
    from cwmp_selector.gain.expected import Gain

MODEL = "resnet18"
STEP_MODEL, STEP_BATCH = "cnn", 32
"""Whose training step is priced by its operators and held against the whole step."""


def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for results; made if missing.")
    ] = Path("demo-results"),
    device: Annotated[DeviceName, typer.Option("--device", help="What to measure.")] = DeviceName.auto,
    meter: Annotated[str | None, typer.Option("--meter", metavar="NAME", help="Default: the best one.")] = None,
    tdp_w: TdpW = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything.")] = 0,
    train: Annotated[bool, typer.Option("--train/--no-train", help="End with a small federated training run.")] = True,
    sysfs_root: SysfsRoot = None,
) -> None:
    """Measure this machine, fit, show what updating a ResNet-18 costs, and train under an energy budget.

    Beside it, the same chain runs on a simulated board, whose truth is known. Takes a few minutes. Results of an earlier demo in the folder are replaced.

    [bold]Example:[/bold] cwmp-profile demo -o demo-results
    """
    from cwmp_cli.options.console import out
    from cwmp_cli.options.session import plan_session, run_session, show_plan, show_result
    from cwmp_cli.options.targets import open_targets
    from cwmp_cli.tables.profile import print_profile
    from cwmp_cli.verbs.costs import show_costs
    from cwmp_costmodels.fit.sessions import fit_sessions
    from cwmp_costmodels.profile.files import save_profile
    from cwmp_costmodels.report.plots import plot_fit
    from cwmp_profiler.errors import SessionError

    began = time.monotonic()
    for package in ("matplotlib", "flwr") if train else ("matplotlib",):
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"no module named {package}", name=package)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SessionError(f"cannot make {output}: {error.strerror}; choose another folder with -o") from None
    measurements, fitted, plot = output / "measurements.jsonl", output / "profile.json", output / "fit.png"
    operators = output / "operators.jsonl"
    _step(1, "measure this machine")
    with open_targets(device.value, meter=meter, seed=seed, sysfs_root=sysfs_root, tdp_w=tdp_w) as targets:
        session = plan_session(targets[0], preset="quick", repeats=None, seed=seed, held="")
        show_plan(session)
        found = run_session(session, measurements, overwrite=True)
        real = _measure_step(targets[0], operators, seed)
    show_result(found)
    _step(2, "fit the cost coefficients")
    profile = _with_operators(fit_sessions([found], name="demo", seed=seed), operators if real else None, seed)
    save_profile(profile, fitted)
    print_profile(out(), profile)
    plot_fit(profile, plot)
    _step(3, f"what updating a {MODEL} costs here")
    costs, gain = _priced(profile)
    show_costs(costs, gain, MODEL)
    written = [measurements, *([operators] if real else []), fitted, plot]
    learned = f"for a {MODEL} on {profile.device.model} ({profile.provenance}), {gain.advice}"
    details = [
        f"writing all of a {MODEL} once costs {si(costs.dense_j(), 'J')} on {profile.device.model}; {gain.verdict}",
        *([_prediction(profile)] if real else []),
    ]
    if real:
        _step(4, "the same chain on a simulated board, whose truth is known")
        worst, board, made = _simulated(output, seed)
        written += made
        priced = _priced(board)[1]
        learned += f"; on a simulated board, {priced.advice}"
        details.append(
            f"on the simulated board the fit found every coefficient that it calls identified within {worst:.1%} of the truth; {priced.verdict}"
        )
    if train:
        _step(5, "train under an energy budget: CWMP and Top-K at equal energy")
        from cwmp_federated.demo import run_demo

        written += run_demo(output, fitted)
    _end(time.monotonic() - began, output, written, details, learned)


def _end(seconds: float, output: Path, written: Sequence[Path], details: Sequence[str], learned: str) -> None:
    """Print what was written, what was found, and one sentence that it comes to."""
    console = err()
    console.print(f"\n[bold]Done in {seconds:.0f} s.[/bold] In {output}:")
    for path in written:
        console.print(f"  {path}")
    console.print()
    for fact in details:
        console.print(fact, highlight=False)
    console.print(f"\n[bold]Learned:[/bold] {learned}.", highlight=False)


def _priced(profile: Profile) -> tuple[LayerCosts, Gain]:
    """Return costs of the demo's model by a profile, and what CWMP gains at 1% of its entries."""
    from cwmp_costmodels.costs.layers import layer_costs
    from cwmp_costmodels.networks.source import load_model
    from cwmp_selector.gain.expected import expected_gain

    costs = layer_costs(profile, load_model(MODEL))
    return costs, expected_gain(costs, k=0.01 * sum(costs.numel(name) for name in costs.names()))


def _simulated(output: Path, seed: int) -> tuple[float, Profile, list[Path]]:
    """Measure and fit the simulated board; return the worst relative error of an identified coefficient, the profile, and the files."""
    from cwmp_cli.options.session import plan_session, run_session, show_result
    from cwmp_cli.options.targets import open_targets
    from cwmp_costmodels.fit.sessions import fit_sessions
    from cwmp_costmodels.profile.files import load_profile, save_profile
    from cwmp_costmodels.simulation.truth import DEFAULT_TRUTH

    measurements, fitted = output / "simulated.jsonl", output / "simulated.json"
    with open_targets("simulated", seed=seed) as targets:
        found = run_session(
            plan_session(targets[0], preset="standard", repeats=None, seed=seed), measurements, overwrite=True
        )
    show_result(found)
    profile, truth = fit_sessions([found], name="demo-simulated", seed=seed), load_profile(DEFAULT_TRUTH)
    save_profile(profile, fitted)
    errors = [
        abs(coefficient.value / truth.coefficients[name].value - 1)
        for name, coefficient in profile.coefficients.items()
        if coefficient.status == "identified"
    ]
    err().print(f"{len(errors)} coefficients identified, the worst {max(errors):.1%} from the truth (SIMULATED)")
    return max(errors), profile, [measurements, fitted]


def _step(number: int, what: str) -> None:
    err().print(f"\n[bold]{number}. {what}[/bold]")


def _measure_step(target: Target, path: Path, seed: int) -> bool:
    """Time the operators of the demo's step where torch runs them; return whether it does."""
    if target.device.info.kind == "simulated":
        return False
    from cwmp_cli.options.measure_operators import StepOptions, measure_operators

    step = StepOptions(model=(STEP_MODEL,), optimizer="sgd", batch=STEP_BATCH, density=1.0)
    measure_operators(target, step, path, families=False, seed=seed, overwrite=True)
    return True


def _with_operators(profile: Profile, path: Path | None, seed: int) -> Profile:
    if path is None:
        return profile
    from cwmp_costmodels.operators.measured import fit_operators
    from cwmp_profiler.operators.records import read_operators

    return profile.model_copy(update={"operators": fit_operators([read_operators(path)], profile, seed=seed)})


def _prediction(profile: Profile) -> str:
    """Say what the profile predicts of a step that it never saw as a whole, and what the step took."""
    from cwmp_cli.verbs.costs import step_cost
    from cwmp_costmodels.errors import ProfileError
    from cwmp_costmodels.networks.source import load_model

    if profile.operators is None:
        raise ProfileError(
            f"profile {profile.name} holds no operators; measure them with 'cwmp-profile measure --model SPEC'"
        )
    cost = step_cost(profile, load_model(STEP_MODEL), STEP_MODEL, optimizer="sgd", batch=STEP_BATCH)
    (model,) = profile.operators.models.values()
    return (
        f"a training step of {STEP_MODEL} is predicted to take {si(cost.seconds, 's')} from its operators, and took {si(model.step_s, 's')} "
        f"({cost.seconds / model.step_s - 1:+.0%})"
    )
