"""Layers: linear maps, convolutions, embeddings, and normalisations with their affine pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from ..._network import UnsupportedError
from .._labels import (
    ACROSS,
    ALONE,
    COMPUTED,
    CONSTANT,
    FACTORS,
    INDEX,
    KINDS,
    WORDS,
    Label,
    Trace,
    Weight,
    spread,
    still,
    varies,
)
from ._table import Rule, activation, meets_constant, rule, shape_of


def affine(
    trace: Trace, node: Node, x: Label, columns: Tensor, rows: Tensor, bias: Any, channel: int
) -> Label:
    """Columns read the input; rows (and bias) make the output."""
    # one label a channel, (inputs,): places share it
    channels = trace.per_channel(x, channel)
    for kind in KINDS:
        trace.tie(kind, columns, getattr(channels, kind))
    shift(trace, bias, rows)
    trace.use(x)
    return spread(Label(rows, rows, rows), shape_of(node), channel)


def shift(trace: Trace, bias: Any, rows: Tensor) -> None:
    """A bias has the units and factors of the rows; it may have been moved on the way."""
    if bias is None:
        return
    if isinstance(bias, Tensor):
        bias = trace.constant(bias)
    labels = trace.slot(bias, 0, "bias") if isinstance(bias, Weight) else None
    for kind in KINDS:
        trace.tie(kind, getattr(bias, kind) if labels is None else labels, rows)


@rule("linear")
def linear(trace: Trace, node: Node, x: Any, weight: Any, bias: Any = None) -> Label:
    """W x + b along the last dimension."""
    x = activation(trace, x)
    if isinstance(weight, Tensor) and bias is None:
        return _filtered(trace, node, x, weight, 0, -1)
    if not isinstance(weight, Weight):
        raise UnsupportedError(COMPUTED)
    columns = trace.slot(weight, len(weight.shape) - 1, "in")
    if len(weight.shape) == 1:
        if isinstance(bias, Weight):
            trace.untouchable[bias.name] = "linear"
        return dot(trace, node, x, columns)
    if _across_places(x, -1):
        return _over_places(trace, node, x, weight, bias, -1)
    return affine(trace, node, x, columns, trace.slot(weight, 0, "out"), bias, channel=-1)


def _across_places(x: Label, *dims: int) -> bool:
    """Whether units lie along other dimensions, and none along these: they have places."""
    moving = {d for d in range(len(x.shape)) if varies(x.unit, d)}
    return bool(moving) and moving.isdisjoint(d % len(x.shape) for d in dims)


def _over_places(trace: Trace, node: Node, x: Label, weight: Weight, bias: Any, dim: int) -> Label:
    """A layer that reads the places of every unit alike: the units pass, and its own stay.

    A number can belong to one unit only, and those of the stream are more than a layer's.
    """
    for k, role in enumerate(("out", "in")):
        ids = trace.slot(weight, k, role)
        trace.freeze("unit", ids, ACROSS)
        trace.fix(ids, ACROSS)
    shift(trace, bias, trace.slot(weight, 0, "out"))
    trace.use(x)
    if bias is not None:  # it is added to all units
        trace.fix(x, "a bias over places")
    one = trace.along(x, [dim], FACTORS)
    return one.map(lambda ids: ids.expand(shape_of(node)))


def dot(trace: Trace, node: Node, x: Label, columns: Tensor) -> Label:
    """A product with a vector: what comes out has no row that could be moved or multiplied."""
    channels = trace.per_channel(x, -1)
    for kind in KINDS:
        trace.tie(kind, columns, getattr(channels, kind))
    trace.use(x)
    return still(shape_of(node))


def _conv(dims: int) -> Rule:
    def conv(
        trace: Trace, node: Node, x: Any, weight: Any, bias: Any = None, stride: Any = 1,
        padding: Any = 0, dilation: Any = 1, groups: int = 1,
    ) -> Label:  # fmt: skip
        """A linear layer along the channels, at every place."""
        x = activation(trace, x)
        channel = len(shape_of(node)) - dims - 1
        if not isinstance(weight, Weight) and bias is None:
            return _filtered(trace, node, x, weight, groups, channel)
        rows = trace.slot(weight, 0, "out")
        if groups == 1:
            if _across_places(x, channel) and _pointwise(weight, stride, padding):
                trace.passed = True
                if trace.passing:
                    return _over_places(trace, node, x, weight, bias, channel)
            columns = trace.slot(weight, 1, "in")
            return affine(trace, node, x, columns, rows, bias, channel)
        return _grouped(trace, node, x, weight, rows, bias, groups, channel)

    return conv


def _filtered(trace: Trace, node: Node, x: Label, kernel: Any, groups: int, channel: int) -> Label:
    """A convolution whose numbers are no parameters: a blur, which each channel passes alone."""
    alone = kernel.shape[:2] == (groups, 1)
    if isinstance(kernel, Label):
        if not alone or not kernel.once(-len(kernel.shape)):  # other numbers for other channels
            raise UnsupportedError(COMPUTED)
        trace.freeze("unit", kernel.unit, ALONE)
        trace.fix(kernel, ALONE)
    channels = trace.per_channel(x, channel)
    trace.use(x)
    if not alone:
        trace.freeze("unit", channels.unit, CONSTANT)
        trace.fix(channels, CONSTANT)
        return still(shape_of(node))
    meets_constant(trace, spread(channels, kernel.shape, 0), kernel)
    return spread(channels, shape_of(node), channel)


def _pointwise(weight: Weight, stride: Any, padding: Any) -> bool:
    """Whether a convolution is a linear layer at every place, one by one."""
    ones = tree_leaves((weight.shape[2:], stride))
    return {*ones} == {1} and {*tree_leaves(padding)} <= {0, "valid", "same"}


def _grouped(
    trace: Trace, node: Node, x: Label, weight: Weight, rows: Tensor, bias: Any, groups: int,
    channel: int,
) -> Label:  # fmt: skip
    """Blocks of channels that do not see each other: a column belongs to its block's rows alone."""
    channels = trace.per_channel(x, channel)
    inputs = weight.shape[1]  # of one block
    depthwise = inputs == 1  # a row is also the column of its one input
    columns = trace.slot(weight, 0, "in", span=1 if depthwise else 2, roles=2)
    for kind in KINDS:
        read = getattr(channels, kind).view(groups, 1, inputs)  # the same for all rows of a block
        trace.tie(kind, columns.view(groups, -1, inputs), read)
    shift(trace, bias, rows)
    trace.use(x)
    blocks = rows.view(groups, -1)  # (blocks, rows of each)
    if not depthwise:  # else slot() has tied rows and input already
        # a block moves as a whole, with what is in it
        trace.around(torch.cat([channels.unit.view(groups, inputs), blocks], 1))
    return spread(Label(rows, rows, rows), shape_of(node), channel)


for _dims in (1, 2, 3):
    rule(f"conv{_dims}d")(_conv(_dims))


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(
    trace: Trace, node: Node, x: Any, weight: Any, bias: Any = None, stride: Any = 1,
    padding: Any = 0, output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Label:  # fmt: skip
    """A convolution whose weight has its inputs first."""
    x = activation(trace, x)
    channel = len(shape_of(node)) - len(weight.shape) + 1
    if groups != 1:
        return _grouped_transpose(trace, node, x, weight, bias, groups, channel)
    rows, columns = trace.slot(weight, 1, "out"), trace.slot(weight, 0, "in")
    return affine(trace, node, x, columns, rows, bias, channel)


def _grouped_transpose(
    trace: Trace, node: Node, x: Label, weight: Any, bias: Any, groups: int, channel: int
) -> Label:
    """As `_grouped`, with rows and columns exchanged: a row belongs to its block's columns."""
    columns, outputs = trace.slot(weight, 0, "in", roles=2), weight.shape[1]  # of one block
    depthwise = outputs == 1 and len(columns) == groups  # a column is also the row of its output
    cells = trace.slot(weight, 0, "out", span=1 if depthwise else 2, roles=2)
    cells = cells.view(groups, -1, outputs)  # (blocks, inputs, outputs)
    rows = cells[:, 0].flatten()
    for kind in KINDS:
        trace.tie(kind, cells, rows.view(groups, 1, outputs))  # the row of each input is one unit's
    made = affine(trace, node, x, columns, rows, bias, channel)
    if not depthwise:
        trace.around(torch.cat([columns.view(groups, -1), rows.view(groups, -1)], 1))
    return made


@rule("embedding")
def embedding(trace: Trace, node: Node, table: Any, words: Any, *args: Any, **kwargs: Any) -> Label:
    """Rows of a table: its columns make units; its rows are words, which keep their places."""
    _pin_words(trace, table, words)
    rows = trace.slot(table, 1, "out")
    return spread(Label(rows, rows, rows), shape_of(node), len(shape_of(node)) - 1)


def _pin_words(trace: Trace, table: Any, words: Any) -> None:
    if not isinstance(table, Weight):
        raise UnsupportedError(COMPUTED)
    trace.pinned[table.name, 0] = WORDS
    if isinstance(words, Label):  # what computes a word stays as it is
        trace.freeze("unit", words.unit, INDEX)
        trace.fix(words, INDEX)


@rule("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(
    trace: Trace, node: Node, table: Any, words: Any, offsets: Any, scaled: bool = False,
    mode: int = 0, sparse: bool = False, weights: Any = None, *args: Any,
) -> list[Label]:  # fmt: skip
    """Sums, means (or maxima, mode 2) of rows of a table."""
    for part in (words, offsets, weights):
        _pin_words(trace, table, part)
    rows = trace.slot(table, 1, "out")
    if mode == 2:  # the largest of some numbers is not that of their negatives
        trace.freeze("sign", rows, "embedding_bag")
    shapes = [x.shape for x in node.meta["val"]]
    return [spread(Label(rows, rows, rows), shapes[0], 1), *map(still, shapes[1:])]


@rule("bilinear")
def bilinear(trace: Trace, node: Node, x: Any, y: Any, weight: Any, bias: Any = None) -> Label:
    """x W y: two sets of columns."""
    x, y = activation(trace, x), activation(trace, y)
    # of (outputs, first, second)
    rows, middle = trace.slot(weight, 0, "out"), trace.slot(weight, 2, "in")
    channels = trace.per_channel(y, -1)
    for kind in KINDS:
        trace.tie(kind, middle, getattr(channels, kind))
    trace.use(y)
    return affine(trace, node, x, trace.slot(weight, 1, "in"), rows, bias, -1)


# --- normalisations -----------------------------------------------------------------------------


@rule("batch_norm")
def batch_norm(
    trace: Trace, node: Node, x: Label, weight: Any, bias: Any, mean: Any, var: Any, training: bool,
    momentum: float, eps: float, *args: Any,
) -> Label:  # fmt: skip
    """γ (x - mean) / sqrt(var + ε) + β: the statistics absorb a scale, the pair starts one."""
    channels = trace.per_channel(x, 1)
    trace.use(x)
    if training or mean is None or var is None:  # the batch's own: divided, with an ε
        trace.freeze("scale", channels.scale, "batch statistics")
        channels = channels._replace(scale=still(channels.shape).scale)
    else:
        for kind in KINDS:
            trace.tie(kind, trace.slot(mean, 0, "mean"), getattr(channels, kind))
            trace.tie(kind, trace.slot(var, 0, "var", eps=eps), getattr(channels, kind))
    return spread(_pair(trace, channels, weight, bias), shape_of(node), 1)


def _pair(trace: Trace, x: Label, weight: Any, bias: Any) -> Label:
    """An affine pair (γ, β) behind a normalisation: a scale begins, units and signs are the same.

    A sign that passes flips β and, where it ends or begins at γ, γ.
    """
    unit, sign = x.unit, x.sign
    scale = torch.zeros_like(unit)  # 0: no factor, where there is no γ
    if weight is not None:
        scale = _vector(trace, weight, "out").view(unit.shape)
        trace.tie("unit", scale, unit)
        sign = trace.gain(weight, scale, sign)
    if bias is not None:  # the pair is one vector: β is not a bias of the paper's kind
        moved = _vector(trace, bias, "bias" if weight is None else "out").view(unit.shape)
        # β has γ's factor, so that both are one vector
        for kind, labels in zip(KINDS, (unit, scale, sign), strict=True):
            trace.tie(kind, moved, labels)
    return Label(unit, scale, sign)


def _vector(trace: Trace, weight: Any, role: str) -> Tensor:
    """The labels of a gain or a shift, whatever its shape."""
    if isinstance(weight, Weight) and weight.moved is None:
        return trace.slot(weight, 0, role, span=len(weight.shape))
    return trace.slot(weight, 0, role)


@rule("layer_norm")
def layer_norm(
    trace: Trace, node: Node, x: Any, shape: Sequence[int], weight: Any = None, bias: Any = None,
    *args: Any, **kwargs: Any,
) -> Any:  # fmt: skip
    """One number divides all channels, with an ε: their scale is fixed; the pair starts one."""
    x = activation(trace, x)
    trace.fix(x, "layer_norm")
    still_signed = x._replace(sign=still(x.shape).sign)
    return _over_last(trace, still_signed, shape, weight, bias)


@rule("rms_norm")
def rms_norm(
    trace: Trace, node: Node, x: Any, shape: Sequence[int], weight: Any = None, *args: Any,
    **kwargs: Any,
) -> Label:  # fmt: skip
    """As a layer_norm without a mean: each unit may flip."""
    x = activation(trace, x)
    trace.freeze("scale", x.scale, "rms_norm")
    return _over_last(trace, x, shape, weight, None)


def _over_last(trace: Trace, x: Label, shape: Sequence[int], weight: Any, bias: Any) -> Label:
    """What normalises the last dimensions sees their units as one set, at every place the same."""
    trace.use(x)
    leading = len(x.shape) - len(shape)
    if _across_places(x, *range(leading, len(x.shape))):
        trace.passed = True
        if trace.passing:
            return _places_normalised(trace, x, weight, bias)

    def places(labels: Tensor, kind: str) -> Tensor:
        rows = labels.flatten(0, leading - 1) if leading else labels[None]  # (places, *shape)
        # expanded labels are the same at every place already
        if rows.stride(0) != 0 and len(rows) > 1:
            trace.tie(kind, rows[1:], rows[:1])
        return rows[0]

    unit, sign = places(x.unit, "unit"), places(x.sign, "sign")
    trace.around(unit.reshape(1, -1))  # one set, whose sum is divided by
    pair = _pair(trace, still(unit.shape)._replace(unit=unit, sign=sign), weight, bias)
    return pair.map(lambda part: part.expand(x.shape))


def _places_normalised(trace: Trace, x: Label, weight: Any, bias: Any) -> Label:
    """The places of each unit are normalised alike: the units pass, the pair of places stays."""
    trace.fix(x, ACROSS)
    for vector in (weight, bias):
        if vector is not None:
            ids = _vector(trace, vector, "out")
            trace.freeze("unit", ids, ACROSS)
            trace.fix(ids, ACROSS)
    return still(x.shape)._replace(unit=x.unit)


@rule("group_norm")
def group_norm(
    trace: Trace, node: Node, x: Label, groups: int, weight: Any = None, bias: Any = None,
    *args: Any, **kwargs: Any,
) -> Label:  # fmt: skip
    """As a layer_norm, in blocks of channels."""
    trace.use(x)
    trace.fix(x, "group_norm")
    channels = trace.per_channel(x, 1)._replace(sign=still(x.shape[1:2]).sign)
    trace.around(channels.unit.view(groups, -1))  # (blocks, channels of each)
    return spread(_pair(trace, channels, weight, bias), shape_of(node), 1)


@rule("instance_norm")
def instance_norm(
    trace: Trace, node: Node, x: Label, weight: Any, bias: Any, mean: Any, var: Any,
    own_statistics: bool, momentum: float, eps: float, *args: Any,
) -> Label:  # fmt: skip
    """A BatchNorm whose statistics are those of each channel's places."""
    return batch_norm(trace, node, x, weight, bias, mean, var, own_statistics, momentum, eps)
