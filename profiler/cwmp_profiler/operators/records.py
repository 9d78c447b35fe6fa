"""Files of measured operators: JSON Lines, a header, then one line per block, flushed before the next begins."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from cwmp_profiler.errors import SessionError
from cwmp_profiler.file_kinds import kind_of
from cwmp_profiler.operators.block_records import BlockRecord
from cwmp_profiler.sessions.measurements import Opening, first_problem

KIND = "cwmp-operators"
RecordT = TypeVar("RecordT", bound=BaseModel)
SCHEMA_VERSION = 1


class OperatorsHeader(Opening):
    """First line of a file of operators."""

    kind: Literal["cwmp-operators"] = "cwmp-operators"
    schema_version: Literal[1] = 1
    plan: dict[str, Any] = Field(default_factory=dict)
    """What was set out to be measured: blocks by name, budget, seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorsFile:
    """A file of operators in memory.

    Attributes:
        path: Where it was read from.
        header: Its first line.
        blocks: Whole blocks, in file order.
        torn: Whether a torn last line was left out.
        sha256: Hash of the whole lines.
    """

    path: Path
    header: OperatorsHeader
    blocks: tuple[BlockRecord, ...]
    torn: bool
    sha256: str


def is_operators_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file is of this kind; False for what cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return bool(_kind(file.readline(1 << 20)) == KIND)
    except OSError:
        return False


def read_operators(path: str | os.PathLike[str]) -> OperatorsFile:
    """Read a file of operators.

    Raises:
        SessionError: If it is missing, of another kind, newer, or wrong anywhere but in a torn last line.
    """
    target = Path(path)
    try:
        lines = target.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        raise SessionError(f"no file {target}; make one with 'cwmp-profile measure --model SPEC -o {target}'") from None
    except OSError as error:
        raise SessionError(f"cannot read {target}: {error.strerror or error}") from None
    if not lines or _kind(lines[0]) != KIND:
        found = kind_of(lines[0]) if lines else None
        raise SessionError(
            f"{target} is {found or 'no file of measured operators'}; make one with 'cwmp-profile measure --model SPEC'"
        )
    torn = not lines[-1].endswith(b"\n")
    whole = lines[:-1] if torn else lines
    version = json.loads(lines[0]).get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise SessionError(
            f"{target} has schema_version {version}, this program knows up to {SCHEMA_VERSION}; update it"
        )
    return OperatorsFile(
        path=target,
        header=_parse(OperatorsHeader, whole[0], f"{target} line 1"),
        blocks=tuple(_parse(BlockRecord, line, f"{target} line {number}") for number, line in enumerate(whole[1:], 2)),
        torn=torn,
        sha256=hashlib.sha256(b"".join(whole)).hexdigest(),
    )


class OperatorsWriter:
    """Appends blocks to a file; each is on disk before the next begins."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self._file = file

    def append(self, block: BlockRecord) -> None:
        """Write one block.

        Raises:
            SessionError: If it cannot be written; blocks before it are kept.
        """
        self.write(block)

    def write(self, record: BaseModel) -> None:
        """Write one line."""
        line = json.dumps(record.model_dump(mode="json"), separators=(",", ":"), allow_nan=False).encode() + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise SessionError(f"cannot write {self.path}: {error.strerror or error}; free some space") from None


@contextmanager
def write_operators(path: Path, header: OperatorsHeader, *, overwrite: bool = False) -> Iterator[OperatorsWriter]:
    """Start a file.

    Raises:
        SessionError: If it exists (unless `overwrite`) or cannot be written.
    """
    try:
        with path.open("wb" if overwrite else "xb") as file:
            writer = OperatorsWriter(path, file)
            writer.write(header)
            yield writer
    except FileExistsError:
        raise SessionError(f"{path} exists; choose another file with -o") from None
    except OSError as error:
        raise SessionError(f"cannot write {path}: {error.strerror or error}; choose another file with -o") from None


def _kind(line: bytes) -> Any:
    try:
        data = json.loads(line)
    except ValueError:
        return None
    return data.get("kind") if isinstance(data, dict) else None


def _parse(model: type[RecordT], line: bytes, where: str) -> RecordT:
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        raise SessionError(f"{where}: {first_problem(error)}") from None
