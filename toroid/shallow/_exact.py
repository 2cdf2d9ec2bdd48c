"""Closed forms of the perceptron with normal inputs and a teacher, exact at finite size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import linear_sum_assignment
from scipy.special import gammaln

from .._state import check_choice

__all__ = [
    "binomial_error", "chance_cosine", "error", "expected_neighbours", "expected_worst",
    "flipped_error", "matched_angle", "path_overlap", "shuffled_angle", "surviving_share",
    "turned_error",
]  # fmt: skip

PATHS = ("geodesic", "straight")


def check_overlap(*overlaps: float) -> None:
    """Overlaps of unit vectors are in [-1, 1]."""
    for overlap in overlaps:
        if not abs(overlap) <= 1 + 1e-12:
            raise ValueError(f"an overlap is {overlap}; those of unit vectors are in [-1, 1]")


def error(overlap: float | NDArray[Any]) -> NDArray[Any]:
    """Generalisation error ``arccos(R)/π`` of a perceptron of overlap R with its teacher.

    The chance that two hyperplanes of this angle part a normal point. It is also the training error
    of a solution that is typical, the teacher, after it is turned by ``arccos R``; of a binary one
    with a share p of its weights flipped, ``R = 1 - 2p``.

    Args:
        overlap: R, of unit vectors, in [-1, 1].

    Returns:
        In [0, 1], of the same shape.

    Raises:
        ValueError: If an overlap is out of range.

    Example:
        >>> error(np.array([1.0, 0.0, -1.0]))
        array([0. , 0.5, 1. ])
    """
    r = np.asarray(overlap, float)
    check_overlap(*r.ravel())
    return np.arctan2(np.sqrt(np.clip((1 - r) * (1 + r), 0, None)), r) / np.pi


def binomial_error(share: float | NDArray[Any], count: int) -> NDArray[Any]:
    """Standard error ``sqrt(p (1 - p) / P)`` of a share that is counted on independent patterns.

    Args:
        share: p, the exact share, in [0, 1].
        count: Number of patterns P.

    Returns:
        Of the same shape.

    Example:
        >>> binomial_error(np.array([0.5, 1.0]), 100)
        array([0.05, 0.  ])
    """
    share = np.asarray(share, float)
    return np.sqrt(share * (1 - share) / count)


def path_overlap(
    t: float | NDArray[Any], first: float, second: float, mutual: float, *, path: str = "geodesic",
    norms: tuple[float, float] = (1.0, 1.0),
) -> NDArray[Any]:  # fmt: skip
    """Overlap with the teacher along the path between two students.

    ``R(t) = (a R1 + b R2) / sqrt(a² + b² + 2 a b q)``. On the geodesic ``a = sin((1-t)θ)/sin θ``
    and ``b = sin(tθ)/sin θ``, θ the angle between the students, and the root is 1; on the straight
    line ``a = (1-t) |w1|`` and ``b = t |w2|``, between normalised students with norms 1.

    On the geodesic ``R(t) >= min(R1, R2)`` if that is not negative, since ``a + b >= 1``; in the
    middle it is ``(R1 + R2) / (2 cos(θ/2))``.

    Args:
        t: Places, in [0, 1].
        first: R1, of the student at t = 0.
        second: R2, of the student at t = 1.
        mutual: Overlap q of the two students, above -1.
        path: ``"geodesic"`` or ``"straight"``.
        norms: Norms of the two students, on the straight line.

    Returns:
        R, of the shape of t.

    Raises:
        ValueError: If an overlap is out of range, the students are opposite, or there is no such
            path.

    Example:
        >>> path_overlap(np.array([0.0, 0.5, 1.0]), 0.6, 0.6, 0.0).round(4)
        array([0.6   , 0.8485, 0.6   ])
    """
    check_choice("path", path, PATHS)
    check_overlap(first, second, mutual)
    if mutual <= -1:
        raise ValueError(f"the students' overlap is {mutual}: opposite ones have no path")
    t = np.asarray(t, float)
    theta = np.pi * error(mutual)
    if path == "geodesic" and theta > 0:
        a, b = np.sin((1 - t) * theta), np.sin(t * theta)  # sin θ drops out
    else:
        a, b = (1 - t) * norms[0], t * norms[1]
    return np.clip((a * first + b * second) / np.sqrt(a**2 + b**2 + 2 * a * b * mutual), -1, 1)


def turned_error(size: int, sigma: float) -> tuple[float, float]:
    """Training error of a typical solution after a step of `toroid.local_energy` on the torus.

    The angle is ``φ = σ χ / sqrt(N - 1)``, χ the norm of N - 1 standard normal numbers, and the
    error ``φ/π``.

    Args:
        size: Number of inputs N.
        sigma: σ, small against π.

    Returns:
        Its mean over draws, ``c σ/π`` with ``c = E[χ] / sqrt(N - 1)``, and its variance.

    Example:
        >>> mean, variance = turned_error(100, 0.1)
        >>> round(mean * math.pi, 4), variance < 1e-5
        (0.0997, True)
    """
    c = math.sqrt(2 / (size - 1)) * math.exp(gammaln(size / 2) - gammaln((size - 1) / 2))
    return c * sigma / math.pi, (1 - c**2) * (sigma / math.pi) ** 2


def flipped_error(size: int, share: float) -> tuple[float, float]:
    """Training error of a typical binary solution after each weight flips with some probability.

    ``arccos(1 - 2k/N)/π``, with k from a binomial distribution.

    Args:
        size: Number of weights N.
        share: The probability p.

    Returns:
        Its mean over k, and its variance.

    Example:
        >>> mean, variance = flipped_error(1001, 0.1)
        >>> abs(mean - float(error(0.8))) < 1e-3
        True
    """
    from scipy.stats import binom  # alone it takes as long to import as all of SciPy's rest here

    k = np.arange(size + 1)
    weights, errors = binom.pmf(k, size, share), error(1 - 2 * k / size)
    mean = float(weights @ errors)
    return mean, float(weights @ (errors - mean) ** 2)


def expected_worst(points: int) -> float:
    """Expected largest of ``|z|`` over so many independent normal numbers.

    Correlated ones, such as the points of a curve on one test set, exceed any level less often
    (Šidák 1967).

    Args:
        points: How many, at least 1.

    Example:
        >>> round(expected_worst(1), 4), round(expected_worst(100), 2)
        (0.7979, 2.75)
    """
    found, _ = quad(lambda x: 1 - math.erf(x / math.sqrt(2)) ** points, 0, 12, limit=200)
    return float(found)


def matched_angle(size: int, overlap: float = 0.0) -> float:
    """Root mean square angle between matched units of two students of one teacher.

    Of overlap R with the teacher's unit both, in independent directions: the cosine is
    ``R² + (1 - R²) ζ``, ζ that of two random directions orthogonal to it, of density
    ``(1 - ζ²)^((N - 4)/2)``. With R = 0 and one more dimension: unrelated units.

    Args:
        size: Number of inputs N, at least 3.
        overlap: R.

    Returns:
        Radians.

    Example:
        >>> round(matched_angle(10000), 2), round(matched_angle(10000, 0.8), 2)
        (1.57, 0.88)
    """
    power = size - 2 if overlap == 0 else size - 3  # of sin φ, in N or N - 1 dimensions
    constant = math.exp(gammaln(power / 2 + 1) - gammaln((power + 1) / 2)) / math.sqrt(math.pi)

    def term(phi: float) -> float:
        cosine = overlap**2 + (1 - overlap**2) * math.cos(phi)
        return constant * math.sin(phi) ** power * (np.pi * float(error(cosine))) ** 2

    return math.sqrt(quad(term, 0, math.pi, limit=200, points=[math.pi / 2])[0])


def shuffled_angle(size: int, overlap: float, units: int) -> float:
    """Root mean square angle between the units of two such students, in a random order each.

    One of the K units stays at its place on average, and the others meet units of another
    direction: ``sqrt((φ(R)² + (K - 1) φ(0)²) / K)``, φ the `matched_angle`.

    Args:
        size: Number of inputs N, at least 3.
        overlap: R, of each unit with the teacher's.
        units: K.

    Returns:
        Radians.

    Example:
        >>> shuffled_angle(100, 0.5, 1) == matched_angle(100, 0.5)
        True
    """
    matched, other = matched_angle(size, overlap), matched_angle(size)
    return math.sqrt((matched**2 + (units - 1) * other**2) / units)


def chance_cosine(units: int, draws: int = 500) -> float:
    """Mean entry ``c_K`` of the best assignment in a K x K matrix of normal numbers.

    Aligning two networks of K units that have nothing in common chooses among K² cosines, which are
    normal numbers over ``sqrt(N)``: it leaves a mean cosine of ``c_K / sqrt(N)``. By drawing; known
    are ``c_1 = 0`` and ``c_2 = 1/sqrt(2π)``.

    Args:
        units: K.
        draws: Matrices, of a fixed seed.

    Example:
        >>> abs(chance_cosine(2, draws=10_000) - (2 * math.pi) ** -0.5) < 0.02
        True
    """
    rng, found = np.random.default_rng(0), []
    for _ in range(draws):
        matrix = rng.standard_normal((units, units))
        found.append(matrix[linear_sum_assignment(matrix, maximize=True)].mean())
    return float(np.mean(found))


def surviving_share(size: int, patterns: int, flips: int) -> float:
    """Share of the sets of so many flips that leave a typical binary solution a solution.

    ``(1 - arccos(1 - 2d/N)/π)^P`` for a teacher and its patterns, exact on average over these.

    Args:
        size: Number of weights N.
        patterns: Their number P.
        flips: d.

    Example:
        >>> surviving_share(10, 3, 5)  # orthogonal to the teacher: each pattern is kept or not
        0.125
    """
    return float((1 - float(error(1 - 2 * flips / size))) ** patterns)


def expected_neighbours(size: int, patterns: int, flips: int = 1) -> float:
    """Expected number of solutions of a teacher's patterns so many flips from the teacher.

    ``C(N, d) (1 - arccos(1 - 2d/N)/π)^P``, exact at finite size. A teacher is a typical solution of
    its own patterns: where this is below 1, typical solutions are isolated.

    Args:
        size: Number of weights N.
        patterns: Their number P.
        flips: d.

    Example:
        >>> expected_neighbours(1001, 500) < 0.05
        True
    """
    ways = gammaln(size + 1) - gammaln(flips + 1) - gammaln(size - flips + 1)
    return math.exp(ways + patterns * math.log1p(-float(error(1 - 2 * flips / size))))
