"""A meter in one page: the energy counter of a Shelly smart plug, read over HTTP.

The plug answers `/rpc/Switch.GetStatus?id=0` with JSON; `aenergy.total` counts watt-hours, in steps of 1 mWh.

Options (`MeterContext.options["shelly"]`, a mapping; the environment variable SHELLY_URL sets the first):
    url: address of the plug, for example `http://192.168.1.20`.
    fetch: stands for the function that gets an address and returns bytes (tests).
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Callable
from typing import Any

from cwmp_profiler.meters import (
    Meter,
    MeterContext,
    MeterError,
    MeterFactory,
    MeterUnavailableError,
    Rail,
    Reading,
)

JOULES_PER_MILLIWATT_HOUR = 3.6
Fetch = Callable[[str], bytes]


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=2.0) as answer:  # noqa: S310 - the user's own plug
        data: bytes = answer.read()
    return data


class ShellyMeter(Meter):
    """One counting rail: everything that is plugged in."""

    name = "shelly"
    notes = ("counts in steps of 3.6 J and updates about once a second: use windows of minutes",)

    def __init__(self, url: str, context: MeterContext, fetch: Fetch) -> None:
        self.clock = context.clock
        self._url = f"{url}/rpc/Switch.GetStatus?id=0"
        self._fetch = fetch
        self.rails = (
            Rail(
                name="plug",
                kind="board",
                sense="energy",
                unit_j=JOULES_PER_MILLIWATT_HOUR,
                max_power_w=2500.0,
                update_period_s=1.0,
                source=self._url,
                meaning="all that is plugged in, power supply losses included",
                may_idle=True,  # below 3.6 W the counter stands still for more than a second
            ),
        )

    def read(self) -> Reading:
        """Ask the plug once; whatever goes wrong is an error and never a number."""
        before = self.clock.now()
        try:
            status: Any = json.loads(self._fetch(self._url))
            watt_hours = float(status["aenergy"]["total"])
        except OSError as error:
            raise MeterError(
                f"meter shelly: {self._url} does not answer ({error}); is the plug on this network?"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise MeterError(
                f"meter shelly: {self._url} answered without aenergy.total; is it a Shelly plug?"
            ) from error
        return Reading((before + self.clock.now()) / 2, {"plug": round(watt_hours * 1000)})


class ShellyFactory(MeterFactory):
    """What `cwmp-profile devices` shows and `--meter shelly` opens."""

    name = "shelly"
    summary = "Shelly smart plug (example plugin)"
    devices = ("cpu", "cuda", "jetson", "rpi5")
    rank = None  # what is plugged in is the user's secret: never chosen by `auto`

    def open(self, context: MeterContext) -> Meter:
        """Open the plug; `MeterUnavailableError` carries the reason and the cure that `devices` prints."""
        options = context.options.get("shelly") or {}
        url = options.get("url") or os.environ.get("SHELLY_URL")
        if not url:
            raise MeterUnavailableError(
                "no plug is named", "set SHELLY_URL=http://ADDRESS", ("export SHELLY_URL=http://ADDRESS",)
            )
        return ShellyMeter(url, context, options.get("fetch", _fetch))
