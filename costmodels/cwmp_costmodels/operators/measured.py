"""From files of measured operators to what a profile keeps of them: models, families, overheads, and errors on blocks held out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from cwmp_costmodels.errors import FitError
from cwmp_costmodels.operators.family import LEAST_SAMPLES, FamilyModel, fit_family
from cwmp_costmodels.operators.power import power_ratios
from cwmp_costmodels.operators.sample import Sample, by_family, sample_of
from cwmp_costmodels.operators.scale import MOST_OUTSIDE, measured_scale, regressed_scale
from cwmp_costmodels.profile.operators import MeasuredModel, MeasuredOperator, OperatorsBlock, StepError, Validity
from cwmp_costmodels.profile.schema import Profile
from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.operators.block_records import BlockRecord, OperatorRecord
from cwmp_profiler.operators.overhead import fit_overhead
from cwmp_profiler.operators.records import OperatorsFile

PLAN = "families"
"""What `params["plan"]` of a block of the plan says."""

WHOLE = "whole/"
"""How names of the plan's whole networks begin: no fit takes their operators."""

CALL_S = 2e-6
"""Seconds added to each operator's time for the regression and taken off again: what is far below a call matters to no step, and its
logarithm is noise."""

MOST_SAMPLES = 3000
"""Samples of a family that a fit takes: more tell little and cost minutes. Whole blocks are taken, in the order of the plan, which mixes
kinds."""

FOLDS = 5

QUARTILES = 1.35
"""Interquartile range of a normal distribution, in standard deviations."""

COMPARED = ("torch", "torch_threads")


def fit_operators(
    files: Sequence[OperatorsFile], profile: Profile, *, seed: int = 0, families: OperatorsBlock | None = None
) -> OperatorsBlock:
    """Return what files of measured operators say, for the device of `profile`.

    Args:
        files: Files of one device and software.
        profile: The fitted profile that they join: its coefficients are the physics of power.
        seed: Of everything drawn.
        families: An earlier fit whose families and errors are taken over instead of fitted again.

    Raises:
        FitError: If files are of another device or software, or hold no steps that tell overheads.
    """
    _check(files, profile)
    device = profile.device.info()
    blocks = [block for found in files for block in found.blocks]
    overheads = [block for block in blocks if block.block.startswith("overhead/")]
    if not overheads:
        names = ", ".join(str(found.path) for found in files)
        raise FitError(
            f"{names}: no steps that tell what calls cost; measure again with 'cwmp-profile measure --model SPEC'"
        )
    overhead = fit_overhead(overheads)
    planned = [block for block in blocks if block.params.get("plan") == PLAN]
    named = [block for block in blocks if block not in overheads and block not in planned]
    if families is None:
        samples = {
            block.block: [(sample_of_record(block, record, device), record.runs) for record in block.operators]
            for block in planned
        }
        models = _families([s for name, own in samples.items() if not name.startswith(WHOLE) for s, _ in own], seed)
        regressed = {family: model.to_json() for family, model in models.items()}
        measured_errors = [_measured_error(block, overhead) for block in planned]
        errors = [*measured_errors, *_family_errors(planned, samples, models, overhead)]
    else:
        regressed, errors = families.families, families.errors
    header = files[0].header
    return OperatorsBlock(
        validity=Validity(
            torch=str(header.environment.get("torch", "")),
            threads=int(header.environment.get("torch_threads", device.threads)),
            libraries={key: str(value) for key, value in header.environment.get("libraries", {}).items()},
            reference_s=min(block.reference_s for block in blocks),
        ),
        overhead_s=overhead,
        fault_s=sorted(block.fault_s for block in blocks)[len(blocks) // 2],
        models={block.block: _model(block) for block in named},
        families=regressed,
        power_ratio=power_ratios(blocks, profile),
        errors=errors,
    )


def _check(files: Sequence[OperatorsFile], profile: Profile) -> None:
    if not files:
        raise FitError("no files of measured operators")
    first = files[0]
    for found in files:
        info = found.header.device_info()
        for field, mine, theirs in (
            ("device.kind", profile.device.kind, info.kind),
            ("device.model", profile.device.model, info.model),
            ("device.threads", profile.device.threads, info.threads),
            *((key, first.header.environment.get(key), found.header.environment.get(key)) for key in COMPARED),
        ):
            if mine != theirs:
                raise FitError(
                    f"{found.path} cannot be fitted with the rest: {field} is {theirs!r} there and {mine!r} here; measure it again "
                    "where the rest was measured"
                )
        if not found.blocks:
            raise FitError(f"{found.path} holds no measured block; measure it again")


def _noise(record: OperatorRecord) -> float:
    time = record.time
    return min((time.high - time.low) / QUARTILES / max(time.seconds, 1e-9), 1.0)


def _model(block: BlockRecord) -> MeasuredModel:
    return MeasuredModel(
        params=block.params,
        operators=[
            MeasuredOperator(
                operator=record.operator,
                seconds=block.net_s(record),
                noise=_noise(record),
                power_w=math.fsum(w.energy_j for w in record.power) / math.fsum(w.duration_s for w in record.power)
                if record.power
                else None,
            )
            for record in block.operators
        ],
        step_s=block.step_s,
    )


def sample_of_record(block: BlockRecord, record: OperatorRecord, device: DeviceInfo) -> Sample:
    """Return a measured operator as a sample of its family."""
    seconds = block.net_s(record)
    value = seconds + CALL_S
    # What is taken off for the call is uncertain by a part of a microsecond.
    noise = math.hypot(_noise(record) * seconds, 0.2 * block.floor_s) / value
    return sample_of(record.described(), device, value, noise=min(noise, 1.0), block=block.block)


def _families(samples: Sequence[Sample], seed: int) -> dict[str, FamilyModel]:
    groups = by_family(sample for sample in samples if sample.family != "other")
    enough = {family: _enough(own) for family, own in groups.items()}
    return {
        family: fit_family(own, folds=FOLDS, seed=seed)
        for family, own in enough.items()
        if len(own) >= LEAST_SAMPLES and len({sample.block for sample in own}) > 1
    }


def _enough(samples: Sequence[Sample]) -> list[Sample]:
    """Return whole blocks until there are enough, each operator of a block once: the same shape at other distances tells little."""
    blocks: dict[str, dict[tuple[str, str], Sample]] = {}
    for sample in samples:
        blocks.setdefault(sample.block, {})[sample.variant, sample.label] = sample
    taken: list[Sample] = []
    for own in blocks.values():
        if len(taken) >= MOST_SAMPLES:
            break
        taken += own.values()
    return taken


def beside_s(calls: Mapping[str, float], overhead: Mapping[str, float]) -> float:
    """Return the seconds of calls and views; profiles made before `alone` was told apart take their forward calls for it."""
    told = {"alone": overhead.get("forward", 0.0), **overhead}
    return math.fsum(told.get(kind, 0.0) * amount for kind, amount in calls.items())


def _measured_error(block: BlockRecord, overhead: Mapping[str, float]) -> StepError:
    beside = beside_s(block.calls, overhead)
    own = [(block.net_s(record) * record.runs, _noise(record)) for record in block.operators]
    total = math.fsum(seconds for seconds, _ in own) + beside
    return StepError(
        block=block.block,
        kind="measured",
        log_error=math.log(block.step.seconds / total),
        scale=measured_scale(own, beside),
    )


def _family_errors(
    planned: Sequence[BlockRecord],
    described: Mapping[str, Sequence[tuple[Sample, int]]],
    models: Mapping[str, FamilyModel],
    overhead: Mapping[str, float],
) -> list[StepError]:
    """Predict each block's step from fits that never saw the block; `described` has its samples and how often each runs.

    Blocks of which too much lay outside of what their fits had seen are left out, as nothing would be claimed of them.
    """
    held = _held_out(models, [sample for own in described.values() for sample, _ in own])
    found: list[StepError] = []
    for block in planned:
        if any(sample.family not in models for sample, _ in described[block.block]):
            continue
        parts: list[tuple[str, float, float]] = []
        beyond = 0.0
        for sample, runs in described[block.block]:
            value, error, outside = held[_key(sample)]
            seconds = max(value - CALL_S, 0.0) * runs
            parts.append((sample.family, seconds, error))
            beyond += seconds * outside
        beside = beside_s(block.calls, overhead)
        total = math.fsum(seconds for _, seconds, _ in parts) + beside
        if beyond <= MOST_OUTSIDE * total:
            found.append(
                StepError(
                    block=block.block,
                    kind="families",
                    log_error=math.log(block.step.seconds / total),
                    scale=regressed_scale(parts, beside),
                )
            )
    return found


_Key = tuple[str, str, str, str]


def _key(sample: Sample) -> _Key:
    return (sample.family, sample.block, sample.variant, sample.label)


def _held_out(models: Mapping[str, FamilyModel], samples: Sequence[Sample]) -> dict[_Key, tuple[float, float, bool]]:
    """Return (prediction, relative error expected, whether outside) of samples by fits that never saw their block."""
    held = {
        _key(sample): (predicted, error, outside)
        for model in models.values()
        for sample, predicted, error, outside in zip(
            model.samples, model.held_out.predicted, model.held_out_error, model.held_out.outside, strict=True
        )
    }
    # Blocks beyond the samples that a fit takes: no fit of the family saw them.
    for family, own in by_family(sample for sample in samples if _key(sample) not in held).items():
        if family in models:
            for sample, one in zip(own, models[family].predict_all(own), strict=True):
                held[_key(sample)] = (one.value, one.error, bool(one.outside))
    return held
