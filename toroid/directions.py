"""Random directions at a network, in which a step of one size means the same for every unit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import _random
from ._state import State, check_finite, check_model, check_whole, first_names, inexact
from .symmetry import Symmetry
from .symmetry._groups import lengths
from .torus import Torus, tangential

__all__ = ["direction"]


def direction(
    state: State, model: nn.Module, *, symmetry: Symmetry | None = None, bias: str = "euclidean",
    seed: int = 0,
) -> dict[str, Tensor]:  # fmt: skip
    """A random direction at a network, as large as its weights, filter by filter.

    Numbers drawn from a standard normal distribution and brought to size:

    - Without a symmetry, after Li et al. (2018): each filter ``d`` (a tensor's part for one index
      of its first dimension) times ``|w| / |d|``; tensors of one dimension, biases and BatchNorm's
      pairs, do not move. One step doubles, roughly, the square of every filter's norm.
    - On the torus all filters are of one size already: each unit's vector gets a tangent of norm 1,
      so that a step of s is an angle of s on every sphere. What is on no sphere moves as without a
      symmetry; dead units stay.

    Args:
        state: State dict; with a symmetry, normalised.
        model: The network, which says what is a parameter; it is not changed.
        symmetry: From `find_symmetries`, for a direction along the torus.
        bias: As in `normalize`.
        seed: Draws it, the same for all networks of one shape.

    Returns:
        A tensor for every floating tensor of the state; zeros for buffers.

    Raises:
        ValueError: If the state does not fit, holds NaN or is not on the torus.

    Example:
        >>> import torch, toroid
        >>> model = toroid.mlp((4,), classes=3, hidden=(5,))
        >>> way, weight = direction(model.state_dict(), model), model.state_dict()["1.weight"]
        >>> bool(torch.allclose(way["1.weight"].norm(dim=1), weight.norm(dim=1)))
        True
    """
    check_model(state, model)
    check_finite(state, {name for name, _ in model.named_parameters()})
    torus = None if symmetry is None else Torus.at_edge(symmetry, bias, state)
    return drawn(state, model, torus, seed)


def drawn(state: State, model: nn.Module, torus: Torus | None, seed: int) -> dict[str, Tensor]:
    """`direction`, of what is checked."""
    # a stream of its own: the first weights were often drawn from the same small seed
    first = torch.Generator().manual_seed(check_whole("seed", seed))
    generator = torch.Generator().manual_seed(_random.seed(first))
    z = {
        k: torch.randn(v.shape, generator=generator, dtype=_drawable(v)).to(v)
        for k, v in ((k, state[k]) for k in model.state_dict())  # a file has them in another order
        if inexact(v)
    }
    free = {name for name, _ in model.named_parameters()}
    way = {k: _by_filters(v, state[k]) if k in free else torch.zeros_like(v) for k, v in z.items()}
    if torus is not None:
        _walk(torus, state, z, way)
    return {k: way[first] for k, first in first_names(model).items() if first in way}


def _drawable(weight: Tensor) -> torch.dtype:
    """The precision that numbers are drawn in: the same ones for all."""
    return torch.complex64 if weight.is_complex() else torch.float32


def _walk(torus: Torus, state: State, z: State, way: dict[str, Tensor]) -> None:
    """Tangents of norm 1 for the units that live, in place."""
    for scale in torus.symmetry.scales:
        point, step = torus.vectors(state, scale), torus.vectors(z, scale)  # (units, numbers)
        step = tangential(step, point)
        length = step.norm(dim=1, keepdim=True)
        moves = (length > 0) & point.any(1, keepdim=True)
        torus.write(way, scale, torch.where(moves, step / torch.where(moves, length, 1.0), 0.0))


def _by_filters(z: Tensor, weight: Tensor) -> Tensor:
    """Each filter of the norm of the weight's; nothing of what has no filters."""
    if weight.dim() < 2:
        return torch.zeros_like(weight)
    sizes, own = (lengths(x.flatten(1)) for x in (weight, z))
    factor = sizes / torch.where(own > 0, own, 1.0)  # (filters,)
    return (z * factor.view(-1, *[1] * (weight.dim() - 1))).to(weight)
