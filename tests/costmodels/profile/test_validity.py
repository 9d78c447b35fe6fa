"""A profile whose operators were timed with other software says so on its own device, and nowhere else."""

from __future__ import annotations

from importlib.metadata import version

import pytest
import torch
from typer.testing import CliRunner

from cwmp_cli.app import app
from cwmp_costmodels.costs.layers import layer_costs
from cwmp_costmodels.networks.source import load_model
from cwmp_costmodels.operators.pricing import OperatorPrices
from cwmp_costmodels.profile.files import load_profile, save_profile
from cwmp_costmodels.profile.operators import OperatorsBlock
from cwmp_costmodels.profile.validity import differences, validity_remark
from cwmp_costmodels.report.page import report_html
from cwmp_federated.client.energy import ClientEnergy
from cwmp_federated.records.config import RunConfig
from cwmp_profiler.devices import host
from cwmp_profiler.devices.software import Software, libraries
from cwmp_profiler.operators.trace import trace
from cwmp_profiler.operators.training import training_step


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def timed_with(model: str | None = None, **told):
    """Return a profile of this machine (or of `model`) whose operators were timed with this software, but for what is told."""
    base = load_profile("simulated-board")
    held = {"torch": version("torch"), "threads": 1, "libraries": libraries(), "reference_s": 1e-4, **told}
    device = base.device.model_copy(
        update={"kind": "cpu", "model": model or host.cpu_model(), "details": {"torch_device": "cpu"}}
    )
    calls = dict.fromkeys(("forward", "backward", "update", "view", "cold"), 1e-6)
    block = OperatorsBlock(validity=held, overhead_s=calls, fault_s=1e-6)
    return base.model_copy(update={"device": device, "operators": block})


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"torch": "1.9.0"}, "torch 1.9.0 ("),
        ({"threads": 4}, "threads 4 (1 here)"),
        ({"libraries": {"cpu": "SSE2"}}, "cpu SSE2 ("),
    ],
)
def test_what_differs_is_said_in_one_line(told, said):
    remark = validity_remark(timed_with(**told))
    assert said in remark
    assert "\n" not in remark
    assert "measure" in remark


def test_nothing_is_said_where_nothing_differs():
    assert validity_remark(timed_with()) == ""


def test_nothing_is_said_of_another_device_priced_from_afar():
    assert validity_remark(timed_with("ARM Cortex-A72", torch="1.9.0", threads=4)) == ""


def test_nothing_is_said_of_a_simulated_device_nor_without_operators():
    profile = timed_with(torch="1.9.0")
    simulated = profile.device.model_copy(update={"details": {}})
    assert validity_remark(profile.model_copy(update={"device": simulated})) == ""
    assert validity_remark(profile.model_copy(update={"operators": None})) == ""


def test_what_one_side_does_not_know_is_no_difference():
    here = Software(torch="2.8.0", threads=1)
    assert differences("2.8.0", 1, {"cpu": "SSE2"}, here, 1) == []
    assert differences("", 1, {}, Software(torch="2.8.0", threads=1, libraries={"cpu": "AVX2"}), 1) == []


def test_costs_report_step_and_training_all_say_it():
    profile, model = timed_with(torch="1.9.0"), load_model("mlp")
    remark = validity_remark(profile)
    costs = layer_costs(profile, model)
    assert remark in costs.remarks
    assert "torch 1.9.0" in report_html(profile, costs=costs)
    step = training_step(torch.nn.Linear(8, 8), (torch.randn(4, 8),))
    assert remark in OperatorPrices(profile).price(trace(step)).remarks


def test_training_is_held_to_the_threads_that_it_takes(tmp_path):
    path = tmp_path / "here.json"
    save_profile(timed_with(), path)
    energy = ClientEnergy(str(path), load_model("mlp"), torch.zeros(2, 1, 28, 28), RunConfig(profile=str(path)))
    assert not [remark for remark in energy.remarks if "threads" in remark]
    torch.set_num_threads(2)
    assert [remark for remark in energy.remarks if "threads 1 (2 here)" in remark]


def test_the_command_line_says_it_once(tmp_path):
    path = tmp_path / "here.json"
    save_profile(timed_with(torch="1.9.0"), path)
    done = CliRunner().invoke(app, ["costs", str(path), "--model", "mlp"])
    assert done.exit_code == 0
    assert done.output.count("torch 1.9.0") == 1
