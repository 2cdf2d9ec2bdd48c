"""Which units of a network can be exchanged or rescaled without changing its function.

A `Symmetry` is data: groups of units, and for every group the places (axes) where its units appear
in the state dict. `find_symmetries` reads it off the network's graph; `permute`, `rescale` and
`flip` apply an element of it to a whole state; `same_function` checks that nothing changed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from . import _graph
from ._assembly import assemble
from ._checks import State, check_model, check_state, check_tensor, check_units
from ._groups import Axis, Group, Scale, Symmetry, move, multiply
from ._labels import Slot, UnsupportedError

__all__ = [
    "Axis", "Group", "Report", "Scale", "Symmetry", "UnsupportedError", "find_symmetries",
    "flip", "permute", "rescale", "same_function",
]  # fmt: skip


def find_symmetries(
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    *,
    strict: bool = True,
    verify: bool = True,
    given: Symmetry | None = None,
) -> Symmetry:
    """Read the permutation, scale and sign symmetries of a network off its graph.

    The ATen graph of ``torch.export.export`` (evaluation mode) is run on labels instead of numbers;
    what the operations tie together is a group. See `toroid._rules`.

    Args:
        model: Any module that exports; it is not changed.
        example: An input of the shape the model takes, batch first, or a tuple of inputs; it is not
            changed.
        strict: Refuse an operation without a rule. With False what meets there is left as it is,
            which is exact, and the place is listed in `Symmetry.refused`.
        verify: Move a copy with random weights, in float64 (in float32 if the network casts to that
            or less), by a random element of what was found, and compare the outputs. It costs a
            few runs of the network on inputs like `example`.
        given: Groups written by hand, for what the graph does not show; merged with what is found
            (``symmetry | given``), and verified with it.

    Returns:
        The groups of units, front to back, and the last layer's one factor.

    Raises:
        UnsupportedError: If an operation has no rule; names it, its module and its source line. If
            the outputs of the moved copy differ (with ``strict=False`` the groups that do it are
            left as they are and listed; but a group by hand that does it is an error).
        ValueError: If `model` is no module, or `given` has a group that is found as well, or does
            not fit the model.

    Example:
        >>> import torch, toroid
        >>> model = toroid.lenet((1, 28, 28), classes=10)
        >>> symmetry = find_symmetries(model, torch.zeros(1, 1, 28, 28))
        >>> [(group.name, group.size) for group in symmetry.groups]
        [('0', 6), ('3', 16), ('7', 120), ('9', 84)]
        >>> len(symmetry["3"].axes[-1].index[0])  # a channel feeds 7 x 7 columns
        49
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"find_symmetries takes the model, a torch.nn.Module, got a {type(model).__name__}; "
            "a state dict does not say what is computed"
        )
    exported = _graph.export(model, example)
    trace = _graph.trace(exported, model.state_dict().keys(), strict)
    symmetry = assemble(trace)
    by_hand: tuple[Group, ...] = ()
    if given is not None:
        check_state(model.state_dict(), given)
        groups = tuple(_in_order(group, [*trace.slots.values()]) for group in given.groups)
        given = replace(given, groups=groups)
        symmetry, by_hand = symmetry | given, given.all_groups
    certain = symmetry.all_groups if strict else by_hand
    if not verify or not symmetry.all_groups:
        return symmetry
    return _verified(symmetry, model, example, certain, _graph.precision(exported))


def _in_order(group: Group, slots: Sequence[Slot]) -> Group:
    """A group by hand, its scales where what makes them stands in the graph."""
    first: dict[str, int] = {}
    for number, slot in enumerate(slots):
        first.setdefault(slot.parameter, number)

    def placed(scale: Scale) -> Scale:
        makers = [first[x.parameter] for x in scale.axes if x.role != "in" and x.parameter in first]
        return replace(scale, order=min(makers, default=scale.order))

    scales = tuple(map(placed, group.scales))
    return replace(group, scales=scales, flip=group.flip and placed(group.flip))


def _verified(
    symmetry: Symmetry,
    model: nn.Module,
    example: Any,
    certain: Sequence[Group],
    precision: torch.dtype,
) -> Symmetry:
    """The symmetry without the groups that change what a network with random weights says."""
    generator = torch.Generator().manual_seed(0)
    exact = precision == torch.float64
    network = copy.deepcopy(model).to(torch.float64 if exact else torch.float32).cpu().eval()
    state: State = {k: _random_like(k, v, generator) for k, v in network.state_dict().items()}
    size = sum(x.numel() for x in tree_leaves(example) if isinstance(x, Tensor))
    draws = 8 if size < 10_000 else 1  # a unit that is silent on one small input speaks on another
    like_example = partial(_random_like, "", generator=generator)
    inputs = [tree_map(like_example, _tuple(example)) for _ in range(draws)]
    before = torch.cat([_outputs(network, state, x) for x in inputs])

    def wrong(*groups: Group) -> bool:
        part = _without(symmetry, [g for g in symmetry.all_groups if g not in groups])
        moved = _random_element(state, part, generator)
        after = torch.cat([_outputs(network, moved, x) for x in inputs])
        return not _compare(before[:, finite], after[:, finite], tolerance)

    tolerance = torch.finfo(precision).eps ** 0.5
    finite = before.isfinite().all(0)
    if not finite.any():
        raise UnsupportedError(
            "cannot verify the symmetries of this network: no output of a random copy is finite. "
            "Pass verify=False to trust what was found."
        )
    if not wrong(*symmetry.all_groups):
        return symmetry
    bad = [group for group in symmetry.all_groups if wrong(group)] or list(symmetry.all_groups)
    message = f"units that are not alike after all ({', '.join(g.name for g in bad)})"
    if any(group in certain for group in bad):
        raise UnsupportedError(
            f"cannot read the symmetries of this network: {message}. The outputs of a random copy "
            "change when they are moved. Mend groups that were given by hand; pass strict=False to "
            "leave others as they are."
        )
    return replace(_without(symmetry, bad), refused=(*symmetry.refused, message))


def _without(symmetry: Symmetry, groups: Sequence[Group]) -> Symmetry:
    """The symmetry without some of its groups, or without the last layer's factor."""
    kept = tuple(group for group in symmetry.groups if group not in groups)
    return replace(
        symmetry, groups=kept, output=None if symmetry.output in groups else symmetry.output
    )


def _random_like(name: str, tensor: Any, generator: torch.Generator) -> Any:
    """Random numbers of the size that keeps activations of order one; γ of both signs."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        return tensor
    numbers = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype)
    if name.endswith("running_var"):
        return numbers.abs() + 0.5
    if name.endswith("bias"):
        return 0.1 * numbers  # large ones would drown what the layers before say
    weights = name and tensor.dim() > 1
    return numbers * (2 / max(1, tensor[0].numel())) ** 0.5 if weights else numbers


def _random_element(state: State, symmetry: Symmetry, generator: torch.Generator) -> State:
    """A state moved by a random cycle of every group and random factors for every scale."""
    permutations = {}
    for group in symmetry.groups:
        order = torch.randperm(group.size, generator=generator)
        permutations[group.name] = order.roll(1)[order.argsort()]  # no unit stays
    factors = {
        s.name: (0.3 * torch.randn(len(s.axes[0].index), generator=generator)).exp()
        for s in symmetry.scales
    }
    signs = {
        g.name: torch.randint(2, (g.size,), generator=generator) * 2 - 1
        for g in symmetry.groups
        if g.flip
    }
    return permute(flip(rescale(state, factors, symmetry), signs, symmetry), permutations, symmetry)


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
    result = dict(state)
    for name, permutation in permutations.items():
        move(result, check_units(symmetry, name, permutation), permutation)
    return result


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
    result = dict(state)
    scales = {scale.name: scale for scale in symmetry.scales}
    for name, factor in factors.items():
        if name not in scales:
            raise ValueError(f"no free scale {name!r}; there are {', '.join(scales)}")
        check_tensor(f"the factor of {name!r}", factor, floating=True)
        size = len(scales[name].axes[0].index)
        if factor.shape != (size,) or not (torch.isfinite(factor).all() and (factor > 0).all()):
            raise ValueError(
                f"scale {name!r} takes {size} positive finite factors, got shape "
                f"{tuple(factor.shape)} with minimum {factor.min() if factor.numel() else None}"
            )
        multiply(result, scales[name], factor)
    return result


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
    result = dict(state)
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
        multiply(result, odd[name], sign)
    return result


@dataclass(frozen=True)
class Report:
    """How two states of one network compare on an input.

    Attributes:
        difference: Largest difference of the outputs, after the factor, over the largest output.
        factor: The positive factor between the outputs (least squares).
        agreement: Fraction of inputs with the same predicted class.
        tolerance: Largest `difference` that counts as the same function.
    """

    difference: float
    factor: float
    agreement: float
    tolerance: float

    def __bool__(self) -> bool:
        """Whether the outputs agree up to one positive factor."""
        return self.factor > 0 and self.difference <= self.tolerance


def same_function(
    model: nn.Module,
    before: State,
    after: State,
    example: Tensor,
    *,
    tolerance: float | None = None,
) -> Report:
    """Compare two states of a network on an input: equal up to one positive factor?

    Args:
        model: The network, run in evaluation mode; it is not changed.
        before: State dict.
        after: State dict to compare with it.
        example: Inputs, batch first, or a tuple of them; not changed, but cast to the precision of
            the states.
        tolerance: Relative; by default the square root of the machine epsilon (1.5e-8 in float64).

    Returns:
        A `Report`, true if the outputs agree.

    Raises:
        ValueError: If a state does not fit the model.

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> doubled = {k: 2 * v if k.startswith("3") else v for k, v in model.state_dict().items()}
        >>> report = same_function(model, model.state_dict(), doubled, x)
        >>> bool(report), round(report.factor, 3)
        (True, 2.0)
    """
    for state in (before, after):
        check_model(state, model)
    network = _graph.structure(model)
    first, second = (_outputs(network, state, _tuple(example)) for state in (before, after))
    return _compare(
        first, second, torch.finfo(first.dtype).eps ** 0.5 if tolerance is None else tolerance
    )


def _compare(first: Tensor, second: Tensor, tolerance: float) -> Report:
    dot, norm = (first * second).sum(), (first * first).sum()
    factor = float(dot / norm) if norm > 0 else 1.0
    size = float((factor * first).abs().max())
    difference = float((second - factor * first).abs().max()) / (size or 1.0)
    agreement = float((first.argmax(1) == second.argmax(1)).double().mean())
    return Report(difference, factor, agreement, tolerance)


def _tuple(example: Any) -> tuple[Any, ...]:
    return example if isinstance(example, tuple) else (example,)


@torch.no_grad()
def _outputs(network: nn.Module, state: State, inputs: tuple[Any, ...]) -> Tensor:
    """All outputs for each input, as a matrix (inputs, numbers)."""
    like = next(v for v in state.values() if v.is_floating_point())
    unsaved = {  # buffers that a state does not hold
        k: v.to(like)
        for k, v in network.named_buffers()
        if k not in state and v.is_floating_point()
    }
    counters = {k: v.clone() for k, v in state.items() if not v.is_floating_point()}
    inputs = tree_map(partial(_graph.cast, like=like), inputs)
    outputs = tree_leaves(
        torch.func.functional_call(network, {**unsaved, **state, **counters}, inputs)
    )
    tensors = [out for out in outputs if isinstance(out, Tensor)]
    rows = next((len(out) for out in tensors if out.dim()), 1)
    matrices = [
        out.reshape(rows, -1)
        if out.dim() and len(out) == rows
        else out.reshape(1, -1).expand(rows, -1)
        for out in tensors
    ]
    return torch.cat(matrices, 1)
