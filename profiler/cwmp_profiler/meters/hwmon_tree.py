"""What Linux' hardware monitoring shows: every quantity of every chip once, with the files that tell it and the most it can be.

class/hwmon/hwmonN/name                                     chip, for example amdgpu, amd_energy, power_meter, ina226
class/hwmon/hwmonN/energyM_input, energyM_label             microjoules
class/hwmon/hwmonN/powerM_average, powerM_input             microwatts, one of them or both
class/hwmon/hwmonN/powerM_label, powerM_oem_info            what it is (ACPI power meters use the latter)
class/hwmon/hwmonN/powerM_cap_max, _crit, _max              limits
class/hwmon/hwmonN/device/...                               the same files, where an older driver registered them
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cwmp_profiler.meters.bounds import TRANSIENT
from cwmp_profiler.meters.rail import Kind
from cwmp_profiler.meters.sysfs import children, optional_number, optional_text

KINDS: Final[dict[str, Kind]] = {
    "amd_energy": "package",
    "fam15h_power": "package",
    "zenpower": "package",
    "amdgpu": "gpu",
    "nouveau": "gpu",
    "i915": "gpu",
    "xe": "gpu",
    **dict.fromkeys(
        ("power_meter", "corsairpsu", "pmbus", "psu", "occ", "ibmpowernv", "macsmc_hwmon", "dell_smm_power"), "board"
    ),
}

_SENSOR = re.compile(r"(?:energy(\d+)_input|power(\d+)_(?:average|input))")
_SUPPLY_NAMES = re.compile(
    r"(?:BAT|CMB|AC|ADP|ACAD)\w{0,2}|ucsi.*|hidpp.*|.*(?:charger|battery|battmgr).*", re.IGNORECASE
)
_SUPPLY_TYPES = frozenset({"Battery", "Mains", "USB", "Wireless", "UPS"})
_LIMITS = ("cap_max", "crit", "max")
_LEAST_LIMIT_UW, _MOST_LIMIT_UW = 10**6, 10**11


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensor:
    """One quantity of a chip.

    Attributes:
        name: Unique name of its rail.
        chip: The chip's name; `i915_gt0` is of chip `i915`.
        instance: The chip's name, numbered where several are of it.
        kind: What it feeds.
        label: The maker's own label; empty if there is none.
        files: Files that tell it, best first: energy, then average power, then power.
        device: The device whose driver tells it: two chips of one device are of the same thing.
        update_s: Time between new values, in seconds; None if not told.
        averaging_s: Time that an average is over, in seconds; None if not told.
        max_power_w: Most that it can be; None if no limit is stated.
        whole_socket: Whether a GPU's sensor sees the processor beside it too (an APU).
    """

    name: str
    chip: str
    instance: str
    kind: Kind
    label: str
    files: tuple[Path, ...]
    device: Path
    update_s: float | None
    averaging_s: float | None
    max_power_w: float | None
    whole_socket: bool = False


def find_sensors(root: Path) -> list[Sensor]:
    """Return every quantity under `class/hwmon` but those of batteries and chargers."""
    folders: list[tuple[Path, str, Path]] = []
    seen: set[Path] = set()
    for entry in sorted(children(root / "class/hwmon"), key=lambda entry: (len(entry.name), entry.name)):
        chip = optional_text(entry / "name") or optional_text(entry / "device/name") or entry.name
        holder = next((one for one in (entry, entry / "device") if any(_numbers(one))), None)
        if holder is None or holder.resolve() in seen or _is_supply(entry, chip):
            continue
        seen.add(holder.resolve())
        device = entry / "device"
        folders.append((holder, chip, (device if device.exists() else entry).resolve()))
    names = [chip for _, chip, _ in folders]
    counted: dict[str, int] = {}
    taken: set[str] = set()
    found: list[Sensor] = []
    for holder, chip, device in folders:
        number = counted[chip] = counted.get(chip, -1) + 1
        instance = f"{chip}-{number}" if names.count(chip) > 1 else chip
        found += _sensors_of(holder, chip, instance, device, taken)
    return found


def _is_supply(entry: Path, chip: str) -> bool:
    return optional_text(entry / "device/type") in _SUPPLY_TYPES or _SUPPLY_NAMES.fullmatch(chip) is not None


def _numbers(folder: Path) -> Iterator[tuple[int, Path]]:
    for file in children(folder):
        if match := _SENSOR.fullmatch(file.name):
            yield int(match[1] or match[2]), file


def _sensors_of(folder: Path, chip: str, instance: str, device: Path, taken: set[str]) -> Iterator[Sensor]:
    """Yield one sensor per label, or per number where there is no label; energy and power of it are one quantity."""
    quantities: dict[str, list[Path]] = {}
    labels: dict[str, str] = {}
    # Sorted by name, energy comes before power and average before input: the first of a quantity sees most.
    for number, file in sorted(_numbers(folder), key=lambda found: found[1].name):
        label = _label(folder, file, number)
        key = label or str(number)
        quantities.setdefault(key, []).append(file)
        labels[key] = label
    kind = KINDS.get(re.sub(r"_gt\d+$", "", chip), "other")
    if chip == "pmbus" and not any(re.fullmatch(r"pin\d*", label) for label in labels.values()):
        # Without an input it is some regulator on the board.
        kind = "other"
    for key, files in quantities.items():
        base = re.sub(r"\W+", "-", labels[key]).strip("-") or files[0].name.rpartition("_")[0]
        name = f"{instance}-{base}"
        if name in taken:
            name = f"{name}@{files[0].name}"
        taken.add(name)
        yield Sensor(
            name=name,
            chip=re.sub(r"_gt\d+$", "", chip),
            instance=instance,
            kind=kind,
            label=labels[key],
            files=tuple(files),
            device=device,
            update_s=_seconds(optional_number(folder / "update_interval")),
            averaging_s=_seconds(optional_number(folder / f"{files[0].name}_interval")),
            max_power_w=_max_power_w(folder, files),
            whole_socket=chip == "amdgpu" and "vddnb" in {optional_text(folder / f"in{n}_label") for n in (0, 1)},
        )


def _label(folder: Path, file: Path, number: int) -> str:
    """Return the label of a file, or that of the other quantity of its number where only that has one."""
    own = file.name.rpartition("_")[0]
    for prefix in (own, f"power{number}", f"energy{number}"):
        for ending in ("label", "oem_info"):
            if text := optional_text(folder / f"{prefix}_{ending}"):
                return text
    return ""


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1e3 if milliseconds and milliseconds > 0 else None


def _max_power_w(folder: Path, files: list[Path]) -> float | None:
    """Return 1.5 times the highest plausible limit that is stated of the quantity."""
    numbers = {match[1] for file in files if (match := re.search(r"(\d+)_", file.name))}
    stated = [optional_number(folder / f"power{number}_{limit}") for number in numbers for limit in _LIMITS]
    plausible = [value for value in stated if value is not None and _LEAST_LIMIT_UW <= value <= _MOST_LIMIT_UW]
    return TRANSIENT * max(plausible) * 1e-6 if plausible else None
