"""Train with DistributedDataParallel and send sparse updates: two processes over gloo here, the same code over NCCL.

python examples/ddp_hook.py
"""

from __future__ import annotations

import argparse
import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cwmp_selector.frameworks.ddp import DDPHook
from cwmp_selector.selector import Selector


def worker(rank: int, ranks: int, meeting_point: str, steps: int, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
    truth = torch.randn(20, 3)
    # Buckets of a few kilobytes, so that this small model has several, as a large one has with the default.
    ddp = torch.nn.parallel.DistributedDataParallel(model, bucket_cap_mb=0.002)
    costs = {name: 1e-8 if name.startswith("0.") else 1e-9 for name, _ in model.named_parameters()}
    hook = DDPHook(ddp, Selector(costs, budget_fraction=0.05))
    ddp.register_comm_hook(hook, DDPHook.communicate)

    torch.manual_seed(1 + rank)
    inputs = torch.randn(256, 20)
    labels = (inputs @ truth).argmax(1)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.2)
    for step in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(ddp(inputs), labels)
        loss.backward()
        optimizer.step()
        if hook.energy_j > hook.budget_j:
            raise RuntimeError(f"step {step} spent {hook.energy_j} J of {hook.budget_j} J")
        if rank == 0 and step % 50 == 0:
            print(
                f"step {step:3}  loss {loss.item():.3f}  {hook.payload_bytes} bytes  {hook.energy_j:.3g} J", flush=True
            )
    accuracy = (ddp(inputs).argmax(1) == labels).float().mean().item()
    weights = torch.cat([p.detach().view(-1) for p in model.parameters()])
    torch.save({"accuracy": accuracy, "weights": weights}, os.path.join(results, f"{rank}.pt"))  # noqa: PTH118
    dist.destroy_process_group()


def main(argv: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(
        description="Train a small classifier on two processes with 5% of the dense joules a step."
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--ranks", type=int, default=2)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        meeting_point = os.path.join(folder, "meet")  # noqa: PTH118
        mp.spawn(worker, (options.ranks, meeting_point, options.steps, folder), nprocs=options.ranks)
        found = [torch.load(os.path.join(folder, f"{rank}.pt")) for rank in range(options.ranks)]  # noqa: PTH118
    if not all(torch.equal(found[0]["weights"], other["weights"]) for other in found):
        raise RuntimeError("the ranks' weights differ")
    print(f"accuracy {found[0]['accuracy']:.3f}, weights equal on all {options.ranks} ranks")
    return float(found[0]["accuracy"])


if __name__ == "__main__":
    main()
