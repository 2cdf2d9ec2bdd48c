"""A network is read and run: torch is quiet about it, and the caller's model stays as it is."""

from __future__ import annotations

import copy
import inspect
import logging
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.modules import transformer

from .._network import ALONE, Kept
from .._random import Drawing

MISSING = object()


@contextmanager
def reading(model: nn.Module) -> Iterator[None]:
    """What is exported within is of this model, or of a copy; what goes wrong is an error alone."""
    from torch.export import _trace  # brings SymPy along, which only an export needs

    # torch looks at the numbers of a mask only to choose a faster kernel
    said = ("_detect_is_causal_mask", lambda mask, causal=None, size=None: causal is True)
    printed = ("print", lambda *words, **where: None)  # of the graph, up to where it failed
    with (
        ALONE, untouched(model), _quiet(), warnings.catch_warnings(),
        _instead(transformer, *said), _instead(_trace, *printed),
    ):  # fmt: skip
        # what a module keeps for later is no concern of the graph
        warnings.filterwarnings("ignore", r"(?s)The tensor attribute", UserWarning)
        yield


def same_noise() -> Drawing:
    """What is drawn within is the same at every run, and not from the caller's generator."""
    return Drawing(torch.Generator().manual_seed(0))


def settled(network: nn.Module, call: Callable[[], Any]) -> Kept:
    """What modules keep between calls; what an earlier pass left of a state is taken away."""
    kept = Kept(network)
    if not kept.settled:
        with same_noise(), torch.no_grad():
            kept.settle(call)
    return kept


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
    """The dicts and lists in which modules keep anything, and those that their hooks name."""
    modules = [*model.modules()]
    hooks = [(*m._forward_hooks.values(), *m._forward_pre_hooks.values()) for m in modules]
    todo: list[Any] = [*map(vars, modules), *chain.from_iterable(map(_named, chain(*hooks)))]
    found: dict[int, Any] = {}
    while todo:
        held = todo.pop()
        if id(held) not in found and isinstance(held, (dict, list, tuple)):
            found[id(held)] = held
            todo += held.values() if isinstance(held, dict) else held
    return [held for held in found.values() if not isinstance(held, tuple)]


def _named(hook: Any) -> Iterable[Any]:
    """What a hook can write to: its object's attributes, and what its function names."""
    owner, function = getattr(hook, "__self__", None), inspect.unwrap(hook)
    if inspect.ismethod(function):
        function = function.__func__
    if inspect.isfunction(function):
        names = inspect.getclosurevars(function)
        yield from (*names.nonlocals.values(), *names.globals.values())
    for thing in (owner, hook):
        if hasattr(thing, "__dict__"):
            yield vars(thing)


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
