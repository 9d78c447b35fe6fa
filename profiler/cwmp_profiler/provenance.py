"""Where a number comes from. It travels with every reading, coefficient and figure and is never blurred."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Provenance(StrEnum):
    """Origin of a number: read from a sensor, estimated from a rated power, simulated, or cited."""

    MEASURED = "measured"
    ESTIMATED = "estimated"
    SIMULATED = "simulated"
    LITERATURE = "literature"


_STRENGTH = (Provenance.MEASURED, Provenance.ESTIMATED, Provenance.LITERATURE, Provenance.SIMULATED)


def weakest(provenances: Iterable[Provenance]) -> Provenance:
    """Return the provenance of a number that is made from several: the one that claims least.

    Args:
        provenances: At least one provenance.

    Returns:
        The last of measured, estimated, literature, simulated that occurs.

    Raises:
        ValueError: If there is none.
    """
    return max(provenances, key=_STRENGTH.index)
