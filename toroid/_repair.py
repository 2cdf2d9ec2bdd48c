"""Units' means and deviations before the activation, and layers that are given others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ._state import State

HOW = ("repair", "rescale")


class Enough(Exception):
    """What a pass was for is seen; the layers behind need not run."""


class Moments:
    """Mean and deviation of each unit of a layer, over all values that are added."""

    def __init__(self) -> None:
        """Nothing is added yet; `calls` are those of one pass, once all passes are done."""
        self.count, self.calls = 0, 0
        self.sums: Any = 0.0

    def add(self, values: Tensor) -> None:
        """Values (numbers, units); sums are of double precision."""
        values = values.detach().double()
        self.count, self.calls = self.count + len(values), self.calls + 1
        self.sums = self.sums + torch.stack([values.sum(0), values.square().sum(0)])

    @property
    def mean(self) -> Tensor:
        """The mean of each unit, (units,)."""
        return self.sums[0] / self.count

    @property
    def deviation(self) -> Tensor:
        """The standard deviation of each unit, (units,); 0 where rounding leaves nothing."""
        mean, square = self.mean, self.sums[1] / self.count
        left = square - mean.square()
        return torch.where(left > 1e-12 * square, left, 0.0).sqrt()

    def towards(self, other: Moments, t: float) -> tuple[Tensor, Tensor]:
        """Mean and deviation between these and others, at `t`."""
        return self.mean.lerp(other.mean, t), self.deviation.lerp(other.deviation, t)


def layers(network: nn.Module, state: State) -> dict[str, nn.Module]:
    """The linear layers and convolutions whose weights stand in the state as they are used."""
    found: dict[str, nn.Module] = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, _ConvNd))
        and type(module).forward.__module__.startswith("torch.")  # weights of ±1 have their own
        and f"{name}.weight".lstrip(".") in state
    }
    if not found:
        raise ValueError(
            "the network has no torch.nn.Linear or convolution to repair, that multiplies by the "
            "weights as they stand in the state"
        )
    return found


def unrepaired(network: nn.Module, state: State) -> list[str]:
    """The other modules with matrices of their own; tables of words and places are no layers."""
    known = layers(network, state).values()
    return [
        name
        for name, module in network.named_modules()
        if module not in known
        and not isinstance(module, (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm))
        and any(_is_matrix(weight) for weight in module.parameters(recurse=False))
    ]


def _is_matrix(weight: Tensor) -> bool:
    return weight.dim() > 1 and len(weight) > 1 and weight[0].numel() > 1


@contextmanager
def watched(
    modules: dict[str, nn.Module], until: str | None = None, calls: int = 0
) -> Iterator[dict[str, Moments]]:
    """The moments of layers' outputs while they run, in the order of their first calls.

    With `until`, only those of that layer; after its `calls` calls the pass is cut by `Enough`.
    """
    seen: dict[str, Moments] = {}

    def see(name: str, module: nn.Module, _: Any, values: Tensor) -> None:
        units = -1 if isinstance(module, nn.Linear) else -1 - len(module.kernel_size)  # type: ignore
        found = seen.setdefault(name, Moments())
        found.add(values.movedim(units, -1).reshape(-1, values.shape[units]))
        if until is not None and found.calls % calls == 0:
            raise Enough

    chosen = modules if until is None else {until: modules[until]}
    handles = [m.register_forward_hook(partial(see, name)) for name, m in chosen.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def moved(
    state: State, name: str, module: nn.Module, own: Moments, goal: tuple[Tensor, Tensor], how: str
) -> dict[str, Tensor]:
    """The state in which a layer's units have the goal's deviations and, to repair, its means.

    ``y' = s (y - m) + m'`` with ``s = σ'/σ``, or ``y' = s y``; a unit that does not vary has s = 1.
    """
    key, shift = f"{name}.weight".lstrip("."), f"{name}.bias".lstrip(".")
    mean, deviation = goal
    varies = (own.deviation > 0) & (deviation > 0)
    factor = torch.where(varies, deviation / torch.where(varies, own.deviation, 1.0), 1.0)
    weight, bias = state[key], state.get(shift)
    result = {**state, key: _scaled(weight, module, factor)}
    if how == "repair":
        if bias is None:
            raise ValueError(
                f"the layer {name!r} has no bias to move its units' means by; "
                "how='rescale' sets their deviations alone"
            )
        # of this form nothing changes, to the last bit, where nothing has to
        change = (factor - 1) * (bias - own.mean) + (mean - own.mean)
        result[shift] = (bias + change).to(bias)
    elif bias is not None:
        result[shift] = (bias * factor).to(bias)
    return result


def _scaled(weight: Tensor, module: nn.Module, factor: Tensor) -> Tensor:
    """A weight, the rows of each unit times its factor."""
    if not isinstance(module, _ConvTransposeNd):  # (units, inputs, ...)
        return (weight * factor.view(-1, *[1] * (weight.dim() - 1))).to(weight)
    groups = weight.unflatten(0, (module.groups, -1))  # (groups, inputs, units, ...)
    factors = factor.view(module.groups, 1, -1, *[1] * (weight.dim() - 2))
    return (groups * factors).flatten(0, 1).to(weight)
