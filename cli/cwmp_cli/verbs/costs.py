"""Verb `costs`: what an updated entry of each parameter tensor costs on a device, and whether ranking by cost pays."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cwmp_cli.options.console import Json, out, print_json, warn
from cwmp_profiler.compat import StrEnum

if TYPE_CHECKING:
    import torch

    from cwmp_costmodels.costs.layers import LayerCosts
    from cwmp_costmodels.operators.pricing import StepCost
    from cwmp_costmodels.profile.schema import Profile
    from cwmp_selector.gain.expected import Gain


class OptimizerName(StrEnum):
    """What `--optimizer` takes."""

    sgd = "sgd"
    momentum = "momentum"
    adam = "adam"


class StaticName(StrEnum):
    """What `--static` takes."""

    attributed = "attributed"
    excluded = "excluded"


class DecayName(StrEnum):
    """What `--state-decay` takes."""

    lazy = "lazy"
    dense = "dense"


class ResidencyName(StrEnum):
    """What `--residency` takes."""

    step = "step"
    tensor = "tensor"
    memory = "memory"


def costs(
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="A profile's path, or the name of a shipped one.")],
    *,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="SPEC",
            help="resnet18, resnet50, resnet18-small, cnn, cnn-large, mlp, module:callable, or a FILE.pt2 (torch.export).",
        ),
    ],
    optimizer: Annotated[OptimizerName, typer.Option(help="Optimiser of the local steps.")] = OptimizerName.sgd,
    density: Annotated[float, typer.Option(help="Share of entries kept, above 0 and at most 1.")] = 0.01,
    static: Annotated[
        StaticName | None,
        typer.Option(help="Static power over the time of the work: attributed where the profile has times."),
    ] = None,
    local_steps: Annotated[int, typer.Option(help="Local steps that update an entry.")] = 1,
    radio: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Radio preset, radio file, or radio of the profile.")
    ] = None,
    receivers: Annotated[int, typer.Option(help="Devices that receive an entry in the downlink and add it.")] = 0,
    value_bits: Annotated[int, typer.Option(help="Bits of a value on the air.")] = 32,
    index_code: Annotated[
        str, typer.Option(help="Code of positions on the air: entropy, rice, leb128, coo, bitmask.")
    ] = "entropy",
    residency: Annotated[
        ResidencyName,
        typer.Option(help="What decides where a tensor lives: the whole step, each tensor, or nothing: memory."),
    ] = ResidencyName.step,
    state_decay: Annotated[
        DecayName,
        typer.Option(help="Momentum and moments of entries not kept: left alone (lazy), or decayed by a dense step."),
    ] = DecayName.lazy,
    weight_decay: Annotated[bool, typer.Option("--weight-decay", help="Weights decay in each step.")] = False,
    zero_grad: Annotated[
        bool, typer.Option("--zero-grad", help="Gradients are zeroed and added to, not dropped (set_to_none=False).")
    ] = False,
    gradient_flops: Annotated[
        bool, typer.Option("--gradient-flops", help="Add the weight gradient's arithmetic, counted with an example.")
    ] = False,
    step: Annotated[
        bool,
        typer.Option(
            "--step",
            help="Also price one whole training step, from the profile's operators (runs it here a few times).",
        ),
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Examples of a step, for --gradient-flops and --step.")] = 32,
    distribution: Annotated[
        str | None,
        typer.Option(
            help="Of gradient entries, where none is given: gaussian, laplace (default), generalized-gaussian:BETA, student-t:NU."
        ),
    ] = None,
    gradients: Annotated[
        Path | None,
        typer.Option(
            "--gradients",
            metavar="FILE.npz",
            help="A gradient, an array by parameter name (numpy.savez): the verdict is about it.",
        ),
    ] = None,
    sample: Annotated[
        float | None, typer.Option("--sample", help="Share of its lines to look at: sooner, less sure.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="One row per parameter tensor, not per class of like ones.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what an updated entry of each parameter tensor costs, from what, and whether CWMP pays over Top-K.

    [bold]Example:[/bold] cwmp-profile costs simulated-board --model resnet18 --optimizer adam --radio wifi
    """
    from cwmp_costmodels.costs.layers import layer_costs
    from cwmp_costmodels.costs.scenario import Scenario
    from cwmp_costmodels.networks.source import load_model
    from cwmp_costmodels.profile.files import load_profile
    from cwmp_selector.gain.expected import expected_gain

    found = load_profile(profile)
    network = load_model(model)
    scenario = Scenario(
        radio=radio,
        optimizer=optimizer.value,
        local_steps=local_steps,
        receivers=receivers,
        value_bits=value_bits,
        density=density,
        index_code=index_code,  # type: ignore[arg-type]  # Scenario refuses anything else
        residency=residency.value,
        state_decay=state_decay.value,
        weight_decay=weight_decay,
        zero_grad=zero_grad,
    )
    if gradients is not None and distribution is not None:
        raise typer.BadParameter("give --gradients or --distribution, not both")
    given = None if gradients is None else _gradients(gradients)
    inputs = _example(network, model, batch) if gradient_flops else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        result = layer_costs(found, network, scenario, static=static.value if static else None, gradient_inputs=inputs)
        entries = sum(result.numel(name) for name in result.names())
        gain = expected_gain(
            result,
            k=max(density * entries, 1.0),
            distribution=distribution or "laplace",
            gradients=given,
            sample=sample,
        )
    notes = list(dict.fromkeys(str(warning.message) for warning in caught))
    whole = step_cost(found, network, model, optimizer=optimizer.value, batch=batch) if step else None
    if as_json:
        from cwmp_cli.tables.costs import costs_json

        told = costs_json(result, gain, model=model, warnings=notes)
        print_json(told if whole is None else {**told, "step": whole.to_json()})
        return
    show_costs(result, gain, model, notes, every=every)
    if whole is not None:
        show_step(whole, model, said=result.remarks)


def step_cost(profile: Profile, network: Any, spec: str, *, optimizer: str, batch: int) -> StepCost:
    """Return what one dense training step of a model costs, by the operators of the profile."""
    from cwmp_costmodels.networks.example import model_inputs
    from cwmp_costmodels.operators.pricing import OperatorPrices
    from cwmp_profiler.operators.trace import trace
    from cwmp_profiler.operators.training import training_step

    prices = OperatorPrices(profile)
    inputs = model_inputs(network, spec, batch=batch)
    return prices.price(trace(training_step(network, inputs, optimizer=optimizer)))


def show_step(cost: StepCost, spec: str, *, said: Sequence[str] = ()) -> None:
    """Print the price of a step, or why none is given, and remarks that were not said yet."""
    from cwmp_cli.options.console import si

    console = out()
    if not cost.claimed:
        why = next(iter(cost.outside().items()))
        warn(
            f"no price of a step: {cost.outside_share:.0%} of its predicted time lies outside of what was measured ({why[0]}: "
            f"{why[1][0]}); time this model with 'cwmp-profile measure --model {spec}' and fit it in"
        )
        return
    source = f"{cost.measured_share:.0%} of the operators' time measured, the rest by families"
    console.print(
        f"one training step: {si(cost.energy_j, 'J')} ({si(cost.low_j, 'J')} to {si(cost.high_j, 'J')}), "
        f"{si(cost.seconds, 's')} ({si(cost.low_s, 's')} to {si(cost.high_s, 's')}); {source}"
    )
    if cost.outside_share:
        console.print(f"  {cost.outside_share:.1%} of it lies outside of what was measured")
    for remark in cost.remarks:
        if remark not in said:
            warn(remark)


def show_costs(result: LayerCosts, gain: Gain, model: str, notes: Sequence[str] = (), *, every: bool = False) -> None:
    """Print heading, table and verdict, and warn of what is to be doubted."""
    from cwmp_cli.tables.costs import cost_table, summary
    from cwmp_cli.tables.profile import heading

    console = out()
    if not console.is_terminal:
        console.width = 240
    for line in heading(result.profile):
        console.print(line)
    console.print()
    console.print(cost_table(result, model, every=every))
    console.print()
    for line in summary(result, gain):
        console.print(line)
    for note in (*notes, *result.remarks):
        warn(note)


def _gradients(path: Path) -> dict[str, torch.Tensor]:
    """Return the arrays of a file of numpy.savez. Nothing in it is unpickled. Raises ScenarioError."""
    import zipfile

    import numpy as np
    import torch

    from cwmp_costmodels.errors import ScenarioError

    cure = "write it with numpy.savez(FILE, **{name: p.grad.numpy() for name, p in model.named_parameters()})"
    try:
        arrays = np.load(path, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ScenarioError(f"{path} holds one array, not one by parameter name; {cure}")
        with arrays:
            found = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ScenarioError(f"cannot read gradients from {path}: {error}; {cure}") from error
    for name, values in found.items():
        if not values.is_floating_point():
            raise ScenarioError(f"{path}: {name} is of type {values.dtype}, not a real number; {cure}")
    return found


def _example(network: Any, spec: str, batch: int) -> tuple[Any, ...]:
    from cwmp_costmodels.errors import ModelError
    from cwmp_costmodels.networks.builtin import example_input

    example = example_input(network, batch=batch)
    if example is None:
        raise ModelError(
            f"--gradient-flops needs an example: {spec} has no attribute input_shape; set it to the shape of one example, such as "
            "(3, 224, 224), or leave the option out"
        )
    return (example,)
