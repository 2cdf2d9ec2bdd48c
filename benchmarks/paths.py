"""How fast a path is evaluated: images times points in a second.

A straight path between two fresh networks, random images of CIFAR's size. Timed in one run, in
turn, medians of some repeats:

- *plain*: a module whose weights are loaded at every point, float32, a loop over batches;
- *along*: `toroid.along` as it stands;
- *channels last*: with ``channels_last=True``;
- *bfloat16*: with ``precision="bfloat16"`` as well;
- *points at once*: all points as one network of stacked tensors (`vmap`).

What counts is the ratio to *plain*, above 1 where it is faster. The peak is that of the machine's
own convolutions, measured in the same run: the fastest of some shapes of VGG16, in the precision of
the row. *error changes by* is the largest difference of the error from that of *plain*; the labels
are the predictions of the path's first network.

    python benchmarks/paths.py --networks vgg16 --images 500 --points 3
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import pandas as pd
import torch
import toroid
from torch.func import functional_call, vmap
from torch.utils.flop_counter import FlopCounterMode

NETWORKS = ["mlp", "lenet", "vgg16", "resnet18"]
SHAPES = [(64, 32), (128, 16), (256, 8), (512, 4)]  # channels, side


def clock(function, device, busy=False):
    """Seconds, of the processor if others are busy on the machine, and what was returned."""
    timer = time.process_time if busy else time.perf_counter
    start = timer()
    result = function()
    if device == "cuda":
        torch.cuda.synchronize()
    return timer() - start, result


def peak(precision, device, batch):
    """Operations in a second of the fastest convolution."""
    dtype = getattr(torch, precision)
    best = 0.0
    with torch.inference_mode():
        for channels, side in SHAPES:
            images = torch.randn(batch, channels, side, side, device=device, dtype=dtype)
            kernels = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
            placed = [x.contiguous(memory_format=torch.channels_last) for x in (images, kernels)]
            for x, w in ((images, kernels), placed):
                times = [
                    clock(lambda x=x, w=w: torch.conv2d(x, w, padding=1), device)[0]
                    for _ in range(7)
                ]
                best = max(best, 2 * 9 * channels**2 * side**2 * batch / min(times))
    return best


def plain(model, path, images, places, batch):
    """What one writes first: predictions at every point."""
    model, found = copy.deepcopy(model).eval(), []
    with torch.no_grad():
        for t in places:
            model.load_state_dict(path(t))
            found.append(torch.cat([model(x).argmax(1) for x in images.split(batch)]))
    return torch.stack(found)


def at_once(model, path, images, places, batch):
    model = copy.deepcopy(model).eval()
    states = [path(t) for t in places]
    stacked = {k: torch.stack([s[k] for s in states]) for k in states[0]}
    with torch.inference_mode():
        run = vmap(lambda state, x: functional_call(model, state, (x,)), in_dims=(0, None))
        return torch.cat([run(stacked, x).argmax(2) for x in images.split(batch)], 1)


def along(model, path, data, places, batch, **how):
    """The curve of `toroid.along`."""
    return toroid.along(path, model, data, points=places, batch_size=batch, **how)


def measure(architecture, arguments, peaks, device):
    """One row for each way."""
    torch.manual_seed(0)
    shape = (3, 32, 32)
    models = [
        toroid.models.build(architecture, shape, 10, arguments.width).to(device) for _ in "ab"
    ]
    images = torch.randn(arguments.images, *shape, device=device)
    path = toroid.Linear(*(m.state_dict() for m in models))
    places = torch.linspace(0, 1, arguments.points).tolist()
    shared = (path, images, places, arguments.batch)
    labels = plain(models[0], *shared)[0]  # right at the first point: errors count differences
    data = toroid.data.Dataset(images, labels, 10)
    ways = {
        "plain": lambda: plain(models[0], *shared),
        "along": lambda: along(models[0], path, data, places, arguments.batch),
        "channels last": lambda: along(
            models[0], path, data, places, arguments.batch, channels_last=True
        ),
        "bfloat16": lambda: along(
            models[0], path, data, places, arguments.batch, channels_last=True, precision="bfloat16"
        ),
        "points at once": lambda: at_once(models[0], *shared),
    }  # fmt: skip
    with FlopCounterMode(display=False) as counter:
        models[0](images[:1])
    work = counter.get_total_flops() * arguments.images * arguments.points
    seconds, errors = {}, {}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            took, found = clock(way, device)
            seconds.setdefault(name, []).append(took)
            is_curve = isinstance(found, toroid.Curve)
            errors[name] = (
                torch.tensor(found.error) if is_curve else (found != labels).double().mean(1).cpu()
            )
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        fastest = peaks["bfloat16" if name == "bfloat16" else "float32"]
        rows.append({
            "network": architecture, "way": name, "seconds": median,
            "images x points/s": arguments.images * arguments.points / median,
            "ratio": statistics.median(seconds["plain"]) / median,
            "GFLOP/s": work / median / 1e9, "of the peak": work / median / fastest,
            "error changes by": float((errors[name] - errors["plain"]).abs().max()),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--points", type=int, default=3)
    parser.add_argument("--batch", type=int, default=100, help="images at a time")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    peaks = {kind: peak(kind, device, arguments.batch) for kind in ("float32", "bfloat16")}
    print(
        f"{arguments.images} images, {arguments.points} points, {device}, torch {torch.__version__}"
    )
    print("peak of convolutions, GFLOP/s:", {k: round(v / 1e9, 1) for k, v in peaks.items()})
    rows = [row for name in arguments.networks for row in measure(name, arguments, peaks, device)]
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
