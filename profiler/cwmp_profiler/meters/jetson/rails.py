"""What the supply rails of each Jetson board feed, and which rail already contains which.

The labels are the board maker's; several mislead. `VIN_SYS_5V0` of an AGX Orin looks like the board's input and is only its
5 V supply; `VDDQ_VDD2_1V8AO` (memory) is counted inside it, so adding both would count memory twice. The labels are those that
the boards' kernels export; their meanings and containment are gathered from public projects and forum answers that cite
NVIDIA's developer guide, and were not checked against the guide or on the boards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cwmp_profiler.meters.base import Kind


@dataclass(frozen=True, slots=True)
class RailMeaning:
    """What one label stands for.

    Attributes:
        kind: In this project's words.
        meaning: For people.
        inside: Labels of the rails that contain it, innermost first; the first that is present is its parent.
        total: Whether it is the input of the whole module or board, which cannot be 0 while the board runs.
    """

    kind: Kind
    meaning: str
    inside: tuple[str, ...] = ()
    total: bool = False


def _inside_input(*inputs: str) -> dict[str, RailMeaning]:
    """Rails of the boards that have one input rail for the module."""
    return {
        "VDD_IN": RailMeaning("module", "input of the whole module", inputs, total=True),
        "VDD_CPU_GPU_CV": RailMeaning("soc", "CPU, GPU and computer-vision engines", ("VDD_IN",)),
        "VDD_SOC": RailMeaning("soc", "SoC core: memory controller, encoders, I/O", ("VDD_IN",)),
    }


_TX: Final[Mapping[str, RailMeaning]] = {
    "VDD_MUX": RailMeaning("board", "input of the carrier board", total=True),
    "VDD_IN": RailMeaning("module", "input of the whole module", ("VDD_MUX",), total=True),
    "VDD_SYS_CPU": RailMeaning("cpu", "CPU clusters", ("VDD_IN", "VDD_MUX")),
    "VDD_SYS_GPU": RailMeaning("gpu", "GPU", ("VDD_IN", "VDD_MUX")),
    "VDD_SYS_SOC": RailMeaning("soc", "SoC core", ("VDD_IN", "VDD_MUX")),
    "VDD_SYS_DDR": RailMeaning("dram", "memory", ("VDD_IN", "VDD_MUX")),
    "VDD_4V0_WIFI": RailMeaning("radio", "WiFi module", ("VDD_IN", "VDD_MUX")),
    "VDD_5V0_IO_SYS": RailMeaning("other", "5 V of the carrier board", ("VDD_MUX",)),
    "VDD_3V3_SYS": RailMeaning("other", "3.3 V of the carrier board", ("VDD_MUX",)),
    "VDD_3V3_IO_SLP": RailMeaning("other", "3.3 V I/O of the carrier board", ("VDD_MUX",)),
    "VDD_1V8_IO": RailMeaning("other", "1.8 V I/O of the carrier board", ("VDD_MUX",)),
    "VDD_3V3_SYS_M2": RailMeaning("other", "3.3 V of the M.2 slot", ("VDD_MUX",)),
}
_TX_SHORT: Final = {
    "CPU": "VDD_SYS_CPU",
    "GPU": "VDD_SYS_GPU",
    "SOC": "VDD_SYS_SOC",
    "DDR": "VDD_SYS_DDR",
    "WIFI": "VDD_4V0_WIFI",
}

BOARDS: Final[Mapping[str, Mapping[str, RailMeaning]]] = {
    "nano": {
        "POM_5V_IN": RailMeaning("module", "5 V input of the whole module", total=True),
        "POM_5V_GPU": RailMeaning("gpu", "GPU", ("POM_5V_IN",)),
        "POM_5V_CPU": RailMeaning("cpu", "CPU", ("POM_5V_IN",)),
    },
    "tx1": _TX,
    "tx2": {
        **_TX,
        **{f"VDD_{short}": _TX[long] for short, long in _TX_SHORT.items()},
        **{short: _TX[long] for short, long in _TX_SHORT.items()},
    },
    "agx-xavier": {
        "GPU": RailMeaning("gpu", "GPU"),
        "CPU": RailMeaning("cpu", "CPU"),
        "SOC": RailMeaning("soc", "SoC core"),
        "CV": RailMeaning("other", "computer-vision engines"),
        "VDDRQ": RailMeaning("dram", "memory"),
        "SYS5V": RailMeaning("other", "5 V supply: I/O and the rest"),
    },
    "xavier-nx": _inside_input(),
    "orin-nx": _inside_input(),
    "orin-nano": _inside_input(),
    "agx-orin": {
        "VDD_GPU_SOC": RailMeaning("gpu", "GPU and SoC core"),
        "VDD_CPU_CV": RailMeaning("cpu", "CPU and computer-vision engines"),
        "VIN_SYS_5V0": RailMeaning("other", "5 V supply: I/O, memory and the rest"),
        "VDDQ_VDD2_1V8AO": RailMeaning("dram", "memory (and always-on 1.8 V)", ("VIN_SYS_5V0",)),
    },
    "agx-thor": {
        "VIN": RailMeaning("board", "input of the carrier board", total=True),
        "VDD_GPU": RailMeaning("gpu", "GPU", ("VIN",)),
        "VDD_CPU_SOC_MSS": RailMeaning("cpu", "CPU, SoC core and memory subsystem", ("VIN",)),
        "VIN_SYS_5V0": RailMeaning("other", "5 V supply: I/O and the rest", ("VIN",)),
    },
}
"""Per board key (see `cwmp_profiler.meters.boards`) its rails by label."""

INPUTS: Final = ("VIN", "VDD_MUX", "VDD_IN", "POM_5V_IN")
"""Labels that are an input of everything else on any board, widest first."""


_UNKNOWN: Final = "not in the rail table"


def unknown(found: Mapping[str, RailMeaning]) -> str:
    """Say why rails of these meanings must not be added up; empty if they may."""
    roots = [label for label, meaning in found.items() if found.keys().isdisjoint(meaning.inside)]
    strange = [label for label in roots if found[label].meaning == _UNKNOWN and not found[label].total]
    if not strange or len(roots) < 2:
        return ""
    return f"whether {', '.join(strange)} is inside another of {', '.join(roots)} is not known"


def meanings(board: str, labels: Iterable[str]) -> tuple[dict[str, RailMeaning], list[str]]:
    """Say what each label of a board means.

    Args:
        board: Board key; an unknown one is guessed from its labels.
        labels: Labels that were found.

    Returns:
        Per label its meaning, and notes for the user about labels that are not in the table.
    """
    labels = list(labels)
    notes = []
    table = BOARDS.get(board)
    if table is None:
        likely = max(BOARDS, key=lambda key: len(set(BOARDS[key]) & set(labels)))
        table = BOARDS[likely] if set(BOARDS[likely]) & set(labels) else {}
        notes.append(
            f"board {board!r} is not in the rail table; rails are read as those of {likely!r}"
            if table
            else f"board {board!r} is not in the rail table and neither are its labels"
        )
    found = {}
    for label in labels:
        if label in table:
            found[label] = table[label]
            continue
        inputs = tuple(name for name in INPUTS if name in labels and name != label)
        found[label] = RailMeaning("other", _UNKNOWN, tuple(reversed(inputs)), total=label in INPUTS)
        place = f"taken as a part of {inputs[-1]}" if inputs else "what contains it is not known"
        notes.append(f"rail {label} is not in the table of board {board!r}: {place}")
    if not any(meaning.total for meaning in found.values()):
        notes.append(
            "the board has no input rail: the total is the sum of its rails and reads less than a meter at the power supply"
        )
    return found, notes
