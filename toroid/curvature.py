"""Measures of flatness that readers know from elsewhere: Hessian, sharpness, Fisher-Rao norm.

All are of the mean cross-entropy, with BatchNorm's running statistics, at one state. Which of them
are the same for two rescalings of one function is part of each docstring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn.functional import cross_entropy

from ._network import ALONE, structure
from ._state import State, check_model
from .data import Dataset, check_data

__all__ = ["Hessian", "fisher_rao", "hessian", "sharpness"]

Weights = dict[str, Tensor]


def _forwards(function: Callable[[Weights], Any], weights: Weights, direction: Weights) -> Any:
    """The derivative of a function along a direction."""
    with ALONE:
        return jvp(function, (weights,), (direction,))[1]


class _Loss:
    """The loss of a network on a data set, as a function of its parameters."""

    def __init__(
        self, state: State, model: nn.Module, data: Dataset, factor: float, batch_size: int
    ) -> None:
        check_model(state, model)
        check_data(data)
        names = [name for name, _ in model.named_parameters()]
        self.weights = {k: state[k].detach() for k in names}
        self.buffers = {k: v.clone() for k, v in state.items() if k not in self.weights}
        self.network, self.factor = structure(model), factor
        self.data, self.batch_size = data, batch_size

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self.data.images, self.data.labels
        return zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True)

    def outputs(self, weights: Weights, images: Tensor) -> Tensor:
        dtype = next(iter(weights.values())).dtype
        images = images.to(dtype, copy=True)  # a network may write into them
        return self.factor * functional_call(self.network, {**self.buffers, **weights}, (images,))

    def share(self, weights: Weights, images: Tensor, labels: Tensor) -> Tensor:
        """What a batch adds to the mean loss."""
        outputs = self.outputs(weights, images)
        return cross_entropy(outputs, labels, reduction="sum") / len(self.data)

    def total(self, function: Callable[[Tensor, Tensor], Weights]) -> Weights:
        """The sum over batches."""
        result = {k: torch.zeros_like(v) for k, v in self.weights.items()}
        for images, labels in self.batches():
            for name, part in function(images, labels).items():
                result[name] += part
        return result

    def value(self, weights: Weights) -> float:
        with torch.no_grad():
            return sum(float(self.share(weights, x, y)) for x, y in self.batches())

    def gradient(self) -> Weights:
        return self.total(lambda x, y: grad(self.share)(self.weights, x, y))

    def curvature(self, vector: Weights) -> Weights:
        """The Hessian times a vector."""

        def product(images: Tensor, labels: Tensor) -> Weights:
            def slope(weights: Weights) -> Weights:
                return grad(self.share)(weights, images, labels)

            return _forwards(slope, self.weights, vector)

        return self.total(product)


class Hessian(NamedTuple):
    """Of the loss, in the parameters.

    Attributes:
        eigenvalue: The largest one.
        trace: The sum of all, estimated.
        trace_error: Standard error of the estimate.
    """

    eigenvalue: float
    trace: float
    trace_error: float


def hessian(
    state: State, model: nn.Module, data: Dataset, *, draws: int = 10, seed: int = 0,
    factor: float = 1.0, tolerance: float = 1e-3, batch_size: int = 250,
) -> Hessian:  # fmt: skip
    """Largest eigenvalue and trace of the loss's Hessian.

    The eigenvalue by Lanczos's method (SciPy's ``eigsh``), the trace as the mean of ``zᵀ H z``
    over random signs z (Hutchinson 1990). Neither is the same for two rescalings of one function.

    Args:
        state: State dict.
        model: The network; it is not changed.
        data: Usually the training data, or some of it.
        draws: How many z, at least 2.
        seed: Draws them, and the first vector of Lanczos's method.
        factor: Times the outputs: what brings a normalised network's back to their size.
        tolerance: Relative, of the eigenvalue.
        batch_size: Images at a time.

    Returns:
        ``(eigenvalue, trace, trace_error)``.

    Raises:
        ValueError: If the state does not fit the model, the data set is empty or no `Dataset`, or
            `draws` is below 2.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(8,))
        >>> found = hessian(model.state_dict(), model, train.take(100))
        >>> found.eigenvalue > 0
        True
    """
    if draws < 2:
        raise ValueError(f"draws is {draws}; a standard error takes at least 2")
    loss = _Loss(state, model, data, factor, batch_size)
    generator = torch.Generator().manual_seed(seed)

    def pack(weights: Weights) -> np.ndarray:
        return torch.cat([v.flatten() for v in weights.values()]).cpu().double().numpy()

    def product(flat: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(flat.copy()).split([v.numel() for v in loss.weights.values()])
        named = zip(loss.weights.items(), parts, strict=True)
        return pack(loss.curvature({k: p.view(v.shape).to(v) for (k, v), p in named}))

    size = sum(v.numel() for v in loss.weights.values())
    start = torch.randn(size, generator=generator, dtype=torch.float64).numpy()
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    top = eigsh(operator, k=1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)
    signs = [torch.randint(2, (size,), generator=generator).numpy() * 2.0 - 1 for _ in range(draws)]
    traces = [z @ product(z) for z in signs]
    error = float(np.std(traces, ddof=1) / draws**0.5)
    return Hessian(float(top[0]), float(np.mean(traces)), error)


def sharpness(
    state: State, model: nn.Module, data: Dataset, *, radius: float = 0.05, adaptive: bool = False,
    factor: float = 1.0, batch_size: int = 250,
) -> float:  # fmt: skip
    """How much the loss grows by the step that SAM takes (Foret et al. 2021).

    ``L(w + ρ ∇L/|∇L|) - L(w)``. With `adaptive`, the step is ``ρ w² ∇L/|w ∇L|``, element by element
    (ASAM, Kwon et al. 2021): that one is the same for two rescalings of one function.

    Args:
        state: State dict.
        model: The network; it is not changed.
        data: Usually the training data.
        radius: ρ, above 0.
        adaptive: Measure the step in units of the weights.
        factor: Times the outputs.
        batch_size: Images at a time.

    Returns:
        A difference of losses, in nats; 0 where the gradient is 0.

    Raises:
        ValueError: If the state does not fit the model, the data set is empty or no `Dataset`, or
            the radius is not positive.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(8,))
        >>> sharpness(model.state_dict(), model, train) > 0
        True
    """
    if not radius > 0:
        raise ValueError(f"radius is {radius}; it must be positive")
    loss = _Loss(state, model, data, factor, batch_size)
    sizes = {k: v.abs() if adaptive else torch.ones_like(v) for k, v in loss.weights.items()}
    slope = {k: sizes[k] * v for k, v in loss.gradient().items()}
    norm = float(torch.stack([v.double().square().sum() for v in slope.values()]).sum().sqrt())
    if norm == 0:
        return 0.0
    moved = {k: w + radius / norm * sizes[k] * slope[k] for k, w in loss.weights.items()}
    return loss.value(moved) - loss.value(loss.weights)


def fisher_rao(
    state: State, model: nn.Module, data: Dataset, *, factor: float = 1.0, batch_size: int = 250
) -> float:
    """The Fisher-Rao norm of a network (Liang et al. 2019).

    ``sqrt(E [⟨w, ∇l⟩²])`` over images, with l an image's loss: how much its loss changes when all
    parameters grow by one rate. It is the same for two rescalings of one function.

    Args:
        state: State dict.
        model: The network; it is not changed.
        data: Usually the training data.
        factor: Times the outputs.
        batch_size: Images at a time.

    Returns:
        At least 0.

    Raises:
        ValueError: If the state does not fit the model, or the data set is empty or no `Dataset`.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(8,))
        >>> fisher_rao(model.state_dict(), model, train) > 0
        True
    """
    loss = _Loss(state, model, data, factor, batch_size)

    def squares(images: Tensor, labels: Tensor) -> float:
        def each(weights: Weights) -> Tensor:
            return cross_entropy(loss.outputs(weights, images), labels, reduction="none")

        change = _forwards(each, loss.weights, loss.weights)
        return float(change.double().square().sum())

    return (sum(squares(x, y) for x, y in loss.batches()) / len(data)) ** 0.5
