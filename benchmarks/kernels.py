"""Sparse writes far outside the caches: this project's compiled loops beside torch's operators, both timed in this run.

    python benchmarks/kernels.py [--entries 24e6]

1% of the entries, single ones at random places, whole lines of 16 or half of each line, of a tensor and its optimiser state. *torch*
is what code without these kernels does: `index_add_` for SGD, gather, compute and scatter for the others. *line copied* is
`torch.copy_` of the tensor, by the line: what a line costs that streams. Sets of positions take turns; the median of the rounds. The last
rows hold what a receiver runs (`add_at`) against the step of SGD by whose measurement it was priced; the two take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from cwmp_profiler.kernels.compiled import load
from cwmp_profiler.kernels.scatter import add_at, step_at
from cwmp_profiler.workloads.update import RULES, SPARSE_STEPS

LINE = 16


def halves(n: int, k: int) -> torch.Tensor:
    """Return k ascending places, half of the entries of each line that they lie in: what a selection by lines buys."""
    lines = torch.randperm(n // LINE)[: 2 * k // LINE].sort().values
    return (lines[:, None] * LINE + torch.rand(lines.numel(), LINE).argsort(1)[:, : LINE // 2].sort(1).values).view(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=float, default=24e6)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if not load():
        raise SystemExit("needs Numba: pip install '.[fast]'")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    n = int(options.entries) // LINE * LINE
    k = n // 100 // LINE * LINE
    tensors = [torch.rand(n) for _ in range(3)]
    sets = {
        "entries": [torch.randperm(n)[:k].sort().values for _ in range(3)],
        "lines": [
            (torch.randperm(n // LINE)[: k // LINE].sort().values[:, None] * LINE + torch.arange(LINE)).view(-1)
            for _ in range(3)
        ],
        "halves": [halves(n, k) for _ in range(3)],
    }
    values = torch.rand(k)
    copied = []
    for _ in range(options.rounds):
        start = time.perf_counter()
        tensors[1].copy_(tensors[0])
        copied.append(time.perf_counter() - start)
    print(f"line copied: {statistics.median(copied) / n * LINE * 1e9:.1f} ns")
    for optimizer, rule in RULES.items():
        state = tensors[1 : 1 + len(rule.state_names)]
        for kind, positions in sets.items():
            ours, theirs = [], []
            for turn in range(options.rounds + 1):
                index = positions[turn % 3]
                start = time.perf_counter()
                step_at(rule, tensors[0], index, values, state, step=1000)
                middle = time.perf_counter()
                SPARSE_STEPS[optimizer](tensors[0], positions[(turn + 1) % 3], values, state)
                ours.append(middle - start)
                theirs.append(time.perf_counter() - middle)
            mine, torchs = statistics.median(ours[1:]), statistics.median(theirs[1:])
            per = "entry" if kind == "entries" else "line"
            count = {"entries": k, "lines": k // LINE, "halves": 2 * k // LINE}[kind]
            print(
                f"{optimizer:9} {kind:8} {mine / count * 1e9:6.1f} ns per {per}; torch {torchs / count * 1e9:7.1f} ns; "
                f"ratio {mine / torchs:.2f}"
            )
    for kind, positions in sets.items():
        added, stepped = [], []
        for turn in range(3 * options.rounds + 1):
            first, second = positions[turn % 3], positions[(turn + 1) % 3]
            for index, times, write in (
                (first, added, lambda at: add_at(tensors[0], at, values, 1e-6)),
                (second, stepped, lambda at: step_at(RULES["sgd"], tensors[0], at, values, step=1000)),
            )[:: 1 if turn % 2 else -1]:
                start = time.perf_counter()
                write(index)
                times.append(time.perf_counter() - start)
        mine, other = statistics.median(added[1:]), statistics.median(stepped[1:])
        print(
            f"add       {kind:8} {mine / k * 1e9:6.2f} ns an entry; SGD {other / k * 1e9:6.2f} ns; ratio {mine / other:.3f}"
        )


if __name__ == "__main__":
    main()
