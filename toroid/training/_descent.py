"""Plain stochastic gradient descent, of one network or several at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from .._batches import Data
from .._state import check_list
from ..tasks import Task, classification
from ._checkpoint import Checkpoint
from ._settings import Keywords, Settings
from ._trained import Trained, begin, finished

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True, kw_only=True)
class SGD(Settings):
    """`Settings` of `sgd`, which adds none."""

    algorithm: ClassVar[str] = "sgd"


def sgd(
    model: nn.Module, train: Data, *, generator: torch.Generator, task: Task = classification,
    progress: bool = False, checkpoint: Checkpoint | None = None, **settings: Unpack[Keywords],
) -> Trained:  # fmt: skip
    """Stochastic gradient descent on a task's loss, from the model's own weights.

    Args:
        model: Where to start; it is not changed.
        train: Training data: a `toroid.data.Dataset`, which is resident (the training runs on its
            device), or any other, as `toroid.evaluate` takes, which come in batches of their own
            to the device of the model.
        generator: Draws the order of the images and the augmentation (on the CPU); for other data
            the seed of a loader's order, or the order of a list's batches.
        task: How the network is called on a batch, and what its error and loss are; by default
            those of a classifier. See `toroid.tasks`.
        progress: Show a progress bar.
        checkpoint: Where to save each epoch, and to go on from.
        **settings: Those of `Settings`; ``epochs`` is needed.

    Returns:
        The trained state, the history, and a report that says so if more than `NEAR_ZERO` of the
        training data are wrong at the end; nothing for tasks other than classification, of which
        nobody knows what error is small.

    Raises:
        TypeError: If there is no such setting, or ``epochs`` is missing.
        ValueError: If a setting has no such value, or the checkpoint is of another run; if data
            other than a `Dataset` are to be augmented; as `toroid.evaluate`.
        FloatingPointError: If the loss is no longer finite; names the epoch.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(32,))
        >>> trained = sgd(model, train, epochs=5, generator=torch.Generator().manual_seed(0))
        >>> toroid.evaluate(trained.state, model, test).error < 0.2
        True
    """
    (trained,) = sgd_many(
        [model], train, generators=[generator], task=task, progress=progress,
        checkpoint=checkpoint, **settings,
    )  # fmt: skip
    return trained


def sgd_many(
    models: Sequence[nn.Module], train: Data, *, generators: Sequence[torch.Generator],
    task: Task = classification, progress: bool = False, checkpoint: Checkpoint | None = None,
    stacked: bool | None = None,
    **settings: Unpack[Keywords],
) -> list[Trained]:  # fmt: skip
    """`sgd` for several models of one shape at once, each with its own generator.

    The results are those of one by one, within rounding.

    Args:
        models: Where to start; they are not changed.
        train: As in `sgd`.
        generators: One for each model.
        task: As in `sgd`.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.
        stacked: Run them as one network of stacked tensors; by default on a GPU.
        **settings: Those of `Settings`.

    Returns:
        One `Trained` for each model.

    Raises:
        TypeError: As `sgd`.
        ValueError: As `sgd`, and if there is not one generator for each model.
        FloatingPointError: As `sgd`.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> models = [toroid.mlp(train.shape, classes=10, hidden=(8,)) for _ in range(2)]
        >>> generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        >>> len(sgd_many(models, train, generators=generators, epochs=1))
        2
    """
    models = check_list("models", models, "networks")
    generators = check_list("generators", generators, "torch.Generator")
    if not models:
        raise ValueError("sgd_many takes at least one model")
    if len(models) != len(generators):
        raise ValueError(f"{len(models)} models, but {len(generators)} generators")
    chosen = SGD.of(**settings)
    loop = begin(
        models, train, generators, chosen, progress, checkpoint, stacked=stacked, task=task
    )
    histories = loop.run()
    return [
        finished(loop.networks.single(i), history, models[i], train, task)
        for i, history in enumerate(histories)
    ]
