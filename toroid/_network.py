"""A network without weights of its own: the modules of a model, run on any state."""

from __future__ import annotations

import copy
import operator
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves, tree_map

#: Held while torch does what it cannot do in two threads at once: it exports a graph, and takes
#: derivatives forwards.
ALONE = threading.RLock()

Outputs = Callable[[Any], Any] | None  # which part of what a model says counts; None for all


class UnsupportedError(NotImplementedError):
    """An operation, or a use of one, that no rule covers; names the operation and its place."""


def cast(x: Any, like: Tensor) -> Any:
    """A copy of an input, for a network that may write into it; floating ones in a precision."""
    if not isinstance(x, Tensor):
        return x
    return x.to(like, copy=True) if x.is_floating_point() else x.to(like.device, copy=True)


def run(network: nn.Module, state: Mapping[str, Tensor], inputs: Any, named: Any = None) -> Any:
    """What a network says on a state; of an error of its own, what it was given."""
    try:
        return functional_call(network, dict(state), inputs, named)
    except (torch.OutOfMemoryError, NotImplementedError):
        raise
    except (RuntimeError, TypeError, IndexError) as error:
        given = ", ".join(
            f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
            for x in tree_leaves((inputs, named))
            if isinstance(x, Tensor)
        )
        told = next(iter(str(error).strip().splitlines()), "").rstrip(".")
        raise ValueError(
            f"the model does not run on what it is given, {given} ({type(error).__name__}: {told});"
            " examples come first in the shape, and what it computes with is floating"
        ) from error


def structure(model: nn.Module) -> nn.Module:
    """A copy of a model's modules, in evaluation mode, that shares the tensors of its state.

    Other buffers are copied: a network may write to them, and no state takes their place.
    """
    state = [x for x in model.state_dict(keep_vars=True).values() if isinstance(x, Tensor)]
    shared = {id(x): x for x in (*model.parameters(), *state)}
    kept = [x for m in model.modules() for v in _own(m).values() for x in _tensors(v)]
    computed = {id(x): x.detach() for x in kept if not x.is_leaf}  # these cannot be copied
    try:
        return copy.deepcopy(model, {**computed, **shared}).eval()
    except RuntimeError as error:
        raise UnsupportedError(
            f"the model cannot be copied: {str(error).splitlines()[0]} Some module keeps a tensor "
            "of an earlier pass in an object of its own; remove it, or detach it"
        ) from error


def transparent(network: nn.Module) -> bool:
    """Whether modules keep nothing of what passes through them, and write nothing into it.

    They are torch's own or those of `models`, as they stand there, and none works in place.
    """
    return all(
        type(m).__module__.startswith(("torch.nn.modules.", f"{__package__}.models"))
        and not (m._forward_hooks or m._forward_pre_hooks or getattr(m, "inplace", False))
        and "forward" not in vars(m)
        for m in network.modules()
    )


def computed_weights(model: nn.Module) -> str:
    """Which weights are computed from others, and the call that makes parameters of them."""
    calls = []
    for path, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            kind, name = type(hook).__module__, getattr(hook, "name", None)
            weight = name or getattr(hook, "_tensor_name", "weight")
            if kind.startswith("torch.nn.utils."):
                how = "prune.remove" if "prune" in kind else f"remove_{kind.rpartition('.')[2]}"
                calls.append(f"torch.nn.utils.{how}(model.get_submodule({path!r}), {weight!r})")
        if parametrize.is_parametrized(module):
            calls += [
                "torch.nn.utils.parametrize.remove_parametrizations("
                f"model.get_submodule({path!r}), {weight!r})"
                for weight in module.parametrizations
            ]
    if hasattr(model, "merge_and_unload"):
        calls.append("model.merge_and_unload()")
    more = f" and {len(calls) - 1} more like it" if len(calls) > 1 else ""
    return f"Some of its weights are computed: call {calls[0]}{more} first." if calls else ""


def selected(network: nn.Module, outputs: Outputs) -> nn.Module:
    """A network (one that nobody else holds) of whose outputs only some count."""
    network.register_forward_hook(lambda _, inputs, out: plain(outputs(out) if outputs else out))
    return network


def plain(out: Any) -> Any:
    """An output as tensors in tuples and dicts: of an object its fields, nothing else of them."""
    if isinstance(out, Tensor) or out is None:
        return out
    if isinstance(out, Mapping):
        return {str(k): plain(v) for k, v in out.items() if v is not None}
    if isinstance(out, (list, tuple)):
        return tuple(plain(x) for x in out)
    fields = getattr(out, "__dict__", None) or {
        k: getattr(out, k) for k in getattr(out, "__slots__", ())
    }
    return {k: plain(v) for k, v in fields.items() if _holds_tensors(v)}


def _holds_tensors(x: Any) -> bool:
    return isinstance(x, (Tensor, Mapping, list, tuple)) or hasattr(x, "__dict__")


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
        state = {id(x) for x in (*network.parameters(), *network.buffers())}
        # a module's list of its own parameters (an LSTM has one): who puts a state in, sets it
        self.left = {
            (m, k)
            for m in network.modules()
            for k, v in _own(m).items()
            if any(id(x) in state for x in _tensors(v))
        }
        self.start = {
            m: {k: _held(v) for k, v in _own(m).items() if (m, k) not in self.left}
            for m in network.modules()
        }
        self.settled = not any(_tensors(v) for start in self.start.values() for v in start.values())

    def forget(self) -> None:
        """Put back what was there at the start, wherever tensors have come or gone."""
        for module, start in self.start.items():
            own = vars(module)
            for name in [*_own(module), *(start.keys() - own.keys())]:
                was, now = (x.get(name, MISSING) for x in (start, own))
                if (module, name) not in self.left and not _same(was, now):
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
