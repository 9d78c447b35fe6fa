"""Is a budget really paid: an update is selected by a profile's prices, applied and timed; priced beside taken, CWMP beside Top-K.

    python benchmarks/real_budget.py                                    # measures a profile first (two minutes), then three optimisers
    python benchmarks/real_budget.py --profile mine.json --optimizers adam --first-seed 20
    python benchmarks/real_budget.py --keep FOLDER --only-profile

1. Prices: a profile as a user gets it, `measure` and `fit` on this machine in time (one thread, joules at one watt are seconds), by the
   plan `standard` with shorter windows. Nothing of what is priced below is among its points.
2. Selection: gradients of networks of 0.5 to 11 million entries (residuals of error feedback on made-up images and words). Top-K keeps
   0.1 to 30% of the entries; `cwmp` selects within the joules that this is priced at, and once more with just as much squared error.
3. Payment: memory is swept as by a backward pass, the selection is made again, and what is timed is the step it causes, as
   `SparseStep` does it: `step_at` at chosen entries, torch's kernels where a whole tensor was chosen. Selections take turns.

Printed: priced over taken for each, mean and worst; CWMP's real time over Top-K's at equal squared error. Wanted: a mean error of at most 10%.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cwmp_costmodels.costs.layers import LayerCosts, layer_costs
from cwmp_costmodels.costs.scenario import Scenario
from cwmp_costmodels.fit.sessions import fit
from cwmp_costmodels.networks.builtin import MODELS
from cwmp_costmodels.profile.files import load_profile, save_profile
from cwmp_costmodels.profile.schema import Profile
from cwmp_profiler.counts import STATE_TENSORS
from cwmp_profiler.devices.cold_write import with_cold_writes
from cwmp_profiler.devices.residency import residency_remark, with_residency
from cwmp_profiler.devices.torch_device import TorchDevice
from cwmp_profiler.kernels.compiled import load
from cwmp_profiler.kernels.scatter import step_at
from cwmp_profiler.meters.base import MeterContext
from cwmp_profiler.meters.tdp import Factory
from cwmp_profiler.operators.stopwatch import keep_memory
from cwmp_profiler.sessions.plan import make_plan
from cwmp_profiler.sessions.session import Session
from cwmp_profiler.workloads.update import DENSE_STEPS, RULES
from cwmp_selector.feedback import ErrorFeedback
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate, lines_touched

SWEPT_BYTES = 64 << 20
WINDOW_S = 0.2
FRACTIONS = (0.001, 0.01, 0.1, 0.3)
WANTED = 0.1


class Words(torch.nn.Module):
    """An embedding of Zipf's words, and linear layers: nine million entries."""

    def __init__(self, words: int = 24_000) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(words, 256)
        self.mix, self.out = torch.nn.Linear(256, 2048), torch.nn.Linear(2048, 1024)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:  # noqa: D102 - torch's
        found: torch.Tensor = self.out(self.mix(self.words(tokens).mean(1)).relu())
        return found

    def draw(self, batch: int) -> torch.Tensor:
        """Return words of which the r-th is seen in proportion to 1/r, shape (batch, 32)."""
        return torch.rand(batch, 32).pow(-1.0).long().clamp(max=self.words.num_embeddings - 1)


NETWORKS: Mapping[str, Callable[[], torch.nn.Module]] = {
    "cnn-large": MODELS["cnn-large"],
    "words": Words,
    "resnet18-small": MODELS["resnet18-small"],
}


def corrected_gradients(name: str, seed: int, batches: int = 3) -> dict[str, torch.Tensor]:
    """Return gradients with the residual of some batches, of which one percent each was sent."""
    torch.manual_seed(seed)
    net, feedback, selector = NETWORKS[name](), ErrorFeedback(), Selector(1.0, budget_fraction=0.01)
    batch = 4 if name.startswith("resnet") else 32
    for done in range(batches):
        seen = net.draw(batch) if isinstance(net, Words) else torch.randn(batch, *net.input_shape)
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(seen), torch.randint(0, 10, (batch,))).backward()
        corrected = feedback.add({name: p.grad for name, p in net.named_parameters()})
        if done < batches - 1:
            selector.select(corrected)
    return {name: corrected[name].clone() for name in corrected}


def measured_profile(seed: int, folder: Path) -> Profile:
    """Measure and fit a profile of this machine in time, one thread; the measurements stay in a folder."""
    device = TorchDevice("cpu", threads=1)
    device.info = with_cold_writes(with_residency(device.info))
    print(residency_remark(device.info))
    meter = Factory().open(MeterContext(tdp_w=1.0))
    plan = make_plan(device.info, meter, preset="standard", repeats=2, seed=seed)
    path = folder / "measured.jsonl"
    Session(device, meter, plan.model_copy(update={"window_s": WINDOW_S})).measure(path)
    return fit([path], name="real-budget")


class Receiver:
    """Parameters and optimiser state of a model, and the step that an update makes."""

    def __init__(self, shapes: Mapping[str, torch.Size], optimizer: str) -> None:
        self.rule, self.optimizer = RULES[optimizer], optimizer
        self.tensors = {
            name: [torch.rand(shape) for _ in range(1 + STATE_TENSORS[optimizer])] for name, shape in shapes.items()
        }

    def steps(self, update: SparseUpdate) -> list[Callable[[], object]]:
        """Return the step of each tensor that the update touches."""
        found: list[Callable[[], object]] = []
        for name, index in update.indices.items():
            parameter, *state = self.tensors[name]
            if index.numel() == parameter.numel():
                # A whole tensor is stepped by dense kernels, as SparseStep leaves it to torch's optimiser.
                found.append(
                    partial(DENSE_STEPS[self.optimizer], parameter, update.values[name].view(parameter.shape), state)
                )
            elif index.numel():
                found.append(partial(step_at, self.rule, parameter, index, update.values[name], state, step=1000))
        return found


@dataclass
class Case:
    """A way to select, what it was priced at, and what the steps took."""

    selector: Selector
    update: SparseUpdate
    taken: list[float]

    @property
    def real_s(self) -> float:
        """The lower quartile: what a step takes when nothing else takes the processor in between."""
        return float(np.quantile(self.taken, 0.25))

    @property
    def error(self) -> float:
        """Priced over taken, less one."""
        return self.update.energy_j / self.real_s - 1


def kept(update: SparseUpdate) -> float:
    return sum(float(v.double().square().sum()) for v in update.values.values())


def as_much_as(costs: LayerCosts, gradients: Mapping[str, torch.Tensor], value: float, budget: float) -> Selector:
    """Return the cheapest `cwmp` selection that keeps as much g^2, by bisection over the budget."""
    low, high, best = 0.0, budget, Selector(costs, budget_j=budget)
    for _ in range(6):
        tried = Selector(costs, budget_j=(low + high) / 2)
        if kept(tried.select(gradients)) >= value:
            high, best = (low + high) / 2, tried
        else:
            low = (low + high) / 2
    return best


def cases_of(
    costs: LayerCosts, gradients: Mapping[str, torch.Tensor], before: Mapping[str, torch.Tensor], fraction: float
) -> dict[str, Case]:
    """Return the ways to select: `top-k` keeps a fraction of the entries, `cwmp` what its joules buy, and as much as it keeps.

    Each has prices near what it selected from the gradients `before`, which are of another seed.
    """

    def fixed(found: Mapping[str, torch.Tensor]) -> SparseUpdate:
        return Selector(1.0, budget_fraction=fraction, rule="top-k").select(found)

    near_top = costs.near(fixed(before).indices)
    wanted = fixed(gradients)
    sizes = {name: near_top.tensor_costs(name).line_entries for name in gradients}
    lines = {name: lines_touched(index, sizes[name]) for name, index in wanted.indices.items()}
    budget = sum(near_top.parts_j(wanted.kept, lines=lines, payload_bits=0).values()) * (1 + 1e-9)
    top = Selector(near_top, budget_j=budget, rule="top-k")
    near_best, near_equal = costs, costs
    for _ in range(2):
        near_best = costs.near(Selector(near_best, budget_j=budget).select(before).indices)
        near_equal = costs.near(as_much_as(near_equal, before, kept(fixed(before)), budget).select(before).indices)
    value = kept(top.select(gradients))
    selectors = {
        "top-k": top,
        "cwmp": Selector(near_best, budget_j=budget),
        "cwmp, equal error": as_much_as(near_equal, gradients, value, budget),
    }
    return {name: Case(selector, selector.select(gradients), []) for name, selector in selectors.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--profile", metavar="FILE", help="of this machine, one thread, in time at one watt; none: measured first"
    )
    parser.add_argument("--keep", metavar="FOLDER", help="keep measurements and profile there")
    parser.add_argument("--only-profile", action="store_true", help="stop when it is measured")
    parser.add_argument("--optimizers", nargs="*", choices=list(RULES), default=list(RULES))
    parser.add_argument("--models", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument(
        "--fractions", type=float, nargs="*", default=FRACTIONS, help="of the entries, that top-k keeps"
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    load()
    keep_memory()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.keep or scratch)
        profile = load_profile(options.profile) if options.profile else measured_profile(options.first_seed, folder)
        if options.keep:
            save_profile(profile, folder / "profile.json")
    if options.only_profile:
        return 0
    print(f"{profile.device.model}, one thread, profile of {profile.created}")
    swept = torch.zeros(SWEPT_BYTES // 4)
    met = []
    for optimizer in options.optimizers:
        errors, ratios = dict[str, list[float]](), []
        for model in options.models:
            for seed in range(options.first_seed, options.first_seed + options.seeds):
                gradients, before = corrected_gradients(model, seed), corrected_gradients(model, 1000 + seed)
                receiver = Receiver({name: g.shape for name, g in gradients.items()}, optimizer)
                for fraction in options.fractions:
                    scenario = Scenario(optimizer=optimizer, density=fraction, residency="memory")
                    cases = cases_of(layer_costs(profile, NETWORKS[model](), scenario), gradients, before, fraction)
                    for _ in range(options.repeats):
                        for case in cases.values():
                            swept.add_(1.0)
                            update = case.selector.select(gradients)
                            steps = receiver.steps(update)
                            start = time.perf_counter()
                            for step in steps:
                                step()
                            case.taken.append(time.perf_counter() - start)
                    ratios.append(cases["cwmp, equal error"].real_s / cases["top-k"].real_s)
                    for name, case in cases.items():
                        errors.setdefault(name, []).append(case.error)
                    print(
                        f"{optimizer:8} {model:14} seed {seed} {fraction:6.1%}: {_row(cases, gradients)}; "
                        f"ratio {ratios[-1]:.2f}",
                        flush=True,
                    )
        for name, found in errors.items():
            print(f"  {optimizer} {name:18} {_summary(found)}")
        together = [error for found in errors.values() for error in found]
        met.append(float(np.mean(np.abs(together))) <= WANTED)
        print(
            f"{optimizer}: {_summary(together)}; cwmp over top-k in real time at equal squared error "
            f"{statistics.geometric_mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    return 0 if all(met) else 1


def _row(cases: Mapping[str, Case], gradients: Mapping[str, torch.Tensor]) -> str:
    total = sum(float(g.double().square().sum()) for g in gradients.values())
    return "; ".join(
        f"{name} {case.update.energy_j * 1e6:.0f} us priced {case.real_s * 1e6:.0f} taken ({case.error:+.0%}, "
        f"{case.update.density:.2%} of the entries, {kept(case.update) / total:.0%} of g^2)"
        for name, case in cases.items()
    )


def _summary(errors: list[float]) -> str:
    size = np.abs(errors)
    return (
        f"priced over taken: mean error {size.mean():.1%}, worst {max(errors, key=abs):+.1%}, bias {statistics.mean(errors):+.1%}, "
        f"{np.mean(size <= WANTED):.0%} of {len(errors)} within {WANTED:.0%}"
    )


if __name__ == "__main__":
    sys.exit(main())
