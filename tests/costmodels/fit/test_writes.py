"""Prices of the compiled loops' parts are found again from windows that hold them only in sum."""

import numpy as np
import pytest

from cwmp_costmodels.fit.samples import Samples
from cwmp_costmodels.fit.writes import fit_writes
from cwmp_costmodels.profile.writes import ADD, PARTS, part_factors, split, together
from cwmp_profiler.counts import random_places, scale
from cwmp_profiler.device_info import DeviceInfo, Level
from cwmp_profiler.sessions.measurements import Window
from cwmp_profiler.workloads import WORKLOADS

DEVICE = DeviceInfo(
    kind="cpu",
    model="known",
    levels=(Level(name="l2", capacity_bytes=1 << 20), Level(name="dram", capacity_bytes=None)),
    details={"processor_caches": True},
)
POWER_W, JOULES_OF_A_SECOND = 2.0, 3.0
SECONDS = {
    "launch": 1e-6, "index": 1e-9, "elem_float32": 1e-11, "div_float32": 2e-10, "l2_read": 1e-11, "l2_write": 1e-11, "l2_line": 1e-9,
    "dram_read": 5e-11, "dram_write": 5e-11, "dram_line": 1.5e-8,
}  # fmt: skip
TRUTH = {"call": 6.0, "work": 0.8, "run": 3.0, "line": 0.5, "streamed": 1.7, "given": 1.0}
SIZES = (2048, 36_864, 4_194_304, 7_813_632)


def windows_of(optimizer, *, modes=("entries", "lines"), noise=0.0, sizes=SIZES):
    """Windows of a device whose parts cost TRUTH times what the main fit says, memory and work in time together; joules are those of all parts."""
    rng, found = np.random.default_rng(1), []
    for n in sizes:
        for mode in modes:
            for density in (0.01, 0.1, 0.5):
                params = {
                    "layer": "linear", "shape": [n], "n": n, "optimizer": optimizer, "mode": mode, "density": density,
                }  # fmt: skip
                k = int(n * density) // 16 * 16 if mode == "lines" else int(n * density)
                places = random_places(n, k, whole_lines=mode == "lines")
                counts = scale(WORKLOADS["update.step"].counts(params, DEVICE), 1000.0)
                by_part = split(counts, places, line_entries=16, line_bytes=64)
                alone = {
                    part: TRUTH[part] * sum(SECONDS[name] * amount for name, amount in own.items())
                    for part, own in by_part.items()
                }
                memory = sum(alone[part] for part in ("given", "line", "streamed"))
                seconds = alone["call"] + alone["run"] + (alone["work"] ** 3 + memory**3) ** (1 / 3)
                off = 1 + noise * rng.standard_normal()
                seconds *= off
                joules = POWER_W * seconds + JOULES_OF_A_SECOND * off * sum(alone.values())
                found.append(
                    Window(
                        window=len(found), point=f"{mode}{n}{density}", repeat=0, family="update", workload="update.step", params=params,
                        iterations=1000, counts=counts, t_start_s=float(len(found)), duration_s=seconds, energy_j=joules,
                        rails={},
                    )
                )  # fmt: skip
    return found


def fitted(windows, *, attributed=False):
    names = tuple(SECONDS)
    time = np.array([SECONDS[name] for name in names])
    energy = np.concatenate([[POWER_W], 0.0 * time if attributed else JOULES_OF_A_SECOND * time])
    return fit_writes(Samples.build(windows, names), energy=energy, time=time, attributed=attributed)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_parts_are_told_apart_where_a_size_holds_them(optimizer):
    """Beyond the cache all parts are found, in joules and in seconds, within the noise of 2%."""
    writes = fitted(windows_of(optimizer, noise=0.02))[optimizer]
    assert writes.entries == sorted(SIZES)
    for found in (writes.factor, writes.time_factor):
        for part in PARTS:
            assert found[part][-1] == pytest.approx(TRUTH[part], rel=0.15), part
        assert found["call"] == [found["call"][0]] * 4, "a call costs the same at any size"
        assert found["call"][0] == pytest.approx(TRUTH["call"], rel=0.03)


def test_between_sizes_factors_are_interpolated_and_beyond_the_largest_the_last_counts():
    writes = fitted(windows_of("sgd"))["sgd"]
    changed = writes.model_copy(update={"factor": {**writes.factor, "line": [1.0, 1.0, 1.0, 3.0]}})
    middle = (SIZES[2] * SIZES[3]) ** 0.5
    assert part_factors(changed, middle, "sgd")["line"].value == pytest.approx(2.0)
    assert part_factors(changed, float("inf"), "sgd")["line"].value == pytest.approx(3.0)


def test_with_an_estimating_meter_factors_are_those_of_time():
    writes = fitted(windows_of("sgd"), attributed=True)["sgd"]
    assert writes.factor == writes.time_factor


def test_a_receivers_addition_has_parts_of_its_own():
    """Half as dear as the step whose counts it has, which a profile says under a name of its own."""
    steps = windows_of("sgd")
    added = [
        w.model_copy(
            update={
                "params": {**w.params, "mode": {"entries": "added", "lines": "added-lines"}[w.params["mode"]]},
                "point": f"added{w.point}",
                "duration_s": w.duration_s / 2,
                "energy_j": w.energy_j / 2,
            }
        )
        for w in steps
    ]
    found = fitted([*steps, *added])
    assert set(found) == {"sgd", ADD}
    assert found[ADD].time_factor["call"][0] == pytest.approx(TRUTH["call"] / 2, rel=0.05)
    assert found["sgd"].time_factor["call"][0] == pytest.approx(TRUTH["call"], rel=0.05)


def test_what_goes_on_together_takes_between_the_longer_and_the_sum():
    assert float(together(3.0, 0.0)) == 3.0
    assert float(together(0.0, 0.0)) == 0.0
    assert float(together(2.0, 2.0)) == pytest.approx(2.0 * 2 ** (1 / 3))
    work, memory = np.random.default_rng(0).uniform(0, 1, (2, 100))
    found = together(work, memory)
    assert ((found >= np.maximum(work, memory)) & (found <= work + memory)).all()


def test_entries_without_lines_tell_no_parts():
    assert fitted(windows_of("sgd", modes=("entries",))) == {}


def test_compiled_writes_say_what_sizes_left_out_were_missed_by():
    """Of parts that cost the same at every size nothing is missed but noise; a size that is odd by half is seen."""
    exact, noisy = fitted(windows_of("sgd"))["sgd"], fitted(windows_of("sgd", noise=0.02))["sgd"]
    assert exact.time_error < noisy.time_error < 0.3
    windows = windows_of("sgd")
    odd = [w.model_copy(update={"duration_s": w.duration_s * 1.5}) if w.params["n"] == SIZES[1] else w for w in windows]
    assert fitted(odd)["sgd"].time_error > 0.2
    assert part_factors(noisy, SIZES[1], "sgd")["line"].error == pytest.approx(np.expm1(noisy.error / 2))
    assert fitted(windows_of("sgd", sizes=SIZES[:1]))["sgd"].error is None
