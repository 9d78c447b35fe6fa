"""Measurement files: what is written is read back, and nothing that is wrong is read as right."""

import json
import os
import resource
import signal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sessions import simulated_file

from cwmp_profiler.errors import SessionError
from cwmp_profiler.sessions.measurements import (
    MAX_LINE_BYTES,
    Header,
    MeasurementsWriter,
    Window,
    difference,
    read_measurements,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return simulated_file(tmp_path_factory.mktemp("whole") / "m.jsonl", families=["compute"])


@pytest.fixture
def lines(whole):
    return whole.path.read_bytes().splitlines(keepends=True)


def write(tmp_path, lines):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"".join(lines))
    return path


def edited(line, **changes):
    return json.dumps({**json.loads(line), **changes}).encode() + b"\n"


def test_a_file_reads_back_as_it_was_measured(whole):
    again = read_measurements(whole.path)
    assert again == whole
    assert not again.torn
    assert again.missing() == []
    assert len(again.windows) == len(again.header.plan.order)


def test_raw_counter_readings_give_the_energy_of_every_window(whole):
    rail = whole.header.meter.rails[0]
    for window in whole.windows:
        record = window.rails["board"]
        ticks = record.last - record.first + record.wraps * rail["wrap_ticks"]
        assert record.energy_j == pytest.approx(ticks * rail["unit_j"], rel=1e-12)


def test_a_torn_last_line_is_left_out_and_said(lines, whole, tmp_path):
    path = write(tmp_path, [*lines[:-1], lines[-1][:37]])
    found = read_measurements(path)
    assert found.torn
    assert found.windows == whole.windows[:-1]
    assert found.missing() == [(whole.windows[-1].point, whole.windows[-1].repeat)]


def test_any_other_torn_line_is_named_by_its_number(lines, tmp_path):
    path = write(tmp_path, [*lines[:3], lines[3][:20] + b"\n", *lines[4:]])
    with pytest.raises(SessionError, match="line 4 is not JSON"):
        read_measurements(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"energy_j": -1.0}, r"greater than or equal to 0 @ \$\.energy_j, got -1\.0"),
        ({"energy_j": "3"}, r"@ \$\.energy_j, got '3'"),
        ({"duration_s": 0.0}, r"greater than 0 @ \$\.duration_s"),
        ({"counts": {"launch": "many"}}, r"@ \$\.counts\.launch, got 'many'"),
        ({"surprise": 1}, r"@ \$\.surprise"),
    ],
)
def test_a_bad_number_is_named_with_line_path_and_value(lines, tmp_path, change, message):
    path = write(tmp_path, [*lines[:2], edited(lines[2], **change), *lines[3:]])
    with pytest.raises(SessionError, match=f"line 3: .*{message}"):
        read_measurements(path)


@pytest.mark.parametrize("constant", [b"NaN", b"Infinity", b"-Infinity"])
def test_nan_and_infinity_are_no_numbers(lines, tmp_path, constant):
    bad = lines[2].replace(b'"energy_j":', b'"energy_j":' + constant + b',"was":', 1)
    with pytest.raises(SessionError, match="line 3 is not JSON .*no JSON number"):
        read_measurements(write(tmp_path, [*lines[:2], bad]))


def test_a_window_twice_is_refused_with_both_lines(lines, tmp_path):
    with pytest.raises(SessionError, match=rf"line {len(lines) + 1} holds window .* again \(first on line 3\)"):
        read_measurements(write(tmp_path, [*lines, lines[2]]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b'{"kind": "cwmp', "torn header"),
        (b"\x00\x01\xff\xfe binary\n", "line 1 is not JSON"),
        (b"[1, 2]\n", "line 1 is a JSON list"),
        (b'{"a": 1}\n', "kind None, expected 'cwmp-measurements'"),
        (b'{"kind": "cwmp-measurements", "schema_version": 99}\n', "knows up to 1; update cwmp-profile to at least"),
        (b'{"kind": "cwmp-measurements", "schema_version": "1"}\n', "schema_version '1'"),
        (b"[" * 100_000 + b"\n", "line 1 is not JSON"),
        (b"x" * (MAX_LINE_BYTES + 5), "line 1 is over"),
    ],
)
def test_foreign_files_are_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(SessionError, match=message) as caught:
        read_measurements(write(tmp_path, [content]))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(SessionError, match="no measurements file"):
        read_measurements(tmp_path / "none.jsonl")
    with pytest.raises(SessionError, match="cannot read"):
        read_measurements(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_byte_is_flipped_the_file_is_read_or_refused_but_never_crashes(lines, tmp_path, data):
    raw = bytearray(b"".join(lines[:4]))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = write(tmp_path, [bytes(raw)])
    message = ""
    try:
        assert len(read_measurements(path).windows) <= 3
    except SessionError as error:
        message = str(error)
    assert "\n" not in message


def test_the_writer_refuses_to_replace_a_file(whole, tmp_path):
    with pytest.raises(SessionError, match="exists; continue it with --resume"):
        MeasurementsWriter.create(whole.path, whole.header)
    with pytest.raises(SessionError, match="is a folder"):
        MeasurementsWriter.create(tmp_path, whole.header)
    with pytest.raises(SessionError, match="cannot write"):
        MeasurementsWriter.create(tmp_path / "no" / "such" / "folder.jsonl", whole.header)


def test_a_full_target_keeps_every_whole_window(whole):
    """/dev/full answers each write with 'no space left'."""
    with pytest.raises(SessionError, match="No space left on device; free some space"):
        MeasurementsWriter.create(__import__("pathlib").Path("/dev/full"), whole.header, overwrite=True)


def test_a_target_that_fills_up_keeps_whole_windows_and_takes_more_once_there_is_room(whole, tmp_path):
    """A limit on the size of files cuts a line in two, as a full disk does."""
    path = tmp_path / "m.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with MeasurementsWriter.create(path, whole.header) as writer:
            writer.append(whole.windows[0])
            before = path.read_bytes()
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
            with pytest.raises(SessionError, match=r"cannot write .*continue with --resume"):
                writer.append(whole.windows[1])
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert path.read_bytes() == before
            writer.append(whole.windows[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    found = read_measurements(path)
    assert not found.torn
    assert found.windows == whole.windows[:2]


def test_the_difference_of_two_headers_is_named_with_both_values(whole):
    data = whole.header.model_dump(mode="json")
    assert difference(whole.header, whole.header) is None
    other = Header.model_validate({**data, "device": {**data["device"], "model": "another board"}})
    assert difference(whole.header, other) == (
        "device.model",
        "simulated edge board (4 cores, LPDDR4)",
        "another board",
    )
    other = Header.model_validate({**data, "environment": {**data["environment"], "governor": "powersave"}})
    assert difference(whole.header, other) == ("environment.governor", None, "powersave")
    again = Header.model_validate({**data, "session": "another", "created": "2030-01-01T00:00:00+00:00"})
    assert difference(whole.header, again) is None


def test_caches_that_differ_by_what_neighbours_left_of_them_add_up(whole):
    data = whole.header.model_dump(mode="json")

    def header(capacity: int, reported: int = 32 << 20) -> Header:
        levels = [{"name": "l3", "capacity_bytes": capacity}, {"name": "dram", "capacity_bytes": None}]
        told = {"residency": {"reported": {"l3": reported}}}
        return Header.model_validate({**data, "device": {**data["device"], "levels": levels, "details": told}})

    assert difference(header(4 << 20), header(5 << 20)) is None
    assert difference(header(4 << 20), header(32 << 20))[0] == "device.levels"
    assert difference(header(4 << 20), header(5 << 20, reported=64 << 20))[0] == "device.levels"


def test_the_published_schema_accepts_what_is_written(whole, lines):
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is a development dependency")
    jsonschema.validate(json.loads(lines[0]), Header.model_json_schema())
    for line in lines[1:]:
        jsonschema.validate(json.loads(line), Window.model_json_schema())


def test_a_second_writer_is_refused_by_name_of_the_first_and_changes_nothing(whole, tmp_path):
    path = tmp_path / "m.jsonl"
    with MeasurementsWriter.create(path, whole.header) as writer:
        writer.append(whole.windows[0])
        before = path.read_bytes()
        mine = rf"m.jsonl is being written by process {os.getpid()} \(.+\); wait for it or stop it"
        for attempt in (
            lambda: MeasurementsWriter.create(path, whole.header),
            lambda: MeasurementsWriter.create(path, whole.header, overwrite=True),
            lambda: MeasurementsWriter.resume(read_measurements(path)),
        ):
            with pytest.raises(SessionError, match=mine):
                attempt()
        assert path.read_bytes() == before
        writer.append(whole.windows[1])
    with MeasurementsWriter.resume(read_measurements(path)) as writer:
        assert writer.next_window == whole.windows[1].window + 1


def test_a_file_that_grew_since_it_was_read_is_not_cut_back(whole, tmp_path):
    path = tmp_path / "m.jsonl"
    with MeasurementsWriter.create(path, whole.header) as writer:
        writer.append(whole.windows[0])
        early = read_measurements(path)
        writer.append(whole.windows[1])
    before = path.read_bytes()
    with pytest.raises(SessionError, match="changed while it was read"):
        MeasurementsWriter.resume(early)
    assert path.read_bytes() == before


def test_two_assumed_powers_and_two_averaging_times_do_not_add_up(whole):
    data = whole.header.model_dump(mode="json")
    rail = {**data["meter"]["rails"][0], "max_power_w": 10.0, "averaging_s": 0.1}

    def header(provenance, **changes):
        meter = {**data["meter"], "provenance": provenance, "rails": [{**rail, **changes}]}
        return Header.model_validate({**data, "meter": meter})

    assert difference(header("estimated"), header("estimated", max_power_w=20.0))[0] == "meter.rails"
    assert difference(header("measured"), header("measured", max_power_w=20.0)) is None
    assert difference(header("measured"), header("measured", averaging_s=0.11)) is None
    assert difference(header("measured"), header("measured", averaging_s=1.0)) == (
        f"averaging_s of rail {rail['name']}",
        0.1,
        1.0,
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"kind": "cwmp-recording", "schema_version": 1}\n{}\n',
            "is a recording of raw readings, not a measurements file",
        ),
        (b'{"kind": "cwmp-loads"}\n', "is a file of calibration loads, not a measurements file"),
        (
            b'{\n "schema_version": 1, "device": {},\n "coefficients": {}}\n',
            "is a device profile, not a measurements file",
        ),
    ],
)
def test_another_file_of_this_project_is_named_as_what_it_is(tmp_path, content, message):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(SessionError, match=message):
        read_measurements(path)
