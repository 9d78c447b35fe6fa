"""What the records of every file share: no unknown field, nothing changed after reading, and numbers that are numbers.

Strict means that text or a truth value is no number, and finite that NaN and infinity are none: JSON writers that allow them exist.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False, strict=True)]
"""More than nothing, at most all."""
Count = Annotated[int, Field(ge=0, strict=True)]
AtLeastOne = Annotated[int, Field(ge=1, strict=True)]

RECORD = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
"""Configuration of a record; a field's docstring is its description in the schema."""
