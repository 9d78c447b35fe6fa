"""Verb `import`: a table goes in, a measurements file comes out that check and fit take."""

import json

import pytest

from cwmp_cli.app import main

TABLE = "size,joules,ms\n" + "".join(
    f"{size},{(0.002 * size + 0.1) * wobble},{(0.1 * size + 2) * wobble}\n"
    for size in (10, 20, 40, 80, 160, 320)
    for wobble in (0.99, 1.0, 1.01)
)
MAPS = ["--map", "energy=joules:J", "--map", "duration=ms:ms", "--map", "dram_write=4*size*1e6", "--map", "launch=1"]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return path


def test_a_table_becomes_a_session_that_check_and_fit_take(table, tmp_path, capsys):
    session = tmp_path / "s.jsonl"
    maps = [*MAPS, "--map", "params=size"]
    assert main(["import", str(table), "-o", str(session), "--device-name", "Board X", *maps]) == 0
    out = capsys.readouterr().out
    assert "Board X: 18 windows of 6 points from 18 rows, PUBLISHED readings of others" in out
    assert main(["check", str(session)]) == 0
    assert main(["fit", str(session), "-o", str(tmp_path / "p.json")]) == 0
    out = capsys.readouterr().out
    assert "PUBLISHED readings of others" in out
    assert "measured by meter" not in out
    profile = json.loads((tmp_path / "p.json").read_text())
    assert profile["provenance"] == "published"
    assert profile["coefficients"]["dram_write"]["value"] == pytest.approx(0.002 / 4e6, rel=0.02)
    assert profile["coefficients"]["launch"]["value"] == pytest.approx(0.1, rel=0.1)


def test_a_kept_mapping_gives_the_same_session(table, tmp_path, capsys):
    first, again, kept = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "m.toml"
    assert main(["import", str(table), "-o", str(first), "--device-name", "x", *MAPS, "--save-map", str(kept)]) == 0
    assert main(["import", str(table), "-o", str(again), "--map", str(kept)]) == 0
    capsys.readouterr()
    one, two = ([json.loads(line) for line in path.read_text().splitlines()] for path in (first, again))
    assert one[0]["session"] == two[0]["session"]
    assert one[1:] == two[1:]


def test_bad_rows_are_shown_with_line_and_reason_and_counted_in_json(table, tmp_path, capsys):
    table.write_text(TABLE + "640,-262143.9,66\n1280,0,130\n")
    call = ["import", str(table), "-o", str(tmp_path / "s.jsonl"), "--device-name", "x", *MAPS]
    assert main(call) == 0
    err = capsys.readouterr().err
    assert "1 left out, counter wrapped: line 20" in " ".join(err.split())
    assert "1 left out, no energy read: line 21" in " ".join(err.split())
    assert main([*call, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["sessions"][0]
    assert [(row["line"], row["reason"]) for row in found["bad"]] == [(20, "counter wrapped"), (21, "no energy read")]
    assert (found["provenance"], found["windows"], found["rows"]) == ("published", 18, 20)


def test_each_device_gets_its_own_file(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_text("gpu,n,W\n" + "".join(f"{gpu},{n},{50 + n}\n" for gpu in ("a40", "l40") for n in range(1, 4)))
    maps = ["--map", "power=W:W", "--map", "duration=1:s", "--map", "flop_float32=n*1e12", "--device-column", "gpu"]
    assert main(["import", str(path), "-o", str(tmp_path / "all.jsonl"), *maps, "--device-name", "x"]) == 1
    assert "2 devices in column 'gpu' (a40, l40)" in capsys.readouterr().err
    assert main(["import", str(path), "-o", str(tmp_path / "{device}.jsonl"), *maps]) == 0
    for name in ("a40", "l40"):
        header = json.loads((tmp_path / f"{name}.jsonl").read_text().splitlines()[0])
        assert header["device"]["model"] == name


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "say what its columns are"),
        (["--map", "joule=x"], 2, "neither a quantity"),
        (["--map", "energy=joules:J"], 1, "needs a duration"),
        (["--map", "nowhere.toml"], 1, "no file nowhere.toml"),
        ([*MAPS, "--semantics", "median"], 1, "$.meter.semantics"),
        ([*MAPS, "--reader", "parquet"], 1, "no reader is called 'parquet'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(table, tmp_path, capsys, arguments, status, message):
    call = ["import", str(table), "-o", str(tmp_path / "s.jsonl"), "--device-name", "x", *arguments]
    assert main(call) == status
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "s.jsonl").exists()


def test_a_file_that_is_no_table_is_refused(tmp_path, capsys):
    path = tmp_path / "t.csv"
    for text, message in (("", "is empty"), ("a,b\n", "no rows"), ("a,a\n1,2\n", "twice")):
        path.write_text(text)
        assert main(["import", str(path), "-o", str(tmp_path / "s.jsonl"), "--device-name", "x", *MAPS]) == 1
        assert message in capsys.readouterr().err
