"""Published worked examples: n = 10^6, k = 10^4, fp32, COO, so 80,000 B = 640 kbit, no headers, unless stated."""

from __future__ import annotations

import math

import pytest

from cwmp_costmodels.radio import (
    LoraRadio,
    ShannonRadio,
    StateRadio,
    ThroughputRadio,
    binary_entropy,
    index_bits,
    load_radio,
    payload_bits,
    round_energy,
)

N, K, BITS = 10**6, 10**4, 640_000.0
pytestmark = pytest.mark.filterwarnings("ignore::cwmp_costmodels.radio.RadioWarning")


def close(expected: float, rel: float = 1e-6) -> object:
    return pytest.approx(expected, rel=rel, abs=0)


def test_entropy_of_one_percent():
    assert binary_entropy(0.01) == close(0.08079314)
    assert index_bits(N, K, "entropy") == close(80793.136)


@pytest.mark.parametrize(("code", "size"), [("coo", 80000), ("bitmask", 165000), ("entropy", 50099.142)])
def test_bytes_of_each_code(code, size):
    assert payload_bits(N, K, 32, code) / 8 == close(size)


def test_lte_up_at_the_median_rate():
    lte = load_radio("lte")
    transfer = lte.transfer(BITS, "up", rate_bps=5.64e6)
    assert transfer.duration_s == close(0.11347518)
    assert transfer.marginal_j / transfer.duration_s == close(3.7605596)
    assert transfer.marginal_j == close(0.42673017)
    assert transfer.promotion_j == close(0.31490307)
    assert transfer.tail_j == close(12.27056)
    assert transfer.energy_j == close(13.0121932)
    assert lte.burst_j("up") == close(0.31490307 + 12.27056)


def test_half_the_entries_save_next_to_nothing_because_the_tail_dominates():
    lte = load_radio("lte")
    half = lte.transfer_j(BITS / 2, "up", rate_bps=5.64e6)
    assert half == close(12.7988282)
    assert 1 - half / lte.transfer_j(BITS, "up", rate_bps=5.64e6) == pytest.approx(0.016, abs=5e-4)


def test_lte_marginal_joules_of_one_coo_entry():
    assert 64 * load_radio("lte").marginal_j_per_bit("up") == close(42.673017e-6)


def test_a_dense_downlink_outweighs_a_sparse_uplink():
    lte = load_radio("lte")
    down = lte.transfer(8 * 4e6, "down", rate_bps=12.74e6).marginal_j
    assert down == close(4.8983053)
    assert down > 10 * lte.transfer(BITS, "up").marginal_j


@pytest.mark.parametrize(
    ("name", "joules"), [("5g-mmwave", 6.030208e-3), ("5g-low-band", 18.654528e-3), ("lte-2021", 51.3328e-3)]
)
def test_slope_only_joules_of_2021(name, joules):
    radio = load_radio(name)
    assert isinstance(radio, ThroughputRadio)
    assert radio.up.slope_j_per_bit * BITS == close(joules)


@pytest.mark.parametrize(("direction", "joules"), [("up", 13.511111e-3), ("down", 11.128889e-3)])
def test_ns3_wifi_at_raw_54_mbps(direction, joules):
    assert load_radio("wifi-ns3").transfer_j(BITS, direction) == close(joules)


@pytest.mark.parametrize(
    ("name", "size", "seconds", "joules"),
    [("lora-sf7", 10, 41.216e-3, 3.8083584e-3), ("lora-sf12", 50, 2.301952, 212.70036e-3)],
)
def test_lora_time_on_air(name, size, seconds, joules):
    radio = load_radio(name)
    assert isinstance(radio, LoraRadio)
    assert radio.airtime_s(size) == close(seconds)
    assert radio.transfer_j(8 * size, "up") == close(joules)


def test_first_order_model():
    near, far = load_radio("first-order:distance_m=50"), load_radio("first-order:distance_m=100")
    assert near.crossover_m == close(87.70580)
    assert near.transfer_j(BITS, "up") == close(0.048)
    assert near.transfer_j(BITS, "down") == close(0.032)
    assert far.transfer_j(BITS, "up") == close(0.1152)


def test_a_shannon_radio_radiates_no_more_than_its_rate_needs():
    """By hand: 1 MHz at 2 bit/s/Hz needs a signal 3 times the noise, at 1 bit/s/Hz as strong as the noise."""
    noise_w = 10 ** (-174 / 10) * 1e-3 * 1e6
    most_w = 3 * noise_w * 1e10
    told = {"bandwidth_hz": 1e6, "tx_power_w": most_w, "distance_m": 1000.0, "pa_efficiency": 0.5, "circuit_w": 0.2}
    channel = {"path_loss_1km_db": 100.0, "path_loss_db_per_decade": 30.0, "noise_dbm_per_hz": -174.0}
    radio = load_radio("shannon").model_copy(update={**told, **channel})
    assert isinstance(radio, ShannonRadio)
    assert radio.capacity_bps == pytest.approx(2e6)
    assert radio.link("up", None).j_per_bit == pytest.approx((most_w / 0.5 + 0.2) / 2e6)
    assert radio.link("up", 1e6).j_per_bit == pytest.approx((most_w / 3 / 0.5 + 0.2) / 1e6)


def test_shannon_bound():
    radio = load_radio("shannon")
    assert isinstance(radio, ShannonRadio)
    assert radio.capacity_bps == close(6.178073e6)
    assert radio.transfer_j(BITS, "up") == close(1.0359217e-3)


def test_the_bound_is_some_hundred_times_under_a_measured_handset():
    ratio = load_radio("lte").transfer(BITS, "up").marginal_j / load_radio("shannon").transfer_j(BITS, "up")
    assert 350 < ratio < 450


def test_nr_states_are_relative_until_the_user_says_what_a_unit_is():
    radio = load_radio("nr-tr38840:unit_w=0.002")
    assert isinstance(radio, StateRadio)
    assert [radio.state_w(state) for state in ("deep_sleep", "light_sleep", "micro_sleep")] == [0.002, 0.04, 0.09]
    assert radio.marginal_j_per_bit("up", 1e6) == close(700 * 0.002 / 1e6)
    assert radio.marginal_j_per_bit("down", 1e6) == close(300 * 0.002 / 1e6)


def test_nb_iot_is_power_times_time_over_states():
    radio = load_radio("nb-iot")
    assert isinstance(radio, StateRadio)
    day = radio.states_j({"psm": 86400 - 12, "idle": 8, "rx": 3, "tx": 1})
    assert day == close(15e-6 * 86388 + 3e-3 * 8 + 90e-3 * 3 + 0.545)


def test_one_round_pays_promotion_and_tail_once():
    total = round_energy(load_radio("lte:idle_w=0.5"), up_bits=BITS, down_bits=8 * 4e6, wait_s=2)
    assert total.energy_j == close(0.42673017 + 4.8983053 + 0.31490307 + 12.27056 + 1.0)
    assert total.bursts == 1
    nothing = round_energy(load_radio("lte:idle_w=0.5"), wait_s=2)
    assert nothing.energy_j == close(1.0)
    assert nothing.bursts == 0


@pytest.mark.parametrize(
    ("kept", "rates"),
    [
        (0.001, {"entropy": 11.41, "rice": 11.49, "leb128": 14.98, "bitmask": 1000, "coo": 32}),
        (0.01, {"entropy": 8.08, "rice": 8.10, "leb128": 10.20, "bitmask": 100, "coo": 32}),
        (0.1, {"entropy": 4.69, "rice": 4.76, "leb128": 8.00, "bitmask": 10, "coo": 32}),
        (0.2, {"entropy": 3.61, "rice": 3.69, "leb128": 8.00, "bitmask": 5, "coo": 32}),
    ],
)
def test_position_bits_per_kept_entry(kept, rates):
    k = round(kept * N)
    for code, bits in rates.items():
        assert index_bits(N, k, code) / k == pytest.approx(bits, rel=0.005), code


def test_codes_cross_over_where_arithmetic_says():
    n = 32 * 10**4
    assert payload_bits(n, n // 32, 32, "coo") == payload_bits(n, n // 32, 32, "bitmask")
    assert payload_bits(n, n // 2, 32, "coo") == payload_bits(n, n, 32, "dense")


def test_24_bits_an_entry_with_rice_and_half_precision_at_one_percent():
    assert payload_bits(N, K, 16, "rice") / K == pytest.approx(24.1, abs=0.05)
    assert math.isclose(payload_bits(N, K, 32, "coo") / K, 64)
