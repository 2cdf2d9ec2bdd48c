"""Units exchanged, rescaled, flipped, turned: what is given is checked, and an `Element` acts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .._state import State, check_mapping, check_tensor
from ._elements import Element
from ._groups import Symmetry, check_floating, check_state


def permute(
    state: State, permutations: Mapping[str, Tensor], symmetry: Symmetry
) -> dict[str, Tensor]:
    """Exchange units: unit i of a group becomes what unit ``permutations[group][i]`` was.

    Args:
        state: State dict; it is not changed.
        permutations: For each group to permute, an integer tensor (units,) that holds every unit
            once.
        symmetry: The network's groups.

    Returns:
        A state of the same function. Tensors that no permutation touches are shared with the input.

    Raises:
        ValueError: If a group is unknown, or what is given is no tensor of integers that holds each
            of its units once.

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> symmetry = toroid.find_symmetries(model, x)
        >>> moved = permute(model.state_dict(), {"1": torch.tensor([4, 3, 2, 1, 0])}, symmetry)
        >>> bool(toroid.same_function(model, model.state_dict(), moved, x))
        True
    """
    check_state(state, symmetry)
    check_mapping("permutations", permutations, "permutations")
    sizes = {group.name: group.size for group in symmetry.groups}
    for name, permutation in permutations.items():
        check_tensor(f"the permutation of {name!r}", permutation, floating=False)
        if name not in sizes:
            raise ValueError(f"no group {name!r} to permute; there are {', '.join(sizes)}")
        size = sizes[name]
        if permutation.shape != (size,) or not torch.equal(
            permutation.sort().values.cpu(), torch.arange(size)
        ):
            raise ValueError(
                f"group {name!r} takes a permutation of its {size} units (0 to {size - 1}, each "
                f"once), got a tensor of shape {tuple(permutation.shape)}: "
                f"{permutation.flatten().tolist()[:8]}"
            )
    # bytes would be a mask
    return Element(symmetry, {name: p.long() for name, p in permutations.items()}).act(state)


def rescale(state: State, factors: Mapping[str, Tensor], symmetry: Symmetry) -> dict[str, Tensor]:
    """Multiply what units put out, and divide what reads them: ``f(λ z) = λ f(z)`` for λ > 0.

    Weights, biases and running means are multiplied by λ, the columns that read the unit by 1/λ;
    a running variance becomes ``(var + ε) λ² - ε``, which is exact in evaluation mode.

    Args:
        state: State dict; it is not changed.
        factors: For each scale (by name, `Symmetry.scales`) a positive tensor (units,).
        symmetry: The network's groups.

    Returns:
        A state of the same function (times the factor of ``"output"``, if that is given).

    Raises:
        ValueError: If a scale is unknown or fixed, or a factor is no tensor, or not positive and
            finite.

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> symmetry = toroid.find_symmetries(model, x)
        >>> scaled = rescale(model.state_dict(), {"1": torch.full((5,), 7.0)}, symmetry)
        >>> bool(toroid.same_function(model, model.state_dict(), scaled, x))
        True
    """
    check_state(state, symmetry)
    check_mapping("factors", factors, "factors")
    sizes = {scale.name: len(scale.axes[0].index) for scale in symmetry.scales}
    for name, factor in factors.items():
        if name not in sizes:
            raise ValueError(f"no free scale {name!r}; there are {', '.join(sizes)}")
        check_tensor(f"the factor of {name!r}", factor, floating=True)
        size = sizes[name]
        if factor.shape != (size,) or not (torch.isfinite(factor).all() and (factor > 0).all()):
            raise ValueError(
                f"scale {name!r} takes {size} positive finite factors, got shape "
                f"{tuple(factor.shape)} with minimum {factor.min() if factor.numel() else None}"
            )
    check_floating(state, (scale for scale in symmetry.scales if scale.name in factors))
    return Element(symmetry, factors=factors).act(state)


def flip(state: State, signs: Mapping[str, Tensor], symmetry: Symmetry) -> dict[str, Tensor]:
    """Change the sign of units whose activation is odd: ``f(-z) = -f(z)``.

    What makes the unit and what reads it are multiplied by -1.

    Args:
        state: State dict; it is not changed.
        signs: For each group to flip, 1 or -1 for each unit.
        symmetry: The network's groups.

    Returns:
        A state of the same function.

    Raises:
        ValueError: If a group is unknown or not odd, or a sign is no tensor, or not 1 or -1.

    Example:
        >>> import torch, toroid
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
        >>> x = torch.randn(7, 4)
        >>> symmetry = toroid.find_symmetries(model, x)
        >>> flipped = flip(model.state_dict(), {"0": torch.tensor([1, -1, -1])}, symmetry)
        >>> bool(toroid.same_function(model, model.state_dict(), flipped, x))
        True
    """
    check_state(state, symmetry)
    check_mapping("signs", signs, "signs")
    odd = {group.name: group.flip for group in symmetry.groups if group.flip}
    for name, sign in signs.items():
        if name not in odd:
            raise ValueError(
                f"no group {name!r} whose sign is free; there are {', '.join(odd) or 'none'}"
            )
        check_tensor(f"the sign of {name!r}", sign, floating=True)
        size = len(odd[name].axes[0].index)
        if sign.shape != (size,) or not (sign.abs() == 1).all():
            raise ValueError(
                f"group {name!r} takes {size} signs, each 1 or -1, got {sign.tolist()}"
            )
    return Element(symmetry, signs=signs).act(state)


def turn(state: State, matrices: Mapping[str, Tensor], symmetry: Symmetry) -> dict[str, Tensor]:
    """Mix units that are only added up on their way to what reads them.

    ``W' M⁻¹ (M W x) = W' W x``: the values of an attention head may be mixed by any invertible
    matrix M, its queries by M and its keys by the inverse transposed, ``(M q) · (M⁻ᵀ k) = q · k``;
    biases go along. So may the units between two linear layers with nothing between them.

    Args:
        state: State dict; it is not changed.
        matrices: For each group to turn (those whose scale says *turns* in the printed symmetry)
            an invertible matrix (units, units).
        symmetry: The network's groups.

    Returns:
        A state of the same function. Products are computed in float64, and rounded once.

    Raises:
        ValueError: If a group is unknown or does not turn, or a matrix is no tensor of floating
            numbers, of another shape, not finite, or not invertible.

    Example:
        >>> import torch, toroid
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        >>> x = torch.randn(7, 4)
        >>> symmetry = toroid.find_symmetries(model, x)
        >>> matrix = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0], [0.0, 0.0, 1.0]])
        >>> turned = turn(model.state_dict(), {"0": matrix}, symmetry)
        >>> bool(toroid.same_function(model, model.state_dict(), turned, x))
        True
    """
    check_state(state, symmetry)
    check_mapping("matrices", matrices, "matrices")
    turning = {group.name: group.size for group in symmetry.groups if group.turn}
    for name, matrix in matrices.items():
        if name not in turning:
            listed = ", ".join(turning) or "none"
            raise ValueError(f"no group {name!r} that turns; there are {listed}")
        check_tensor(f"the matrix of {name!r}", matrix, floating=True)
        size = turning[name]
        if matrix.shape != (size, size) or not matrix.isfinite().all():
            raise ValueError(
                f"group {name!r} takes a matrix of finite numbers, ({size}, {size}), got shape "
                f"{tuple(matrix.shape)}"
            )
        if torch.linalg.matrix_rank(matrix.double()) < size:
            raise ValueError(f"the matrix of group {name!r} cannot be inverted")
    turned = [group.turn for group in symmetry.groups if group.turn and group.name in matrices]
    check_floating(state, turned)
    return Element(symmetry, turns=matrices).act(state)
