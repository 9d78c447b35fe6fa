"""Joules of many entries add up to the correctly rounded sum, compiled or not."""

import math

import numpy as np
import pytest

from cwmp_profiler.kernels.compiled import available
from cwmp_selector import costs

WAYS = [
    "plain",
    pytest.param(
        "compiled", marks=pytest.mark.skipif(not available(), reason="Numba (the extra `fast`) is not installed")
    ),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("decades", [0, 3, 30])
def test_addends_add_up_exactly(monkeypatch, way, kind, decades):
    """As many numbers as are added up by exponent, of one size and of many, with the least and the largest of their type."""
    monkeypatch.setattr(costs, "chosen", lambda _: way == "compiled")
    rng = np.random.default_rng(decades)
    values = (rng.random(20_000) * 10.0 ** rng.uniform(-decades, decades, 20_000)).astype(kind)
    if decades == 30:
        values[:3] = np.finfo(kind).smallest_subnormal, np.finfo(kind).tiny, np.finfo(kind).max / 4
    found = costs.addends(values)
    assert len(found) < values.size
    assert math.fsum(found) == math.fsum(values.tolist())
