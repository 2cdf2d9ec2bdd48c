"""What is computed of one state: a task's error and loss, its statistics renewed or repaired."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, fields
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.utils._pytree import tree_map

from ._batches import Batch, Batches, Data, beside
from ._network import Kept, measure, run, structure, transparent
from ._random import same_noise
from ._relu import overwrite
from ._repair import HOW, Enough, Moments, layers, moved, unrepaired, watched
from ._state import State, check_choice, check_model, check_whole, first_names, later_names
from .data import Dataset
from .tasks import Task, check_one, checked_task, classification, judged, probable, take

if TYPE_CHECKING:
    from typing_extensions import Unpack

Method = TypeVar("Method", bound=Callable[..., Any])

__all__ = ["Evaluation", "Evaluator", "Score", "disagreement", "evaluate", "refresh", "repair"]

PROBABILITIES = (
    "all outputs lie in [0, 1], as probabilities do, but the task takes logits, whose threshold is "
    "0. If the network ends in a sigmoid, say so: "
    "task=toroid.tasks.binary(outputs=lambda p: torch.logit(p, 1e-6))"
)
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


class Score(NamedTuple):
    """How a state does on some data: its error and loss, means over the examples.

    Of a classifier the fraction misclassified, and the cross-entropy in nats; of other tasks what
    the task says. An image whose outputs are not all finite is misclassified.
    """

    error: float
    loss: float


@dataclass(frozen=True)
class Evaluation:
    """How networks are evaluated: what changes the time, and little or nothing of the result.

    Attributes:
        batch_size: Images of a `Dataset` at a time; other data come in batches. It changes the
            result by rounding, but where BatchNorm's statistics are estimated again: those are
            means over the batches, see `refresh`.
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
        check_whole("batch_size", self.batch_size, 1)

    @classmethod
    def of(cls, **how: Any) -> Evaluation:
        """Those of a caller's keyword arguments.

        Raises:
            TypeError: If there is no such setting; names the valid ones.
            ValueError: As `Evaluation`.
        """
        valid = [f.name for f in fields(cls)]
        if unknown := [name for name in how if name not in valid]:
            raise TypeError(
                f"no argument {', '.join(unknown)}; how networks are evaluated is said by "
                f"{', '.join(valid)}"
            )
        return cls(**how)


class How(TypedDict, total=False):
    """`Evaluation` as keyword arguments, for those who write and check calls."""

    batch_size: int
    precision: str
    channels_last: bool


def _forwards(method: Method) -> Method:
    """Nothing is recorded; but a network of a user's may take a gradient inside, an energy's."""

    @wraps(method)
    def run_(self: Evaluator, *args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode() if self.transparent else torch.no_grad():
            return method(self, *args, **kwargs)

    return cast(Method, run_)


class Evaluator:
    """A network without weights of its own, evaluated for one state after the other."""

    def __init__(self, model: nn.Module, how: Evaluation, task: Task = classification) -> None:
        """Take the modules apart from their weights."""
        self.model, self.how, self.task = model, how, checked_task(task)
        self.network = structure(model)
        self.transparent = transparent(self.network)
        if self.transparent:
            overwrite(self.network)
        self.sized = False  # whether an error was seen to change with the size of the outputs
        self.kept, self.later = Kept(self.network), later_names(model)
        convolves = any(isinstance(m, nn.Conv2d) for m in self.network.modules())
        self.channels_last = how.channels_last and convolves
        self.norms = {
            k: m
            for k, m in self.network.named_modules()
            if isinstance(m, _NormBase) and m.track_running_stats
        }
        self.others = [
            k
            for k, m in self.network.named_modules()
            if not isinstance(m, _NormBase) and _estimates(m)
        ]
        self.buffers = {name for name, _ in self.network.named_buffers()}
        self.packed: dict[str, Callable[[Tensor], Tensor]] = {
            f"{k}.weight".lstrip("."): m.packed
            for k, m in self.network.named_modules()
            if how.precision == "int8" and hasattr(m, "packed")
        }
        if how.precision == "int8" and not self.packed:
            raise ValueError(
                "precision is 'int8', but the network has no linear layer of ±1, as those of "
                "toroid.binary_mlp"
            )

    def batches(self, data: Data) -> Batches:
        """Data as batches that are the same for every state."""
        if isinstance(data, Batches):
            return data
        if self.packed and not (isinstance(data, Dataset) and data.binary):
            name = repr(data.name) if isinstance(data, Dataset) else f"a {type(data).__name__}"
            raise ValueError(
                f"precision is 'int8', but images of {name} are not of ±1, as those of "
                "toroid.data.load('digits-binary')"
            )
        return Batches(data, self.task, self.how.batch_size, self.model)

    def _place(self, tensor: Tensor) -> Tensor:
        if not self.channels_last or tensor.dim() != 4:
            return tensor
        return tensor.contiguous(memory_format=torch.channels_last)

    def _own(self, name: str, tensor: Tensor) -> Tensor:
        """In its place; a copy of a buffer, since a network may write to it."""
        return tensor.clone() if name in self.buffers else self._place(tensor)

    def _moved(self, x: Any, like: Tensor) -> Any:
        """An input where and as it is needed, in one copy: a network may write into it.

        Where it cannot, the data themselves; copies are aligned, which products' bits depend on.
        """
        if not isinstance(x, Tensor):
            return x
        whole = self.transparent and _aligned(x)
        layout = self.channels_last and x.dim() == 4
        return x.to(
            like.device, like.dtype if x.is_floating_point() else x.dtype, copy=not whole,
            non_blocking=like.device.type == "cuda",
            memory_format=torch.channels_last if layout else torch.preserve_format,
        )  # fmt: skip

    def _call(self, state: State, batch: Batch, like: Tensor) -> Any:
        inputs = tree_map(partial(self._moved, like=like), (batch.arguments, batch.named))
        once = {k: v for k, v in state.items() if k not in self.later}
        with nullcontext() if self.transparent else same_noise():
            return run(self.network, once, *inputs, own=self.buffers)

    def _outputs(self, state: State, batch: Batch, factor: float = 1.0) -> tuple[Any, Any]:
        """Outputs that count, in the precision of the state, and targets beside them."""
        like = measure(state)
        kind = PRECISIONS.get(self.how.precision)
        with torch.autocast(like.device.type, kind, enabled=kind is not None):
            if not self.kept.settled:
                self.kept.settle(lambda: self._call(state, batch, like))
            outputs = self._call(state, batch, like)
        scaled = partial(_scaled, factor=factor, dtype=like.dtype)
        return (
            tree_map(scaled, take(outputs, self.task.outputs)),
            tree_map(partial(beside, device=like.device), batch.targets),
        )

    @_forwards
    def score(
        self, state: State, data: Data, factor: float = 1.0, *, resize: bool = False
    ) -> Score:
        """Error and loss, of the outputs times a factor; `resize` sees whether that counts."""
        self.kept.forget()
        placed = {k: self._own(k, v) for k, v in state.items()}
        placed |= {k: pack(state[k]) for k, pack in self.packed.items()}
        wrong, loss, count, unlike = 0.0, 0.0, 0, True
        for batch in self.batches(data):
            outputs, targets = self._outputs(placed, batch, factor)
            errors, mean = judged(self.task, outputs, targets, batch.examples)
            if resize:
                twice = tree_map(partial(_scaled, factor=2.0), outputs)
                self.sized |= not torch.equal(self.task.error(twice, targets).double(), errors)
            wrong += float(errors.sum())
            loss += float(mean) * batch.examples
            count += batch.examples
            unlike = unlike and probable(self.task, outputs)
        if unlike:
            warnings.warn(PROBABILITIES, stacklevel=2)
        return Score(wrong / count, loss / count)

    @_forwards
    def predictions(self, state: State, data: Data) -> Tensor:
        """The largest output of each example, (examples, ...); -1 where one is not finite.

        Of one output, whether it is above 0.
        """
        self.kept.forget()
        placed = {k: self._own(k, v) for k, v in state.items()}
        placed |= {k: pack(state[k]) for k, pack in self.packed.items()}
        found = []
        for batch in self.batches(data):
            outputs, targets = self._outputs(placed, batch)
            check_one("outputs", outputs, "classification")
            judged(self.task, outputs, targets, batch.examples)  # outputs that the task takes
            rows = outputs.reshape(len(outputs), 1) if outputs.dim() == 1 else outputs
            largest = rows.argmax(1) if rows.shape[1] > 1 else (rows[:, 0] > 0).long()
            found.append(torch.where(rows.isfinite().all(1), largest, -1))
        return torch.cat(found)

    @torch.no_grad()
    def refresh(self, state: State, data: Data) -> dict[str, Tensor]:
        """The state with the running statistics of these data."""
        batches = self.batches(data)
        if self.others:
            warnings.warn(
                f"{', '.join(self.others[:3])} of the model: running statistics of no BatchNorm of "
                "torch's, which stay as they are; make the module a subclass of "
                "torch.nn.modules.batchnorm._BatchNorm to have them estimated",
                stacklevel=3,
            )
        if not self.norms:
            return dict(state)
        self.kept.forget()
        result = {k: self._own(k, v) for k, v in state.items()}
        starts = {"running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0}
        for name, module in self.norms.items():
            for key, start in starts.items():
                result[f"{name}.{key}"] = torch.full_like(state[f"{name}.{key}"], start)
            module.train()
        for done, batch in enumerate(batches, 1):
            for module in self.norms.values():
                # the plain mean over batches, and over a module's calls in each
                module.momentum = None if isinstance(module, _BatchNorm) else 1 / done
            self._outputs(result, batch)  # writes into result's statistics
        self.network.eval()
        return result

    @torch.no_grad()
    def moments(
        self, state: State, data: Data, until: str | None = None, calls: int = 0
    ) -> dict[str, Moments]:
        """Units' means and deviations before the activation, of all layers or of one."""
        self.kept.forget()
        placed = {k: self._own(k, v) for k, v in state.items()}
        passes = 0
        with watched(layers(self.network, state), until, calls) as seen:
            for batch in self.batches(data):
                passes += 1
                with suppress(Enough):
                    self._outputs(placed, batch)
        for found in seen.values():
            found.calls //= passes
        return seen

    def repair(
        self, state: State, ends: tuple[dict[str, Moments], dict[str, Moments]], t: float,
        data: Data, how: str,
    ) -> dict[str, Tensor]:  # fmt: skip
        """The state with the ends' moments, interpolated, in every layer but the last."""
        batches, result = self.batches(data), dict(state)
        first, last = ends
        if left := unrepaired(self.network, state):
            warnings.warn(
                f"repair does not reach {', '.join(left[:3])}: it moves the units of torch's own "
                "linear layers and convolutions, whose weights stand in the state as they are used",
                stacklevel=3,
            )
        modules = layers(self.network, state)
        _check_untied(self.model, list(first)[:-1])
        for name in list(first)[:-1]:  # what is before the activation depends on layers before
            own = self.moments(result, batches, name, first[name].calls)[name]
            goal = first[name].towards(last[name], t)
            result = moved(result, name, modules[name], own, goal, how)
        return result


def _estimates(module: nn.Module) -> bool:
    """Whether a module keeps running statistics; a frozen norm's weight is a buffer as well."""
    held = {name for name, buffer in module._buffers.items() if buffer is not None}
    return {"running_mean", "running_var"} <= held and "weight" not in held


def _check_untied(model: nn.Module, layers: Sequence[str]) -> None:
    """No weight of these layers has a second use, where a factor would be wrong."""
    names = first_names(model)
    for key in (f"{layer}.weight".lstrip(".") for layer in layers):
        if others := [k for k, first in names.items() if first == names[key] and k != key]:
            raise ValueError(
                f"{key!r} is tied to {others[0]!r}: what repairs one use spoils the other"
            )


def _aligned(x: Tensor) -> bool:
    return x.layout == torch.strided and x.is_contiguous() and x.data_ptr() % 64 == 0


def _scaled(x: Any, factor: float, dtype: torch.dtype | None = None) -> Any:
    """An output times a factor, in a precision; no gradient is taken of it."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return x
    x = x.detach().to(dtype or x.dtype)
    return x if factor == 1.0 else x * factor


def evaluate(
    state: State, model: nn.Module, data: Data, *, task: Task = classification, **how: Unpack[How]
) -> Score:
    """Error and loss of a state, in evaluation mode.

    Args:
        state: State dict; the batches of the data are moved to its device.
        model: The network; it is not changed, and its own weights do not matter.
        data: A `toroid.data.Dataset` of images and labels, or anything that can be walked again
            and again and yields batches: a ``DataLoader``, a list.
        task: How the network is called on a batch, and what its error and loss are; by default
            those of a classifier. See `toroid.tasks`.
        **how: Fields of `Evaluation`, e.g. ``batch_size``.

    Returns:
        ``(error, loss)``.

    Raises:
        TypeError: If there is no such field of `Evaluation`.
        ValueError: If the state does not fit the model, the data are empty or can be walked once
            only, or what the network returns is not what the task takes.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(16,))
        >>> evaluate(model.state_dict(), model, train).error > 0.5
        True
        >>> x = torch.randn(60, 5)
        >>> pairs = torch.utils.data.TensorDataset(x, x.sum(1))
        >>> loader, model = torch.utils.data.DataLoader(pairs, batch_size=16), torch.nn.Linear(5, 1)
        >>> ones = {"weight": torch.ones(1, 5), "bias": torch.zeros(1)}
        >>> evaluate(ones, model, loader, task=toroid.tasks.regression).loss < 1e-9
        True
    """
    check_model(state, model)
    return Evaluator(model, Evaluation.of(**how), task).score(state, data)


def refresh(
    state: State, model: nn.Module, data: Data, *, task: Task = classification, **how: Unpack[How]
) -> dict[str, Tensor]:
    """Estimate running statistics (BatchNorm's) again, on these data.

    Interpolated networks need it: the mean of two networks' statistics is not the statistics of
    the network between them. The statistics are the plain mean over batches of each batch's mean
    and (unbiased) variance; dropout stays off.

    Args:
        state: State dict; it is not changed.
        model: The network; it is not changed.
        data: Usually the training data; as in `evaluate`.
        task: How the network is called on a batch; see `toroid.tasks`.
        **how: Fields of `Evaluation`. The larger the ``batch_size``, the closer to the statistics
            of the whole.

    Returns:
        The state with new running means and variances; without BatchNorm, an equal state.

    Raises:
        TypeError: As `evaluate`.
        ValueError: As `evaluate`.

    Warns:
        UserWarning: If modules that are no BatchNorm of torch's keep running statistics, which stay
            as they are.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.vgg16_bn(train.shape, classes=10, width=0.1)
        >>> fresh = refresh(model.state_dict(), model, train)
        >>> bool((fresh["1.running_var"] == model.state_dict()["1.running_var"]).any())
        False
    """
    check_model(state, model)
    return Evaluator(model, Evaluation.of(**how), task).refresh(state, data)


def disagreement(
    a: State, b: State, model: nn.Module, data: Data, *, task: Task = classification,
    **how: Unpack[How],
) -> float:  # fmt: skip
    """Fraction of examples on which two classifiers predict different classes.

    The distance in function space itself: 0 for two copies of one classifier, whatever their
    weights. An example on which the outputs of one of them are not all finite counts. Of a network
    with one output the class is whether that is above 0.

    Args:
        a: State dict.
        b: Another, of the same network.
        model: The network; it is not changed, and its own weights do not matter.
        data: As in `evaluate`; the labels do not matter.
        task: Says which outputs count and how the network is called; the classes are along the
            second dimension of the outputs.
        **how: Fields of `Evaluation`, e.g. ``batch_size``.

    Returns:
        From 0 to 1.

    Raises:
        TypeError: As `evaluate`.
        ValueError: As `evaluate`.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(16,))
        >>> disagreement(model.state_dict(), model.state_dict(), model, train)
        0.0
    """
    for state in (a, b):
        check_model(state, model)
    evaluator = Evaluator(model, Evaluation.of(**how), task)
    x, y = (evaluator.predictions(state, data) for state in (a, b))
    return float(((x != y) | (x < 0)).double().mean())


def repair(
    state: State, model: nn.Module, ends: tuple[State, State], t: float, data: Data,
    how: str = "repair", *, task: Task = classification, **evaluation: Unpack[How],
) -> dict[str, Tensor]:  # fmt: skip
    """Give the units of a network between two others the deviations that they have there.

    Half way between two networks units vary less than at either end, layer after layer. After
    Jordan et al. (2023), layer by layer from the input: each unit's mean and deviation over the
    data, before the activation, are set to ``(1 - t)`` times those at the first end plus ``t``
    times those at the second, and folded into weights and biases. The layer that runs last is left
    as it is. Where a network has BatchNorm this is `refresh`. At an end itself nothing changes. A
    layer that is called several times in a pass is moved by the moments of all its calls together,
    which repairs it approximately.

    It takes one pass over the data for each end and one, up to that layer, for each layer.

    Args:
        state: State dict between the ends; it is not changed.
        model: The network; it is not changed.
        ends: The states at t = 0 and t = 1.
        t: Place of `state` between them, in [0, 1].
        data: Usually the training data, or a part of them; as in `evaluate`.
        how: ``"repair"``; or ``"rescale"``, each unit times the factor that sets its deviation
            alone, which layers without biases can have too.
        task: How the network is called on a batch; see `toroid.tasks`.
        **evaluation: Fields of `Evaluation`.

    Returns:
        A state of the same model.

    Raises:
        TypeError: As `evaluate`.
        ValueError: As `evaluate`, and if an end does not fit the model, `t` is not in [0, 1], `how`
            is another word, or a layer to repair has no bias.

    Warns:
        UserWarning: If modules have matrices that this does not reach: attention, recurrent layers,
            weights that are computed.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> a, b = (toroid.mlp(train.shape, classes=10, hidden=(16,)) for _ in "ab")
        >>> ends = a.state_dict(), b.state_dict()
        >>> middle = repair(toroid.Linear(*ends)(0.5), a, ends, 0.5, train)
        >>> x, states = train.images.flatten(1), (*ends, middle)
        >>> first, last, between = ((x @ s["1.weight"].T).std(0) for s in states)
        >>> bool(torch.allclose(between, (first + last) / 2, rtol=1e-3))
        True
    """
    check_choice("how", how, HOW)
    if not 0 <= t <= 1:
        raise ValueError(f"t is {t}; the place between the ends is from 0 to 1")
    for each in (state, *ends):
        check_model(each, model)
    evaluator = Evaluator(model, Evaluation.of(**evaluation), task)
    batches = evaluator.batches(data)
    if evaluator.norms:
        return evaluator.refresh(state, batches)
    first, last = (evaluator.moments(end, batches) for end in ends)
    return evaluator.repair(state, (first, last), t, batches, how)
