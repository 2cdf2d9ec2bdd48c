"""The walk through an exported graph, with labels instead of numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import map_arg

from .._network import ALONE, UnsupportedError, check_computed, structure
from ._labels import KINDS, OUTPUT, Label, Trace, Weight, still
from ._rules import RULES, operation


def export(model: nn.Module, example: Any) -> ExportedProgram:
    """The graph of a model in evaluation mode, on an example or a tuple of inputs."""
    _check_names(model)
    check_computed(model)
    inputs = example if isinstance(example, tuple) else (example,)
    with ALONE:
        return torch.export.export(structure(model), inputs, strict=False)


def precision(exported: ExportedProgram) -> torch.dtype:
    """The lowest precision that the graph casts numbers to by name; float64 if there is none."""
    lowest, computed = torch.float64, set[Node]()
    for node in exported.graph.nodes:
        if node.op == "placeholder" or not computed.isdisjoint(node.all_input_nodes):
            computed.add(node)
            for x in (*node.args, *node.kwargs.values()):
                if isinstance(x, torch.dtype) and x.is_floating_point:
                    lowest = max(lowest, x, key=lambda dtype: torch.finfo(dtype).eps)
    return lowest


def trace(exported: ExportedProgram, saved: Collection[str], strict: bool = True) -> Trace:
    """Run a graph on labels and collect what it says; `saved` are the names in the state dict."""
    result, values = Trace(), _placeholders(exported, saved)
    for node in exported.graph.nodes:
        if node.op == "call_function":
            values[node] = _call(result, node, values, strict)
        elif node.op == "output":
            outputs = map_arg(node.args, values.__getitem__)
            for weight in _find(Weight, outputs):
                result.untouchable[weight.name] = "output"
            _finish(result, _find(Label, outputs))
            if _find(Weight, outputs) or _find(Tensor, outputs):  # a factor would pass them by
                result.freeze("scale", torch.tensor([OUTPUT]), "an output that is a constant")
    return result


def _check_names(model: nn.Module) -> None:
    """One name for each tensor: a state with two names for one cannot be told apart."""
    seen: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first = seen.setdefault(id(tensor), name)
        if first != name:
            raise UnsupportedError(
                f"{first!r} and {name!r} are one tensor under two names. Give the shared "
                "module one name, and call it twice"
            )


def _placeholders(exported: ExportedProgram, saved: Collection[str]) -> dict[Node, Any]:
    """What the graph begins with: weights by name, constants as they are, inputs that stay."""
    values: dict[Node, Any] = {}
    signature, state = exported.graph_signature, exported.state_dict
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = {**exported.constants, **state}
    lifted = signature.inputs_to_lifted_tensor_constants
    for node in exported.graph.find_nodes(op="placeholder"):
        name = names.get(node.name) or lifted.get(node.name)
        number = constants.get(name) if name else None
        if name in saved and number is not None and number.is_floating_point():
            values[node] = Weight(name, number.shape, node.name in signature.inputs_to_buffers)
        elif number is not None:
            values[node] = number.detach().clone()
        else:
            values[node] = still(getattr(node.meta["val"], "shape", ()))
    return values


def _call(result: Trace, node: Node, values: dict[Node, Any], strict: bool) -> Any:
    args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
    if not _find(Label, (args, kwargs)) and not _find(Weight, (args, kwargs)):
        return node.target(*args, **kwargs)  # type: ignore[operator]  # constants only
    try:
        if node.target not in RULES:
            raise UnsupportedError("there is no rule for it")
        return RULES[node.target](result, node, *args, **kwargs)
    except (UnsupportedError, AttributeError, IndexError, RuntimeError, TypeError) as error:
        # the others: an operation that has a rule, in a form that the rule was not written for
        message = f"{operation(node)!r} is not understood ({error}), at {place(node)}"
        if strict:
            raise UnsupportedError(
                f"cannot read the symmetries of this network: {message}. Pass strict=False to "
                "leave the units that meet here as they are."
            ) from None
        return _leave(result, node, args, kwargs, message)


def _leave(result: Trace, node: Node, args: Any, kwargs: Any, message: str) -> Any:
    """Freeze all that an unknown operation touches: leaving it as it is is always exact."""
    result.refused.append(message)
    for label in _find(Label, (args, kwargs)):
        for kind in KINDS:
            result.freeze(kind, getattr(label, kind), operation(node))
    for weight in _find(Weight, (args, kwargs)):
        result.untouchable[weight.name] = operation(node)
    value = node.meta["val"]
    return (
        [still(v.shape) for v in value] if isinstance(value, (list, tuple)) else still(value.shape)
    )


def _finish(result: Trace, outputs: Iterable[Label]) -> None:
    """Classes keep their places; one positive factor on all outputs does not change the argmax."""
    places = defaultdict(set)
    for name, dim, span, _ in result.slots:
        places[name].add((dim, span))
    for (
        name,
        found,
    ) in places.items():  # rows and columns, or blocks, or single numbers: no two of these
        if any(span > 1 for _, span in found) and len(found) > 1 and found != {(0, 1), (0, 2)}:
            result.untouchable.setdefault(name, "a weight that is used in two ways")
    for slot in result.slots.values():
        if slot.parameter in result.untouchable:
            for kind in KINDS:
                result.freeze(kind, torch.from_numpy(slot.ids), result.untouchable[slot.parameter])
    for label in outputs:
        result.freeze("unit", label.unit, "classes")
        result.freeze("sign", label.sign, "classes")
        result.tie("scale", label.scale, torch.tensor(OUTPUT))


def _find(kind: type, tree: Any) -> list:
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
