"""A real Flower fleet of separate processes on this machine, started with the commands that docs/deploy.md shows."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
GUIDE = REPOSITORY / "docs" / "deploy.md"
APP = REPOSITORY / "examples" / "flower_app"
TOOLS = ("openssl", "ssh-keygen")
SERVER = "fleet.example.org"
NODE_PROGRAM = Path(__file__).with_name("impatient_node.py")


def missing_tools():
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def guide_block(start):
    """Return the one fenced block of the guide whose text starts so."""
    blocks = re.findall(r"^```\w+\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if block.startswith(start)]
    return found


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Fleet:
    """SuperLink and SuperNodes; every process leads a group of its own, and `close` ends all groups.

    With a network, each node is a host of its own and the rest runs on the host `server`; without one, all share this host's loopback.
    """

    def __init__(self, folder, network=None):
        self.folder, self.network = folder, network
        self.host, self.bind = ("localhost", "127.0.0.1") if network is None else (SERVER, "0.0.0.0")
        self.port = free_port()
        self.nodes = {}
        self._processes = {}
        self._logs = {}
        self._env = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "NO_COLOR": "1",
        }
        (folder / "flwr").mkdir()

    def here(self, text):
        """Put this fleet's addresses and folders in place of the guide's."""
        places = {SERVER: self.host, "0.0.0.0": self.bind, "9092": str(self.port)}
        places |= {"/srv/fleet": str(self.folder), "examples/flower_app": str(self.folder / "app")}
        for theirs, ours in places.items():
            text = text.replace(theirs, ours)
        return text

    def command(self, start, **changes):
        """Return the guide's command that starts so, as arguments."""
        text = self.here(guide_block(start))
        for theirs, ours in changes.items():
            text = text.replace(theirs.replace("_", "-"), ours)
        return shlex.split(text.replace("\\\n", " "))

    def prepare(self, names):
        """Make certificates and keys, and the file in which flwr finds the SuperLink."""
        subprocess.run(
            ["bash", "-euc", self.here(guide_block("openssl"))], cwd=self.folder, check=True, capture_output=True
        )
        for name in names:
            command = self.command("ssh-keygen", node_0=name)
            subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
        (self.folder / "flwr" / "config.toml").write_text(self.here(guide_block("[superlink")), encoding="utf-8")

    def register(self, name, timeout_s):
        """Admit a node and return its id."""
        command = [*self.command("flwr supernode register", node_0=name), "--format", "json"]
        done = subprocess.run(
            [*self.inside("server"), *command],
            cwd=self.folder,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        match = re.search(r'"node-id": "?(\d+)', done.stdout)
        assert match, done.stdout + done.stderr
        self.nodes[name] = int(match[1])
        return self.nodes[name]

    def inside(self, host):
        return () if self.network is None else self.network.inside(host)

    def start(self, name, command, *, host="server"):
        """Start a process, its output going to NAME.log."""
        self._logs[name] = log = self.folder / f"{name}.log"
        with log.open("ab") as out:
            self._processes[name] = subprocess.Popen(
                [*self.inside(host), *command],
                cwd=self.folder,
                env=self._env,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def start_superlink(self, timeout_s, command=None):
        before = self.log("superlink").count("Uvicorn running") if "superlink" in self._logs else 0
        self.start("superlink", command or self.command("flower-superlink"))
        self.wait_for(lambda: self.log("superlink").count("Uvicorn running") > before, timeout_s, "superlink")

    def start_node(self, name, node_config):
        """Start a SuperNode with the guide's options on the host of its name."""
        program, *options = self.command("flower-supernode", node_0=name)
        assert program == "flower-supernode"
        command = [sys.executable, str(NODE_PROGRAM), *options]
        command[command.index("--port") + 1] = str(free_port())
        command[command.index("--node-config") + 1] = node_config
        self.start(name, command, host=name)

    def log(self, name):
        return self._logs[name].read_text(encoding="utf-8", errors="replace")

    def wait_for(self, condition, timeout_s, *names):
        """Wait until a condition holds; fail with the logs if it does not, or if a process it rests on has ended."""
        end = time.monotonic() + timeout_s
        while not condition():
            ended = [name for name in names if self._processes[name].poll() is not None]
            assert not ended, f"{ended} ended\n{self.tails()}"
            assert time.monotonic() < end, f"not within {timeout_s} s\n{self.tails()}"
            time.sleep(0.1)

    def wait(self, name, timeout_s):
        """Wait for a process to end by itself and return its exit status."""
        try:
            return self._processes[name].wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} did not end within {timeout_s} s\n{self.tails()}") from None

    def tails(self):
        return "\n".join(f"--- {name}\n{self.log(name)[-3000:]}" for name in self._logs)

    def kill(self, name):
        """End a process and all that it started, at once and without warning."""
        process = self._processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)

    def close(self):
        for name in list(self._processes):
            self.kill(name)
