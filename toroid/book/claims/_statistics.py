"""Estimates, and the bootstraps that give them an interval.

Pairs share networks, so they are no independent draws: networks are drawn, and the pairs among
those drawn are used. For correlations whole settings are drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import factorial, isfinite
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

DRAWS, SEED = 2000, 0


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """As pages print it."""
        return f"{written(self.value)} ({written(self.low)} to {written(self.high)})"

    @property
    def positive(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0

    def times(self, factor: float) -> Estimate:
        """In another unit."""
        return Estimate(*(factor * x for x in self))


def written(value: float) -> str:
    """Two digits after the point, none beyond 100; a power of ten where two are not enough."""
    if not isfinite(value):
        return "not defined" if np.isnan(value) else "infinite" if value > 0 else "-infinite"
    if 0 < abs(value) < 0.005:
        return f"{value:.0e}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


@dataclass(frozen=True)
class Sample:
    """A number, and what it is in each draw of the bootstrap.

    Attributes:
        value: From all networks.
        draws: From those drawn (draws,); not a number where a draw has no pair.
    """

    value: float
    draws: NDArray[Any]

    def __sub__(self, other: Sample) -> Sample:
        return Sample(self.value - other.value, self.draws - other.draws)

    def __mul__(self, other: Sample) -> Sample:
        return Sample(self.value * other.value, self.draws * other.draws)

    def over(self, other: Sample) -> Sample:
        """The ratio; of nothing to nothing it is 1, of something to nothing infinite."""
        return Sample(
            float(_ratio(np.array(self.value), np.array(other.value))),
            _ratio(self.draws, other.draws),
        )

    def below(self, one: float = 1.0) -> Sample:
        """How much is missing to a number."""
        return Sample(one - self.value, one - self.draws)

    @property
    def estimate(self) -> Estimate:
        """The 95 % percentile interval; draws without a pair say nothing and are left out."""
        known = self.draws[~np.isnan(self.draws)]
        if not len(known):
            return Estimate(self.value, np.nan, np.nan)
        # a percentile that is one of the draws: they can be infinite
        low, high = np.quantile(known, [0.025, 0.975], method="inverted_cdf")
        return Estimate(self.value, float(low), float(high))


def _ratio(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((x == 0) & (y == 0), 1.0, x / y)


class Networks:
    """The networks at the ends of a table's pairs, drawn with replacement within each algorithm.

    A network that is drawn twice counts twice; it makes no pair with itself. Networks are taken in
    the order in which they appear, so that what the seeds are called does not matter.

    Args:
        pairs: Columns ``kind, first_seed, second_seed``.
        draws: How many.
    """

    def __init__(self, pairs: pd.DataFrame, draws: int = DRAWS) -> None:
        """Draw."""
        ends = _ends(pairs)
        self.place = {end: k for k, end in enumerate(dict.fromkeys(x for e in ends for x in e))}
        self.counts = np.zeros((draws, len(self.place)))  # (draws, networks)
        algorithms = list(dict.fromkeys(algorithm for algorithm, _ in self.place))
        for k, algorithm in enumerate(algorithms):
            own = [i for (name, _), i in self.place.items() if name == algorithm]
            generator = np.random.default_rng([SEED, k])
            shares = np.full(len(own), 1 / len(own))
            self.counts[:, own] = generator.multinomial(len(own), shares, size=draws)

    def mean(self, pairs: pd.DataFrame, values: pd.Series) -> Sample:
        """The mean over some of the pairs.

        Args:
            pairs: Those rows.
            values: A number for each of them.
        """
        first, second = ([self.place[e] for e in end] for end in zip(*_ends(pairs), strict=True))
        weights = self.counts[:, first] * self.counts[:, second]  # (draws, pairs)
        with np.errstate(invalid="ignore"):
            drawn = weights @ values.to_numpy(float) / weights.sum(1)
        return Sample(float(values.mean()), drawn)


End = tuple[str, int]


def _ends(pairs: pd.DataFrame) -> list[tuple[End, End]]:
    """Short name and seed of both ends of each row."""
    return [
        ((names[0], first), (names[1], second))
        for names, first, second in zip(
            pairs["kind"].str.split("-"), pairs["first_seed"], pairs["second_seed"], strict=True
        )
    ]


def networks_in(pairs: pd.DataFrame) -> int:
    """How many networks some pairs have."""
    return len({end for ends in _ends(pairs) for end in ends})


def correlation(
    x: pd.Series, y: pd.Series, settings: Iterable[Any] | None = None, *, draws: int = DRAWS
) -> dict[str, Estimate]:
    """Rank correlations, with percentile bootstrap intervals over settings.

    Args:
        x: One number for each network.
        y: Another.
        settings: To which setting and seed each belongs; those of one are drawn together. None
            draws each network by itself.
        draws: Of the bootstrap, the same in every call.

    Returns:
        ``"tau"``, Kendall's, and ``"rho"``, Spearman's; not numbers where fewer than three
        networks or equal values leave them undefined.

    Example:
        >>> import pandas as pd
        >>> correlation(pd.Series([1, 2, 3, 4]), pd.Series([1, 3, 5, 9]))["tau"].value
        1.0
    """
    values = [v.to_numpy(float) for v in (x, y)]
    if len(x) < 3 or min(len(np.unique(v)) for v in values) < 2:
        return dict.fromkeys(("tau", "rho"), Estimate(np.nan, np.nan, np.nan))
    groups, _ = pd.factorize(pd.Series(list(range(len(x)) if settings is None else settings)))
    number = groups.max() + 1
    generator = np.random.default_rng(SEED)
    drawn = generator.multinomial(number, np.full(number, 1 / number), size=draws)[:, groups]
    counts = np.vstack([np.ones(len(x)), drawn])  # the first row is what was measured
    a, b = values
    found = {"tau": _kendall(a, b, counts), "rho": _spearman(a, b, counts)}
    return {name: Sample(float(v[0]), v[1:]).estimate for name, v in found.items()}


def _kendall(x: NDArray[Any], y: NDArray[Any], counts: NDArray[Any]) -> NDArray[Any]:
    """τ-b of each row of counts (draws, networks): how often each network is there."""
    a, b = (np.sign(v[:, None] - v) for v in (x, y))  # (networks, networks)
    both, first, second = ((counts @ m * counts).sum(1) for m in (a * b, a * a, b * b))
    return _over(both, np.sqrt(first * second))


def _spearman(x: NDArray[Any], y: NDArray[Any], counts: NDArray[Any]) -> NDArray[Any]:
    """ρ of each row of counts: Pearson's of the middle ranks, each as often as it is there."""
    ranks = [counts @ ((v[:, None] < v) + 0.5 * (v[:, None] == v)) for v in (x, y)]
    total = counts.sum(1, keepdims=True)
    a, b = (r - (counts * r).sum(1, keepdims=True) / total for r in ranks)
    both, first, second = ((counts * m).sum(1) for m in (a * b, a * a, b * b))
    return _over(both, np.sqrt(first * second))


def _over(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """Not a number where a draw has equal values only."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(y > 0, x / y, np.nan)


class Chance(NamedTuple):
    """How likely three disjoint ranges are where nothing differs.

    Attributes:
        any_order: In some order, if all pairs were drawn independently.
        one_order: In the order that a claim names.
        shared: In that order, if a pair's number is the sum of one of each of its networks.
    """

    any_order: float
    one_order: float
    shared: float

    @classmethod
    def of(cls, seeds: int = 3, groups: int = 3) -> Chance:
        """For so many seeds of each algorithm, and all their pairs.

        Args:
            seeds: Of each algorithm, from 3 on.
            groups: How many ranges.

        Example:
            >>> round(1 / Chance.of(3).one_order)
            1680
        """
        pairs = [(i, j) for j in range(seeds) for i in range(j)]
        one = factorial(len(pairs)) ** groups / factorial(groups * len(pairs))
        own = np.random.default_rng(SEED).normal(size=(50_000, groups, seeds))
        sums = own[..., [i for i, _ in pairs]] + own[..., [j for _, j in pairs]]
        apart = (sums.max(-1)[:, :-1] < sums.min(-1)[:, 1:]).all(1)
        return cls(factorial(groups) * one, one, float(apart.mean()))


class Paired(NamedTuple):
    """In how many of paired comparisons one thing is below another."""

    below: int
    of: int

    @property
    def holds(self) -> bool:
        """In at least three quarters."""
        return self.of > 0 and 4 * self.below >= 3 * self.of

    def __str__(self) -> str:
        """As pages print it."""
        return f"{self.below} of {self.of}"


@dataclass(frozen=True)
class Settings:
    """Networks by setting and seed, for paired comparisons and their bootstrap.

    Attributes:
        wide: A row for each setting and seed, a column for each algorithm.
    """

    wide: pd.DataFrame

    @cached_property
    def counts(self) -> NDArray[Any]:
        """How often each row is drawn (draws, rows)."""
        number = len(self.wide)
        generator = np.random.default_rng(SEED)
        return generator.multinomial(number, np.full(number, 1 / number), size=DRAWS)

    def compare(self, flatter: str, sharper: str) -> Paired:
        """In how many pairs of networks the one is below the other."""
        pairs = self.wide.reindex(columns=[flatter, sharper]).dropna()
        return Paired(int((pairs[flatter] < pairs[sharper]).sum()), len(pairs))

    def mean(self, algorithm: str) -> Sample:
        """The mean over settings."""
        values = self.wide[algorithm].to_numpy(float)
        with np.errstate(invalid="ignore"):
            return Sample(float(values.mean()), self.counts @ values / self.counts.sum(1))
