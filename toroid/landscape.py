"""Error and loss of one state, and along a path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm.auto import tqdm

from ._checks import State, check_model
from ._graph import structure
from .data import Dataset
from .paths import Path

__all__ = ["Curve", "Score", "along", "evaluate", "refresh"]


class Score(NamedTuple):
    """How a state does on a data set: fraction misclassified, and mean cross-entropy in nats."""

    error: float
    loss: float


def _batches(data: Dataset, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    if not len(data):
        raise ValueError(f"the data set {data.name!r} is empty")
    parts = -(-len(data) // size)  # of nearly equal size: BatchNorm's statistics weigh them alike
    return zip(data.images.tensor_split(parts), data.labels.tensor_split(parts), strict=True)


def evaluate(state: State, model: nn.Module, data: Dataset, *, batch_size: int = 250) -> Score:
    """Error and loss of a state, in evaluation mode.

    Args:
        state: State dict, on the device of the data.
        model: The network; it is not changed, and its own weights do not matter.
        data: Images and labels.
        batch_size: Images at a time; the result does not depend on it.

    Returns:
        ``(error, loss)``.

    Raises:
        ValueError: If the state does not fit the model, or the data set is empty.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(16,))
        >>> evaluate(model.state_dict(), model, train).error > 0.5
        True
    """
    check_model(state, model)
    return _evaluate(state, structure(model), data, batch_size)


@torch.inference_mode()
def _evaluate(state: State, network: nn.Module, data: Dataset, batch_size: int) -> Score:
    wrong, loss = 0, 0.0
    for images, labels in _batches(data, batch_size):
        output = functional_call(network, dict(state), (_like(images, state),))
        wrong += int((output.argmax(1) != labels).sum())
        loss += float(cross_entropy(output, labels, reduction="sum"))
    return Score(wrong / len(data), loss / len(data))


def _like(images: Tensor, state: State) -> Tensor:
    """Images in the precision of the state."""
    return images.to(next(v.dtype for v in state.values() if v.is_floating_point()))


def refresh(
    state: State, model: nn.Module, data: Dataset, *, batch_size: int = 250
) -> dict[str, Tensor]:
    """Estimate BatchNorm's statistics again, on this data.

    Interpolated networks need it: the mean of two networks' statistics is not the statistics of
    the network between them. The statistics are the plain mean over batches of each batch's mean
    and (unbiased) variance; dropout stays off.

    Args:
        state: State dict; it is not changed.
        model: The network; it is not changed.
        data: Usually the training data.
        batch_size: Images at a time; the larger, the closer to the statistics of the whole.

    Returns:
        The state with new running means and variances; without BatchNorm, an equal state.

    Raises:
        ValueError: If the state does not fit the model, or the data set is empty.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.vgg16_bn(train.shape, classes=10, width=0.1)
        >>> fresh = refresh(model.state_dict(), model, train)
        >>> bool((fresh["1.running_var"] == model.state_dict()["1.running_var"]).any())
        False
    """
    check_model(state, model)
    return _refresh(state, structure(model), data, batch_size)


@torch.no_grad()
def _refresh(state: State, network: nn.Module, data: Dataset, batch_size: int) -> dict[str, Tensor]:
    result = dict(state)
    norms = {
        k: m
        for k, m in network.named_modules()
        if isinstance(m, _BatchNorm) and m.track_running_stats
    }
    if not norms:
        return result
    for name, module in norms.items():
        for key, start in (("running_mean", 0.0), ("running_var", 1.0), ("num_batches_tracked", 0)):
            result[f"{name}.{key}"] = torch.full_like(state[f"{name}.{key}"], start)
        module.train()
        module.momentum = None  # the plain mean over batches
    for images, _ in _batches(data, batch_size):
        functional_call(network, result, (_like(images, state),))  # writes into result's statistics
    network.eval()
    return result


@dataclass(frozen=True)
class Curve:
    """Error and loss along a path.

    Attributes:
        t: Places along the path, (points,), ascending.
        error: Fraction misclassified at each.
        loss: Mean cross-entropy at each.
    """

    t: np.ndarray
    error: np.ndarray
    loss: np.ndarray

    @property
    def barrier(self) -> float:
        """``max over t of error(t) - ((1 - t) error(0) + t error(1))``, never below 0."""
        return _barrier(self.t, self.error)

    @property
    def barrier_over_ends(self) -> float:
        """``max over t of error(t) - max(error(0), error(1))``: the height above the worse end."""
        return float(self.error.max() - max(self.error[0], self.error[-1]))

    @property
    def loss_barrier(self) -> float:
        """`barrier`, of the loss."""
        return _barrier(self.t, self.loss)

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each point: t, error, loss."""
        return pd.DataFrame({"t": self.t, "error": self.error, "loss": self.loss})


def _barrier(t: np.ndarray, values: np.ndarray) -> float:
    """The largest height above the chord between the first and the last point."""
    share = (t - t[0]) / (t[-1] - t[0])
    return float((values - (values[0] + share * (values[-1] - values[0]))).max())


@overload
def along(
    path: Path, model: nn.Module, data: Dataset, *, points: int | Sequence[float] = ...,
    refresh: Dataset | None = ..., batch_size: int = ..., progress: bool = ...,
) -> Curve: ...  # fmt: skip
@overload
def along(
    path: Path, model: nn.Module, data: Mapping[str, Dataset], *,
    points: int | Sequence[float] = ..., refresh: Dataset | None = ..., batch_size: int = ...,
    progress: bool = ...,
) -> dict[str, Curve]: ...  # fmt: skip
def along(
    path: Path, model: nn.Module, data: Dataset | Mapping[str, Dataset], *,
    points: int | Sequence[float] = 25, refresh: Dataset | None = None, batch_size: int = 250,
    progress: bool = False,
) -> Any:  # fmt: skip
    """Error and loss along a path.

    Args:
        path: From t in [0, 1] to a state: `Linear`, `Geodesic`, or any function.
        model: The network; it is not changed.
        data: Data to evaluate on, or several by name (the path is then walked once for all).
        points: Number of places, evenly spaced with both ends, or the ascending places themselves.
        refresh: Data on which BatchNorm's statistics are estimated again at every place; None
            keeps the path's own. Networks without BatchNorm do not need it.
        batch_size: Images at a time.
        progress: Show a progress bar.

    Returns:
        A `Curve`, or a dict of them when `data` is a mapping.

    Raises:
        ValueError: If there are fewer than two places, or they do not ascend.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> a, b = (toroid.mlp(train.shape, classes=10, hidden=(16,)) for _ in "ab")
        >>> path = toroid.Linear(a.state_dict(), b.state_dict())
        >>> along(path, a, train, points=5).t
        array([0.  , 0.25, 0.5 , 0.75, 1.  ])
    """
    count = isinstance(points, (int, np.integer))
    places = np.linspace(0, 1, int(points)) if count else np.asarray(points, float)  # type: ignore
    if len(places) < 2 or (np.diff(places) <= 0).any():
        raise ValueError(
            f"points is {points}; it takes at least two ascending places, or their number"
        )
    several = data if isinstance(data, Mapping) else {"": data}
    network = structure(model)
    scores: dict[str, list[Score]] = {name: [] for name in several}
    check_model(path(float(places[0])), model)
    for t in tqdm(places, disable=not progress, leave=False):
        state = path(float(t))
        if refresh is not None:
            state = _refresh(state, network, refresh, batch_size)
        for name, part in several.items():
            scores[name].append(_evaluate(state, network, part, batch_size))
    curves = {
        name: Curve(places, *map(np.array, zip(*s, strict=True))) for name, s in scores.items()
    }
    return curves if isinstance(data, Mapping) else curves[""]
