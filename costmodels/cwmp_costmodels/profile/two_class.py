"""A device of two classes: layers whose update is memory-intensive cost a given ratio more per entry than compute-efficient ones.

The source of the method ("A Theoretical Framework for Energy-Aware Gradient Pruning in Federated Learning", arXiv 2603.22465)
argues from such a disparity. Its size is a parameter here and not a measurement: the base joules are cited, the ratio is
given. `load_profile("two-class:25")` and the command line take any ratio.
"""

from __future__ import annotations

from collections.abc import Sequence

from cwmp_costmodels.errors import ProfileError
from cwmp_costmodels.profile.plausibility import DRAM_J_PER_BIT, OPERATION_45NM_J
from cwmp_costmodels.profile.schema import Coefficient, DeviceBlock, LayerCoefficient, LevelBlock, MeterBlock, Profile
from cwmp_profiler.provenance import Provenance

PREFIX = "two-class:"
MEMORY_INTENSIVE = ("linear", "embedding")
"""Layer types that are memory-intensive by default: every weight is used once per sample."""

LPDDR4_CITATION = (
    "8 pJ/bit, device level, as used by architecture models such as Timeloop (Parashar et al., ISPASS 2019); "
    "primary source not traced (unverified)"
)
HOROWITZ_CITATION = "Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014, 45 nm, 0.9 V"


def two_class_profile(ratio: float = 10.0, *, memory_intensive: Sequence[str] = MEMORY_INTENSIVE) -> Profile:
    """Return a literature profile in which some layers cost `ratio` times more per updated entry than the rest.

    Args:
        ratio: Joules of a memory-intensive entry over those of a compute-efficient one, above 0.
        memory_intensive: Keys of the `layers` table: layer types (`linear`) or parameter names (`name:fc1.*`).

    Raises:
        ProfileError: If the ratio is not a positive finite number or no layer is named.
    """
    if not 0 < ratio < float("inf"):
        raise ProfileError(
            f"the ratio of a two-class profile is {ratio}; give a positive number, for example two-class:25"
        )
    if not memory_intensive or not all(memory_intensive):
        raise ProfileError("a two-class profile needs layers that are dear, for example two-class:25:linear")
    byte_j = 8 * DRAM_J_PER_BIT["LPDDR4"]
    factor = LayerCoefficient(
        factor=Coefficient(
            value=ratio, unit="1", status="given", remark="A parameter of this profile, not a measurement."
        ),
        windows=0,
    )
    return Profile(
        name=f"two-class-{ratio:g}x".replace("+", ""),
        provenance=Provenance.LITERATURE,
        created="2026-11-22T00:00:00+00:00",
        tool="cwmp-profile 0.1.0",
        description=(
            f"Two classes of layers: updates of {', '.join(memory_intensive)} cost {ratio:g} times as much as all others. "
            "The ratio is given; the base is cited."
        ),
        device=DeviceBlock(
            kind="literature",
            model="two classes of layers",
            levels=[LevelBlock(name="dram")],
            line_bytes=64,
            memory_bytes=0,
            threads=1,
            dtypes=["float32"],
        ),
        meter=MeterBlock(
            name="none", provenance=Provenance.LITERATURE, notes=["Cited and given values; nothing was measured."]
        ),
        coefficients={
            **{
                name: Coefficient(value=byte_j, unit="J/B", status="literature", citation=LPDDR4_CITATION)
                for name in ("dram_read", "dram_write")
            },
            "elem_float32": Coefficient(
                value=OPERATION_45NM_J["float32"],
                unit="J/flop",
                status="literature",
                citation=HOROWITZ_CITATION,
                remark="Mean of a multiplication (3.7 pJ) and an addition (0.9 pJ).",
            ),
        },
        layers=dict.fromkeys(memory_intensive, factor),
    )


def parse_two_class(name: str) -> Profile:
    """Return the profile of `two-class:RATIO` or `two-class:RATIO:KEY,KEY` (ProfileError)."""
    ratio_text, _, keys = name.removeprefix(PREFIX).partition(":")
    try:
        ratio = float(ratio_text)
    except ValueError:
        raise ProfileError(
            f"{name!r} is no two-class profile; write two-class:RATIO, for example two-class:25"
        ) from None
    return two_class_profile(ratio, memory_intensive=keys.split(",") if keys else MEMORY_INTENSIVE)
