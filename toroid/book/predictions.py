"""What theory says of shallow models, each with the number and the bound that decide it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

__all__ = ["PREDICTIONS", "Prediction", "predicted"]


class Prediction(NamedTuple):
    """What theory says of a shallow model, and the one number that decides whether it is so.

    Attributes:
        text: What theory says.
        source: By whom.
        number: What is measured.
        relation: ``"<="`` or ``">="``: how the number must stand to the bound.
        bound: The bound.
    """

    text: str
    source: str
    number: str
    relation: str
    bound: float


#: By name; each bound was written down before its number was looked at.
PREDICTIONS = {
    "convex": Prediction(
        "at a margin from 0 on, solutions are joined by geodesics without an error", "Gardner 1988",
        "largest training error on a geodesic between solutions of any kind", "<=", 0.0,
    ),
    "typical": Prediction(
        "typical solutions of random patterns have the replica-symmetric overlap", "Gardner 1988",
        "largest deviation over loads, extrapolated in 1/N, in standard errors", "<=", 4.0,
    ),
    "gibbs": Prediction(
        "typical solutions of a teacher's patterns have the overlap of Gibbs learning",
        "Györgyi and Tishby 1990",
        "largest deviation of R and q over loads, extrapolated in 1/N, in standard errors",
        "<=", 4.0,
    ),
    "atypical": Prediction(
        "gradient descent finds solutions that generalise better than typical ones",
        "Baldassi et al. 2020", "least gain in overlap with the teacher, in standard errors", ">=",
        4.0,
    ),
    "barrier": Prediction(
        "between typical solutions of a negative margin there is the replica-symmetric barrier",
        "Annesi et al. 2023", "largest deviation along the geodesic, in standard errors", "<=", 4.0,
    ),
    "star": Prediction(
        "robust solutions see typical ones of a negative margin without an error",
        "Annesi et al. 2023", "largest error on a geodesic from a robust to a typical solution",
        "<=", 0.0,
    ),
    "isolated": Prediction(
        "typical solutions of the binary perceptron are isolated", "Huang and Kabashima 2014",
        "largest number of solutions one flip from a teacher", "<=", 0.0,
    ),
    "dense": Prediction(
        "entropic algorithms find solutions in dense clusters", "Baldassi et al. 2015",
        "least number of solutions one flip from one of them", ">=", 1.0,
    ),
    "flat": Prediction(
        "their local energy is below that of typical solutions", "Baldassi et al. 2016",
        "largest ratio of the two, over sizes of the noise", "<=", 1.0,
    ),
    "hamming": Prediction(
        "two of them are joined by lower barriers than one of them and a typical one",
        "after Baldassi et al. 2015", "ratio of mean barriers on Hamming paths", "<=", 1.0,
    ),
    "replicated": Prediction(
        "replicated gradient descent finds flatter solutions than gradient descent",
        "Baldassi et al. 2020", "ratio of mean local energies, spherical perceptron", "<=", 1.0,
    ),
    "planted": Prediction(
        "a permutation between two students of one teacher is found again",
        "Pittorino et al. 2022", "share of the units found, at the largest N", ">=", 1.0,
    ),
    "unrelated": Prediction(
        "alignment makes unrelated networks alike by a cosine that falls as the root of 1/N",
        "elementary", "distance of the measured exponent from -1/2", "<=", 0.1,
    ),
}  # fmt: skip


def predicted(numbers: Mapping[str, float]) -> pd.DataFrame:
    """`PREDICTIONS` beside what was measured.

    Args:
        numbers: The number of each prediction, by its name; those left out were not measured.

    Returns:
        Columns ``name, theory, source, number, bound, measured, holds``.

    Raises:
        ValueError: If there is no such prediction.

    Example:
        >>> predicted({"dense": 12.0, "star": 0.01})[["name", "bound", "holds"]].values.tolist()
        [['star', '<= 0', False], ['dense', '>= 1', True]]
    """
    if unknown := numbers.keys() - PREDICTIONS.keys():
        raise ValueError(f"no prediction {', '.join(unknown)}; there are {', '.join(PREDICTIONS)}")
    rows = []
    for name, (text, source, number, relation, bound) in PREDICTIONS.items():
        if name in numbers:
            found = float(numbers[name])
            holds = found <= bound if relation == "<=" else found >= bound
            row = (name, text, source, number, f"{relation} {bound:g}", found, holds)
            rows.append(row)
    columns = ["name", "theory", "source", "number", "bound", "measured", "holds"]
    return pd.DataFrame(rows, columns=columns)
