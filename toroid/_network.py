"""A network without weights of its own: the modules of a model, run on any state."""

from __future__ import annotations

import copy
import inspect
import operator
import os
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

#: Held while torch does what it cannot do in two threads at once: it exports a graph, and takes
#: derivatives forwards.
ALONE = threading.RLock()


def _fresh() -> None:
    """A forked process has none of the threads that may hold the lock."""
    ALONE._at_fork_reinit()  # type: ignore[attr-defined]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fresh)

Outputs = Callable[[Any], Any] | None  # which part of what a model says counts; None for all


class UnsupportedError(NotImplementedError):
    """An operation, or a use of one, that no rule covers; names the operation and its place."""


def measure(state: Mapping[str, Tensor]) -> Tensor:
    """A tensor in the precision of a state's real numbers, where they are."""
    for x in state.values():
        if x.is_floating_point():
            return x
    return next((x.real for x in state.values() if x.is_complex()), torch.zeros(0))


def cast(x: Any, like: Tensor) -> Any:
    """A copy of an input, for a network that may write into it; floating ones in a precision."""
    if not isinstance(x, Tensor):
        return x
    return x.to(like, copy=True) if x.is_floating_point() else x.to(like.device, copy=True)


#: Of networks that have run: whether they write to tensors of their state; None, not so far.
_WRITING: WeakKeyDictionary[nn.Module, bool | None] = WeakKeyDictionary()


def run(
    network: nn.Module, state: Mapping[str, Tensor], inputs: Any, named: Any = None, *,
    own: Container[str] = (),
) -> Any:  # fmt: skip
    """What a network says on a state; of an error of its own, what it was given.

    The network may write to the tensors that are its `own`; to others it does not, and one that
    would is given copies, from the next run on.
    """
    if network not in _WRITING:
        _WRITING[network] = False if transparent(network) else None
    shared = {k: v for k, v in state.items() if k not in own}
    given = dict(state)
    if _WRITING[network] is not False:  # `weight.data = ...` gives another name other numbers
        given |= {k: v.view_as(v) for k, v in shared.items()}
    if _WRITING[network]:
        given |= {k: v.clone() for k, v in shared.items()}
    if _WRITING[network] is not None or not shared:
        return _run(network, given, inputs, named)
    with Restored(shared.values()) as seen:
        found = _run(network, given, inputs, named)
    if seen.before:
        _WRITING[network] = True
    return found


def _run(network: nn.Module, state: dict[str, Tensor], inputs: Any, named: Any) -> Any:
    try:
        return functional_call(network, state, inputs, named)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "a batch has one example, of which BatchNorm estimates no variance: leave it out "
            "(drop_last=True of a DataLoader), or take another batch_size"
        ) from error
    except (torch.OutOfMemoryError, NotImplementedError):
        raise
    except (RuntimeError, TypeError, IndexError) as error:
        leaves = tree_leaves((inputs, named))
        given = ", ".join(
            f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
            for x in leaves
            if isinstance(x, Tensor)
        )
        kinds = ", ".join(sorted({type(x).__name__ for x in leaves}))
        given = given or f"no tensor but {kinds}: torch.as_tensor() makes one"
        told = next(iter(str(error).strip().splitlines()), "").rstrip(".")
        raise ValueError(
            f"the model does not run on what it is given, {given} ({type(error).__name__}: {told});"
            " examples come first in the shape, and what it computes with is floating"
        ) from error


class Restored(TorchDispatchMode):
    """What is written to some tensors within the block is undone at its end."""

    supports_higher_order_operators = True

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        """Nothing is written yet."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.places = {storage(x) for x in tensors} - {0}
        self.before: list[tuple[Tensor, Tensor]] = []

    @classmethod
    def is_infra_mode(cls) -> bool:
        """What is compiled runs as it would without us."""
        return True

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, once what it writes to is kept."""
        kwargs = kwargs or {}
        for x in _tensors([*_written(operation, args, kwargs)]):
            if storage(x) in self.places:
                self.before.append((x, x.clone()))
        return operation(*args, **kwargs)

    def __exit__(self, *error: Any) -> None:
        """Put back what was there."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for x, was in reversed(self.before):
                x.copy_(was)


def storage(x: Tensor) -> int:
    """Where the numbers of a tensor are, 0 if nowhere."""
    try:
        return x.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # wrappers, sparse tensors
        return 0


def _written(operation: Any, args: Any, kwargs: Any) -> Iterator[Any]:
    """The arguments that an operation writes to."""
    for place, name in _writes(operation):
        if name in kwargs:
            yield kwargs[name]
        elif place < len(args):
            yield args[place]


@cache
def _writes(operation: Any) -> list[tuple[int, str]]:
    schema = getattr(operation, "_schema", None)  # operations of higher order have none
    return [
        (place, argument.name)
        for place, argument in enumerate(schema.arguments if schema else ())
        if argument.alias_info and argument.alias_info.is_write
    ]


def structure(model: nn.Module) -> nn.Module:
    """A copy of a model's modules, in evaluation mode, that shares the tensors of its state.

    Other buffers are copied: a network may write to them, and no state takes their place. Gradients
    of embeddings are dense, as those of all else.

    Raises:
        UnsupportedError: The model cannot be copied.
        ValueError: A copy would run on the model's own weights.
    """
    _check_forward(model)
    state = [x for x in model.state_dict(keep_vars=True).values() if isinstance(x, Tensor)]
    shared = {id(x): _another_name(x) for x in (*model.parameters(), *state)}
    kept = [x for m in model.modules() for v in _own(m).values() for x in _tensors(v)]
    computed = {id(x): x.detach() for x in kept if not x.is_leaf}  # these cannot be copied
    try:
        network = copy.deepcopy(model, {**computed, **shared}).eval()
    except RuntimeError as error:
        raise UnsupportedError(
            f"the model cannot be copied: {str(error).splitlines()[0]} Some module keeps a tensor "
            "of an earlier pass in an object of its own; remove it, or detach it"
        ) from error
    for module in network.modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            module.sparse = False
    return network


def _another_name(x: Tensor) -> Tensor:
    """The same numbers: who gives this tensor others, by its `data`, leaves them as they were."""
    if x.is_inference() or type(x) not in (Tensor, nn.Parameter):
        return x
    other = nn.Parameter(x.detach(), x.requires_grad) if type(x) is nn.Parameter else x.detach()
    vars(other).update(vars(x))
    return x if other.requires_grad != x.requires_grad else other


def _check_forward(model: nn.Module) -> None:
    """A copy of the model runs on its own weights."""
    modules = {id(m) for m in model.modules()}
    for name, module in model.named_modules():
        # a method is copied with its module, a function goes on calling those it was made with
        function = vars(module).get("forward")
        things = named_in(function) if inspect.isfunction(function) else []
        if any(id(getattr(x, "__self__", x)) in modules for x in things):
            raise ValueError(
                f"{repr(name) + ' of the model' if name else 'the model'} has a function in place "
                "of its forward that calls the model itself, whatever weights a copy is given: "
                "write a subclass with that forward, or wrap the module in another one"
            )


def named_in(function: Any) -> list[Any]:
    """What a function refers to outside of itself, and what the functions in it do."""
    todo, found, seen = [function], list[Any](), set[int]()
    while todo:
        one = todo.pop()
        one = getattr(one, "__func__", getattr(one, "func", one))  # of a method, of a partial
        if inspect.isfunction(one) and id(one) not in seen:
            seen.add(id(one))
            with suppress(ValueError):  # of a name that has no value yet
                names = inspect.getclosurevars(one)
                found += [*names.nonlocals.values(), *names.globals.values()]
                todo += names.nonlocals.values()
    return found


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
