"""Profiles on disk: errors name the bad field, writing never leaves half a file, old versions load, newer ones are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cwmp_costmodels.errors import ProfileError
from cwmp_costmodels.profile import migrate
from cwmp_costmodels.profile.files import (
    MAX_PROFILE_BYTES,
    load_profile,
    parse_profile,
    refined_target,
    save_profile,
    shipped_profiles,
    write_atomic,
)
from cwmp_costmodels.profile.schema import SCHEMA_VERSION, Profile

RECORDED = Path(__file__).parents[2] / "data" / "profiles"


@pytest.fixture
def data():
    return json.loads((RECORDED / "v1-fitted.json").read_text())


def changed(data, path, value):
    *parents, last = path
    place = data
    for part in parents:
        place = place[part]
    place[last] = value
    return json.dumps(data)


@pytest.mark.parametrize("name", sorted(shipped_profiles()))
def test_every_shipped_profile_loads_by_name_and_says_what_it_is(name):
    profile = load_profile(name)
    assert profile.name == name
    assert profile.provenance in {"simulated", "literature", "measured", "published"}


def test_a_profile_reads_back_as_it_was_saved(data, tmp_path):
    profile = parse_profile(json.dumps(data))
    assert load_profile(save_profile(profile, tmp_path / "p.json")) == profile


def test_lists_of_numbers_take_a_line_and_text_stays_as_it_is(data, tmp_path):
    curve = {"entries": [1, 2.5, 1e-9], "density": [], "factor": [1, 1, 1], "time_factor": [1, 1, 1]}
    data = {**data, "description": "[\n 1,\n 2\n]", "updates": {"sgd/dense": curve}}
    path = save_profile(parse_profile(json.dumps(data)), tmp_path / "p.json")
    assert load_profile(path) == parse_profile(json.dumps(data))
    assert '"factor": [1.0, 1.0, 1.0]' in path.read_text()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("coefficients", "dram_write", "value"), -1.0, r"@ \$\.coefficients\.dram_write\.value, got -1\.0"),
        (("coefficients", "dram_write", "value"), "3e-10", r"@ \$\.coefficients\.dram_write\.value, got '3e-10'"),
        (("coefficients", "dram_write", "value"), None, r"@ \$\.coefficients\.dram_write\.value"),
        (("coefficients", "dram_write", "status"), "certain", r"@ \$\.coefficients\.dram_write\.status"),
        (("provenance",), "guessed", r"@ \$\.provenance, got 'guessed'"),
        (("name",), "../../etc/passwd", r"@ \$\.name, got '\.\./\.\./etc/passwd'"),
        (("device", "line_bytes"), 0, r"@ \$\.device\.line_bytes"),
        (("device", "levels"), 5, r"@ \$\.device\.levels"),
        (("extra",), 1, r"@ \$\.extra"),
        (("schema_version",), 99, r"has schema_version 99, this program knows up to 3; update cwmp-profile"),
        (("schema_version",), "1", r"no integer schema_version @ \$\.schema_version, got '1'"),
        (("schema_version",), 0, r"schema_version 0, which never was released"),
        (("schema_version",), True, r"no integer schema_version"),
    ],
)
def test_a_bad_field_is_named_with_path_and_value(data, path, value, message):
    with pytest.raises(ProfileError, match=message) as caught:
        parse_profile(changed(data, path, value), where="p.json")
    assert str(caught.value).startswith("p.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_nan_and_infinity_are_no_json(data, constant):
    text = json.dumps(data).replace(json.dumps(data["coefficients"]["launch"]["value"]), constant, 1)
    with pytest.raises(ProfileError, match="no JSON number"):
        parse_profile(text)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "\x00\x01", "[" * 50_000, '{"a": 1}'])
def test_what_is_no_profile_is_refused_in_one_line(text):
    with pytest.raises(ProfileError) as caught:
        parse_profile(text)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_profiles(tmp_path):
    with pytest.raises(ProfileError, match=r"no profile .*the shipped profiles are: .*horowitz-45nm"):
        load_profile("nowhere")
    with pytest.raises(ProfileError, match="cannot read profile"):
        load_profile(tmp_path)
    (tmp_path / "binary.json").write_bytes(bytes(range(256)))
    with pytest.raises(ProfileError, match="is not JSON"):
        load_profile(tmp_path / "binary.json")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(MAX_PROFILE_BYTES + 1)
    with pytest.raises(ProfileError, match="too many for a profile"):
        load_profile(tmp_path / "huge.json")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.data())
def test_whatever_byte_is_changed_a_profile_loads_or_is_refused(data, where):
    raw = bytearray(json.dumps(data).encode())
    for _ in range(where.draw(st.integers(1, 3))):
        raw[where.draw(st.integers(0, len(raw) - 1))] = where.draw(st.integers(0, 255))
    message = ""
    try:
        assert isinstance(parse_profile(bytes(raw)), Profile)
    except ProfileError as error:
        message = str(error)
    assert "\n" not in message


def test_a_target_that_cannot_be_written_leaves_what_was_there(data, tmp_path):
    profile = parse_profile(json.dumps(data))
    with pytest.raises(ProfileError, match="cannot write .*choose another target with -o"):
        save_profile(profile, tmp_path / "no" / "p.json")
    (tmp_path / "p.json").mkdir()
    with pytest.raises(ProfileError, match="cannot write"):
        save_profile(profile, tmp_path / "p.json")
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]


def test_a_refined_profile_replaces_itself_or_goes_to_a_new_file_and_never_to_another_profile(tmp_path):
    mine, other = tmp_path / "mine.json", tmp_path / "other.json"
    mine.write_text("{}")
    other.write_text("{}")
    assert refined_target(str(mine), None, what="validated") == mine
    assert refined_target(str(mine), mine, what="validated") == mine
    assert refined_target("horowitz-45nm", tmp_path / "new.json", what="validated") == tmp_path / "new.json"
    with pytest.raises(ProfileError, match="other.json exists and is not .*mine.json; choose another target"):
        refined_target(str(mine), other, what="validated")
    with pytest.raises(ProfileError, match="shipped profile; say where to write the validated one with -o"):
        refined_target("horowitz-45nm", None, what="validated")


FULL = """
import resource, sys
from pathlib import Path
from cwmp_costmodels.errors import ProfileError
from cwmp_costmodels.profile.files import write_atomic
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(Path(sys.argv[1]), "x" * 5000)
except ProfileError as error:
    print("REFUSED", error)
"""


def test_a_full_target_leaves_the_old_profile_whole(tmp_path):
    """The limit on a file's size makes the write fail half way, as a full disk does."""
    target = tmp_path / "p.json"
    target.write_text("old and whole")
    done = subprocess.run([sys.executable, "-c", FULL, str(target)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("REFUSED cannot write")
    assert target.read_text() == "old and whole"
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]


def test_what_is_no_ordinary_file_is_written_to_and_never_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomic(pipe, "text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "link").symlink_to("file")
    write_atomic(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "text"


def test_a_source_without_end_is_refused():
    with pytest.raises(ProfileError, match="too many for a profile"):
        load_profile("/dev/zero")


def test_a_written_file_has_the_permissions_that_the_user_asked_for(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "p.json", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "p.json").stat().st_mode & 0o777 == 0o640


def test_there_is_a_recorded_profile_of_every_version_and_it_loads():
    for version in range(1, SCHEMA_VERSION + 1):
        recorded = sorted(RECORDED.glob(f"v{version}-*.json"))
        assert recorded
        for path in recorded:
            assert json.loads(path.read_text())["schema_version"] == version
            assert load_profile(path).schema_version == SCHEMA_VERSION


def test_old_versions_are_lifted_one_step_at_a_time(monkeypatch):
    steps = {
        1: lambda data: {**data, "schema_version": 2, "seen": [*data["seen"], 1]},
        2: lambda data: {**data, "schema_version": 3, "seen": [*data["seen"], 2]},
    }
    monkeypatch.setattr(migrate, "STEPS", steps)
    monkeypatch.setattr(migrate, "SCHEMA_VERSION", 3)
    old = {"schema_version": 1, "seen": []}
    assert migrate.migrate(old, where="p") == {"schema_version": 3, "seen": [1, 2]}
    assert old == {"schema_version": 1, "seen": []}


def test_the_published_schema_accepts_every_shipped_and_recorded_profile():
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is a development dependency")
    schema = Profile.model_json_schema()
    current = RECORDED.glob(f"v{SCHEMA_VERSION}-*.json")
    for path in (*shipped_profiles().values(), *current):
        jsonschema.validate(json.loads(path.read_text()), schema)


def test_a_meters_gain_of_version_2_is_its_slope(tmp_path):
    old = json.loads((RECORDED / "v2-fitted.json").read_text())
    known = {"value": 1.1, "low": 1.0, "high": 1.2, "unit": "1", "status": "identified"}
    old["meter"] |= {"gain": known, "offset_w": 0.5, "reference": "wall"}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    meter = load_profile(path).meter
    assert meter.slope is not None
    assert (meter.slope.value, meter.offset_w) == (1.1, 0.5)


def test_a_profile_of_version_1_is_the_same_in_version_2_without_operators():
    old = json.loads((RECORDED / "v1-fitted.json").read_text())
    new = load_profile(RECORDED / "v1-fitted.json")
    assert (new.operators, new.updates) == (None, {})
    assert {name: each.value for name, each in new.coefficients.items()} == {
        name: each["value"] for name, each in old["coefficients"].items()
    }
    assert set(new.layers) == set(old["layers"])
