"""Ten attacks by one client on fleets of 2, 3 and 10: who is named, whether the model stays finite, what it learns.

    python benchmarks/hostile_clients.py [--rounds 6]

Digits, a small network with batch norm, IID, Top-K's and CWMP's common code, this process as grid. `named`: rounds in
which the attacker, and nobody else, was left out or scaled down, of those in which it attacked. `accuracy`: after the last
round, beside that of the same run without the attacker. The exit status is 1 if a model is not finite or an honest client was named.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import statistics
import struct
import sys
import zlib
from collections.abc import Callable
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message
from torch import nn

from cwmp_federated.client.app import app
from cwmp_federated.client.node import round_of
from cwmp_federated.client.setup import make_setup
from cwmp_federated.grid import FIRST_NODE_ID, LocalGrid
from cwmp_federated.records.config import RunConfig
from cwmp_federated.server.run import RunResult, Server, averaging
from cwmp_federated.wire import flower
from cwmp_federated.wire import records as wire
from cwmp_federated.wire.state import parameter_shapes
from cwmp_selector.update import SparseUpdate

BAD = 1
FLEETS = (2, 3, 10)


def digits_net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))


class _Attacker:
    """Changes an honest reply; remembers what it has seen."""

    def __init__(self, config: RunConfig) -> None:
        self.shapes = parameter_shapes(make_setup(config).model)
        self.first: dict[str, Any] = {}

    def update(self, reply: Message) -> SparseUpdate:
        return SparseUpdate.from_bytes(reply.content.array_records[wire.UPDATE][wire.PAYLOAD].data, self.shapes)

    def put(self, reply: Message, payload: bytes | None = None, buffers: bytes | None = None) -> None:
        arrays = dict(reply.content.array_records[wire.UPDATE])
        if payload is not None:
            arrays[wire.PAYLOAD] = wire.opaque(payload)
        if buffers is not None:
            arrays[wire.BUFFERS] = wire.opaque(buffers)
        reply.content[wire.UPDATE] = ArrayRecord(arrays)

    def send(self, reply: Message, update: SparseUpdate) -> None:
        payload = update.to_bytes()
        self.put(reply, payload)
        say(reply, payload_bytes=len(payload), kept=sum(update.kept.values()))
        say(reply, bytes_up=flower.message_bytes(reply))

    def scaled(self, reply: Message, factor: float) -> None:
        update = self.update(reply)
        values = {name: (value.float() * factor).clamp(-6e4, 6e4) for name, value in update.values.items()}
        self.send(reply, dataclasses.replace(update, values=values).quantized("float16"))

    def garbage(self, reply: Message, _round: int) -> None:
        size = len(reply.content.array_records[wire.UPDATE][wire.PAYLOAD].data)
        self.put(reply, os.urandom(size))

    def nan_forged(self, reply: Message, _round: int) -> None:
        data = reply.content.array_records[wire.UPDATE][wire.PAYLOAD].data
        content = bytearray(data[17:])
        content[-2:] = struct.pack("<e", float("nan"))
        check = struct.pack("<I", zlib.crc32(bytes(content), zlib.crc32(data[5:13], 1)))
        self.put(reply, data[:13] + check + bytes(content))

    def huge(self, reply: Message, _round: int) -> None:
        self.scaled(reply, 1e6)

    def growing(self, reply: Message, round_: int) -> None:
        self.scaled(reply, 10.0 * 3.0**round_)

    def reversed_sign(self, reply: Message, _round: int) -> None:
        self.scaled(reply, -40.0)

    def bad_variance(self, reply: Message, _round: int) -> None:
        data = reply.content.array_records[wire.UPDATE][wire.BUFFERS].data
        self.put(reply, buffers=data[:8] + struct.pack(f"<{(len(data) - 8) // 4}f", *[-1.0] * ((len(data) - 8) // 4)))

    def huge_buffers(self, reply: Message, _round: int) -> None:
        data = reply.content.array_records[wire.UPDATE][wire.BUFFERS].data
        self.put(reply, buffers=data[:8] + struct.pack(f"<{(len(data) - 8) // 4}f", *[1e30] * ((len(data) - 8) // 4)))

    def heavy(self, reply: Message, _round: int) -> None:
        reply.content.metric_records[wire.METRICS][wire.NUM_EXAMPLES] = 900_000

    def replayed(self, reply: Message, round_: int) -> None:
        if round_ == 1:
            self.first = dict(reply.content)
            return
        for key, record in self.first.items():
            reply.content[key] = record
        say(reply, round=round_)

    def other_client(self, reply: Message, _round: int) -> None:
        say(reply, client=0)


ATTACKS: dict[str, tuple[Callable[[_Attacker, Message, int], None], int]] = {
    "random bytes": (_Attacker.garbage, 1),
    "NaN, checksum forged": (_Attacker.nan_forged, 1),
    "update x 1,000,000": (_Attacker.huge, 1),
    "update x 10 x 3^round": (_Attacker.growing, 1),
    "update x -40": (_Attacker.reversed_sign, 1),
    "variance below 0": (_Attacker.bad_variance, 1),
    "buffers of 1e30": (_Attacker.huge_buffers, 1),
    "claims 900,000 images": (_Attacker.heavy, 1),
    "replays its first reply": (_Attacker.replayed, 2),
    "says it is another client": (_Attacker.other_client, 2),
}
"""Attack, and the round of its start."""


def say(reply: Message, **numbers: float) -> None:
    record = reply.content.metric_records[wire.METRICS]
    ledger = list(record[wire.LEDGER])
    for name, value in numbers.items():
        ledger[wire.LEDGER_FIELDS.index(name)] = float(value)
    record[wire.LEDGER] = ledger


def run(config: RunConfig, change: Callable[[Message, int], Message]) -> RunResult:
    def call(message: Message, context: Context) -> Message:
        reply = app(message, context)
        return change(reply, round_of(message)) if context.node_config["partition-id"] == BAD else reply

    grid = LocalGrid(call, config.clients, config.to_run_config())
    return Server(make_setup(config), inner=averaging(config), grid=grid).run(grid)


def absent(reply: Message, _round: int) -> Message:
    reply.content.clear()
    return reply


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    rounds = parser.parse_args().rounds
    logging.getLogger("flwr").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    bad = 0
    print("| attack | " + " | ".join(f"{n} clients: named, finite, accuracy (without)" for n in FLEETS) + " |")
    print("|---|" + "---|" * len(FLEETS))
    without: dict[int, float] = {}
    configs = {n: config_of(n, rounds) for n in FLEETS}
    for n, config in configs.items():
        without[n] = run(config, absent).history[-1]["accuracy"]
    for name, (attack, start) in ATTACKS.items():
        cells = []
        for n, config in configs.items():
            attacker = _Attacker(config)

            def change(
                reply: Message, round_: int, attacker: _Attacker = attacker, attack: Any = attack, start: int = start
            ) -> Message:
                if round_ >= start or attack is _Attacker.replayed:
                    attack(attacker, reply, round_)
                return reply

            result = run(config, change)
            named = [
                {out["node"] for kind in ("left_out", "clipped") for out in row[kind]} for row in result.history[1:]
            ]
            right = sum(found == {FIRST_NODE_ID + BAD} for found in named[start - 1 :])
            finite = result.model is not None and all(bool(torch.isfinite(t).all()) for t in result.model.values())
            bad += not finite or any(found - {FIRST_NODE_ID + BAD} for found in named)
            accuracy = result.history[-1]["accuracy"]
            cells.append(
                f"{right}/{rounds + 1 - start}, {'yes' if finite else 'NO'}, {accuracy:.2f} ({without[n]:.2f})"
            )
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print(f"\nmedian accuracy without the attacker {statistics.median(without.values()):.2f}; {bad} runs wrong")
    return 1 if bad else 0


def config_of(clients: int, rounds: int) -> RunConfig:
    return RunConfig(
        profile="simulated-board",
        budget="10%",
        rounds=rounds,
        clients=clients,
        partition="iid",
        train_limit=600,
        test_limit=400,
        residency="tensor",
        learning_rate=0.1,
        local_epochs=2,
        model="hostile_clients:digits_net",
    )


if __name__ == "__main__":
    sys.exit(main())
