"""Operations that only move numbers: carried out on the labels as they are."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional

from ..._network import UnsupportedError
from .._labels import CHOSEN, CONSTANT, INDEX, KINDS, Label, Trace, Weight, varies
from ._elementwise import masked_fill
from ._table import (
    RULES,
    activation,
    aten,
    is_one_number,
    is_zero,
    operation,
    rule,
    shape_of,
    value,
)


@rule(
    "flatten", "view", "reshape", "unsqueeze", "squeeze", "permute", "transpose", "slice",
    "select", "chunk", "split", "split_with_sizes", "unflatten", "roll", "flip", "rot90",
    "swapaxes", "swapdims", "movedim", "moveaxis", "t", "numpy_T", "mT", "narrow", "unbind",
    "channel_shuffle", "pixel_shuffle", "pixel_unshuffle", "unfold", "diagonal", "tensor_split",
    "repeat_interleave", "unsafe_chunk", "unsafe_split",
)  # fmt: skip
def moves(trace: Trace, node: Node, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Only moves numbers: the operation itself, carried out on the labels."""
    # labels may lie in memory in another order
    target: Any = aten.reshape.default if operation(node) == "view" else node.target

    def move(labels: Tensor) -> Any:
        return target(labels, *args, **kwargs)

    if isinstance(x, Weight):
        if (weight := _moved(x, move)) is not None:
            return weight
        x = value(trace, x)
    return _carried([x], lambda labels: move(labels[0]))


def _moved(x: Weight, move: Callable[[Tensor], Any]) -> Any:
    """A weight is still one if its dimensions stay apart; several where it is cut."""
    count = move(torch.zeros(x.shape, device="meta"))
    if isinstance(count, Tensor):
        return x.carried(move)

    def part(i: int) -> Weight | None:
        return x.carried(lambda places: move(places)[i])

    parts = [part(i) for i in range(len(count))]
    return None if any(part is None for part in parts) else parts


def _carried(operands: Sequence[Any], move: Callable[[list[Tensor]], Any]) -> Any:
    """A move of several operands together, kind by kind."""
    kinds = [0, 1, 2]  # unit, scale, sign; the last is which numbers are one
    if len(operands) == 1 and operands[0].numbers is not None:
        kinds.append(3)
    moved = [move([x[kind] for x in operands]) for kind in kinds]
    if isinstance(moved[0], Tensor):
        return Label(*moved)
    return [Label(*parts) for parts in zip(*moved, strict=True)]


@rule("cat", "concat", "concatenate", "stack", "hstack", "vstack")
def joins(trace: Trace, node: Node, parts: Sequence[Any], dim: int = 0) -> Label:
    """Lays activations beside each other."""
    labels = [activation(trace, x) for x in parts]
    place = (dim,) if operation(node) in ("cat", "concat", "concatenate", "stack") else ()
    target: Any = node.target
    return _carried(labels, lambda tensors: target(tensors, *place))


@rule("expand", "expand_as", "broadcast_to", "repeat", "tile")
def repeats(trace: Trace, node: Node, x: Any, *args: Any, **kwargs: Any) -> Any:
    """One number again and again, where a dimension of size 1 or none grows."""
    shape, copies = shape_of(node), operation(node) in ("repeat", "tile")
    if isinstance(x, Weight) and not copies:
        return x.carried(lambda labels: labels.expand(shape))
    x, target = activation(trace, x), cast(Any, node.target)
    if not copies:
        return x.expand(shape)
    # copies of one number, which are no new ones, keep its name
    numbers = torch.arange(x.shape.numel()).view(x.shape) if x.numbers is None else x.numbers
    return x._replace(numbers=numbers).moved(lambda labels: target(labels, *args))


@rule("view_as_complex")
def pairs(trace: Trace, node: Node, x: Any) -> Label:
    """Two numbers as one, which turns them into each other (a rotary embedding): one unit."""
    one = trace.along(activation(trace, x), [-1])
    return one.map(lambda labels: labels.squeeze(-1))


@rule("view_as_real")
def parts(trace: Trace, node: Node, x: Any) -> Label:
    """One number as two."""
    shape = shape_of(node)
    return activation(trace, x).map(lambda labels: labels.unsqueeze(-1).expand(shape))


@rule("reshape_as", "view_as")
def reshape_as(trace: Trace, node: Node, x: Any, other: Any) -> Label:
    """Only moves numbers."""
    return activation(trace, x).map(lambda labels: labels.reshape(shape_of(node)))


@rule("index")
def index(trace: Trace, node: Node, x: Any, where: Sequence[Any]) -> Label:
    """Numbers chosen by constants move; those that other numbers choose must not."""
    labels = activation(trace, x)
    if not any(isinstance(i, Label) for i in where):
        return labels.map(lambda ids: aten.index.Tensor(ids, where))
    kinds = [i.meta["val"].dtype for i in node.args[1] if isinstance(i, Node)]  # type: ignore
    if torch.bool in kinds:
        raise UnsupportedError("a mask that chooses how many numbers there are")
    indexed = [d for d, i in enumerate(where) if i is not None]
    # any place will do: they are tied below
    first = [i if i is None else torch.zeros(i.shape, dtype=torch.long) for i in where]
    chosen = _chosen(trace, labels, indexed, where, table=isinstance(x, Weight))
    return chosen.map(lambda ids: aten.index.Tensor(ids, first))


@rule("index_select", "take_along_dim")
def select(trace: Trace, node: Node, x: Any, *args: Any, **kwargs: Any) -> Label:
    """As `index`, along one dimension."""
    dim, where = args[::-1] if operation(node) == "take_along_dim" else args[:2]
    labels, target = activation(trace, x), cast(Any, node.target)
    if not isinstance(where, Label):
        return labels.map(lambda ids: target(ids, *args, **kwargs))
    chosen = _chosen(trace, labels, [dim], [where], table=isinstance(x, Weight))
    return chosen.expand(shape_of(node))


def _chosen(
    trace: Trace, x: Label, dims: Sequence[int], where: Sequence[Any], table: bool
) -> Label:
    """What any place along some dimensions may hold; units that differ along them stay.

    The rows of a table of weights are no units; its columns are, whatever row is chosen.
    """
    for i in where:  # what computes an index stays as it is
        if isinstance(i, Label):
            trace.freeze("unit", i.unit, INDEX)
            trace.fix(i, INDEX)
    if not table and any(varies(x.unit, dim) for dim in dims):
        trace.freeze("unit", x.unit, CHOSEN)
    return trace.along(x, dims)


def item(trace: Trace, node: Node, x: Any, index: int) -> Any:
    """One of several results."""
    return x[index]


RULES[operator.getitem] = item


@rule("copy")
def copy(trace: Trace, node: Node, x: Any, source: Any, *args: Any) -> Label:
    """Written over what was there, which has the units of what comes there."""
    return _put(trace, activation(trace, x), source)


@rule("index_put")
def put(
    trace: Trace, node: Node, x: Any, where: Sequence[Any], source: Any, adds: bool = False
) -> Label:
    """As `copy`, at places that constants choose; at those of a mask, as `masked_fill`."""
    if any(isinstance(i, Label) for i in where):
        if _is_mask(node) and not adds and is_one_number(source):
            (mask,) = where
            shape = [*mask.shape, *[1] * (len(shape_of(node)) - len(mask.shape))]
            fill = source.flatten()[0] if isinstance(source, Tensor) else source
            return masked_fill(trace, node, x, mask.moved(lambda ids: ids.view(shape)), fill)
        raise UnsupportedError("places that depend on the numbers")
    x = activation(trace, x)
    _put(trace, x.map(lambda ids: aten.index.Tensor(ids, where)), source)
    return x


def _is_mask(node: Node) -> bool:
    """Whether the places of an assignment are those of one mask."""
    (places, *more) = cast(Any, node.args[1])
    return not more and places.meta["val"].dtype == torch.bool


@rule("index_add", "index_copy")
def put_along(
    trace: Trace, node: Node, x: Any, dim: int, where: Any, source: Any, **kwargs: Any
) -> Label:
    """As `put`, along one dimension; where numbers choose the places, as `index` at any of them."""
    dim = dim % len(shape_of(node))
    if not isinstance(where, Label):
        return put(trace, node, x, [*[None] * dim, where], source)
    x, source = _repeated(trace, x, dim), value(trace, source)
    if isinstance(source, Label):
        source = _chosen(trace, source, [dim], [where], table=False)
    _put(trace, _chosen(trace, x, [dim], [where], table=False), source)
    return x


@rule("scatter_add", "scatter_reduce")
def scatter_along(
    trace: Trace, node: Node, x: Any, dim: int, where: Any, source: Any, how: str = "sum",
    **kwargs: Any,
) -> Label:  # fmt: skip
    """As `put_along`, where the places are the same for all that lies across."""
    rank = len(shape_of(node))
    dim, whole = dim % rank, [*shape_of(node)]
    whole[dim] = where.shape[dim]
    once = where.once if isinstance(where, Label) else lambda d: not varies(where, d % rank)
    across = [d for d in range(rank) if d != dim]
    if [*where.shape] != whole or not all(once(d - rank) for d in across) or how == "prod":
        raise UnsupportedError("numbers at places of their own, that other numbers choose")

    def line(places: Tensor) -> Tensor:
        return places.movedim(dim, 0).flatten(1)[:, 0] if across else places

    where = where.map(line) if isinstance(where, Label) else line(where)
    found = put_along(trace, node, x, dim, where, source)
    if how in ("amax", "amin"):  # the largest of some numbers is not that of their negatives
        trace.freeze("sign", found.sign, operation(node))
    return found


def _repeated(trace: Trace, x: Any, dim: int) -> Label:
    """An operand as an activation; a constant that is the same along a dimension has labels so."""
    x = value(trace, x)
    if isinstance(x, Tensor) and (x == (first := x.narrow(dim, 0, 1))).all():
        return trace.constant(first).expand(x.shape)
    return activation(trace, x)


def _put(trace: Trace, x: Label, source: Any) -> Label:
    """Numbers that come where `x` was: units are told apart by constants among them."""
    source = value(trace, source)
    trace.use(x)
    if not isinstance(source, Label) and is_one_number(source):  # as `cat` takes it
        source = trace.constant(torch.as_tensor(source).flatten()[0].expand(x.shape))
    if isinstance(source, Label):
        trace.use(source)
        for kind in KINDS:
            trace.tie(kind, getattr(x, kind), getattr(source, kind).expand(x.shape))
        return x
    trace.freeze("unit", x.unit, CONSTANT)
    if not is_zero(source):
        trace.fix(x, CONSTANT)
    return x


@rule(
    "new_zeros", "zeros_like", "new_ones", "ones_like", "new_full", "full_like", "zero", "fill",
    "new_empty", "empty_like",
)  # fmt: skip
def constant(trace: Trace, node: Node, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Numbers that depend on the shape alone."""
    if operation(node) in ("zero_", "fill_") and isinstance(x, Label):
        return _put(trace, x, args[0] if args else 0)
    like = node.meta["val"]
    fill = [a for a in args if isinstance(a, (int, float))]
    if "full" in operation(node) or "fill" in operation(node):
        if not fill:
            raise UnsupportedError("filled with a number that is computed")
        return torch.full(like.shape, fill[0], dtype=like.dtype)
    return torch.full(like.shape, 1 if "ones" in operation(node) else 0, dtype=like.dtype)


@rule("constant_pad_nd")
def pad_constant(trace: Trace, node: Node, x: Any, sides: Sequence[int], fill: Any = None) -> Label:
    """Zeros around."""
    return pad(trace, node, x, sides, "constant", fill)


@rule("pad")
def pad(
    trace: Trace,
    node: Node,
    x: Any,
    sides: Sequence[int],
    mode: str = "constant",
    fill: Any = None,
) -> Label:
    """Zeros: new places belong to what is beside them, new channels to nobody. Or what is there."""
    x = activation(trace, x)
    if mode != "constant":
        return x.map(lambda labels: _mirrored(labels, sides, mode))
    trace.use(x)
    if fill:
        trace.fix(x, "pad")
    return x.map(lambda labels: _rimmed(trace, labels, sides))


@rule(
    "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
    "replication_pad2d", "replication_pad3d",
)  # fmt: skip
def pad_mirrored(trace: Trace, node: Node, x: Any, sides: Sequence[int]) -> Label:
    """Takes the new places from those that are there."""
    mode = "reflect" if operation(node).startswith("reflection") else "replicate"
    return pad(trace, node, x, sides, mode)


def _mirrored(labels: Tensor, sides: Sequence[int], mode: str) -> Tensor:
    """Padding that takes numbers from elsewhere: each dimension's places, moved."""
    for k in range(len(sides) // 2):
        dim = labels.dim() - 1 - k
        places = torch.arange(labels.shape[dim], dtype=torch.float64)[None, None]
        places = functional.pad(places, tuple(sides[2 * k : 2 * k + 2]), mode)[0, 0]
        labels = labels.index_select(dim, places.long())
    return labels


def _rimmed(trace: Trace, labels: Tensor, sides: Sequence[int]) -> Tensor:
    """Zero padding of one kind of labels; a negative side cuts."""
    for k in range(len(sides) // 2):
        before, after, dim = sides[2 * k], sides[2 * k + 1], labels.dim() - 1 - k
        kept = labels.narrow(
            dim, max(0, -before), labels.shape[dim] - max(0, -before) - max(0, -after)
        )
        rims = [list(kept.shape) for _ in range(2)]
        rims[0][dim], rims[1][dim] = max(0, before), max(0, after)
        same = not varies(labels, dim)
        edge = [  # new places of a unit are its own, new channels nobody's
            kept.narrow(dim, 0, 1).expand(r) if same else trace.fresh(prod(r)).view(r) for r in rims
        ]
        labels = torch.cat([edge[0], kept, edge[1]], dim)
    return labels


@rule("im2col")
def unfold(trace: Trace, node: Node, x: Any, kernel: Sequence[int], *args: Any) -> Label:
    """Patches: each channel becomes a block of places."""
    x = activation(trace, x)
    trace.use(x)
    # (channels · kernel,)
    block = trace.per_channel(x, -3).map(lambda ids: ids.repeat_interleave(prod(kernel)))
    shape = shape_of(node)
    return block.map(lambda ids: ids.view(-1, 1).expand(shape))


@rule("col2im")
def fold(
    trace: Trace, node: Node, x: Any, size: Sequence[int], kernel: Sequence[int], *args: Any
) -> Label:
    """Patches summed where they lie: the places of a block belong to one channel."""
    x = activation(trace, x)
    trace.use(x)
    # (channels, kernel)
    blocks = trace.per_channel(x, -2).map(lambda ids: ids.view(-1, prod(kernel)))
    channels = trace.along(blocks, [1]).map(lambda ids: ids[:, 0])
    shape = shape_of(node)
    return channels.map(lambda ids: ids.view(-1, 1, 1).expand(shape))
