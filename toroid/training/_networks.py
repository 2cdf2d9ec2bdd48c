"""Networks of one shape that are trained together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.functional import cross_entropy
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils._pytree import tree_leaves, tree_map

from .._batches import Batch, beside
from .._network import measure, plain, run, structure
from .._random import Drawing, draws
from .._state import first_names
from ..evaluation import PRECISIONS
from ..tasks import Task, classification, judged, take


class Networks:
    """Networks of one shape that are trained together: each its own weights and buffers.

    On a GPU they run as one (`vmap` over stacked tensors), elsewhere one after the other, which
    there is faster (benchmarks/training.py). The results are the same within rounding. What a
    network draws as it runs, for dropout, comes from its own generator; such networks run one after
    the other.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        device: torch.device,
        precision: str = "float32",
        stacked: bool | None = None,
        generators: Sequence[torch.Generator] | None = None,
        task: Task = classification,
    ) -> None:
        self.type, self.task = PRECISIONS[precision], task
        states = [m.state_dict() for m in models]
        self.first = first_names(models[0])
        self.state = {
            k: self._place(torch.stack([s[k].detach().to(device) for s in states]))
            for k, first in self.first.items()
            if k == first
        }  # each (networks, ...); a tied tensor once
        free = [k for k, p in models[0].named_parameters() if p.requires_grad]
        self.weights = {k: self.state[k].requires_grad_() for k in free}
        self.buffers = {k: v for k, v in self.state.items() if k not in self.weights}
        self.module = structure(models[0]).train()
        # what runs again on the way back (checkpoints do) must find the weights that it ran on
        self.modules = [structure(model).train() for model in models]
        self.held = [ExitStack() for _ in models]
        self.fits = False  # whether outputs were seen to be what the task takes
        self.generators, self.tried = generators, False
        self.draws = self.writes = False  # as it runs: random numbers; to its weights
        self.stacked = device.type == "cuda" and len(models) > 1 if stacked is None else stacked

    def _place(self, tensor: Tensor) -> Tensor:
        """Channels innermost where they are to be so; values and shape as they were."""
        if self.type is None or tensor.dim() != 5:  # (networks, ...) of images or of kernels
            return tensor
        return tensor.movedim(2, -1).contiguous().movedim(-1, 2)

    def outputs(self, images: Tensor, state: dict[str, Tensor] | None = None) -> Tensor:
        """(networks, batch, classes) of images (networks, batch, ...); their state or another."""
        state = self.state if state is None else state

        images = self._place(images)
        with torch.autocast(images.device.type, self.type, enabled=self.type is not None):
            if not self.tried:
                self._try((images[0],))
            if self.stacked and not (self.draws or self.writes):
                outputs = vmap(self._one)(state, images)
            else:
                states = self._singles(state, len(images))
                outputs = torch.stack([*map(self._alone, range(len(states)), states, images)])
        return outputs if self.type is None else outputs.float()

    def _one(self, single: dict[str, Tensor], *inputs: Any, **named: Any) -> Any:
        once = {k: v for k, v in single.items() if self.first[k] == k}
        return run(self.module, once, inputs, named, own=once)

    def _singles(self, state: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
        """The state of each network, as views of the stacked one."""
        if self.writes:  # which the views of `unbind` do not allow
            return [{k: v[i] for k, v in state.items()} for i in range(count)]
        rows = zip(*(v.unbind(0) for v in state.values()), strict=True)
        return [dict(zip(state, row, strict=True)) for row in rows]

    def _alone(self, index: int, single: dict[str, Tensor], *inputs: Any, **named: Any) -> Any:
        """One network, which draws from its own generator."""
        once = {k: v for k, v in single.items() if self.first[k] == k}
        module = self.modules[index]
        self.held[index].close()
        self.held[index].enter_context(_reparametrize_module(module, once, tie_weights=True))
        if not (self.draws and self.generators):
            return run(module, once, inputs, named, own=once)
        with Drawing(self.generators[index]):
            return run(module, once, inputs, named, own=once)

    @torch.enable_grad()
    def _try(self, inputs: tuple[Any, ...], named: dict[str, Any] | None = None) -> None:
        """What a network does as it runs, seen once, on copies of what it may write to."""
        module = structure(self.module).train()
        single = {k: v.clone().requires_grad_(k in self.weights) for k, v in self.single().items()}
        once = {k: v for k, v in single.items() if self.first[k] == k}

        places = {k: once[k].data_ptr() for k in self.weights}

        def call() -> Any:
            return run(module, once, inputs, named, own=once)

        self.draws = draws(call) and self.generators is not None
        self.writes = any(once[k]._version for k in self.weights)
        if moved := [k for k in self.weights if once[k].data_ptr() != places[k]]:
            raise ValueError(
                f"forward gives {moved[0]!r} another tensor as its data, which a training does not "
                "see: write into it instead, self.weight.data.copy_(...)"
            )
        if self.draws:
            with Drawing(torch.Generator()):
                _check_once(call)
        self.tried = True

    def losses(
        self, images: Tensor | Sequence[Batch], labels: Tensor | None,
        state: dict[str, Tensor] | None = None, factor: float = 1.0,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Mean loss of each network, and how many it gets wrong; of batches, its mean error.

        Their outputs times a factor, at their state or another.
        """
        if isinstance(images, Tensor) and labels is not None:
            outputs = self.outputs(images, state)
            if not self.fits:  # an error that says what is not as a classifier's
                self.task.loss(outputs[0].detach(), labels[0])
                self.fits = True
            found, wrong = losses(outputs if factor == 1.0 else factor * outputs, labels)
            return _dependent(found), wrong
        state = self.state if state is None else state
        singles = ({k: v[i] for k, v in state.items()} for i in range(len(images)))
        each = [
            self._judged(i, single, batch, factor)
            for i, (single, batch) in enumerate(zip(singles, images, strict=True))
        ]
        several, errors = zip(*each, strict=True)
        return _dependent(torch.stack(several)), torch.stack(errors)

    def _judged(
        self, index: int, single: dict[str, Tensor], batch: Any, factor: float
    ) -> tuple[Tensor, Tensor]:
        """Mean loss and mean error of one network on a batch, as the task says."""
        like = measure(single)
        inputs, named = tree_map(_moved(like), (batch.arguments, batch.named))
        with torch.autocast(like.device.type, self.type, enabled=self.type is not None):
            if not self.tried:
                self._try(inputs, named)
            outputs = take(self._alone(index, single, *inputs, **named), self.task.outputs)
        outputs = tree_map(lambda x: _resized(x, like, factor), outputs)
        targets = tree_map(lambda x: beside(x, like.device), batch.targets)
        errors, loss = judged(self.task, outputs, targets, batch.examples)
        return loss.reshape(()), errors.detach().mean()

    def single(self, index: int = 0) -> dict[str, Tensor]:
        """The state of one network."""
        return self.whole({k: v[index].detach().contiguous() for k, v in self.state.items()})

    def whole(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state in which a tied tensor stands under all of its names."""
        return {k: state[first] for k, first in self.first.items()}


def _check_once(call: Callable[[], Any]) -> None:
    """No part of a network that draws runs again on the way back, where it would draw anew."""
    message = (
        "the network draws random numbers, and torch.utils.checkpoint would draw others on the way "
        "back: train it without checkpoints (gradient_checkpointing_disable(), in transformers)"
    )
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks(message):
            found = call()
    except (RuntimeError, ValueError) as error:
        if message not in str(error):
            raise
        raise ValueError(message) from error
    nodes: set[Any] = {x.grad_fn for x in tree_leaves(plain(found)) if isinstance(x, Tensor)}
    seen: set[Any] = set()
    while nodes := nodes - {None} - seen:
        if any("CheckpointFunction" in node.name() for node in nodes):
            raise ValueError(message)
        seen |= nodes
        nodes = {after for node in nodes for after, _ in node.next_functions}


def _dependent(loss: Tensor) -> Tensor:
    """A loss that has a gradient."""
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise ValueError(
            "there is no gradient: the loss does not depend on the weights as torch sees it. Does "
            "forward, or the task's loss, run under torch.no_grad, or detach what it returns?"
        )
    return loss


def _moved(like: Tensor) -> Callable[[Any], Any]:
    """An input in one copy where and as it is needed: a network may write into it."""

    def move(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        kind = like.dtype if x.is_floating_point() else x.dtype
        fast = like.device.type == "cuda"
        return x.detach().to(like.device, kind, copy=True, non_blocking=fast)

    return move


def _resized(x: Any, like: Tensor, factor: float) -> Any:
    """An output in the precision of the weights, times a factor."""
    floating = isinstance(x, Tensor) and x.is_floating_point()
    return x.to(like.dtype) * factor if floating else x


def losses(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of outputs (networks, batch, classes): mean loss of each network, and how many are wrong."""
    each = cross_entropy(outputs.flatten(0, 1), labels.flatten(), reduction="none")
    wrong = (outputs.detach().argmax(2) != labels).sum(1)
    return each.view(labels.shape).mean(1), wrong
