"""What must hold if the code is right (C1, C8), and agreement with theory (C9)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ._runs import Run
from ._statistics import written
from ._words import NOT, PARTLY, REPRODUCED, Verdict, decide, undecided

CHANGES = ["permuted", "rescaled", "normalised", "aligned"]


def c1(run: Run) -> Verdict:
    """Rescaling and permutation can be removed without changing the classifier.

    The test: in float64 the outputs of every network's permuted, rescaled, normalised and aligned
    copy are within 1e-8, relative; and a planted element of the group is undone: all units are
    found, and the copy is less than 1e-6 from the original on the torus; and of the hidden units
    that belong to no group it is said how many there are and why. Removed is what was removed: what
    stays (signs before BatchNorm, turns of queries and keys) is listed with each network.

    Known then: all of torchvision's networks at 64 pixels, where the largest change was 2e-9.

    Args:
        run: Of the page ``classifiers``.
    """
    table = run["classifiers"]
    if table.empty:
        return undecided("a table of networks (not kept)")
    table = table.reindex(columns=list(dict.fromkeys([*table, *CHANGES, "apart", "refused"])))
    changes = table[CHANGES].max(axis=1)
    understood = table["refused"].fillna("") == ""
    lacking = []
    undone = table["apart"] < 1e-6
    unplanted = table["apart"].isna() & understood
    if unplanted.any():
        lacking.append(
            f"a planted element undone in every network ({unplanted.sum()} of {len(table)} were "
            "not aligned)"
        )
    if "found" in table:
        undone &= table["found"] == 1
    else:
        lacking.append("the share of planted units that were found (not kept)")
    parts = {"networks understood": f"{understood.sum()} of {len(table)}",
             "planted elements undone": f"{undone.sum()} of {(~unplanted).sum()}"}  # fmt: skip
    if "hidden" in table:
        share = table["units"] / table["hidden"]
        parts["hidden units in a group"] = f"{100 * share.min():.0f} % at least, " + (
            f"{100 * table['units'].sum() / table['hidden'].sum():.1f} % of all"
        )
        unsaid = (table["units"] < table["hidden"]) & (table["why"].fillna("") == "")
        if unsaid.any():
            lacking.append(f"why units belong to no group, in {unsaid.sum()} networks")
    else:
        lacking.append("the share of hidden units that belong to a group (not kept)")
    counts = library(table).value_counts().drop("torchvision", errors="ignore")
    if others := " and ".join(f"{count} are of {name}" for name, count in counts.items()):
        lacking.append(f"that it is of torchvision's alone ({others})")
    good = understood & (changes < 1e-8) & (undone | unplanted)
    word = REPRODUCED if good.all() else NOT
    evidence = (
        f"The outputs of {understood.sum()} of {len(table)} networks change by {changes.max():.0e} "
        f"at most; a planted element is undone in {undone.sum()} of {(~unplanted).sum()}."
    )
    return decide(
        word, evidence, tuple(lacking), label="largest relative change of an output",
        number=float(changes.max()), bound=1e-8, networks=len(table), parts=parts,
    )  # fmt: skip


def library(table: pd.DataFrame) -> pd.Series:
    """Where each network of a table is from: its name begins with it, unless it is torchvision."""
    return table["network"].astype(str).str.extract(r"^(\w+)/")[0].fillna("torchvision")


def c8(run: Run) -> Verdict:
    """Normalisation changes the loss by a temperature, and the error not at all.

    The test: the errors of a network and of its normal form differ by less than a tenth of a
    percentage point, and the loss of the normal form, with its outputs multiplied by one number, is
    that of the network to a thousandth of itself; in every minimizer.

    Known then: all kept runs, in which it holds.

    Args:
        run: Of the page ``connectivity``.
    """
    table = run["temperatures"]
    if table.empty:
        return undecided("losses of networks and their normal forms (not kept)")
    gaps = (table["error, raw"] - table["error, normalised"]).abs()
    left = (table["loss, raw"] - table["loss, restored"]).abs() / table["loss, raw"]
    ratio = table["loss, normalised"] / table["loss, raw"]
    good = (gaps < 1e-3) & (left <= 1e-3)
    evidence = (
        f"The errors of {len(table)} networks change by {100 * gaps.max():.2g} percentage points "
        f"at most; their losses are multiplied by {_number(ratio.min())} to "
        f"{_number(ratio.max())}, and one number for each network restores them to "
        f"{left.max():.0e} of themselves."
    )
    return decide(
        REPRODUCED if good.all() else NOT, evidence, (), networks=len(table),
        label="largest relative error of a restored loss", number=float(left.max()), bound=1e-3,
    )  # fmt: skip


def _number(value: float) -> str:
    """Two digits, or all before the point."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def c9(run: Run) -> Verdict:
    """What is measured agrees with what is known analytically of simple shallow models.

    The test: every point of the curves that are exact at finite size is within 4 standard errors of
    its formula, and every prediction holds by the bound that stands beside it on the page; a point
    whose standard error is above 10 % of its value counts for nothing, here and in the predictions
    that are distances from theory. Partly reproduced: every
    point is, and more than half of the predictions hold.

    Known then: the kept run, in which it holds with the noisy points counted.

    Args:
        run: Of the page ``shallow``.
    """
    points, predictions = run["points"], run["predictions"]
    if points.empty or predictions.empty:
        return undecided("points or predictions (not kept)")
    counted = points[~noisy(points)]
    others = [run[name] for name in ("overlaps", "negative") if len(run[name])]
    left_out = sum(noisy(t).sum() for t in others)
    off = (counted["measured"] - counted["exact"]).abs()
    with np.errstate(invalid="ignore", divide="ignore"):
        off = (off / counted["standard_error"]).where(off > 0, 0.0)
    if counted.empty:
        return undecided("points with a standard error of at most a tenth of their value")
    held, failed = int(predictions["holds"].sum()), predictions.loc[~predictions["holds"], "name"]
    word = (
        REPRODUCED if held == len(predictions) else PARTLY if 2 * held > len(predictions) else NOT
    )
    evidence = (
        f"Of {len(points)} points of exact curves {len(counted)} count, and the farthest is "
        f"{written(float(off.max()))} standard errors away; of those held to theory "
        f"{left_out} are too noisy to count; {held} of {len(predictions)} "
        "predictions hold" + (f", not: {', '.join(failed)}." if len(failed) else ".")
    )
    parts = {"points that count": f"{len(counted)} of {len(points)}",
             "predictions that hold": f"{held} of {len(predictions)}"}  # fmt: skip
    return decide(
        word if off.max() <= 4 else NOT, evidence, (), label="farthest point, standard errors",
        number=float(off.max()), bound=4.0, parts=parts,
    )  # fmt: skip


def noisy(points: pd.DataFrame) -> pd.Series:
    """Which points of a table of agreement have a standard error above a tenth of their value."""
    return points["standard_error"] > 0.1 * points["measured"].abs()
