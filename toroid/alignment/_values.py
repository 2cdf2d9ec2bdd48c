"""What units compute on data: the values that activations are matched by."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves, tree_map

from .._batches import Batches, Data
from .._network import ALONE, cast
from .._state import State
from ..symmetry._rules import operation
from ..tasks import Task

Values = dict[str, tuple[Tensor, Tensor]]


def values_on(model: nn.Module, state: State, data: Data, task: Task) -> Values:
    """Those of all batches of some data, side by side."""
    batches = Batches(data, task, 250, model)
    found = [values_at_weights(model, state, batch.arguments, batch.named) for batch in batches]
    return {
        name: (torch.cat([f[name][0] for f in found], 1), torch.cat([f[name][1] for f in found], 1))
        for name in found[0]
    }


def values_at_weights(
    model: nn.Module, state: State, inputs: tuple[Any, ...], named: dict[str, Any] | None = None
) -> Values:
    """What goes into every linear layer and convolution, and what comes out, by its weight.

    Both as a matrix (channels, images and places).
    """
    like = next(x for x in state.values() if x.is_floating_point())
    model = copy.deepcopy(model).eval().to(like)
    inputs, named = tree_map(partial(cast, like=like), (inputs, named or {}))
    model.load_state_dict(state)
    with ALONE:
        network = torch.export.export(model, inputs, named, strict=False).module()
    values: Values = {}

    def channels(x: Tensor, weight: Tensor) -> Tensor:
        return x.movedim(x.dim() + 1 - weight.dim(), 0).flatten(1)

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: Any) -> Any:
            result = super().run_node(n)
            if n.op == "call_function" and operation(n).startswith(("linear", "conv")):
                x, weight = map_arg(n.args[:2], self.env.__getitem__)
                source = n.args[1]
                if operation(source) == "sign":  # a binary layer: the weight is behind its signs
                    source = source.args[0]
                values[str(source.target)] = channels(x, weight), channels(result, weight)
            return result

    with torch.no_grad():
        Recorder(network).run(*tree_leaves((inputs, named)))
    return values
