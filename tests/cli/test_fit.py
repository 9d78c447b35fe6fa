"""Verb `fit` as a user types it."""

import json

import pytest

from cwmp_cli.app import main
from cwmp_costmodels.profile.files import load_profile


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "m.jsonl"
    assert main(["measure", "--device", "simulated", "--preset", "quick", "-o", str(path)]) == 0
    return path


def error_of(captured):
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_fit_prints_values_doubts_and_where_they_come_from(session, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["fit", str(session), "--name", "board"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "wrote board.json\n"
    for text in (
        "SIMULATED: no real device was measured",
        "static_power",
        "percent",
        "not validated",
        "lack of fit, energy",
    ):
        assert text in captured.out
    for text in ("condition number", "power at rest", "sha256", "error held out", "verdict"):
        assert text in captured.out
    profile = load_profile(tmp_path / "board.json")
    assert profile.name == "board"
    assert profile.fit.bootstrap == 400


def test_json_is_the_profile(session, capsys, tmp_path):
    target = tmp_path / "p.json"
    assert main(["fit", str(session), "-o", str(target), "--json", "--bootstrap", "50", "--seed", "3"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data == json.loads(target.read_text())
    assert (data["name"], data["fit"]["bootstrap"], data["fit"]["seed"]) == ("p", 50, 3)


def test_an_existing_profile_is_replaced_with_force_only(session, capsys, tmp_path):
    target = tmp_path / "p.json"
    target.write_text("mine")
    assert main(["fit", str(session), "-o", str(target)]) == 1
    assert "exists; replace it with --force" in error_of(capsys.readouterr())
    assert target.read_text() == "mine"
    assert main(["fit", str(session), "-o", str(target), "--force"]) == 0
    assert load_profile(target).name == "p"


def test_measurements_are_never_replaced(session, capsys):
    before = session.read_bytes()
    assert main(["fit", str(session), "-o", str(session), "--force"]) == 1
    assert "is one of the measurements files" in error_of(capsys.readouterr())
    assert session.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "content", "says"),
    [
        (["{tmp}/none.jsonl"], None, "no measurements file"),
        (["{tmp}/x.jsonl"], b"", "is empty"),
        (["{tmp}/x.jsonl"], b"\x00\xff\x7fELF\n", "line 1 is not JSON"),
        (["{tmp}/x.jsonl"], b'{"kind": "other"}\n', "expected 'cwmp-measurements'"),
        (
            ["{tmp}/x.jsonl"],
            b'{"kind": "cwmp-measurements", "schema_version": 99}\n',
            "update cwmp-profile to at least",
        ),
        (["{session}", "{session}", "-o", "{tmp}/p.json"], None, "same session"),
        (["{session}", "--name", "../p"], None, "no path separators"),
        (["{session}", "-o", "{tmp}/no/p.json"], None, "cannot write"),
    ],
)
def test_bad_input_gets_one_line(session, capsys, tmp_path, arguments, content, says, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "x.jsonl").write_bytes(content)
    filled = [argument.format(tmp=tmp_path, session=session) for argument in arguments]
    assert main(["fit", *filled]) == 1
    assert says in error_of(capsys.readouterr())
    assert not list(tmp_path.glob("*.json"))


def test_too_few_windows_write_no_profile(session, capsys, tmp_path):
    short = tmp_path / "short.jsonl"
    short.write_bytes(b"".join(session.read_bytes().splitlines(keepends=True)[:10]))
    assert main(["fit", str(short), "-o", str(tmp_path / "p.json")]) == 1
    assert "too few windows to fit" in error_of(capsys.readouterr())
    assert not (tmp_path / "p.json").exists()


@pytest.mark.parametrize("arguments", [["x", "--bootstrap", "3"], ["x", "--seed", "-1"]])
def test_wrong_usage_is_status_two(arguments):
    assert main(["fit", *arguments]) == 2


def test_without_a_file_the_newest_session_of_the_folder_is_taken_and_named(session, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit"]) == 1
    assert "none is in this folder" in error_of(capsys.readouterr())
    lines = session.read_text().splitlines()
    for name, created in (("old", "2020-01-01T00:00:00+00:00"), ("new", "2030-01-01T00:00:00+00:00")):
        head = {**json.loads(lines[0]), "created": created}
        (tmp_path / f"{name}.jsonl").write_text("\n".join([json.dumps(head), *lines[1:]]) + "\n")
    (tmp_path / "notes.jsonl").write_text("{}\n")
    assert main(["fit", "--name", "board"]) == 0
    err = capsys.readouterr().err
    assert "taking new.jsonl, the newest session here" in err
    assert "passed over: notes.jsonl" in err
    assert "new.jsonl" in (tmp_path / "board.json").read_text()


def test_sessions_of_several_devices_are_listed_and_none_is_guessed(session, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = session.read_text().splitlines()
    head = json.loads(lines[0])
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    other = {**head, "device": {**head["device"], "model": "another board"}}
    (tmp_path / "b.jsonl").write_text("\n".join([json.dumps(other), *lines[1:]]) + "\n")
    assert main(["fit"]) == 1
    message = error_of(capsys.readouterr())
    assert "a.jsonl (simulated: simulated edge board" in message
    assert "b.jsonl (simulated: another board)" in message


def test_a_profile_is_no_session_and_a_session_no_profile(session, capsys, tmp_path):
    assert main(["fit", str(session), "-o", str(tmp_path / "p.json"), "--name", "p"]) == 0
    capsys.readouterr()
    assert main(["fit", str(tmp_path / "p.json")]) == 1
    assert "is a device profile, not a measurements file" in error_of(capsys.readouterr())
    assert main(["show", str(session)]) == 1
    assert "is a measurements file, not a device profile; make a profile of it with" in error_of(capsys.readouterr())
