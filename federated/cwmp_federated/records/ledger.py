"""The energy ledger: joules of every round and client by cause, which add up and say where they come from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cwmp_costmodels.profile.files import write_atomic
from cwmp_federated.errors import FederatedError
from cwmp_federated.records.intervals import Sure, joined
from cwmp_profiler.provenance import Provenance, weakest

CAUSES = ("memory", "compute", "uplink", "downlink", "fixed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One client's round.

    Attributes:
        round: Round, from 1.
        client: Client, the partition it holds.
        profile: Profile of its device.
        provenance: Where the joules come from.
        memory_j: Joules of memory traffic: the update's writes and the local optimiser's.
        compute_j: Joules of arithmetic: local training and the update's.
        uplink_j: Joules of sending the payload, for the bits that were really sent.
        downlink_j: Joules of receiving the model, for the bits that were really sent.
        fixed_j: Joules once a round: radio promotion and tail, and the messages' envelopes.
        update_j: Part of the above that the budget is about: writing and sending the selected entries.
        budget_j: Budget of `update_j`; None without one (dense, or a share of entries).
        payload_bytes: Bytes of the encoded update.
        bytes_up: Bytes of the whole message to the server.
        bytes_down: Bytes of the whole message from the server.
        kept: Entries sent.
        entries: Entries of the model.
    """

    round: int
    client: int
    profile: str
    provenance: Provenance
    memory_j: float
    compute_j: float
    uplink_j: float
    downlink_j: float
    fixed_j: float
    update_j: float
    budget_j: float | None
    payload_bytes: int
    bytes_up: int
    bytes_down: int
    kept: int
    entries: int

    @property
    def total_j(self) -> float:
        """Sum over causes, in joules."""
        return math.fsum(getattr(self, f"{cause}_j") for cause in CAUSES)

    def to_json(self) -> dict[str, Any]:
        """Return every attribute, the total and the share of it that the budget governs."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**own, "total_j": self.total_j, "governed_share": share_of(self.update_j, self.total_j)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Entry:
        """Return the entry that `to_json` wrote; ValueError, KeyError or TypeError if it is not one."""
        values = {f.name: data[f.name] for f in fields(cls)}
        values["provenance"] = Provenance(values["provenance"])
        return cls(**values)


REFUSED = "refused"
"""Cause of the joules of clients that were asked and did not count; in a ledger's sums beside `CAUSES`, in no entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A client's round that did not count: its joules were paid all the same.

    Attributes:
        round: Round, from 1.
        node: Flower's id of the node.
        client: Client that the node plays; None if the server does not know.
        joules: What the round cost the client; None if nobody knows.
        claimed: Whether they are the client's own claim, held against the server's bounds; else the server's estimate from below: the
            download and, where a reply came, training and the upload, without writing what nobody could read.
        reason: Why it did not count.
    """

    round: int
    node: int
    client: int | None
    joules: float | None
    claimed: bool
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return every attribute."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Refused:
        """Return what `to_json` wrote; KeyError or TypeError if it is not one."""
        return cls(**{f.name: data[f.name] for f in fields(cls)})


@dataclass(slots=True)
class Ledger:
    """Entries of a run in the order in which rounds ended.

    Attributes:
        entries: All entries.
        refused: Rounds of clients that did not count.
        metered_j: Joules by round that a live meter gave for the machine that ran the clients (measured or estimated, as
            `meter` says); empty without a meter.
        meter: Name and provenance of that meter.
        sure: By profile, what its joules may be over what it says; a profile of which nobody knows is absent.
    """

    entries: list[Entry] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    metered_j: dict[int, float] = field(default_factory=dict)
    meter: dict[str, str] | None = None
    sure: dict[str, Sure] = field(default_factory=dict)

    def interval_j(self, number: int | None = None) -> tuple[float, float] | None:
        """Return the 95% interval of the joules of a round, or of all; None where a profile's error is not known.

        It does not narrow with rounds: see `intervals.joined`. Joules of refused clients, whose profile may not be known, count as
        those of the least sure profile.
        """
        chosen = self.entries if number is None else self.of_round(number)
        by_profile: dict[str, float] = {}
        for entry in chosen:
            by_profile[entry.profile] = by_profile.get(entry.profile, 0.0) + entry.total_j
        if not by_profile or any(name not in self.sure for name in by_profile):
            return None
        widest = max(self.sure, key=lambda name: self.sure[name].high - self.sure[name].low)
        by_profile[widest] = by_profile.get(widest, 0.0) + self.refused_j(number)
        return joined((joules, self.sure[name]) for name, joules in by_profile.items())

    def entry_json(self, entry: Entry) -> dict[str, Any]:
        """Return an entry with the ends of its interval, `low_j` and `high_j`; None where its profile's error is not known."""
        sure = self.sure.get(entry.profile)
        ends = (None, None) if sure is None else joined([(entry.total_j, sure)])
        return {**entry.to_json(), "low_j": ends[0], "high_j": ends[1]}

    def total(self, cause: str | None = None, *, where: Callable[[Entry], bool] | None = None) -> float:
        """Return the joules of a cause, or of all, over the entries for which `where` holds; without it of refused clients too."""
        if cause == REFUSED:
            return self.refused_j()
        chosen = (entry for entry in self.entries if where is None or where(entry))
        joules = math.fsum(entry.total_j if cause is None else getattr(entry, f"{cause}_j") for entry in chosen)
        return joules + self.refused_j() if cause is None and where is None else joules

    def refused_j(self, number: int | None = None) -> float:
        """Return the known joules of clients that did not count, in a round or in all."""
        return math.fsum(r.joules for r in self.refused if r.joules is not None and number in (None, r.round))

    def by_cause(self, number: int | None = None) -> dict[str, float]:
        """Return joules by cause, `refused` last, of a round or of all; they sum to the total."""
        chosen = self.entries if number is None else self.of_round(number)
        causes = {cause: math.fsum(getattr(entry, f"{cause}_j") for entry in chosen) for cause in CAUSES}
        return {**causes, REFUSED: self.refused_j(number)}

    def spent(self) -> dict[int, float]:
        """Return by client all that it spent, its rounds that did not count included."""
        found: dict[int, float] = {}
        for entry in self.entries:
            found[entry.client] = found.get(entry.client, 0.0) + entry.total_j
        for one in self.refused:
            if one.client is not None and one.joules is not None:
                found[one.client] = found.get(one.client, 0.0) + one.joules
        return found

    def of_round(self, number: int) -> list[Entry]:
        """Return the entries of one round."""
        return [entry for entry in self.entries if entry.round == number]

    def update_j(self, up_to_round: int | None = None) -> float:
        """Return the joules that budgets are about, up to a round."""
        return math.fsum(e.update_j for e in self.entries if up_to_round is None or e.round <= up_to_round)

    def governed_share(self) -> float | None:
        """Return the share of all joules that budgets on updates govern; None while nothing was spent."""
        return share_of(self.update_j(), self.total())

    @property
    def provenance(self) -> Provenance | None:
        """The provenance that claims least; None while the ledger is empty."""
        return weakest(entry.provenance for entry in self.entries) if self.entries else None

    @property
    def bytes_up(self) -> int:
        """Bytes sent to the server."""
        return sum(entry.bytes_up for entry in self.entries)

    @property
    def bytes_down(self) -> int:
        """Bytes sent by the server."""
        return sum(entry.bytes_down for entry in self.entries)

    def truncate(self, last_round: int) -> None:
        """Forget what came after a round: a resumed run repeats it."""
        self.entries = [entry for entry in self.entries if entry.round <= last_round]
        self.refused = [one for one in self.refused if one.round <= last_round]
        self.metered_j = {r: joules for r, joules in self.metered_j.items() if r <= last_round}

    def summary(self) -> dict[str, Any]:
        """Return totals as JSON."""
        provenance, ends = self.provenance, self.interval_j() or (None, None)
        return {
            "provenance": str(provenance) if provenance else None,
            "total_j": self.total(),
            "low_j": ends[0],
            "high_j": ends[1],
            "by_cause_j": self.by_cause(),
            "refused": len(self.refused),
            "refused_unknown": sum(one.joules is None for one in self.refused),
            "update_j": self.update_j(),
            "governed_share": self.governed_share(),
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "metered_j": math.fsum(self.metered_j.values()) if self.metered_j else None,
            "meter": self.meter,
        }


def share_of(update_j: float, total_j: float) -> float | None:
    """Return the share of some joules that budgets on updates govern; None where there are no joules."""
    return update_j / total_j if total_j > 0 else None


def save_ledger(path: Path, ledger: Ledger) -> None:
    """Write a ledger as JSON Lines: one line for the meter, then one per client and round, those that did not count last."""
    sure = {name: one._asdict() for name, one in ledger.sure.items()}
    head = {
        "ledger": 1,
        "meter": ledger.meter,
        "metered_j": {str(k): v for k, v in ledger.metered_j.items()},
        "sure": sure,
    }
    lines = [json.dumps(head), *(json.dumps(ledger.entry_json(entry)) for entry in ledger.entries)]
    lines += [json.dumps({REFUSED: one.to_json()}) for one in ledger.refused]
    write_atomic(path, "\n".join(lines) + "\n")


def load_ledger(path: Path) -> Ledger:
    """Read a ledger.

    Raises:
        FederatedError: If it cannot be read or a line is not an entry; names the line.
    """
    try:
        lines: Sequence[str] = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise FederatedError(f"cannot read ledger {path}: {error.strerror}") from None
    number = 1
    try:
        head = json.loads(lines[0])
        measured = {int(k): float(v) for k, v in head["metered_j"].items()}
        ledger = Ledger(metered_j=measured, meter=head["meter"])
        for name, one in head.get("sure", {}).items():
            ledger.sure[name] = Sure(float(one["low"]), float(one["high"]), tuple(one["holds"]))
        for line in lines[1:]:
            number += 1
            found = json.loads(line)
            if REFUSED in found:
                ledger.refused.append(Refused.from_json(found[REFUSED]))
            else:
                ledger.entries.append(Entry.from_json(found))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise FederatedError(f"{path}:{number} is not a ledger line ({error}); start the run again") from None
    return ledger
