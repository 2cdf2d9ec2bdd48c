"""What a network is asked: how it is called on a batch, and how its outputs are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils._pytree import tree_leaves

__all__ = [
    "Task", "binary", "classification", "language", "multilabel", "regression", "segmentation",
]  # fmt: skip

Part = str | int | tuple[str | int, ...] | Callable[[Any], Any] | None
Judge = Callable[[Any, Any], Tensor]

#: What targets are called in a batch that is a dict, unless a task says otherwise.
NAMES = ("labels", "label", "targets", "target", "y")


# --- judges: outputs and targets of a batch to a number, or to one for each example -----------


def _classes_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    _check_classes(outputs, targets, 2, "classification", "(N, classes) and (N,)")
    return _cross_entropy(outputs, targets, "mean")


def _classes_error(outputs: Tensor, targets: Tensor) -> Tensor:
    _check_classes(outputs, targets, 2, "classification", "(N, classes) and (N,)")
    if (targets < 0).any():
        raise ValueError(
            f"targets hold {int(targets.min())}, the number of no class: leave such examples out"
        )
    return (outputs.argmax(1) != targets) | ~outputs.isfinite().all(1)


def _check_classes(outputs: Any, targets: Any, least: int, task: str, shapes: str) -> None:
    """Logits over classes, and the number of a class for each place."""
    _check_tensors(outputs, targets, task)
    if least == 2 and outputs.shape[1:] == (1,):
        raise ValueError(
            "the network has one output, which tells no classes apart by the largest; say what it "
            "is: task=toroid.tasks.binary (one logit) or toroid.tasks.regression (a number)"
        )
    whole = not (targets.is_floating_point() or targets.is_complex())
    without = (*outputs.shape[:1], *outputs.shape[2:])
    if not whole or outputs.dim() < least or targets.shape != without or least == 2 < outputs.dim():
        raise ValueError(
            f"the task {task} takes outputs and targets of shapes {shapes}, targets of integers; "
            f"the outputs are {tuple(outputs.shape)}, the targets {tuple(targets.shape)} of "
            f"{targets.dtype}. Another task is chosen by task=, e.g. toroid.tasks.regression"
        )


def _check_tensors(outputs: Any, targets: Any, task: str) -> None:
    for what, x in (("outputs", outputs), ("targets", targets)):
        check_one(what, x, task)


def check_one(what: str, x: Any, task: str) -> None:
    """Outputs or targets as one tensor."""
    if isinstance(x, Tensor):
        return
    named = f" of {', '.join(map(repr, x))}" if isinstance(x, Mapping) else ""
    held = [leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]
    way = (
        f"Say which counts: task=toroid.tasks.{task}({what}=...), its place, its name or a function"
        if held or isinstance(x, Mapping)
        else "Make a tensor of them: torch.as_tensor()"
    )
    raise ValueError(
        f"the {what} are a {type(x).__name__}{named}; the task {task} takes one tensor. {way}"
    )


def _cross_entropy(outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
    try:
        return cross_entropy(outputs, targets.long(), reduction=reduction)
    except IndexError as error:
        raise ValueError(
            f"targets go from {int(targets.min())} to {int(targets.max())}, but the network has "
            f"outputs for {outputs.shape[1]} classes, 0 to {outputs.shape[1] - 1}"
        ) from error


def _alike(outputs: Any, targets: Any, task: str) -> tuple[Tensor, Tensor]:
    """Both as (N, numbers) of one shape; (N, 1) and (N,) are one."""
    _check_tensors(outputs, targets, task)
    same = outputs.shape == targets.shape or (
        outputs.numel() == targets.numel() == len(outputs) == len(targets)
    )
    if not outputs.dim() or not same:
        raise ValueError(
            f"the task {task} takes outputs and targets of one shape; the outputs are "
            f"{tuple(outputs.shape)}, the targets {tuple(targets.shape)}"
        )
    rows = outputs.reshape(len(outputs), -1)
    return rows, targets.reshape(rows.shape).to(rows)


def _logits_loss(outputs: Tensor, targets: Tensor, task: str) -> Tensor:
    return binary_cross_entropy_with_logits(*_alike(outputs, targets, task))


def _logits_error(outputs: Tensor, targets: Tensor, task: str) -> Tensor:
    rows, labels = _alike(outputs, targets, task)
    if (other := labels[(labels != 0) & (labels != 1)]).numel():
        raise ValueError(f"targets hold {float(other[0]):g}; the task {task} takes 0 and 1")
    wrong = ((rows > 0) != (labels > 0)) | ~rows.isfinite()
    return wrong.to(rows).mean(1)


def _squares(outputs: Tensor, targets: Tensor) -> Tensor:
    rows, values = _alike(outputs, targets, "regression")
    return (rows - values).square().mean(1)


def _mean_of_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return _squares(outputs, targets).mean()


def _over_places(each: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """The mean over an example's places that count; 0 where none does."""
    each, valid = (x.reshape(len(targets), -1) for x in (each, valid))
    return torch.where(valid, each, 0).sum(1) / valid.sum(1).clamp_min(1)


#: Of the tasks with logits at many places: which dimension the classes are, and the shapes.
PLACES = {
    "segmentation": (1, "(N, classes, height, width) and (N, height, width)"),
    "language": (-1, "(N, tokens, vocabulary) and (N, tokens)"),
}


def _at_places(outputs: Tensor, targets: Tensor, task: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, classes, places), labels (N, places), and which of the places count."""
    classes, shapes = PLACES[task]
    _check_tensors(outputs, targets, task)
    logits = outputs.movedim(classes, 1) if outputs.dim() > 2 else outputs
    _check_classes(logits, targets, 3, task, shapes)
    ignored = (targets < 0) | ((targets == 255) & (logits.shape[1] <= 255))
    return logits, torch.where(ignored, 0, targets), ~ignored


def _places_loss(outputs: Tensor, targets: Tensor, task: str) -> Tensor:
    logits, labels, valid = _at_places(outputs, targets, task)
    return _over_places(_cross_entropy(logits, labels, "none"), targets, valid).mean()


def _places_error(outputs: Tensor, targets: Tensor, task: str) -> Tensor:
    logits, labels, valid = _at_places(outputs, targets, task)
    wrong = (logits.argmax(1) != labels) | ~logits.isfinite().all(1)
    return _over_places(wrong.to(logits), targets, valid)


# --- tasks ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Task:
    """How a network is called on a batch, and what loss and error its outputs have.

    A part of a batch, or of what a network returns, is said by its place (an integer), by its name
    (a string), by a tuple of those, or by a function.

    Attributes:
        loss: From outputs and targets of a batch to the mean loss over its examples.
        error: From the same to one number for each example, (N,): wrong or not, or how wrong.
        inputs: From a batch to what the network takes; a tuple is several arguments, and a dict
            is named ones where ``forward`` has parameters of these names, else one argument. By
            default all of a batch but the targets.
        targets: From a batch to the targets; by default the last of a tuple or list, of a dict
            what is called ``labels``, ``label``, ``targets``, ``target`` or ``y``, and a batch of
            one tensor is its own target, as an autoencoder's.
        outputs: From what the network returns to what `loss` and `error` take; by default all.

    Example:
        >>> import torch, toroid
        >>> far = toroid.Task(
        ...     loss=lambda out, y: (out[:, 0] - y).abs().mean(),
        ...     error=lambda out, y: (out[:, 0] - y).abs() > 1,
        ... )
        >>> model, x = torch.nn.Linear(3, 1), torch.randn(8, 3)
        >>> toroid.evaluate(model.state_dict(), model, [(x, 9 + x[:, 0])], task=far).error
        1.0
    """

    loss: Judge = _classes_loss
    error: Judge = _classes_error
    inputs: Part = None
    targets: Part = None
    outputs: Part = None

    def __call__(self, **parts: Any) -> Task:
        """The same task with other parts, e.g. ``toroid.tasks.classification(outputs="logits")``.

        Args:
            **parts: Attributes of `Task`.

        Raises:
            TypeError: If there is no such attribute.
        """
        return replace(self, **parts)

    def split(self, batch: Any) -> tuple[Any, Any]:
        """Inputs and targets of a batch.

        Args:
            batch: A tuple, list, dict or single tensor, or anything that the attributes take apart.

        Raises:
            ValueError: If the batch has no such part, or is a dict without known targets.

        Example:
            >>> Task().split(("image", "label"))
            ('image', 'label')
            >>> Task(targets="age").split({"image": "i", "age": "a"})
            ({'image': 'i'}, 'a')
        """
        names = _names(batch)
        if not names:
            inputs, targets = (
                batch if part is None else take(batch, part) for part in (self.inputs, self.targets)
            )
            return inputs, targets
        target = self.targets
        if target is None:
            target = _target(batch, names)
        inputs = _rest(batch, names, target) if self.inputs is None else take(batch, self.inputs)
        return inputs, take(batch, target)


def _names(batch: Any) -> list[Any]:
    """What the items of a batch are called; a single tensor, or another object, has none."""
    if isinstance(batch, Mapping):
        return [*batch]
    return [*range(len(batch))] if isinstance(batch, (tuple, list)) else []


def _target(batch: Any, names: list[Any]) -> Any:
    if not isinstance(batch, Mapping):
        return names[-1]
    known = [name for name in NAMES if name in names]
    if not known:
        raise ValueError(
            f"the batch is a dict of {', '.join(map(repr, names))}, none of which is called "
            f"{', '.join(NAMES)}; say which are the targets: task=toroid.Task(targets=...)"
        )
    return known[0]


def _rest(batch: Any, names: list[Any], target: Any) -> Any:
    """All of a batch but its targets; the only item of a batch is both."""
    taken = [target] if isinstance(target, (str, int)) else target
    if callable(taken):
        taken = NAMES if isinstance(batch, Mapping) else names[-1:]
    taken = [names[t] if isinstance(t, int) and t < 0 else t for t in taken]
    kept = [name for name in names if name not in taken] or names
    if isinstance(batch, Mapping):
        return {name: batch[name] for name in kept}
    inputs = tuple(batch[name] for name in kept)
    if len(inputs) > 1:
        return inputs
    return tuple(inputs[0]) if isinstance(inputs[0], list) else inputs[0]


def take(whole: Any, part: Part) -> Any:
    """A part of a batch, or of what a network returns.

    Args:
        whole: What it is a part of.
        part: As in `Task`.

    Raises:
        ValueError: If there is no such part.
    """
    if part is None:
        return whole
    if callable(part):
        return part(whole)
    if isinstance(part, tuple):
        return tuple(take(whole, one) for one in part)
    if isinstance(part, str) and not isinstance(whole, Mapping) and hasattr(whole, part):
        return getattr(whole, part)
    try:
        return whole[part]
    except (KeyError, IndexError, TypeError) as error:
        names = _names(whole)
        there = f"; there are {', '.join(map(repr, names))}" if names else ""
        raise ValueError(f"a {type(whole).__name__} has no part {part!r}{there}") from error


def _next_tokens(batch: Any) -> Tensor:
    """The token after each place; -100 where there is none."""
    inputs, targets = Task(targets=_tokens).split(batch)
    tokens = next(x for x in tree_leaves(inputs) if isinstance(x, Tensor))
    if targets.shape != tokens.shape or not ((targets == tokens) | (targets < 0)).all():
        return targets
    return torch.cat([targets[:, 1:], torch.full_like(targets[:, :1], -100)], 1)


def _tokens(batch: Any) -> Tensor:
    """The targets as they stand in a batch, or the first of a dict that has none."""
    if isinstance(batch, Mapping) and not any(name in batch for name in NAMES):
        return next(iter(batch.values()))
    return Task().split(batch)[1]


def _task(
    loss: Callable[..., Tensor], error: Callable[..., Tensor], name: str, **parts: Any
) -> Task:
    return Task(loss=partial(loss, task=name), error=partial(error, task=name), **parts)


#: Logits (N, classes) and the number of each example's class (N,): cross-entropy in nats, and
#: whether the largest logit is another class's. The default.
classification = Task()

#: One logit for each example, (N,) or (N, 1), and 0 or 1: binary cross-entropy, and whether the
#: logit has the wrong sign.
binary = _task(_logits_loss, _logits_error, "binary")

#: Logits (N, labels) and 0 or 1 for each: the mean binary cross-entropy over labels, and the
#: fraction of an example's labels that are wrong.
multilabel = _task(_logits_loss, _logits_error, "multilabel")

#: Numbers of one shape: the mean square of their difference is the loss, and each example's the
#: error. The scale of the outputs counts: normalise with ``output="keep"``.
regression = Task(loss=_mean_of_squares, error=_squares)

#: Logits (N, classes, height, width) and classes (N, height, width): the mean cross-entropy over an
#: image's pixels, and the fraction of them that is wrong. Negative classes, and 255 where there are
#: not so many, do not count.
segmentation = _task(_places_loss, _places_error, "segmentation")

#: Logits (N, tokens, vocabulary) and the next token of each place: the mean cross-entropy over a
#: sequence's places, and the fraction of next tokens that are not the likeliest. A batch is tokens
#: (N, tokens), or inputs and targets, which are shifted by one if they are the inputs themselves.
#: Negative targets do not count.
language = _task(_places_loss, _places_error, "language", targets=_next_tokens)


def probable(task: Task, outputs: Any) -> bool:
    """Whether all of what a task takes for logits lies in [0, 1], where probabilities do."""
    logits = getattr(task.error, "func", None) is _logits_error
    return logits and bool(((outputs >= 0) & (outputs <= 1)).all())


def identity(task: Task) -> dict[str, str]:
    """What tells tasks apart, in words: functions by their names."""
    return {f"task.{f.name}": _named(getattr(task, f.name)) for f in fields(task)}


def _named(part: Any) -> str:
    if isinstance(part, partial):
        return f"{_named(part.func)} {part.keywords}"
    kind = part if hasattr(part, "__qualname__") else type(part)
    return f"{kind.__module__}.{kind.__qualname__}" if callable(part) else repr(part)


def checked_task(task: Any) -> Task:
    """A task, or an error that says what one is."""
    if not isinstance(task, Task):
        raise ValueError(
            f"task is {task!r:.80}; it takes a toroid.Task(loss=, error=), or one that is ready: "
            "toroid.tasks.classification, binary, multilabel, regression, segmentation, language"
        )
    return task


def judged(task: Task, outputs: Any, targets: Any, count: int) -> tuple[Tensor, Tensor]:
    """Errors (N,) and mean loss of a batch, as the task says; that they are such is checked."""
    errors, loss = task.error(outputs, targets), mean_loss(task, outputs, targets)
    if not isinstance(errors, Tensor) or errors.shape != (count,):
        found = tuple(errors.shape) if isinstance(errors, Tensor) else type(errors).__name__
        raise ValueError(
            f"the task's error gave {found} for {count} examples; it must give one number for "
            f"each, a tensor of shape ({count},)"
        )
    return errors.double(), loss


def mean_loss(task: Task, outputs: Any, targets: Any) -> Tensor:
    """The loss of a batch, as the task says; that it is one number is checked."""
    loss = task.loss(outputs, targets)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"the task's loss gave {found}; it must give the mean over the examples, a tensor of "
            "one number"
        )
    return loss
