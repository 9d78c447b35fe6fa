"""Joules of layers that others read, regressed by family: cross-validated over shapes, and three whole networks predicted.

    python benchmarks/operators_of_others.py --data DIR

DIR holds W. Cunningham's readings (github.com/willowec/characterizing-pytorch-power, MIT; the folder that has `out` and `nets`):
RAPL joules of 3,000 layers on a two-socket Broadwell, forward and backward (loss, backward and an SGD step with momentum), and of
three networks at batch 512. None of it is ours, so nothing of it is in this repository.

Printed per layer: mean absolute error of fits that never saw the shape (ten parts), beside physics alone, beside the same trees on
the logarithms of bare shapes, and beside what the counter's own edges leave uncertain: RAPL counts once a millisecond, so a hundred
windows of half a millisecond know their mean to 10% and no better. Then each network from the layers: what a profile would say of it
(no joules, where more than a tenth of it lies outside of what was measured), and beside it, in brackets, what comes out if its fits are
carried on all the same, with its error in seconds beside that in joules (an error that both share is of kernels, not of power), and
what each kind of work is thought to take. A network's reading in which a counter wrapped is left out by name; what it was if the
counter wrapped once is told beside. How far layers carry beyond their shapes is tried on the layers themselves: fits to
small ones predict those that are more than twice as wide on both sides. Readings that no work can have are left out and named.
Four minutes.

Wanted: linear at most 7%, convolution and pooling at most 12% (a whole layer: forward and backward), networks within 15%, in brackets too.
Exit status 1 if any is missed.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from networks_of_others import Layer, layers_of

from cwmp_costmodels.errors import FitError
from cwmp_costmodels.operators.family import FamilyModel, fit_family
from cwmp_costmodels.operators.sample import Sample
from cwmp_costmodels.operators.step import StepPrediction, predict_step

LAYERS = Path("out/broadwell-ep-2025-05-05T11-01-26")
WANTED = {"linear": 0.07, "conv": 0.12, "pool": 0.12}
NETWORKS = ("alexnet", "mobilenet_v3_small", "resnet18")
WANTED_NETWORK = 0.15
PASSES = {"forward": "for", "backward": "back"}

WINDOWS = 5 * 10 * 2
"""Batches, repeats and sockets that a layer's reading is the mean of."""

NETWORK_WINDOWS = 98 * 2
"""Batches of an epoch of 50,000 images, and sockets, that a network's reading is the mean of."""

UPDATE_S = 1e-3
"""Time between updates of a RAPL counter."""

WRAP_J = 2**32 * 2.0**-14
"""A package counter of this processor wraps here."""

SMALL = {"linear": (128, 128), "conv": (4, 16)}
"""Most channels in and out of the layers that wider ones are predicted from."""

ENTRY = 4
TILE = 16
"""Entries of two vector registers, which kernels work by."""


@dataclass(frozen=True, slots=True)
class Row:
    """One layer with joules and seconds by pass; a pass that was not read is absent."""

    layer: Layer
    joules: Mapping[str, float]
    seconds: Mapping[str, float]


def read_rows(folder: Path, kind: str) -> tuple[list[Row], list[str]]:
    """Return the layers of a kind, and what was left out and why."""
    rows: list[Row] = []
    left_out: list[str] = []
    with (folder / LAYERS / f"{kind}.csv").open(newline="") as file:
        for number, told in enumerate(csv.DictReader(file), start=2):
            # No backward pass of a pool was run: the zeros in the file are no readings.
            passes = {name: short for name, short in PASSES.items() if kind != "pool" or name == "forward"}
            joules = {name: float(told[f"{short}_energy"]) / 1e6 for name, short in passes.items()}
            seconds = {name: float(told[f"{short}_time"]) / 1e6 for name, short in passes.items()}
            wrong = [wrapped(f"{kind}.csv line {number}", name, value, WINDOWS) for name, value in joules.items()]
            left_out += [reason for reason in wrong if reason]
            if not any(wrong):
                rows.append(Row(layer_of(kind, told), joules, seconds))
    return rows, left_out


def wrapped(where: str, name: str, joules: float, windows: int) -> str:
    """Return why a reading is none, or ""."""
    if joules > 0:
        return ""
    return f"{where} {name}: {joules:.6g} J, a counter wrapped in one of {windows} windows (a wrap is {-WRAP_J / windows:.6g} J of their mean)"


def layer_of(kind: str, told: Mapping[str, str]) -> Layer:
    size = {name: int(value) for name, value in told.items() if not name.endswith(("energy", "time"))}
    batch = size["batch_size"]
    if kind == "linear":
        return Layer(kind=kind, batch=batch, channels=size["in_size"], out=size["out_size"])
    channels = size["in_chan"]
    side = size.get("side_len", size.get("im_side_length", 1))
    kernel = size.get("k_size", size.get("k_side_length", 1))
    out = size.get("out_chan", channels)
    return Layer(
        kind=kind, batch=batch, channels=channels, out=out, side=side, kernel=kernel, stride=size["stride"], first=True
    )


def sample(layer: Layer, direction: str, joules: float | None = None, noise: float = 0.0) -> Sample:
    """Return a layer's pass as the product of matrices that it is: rows, inner and outer size, columns gathered for it."""
    image = layer.batch * layer.channels * layer.side**2
    rows = layer.batch * layer.side_out**2
    result, window = rows * layer.out, layer.kernel**2
    logs = {
        "batch": layer.batch,
        "side": layer.side,
        "side_out": layer.side_out,
        "kernel": layer.kernel,
        "stride": layer.stride,
        "rows": rows,
        "outer": layer.out,
        "image": image,
        "result": result,
    }
    counts: dict[str, float] = {"call": 1.0, "read": ENTRY * image, "written": ENTRY * result}
    fills: dict[str, float] = {}
    if layer.kind == "pool":
        logs |= {"channels": layer.channels, "compared": result * window}
        # Rows of a window are compared side by side where they lie so; what is compared is what counts.
        counts |= {"compared": result * window, "window_rows": result * layer.kernel}
    else:
        inner = layer.channels * window
        weights = inner * layer.out
        tiles = math.ceil(layer.out / TILE) * TILE
        logs |= {
            "channels": layer.channels,
            "inner": inner,
            "weights": weights,
            "products": rows * weights,
            "columns": rows * inner,
        }
        fills = {
            "outer_fill": layer.out / tiles,
            "channels_fill": layer.channels / (math.ceil(layer.channels / 8) * 8),
            "inner_fill": inner / (math.ceil(inner / TILE) * TILE),
            "rows_fill": rows / (math.ceil(rows / TILE) * TILE),
        }
        counts |= {"product": rows * weights, "tiled": rows * inner * tiles, "weights": ENTRY * weights}
        if window > 1:
            counts["columns"] = ENTRY * rows * inner
        if direction == "backward":
            # Loss: two read, one written, one read for the mean; its gradient: two read, one written; the bias reads one more. The
            # result's own bytes go along with these, so that one price is told of all of them and not a share of it by chance.
            counts["stream"] = 8 * ENTRY * result + counts.pop("written")
    return Sample(
        family=f"{layer.kind} {direction}",
        features={f"log_{name}": math.log2(value) for name, value in logs.items()} | fills,
        counts=counts,
        value=joules,
        noise=noise,
        label=f"{layer.kind} {layer.batch}x{layer.channels}x{layer.side} to {layer.out}, {layer.kernel}/{layer.stride}",
    )


def counter_noise(seconds: float) -> float:
    """Return the relative standard deviation of a mean over windows whose ends fall anywhere between two updates of a counter."""
    ticks = seconds / UPDATE_S
    part = ticks - math.floor(ticks)
    return math.sqrt(part * (1 - part) / WINDOWS) / ticks


def bare(sample: Sample) -> Sample:
    """Return a sample without physics: the logarithms of its shape against the logarithm of its joules."""
    shape = ("batch", "side", "kernel", "stride", "outer", "channels")
    features = {name: value for name, value in sample.features.items() if name.removeprefix("log_") in shape}
    return replace(sample, features=features, counts={"call": 1.0})


def judge(kind: str, rows: Sequence[Row]) -> tuple[dict[str, FamilyModel], bool]:
    """Fit each pass of a kind, print held-out errors, and return the models and whether the whole layer is as wanted."""
    models: dict[str, FamilyModel] = {}
    held: dict[str, np.ndarray] = {}
    for direction in rows[0].joules:
        noise = [counter_noise(row.seconds[direction]) for row in rows]
        samples = [sample(row.layer, direction, row.joules[direction], n) for row, n in zip(rows, noise, strict=True)]
        model = fit_family(samples)
        plain = fit_family([bare(one) for one in samples])
        models[f"{kind} {direction}"] = model
        held[direction] = np.array(model.held_out.predicted)
        read = np.array([row.joules[direction] for row in rows])
        found = model.predict_all(samples)
        physics = np.mean([abs(model.prior.value(one) / value - 1) for one, value in zip(samples, read, strict=True)])
        width = np.median([one.high / one.value - 1 for one in found])
        print(
            f"  {kind:<7} {direction:<9} {len(rows):4} shapes  error {model.mean_abs_error:6.1%}   physics alone {physics:6.1%}   "
            f"bare shapes {plain.mean_abs_error:6.1%}   counter's edges {np.mean(noise) * math.sqrt(2 / math.pi):5.1%}   "
            f"95% interval +{width:.0%}"
        )
    total = np.array([sum(row.joules.values()) for row in rows])
    error = float(np.mean(np.abs(sum(held.values()) / total - 1)))
    ok = error <= WANTED[kind]
    print(
        f"  {kind:<7} layer     {len(rows):4} shapes  error {error:6.1%}   wanted {WANTED[kind]:.0%}   {'ok' if ok else 'MISSED'}"
    )
    return models, ok


def network_samples(layers: Sequence[Layer], direction: str) -> list[tuple[Sample, float]]:
    """Return what a pass of a network is made of, kinds that no layer was read for among them.

    A gradient of an input multiplies as the forward pass of the transposed layer does; the readings of layers hold none, because
    nothing came before them.
    """
    parts: list[tuple[Sample, float]] = []
    for layer in layers:
        if layer.kind in ("linear", "conv"):
            parts.append((sample(layer, direction), 1.0))
            if direction == "backward" and not layer.first:
                side = (
                    layer.side_out + layer.kernel - 1
                    if layer.stride == 1
                    else layer.side_out * layer.stride + layer.kernel - 1
                )
                across = replace(layer, channels=layer.out, out=layer.channels, side=side, stride=1)
                parts.append((sample(across, "forward"), (layer.side_out / across.side_out) ** 2))
        elif layer.kind == "pool" and direction == "forward":
            parts.append((sample(layer, direction), 1.0))
        else:
            family = f"{layer.kind} {direction}"
            parts.append((Sample(family=family, features={}, counts={"call": 1.0}, label=family), 1.0))
    return parts


def streamed_bytes(layers: Sequence[Layer], direction: str) -> float:
    """Return the bytes of everything that no layer was read for: activations, norms, sums, depthwise convolutions, pools backward."""
    total = 0.0
    for layer in layers:
        image, result = (layer.batch * n * s**2 for n, s in ((layer.channels, layer.side), (layer.out, layer.side_out)))
        if layer.kind == "stream":
            total += ENTRY * image * (layer.forward_passes if direction == "forward" else layer.backward_passes)
        elif layer.kind == "depthwise":
            total += ENTRY * (image + result) * (1 if direction == "forward" else 2)
        elif layer.kind == "pool" and direction == "backward":
            total += ENTRY * (2 * image + 3 * result)
    return total


def carry(folder: Path) -> None:
    """Print how fits to small layers predict wide ones: what a network, wider still, can expect of layers."""
    print("\nbeyond their shapes: layers more than twice as wide on both sides, from small ones")
    for kind, (channels, out) in SMALL.items():
        rows, _ = read_rows(folder, kind)
        small = [row for row in rows if row.layer.channels <= channels and row.layer.out <= out]
        wide = [row for row in rows if row.layer.channels > 2 * channels and row.layer.out > 2 * out]
        for direction in PASSES:
            model = fit_family([sample(row.layer, direction, row.joules[direction]) for row in small])
            found = model.predict_all([sample(row.layer, direction) for row in wide])
            ratio = np.array([one.value / row.joules[direction] for one, row in zip(found, wide, strict=True)])
            print(
                f"  {kind:<7} {direction:<9} {len(small):4} small, {len(wide):4} wide   error {np.mean(np.abs(ratio - 1)):6.1%}   "
                f"in the mean {np.mean(ratio - 1):+6.1%}"
            )


def parts_of(layers: Sequence[Layer], direction: str, models: Mapping[str, FamilyModel]) -> dict[str, float]:
    """Return joules (or seconds, as the models are) of a pass by kind of work, extrapolated without a word of doubt."""
    parts: dict[str, float] = {}
    for one, times in network_samples(layers, direction):
        if one.family in models:
            kind = one.family.split()[0] + (" to inputs" if one.family.split()[1] != direction else "")
            parts[kind] = parts.get(kind, 0.0) + times * models[one.family].predict(one).value
    per_byte = models["conv backward"].prior.per_count["stream"]
    return parts | {"never read": per_byte * streamed_bytes(layers, direction)}


def said(step: StepPrediction, never_read: float) -> str:
    """Return what a profile says of a pass, in words."""
    share = (step.outside_share * step.value + never_read) / (step.value + never_read)
    kinds = ", ".join(sorted({name.split()[0] for name in step.unknown}))
    why = f"{share:.0%} of it outside of the layers' shapes" + (f" or of kinds never read ({kinds})" if kinds else "")
    if not step.claimed:
        return f"no estimate: {why}"
    return f"{step.value:.2f} J ({step.low:.2f} to {step.high:.2f}); {why}"


def judge_networks(folder: Path, models: Mapping[str, FamilyModel], timed: Mapping[str, FamilyModel]) -> bool:
    """Predict the networks and print them; True if all that were read are within what is wanted."""
    ok = True
    per_byte = models["conv backward"].prior.per_count["stream"]
    print(
        f"\nnetworks from layers. [In brackets: no estimate but fits carried on beyond what they saw; what no layer was read for "
        f"(activations, norms, sums, depthwise convolutions, pools backward, dropout) streams at {per_byte * 1e9:.2f} nJ/B, as a loss and "
        "its gradient do]"
    )
    for name in NETWORKS:
        told = json.loads((folder / "nets/out" / f"broadwell-ep_{name}.json").read_text())
        layers = layers_of(name, told["batch_size"], told["im_side_len"])
        both: list[tuple[float, float]] = []
        for direction in PASSES:
            read, read_s = (told[f"{direction}_{what}"][0] / 1e6 for what in ("energy", "time"))
            parts, parts_s = parts_of(layers, direction, models), parts_of(layers, direction, timed)
            predicted, predicted_s = sum(parts.values()), sum(parts_s.values())
            step = predict_step(network_samples(layers, direction), models)
            reason = wrapped(f"{name}", direction, read, NETWORK_WINDOWS)
            print(
                f"  {name:<20} {direction:<9} read {'':>7}   left out: {reason}"
                if reason
                else f"  {name:<20} {direction:<9} read {read:5.2f} J"
            )
            print(f"    a profile says {said(step, parts['never read'])}")
            if reason:
                once = read + WRAP_J / NETWORK_WINDOWS
                print(
                    f"    (had the counter wrapped once, {once:.2f} J, {once / read_s:.0f} W; no other number of wraps makes a power that a processor can have)"
                )
                read = once
            else:
                both.append((predicted, read))
                ok &= abs(predicted / read - 1) <= WANTED_NETWORK
            told_parts = ", ".join(f"{kind} {value:.2f}" for kind, value in parts.items() if value)
            print(
                f"    [extrapolated {predicted:.2f} J, {predicted / read - 1:+.1%}; {predicted_s:.3f} s where {read_s:.3f} s were read, "
                f"{predicted_s / read_s - 1:+.0%}; joules of {told_parts}]"
            )
        if len(both) == len(PASSES):
            print(f"  {name:<20} both      [{sum(p for p, _ in both) / sum(r for _, r in both) - 1:+.1%}]")
    return ok


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    folder = options.data / "src" if (options.data / "src").is_dir() else options.data
    if not (folder / LAYERS).is_dir():
        raise FitError(f"{folder} has no {LAYERS}; give the folder of the readings that has 'out' and 'nets'")
    models: dict[str, FamilyModel] = {}
    timed: dict[str, FamilyModel] = {}
    left_out: list[str] = []
    ok = True
    print("published readings, Broadwell-EP, joules per socket; held out by shape")
    for kind in WANTED:
        rows, lost = read_rows(folder, kind)
        left_out += lost
        own, good = judge(kind, rows)
        models |= own
        timed |= {
            f"{kind} {direction}": fit_family([sample(row.layer, direction, row.seconds[direction]) for row in rows])
            for direction in rows[0].joules
        }
        ok &= good
    print("\nleft out:")
    for reason in left_out:
        print(f"  {reason}")
    carry(folder)
    ok &= judge_networks(folder, models, timed)
    print("\nPASS" if ok else "\nMISSED")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
