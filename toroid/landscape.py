"""Error and loss of one state, along a path, and on a plane."""

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
from .symmetry import Symmetry
from .torus import to_spheres

__all__ = ["Curve", "Plane", "Score", "along", "evaluate", "plane", "refresh"]


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


@dataclass(frozen=True)
class Plane:
    """Error and loss on the plane through three states.

    Attributes:
        x: Places along the line from the first to the second state, (columns,), in units of length.
        y: Places across it, (rows,).
        error: Fraction misclassified, (rows, columns).
        loss: Mean cross-entropy, (rows, columns).
        corners: Where the three states are, (3, 2).
    """

    x: np.ndarray
    y: np.ndarray
    error: np.ndarray
    loss: np.ndarray
    corners: np.ndarray

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each point: x, y, error, loss."""
        x, y = np.meshgrid(self.x, self.y)
        columns = {"x": x, "y": y, "error": self.error, "loss": self.loss}
        return pd.DataFrame({k: v.ravel() for k, v in columns.items()})


def plane(
    states: Sequence[State], model: nn.Module, data: Dataset, *, points: int = 21,
    margin: float = 0.25, symmetry: Symmetry | None = None, bias: str = "euclidean",
    refresh: Dataset | None = None, batch_size: int = 250, progress: bool = False,
) -> Plane:  # fmt: skip
    """Error and loss on the plane through three states, as in Garipov et al. (2018).

    The plane is that of the parameters; lengths are Euclidean. With a symmetry, each of its points
    is moved to the nearest point of the torus: the line between two of the states becomes the great
    circles between them, each walked at a speed of its own.

    Args:
        states: Three states, not on one line.
        model: The network; it is not changed.
        data: Data to evaluate on.
        points: Places along each side.
        margin: How far the map reaches beyond the states, over their extent.
        symmetry: From `find_symmetries`, for a map of the torus; the states are normalised then.
        bias: As in `normalize`.
        refresh: As in `along`.
        batch_size: Images at a time.
        progress: Show a progress bar.

    Returns:
        The map.

    Raises:
        ValueError: If there are not three states, or they lie on one line.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> networks = [toroid.mlp(train.shape, classes=10, hidden=(8,)) for _ in range(3)]
        >>> states = [network.state_dict() for network in networks]
        >>> plane(states, networks[0], train.take(100), points=5).error.shape
        (5, 5)
    """
    if len(states) != 3:
        raise ValueError(f"a plane takes three states, got {len(states)}")
    for state in states:
        check_model(state, model)
    corners = _coordinates(states, [name for name, _ in model.named_parameters()])
    low, high = corners.min(0), corners.max(0)
    reach = margin * (high - low)
    x, y = (np.linspace(*ends, points) for ends in zip(low - reach, high + reach, strict=True))
    shares = np.linalg.inv(
        np.stack([corners[1], corners[2]], 1)
    )  # place -> how much of b - a, c - a
    network, scores = structure(model), []
    places = [shares @ (column, row) for row in y for column in x]
    for second, third in tqdm(places, disable=not progress, leave=False):
        state = _affine(states, float(second), float(third))
        if symmetry is not None:
            state = to_spheres(state, symmetry, bias)
        if refresh is not None:
            state = _refresh(state, network, refresh, batch_size)
        scores.append(_evaluate(state, network, data, batch_size))
    error, loss = np.array(scores).T.reshape(2, points, points)
    return Plane(x, y, error, loss, corners)


def _affine(states: Sequence[State], second: float, third: float) -> dict[str, Tensor]:
    """``a + second (b - a) + third (c - a)``."""
    a, b, c = states
    return {
        k: v + second * (b[k] - v) + third * (c[k] - v) if v.is_floating_point() else v
        for k, v in a.items()
    }


def _coordinates(states: Sequence[State], names: Sequence[str]) -> np.ndarray:
    """The states in their plane: the first at 0, the second on the x axis, the third above it."""
    a, b, c = (torch.cat([s[k].detach().double().flatten() for k in names]) for s in states)
    across, up = b - a, c - a
    length = across.norm()
    share = up @ across / length
    height = (up - share * across / length).norm()
    if float(height) < 1e-6 * float(length + up.norm()) or not float(length):
        raise ValueError("the three states lie on one line; a plane takes others")
    return np.array([[0, 0], [float(length), 0], [float(share), float(height)]])
