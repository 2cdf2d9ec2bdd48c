"""Measures of flatness that readers know from elsewhere: Hessian, sharpness, Fisher-Rao norm.

All are of the mean loss of a task, with BatchNorm's running statistics, at one state. Which of them
are the same for two rescalings of one function is part of each docstring.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.utils._pytree import tree_leaves, tree_map

from ._batches import Batch, Batches, Data
from ._network import ALONE, Kept, cast, structure
from ._state import State, check_model
from .tasks import Task, checked_task, classification, take

__all__ = ["Hessian", "fisher_rao", "hessian", "sharpness"]

Weights = dict[str, Tensor]


def _forwards(
    function: Callable[[Weights], Any], weights: Weights, direction: Weights
) -> tuple[Any, Any]:
    """A function's value, and its derivative along a direction."""
    with ALONE:
        value, change = jvp(function, (weights,), (direction,))
    return value, change


class _Loss:
    """A task's mean loss of a network on some data, as a function of its parameters."""

    def __init__(
        self, state: State, model: nn.Module, data: Data, task: Task, factor: float, size: int
    ) -> None:
        check_model(state, model)
        names = [name for name, _ in model.named_parameters()]
        self.weights = {k: state[k].detach() for k in names}
        self.buffers = {k: v.clone() for k, v in state.items() if k not in self.weights}
        self.network, self.factor, self.task = structure(model), factor, checked_task(task)
        self.batches = Batches(data, task, size, model)
        self.kept = Kept(self.network)
        if not self.kept.settled:
            first = next(iter(self.batches))
            self.kept.settle(lambda: self.outputs(self.weights, first))

    def outputs(self, weights: Weights, batch: Batch) -> Any:
        """Outputs that count, times the factor."""
        like = next(iter(weights.values()))
        inputs = tree_map(partial(cast, like=like), (batch.arguments, batch.named))
        state = {**self.buffers, **weights}
        found = take(functional_call(self.network, state, *inputs), self.task.outputs)
        return tree_map(lambda x: self.factor * x if isinstance(x, Tensor) else x, found)

    def mean(self, weights: Weights, batch: Batch) -> Tensor:
        """The mean loss of a batch."""
        return self.task.loss(self.outputs(weights, batch), batch.targets)

    def total(self, function: Callable[[Batch], Weights]) -> Weights:
        """The mean over all examples of what a function says of a batch's mean loss."""
        result, count = {k: torch.zeros_like(v) for k, v in self.weights.items()}, 0
        for batch in self.batches:
            count += batch.examples
            self.kept.forget()
            for name, part in function(batch).items():
                result[name] += batch.examples * part
        return {k: v / count for k, v in result.items()}

    def value(self, weights: Weights) -> float:
        self.kept.forget()
        with torch.no_grad():
            found = [(b.examples, float(self.mean(weights, b))) for b in self.batches]
        return sum(n * loss for n, loss in found) / sum(n for n, _ in found)

    def gradient(self) -> Weights:
        return self.total(lambda batch: grad(self.mean)(self.weights, batch))

    def curvature(self, vector: Weights) -> Weights:
        """The Hessian times a vector."""

        def product(batch: Batch) -> Weights:
            def slope(weights: Weights) -> Weights:
                return grad(self.mean)(weights, batch)

            return _forwards(slope, self.weights, vector)[1]

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
    state: State, model: nn.Module, data: Data, *, task: Task = classification, draws: int = 10,
    seed: int = 0, factor: float = 1.0, tolerance: float = 1e-3, batch_size: int = 250,
) -> Hessian:  # fmt: skip
    """Largest eigenvalue and trace of the loss's Hessian.

    The eigenvalue by Lanczos's method (SciPy's ``eigsh``), the trace as the mean of ``zᵀ H z``
    over random signs z (Hutchinson 1990). Neither is the same for two rescalings of one function.

    Args:
        state: State dict.
        model: The network; it is not changed.
        data: Usually the training data, or some of it; as in `evaluate`.
        task: Whose loss; see `toroid.tasks`.
        draws: How many z, at least 2.
        seed: Draws them, and the first vector of Lanczos's method.
        factor: Times the outputs: what brings a normalised network's back to their size.
        tolerance: Relative, of the eigenvalue.
        batch_size: Images at a time.

    Returns:
        ``(eigenvalue, trace, trace_error)``.

    Raises:
        ValueError: As `evaluate`, or if `draws` is below 2.

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
    loss = _Loss(state, model, data, task, factor, batch_size)
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
    state: State, model: nn.Module, data: Data, *, task: Task = classification,
    radius: float = 0.05, adaptive: bool = False, factor: float = 1.0, batch_size: int = 250,
) -> float:  # fmt: skip
    """How much the loss grows by the step that SAM takes (Foret et al. 2021).

    ``L(w + ρ ∇L/|∇L|) - L(w)``. With `adaptive`, the step is ``ρ w² ∇L/|w ∇L|``, element by element
    (ASAM, Kwon et al. 2021): that one is the same for two rescalings of one function.

    Args:
        state: State dict.
        model: The network; it is not changed.
        data: Usually the training data; as in `evaluate`.
        task: Whose loss; see `toroid.tasks`.
        radius: ρ, above 0.
        adaptive: Measure the step in units of the weights.
        factor: Times the outputs.
        batch_size: Images at a time.

    Returns:
        A difference of losses, in nats; 0 where the gradient is 0.

    Raises:
        ValueError: As `evaluate`, or if the radius is not positive.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(8,))
        >>> sharpness(model.state_dict(), model, train) > 0
        True
    """
    if not radius > 0:
        raise ValueError(f"radius is {radius}; it must be positive")
    loss = _Loss(state, model, data, task, factor, batch_size)
    sizes = {k: v.abs() if adaptive else torch.ones_like(v) for k, v in loss.weights.items()}
    slope = {k: sizes[k] * v for k, v in loss.gradient().items()}
    norm = float(torch.stack([v.double().square().sum() for v in slope.values()]).sum().sqrt())
    if norm == 0:
        return 0.0
    moved = {k: w + radius / norm * sizes[k] * slope[k] for k, w in loss.weights.items()}
    return loss.value(moved) - loss.value(loss.weights)


def fisher_rao(
    state: State, model: nn.Module, data: Data, *, task: Task = classification,
    factor: float = 1.0, batch_size: int = 250,
) -> float:  # fmt: skip
    """The Fisher-Rao norm of a network (Liang et al. 2019).

    ``sqrt(E [⟨w, ∇l⟩²])`` over images, with l an image's loss: how much its loss changes when all
    parameters grow by one rate. It is the same for two rescalings of one function.

    Args:
        state: State dict.
        model: The network; it is not changed.
        data: Usually the training data; as in `evaluate`.
        task: Whose loss; see `toroid.tasks`.
        factor: Times the outputs.
        batch_size: Images at a time.

    Returns:
        At least 0.

    Raises:
        ValueError: As `evaluate`.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(8,))
        >>> fisher_rao(model.state_dict(), model, train) > 0
        True
    """
    loss = _Loss(state, model, data, task, factor, batch_size)

    def squares(batch: Batch) -> float:
        loss.kept.forget()

        def run(weights: Weights) -> Any:
            return loss.outputs(weights, batch)

        outputs, change = _forwards(run, loss.weights, loss.weights)
        slope = grad(lambda found: task.loss(found, batch.targets))(outputs)
        each = [
            (s * c).flatten(1).sum(1)
            for s, c in zip(tree_leaves(slope), tree_leaves(change), strict=True)
        ]  # of the mean loss: an example's own is so many times larger
        return float((batch.examples * torch.stack(each).sum(0)).double().square().sum())

    found = [(batch.examples, squares(batch)) for batch in loss.batches]
    return (sum(square for _, square in found) / sum(count for count, _ in found)) ** 0.5
