"""One self-contained HTML page of a profile: fit, residuals, energy roofline, costs of a model, validation, provenance.

No script and nothing loaded from elsewhere: pictures are SVG inside the page. It reads on a phone and prints.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from cwmp_costmodels.profile.schema import Coefficient, Profile, Residual
from cwmp_costmodels.report.plots import COLOURS, MARKERS
from cwmp_profiler.provenance import banner
from cwmp_profiler.si_prefixes import si

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cwmp_costmodels.costs.layers import LayerCosts

STYLE = """
:root{color-scheme:light}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:#1b1f24;background:#fff;max-width:60rem;margin:0 auto;padding:1rem}
h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.2rem;margin:2rem 0 .5rem;border-bottom:1px solid #d0d7de}
.banner{padding:.6rem .8rem;border-left:.4rem solid;margin:.8rem 0;font-weight:600}
.measured{border-color:#1a7f37;background:#eaf6ec}.published,.estimated,.simulated,.literature{border-color:#bf5700;background:#fff3e6}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;width:100%}
th,td{text-align:right;padding:.25rem .5rem;border-bottom:1px solid #e6e9ec;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
td.words,th.words{text-align:left;white-space:normal;overflow-wrap:break-word}
figure{margin:1rem 0}figure svg{width:100%;height:auto;max-width:40rem;display:block}
figcaption{font-size:.85rem;color:#57606a}
ul{padding-left:1.2rem}
.pairs{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:1rem}
@media(max-width:42rem){.pairs{grid-template-columns:minmax(0,1fr)}}
@media print{body{max-width:none;padding:0;font-size:11px}h2{break-after:avoid}tr,figure{break-inside:avoid}.scroll{overflow:visible}}
"""


def report_html(profile: Profile, *, costs: LayerCosts | None = None, model: str = "") -> str:
    """Return the page.

    Args:
        profile: Any profile; sections that it has nothing for say so.
        costs: Costs of a model by this profile; None leaves that section out.
        model: Name of that model.

    Raises:
        ModuleNotFoundError: If matplotlib is missing (extra `plots`).
    """
    parts = [
        f"<h1>{escape(profile.name)}</h1>",
        _banner(profile),
        f"<p>{escape(profile.description)}</p>" if profile.description else "",
        _section("Device and meter", _facts(profile)),
        _section("Joules per count", _coefficients(profile.coefficients.items())),
        _section("Seconds per count", _coefficients(profile.times.items())) if profile.times else "",
        _section("Fit", _fit(profile)),
        _section("Validation", _validation(profile)),
    ]
    if costs is not None:
        parts.append(_section(f"What updating {model} costs", _costs(costs)))
    parts.append(_section("Where this comes from", _sources(profile)))
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{escape(profile.name)}: device profile ({profile.provenance})</title><style>{STYLE}</style></head>\n"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _banner(profile: Profile) -> str:
    kind = str(profile.provenance)
    return f"<p class='banner {kind}'>{escape(banner(profile.provenance, profile.meter.name))}</p>"


def _section(title: str, body: str) -> str:
    return f"\n<h2>{escape(title)}</h2>\n{body}"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[str] = ()) -> str:
    marks = [" class='words'" if heading in words else "" for heading in headings]
    head = "".join(f"<th{mark}>{escape(text)}</th>" for text, mark in zip(headings, marks, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{mark}>{escape(cell)}</td>" for cell, mark in zip(row, marks, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _facts(profile: Profile) -> str:
    device = profile.device
    levels = ", ".join(
        level.name + (f" {level.capacity_bytes / 1024:,.0f} KiB" if level.capacity_bytes else "")
        for level in device.levels
    )
    rows = [
        ("device", f"{device.kind}: {device.model}"),
        ("memory levels", f"{levels}; lines of {device.line_bytes} B"),
        ("threads", str(device.threads)),
        (
            "meter",
            f"{profile.meter.name} ({profile.meter.provenance}): {', '.join(r.name for r in profile.meter.rails) or '-'}",
        ),
        ("against a reference", profile.meter.calibration() or "-"),
        ("made", f"{profile.created} by {profile.tool}"),
    ]
    rows += [("note", note) for note in profile.meter.notes]
    return _table(("", "what"), rows, words=("what",))


def _coefficients(items: Iterable[tuple[str, Coefficient]]) -> str:
    rows = []
    for name, found in items:
        interval = "-"
        if found.low is not None and found.high is not None:
            interval = f"{si(found.low, found.unit)} to {si(found.high, found.unit)}"
        remark = "; ".join(part for part in (found.status, found.citation, found.remark) if part)
        rows.append((name, si(found.value, found.unit), interval, remark))
    return _table(("count", "value", "95% interval", "status"), rows, words=("status",))


def _fit(profile: Profile) -> str:
    block = profile.fit
    if block is None:
        return "<p>Not fitted: these values are given.</p>"
    facts = [
        ("verdict", block.verdict or "-"),
        ("windows, points", f"{block.windows}, {block.points}"),
        ("error on them", f"energy {block.energy_error:.1%}, time {block.time_error:.1%}"),
        ("error held out", _percent(block.held_out_energy_error)),
        ("condition number", f"{block.condition_number:.3g}"),
        ("largest variance inflation", f"{max(block.vif.values(), default=0):.3g}"),
        ("power at rest", "-" if block.idle_power_w is None else f"{block.idle_power_w:.3g} W"),
    ]
    warnings = "".join(f"<li>{escape(text)}</li>" for text in block.warnings)
    pictures = _pictures(profile, block.residuals)
    listed = f"<p><strong>Warnings</strong></p><ul>{warnings}</ul>" if warnings else "<p>No warnings.</p>"
    return _table(("", "value"), facts, words=("value",)) + listed + pictures + _worst(block.residuals)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _worst(residuals: Sequence[Residual]) -> str:
    ranked = sorted(residuals, key=lambda r: -abs(r.predicted_j / r.measured_j - 1))[:10]
    if not ranked:
        return ""
    rows = [
        (
            r.point,
            r.family,
            si(r.measured_j, "J"),
            si(r.predicted_j, "J"),
            f"{r.predicted_j / r.measured_j - 1:+.1%}",
        )
        for r in ranked
    ]
    return "<p><strong>Largest residuals</strong></p>" + _table(
        ("point", "family", "read", "predicted", "error"), rows, words=("point",)
    )


def _pictures(profile: Profile, residuals: Sequence[Residual]) -> str:
    if not residuals:
        return "<p>No residuals are kept in this profile.</p>"
    read = f"{profile.provenance} J per window"
    return (
        "<div class='pairs'>"
        + _figure(lambda axes: _draw_predicted(axes, residuals, read), "Predicted against read, one mark a point.")
        + _figure(lambda axes: _draw_residuals(axes, residuals), "Residuals by family; updates were not fitted.")
        + _figure(lambda axes: _draw_roofline(axes, residuals), "Energy roofline: joules per operation over intensity.")
        + "</div>"
    )


def _figure(draw: Callable[[Axes], None], caption: str) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    FigureCanvasSVG(figure)
    draw(figure.subplots())
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": caption}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    label = f"<svg role='img' aria-label='{escape(caption, quote=True)}'"
    svg = svg[svg.index("<svg") :].replace("<svg", label, 1)
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _by_family(residuals: Sequence[Residual]) -> list[tuple[str, list[Residual], dict[str, Any]]]:
    families = list(dict.fromkeys(residual.family for residual in residuals))
    return [
        (
            family,
            [residual for residual in residuals if residual.family == family],
            {
                "marker": MARKERS.get(family, "d"),
                "linestyle": "none",
                "color": COLOURS.get(family, "#cc79a7"),
                "label": family,
            },
        )
        for family in families
    ]


def _draw_predicted(axes: Axes, residuals: Sequence[Residual], read: str) -> None:
    values = [value for r in residuals for value in (r.measured_j, r.predicted_j) if value > 0]
    ends = [min(values) * 0.8, max(values) * 1.25]
    axes.plot(ends, ends, color="black", linewidth=1)
    for _, group, style in _by_family(residuals):
        axes.plot([r.measured_j for r in group], [r.predicted_j for r in group], **style)
    axes.set(xscale="log", yscale="log", xlabel=read, ylabel="predicted J per window")
    axes.legend(frameon=False)


def _draw_residuals(axes: Axes, residuals: Sequence[Residual]) -> None:
    axes.axhline(0, color="black", linewidth=1)
    place = 0
    for _, group, style in _by_family(residuals):
        axes.plot(range(place, place + len(group)), [100 * (r.predicted_j / r.measured_j - 1) for r in group], **style)
        place += len(group)
    axes.set(xlabel="point", ylabel="predicted - read (% of read)")
    axes.legend(frameon=False)


def _draw_roofline(axes: Axes, residuals: Sequence[Residual]) -> None:
    for _, group, style in _by_family([r for r in residuals if r.flops > 0 and r.moved_bytes > 0]):
        axes.plot([r.flops / r.moved_bytes for r in group], [r.measured_j / r.flops for r in group], **style)
        hollow = {**style, "markerfacecolor": "none", "markersize": 10, "label": None}
        axes.plot([r.flops / r.moved_bytes for r in group], [r.predicted_j / r.flops for r in group], **hollow)
    axes.set(xscale="log", yscale="log", xlabel="operations per byte moved", ylabel="J per operation (hollow: model)")
    axes.legend(frameon=False)


def _validation(profile: Profile) -> str:
    block = profile.validation
    if block is None:
        return "<p><strong>Not validated.</strong> Run <code>cwmp-profile validate</code>.</p>"
    rows = [(c.case, si(c.predicted_j, "J"), si(c.measured_j, "J"), f"{c.error:+.1%}") for c in block.cases]
    head = (
        f"<p>Work that the fit never saw: mean absolute error {block.mean_abs_error:.1%}, worst {block.worst_abs_error:.1%} "
        f"({escape(str(block.provenance))}, meter {escape(block.meter)}, {escape(block.created)}).</p>"
    )
    return head + _table(("case", "predicted", str(block.provenance), "error"), rows)


def _costs(costs: LayerCosts) -> str:
    density = costs.scenario.density
    rows = [
        (
            name,
            costs.layers[name].tensor.layer_type,
            "x".join(str(side) for side in costs.layers[name].tensor.shape),
            costs.layers[name].level,
            si(costs.entry_j(name, density), "J"),
        )
        for name in costs.names()
    ]
    head = (
        f"<p>{escape(costs.scenario.optimizer)}, density {density:g}: dense total {si(costs.dense_j(), 'J')}, "
        f"costs of entries spread {costs.spread():.3g} times.</p>"
    )
    return head + _table(("parameter", "type", "shape", "lives in", "J per entry"), rows)


def _sources(profile: Profile) -> str:
    block = profile.fit
    if block is None or not block.measurements:
        return f"<p>Provenance: {profile.provenance}.</p>"
    rows = [(ref.name, str(ref.windows), ref.sha256) for ref in block.measurements]
    return f"<p>Provenance: {profile.provenance}.</p>" + _table(
        ("measurements", "windows", "sha256"), rows, words=("sha256",)
    )
