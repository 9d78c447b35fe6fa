"""SparseStep writes what it selected and nothing else: parameter, momentum and moments; torch's optimisers are the oracle."""

import copy

import pytest
import torch

from cwmp_profiler.counts import STATE_TENSORS
from cwmp_profiler.devices.torch_device import TorchDevice
from cwmp_profiler.kernels.compiled import available, load
from cwmp_profiler.workloads import WORKLOADS
from cwmp_profiler.workloads.operands import Operands
from cwmp_selector.errors import SelectionError
from cwmp_selector.frameworks.sparse_step import SparseStep
from cwmp_selector.selector import Selector


def linear(seed=0, **options):
    torch.manual_seed(seed)
    return torch.nn.Linear(30, 20, **options)


def backward(net, seed):
    torch.manual_seed(seed)
    net(torch.randn(5, 30)).square().sum().backward()


MAKERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, maximize=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_only_chosen_entries_of_parameter_and_state_are_written(name):
    """Four steps; where an entry is not chosen, parameter, momentum and moments keep their bits, weight decay or not."""
    net = linear()
    optimizer = MAKERS[name](net.parameters())
    sparse = SparseStep(optimizer, net.named_parameters(), Selector(1.0, k=25))
    for step in range(4):
        before = {n: p.detach().clone() for n, p in net.named_parameters()}
        states = {n: copy.deepcopy(optimizer.state.get(p, {})) for n, p in net.named_parameters()}
        optimizer.zero_grad()
        backward(net, step)
        optimizer.step()
        for n, p in net.named_parameters():
            elsewhere = torch.ones(p.numel(), dtype=torch.bool)
            elsewhere[sparse.update.indices[n]] = False
            assert torch.equal(p.detach().view(-1)[elsewhere], before[n].view(-1)[elsewhere])
            assert bool((p.detach().view(-1) != before[n].view(-1))[~elsewhere].all())
            assert torch.equal(p.grad, sparse.update.to_dense()[n])
            for key, value in states[n].items():
                if key != "step":
                    assert torch.equal(optimizer.state[p][key].view(-1)[elsewhere], value.view(-1)[elsewhere])
    assert sum(sparse.update.kept.values()) == 25
    assert sparse.energy_j == 100.0


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_keeping_everything_is_the_optimiser_itself(name, memory_format):
    """A full budget steps as without SparseStep, bit for bit, channels_last too."""
    torch.manual_seed(0)
    net = torch.nn.Conv2d(4, 6, 3).to(memory_format=memory_format)
    twin = copy.deepcopy(net)
    one, other = MAKERS[name](net.parameters()), MAKERS[name](twin.parameters())
    SparseStep(one, net.named_parameters(), Selector(1.0, budget_fraction=1.0))
    for step in range(3):
        for model, optimizer in ((net, one), (twin, other)):
            optimizer.zero_grad()
            torch.manual_seed(step)
            model(torch.randn(2, 4, 8, 8)).square().sum().backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_channels_last_and_contiguous_weights_take_the_same_sparse_steps():
    nets = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        net = torch.nn.Conv2d(4, 6, 3).to(memory_format=memory_format)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        SparseStep(optimizer, net.named_parameters(), Selector(1.0, k=30))
        for step in range(3):
            optimizer.zero_grad()
            torch.manual_seed(step)
            gradients = {p: torch.randn(p.shape) for p in net.parameters()}
            for p, g in gradients.items():
                p.grad = g.to(memory_format=memory_format) if g.dim() == 4 else g
            optimizer.step()
        nets.append(net)
    assert nets[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(nets[0].weight, nets[1].weight)


@pytest.mark.parametrize("state", ["lazy", "dense"])
def test_a_closures_gradients_are_selected_from(state):
    """The closure makes the gradients within the step: positional or by name, the chosen entries alone are stepped."""
    for by_name in (False, True):
        net = linear()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        sparse = SparseStep(optimizer, net.named_parameters(), Selector(1.0, k=7), state=state)
        before = {n: p.detach().clone() for n, p in net.named_parameters()}

        def closure(net=net, optimizer=optimizer):
            optimizer.zero_grad()
            torch.manual_seed(1)
            loss = net(torch.randn(5, 30)).square().sum()
            loss.backward()
            return loss

        loss = optimizer.step(closure=closure) if by_name else optimizer.step(closure)
        assert float(loss) > 0
        moved = sum(int((p != before[n]).sum()) for n, p in net.named_parameters())
        assert moved == sum(sparse.update.kept.values()) == 7
        assert sum(int((p.grad != 0).sum()) for p in net.parameters()) == 7


def test_optimisers_that_cannot_step_so_are_refused_at_once():
    """By name, with the cure: LBFGS, others lazily, options without a lazy form; a second SparseStep; several evaluations."""
    net = linear()

    def make(optimizer, **options):
        return SparseStep(optimizer, net.named_parameters(), Selector(1.0, k=3), **options)

    with pytest.raises(SelectionError, match="LBFGS evaluates its closure several times"):
        make(torch.optim.LBFGS(net.parameters()), state="dense")
    with pytest.raises(SelectionError, match="RMSprop .* state='dense'"):
        make(torch.optim.RMSprop(net.parameters()))
    with pytest.raises(SelectionError, match="Adam with amsgrad"):
        make(torch.optim.Adam(net.parameters(), amsgrad=True))
    with pytest.raises(SelectionError, match="SGD with dampening"):
        make(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, dampening=0.5))
    optimizer = torch.optim.RMSprop(net.parameters())
    sparse = make(optimizer, state="dense")
    with pytest.raises(SelectionError, match=r"call its remove\(\) first"):
        make(optimizer, state="dense")
    sparse.remove()
    make(optimizer, state="dense")

    class Twice(torch.optim.SGD):
        def step(self, closure=None):
            closure()
            return super().step(closure)

    twice = Twice(net.parameters(), lr=0.1)
    make(twice, state="dense")

    def closure():
        backward(net, 0)
        return torch.zeros(())

    with pytest.raises(SelectionError, match="several times a step"):
        twice.step(closure)


def test_an_optimisers_checkpoint_holds_the_lazy_state():
    """torch's own state_dict, loaded into a plain optimiser of the same kind, and steps go on alike."""
    net = linear()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    sparse = SparseStep(optimizer, net.named_parameters(), Selector(1.0, k=25))
    for step in range(3):
        optimizer.zero_grad()
        backward(net, step)
        optimizer.step()
    twin = copy.deepcopy(net)
    other = torch.optim.Adam(twin.parameters(), lr=0.01)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again = SparseStep(other, twin.named_parameters(), Selector(1.0, k=25))
    again.load_state_dict(sparse.state_dict())
    for model, stepper in ((net, optimizer), (twin, other)):
        stepper.zero_grad()
        backward(model, 9)
        stepper.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert float(optimizer.state[net.weight]["step"]) == 4


def test_an_overflowing_step_is_skipped_by_the_scaler():
    """The scaler sees infinities before the hook: nothing is selected, nothing raised, the next step goes on."""
    net = linear()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    sparse = SparseStep(optimizer, net.named_parameters(), Selector(1.0, k=5))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(3):
        optimizer.zero_grad()
        torch.manual_seed(step)
        inputs = torch.randn(5, 30) * (1e30 if step == 1 else 1.0)
        scaler.scale(net(inputs).square().sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert sparse.energy_j == 10.0
    assert scaler.get_scale() == 2.0


def test_meta_tensors_are_refused_by_name():
    with torch.device("meta"):
        net = torch.nn.Linear(4, 3)
    with pytest.raises(SelectionError, match="'weight' is on the meta device"):
        SparseStep(torch.optim.SGD(net.parameters(), lr=0.1), net.named_parameters(), Selector(1.0, k=1))
    with pytest.raises(SelectionError, match="'w' is on the meta device"):
        Selector(1.0, k=1).select({"w": torch.zeros(3, device="meta")})


def test_a_sparse_embedding_keeps_its_kind_of_gradient():
    """Two backward passes without zeroing in between: torch can add to what the step left."""
    torch.manual_seed(0)
    table = torch.nn.Embedding(50, 4, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=1.0, momentum=0.5)
    sparse = SparseStep(optimizer, table.named_parameters(), Selector(1.0, k=5))
    for _ in range(2):
        (table(torch.tensor([3, 7, 7])) * torch.arange(1.0, 5.0)).sum().backward()
        before = table.weight.detach().clone()
        optimizer.step()
        assert int((table.weight != before).sum()) == 5
        assert torch.equal(table.weight.grad.to_dense(), sparse.update.to_dense()["weight"])


@pytest.mark.skipif(not available(), reason="Numba (the extra `fast`) is not installed")
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_a_sparse_step_runs_the_loop_that_the_update_workload_measures(monkeypatch, optimizer):
    """What is priced as mode `entries` is what SparseStep runs: the same compiled loop, on the parameter and all of its state."""
    load()
    from cwmp_profiler.kernels import loops

    ran = []
    for name in ("add", "sgd", "momentum", "adam"):
        monkeypatch.setattr(loops, f"{name}_at", lambda like, places, at, *_, name=name: ran.append((name, len(at))))
    params = {"layer": "linear", "shape": [4096], "n": 4096, "optimizer": optimizer, "mode": "entries", "density": 0.1}
    WORKLOADS["update.step"].build(params, TorchDevice("cpu").info, Operands("cpu", 1))()
    measured, ran[:] = list(ran), []
    parameter = torch.nn.Parameter(torch.randn(4096))
    parameter.grad = torch.randn(4096)
    steps = MAKERS[optimizer]([parameter])
    SparseStep(steps, [("p", parameter)], Selector(1.0, k=400))
    steps.step()
    # Error feedback adds besides.
    stepped = [call for call in ran if call[0] != "add"]
    assert measured == stepped == [(optimizer, 1 + STATE_TENSORS[optimizer])]
    ran.clear()
    update = Selector(1.0, k=400).select({"p": torch.randn(4096)})
    update.apply_to({"p": torch.zeros(4096)})
    assert ran == [("add", 1)]
