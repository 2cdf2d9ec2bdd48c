"""Random numbers from a generator of one's own, where torch would take the global one.

The global generator belongs to the caller, and all threads share it: what is drawn from it depends
on what else runs. Here it is neither moved nor read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ._state import check_generator

_LENDING = threading.RLock()  # what is drawn may itself draw with a generator


def _fresh() -> None:
    """A forked process has none of the threads that may hold the lock."""
    global _LENDING
    _LENDING = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fresh)


class Drawing(TorchDispatchMode):
    """Whatever this thread draws within the block, it draws from one generator.

    Operations that take a generator are given it, those below torch's functions included (dropout,
    attention, a layer's fresh weights): the bits are those of the global generator in that state.
    The few that take none get its state lent, one thread after the other. On another device a
    generator of that device draws, whose seed is drawn from this one.

    Args:
        generator: On the CPU; it moves on as it is drawn from.

    Example:
        >>> with Drawing(torch.Generator().manual_seed(3)):
        ...     first = nn.Linear(2, 2).weight
        >>> _ = torch.manual_seed(3)
        >>> torch.equal(first, nn.Linear(2, 2).weight)
        True
    """

    def __init__(self, generator: torch.Generator) -> None:
        """Nothing is drawn yet."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = generator
        self.others: dict[torch.device, torch.Generator] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether torch puts its compiler, whose import takes seconds, between it and us."""
        return False

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, with the generator if it draws."""
        kwargs = kwargs or {}
        if not _draws(operation) or kwargs.get("generator") is not None:
            return operation(*args, **kwargs)
        device = _device(args, kwargs)
        if device.type == "meta":
            return operation(*args, **kwargs)
        generator = self._on(device)
        if any(argument.name == "generator" for argument in operation._schema.arguments):
            return operation(*args, **{**kwargs, "generator": generator})
        with lent(generator):
            return operation(*args, **kwargs)

    def _on(self, device: torch.device) -> torch.Generator:
        """The generator, or one of another device."""
        if device.type == "cpu":
            return self.generator
        if device not in self.others:
            self.others[device] = torch.Generator(device).manual_seed(seed(self.generator))
        return self.others[device]


@cache
def _draws(operation: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in operation.tags


def same_noise() -> Drawing:
    """What is drawn within is the same at every run, and not from the caller's generator."""
    return Drawing(torch.Generator().manual_seed(0))


def _device(args: Any, kwargs: Any) -> torch.device:
    """Where an operation runs: that of its first tensor, or the one it names."""
    tensors = (x.device for x in args if isinstance(x, Tensor))
    return next(tensors, torch.device(kwargs.get("device") or "cpu"))


@contextmanager
def lent(generator: torch.Generator) -> Iterator[None]:
    """The global generator of a device in the state of this one, which moves on."""
    index = generator.device.index or 0
    common = (
        torch.default_generator
        if generator.device.type == "cpu"
        else torch.cuda.default_generators[index]
    )
    with _LENDING:
        before = common.get_state()
        common.set_state(generator.get_state())
        try:
            yield
        finally:
            generator.set_state(common.get_state())
            common.set_state(before)


def seed(generator: torch.Generator) -> int:
    """A seed for another generator."""
    check_generator(generator)
    return int(torch.randint(2**62, (), generator=generator))


def draws(call: Callable[[], object]) -> bool:
    """Whether a call draws random numbers from where torch would."""
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    with Drawing(generator):
        call()
    return not torch.equal(before, generator.get_state())


def redraw(model: nn.Module, generator: torch.Generator) -> None:
    """Fresh weights for every layer of a model, in place, in the order of its modules.

    Args:
        model: Its modules with weights have ``reset_parameters``, as torch's do.
        generator: Draws them, on the CPU.

    Raises:
        ValueError: If a module has weights that it cannot draw; names it.
    """
    with Drawing(generator):
        for name, module in model.named_modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            elif next(module.parameters(recurse=False), None) is not None:
                raise ValueError(
                    f"{repr(name) if name else 'the model itself'} ({type(module).__name__}) has "
                    "weights and no reset_parameters(); give it this method, which draws them "
                    "afresh in place"
                )
