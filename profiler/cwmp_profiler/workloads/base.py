"""What a workload is: a named, parameterised operation with exact counts per iteration and a way to run it on torch."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cwmp_profiler.counts import Counts
from cwmp_profiler.device_info import DeviceInfo

if TYPE_CHECKING:
    from cwmp_profiler.workloads.operands import Operands

Step = Callable[[], object]
"""One iteration of a workload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point of a plan.

    Attributes:
        workload: Name of the workload, for example `memory.write`.
        params: Its parameters, JSON values only.
    """

    workload: str
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """Family of the workload: the part of its name before the first dot."""
        return self.workload.partition(".")[0]

    @property
    def id(self) -> str:
        """Content hash of workload and parameters: the same work has the same id in every session."""
        text = json.dumps([self.workload, dict(self.params)], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def label(self) -> str:
        """Return workload and parameters for people."""
        return " ".join([self.workload, *(f"{key}={value}" for key, value in self.params.items())])


class Workload(ABC):
    """An operation that can be planned, counted and run.

    Attributes:
        name: `family.operation`.
    """

    name: str

    @abstractmethod
    def points(self, device: DeviceInfo, preset: str) -> Iterable[Point]:
        """Return the points that `preset` measures on `device`."""

    @abstractmethod
    def counts(self, params: Mapping[str, Any], device: DeviceInfo) -> Counts:
        """Return the counts of one iteration."""

    @abstractmethod
    def footprint_bytes(self, params: Mapping[str, Any], device: DeviceInfo) -> int:
        """Return the memory that running it takes, in bytes."""

    @abstractmethod
    def build(self, params: Mapping[str, Any], device: DeviceInfo, operands: Operands) -> Step:
        """Allocate what is needed and return a function that does one iteration on `operands.device`."""


def take(preset: str, *, quick: Iterable[Any], standard: Iterable[Any], full: Iterable[Any]) -> list[Any]:
    """Return the list that belongs to `preset`."""
    return list({"quick": quick, "standard": standard, "full": full}[preset])
