"""The tests that decide the paper's claims.

A test takes the tables that a page writes; the same test decides for a quick run and a kept one.
Each was written down before its numbers were looked at, but for three: C1, whose bound was set when
the numbers of torchvision's networks were known; C3 on the digits, whose size of the noise was
chosen on them; C8, whose bounds were rounded when it came here from a page.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, spearmanr

from ..landscape import Curve

__all__ = [
    "CLAIMS", "Claim", "Estimate", "Verdict", "barrier_table", "barriers", "c1", "c2", "c3", "c4",
    "c5", "c6", "c7", "c8", "c9", "correlation", "orders",
    "without_adv",
]  # fmt: skip

#: Pairs within an algorithm, from the flattest minima to the sharpest.
WITHIN = ("RSGD-RSGD", "SGD-SGD", "ADV-ADV")
ALGORITHMS = ("replicated_sgd", "sgd", "adversarial")
BEFORE = {"weights": "raw", "path": "straight", "alignment": "as found", "split": "train"}
AFTER = {"weights": "normalised", "path": "geodesic", "alignment": "aligned", "split": "train"}
BINARY = {"weights": "binary", "path": "random order", "split": "train"}


class Verdict(NamedTuple):
    """What a claim comes to.

    Attributes:
        word: ``"reproduced"``, ``"partly reproduced"``, ``"not reproduced"`` or ``"not decided"``.
        evidence: The numbers, in a sentence.
    """

    word: str
    evidence: str


class Claim(NamedTuple):
    """A claim of the paper, and how it is decided.

    Attributes:
        statement: In our words.
        page: The notebook that measures it.
        tables: Those of that notebook that the test takes.
        test: From the tables to a verdict; its docstring says what is asked for.
    """

    statement: str
    page: str
    tables: tuple[str, ...]
    test: Callable[..., Verdict]

    @property
    def asked(self) -> str:
        """The paragraph of the test's docstring that says what is asked for."""
        paragraphs = (inspect.getdoc(self.test) or "").split("\n\n")
        (found,) = (p for p in paragraphs if p.startswith("The test: "))
        return " ".join(found.removeprefix("The test: ").split())


def _barriers(table: pd.DataFrame, treatment: dict[str, str], kind: str) -> pd.Series:
    """Barriers of the pairs of one kind, in percentage points."""
    same = (table[list(treatment)] == pd.Series(treatment)).all(axis=1)
    return 100 * table.loc[same & (table["kind"] == kind), "barrier"]


def _range(values: pd.Series) -> str:
    return f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})"


def _ascend(values: list[pd.Series]) -> bool:
    """The means ascend, and the ranges of the first and the last do not overlap."""
    means = [v.mean() for v in values]
    return means == sorted(means) and values[0].max() < values[-1].min()


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
    for what, part in curves.groupby(names, sort=False):
        curve = Curve(*(part[column].to_numpy() for column in ("t", "error", "loss")))
        rows.append({
            **dict(zip(names, what, strict=True)), "barrier": curve.barrier,
            "over the worse end": curve.barrier_over_ends, "loss barrier": curve.loss_barrier,
        })  # fmt: skip
    return pd.DataFrame(rows)


def barrier_table(barriers: pd.DataFrame, split: str) -> pd.DataFrame:
    """Barriers of each kind of pair (rows) on each kind of path (columns).

    Args:
        barriers: As `c2`.
        split: ``"train"`` or ``"test"``.

    Returns:
        Mean over pairs and, in brackets, the least and the greatest, in percentage points.

    Example:
        >>> import pandas as pd
        >>> row = {"kind": "SGD-SGD", **BEFORE, "barrier": 0.02}
        >>> barrier_table(pd.DataFrame([row]), "train").iloc[0, 0]
        '2.00 (2.00 to 2.00)'
    """
    chosen = barriers[barriers["split"] == split]
    paths = chosen["weights"] + ", " + chosen["path"]
    table = chosen.assign(path=paths, barrier=100 * chosen["barrier"]).pivot_table(
        index=["alignment", "kind"], columns="path", values="barrier", aggfunc=_range
    )
    order = pd.MultiIndex.from_product([chosen["alignment"].unique(), chosen["kind"].unique()])
    return table.reindex(order, columns=paths.unique()).rename_axis(columns=f"{split} error")


def orders(barriers: pd.DataFrame) -> pd.DataFrame:
    """On which paths barriers tell flat minima from sharp ones: each symmetry's part in C2.

    Args:
        barriers: As `c2`.

    Returns:
        A row for each kind of path, a column for each alignment: ``"yes"`` where the mean training
        barriers of RSGD, SGD and ADV pairs ascend and those of RSGD and ADV pairs do not overlap.

    Example:
        >>> import pandas as pd
        >>> rows = [{"kind": k, **AFTER, "barrier": b} for k, b in zip(WITHIN, (1, 2, 3))]
        >>> orders(pd.DataFrame(rows)).loc["normalised, geodesic", "aligned"]
        'yes'
    """
    found = []
    for treatment in (
        barriers[["weights", "path", "alignment"]].drop_duplicates().to_dict("records")
    ):
        heights = [_barriers(barriers, {**treatment, "split": "train"}, kind) for kind in WITHIN]
        path = f"{treatment['weights']}, {treatment['path']}"
        tells = all(map(len, heights)) and _ascend(heights)
        found.append({**treatment, "path": path, "tells": "yes" if tells else "no"})
    table = pd.DataFrame(found)
    wide = table.pivot(index="path", columns="alignment", values="tells")
    return wide.loc[table["path"].unique(), table["alignment"].unique()]


def c1(classifiers: pd.DataFrame) -> Verdict:
    """Rescaling and permutation can be removed without changing the classifier.

    The test: the symmetries of every network are understood, and in float64 its outputs with random
    weights, permuted, rescaled, normalised and aligned, differ from what they were by less than
    1e-8 relative (the deepest networks round to 1e-9). Partly reproduced: so for nine in ten.

    Args:
        classifiers: Columns ``network, refused, permuted, rescaled, normalised, aligned``; refused
            says why, or is empty.

    Example:
        >>> import pandas as pd
        >>> row = {"network": "lenet", "refused": "", "permuted": 1e-15, "rescaled": 1e-15}
        >>> c1(pd.DataFrame([{**row, "normalised": 1e-15, "aligned": 1e-15}])).word
        'reproduced'
    """
    changes = classifiers[["permuted", "rescaled", "normalised", "aligned"]].max(axis=1)
    understood = classifiers["refused"].fillna("") == ""
    good = int((understood & (changes < 1e-8)).sum())
    evidence = (
        f"{int(understood.sum())} of {len(classifiers)} networks are understood; the outputs "
        f"change by {changes.median():.1e} in the median and {changes.max():.1e} at most."
    )
    if good == len(classifiers) > 0:
        return Verdict("reproduced", evidence)
    most = 10 * good >= 9 * len(classifiers) > 0
    return Verdict("partly reproduced" if most else "not reproduced", evidence)


def c2(barriers: pd.DataFrame) -> Verdict:
    """Barriers tell flat minima from sharp ones only after the symmetries are removed.

    The test: on the geodesic between aligned networks the mean training barriers of RSGD, SGD and
    ADV pairs ascend, and those of RSGD and ADV pairs do not overlap; on the raw straight line as
    found that fails. Partly reproduced: it holds on both.

    Args:
        barriers: Columns ``kind, weights, path, alignment, split, barrier``.

    Example:
        >>> import pandas as pd
        >>> heights = zip(WITHIN, (1, 2, 3), (9, 9, 9))
        >>> rows = [{"kind": k, **t, "barrier": b} for k, *bs in heights
        ...         for t, b in zip((AFTER, BEFORE), bs)]
        >>> c2(pd.DataFrame(rows)).word
        'reproduced'
    """
    after, before = ([_barriers(barriers, t, kind) for kind in WITHIN] for t in (AFTER, BEFORE))
    if any(len(values) == 0 for values in (*after, *before)):
        return Verdict("not decided", f"This run has not all of {', '.join(WITHIN)}.")
    told = orders(barriers).stack()
    paths = "; ".join(f"{path}, {alignment}" for path, alignment in told[told == "yes"].index)
    listed = [
        ", ".join(f"{kind} {_range(v)}" for kind, v in zip(WITHIN, values, strict=True))
        for values in (after, before)
    ]
    evidence = (
        f"Barriers of the training error, aligned and on the geodesic, in percentage points: "
        f"{listed[0]}; as found and on the raw straight line: {listed[1]}. Paths whose "
        f"barriers tell flat minima from sharp ones: {paths or 'none'}."
    )
    if not _ascend(after):
        return Verdict("not reproduced", evidence)
    return Verdict("partly reproduced" if _ascend(before) else "reproduced", evidence)


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """As pages print it."""
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def correlation(x: pd.Series, y: pd.Series, *, resamples: int = 1000) -> dict[str, Estimate]:
    """Rank correlations, with percentile bootstrap intervals.

    Args:
        x: One number for each minimizer.
        y: Another.
        resamples: Of the bootstrap; their draws are the same in every call.

    Returns:
        ``"tau"``, Kendall's, and ``"rho"``, Spearman's; not numbers where fewer than three
        minimizers or equal values leave them undefined.

    Example:
        >>> import pandas as pd
        >>> correlation(pd.Series([1, 2, 3, 4]), pd.Series([1, 3, 5, 9]))["tau"].value
        1.0
    """
    pairs = x.to_numpy(float), y.to_numpy(float)
    if len(x) < 3 or min(len(np.unique(v)) for v in pairs) < 2:
        return dict.fromkeys(("tau", "rho"), Estimate(np.nan, np.nan, np.nan))
    found = {}
    draws = np.random.default_rng(0).integers(len(x), size=(resamples, len(x)))
    varied = [d for d in draws if min(len(np.unique(v[d])) for v in pairs) > 1]
    for name, rank in (("tau", kendalltau), ("rho", spearmanr)):
        values = [rank(pairs[0][d], pairs[1][d])[0] for d in varied]
        low, high = np.percentile(values, [2.5, 97.5])
        found[name] = Estimate(float(rank(*pairs)[0]), float(low), float(high))
    return found


def without_adv(table: pd.DataFrame) -> Estimate:
    """Kendall's τ of C3 without the sharpest algorithm: not only that of groups far apart.

    Args:
        table: As `c3`.

    Example:
        >>> import pandas as pd
        >>> flat = {"algorithm": "sgd", "local energy": [1, 2, 3], "test_error": [1, 2, 3]}
        >>> without_adv(pd.DataFrame(flat)).value
        1.0
    """
    rest = table[table["algorithm"] != ALGORITHMS[-1]]
    return correlation(rest["local energy"], rest["test_error"])["tau"]


def c3(table: pd.DataFrame) -> Verdict:
    """RSGD, SGD and ADV minima are ordered in flatness, and flatness predicts the test error.

    The test: in every architecture the mean local energies of RSGD, SGD and ADV ascend, and that of
    RSGD is below that of ADV in nine of ten pairs of one setting and seed (the order); and
    Kendall's τ between local energy and test error is positive with its 95 % bootstrap interval
    (the prediction). Partly reproduced: one of the two.

    Args:
        table: Columns ``arch, width, lr, batch_size, seed, algorithm, local energy, test_error``.

    Example:
        >>> import pandas as pd
        >>> names = ["replicated_sgd", "sgd", "adversarial"]
        >>> rows = [{"arch": "mlp", "width": 1, "lr": 1, "batch_size": 1, "seed": seed,
        ...          "algorithm": name, "local energy": place, "test_error": place + 0.1 * seed}
        ...         for seed in range(3) for place, name in enumerate(names)]
        >>> c3(pd.DataFrame(rows)).word
        'reproduced'
    """
    setting = ["width", "lr", "batch_size", "seed"]
    ordered, predicted, sentences = [], [], []
    for arch, part in table.groupby("arch", sort=False):
        means = part.groupby("algorithm")["local energy"].mean().reindex(ALGORITHMS)
        if means.isna().any():
            return Verdict("not decided", f"This run has not all of {', '.join(ALGORITHMS)}.")
        wide = part.pivot(index=setting, columns="algorithm", values="local energy")
        pairs = wide[[ALGORITHMS[0], ALGORITHMS[-1]]].dropna()
        below = int((pairs.iloc[:, 0] < pairs.iloc[:, 1]).sum())
        tau = correlation(part["local energy"], part["test_error"])["tau"]
        ordered.append(means.is_monotonic_increasing and 10 * below >= 9 * len(pairs) > 0)
        predicted.append(tau.low > 0)
        listed = ", ".join(f"{100 * mean:.2f}" for mean in means)
        sentences.append(
            f"{arch}: mean local energies of RSGD, SGD and ADV {listed} percentage points; RSGD "
            f"below ADV in {below} of {len(pairs)} pairs; τ = {tau} over {len(part)} "
            f"minimizers, {without_adv(part)} without ADV."
        )
    holds = all(ordered) + all(predicted)
    words = ("not reproduced", "partly reproduced", "reproduced")
    return Verdict(words[holds], " ".join(sentences))


def c4(distances: pd.DataFrame) -> Verdict:
    """Flatter minima are closer to each other, in function space.

    The test: aligned, the mean angles of RSGD, SGD and ADV pairs ascend, and those of RSGD and ADV
    pairs do not overlap. Partly reproduced: the mean of RSGD pairs is below that of ADV pairs.

    Args:
        distances: Columns ``kind, aligned``, in radians.

    Example:
        >>> import pandas as pd
        >>> c4(pd.DataFrame({"kind": WITHIN, "aligned": [1.0, 1.2, 1.1]})).word
        'partly reproduced'
    """
    angles = [distances.loc[distances["kind"] == kind, "aligned"] for kind in WITHIN]
    if any(len(values) == 0 for values in angles):
        return Verdict("not decided", f"This run has not all of {', '.join(WITHIN)}.")
    pairs = zip(WITHIN, angles, strict=True)
    listed = ", ".join(f"{k} {v.mean():.3f} ({v.min():.3f} to {v.max():.3f})" for k, v in pairs)
    evidence = f"Angles of aligned pairs, in radians: {listed}."
    if _ascend(angles):
        return Verdict("reproduced", evidence)
    closer = angles[0].mean() < angles[-1].mean()
    return Verdict("partly reproduced" if closer else "not reproduced", evidence)


def c5(barriers: pd.DataFrame) -> Verdict:
    """Barriers along the geodesics between flat minima are small.

    The test: aligned and on the geodesic, the training barrier of every RSGD pair is below one
    percentage point. Partly reproduced: it is below a tenth of what it is as found and on the raw
    straight line.

    Args:
        barriers: As `c2`.

    Example:
        >>> import pandas as pd
        >>> heights = ((AFTER, 0.03), (BEFORE, 0.8))
        >>> rows = [{"kind": "RSGD-RSGD", **t, "barrier": b} for t, b in heights]
        >>> c5(pd.DataFrame(rows)).word
        'partly reproduced'
    """
    after, before = (_barriers(barriers, t, WITHIN[0]) for t in (AFTER, BEFORE))
    if not len(after) or not len(before):
        return Verdict("not decided", f"This run has no {WITHIN[0]} pairs.")
    evidence = (
        f"Barriers of {WITHIN[0]} pairs, in percentage points: {_range(after)} aligned and on the "
        f"geodesic, {_range(before)} as found and on the raw straight line."
    )
    if after.max() < 1:
        return Verdict("reproduced", evidence)
    small = after.max() < 0.1 * before.min()
    return Verdict("partly reproduced" if small else "not reproduced", evidence)


def c6(chains: pd.DataFrame) -> Verdict:
    """Minimizers are joined by two segments with a single bend, at zero error.

    The test: along every chain the training error is below 0.1 %. Partly reproduced: along more
    than half of them.

    Args:
        chains: A column ``"chain, train"`` with the largest training error along each.

    Example:
        >>> import pandas as pd
        >>> c6(pd.DataFrame({"chain, train": [0.0, 0.0005, 0.02]})).word
        'partly reproduced'
    """
    worst = chains["chain, train"]
    good = int((worst < 1e-3).sum())
    evidence = (
        f"{good} of {len(chains)} chains have a training error below 0.1 % everywhere; the largest "
        f"error along a chain is {100 * worst.median():.2f} % in the median and "
        f"{100 * worst.max():.2f} % at worst."
    )
    if good == len(chains):
        return Verdict("reproduced", evidence)
    return Verdict("partly reproduced" if 2 * good > len(chains) else "not reproduced", evidence)


def c7(barriers: pd.DataFrame, energies: pd.DataFrame) -> Verdict:
    """The same picture holds for networks with binary weights and activations.

    The test: aligned, the mean training barriers of RSGD, SGD and ADV pairs ascend, and those of
    RSGD and ADV pairs do not overlap; alignment lowers the mean training barrier within every
    algorithm; the mean local energies of RSGD, SGD and ADV ascend. A pair's barrier is the mean
    over random orders of flips. Partly reproduced: two of the three hold.

    Args:
        barriers: Columns ``kind, pair, weights, path, alignment, split, barrier``; several rows
            with one pair are its orders.
        energies: Columns ``algorithm, local energy``.

    Example:
        >>> import pandas as pd
        >>> rows = [{"kind": kind, "pair": "0-1", **BINARY, "alignment": alignment, "barrier": b}
        ...         for kind, *bs in zip(WITHIN, (1, 2, 3), (9, 9, 9))
        ...         for alignment, b in zip(("aligned", "as found"), bs)]
        >>> flat = pd.DataFrame({"algorithm": ALGORITHMS, "local energy": [0.1, 0.2, 0.3]})
        >>> c7(pd.DataFrame(rows), flat).word
        'reproduced'
    """
    pairs = barriers.groupby(["kind", "pair", *BINARY, "alignment"], as_index=False)
    means = pairs["barrier"].mean()
    after, before = (
        [_barriers(means, {**BINARY, "alignment": alignment}, kind) for kind in WITHIN]
        for alignment in ("aligned", "as found")
    )
    flat = 100 * energies.groupby("algorithm")["local energy"].mean().reindex(ALGORITHMS)
    if any(len(values) == 0 for values in (*after, *before)) or flat.isna().any():
        return Verdict("not decided", f"This run has not all of {', '.join(WITHIN)}.")
    lowered = [x.mean() < y.mean() for x, y in zip(after, before, strict=True)]
    listed = "; ".join(
        f"{kind} {_range(x)} aligned, {_range(y)} as found"
        for kind, x, y in zip(WITHIN, after, before, strict=True)
    )
    energy = ", ".join(f"{value:.2f}" for value in flat)
    evidence = (
        f"Barriers of the training error on Hamming paths in random order, in percentage points: "
        f"{listed}. Alignment lowers {sum(lowered)} of {len(lowered)} means. Mean local energies "
        f"of RSGD, SGD and ADV: {energy} percentage points."
    )
    holds = int(_ascend(after)) + int(all(lowered)) + int(flat.is_monotonic_increasing)
    words = ("not reproduced", "not reproduced", "partly reproduced", "reproduced")
    return Verdict(words[holds], evidence)


def _number(value: float) -> str:
    """Two digits, or all before the point."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def c8(temperatures: pd.DataFrame) -> Verdict:
    """Normalisation changes the loss by a temperature, and the error not at all.

    The test: the errors of a network and of its normal form differ by less than a tenth of a
    percentage point, and the loss of the normal form, with its outputs multiplied by one number, is
    that of the network to a thousandth of itself; in every minimizer.

    Args:
        temperatures: Columns ``error, loss``, each ``raw`` and ``normalised``, and ``loss,
            restored``, one row for each minimizer.

    Example:
        >>> import pandas as pd
        >>> row = {"error, raw": 0.01, "error, normalised": 0.01, "loss, raw": 0.2}
        >>> c8(pd.DataFrame([{**row, "loss, normalised": 0.9, "loss, restored": 0.2}])).word
        'reproduced'
    """
    gaps = (temperatures["error, raw"] - temperatures["error, normalised"]).abs()
    left = (temperatures["loss, raw"] - temperatures["loss, restored"]).abs()
    ratio = temperatures["loss, normalised"] / temperatures["loss, raw"]
    good = (gaps < 1e-3) & (left <= 1e-3 * temperatures["loss, raw"])
    evidence = (
        f"Over {len(temperatures)} minimizers the errors differ by {100 * gaps.max():.2g} "
        f"percentage points at most. Normalisation multiplies the losses by {_number(ratio.min())} "
        f"to {_number(ratio.max())}; once the outputs are multiplied by the temperature, a number "
        f"for each network, the losses differ by {left.max():.1g} at most."
    )
    return Verdict("reproduced" if good.all() else "not reproduced", evidence)


def c9(points: pd.DataFrame, predictions: pd.DataFrame) -> Verdict:
    """What is measured agrees with what is known analytically of simple shallow models.

    The test: every point of the curves that are exact at finite size is within 4 standard errors of
    its formula (a normal number is not once in 16,000), and every prediction holds by the bound
    that stands beside it on the page. Partly reproduced: every point is, and more than half of the
    predictions hold.

    Args:
        points: Columns ``curve, measured, exact, standard_error``, one row for each point.
        predictions: From `toroid.book.predictions.predicted`.

    Example:
        >>> import pandas as pd
        >>> from toroid.book.predictions import predicted
        >>> points = pd.DataFrame({"measured": [0.11], "exact": [0.1], "standard_error": [0.005]})
        >>> c9(points, predicted({"dense": 12.0, "star": 0.01, "convex": 0.0})).word
        'partly reproduced'
    """
    off = ((points["measured"] - points["exact"]) / points["standard_error"]).abs()
    held, failed = int(predictions["holds"].sum()), predictions.loc[~predictions["holds"], "name"]
    evidence = (
        f"Of {len(points)} points of exact curves the farthest is {off.max():.2f} standard errors "
        f"away; {held} of {len(predictions)} predictions hold"
        + (f", not: {', '.join(failed)}." if len(failed) else ".")
    )
    if off.max() > 4 or 2 * held <= len(predictions):
        return Verdict("not reproduced", evidence)
    return Verdict("partly reproduced" if len(failed) else "reproduced", evidence)


#: The paper's claims by their number in this project.
CLAIMS = {
    "C1": Claim(
        "Rescaling and permutation can be removed without changing the classifier.",
        "classifiers", ("classifiers",), c1,
    ),
    "C2": Claim(
        "Barriers tell flat minima from sharp ones only after the symmetries are removed.",
        "connectivity", ("barriers",), c2,
    ),
    "C3": Claim(
        "RSGD finds flatter minima than SGD, and SGD than SGD from an adversarial initialisation; "
        "flatness predicts the test error.",
        "flatness", ("flatness",), c3,
    ),
    "C4": Claim("Flatter minima are closer to each other.", "distances", ("distances",), c4),
    "C5": Claim(
        "Barriers along the geodesics between flat minima are small.",
        "connectivity", ("barriers",), c5,
    ),
    "C6": Claim(
        "Minimizers are joined by paths of zero error with a single bend.", "bend", ("chains",), c6
    ),
    "C7": Claim(
        "The same picture holds for networks with binary weights and activations.",
        "binary", ("barriers", "flatness"), c7,
    ),
    "C8": Claim(
        "Normalisation changes the loss by a temperature, and the error not at all.",
        "connectivity", ("temperatures",), c8,
    ),
    "C9": Claim(
        "What is measured agrees with what is known analytically of simple shallow models.",
        "shallow", ("points", "predictions"), c9,
    ),
}  # fmt: skip
