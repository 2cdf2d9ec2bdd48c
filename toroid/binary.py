"""Networks with weights of ±1: distances, greedy paths, a sampler, and paths through a third.

A binary network is the signs of its state (see `toroid.models`). `signs` makes them the state; then
`toroid.align`, `toroid.Hamming` and noise by flips act on the network itself. What differs between
two such networks is a number of weights, and every shortest path flips each of them once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ._network import structure
from ._state import State, check_binary, check_generator, check_model, check_whole, digest
from .bends import Bend
from .data import Dataset
from .evaluation import Evaluation, Evaluator, Score
from .paths import Hamming, Joined
from .training import Checkpoint, Settings, Trained
from .training._loop import Loop
from .training._networks import Networks, losses
from .training._replicas import fresh
from .training._settings import Keywords

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .evaluation import How

__all__ = ["anneal", "bend", "greedy", "hamming", "signs"]


def signs(state: State) -> dict[str, Tensor]:
    """The binary network that a state of real numbers stands for: ``sign(w)``.

    Args:
        state: State dict of a binary network; it is not changed.

    Returns:
        A state of ±1, of the same function.

    Raises:
        ValueError: If a weight is 0 or not a number: it has no sign.

    Example:
        >>> import torch
        >>> signs({"w": torch.tensor([0.3, -2.0])})
        {'w': tensor([ 1., -1.])}
    """
    found = {k: v.sign() if v.is_floating_point() else v for k, v in state.items()}
    check_binary(found)
    return found


def hamming(a: State, b: State) -> float:
    """The share of the weights in which two states of ±1 differ, in [0, 1].

    Args:
        a: State of ±1.
        b: State of ±1.

    Raises:
        ValueError: If the states differ in names or shapes, or a number is not ±1.

    Example:
        >>> import torch
        >>> hamming({"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([1.0, -1.0])})
        0.5
    """
    path = Hamming(a, b)
    return path.count / sum(mask.numel() for mask in path.differ.values())


def greedy(
    a: State, b: State, model: nn.Module, data: Dataset, *, steps: int = 25, candidates: int = 8,
    seed: int = 0, **how: Unpack[How],
) -> Tensor:  # fmt: skip
    """An order of the differing weights that keeps the error low, for `toroid.Hamming`.

    The weights are flipped in `steps` parts of one size. For each, `candidates` random parts of
    what is left are tried, and that of the smallest error stays flipped (of equal ones, that of the
    smallest loss).

    Args:
        a: State of ±1, where the path begins.
        b: State of ±1, where it ends.
        model: The network; it is not changed.
        data: Data to evaluate on.
        steps: How many parts.
        candidates: How many to try for each.
        seed: Draws them.
        **how: Fields of `Evaluation`.

    Returns:
        A permutation of the differing weights, (differing,).

    Raises:
        ValueError: As `hamming`, if the states do not fit the model, or a count is not positive.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits-binary", subset=100)
        >>> model = toroid.binary_mlp(train.shape, hidden=(5,))
        >>> networks = (model, toroid.binary_mlp(train.shape, hidden=(5,)))
        >>> a, b = (signs(network.state_dict()) for network in networks)
        >>> order = greedy(a, b, model, train, steps=5, candidates=2)
        >>> sorted(order.tolist()) == list(range(toroid.Hamming(a, b).count))
        True
    """
    for name, count in (("steps", steps), ("candidates", candidates)):
        if count < 1:
            raise ValueError(f"{name} is {count}; it must be positive")
    check_model(a, model)
    path, evaluator = Hamming(a, b), Evaluator(model, Evaluation(**how))
    generator = torch.Generator().manual_seed(check_whole("seed", seed))
    done, left = torch.arange(0), torch.arange(path.count)

    def tried(size: int) -> tuple[Score, Tensor]:
        drawn = left[torch.randperm(len(left), generator=generator)]
        return evaluator.score(path.flipped(torch.cat([done, drawn[:size]])), data), drawn

    for part in torch.arange(path.count).tensor_split(steps):
        size = len(part)
        _, best = min((tried(size) for _ in range(candidates)), key=lambda found: found[0])
        done, left = torch.cat([done, best[:size]]), best[size:]
    return done


def anneal(
    model: nn.Module, train: Dataset, *, generator: torch.Generator, sweeps: int, chains: int = 1,
    hot: float = 2.0, cold: float = 0.1, flips: int = 1,
) -> list[Trained]:  # fmt: skip
    """Simulated annealing of binary weights: a sampler that follows no gradient.

    Metropolis' rule on the number of errors E: a proposal flips `flips` weights drawn at random,
    and is accepted with probability ``min(1, exp(-ΔE / T))``. T falls geometrically from `hot` to
    `cold`. At a fixed temperature the states are drawn from ``exp(-E / T)``, each as often as any
    other of its error, which no training promises. Each proposal evaluates the whole network: this
    is for small ones.

    Args:
        model: A binary network; its signs are where every chain starts. It is not changed.
        train: Training data.
        generator: Draws proposals and acceptances.
        sweeps: Proposals over the number of weights.
        chains: How many chains to run side by side.
        hot: Temperature at the start, in errors.
        cold: Temperature at the end.
        flips: Weights in a proposal.

    Returns:
        For each chain its last state, of ±1; a history with one row for each sweep: epoch,
        temperature, error; and a report that says so if the last state has errors.

    Raises:
        ValueError: If a count or a temperature is not positive, or a weight is 0.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("teacher-student", subset=20)
        >>> model = toroid.binary_committee(train.shape, hidden=1)
        >>> (found,) = anneal(model, train, generator=torch.Generator(), sweeps=5)
        >>> toroid.evaluate(found.state, model, train).error < 0.2
        True
    """
    given = {"sweeps": sweeps, "chains": chains, "hot": hot, "cold": cold, "flips": flips}
    if wrong := {k: v for k, v in given.items() if not v > 0}:
        raise ValueError(f"anneal takes positive numbers, got {wrong}")
    check_generator(generator)
    states = _Chains(model, chains)
    now, every, rows = states.errors(train), torch.arange(chains), []
    for sweep in range(sweeps):
        drawn = torch.randint(states.size, (states.size, chains, flips), generator=generator)
        chances = torch.rand(drawn.shape[:2], generator=generator, dtype=torch.float64).log()
        for step, (places, chance) in enumerate(zip(drawn, chances, strict=True)):
            temperature = hot * (cold / hot) ** ((sweep + step / states.size) / sweeps)
            states.flip(every, places)
            proposed = states.errors(train)
            refused = temperature * chance >= now - proposed
            states.flip(every[refused], places[refused])
            now = torch.where(refused, now, proposed)
        rows.append({"epoch": sweep, "temperature": temperature, "wrong": now})
    return [_annealed(states.single(chain), rows, chain, len(train)) for chain in range(chains)]


class _Chains:
    """Binary networks side by side: one row of ±1 for each, seen as the weights of a network."""

    def __init__(self, model: nn.Module, chains: int) -> None:
        start, self.network = signs(model.state_dict()), structure(model)
        self.rows = torch.cat([v.flatten() for v in start.values()]).repeat(chains, 1)
        parts = self.rows.split([v.numel() for v in start.values()], 1)
        self.state = {
            k: part.view(chains, *v.shape)
            for (k, v), part in zip(start.items(), parts, strict=True)
        }

    @property
    def size(self) -> int:
        return self.rows.shape[1]

    def flip(self, chains: Tensor, places: Tensor) -> None:
        """Change signs in place, of chains (n,) at places (n, flips); the views follow."""
        chains = chains[:, None]
        self.rows[chains, places] = -self.rows[chains, places]

    @torch.no_grad()
    def errors(self, data: Dataset) -> Tensor:
        """How many each network gets wrong, on the CPU."""

        def outputs(state: dict[str, Tensor]) -> Tensor:
            return functional_call(self.network, state, (data.images,))

        return (vmap(outputs)(self.state).argmax(2) != data.labels).sum(1).cpu()

    def single(self, index: int) -> dict[str, Tensor]:
        return {k: v[index].clone() for k, v in self.state.items()}


def _annealed(
    state: dict[str, Tensor], rows: list[dict[str, Any]], chain: int, size: int
) -> Trained:
    wrong = [int(row["wrong"][chain]) for row in rows]
    failed = f"{wrong[-1]} of {size} are still wrong" if wrong[-1] else ""
    history = pd.DataFrame(rows, columns=["epoch", "temperature"])
    return Trained(state, history.assign(error=[e / size for e in wrong]), {"failed": failed})


@dataclass(frozen=True, kw_only=True)
class Corner(Settings):
    """`Settings` of `bend`, which adds none."""

    algorithm: ClassVar[str] = "binary.bend"


def bend(
    a: State, b: State, model: nn.Module, train: Dataset, *, generator: torch.Generator,
    seed: int = 0, progress: bool = False, checkpoint: Checkpoint | None = None,
    **settings: Unpack[Keywords],
) -> Bend:  # fmt: skip
    """A third binary network in the middle, through which the error stays low: a path of one bend.

    The corner starts where `a` and `b` agree with their sign, elsewhere with a random one, each at
    the size of a fresh weight, and is trained straight through. In each step a place of the path is
    drawn uniformly, and there each weight is the corner's, or that of the nearer end, with the
    probability that belongs to the place: a random order of flips, another one in each step. So
    this is `toroid.bend` (Garipov et al. 2018) on shortest paths of flips.

    Args:
        a: State of ±1 at t = 0.
        b: State of ±1 at t = 1.
        model: The network; it is not changed, and its own weights do not matter.
        train: Training data, on the device of the states.
        generator: Draws the start, the places, the flips, and the order of the images.
        seed: Of the order of flips on the path that is returned.
        progress: Show a progress bar.
        checkpoint: Where to save each epoch, and to go on from.
        **settings: Those of `toroid.training.Settings`; ``epochs`` is needed.

    Returns:
        The path, with the corner at t = 1/2, and the history.

    Raises:
        TypeError: As `toroid.training.sgd`.
        ValueError: As `toroid.training.sgd`, and if the states do not fit, or a number is not ±1.
        FloatingPointError: If the loss is no longer finite.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits-binary", subset=200)
        >>> a, b = (toroid.binary_mlp(train.shape, hidden=(9,)) for _ in range(2))
        >>> ends = [signs(network.state_dict()) for network in (a, b)]
        >>> chain = bend(*ends, a, train, epochs=1, generator=torch.Generator())
        >>> [hamming(chain.path(t), end) for t, end in zip((0.0, 1.0), ends)]
        [0.0, 0.0]
    """
    check_model(a, model)
    disagree = Hamming(a, b).differ
    a, b = ({k: v.detach() for k, v in state.items()} for state in (a, b))
    start = fresh(model, generator).to(next(iter(a.values())).dtype)
    with torch.no_grad():
        for name, weight in start.named_parameters():
            agreed = weight.abs() * a[name].to(weight)
            weight.copy_(torch.where(disagree[name].to(weight.device), weight, agreed))
    chosen = Corner.of(**settings)
    networks = Networks([start], train.images.device, generators=[generator])
    ends = {"ends": f"of digests {digest(a)[:16]} and {digest(b)[:16]}"} if checkpoint else {}
    identity = {**chosen.identity(), **ends}
    loop = Loop(networks, train, [generator], chosen, progress, checkpoint, identity)

    def draw(shape: Sequence[int]) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float32)

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        t = 2 * float(draw(()))
        end, share = (a, t) if t <= 1 else (b, 2 - t)
        point = {
            k: torch.where(draw(v.shape).to(v) < share, v, end[k])
            for k, v in networks.state.items()
        }
        found = losses(networks.outputs(images, point), labels)
        loop.optimizer.zero_grad()
        torch.autograd.backward(found[0].sum())
        loop.optimizer.step()
        return found

    (history,) = loop.run(step)
    corner = signs(networks.single())
    return Bend(Joined(Hamming(a, corner, seed=seed), Hamming(corner, b, seed=seed)), history)
