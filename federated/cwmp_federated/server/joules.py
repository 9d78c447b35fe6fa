"""Joules that a client claims, held against what the server knows: what was sent, what that client trains on, its profile."""

from __future__ import annotations

import logging
import math

from cwmp_federated.client.energy import ClientEnergy, Work
from cwmp_federated.client.learning import batches
from cwmp_federated.client.setup import Setup, generator
from cwmp_federated.errors import ReplyError
from cwmp_federated.server.replies import Accepted
from cwmp_selector.update import lines_touched

log = logging.getLogger("flwr")

_SLACK = 1e-6


class JouleCheck:
    """Recomputes a reply's joules by the server's copy of the node's profile.

    Uplink, downlink, steps and images must be what the server finds itself. Writing and training may be less than a dense round (a
    sparse step, a sparse model), never more than that, or than writing nearly all entries
    one by one in every step. A node with a profile
    that the server does not have is taken at its word, with a warning.
    """

    def __init__(self, setup: Setup, *, steps: int | None = None) -> None:
        """See the class; `steps` are the local steps of a planned contact, None whole passes over a client's images."""
        self._setup, self._steps = setup, steps
        self._known: dict[str, ClientEnergy] = {}
        for profile in dict.fromkeys(setup.profiles):
            energy = setup.energy(profile)
            self._known[energy.profile.name] = energy
        self._warned: set[int] = set()

    def __call__(self, accepted: Accepted) -> None:
        """Raise ReplyError if the claim does not follow from the reply."""
        numbers, config = accepted.report.numbers, self._setup.config
        count = len(self._setup.parts[accepted.client])
        plan = batches(count, config.batch_size, config.local_epochs, generator(0))
        steps, images = len(plan), sum(len(batch) for batch in plan)
        if self._steps is not None:
            # A last batch of one image joins the one before.
            steps, images = self._steps, self._steps * (config.batch_size + 1)
        for name, value in (("steps", steps), ("images", images)):
            if not 0 < numbers[name] <= value:
                raise ReplyError(
                    f"the energy report says {name} = {numbers[name]:g}, client {accepted.client} has {value}"
                )
        energy = self._known.get(accepted.report.profile)
        if energy is None:
            if accepted.node not in self._warned:
                self._warned.add(accepted.node)
                log.warning(
                    "cwmp: the joules of node %d are its own word: the server does not have profile %r",
                    accepted.node,
                    accepted.report.profile,
                )
            return
        if accepted.report.provenance != energy.provenance:
            raise ReplyError(
                f"the energy report is {accepted.report.provenance}, by profile {accepted.report.profile} it is {energy.provenance}"
            )
        self._compare(accepted, energy, steps=steps, images=images)

    def _compare(self, accepted: Accepted, energy: ClientEnergy, *, steps: int, images: int) -> None:
        numbers, layers = accepted.report.numbers, energy.costs.layers
        indices = accepted.update.indices
        found = energy.report(
            Work(
                kept=accepted.update.kept,
                lines={name: lines_touched(indices[name], layer.line_entries) for name, layer in layers.items()},
                payload_bytes=int(numbers["payload_bytes"]),
                bytes_up=int(numbers["bytes_up"]),
                bytes_down=int(numbers["bytes_down"]),
                steps=steps,
                images=images,
            )
        )
        written = energy.marginal(steps).dense_j()
        # All entries but one of each tensor, scattered: by many profiles dearer than the dense kernels that write all of it.
        nearly = {name: max(layer.tensor.numel - 1, 1) for name, layer in layers.items()}
        scattered = energy.report(
            Work(
                kept=accepted.update.kept,
                lines={name: math.ceil(layer.tensor.numel / layer.line_entries) for name, layer in layers.items()},
                moved=nearly,
                payload_bytes=int(numbers["payload_bytes"]),
                bytes_up=int(numbers["bytes_up"]),
                bytes_down=int(numbers["bytes_down"]),
                steps=steps,
                images=images,
                sparse_step=True,
            )
        )
        most = {
            "memory": max(found["memory"], scattered["memory"]) + written,
            "compute": max(found["compute"], scattered["compute"]) + written,
            "fixed": found["fixed"] * (1 + steps),
            "update": max(found["update"], scattered["update"], found["uplink"] + written),
        }
        by = (
            f"by the server's profile {accepted.report.profile}; if the node has another one, give it a name of its own"
        )
        for name, limit in most.items():
            if numbers[name] > limit * (1 + _SLACK):
                raise ReplyError(
                    f"the energy report says {name} = {numbers[name]:.4g} J; at most {limit:.4g} J follow from the reply {by}"
                )
        for name in ("uplink", "downlink"):
            if not math.isclose(numbers[name], found[name], rel_tol=_SLACK, abs_tol=1e-15):
                raise ReplyError(
                    f"the energy report says {name} = {numbers[name]:.4g} J; {found[name]:.4g} J follow from the reply {by}"
                )
        own = numbers["memory"] + numbers["compute"] + numbers["uplink"]
        if numbers["update"] < numbers["uplink"] * (1 - _SLACK) or numbers["update"] > own * (1 + _SLACK):
            raise ReplyError(
                f"the energy report says update = {numbers['update']:.4g} J, of which uplink {numbers['uplink']:.4g} J, of all {own:.4g} J"
            )
