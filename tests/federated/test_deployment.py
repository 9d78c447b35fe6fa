"""The app on Flower's deployment engine: SuperLink and SuperNodes as processes of their own, TLS, node authentication.

One client is killed in mid-round and comes back, another one sends nonsense all the time.
"""

import contextlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
TOOLS = {
    name: shutil.which(name, path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    for name in ("flower-superlink", "flower-supernode", "flwr", "openssl", "ssh-keygen")
}
MISSING = [name for name, path in TOOLS.items() if path is None]

ROUNDS = 10
CLIENT = """
import time
from pathlib import Path
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp
from cwmp_federated import wire
from cwmp_federated.client_app import train_client
from cwmp_federated.mod import CwmpMod

app = ClientApp()

def play_role(message, context, call_next):
    role = context.node_config["role"]
    number = wire.config_of(message)["server-round"]
    marker = Path(context.node_config["folder"]) / f"{role}-{number}"
    marker.touch()
    if role == "dying" and number == 2 and not marker.with_name("revived").exists():
        time.sleep(600)
    reply = call_next(message, context)
    if role == "hostile":
        payload = reply.content.array_records[wire.UPDATE][wire.PAYLOAD].data
        reply.content[wire.UPDATE] = ArrayRecord({wire.PAYLOAD: wire.opaque(b"\\xff" * len(payload))})
    return reply

@app.train(mods=[play_role, CwmpMod()])
def train(message, context):
    return train_client(message, context)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Fleet:
    def __init__(self, folder):
        self.folder, self.port, self.processes = folder, free_port(), {}
        self.env = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "OMP_NUM_THREADS": "1",
        }

    def call(self, *command, home="cli", **options):
        env = {**self.env, "FLWR_HOME": str(self.folder / home)}
        return subprocess.run(
            command, cwd=self.folder, env=env, check=False, capture_output=True, text=True, timeout=300, **options
        )

    def start(self, name, *command):
        log = (self.folder / f"{name}.log").open("ab")
        env = {**self.env, "FLWR_HOME": str(self.folder / name)}
        self.processes[name] = subprocess.Popen(
            command, cwd=self.folder, env=env, stdout=log, stderr=log, start_new_session=True
        )

    def kill(self, name):
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)

    def stop(self):
        for name in list(self.processes):
            process = self.processes[name]
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(15)
            del self.processes[name]

    def certificates(self):
        (self.folder / "ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        for command in (
            "req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca.key -out ca.pem -subj /CN=test",
            "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost",
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem",
        ):
            done = self.call("openssl", *command.split())
            assert done.returncode == 0, done.stderr

    def superlink(self):
        self.start(
            "link", "flower-superlink", "--host", "127.0.0.1", "--port", str(self.port), "--enable-supernode-auth",
            "--disable-runtime-dependency-installation", "--ssl-ca-certfile", "ca.pem",
            "--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key",
        )  # fmt: skip
        (self.folder / "cli").mkdir()
        (self.folder / "cli" / "config.toml").write_text(
            '[superlink]\ndefault = "test"\n[superlink.test]\n'
            f'address = "127.0.0.1:{self.port}"\nroot-certificates = "{self.folder / "ca.pem"}"\n'
        )
        wait_for(lambda: _listens(self.port), 60, "the SuperLink listens")

    def supernode(self, role, partition):
        node_config = f"partition-id={partition} role='{role}' folder='{self.folder}'"
        self.start(
            role, "flower-supernode", "--superlink", f"127.0.0.1:{self.port}", "--root-certificates", "ca.pem",
            "--auth-supernode-private-key", f"{role}.key", "--node-config", node_config, "--port", str(free_port()),
        )  # fmt: skip


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain until {what}"
        time.sleep(0.3)


@pytest.fixture
def fleet(tmp_path):
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.stop()


def make_app(folder):
    app = folder / "app"
    shutil.copytree(ROOT / "examples" / "flower_app", app, ignore=shutil.ignore_patterns("__pycache__", "*.fab"))
    (app / "cwmp_app" / "client.py").write_text(CLIENT)
    return app


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} on the PATH")
def test_a_fleet_bears_a_killed_a_returning_and_a_hostile_client(fleet):
    folder = fleet.folder
    fleet.certificates()
    fleet.superlink()
    roles = {"honest": 0, "steady": 1, "dying": 2, "hostile": 3}
    for role, partition in roles.items():
        assert fleet.call("ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", f"{role}.key").returncode == 0
        added = fleet.call("flwr", "supernode", "register", f"{role}.key.pub", "test")
        assert "registered successfully" in added.stdout, added.stdout + added.stderr
        fleet.supernode(role, partition)
    assert fleet.call("ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", "stranger.key").returncode == 0
    fleet.supernode("stranger", 0)
    settings = {
        "clients": 4,
        "rounds": ROUNDS,
        "min-nodes": 3,
        "round-timeout": 60.0,
        "output-dir": f"'{folder / 'out'}'",
    }
    run_config = " ".join(f"{key}={value}" for key, value in settings.items())
    started = fleet.call("flwr", "run", str(make_app(folder)), "test", "--run-config", run_config)
    assert "Successfully started run" in started.stdout, started.stdout + started.stderr

    wait_for((folder / "dying-2").exists, 500, "round 2 reaches the client that will be killed")
    fleet.kill("dying")
    (folder / "revived").touch()
    fleet.supernode("dying", roles["dying"])
    wait_for((folder / "out" / "result.json").exists, 500, "the run ends")

    result = json.loads((folder / "out" / "result.json").read_text())
    rows = {row["round"]: row for row in result["history"]}
    reasons = {n: {out["node"]: out["reason"] for out in row["left_out"]} for n, row in rows.items()}
    numbers = range(1, ROUNDS + 1)
    hostile = {node for n in numbers for node, reason in reasons[n].items() if reason.startswith("refused: ")}
    assert len(hostile) == 1, reasons
    assert all(hostile & set(reasons[n]) for n in numbers), reasons
    killed = set(reasons[2]) - hostile
    assert len(killed) == 1, reasons
    assert rows[2]["clients"] == 2
    by_round = {n: {e["client"] for e in _ledger(folder) if e["round"] == n} for n in rows}
    assert by_round[1] == {0, 1, 2}
    assert by_round[2] == {0, 1}
    assert roles["dying"] in set().union(*(by_round[n] for n in numbers if n > 2)), (
        "the client that came back takes part again"
    )
    assert all(math.isfinite(row["loss"]) for row in rows.values())
    assert rows[ROUNDS]["accuracy"] > rows[0]["accuracy"]
    assert not (folder / "stranger-1").exists(), "a node whose key is not registered gets no work"


def _ledger(folder):
    return [json.loads(line) for line in (folder / "out" / "ledger.jsonl").read_text().splitlines()[1:]]
