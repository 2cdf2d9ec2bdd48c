"""What the experiments share: seeds, the sphere of a perceptron, and rows of their tables.

A table of agreement has the columns ``panel, series, x, measured, exact, standard_error`` (and
``curve``, where the formula is exact at finite size); `toroid.book.plotting.agreement` draws it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ... import shallow
from ...symmetry import Symmetry, find_symmetries


def seeded(*numbers: int) -> torch.Generator:
    """A generator for these numbers: others draw what has nothing to do with it.

    Example:
        >>> a, b, c = (seeded(*numbers).initial_seed() for numbers in ((1, 2), (1, 2), (2, 1)))
        >>> a == b != c
        True
    """
    seed = np.random.SeedSequence(numbers).generate_state(1)[0]
    return torch.Generator().manual_seed(int(seed))


@cache
def sphere(inputs: int) -> tuple[Symmetry, shallow.Perceptron]:
    """The symmetry of a perceptron of so many inputs, and a network to evaluate its states with.

    Example:
        >>> [scale.name for scale in sphere(5)[0].scales]
        ['output']
    """
    model = shallow.Perceptron(inputs).double()
    return find_symmetries(model, torch.zeros(2, inputs, dtype=torch.float64)), model


def spread(values: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean over sets of patterns, and its standard error ``s / sqrt(n)``.

    Args:
        values: (sets, ...), at least two sets.

    Returns:
        Both (...).

    Example:
        >>> mean, error = spread([1.0, 3.0])
        >>> float(mean), float(error)
        (2.0, 1.0)
    """
    values = np.asarray(values, float)
    return values.mean(0), values.std(0, ddof=1) / len(values) ** 0.5


#: A point whose standard error is above this share of its value counts for nothing.
NOISY = 0.1


def farthest(measured: pd.Series, exact: Any, errors: pd.Series) -> float:
    """The largest distance from theory, in standard errors, of points that are not too noisy.

    Args:
        measured: At each place.
        exact: What theory says.
        errors: Standard errors.

    Returns:
        Infinite where no point is left: nothing agrees by being noisy.

    Example:
        >>> points = pd.Series([1.0, 1.0]), pd.Series([1.2, 2.0]), pd.Series([0.1, 0.2])
        >>> round(farthest(*points), 6)
        2.0
    """
    counted = errors <= NOISY * measured.abs()
    off = ((measured - exact) / errors).abs()[counted]
    return float(off.max()) if len(off) else math.inf


def rows(what: Mapping[str, Any], x: Any, measured: Any, exact: Any, errors: Any) -> pd.DataFrame:
    """Rows of a table of what was measured beside a formula.

    Args:
        what: Further columns, before the others: one value for all rows, or one for each.
        x: Places (rows,).
        measured: (rows,), or NaN where nothing was.
        exact: What the formula gives, likewise.
        errors: Standard errors of what was measured, likewise.
    """
    columns = {"x": x, "measured": measured, "exact": exact, "standard_error": errors}
    return pd.DataFrame({**what, **columns})


def line(
    panel: str, series: str, x: Iterable[float], formula: Callable[[float], float]
) -> pd.DataFrame:
    """Rows of a line of theory, where nothing is measured.

    Example:
        >>> line("p", "s", [1.0, 2.0], lambda x: x**2)["exact"].tolist()
        [1.0, 4.0]
    """
    x = list(x)
    what = {"panel": panel, "series": series}
    return rows(what, x, np.nan, [formula(place) for place in x], np.nan)
