"""A session counts by the caches that were measured, and a continued one by those of its file."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from cwmp_cli.options.residency import held_device, settle_levels, text_of
from cwmp_profiler.device_info import DeviceInfo, Level
from cwmp_profiler.devices import residency

SIZES = ((32 << 10, 1 << 20, 32 << 20), (32 << 10, 1 << 20, 4 << 20))


def info(sizes, **details) -> DeviceInfo:
    levels = [Level(name=f"l{i + 1}", capacity_bytes=size) for i, size in enumerate(sizes)]
    return DeviceInfo(
        kind="cpu", model="m", levels=(*levels, Level(name="dram", capacity_bytes=None)), details={"torch_device": "cpu", **details}
    )  # fmt: skip


def test_a_new_session_measures_and_says_what_is_odd(monkeypatch):
    curve = [
        (int(8192 * 2 ** (i / 4)), 2e-9 if i < 9 else 5e-9 if i < 29 else 15e-9 if i < 37 else 120e-9)
        for i in range(57)
    ]
    monkeypatch.setattr(residency, "available", lambda: True)
    monkeypatch.setattr(residency, "latency_curve", lambda *args, **kwargs: curve)
    device, said = SimpleNamespace(info=info(SIZES[0])), []
    settle_levels(device, say=said.append)
    assert device.info.levels[2].capacity_bytes == 4 << 20
    assert "l3 holds 4,096 KiB by measured latency, not the 32,768 KiB reported" in said[0]


def test_a_continued_session_takes_the_caches_of_its_file(monkeypatch):
    monkeypatch.setattr(residency, "latency_curve", lambda *args, **kwargs: 1 / 0)
    told = {"source": "measured", "reported": {"l1": 32 << 10, "l2": 1 << 20, "l3": 32 << 20}, "remark": ""}
    device = SimpleNamespace(info=info(SIZES[0]))
    settle_levels(device, info(SIZES[1], residency=told, cold_write_s={"sgd": {"first": 4e-5}}), say=lambda _: None)
    assert device.info.levels[2].capacity_bytes == 4 << 20
    assert device.info.details["residency"] == told
    assert device.info.details["cold_write_s"] == {"sgd": {"first": 4e-5}}


def test_a_continued_session_that_never_measured_them_stays_as_reported(monkeypatch):
    monkeypatch.setattr(residency, "latency_curve", lambda *args, **kwargs: 1 / 0)
    device = SimpleNamespace(info=info(SIZES[0]))
    settle_levels(device, replace(info(SIZES[0])), say=lambda _: None)
    assert device.info == info(SIZES[0])


def test_what_is_no_session_tells_no_device(tmp_path):
    assert held_device("") is None
    assert held_device('{"a": 1}\n') is None
    assert text_of(tmp_path / "none.jsonl") == ""
