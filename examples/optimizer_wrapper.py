"""Train on one machine within an energy budget: any torch optimiser, stepping with sparse updates.

python examples/optimizer_wrapper.py
"""

from __future__ import annotations

import argparse

import torch

from cwmp_selector.controller import BudgetController
from cwmp_selector.frameworks.sparse_step import SparseStep
from cwmp_selector.selector import Selector


def main(argv: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description="Train a small classifier with 3% of the joules of dense updates.")
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args(argv).steps

    torch.manual_seed(0)
    inputs, truth = torch.randn(512, 20), torch.randn(20, 3)
    labels = (inputs @ truth).argmax(1)
    model = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)

    # Joules per entry: the first layer is ten times dearer than the rest. A device profile gives these for a real device.
    costs = {name: 1e-8 if name.startswith("0.") else 1e-9 for name, _ in model.named_parameters()}
    dense_j = sum(costs[name] * p.numel() for name, p in model.named_parameters())
    controller = BudgetController(0.03 * dense_j * steps, steps)
    sparse = SparseStep(optimizer, model.named_parameters(), Selector(costs), controller=controller)

    for step in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        if step % 50 == 0 and sparse.update is not None:
            print(f"step {step:3}  loss {loss.item():.3f}  density {sparse.update.density:.2%}")
    accuracy = (model(inputs).argmax(1) == labels).float().mean().item()
    print(f"accuracy {accuracy:.3f} for {sparse.energy_j:.3g} J ({sparse.energy_j / (dense_j * steps):.1%} of dense)")
    return accuracy


if __name__ == "__main__":
    main()
