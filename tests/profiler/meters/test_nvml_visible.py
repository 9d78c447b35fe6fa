"""CUDA_VISIBLE_DEVICES, whatever it holds: GPUs of this machine in CUDA's order, or one line that says why not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwmp_profiler.meters.base import MeterUnavailableError
from cwmp_profiler.meters.nvidia.visible import Gpu, cuda_device, visible_gpus

GPUS = [
    Gpu(index=0, uuid="GPU-aaaa0000-1", name="A100"),
    Gpu(index=1, uuid="GPU-aaaa1111-2", name="A100", mig=("MIG-5555", "MIG-6666"), mig_enabled=True),
    Gpu(index=2, uuid="GPU-bbbb0000-3", name="A100"),
]
TOKEN = st.one_of(
    st.integers(-2, 4).map(str),
    st.sampled_from(
        ["GPU-aaaa0", "GPU-aaaa", "GPU-bbbb0000-3", "MIG-5555", "MIG-", "MIG-GPU-aaaa1111-2/1/0", "none", ""]
    ),
    st.text(max_size=6),
)


@given(st.lists(TOKEN, max_size=5))
def test_any_list_gives_gpus_each_once_or_one_line(tokens):
    try:
        selection = visible_gpus(GPUS, {"CUDA_VISIBLE_DEVICES": ",".join(tokens)})
    except MeterUnavailableError as refused:
        error = refused
    else:
        assert 0 < len(selection.gpus) == len({gpu.uuid for gpu in selection.gpus})
        assert all(gpu in GPUS for gpu in selection.gpus)
        return
    assert "\n" not in str(error)
    assert error.cure


@given(st.permutations([0, 1, 2]), st.integers(1, 3))
def test_numbers_give_exactly_those_gpus_in_that_order(order, count):
    asked = order[:count]
    selection = visible_gpus(GPUS, {"CUDA_VISIBLE_DEVICES": ",".join(map(str, asked))})
    assert [gpu.index for gpu in selection.gpus] == asked
    for number, index in enumerate(asked):
        assert cuda_device(selection, number, {}).gpus[0].index == index


@pytest.mark.parametrize(
    ("asked", "indices"),
    [
        ("2,9,0", [2]),
        ("2,-1,0", [2]),
        (" 2 , 0 ", [2, 0]),
        ("GPU-bbbb,0", [2, 0]),
        ("MIG-5555,MIG-6666", [1]),
        ("MIG-GPU-aaaa1111-2/7/0", [1]),
    ],
)
def test_worked_examples_of_cudas_rules(asked, indices):
    assert [gpu.index for gpu in visible_gpus(GPUS, {"CUDA_VISIBLE_DEVICES": asked}).gpus] == indices


def test_what_is_ignored_is_said():
    (note, _) = visible_gpus(GPUS, {"CUDA_VISIBLE_DEVICES": "1,7"}).notes
    assert "'7' names no GPU, so CUDA ignores it" in note
