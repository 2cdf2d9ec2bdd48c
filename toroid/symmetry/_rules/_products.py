"""Products: of an activation and a weight, which is a layer, and of two activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ..._network import UnsupportedError
from .._labels import (
    CONSTANT,
    KINDS,
    MET,
    Label,
    Trace,
    Weight,
    distinct_pairs,
    squeeze,
    still,
    varies,
)
from ._elementwise import add
from ._layers import dot, shift
from ._table import activation, meet, meets_constant, product, rule, shape_of, value

LAYER = "a layer is written as torch.nn.functional.linear(x, weight)"


@rule("matmul", "mm", "bmm", "mv", "dot")
def matmul(trace: Trace, node: Node, x: Any, y: Any) -> Label:
    """A product in the last dimensions; with one weight, a layer."""
    if isinstance(x, Weight) and isinstance(y, Weight):
        raise UnsupportedError("a product of two weights")
    if isinstance(y, Weight) and len(y.shape) == 1:
        return dot(trace, node, activation(trace, x), trace.slot(y, 0, "in"))
    a, b = len(x.shape), len(y.shape)
    if isinstance(y, Weight) and b == 2:
        left = "abcdefgh"[: a - 1]
        return _layer(trace, node, f"{left}i", x, "io", y, f"{left}o")
    if isinstance(x, Weight) and a == 2 and b > 1:
        left = "abcdefgh"[: b - 2]
        return _layer(trace, node, f"{left}ij", y, "oi", x, f"{left}oj")
    if _mixed(trace, x, -1, y) or _mixed(trace, y, -2 if b > 1 else -1, x):
        return still(shape_of(node))
    x, y = activation(trace, x), activation(trace, y)
    if a != b or a < 2:
        raise UnsupportedError(f"a matrix product of something else than two activations; {LAYER}")
    batch = "abcdefgh"[: a - 2]
    x, y = _broadcast(x, y, 2)
    return _contract(trace, node, f"{batch}ij,{batch}jk->{batch}ik", x, y)


def _mixed(trace: Trace, x: Any, dim: int, y: Any) -> bool:
    """Whether a constant matrix mixes units, with a number for each of them: they stay."""
    if not isinstance(x, Label) or not isinstance(y, Tensor) or not varies(x.unit, dim):
        return False
    trace.freeze("unit", x.unit, CONSTANT)
    trace.fix(x, CONSTANT)
    return True


def _broadcast(x: Label, y: Label, kept: int) -> tuple[Label, Label]:
    """Two activations with the same leading dimensions."""
    front = torch.broadcast_shapes(x.shape[:-kept], y.shape[:-kept])
    return x.expand([*front, *x.shape[-kept:]]), y.expand([*front, *y.shape[-kept:]])


@rule("addmm")
def addmm(trace: Trace, node: Node, bias: Any, x: Any, weight: Any, **kwargs: Any) -> Label:
    """A product and a bias."""
    if isinstance(weight, Weight) and isinstance(bias, (Weight, Tensor)) and len(bias.shape) == 1:
        return _layer(trace, node, "bi", x, "io", weight, "bo", bias)
    return add(trace, node, matmul(trace, node, x, weight), bias)


@rule("baddbmm", "addbmm", "addmv")
def baddbmm(trace: Trace, node: Node, start: Any, x: Any, y: Any, **kwargs: Any) -> Label:
    """A product, and what is added to it."""
    if len(shape_of(node)) != 3:
        raise UnsupportedError(f"a product of other shapes; {LAYER}")
    return add(trace, node, matmul(trace, node, x, y), start)


@rule("tensordot")
def tensordot(trace: Trace, node: Node, x: Any, y: Any, left: Any, right: Any, *out: Any) -> Label:
    """A product over some dimensions."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    first = letters[: len(x.shape)]
    names = dict(zip([d % len(y.shape) for d in right], left, strict=True))
    second = "".join(
        first[names[d]] if d in names else letters[len(first) + d] for d in range(len(y.shape))
    )
    summed = {first[d] for d in left}
    result = "".join(c for c in first + second if c not in summed)
    return einsum(trace, node, f"{first},{second}->{result}", [x, y])


@rule("inner")
def inner(trace: Trace, node: Node, x: Any, y: Any) -> Label:
    """A product over the last dimensions."""
    return tensordot(trace, node, x, y, [len(x.shape) - 1], [len(y.shape) - 1])


@rule("linalg_vecdot")
def vecdot(trace: Trace, node: Node, x: Any, y: Any, *, dim: int = -1) -> Label:
    """A product over one dimension, at every place."""
    x, y = activation(trace, x), activation(trace, y)
    shape = torch.broadcast_shapes(x.shape, y.shape)
    letters = "abcdefgh"[: len(shape)]
    out = letters.replace(letters[dim], "")
    equation = f"{letters},{letters}->{out}"
    return _contract(trace, node, equation, x.expand(shape), y.expand(shape))


@rule("einsum")
def einsum(
    trace: Trace, node: Node, equation: str, operands: Sequence[Any], *args: Any, **kw: Any
) -> Label:
    """A product of two activations, or a layer."""
    if len(operands) != 2:
        raise UnsupportedError(f"einsum {equation!r} of {len(operands)} operands")
    left, right, out = _letters(equation, [len(x.shape) for x in operands])
    x, y = operands
    if isinstance(x, Weight) and not isinstance(y, Weight):
        x, y, left, right = y, x, right, left
    if isinstance(y, Weight) and len(y.shape) > 1:
        return _layer(trace, node, left, x, right, y, out)
    summed = [c for c in left if c in right and c not in out]
    if any(
        _mixed(trace, x, left.index(c), y) or _mixed(trace, y, right.index(c), x) for c in summed
    ):
        return still(shape_of(node))
    return _contract(trace, node, f"{left},{right}->{out}", activation(trace, x),
                     activation(trace, y))  # fmt: skip


def _letters(equation: str, ranks: Sequence[int]) -> list[str]:
    """The letters of both operands and of the result, with ``...`` spelled out."""
    equation = equation.replace(" ", "")
    terms, _, out = equation.partition("->")
    parts = terms.split(",")
    if "->" not in equation:
        once = [c for c in terms if c.isalpha() and terms.count(c) == 1]
        out = ("..." if "..." in terms else "") + "".join(sorted(once))
    dots = "ZYXWVUTS"  # from the last dimension backwards
    sizes = [rank - len(part.replace("...", "")) for part, rank in zip(parts, ranks, strict=True)]
    spelled = [p.replace("...", dots[:n][::-1]) for p, n in zip(parts, sizes, strict=True)]
    if any(len(set(part)) < len(part) for part in spelled):
        raise UnsupportedError(f"einsum {equation!r} takes a diagonal")
    return [*spelled, out.replace("...", dots[: max(sizes)][::-1])]


def _layer(
    trace: Trace, node: Node, left: str, x: Any, letters: str, weight: Weight, out: str,
    bias: Any = None,
) -> Label:  # fmt: skip
    """A linear layer: what the weight shares with its input are columns, what it adds are rows."""
    x = activation(trace, x)
    summed = [c for c in letters if c in left and c not in out]  # columns
    made = [c for c in letters if c in out and c not in left]  # rows
    if len(summed) + len(made) < len(letters) or not summed:
        raise UnsupportedError(f"a weight with a dimension of its own at every place; {LAYER}")
    columns, rows = (_places(trace, weight, letters, part, role)
                     for part, role in ((summed, "in"), (made, "out")))  # fmt: skip
    read = _first(trace, x, left, summed)
    for kind in KINDS:
        trace.tie(kind, columns, getattr(read, kind))
    shift(trace, bias, rows)
    trace.use(x)
    shape = shape_of(node)
    view = [shape[i] if c in made else 1 for i, c in enumerate(out)]
    order = sorted(range(len(made)), key=lambda i: out.index(made[i]))
    # rows in the result's order, size 1 along what is not theirs
    lines = rows.view([shape[out.index(c)] for c in made]).permute(order).reshape(view)
    return Label(lines, lines, lines).map(lambda ids: ids.expand(shape))


def _places(trace: Trace, weight: Weight, letters: str, part: list[str], role: str) -> Tensor:
    """The labels of dimensions of a weight that lie beside each other, as one."""
    where = [letters.index(c) for c in part]
    if not where:  # a vector's one result
        return still(()).unit
    if where != list(range(where[0], where[0] + len(where))):
        raise UnsupportedError(f"a weight whose columns are not side by side; {LAYER}")
    return trace.slot(weight, where[0], role, span=len(where))


def _first(trace: Trace, x: Label, letters: str, summed: list[str]) -> Label:
    """Labels along the summed dimensions, in the weight's order; along the others they are tied."""
    order = [letters.index(c) for c in summed]
    # places: every one of them reads the same columns
    rest = [d for d in range(len(letters)) if d not in order]
    one = trace.along(x, rest)
    return one.map(lambda ids: ids.permute(*order, *rest).reshape(-1))


# --- products of activations --------------------------------------------------------------------


@rule("scaled_dot_product_attention")
def attention(
    trace: Trace, node: Node, q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0,
    causal: bool = False, **kwargs: Any,
) -> Label:  # fmt: skip
    """softmax(q kᵀ + mask) v in each head."""
    q, k, v = (activation(trace, x) for x in (q, k, v))
    k, v = (_shared(q, x, kwargs.get("enable_gqa", False)) for x in (k, v))
    front = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    q, k, v = (x.expand([*front, *x.shape[-2:]]) for x in (q, k, v))
    batch = "abcdefgh"[: len(q.shape) - 2]  # heads among them: each has its own units
    shape = torch.Size([*q.shape[:-1], k.shape[-2]])
    # (…, queries, keys): a unit a head
    weights = _contract(trace, node, f"{batch}id,{batch}jd->{batch}ij", q, k, shape)
    if isinstance(mask := value(trace, mask), Label):
        trace.fix(mask, "softmax")
        weights = weights._replace(unit=meet(trace, weights, mask, shape))
    elif mask is not None:
        meets_constant(trace, weights, mask)
    return _contract(trace, node, f"{batch}ij,{batch}jd->{batch}id", weights, v)


def _shared(q: Label, x: Label, grouped: bool) -> Label:
    """Keys or values that several heads share, once for each."""
    if not grouped or q.shape[-3] == x.shape[-3]:
        return x
    return x.map(lambda ids: ids.repeat_interleave(q.shape[-3] // x.shape[-3], -3))


def _contract(
    trace: Trace, node: Node, equation: str, x: Label, y: Label, shape: torch.Size | None = None
) -> Label:
    """Sum over what both have and the result has not; what is summed meets, element by element."""
    (left, right), out = equation.split("->")[0].split(","), equation.split("->")[1]
    shape = shape_of(node) if shape is None else shape
    if any(c not in left + right for c in out) or any(
        c not in out and (c in left) != (c in right) for c in left + right
    ):
        raise UnsupportedError(f"a product {equation} that sums one operand alone")
    trace.use(x)
    trace.use(y)
    summed = [c for c in left if c in right and c not in out]
    # (result…, summed…)
    a, b = _aligned(x.unit, left, out, summed), _aligned(y.unit, right, out, summed)
    rank = len(out)
    moving = [any(varies(part, d) for d in range(rank, rank + len(summed))) for part in (a, b)]
    mixed = any(_of_units(part, d) for part, other in ((a, right), (b, left))
                for d in range(rank) if out[d] not in other)  # fmt: skip
    if all(moving) and mixed:
        raise UnsupportedError(f"a product {equation} that mixes units in another way; {LAYER}")
    # units are summed over: both sides' are the same, and the sum is around them
    if all(moving) or (any(moving) and not mixed):
        trace.tie("unit", a, b)  # q and k of one number meet in their product
        trace.tie("sign", _aligned(x.sign, left, out, summed), _aligned(y.sign, right, out, summed))
        trace.met.append(
            distinct_pairs(
                *(
                    _aligned(label.scale, side, out, summed)
                    for label, side in ((x, left), (y, right))
                )
            )
        )
        for label in (x, y):
            trace.freeze("scale", label.scale, MET)
        # a label for each set: a head
        sets = trace.around(a.reshape(a.shape[:rank].numel(), -1)).reshape(a.shape[:rank])
        return still(shape)._replace(unit=sets.expand(shape))
    factors = [
        _reduced(trace, label, letters, out, summed) for label, letters in ((x, left), (y, right))
    ]
    return product(trace, factors[0], factors[1], shape)


def _of_units(labels: Tensor, dim: int) -> bool:
    """Whether each place along a dimension has units of its own; of some alike it has not."""
    if not varies(labels, dim):
        return False
    rows = squeeze(labels, keep=dim).movedim(dim, 0).flatten(1)
    return len(rows.unique(dim=0)) == len(rows)


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
