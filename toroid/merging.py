"""Many networks as one: their mean, on the torus or as they are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from numbers import Real

import torch
from torch import Tensor

from ._state import State, check_choice, check_list, check_number, difference, inexact, shown
from .symmetry import Symmetry
from .symmetry._groups import lengths, widened
from .torus import Torus

__all__ = ["Merged", "merge", "renorm"]

STEPS = 100  # of the fixed point; aligned networks need two to ten


class Merged(dict[str, Tensor]):
    """The mean of some states: a state dict, with what is known of it.

    Attributes:
        gradient_norm: Length of the gradient ``Σ wᵢ log(mean, stateᵢ)`` on the spheres, in radians;
            0 is the mean itself, and that of an arithmetic mean.
    """

    def __init__(self, state: State, gradient_norm: float = 0.0) -> None:
        """A state and the norm of its gradient."""
        super().__init__(state)
        self.gradient_norm = gradient_norm

    @property
    def state(self) -> dict[str, Tensor]:
        """The mean as a plain dict."""
        return dict(self)


def merge(
    states: Iterable[State], symmetry: Symmetry, on: str = "torus",
    weights: Iterable[float] | None = None, *, bias: str = "euclidean",
) -> Merged:  # fmt: skip
    """The mean of networks that are aligned to one reference.

    ``on="torus"`` takes the Karcher mean of each unit, the point m of its sphere where
    ``Σ wᵢ log(m, xᵢ) = 0``, by ``m ← exp(m, Σ wᵢ log(m, xᵢ))`` from the first state on; two states
    have the point of their geodesic at ``t = w₂``. What is on no sphere (Euclidean biases, running
    statistics, units whose scale is fixed) has its arithmetic mean, and with ``on="raw"``
    everything has. Counters and other integers are the first state's. The mean of running
    statistics is not the statistics of the mean: `refresh` them; networks without BatchNorm can be
    given their units' deviations again by `repair`.

    Args:
        states: State dicts, one or more, aligned to each other (`align`, `align_all`); on the torus
            normalised. They are not changed.
        symmetry: From `find_symmetries`.
        on: ``"torus"`` or ``"raw"``.
        weights: For each state a number from 0 on, not all 0; divided by their sum. By default all
            are the same.
        bias: As in `normalize`.

    Returns:
        A state dict, of the precision of the states, with the `gradient_norm` that is left.

    Raises:
        ValueError: If there is no state, the states do not belong to one network, hold NaN or, on
            the torus, are not normalised; if `weights`, `on` or `bias` are not as above; if a unit
            is dead in some of the states only, or opposite to the mean, so that no shortest path
            leads there.

    Warns:
        UserWarning: If the fixed point is not reached: units are too far apart to have one mean.

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> symmetry = toroid.find_symmetries(model, x)
        >>> other = toroid.mlp((4,), classes=3, hidden=(5,))
        >>> a, b = (toroid.normalize(m.state_dict(), symmetry) for m in (model, other))
        >>> merged = merge([a, toroid.align(b, to=a, symmetry=symmetry).state], symmetry)
        >>> merged["1.weight"].shape, merged.gradient_norm < 1e-5
        (torch.Size([5, 4]), True)
    """
    check_choice("on", on, ("torus", "raw"))
    states = check_list("states", states, "state dicts")
    if not states:
        raise ValueError("states are none; merge takes a list of at least one state dict")
    shares = _shares(weights, len(states))
    torus = Torus.at_edge(symmetry, bias, *states, normal=on == "torus")
    wide = [{k: widened(v) for k, v in state.items()} for state in states]
    if on == "raw":
        mean, norm = _weighted(wide, shares), 0.0
    else:
        mean, norm = _karcher(torus, wide, shares)
    return Merged({k: mean[k].to(v.dtype) if inexact(v) else v for k, v in states[0].items()}, norm)


def _shares(weights: Iterable[float] | None, count: int) -> list[float]:
    """Weights that add up to 1."""
    given = [1.0] * count if weights is None else check_list("weights", weights, "numbers")
    numbers = [float(w) for w in given if isinstance(w, Real) or getattr(w, "ndim", None) == 0]
    total = sum(numbers)
    if not len(given) == len(numbers) == count or min(numbers) < 0 or not 0 < total < math.inf:
        raise ValueError(
            f"weights are {shown(given)} for {count} states; they are numbers from 0 on, one for "
            "each state, not all 0"
        )
    return [w / total for w in numbers]


def _weighted(states: Sequence[State], shares: Sequence[float]) -> dict[str, Tensor]:
    """``a + Σ wᵢ (xᵢ - a)`` of the floating tensors: equal states have exactly that mean."""
    first = states[0]
    return {
        k: v + _sum([difference(v, s[k]) for s in states], shares)
        for k, v in first.items()
        if inexact(v)
    }


def _sum(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    return torch.stack([w * x for w, x in zip(shares, tensors, strict=True)]).sum(0)


def _karcher(
    torus: Torus, states: Sequence[State], shares: Sequence[float]
) -> tuple[dict[str, Tensor], float]:
    """The mean on every sphere, and the norm of the gradient that is left."""
    mean = dict(states[0])
    eps = max(torch.finfo(v.dtype).eps for v in mean.values() if v.is_floating_point())
    enough = 8 * eps * math.sqrt(sum(len(torus.vectors(mean, s)) for s in torus.symmetry.scales))
    for _ in range(STEPS):
        norm, mean = _step(torus, mean, states, shares)
        if norm <= enough:
            break
    left, _ = _step(torus, mean, states, shares)
    if left > 1e3 * enough:
        warnings.warn(
            f"the mean on the torus is not reached in {STEPS} steps (gradient {left:.2g}): units "
            "are too far apart to have one; align the states to one reference first",
            stacklevel=3,
        )
    return mean, left


def _step(
    torus: Torus, mean: State, states: Sequence[State], shares: Sequence[float]
) -> tuple[float, dict[str, Tensor]]:
    """The norm of the gradient on the spheres, and where it leads to."""
    logs = [torus.log(mean, state) for state in states]
    tangent = {k: _sum([log[k] for log in logs], shares) for k in logs[0]}
    squares = [torus.vectors(tangent, s).double().square().sum() for s in torus.symmetry.scales]
    return math.sqrt(sum(map(float, squares))), torus.exp(mean, tangent)


def renorm(state: State, ends: Sequence[State], t: float, symmetry: Symmetry) -> dict[str, Tensor]:
    """What a path takes from the units' norms, given back without data.

    On a straight line a unit's vector is shorter than at the ends, by the angle θ between them:
    ``cos(θ/2)`` times half way, for equal norms. Here each vector is made as long as
    ``(1 - t)|a| + t|b|``, and its bias is the straight line's times what the straight line's vector
    would need for that. On a geodesic the vectors have that length already and stay: only biases
    change. What reads the units stays, so this is no symmetry: the function changes.

    Args:
        state: State dict between the ends; it is not changed.
        ends: The states at t = 0 and t = 1, of any norms.
        t: Place of `state` between them, in [0, 1].
        symmetry: From `find_symmetries`.

    Returns:
        A state; at the ends themselves nothing changes.

    Raises:
        ValueError: If the states do not fit or hold NaN, or `t` is not in [0, 1].

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> symmetry = toroid.find_symmetries(model, x)
        >>> other = toroid.mlp((4,), classes=3, hidden=(5,))
        >>> ends = [toroid.normalize(m.state_dict(), symmetry) for m in (model, other)]
        >>> straight = renorm(toroid.Linear(*ends)(0.5), ends, 0.5, symmetry)
        >>> bool(torch.allclose(straight["1.weight"].norm(dim=1), torch.ones(5)))
        True
    """
    if not 0 <= check_number("t", t) <= 1:
        raise ValueError(f"t is {t}; the place between the ends is from 0 to 1")
    ends = check_list("ends", ends, "two state dicts")
    if len(ends) != 2:
        raise ValueError(f"ends are {len(ends)}; they are the states at t = 0 and t = 1")
    a, b = ends
    torus = Torus.at_edge(symmetry, "euclidean", state, a, b, normal=False)
    result = dict(state)
    for scale in symmetry.scales:
        first, last, own = (torus.vectors(s, scale) for s in (a, b, state))  # (units, numbers)
        goal = torch.lerp(lengths(first), lengths(last), t)
        torus.write(result, scale, own * _over(goal, own)[:, None])
        factor = _over(goal, torch.lerp(first, last, t))[:, None]
        for axis in scale.axes:
            if axis.role == "bias":
                rows = [widened(axis.rows(s[axis.parameter])) for s in (a, b)]
                tensor = result[axis.parameter]
                bias = torch.lerp(rows[0], rows[1], t) * factor
                result[axis.parameter] = axis.put(tensor, bias.to(tensor))
    return result


def _over(goal: Tensor, vectors: Tensor) -> Tensor:
    """The factor that gives each vector its length; 1 for those that have none."""
    norms = lengths(vectors)
    return torch.where(norms > 0, goal / torch.where(norms > 0, norms, 1.0), 1.0)
