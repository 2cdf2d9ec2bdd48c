"""SGD from an adversarial initialisation: random labels first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .._batches import Batches, Data
from ..data import Dataset
from ..evaluation import evaluate
from ..tasks import Task, checked_task, classification
from ._checkpoint import PARTS, Checkpoint
from ._loop import Loop
from ._settings import (
    SCHEDULES,
    Choice,
    Count,
    Keywords,
    Natural,
    NotNegative,
    Positive,
    Settings,
    Share,
)
from ._trained import Trained, begin, check_start, shortfall

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True, kw_only=True)
class Adversarial(Settings):
    """`Settings` of `adversarial`; those of the base hold for the true labels.

    Args:
        momentum: As in `Settings`, like those that follow: nothing that regularises.
        nesterov: As in `Settings`.
        weight_decay: As in `Settings`.
        schedule: As in `Settings`.
        augment: As in `Settings`.
        repeats: Copies of each image in the confusion set (the source: 1 to 10); positive.
        zeroed: Fraction of their entries that are set to zero, in [0, 1).
        confusion_epochs: On the random labels, at most.
        confusion_lr: Learning rate there, divided by 10 at 3/7 and 5/7 (epochs 150 and 250 of 350);
            positive.
    """

    algorithm: ClassVar[str] = "adversarial"

    momentum: Share = 0.0
    nesterov: bool = False
    weight_decay: NotNegative = 0.0
    schedule: Annotated[str, Choice(tuple(SCHEDULES))] = "constant"
    augment: bool = False
    repeats: Natural = 1
    zeroed: Share = 0.1
    confusion_epochs: Count = 350
    confusion_lr: Positive = 0.1


class AdversarialKeywords(Keywords, total=False):
    """`Adversarial` as keyword arguments."""

    repeats: int
    zeroed: float
    confusion_epochs: int
    confusion_lr: float


def adversarial(
    model: nn.Module, train: Data, *, generator: torch.Generator, task: Task = classification,
    progress: bool = False, checkpoint: Checkpoint | None = None,
    **settings: Unpack[AdversarialKeywords],
) -> Trained:  # fmt: skip
    """SGD from an adversarial initialisation: a minimum that generalises badly.

    First random labels are learnt: every image ``repeats`` times, a random tenth of its entries set
    to zero, with a label drawn at random, by plain SGD until 99.99 % are right. From there the true
    labels, with nothing that regularises (Liu, Papailiopoulos, Achlioptas 2020, arXiv 1906.02613).

    In other tasks and data an example gets the targets of another, drawn at random, and holes where
    its inputs are floating; such a confusion set is kept in memory.

    Args:
        model: Where to start; it is not changed.
        train: As in `sgd`.
        generator: Draws the confusion set, its labels, and the order of the images.
        task: As in `sgd`.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.
        **settings: Those of `Adversarial`: ``repeats``, ``zeroed``, ``confusion_epochs``,
            ``confusion_lr``, and all of `Settings`, for the true labels.

    Returns:
        The trained state; a history of both parts (column ``labels``: random, true); and a report
        that says so if the random labels were not learnt, or the true ones not.

    Raises:
        TypeError: As `sgd`.
        ValueError: As `sgd`, and if targets of different batches have other shapes.
        FloatingPointError: As `sgd`.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(32,))
        >>> generator = torch.Generator().manual_seed(0)
        >>> trained = adversarial(model, train, epochs=1, confusion_epochs=1, generator=generator)
        >>> trained.report["failed"]
        'the random labels were not learnt: ...
    """
    chosen = Adversarial.of(**settings)
    plain = Settings(
        epochs=chosen.confusion_epochs, batch_size=chosen.batch_size, lr=chosen.confusion_lr,
        momentum=0.0, weight_decay=0.0, warmup=chosen.warmup, precision=chosen.precision,
    )  # fmt: skip
    check_start(model, generator)
    classes = isinstance(train, Dataset) and checked_task(task) is classification
    confusion, confused = (
        (_random_labels(train, chosen, generator), task)
        if classes
        else _others_targets(model, train, task, chosen, generator)
    )
    random, true = (checkpoint and checkpoint.part(name) for name in PARTS)
    run = chosen.identity()
    loop = begin([model], confusion, [generator], plain, progress, random, run, task=confused)
    networks = loop.networks

    def wrong() -> float:
        return evaluate(networks.single(), model, confusion, task=confused).error

    def learnt(epoch: int) -> dict[str, float] | None:
        return None if wrong() <= 1e-4 else {}

    def tenths(done: float) -> float:
        return 0.1 ** ((done >= 3 / 7) + (done >= 5 / 7))

    (first,) = loop.run(after=learnt, rate=tenths)
    left, networks.task = wrong(), task
    (second,) = Loop(networks, train, [generator], chosen, progress, true).run()
    error = evaluate(networks.single(), model, train, task=task).error
    short = left > 1e-4 and task.error is classification.error
    failed = f"the random labels were not learnt: {left:.2%} wrong" if short else ""
    failed = failed or shortfall(error, train, task)
    report = {"failed": failed, "confusion_error": left, "confusion_epochs": len(first)}
    parts = [first.assign(labels="random"), second.assign(labels="true")]
    history = pd.concat([part for part in parts if len(part)] or parts)
    return Trained(networks.single(), history.reset_index(drop=True), report)


def _random_labels(train: Dataset, chosen: Adversarial, generator: torch.Generator) -> Dataset:
    """Copies of the images with holes, and labels that mean nothing."""
    images = train.images.repeat_interleave(chosen.repeats, 0)
    drawn = torch.rand(images.shape, generator=generator, dtype=torch.float32)
    holes = drawn.to(images.device) < chosen.zeroed
    labels = torch.randint(train.classes, (len(images),), generator=generator)
    images = images.masked_fill(holes, 0.0)
    return replace(train, images=images, labels=labels.to(images.device))


def _others_targets(
    model: nn.Module, train: Data, task: Task, chosen: Adversarial, generator: torch.Generator
) -> tuple[list[Any], Task]:
    """Copies of the batches with holes, and targets of other examples."""
    batches = [*Batches(train, task, chosen.batch_size, model)] * chosen.repeats
    order = torch.randperm(sum(b.examples for b in batches), generator=generator)
    parts = order.split([b.examples for b in batches])
    try:
        every = tree_map(lambda *x: torch.cat(x), *(b.targets for b in batches))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            "the targets of the batches have different shapes, so that no example can have those "
            f"of another: {error}"
        ) from error

    def holed(x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        drawn = torch.rand(x.shape, generator=generator, dtype=torch.float32)
        return x.masked_fill(drawn.to(x.device) < chosen.zeroed, 0.0)

    confusion = [
        (tree_map(holed, b.named or b.arguments), tree_map(lambda x, i=part: x[i], every))
        for b, part in zip(batches, parts, strict=True)
    ]
    return confusion, task(inputs=0, targets=1)
