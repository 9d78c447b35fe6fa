"""A fleet of real processes with TLS and node authentication: a node dies in mid-round and comes back, another one sends garbage."""

import shutil
import time
import tomllib
from pathlib import Path

import pytest
from flower_fleet import APP, Fleet, missing_tools

from cwmp_federated.config import RunConfig

STEP_S = 90.0
"""Patience with one step: seconds on an idle machine, many more on a busy one."""

needs_tools = pytest.mark.skipif(bool(missing_tools()), reason=f"needs {' and '.join(missing_tools())}")


def unruly_app(folder):
    """Copy the example app, with the misbehaving client in place of the package's."""
    shutil.copytree(APP, folder)
    shutil.copy(Path(__file__).parents[1] / "support" / "unruly_client.py", folder)
    project = folder / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    changed = text.replace("cwmp_app.client:app", "unruly_client:app")
    assert changed != text
    project.write_text(changed, encoding="utf-8")


@pytest.fixture
def fleet(tmp_path):
    unruly_app(tmp_path / "app")
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


def test_the_example_names_every_setting_with_its_default():
    project = tomllib.loads((APP / "pyproject.toml").read_text(encoding="utf-8"))
    settings = project["tool"]["flwr"]["app"]["config"]
    assert settings.keys() == RunConfig(profile="x").to_run_config().keys() | {
        "output-dir",
        "resume",
        "min-nodes",
        "round-timeout",
    }
    RunConfig.from_run_config(settings)


@needs_tools
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_fleet_survives_a_dead_node_and_a_hostile_one(fleet, tmp_path):
    started = time.monotonic()
    names = ["node-0", "node-1", "node-2", "stranger"]
    fleet.prepare(names)
    fleet.start_superlink(STEP_S)
    for name in names[:3]:
        fleet.register(name, STEP_S)
    stall_file = tmp_path / "stalled"
    fleet.start_node("node-0", "partition-id=0")
    fleet.start_node("node-1", f'partition-id=1 stall-round=2 stall-file="{stall_file}"')
    fleet.start_node("node-2", "partition-id=2 hostile=true")
    fleet.start_node("stranger", "partition-id=0")
    for name, node in fleet.nodes.items():
        fleet.wait_for(lambda name=name, node=node: f"SuperNode ID: {node}" in fleet.log(name), STEP_S, name)
    print("nodes", time.monotonic() - started)
    fleet.start("run", fleet.command("flwr run examples/flower_app fleet --stream --run-config 'clients=3 rounds=3 r"))
    fleet.wait_for(stall_file.exists, 2 * STEP_S, "run")
    print("stalled", time.monotonic() - started)
    fleet.kill("node-1")
    fleet.start_node("node-1", "partition-id=1")
    assert fleet.wait("run", 3 * STEP_S) == 0, fleet.tails()
    print("run", time.monotonic() - started)
    print(fleet.log("run"))
    print(fleet.tails())
    print((tmp_path / "run-1" / "history.json").read_text())
