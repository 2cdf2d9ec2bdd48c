"""What every algorithm of training takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .._state import check_choice, check_whole
from ..evaluation import PRECISIONS

#: Factor on the learning rate as a function of the fraction of the training that is done.
SCHEDULES = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "steps": lambda done: 0.2 ** ((done >= 1 / 2) + (done >= 3 / 4)),  # epochs 150 and 225 of 300
}


@dataclass(frozen=True)
class Settings:
    """What every algorithm takes, by name; the result depends on all of it.

    The defaults are those of the paper's authors (their code for arXiv 2006.07897), but for the
    schedule, which is theirs with ``"steps"``.

    Args:
        epochs: Passes over the data, an integer; 0 returns the start.
        batch_size: Images in a step, at most all of them; an epoch leaves out the remainder
            (another one each time).
        lr: Learning rate at the start, after the warm-up; positive.
        momentum: In [0, 1).
        nesterov: Nesterov's momentum (ignored without momentum).
        weight_decay: Times the weights, added to the gradient; not negative.
        schedule: ``"cosine"`` to 0, ``"steps"`` (divided by 5 at 1/2 and 3/4 of the epochs),
            ``"constant"``.
        warmup: Epochs over which a factor on the learning rate rises linearly to 1, an integer: a
            network without BatchNorm that starts at a high rate may never leave chance.
        augment: Shift by up to 4 pixels (an eighth of a CIFAR image) and flip left and right;
            takes images (N, channels, height, width).
        precision: ``"float32"``: that of the weights; ``"bfloat16"``: layers compute in it (by
            autocast, convolutions channels last), weights and updates stay as they are.

    Raises:
        ValueError: If a value is none of those; says which there are.
    """

    epochs: int
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup: int = 0
    augment: bool = False
    precision: str = "float32"

    def __post_init__(self) -> None:
        check_choice("schedule", self.schedule, tuple(SCHEDULES))
        check_choice("precision", self.precision, tuple(PRECISIONS))
        for name, least in (("epochs", 0), ("batch_size", 1), ("warmup", 0)):
            object.__setattr__(self, name, check_whole(name, getattr(self, name), least))
        for name, valid, what in (
            ("lr", 0 < self.lr < math.inf, "positive"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or positive"),
        ):
            if not valid:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {what}")

    @classmethod
    def of(cls, **settings: Any) -> Settings:
        """Those of a caller's keyword arguments.

        Raises:
            TypeError: If there is no such setting, or ``epochs`` is missing; names the valid ones.
            ValueError: As `Settings`.
        """
        valid = [f.name for f in fields(cls)]
        if unknown := [name for name in settings if name not in valid]:
            raise TypeError(f"no setting {', '.join(unknown)}; there are {', '.join(valid)}")
        if "epochs" not in settings:
            raise TypeError("the setting epochs is missing: how many passes over the data")
        return cls(**settings)

    def optimizer(self, weights: Sequence[Tensor]) -> torch.optim.SGD:
        """Steps down a gradient."""
        return torch.optim.SGD(
            weights, self.lr, self.momentum, weight_decay=self.weight_decay,
            nesterov=self.nesterov and self.momentum > 0,
        )  # fmt: skip
