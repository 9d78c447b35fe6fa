"""Verb `train`: a federated run under an energy budget."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typing_extensions import Self

from cwmp_cli.options import training as options
from cwmp_cli.options.console import Json, err, out, print_json, si
from cwmp_federated.records.settings import option

if TYPE_CHECKING:
    from rich.live import Live

    from cwmp_federated.server.meter import RoundMeter
    from cwmp_federated.server.run import RunResult

RESUMABLE = {"resume", "rounds", "out_dir", "json_", "meter"}
"""Options that may be given with --resume; everything else is what the run was started with."""

WIDE = 116
"""Columns of a terminal in which the live table also shows joules by cause; at the end all see them."""


@options.with_settings(defaults={"profile": ""})
def train(
    ctx: typer.Context,
    *,
    given: dict[str, Any],
    out_dir: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Folder of checkpoints, ledger, split and result."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in -o; --rounds may be raised, the rest stays.")
    ] = False,
    meter: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Also record this machine's joules: a meter's name, or auto."),
    ] = None,
    json_: Json = False,
) -> None:
    """Train a model over simulated clients, each within its energy budget, and account for every joule.

    Clients train on their own images and send the entries that the rule selects within the budget. The budget is about
    what selection changes: writing and sending the kept entries, by the device profile. The ledger shows all causes.

    [bold]Example:[/bold] cwmp-profile train --profile simulated-board --radio wifi --budget 1% -o run
    """
    if resume:
        result = _resume(ctx, out_dir, given["rounds"], meter=meter, quiet=json_)
    else:
        if not given["profile"]:
            raise typer.BadParameter("name a device profile: --profile NAME (see 'cwmp-profile profiles')")
        result = _run(options.make_config(given), out_dir, resume=False, meter=meter, quiet=json_)
    if out_dir is not None:
        from cwmp_federated.records.checkpoint import RunStore

        RunStore(out_dir).write("result.json", result.summary())
    if json_:
        print_json(result.summary())
    else:
        _show(result)


def _resume(ctx: typer.Context, folder: Path | None, rounds: int, *, meter: str | None, quiet: bool) -> RunResult:
    from click.core import ParameterSource

    from cwmp_federated.errors import FederatedError
    from cwmp_federated.records.checkpoint import RunStore

    if folder is None:
        raise typer.BadParameter("--resume needs the run's folder: -o DIR")
    explicit = {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if foreign := sorted(explicit - RESUMABLE):
        raise typer.BadParameter(
            f"{option(foreign[0]).partition('/')[0]} cannot change in a run that is resumed; leave it out"
        )
    store = RunStore(folder)
    config = store.config()
    if "rounds" in explicit:
        if rounds < config.rounds:
            raise FederatedError(f"--rounds {rounds} is less than the {config.rounds} of the run in {folder}")
        config = store.extend(config, rounds)
    return _run(config, folder, resume=True, meter=meter, quiet=quiet)


def _run(config: Any, folder: Path | None, *, resume: bool, meter: str | None, quiet: bool) -> RunResult:
    from cwmp_federated.training import run_training

    with _open_meter(meter) as round_meter, _Progress(config.rounds, quiet=quiet) as progress:
        say = None if quiet else _say_plan
        return run_training(config, folder, resume=resume, on_row=progress.show, meter=round_meter, on_plan=say)


def _say_plan(plan: Any) -> None:
    err().print(
        f"plan: {plan.rounds} rounds of {plan.clients_per_round} clients, {plan.local_steps} local steps a contact, "
        f"{plan.contacts:.3g} contacts a client, {plan.downlink} way down"
        f"{', without the gradients of ' + ', '.join(plan.left_out) if plan.left_out else ''}; a contact takes {si(plan.entries_j, 'J')} for "
        f"entries and {si(plan.other_j, 'J')} beside; expected {si(plan.expected_j, 'J')} of {si(plan.total_j, 'J')} a client "
        f"(best of {plan.candidates} plans)",
        markup=False,
    )


def _open_meter(name: str | None) -> Any:
    if name is None:
        return nullcontext(None)
    from contextlib import contextmanager

    from cwmp_profiler.meters.base import MeterContext
    from cwmp_profiler.meters.registry import open_meter

    @contextmanager
    def opened() -> Any:
        from cwmp_federated.server.meter import RoundMeter

        with open_meter(name, MeterContext(), device="cpu") as live:
            reader: RoundMeter = RoundMeter(live)
            yield reader

    return opened()


class _Progress:
    """Live table on stderr: one line per round, the last one standing; nothing for machines."""

    def __init__(self, rounds: int, *, quiet: bool) -> None:
        self._rounds, self._console, self._quiet = rounds, err(), quiet
        self._live: Live | None = None
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        from rich.live import Live

        if not self._quiet and self._console.is_terminal:
            self._live = Live(self._table(), console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, row: dict[str, Any]) -> None:
        """Show one more round."""
        options.warn_left_out(row)
        self._rows.append(row)
        if self._live is not None:
            self._live.update(self._table())
        elif not self._quiet:
            self._console.print(
                f"round {row['round']}/{self._rounds}: accuracy {row['accuracy']:.4f}, total {si(row['total_j'], 'J')} "
                f"(updates {si(row['update_j'], 'J')}, {options.share_text(row['governed_share'])}), up {options.bytes_text(row['bytes_up'])}, "
                f"down {options.bytes_text(row['bytes_down'])}"
            )

    def _table(self) -> Any:
        from rich.table import Table

        causes = list(self._rows[-1]["by_cause_j"]) if self._rows and self._console.width >= WIDE else []
        table = Table(title=f"round {self._rows[-1]['round'] if self._rows else 0} of {self._rounds}", box=None)
        for head in ("round", "accuracy", "total", "updates", "share", *causes, "up", "down"):
            table.add_column(head, justify="right", no_wrap=True)
        for row in self._rows[-12:]:
            table.add_row(
                str(row["round"]),
                f"{row['accuracy']:.4f}",
                si(row["total_j"], "J"),
                si(row["update_j"], "J"),
                options.share_text(row["governed_share"]),
                *(si(row["by_cause_j"][cause], "J") for cause in causes),
                options.bytes_text(row["bytes_up"]),
                options.bytes_text(row["bytes_down"]),
            )
        return table


def _planned(plan: Any, came: dict[str, Any]) -> Any:
    """Return the table of what was expected of a client and what came."""
    from rich.table import Table

    table = Table(box=None)
    for head in ("a client, on average", "expected", "came"):
        table.add_column(head, justify="left" if head.startswith("a ") else "right")
    for cause, joules in came["by_cause_j"].items():
        table.add_row(cause, si(plan.by_cause_j[cause], "J") if cause in plan.by_cause_j else "-", si(joules, "J"))
    table.add_row("total", si(plan.expected_j, "J"), si(came["mean_j"], "J"))
    table.add_row("entries in a contact", si(plan.entries_j, "J"), si(came["entries_j"], "J"))
    table.add_row("contacts", f"{plan.contacts:.3g}", f"{came['contacts']:.3g}")
    table.add_row("rounds", str(plan.rounds), str(came["rounds"]))
    table.add_row("dearest client", f"at most {si(plan.total_j, 'J')}", si(came["most_j"], "J"))
    return table


def _show(result: RunResult) -> None:
    from rich.table import Table

    energy = result.ledger.summary()
    console = out()
    last = result.history[-1]
    config = result.config
    console.print(
        f"[bold]{config.rule}[/bold] at {config.budget} on {config.dataset}, {config.partition}, {config.clients} clients, "
        f"{last['round']} rounds: accuracy [bold]{last['accuracy']:.4f}[/bold]"
    )
    console.print(f"Joules: {result.banner}", markup=False)
    table = Table(box=None)
    table.add_column("joules by cause")
    table.add_column("", justify="right")
    for cause, joules in energy["by_cause_j"].items():
        table.add_row(cause, si(joules, "J"))
    table.add_row("total", si(energy["total_j"], "J"))
    if energy["low_j"] is not None:
        table.add_row("95% interval of the total", f"{si(energy['low_j'], 'J')} to {si(energy['high_j'], 'J')}")
    table.add_row("of it updates (budgeted)", si(energy["update_j"], "J"))
    table.add_row("share that budgets govern", options.share_text(energy["governed_share"]))
    if energy["metered_j"] is not None:
        name = f"{energy['meter']['provenance']} on this machine ({energy['meter']['name']})"
        table.add_row(name, si(energy["metered_j"], "J"))
    console.print(table)
    if result.plan is not None:
        console.print(_planned(result.plan, result.came()))
    console.print(
        f"bytes up {options.bytes_text(energy['bytes_up'])}, down {options.bytes_text(energy['bytes_down'])} (whole messages)"
    )
    for remark in result.remarks:
        err().print(f"note: {remark}", markup=False)
