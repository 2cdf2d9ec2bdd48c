"""The table of rules, and what every family of them needs.

A rule takes ``(trace, node, *arguments)``, ties labels in the trace, and returns the labels of the
result. Among the arguments an activation is a `Label`, a parameter a `Weight`; constants are
themselves. What a rule does not cover it refuses with an `UnsupportedError` that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ..._network import UnsupportedError
from .._labels import (
    ALONE,
    CONSTANT,
    FACTORS,
    INPUT,
    OUTER,
    Label,
    Trace,
    Weight,
    bits,
    still,
    varies,
)

Rule = Callable[..., Any]
RULES: dict[Any, Rule] = {}
NAMES: set[str] = set()  # of the operations, as torch knows them
aten = torch.ops.aten


def rule(*operations: str) -> Callable[[Rule], Rule]:
    """Enter a rule into the table, for these operations in all their overloads, in place or not."""
    NAMES.update(operations)

    def enter(function: Rule) -> Rule:
        for name in operations:
            for packet, found in ((name, function), (f"{name}_", _in_place(function))):
                overloads = getattr(aten, packet, None)  # an older torch may not have it
                names = overloads.overloads() if overloads else ()
                RULES.update({getattr(overloads, o): found for o in names})
        return function

    return enter


def _in_place(function: Rule) -> Rule:
    """The rule, where its first operand may be a constant that becomes an activation by it."""

    @wraps(function)
    def written(trace: Trace, node: Node, x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, Tensor):
            return function(trace, node, x, *args, **kwargs)
        empty, memory = _is_empty(node), x.untyped_storage()
        if not x.is_contiguous() or x.numel() * x.element_size() < memory.nbytes():  # a part of it
            return function(trace, node, trace.opened(x, empty), *args, **kwargs)
        found = function(trace, node, torch.zeros_like(x) if empty else x, *args, **kwargs)
        if isinstance(found, Label):
            trace.written[memory.data_ptr()] = x, found.map(lambda ids: ids.reshape(-1))
        return found

    return written


def _is_empty(node: Node) -> bool:
    """Whether what is written into began as memory of any content."""
    while node.args and isinstance(node.args[0], Node):
        node = node.args[0]
    return "empty" in operation(node)


def operation(node: Node) -> str:
    """Name of an operation as a user knows it: ``relu``, ``conv2d``."""
    return str(node.target).removeprefix("aten.").split(".")[0]


def overload(node: Node) -> str:
    """Which form of the operation it is: ``dim`` of ``max.dim``."""
    return str(node.target).rpartition(".")[2]


def shape_of(node: Node) -> torch.Size:
    """Shape of an operation's result, the first one if there are several."""
    value = node.meta["val"]
    return (value[0] if isinstance(value, (list, tuple)) else value).shape


def value(trace: Trace, x: Any) -> Any:
    """A parameter that is used as numbers of its own: each of its elements has a label."""
    if not isinstance(x, Weight):
        return x
    if x.stored.numel() == 1:  # of nobody in particular
        trace.untouchable[x.name] = "a single number"
        return still(x.shape)
    ids = trace.elements(x, "mean" if x.buffer else "out")  # a buffer is on no sphere
    return Label(ids, ids, ids, repeated(x))


def repeated(x: Weight) -> Tensor | None:
    """Which numbers of a weight are one, where it was expanded."""
    if x.moved is None:
        return None
    return x.elements(torch.arange(x.stored.numel()).view(x.stored))


def activation(trace: Trace, x: Any) -> Label:
    """An operand as an activation, whatever it is."""
    x = value(trace, x)
    if isinstance(x, Tensor):  # computed from constants
        return trace.constant(x)
    if not isinstance(x, Label):
        raise UnsupportedError("an operand that is not an activation")
    return x


def is_zero(x: Any) -> bool:
    """Whether a constant is zero everywhere: it agrees with every factor."""
    return not x.any() if isinstance(x, Tensor) else not isinstance(x, (Label, Weight)) and x == 0


def is_one_number(x: Any) -> bool:
    """Whether a constant is the same number everywhere."""
    return not isinstance(x, Tensor) or bool((x == x.flatten()[:1]).all())


def is_infinite(x: Any) -> bool:
    """Whether a constant is infinite everywhere: it agrees with every positive factor."""
    if isinstance(x, (Label, Weight)) or x is None:
        return False
    return bool(torch.as_tensor(x).double().isinf().all())


def over(trace: Trace, units: Tensor, dims: Sequence[int]) -> Tensor:
    """Units of what a symmetric function over some dimensions gives; they are kept with size 1."""
    dims = [d % units.dim() for d in dims]
    front = [d for d in range(units.dim()) if d not in dims]
    rows = units.permute(*front, *dims).reshape(prod(units.shape[d] for d in front), -1)
    kept = [1 if d in dims else size for d, size in enumerate(units.shape)]
    return trace.around(rows).reshape(kept)


def meet(trace: Trace, x: Label, y: Label, shape: torch.Size) -> Tensor:
    """Tie the units of two activations that meet; a broadcast operand is around what it meets."""
    trace.use(x)
    trace.use(y)
    a, b = x.unit.expand(shape), y.unit.expand(shape)
    for one, label, other in ((a, x, b), (b, y, a)):
        once = [d for d in range(len(shape)) if label.once(d - len(shape))]
        dims = [d for d in once if varies(other, d)]
        if dims:  # `one` is the same number for all of `other` along dims
            _surround(trace, one, other, dims)
            return other
    trace.tie("unit", a, b)
    return torch.where(a == 0, b, a) if (a == 0).any() else a


def _surround(trace: Trace, one: Tensor, other: Tensor, dims: Sequence[int]) -> None:
    """`one` is around the units of `other` along `dims`; if it is still, the set of them stays."""
    front = [d for d in range(one.dim()) if d not in dims]
    for d in front:
        if not varies(one, d) and not varies(other, d):
            one, other = one.narrow(d, 0, 1), other.narrow(d, 0, 1)
    rows = other.permute(*front, *dims).flatten(len(front))
    rows = rows.reshape(-1, rows.shape[-1])
    holder = one.permute(*front, *dims).flatten(len(front))[..., 0].reshape(-1)
    if (rows == rows[:1]).all():  # one set: its units move as they like, what is around it stays
        trace.freeze("unit", holder, ALONE if (holder == holder[:1]).all() else OUTER)
        return
    around = trace.around(rows)
    trace.tie("unit", around[holder != 0], holder[holder != 0])
    trace.freeze("unit", around[holder == 0], INPUT)


def meets_constant(trace: Trace, x: Label, y: Any) -> None:
    """Units that meet different numbers of a constant tensor are not alike.

    Where it has one number for each unit they stay, all of them: it should be a buffer.
    """
    if isinstance(y, Tensor) and y.dim() and not x.still:
        trace.sized |= y.numel() > 1
        shape = torch.broadcast_shapes(x.shape, y.shape)
        a, b = x.unit.expand(shape), bits(y).expand(shape)
        moving, differs = ({d for d in range(len(shape)) if varies(z, d)} for z in (a, b))
        if moving & differs:  # by units alone, it could have been a buffer that moves with them
            if differs ^ moving:
                trace.colour(a, b)
            else:
                trace.freeze("unit", a, CONSTANT)


def product(trace: Trace, x: Label, y: Label, shape: torch.Size, apart: bool = False) -> Label:
    """A product has the factors of the one that has any; those of both, or of `apart`'s y, stay."""
    unit, factors = meet(trace, x, y, shape), []
    for kind in FACTORS:
        free = [labels for label in (x, y) if (labels := getattr(label, kind)).any()]
        if len(free) > 1 or (apart and getattr(y, kind).any()):
            for labels in free:
                trace.freeze(kind, labels, "product")
            free = []
        factors.append(free[0].expand(shape) if free else still(shape).unit)
    return Label(unit, *factors)


def tied(trace: Trace, x: Label, y: Label, shape: torch.Size) -> Label:
    """Two activations of which either may be taken: one unit, one scale and one sign."""
    unit = meet(trace, x, y, shape)
    for kind in FACTORS:
        trace.tie(kind, getattr(x, kind), getattr(y, kind))
    wider = max(x, y, key=lambda label: (label.scale.numel(), label.scale.dim()))
    return wider.expand(shape)._replace(unit=unit, numbers=None)
