"""Loads on disk: what was recorded while an external instrument logged, kept until its CSV file is at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError

from cwmp_profiler.calibration.readings import LoadWindow
from cwmp_profiler.errors import SessionError
from cwmp_profiler.provenance import Provenance
from cwmp_profiler.sessions.measurements import first_problem
from cwmp_profiler.strict import RECORD, Finite


class _Record(BaseModel):
    model_config = RECORD


class WindowRecord(_Record):
    """One window, as `LoadWindow`."""

    load: str
    began_s: Finite
    start_s: Finite
    end_s: Finite
    read_w: Finite
    reference_w: Finite | None = None


class LoadsFile(_Record):
    """Loads that a meter was read under."""

    kind: Literal["cwmp-loads"] = "cwmp-loads"
    schema_version: Literal[1] = 1
    created: str
    meter: str
    provenance: Provenance
    device: str
    """Model of the device."""
    windows: Annotated[list[WindowRecord], Field(min_length=1)]

    def load_windows(self) -> list[LoadWindow]:
        """Return the windows."""
        return [LoadWindow(**window.model_dump()) for window in self.windows]


def read_loads(path: str | os.PathLike[str]) -> LoadsFile:
    """Read a loads file.

    Raises:
        SessionError: If it is missing or not valid; names file and field.
    """
    target = Path(path)
    try:
        data = json.loads(target.read_bytes())
    except FileNotFoundError:
        raise SessionError(
            f"no loads file {target}; make one with 'cwmp-profile calibrate PROFILE --record {target}'"
        ) from None
    except OSError as error:
        raise SessionError(f"cannot read {target}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise SessionError(f"{target} is not JSON ({error}); give a file that 'calibrate --record' wrote") from None
    try:
        return LoadsFile.model_validate(data)
    except ValidationError as error:
        raise SessionError(f"{target}: {first_problem(error)}; give a file that 'calibrate --record' wrote") from None
