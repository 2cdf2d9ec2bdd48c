"""States, and what every public function checks of its input, once, at the edge."""

from __future__ import annotations

import hashlib
import math
import operator
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]


#: What a checkpoint calls the state that it holds.
STATES = ("state_dict", "model_state_dict", "model", "net", "state")


def inexact(tensor: Tensor) -> bool:
    """Whether numbers are floating or complex: only these move, counts and orders stay."""
    return tensor.is_floating_point() or tensor.is_complex()


def shown(value: object) -> str:
    """What was given, as an error tells it: in short, if it is long."""
    told = repr(value)
    return f"a {type(value).__name__}" if len(told) > 80 or "\n" in told else told


def check_tensors(state: object) -> None:
    """A state: a mapping of names to tensors; what else is passed in its place is told apart."""
    kind = f"a state dict is wanted, not a {type(state).__name__}"
    if isinstance(state, nn.Module):
        raise ValueError(f"{kind}, which is a model: pass its .state_dict()")
    if isinstance(state, (str, os.PathLike)):
        raise ValueError(
            f"{kind}, which is a path: read it first, safetensors.torch.load_file(path) or "
            "torch.load(path, weights_only=True)"
        )
    if not isinstance(state, Mapping):
        own = isinstance(getattr(state, "state", None), Mapping)
        raise ValueError(f"{kind}{': pass its .state' if own else ': pass model.state_dict()'}")
    for name, value in state.items():
        if not isinstance(name, str):
            raise ValueError(f"a state dict's names are strings, not {shown(name)}")
        if not isinstance(value, Tensor):
            held = [k for k in STATES if isinstance(state.get(k), Mapping)]
            told = (
                f"this is a checkpoint that holds one: pass its [{held[0]!r}]"
                if held
                else "leave it out, or make it a tensor: torch.as_tensor()"
            )
            raise ValueError(
                f"a state dict holds tensors, but {name!r} is a {type(value).__name__}; {told}"
            )


def prefixed(names: Set[str], wanted: Set[str]) -> str:
    """What to do about names that a wrapper of the model has put something before; or nothing."""
    if prefix := _prefix(names, wanted):
        return (
            f"; the names begin with {prefix!r}, as a wrapped model's: "
            f"{{k.removeprefix({prefix!r}): v for k, v in state.items()}}"
        )
    return ""


def _prefix(names: Set[str], wanted: Set[str]) -> str:
    """What most names begin with before one that is wanted, and most of those stand behind."""
    found = Counter(k.removesuffix(w) for w in wanted for k in names if k.endswith(f".{w}"))
    if not found or names & wanted:
        return ""
    prefix, count = max(found.items(), key=lambda item: (item[1], -len(item[0])))
    begin = sum(name.startswith(prefix) for name in names)
    return prefix if 2 * count > len(wanted) and 2 * begin > len(names) else ""


def check_module(model: object) -> None:
    """A network that can be run without its own weights."""
    if not isinstance(model, nn.Module):
        hint = ": state and model are in the wrong order?" if isinstance(model, Mapping) else ""
        raise ValueError(f"model is a {type(model).__name__}, not a torch.nn.Module{hint}")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ValueError(
            f"model is a {type(model).__name__}, which copies its network to devices: pass "
            "model.module, and its state dict"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            f"model is a {type(model).__name__}, a scripted or traced module whose weights cannot "
            "be exchanged: pass the torch.nn.Module that it was made from"
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise ValueError(
                f"{name!r} of the model is lazy and has no shape yet: run the model once on an "
                "example, model(example)"
            )


def check_finite(state: State, moved: Set[str] | None = None) -> None:
    """No tensor of a state holds NaN, and none that is moved (all, if not said) infinite numbers.

    What stays may: the mask of an attention is of minus infinity.
    """
    check_tensors(state)
    for name, tensor in state.items():
        if tensor.is_meta:
            raise ValueError(f"{name!r} is on the meta device, where it has no numbers")
        if not _finite(tensor) and (moved is None or name in moved or tensor.isnan().any()):
            raise ValueError(f"{name!r} contains NaN or infinite numbers")


def _finite(tensor: Tensor) -> bool:
    numbers = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    if not numbers.is_floating_point() or not numbers.numel():
        return True
    # both ends of the range are NaN if one number is
    return bool(torch.stack(numbers.aminmax()).isfinite().all())


def between(a: Tensor, b: Tensor, t: float) -> Tensor:
    """The straight line ``(1 - t) a + t b``; infinite numbers, a mask's, are `a`'s."""
    point = torch.lerp(a, b, t)
    # what is trained is no mask
    return point if point.requires_grad else torch.where(a.isinf(), a, point)


def difference(a: Tensor, b: Tensor) -> Tensor:
    """``b - a``; 0 from infinite numbers, a mask's."""
    return torch.where(a.isinf(), 0.0, b - a)


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

    Integers (an order of units) and infinite numbers (a mask) are part of what a network computes;
    counters are not.
    """
    check_alike(a, b)
    for name, tensor in a.items():
        other = b[name]
        if not (_finite(tensor) and _finite(other)):
            infinite = tensor.isinf() | other.isinf()
            if (infinite & (tensor != other)).any():
                raise ValueError(
                    f"{name!r} contains NaN or infinite numbers that the other state has not: "
                    "no symmetry or path joins the two"
                )
        steers = not (inexact(tensor) or name.endswith("num_batches_tracked"))
        if steers and not torch.equal(tensor, other):
            raise ValueError(
                f"the buffer {name!r} of {tensor.dtype} is not the same in the two states: they "
                "are of two networks, which no symmetry or path joins"
            )


def check_step(a: State, v: State) -> None:
    """A direction at a state: finite, some of its names, in their shapes and precision."""
    check_tensors(a)
    check_finite(v)
    for name, step in v.items():
        if name not in a or step.shape != a[name].shape:
            found = f"has shape {tuple(a[name].shape)}" if name in a else "does not exist"
            raise ValueError(
                f"the direction has {name!r} of shape {tuple(step.shape)}, which {found} in the "
                "state"
            )
        if (step.dtype, step.device) != (a[name].dtype, a[name].device):
            raise ValueError(
                f"{name!r} is {step.dtype} on {step.device} in the direction and {a[name].dtype} "
                f"on {a[name].device} in the state; bring it there with .to()"
            )


def check_alike(a: State, b: State) -> None:
    """Two states have the same names, shapes and precision."""
    for state in (a, b):
        check_tensors(state)
    if missing := sorted(a.keys() ^ b.keys()):
        hint = prefixed(a.keys(), b.keys()) or prefixed(b.keys(), a.keys())
        raise ValueError(f"only one of the two states has {', '.join(missing[:5])}{hint}")
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


def first_names(model: nn.Module) -> dict[str, str]:
    """For every name in the state dict the first name of its tensor: a tied one has several."""
    seen: dict[int, str] = {}
    tensors = model.state_dict(keep_vars=True)
    return {name: seen.setdefault(id(tensor), name) for name, tensor in tensors.items()}


def later_names(model: nn.Module) -> set[str]:
    """Names of tied tensors but the first: a network is run on the first alone."""
    return {name for name, first in first_names(model).items() if name != first}


def check_model(state: State, model: nn.Module) -> None:
    """A state fits a model: no tensor missing, none left over, no other shape."""
    check_module(model)
    check_tensors(state)
    own = model.state_dict()
    hint = prefixed(state.keys(), own.keys())
    if prefix := _prefix(own.keys(), state.keys()):
        hint = (
            f"; the model's names begin with {prefix!r}, it is wrapped: pass the model inside, or "
            f"the state as {{{prefix!r} + k: v for k, v in state.items()}}"
        )
    if missing := sorted(own.keys() - state.keys()):
        raise ValueError(f"the state lacks {', '.join(missing[:5])} of the model{hint}")
    if extra := sorted(state.keys() - own.keys()):
        raise ValueError(
            f"the state has {', '.join(extra[:5])}, which the model has not; if the model is the "
            "right one, leave them out"
        )
    # without numbers, which a model on the meta device has not
    like = {k: (state[k].dtype, state[k].device) for k in own}
    check_alike(
        {k: torch.empty_like(v, dtype=like[k][0], device=like[k][1]) for k, v in own.items()}, state
    )
    for name, first in first_names(model).items():
        tied = name != first and state[name] is not state[first]
        if tied and not torch.equal(state[name], state[first]):
            raise ValueError(
                f"{name!r} and {first!r} are one tensor in the model, tied, but differ in the state"
            )


def digest(tensors: State) -> str:
    """SHA-256 of names, precisions, shapes and numbers, in the order of the names."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()


def check_tensor(name: str, values: object, *, floating: bool) -> None:
    """A tensor of real numbers, of integers if it must not be of floating ones."""
    if not isinstance(values, Tensor):
        raise ValueError(f"{name} is a {type(values).__name__}; it takes a tensor: torch.tensor()")
    kind = "numbers: .float()" if floating else "integers: .long()"
    real = values.dtype != torch.bool and not values.is_complex() and not values.is_meta
    if not real or (not floating and values.is_floating_point()):
        where = " on the meta device" if values.is_meta else ""
        raise ValueError(f"{name} is a tensor of {values.dtype}{where}; it takes {kind}")


def check_whole(name: str, value: object, least: int | None = None) -> int:
    """An integer of any library as one of Python's; `least` is 0 or 1."""
    number = None
    with suppress(TypeError):  # what is no integer is told below
        number = operator.index(value)  # type: ignore[arg-type]
    if number is None or getattr(value, "ndim", None):
        raise ValueError(f"{name} is {shown(value)}; it must be an integer")
    if least is not None and number < least:
        raise ValueError(f"{name} is {number}; it must be {'positive' if least else '0 or more'}")
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name} is {shown(number)}; it must be an integer of 64 bits")
    return number


def check_number(name: str, value: float, *, positive: bool = False) -> float:
    """One number of any library that is finite, and above 0 where it must be."""
    finite = False
    with suppress(TypeError, OverflowError):  # what is no number is told below
        finite = not getattr(value, "ndim", None) and math.isfinite(value)
    if not finite or (positive and value <= 0):
        kind = f"a {'positive ' * positive}finite number"
        raise ValueError(f"{name} is {shown(value)}; it must be {kind}")
    return value


def check_factor(factor: object) -> tuple[float, float]:
    """Times the outputs, at both ends: a positive number, or two."""
    both = factor if isinstance(factor, (tuple, list)) else (factor, factor)
    if len(both) != 2:
        raise ValueError(f"factor is {shown(factor)}; it takes a positive number, or two")
    first, second = (float(check_number("factor", f, positive=True)) for f in both)
    return first, second


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """One of the names that are valid."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {shown(value)}; it can be {', '.join(map(repr, choices))}")


def check_flag(name: str, value: object) -> None:
    """True or False, of any library: a word would count as True, whatever it says."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} is {shown(value)}; it must be True or False")


def check_list(name: str, values: Any, of: str) -> list[Any]:
    """Several of something, of any kind that can be walked, as a list."""
    alone = isinstance(values, (str, bytes, Mapping, nn.Module)) or getattr(values, "ndim", 1) == 0
    if alone or not isinstance(values, Iterable):
        raise ValueError(f"{name} is {shown(values)}; it takes a list of {of}")
    return list(values)


def check_mapping(name: str, values: object, of: str) -> None:
    """Something by name."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} is {shown(values)}; it takes a dict from names to {of}")


def check_generator(generator: object) -> None:
    """A generator of torch: a training draws from no other, on any device."""
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        raise ValueError(
            f"generator is {shown(generator)}; it takes a torch.Generator on the CPU, e.g. "
            "torch.Generator().manual_seed(0)"
        )
