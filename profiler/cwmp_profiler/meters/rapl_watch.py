"""A look at moving RAPL counters before they are added up: which show one counter again, and which are not wired at all.

    lead    ..a0....a1......a2...        bracket: the other counter, read between two reads of the first, lies between what the
    other   ............b........        first read before and after, again and again while both move: it is the same counter

Linux 6.9 to 6.12 lists one zone and one CPU of the PMU per die of an AMD socket, and AMD's package counter is one per socket: each die
shows it whole. Intel's `package-N-die-M` are counters of their own, whatever they happen to read. Zones that a board does not wire
stand at an old number for ever; `enabled` says nothing about that.
"""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cwmp_profiler.clock import Clock
from cwmp_profiler.meters.base import MeterContext, Rail
from cwmp_profiler.meters.sysfs import optional_text

STEP_S: Final = 0.002
DEAD_S: Final = 0.2
"""Time after which nothing is concluded if no package counter moved."""

FROZEN_S: Final = 0.75
"""Time after which a counter that must move, and did not while a package did, is not wired."""

COMPARED_S: Final = 0.3
"""Time over which two counters are held against each other: powers that differ by some percent are then many updates apart."""

PLATFORM_SHARE: Final = 0.8
MOVES: Final = 5
AGREEMENT: Final = 0.8
"""Share of brackets that must agree."""

_MUST_MOVE: Final = frozenset({"psys", "dram"})

Read = Callable[[str], int]
"""Reads one rail's counter by its name."""


@dataclass(slots=True)
class _Pair:
    lead: Rail
    other: Rail
    brackets: list[tuple[int, int, int]] = field(default_factory=list)

    def look(self, read: Read) -> None:
        self.brackets.append((read(self.lead.name), read(self.other.name), read(self.lead.name)))

    @property
    def told(self) -> bool:
        return len({first for first, _, _ in self.brackets}) > MOVES

    def mirrors(self, offset_j: float) -> bool:
        """Whether both are one counter, with at most `offset_j` between the instants at which they began to count."""
        offset = statistics.median_low([other - first for first, other, _ in self.brackets]) if offset_j else 0
        if not self.told or abs(offset) * (self.lead.unit_j or 0.0) > offset_j:
            return False
        # From the bracket before: two registers, or the files of two zones, are not updated at one instant.
        agreed = sum(
            before <= other - offset <= last + (last - before if offset else 0)
            for (before, _, _), (_, other, last) in itertools.pairwise(self.brackets)
        )
        return agreed >= AGREEMENT * (len(self.brackets) - 1)


def socket_by_name(rail: Rail) -> str | None:
    """Return the socket that a package rail is of; None for other rails."""
    match = re.match(r"package-(\d+)", rail.name)
    return match[1] if match and rail.kind == "package" else None


def watched(
    rails: Sequence[Rail],
    read: Read,
    clock: Clock,
    *,
    intel: bool,
    offset_j: float = 0.0,
    socket_of: Callable[[Rail], str | None] = socket_by_name,
) -> tuple[list[Rail], list[str]]:
    """Return the rails that count something of their own, parents put right, and a note for each one left out.

    Args:
        rails: RAPL rails; nothing is read unless some may be a mirror or unwired.
        read: Reads one rail's counter (MeterError).
        clock: Time between looks.
        intel: Whether dies are known to have counters of their own.
        offset_j: Joules that two views of one counter may be apart, because they began to count at different times.
        socket_of: Which rails may be of one socket: those for which it gives the same; None for one that is of none.
    """
    pairs = [] if intel else list(_pairs(rails, socket_of))
    packages = [rail for rail in rails if rail.kind == "package"]
    must_move = [rail for rail in rails if rail.kind in _MUST_MOVE] if packages else []
    if not pairs and not must_move:
        return list(rails), []
    first, last = _look(pairs, must_move, packages, read, clock)
    replaced: dict[str, str | None] = {}
    notes: list[str] = []
    for pair in pairs:
        if pair.lead.name not in replaced and pair.mirrors(offset_j):
            replaced[pair.other.name] = pair.lead.name
            notes.append(f"{pair.other.name} shows the counter of {pair.lead.name} again: it is counted once")
    alive = any(last[rail.name] != first[rail.name] for rail in packages)
    for rail in must_move if alive else ():
        if last[rail.name] == first[rail.name]:
            replaced[rail.name] = None
            notes.append(f"{rail.name} stands still while the packages count: it is not wired here and left out")
        elif rail.kind == "psys" and _drawn(rail, first, last) < PLATFORM_SHARE * sum(
            _drawn(inside, first, last) for inside in packages if inside.name not in replaced
        ):
            replaced[rail.name] = None
            notes.append(f"{rail.name} counts less than the packages that it should contain: it is left out")
    kept = [rail for rail in rails if rail.name not in replaced]
    return [_reparented(rail, replaced) for rail in kept], notes


def is_intel(context: MeterContext) -> bool:
    """Whether the tree is known to be of an Intel CPU: by what the kernel calls its CPU, or the `/proc` given with it."""
    alias = optional_text(context.sysfs_root / "devices/system/cpu/modalias") or ""
    if "ven" in alias:
        return "ven0000" in alias
    proc = context.options.get("proc_root")
    return proc is not None and "GenuineIntel" in (optional_text(f"{proc}/cpuinfo") or "")


def _pairs(rails: Sequence[Rail], socket_of: Callable[[Rail], str | None]) -> Iterator[_Pair]:
    leads: dict[str, list[Rail]] = {}
    for rail in rails:
        socket = socket_of(rail)
        if socket is not None and rail.sense == "energy":
            for lead in leads.setdefault(socket, []):
                yield _Pair(lead, rail)
            leads[socket].append(rail)


def _look(
    pairs: Sequence[_Pair], must_move: Sequence[Rail], packages: Sequence[Rail], read: Read, clock: Clock
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Read until all is told, or the time for it is over; return what was read first and last."""
    watched_rails = [*packages, *must_move]
    least_s = COMPARED_S if pairs or any(rail.kind == "psys" for rail in must_move) else 0.0
    first = {rail.name: read(rail.name) for rail in watched_rails}
    began, last = clock.now(), first
    while True:
        clock.sleep(STEP_S)
        for pair in pairs:
            pair.look(read)
        last = {rail.name: read(rail.name) for rail in watched_rails}
        passed_s = clock.now() - began
        alive = any(last[rail.name] != first[rail.name] for rail in packages)
        if passed_s > (FROZEN_S if alive else DEAD_S):
            return first, last
        moved = all(last[rail.name] != first[rail.name] for rail in must_move)
        if alive and moved and passed_s >= least_s and all(pair.told for pair in pairs):
            return first, last


def _drawn(rail: Rail, first: Mapping[str, int], last: Mapping[str, int]) -> float:
    ticks = last[rail.name] - first[rail.name]
    return (ticks if ticks >= 0 else ticks + (rail.wrap_ticks or 0)) * (rail.unit_j or 0.0)


def _reparented(rail: Rail, replaced: Mapping[str, str | None]) -> Rail:
    parent = rail.parent
    while parent is not None and parent in replaced:
        parent = replaced[parent]
    return rail if parent == rail.parent else replace(rail, parent=parent)
