"""Joules per count of a profile: coefficients with the static power attributed or excluded, and what was derived or left out.

A measured, estimated or simulated profile must have every coefficient that a cost needs. A literature or published profile may lack
some: a scattered line is then derived from the streamed bytes of a line, written bytes of a published one are priced as read ones
(or the other way round), and launches and arithmetic are left out. All are said in `remarks`, never silently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from cwmp_costmodels.errors import ProfileError
from cwmp_costmodels.profile.schema import Coefficient, Profile
from cwmp_profiler.provenance import Provenance

Static = Literal["attributed", "excluded"]

_OF_OTHERS = (Provenance.LITERATURE, Provenance.PUBLISHED)
_OTHER_WAY = {"read": "write", "write": "read"}
_OPTIONAL = re.compile(r"launch|index|elem_.*|div_.*|flop_.*")


class Price(NamedTuple):
    """Joules per unit of a count.

    Attributes:
        dynamic_j: Joules that the work itself takes.
        static_j: Static power over the time that it takes; 0 where static power is excluded.
    """

    dynamic_j: float
    static_j: float

    def joules(self, factor: float = 1.0, time_factor: float = 1.0) -> float:
        """Return the joules with corrections of dynamic energy and of time."""
        return factor * self.dynamic_j + time_factor * self.static_j


class Prices:
    """Joules per count.

    Attributes:
        profile: The profile the joules come from.
        static: Whether the static power over the time of an operation is part of its cost.
    """

    def __init__(self, profile: Profile, static: Static | None = None) -> None:
        """See the class.

        Args:
            profile: A device profile.
            static: None attributes the static power where the profile has times, and excludes it where it has none.

        Raises:
            ProfileError: If the profile cannot give costs of that kind.
        """
        if static not in ("attributed", "excluded", None):
            raise ProfileError(f"static is {static!r}; give 'attributed' or 'excluded'")
        timed = bool(profile.times) and "static_power" in profile.coefficients
        if static == "attributed" and not timed:
            missing = "$.times" if not profile.times else "$.coefficients.static_power"
            raise ProfileError(
                f"profile {profile.name} has no {missing}, so static power cannot be attributed; use static='excluded'"
            )
        if static == "excluded" and profile.fit is not None and profile.fit.static == "included":
            raise ProfileError(
                f"profile {profile.name} does not tell static power from work: its joules per count include it; use static='attributed'"
            )
        if static == "excluded" and profile.fit is not None and profile.fit.static == "attributed":
            raise ProfileError(
                f"profile {profile.name} is {profile.provenance} from time alone (meter {profile.meter.name}), so only costs with "
                "static power attributed mean anything; use static='attributed'"
            )
        self.profile = profile
        self.static: Static = static or ("attributed" if timed else "excluded")
        self._remarks: dict[str, None] = {}
        self._prices: dict[str, Price] = {}
        self._origins: dict[str, str] = {}
        if profile.fit is not None and profile.fit.verdict in ("doubtful", "bad"):
            self._remarks[
                f"the fit of {profile.name} is {profile.fit.verdict} by its own verdict; see 'cwmp-profile show'"
            ] = None

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was derived, left out or not identified so far."""
        return tuple(self._remarks)

    def price(self, count: str) -> Price:
        """Return joules per unit of `count`.

        Raises:
            ProfileError: If the profile lacks the coefficient; names its path.
        """
        if count not in self._prices:
            self._prices[count], self._origins[count] = self._resolve(count)
        return self._prices[count]

    def origin(self, count: str) -> str:
        """Return where a price comes from, for example `dram_line` or `launch (not in profile)`."""
        self.price(count)
        return self._origins[count]

    def joules(self, counts: Mapping[str, float], *, factor: float = 1.0, time_factor: float = 1.0) -> dict[str, float]:
        """Return the joules of counts by cause: `memory`, `compute`, `launch`."""
        parts = {"memory": 0.0, "compute": 0.0, "launch": 0.0}
        for count, amount in counts.items():
            if amount:
                parts[cause_of(count)] += amount * self.price(count).joules(factor, time_factor)
        return parts

    def _resolve(self, count: str) -> tuple[Price, str]:
        profile = self.profile
        if count in profile.coefficients:
            return self._with_static(count, profile.coefficients[count]), count
        others = profile.provenance in _OF_OTHERS
        level, _, kind = count.rpartition("_")
        twin = f"{level}_{_OTHER_WAY.get(kind, '')}"
        if profile.provenance == Provenance.PUBLISHED and twin in profile.coefficients:
            self._remarks[f"{count} was not published: taken as {twin}"] = None
            return self.price(twin), f"{count} = {twin}"
        if kind == "line" and others and self._streams(level):
            line_bytes = profile.device.line_bytes
            how = f"{line_bytes} B x ({level}_read + {level}_write)"
            self._remarks[f"{count} is not in the profile: derived as {how}"] = None
            read, write = self.price(f"{level}_read"), self.price(f"{level}_write")
            dynamic, static = (line_bytes * (a + b) for a, b in zip(read, write, strict=True))
            return Price(dynamic, static), f"{count} = {how}"
        if others and _OPTIONAL.fullmatch(count):
            self._remarks[f"{count} is not in this {profile.provenance} profile: left out"] = None
            return Price(0.0, 0.0), f"{count} (not in profile)"
        if profile.provenance == Provenance.PUBLISHED:
            has = ", ".join(name for name in profile.coefficients if name != "static_power")
            raise ProfileError(
                f"profile {profile.name} lacks what this cost needs @ $.coefficients.{count}: the readings that were published give "
                f"{has} and nothing of memory at {level}; measure such a device yourself, or give the profile that value"
            )
        raise ProfileError(
            f"profile {profile.name} lacks what this cost needs @ $.coefficients.{count}; measure with a preset that covers it "
            f"('cwmp-profile measure --preset standard') or give the profile that value"
        )

    def _streams(self, level: str) -> bool:
        """Whether streamed bytes of a level have a price, one way at least where the profile is published."""
        known = [f"{level}_{way}" in self.profile.coefficients for way in _OTHER_WAY]
        return any(known) if self.profile.provenance == Provenance.PUBLISHED else all(known)

    def _with_static(self, count: str, coefficient: Coefficient) -> Price:
        if coefficient.status == "not identified":
            self._remarks[
                f"{count} is not identified by the measurements: its joules may be anywhere in its interval"
            ] = None
        if self.static == "excluded":
            return Price(coefficient.value, 0.0)
        time = self.profile.times.get(count)
        if time is None:
            raise ProfileError(
                f"profile {self.profile.name} has no time for {count} @ $.times.{count}, so its static power cannot be "
                "attributed; use static='excluded'"
            )
        return Price(coefficient.value, self.profile.coefficients["static_power"].value * time.value)


def cause_of(count: str) -> str:
    """Return the cause that a count belongs to: `memory`, `compute` or `launch`.

    Raises:
        ProfileError: If the count is of none of these kinds.
    """
    if count == "launch":
        return "launch"
    if count == "index" or count.startswith(("elem_", "flop_", "div_", "run_")):
        return "compute"
    if count.endswith(("_read", "_write", "_line")):
        return "memory"
    raise ProfileError(f"{count} is no count of memory, compute or launches")
