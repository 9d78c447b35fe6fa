"""Small device profiles with round numbers, so that costs can be worked out by hand."""

from cwmp_costmodels.profile.schema import Coefficient, DeviceBlock, LayerCoefficient, LevelBlock, MeterBlock, Profile

DRAM_LINE, CACHE_LINE = 1e-7, 1e-9


def coefficient(value, unit="J", **more):
    return Coefficient(value=value, unit=unit, status=more.pop("status", "given"), **more)


def factor(value, time=None):
    return LayerCoefficient(factor=coefficient(value, "1"), time_factor=time and coefficient(time, "1"), windows=0)


def make_profile(
    *,
    energy=None,
    times=None,
    layers=None,
    provenance="simulated",
    cache_bytes=1 << 20,
    line_bytes=64,
    fit=None,
    radios=None,
):
    """A device with one cache and DRAM. Energy per DRAM line 100 nJ, per cache line 1 nJ, launch 1 uJ, 1 W static."""
    values = {
        "static_power": 1.0, "launch": 1e-6, "flop_float32": 1e-12, "elem_float32": 1e-11,
        "l2_read": 1e-11, "l2_write": 2e-11, "l2_line": CACHE_LINE,
        "dram_read": 1e-10, "dram_write": 2e-10, "dram_line": DRAM_LINE,
    }  # fmt: skip
    values = values if energy is None else energy
    if times is None:
        times = dict.fromkeys(values.keys() - {"static_power"}, 1e-9)
    levels = [LevelBlock(name="l2", capacity_bytes=cache_bytes), LevelBlock(name="dram")]
    return Profile(
        name="bench",
        provenance=provenance,
        created="2026-01-01T00:00:00Z",
        tool="tests",
        device=DeviceBlock(
            kind="simulated", model="bench", levels=levels if cache_bytes else levels[1:], line_bytes=line_bytes,
            memory_bytes=1 << 30, threads=1, dtypes=["float32"],
        ),
        meter=MeterBlock(name="simulated", provenance=provenance),
        coefficients={name: coefficient(value) for name, value in values.items()},
        times={name: coefficient(value, "s") for name, value in times.items()},
        layers=layers or {},
        fit=fit,
        radios=radios or {},
    )  # fmt: skip
