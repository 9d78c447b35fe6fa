"""An update applied: every target gets the same sum, whole tensors and parts, in any layout and type; or nothing changes."""

import pytest
import torch

from cwmp_profiler.kernels.scatter import KernelError
from cwmp_selector.errors import SelectionError
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate


@pytest.mark.parametrize("fraction", [0.1, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_layout_and_type_gets_the_same_sum(fraction, dtype, memory_format):
    """Against the dense sum in the type computed in, rounded once."""
    torch.manual_seed(0)
    update = Selector(1.0, budget_fraction=fraction).select({"w": torch.randn(4, 6, 3, 3), "b": torch.randn(5)})
    start = {"w": torch.randn(4, 6, 3, 3), "b": torch.randn(5)}
    target = {n: t.to(dtype) for n, t in start.items()}
    target["w"] = target["w"].to(memory_format=memory_format)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = {n: (t.to(wide) + update.to_dense()[n].to(wide) * -0.3).to(dtype) for n, t in target.items()}
    update.apply_to(target, scale=-0.3)
    assert all(torch.equal(target[n], expected[n]) for n in target)
    assert target["w"].is_contiguous(memory_format=memory_format)


def test_a_model_is_updated_in_place_whole_or_in_part():
    """Parameters that require a gradient are leaves: written without autograd's knowledge."""
    for fraction in (0.2, 1.0):
        net = torch.nn.Linear(8, 4)
        before = {n: p.detach().clone() for n, p in net.named_parameters()}
        update = Selector(1.0, budget_fraction=fraction).select({n: torch.randn_like(p) for n, p in before.items()})
        update.apply_to(net)
        assert all(torch.equal(p.detach(), before[n] + update.to_dense()[n]) for n, p in net.named_parameters())
        assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_what_cannot_be_applied_changes_nothing():
    update = Selector(1.0, k=3).select({"a": torch.ones(2), "b": torch.ones(4)})
    target = {"a": torch.zeros(2), "b": torch.zeros(4, dtype=torch.int64)}
    with pytest.raises(SelectionError, match=r"'b' is torch\.int64 in the target"):
        update.apply_to(target)
    assert not target["a"].any()
    made_up = SparseUpdate(
        indices={"a": torch.tensor([1, 7])},
        values={"a": torch.ones(2)},
        shapes={"a": (5,)},
        value_formats={"a": "float32"},
    )
    with pytest.raises(KernelError, match="positions reach from 1 to 7, the tensor has 5 entries"):
        made_up.apply_to({"a": torch.zeros(5)})
