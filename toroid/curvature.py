"""Measures of flatness that readers know from elsewhere: Hessian, sharpness, Fisher-Rao norm.

All are of the mean loss of a task, with BatchNorm's running statistics, at one state, by all of its
parameters, frozen ones too. Which of them are the same for two rescalings of one function is part
of each docstring.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import grad, jvp
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.stateless import _reparametrize_module
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from ._batches import Batch, Batches, Data, beside
from ._network import ALONE, Kept, UnsupportedError, cast, run, structure, transparent
from ._random import same_noise
from ._state import State, check_model, check_number, check_whole, later_names
from .tasks import Task, checked_task, classification, mean_loss, take

__all__ = ["Hessian", "Spectrum", "fisher_rao", "hessian", "sharpness", "spectrum"]

Weights = dict[str, Tensor]


#: What torch's errors tell of where an operation has no derivative.
UNDIFFERENTIATED = ("derivative", "differentiate", "grad", "backward")


def _forwards(
    function: Callable[[Weights], Any], weights: Weights, direction: Weights
) -> tuple[Any, Any]:
    """A function's value, and its derivative along a direction."""
    with ALONE:
        found = jvp(function, (weights,), (direction,))
    return found[0], found[1]


def _slopes(loss: Tensor, weights: Weights, create_graph: bool = False) -> Weights:
    """The gradient by leaves, 0 by those that the loss does not see."""
    found = torch.autograd.grad(
        loss, [*weights.values()], create_graph=create_graph, materialize_grads=True
    )
    return dict(zip(weights, found, strict=True))


class _Smooth(TorchFunctionMode):
    """An operation that torch differentiates once is written in those that it does twice."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run a function, or one that is equal to it."""
        if function is F.hardsigmoid:
            return F.relu6(args[0] + 3) / 6
        return function(*args, **(kwargs or {}))


def _usual(x: Any) -> Any:
    """A tensor that a gradient can pass, where it was made under `torch.inference_mode`."""
    if not isinstance(x, Tensor):
        return x
    return x.clone() if x.is_inference() else x.detach()


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


def _check_finite(found: Any, what: str) -> None:
    if not np.isfinite(found).all() if isinstance(found, float) else not found.isfinite().all():
        raise ValueError(
            f"{what} is not finite at this state: weights, data or factor hold NaN or infinite "
            "numbers, or an operation has no derivative there (as a power or a root at 0)"
        )


class _Loss:
    """A task's mean loss of a network on some data, as a function of its parameters.

    A complex parameter is a real one with a last dimension of 2 here.
    """

    def __init__(
        self, state: State, model: nn.Module, data: Data, task: Task, factor: float, size: int
    ) -> None:
        check_model(state, model)
        check_whole("batch_size", size, 1)
        self.factor, self.task = check_number("factor", factor), checked_task(task)
        names = [k for k, p in model.named_parameters() if p.is_floating_point() or p.is_complex()]
        self.complex = {k for k in names if state[k].is_complex()}
        with torch.inference_mode(False):  # of a state from there we take copies
            held = {k: _usual(v) for k, v in state.items()}
        self.weights = {k: _real(held[k]) for k in names}
        self.buffers = {k: held[k] for k in state.keys() - {*names} - later_names(model)}
        self.network = structure(model)
        self.transparent = transparent(self.network)
        self.batches = Batches(data, task, size, model)
        self.forward = True  # as long as `torch.func` takes the network
        self.tried = False
        self.kept = Kept(self.network)
        if not self.kept.settled:
            first = next(iter(self.batches))
            self.kept.settle(lambda: self.outputs(self.weights, first))

    def walk(self) -> Iterator[Batch]:
        """The batches; on the first it is seen whether there is a gradient."""
        for batch in self.batches:
            if not self.tried:
                self.try_on(batch)
                self.kept.forget()
            yield batch

    def try_on(self, batch: Batch) -> None:
        """A first run without `torch.func`: what fails here is not its doing."""
        message = (
            "there is no gradient: the loss does not depend on the parameters as torch sees it. "
            "Does forward, or the task's loss, run under torch.no_grad or torch.inference_mode, or "
            "detach what it returns?"
        )
        try:
            with torch.inference_mode(False), torch.enable_grad(), ALONE, warnings.catch_warnings():
                warnings.filterwarnings("error", "None of the inputs have requires_grad=True")
                copies = {k: v.detach().requires_grad_().clone() for k, v in self.weights.items()}
                outputs = self.outputs(copies, batch)
                depends = self.judge(outputs, batch).requires_grad
                self.fit(outputs, batch)
        except UserWarning as error:
            raise UnsupportedError(
                "torch.utils.checkpoint with use_reentrant=True passes no gradient on to the "
                "weights here: give it use_reentrant=False"
            ) from error
        except (RuntimeError, ValueError) as error:
            if "nference tensor" not in str(error):
                raise
            raise ValueError(message) from error
        if not depends:
            raise ValueError(message)
        self.tried = True

    def state(self, weights: Weights) -> Weights:
        """What the network runs on: the weights, and copies of all else."""
        own = {k: torch.view_as_complex(v) if k in self.complex else v for k, v in weights.items()}
        return {**{k: v.clone() for k, v in self.buffers.items()}, **own}

    def outputs(self, weights: Weights, batch: Batch) -> Any:
        """Outputs that count, times the factor."""
        like = next(iter(weights.values()))
        inputs = tree_map(partial(cast, like=like), (batch.arguments, batch.named))
        # the other kernels of attention have no second derivative; the choice is the process's
        noise = nullcontext() if self.transparent else same_noise()
        with ALONE, sdpa_kernel(SDPBackend.MATH), noise:
            told = run(self.network, self.state(weights), *inputs, own=self.buffers)
        found = take(told, self.task.outputs)
        return tree_map(lambda x: self.factor * x if isinstance(x, Tensor) else x, found)

    def judge(self, outputs: Any, batch: Batch) -> Tensor:
        """The mean loss of a batch's outputs."""
        device = next(iter(self.weights.values())).device
        targets = tree_map(lambda x: _usual(beside(x, device)), batch.targets)
        return mean_loss(self.task, outputs, targets).reshape(())

    def fit(self, outputs: Any, batch: Batch) -> None:
        """An error of the task's where outputs and targets are not what it takes."""
        device = next(iter(self.weights.values())).device
        plain = tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, outputs)
        self.task.error(plain, tree_map(lambda x: beside(x, device), batch.targets))

    def mean(self, weights: Weights, batch: Batch) -> Tensor:
        """The mean loss of a batch."""
        return self.judge(self.outputs(weights, batch), batch)

    def total(self, function: Callable[[Batch], Weights]) -> Weights:
        """The mean over all examples of what a function says of a batch's mean loss."""
        result, count = {k: torch.zeros_like(v) for k, v in self.weights.items()}, 0
        for batch in self.walk():
            count += batch.examples
            self.kept.forget()
            for name, part in function(batch).items():
                result[name] += batch.examples * part
        for name, part in result.items():
            _check_finite(part, f"the derivative of the loss by {name!r}")
        return {k: v / count for k, v in result.items()}

    def value(self, weights: Weights) -> float:
        """The loss."""
        self.kept.forget()
        with torch.no_grad():
            found = [(b.examples, float(self.mean(weights, b))) for b in self.walk()]
        mean = sum(n * loss for n, loss in found) / sum(n for n, _ in found)
        _check_finite(mean, "the loss")
        return mean

    def gradient(self) -> Weights:
        """Of the loss."""
        return self.total(
            lambda batch: self.either(
                lambda: grad(self.mean)(self.weights, batch), lambda: self.slopes(batch)
            )
        )

    def slopes(self, batch: Batch) -> Weights:
        """The gradient of a batch's loss, by plain backpropagation."""
        with self.leaves() as weights:
            return _slopes(self.mean(weights, batch), weights)

    def curvature(self, vector: Weights) -> Weights:
        """The Hessian times a vector."""

        def product(batch: Batch) -> Weights:
            def slope(weights: Weights) -> Weights:
                return grad(self.mean)(weights, batch)

            return self.either(
                lambda: _forwards(slope, self.weights, vector)[1],
                lambda: self.in_turn(vector, batch),
            )

        return self.total(product)

    def in_turn(self, vector: Weights, batch: Batch) -> Weights:
        """The Hessian times a vector, in reverse twice.

        Backwards into every leaf: asked for the weights alone, torch passes by an operation that
        has no second derivative, and calls the Hessian 0.
        """
        with self.leaves() as weights, _Smooth():
            slopes = _slopes(self.mean(weights, batch), weights, create_graph=True)
            total = torch.stack([(s * vector[k]).sum() for k, s in slopes.items()]).sum()
            if total.requires_grad:  # else the loss is linear
                torch.autograd.backward(total)
        zeros = {k: torch.zeros_like(v) for k, v in weights.items()}
        return {k: zeros[k] if v.grad is None else v.grad for k, v in weights.items()}

    @contextmanager
    def leaves(self) -> Iterator[Weights]:
        """The weights, for plain backpropagation: what runs again on the way back finds them."""
        with (
            torch.inference_mode(False), torch.enable_grad(), ALONE, sdpa_kernel(SDPBackend.MATH)
        ):  # fmt: skip
            weights = {k: v.clone().requires_grad_() for k, v in self.weights.items()}
            with _reparametrize_module(self.network, self.state(weights), tie_weights=True):
                yield weights

    def either(self, forward: Callable[[], Any], reverse: Callable[[], Any]) -> Any:
        """The cheaper way, by `torch.func`, or plain backpropagation, which takes more networks."""
        if self.forward:
            try:
                return forward()
            except torch.OutOfMemoryError:
                raise
            except (NotImplementedError, RuntimeError, ValueError):
                self.forward = False
                self.kept.forget()
        try:
            return reverse()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            told = next(iter(str(error).splitlines()), "")
            if not any(word in told.lower() for word in UNDIFFERENTIATED):
                raise
            raise UnsupportedError(
                "the network has an operation that torch cannot differentiate, or for a Hessian "
                f"cannot differentiate twice: {told}"
            ) from error

    def flat(self, weights: Weights) -> NDArray[Any]:
        """All parameters as one vector, in float64."""
        return torch.cat([v.flatten() for v in weights.values()]).cpu().double().numpy()

    def named(self, flat: NDArray[Any]) -> Weights:
        """The parameters of a vector."""
        parts = torch.from_numpy(flat.copy()).split([v.numel() for v in self.weights.values()])
        pairs = zip(self.weights.items(), parts, strict=True)
        return {k: part.view(v.shape).to(v) for (k, v), part in pairs}

    def vectors(self, rows: NDArray[Any]) -> list[Weights]:
        """The parameters of each row, complex ones as the caller knows them."""
        found = map(self.named, rows)
        return [
            {k: torch.view_as_complex(v) if k in self.complex else v for k, v in one.items()}
            for one in found
        ]

    @property
    def operator(self) -> LinearOperator:
        """The Hessian, as SciPy takes it."""
        size = sum(v.numel() for v in self.weights.values())
        return LinearOperator(
            (size, size), lambda flat: self.flat(self.curvature(self.named(flat))), dtype=np.float64
        )


@dataclass(frozen=True)
class Hessian:
    """Of the loss, in the parameters.

    Attributes:
        eigenvalue: The largest one.
        trace: The sum of all, estimated.
        trace_error: Standard error of the estimate.
        largest: As many of the largest eigenvalues as were asked for, descending.
        smallest: As many of the smallest, ascending.
        largest_vectors: For each of the largest its eigenvector, of norm 1: a tensor for every
            parameter.
        smallest_vectors: The same of the smallest.
        traces: One row for each parameter: its name, the trace of its own block, and the standard
            error of that.
    """

    eigenvalue: float
    trace: float
    trace_error: float
    largest: NDArray[Any]
    smallest: NDArray[Any]
    largest_vectors: list[Weights] = field(repr=False)
    smallest_vectors: list[Weights] = field(repr=False)
    traces: pd.DataFrame = field(repr=False)


def hessian(
    state: State, model: nn.Module, data: Data, *, task: Task = classification, largest: int = 1,
    smallest: int = 0, draws: int = 10, seed: int = 0, factor: float = 1.0,
    tolerance: float = 1e-3, batch_size: int = 250,
) -> Hessian:  # fmt: skip
    """Eigenvalues at both ends and traces of the loss's Hessian.

    The eigenvalues by Lanczos's method (SciPy's ``eigsh``), a trace as the mean of ``zᵀ H z`` over
    random signs z (Hutchinson 1990), its part in a parameter as that of ``z (H z)`` there. None of
    them is the same for two rescalings of one function. `spectrum` gives the whole density.

    Args:
        state: State dict.
        model: The network; it is not changed.
        data: Usually the training data, or some of it; as in `evaluate`.
        task: Whose loss; see `toroid.tasks`.
        largest: How many of the largest eigenvalues, at least 1.
        smallest: How many of the smallest (the most negative).
        draws: How many z, at least 2.
        seed: Draws them, and the first vector of Lanczos's method.
        factor: Times the outputs: what brings a normalised network's back to their size.
        tolerance: Relative, of the eigenvalues.
        batch_size: Images at a time.

    Returns:
        Eigenvalues and vectors, the trace, and the trace of each parameter's block.

    Raises:
        UnsupportedError: If torch cannot differentiate an operation of the network twice.
        ValueError: As `evaluate`, if `draws` is below 2, if there are not so many eigenvalues, or
            if the loss has no gradient or no finite one.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(8,))
        >>> found = hessian(model.state_dict(), model, train.take(100), largest=2)
        >>> bool(found.eigenvalue == found.largest[0] > found.largest[1] > 0)
        True
        >>> list(found.traces["parameter"])
        ['1.weight', '1.bias', '3.weight', '3.bias']
    """
    if check_whole("draws", draws) < 2:
        raise ValueError(f"draws is {draws}; a standard error takes at least 2")
    if check_number("tolerance", tolerance) < 0:
        raise ValueError(f"tolerance is {tolerance}; it must be 0 or positive")
    loss = _Loss(state, model, data, task, factor, batch_size)
    operator = loss.operator
    generator = torch.Generator().manual_seed(check_whole("seed", seed))
    size = operator.shape[0]
    for name, count, least in (("largest", largest, 1), ("smallest", smallest, 0)):
        if not least <= check_whole(name, count) < size:
            raise ValueError(
                f"{name} is {count}; of {size} parameters it can be {least} to {size - 1}"
            )
    start = torch.randn(size, generator=generator, dtype=torch.float64).numpy()
    high, high_vectors = _extreme(operator, largest, "LA", start, tolerance)
    signs = [torch.randint(2, (size,), generator=generator).numpy() * 2.0 - 1 for _ in range(draws)]
    low, low_vectors = _extreme(operator, smallest, "SA", start, tolerance)
    shares = np.stack([z * operator.matvec(z) for z in signs])  # (draws, parameters)
    trace, error = _mean(shares.sum(1))
    return Hessian(
        float(high[0]), float(trace), float(error), high, low,
        loss.vectors(high_vectors), loss.vectors(low_vectors),
        _traces(loss.weights, shares),
    )  # fmt: skip


def _extreme(
    operator: LinearOperator, count: int, which: str, start: NDArray[Any], tolerance: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Eigenvalues from one end inwards, and their vectors as rows."""
    if count == 0:
        return np.empty(0), np.empty((0, len(start)))
    try:
        values, vectors = eigsh(operator, k=count, which=which, v0=start, tol=tolerance)
    except ArpackError:
        if operator.matvec(start).any():
            raise
        return np.zeros(count), np.eye(count, len(start))  # of the matrix 0
    order = np.argsort(values)[:: -1 if which == "LA" else 1]
    return values[order], vectors.T[order]


def _mean(draws: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean over the first dimension, and its standard error."""
    return draws.mean(0), draws.std(0, ddof=1) / len(draws) ** 0.5


def _traces(weights: Weights, shares: NDArray[Any]) -> pd.DataFrame:
    """The sum over each parameter's numbers: of the draws the mean and its standard error."""
    ends = np.cumsum([v.numel() for v in weights.values()])[:-1]
    parts = np.stack([part.sum(1) for part in np.split(shares, ends, axis=1)], 1)
    trace, error = _mean(parts)
    return pd.DataFrame({"parameter": [*weights], "trace": trace, "standard_error": error})


@dataclass(frozen=True)
class Spectrum:
    """The density of a Hessian's eigenvalues, as Lanczos's method sees it.

    Attributes:
        values: Ritz values of each draw, (draws, steps), ascending.
        weights: Their weights, (draws, steps); each draw's sum to 1.
    """

    values: NDArray[Any]
    weights: NDArray[Any]

    def density(self, at: Any, width: float) -> NDArray[Any]:
        """The density at some places: every value as a Gaussian, the mean over the draws.

        Args:
            at: Places, (n,).
            width: Standard deviation of the Gaussians.

        Returns:
            Densities (n,), whose integral over all places is 1.

        Raises:
            ValueError: If the width is not positive.
        """
        if not width > 0:
            raise ValueError(f"width is {width}; it must be positive")
        away = (np.asarray(at, float)[:, None, None] - self.values) / width  # (n, draws, steps)
        bells = np.exp(-(away**2) / 2) / (width * (2 * np.pi) ** 0.5)
        return (bells * self.weights).sum(2).mean(1)


def spectrum(
    state: State, model: nn.Module, data: Data, *, task: Task = classification, steps: int = 40,
    draws: int = 3, seed: int = 0, factor: float = 1.0, batch_size: int = 250,
) -> Spectrum:  # fmt: skip
    """The spectral density of the loss's Hessian, by stochastic Lanczos quadrature.

    From a random vector z, `steps` of Lanczos's method give as many Ritz values θ and weights τ
    with ``Σ τ p(θ) = zᵀ p(H) z / zᵀ z`` for polynomials p up to degree ``2 steps - 1``: of random
    signs z the mean over draws is ``tr p(H)`` over the number of parameters (Ghorbani et al. 2019).
    Every step is a product with the Hessian; vectors are made orthogonal again at each.

    Args:
        state: State dict.
        model: The network; it is not changed.
        data: As in `hessian`.
        task: Whose loss; see `toroid.tasks`.
        steps: Ritz values of a draw, at most the number of parameters.
        draws: How many z.
        seed: Draws them.
        factor: As in `hessian`.
        batch_size: Images at a time.

    Returns:
        Values and weights; its `Spectrum.density` can be drawn.

    Raises:
        UnsupportedError: As `hessian`.
        ValueError: As `evaluate`, and if `steps` or `draws` is out of range.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(8,))
        >>> found = spectrum(model.state_dict(), model, train.take(100), steps=10, draws=2)
        >>> found.values.shape, found.density([0.0, 0.1], width=0.05).shape
        ((2, 10), (2,))
    """
    loss = _Loss(state, model, data, task, factor, batch_size)
    operator = loss.operator
    generator = torch.Generator().manual_seed(check_whole("seed", seed))
    size = operator.shape[0]
    for name, count, most in (("steps", steps, size), ("draws", draws, None)):
        if check_whole(name, count) < 1 or (most and count > most):
            limit = "positive" if most is None else f"1 to {most}, the number of parameters"
            raise ValueError(f"{name} is {count}; it must be {limit}")
    found = [
        _lanczos(operator, torch.randint(2, (size,), generator=generator).numpy() * 2.0 - 1, steps)
        for _ in range(draws)
    ]
    return Spectrum(*(np.stack(part) for part in zip(*found, strict=True)))


def _lanczos(
    operator: LinearOperator, start: NDArray[Any], steps: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ritz values and the weights that the start has in them, (steps,) each."""
    basis, diagonal, beside = [start / np.linalg.norm(start)], [], []
    for _ in range(steps):
        new = operator.matvec(basis[-1])
        diagonal.append(float(new @ basis[-1]))
        for _ in range(2):  # once is not enough in floating point
            new = new - np.stack(basis, 1) @ (np.stack(basis) @ new)
        length = float(np.linalg.norm(new))
        beside.append(length)
        if length < 1e-10 * abs(diagonal[0]) + 1e-300:  # the whole space that the start sees
            break
        basis.append(new / length)
    values, vectors = eigh_tridiagonal(diagonal, beside[: len(diagonal) - 1])
    rest = steps - len(values)
    return np.pad(values, (0, rest), mode="edge"), np.pad(vectors[0] ** 2, (0, rest))


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
    check_number("radius", radius, positive=True)
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
        change = loss.either(lambda: _changes(loss, batch), lambda: _changes_in_turn(loss, batch))
        return float(change.double().square().sum())

    found = [(batch.examples, squares(batch)) for batch in loss.walk()]
    norm = (sum(square for _, square in found) / sum(count for count, _ in found)) ** 0.5
    _check_finite(norm, "the Fisher-Rao norm")
    return norm


def _changes(loss: _Loss, batch: Batch) -> Tensor:
    """How much each example's loss changes when all parameters grow by one rate, (N,)."""
    outputs, change = _forwards(
        lambda weights: loss.outputs(weights, batch), loss.weights, loss.weights
    )
    slope = grad(lambda found: loss.judge(found, batch))(outputs)
    pairs = zip(tree_leaves(slope), tree_leaves(change), strict=True)
    # of the mean loss: an example's own is so many times larger
    return batch.examples * torch.stack([_each(s * c, batch).sum(1) for s, c in pairs]).sum(0)


def _changes_in_turn(loss: _Loss, batch: Batch) -> Tensor:
    """`_changes` by plain backpropagation, one example after the other."""
    with loss.leaves() as weights:
        outputs = loss.outputs(weights, batch)
        told = [x for x in tree_leaves(outputs) if isinstance(x, Tensor) and x.requires_grad]
        slopes = torch.autograd.grad(
            loss.judge(outputs, batch), told, retain_graph=True, materialize_grads=True
        )

        def change(i: int) -> Tensor:
            alone = [torch.zeros_like(s).index_copy(0, rows[i], s[i : i + 1]) for s in slopes]
            pulled = torch.autograd.grad(
                told, [*weights.values()], alone, retain_graph=True, materialize_grads=True
            )
            pairs = zip(loss.weights.values(), pulled, strict=True)
            return torch.stack([(w * v).sum() for w, v in pairs]).sum()

        for slope in slopes:
            _each(slope, batch)
        rows = torch.arange(batch.examples, device=told[0].device)[:, None]
        return batch.examples * torch.stack([change(i) for i in range(batch.examples)])


def _each(x: Tensor, batch: Batch) -> Tensor:
    """A slope of the outputs as a row for each example."""
    if not x.dim() or len(x) != batch.examples:
        raise ValueError(
            f"outputs of shape {tuple(x.shape)} do not belong to {batch.examples} examples, first "
            "in the shape; the Fisher-Rao norm takes each example's own loss"
        )
    return x.reshape(len(x), -1)
