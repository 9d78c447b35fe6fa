"""The test of one price for a byte of main memory, on made-up models of known noise: how often it alarms, and what it sees."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from cwmp_costmodels.fit.bootstrap import fit_linear
from cwmp_costmodels.fit.memory_price import lack_in_memory

POINTS, REPEATS, NOISE = 24, 3, 0.01


def both_models(seed, bend=0.0):
    """Fits of joules and seconds of points that read and write memory and compute, in proportions of their own.

    `bend` makes points dearer by so much that write at most as much as they compute. Half of the points never leave the cache.
    """
    rng = np.random.default_rng(seed)
    far = np.arange(POINTS) < POINTS // 2
    amounts = rng.uniform(0.5, 2.0, (POINTS, 3))
    bent = far & (amounts[:, 1] <= amounts[:, 2])
    point = np.repeat(np.arange(POINTS), REPEATS)
    windows, fits = [], []
    for index in point:
        place = "dram" if far[index] else "l2"
        counts = {f"{place}_read": amounts[index, 0], f"{place}_write": amounts[index, 1], "flop": amounts[index, 2]}
        windows.append(SimpleNamespace(point=str(index), family="memory", counts=counts, iterations=1))
    names = ("dram_read", "dram_write", "l2_read", "l2_write", "flop")
    x = np.array([[window.counts.get(name, 0.0) for name in names] for window in windows])
    samples = SimpleNamespace(order=np.arange(len(point)), windows=tuple(windows), names=names)
    for _ in range(2):
        exact = x @ np.array([3.0, 4.0, 1.0, 1.5, 2.0]) * (1 + bend * bent[point])
        y = exact * (1 + rng.normal(0, NOISE, len(point)))
        fits.append((fit_linear(x, y, point, np.ones(len(point))), samples))
    return fits


def test_a_sound_device_is_doubted_as_often_as_the_p_value_says():
    p_values = [lack_in_memory(both_models(seed), line_bytes=64).p_value for seed in range(300)]
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.10
    assert min(p_values) > 1e-4


def test_a_price_that_depends_on_what_is_done_beside_is_seen():
    for seed in range(10):
        lack = lack_in_memory(both_models(seed, bend=0.1), line_bytes=64)
        assert lack.p_value < 1e-4
        assert lack.misfit > lack.noise


def test_nothing_is_said_without_work_in_memory():
    fits = both_models(0)
    near = [
        SimpleNamespace(**{**vars(window), "counts": {"l2_read": 1.0}, "family": "memory"})
        for window in fits[0][1].windows
    ]
    inside = SimpleNamespace(order=fits[0][1].order, windows=tuple(near), names=fits[0][1].names)
    assert lack_in_memory([(fit, inside) for fit, _ in fits], line_bytes=64) is None
