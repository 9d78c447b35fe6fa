"""What travels between server and clients, with nothing trusted on the way in."""

from __future__ import annotations

from typing import Any

from cwmp_profiler.moved import hand_on

HOMES = {
    "LEDGER": "records",
    "LEDGER_FIELDS": "records",
    "LOSS_NAMES": "records",
    "NUM_EXAMPLES": "records",
    "Report": "records",
    "STYPE": "records",
    "WHOLE_FIELDS": "records",
    "arrays_key": "records",
    "arrays_of": "records",
    "buffers_from_bytes": "records",
    "buffers_to_bytes": "records",
    "config_key": "records",
    "config_of": "records",
    "opaque": "records",
    "opaque_bytes": "records",
    "read_report": "records",
    "real": "records",
    "report_records": "records",
    "to_record": "records",
    "to_state": "records",
    "whole": "records",
}
"""Public names of this room and the modules that hold them."""


def __getattr__(name: str) -> Any:
    return hand_on(__name__, HOMES, name)
