"""Stochastic weight averaging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from .._batches import Data
from ..evaluation import refresh
from ..tasks import Task, classification
from ._checkpoint import Checkpoint
from ._settings import SCHEDULES, Keywords, Settings, Share
from ._trained import Trained, begin, finished

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True, kw_only=True)
class SWA(Settings):
    """`Settings` of `swa`.

    Args:
        start: Fraction of the epochs before the averaging begins, in [0, 1).
    """

    algorithm: ClassVar[str] = "swa"

    start: Share = 0.75


class SWAKeywords(Keywords, total=False):
    """`SWA` as keyword arguments."""

    start: float


def swa(
    model: nn.Module, train: Data, *, generator: torch.Generator, task: Task = classification,
    progress: bool = False, checkpoint: Checkpoint | None = None, **settings: Unpack[SWAKeywords],
) -> Trained:  # fmt: skip
    """Stochastic weight averaging: the mean of SGD's weights over its last epochs.

    The learning rate stays where it is at ``start``; the result is the mean of the weights after
    each epoch from there on, with BatchNorm's statistics estimated again on the training data
    (Izmailov et al. 2018).

    Args:
        model: Where to start; it is not changed.
        train: As in `sgd`.
        generator: As in `sgd`.
        task: As in `sgd`.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.
        **settings: Those of `SWA`: ``start``, and all of `Settings`; the schedule is followed up to
            ``start``.

    Returns:
        The averaged state, the history and the report, as `sgd`.

    Raises:
        TypeError: As `sgd`.
        ValueError: As `sgd`.
        FloatingPointError: As `sgd`.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(32,))
        >>> trained = swa(model, train, epochs=8, generator=torch.Generator().manual_seed(0))
        >>> toroid.evaluate(trained.state, model, test).error < 0.2
        True
    """
    chosen = SWA.of(**settings)
    loop = begin([model], train, [generator], chosen, progress, checkpoint, task=task)
    weights = loop.networks.weights
    total = {k: torch.zeros_like(w[0]) for k, w in weights.items()}
    count = torch.zeros((), dtype=torch.long)
    loop.memory.update(total, count=count)

    def after(epoch: int) -> dict[str, float]:
        if epoch + 1 > chosen.start * chosen.epochs:
            count.add_(1)
            for name, weight in weights.items():
                total[name] += weight[0].detach()
        return {}

    schedule = SCHEDULES[chosen.schedule]
    (history,) = loop.run(after=after, rate=lambda done: schedule(min(done, chosen.start)))
    mean = {k: v / count for k, v in total.items()} if count else {}
    averaged = refresh(
        loop.networks.whole({**loop.networks.single(), **mean}), model, train, task=task
    )
    return finished(averaged, history, model, train, task)
