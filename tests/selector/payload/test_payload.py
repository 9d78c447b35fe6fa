"""The payload: what goes in comes out, positions near their entropy, and hostile bytes meet one clear error."""

import importlib.util
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

from cwmp_profiler.kernels.compiled import available
from cwmp_selector.errors import PayloadError
from cwmp_selector.payload import positions
from cwmp_selector.payload import rice as fast_rice
from cwmp_selector.payload.encode import HEADER, HEADER_BYTES, encoded_bytes, fingerprint, record_bytes
from cwmp_selector.payload.quantize import FORMATS, VALUE_BYTES, VALUE_DTYPES
from cwmp_selector.selector import Selector
from cwmp_selector.update import SparseUpdate

FUZZ = Path(__file__).parents[3] / "fuzz"


def load_target():
    spec = importlib.util.spec_from_file_location("fuzz_target", FUZZ / "target.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TARGET = load_target()


@st.composite
def updates(draw):
    sizes = draw(st.lists(st.sampled_from([0, 1, 2, 7, 8, 9, 64, 1000, 5000]), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    indices, values, formats = {}, {}, {}
    for i, n in enumerate(sizes):
        density = draw(st.sampled_from([0.0, 0.001, 0.02, 0.3, 0.8, 0.99, 1.0]))
        formats[f"p{i}"] = draw(st.sampled_from(FORMATS))
        where = (torch.rand(n, generator=generator) < density).nonzero().view(-1)
        indices[f"p{i}"] = where
        values[f"p{i}"] = torch.randn(where.numel(), generator=generator) * 10 ** draw(st.integers(-6, 6))
    shapes = {f"p{i}": (n,) for i, n in enumerate(sizes)}
    plain = SparseUpdate(indices=indices, values=values, shapes=shapes, value_formats=dict.fromkeys(shapes, "float32"))
    parts = {n: plain.quantized(f) for n, f in formats.items()}
    return SparseUpdate(
        indices=indices,
        values={n: parts[n].values[n] for n in shapes},
        shapes=shapes,
        value_formats=formats,
        scales={n: parts[n].scales[n] for n in shapes},
    )


@given(updates())
@settings(max_examples=200, deadline=None)
def test_what_goes_in_comes_out(update):
    """Positions and values return bit for bit, in any mixture of formats, and the length is known beforehand."""
    data = update.to_bytes()
    assert len(data) == encoded_bytes(update) == update.payload_bits / 8
    back = SparseUpdate.from_bytes(data, like=update.shapes)
    for name in update.shapes:
        assert torch.equal(back.indices[name], update.indices[name])
        assert back.values[name].dtype == VALUE_DTYPES[update.value_formats[name]]
        assert torch.equal(back.values[name], update.values[name])
    assert back.value_formats == update.value_formats
    assert back.to_bytes() == data


@pytest.mark.parametrize("density", [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.08, 0.112, 0.13, 0.16, 0.2])
def test_positions_are_within_three_percent_of_the_entropy(density):
    """Random positions of a million entries against n H(k/n) bits; every overhead of the record counts."""
    n = 1_000_000
    rng = np.random.default_rng(1)
    where = np.sort(rng.choice(n, int(density * n), replace=False))
    p = where.size / n
    entropy = n * -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    bits = 8 * (record_bytes(where, n, "float32", dense_allowed=True) - 4 * where.size)
    assert entropy * 0.99 < bits <= 1.03 * entropy


def test_each_layer_takes_its_smallest_code():
    """Few entries: Rice. Half: bit mask. All: neither. Nearly all: zeros stand for the rest."""
    n = 4096
    sparse = record_bytes(np.arange(0, n, 400), n, "float32", dense_allowed=True)
    assert sparse < 11 * 4 + 30
    half = np.sort(np.random.default_rng(0).choice(n, n // 2, replace=False))
    assert record_bytes(half, n, "float16", dense_allowed=True) == 1 + 2 + n // 8 + n
    assert record_bytes(np.arange(n), n, "float16", dense_allowed=False) == 1 + 2 + 2 * n
    assert record_bytes(np.arange(n - 1), n, "int8", dense_allowed=True) == 1 + 2 + 4 + min(n, n - 1 + n // 8)


def test_half_precision_payload_at_one_percent_is_24_bits_an_entry():
    """64 bits an entry as usual coordinates; 24.1 with Rice and float16 (16 + 8.1)."""
    torch.manual_seed(0)
    update = Selector(1.0, k=10_000, values="float16").select({"w": torch.randn(1_000_000)})
    assert update.payload_bits / 10_000 == pytest.approx(24.1, abs=0.1)


@pytest.mark.parametrize(
    ("value_format", "error"), [("float32", 0), ("float16", 2**-11), ("bfloat16", 2**-8), ("int8", 0.5 / 127)]
)
def test_rounding_is_bounded_and_out_of_range_saturates(value_format, error):
    """Relative to the largest magnitude of the tensor; beyond the range of float16 the largest float16 is sent."""
    torch.manual_seed(0)
    values = torch.randn(1000)
    sent = Selector(1.0, k=1000, values=value_format).select({"w": values})
    assert float((sent.values["w"].float() - values).abs().max()) <= error * float(values.abs().max())
    huge = Selector(1.0, k=2, values=value_format).select({"w": torch.tensor([1e38, 2.0])})
    assert bool(torch.isfinite(SparseUpdate.from_bytes(huge.to_bytes(), like=huge.shapes).values["w"]).all())


def small_update():
    torch.manual_seed(3)
    return Selector(1.0, k=40, values="float16").select({"w": torch.randn(30, 20), "b": torch.randn(7)})


def test_every_truncation_and_every_flipped_bit_is_refused():
    """One byte less at any place, or any one bit changed: PayloadError, nothing else."""
    update = small_update()
    data = update.to_bytes()
    for end in range(len(data)):
        with pytest.raises(PayloadError):
            SparseUpdate.from_bytes(data[:end], like=update.shapes)
    for bit in range(8 * len(data)):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PayloadError):
            SparseUpdate.from_bytes(bytes(broken), like=update.shapes)
    with pytest.raises(PayloadError):
        SparseUpdate.from_bytes(data + b"\0", like=update.shapes)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_arbitrary_records_are_refused_or_valid(content):
    """Bytes behind a right header and checksum: PayloadError, or an update that survives another journey."""
    TARGET.check(content)


def test_corpus_is_replayed():
    """Every input that the coverage-guided fuzzer found worth keeping."""
    files = sorted((FUZZ / "corpus" / "payload").iterdir())
    assert len(files) >= 30
    assert sum(TARGET.check(f.read_bytes()) for f in files) >= 30


def forged(record, shapes):
    mark = fingerprint(shapes)
    return HEADER.pack(b"CWMP", 1, mark, zlib.crc32(record, zlib.crc32(mark, 1))) + record


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"\x01\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "entries kept of 1000"),
        (b"\x01\x05\x03\xff\xff\xff\xff\x0f", "impossible"),
        (b"\x01\x05\xff\x01\x1f", "Rice parameter 255"),
        (b"\x02\x05", "125 bytes announced"),
        (b"\x02\x05" + b"\xff" * 125, "mask announces 5"),
        (b"\x03\xe8\x07" + struct.pack("<f", math.nan) * 1000, "NaN or infinite"),
        (b"\x1b\xe8\x07" + struct.pack("<f", 1.0) + b"\x80" * 1000, "-128"),
        (b"\x19\x01" + struct.pack("<f", math.inf), "scale is inf"),
        (b"\x01\x01\x0a\x01\x01\xff\x03" + b"\0" * 4, "position 1023 is outside"),
        (b"\x01\x02\x00\x01\x01" + b"\0" * 8, "announce 2 entries and hold 1"),
        (b"\x04", "mode 4"),
        (b"\x38", "format 7"),
        (b"\x01\x80\x00", "shortest form"),
        (b"\x00\x00", "follow the last"),
        (b"", "1 bytes announced, 0 left"),
    ],
)
def test_forged_records_are_refused_with_one_clear_line(record, message):
    """Each kind of lie that a right checksum can carry, within a few kilobytes of memory."""
    shapes = {"w": (1000,)}
    tracemalloc.start()
    with pytest.raises(PayloadError, match=message) as caught:
        SparseUpdate.from_bytes(forged(record, shapes), like=shapes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < 200_000


def test_payload_is_bound_to_names_shapes_and_version():
    """A fingerprint of another model, another version, other bytes, no bytes."""
    update = small_update()
    data = update.to_bytes()
    model = torch.nn.Linear(20, 30)
    for like in ({"w": (20, 30), "b": (7,)}, {"b": (7,), "w": (30, 20)}, {"v": (30, 20), "b": (7,)}, model):
        with pytest.raises(PayloadError, match="fingerprint"):
            SparseUpdate.from_bytes(data, like=like)
    newer = bytearray(data)
    newer[4] = 3
    with pytest.raises(PayloadError, match="version 3, this program reads 1 to 2"):
        SparseUpdate.from_bytes(bytes(newer), like=update.shapes)
    with pytest.raises(PayloadError, match="no payload"):
        SparseUpdate.from_bytes(b"PK\3\4" + data[4:], like=update.shapes)
    with pytest.raises(PayloadError, match="a payload is bytes, got str"):
        SparseUpdate.from_bytes("text", like=update.shapes)
    with pytest.raises(PayloadError, match="shorter"):
        SparseUpdate.from_bytes(b"", like=update.shapes)


def test_like_takes_a_model_tensors_or_shapes():
    """Trainable parameters of the model, in order, as the gradients were."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    model[0].bias.requires_grad_(False)
    g = {n: torch.randn_like(p) for n, p in model.named_parameters() if p.requires_grad}
    data = Selector(1.0, k=5).select(g).to_bytes()
    for like in (model, g, {n: t.shape for n, t in g.items()}):
        assert SparseUpdate.from_bytes(bytearray(data), like=like).density == 5 / 20


def test_rice_codes_take_the_largest_gaps():
    """Positions up to 2^40 encode and decode: the sums stay exact."""
    n = 2**40
    where = np.array([0, 1, 2**39, n - 1])
    gaps = positions.gaps_of(where)
    parameter, unary_bits = positions.rice_parameter(gaps, n - 1)
    code = positions.encode_rice(where, parameter, unary_bits)
    unary, _ = positions.rice_bytes(4, parameter, unary_bits)
    back = positions.decode_rice(memoryview(code)[:unary], memoryview(code)[unary:], 4, parameter, n)
    assert back.tolist() == where.tolist()
    assert VALUE_BYTES["float16"] == 2
    assert HEADER_BYTES == 17


@pytest.mark.skipif(not available(), reason="Numba (the extra `fast`) is not installed")
@given(st.integers(1, 3000), st.integers(0, 12), st.floats(0.001, 1.0), st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_compiled_and_plain_rice_coders_agree(entries, parameter, density, seed):
    """The same bytes, the same positions, and the same codes refused, with any parameter and one damaged byte."""
    rng = np.random.default_rng(seed)
    where = np.flatnonzero(rng.random(entries) < density)
    if not where.size:
        return
    gaps = positions.gaps_of(where)
    unary_bits = where.size + int((gaps >> parameter).sum())
    unary, low = positions.rice_bytes(where.size, parameter, unary_bits)
    plain = positions.encode_rice(where, parameter, unary_bits)
    assert fast_rice.rice_encode(where, parameter, unary, low) == plain
    view = memoryview(plain)
    assert fast_rice.rice_decode(view[:unary], view[unary:], where.size, parameter, entries).tolist() == where.tolist()
    damaged = bytearray(plain)
    damaged[rng.integers(len(plain))] ^= 1 << int(rng.integers(8))
    halves = memoryview(damaged)[:unary], memoryview(damaged)[unary:]
    compiled = fast_rice.rice_decode(*halves, where.size, parameter, entries)
    try:
        other = positions.decode_rice(*halves, where.size, parameter, entries)
    except PayloadError:
        assert compiled is None
    else:
        assert compiled.tolist() == other.tolist()


def test_large_payloads_take_the_compiled_coder_and_are_refused_alike():
    """Above the size from which the compiled coder is used: round trip, and a damaged code behind a right checksum."""
    torch.manual_seed(0)
    update = Selector(1.0, k=100_000).select({"w": torch.randn(1_000_000)})
    data = update.to_bytes()
    assert torch.equal(SparseUpdate.from_bytes(data, like=update.shapes).indices["w"], update.indices["w"])
    record = bytearray(data[HEADER_BYTES:])
    record[5000] ^= 255
    with pytest.raises(PayloadError, match=r"tensor 'w'"):
        SparseUpdate.from_bytes(forged(bytes(record), update.shapes), like=update.shapes)
