"""What a profile knows of operators: those measured for named models, families regressed, overheads, and how far all this errs."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, model_validator
from typing_extensions import Self

from cwmp_profiler.strict import RECORD, AtLeastOne, Finite, NonNegative, Positive, Share

Part: TypeAlias = Literal["call", "work", "run", "line", "streamed", "given"]
"""Parts of a write of chosen entries: the call itself; what is done entry by entry; runs of neighbours that are done as one, lines included;
lines touched here and there, and lines after lines; positions and values that are read."""


class _Model(BaseModel):
    model_config = RECORD


class Validity(_Model):
    """What the times hold for; other software or threads run other kernels."""

    torch: str
    threads: AtLeastOne
    libraries: dict[str, str] = {}
    """Versions of what torch computes with, for example `mkl`, `onednn`, `cudnn`."""
    reference_s: NonNegative
    """Seconds of the reference kernel (a small matrix product) in quiet moments: a machine on which it differs is in another state."""


class MeasuredOperator(_Model):
    """One operator that was timed alone."""

    operator: dict[str, Any]
    """Its description (`cwmp_profiler.operators.operator.Operator.to_json`), distances included."""
    seconds: NonNegative
    """Time of one run in quiet moments, without the call."""
    noise: NonNegative
    """Relative standard deviation of that time."""
    power_w: NonNegative | None = None
    """Watts while it runs again and again, static power included; None where no meter window was spent on it."""


class MeasuredModel(_Model):
    """A model whose operators were timed."""

    params: dict[str, Any] = {}
    """What made the step: model, batch, optimizer, density."""
    operators: list[MeasuredOperator]
    step_s: NonNegative
    """The whole step, timed beside. No prediction uses it."""


class StepError(_Model):
    """How a prediction of a block that the fit never saw came out; what intervals are made of."""

    block: str
    kind: str
    """`measured` (its own operators timed) or `families` (operators predicted by fits without this block)."""
    log_error: Finite
    """Natural logarithm of measured over predicted seconds of the step."""
    scale: NonNegative
    """Relative error expected there; the interval is a quantile of |log_error| / scale, times the scale of what is predicted."""


class OperatorsBlock(_Model):
    """Costs of operators on this device."""

    validity: Validity
    overhead_s: dict[str, NonNegative]
    """Seconds of a call by phase (`forward`, `backward`, `update`), of a `view`, more of a `cold` call, and once a `step`."""
    fault_s: NonNegative
    """Seconds of a page fault."""
    models: dict[str, MeasuredModel] = {}
    """Measured models by name."""
    families: dict[str, dict[str, Any]] = {}
    """Regressions by family (`cwmp_costmodels.operators.family.FamilyModel.to_json`)."""
    power_ratio: dict[str, NonNegative] = {}
    """Dynamic power of a family over what physics says; 1 where no meter window says more."""
    errors: list[StepError] = []
    """Held-out blocks."""


class UpdateCurve(_Model):
    """Cost of the update of one tensor by its entries and the share updated, over what the traffic model predicts.

    One per optimiser and mode, point by point: the lists are of one length. Between points the factor is interpolated over the
    logarithms of entries and density, beyond them it stays what it is at the nearest.
    """

    entries: list[Positive]
    """Entries of the tensor, by point."""
    density: list[Share] = []
    """Share of them that was updated, by point; empty if the factors hold at every density."""
    factor: list[NonNegative]
    """Measured over modelled dynamic joules."""
    time_factor: list[NonNegative]
    """The same for seconds."""
    error: list[NonNegative] | None = None
    """Half-width of the 95% interval of the natural logarithm of `factor`, at a unit way from each point (`cwmp_costmodels.profile.curves`), as
    sizes and points left out of the curve were missed; None where nothing could be left out or nobody did."""
    time_error: list[NonNegative] | None = None
    """The same for seconds."""

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        lengths = {
            name: len(column)
            for name in ("entries", "density", "factor", "time_factor", "error", "time_error")
            if (column := getattr(self, name)) or name not in {"density", "error", "time_error"}
        }
        if len(set(lengths.values())) > 1 or not self.entries:
            told = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise ValueError(f"an update curve has lists of one length, one value a point, got {told}")
        return self


class WriteParts(_Model):
    """Cost of the compiled loops that write chosen entries, by part of the work, over what the traffic model predicts for the part.

    One per optimiser. Between sizes factors are interpolated over the logarithm of the entries.
    """

    entries: list[Positive]
    """Entries of the tensors measured, ascending."""
    factor: dict[Part, list[NonNegative]]
    """Measured over modelled dynamic joules by part, by size."""
    time_factor: dict[Part, list[NonNegative]]
    """The same for seconds."""
    error: NonNegative | None = None
    """Half-width of the 95% interval of the natural logarithm of a whole write's dynamic joules, at a unit way from the nearest sizes
    (`cwmp_costmodels.profile.curves`), as sizes left out were missed; None where none could be."""
    time_error: NonNegative | None = None
    """The same for seconds."""
