"""What the replica-symmetric theory of the perceptron predicts, by quadrature.

Weights w on the unit sphere (or binary, over ``sqrt(N)``), ``P = α N`` Gaussian patterns ξ with the
labels of a teacher or, what is the same as random ones, all positive; a solution has
``w · ξ >= κ`` for all of them. Throughout ``H(x) = P(z > x)``, G is the normal density,
``u = (κ + sqrt(q) z) / sqrt(1 - q)``, and averages are over a standard normal z.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri

__all__ = [
    "binary_capacity", "binary_entropy", "capacity", "cross_overlap", "geodesic_error",
    "star_margin", "typical_overlap",
]  # fmt: skip

_Z = np.linspace(-9, 9, 1801)
_DZ = np.exp(-0.5 * _Z**2) / math.sqrt(2 * math.pi) * (_Z[1] - _Z[0])
_FEW = np.polynomial.hermite_e.hermegauss(48)
_LEGENDRE = np.polynomial.legendre.leggauss(24)


def _hazard(u: NDArray[Any]) -> NDArray[Any]:
    """G(u) / H(u)."""
    return np.exp(-0.5 * u**2 - 0.5 * math.log(2 * math.pi) - log_ndtr(-u))


def _weighted(q: float, kappa: float, teacher: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """u on the grid, and the weights of its average: a teacher's pattern comes with 2 H(u)."""
    u = (kappa + math.sqrt(q) * _Z) / math.sqrt(1 - q)
    return u, _DZ * 2 * ndtr(-u) if teacher else _DZ


def _force(q: float, kappa: float, teacher: bool) -> float:
    """``E[(G/H)²(u)]``."""
    u, weights = _weighted(q, kappa, teacher)
    return float(weights @ _hazard(u) ** 2)


def capacity(kappa: float = 0.0) -> float:
    """Largest load of a spherical perceptron that stores random patterns with a margin.

    ``1 / E[(z + κ)² for z > -κ] = 1 / ((1 + κ²) H(-κ) + κ G(κ))`` (Gardner 1988). Exact for κ not
    below 0; for negative margins replica symmetry breaks before it, and this is an upper bound.

    Args:
        kappa: Margin κ.

    Returns:
        Patterns for each weight.

    Example:
        >>> capacity(0.0)
        2.0
    """
    density = math.exp(-0.5 * kappa**2) / math.sqrt(2 * math.pi)
    return float(1 / ((1 + kappa**2) * ndtr(kappa) + kappa * density))


def typical_overlap(alpha: float, kappa: float = 0.0, *, teacher: bool = False) -> float:
    """Overlap q of two typical solutions of the spherical perceptron.

    The saddle point ``q = α (1 - q) E[(G/H)²(u)]`` (Gardner 1988). With a teacher it is
    ``q = α E[(G/H)²(u)]``, the average with the weight ``2 H(u)``, and q is also the overlap R with
    the teacher (Györgyi and Tishby 1990): the learning curve of Gibbs learning.

    Args:
        alpha: Patterns for each weight.
        kappa: Margin κ; 0 with a teacher.
        teacher: Whether a teacher gives the labels, or they are random.

    Returns:
        q in [0, 1).

    Raises:
        ValueError: If the load is negative or not below `capacity`, or a teacher comes with a
            margin.

    Example:
        >>> round(typical_overlap(1.0), 4), round(typical_overlap(1.0, teacher=True), 4)
        (0.5853, 0.4863)
    """
    if teacher and kappa:
        raise ValueError(f"kappa is {kappa}; with a teacher's labels the margin is 0")
    if not 0 <= alpha < (math.inf if teacher else capacity(kappa)):
        raise ValueError(
            f"alpha is {alpha}; solutions of margin {kappa} need a load from 0 to below "
            f"{math.inf if teacher else capacity(kappa):.4g}"
        )

    def gap(q: float) -> float:
        return q - alpha * (1 if teacher else 1 - q) * _force(q, kappa, teacher)

    return float(brentq(gap, 0.0, 1 - 1e-7)) if alpha > 0 else 0.0


def cross_overlap(alpha: float, first: float, second: float) -> float:
    """Overlap p of typical solutions of two margins, for the same random patterns.

    ``p = α sqrt((1 - q1)(1 - q2)) E[G/H(u1) G/H(u2)]``, the z of the two with correlation
    ``p / sqrt(q1 q2)``; q where the margins are equal.

    Args:
        alpha: Patterns for each weight.
        first: One margin.
        second: The other.

    Returns:
        p.

    Raises:
        ValueError: As `typical_overlap`.

    Example:
        >>> abs(cross_overlap(1.0, -0.5, -0.5) - typical_overlap(1.0, -0.5)) < 1e-4
        True
    """
    q1, q2 = (typical_overlap(alpha, kappa) for kappa in (first, second))
    if alpha == 0:
        return 0.0
    top = math.sqrt(q1 * q2)

    def gap(p: float) -> float:
        (z1, z2), weights = _pair(p / top)
        u1 = (first + math.sqrt(q1) * z1) / math.sqrt(1 - q1)
        u2 = (second + math.sqrt(q2) * z2) / math.sqrt(1 - q2)
        mean = float((weights * _hazard(u1) * _hazard(u2)).sum())
        return p - alpha * math.sqrt((1 - q1) * (1 - q2)) * mean

    return float(brentq(gap, 0.0, top)) if gap(top) > 0 else top


def _pair(
    correlation: float,
) -> tuple[tuple[NDArray[Any], NDArray[Any]], NDArray[Any]]:
    """Nodes (z1, z2) of two normal numbers with this correlation, and their weights."""
    nodes, weights = _FEW[0], _FEW[1] / math.sqrt(2 * math.pi)
    z1, y = np.meshgrid(nodes, nodes, indexing="ij")
    z2 = correlation * z1 + math.sqrt(max(0.0, 1 - correlation**2)) * y
    return (z1, z2), np.outer(weights, weights)


def geodesic_error(
    t: NDArray[Any], alpha: float, first: float, second: float, kappa: float
) -> NDArray[Any]:
    """Patterns below a margin on the geodesic between typical solutions of two margins.

    On the great circle of angle ``θ = arccos p`` a pattern's ``h = w · ξ`` is ``a h1 + b h2`` with
    ``a = sin((1-t)θ)/sin θ``, ``b = sin(tθ)/sin θ``; at the ends, given z1 and z2, ``h1 >= κ1`` and
    ``h2 >= κ2`` are independent truncated normal numbers. After Annesi et al. (2023).

    Args:
        t: Places along the path, (points,), in [0, 1].
        alpha: Patterns for each weight.
        first: Margin of the solutions at t = 0, not below `kappa`.
        second: Margin at t = 1, not below `kappa`.
        kappa: The margin to keep on the way.

    Returns:
        ``P(a h1 + b h2 < κ)`` (points,).

    Raises:
        ValueError: As `typical_overlap`, and if the ends do not keep the margin.

    Example:
        >>> geodesic_error([0.0, 0.5], 1.0, 0.0, 0.0, 0.0)  # a convex set
        array([0., 0.])
    """
    if min(first, second) < kappa:
        raise ValueError(f"margins {first} and {second} at the ends do not keep {kappa}")
    q1, q2 = (typical_overlap(alpha, margin) for margin in (first, second))
    p = cross_overlap(alpha, first, second)
    (z1, z2), weights = _pair(p / math.sqrt(q1 * q2) if p else 0.0)
    theta = math.atan2(math.sqrt((1 - p) * (1 + p)), p)
    found = []
    for place in np.asarray(t, float):
        a, b = (math.sin(s * theta) / math.sin(theta) for s in (1 - place, place))
        below = _below((a, b), (first, second), (q1, q2), (z1, z2), kappa)
        found.append(float((weights * below).sum()))
    return np.array(found)


def _below(
    shares: tuple[float, float], margins: tuple[float, float], overlaps: tuple[float, float],
    z: tuple[NDArray[Any], NDArray[Any]], kappa: float,
) -> NDArray[Any]:  # fmt: skip
    """P(a h1 + b h2 < κ) given z: over the part of h1 where h2 can bring the sum below κ."""
    (a, b), (k1, k2), (z1, z2) = shares, margins, z
    if a <= 1e-12 or b <= 1e-12 or a * k1 + b * k2 >= kappa:
        return np.zeros_like(z1)
    s1, s2 = (math.sqrt(1 - q) for q in overlaps)
    r1, r2 = (math.sqrt(q) for q in overlaps)
    low, high = ((k + r1 * z1) / s1 for k in (k1, (kappa - b * k2) / a))  # of x1 = (h1 + r1 z1)/s1
    least = np.exp(log_ndtr(-high) - log_ndtr(-low))  # of the share of x1's tail
    nodes, lengths = _LEGENDRE
    share = least + (1 - least) * (nodes[:, None, None] + 1) / 2  # (24, 48, 48)
    x1 = -ndtri(share * ndtr(-low))
    h1 = s1 * x1 - r1 * z1
    reach = ((kappa - a * h1) / b + r2 * z2) / s2
    start = (k2 + r2 * z2) / s2
    inside = 1 - np.exp(np.minimum(0, log_ndtr(-reach) - log_ndtr(-start)))
    return (1 - least) * (lengths[:, None, None] * inside).sum(0) / 2


def star_margin(alpha: float, kappa: float) -> float:
    """Least margin whose typical solutions see those of a negative margin without an error.

    A solution of margin κ' joins one of margin κ < 0 by a geodesic that keeps κ, whatever the
    patterns, if and only if ``κ' >= p κ``, p the overlap of the two: on the way the worst pattern's
    ``h = a κ' + b κ`` is convex in t and ends at κ, with the slope ``(p κ - κ') θ/sin θ``. This is
    the root of ``κ' = p(κ', κ) κ``.

    Args:
        alpha: Patterns for each weight.
        kappa: Margin κ < 0.

    Returns:
        κ' between κ and 0.

    Raises:
        ValueError: As `typical_overlap`; if the margin is not negative, or there is no such margin
            within capacity.

    Example:
        >>> -0.5 < star_margin(1.0, -0.5) < 0
        True
    """
    if not kappa < 0:
        raise ValueError(f"kappa is {kappa}; solutions of a margin from 0 on are a convex set")
    top = 0.0
    if alpha > 0.98 * capacity(0.0):  # the largest margin at this load, and a little less
        top = float(brentq(lambda k: capacity(k) - 1.02 * alpha, 2 * kappa - 1, 0))

    def gap(margin: float) -> float:
        return margin - cross_overlap(alpha, margin, kappa) * kappa

    if not kappa < top or gap(top) < 0:
        raise ValueError(f"no margin at load {alpha} is large enough to see all of margin {kappa}")
    return float(brentq(gap, kappa, top, xtol=1e-5))


def binary_entropy(alpha: float, *, teacher: bool = False) -> float:
    """Logarithm of the number of solutions of the binary perceptron, for each weight.

    With ``q = E[tanh²(sqrt(q') z)]`` and ``q' = α/(1 - q) E[(G/H)²(u)]`` it is
    ``E[ln 2 cosh(sqrt(q') z)] - q' (1 - q)/2 + α E[ln H(u)]``, which vanishes at α = 0.833 (Krauth
    and Mézard 1989). With a teacher, averages have the weight 2 H(u), the field is
    ``sqrt(q') z + q'``, ``q = E[tanh]``, and the term is ``- q' (1 + q)/2``: it vanishes at
    α = 1.245, where only the teacher is left (Györgyi 1990).

    Args:
        alpha: Patterns for each weight.
        teacher: Whether a teacher gives the labels, or they are random.

    Returns:
        Nats.

    Raises:
        ValueError: If the load is negative.

    Example:
        >>> round(binary_entropy(0.0), 4), abs(binary_entropy(0.833)) < 1e-3
        (0.6931, True)
    """
    if alpha < 0:
        raise ValueError(f"alpha is {alpha}; a load is not negative")
    q, before = 0.0, 1.0
    while abs(q - before) > 1e-11:
        conjugate = alpha / (1 - q) * _force(q, 0.0, teacher)
        field = math.sqrt(conjugate) * _Z + (conjugate if teacher else 0)
        before, q = q, float(_DZ @ (np.tanh(field) if teacher else np.tanh(field) ** 2))
    u, weights = _weighted(q, 0.0, teacher)
    term = conjugate * (1 + q if teacher else 1 - q) / 2
    return float(_DZ @ np.logaddexp(field, -field) - term + alpha * (weights @ log_ndtr(-u)))


def binary_capacity(*, teacher: bool = False) -> float:
    """Load at which `binary_entropy` vanishes, to a ten-thousandth.

    With random labels no solution is left beyond it, 0.833 (Krauth and Mézard 1989); with a teacher
    only the teacher, beyond 1.245 (Györgyi 1990).

    Args:
        teacher: Whether a teacher gives the labels, or they are random.

    Returns:
        Patterns for each weight.

    Example:
        >>> round(binary_capacity(), 3)
        0.833
    """
    low, high = (1.1, 1.3) if teacher else (0.7, 0.95)
    return float(brentq(partial(binary_entropy, teacher=teacher), low, high, xtol=1e-4))
