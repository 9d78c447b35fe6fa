"""Warnings of a fit, each with what to do, drawn from the finished profile."""

from __future__ import annotations

from collections.abc import Sequence

from cwmp_costmodels.fit.diagnostics import BLIND_SHARE, Conditioning, lacking
from cwmp_costmodels.fit.gather import UPDATE, Gathered
from cwmp_costmodels.profile.plausibility import plausibility_warnings
from cwmp_costmodels.profile.schema import FitBlock, LackOfFit, Profile
from cwmp_profiler.provenance import Provenance

NOISY = 0.05
"""Relative spread of repeats from which a machine is called noisy."""

_CURES = ("fix ", "measure ", "add windows", "close ", "let ", "take a meter", "something else runs")
"""How clauses begin that ask for another measurement."""

LARGE_VIF = 100.0
"""Variance inflation from which a coefficient is said to hang on others (standard errors ten times larger)."""


def complete(profile: Profile, found: Gathered, static: Sequence[str], conditions: Conditioning) -> Profile:
    """Return `profile` with all warnings in its fit block."""
    block = profile.fit
    if block is None:
        return profile
    warnings = [
        *_estimated(profile),
        *_blind(profile),
        *_misfit(block),
        *_updates(block),
        *found.warnings,
        *static,
        *_noise(block),
        *_unidentified(profile),
        *_inflated(conditions),
        *_implausible(profile),
    ]
    if profile.provenance == Provenance.PUBLISHED:
        warnings = [_without_cure(warning) for warning in warnings]
    return profile.model_copy(update={"fit": block.model_copy(update={"warnings": warnings})})


def _without_cure(warning: str) -> str:
    """Return a warning up to where it asks for another measurement: nobody here can repeat what others measured."""
    clauses = warning.split("; ")
    ends = (index for index, clause in enumerate(clauses) if index and clause.startswith(_CURES))
    return "; ".join(clauses[: next(ends, len(clauses))])


def _estimated(profile: Profile) -> list[str]:
    if profile.provenance != Provenance.ESTIMATED:
        return []
    warning = (
        f"every joule here is ESTIMATED by meter {profile.meter.name} from time and a rated power, not measured; only costs with "
        "static power attributed mean anything; use a machine with an energy meter for measured values"
    )
    return [warning]


def _blind(profile: Profile) -> list[str]:
    share = profile.fit.dynamic_share if profile.fit is not None else None
    if share is None or share >= BLIND_SHARE:
        return []
    if profile.fit is not None and profile.fit.verdict != "bad":
        text = (
            f"static power dominates: work adds at most {share:.1%} to it; joules of whole steps are predicted as well as the errors here "
            "say, joules above static power of a single operation only as far as its coefficient's interval"
        )
        return [text]
    warning = (
        f"the fit is bad: meter {profile.meter.name} hardly sees the work, which adds at most {share:.1%} to static power; its "
        "coefficients are noise; take a meter that sees this device (see 'cwmp-profile check' and 'cwmp-profile devices')"
    )
    return [warning]


def _misfit(block: FitBlock) -> list[str]:
    found = []
    for what, lack in (("energy", block.energy_lack), ("time", block.time_lack)):
        if lack is not None and lacking(lack):
            found.append(_lack(what, lack, block.verdict))
    groups = [group for group in block.held_out if group.family != UPDATE]
    worst = max(groups, key=lambda group: max(group.energy_error, group.time_error), default=None)
    blind = block.dynamic_share is not None and block.dynamic_share < BLIND_SHARE
    if not found and block.verdict in ("doubtful", "bad") and not block.drift and not blind and worst is not None:
        found.append(
            f"the fit is {block.verdict}: without {worst.family} it predicts {worst.family} to {worst.energy_error:.1%} of energy and "
            f"{worst.time_error:.1%} of time, where repeats differ by {block.repeat_spread or 0:.1%}; trust costs only near the work "
            "measured and check with 'cwmp-profile validate'"
        )
    return found


def _updates(block: FitBlock) -> list[str]:
    noise = block.repeat_spread or 0.0
    found = [group for group in block.held_out if group.family == UPDATE and group.energy_error > max(3 * noise, NOISY)]
    return [
        f"update steps cost other than their traffic says (off by {group.energy_error:.1%} of energy on average); costs use the "
        "factors per layer type, other layers and optimisers than those measured may be off as much"
        for group in found
    ]


def _lack(what: str, lack: LackOfFit, verdict: str | None) -> str:
    return (
        f"the fit is {verdict}: the model does not describe this device's {what}: points are off by {lack.misfit:.1%} where their "
        f"repeats agree to {lack.noise:.1%} (lack of fit F({lack.points}, {lack.repeats}) = {lack.statistic:.3g}, "
        f"p = {lack.p_value:.1g}); fix the clocks, see which workload is off in the plot, and check with 'cwmp-profile validate'"
    )


def _noise(block: FitBlock) -> list[str]:
    found = []
    if block.repeat_spread is not None and block.repeat_spread > NOISY:
        found.append(
            f"repeats of the same work differ by {block.repeat_spread:.1%}; close other programs, fix the clocks, or take longer "
            "windows and more --repeats"
        )
    if block.repeat_spread is None:
        found.append("no point was repeated, so noise and misfit cannot be told apart; measure with --repeats 3")
    if block.drift > 0:
        found.append(
            f"the device drifted during the session by about {block.drift:.1%} (serial correlation {block.order_correlation or 0:.2f}); let "
            "it warm up, fix the clocks and cool it, then measure again"
        )
    return found


def _unidentified(profile: Profile) -> list[str]:
    if profile.fit is None or profile.fit.static == "attributed":
        names = [f"time of {name}" for name, found in profile.times.items() if _open(found.status)]
    else:
        names = [name for name, found in profile.coefficients.items() if _open(found.status)]
    if not names:
        return []
    warning = (
        f"not identified: {', '.join(names)}: too small a part of what was measured; costs that rest on them are uncertain; add "
        "windows with --preset full or --repeats 5"
    )
    return [warning]


def _open(status: str) -> bool:
    return status in ("not identified", "at bound")


def _inflated(conditions: Conditioning) -> list[str]:
    names = [name for name, value in conditions.vif.items() if value > LARGE_VIF]
    if not names:
        return []
    warning = (
        f"the plan hardly tells apart {', '.join(names)} (variance inflation over {LARGE_VIF:g}): trust their sum in the work "
        "measured, not each of them; measure with --preset full"
    )
    return [warning]


def _implausible(profile: Profile) -> list[str]:
    return plausibility_warnings(profile)
