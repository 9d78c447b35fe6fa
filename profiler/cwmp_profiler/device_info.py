"""What a machine is, as far as costs depend on it: memory levels, line size, data types, threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level of the memory hierarchy.

    Attributes:
        name: `l1`, `l2`, `l3` or `dram`; the last level is always `dram`.
        capacity_bytes: Largest working set that is counted as living here; None for `dram`.
    """

    name: str
    capacity_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """A device as the cost model sees it. It is kept in measurement headers and profiles.

    Attributes:
        kind: Device name as given to `--device`: `cpu`, `cuda`, `jetson`, `rpi5`, `simulated`.
        model: Model name as the machine reports it.
        levels: Memory levels, nearest first, ending with `dram`.
        line_bytes: Bytes that a scattered access moves (cache line, or sector on a GPU).
        memory_bytes: Main (or device) memory.
        threads: Threads that workloads use.
        dtypes: Torch names of the matrix-product types measured, for example `float32`, `bfloat16`.
        details: Anything else worth keeping, JSON values only.
    """

    kind: str
    model: str
    levels: tuple[Level, ...]
    line_bytes: int = 64
    memory_bytes: int = 0
    threads: int = 1
    dtypes: tuple[str, ...] = ("float32",)
    details: Mapping[str, Any] = field(default_factory=dict)

    def level_of(self, working_set_bytes: float) -> str:
        """Return the name of the nearest level that holds `working_set_bytes`."""
        for level in self.levels:
            if level.capacity_bytes is None or working_set_bytes <= level.capacity_bytes:
                return level.name
        return self.levels[-1].name

    @property
    def processor_caches(self) -> bool:
        """Whether work is counted as a processor's caches do it (see `cwmp_profiler.counts`)."""
        return bool(self.details.get("processor_caches"))

    @property
    def cached_bytes(self) -> int:
        """Bytes that may be found in the last cache, 0 without one: by measured latency, or as reported where that is more.

        What others use of a shared cache changes from minute to minute: work that is meant to find nothing there has to outgrow all of it.
        """
        caches = [level for level in self.levels if level.capacity_bytes]
        if not caches:
            return 0
        residency = self.details.get("residency") or {}
        return max(caches[-1].capacity_bytes or 0, int(residency.get("reported", {}).get(caches[-1].name) or 0))

    def nearer(self, one: str, other: str) -> str:
        """Return which of two levels is nearer to the processor."""
        names = [level.name for level in self.levels]
        return min(one, other, key=names.index)

    def shares_of(self, working_set_bytes: float) -> dict[str, float]:
        """Return the shares of a working set by the level they live at; they add up to 1.

        The last cache of a processor replaces lines nearly at random: a set that outgrows it, used again and again, keeps
        about capacity/size of itself there. Everywhere else a set lives at one level.
        """
        level = self.level_of(working_set_bytes)
        if not self.processor_caches or len(self.levels) < 2 or level != self.levels[-1].name:
            return {level: 1.0}
        last = self.levels[-2]
        kept = (last.capacity_bytes or 0) / working_set_bytes
        return {last.name: kept, level: 1.0 - kept}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with every attribute."""
        data: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        data["levels"] = [{"name": level.name, "capacity_bytes": level.capacity_bytes} for level in self.levels]
        data["dtypes"] = list(self.dtypes)
        data["details"] = dict(self.details)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Build from what `to_json` wrote. Raises KeyError or TypeError where a field is missing or wrong."""
        known = {name: data[name] for name in cls.__slots__ if name in data}
        known["levels"] = tuple(Level(name=x["name"], capacity_bytes=x["capacity_bytes"]) for x in data["levels"])
        known["dtypes"] = tuple(data.get("dtypes", ("float32",)))
        return cls(**known)
