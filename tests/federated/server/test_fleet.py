"""A fleet as docs/deploy.md sets it up: real processes, TLS, node authentication; one node dies in mid-round, one sends garbage, the SuperLink dies and comes back.

Each node has a network namespace of its own where this can be had (root, iproute2); elsewhere all share the loopback.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tomllib
from flower_fleet import APP, SERVER, Fleet, missing_tools
from network import Network, why_not

from cwmp_federated.records.config import RunConfig
from cwmp_federated.records.ledger import load_ledger

STEP_S = 90.0
"""Patience with one step: seconds on an idle machine, many more on a busy one."""

LISTENER = """
import socket
with socket.create_server(("0.0.0.0", 9092)) as server:
    print("up", flush=True)
    while True:
        server.accept()
"""

PROBE = """
import socket, sys
for host, port in ((sys.argv[1], 9092), ("127.0.0.1", int(sys.argv[2]))):
    with socket.socket() as client:
        print(client.connect_ex((host, port)) == 0)
"""

NODES = ("node-0", "node-1", "node-2", "stranger")


def unruly_app(folder):
    """Copy the example app, with the misbehaving client in place of the package's."""
    shutil.copytree(APP, folder, ignore=shutil.ignore_patterns("__pycache__", "*.fab"))
    shutil.copy(Path(__file__).parents[2] / "support" / "unruly_client.py", folder)
    project = folder / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    changed = text.replace("cwmp_app.client:app", "unruly_client:app")
    assert changed != text
    project.write_text(changed, encoding="utf-8")


@pytest.fixture
def network():
    network = None if why_not() else Network(SERVER, NODES)
    yield network
    if network is not None:
        network.close()


@pytest.fixture
def fleet(tmp_path, network):
    unruly_app(tmp_path / "app")
    fleet = Fleet(tmp_path, network)
    yield fleet
    fleet.close()


def test_the_example_names_every_setting():
    project = tomllib.loads((APP / "pyproject.toml").read_text(encoding="utf-8"))
    settings = project["tool"]["flwr"]["app"]["config"]
    own = {"output-dir", "resume", "min-nodes", "node-timeout", "round-timeout"}
    assert settings.keys() == RunConfig(profile="x").to_run_config().keys() | own
    RunConfig.from_run_config(settings)


def test_each_node_of_the_network_reaches_the_server_and_nothing_of_this_host(network):
    if network is None:
        pytest.skip(why_not())
    python = [sys.executable, "-c"]
    with (
        socket.create_server(("127.0.0.1", 0)) as here,
        subprocess.Popen([*network.inside("server"), *python, LISTENER], stdout=subprocess.PIPE, text=True) as server,
    ):
        assert server.stdout.readline() == "up\n"
        port = str(here.getsockname()[1])
        try:
            for host in NODES:
                probe = [*network.inside(host), *python, PROBE, SERVER, port]
                assert subprocess.run(probe, check=True, capture_output=True, text=True).stdout.split() == [
                    "True",
                    "False",
                ]
        finally:
            server.kill()


@pytest.mark.skipif(bool(missing_tools()), reason=f"needs {' and '.join(missing_tools())}")
@pytest.mark.fleet
@pytest.mark.timeout(900)
def test_a_fleet_goes_on_without_a_dead_node_and_a_hostile_one(fleet, tmp_path):
    fleet.prepare(NODES)
    fleet.start_superlink(STEP_S)
    with ThreadPoolExecutor() as pool:
        honest, dies, hostile = pool.map(lambda name: fleet.register(name, STEP_S), ["node-0", "node-1", "node-2"])
    stall_file = tmp_path / "stalled"
    fleet.start_node("node-0", "partition-id=0")
    fleet.start_node("node-1", f'partition-id=1 stall-round=1 stall-file="{stall_file}"')
    fleet.start_node("node-2", "partition-id=2 hostile=true")
    fleet.start_node("stranger", "partition-id=0")
    fleet.start("run", fleet.command("flwr run examples/flower_app fleet --stream --run-config 'clients=3 rounds=2 "))
    fleet.wait_for(stall_file.exists, 2 * STEP_S, "run")
    fleet.kill("node-1")
    assert fleet.wait("stranger", STEP_S) != 0, "a node whose key is not registered was admitted"
    assert "could not establish a connection" in fleet.log("stranger")

    fleet.wait_for(lambda: "cwmp round 1: accuracy" in fleet.log("run"), 2 * STEP_S, "run")
    fleet.start_node("node-1", "partition-id=1")
    assert fleet.wait("run", 2 * STEP_S) == 0, fleet.tails()
    rows = history(tmp_path)
    assert [row["round"] for row in rows] == [0, 1, 2]
    assert rows[1]["clients"] == 1
    assert left_out(rows[1]).keys() == {dies, hostile}
    assert left_out(rows[1])[dies].startswith("failed: Error: Node Unavailable")
    assert left_out(rows[1])[hostile].startswith("refused: bytes start with")
    assert rows[2]["clients"] == 2
    assert left_out(rows[2]).keys() == {hostile}
    assert left_out(rows[2])[hostile].startswith("refused: the reply holds no encoded update")
    assert re.search(rf"WARNING.*cwmp round 1: node {hostile} left out: refused", fleet.log("run"))

    fleet.kill("superlink")
    fleet.start_superlink(STEP_S)
    longer = fleet.command("flwr run examples/flower_app fleet --stream --run-config 'clients=3 rounds=3 resume=true")
    fleet.start("resumed", longer)
    assert fleet.wait("resumed", 2 * STEP_S) == 0, fleet.tails()
    assert history(tmp_path)[:3] == rows
    last = history(tmp_path)[3]
    assert (last["round"], last["clients"]) == (3, 2)
    assert left_out(last) == {hostile: f"refused: num-examples is {10**18}, expected 1 to 1000000"}
    assert last["accuracy"] > rows[0]["accuracy"] + 0.1

    with np.load(tmp_path / "run-1" / "checkpoint.npz") as checkpoint:
        model = {name: checkpoint[name] for name in checkpoint.files if name.startswith("model/")}
    assert model
    assert all(np.isfinite(tensor).all() for tensor in model.values())
    ledger = load_ledger(tmp_path / "run-1" / "ledger.jsonl")
    assert sorted((entry.round, entry.client) for entry in ledger.entries) == [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1)]
    assert honest not in {node for row in history(tmp_path) for node in left_out(row)}


@pytest.mark.fleet
@pytest.mark.timeout(600)
def test_the_same_app_runs_on_the_simulation_engine(tmp_path):
    pytest.importorskip("ray", reason="ray is not installed: the simulation engine needs the extra simulation")
    shutil.copytree(APP, tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__", "*.fab"))
    fleet = Fleet(tmp_path)
    try:
        address = f"127.0.0.1:{fleet.port}"
        (tmp_path / "flwr" / "config.toml").write_text(f'[superlink.local]\naddress = "{address}"\ninsecure = true\n')
        command = ["flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(fleet.port)]
        fleet.start_superlink(STEP_S, command)
        settings = f'clients=4 rounds=2 train-limit=400 output-dir="{tmp_path / "run-1"}"'
        engine = "num-supernodes=4 client-resources-num-cpus=1 init-args-num-cpus=2"
        run = ["flwr", "run", "app", "local", "--stream", "--run-config", settings, "--federation-config", engine]
        fleet.start("run", run)
        assert fleet.wait("run", 2 * STEP_S) == 0, fleet.tails()
        rows = history(tmp_path)
    finally:
        fleet.close()
    assert [(row["round"], row["clients"], row["left_out"]) for row in rows] == [(0, 0, []), (1, 4, []), (2, 4, [])]
    assert rows[-1]["accuracy"] > rows[0]["accuracy"]


def history(folder):
    return json.loads((folder / "run-1" / "history.json").read_text(encoding="utf-8"))["history"]


def left_out(row):
    return {out["node"]: out["reason"] for out in row["left_out"]}
