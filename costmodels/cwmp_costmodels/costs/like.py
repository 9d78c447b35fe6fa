"""Classes of like tensors: parameters of one type and level whose entries cost the same are one row of a table."""

from __future__ import annotations

from dataclasses import dataclass

from cwmp_costmodels.costs.layers import LayerCosts

LIKE_DIGITS = 2
"""Significant digits to which joules of like tensors agree."""


@dataclass(frozen=True, slots=True)
class LikeTensors:
    """Tensors that one row stands for.

    Attributes:
        names: Parameter names, in the model's order; the first stands for all.
        entries: Entries of all of them.
    """

    names: tuple[str, ...]
    entries: int

    @property
    def title(self) -> str:
        """The only name, or the first and how many more."""
        first, *more = self.names
        return f"{first} and {len(more)} like it" if more else first


def like_tensors(costs: LayerCosts) -> list[LikeTensors]:
    """Return the classes, in the order of their first tensor."""
    density = costs.scenario.density
    classes: dict[tuple[str, str, str], list[str]] = {}
    for name in costs.names():
        layer = costs.layers[name]
        key = (layer.tensor.layer_type, layer.level, f"{costs.entry_j(name, density):.{LIKE_DIGITS}g}")
        classes.setdefault(key, []).append(name)
    return [LikeTensors(tuple(names), sum(costs.numel(name) for name in names)) for names in classes.values()]
