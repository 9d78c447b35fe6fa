"""Operators timed alone against their step while a neighbour streams through the last cache: with operands as old as in the step, and fresh.

    python benchmarks/operators_neighbour.py        # about a minute; needs a second processor that shares the last cache

A perceptron with Adam, none of the twelve steps of `operators_whole_steps.py`. Printed is the predicted over the measured time of its step:
without and with the neighbour (another process that adds to 48 MiB in pieces), each with operands placed and used at once (`fresh`) and
with operands that wait as long as in the step (`aged`, what the program does). The reference kernel's time is printed beside: it lives in
the near caches and does not see this neighbour. Nothing is judged; it exits with 0.
"""

from __future__ import annotations

import os
import subprocess
import sys
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from cwmp_costmodels.operators.measured import beside_s
from cwmp_profiler.devices.torch_device import TorchDevice
from cwmp_profiler.operators.block import measure_block
from cwmp_profiler.operators.overhead import fit_overhead, overhead_steps
from cwmp_profiler.operators.stopwatch import Stopwatch
from cwmp_profiler.operators.training import training_step

SECONDS = 5.0
NEIGHBOUR = """
import random, numpy
held = numpy.ones(12 << 20, dtype=numpy.float32)
while True:
    piece = held[random.randrange(48) << 18:][:1 << 18]
    numpy.add(piece, 1.0, out=piece)
"""


def perceptron() -> nn.Module:
    """Return a perceptron whose parameters, gradients and moments fill a part of the last cache."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(600, 450), nn.ReLU(), nn.Linear(450, 300), nn.ReLU(), nn.Linear(300, 20)
    )


def main() -> int:
    """Measure four times."""
    device = TorchDevice("cpu")
    stopwatch = Stopwatch("cpu", max(level.capacity_bytes or 0 for level in device.info.levels), device.info.threads)
    fresh = stopwatch.age
    overhead = fit_overhead([measure_block(name, step, stopwatch, budget_s=0.4) for name, step in overhead_steps()])
    for neighbour in (False, True):
        process = subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) if neighbour else None
        try:
            for aged in (False, True):
                torch.manual_seed(0)
                step = training_step(perceptron(), (torch.rand(48, 600),), optimizer="adam")
                # A stopwatch that is told of a step of no length lets nothing wait.
                with mock.patch.object(
                    stopwatch, "age", stopwatch.age if aged else lambda _s, touched, _m: fresh(0.0, touched, 0.0)
                ):
                    block = measure_block("perceptron", step, stopwatch, budget_s=SECONDS)
                work = sum(block.net_s(each) * each.runs for each in block.operators)
                ratio = (work + beside_s(block.calls, overhead)) / block.step.seconds
                print(
                    f"neighbour {'on ' if neighbour else 'off'} operands {'aged ' if aged else 'fresh'} step {block.step.seconds * 1e3:6.3f} ms  "
                    f"predicted over measured {ratio:5.3f}  reference kernel {stopwatch.references[-1] * 1e6:.0f} us",
                    flush=True,
                )
        finally:
            if process is not None:
                process.kill()
                process.wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
