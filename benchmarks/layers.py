"""How near evaluation comes to its bound: the sum of each layer's own best time.

A fresh network and random images of CIFAR's size, in batches of `toroid.evaluate`'s size. Each
layer, with the BatchNorm and ReLU that follow it, is timed alone, on what it is given inside the
network, with numbers and weights in their precision and layout already. Ways, in turn in one run,
the best of some repeats:

- *outside*, *inside*: module after module, the channels outermost or innermost;
- *folded*: BatchNorm in the convolution's weights, ReLU in place;
- *fused*: that, with ReLU inside oneDNN's convolution (CPU);
- *blocked*: folded, images and kernels in the layout that oneDNN chooses (CPU).

The bound takes each layer's fastest; no network reaches it where these differ in layout, for a
change of layout is not counted. *evaluate* is a call of `toroid.evaluate`, per batch.

On a machine that others use as well, ``--busy`` counts the time of the processor and not that of
the clock; with more threads than one, set ``OMP_WAIT_POLICY=passive``, or waiting counts too. With
``THP_MEM_ALLOC_ENABLE=1`` torch asks Linux for large pages: much of what *evaluate* takes beyond
its layers is the clearing of small ones.

    OMP_NUM_THREADS=1 python benchmarks/layers.py --busy
"""

from __future__ import annotations

import argparse
import copy

import pandas as pd
import torch
import toroid
from paths import clock
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.mkldnn import to_mkldnn

LAYOUTS = {"outside": torch.contiguous_format, "inside": torch.channels_last}


def layers(model):
    """Modules, each with the BatchNorm and ReLU that follow it."""
    found = []
    for module in model.children():
        if isinstance(module, (nn.BatchNorm2d, nn.ReLU)):
            found[-1].append(module)
        else:
            found.append([module])
    return found


def folded(layer):
    """The same layer without BatchNorm, its ReLU in place."""
    first, *rest = copy.deepcopy(layer)
    for norm in (m for m in rest if isinstance(m, nn.BatchNorm2d)):
        first = fuse_conv_bn_eval(first, norm)
    return nn.Sequential(first, nn.ReLU(inplace=True))


def fused(layer, x):
    """A layer that `folded` returned, as one operation of oneDNN."""
    conv = layer[0]
    sizes = conv.padding, conv.stride, conv.dilation, conv.groups
    return lambda: torch.ops.mkldnn._convolution_pointwise(
        x, conv.weight, conv.bias, *sizes, "relu", [], ""
    )


def ways(layer, x, dtype):
    """By name: one layer's outputs, again."""
    rectified = isinstance(layer[0], nn.Conv2d) and isinstance(layer[-1], nn.ReLU)
    cpu = x.device.type == "cpu" and torch.backends.mkldnn.is_available()
    images, found = x.dim() == 4, {}
    for name, layout in LAYOUTS.items() if images else [("outside", torch.preserve_format)]:
        placed = x.to(dtype, memory_format=layout)
        modules = {name: nn.Sequential(*copy.deepcopy(layer))}
        if rectified:
            modules[f"{name}, folded"] = folded(layer)
        for way, module in modules.items():
            module.to(dtype, memory_format=layout)
            found[way] = lambda m=module, x=placed: m(x)
        if rectified and cpu:
            found[f"{name}, fused"] = fused(modules[f"{name}, folded"], placed)
    if cpu and images and (rectified or isinstance(layer[0], nn.MaxPool2d)):
        module = to_mkldnn(folded(layer) if rectified else nn.Sequential(*layer), dtype)
        blocked = x.to(dtype).to_mkldnn()
        found["blocked"] = lambda: module(blocked)
    return found


def measure(arguments, device):
    """Milliseconds: a row for each layer, a column for each way; and of whole evaluations."""
    torch.manual_seed(0)
    model = toroid.models.build(arguments.network, (3, 32, 32), 10, arguments.width)
    model = model.to(device).eval()
    batch = toroid.evaluation.Evaluation().batch_size
    images = torch.randn(batch * arguments.batches, 3, 32, 32, device=device)
    data = toroid.data.Dataset(images, torch.zeros(len(images), dtype=torch.long).to(device), 10)
    state = model.state_dict()
    calls, rows = {}, []
    x = images[:batch]
    for number, layer in enumerate(layers(model)):
        with FlopCounterMode(display=False) as counter:
            y = nn.Sequential(*layer)(x)
        rows.append({
            "layer": type(layer[0]).__name__, "from": "x".join(map(str, x.shape[1:])),
            "to": "x".join(map(str, y.shape[1:])), "GFLOP": counter.get_total_flops() / 1e9,
        })  # fmt: skip
        calls |= {(number, way): call for way, call in ways(layer, x, arguments.dtype).items()}
        x = y
    for name in LAYOUTS:
        calls["evaluate", name] = lambda last=name == "inside": toroid.evaluate(
            state, model, data, channels_last=last, precision=arguments.precision
        )
    best = {}
    for _ in range(arguments.repeats + 1):
        for key, call in calls.items():
            took, _ = clock(call, device, arguments.busy)
            best[key] = min(best.get(key, took), took)
    whole = {name: 1e3 * best.pop(("evaluate", name)) / arguments.batches for name in LAYOUTS}
    for (number, way), seconds in best.items():
        rows[number][way] = 1e3 * seconds
    return pd.DataFrame(rows), whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="vgg16", help="vgg16, vgg16_bn or lenet")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--precision", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--batches", type=int, default=2, help="of an evaluation")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--busy", action="store_true", help="count the processor's time")
    arguments = parser.parse_args()
    arguments.dtype = getattr(torch, arguments.precision)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.inference_mode():
        table, whole = measure(arguments, device)
    times = table.iloc[:, 4:]
    table["best"] = times.min(axis=1)
    table["GFLOP/s"] = 1e3 * table["GFLOP"] / table["best"]
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{arguments.network}, {arguments.precision}, {device}, {threads}; ms for a batch")
    print(table.to_string(index=False, float_format="{:.3g}".format, na_rep=""))
    bound = table["best"].sum()
    print(f"the bound: {bound:.4g}")
    for way in times:  # of a layer that has no such way, another
        same = times[way].fillna(times[way.partition(",")[0]])
        total = same.fillna(table["best"]).sum()
        print(f"all layers {way}: {total:.4g}, {bound / total:.1%} of the bound")
    for name, took in whole.items():
        print(f"evaluate, channels {name}: {took:.4g}, {bound / took:.1%} of the bound")


if __name__ == "__main__":
    main()
