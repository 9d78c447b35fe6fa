"""Is a budget really paid: an update is selected, applied and timed; what was priced beside what it took, CWMP beside Top-K.

    python benchmarks/real_budget.py                    # SGD, seconds
    python benchmarks/real_budget.py --optimizer adam

1. Prices: the `update` workloads (`entries`, `dense`) run on tensors of the model's sizes at several densities, and
   seconds = once + entry x entries + line x lines is fitted to each tensor, as its costs in this run; so are 2, 6 and 12 entries a
   line, and the places that a pilot selection from other gradients buys. Whole lines are written as vectors, several times faster an
   entry than what selections buy, and are left out. Half of the repeats are left out of the fit, and its error on those is shown.
2. Selection: gradients of a small network of embedding, convolutions and linear layers (tokens by Zipf, error feedback over some
   batches). `cwmp` and `top-k` select within the same priced seconds, and `cwmp`
   once more with just as much squared error as `top-k` leaves.
3. Payment: `step_at` writes parameter and state where each selection says. Before each application memory is swept, so that
   nothing of it is in a cache, as after a backward pass; the sweep is not timed. Selections take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls

from cwmp_profiler.counts import STATE_TENSORS
from cwmp_profiler.devices.torch_device import TorchDevice
from cwmp_profiler.kernels.compiled import load
from cwmp_profiler.kernels.scatter import step_at
from cwmp_profiler.workloads import WORKLOADS
from cwmp_profiler.workloads.operands import Operands
from cwmp_profiler.workloads.update import DENSE_STEPS, RULES
from cwmp_selector.costs import Costs
from cwmp_selector.feedback import ErrorFeedback
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate

LINE = 16
SWEPT_BYTES = 64 << 20


class Net(torch.nn.Module):
    """Words and an image: an embedding, linear layers and convolutions, from a hundred entries to two million."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(words, 256)
        self.conv1, self.conv2 = torch.nn.Conv2d(3, 64, 3), torch.nn.Conv2d(64, 128, 3)
        self.mix, self.wide, self.out = (
            torch.nn.Linear(384, 2048),
            torch.nn.Linear(2048, 1024),
            torch.nn.Linear(1024, 10),
        )

    def forward(  # noqa: D102 - torch's
        self, tokens: torch.Tensor, images: torch.Tensor
    ) -> torch.Tensor:
        seen = self.conv2(self.conv1(images).relu()).relu().mean((2, 3))
        mixed = self.mix(torch.cat([self.words(tokens).mean(1), seen], 1)).relu()
        return self.out(self.wide(mixed).relu())


def corrected_gradients(seed: int, words: int, batches: int = 3) -> dict[str, torch.Tensor]:
    """Return gradients with the residual of some batches, of which one percent each was sent."""
    torch.manual_seed(seed)
    net, feedback = Net(words), ErrorFeedback()
    selector = Selector(1.0, budget_fraction=0.01)
    for batch in range(batches):
        ranks = torch.rand(64, 32).pow(-1.0)  # Zipf: the r-th word is seen in proportion to 1/r
        tokens = ranks.long().clamp(max=words - 1)
        net.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(tokens, torch.randn(64, 3, 12, 12)), torch.randint(0, 10, (64,)))
        loss.backward()
        corrected = feedback.add({name: p.grad for name, p in net.named_parameters()})
        if batch < batches - 1:
            selector.select(corrected)
    return {name: corrected[name].clone() for name in corrected}


class Sweep:
    """Reads and writes more than the caches hold, so that what follows finds nothing of its own there."""

    def __init__(self) -> None:
        self.memory = torch.zeros(SWEPT_BYTES // 4)

    def __call__(self) -> None:
        """Sweep."""
        self.memory.add_(1.0)


def timed(sweep: Sweep, work: Callable[[], object], warm: Callable[[], object] | None = None) -> float:
    """Return seconds of some work on memory that is in no cache; `warm` brings the code back, as an earlier tensor's step does."""
    sweep()
    if warm is not None:
        warm()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@dataclass
class Prices:
    """Seconds of one tensor, and the mean error of the fit on repeats that it did not see."""

    once: float
    entry: float
    line: float
    dense: float
    error: float


def usual(times: list[float]) -> float:
    """Return the lower quartile: what work takes when nothing else takes the processor in between."""
    return float(np.quantile(times, 0.25))


def warm_call(optimizer: str) -> Callable[[], object]:
    """Return a step on a tensor of its own that brings the code of `step_at` into the caches."""
    tensors = [torch.zeros(64) for _ in range(1 + STATE_TENSORS[optimizer])]
    index, values = torch.arange(0, 64, 16), torch.ones(4)
    return lambda: step_at(RULES[optimizer], tensors[0], index, values, tensors[1:], step=9)


def lines_of(index: torch.Tensor) -> int:
    return int(torch.unique(index // LINE).numel())


def clustered(n: int, density: float, within: int) -> torch.Tensor:
    """Return ascending places of so many entries of random lines, as selections by lines buy them; whole lines go as vectors, faster."""
    lines = torch.randperm(n // LINE)[: max(int(n * density) // within, 1)].sort().values
    places = torch.rand(lines.numel(), LINE).argsort(1)[:, :within].sort(1).values
    return (lines[:, None] * LINE + places).view(-1)


def price_tensor(
    n: int,
    optimizer: str,
    device: TorchDevice,
    sweep: Sweep,
    near: float,
    repeats: int,
    patterns: Sequence[torch.Tensor] = (),
) -> Prices:
    """Time the update workloads on a tensor of n entries, at densities within a factor of 1.6 of `near`."""
    workload, operands = WORKLOADS["update.step"], Operands("cpu", 1)
    rows, seen, unseen = [], [], []
    warm = warm_call(optimizer)
    one = torch.ones(16)

    def step_of_ones() -> object:
        return DENSE_STEPS[optimizer](one, one, [one, one])

    for density in (near / 1.6, near, near * 1.6):
        if int(n * density) < 2 * LINE or density > 0.5:
            continue
        params = {
            "layer": "linear",
            "shape": [n],
            "n": n,
            "optimizer": optimizer,
            "mode": "entries",
            "density": density,
        }
        step = workload.build(params, device.info, operands)
        step()
        times = [timed(sweep, step, warm) for _ in range(2 * repeats)]
        rows.append((1.0, float(int(n * density)), n / LINE * (1 - (1 - density) ** LINE)))
        seen.append(usual(times[::2]))
        unseen.append(usual(times[1::2]))
    for index in [*patterns, *(clustered(n, near, within) for within in (2, 6, 12))]:
        if not 2 * LINE <= index.numel() < n:
            continue
        tensors = [operands.take(name, n) for name in ("parameter", "state0", "state1")[: 1 + STATE_TENSORS[optimizer]]]
        values = operands.take("values", index.numel())
        for _ in range(2):

            def bought(
                index: torch.Tensor = index, values: torch.Tensor = values, tensors: list[torch.Tensor] = tensors
            ) -> None:
                step_at(RULES[optimizer], tensors[0], index, values, tensors[1:], step=9)

            times = [timed(sweep, bought, warm) for _ in range(2 * repeats)]
            rows.append((1.0, float(index.numel()), float(lines_of(index))))
            seen.append(usual(times[::2]))
            unseen.append(usual(times[1::2]))
    params = {"layer": "linear", "shape": [n], "n": n, "optimizer": optimizer, "mode": "dense", "density": 1.0}
    step = workload.build(params, device.info, operands)
    dense = usual([timed(sweep, step, step_of_ones) for _ in range(repeats)])
    if not rows:
        # Too small for two lines at these densities: everything is the call.
        index = torch.arange(0, n, max(n // 8, 1))
        parameter, state = operands.take("parameter", n), [operands.take(f"state{i}", n) for i in range(2)]
        states = state[: STATE_TENSORS[optimizer]]
        values = operands.take("values", index.numel())
        once = statistics.median(
            timed(sweep, lambda: step_at(RULES[optimizer], parameter, index, values, states, step=9), warm)
            for _ in range(repeats)
        )
        return Prices(once, 1e-12, 0.0, dense, 0.0)
    x, y = np.array(rows), np.array(seen)
    found = nnls(x / y[:, None], np.ones(len(y)))[0]
    error = float(np.mean(np.abs(x @ found / np.array(unseen) - 1)))
    return Prices(float(found[0]), max(float(found[1]), 1e-13), float(found[2]), dense, error)


def costs_of(prices: Mapping[str, Prices], cold: float) -> Costs:
    """Return prices as costs, a second standing for a joule (at one watt they are); `cold`: seconds once for code in no cache."""
    return Costs(
        {name: p.entry for name, p in prices.items()},
        line_j={name: p.line for name, p in prices.items()},
        line_entries=LINE,
        tensor_j={name: p.once for name, p in prices.items()},
        dense_j={name: p.dense for name, p in prices.items()},
        payload_j=cold,
    )


class Receiver:
    """Parameters and optimiser state of the model, and the step that an update makes."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], optimizer: str) -> None:
        self.rule, self.optimizer = RULES[optimizer], optimizer
        self.tensors = {
            name: [torch.rand(shape) for _ in range(1 + STATE_TENSORS[optimizer])] for name, shape in shapes.items()
        }

    def apply(self, update: SparseUpdate) -> None:
        """Step every tensor that the update touches."""
        for name, index in update.indices.items():
            parameter, *state = self.tensors[name]
            if index.numel() == parameter.numel():
                # A whole tensor is stepped by dense kernels, as SparseStep leaves it to torch's optimiser.
                DENSE_STEPS[self.optimizer](parameter, update.values[name].view(parameter.shape), state)
            elif index.numel():
                step_at(self.rule, parameter, index, update.values[name], state, step=1000)


def kept(update: SparseUpdate) -> float:
    return sum(float(v.double().square().sum()) for v in update.values.values())


def as_much_as(selector: Selector, gradients: Mapping[str, torch.Tensor], value: float, budget: float) -> SparseUpdate:
    """Return the cheapest `cwmp` selection that keeps as much g^2, by bisection over the budget."""
    low, high, best = 0.0, budget, selector.select(gradients, budget_j=budget)
    for _ in range(7):
        middle = (low + high) / 2
        tried = selector.select(gradients, budget_j=middle)
        if kept(tried) >= value:
            high, best = middle, tried
        else:
            low = middle
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizer", choices=list(RULES), default="sgd")
    parser.add_argument("--budgets", type=float, nargs="*", default=[0.05, 0.15], help="shares of the dense step")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--words", type=int, default=24_000, help="words of the embedding, 256 entries each")
    options = parser.parse_args()
    load()
    device, sweep = TorchDevice("cpu"), Sweep()
    gradients = [corrected_gradients(seed, options.words) for seed in range(options.seeds)]
    other = corrected_gradients(1000, options.words)
    shapes = {name: tuple(g.shape) for name, g in gradients[0].items()}
    entries = sum(g.numel() for g in gradients[0].values())
    print(f"{device.info.model}, {torch.get_num_threads()} thread, {options.optimizer}, {entries / 1e6:.1f}e6 entries")
    receiver = Receiver(shapes, options.optimizer)
    sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    rough = {name: price_tensor(n, options.optimizer, device, sweep, 0.01, 3) for name, n in sizes.items()}
    dense_s = sum(p.dense for p in rough.values())
    call = warm_call(options.optimizer)
    cold = statistics.median(timed(sweep, call) - timed(sweep, call, call) for _ in range(4 * options.repeats))
    print(f"  the first call of a step, its code in no cache: {cold * 1e6:.0f} us")
    for budget in options.budgets:
        pilot = Selector(costs_of(rough, cold), budget_j=budget * dense_s).select(other)
        rival = Selector(costs_of(rough, cold), budget_j=budget * dense_s, rule="top-k").select(other)
        print(
            f"budget {budget:.1%} of a dense step ({budget * dense_s * 1e6:.0f} us); prices at the densities that it buys:"
        )
        prices = {}
        for name, n in sizes.items():
            near = min(max(pilot.kept[name] / n, 0.0005), 0.3)
            prices[name] = rough[name]
            if pilot.kept[name]:
                prices[name] = p = price_tensor(
                    n,
                    options.optimizer,
                    device,
                    sweep,
                    near,
                    options.repeats,
                    [pilot.indices[name], rival.indices[name]],
                )
                print(
                    f"  {name:14} {n:>9} entries: once {p.once * 1e6:6.1f} us, entry {p.entry * 1e9:5.2f} ns, line {p.line * 1e9:5.1f} ns, "
                    f"dense {p.dense * 1e6:8.1f} us; near {near:.2%} kept, fit on unseen repeats {p.error:.1%}"
                )
        costs = costs_of(prices, cold)
        rows = []
        for found in gradients:
            top = Selector(costs, budget_j=budget * dense_s, rule="top-k").select(found)
            best = Selector(costs, budget_j=budget * dense_s).select(found)
            equal = as_much_as(Selector(costs), found, kept(top), budget * dense_s)
            updates = {"top-k": top, "cwmp": best, "cwmp, equal error": equal}
            taken: dict[str, list[float]] = {name: [] for name in updates}
            for _ in range(5 * options.repeats):
                for name, update in updates.items():
                    taken[name].append(timed(sweep, lambda update=update: receiver.apply(update)))
            total = sum(float(g.double().square().sum()) for g in found.values())
            rows.append(
                {
                    name: (usual(taken[name]), update.energy_j, kept(update) / total, update)
                    for name, update in updates.items()
                }
            )
        for name in rows[0]:
            real = statistics.mean(row[name][0] for row in rows)
            priced = statistics.mean(row[name][1] for row in rows)
            share = statistics.mean(row[name][2] for row in rows)
            count = statistics.mean(sum(row[name][3].kept.values()) for row in rows)
            lines = statistics.mean(sum(lines_of(i) for i in row[name][3].indices.values()) for row in rows)
            print(
                f"  {name:18} priced {priced * 1e6:8.1f} us, took {real * 1e6:8.1f} us ({priced / real - 1:+.1%}); "
                f"keeps {share:.2%} of g^2, {count:.0f} entries in {lines:.0f} lines"
            )
        ratio = statistics.mean(row["cwmp, equal error"][0] / row["top-k"][0] for row in rows)
        print(f"  real time of cwmp over top-k at equal squared error: {ratio:.2f}")


if __name__ == "__main__":
    main()
