"""Layer costs against arithmetic by hand: lines, state, levels, factors, static power, radio, receivers."""

import math

import pytest
import torch
from cost_profiles import DRAM_LINE, factor, make_profile
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cwmp_costmodels.costs.layers import layer_costs
from cwmp_costmodels.costs.scenario import Scenario
from cwmp_costmodels.errors import ModelError, ProfileError
from cwmp_costmodels.networks.builtin import cnn, resnet18
from cwmp_costmodels.networks.tensors import TensorInfo
from cwmp_costmodels.profile.factors import UpdateFactors
from cwmp_costmodels.profile.files import load_profile, shipped_profiles
from cwmp_costmodels.profile.operators import UpdateCurve
from cwmp_costmodels.profile.schema import FitBlock
from cwmp_costmodels.radio import index_bits, load_radio
from cwmp_profiler.counts import SPARSE_KERNELS, STATE_TENSORS, lines_touched

BIG = nn.Linear(1000, 1000, bias=False)
ONE_LINE = 1e-4  # relative: a line of a large tensor is counted as if entries were drawn with replacement
SMALL = nn.Linear(100, 10, bias=False)


def zero_but(**values):
    """A profile where only the named coefficients cost anything (DRAM only)."""
    names = ("static_power", "launch", "flop_float32", "elem_float32", "dram_read", "dram_write", "dram_line")
    return make_profile(energy={name: values.get(name, 0.0) for name in names}, times={}, cache_bytes=None)


def test_one_entry_of_a_large_tensor_costs_one_line():
    costs = layer_costs(zero_but(dram_line=DRAM_LINE), BIG)
    assert costs.entry_j("weight", 1e-6) == pytest.approx(DRAM_LINE, rel=ONE_LINE)
    assert costs.entry_j("weight", 1e-9) == costs.entry_j("weight", 1e-6), "below one entry counts as one entry"


@pytest.mark.parametrize("density", [0.001, 0.01, 0.1, 0.5])
def test_lines_are_shared_as_a_monte_carlo_draw_shares_them(density):
    costs = layer_costs(zero_but(dram_line=DRAM_LINE), nn.Linear(400, 100, bias=False))
    generator = torch.Generator().manual_seed(1)
    n, k = 40_000, int(40_000 * density)
    draws = [len(torch.unique(torch.randperm(n, generator=generator)[:k] // 16)) for _ in range(20)]
    assert costs.entry_j("weight", density) == pytest.approx(DRAM_LINE * sum(draws) / len(draws) / k, rel=0.01)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_optimiser_state_multiplies_lines_and_arithmetic(optimizer):
    states = STATE_TENSORS[optimizer]
    lines = layer_costs(zero_but(dram_line=DRAM_LINE), BIG, Scenario(optimizer=optimizer))
    assert lines.entry_j("weight", 1e-6) == pytest.approx((1 + states) * DRAM_LINE, rel=ONE_LINE)
    arithmetic = layer_costs(zero_but(elem_float32=1.0), BIG, Scenario(optimizer=optimizer))
    flops = 2 + sum(kernel.flops for kernel in SPARSE_KERNELS[optimizer])
    assert arithmetic.entry_j("weight", 0.01) == pytest.approx(flops)
    assert lines.parts_j({"weight": 1})["compute"] == 0
    assert arithmetic.parts_j({"weight": 1})["memory"] == 0


def test_entries_are_priced_as_the_compiled_kernels_that_write_them_where_the_profile_measured_those():
    """`linear/adam/entries` in the profile: its factor, one pass (one call, indices twice, values once); other types as before."""
    model = nn.Sequential(nn.Linear(1000, 1000, bias=False), nn.Embedding(1000, 1000))
    measured = {
        "linear/adam/entries": factor(3.0),
        "linear/adam/sparse": factor(5.0),
        "embedding/adam/sparse": factor(7.0),
    }

    def costs_by(count):
        names = ("static_power", "launch", "elem_float32", "dram_read", "dram_write", "dram_line")
        energy = {name: float(name == count) or 1e-12 * (name == "dram_line") for name in names}
        profile = make_profile(energy=energy, times={}, cache_bytes=None, layers=measured)
        return layer_costs(profile, model, Scenario(optimizer="adam", receivers=0))

    for count, joules in (("dram_line", 3.0 * 3), ("dram_read", 3.0 * 20), ("elem_float32", 3.0 * 17)):
        costs = costs_by(count)
        assert costs.entry_j("0.weight", 1e-6) == pytest.approx(joules, rel=ONE_LINE)
        assert [costs.layers[name].compiled for name in ("0.weight", "1.weight")] == [True, False]
    assert costs_by("launch").fixed_j("0.weight") == pytest.approx(3.0)
    assert costs_by("launch").fixed_j("1.weight") > 7.0 * 5


def test_dense_decay_pays_a_whole_step_once_and_an_entry_its_scatter():
    """By hand, 1e6 entries in DRAM: zero (1 write), momentum's step (5 reads, 3 writes), and one line an entry for the scatter."""
    prices = zero_but(dram_line=64.0, dram_read=1.0, dram_write=1.0)
    lazy = layer_costs(prices, BIG, Scenario(optimizer="momentum"))
    dense = layer_costs(prices, BIG, Scenario(optimizer="momentum", state_decay="dense"))
    sgd = layer_costs(prices, BIG, Scenario())
    assert dense.fixed_j("weight") == pytest.approx(4e6 * (1 + 5 + 3))
    assert dense.entry_j("weight", 0.01) == pytest.approx(sgd.entry_j("weight", 0.01))
    assert lazy.fixed_j("weight") == 0
    assert lazy.entry_j("weight", 1e-6) > 1.9 * sgd.entry_j("weight", 1e-6)
    assert any("state_decay lazy" in remark for remark in lazy.remarks)
    assert any("state_decay dense" in remark for remark in dense.remarks)
    assert dense.dense_j() == lazy.dense_j()
    assert dense.tensor_costs("weight").tensor_j == pytest.approx(dense.fixed_j("weight"))


def test_nothing_decays_in_plain_sgd():
    lazy, dense = (layer_costs(make_profile(), BIG, Scenario(state_decay=how)) for how in ("lazy", "dense"))
    assert lazy.parts_j({"weight": 500}) == dense.parts_j({"weight": 500})
    assert not any("state_decay" in remark for remark in dense.remarks)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_weight_decay_is_what_torch_adds_to_a_step(optimizer):
    """Torch makes a new gradient: it reads parameter and gradient and writes; a sparse step gathers the parameter first."""
    prices = zero_but(dram_read=1.0, dram_write=1.0)
    without, decayed = (
        layer_costs(prices, BIG, Scenario(optimizer=optimizer, weight_decay=decay)) for decay in (False, True)
    )
    assert decayed.dense_j() - without.dense_j() == pytest.approx(4e6 * 3)
    more = decayed.parts_j({"weight": 1000})["memory"] - without.parts_j({"weight": 1000})["memory"]
    assert more == pytest.approx(1000 * (8 + 4 + 12))


def test_what_is_spent_whatever_is_kept():
    prices = zero_but(dram_read=1.0, dram_write=10.0)
    assert layer_costs(prices, BIG).always_j() == {"select": 4e6, "zero_grad": 0.0}
    zeroed = layer_costs(prices, BIG, Scenario(zero_grad=True, local_steps=3)).always_j()
    assert zeroed["zero_grad"] == pytest.approx(3 * 4e6 * (10 + 2 + 10))


def test_a_dense_write_beats_the_scatter_from_a_density_on():
    """A line of 64 J against 4 J an entry of a dense write: 1 - (1 - d)^16 lines of 16 entries cost as much where they are all touched."""
    line_j = 640.0
    costs = layer_costs(zero_but(dram_line=line_j, dram_read=1.0, dram_write=1.0), BIG)
    turn = costs.dense_from("weight")
    whole = costs.dense_j()
    assert 0 < turn < 1
    assert (
        costs.parts_j({"weight": int(1e6 * turn * 0.99)})["memory"]
        < whole
        < costs.parts_j({"weight": int(1e6 * turn * 1.01)})["memory"]
    )
    arithmetic = zero_but(elem_float32=1.0, dram_line=1e-9)
    assert layer_costs(arithmetic, BIG).dense_from("weight") is None, "kept entries never take more arithmetic than all"


def test_level_follows_the_working_set_of_the_whole_step():
    """1 MB of cache: 4 MB of parameters do not fit, so the small tensor beside them is not resident either."""
    both = nn.Sequential(BIG, SMALL)
    step = layer_costs(make_profile(), both)
    assert {step.layers[name].level for name in step.names()} == {"dram"}
    alone = layer_costs(make_profile(), SMALL)
    assert alone.layers["weight"].level == "l2"
    tensor = layer_costs(make_profile(), both, Scenario(residency="tensor"))
    assert [tensor.layers[name].level for name in tensor.names()] == ["dram", "l2"]
    assert tensor.spread() > 5 * step.spread()


def test_optimiser_state_can_push_a_step_out_of_the_cache():
    model = nn.Linear(300, 300, bias=False)  # 360 kB: x2 fits in 1 MiB, x4 (Adam) does not
    assert layer_costs(make_profile(), model).layers["weight"].level == "l2"
    assert layer_costs(make_profile(), model, Scenario(optimizer="adam")).layers["weight"].level == "dram"


def test_half_precision_entries_share_lines_of_twice_as_many():
    half = layer_costs(zero_but(dram_line=DRAM_LINE), nn.Linear(1000, 1000, bias=False).bfloat16())
    full = layer_costs(zero_but(dram_line=DRAM_LINE), BIG)
    assert half.entry_j("weight", 0.5) == pytest.approx(full.entry_j("weight", 0.5) / 2, rel=1e-3)


def test_static_power_is_attributed_over_the_time_or_excluded():
    profile = make_profile(times=dict.fromkeys(make_profile().times, 0.0) | {"dram_line": 3e-7})
    excluded = layer_costs(profile, BIG, static="excluded")
    attributed = layer_costs(profile, BIG, static="attributed")
    extra = attributed.entry_j("weight", 1e-6) - excluded.entry_j("weight", 1e-6)
    assert extra == pytest.approx(1.0 * 3e-7, rel=ONE_LINE)  # 1 W
    assert layer_costs(profile, BIG).static == "attributed"
    assert layer_costs(zero_but(dram_line=1e-7), BIG).static == "excluded"


def test_joules_estimated_from_time_have_no_excluded_cost():
    fit = FitBlock(
        windows=9,
        points=9,
        energy_error=0.1,
        time_error=0.1,
        condition_number=1.0,
        bootstrap=0,
        seed=0,
        static="attributed",
    )
    profile = make_profile(provenance="estimated", fit=fit)
    with pytest.raises(ProfileError, match="estimated from time alone"):
        layer_costs(profile, BIG, static="excluded")
    assert layer_costs(profile, BIG).static == "attributed"


def test_local_steps_multiply_and_receivers_add_plain_additions():
    profile = zero_but(dram_line=DRAM_LINE)
    entry = layer_costs(profile, BIG, Scenario(optimizer="momentum", local_steps=5, receivers=3)).entry_j(
        "weight", 1e-6
    )
    assert entry == pytest.approx((5 * 2 + 3) * DRAM_LINE, rel=ONE_LINE)


def test_uplink_is_the_published_worked_example():
    """n = 10^6, k = 10^4, 32 bits and COO over LTE: 0.42673017 J up, 42.673017 uJ an entry; promotion and tail stay apart."""
    radio = load_radio("lte")
    costs = layer_costs(zero_but(dram_line=1e-12), BIG, Scenario(radio=radio, index_code="coo"))
    parts = costs.parts_j({"weight": 10_000})
    assert parts["uplink"] == pytest.approx(0.42673017, rel=1e-7)
    assert costs.entry_j("weight", 0.01) == pytest.approx(42.673017e-6, rel=1e-6)
    assert costs.burst_j() == pytest.approx(0.31490307 + 12.27056, rel=1e-6)
    assert parts["fixed"] == pytest.approx(costs.burst_j())
    assert sum(parts.values()) == pytest.approx(13.0121932, rel=1e-6)
    assert sum(costs.parts_j({"weight": 5_000}).values()) == pytest.approx(12.7988282, rel=1e-6)


def test_marginal_index_bits_are_below_the_mean():
    """log2((n-k)/k) = 6.629 bits for one more entry at 1%; n*H2/k = 8.079 on average."""
    costs = layer_costs(zero_but(dram_line=1e-15), BIG, Scenario(radio="lte", value_bits=32))
    bit = load_radio("lte").marginal_j_per_bit("up")
    assert costs.marginal_j("weight", 0.01) / bit == pytest.approx(32 + math.log2(99), rel=1e-4)
    assert costs.entry_j("weight", 0.01) / bit == pytest.approx(32 + 8.079314, rel=1e-6)


def test_downlink_goes_to_every_receiver():
    radio = load_radio("wifi")
    costs = layer_costs(zero_but(dram_line=1e-15), BIG, Scenario(radio=radio, receivers=7, value_bits=16))
    bits = 1000 * 16 + index_bits(10**6, 1000, "entropy")
    parts = costs.parts_j({"weight": 1000})
    assert parts["downlink"] == pytest.approx(7 * bits * radio.marginal_j_per_bit("down"))
    assert parts["uplink"] == pytest.approx(bits * radio.marginal_j_per_bit("up"))
    encoded = costs.parts_j({"weight": 1000}, payload_bits=50_000)
    assert encoded["uplink"] == pytest.approx(50_000 * radio.marginal_j_per_bit("up"))
    assert encoded["downlink"] == pytest.approx(7 * 50_000 * radio.marginal_j_per_bit("down")), (
        "the same bits travel on"
    )


def test_a_bitmask_is_paid_once():
    costs = layer_costs(zero_but(dram_line=1e-15), BIG, Scenario(radio="wifi", index_code="bitmask"))
    bit = load_radio("wifi").marginal_j_per_bit("up")
    assert costs.entry_j("weight", 0.01) == pytest.approx(32 * bit, rel=1e-6)
    assert costs.fixed_j("weight") == pytest.approx(1e6 * bit, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    share=st.floats(1e-4, 0.99),
    optimizer=st.sampled_from(["sgd", "momentum", "adam"]),
    radio=st.sampled_from([None, "wifi"]),
    code=st.sampled_from(["entropy", "rice", "coo", "bitmask", "leb128"]),
    receivers=st.integers(0, 3),
)
def test_parts_are_entries_plus_fixed_plus_burst(share, optimizer, radio, code, receivers):
    """The exact joules of a selection are what mean entry costs, fixed parts and burst add up to."""
    model = nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32))
    scenario = Scenario(radio=radio, optimizer=optimizer, index_code=code, receivers=receivers, local_steps=2)
    costs = layer_costs(make_profile(), model, scenario)
    kept = {name: min(max(int(share * costs.numel(name)), 1), costs.numel(name) - 1) for name in costs.names()}
    whole = sum(k * costs.entry_j(n, k / costs.numel(n)) + costs.fixed_j(n) for n, k in kept.items()) + costs.burst_j()
    assert sum(costs.parts_j(kept).values()) == pytest.approx(whole, rel=1e-9)


def test_keeping_everything_is_the_dense_step_without_positions():
    costs = layer_costs(make_profile(), BIG, Scenario(radio="wifi"))
    n, bit = 10**6, load_radio("wifi").marginal_j_per_bit("up")
    assert costs.parts_j({"weight": n})["uplink"] == pytest.approx(32 * n * bit)
    memory = n * 4 * (2 * (1e-10 + 1e-9) + (2e-10 + 1e-9))  # 1 W x 1e-9 s of static energy on each byte
    assert costs.parts_j({"weight": n})["memory"] == pytest.approx(memory)
    assert costs.dense_j() == pytest.approx(sum(costs.parts_j({"weight": n}).values()))
    assert costs.parts_j({"weight": 0}) == dict.fromkeys(costs.parts_j({}), 0.0)


def test_launches_are_fixed_and_never_part_of_an_entry():
    costs = layer_costs(zero_but(launch=1.0, dram_line=DRAM_LINE), BIG, Scenario(local_steps=4))
    assert costs.fixed_j("weight") == 4.0
    assert costs.entry_j("weight", 1e-6) == pytest.approx(4 * DRAM_LINE, rel=ONE_LINE)
    assert costs.parts_j({"weight": 100})["fixed"] == 4.0


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ({}, (1, 1, 1)),
        ({"linear/sgd/sparse": factor(3.0)}, (1, 3, 3)),
        ({"linear/sgd/dense": factor(3.0)}, (1, 1, 1)),
        ({"linear": factor(3.0), "conv": factor(2.0)}, (2, 3, 3)),
        ({"linear/*/*": factor(3.0), "linear": factor(5.0), "linear/sgd/sparse": factor(2.0)}, (1, 2, 2)),
        ({"linear/*/sparse": factor(3.0), "linear/*/*": factor(5.0)}, (1, 3, 3)),
        ({"name:fc1.*": factor(10.0), "linear": factor(2.0)}, (1, 10, 2)),
        ({"name:fc*": factor(7.0), "name:fc1.*": factor(10.0)}, (1, 10, 7)),
    ],
)
def test_factors_by_name_then_type(layers, expected):
    plain = zero_but(dram_line=DRAM_LINE)
    costs = layer_costs(plain.model_copy(update={"layers": layers}), cnn())
    truth = layer_costs(plain, cnn())
    got = [costs.entry_j(n, 0.1) / truth.entry_j(n, 0.1) for n in ("conv1.weight", "fc1.weight", "fc2.weight")]
    assert got == pytest.approx(expected)


def test_update_factors_are_interpolated_over_entries_and_density():
    """At the points what was measured, halfway between them (in logarithms) the geometric mean, beyond them the nearest; a name wins."""
    curve = UpdateCurve(
        entries=[10_000.0, 10_000.0, 1_000_000.0],
        density=[0.01, 0.0001, 0.01],
        factor=[2.0, 1.0, 4.0],
        time_factor=[1.0, 1.0, 1.0],
    )
    layers = {"linear/sgd/sparse": factor(9.0), "linear/sgd/dense": factor(7.0)}
    profile = make_profile(layers=layers).model_copy(update={"updates": {"sgd/sparse": curve}})
    at = {n: UpdateFactors(profile, tensor_of(n), "sgd") for n in (100, 10_000, 100_000, 1_000_000, 10**8)}
    assert at[10_000].at("sparse", 0.01).value == pytest.approx(2.0)
    assert at[10_000].at("sparse", 0.001).value == pytest.approx(math.sqrt(2.0))
    assert at[100_000].at("sparse", 0.01).value == pytest.approx(math.sqrt(8.0))
    assert at[10_000].at("sparse", 0.5).value == at[100].at("sparse", 0.01).value == pytest.approx(2.0)
    assert at[10**8].at("sparse", 0.001).value == pytest.approx(4.0)
    assert at[10_000].at("dense", 1.0).value == 7.0
    assert UpdateFactors(profile, tensor_of(10_000), "adam").at("sparse", 0.01).value == 1.0
    named = make_profile(layers={"name:w*": factor(5.0)}).model_copy(update={"updates": {"sgd/sparse": curve}})
    assert UpdateFactors(named, tensor_of(10_000), "sgd").at("sparse", 0.01).value == 5.0


def tensor_of(n):
    return TensorInfo(name="weight", layer_type="linear", shape=(n,), dtype="float32", entry_bytes=4)


def test_a_time_factor_scales_static_joules_only():
    profile = make_profile(layers={"linear": factor(2.0, time=5.0)})
    base = make_profile()
    dynamic = layer_costs(base, BIG, static="excluded").entry_j("weight", 0.01)
    static = layer_costs(base, BIG).entry_j("weight", 0.01) - dynamic
    assert layer_costs(profile, BIG).entry_j("weight", 0.01) == pytest.approx(2 * dynamic + 5 * static)


def test_a_literature_profile_derives_lines_and_says_what_it_leaves_out():
    profile = make_profile(
        energy={"dram_read": 1e-10, "dram_write": 3e-10}, times={}, provenance="literature", cache_bytes=None
    )
    costs = layer_costs(profile, BIG)
    assert costs.entry_j("weight", 1e-6) == pytest.approx(64 * 4e-10 + 12 * 1e-10)
    assert set(costs.remarks) == {
        "dram_line is not in the profile: derived as 64 B x (dram_read + dram_write)",
        "elem_float32 is not in this literature profile: left out",
        "launch is not in this literature profile: left out",
    }


@pytest.mark.parametrize("missing", ["dram_line", "elem_float32", "launch", "dram_read"])
def test_a_measured_profile_must_have_what_a_cost_needs(missing):
    energy = {n: c.value for n, c in make_profile().coefficients.items() if n != missing}
    with pytest.raises(ProfileError, match=rf"bench lacks what this cost needs @ \$\.coefficients\.{missing}"):
        layer_costs(make_profile(energy=energy, times={}, provenance="measured", cache_bytes=None), BIG).fixed_j(
            "weight"
        )


def test_a_missing_time_is_named():
    times = {n: 0.0 for n in make_profile().times if n != "dram_line"}
    with pytest.raises(ProfileError, match=r"\$\.times\.dram_line"):
        layer_costs(make_profile(times=times), BIG)


def test_free_entries_are_refused():
    with pytest.raises(ProfileError, match="costs 0 J"):
        layer_costs(zero_but(), BIG)


def test_unknown_names_and_counts_are_refused():
    model = cnn()
    model.conv1.weight.requires_grad_(False)
    costs = layer_costs(make_profile(), model)
    assert costs.skipped == {"conv1.weight": "frozen"}
    for call, message in (
        (lambda: costs.entry_j("conv1.weight", 0.1), "it is frozen"),
        (lambda: costs.entry_j("nope", 0.1), "no such parameter"),
        (lambda: costs.parts_j({"fc2.bias": 11}), "cannot keep 11 of the 10"),
        (lambda: costs.entry_j("fc2.bias", 1.5), "from 0 to 1, got 1.5"),
    ):
        with pytest.raises(ModelError, match=message):
            call()


def test_names_are_the_models_own_and_costs_are_positive_at_every_density():
    model = resnet18()
    costs = layer_costs(make_profile(), model)
    assert costs.names() == tuple(name for name, _ in model.named_parameters())
    for name in costs.names():
        joules = [costs.entry_j(name, density) for density in (0, 1e-4, 1e-2, 0.3, 1)]
        assert min(joules) > 0
        assert joules[:4] == sorted(joules[:4], reverse=True), "sharing lines never makes an entry dearer"


def test_sources_add_up_to_the_entry():
    costs = layer_costs(make_profile(), cnn(), Scenario(radio="wifi", receivers=2, optimizer="adam"))
    for name in costs.names():
        kept = 0.05 * costs.numel(name)
        if kept >= 1:
            assert sum(costs.layers[name].sources_j(kept).values()) == pytest.approx(costs.entry_j(name, 0.05))


def test_gradient_operations_are_counted_per_entry():
    """A weight entry of a convolution sees 2 operations per output pixel and example; of a linear layer, per example."""
    model, inputs = cnn(), torch.zeros(8, 1, 28, 28)
    costs = layer_costs(
        zero_but(flop_float32=1.0, dram_line=1e-3), model, Scenario(local_steps=3), gradient_inputs=(inputs,)
    )
    assert costs.layers["conv1.weight"].gradient_flops == 2 * 8 * 28 * 28
    assert costs.layers["conv2.weight"].gradient_flops == 2 * 8 * 14 * 14
    assert costs.layers["fc1.weight"].gradient_flops == 2 * 8
    assert costs.parts_j({"fc1.weight": 10})["compute"] == pytest.approx(10 * 3 * 16)
    assert set(costs.gradient.not_counted) == {"conv1.bias", "conv2.bias", "fc1.bias", "fc2.bias"}


def test_resnet_weight_gradients_take_the_published_multiplications():
    """ResNet-18 at 224x224: 1.814 G multiply-adds forward, and as many for the weight gradients."""
    from cwmp_costmodels.networks.gradient_flops import count_gradient_flops

    model = resnet18().train()
    before = {n: b.clone() for n, b in model.named_buffers()}
    counted = count_gradient_flops(model, (torch.zeros(1, 3, 224, 224),))
    assert sum(counted.flops.values()) / 2 == pytest.approx(1.814e9, rel=1e-3)
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers()), "counting must not touch batch statistics"
    assert "layer1.0.bn1.weight" in counted.not_counted


@pytest.mark.parametrize(
    ("module", "shape", "places"),
    [
        (nn.Conv2d(8, 8, 3, groups=8), (2, 8, 10, 10), 2 * 64),
        (nn.Conv1d(8, 12, 3, groups=4), (2, 8, 10), 2 * 8),
        (nn.ConvTranspose2d(8, 12, 3, groups=4), (2, 8, 10, 10), 2 * 100),
        (nn.LSTM(8, 16, num_layers=1), (5, 2, 8), 10),
        (nn.Linear(8, 3), (2, 5, 8), 10),
    ],
    ids=["depthwise", "grouped", "grouped transposed", "lstm", "linear"],
)
def test_a_weight_gradient_takes_a_multiply_add_per_place_whatever_the_groups(module, shape, places):
    from cwmp_costmodels.networks.gradient_flops import count_gradient_flops

    counted = count_gradient_flops(module, (torch.zeros(shape),))
    weights = {name: p.numel() for name, p in module.named_parameters() if "weight" in name}
    assert counted.flops == {name: 2 * size * places for name, size in weights.items()}


def test_gradient_counting_refuses_what_it_cannot_run():
    from cwmp_costmodels.networks.gradient_flops import count_gradient_flops

    class Picky(nn.Linear):
        def forward(self, x):
            return super().forward(x) if float(x.sum()) > 0 else x

    for model in (Picky(3, 3), nn.Linear(4, 3)):
        with pytest.raises(ModelError, match="does not run on shapes alone"):
            count_gradient_flops(model, (torch.zeros(2, 3),))


def test_the_face_gives_the_costs_of_the_room():
    import cwmp

    profile, model, scenario = make_profile(), cnn(), cwmp.Scenario(radio="wifi", optimizer="adam")
    costs = cwmp.layer_costs(profile, model, scenario)
    assert isinstance(costs, cwmp.LayerCosts)
    assert costs.dense_j() == layer_costs(profile, model, scenario).dense_j()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("caches", [False, True])
def test_a_selection_is_charged_the_lines_that_it_touches(optimizer, caches):
    """At the scenario's density and the lines expected there, prices by entry and line are the joules of the table."""
    profile = load_profile("simulated-server" if caches else "simulated-board")
    scenario = Scenario(optimizer=optimizer, density=0.02, receivers=2, local_steps=3, radio="wifi")
    costs = layer_costs(profile, nn.Linear(2000, 500), scenario)
    kept, spread = {"weight": 20_000, "bias": 10}, {"weight": costs.layers["weight"].lines(20_000), "bias": 0}
    kept["bias"] = 0
    by_table, by_tier = costs.parts_j(kept), costs.parts_j(kept, lines=spread)
    assert by_tier == pytest.approx(by_table, rel=1e-9)
    tier = costs.tensor_costs("weight")
    dense_rows = costs.parts_j(kept, lines={"weight": 20_000 // 16, "bias": 0})
    assert by_tier["memory"] - dense_rows["memory"] == pytest.approx((spread["weight"] - 1250) * tier.line_j)
    lines_of_state = {"sgd": 1, "momentum": 2, "adam": 3}[optimizer]
    plain = layer_costs(profile, nn.Linear(2000, 500), Scenario(density=0.02, residency="tensor")).tensor_costs(
        "weight"
    )
    alone = layer_costs(
        profile, nn.Linear(2000, 500), Scenario(density=0.02, optimizer=optimizer, residency="tensor")
    ).tensor_costs("weight")
    if not profile.layers and not caches:
        assert alone.line_j == pytest.approx(lines_of_state * plain.line_j)


@pytest.mark.parametrize("name", sorted(name for name in shipped_profiles() if name.startswith("tiny-")))
def test_a_shipped_profile_of_whole_inferences_says_what_it_lacks(name):
    with pytest.raises(ProfileError, match=r"\$\.coefficients\.dram_\w+: the readings that were published give run_"):
        layer_costs(load_profile(name), cnn(), Scenario(optimizer="adam"))


@pytest.mark.parametrize("name", sorted(name for name in shipped_profiles() if not name.startswith("tiny-")))
def test_every_other_shipped_profile_gives_costs(name):
    profile, model = load_profile(name), cnn()
    costs = layer_costs(profile, model, Scenario(optimizer="adam"))
    assert costs.provenance == profile.provenance
    assert costs.dense_j() > 0
    if name.startswith("two-class-"):
        ratio = float(name.removeprefix("two-class-").removesuffix("x"))
        shared = lines_touched(100_352, 1003, entry_bytes=4, line_bytes=64) / 1003
        other = lines_touched(4_608, 46, entry_bytes=4, line_bytes=64) / 46
        got = costs.entry_j("fc1.weight", 1003 / 100_352) / costs.entry_j("conv2.weight", 46 / 4_608)
        assert got == pytest.approx(ratio * shared / other, rel=0.01)


def test_receivers_are_priced_by_the_kernels_measured_for_their_own_step():
    """Adam measured on compiled kernels, SGD not: the receiver's part is as without that measurement, and the other way round."""

    def receiver_j(layers):
        profile = make_profile(layers=layers)
        parts = [
            layer_costs(profile, BIG, Scenario(optimizer="adam", receivers=n)).entry_j("weight", 0.01) for n in (0, 1)
        ]
        return parts[1] - parts[0], parts[0]

    (none, own), (adam, fused), (sgd, same) = (
        receiver_j(layers) for layers in ({}, {"linear/adam/entries": factor(1.0)}, {"linear/sgd/entries": factor(1.0)})
    )
    assert adam == pytest.approx(none, rel=1e-9)
    assert fused < 0.99 * own
    assert same == pytest.approx(own, rel=1e-9)
    assert sgd != pytest.approx(none, rel=1e-3)
