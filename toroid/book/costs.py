"""How the cost of each step grows with a network: seconds measured, operations counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd
import torch

from ..alignment import align
from ..data import Dataset
from ..evaluation import evaluate
from ..flatness import local_energy
from ..models import mlp
from ..paths import Geodesic
from ..symmetry import find_symmetries
from ..torus import normalize
from .measures import random_state

__all__ = ["STEPS", "drawn", "exponents", "grown", "operations", "seconds", "told"]

T = TypeVar("T")

#: What is timed, and how its operations grow with the hidden units n, the layers L, the images B.
STEPS = {
    "discovery": "L", "matching": "L n³", "one place of a path": "B L n²", "local energy": "B L n²",
}  # fmt: skip
#: What grows, and its column.
SIZES = {"hidden units": "units", "hidden layers": "layers"}


def operations(hidden: Sequence[int], inputs: int, classes: int, images: int) -> dict[str, float]:
    """Operations of each step on a fully connected network, by the leading term of each layer.

    Args:
        hidden: Units of each hidden layer.
        inputs: Numbers in an image.
        classes: Outputs.
        images: How many are evaluated.

    Returns:
        By step: of discovery, operations in the graph (flatten, and an affine map and a ReLU for
        each layer); of matching, the similarities (a product of two matrices of units by incoming
        weights) and an assignment (units³); of a place on a path and of the local energy (two
        draws of noise and the network itself), a multiplication and an addition for each weight
        and image.

    Example:
        >>> operations([4], inputs=3, classes=2, images=10)["matching"]
        160.0
    """
    sizes = [inputs, *hidden, classes]
    weights = sum(a * b for a, b in zip(sizes, sizes[1:], strict=False))
    matching = sum(2 * n * n * m + n**3 for m, n in zip(sizes, hidden, strict=False))
    forward = 2.0 * images * weights
    return {
        "discovery": 2.0 * len(hidden) + 2, "matching": float(matching),
        "one place of a path": forward, "local energy": 3 * forward,
    }  # fmt: skip


def seconds(hidden: Sequence[int], data: Dataset, generator: torch.Generator) -> dict[str, float]:
    """How long each step takes on a fully connected network with random weights, by the clock.

    Args:
        hidden: Units of each hidden layer.
        data: What is evaluated, all of it at each place.
        generator: Draws two networks.

    Returns:
        By step, as in `STEPS`; the local energy is one of two draws.
    """
    model = mlp(data.shape, data.classes, hidden=hidden)
    a, b = ({k: v.float() for k, v in random_state(model, generator).items()} for _ in "ab")
    found: dict[str, float] = {}

    def timed(step: str, call: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = call()
        found[step] = time.perf_counter() - start
        return result

    symmetry = timed("discovery", lambda: find_symmetries(model, data.images[:2]))
    a, b = (normalize(state, symmetry) for state in (a, b))
    timed("matching", lambda: align(b, to=a, symmetry=symmetry))
    path = Geodesic(a, b, symmetry)
    path(0.5)  # the angles are computed once for a path
    timed("one place of a path", lambda: evaluate(path(0.5), model, data))
    timed(
        "local energy",
        lambda: local_energy(a, model, data, sigma=0.5, symmetry=symmetry, draws=2),
    )
    return found


def grown(
    networks: Sequence[tuple[str, Sequence[int]]], data: Dataset, repeats: int
) -> pd.DataFrame:
    """Seconds and operations of every step on networks that grow.

    Args:
        networks: What grows (``"hidden units"`` or ``"hidden layers"``), and hidden sizes.
        data: As in `seconds`.
        repeats: How often each is timed; the first call of all does not count.

    Returns:
        Columns ``grows, units, layers, step, repeat, seconds, operations``.
    """
    seconds(networks[0][1], data, torch.Generator())  # what is loaded at a first use
    rows = []
    for repeat in range(repeats):
        draw = torch.Generator().manual_seed(repeat)
        shapes = {tuple(hidden) for _, hidden in networks}  # each once
        took = {hidden: seconds(hidden, data, draw) for hidden in sorted(shapes)}
        for grows, hidden in networks:
            counted = operations(hidden, data.images[0].numel(), data.classes, len(data))
            rows += [
                {"grows": grows, "units": hidden[0], "layers": len(hidden), "step": step,
                 "repeat": repeat, "seconds": took[tuple(hidden)][step], "operations": count}
                for step, count in counted.items()
            ]  # fmt: skip
    return pd.DataFrame(rows)


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """Exponents of power laws: of the seconds measured and of the operations counted.

    A slope of logarithms by least squares over all sizes, of the least of the repeats, which is
    disturbed least; `at the end`, between the two largest sizes.

    Args:
        table: As `grown`.

    Returns:
        Columns ``grows, step, measured, low, high, at the end, counted``: the exponent of the
        seconds, the least and the greatest of single repeats, and that of the operations.

    Example:
        >>> sizes = {"units": [1, 2, 4], "layers": 1, "seconds": [1.0, 4.0, 16.0]}
        >>> rows = pd.DataFrame({**sizes, "operations": [1.0, 8.0, 64.0], "step": "x", "repeat": 0})
        >>> exponents(rows.assign(grows="hidden units"))[["measured", "counted"]].round(6).values
        array([[2., 3.]])
    """
    rows = []
    for (grows, step), part in table.groupby(["grows", "step"], sort=False):
        size = SIZES[str(grows)]
        took = part.pivot(index=size, columns="repeat", values="seconds")
        counted = part.groupby(size)["operations"].first()
        best = took.min(axis=1)
        single = [_slope(took[repeat]) for repeat in took]
        rows.append({
            "grows": grows, "step": step, "measured": _slope(best), "low": min(single),
            "high": max(single), "at the end": _slope(best.iloc[-2:]),
            "counted": _slope(counted),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _slope(values: pd.Series) -> float:
    """Of logarithms against those of the index."""
    x, y = (np.log(np.asarray(v, float)) for v in (values.index, values))
    return float(np.round(np.polyfit(x, y, 1)[0], 9)) + 0.0


def drawn(table: pd.DataFrame) -> pd.DataFrame:
    """Seconds and operations, for `toroid.book.plotting.costs`.

    Args:
        table: As `grown`.

    Returns:
        Columns ``grows, step, x, measured, exact``: the size, the least seconds of all repeats, and
        the number of operations, scaled to pass through the seconds of the largest network.
    """
    parts = []
    for (grows, step), part in table.groupby(["grows", "step"], sort=False):
        by = part.groupby(SIZES[str(grows)])
        took, counted = by["seconds"].min(), by["operations"].first()
        exact = counted * took.iloc[-1] / counted.iloc[-1]
        parts.append(pd.DataFrame({
            "grows": grows, "step": step, "x": took.index, "measured": took.to_numpy(),
            "exact": exact.to_numpy(),
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def told(table: pd.DataFrame, laws: Mapping[str, str] = STEPS) -> str:
    """The exponents in words, step by step.

    Args:
        table: As `exponents`.
        laws: By step.
    """
    clauses = []
    for step, part in table.groupby("step", sort=False):
        sizes = ", ".join(
            f"{row['measured']:.2f} in the {row['grows']} (counted {row['counted']:.2f})"
            for _, row in part.iterrows()
        )
        clauses.append(f"{step} ({laws[str(step)]}): {sizes}")
    return "; ".join(clauses)
