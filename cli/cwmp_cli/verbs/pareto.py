"""Verb `pareto`: the frontier of accuracy against joules, rule beside rule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typing_extensions import Self

from cwmp_cli.options import training as options
from cwmp_cli.options.console import Json, err, out, print_json, si, warn


@options.with_settings(
    # A plan sets the budgets itself, so there is nothing to sweep: `total_budget` is for `train`.
    leave_out=("rule", "budget", "error_feedback", "seed", "total_budget"),
    defaults={"rounds": 15},
)
def pareto(
    *,
    given: dict[str, Any],
    rules: Annotated[str, typer.Option(help="Rules to compare, by comma.")] = "cwmp,top-k",
    budgets: Annotated[str, typer.Option(help="Budgets at equal energy, by comma.")] = "0.03%,0.1%,0.3%,1%,3%,10%",
    equal_k: Annotated[str, typer.Option(help="Shares of entries at equal k, by comma: 1%,5%; empty for none.")] = "",
    seeds: Annotated[str, typer.Option(help="Number of seeds from 0, or seeds by comma.")] = "5",
    feedback: Annotated[str, typer.Option(help="Error feedback: on, off or both.")] = "on",
    reference: Annotated[str, typer.Option(help="Rule that the others are compared with.")] = "top-k",
    dense: Annotated[bool, typer.Option("--dense/--no-dense", help="Also run each seed dense, for reference.")] = True,
    jobs: Annotated[int, typer.Option(min=0, help="Processes of one thread each; 0 is one per core.")] = 0,
    out_dir: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="DIR", help="Folder of points, tables and plot; a sweep goes on there."),
    ] = Path("pareto"),
    json_: Json = False,
) -> None:
    """Sweep budgets, rules and seeds, and say what accuracy each rule buys for how many joules.

    Finished runs are kept in DIR/points.jsonl: run the same command again after an interruption and only the missing ones
    are run. Writes pareto.json, pareto.csv and, with matplotlib, pareto.png.

    [bold]Example:[/bold] cwmp-profile pareto --profile simulated-board --budgets 0.3%,1%,3% --seeds 3 -o frontier
    """
    import os

    from cwmp_costmodels.profile.files import write_atomic
    from cwmp_federated.sweep.report import analyse, to_csv
    from cwmp_federated.sweep.runs import Sweep, run_sweep

    sweep = Sweep(
        base=options.make_config(given),
        budgets=_list(budgets),
        equal_k=tuple(f"k={share}" for share in _list(equal_k)),
        rules=_rules(rules),
        seeds=_seeds(seeds),
        feedback=_feedback(feedback),
        dense=dense,
    )
    sweep.configs()
    with _Bar(quiet=json_) as bar:
        points = run_sweep(sweep, out_dir, jobs=jobs or os.cpu_count() or 1, on_point=bar.show)
    result = analyse(points, reference=reference)
    import json

    write_atomic(out_dir / "pareto.json", json.dumps(result, indent=1) + "\n")
    write_atomic(out_dir / "pareto.csv", to_csv(points))
    picture = _plot(points, out_dir, reference, sweep)
    if json_:
        print_json(result)
        return
    _show(result, reference)
    files = ["points.jsonl", "pareto.json", "pareto.csv", *([picture] if picture else [])]
    err().print(f"wrote {', '.join(files)} to {out_dir}", markup=False)


def _plot(points: list[dict[str, Any]], folder: Path, reference: str, sweep: Any) -> str | None:
    base = sweep.base
    title = (
        f"{base.dataset}, {base.partition}, {base.clients} clients, {base.rounds} rounds, {base.model.split(':')[-1]}"
    )
    try:
        from cwmp_federated.sweep.plots import plot_frontier

        return plot_frontier(points, folder / "pareto.png", title=title, reference=reference).name
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        from cwmp_profiler.packages import how_to_install

        warn(f"no plot: this needs the package matplotlib: {how_to_install('matplotlib')}")
        return None


def _rules(text: str) -> tuple[str, ...]:
    from cwmp_federated.records.settings import SETTINGS

    known = SETTINGS["rule"].metadata["choices"]
    for rule in (found := _list(text)):
        if rule not in known:
            raise typer.BadParameter(f"--rules has {rule!r}; choose from {', '.join(known)}")
    return found


def _list(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))


def _seeds(text: str) -> tuple[int, ...]:
    try:
        numbers = [int(item) for item in _list(text)]
    except ValueError:
        raise typer.BadParameter(f"--seeds is {text!r}; give a count, or seeds by comma") from None
    if not numbers or min(numbers) < 0 or (len(numbers) == 1 and "," not in text and numbers[0] == 0):
        raise typer.BadParameter(f"--seeds is {text!r}; give a count from 1, or seeds by comma")
    return tuple(range(numbers[0])) if len(numbers) == 1 and "," not in text else tuple(numbers)


def _feedback(text: str) -> tuple[bool, ...]:
    ways = {"on": (True,), "off": (False,), "both": (True, False)}
    if text not in ways:
        raise typer.BadParameter(f"--feedback is {text!r}; give on, off or both")
    return ways[text]


class _Bar:
    """Progress of a sweep on stderr."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = err()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(
            *columns, console=self._console, transient=True, disable=quiet or not self._console.is_terminal
        )
        self._task = self._progress.add_task("runs", total=None)
        self._quiet = quiet

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, point: dict[str, Any], done: int, total: int) -> None:
        """Show that one more run is done."""
        self._progress.update(self._task, completed=done, total=total)
        if not self._quiet:
            config = point["config"]
            self._progress.console.print(
                f"{done}/{total} {config['rule']} {config['budget']} seed {config['seed']}: accuracy {point['accuracy']:.4f}, "
                f"total {si(point['total_j'], 'J')} (update {si(point['update_j'], 'J')}), {point['wall_s']:.1f} s",
                markup=False,
            )


def _show(result: dict[str, Any], reference: str) -> None:
    from rich.table import Table

    console = out()
    console.print("\n".join(result["banners"]), markup=False)
    for key, title in (("equal_energy", "equal energy"), ("equal_k", "equal k")):
        if not result[key]:
            continue
        table = Table(title=f"{title}, {len(result['seeds'])} seeds", box=None)
        for head in ("budget", "rule", "accuracy", "95% interval", "update", "total", "share", "density", "bytes up"):
            table.add_column(head, justify="left" if head in ("budget", "rule") else "right")
        for row in result[key]:
            span = "-" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"
            table.add_row(
                row["budget"],
                row["rule"],
                f"{row['accuracy']:.4f}",
                span,
                si(row["update_j"], "J"),
                si(row["total_j"], "J"),
                options.share_text(row["governed_share"]),
                f"{100 * row['density']:.3g}%",
                options.bytes_text(row["bytes_up"]),
            )
        console.print(table)
    if result["dense"]:
        dense = result["dense"]
        console.print(f"dense: accuracy {dense['accuracy']:.4f}, update {si(dense['update_j'], 'J')}")
    for key, kind in (("joules_to_accuracy", "update joules"), ("total_joules_to_accuracy", "total joules")):
        _show_targets(console, result[key], kind, reference)
    for comparison in result["comparisons"].values():
        gains = [gain for gain in comparison["hypervolume_gain"].values() if gain is not None]
        if gains:
            text = f"hypervolume gain {min(gains):+.4f} to {max(gains):+.4f} by seed"
            console.print(f"{comparison['verdict']}; {text}", markup=False)
        else:
            console.print(comparison["verdict"], markup=False)
    for remark in result["remarks"]:
        err().print(f"note: {remark}", markup=False)


def _show_targets(console: Any, rows: list[dict[str, Any]], kind: str, reference: str) -> None:
    from rich.table import Table

    names = list(rows[0]["ratio"]) if rows else []
    if not names:
        return
    table = Table(title=f"{kind} to an accuracy, over those of {reference} (geometric mean over seeds)", box=None)
    table.add_column("accuracy", justify="right")
    for name in names:
        table.add_column(f"{name}, frontier", justify="right")
        table.add_column(f"{name}, any round", justify="right")
    for row in rows:
        cells = [row["ratio"][name][kind] for name in names for kind in ("frontier", "any_round")]
        table.add_row(f"{row['accuracy']:.3f}", *("-" if cell is None else f"{cell:.2f}" for cell in cells))
    console.print(table)
