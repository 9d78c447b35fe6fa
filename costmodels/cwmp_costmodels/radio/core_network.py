"""Joules of the network behind the radio: opt-in, and never part of a client's total, because no client pays them."""

from __future__ import annotations

from cwmp_costmodels.errors import RadioError

KWH_PER_GB_2015 = 0.06
"""Fixed-line transmission, Aslan et al., J. Industrial Ecology 2018; halves about every two years."""

JOULES_PER_KWH = 3.6e6


def core_network_j(payload_bytes: float, *, year: int) -> float:
    """Return an estimate of the joules that the fixed-line network spends on `payload_bytes`.

    Args:
        payload_bytes: Bytes carried (decimal gigabytes in the source).
        year: Calendar year; the 2015 figure is halved every two years from there.

    Raises:
        RadioError: If the bytes are negative or the year is before 2000, where the trend does not start.
    """
    if payload_bytes < 0 or year < 2000:
        raise RadioError(
            f"no core network estimate for {payload_bytes} bytes in {year}; give bytes from 0, years from 2000"
        )
    return float(KWH_PER_GB_2015 * 0.5 ** ((year - 2015) / 2) * JOULES_PER_KWH * payload_bytes / 1e9)
