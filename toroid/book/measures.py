"""What pages measure beside the package's own functions: random networks, losses, lengths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from .._network import Outputs
from .._state import State, first_names
from ..data import Dataset
from ..paths import Path
from ..symmetry import Scale, Symmetry, flip, permute, same_function

__all__ = [
    "apart", "found_again", "gap", "loss", "moved", "norm", "outputs", "outside",
    "precision", "random_element", "random_factors", "random_state", "returned", "rms", "shrunk",
]  # fmt: skip

#: Permutations, factors and signs, by the names of groups and scales.
Element = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]


def random_state(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Random numbers for every tensor, in float64, of a size that keeps activations of order one.

    Args:
        model: The network; it is not changed.
        generator: Draws them, in the order of the state dict.

    Returns:
        A state; running variances are positive, what is no floating-point number is the model's,
        and a tensor of two names is one.
    """
    state: dict[str, Tensor] = {}
    first = first_names(model)
    for name, tensor in model.state_dict().items():
        if first[name] != name:
            tensor = state[first[name]]
        elif tensor.is_floating_point():
            fan_in = tensor[0].numel() if tensor.dim() > 1 else 1
            tensor = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor = tensor / fan_in**0.5
            tensor = tensor.abs() + 0.1 if name.endswith("running_var") else tensor
        state[name] = tensor
    return state


def random_factors(
    scales: Iterable[Scale],
    generator: torch.Generator,
    spread: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Log-normal factors for each scale: ``exp(spread · z)`` with standard normal z, (units,).

    Args:
        scales: Of a symmetry, in the order of the draws.
        generator: Draws them.
        spread: Standard deviation of their logarithms.
        dtype: Of the numbers.
    """
    return {
        s.name: (spread * torch.randn(len(s.axes[0].index), generator=generator, dtype=dtype)).exp()
        for s in scales
    }


def random_element(
    symmetry: Symmetry,
    generator: torch.Generator,
    spread: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Element:
    """A random element of a symmetry group.

    Args:
        symmetry: From `toroid.find_symmetries`.
        generator: Draws permutations, then factors, then signs.
        spread: As in `random_factors`.
        dtype: Of the factors.

    Returns:
        Permutations of each group, factors for each scale, signs of each group that can flip.
    """
    permutations = {g.name: torch.randperm(g.size, generator=generator) for g in symmetry.groups}
    factors = random_factors(symmetry.scales, generator, spread, dtype)
    signs = {
        g.name: 1 - 2 * torch.randint(2, (g.size,), generator=generator)
        for g in symmetry.groups
        if g.flip
    }
    return permutations, factors, signs


def moved(
    state: State,
    permutations: Mapping[str, Tensor],
    signs: Mapping[str, Tensor],
    symmetry: Symmetry,
) -> dict[str, Tensor]:
    """A state permuted, then flipped: what an alignment does, on another state.

    Args:
        state: State dict; it is not changed.
        permutations: As `toroid.Alignment` has them.
        signs: Likewise, of the units after the permutations.
        symmetry: From `toroid.find_symmetries`.
    """
    return flip(permute(state, permutations, symmetry), signs, symmetry)


def gap(a: State, b: State) -> float:
    """The largest difference between the numbers of two states.

    Example:
        >>> gap({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 2.5])})
        0.5
    """
    return max(float((a[k] - b[k]).abs().max()) for k in a)


def norm(state: State) -> float:
    """That of all weights, without biases; BatchNorm's γ is a weight.

    Example:
        >>> norm({"1.weight": torch.tensor([[3.0, 4.0]]), "1.bias": torch.ones(1)})
        5.0
    """
    return sum(float(v.square().sum()) for k, v in state.items() if k.endswith("weight")) ** 0.5


def apart(a: State, b: State, names: Sequence[str]) -> float:
    """Distance of two networks over the mean of their norms: ``2 |a - b| / (|a| + |b|)``.

    Args:
        a: State dict.
        b: Another.
        names: The tensors that count, e.g. the parameters.

    Example:
        >>> a, b = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([-1.0, 0.0])}
        >>> apart(a, b, ["w"])
        2.0
    """
    x, y = (torch.cat([state[name].flatten() for name in names]) for state in (a, b))
    return float(2 * (x - y).norm() / (x.norm() + y.norm()))


def rms(angles: Iterable[Tensor]) -> float | None:
    """Root mean square over all units; None without any.

    Args:
        angles: As `toroid.angles` gives them, a tensor (units,) for each sphere.

    Example:
        >>> rms([torch.tensor([1.0]), torch.tensor([7.0])]), rms([])
        (5.0, None)
    """
    flat = [v.flatten() for v in angles]
    return float(torch.cat(flat).square().mean().sqrt()) if flat else None


@torch.no_grad()
def outputs(state: State, model: nn.Module, images: Tensor) -> Tensor:
    """What a network says to images, in evaluation mode, (images, classes).

    Args:
        state: State dict.
        model: The network; only its mode changes.
        images: As a batch.
    """
    parts = [functional_call(model.eval(), dict(state), (x,)) for x in images.split(1000)]
    return torch.cat(parts)


def loss(state: State, model: nn.Module, data: Dataset, factor: float = 1.0) -> float:
    """Mean cross-entropy of a network's outputs over a factor, in nats.

    Args:
        state: State dict, on the device of the data.
        model: The network; only its mode changes.
        data: Images and labels.
        factor: What the outputs are divided by, one over a temperature.
    """
    return float(cross_entropy(outputs(state, model, data.images) / factor, data.labels))


def found_again(planted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """The fraction of units whose planted place was found.

    Args:
        planted: For each group, the permutation that was applied to a network.
        found: For each group, the one that brings the copy back.

    Example:
        >>> planted = {"1": torch.tensor([2, 0, 1])}
        >>> found_again(planted, {"1": torch.tensor([1, 2, 0])})
        1.0
    """
    hits = [p[found[name]] == torch.arange(len(p)) for name, p in planted.items()]
    return float(torch.cat(hits).double().mean())


def returned(
    state: State,
    planted: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    symmetry: Symmetry,
) -> float:
    """The fraction of units that are back in their place: also of those inside units that moved.

    Args:
        state: Of the network; only its shapes matter.
        planted: For each group, the permutation that was applied to a network.
        found: For each group, the one that brings the copy back.
        symmetry: From `toroid.find_symmetries`.

    Example:
        >>> import toroid
        >>> model = toroid.mlp((1, 8, 8), classes=10, hidden=(3,))
        >>> symmetry = toroid.find_symmetries(model, torch.zeros(1, 1, 8, 8))
        >>> planted, back = {"1": torch.tensor([2, 0, 1])}, {"1": torch.tensor([1, 2, 0])}
        >>> returned(model.state_dict(), planted, back, symmetry)
        1.0
    """
    hits = []
    for dim, span in {(axis.dim, axis.span) for g in symmetry.groups for axis in g.axes[:1]}:
        places = {k: _places(v, dim, span) for k, v in state.items()}
        after = permute(permute(places, planted, symmetry), found, symmetry)
        for axis in (g.axes[0] for g in symmetry.groups if g.axes):
            if (axis.dim, axis.span) == (dim, span):
                same = axis.rows(after[axis.parameter]) == axis.rows(places[axis.parameter])
                hits.append(same.all(1))
    return float(torch.cat(hits).double().mean())


def _places(tensor: Tensor, dim: int, span: int) -> Tensor:
    """Everywhere the position along some dimensions as one; zeros where there are none."""
    if tensor.dim() <= dim:
        return torch.zeros(tensor.shape)
    shape = tensor.shape[dim : dim + span]
    places = torch.arange(float(shape.numel())).reshape(shape)
    return places[(..., *[None] * (tensor.dim() - dim - len(shape)))].expand(tensor.shape)


class _Casts(TorchDispatchMode):
    """Remembers the lowest precision that numbers of float64 were cast to."""

    lowest = torch.float64

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = any(isinstance(x, Tensor) and x.dtype == torch.float64 for x in args)
        if given and isinstance(out, Tensor) and out.is_floating_point():
            self.lowest = max(self.lowest, out.dtype, key=lambda dtype: torch.finfo(dtype).eps)
        return out


@torch.no_grad()
def precision(model: nn.Module, state: State, example: Any) -> torch.dtype:
    """The lowest precision in which a network computes, of a state in float64.

    Transformers' norms cast to float32 whatever they are given.

    Args:
        model: The network; only its mode changes.
        state: State dict in float64.
        example: An input, or a tuple of them, in float64 where it is no integer.

    Example:
        >>> layer = torch.nn.Linear(2, 2).double()
        >>> precision(layer, layer.state_dict(), torch.zeros(1, 2).double())
        torch.float64
    """
    with _Casts() as casts:  # type: ignore[no-untyped-call]
        same_function(model, state, state, example)
    return casts.lowest


def outside(
    model: nn.Module, symmetry: Symmetry, example: Any, outputs: Outputs = None
) -> dict[str, list[int]]:
    """Hidden units that are in no group, and rows of layers that no output depends on; and why.

    Args:
        model: The network; only its mode changes.
        symmetry: Its own.
        example: An input, or a tuple of them.
        outputs: Of the model's outputs those that count, as `toroid.find_symmetries` takes it.

    Returns:
        By reason, how many units or rows each such layer has.

    Example:
        >>> import toroid
        >>> model = toroid.mlp((1, 8, 8), classes=10, hidden=(3,))
        >>> image = torch.zeros(1, 1, 8, 8)
        >>> outside(model, toroid.find_symmetries(model, image), image)
        {}
    """
    found: dict[str, list[int]] = {}
    for stay in symmetry.stays:
        found.setdefault(stay.why, []).append(stay.size)
    if idle := _idle(model, example, outputs):
        found["no output depends on it"] = idle
    return found


def _idle(model: nn.Module, example: Any, outputs: Outputs) -> list[int]:
    """Rows of each linear or convolutional layer that no output depends on, however it is used."""
    layers = [k for k, m in model.named_modules() if isinstance(m, (nn.Linear, *_CONVOLUTIONS))]
    held = dict(model.named_parameters())
    weights = {k: held[k].detach().requires_grad_() for k in (f"{k}.weight" for k in layers)
               if k in held}  # fmt: skip
    if not weights:
        return []
    out = functional_call(model.eval(), weights, example)
    out = outputs(out) if outputs else out
    grads = torch.autograd.grad(out.sum(), [*weights.values()], allow_unused=True)
    return [len(w) for w, grad in zip(weights.values(), grads, strict=True) if grad is None]


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def shrunk(path: Path, symmetry: Symmetry, least: float) -> Path:
    """A path with smaller biases: half way units say less, and biases would outweigh them.

    Those of the layer at depth l, from 1 on, are multiplied by ``r(t)^l``, where
    ``r(t) = 1 - 4 (1 - least) t (1 - t)``: 1 at both ends, `least` half way.

    Args:
        path: Between two networks whose layers follow one another.
        symmetry: Theirs.
        least: From 0 to 1.

    Example:
        >>> import toroid
        >>> model = toroid.mlp((4,), classes=3, hidden=(5,))
        >>> symmetry = toroid.find_symmetries(model, torch.zeros(1, 4))
        >>> ones = {k: torch.ones_like(v) for k, v in model.state_dict().items()}
        >>> half = shrunk(toroid.Linear(ones, ones), symmetry, 0.5)(0.5)
        >>> [half[name].mean().item() for name in ("1.weight", "1.bias", "3.bias")]
        [1.0, 0.5, 0.25]
    """
    depths = {
        axis.parameter: depth
        for depth, group in enumerate(symmetry.all_groups, 1)
        for scale in group.scales
        for axis in scale.axes
        if axis.role == "bias" or group is symmetry.output  # whose bias is part of its vector
    }

    def moved(t: float) -> dict[str, Tensor]:
        r = 1 - 4 * (1 - least) * t * (1 - t)
        state = path(t)
        biases = {k: v for k, v in state.items() if k in depths and v.dim() == 1}
        return state | {k: r ** depths[k] * v for k, v in biases.items()}

    return moved
