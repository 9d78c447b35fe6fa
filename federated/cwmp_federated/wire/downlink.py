"""The way down, sparse: clients that know an earlier model get what changed since, in the same code as their updates.

`union` sends all that changed. `selected` sends of it what is worth most, like a client on the way up, and what is held back stays
in the difference between the server's model and the public one: error feedback of the server.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor

from cwmp_federated.wire import records as wire
from cwmp_federated.wire.keys import BASE, INITIAL, VERSION
from cwmp_federated.wire.records import VALUE_FORMATS
from cwmp_federated.wire.state import State
from cwmp_selector.update import SparseUpdate

Choose = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""From a difference by parameter name to the flat positions to send."""


class Downlink:
    """What clients know of the server's model.

    The public model is what every client that kept up holds, bit for bit. What rounding held back stays in the difference
    to the server's model and goes along when the entry changes next.

    Attributes:
        public: The public model.
        version: Its version, counted from 0.
        versions: Version by node that last replied.
        payloads: Encoded changes by the version that they lead to.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        value_bits: int,
        *,
        buffers: Collection[str] | None = None,
        choose: Choose | None = None,
        initial: str = "",
    ) -> None:
        """See the class.

        Args:
            shapes: Trainable parameters, in order.
            value_bits: Bits of a value that is sent, 16 or 32.
            buffers: Buffers that travel; None takes all that is no parameter.
            choose: Chooses what to send of the difference between the two models; None sends what changed.
            initial: Digest of the weights that the run starts from, where clients can draw them too; empty sends them.
        """
        self._named = buffers
        self._choose, self._initial = choose, initial
        self._shapes, self._format = dict(shapes), VALUE_FORMATS[value_bits]
        self.public: State = OrderedDict()
        self.version = 0
        self.versions: dict[int, int] = {}
        self.payloads: dict[int, bytes] = {}
        self._strangers: set[int] = set()
        self._previous: State = OrderedDict()
        self._whole = ArrayRecord()
        self._buffers = b""

    def publish(self, model: State) -> None:
        """Bring the public model up to the server's where that changed since the last call."""
        if not self.public:
            self.public = OrderedDict((name, tensor.clone()) for name, tensor in model.items())
        else:
            self._advance(model)
        self._previous = OrderedDict((name, tensor.clone()) for name, tensor in model.items())
        self._whole = wire.to_record(self.public)

    def shorten(self, message: Message) -> None:
        """Replace the model in a message by the changes that its node lacks, where they are fewer bytes."""
        config = ConfigRecord({**wire.config_of(message), VERSION: self.version})
        node = message.metadata.dst_node_id
        held = self.versions.get(node)
        if held is None and self._initial and node not in self._strangers:
            held, config[INITIAL] = 0, self._initial
        missing = range(held + 1, self.version + 1) if held is not None else range(0)
        parts = {
            f"{version:09d}": wire.opaque(self.payloads[version]) for version in missing if version in self.payloads
        }
        size = sum(len(array.data) for array in parts.values()) + len(self._buffers)
        dense = sum(4 * tensor.numel() for tensor in self.public.values())
        if held is None or len(parts) != len(missing) or size >= dense:
            message.content = RecordDict({wire.ARRAYS: self._whole, wire.CONFIG: config})
        else:
            config[BASE] = held
            if self._buffers:
                parts[wire.BUFFERS] = wire.opaque(self._buffers)
            message.content = RecordDict({wire.UPDATE: ArrayRecord(OrderedDict(parts)), wire.CONFIG: config})

    def acknowledge(self, accepted: Iterable[int], left_out: Iterable[int]) -> None:
        """Note who holds the public model now; whoever failed gets it whole next time."""
        for node in accepted:
            self.versions[node] = self.version
        for node in left_out:
            self.versions.pop(node, None)
            self._strangers.add(node)

    def _advance(self, model: State) -> None:
        if self._choose is not None:
            indices = self._choose({name: model[name] - self.public[name] for name in self._shapes})
        else:
            indices = {name: (model[name] != self._previous[name]).view(-1).nonzero().view(-1) for name in self._shapes}
        values = {
            name: model[name].reshape(-1)[moved] - self.public[name].reshape(-1)[moved]
            for name, moved in indices.items()
        }
        update = SparseUpdate(
            indices=indices, values=values, shapes=self._shapes, value_formats=dict.fromkeys(self._shapes, "float32")
        ).quantized(self._format)
        payload = update.to_bytes()
        SparseUpdate.from_bytes(payload, self._shapes).apply_to(self.public)
        for name, tensor in model.items():
            if name not in self._shapes:
                self.public[name] = tensor.clone()
        self._buffers = wire.buffers_to_bytes(
            {
                n: t
                for n, t in self.public.items()
                if n not in self._shapes and (self._named is None or n in self._named)
            }
        )
        self.version += 1
        self.payloads[self.version] = payload
        self._forget()

    def _forget(self) -> None:
        """Drop changes so old that the model itself is shorter than what leads up from them."""
        dense, total = sum(4 * tensor.numel() for tensor in self.public.values()), 0
        for version in sorted(self.payloads, reverse=True):
            total += len(self.payloads[version])
            if total > dense:
                del self.payloads[version]

    def save(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Return what a checkpoint needs: JSON and tensors."""
        facts = {
            "version": self.version,
            "versions": {str(node): version for node, version in self.versions.items()},
            "payloads": sorted(self.payloads),
            "strangers": sorted(self._strangers),
        }
        tensors = {f"public/{name}": tensor for name, tensor in self.public.items()}
        tensors |= {f"previous/{name}": tensor for name, tensor in self._previous.items()}
        for version, payload in self.payloads.items():
            tensors[f"payload/{version}"] = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        return facts, tensors

    def load(self, facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `save` returned."""
        self.version = int(facts["version"])
        self.versions = {int(node): int(version) for node, version in facts["versions"].items()}
        self._strangers = {int(node) for node in facts.get("strangers", ())}
        self.payloads = {int(v): tensors[f"payload/{v}"].numpy().tobytes() for v in facts["payloads"]}
        for target, prefix in ((self.public, "public/"), (self._previous, "previous/")):
            target.update({n.removeprefix(prefix): t.clone() for n, t in tensors.items() if n.startswith(prefix)})
