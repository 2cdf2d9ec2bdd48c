"""What each page shows, in one sentence that its tables make."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pandas as pd

from ._binary import alignment_lowers, parts_of
from ._flatness import (
    Flatness,
    angle_column,
    by_arch,
    closeness,
    decay_closeness,
    decay_share,
)
from ._identities import library
from ._paths import (
    AFTER,
    BEFORE,
    PERMUTATIONS,
    SCALES,
    contrast,
    means,
    treated,
    under,
)
from ._runs import ALGORITHMS, DECAYED_PAIRS, SHORT, UNTRAINED, WITHIN, Run, above
from ._statistics import Networks, written


def shows(page: str, run: Run, clauses: int | None = None) -> str:
    """The sentence of a page: the direction, its size, and what it does not show.

    Args:
        page: Its name.
        run: Of that page; a table that it lacks makes the sentence shorter.
        clauses: How many of its clauses, from the first on; None for all.

    Raises:
        ValueError: If no sentence is made for such a page.
    """
    if page not in SENTENCES:
        raise ValueError(f"no sentence for the page {page!r}; there are {', '.join(SENTENCES)}")
    return "; ".join([clause for clause in SENTENCES[page](run) if clause][:clauses]) + "."


def work(run: Run) -> str:
    """Which symmetry does the work in a run of the page ``connectivity``.

    Args:
        run: Of it.
    """
    table = run["barriers"]
    train = table[table["split"] == "train"]
    left = _left(train, Networks(train))
    return _work(left) if left else "nothing can be said of the symmetries"


def _left(train: pd.DataFrame, networks: Networks) -> dict[str, float]:
    """What is left between flat minima under each treatment; nothing where one was not measured."""
    treatments = {
        "after": AFTER, "before": BEFORE, "permutations": PERMUTATIONS, "scales": SCALES
    }  # fmt: skip
    flat = {
        name: means(train, treatment, networks=networks) for name, treatment in treatments.items()
    }
    left = {name: found["RSGD"].value for name, found in flat.items() if "RSGD" in found}
    return left if len(left) == len(treatments) else {}


def _connectivity(run: Run) -> list[str]:
    table = run["barriers"]
    train = table[table["split"] == "train"]
    networks = Networks(train)
    left = _left(train, networks)
    if not left:
        return ["This run has no pairs of the flattest algorithm on every kind of path"]
    return [_ratios(train, networks), _work(left), _decayed(run, train, networks), _rest(left)]


def _ratios(train: pd.DataFrame, networks: Networks) -> str:
    """The direction and its size."""
    after, before = (contrast(train, t, networks=networks) for t in (AFTER, BEFORE))
    if after is None or before is None:
        return "This run has no sharp minima to compare with"
    return (
        f"With both symmetries removed the barrier between sharp minima is {after.ratio} times "
        f"that between flat ones, and {before.ratio} times as the networks were found"
    )


def _work(left: dict[str, float]) -> str:
    """Which symmetry does the work, by what is left between flat minima."""
    both, alone = left["after"], left["permutations"]
    sizes = (
        f"between flat minima {written(left['before'])} percentage points become {written(alone)} "
        f"with the permutations alone, {written(left['scales'])} with the scales alone, and "
        f"{written(both)} with both"
    )
    if both < 0.9 * alone:
        return f"the geodesic lowers barriers beyond the permutations ({sizes})"
    if alone < left["before"]:
        return f"the permutations do the work, and the geodesic does not lower barriers ({sizes})"
    return f"neither symmetry lowers barriers ({sizes})"


def _decayed(run: Run, train: pd.DataFrame, networks: Networks) -> str:
    """What weight decay does by itself, where it was measured, and which networks it lost."""
    left, lost = means(train, AFTER, networks=networks), len(run.unfit)
    if "SGD+" not in left:
        return ""
    told = f"SGD with RSGD's weight decay leaves {written(left['SGD+'].value)}"
    pairs = train.loc[train["kind"] == DECAYED_PAIRS, "pair"].nunique()
    told += " (one pair)" if pairs == 1 else ""
    if not lost:
        return told
    most = 100 * run.unfit["train_error"].max()
    return (
        f"{told} ({lost} of its networks left out with a training error of {most:.2f} %"
        f"{' at worst' * (lost > 1)})"
    )


def left_out(runs: Iterable[Run]) -> str:
    """The networks of SGD+ that are in no mean, as they miss the training error.

    Args:
        runs: Of any page.
    """
    found = [
        f"{run.label}, seed {row.seed} with {100 * row.train_error:.2f} %"
        for run in runs
        for row in run.unfit.itertuples()
    ]
    return "; ".join(found) or "none"


def _rest(left: dict[str, float]) -> str:
    """What it does not show."""
    if left["after"] >= 1:
        points = written(left["after"])
        return f"it does not show that flat minima are connected, as {points} points are left"
    return "it does not show why the sharp ones are apart"


def _distances(run: Run) -> list[str]:
    table = run["distances"]
    aligned = treated(table, {"alignment": "aligned"}, ("sequential", "normalised"))
    column = angle_column(table)
    if not (aligned["kind"] == UNTRAINED).any():
        angles = aligned.groupby("kind")[column].mean().reindex(WITHIN)
        return [
            "Aligned, "
            + ", ".join(f"{k} pairs are {m:.3f}" for k, m in zip(SHORT, angles, strict=True))
            + " radians apart; how far that is is not known without untrained pairs"
        ]
    close = closeness(aligned, column)
    listed = ", ".join(
        f"{k} pairs {100 * close[kind].value:.1f} %"
        for k, kind in zip(SHORT, WITHIN, strict=True)
        if kind in close
    )
    clauses = [f"Aligned, networks are closer than untrained ones: {listed}"]
    if "disagreement" in aligned and aligned["disagreement"].notna().any():
        shares = 100 * aligned.groupby("kind")["disagreement"].mean().reindex(WITHIN)
        differ = ", ".join(f"{s:.1f} % ({k})" for k, s in zip(SHORT, shares, strict=True) if s == s)
        clauses.append(f"they predict another class for {differ} of the test images")
    share = decay_closeness(close)
    if share is not None:
        clauses.append(
            f"SGD with RSGD's weight decay reaches {100 * close[DECAYED_PAIRS].value:.1f} %, "
            f"{share} of the way from SGD to RSGD"
        )
    clauses.append("an angle does not say what two networks have learnt alike")
    return clauses


def _bend(run: Run) -> list[str]:
    table = run["chains"]
    good = (table["chain, train"] < 1e-3).groupby(
        [table["weights"], table["alignment"]], sort=False
    )
    listed = ", ".join(f"{w} {a} {x.sum()} of {len(x)}" for (w, a), x in good)
    normal = table[(table["weights"] == "normalised") & (table["alignment"] == "aligned")]
    part = normal if len(normal) else table
    chain, straight = (100 * part[f"{way}, train"].median() for way in ("chain", "segment"))
    between = "between normalised and aligned networks " if len(normal) else ""
    return [
        f"With one trained bend {between}the largest training error on the way falls from "
        f"{written(straight)} % to {written(chain)} % in the median pair; chains that stay "
        f"below 0.1 % everywhere: {listed}",
        _aligned(table),
    ]


def _aligned(chains: pd.DataFrame) -> str:
    """Whether more chains succeed between aligned networks, and what that does not show."""
    share = (chains["chain, train"] < 1e-3).groupby(chains["alignment"]).mean()
    if not share.any():
        return "it does not show that there is no path, as a longer training may find one"
    if share.get("aligned", 0) > share.get("as found", 0):
        return (
            "more of them succeed between aligned networks, which does not show that the others "
            "cannot, as a longer training may find a way"
        )
    return (
        "it does not show that the symmetries matter here, as a bend is trained and finds its way"
    )


def _flatness(run: Run) -> list[str]:
    clauses: list[str] = []
    table = run["flatness"]
    archs = by_arch(table)
    parts = (part for _, part in table.groupby("arch", sort=False))
    for (arch, found), part in zip(archs.items(), parts, strict=True):
        start = f"{'in' if clauses else 'In'} {arch} " if len(archs) > 1 else ""
        clauses.append(
            f"{start}RSGD is flatter than SGD in {found.flat} pairs "
            f"and SGD than ADV in {found.sharp}, and flatness and test error go together with "
            f"τ = {found.tau}, without ADV {found.without}"
        )
        share = decay_share(part)
        if share.low <= 0 and share.high >= 1:
            clauses.append(
                "how much of the difference between RSGD and SGD is weight decay cannot be told "
                f"(a share of {share})"
            )
        elif share.value == share.value:
            clauses.append(
                f"of the difference between RSGD and SGD a share of {share} comes with RSGD's "
                "weight decay"
            )
    clauses.append("a correlation over few settings does not say that flatness is the cause")
    return clauses


def _minimizers(run: Run) -> list[str]:
    table = run["minimizers"]
    errors = table.groupby("algorithm", sort=False)["test_error"].mean()
    names = {**dict(zip(ALGORITHMS, SHORT, strict=True)), "sgd_decayed": "SGD with RSGD's decay"}
    listed = ", ".join(
        f"{100 * errors[a]:.1f} % ({name})" for a, name in names.items() if a in errors.index
    )
    lost = (table["failed"].fillna("") != "") | above(table)
    return [
        f"Test errors are {listed}; {lost.sum()} of {len(table)} networks failed in their training "
        f"or miss a training error of 0.5 %, and the largest is "
        f"{100 * table['train_error'].max():.2f} %",
        "test errors alone do not say which minima are flat",
    ]


def freely(run: Run) -> float:
    """What the geodesic gains half way, without data, in points of the test error.

    Args:
        run: Of the page ``merging``.
    """
    half = _half_way(run)
    return half["raw straight", "alone"] - half["geodesic", "alone"]


def _half_way(run: Run) -> pd.Series:
    """Test errors half way, in per cent, by path and repair."""
    middle = run["curves"][(run["curves"]["t"] - 0.5).abs() < 1e-9]
    return 100 * middle.groupby(["path", "repair"])["error"].mean()


def _merging(run: Run) -> list[str]:
    half, free, merged = _half_way(run), freely(run), run["merged"]
    lost = half["raw straight", "alone"]
    gain = lost - half["raw straight", "repair"]
    share = f", {100 * free / gain:.0f} % of that" if gain >= 0.1 and free > 0 else ""
    does = "gains" if free >= 0 else "loses"
    errors = 100 * merged[merged["trained on"] == "all images"].groupby("way")["error"].mean()
    one, ceiling = errors.pop("one of them"), errors.pop("ensemble of the outputs")
    return [
        f"Half way between two aligned networks {lost:.2f} % of the test images are wrong on "
        f"the raw straight line; repairing it with data gains {gain:.2f} points, and the "
        f"geodesic alone, without data, {does} {abs(free):.2f}{share}",
        f"the best mean of two networks ({errors.idxmin()}) errs on {written(errors.min())} %, one "
        f"of them on {written(one)} %, and both together, as an ensemble, on {written(ceiling)} %",
        "a few pairs do not say which mean is the best for other networks",
    ]


def _binary(run: Run) -> list[str]:
    table = run["barriers"]
    lowered, of = alignment_lowers(table[table["split"] == "train"])
    found, left = Flatness.of(run["flatness"]), parts_of(run)["C5"]
    told = left.evidence.rstrip(".")
    return [
        f"Alignment lowers the mean barrier of {lowered} of {of} kinds of pairs, RSGD is flatter "
        f"than SGD in {found.flat} pairs and SGD than ADV in {found.sharp}",
        f"{told[0].lower()}{told[1:]} (C5: {left.word})",
        "it says nothing of the geodesic, as binary networks have no scales",
    ]


def _classifiers(run: Run) -> list[str]:
    table = run["classifiers"]
    worst = table[["permuted", "rescaled", "normalised", "aligned"]].max().max()
    understood = (table["refused"].fillna("") == "").groupby(library(table), sort=False)
    counts = [
        f"{x.sum()} of {len(x)} network{'s' * (len(x) > 1)} of {name}" for name, x in understood
    ]
    return [
        f"{' and '.join(counts)} are understood, and their outputs change by "
        f"{worst:.0e} at most when units are exchanged and rescaled",
        "it does not show that there is no symmetry beside those in the table",
    ]


def _shallow(run: Run) -> list[str]:
    held = run["predictions"]["holds"]
    return [
        f"{held.sum()} of {len(held)} predictions of theory hold",
        "shallow models do not say what deep ones do",
    ]


SENTENCES: dict[str, Callable[[Run], list[str]]] = {
    "connectivity": _connectivity, "distances": _distances, "bend": _bend, "flatness": _flatness,
    "minimizers": _minimizers, "merging": _merging, "binary": _binary,
    "classifiers": _classifiers, "shallow": _shallow,
}  # fmt: skip


def barrier_table(barriers: pd.DataFrame, split: str) -> pd.DataFrame:
    """Barriers of each kind of pair (rows) on each kind of path (columns), the paper's matching.

    Args:
        barriers: As C2 takes them.
        split: ``"train"`` or ``"test"``.

    Returns:
        Mean over pairs and, in brackets, the least and the greatest, in percentage points.

    Example:
        >>> import pandas as pd
        >>> row = {"kind": "SGD-SGD", **BEFORE, "split": "train", "barrier": 0.02}
        >>> barrier_table(pd.DataFrame([row]), "train").iloc[0, 0]
        '2.00 (2.00 to 2.00)'
    """
    chosen = under(barriers[barriers["split"] == split])
    paths = chosen["weights"] + ", " + chosen["path"]
    table = chosen.assign(path=paths, barrier=100 * chosen["barrier"]).pivot_table(
        index=["alignment", "kind"], columns="path", values="barrier", aggfunc=_range
    )
    order = pd.MultiIndex.from_product([chosen["alignment"].unique(), chosen["kind"].unique()])
    return table.reindex(order, columns=paths.unique()).rename_axis(columns=f"{split} error")


def matching_table(barriers: pd.DataFrame, split: str) -> pd.DataFrame:
    """Barriers of pairs within each algorithm (columns) under every matching (rows).

    Args:
        barriers: As C2 takes them.
        split: ``"train"`` or ``"test"``.

    Returns:
        Mean over pairs and, in brackets, the least and the greatest, in percentage points; empty
        where a kind of pairs was not matched so.

    Example:
        >>> import pandas as pd
        >>> row = {"kind": "SGD-SGD", **AFTER, "split": "train", "barrier": 0.02}
        >>> row |= {"method": "activation", "matched": "values"}
        >>> matching_table(pd.DataFrame([row]), "train").iloc[0].tolist()
        ['2.00 (2.00 to 2.00)']
    """
    same = barriers["kind"].map(lambda kind: len({*kind.split("-")}) == 1)
    chosen = barriers[same & (barriers["split"] == split)]
    how = ["weights", "path", "method", "matched"]
    table = chosen.assign(barrier=100 * chosen["barrier"]).pivot_table(
        index=how, columns="kind", values="barrier", aggfunc=_range, sort=False
    )
    return table.fillna("").rename_axis(columns=f"{split} error")


def _range(values: pd.Series) -> str:
    return f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})"
