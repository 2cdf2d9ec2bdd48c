"""How long it takes to align two networks, and to move them on the torus.

Two fresh networks of full width for 32x32 colour images. Each alignment is timed in one run with
the others, on the same two states, in turn:

- toroid's sequential matching and coordinate descent, on raw weights and on the torus;
- a plain loop, the same descent as it is written down: move everything, compute everything again;
- the package rebasin, if it is installed (``pip install -e ".[benchmarks]"``).

What counts is the ratio, and that the result is not worse: *overlap* is the sum of the products of
all weights of the two networks, over the product of their norms, which a descent raises. The bound
of a descent is the time of its matrix products at the speed of one large product in the same run,
and of its assignments alone.

    python benchmarks/alignment.py --repeats 5 --cores 2
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
import toroid
from torch.utils.flop_counter import FlopCounterMode
from toroid.alignment import _overlaps

IMAGE = torch.zeros(2, 3, 32, 32)


def clock(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def fresh(architecture: str, seed: int):
    torch.manual_seed(seed)
    return toroid.models.build(architecture, (3, 32, 32), 10).eval()


def overlap(a, b, symmetry) -> float:
    names = {
        x.parameter for g in symmetry.groups for x in g.axes if x.role in ("out", "late", "in")
    }
    products, first, second = (
        sum(float((x[n].double() * y[n].double()).sum()) for n in names)
        for x, y in ((a, b), (a, a), (b, b))
    )
    return products / (first * second) ** 0.5


def plain_loop(state, to, symmetry, seed=0):
    """Coordinate descent from the network as it is; nothing is kept from step to step."""
    generator = torch.Generator().manual_seed(seed)
    better = True
    while better:
        better = False
        for i in torch.randperm(len(symmetry.groups), generator=generator).tolist():
            group = symmetry.groups[i]
            products = torch.zeros(group.size, group.size)
            for axis in group.axes:
                if axis.role in ("out", "late", "in"):
                    a, b = (axis.rows(s[axis.parameter]) for s in (to, state))
                    products += a @ b.T
            step = _overlaps.assign(products)
            gain = products[torch.arange(group.size), step].sum() - products.trace()
            if gain > torch.finfo(products.dtype).eps ** 0.75 * products.diagonal().abs().sum():
                state = toroid.permute(state, {group.name: step}, symmetry)
                better = True
    return state


def rebasin(a, b):
    """Another package's descent; it moves the second model itself."""
    from rebasin import PermutationCoordinateDescent

    PermutationCoordinateDescent(a, b, IMAGE).rebasin()
    return b.state_dict()


def alignments(architecture: str, repeats: int) -> pd.DataFrame:
    """One row for each way to align: seconds, times faster than the others, and overlap."""
    models = [fresh(architecture, seed) for seed in (0, 1)]
    symmetry = toroid.find_symmetries(models[0], IMAGE)
    raw = [{k: v.detach() for k, v in m.state_dict().items()} for m in models]
    torus = [toroid.normalize(state, symmetry) for state in raw]

    def by(method: str, states: list) -> Callable:
        return lambda: toroid.align(states[1], to=states[0], symmetry=symmetry, method=method).state

    ways = {
        "sequential": (raw, by("sequential", raw)),
        "sequential, torus": (torus, by("sequential", torus)),
        "coordinate": (raw, by("coordinate", raw)),
        "coordinate, torus": (torus, by("coordinate", torus)),
        "plain loop": (raw, lambda: plain_loop(raw[1], raw[0], symmetry)),
        "rebasin": (raw, lambda: rebasin(models[0], fresh(architecture, 1))),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for _ in range(repeats):
        for name, (_, way) in ways.items():
            try:
                seconds, results[name] = clock(way)
            except ImportError:
                continue
            times[name].append(seconds)
    medians = {name: statistics.median(t) for name, t in times.items() if t}
    rows = [
        {
            "network": architecture,
            "way": name,
            "seconds": seconds,
            "faster than the plain loop": medians["plain loop"] / seconds,
            "faster than rebasin": medians.get("rebasin", float("nan")) / seconds,
            "overlap": overlap(ways[name][0][0], results[name], symmetry),
        }
        for name, seconds in medians.items()
    ]
    return pd.DataFrame(rows)


def bound(architecture: str) -> dict[str, Any]:
    """Of a descent on the torus: its products at full speed, its assignments, and the whole."""
    models = [fresh(architecture, seed) for seed in (0, 1)]
    symmetry = toroid.find_symmetries(models[0], IMAGE)
    a, b = (toroid.normalize(dict(m.state_dict()), symmetry) for m in models)
    large = torch.randn(2, 2048, 2048)
    peak = 2 * 2048**3 / min(clock(lambda: large[0] @ large[1])[0] for _ in range(5))
    spent, solve = [], _overlaps.linear_sum_assignment

    def timed(*args, **kwargs):
        seconds, result = clock(lambda: solve(*args, **kwargs))
        spent.append(seconds)
        return result

    def run():
        return toroid.align(b, to=a, symmetry=symmetry, method="coordinate")

    seconds = statistics.median(clock(run)[0] for _ in range(3))
    _overlaps.linear_sum_assignment = timed
    with FlopCounterMode(display=False) as counter:
        run()
    _overlaps.linear_sum_assignment = solve
    products = counter.get_total_flops() / peak
    return {
        "network": architecture,
        "seconds": seconds,
        "products": products,
        "assignments": sum(spent),
        "visits": len(spent),
        "times the bound": seconds / (products + sum(spent)),
    }


def memory(architecture: str, repeats: int) -> pd.DataFrame:
    """Moving a whole state, against a plain copy of it (read and written once)."""
    models = [fresh(architecture, seed) for seed in (0, 1)]
    symmetry = toroid.find_symmetries(models[0], IMAGE)
    raw = [{k: v.detach() for k, v in m.state_dict().items()} for m in models]
    ends = [toroid.normalize(state, symmetry) for state in raw]
    path = toroid.Geodesic(*ends, symmetry)
    size = sum(v.numel() * v.element_size() for v in raw[0].values())
    ways = {  # how often it must at least read or write the whole state
        "copy": (2, lambda: {k: v.clone() for k, v in raw[0].items()}),
        "normalize": (2, lambda: toroid.normalize(raw[0], symmetry)),
        "geodesic": (3, lambda: path(0.5)),
        "distance": (2, lambda: toroid.distance(*ends, symmetry)),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(5 * repeats):
        for name, (_, way) in ways.items():
            times[name].append(clock(way)[0])
    medians = {name: statistics.median(t) for name, t in times.items()}
    rows = [
        {
            "network": architecture,
            "what": name,
            "milliseconds": 1e3 * seconds,
            "GB/s": ways[name][0] * size / seconds / 1e9,
            "copies": seconds / medians["copy"],
        }
        for name, seconds in medians.items()
    ]
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--networks", nargs="+", default=["vgg16", "resnet18"])
    chosen = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[: chosen.cores]
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    tables = [
        pd.concat([alignments(n, chosen.repeats) for n in chosen.networks]),
        pd.DataFrame([bound(n) for n in chosen.networks]),
        pd.concat([memory(n, chosen.repeats) for n in chosen.networks]),
    ]
    print(f"{len(cores)} cores, torch {torch.__version__}, float32, medians\n")
    for table in tables:
        print(table.to_string(index=False, float_format="{:.3g}".format), "\n")


if __name__ == "__main__":
    main()
