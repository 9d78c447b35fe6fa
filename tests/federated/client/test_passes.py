"""Traffic of a pass, counted while torch runs it, against counts by hand; what is left out of backward is really not in it."""

import pytest
import torch
from torch import nn

from cwmp_federated.client.energy import Work
from cwmp_federated.client.learning import first_gradient, train
from cwmp_federated.client.passes import count_pass
from cwmp_federated.client.setup import make_setup
from cwmp_federated.records.config import RunConfig


def total(found, of, name):
    return sum(getattr(operation, of).get(name, 0) for operation in found.operations)


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))


def test_two_linear_layers_by_hand():
    """The first weight is read forward only (no gradient of the images), the second also backward; each gradient is written once."""
    found = count_pass(net(), torch.randn(5, 6))
    assert total(found, "parameters", "1.weight") == 4 * 24
    assert total(found, "parameters", "3.weight") == 2 * 4 * 8
    for name, entries in (("1.weight", 24), ("1.bias", 4), ("3.weight", 8), ("3.bias", 2)):
        assert total(found, "gradients", name) == 4 * entries, name
    # Forward 2*6*4 and 2*4*2; backward the same for each weight, and once more for the second layer's input.
    assert found.flops_per_image == pytest.approx(2 * (48 + 16) + 16)


def test_activations_are_per_image_and_parameters_are_not():
    small, large = count_pass(net(), torch.randn(2, 6)), count_pass(net(), torch.randn(8, 6))
    for of in ("parameters", "gradients"):
        assert total(small, of, "1.weight") == total(large, of, "1.weight")
    per_image = [sum(o.written_bytes for o in found.operations) for found in (small, large)]
    assert per_image[0] == pytest.approx(per_image[1], rel=0.5)


def test_a_tensor_that_is_left_out_saves_its_product_and_its_gradient_and_comes_back():
    model, images = net(), torch.randn(5, 6)
    whole, without = count_pass(model, images), count_pass(model, images, ["3.weight"])
    assert whole.flops_per_image - without.flops_per_image == pytest.approx(16)
    assert total(without, "gradients", "3.weight") == 0
    assert total(without, "gradients", "1.weight") == 4 * 24
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_leaving_out_everything_below_a_layer_also_saves_its_inputs_gradient():
    model, images = net(), torch.randn(5, 6)
    without = count_pass(model, images, ["1.weight", "1.bias"])
    assert without.flops_per_image == pytest.approx(48 + 2 * 16)


def test_training_computes_no_weight_gradient_of_tensors_of_which_nothing_is_kept(monkeypatch):
    """autograd is asked for the kept tensors alone, and the others do not even require one: the counter sees the same."""
    model, images, labels = net(), torch.randn(8, 6), torch.randint(0, 2, (8,))
    asked = []
    grad = torch.autograd.grad

    def spy(outputs, inputs, **kwargs):
        asked.append((len(inputs), [name for name, p in model.named_parameters() if p.requires_grad]))
        return grad(outputs, inputs, **kwargs)

    plan = [torch.arange(4), torch.arange(4, 8), torch.arange(4)]
    first = first_gradient(model, images, labels, plan[0])
    monkeypatch.setattr(torch.autograd, "grad", spy)
    kept = {name: torch.arange(2 if name == "3.weight" else 0) for name, _ in model.named_parameters()}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    done = train(model, images, labels, plan, learning_rate=0.1, kept=kept, first=first)
    assert asked == [(1, ["3.weight"])] * 2, "the first batch's gradient is not computed again"
    assert (done.steps, done.images) == (3, 12)
    moved = {name: int((p.detach() != before[name]).sum()) for name, p in model.named_parameters()}
    assert moved == {"1.weight": 0, "1.bias": 0, "3.weight": 2, "3.bias": 0}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_where_nothing_is_kept_only_the_first_batch_is_done():
    model, images, labels = net(), torch.randn(8, 6), torch.randint(0, 2, (8,))
    plan = [torch.arange(4), torch.arange(4, 8)]
    first = first_gradient(model, images, labels, plan[0])
    nothing = {name: torch.arange(0) for name, _ in model.named_parameters()}
    done = train(model, images, labels, plan, learning_rate=0.1, kept=nothing, first=first)
    assert (done.steps, done.images, done.loss) == (1, 4, pytest.approx(first[1]))


def test_a_residual_of_rounding_costs_the_lines_it_lies_in_and_a_real_one_the_whole_tensor():
    """Where sending is free a sparse step sends all that it wrote, so only those lines of the residual are read and written."""
    base = RunConfig(profile="simulated-board", residency="tensor", clients=3, train_limit=120, test_limit=50)

    def memory_j(**changes):
        setup = make_setup(base.with_changes(**changes))
        energy = setup.energy("simulated-board")
        some = dict.fromkeys(energy.costs.names(), 1)
        work = Work(
            kept=some, lines=some, moved=some, payload_bytes=100, bytes_up=200, bytes_down=200, steps=1, images=32,
            written=some, written_lines=some, sparse_step=True,
        )  # fmt: skip
        return energy.report(work)["memory"]

    free = memory_j() - memory_j(error_feedback=False)
    sent = memory_j(radio="wifi") - memory_j(radio="wifi", error_feedback=False)
    energy = make_setup(base).energy("simulated-board")
    sizes = [layer.tensor.numel for layer in energy.costs.layers.values()]
    lines = [min(layer.line_entries, layer.tensor.numel) for layer in energy.costs.layers.values()]
    assert free > 0
    assert sent / free == pytest.approx(sum(sizes) / sum(lines), rel=0.5)


class Chance(nn.Module):
    """A layer takes part in about half of the passes."""

    def __init__(self):
        super().__init__()
        self.always, self.sometimes = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        x = self.always(x)
        return self.sometimes(x) if torch.rand(()) > 0.5 else x


def test_a_count_depends_on_no_draw_before_it_and_leaves_the_draws_after_it_alone():
    model, images = Chance(), torch.randn(5, 6)
    flops = set()
    for seed in range(8):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        flops.add(count_pass(model, images).flops_per_image)
        assert torch.equal(torch.get_rng_state(), before)
    assert len(flops) == 1
