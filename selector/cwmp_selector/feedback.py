"""Error feedback: what was not sent is not lost, it is added to the next gradients.

The residual after a selection is corrected gradients minus what the receiver decodes, so it holds the entries left out
and the rounding of the entries sent. `add` hands out the corrected gradients; the selector tells them what it sent, so
that `selector.select(feedback.add(gradients))` is all there is to write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from cwmp_profiler.kernels.compiled import available
from cwmp_profiler.kernels.scatter import add_at
from cwmp_selector.candidates import compiled as fast
from cwmp_selector.candidates.engines import WORTHWHILE
from cwmp_selector.candidates.floats import BITS_DTYPE
from cwmp_selector.candidates.gradients import FlatTensor, flatten, non_finite, refuse_non_finite
from cwmp_selector.errors import SelectionError
from cwmp_selector.update import SparseUpdate

_HALF = (torch.float16, torch.bfloat16)


class CorrectedGradients(Mapping[str, torch.Tensor]):
    """Gradients plus residual by name; `commit` tells the feedback what was sent of them.

    The tensors are the feedback's own memory: read them, do not write to them. They are good for one update.

    Attributes:
        dtypes: Type of each gradient as it came, in which its entries are sent; a residual may be wider.
        committed: Whether an update was sent of them.
    """

    def __init__(
        self, feedback: ErrorFeedback, tensors: dict[str, torch.Tensor], dtypes: Mapping[str, torch.dtype]
    ) -> None:
        self._feedback, self._tensors, self.dtypes, self.committed = feedback, tensors, dtypes, False

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def commit(self, update: SparseUpdate) -> None:
        """Subtract what was sent. `Selector.select` calls it; code that makes updates by other means calls it itself.

        Raises:
            SelectionError: If an update was committed before.
        """
        if self.committed:
            raise SelectionError("these corrected gradients were sent already: call feedback.add(gradients) anew")
        self.committed = True
        self._feedback.sent(update)


class ErrorFeedback:
    """Residuals by parameter name.

    Args:
        momentum: Momentum correction: what accumulates is a velocity u = momentum * u + g instead of the gradient
            (Lin et al., Deep Gradient Compression, ICLR 2018, section 3). 0 turns it off.
        masking: With momentum, set the velocity to zero where an entry was sent (section 3 there, "momentum factor
            masking"), so that stale momentum does not carry it on.

    The residual of a float16 or bfloat16 gradient is held in float32: small remainders would be rounded away.
    """

    def __init__(self, *, momentum: float = 0.0, masking: bool = False) -> None:
        if not 0.0 <= momentum < 1.0:
            raise SelectionError(f"momentum is {momentum}: give a number in [0, 1)")
        if masking and momentum == 0.0:
            raise SelectionError("masking works on the momentum: give momentum > 0 with it")
        self.momentum, self.masking = momentum, masking
        self._residual: dict[str, torch.Tensor] = {}
        self._velocity: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def add(self, gradients: Mapping[str, torch.Tensor]) -> CorrectedGradients:
        """Return gradients + residual, to be selected from.

        If nothing is committed afterwards, the gradients stay in the residual: nothing was sent, nothing is lost.

        Args:
            gradients: Gradients by parameter name. A name may come and go; its residual waits.

        Raises:
            SelectionError: If a gradient is NaN or infinite (the residual is untouched then), or has changed its shape.
        """
        layers = flatten(gradients)
        self._leave_inference_mode()
        for layer in layers:
            known = self._residual.get(layer.name)
            if known is not None and tuple(known.shape) != layer.shape:
                raise SelectionError(
                    f"gradient of {layer.name!r} has shape {layer.shape}, its residual {tuple(known.shape)}: "
                    "use a new ErrorFeedback for a new model"
                )
        if self._fast(layers):
            bad = fast.accumulate(
                [self._residual[layer.name].view(-1) for layer in layers], [layer.flat for layer in layers]
            )
            if bad is not None:
                raise non_finite(layers[bad])
        else:
            refuse_non_finite(layers)
            for layer in layers:
                self._accumulate(layer.name, layer.flat.view(layer.shape))
        return self.rest({layer.name: layer.flat.dtype for layer in layers})

    @torch.no_grad()
    def add_at(
        self, indices: Mapping[str, torch.Tensor], changes: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Add the changes of some entries, where no other changed, and return them with their residual: nothing else is read or written.

        Args:
            indices: Flat positions by parameter name, each at most once.
            changes: Change of every entry, by the same names; those at other positions are not looked at.

        Returns:
            Change plus residual at the positions, shape (positions,), by name; tell `sent` what was sent of them.
        """
        if self.momentum:
            raise SelectionError("momentum moves every entry: use add(gradients)")
        self._leave_inference_mode()
        found = {}
        for name, index in indices.items():
            change = changes[name]
            if name not in self._residual:
                self._residual[name] = torch.zeros_like(change, memory_format=torch.contiguous_format)
            flat = self._residual[name].view(-1)
            found[name] = flat[index] + change.reshape(-1)[index]
            flat[index] = found[name]
        return found

    def rest(self, dtypes: Mapping[str, torch.dtype]) -> CorrectedGradients:
        """Return what is left to send of some parameters, to be selected from without new gradients.

        Args:
            dtypes: Names, and the types in which their entries are sent.

        Raises:
            SelectionError: If no gradient of a name was ever added.
        """
        return CorrectedGradients(self, {name: self.residual(name) for name in dtypes}, dtypes)

    def _fast(self, layers: list[FlatTensor]) -> bool:
        """Return whether the compiled pass serves: a plain sum, residuals there, one type, and enough of it."""
        return (
            not self.momentum
            and sum(layer.numel for layer in layers) >= WORTHWHILE
            and all(layer.name in self._residual for layer in layers)
            and all(
                layer.flat.device.type == "cpu" and layer.flat.dtype == self._residual[layer.name].dtype
                for layer in layers
            )
            and available()
        )

    def _accumulate(self, name: str, gradient: torch.Tensor) -> None:
        dtype = torch.float32 if gradient.dtype in _HALF else gradient.dtype
        if self.momentum:
            velocity = self._velocity.get(name)
            if velocity is None:
                self._velocity[name] = gradient.to(dtype, copy=True)
            else:
                velocity.mul_(self.momentum).add_(gradient)
            gradient = self._velocity[name]
        residual = self._residual.get(name)
        if residual is None:
            self._residual[name] = gradient.to(dtype, copy=True)
        else:
            residual.add_(gradient)

    @torch.no_grad()
    def sent(self, update: SparseUpdate) -> None:
        """Subtract a sent update from the residual, values as the receiver decodes them."""
        for name, index in update.indices.items():
            if not index.numel():
                continue
            add_at(self._residual[name], index, update.values[name], -1.0)
            if self.masking:
                self._velocity[name].view(-1)[index] = 0

    @torch.no_grad()
    def give_back(self, update: SparseUpdate) -> None:
        """Add an update to the residual again that never arrived (a lost packet, a client dropped from the round)."""
        update.apply_to(self._residual)

    @torch.no_grad()
    def scale_by(self, factor: float) -> None:
        """Multiply everything that waits, as when a gradient scaler changes the unit that gradients come in."""
        for tensor in (*self._residual.values(), *self._velocity.values()):
            tensor.mul_(factor)

    def _leave_inference_mode(self) -> None:
        """Take copies of what was made in `torch.inference_mode`, which may not be changed outside of it."""
        if torch.is_inference_mode_enabled():
            return
        for held in (self._residual, self._velocity):
            for name, tensor in held.items():
                if tensor.is_inference():
                    held[name] = tensor.clone()

    def residual(self, name: str) -> torch.Tensor:
        """Return the residual of a parameter, of its shape.

        Raises:
            SelectionError: If no gradient of that name was ever added.
        """
        if name not in self._residual:
            raise SelectionError(
                f"no residual for {name!r}: gradients were added for {', '.join(list(self._residual)[:4]) or 'nothing'}"
            )
        return self._residual[name]

    def state_dict(self) -> dict[str, Any]:
        """Return options, residuals and velocities, to be saved with `torch.save`. Tensors are not copied."""
        return {
            "momentum": self.momentum,
            "masking": self.masking,
            "residual": dict(self._residual),
            "velocity": dict(self._velocity),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state from `state_dict`; tensors are copied.

        Raises:
            SelectionError: If the state is not one of this class, or holds unusable tensors.
        """
        missing = {"momentum", "masking", "residual", "velocity"} - set(state)
        if missing:
            raise SelectionError(
                f"state has no {', '.join(sorted(missing))}: pass what ErrorFeedback.state_dict() returned"
            )
        for name, tensor in (*state["residual"].items(), *state["velocity"].items()):
            if not isinstance(tensor, torch.Tensor) or tensor.dtype not in BITS_DTYPE:
                raise SelectionError(
                    f"state of {name!r} is no float tensor: pass what ErrorFeedback.state_dict() returned"
                )
        self.momentum, self.masking = float(state["momentum"]), bool(state["masking"])
        self._residual = {name: t.detach().clone().contiguous() for name, t in state["residual"].items()}
        self._velocity = {name: t.detach().clone().contiguous() for name, t in state["velocity"].items()}
