"""What tells functions, objects and networks apart, in words that are the same in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from ._state import digest

PLAIN = (bool, int, float, complex, str, bytes, type(None))
FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType, partial, type)
CHANGING = (list, dict, set)  # where a function counts, or keeps what it saw
DEEP = 4  # objects within objects; what refers to itself has an end


def named(part: Any, depth: int = 0) -> str:
    """A part of a task: functions by name, code and what they hold, objects by their numbers."""
    if isinstance(part, PLAIN):
        return repr(part)
    if depth > DEEP:
        return _kind(type(part))
    if isinstance(part, Tensor):
        return f"tensor {digest({'': part})[:16]}"
    if isinstance(part, nn.Module):
        return f"{_kind(type(part))} {network(part)} {digest(part.state_dict())[:16]}"
    if isinstance(part, Mapping):
        return f"{{{', '.join(f'{k}: {named(v, depth + 1)}' for k, v in part.items())}}}"
    if isinstance(part, (list, tuple, Set)):
        items = [named(x, depth + 1) for x in part]
        return f"({', '.join(sorted(items) if isinstance(part, Set) else items)})"
    if isinstance(part, FUNCTIONS):
        return _function(part, depth + 1)
    return f"{_kind(type(part))} {named(_own(part), depth + 1)}"


def _function(part: Any, depth: int) -> str:
    if isinstance(part, partial):
        return f"{named(part.func, depth)} {named([part.args, part.keywords], depth)}"
    if isinstance(part, MethodType):
        return f"{_function(part.__func__, depth)} of {named(part.__self__, depth)}"
    if not isinstance(part, FunctionType):
        return _kind(part)
    cells = [cell.cell_contents for cell in part.__closure__ or ()]
    held = [x for x in cells if not isinstance(x, CHANGING)]
    given = [part.__defaults__, part.__kwdefaults__, held]
    rest = f" {named(given, depth)}" if any(given) else ""
    return f"{_kind(part)} {_code(part.__code__)[:16]}{rest}"


def _code(code: CodeType) -> str:
    """A digest of what a function does, wherever it stands."""
    parts = [_code(c) if isinstance(c, CodeType) else named(c) for c in code.co_consts]
    said = hashlib.sha256(code.co_code)
    said.update("\n".join([*parts, *code.co_names]).encode())
    return said.hexdigest()


def _kind(part: Any) -> str:
    return f"{part.__module__}.{part.__qualname__}"


def _own(part: Any) -> dict[str, Any]:
    """The plain attributes of an object, and those that are functions."""
    own = getattr(part, "__dict__", {}).items()
    return {
        k: v
        for k, v in own
        if not k.startswith("_") and k != "training" and isinstance(v, (*PLAIN, *FUNCTIONS))
    }


def network(model: nn.Module) -> str:
    """A digest of the modules of a network and of their settings, without its weights."""
    modules = model.named_modules()
    said = "\n".join(f"{name} {_kind(type(m))} {named(_own(m))}" for name, m in modules)
    return hashlib.sha256(said.encode()).hexdigest()[:16]
