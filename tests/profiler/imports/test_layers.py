"""Counts of a layer from its shape are what torch does: operations, operands, parameters of the step."""

import pytest

from cwmp_profiler.device_info import DeviceInfo, Level
from cwmp_profiler.errors import SessionError
from cwmp_profiler.imports.layers import check_shape, layer_counts

DEVICE = DeviceInfo(
    kind="cpu", model="m", levels=(Level(name="l2", capacity_bytes=4096), Level(name="dram", capacity_bytes=None))
)
CONV = {"batch": 3, "inputs": 4, "outputs": 6, "side": 17, "kernel": 3, "stride": 2}
LINEAR = {"batch": 5, "inputs": 64, "outputs": 40}


def built(layer, shape):
    torch = pytest.importorskip("torch")
    if layer == "linear":
        return torch.nn.Linear(shape["inputs"], shape["outputs"]), torch.randn(shape["batch"], shape["inputs"])
    images = torch.randn(shape["batch"], shape["inputs"], shape["side"], shape["side"])
    if layer == "pool2d":
        return torch.nn.MaxPool2d(shape["kernel"], shape["stride"]), images
    return torch.nn.Conv2d(shape["inputs"], shape["outputs"], shape["kernel"], shape["stride"]), images


@pytest.mark.parametrize(("layer", "shape"), [("linear", LINEAR), ("conv2d", CONV)])
def test_forward_counts_what_torch_computes_and_moves_every_operand_once(layer, shape):
    from torch.utils.flop_counter import FlopCounterMode

    module, given = built(layer, shape)
    with FlopCounterMode(display=False) as counter:
        result = module(given)
    counts = layer_counts(layer, "forward", shape, DEVICE)
    assert counts["flop_float32"] == counter.get_total_flops()
    weights = sum(parameter.numel() for parameter in module.parameters())
    assert sum(counts[f"{level}_read"] for level in ("l2", "dram") if f"{level}_read" in counts) == 4 * (
        given.numel() + weights
    )
    assert sum(counts[f"{level}_write"] for level in ("l2", "dram") if f"{level}_write" in counts) == 4 * result.numel()
    assert counts["launch"] == 1


@pytest.mark.parametrize(("layer", "shape"), [("linear", LINEAR), ("conv2d", CONV)])
@pytest.mark.parametrize("input_grad", [0, 1])
def test_training_counts_the_gradients_that_torch_computes(layer, shape, input_grad):
    from torch.utils.flop_counter import FlopCounterMode

    module, given = built(layer, shape)
    given.requires_grad_(bool(input_grad))
    result = module(given).sum()
    with FlopCounterMode(display=False) as counter:
        result.backward()
    counts = layer_counts(layer, "train", {**shape, "input_grad": input_grad}, DEVICE)
    assert counts["flop_float32"] == counter.get_total_flops()


def test_a_pool_looks_at_every_entry_of_its_windows():
    shape = {"batch": 2, "inputs": 3, "side": 10, "kernel": 3, "stride": 2}
    module, given = built("pool2d", shape)
    counts = layer_counts("pool2d", "forward", shape, DEVICE)
    assert counts["elem_float32"] == 9 * module(given).numel()


@pytest.mark.parametrize("change", [{"kernel": 40}, {"batch": 0}, {"stride": 0}])
def test_an_impossible_layer_is_refused(change):
    with pytest.raises(SessionError):
        layer_counts("conv2d", "forward", {**CONV, **change}, DEVICE)


def test_a_shape_names_what_it_lacks():
    with pytest.raises(SessionError, match="lacks outputs"):
        check_shape("linear", {"batch", "inputs"})
    with pytest.raises(SessionError, match="knows no width"):
        check_shape("linear", {"batch", "inputs", "outputs", "width"})
