"""What the algorithms of training take: one frozen dataclass each, which everybody reads.

A field is declared once, with its type, its range and its default. The call of an algorithm, the
description of a minimizer, a checkpoint and a page read it from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, TypedDict, get_type_hints

import numpy as np
import torch
from torch import Tensor

from .._state import check_choice, check_whole
from ..evaluation import PRECISIONS

if TYPE_CHECKING:
    from typing_extensions import Required, Self

#: Factor on the learning rate as a function of the fraction of the training that is done.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "steps": lambda done: 0.2 ** ((done >= 1 / 2) + (done >= 3 / 4)),  # epochs 150 and 225 of 300
}


class Range(NamedTuple):
    """The numbers that a setting can be."""

    words: str
    holds: Callable[[Any], bool]

    def check(self, name: str, value: Any) -> None:
        """NaN is in no range."""
        if not self.holds(value):
            raise ValueError(f"{name} is {value!r}; it must be {self.words}")


class Choice(NamedTuple):
    """The names that a setting can be."""

    names: tuple[str, ...]

    def check(self, name: str, value: Any) -> None:
        """One of them."""
        check_choice(name, value, self.names)


class Later(NamedTuple):
    """A setting that came later: descriptions leave it out where it changes nothing."""

    neutral: Any

    def check(self, name: str, value: Any) -> None:
        """Every value is as good."""


Count = Annotated[int, Range("0 or more", lambda n: n >= 0)]
Natural = Annotated[int, Range("positive", lambda n: n >= 1)]
Positive = Annotated[float, Range("positive", lambda x: 0 < x < math.inf)]
NotNegative = Annotated[float, Range("0 or positive", lambda x: 0 <= x < math.inf)]
Share = Annotated[float, Range("in [0, 1)", lambda x: 0 <= x < 1)]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every algorithm takes, by name; the result depends on all of it.

    The defaults are those of the paper's authors (their code for arXiv 2006.07897), but for the
    schedule, which is theirs with ``"steps"``. Each algorithm has a class of its own, with the
    settings that it adds: `SGD`, `ReplicatedSGD`, `Adversarial`, `SAM`, `SWA`, `EntropySGD`.

    Args:
        epochs: Passes over the data, an integer; 0 returns the start.
        batch_size: Images in a step, at most all of them; an epoch leaves out the remainder
            (another one each time). Loaders and lists come in batches of their own.
        lr: Learning rate at the start, after the warm-up; positive.
        momentum: In [0, 1).
        nesterov: Nesterov's momentum (ignored without momentum).
        weight_decay: Times the weights, added to the gradient; not negative.
        schedule: ``"cosine"`` to 0, ``"steps"`` (divided by 5 at 1/2 and 3/4 of the epochs),
            ``"constant"``.
        warmup: Epochs over which a factor on the learning rate rises linearly to 1, an integer: a
            network without BatchNorm that starts at a high rate may never leave chance.
        augment: Shift by up to 4 pixels (an eighth of a CIFAR image) and flip left and right;
            takes images (N, channels, height, width) of a `toroid.data.Dataset`.
        precision: ``"float32"``: that of the weights; ``"bfloat16"``: layers compute in it (by
            autocast, convolutions channels last), weights and updates stay as they are.

    Raises:
        ValueError: If a value is of another kind or out of range; says what it must be.

    Example:
        >>> from toroid.training import SAM
        >>> settings = SAM.of(epochs=5, lr=1)
        >>> settings.lr, settings.rho, settings.own()
        (1.0, 0.05, ['rho'])
    """

    algorithm: ClassVar[str] = "training"

    epochs: Count
    batch_size: Natural = 128
    lr: Positive = 0.1
    momentum: Share = 0.9
    nesterov: bool = True
    weight_decay: NotNegative = 5e-4
    schedule: Annotated[str, Choice(tuple(SCHEDULES))] = "cosine"
    warmup: Annotated[Count, Later(neutral=0)] = 0
    augment: bool = False
    precision: Annotated[str, Choice(tuple(PRECISIONS))] = "float32"

    def __post_init__(self) -> None:
        for name, (kind, rules) in _declared(type(self)).items():
            given = getattr(self, name)
            value = _of_kind(kind, name, given)
            for rule in rules:
                rule.check(name, given)
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, **settings: Any) -> Self:
        """Those of a caller's keyword arguments.

        Raises:
            TypeError: If there is no such setting, or ``epochs`` is missing; names the valid ones.
            ValueError: As `Settings`.
        """
        valid = [f.name for f in fields(cls)]
        if unknown := [name for name in settings if name not in valid]:
            raise TypeError(
                f"{cls.algorithm} has no setting {', '.join(unknown)}; it has {', '.join(valid)}"
            )
        if "epochs" not in settings:
            raise TypeError(f"{cls.algorithm} needs the setting epochs: passes over the data")
        return cls(**settings)

    @classmethod
    def own(cls) -> list[str]:
        """The names that an algorithm adds, or has a default of its own for."""
        shared = fields(Settings)
        return [f.name for f in fields(cls) if f not in shared]

    def described(self) -> dict[str, Any]:
        """All by name, but those that came later and change nothing: keys stay what they were."""
        later = {
            name: rule.neutral
            for name, (_, rules) in _declared(type(self)).items()
            for rule in rules
            if isinstance(rule, Later)
        }
        return {k: v for k, v in vars(self).items() if k not in later or v != later[k]}

    def identity(self) -> dict[str, Any]:
        """All by name, and the algorithm's: what a run that goes on has in common with itself."""
        return {"algorithm": self.algorithm, **vars(self)}

    def optimizer(self, weights: Sequence[Tensor]) -> torch.optim.SGD:
        """Steps down a gradient."""
        return torch.optim.SGD(
            weights, self.lr, self.momentum, weight_decay=self.weight_decay,
            nesterov=self.nesterov and self.momentum > 0,
        )  # fmt: skip


class Keywords(TypedDict, total=False):
    """`Settings` as keyword arguments, for those who write and check calls."""

    epochs: Required[int]
    batch_size: int
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    schedule: str
    warmup: int
    augment: bool
    precision: str


def _declared(cls: type[Settings]) -> dict[str, tuple[type, tuple[Any, ...]]]:
    """The kind of each field, and the rules that go with it."""
    hints = get_type_hints(cls, include_extras=True)
    found = {}
    for name in (f.name for f in fields(cls)):
        kind, rules = hints[name], getattr(hints[name], "__metadata__", ())
        found[name] = (kind.__origin__ if rules else kind), rules
    return found


def _of_kind(kind: type, name: str, value: Any) -> Any:
    """A value as Python's own: 1 and 1.0, of any library, are one description."""
    logical = isinstance(value, (bool, np.bool_))
    if kind is int and not logical:
        whole = isinstance(value, float) and value.is_integer()
        return check_whole(name, int(value) if whole else value)
    if kind is float and isinstance(value, Real) and not logical:
        return float(value) + 0.0  # -0.0 is 0.0
    if kind is bool and logical:
        return bool(value)
    if kind is str and isinstance(value, str):
        return value
    wanted = {int: "an integer", float: "a number", bool: "True or False", str: "a word"}[kind]
    raise ValueError(f"{name} is {value!r}; it must be {wanted}")
