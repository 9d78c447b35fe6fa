"""Codes of position sets: every set returns, sizes are exact, lines and complements are short, a few bytes allocate little."""

import json
import math
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cwmp_selector.errors import PayloadError
from cwmp_selector.payload import sets
from cwmp_selector.payload.decode import _Reader
from cwmp_selector.payload.encode import HEADER, VERSION, encoded_bytes, fingerprint, record_bytes
from cwmp_selector.update import SparseUpdate

FIXTURE = Path(__file__).parents[2] / "data" / "payloads" / "version-1.json"


@st.composite
def position_sets(draw):
    """Sets of every structure: loose entries, whole lines, lines in part, nearly everything, with a last line that is short."""
    n = draw(st.sampled_from([1, 2, 15, 16, 17, 31, 33, 160, 1000, 4099]))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    kept = rng.random(n) < draw(st.sampled_from([0.01, 0.2, 0.6, 0.95, 1.0]))
    line = draw(st.sampled_from([1, 16, 32, 48]))
    kept &= np.repeat(rng.random(-(-n // line)) < draw(st.sampled_from([0.05, 0.4, 0.9, 1.0])), line)[:n]
    kept[rng.integers(n)] = True
    return np.flatnonzero(kept).astype(np.int64), n


@given(position_sets())
@settings(max_examples=400, deadline=None)
def test_every_set_returns_and_its_size_was_known(case):
    indices, entries = case
    coded = sets.plan(indices, entries)
    data = sets.write(coded, indices, entries)
    assert len(data) == coded.size
    reader = _Reader(memoryview(data + bytes(indices.size)))
    assert np.array_equal(sets.read(reader, coded.mode, indices.size, entries), indices)
    assert reader.left == indices.size


@given(position_sets(), st.integers(0, 2**31))
@settings(max_examples=300, deadline=None)
def test_damaged_codes_are_refused_or_another_valid_set(case, seed):
    """One damaged byte, any mode: PayloadError, or ascending positions within the tensor, as many as announced."""
    indices, entries = case
    coded = sets.plan(indices, entries)
    rng = np.random.default_rng(seed)
    data = bytearray(sets.write(coded, indices, entries) + bytes(indices.size))
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    mode = int(rng.choice([coded.mode, *range(1, 6)]))
    try:
        found = sets.read(_Reader(memoryview(data)), mode, indices.size, entries)
    except PayloadError:
        return
    assert found.size == indices.size
    assert found[0] >= 0
    assert found[-1] < entries
    assert bool((np.diff(found) > 0).all())


def entropy(n, k):
    p = k / n
    return -n * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) if 0 < p < 1 else 0.0


@pytest.mark.parametrize("share", [0.002, 0.01, 0.1, 0.5])
def test_whole_lines_take_the_entropy_of_the_lines(share):
    """A million entries: within 5% of L H(T/L) bits, a sixteenth or less of what single entries would take."""
    n, rng = 1_000_000, np.random.default_rng(1)
    lines = np.sort(rng.choice(n // 16, int(share * n / 16), replace=False))
    where = (lines[:, None] * 16 + np.arange(16)).ravel()
    bits = 8 * sets.plan(where, n).size
    assert entropy(n // 16, lines.size) * 0.99 < bits < 1.05 * entropy(n // 16, lines.size) + 100


@pytest.mark.parametrize("density", [0.8, 0.9, 0.95, 0.99, 0.999])
def test_what_is_missing_is_listed_at_high_density(density):
    """Within 8% of the entropy, where a bit mask took up to 90 times that and zeros more."""
    n, rng = 1_000_000, np.random.default_rng(2)
    where = np.sort(rng.choice(n, int(density * n), replace=False))
    coded = sets.plan(where, n)
    assert coded.mode == sets.COMPLEMENT
    assert 8 * coded.size < 1.08 * entropy(n, where.size)


def test_half_full_lines_beat_single_entries():
    """Eight random entries of each touched line: lines, then entries within them, within 6% of the entropy of both."""
    n, rng = 1_000_000, np.random.default_rng(3)
    lines = np.sort(rng.choice(n // 16, n // 1600, replace=False))
    within = np.sort(np.argsort(rng.random((lines.size, 16)), axis=1)[:, :8], axis=1)
    where = (lines[:, None] * 16 + within).ravel()
    coded = sets.plan(where, n)
    both = entropy(n // 16, lines.size) + lines.size * math.log2(math.comb(16, 8))
    assert coded.mode == sets.LINES
    assert 8 * coded.size < 1.2 * both
    assert coded.size < 0.6 * sets._plan_flat(where, n).size


def test_random_entries_take_the_code_they_always_took():
    """Entries that fall where they like: Rice gaps as before, so payloads of version 1 stay what is sent."""
    torch.manual_seed(0)
    where = torch.randperm(100_000)[:1000].sort().values
    update = SparseUpdate(
        indices={"w": where}, values={"w": torch.randn(1000)}, shapes={"w": (100_000,)}, value_formats={"w": "float32"}
    )
    data = update.to_bytes()
    assert data[4] == 1
    lines = SparseUpdate(
        indices={"w": torch.arange(1024) + 1600},
        values={"w": torch.randn(1024)},
        shapes={"w": (100_000,)},
        value_formats={"w": "float32"},
    )
    assert lines.to_bytes()[4] == 2
    assert len(lines.to_bytes()) == encoded_bytes(lines) < HEADER.size + 4 * 1024 + 30


def test_payloads_of_version_1_still_decode():
    """Recorded from the first release's encoder: every mode and format, positions and values bit for bit."""
    recorded = json.loads(FIXTURE.read_text())
    shapes = {name: tuple(shape) for name, shape in recorded["shapes"].items()}
    assert len(recorded["payloads"]) == 20
    for case in recorded["payloads"].values():
        update = SparseUpdate.from_bytes(bytes.fromhex(case["payload"]), like=shapes)
        for name in shapes:
            assert update.indices[name].tolist() == case["indices"][name]
            assert update.values[name].double().tolist() == case["values"][name]


def forged(record, shapes, version=VERSION):
    mark = fingerprint(shapes)
    return HEADER.pack(b"CWMP", version, mark, zlib.crc32(record, zlib.crc32(mark, version))) + record


HUGE = sets.varint(300_000_000)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"\x01" + HUGE + b"\x00\x01\x01", "impossible"),
        (b"\x02" + HUGE, "37500000 bytes announced"),
        (b"\x03" + HUGE, "1200000000 bytes announced"),
        (b"\x04" + sets.varint(299_999_999) + b"\x00\x01\x01", "cannot hold their values"),
        (b"\x05" + HUGE + b"\x04" + sets.varint(300_000_000 // 16) + b"\x03\x03", "cannot hold their values"),
        (b"\x05\x05\x04\x09\x03\x03" + bytes(20), "9 lines of 2\\^4"),
        (b"\x05\x05\x0b\x01\x03\x03" + bytes(20), "1 lines of 2\\^11"),
        (b"\x05\x05\x04\x01\x05\x03" + bytes(20), "mode 5 of a set"),
        (b"\x05\x11\x04\x01\x01\x0a\x01\x01\x00\x00" + bytes(200), "17 entries kept in lines that hold 16"),
        (b"\x04\x05\x00\x01\x01" + bytes(20), "are listed as missing"),
        (b"\x06\x05", "mode 6"),
    ],
)
def test_a_few_bytes_never_allocate_a_tensor(record, message):
    """300 million entries announced by thirty bytes: refused within a megabyte, in any mode."""
    shapes = {"w": (300_000_000,)}
    tracemalloc.start()
    with pytest.raises(PayloadError, match=message) as caught:
        SparseUpdate.from_bytes(forged(record, shapes), like=shapes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < 1_000_000


def test_a_line_that_holds_nothing_and_a_new_mode_in_an_old_payload_are_refused():
    """Two lines listed, all entries in the first; a complement behind the header of version 1."""
    within = sets._plan_flat(np.arange(5), 32)
    lines = b"\x05\x05\x04\x02\x03" + bytes([within.mode]) + sets.write(within, np.arange(5), 32)
    values = struct.pack("<f", 1.0) * 5
    with pytest.raises(PayloadError, match="holds nothing"):
        SparseUpdate.from_bytes(forged(lines + values, {"w": (32,)}), like={"w": (32,)})
    with pytest.raises(PayloadError, match="mode 4 does not belong to a payload of version 1"):
        SparseUpdate.from_bytes(forged(b"\x04\x05", {"w": (32,)}, version=1), like={"w": (32,)})


def test_the_size_of_a_record_is_that_of_its_bytes():
    """What a solver prices by lines is what is sent, for every format."""
    rng = np.random.default_rng(4)
    lines = np.sort(rng.choice(500, 60, replace=False))
    where = torch.from_numpy((lines[:, None] * 16 + np.arange(16)).ravel())
    for value_format in ("float32", "bfloat16", "int8"):
        update = SparseUpdate(
            indices={"w": where},
            values={"w": torch.rand(960) + 1},
            shapes={"w": (8000,)},
            value_formats={"w": "float32"},
        ).quantized(value_format)
        size = record_bytes(where.numpy(), 8000, value_format, dense_allowed=True)
        assert len(update.to_bytes()) == HEADER.size + size
