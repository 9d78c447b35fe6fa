"""The Rice parameter is looked for beside the mean gap; all parameters together are the oracle."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from cwmp_costmodels.radio.payload import MAX_RICE_PARAMETER, index_bits


def bits(p, b):
    """Mean bits per entry: b low bits, an end bit, and a unary quotient."""
    miss = 2**b * math.log1p(-p) if p < 1 else -math.inf
    return b + 1 + math.exp(miss) / -math.expm1(miss)


@settings(max_examples=500)
@given(st.integers(1, 10**13), st.floats(0, 1))
def test_the_best_parameter_is_found(n, share):
    kept = max(n * share**8, 1.0)
    best = min(bits(kept / n, b) for b in range(MAX_RICE_PARAMETER + 1))
    assert index_bits(n, kept, "rice") == kept * best
