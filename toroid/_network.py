"""A network without weights of its own: the modules of a model, run on any state."""

from __future__ import annotations

import copy
import operator
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

#: Held while torch does what it cannot do in two threads at once: it exports a graph, and takes
#: derivatives forwards.
ALONE = threading.RLock()


class UnsupportedError(NotImplementedError):
    """An operation, or a use of one, that no rule covers; names the operation and its place."""


def cast(x: Any, like: Tensor) -> Any:
    """A copy of an input, for a network that may write into it; floating ones in a precision."""
    if not isinstance(x, Tensor):
        return x
    return x.to(like, copy=True) if x.is_floating_point() else x.to(like.device, copy=True)


def structure(model: nn.Module) -> nn.Module:
    """A copy of a model's modules, in evaluation mode, that shares the tensors of its state.

    Other buffers are copied: a network may write to them, and no state takes their place.
    """
    state = [x for x in model.state_dict(keep_vars=True).values() if isinstance(x, Tensor)]
    shared = {id(x): x for x in (*model.parameters(), *state)}
    kept = [x for m in model.modules() for v in _own(m).values() for x in _tensors(v)]
    computed = {id(x): x.detach() for x in kept if not x.is_leaf}  # these cannot be copied
    return copy.deepcopy(model, {**computed, **shared}).eval()


def check_computed(model: nn.Module) -> None:
    """No tensor that modules hold is computed from parameters outside of the graph."""
    for path, module in model.named_modules():
        for name, x in vars(module).items():
            if isinstance(x, Tensor) and not x.is_leaf:
                raise UnsupportedError(
                    f"{name!r} of module {path!r} is computed from parameters outside of the "
                    "graph, as by torch.nn.utils.weight_norm. Make it a parameter, by "
                    "torch.nn.utils.remove_weight_norm"
                )


#: What every module has; all else is its own.
COMMON = vars(nn.Module()).keys()
MISSING = object()


class Kept:
    """Tensors that modules keep on themselves between calls: nothing of one state is left.

    An evaluation-mode cache, ``self.attention = ...``, a list of maps: what one state's call leaves
    behind is taken away before the next state's.
    """

    def __init__(self, network: nn.Module) -> None:
        """Remember what is there before any call."""
        self.start = {m: {k: _held(v) for k, v in _own(m).items()} for m in network.modules()}
        self.settled = not any(_tensors(v) for start in self.start.values() for v in start.values())

    def forget(self) -> None:
        """Put back what was there at the start, wherever tensors have come or gone."""
        for module, start in self.start.items():
            own = vars(module)
            for name in [*_own(module), *(start.keys() - own.keys())]:
                was, now = (x.get(name, MISSING) for x in (start, own))
                if not _same(was, now):
                    _put(module, name, was)

    def settle(self, call: Callable[[], Any]) -> None:
        """Find what was there before we came, but belongs to a state: `call` makes it again.

        Each kept tensor is taken away for two calls. What both make again, alike, is a function of
        the state, and is not there at the start from now on; all else is part of the network.
        """
        for module, start in self.start.items():
            for name, value in [*start.items()]:
                for empty in (type(value)() if isinstance(value, (dict, list)) else None, MISSING):
                    if _tensors(value) and self._renewed(module, name, empty, call):
                        start[name] = empty
                        break
        self.settled = True
        self.forget()

    def _renewed(self, module: nn.Module, name: str, empty: Any, call: Callable[[], Any]) -> bool:
        found = []
        for _ in range(2):
            self.forget()
            _put(module, name, empty)
            try:
                call()
            except Exception:  # any code of a user's may fail without it
                return False
            finally:
                found.append(_tensors(vars(module).get(name)))
                self.forget()
        first, second = found
        return len(first) > 0 and _equal(first, second)


def _own(module: nn.Module) -> dict[str, Any]:
    return {k: v for k, v in vars(module).items() if k not in COMMON}


def _tensors(x: Any) -> list[Tensor]:
    """The tensors that an attribute is or holds."""
    if isinstance(x, Tensor):
        return [x]
    if not isinstance(x, (dict, list, tuple)):
        return []
    return [leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]


def _held(x: Any) -> Any:
    """An attribute as it is now: containers are copied, what they hold is not."""
    return tree_map(lambda leaf: leaf, x) if isinstance(x, (dict, list, tuple)) else x


def _same(was: Any, now: Any) -> bool:
    first, second = _tensors(was), _tensors(now)
    return len(first) == len(second) and all(map(operator.is_, first, second))


def _equal(first: list[Tensor], second: list[Tensor]) -> bool:
    shapes = [[x.shape for x in tensors] for tensors in (first, second)]
    return shapes[0] == shapes[1] and all(map(torch.equal, first, second))


def _put(module: nn.Module, name: str, value: Any) -> None:
    if value is MISSING:
        vars(module).pop(name, None)
    else:
        vars(module)[name] = _held(value)
