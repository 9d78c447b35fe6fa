"""A third-party meter is one small package: installed beside this one, it is discovered, opened and measured with."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[2] / "data" / "example_meter_plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The example package, installed by pip into a folder of its own."""
    target = tmp_path_factory.mktemp("plugin")
    source = tmp_path_factory.mktemp("source") / "plugin"
    subprocess.run(["cp", "-r", PLUGIN, source], check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run([*pip, "--target", target, source], capture_output=True, text=True, check=False)
    if done.returncode != 0 and ("No module named pip" in done.stderr or "hatchling" in done.stderr):
        pytest.skip(f"pip or hatchling is not in this environment: {done.stderr.strip()[-100:]}")
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def plug():
    """A plug on loopback that counts 36 J with every look."""
    looks = []

    class Plug(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            looks.append(self.path)
            body = json.dumps({"id": 0, "apower": 36.0, "aenergy": {"total": 12.0 + 0.010 * len(looks)}}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Plug)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def run(installed, *command, **variables):
    environ = {**os.environ, "PYTHONPATH": str(installed), **variables}
    return subprocess.run([sys.executable, *command], env=environ, capture_output=True, text=True, check=False)


def entry(done):
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    meters = data["meters"] if isinstance(data, dict) else data
    (found,) = [one for one in meters if (one.get("meter") or one.get("name")) == "shelly"]
    return found


def test_devices_shows_it_with_reason_and_cure(installed):
    found = entry(run(installed, "-m", "cwmp_cli.app", "devices", "--json", SHELLY_URL=""))
    assert found["available"] is False
    assert found["reason"] == "no plug is named"
    assert "SHELLY_URL" in found["cure"]


def test_devices_shows_its_rails_when_the_plug_answers(installed, plug):
    found = entry(run(installed, "-m", "cwmp_cli.app", "devices", "--json", SHELLY_URL=plug))
    assert found["available"] is True


def test_it_opens_through_the_registry_and_counts_joules(installed, plug):
    code = (
        "from cwmp_profiler.meters.base import MeterContext\n"
        "from cwmp_profiler.meters.registry import open_meter\n"
        "from cwmp_profiler.joules.tracker import Tracker\n"
        "with open_meter('shelly', MeterContext()) as meter:\n"
        "    tracker = Tracker(meter); tracker.start(); energy = tracker.stop()\n"
        "print(type(meter).__module__, round(energy.energy_j, 6))\n"
    )
    done = run(installed, "-c", code, SHELLY_URL=plug)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["cwmp_meter_shelly", "36.0"]


def test_a_plug_that_does_not_answer_is_an_error_in_one_line(installed):
    done = run(installed, "-m", "cwmp_cli.app", "devices", "--json", SHELLY_URL="http://127.0.0.1:9")
    assert "does not answer" in entry(done)["reason"]


def test_a_meter_needs_nothing_but_the_public_contract():
    """What plugins import is the package itself: its modules may move."""
    import cwmp_profiler.meters as contract

    source = (PLUGIN / "src/cwmp_meter_shelly/__init__.py").read_text()
    assert not re.findall(r"from cwmp_profiler\.(?!meters import)", source)
    for name in contract.__all__:
        assert getattr(contract, name).__doc__ or name == "Kind"


def test_the_contract_costs_no_library_at_import():
    code = "import sys, cwmp_profiler.meters; print([m for m in ('numpy', 'torch', 'pydantic', 'pynvml') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
