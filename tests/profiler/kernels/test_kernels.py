"""Writes of a sparse update: torch's optimisers are the oracle, and the two ways give the same bits in every layout."""

import pytest
import torch

from cwmp_profiler.kernels import compiled
from cwmp_profiler.kernels.places import memory_of, overlaps, places_of
from cwmp_profiler.kernels.rules import Adam, Sgd
from cwmp_profiler.kernels.scatter import KernelError, add_at, step_at

needs_numba = pytest.mark.skipif(not compiled.available(), reason="Numba (the extra `fast`) is not installed")

RULES = {
    "sgd": Sgd(lr=0.1),
    "sgd-decay": Sgd(lr=0.1, weight_decay=0.03, maximize=True),
    "momentum": Sgd(lr=0.1, momentum=0.9),
    "nesterov": Sgd(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": Adam(lr=0.01),
    "adam-decay": Adam(lr=0.01, weight_decay=0.1, maximize=True, beta1=0.8, beta2=0.95),
    "adamw": Adam(lr=0.01, weight_decay=0.1, decoupled=True),
}

LAYOUTS = {
    "contiguous": lambda: torch.randn(6, 8, 5, 7),
    "flat": lambda: torch.randn(4000),
    "channels_last": lambda: torch.randn(6, 8, 5, 7).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(40, 60).t(),
    "sliced": lambda: torch.randn(40, 60)[3:37:2, 1::3],
    "permuted": lambda: torch.randn(7, 6, 9).permute(2, 0, 1),
    "scalar": lambda: torch.randn(()),
}


def oracle(rule, parameter):
    if isinstance(rule, Sgd):
        return torch.optim.SGD(
            [parameter], lr=rule.lr, momentum=rule.momentum, nesterov=rule.nesterov, weight_decay=rule.weight_decay,
            maximize=rule.maximize, foreach=False,
        )  # fmt: skip
    kind = torch.optim.AdamW if rule.decoupled else torch.optim.Adam
    return kind(
        [parameter], lr=rule.lr, betas=(rule.beta1, rule.beta2), eps=rule.eps, weight_decay=rule.weight_decay,
        maximize=rule.maximize, foreach=False,
    )  # fmt: skip


@pytest.fixture(params=["torch", pytest.param("compiled", marks=needs_numba)])
def way(request, monkeypatch):
    """Either way, for any number of positions."""
    monkeypatch.setattr(compiled, "chosen", lambda count: request.param == "compiled")
    return request.param


@pytest.mark.parametrize("name", RULES)
def test_a_step_of_all_entries_is_that_of_torch_optim(name, way):
    """Five steps in float64, momentum, decay and direction included; torch's own optimiser is the truth."""
    torch.manual_seed(0)
    rule, start = RULES[name], torch.randn(20, 30, dtype=torch.float64)
    ours, theirs = start.clone(), torch.nn.Parameter(start.clone())
    state = [torch.zeros_like(ours) for _ in rule.state_names]
    optimizer = oracle(rule, theirs)
    for step in range(1, 6):
        theirs.grad = torch.randn_like(ours)
        step_at(rule, ours, torch.arange(600), theirs.grad.view(-1), state, step=step)
        optimizer.step()
    assert torch.allclose(ours, theirs.detach(), rtol=0, atol=1e-13)
    for name_, mine in zip(rule.state_names, state, strict=True):
        assert torch.allclose(mine, optimizer.state[theirs][name_], rtol=0, atol=1e-14)


def test_lazy_adam_is_torchs_sparse_adam(way):
    """Entries come and go over ten steps; the moments of those that are away rest. (eps is 0: torch adds it elsewhere.)"""
    torch.manual_seed(1)
    theirs = torch.nn.Parameter(torch.randn(200, 1, dtype=torch.float64))
    ours, state = theirs.detach().clone(), [torch.zeros(200, 1, dtype=torch.float64) for _ in range(2)]
    optimizer = torch.optim.SparseAdam([theirs], lr=0.01, eps=1e-300)
    for step in range(1, 11):
        where = (torch.rand(200) < 0.3).nonzero().view(-1)
        values = torch.randn(where.numel(), dtype=torch.float64)
        theirs.grad = torch.sparse_coo_tensor(where[None], values[:, None], (200, 1))
        optimizer.step()
        step_at(Adam(lr=0.01, eps=1e-300), ours, where, values, state, step=step)
    assert torch.allclose(ours, theirs.detach(), rtol=0, atol=1e-13)


def positions_of(kind, n):
    if kind == "lines":
        return torch.unique(
            (torch.randint(0, -(-n // 16), (max(n // 64, 1),))[:, None] * 16 + torch.arange(16)).clamp(max=n - 1)
        )
    if kind == "mixed":
        return torch.unique(torch.cat([positions_of("lines", n), torch.randint(0, n, (max(n // 20, 1),))]))
    if kind == "shuffled":
        return torch.randperm(n)[: max(n // 3, 1)]
    return torch.arange(n) if kind == "all" else torch.unique(torch.randint(0, n, (max(n // 50, 1),)))


@needs_numba
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["few", "lines", "mixed", "all", "shuffled"])
def test_both_ways_give_the_same_bits(dtype, layout, kind, monkeypatch):
    """Every rule and a plain addition, every float type, every layout, entries and whole lines, two steps; and nothing else moves."""
    torch.manual_seed(2)
    start = LAYOUTS[layout]().to(dtype)
    where = positions_of(kind, start.numel())
    for rule in [*RULES.values(), None]:
        results = []
        for compiled_way in (False, True):
            monkeypatch.setattr(compiled, "chosen", lambda count, answer=compiled_way: answer)
            torch.manual_seed(3)
            base = memory_of(start).clone()
            tensor = base.as_strided(start.shape, start.stride())
            state = [] if rule is None else [torch.rand_like(tensor) + 0.1 for _ in rule.state_names]
            for step in (1, 2):
                values = torch.randn(where.numel())
                if rule is None:
                    add_at(tensor, where, values, -0.3)
                else:
                    step_at(rule, tensor, where, values, state, step=step)
            results.append([base, *state])
        for one, other in zip(*results, strict=True):
            assert torch.equal(one, other)
        untouched = torch.ones(results[0][0].numel(), dtype=torch.bool)
        untouched[places_of(start, where)] = False
        assert torch.equal(results[0][0][untouched], memory_of(start)[untouched])


@needs_numba
@pytest.mark.parametrize("count", [1, 127, 128, 129, 300])
def test_what_is_asked_for_ahead_ends_with_the_places(count, monkeypatch):
    """Fewer places than are asked for ahead, as many, and more: the same bits as without, and nothing is asked for behind the last."""
    torch.manual_seed(7)
    where = torch.randperm(5000)[:count].sort().values
    values = torch.randn(count)
    found = []
    for compiled_way in (False, True):
        monkeypatch.setattr(compiled, "chosen", lambda _, answer=compiled_way: answer)
        torch.manual_seed(8)
        tensors = [torch.rand(5000) + 0.1 for _ in range(3)]
        step_at(RULES["adam"], tensors[0], where, values, tensors[1:], step=3)
        found.append(tensors)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@needs_numba
def test_threads_share_the_work_and_not_the_answer(monkeypatch):
    """Cut at whole lines: one thread or three, the same bits."""
    threads = torch.get_num_threads()
    torch.manual_seed(4)
    where, values = positions_of("mixed", 1 << 20), torch.randn(1 << 20)
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        tensor, state = torch.ones(1 << 20), [torch.ones(1 << 20) for _ in range(2)]
        step_at(RULES["adam"], tensor, where, values[: where.numel()], state, step=3)
        found.append([tensor, *state])
    torch.set_num_threads(threads)
    assert where.numel() > 3 << 15
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_state_in_another_layout_than_the_parameter(way):
    """A channels_last weight whose moments are contiguous steps as a contiguous one does."""
    torch.manual_seed(5)
    weight, where = torch.randn(4, 6, 5, 5), torch.randperm(600)[:90]
    values, rule = torch.randn(90), RULES["adamw"]
    plain, plain_state = weight.clone(), [torch.zeros(4, 6, 5, 5) for _ in range(2)]
    last, last_state = weight.clone(memory_format=torch.channels_last), [torch.zeros(4, 6, 5, 5) for _ in range(2)]
    for step in (1, 2, 3):
        step_at(rule, plain, where, values, plain_state, step=step)
        step_at(rule, last.to(memory_format=torch.channels_last), where, values, last_state, step=step)
    assert torch.equal(plain, last)
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_half_precision_is_rounded_once(way):
    """bfloat16: the float32 sum rounded, not a product rounded and then a sum."""
    tensor = torch.full((8,), 1.0, dtype=torch.bfloat16)
    add_at(tensor, torch.arange(8), torch.full((8,), 1.01), 0.37)
    assert torch.equal(tensor, torch.full((8,), torch.tensor(1.0) + torch.tensor(1.01) * 0.37).bfloat16())


@pytest.mark.parametrize("bad", [[0, 600], [-1, 3], [5, 4, 600]])
def test_positions_outside_are_refused_and_nothing_is_written(bad, way):
    tensor = torch.zeros(20, 30)
    with pytest.raises(KernelError, match="600 entries"):
        add_at(tensor, torch.tensor(bad), torch.ones(len(bad)))
    assert not tensor.any()


def test_what_cannot_be_written_is_refused_by_name(way):
    where, ones = torch.tensor([0, 1]), torch.ones(2)
    for tensor, message in (
        (torch.zeros(1).expand(5), "share memory"),
        (torch.zeros(5, dtype=torch.int32), "int32"),
        (torch.zeros(5, device="meta"), "meta"),
        (torch.zeros(5).to_sparse(), "sparse"),
    ):
        with pytest.raises(KernelError, match=message):
            add_at(tensor, where, ones)
    with pytest.raises(KernelError, match="int32"):
        add_at(torch.zeros(5), where.int(), ones)
    with pytest.raises(KernelError, match="as many values"):
        add_at(torch.zeros(5), where, torch.ones(3))
    with pytest.raises(KernelError, match=r"keeps 2 \(exp_avg, exp_avg_sq\)"):
        step_at(Adam(lr=0.1), torch.zeros(5), where, ones)
    with pytest.raises(KernelError, match="make them the same"):
        step_at(Sgd(lr=0.1, momentum=0.9), torch.zeros(5), where, ones, [torch.zeros(4)])


def test_overlap_is_told_from_strides():
    assert not any(overlaps(make()) for make in LAYOUTS.values())
    assert overlaps(torch.zeros(3).as_strided((2, 2), (1, 1)))
    assert not overlaps(torch.zeros(3, 1).expand(3, 1))
