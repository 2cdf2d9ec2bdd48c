"""Overlaps of sampled solutions beside the replica-symmetric theory.

Every function takes the table ``learnt`` of `typical`.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from ... import shallow
from ._tables import NOISY, farthest, line, rows, spread


def sampled(learnt: pd.DataFrame, labels: str, kind: str, column: str) -> pd.DataFrame:
    """Of one kind of solution: ``mean`` over sets and ``sem``, its error, by size and load."""
    part = learnt[(learnt["labels"] == labels) & (learnt["kind"] == kind)]
    return part.groupby(["size", "load"])[column].agg(["mean", "sem"])


def extrapolated(table: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Linear in 1/N, from the two largest sizes: ``(N2 x2 - N1 x1) / (N2 - N1)``.

    Args:
        table: Columns ``mean, sem`` by size N and load; with a single size, that is taken.

    Returns:
        Mean and standard error by load.

    Example:
        >>> index = pd.MultiIndex.from_product([[10, 20], [1.0]], names=["size", "load"])
        >>> means = pd.DataFrame({"mean": [0.5 + 1 / 10, 0.5 + 1 / 20], "sem": 0.1}, index)
        >>> extrapolated(means)[0].round(6).tolist()
        [0.5]
    """
    sizes = sorted(table.index.get_level_values("size").unique())
    one, two = sizes[-2:] if len(sizes) > 1 else (0, sizes[-1])
    last = table.loc[two]
    first = table.loc[one] if one else last
    mean = (two * last["mean"] - one * first["mean"]) / (two - one)
    return mean, np.hypot(two * last["sem"], one * first["sem"]) / (two - one)


def overlap_curves(learnt: pd.DataFrame) -> pd.DataFrame:
    """Overlaps against the load: sampled at the largest size, extrapolated, and of theory.

    The theory is `toroid.shallow.typical_overlap` (Gardner 1988; Györgyi and Tishby 1990), and its
    root for the Bayes-optimal student (Opper and Haussler 1991).

    Returns:
        A table of agreement; lines and marks are rows of their own.
    """
    left, right = "random labels: mutual overlap", "a teacher: overlap with it"
    grid, gibbs = np.linspace(0.02, 1.9, 40), partial(shallow.typical_overlap, teacher=True)
    parts = [
        line(left, "typical", grid, shallow.typical_overlap),
        line(right, "typical", grid, gibbs),
        line(right, "Bayes", grid, lambda load: gibbs(load) ** 0.5),
    ]
    for panel, labels, column, kinds in (
        (left, "random", "q", ("typical", "start")),
        (right, "teacher", "R", ("typical", "SGD", "RSGD")),
    ):
        for kind in kinds:
            part = sampled(learnt, labels, kind, column).loc[learnt["size"].max()]
            parts.append(_marks(panel, kind, part["mean"], part["sem"]))
        means = extrapolated(sampled(learnt, labels, "typical", column))
        parts.append(_marks(panel, "extrapolated", *means))
    return pd.concat(parts)


def _marks(panel: str, series: str, mean: pd.Series, errors: pd.Series) -> pd.DataFrame:
    return rows({"panel": panel, "series": series}, mean.index, mean, np.nan, errors)


def overlaps_beside(learnt: pd.DataFrame) -> pd.DataFrame:
    """Overlaps of typical solutions, by size and extrapolated, beside theory.

    Returns:
        Columns ``labels, overlap, load, theory``, one for each size, ``extrapolated`` (these with
        their standard errors), ``in standard errors`` (the distance from theory), ``counts`` (no
        where it is too noisy to, see `farthest`).
    """
    found = []
    for labels, column in (("random", "q"), ("teacher", "q"), ("teacher", "R")):
        table = sampled(learnt, labels, "typical", column)
        mean, errors = extrapolated(table)
        for load in learnt["load"].unique():
            theory = shallow.typical_overlap(load, teacher=labels == "teacher")
            row: dict[str, Any] = {
                "labels": labels, "overlap": column, "load": load, "theory": theory,
            }  # fmt: skip
            for size in learnt["size"].unique():
                row[f"N = {size}"] = _estimate(*table.loc[(size, load), ["mean", "sem"]])
            row["extrapolated"] = _estimate(mean[load], errors[load])
            row["in standard errors"] = (mean[load] - theory) / errors[load]
            counts = errors[load] <= NOISY * abs(mean[load])
            found.append({**row, "counts": "yes" if counts else "no"})
    return pd.DataFrame(found)


def _estimate(mean: float, error: float) -> str:
    return f"{mean:.3f} ± {error:.3f}"


def deviation(learnt: pd.DataFrame, labels: str, column: str) -> float:
    """Largest distance of the extrapolated overlaps from theory, see `farthest`."""
    mean, errors = extrapolated(sampled(learnt, labels, "typical", column))
    theory = [shallow.typical_overlap(load, teacher=labels == "teacher") for load in mean.index]
    return farthest(mean, theory, errors)


def least_gain(learnt: pd.DataFrame) -> float:
    """Least gain of gradient descent over typical students, in standard errors.

    The gain is in overlap R with the teacher, for the same patterns at the largest size: its mean
    over sets over its standard error, the least over loads and SGD or replicated SGD.
    """
    taught = (learnt["labels"] == "teacher") & (learnt["size"] == learnt["size"].max())
    paired = learnt[taught].pivot(index=["load", "sample"], columns="kind", values="R")
    gains = [
        spread(part[kind] - part["typical"])
        for (_, part), kind in product(paired.groupby("load"), ("SGD", "RSGD"))
    ]
    return min(float(mean / error) for mean, error in gains)
