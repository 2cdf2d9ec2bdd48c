"""Students of one teacher: the error on the paths between two, and the teacher's own energy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ... import shallow, training
from ..._state import State
from ...data import Dataset
from ...flatness import local_energy
from ...landscape import along
from ...paths import Geodesic, Linear
from ...torus import normalize
from ._tables import rows, seeded, sphere

#: Products of a teacher and two students that are planted, by the name of the pair.
PLANTED = {
    "equal": [[1, 0.9, 0.9], [0.9, 1, 0.7], [0.9, 0.7, 1]],
    "unequal": [[1, 0.95, 0.4], [0.95, 1, 0.2], [0.4, 0.2, 1]],
    "one below chance": [[1, 0.7, -0.3], [0.7, 1, 0.1], [-0.3, 0.1, 1]],
}
RULE = {"batch_size": 64, "weight_decay": 0.0}
RATE = 0.09

state = shallow.Perceptron.state


def sgd(data: Dataset, *, epochs: int, seed: int) -> State:
    """A perceptron trained by SGD.

    Args:
        data: Patterns (P, N) with labels 0 or 1.
        epochs: Passes over them.
        seed: Of order and start, which torch's own generator draws: it is seeded here.
    """
    rule: dict[str, Any] = {"generator": seeded(2, seed), "lr": RATE, **RULE}
    return training.sgd(_start(data, seed), data, epochs=epochs, **rule).state


def rsgd(data: Dataset, *, epochs: int, seed: int) -> State:
    """By replicated SGD, whose rate is that of SGD after the factor 3 of its replicas.

    Args:
        data: As in `sgd`.
        epochs: As in `sgd`.
        seed: As in `sgd`.
    """
    rule: dict[str, Any] = {"generator": seeded(3, seed), "lr": RATE / 3, "gmax": 10.0, **RULE}
    return training.replicated_sgd(_start(data, seed), data, epochs=epochs, **rule).state


def _start(data: Dataset, seed: int) -> shallow.Perceptron:
    torch.manual_seed(seed)
    return shallow.Perceptron(data.images.shape[1]).double()


def students(
    inputs: int, *, epochs: int, generator: torch.Generator
) -> Iterator[tuple[str, Tensor, State, State]]:
    """Pairs of students: planted ones, of norms 1 and 4, and two that SGD trains.

    Args:
        inputs: N.
        epochs: Of the training, on 2 N patterns each.
        generator: Draws teachers, students and patterns, as each pair is asked for.

    Yields:
        Name, the teacher's weights (N,), and the students' states.
    """
    for name, gram in PLANTED.items():
        teacher, a, b = shallow.vectors(gram, inputs, generator=generator)
        yield name, teacher, state(a), state(4 * b)
    (teacher,) = shallow.vectors([[1.0]], inputs, generator=generator)
    first, second = (
        shallow.gaussian(2 * inputs, teacher=teacher, generator=generator) for _ in range(2)
    )
    ends = sgd(first, epochs=epochs, seed=0), sgd(second, epochs=epochs, seed=1)
    yield "trained by SGD", teacher, *ends


def along_paths(
    inputs: int, *, points: int, patterns: int, epochs: int, generator: torch.Generator
) -> pd.DataFrame:
    """Generalisation error along three paths between two `students`, beside its formula.

    ``arccos(R(t))/π`` with the overlap ``R(t)`` of `toroid.shallow.path_overlap`: exact at every N.
    The standard error is that of a share of the test patterns.

    Args:
        inputs: N.
        points: Places along each path, evenly spaced.
        patterns: Test patterns of each pair's teacher.
        epochs: Of the students that are trained.
        generator: Draws all.

    Returns:
        A table of agreement, one panel for each pair of students.
    """
    t, found = np.linspace(0, 1, points), []
    for name, teacher, a, b in students(inputs, epochs=epochs, generator=generator):
        test = shallow.gaussian(patterns, teacher=teacher, generator=generator)
        for series, path, how in _paths(a, b):
            curve = along(path, sphere(inputs)[1], test, points=points, batch_size=5000)
            exact = shallow.error(shallow.path_overlap(t, *overlaps(teacher, a, b), **how))
            what = {"curve": "path", "panel": name, "series": series}
            errors = shallow.binomial_error(exact, len(test))
            found.append(rows(what, t, curve.error, exact, errors))
    return pd.concat(found)


def _paths(a: State, b: State) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """The three paths, and how the formula calls them."""
    symmetry, _ = sphere(a["linear.weight"].shape[1])
    u, v = (normalize(s, symmetry) for s in (a, b))
    norms = tuple(float(s["linear.weight"].norm()) for s in (a, b))
    yield "geodesic", Geodesic(u, v, symmetry), {"path": "geodesic"}
    yield "straight, raw", Linear(a, b), {"path": "straight", "norms": norms}
    yield "straight, normalised", Linear(u, v), {"path": "straight"}


def overlaps(teacher: Tensor, a: State, b: State) -> tuple[float, float, float]:
    """R1, R2 and q: cosines of two students with a teacher of norm 1 (N,), and with each other.

    Example:
        >>> teacher = torch.tensor([1.0, 0.0])
        >>> overlaps(teacher, state(torch.tensor([2.0, 0.0])), state(torch.tensor([0.0, 3.0])))
        (1.0, 0.0, 0.0)
    """
    u, v = (s["linear.weight"][0] / s["linear.weight"].norm() for s in (a, b))
    return float(teacher @ u), float(teacher @ v), float(u @ v)


def teacher_energies(
    inputs: int, binary_inputs: int, *, angles: Sequence[float], shares: Sequence[float],
    patterns: int, generator: torch.Generator,
) -> pd.DataFrame:  # fmt: skip
    """Local energy of a spherical and of a binary teacher on their patterns, beside its formula.

    A teacher is a typical solution of its own patterns, so that these are energies of typical
    solutions: `toroid.shallow.turned_error` and `toroid.shallow.flipped_error`, exact at every N.

    Args:
        inputs: N of the spherical teacher.
        binary_inputs: N of the binary one.
        angles: σ of the noise on the torus, radians.
        shares: Share of the binary weights that flip.
        patterns: In all, of either teacher.
        generator: Draws both teachers and their patterns.

    Returns:
        A table of agreement, one panel for each noise.
    """
    (spherical,) = shallow.vectors([[1.0]], inputs, generator=generator)
    binary = torch.randint(0, 2, (binary_inputs,), generator=generator).double() * 2 - 1
    how: dict[str, Any] = {"patterns": patterns, "generator": generator}
    return pd.concat([
        _teacher_energy(spherical, angles, "torus", **how),
        _teacher_energy(binary / binary_inputs**0.5, shares, "flips", **how),
    ])  # fmt: skip


def _teacher_energy(
    teacher: Tensor, sizes: Sequence[float], noise: str, *, patterns: int,
    generator: torch.Generator, sets: int = 20,
) -> pd.DataFrame:  # fmt: skip
    """One draw of the noise on each of many sets of patterns, which are then independent."""
    symmetry, model = sphere(len(teacher))
    count, energies = max(1, patterns // sets), []
    for seed in range(sets):
        data = shallow.gaussian(count, teacher=teacher, generator=generator)
        how: dict[str, Any] = {"sigma": sizes, "draws": 1, "seed": seed, "noise": noise}
        energies.append(local_energy(state(teacher), model, data, symmetry=symmetry, **how))
    formula = shallow.turned_error if noise == "torus" else shallow.flipped_error
    exact, variance = np.array([formula(len(teacher), size) for size in sizes]).T
    # binomial for each draw, and the draws' own spread
    errors = np.sqrt((exact * (1 - exact) - variance) / (sets * count) + variance / sets)
    what = {"curve": noise, "panel": noise, "series": "teacher (exact)"}
    measured = np.mean([energy["energy"] for energy in energies], 0)
    return rows(what, sizes, measured, exact, errors)
