"""Runs cases of the DDP hook on two gloo processes and writes what each rank saw as JSON: `python ddp_ranks.py FOLDER`."""

import contextlib
import json
import os
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel as DDP  # noqa: N817

from cwmp_selector.errors import SelectionError
from cwmp_selector.frameworks.ddp import DDPHook
from cwmp_selector.selector import Selector

RANKS = 2


def mlp(seed=0):
    torch.manual_seed(seed)
    sizes = (64, 256, 128, 64, 10)
    layers = [m for a, b in zip(sizes, sizes[1:], strict=False) for m in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers[:-1])


def hooked(net, selector, *, overlap=False, feedback=None, **options):
    ddp = DDP(net, **options)
    hook = DDPHook(ddp, selector, overlap=overlap, feedback=feedback)
    ddp.register_comm_hook(hook, DDPHook.communicate)
    return ddp, hook


def same_everywhere(net):
    flat = torch.cat([p.detach().float().reshape(-1) for p in net.parameters()])
    gathered = [torch.empty_like(flat) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, flat)
    return all(torch.equal(gathered[0], other) for other in gathered)


def kept(rank, overlap, fraction, costs_spread, steps=110):
    """Kept g^2 of each step over a joint selection of the same corrected gradients at the joules spent and at the budget."""
    net = mlp()
    costs = {n: 1e-9 * costs_spread ** (i % 3) for i, (n, _) in enumerate(net.named_parameters())}
    ddp, hook = hooked(net, Selector(costs, budget_fraction=fraction), overlap=overlap, bucket_cap_mb=0.05)
    joint, optimizer = Selector(costs), torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(10 + rank)
    inputs = torch.randn(2048, 64)
    labels = (inputs @ torch.randn(64, 10, generator=torch.Generator().manual_seed(3))).argmax(1)
    spent, budget, over = [], [], 0
    for step in range(steps):
        optimizer.zero_grad()
        batch = torch.randint(0, 2048, (64,))
        torch.nn.functional.cross_entropy(ddp(inputs[batch]), labels[batch]).backward()
        optimizer.step()
        over += hook.energy_j > hook.budget_j * (1 + 1e-12)
        if step < 10:
            continue
        dense = {n: hook.feedback.residual(n).double().clone() for n, _ in net.named_parameters()}
        value = 0.0
        for update in hook.updates:
            update.apply_to(dense)
            value += sum(float(v.double().square().sum()) for v in update.values.values())
        for which, joules in ((spent, hook.energy_j), (budget, hook.budget_j)):
            best = joint.select(dense, budget_j=joules)
            which.append(value / sum(float(v.square().sum()) for v in best.values.values()))
    sent = {n: sum(u.kept[n] for u in hook.updates if n in u.kept) for n, _ in net.named_parameters()}
    return {"spent": spent, "budget": budget, "over": over, "same": same_everywhere(net), "sent": sent,
            "early": len(hook.updates)}  # fmt: skip


def overflow(rank, overlap):
    """Rank 0 overflows in step 2: what every rank sees, the scale, and the residual before and after."""
    net = mlp()
    ddp, hook = hooked(net, Selector(1.0, budget_fraction=0.05), overlap=overlap, bucket_cap_mb=0.05)
    scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=1024.0), torch.optim.SGD(net.parameters(), lr=0.01)
    torch.manual_seed(rank)
    finite, scales, nan, residuals = [], [], [], []
    for step in range(5):
        optimizer.zero_grad()
        inputs = torch.randn(16, 64) * (3e38 if step == 2 and rank == 0 else 1.0)
        scaler.scale(ddp(inputs).square().mean()).backward()
        finite.append(all(bool(torch.isfinite(p.grad).all()) for p in net.parameters()))
        nan.append(all(bool(torch.isnan(p.grad).all()) for p in net.parameters()))
        residuals.append(sum(float(hook.feedback.residual(n).double().sum()) for n, _ in net.named_parameters()))
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return {"finite": finite, "nan": nan, "scales": scales, "residuals": residuals, "same": same_everywhere(net)}


def channels_last(rank, as_view):
    """Largest difference between the hook's gradients at a full budget and DDP's own, over channels_last weights."""

    def gradients(with_hook):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 3)).to(
            memory_format=torch.channels_last
        )
        if with_hook:
            ddp, _ = hooked(net, Selector(1.0, budget_fraction=1.0), gradient_as_bucket_view=as_view)
        else:
            ddp = DDP(net, gradient_as_bucket_view=as_view)
        torch.manual_seed(1 + rank)
        ddp(torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)).square().mean().backward()
        return [p.grad.clone() for p in net.parameters()]

    return max(float((a - b).abs().max()) for a, b in zip(gradients(False), gradients(True), strict=True))


class Skip(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.skip = torch.nn.Linear(30, 30, bias=False), torch.nn.Linear(30, 30, bias=False)

    def forward(self, x, use):
        h = self.a(x)
        return h + self.skip(h) if use else h


def unused(rank, overlap):
    """A parameter takes part in step 0 and 6 only: its residual's size after each step, and what was sent of it."""
    torch.manual_seed(0)
    net = Skip()
    ddp, hook = hooked(
        net, Selector(1.0, budget_fraction=0.1), overlap=overlap, find_unused_parameters=True, bucket_cap_mb=0.001
    )
    torch.manual_seed(rank)
    sizes, sent = [], []
    for step in range(8):
        net.zero_grad(set_to_none=True)
        ddp(torch.randn(8, 30), step in (0, 6)).square().mean().backward()
        sizes.append(float(hook.feedback.residual("skip.weight").abs().sum()))
        sent.append(sum(u.kept.get("skip.weight", 0) for u in hook.updates))
    return {"sizes": sizes, "sent": sent}


def failing(rank):
    """Rank 1 lacks a cost: what each rank is told."""
    net = torch.nn.Linear(8, 4)
    costs = {"weight": 1.0} if rank else {"weight": 1.0, "bias": 1.0}
    ddp, _ = hooked(net, Selector(costs, budget_j=5.0))
    with contextlib.suppress(SelectionError):
        try:
            ddp(torch.randn(2, 8)).sum().backward()
        except RuntimeError as error:
            return str(error)
        except SelectionError as error:
            return str(error)
    return "nothing"


def rescaled(rank):
    """Six steps without a scaler, and the same with one whose scale doubles: the gradients after unscaling are the same."""
    found = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)):
        net = mlp()
        ddp = DDP(net, bucket_cap_mb=0.05)
        hook = DDPHook(ddp, Selector(1.0, budget_fraction=0.05), overlap=True, scaler=scaler)
        ddp.register_comm_hook(hook, DDPHook.communicate)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        torch.manual_seed(rank)
        for _ in range(6):
            optimizer.zero_grad()
            loss = ddp(torch.randn(16, 64)).square().mean()
            (scaler.scale(loss) if scaler else loss).backward()
            if scaler:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
        found.append(torch.cat([p.detach().view(-1) for p in net.parameters()]))
    return {"difference": float((found[0] - found[1]).abs().max()), "scale": scaler.get_scale()}


def sharded(rank):
    """A DTensor is refused by name wherever gradients or parameters enter."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    from cwmp_selector.feedback import ErrorFeedback
    from cwmp_selector.frameworks.sparse_step import SparseStep

    net = torch.nn.Linear(8, 4)
    mesh = init_device_mesh("cpu", (RANKS,))
    net.weight = torch.nn.Parameter(distribute_tensor(net.weight.detach(), mesh, [Shard(0)]))
    selector, optimizer = Selector(1.0, k=3), torch.optim.SGD(net.parameters(), lr=0.1)
    told = []
    for attempt in (
        lambda: selector.select(dict(net.named_parameters())),
        lambda: ErrorFeedback().add(dict(net.named_parameters())),
        lambda: SparseStep(optimizer, net.named_parameters(), selector),
        lambda: DDPHook(net, selector),
    ):
        try:
            attempt()
        except SelectionError as error:
            told.append(str(error))
    return told


def half(rank):
    """bfloat16: bytes of a payload, entries kept, and what is lost between what was given and what was sent and is left."""
    torch.manual_seed(0)
    net = torch.nn.Linear(200, 100, bias=False).bfloat16()
    ddp, hook = hooked(net, Selector(1e-9, budget_fraction=0.05))
    given, sent = torch.zeros(100, 200, dtype=torch.float64), torch.zeros(100, 200, dtype=torch.float64)
    add = hook.feedback.add

    def recording(gradients):
        given.add_(gradients["weight"].double())
        return add(gradients)

    hook.feedback.add = recording
    torch.manual_seed(rank)
    for _ in range(20):
        net.zero_grad()
        ddp(torch.randn(8, 200).bfloat16()).square().mean().backward()
        for update in hook.updates:
            sent += update.to_dense()["weight"].double()
    lost = given - sent - hook.feedback.residual("weight").double()
    return {
        "bytes": hook.payload_bytes,
        "kept": hook.updates[0].kept["weight"],
        "lost": float(lost.norm() / given.norm()),
    }


def body(rank, folder):
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS, timeout=timedelta(seconds=60)
    )
    found = {
        f"kept {overlap} {fraction} {spread}": kept(rank, overlap, fraction, spread)
        for overlap, fraction, spread in (
            (False, 0.01, 10), (True, 0.001, 1), (True, 0.01, 10), (True, 0.05, 1)
        )
    }  # fmt: skip
    found |= {f"overflow {overlap}": overflow(rank, overlap) for overlap in (False, True)}
    found |= {f"channels_last {as_view}": channels_last(rank, as_view) for as_view in (False, True)}
    found |= {f"unused {overlap}": unused(rank, overlap) for overlap in (False, True)}
    found |= {"half": half(rank), "rescaled": rescaled(rank), "sharded": sharded(rank), "failing": failing(rank)}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    mp.spawn(body, args=(sys.argv[1],), nprocs=RANKS)
