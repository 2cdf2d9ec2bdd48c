"""Error and loss along a path or a direction, and on a plane."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from ._batches import Data
from ._repair import HOW
from ._state import (
    State,
    check_choice,
    check_factor,
    check_finite,
    check_list,
    check_model,
    check_number,
    check_step,
    check_whole,
    difference,
    inexact,
    shown,
)
from .directions import drawn
from .evaluation import Evaluation, Evaluator, Score
from .paths import Path, Ray, check_path, moved
from .symmetry import Symmetry
from .tasks import Task, classification
from .torus import Torus

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .evaluation import How

__all__ = ["Curve", "Plane", "along", "line", "plane"]


@dataclass(frozen=True)
class Curve:
    """Error and loss along a path.

    Attributes:
        t: Places along the path, (points,), ascending.
        error: Mean error at each; a classifier's is the fraction misclassified.
        loss: Mean loss at each; a classifier's is the cross-entropy, in nats.
        note: What the loss is not, if that is so.
    """

    t: NDArray[Any]
    error: NDArray[Any]
    loss: NDArray[Any]
    note: str = ""

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


def _barrier(t: NDArray[Any], values: NDArray[Any]) -> float:
    """The largest height above the chord between the first and the last point."""
    share = (t - t[0]) / (t[-1] - t[0])
    return float((values - (values[0] + share * (values[-1] - values[0]))).max())


Ends = tuple[Score, Score]
Factor = float | tuple[float, float]


@overload
def along(
    path: Path, model: nn.Module, data: Mapping[str, Data], *, task: Task = ...,
    points: int | Sequence[float] = ..., refresh: Data | Literal[False] | None = ...,
    repair: str | None = ..., ends: Mapping[str, Ends] | None = ..., factor: Factor | None = ...,
    progress: bool = ..., **how: Unpack[How],
) -> dict[str, Curve]: ...  # fmt: skip


@overload
def along(
    path: Path, model: nn.Module, data: Data, *, task: Task = ...,
    points: int | Sequence[float] = ..., refresh: Data | Literal[False] | None = ...,
    repair: str | None = ..., ends: Ends | None = ..., factor: Factor | None = ...,
    progress: bool = ..., **how: Unpack[How],
) -> Curve: ...  # fmt: skip


def along(
    path: Path, model: nn.Module, data: Data | Mapping[str, Data], *,
    task: Task = classification, points: int | Sequence[float] = 25,
    refresh: Data | Literal[False] | None = None, repair: str | None = None,
    ends: Ends | Mapping[str, Ends] | None = None, factor: Factor | None = None,
    progress: bool = False, **how: Unpack[How],
) -> Any:  # fmt: skip
    """Error and loss along a path.

    Args:
        path: From t in [0, 1] to a state: `Linear`, `Geodesic`, or any function.
        model: The network; it is not changed.
        data: Data to evaluate on, as in `evaluate`, or several by name (the path is then walked
            once for all).
        task: How the network is called on a batch, and what its error and loss are.
        points: Number of places, evenly spaced with both ends, or the ascending places themselves.
        refresh: Data on which running statistics (BatchNorm's) are estimated again at every place;
            False keeps the path's own. Networks without such statistics do not need it.
        repair: ``"repair"`` or ``"rescale"``, as in `toroid.repair`, on the data of `refresh`,
            between the path's states at 0 and 1; with BatchNorm nothing but refreshing. The first
            and the last place of a path without BatchNorm need no repair, and get none.
        ends: The scores at the first and the last place, for each data set, if they are known;
            paths that share their ends need not evaluate them again.
        factor: Times the outputs, as in `hessian`: normalised networks have outputs of an arbitrary
            size, on which the loss depends. Two numbers are those of the ends, between which it
            goes evenly on a logarithmic scale; ``1 / same_function(...).factor`` of an end and its
            normal form brings the outputs back to what they were.
        progress: Show a progress bar.
        **how: Fields of `Evaluation`, e.g. ``batch_size``.

    Returns:
        A `Curve`, or a dict of them when `data` is a mapping.

    Raises:
        TypeError: As `evaluate`.
        ValueError: As `evaluate`; if there are fewer than two places, they do not ascend, or `ends`
            are not those of the data sets; if `repair` is another word, comes without `refresh` or
            with places outside of [0, 1], or a layer has no bias; if two places would see
            different batches.

    Warns:
        UserWarning: If the network has running statistics and `refresh` is not given, and if the
            error depends on the size of the outputs, which normalising has changed.

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
    _check_ends(known, several)
    check_path("path", path)
    start = path(float(places[0]))
    check_model(start, model)
    evaluator = Evaluator(model, Evaluation.of(**how), task)
    parts = {name: evaluator.batches(part) for name, part in several.items()}
    fresh = _renewing(evaluator, refresh, repair, path, places)
    resized = factor is None and _outputs_resized(path, start)
    ends_factor = check_factor(1.0 if factor is None else factor)
    scores: dict[str, list[Score]] = {name: [] for name in several}
    for t in tqdm(places if known is None else places[1:-1], disable=not progress, leave=False):
        point = path(float(t))
        check_model(point, model)
        state = fresh(point, float(t))
        for name, part in parts.items():
            first = resized and not scores[name]
            scale = ends_factor[0] ** (1 - t) * ends_factor[1] ** t
            scores[name].append(evaluator.score(state, part, float(scale), resize=first))
    if evaluator.sized:
        warnings.warn(RESIZED, stacklevel=2)
    if known is not None:
        scores = {name: [known[name][0], *s, known[name][1]] for name, s in scores.items()}
    note = TEMPERATURE if resized else ""
    rows = {name: np.array(s, float) for name, s in scores.items()}
    curves = {name: Curve(places, found[:, 0], found[:, 1], note) for name, found in rows.items()}
    return curves[""] if single else curves


def _check_ends(known: Mapping[str, Ends] | None, data: Mapping[str, Data]) -> None:
    """Two scores for each data set, of which there are some."""
    if not data:
        raise ValueError("data is an empty mapping; it takes a data set for each name")
    if known is None:
        return
    if not isinstance(known, Mapping) or known.keys() != data.keys():
        told = sorted(known) if isinstance(known, Mapping) else shown(known)
        raise ValueError(f"ends are those of {told}, the data sets are {sorted(data)}")
    for pair in known.values():
        numbers = None
        with suppress(TypeError, ValueError):  # what is no array of numbers is told below
            numbers = np.asarray(pair).astype(float, casting="same_kind")
        if numbers is None or numbers.shape != (2, 2):
            raise ValueError(
                f"ends are {shown(pair)}; they are the (error, loss) of the first and the last "
                "place, as of Curve.ends"
            )


TEMPERATURE = (
    "the loss is of outputs of the size that normalising left them, an arbitrary temperature; "
    "factor= brings them back"
)
RESIZED = (
    "the error of this task depends on the size of the outputs, which normalising has changed: "
    'normalise with toroid.normalize(..., output="keep"), or pass factor='
)


def _renewing(
    evaluator: Evaluator, refresh: Data | Literal[False] | None, how: str | None,
    path: Path, places: NDArray[Any],
) -> Callable[[State, float], State]:  # fmt: skip
    """From a state and its place to the one to evaluate: refreshed, or repaired."""
    check_choice("repair", "repair" if how is None else how, HOW)
    if how is None or (evaluator.norms and refresh is not None and refresh is not False):
        fresh = _refreshing(evaluator, refresh)
        return lambda state, _: fresh(state)
    if refresh is None or refresh is False:
        raise ValueError(f"repair={how!r} needs data: pass refresh=, usually the training data")
    if places[0] < 0 or places[-1] > 1:
        raise ValueError(f"repair={how!r} is for places from 0 to 1, points are {places.tolist()}")
    batches = evaluator.batches(refresh)
    first, last = (evaluator.moments(path(t), batches) for t in (0.0, 1.0))
    return lambda state, t: (
        evaluator.repair(state, (first, last), t, batches, how) if 0 < t < 1 else state
    )


def _refreshing(
    evaluator: Evaluator, refresh: Data | Literal[False] | None
) -> Callable[[State], State]:
    """From a state to the one to evaluate; a warning if statistics stay that are not its own."""
    if refresh is not None and refresh is not False:
        batches = evaluator.batches(refresh)
        return lambda state: evaluator.refresh(state, batches)
    if refresh is None and evaluator.norms:
        warnings.warn(
            "the network has running statistics (BatchNorm), and those of the networks between are "
            "not between the statistics: errors come out too high. Pass refresh=, training data to "
            "estimate them on again, or refresh=False to keep them as they are",
            stacklevel=3,
        )
    return lambda state: state


def _outputs_resized(path: Path, state: State) -> bool:
    """Whether a path is one of normal forms, whose last layer has lost its size."""
    symmetry, parts = getattr(path, "symmetry", None), [getattr(path, "first", None)]
    if symmetry is None and parts[0] is not None:  # one path after the other
        return _outputs_resized(parts[0], state)
    if symmetry is None or symmetry.output is None:
        return False
    (scale,) = symmetry.output.scales
    norms = scale.vectors(state, getattr(path, "bias", "euclidean")).norm(dim=1)
    return bool(((norms - 1).abs() < 1e-3).all())


def _places(points: int | Sequence[float]) -> NDArray[Any]:
    places: NDArray[Any] = np.zeros(0)
    with suppress(TypeError, ValueError):  # what is no array of numbers is told below
        given: NDArray[Any] = np.asarray(points)
        if given.ndim == 0 and given.dtype.kind in "iu":
            given = np.linspace(0, 1, int(given))
        places = given.astype(float, casting="same_kind")
    ascend = places.ndim == 1 and len(places) > 1 and (np.diff(places) > 0).all()  # no NaN does
    if not ascend or not np.isfinite(places).all():
        raise ValueError(
            f"points is {shown(points)}; it takes at least two ascending places, or their number"
        )
    return places


def line(
    state: State, model: nn.Module, data: Data, *, direction: State | None = None,
    task: Task = classification, points: int = 25, radius: float = 1.0,
    symmetry: Symmetry | None = None, bias: str = "euclidean", seed: int = 0,
    refresh: Data | Literal[False] | None = None, factor: float | None = None,
    progress: bool = False, **how: Unpack[How],
) -> Curve:  # fmt: skip
    """Error and loss around one state, along a direction and its opposite.

    Args:
        state: State dict; with a symmetry, normalised.
        model: The network; it is not changed.
        data: Data to evaluate on, as in `evaluate`.
        direction: A tensor for each that moves, e.g. an eigenvector of the Hessian; by default a
            random one, normalised filter by filter or tangent to the torus, see `toroid.direction`.
        task: As in `evaluate`.
        points: Places, evenly spaced; an odd number has the state itself among them.
        radius: How far to go on both sides, in lengths of the direction: for random ones, in sizes
            of the filters, or on the torus in radians.
        symmetry: From `find_symmetries`, for great circles on the torus.
        bias: As in `normalize`.
        seed: Draws the direction.
        refresh: As in `along`.
        factor: As in `along`.
        progress: Show a progress bar.
        **how: Fields of `Evaluation`.

    Returns:
        A `Curve` whose ``t`` goes from ``-radius`` to ``radius``.

    Raises:
        TypeError: As `evaluate`.
        ValueError: As `along`, and if the direction does not fit the state, the state is not on the
            torus, or the radius is not positive.

    Warns:
        UserWarning: As `along`.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(16,))
        >>> line(model.state_dict(), model, train.take(100), points=3).t
        array([-1.,  0.,  1.])
    """
    (way,), _ = _ways(state, model, None if direction is None else [direction], 1, seed, symmetry,
                      bias)  # fmt: skip
    curves = along(
        Ray(state, way, symmetry, bias), model, {"": data}, task=task, refresh=refresh,
        factor=factor, points=_reach(radius, points).tolist(), progress=progress, **how,
    )  # fmt: skip
    return curves[""]


def _ways(
    state: State, model: nn.Module, given: Sequence[State] | None, count: int, seed: int,
    symmetry: Symmetry | None, bias: str,
) -> tuple[Sequence[State], Torus | None]:  # fmt: skip
    """The directions that are given, or random ones, and the torus that they are on."""
    check_model(state, model)
    check_finite(state, {name for name, _ in model.named_parameters()})
    torus = None if symmetry is None else Torus.at_edge(symmetry, bias, state)
    first = check_whole("seed", seed)
    if given is None:
        return [drawn(state, model, torus, first + i) for i in range(count)], torus
    given = check_list("directions", given, "states")
    if len(given) != count:
        raise ValueError(f"directions are {len(given)}; around a state it takes {count}")
    for each in given:
        check_step(state, each)
    return given, torus


def _reach(radius: float, points: int) -> NDArray[Any]:
    """Places on both sides of a state."""
    radius = float(check_number("radius", radius, positive=True))
    return np.linspace(-radius, radius, check_whole("points", points, 1))


@dataclass(frozen=True)
class Plane:
    """Error and loss on the plane through three states, or around one.

    Attributes:
        x: Places along the line from the first to the second state, or along the first direction,
            (columns,): in units of length, or of the directions.
        y: Places across it, (rows,).
        error: Mean error, as of a `Curve`, (rows, columns).
        loss: Mean loss, (rows, columns).
        corners: Where the states are, (3, 2) or (1, 2).
    """

    x: NDArray[Any]
    y: NDArray[Any]
    error: NDArray[Any]
    loss: NDArray[Any]
    corners: NDArray[Any]

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each point: x, y, error, loss."""
        x, y = np.meshgrid(self.x, self.y)
        columns = {"x": x, "y": y, "error": self.error, "loss": self.loss}
        return pd.DataFrame({k: v.ravel() for k, v in columns.items()})


def plane(
    states: State | Sequence[State], model: nn.Module, data: Data, *, task: Task = classification,
    points: int = 21, margin: float = 0.25, radius: float = 1.0,
    directions: Sequence[State] | None = None, seed: int = 0, symmetry: Symmetry | None = None,
    bias: str = "euclidean", refresh: Data | Literal[False] | None = None, progress: bool = False,
    **how: Unpack[How],
) -> Plane:  # fmt: skip
    """Error and loss on the plane through three states, or around one.

    Through three states, as in Garipov et al. (2018), the plane is that of the parameters; lengths
    are Euclidean. With a symmetry, each of its points is moved to the nearest point of the torus:
    the line between two of the states becomes the great circles between them, each walked at a
    speed of its own. Running variances that would be negative beyond the states are 0.

    Around one state, as in Li et al. (2018), it is spanned by two directions, by default random
    ones, normalised filter by filter; with a symmetry they are tangent to the torus, and each unit
    walks a great circle.

    Args:
        states: Three states, not on one line; or one, which with a symmetry is normalised.
        model: The network; it is not changed.
        data: Data to evaluate on, as in `evaluate`.
        task: As in `evaluate`.
        points: Places along each side.
        margin: How far the map reaches beyond three states, over their extent.
        radius: How far it reaches around one state, as in `line`.
        directions: The two directions around one state, as in `line`.
        seed: Draws the directions.
        symmetry: From `find_symmetries`, for a map of the torus; three states are normalised then.
        bias: As in `normalize`.
        refresh: As in `along`.
        progress: Show a progress bar.
        **how: Fields of `Evaluation`.

    Returns:
        The map.

    Raises:
        TypeError: As `evaluate`.
        ValueError: As `along` and `line`, and if there are neither three states nor one, three lie
            on one line or do not fit the symmetry, or `bias` is another word.

    Warns:
        UserWarning: As `along`, of running statistics.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> networks = [toroid.mlp(train.shape, classes=10, hidden=(8,)) for _ in range(3)]
        >>> states = [network.state_dict() for network in networks]
        >>> plane(states, networks[0], train.take(100), points=5).error.shape
        (5, 5)
        >>> plane(states[0], networks[0], train.take(100), points=3).x
        array([-1.,  0.,  1.])
    """
    corners, place = (
        _around(states, model, directions, seed, symmetry, bias)
        if isinstance(states, Mapping)
        else _through(states, model, symmetry, bias)
    )
    x, y = (
        [_reach(radius, points)] * 2
        if isinstance(states, Mapping)
        else _extent(corners, margin, check_whole("points", points, 1))
    )
    evaluator, scores = Evaluator(model, Evaluation.of(**how), task), []
    batches, fresh = evaluator.batches(data), _refreshing(evaluator, refresh)
    places = [(float(column), float(row)) for row in y for column in x]
    for column, row in tqdm(places, disable=not progress, leave=False):
        scores.append(evaluator.score(fresh(place(column, row)), batches))
    error, loss = np.array(scores).T.reshape(2, len(y), len(x))
    return Plane(x, y, error, loss, corners)


def _extent(corners: NDArray[Any], margin: float, points: int) -> list[NDArray[Any]]:
    """Places along both sides of a map of three states."""
    if check_number("margin", margin) <= -0.5:
        raise ValueError(f"margin is {margin}; from -0.5 down nothing is left of the map")
    low, high = corners.min(0), corners.max(0)
    reach = float(margin) * (high - low)
    return [np.linspace(*ends, points) for ends in zip(low - reach, high + reach, strict=True)]


#: From a place in a plane to the state that is there.
Place = Callable[[float, float], dict[str, Tensor]]


def _around(
    state: State, model: nn.Module, directions: Sequence[State] | None, seed: int,
    symmetry: Symmetry | None, bias: str,
) -> tuple[NDArray[Any], Place]:  # fmt: skip
    """One state in the middle of its plane, and the states around it."""
    (first, second), torus = _ways(state, model, directions, 2, seed, symmetry, bias)
    return np.zeros((1, 2)), lambda x, y: moved(state, [(x, first), (y, second)], torus)


def _through(
    states: Sequence[State], model: nn.Module, symmetry: Symmetry | None, bias: str
) -> tuple[NDArray[Any], Place]:
    """Where three states are in their plane, and from a place in it to a state."""
    states = check_list("states", states, "three states, or one state dict to go around")
    if len(states) != 3:
        raise ValueError(
            f"a plane takes three states, or one state dict to go around; got {len(states)}"
        )
    for state in states:
        check_model(state, model)
    torus = None if symmetry is None else Torus.at_edge(symmetry, bias, *states, normal=False)
    corners = _coordinates(states, [name for name, _ in model.named_parameters()])
    shares = np.linalg.inv(
        np.stack([corners[1], corners[2]], 1)
    )  # place -> how much of b - a, c - a

    def place(across: float, up: float) -> dict[str, Tensor]:
        state = _affine(states, *map(float, shares @ (across, up)))
        return state if torus is None else torus.project(state)

    return corners, place


def _affine(states: Sequence[State], second: float, third: float) -> dict[str, Tensor]:
    """``a + second (b - a) + third (c - a)``, variances not below 0."""
    a, b, c = states
    result = {
        k: v + second * difference(v, b[k]) + third * difference(v, c[k]) if inexact(v) else v
        for k, v in a.items()
    }
    return {k: v.clamp_min(0) if k.endswith("running_var") else v for k, v in result.items()}


def _coordinates(states: Sequence[State], names: Sequence[str]) -> NDArray[Any]:
    """The states in their plane: the first at 0, the second on the x axis, the third above it."""
    a, b, c = (torch.cat([_numbers(s[k].detach()) for k in names]) for s in states)
    across, up = b - a, c - a
    length = across.norm()
    share = up @ across / length
    height = (up - share * across / length).norm()
    if float(height) < 1e-6 * float(length + up.norm()) or not float(length):
        raise ValueError("the three states lie on one line; a plane takes others")
    return np.array([[0, 0], [float(length), 0], [float(share), float(height)]])


def _numbers(tensor: Tensor) -> Tensor:
    """All numbers in a row; of a complex one its two parts."""
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).double().flatten()
