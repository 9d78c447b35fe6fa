"""From windows of the `radio` family to a radio: joules per bit, power while active, joules of a burst, and the tail.

What bursts with pauses can tell is in `burst_model`. Where the tail ends between two pauses, the middle is taken, and the
interval says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cwmp_costmodels.errors import FitError
from cwmp_costmodels.radio.base import Direction
from cwmp_costmodels.radio.burst_model import Bursts, Solution, arrange, burst_j, candidates, solve, tail_end
from cwmp_costmodels.radio.throughput import ThroughputRadio
from cwmp_profiler.provenance import Provenance, weakest
from cwmp_profiler.sessions.measurements import Measurements, Window

UNSUSTAINED, LATENCY_S = 1.3, 0.25
"""A paced window that took longer than this factor, beyond this much a burst, did not run at its rate and is left out."""

RESTING = "idle.rest"
"""Workload of the idle windows that pauses between bursts are like."""

QUANTILES = (0.025, 0.975)


@dataclass(frozen=True, slots=True, kw_only=True)
class RadioFit:
    """A fitted radio and how good it is.

    Attributes:
        radio: The radio, with intervals and remarks.
        windows: Windows used, idle ones included.
        energy_error: Mean absolute relative error on them.
        idle_power_w: Fitted power with the radio quiet.
        warnings: What is not identified or was left out.
    """

    radio: ThroughputRadio
    windows: int
    energy_error: float
    idle_power_w: float
    warnings: tuple[str, ...]


def radio_protocols(sessions: Sequence[Measurements]) -> list[str]:
    """Return the protocols of the radio windows in the sessions, in order of appearance."""
    return list(dict.fromkeys(str(window.params["protocol"]) for window in _radio_windows(sessions)))


def fit_radios(
    sessions: Sequence[Measurements], *, bootstrap: int = 200, seed: int = 0
) -> tuple[dict[str, RadioFit], list[str]]:
    """Fit one radio per protocol found.

    Returns:
        Fits by radio name (`radio-tcp`, `radio-udp`), and one line for each protocol that could not be fitted.
    """
    fits: dict[str, RadioFit] = {}
    refusals: list[str] = []
    for protocol in radio_protocols(sessions):
        try:
            fits[f"radio-{protocol}"] = fit_radio(sessions, protocol=protocol, bootstrap=bootstrap, seed=seed)
        except FitError as error:
            refusals.append(str(error))
    return fits, refusals


def fit_radio(
    sessions: Sequence[Measurements], *, protocol: str = "tcp", bootstrap: int = 200, seed: int = 0
) -> RadioFit:
    """Fit the radio of one protocol.

    Args:
        sessions: Comparable sessions with `radio` and `idle` windows.
        protocol: `tcp` or `udp`.
        bootstrap: Resamplings for the 95% intervals.
        seed: Seed of the resampling.

    Raises:
        FitError: If there are too few windows, or no joule above idle power can be told from noise.
    """
    meter = sessions[0].header.meter if sessions else None
    if meter is not None and meter.provenance == Provenance.ESTIMATED:
        raise FitError(
            f"meter {meter.name} estimates joules from time alone, so it cannot see the radio ({protocol}); measure with a real meter"
        )
    windows, notes = _usable(sessions, protocol)
    data = arrange(windows)
    models = candidates(data)
    best = solve(models, data, data.energy_j)
    free = len(data.energy_j) - np.count_nonzero(list(best.values.values()))
    if free < 3:
        raise FitError(f"{len(windows)} windows are too few to fit the radio ({protocol}); measure with more --repeats")
    sigma = float(np.sqrt(best.error / free))
    generator = np.random.default_rng(seed)
    draws = [
        solve(models, data, best.predicted_j * (1 + sigma * generator.standard_normal(len(data.energy_j))))
        for _ in range(bootstrap)
    ]
    intervals = {name: _interval([draw.values[name] for draw in draws]) for name in best.values}
    intervals["burst_j"] = _interval([burst_j(draw) for draw in draws])
    if not any(intervals[f"{way}.{part}"][0] > 0 for way in data.bits for part in ("slope_j_per_bit", "power_w")):
        raise FitError(
            f"no joule of the radio ({protocol}) above the idle power could be told from noise ({sigma:.1%} of a window); "
            "does the meter see the radio? If so, measure longer windows or more --repeats"
        )
    notes += [
        f"{name} is not identified: its 95% interval starts at 0"
        for name, (low, _) in intervals.items()
        if low <= 0 and name in best.values and name not in {"overhead_j", "beyond_j", "tail_w"}
    ]
    radio = _radio(best, draws, intervals, data, sessions, protocol, notes)
    return RadioFit(
        radio=radio,
        windows=len(windows),
        energy_error=float(np.mean(np.abs(best.predicted_j / data.energy_j - 1))),
        idle_power_w=best.values["idle_w"],
        warnings=tuple(notes),
    )


def _radio_windows(sessions: Sequence[Measurements]) -> list[Window]:
    return [window for found in sessions for window in found.windows if window.family == "radio"]


def _usable(sessions: Sequence[Measurements], protocol: str) -> tuple[list[Window], list[str]]:
    """Return idle windows and radio windows that ran at their rate, and what was left out."""
    idle = [window for found in sessions for window in found.windows if window.workload == RESTING]
    radio = [window for window in _radio_windows(sessions) if window.params["protocol"] == protocol]
    sustained = [window for window in radio if _sustained(window)]
    if not sustained or not idle:
        raise FitError(
            f"no radio windows ({protocol}) that ran at their rate beside idle ones ({len(radio)} radio, {len(idle)} idle); "
            "measure with --radio-sink"
        )
    notes = []
    if len(sustained) < len(radio):
        notes.append(f"{len(radio) - len(sustained)} radio windows did not reach their rate and were left out")
    return [*idle, *sustained], notes


def _sustained(window: Window) -> bool:
    rate_bps = window.params["rate_bps"]
    if rate_bps is None:
        return True
    per_burst_s = window.duration_s / window.iterations - window.params["pause_s"]
    return bool(per_burst_s <= UNSUSTAINED * 8 * window.params["payload_bytes"] / rate_bps + LATENCY_S)


def _radio(
    best: Solution,
    draws: Sequence[Solution],
    intervals: dict[str, tuple[float, float]],
    data: Bursts,
    sessions: Sequence[Measurements],
    protocol: str,
    notes: list[str],
) -> ThroughputRadio:
    values = best.values
    longest_s = float(data.pause_s.max())
    promotion: list[dict[str, float]] | None = []
    tail: list[dict[str, float]] | None = []
    if longest_s == 0:
        promotion = tail = None
        notes.append("no pauses were measured, so promotion and tail are not known")
    elif best.asleep_s is None:
        promotion = None
        tail = [{"power_w": values["tail_w"], "duration_s": longest_s}]
        notes.append(
            f"the tail outlasts the longest pause of {longest_s:g} s: fixed joules are a lower bound; measure longer pauses"
        )
    else:
        low_s, high_s = tail_end(best)
        end_s = (low_s + high_s) / 2
        if best.awake_s > 0:
            tail = [{"power_w": values["tail_w"], "duration_s": end_s}]
            ends = [tail_end(draw) for draw in draws if draw.awake_s > 0] or [(low_s, high_s)]
            intervals["tail.duration_s"] = (
                _interval([end[0] for end in ends])[0],
                _interval([end[1] for end in ends])[1],
            )
        else:
            notes.append(f"no tail was seen; one shorter than {best.asleep_s:g} s would be part of the promotion")
        beyond_j = values["beyond_j"] - values["tail_w"] * (end_s - best.awake_s)
        promotion = [{"energy_j": max(beyond_j, 0.0)}]
    renamed = {"tail_w": "tail.power_w"}
    named = {
        renamed.get(name, name): bounds for name, bounds in intervals.items() if name not in {"idle_w", "beyond_j"}
    }
    header = sessions[0].header
    fields: dict[str, Any] = {
        "name": f"radio-{protocol}",
        "title": f"Radio of {header.device.get('model', 'this device')} over {protocol}, fitted",
        "provenance": weakest(found.header.meter.provenance for found in sessions),
        "source": f"radio windows of {', '.join(found.path.name for found in sessions)}",
        "remarks": [
            "Joules above idle power of everything the meter sees while the link works, the processor included.",
            *notes,
        ],
        "intervals": named,
        "overhead_j": values["overhead_j"],
        "promotion": promotion,
        "tail": tail,
    }
    for way in data.bits:
        fields[way] = _side(way, values, data)
    if "up" not in fields:
        raise FitError(f"no uplink windows of the radio ({protocol}); measure with --radio-sink")
    return ThroughputRadio.model_validate(fields)


def _side(way: Direction, values: dict[str, float], data: Bursts) -> dict[str, Any]:
    """Return one direction; its rates are those of traffic without pauses, where there is any."""
    mine = data.bits[way] > 0
    continuous = mine & (data.pause_s == 0)
    chosen = continuous if continuous.any() else mine
    rates = data.bits[way][chosen] / data.active_s[way][chosen]
    return {
        "slope_j_per_bit": values[f"{way}.slope_j_per_bit"],
        "power_w": values[f"{way}.power_w"],
        "default_rate_bps": float(rates.max()),
        "valid_bps": [float(rates.min()), float(rates.max())],
    }


def _interval(samples: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(np.array(samples), QUANTILES)
    return float(low), float(high)
