"""How much the error grows around a minimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ._batches import Data
from ._state import State, check_choice, check_model, check_whole, inexact
from .evaluation import Evaluation, Evaluator
from .symmetry import Symmetry
from .tasks import Task, classification
from .torus import Torus, tangential

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .evaluation import How

__all__ = ["local_energy"]

NOISES = ("torus", "multiplicative", "additive", "flips")


def local_energy(
    state: State, model: nn.Module, data: Data, *, sigma: float | Sequence[float],
    task: Task = classification, symmetry: Symmetry | None = None, noise: str | None = None,
    draws: int = 10, seed: int = 0, bias: str = "euclidean", refresh: Data | None = None,
    **how: Unpack[How],
) -> pd.DataFrame:  # fmt: skip
    """The mean growth of the error under Gaussian noise on the weights.

    ``E_z [error(w + σ z) - error(w)]`` (Pittorino et al. 2021, arXiv 2006.07897), by noise:

    - ``"additive"``: σ z on every weight, z standard normal. Not the same for two rescalings of one
      function.
    - ``"multiplicative"``: σ w z: a weight's noise is as large as it is.
    - ``"torus"``: each unit's vector walks a great circle, into a random direction, by an angle of
      root mean square σ; Euclidean biases get noise of σ times their own root mean square.
    - ``"flips"``: each weight changes its sign with probability σ: for weights of ±1.

    The noise is on all parameters, frozen ones too, BatchNorm's running statistics have none. The
    same seed draws the same noise for all networks of one shape, and for all σ.

    Args:
        state: State dict; normalised for noise on the torus.
        model: The network; it is not changed.
        data: Usually the training data; as in `evaluate`.
        sigma: Sizes of the noise; of flips, probabilities.
        task: As in `evaluate`.
        symmetry: From `find_symmetries`; needed for noise on the torus.
        noise: One of those; by default ``"torus"`` with a symmetry, else ``"multiplicative"``.
        draws: How many z to average over.
        seed: Draws them.
        bias: As in `normalize`.
        refresh: Data on which BatchNorm's statistics are estimated again for every draw.
        **how: Fields of `Evaluation`.

    Returns:
        One row for each σ: ``sigma, energy, standard_error``, of the task's error: a classifier's
        is the fraction misclassified.

    Raises:
        TypeError: As `evaluate`.
        ValueError: As `evaluate`; if a word is unknown, a size is missing, NaN or out of range, the
            noise needs a symmetry, or the state is not on the torus.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(32,))
        >>> trained = toroid.training.sgd(model, train, epochs=5, generator=torch.Generator())
        >>> energy = local_energy(trained.state, model, train, sigma=[0.1, 1.0], draws=3)
        >>> bool(energy["energy"].is_monotonic_increasing)
        True
    """
    kind = noise or ("multiplicative" if symmetry is None else "torus")
    check_choice("noise", kind, NOISES)
    check_model(state, model)
    check_whole("draws", draws, 1)
    torus = None
    if kind == "torus":
        if symmetry is None:
            raise ValueError("noise on the torus needs a symmetry, from find_symmetries")
        torus = Torus.at_edge(symmetry, bias, state)
    names = [name for name, p in model.named_parameters() if inexact(p)]
    evaluator = Evaluator(model, Evaluation.of(**how), task)
    batches = evaluator.batches(data)
    others = None if refresh is None else evaluator.batches(refresh)

    def error(point: State) -> float:
        if others is not None:
            point = evaluator.refresh(point, others)
        return evaluator.score(point, batches).error

    sizes = _sizes(sigma, kind)
    generator = torch.Generator().manual_seed(check_whole("seed", seed))
    start, grown = error(state), np.empty((len(sizes), draws))
    for draw in range(draws):
        walk = _walk(state, names, kind, torus, generator)
        grown[:, draw] = [error(walk(size)) - start for size in sizes]
    spread = grown.std(1, ddof=1) / draws**0.5 if draws > 1 else np.full(len(sizes), np.nan)
    return pd.DataFrame({"sigma": sizes, "energy": grown.mean(1), "standard_error": spread})


def _sizes(sigma: float | Sequence[float], kind: str) -> list[float]:
    """One or more sizes of noise."""
    most = 1 if kind == "flips" else np.finfo(float).max
    given = np.atleast_1d(np.asarray(sigma, dtype=object))
    words = any(isinstance(size, str) for size in given.flat)
    with suppress(TypeError, ValueError):
        sizes = [float(size) for size in given]
        if sizes and not words and all(0 <= size <= most for size in sizes):  # NaN is not
            return sizes
    limit = "probabilities, 0 to 1" if kind == "flips" else "finite and not below 0"
    raise ValueError(f"sigma is {sigma!r}; it takes one or more sizes of {kind} noise, {limit}")


def _drawn(draw: Callable[..., Tensor], like: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers in one precision, whatever torch's default and that of the state."""
    kind = torch.complex64 if like.is_complex() and draw is torch.randn else torch.float32
    return draw(like.shape, generator=generator, dtype=kind)


def _walk(
    state: State,
    names: Sequence[str],
    kind: str,
    torus: Torus | None,
    generator: torch.Generator,
) -> Callable[[float], dict[str, Tensor]]:
    """From a size of the noise to the state, in one random direction."""
    if kind == "flips":
        u = {k: _drawn(torch.rand, state[k], generator).to(state[k].device) for k in names}
        return lambda p: {
            **state,
            **{k: torch.where(v < p, -state[k], state[k]) for k, v in u.items()},
        }
    z = {k: _drawn(torch.randn, state[k], generator).to(state[k]) for k in names}
    if kind == "multiplicative":
        z = {k: v.mul_(state[k]) for k, v in z.items()}
    if torus is None:
        return lambda size: {
            **state,
            **{k: torch.add(state[k], v, alpha=size) for k, v in z.items()},
        }
    still = {k: v for k, v in state.items() if v.is_floating_point() and k not in z}
    still = {k: torch.zeros_like(v) for k, v in still.items()}
    tangent, noise = dict(still), {**still, **z}
    for k, v in z.items():  # what is on spheres only is written below
        tangent[k] = v if k in torus.covered else v * state[k].square().mean().sqrt()
    for scale in torus.symmetry.scales:
        point, way = torus.vectors(state, scale), torus.vectors(noise, scale)  # (units, numbers)
        way = tangential(way, point)
        way /= max(1, way.shape[1] - 1) ** 0.5  # of a mean square of 1 over the draws
        torus.write(tangent, scale, way)
    return lambda size: torus.exp(state, {k: size * v for k, v in tangent.items()})
