"""Built-in models: published parameter counts, torchvision's names, shapes of the outputs."""

import pytest
import torch

from cwmp_costmodels.errors import ModelError
from cwmp_costmodels.networks.builtin import (
    MODELS,
    cnn,
    cnn_large,
    example_input,
    mlp,
    resnet18,
    resnet18_small,
    resnet50,
)


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (resnet18, 11_689_512),  # torchvision's model page
        (resnet50, 25_557_032),  # torchvision's model page
        (resnet18_small, 11_173_962),  # the usual CIFAR-10 variant
        (cnn, 105_866),
        (cnn_large, 545_098),
        (mlp, 101_770),
    ],
)
def test_parameter_counts_are_the_published_ones(make, parameters):
    with torch.device("meta"):
        assert count(make()) == parameters


def test_resnet_names_and_shapes_are_torchvisions():
    with torch.device("meta"):
        state18, state50 = resnet18().state_dict(), resnet50().state_dict()
    assert len(state18) == 122
    assert len(state50) == 320
    assert tuple(state18["layer2.0.downsample.0.weight"].shape) == (128, 64, 1, 1)
    assert tuple(state18["layer4.1.bn2.running_mean"].shape) == (512,)
    assert tuple(state50["layer1.0.downsample.0.weight"].shape) == (256, 64, 1, 1)
    assert tuple(state50["layer3.0.conv2.weight"].shape) == (256, 256, 3, 3)
    assert tuple(state50["fc.weight"].shape) == (1000, 2048)
    assert list(state18)[:3] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert "layer1.0.conv3.weight" not in state18


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_maps_its_example_input_to_logits(name):
    with torch.device("meta"):
        model = MODELS[name](num_classes=7)
        inputs = example_input(model, batch=2)
        assert tuple(model(inputs).shape) == (2, 7)


def test_resnet_computes_what_the_block_equations_say():
    """A basic block is relu(bn2(conv2(relu(bn1(conv1 x)))) + x); with bn2's weight at 0 it is relu(x)."""
    block = resnet18_small().layer1[0].eval()
    x = torch.randn(1, 64, 4, 4)
    torch.nn.init.zeros_(block.bn2.weight)
    assert torch.allclose(block(x), x.relu())


def test_cnn_is_mostly_one_linear_layer_and_takes_variants():
    model = cnn(num_classes=26, channels=3, image_size=32)
    assert model.fc1.weight.numel() / count(model) > 0.9
    assert tuple(model(torch.zeros(2, 3, 32, 32)).shape) == (2, 26)
    with pytest.raises(ModelError, match="multiple of 4, got 30"):
        cnn(image_size=30)


def test_a_model_that_does_not_say_its_input_has_no_example():
    assert example_input(torch.nn.Linear(2, 2)) is None
