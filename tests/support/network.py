"""A network of namespaces: one for the server with a bridge, one for each node, joined by virtual cables. Needs root and iproute2."""

import os
import shutil
import subprocess
from pathlib import Path

SUBNET = "10.203.77"
NETNS = Path("/etc/netns")


class Network:
    """Every host is a namespace of its own, with a loopback of its own; `close` removes them all.

    The server answers to a name, which every host finds in its own /etc/hosts.
    """

    def __init__(self, server_name, nodes):
        self._tag = f"cwmp{os.getpid()}"
        self._made = []
        self._server_name = server_name
        self.address = f"{SUBNET}.1"
        try:
            self._add("server")
            ip("-n", self._name("server"), "link", "add", "br0", "type", "bridge")
            ip("-n", self._name("server"), "addr", "add", f"{self.address}/24", "dev", "br0")
            ip("-n", self._name("server"), "link", "set", "br0", "up")
            for number, node in enumerate(nodes):
                self._add(node)
                here, there = self._name(node), self._name("server")
                ip("-n", here, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{number}", "netns", there)
                ip("-n", there, "link", "set", f"port{number}", "master", "br0", "up")
                ip("-n", here, "addr", "add", f"{SUBNET}.{number + 2}/24", "dev", "eth0")
                ip("-n", here, "link", "set", "eth0", "up")
        except BaseException:
            self.close()
            raise

    def inside(self, host):
        """Return what goes before a command that is to run on a host."""
        return ("ip", "netns", "exec", self._name(host))

    def close(self):
        for name in self._made:
            shutil.rmtree(NETNS / name, ignore_errors=True)
            ip("netns", "del", name)
        self._made = []

    def _name(self, host):
        return f"{self._tag}-{host}"

    def _add(self, host):
        name = self._name(host)
        ip("netns", "add", name)
        self._made.append(name)
        (NETNS / name).mkdir(parents=True)
        (NETNS / name / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self._server_name}\n")
        ip("-n", name, "link", "set", "lo", "up")


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def why_not():
    """Return why there can be no such network here; an empty text if there can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "network namespaces need root and the command ip"
    try:
        Network("server.example.org", ["probe"]).close()
    except (subprocess.CalledProcessError, OSError) as error:
        return f"network namespaces cannot be made here: {getattr(error, 'stderr', error)}".strip()
    return ""
