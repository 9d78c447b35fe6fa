"""Operations of a training pass: torch's FlopCounterMode is the oracle, and the compiler that it imports stays out."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cwmp_costmodels.networks.builtin import MODELS
from cwmp_federated.client.passes import count_pass


class Attention(nn.Module):
    """Batched products, convolution with groups, and a branch that is used twice."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, groups=3, padding=1)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 10)

    def forward(self, images):
        tokens = self.convolution(self.convolution(images)[:, :3]).flatten(2).transpose(1, 2)
        return self.head(self.attention(tokens, tokens, tokens)[0].mean(1))


@pytest.mark.parametrize("make", [Attention, *(name for name in MODELS if name in ("mlp", "cnn", "resnet18"))])
def test_the_count_is_that_of_torchs_own_counter(make):
    if isinstance(make, str):
        options = {
            "mlp": {"input_shape": (3, 8, 8)},
            "cnn": {"channels": 3, "image_size": 16},
            "resnet18": {"channels": 3},
        }
        model = MODELS[make](num_classes=10, **options[make])
    else:
        model = make()
    images = torch.randn(2, 3, 8 if make == "mlp" else 16, 8 if make == "mlp" else 16)
    buffers = [buffer.clone() for buffer in model.buffers()]
    found = count_pass(model, images).flops_per_image * len(images)
    assert all(torch.equal(before, after) for before, after in zip(buffers, model.buffers(), strict=True))
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(model(images).sum(), list(model.parameters()))
    assert found == counter.get_total_flops() > 0


def test_counting_does_not_import_torchs_compiler():
    program = (
        "import sys, torch; from cwmp_federated.client.passes import count_pass;"
        "count_pass(torch.nn.Linear(3, 2), torch.ones(2, 3)); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
