"""Error and loss along a path, and on a plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ._state import State, check_model
from .data import Dataset, check_data
from .evaluation import Evaluation, Evaluator, Score
from .paths import Path
from .symmetry import Symmetry
from .torus import Torus

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .evaluation import How

__all__ = ["Curve", "Plane", "along", "plane"]


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
    def ends(self) -> tuple[Score, Score]:
        """The scores at the first and the last place, as `along` takes them."""
        first, last = (Score(float(self.error[i]), float(self.loss[i])) for i in (0, -1))
        return first, last

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each point: t, error, loss."""
        return pd.DataFrame({"t": self.t, "error": self.error, "loss": self.loss})


def _barrier(t: np.ndarray, values: np.ndarray) -> float:
    """The largest height above the chord between the first and the last point."""
    share = (t - t[0]) / (t[-1] - t[0])
    return float((values - (values[0] + share * (values[-1] - values[0]))).max())


Ends = tuple[Score, Score]


@overload
def along(
    path: Path, model: nn.Module, data: Dataset, *, points: int | Sequence[float] = ...,
    refresh: Dataset | None = ..., ends: Ends | None = ..., progress: bool = ...,
    **how: Unpack[How],
) -> Curve: ...  # fmt: skip


@overload
def along(
    path: Path, model: nn.Module, data: Mapping[str, Dataset], *,
    points: int | Sequence[float] = ..., refresh: Dataset | None = ...,
    ends: Mapping[str, Ends] | None = ..., progress: bool = ..., **how: Unpack[How],
) -> dict[str, Curve]: ...  # fmt: skip


def along(
    path: Path, model: nn.Module, data: Dataset | Mapping[str, Dataset], *,
    points: int | Sequence[float] = 25, refresh: Dataset | None = None,
    ends: Ends | Mapping[str, Ends] | None = None, progress: bool = False, **how: Unpack[How],
) -> Any:  # fmt: skip
    """Error and loss along a path.

    Args:
        path: From t in [0, 1] to a state: `Linear`, `Geodesic`, or any function.
        model: The network; it is not changed.
        data: Data to evaluate on, or several by name (the path is then walked once for all).
        points: Number of places, evenly spaced with both ends, or the ascending places themselves.
        refresh: Data on which BatchNorm's statistics are estimated again at every place; None
            keeps the path's own. Networks without BatchNorm do not need it.
        ends: The scores at the first and the last place, for each data set, if they are known;
            paths that share their ends need not evaluate them again.
        progress: Show a progress bar.
        **how: Fields of `Evaluation`, e.g. ``batch_size``.

    Returns:
        A `Curve`, or a dict of them when `data` is a mapping.

    Raises:
        ValueError: If there are fewer than two places, they do not ascend, `ends` are not those
            of the data sets, or a data set is empty or no `Dataset`.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> a, b = (toroid.mlp(train.shape, classes=10, hidden=(16,)) for _ in "ab")
        >>> path = toroid.Linear(a.state_dict(), b.state_dict())
        >>> along(path, a, train, points=5).t
        array([0.  , 0.25, 0.5 , 0.75, 1.  ])
    """
    places = _places(points)
    several = data if isinstance(data, Mapping) else {"": data}
    single = several is not data
    known: Any = {"": ends} if single and ends is not None else ends
    if known is not None and known.keys() != several.keys():
        raise ValueError(f"ends are those of {sorted(known)}, the data sets are {sorted(several)}")
    for part in (*several.values(), *([] if refresh is None else [refresh])):
        check_data(part)
    check_model(path(float(places[0])), model)
    inner = places if known is None else places[1:-1]
    evaluator = Evaluator(model, Evaluation(**how))
    scores: dict[str, list[Score]] = {name: [] for name in several}
    for t in tqdm(inner, disable=not progress, leave=False):
        state = path(float(t))
        if refresh is not None:
            state = evaluator.refresh(state, refresh)
        for name, part in several.items():
            scores[name].append(evaluator.score(state, part))
    if known is not None:
        scores = {name: [known[name][0], *s, known[name][1]] for name, s in scores.items()}
    curves = {
        name: Curve(places, *map(np.array, zip(*s, strict=True))) for name, s in scores.items()
    }
    return curves[""] if single else curves


def _places(points: int | Sequence[float]) -> np.ndarray:
    count = isinstance(points, (int, np.integer))
    places = np.linspace(0, 1, int(points)) if count else np.asarray(points, float)  # type: ignore
    ascend = places.ndim == 1 and len(places) > 1 and (np.diff(places) > 0).all()  # no NaN does
    if not ascend or not np.isfinite(places).all():
        raise ValueError(
            f"points is {points}; it takes at least two ascending places, or their number"
        )
    return places


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
    refresh: Dataset | None = None, progress: bool = False, **how: Unpack[How],
) -> Plane:  # fmt: skip
    """Error and loss on the plane through three states, as in Garipov et al. (2018).

    The plane is that of the parameters; lengths are Euclidean. With a symmetry, each of its points
    is moved to the nearest point of the torus: the line between two of the states becomes the great
    circles between them, each walked at a speed of its own. Running variances that would be
    negative beyond the states are 0.

    Args:
        states: Three states, not on one line.
        model: The network; it is not changed.
        data: Data to evaluate on.
        points: Places along each side.
        margin: How far the map reaches beyond the states, over their extent.
        symmetry: From `find_symmetries`, for a map of the torus; the states are normalised then.
        bias: As in `normalize`.
        refresh: As in `along`.
        progress: Show a progress bar.
        **how: Fields of `Evaluation`.

    Returns:
        The map.

    Raises:
        ValueError: If there are not three states, they lie on one line or do not fit the model or
            the symmetry, `bias` is another word, or a data set is empty or no `Dataset`.

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
    torus = None if symmetry is None else Torus.at_edge(symmetry, bias, *states, normal=False)
    corners = _coordinates(states, [name for name, _ in model.named_parameters()])
    low, high = corners.min(0), corners.max(0)
    reach = margin * (high - low)
    x, y = (np.linspace(*ends, points) for ends in zip(low - reach, high + reach, strict=True))
    shares = np.linalg.inv(
        np.stack([corners[1], corners[2]], 1)
    )  # place -> how much of b - a, c - a
    evaluator, scores = Evaluator(model, Evaluation(**how)), []
    places = [shares @ (column, row) for row in y for column in x]
    for second, third in tqdm(places, disable=not progress, leave=False):
        state = _affine(states, float(second), float(third))
        if torus is not None:
            state = torus.project(state)
        if refresh is not None:
            state = evaluator.refresh(state, refresh)
        scores.append(evaluator.score(state, data))
    error, loss = np.array(scores).T.reshape(2, points, points)
    return Plane(x, y, error, loss, corners)


def _affine(states: Sequence[State], second: float, third: float) -> dict[str, Tensor]:
    """``a + second (b - a) + third (c - a)``, variances not below 0."""
    a, b, c = states
    result = {
        k: v + second * (b[k] - v) + third * (c[k] - v) if v.is_floating_point() else v
        for k, v in a.items()
    }
    return {k: v.clamp_min(0) if k.endswith("running_var") else v for k, v in result.items()}


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
