"""Verbs `radio-sink` and `radios`."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress

import pytest

from cwmp_cli.app import main
from cwmp_profiler.radio.link import RadioLink


def start(*options):
    process = subprocess.Popen(
        [sys.executable, "-m", "cwmp_cli.app", "radio-sink", "--host", "127.0.0.1", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stderr.readline()
    found = re.search(r"port (\d+)", line)
    assert found, line + process.stderr.read()
    return process, int(found[1]), line


def stop(process, how=signal.SIGINT):
    process.send_signal(how)
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


def test_the_sink_receives_says_what_and_ends_clean_on_ctrl_c():
    process, port, _ = start()
    with RadioLink(f"127.0.0.1:{port}") as link:
        link.send(100_000)
        link.receive(5000)
    with RadioLink(f"127.0.0.1:{port}", "udp") as link:
        link.send(3000)
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"." * 20)
        stranger.settimeout(5)
        with suppress(ConnectionResetError):
            stranger.recv(10)
    status, out, err = stop(process)
    assert status == 0
    assert "Traceback" not in err
    assert "refused tcp 127.0.0.1:" in err
    assert re.search(r"tcp from 127\.0\.0\.1:\d+: 1 transfers, 100000 B", out)
    assert "3 transfers: 103000 B received, 5000 B sent; 1 refused" in out


def test_a_limit_on_the_size_is_told_to_the_sender():
    process, port, line = start("--max-mb", "0.001", "--no-udp")
    with RadioLink(f"127.0.0.1:{port}") as link, pytest.raises(Exception, match="larger --max-mb"):
        link.send(1001)
    status, _, err = stop(process, signal.SIGTERM)
    assert status == 0
    assert "(tcp)" in line
    assert "refused tcp" in err


def test_nothing_to_serve_is_wrong_usage(capsys):
    assert main(["radio-sink", "--no-tcp", "--no-udp"]) == 2


def test_a_taken_port_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["radio-sink", "--host", "127.0.0.1", "--port", str(taken.getsockname()[1]), "--no-udp"]) == 1
    err = capsys.readouterr().err
    assert re.fullmatch(
        r"error: cannot listen on 127\.0\.0\.1 port \d+: Address already in use; give another --port or --host\n", err
    )


def test_radios_lists_every_preset(capsys):
    assert main(["radios"]) == 0
    out = capsys.readouterr().out
    for name in ("lte", "5g-mmwave", "lorawan-eu868-dr0", "shannon", "nr-tr38840"):
        assert name in out
    assert "literature *" in out
    assert "(unverified)" in out


def test_radios_json_gives_figures_or_says_what_is_missing(capsys):
    assert main(["radios", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["radios"]}
    assert rows["lte"]["up_j_per_bit"] == pytest.approx(42.673017e-6 / 64, rel=1e-6)
    assert rows["lte"]["burst_j"] == pytest.approx(0.31490307 + 12.27056, rel=1e-6)
    assert rows["nr-tr38840"]["up_j_per_bit"] is None
    assert "unit_w" in rows["nr-tr38840"]["needs"][0]
    assert any("lower bound" in note for note in rows["lte-2021"]["warnings"])


def test_one_radio_is_shown_with_source_and_remarks(capsys):
    assert main(["radios", "first-order:distance_m=100"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Heinzelman" in out
    assert "180.0 nJ/bit" in out
    assert "set by the user: distance_m=100" in out
    assert main(["radios", "simulated", "--profile", "simulated-board", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"] == "simulated"


def test_an_unknown_radio_is_one_line(capsys):
    assert main(["radios", "lte-2099"]) == 1
    assert capsys.readouterr().err.startswith("error: no radio 'lte-2099': no such file, the presets are 3g,")


def test_measure_fit_and_radios_end_in_the_radio_of_the_simulated_board(tmp_path, capsys):
    """The truth: 45 nJ/bit and 0.55 W up, a lone burst of 0.318 J."""
    session, profile = tmp_path / "s.jsonl", tmp_path / "board.json"
    assert (
        main(["measure", "--device", "simulated", "--preset", "quick", "--radio-sink", "simulated", "-o", str(session)])
        == 0
    )
    assert main(["fit", str(session), "-o", str(profile)]) == 0
    capsys.readouterr()
    assert main(["radios", "radio-tcp", "--profile", str(profile), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["provenance"] == "simulated"
    assert found["burst_j"] == pytest.approx(0.318, rel=0.3)
    low, high = found["radio"]["intervals"]["burst_j"]
    assert low < found["burst_j"] * 1.05
    assert high > found["burst_j"] * 0.95
    assert found["up_j_per_bit"] == pytest.approx(4.5e-8 + 0.55 / found["up_rate_bps"], rel=0.1)
