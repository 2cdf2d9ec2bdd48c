"""How fast the local energy is: draws of noise in a second.

A fresh network and random images of CIFAR's size. Timed in one run, in turn, medians of some
repeats:

- *plain*: a copy of the module whose weights are moved in place, a loop over batches;
- *multiplicative*: `toroid.local_energy` with the same noise;
- *plain torus*, *torus*: the same two with noise on the torus, the loop for networks without
  BatchNorm only;
- *last*: with the channels innermost, as the page on flatness has them;
- *draws at once*: multiplicative, all draws as one network of stacked tensors (`vmap`).

What counts is the ratio to the loop of the same noise (of the torus, where there is none, to
*plain*), above 1 where it is faster. ``--busy`` is as in layers.py.

    python benchmarks/flatness.py --networks mlp --images 1000 --draws 5
"""

from __future__ import annotations

import argparse
import copy
import statistics

import pandas as pd
import torch
import toroid
from paths import clock
from torch.func import functional_call, vmap

NETWORKS = [
    ("mlp", 1.0), ("lenet", 1.0), ("vgg16", 0.25), ("vgg16_bn", 0.25), ("resnet18", 0.25),
]  # fmt: skip
SIGMA, BATCH = 0.5, 250


def drawn(state, names, draw):
    generator = torch.Generator().manual_seed(draw)
    return {k: torch.randn(state[k].shape, generator=generator).to(state[k]) for k in names}


def multiplied(state, names, draw):
    return {k: state[k] * (1 + SIGMA * v) for k, v in drawn(state, names, draw).items()}


def on_circles(state, names, draw):
    """Each unit's weights, and the last layer as a whole, along a great circle."""
    z, found = drawn(state, names, draw), {}
    for weight, bias in zip(names[::2], names[1::2], strict=True):
        if weight == names[-2]:
            w, v = (torch.cat([x[weight].flatten(), x[bias]])[None] for x in (state, z))
        else:
            w, v = state[weight].flatten(1), z[weight].flatten(1)  # (units, numbers)
            found[bias] = state[bias] + SIGMA * state[bias].square().mean().sqrt() * z[bias]
        v = v - (v * w).sum(1, keepdim=True) * w
        v = v * (SIGMA / (v.shape[1] - 1) ** 0.5)
        angle = v.norm(dim=1, keepdim=True)
        moved = angle.cos() * w + angle.sin() * v / angle
        if weight == names[-2]:
            moved, found[bias] = moved[0].split([state[weight].numel(), len(state[bias])])
        found[weight] = moved.view_as(state[weight])
    return found


def plain(model, state, names, data, draws, noise=multiplied):
    """What one writes first: how much larger the mean error of the moved networks is."""
    model = copy.deepcopy(model).eval()
    model.load_state_dict(state)

    def wrong():
        batches = zip(data.images.split(BATCH), data.labels.split(BATCH), strict=True)
        return sum(int((model(x).argmax(1) != y).sum()) for x, y in batches)

    with torch.no_grad():
        start, moved = wrong(), 0
        for draw in range(draws):
            for name, weight in noise(state, names, draw).items():
                model.get_parameter(name).copy_(weight)
            moved += wrong()
    return (moved / draws - start) / len(data)


def at_once(model, state, names, data, draws):
    model, wrong = copy.deepcopy(model).eval(), 0
    moved = [multiplied(state, names, draw) for draw in range(draws)]
    stacked = {k: torch.stack([m[k] for m in moved]) for k in names}
    still = {k: v for k, v in state.items() if k not in stacked}
    with torch.inference_mode():
        run = vmap(lambda w, x: functional_call(model, {**still, **w}, (x,)), in_dims=(0, None))
        for x, y in zip(data.images.split(BATCH), data.labels.split(BATCH), strict=True):
            wrong += int((run(stacked, x).argmax(2) != y).sum())
    return wrong / draws / len(data)


def measure(architecture, width, arguments, device):
    """One row for each way."""
    torch.manual_seed(0)
    shape, draws = (3, 32, 32), arguments.draws
    model = toroid.models.build(architecture, shape, 10, width).to(device).eval()
    images = torch.randn(arguments.images, *shape, device=device)
    with torch.no_grad():
        labels = torch.cat([model(x).argmax(1) for x in images.split(BATCH)])
    data = toroid.data.Dataset(images, labels, 10)  # no errors without noise
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    names = [name for name, _ in model.named_parameters()]
    symmetry = toroid.find_symmetries(model, images[:2])
    normal = toroid.normalize(state, symmetry)

    def energy(start, **options):
        options = {"sigma": SIGMA, "draws": draws, "batch_size": BATCH, **options}
        return float(toroid.local_energy(start, model, data, **options)["energy"][0])

    ways = {
        "plain": lambda: plain(model, state, names, data, draws),
        "multiplicative": lambda: energy(state),
        "multiplicative, last": lambda: energy(state, channels_last=True),
        "draws at once": lambda: at_once(model, state, names, data, draws),
        "plain torus": lambda: plain(model, normal, names, data, draws, on_circles),
        "torus": lambda: energy(normal, symmetry=symmetry),
        "torus, last": lambda: energy(normal, symmetry=symmetry, channels_last=True),
    }
    if any(name not in names for name in state):  # BatchNorm's statistics
        del ways["plain torus"]
    seconds, found = {}, {}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            took, found[name] = clock(way, device, arguments.busy)
            seconds.setdefault(name, []).append(took)
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    loop = {name: "plain torus" if "torus" in name else "plain" for name in ways}
    return [
        {"network": architecture, "width": width, "way": name, "draws/s": draws / took,
         "ratio": middle.get(loop[name], middle["plain"]) / took, "energy": found[name]}
        for name, took in middle.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=[name for name, _ in NETWORKS])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--busy", action="store_true", help="count the processor's time")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = [pair for pair in NETWORKS if pair[0] in arguments.networks]
    rows = [row for pair in chosen for row in measure(*pair, arguments, device)]
    print(
        f"{arguments.images} images, {device}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}"
    )
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
