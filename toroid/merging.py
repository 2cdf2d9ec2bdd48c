"""Many networks as one: their mean, on the torus or as they are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ._state import State, check_choice
from .symmetry import Symmetry
from .symmetry._groups import widened
from .torus import Torus

__all__ = ["Merged", "merge"]

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
    states: Sequence[State], symmetry: Symmetry, on: str = "torus",
    weights: Sequence[float] | None = None, *, bias: str = "euclidean",
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
    if isinstance(states, dict) or not len(states):
        raise ValueError(
            f"states are {'one state' if isinstance(states, dict) else 'none'}; merge takes a list "
            "of at least one state dict"
        )
    shares = _shares(weights, len(states))
    torus = Torus.at_edge(symmetry, bias, *states, normal=on == "torus")
    wide = [{k: widened(v) for k, v in state.items()} for state in states]
    if on == "raw":
        mean, norm = _weighted(wide, shares), 0.0
    else:
        mean, norm = _karcher(torus, wide, shares)
    return Merged(
        {k: mean[k].to(v.dtype) if v.is_floating_point() else v for k, v in states[0].items()}, norm
    )


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    """Weights that add up to 1."""
    given = [1.0] * count if weights is None else [float(w) for w in weights]
    total = sum(given)
    if len(given) != count or min(given) < 0 or not 0 < total < math.inf:
        raise ValueError(
            f"weights are {given} for {count} states; they are numbers from 0 on, one for each "
            "state, not all 0"
        )
    return [w / total for w in given]


def _weighted(states: Sequence[State], shares: Sequence[float]) -> dict[str, Tensor]:
    """``a + Σ wᵢ (xᵢ - a)`` of the floating tensors: equal states have exactly that mean."""
    first = states[0]
    return {
        k: v + _sum([s[k] - v for s in states], shares)
        for k, v in first.items()
        if v.is_floating_point()
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
