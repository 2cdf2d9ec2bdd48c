"""A network is read and run: torch is quiet about it, and the caller's model stays as it is."""

from __future__ import annotations

import copy
import inspect
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import transformer
from torch.utils._pytree import tree_leaves, tree_map

from .._network import ALONE, Kept, Restored, cast, named_in, structure
from .._random import same_noise

MISSING = object()


@contextmanager
def reading(model: nn.Module) -> Iterator[None]:
    """What is exported within is of this model, or of a copy; what goes wrong is an error alone."""
    from torch.export import _trace  # brings SymPy along, which only an export needs

    with (
        ALONE, untouched(model), _quiet(), warnings.catch_warnings(),
        _instead(transformer, "_detect_is_causal_mask", _flagged()),
        _instead(_trace, "print", lambda *words, **where: None),  # the graph, up to where it failed
    ):  # fmt: skip
        # what a module keeps for later is no concern of the graph
        warnings.filterwarnings("ignore", r"(?s)The tensor attribute", UserWarning)
        yield


def _flagged() -> Callable[..., bool]:
    """In this thread a mask is causal if it is said to be: its numbers choose a kernel alone."""
    before, thread = transformer._detect_is_causal_mask, threading.get_ident()

    def causal(mask: Any, flag: Any = None, size: Any = None) -> bool:
        return flag is True if threading.get_ident() == thread else before(mask, flag, size)

    return causal


def settled(network: nn.Module, call: Callable[[], Any]) -> Kept:
    """What modules keep between calls; what an earlier pass left of a state is taken away."""
    kept = Kept(network)
    if not kept.settled:
        with same_noise(), torch.no_grad():
            kept.settle(call)
    return kept


def check_outputs(outputs: object) -> None:
    """Which outputs count is said by a function."""
    if outputs is not None and not callable(outputs):
        raise ValueError(
            f"outputs is {outputs!r}; it takes a function of what the model says, as "
            'lambda out: out["logits"]'
        )


def taken(model: nn.Module, example: Any) -> Any:
    """An example as the network takes it: a dict holds arguments by name, a tuple by place.

    A dict is by name where `forward` knows its names, as in data, and does not take it as it is.
    """
    example = dict(example) if isinstance(example, Mapping) else example
    leaves = tree_leaves(example)
    if any(isinstance(x, np.ndarray) for x in leaves):
        raise ValueError("the example holds a NumPy array; pass tensors: torch.as_tensor()")
    first = next((x for x in leaves if isinstance(x, Tensor) and x.dim()), None)
    if first is not None and not len(first):
        raise ValueError(
            f"the example is of shape {tuple(first.shape)}, no example at all; pass one or more, "
            "batch first"
        )
    if not isinstance(example, dict) or not _knows(model, example):
        return example if isinstance(example, tuple) else (example,)
    return (example,) if not _runs(model, example) and _runs(model, (example,)) else example


def _knows(model: nn.Module, names: Mapping[str, Any]) -> bool:
    parameters = inspect.signature(model.forward).parameters
    kinds = {p.kind for p in parameters.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds or names.keys() <= parameters.keys()


def _runs(model: nn.Module, example: Any) -> bool:
    try:
        with untouched(model):
            said(structure(model), example)
    except Exception:  # any code of a user's may fail
        return False
    return True


def arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """By place and by name."""
    if isinstance(example, dict):
        return (), example
    return (example if isinstance(example, tuple) else (example,)), {}


def said(network: nn.Module, example: Any) -> Any:
    """What a network says, which may write into what it is given."""
    args, named = tree_map(lambda x: cast(x, x), arguments(example))
    with same_noise(), torch.no_grad(), Restored(network.state_dict().values()):
        return network(*args, **named)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """What modules and hooks keep is as before, whoever runs: a copy's hooks write there too."""
    kept = [(held, copy.copy(held)) for held in _containers(model)]
    try:
        yield
    finally:
        for held, was in kept:
            _put_back(held, was)


def _put_back(held: Any, was: Any) -> None:
    """The same dict or list with what it held; nothing is written where nothing changed."""
    if isinstance(held, list):
        if len(held) != len(was) or any(x is not y for x, y in zip(held, was, strict=True)):
            held[:] = was
        return
    for key in [key for key in held if key not in was]:
        del held[key]
    for key, value in was.items():
        if held.get(key, MISSING) is not value:
            held[key] = value


def _containers(model: nn.Module) -> list[Any]:
    """The dicts and lists in which modules keep anything, and those that what they call names."""
    modules = [*model.modules()]
    todo: list[Any] = [*map(vars, modules)]
    for call in chain.from_iterable(map(_calls, modules)):
        things = [*named_in(call), call, getattr(call, "__self__", None)]
        todo += things
        todo += [vars(x) for x in things if hasattr(x, "__dict__") and not inspect.ismodule(x)]
    found: dict[int, Any] = {}
    while todo:
        held = todo.pop()
        if id(held) not in found and isinstance(held, (dict, list, tuple)):
            found[id(held)] = held
            todo += held.values() if isinstance(held, dict) else held
    return [held for held in found.values() if not isinstance(held, tuple)]


def _calls(module: nn.Module) -> list[Any]:
    hooks = (module._forward_pre_hooks, module._forward_hooks)
    return [module.forward, *chain.from_iterable(each.values() for each in hooks)]


@contextmanager
def _quiet() -> Iterator[None]:
    """No warning or error of torch's loggers, in this thread."""
    thread = threading.get_ident()

    def told(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno < logging.WARNING

    loggers = [x for k, x in [*logging.root.manager.loggerDict.items()] if k.startswith("torch")]
    handlers = {handler for logger in loggers for handler in getattr(logger, "handlers", ())}
    for handler in handlers:
        handler.addFilter(told)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(told)


@contextmanager
def _instead(module: Any, name: str, value: Any) -> Iterator[None]:
    """A function in the place of one of torch's."""
    before = vars(module).get(name, MISSING)
    setattr(module, name, value)
    try:
        yield
    finally:
        if before is MISSING:
            delattr(module, name)
        else:
            setattr(module, name, before)
