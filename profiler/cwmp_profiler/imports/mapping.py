"""Which columns of a table mean what: kept as TOML beside the table, or given piece by piece on the command line.

    [source]    repository, commit, licence, note         where the readings come from
    [device]    name, kind, levels, line_bytes, ...       what they are of
    [meter]     name, rail, semantics, parts, tick_j, ... what was read, and how
    [[work]]    name, energy, duration, counts, ...       one window per row and entry

A quantity is `EXPRESSION:UNIT` (see `expressions` and `units`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator
from typing_extensions import Self

from cwmp_profiler.compat import tomllib
from cwmp_profiler.errors import SessionError
from cwmp_profiler.imports.table import read_text
from cwmp_profiler.sessions.measurements import first_problem
from cwmp_profiler.strict import RECORD, AtLeastOne, Count, Positive

Semantics = Literal["total", "mean", "max", "min", "per-part"]
"""`total`: joules of the whole window. `mean`: a mean over repeats or samples. `max`, `min`: the extreme of several samples, so joules
are a bound. `per-part`: of one of `parts` equal parts, for example of one socket."""


class _Model(BaseModel):
    model_config = RECORD


class Source(_Model):
    """Where the readings come from."""

    repository: str = ""
    commit: str = ""
    licence: str = ""
    files: list[str] = []
    note: str = ""


class LevelMap(_Model):
    """One memory level of the device."""

    name: str
    capacity_bytes: int | None = None


class DeviceMap(_Model):
    """The device that the readings are of."""

    name: str = ""
    kind: str = "imported"
    levels: list[LevelMap] = [LevelMap(name="dram")]
    line_bytes: AtLeastOne = 64
    memory_bytes: Count = 0
    threads: AtLeastOne = 1
    dtypes: list[str] = ["float32"]
    details: dict[str, Any] = {}
    column: str | None = None
    """Column that tells devices of one file apart."""
    only: str | None = None
    """Its value for this device; without it, a file of several devices is refused or split."""


class MeterMap(_Model):
    """What was read."""

    name: str = "published"
    rail: str = "device"
    kind: str = "other"
    sense: Literal["energy", "power"] = "energy"
    semantics: Semantics = "total"
    samples: AtLeastOne | None = None
    """How many samples a `max`, `min` or `mean` is of."""
    parts: AtLeastOne = 1
    """Equal parts that a `per-part` reading is one of; joules are multiplied by it."""
    tick_j: Positive | None = None
    update_period_s: Positive | None = None
    averaging_s: Positive | None = None
    max_power_w: Positive | None = None
    notes: list[str] = []


class WorkMap(_Model):
    """One window per row: what ran, what it cost."""

    name: str = "table.row"
    """Workload as `family.operation`; `idle.rest` and `idle.awake` are windows without work."""
    when: str | None = None
    """Expression that must hold for a row to enter."""
    energy: str | None = None
    power: str | None = None
    duration: str | None = None
    iterations: str = "1"
    """Times that the work of `counts` was done in the window that energy and duration are of."""
    params: list[str] | None = None
    """Columns that tell points apart; None takes every column that no reading comes from. Rows alike in them are repeats."""
    counts: dict[str, str] = {}
    """Count (see `cwmp_profiler.counts`) per iteration, as an expression."""
    layer: Literal["linear", "conv2d", "pool2d"] | None = None
    """Counts of a layer from its shape (see `imports.layers`), beside those in `counts`."""
    phase: Literal["forward", "train"] = "forward"
    shape: dict[str, str] = {}
    """Dimensions of `layer` as expressions."""
    clock: str | None = None
    temperature: str | None = None

    @model_validator(mode="after")
    def _readings(self) -> Self:
        if (self.energy is None) == (self.power is None):
            raise ValueError(f"work {self.name} needs either energy or power")
        if self.duration is None:
            raise ValueError(
                f"work {self.name} needs a duration, for example duration = 'seconds:s' or '1:s' for rates"
            )
        if self.shape and self.layer is None:
            raise ValueError(f"work {self.name} has a shape and no layer")
        return self


class Mapping(_Model):
    """A whole mapping."""

    source: Source = Source()
    device: DeviceMap = DeviceMap()
    meter: MeterMap = MeterMap()
    same_clock_within: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Leave out rows whose clock is further than this share below the highest: coefficients hold at one clock."""
    work: Annotated[list[WorkMap], Field(min_length=1)]


def read_mapping(path: Path) -> Mapping:
    """Read a mapping file.

    Raises:
        SessionError: If it is missing or not valid; names file and field.
    """
    try:
        data = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise SessionError(f"{path} is no TOML ({error})") from None
    return make_mapping(data, str(path))


def make_mapping(data: dict[str, Any], where: str) -> Mapping:
    """Check a mapping.

    Raises:
        SessionError: If it is not valid; names the field.
    """
    try:
        return Mapping.model_validate(data)
    except ValidationError as error:
        raise SessionError(f"{where}: {first_problem(error)}; see docs/import.md") from None


def to_toml(mapping: Mapping) -> str:
    """Return a mapping as TOML; `read_mapping` gives the same mapping back."""
    data = mapping.model_dump(mode="json", exclude_defaults=True)
    works = data.pop("work")
    lines = [f"{key} = {_value(value)}" for key, value in data.items() if not isinstance(value, dict)]
    for name, table in data.items():
        if isinstance(table, dict):
            lines += ["", f"[{name}]", *(f"{_key(key)} = {_value(value)}" for key, value in table.items())]
    for work in works:
        lines += ["", "[[work]]"]
        lines += [f"{_key(key)} = {_value(value)}" for key, value in work.items()]
    return "\n".join(lines).lstrip("\n") + "\n"


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, dict):
        present = {key: item for key, item in value.items() if item is not None}
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in present.items()) + "}"
    return repr(value)
