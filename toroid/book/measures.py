"""What pages measure beside the package's own functions: random networks, losses, lengths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from .._state import State
from ..data import Dataset
from ..symmetry import Scale, Symmetry, flip, permute

__all__ = [
    "apart", "found_again", "gap", "loss", "moved", "norm", "outputs", "outside",
    "random_element", "random_factors", "random_state", "returned", "rms",
]  # fmt: skip

#: Permutations, factors and signs, by the names of groups and scales.
Element = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]


def random_state(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Random numbers for every tensor, in float64, of a size that keeps activations of order one.

    Args:
        model: The network; it is not changed.
        generator: Draws them, in the order of the state dict.

    Returns:
        A state; running variances are positive, what is no floating-point number is the model's.
    """
    state = {}
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
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


def outside(model: nn.Module, symmetry: Symmetry, example: Tensor) -> dict[str, list[int]]:
    """Rows of linear and convolutional layers that are no unit of a group, and why.

    Args:
        model: The network; only its mode changes.
        symmetry: Its own.
        example: An input.

    Returns:
        By reason, how many rows each such layer has.

    Example:
        >>> import toroid
        >>> model = toroid.mlp((1, 8, 8), classes=10, hidden=(3,))
        >>> image = torch.zeros(1, 1, 8, 8)
        >>> outside(model, toroid.find_symmetries(model, image), image)
        {}
    """
    covered: dict[str, set[int]] = {}
    every = (axis for group in symmetry.all_groups for axis in group.axes)
    for axis in (axis for axis in every if axis.dim == 0 and axis.span == 1):  # rows
        covered.setdefault(axis.parameter, set()).update(axis.positions.flatten().tolist())
    called: set[str] = set()
    layers = {k: m for k, m in model.named_modules() if isinstance(m, (nn.Linear, *_CONVOLUTIONS))}
    hooks = [m.register_forward_pre_hook(lambda *_, k=k: called.add(k)) for k, m in layers.items()]
    with torch.no_grad():
        model.eval()(example)
    for hook in hooks:
        hook.remove()
    found: dict[str, list[int]] = {}
    for name, layer in layers.items():
        if left := len(layer.weight) - len(covered.get(f"{name}.weight", ())):
            reason = "can be exchanged with no other" if name in called else "used in training only"
            found.setdefault(reason, []).append(left)
    return found


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
