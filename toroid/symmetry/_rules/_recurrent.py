"""Recurrent layers: the gates of a unit move together.

A hidden unit has one row in each gate's block of the input's and of the state's weights, and one
column in the state's. A gate has no sign and no scale; where there is none, tanh lets a sign
through and ReLU a scale. (What an LSTM or a GRU lets through is odd as well; one sign for a part of
a unit's rows has no place in a group yet, so it stays.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.fx import Node

from ..._network import UnsupportedError
from .._labels import FACTORS, KINDS, Label, Trace, Weight, spread, still
from ._table import activation, operation, rule, value


class Kind(NamedTuple):
    """What a cell does with its blocks of rows."""

    blocks: int
    free: str = ""  # the factor that passes


KIND = {"lstm": Kind(4), "gru": Kind(3), "rnn_tanh": Kind(1, "sign"), "rnn_relu": Kind(1, "scale")}


def _kind(node: Node) -> Kind:
    return KIND[operation(node).removesuffix("_cell")]


def _cells(trace: Trace, node: Node, weights: Sequence[Any]) -> Label:
    """The labels of the hidden units, tied to every gate's rows in weights and biases."""
    blocks = []  # each (gates, units)
    for weight in weights:
        if not isinstance(weight, Weight):
            raise UnsupportedError("its weights are computed, not parameters of the model")
        role = "out" if len(weight.shape) == 2 else "bias"
        blocks.append(trace.slot(weight, 0, role).view(_kind(node).blocks, -1))
    unit = blocks[0][0]  # the first gate's rows name the hidden units
    cells = still(unit.shape)._replace(unit=unit)
    for block in blocks:
        trace.tie("unit", block, unit)
    for kind in FACTORS:
        if kind == _kind(node).free:
            cells = cells._replace(**{kind: unit})
            for block in blocks:
                trace.tie(kind, block, unit)
        else:
            trace.freeze(kind, torch.cat(blocks, 1), operation(node))
    return cells


def _reads(trace: Trace, weight: Any, x: Label) -> None:
    """Columns of every gate read the same."""
    channels = trace.per_channel(x, -1)
    columns = trace.slot(weight, 1, "in")
    trace.use(x)
    for kind in KINDS:
        trace.tie(kind, columns, getattr(channels, kind))


def _recur(
    trace: Trace, node: Node, x: Label, starts: Sequence[Any], weights: Sequence[Any]
) -> tuple[Label, Label]:
    """One direction of one layer: the hidden units, which read themselves, and its cells."""
    into, back, *rest = weights
    # two biases or none
    biases, projection = (rest[:-1], rest[-1]) if len(rest) % 2 else (rest, None)
    cells = hidden = _cells(trace, node, [into, back, *biases])
    if projection is not None:  # the state is a linear image of the cells
        _reads(trace, projection, cells)
        rows = trace.slot(projection, 0, "out")
        hidden = Label(rows, rows, rows)
    _reads(trace, into, x)
    _reads(trace, back, hidden)
    for start, units in zip(starts, (hidden, cells), strict=False):
        state = trace.per_channel(activation(trace, start), -1)
        for kind in KINDS:
            trace.tie(kind, getattr(state, kind), getattr(units, kind))
    return hidden, cells


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(
    trace: Trace, node: Node, x: Any, start: Any, weights: Sequence[Any], biased: bool,
    layers: int, dropout: float, train: bool, both_ways: bool, *batch_first: bool,
) -> list[Label]:  # fmt: skip
    """A recurrent layer over a sequence: outputs at every step, and the last states."""
    if not batch_first or not isinstance(biased, bool):
        raise UnsupportedError("sequences that are packed")
    if train and dropout:
        raise UnsupportedError("dropout that is active in evaluation mode")
    x, ways = activation(trace, x), 2 if both_ways else 1
    starts = [value(trace, state) for state in _states(start)]  # they can be learned
    each = len(weights) // (layers * ways)
    last = []
    for layer in range(layers):
        found = []
        for way in range(ways):
            place = layer * ways + way
            own = weights[place * each : (place + 1) * each]
            found.append(_recur(trace, node, x, [_at(s, place) for s in starts], own))
        last += found
        # both directions, side by side
        units = Label(*(torch.cat([getattr(f[0], kind) for f in found]) for kind in KINDS))
        x = spread(units, [*x.shape[:-1], len(units.unit)], len(x.shape) - 1)
    ends = node.meta["val"][1:]
    return [x, *(_stacked([f[i] for f in last], v.shape) for i, v in enumerate(ends))]


def _states(start: Any) -> list[Any]:
    """An LSTM has two states, the others one."""
    several = isinstance(start, (list, tuple)) and not isinstance(start, Label)
    return list(start) if several else [start]


def _at(start: Any, place: int) -> Any:
    return start.map(lambda ids: ids[place]) if isinstance(start, Label) else start[place]


def _stacked(units: Sequence[Label], shape: torch.Size) -> Label:
    """The last states, (layers and ways, batch, units)."""
    parts = [spread(u, shape[1:], len(shape) - 2) for u in units]
    return Label(*(torch.stack([getattr(u, kind) for u in parts]) for kind in KINDS))


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(trace: Trace, node: Node, x: Any, start: Any, into: Any, back: Any, *biases: Any) -> Any:
    """One step."""
    starts = _states(start)
    given = [bias for bias in biases if bias is not None]
    found = _recur(trace, node, activation(trace, x), starts, [into, back, *given])
    end = node.meta["val"]
    if isinstance(end, (list, tuple)):
        return [spread(u, v.shape, v.dim() - 1) for u, v in zip(found, end, strict=True)]
    return spread(found[0], end.shape, end.dim() - 1)
