"""Predicted against measured seconds of twelve whole training steps that no calibration saw. Needs about seven minutes on one core.

    python benchmarks/operators_whole_steps.py                     # measures the plan for families first (about 5 minutes)
    python benchmarks/operators_whole_steps.py --plan FILE.jsonl   # takes a plan that 'cwmp-profile measure --families' wrote here
    python benchmarks/operators_whole_steps.py --seed 1            # other shapes in the plan, another order of timing

Six networks (perceptron, convolutions, ResNet-18, depthwise convolutions, transformer, LSTM), each with a dense and with a sparse update. Of
each, every distinct operator is timed alone and priced as a named model (`measured`), and priced by families of operators of other
shapes (`families`). What both are held against is the whole step, timed between the operators in quiet moments (see
`cwmp_profiler.operators.stopwatch`) and used in no prediction. Printed are the ratio of prediction to measurement, whether the 95% interval holds
it, and the interval's half width. It exits with 1 if a mean or worst error, the coverage or the width is worse than said in LIMITS.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from cwmp_costmodels.networks import builtin
from cwmp_costmodels.operators.measured import fit_operators
from cwmp_costmodels.operators.pricing import OperatorPrices, StepCost
from cwmp_costmodels.profile.files import load_profile
from cwmp_costmodels.profile.schema import DeviceBlock, Profile
from cwmp_profiler.devices.torch_device import TorchDevice
from cwmp_profiler.operators.block import measure_block
from cwmp_profiler.operators.block_records import BlockRecord
from cwmp_profiler.operators.families import family_plan, within
from cwmp_profiler.operators.overhead import overhead_steps
from cwmp_profiler.operators.records import OperatorsFile, OperatorsHeader, read_operators, write_operators
from cwmp_profiler.operators.stopwatch import Stopwatch
from cwmp_profiler.operators.trace import Step, trace
from cwmp_profiler.operators.training import training_step
from cwmp_profiler.sessions.measurements import MeterRecord

LIMITS = {"measured": (0.07, 0.20), "families": (0.10, 0.25)}
"""Mean and worst relative error."""

COVERAGE, HALF_WIDTH = 0.90, 0.30
DENSITY = 0.01


class Lstm(nn.Module):
    """Words to an LSTM to the next word."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.cells, self.out = (
            nn.Embedding(1000, 64),
            nn.LSTM(64, 128, batch_first=True),
            nn.Linear(128, 1000),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits of words (batch, length)."""
        result: torch.Tensor = self.out(self.cells(self.table(x))[0][:, -1])
        return result


class Transformer(nn.Module):
    """Words to three layers of a transformer to the next word."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(1000, 96), nn.Linear(96, 1000)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(96, 4, 192, dropout=0.0, batch_first=True) for _ in range(3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits of words (batch, length)."""
        x = self.table(x)
        for layer in self.layers:
            x = layer(x)
        result: torch.Tensor = self.out(x[:, -1])
        return result


def mobile() -> nn.Module:
    """Return inverted residuals without the residuals, as MobileNetV2 has them."""

    def block(a: int, b: int, stride: int) -> nn.Module:
        wide = 4 * a
        return nn.Sequential(
            nn.Conv2d(a, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, b, 1, bias=False), nn.BatchNorm2d(b),
        )  # fmt: skip

    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(), block(16, 24, 1), block(24, 32, 2), block(32, 48, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip


def words(batch: int, length: int) -> torch.Tensor:
    """Return random words."""
    return torch.randint(0, 1000, (batch, length))


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor], str]] = {
    "mlp": (lambda: builtin.mlp(hidden=(512, 256)), lambda: torch.rand(64, 1, 28, 28), "adam"),
    "cnn": (builtin.cnn_large, lambda: torch.rand(32, 3, 32, 32), "sgd"),
    "resnet18": (builtin.resnet18_small, lambda: torch.rand(4, 3, 32, 32), "momentum"),
    "mobile": (mobile, lambda: torch.rand(16, 3, 32, 32), "sgd"),
    "transformer": (Transformer, lambda: words(8, 32), "adam"),
    "lstm": (Lstm, lambda: words(16, 24), "sgd"),
}


def step_of(name: str, density: float) -> Step:
    """Return the step of a network."""
    torch.manual_seed(0)
    build, inputs, optimizer = NETS[name]
    return training_step(build(), (inputs(),), optimizer=optimizer, density=density)


def header(device: TorchDevice) -> OperatorsHeader:
    """Return the header of a file of operators made here; times only, so the meter is a name."""
    return OperatorsHeader(
        created="", tool="benchmark", session="0", device=device.info.to_json(), environment=device.environment(),
        meter=MeterRecord(name="none", provenance="estimated", rails=[]),
    )  # fmt: skip


def plan_of(path: Path | None, device: TorchDevice, stopwatch: Stopwatch, seed: int) -> OperatorsFile:
    """Return the plan for families: of a file, or measured now."""
    if path is not None:
        return read_operators(path)
    target, began = Path("operators-plan.jsonl"), time.monotonic()
    with write_operators(target, header(device), overwrite=True) as writer:
        for name, step in overhead_steps():
            writer.append(measure_block(name, step, stopwatch, budget_s=0.4, seed=seed))
        for block in within(family_plan(seed=seed)):
            params = {**block.params, "plan": "families"}
            built = block.build("cpu")
            writer.append(
                measure_block(block.name, built, stopwatch, budget_s=block.budget_s, params=params, seed=seed)
            )
    print(f"plan for families: {time.monotonic() - began:.0f} s, kept in {target}")
    return read_operators(target)


def show(kind: str, rows: list[tuple[str, BlockRecord, StepCost]]) -> bool:
    """Print one way of pricing; return whether it is within its limits."""
    print(f"\n{kind}: predicted over measured seconds of a step")
    errors, inside, widths = [], [], []
    for name, block, cost in rows:
        ratio = cost.seconds / block.step_s
        errors.append(abs(ratio - 1))
        inside.append(cost.low_s <= block.step_s <= cost.high_s)
        widths.append((cost.high_s - cost.low_s) / 2 / cost.seconds)
        claim = "" if cost.claimed else f"  not claimed: {cost.outside_share:.0%} outside"
        print(
            f"  {name:20s} measured {block.step_s * 1e3:8.2f} ms  predicted {cost.seconds * 1e3:8.2f} ms  ratio {ratio:5.3f}  "
            f"+-{widths[-1]:.0%} {'holds' if inside[-1] else 'MISSES'}{claim}"
        )
    mean, worst = statistics.fmean(errors), max(errors)
    coverage, width = sum(inside) / len(inside), statistics.median(widths)
    most_mean, most_worst = LIMITS[kind]
    print(
        f"  mean error {mean:.1%} (wanted {most_mean:.0%}), worst {worst:.1%} ({most_worst:.0%}); intervals hold {coverage:.0%} ({COVERAGE:.0%}), "
        f"median half width {width:.0%} ({HALF_WIDTH:.0%})"
    )
    return mean <= most_mean and worst <= most_worst and coverage >= COVERAGE and width <= HALF_WIDTH


def main() -> int:
    """Measure, fit, predict, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, help="file of 'cwmp-profile measure --families' of this machine")
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="processor seconds per step for timing its operators"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the plan's shapes and of the order of timing")
    options = parser.parse_args()
    device = TorchDevice("cpu")
    last = max(level.capacity_bytes or 0 for level in device.info.levels)
    stopwatch = Stopwatch("cpu", last, device.info.threads)
    plan = plan_of(options.plan, device, stopwatch, options.seed)
    base: Profile = load_profile("simulated-board")
    profile = base.model_copy(update={"device": DeviceBlock.model_validate(device.info.to_json()), "times": {}})
    by_families = OperatorPrices(profile.model_copy(update={"operators": fit_operators([plan], profile)}))
    measured, regressed = [], []
    for name in NETS:
        for density in (1.0, DENSITY):
            label = f"{name} {'dense' if density == 1 else 'sparse'}"
            block = measure_block(label, step_of(name, density), stopwatch, budget_s=options.seconds, seed=options.seed)
            own = OperatorsFile(path=Path(label), header=plan.header, blocks=(block,), torn=False, sha256="")
            traced = trace(step_of(name, density))
            known = fit_operators([plan, own], profile, families=by_families.block)
            measured.append(
                (label, block, OperatorPrices(profile.model_copy(update={"operators": known})).price(traced))
            )
            regressed.append((label, block, by_families.price(traced)))
            print(f"{label}: {len(block.operators)} distinct operators, {block.spent_s:.0f} s", file=sys.stderr)
    good = [show("measured", measured), show("families", regressed)]
    return 0 if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(main())
