"""What a training leaves, and how one begins and ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ..data import Dataset
from ..evaluation import evaluate
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


def shortfall(error: float, train: Dataset) -> str:
    """Why a network with this training error is not what was asked for; empty if it is."""
    chance = 1 - int(train.labels.bincount().max()) / len(train)
    if error <= NEAR_ZERO:
        return ""
    if error > 0.95 * chance:
        return (
            f"nothing was learnt: the training error is {error:.2%}, by chance it is {chance:.2%}"
        )
    return f"the training error is {error:.2%}, not at most {NEAR_ZERO:.1%}"


def finished(
    state: dict[str, Tensor], history: pd.DataFrame, model: nn.Module, train: Dataset
) -> Trained:
    """With a report of whether the training data were learnt."""
    return Trained(
        state, history, {"failed": shortfall(evaluate(state, model, train).error, train)}
    )


def begin(
    models: Sequence[nn.Module],
    train: Dataset,
    generators: Sequence[torch.Generator],
    settings: Settings,
    progress: bool,
    checkpoint: Checkpoint | None,
    identity: Mapping[str, Any] | None = None,
    stacked: bool | None = None,
) -> Loop:
    device = train.images.device
    networks = Networks(models, device, settings.precision, stacked, generators)
    return Loop(networks, train, generators, settings, progress, checkpoint, identity)
