"""Energy counter against integrated power of the same GPU in the same window: how much the two disagree.

Both come from the same sensor by different ways, and on some cards they differ by tens of percent. Which one is right only an
external meter can tell; that they differ is worth knowing before a figure is trusted, so it is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from cwmp_profiler.errors import MeterError
from cwmp_profiler.joules.edges import wait_for_edge
from cwmp_profiler.joules.tracker import Tracker
from cwmp_profiler.meters.base import MeterContext
from cwmp_profiler.meters.nvidia.nvml import Factory, NvmlMeter

DISAGREEMENT = 0.05
"""Relative difference from which a user should be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterAgainstPower:
    """One GPU's joules by both ways over one window.

    Attributes:
        gpu: Rail name, `gpu-<index>`.
        duration_s: Length of the window, in seconds.
        counter_j: Joules by the energy counter.
        power_j: Joules by integrating power samples.
        samples: Power samples.
        source: Where the power came from.
    """

    gpu: str
    duration_s: float
    counter_j: float
    power_j: float
    samples: int
    source: str

    @property
    def ratio(self) -> float | None:
        """Integrated power over counter; None if the counter saw no energy."""
        return self.power_j / self.counter_j if self.counter_j > 0 else None

    @property
    def disagree(self) -> bool:
        """Whether the two differ by more than 5%."""
        return self.ratio is None or abs(self.ratio - 1) > DISAGREEMENT

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with every attribute, the ratio and the verdict."""
        return {**asdict(self), "ratio": self.ratio, "disagree": self.disagree}


def compare_counter_and_power(
    context: MeterContext, duration_s: float, *, device: str = "cuda", work: Callable[[], object] | None = None
) -> tuple[CounterAgainstPower, ...]:
    """Measure a window of at least `duration_s` seconds by counter and by power, its ends on counter edges.

    Args:
        context: Where the meter looks; options for `nvml` are kept.
        duration_s: Length of the window, in seconds; several seconds, since power may be averaged over one.
        device: The GPU, `cuda` or `cuda:<n>`.
        work: Called again and again until the time is over; None leaves the GPU as it is. It must wait for its own kernels.

    Returns:
        One entry per GPU that has both; empty if it has no counter or no power sensor.

    Raises:
        MeterError: If the meter cannot be opened or a reading failed.
    """
    options: Mapping[str, Any] = {**(context.options.get("nvml") or {}), "power": "also", "scopes": False}
    meter = Factory().open_for(replace(context, options={**context.options, "nvml": options}), device)
    if not isinstance(meter, NvmlMeter):
        raise MeterError(f"meter nvml opened a {type(meter).__name__}")
    with meter:
        pairs = [one for one in meter.sensors if one.counter is not None and len(one.rails) > 1]
        if not pairs:
            return ()
        tracker = Tracker(meter, sample_period_s=meter.dense_sample_s)
        wait_for_edge(meter)
        tracker.start()
        try:
            start = meter.clock.now()
            while meter.clock.now() - start < duration_s:
                if work is None:
                    meter.clock.sleep(duration_s)
                else:
                    work()
            wait_for_edge(meter)
        except BaseException:
            tracker.abandon()
            raise
        energy = tracker.stop()
    found = []
    for one in pairs:
        counter, power = str(one.counter), f"{one.counter}-power"
        source = next(rail.source for rail in one.rails if rail.name == power)
        found.append(
            CounterAgainstPower(
                gpu=counter,
                duration_s=energy.duration_s,
                counter_j=energy.rails[counter].energy_j,
                power_j=energy.rails[power].energy_j,
                samples=energy.rails[power].samples,
                source=source,
            )
        )
    return tuple(found)
