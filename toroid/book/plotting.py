"""The book's figures: one look, colours for colour-blind readers, lines that differ in grey."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import rcsetup
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .._state import State
from ..landscape import Plane
from ..symmetry import Symmetry
from .tables import SHORT

__all__ = [
    "ALGORITHMS", "COLORS", "SHORT", "agreement", "band", "barriers", "bends", "connectivity",
    "costs", "dependence", "dependences", "distances", "embedding", "energies", "errors",
    "flatness", "forest", "hamming", "layers", "minimizers", "norms", "planes", "planted",
    "repaired", "replicas", "scaling", "show", "slide", "style", "symmetry_map",
]  # fmt: skip

P = ParamSpec("P")

#: Okabe and Ito's palette (2008), without its yellow.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", "--", "-.", ":")

#: The same look for an algorithm on every page: colour, line, mark.
ALGORITHMS = {
    "sgd": (COLORS[0], "-", "o"), "replicated_sgd": (COLORS[2], "--", "s"),
    "adversarial": (COLORS[1], "-.", "^"), "sam": (COLORS[3], ":", "D"),
    "swa": (COLORS[4], "-", "v"), "entropy_sgd": (COLORS[5], "--", "P"),
    "annealing": (COLORS[6], ":", "X"), "sgd_decayed": (COLORS[6], "--", "<"),
}  # fmt: skip


def style() -> AbstractContextManager[None]:
    """Matplotlib settings of every figure; those of this module have them.

    White behind the axes: in the dark the site's style sheet turns lightness over and keeps the
    hues. Sizes in points that stay legible at page width.
    """
    return plt.rc_context(
        {
            "figure.dpi": 110, "figure.facecolor": "white", "axes.facecolor": "white",
            "font.size": 10,
            "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
            "axes.prop_cycle": rcsetup.cycler(color=COLORS), "figure.constrained_layout.use": True,
        }
    )  # fmt: skip


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """A figure drawn in the book's style."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with style():
            return draw(*args, **kwargs)

    return drawn


def show(figure: Figure) -> None:
    """Show a figure in the page, once: ``plotting.show(plotting.slide(runs))``.

    Args:
        figure: From a function of this module.
    """
    plt.show()  # and closes it, so that it is not shown again as the cell's value


def band(ax: Axes, x: Sequence[float], runs: NDArray[Any], *, index: int | str, label: str) -> None:
    """A mean line with the range from the least to the greatest run around it.

    Args:
        ax: Where to draw.
        x: Abscissae (points,).
        runs: One row for each run (runs, points).
        index: Which colour and line style; the name of an algorithm for its own.
        label: For the legend.
    """
    if isinstance(index, str):
        color, line, _ = ALGORITHMS[index]
    else:
        color, line = COLORS[index], LINES[index % len(LINES)]
    ax.plot(x, runs.mean(0), line, color=color, label=label)
    ax.fill_between(x, runs.min(0), runs.max(0), color=color, alpha=0.18, linewidth=0)


@_styled
def symmetry_map(symmetry: Symmetry, state: State) -> Figure:
    """Modules against groups: where each group's units are made and where they are read.

    Args:
        symmetry: From `toroid.find_symmetries`.
        state: State dict of the network; its order is that of the rows.

    Returns:
        A figure with one column for each group and one row for each module.
    """
    groups = symmetry.all_groups
    rows = list(dict.fromkeys(name.rpartition(".")[0] for name in state))
    figure, ax = plt.subplots(figsize=(1.5 + 0.5 * len(groups), 1.2 + 0.19 * len(rows)))
    looks = {"made": ("o", True), "made, by a BatchNorm": ("D", True), "read": ("o", False)}
    for x, group in enumerate(groups):
        color = COLORS[x % len(COLORS)]
        at = {}
        for axis in group.axes:  # a BatchNorm's statistics come before its pair (γ, β)
            normed = axis.module in {a.module for a in group.axes if a.role == "mean"}
            look = "read" if axis.role == "in" else "made, by a BatchNorm" if normed else "made"
            at[rows.index(axis.module)] = look
        ax.plot([x, x], [min(at), max(at)], color=color, linewidth=1, alpha=0.5)
        for y, look in at.items():
            _mark(ax, x, y, color, *looks[look])
    used = ("made", "read") if not any("running_mean" in name for name in state) else looks
    for look in used:
        _mark(ax, [], [], "0.3", *looks[look], label=look)
    ax.set_xticks(range(len(groups)), [f"{group.name} ({group.size})" for group in groups])
    ax.tick_params("x", rotation=60)
    ax.set_yticks(range(len(rows)), rows)
    ax.set(xlim=(-0.5, len(groups) - 0.5), ylim=(len(rows) - 0.5, -0.5), ylabel="module")
    ax.set_xlabel("group (units)")
    ax.grid(axis="y", alpha=0.25)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _mark(ax: Axes, x: Any, y: Any, color: str, marker: str, filled: bool, label: str = "") -> None:
    ax.plot(
        x, y, marker, color=color, mfc=color if filled else "white", ms=5.5, ls="none", label=label
    )


@_styled
def norms(table: pd.DataFrame) -> Figure:
    """Norms of the units of each layer, in falling order, before and after normalisation.

    Args:
        table: Columns ``layer, unit, before, after``; the last layer, one vector, is ``"output"``.

    Returns:
        A figure with two panels.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), sharey=True)
    for ax, column in zip(axes, ("before", "after"), strict=True):
        for index, (layer, part) in enumerate(table.groupby("layer", sort=False)):
            values = part[column].sort_values(ascending=False).to_numpy()
            rank = np.arange(len(values)) / max(1, len(values) - 1)
            label = "last layer, as one" if layer == "output" else f"layer {layer}"
            marker = "o" if len(values) == 1 else ""
            line = LINES[index % len(LINES)]
            ax.plot(rank, values, line, marker=marker, color=COLORS[index], label=label)
        ax.set(title=column, xlabel="units, largest first (fraction)")
    axes[0].set(ylabel="norm", yscale="log")
    axes[0].set_yticks([0.5, 1, 2, 5], [0.5, 1, 2, 5])
    axes[0].minorticks_off()
    axes[0].legend(fontsize=8)
    return figure


#: What a planted symmetry does on each kind of path.
_MIDDLES = {"raw": "straight line, raw", "normalised": "geodesic, normalised and aligned"}


@_styled
def planted(table: pd.DataFrame) -> Figure:
    """Planted copies of networks: which units are found again, and how far off the midpoint is.

    Args:
        table: Columns ``seed, s``; fractions ``inner products, raw``, ``cosines, raw`` and
            ``cosines, normalised``; relative distances ``middle, raw`` and ``middle, normalised``.

    Returns:
        A figure with two panels; lines are means over seeds, bands their range.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8, 3))
    for index, kind in enumerate(["inner products, raw", "cosines, raw", "cosines, normalised"]):
        runs = table.pivot(index="seed", columns="s", values=kind)
        band(axes[0], runs.columns.to_numpy(), runs.to_numpy(), index=index, label=kind)
    for index, (kind, path) in zip((0, 2), _MIDDLES.items(), strict=True):
        runs = 100 * table.pivot(index="seed", columns="s", values=f"middle, {kind}")
        band(axes[1], runs.columns.to_numpy(), runs.to_numpy(), index=index, label=path)
    spread = "spread s of the log-factors"
    axes[0].set(xlabel=spread, ylabel="units found again", ylim=(0, 1.05))
    axes[1].set(xlabel=spread, ylabel="output error at the midpoint (%)", yscale="symlog")
    axes[1].set_ylim(bottom=0)
    for ax in axes:
        ax.legend()
    return figure


@_styled
def connectivity(curves: pd.DataFrame, chance: float | None = None) -> Figure:
    """Error along the paths: one row for each kind of pair, one column for each kind of path.

    Args:
        curves: Tidy, with the columns ``kind, pair, weights, path, alignment, split, t, error``; of
            one split.
        chance: The error of guessing: no barrier can be much higher. A dotted line, or a word in
            the first panel where all curves are far below.

    Returns:
        A figure; lines are means over pairs, bands their range.
    """
    kinds, paths = list(curves["kind"].unique()), _paths(curves)
    figure, axes = plt.subplots(
        len(kinds), len(paths), figsize=(3 * len(paths), 0.9 + 1.6 * len(kinds)), sharex=True,
        sharey=True, squeeze=False,
    )  # fmt: skip
    for row, kind in zip(axes, kinds, strict=True):
        for ax, path in zip(row, paths, strict=True):
            _alignments(ax, curves[(curves["kind"] == kind) & _is(curves, path)])
        row[0].set_ylabel(f"{kind}\n{curves['split'].iloc[0]} error (%)")
    for ax, path in zip(axes[0], paths, strict=True):
        ax.set_title(", ".join(path))
    for ax in axes[-1]:
        ax.set_xlabel("t")
    _guessing(axes, chance)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


#: What the paper's slides set side by side: weights and path.
SLIDE = (("raw", "straight"), ("normalised", "geodesic"))


#: Algorithms of the claims, from flat to sharp, and the baseline.
BARRIERS = ("replicated_sgd", "sgd", "adversarial", "sgd_decayed")


@_styled
def barriers(
    runs: Mapping[str, pd.DataFrame], bound: float = 1.0, least: float = 0.02,
    chance: float | None = None,
) -> Figure:  # fmt: skip
    """Barriers before and after the symmetries are removed, run by run: a line for each pair.

    Args:
        runs: By name, columns ``algorithm`` (short name), ``before``, ``after``, in percentage
            points.
        bound: A dashed line.
        least: Where the axis ends; barriers below are drawn there.
        chance: The error of guessing, a fraction: a dotted line.

    Returns:
        A figure with a panel for each run, on one logarithmic axis.
    """
    size = (1.2 + 2.0 * len(runs), 3.4)
    figure, axes = plt.subplots(1, len(runs), figsize=size, sharey=True, squeeze=False)
    for ax, (name, table) in zip(axes[0], runs.items(), strict=True):
        kinds = [k for k in BARRIERS if (table["algorithm"] == SHORT[k]).any()]
        for x, kind in enumerate(kinds):
            color, _, mark = ALGORITHMS[kind]
            part = table[table["algorithm"] == SHORT[kind]]
            for y in part[["before", "after"]].clip(lower=least).to_numpy():
                ax.plot([x - 0.22, x + 0.22], y, color=color, lw=0.8, alpha=0.6)
                ax.plot(x - 0.22, y[0], mark, color=color, mfc="white", ms=5)
                ax.plot(x + 0.22, y[1], mark, color=color, ms=5)
        ax.set_xticks(range(len(kinds)), [SHORT[kind] for kind in kinds])
        ax.set(xlim=(-0.6, len(kinds) - 0.4), yscale="log")
        ax.set_title(textwrap.fill(name, 18), fontsize="small")
        ax.axhline(bound, color="black", linestyle="--", linewidth=0.8)
        if chance is not None:
            ax.axhline(100 * chance, color="black", linestyle=":", linewidth=0.8)
    axes[0, 0].set_ylabel("barrier of the training error (points)")
    axes[0, 0].set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    return figure


@_styled
def slide(
    runs: dict[str, pd.DataFrame], paths: Sequence[tuple[str, str]] = SLIDE,
    chance: float | None = None,
) -> Figure:  # fmt: skip
    """The figure of the paper's slides: the flattest algorithm on the left end, the sharpest right.

    Args:
        runs: By name, curves as `connectivity` takes them.
        paths: Weights and path of the two panels.
        chance: As in `connectivity`.

    Returns:
        A figure with a row for each run and two panels: raw straight lines, and geodesics between
        normalised networks, or what `paths` says.
    """
    size = (8, 0.4 + 3 * len(runs))
    figure, axes = plt.subplots(len(runs), 2, figsize=size, sharey="row", squeeze=False)
    for row, (name, curves) in zip(axes, runs.items(), strict=True):
        mixed = [kind for kind in curves["kind"].unique() if len(set(kind.split("-"))) == 2]
        kind = "RSGD-ADV" if "RSGD-ADV" in mixed else (mixed or [curves["kind"].iloc[0]])[-1]
        first, second = kind.split("-")
        for ax, path in zip(row, paths, strict=True):
            _alignments(ax, curves[(curves["kind"] == kind) & _is(curves, path)])
            ax.set(title=", ".join(path), xlabel=f"t   (0: {first}, 1: {second})")
        label = textwrap.fill(name, 24)  # no longer than a panel is high
        row[0].set_ylabel(f"{label}\n{curves['split'].iloc[0]} error (%)")
        _guessing(row[None], chance)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _paths(curves: pd.DataFrame) -> list[tuple[str, str]]:
    pairs = curves[["weights", "path"]].drop_duplicates()
    return list(pairs.itertuples(index=False, name=None))


def _is(curves: pd.DataFrame, path: tuple[str, str]) -> pd.Series:
    return (curves["weights"] == path[0]) & (curves["path"] == path[1])


def _guessing(axes: NDArray[Any], chance: float | None) -> None:
    """The error of guessing in panels that share their axis: a line, or a word if it is far up."""
    if chance is None:
        return
    if axes[0, 0].get_ylim()[1] < 50 * chance:  # a line would press the curves flat
        axes[0, 0].text(
            0.98, 0.96, f"↑ chance: {100 * chance:.0f} %", ha="right", va="top", fontsize="small",
            transform=axes[0, 0].transAxes,
        )  # fmt: skip
        return
    for ax in axes.flat:
        ax.axhline(100 * chance, color="black", linestyle=":", linewidth=0.8, label="chance")


def _alignments(ax: Axes, curves: pd.DataFrame) -> None:
    """One band for each alignment."""
    for index, (label, part) in enumerate(curves.groupby("alignment", sort=False)):
        table = part.pivot(index="pair", columns="t", values="error")
        band(ax, table.columns.to_numpy(), 100 * table.to_numpy(), index=index, label=str(label))


@_styled
def minimizers(histories: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Training loss of each network over the epochs, and the errors of what comes out.

    Args:
        histories: Columns ``algorithm, seed, loss`` in the order of the epochs.
        table: Columns ``algorithm, seed, train_error, test_error``.

    Returns:
        A figure with two panels.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(3, 2))
    for algorithm, runs in histories.groupby("algorithm", sort=False):
        color, line, _ = ALGORITHMS[str(algorithm)]
        for index, (_, run) in enumerate(runs.groupby("seed")):
            label = SHORT[str(algorithm)] if index == 0 else None
            loss = run["loss"].to_numpy()
            left.plot(np.arange(1, len(loss) + 1), loss, line, color=color, lw=1, label=label)
    left.set(xlabel="epoch", ylabel="training loss", yscale="log")
    _errors(right, table)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=6)
    return figure


@_styled
def errors(table: pd.DataFrame) -> Figure:
    """Training and test errors of minimizers: one panel for each run.

    Args:
        table: Columns ``run, algorithm, seed, train_error, test_error``.

    Returns:
        A figure; hollow marks are training errors, filled ones test errors.
    """
    parts = list(table.groupby("run", sort=False))
    figure, axes = plt.subplots(1, len(parts), figsize=(2.7 * len(parts), 3.2), squeeze=False)
    for ax, (run, part) in zip(axes[0], parts, strict=True):
        _errors(ax, part)
        ax.set_title(textwrap.fill(str(run), 20), fontsize="medium")
    return figure


def _errors(ax: Axes, table: pd.DataFrame) -> None:
    names = list(table["algorithm"].unique())
    for x, name in enumerate(names):
        part = table[table["algorithm"] == name]
        color, _, mark = ALGORITHMS[name]
        at = x + np.linspace(-0.2, 0.2, len(part)) if len(part) > 1 else [x]
        ax.plot(at, 100 * part["train_error"], mark, color=color, mfc="white", ms=5)
        ax.plot(at, 100 * part["test_error"], mark, color=color, ms=5)
    ax.set_xticks(range(len(names)), [SHORT[name] for name in names], rotation=40)
    ax.set(ylabel="error (%)", xlim=(-0.6, len(names) - 0.4))
    ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))


@_styled
def replicas(histories: pd.DataFrame) -> Figure:
    """How the replicas of replicated SGD come together.

    Args:
        histories: Columns ``algorithm, seed, epoch, distance, coupling``; other algorithms are left
            out.

    Returns:
        A figure with two panels.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.8))
    runs = histories[histories["algorithm"] == "replicated_sgd"]
    words = {"distance": "distance over centre's norm", "coupling": "coupling g"}
    for ax, (column, label) in zip(axes, words.items(), strict=True):
        for index, (seed, run) in enumerate(runs.groupby("seed")):
            line, color = LINES[index % len(LINES)], COLORS[index % len(COLORS)]
            ax.plot(run["epoch"] + 1, run[column], line, color=color, label=f"seed {seed}")
        ax.set(xlabel="epoch", ylabel=label, yscale="log")
    axes[0].legend()
    return figure


@_styled
def distances(table: pd.DataFrame, untrained: float | None = None) -> Figure:
    """Distances of pairs by their kind: of raw weights, and on the torus.

    Args:
        table: Columns ``kind, raw, as found, aligned``.
        untrained: The mean angle of untrained aligned pairs, a dotted line.

    Returns:
        A figure with two panels, one mark for each pair.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    kinds = list(table["kind"].unique())
    for x, kind in enumerate(kinds):
        part = table[table["kind"] == kind]
        at = x + np.linspace(-0.25, 0.25, len(part)) if len(part) > 1 else [x]
        left.plot(at, part["raw"], "o", color=COLORS[0], ms=4)
    _kinds(left, kinds)
    _found_and_aligned(right, table, untrained)
    left.set_ylabel("raw distance over mean norm")
    right.set_ylabel("rms angle (radians)")
    figure.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _kinds(ax: Axes, kinds: Sequence[str]) -> None:
    ax.set_xticks(range(len(kinds)), kinds, rotation=40)
    ax.set_xlim(-0.6, len(kinds) - 0.4)


def _found_and_aligned(ax: Axes, table: pd.DataFrame, untrained: float | None = None) -> None:
    """Two marks for each pair, sorted by kind: as found and aligned."""
    kinds = list(table["kind"].unique())
    if untrained is not None:
        ax.axhline(untrained, color="black", linestyle=":", label="untrained, aligned")
    for x, kind in enumerate(kinds):
        part = table[table["kind"] == kind]
        at = x + np.linspace(-0.25, 0.25, len(part)) if len(part) > 1 else [x]
        for name, color, face in (
            ("as found", COLORS[0], "white"),
            ("aligned", COLORS[1], COLORS[1]),
        ):
            label = name if x == 0 else None
            ax.plot(at, part[name], "o", color=color, mfc=face, ms=4, label=label)
    _kinds(ax, kinds)


@_styled
def hamming(pairs: pd.DataFrame, table: pd.DataFrame, untrained: float | None = None) -> Figure:
    """Hamming distances of binary networks: of pairs by their kind, and against flatness.

    Args:
        pairs: Columns ``kind, as found, aligned``, shares of the weights.
        table: Columns ``algorithm, local energy, distance``, the last to an algorithm's others.
        untrained: As in `distances`.

    Returns:
        A figure with two panels, one mark for each pair and treatment, and for each minimizer.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    _found_and_aligned(left, pairs, untrained)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    left.set_ylabel("share of weights that differ")
    for algorithm, part in table.groupby("algorithm", sort=False):
        color, _, mark = ALGORITHMS[str(algorithm)]
        energy, label = 100 * part["local energy"], SHORT[str(algorithm)]
        right.plot(energy, part["distance"], mark, color=color, ms=6, label=label)
    right.set(xlabel="local energy (percentage points)", ylabel="mean distance to its own, aligned")
    right.legend()
    return figure


@_styled
def layers(table: pd.DataFrame) -> Figure:
    """Angles of pairs, layer by layer.

    Args:
        table: Columns ``kind, first, second, layer, angle``, the layers in their order; of pairs
            within algorithms.

    Returns:
        A figure; lines are means over pairs, bands their range.
    """
    names, algorithms = list(table["layer"].unique()), {v: k for k, v in SHORT.items()}
    figure, ax = plt.subplots(figsize=(min(9, 3 + 0.45 * len(names)), 3.4))
    for kind, part in table.groupby("kind", sort=False):
        runs = part.pivot(index=["first", "second"], columns="layer", values="angle")[names]
        algorithm = algorithms[str(kind).split("-")[0]]
        band(ax, range(len(names)), runs.to_numpy(), index=algorithm, label=str(kind))
    ax.set_xticks(range(len(names)), names, rotation=40)
    ax.set(xlabel="layer", ylabel="rms angle (radians)")
    ax.legend()
    return figure


def scaling(matrix: pd.DataFrame) -> tuple[NDArray[Any], float]:
    """Classical multidimensional scaling into the plane (Torgerson 1952).

    Args:
        matrix: Distances, symmetric.

    Returns:
        Places (points, 2), and the share of the squared distances' variation that they show.
    """
    squares = matrix.to_numpy() ** 2
    centred = squares - squares.mean(0) - squares.mean(1)[:, None] + squares.mean()
    values, vectors = np.linalg.eigh(-0.5 * centred)
    top = np.clip(values[-2:], 0, None)
    return vectors[:, -2:] * top**0.5, float(top.sum() / np.abs(values).sum())


@_styled
def embedding(table: pd.DataFrame, matrix: pd.DataFrame) -> Figure:
    """Angles against flatness, and a map of the minimizers.

    Args:
        table: Columns ``algorithm, local energy, standard error, angle``, in the matrix's order.
        matrix: Distances between all minimizers.

    Returns:
        A figure with two panels.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8))
    places, _ = scaling(matrix)
    for algorithm in table["algorithm"].unique():
        color, _, mark = ALGORITHMS[algorithm]
        chosen = (table["algorithm"] == algorithm).to_numpy()
        part = table[chosen]
        left.errorbar(
            100 * part["local energy"], part["angle"], xerr=100 * part["standard error"], fmt=mark,
            color=color, ms=6, label=SHORT[algorithm],
        )  # fmt: skip
        right.plot(*places[chosen].T, mark, color=color, ms=7)
    left.set(xlabel="local energy (percentage points)", ylabel="mean angle to its own (radians)")
    right.set(xlabel="radians", ylabel="radians", aspect="equal")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=6)
    return figure


@_styled
def energies(curves: pd.DataFrame, noise: str = "noise (radians)") -> Figure:
    """Local energy against the size of the noise, a panel for each architecture.

    Args:
        curves: Columns ``arch, width, lr, batch_size, algorithm, seed, sigma, energy``.
        noise: What the abscissa says.

    Returns:
        A figure; lines are means over networks, bands their range.
    """
    archs = list(curves["arch"].unique())
    figure, axes = plt.subplots(1, len(archs), figsize=(1 + 4 * len(archs), 3.4), squeeze=False)
    for ax, arch in zip(axes[0], archs, strict=True):
        for algorithm, part in curves[curves["arch"] == arch].groupby("algorithm", sort=False):
            names = ["width", "lr", "batch_size", "seed"]
            runs = 100 * part.pivot(index=names, columns="sigma", values="energy")
            label, name = SHORT[str(algorithm)], str(algorithm)
            band(ax, runs.columns.to_numpy(), runs.to_numpy(), index=name, label=label)
        ax.set(title=arch, xlabel=noise, ylabel="local energy (percentage points)")
    axes[0, 0].legend()
    return figure


@_styled
def flatness(table: pd.DataFrame) -> Figure:
    """Test error against local energy: a mark for an algorithm, hollow for a second architecture.

    Args:
        table: Columns ``arch, algorithm, local energy, test_error``.

    Returns:
        A figure with one mark for each minimizer.
    """
    figure, ax = plt.subplots(figsize=(6.5, 4))
    fills = dict(zip(table["arch"].unique(), ("full", "none", "left", "right"), strict=False))
    for (arch, algorithm), part in table.groupby(["arch", "algorithm"], sort=False):
        label = SHORT[algorithm] + (f", {arch}" if len(fills) > 1 else "")
        color, _, mark = ALGORITHMS[algorithm]
        ax.plot(
            100 * part["local energy"], 100 * part["test_error"], mark, ms=6, alpha=0.8,
            fillstyle=fills[arch], color=color, label=label,
        )  # fmt: skip
    ax.set_xscale("symlog", linthresh=1, linscale=0.3)  # an energy can be 0
    ax.set_xticks([t for t in (0, 1, 2, 5, 10, 20, 50) if t <= ax.get_xlim()[1]])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="local energy (percentage points)", ylabel="test error (%)")
    ax.legend()
    return figure


@_styled
def forest(table: pd.DataFrame, *, label: str) -> Figure:
    """Estimates with their intervals, filled where the interval is on one side of 0.

    Args:
        table: Columns ``row, series, value, low, high``; rows are drawn from the top, the series of
            a row one below the other.
        label: What the estimates are called.

    Returns:
        A figure with a mark and a bar for each estimate that is a number.
    """
    rows, series = ([*table[column].unique()] for column in ("row", "series"))
    figure, ax = plt.subplots(figsize=(7.5, 0.9 + len(rows) * (0.2 + 0.13 * len(series))))
    ax.axvline(0, color="black", lw=0.8)
    for index, name in enumerate(series):
        color, mark = COLORS[index % len(COLORS)], "os^Dv"[index % 5]
        ax.plot([], [], mark, color=color, ms=5, label=name)
        for found in table[table["series"] == name].dropna().itertuples():
            y = rows.index(found.row) + 0.7 * ((index + 0.5) / len(series) - 0.5)
            face = color if found.low > 0 or found.high < 0 else "white"
            ax.plot([found.low, found.high], [y, y], color=color, lw=1.2)
            ax.plot(found.value, y, mark, color=color, mfc=face, ms=5)
    for y in range(1, len(rows)):
        ax.axhline(y - 0.5, color="0.9", lw=0.8, zorder=0)
    ax.set_yticks(range(len(rows)), rows)
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=label)
    ax.tick_params("y", length=0)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


@_styled
def bends(curves: pd.DataFrame, bound: float = 1e-3) -> Figure:
    """Error along segments and chains: rows are kinds of pairs, columns treatments.

    Args:
        curves: Columns ``kind, pair, weights, alignment, path, t, error``; of one split. The path
            is a ``"segment"``, a ``"chain"``, or another.
        bound: The error that a chain is to stay under: a dotted line, below which the axis is
            linear.

    Returns:
        A figure; lines are means over pairs, bands their range.
    """
    kinds = list(curves["kind"].unique())
    treatments = curves[["weights", "alignment"]].drop_duplicates().to_numpy().tolist()
    figure, axes = plt.subplots(
        len(kinds), len(treatments), figsize=(2.4 * len(treatments), 0.9 + 1.6 * len(kinds)),
        sharex=True, sharey=True, squeeze=False,
    )  # fmt: skip
    for row, kind in zip(axes, kinds, strict=True):
        for ax, (weights, alignment) in zip(row, treatments, strict=True):
            same = (curves["weights"] == weights) & (curves["alignment"] == alignment)
            others = [name for name in curves["path"].unique() if name not in ("segment", "chain")]
            for index, name in ((1, "segment"), (0, "chain"), *enumerate(others, 2)):
                part = curves[same & (curves["kind"] == kind) & (curves["path"] == name)]
                table = part.pivot(index="pair", columns="t", values="error")
                band(ax, table.columns.to_numpy(), 100 * table.to_numpy(), index=index, label=name)
        row[0].set_ylabel(f"{kind}\nerror (%)")
    for ax in axes.flat:
        ax.axhline(100 * bound, color="black", linestyle=":", linewidth=0.8)
    axes[0, 0].set_yscale("symlog", linthresh=100 * bound, linscale=0.5)  # shared by all
    axes[0, 0].set_ylim(0, 100)
    axes[0, 0].yaxis.set_major_formatter("{x:g}")
    for ax, treatment in zip(axes[0], treatments, strict=True):
        ax.set_title(",\n".join(treatment))
    for ax in axes[-1]:
        ax.set(xlabel="t", xticks=(0, 0.5, 1))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@_styled
def planes(maps: dict[str, Plane]) -> Figure:
    """Maps of the error on planes through two minimizers and a corner.

    Args:
        maps: By title; the corners are those of `toroid.plane` for two minimizers and a corner.

    Returns:
        A figure with one panel for each map, of one colour scale.
    """
    figure, axes = plt.subplots(len(maps), 1, figsize=(8, 0.5 + 2.3 * len(maps)), squeeze=False)
    levels = [0, 0.1, 0.3, 1, 3, 10, 30, 100]  # nearly logarithmic: the valleys are what counts
    for ax, (title, found) in zip(axes[:, 0], maps.items(), strict=True):
        norm = BoundaryNorm(levels, 256)
        shown = ax.pcolormesh(
            found.x, found.y, 100 * found.error, cmap="Blues", norm=norm, shading="nearest"
        )
        a, b, corner = found.corners
        ax.plot(*np.array([a, b]).T, "--", color="black")
        ax.plot(*np.array([a, corner, b]).T, "-", color="black")
        ax.plot(*np.array([a, b]).T, "o", color="black", mec="white", ms=8)
        ax.plot(*corner, "D", color="black", mec="white", ms=7)
        ax.set(title=title, xlabel="length", ylabel="length", aspect="equal")
    figure.colorbar(shown, ax=axes[:, 0], label="error (%)", ticks=levels, format="%.3g")
    return figure


@_styled
def agreement(
    table: pd.DataFrame, *, x: str | Sequence[str], y: str | Sequence[str],
    residuals: bool = False, log: str | Sequence[str] = "",
) -> Figure:  # fmt: skip
    """What was measured, as marks, on the curves of a formula, as lines.

    Args:
        table: Columns ``panel, series, x, measured, exact, standard_error``; a row may lack
            ``measured`` (it only draws the line) or ``exact`` (it only draws a mark).
        x: What the abscissa is; one for all panels or one for each.
        y: What is measured, likewise.
        residuals: Whether a second row shows the distances in standard errors, with a band of 4.
        log: Axes that are logarithmic, likewise: ``"x"``, ``"y"`` or ``"xy"``.

    Returns:
        A figure; error bars are two standard errors.
    """
    panels = list(table["panel"].unique())
    labels = [[w] * len(panels) if isinstance(w, str) else w for w in (x, y, log)]
    rows: dict[str, Any] = {"nrows": 2, "height_ratios": [2, 1]} if residuals else {"nrows": 1}
    size = (min(10, 1 + 3.4 * len(panels)), 3.4 + 1.2 * residuals)
    figure, axes = plt.subplots(
        ncols=len(panels), figsize=size, sharex="col", squeeze=False, **rows
    )
    series = list(table["series"].unique())
    for column, panel, below, beside, logs in zip(axes.T, panels, *labels, strict=True):
        for name, part in table[table["panel"] == panel].groupby("series", sort=False):
            _agree(column, part.sort_values("x"), series.index(name), str(name))
        column[0].set(title=panel, ylabel=beside)
        column[0].set(**{f"{axis}scale": "log" for axis in logs})
        column[-1].set_xlabel(below)
    if residuals:
        axes[1, 0].set_ylabel("standard errors")
    handles = {
        label: handle
        for ax in axes[0]
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=4)
    return figure


def _agree(axes: NDArray[Any], part: pd.DataFrame, index: int, label: str) -> None:
    """One series: above the line and the marks, below their distance."""
    color, mark = COLORS[index % len(COLORS)], "os^Dv"[index % 5]
    line, seen = part.dropna(subset="exact"), part.dropna(subset="measured")
    (drawn,) = axes[0].plot(line["x"], line["exact"], LINES[index % len(LINES)], color=color, lw=1)
    if seen.empty:
        drawn.set_label(label)
        return
    bars = 2 * seen["standard_error"].fillna(0)
    axes[0].errorbar(seen["x"], seen["measured"], bars, fmt=mark, ms=4, color=color, label=label)
    if len(axes) > 1:
        off = (seen["measured"] - seen["exact"]) / seen["standard_error"]
        axes[1].axhspan(-4, 4, color="0.93", zorder=0)
        axes[1].plot(seen["x"], off, mark, ms=3, color=color)
        axes[1].set_ylim(-5, 5)


@_styled
def repaired(*runs: tuple[str, pd.DataFrame, pd.DataFrame]) -> Figure:
    """Error along paths, as they are and repaired; and how much units vary half way.

    Args:
        *runs: Of each its label, the curves (columns ``path, repair, pair, t, error``) and the
            deviations (columns ``path, pair, layer, ratio``).

    Returns:
        A figure with a row for each run: a panel for each path and one of deviations; lines are
        means over pairs, bands their range.
    """
    columns = 1 + max(curves["path"].nunique() for _, curves, _ in runs)
    size = (2.4 * columns, 0.8 + 2.0 * len(runs))
    figure, axes = plt.subplots(len(runs), columns, figsize=size, squeeze=False)
    for row, (label, curves, deviations) in zip(axes, runs, strict=True):
        _repaired(row, curves, deviations)
        row[0].set_ylabel(f"{textwrap.fill(label, 20)}\nerror (%)".lstrip())
    titles = [*runs[0][1]["path"].unique(), "deviation half way"]
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    for ax, where in ((axes[0, 0], "upper"), (axes[0, -1], "lower")):
        lines, names = ax.get_legend_handles_labels()
        title = "right:" if where == "lower" else None
        figure.legend(lines, names, loc=f"outside {where} center", ncols=3, title=title)
    return figure


def _repaired(axes: Sequence[Axes], curves: pd.DataFrame, deviations: pd.DataFrame) -> None:
    """One run: the error along each path, and the deviations of each layer."""
    for ax, (_, along) in zip(axes, curves.groupby("path", sort=False), strict=False):
        ax.sharey(axes[0])
        for index, (how, part) in enumerate(along.groupby("repair")):
            table = part.pivot(index="pair", columns="t", values="error")
            band(ax, table.columns.to_numpy(), 100 * table.to_numpy(), index=index, label=str(how))
        ax.set_xlabel("t")
    for index, (name, part) in enumerate(deviations.groupby("path", sort=False)):
        table = part.pivot(index="pair", columns="layer", values="ratio")
        band(axes[-1], range(1, 1 + table.shape[1]), table.to_numpy(), index=index, label=str(name))
    axes[-1].set_xlabel("layer")
    axes[-1].xaxis.set_major_locator(MaxNLocator(5, integer=True))


@_styled
def dependence(table: pd.DataFrame, *, factor: str, label: str) -> Figure:
    """Mean barriers against the levels of a factor, with their intervals.

    Args:
        table: Columns `factor`, ``panel, line, split, value, low, high``.
        factor: Column of the abscissa; its levels stand at equal distances.
        label: What it is called.

    Returns:
        A figure with a row for each split and a column for each panel; bars are intervals.
    """
    splits, columns = list(table["split"].unique()), list(table["panel"].unique())
    figure, axes = plt.subplots(
        len(splits), len(columns), figsize=(1 + 2.7 * len(columns), 0.8 + 2.0 * len(splits)),
        sharex=True, sharey=True, squeeze=False,
    )  # fmt: skip
    for (split, panel), part in table.groupby(["split", "panel"], sort=False):
        _levels(axes[splits.index(split), columns.index(panel)], part, factor)
    for split, row in zip(splits, axes, strict=True):
        row[0].set_ylabel(f"{split} barrier\n(percentage points)")
    for panel, ax in zip(columns, axes[0], strict=True):
        ax.set_title(panel)
    for ax in axes[-1]:
        ax.set_xlabel(label)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@_styled
def dependences(runs: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure:
    """Mean barriers against the levels of every factor, of several runs.

    Args:
        runs: By what they are called; of each by its factor a table with the columns ``level, line,
            value, low, high``.

    Returns:
        A figure with a row for each factor and a column for each run; bars are intervals.
    """
    factors = list(next(iter(runs.values())))
    figure, axes = plt.subplots(
        len(factors), len(runs), figsize=(1 + 3.6 * len(runs), 0.8 + 1.8 * len(factors)),
        sharey=True, squeeze=False,
    )  # fmt: skip
    for (name, tables), column in zip(runs.items(), axes.T, strict=True):
        column[0].set_title(textwrap.fill(name, 32))
        for ax, (factor, table) in zip(column, tables.items(), strict=True):
            _levels(ax, table, "level")
            ax.set_xlabel(factor)
    figure.supylabel("barrier (percentage points)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _levels(ax: Axes, table: pd.DataFrame, factor: str) -> None:
    """A line of means with their intervals for each ``line``, its levels at equal distances."""
    levels, lines = sorted(table[factor].unique()), list(table["line"].unique())
    for index, (name, part) in enumerate(table.groupby("line", sort=False)):
        part = part.sort_values(factor)
        at = np.searchsorted(levels, part[factor]) + 0.06 * (index - (len(lines) - 1) / 2)
        bars = [part["value"] - part["low"], part["high"] - part["value"]]
        ax.errorbar(
            at, part["value"], bars, fmt="os^Dv"[index % 5], ls=LINES[index % len(LINES)], ms=4,
            lw=1.2, capsize=2, color=COLORS[index % len(COLORS)], label=name,
        )  # fmt: skip
    ax.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])


@_styled
def costs(table: pd.DataFrame) -> Figure:
    """Seconds of each step against what grows; both axes are logarithmic.

    Args:
        table: Columns ``grows, step, x, measured, exact``.

    Returns:
        A figure with a panel for each thing that grows: measured as marks, exact as a line.
    """
    names = list(table["grows"].unique())
    figure, axes = plt.subplots(1, len(names), figsize=(9, 3.8), sharey=True, squeeze=False)
    for ax, grows in zip(axes[0], names, strict=True):
        whole = table[table["grows"] == grows]
        for index, (step, part) in enumerate(whole.groupby("step", sort=False)):
            color = COLORS[index]
            ax.plot(part["x"], part["exact"], LINES[index % len(LINES)], color=color, lw=1)
            ax.plot(part["x"], part["measured"], "os^D"[index % 4], color=color, ms=5, label=step)
        ax.set(xlabel=grows, xscale="log", yscale="log")
        ticks = sorted(whole["x"].unique())
        ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
        ax.set_xticks([], minor=True)
    axes[0, 0].set_ylabel("seconds")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure
