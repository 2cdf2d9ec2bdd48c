"""Networks moved onto a reference, by the moves that a matching finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from .._batches import Data
from .._state import (
    State,
    check_choice,
    check_finite,
    check_flag,
    check_list,
    check_model,
    check_pair,
    check_tensor,
    check_whole,
    inexact,
)
from ..symmetry import Symmetry
from ..symmetry._elements import Element
from ..symmetry._groups import check_state
from ..tasks import Task, checked_task, classification
from ..torus import balance
from ._matching import (
    best_descent,
    by_activation,
    cosines_of_pairs,
    sequential,
    unit_length,
)
from ._overlaps import Overlaps, assign

METHODS = ("sequential", "coordinate", "activation")


@dataclass(frozen=True)
class Alignment:
    """A network moved onto a reference.

    Attributes:
        state: The aligned state, of the same function as before.
        permutations: For each group (units,): unit i of `state` was unit
            ``permutations[group][i]``, group by group in this order.
        signs: For each group whose activation is odd, 1 or -1 for each unit of `state`, after the
            permutations; ReLU networks have none.
        similarity: For each group, the mean over its units of the cosine of the weights that make
            them, with those of their partners.
        units: The same cosines, unit by unit.
        turns: For each group whose units were mixed (with ``turns=True``) the orthogonal matrix
            (units, units), after permutations and signs.
    """

    state: dict[str, Tensor]
    permutations: dict[str, Tensor]
    signs: dict[str, Tensor]
    similarity: dict[str, float]
    units: dict[str, Tensor]
    turns: dict[str, Tensor] = field(default_factory=dict)

    @property
    def frame(self) -> pd.DataFrame:
        """How well each group is matched: cosines, and how many units moved and flipped."""
        rows = [
            (
                name,
                len(cosines),
                int((self.permutations[name] != torch.arange(len(cosines))).sum()),
                int((self.signs.get(name, torch.ones(1)) < 0).sum()),
                float(cosines.mean()),
                float(cosines.min()),
            )
            for name, cosines in self.units.items()
        ]
        columns = ["group", "units", "moved", "flipped", "similarity", "least"]
        return pd.DataFrame(rows, columns=columns)


def match(a: Tensor, b: Tensor) -> Tensor:
    """The permutation that brings the rows of `b` closest to those of `a`.

    Solves ``max over π of Σ_i cos(a_i, b_π(i))`` exactly, as a linear assignment. A zero row has
    similarity 0 with everything. Rows that are equally good stay where they are.

    Args:
        a: Vectors (units, numbers), of any length.
        b: Vectors (units, numbers).

    Returns:
        π, integers (units,): ``b[π]`` is aligned to `a`.

    Raises:
        ValueError: If the shapes differ, or a number is not finite.

    Example:
        >>> import torch
        >>> match(torch.eye(3), 5 * torch.eye(3)[[2, 0, 1]])
        tensor([1, 2, 0])
    """
    for name, rows in (("a", a), ("b", b)):
        check_tensor(name, rows, floating=True)
        check_finite({name: rows})
    if a.dim() != 2 or a.shape != b.shape or not a.shape[1]:
        raise ValueError(
            "match takes two matrices (units, numbers) of one shape, got "
            f"{tuple(a.shape)} and {tuple(b.shape)}"
        )
    if (a.dtype, a.device) != (b.dtype, b.device):
        raise ValueError(
            f"match takes two matrices of one precision, got {a.dtype} on {a.device} and "
            f"{b.dtype} on {b.device}"
        )
    a, b = (unit_length(x) for x in (a, b))
    return assign(a @ b.T)


def align(
    state: State,
    to: State,
    symmetry: Symmetry,
    *,
    method: str = "sequential",
    restarts: int = 0,
    seed: int = 0,
    balanced: bool = False,
    turns: bool = False,
    model: nn.Module | None = None,
    inputs: Data | Tensor | None = None,
    task: Task = classification,
) -> Alignment:
    """Permute a network's units onto those of a reference; flip them where the activation is odd.

    ``method="sequential"`` is the paper's: front to back, each group is matched on the cosine
    similarity of its units' incoming weights and permuted before the next group is matched; the
    classes keep their places. A residual stream is matched where it begins, on the weights whose
    inputs are matched already.

    ``"coordinate"`` goes on from there with the weights that read the units too: it raises the
    overlap ``Σ a · b`` of all weights (on the torus the sum of cosines, on raw weights the squared
    distance, with its sign changed) group by group in random order until no group can be improved
    (Ainsworth et al. 2023).

    ``"activation"`` matches the correlations of the units' values over data, where they are made
    and where they are read. Groups whose values are not seen are matched by their weights.

    With `balanced` the networks' rescalings of least norm are compared (`balance`), whatever the
    scales of those that are given: on the torus all units are of one length, and an idle one counts
    as much as any other; in those a unit's length says how much it matters.

    With `turns` units that may be mixed (`Group.turn`: the values of an attention head, its queries
    and keys) are turned by the orthogonal matrix that brings them closest, instead of exchanged: a
    Procrustes problem, solved by a polar decomposition. Heads are matched by how close that brings
    them. Both states should come from ``normalize(..., turns="orthonormal")``, which leaves
    orthogonal turns as the only ones.

    Weights alone are compared, not biases. Units that are exactly alike cannot be told apart, and
    stay in the order they have.

    Args:
        state: State dict of the network to move; it is not changed.
        to: State dict of the reference.
        symmetry: From `find_symmetries`.
        method: ``"sequential"``, ``"coordinate"`` or ``"activation"``.
        restarts: Of ``"coordinate"``: further descents that start from the network as it is, in
            other orders; the best result counts.
        seed: Of ``"coordinate"``: of the random orders.
        balanced: Whether balanced networks are compared; activations are the same in both.
        turns: Whether units that may be mixed are.
        model: Of ``"activation"``: the network; it is not changed.
        inputs: Of ``"activation"``: what to run it on: a tensor of inputs, or data as in
            `toroid.evaluate`, all of their batches.
        task: Of ``"activation"``: how the network is called on a batch; see `toroid.tasks`.

    Returns:
        The aligned state, the permutations and signs, and how similar the matched units are.

    Raises:
        ValueError: If a state does not fit, holds NaN, `method` is unknown, or what it needs is
            missing.

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> symmetry = toroid.find_symmetries(model, x)
        >>> a = toroid.normalize(model.state_dict(), symmetry)
        >>> moved = toroid.permute(a, {"1": torch.tensor([4, 3, 2, 1, 0])}, symmetry)
        >>> align(moved, to=a, symmetry=symmetry).permutations["1"]
        tensor([4, 3, 2, 1, 0])
    """
    check_choice("method", method, METHODS)
    check_pair(state, to)
    check_state(state, symmetry)
    for s in (state, to):
        check_finite(s, symmetry.parameters)
    restarts, seed = check_whole("restarts", restarts, 0), check_whole("seed", seed)
    for name, flag in (("balanced", balanced), ("turns", turns)):
        check_flag(name, flag)
    symmetry = symmetry if turns else symmetry.still
    if method == "activation":
        short = isinstance(inputs, Tensor) and inputs.shape[:1].numel() < 2
        if model is None or inputs is None or short:
            raise ValueError(
                'method="activation" needs the model, and inputs to run it on: a tensor of two '
                "or more, or data as toroid.evaluate takes"
            )
        check_model(state, model)
        batches = [inputs] if isinstance(inputs, Tensor) else inputs
        element = by_activation(state, to, symmetry, model, batches, checked_task(task))
    else:
        a, b = (balance(s, symmetry) if balanced else s for s in (to, state))
        overlaps = Overlaps(a, b, symmetry)
        element = sequential(overlaps, keep=method == "coordinate")
        if method == "coordinate":
            element = best_descent(overlaps, element, restarts, seed)
    return _compared(element.act(state), to, element)


def _compared(aligned: dict[str, Tensor], to: State, element: Element) -> Alignment:
    """What was done, and how alike the units are that it brought together."""
    groups = element.symmetry.groups
    cosines = {group.name: cosines_of_pairs(aligned, to, group) for group in groups}  # (units,)
    means = {name: float(values.mean()) for name, values in cosines.items()}
    moves = dict(element.permutations), dict(element.signs)
    return Alignment(aligned, *moves, means, cosines, dict(element.turns))


def align_all(
    states: Sequence[State],
    symmetry: Symmetry,
    *,
    to: State | None = None,
    method: str = "sequential",
    seed: int = 0,
    rounds: int = 20,
    balanced: bool = False,
    **options: Any,
) -> list[Alignment]:
    """Align many networks to one reference, so that all of them share one chart.

    Without a reference they are aligned to their own mean: each in turn, in random order, to the
    mean of the others, as long as the overlap of all pairs grows (Ainsworth et al. 2023). All
    permutations go to the same places, so that going from one network to a second and on to a third
    is the same as going there at once (they are cycle-consistent).

    Args:
        states: State dicts of the networks; they are not changed.
        symmetry: From `find_symmetries`.
        to: State dict of the reference; None for the mean.
        method: As in `align`.
        seed: Of the random order, and of `align`.
        rounds: How often each network is visited at most.
        balanced: As in `align`; the mean is one of balanced networks.
        **options: As in `align`.

    Returns:
        An `Alignment` for each network; without a reference its similarities are those with the
        mean of all.

    Raises:
        ValueError: As `align`, and if there is no network.

    Example:
        >>> import torch, toroid
        >>> models = [toroid.mlp((4,), classes=3, hidden=(5,)) for _ in range(3)]
        >>> symmetry = toroid.find_symmetries(models[0], torch.randn(7, 4))
        >>> states = [toroid.normalize(model.state_dict(), symmetry) for model in models]
        >>> len(align_all(states, symmetry))
        3
    """
    states = check_list("states", states, "state dicts")
    rounds = check_whole("rounds", rounds, 0)
    check_flag("balanced", balanced)
    if not states:
        raise ValueError("align_all takes at least one state")
    compared, reference = states, to
    if balanced:
        compared = [balance(state, symmetry) for state in states]
        reference = None if to is None else balance(to, symmetry)

    def fit(state: State, to: State) -> Alignment:
        return align(state, to, symmetry, method=method, seed=seed, **options)

    found = [fit(state, compared[0] if reference is None else reference) for state in compared]
    generator = torch.Generator().manual_seed(check_whole("seed", seed))
    for _ in range(rounds if to is None and len(states) > 1 else 0):
        if not _round(found, compared, fit, symmetry, generator):
            break
    if to is not None and not balanced:
        return found
    done = [Element(symmetry, f.permutations, f.signs, turns=f.turns) for f in found]
    moved = [element.act(state) for element, state in zip(done, states, strict=True)]
    to = _mean(moved) if to is None else to
    return [_compared(state, to, element) for state, element in zip(moved, done, strict=True)]


def _round(
    found: list[Alignment],
    states: Sequence[State],
    fit: Callable[[State, State], Alignment],
    symmetry: Symmetry,
    generator: torch.Generator,
) -> bool:
    """Align each network to the mean of the others where that brings it closer; whether it did."""
    changed = False
    for i in torch.randperm(len(states), generator=generator).tolist():
        mean = _mean([other.state for j, other in enumerate(found) if j != i])
        better = fit(states[i], mean)
        if _overlap(better.state, mean, symmetry) > _overlap(found[i].state, mean, symmetry):
            found[i], changed = better, True
    return changed


def _mean(states: Sequence[State]) -> dict[str, Tensor]:
    """The mean of several states; integer buffers are the first's."""
    return {
        k: torch.stack([s[k] for s in states]).mean(0) if inexact(v) else v
        for k, v in states[0].items()
    }


def _overlap(state: State, other: State, symmetry: Symmetry) -> float:
    """What a descent raises, of two states as they are."""
    return Overlaps(other, state, symmetry).objective(Element(symmetry))
