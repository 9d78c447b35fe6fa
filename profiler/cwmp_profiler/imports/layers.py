"""Counts of one layer from its shape, for tables that say what ran and not what it moved.

Every operand moves once; all of them live where the layer's whole working set fits. `train` is what follows the forward pass of a
layer that is trained alone: the gradient of the weights (and of the input, with `input_grad = 1`) and one step of SGD with momentum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cwmp_profiler.counts import Counts, add, blend, dense_update, stream
from cwmp_profiler.device_info import DeviceInfo
from cwmp_profiler.errors import SessionError

ENTRY_BYTES = 4
NEEDS: Mapping[str, tuple[str, ...]] = {
    "linear": ("batch", "inputs", "outputs"),
    "conv2d": ("batch", "inputs", "outputs", "side", "kernel", "stride"),
    "pool2d": ("batch", "inputs", "side", "kernel", "stride"),
}
"""Dimensions of each layer; `inputs` and `outputs` are features or channels."""

OPTIONAL: Mapping[str, float] = {"padding": 0.0, "input_grad": 0.0, "bias": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """Entries of a layer's operands and its operations per forward pass."""

    read: float
    written: float
    weights: float
    flops: float
    elements: float


def check_shape(layer: str, names: set[str]) -> None:
    """Refuse a shape that lacks a dimension or has an unknown one.

    Raises:
        SessionError: If so.
    """
    missing = [name for name in NEEDS[layer] if name not in names]
    unknown = sorted(names - set(NEEDS[layer]) - set(OPTIONAL))
    if missing or unknown:
        what = f"lacks {', '.join(missing)}" if missing else f"knows no {', '.join(unknown)}"
        known = ", ".join((*NEEDS[layer], *(f"[{name}]" for name in OPTIONAL)))
        raise SessionError(f"shape of {layer} {what}; give {known}")


def layer_counts(layer: str, phase: str, shape: Mapping[str, float], device: DeviceInfo) -> Counts:
    """Return the counts of one pass.

    Args:
        layer: `linear`, `conv2d` or `pool2d`.
        phase: `forward`, or `train` for backward and optimiser step.
        shape: Dimensions by name.
        device: Whose memory levels hold the operands.

    Raises:
        SessionError: If the shape is impossible.
    """
    full = {**OPTIONAL, **shape}
    for name, value in full.items():
        if value < 0 or (name in NEEDS[layer] and value < 1):
            raise SessionError(f"{layer} with {name} = {value:g} is no layer")
    sizes = _sizes(layer, full)
    footprint = ENTRY_BYTES * (sizes.read + sizes.written + sizes.weights)
    if phase == "forward":
        return _at(device, footprint, sizes.read + sizes.weights, sizes.written, sizes.flops, sizes.elements, 1.0)
    if layer == "pool2d" and not full["input_grad"]:
        raise SessionError("a pool without input_grad has no backward pass; map its forward pass only")
    grads = (1.0 if sizes.weights else 0.0) + full["input_grad"]
    read = grads * sizes.written + (sizes.read if sizes.weights else 0.0) + full["input_grad"] * sizes.weights
    written = sizes.weights + full["input_grad"] * sizes.read
    backward = _at(device, 2 * footprint, read, written, grads * sizes.flops, grads * sizes.elements, grads)
    if not sizes.weights:
        return backward
    n = int(sizes.weights)
    step = blend(
        device.shares_of(3.0 * n * ENTRY_BYTES),
        lambda level: dense_update(n, level, "momentum", processor_caches=device.processor_caches),
    )
    return add(backward, step)


def _sizes(layer: str, shape: Mapping[str, float]) -> _Sizes:
    batch, inputs = shape["batch"], shape["inputs"]
    if layer == "linear":
        outputs = shape["outputs"]
        return _Sizes(
            read=batch * inputs,
            written=batch * outputs,
            weights=(inputs + shape["bias"]) * outputs,
            flops=2.0 * batch * inputs * outputs,
            elements=0.0,
        )
    side, kernel = shape["side"], shape["kernel"]
    out_side = (side + 2 * shape["padding"] - kernel) // shape["stride"] + 1
    if out_side < 1:
        raise SessionError(f"{layer}: a kernel of {kernel:g} does not fit into a side of {side:g}")
    if layer == "pool2d":
        entries = batch * inputs * out_side**2
        return _Sizes(
            read=batch * inputs * side**2, written=entries, weights=0.0, flops=0.0, elements=entries * kernel**2
        )
    outputs = shape["outputs"]
    return _Sizes(
        read=batch * inputs * side**2,
        written=batch * outputs * out_side**2,
        weights=outputs * (inputs * kernel**2 + shape["bias"]),
        flops=2.0 * batch * outputs * out_side**2 * inputs * kernel**2,
        elements=0.0,
    )


def _at(
    device: DeviceInfo, footprint: float, read: float, written: float, flops: float, elements: float, launches: float
) -> Counts:
    moved = blend(
        device.shares_of(max(footprint, 1.0)),
        lambda level: stream(
            level, read_bytes=ENTRY_BYTES * read, written_bytes=ENTRY_BYTES * written, launches=launches
        ),
    )
    work: Counts = {}
    if flops:
        work["flop_float32"] = flops
    if elements:
        work["elem_float32"] = elements
    return add(moved, work)
