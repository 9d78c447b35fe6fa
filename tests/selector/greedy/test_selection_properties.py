"""Corners and invariants of a selection: paths and dtypes agree, scales and orders do not matter, bad input is named."""

import importlib
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cwmp_profiler.kernels.compiled import available
from cwmp_profiler.kernels.machine import machine_code
from cwmp_selector.candidates import compiled as fast
from cwmp_selector.candidates import find as candidates
from cwmp_selector.candidates.floats import from_bits, magnitude_bits, threshold_bits
from cwmp_selector.candidates.gradients import gradients_of
from cwmp_selector.errors import SelectionError
from cwmp_selector.feedback import ErrorFeedback
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate

RULES = ["cwmp", "cwmp-l1", "top-k", "random-k", "cheapest"]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

needs_numba = pytest.mark.skipif(not available(), reason="Numba (the extra `fast`) is not installed")


def same(a, b):
    return all(torch.equal(a.indices[n], b.indices[n]) and torch.equal(a.values[n], b.values[n]) for n in a.shapes)


def large(dtype=torch.float32, seed=0):
    """Several layers, more entries than the sample, with many ties in the narrow types."""
    torch.manual_seed(seed)
    sizes = [200_000, 1, 70_001, 33, 0, 150_000]
    g = {f"l{i}": (torch.randn(n) * 10 ** (-i / 3)).to(dtype) for i, n in enumerate(sizes)}
    return g, {f"l{i}": 1.5**i for i in range(len(sizes))}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("engine", ["torch", pytest.param("numba", marks=needs_numba)])
def test_gradients_are_only_read(dtype, rule, engine):
    """Costs per layer and per entry, in every type: the caller's tensors are as they were, and the update is no view."""
    g, c = large(dtype)
    before = {n: x.clone() for n, x in g.items()}
    per_entry = {n: torch.full(x.shape, c[n], dtype=torch.float64) for n, x in g.items()}
    for costs in (c, per_entry):
        update = Selector(costs, budget_fraction=0.05, rule=rule, engine=engine).select(g)
        for values in update.values.values():
            values.zero_()
        assert all(torch.equal(g[n], before[n]) for n in g)


@needs_numba
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("fraction", [0.0, 0.004, 0.2, 1.0])
def test_compiled_and_plain_paths_agree(dtype, rule, fraction):
    """Numba and torch give the same indices, values, lambda and certificate."""
    g, c = large(dtype)
    plain, compiled = (Selector(c, budget_fraction=fraction, rule=rule, engine=e).select(g) for e in ("torch", "numba"))
    assert same(plain, compiled)
    assert plain.parts_j == compiled.parts_j
    assert plain.gap_bound == compiled.gap_bound
    assert plain.lambda_ == compiled.lambda_ or math.isnan(plain.lambda_)


@pytest.mark.parametrize("fraction", [0.004, 0.2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_costs_by_layer_and_by_entry_agree(dtype, fraction):
    """A tensor filled with the layer's cost selects what the number does (costs are powers of two: sums are exact)."""
    g, _ = large(dtype)
    c = {n: 2.0**i for i, n in enumerate(g)}
    by_layer = Selector(c, budget_fraction=fraction).select(g)
    by_entry = Selector(
        {n: torch.full(x.shape, c[n], dtype=torch.float64) for n, x in g.items()}, budget_fraction=fraction
    ).select(g)
    assert same(by_layer, by_entry)
    assert by_layer.energy_j == by_entry.energy_j
    assert by_entry.gap_bound == pytest.approx(by_layer.gap_bound)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_narrow_types_select_like_wide_ones(dtype, wide):
    """The same numbers in a wider type give the same entries."""
    g, c = large(dtype)
    narrow = Selector(c, budget_fraction=0.01).select(g)
    other = Selector(c, budget_fraction=0.01).select({n: x.to(wide) for n, x in g.items()})
    assert all(torch.equal(narrow.indices[n], other.indices[n]) for n in g)


def test_types_may_be_mixed_in_one_model():
    """Layers of four types are ranked by their numbers, not by their bits."""
    torch.manual_seed(0)
    g = {str(d): torch.randn(100).to(d) for d in DTYPES}
    mixed = Selector(1.0, k=50).select(g)
    wide = Selector(1.0, k=50).select({n: x.double() for n, x in g.items()})
    assert all(torch.equal(mixed.indices[n], wide.indices[n]) for n in g)
    assert [v.dtype for v in mixed.values.values()] == DTYPES


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_strides_layouts_and_shapes():
    """Transposed, sliced, expanded, sparse, empty and 0-dimensional tensors select like their dense copies."""
    torch.manual_seed(0)
    base = torch.randn(40, 30)
    index = torch.tensor([[0, 3, 3, 7], [1, 1, 1, 2]])
    g = {
        "transposed": base.t(),
        "sliced": base[::2, 1::3],
        "expanded": torch.randn(5, 1).expand(5, 6),
        "sparse": torch.sparse_coo_tensor(index, torch.tensor([1.0, 2.0, 3.0, -9.0]), (10, 4)),
        "empty": torch.empty(0, 7),
        "scalar": torch.tensor(2.5),
        "channels": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    dense = {
        n: (x.to_dense() if x.is_sparse else x).contiguous().clone(memory_format=torch.contiguous_format)
        for n, x in g.items()
    }
    a, b = Selector(1.0, k=300).select(g), Selector(1.0, k=300).select(dense)
    assert same(a, b)
    for n, x in a.to_dense().items():
        assert x.shape == dense[n].shape
        kept = x != 0
        assert torch.equal(x[kept], dense[n][kept])
    assert a.to_dense()["sparse"][3, 1] == 5.0


def test_ties_go_to_the_earlier_parameter_then_the_earlier_entry():
    """Equal scores: order of the mapping, then row-major; across the sampled path, too."""
    g = {"b": torch.ones(5), "a": -torch.ones(5)}
    update = Selector(1.0, k=7).select(g)
    assert update.indices["b"].tolist() == [0, 1, 2, 3, 4]
    assert update.indices["a"].tolist() == [0, 1]
    many = Selector({"x": 1.0, "y": 1.0}, k=250_001).select({"x": torch.ones(200_000), "y": torch.ones(200_000)})
    assert many.kept == {"x": 200_000, "y": 50_001}
    assert torch.equal(many.indices["y"], torch.arange(50_001))


def test_top_k_is_torch_topk():
    """Rule top-k with k: the same magnitudes as torch.topk over the whole model, for any costs."""
    g, c = large()
    update = Selector(c, k=1234, rule="top-k").select(g)
    everything = torch.cat([x.abs() for x in g.values()])
    kept = torch.cat([v.abs() for v in update.values.values()])
    assert torch.equal(kept.sort().values, everything.topk(1234).values.sort().values)
    assert update.gap_bound == 0


def test_cheapest_and_random_orders():
    """Cheapest: whole cheap layers, then the largest of the next. Random: seeded, another draw each time, any entry."""
    g, c = {"dear": torch.randn(50) * 100, "cheap": torch.randn(50)}, {"dear": 3.0, "cheap": 1.0}
    cheapest = Selector(c, budget_j=80.0, rule="cheapest").select(g)
    assert cheapest.kept == {"dear": 10, "cheap": 50}
    assert set(cheapest.indices["dear"].tolist()) == set(g["dear"].abs().topk(10).indices.tolist())
    selector = Selector(c, k=20, rule="random-k", seed=5)
    first, second = selector.select(g), selector.select(g)
    assert not same(first, second)
    assert same(first, Selector(c, k=20, rule="random-k", seed=5).select(g))
    drawn = np.mean([selector.select(g).kept["dear"] for _ in range(200)])
    assert drawn == pytest.approx(10, abs=0.7)


def test_dense_keeps_everything():
    """Rule dense ignores the budget, and its energy is what budget_fraction is a fraction of."""
    g, c = large()
    dense = Selector(c, rule="dense").select(g)
    assert dense.density == 1.0
    assert all(torch.equal(dense.to_dense()[n], x) for n, x in g.items())
    assert Selector(c, budget_fraction=0.25).select(g).budget_j == pytest.approx(dense.energy_j / 4)


layers = st.lists(
    st.tuples(st.lists(st.integers(-20, 20), min_size=0, max_size=12), st.sampled_from([0.5, 1.0, 2.0, 3.0, 7.0])),
    min_size=1,
    max_size=4,
)


def build(instance):
    g = {f"p{i}": torch.tensor([float(x) for x in row]) for i, (row, _) in enumerate(instance)}
    return g, {f"p{i}": cost for i, (_, cost) in enumerate(instance)}


@given(layers, st.floats(0, 100), st.floats(0, 50), st.sampled_from(RULES))
@settings(max_examples=200, deadline=None)
def test_never_over_budget_and_monotone(instance, budget, more, rule):
    """Never a joule above the budget; with more budget the prefix only grows, so lambda only falls."""
    g, c = build(instance)
    small = Selector(c, budget_j=budget, rule=rule).select(g)
    wide = Selector(c, budget_j=budget + more, rule=rule).select(g)
    assert small.energy_j <= budget
    assert wide.energy_j <= budget + more
    if rule in ("cwmp", "cwmp-l1"):
        assert wide.lambda_ <= small.lambda_
        for n in g:
            price = g[n].abs().double() ** (2 if rule == "cwmp" else 1) / c[n]
            before = price > small.lambda_ * (1 + 1e-9)
            assert set(before.nonzero().view(-1).tolist()) <= set(wide.indices[n].tolist())


@given(
    layers,
    st.integers(0, 60),
    st.integers(-20, 20),
    st.integers(-20, 20),
    st.sampled_from(["cwmp", "cwmp-l1", "top-k"]),
)
@settings(max_examples=200, deadline=None)
def test_scale_free_in_gradients_and_costs(instance, budget, power, unit, rule):
    """Gradients in other units, joules in other units: the same entries."""
    g, c = build(instance)
    # Even powers of two: square roots of costs scale exactly, too.
    scaled = Selector({n: x * 4.0**unit for n, x in c.items()}, budget_j=budget * 4.0**unit, rule=rule)
    plain = Selector(c, budget_j=budget, rule=rule).select(g)
    other = scaled.select({n: x.double() * 2.0**power for n, x in g.items()})
    assert all(torch.equal(plain.indices[n], other.indices[n]) for n in g)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30, unique=True), st.integers(0, 40), st.randoms())
@settings(max_examples=100, deadline=None)
def test_permutation_free(numbers, budget, random):
    """Shuffled entries without ties: the same numbers are kept."""
    shuffled = random.sample(numbers, len(numbers))
    kept = [
        sorted(Selector(2.0, budget_j=budget).select({"w": torch.tensor(x, dtype=torch.float64)}).values["w"].tolist())
        for x in (numbers, shuffled)
    ]
    assert kept[0] == kept[1]


def test_zero_entries_are_never_sent():
    """A zero has no value: a budget for more than the rest stays unspent."""
    update = Selector(1.0, budget_j=10.0).select({"w": torch.tensor([0.0, -0.0, 3.0, 0.0])})
    assert update.indices["w"].tolist() == [2]
    assert update.gap_bound == 0
    assert Selector(1.0, k=2).select({"w": torch.zeros(5)}).density == 0


@pytest.mark.parametrize("factor", [1e-300, 1e-160, 1e160, 1e300])
def test_squares_that_would_overflow_or_vanish_do_not_matter(factor):
    """float64 gradients whose squares leave the range are ranked like any other."""
    torch.manual_seed(0)
    g = torch.randn(1000, dtype=torch.float64)
    plain = Selector(1.0, k=10).select({"w": g})
    assert torch.equal(Selector(1.0, k=10).select({"w": g * factor}).indices["w"], plain.indices["w"])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", [*RULES, "dense"])
@pytest.mark.parametrize("engine", ["torch", pytest.param("numba", marks=needs_numba)])
def test_non_finite_gradients_are_refused_by_name(bad, rule, engine):
    """Wherever it hides, at any budget."""
    g, c = large()
    g["l2"][12_345] = bad
    for fraction in (0.0, 0.3):
        with pytest.raises(
            SelectionError, match=r"gradient of 'l2' has 1 NaN or infinite entries of 70001 \(first at 12345\)"
        ):
            Selector(c, budget_fraction=fraction, rule=rule, engine=engine).select(g)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_bad_costs_are_refused_by_name(bad):
    """Per layer and per entry; missing and misshapen ones, too."""
    g = {"w": torch.ones(3), "b": torch.ones(2)}
    with pytest.raises(SelectionError, match="cost of 'b' is"):
        Selector({"w": 1.0, "b": bad}, budget_j=1.0).select(g)
    with pytest.raises(SelectionError, match="costs of 'w' hold"):
        Selector({"w": torch.tensor([1.0, bad, 1.0]), "b": 1.0}, budget_j=1.0).select(g)
    with pytest.raises(SelectionError, match="no cost for parameter 'b'"):
        Selector({"w": 1.0}, budget_j=1.0).select(g)
    with pytest.raises(SelectionError, match="have shape"):
        Selector({"w": torch.ones(4), "b": 1.0}, budget_j=1.0).select(g)


def test_bad_gradients_and_options_are_refused():
    """None, integers, two budgets, no budget, unknown rules, formats and engines."""
    with pytest.raises(SelectionError, match="'w' has no gradient"):
        Selector(1.0, k=1).select({"w": None})
    with pytest.raises(SelectionError, match=r"'w' is torch\.int64"):
        Selector(1.0, k=1).select({"w": torch.arange(3)})
    with pytest.raises(SelectionError, match=".v. is on the meta device"):
        Selector(1.0, k=1).select({"w": torch.ones(3), "v": torch.ones(3, device="meta")})
    with pytest.raises(SelectionError, match="no budget"):
        Selector(1.0).select({"w": torch.ones(3)})
    for options in (
        {"budget_j": 1.0, "k": 3},
        {"budget_j": -1.0},
        {"budget_j": math.nan},
        {"budget_fraction": 1.5},
        {"k": -1},
        {"rule": "best"},
        {"values": "int4"},
        {"engine": "cuda"},
    ):
        with pytest.raises(SelectionError):
            Selector(1.0, **options)
    with pytest.raises(SelectionError, match="has no lambda"):
        Selector(1.0, rule="top-k").select({"w": torch.ones(3)}, lambda_=1.0)
    with pytest.raises(SelectionError, match="lambda_ is nan"):
        Selector(1.0).select({"w": torch.ones(3)}, lambda_=math.nan)


def test_lambda_keeps_what_is_worth_it_and_the_budget_caps():
    """g^2/c >= lambda exactly; with a cap, the best of those."""
    g, c = large()
    update = Selector(c).select(g, lambda_=0.5)
    for n, x in g.items():
        assert torch.equal(update.indices[n], (x.double() ** 2 / c[n] >= 0.5).nonzero().view(-1))
    capped = Selector(c).select(g, lambda_=0.5, budget_j=update.energy_j / 2)
    assert capped.energy_j <= update.energy_j / 2
    assert same(capped, Selector(c).select(g, budget_j=update.energy_j / 2))


def test_a_wrong_bracket_costs_time_and_nothing_else(monkeypatch):
    """With brackets that are too low, too high or empty the answer is the same."""
    g, c = large()
    right = Selector(c, budget_fraction=0.01).select(g)
    for wrong in ((0.0, math.inf), (1e-9, 1e-9), (0.5, 0.6), (1e9, math.inf)):
        monkeypatch.setattr(candidates, "bracket", lambda *_, wrong=wrong: wrong)
        assert same(Selector(c, budget_fraction=0.01).select(g), right)


def test_fillers_are_found_below_the_candidates(monkeypatch):
    """A dear entry blocks the prefix; thousands of cheap ones far below still fit and are taken, whatever the sample says."""
    torch.manual_seed(0)
    g = {"dear": torch.full((100,), 100.0), "cheap": torch.randn(300_000) * 1e-4}
    c = {"dear": 1000.0, "cheap": 1.0}
    for engine in ("torch", "numba") if available() else ("torch",):
        update = Selector(c, budget_j=50_900.0, engine=engine).select(g)
        assert update.kept == {"dear": 50, "cheap": 900}
        assert set(update.indices["cheap"].tolist()) == set(g["cheap"].abs().topk(900).indices.tolist())
        assert update.energy_j == 50_900.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_threshold_bits_agree_with_the_ranking(dtype):
    """The threshold is the least magnitude whose product with the weight reaches the score."""
    rng = np.random.default_rng(0)
    weights = 10 ** rng.uniform(-6, 6, 50)
    for score in (0.0, 1e-30, 1e-3, 1.0, 1e3):
        bits = threshold_bits(score, weights, dtype)
        reached = from_bits(bits, dtype) * weights
        below = from_bits(np.maximum(bits - 1, 0), dtype) * weights
        infinite = ~np.isfinite(reached)
        assert bool(((reached >= score) | infinite).all())
        assert bool(((below < score) | (bits == 1)).all())
    values = torch.tensor([0.0, -0.0, 1.5, -1.5, math.inf, math.nan]).to(dtype)
    order = magnitude_bits(values).tolist()
    assert order[0] == order[1] < order[2] == order[3] < order[4] < order[5]


def test_update_applies_and_refuses_the_wrong_target():
    """apply_to adds in place, also to strided tensors; a wrong target is refused before anything changes."""
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 4)
    g = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    update = Selector(1.0, k=9).select(g)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    update.apply_to(model, scale=-0.5)
    for n, p in model.named_parameters():
        assert torch.allclose(p, before[n] - 0.5 * update.to_dense()[n])
    strided = {"weight": torch.zeros(5, 4).t(), "bias": torch.zeros(4)}
    update.apply_to(strided)
    assert torch.equal(strided["weight"], update.to_dense()["weight"])
    untouched = {"weight": torch.zeros(4, 5), "bias": torch.zeros(3)}
    with pytest.raises(SelectionError, match="'bias' has shape"):
        update.apply_to(untouched)
    assert untouched["weight"].count_nonzero() == 0
    with pytest.raises(SelectionError, match="no 'bias'"):
        update.apply_to({"weight": torch.zeros(4, 5)})
    with pytest.raises(SelectionError, match="knows no energy"):
        _ = SparseUpdate.from_bytes(update.to_bytes(), like=model).energy_j
    model(torch.randn(2, 5)).sum().backward()
    assert list(gradients_of(model)) == ["weight", "bias"]
    assert Selector(1.0, k=1).select(ErrorFeedback().add(gradients_of(model))).density > 0


def test_no_gradients_at_all():
    """An empty mapping selects nothing and travels."""
    update = Selector(1.0, k=3).select({})
    assert update.density == 0
    assert update.energy_j == 0
    assert SparseUpdate.from_bytes(update.to_bytes(), like={}).shapes == {}


def test_without_numba_auto_is_the_plain_path():
    """In an interpreter that cannot import Numba, 'auto' works and 'numba' says what to install."""
    code = """
import sys
sys.modules["numba"] = None
import torch
from cwmp_selector.errors import SelectionError
from cwmp_selector.selector import Selector
assert Selector(1.0, k=2).select({"w": torch.arange(5.0)}).indices["w"].tolist() == [3, 4]
try:
    Selector(1.0, k=2, engine="numba").select({"w": torch.arange(5.0)})
except SelectionError as error:
    assert "pip install 'numba>=" in str(error)
else:
    raise SystemExit("engine numba was not refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_numba
def test_read_only_installation_compiles_without_a_cache(monkeypatch):
    """Where Numba finds no place for its cache it raises RuntimeError: kernels are then compiled for the process."""
    import numba

    real = numba.njit

    def njit(*functions, **options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(*functions, **options)

    monkeypatch.setattr(numba, "njit", njit)
    kernel = machine_code.__wrapped__(fast._largest)
    assert kernel(np.array([3, 9, 5], dtype=np.uint32), np.uint32(0x7FFFFFFF)) == 9


def test_importing_the_selector_does_not_import_numba():
    """Numba costs a second to import: only the first compiled selection pays it."""
    code = "import sys, cwmp_selector.selector; raise SystemExit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert importlib.util.find_spec("cwmp_selector") is not None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_cuda_gives_the_same_answer(dtype, rule):
    """The torch path on a GPU selects what the CPU selects."""
    g, c = large(dtype)
    cpu = Selector(c, budget_fraction=0.01, rule=rule).select(g)
    gpu = Selector(c, budget_fraction=0.01, rule=rule).select({n: x.cuda() for n, x in g.items()})
    assert all(torch.equal(cpu.indices[n], gpu.indices[n].cpu()) for n in g)
    assert cpu.to_bytes() == gpu.to_bytes()
