"""The claims about paths: C2, C5, and C6."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ...landscape import Curve
from ._runs import SHORT, WITHIN, Run, missing
from ._statistics import Estimate, Networks, Sample, networks_in, written
from ._words import NOT, PARTLY, REPRODUCED, Verdict, decide, undecided

BEFORE = {"weights": "raw", "path": "straight", "alignment": "as found"}
AFTER = {"weights": "normalised", "path": "geodesic", "alignment": "aligned"}
#: Each symmetry removed alone.
PERMUTATIONS = {"weights": "raw", "path": "straight", "alignment": "aligned"}
SCALES = {"weights": "normalised", "path": "geodesic", "alignment": "as found"}
#: The paper's matching: layer by layer, of the weights that the path goes through.
PAPERS = ("sequential", "own")


def barriers(curves: pd.DataFrame) -> pd.DataFrame:
    """The heights of curves of error and loss (see `toroid.Curve`).

    Args:
        curves: Columns ``t, error, loss``; the others say which curve a row belongs to.

    Returns:
        A row for each curve: the others, and ``barrier, over the worse end, loss barrier``.

    Example:
        >>> import pandas as pd
        >>> points = {"t": [0, 0.5, 1], "error": [0, 0.3, 0.2], "loss": [0, 1, 0], "pair": "0-1"}
        >>> barriers(pd.DataFrame(points)).round(2).values.tolist()
        [['0-1', 0.2, 0.1, 1.0]]
    """
    names, rows = [c for c in curves if c not in ("t", "error", "loss")], []
    for what, part in curves.groupby(names, sort=False, dropna=False):
        curve = Curve(*(part[column].to_numpy() for column in ("t", "error", "loss")))
        rows.append({
            **dict(zip(names, what, strict=True)), "barrier": curve.barrier,
            "over the worse end": curve.barrier_over_ends, "loss barrier": curve.loss_barrier,
        })  # fmt: skip
    return pd.DataFrame(rows)


def treated(
    table: pd.DataFrame, treatment: dict[str, str], matching: tuple[str, str] = PAPERS
) -> pd.DataFrame:
    """The rows of one treatment.

    Args:
        table: With the columns of the treatment, and ``method, matched``.
        treatment: Values of columns.
        matching: Where the treatment is aligned: method, and of which weights the permutation was
            found: ``"raw"``, ``"normalised"``, ``"values"`` (of the units), or ``"own"``: of the
            weights that the path goes through.
    """
    chosen = table[(table[list(treatment)] == pd.Series(treatment)).all(axis=1)]
    if treatment.get("alignment", "aligned") != "aligned" or "method" not in chosen:
        return chosen
    method, matched = matching
    of = chosen["weights"] if matched == "own" and "weights" in chosen else matched
    return chosen[(chosen["method"] == method) & (chosen["matched"] == of)]


def under(table: pd.DataFrame, matching: tuple[str, str] = PAPERS) -> pd.DataFrame:
    """The rows of networks as found, and of those aligned by one matching.

    Args:
        table: Columns ``alignment, method, matched``.
        matching: As `treated`.
    """
    rows = table["alignment"] == "as found"
    rows.loc[treated(table, {"alignment": "aligned"}, matching).index] = True
    return table[rows]


def matchings(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Every matching of a table, the paper's first: method, and of which weights."""
    if "method" not in table:
        return [PAPERS]
    found = table.loc[table["alignment"] == "aligned", ["method", "matched"]].drop_duplicates()
    own = [("sequential", "normalised"), ("sequential", "binary")]
    others = [pair for pair in found.itertuples(index=False, name=None) if pair not in own]
    return [PAPERS, *others]


def _train(run: Run) -> pd.DataFrame:
    table = run["barriers"]
    return table[table["split"] == "train"] if len(table) else table


def _pairs(table: pd.DataFrame) -> pd.DataFrame:
    """One barrier for each pair, in percentage points: the mean over orders of flips."""
    keys = ["kind", "first_seed", "second_seed"]
    return table.groupby(keys, as_index=False, sort=False)["barrier"].mean().assign(
        barrier=lambda x: 100 * x["barrier"]
    )  # fmt: skip


class Contrast(NamedTuple):
    """Barriers of sharp pairs against those of flat ones, under one treatment.

    Attributes:
        flat: Mean barrier of RSGD pairs, in percentage points.
        sharp: Of ADV pairs.
    """

    flat: Sample
    sharp: Sample

    @property
    def difference(self) -> Estimate:
        """Of the two, in percentage points."""
        return (self.sharp - self.flat).estimate

    @property
    def ratio(self) -> Estimate:
        """Sharp over flat."""
        return self.sharp.over(self.flat).estimate

    def amplified(self, before: Contrast) -> Estimate:
        """This ratio over that of another treatment."""
        return (self.sharp * before.flat).over(self.flat * before.sharp).estimate


def contrast(
    table: pd.DataFrame, treatment: dict[str, str], matching: tuple[str, str] = PAPERS,
    networks: Networks | None = None,
) -> Contrast | None:  # fmt: skip
    """The contrast of C2 under one treatment; None where the table lacks its pairs.

    Args:
        table: Barriers of one split.
        treatment: As `treated`.
        matching: As `treated`.
        networks: Draws to share with another treatment.
    """
    pairs = _pairs(treated(table, treatment, matching))
    parts = [pairs[pairs["kind"] == kind] for kind in (WITHIN[0], WITHIN[-1])]
    if any(part.empty for part in parts):
        return None
    drawn = networks or Networks(table)
    return Contrast(*(drawn.mean(part, part["barrier"]) for part in parts))


def contrasts(run: Run) -> pd.DataFrame:
    """Which symmetry does the work: the contrast of C2 on every kind of path and matching.

    Args:
        run: Of the page ``connectivity``.

    Returns:
        A row for each treatment: ``weights, path, alignment, method, matched``, the means ``RSGD``,
        ``SGD``, ``ADV`` and ``SGD+`` (SGD with the weight decay of RSGD) of the pairs that are
        there, and of RSGD and ADV the ``contrast``, in percentage points, and the ``ratio``.
    """
    table = _train(run)
    keys = ["weights", "path", "alignment", "method", "matched"]
    networks, rows = Networks(table), []
    for row in table[keys].drop_duplicates().itertuples(index=False, name=None):
        how = dict(zip(keys, row, strict=True)), (row[-2], row[-1]), networks
        if left := means(table, *how):
            found = contrast(table, *how)
            told = {"contrast": found.difference, "ratio": found.ratio} if found else {}
            rows.append(how[0] | left | told)
    return pd.DataFrame(rows)


def means(
    table: pd.DataFrame, treatment: dict[str, str], matching: tuple[str, str] = PAPERS,
    networks: Networks | None = None,
) -> dict[str, Estimate]:  # fmt: skip
    """The mean barrier within each algorithm under one treatment, in percentage points.

    Args:
        table: Barriers of one split.
        treatment: As `treated`.
        matching: As `treated`.
        networks: As `contrast`.

    Returns:
        By the algorithm's short name, of those that have pairs; ``SGD+`` is SGD with the weight
        decay of RSGD.
    """
    pairs = _pairs(treated(table, treatment, matching))
    drawn, found = networks or Networks(table), {}
    for name in (*SHORT, "SGD+"):
        part = pairs[pairs["kind"] == f"{name}-{name}"]
        if len(part):
            found[name] = drawn.mean(part, part["barrier"]).estimate
    return found


def ends(run: Run) -> pd.DataFrame:
    """Training barriers within each algorithm, before and after the symmetries are removed.

    Args:
        run: Of the page ``connectivity``.

    Returns:
        A row for each pair: ``algorithm`` (short), ``pair``, and in percentage points ``before``
        (raw, as found, straight) and ``after`` (normalised, aligned, geodesic).
    """
    table = _train(run)
    keys = ["kind", "first_seed", "second_seed"]
    before, after = (_pairs(treated(table, t)).set_index(keys)["barrier"] for t in (BEFORE, AFTER))
    both = pd.DataFrame({"before": before, "after": after}).reset_index()
    first, second = (both["kind"].str.split("-").str[i] for i in (0, 1))
    both["pair"] = both["first_seed"].astype(str) + "-" + both["second_seed"].astype(str)
    both["algorithm"] = first
    return both.loc[first == second, ["algorithm", "pair", "before", "after"]]


def gains(run: Run) -> pd.DataFrame:
    """What the geodesic adds to a permutation: both paths, with one and the same permutation.

    Args:
        run: Of the page ``connectivity``.

    Returns:
        A row for each algorithm and permutation, ``pairs, method, matched``, the mean barriers
        ``straight`` (raw) and ``geodesic``, and ``gain``, their difference, in percentage points.
    """
    table = _train(run)
    same = table[(table["alignment"] == "aligned") & table["kind"].isin(WITHIN)]
    keys = ["kind", "method", "matched"]
    straight, geodesic = (
        100
        * same[(same["weights"] == weights) & (same["path"] == path)]
        .groupby(keys)["barrier"]
        .mean()
        for weights, path in (("raw", "straight"), ("normalised", "geodesic"))
    )
    both = pd.DataFrame({"straight": straight, "geodesic": geodesic}).dropna()
    both["gain"] = both["straight"] - both["geodesic"]
    return both.reset_index().rename(columns={"kind": "pairs"})


def c2(run: Run, matching: tuple[str, str] = PAPERS) -> Verdict:
    """Barriers tell flat minima from sharp ones only after the symmetries are removed.

    The test: contrast is the mean training barrier of ADV pairs minus that of RSGD pairs, ratio the
    one over the other. Reproduced: after (normalised, aligned, geodesic) the interval of the
    contrast is above 0 and the ratio above 2, and before (raw, as found, straight) the interval of
    the contrast contains 0 or the ratio is below 1.25. Partly reproduced: after as above, and the
    ratio after over the ratio before is above 1 with its whole interval: amplified, but visible
    before.

    Known then: the kept runs on MNIST and on 2,000 images of CIFAR-10. No run on all of CIFAR-10.

    Args:
        run: Of the page ``connectivity``.
        matching: As in `treated`.
    """
    return c2_of(run, _train(run), BEFORE, AFTER, (PERMUTATIONS, SCALES), matching)


def c2_of(
    run: Run, table: pd.DataFrame, before: dict[str, str], after: dict[str, str],
    alone: tuple[dict[str, str], ...] = (), matching: tuple[str, str] = PAPERS,
) -> Verdict:  # fmt: skip
    """C2 of any table of barriers, with its own names of treatments; see `c2`."""
    if table.empty:
        return undecided("barriers (not kept)")
    networks = Networks(table)
    last, first = (contrast(table, t, matching, networks) for t in (after, before))
    chosen = treated(table, after, matching)
    lacking = missing(run, chosen, paths=True)
    if last is None or first is None:
        return undecided(*(lacking or ("barriers before and after",)))
    seen = not first.difference.low <= 0 <= first.difference.high and first.ratio.value >= 1.25
    told = last.difference.positive and last.ratio.value > 2
    grown = last.amplified(first)
    word = NOT if not told else PARTLY if grown.low > 1 else NOT
    word = REPRODUCED if told and not seen else word
    parts = {
        "after": f"ratio {last.ratio}", "before": f"ratio {first.ratio}",
        "contrast after (points)": str(last.difference),
        "contrast before (points)": str(first.difference),
        "ratio after over ratio before": str(grown),
    }  # fmt: skip
    for name, treatment in zip(("permutations alone", "scales alone"), alone, strict=False):
        one = contrast(table, treatment, matching, networks)
        if one is not None:
            parts[name] = f"ratio {one.ratio}, contrast {one.difference}"
    ends = chosen[chosen["kind"].isin((WITHIN[0], WITHIN[-1]))]
    evidence = (
        f"Barriers between sharp minima are {written(last.ratio.value)} times those between flat "
        f"ones after the symmetries are removed, and {written(first.ratio.value)} times before."
    )
    return decide(
        word, evidence, lacking, label="ratio of barriers, sharp over flat, after",
        number=last.ratio, bound=2.0, parts=parts,
        networks=networks_in(ends), pairs=len(_pairs(ends)),
    )  # fmt: skip


def c5(run: Run, matching: tuple[str, str] = PAPERS) -> Verdict:
    """Barriers along the geodesics between flat minima are small.

    The test: training barriers of RSGD pairs, aligned and on the geodesic. Reproduced: every one is
    below 1 percentage point. Partly reproduced: their mean is below 5 points and below a fifth of
    the raw one as found; or every one is below 1 point with one of the other matchings, and it is
    said with which. Else not.

    Known then: the kept runs, in which activations left less of the test barriers than the paper's
    matching; training barriers under activations had not been kept.

    Args:
        run: Of the page ``connectivity``.
        matching: As in `treated`; the others are looked at for the paper's only.
    """
    return c5_of(run, _train(run), BEFORE, AFTER, matching)


def c5_of(
    run: Run, table: pd.DataFrame, before: dict[str, str], after: dict[str, str],
    matching: tuple[str, str] = PAPERS,
) -> Verdict:  # fmt: skip
    """C5 of any table of barriers, with its own names of treatments; see `c5`."""
    if table.empty:
        return undecided("barriers (not kept)")

    def flat(treatment: dict[str, str], matching: tuple[str, str]) -> pd.DataFrame:
        pairs = _pairs(treated(table, treatment, matching))
        return pairs[pairs["kind"] == WITHIN[0]]

    left, raw = flat(after, matching), flat(before, matching)
    lacking = missing(run, treated(table, after, matching), paths=True)
    if left.empty or raw.empty:
        return undecided(*(lacking or (f"{WITHIN[0]} pairs before and after",)))
    ways = matchings(table)[1:] if matching == PAPERS else []
    small = [w for w in ways if len(x := flat(after, w)) and x["barrier"].max() < 1]
    mean, worst = left["barrier"].mean(), left["barrier"].max()
    if worst < 1:
        word = REPRODUCED
    else:
        word = PARTLY if small or (mean < 5 and mean < raw["barrier"].mean() / 5) else NOT
    drawn = Networks(table)
    number = drawn.mean(left, left["barrier"]).estimate
    evidence = (
        f"Between flat minima a barrier of {written(mean)} percentage points is left on average, "
        f"{written(worst)} at worst, of {written(raw['barrier'].mean())} before"
        + (f"; below 1 with {' and '.join(map(said, small))}." if small and worst >= 1 else ".")
    )
    parts = {
        "the paper's matching" if w == PAPERS else said(w): written_mean(drawn, flat(after, w))
        for w in (matching, *ways)
        if len(flat(after, w))
    }
    return decide(
        word, evidence, lacking, label="mean barrier of flat pairs, points",
        number=number, bound=1.0, networks=networks_in(left), pairs=len(left), parts=parts,
    )  # fmt: skip


def said(matching: tuple[str, str]) -> str:
    """A matching in words."""
    method, matched = matching
    where = {"own": "", "values": ""}.get(matched, f" of {matched} weights")
    return f"{method} matching{where}"


def written_mean(networks: Networks, pairs: pd.DataFrame) -> str:
    """Mean barrier with its interval, and the largest."""
    mean = networks.mean(pairs, pairs["barrier"]).estimate
    return f"{mean}, at most {written(pairs['barrier'].max())}"


def c6(run: Run, weights: str = "normalised", alignment: str = "aligned") -> Verdict:
    """Minimizers are joined by two segments with a single bend, at zero error.

    The test: one verdict for each treatment (raw or normalised, as found or aligned); the claim's
    is that of normalised and aligned networks, whose bend was trained until its loss no longer
    fell or the chain had succeeded. Reproduced: the training error is below 0.1 % everywhere on
    every chain. Partly reproduced: in the median chain. A chain whose ends are above 0.1 % does not
    count.

    Known then: kept runs of one or two seeds, in which on MNIST six of six normalised and aligned
    chains succeeded, and on CIFAR-10 training had been cut off while the loss still fell.

    Args:
        run: Of the page ``bend``.
        weights: ``"raw"`` or ``"normalised"``.
        alignment: ``"as found"`` or ``"aligned"``.
    """
    return c6_of(run, {"weights": weights, "alignment": alignment})


def c6_of(run: Run, treatment: dict[str, str]) -> Verdict:
    """C6 of any table of chains, with its own names of treatments; see `c6`."""
    table = run["chains"]
    if table.empty:
        return undecided("chains (not kept)")
    same = table[(table[list(treatment)] == pd.Series(treatment)).all(axis=1)]
    counted = same[same["ends, train"] <= 1e-3]
    lacking = list(missing(run, counted, paths=True))
    if counted.empty:
        return undecided(*lacking)
    worst = 100 * counted["chain, train"]
    good = worst < 0.1
    if "converged" not in counted and not good.all():
        lacking.append("whether the loss of a chain still fell when its training ended (not kept)")
    elif len(going := counted[~good & ~counted.get("converged", good).astype(bool)]):
        lacking.append(
            f"bends whose loss no longer falls ({len(going)} of {len(counted)} still do)"
        )
    word = REPRODUCED if good.all() else PARTLY if worst.median() < 0.1 else NOT
    number = median(counted, worst)
    long = _epochs(counted)
    evidence = (
        f"{good.sum()} of {len(counted)} chains have a training error below 0.1 % everywhere; the "
        f"largest along a chain is {written(worst.median())} % in the median and "
        f"{written(worst.max())} % at worst{long}."
    )
    parts = {"chains that succeed": f"{good.sum()} of {len(counted)}"}
    if len(same) > len(counted):
        parts["ends above 0.1 %, not counted"] = f"{len(same) - len(counted)} of {len(same)}"
    return decide(
        word, evidence, tuple(lacking), label="median of the largest error along a chain, %",
        number=number, bound=0.1, networks=networks_in(counted), pairs=len(counted), parts=parts,
    )  # fmt: skip


def _epochs(chains: pd.DataFrame) -> str:
    if "trained" not in chains:
        return ""
    low, high = int(chains["trained"].min()), int(chains["trained"].max())
    return f"; they were trained for {low}" + (f" to {high}" if high > low else "") + " epochs"


def median(pairs: pd.DataFrame, values: pd.Series) -> Estimate:
    """The median over pairs, with its interval over networks."""
    networks = Networks(pairs)
    drawn = np.array([
        networks.mean(pairs, values <= bound).draws for bound in np.unique(values)
    ])  # (values, draws): share of the pairs at most each value  # fmt: skip
    known = ~np.isnan(drawn).any(0)
    place = (drawn[:, known] < 0.5).sum(0)
    return Sample(float(values.median()), np.unique(values)[place]).estimate


def by_treatment(run: Run) -> dict[str, Verdict]:
    """C6 for each treatment of a run, and the one of the claim last.

    Args:
        run: Of the page ``bend``.
    """
    kinds: list[tuple[Any, Any]] = [
        (w, a) for w in ("raw", "normalised") for a in ("as found", "aligned")
    ]
    return {f"{w}, {a}": c6(run, w, a) for w, a in kinds}
