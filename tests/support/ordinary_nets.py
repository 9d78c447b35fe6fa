"""Networks of kinds that people train and that trip code written for plain ones; images are (1, 8, 8), classes 10."""

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm


def channels_last():
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


class Transposed(nn.Module):
    """A parameter whose memory is column-major."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter((torch.randn(64, 10) * 0.1).t())

    def forward(self, x):
        return x.flatten(1) @ self.weight.t()


class NeverUsed(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(64, 10)
        self.used = nn.Linear(64, 10)

    def forward(self, x):
        return self.used(x.flatten(1))


class SometimesUsed(nn.Module):
    """Stochastic depth: a block takes part in about half of the training batches."""

    def __init__(self):
        super().__init__()
        self.first, self.block, self.last = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x):
        x = torch.relu(self.first(x.flatten(1)))
        if not self.training or torch.rand(()) > 0.5:
            x = x + torch.relu(self.block(x))
        return self.last(x)


class SparseEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(17, 4, sparse=True), nn.Linear(256, 10)

    def forward(self, x):
        return self.head(self.table((x.flatten(1) * 16).round().clamp(0, 16).long()).flatten(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.head(torch.relu(self.b(torch.relu(self.a(x.flatten(1))))))


class Adapter(nn.Module):
    """A frozen base with two trainable factors, one of which is zero at the start."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(64, 10).requires_grad_(requires_grad=False)
        self.down, self.up = nn.Parameter(torch.randn(4, 64) * 0.1), nn.Parameter(torch.zeros(10, 4))

    def forward(self, x):
        x = x.flatten(1)
        return self.base(x) + x @ self.down.T @ self.up.T


class Scaled(nn.Module):
    """A parameter without dimensions."""

    def __init__(self):
        super().__init__()
        self.head, self.scale = nn.Linear(64, 10), nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return self.head(x.flatten(1)) * self.scale


class Rotary(nn.Module):
    """A floating-point table that the model does not declare in its state, and a counter that it does."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)
        self.register_buffer("table", torch.linspace(0.5, 1.5, 64), persistent=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training:
            self.calls += 1
        return self.head(x.flatten(1) * self.table)


def lazy():
    return nn.Sequential(
        nn.Flatten(), nn.LazyLinear(32, bias=False), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(10)
    )


def normed():
    return nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(64, 32)), nn.ReLU(), spectral_norm(nn.Linear(32, 10)))


def old_weight_norm():
    return nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(64, 10)))


def batch_norm():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


def cumulative_batch_norm():
    """Its step depends on `num_batches_tracked`, an integer buffer."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16, bias=False), nn.BatchNorm1d(16, momentum=None), nn.Linear(16, 10)
    )


def dropout():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.rows(x[:, 0])[0][:, -1])


def double():
    return nn.Sequential(Cast(torch.float64), nn.Flatten(), nn.Linear(64, 10).double(), Cast(torch.float32))


class Cast(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        return x.to(self.dtype)


ORDINARY = {
    "channels_last": channels_last,
    "transposed": Transposed,
    "never_used": NeverUsed,
    "sometimes_used": SometimesUsed,
    "sparse_embedding": SparseEmbedding,
    "tied": Tied,
    "adapter": Adapter,
    "scaled": Scaled,
    "rotary": Rotary,
    "lazy": lazy,
    "normed": normed,
    "old_weight_norm": old_weight_norm,
    "batch_norm": batch_norm,
    "cumulative_batch_norm": cumulative_batch_norm,
    "dropout": dropout,
    "recurrent": Recurrent,
    "double": double,
}


class TwoOutputs(nn.Module):
    """Returns an auxiliary output too, but only in training, as some image classifiers do."""

    def __init__(self):
        super().__init__()
        self.head, self.extra = nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, x):
        x = x.flatten(1)
        return (self.head(x), self.extra(x)) if self.training else self.head(x)


class FailsInTraining(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        if self.training:
            raise KeyError("schedule")
        return self.head(x.flatten(1))


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(x.flatten(1)).detach()


class LazyInTraining(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.late = nn.Linear(64, 10), nn.LazyLinear(10)

    def forward(self, x):
        return self.late(x.flatten(1)) if self.training else self.head(x.flatten(1))


def bfloat16():
    return nn.Sequential(Cast(torch.bfloat16), nn.Flatten(), nn.Linear(64, 10).bfloat16(), Cast(torch.float32))


def broken_start():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.constant_(model[1].bias, float("nan"))
    return model


def infinite_gradient():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.root = nn.Parameter(torch.zeros(64, 10))

        def forward(self, x):
            return x.flatten(1) @ self.root.abs().sqrt()

    return Root()


def classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))


def labels():
    class Argmax(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            return self.head(x.flatten(1)).long()

    return Argmax()


UNFIT = {
    "two_outputs": (TwoOutputs, "in training, returns a tuple, expected a tensor of logits"),
    "fails_in_training": (FailsInTraining, "cannot be trained: a step on .* fails .KeyError: 'schedule'"),
    "detached": (Detached, "depends on none of its 2 trainable parameters"),
    "lazy_in_training": (LazyInTraining, "late.weight of model .* is lazy and was not used"),
    "bfloat16": (bfloat16, "parameter 2.weight is torch.bfloat16; Flower carries NumPy arrays"),
    "broken_start": (broken_start, "parameter 1.bias is NaN or infinite before training"),
    "infinite_gradient": (infinite_gradient, "first gradient of root is NaN or infinite"),
    "classes": (classes, r"returns shape \(2, 7\) for 2 images, expected \(2, 10\)"),
    "labels": (labels, "returns torch.int64, expected floating-point logits"),
}
