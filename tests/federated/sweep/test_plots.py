"""Pictures of a sweep: every sweep that can be run can be drawn."""

import pytest

pytest.importorskip("matplotlib", reason="matplotlib (the extra `plots`) is not installed")

from cwmp_federated.sweep.plots import plot_frontier


def point(rule, budget, update_j, total_j=10.0):
    config = {"rule": rule, "budget": budget, "seed": 0, "error_feedback": True}
    return {"config": config, "accuracy": 0.5, "update_j": update_j, "total_j": total_j, "provenance": "simulated"}


@pytest.mark.parametrize("spent", [[0.0, 1.0, 2.0], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
def test_a_budget_that_paid_for_nothing_has_no_place_on_a_log_axis_and_breaks_nothing(tmp_path, spent):
    points = [point(rule, f"{b}%", j) for rule in ("cwmp", "top-k") for b, j in zip((1, 2, 3), spent, strict=True)]
    assert plot_frontier(points, tmp_path / "p.png", title="t").read_bytes().startswith(b"\x89PNG")
