"""Corrections of updates: what they cost over what the main fit's traffic model predicts, by size and density, and by layer type.

The main fit never sees update windows. Here each measured update (entries, density, optimiser, mode) and each kind (layer type,
optimiser, mode) gets one factor on its dynamic energy and one on its time. Their intervals hold the uncertainty of the main fit as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from cwmp_costmodels.fit.bootstrap import analyse, coefficient, draw_errors
from cwmp_costmodels.fit.curves import with_errors
from cwmp_costmodels.fit.samples import Array, Samples
from cwmp_costmodels.profile.operators import UpdateCurve
from cwmp_costmodels.profile.schema import LayerCoefficient
from cwmp_profiler.sessions.measurements import Window

PARAMETERS = ("layer", "optimizer", "mode")


def layer_key(window: Window) -> str | None:
    """Return `type/optimizer/mode` of an update window, None if it does not say."""
    parts = [part for name in PARAMETERS if isinstance(part := window.params.get(name), str) and part]
    return "/".join(parts) if len(parts) == len(PARAMETERS) else None


def curve_key(window: Window) -> str | None:
    """Return `optimizer/mode entries density` of an update window, None if it does not say."""
    n, density = window.params.get("n"), window.params.get("density")
    optimizer, mode = window.params.get("optimizer"), window.params.get("mode")
    if not isinstance(n, int) or not isinstance(density, int | float) or not 0 < density <= 1:
        return None
    if not isinstance(optimizer, str) or not isinstance(mode, str):
        return None
    return f"{optimizer}/{mode} {n} {float(density)!r}"


def fit_layers(
    updates: Samples,
    *,
    energy: Array,
    time: Array,
    energy_draws: Array,
    time_draws: Array,
    rng: np.random.Generator,
    attributed: bool,
) -> tuple[dict[str, LayerCoefficient], dict[str, UpdateCurve]]:
    """Fit the factors of every kind of update and of every measured update.

    Args:
        updates: Update windows with the main fit's columns, n by p.
        energy: Static power and joules per count, shape (1 + p,).
        time: Seconds per count, shape (p,).
        energy_draws: Bootstrap draws of `energy`, shape (draws, 1 + p).
        time_draws: Bootstrap draws of `time`, shape (draws, p).
        rng: Source of randomness.
        attributed: Whether energy is static power times time and nothing else; factors are then on the whole energy.

    Returns:
        Factors by `type/optimizer/mode`, sorted by key, and curves by `optimizer/mode`.
    """

    def fitted(key: Callable[[Window], str | None]) -> dict[str, LayerCoefficient]:
        return _fit_kinds(
            updates,
            [key(window) for window in updates.windows],
            energy=energy,
            time=time,
            energy_draws=energy_draws,
            time_draws=time_draws,
            rng=rng,
            attributed=attributed,
        )

    by_type, points = fitted(layer_key), fitted(curve_key)
    curves: dict[str, list[tuple[float, float, float, float]]] = {}
    for key, found in points.items():
        kind, entries, density = key.split(" ")
        seconds = found.time_factor.value if found.time_factor is not None else 1.0
        curves.setdefault(kind, []).append((float(entries), float(density), found.factor.value, seconds))
    return by_type, with_errors({kind: _curve(sorted(rows)) for kind, rows in curves.items()})


def _curve(rows: Sequence[tuple[float, float, float, float]]) -> UpdateCurve:
    entries, density, factor, time_factor = (list(column) for column in zip(*rows, strict=True))
    return UpdateCurve(entries=entries, density=density, factor=factor, time_factor=time_factor)


def _fit_kinds(
    updates: Samples,
    labels: Sequence[str | None],
    *,
    energy: Array,
    time: Array,
    energy_draws: Array,
    time_draws: Array,
    rng: np.random.Generator,
    attributed: bool,
) -> dict[str, LayerCoefficient]:
    """Return the factors of windows that share a label, sorted by it."""
    keys = np.array([label or "" for label in labels], dtype=np.str_)
    names = [str(name) for name in np.unique(keys) if name]
    if not names:
        return {}
    time_parts, time_values = _factors(
        updates.duration_s, np.zeros((1, len(updates))), time[None] @ updates.x.T, time_draws @ updates.x.T,
        np.zeros((len(time_draws), len(updates))), keys, names, updates, rng,
    )  # fmt: skip
    if attributed:
        parts, values = time_parts, time_values
    else:
        parts, values = _factors(
            updates.energy_j,
            energy[:1, None] * updates.duration_s,
            energy[None, 1:] @ updates.x.T,
            energy_draws[:, 1:] @ updates.x.T,
            energy_draws[:, :1] * updates.duration_s,
            keys,
            names,
            updates,
            rng,
        )
    return {
        name: LayerCoefficient(
            factor=coefficient(float(values[index]), parts[:, index], "1"),
            time_factor=coefficient(float(time_values[index]), time_parts[:, index], "1"),
            windows=int((keys == name).sum()),
        )
        for index, name in enumerate(names)
    }


def _factors(
    measured: Array,
    static: Array,
    predicted: Array,
    predicted_draws: Array,
    static_draws: Array,
    keys: npt.NDArray[np.str_],
    names: Sequence[str],
    updates: Samples,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Return draws of the factors, shape (draws, keys), and the factors, shape (keys,), of measured = static + f predicted."""
    value = _ratio(measured - static, predicted, measured, keys, names)[0]
    each = np.ones(len(measured))
    for index, name in enumerate(names):
        each[keys == name] = value[index]
    fitted = static[0] + each * predicted[0]
    residual = (measured - fitted) / measured
    spread = analyse(residual, updates.point, len(names))
    errors = draw_errors(residual, updates.point, spread, updates.labels("family"), len(predicted_draws), rng)
    targets = fitted + errors * measured
    return _ratio(targets - static_draws, predicted_draws, measured, keys, names), value


def _ratio(dynamic: Array, predicted: Array, scale: Array, keys: npt.NDArray[np.str_], names: Sequence[str]) -> Array:
    """Return the factor f >= 0 of each key that minimises the squares of (dynamic - f predicted)/scale, shape (draws, keys)."""
    columns = []
    for name in names:
        inside = keys == name
        a, b = predicted[:, inside] / scale[inside], dynamic[:, inside] / scale[inside]
        columns.append(np.maximum((a * b).sum(axis=1) / np.maximum((a * a).sum(axis=1), 1e-300), 0.0))
    return np.column_stack(columns)
