"""Solutions to compare with the formulas: a perceptron, its patterns, and samplers of both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.special import log_ndtr

from .._state import check_number
from ..data import Dataset
from ._exact import check_overlap


class Perceptron(nn.Module):
    """``sign(w · x - κ)`` as a network of two classes: its outputs are ``-s`` and ``s``.

    One sphere holds all its weights: `toroid.normalize` divides them by their norm, if κ is 0. With
    another margin κ the error is the fraction of positive patterns with ``w · x < κ``, of a state
    that is normalised.

    Args:
        inputs: Number of inputs N.
        margin: κ.

    Example:
        >>> import torch, toroid
        >>> model = Perceptron(5)
        >>> toroid.find_symmetries(model, torch.zeros(2, 5)).scales[0].name
        'output'
        >>> model(torch.ones(2, 5)).shape
        torch.Size([2, 2])
    """

    def __init__(self, inputs: int, margin: float = 0.0) -> None:
        """Draw the weights."""
        super().__init__()
        self.linear = nn.Linear(inputs, 1, bias=False)
        self.margin = margin

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (batch, 2)."""
        s = self.linear(x)
        s = s - self.margin if self.margin else s
        return torch.cat([-s, s], 1)

    @staticmethod
    def state(weights: Tensor) -> dict[str, Tensor]:
        """The state dict of weights (N,), in their precision."""
        return {"linear.weight": weights[None]}


def gaussian(
    count: int, *, generator: torch.Generator, teacher: Tensor | None = None, inputs: int = 0
) -> Dataset:
    """Standard normal patterns, with a teacher's labels or all positive ones.

    Args:
        count: Number of patterns P.
        generator: Draws them.
        teacher: Weights (N,) of the teacher.
        inputs: N, where there is no teacher.

    Returns:
        Images (P, N) in double precision, labels 0 or 1.

    Raises:
        ValueError: If there is neither a teacher nor a number of inputs.

    Example:
        >>> data = gaussian(10, inputs=3, generator=torch.Generator().manual_seed(0))
        >>> data.images.shape, int(data.labels.sum())
        (torch.Size([10, 3]), 10)
    """
    size = inputs if teacher is None else len(teacher)
    if size < 1:
        raise ValueError(f"inputs is {inputs}; give a teacher, or a positive number of inputs")
    images = torch.randn(count, size, generator=generator, dtype=torch.float64)
    if teacher is None:
        return Dataset(images, torch.ones(count, dtype=torch.long), 2, "random patterns")
    return Dataset(images, (images @ teacher.double() > 0).long(), 2, "a teacher's patterns")


def signed(data: Dataset) -> Tensor:
    """Patterns with their labels multiplied in: a solution's products with all are positive.

    Args:
        data: Of two classes, labels 0 or 1.

    Returns:
        (P, N).

    Example:
        >>> signed(Dataset(torch.ones(2, 3), torch.tensor([0, 1]), 2))[:, 0]
        tensor([-1.,  1.])
    """
    return data.images * (2 * data.labels - 1)[:, None]


def vectors(gram: Sequence[Sequence[float]], size: int, *, generator: torch.Generator) -> Tensor:
    """Random vectors whose scalar products are given.

    Args:
        gram: Their scalar products (k, k), a positive definite matrix.
        size: Their length N, at least k.
        generator: Draws them.

    Returns:
        (k, N) in double precision.

    Raises:
        ValueError: If no such vectors exist.

    Example:
        >>> a, b = vectors([[1, 0.3], [0.3, 4]], 10, generator=torch.Generator())
        >>> round(float(a @ b), 6), round(float(b @ b), 6)
        (0.3, 4.0)
    """
    products = torch.tensor(gram, dtype=torch.float64)
    root, failed = torch.linalg.cholesky_ex(products)
    if failed or len(products) > size:
        raise ValueError(f"no {len(products)} vectors of length {size} have products {gram}")
    random = torch.randn(size, len(products), generator=generator, dtype=torch.float64)
    return root @ torch.linalg.qr(random)[0].T


def disturb(rows: Tensor, overlap: float, *, generator: torch.Generator) -> Tensor:
    """Unit vectors of a given overlap with given unit vectors, otherwise random.

    Args:
        rows: Unit vectors (units, N).
        overlap: R in [-1, 1].
        generator: Draws the directions.

    Returns:
        ``R row + sqrt(1 - R²) v``, v a random unit vector orthogonal to the row (units, N).

    Raises:
        ValueError: If the overlap is out of range.

    Example:
        >>> row = torch.eye(1, 8)
        >>> round(float(disturb(row, 0.6, generator=torch.Generator())[0, 0]), 6)
        0.6
    """
    check_overlap(overlap)
    away = torch.randn(rows.shape, generator=generator, dtype=rows.dtype)
    away -= (away * rows).sum(1, keepdim=True) * rows
    return overlap * rows + math.sqrt(1 - overlap**2) * away / away.norm(dim=1, keepdim=True)


def feasible(
    patterns: Tensor, *, generator: torch.Generator, margin: float = 0.0, count: int = 1,
    slack: float = 0.01, steps: int = 20_000,
) -> Tensor:  # fmt: skip
    """Solutions of the spherical perceptron, by descent of ``Σ max(0, κ + slack - w · ξ)²``.

    Args:
        patterns: ξ, with their labels multiplied in (P, N).
        generator: Draws the starts.
        margin: κ.
        count: How many.
        slack: By how much the margin is to be exceeded.
        steps: At most.

    Returns:
        Unit vectors (count, N) with ``w · ξ > κ`` for all patterns.

    Raises:
        RuntimeError: If the steps do not suffice: near capacity, or above it.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> patterns = torch.randn(20, 40, generator=generator, dtype=torch.float64)
        >>> bool((feasible(patterns, generator=generator) @ patterns.T > 0).all())
        True
    """
    w = torch.randn(count, patterns.shape[1], generator=generator, dtype=patterns.dtype)
    w /= w.norm(dim=1, keepdim=True)
    rate = 1 / float(torch.linalg.matrix_norm(patterns, 2)) ** 2  # below the inverse curvature
    for _ in range(steps):
        fields = w @ patterns.T
        if bool((fields > margin).all()):
            return w
        w = w + rate * (margin + slack - fields).clamp_min(0) @ patterns
        w /= w.norm(dim=1, keepdim=True)
    missed = int((w @ patterns.T <= margin).any(1).sum())
    raise RuntimeError(
        f"{missed} of {count} searches found no solution of margin {margin} at load "
        f"{len(patterns) / patterns.shape[1]:.3g} in {steps} steps"
    )


def billiard(
    patterns: Tensor, starts: Tensor, *, generator: torch.Generator, margin: float = 0.0,
    flights: int = 20, length: float = 1.0,
) -> Tensor:  # fmt: skip
    """Typical solutions of the spherical perceptron: a billiard on the sphere.

    Each flight starts in a random direction, follows great circles for a fixed length and is
    reflected where it meets ``w · ξ = κ``. The uniform distribution on the solutions is invariant
    under it (a billiard keeps the volume, directions are drawn again): Gibbs sampling at zero
    temperature (Ruján 1997 for perceptrons).

    Args:
        patterns: ξ, with their labels multiplied in (P, N).
        starts: Solutions to start from (chains, N), unit vectors.
        generator: Draws the directions.
        margin: κ.
        flights: How many.
        length: Radians that each flies.

    Returns:
        Where the chains end (chains, N).

    Raises:
        ValueError: If a start is no solution.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> patterns = torch.eye(3, dtype=torch.float64)
        >>> starts = torch.full((1000, 3), 3**-0.5, dtype=torch.float64)
        >>> ends = billiard(patterns, starts, generator=generator, flights=5)
        >>> bool((ends > 0).all()), round(float(ends.mean()), 1)  # the mean over an octant is 1/2
        (True, 0.5)
    """
    check_number("length", length, positive=True)
    if bool((starts @ patterns.T < margin).any()):
        raise ValueError(f"a start has patterns below the margin {margin}: it is no solution")
    products, w = patterns @ patterns.T, starts.clone()
    for _ in range(flights):
        v = torch.randn(w.shape, generator=generator, dtype=w.dtype)
        v -= (v * w).sum(1, keepdim=True) * w
        w = _fly(w, v / v.norm(dim=1, keepdim=True), patterns, products, margin, length)
    return w


def _fly(
    w: Tensor, v: Tensor, patterns: Tensor, products: Tensor, margin: float, length: float
) -> Tensor:
    """One flight of every chain; ``f`` and ``g`` are the fields of w and v."""
    f, g = w @ patterns.T, v @ patterns.T  # (chains, P)
    left = torch.full((len(w), 1), length, dtype=w.dtype)
    chains, kappa = torch.arange(len(w)), torch.tensor(margin, dtype=w.dtype)
    while bool((left > 0).any()):
        # f cos φ + g sin φ = r cos(φ - ψ) falls below κ at φ = ψ + arccos(κ/r)
        over = f.square() + g.square() - margin**2
        exits = torch.atan2(g, f) + torch.atan2(over.clamp_min(0).sqrt(), kappa)
        exits = torch.where(over > 0, exits.clamp_min(0), math.inf)
        turn, wall = exits.min(1)
        step = torch.minimum(turn[:, None], left)
        cos, sin = step.cos(), step.sin()
        w, v, f, g = w * cos + v * sin, v * cos - w * sin, f * cos + g * sin, g * cos - f * sin
        bounces = (turn[:, None] < left).to(w)
        left = left - step
        at, into = f[chains, wall, None], g[chains, wall, None]
        normal = products[wall, wall, None] - at**2  # of ξ - (w · ξ) w, squared
        kick = bounces * 2 * into / normal
        v = v - kick * (patterns[wall] - at * w)
        g = g - kick * (products[wall] - at * f)
    return w / w.norm(dim=1, keepdim=True)


def entropic(
    patterns: Tensor, *, generator: torch.Generator, rate: float = 0.05, steps: int = 5000
) -> Tensor:
    """A solution of the binary perceptron, by descent over distributions of weights.

    Each weight is ±1 with mean m; ``Σ ln H(-u)``, ``u = m · ξ / sqrt(Σ ξ² (1 - m²))``, the
    log-likelihood of all patterns in the normal approximation, is raised by gradient steps in m,
    which is kept in [-1, 1]; the signs of m are a solution in the end. It is drawn to dense regions
    of solutions (Baldassi et al. 2018).

    Args:
        patterns: ξ, with their labels multiplied in (P, N).
        generator: Draws the start, means from -0.1 to 0.1.
        rate: Of the steps.
        steps: At most.

    Returns:
        Weights ±1 (N,).

    Raises:
        RuntimeError: If the steps do not suffice.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> patterns = torch.randn(40, 101, generator=generator, dtype=torch.float64)
        >>> bool((patterns @ entropic(patterns, generator=generator) > 0).all())
        True
    """
    size, squares = patterns.shape[1], patterns.square()
    m = 0.2 * torch.rand(size, generator=generator, dtype=patterns.dtype) - 0.1
    for step in range(steps):
        w = torch.where(m < 0, -1.0, 1.0).to(m)
        if step % 5 == 0 and bool((patterns @ w > 0).all()):
            return w
        # not below a hundredth of a weight's share each: all means may reach ±1
        width = (squares @ (1 - m.square())).clamp_min(0.01 * size).sqrt()
        u = (patterns @ m) / width
        hazard = torch.exp(-0.5 * u.square() - 0.5 * math.log(2 * math.pi) - log_ndtr(u))
        uphill = (hazard / width) @ patterns + m * ((hazard * u / width.square()) @ squares)
        m = (m + rate * uphill).clamp(-1, 1)
    load = len(patterns) / size
    raise RuntimeError(f"no binary solution at load {load:.3g} was found in {steps} steps")


def neighbours(patterns: Tensor, weights: Tensor) -> int:
    """How many of the N single flips of a binary solution leave a solution.

    Args:
        patterns: ξ, with their labels multiplied in (P, N).
        weights: ±1 (N,).

    Example:
        >>> neighbours(torch.ones(1, 5), torch.tensor([1.0, 1, 1, 1, -1]))  # sums of 1 to 5
        5
    """
    fields = (patterns @ weights)[:, None] - 2 * patterns * weights  # (P, N), after each flip
    return int((fields > 0).all(0).sum())


def surviving(
    patterns: Tensor, weights: Tensor, flips: int, *, generator: torch.Generator, tries: int = 200
) -> float:
    """Share of random sets of so many flips that leave a binary solution a solution.

    Around a typical solution it is `surviving_share` on average.

    Args:
        patterns: ξ, with their labels multiplied in (P, N).
        weights: ±1 (N,).
        flips: How many weights flip at once, at most N.
        generator: Draws which.
        tries: How many sets are drawn.

    Example:
        >>> patterns, weights = torch.ones(1, 5), torch.ones(5)
        >>> [surviving(patterns, weights, d, generator=torch.Generator()) for d in (2, 3)]
        [1.0, 0.0]
    """
    places = torch.rand(tries, len(weights), generator=generator).topk(flips).indices
    moved = weights.repeat(tries, 1).scatter_(1, places, -weights[places])  # (tries, N)
    return float(((moved @ patterns.T) > 0).all(1).double().mean())
