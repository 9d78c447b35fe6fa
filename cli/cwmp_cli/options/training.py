"""Options that `train` and `pareto` share: what is trained, on what, by whom."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cwmp_cli.options.console import si, warn

if TYPE_CHECKING:
    from cwmp_federated.records.config import RunConfig

Profile = Annotated[
    str,
    typer.Option("--profile", metavar="NAME|FILE|MIX", help="Device profile of the clients, or a mix: a=0.3,b=0.7."),
]
Dataset = Annotated[str, typer.Option(help="digits, fashion-mnist or cifar10.")]
DataDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of the data set's files (digits needs none).")
]
AnyArchive = Annotated[
    bool, typer.Option("--any-archive", help="Accept data files whose hash is not the published one.")
]
TrainLimit = Annotated[int, typer.Option(min=0, help="Use only the first N training images; 0 is all.")]
TestLimit = Annotated[int, typer.Option(min=0, help="Use only the first N test images; 0 is all.")]
Partition = Annotated[str, typer.Option(help="iid, dirichlet:ALPHA, shards:K or quantity:ALPHA.")]
Clients = Annotated[int, typer.Option(min=1, help="Number of clients.")]
ClientsPerRound = Annotated[int, typer.Option(min=0, help="Clients that train in a round; 0 is all.")]
Rounds = Annotated[int, typer.Option(min=1, help="Number of rounds.")]
LocalEpochs = Annotated[int, typer.Option(min=1, help="Passes over a client's images in a round.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per local step.")]
LearningRate = Annotated[float, typer.Option(help="Step size of the local optimiser.")]
Optimizer = Annotated[str, typer.Option(help="Local optimiser, fresh in each round: sgd, momentum or adam.")]
Model = Annotated[str, typer.Option(help="cnn, mlp, resnet18, another built-in model, or module:callable.")]
Radio = Annotated[str, typer.Option(help="Radio preset, file, or a radio of the profile; empty sends at no cost.")]
ValueBits = Annotated[int, typer.Option(help="Bits of a sent value: 16 or 32.")]
SparseStep = Annotated[
    bool,
    typer.Option(
        "--sparse-step/--dense-step",
        help="The local optimiser writes only the kept entries, chosen before training; or it writes all.",
    ),
]
Downlink = Annotated[
    str,
    typer.Option(
        help="dense: the whole model to every client; union: what changed; selected: of it what is worth most, the rest later."
    ),
]
Contact = Annotated[
    str,
    typer.Option(help="joined: an update and the next round's model share one burst; apart: a burst for each."),
]
Allocation = Annotated[
    str, typer.Option(help="each: every client meets its budget; shared: one threshold for all, the sum is met.")
]
TotalBudget = Annotated[
    str,
    typer.Option(
        metavar="J",
        help="Joules of one client for the whole run, all causes: 20J. Plans local steps, rounds, clients and entries.",
    ),
]
Static = Annotated[
    str,
    typer.Option(help="attributed or excluded: static power over the time of the work; empty follows the profile."),
]
Residency = Annotated[
    str, typer.Option(help="step or tensor: whose working set decides in which memory a tensor lives.")
]

FIELDS = (
    "profile",
    "dataset",
    "any_archive",
    "train_limit",
    "test_limit",
    "partition",
    "clients",
    "clients_per_round",
    "rounds",
    "local_epochs",
    "batch_size",
    "learning_rate",
    "optimizer",
    "model",
    "radio",
    "value_bits",
    "sparse_step",
    "downlink",
    "contact",
    "allocation",
    "total_budget",
    "static",
    "residency",
)
"""Options that are fields of a run of the same name."""


def make_config(given: dict[str, Any], **more: Any) -> RunConfig:
    """Return the run that a verb's options describe.

    Args:
        given: The verb's arguments by name.
        more: Fields that the verb sets itself.

    Raises:
        FederatedError: If the options do not describe a run.
    """
    from cwmp_federated.records.config import RunConfig

    folder = given.get("data_dir")
    fields = {name: given[name] for name in FIELDS}
    return RunConfig(**fields, data_dir=str(folder.expanduser().absolute()) if folder else "", **more)


def share_text(share: float | None) -> str:
    """Return a share as a percentage with two digits; `-` for none."""
    return "-" if share is None else f"{100 * share:.2g}%"


def bytes_text(count: float) -> str:
    """Return bytes with a decimal prefix, for example `3.94 MB`."""
    return si(count, "B") if count else "0 B"


def warn_left_out(row: dict[str, Any]) -> None:
    """Warn about every client that did not count in a round."""
    for out in row["left_out"]:
        warn(f"round {row['round']}: node {out['node']} left out: {out['reason']}")
