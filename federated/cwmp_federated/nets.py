"""A network for sweeps, as `--model cwmp_federated.nets:fashion_cnn`: hundreds of runs must fit into an hour on two cores."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PatchCnn(nn.Module):
    """Convolution over 4x4 patches, a 3x3 convolution, one large linear layer and a classifier, for 28x28 grey images.

    155,546 parameters, 95% of them in `fc1`: 0.6 MB of weights, which with their gradients do not fit into a 1 MiB cache,
    while everything else does. Strides instead of pooling: it trains several times faster than `cnn`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.input_shape = (1, 28, 28)
        self.conv1 = nn.Conv2d(1, 16, 4, stride=4)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.fc1 = nn.Linear(32 * 4 * 4, 288)
        self.fc2 = nn.Linear(288, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (batch, 10) for images (batch, 1, 28, 28)."""
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        logits: Tensor = self.fc2(torch.relu(self.fc1(x.flatten(1))))
        return logits


def fashion_cnn() -> PatchCnn:
    """Return the network."""
    return PatchCnn()
