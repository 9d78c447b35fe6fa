"""How many bits k surviving entries of n take: the value bits are plain, the positions depend on the code.

The rates of `rice` and `leb128` are expectations for independent positions; a real encoder comes within a percent.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from cwmp_costmodels.errors import RadioError

Code = Literal["dense", "coo", "bitmask", "entropy", "rice", "leb128"]
CODES: tuple[Code, ...] = get_args(Code)

COO_INDEX_BITS = 32
MAX_RICE_PARAMETER = 40


def binary_entropy(p: float) -> float:
    """Return H2(p) in bits.

    Raises:
        RadioError: If p is outside [0, 1].
    """
    if not 0 <= p <= 1:
        raise RadioError(f"a probability is in [0, 1], got {p}")
    if p in (0, 1):
        return 0.0
    return -(p * math.log2(p) + (1 - p) * math.log1p(-p) / math.log(2))


def index_bits(n: int, k: float, code: Code) -> float:
    """Return the bits that say which k of n entries were kept.

    Args:
        n: Entries of the tensor.
        k: Entries kept, 0 <= k <= n; may be an expectation.
        code: `dense` (none), `coo` (32-bit indices), `bitmask` (a bit an entry, in whole bytes), `entropy` (the lower bound
            n*H2(k/n)), `rice` (Golomb-Rice code of the gaps with the best parameter), `leb128` (gaps in bytes of 7 bits).

    Raises:
        RadioError: If k is outside [0, n] or the code is unknown.
    """
    _check(n, k, code)
    if k == 0 or code == "dense":
        return 0.0
    if code == "coo":
        return COO_INDEX_BITS * k
    if code == "bitmask":
        return 8.0 * math.ceil(n / 8)
    if code == "entropy":
        return n * binary_entropy(k / n)
    return k * (_rice_bits(k / n) if code == "rice" else _leb128_bits(k / n))


def payload_bits(n: int, k: float, value_bits: float = 32, code: Code = "coo") -> float:
    """Return the bits of a payload of k kept entries out of n, positions and values, without any header.

    `dense` sends all n values whatever k is. Arguments and errors as in `index_bits`; `value_bits` are the bits of a value.
    """
    _check(n, k, code)
    if not (math.isfinite(value_bits) and value_bits >= 0):
        raise RadioError(f"a value takes 0 or more bits, got {value_bits}")
    return (n if code == "dense" else k) * value_bits + index_bits(n, k, code)


def marginal_index_bits(n: int, k: float) -> float:
    """Return the bits that one more kept entry adds to an entropy-coded position list: log2((n-k)/k).

    It is the derivative of n*H2(k/n), below the average n*H2/k, and negative beyond half.

    Raises:
        RadioError: Unless 0 < k < n.
    """
    if not 0 < k < n:
        raise RadioError(f"marginal index bits need 0 < k < n, got k={k} of n={n}")
    return math.log2((n - k) / k)


def marginal_bits(n: int, k: float, value_bits: float = 32, code: Code = "coo") -> float:
    """Return the bits, value included, that one more kept entry adds to a payload that already has k of n.

    For `dense` and `bitmask` positions are free; `rice` and `leb128` are differentiated numerically.

    Raises:
        RadioError: As `payload_bits`; `entropy` needs 0 < k < n.
    """
    _check(n, k, code)
    if code == "dense":
        return 0.0
    if code == "bitmask":
        return value_bits
    if code == "coo":
        return value_bits + COO_INDEX_BITS
    if code == "entropy":
        return value_bits + marginal_index_bits(n, k)
    low, high = max(k - 0.5, 0.0), min(k + 0.5, float(n))
    if low == high:
        return value_bits
    return value_bits + (index_bits(n, high, code) - index_bits(n, low, code)) / (high - low)


def _rice_bits(p: float) -> float:
    """Mean bits of a geometric gap: b low bits, a unary quotient of mean q^m/(1-q^m), m = 2^b, and its end bit."""

    def bits(b: int) -> float:
        log_miss = 2**b * math.log1p(-p) if p < 1 else -math.inf
        return b + 1 + math.exp(log_miss) / -math.expm1(log_miss)

    # The bits fall and then rise with b; the mean gap names the place to within one.
    near = math.frexp(math.log(2) / -math.log1p(-p))[1] if p < 1 else 0
    low = min(max(near - 2, 0), MAX_RICE_PARAMETER)
    return min(bits(b) for b in range(low, min(max(near + 1, 0), MAX_RICE_PARAMETER) + 1))


def _leb128_bits(p: float) -> float:
    """Mean bits of a geometric gap in groups of 7 bits with a continuation bit: one byte more past 2^7, 2^14, ..."""
    if p >= 1:
        return 8.0
    return 8.0 * (1 + sum(math.exp(2 ** (7 * more) * math.log1p(-p)) for more in range(1, 6)))


def _check(n: int, k: float, code: str) -> None:
    if code not in CODES:
        raise RadioError(f"unknown code {code!r}; the codes are {', '.join(CODES)}")
    if not 0 <= k <= n:
        raise RadioError(f"cannot keep {k} of {n} entries")
