"""What units compute on data: the values that activations are matched by."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import map_arg

from .._network import ALONE, cast
from .._state import State
from ..symmetry._rules import operation

Values = dict[str, tuple[Tensor, Tensor]]


def values_at_weights(model: nn.Module, state: State, inputs: Tensor) -> Values:
    """What goes into every linear layer and convolution, and what comes out, by its weight.

    Both as a matrix (channels, images and places).
    """
    like = next(x for x in state.values() if x.is_floating_point())
    model, inputs = copy.deepcopy(model).eval().to(like), cast(inputs, like)
    model.load_state_dict(state)
    with ALONE:
        network = torch.export.export(model, (inputs,), strict=False).module()
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
        Recorder(network).run(inputs)
    return values
