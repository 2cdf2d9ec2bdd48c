"""A network without weights of its own: the modules of a model, run on any state."""

from __future__ import annotations

import copy
import threading
from typing import Any

from torch import Tensor, nn

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
    for path, module in model.named_modules():
        for name, x in vars(module).items():
            if isinstance(x, Tensor) and not x.is_leaf:  # it cannot be copied, and gets stale
                raise UnsupportedError(
                    f"{name!r} of module {path!r} is computed from parameters outside of the "
                    "graph, as by torch.nn.utils.weight_norm. Make it a parameter, by "
                    "torch.nn.utils.remove_weight_norm"
                )
    state = [x for x in model.state_dict(keep_vars=True).values() if isinstance(x, Tensor)]
    tensors = [*model.parameters(), *state]
    return copy.deepcopy(model, {id(x): x for x in tensors}).eval()
