"""Error feedback: nothing is lost, in any value format, over any number of rounds."""

import io

import pytest
import torch

import cwmp
from cwmp_profiler.kernels.compiled import available
from cwmp_selector.errors import SelectionError
from cwmp_selector.feedback import ErrorFeedback
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate

COSTS = {"w": 1.0, "b": 4.0}


def gradients(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {
        "w": torch.randn(20, 10, generator=generator).to(dtype),
        "b": torch.randn(10, generator=generator).to(dtype),
    }


@pytest.mark.parametrize("values", [None, "float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_all_gradients_arrive_or_wait(values, dtype):
    """Over 50 rounds: sum of what the receiver decoded plus the residual is the sum of the gradients, quantised or not."""
    selector, feedback = cwmp.Selector(COSTS, budget_j=20.0, values=values), cwmp.ErrorFeedback()
    given = received = {n: torch.zeros(s, dtype=torch.float64) for n, s in (("w", (20, 10)), ("b", (10,)))}
    for seed in range(50):
        g = gradients(seed, dtype)
        update = selector.select(feedback.add(g))
        decoded = SparseUpdate.from_bytes(update.to_bytes(), like=g).to_dense()
        given = {n: given[n] + g[n].double() for n in g}
        received = {n: received[n] + decoded[n].double() for n in g}
    for n in given:
        assert torch.allclose(received[n] + feedback.residual(n).double(), given[n], rtol=0, atol=1e-4)
        assert feedback.residual(n).abs().max() > 0


def test_residual_is_exactly_what_the_receiver_lacks():
    """One round: residual = corrected - decoded, bit for bit in float32, with int8 values."""
    g = gradients(0)
    feedback = ErrorFeedback()
    update = Selector(COSTS, budget_j=50.0, values="int8").select(feedback.add(g))
    dense = update.to_dense()
    for n in g:
        assert torch.equal(feedback.residual(n), g[n] - dense[n])


def test_corrected_gradients_are_good_for_one_update():
    """A second selection from the same corrected gradients would send entries twice; nothing committed loses nothing."""
    feedback, selector = ErrorFeedback(), Selector(COSTS, budget_j=9.0)
    corrected = feedback.add(gradients(0))
    selector.select(corrected)
    with pytest.raises(SelectionError, match="sent already"):
        selector.select(corrected)
    before = feedback.residual("w").clone()
    feedback.add(gradients(1))
    assert torch.equal(feedback.residual("w"), before + gradients(1)["w"])


def test_lost_payload_is_given_back():
    """A payload that never arrived returns to the residual."""
    feedback, selector = ErrorFeedback(), Selector(COSTS, budget_j=9.0)
    update = selector.select(feedback.add(gradients(0)))
    feedback.give_back(update)
    for n, g in gradients(0).items():
        assert torch.equal(feedback.residual(n), g)


def test_bad_gradients_leave_the_residual_alone():
    """NaN, infinity and another shape are refused by name before anything is added."""
    feedback = ErrorFeedback()
    feedback.add(gradients(0))
    before = feedback.residual("w").clone()
    bad = gradients(1)
    bad["b"][3] = float("nan")
    with pytest.raises(SelectionError, match=r"'b' has 1 NaN or infinite entries of 10 \(first at 3\)"):
        feedback.add(bad)
    with pytest.raises(SelectionError, match="'b' has shape"):
        feedback.add({"w": bad["w"], "b": torch.zeros(11)})
    assert torch.equal(feedback.residual("w"), before)
    with pytest.raises(SelectionError, match="no residual for 'x'"):
        feedback.residual("x")


def test_momentum_correction_and_masking_follow_their_definition():
    """u = m u + g, v = v + u, send from v; masking clears u where sent. Checked against the formulas on dense tensors."""
    m = 0.9
    feedback, selector = ErrorFeedback(momentum=m, masking=True), Selector(1.0, k=13)
    u = v = torch.zeros(200)
    for seed in range(10):
        g = gradients(seed)["w"].reshape(-1)
        u = m * u + g
        v = v + u
        update = selector.select(feedback.add({"w": g}))
        sent = update.indices["w"]
        assert torch.equal(sent, torch.sort(v.abs().topk(13).indices).values)
        assert torch.allclose(update.values["w"], v[sent])
        u[sent], v[sent] = 0, 0
        assert torch.allclose(feedback.residual("w"), v, atol=1e-6)


def test_state_survives_saving():
    """A restored feedback continues bit for bit."""
    selector = Selector(COSTS, budget_j=20.0)

    def run(feedback, seeds):
        return [selector.select(feedback.add(gradients(s))).to_bytes() for s in seeds]

    first = ErrorFeedback(momentum=0.5)
    run(first, range(5))
    stored = io.BytesIO()
    torch.save(first.state_dict(), stored)
    stored.seek(0)
    second = ErrorFeedback()
    second.load_state_dict(torch.load(stored, weights_only=True))
    assert run(first, range(5, 9)) == run(second, range(5, 9))
    with pytest.raises(SelectionError, match="state has no"):
        second.load_state_dict({"residual": {}})
    with pytest.raises(SelectionError, match="no float tensor"):
        second.load_state_dict({"momentum": 0.0, "masking": False, "residual": {"w": 3}, "velocity": {}})
    for options in ({"momentum": 1.0}, {"masking": True}):
        with pytest.raises(SelectionError):
            ErrorFeedback(**options)


def test_a_name_may_come_and_go():
    """A parameter without a gradient this round keeps its residual."""
    feedback, selector = ErrorFeedback(), Selector(COSTS, budget_j=4.0)
    selector.select(feedback.add(gradients(0)))
    waiting = feedback.residual("b").clone()
    selector.select(feedback.add({"w": gradients(1)["w"]}))
    assert torch.equal(feedback.residual("b"), waiting)


@pytest.mark.skipif(not available(), reason="Numba (the extra `fast`) is not installed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_accumulation_is_the_plain_one(dtype, monkeypatch):
    """Large gradients: the same residual bit for bit, and a NaN is refused by name with nothing added."""
    generator = torch.Generator().manual_seed(0)
    rounds = [
        {n: torch.randn(s, generator=generator).to(dtype) for n, s in (("w", (600, 500)), ("b", (7,)))}
        for _ in range(3)
    ]
    compiled, plain = ErrorFeedback(), ErrorFeedback()
    for g in rounds:
        compiled.add(g)
    monkeypatch.setattr(ErrorFeedback, "_fast", lambda *_: False)
    for g in rounds:
        plain.add(g)
    monkeypatch.undo()
    for n in rounds[0]:
        assert torch.equal(compiled.residual(n), plain.residual(n))
    rounds[0]["w"][599, 499] = float("inf")
    with pytest.raises(SelectionError, match="gradient of 'w' has 1 NaN or infinite"):
        compiled.add(rounds[0])
    assert torch.equal(compiled.residual("b"), plain.residual("b"))
    assert torch.equal(compiled.residual("w"), plain.residual("w"))


def test_a_residual_made_in_inference_mode_goes_on_outside_of_it():
    feedback = ErrorFeedback(momentum=0.5)
    with torch.inference_mode():
        feedback.add({"a": torch.ones(3)})
    update = Selector(1.0, k=1).select(feedback.add({"a": torch.tensor([1.0, 2.0, 3.0])}))
    assert update.indices["a"].tolist() == [2]
    assert feedback.residual("a").tolist()[:2] == [2.5, 3.5]


def test_adding_a_few_entries_is_adding_gradients_that_are_zero_elsewhere():
    some, all_ = ErrorFeedback(), ErrorFeedback()
    generator = torch.Generator().manual_seed(3)
    for _ in range(4):
        change = torch.randn(6, 7, generator=generator)
        index = torch.randperm(42, generator=generator)[:9]
        masked = torch.zeros(42)
        masked[index] = change.view(-1)[index]
        found = some.add_at({"w": index}, {"w": change})
        corrected = all_.add({"w": masked.view(6, 7)})
        assert torch.equal(found["w"], corrected["w"].reshape(-1)[index])
        update = SparseUpdate(
            indices={"w": index.sort().values},
            values={"w": corrected["w"].reshape(-1)[index.sort().values].half().float()},
            shapes={"w": (6, 7)},
            value_formats={"w": "float16"},
        )
        some.sent(update)
        all_.sent(update)
        assert torch.equal(some.residual("w"), all_.residual("w"))


def test_a_velocity_that_moves_every_entry_has_no_few_entries():
    with pytest.raises(SelectionError, match="momentum moves every entry"):
        ErrorFeedback(momentum=0.9).add_at({"w": torch.tensor([0])}, {"w": torch.ones(2)})
