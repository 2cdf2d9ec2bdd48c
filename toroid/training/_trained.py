"""What a training leaves, and how one begins and ends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from .._batches import Data
from .._state import check_finite, check_generator
from ..data import Dataset
from ..evaluation import evaluate
from ..tasks import Task, checked_task, classification
from ._checkpoint import Checkpoint
from ._loop import Loop
from ._networks import Networks
from ._settings import Settings


@dataclass(frozen=True)
class Trained:
    """What a training leaves.

    Attributes:
        state: The final state dict.
        history: One row for each epoch: epoch, learning rate, mean training loss and error during
            the epoch (of the moving weights, with augmentation), and what else an algorithm has to
            say.
        report: What an algorithm says of its end; ``"failed"`` is empty, or says why the result is
            not what was asked for.
    """

    state: dict[str, Tensor]
    history: pd.DataFrame
    report: dict[str, Any] = field(default_factory=lambda: {"failed": ""})


#: The training error, as a fraction, up to which a network counts as a minimizer.
NEAR_ZERO = 0.005


def shortfall(error: float, train: Data, task: Task = classification) -> str:
    """Why a classifier with this training error is not what was asked for; empty if it is.

    Of other tasks nobody knows which error is small.
    """
    if error <= NEAR_ZERO or task.error is not classification.error:
        return ""
    chance = math.inf
    if isinstance(train, Dataset):
        chance = 1 - int(train.labels.bincount().max()) / len(train)
    if error > 0.95 * chance:
        return (
            f"nothing was learnt: the training error is {error:.2%}, by chance it is {chance:.2%}"
        )
    return f"the training error is {error:.2%}, not at most {NEAR_ZERO:.1%}"


def finished(
    state: dict[str, Tensor], history: pd.DataFrame, model: nn.Module, train: Data, task: Task
) -> Trained:
    """With a report of whether the training data were learnt."""
    error = evaluate(state, model, train, task=task).error
    return Trained(state, history, {"failed": shortfall(error, train, task)})


def check_start(model: nn.Module, generator: torch.Generator) -> None:
    """A network whose weights are numbers, and what draws the rest."""
    check_generator(generator)
    check_finite(dict(model.named_parameters()), set())  # infinite ones may be meant


def begin(
    models: Sequence[nn.Module],
    train: Data,
    generators: Sequence[torch.Generator],
    settings: Settings,
    progress: bool,
    checkpoint: Checkpoint | None,
    identity: Mapping[str, Any] | None = None,
    stacked: bool | None = None,
    task: Task = classification,
) -> Loop:
    for model, generator in zip(models, generators, strict=True):
        check_start(model, generator)
    networks = Networks(
        models, device_of(train, models[0]), settings.precision, stacked, generators,
        checked_task(task),
    )  # fmt: skip
    return Loop(networks, train, generators, settings, progress, checkpoint, identity)


def device_of(train: Data, model: nn.Module) -> torch.device:
    """Where a training runs: where a `Dataset` is, else where the model is."""
    if isinstance(train, Dataset):
        return train.images.device
    first: Tensor = next(iter(model.state_dict().values()))
    return first.device
