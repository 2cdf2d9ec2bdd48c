"""Typical solutions of the spherical perceptron, and those of gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from ... import shallow
from ...data import Dataset
from ...evaluation import evaluate
from ...flatness import local_energy
from ...landscape import along
from ...paths import Geodesic
from ...torus import normalize
from ._students import rsgd, sgd, state
from ._tables import seeded, sphere


class Typical(NamedTuple):
    """Solutions of many sets of patterns.

    Attributes:
        learnt: For each set and kind of solution: ``labels, size, load, sample, kind``, mean
            overlaps ``q`` of pairs and ``R`` with the teacher, largest training ``error``.
        wall: Largest training error on a geodesic between two kinds, at the largest size.
        energies: Of a teacher's solutions at the largest size and load: ``sigma, energy, std,
            kind, sample``.
    """

    learnt: pd.DataFrame
    wall: float
    energies: pd.DataFrame


class Learnt(NamedTuple):
    """One set of patterns and its solutions.

    Attributes:
        data: The patterns.
        teacher: Its weights (N,); of random labels, a vector that has nothing to do with them.
        solutions: Unit vectors (count, N) by kind.
    """

    data: Dataset
    teacher: Tensor
    solutions: dict[str, Tensor]

    def errors(self) -> dict[str, float]:
        """Largest training error of each kind; descent need not have reached zero."""
        model = sphere(len(self.teacher))[1]
        return {
            kind: max(evaluate(state(w), model, self.data).error for w in ends)
            for kind, ends in self.solutions.items()
        }

    def walls(self) -> list[float]:
        """Largest training error on the geodesic between each two kinds without an error.

        0 (Gardner 1988): at the margin 0 solutions are an intersection of half spaces.
        """
        symmetry, model = sphere(len(self.teacher))
        errors = self.errors()
        ends = [state(w[0]) for kind, w in self.solutions.items() if errors[kind] == 0]
        paths = [Geodesic(a, b, symmetry) for a, b in combinations(ends, 2)]
        return [float(along(path, model, self.data, points=5).error.max()) for path in paths]

    def energies(self, angles: Sequence[float]) -> pd.DataFrame:
        """Local energy of a solution of each kind, but the starts: ``sigma, energy, std, kind``."""
        symmetry, model = sphere(len(self.teacher))
        how: dict[str, Any] = {"sigma": angles, "symmetry": symmetry, "draws": 5}
        return pd.concat([
            local_energy(state(w[0]), model, self.data, **how).assign(kind=kind)
            for kind, w in self.solutions.items() if kind != "start"
        ])  # fmt: skip


def learn(
    labels: str, size: int, load: float, sample: int, *, chains: int, flights: int,
    epochs: int | None = None,
) -> Learnt:  # fmt: skip
    """Solutions of one set of patterns: starts of a descent, typical ones, and trained ones.

    The billiard samples typical ones uniformly (Ruján 1997).

    Args:
        labels: ``"random"``, or those of a ``"teacher"``.
        size: N.
        load: Patterns for each input.
        sample: Number of the set.
        chains: Starts, and typical solutions.
        flights: Of the billiard from each start.
        epochs: Of SGD and replicated SGD; None leaves these out.
    """
    draws = seeded(4, size, int(1000 * load), sample, labels == "teacher")
    (teacher,) = shallow.vectors([[1.0]], size, generator=draws)
    who: dict[str, Any] = {"teacher": teacher} if labels == "teacher" else {"inputs": size}
    data = shallow.gaussian(round(load * size), generator=draws, **who)
    patterns = shallow.signed(data)
    starts = shallow.feasible(patterns, count=chains, generator=draws)
    ends = shallow.billiard(patterns, starts, flights=flights, generator=draws)
    found = {"start": starts, "typical": ends}
    if epochs is not None:
        for kind, train in (("SGD", sgd), ("RSGD", rsgd)):
            end = train(data, epochs=epochs, seed=sample)
            found[kind] = normalize(end, sphere(size)[0])["linear.weight"]
    return Learnt(data, teacher, found)


def alike(weights: Tensor) -> float:
    """Mean overlap of pairs among unit vectors (count, N); not a number for a single one.

    Example:
        >>> alike(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        0.3333333432674408
    """
    products = weights @ weights.T
    return float(products[~torch.eye(len(weights), dtype=torch.bool)].mean())


def typical(
    sizes: Sequence[int], loads: Sequence[float], samples: int, *, chains: int, flights: int,
    epochs: int, angles: Sequence[float],
) -> Typical:  # fmt: skip
    """Solutions of random patterns and of a teacher's, for each size, load and set of patterns.

    Args:
        sizes: N, ascending; gradient descent learns a teacher's patterns at the largest.
        loads: Patterns for each input; energies are measured at the last.
        samples: Sets of patterns for each size and load.
        chains: As in `learn`.
        flights: As in `learn`.
        epochs: As in `learn`.
        angles: σ of the noise of the energies, radians.
    """
    table, walls, energies = [], [], []
    for labels, size, load, sample in product(("random", "teacher"), sizes, loads, range(samples)):
        taught = labels == "teacher" and size == sizes[-1]
        how: dict[str, Any] = {"chains": chains, "flights": flights}
        found = learn(labels, size, load, sample, epochs=epochs if taught else None, **how)
        where = {"labels": labels, "size": size, "load": load, "sample": sample}
        for kind, error in found.errors().items():
            ends = found.solutions[kind]
            overlap = {"q": alike(ends), "R": float((ends @ found.teacher).mean())}
            table.append({**where, "kind": kind, **overlap, "error": error})
        if size == sizes[-1]:
            walls += found.walls()
        if taught and load == loads[-1]:
            energies.append(found.energies(angles).assign(sample=sample))
    return Typical(pd.DataFrame(table), max(walls), pd.concat(energies))
