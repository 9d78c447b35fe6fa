"""What a priced step is made of, and what is not claimed of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from cwmp_costmodels.errors import FitError, ProfileError
from cwmp_costmodels.fit.conformal import quantile
from cwmp_costmodels.operators.measured import CALL_S, WHOLE, fit_operators
from cwmp_costmodels.operators.pricing import OperatorPrices
from cwmp_costmodels.operators.scale import COMMON, LEAST, measured_scale, regressed_scale
from cwmp_costmodels.profile.files import load_profile
from cwmp_costmodels.profile.schema import Coefficient
from cwmp_profiler.operators import wholes
from cwmp_profiler.operators.block_records import KINDS, BlockRecord, OperatorRecord, PowerRecord, TimeRecord
from cwmp_profiler.operators.physics import physics_of
from cwmp_profiler.operators.records import OperatorsFile, OperatorsHeader
from cwmp_profiler.operators.trace import trace
from cwmp_profiler.operators.training import training_step
from cwmp_profiler.sessions.measurements import MeterRecord

OVERHEAD = {"forward": 5e-6, "backward": 2e-6, "update": 3e-6, "view": 1e-6, "cold": 7e-6, "step": 6e-5, "alone": 4e-6}
FLOPS_S = 2e-11
BYTES_S = 3e-10
FAULT_S = 2e-6


def truth_s(operator) -> float:
    """Time of a simulated device: linear in operations and bytes."""
    physics = physics_of(operator)
    return FLOPS_S * (physics.flops + physics.elements) + BYTES_S * physics.bytes


def _time(seconds: float) -> TimeRecord:
    return TimeRecord(seconds=seconds, low=0.98 * seconds, high=1.02 * seconds, processor_s=seconds, samples=9, quiet=9)


def record(name: str, step, **params) -> BlockRecord:
    """Return the block that a device of known times would have measured."""
    traced = trace(step)
    phases: dict = {}
    for call in traced.calls:
        times = phases.setdefault(call.operator, {})
        times[call.phase] = times.get(call.phase, 0) + 1
    floor = 2e-6
    operators = [
        OperatorRecord(operator=operator.to_json(), times=times, time=_time(truth_s(operator) + floor))
        for operator, times in phases.items()
    ]
    block = BlockRecord(
        block=name, params=params, operators=operators, views=traced.views, touched_bytes=traced.touched_bytes, floor_s=floor,
        fault_s=FAULT_S, step=_time(1.0), reference_s=1e-4, spent_s=1.0,
    )  # fmt: skip
    whole = sum(truth_s(op) * sum(times.values()) for op, times in phases.items()) + sum(
        OVERHEAD[kind] * block.calls[kind] for kind in KINDS
    )
    return block.model_copy(update={"step": _time(whole)})


def _net(width: int, depth: int, rows: int, optimizer: str = "sgd"):
    torch.manual_seed(width)
    layers = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth)]
    return training_step(nn.Sequential(*layers), (torch.randn(rows, width),), optimizer=optimizer)


@pytest.fixture(scope="module")
def profile():
    base = load_profile("simulated-board")
    times = {name: base.times[name] for name in base.times}
    return base.model_copy(update={"times": times})


@pytest.fixture(scope="module")
def blocks():
    from cwmp_profiler.operators.overhead import overhead_steps

    beside = [record(name, step) for name, step in overhead_steps()]
    widths = (16, 24, 40, 56, 72, 96, 128, 160, 200, 256, 320, 384)
    plan = [
        record(f"net/{n}", _net(w, 1 + n % 3, 8 * (1 + n), ("sgd", "momentum")[n % 2]), plan="families")
        for n, w in enumerate(widths)
    ]
    return beside, plan


def _file(profile, blocks, **environment) -> OperatorsFile:
    info = profile.device.info()
    header = OperatorsHeader(
        created="2026-11-25T00:00:00+00:00", tool="t", session="s", device=info.to_json(),
        meter=MeterRecord(name="m", provenance="simulated", rails=[]), environment={"torch": "2", "torch_threads": 1, **environment},
    )  # fmt: skip
    from pathlib import Path

    return OperatorsFile(path=Path("ops.jsonl"), header=header, blocks=tuple(blocks), torn=False, sha256="0")


@pytest.fixture(scope="module")
def fitted(profile, blocks):
    beside, plan = blocks
    named = record("net", _net(112, 3, 48), model="net")
    found = fit_operators([_file(profile, [*beside, *plan, named])], profile)
    return profile.model_copy(update={"operators": found})


def test_overheads_of_a_device_of_known_times_are_found(fitted):
    for kind in ("forward", "update", "view", "alone"):
        assert fitted.operators.overhead_s[kind] == pytest.approx(OVERHEAD[kind], rel=0.2)


def test_an_update_alone_starts_no_backward_pass_and_is_not_charged_one(fitted):
    parameter, gradient = torch.rand(64), torch.rand(64)
    traced = trace(lambda: parameter.add_(gradient, alpha=-1e-6))
    cost = OperatorPrices(fitted).price(traced)
    assert cost.beside_s == pytest.approx(OVERHEAD["alone"], rel=0.05)
    older = {kind: seconds for kind, seconds in fitted.operators.overhead_s.items() if kind != "alone"}
    before = fitted.model_copy(update={"operators": fitted.operators.model_copy(update={"overhead_s": older})})
    assert OperatorPrices(before).price(traced).beside_s == pytest.approx(older["forward"]), "a profile made before"


def test_an_update_without_an_optimiser_is_not_charged_its_books(fitted):
    overhead = {"update": 1.0, "alone": 1e-3}
    priced = fitted.model_copy(update={"operators": fitted.operators.model_copy(update={"overhead_s": overhead})})
    model, x = nn.Linear(64, 64), torch.randn(8, 64)
    for density, phase, kind in ((1.0, "update", "update"), (0.5, "bare", "alone")):
        traced = trace(training_step(model, (x,), optimizer="momentum", density=density))
        calls = sum(call.phase == phase for call in traced.calls)
        assert calls >= 4
        assert OperatorPrices(priced).price(traced).beside_s == pytest.approx(calls * overhead[kind])


def test_a_named_model_is_priced_by_what_was_measured_of_it(fitted):
    step = _net(112, 3, 48)
    traced = trace(step)
    cost = OperatorPrices(fitted).price(traced)
    truth = record("again", step).step.seconds
    assert cost.measured_share > 0.95
    assert cost.seconds - cost.faults_s == pytest.approx(truth, rel=0.05)
    assert cost.low_s <= cost.seconds <= cost.high_s


def test_a_model_nobody_measured_is_priced_by_families_inside_its_interval(fitted):
    step = _net(144, 2, 40)
    cost = OperatorPrices(fitted, use_models=False).price(trace(step))
    truth = record("new", step).step.seconds + cost.faults_s
    assert cost.measured_share == 0
    assert cost.claimed
    assert cost.low_s <= truth <= cost.high_s
    assert cost.seconds == pytest.approx(truth, rel=0.15)


def test_what_no_family_knows_is_said_and_nothing_is_claimed(fitted):
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16))
    cost = OperatorPrices(fitted).price(trace(training_step(model, (torch.randn(4, 3, 24, 24),))))
    assert not cost.claimed
    assert cost.outside_share > 0.1
    assert cost.to_json()["seconds"] is None
    assert any("family conv was never measured" in why for whys in cost.outside().values() for why in whys)


def test_shapes_far_outside_of_those_measured_are_said(fitted):
    cost = OperatorPrices(fitted, use_models=False).price(trace(_net(1500, 1, 4)))
    assert not cost.claimed
    assert any("measured from" in why for whys in cost.outside().values() for why in whys)


def test_the_meters_slope_widens_joules_and_not_seconds(fitted):
    slope = Coefficient(value=1.0, low=0.9, high=1.1, unit="1", status="identified")
    meter = fitted.meter.model_copy(update={"slope": slope, "reference": "better"})
    traced = trace(_net(112, 3, 48))
    plain = OperatorPrices(fitted).price(traced)
    wide = OperatorPrices(fitted.model_copy(update={"meter": meter})).price(traced)
    assert (wide.low_s, wide.high_s) == (plain.low_s, plain.high_s)
    expected = math.hypot(math.log(plain.high_j / plain.energy_j), 0.1)
    assert math.log(wide.high_j / wide.energy_j) == pytest.approx(expected)


def test_watts_of_meter_windows_pull_a_familys_power(profile, blocks):
    beside, _ = blocks
    hot = record("hot", _net(112, 3, 48), model="hot")
    static = profile.coefficients["static_power"].value
    device = profile.device.info()
    gemms = [each.described().family == "gemm" for each in hot.operators]

    def watts(each) -> float:
        counts = physics_of(each.described()).counts(device)
        joules = sum(profile.coefficients[n].value * x for n, x in counts.items() if n in profile.coefficients)
        return static + 2 * joules / sum(profile.times[n].value * x for n, x in counts.items() if n in profile.times)

    operators = [
        each.model_copy(update={"power": [PowerRecord(energy_j=watts(each), duration_s=1.0, runs=9)]}) if gemm else each
        for each, gemm in zip(hot.operators, gemms, strict=True)
    ]
    found = fit_operators([_file(profile, [*beside, hot.model_copy(update={"operators": operators})])], profile)
    count = sum(gemms)
    assert found.power_ratio["gemm"] == pytest.approx(2 ** (count / (count + 2)))
    assert "elementwise" not in found.power_ratio


def test_files_of_another_device_or_software_are_refused(profile, blocks):
    beside, plan = blocks
    with pytest.raises(FitError, match="torch is '3' there and '2' here"):
        fit_operators([_file(profile, beside), _file(profile, plan, torch="3")], profile)
    other = profile.model_copy(update={"device": profile.device.model_copy(update={"model": "another"})})
    with pytest.raises(FitError, match=r"device\.model is"):
        fit_operators([_file(profile, beside)], other)


def test_a_file_without_steps_for_overheads_is_refused(profile, blocks):
    with pytest.raises(FitError, match="no steps that tell what calls cost"):
        fit_operators([_file(profile, blocks[1])], profile)


def test_a_profile_without_operators_prices_no_step(profile):
    with pytest.raises(ProfileError, match="measure --model SPEC"):
        OperatorPrices(profile)


def test_a_block_of_which_nothing_would_be_claimed_makes_no_interval_wider(profile, blocks):
    beside, plan = blocks
    huge = record("net/huge", _net(2200, 1, 4), plan="families")
    found = fit_operators([_file(profile, [*beside, *plan, huge])], profile)
    held = {kind: {error.block for error in found.errors if error.kind == kind} for kind in ("measured", "families")}
    assert "net/huge" in held["measured"]
    assert "net/huge" not in held["families"]
    assert len(held["families"]) >= len(plan) // 2


def test_whole_networks_say_how_wide_intervals_are_and_teach_no_family(profile, blocks):
    """Their steps took a fifth longer than their operators alone: among hundreds of blocks that did not, this must not drown."""
    beside, plan = blocks
    assert f"{wholes.WHOLE}/" == WHOLE
    networks = [record(f"{WHOLE}{n}", _net(w, 6, 24), plan="families") for n, w in enumerate((48, 88, 144))]
    slower = [
        block.model_copy(update={"step": _time(block.step.seconds * factor)})
        for block, factor in zip(networks, (1.0, 1.1, 1.2), strict=True)
    ]
    without = fit_operators([_file(profile, [*beside, *plan])], profile)
    found = fit_operators([_file(profile, [*beside, *plan, *slower])], profile)
    assert found.families == without.families
    assert found.models == {}
    for kind in ("measured", "families"):
        errors = {error.block: error for error in found.errors if error.kind == kind}
        assert {f"{WHOLE}{n}" for n in range(3)} <= set(errors), kind
        assert errors[f"{WHOLE}2"].log_error - errors[f"{WHOLE}0"].log_error == pytest.approx(math.log(1.2), abs=0.08)
    named = record("net", _net(112, 3, 48), model="net")
    traced = trace(_net(112, 3, 48))
    narrow, wide = (
        OperatorPrices(
            profile.model_copy(
                update={"operators": fit_operators([_file(profile, [*beside, *plan, *more, named])], profile)}
            )
        ).price(traced)
        for more in ((), slower)
    )
    scores = [
        abs(error.log_error) / error.scale
        for error in found.errors
        if error.kind == "measured" and error.block.startswith(WHOLE)
    ]
    assert wide.seconds == pytest.approx(narrow.seconds)
    assert math.log(wide.high_s / wide.seconds) > 2 * math.log(narrow.high_s / narrow.seconds)
    scale = measured_scale([(part.seconds * part.runs, part.error) for part in wide.parts], wide.beside_s)
    assert math.log(wide.high_s / wide.seconds) == pytest.approx(quantile(scores) * scale)
    by_families = OperatorPrices(profile.model_copy(update={"operators": found}), use_models=False).price(traced)
    blocks_alone = OperatorPrices(profile.model_copy(update={"operators": without}), use_models=False).price(traced)
    assert (by_families.low_s, by_families.high_s) == (blocks_alone.low_s, blocks_alone.high_s)


def test_errors_of_one_family_add_up_in_part_and_of_several_by_squares():
    one = regressed_scale([("a", 1.0, 0.1)] * 4, 0.0)
    several = regressed_scale([(name, 1.0, 0.1) for name in "abcd"], 0.0)
    assert one == pytest.approx(math.sqrt(LEAST**2 + (COMMON * 0.1) ** 2 + (1 - COMMON**2) * 0.01 / 4))
    assert several == pytest.approx(math.sqrt(LEAST**2 + 0.01 / 4))
    assert CALL_S > 0
