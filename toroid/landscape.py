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

from ._checks import State, check_choice, check_data, check_model
from ._graph import structure
from .data import Dataset
from .models import _BinaryLinear
from .paths import Path
from .symmetry import Symmetry
from .torus import to_spheres

__all__ = ["Curve", "Evaluation", "Plane", "Score", "along", "evaluate", "plane", "refresh"]


PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


class Score(NamedTuple):
    """How a state does on a data set: fraction misclassified, and mean cross-entropy in nats.

    An image whose outputs are not all finite is misclassified.
    """

    error: float
    loss: float


@dataclass(frozen=True)
class Evaluation:
    """How networks are evaluated: what changes the time, and little or nothing of the result.

    Attributes:
        batch_size: Images at a time. It changes the result by rounding, but where BatchNorm's
            statistics are estimated again: those are means over the batches, see `refresh`.
        precision: ``"float32"``, the precision of the state; ``"bfloat16"``, where the layers that
            gain from it run in bfloat16 and errors change a little: fast on a GPU and on a CPU with
            instructions for it, slow elsewhere; or ``"int8"``, for networks and data of ±1: on a
            CPU their linear layers run in 8-bit integers, faster and with the same result.
        channels_last: Keep images and kernels with the channels innermost, which makes most
            convolutions faster. Networks that call ``view`` on images (``flatten`` is no trouble)
            cannot do that.

    Raises:
        ValueError: If a value is not one of these.
    """

    batch_size: int = 250
    precision: str = "float32"
    channels_last: bool = False

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, (*PRECISIONS, "int8"))
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be positive")


class Evaluator:
    """A network without weights of its own, evaluated for one state after the other."""

    def __init__(self, model: nn.Module, how: Evaluation) -> None:
        self.network, self.how = structure(model), how
        convolves = any(isinstance(m, nn.Conv2d) for m in self.network.modules())
        self.channels_last = how.channels_last and convolves
        self.norms = {
            k: m
            for k, m in self.network.named_modules()
            if isinstance(m, _BatchNorm) and m.track_running_stats
        }
        self.binary = {
            f"{k}.weight".lstrip(".")
            for k, m in self.network.named_modules()
            if isinstance(m, _BinaryLinear) and how.precision == "int8"
        }
        if how.precision == "int8" and not self.binary:
            raise ValueError(
                "precision is 'int8', but the network has no linear layer of ±1, as those of "
                "toroid.binary_mlp"
            )

    def _batches(self, data: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
        # of nearly equal size: BatchNorm's statistics weigh them alike
        parts = -(-len(data) // self.how.batch_size)
        return zip(data.images.tensor_split(parts), data.labels.tensor_split(parts), strict=True)

    def _place(self, tensor: Tensor) -> Tensor:
        if not self.channels_last or tensor.dim() != 4:
            return tensor
        return tensor.contiguous(memory_format=torch.channels_last)

    def _packed(self, name: str, weight: Tensor) -> Tensor:
        """Signs as 8-bit integers; a GPU's integer products take certain shapes only."""
        if name in self.binary and weight.device.type == "cpu":
            return weight.sign().to(torch.int8)
        return self._place(weight)

    def _outputs(self, state: State, images: Tensor) -> Tensor:
        """Outputs for images, in the precision of the state."""
        dtype = next((v.dtype for v in state.values() if v.is_floating_point()), torch.float32)
        kind = PRECISIONS.get(self.how.precision)
        with torch.autocast(images.device.type, kind, enabled=kind is not None):
            images = self._place(images.to(dtype, copy=True))  # a network may write into them
            outputs = functional_call(self.network, dict(state), (images,))
        return outputs.to(dtype)

    @torch.inference_mode()
    def score(self, state: State, data: Dataset) -> Score:
        """Error and loss."""
        check_data(data)
        if self.binary and not data.binary:
            raise ValueError(
                f"precision is 'int8', but images of {data.name!r} are not of ±1, as those of "
                "toroid.data.load('digits-binary')"
            )
        placed = {k: self._packed(k, v) for k, v in state.items()}
        wrong, loss = 0, 0.0
        for images, labels in self._batches(data):
            outputs = self._outputs(placed, images)
            right = (outputs.argmax(1) == labels) & outputs.isfinite().all(1)
            wrong += int((~right).sum())
            loss += float(cross_entropy(outputs, labels, reduction="sum"))
        return Score(wrong / len(data), loss / len(data))

    @torch.no_grad()
    def refresh(self, state: State, data: Dataset) -> dict[str, Tensor]:
        """The state with BatchNorm's statistics of these images."""
        check_data(data)
        result = {k: self._place(v) for k, v in state.items()} if self.norms else dict(state)
        starts = {"running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0}
        for name, module in self.norms.items():
            for key, start in starts.items():
                result[f"{name}.{key}"] = torch.full_like(state[f"{name}.{key}"], start)
            module.train()
            module.momentum = None  # the plain mean over batches
        if self.norms:
            for images, _ in self._batches(data):
                self._outputs(result, images)  # writes into result's statistics
        self.network.eval()
        return result


def evaluate(state: State, model: nn.Module, data: Dataset, **how: Any) -> Score:
    """Error and loss of a state, in evaluation mode.

    Args:
        state: State dict, on the device of the data.
        model: The network; it is not changed, and its own weights do not matter.
        data: Images and labels.
        **how: Fields of `Evaluation`, e.g. ``batch_size``.

    Returns:
        ``(error, loss)``.

    Raises:
        ValueError: If the state does not fit the model, or the data set is empty or no `Dataset`.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(16,))
        >>> evaluate(model.state_dict(), model, train).error > 0.5
        True
    """
    check_model(state, model)
    return Evaluator(model, Evaluation(**how)).score(state, data)


def refresh(state: State, model: nn.Module, data: Dataset, **how: Any) -> dict[str, Tensor]:
    """Estimate BatchNorm's statistics again, on this data.

    Interpolated networks need it: the mean of two networks' statistics is not the statistics of
    the network between them. The statistics are the plain mean over batches of each batch's mean
    and (unbiased) variance; dropout stays off.

    Args:
        state: State dict; it is not changed.
        model: The network; it is not changed.
        data: Usually the training data.
        **how: Fields of `Evaluation`. The larger the ``batch_size``, the closer to the statistics
            of the whole.

    Returns:
        The state with new running means and variances; without BatchNorm, an equal state.

    Raises:
        ValueError: If the state does not fit the model, or the data set is empty or no `Dataset`.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.vgg16_bn(train.shape, classes=10, width=0.1)
        >>> fresh = refresh(model.state_dict(), model, train)
        >>> bool((fresh["1.running_var"] == model.state_dict()["1.running_var"]).any())
        False
    """
    check_model(state, model)
    return Evaluator(model, Evaluation(**how)).refresh(state, data)


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
    refresh: Dataset | None = ..., ends: Ends | None = ..., progress: bool = ..., **how: Any,
) -> Curve: ...  # fmt: skip
@overload
def along(
    path: Path, model: nn.Module, data: Mapping[str, Dataset], *,
    points: int | Sequence[float] = ..., refresh: Dataset | None = ...,
    ends: Mapping[str, Ends] | None = ..., progress: bool = ..., **how: Any,
) -> dict[str, Curve]: ...  # fmt: skip
def along(
    path: Path, model: nn.Module, data: Dataset | Mapping[str, Dataset], *,
    points: int | Sequence[float] = 25, refresh: Dataset | None = None,
    ends: Ends | Mapping[str, Ends] | None = None, progress: bool = False, **how: Any,
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
    if len(places) < 2 or (np.diff(places) <= 0).any():
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
    refresh: Dataset | None = None, progress: bool = False, **how: Any,
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
        ValueError: If there are not three states, they lie on one line, or a data set is empty or
            no `Dataset`.

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
    evaluator, scores = Evaluator(model, Evaluation(**how)), []
    places = [shares @ (column, row) for row in y for column in x]
    for second, third in tqdm(places, disable=not progress, leave=False):
        state = _affine(states, float(second), float(third))
        if symmetry is not None:
            state = to_spheres(state, symmetry, bias)
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
