"""Replicated SGD: networks that are drawn together while they train."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn

from .._batches import Data
from .._random import redraw, seed
from ..evaluation import evaluate, refresh
from ..tasks import Task, classification
from ._checkpoint import Checkpoint
from ._networks import Networks
from ._settings import Keywords, Positive, Range, Settings
from ._trained import Trained, begin, check_start, shortfall

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True, kw_only=True)
class ReplicatedSGD(Settings):
    """`Settings` of `replicated_sgd`.

    Args:
        replicas: How many, at least 2.
        gmax: How much g grows over the training, positive. The pull is a step of ``2 lr g``, which
            must stay below 1 or so: a small network, whose g starts high, needs a smaller one.
    """

    algorithm: ClassVar[str] = "replicated_sgd"

    replicas: Annotated[int, Range("at least 2", lambda n: n >= 2)] = 3
    gmax: Positive = 1e4


class ReplicatedSGDKeywords(Keywords, total=False):
    """`ReplicatedSGD` as keyword arguments."""

    replicas: int
    gmax: float


def replicated_sgd(
    model: nn.Module, train: Data, *, generator: torch.Generator, task: Task = classification,
    progress: bool = False, checkpoint: Checkpoint | None = None,
    **settings: Unpack[ReplicatedSGDKeywords],
) -> Trained:  # fmt: skip
    """Replicas that are drawn together while they train: SGD that looks for flat minima.

    Descends ``mean_a L(w_a) + g mean_a |w_a - c|²`` with the centre ``c = mean_a w_a`` held fixed
    in the gradient, and the learning rate times the number of replicas: a replica moves down its
    own loss as in `sgd`, but its weight decay, which that mean does not divide, is as many times
    stronger as there are replicas. g starts at the mean training loss over the
    mean squared distance and grows by one factor each epoch, ``gmax`` in all. The result is the
    centre, with BatchNorm's statistics estimated again on the training data (Pittorino et al. 2021,
    arXiv 2006.07897, and their code).

    Args:
        model: The first replica starts from it; the others from fresh weights of its layers.
        train: As in `sgd`.
        generator: Draws the fresh weights and, for each replica, order and augmentation.
        task: As in `sgd`.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.
        **settings: Those of `ReplicatedSGD`: ``replicas``, ``gmax``, and all of `Settings`.

    Returns:
        The centre; a history (the mean over the replicas) with ``coupling`` g and ``distance``, the
        root mean square distance of the replicas from the centre over the centre's norm; and a
        report of the end, which says so if that distance is above 0.01, the centre's error more
        than 0.01 above that of its replicas, or above `NEAR_ZERO`.

    Raises:
        TypeError: As `sgd`.
        ValueError: As `sgd`, and if a module of the model has weights that it cannot draw afresh.
        FloatingPointError: As `sgd`.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(32,))
        >>> generator = torch.Generator().manual_seed(0)
        >>> trained = replicated_sgd(model, train, epochs=15, gmax=100.0, generator=generator)
        >>> trained.report["distance"] < 0.01
        True
    """
    chosen = ReplicatedSGD.of(**settings)
    check_start(model, generator)
    replicas = chosen.replicas
    models = [model, *(fresh(model, generator) for _ in range(replicas - 1))]
    generators = [_spawn(generator) for _ in models]
    faster = replace(chosen, lr=chosen.lr * replicas)
    loop = begin(
        models, train, generators, faster, progress, checkpoint, chosen.identity(), task=task
    )
    networks = loop.networks
    losses = [evaluate(networks.single(i), model, train, task=task).loss for i in range(replicas)]
    coupling = loop.memory["coupling"] = torch.tensor(
        sum(losses) / replicas / _distance(networks).item(), dtype=torch.float64
    )

    def step(images: Any, labels: Any) -> tuple[Tensor, Tensor]:
        losses, wrong = networks.losses(images, labels)
        loop.optimizer.zero_grad()
        torch.autograd.backward(losses.mean() + float(coupling) * _distance(networks))
        loop.optimizer.step()
        return losses, wrong

    def after(epoch: int) -> dict[str, float]:
        now = {"coupling": float(coupling), "distance": _relative(networks)}
        coupling.mul_(chosen.gmax ** (1 / chosen.epochs))
        return now

    history = pd.concat(loop.run(step, after)).groupby("epoch", as_index=False).mean()
    states = [networks.single(i) for i in range(replicas)]
    centre = refresh(_mean(states), model, train, task=task)
    distance, error = _relative(networks), evaluate(centre, model, train, task=task).error
    errors = [evaluate(state, model, train, task=task).error for state in states]
    failed = shortfall(error, train, task)
    if distance > 0.01:
        failed = f"the replicas are {distance:.2g} apart, not collapsed"
    elif error > sum(errors) / replicas + 0.01:  # near, where most of the weights are
        failed = f"the centre errs on {error:.2%}, its replicas on {sum(errors) / replicas:.2%}"
    report = {
        "failed": failed, "distance": distance, "replica_errors": errors, "centre_error": error,
    }  # fmt: skip
    return Trained(centre, history, report)


def _distance(networks: Networks) -> Tensor:
    """Mean over the networks of the squared distance from their centre, which is held fixed."""
    squares = [(w - w.detach().mean(0)).square().sum() / len(w) for w in networks.weights.values()]
    return torch.stack(squares).sum()


@torch.no_grad()
def _relative(networks: Networks) -> float:
    """Root mean square distance from the centre, over the centre's norm."""
    centre = [w.mean(0).square().sum() for w in networks.weights.values()]
    return float((_distance(networks) / torch.stack(centre).sum()).sqrt())


def _mean(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        k: torch.stack([s[k] for s in states]).mean(0) if v.is_floating_point() else v
        for k, v in states[0].items()
    }


def _spawn(generator: torch.Generator) -> torch.Generator:
    """A generator of its own, drawn from another."""
    return torch.Generator().manual_seed(seed(generator))


def fresh(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy with freshly drawn weights, on the CPU: the same ones whatever the device.

    What is not trained is the model's.
    """
    other = copy.deepcopy(model).cpu()
    redraw(other, _spawn(generator))
    with torch.no_grad():
        for mine, own in zip(other.parameters(), model.parameters(), strict=True):
            if not own.requires_grad:
                mine.copy_(own)
    return other
