"""The pictures of the method, drawn of small networks from what the package computes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from .._state import State
from ..flatness import _walk
from ..landscape import Curve
from ..symmetry import Symmetry
from ..torus import Torus
from .plotting import ALGORITHMS, COLORS, LINES, SHORT, _styled

__all__ = ["chords", "energy", "exchanged", "heights", "spheres", "torus", "trainings", "walks"]

#: Radii of a drawn torus: of its tube, and of the circle in the tube's middle.
TUBE, RING = 0.45, 1.0


def walks(
    state: State, symmetry: Symmetry, sizes: Sequence[float], draws: int = 10, seed: int = 0
) -> Tensor:
    """Where the noise of `toroid.local_energy` takes the units of the first layer on the torus.

    Args:
        state: Normalised state dict, of parameters alone.
        symmetry: From `toroid.find_symmetries`.
        sizes: σ along each walk.
        draws: How many random directions.
        seed: Draws them, as in `toroid.local_energy`.

    Returns:
        Unit vectors (draws, sizes, units, numbers).

    Raises:
        ValueError: If the state is not on the torus.
    """
    torus, names = Torus.at_edge(symmetry, "euclidean", state), list(state)
    generator = torch.Generator().manual_seed(seed)
    found = [_walk(state, names, "torus", torus, generator) for _ in range(draws)]
    scale = symmetry.scales[0]
    return torch.stack(
        [torch.stack([torus.vectors(walk(size), scale) for size in sizes]) for walk in found]
    )


@_styled
def spheres(before: Tensor, after: Tensor) -> Figure:
    """The weights of a layer's units as arrows, before and after normalisation.

    Args:
        before: Weights of units with two inputs (units, 2).
        after: The same, normalised.

    Returns:
        A figure with two panels, each with the circle of radius 1.
    """
    figure, axes = plt.subplots(1, 2, figsize=(7, 3.5), sharex=True, sharey=True)
    for ax, title, vectors in zip(axes, ("before", "after"), (before, after), strict=True):
        _circle(ax)
        for index, end in enumerate(vectors.tolist()):
            look = {"arrowstyle": "-|>", "color": COLORS[index], "lw": 2, "ls": LINES[index]}
            ax.annotate("", end, (0, 0), arrowprops={**look, "shrinkA": 0, "shrinkB": 0})
            ax.annotate(f"unit {index + 1}", end, (4, 4), textcoords="offset points")
            ax.plot(*end, alpha=0)  # so that the axes reach it
        ax.set(title=title, xlabel="first weight", aspect="equal")
        ax.margins(0.2)
    axes[0].set_ylabel("second weight")
    return figure


def _circle(ax: Axes) -> None:
    """Of radius 1."""
    angle = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(angle), np.sin(angle), color="0.6", lw=1)


@_styled
def torus(path: Tensor) -> Figure:
    """A path of two units with two inputs: each on its circle, and both as one point of a torus.

    Args:
        path: Normalised weights along a path (points, 2 units, 2 inputs).

    Returns:
        A figure with two panels; a circle marks the start and a square the end.
    """
    figure = plt.figure(figsize=(8, 3.6))
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2, projection="3d")
    for unit in range(2):
        middle = np.array([2.6 * unit, 0])
        points = path[:, unit].numpy() + middle
        ring = np.linspace(0, 2 * np.pi, 200)
        left.plot(np.cos(ring) + middle[0], np.sin(ring), color="0.6", lw=1)
        _journey(left, points, COLORS[unit])
        left.annotate(f"unit {unit + 1}", (float(middle[0]), 0.0), ha="center", va="center")
    left.set(aspect="equal")
    left.set_axis_off()
    turns = np.unwrap(np.arctan2(path[..., 1].numpy(), path[..., 0].numpy()), axis=0)
    ring, tube = np.meshgrid(np.linspace(0, 2 * np.pi, 61), np.linspace(0, 2 * np.pi, 31))
    right.plot_wireframe(
        *_embedded(ring, tube, TUBE), color="0.75", lw=0.4, rstride=2, cstride=2, zorder=1
    )
    _journey(right, np.stack(_embedded(turns[:, 0], turns[:, 1], 1.04 * TUBE), 1), COLORS[2])
    right.set(aspect="equal", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), zlim=(-0.6, 0.6))
    right.view_init(50, float(np.degrees(turns[:, 0].mean())))
    right.set_axis_off()
    return figure


def _embedded(ring: NDArray[Any], tube: NDArray[Any], radius: float) -> list[NDArray[Any]]:
    """Two angles as a point in space."""
    out = RING + radius * np.cos(tube)
    return [out * np.cos(ring), out * np.sin(ring), radius * np.sin(tube)]


def _journey(ax: Axes, points: NDArray[Any], color: str, line: str = "-", label: str = "") -> None:
    """A line with a circle at its start and a square at its end."""
    ax.plot(*points.T, line, color=color, lw=2.5, label=label, zorder=5)
    for mark, end in zip("os", points[[0, -1]], strict=True):
        ax.plot(*end[:, None], mark, color=color, ms=6, zorder=6)


@_styled
def exchanged(before: State, after: State, permutation: Sequence[int]) -> Figure:
    """A network of two layers without biases as a graph, before and after its units are permuted.

    Args:
        before: State dict of the two weights.
        after: The same, permuted.
        permutation: Which unit of `before` stands at each place of `after`.

    Returns:
        A figure with two panels; a unit keeps its colour, the width of a line is its weight's size,
        dashes are negative weights.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8, 3))
    orders = (range(len(permutation)), permutation)
    titles = ("before", "after")
    for ax, state, order, title in zip(axes, (before, after), orders, titles, strict=True):
        first, last = (w.numpy() for w in state.values())
        heights = [_centred(n) for n in (first.shape[1], len(first), len(last))]
        for place, unit in enumerate(order):
            at = (1, heights[1][place])
            for weight, height in zip(first[place], heights[0], strict=True):
                _edge(ax, (0, height), at, weight, COLORS[unit])
            for weight, height in zip(last[:, place], heights[2], strict=True):
                _edge(ax, at, (2, height), weight, COLORS[unit])
            ax.plot(*at, "o", ms=22, color="white", mec=COLORS[unit], mew=2, zorder=3)
            ax.annotate(str(unit + 1), at, ha="center", va="center", zorder=4)
        for x, ends in ((0, heights[0]), (2, heights[2])):
            ax.plot([x] * len(ends), ends, "o", ms=9, color="0.3", zorder=3)
        ax.set(title=title, xlim=(-0.2, 2.2))
        ax.margins(y=0.2)
        ax.set_axis_off()
    return figure


def _centred(count: int) -> NDArray[Any]:
    return (count - 1) / 2 - np.arange(count)


def _edge(
    ax: Axes, a: tuple[float, float], b: tuple[float, float], weight: float, color: str
) -> None:
    line = "-" if weight > 0 else "--"
    ax.plot(*zip(a, b, strict=True), line, color=color, lw=0.6 + 2 * abs(weight))


@_styled
def chords(paths: Mapping[str, Tensor]) -> Figure:
    """One unit with two inputs along several paths: in the plane, and its norm.

    Args:
        paths: By name, weights at equal steps of t (points, 2).

    Returns:
        A figure with two panels.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6))
    _circle(left)
    for index, (name, points) in enumerate(paths.items()):
        _journey(left, points.numpy(), COLORS[index], LINES[index], name)
        t = np.linspace(0, 1, len(points))
        right.plot(t, points.norm(dim=1).numpy(), LINES[index], color=COLORS[index], lw=2)
    left.set(xlabel="first weight", ylabel="second weight", aspect="equal")
    left.margins(0.12)
    right.set(xlabel="t", ylabel="norm of the unit", ylim=(0, None))
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@_styled
def heights(curves: Mapping[str, Curve]) -> Figure:
    """Errors along paths, and the barrier of each as an arrow.

    Args:
        curves: From `toroid.along`, by name.

    Returns:
        A figure; dotted lines join the ends, an arrow shows the barrier where it is highest.
    """
    figure, ax = plt.subplots(figsize=(6.5, 3.4))
    for index, (name, curve) in enumerate(curves.items()):
        color, error = COLORS[index], 100 * curve.error
        straight = (1 - curve.t) * error[0] + curve.t * error[-1]
        label = f"{name}: barrier {100 * curve.barrier:.1f} %"
        ax.plot(curve.t, error, LINES[index], color=color, lw=2, label=label)
        ax.plot(curve.t, straight, ":", color="0.4", lw=1)
        top = int(np.argmax(error - straight))
        if curve.barrier > 0:
            low, high = ((curve.t[top], y[top]) for y in (straight, error))
            look = {"arrowstyle": "<->", "color": color, "shrinkA": 0, "shrinkB": 0}
            ax.annotate("", high, low, arrowprops=look)
    ax.set(xlabel="t", ylabel="training error (%)", ylim=(0, None))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


@_styled
def energy(walked: Tensor, table: pd.DataFrame) -> Figure:
    """Noise on the sphere of one unit with three inputs, and what it does to the error.

    Args:
        walked: Points along each walk (draws, sizes, 3), as a unit of `walks`.
        table: Columns ``algorithm, sigma, energy, standard_error``.

    Returns:
        A figure with two panels; error bars are standard errors.
    """
    figure = plt.figure(figsize=(8, 3.6))
    left, right = figure.add_subplot(1, 2, 1, projection="3d"), figure.add_subplot(1, 2, 2)
    around, down = np.meshgrid(np.linspace(0, 2 * np.pi, 25), np.linspace(0, np.pi, 13))
    ball = [np.sin(down) * np.cos(around), np.sin(down) * np.sin(around), np.cos(down)]
    left.plot_wireframe(*ball, color="0.8", lw=0.4, zorder=1)
    for walk in walked.numpy():
        left.plot(*walk.T, color=COLORS[0], lw=1.5, zorder=5)
        left.plot(*walk[-1:].T, "s", color=COLORS[0], ms=4, zorder=6)
    start = walked[0, 0].numpy()
    left.plot(*start[:, None], "o", color=COLORS[6], ms=7, zorder=7)
    height, turn = np.arcsin(start[2]), np.arctan2(start[1], start[0])
    left.view_init(*np.degrees([height + 0.4, turn - 0.5]))  # not from straight above
    left.set(aspect="equal", **{f"{axis}lim": (-0.75, 0.75) for axis in "xyz"})
    left.set_axis_off()
    for algorithm, part in table.groupby("algorithm", sort=False):
        color, line, mark = ALGORITHMS[str(algorithm)]
        y, bars = 100 * part["energy"], 100 * part["standard_error"]
        label = SHORT[str(algorithm)]
        right.errorbar(part["sigma"], y, bars, ls=line, color=color, marker=mark, label=label)
    right.set(xlabel="σ (rms angle of the noise)", ylabel="local energy (%)")
    right.legend()
    return figure


@_styled
def trainings(replicated: pd.DataFrame, adversarial: pd.DataFrame) -> Figure:
    """What goes on in two trainings: replicas that are drawn together, and random labels first.

    Args:
        replicated: History of `toroid.training.replicated_sgd`.
        adversarial: History of `toroid.training.adversarial`.

    Returns:
        A figure with two panels.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
    shown = {"loss": "mean loss of the replicas", "distance": "distance from the centre"}
    for index, (column, label) in enumerate(shown.items()):
        left.plot(
            replicated["epoch"] + 1, replicated[column], LINES[index], color=COLORS[index], lw=2,
            label=label,
        )  # fmt: skip
    left.set(title="RSGD", xlabel="epoch", yscale="log")
    epochs = np.arange(1, len(adversarial) + 1)
    for index, labels in enumerate(("random", "true")):
        part = (adversarial["labels"] == labels).to_numpy()
        look = {"color": COLORS[index], "lw": 2, "label": f"loss, {labels} labels"}
        right.plot(epochs[part], adversarial["loss"][part], LINES[index], **look)
    right.set(title="ADV", xlabel="epoch", yscale="log")
    for ax in (left, right):
        ax.legend(loc="lower left")
    return figure
