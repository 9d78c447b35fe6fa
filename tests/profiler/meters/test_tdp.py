"""Estimates are called estimates, from powers that a maker or the user states, scaled to what the machine shows."""

from __future__ import annotations

import pytest

from cwmp_profiler.meters.base import MeterContext, MeterUnavailableError
from cwmp_profiler.meters.registry import discover, open_meter
from cwmp_profiler.meters.tdp import Factory
from cwmp_profiler.meters.tdp_table import _ROWS, normalised, rated_power
from cwmp_profiler.provenance import Provenance


def machine(folder, model, cpus=4, sockets=1, flags="fpu"):
    lines = [
        f"processor\t: {cpu}\nmodel name\t: {model}\nphysical id\t: {cpu % sockets}\nflags\t\t: {flags}\n"
        for cpu in range(cpus)
    ]
    (folder / "cpuinfo").write_text("\n".join(lines))
    return MeterContext(sysfs_root=folder / "sys", options={"proc_root": folder})


def watts(meter):
    return meter.read().values["cpu"]


@pytest.mark.parametrize(
    ("shown", "power_w", "threads"),
    [
        ("Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz", 150, 40),
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", 120, 28),
        ("Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz", 95, 12),
        ("12th Gen Intel(R) Core(TM) i9-12900K", 125, 24),
        ("AMD EPYC 7763 64-Core Processor", 280, 128),
        ("AMD Ryzen 9 5950X 16-Core Processor", 105, 32),
        ("AMD Ryzen Threadripper 3990X 64-Core Processor", 280, 128),
        ("Intel(R) Xeon(R) Platinum 8480+", 350, 112),
    ],
)
def test_models_are_found_by_the_name_that_the_kernel_shows(shown, power_w, threads):
    found = rated_power(shown)
    assert (found.power_w, found.threads) == (power_w, threads)
    assert found.model in found.source


@pytest.mark.parametrize(
    "shown",
    ["AMD EPYC", "Intel(R) Xeon(R) CPU @ 2.20GHz", "AMD EPYC 7B12", "", "i7-8700K", "Intel(R) Core(TM) i9-14900K"],
)
def test_a_name_that_is_not_a_whole_model_is_unknown(shown):
    assert rated_power(shown) is None


def test_every_row_is_plausible_and_finds_itself():
    for row in _ROWS.values():
        assert 10 <= row.power_w <= 600
        assert 0.5 <= row.power_w / row.threads <= 25
        assert rated_power(row.model) is row
        assert normalised(row.model) == row.model


def test_a_bare_machine_draws_the_rated_power_of_each_socket_even_with_threads_switched_off(tmp_path):
    context = machine(tmp_path, "Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz", cpus=40, sockets=2)
    assert watts(Factory().open(context)) == 300.0


def test_a_virtual_machine_draws_its_share_of_threads_and_says_so(tmp_path):
    meter = Factory().open(machine(tmp_path, "AMD EPYC 7763 64-Core Processor", cpus=8, flags="fpu hypervisor"))
    assert watts(meter) == pytest.approx(280 * 8 / 128)
    assert "8 of 128 threads" in " ".join(meter.notes)


def test_the_users_watts_win_over_the_table(tmp_path):
    context = machine(tmp_path, "AMD EPYC 7763 64-Core Processor")
    meter = Factory().open(MeterContext(tdp_w=12.5, options=context.options))
    assert watts(meter) == 12.5
    assert meter.rails[0].source == "--tdp-w"


@pytest.mark.parametrize("tdp_w", [0.0, -5.0, float("nan"), float("inf"), 1e9])
def test_impossible_watts_are_refused(tdp_w):
    with pytest.raises(MeterUnavailableError, match="not possible"):
        Factory().open(MeterContext(tdp_w=tdp_w))


def test_an_unknown_model_is_unavailable_with_the_cure(tmp_path):
    with pytest.raises(MeterUnavailableError, match=r"'AMD EPYC' is not in the table; give it with --tdp-w"):
        Factory().open(machine(tmp_path, "AMD EPYC"))


def test_auto_falls_back_on_a_stated_assumption_as_the_very_last_choice(tmp_path):
    meter = open_meter(None, machine(tmp_path, "AMD EPYC", cpus=2, flags="fpu hypervisor"))
    assert (meter.name, watts(meter)) == ("tdp", 7.0)
    said = " ".join(meter.notes)
    assert "ESTIMATE, not a measurement" in said
    assert "ASSUMED 3.5 W per logical CPU x 2" in said
    assert "Cloud Carbon Footprint" in said
    assert "wrong by several times" in said


def test_whatever_it_is_made_from_it_is_called_estimated(tmp_path):
    for context in (MeterContext(tdp_w=5.0), machine(tmp_path, "AMD EPYC 7763 64-Core Processor")):
        meter = Factory().open(context)
        assert meter.provenance is Provenance.ESTIMATED
        assert "proportional to time" in meter.notes[0]
    (entry,) = [entry for entry in discover(machine(tmp_path, "unheard of")) if entry.meter == "tdp"]
    assert entry.provenance is Provenance.ESTIMATED
    assert not entry.available
