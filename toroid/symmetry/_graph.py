"""The walk through an exported graph, with labels instead of numbers."""

from __future__ import annotations

import traceback
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
)
from torch.utils._pytree import tree_map

from .._network import (
    Outputs,
    UnsupportedError,
    computed_weights,
    plain,
    selected,
    storage,
    structure,
)
from .._random import same_noise
from .._state import first_names
from ._labels import CLASSES, KINDS, OUTPUT, Label, Trace, Weight, still
from ._reading import arguments, reading, said, settled, untouched
from ._rules import RULES, operation

PACKING = [f.__code__ for f in (pack_padded_sequence, pack_sequence, pad_packed_sequence)]
LARGE, SIDE = 160_000, 64  # inputs of so many numbers are cut, to sides of SIDE at least


def export(model: nn.Module, example: Any, outputs: Outputs = None) -> ExportedProgram:
    """The graph of a model in evaluation mode, on an example as `taken` gives it, or one input."""
    # brings SymPy along, which only an export needs
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    args, named = arguments(example)
    network = selected(structure(model), outputs)
    try:
        with reading(model):
            settled(network, lambda: said(network, example))
            return torch.export.export(network, args, named, strict=False)
    except UnsupportedError:
        raise
    except Exception as error:
        if isinstance(error, GuardOnDataDependentSymNode) and not _packs(error):
            raise UnsupportedError(
                "cannot read the graph of this network: what it computes depends on numbers "
                f"({_own_line(error)}), and no graph says both "
                "cases. Take the choice, or the check, out of forward"
            ) from error
        raise _not_exported(model, example, outputs, error) from error


def _own_line(error: BaseException) -> str:
    """Where an error was raised, without the lines of torch."""
    folder, trace = str(Path(torch.__file__).parent), traceback.extract_tb(error.__traceback__)
    last = [x for x in trace if folder not in x.filename][-1]
    return f"{last.filename}, line {last.lineno}: {last.line}"


def _packs(error: BaseException) -> bool:
    """Whether an error comes of a packed sequence, or of packing one."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(
        frame.f_code in PACKING or any(isinstance(x, PackedSequence) for x in values)
        for frame in frames
        for values in [[*frame.f_locals.values()]]
    )


def smaller(
    model: nn.Module, example: Any, outputs: Outputs, exported: ExportedProgram
) -> tuple[ExportedProgram, Any]:
    """The graph on smaller images, and these, where it is the same one; else what is given.

    Labels and a random copy's outputs say on 64 x 64 pixels what they say on 512 x 512.
    """
    sides = [min(x.shape[-2:]) for x in _find(Tensor, example) if x.dim() == 4]
    factor = 2 ** max(0, (min(sides, default=0) // SIDE).bit_length() - 1)
    size = sum(x.numel() for x in _find(Tensor, example))
    if size < LARGE or factor == 1:
        return exported, example
    less = tree_map(lambda x: _cut(x, factor), example)
    try:
        other = export(model, less, outputs)
    except Exception:  # any code of a user's may need the size
        return exported, example
    return (other, less) if _steps(other) == _steps(exported) else (exported, example)


def _cut(x: Any, factor: int) -> Any:
    """The corner of an image."""
    if not isinstance(x, Tensor) or x.dim() != 4:
        return x
    height, width = (side // factor for side in x.shape[-2:])
    return x[..., :height, :width]


def _steps(exported: ExportedProgram) -> list[Any]:
    """The operations of a graph in their order, and what they take."""
    return [
        (node.op, node.target, [n.name for n in node.all_input_nodes])
        for node in exported.graph.nodes
    ]


def _not_exported(model: nn.Module, example: Any, outputs: Outputs, error: Exception) -> Exception:
    """Why there is no graph: the example does not fit, or torch cannot read the network."""
    try:
        with untouched(model):
            found = said(structure(model), example)
    except Exception as own:
        return ValueError(
            f"the model does not run on the example ({type(own).__name__}: {_first(own)}); pass an "
            "input as the model takes it, batch first, a tuple of several, or a dict by name"
        )
    try:
        plain(outputs(found) if outputs else found)
    except Exception as own:
        return ValueError(
            f"outputs= fails on what the model says, a {type(found).__name__} "
            f"({type(own).__name__}: {_first(own)})"
        )
    if _packs(error):
        return UnsupportedError(
            f"cannot read the graph of this network: it packs sequences ({_own_line(error)}), and "
            "their lengths are numbers, which no graph has. Read the same network without the "
            "packing, with a forward that passes on the padded sequences: its weights, and their "
            "symmetries, are the same"
        )
    return UnsupportedError(f"torch cannot export this network: {_first(error)}")


def _first(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "").rstrip(".")


def unread(exported: ExportedProgram, model: nn.Module) -> list[str]:
    """The parameters of a model that its graph does not read, as such or as a constant."""
    constants = [x for x in exported.constants.values() if isinstance(x, Tensor)]
    read, held = {storage(x) for x in constants}, dict(model.named_parameters())
    return [
        name
        for name, nodes in _parameters(exported, model).items()
        if not any(node.users for node in nodes) and storage(held[name]) not in read
    ]


def ignored(exported: ExportedProgram, model: nn.Module) -> set[str]:
    """The parameters of a model on which no output of its graph depends."""
    live: set[Node] = set()
    for node in reversed(exported.graph.nodes):
        # what writes into others may count wherever these are read
        if node.op == "output" or node in live or operation(node).endswith("_"):
            live |= {node, *node.all_input_nodes}
    return {k for k, nodes in _parameters(exported, model).items() if live.isdisjoint(nodes)}


def _parameters(exported: ExportedProgram, model: nn.Module) -> dict[str, list[Node]]:
    """Where a graph begins with each parameter, under the first of its names."""
    names, first = exported.graph_signature.inputs_to_parameters, first_names(model)
    found: dict[str, list[Node]] = {}
    for node in exported.graph.find_nodes(op="placeholder"):
        if (name := names.get(node.name)) in first:
            found.setdefault(first[name], []).append(node)
    return found


def precision(exported: ExportedProgram) -> torch.dtype:
    """The lowest precision that the graph casts numbers to by name; float64 if there is none."""
    return _precision(exported.graph_module)


def _precision(module: GraphModule) -> torch.dtype:
    lowest, computed = torch.float64, set[Node]()
    for node in module.graph.nodes:
        if node.op == "placeholder" or not computed.isdisjoint(node.all_input_nodes):
            computed.add(node)
            checked = node.target is torch.ops.aten._assert_tensor_metadata.default  # no cast
            for x in () if checked else (*node.args, *node.kwargs.values()):
                if isinstance(x, torch.dtype) and x.is_floating_point:
                    lowest = max(lowest, x, key=_epsilon)
    for _, inner in module.named_children():
        if isinstance(inner, GraphModule):
            lowest = max(lowest, _precision(inner), key=_epsilon)
    return lowest


def _epsilon(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


def trace(
    exported: ExportedProgram, model: nn.Module, strict: bool = True, passing: bool = True
) -> Trace:
    """Run a graph on labels and collect what it says."""
    first = first_names(model)
    copies = {name: one for name, one in first.items() if name != one}
    result = Trace(copies=copies, passing=passing)
    start = _placeholders(exported, first)
    _complex(result, exported, strict)
    try:
        outputs = _walk(result, exported.graph_module, start, strict)
    except UnsupportedError as error:
        advice = computed_weights(model)
        if not advice:
            raise
        raise UnsupportedError(f"{error} {advice}") from error
    for weight in _find(Weight, outputs):
        result.untouchable[weight.name] = "output"
    _finish(result, _find(Label, outputs))
    if _find(Weight, outputs) or _find(Tensor, outputs):  # a factor would pass them by
        result.freeze("scale", torch.tensor([OUTPUT]), "an output that is a constant")
    return result


def _walk(result: Trace, module: GraphModule, values: dict[Node, Any], strict: bool) -> Any:
    """Run one graph on labels, from its placeholders to its outputs."""
    for node in module.graph.nodes:
        if node.op == "get_attr":
            values[node] = _attribute(module, str(node.target))
        elif node.op == "call_function":
            values[node] = _call(result, node, values, strict)
        elif node.op == "output":
            # an output may be a constant that was written into
            return map_arg(node.args, lambda n: result.current(values[n]))
    return ()


def _attribute(module: nn.Module, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module


def _inner(args: Sequence[Any]) -> tuple[GraphModule, dict[Node, Any]]:
    """A graph inside the graph (no_grad, autocast, a checkpoint), and what it begins with."""
    graphs = [i for i, x in enumerate(args) if isinstance(x, GraphModule)]
    if len(graphs) != 1:
        raise UnsupportedError("a choice between several graphs")
    inner, given = args[graphs[0]], args[graphs[0] + 1 :]
    places = inner.graph.find_nodes(op="placeholder")
    if len(places) != len(given):
        raise UnsupportedError("a graph that takes other inputs")
    return inner, dict(zip(places, given, strict=True))


def _placeholders(exported: ExportedProgram, first: Mapping[str, str]) -> dict[Node, Any]:
    """What the graph begins with: weights by name, constants as they are, inputs that stay.

    `first` has the first name of every tensor in the state dict, which may have several.
    """
    values: dict[Node, Any] = {}
    signature, state = exported.graph_signature, exported.state_dict
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = {**exported.constants, **state}
    lifted = signature.inputs_to_lifted_tensor_constants
    for node in exported.graph.find_nodes(op="placeholder"):
        name = names.get(node.name) or lifted.get(node.name)
        number = constants.get(name) if name else None
        buffer = node.name in signature.inputs_to_buffers
        if name in first and number is not None and _is_weight(number, buffer):
            values[node] = Weight(first[name], number.shape, buffer)
        elif number is not None:
            values[node] = number.detach().clone()
        else:
            values[node] = still(getattr(node.meta["val"], "shape", ()))
    return values


def _is_weight(numbers: Tensor, buffer: bool) -> bool:
    """Floating numbers, and no mask: minus infinity is a constant that no factor changes."""
    if not numbers.is_floating_point():
        return False
    return not buffer or numbers.is_meta or not bool((numbers == -torch.inf).any())


def _complex(result: Trace, exported: ExportedProgram, strict: bool) -> None:
    """Complex weights are numbers that stay: nothing is said of their units, but for this."""
    read = [*exported.graph_signature.inputs_to_parameters.values()]
    for name in (name for name in read if exported.state_dict[name].is_complex()):
        message = f"the parameter {name!r} is complex, which is not understood"
        if strict:
            raise UnsupportedError(
                f"cannot read the symmetries of this network: {message}. Pass strict=False to "
                "leave its units as they are."
            )
        result.refused.append(message)


def _call(result: Trace, node: Node, values: dict[Node, Any], strict: bool) -> Any:
    if str(getattr(node.target, "__module__", "")).startswith("torch._functorch"):
        raise UnsupportedError(  # to run it here would change torch itself
            "cannot read the symmetries of this network: it transforms a function inside forward "
            f"(torch.vmap, torch.func), at {place(node)}; write it out for the whole batch"
        )
    args, kwargs = map_arg((node.args, node.kwargs), lambda n: result.current(values[n]))
    labels, weights = _find(Label, (args, kwargs)), _find(Weight, (args, kwargs))
    if not labels and not weights and not _find(GraphModule, args):
        with same_noise():  # constants only
            return node.target(*args, **kwargs)  # type: ignore[operator]
    try:
        if _find(GraphModule, args):
            inner, start = _inner(args)
        elif node.target in RULES:
            return RULES[node.target](result, node, *args, **kwargs)
        elif not weights and all(label.still for label in labels):  # what nothing moves stays
            return _stay(node)
        else:
            raise UnsupportedError("there is no rule for it")
    except UnsupportedError as error:
        cause: Exception = error
        why = str(error)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        # an operation that has a rule, in a form that the rule was not written for
        cause, why = error, f"its rule fails: {type(error).__name__}: {error}"
    else:
        (found,) = _walk(result, inner, start, strict)
        return found
    message = f"{operation(node)!r} is not understood ({why}), at {place(node)}"
    if strict:
        raise UnsupportedError(
            f"cannot read the symmetries of this network: {message}. Pass strict=False to "
            "leave the units that meet here as they are."
        ) from cause
    return _leave(result, node, args, kwargs, message)


def _leave(result: Trace, node: Node, args: Any, kwargs: Any, message: str) -> Any:
    """Freeze all that an unknown operation touches: leaving it as it is is always exact."""
    result.refused.append(message)
    for label in _find(Label, (args, kwargs)):
        for kind in KINDS:
            result.freeze(kind, getattr(label, kind), operation(node))
    for weight in _find(Weight, (args, kwargs)):
        result.untouchable[weight.name] = operation(node)
    return _stay(node)


def _stay(node: Node) -> Any:
    """The labels of results that nothing moves, in the form in which they come."""
    return tree_map(lambda v: still(getattr(v, "shape", ())), node.meta.get("val"))


def _finish(result: Trace, outputs: Iterable[Label]) -> None:
    """Classes keep their places; one positive factor on all outputs does not change the argmax."""
    places = defaultdict(set)
    for name, dim, span, _ in result.slots:
        places[name].add((dim, span))
    for name, found in places.items():  # rows and columns, or blocks, or single numbers: no two
        if any(span > 1 for _, span in found) and len(found) > 1 and found != {(0, 1), (0, 2)}:
            result.untouchable.setdefault(name, "a weight that is used in two ways")
    for slot in result.slots.values():
        if slot.parameter in result.untouchable:
            for kind in KINDS:
                result.freeze(kind, torch.from_numpy(slot.ids), result.untouchable[slot.parameter])
        if reason := result.pinned.get((slot.parameter, slot.dim)):
            for kind in KINDS:
                result.freeze(kind, torch.from_numpy(slot.ids), reason)
    for label in outputs:
        result.freeze("unit", label.unit, CLASSES)
        result.freeze("sign", label.sign, CLASSES)
        result.tie("scale", label.scale, torch.tensor(OUTPUT))
    for slot in [*result.slots.values()]:  # a tensor's other names move with it
        for name, first in result.copies.items():
            if first == slot.parameter:
                copy = replace(slot, parameter=name)
                result.slots[name, slot.dim, slot.span, slot.role] = copy


def _find(kind: type, tree: Any) -> list[Any]:
    """Every label or weight in nested lists, tuples and dicts."""
    if isinstance(tree, kind):
        return [tree]
    if isinstance(tree, (Label, Weight)):
        return []
    nested = isinstance(tree, (list, tuple))
    children = tree.values() if isinstance(tree, dict) else tree if nested else ()
    return [x for child in children for x in _find(kind, child)]


def place(node: Node) -> str:
    """Where in the user's network a node comes from: module path and the line that called it."""
    stack = node.meta.get("nn_module_stack") or {}
    module = next((path for path, _ in reversed(list(stack.values()))), "") or "the model itself"
    lines = [x.strip() for x in (node.meta.get("stack_trace") or "").splitlines() if x.strip()]
    source = "; ".join(lines[-2:])
    return f"module {module!r}" + (f" ({source})" if source else "")
