"""A real sshd on loopback for one test: own keys, own configuration, no change to the machine or to the user's files."""

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

SSHD = shutil.which("sshd") or ("/usr/sbin/sshd" if Path("/usr/sbin/sshd").exists() else None)
MISSING = None if SSHD and shutil.which("ssh") and shutil.which("ssh-keygen") else "no OpenSSH server and client"


class Sshd:
    """A running server; `ssh` is the client command that reaches it as host `board`."""

    def __init__(self, folder, *, environment=()):
        self.folder = folder
        for name in ("host", "user", "stranger"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True, timeout=60
            )
        (folder / "authorized").write_text((folder / "user.pub").read_text())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {folder}/host",
            f"AuthorizedKeysFile {folder}/authorized",
            f"PidFile {folder}/pid",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            *(f"SetEnv {name}={value}" for name, value in environment),
        ]
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")
        host_key = (folder / "host.pub").read_text().split()
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {host_key[0]} {host_key[1]}\n")
        self.config("client", "user")
        self.config("stranger_client", "stranger")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=self._log)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((folder / "log").read_text()) from None
                time.sleep(0.05)

    def config(self, name, key, known="known"):
        lines = [
            "Host board",
            "  HostName 127.0.0.1",
            f"  Port {self.port}",
            f"  User {getpass.getuser()}",
            f"  IdentityFile {self.folder}/{key}",
            "  IdentitiesOnly yes",
            f"  UserKnownHostsFile {self.folder}/{known}",
            "  GlobalKnownHostsFile /dev/null",
            "  StrictHostKeyChecking yes",
            "  BatchMode yes",
        ]
        (self.folder / name).write_text("\n".join(lines) + "\n")
        return f"ssh -F {shlex.quote(str(self.folder / name))}"

    @property
    def ssh(self):
        return f"ssh -F {shlex.quote(str(self.folder / 'client'))}"

    def connections(self):
        """Return the process ids of the server's children: one per connection."""
        path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def cut(self):
        """Kill every connection, as when a cable is pulled; the server goes on."""
        for pid in self.connections():
            for child in [*Path(f"/proc/{pid}/task/{pid}/children").read_text().split(), pid]:
                name = Path(f"/proc/{child}/comm").read_text().strip()
                if name.startswith("sshd"):
                    os.kill(int(child), signal.SIGKILL)

    def close(self):
        self._process.terminate()
        self._process.wait(20)
        self._log.close()
