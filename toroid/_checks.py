"""What every public function checks of its input, once, at the edge."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .data import Dataset

if TYPE_CHECKING:
    from ._groups import Group, Symmetry

State = Mapping[str, Tensor]
BIASES = ("euclidean", "joint")


def check_state(state: State, symmetry: Symmetry) -> None:
    """A state has every tensor that the symmetry speaks of, in the right size."""
    if not hasattr(symmetry, "all_groups"):
        raise ValueError(f"symmetry is {symmetry!r:.80}; it takes what find_symmetries returns")
    for group in symmetry.all_groups:
        for axis in group.axes:
            if axis.parameter not in state:
                raise ValueError(
                    f"the state has no tensor {axis.parameter!r} for group {group.name!r}; "
                    "was the symmetry found on another network?"
                )
            shape = state[axis.parameter].shape
            found = shape[axis.dim : axis.dim + axis.span].numel()
            needed = axis.extent or max(found, 1 + int(axis.positions.max()))
            if found != needed:
                raise ValueError(
                    f"{axis.parameter!r} has shape {tuple(shape)}, but group {group.name!r} "
                    f"indexes {needed} places of dimension {axis.dim}; was the "
                    "symmetry found on another network?"
                )


def check_finite(state: State) -> None:
    """No tensor of a state holds NaN or infinite numbers."""
    for name, tensor in state.items():
        floating = tensor.is_floating_point() and tensor.numel()
        # both ends of the range are NaN if one number is
        if floating and not torch.stack(tensor.aminmax()).isfinite().all():
            raise ValueError(f"{name!r} contains NaN or infinite numbers")


def check_binary(state: State) -> None:
    """Every floating number of a state is 1 or -1."""
    for name, tensor in state.items():
        other = tensor[tensor.abs() != 1]
        if tensor.is_floating_point() and len(other):
            raise ValueError(
                f"{name!r} holds {float(other[0]):.3g}, one of {len(other)} numbers that are not "
                "1 or -1; toroid.binary.signs makes a binary network's state one of ±1"
            )


def check_pair(a: State, b: State) -> None:
    """Two states belong to one network: names, shapes, precision, and numbers that are no weights.

    Integers (an order of units, a mask) are part of what a network computes; counters are not.
    """
    check_alike(a, b)
    for name, tensor in a.items():
        steers = not (tensor.is_floating_point() or name.endswith("num_batches_tracked"))
        if steers and not torch.equal(tensor, b[name]):
            raise ValueError(
                f"the buffer {name!r} of {tensor.dtype} is not the same in the two states: they "
                "are of two networks, which no symmetry or path joins"
            )


def check_alike(a: State, b: State) -> None:
    """Two states have the same names, shapes and precision."""
    if missing := sorted(a.keys() ^ b.keys()):
        raise ValueError(f"only one of the two states has {', '.join(missing[:5])}")
    for name, tensor in a.items():
        if tensor.shape != b[name].shape:
            raise ValueError(
                f"{name!r} has shape {tuple(tensor.shape)} in one state and "
                f"{tuple(b[name].shape)} in the other"
            )
        if (tensor.dtype, tensor.device) != (b[name].dtype, b[name].device):
            raise ValueError(
                f"{name!r} is {tensor.dtype} on {tensor.device} in one state and {b[name].dtype} "
                f"on {b[name].device} in the other; bring them to one with .to()"
            )


def check_model(state: State, model: nn.Module) -> None:
    """A state fits a model: no tensor missing, none left over, no other shape."""
    kinds = {k: v.to(state[k]) if k in state else v for k, v in model.state_dict().items()}
    check_alike(kinds, state)


def check_data(data: object) -> None:
    """Images and labels as two tensors, at least one of each."""
    if not isinstance(data, Dataset):
        raise ValueError(
            f"data are a {type(data).__name__}; they take a toroid.data.Dataset(images, labels, "
            "classes) of two tensors. From a loader: images, labels = map(torch.cat, zip(*loader))"
        )
    if not len(data):
        raise ValueError(f"the data set {data.name!r} is empty")


def check_units(symmetry: Symmetry, name: str, permutation: Tensor) -> Group:
    """A permutation holds every unit of a group once; returns the group."""
    check_tensor(f"the permutation of {name!r}", permutation, floating=False)
    groups = {group.name: group for group in symmetry.groups}
    if name not in groups:
        raise ValueError(f"no group {name!r} to permute; there are {', '.join(groups)}")
    size = groups[name].size
    if permutation.shape != (size,) or not torch.equal(
        permutation.sort().values.cpu(), torch.arange(size)
    ):
        raise ValueError(
            f"group {name!r} takes a permutation of its {size} units (0 to {size - 1}, each once), "
            f"got a tensor of shape {tuple(permutation.shape)}: {permutation.tolist()[:8]}"
        )
    return groups[name]


def check_tensor(name: str, values: object, *, floating: bool) -> None:
    """A tensor, of integers if it must not be of floating numbers."""
    if not isinstance(values, Tensor):
        raise ValueError(f"{name} is a {type(values).__name__}; it takes a tensor: torch.tensor()")
    if not floating and (values.is_floating_point() or values.dtype == torch.bool):
        raise ValueError(f"{name} is a tensor of {values.dtype}; it takes integers: .long()")


def check_whole(name: str, value: object, least: int | None = None) -> int:
    """An integer of any library as one of Python's; `least` is 0 or 1."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"{name} is {value!r}; it must be an integer") from None
    if least is not None and number < least:
        raise ValueError(f"{name} is {number}; it must be {'positive' if least else '0 or more'}")
    return number


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """One of the names that are valid."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it can be {', '.join(map(repr, choices))}")
