"""Solutions of a negative margin: the barrier between typical ones, and the star."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ... import shallow
from ...landscape import along
from ...paths import Geodesic
from ._tables import farthest, rows, seeded, sphere, spread


class Negative(NamedTuple):
    """Geodesics that end in typical solutions of a negative margin κ.

    Attributes:
        curves: A table of agreement along them; ``margin`` is that of the other end.
        heights: Their highest places, against that margin: measured, and of theory.
        worst: Largest share of patterns below κ on any, by that margin.
    """

    curves: pd.DataFrame
    heights: pd.DataFrame
    worst: dict[float, float]

    def typical(self) -> pd.DataFrame:
        """The places inside the geodesic between typical solutions of the same margin."""
        same = self.curves["margin"] == self.curves["margin"].iloc[0]
        return self.curves[same & (self.curves["standard_error"] > 0)]

    def deviation(self) -> float:
        """Their largest distance from theory, see `farthest`."""
        inner = self.typical()
        return farthest(inner["measured"], inner["exact"], inner["standard_error"])


def meet(
    kappas: tuple[float, float], sample: int, *, size: int, load: float, flights: int, points: int
) -> tuple[NDArray[Any], float]:
    """Patterns below a margin on geodesics between typical solutions of two margins.

    Two solutions of each are sampled, for one set of random patterns.

    Args:
        kappas: The margins; the second is the one to keep.
        sample: Number of the set.
        size: N.
        load: Patterns for each input.
        flights: Of the billiard.
        points: Places along each geodesic.

    Returns:
        The share of patterns at each place (points,), mean over the four pairs; and the largest.
    """
    draws = seeded(5, size, sample, *(int(1000 * (kappa + 9)) for kappa in kappas))
    data = shallow.gaussian(round(load * size), inputs=size, generator=draws)
    ends = []
    for kappa in kappas:
        how: dict[str, Any] = {"generator": draws, "margin": kappa}
        starts = shallow.feasible(data.images, count=2, **how)
        ends.append(shallow.billiard(data.images, starts, flights=flights, **how))
    model, state = shallow.Perceptron(size, kappas[1]).double(), shallow.Perceptron.state
    paths = [Geodesic(state(a), state(b), sphere(size)[0]) for a, b in product(*ends)]
    errors = [along(path, model, data, points=points).error for path in paths]
    return np.mean(errors, 0), float(np.max(errors))


def negative(
    margin: float, robust: Sequence[float], samples: int, *, size: int, load: float, flights: int,
    points: int,
) -> Negative:  # fmt: skip
    """Geodesics between typical solutions of a negative margin, and from more robust ones.

    Beside `toroid.shallow.geodesic_error`, after Annesi et al. (2023).

    Args:
        margin: κ < 0.
        robust: Larger margins of the other end, ascending.
        samples: Sets of patterns; the standard error is over these.
        size: As in `meet`.
        load: As in `meet`.
        flights: As in `meet`.
        points: As in `meet`.
    """
    t, curves, heights, highest = np.linspace(0, 1, points), [], [], {}
    how: dict[str, Any] = {"size": size, "load": load, "flights": flights, "points": points}
    for kappa in (margin, *robust):
        met = [meet((kappa, margin), sample, **how) for sample in range(samples)]
        mean, error = spread([errors for errors, _ in met])
        highest[kappa] = max(worst for _, worst in met)
        exact = shallow.geodesic_error(t, load, kappa, margin, margin)
        name = "typical to typical" if kappa == margin else f"margin {kappa:g} to typical"
        what: dict[str, Any] = {"panel": "along the geodesic", "series": name, "margin": kappa}
        curves.append(rows(what, t, mean, exact, error))
        top = int(exact.argmax()) if exact.max() > 0 else points // 2
        what = {"panel": "highest place", "series": "measured", "margin": kappa}
        heights.append(rows(what, [kappa], mean[[top]], np.nan, error[[top]]))
    heights.append(_tops(t, load, margin, max(0.0, robust[-1])))
    return Negative(pd.concat(curves), pd.concat(heights), highest)


def _tops(t: NDArray[Any], load: float, margin: float, last: float) -> pd.DataFrame:
    """The theory's highest places, for margins of the other end up to the last."""
    fine = np.linspace(margin, last, 15)
    tops = [shallow.geodesic_error(t, load, kappa, margin, margin).max() for kappa in fine]
    what = {"panel": "highest place", "series": "theory", "margin": np.nan}
    return rows(what, fine, np.nan, tops, np.nan)
