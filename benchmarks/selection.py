"""Speed of the selector as ratios to a copy of the same data and to its peers, all timed in this run.

    python benchmarks/selection.py            # 11.2e6 entries in 62 cost classes, 1% and 10% budgets
    python benchmarks/selection.py --scaling  # 1e6 to 1e9 entries in one tensor, time per entry and extra memory
    python benchmarks/selection.py --tiers    # 1%: joules by line, by entry tensors, of profiles; many small tensors
    python benchmarks/selection.py --device cuda

The cases take turns, round after round, so that a busy machine slows all of them; a ratio is the median over the rounds of
case by copy, both of the same round. Peers: `torch.topk` (unweighted, as many entries as CWMP keeps), sort and cumulative
sum of g^2/c, and a threshold estimated from a 1% sample as GRACE does it, whose budget error is shown.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from typing_extensions import Self

from cwmp_selector.costs import Costs
from cwmp_selector.feedback import ErrorFeedback
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate

CONVOLUTIONS = [
    (64, 3, 7), *[(64, 64, 3)] * 4, (128, 64, 3), *[(128, 128, 3)] * 3, (128, 64, 1), (256, 128, 3), *[(256, 256, 3)] * 3,
    (256, 128, 1), (512, 256, 3), *[(512, 512, 3)] * 3, (512, 256, 1),
]  # fmt: skip


def resnet18_shapes() -> list[tuple[int, ...]]:
    """Return the 62 parameter shapes of ResNet-18 with 10 classes: 11.18e6 entries."""
    shapes: list[tuple[int, ...]] = []
    for out, into, size in CONVOLUTIONS:
        shapes += [(out, into, size, size), (out,), (out,)]
    return [*shapes, (10, 512), (10,)]


def gradients(device: str) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Return heavy-tailed gradients (Student t, 4 degrees of freedom) of unequal layers, and costs that spread 10x."""
    torch.manual_seed(0)
    found, costs = {}, {}
    for i, shape in enumerate(resnet18_shapes()):
        found[f"p{i}"] = heavy_tailed(shape).to(device)
        costs[f"p{i}"] = 1e-9 * 10 ** float(torch.rand(()))
    return found, costs


def heavy_tailed(shape: tuple[int, ...]) -> torch.Tensor:
    """Return a gradient of one layer, of a scale between 0.1 and 1."""
    size = torch.Size(shape).numel()
    t = torch.randn(size) / (torch.randn(4, size).square().mean(0)).sqrt()
    return (t * 10 ** float(torch.rand(()) - 1)).view(shape)


def timed(case: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    case()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def table(cases: dict[str, Callable[[], object]], rounds: dict[str, int], device: str) -> None:
    """Run the cases in turns; print medians and the median ratio to the first case."""
    first, most = next(iter(cases)), max(rounds.values())
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    ratios: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case()
    for turn in range(most):
        for name, case in cases.items():
            if turn < rounds.get(name, most):
                base = timed(cases[first], device)
                took = timed(case, device)
                seconds[name].append(took)
                ratios[name].append(took / base)
    for name in cases:
        times = seconds[name]
        print(
            f"| {name} | {1e3 * statistics.median(times):.1f} | {statistics.median(ratios[name]):.1f} | {len(times)} |"
        )


def compare(fraction: float, device: str, rounds: int) -> None:
    g, costs = gradients(device)
    flat = torch.cat([x.view(-1) for x in g.values()])
    cost = torch.cat([torch.full((x.numel(),), costs[n], device=device) for n, x in g.items()])
    other = torch.empty_like(flat)
    dense_j = float(cost.double().sum())
    budget = fraction * dense_j
    selector = Selector(costs, budget_j=budget)
    plain = Selector(costs, budget_j=budget, engine="torch")
    update = selector.select(g)
    kept = sum(update.kept.values())
    payload = update.to_bytes()
    target = {n: torch.zeros_like(x) for n, x in g.items()}
    feedback = ErrorFeedback()
    feedback.add(g)

    def sort_and_cumsum() -> torch.Tensor:
        order = torch.argsort(flat * flat / cost, descending=True)
        return order[cost[order].cumsum(0) <= budget]

    def sampled_threshold() -> torch.Tensor:
        """Rank a 1% sample of g^2/c, take the threshold that spends the budget there, apply it to all."""
        drawn = torch.randint(flat.numel(), (flat.numel() // 100,), device=device)
        score, price = flat[drawn].square() / cost[drawn], cost[drawn]
        order = torch.argsort(score, descending=True)
        place = int((price[order].cumsum(0) <= budget / 100).sum())
        return (flat.square() / cost >= score[order[place]]).nonzero().view(-1)

    def decode_and_apply() -> None:
        SparseUpdate.from_bytes(payload, like=target).apply_to(target, scale=-0.1)

    errors = [float(cost[sampled_threshold()].double().sum()) / budget - 1 for _ in range(20)]
    print(
        f"\n{flat.numel():,} entries, 62 cost classes, budget {fraction:.0%} of the dense joules: {kept / flat.numel():.2%} kept, "
    )
    print(f"{len(payload):,} bytes. Budget spent: CWMP {update.energy_j / budget - 1:+.6%}; sampled threshold over 20 draws "
          f"{min(errors):+.1%} to {max(errors):+.1%}.")  # fmt: skip
    print("\n| case | ms | x copy | rounds |\n|---|---|---|---|")
    cases: dict[str, Callable[[], object]] = {
        "copy": lambda: other.copy_(flat),
        "select": lambda: selector.select(g),
        "select and encode": lambda: selector.select(g).to_bytes(),
        "decode and apply": decode_and_apply,
        "error feedback, select": lambda: selector.select(feedback.add(g)),
        "select, plain torch": lambda: plain.select(g),
        "peer: sampled threshold": sampled_threshold,
        "peer: torch.topk": lambda: torch.topk(flat.abs(), kept),
        "peer: sort and cumsum": sort_and_cumsum,
    }
    slow = {name: max(rounds // 6, 3) for name in cases if name.startswith(("peer", "select, plain"))}
    table(cases, {"copy": rounds, **slow}, device)


class PeakMemory:
    """Largest resident memory above that at the start, sampled from /proc while a block runs.

    What the allocator holds from before goes back to the system first: in it a block could work and seem to need nothing.
    """

    def __enter__(self) -> Self:
        gc.collect()
        if sys.platform == "linux" and hasattr(heap := ctypes.CDLL(None), "malloc_trim"):
            heap.malloc_trim(0)
        self.start, self.peak, self._on = self._resident(), 0, True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._on = False
        self._thread.join()

    def _watch(self) -> None:
        while self._on:
            self.peak = max(self.peak, self._resident() - self.start)
            time.sleep(0.002)

    @staticmethod
    def _resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def scaling(sizes: list[int]) -> None:
    print(
        "\n| entries | kept | select ms | x copy | ns an entry | extra memory / gradient |\n|---|---|---|---|---|---|"
    )
    for size in sizes:
        print(scaled(size), flush=True)


def scaled(size: int) -> str:
    """Return a row of the table for one size."""
    # Filled in parts: the generator's temporaries would double the memory.
    g = torch.empty(size)
    for part in g.split(1 << 24):
        part.normal_()
    names = {f"p{i}": x for i, x in enumerate(g.split(-(-size // 62)))}
    selector = Selector({n: 1.0 + i for i, n in enumerate(names)}, budget_fraction=0.01)
    selector.select(names)
    with PeakMemory() as memory:
        update = selector.select(names)
    rounds = 15 if size < 1e8 else 3
    took = statistics.median(timed(lambda: selector.select(names), "cpu") for _ in range(rounds))
    # A second gradient of the largest size would not fit beside the first: one half onto the other, counted twice.
    half = size // 2
    copied = 2 * statistics.median(timed(lambda: g[:half].copy_(g[half : 2 * half]), "cpu") for _ in range(rounds))
    share = memory.peak / (4 * size)
    return f"| {size:.0e} | {update.density:.2%} | {1e3 * took:.1f} | {took / copied:.1f} | {1e9 * took / size:.2f} | {share:.1%} |"


def tiers(rounds: int) -> None:
    """Print what lines, costs of every entry, profiles and many small tensors cost, at 1% of the dense joules."""
    from cwmp_costmodels.costs.layers import layer_costs
    from cwmp_costmodels.costs.scenario import Scenario
    from cwmp_costmodels.networks.builtin import resnet18
    from cwmp_costmodels.profile.files import load_profile

    g, costs = gradients("cpu")
    flat = torch.cat([x.view(-1) for x in g.values()])
    other = torch.empty_like(flat)
    by_layer = Selector(costs, budget_fraction=0.01)
    by_line = Selector(Costs(costs, line_j={n: 4 * c for n, c in costs.items()}), budget_fraction=0.01)
    own = {n: (torch.rand(x.shape, dtype=torch.float64) + 0.5) * costs[n] for n, x in g.items()}
    by_entry = Selector(own, budget_fraction=0.01)
    by_narrow = Selector({n: c.float() for n, c in own.items()}, budget_fraction=0.01)
    kept = sum(by_layer.select(g).kept.values())
    array = flat.numpy()

    def partitioned() -> np.ndarray:
        """Take as many entries by magnitude: a sampled threshold, then argpartition of what is left."""
        magnitude = np.abs(array)
        drawn = magnitude[np.random.default_rng(0).integers(0, array.size, 1 << 16)]
        place = max(int(1.3 * kept / array.size * drawn.size), 1)
        left = np.flatnonzero(magnitude >= np.partition(drawn, -place)[-place])
        return left[np.argpartition(magnitude[left], left.size - kept)[left.size - kept :]]

    small = {f"p{i}": torch.randn(100) for i in range(300)}
    few, few_lines = Selector(1e-9, budget_fraction=0.1), Selector(Costs(1e-9, line_j=4e-9), budget_fraction=0.1)
    cases: dict[str, Callable[[], object]] = {
        "copy": lambda: other.copy_(flat),
        "select, a cost per layer": lambda: by_layer.select(g),
        "select, and four times as much per line": lambda: by_line.select(g),
        "select, a cost per entry (float32)": lambda: by_narrow.select(g),
        "select, a cost per entry (float64)": lambda: by_entry.select(g),
        "peer: NumPy, sampled threshold and argpartition, unweighted": partitioned,
        "select, 300 tensors of 100": lambda: few.select(small),
        "select, 300 tensors of 100, with lines": lambda: few_lines.select(small),
    }
    model = resnet18(10)
    torch.manual_seed(0)
    real = {name: heavy_tailed(tuple(p.shape)) for name, p in model.named_parameters()}
    for profile in ("two-class-10x", "simulated-board", "horowitz-45nm"):
        selector = Selector(layer_costs(load_profile(profile), model, Scenario()), budget_fraction=0.01)
        update = selector.select(real)
        value = sum(float(v.double().square().sum()) for v in update.values.values())
        missed = (update.gap_bound or 0.0) / value
        cases[f"select, {profile} (at most {missed:.1e} of the value missed)"] = lambda s=selector: s.select(real)  # type: ignore[misc]
    print("\n| case at 1% | ms | x copy | rounds |\n|---|---|---|---|")
    few_rounds = {name: max(rounds // 4, 3) for name in cases if name.startswith("select, simulated")}
    table(cases, {"copy": rounds, **few_rounds}, "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--tiers", action="store_true")
    parser.add_argument("--largest", type=float, default=1e9, help="largest number of entries with --scaling")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=31)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, device {options.device}")
    if options.scaling:
        scaling([n for n in (10**6, 10**7, 10**8, 10**9) if n <= options.largest])
        return
    if options.tiers:
        tiers(options.rounds)
        return
    for fraction in (0.01, 0.1):
        compare(fraction, options.device, options.rounds)


if __name__ == "__main__":
    main()
