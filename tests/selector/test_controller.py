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


def spend(scale, *, rounds=100, clients=1, each=False, silent_share=0.0, n=2000):
    """Return kept g^2 against equal budgets, share of the total spent, and updates that kept nothing."""
    generator = torch.Generator().manual_seed(1)
    total = 0.01 * n * rounds * clients
    controller, selector = BudgetController(total, rounds * clients), Selector(1.0)
    kept, equal, silent, exact = 0.0, 0.0, 0, []
    for t in range(rounds):
        allowances = (
            [controller.allowance() for _ in range(clients)] if each else [controller.allowance(clients)] * clients
        )
        updates = []
        for allowance in allowances:
            heavy = torch.randn(4, n, generator=generator).square().mean(0).sqrt()
            gradients = {"a": scale(t / rounds) * torch.randn(n, generator=generator) / heavy}
            equal += kept_value(selector.select(gradients, budget_j=total / rounds / clients))
            if float(torch.rand(1, generator=generator)) < silent_share:
                continue
            updates.append(selector.select(gradients, budget_j=allowance.budget_j, lambda_=allowance.lambda_))
        for update in updates:
            controller.record(update)
            kept, silent = kept + kept_value(update), silent + (update.density == 0)
            exact.append(update.energy_j)
    assert math.fsum(exact) <= total
    return kept / equal, controller.spent_j / total, silent


@pytest.mark.parametrize(("clients", "each"), [(1, False), (10, False), (3, True)])
@pytest.mark.parametrize("factor", [0.001, 0.01, 0.1, 1.0, 10.0, 1000.0])
def test_gradients_that_fall_or_rise_at_once_cost_one_round(factor, clients, each):
    kept, spent, silent = spend(lambda t: 1.0 if t < 0.2 else factor, clients=clients, each=each)
    assert kept > 0.9
    assert 0.97 < spent <= 1
    assert silent <= 2 * clients


@pytest.mark.parametrize("each", [False, True])
def test_allowances_asked_one_by_one_never_exceed_the_total(each):
    for scale in (lambda t: 1.0 if t < 0.5 else 50.0, lambda t: 20.0**t, lambda t: 20.0**-t):
        for rounds in (1, 2, 5, 40):
            spend(scale, rounds=rounds, clients=4, each=each)


def test_what_silent_clients_were_allowed_goes_to_the_others():
    """Half of the selections never come; without handing on, half of the joules would stay."""
    _, spent, _ = spend(lambda _t: 1.0, clients=4, silent_share=0.5)
    assert spent > 0.7


def test_an_allowance_that_is_out_is_held_back():
    """Two selections in flight: the caps of both fit the total, whatever order they are asked and recorded in."""
    controller, selector = BudgetController(10.0, 4), Selector(1.0)
    gradients = {"a": torch.ones(100)}
    late = controller.allowance()
    for _ in range(3):
        allowance = controller.allowance()
        controller.record(selector.select(gradients, budget_j=allowance.budget_j, lambda_=allowance.lambda_))
    assert controller.spent_j + late.budget_j <= 10.0
