"""The list of rules. Data alone and without torch, so that a command line can name them before anything is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rule = Literal["cwmp", "cwmp-l1", "top-k", "random-k", "cheapest", "dense"]
"""cwmp: g^2/J (default). cwmp-l1: |g|/J, the rule of arXiv 2603.22465. top-k: |g|. random-k: a seeded random order.
cheapest: least cost first, larger |g| among equals. dense: everything, whatever the budget."""


@dataclass(frozen=True)
class Ranking:
    """A rule as data; to add one, add a line to `RULES` and its name to `Rule`.

    Attributes:
        order: What decides: "value" per joule, the size of the "key", the "cost" and then the key, or nothing: "all" is kept.
        power: Value of an entry is |g| to this power, 1 or 2.
        random: Whether keys are drawn at random instead of being the gradient.
    """

    order: Literal["value", "key", "cost", "all"]
    power: Literal[1, 2] = 2
    random: bool = False

    @property
    def certified(self) -> bool:
        """Whether the rule maximises a value, so that a bound says what it missed."""
        return self.order == "value"

    @property
    def overlooks(self) -> bool:
        """Whether an entry may be kept or left without its key being looked at, so that NaN must be looked for first."""
        return self.random or self.order in ("cost", "all")


RULES: dict[str, Ranking] = {
    "cwmp": Ranking("value"),
    "cwmp-l1": Ranking("value", power=1),
    "top-k": Ranking("key"),
    "random-k": Ranking("key", random=True),
    "cheapest": Ranking("cost"),
    "dense": Ranking("all"),
}
