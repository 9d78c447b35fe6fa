"""States as Flower records: Flower itself is the oracle of what travels."""

import io

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_to_proto
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cwmp_federated.wire import flower
from cwmp_federated.wire import records as wire

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


SIZES = st.one_of(st.integers(0, 300), st.sampled_from([127, 128, 16383, 16384, 2**21 - 60, 2**21]))
ARRAYS = st.builds(
    lambda size, shape: Array(dtype="uint8", shape=tuple(shape), stype="cwmp.v1", data=bytes(size)),
    SIZES,
    st.lists(st.integers(0, 2**20), max_size=4),
)
RECORDS = st.one_of(
    st.dictionaries(st.text(max_size=5), ARRAYS, max_size=3).map(ArrayRecord),
    st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False), max_size=3).map(MetricRecord),
    st.dictionaries(st.text(max_size=5), st.text(max_size=200), max_size=3).map(ConfigRecord),
)


@given(st.dictionaries(st.text(max_size=5), RECORDS, max_size=4), st.sampled_from(["train", "evaluate"]))
@settings(deadline=None)
def test_bytes_of_a_message_are_those_of_its_serialised_form(records, kind):
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, SUPERLINK_NODE_ID, 1
    message = Message(RecordDict(records), 2**40, kind, group_id="3")
    assert flower.message_bytes(message) == len(message_to_proto(message).SerializeToString())
    reply = Message(Error(7, "out of joules"), reply_to=message)
    assert flower.message_bytes(reply) == len(message_to_proto(reply).SerializeToString())
