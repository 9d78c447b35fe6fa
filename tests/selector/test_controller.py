"""The controller of a whole run: total met, never exceeded, more kept than with equal budgets, state that survives."""

import json
import math

import pytest
import torch

from cwmp_selector.controller import BudgetController
from cwmp_selector.costs import Costs
from cwmp_selector.errors import SelectionError
from cwmp_selector.selector import Selector

COSTS = {"a": 1.0, "b": 5.0}


def stream(rounds, clients=1, decay=3.0, seed=0):
    """Gradients that shrink over the run, with clients of different scale and noise from round to round."""
    generator = torch.Generator().manual_seed(seed)
    for t in range(rounds):
        for i in range(clients):
            scale = math.exp(-decay * t / rounds + 0.3 * float(torch.randn(1, generator=generator))) * (1 + 0.5 * i)
            yield {
                "a": scale * torch.randn(3000, generator=generator),
                "b": scale * torch.randn(2000, generator=generator),
            }


def kept_value(update):
    return sum(float((v.double() ** 2).sum()) for v in update.values.values())


@pytest.mark.parametrize("rounds", [1, 2, 10, 100])
@pytest.mark.parametrize("decay", [-2.0, 0.0, 3.0])
def test_total_is_met_and_never_exceeded(rounds, decay):
    """Over 1 to 100 rounds of gradients that grow, stay or shrink: between 97% and 100% of the total."""
    total = rounds * 130.0
    controller, selector = BudgetController(total, rounds), Selector(COSTS)
    energy = math.fsum(controller.select(selector, g).energy_j for g in stream(rounds, decay=decay))
    assert 0.97 * total <= energy <= total
    assert controller.spent_j == pytest.approx(energy)


def test_clients_of_a_round_share_one_lambda_and_the_total():
    """Ten clients a round get the same allowance; their caps together never exceed what is left."""
    rounds, clients = 30, 10
    total = rounds * clients * 100.0
    controller, selector = BudgetController(total, rounds * clients), Selector(COSTS)
    gradients = stream(rounds, clients)
    for _ in range(rounds):
        allowance = controller.allowance(clients)
        assert clients * allowance.budget_j <= controller.left_j * (1 + 1e-12)
        updates = [
            selector.select(next(gradients), budget_j=allowance.budget_j, lambda_=allowance.lambda_)
            for _ in range(clients)
        ]
        for update in updates:
            controller.record(update)
    assert 0.97 * total <= controller.spent_j <= total


def test_one_lambda_keeps_more_than_equal_budgets():
    """Ten unequal clients: the sum of kept g^2 exceeds that of equal budgets by 10% at least, for no more joules."""
    rounds, clients = 30, 10
    total = rounds * clients * 100.0
    controller, selector = BudgetController(total, rounds * clients), Selector(COSTS)
    one, gradients = 0.0, stream(rounds, clients, decay=0.5)
    for _ in range(rounds):
        allowance = controller.allowance(clients)
        for _ in range(clients):
            update = selector.select(next(gradients), budget_j=allowance.budget_j, lambda_=allowance.lambda_)
            controller.record(update)
            one += kept_value(update)
    equal = math.fsum(kept_value(selector.select(g, budget_j=100.0)) for g in stream(rounds, clients, decay=0.5))
    assert controller.spent_j <= total
    assert one > 1.1 * equal


def test_state_survives_json():
    """A run that is saved and restored half way ends exactly like one that is not."""

    def run(interrupt):
        controller, selector = BudgetController(5000.0, 40), Selector(COSTS)
        for t, g in enumerate(stream(40)):
            if interrupt and t == 20:
                state = json.loads(json.dumps(controller.state_dict()))
                controller = BudgetController(1.0, 1)
                controller.load_state_dict(state)
            controller.select(selector, g)
        return controller.spent_j, controller.lambda_

    assert run(interrupt=True) == run(interrupt=False)
    with pytest.raises(SelectionError, match="state_dict"):
        BudgetController(1.0, 1).load_state_dict({"total_j": 1.0})


def test_works_with_fixed_costs():
    """The lambda of the Lagrangian carries over in the same way."""
    costs = Costs(COSTS, tensor_j=10.0, payload_j=5.0)
    controller, selector = BudgetController(40 * 130.0, 40), Selector(costs)
    for g in stream(40):
        controller.select(selector, g)
    assert 0.95 * 40 * 130 <= controller.spent_j <= 40 * 130


def test_wrong_use_is_refused():
    """No joules, no selections, a rule without lambda."""
    for arguments in ((0.0, 1), (math.inf, 1), (1.0, 0)):
        with pytest.raises(SelectionError):
            BudgetController(*arguments)
    with pytest.raises(SelectionError, match="no lambda"):
        BudgetController(1.0, 1).record(Selector(1.0, k=1, rule="top-k").select({"a": torch.ones(3)}))
