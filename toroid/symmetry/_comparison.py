"""Two states of one network: the same function?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from .._network import Outputs, cast, plain, run, selected, structure
from .._random import same_noise
from .._state import State, check_choice, check_model, first_names
from ._reading import arguments, check_outputs, settled, taken, untouched


@dataclass(frozen=True)
class Report:
    """How two states of one network compare on an input.

    Attributes:
        difference: Largest difference of the outputs, after the factor, over the largest output.
        factor: The positive factor between the outputs (least squares); 1 where none is allowed.
        agreement: Fraction of inputs with the same predicted class; of networks with one output,
            with outputs of the same sign.
        tolerance: Largest `difference` that counts as the same function.
    """

    difference: float
    factor: float
    agreement: float
    tolerance: float

    def __bool__(self) -> bool:
        """Whether the outputs agree up to one positive factor."""
        return self.factor > 0 and self.difference <= self.tolerance


def same_function(
    model: nn.Module,
    before: State,
    after: State,
    example: Tensor | tuple[Any, ...] | Mapping[str, Any],
    *,
    tolerance: float | None = None,
    output: str = "factor",
    outputs: Outputs = None,
) -> Report:
    """Compare two states of a network on an input: equal up to one positive factor?

    A factor changes no classifier's predictions, but a regressor's: for those, and for networks
    normalised with ``output="keep"``, none is allowed.

    Args:
        model: The network, run in evaluation mode; it is not changed.
        before: State dict.
        after: State dict to compare with it.
        example: Inputs, batch first, a tuple of them, or a dict by name, as in `find_symmetries`;
            not changed, but cast to the precision of the states.
        outputs: Of the model's outputs those that count, as ``lambda out: out["logits"]``; by
            default all of them.
        tolerance: Relative; by default the square root of the machine epsilon (1.5e-8 in float64).
        output: ``"factor"``, or ``"keep"``: the outputs themselves must be the same.

    Returns:
        A `Report`, true if the outputs agree.

    Raises:
        ValueError: If a state does not fit the model, the example holds none, or `output` is
            another word.

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> doubled = {k: 2 * v if k.startswith("3") else v for k, v in model.state_dict().items()}
        >>> report = same_function(model, model.state_dict(), doubled, x)
        >>> bool(report), round(report.factor, 3)
        (True, 2.0)
    """
    for state in (before, after):
        check_model(state, model)
    check_choice("output", output, ("factor", "keep"))
    check_outputs(outputs)
    inputs = taken(model, example)
    network = selected(structure(model), outputs)
    with untouched(model):
        said = each_alone(network, before, inputs)
        first, second = said(before, inputs), said(after, inputs)
    least = torch.finfo(first.dtype).eps ** 0.5 if tolerance is None else tolerance
    return compare(first, second, least, keep=output == "keep")


def compare(first: Tensor, second: Tensor, tolerance: float, keep: bool = False) -> Report:
    """How two matrices of outputs (inputs, numbers) compare, up to the best factor between them."""
    dot, norm = (first * second).sum(), (first * first).sum()
    factor = float(dot / norm) if norm > 0 and not keep else 1.0
    size = float((factor * first).abs().max())
    difference = float((second - factor * first).abs().max()) / (size or 1.0)
    said = [x.argmax(1) if x.shape[1] > 1 else x[:, 0] > 0 for x in (first, second)]
    agreement = float((said[0] == said[1]).double().mean())
    return Report(difference, factor, agreement, tolerance)


def each_alone(network: nn.Module, state: State, inputs: Any) -> Callable[[State, Any], Tensor]:
    """From a state and inputs to the outputs, whatever was run before; all draw the same noise."""
    kept = settled(network, lambda: outputs_of(network, state, inputs))

    def said(state: State, inputs: Any) -> Tensor:
        try:
            with same_noise():
                return outputs_of(network, state, inputs)
        finally:
            kept.forget()

    return said


@torch.no_grad()
def outputs_of(network: nn.Module, state: State, inputs: Any) -> Tensor:
    """All outputs for each input, as a matrix (inputs, numbers); `inputs` as `taken` gives them."""
    like = next(v for v in state.values() if v.is_floating_point())
    unsaved = {  # buffers that a state does not hold
        k: v.to(like)
        for k, v in network.named_buffers()
        if k not in state and v.is_floating_point()
    }
    counters = {k: v.clone() for k, v in state.items() if not v.is_floating_point()}
    args, named = tree_map(partial(cast, like=like), arguments(inputs))
    first = first_names(network)  # of a tensor with several names one is given
    given = {k: v for k, v in {**unsaved, **state, **counters}.items() if first.get(k, k) == k}
    outputs = tree_leaves(plain(run(network, given, args, named)))
    tensors = [out for out in outputs if isinstance(out, Tensor)]
    rows = next((len(out) for out in tensors if out.dim()), 1)
    matrices = [
        out.reshape(rows, -1)
        if out.dim() and len(out) == rows
        else out.reshape(1, -1).expand(rows, -1)
        for out in tensors
    ]
    return torch.cat(matrices, 1)
