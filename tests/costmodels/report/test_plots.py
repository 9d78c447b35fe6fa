"""The picture of a fit: what it predicts, and that it is drawn."""

import pytest

from cwmp_costmodels.errors import FitError
from cwmp_costmodels.fit.sessions import fit_sessions
from cwmp_costmodels.profile.predict import predict
from cwmp_costmodels.report.plots import plot_fit


def test_a_truth_predicts_its_own_windows_up_to_noise(truth, measure_simulated):
    known = truth(noise=0.0)
    for window in measure_simulated(known, seed=51).windows:
        if window.workload != "idle.rest" and window.family != "update":
            joules, seconds = predict(known, window)
            assert joules == pytest.approx(window.energy_j, rel=3e-3)
            assert seconds == pytest.approx(window.duration_s, rel=1e-3)


def test_a_window_with_unknown_counts_is_not_predicted(truth, measure_simulated):
    known = truth()
    window = measure_simulated(known, seed=51).windows[3].model_copy(update={"counts": {"l9_read": 1.0}})
    assert predict(known, window) is None
    pytest.importorskip("matplotlib")
    with pytest.raises(FitError, match="keeps no residuals to plot"):
        plot_fit(known, "never.png")


def test_a_picture_is_written_or_the_target_is_named(truth, measure_simulated, tmp_path):
    pytest.importorskip("matplotlib")
    found = measure_simulated(truth(), seed=52)
    profile = fit_sessions([found])
    assert plot_fit(profile, tmp_path / "fit.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(FitError, match=r"cannot write plot .*nowhere"):
        plot_fit(profile, tmp_path / "nowhere" / "fit.png")
    with pytest.raises(FitError, match="cannot write plot"):
        plot_fit(profile, tmp_path / "fit.docx")
