"""What runs on an NVIDIA GPU gives what the processor gives, and its joules come from the board's own counter. Needs one."""

import copy
import math
import os
import subprocess
import sys

import pytest
import torch

from cwmp_profiler.joules.window import measure
from cwmp_profiler.kernels.rules import Adam, Sgd
from cwmp_profiler.kernels.scatter import KernelError, add_at, step_at
from cwmp_profiler.operators.trace import trace
from cwmp_selector.frameworks.sparse_step import SparseStep
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

RULES = {"sgd": Sgd(lr=0.1, weight_decay=0.03), "momentum": Sgd(lr=0.1, momentum=0.9), "adam": Adam(lr=0.01)}
LAYOUTS = {
    "flat": lambda: torch.randn(4000),
    "channels_last": lambda: torch.randn(6, 8, 5, 7).to(memory_format=torch.channels_last),
    "sliced": lambda: torch.randn(40, 60)[3:37:2, 1::3],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", RULES)
def test_a_sparse_step_writes_there_what_it_writes_on_the_processor(name, layout):
    torch.manual_seed(0)
    rule, start = RULES[name], LAYOUTS[layout]()
    index = torch.randperm(start.numel())[: start.numel() // 5].sort().values
    values = torch.randn(len(index))
    here, there = ([t, *(torch.zeros_like(t) for _ in rule.state_names)] for t in (start.clone(), start.clone().cuda()))
    for step in range(1, 4):
        step_at(rule, here[0], index, values, here[1:], step=step)
        step_at(rule, there[0], index.cuda(), values.cuda(), there[1:], step=step)
    for mine, other in zip(here, there, strict=True):
        assert torch.allclose(mine, other.cpu(), rtol=1e-6, atol=1e-7)
    elsewhere = torch.ones(start.numel(), dtype=torch.bool)
    elsewhere[index] = False
    assert torch.equal(there[0].cpu().reshape(-1)[elsewhere], start.reshape(-1)[elsewhere])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_receiver_adds_there_what_it_adds_on_the_processor(dtype):
    torch.manual_seed(0)
    start, index, values = torch.randn(3000).to(dtype), torch.arange(0, 3000, 7), torch.randn(429).to(dtype)
    here, there = start.clone(), start.cuda()
    add_at(here, index, values, -0.5)
    add_at(there, index, values, -0.5)
    assert torch.equal(here, there.cpu())
    with pytest.raises(KernelError, match="3000 entries"):
        add_at(there, torch.tensor([3000], device="cuda"), values[:1].cuda())
    assert torch.equal(here, there.cpu())


def test_a_payload_made_there_is_the_one_made_here_and_is_applied_to_both():
    torch.manual_seed(0)
    gradient = {"a": torch.randn(300, 50), "b": torch.randn(70)}
    selector = Selector(1.0, budget_fraction=0.05)
    payload = selector.select({n: g.cuda() for n, g in gradient.items()}).to_bytes()
    assert payload == selector.select(gradient).to_bytes()
    here = {n: torch.zeros_like(g) for n, g in gradient.items()}
    there = {n: torch.zeros_like(g, device="cuda") for n, g in gradient.items()}
    for target in (here, there):
        SparseUpdate.from_bytes(payload, target).apply_to(target, scale=-0.1)
    assert all(torch.equal(here[n], there[n].cpu()) for n in gradient)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_sparse_step_around_an_optimiser_there_writes_the_chosen_entries_only(make):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(60, 40), torch.nn.ReLU(), torch.nn.Linear(40, 10)).cuda()
    optimizer = make(net.parameters(), lr=0.01)
    sparse = SparseStep(optimizer, net.named_parameters(), Selector(1.0, k=50))
    for _ in range(3):
        before = {n: p.detach().clone() for n, p in net.named_parameters()}
        optimizer.zero_grad()
        net(torch.randn(16, 60, device="cuda")).square().sum().backward()
        optimizer.step()
        changed = sum(int((p.detach() != before[n]).sum()) for n, p in net.named_parameters())
        assert changed == sum(sparse.update.kept.values()) == 50


def test_a_step_there_has_the_operators_that_it_has_here():
    """Fused optimisers aside: the same names in forward and backward."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten())
    found = []
    for device in ("cpu", "cuda"):
        copied, x = copy.deepcopy(net).to(device), torch.randn(4, 3, 12, 12, device=device)

        def step(net: torch.nn.Module = copied, x: torch.Tensor = x) -> None:
            net(x).square().mean().backward()

        found.append([(call.phase, call.operator.base) for call in trace(step).calls])
    here, there = ([name for _, name in calls if "batch_norm" not in name] for calls in found)
    assert sorted(here) == sorted(there)


def test_work_costs_more_joules_than_idling_by_the_boards_counter():
    import time

    matrix = torch.randn(4096, 4096, device="cuda")

    def work(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            torch.mm(matrix, matrix)
            torch.cuda.synchronize()

    work(1.0)
    with measure(device="cuda") as busy:
        work(2.0)
    time.sleep(2.0)
    with measure(device="cuda") as idle:
        time.sleep(2.0)
    assert math.isfinite(busy.energy_j)
    assert busy.energy_j > 1.5 * idle.energy_j > 0


def test_one_rank_on_nccl_does_the_hooks_exchange():
    """A group of one: the collectives run, the gradient comes back as the kept entries and the residual holds the rest."""
    code = """
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
from cwmp_selector.frameworks.ddp import DDPHook
from cwmp_selector.selector import Selector
dist.init_process_group("nccl", init_method="tcp://127.0.0.1:29511", rank=0, world_size=1)
torch.cuda.set_device(0)
net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)).cuda()
ddp = DDP(net, device_ids=[0])
hook = DDPHook(ddp, Selector(1.0, budget_fraction=0.02))
ddp.register_comm_hook(hook, DDPHook.communicate)
total = sum(p.numel() for p in net.parameters())
for _ in range(3):
    net.zero_grad()
    ddp(torch.randn(32, 64, device="cuda")).square().sum().backward()
    kept = sum(int((p.grad != 0).sum()) for p in net.parameters())
    assert 0 < kept <= 0.02 * total + 1, kept
    assert hook.energy_j <= hook.budget_j * (1 + 1e-9)
dist.destroy_process_group()
"""
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
