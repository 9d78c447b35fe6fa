"""Parameters as costs see them: layer types, tied, frozen, empty, and the kinds that are refused by name."""

import pytest
import torch
from torch import nn

from cwmp_costmodels.errors import ModelError
from cwmp_costmodels.networks.inspect import inspect_model
from cwmp_costmodels.networks.source import load_model


def types(model):
    return {tensor.name: tensor.layer_type for tensor in inspect_model(model).tensors}


def test_layer_types_by_module():
    class RMSNormOfMine(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.up = nn.Linear(3, 3, bias=False), nn.ConvTranspose2d(1, 1, 2, bias=False)
            self.table, self.rnn = nn.Embedding(4, 3), nn.LSTM(3, 3, bias=False)
            self.group, self.mine = nn.GroupNorm(1, 3, affine=True), RMSNormOfMine()
            self.attention, self.free = nn.MultiheadAttention(4, 2, bias=False), nn.Parameter(torch.ones(2))

    assert types(Net()) == {
        "free": "other", "fc.weight": "linear", "up.weight": "conv", "table.weight": "embedding",
        "rnn.weight_ih_l0": "linear", "rnn.weight_hh_l0": "linear", "group.weight": "norm", "group.bias": "norm",
        "mine.scale": "norm", "attention.in_proj_weight": "linear", "attention.out_proj.weight": "linear",
    }  # fmt: skip


def test_tied_parameters_count_once_under_their_first_name():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 4)
            self.out = nn.Linear(4, 10, bias=False)
            self.out.weight = self.table.weight

    (tensor,) = inspect_model(Tied()).tensors
    assert (tensor.name, tensor.tied, tensor.layer_type, tensor.numel) == (
        "table.weight",
        ("out.weight",),
        "embedding",
        40,
    )


def test_a_module_used_twice_is_tied_too():
    shared = nn.Linear(2, 2)
    assert [t.tied for t in inspect_model(nn.Sequential(shared, shared)).tensors] == [("1.weight",), ("1.bias",)]


def test_frozen_and_empty_are_listed():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(0, 2, bias=False, device="meta"))
    model[0].bias.requires_grad_(False)
    found = inspect_model(model)
    assert [t.name for t in found.tensors] == ["0.weight"]
    assert found.skipped == {"0.bias": "frozen", "1.weight": "empty"}


def test_meta_parameters_are_as_good_as_any():
    with torch.device("meta"):
        assert [t.shape for t in inspect_model(nn.Linear(3, 2)).tensors] == [(2, 3), (2,)]


def test_an_exported_program_keeps_its_layer_types(tmp_path):
    path = tmp_path / "m.pt2"
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    torch.export.save(torch.export.export(model, (torch.zeros(2, 4),)), path)
    assert types(load_model(str(path))) == types(model)


class Overlap(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(4, 4))
        self.b = nn.Parameter(self.a.data.t())


def quantised():
    model = nn.Module()
    model.w = nn.Parameter(torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8), requires_grad=False)
    return model


def complex_one():
    model = nn.Module()
    model.w = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    return model


def sparse():
    model = nn.Module()
    model.w = nn.Parameter(torch.zeros(3, 3).to_sparse())
    return model


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.LazyLinear(3), r"parameter weight is lazy .* run one batch"),
        (complex_one, r"parameter w is complex \(torch.complex64\)"),
        (quantised, r"parameter w is quantised \(torch.qint8\)"),
        (sparse, r"parameter w has the layout torch.sparse_coo"),
        (Overlap, r"parameters a and b are two objects over the same memory"),
        (nn.ReLU, "has no parameter to train"),
        (lambda: "resnet18", "a model is a torch.nn.Module, got str"),
    ],
)
def test_kinds_without_a_cost_model_are_refused_by_name(make, message):
    with pytest.raises(ModelError, match=message):
        inspect_model(make())


def test_sharded_parameters_are_refused_by_name():
    from torch import distributed as dist
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        model = nn.Linear(4, 4, bias=False)
        model.weight = nn.Parameter(distribute_tensor(model.weight.data, mesh, [Shard(0)]))
        with pytest.raises(ModelError, match="parameter weight is sharded"):
            inspect_model(model)
    finally:
        dist.destroy_process_group()
