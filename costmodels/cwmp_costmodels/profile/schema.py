"""The device profile as data: pydantic models, strict about numbers, so that an error names the path of the bad field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from cwmp_costmodels.profile.operators import OperatorsBlock, UpdateCurve, WriteParts
from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.display import ShortTable, Shown
from cwmp_profiler.provenance import Provenance
from cwmp_profiler.si_prefixes import si
from cwmp_profiler.strict import RECORD, AtLeastOne, Count, Finite, NonNegative, Positive

SCHEMA_VERSION = 3

ProfileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Status = Literal["identified", "coarse", "at bound", "not identified", "literature", "given"]
"""`coarse`: the interval excludes zero and is wider than 5% to either side; `not identified`: it holds zero."""

Verdict = Literal["good", "doubtful", "bad"]


class _Model(BaseModel):
    model_config = RECORD


class Coefficient(_Model):
    """One fitted, cited or given number with its 95% interval."""

    value: NonNegative
    """Best value, in `unit`."""
    low: NonNegative | None = None
    """Lower end of the 95% interval; None where there is none (literature)."""
    high: NonNegative | None = None
    """Upper end of the 95% interval."""
    unit: str
    """Unit in words of the SI, for example `J/B`, `J/line`, `s/flop`, `W`."""
    status: Status
    """Whether the measurements identify it."""
    citation: str | None = None
    """Source of a literature value."""
    remark: str | None = None
    """What a reader must know, for example a plausibility warning."""

    @property
    def told(self) -> bool:
        """Whether measurements say anything of the value: a zero that is not identified and has no interval is none."""
        return not (self.status == "not identified" and self.value == 0 and self.low is None)

    @property
    def half_width(self) -> float | None:
        """The wider half of the interval over the value; None where there is no interval, or no value to hold it against."""
        if self.low is None or self.high is None or not self.value:
            return None
        return max(self.high - self.value, self.value - self.low) / self.value


class LayerCoefficient(_Model):
    """Correction of one layer type: measured dynamic energy of its update over what the traffic model predicts."""

    factor: Coefficient
    """Dimensionless factor (unit `1`)."""
    windows: Count
    """Windows it was fitted on."""
    time_factor: Coefficient | None = None
    """The same for time: measured duration over what the time model predicts (unit `1`)."""


class DeviceBlock(_Model):
    """The device that a profile holds for: `DeviceInfo` as data."""

    kind: str
    model: str
    levels: list[LevelBlock]
    line_bytes: AtLeastOne
    memory_bytes: Count
    threads: AtLeastOne
    dtypes: list[str]
    details: dict[str, Any] = {}

    def info(self) -> DeviceInfo:
        """Return the `DeviceInfo` that this block describes."""
        return DeviceInfo.from_json(self.model_dump())


class LevelBlock(_Model):
    """One memory level."""

    name: str
    capacity_bytes: int | None = Field(default=None, strict=True)


class RailBlock(BaseModel):
    """One rail of the meter, as its `Rail.to_json` wrote it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    kind: str
    parent: str | None = None


class MeterBlock(_Model):
    """The meter that the joules come from, with its correction against a reference, if it was calibrated."""

    name: str
    provenance: Provenance
    rails: list[RailBlock] = []
    notes: list[str] = []
    slope: Coefficient | None = None
    """Reference joules per joule read; None if unknown."""
    offset_w: Finite | None = None
    """Watts of the reference at zero watts read."""
    offset_low_w: Finite | None = None
    offset_high_w: Finite | None = None
    reference: str | None = None
    """Meter that slope and offset are against."""

    def calibration(self) -> str | None:
        """Return slope and offset in one line; None where no slope is known and none could be: nothing was read."""
        if self.slope is None:
            if not self.rails or self.provenance in {Provenance.ESTIMATED, Provenance.LITERATURE}:
                return None
            if self.provenance is Provenance.PUBLISHED:
                return "slope unknown: others read it, and it cannot be held against a better meter here"
            return "slope unknown: never held against a better meter ('cwmp-profile calibrate')"
        text = f"meter slope {self.slope.value:.4g}"
        if self.slope.low is not None and self.slope.high is not None:
            text += f" ({self.slope.low:.4g} to {self.slope.high:.4g})"
        if self.offset_w is not None:
            text += f", offset {self.offset_w:.3g} W"
            if self.offset_low_w is not None and self.offset_high_w is not None:
                text += f" ({self.offset_low_w:.3g} to {self.offset_high_w:.3g})"
        return f"{text} against {self.reference or 'an unnamed reference'}; joules are as the meter read them"


class HeldOut(_Model):
    """Error on one workload family that the fit did not see."""

    family: str
    windows: Count
    energy_error: NonNegative
    """Mean absolute relative error of energy."""
    time_error: NonNegative
    """Mean absolute relative error of time."""


class LackOfFit(_Model):
    """Lack-of-fit F test: what points are off by, against what their repeats are off by."""

    statistic: NonNegative
    p_value: NonNegative
    points: Count
    """Degrees of freedom of the points about the model."""
    repeats: Count
    """Degrees of freedom of the repeats about their points."""
    misfit: NonNegative
    """Relative standard deviation of points about the model beyond noise."""
    noise: NonNegative
    """Relative standard deviation of repeats about their point."""


class Residual(_Model):
    """One point of the session: what the model says of it."""

    point: str
    """Workload and parameters."""
    family: str
    windows: AtLeastOne
    measured_j: Positive
    """Mean joules of a window."""
    predicted_j: NonNegative
    """Mean joules predicted from the windows' counts, static power over the predicted time included."""
    flops: NonNegative = 0.0
    """Floating-point operations of a window."""
    moved_bytes: NonNegative = 0.0
    """Bytes that a window moves at any memory level, touched lines included."""
    iterations: NonNegative | None = None
    """Operations of a window (iterations of the point's work), in the mean; None in profiles that do not hold it."""
    arithmetic: str | None = None
    """The one kind of arithmetic counted, for example `flop_float32`; None where there is none or several."""


class FitBlock(_Model):
    """How good the fit is and what it was made from."""

    windows: Count
    points: Count
    energy_error: NonNegative
    """Mean absolute relative error of energy on the windows fitted."""
    time_error: NonNegative
    held_out: list[HeldOut] = []
    held_out_energy_error: NonNegative | None = None
    """Mean over all held-out windows; None where nothing could be held out."""
    held_out_time_error: NonNegative | None = None
    condition_number: NonNegative
    vif: dict[str, float] = {}
    """Variance inflation per coefficient; infinite values are left out and named in warnings."""
    idle_power_w: NonNegative | None = None
    """Mean power of the idle windows; not P0."""
    bootstrap: Count
    seed: int = Field(strict=True)
    static: Literal["both", "attributed", "included"] = "both"
    """`attributed` where only the cost with static power attributed means anything (an estimated meter); `included` where static
    power was not told from work and is part of the joules per count."""
    repeat_spread: NonNegative | None = None
    """Median relative spread of repeats of one point: the noise that no model can explain."""
    verdict: Verdict | None = None
    """Whether the model describes the device: `good` (within noise), `doubtful`, `bad`; None where nothing shows it."""
    energy_lack: LackOfFit | None = None
    time_lack: LackOfFit | None = None
    not_held_out: list[str] = []
    """Groups of windows that the others do not determine, so that leaving them out says nothing."""
    left_out: dict[str, int] = {}
    """Windows that did not enter, by reason."""
    order_correlation: Finite | None = None
    """Serial correlation of the noise in measured order; near 0 unless the device drifts."""
    drift: NonNegative = 0.0
    """Relative standard deviation of the part of the noise that neighbours in time share; 0 unless it is significant."""
    dynamic_share: NonNegative | None = None
    """Share of joules that work adds to static power where it adds most (90th percentile of windows); None if estimated."""
    warnings: list[str] = []
    measurements: list[MeasurementsRef] = []
    residuals: list[Residual] = []
    """Every point with work, updates (which the main fit does not see) included."""


class MeasurementsRef(_Model):
    """One measurements file that the fit used."""

    name: str
    sha256: str
    windows: Count


class ValidationCase(_Model):
    """Predicted against measured joules of one piece of work that the fit never saw."""

    case: str
    predicted_j: NonNegative
    measured_j: Positive
    error: Finite
    """(predicted - measured) / measured."""
    detail: dict[str, Any] = {}


class ValidationBlock(_Model):
    """Result of `cwmp-profile validate`."""

    created: str
    meter: str
    provenance: Provenance
    cases: list[ValidationCase]
    mean_abs_error: NonNegative
    worst_abs_error: NonNegative


class SimulationBlock(_Model):
    """Imperfections of a simulated device that takes this profile as its truth."""

    noise: NonNegative = 0.01
    """Relative standard deviation of a window's energy and duration."""
    counter_unit_j: Positive = 6.103515625e-05
    counter_bits: int = Field(default=32, ge=8, le=64, strict=True)
    update_period_s: Positive = 0.001
    drift_per_hour: Finite = 0.0
    """Relative drift of power per hour."""
    spike_rate_hz: NonNegative = 0.0
    spike_w: NonNegative = 20.0
    spike_s: Positive = 0.05
    idle_power_w: NonNegative | None = None
    """Power when nothing runs; None takes the static power."""


class Profile(Shown, _Model):
    """A device profile, schema version 3. See docs/profile.md."""

    schema_version: Literal[3] = 3
    name: ProfileName
    provenance: Provenance
    created: str
    tool: str
    description: str = ""
    device: DeviceBlock
    meter: MeterBlock
    coefficients: dict[str, Coefficient]
    """Joules per count (see `cwmp_profiler.counts`), and `static_power` in watts."""
    times: dict[str, Coefficient] = {}
    """Seconds per count."""
    layers: dict[str, LayerCoefficient] = {}
    """Correction per `type/optimizer/dense|sparse`, for example `linear/adam/sparse`."""
    updates: dict[str, UpdateCurve] = {}
    """Cost of updates over the entries of a tensor, by `optimizer/dense` or `optimizer/sparse`; it takes the place of factors by type."""
    writes: dict[str, WriteParts] = {}
    """Cost of chosen entries written by the compiled loops, part by part, by optimiser; they take the place of `optimizer/entries`."""
    operators: OperatorsBlock | None = None
    """Operators of named models, families of operators, overheads; None where nobody measured any."""
    radios: dict[str, Any] = {}
    """Radio models by name; see `cwmp_costmodels.radio`."""
    fit: FitBlock | None = None
    validation: ValidationBlock | None = None
    simulation: SimulationBlock | None = None

    def short_table(self) -> ShortTable:
        """Return the coefficients with their intervals, provenance first."""
        rows = [
            (name, si(found.value if found.told else None, found.unit), _interval(found), found.status)
            for name, found in self.coefficients.items()
        ]
        notes = [f"fit: {self.fit.verdict}"] if self.fit is not None else []
        return ShortTable(
            title=f"{self.name} ({self.provenance}): {self.device.model}",
            columns=("coefficient", "value", "95% interval", "status"),
            rows=rows,
            notes=notes,
        )


def _interval(found: Coefficient) -> str:
    if found.low is None or found.high is None:
        return ""
    return f"{si(found.low, found.unit)} to {si(found.high, found.unit)}"


DeviceBlock.model_rebuild()
FitBlock.model_rebuild()
