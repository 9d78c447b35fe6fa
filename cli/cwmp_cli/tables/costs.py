"""Tables and JSON of layer costs, as `costs` prints them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cwmp_cli.options.console import si
from cwmp_costmodels.costs.like import like_tensors
from cwmp_profiler.provenance import banner

if TYPE_CHECKING:
    from cwmp_costmodels.costs.layers import LayerCosts
    from cwmp_costmodels.costs.tensor import LayerCost
    from cwmp_selector.gain.expected import Gain

SHOWN_SOURCES = 2

LACKING = {
    "slope": "the slope of the meter is not known and not in it",
    "update curves": "what update curves err by is not in the profile and not in it, fit its measurements again",
}
"""What is said of an interval that lacks something (`cwmp_costmodels.costs.interval.Interval.lacks`)."""


def cost_table(costs: LayerCosts, model: str, *, every: bool = False) -> Any:
    """Return one row a class of like tensors (a parameter tensor each with `every`): shape, where it lives, joules per updated entry, its parts, and from what."""
    from rich.table import Table

    scenario, causes = costs.scenario, _causes(costs)
    title = (
        f"{model}: joules per updated entry at density {scenario.density:g}, {scenario.optimizer}, "
        f"{_plural(scenario.local_steps, 'local step')}, static power {costs.static}, "
        f"{banner(costs.provenance, costs.profile.meter.name)}"
    )
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold")
    for name in ("parameter", "type", "shape", "lives in"):
        table.add_column(name, no_wrap=name == "parameter")
    for name in ("J/entry", *causes, "once"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("from")
    rows: list[tuple[tuple[str, ...], str]] = [((name,), name) for name in costs.names()]
    if not every:
        rows = [(like.names, like.title) for like in like_tensors(costs)]
    for names, title in rows:
        name = names[0]
        layer, row = costs.layers[name], _row(costs, name)
        shapes = dict.fromkeys("x".join(str(size) for size in costs.layers[one].tensor.shape) or "1" for one in names)
        table.add_row(
            title,
            layer.tensor.layer_type,
            next(iter(shapes)) + (f" and {len(shapes) - 1} more" if len(shapes) > 1 else ""),
            layer.level,
            si(row["entry_j"], "J"),
            *(si(row["parts_j"][cause] or None, "J") for cause in causes),
            si(row["fixed_j"] or None, "J"),
            _origin(layer, row["sources_j"]),
        )
    return table


def summary(costs: LayerCosts, gain: Gain) -> list[str]:
    """Return the lines below the table: spread, dense total, what was not counted, what was known, and the verdict."""
    from cwmp_selector.gain.expected import KNOWN

    dense = costs.parts_j({name: costs.numel(name) for name in costs.names()})
    parts = ", ".join(f"{cause} {si(joules, 'J')}" for cause, joules in dense.items() if joules)
    entries = sum(costs.numel(name) for name in costs.names())
    lines = [
        f"spread      {gain.spread:.3g}x between dearest and cheapest entry (coefficient of variation {gain.variation:.2g})",
        f"dense       {si(sum(dense.values()), 'J')} for all {entries:,} entries ({parts})",
        f"budget      {si(gain.budget_j, 'J')} is what Top-K spends on {gain.top_k.kept:,.0f} entries",
    ]
    sure = costs.interval_j({name: costs.numel(name) for name in costs.names()})
    if sure.holds:
        reading = "".join(f"; {LACKING[what]}" for what in sure.lacks)
        lines.append(
            f"sure to     {si(sure.low_j, 'J')} to {si(sure.high_j, 'J')} for the device's part of that (95%: {', '.join(sure.holds)}{reading})"
        )
    always = {cause: joules for cause, joules in costs.always_j().items() if joules}
    if always:
        told = ", ".join(f"{cause} {si(joules, 'J')}" for cause, joules in always.items())
        lines.append(
            f"always      {told} a round whatever is kept (select: one read of every gradient entry, at least)"
        )
    turns = {name: turn for name in costs.names() if (turn := costs.dense_from(name)) is not None}
    if turns:
        lines.append(
            f"write       scatter below, dense above {_turn(costs, min(turns, key=turns.__getitem__))} to "
            f"{_turn(costs, max(turns, key=turns.__getitem__))} by tensor "
            f"(joules of the device; {len(turns)} of {len(costs.names())} tensors)"
        )
    if costs.burst_j():
        lines.append(f"burst       {si(costs.burst_j(), 'J')} once per payload: promotion and tail of the radio")
    tied = {name: layer.tensor.tied for name, layer in costs.layers.items() if layer.tensor.tied}
    lines.extend(f"tied        {name} = {', '.join(others)}" for name, others in tied.items())
    if costs.skipped:
        lines.append("no cost     " + ", ".join(f"{name} ({why})" for name, why in costs.skipped.items()))
    if costs.gradient is not None:
        missing = costs.gradient.not_counted
        lines.append(
            f"gradient    {si(float(sum(costs.gradient.flops.values())), 'flop')} a step counted for weight gradients"
        )
        lines.extend(
            f"not counted {len(names)} gradients: {why} ({_some(names)})" for why, names in _by_reason(missing).items()
        )
    lines.append(f"known       {KNOWN[gain.known]}")
    lines.append(f"[bold]verdict     {gain.verdict}[/bold]")
    return lines


def costs_json(costs: LayerCosts, gain: Gain, *, model: str, warnings: list[str]) -> dict[str, Any]:
    """Return everything as one JSON object."""
    scenario, everything = costs.scenario, {name: costs.numel(name) for name in costs.names()}
    skip = ("radio", "framing")
    return {
        "profile": costs.profile.name,
        "provenance": str(costs.provenance),
        "model": model,
        "static": costs.static,
        "scenario": {
            "radio": None if scenario.radio is None else str(getattr(scenario.radio, "name", scenario.radio)),
            **{name: getattr(scenario, name) for name in scenario.__slots__ if name not in skip},
        },
        "tensors": [_row(costs, name) for name in costs.names()],
        "skipped": costs.skipped,
        "spread": costs.spread(),
        "variation": costs.variation(),
        "dense_j": costs.dense_j(),
        "dense_parts_j": costs.parts_j(everything),
        "dense_device_interval_j": costs.interval_j(everything)._asdict(),
        "burst_j": costs.burst_j(),
        "always_j": costs.always_j(),
        "gradient": None if costs.gradient is None else asdict(costs.gradient),
        "gain": gain.to_json(),
        "remarks": list(costs.remarks),
        "warnings": warnings,
    }


def _row(costs: LayerCosts, name: str) -> dict[str, Any]:
    layer, density = costs.layers[name], costs.scenario.density
    tensor = layer.tensor
    kept = float(tensor.numel) if density == 1 else max(density * tensor.numel, 1.0)
    factor = layer.factors.at("dense" if kept == tensor.numel else "sparse", kept / tensor.numel)
    return {
        "name": name,
        "type": tensor.layer_type,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "tied": list(tensor.tied),
        "level": layer.level,
        "entry_j": costs.entry_j(name, density),
        "marginal_j": costs.marginal_j(name, density),
        "parts_j": layer.entry_parts_j(kept),
        "fixed_j": costs.fixed_j(name),
        "dense_from": costs.dense_from(name),
        "sources_j": layer.sources_j(kept),
        "factor": {"value": factor.value, "time": factor.time_value, "key": factor.key},
    }


def _origin(layer: LayerCost, sources: dict[str, float]) -> str:
    total = sum(sources.values())
    largest = sorted(sources.items(), key=lambda item: -item[1])[:SHOWN_SOURCES]
    text = ", ".join(f"{name} {joules / total:.0%}" for name, joules in largest if joules >= 0.005 * total)
    factor = layer.factors.at("sparse", layer.scenario.density)
    return text if factor.key is None else f"{text} (x{factor.value:.3g} {factor.key})"


def _causes(costs: LayerCosts) -> tuple[str, ...]:
    radio = costs.scenario.radio is not None
    return ("memory", "compute", *(("uplink",) if radio else ()), *(("downlink",) if costs.scenario.receivers else ()))


def _by_reason(missing: dict[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, why in missing.items():
        reasons.setdefault(why, []).append(name)
    return reasons


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _turn(costs: LayerCosts, name: str) -> str:
    """Return the density from which a tensor is cheaper written dense; below one entry it always is."""
    density = costs.dense_from(name) or 0.0
    return f"a density of {density:.2g}" if density * costs.numel(name) >= 1 else "the first entry"
