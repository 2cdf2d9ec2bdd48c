"""How fast networks train: several seeds at once, and in bfloat16.

Three fresh networks of one shape, on random images of CIFAR's size and random labels, or on a data
set of `toroid.data`. Timed in one run, in turn, medians of some repeats:

- *plain*: a loop as it is written down in PyTorch: module, loader over tensors, optimizer; one
  network after the other;
- *one by one*: `toroid.training.sgd` for one network after the other;
- *stacked*: `toroid.training.sgd_many`, as one network of stacked tensors;
- *bfloat16*: one by one, layers in bfloat16 and channels last.

What counts is the ratio to *plain*, above 1 where it is faster. The work is that of the products,
forward and backward; the peak is that of the machine's own convolutions, as in paths.py. The test
errors say what bfloat16 does to the result.

    python benchmarks/training.py --dataset digits --epochs 5 --repeats 3
"""

from __future__ import annotations

import argparse
import statistics

import pandas as pd
import torch
import toroid
from paths import clock, peak
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from toroid.training import sgd, sgd_many

NETWORKS = [("mlp", 1.0), ("lenet", 1.0), ("vgg16_bn", 0.25), ("resnet18", 0.25)]
SEEDS = range(3)


def random_data(count):
    """Images of CIFAR's size that mean nothing; training and test."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (count,), generator=generator)
    data = toroid.data.Dataset(images, labels, 10)
    return data, data.take(count // 4)


def plain(model, train, epochs, batch, seed):
    """What one writes first."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.02, 0.9, nesterov=True, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        TensorDataset(train.images, train.labels), batch, True, generator=generator, drop_last=True
    )
    for _ in range(epochs):
        for images, labels in loader:
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.state_dict()


def ways(architecture, width, train, epochs, batch):
    """By name: what returns the trained states."""

    def models():
        fresh = []
        for seed in SEEDS:
            torch.manual_seed(seed)
            model = toroid.models.build(architecture, train.shape, train.classes, width)
            fresh.append(model.to(train.images.device))
        return fresh

    def generators():
        return [torch.Generator().manual_seed(seed) for seed in SEEDS]

    options = {"epochs": epochs, "lr": 0.02, "batch_size": batch}

    def alone(precision="float32"):
        return [
            sgd(m, train, generator=g, precision=precision, **options).state
            for m, g in zip(models(), generators(), strict=True)
        ]

    def together():
        found = sgd_many(models(), train, generators=generators(), stacked=True, **options)
        return [trained.state for trained in found]

    return {
        "plain": lambda: [
            plain(m, train, epochs, batch, s) for m, s in zip(models(), SEEDS, strict=True)
        ],
        "one by one": alone,
        "stacked": together,
        "bfloat16": lambda: alone("bfloat16"),
    }  # fmt: skip


def work(architecture, width, train):
    """Operations for one image: forward, and the gradient of all weights."""
    model = toroid.models.build(architecture, train.shape, train.classes, width)
    with FlopCounterMode(display=False) as counter:
        model(train.images[:2].cpu()).sum().backward()
    return counter.get_total_flops() / 2


def measure(architecture, width, data, epochs, batch, repeats, peaks):
    """One row for each way."""
    train, test = data
    seconds, states = {}, {}
    for _ in range(repeats):
        for name, way in ways(architecture, width, train, epochs, batch).items():
            took, states[name] = clock(way, train.images.device.type)
            seconds.setdefault(name, []).append(took)
    model = toroid.models.build(architecture, train.shape, train.classes, width)
    operations, rows = work(architecture, width, train), []
    for name, times in seconds.items():
        fastest = peaks["bfloat16" if name == "bfloat16" else "float32"]
        median = statistics.median(times)
        speed = len(SEEDS) * epochs * len(train) / median
        errors = [toroid.evaluate(s, model, test).error for s in states[name]]
        rows.append({
            "network": architecture, "width": width, "way": name, "seconds": median,
            "images/s": speed, "ratio": statistics.median(seconds["plain"]) / median,
            "GFLOP/s": speed * operations / 1e9,
            "of the peak": speed * operations / fastest,
            "test error": statistics.mean(errors),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="random", help="random, or as toroid.data.load")
    parser.add_argument("--images", type=int, default=1024, help="training images")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=128, help="images in a step")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--networks", nargs="*", default=[name for name, _ in NETWORKS])
    parser.add_argument("--width", type=float, help="of all networks, instead of each its own")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.dataset == "random":
        data = random_data(arguments.images)
    else:
        data = toroid.data.load(arguments.dataset, subset=arguments.images)
    data = [part.to(device) for part in data]
    peaks = {kind: peak(kind, device, arguments.batch) for kind in ("float32", "bfloat16")}
    rows = []
    for architecture, width in NETWORKS:
        if architecture in arguments.networks:
            size = width if arguments.width is None else arguments.width
            how = arguments.epochs, arguments.batch, arguments.repeats
            rows += measure(architecture, size, data, *how, peaks)
    print(f"{len(SEEDS)} networks, {len(data[0])} images, {device}, torch {torch.__version__}")
    print("peak of convolutions, GFLOP/s:", {k: round(v / 1e9, 1) for k, v in peaks.items()})
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
