"""An exported program runs the operators that the module ran, from its JSON alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cwmp_costmodels.errors import ModelError
from cwmp_costmodels.networks.example import model_inputs
from cwmp_costmodels.networks.exported_run import runnable
from cwmp_profiler.operators.trace import trace
from cwmp_profiler.operators.training import training_step


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c, self.b, self.l = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 10)
        self.e = nn.Embedding(5, 10)

    def forward(self, x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        a, _ = self.l(nn.functional.max_pool2d(self.b(self.c(x)).relu(), 2).mean((2, 3))).chunk(2, 0)
        return torch.cat([a, a]) + self.e(i)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "net.pt2"
    program = torch.export.export(_Net().train(), (torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.long)))
    torch.export.save(program, path)
    return path


def test_its_step_has_the_modules_operators_with_their_shapes(saved):
    mine = runnable(saved)
    theirs = training_step(_Net(), (torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.long)), optimizer="sgd")
    own = training_step(mine, model_inputs(mine, str(saved), batch=4), optimizer="sgd")

    def dear(step):
        families = {"conv", "gemm", "norm", "pool", "embedding", "optimizer", "softmax"}
        return sorted(c.operator.shape_id for c in trace(step).calls if c.operator.family in families)

    assert dear(own) == dear(theirs)


def test_another_batch_than_it_was_exported_for_is_refused(saved):
    with pytest.raises(ModelError, match="exported for batches of 4, got --batch 32; give --batch 4"):
        model_inputs(runnable(saved), str(saved), batch=32)


def test_operators_that_are_not_torchs_own_are_refused(saved, monkeypatch):
    from cwmp_costmodels.networks import exported_run

    program = exported_run.read_graph(saved)
    program["graph_module"]["graph"]["nodes"][0]["target"] = "os.system"
    monkeypatch.setattr(exported_run, "read_graph", lambda _: program)
    with pytest.raises(ModelError, match=r"runs os\.system, which is no operator of torch's own"):
        runnable(saved)
