"""Budgets as a person writes them, and what they mean for one client and round."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from cwmp_federated.errors import FederatedError

Kind = Literal["fraction", "joules", "density"]
_PREFIX = {"": 1.0, "k": 1e3, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12}
_NUMBER = r"[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?"
_PERCENT = re.compile(rf"^({_NUMBER})\s*%$")
_JOULES = re.compile(rf"^({_NUMBER})\s*([kmunp]?)J$")


@dataclass(frozen=True, slots=True)
class Budget:
    """What a client may spend on one update.

    Attributes:
        kind: `fraction` of the joules of the dense update, `joules`, or `density` (a share of the entries, whatever they
            cost: the equal-k comparison).
        value: The fraction, joules or density.
    """

    kind: Kind
    value: float

    def joules(self, dense_j: float) -> float | None:
        """Return the budget in joules, given the joules of the dense update; None for a density."""
        if self.kind == "density":
            return None
        return self.value * dense_j if self.kind == "fraction" else self.value

    def __str__(self) -> str:
        if self.kind == "joules":
            return f"{self.value:g}J"
        return f"{'k=' if self.kind == 'density' else ''}{self.value * 100:g}%"


def parse_budget(text: str) -> Budget:
    """Parse one budget.

    Args:
        text: `5%` (of the joules of the dense update), `0.8J`, `20mJ`, or `k=1%` (share of entries).

    Raises:
        FederatedError: If it is none of these or not positive.
    """
    stripped = text.strip()
    kind: Kind = "fraction"
    if stripped.startswith("k="):
        kind, stripped = "density", stripped[2:]
    if match := _PERCENT.match(stripped):
        value = float(match[1]) / 100
        if 0 < value <= 1 and math.isfinite(value):
            return Budget(kind, value)
    elif kind == "fraction" and (match := _JOULES.match(stripped)):
        value = float(match[1]) * _PREFIX[match[2]]
        if value > 0 and math.isfinite(value):
            return Budget("joules", value)
    raise FederatedError(f"budget {text!r} is not one; write 5% (of the dense energy), 0.8J, 20mJ or k=1% (of entries)")


def parse_budgets(text: str) -> dict[str, Budget]:
    """Parse a budget for all clients, or one per profile.

    Args:
        text: `5%`, or `jetson=5%,rpi5=20mJ`.

    Returns:
        Budgets by profile name; the name `""` stands for every profile that is not listed.

    Raises:
        FederatedError: If an entry is not a budget or a profile is listed twice.
    """
    found: dict[str, Budget] = {}
    for item in text.split(","):
        name, separator, value = item.strip().partition("=")
        if not separator or name == "k":
            name, value = "", item
        if name in found:
            raise FederatedError(f"budget {text!r} gives {name or 'the default'} twice; give each profile once")
        found[name] = parse_budget(value)
    return found


def budget_of(budgets: dict[str, Budget], profile: str) -> Budget:
    """Return the budget of a profile's clients.

    Raises:
        FederatedError: If neither the profile nor a default is listed.
    """
    found = budgets.get(profile, budgets.get(""))
    if found is None:
        raise FederatedError(f"no budget for clients with profile {profile}; add {profile}=5% or a default to --budget")
    return found


def parse_mix(text: str) -> dict[str, float]:
    """Parse one profile or a mix.

    Args:
        text: `jetson`, `./mine.json`, or `jetson=0.3,rpi5=0.7`.

    Returns:
        Share of clients by profile, in the order written; shares sum to 1.

    Raises:
        FederatedError: If a share is not positive, a profile is listed twice, or shares do not sum to 1.
    """
    if "=" not in text:
        if "," in text:
            raise FederatedError(f"profile mix {text!r} lacks shares; write {text.replace(',', '=0.5,', 1)}=0.5")
        return {text: 1.0}
    mix: dict[str, float] = {}
    for item in text.split(","):
        name, _, share = item.strip().rpartition("=")
        try:
            value = float(share)
        except ValueError:
            value = math.nan
        if not name or name in mix or not (math.isfinite(value) and value > 0):
            raise FederatedError(f"profile mix {text!r}: {item.strip()!r} is not NAME=SHARE; write jetson=0.3,rpi5=0.7")
        mix[name] = value
    if not math.isclose(sum(mix.values()), 1.0, abs_tol=1e-6):
        raise FederatedError(f"profile mix {text!r}: shares sum to {sum(mix.values()):g}, not 1")
    return mix


def assign_profiles(mix: dict[str, float], clients: int, seed: int) -> list[str]:
    """Return each client's profile: counts by largest remainder, places drawn from the seed."""
    import numpy as np

    exact = [share * clients for share in mix.values()]
    counts = [math.floor(value) for value in exact]
    order = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in order[: clients - sum(counts)]:
        counts[i] += 1
    names = [name for name, count in zip(mix, counts, strict=True) for _ in range(count)]
    return [names[i] for i in np.random.default_rng([seed, 0xA551]).permutation(clients)]
