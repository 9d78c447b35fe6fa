"""The selector in GRACE's shape: compensate, compress, send, decompress, aggregate, one tensor at a time.

Two workers are played in one process, so that the example runs without GRACE; with it, pass `CwmpCompressor` and `CwmpMemory` to
one of its communicators.

    python examples/grace_compressor.py
"""

from __future__ import annotations

import argparse
import copy

import torch

from cwmp_selector.frameworks.grace import CwmpCompressor, CwmpMemory
from cwmp_selector.selector import Selector


def main(argv: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description="Train a small classifier on two workers, 5% of each tensor's joules.")
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args(argv).steps

    torch.manual_seed(0)
    truth = torch.randn(20, 3)
    model = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
    costs = {name: 1e-8 if name.startswith("0.") else 1e-9 for name, _ in model.named_parameters()}
    workers = []
    for _ in range(2):
        inputs = torch.randn(256, 20)
        compressor = CwmpCompressor(Selector(costs, budget_fraction=0.05, values="float16"))
        workers.append((inputs, (inputs @ truth).argmax(1), compressor, CwmpMemory()))

    sent = 0
    for _ in range(steps):
        decompressed: dict[str, list[torch.Tensor]] = {name: [] for name, _ in model.named_parameters()}
        for inputs, labels, compressor, memory in workers:
            replica = copy.deepcopy(model)
            torch.nn.functional.cross_entropy(replica(inputs), labels).backward()
            for name, parameter in replica.named_parameters():
                tensor = memory.compensate(parameter.grad, name)
                compressed, context = compressor.compress(tensor, name)
                memory.update(tensor, name, compressor, compressed, context)
                decompressed[name].append(compressor.decompress(compressed, context))
                sent += compressed[0].numel()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.sub_(0.2 * workers[0][2].aggregate(decompressed[name]) / len(workers))
    inputs, labels = workers[0][:2]
    accuracy = (model(inputs).argmax(1) == labels).float().mean().item()
    dense = 4 * sum(p.numel() for p in model.parameters()) * steps * len(workers)
    print(f"accuracy {accuracy:.3f}, {sent} bytes sent, {dense / sent:.1f} times fewer than dense float32")
    return accuracy


if __name__ == "__main__":
    main()
