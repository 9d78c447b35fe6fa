"""Where a number comes from. It travels with every reading, coefficient and figure and is never blurred."""

from __future__ import annotations

from collections.abc import Iterable

from cwmp_profiler.compat import StrEnum


class Provenance(StrEnum):
    """Origin of a number: read here, read by others and fitted by us, estimated from a rated power, cited, or simulated."""

    MEASURED = "measured"
    PUBLISHED = "published"
    ESTIMATED = "estimated"
    LITERATURE = "literature"
    SIMULATED = "simulated"


_BANNERS = {
    Provenance.MEASURED: "measured by meter {meter}",
    Provenance.PUBLISHED: "PUBLISHED readings of others ({meter}), fitted by this program: not measured by us",
    Provenance.ESTIMATED: "ESTIMATED, not measured: the joules come from time and a rated power ({meter})",
    Provenance.LITERATURE: "from the LITERATURE: no device was measured",
    Provenance.SIMULATED: "SIMULATED: no real device was measured",
}


def banner(provenance: Provenance, meter: str) -> str:
    """Return what a reader must know first about joules, in one line: every display and plot says it in these words.

    Args:
        provenance: Of the joules.
        meter: Name of the meter that gave them.
    """
    return _BANNERS[provenance].format(meter=meter)


def weakest(provenances: Iterable[Provenance]) -> Provenance:
    """Return the provenance of a number that is made from several: the one that claims least.

    Args:
        provenances: At least one provenance.

    Returns:
        The last of measured, published, estimated, literature, simulated that occurs.

    Raises:
        ValueError: If there is none.
    """
    return max(provenances, key=list(Provenance).index)
