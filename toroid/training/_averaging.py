"""Stochastic weight averaging."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..data import Dataset
from ..evaluation import refresh
from ._checkpoint import Checkpoint
from ._settings import SCHEDULES, Settings
from ._trained import Trained, begin, finished


def swa(
    model: nn.Module, train: Dataset, *, generator: torch.Generator, start: float = 0.75,
    progress: bool = False, checkpoint: Checkpoint | None = None, **settings: Any,
) -> Trained:  # fmt: skip
    """Stochastic weight averaging: the mean of SGD's weights over its last epochs.

    The learning rate stays where it is at `start`; the result is the mean of the weights after each
    epoch from there on, with BatchNorm's statistics estimated again on the training data (Izmailov
    et al. 2018).

    Args:
        model: Where to start; it is not changed.
        train: As in `sgd`.
        generator: As in `sgd`.
        start: Fraction of the epochs before the averaging begins.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.
        **settings: Those of `Settings`; the schedule is followed up to `start`.

    Returns:
        The averaged state, the history and the report, as `sgd`.

    Raises:
        TypeError: As `sgd`.
        ValueError: As `sgd`, and if `start` is not in [0, 1).
        FloatingPointError: As `sgd`.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(32,))
        >>> trained = swa(model, train, epochs=8, generator=torch.Generator().manual_seed(0))
        >>> toroid.evaluate(trained.state, model, test).error < 0.2
        True
    """
    if not 0 <= start < 1:
        raise ValueError(f"start is {start}; it must be in [0, 1)")
    shared = Settings.of(**settings)
    own = {"algorithm": "swa", "start": start}
    loop = begin([model], train, [generator], shared, progress, checkpoint, own)
    weights = loop.networks.weights
    total = {k: torch.zeros_like(w[0]) for k, w in weights.items()}
    count = torch.zeros((), dtype=torch.long)
    loop.memory.update(total, count=count)

    def after(epoch: int) -> dict[str, float]:
        if epoch + 1 > start * shared.epochs:
            count.add_(1)
            for name, weight in weights.items():
                total[name] += weight[0].detach()
        return {}

    (history,) = loop.run(
        after=after, rate=lambda done: SCHEDULES[shared.schedule](min(done, start))
    )
    mean = {k: v / count for k, v in total.items()} if count else {}
    averaged = refresh({**loop.networks.single(), **mean}, model, train)
    return finished(averaged, history, model, train)
