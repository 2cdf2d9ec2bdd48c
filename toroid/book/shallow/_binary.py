"""Binary weights: isolated solutions, dense clusters, and Hamming paths between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ... import shallow
from ...binary import anneal
from ...data import Dataset
from ...flatness import local_energy
from ...landscape import Curve, along
from ...paths import Hamming
from ._tables import line, rows, seeded, sphere

state = shallow.Perceptron.state


class Binary(NamedTuple):
    """Solutions of binary teachers' patterns: the teacher, which is typical, and entropic ones.

    Attributes:
        solutions: ``solution``, its ``neighbours`` one flip away that are solutions, and its
            ``overlap with the teacher``; one of each kind for each teacher.
        near: ``kind, x, share``: the share of random sets of x flips that leave a solution.
        energies: ``sigma, energy, std, kind, sample`` under flips.
        paths: A table of agreement of the generalisation error along Hamming paths, with the
            ``number`` of the teacher and the ``train`` error.
    """

    solutions: pd.DataFrame
    near: pd.DataFrame
    energies: pd.DataFrame
    paths: pd.DataFrame


def binary(
    size: int, load: float, teachers: int, *, flips: Sequence[int], shares: Sequence[float],
    points: int, patterns: int,
) -> Binary:  # fmt: skip
    """What lies around binary solutions, and on the Hamming paths from an entropic one.

    Args:
        size: Weights N.
        load: Patterns for each weight.
        teachers: How many, each with patterns of its own.
        flips: Numbers of weights that flip at once.
        shares: Shares of the weights that flip, of the energies.
        points: Places along each path.
        patterns: Test patterns of each teacher.
    """
    parts = []
    for number in range(teachers):
        draws = seeded(6, size, number)
        teacher = torch.randint(0, 2, (size,), generator=draws).double() * 2 - 1
        data = shallow.gaussian(round(load * size), teacher=teacher, generator=draws)
        signed = shallow.signed(data)
        ends = {
            "teacher": teacher,
            "entropic": shallow.entropic(signed, generator=draws),
            "entropic, another": shallow.entropic(signed, generator=draws),
        }
        alone = {kind: ends[kind] for kind in ("teacher", "entropic")}
        near = [_near(kind, w, signed, flips, draws) for kind, w in alone.items()]
        test = shallow.gaussian(patterns, teacher=teacher, generator=draws)
        energies = [_energy(kind, w, data, shares) for kind, w in alone.items()]
        parts.append(Binary(
            pd.DataFrame([_solution(kind, w, signed, teacher) for kind, w in alone.items()]),
            pd.concat(near),
            pd.concat(energies).assign(sample=number),
            _hamming(ends, data, test, number, points),
        ))  # fmt: skip
    return Binary(*(pd.concat(tables) for tables in zip(*parts, strict=True)))


def _solution(kind: str, weights: Tensor, signed: Tensor, teacher: Tensor) -> dict[str, Any]:
    return {
        "solution": kind, "neighbours": shallow.neighbours(signed, weights),
        "overlap with the teacher": float(weights @ teacher) / len(teacher),
    }  # fmt: skip


def _near(
    kind: str, weights: Tensor, signed: Tensor, flips: Sequence[int], draws: torch.Generator
) -> pd.DataFrame:
    left = [shallow.surviving(signed, weights, count, generator=draws) for count in flips]
    return pd.DataFrame({"kind": kind, "x": flips, "share": left})


def _energy(kind: str, weights: Tensor, data: Dataset, shares: Sequence[float]) -> pd.DataFrame:
    how: dict[str, Any] = {"sigma": shares, "noise": "flips", "draws": 5}
    return local_energy(state(weights), sphere(len(weights))[1], data, **how).assign(kind=kind)


def _hamming(
    ends: Mapping[str, Tensor], data: Dataset, test: Dataset, number: int, points: int
) -> pd.DataFrame:
    """Paths from an entropic solution to the teacher and to another, beside ``arccos(R)/π``."""
    t, teacher, found = np.linspace(0, 1, points), ends["teacher"], []
    for pair, second in (
        ("to a typical solution", "teacher"), ("to another such solution", "entropic, another"),
    ):  # fmt: skip
        path = Hamming(state(ends["entropic"]), state(ends[second]), seed=number)
        both, model = {"train": data, "test": test}, sphere(len(teacher))[1]
        curves = along(path, model, both, points=points, batch_size=2500)
        cosines = [float(path(p)["linear.weight"][0] @ teacher) / len(teacher) for p in t]
        exact = shallow.error(np.array(cosines))
        what = {
            "curve": "Hamming path", "panel": "generalisation error", "series": pair,
            "number": number, "train": curves["train"].error,
        }  # fmt: skip
        errors = shallow.binomial_error(exact, len(test))
        found.append(rows(what, t, curves["test"].error, exact, errors))
    return pd.concat(found)


def annealed(start: shallow.Perceptron, load: float, *, sweeps: int) -> float:
    """Share of a binary teacher's patterns that simulated annealing leaves wrong.

    Args:
        start: The signs of its weights (1, N) are where it begins; it is not changed.
        load: Patterns for each weight.
        sweeps: Attempted flips for each weight.
    """
    size = start.linear.in_features
    draws, teacher = seeded(8, size), torch.ones(size, dtype=torch.float64)
    data = shallow.gaussian(round(load * size), teacher=teacher, generator=draws)
    (found,) = anneal(start, data, generator=draws, sweeps=sweeps)
    return float(found.history["error"].iloc[-1])


def exact_on_paths(paths: pd.DataFrame) -> pd.DataFrame:
    """Their points with an error that is not known to be 0: at the teacher nothing is measured."""
    return paths[paths["exact"] > 0].drop(columns=["number", "train"])


def errors_on_paths(paths: pd.DataFrame) -> pd.DataFrame:
    """Generalisation and training error along the first teacher's paths, a panel each."""
    first = paths[paths["number"] == 0]
    train = {"panel": "training error", "measured": first["train"]}
    return pd.concat([first, first.assign(**train, exact=np.nan, standard_error=np.nan)])


def barrier_ratio(paths: pd.DataFrame) -> float:
    """Mean barrier of the training error to another entropic solution, over that to the teacher."""
    heights = {
        name: np.mean([
            Curve(part["x"].to_numpy(), part["train"].to_numpy(), part["x"].to_numpy()).barrier
            for _, part in group.groupby("number")
        ])
        for name, group in paths.groupby("series")
    }  # fmt: skip
    return float(heights["to another such solution"] / heights["to a typical solution"])


def energy_curves(exact: pd.DataFrame, *measured: pd.DataFrame) -> pd.DataFrame:
    """Local energies of solutions beside those of the teachers, a panel for each noise.

    Args:
        exact: Of `teacher_energies`.
        measured: Columns ``kind, sigma, energy``, of `Typical` and `Binary`; the mean is taken over
            sets of patterns.

    Returns:
        A table of agreement.
    """
    energy = _mean_energies(*measured)
    parts = [exact]
    for kind, part in energy.groupby("kind", sort=False):
        if kind != "teacher":  # which `exact` has, of many more patterns
            panel = "flips" if kind == "entropic" else "torus"
            what = {"curve": "", "panel": panel, "series": kind}
            parts.append(rows(what, part["sigma"], part["mean"], np.nan, part["sem"]))
    return pd.concat(parts)


def energy_ratios(*measured: pd.DataFrame) -> dict[str, float]:
    """Mean local energies as ratios, below 1 if the first of two kinds is the flatter one.

    Args:
        measured: As in `energy_curves`.

    Returns:
        ``replicated``, of replicated SGD and SGD, means over angles; ``flat``, of entropic
        solutions and teachers, the largest over shares.
    """
    mean = _mean_energies(*measured).set_index(["kind", "sigma"])["mean"]
    return {
        "replicated": float(mean["RSGD"].mean() / mean["SGD"].mean()),
        "flat": float((mean["entropic"] / mean["teacher"]).max()),
    }


def _mean_energies(*measured: pd.DataFrame) -> pd.DataFrame:
    by_kind = pd.concat(measured).groupby(["kind", "sigma"], sort=False)["energy"]
    return by_kind.agg(["mean", "sem"]).reset_index()


def surviving_curves(near: pd.DataFrame, size: int, load: float) -> pd.DataFrame:
    """Share of the sets of flips that leave a solution, measured and of typical ones.

    Typical ones have `toroid.shallow.surviving_share`. A share of 0 is left out: the axis is
    logarithmic.

    Args:
        near: Of `Binary`.
        size: N.
        load: Patterns for each weight.
    """
    panel, patterns = "flips that leave a solution", round(load * size)
    shares, parts = near.groupby(["kind", "x"])["share"].agg(["mean", "sem"]).reset_index(), []
    for kind, part in shares.groupby("kind"):
        seen = part[part["mean"] > 0]
        what = {"panel": panel, "series": kind}
        parts.append(rows(what, seen["x"], seen["mean"], np.nan, seen["sem"]))
    exact = partial(shallow.surviving_share, size, patterns)
    return pd.concat([*parts, line(panel, "typical (exact)", near["x"].unique(), exact)])


def entropy_curves() -> pd.DataFrame:
    """`toroid.shallow.binary_entropy` against the load, as lines of theory."""
    grid, panel = np.linspace(0, 1.3, 27), "entropy for each weight"
    taught = partial(shallow.binary_entropy, teacher=True)
    random = line(panel, "random labels", grid[grid <= 0.95], shallow.binary_entropy)
    return pd.concat([random, line(panel, "a teacher", grid, taught)])
