"""Labels for every number of an exported graph: what is exchanged, and what is scaled, together.

The idea in one paragraph. Every dimension of every parameter gets fresh integer labels, one for
each position. The graph is then run on labels instead of numbers: an activation is a tensor of
labels that says, for each of its elements, which unit it belongs to. An operation that only moves
numbers (flatten, cat, slice, permute, ...) is simply *executed* on the label tensors; one that
computes *ties* labels: a linear layer ties its columns to its input, an addition ties its two
operands. Nothing is decided before the end, where the connected components of the ties are the
units.

Two kinds of labels travel together. ``unit`` answers "what must be permuted together", ``scale``
answers "what must be multiplied by the same positive factor". They differ at a BatchNorm, which
keeps the units but absorbs the scale of its input and starts a new one at its affine pair.

`RULES`, a table from ATen operation to rule, is all that is known about operations.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.node import map_arg

FROZEN = 0  # the label of everything that cannot move: inputs, classes
OUTPUT = 1  # the label of the one factor that all outputs may share
KINDS = ("unit", "scale")


class UnsupportedError(NotImplementedError):
    """An operation, or a use of one, that no rule covers; names the operation and its place."""


class Label(NamedTuple):
    """The labels of one activation: two integer tensors of its shape."""

    unit: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Slot:
    """One dimension of one parameter in one role, and its labels.

    Roles: ``out`` the weights that make a unit, ``bias``, ``in`` the weights that read it,
    ``mean`` and ``var`` BatchNorm's statistics of it, ``slope`` a number of its activation.
    """

    parameter: str
    dim: int
    role: str
    ids: np.ndarray
    eps: float = 0.0


class Weight(NamedTuple):
    """A parameter or buffer on its way through the graph."""

    name: str
    shape: torch.Size


@dataclass
class Trace:
    """The slots of a network and the ties between their labels, in the order of the graph."""

    slots: dict[tuple[str, int, str], Slot] = field(default_factory=dict)
    ties: dict[str, list[tuple[Tensor, Tensor]]] = field(
        default_factory=lambda: {k: [] for k in KINDS}
    )
    frozen: dict[str, list[tuple[Tensor, str]]] = field(
        default_factory=lambda: {k: [(torch.tensor([FROZEN]), "input")] for k in KINDS}
    )
    uses: list[Tensor] = field(default_factory=list)  # the units that each computing operation sees
    refused: list[str] = field(default_factory=list)
    untouchable: dict[str, str] = field(
        default_factory=dict
    )  # parameter -> operation that reads it
    count: int = 2

    def slot(self, weight: Weight, dim: int, role: str, eps: float = 0.0) -> Tensor:
        """Labels of one dimension of a parameter: made at its first use, shared by later ones."""
        if not isinstance(weight, Weight):
            raise UnsupportedError("its weight is computed, not a parameter of the model")
        key = (weight.name, dim, role)
        if key not in self.slots:
            size = weight.shape[dim]
            self.slots[key] = Slot(*key, np.arange(self.count, self.count + size), eps)
            self.count += size
        return torch.from_numpy(self.slots[key].ids)

    def tie(self, kind: str, a: Tensor, b: Tensor) -> None:
        """Two label tensors (broadcast against each other) are the same, element by element."""
        if a is not b:
            self.ties[kind].append(_distinct_pairs(a, b))

    def freeze(self, kind: str, labels: Tensor, reason: str) -> None:
        """These labels cannot be moved (``unit``) or multiplied (``scale``)."""
        self.frozen[kind].append((distinct(labels), reason))

    def per_channel(self, kind: str, labels: Tensor, dim: int) -> Tensor:
        """One label for each position along `dim`; what differs along the others is tied."""
        rows = _squeeze(labels, keep=dim).movedim(dim, 0).flatten(1)  # (channels, rest)
        if rows.shape[1] > 1:
            self.tie(kind, rows[:, 1:], rows[:, :1])
        return rows[:, 0]


def _squeeze(labels: Tensor, keep: int | None = None) -> Tensor:
    """Drop repeats that broadcasting made: a dimension of stride 0 holds one value."""
    keep = None if keep is None else keep % labels.dim()
    for dim, stride in enumerate(labels.stride()):
        if stride == 0 and dim != keep:
            labels = labels.narrow(dim, 0, 1)
    return labels


def distinct(labels: Tensor) -> Tensor:
    """Each label once."""
    return _squeeze(labels).unique()


def _distinct_pairs(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs of two broadcast label tensors, without those that broadcasting repeats."""
    a, b = torch.broadcast_tensors(a, b)
    for dim in range(a.dim()):
        if a.stride(dim) == 0 == b.stride(dim):
            a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
    return a.reshape(-1), b.reshape(-1)


def _spread(channels: Tensor, shape: Sequence[int], dim: int) -> Tensor:
    """Channel labels (C,) as the labels of an activation of `shape`, without using memory."""
    ones = [1] * len(shape)
    ones[dim] = -1
    return channels.view(ones).expand(*shape)


# --- rules ---------------------------------------------------------------------------------------
# A rule takes (trace, node, *arguments of the operation) and returns the labels of its result.

Rule = Callable[..., Any]
RULES: dict[Any, Rule] = {}
aten = torch.ops.aten


def rule(*operations: Any) -> Callable[[Rule], Rule]:
    """Enter a rule into the table, for these operations."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operations, function))
        return function

    return enter


@rule(
    aten.flatten.using_ints, aten.view.default, aten.reshape.default, aten.unsqueeze.default,
    aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default, aten.permute.default,
    aten.cat.default, aten.transpose.int, aten.slice.Tensor, aten.select.int, aten.expand.default,
    aten.stack.default, aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default,
    aten.unflatten.int,
)  # fmt: skip
def moves(trace: Trace, node: torch.fx.Node, *args: Any, **kwargs: Any) -> Any:
    """Only moves numbers: the operation itself, carried out on the labels."""
    if _find(Weight, args):
        raise UnsupportedError("a parameter is reshaped before it is used")

    def pick(kind: str) -> Any:
        moved = _map(lambda label: getattr(label, kind), args)
        return node.target(*moved, **kwargs)  # type: ignore[operator]

    unit, scale = pick("unit"), pick("scale")
    return Label(unit, scale) if isinstance(unit, Tensor) else [*map(Label, unit, scale)]


@rule(operator.getitem)
def item(trace: Trace, node: torch.fx.Node, x: Any, index: int) -> Any:
    """One of several results."""
    return x[index]


@rule(
    aten.relu.default, aten.relu_.default, aten.leaky_relu.default, aten.leaky_relu_.default,
    aten.dropout.default, aten.dropout_.default, aten.feature_dropout.default, aten.clone.default,
    aten.alias.default, aten.contiguous.default, aten.detach.default,
)  # fmt: skip
def homogeneous(trace: Trace, node: torch.fx.Node, x: Label, *args: Any, **kwargs: Any) -> Label:
    """f(λ z) = λ f(z) for λ > 0, on each element alone; dropout is off in evaluation mode."""
    if "dropout" in str(node.target) and args[1]:
        raise UnsupportedError("dropout that is active in evaluation mode")
    trace.uses.append(distinct(x.unit))
    return x


@rule(
    aten.gelu.default, aten.silu.default, aten.silu_.default, aten.sigmoid.default,
    aten.tanh.default, aten.hardtanh.default, aten.hardtanh_.default, aten.hardswish.default,
    aten.hardswish_.default, aten.hardsigmoid.default, aten.elu.default, aten.elu_.default,
    aten.softplus.default, aten.mish.default, aten.relu6.default, aten.relu6_.default,
    aten.selu.default, aten.selu_.default,
)  # fmt: skip
def elementwise(trace: Trace, node: torch.fx.Node, x: Label, *args: Any, **kwargs: Any) -> Label:
    """Acts on each element alone and is not homogeneous: units may move, their scale may not."""
    trace.uses.append(distinct(x.unit))
    trace.freeze("scale", x.scale, operation(node))
    return x


@rule(aten.prelu.default)
def prelu(trace: Trace, node: torch.fx.Node, x: Label, slope: Weight) -> Label:
    """Homogeneous; a slope for each channel moves with it."""
    trace.uses.append(distinct(x.unit))
    if slope.shape[0] > 1:
        for kind in KINDS:
            trace.tie(
                kind, trace.slot(slope, 0, "slope"), trace.per_channel(kind, getattr(x, kind), 1)
            )
    return x


def _pool(dims: int) -> Rule:
    def pool(trace: Trace, node: torch.fx.Node, x: Label, *args: Any, **kwargs: Any) -> Label:
        """Maximum or mean over places, channel by channel: positively homogeneous."""
        shape = node.meta["val"].shape
        channel = len(shape) - dims - 1
        trace.uses.append(distinct(x.unit))
        return Label(
            *(_spread(trace.per_channel(k, getattr(x, k), channel), shape, channel) for k in KINDS)
        )

    return pool


for _name, _variant in [
    ("max_pool", "default"),
    ("avg_pool", "default"),
    ("adaptive_avg_pool", "default"),
]:
    for _dims in (1, 2, 3):
        if hasattr(aten, f"{_name}{_dims}d"):
            RULES[getattr(getattr(aten, f"{_name}{_dims}d"), _variant)] = _pool(_dims)


@rule(aten.mean.dim)
def mean(
    trace: Trace, node: torch.fx.Node, x: Label, dims: list[int], keep: bool = False, **kw: Any
) -> Label:
    """Mean over some dimensions: what meets in one mean is tied together (places: nothing new)."""
    trace.uses.append(distinct(x.unit))

    def reduce(kind: str) -> Tensor:
        labels = getattr(x, kind)
        first = labels
        for dim in dims:
            first = first.narrow(dim, 0, 1)
        trace.tie(kind, labels, first)
        return first.reshape(node.meta["val"].shape)

    return Label(reduce("unit"), reduce("scale"))


@rule(aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor, aten.sub_.Tensor)
def add(trace: Trace, node: torch.fx.Node, x: Any, y: Any, **kwargs: Any) -> Label:
    """Adds two activations, element by element: both belong to the same units and scales."""
    if isinstance(y, (int, float)):
        return elementwise(trace, node, x)
    if not (isinstance(x, Label) and isinstance(y, Label)):
        raise UnsupportedError("an addition of a parameter to an activation")
    for kind in KINDS:
        trace.tie(kind, getattr(x, kind), getattr(y, kind))
    trace.uses.append(distinct(x.unit))
    return Label(*(getattr(x, kind).expand(node.meta["val"].shape) for kind in KINDS))


def _affine(
    trace: Trace, node: torch.fx.Node, x: Label, weight: Weight, bias: Weight | None, channel: int
) -> Label:
    """Columns read the input; rows (and bias) make the output."""
    columns = trace.slot(weight, 1, "in")
    rows = trace.slot(weight, 0, "out")
    for kind in KINDS:
        trace.tie(kind, columns, trace.per_channel(kind, getattr(x, kind), channel))
        if bias is not None:
            trace.tie(kind, trace.slot(bias, 0, "bias"), rows)
    trace.uses.append(distinct(x.unit))
    out = _spread(rows, node.meta["val"].shape, channel)
    return Label(out, out)


@rule(aten.mul.Tensor, aten.mul_.Tensor, aten.div.Tensor, aten.div_.Tensor)
def multiply(trace: Trace, node: torch.fx.Node, x: Any, y: Any) -> Label:
    """Times a number: linear in the activation."""
    if not (isinstance(x, Label) and isinstance(y, (int, float))):
        raise UnsupportedError("a product of two tensors")
    return x


@rule(aten.linear.default)
def linear(
    trace: Trace, node: torch.fx.Node, x: Label, weight: Weight, bias: Weight | None = None
) -> Label:
    """W x + b along the last dimension."""
    return _affine(trace, node, x, weight, bias, channel=-1)


def _conv(dims: int) -> Rule:
    def conv(
        trace: Trace, node: torch.fx.Node, x: Label, weight: Weight, bias: Weight | None = None,
        stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
    ) -> Label:  # fmt: skip
        """A linear layer along the channels, at every place."""
        if groups != 1:
            raise UnsupportedError(f"a convolution with groups={groups}")
        return _affine(trace, node, x, weight, bias, channel=len(node.meta["val"].shape) - dims - 1)

    return conv


for _dims in (1, 2, 3):
    _op = getattr(aten, f"conv{_dims}d")
    RULES[_op.default] = RULES[_op.padding] = _conv(_dims)


@rule(aten.batch_norm.default)
def batch_norm(
    trace: Trace, node: torch.fx.Node, x: Label, weight: Weight | None, bias: Weight | None,
    mean: Weight | None, var: Weight | None, training: bool, momentum: float, eps: float, *args:
        Any,
) -> Label:  # fmt: skip
    """γ (x - mean) / sqrt(var + ε) + β: the statistics absorb a scale, the pair starts one."""
    if mean is None or var is None or training:
        raise UnsupportedError("BatchNorm without running statistics")
    channels = {k: trace.per_channel(k, getattr(x, k), 1) for k in KINDS}
    for kind in KINDS:
        trace.tie(kind, trace.slot(mean, 0, "mean"), channels[kind])
        trace.tie(kind, trace.slot(var, 0, "var", eps), channels[kind])
    trace.uses.append(distinct(x.unit))
    if weight is None:
        trace.freeze("scale", trace.slot(mean, 0, "unscaled"), "BatchNorm without an affine pair")
        out = trace.slot(mean, 0, "unscaled")
    else:
        out = trace.slot(weight, 0, "out")
        if bias is not None:  # the pair (γ, β) is one vector: β is not a bias of the paper's kind
            for kind in KINDS:
                trace.tie(kind, trace.slot(bias, 0, "out"), out)
    trace.tie("unit", out, channels["unit"])
    shape = node.meta["val"].shape
    return Label(_spread(channels["unit"], shape, 1), _spread(out, shape, 1))


# --- the walk ------------------------------------------------------------------------------------


def operation(node: torch.fx.Node) -> str:
    """Name of an operation as a user knows it: ``relu``, ``conv2d``."""
    return str(node.target).removeprefix("aten.").split(".")[0].rstrip("_")


def place(node: torch.fx.Node) -> str:
    """Where in the user's network a node comes from: module path and the line that called it."""
    stack = node.meta.get("nn_module_stack") or {}
    module = next((path for path, _ in reversed(list(stack.values()))), "") or "the model itself"
    lines = [x.strip() for x in (node.meta.get("stack_trace") or "").splitlines() if x.strip()]
    source = "; ".join(lines[-2:])
    return f"module {module!r}" + (f" ({source})" if source else "")


def trace(model: nn.Module, example: Tensor | tuple[Any, ...], strict: bool = True) -> Trace:
    """Run `model`'s exported graph on labels and collect what it says."""
    model = structure(model)
    inputs = example if isinstance(example, tuple) else (example,)
    exported = torch.export.export(model, inputs, strict=False)
    signature = exported.graph_signature
    saved = model.state_dict().keys()
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names = {node: name for node, name in names.items() if name in saved}
    result, values = Trace(), {}
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            shape = getattr(node.meta["val"], "shape", torch.Size())
            frozen = torch.zeros((), dtype=torch.long).expand(shape)
            values[node] = (
                Weight(names[node.name], shape) if node.name in names else Label(frozen, frozen)
            )
        elif node.op == "call_function":
            values[node] = _call(result, node, values, strict)
        elif node.op == "output":
            _finish(result, _find(Label, map_arg(node.args, values.__getitem__)))
    return result


def _call(result: Trace, node: torch.fx.Node, values: dict, strict: bool) -> Any:
    args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
    try:
        if node.target not in RULES:
            raise UnsupportedError(f"operation {operation(node)!r} has no rule")
        return RULES[node.target](result, node, *args, **kwargs)
    except UnsupportedError as error:
        message = f"{error}, at {place(node)}"
        if strict:
            raise UnsupportedError(
                f"cannot read the symmetries of this network: {message}. Pass strict=False to "
                "leave the units that meet here as they are."
            ) from None
        return _leave(result, node, args, kwargs, message)


def _leave(result: Trace, node: torch.fx.Node, args: Any, kwargs: Any, message: str) -> Any:
    """Freeze all that an unknown operation touches: leaving it as it is is always exact."""
    result.refused.append(message)
    for label in _find(Label, (args, kwargs)):
        for kind in KINDS:
            result.freeze(kind, getattr(label, kind), operation(node))
    for weight in _find(Weight, (args, kwargs)):
        result.untouchable[weight.name] = operation(node)
    freeze = lambda value: Label(*[torch.zeros((), dtype=torch.long).expand(value.shape)] * 2)  # noqa: E731
    value = node.meta["val"]
    return [freeze(v) for v in value] if isinstance(value, (list, tuple)) else freeze(value)


def _finish(result: Trace, outputs: Iterable[Label]) -> None:
    """Classes keep their places; one positive factor on all outputs does not change the argmax."""
    for slot in result.slots.values():
        if slot.parameter in result.untouchable:
            for kind in KINDS:
                result.freeze(kind, torch.from_numpy(slot.ids), result.untouchable[slot.parameter])
    for label in outputs:
        result.freeze("unit", label.unit, "classes")
        result.tie("scale", label.scale, torch.tensor(OUTPUT))


def _map(function: Callable[[Label], Any], tree: Any) -> Any:
    """Apply a function to every label in nested lists and tuples."""
    if isinstance(tree, Label):
        return function(tree)
    return [_map(function, x) for x in tree] if isinstance(tree, (list, tuple)) else tree


def _find(kind: type, tree: Any) -> list:
    """Every label or weight in nested lists, tuples and dicts."""
    if isinstance(tree, kind):
        return [tree]
    if isinstance(tree, (Label, Weight)):
        return []
    children = (
        tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    )
    return [x for child in children for x in _find(kind, child)]


def structure(model: nn.Module) -> nn.Module:
    """A copy of a model's modules, in evaluation mode, that shares its tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(x): x for x in tensors}).eval()
