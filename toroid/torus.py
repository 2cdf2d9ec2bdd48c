"""The scale symmetry removed, and geometry on what is left: a product of spheres.

A rescaling ``f(λ z) = λ f(z)`` lets every unit's incoming weights be divided by their norm and the
norm be pushed into the weights that read the unit. What remains of a unit is a point on a sphere;
the last layer is one sphere; the network is a point on their product, the torus.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ._state import State, check_choice, check_finite, check_pair
from .symmetry import Scale, Symmetry
from .symmetry._groups import check_state, lengths, multiply, widened

__all__ = ["angles", "distance", "exp", "geodesic", "log", "normalize"]

BIASES = ("euclidean", "joint")


def normalize(state: State, symmetry: Symmetry, *, bias: str = "euclidean") -> dict[str, Tensor]:
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

    Returns:
        The normal form: the same for every rescaling of `state`; `normalize` leaves it as it is.
        States of less than float32 are computed in it and rounded once, at the end.

    Raises:
        ValueError: If the state does not fit the symmetry or holds NaN, or `bias` is another word.

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
    """
    check_state(state, symmetry)
    check_choice("bias", bias, BIASES)
    check_finite(state)
    result = {k: widened(v) for k, v in state.items()}
    dead = {}
    for scale in symmetry.scales:
        norms = lengths(scale.vectors(result, bias))
        if count := int((norms == 0).sum()):
            dead[scale.name] = count
            norms = _settle_dead(result, scale, norms)
        multiply(result, scale, 1 / norms)
    if dead:
        listed = ", ".join(f"{name}: {count}" for name, count in dead.items())
        warnings.warn(f"dead units, their vectors left at zero ({listed})", stacklevel=2)
    return {k: v.to(state[k].dtype) for k, v in result.items()}


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
            stacklevel=3,
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
    _check_torus(a, b, symmetry, bias)
    return arcs(a, b, symmetry, bias)


def arcs(a: State, b: State, symmetry: Symmetry, bias: str) -> dict[str, Tensor]:
    """`angles` of states that are known to be on the torus."""
    return {s.name: _angle(s.vectors(a, bias), s.vectors(b, bias)) for s in symmetry.scales}


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
    return great_circles(a, b, t, symmetry, joinable(a, b, symmetry, bias), bias)


def joinable(a: State, b: State, symmetry: Symmetry, bias: str) -> dict[str, Tensor]:
    """The angles between two states that one geodesic joins; an error where none is shortest."""
    found = angles(a, b, symmetry, bias=bias)
    for scale in symmetry.scales:
        _check_antipodal(scale, found[scale.name])
    return found


def great_circles(
    a: State, b: State, t: float, symmetry: Symmetry, theta: dict[str, Tensor], bias: str
) -> dict[str, Tensor]:
    """`geodesic` for angles that are known; what a unit is multiplied by is laid along its axes."""
    weights: dict[str, list[Tensor]] = {}
    for scale in symmetry.scales:
        ends = [(_sine_ratio(theta[scale.name], s), s) for s in (1 - t, t)]
        for axis in scale.sphere(bias):
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
        k: curved[k] if k in curved else torch.lerp(v, b[k], t) if v.is_floating_point() else v
        for k, v in a.items()
    }


def _sine_ratio(theta: Tensor, t: float) -> Tensor:
    """sin(tθ)/sin θ, with its limit t at θ = 0; there it has a gradient too."""
    angle = torch.where(theta > 0, theta, 1.0)
    return torch.where(theta > 0, torch.sin(t * angle) / torch.sin(angle), t)


def to_spheres(state: State, symmetry: Symmetry, bias: str) -> dict[str, Tensor]:
    """The nearest point of the torus: each vector over its norm, dead ones as they are.

    Unlike `normalize` it pushes nothing into the readers; it brings back what has left the spheres.
    """
    result = dict(state)
    for scale in symmetry.scales:
        vectors = scale.vectors(state, bias)
        norms = vectors.norm(dim=1, keepdim=True)
        write(result, scale, vectors / torch.where(norms > 0, norms, 1.0), bias)
    return result


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
    _check_torus(a, b, symmetry, bias)
    result = {k: b[k] - v for k, v in a.items() if v.is_floating_point()}
    for scale in symmetry.scales:
        first, second = scale.vectors(a, bias), scale.vectors(b, bias)
        theta = _angle(first, second)
        _check_antipodal(scale, theta)
        if ((first == 0).all(1) != (second == 0).all(1)).any():
            raise ValueError(
                f"scale {scale.name!r} has units that are dead in one of the states only"
            )
        # the chord's component along the tangent: 2 sin²(θ/2) a + (b - a) keeps small angles exact
        across = second - first + 2 * torch.sin(theta / 2)[:, None] ** 2 * first
        write(result, scale, across * _sine_ratio_inverse(theta)[:, None], bias)
    return result


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
        ValueError: If `a` does not fit, holds NaN or is not normalised.

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> symmetry = toroid.find_symmetries(model, x)
        >>> other = toroid.mlp((4,), classes=3, hidden=(5,))
        >>> a, b = (toroid.normalize(m.state_dict(), symmetry) for m in (model, other))
        >>> bool(distance(exp(a, log(a, b, symmetry), symmetry), b, symmetry) < 1e-5)
        True
    """
    _check_torus(a, a, symmetry, bias)
    result = {k: v + tangent[k] if v.is_floating_point() else v for k, v in a.items()}
    for scale in symmetry.scales:
        point, step = scale.vectors(a, bias), scale.vectors(tangent, bias)
        length = step.norm(dim=1, keepdim=True)
        moved = torch.cos(length) * point + torch.sinc(length / torch.pi) * step
        write(result, scale, moved, bias)
    return result


def write(result: dict[str, Tensor], scale: Scale, vectors: Tensor, bias: str) -> None:
    """Put each unit's vector back where `Scale.vectors` took it from."""
    sizes = [axis.rows(result[axis.parameter]).shape[1] for axis in scale.sphere(bias)]
    for axis, part in zip(scale.sphere(bias), vectors.split(sizes, dim=1), strict=True):
        tensor = result[axis.parameter]
        result[axis.parameter] = axis.put(tensor, part.to(tensor))


def _check_torus(a: State, b: State, symmetry: Symmetry, bias: str) -> None:
    """Both states belong to one network and every unit is of norm 1 (or dead)."""
    check_choice("bias", bias, BIASES)
    check_pair(a, b)
    check_state(a, symmetry)
    for state in (a, b):
        check_finite(state)
        for scale in symmetry.scales:
            vectors = scale.vectors(state, bias)
            norms, precision = vectors.norm(dim=1), state[scale.sphere(bias)[0].parameter].dtype
            off = (norms - 1).abs() > max(1e-3, 8 * torch.finfo(precision).eps)
            if off.any() and (off := off & vectors.any(1)).any():  # a dead unit's norm is 0
                unit = int(off.nonzero()[0])
                raise ValueError(
                    f"unit {unit} of {scale.name!r} has norm {float(norms[unit]):.4g}, not 1: the "
                    f"state is not on the torus. Call normalize(..., bias={bias!r}) first"
                )


def _check_antipodal(scale: Scale, theta: Tensor) -> None:
    """No shortest way is distinguished between opposite points."""
    limit = torch.pi - 8 * torch.finfo(theta.dtype).eps ** 0.5
    if (theta > limit).any():
        unit = int((theta > limit).nonzero()[0])
        raise ValueError(
            f"unit {unit} of {scale.name!r} has opposite vectors in the two states (angle "
            f"{float(theta[unit]):.6f}): no shortest path is distinguished; move one slightly"
        )
