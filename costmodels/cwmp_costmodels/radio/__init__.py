"""Joules of a radio link: presets with source and validity range, models, payload and framing bits, rounds.

Marginal joules (per bit) and fixed joules (per burst: promotion and tail) are kept apart everywhere, because adding the
fixed part to every entry or layer is the most common fault of such models.
"""

from __future__ import annotations

from cwmp_costmodels.radio.base import Direction, Phase, Radio, RadioWarning, Transfer
from cwmp_costmodels.radio.core_network import core_network_j
from cwmp_costmodels.radio.framing import FRAMINGS, Framing
from cwmp_costmodels.radio.lora import LoraRadio
from cwmp_costmodels.radio.payload import (
    CODES,
    Code,
    binary_entropy,
    index_bits,
    marginal_bits,
    marginal_index_bits,
    payload_bits,
)
from cwmp_costmodels.radio.physics import FirstOrderRadio, ShannonRadio
from cwmp_costmodels.radio.presets import load_radio, parse_radio, profile_radio, radio_names
from cwmp_costmodels.radio.rounds import Planned, RoundEnergy, round_energy, schedule_energy
from cwmp_costmodels.radio.states import StateRadio
from cwmp_costmodels.radio.throughput import ThroughputRadio

__all__ = [
    "CODES",
    "FRAMINGS",
    "Code",
    "Direction",
    "FirstOrderRadio",
    "Framing",
    "LoraRadio",
    "Phase",
    "Planned",
    "Radio",
    "RadioWarning",
    "RoundEnergy",
    "ShannonRadio",
    "StateRadio",
    "ThroughputRadio",
    "Transfer",
    "binary_entropy",
    "core_network_j",
    "index_bits",
    "load_radio",
    "marginal_bits",
    "marginal_index_bits",
    "parse_radio",
    "payload_bits",
    "profile_radio",
    "radio_names",
    "round_energy",
    "schedule_energy",
]
