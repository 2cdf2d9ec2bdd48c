"""Operations over places, or over units: pools, means, extremes, norms."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from ..._network import UnsupportedError
from .._labels import FACTORS, Label, Trace, Weight, spread, still, varies
from ._elementwise import elementwise, homogeneous
from ._ranks import found
from ._table import Rule, activation, meet, operation, over, overload, rule, shape_of, tied


def _pool(dims: int) -> Rule:
    def pool(trace: Trace, node: Node, x: Label, *args: Any, **kwargs: Any) -> Any:
        """Maximum or mean over places, channel by channel: positively homogeneous."""
        shape = shape_of(node)
        channel = len(shape) - dims - 1
        trace.use(x)
        if "max" in operation(node):
            trace.freeze("sign", x.sign, operation(node))
        pooled = None if kwargs else _of_windows(trace, node, x, dims, *args)
        if pooled is None:
            pooled = spread(trace.per_channel(x, channel), shape, channel)
        if not isinstance(node.meta["val"], (list, tuple)):
            return pooled
        across = any(varies(x.unit, d) for d in range(channel + 1, len(shape)))
        own = still(shape)._replace(unit=pooled.unit)  # the places of each unit's maxima
        return [pooled, found(trace, node, x) if across else own]

    return pool


@rule("max_unpool2d", "max_unpool3d")
def unpool(trace: Trace, node: Node, x: Any, places: Any, *args: Any, **kwargs: Any) -> Label:
    """Back to the places of the maxima, zeros elsewhere, channel by channel."""
    x, places, shape = activation(trace, x), activation(trace, places), shape_of(node)
    channel = len(shape) - (2 if operation(node).endswith("2d") else 3) - 1
    trace.use(x, places)
    one, found = (trace.per_channel(z, channel) for z in (x, places))
    trace.tie("unit", one.unit, found.unit)
    return spread(one, shape, channel)


def _of_windows(
    trace: Trace, node: Node, x: Label, dims: int, kernel: Any, stride: Any = (), padding: Any = 0,
    dilation: Any = 1, *args: Any,
) -> Label | None:  # fmt: skip
    """A pool of units that lie at its places: each window of them is a set.

    None if it is no such pool, or its windows overlap, have gaps, hold one place or reach over an
    edge.
    """
    front, shape = len(x.shape) - dims, shape_of(node)
    gaps = "max" in operation(node) and {*tree_leaves(dilation)} != {1}
    gaps = gaps or {*kernel} == {1}
    if gaps or any(tree_leaves(padding)) or "adaptive" in operation(node):
        return None
    sizes, steps = ([*y] * (dims // len(y)) for y in (kernel, stride or kernel))
    if not any(varies(x.unit, d) for d in range(front, len(x.shape))) or sizes != steps:
        return None
    for d, size in enumerate(sizes, front):
        x = x.map(partial(Tensor.unfold, dimension=d, size=size, step=size))
    if x.shape[: front + dims] != shape:
        return None
    pooled = _summed(trace, x, range(front + dims, len(x.shape)))
    return pooled.map(lambda ids: ids.reshape(shape))


def _summed(trace: Trace, x: Label, dims: Sequence[int]) -> Label:
    """A sum, or what is homogeneous as a sum: it has one factor if all that is summed has it."""
    return trace.along(x, dims, FACTORS)._replace(unit=over(trace, x.unit, dims))


for _dims in (1, 2, 3):
    rule(
        f"max_pool{_dims}d", f"avg_pool{_dims}d", f"adaptive_avg_pool{_dims}d",
        f"adaptive_max_pool{_dims}d",
    )(_pool(_dims))  # fmt: skip
    if _dims > 1:
        rule(f"max_pool{_dims}d_with_indices", f"_adaptive_avg_pool{_dims}d")(_pool(_dims))
rule("max_pool1d_with_indices")(_pool(1))


@rule(
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d",
    "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
)  # fmt: skip
def upsample(trace: Trace, node: Node, x: Any, *args: Any, **kwargs: Any) -> Label:
    """Weighted means over places, channel by channel: linear."""
    x = activation(trace, x)
    trace.use(x)
    return spread(trace.per_channel(x, 1), shape_of(node), 1)


@rule("mean", "sum", "amax", "amin", "nansum", "nanmean")
def mean(
    trace: Trace, node: Node, x: Any, dims: Any = None, keep: bool = False, **kw: Any
) -> Label:
    """Over places nothing new; over units a number that is around them, and one factor for all."""
    x = activation(trace, x)
    dims = _every(dims, x)
    trace.use(x)
    if operation(node) in ("amax", "amin"):
        trace.freeze("sign", x.sign, operation(node))
    return _summed(trace, x, dims).map(lambda ids: ids.reshape(shape_of(node)))


def _every(dims: Any, x: Label) -> Sequence[int]:
    """The dimensions that are meant; none or no list is all of them."""
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return range(len(x.shape))
    return [dims] if isinstance(dims, int) else dims


@rule("linalg_vector_norm")
def vector_norm(
    trace: Trace, node: Node, x: Any, order: float = 2, dims: Any = None, *args: Any, **kw: Any
) -> Label:
    """A norm: homogeneous like a sum, and takes signs away."""
    x = activation(trace, x)
    return mean(trace, node, x._replace(sign=still(x.shape).sign), dims)


@rule("norm")
def norm(
    trace: Trace, node: Node, x: Any, order: Any = 2, dims: Any = None, *args: Any, **kw: Any
) -> Label:
    """As `vector_norm`, by its older name."""
    return vector_norm(trace, node, x, order, dims)


@rule("linalg_norm")
def linalg_norm(
    trace: Trace, node: Node, x: Any, order: Any = None, dims: Any = None, *args: Any, **kw: Any
) -> Label:
    """As `vector_norm`; of a matrix that of its numbers alone."""
    x = activation(trace, x)
    if (isinstance(order, (int, float)) or order == "nuc") and len(_every(dims, x)) > 1:
        raise UnsupportedError("a norm of a matrix that is not that of its numbers")
    return vector_norm(trace, node, x, 2, dims)


@rule("pairwise_distance")
def distance(
    trace: Trace, node: Node, x: Any, y: Any, order: float = 2, eps: float = 1e-6, *args: Any
) -> Label:
    """The norm of a difference, to which a small number is added."""
    x, y = activation(trace, x), activation(trace, y)
    both = tied(trace, x, y, torch.broadcast_shapes(x.shape, y.shape))
    return vector_norm(trace, node, elementwise(trace, node, both) if eps else both, order, [-1])


@rule("cdist")
def distances(trace: Trace, node: Node, x: Any, y: Any, *args: Any) -> Label:
    """The norms of all differences of two sets of vectors; those of a weight are a layer's rows."""
    for weight, other, dim in ((y, x, -1), (x, y, -2)):
        if isinstance(weight, Weight) and len(weight.shape) == 2 and isinstance(other, Label):
            return _to_rows(trace, node, other, weight, dim)
    x, y = (activation(trace, z) for z in (x, y))
    x, y = x.moved(lambda ids: ids.unsqueeze(-2)), y.moved(lambda ids: ids.unsqueeze(-3))
    both = tied(trace, x, y, torch.broadcast_shapes(x.shape, y.shape))
    return vector_norm(trace, node, both, 2, [-1])


def _to_rows(trace: Trace, node: Node, x: Label, weight: Weight, dim: int) -> Label:
    channels, columns = trace.per_channel(x, -1), trace.slot(weight, 1, "in")
    rows = trace.slot(weight, 0, "out")
    for kind in ("unit", "sign"):
        trace.tie(kind, columns, getattr(channels, kind))
    trace.freeze("scale", torch.cat([columns, channels.scale]), "cdist")
    trace.fix(rows, "cdist")
    trace.use(x)
    return spread(still(rows.shape)._replace(unit=rows), shape_of(node), dim % len(shape_of(node)))


@rule("std", "var", "var_mean", "std_mean")
def deviation(trace: Trace, node: Node, x: Any, dims: Any = None, *args: Any, **kw: Any) -> Any:
    """Homogeneous; the square is not. All may flip together, and the sign ends."""
    x = activation(trace, x)
    if isinstance(dims, bool):  # unbiased, over everything
        dims = None
    # λ² is no factor that a label could stand for
    if operation(node).startswith("var"):
        trace.freeze("scale", x.scale, operation(node))
    average = mean(trace, node, x, dims)
    spread_out = average._replace(sign=still(average.shape).sign)
    if operation(node).startswith("var"):
        spread_out = spread_out._replace(scale=still(average.shape).scale)
    return [spread_out, average] if operation(node).endswith("mean") else spread_out


@rule("logsumexp", "prod", "any", "all", "count_nonzero")
def symmetric(trace: Trace, node: Node, x: Any, dims: Any = None, *args: Any, **kw: Any) -> Label:
    """A symmetric function over some dimensions that lets no factor through."""
    return mean(trace, node, elementwise(trace, node, x), dims)


@rule("max", "min")
def extreme(trace: Trace, node: Node, x: Any, other: Any = None, *args: Any, **kw: Any) -> Any:
    """Over everything, over one dimension with its places, or the larger of two."""
    if overload(node) == "other":
        both = activation(trace, x), activation(trace, other)
        return homogeneous(trace, node, tied(trace, both[0], both[1], shape_of(node)))
    x = homogeneous(trace, node, x)
    best = mean(trace, node, x, other)
    return best if other is None else [best, found(trace, node, x, other)]


@rule("topk", "sort", "kthvalue", "median", "cummax", "cummin", "mode")
def ordered(trace: Trace, node: Node, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Numbers in their order: each is a symmetric function of all along the dimension."""
    x = homogeneous(trace, node, x)
    numbers = [a for a in args if isinstance(a, int) and not isinstance(a, bool)]
    counts = operation(node) in ("topk", "kthvalue")
    dim = kwargs.get("dim", numbers[counts] if len(numbers) > counts else -1)
    if operation(node).startswith("cum") and varies(x.unit, dim):
        raise UnsupportedError("it takes units in their order")
    one = _summed(trace, x, [dim])
    if overload(node) == "default" and operation(node) == "median":
        return mean(trace, node, x)
    shape = shape_of(node)
    kept = len(shape) == len(x.shape)  # a k-th value may drop its dimension
    best = one.map(lambda ids: ids if kept else ids.squeeze(dim)).expand(shape)
    return [best, found(trace, node, x, dim)]


@rule("argmax", "argmin", "argsort")
def place(trace: Trace, node: Node, x: Any, dim: Any = None, *args: Any, **kwargs: Any) -> Label:
    """Which place is the largest: it stays so under a positive factor."""
    x = homogeneous(trace, node, x)
    if dim is not None:  # what is compared has one factor, and is one set
        trace.along(x, [dim], FACTORS)
        over(trace, x.unit, [dim])
    return found(trace, node, x, dim)


@rule("cumsum", "cumprod", "logcumsumexp", "diff")
def running(trace: Trace, node: Node, x: Any, *args: Any, **kwargs: Any) -> Label:
    """Sums along places; units would be taken in their order, which is no symmetry."""
    x = activation(trace, x)
    dim = kwargs.get("dim", args[-1] if args else -1)
    if varies(x.unit, dim):
        raise UnsupportedError("it takes units in their order")
    trace.use(x)
    if operation(node) not in ("cumsum", "cumsum_", "diff"):
        x = elementwise(trace, node, x)
    return trace.along(x, [dim]).expand(shape_of(node))


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax")
def softmax(trace: Trace, node: Node, x: Any, dim: int, *args: Any, **kwargs: Any) -> Label:
    """Each element stays what it is; all along `dim` enter alike."""
    x = activation(trace, x)
    over(trace, x.unit, [dim])
    return elementwise(trace, node, x)


@rule("cosine_similarity")
def cosine(trace: Trace, node: Node, x: Any, y: Any, dim: int = 1, eps: float = 1e-8) -> Label:
    """Σ x y / (|x| |y|) along a dimension: units and signs of both are the same."""
    x, y = (activation(trace, z) for z in (x, y))
    for label in (x, y):
        trace.freeze("scale", label.scale, "cosine_similarity")
    both = x._replace(unit=meet(trace, x, y, x.shape)) if x.shape == y.shape else None
    if both is None:
        raise UnsupportedError("two activations of different shapes")
    trace.tie("sign", x.sign, y.sign)
    units = over(trace, both.unit, [dim])
    return still(shape_of(node))._replace(unit=units.reshape(shape_of(node)))
