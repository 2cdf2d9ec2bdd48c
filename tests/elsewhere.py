"""A second device on a machine that has none: its tensors lie in the CPU's memory.

They say that they are elsewhere, and refuse what a GPU's refuse: to meet tensors of the CPU, to be
drawn by a generator of the CPU, to become an array. What runs there has every tensor where it must
be; it says nothing of speed or rounding. Importing this changes torch for the whole process.
"""

import torch
from torch import library
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

#: Operations that take tensors of two devices; indices may lie on the CPU.
JOINS = {"aten._to_copy.default", "aten.copy_.default"}
INDEXED = {"aten.index.Tensor", "aten.index_put.default", "aten.index_put_.default"}


class Backend(_DummyBackendModule):
    """What torch asks of a device."""

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("elsewhere", Backend())
_RULES = library.Library("_", "IMPL")
_RULES.fallback(library.fallthrough_kernel, "AutocastPrivateUse1")
DEVICE = torch.device("elsewhere:0")


class Elsewhere(torch.Tensor):
    """A tensor of the CPU that says it is not."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=DEVICE,
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return dispatch(operation, args, kwargs or {})


class Watch(TorchDispatchMode):
    """Also sees operations that only name the device."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return dispatch(operation, args, kwargs or {})


def is_there(device):
    return device is not None and torch.device(device).type == DEVICE.type


def check(name, leaves, there):
    """What a GPU refuses."""
    mine = [x for x in leaves if isinstance(x, Elsewhere)]
    other = [x for x in leaves if isinstance(x, torch.Tensor) and not isinstance(x, Elsewhere)]
    if name in INDEXED:
        other = [x for x in other if x.dtype not in (torch.int64, torch.bool)]
    if mine and name not in JOINS and any(x.dim() for x in other):
        raise RuntimeError(f"{name}: tensors on two devices")
    if there and any(isinstance(x, torch.Generator) for x in leaves):
        raise RuntimeError(f"{name}: a generator of the CPU")


def dispatch(operation, args, kwargs):
    """Run an operation on the tensors inside; what comes out is where it must be."""
    leaves = tree_leaves((args, kwargs))
    named = kwargs.get("device")
    mine = any(isinstance(x, Elsewhere) for x in leaves)
    there = is_there(named) if named is not None else mine
    if not mine and not there:
        return operation(*args, **kwargs)
    check(str(operation), leaves, there)

    def inside(x):
        if isinstance(x, torch.device):
            return torch.device("cpu")
        return x.inner if isinstance(x, Elsewhere) else x

    def outside(x):
        if not isinstance(x, torch.Tensor):
            return x
        same = [old for old in leaves if inside(old) is x]  # what was changed in place
        return same[0] if same else Elsewhere(x) if there else x

    inner_kwargs = {k: v for k, v in tree_map(inside, kwargs).items() if k != "pin_memory"}
    return tree_map(outside, operation(*tree_map(inside, args), **inner_kwargs))


def moved(self, *args, _to=torch.Tensor.to, **kwargs):
    """`Tensor.to`, which for a device of this kind never reaches an operation."""
    like = args and isinstance(args[0], Elsewhere)
    goes = like or any(
        is_there(x) for x in (*args, *kwargs.values()) if isinstance(x, (str, torch.device))
    )
    if not goes or isinstance(self, Elsewhere):
        return _to(self, *args, **kwargs)
    types = [args[0].dtype] if like else [x for x in args if isinstance(x, torch.dtype)]
    inner = _to(self.detach(), *types) if types else self.detach()
    return Elsewhere(inner.clone() if kwargs.get("copy") else inner)


def listed(self, _tolist=torch.Tensor.tolist):
    return _tolist(self.inner if isinstance(self, Elsewhere) else self)


def returned(self, _cpu=torch.Tensor.cpu):
    return self.detach().inner if isinstance(self, Elsewhere) else _cpu(self)


torch.Tensor.to, torch.Tensor.tolist, torch.Tensor.cpu = moved, listed, returned
