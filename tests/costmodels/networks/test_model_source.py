"""Model specs: what loads, what is refused, and that no file of a model is ever run."""

import io
import json
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from cwmp_costmodels.errors import ModelError
from cwmp_costmodels.networks.source import load_model


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 4)
        self.body = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
        self.mix = nn.Conv1d(2, 5, 3)
        self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)

    def forward(self, ids):
        x = self.body(self.table(ids))
        return self.mix(x) + x.sum() * self.frozen.sum()


@pytest.fixture
def exported(tmp_path) -> Path:
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(Net().eval(), (torch.zeros(1, 2, dtype=torch.long),)), path)
    return path


def test_exported_program_keeps_names_shapes_types_and_frozenness(exported):
    model, truth = load_model(str(exported)), Net()
    got = {n: (tuple(p.shape), p.dtype, p.requires_grad) for n, p in model.named_parameters()}
    assert got == {n: (tuple(p.shape), p.dtype, p.requires_grad) for n, p in truth.named_parameters()}
    assert model.layer_types == {
        "table.weight": "embedding", "body.0.weight": "linear", "body.0.bias": "linear",
        "body.1.weight": "norm", "body.1.bias": "norm", "mix.weight": "conv", "mix.bias": "conv",
    }  # fmt: skip
    assert all(p.is_meta for p in model.parameters())


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path(Bomb.target),))


def test_pickles_inside_an_exported_program_are_not_run(exported, tmp_path):
    """The same archive with every payload and sample input replaced by a pickle that would leave a mark."""
    Bomb.target = str(tmp_path / "mark")
    hostile = tmp_path / "hostile.pt2"
    with zipfile.ZipFile(exported) as source, zipfile.ZipFile(hostile, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            keep = name.endswith(".json") or "archive" in name or "version" in name or "byteorder" in name
            data = source.read(name) if keep else pickle.dumps(Bomb())
            if name.endswith("weights_config.json"):
                config = json.loads(data)
                for entry in config["config"].values():
                    entry["use_pickle"] = True
                data = json.dumps(config).encode()
            target.writestr(name, data)
    assert len(list(load_model(str(hostile)).named_parameters())) == 8
    assert not (tmp_path / "mark").exists()
    buffer = io.BytesIO(pickle.dumps(Bomb()))
    pickle.load(buffer)
    assert (tmp_path / "mark").exists(), "the bomb must be live for this test to mean anything"


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".ckpt", ".bin"])
def test_pickled_formats_are_refused_unread(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    Bomb.target = str(tmp_path / "mark")
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match=r"are pickles.*torch\.export\.save"):
        load_model(str(path))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an exported program"),
        (b"\x80\x04junk", "is not an exported program"),
        (None, "no model file"),
    ],
)
def test_broken_exported_files_get_one_line(content, message, tmp_path):
    path = tmp_path / "x.pt2"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as error:
        load_model(str(path))
    assert "\n" not in str(error.value)


def graph_of(values):
    signature = {"input_specs": [{"parameter": {"arg": {"name": "p"}, "parameter_name": "p"}}]}
    return json.dumps({"graph_module": {"graph": {"nodes": [], "tensor_values": values}, "signature": signature}})


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("[]", "not understood"),
        ("{}", "not understood"),
        ("{", "is not an exported program"),
        (graph_of({}), "not understood"),
        (graph_of({"p": {"sizes": [{"as_expr": "s0"}], "dtype": 7, "requires_grad": True}}), "symbolic or bad size"),
        (graph_of({"p": {"sizes": [{"as_int": -1}], "dtype": 7, "requires_grad": True}}), "symbolic or bad size"),
        (graph_of({"p": {"sizes": [{"as_int": 3}], "dtype": 99, "requires_grad": True}}), "scalar type 99"),
    ],
)
def test_foreign_graphs_get_one_line(graph, message, tmp_path):
    path = tmp_path / "x.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/models/model.json", graph)
    with pytest.raises(ModelError, match=message):
        load_model(str(path))


def test_torn_archive_is_refused(exported, tmp_path):
    path = tmp_path / "torn.pt2"
    path.write_bytes(exported.read_bytes()[:900])
    with pytest.raises(ModelError, match="is not an exported program"):
        load_model(str(path))


def test_module_callable_is_imported_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_nets_d.py").write_text(
        "import torch\ndef make(num_classes=3): return torch.nn.Linear(2, num_classes)\n"
        "ready = torch.nn.Linear(5, 1)\nnumber = 3\ndef bad(): return 3\ndef boom(): raise RuntimeError('no GPU')\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert load_model("my_nets_d:make").out_features == 3
    assert load_model("my_nets_d:make", num_classes=4).out_features == 4
    assert load_model("my_nets_d:ready").in_features == 5
    for attribute, message in {
        "number": "gives a int, expected a torch.nn.Module",
        "bad": "gives a int, expected a torch.nn.Module or",
        "boom": "RuntimeError: no GPU",
        "absent": "AttributeError",
    }.items():
        with pytest.raises(ModelError, match=message):
            load_model(f"my_nets_d:{attribute}")
    assert sys.path == before


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet19", "no model 'resnet19'; models are resnet18, resnet50"),
        ("no_such_module_d:make", "ModuleNotFoundError"),
        ("os.path:..", "is not module:callable"),
        (":make", "is not module:callable"),
        ("net.onnx", "files are not read"),
        ("", "no model ''"),
    ],
)
def test_unknown_specs_name_the_ways(spec, message):
    with pytest.raises(ModelError, match=message):
        load_model(spec)


def test_built_in_models_take_options():
    assert load_model("cnn", num_classes=62).fc2.out_features == 62
