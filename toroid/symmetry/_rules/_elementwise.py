"""Operations on each element alone, and those in which two or three activations meet."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from ..._network import UnsupportedError
from .._labels import ALONE, FACTORS, KINDS, Label, Trace, Weight, still, varies
from ._table import (
    activation,
    is_infinite,
    is_one_number,
    is_zero,
    meet,
    meets_constant,
    operation,
    product,
    repeated,
    rule,
    shape_of,
    tied,
    value,
)


@rule("_assert_tensor_metadata", "_assert_async", "_assert_scalar", "sym_constrain_range_for_size")
def check(trace: Trace, node: Node, *args: Any, **kwargs: Any) -> None:
    """Says nothing of numbers."""


# --- one operand --------------------------------------------------------------------------------


@rule(
    "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "clone", "alias",
    "contiguous", "detach", "lift_fresh_copy", "positive", "neg", "to", "_to_copy", "type_as",
    "native_dropout",
)  # fmt: skip
def linear_alone(trace: Trace, node: Node, x: Any, *args: Any, **kwargs: Any) -> Any:
    """f(λ z) = λ f(z) for every λ, on each element alone; dropout is off in evaluation mode."""
    if "dropout" in operation(node) and args[1]:
        raise UnsupportedError("dropout that is active in evaluation mode")
    if isinstance(x, Weight) and operation(node) in AS_IT_IS and _floats(node):
        return x
    x = activation(trace, x)
    trace.use(x)
    if not _floats(node):
        trace.fix(x, "a cast to integers")
    return x


AS_IT_IS = ("clone", "alias", "contiguous", "detach", "lift_fresh_copy", "to", "_to_copy")


def _floats(node: Node) -> bool:
    value = node.meta["val"]
    return (value[0] if isinstance(value, (list, tuple)) else value).is_floating_point()


def alone(trace: Trace, x: Any) -> Label:
    """The one operand of a function of each element."""
    x = activation(trace, x)
    trace.use(x)
    return x


@rule("relu", "leaky_relu", "rrelu")
def homogeneous(trace: Trace, node: Node, x: Any, *args: Any, **kwargs: Any) -> Label:
    """f(λ z) = λ f(z) for λ > 0, on each element alone."""
    if operation(node).startswith("rrelu") and len(args) > 2 and args[2]:
        raise UnsupportedError("a slope that is random in evaluation mode")
    x = alone(trace, x)
    trace.freeze("sign", x.sign, operation(node))
    return x._replace(sign=still(x.shape).sign)


@rule(
    "tanh", "hardtanh", "sin", "erf", "atan", "asinh", "sinh", "tan", "asin", "atanh", "arctan",
    "arcsin", "arcsinh", "arctanh", "erfinv", "trunc", "round", "fix", "hardshrink", "softshrink",
)  # fmt: skip
def odd(trace: Trace, node: Node, x: Any, *limits: float, **kwargs: Any) -> Label:
    """f(-z) = -f(z), on each element alone."""
    if operation(node).startswith("hardtanh") and limits and limits[0] != -limits[1]:
        return elementwise(trace, node, x)
    x = alone(trace, x)
    trace.freeze("scale", x.scale, operation(node))
    return x._replace(scale=still(x.shape).scale)


@rule("abs", "absolute")
def absolute(trace: Trace, node: Node, x: Any) -> Label:
    """Homogeneous, and takes the sign away."""
    x = alone(trace, x)
    return x._replace(sign=still(x.shape).sign)


@rule("cos", "cosh", "square")
def even(trace: Trace, node: Node, x: Any, *args: Any) -> Label:
    """f(-z) = f(z), on each element alone: takes the sign away."""
    x = alone(trace, x)
    trace.freeze("scale", x.scale, operation(node))
    return still(x.shape)._replace(unit=x.unit, numbers=x.numbers)


@rule("sign", "sgn")
def sign(trace: Trace, node: Node, x: Any) -> Any:
    """Odd, and takes the scale away; the signs of a weight are a weight, which has no scale."""
    if isinstance(x, Weight) and not x.buffer:
        return Weight(x.name, x.stored, x.buffer, True, x.moved, x.dims, x.at, x.base)
    x = alone(trace, x)
    return x._replace(scale=still(x.shape).scale)


@rule(
    "gelu", "silu", "sigmoid", "hardswish", "hardsigmoid", "elu", "softplus", "mish", "relu6",
    "selu", "celu", "exp", "log", "sqrt", "rsqrt", "reciprocal", "log_sigmoid", "log1p", "expm1",
    "exp2", "log2", "log10", "erfc", "acos", "arccos", "acosh", "arccosh", "floor", "ceil", "frac",
    "lgamma", "digamma", "i0", "logit", "nan_to_num", "special_expit", "special_log_ndtr", "sinc",
)  # fmt: skip
def elementwise(trace: Trace, node: Node, x: Any, *args: Any, **kwargs: Any) -> Label:
    """Acts on each element alone and lets no factor through: units may only move."""
    if any(isinstance(y, (Label, Weight)) for y in (*args, *kwargs.values())):
        raise UnsupportedError("a second operand that is not a number")
    x = alone(trace, x)
    trace.fix(x, operation(node))
    return still(x.shape)._replace(unit=x.unit, numbers=x.numbers)


@rule("pow")
def power(trace: Trace, node: Node, x: Any, exponent: Any) -> Label:
    """Even powers take the sign away; what is learned, or computed, meets what it is a power of."""
    if isinstance(exponent, (Label, Weight)):
        if isinstance(exponent, Weight) and exponent.stored.numel() > 1:
            exponent = _slope(trace, exponent)
        return meets(trace, node, x, exponent)
    if isinstance(exponent, (int, float)) and exponent % 2 == 0:
        return even(trace, node, x)
    meets_constant(trace, value(trace, x), exponent)
    return elementwise(trace, node, x, exponent)


@rule("clamp", "clamp_min", "clamp_max", "clip", "threshold")
def clamp(trace: Trace, node: Node, x: Any, *limits: Any, **named: Any) -> Label:
    """Between two limits: a rectifier if one is 0 and the other is not there."""
    every = [y for y in (*limits, *named.values()) if y is not None]
    if any(isinstance(y, (Label, Weight)) for y in every):
        raise UnsupportedError("limits that are no numbers")
    x = activation(trace, x)
    for limit in every:
        meets_constant(trace, x, limit)
    if all(is_zero(y) for y in every):
        return homogeneous(trace, node, x)
    return elementwise(trace, node, x)


@rule("glu")
def glu(trace: Trace, node: Node, x: Any, dim: int = -1) -> Label:
    """One half, times a gate made of the other."""
    x = activation(trace, x)
    half = x.shape[dim] // 2  # z = (a, b), and a σ(b) comes out
    first, second = (x.map(lambda ids, i=i: ids.narrow(dim, i * half, half)) for i in (0, 1))
    return product(trace, first, elementwise(trace, node, second), shape_of(node))


@rule("prelu")
def prelu(trace: Trace, node: Node, x: Any, slope: Weight) -> Label:
    """Homogeneous; a slope for each channel moves with it."""
    x = homogeneous(trace, node, x)
    if slope.shape.numel() > 1:
        # the slope of unit i stands at place i
        channels = trace.per_channel(x, 1)
        for kind in KINDS:
            trace.tie(kind, trace.slot(slope, 0, "slope"), getattr(channels, kind))
    else:
        trace.untouchable[slope.name] = "prelu"
    return x


# --- two or three operands ----------------------------------------------------------------------


@rule("add", "sub", "rsub", "subtract")
def add(trace: Trace, node: Node, x: Any, y: Any, **kwargs: Any) -> Label:
    """Adds two activations: what meets belongs to the same unit and has the same scale."""
    x, y = value(trace, x), value(trace, y)
    if not isinstance(x, Label):
        x, y = y, x
    if isinstance(y, Label):
        return tied(trace, x, y, shape_of(node))
    return beside_constant(trace, node, x, y).expand(shape_of(node))


def beside_constant(trace: Trace, node: Node, x: Label, y: Any, large: bool = False) -> Label:
    """What a constant does that stands where an activation could: only zeros let a factor through.

    Where the one or the other is taken, and none is added, infinite ones let positive factors
    through too.
    """
    meets_constant(trace, x, y)
    if is_zero(y):
        return alone(trace, x)
    return homogeneous(trace, node, x) if large and is_infinite(y) else elementwise(trace, node, x)


@rule("mul", "div", "multiply", "divide", "true_divide")
def multiply(trace: Trace, node: Node, x: Any, y: Any, **kwargs: Any) -> Label:
    """Times a number, a parameter for each unit, or a gate: a product has both factors' scales."""
    divides = "div" in operation(node)
    if kwargs.get("rounding_mode"):
        raise UnsupportedError("a division that rounds")
    if not isinstance(x, Label) and not divides:
        x, y = y, x
    y = _factor(trace, x, y)
    x = value(trace, x)
    if not isinstance(x, Label):  # a number divided by an activation
        if not isinstance(y, Label):
            raise UnsupportedError("two numbers")
        meets_constant(trace, y, x)
        return elementwise(trace, node, y).expand(shape_of(node))
    shape = shape_of(node)
    if not isinstance(y, Label):
        meets_constant(trace, x, y)
        trace.use(x)
        return x.expand(shape)
    inplace = operation(node).endswith("_")  # x's other names keep its factors
    return product(trace, x, y, shape, apart=divides or inplace)


def _slope(trace: Trace, weight: Weight) -> Label:
    """The numbers of a weight that are those of units' activation: no row, whatever their size."""
    ids = trace.elements(weight, "slope")
    return Label(ids, ids, ids, repeated(weight))


def _factor(trace: Trace, x: Any, y: Any) -> Any:
    """A parameter that multiplies moves with the units that it meets.

    What has a scale keeps it, and the parameter has none; behind a normalisation it starts one.
    """
    if not isinstance(y, Weight) or y.stored.numel() == 1 or not isinstance(x, Label):
        return value(trace, y)
    if not x.scale.any():
        gain = value(trace, y)
        if x.sign.any():
            trace.freeze("sign", gain.sign, "a gain")
            gain = gain._replace(sign=still(gain.shape).sign)
        return gain
    slope, shape = _slope(trace, y), torch.broadcast_shapes(x.shape, y.shape)
    for kind in FACTORS:  # as if it were a row: x's factor goes into it, if it is one unit's
        a, b = getattr(x, kind).expand(shape), getattr(slope, kind).expand(shape)
        if any(varies(a, d) and not varies(b, d) for d in range(len(shape))):
            trace.freeze(kind, b, ALONE)
        else:
            trace.tie(kind, b, a)
    return still(y.shape)._replace(unit=slope.unit, numbers=slope.numbers)


@rule("addcmul", "addcdiv")
def addcmul(trace: Trace, node: Node, x: Any, y: Any, z: Any, **kwargs: Any) -> Label:
    """x + y z."""
    if operation(node).startswith("addcdiv"):
        a, b = activation(trace, y), activation(trace, z)
        return add(trace, node, x, product(trace, a, b, shape_of(node), apart=True))
    y, z = (y, z) if isinstance(y, Label) else (z, y)
    return add(trace, node, x, multiply(trace, node, y, z))


@rule("lerp")
def lerp(trace: Trace, node: Node, x: Any, y: Any, weight: Any) -> Label:
    """x + w (y - x)."""
    if isinstance(weight, (Label, Weight)):
        return add(trace, node, x, multiply(trace, node, add(trace, node, x, y), weight))
    both = add(trace, node, x, y)
    meets_constant(trace, both, weight)
    return both


@rule("maximum", "minimum", "fmax", "fmin")
def extreme(trace: Trace, node: Node, x: Any, y: Any) -> Label:
    """The larger of two: as a sum, but no sign passes."""
    x, y = value(trace, x), value(trace, y)
    if not isinstance(x, Label):
        x, y = y, x
    if not isinstance(y, Label):
        return homogeneous(trace, node, beside_constant(trace, node, x, y)).expand(shape_of(node))
    return homogeneous(trace, node, tied(trace, x, y, shape_of(node)))


@rule(
    "gt", "lt", "ge", "le", "eq", "ne", "greater", "greater_equal", "less", "less_equal",
    "not_equal",
)  # fmt: skip
def compare(trace: Trace, node: Node, x: Any, y: Any) -> Label:
    """Which is larger does not change with a positive factor of both."""
    x, y = value(trace, x), value(trace, y)
    if not isinstance(x, Label):
        x, y = y, x
    shape = shape_of(node)
    if isinstance(y, Label):
        both = homogeneous(trace, node, tied(trace, x, y, shape))
    elif is_zero(y) or is_infinite(y):
        meets_constant(trace, x, y)
        both = homogeneous(trace, node, x).expand(shape)
    else:
        both = beside_constant(trace, node, x, y).expand(shape)
    return still(shape)._replace(unit=both.unit)


@rule("heaviside")
def step(trace: Trace, node: Node, x: Any, at_zero: Any) -> Label:
    """0 or 1 by the sign, whatever the size."""
    if isinstance(value(trace, at_zero), Label):
        return meets(trace, node, x, at_zero)
    return compare(trace, node, x, 0) if is_one_number(at_zero) else meets(trace, node, x, at_zero)


@rule(
    "logical_not", "logical_and", "logical_or", "logical_xor", "bitwise_not", "bitwise_and",
    "bitwise_or", "bitwise_xor", "__and__", "__or__", "__xor__", "isnan", "isfinite", "isinf",
    "floor_divide", "remainder", "fmod", "hypot", "atan2", "xlogy", "logaddexp", "copysign",
)  # fmt: skip
def meets(trace: Trace, node: Node, x: Any, *others: Any, **kwargs: Any) -> Label:
    """A function of what meets, element by element, that lets no factor through."""
    shape, parts = shape_of(node), [value(trace, y) for y in (x, *others)]
    labels = [elementwise(trace, node, part) for part in parts if isinstance(part, Label)]
    for part in parts:
        if not isinstance(part, Label):
            meets_constant(trace, labels[0], part)
    unit = labels[0].unit.expand(shape)  # what meets is one unit, whatever the function is
    for label in labels[1:]:
        unit = meet(trace, still(shape)._replace(unit=unit), label, shape)
    return still(shape)._replace(unit=unit)


@rule("where")
def where(trace: Trace, node: Node, condition: Any, *choices: Any) -> Label:
    """One or the other, element by element: they have one unit and one scale."""
    if len(choices) != 2:
        raise UnsupportedError("places that depend on the numbers")
    shape = shape_of(node)
    x, y = (value(trace, choice) for choice in choices)
    if not isinstance(x, Label):
        x, y = y, x
    if isinstance(x, Label) and isinstance(y, Label):
        taken = tied(trace, x, y, shape)
    elif isinstance(x, Label):
        taken = beside_constant(trace, node, x, y, large=True).expand(shape)
    else:  # two constants
        taken = still(shape)
        for constant in (x, y):
            meets_constant(trace, condition, constant)
        if isinstance(condition, Label) and is_one_number(x) and is_one_number(y):
            return elementwise(trace, node, condition).expand(shape)  # repeated where it was
    if not isinstance(condition, (Label, Weight)):
        meets_constant(trace, taken, condition)
        return taken
    condition = elementwise(trace, node, condition)
    return taken._replace(unit=meet(trace, taken, condition, shape), numbers=None)


@rule("masked_fill")
def masked_fill(trace: Trace, node: Node, x: Any, mask: Any, fill: Any) -> Label:
    """A number where a mask says so."""
    return where(trace, node, mask, fill, x)
