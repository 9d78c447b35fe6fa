"""States as Flower records: Flower itself is the oracle of what travels."""

import io

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cwmp_federated import wire

DTYPES = st.sampled_from(["<f4", "<f8", "<i8", "|u1", "<f2"])
VALUES = DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_side=4)))


@given(VALUES)
def test_a_record_is_what_flower_makes_of_the_same_arrays_and_comes_back_bit_for_bit(values):
    record = wire.to_record({"a": torch.from_numpy(values.copy())})
    theirs = Array(values)
    assert record["a"] == theirs
    (back,) = wire.to_state(record).values()
    assert back.numpy().dtype == values.dtype
    assert back.numpy().shape == values.shape
    assert back.numpy().tobytes() == values.tobytes()
    back.add_(1)
    assert record["a"] == theirs, "a state must not share memory with the record that it came from"


def test_other_layouts_and_versions_of_the_file_format_are_read_as_flower_reads_them():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    fortran = Array(np.asfortranarray(values))
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values, version=(2, 0))
    newer = Array(dtype="float32", shape=(2, 3), stype="numpy.ndarray", data=buffer.getvalue())
    for array in (fortran, newer):
        (back,) = wire.to_state(ArrayRecord({"a": array})).values()
        np.testing.assert_array_equal(back.numpy(), values)
    (back,) = wire.to_state(wire.to_record({"a": torch.from_numpy(values.T)})).values()
    np.testing.assert_array_equal(back.numpy(), values.T)


def test_cut_arrays_and_pickles_are_refused():
    whole = Array(np.arange(6, dtype=np.float32))
    cut = Array(dtype="float32", shape=(6,), stype="numpy.ndarray", data=whole.data[:-4])
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    evil = Array(dtype="float32", shape=(1,), stype="numpy.ndarray", data=pickled.getvalue())
    for array in (cut, evil):
        with pytest.raises(ValueError):
            wire.to_state(ArrayRecord({"a": array}))
