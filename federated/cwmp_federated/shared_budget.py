"""One threshold for all clients: joules go where they buy most, and the sum over clients and rounds meets the budget."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cwmp_federated.ledger import Entry


class SharedBudget:
    """Placeholder until the controller lands."""

    lambda_: float | None = None

    def spent(self, entries: Iterable[Entry]) -> None:
        """Tell what a round's clients spent."""

    def save(self) -> dict[str, Any]:
        """Return the state as JSON."""
        return {}
