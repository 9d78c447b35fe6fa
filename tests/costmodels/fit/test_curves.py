"""Update curves say what they err by: held out of physics that no curve follows exactly, the truth lies where they say."""

import math
import random

import numpy as np
import pytest

from cwmp_costmodels.costs.interval import UPDATES, relative_error
from cwmp_costmodels.fit.curves import with_errors
from cwmp_costmodels.fit.sessions import fit_sessions
from cwmp_costmodels.networks.tensors import TensorInfo
from cwmp_costmodels.profile.factors import UpdateFactors
from cwmp_costmodels.profile.operators import UpdateCurve
from cwmp_costmodels.profile.predict import predict_parts, sources_j
from cwmp_costmodels.simulation.truth import physics_of
from cwmp_profiler.devices.simulated import SimulatedDevice
from cwmp_profiler.workloads import WORKLOADS
from cwmp_profiler.workloads.base import Point

SIZES, DENSITIES = [2.0**power for power in range(14, 25, 2)], (0.001, 0.01, 0.1, 0.5)


class Table:
    """What `UpdateFactors` reads of a profile."""

    def __init__(self, updates):
        self.layers, self.updates = {}, updates


def curve_of(truth, sizes=SIZES, densities=DENSITIES):
    places = [(n, d) for n in sizes for d in densities]
    factors = [truth(n, d) for n, d in places]
    return UpdateCurve(
        entries=[n for n, _ in places], density=[d for _, d in places], factor=factors, time_factor=factors
    )


def at(curves, n, density, optimizer="sgd"):
    tensor = TensorInfo(name="w", layer_type="linear", shape=(round(n),), dtype="float32", entry_bytes=4)
    return UpdateFactors(Table(curves), tensor, optimizer).at("sparse", density)


def bent(seed, wave=0.1, rough=0.05):
    """A factor that swings with size and density, as caches make it, and is odd by `rough` at every place, as kernels are."""
    rng = random.Random(seed)
    waves = [(rng.gauss(0, wave), rng.uniform(0.1, 0.8), rng.uniform(0.1, 0.8), rng.uniform(0, 6.3)) for _ in range(4)]

    def truth(n, density):
        odd = random.Random(f"{seed} {n} {density}").gauss(0, rough)
        return math.exp(odd + sum(a * math.sin(u * math.log(n) + v * math.log(density) + p) for a, u, v, p in waves))

    return truth


def test_factors_at_places_never_measured_lie_inside_in_90_to_99_percent():
    inside, halves = [], []
    for seed in range(25):
        truth, rng = bent(seed), random.Random(seed)
        curves = with_errors({"sgd/sparse": curve_of(truth)})
        for _ in range(40):
            n, density = round(2 ** rng.uniform(14, 24)), math.exp(rng.uniform(math.log(0.001), math.log(0.5)))
            found = at(curves, n, density)
            inside.append(abs(truth(n, density) / found.value - 1) <= found.error)
            halves.append(found.error)
            assert found.time_error == pytest.approx(found.error)
    assert 0.90 <= np.mean(inside) <= 0.99
    assert 0.05 < np.median(halves) < 0.5


def test_joules_of_simulated_updates_lie_inside_in_90_to_99_percent(truth, measure_simulated):
    """Whole way: windows, fit, prediction of updates of other sizes and densities, and its interval."""
    inside = []
    for seed in range(4):
        known, factors = truth(), {}

        def bend(point, counts, energy, time, now, factors=factors, seed=seed):
            if point.family != "update":
                return energy, time
            how, params = f"{seed}{point.params['optimizer']}{point.params['mode']}", point.params
            factor = factors.setdefault(how, bent(how))(params["n"], params["density"])
            return energy * factor, time * factor

        profile = fit_sessions(
            [measure_simulated(known, seed=seed, distortion=bend, name=f"bent-{seed}.jsonl")], bootstrap=50
        )
        device = SimulatedDevice(physics_of(known, distortion=bend))
        rng = random.Random(seed)
        for _ in range(60):
            mode, optimizer = rng.choice(["sparse", "dense"]), rng.choice(["sgd", "momentum", "adam"])
            n = round(math.exp(rng.uniform(math.log(2048), math.log(7.8e6))))
            density = 1.0 if mode == "dense" else math.exp(rng.uniform(math.log(0.01), math.log(0.1)))
            params = {"layer": "linear", "n": n, "optimizer": optimizer, "mode": mode, "density": density}
            counts = WORKLOADS["update.step"].counts(params, device.info)
            energy_j, _ = device.physics.work(Point(workload="update.step", params=params), counts, 0.0)
            parts = {f"{optimizer}/{mode}/{density!r}/linear/{n}/w": counts}
            error = relative_error(profile, *sources_j(profile, parts))
            assert UPDATES in error.holds
            inside.append(abs(energy_j / predict_parts(profile, parts)[0] - 1) <= error.relative)
    assert 0.90 <= np.mean(inside) <= 0.99


def test_a_curve_is_surer_at_its_points_than_between_and_beyond_them():
    curves = with_errors({"sgd/sparse": curve_of(bent(3))})
    there, between, beyond = (at(curves, n, 0.01).error for n in (2.0**16, 2.0**17, 2.0**30))
    assert there < between < beyond


def test_where_a_curve_is_rough_it_is_less_sure_than_where_it_is_smooth():
    def odd(n, density):
        return bent(1, wave=0.0, rough=0.3)(n, density) if n > 2**19 else 1.0

    curves = with_errors({"sgd/sparse": curve_of(odd)})
    assert at(curves, 2.0**23, 0.03).error > 3 * at(curves, 2.0**15, 0.03).error


def test_what_cannot_be_held_out_tells_no_error():
    one = with_errors({"sgd/sparse": curve_of(lambda n, d: 2.0, sizes=[4096.0], densities=[0.1])})
    assert one["sgd/sparse"].error is None
    assert at(one, 4096, 0.1).error is None
    none = with_errors({"sgd/sparse": curve_of(lambda n, d: 0.0 if n == 2**14 else 1.0)})
    assert none["sgd/sparse"].error is None, "joules of nothing have no ratio"
    assert at(none, 4096, 0.1).value == 0


def test_lists_of_a_curve_are_of_one_length():
    with pytest.raises(ValueError, match="got entries 2, density 2, factor 2, time_factor 2, error 1"):
        UpdateCurve(entries=[1.0, 2.0], density=[0.1, 0.1], factor=[1.0, 1.0], time_factor=[1.0, 1.0], error=[0.1])
