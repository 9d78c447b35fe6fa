"""Regression of operator families on simulated kernels: what it predicts, how sure it is, and what it refuses to know."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest

from cwmp_costmodels.errors import FitError
from cwmp_costmodels.fit.conformal import quantile
from cwmp_costmodels.operators.family import LEAST_SAMPLES, MARGIN, FamilyModel, fit_family
from cwmp_costmodels.operators.regressors import FEW
from cwmp_costmodels.operators.sample import Sample, by_family, sample_of
from cwmp_costmodels.operators.step import predict_step
from cwmp_profiler.device_info import DeviceInfo, Level
from cwmp_profiler.operators.operator import Operand, Operator

DEVICE = DeviceInfo(
    kind="cpu", model="t", levels=(Level(name="l2", capacity_bytes=1 << 20), Level(name="dram", capacity_bytes=None))
)


def kernel_s(m: int, n: int, k: int) -> float:
    """Seconds of a made-up matrix product: a call, bytes, and operations whose rate grows with the mean side, which no feature tells."""
    mean = (m * n * k) ** (1 / 3)
    rate = 4e10 * mean / (mean + 64)
    return 2e-6 + 4 * (m * k + k * n + m * n) / 1e10 + 2 * m * n * k / rate


def product(m: int, n: int, k: int) -> Operator:
    return Operator(
        name="aten::mm",
        inputs=(Operand.dense(m, k), Operand.dense(k, n)),
        outputs=(Operand.dense(m, n, written=True),),
        arguments=("#0", "#1"),
    )


def products(count: int, *, noise: float = 0.0, seed: int = 0, low: int = 8, high: int = 1024) -> list[Sample]:
    draw = random.Random(f"products/{seed}")
    found = []
    for _ in range(count):
        m, n, k = (round(math.exp(draw.uniform(math.log(low), math.log(high)))) for _ in range(3))
        read = kernel_s(m, n, k) * math.exp(draw.gauss(0, noise))
        found.append(sample_of(product(m, n, k), DEVICE, read, noise=noise))
    return found


def errors(model: FamilyModel, samples: list[Sample]) -> list[float]:
    return [abs(one.value / s.value - 1) for one, s in zip(model.predict_all(samples), samples, strict=True)]


@pytest.mark.parametrize(
    ("count", "kind", "share"), [(60, "process", 0.75), (140, "process", 0.5), (FEW + 1, "trees", 0.6)]
)
def test_a_kernel_that_no_linear_model_holds_is_predicted(count, kind, share):
    model = fit_family(products(count, noise=0.02), folds=3)
    assert (count <= FEW) == (kind == "process") == (model.to_json()["regressor"]["kind"] == "process")
    new = products(200, seed=1)
    found = errors(model, new)
    physics = [abs(model.prior.value(s) / s.value - 1) for s in new]
    assert sum(found) < share * sum(physics), "the regression must explain most of what physics leaves"


@pytest.mark.parametrize("count", [60, FEW + 1])
def test_intervals_hold_what_they_promise_and_follow_the_noise(count):
    widths = []
    for noise in (0.01, 0.1):
        model = fit_family(products(count, noise=noise), folds=5)
        new = products(400, noise=noise, seed=1)
        found = model.predict_all(new)
        held = sum(one.low <= s.value <= one.high for one, s in zip(found, new, strict=True)) / len(new)
        assert 0.90 <= held <= 0.995
        widths.append(sorted(one.high / one.value for one in found)[200] - 1)
    assert widths[1] > 2 * widths[0]


def test_intervals_are_wider_where_neighbours_err():
    """Half of the shapes are read with ten times the noise, and nobody says so: errors on held-out blocks do."""
    draw = random.Random("odd")
    samples = []
    for s in products(200):
        sigma = 0.2 if s.features["log_m"] > 6.5 else 0.02
        samples.append(
            Sample(family="gemm", features=s.features, counts=s.counts, value=s.value * math.exp(draw.gauss(0, sigma)))
        )
    model = fit_family(samples, folds=5)
    found = model.predict_all(products(200, seed=1))
    odd = [one.high / one.value for one, s in zip(found, products(200, seed=1), strict=True) if s.features["log_m"] > 7]
    calm = [
        one.high / one.value for one, s in zip(found, products(200, seed=1), strict=True) if s.features["log_m"] < 6
    ]
    assert math.log(sorted(odd)[len(odd) // 2]) > 1.5 * math.log(sorted(calm)[len(calm) // 2])


def test_a_shape_beyond_the_measured_and_an_unknown_variant_say_so():
    model = fit_family(products(60, high=256))
    assert model.predict(sample_of(product(64, 64, 64), DEVICE)).outside == ()
    far = model.predict(sample_of(product(4096, 64, 64), DEVICE))
    assert any(reason.startswith("log_m 12") for reason in far.outside)
    other = sample_of(product(64, 64, 64), DEVICE)
    strange = Sample(family="gemm", variant="bmm", features=other.features, counts=other.counts)
    assert model.predict(strange).outside == ("variant bmm was never measured",)


@pytest.mark.parametrize("count", [60, FEW + 1])
def test_no_prediction_is_further_from_physics_than_any_sample_is(count):
    model = fit_family(products(count, noise=0.05), folds=3)
    left = [math.log(s.value / model.prior.value(s)) for s in model.samples]
    for side in (1, 7, 1 << 12, 1 << 15):
        sample = sample_of(product(side, side, side), DEVICE)
        found = math.log(
            model.predict(sample).value / max(model.prior.value(sample), min(s.value for s in model.samples) / 2)
        )
        assert min(left) - MARGIN - 0.2 <= found <= max(left) + MARGIN + 0.2


def test_held_out_shapes_at_the_ends_were_outside_of_what_their_fit_saw():
    samples = products(80, high=256)
    model = fit_family(samples, folds=4)
    far = sample_of(product(4096, 4096, 4096), DEVICE, kernel_s(4096, 4096, 4096))
    assert fit_family([*samples, far], folds=4).held_out.outside[80]
    assert not all(model.held_out.outside)
    again = FamilyModel.from_json(json.loads(json.dumps(model.to_json())))
    assert again.held_out.outside == model.held_out.outside
    assert again.held_out_error == pytest.approx(model.held_out_error)


def test_beyond_the_last_cache_all_is_equally_far():
    def at(distance: int) -> Sample:
        near = product(64, 64, 64)
        moved = replace(near, inputs=tuple(replace(operand, distance_bytes=distance) for operand in near.inputs))
        return sample_of(moved, DEVICE)

    assert at(1 << 24).features == at(1 << 28).features
    assert at(1 << 16).features != at(1 << 28).features
    assert at(1 << 12).counts["moved"] < at(1 << 28).counts["moved"], "physics knows that memory is slower than a cache"


def test_a_few_far_bytes_do_not_price_many():
    """Small operands far away pay for being cold, not for their bytes; large ones of which none was measured must not pay a thousandfold."""

    def at(side: int, distance: int) -> Operator:
        near = product(side, side, side)
        return replace(near, inputs=tuple(replace(operand, distance_bytes=distance) for operand in near.inputs))

    samples = [
        sample_of(at(side, distance), DEVICE, kernel_s(side, side, side) + (5e-6 if distance else 0.0))
        for side in range(8, 40)
        for distance in (0, 1 << 28)
    ]
    found = fit_family(samples, folds=4).predict(sample_of(at(2048, 1 << 28), DEVICE)).value
    assert found < 4 * kernel_s(2048, 2048, 2048)


def test_far_outside_a_process_falls_back_to_physics():
    model = fit_family(products(60, high=256))
    sample = sample_of(product(1 << 14, 1 << 14, 1 << 14), DEVICE)
    assert model.predict(sample).value == pytest.approx(model.prior.value(sample), rel=0.5)


@pytest.mark.parametrize("count", [40, FEW + 1])
def test_a_model_survives_json_to_the_last_digit(count):
    model = fit_family(products(count, noise=0.05), folds=3)
    again = FamilyModel.from_json(json.loads(json.dumps(model.to_json())))
    for sample in products(20, seed=1):
        one, other = model.predict(sample), again.predict(sample)
        assert (other.value, other.low, other.high) == pytest.approx((one.value, one.low, one.high), rel=1e-9)
    assert again.mean_abs_error == pytest.approx(model.mean_abs_error)


def test_profiles_that_kept_samples_one_by_one_are_read():
    model = fit_family(products(40, noise=0.05), folds=3)
    data = model.to_json()
    columns = data.pop("columns")
    data["samples"] = [
        {
            "variant": columns["variant"][row],
            "features": [column[row] for column in columns["features"]],
            "counts": [column[row] for column in columns["counts"]],
            **{name: columns[name][row] for name in ("value", "noise", "block", "held_out", "held_out_spread")},
        }
        for row in range(40)
    ]
    again = FamilyModel.from_json(data)
    sample = products(1, seed=1)[0]
    assert again.predict(sample) == model.predict(sample)
    assert again.samples == model.samples


def test_blocks_are_held_out_together():
    """Twenty shapes read five times each: whoever holds out readings one by one believes that shapes are known exactly."""
    draw = random.Random("blocks")
    samples = []
    for index, s in enumerate(products(20)):
        own = math.exp(draw.gauss(0, 0.3))
        samples += [
            Sample(family="gemm", features=s.features, counts=s.counts, value=s.value * own, block=block)
            for block in (f"shape {index}",) * 5
        ]
    apart = [Sample(family="gemm", features=s.features, counts=s.counts, value=s.value) for s in samples]
    assert fit_family(samples).mean_abs_error > 0.15
    assert fit_family(apart).mean_abs_error < 0.02


def test_readings_that_no_work_can_have_are_refused():
    samples = products(LEAST_SAMPLES)
    wrapped = Sample(family="gemm", features={}, counts={"launch": 1.0}, value=-2621.4, label="mm 3x3")
    with pytest.raises(FitError, match=r"mm 3x3 reads -2621\.4.*wrapped"):
        fit_family([*samples, wrapped])
    with pytest.raises(FitError, match="at least"):
        fit_family(samples[1:])
    with pytest.raises(FitError, match="one family"):
        fit_family([*samples, Sample(family="conv", features={}, counts={"launch": 1.0}, value=1.0)])


def test_scores_leave_five_of_a_hundred_out():
    assert quantile(list(range(1, 100))) == 95
    assert quantile(list(range(1, 20))) == 19
    assert quantile([1.0] * 5) > 1.5, "five scores cannot promise 95%"


def test_a_step_is_the_sum_with_its_unknowns_named():
    samples = products(60, noise=0.05)
    models = {name: fit_family(own) for name, own in by_family(samples).items()}
    known, far = sample_of(product(64, 64, 64), DEVICE), sample_of(product(8192, 64, 64), DEVICE)
    relu = sample_of(
        Operator(name="aten::relu", inputs=(Operand.dense(10),), outputs=(Operand.dense(10, written=True),)), DEVICE
    )
    step = predict_step([(known, 3), (far, 1), (relu, 2)], models)
    one, other = models["gemm"].predict(known), models["gemm"].predict(far)
    assert step.value == pytest.approx(3 * one.value + other.value)
    assert step.outside_share == pytest.approx(other.value / step.value)
    assert set(step.outside) == {"mm 8192x64 64x64"}
    assert step.unknown == ("relu 10",)
    assert step.low < step.value < step.high
    assert not step.claimed, "a part of the step is missing"
    assert predict_step([(known, 3)], models).claimed
    assert not predict_step([(known, 1), (far, 1)], models).claimed, "more than a tenth lies outside"
    wide = predict_step([(known, 3)], models, slope=0.5)
    narrow = predict_step([(known, 3)], models)
    assert wide.high - wide.value == pytest.approx(math.hypot(narrow.high - narrow.value, 0.5 * narrow.value))
