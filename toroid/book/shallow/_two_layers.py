"""Two-layer students of one teacher: a permutation that is known, and one that is not."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ... import shallow, training
from ..._state import State
from ...alignment import align
from ...data import Dataset
from ...evaluation import evaluate
from ...symmetry import Symmetry, find_symmetries
from ...torus import angles, normalize
from ._tables import rows, seeded

#: Panels of what is measured of a pair.
PANELS = {
    "before": "angle", "after": "angle", "found": "units found", "unrelated": "unrelated networks",
}  # fmt: skip


@cache
def two_layers(inputs: int, hidden: int) -> tuple[Symmetry, nn.Sequential]:
    """A network of ReLU units without biases and two outputs: its symmetry, and itself.

    Example:
        >>> [group.size for group in two_layers(5, 3)[0].groups]
        [3]
    """
    layers = nn.Linear(inputs, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, 2, bias=False)
    model = nn.Sequential(*layers).double()
    return find_symmetries(model, torch.zeros(2, inputs, dtype=torch.float64)), model


def hide(units: Tensor, outputs: Tensor, draws: torch.Generator) -> tuple[State, Tensor]:
    """A network written down in another way: rescaled, and permuted.

    Args:
        units: Weights of the hidden units (K, N).
        outputs: Of the outputs (2, K).
        draws: Draws factors, log-normal, and order.

    Returns:
        Its state, and the order: the unit at place i was ``order[i]``.
    """
    factors = torch.randn(len(units), generator=draws, dtype=torch.float64).exp()
    order = torch.randperm(len(units), generator=draws)
    first, second = (units * factors[:, None])[order], (outputs / factors)[:, order]
    return {"0.weight": first, "2.weight": second}, order


def angle(a: State, b: State, symmetry: Symmetry) -> float:
    """Root mean square angle of the hidden units, at the same places, in radians."""
    return float(angles(a, b, symmetry)["0"].square().mean().sqrt())


def planted_pair(inputs: int, repeat: int, *, hidden: int, overlap: float) -> dict[str, float]:
    """Two students of one teacher, each disturbed and hidden; and an unrelated network.

    Args:
        inputs: N.
        repeat: Number of the pair.
        hidden: Units K.
        overlap: R of each student's unit with the teacher's.

    Returns:
        ``size``, N; root mean square angle ``before`` and ``after`` alignment; share of the units
        ``found``; mean cosine with an ``unrelated`` network after alignment.
    """
    draws, (symmetry, _) = seeded(9, inputs, repeat), two_layers(inputs, hidden)
    units = torch.randn(hidden, inputs, generator=draws, dtype=torch.float64)
    units /= units.norm(dim=1, keepdim=True)
    outputs = torch.randn(2, hidden, generator=draws, dtype=torch.float64)
    ends, orders = [], []
    for _ in range(2):
        moved = shallow.disturb(units, overlap, generator=draws)
        student, order = hide(moved, outputs, draws)
        ends.append(normalize(student, symmetry))
        orders.append(order)
    first, second = ends
    aligned = align(second, to=first, symmetry=symmetry)
    other = {k: torch.randn(v.shape, generator=draws, dtype=v.dtype) for k, v in first.items()}
    stranger = align(normalize(other, symmetry), to=first, symmetry=symmetry)
    met = orders[1][aligned.permutations["0"]] == orders[0]
    return {
        "size": inputs, "before": angle(first, second, symmetry),
        "after": angle(first, aligned.state, symmetry), "found": float(met.double().mean()),
        "unrelated": stranger.similarity["0"],
    }  # fmt: skip


def planted_pairs(
    widths: Sequence[int], repeats: int, *, hidden: int, overlap: float
) -> pd.DataFrame:
    """A row of `planted_pair` for each number of inputs and each repeat."""
    how: dict[str, Any] = {"hidden": hidden, "overlap": overlap}
    return pd.DataFrame([planted_pair(n, r, **how) for n, r in product(widths, range(repeats))])


def pair_curves(pairs: pd.DataFrame, *, hidden: int, overlap: float) -> pd.DataFrame:
    """Means of `planted_pairs` against N, beside their expectations.

    `toroid.shallow.shuffled_angle` before alignment, `toroid.shallow.matched_angle` after, and
    ``c_K / sqrt(N)`` of unrelated networks, with `toroid.shallow.chance_cosine`.

    Returns:
        A table of agreement.
    """
    means, errors = pairs.groupby("size").mean(), pairs.groupby("size").sem()
    widths = means.index
    exact = {
        "before": [shallow.shuffled_angle(n, overlap, hidden) for n in widths],
        "after": [shallow.matched_angle(n, overlap) for n in widths],
        "found": [np.nan] * len(widths),
        "unrelated": shallow.chance_cosine(hidden) / np.sqrt(widths),
    }
    return pd.concat([
        rows({"panel": PANELS[k], "series": k}, widths, means[k], exact[k], errors[k])
        for k in exact
    ])  # fmt: skip


def chance_exponent(pairs: pd.DataFrame) -> float:
    """Exponent of N with which the mean cosine of unrelated networks falls; -1/2 is expected."""
    means = pairs.groupby("size")["unrelated"].mean()
    return float(np.polyfit(np.log(means.index), np.log(means), 1)[0])


def trained_pair(inputs: int, pair: int, hidden: int = 4) -> dict[str, Any]:
    """Two students that SGD trains on one teacher, from weights of their own.

    60 patterns for each weight of the first layer, whose labels are the teacher's larger output.

    Args:
        inputs: N.
        pair: Its number.
        hidden: Units K, even.

    Returns:
        Angles between the students as found and aligned; as text, for each student, its training
        error and its mean cosine with the teacher after alignment.
    """
    (symmetry, model), draws = two_layers(inputs, hidden), seeded(10, inputs, pair)
    teacher, data = _taught(model, inputs, hidden, draws)
    first, second = (
        normalize(_descend(model, data, 100 * pair + student, draws), symmetry)
        for student in (0, 1)
    )
    moved = align(second, to=first, symmetry=symmetry).state
    to, ends = normalize(teacher, symmetry), (first, second)
    alike = [align(end, to=to, symmetry=symmetry).similarity["0"] for end in ends]
    errors = [100 * evaluate(end, model, data).error for end in ends]
    return {
        "inputs": inputs, "rms angle as found": angle(first, second, symmetry),
        "aligned": angle(first, moved, symmetry),
        "training error (%)": " and ".join(f"{error:.1f}" for error in errors),
        "cosine with the teacher": " and ".join(f"{cosine:.3f}" for cosine in alike),
    }  # fmt: skip


def _taught(
    model: nn.Module, inputs: int, hidden: int, draws: torch.Generator
) -> tuple[State, Dataset]:
    """A teacher whose units vote for either class in turn, and its patterns."""
    outputs = torch.tensor([[1.0, -1.0]] * (hidden // 2), dtype=torch.float64).flatten()
    teacher = {
        "0.weight": torch.randn(hidden, inputs, generator=draws, dtype=torch.float64),
        "2.weight": torch.stack([outputs, -outputs]),
    }
    x = torch.randn(60 * hidden * inputs, inputs, generator=draws, dtype=torch.float64)
    labels = torch.func.functional_call(model, teacher, (x,)).argmax(1)
    return teacher, Dataset(x, labels.detach(), 2)


def _descend(model: nn.Sequential, data: Dataset, seed: int, draws: torch.Generator) -> State:
    """SGD from weights that torch's own generator draws: it is seeded here."""
    torch.manual_seed(seed)
    start = copy.deepcopy(model)
    for layer in start:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    rule: dict[str, Any] = {"epochs": 20, "lr": 0.2, "batch_size": 100, "weight_decay": 0.0}
    return training.sgd(start, data, generator=draws, **rule).state


def trained_pairs(widths: Sequence[int], count: int) -> pd.DataFrame:
    """A row of `trained_pair` for each number of inputs and each pair."""
    return pd.DataFrame([trained_pair(n, pair) for n, pair in product(widths, range(count))])
