"""AMD GPUs through AMD SMI: the energy accumulator where the GPU has one, else power.

The accumulator counts ticks of `counter_resolution` microjoules; both come with each read. Power is given in whole watts.

Options (`MeterContext.options["amdsmi"]`, a mapping):
    library: stands for the module `amdsmi`.
    environ: stands for `os.environ` (ROCR_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES).
    power: `fallback` (default) or `only`.
    torch: stands for the module `torch` (see `torch_build`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cwmp_profiler.clock import Clock
from cwmp_profiler.errors import MeterError
from cwmp_profiler.meters.amd.gpus import (
    Gpu,
    call,
    find_gpus,
    load,
    shut_down,
    ticks_of,
    unavailable,
    watts_of,
)
from cwmp_profiler.meters.base import Meter, MeterContext, MeterFactory, Rail, Reading
from cwmp_profiler.meters.pace import find_pace
from cwmp_profiler.meters.torch_build import refuse_other_build

LEAST_SAMPLE_S = 0.05
"""Power is sampled at least this far apart: how often it changes is not documented."""


class AmdSmiMeter(Meter):
    """Energy or power of AMD GPUs."""

    name = "amdsmi"

    def __init__(self, library: Any, gpus: Sequence[Gpu], clock: Clock, notes: Sequence[str]) -> None:
        self.clock = clock
        self._library = library
        self._gpus = tuple(gpus)
        self._open = True
        self.rails = tuple(_rail(gpu) for gpu in gpus)
        self.notes = tuple(notes)
        if any(rail.sense == "power" for rail in self.rails):
            pace = find_pace(self, LEAST_SAMPLE_S)
            self.sample_period_s, self.dense_sample_s = pace.sample_s, pace.dense_s

    def read(self) -> Reading:
        """Read every GPU once.

        Raises:
            MeterError: If a GPU stops answering or answers with garbage.
        """
        before = self.clock.now()
        values: dict[str, float] = {}
        for gpu, rail in zip(self._gpus, self.rails, strict=True):
            if gpu.unit_j is not None:
                count = call(self._library, "amdsmi_get_energy_count", gpu)
                values[rail.name] = ticks_of(count, gpu)
            else:
                answer = call(self._library, "amdsmi_get_power_info", gpu)
                watts = watts_of(answer, gpu.power_key or "")
                if watts is None:
                    raise MeterError(
                        f"meter amdsmi: GPU {gpu.index} answered with no power ({answer!r:.80}); measure again"
                    )
                values[rail.name] = watts
        return Reading((before + self.clock.now()) / 2, values)

    def close(self) -> None:
        """Shut AMD SMI down."""
        if self._open:
            self._open = False
            shut_down(self._library)


class Factory(MeterFactory):
    """Opens AMD SMI for the visible GPUs."""

    name = "amdsmi"
    summary = "AMD GPUs: energy accumulator or power, through AMD SMI"
    devices = ("cuda",)
    rank = 12

    def open_for(self, context: MeterContext, device: str) -> Meter:
        """Open the one GPU that `device` (`cuda` or `cuda:<n>`, as torch calls AMD GPUs too) means."""
        return self.open(replace(context, options={**context.options, "device": device}))

    def open(self, context: MeterContext) -> Meter:
        """Open every visible GPU, or the one that the option `device` of the context names.

        Raises:
            MeterUnavailableError: If library, driver, permission or sensor is missing.
        """
        options: Mapping[str, Any] = context.options.get("amdsmi") or {}
        refuse_other_build(options, str(context.options.get("device", "")), amd=True)
        library = options.get("library") or load()
        try:
            library.amdsmi_init()
        except library.AmdSmiException as error:
            raise unavailable(error, "AMD SMI cannot start") from error
        try:
            gpus, notes = find_gpus(library, options, str(context.options.get("device", "")))
            return AmdSmiMeter(library, gpus, context.clock, notes)
        except BaseException:
            shut_down(library)
            raise


def _rail(gpu: Gpu) -> Rail:
    if gpu.unit_j is not None:
        return Rail(
            name=f"gpu-{gpu.index}",
            kind="gpu",
            sense="energy",
            unit_j=gpu.unit_j,
            max_power_w=gpu.most_w,
            source=f"amdsmi_get_energy_count(GPU {gpu.index})",
            meaning=f"whole socket of {gpu.name}",
        )
    return Rail(
        name=f"gpu-{gpu.index}",
        kind="gpu",
        sense="power",
        max_power_w=gpu.most_w,
        source=f"amdsmi_get_power_info(GPU {gpu.index})[{gpu.power_key}]",
        meaning=f"whole socket of {gpu.name}",
    )
