"""One self-contained HTML page of a profile: what it is worth and whether CWMP pays first, then costs, residuals and coefficients.

No script and nothing loaded from elsewhere: pictures are SVG inside the page. It reads on a phone, where each row becomes a card, and prints.
The page's shape is the template beside this file; what stands in it is made here, as text that the template escapes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from cwmp_costmodels.costs.like import like_tensors
from cwmp_costmodels.profile.schema import Coefficient, Profile, Residual, ValidationCase
from cwmp_costmodels.profile.validity import validity_remark
from cwmp_costmodels.report.draw import Drawing, drawings
from cwmp_profiler.provenance import banner
from cwmp_profiler.si_prefixes import si

if TYPE_CHECKING:
    from cwmp_costmodels.costs.layers import LayerCosts

WORST = 10
"""Residuals that the page lists."""

Rows = list[tuple[str, ...]]


def report_html(profile: Profile, *, costs: LayerCosts | None = None, verdict: str = "", model: str = "") -> str:
    """Return the page.

    Args:
        profile: Any profile; sections that it has nothing for are left out or say so.
        costs: Costs of a model by this profile; None leaves that section out.
        verdict: Whether CWMP pays at these costs, one sentence; empty leaves it out.
        model: Name of that model.

    Raises:
        ModuleNotFoundError: If matplotlib is missing (extra `plots`).
    """
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("cwmp_costmodels", "report")
    template = Environment(loader=loader, autoescape=True, trim_blocks=True).get_template("page.html.j2")
    block, validation = profile.fit, profile.validation
    return template.render(
        name=profile.name,
        provenance=str(profile.provenance),
        banner=banner(profile.provenance, profile.meter.name),
        description=profile.description,
        fit_verdict=_fit_verdict(profile),
        warnings=[*(block.warnings if block is not None else ()), *filter(None, [validity_remark(profile)])],
        gain=verdict,
        model=model,
        costs=_costs(costs) if costs is not None else None,
        corrections=_corrections(profile),
        fit=_fit(profile),
        figures=[(caption, _svg(draw, profile, caption)) for caption, draw in drawings(profile).items()],
        worst=_worst(block.residuals) if block is not None else [],
        coefficients=_coefficients(profile.coefficients.items()),
        times=_coefficients(profile.times.items()),
        validation=_validation(profile),
        provenance_of_validation=str(validation.provenance) if validation is not None else "",
        facts=_facts(profile),
        sources=[(ref.name, str(ref.windows), ref.sha256) for ref in block.measurements] if block is not None else [],
    )


def _fit_verdict(profile: Profile) -> str:
    block = profile.fit
    if block is None:
        return "Not fitted: its values are given."
    held = (
        f"; work left out of the fit is predicted within {_percent(block.held_out_energy_error)}"
        if block.held_out_energy_error
        else ""
    )
    checked = ""
    if profile.validation is not None:
        checked = f"; training steps that it never saw within {profile.validation.mean_abs_error:.1%}, worst {profile.validation.worst_abs_error:.1%}"
    return f"The fit is {block.verdict or 'not judged'}{held}{checked}."


def _facts(profile: Profile) -> Rows:
    device = profile.device
    levels = ", ".join(
        level.name + (f" {level.capacity_bytes / 1024:,.0f} KiB" if level.capacity_bytes else "")
        for level in device.levels
    )
    rails = ", ".join(rail.name for rail in profile.meter.rails) or "-"
    rows: Rows = [
        ("device", f"{device.kind}: {device.model}"),
        ("memory levels", f"{levels}; lines of {device.line_bytes} B"),
        ("threads", str(device.threads)),
        ("meter", f"{profile.meter.name} ({profile.meter.provenance}): {rails}"),
        ("against a reference", profile.meter.calibration() or "-"),
        ("made", f"{profile.created} by {profile.tool}"),
    ]
    rows += [("note", note) for note in profile.meter.notes]
    return rows


def _coefficients(items: Iterable[tuple[str, Coefficient]]) -> Rows:
    rows: Rows = []
    for name, found in items:
        interval = "-"
        if found.low is not None and found.high is not None:
            interval = f"{si(found.low, found.unit)} to {si(found.high, found.unit)}"
        remark = "; ".join(part for part in (found.status, found.citation, found.remark) if part)
        rows.append((name, si(found.value if found.told else None, found.unit), interval, remark))
    return rows


def _fit(profile: Profile) -> Rows:
    block = profile.fit
    if block is None:
        return []
    return [
        ("windows, points", f"{block.windows}, {block.points}"),
        ("drift of power", f"{block.drift:.2%} over the session"),
        ("serial correlation", "-" if block.order_correlation is None else f"{block.order_correlation:.2g}"),
        ("error on them", f"energy {block.energy_error:.1%}, time {block.time_error:.1%}"),
        ("error held out", _percent(block.held_out_energy_error)),
        ("condition number", f"{block.condition_number:.3g}"),
        ("largest variance inflation", f"{max(block.vif.values(), default=0):.3g}"),
        ("power at rest", "-" if block.idle_power_w is None else f"{block.idle_power_w:.3g} W"),
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _worst(residuals: Sequence[Residual]) -> Rows:
    ranked = sorted(residuals, key=lambda r: -abs(r.predicted_j / r.measured_j - 1))[:WORST]
    return [
        (r.point, r.family, _each(r, r.measured_j), _each(r, r.predicted_j), f"{r.predicted_j / r.measured_j - 1:+.1%}")
        for r in ranked
    ]


def _each(residual: Residual, joules: float) -> str:
    return si(joules / residual.iterations, "J") if residual.iterations else f"{si(joules, 'J')} a window"


def _corrections(profile: Profile) -> Rows:
    return [
        (
            kind,
            f"x{layer.factor.value:.3g}",
            "-" if layer.time_factor is None else f"x{layer.time_factor.value:.3g}",
            str(layer.windows),
        )
        for kind, layer in profile.layers.items()
    ]


def _svg(draw: Drawing, profile: Profile, caption: str) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    FigureCanvasSVG(figure)
    draw(figure.subplots(), profile)
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": caption}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    label = f"<svg role='img' aria-label='{escape(caption, quote=True)}'"
    return svg[svg.index("<svg") :].replace("<svg", label, 1)


def _validation(profile: Profile) -> dict[str, Any] | None:
    block = profile.validation
    if block is None:
        return None
    head = (
        f"Work that the fit never saw: mean absolute error {block.mean_abs_error:.1%}, worst {block.worst_abs_error:.1%} "
        f"({block.provenance}, meter {block.meter}, {block.created})."
    )
    rows = [(c.case, si(c.predicted_j, "J"), _within(c), si(c.measured_j, "J"), f"{c.error:+.1%}") for c in block.cases]
    return {"head": head, "rows": rows}


def _within(case: ValidationCase) -> str:
    """Return the 95% interval of a prediction; one by counts has none where the profile tells no error or work has no rule."""
    if "low_j" not in case.detail:
        return "-"
    return f"{si(case.detail['low_j'], 'J')} to {si(case.detail['high_j'], 'J')}"


def _costs(costs: LayerCosts) -> dict[str, Any]:
    density = costs.scenario.density
    rows, holds, lacks = [], dict[str, None](), dict[str, None]()
    for like in like_tensors(costs):
        name = like.names[0]
        sure = costs.interval_j({one: costs.numel(one) for one in like.names})
        holds.update(dict.fromkeys(sure.holds))
        lacks.update(dict.fromkeys(sure.lacks))
        wide = (sure.high_j - sure.low_j) / (sure.high_j + sure.low_j) if sure.holds else None
        interval = "-" if wide is None else f"+-{wide:.1%}"
        layer = costs.layers[name]
        rows.append(
            (
                like.title,
                layer.tensor.layer_type,
                f"{like.entries:,}",
                layer.level,
                si(costs.entry_j(name, density), "J"),
                interval,
            )
        )
    head = (
        f"{costs.scenario.optimizer}, density {density:g}: dense total {si(costs.dense_j(), 'J')}, costs of entries spread "
        f"{costs.spread():.3g} times."
    )
    if holds:
        head += f" The 95% intervals hold {', '.join(holds)}" + (f" and lack {', '.join(lacks)}." if lacks else ".")
    return {"head": head, "rows": rows}
