"""An estimate charges the processor seconds of the work, a meter's reading stays what it was."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cwmp_profiler.device_info import DeviceInfo, Level
from cwmp_profiler.joules.energy import Energy, RailEnergy
from cwmp_profiler.provenance import Provenance
from cwmp_profiler.sessions.session import Session


def _session(provenance: Provenance, *, threads: int = 1) -> Session:
    info = DeviceInfo(
        kind="cpu",
        model="m",
        levels=(Level(name="dram", capacity_bytes=None),),
        threads=threads,
        details={"torch_device": "cpu"},
    )
    return Session(SimpleNamespace(info=info), SimpleNamespace(provenance=provenance), None)


def _energy() -> Energy:
    rail = RailEnergy(name="cpu", energy_j=20.0, first=10.0, last=10.0, wraps=0, samples=3, moved=True)
    return Energy(
        t_start_s=0.0,
        duration_s=2.0,
        rails={"cpu": rail},
        energy_j=20.0,
        reads=3,
        read_s=0.0,
        read_cpu_s=0.0,
        longest_gap_s=1.0,
    )


def test_what_others_took_meanwhile_is_not_charged():
    found = _session(Provenance.ESTIMATED)._charged(_energy(), 0.5)
    assert (found.duration_s, found.energy_j, found.rails["cpu"].energy_j) == (0.5, 5.0, 5.0)


@pytest.mark.parametrize(
    ("provenance", "threads", "used_s"),
    [
        (Provenance.MEASURED, 1, 0.5),
        (Provenance.ESTIMATED, 2, 0.5),
        (Provenance.ESTIMATED, 1, 2.5),
        (Provenance.ESTIMATED, 1, 0.0),
    ],
)
def test_joules_that_were_read_and_times_of_several_threads_stay(provenance, threads, used_s):
    energy = _energy()
    assert _session(provenance, threads=threads)._charged(energy, used_s) == energy
