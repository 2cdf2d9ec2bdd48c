"""Places that were found, and what goes there: a top-k mask, say.

Who reads places among units reads the order of the units, which then stay; but not a gather or a
scatter along the same dimension, which leads back to the units themselves. Places along another
dimension are numbers of the units for which they were found.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor
from torch.fx import Node

from ..._network import UnsupportedError
from .._labels import FACTORS, INDEX, Label, Trace, still, varies
from ._moves import select
from ._table import activation, is_one_number, is_zero, operation, over, rule, shape_of


def found(trace: Trace, node: Node, x: Label, dim: int | None = None) -> Label:
    """Places where something was found in `x`, along a dimension."""
    several = isinstance(node.meta["val"], (list, tuple))  # what was found, and where
    places = [user for user in node.users if user.args[1] == 1] if several else [node]
    readers = [(place, user) for place in places for user in place.users]
    shape = (node.meta["val"][1] if several else node.meta["val"]).shape
    if dim is not None and all(_leads_back(*pair, dim) for pair in readers):
        trace.searched[node] = x
    elif dim is not None and not varies(x.unit, dim):
        unit = x.unit.narrow(dim, 0, 1)
        unit = unit if len(shape) == len(x.shape) else unit.squeeze(dim)
        return still(shape)._replace(unit=unit.expand(shape))
    elif readers:
        _stays(trace, x)
    return still(shape)


def _leads_back(places: Node, reader: Node, dim: int) -> bool:
    """Whether all that an operation does with places is to go there."""
    if operation(reader).rstrip("_") not in ("gather", "scatter"):
        return False
    _, along, *rest = reader.args
    rank = places.meta["val"].dim()
    return rest[0] is places and along % rank == dim % rank and places not in rest[1:]


def _stays(trace: Trace, x: Label) -> None:
    trace.freeze("unit", x.unit, INDEX)
    trace.fix(x, INDEX)


def _searched(trace: Trace, node: Node) -> Label | None:
    """What the places of a gather or a scatter were found in, if that is known."""
    places = node.args[2]
    assert isinstance(places, Node)
    if places.target is not operator.getitem:
        return trace.searched.get(places)
    return trace.searched.get(places.args[0]) if places.args[1] == 1 else None


@rule("gather")
def gather(trace: Trace, node: Node, x: Any, dim: int, where: Any, **kwargs: Any) -> Label:
    """Numbers at places; where these were found among the same units, a number of each set."""
    if not isinstance(where, Label):
        return select(trace, node, x, dim, where)
    searched, x = _searched(trace, node), activation(trace, x)
    if searched is None and _of_each(x, where, dim):
        trace.tie("unit", x.unit.narrow(dim, 0, 1), where.unit.narrow(dim, 0, 1))
        return trace.along(x, [dim]).expand(shape_of(node))
    if searched is None:
        return select(trace, node, x, dim, where)
    if searched.shape != x.shape:
        _stays(trace, searched)
        return select(trace, node, x, dim, where)
    trace.use(x)
    trace.tie("unit", searched.unit, x.unit)
    one = trace.along(x, [dim], FACTORS)._replace(unit=over(trace, x.unit, [dim]))
    return one.expand(shape_of(node))


def _of_each(x: Label, where: Label, dim: int) -> bool:
    """Whether places along a dimension are numbers of the units that they are read of."""
    units, found = (z.unit.narrow(dim, 0, 1) for z in (x, where))
    if units.shape != found.shape or varies(x.unit, dim) or varies(where.unit, dim):
        return False
    moving = [d for d in range(units.dim()) if varies(units, d)]
    return bool(found.all()) and all(varies(found, d) for d in moving)


@rule("scatter")
def scatter(
    trace: Trace, node: Node, x: Any, dim: int, where: Any, source: Any, **kwargs: Any
) -> Label:
    """Numbers at places; where these were found among units, the numbers are those units'."""
    searched = _searched(trace, node) if isinstance(where, Label) else None
    numbers = source if isinstance(source, Label) else still(shape_of(node))
    base = isinstance(x, Tensor) and is_one_number(x)
    known = base and not kwargs and not isinstance(source, Tensor) and not varies(numbers.unit, dim)
    if searched is not None and searched.shape == shape_of(node) and known:
        trace.use(searched)
        one = trace.along(numbers, [dim], FACTORS)
        if isinstance(source, Label):
            trace.tie("unit", over(trace, searched.unit, [dim]), one.unit.narrow(dim, 0, 1))
        if not is_zero(x):
            trace.fix(one, "scatter")
            one = still(one.shape)
        return one.expand(shape_of(node))._replace(unit=searched.unit, numbers=None)
    if searched is not None:
        _stays(trace, searched)
    if not all(z.still for z in (x, where, source) if isinstance(z, Label)):
        raise UnsupportedError("numbers at places that other numbers choose")
    return still(shape_of(node))
