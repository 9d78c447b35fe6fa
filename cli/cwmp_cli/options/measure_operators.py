"""`measure --model` and `measure --families`: operators timed alone, written to a file that `fit` takes beside a session."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cwmp_cli.options.console import err, out, print_json, si, warn

if TYPE_CHECKING:
    from cwmp_cli.options.targets import Target
    from cwmp_profiler.operators.block_records import BlockRecord
    from cwmp_profiler.operators.families import PlannedBlock
    from cwmp_profiler.operators.records import OperatorsHeader
    from cwmp_profiler.operators.stopwatch import Stopwatch
    from cwmp_profiler.operators.trace import Step

TIMES_S = 10.0
"""Processor seconds for the times of a named model."""

JOULES_S = 60.0
"""Seconds for its meter windows."""

OVERHEAD_S = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """What makes the step of a named model.

    Attributes:
        model: Specs as `--model` takes them.
        optimizer: `sgd`, `momentum` or `adam`.
        batch: Examples of a step.
        density: Share of entries updated.
    """

    model: tuple[str, ...]
    optimizer: str
    batch: int
    density: float

    def name(self, spec: str) -> str:
        """Return the block's name: the same work has the same name."""
        share = "" if self.density == 1 else f"/{self.density:g}"
        return f"{spec}/{self.batch}/{self.optimizer}{share}"


def measure_operators(
    target: Target,
    options: StepOptions,
    path: Path,
    *,
    families: bool,
    scale: float = 1.0,
    seed: int,
    dry_run: bool = False,
    overwrite: bool = False,
    as_json: bool = False,
) -> dict[str, Any]:
    """Time the operators of models, or of the plan for families, and write them to `path`.

    Returns:
        What `--json` tells.

    Raises:
        DeviceError: If the device runs no torch, or a step cannot be timed.
        ModelError: If a model cannot be had or run.
        SessionError: If the file cannot be written.
    """
    from cwmp_profiler.errors import DeviceError
    from cwmp_profiler.operators.block import measure_block
    from cwmp_profiler.operators.families import PLAN_S, family_plan, within
    from cwmp_profiler.operators.overhead import overhead_steps
    from cwmp_profiler.operators.records import write_operators

    if target.device.info.kind == "simulated":
        raise DeviceError(
            "a simulated device runs no operators of torch; measure a real one: --device cpu or --device cuda"
        )
    device = str(target.device.info.details.get("torch_device", "cpu"))
    steps = [(options.name(spec), spec, _model_step(spec, options, device, seed)) for spec in options.model]
    plan = family_plan(scale=scale, seed=seed) if families else []
    report = {"file": str(path), "blocks": [name for name, _, _ in steps] + [block.name for block in plan]}
    if dry_run:
        _show_plan(steps, plan)
        return report
    stopwatch = _stopwatch(target, device)
    began = time.monotonic()
    header = _header(target, {"models": [name for name, _, _ in steps], "families": len(plan), "seed": seed})
    rows: list[BlockRecord] = []
    with write_operators(path, header, overwrite=overwrite) as writer, _said(len(plan) + len(steps) + 1) as tell:
        tell("what calls cost")
        for name, step in overhead_steps(device):
            writer.append(measure_block(name, step, stopwatch, budget_s=OVERHEAD_S, seed=seed))
        for name, spec, step in steps:
            tell(name)
            params = {"model": spec, "batch": options.batch, "optimizer": options.optimizer, "density": options.density}
            energy = _energy(target, stopwatch)
            rows.append(measure_block(name, step, stopwatch, budget_s=TIMES_S, params=params, seed=seed, energy=energy))
            writer.append(rows[-1])
        measured: list[PlannedBlock] = []
        for block in within(plan, PLAN_S * max(scale, 1.0)):
            tell(block.name)
            params = {**block.params, "plan": "families"}
            writer.append(
                measure_block(
                    block.name, block.build(device), stopwatch, budget_s=block.budget_s, params=params, seed=seed
                )
            )
            measured.append(block)
    spent = time.monotonic() - began
    if len(measured) < len(plan):
        warn(
            f"{len(measured)} of {len(plan)} blocks for families were measured in {PLAN_S * max(scale, 1.0) / 60:.0f} min, so every family has "
            "fewer shapes; measure again on an idle machine for all of them"
        )
    report["blocks"] = [name for name, _, _ in steps] + [block.name for block in measured]
    if not as_json:
        _show(rows, measured, path, spent)
    return {**report, "spent_s": spent, "models": [_row(row) for row in rows]}


def _model_step(spec: str, options: StepOptions, device: str, seed: int) -> Step:
    import torch

    from cwmp_costmodels.errors import ModelError
    from cwmp_costmodels.networks.example import model_inputs
    from cwmp_costmodels.networks.exported_run import runnable
    from cwmp_costmodels.networks.source import load_model
    from cwmp_profiler.operators.training import training_step

    torch.manual_seed(seed)
    model = runnable(Path(spec)) if spec.endswith(".pt2") else load_model(spec)
    inputs = model_inputs(model, spec, batch=options.batch, device=device, seed=seed)
    step = training_step(model.to(device), inputs, optimizer=options.optimizer, density=options.density, seed=seed)
    try:
        step()
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ModelError(f"{spec} does not train on its example inputs ({type(error).__name__}: {error})") from error
    return step


def _stopwatch(target: Target, device: str) -> Stopwatch:
    from cwmp_profiler.operators.stopwatch import Stopwatch

    info = target.device.info
    last = max((level.capacity_bytes or 0 for level in info.levels), default=0)
    return Stopwatch(device, last, info.threads)


def _energy(target: Target, stopwatch: Stopwatch) -> Any:
    """Return what measures joules; None for a meter that only estimates: its joules are times by construction."""
    from cwmp_profiler.operators.joules import power_windows
    from cwmp_profiler.provenance import Provenance
    from cwmp_profiler.sessions.plan import window_s

    if target.meter.provenance == Provenance.ESTIMATED:
        return None
    return power_windows(target.meter, stopwatch, window_s=window_s("quick", target.meter), budget_s=JOULES_S)


def _header(target: Target, plan: dict[str, Any]) -> OperatorsHeader:
    import platform

    import cwmp
    from cwmp_profiler.devices.software import libraries
    from cwmp_profiler.operators.records import OperatorsHeader
    from cwmp_profiler.sessions.measurements import MeterRecord

    return OperatorsHeader(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        tool=f"cwmp-profile {cwmp.__version__}",
        session=uuid.uuid4().hex,
        device=target.device.info.to_json(),
        meter=MeterRecord.model_validate(target.meter.describe()),
        environment={"host": platform.node(), **target.device.environment(), "libraries": libraries()},
        plan=plan,
    )


@contextmanager
def _said(total: int) -> Iterator[Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[label]}"))
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task("blocks", total=total, label="")
        done = 0

        def tell(label: str) -> None:
            nonlocal done
            bar.update(task, completed=done, label=label[:50])
            done += 1

        yield tell


def _show_plan(steps: list[tuple[str, str, Step]], plan: list[PlannedBlock]) -> None:
    console = err()
    for name, _, _ in steps:
        console.print(f"{name}: every distinct operator alone, {TIMES_S:.0f} s of processor time")
    if plan:
        console.print(
            f"{len(plan)} blocks for families: at most about {math.ceil(sum(block.budget_s + 0.5 for block in plan) / 60):.0f} min"
        )


def _row(block: BlockRecord) -> dict[str, Any]:
    return {
        "block": block.block,
        "operators": sum(each.runs for each in block.operators),
        "distinct": len(block.operators),
        "step_s": block.step_s,
        "alone_s": math.fsum(block.net_s(each) * each.runs for each in block.operators),
        "faults": block.step.faults,
        "windows": sum(len(each.power) for each in block.operators),
    }


def _show(rows: list[BlockRecord], plan: list[PlannedBlock], path: Path, spent_s: float) -> None:
    for block in rows:
        row = _row(block)
        out().print(
            f"{row['block']}: {row['distinct']} distinct operators of {row['operators']} a step; alone {si(row['alone_s'], 's')}, the whole "
            f"step {si(row['step_s'], 's')}"
        )
        top = sorted(block.operators, key=lambda each: -block.net_s(each) * each.runs)[:5]
        for each in top:
            out().print(
                f"  {each.runs:3d} x {si(block.net_s(each), 's'):>10}  {each.described().label()}", markup=False
            )
        quiet = sum(each.time.quiet for each in block.operators) / sum(each.time.samples for each in block.operators)
        if quiet < 0.5:
            warn(
                f"only {quiet:.0%} of the times were taken in quiet moments: the machine is busy; they are scaled by the reference kernel"
            )
    if plan:
        out().print(f"{len(plan)} blocks for families")
    err().print(f"wrote {path} in {spent_s:.0f} s", markup=False)
    err().print(f"next: cwmp-profile fit MEASUREMENTS {path}", markup=False)


__all__ = ["StepOptions", "measure_operators", "print_json"]
