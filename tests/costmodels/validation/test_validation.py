"""Validation: what the profile predicts of whole training steps, against what a session of them read."""

import pytest
import torch
from sessions import simulated_file, simulated_session

from cwmp_cli.app import main
from cwmp_cli.verbs.validate import show_validation
from cwmp_costmodels.errors import ProfileError
from cwmp_costmodels.fit.sessions import fit_sessions
from cwmp_costmodels.profile.files import load_profile, save_profile
from cwmp_costmodels.profile.operators import UpdateCurve
from cwmp_costmodels.profile.predict import predict_parts
from cwmp_costmodels.profile.schema import Coefficient, LayerCoefficient
from cwmp_costmodels.validation.predictions import validate
from cwmp_costmodels.validation.work import BATCHES, QUICK, STANDARD, ModelStep, counts_by_kind, validation_points
from cwmp_profiler.sessions.plan import make_plan
from cwmp_profiler.workloads import WORKLOADS
from cwmp_profiler.workloads.operands import Operands

PARAMS = {"model": "mlp", "batch": 8, "optimizer": "sgd", "density": 1.0}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    return fit_sessions([simulated_file(folder / "m.jsonl", preset="standard")], name="fitted")


def session_of_cases(folder, truth="simulated-board", **options):
    session = simulated_session(truth, families=["idle"], extra=validation_points("quick"), seed=5, **options)
    return session.measure(folder / "v.jsonl")


def test_joules_are_the_sum_over_counts_by_hand():
    truth = load_profile("simulated-board")
    parts = {"": {"dram_read": 1e6, "launch": 2.0}}
    energy, duration = predict_parts(truth, parts)
    t = 1e6 * truth.times["dram_read"].value + 2 * truth.times["launch"].value
    dynamic = 1e6 * truth.coefficients["dram_read"].value + 2 * truth.coefficients["launch"].value
    assert duration == pytest.approx(t)
    assert energy == pytest.approx(dynamic + truth.coefficients["static_power"].value * t)


def test_the_truth_predicts_its_own_device_within_the_noise(tmp_path):
    block = validate(load_profile("simulated-board"), session_of_cases(tmp_path))
    assert len(block.cases) == len(QUICK)
    assert block.mean_abs_error < 0.015
    assert block.provenance == "simulated"


def test_a_fitted_profile_predicts_steps_that_it_never_saw(fitted, tmp_path):
    """Aim of the project: at most 10% on work that the fit never saw."""
    block = validate(fitted, session_of_cases(tmp_path))
    assert block.worst_abs_error < 0.10
    assert block.mean_abs_error < 0.04


def test_most_steps_and_updates_lie_in_the_intervals_of_their_counts(fitted, tmp_path, capsys):
    """Without curves' errors, as profiles fitted earlier are, updates are told with narrower intervals that say what they lack."""
    session = session_of_cases(tmp_path)
    cases = validate(fitted, session).cases
    inside = [case.detail["low_j"] <= case.measured_j <= case.detail["high_j"] for case in cases]
    assert sum(inside) >= 0.9 * len(inside)
    updates = [at for at, case in enumerate(cases) if case.case.startswith("update")]
    assert updates
    assert all("update curves" in case.detail["interval_holds"] for case in cases)
    earlier = {
        name: curve.model_copy(update={"error": None, "time_error": None}) for name, curve in fitted.updates.items()
    }
    old = validate(fitted.model_copy(update={"updates": earlier}), session)
    for at in updates:
        assert "update curves" in old.cases[at].detail["interval_lacks"]
    show_validation(fitted, old)
    assert "what update curves err by is not in the profile" in " ".join(capsys.readouterr().out.split())


def test_a_wrong_profile_is_shown_to_be_wrong(fitted, tmp_path):
    doubled = fitted.model_copy(
        update={
            "coefficients": {
                name: found.model_copy(update={"value": found.value * 1.5})
                for name, found in fitted.coefficients.items()
            }
        }
    )
    assert validate(doubled, session_of_cases(tmp_path)).mean_abs_error > 0.4


def test_validation_work_is_never_part_of_what_a_fit_sees():
    plan = make_plan(load_profile("simulated-board").device.info(), simulated_session().meter, preset="full")
    assert not [point for point in plan.points if point.family == "validate"]
    assert {"validate.train", "validate.update"} <= set(WORKLOADS)
    assert len(STANDARD) == 2 * len(BATCHES) * 2 * 4


def test_counts_of_a_training_step_grow_with_the_batch_and_updates_do_not():
    info = load_profile("simulated-board").device.info()
    small, large = (counts_by_kind("validate.train", {**PARAMS, "batch": b}, info) for b in (8, 16))
    assert large[""]["flop_float32"] == pytest.approx(2 * small[""]["flop_float32"], rel=0.01)
    updates = [kind for kind in small if kind]
    assert updates
    assert all(kind.startswith("sgd/dense/1/linear/") for kind in updates)
    assert all(large[kind] == small[kind] for kind in updates)
    sparse = counts_by_kind("validate.update", {**PARAMS, "density": 0.01}, info)
    assert sparse
    assert all(kind.startswith("sgd/sparse/0.01/linear/") for kind in sparse)


def test_updates_are_predicted_by_the_curves_at_each_tensors_size_and_density_as_costs_are():
    """A curve wins over the factor of a layer type, a name over both, and other work takes neither."""
    truth, work = load_profile("simulated-board"), {"dram_write": 1e6}
    t, e = truth.times["dram_write"].value, truth.coefficients["dram_write"].value
    curve = UpdateCurve(entries=[100.0, 10_000.0], density=[0.01, 0.01], factor=[2.0, 8.0], time_factor=[1.0, 4.0])
    layer = LayerCoefficient(factor=Coefficient(value=3.0, unit="1", status="given"), windows=0)
    bent = truth.model_copy(
        update={"updates": {"sgd/sparse": curve}, "layers": {"linear": layer, "name:head.*": layer}}
    )
    static = truth.coefficients["static_power"].value
    for kind, factor, time_factor in (
        ("", 1.0, 1.0),
        ("sgd/sparse/0.01/linear/100/fc.weight", 2.0, 1.0),
        ("sgd/sparse/0.01/linear/1000/fc.weight", 4.0, 2.0),
        ("sgd/sparse/0.01/linear/10000/head.weight", 3.0, 1.0),
        ("sgd/dense/1/linear/100/fc.weight", 3.0, 1.0),
        ("adam/sparse/0.01/other/100/cell.weight", 1.0, 1.0),
    ):
        energy, duration = predict_parts(bent, {kind: work})
        assert duration == pytest.approx(1e6 * t * time_factor), kind
        assert energy == pytest.approx(1e6 * e * factor + static * duration), kind


def test_a_sparse_model_step_changes_only_the_chosen_share():
    step = ModelStep({**PARAMS, "density": 0.05}, Operands("cpu", 0), train=True)
    before = [tensor.detach().clone() for tensor in step._parameters]
    step()
    for old, new in zip(before, step._parameters, strict=True):
        changed = int((old != new.detach()).sum())
        assert changed <= max(int(old.numel() * 0.05), 1)
    assert any(not torch.equal(old, new.detach()) for old, new in zip(before, step._parameters, strict=True))


def test_the_verb_writes_the_result_into_the_profile_and_show_displays_it(fitted, tmp_path, capsys):
    path = save_profile(fitted, tmp_path / "p.json")
    assert main(["show", str(path)]) == 0
    assert "not validated" in capsys.readouterr().out
    assert main(["validate", str(path), "--plot", str(tmp_path / "c.png")]) == 0
    assert "SIMULATED" in capsys.readouterr().err
    assert load_profile(path).validation.worst_abs_error < 0.1
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert main(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "not validated" not in shown
    assert "validat" in shown


@pytest.mark.parametrize(
    ("profile", "message"),
    [("horowitz-45nm", "no $.times"), ("simulated-board", "shipped profile"), ("nowhere", "no profile 'nowhere'")],
)
def test_what_cannot_be_validated_is_refused(profile, message, capsys):
    assert main(["validate", profile]) == 1
    assert message in capsys.readouterr().err


def test_another_device_is_refused_with_both_values(fitted, tmp_path, capsys):
    path = save_profile(fitted, tmp_path / "p.json")
    assert main(["validate", str(path), "--truth", "simulated-server"]) == 1
    assert "device.model" in capsys.readouterr().err
    assert load_profile(path).validation is None


def test_a_session_without_validation_windows_is_refused(fitted, tmp_path):
    with pytest.raises(ProfileError, match="no windows of family validate"):
        validate(fitted, simulated_file(tmp_path / "m.jsonl", families=["compute"]))
