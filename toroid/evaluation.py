"""What is computed of one state: error and loss, and BatchNorm's statistics estimated again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from ._network import structure
from ._state import State, check_choice, check_model
from .data import Dataset, check_data

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Evaluation", "Evaluator", "Score", "evaluate", "refresh"]


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


class How(TypedDict, total=False):
    """`Evaluation` as keyword arguments, for those who write and check calls."""

    batch_size: int
    precision: str
    channels_last: bool


class Evaluator:
    """A network without weights of its own, evaluated for one state after the other."""

    def __init__(self, model: nn.Module, how: Evaluation) -> None:
        """Take the modules apart from their weights."""
        self.network, self.how = structure(model), how
        convolves = any(isinstance(m, nn.Conv2d) for m in self.network.modules())
        self.channels_last = how.channels_last and convolves
        self.norms = {
            k: m
            for k, m in self.network.named_modules()
            if isinstance(m, _BatchNorm) and m.track_running_stats
        }
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

    def _batches(self, data: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
        # of nearly equal size: BatchNorm's statistics weigh them alike
        parts = -(-len(data) // self.how.batch_size)
        return zip(data.images.tensor_split(parts), data.labels.tensor_split(parts), strict=True)

    def _place(self, tensor: Tensor) -> Tensor:
        if not self.channels_last or tensor.dim() != 4:
            return tensor
        return tensor.contiguous(memory_format=torch.channels_last)

    def _own(self, name: str, tensor: Tensor) -> Tensor:
        """In its place; a copy of a buffer, since a network may write to it."""
        return tensor.clone() if name in self.buffers else self._place(tensor)

    def _outputs(self, state: State, images: Tensor) -> Tensor:
        """Outputs for images, in the precision of the state."""
        dtype = next((v.dtype for v in state.values() if v.is_floating_point()), torch.float32)
        kind = PRECISIONS.get(self.how.precision)
        with torch.autocast(images.device.type, kind, enabled=kind is not None):
            images = self._place(images.to(dtype, copy=True))  # a network may write into them
            outputs: Tensor = functional_call(self.network, dict(state), (images,))
        return outputs.to(dtype)

    @torch.inference_mode()
    def score(self, state: State, data: Dataset) -> Score:
        """Error and loss."""
        check_data(data)
        if self.packed and not data.binary:
            raise ValueError(
                f"precision is 'int8', but images of {data.name!r} are not of ±1, as those of "
                "toroid.data.load('digits-binary')"
            )
        placed = {k: self._own(k, v) for k, v in state.items()}
        placed |= {k: pack(state[k]) for k, pack in self.packed.items()}
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
        result = {k: self._own(k, v) for k, v in state.items()} if self.norms else dict(state)
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


def evaluate(state: State, model: nn.Module, data: Dataset, **how: Unpack[How]) -> Score:
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


def refresh(state: State, model: nn.Module, data: Dataset, **how: Unpack[How]) -> dict[str, Tensor]:
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
