"""The settings of a run, each told once: what it is called, what it means, what it may be.

From these fields come the options of `train` and `pareto`, the keys of Flower's run configuration, the checks of `RunConfig` and the
table in the documentation. Imports nothing heavy, so that the command line's help stays fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from cwmp_selector.greedy.rankings import RULES


def _of(
    about: str, *, metavar: str = "", least: int | None = None, choices: tuple[Any, ...] = (), flags: str = ""
) -> dict[str, Any]:
    """Return a field's metadata.

    Args:
        about: What it is: help of the option, comment of the key, row of the table.
        metavar: What help shows for the value.
        least: Smallest whole number.
        choices: All values.
        flags: Names of the option, where they do not follow from the field's.
    """
    return {"about": about, "metavar": metavar, "least": least, "choices": choices, "flags": flags}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that decides a run's result. What each field means stands in its metadata, see `about`."""

    profile: str = field(
        metadata=_of("Device profile of the clients, or a mix: a=0.3,b=0.7.", metavar="NAME|FILE|MIX"),
    )
    rule: str = field(default="cwmp", metadata=_of(f"Rule of selection: {', '.join(RULES)}.", choices=tuple(RULES)))
    budget: str = field(
        default="5%",
        metadata=_of("Per client and round: 5% (of the dense update's joules), 0.8J, k=1%, or NAME=5%,NAME=20mJ."),
    )
    dataset: str = field(default="digits", metadata=_of("digits, fashion-mnist or cifar10."))
    data_dir: str = field(
        default="", metadata=_of("Folder of the data set's files (digits needs none).", metavar="DIR")
    )
    any_archive: bool = field(
        default=False, metadata=_of("Accept data files whose hash is not the published one.", flags="--any-archive")
    )
    train_limit: int = field(
        default=0, metadata=_of("Use only the first N training images; 0 is all.", metavar="N", least=0)
    )
    test_limit: int = field(
        default=0, metadata=_of("Use only the first N test images; 0 is all.", metavar="N", least=0)
    )
    partition: str = field(default="dirichlet:0.5", metadata=_of("iid, dirichlet:ALPHA, shards:K or quantity:ALPHA."))
    clients: int = field(default=10, metadata=_of("Number of clients.", least=1))
    clients_per_round: int = field(default=0, metadata=_of("Clients that train in a round; 0 is all.", least=0))
    rounds: int = field(default=10, metadata=_of("Number of rounds.", least=1))
    local_epochs: int = field(default=1, metadata=_of("Passes over a client's images in a round.", least=1))
    batch_size: int = field(default=32, metadata=_of("Images per local step.", least=1))
    learning_rate: float = field(default=0.05, metadata=_of("Step size of the local optimiser."))
    optimizer: str = field(
        default="sgd",
        metadata=_of(
            "Local optimiser, fresh in each round: sgd, momentum (0.9) or adam.", choices=("sgd", "momentum", "adam")
        ),
    )
    model: str = field(default="mlp", metadata=_of("cnn, mlp, resnet18, another built-in model, or module:callable."))
    radio: str = field(
        default="", metadata=_of("Radio preset, file, or a radio of the profile; empty sends at no cost.")
    )
    value_bits: int = field(
        default=16, metadata=_of("Bits of a sent value: 16 or 32; the same for every rule.", choices=(16, 32))
    )
    error_feedback: bool = field(
        default=True,
        metadata=_of("Keep what was not sent and add it to the next update.", flags="--feedback/--no-feedback"),
    )
    sparse_step: bool = field(
        default=True,
        metadata=_of(
            "The local optimiser writes only the kept entries, chosen before training by the first batch's gradient; or it "
            "writes all (as rule dense does).",
            flags="--sparse-step/--dense-step",
        ),
    )
    downlink: str = field(
        default="auto",
        metadata=_of(
            "union: what changed; selected: of it what is worth most, the rest later; dense: the whole model; auto: union, or the plan's.",
            choices=("auto", "union", "selected", "dense"),
        ),
    )
    contact: str = field(
        default="joined",
        metadata=_of(
            "joined: an update and the next round's model share one burst; apart: a burst for each.",
            choices=("joined", "apart"),
        ),
    )
    allocation: str = field(
        default="each",
        metadata=_of(
            "each: every client meets its budget; shared: one threshold for all, the sum is met.",
            choices=("each", "shared"),
        ),
    )
    total_budget: str = field(
        default="",
        metadata=_of(
            "Joules of one client for the whole run, all causes: 20J. Plans entries, tensors, steps, rounds, clients, the way down.",
            metavar="J",
        ),
    )
    static: str = field(
        default="",
        metadata=_of(
            "attributed or excluded: static power over the time of the work; empty follows the profile.",
            choices=("", "attributed", "excluded"),
        ),
    )
    residency: str = field(
        default="step",
        metadata=_of(
            "step or tensor: whose working set decides in which memory a tensor lives; memory: none stays in a cache.",
            choices=("step", "tensor", "memory"),
        ),
    )
    seed: int = field(default=0, metadata=_of("Seed of split, weights, batches and sampling.", least=0))


SETTINGS: Mapping[str, Field[Any]] = {found.name: found for found in fields(Settings)}
"""Every setting by name."""


def about(name: str) -> str:
    """Return what a setting means."""
    text: str = SETTINGS[name].metadata["about"]
    return text


def option(name: str) -> str:
    """Return the names of a setting's option: `--batch-size`, or `--sparse-step/--dense-step`."""
    flags: str = SETTINGS[name].metadata["flags"]
    return flags or "--" + run_key(name)


def run_key(name: str) -> str:
    """Return a setting's key in Flower's run configuration: `batch-size`."""
    return name.replace("_", "-")
