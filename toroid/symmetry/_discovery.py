"""The symmetry of a network, read off its graph and verified on random weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from .._network import UnsupportedError, selected, structure
from .._state import State, check_module
from . import _graph
from ._assembly import assemble
from ._comparison import compare, each_alone
from ._elements import Element
from ._groups import Group, Scale, Stay, Symmetry, check_state
from ._labels import IGNORED, OWN, Slot, Trace
from ._reading import check_outputs, taken, untouched

#: A strict call warns if more than this share of the hidden units is held by something else than
#: the function (`toroid.symmetry._labels.OWN`).
HELD = 0.1


def find_symmetries(
    model: nn.Module,
    example: Tensor | tuple[Any, ...] | Mapping[str, Any],
    *,
    strict: bool = True,
    verify: bool = True,
    given: Symmetry | None = None,
    outputs: Callable[[Any], Any] | None = None,
) -> Symmetry:
    """Read the permutation, scale and sign symmetries of a network off its graph.

    The ATen graph of ``torch.export.export`` (evaluation mode) is run on labels instead of numbers;
    what the operations tie together is a group. See `toroid.symmetry._rules`.

    Args:
        model: Any module that exports; it is not changed.
        example: An input of the shape the model takes, batch first, or a tuple of inputs; a dict is
            arguments by name where ``forward`` knows the names. It is not changed. Of a length as
            it is used, more than one: what the model computes from shapes (angles of positions,
            say) is a constant of the graph, and the same for all units at the first place.
        strict: Refuse an operation without a rule. With False what meets there is left as it is,
            which is exact, and the place is listed in `Symmetry.refused`.
        verify: Move a copy with random weights, in float64 (in float32 if the network casts to that
            or less), by a random element of what was found, and compare the outputs. It costs a
            few runs of the network on inputs like `example`; on smaller images where the graph is
            the same.
        outputs: Of the model's outputs those that count, as ``lambda out: out["logits"]``; by
            default all of them, and units that are returned as they are stay where they are.
        given: Groups written by hand, for what the graph does not show; merged with what is found
            (``symmetry | given``), and verified with it.

    Returns:
        The groups of units, front to back, the last layer's one factor, and the hidden units that
        stay. With `strict`, a warning if more than a tenth of the units (`HELD`) stay for a reason
        that is not the function itself, as a constant with a number for each of them.

    Raises:
        UnsupportedError: If an operation has no rule; names it, its module and its source line. If
            a random copy does not run on random inputs, or its outputs differ when it is moved
            (with ``strict=False`` the groups that do it are left as they are and listed; but a
            group by hand that does it is an error).
        ValueError: If `model` is no module that can be read, does not run on the example, or
            `given` has a group that is found as well, or does not fit the model.

    Warns:
        UserWarning: If ``forward`` does not run some parameters on the example, as those of another
            task's head: they are left behind where the units that they read are moved.

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
    check_module(model)
    _check_readable(model, verify)
    check_outputs(outputs)
    example = taken(model, example)
    whole = _graph.export(model, example, outputs)
    exported, less = _graph.smaller(model, example, outputs, whole)
    trace = _graph.trace(exported, model, strict)
    if trace.sized and exported is not whole:
        exported, less = whole, example
        trace = _graph.trace(exported, model, strict)
    example = less
    trace, symmetry = _larger(trace, partial(_graph.trace, exported, model, strict))
    symmetry = _that_count(symmetry, _graph.ignored(exported, model))
    by_hand: tuple[Group, ...] = ()
    if given is not None:
        check_state(model.state_dict(), given)
        groups = tuple(_in_order(group, [*trace.slots.values()]) for group in given.groups)
        given = replace(given, groups=groups)
        symmetry, by_hand = symmetry | given, given.all_groups
        _check_parts(symmetry)
    if strict:
        _warn_of_held(symmetry)
    _warn_of_unread(_graph.unread(whole, model), model, symmetry)
    certain = symmetry.all_groups if strict else by_hand
    if not verify or not symmetry.all_groups:
        return symmetry
    network = selected(copy.deepcopy(structure(model)), outputs)
    precision = _graph.precision(exported)
    failed: Exception | None = None
    # it may make numbers of its own, in the precision that it was written for
    for kind in dict.fromkeys((precision, torch.float32)):
        try:
            with untouched(model):
                return _verified(symmetry, network, example, certain, kind)
        except UnsupportedError:
            raise
        except (RuntimeError, ValueError) as error:
            if not any(
                isinstance(x, Tensor) and x.is_floating_point() for x in tree_leaves(example)
            ):
                raise  # it is the example itself that does not fit
            failed = error
    raise UnsupportedError(
        "cannot verify the symmetries of this network: a random copy does not run on random inputs "
        f"like the example ({failed}). Pass verify=False to trust what was found."
    ) from failed


def _check_readable(model: nn.Module, verify: bool) -> None:
    """Modules that show a graph, and numbers if they are to be run."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{name!r} of the model is a {type(module).__name__}, a scripted or traced module "
                "that shows no graph: put the torch.nn.Module that it was made from in its place"
            )
    if verify and any(x.is_meta for x in model.state_dict().values()):
        raise ValueError(
            "the model is on the meta device, without numbers to verify with: pass verify=False, "
            'or give it some, model.to_empty(device="cpu")'
        )


def _larger(trace: Trace, again: Callable[[bool], Trace]) -> tuple[Trace, Symmetry]:
    """What the graph says; where units may pass a layer or be its own, what moves more of them."""
    symmetry = assemble(trace)
    if not trace.passed:
        return trace, symmetry
    try:
        other = again(False)
    except UnsupportedError:
        return trace, symmetry
    own = assemble(other)

    def moving(found: Symmetry) -> int:
        return sum(group.size for group in found.groups if not group.whole)

    return (other, own) if moving(own) > moving(symmetry) else (trace, symmetry)


def _warn_of_held(symmetry: Symmetry) -> None:
    """Say so if many units stay for a reason that is not the function itself."""
    held = [stay for stay in symmetry.stays if stay.why not in OWN]
    count = sum(stay.size for stay in held)
    moved = sum(group.size for group in symmetry.groups if not group.whole)
    if count > HELD * (moved + sum(stay.size for stay in symmetry.stays)):
        places = "; ".join(f"{s.size} of {s.axis.module!r}: {s.why}" for s in held[:3])
        more = f"; and {len(held) - 3} more places" if len(held) > 3 else ""
        warnings.warn(
            f"{count} hidden units stay where they are, for reasons that are not the function "
            f"itself ({places}{more}). Nothing that is done to them is wrong, but they are neither "
            "matched nor normalised. What holds them: a tensor with one number for each unit "
            "should be a parameter or a buffer of the state; outputs= says which outputs count; "
            "given= takes groups by hand",
            UserWarning,
            stacklevel=3,
        )


def _warn_of_unread(unread: Sequence[str], model: nn.Module, symmetry: Symmetry) -> None:
    """Say so if some parameters are not run: what reads units that move is left behind."""
    sizes = {group.size for group in symmetry.groups} - {1}
    held = dict(model.named_parameters())
    names = [k for k in unread if any(n % size == 0 for n in held[k].shape for size in sizes)]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        warnings.warn(
            f"forward does not run {', '.join(names[:3])}{more} on this example, in evaluation "
            "mode: they stay as they are where the units that they read are moved. If another "
            "input, another mode or another method runs them, take an example that does, or a "
            "module whose forward runs all that belongs together",
            UserWarning,
            stacklevel=3,
        )


def _that_count(symmetry: Symmetry, ignored: Collection[str]) -> Symmetry:
    """Without the groups of what no output depends on: what it gives may count elsewhere."""
    lost = [g for g in symmetry.groups if all(axis.parameter in ignored for axis in g.axes)]
    if not lost:
        return symmetry
    stays = [Stay(group.axes[0], IGNORED) for group in lost if not group.whole]
    return replace(_without(symmetry, lost), stays=(*symmetry.stays, *stays))


def _check_parts(symmetry: Symmetry) -> None:
    """Sets by hand name groups that there are."""
    names = {group.name for group in symmetry.groups}
    for group in symmetry.groups:
        if missing := sorted({part for parts in group.parts for part in parts} - names):
            raise ValueError(
                f"group {group.name!r} has parts that are no groups: {', '.join(missing)}; there "
                f"are {', '.join(sorted(names))}"
            )


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
    network: nn.Module,
    example: Any,
    certain: Sequence[Group],
    precision: torch.dtype,
) -> Symmetry:
    """The symmetry without the groups that change what a network with random weights says."""
    generator = torch.Generator().manual_seed(0)
    exact = precision == torch.float64
    network = _cast(network, torch.float64 if exact else torch.float32).cpu()
    buffers = {k for k, _ in network.named_buffers()}
    tables = {k for k, v in network.named_buffers() if _is_table(v, k in symmetry.parameters)}
    state: State = {
        k: v if k in tables else _random_like(k, v, generator, k in buffers)
        for k, v in network.state_dict().items()
    }
    size = sum(x.numel() for x in tree_leaves(example) if isinstance(x, Tensor))
    draws = 8 if size < 10_000 else 1  # a unit that is silent on one small input speaks on another
    like_example = partial(_random_like, "", generator=generator)
    inputs = [tree_map(like_example, example) for _ in range(draws)]
    outputs_of = each_alone(network, state, inputs[0])

    def said(state: State) -> Tensor:
        return torch.cat([outputs_of(state, x) for x in inputs])

    def alike(element: Element) -> bool:
        after = said(element.act(state))
        return bool(compare(before[rows][:, finite], after[rows][:, finite], tolerance))

    def wrong(*groups: Group) -> bool:
        part = _without(symmetry.still, [g for g in symmetry.still.all_groups if g not in groups])
        return not alike(Element.random(part, generator))

    def turned(symmetry: Symmetry) -> Symmetry:
        turns = Element.random(symmetry, generator).turns
        if not turns or alike(Element(symmetry, turns=turns)):
            return symmetry
        sure = {name for name in turns if alike(Element(symmetry, turns={name: turns[name]}))}
        groups = [g if g.name in sure else replace(g, turn=None) for g in symmetry.groups]
        return replace(symmetry, groups=tuple(groups))

    tolerance, before = torch.finfo(precision).eps ** 0.5, said(state)
    rows = before.isfinite().any(1)  # a single input may be out of what the network takes
    finite = before[rows].isfinite().all(0)
    if not rows.any() or not finite.any():
        raise UnsupportedError(
            "cannot verify the symmetries of this network: no output of a random copy is finite. "
            "Pass verify=False to trust what was found."
        )
    if alike(Element.random(symmetry, generator)):
        return symmetry
    every = symmetry.still.all_groups
    if not wrong(*every):
        return turned(symmetry)
    bad = [group for group in every if wrong(group)] or list(every)
    message = f"units that are not alike after all ({', '.join(g.name for g in bad)})"
    names = {group.name for group in bad}
    if any(group.name in names for group in certain):
        raise UnsupportedError(
            f"cannot read the symmetries of this network: {message}. The outputs of a random copy "
            "change when they are moved. Mend groups that were given by hand; pass strict=False to "
            "leave others as they are."
        )
    bad = [group for group in symmetry.all_groups if group.name in names]
    rest = turned(_without(symmetry, bad))
    stays = [Stay(g.axes[0], "not alike after all") for g in bad if g is not symmetry.output]
    refused = (*symmetry.refused, message)
    return replace(rest, refused=refused, stays=(*symmetry.stays, *stays))


def _cast(network: nn.Module, precision: torch.dtype) -> nn.Module:
    """In another precision; complex numbers stay complex."""
    return network._apply(
        lambda x: (
            x.to(precision.to_complex())
            if x.is_complex()
            else x.to(precision)
            if x.is_floating_point()
            else x
        )
    )


def _without(symmetry: Symmetry, groups: Sequence[Group]) -> Symmetry:
    """The symmetry without some of its groups, or without the last layer's factor."""
    kept = [group for group in symmetry.groups if group not in groups]
    names = {group.name for group in kept}
    # a kind of unit inside sets is one only as long as every set has its group
    kept = [replace(g, parts=tuple(p for p in g.parts if names.issuperset(p))) for g in kept]
    output = None if symmetry.output in groups else symmetry.output
    return replace(symmetry, groups=tuple(kept), output=output)


def _is_table(buffer: Tensor, moved: bool) -> bool:
    """Whether its numbers are part of the network: a mask, or what is no unit's and not all alike.

    What is all alike, zeros as they begin, would hide what it is added to or multiplied by.
    """
    alike = moved or bool((buffer == buffer.flatten()[:1]).all())
    return not alike or _is_mask(buffer)


def _is_mask(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(tensor.isinf().any())


def _random_like(name: str, tensor: Any, generator: torch.Generator, buffer: bool = False) -> Any:
    """Random numbers of the size that keeps activations of order one; γ of both signs.

    A buffer's stay positive where they are: it may be a variance.
    """
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        return tensor
    if not name and _is_mask(tensor):
        return tensor
    numbers = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype)
    if buffer:
        numbers = torch.where(tensor > 0, numbers.abs() + 0.5, numbers)
    if name.endswith("running_var"):
        return numbers.abs() + 0.5
    if name.endswith("bias"):
        return 0.1 * numbers  # large ones would drown what the layers before say
    weights = name and tensor.dim() > 1
    return numbers * (2 / max(1, tensor[0].numel())) ** 0.5 if weights else numbers
