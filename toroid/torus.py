"""The scale symmetry removed, and geometry on what is left: a product of spheres.

A rescaling ``f(λ z) = λ f(z)`` lets every unit's incoming weights be divided by their norm and the
norm be pushed into the weights that read the unit. What remains of a unit is a point on a sphere;
the last layer is one sphere; the network is a point on their product, the torus.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ._state import (
    State,
    between,
    check_choice,
    check_finite,
    check_flag,
    check_number,
    check_pair,
    check_step,
    check_tensors,
    difference,
    inexact,
)
from .symmetry import Axis, Group, Scale, Symmetry
from .symmetry._elements import mix, multiply
from .symmetry._groups import check_floating, check_state, doubled, lengths, widened

__all__ = ["angles", "balance", "distance", "exp", "geodesic", "log", "normalize"]

BIASES = ("euclidean", "joint")
OUTPUTS = ("unit", "keep")
GAINS = ("keep", "positive")
TURNS = ("keep", "orthonormal")
SWEEPS = 1000  # of the layers, at most, until they are balanced


@dataclass(frozen=True)
class Torus:
    """The product of the spheres of a symmetry's free scales, one for each unit.

    Its verbs trust what they are given; `at_edge` makes one of what a user gives, and checks it.

    Attributes:
        symmetry: From `find_symmetries`.
        bias: ``"euclidean"`` or ``"joint"``, as in `normalize`.
    """

    symmetry: Symmetry
    bias: str = "euclidean"

    @classmethod
    def at_edge(cls, symmetry: Symmetry, bias: str, *states: State, normal: bool = True) -> Torus:
        """The torus of these states, which belong to one network and, if `normal`, lie on it."""
        check_choice("bias", bias, BIASES)
        for other in states[1:]:
            check_pair(states[0], other)
        check_state(states[0], symmetry)
        check_floating(states[0], symmetry.scales)
        torus = cls(symmetry, bias)
        for state in states:
            check_finite(state, symmetry.parameters)
            if normal:
                torus.check_norms(state)
        return torus

    def check_norms(self, state: State) -> None:
        """Every unit is of norm 1, or dead."""
        for scale in self.symmetry.scales:
            vectors = self.vectors(state, scale)
            norms, precision = vectors.norm(dim=1), state[self.sphere(scale)[0].parameter].dtype
            off = (norms - 1).abs() > max(1e-3, 8 * torch.finfo(precision).eps)
            if off.any() and (off := off & vectors.any(1)).any():  # a dead unit's norm is 0
                unit, last = int(off.nonzero()[0]), self.symmetry.output
                flat = (
                    ', or, of states with output="keep", pass dataclasses.replace(symmetry, '
                    "output=None)"
                )
                raise ValueError(
                    f"unit {unit} of {scale.name!r} has norm {float(norms[unit]):.4g}, not 1: the "
                    f"state is not on the torus. Call normalize(..., bias={self.bias!r}) first"
                    f"{flat if last and scale in last.scales else ''}"
                )

    def sphere(self, scale: Scale) -> tuple[Axis, ...]:
        """The axes whose numbers are the units' vectors."""
        return scale.sphere(self.bias)

    def vectors(self, state: State, scale: Scale) -> Tensor:
        """The vector of each unit, (units, numbers)."""
        return scale.vectors(state, self.bias)

    def write(self, result: dict[str, Tensor], scale: Scale, vectors: Tensor) -> None:
        """Put each unit's vector back where `vectors` took it; replaces tensors in the dict."""
        axes = self.sphere(scale)
        sizes = [axis.count(result[axis.parameter]) for axis in axes]
        for axis, part in zip(axes, vectors.split(sizes, dim=1), strict=True):
            tensor = result[axis.parameter]
            result[axis.parameter] = axis.put(tensor, part.to(tensor))

    @cached_property
    def covered(self) -> set[str]:
        """The parameters whose every number is on a sphere."""
        places: dict[tuple[str, int, int], int] = defaultdict(int)
        full = set()
        for axis in (a for scale in self.symmetry.scales for a in self.sphere(scale)):
            places[axis.place] += axis.positions.numel()
            if places[axis.place] == axis.extent:
                full.add(axis.parameter)
        return full

    def steps(self, turns: bool) -> list[Scale | Group]:
        """What is normalised, front to back: scales, and behind its scale a group that turns."""
        turning = [(g.turn.order, 1, g) for g in self.symmetry.groups if g.turn and turns]
        steps: list[tuple[int, int, Scale | Group]] = [
            *((scale.order, 0, scale) for scale in self.symmetry.scales), *turning
        ]  # fmt: skip
        return [step for *_, step in sorted(steps, key=lambda step: step[:2])]

    def normalize(self, state: State, turns: bool = False) -> dict[str, Tensor]:
        """Every unit over the norm of its incoming weights, front to back; see `normalize`."""
        result, dead = self._normalized({k: widened(v) for k, v in state.items()}, turns)
        if _out_of_range(result, state, self.symmetry):  # products of norms on the way may be
            result, dead = self._normalized(doubled(state), turns)
        if dead:
            listed = ", ".join(f"{name}: {count}" for name, count in dead.items())
            warnings.warn(f"dead units, their vectors left at zero ({listed})", stacklevel=3)
        return _narrowed(result, state, self.symmetry)

    def _normalized(
        self, result: dict[str, Tensor], turns: bool
    ) -> tuple[dict[str, Tensor], dict[str, int]]:
        """The tensors of a dict normalised, and how many units of which scales are dead."""
        dead = {}
        for step in self.steps(turns):
            if isinstance(step, Group):
                _orthonormalize(result, step, self.bias)
                continue
            norms = lengths(self.vectors(result, step))  # (units,)
            if count := int((norms == 0).sum()):
                dead[step.name] = count
                norms = _settle_dead(result, step, norms)
            multiply(result, step, 1 / norms)
        return result, dead

    def project(self, state: State) -> dict[str, Tensor]:
        """The nearest point of the torus: each vector over its norm, dead ones as they are.

        Unlike `normalize` it pushes nothing into the readers; it brings back what left the spheres.
        """
        result = dict(state)
        for scale in self.symmetry.scales:
            vectors = self.vectors(state, scale)
            norms = vectors.norm(dim=1, keepdim=True)
            self.write(result, scale, vectors / torch.where(norms > 0, norms, 1.0))
        return result

    def angles(self, a: State, b: State) -> dict[str, Tensor]:
        """For each scale the angles between the units' vectors, (units,)."""
        return {
            s.name: _angle(self.vectors(a, s), self.vectors(b, s)) for s in self.symmetry.scales
        }

    def shortest(self, a: State, b: State) -> dict[str, Tensor]:
        """The angles between states that one geodesic joins; an error where none is shortest."""
        theta = self.angles(a, b)
        for scale in self.symmetry.scales:
            _check_antipodal(scale, theta[scale.name], self.vectors(a, scale).shape[1])
        return theta

    def geodesic(
        self, a: State, b: State, t: float, theta: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The point at `t`; `theta` are the angles, where they are known.

        What a unit is multiplied by is laid along its axes, and each parameter computed once.
        """
        theta = self.angles(a, b) if theta is None else theta
        weights: dict[str, list[Tensor]] = {}  # for each parameter what a and b are multiplied by
        for scale in self.symmetry.scales:
            ends = [(_sine_ratio(theta[scale.name], s), s) for s in (1 - t, t)]
            for axis in self.sphere(scale):
                like = widened(a[axis.parameter])
                lines = [axis.spread(weight, like, fill=s) for weight, s in ends]
                if axis.parameter in weights:  # other units have other positions of it
                    own = axis.spread(torch.ones_like(ends[0][0]), like, fill=0.0) > 0
                    pairs = zip(lines, weights[axis.parameter], strict=True)
                    lines = [torch.where(own, line, other) for line, other in pairs]
                weights[axis.parameter] = lines
        curved = {
            k: torch.mul(a[k], near).addcmul_(widened(b[k]), far).to(a[k].dtype)
            for k, (near, far) in weights.items()
        }
        return {
            k: curved[k] if k in curved else between(v, b[k], t) if inexact(v) else v
            for k, v in a.items()
        }

    def log(self, a: State, b: State) -> dict[str, Tensor]:
        """The tangent vector at `a` whose `exp` is `b`; an error where there is none."""
        result = {k: difference(v, b[k]) for k, v in a.items() if inexact(v)}
        for scale in self.symmetry.scales:
            first, second = self.vectors(a, scale), self.vectors(b, scale)  # (units, numbers)
            theta = _angle(first, second)
            _check_antipodal(scale, theta, self.vectors(a, scale).shape[1])
            if ((first == 0).all(1) != (second == 0).all(1)).any():
                raise ValueError(
                    f"scale {scale.name!r} has units that are dead in one of the states only"
                )
            # the chord's part along the tangent: 2 sin²(θ/2) a + (b - a) keeps small angles exact
            across = second - first + 2 * torch.sin(theta / 2)[:, None] ** 2 * first
            self.write(result, scale, across * _sine_ratio_inverse(theta)[:, None])
        return result

    def exp(self, a: State, tangent: State) -> dict[str, Tensor]:
        """Walk from `a`: great circles on the spheres, straight elsewhere."""
        straight = {k for k, v in a.items() if inexact(v)} - self.covered
        result = {k: v + tangent[k] if k in straight else v for k, v in a.items()}
        for scale in self.symmetry.scales:
            point, step = self.vectors(a, scale), self.vectors(tangent, scale)  # (units, numbers)
            length = step.norm(dim=1, keepdim=True)  # (units, 1)
            moved = torch.cos(length) * point
            moved += torch.sinc(length / torch.pi) * step  # sin|v|/|v|, 1 at 0
            self.write(result, scale, moved)
        return result


def _out_of_range(
    result: State, state: State, symmetry: Symmetry, steps: float | None = None
) -> list[str]:
    """The tensors that came out of the range of their precision.

    Of weights it ends at so many steps from zero, if not said where all digits are there. A bias
    that vanishes is nothing beside them.
    """
    inside = replace(symmetry, output=None).scales  # of the last layer the biases weigh too
    weights = {axis.parameter for scale in inside for axis in scale.axes if axis.weighs}
    lost = []
    for name, before in state.items():
        if not inexact(before) or not before.numel():
            continue
        limits, size, was = torch.finfo(before.dtype), _size(result[name]), _size(before)
        least = limits.tiny if steps is None else steps * limits.tiny * limits.eps
        vanished = name in weights and size < min(least, was)
        if vanished or not size <= max(limits.max, was):  # NaN is not
            lost.append(name)
    return lost


def _size(tensor: Tensor) -> float:
    """The largest size of a number."""
    return float(tensor.detach().abs().max())


def _narrowed(result: State, state: State, symmetry: Symmetry) -> dict[str, Tensor]:
    """In the precision of a state, if that has such numbers; a zero it has."""
    held = {k: v for k, v in state.items() if result[k].any()}
    if lost := _out_of_range(result, held, symmetry, steps=64):
        name = lost[0]
        raise ValueError(
            f"{name!r} would hold numbers of {_size(result[name]):.3g}, which {state[name].dtype} "
            "does not have: weights or biases before it are very large or very small. Pass the "
            "state in float64: {k: v.double() if v.is_floating_point() else v for k, v in "
            "state.items()}"
        )
    return {k: v.to(state[k].dtype) for k, v in result.items()}


def tangential(steps: Tensor, points: Tensor) -> Tensor:
    """The part of each step along its sphere: less what points to the point, (units, numbers)."""
    return steps - (steps * points).sum(1, keepdim=True) * points


def normalize(
    state: State,
    symmetry: Symmetry,
    *,
    bias: str = "euclidean",
    output: str = "unit",
    gains: str = "keep",
    turns: str = "keep",
) -> dict[str, Tensor]:
    """Divide every unit by the norm of its incoming weights and push the norm into its readers.

    The units are taken front to back: ``λ = 1/|w|`` multiplies what makes a unit (`rescale`). The
    last layer, weights and biases together, is divided by its own norm. The outputs change by that
    one positive factor only. A layer before a BatchNorm is divided by itself, its running
    statistics with it; BatchNorm's pair (γ, β) is the unit's vector for what follows, never
    divided by γ's sign. A residual stream's units have several such vectors, joined in one sphere.

    Args:
        state: State dict; it is not changed.
        symmetry: From `find_symmetries`.
        bias: ``"euclidean"``, the bias is divided along but is not in the norm; ``"joint"``, the
            bias is part of the vector, so that the whole space is a torus.
        output: ``"unit"``, the last layer is divided by its norm, which a classifier's decisions do
            not see; ``"keep"``, it takes up the norms before it and nothing else, so that the
            network says what it said: what regressors, autoencoders and losses need. On the torus
            of such states the last layer is flat: go on with ``replace(symmetry, output=None)``
            (of `dataclasses`).
        gains: ``"positive"`` removes the signs before a BatchNorm as well: where γ is negative, it
            and what makes the unit (weights, bias, running mean) are negated, which changes
            nothing; where γ is 0 nothing is done. With ``"keep"`` signs stay as they are.
        turns: ``"orthonormal"`` mixes units that may be mixed (`Group.turn`), so that the vectors W
            that make them are orthonormal: the polar factor ``(W Wᵀ)^(-1/2) W``, the frame that is
            nearest. What is left is an orthogonal matrix, which `align` finds with ``turns=True``.
            Where the vectors are not independent nothing is done.

    Returns:
        The normal form: the same for every rescaling of `state`; `normalize` leaves it as it is.
        States of less than float32 are computed in it and rounded once, at the end.

    Raises:
        ValueError: If the state does not fit the symmetry or holds NaN, `bias`, `output`, `gains`
            or `turns` is another word, or the result is out of the range of the state's precision.

    Warns:
        UserWarning: If units are dead. Their vector stays at zero, their scale is settled by their
            bias or their BatchNorm's statistics; if nothing comes out of them, what reads them is
            set to zero. If only weights that a residual stream adds later make something of a unit,
            its scale stays as it is, and with it differs the normal form of a rescaled state.

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> symmetry = toroid.find_symmetries(model, x)
        >>> normal = normalize(model.state_dict(), symmetry)
        >>> bool(torch.allclose(normal["1.weight"].norm(dim=1), torch.ones(5)))
        True
        >>> bool(toroid.same_function(model, model.state_dict(), normal, x))
        True
        >>> kept = normalize(model.state_dict(), symmetry, output="keep")
        >>> round(toroid.same_function(model, model.state_dict(), kept, x).factor, 3)
        1.0
    """
    check_choice("output", output, OUTPUTS)
    check_choice("gains", gains, GAINS)
    check_choice("turns", turns, TURNS)
    torus = Torus.at_edge(symmetry, bias, state, normal=False)
    if output == "keep":
        torus = Torus(replace(symmetry, output=None), bias)
    state = _with_positive_gains(state, symmetry) if gains == "positive" else state
    return torus.normalize(state, turns == "orthonormal")


def balance(state: State, symmetry: Symmetry) -> dict[str, Tensor]:
    """Rescale every unit so that what makes it is as long as what reads it.

    Of all rescalings of the units between layers this one has the least sum of squares of the
    weights, a convex function of the logarithms of the factors: layer after layer goes towards its
    best factors, ``λ² = |read| / |made|``, until none changes (equi-normalisation, Stock et al.
    2019). Where `normalize` makes all units equal, here the length of a unit says how much it
    matters to what follows; `align` compares such states with ``balanced=True``. Biases follow, and
    do not count. A layer before a BatchNorm has no size of its own: its rows start with the length
    that `normalize` gives them, and then follow what they read.

    Args:
        state: State dict; it is not changed.
        symmetry: From `find_symmetries`.

    Returns:
        The same for every rescaling of `state`, with the same function and the same size of its
        outputs, which sets how much the last layer counts. A unit that nothing makes, or nothing
        reads, has the scale that `normalize` gives it.

    Raises:
        ValueError: As `normalize`.

    Warns:
        UserWarning: As `normalize`, of dead units.

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> symmetry = toroid.find_symmetries(model, x)
        >>> even = balance(model.state_dict(), symmetry)
        >>> made, read = even["1.weight"].norm(dim=1), even["3.weight"].norm(dim=0)
        >>> bool(torch.allclose(made, read))
        True
    """
    check_tensors(state)
    result = normalize(doubled(state), symmetry, output="keep")
    scales = [
        scale
        for scale in replace(symmetry, output=None).scales
        if {-1, 1} <= {axis.power for axis in scale.axes if axis.weighs}
    ]
    for scale, factor in zip(scales, _balancing(result, scales), strict=True):
        multiply(result, scale, factor)
    return _narrowed(result, state, symmetry)


def _balancing(state: State, scales: Sequence[Scale]) -> list[Tensor]:
    """The factors of the units of each scale, (units,), that give the weights the least norm."""
    weighing = [replace(s, axes=tuple(a for a in s.axes if a.weighs)) for s in scales]
    squares = _squares(state, weighing)
    factors = [torch.ones(len(scale.axes[0].index), dtype=torch.float64) for scale in scales]
    for _ in range(SWEEPS):
        change = 0.0
        for scale, factor in zip(weighing, factors, strict=True):
            made, read = (_sums(squares, scale, power) for power in (1, -1))  # (units,)
            ratio = torch.where((made > 0) & (read > 0), read / made, 1.0)
            squared = ratio ** _relaxed(scale)
            multiply(squares, scale, squared)
            factor *= squared.sqrt().to(factor)
            change = max(change, float(ratio.log().abs().max()))
        if change < 1e-9:
            break
    return factors


def _squares(state: State, scales: Sequence[Scale]) -> dict[str, Tensor]:
    """The squares of the weights, summed over all dimensions in which no axis tells units apart."""
    dims: dict[str, set[int]] = defaultdict(set)
    for axis in (axis for scale in scales for axis in scale.axes):
        dims[axis.parameter] |= {*range(axis.dim, axis.dim + axis.span)}
    squares = {k: state[k].square() for k in dims}
    rest = {k: [d for d in range(v.dim()) if d not in dims[k]] for k, v in squares.items()}
    return {k: v.sum(rest[k], keepdim=True) if rest[k] else v for k, v in squares.items()}


def _sums(squares: State, scale: Scale, power: int) -> Tensor:
    """For each unit the sum over the weights that go with this power of its factor."""
    axes = [axis for axis in scale.axes if axis.power == power]
    return torch.stack([axis.rows(squares[axis.parameter]).sum(1) for axis in axes]).sum(0)


def _relaxed(scale: Scale) -> float:
    """The power of |read|² / |made|² that the squares of its units' factors are, at once.

    With all others at rest the sum is a hyperbolic cosine around a unit's best factor, the power
    1/2: any step of less than twice the way lowers it, and a long one carries a change through all
    layers sooner. Units that read each other all move, and go half as far.
    """
    weights = [axis.parameter for axis in scale.axes]
    return 0.4 if len({*weights}) < len(weights) else 0.8


def _with_positive_gains(state: State, symmetry: Symmetry) -> dict[str, Tensor]:
    """The state with the sign of every gain taken up by what comes before it."""
    result = dict(state)
    for gain in symmetry.gains:
        own = gain.axes[0]
        negative = own.rows(result[own.parameter])[:, 0] < 0  # (units,)
        if negative.any():
            multiply(result, gain, 1 - 2 * negative.to(result[own.parameter]))
    return result


def _orthonormalize(state: dict[str, Tensor], group: Group, bias: str) -> None:
    """Mix a group's units by ``(W Wᵀ)^(-1/2)``, if the vectors W that make them are independent."""
    assert group.turn is not None
    vectors = group.turn.vectors(state, bias)  # (units, numbers)
    left, sizes, _ = torch.linalg.svd(vectors.double(), full_matrices=False)
    least = torch.finfo(vectors.dtype).eps ** (1 / 3) * sizes[0]
    if len(sizes) == group.size and sizes[-1] > least:
        mix(state, group, left / sizes @ left.T)


def _settle_dead(state: dict[str, Tensor], scale: Scale, norms: Tensor) -> Tensor:
    """Norms in which a dead unit has that of what else makes it, or 1 and no readers.

    Without incoming weights a unit is constant; its bias or its BatchNorm's statistics settle its
    scale. If they are zero too, nothing ever comes out of it: what reads it is set to zero, or its
    scale would be arbitrary. Only a residual stream's late weights may still make something of it.
    """
    carried = [axis for axis in scale.axes if axis.power > 0 and axis.role != "late"]
    rows = [
        (axis.rows(state[axis.parameter]) + axis.eps).abs() ** (1 / axis.power) for axis in carried
    ]
    norms = torch.where(norms > 0, norms, lengths(torch.cat(rows, 1)))
    late = [axis.rows(state[axis.parameter]) for axis in scale.axes if axis.role == "late"]
    silent = norms == 0
    for rows_late in late:
        silent &= (rows_late == 0).all(1)
    if unsettled := int(((norms == 0) & ~silent).sum()):
        warnings.warn(
            f"dead units of {scale.name!r} that only later weights of a residual stream feed: the "
            f"scale of {unsettled} stays as it is, and differs between rescaled states",
            stacklevel=4,
        )
    for axis in scale.axes:
        if axis.role == "in":
            tensor = state[axis.parameter]
            state[axis.parameter] = tensor * axis.spread((~silent).to(tensor), tensor, fill=1.0)
    return torch.where(norms > 0, norms, 1.0)


def angles(a: State, b: State, symmetry: Symmetry, *, bias: str = "euclidean") -> dict[str, Tensor]:
    """The angle between the two vectors of every unit, in radians.

    ``θ = 2 atan2(|a - b|, |a + b|)``, exact at 0 and at π, where an arccos is not. The angle
    between a dead unit and a live one is π/2, between two dead ones 0.

    Args:
        a: Normalised state.
        b: Normalised state.
        symmetry: From `find_symmetries`.
        bias: As in `normalize`.

    Returns:
        For each scale, by name, angles (units,) in [0, π]; ``"output"`` is the last layer's one.

    Raises:
        ValueError: If the states do not fit, hold NaN or are not normalised (with the same `bias`).

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> symmetry = toroid.find_symmetries(model, x)
        >>> a = toroid.normalize(model.state_dict(), symmetry)
        >>> angles(a, a, symmetry)["1"]
        tensor([0., 0., 0., 0., 0.])
    """
    return Torus.at_edge(symmetry, bias, a, b).angles(a, b)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    near, far = (a - b).norm(dim=1), (a + b).norm(dim=1)
    return 2 * torch.atan2(near, torch.where(near + far > 0, far, 1.0))  # has a gradient at 0, 0


def distance(
    a: State, b: State, symmetry: Symmetry, *, mean: bool = False, bias: str = "euclidean"
) -> float:
    """Geodesic distance on the torus, ``sqrt(Σ θ²)`` over all spheres.

    Args:
        a: Normalised state.
        b: Normalised state.
        symmetry: From `find_symmetries`.
        mean: Root mean square angle instead, in [0, π]: comparable between networks of different
            size.
        bias: As in `normalize`; Euclidean biases are not on the torus and do not count.

    Returns:
        Radians.

    Raises:
        ValueError: As `angles`, and if there are no spheres: every scale is fixed.

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> symmetry = toroid.find_symmetries(model, x)
        >>> a = toroid.normalize(model.state_dict(), symmetry)
        >>> distance(a, a, symmetry)
        0.0
    """
    check_flag("mean", mean)
    found = angles(a, b, symmetry, bias=bias)
    if not found:
        raise ValueError(
            "this network has no free scale, so there is no torus; between binary networks "
            "toroid.binary.hamming is the distance"
        )
    squares = torch.cat([angle.double() ** 2 for angle in found.values()])
    return float((squares.mean() if mean else squares.sum()).sqrt())


def geodesic(
    a: State, b: State, t: float, symmetry: Symmetry, *, bias: str = "euclidean"
) -> dict[str, Tensor]:
    """The point at `t` on the geodesic from `a` to `b`: great circles, all at the same t.

    ``sin((1-t)θ)/sin θ · a + sin(tθ)/sin θ · b`` for each unit; what is on no sphere (Euclidean
    biases, running statistics, units whose scale is fixed) moves on a straight line. Integer
    buffers are `a`'s.

    Args:
        a: Normalised state, at t = 0.
        b: Normalised state, at t = 1.
        t: Place along the path.
        symmetry: From `find_symmetries`.
        bias: As in `normalize`.

    Returns:
        A normalised state (a unit that is dead at one end has norm below 1 on the way).

    Raises:
        ValueError: As `angles`, and if two vectors are antipodal: no shortest path is
        distinguished.

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> symmetry = toroid.find_symmetries(model, x)
        >>> other = toroid.mlp((4,), classes=3, hidden=(5,))
        >>> a, b = (toroid.normalize(m.state_dict(), symmetry) for m in (model, other))
        >>> middle = geodesic(a, b, 0.5, symmetry)
        >>> round(distance(a, middle, symmetry) / distance(a, b, symmetry), 4)
        0.5
    """
    torus = Torus.at_edge(symmetry, bias, a, b)
    return torus.geodesic(a, b, check_number("t", t), torus.shortest(a, b))


def _sine_ratio(theta: Tensor, t: float) -> Tensor:
    """sin(tθ)/sin θ, with its limit t at θ = 0; there it has a gradient too."""
    angle = torch.where(theta > 0, theta, 1.0)
    return torch.where(theta > 0, torch.sin(t * angle) / torch.sin(angle), t)


def log(a: State, b: State, symmetry: Symmetry, *, bias: str = "euclidean") -> dict[str, Tensor]:
    """The tangent vector at `a` whose `exp` is `b`; its length on the spheres is the distance.

    ``θ (b - a cos θ) / |b - a cos θ|`` for each unit, ``b - a`` for what is on no sphere.

    Args:
        a: Normalised state.
        b: Normalised state.
        symmetry: From `find_symmetries`.
        bias: As in `normalize`.

    Returns:
        A tensor for every floating tensor of `a`.

    Raises:
        ValueError: As `geodesic`, and if a unit is dead in one state only: no tangent leads there.

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> symmetry = toroid.find_symmetries(model, x)
        >>> a = toroid.normalize(model.state_dict(), symmetry)
        >>> float(log(a, a, symmetry)["1.weight"].abs().max())
        0.0
    """
    return Torus.at_edge(symmetry, bias, a, b).log(a, b)


def _sine_ratio_inverse(theta: Tensor) -> Tensor:
    """θ/sin θ, with its limit 1 at θ = 0."""
    return torch.where(theta > 0, theta / torch.sin(theta), 1.0)


def exp(
    a: State, tangent: State, symmetry: Symmetry, *, bias: str = "euclidean"
) -> dict[str, Tensor]:
    """Walk from `a`: ``cos|v| a + sin|v| v/|v|`` on each sphere, ``a + v`` elsewhere.

    Args:
        a: Normalised state.
        tangent: A tensor for every floating tensor of `a`, orthogonal to `a` on each sphere.
        symmetry: From `find_symmetries`.
        bias: As in `normalize`.

    Returns:
        A normalised state.

    Raises:
        ValueError: If `a` does not fit, holds NaN or is not normalised, or the tangent has not its
            names, shapes and precision.

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> symmetry = toroid.find_symmetries(model, x)
        >>> other = toroid.mlp((4,), classes=3, hidden=(5,))
        >>> a, b = (toroid.normalize(m.state_dict(), symmetry) for m in (model, other))
        >>> bool(distance(exp(a, log(a, b, symmetry), symmetry), b, symmetry) < 1e-5)
        True
    """
    torus = Torus.at_edge(symmetry, bias, a)
    check_step(a, tangent)
    if missing := [k for k, v in a.items() if inexact(v) and k not in tangent]:
        raise ValueError(
            f"the tangent lacks {', '.join(missing[:5])} of the state; what does not move takes "
            "zeros"
        )
    return torus.exp(a, tangent)


def _check_antipodal(scale: Scale, theta: Tensor, numbers: int) -> None:
    """No shortest way is distinguished between opposite points, of so many numbers."""
    limit = torch.pi - 8 * torch.finfo(theta.dtype).eps ** 0.5
    if (theta > limit).any():
        unit = int((theta > limit).nonzero()[0])
        way = (
            "move one slightly"
            if numbers > 1
            else 'its vector is one number, 1 or -1: bias="joint" puts its bias beside it'
        )
        raise ValueError(
            f"unit {unit} of {scale.name!r} has opposite vectors in the two states (angle "
            f"{float(theta[unit]):.6f}): no shortest path is distinguished; {way}"
        )
