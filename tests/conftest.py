"""Torch on one thread unless a test says otherwise, no telemetry, property tests that draw the same each time, and skips that are decisions.

The same draws each time, so that a change fails for what it changed; `make fuzz` draws new ones.
Where tests run side by side (`pytest -n`), one that is marked `alone` waits until no other runs, and none begins meanwhile.
Where CWMP_SKIPS_ALLOWED names a file of regular expressions, a skipped test whose reason matches none of them fails the run.
"""

import fcntl
import os
import re
import signal
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in ("FLWR_TELEMETRY_ENABLED",):
    os.environ[name] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

# A shell starts background jobs with Ctrl-C ignored, and programs that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("same", derandomize=True)
settings.register_profile("fuzz", derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("CWMP_HYPOTHESIS", "same"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    """Hold the machine while a test runs, alone or with others; who waits to be alone lets nobody else begin."""
    alone = item.get_closest_marker("alone") is not None
    door, room = (os.open(path, os.O_RDONLY) for path in (__file__, Path(__file__).parent))
    try:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        return (yield)
    finally:
        os.close(door)
        os.close(room)


_skipped: list[tuple[str, str]] = []


def pytest_runtest_logreport(report):
    if report.skipped and isinstance(report.longrepr, tuple) and not hasattr(report, "wasxfail"):
        _skipped.append((report.nodeid, report.longrepr[2]))


def pytest_collectreport(report):
    if report.skipped and isinstance(report.longrepr, tuple):
        _skipped.append((report.nodeid, report.longrepr[2]))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    allowed = os.environ.get("CWMP_SKIPS_ALLOWED")
    if not allowed:
        return
    lines = Path(allowed).read_text(encoding="utf-8").splitlines()
    patterns = [re.compile(line) for line in lines if line.strip() and not line.startswith("#")]
    refused = [(node, reason) for node, reason in _skipped if not any(p.search(reason) for p in patterns)]
    for node, reason in refused:
        print(f"\nskipped but must run here: {node}: {reason}")
    if refused and session.exitstatus == 0:
        session.exitstatus = 1
