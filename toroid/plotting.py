"""The book's figures: one look, colours for colour-blind readers, lines that differ in grey."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._checks import State
from .symmetry import Symmetry

__all__ = ["COLORS", "band", "connectivity", "style", "symmetry_map"]

#: Okabe and Ito's palette (2008), without its yellow.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", "--", "-.", ":")


def style() -> AbstractContextManager:
    """Matplotlib settings of every figure: ``with plotting.style(): ...``.

    White behind the axes in light and dark pages, sizes in points that stay legible at page width.
    """
    return plt.rc_context(
        {
            "figure.dpi": 110, "figure.facecolor": "white", "axes.facecolor": "white",
            "font.size": 10,
            "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
            "axes.prop_cycle": plt.cycler(color=COLORS), "figure.constrained_layout.use": True,
        }
    )  # fmt: skip


def band(ax: Axes, x: Sequence[float], runs: np.ndarray, *, index: int, label: str) -> None:
    """A mean line with the range from the least to the greatest run around it.

    Args:
        ax: Where to draw.
        x: Abscissae (points,).
        runs: One row for each run (runs, points).
        index: Which colour and line style.
        label: For the legend.
    """
    color, line = COLORS[index], LINES[index % len(LINES)]
    ax.plot(x, runs.mean(0), line, color=color, label=label)
    ax.fill_between(x, runs.min(0), runs.max(0), color=color, alpha=0.18, linewidth=0)


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


def connectivity(curves: pd.DataFrame) -> Figure:
    """Error along the paths: one column for each kind of path, one row for each part of the data.

    Args:
        curves: Tidy, with the columns ``pair, weights, path, alignment, split, t, error``.

    Returns:
        A figure; lines are means over pairs, bands their range.
    """
    kinds = list(curves[["weights", "path"]].drop_duplicates().itertuples(index=False, name=None))
    splits = list(curves["split"].unique())
    figure, axes = plt.subplots(
        len(splits),
        len(kinds),
        figsize=(3 * len(kinds), 2.5 * len(splits)),
        sharex=True,
        sharey="row",
        squeeze=False,
    )
    for (row, split), (column, kind) in (
        (r, c) for r in enumerate(splits) for c in enumerate(kinds)
    ):
        ax = axes[row, column]
        chosen = curves[
            (curves["split"] == split)
            & (curves["weights"] == kind[0])
            & (curves["path"] == kind[1])
        ]
        for index, (label, part) in enumerate(chosen.groupby("alignment", sort=False)):
            table = part.pivot(index="pair", columns="t", values="error")
            band(
                ax, table.columns.to_numpy(), 100 * table.to_numpy(), index=index, label=str(label)
            )
        if row == 0:
            ax.set_title(f"{kind[0]}, {kind[1]}")
        if column == 0:
            ax.set_ylabel(f"{split} error (%)")
        if row == len(splits) - 1:
            ax.set_xlabel("t")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
