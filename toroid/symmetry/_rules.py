"""What each operation says about units and their scales: the whole knowledge of operations.

`RULES` maps an ATen operation to a rule. A rule takes ``(trace, node, *arguments)``, ties labels in
the trace, and returns the labels of the result. Among the arguments an activation is a `Label`, a
parameter a `Weight`; constants are themselves. To support an operation, add its rule.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from .._network import UnsupportedError
from ._labels import FACTORS, KINDS, Label, Trace, Weight, spread, still, varies

Rule = Callable[..., Any]
RULES: dict[Any, Rule] = {}
aten = torch.ops.aten


def rule(*operations: str) -> Callable[[Rule], Rule]:
    """Enter a rule into the table, for these operations in all their overloads, in place or not."""

    def enter(function: Rule) -> Rule:
        for name in [*operations, *(f"{operation}_" for operation in operations)]:
            packet = getattr(aten, name, None)  # an older torch may not have it
            RULES.update(
                {getattr(packet, o): function for o in packet.overloads()} if packet else {}
            )
        return function

    return enter


def shape_of(node: Node) -> torch.Size:
    """Shape of an operation's result."""
    return node.meta["val"].shape


def value(trace: Trace, x: Any) -> Any:
    """A parameter that is used as a number of its own: each of its elements has a label."""
    if not isinstance(x, Weight):
        return x
    if x.buffer:
        trace.untouchable[x.name] = "a constant"
        return still(x.shape)
    if not x.shape:
        raise UnsupportedError("a parameter that is a single number")
    ids = trace.slot(x, 0, "out", span=len(x.shape)).view(x.shape)
    return Label(ids, ids, ids)


# --- moving -------------------------------------------------------------------------------------


@rule(
    "flatten", "view", "reshape", "unsqueeze", "squeeze", "permute", "cat", "transpose", "slice",
    "select", "expand", "stack", "chunk", "split", "split_with_sizes", "unflatten", "roll", "flip",
    "swapaxes", "movedim", "t", "numpy_T", "mT", "narrow", "unbind", "index", "repeat", "tile",
    "index_select", "channel_shuffle", "pixel_shuffle", "pixel_unshuffle",
)  # fmt: skip
def moves(trace: Trace, node: Node, *args: Any, **kwargs: Any) -> Any:
    """Only moves numbers: the operation itself, carried out on the labels."""
    if operation(node).startswith("index"):
        where = args[-1] if isinstance(args[-1], list) else [args[-1]]
        if any(isinstance(x, Label) for x in where):  # labels are not the numbers that choose
            raise UnsupportedError("an index that is computed or an input")
    joins = operation(node) in ("cat", "stack")
    views = node.target is aten.view.default  # labels may lie in memory in another order
    target: Any = aten.reshape.default if views else node.target

    def labelled(x: Any) -> Any:
        return still(x.shape) if joins and isinstance(x, Tensor) else value(trace, x)

    args = _map(labelled, args)

    def carry_out(kind: str) -> Any:
        return target(
            *_map(lambda x: getattr(x, kind) if isinstance(x, Label) else x, args), **kwargs
        )

    moved = [carry_out(kind) for kind in KINDS]
    return Label(*moved) if isinstance(moved[0], Tensor) else [*map(Label, *moved)]


def _map(function: Callable[[Any], Any], tree: Any) -> Any:
    """Apply a function to the leaves of nested lists and tuples (labels and weights are leaves)."""
    if isinstance(tree, (list, tuple)) and not isinstance(tree, (Label, Weight)):
        return [_map(function, x) for x in tree]
    return function(tree)


@rule("_assert_tensor_metadata")
def check(trace: Trace, node: Node, *args: Any, **kwargs: Any) -> None:
    """Says nothing of numbers."""


@rule("expand_as")
def expand_as(trace: Trace, node: Node, x: Any, other: Any) -> Label:
    """Repeats numbers."""
    return Label(*(part.expand(shape_of(node)) for part in value(trace, x)))


@rule("reshape_as", "view_as")
def reshape_as(trace: Trace, node: Node, x: Any, other: Any) -> Label:
    """Only moves numbers."""
    return Label(*(part.reshape(shape_of(node)) for part in value(trace, x)))


def item(trace: Trace, node: Node, x: Any, index: int) -> Any:
    """One of several results."""
    return x[index]


RULES[operator.getitem] = item


@rule("new_zeros", "zeros_like", "new_ones", "ones_like")
def constant(trace: Trace, node: Node, x: Label, *args: Any, **kwargs: Any) -> Tensor:
    """Numbers that depend on the shape alone."""
    return torch.full(shape_of(node), 1.0 if "ones" in operation(node) else 0.0)


@rule("pad", "constant_pad_nd")
def pad(
    trace: Trace,
    node: Node,
    x: Label,
    sides: Sequence[int],
    mode: str = "constant",
    fill: Any = None,
) -> Label:
    """Zeros: new places belong to what is beside them, new channels to nobody."""
    if mode != "constant" or fill:
        raise UnsupportedError(f"padding with mode={mode!r}, value={fill!r}")
    parts = []
    for labels in x:
        for k in range(len(sides) // 2):
            before, after, dim = sides[2 * k], sides[2 * k + 1], labels.dim() - 1 - k
            kept = labels.narrow(
                dim, max(0, -before), labels.shape[dim] - max(0, -before) - max(0, -after)
            )
            rims = [list(kept.shape) for _ in range(2)]
            rims[0][dim], rims[1][dim] = max(0, before), max(0, after)
            same = not varies(labels, dim)
            edge = [
                kept.narrow(dim, 0, 1).expand(r) if same else trace.fresh(prod(r)).view(r)
                for r in rims
            ]
            labels = torch.cat([edge[0], kept, edge[1]], dim)
        parts.append(labels)
    return Label(*parts)


# --- element by element -------------------------------------------------------------------------


@rule(
    "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "clone", "alias",
    "contiguous", "detach", "lift_fresh_copy", "positive", "neg", "to", "_to_copy", "zero",
)  # fmt: skip
def linear_alone(trace: Trace, node: Node, x: Any, *args: Any, **kwargs: Any) -> Label:
    """f(λ z) = λ f(z) for every λ, on each element alone; dropout is off in evaluation mode."""
    if "dropout" in str(node.target) and args[1]:
        raise UnsupportedError("dropout that is active in evaluation mode")
    x = _activation(value(trace, x))
    trace.use(x)
    if not node.meta["val"].is_floating_point():
        trace.fix(x, "a cast to integers")
    return x


@rule("relu", "leaky_relu")
def homogeneous(trace: Trace, node: Node, x: Any, *args: Any, **kwargs: Any) -> Label:
    """f(λ z) = λ f(z) for λ > 0, on each element alone."""
    x = linear_alone(trace, node, x)
    trace.freeze("sign", x.sign, operation(node))
    return x


@rule("tanh", "hardtanh", "sin", "erf", "atan", "asinh")
def odd(trace: Trace, node: Node, x: Any, *limits: float) -> Label:
    """f(-z) = -f(z), on each element alone."""
    if limits and limits[0] != -limits[1]:
        return elementwise(trace, node, x)
    x = linear_alone(trace, node, x)
    trace.freeze("scale", x.scale, operation(node))
    return x._replace(scale=still(x.shape).scale)


@rule("sign")
def sign(trace: Trace, node: Node, x: Any) -> Any:
    """Odd, and takes the scale away; the signs of a weight are a weight, which has no scale."""
    if isinstance(x, Weight) and not x.buffer:
        return x._replace(signed=True)
    x = linear_alone(trace, node, x)
    return x._replace(scale=still(x.shape).scale)


@rule(
    "gelu", "silu", "sigmoid", "hardswish", "hardsigmoid", "elu", "softplus", "mish", "relu6",
    "selu", "celu", "clamp", "clamp_min", "exp", "log", "sqrt", "rsqrt", "pow", "abs", "cos",
    "reciprocal", "log_sigmoid",
)  # fmt: skip
def elementwise(trace: Trace, node: Node, x: Any, *args: Any, **kwargs: Any) -> Label:
    """Acts on each element alone and lets no factor through: units may only move."""
    if any(isinstance(y, (Label, Weight)) for y in (*args, *kwargs.values())):
        raise UnsupportedError("a second operand that is not a number")
    x = linear_alone(trace, node, x)
    trace.fix(x, operation(node))
    return still(x.shape)._replace(unit=x.unit)


def _activation(x: Any) -> Label:
    if isinstance(x, Tensor):  # computed from constants
        return still(x.shape)
    if not isinstance(x, Label):
        raise UnsupportedError("an operand that is not an activation")
    return x


@rule("prelu")
def prelu(trace: Trace, node: Node, x: Label, slope: Weight) -> Label:
    """Homogeneous; a slope for each channel moves with it."""
    x = homogeneous(trace, node, x)
    if slope.shape.numel() > 1:
        channels = trace.per_channel(x, 1)
        for kind in KINDS:
            trace.tie(kind, trace.slot(slope, 0, "slope"), getattr(channels, kind))
    else:
        trace.untouchable[slope.name] = "prelu"
    return x


@rule("add", "sub", "rsub")
def add(trace: Trace, node: Node, x: Any, y: Any, **kwargs: Any) -> Label:
    """Adds two activations: what meets belongs to the same unit and has the same scale."""
    x, y = value(trace, x), value(trace, y)
    if not isinstance(x, Label):
        x, y = y, x
    if not isinstance(y, Label):
        _check_constant(trace, x, y)
        return elementwise(trace, node, x)
    unit = _meet(trace, x, y, shape_of(node))
    for kind in FACTORS:
        trace.tie(kind, getattr(x, kind), getattr(y, kind))
    wider = max(x, y, key=lambda label: (label.scale.numel(), label.scale.dim()))
    return Label(*(part.expand(shape_of(node)) for part in wider))._replace(unit=unit)


@rule("mul", "div")
def multiply(trace: Trace, node: Node, x: Any, y: Any) -> Label:
    """Times a number, a parameter for each unit, or a gate: a product has both factors' scales."""
    divides = operation(node).startswith("div")
    if not isinstance(x, Label) and not divides:
        x, y = y, x
    if isinstance(y, Weight) and y.shape:  # moves with the units it multiplies, is never scaled
        ids = trace.slot(y, 0, "slope", span=len(y.shape)).view(y.shape)
        if isinstance(x, Label):
            for kind in FACTORS:
                trace.tie(kind, ids, getattr(x, kind))
        y = still(y.shape)._replace(unit=ids)
    x = value(trace, x)
    if not isinstance(x, Label) or isinstance(y, Weight):
        raise UnsupportedError(
            "a number divided by an activation" if divides else "a single number"
        )
    if not isinstance(y, Label):
        _check_constant(trace, x, y)
        trace.use(x)
        return x
    shape = shape_of(node)
    inplace = operation(node).endswith("_")  # x's other names keep its factors
    return _product(trace, x, y, shape, apart=divides or inplace)


def _product(trace: Trace, x: Label, y: Label, shape: torch.Size, apart: bool = False) -> Label:
    """A product has the factors of the one that has any; those of both, or of `apart`'s y, stay."""
    unit, factors = _meet(trace, x, y, shape), []
    for kind in FACTORS:
        free = [labels for label in (x, y) if (labels := getattr(label, kind)).any()]
        if len(free) > 1 or (apart and getattr(y, kind).any()):
            for labels in free:
                trace.freeze(kind, labels, "product")
            free = []
        factors.append(free[0].expand(shape) if free else still(shape).unit)
    return Label(unit, *factors)


@rule("addcmul")
def addcmul(trace: Trace, node: Node, x: Any, y: Any, z: Any, **kwargs: Any) -> Label:
    """x + y z."""
    y, z = (y, z) if isinstance(y, Label) else (z, y)
    return add(trace, node, x, multiply(trace, node, y, z))


def _meet(trace: Trace, x: Label, y: Label, shape: torch.Size) -> Tensor:
    """Tie the units of two activations that meet; a broadcast operand is around what it meets."""
    trace.use(x)
    trace.use(y)
    a, b = x.unit.expand(shape), y.unit.expand(shape)
    for one, sizes, other in ((a, x.shape, b), (b, y.shape, a)):
        once = [
            d
            for d in range(len(shape))
            if d < len(shape) - len(sizes) or sizes[d - len(shape)] == 1
        ]
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
    around = trace.around(rows.reshape(-1, rows.shape[-1]))
    holder = one.permute(*front, *dims).flatten(len(front))[..., 0].reshape(-1)
    trace.tie("unit", around[holder != 0], holder[holder != 0])
    trace.freeze("unit", around[holder == 0], "input")


def _check_constant(trace: Trace, x: Label, y: Any) -> None:
    """A constant tensor must be the same for all units that it meets, or they stay."""
    if isinstance(y, Tensor) and y.dim():
        shape = torch.broadcast_shapes(x.shape, y.shape)
        a, b = x.unit.expand(shape), y.expand(shape)
        if any(varies(a, d) and varies(b, d) for d in range(len(shape))):
            trace.freeze("unit", a, "constant")


# --- places and channels ------------------------------------------------------------------------


def _pool(dims: int) -> Rule:
    def pool(trace: Trace, node: Node, x: Label, *args: Any, **kwargs: Any) -> Label:
        """Maximum or mean over places, channel by channel: positively homogeneous."""
        channel = len(shape_of(node)) - dims - 1
        trace.use(x)
        if "max" in operation(node):
            trace.freeze("sign", x.sign, operation(node))
        return spread(trace.per_channel(x, channel), shape_of(node), channel)

    return pool


for _dims in (1, 2, 3):
    rule(f"max_pool{_dims}d", f"avg_pool{_dims}d", f"adaptive_avg_pool{_dims}d")(_pool(_dims))


@rule(
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact2d",
    "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d",
)  # fmt: skip
def upsample(trace: Trace, node: Node, x: Label, *args: Any, **kwargs: Any) -> Label:
    """Weighted means over places, channel by channel: linear."""
    trace.use(x)
    return spread(trace.per_channel(x, 1), shape_of(node), 1)


@rule("mean", "sum", "amax", "amin")
def mean(
    trace: Trace, node: Node, x: Label, dims: Any = None, keep: bool = False, **kw: Any
) -> Label:
    """Over places nothing new; over units a number that is around them, and one factor for all."""
    dims = range(len(x.shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    trace.use(x)
    if operation(node) not in ("mean", "sum"):
        trace.freeze("sign", x.sign, operation(node))
    result = [_over(trace, x.unit, dims)]
    for kind in FACTORS:
        first = getattr(x, kind)
        for dim in dims:
            first = first.narrow(dim, 0, 1)
        trace.tie(kind, getattr(x, kind), first)
        result.append(first)
    return Label(*(labels.reshape(shape_of(node)) for labels in result))


@rule("linalg_vector_norm")
def vector_norm(
    trace: Trace,
    node: Node,
    x: Label,
    order: float = 2,
    dims: Any = None,
    keep: bool = False,
    **kw: Any,
) -> Label:
    """A norm: homogeneous like a sum."""
    return mean(trace, node, x, dims, keep)


def _over(trace: Trace, units: Tensor, dims: Sequence[int]) -> Tensor:
    """Units of what a symmetric function over some dimensions gives; they are kept with size 1."""
    dims = [d % units.dim() for d in dims]
    front = [d for d in range(units.dim()) if d not in dims]
    rows = units.permute(*front, *dims).reshape(prod(units.shape[d] for d in front), -1)
    kept = [1 if d in dims else size for d, size in enumerate(units.shape)]
    return trace.around(rows).reshape(kept)


@rule("softmax", "_softmax", "log_softmax")
def softmax(trace: Trace, node: Node, x: Label, dim: int, *args: Any, **kwargs: Any) -> Label:
    """Each element stays what it is; all along `dim` enter alike."""
    _over(trace, x.unit, [dim])
    return elementwise(trace, node, x)


# --- layers -------------------------------------------------------------------------------------


def _affine(
    trace: Trace, node: Node, x: Label, columns: Tensor, rows: Tensor, bias: Any, channel: int
) -> Label:
    """Columns read the input; rows (and bias) make the output."""
    channels = trace.per_channel(x, channel)
    for kind in KINDS:
        trace.tie(kind, columns, getattr(channels, kind))
    _shift(trace, bias, rows)
    trace.use(x)
    return spread(Label(rows, rows, rows), shape_of(node), channel)


def _shift(trace: Trace, bias: Any, rows: Tensor) -> None:
    """A bias has the units and factors of the rows; it may have been moved on the way."""
    if bias is not None:
        labels = trace.slot(bias, 0, "bias") if isinstance(bias, Weight) else None
        for kind in KINDS:
            trace.tie(kind, getattr(bias, kind) if labels is None else labels, rows)


@rule("linear")
def linear(trace: Trace, node: Node, x: Label, weight: Any, bias: Any = None) -> Label:
    """W x + b along the last dimension."""
    if len(weight.shape) != 2:
        raise UnsupportedError("a weight that is a vector; give it the shape (1, inputs)")
    x = _activation(value(trace, x))
    return _affine(
        trace, node, x, trace.slot(weight, 1, "in"), trace.slot(weight, 0, "out"), bias, channel=-1
    )


def _conv(dims: int) -> Rule:
    def conv(
        trace: Trace, node: Node, x: Label, weight: Any, bias: Any = None, stride: Any = 1,
        padding: Any = 0, dilation: Any = 1, groups: int = 1,
    ) -> Label:  # fmt: skip
        """A linear layer along the channels, at every place."""
        x = _activation(x)
        channel = len(shape_of(node)) - dims - 1
        rows = trace.slot(weight, 0, "out")
        if groups == 1:
            columns = trace.slot(weight, 1, "in")
            return _affine(trace, node, x, columns, rows, bias, channel)
        return _grouped(trace, node, x, weight, rows, bias, groups, channel)

    return conv


def _grouped(
    trace: Trace,
    node: Node,
    x: Label,
    weight: Weight,
    rows: Tensor,
    bias: Any,
    groups: int,
    channel: int,
) -> Label:
    """Blocks of channels that do not see each other: a column belongs to its block's rows alone."""
    channels = trace.per_channel(x, channel)
    inputs = weight.shape[1]  # of one block
    depthwise = inputs == 1  # a row is also the column of its one input
    columns = trace.slot(weight, 0, "in", span=1 if depthwise else 2, roles=2)
    for kind in KINDS:
        read = getattr(channels, kind).view(groups, 1, inputs)
        trace.tie(kind, columns.view(groups, -1, inputs), read)
    _shift(trace, bias, rows)
    trace.use(x)
    blocks = rows.view(groups, -1)
    if not depthwise:  # else slot() has tied rows and input already
        trace.around(torch.cat([channels.unit.view(groups, inputs), blocks], 1))
    return spread(Label(rows, rows, rows), shape_of(node), channel)


for _dims in (1, 2, 3):
    rule(f"conv{_dims}d")(_conv(_dims))


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(
    trace: Trace, node: Node, x: Label, weight: Any, bias: Any = None, stride: Any = 1,
    padding: Any = 0, output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Label:  # fmt: skip
    """A convolution whose weight has its inputs first."""
    if groups != 1:
        raise UnsupportedError(f"a transposed convolution with groups={groups}")
    rows, columns = trace.slot(weight, 1, "out"), trace.slot(weight, 0, "in")
    channel = len(shape_of(node)) - len(weight.shape) + 1
    return _affine(trace, node, x, columns, rows, bias, channel)


@rule("batch_norm")
def batch_norm(
    trace: Trace, node: Node, x: Label, weight: Any, bias: Any, mean: Any, var: Any, training: bool,
    momentum: float, eps: float, *args: Any,
) -> Label:  # fmt: skip
    """γ (x - mean) / sqrt(var + ε) + β: the statistics absorb a scale, the pair starts one."""
    if mean is None or var is None or training:
        raise UnsupportedError("BatchNorm without running statistics")
    channels = trace.per_channel(x, 1)
    for kind in KINDS:
        trace.tie(kind, trace.slot(mean, 0, "mean"), getattr(channels, kind))
        trace.tie(kind, trace.slot(var, 0, "var", eps=eps), getattr(channels, kind))
    trace.use(x)
    return spread(_pair(trace, channels, weight, bias), shape_of(node), 1)


def _pair(trace: Trace, x: Label, weight: Any, bias: Any) -> Label:
    """An affine pair (γ, β) behind a normalisation: a scale begins, units and signs are the same.

    A sign that passes flips β; γ stays.
    """
    unit, sign = x.unit, x.sign
    scale = torch.zeros_like(unit)
    if weight is not None:
        scale = trace.slot(weight, 0, "out", span=len(weight.shape)).view(unit.shape)
        trace.tie("unit", scale, unit)
        trace.freeze("sign", scale, "a gain")
    if bias is not None:  # the pair is one vector: β is not a bias of the paper's kind
        role = "bias" if weight is None else "out"
        shift = trace.slot(bias, 0, role, span=len(bias.shape)).view(unit.shape)
        for kind, labels in zip(KINDS, (unit, scale, sign), strict=True):
            trace.tie(kind, shift, labels)
    return Label(unit, scale, sign)


@rule("layer_norm")
def layer_norm(
    trace: Trace, node: Node, x: Label, shape: Sequence[int], weight: Any = None, bias: Any = None,
    *args: Any,
) -> Label:  # fmt: skip
    """One number divides all channels, with an ε: their scale is fixed; the pair starts one."""
    trace.use(x)
    trace.fix(x, "layer_norm")
    leading = len(x.shape) - len(shape)
    rows = x.unit.flatten(0, leading - 1) if leading else x.unit[None]  # (places, *shape)
    if rows.stride(0) != 0 and len(rows) > 1:
        trace.tie("unit", rows[1:], rows[:1])
    trace.around(rows[0].reshape(1, -1))
    pair = _pair(trace, still(rows[0].shape)._replace(unit=rows[0]), weight, bias)
    return Label(*(part.expand(x.shape) for part in pair))


@rule("group_norm")
def group_norm(
    trace: Trace,
    node: Node,
    x: Label,
    groups: int,
    weight: Any = None,
    bias: Any = None,
    *args: Any,
) -> Label:
    """As a layer_norm, in blocks of channels."""
    trace.use(x)
    trace.fix(x, "group_norm")
    channels = trace.per_channel(x, 1)
    trace.around(channels.unit.view(groups, -1))
    return spread(_pair(trace, channels, weight, bias), shape_of(node), 1)


# --- products of activations --------------------------------------------------------------------

LAYER = "a layer is written as torch.nn.functional.linear(x, weight)"


@rule("matmul", "bmm")
def matmul(trace: Trace, node: Node, x: Any, y: Any) -> Label:
    """A product of two activations, in the last dimensions."""
    x, y = value(trace, x), value(trace, y)
    if not (isinstance(x, Label) and isinstance(y, Label)) or len(x.shape) != len(y.shape):
        raise UnsupportedError(f"a matrix product of something else than two activations; {LAYER}")
    batch = "abcdefgh"[: len(x.shape) - 2]
    return _contract(trace, node, f"{batch}ij,{batch}jk->{batch}ik", x, y)


@rule("einsum")
def einsum(
    trace: Trace, node: Node, equation: str, operands: Sequence[Any], *args: Any, **kw: Any
) -> Label:
    """A product of two activations."""
    labels = [value(trace, x) for x in operands]
    if len(labels) != 2 or not all(isinstance(x, Label) for x in labels) or "." in equation:
        raise UnsupportedError(f"einsum {equation!r}")
    return _contract(trace, node, equation.replace(" ", ""), *labels)


@rule("scaled_dot_product_attention")
def attention(
    trace: Trace, node: Node, q: Label, k: Label, v: Label, mask: Any = None, dropout: float = 0.0,
    causal: bool = False, **kwargs: Any,
) -> Label:  # fmt: skip
    """softmax(q kᵀ + mask) v in each head."""
    if q.shape[:-2] != k.shape[:-2]:
        raise UnsupportedError("attention with shared heads")
    batch = "abcdefgh"[: len(q.shape) - 2]
    shape = torch.Size([*q.shape[:-1], k.shape[-2]])
    weights = _contract(trace, node, f"{batch}id,{batch}jd->{batch}ij", q, k, shape)
    if isinstance(mask := value(trace, mask), Label):
        trace.fix(mask, "softmax")
        weights = weights._replace(unit=_meet(trace, weights, mask, shape))
    return _contract(trace, node, f"{batch}ij,{batch}jd->{batch}id", weights, v)


def _contract(
    trace: Trace, node: Node, equation: str, x: Label, y: Label, shape: torch.Size | None = None
) -> Label:
    """Sum over what both have and the result has not; what is summed meets, element by element."""
    (left, right), out = equation.split("->")[0].split(","), equation.split("->")[1]
    shape = shape_of(node) if shape is None else shape
    trace.use(x)
    trace.use(y)
    summed = [c for c in left if c in right and c not in out]
    a, b = _aligned(x.unit, left, out, summed), _aligned(y.unit, right, out, summed)
    rank = len(out)
    moving = [varies(a, d) or varies(b, d) for d in range(rank, rank + len(summed))]
    if any(moving):  # units are summed over: both sides' are the same, and the sum is around them
        if any(varies(part, d) for part, other in ((a, right), (b, left)) for d in range(rank)
               if out[d] not in other):  # fmt: skip
            raise UnsupportedError(f"a product {equation} that mixes units in another way; {LAYER}")
        trace.tie("unit", a, b)
        trace.tie("sign", _aligned(x.sign, left, out, summed), _aligned(y.sign, right, out, summed))
        for label in (x, y):
            trace.freeze("scale", label.scale, "product")
        sets = trace.around(a.reshape(a.shape[:rank].numel(), -1)).reshape(a.shape[:rank])
        return still(shape)._replace(unit=sets.expand(shape))
    factors = [
        _reduced(trace, label, letters, out, summed) for label, letters in ((x, left), (y, right))
    ]
    return _product(trace, factors[0], factors[1], shape)


def _reduced(trace: Trace, x: Label, letters: str, out: str, summed: list[str]) -> Label:
    """Labels after a sum over places: what is summed has one unit and one factor."""
    parts = []
    for kind in KINDS:
        labels = _aligned(getattr(x, kind), letters, out, summed)
        if summed:
            labels = labels.flatten(len(out))
            trace.tie(kind, labels, labels[..., :1])
            labels = labels[..., 0]
        parts.append(labels)
    return Label(*parts)


def _aligned(units: Tensor, letters: str, out: str, summed: list[str]) -> Tensor:
    """Labels with the result's letters first (size 1 where missing), then the summed ones."""
    order = [c for c in [*out, *summed] if c in letters]
    units = units.permute(*(letters.index(c) for c in order))
    for position, c in enumerate(out):
        if c not in letters:
            units = units.unsqueeze(position)
    return units


def operation(node: Node) -> str:
    """Name of an operation as a user knows it: ``relu``, ``conv2d``."""
    return str(node.target).removeprefix("aten.").split(".")[0]
