"""Seeded random operands on a torch device: never zeros, since operand values change power, and the same in every session."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LOW, HIGH = 0.5, 1.5
"""Operands are uniform in this range: no denormals, no overflow, no zeros."""


class Operands:
    """Random tensors by name, allocated once and shared by the points of a session.

    Attributes:
        device: Torch device name.
        seed: Seed of all values.
    """

    def __init__(self, device: str, seed: int) -> None:
        self.device = device
        self.seed = seed
        self._buffers: dict[tuple[str, str], torch.Tensor] = {}

    def take(self, name: str, entries: int, dtype: str = "float32") -> torch.Tensor:
        """Return the first `entries` values of buffer `name` as a flat view; the buffer grows when more are asked for.

        Args:
            name: Which buffer; two names never overlap.
            entries: Values wanted.
            dtype: Torch name of the type.

        Returns:
            Tensor of shape (entries,), uniform in [0.5, 1.5).
        """
        import torch

        key = (name, dtype)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < entries:
            self._buffers.pop(key, None)
            generator = torch.Generator(device=self.device).manual_seed(self._seed_of(name, dtype))
            fresh = torch.empty(entries, device=self.device, dtype=torch.float32)
            fresh.uniform_(LOW, HIGH, generator=generator)
            buffer = fresh if dtype == "float32" else fresh.to(getattr(torch, dtype))
            self._buffers[key] = buffer
        return buffer[:entries]

    def positions(self, name: str, n: int, k: int, sets: int) -> list[torch.Tensor]:
        """Return `sets` uniform choices of k among n positions, without replacement, sorted.

        Args:
            name: Which choice; equal names give equal positions.
            n: Positions to choose from.
            k: Positions wanted, at most n.
            sets: Independent choices wanted.

        Returns:
            `sets` int64 tensors of shape (k,), ascending.
        """
        import torch

        generator = torch.Generator(device=self.device).manual_seed(self._seed_of(name, "positions"))
        return [self._choose(n, k, generator) for _ in range(sets)]

    def _choose(self, n: int, k: int, generator: torch.Generator) -> torch.Tensor:
        """Draw a few more than k, then drop the surplus at random; few positions by number, many by a mask over all n."""
        import torch

        share = k / n
        while True:
            if share < 0.05:
                draws = int(-n * math.log1p(-share) + 6 * math.sqrt(k) + 16)
                picked = torch.unique(torch.randint(n, (draws,), device=self.device, generator=generator))
            else:
                margin = share + 6 * math.sqrt(share * (1 - share) / n)
                drawn = torch.rand(n, device=self.device, generator=generator)
                picked = torch.nonzero(drawn <= margin).view(-1)
            if picked.numel() >= k:
                break
        keep = torch.ones(picked.numel(), dtype=torch.bool, device=self.device)
        keep[torch.randperm(picked.numel(), device=self.device, generator=generator)[k:]] = False
        chosen: torch.Tensor = picked[keep]
        return chosen

    def release(self) -> None:
        """Free all buffers."""
        self._buffers.clear()

    def _seed_of(self, name: str, dtype: str) -> int:
        text = f"{self.seed}/{name}/{dtype}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:6], "big")
