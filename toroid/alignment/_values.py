"""What units compute on data: the values that activations are matched by.

The graph of a network is run on labels first (`toroid.symmetry._labels`), which say of every number
to which unit it belongs, whatever operation it comes from or goes to. Then it is run on the numbers
of both states, and those are kept where units are made and where they are read.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node
from torch.utils._pytree import tree_leaves, tree_map

from .._batches import Batch, Batches, Data
from .._network import UnsupportedError, cast, run, selected, structure
from .._random import same_noise
from .._state import State, check_model, first_names
from ..symmetry import _graph
from ..symmetry._assembly import assemble
from ..symmetry._components import Components
from ..symmetry._groups import Group, Symmetry
from ..symmetry._labels import Label, Trace, Weight, varies
from ..symmetry._reading import reading
from ..tasks import Task, take

Ints = NDArray[np.int64]


class Rows(NamedTuple):
    """The labels of an activation, (rows,): one row for each index along the dimensions `moving`.

    Those are the dimensions along which units differ, or their signs do.
    """

    moving: tuple[int, ...]
    unit: Tensor
    sign: Tensor

    @classmethod
    def of(cls, label: Label) -> Rows:
        """What is needed of labels, without the memory that they take."""
        dims = range(len(label.shape))
        moving = tuple(d for d in dims if varies(label.unit, d) or varies(label.sign, d))
        first = tuple(slice(None) if d in moving else slice(1) for d in dims)
        return cls(moving, *(x[first].flatten().clone() for x in (label.unit, label.sign)))


@dataclass(eq=False)
class Place:
    """An activation where units are made or read, and what both states compute there.

    Its numbers are kept as matrices (rows, examples and places).
    """

    name: str  # what makes or reads them: the calls of one layer are taken together
    node: Node
    leaf: int
    moving: tuple[int, ...]
    units: Ints  # of each row the component of its labels
    signs: Ints
    values: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))

    def take(self, result: Any, run: int) -> None:
        """Keep what a node gave; what comes later may write into it."""
        x = tree_leaves(result)[self.leaf]
        x = torch.view_as_real(x) if x.is_complex() else x if x.is_floating_point() else x.double()
        rest = [d for d in range(x.dim()) if d not in self.moving]
        rows = x.permute(*self.moving, *rest).clone(memory_format=torch.contiguous_format)
        self.values[run].append(rows.view(len(self.units), -1))


class Pair(NamedTuple):
    """The values of a group's units, (units, numbers), and whether they flip with the units."""

    odd: bool
    to: Tensor
    run: Tensor


class Values:
    """What the units of two states compute on all batches of some data.

    Args:
        model: The network; it is not changed.
        states: The reference, and the one to move.
        data: As in `toroid.evaluate`.
        task: How the network is called on a batch.
        symmetry: Of the network.
    """

    def __init__(
        self, model: nn.Module, states: tuple[State, State], data: Data, task: Task,
        symmetry: Symmetry,
    ) -> None:  # fmt: skip
        check_model(states[0], model)
        self.graphs: dict[str, _Graph] = {}  # one for each form of a batch
        for batch in Batches(data, task, 250, model):
            form = str(tree_map(_form, (batch.arguments, batch.named)))
            if form not in self.graphs:
                self.graphs[form] = _Graph(model, states[0], batch, task, symmetry)
            for number, state in enumerate(states):
                self.graphs[form].run(state, batch, number)

    def known(self, group: Group) -> bool:
        """Whether any were seen of a group's units."""
        return bool(self.of(group))

    def of(self, group: Group) -> list[Pair]:
        """The values of a group's units, once for each layer that makes or reads them.

        Without those that are the same on all data: they tell no unit from another.
        """
        found = defaultdict(list)
        for graph in self.graphs.values():
            for place, rows, odd in graph.where(group):
                sides = [torch.cat([x[rows].flatten(1) for x in side], 1) for side in place.values]
                found[place.name, odd].append(sides)
        pairs = [
            Pair(odd, *(torch.cat(side, 1) for side in zip(*sides, strict=True)))
            for (_, odd), sides in found.items()
        ]
        return [x for x in pairs if all(centred(side).any() for side in (x.to, x.run))]


def centred(values: Tensor) -> Tensor:
    """Less the mean of each unit, (units, numbers); 0 where nothing but rounding is left."""
    rest = values - values.mean(1, keepdim=True)
    rounding = torch.finfo(values.dtype).eps ** 0.75 * values.abs().amax(1, keepdim=True)
    return torch.where(rest.abs().amax(1, keepdim=True) <= rounding, 0.0, rest)


def _form(x: Any) -> Any:
    return (tuple(x.shape), x.dtype) if isinstance(x, Tensor) else x


class _Graph:
    """The graph of a network for batches of one form, and the places where units are."""

    def __init__(
        self, model: nn.Module, state: State, batch: Batch, task: Task, symmetry: Symmetry
    ) -> None:
        self.exported = _exported(model, state, batch, task)
        with same_noise():  # what comes from constants alone is computed, or drawn
            self.labels = _Labels.of(self.exported, first_names(model), symmetry)
        self.places = self.labels.places(symmetry)

    def run(self, state: State, batch: Batch, number: int) -> None:
        """Keep what one state computes on a batch."""
        exported, signature = self.exported, self.exported.graph_signature
        given = iter(tree_leaves(_given(state, batch)))
        stored = {**exported.constants, **exported.state_dict, **state}
        names = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        start = [
            stored[names[node.name]].clone() if node.name in names else next(given)
            for node in exported.graph.find_nodes(op="placeholder")
        ]

        def visit(walk: _Walk, node: Node, call: Callable[[], Any]) -> Any:
            places = self.places.get(node, ())
            for place in places:
                if place.node is not node:  # an operand, before the operation may write into it
                    place.take(walk.env[place.node], number)
            result = call()
            for place in places:
                if place.node is node:
                    place.take(result, number)
            return result

        with torch.no_grad(), same_noise():
            _Walk(exported.graph_module, visit).run(*start)

    def where(self, group: Group) -> Iterable[tuple[Place, Tensor, bool]]:
        """The places of a group: its rows there, (units, block), and whether they flip."""
        found = self.labels.units(group)
        signs = self.labels.flipped(group)
        for place in (p for places in self.places.values() for p in places):
            rows = None if found is None else _rows(found, place.units)
            if rows is not None:
                odd = np.isin(place.signs[rows], signs)
                if odd.all() or not odd.any():
                    yield place, torch.from_numpy(rows), bool(odd.all())


def _rows(units: Ints, found: Ints) -> Ints | None:
    """Where the components of units (units, parts) are: (units, block), in one order for all.

    None if they are not there, or of some units more often than of others.
    """
    order = units.ravel().argsort()
    line = units.ravel()[order]
    at = np.searchsorted(line, found).clip(max=len(line) - 1)
    rows = np.flatnonzero(line[at] == found)
    which = order[at[rows]]  # of each row the unit and the part
    counts = np.bincount(which, minlength=units.size).reshape(units.shape)
    if not len(rows) or (counts != counts[0]).any():
        return None
    return rows[which.argsort(kind="stable")].reshape(len(units), -1)


class _Walk(Interpreter):
    """Runs a graph, and the graphs inside it (no_grad, autocast), and shows every node's call."""

    def __init__(self, module: GraphModule, visit: Callable[[_Walk, Node, Any], Any]) -> None:
        super().__init__(module)
        self.visit, self.extra_traceback = visit, False

    def run_node(self, n: Node) -> Any:
        return self.visit(self, n, partial(super().run_node, n))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        within = (_Walk(x, self.visit).run if isinstance(x, GraphModule) else x for x in args)
        return target(*within, **kwargs)


@dataclass
class _Labels:
    """The labels of every node of a graph, and what they say once all of it was walked."""

    trace: Trace
    found: dict[Node, list[Any]]  # of each leaf of what a node gives

    def __post_init__(self) -> None:
        assemble(self.trace)  # what turns out to be one unit is tied
        self.unit, self.sign = (Components(self.trace, kind).of for kind in ("unit", "sign"))
        self.slots = {key[:3]: slot.ids for key, slot in self.trace.slots.items()}

    @classmethod
    def of(cls, exported: ExportedProgram, first: dict[str, str], symmetry: Symmetry) -> _Labels:
        """Those that know most of the symmetry's units."""

        def labels(passing: bool) -> _Labels:
            trace, found = Trace(passing=passing), dict[Node, list[Any]]()
            start = _graph._placeholders(exported, first)

            def visit(walk: _Walk, node: Node, call: Callable[[], Any]) -> Any:
                graphs = [m for m in node.all_input_nodes if isinstance(walk.env[m], GraphModule)]
                if node.op == "call_function" and len(graphs) != 1:  # one is walked in
                    call = partial(_graph._call, trace, node, walk.env, False)
                result = call()
                leaves = tree_leaves(result, is_leaf=lambda x: isinstance(x, Label))
                found[node] = [Rows.of(x) if isinstance(x, Label) else x for x in leaves]
                return result

            _Walk(exported.graph_module, visit).run(*start.values())
            return cls(trace, found)

        one = labels(True)
        every = [one, labels(False)] if one.trace.passed else [one]
        return max(every, key=lambda x: sum(g.size for g in symmetry.groups if x.known(g)))

    def known(self, group: Group) -> bool:
        """Whether there are labels for a group."""
        return self.units(group) is not None

    def units(self, group: Group) -> Ints | None:
        """The components of each unit, (units, parts); None if they do not tell its units apart."""
        slots = [(axis, self.slots.get(axis.place)) for axis in group.axes]
        parts = [self.unit[ids[a.positions.numpy()]] for a, ids in slots if ids is not None]
        if not parts:
            return None
        found = np.unique(np.concatenate(parts, 1), axis=1)
        return found if len(np.unique(found)) == found.size else None

    def flipped(self, group: Group) -> Ints:
        """The components of the signs that a group's units take along."""
        axes = [axis for axis in group.axes if group.flips(axis) and axis.place in self.slots]
        parts = [self.sign[self.slots[a.place][a.positions.numpy()]].ravel() for a in axes]
        return np.concatenate(parts) if parts else np.empty(0, int)

    def places(self, symmetry: Symmetry) -> dict[Node, list[Place]]:
        """For each node the units of the symmetry that it makes or reads."""
        moving = np.zeros(len(self.unit), bool)
        for group in filter(self.known, symmetry.groups):
            moving[self.units(group)] = True
        operations = (node for node in self.found if isinstance(node.target, OpOverload))
        return {node: places for node in operations if (places := self._at(node, moving))}

    def _at(self, node: Node, moving: NDArray[np.bool_]) -> list[Place]:
        """Units that come in and do not go out are read; those that only go out are made.

        And both, if they come in through a weight that reads them.
        """
        weights = [x.name for m in node.all_input_nodes for x in self.found[m] if _is_weight(x)]
        name = str(weights or node.name)
        into = [x for k, m in enumerate(node.all_input_nodes) for x in self._all(m, f"{name}<{k}")]
        out = self._all(node, f"{name}>")
        here, there = ({c for x in side for c in x.units[moving[x.units]].tolist()}
                       for side in (into, out))  # fmt: skip
        both = (here & there) - self._read_by(weights)
        return [
            place
            for side, units in ((into, here - both), (out, there - both))
            for place in side
            if not units.isdisjoint(place.units.tolist())
        ]

    def _all(self, node: Node, name: str) -> list[Place]:
        """All activations that a node gives."""
        return [
            Place(f"{name} {k}", node, k, x.moving, self.unit[x.unit.numpy()],
                  self.sign[x.sign.numpy()])
            for k, x in enumerate(self.found[node])
            if isinstance(x, Rows)
        ]  # fmt: skip

    def _read_by(self, weights: Sequence[str]) -> set[int]:
        """The components of the units that weights read."""
        slots = [s for s in self.trace.slots.values() if s.role == "in" and s.parameter in weights]
        return {c for slot in slots for c in self.unit[slot.ids].tolist()}


def _is_weight(x: Any) -> bool:
    return isinstance(x, Weight)


def _exported(model: nn.Module, state: State, batch: Batch, task: Task) -> ExportedProgram:
    """The graph of a network for a batch, in the precision of a state."""
    first = first_names(model)
    own = {k: v.clone() for k, v in state.items() if first.get(k, k) == k}
    with reading(model):
        # what does not fit, a run says in a sentence and an export in a hundred lines
        with torch.no_grad(), same_noise():
            run(_network(model, state, task), own, *_given(state, batch))
        return _export(_network(model, state, task), *_given(state, batch))


def _export(network: nn.Module, arguments: Any, named: Any) -> ExportedProgram:
    try:
        return torch.export.export(network, arguments, named, strict=False)
    except Exception as error:
        told = next(iter(str(error).strip().splitlines()), "").rstrip(".")
        raise UnsupportedError(
            f"torch cannot export this network, whose values were asked for: {told}"
        ) from error


def _network(model: nn.Module, state: State, task: Task) -> nn.Module:
    """A copy in the precision of a state, and on its device."""
    own = copy.deepcopy(structure(model))._apply(partial(cast, like=_like(state)))
    return selected(own, partial(take, part=task.outputs))


def _given(state: State, batch: Batch) -> Any:
    """A copy of what the network takes."""
    return tree_map(partial(cast, like=_like(state)), (batch.arguments, batch.named))


def _like(state: State) -> Tensor:
    return next(x for x in state.values() if x.is_floating_point())
