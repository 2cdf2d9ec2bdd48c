"""What connectivity depends on: one factor at a time around a base, and two together.

A *setting* is a value of each of `FACTORS`. The tables that these functions take have a column for
each of them, and those of pairs as `toroid.book.claims` describes them: a row of ``barriers`` is
one path of one pair in one setting.

Intervals are a bootstrap over networks, see `toroid.book.claims.Networks`. Networks of one seed in
different settings are drawn together: they start from one draw and see images in one order, and a
difference between settings is one between networks of the same seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from .claims import Estimate, Networks, Sample

__all__ = [
    "FACTORS", "PAPERS", "changes", "chosen", "direction", "estimate", "estimates", "interaction",
    "learnt", "panels", "parameters", "planned", "sentence", "settings", "summary", "unlearnt",
]  # fmt: skip

Setting = dict[str, float]

#: Columns of a setting, in words.
FACTORS = {
    "width": "width", "lr": "learning rate", "weight_decay": "weight decay", "epochs": "epochs",
    "images": "training images",
}  # fmt: skip
#: Parameters of the page: of the base, and with other levels.
_PARAMETERS = {
    "width": ("width", "widths"), "lr": ("lr", "lrs"),
    "weight_decay": ("weight_decay", "weight_decays"), "epochs": ("epochs", "lengths"),
    "images": ("subset", "subsets"),
}  # fmt: skip
#: Networks that err on more of their training images than this have not learnt them.
UNLEARNT = 0.5
#: The error of guessing: all data sets that have a name have ten classes.
CHANCE = 0.9
#: A path leads to guessing where the barrier is this share of what its ends leave up to there.
FULL = 0.95
#: What names a path, beside its pair and its setting.
PATHS = ("weights", "path", "alignment", "method", "split")
#: The treatment that sentences speak of: the paper's matching, on the geodesic.
PAPERS = {
    "weights": "normalised", "path": "geodesic", "alignment": "aligned", "method": "sequential",
}  # fmt: skip


def settings(base: Setting, levels: Mapping[str, Sequence[float]]) -> list[Setting]:
    """Every setting that is needed: each factor alone, and width together with images.

    Args:
        base: A value of each factor.
        levels: The values of each; that of the base belongs to them.

    Returns:
        Distinct settings, the base first.

    Example:
        >>> base = {"width": 1.0, "images": 100}
        >>> [s["width"] for s in settings(base, {"width": [0.5, 1.0], "images": [100, 200]})]
        [1.0, 0.5, 1.0, 0.5]
    """
    alone = [{**base, factor: value} for factor, values in levels.items() for value in values]
    both = [
        {**base, "width": width, "images": images}
        for images in levels["images"]
        for width in levels["width"]
    ]
    return list({tuple(s.values()): s for s in (base, *alone, *both)}.values())


def planned(values: Mapping[str, Any]) -> tuple[Setting, list[Setting]]:
    """The base and all settings that a page's parameters speak of.

    Args:
        values: Parameters: ``width, lr, weight_decay, epochs, subset`` of the base, and ``widths,
            lrs, weight_decays, lengths, subsets``.
    """
    base = {factor: values[own] for factor, (own, _) in _PARAMETERS.items()}
    levels = {factor: values[several] for factor, (_, several) in _PARAMETERS.items()}
    return base, settings(base, levels)


def parameters(setting: Setting, values: Mapping[str, Any]) -> dict[str, Any]:
    """A setting as parameters of a page that describes networks.

    Args:
        setting: From `planned`.
        values: All parameters. With ``hold`` of ``"steps"`` epochs over fewer images are more.

    Example:
        >>> setting = {"width": 1.0, "lr": 0.1, "weight_decay": 0.0, "epochs": 30, "images": 500}
        >>> held = {"hold": "steps", "subset": 1000, "algorithm": "sgd"}
        >>> parameters(setting, held)["epochs"]
        60
    """
    found = {own: setting[factor] for factor, (own, _) in _PARAMETERS.items()}
    if values["hold"] == "steps":
        found["epochs"] = max(1, round(setting["epochs"] * values["subset"] / setting["images"]))
    return {**found, "algorithms": [values["algorithm"]]}


def unlearnt(minimizers: pd.DataFrame, base: Setting) -> pd.DataFrame:
    """The settings, but for the base, whose networks have not learnt their training images.

    A barrier between such networks is 0 or small, and not because they connect.

    Args:
        minimizers: Columns of the setting, and ``train_error``.
        base: Is never among them.

    Returns:
        Columns `FACTORS` and ``train_error``, the mean over networks.
    """
    errors = minimizers.groupby([*FACTORS], as_index=False)["train_error"].mean()
    others = (errors[[*FACTORS]] != pd.Series(base)).any(axis=1)
    return errors[others & (errors["train_error"] > UNLEARNT)]


def learnt(barriers: pd.DataFrame, minimizers: pd.DataFrame, base: Setting) -> pd.DataFrame:
    """The barriers of all settings that are not `unlearnt`.

    Args:
        barriers: As in `estimates`.
        minimizers: As in `unlearnt`.
        base: As in `unlearnt`.
    """
    left_out = unlearnt(minimizers, base)[[*FACTORS]].apply(tuple, axis=1)
    return barriers[~barriers[[*FACTORS]].apply(tuple, axis=1).isin(left_out)]


def guessing(
    barriers: pd.DataFrame, minimizers: pd.DataFrame, base: Setting, factor: str
) -> bool:  # fmt: skip
    """Whether the path leads to guessing at the least and at the greatest level of a factor.

    A barrier is then what the errors of its ends leave up to `CHANCE`: that it changes says what
    the networks have learnt, and not whether they connect.

    Args:
        barriers: As in `estimates`.
        minimizers: As in `unlearnt`.
        base: What the other factors are.
        factor: Column of the setting.
    """
    heights = chosen(estimates(barriers, base, factor), **PAPERS, split="train")
    heights = heights.set_index(factor)["value"].sort_index().iloc[[0, -1]]
    errors = _alone(minimizers, base, factor).groupby(factor)["train_error"].mean()
    return bool((heights > FULL * 100 * (CHANCE - errors.loc[heights.index])).all())


def _alone(table: pd.DataFrame, base: Setting, *varied: str) -> pd.DataFrame:
    """The rows in which all factors but some have the value of the base."""
    for factor in FACTORS:
        if factor not in varied:
            table = table[table[factor] == base[factor]]
    return table


class _Path(NamedTuple):
    """A treatment of the pairs, and its mean barrier at each level."""

    named: dict[str, str]
    means: dict[Any, Sample]


def _paths(table: pd.DataFrame, *by: str) -> Iterator[_Path]:
    """Every treatment in a table, with its mean at each level of some factors."""
    levels = sorted(set(table[[*by]].itertuples(index=False, name=None)))
    for names, part in table.groupby(list(PATHS), sort=False):
        means = {}
        for level in levels:
            rows = part[(part[[*by]] == pd.Series(dict(zip(by, level, strict=True)))).all(axis=1)]
            means[level] = Networks(rows).mean(rows, rows["barrier"])
        yield _Path(dict(zip(PATHS, names, strict=True)), means)


def estimates(barriers: pd.DataFrame, base: Setting, *factors: str) -> pd.DataFrame:
    """Mean barriers at each level of a factor, or of several together.

    Args:
        barriers: Columns of the setting, of pairs, and of `PATHS`.
        base: What the other factors are.
        *factors: Those that vary.

    Returns:
        Columns `factors`, those of `PATHS`, and ``value, low, high`` in percentage points: the mean
        over pairs with its 95 % interval.
    """
    rows = [
        {**dict(zip(factors, level, strict=True)), **path.named, **_points(mean)._asdict()}
        for path in _paths(_alone(barriers, base, *factors), *factors)
        for level, mean in path.means.items()
    ]
    return pd.DataFrame(rows)


def changes(barriers: pd.DataFrame, base: Setting, factor: str) -> pd.DataFrame:
    """How much mean barriers change from the least level of a factor to the greatest.

    Args:
        barriers: As in `estimates`.
        base: What the other factors are.
        factor: Column of the setting.

    Returns:
        Columns ``factor, from, to``, those of `PATHS`; ``value, low, high`` of the difference in
        percentage points; and ``word``, see `direction`.
    """
    rows = []
    for path in _paths(_alone(barriers, base, factor), factor):
        (first, *_), (last, *_) = min(path.means), max(path.means)
        change = _points(path.means[last,] - path.means[first,])
        rows.append({
            "factor": FACTORS[factor], "from": first, "to": last, **path.named,
            **change._asdict(), "word": direction(change),
        })  # fmt: skip
    return pd.DataFrame(rows)


def direction(change: Estimate) -> str:
    """Whether something rises, falls, or neither beyond what other seeds do.

    Args:
        change: A difference with its interval.

    Example:
        >>> direction(Estimate(-1.0, -2.0, -0.5)), direction(Estimate(-1.0, -2.0, 0.5))
        ('falls', 'is not told apart')
    """
    return "rises" if change.low > 0 else "falls" if change.high < 0 else "is not told apart"


def _points(sample: Sample) -> Estimate:
    """In percentage points; means of fractions that are equal do not differ by their rounding."""
    return Estimate(*(round(100 * x, 9) + 0.0 for x in sample.estimate))


def interaction(barriers: pd.DataFrame, base: Setting) -> pd.DataFrame:
    """Whether what the width does depends on the number of images.

    The difference of differences: the change from the narrowest to the widest network with the most
    images, minus the change with the fewest; of the widths that both have.

    Args:
        barriers: As in `estimates`.
        base: What the other factors are.

    Returns:
        Columns of `PATHS`, ``value, low, high`` in percentage points, and ``word``.
    """
    rows = []
    for path in _paths(_alone(barriers, base, "width", "images"), "width", "images"):
        images = [n for w, n in path.means if w == base["width"]]
        few, many = min(images), max(images)
        widths = [w for w, n in path.means if n == few and (w, many) in path.means]
        narrow, wide = min(widths), max(widths)
        widened = [path.means[wide, n] - path.means[narrow, n] for n in (many, few)]
        change = _points(widened[0] - widened[1])
        rows.append({**path.named, **change._asdict(), "word": direction(change)})
    return pd.DataFrame(rows)


def chosen(table: pd.DataFrame, **named: str) -> pd.DataFrame:
    """The rows whose columns have some values.

    Args:
        table: Any.
        **named: Column and value.
    """
    return table[(table[list(named)] == pd.Series(named)).all(axis=1)]


def estimate(row: Any) -> Estimate:
    """The number of a row with its interval.

    Args:
        row: With ``value, low, high``, of a table of this module.
    """
    return Estimate(*(float(getattr(row, k)) for k in Estimate._fields))


def _one(table: pd.DataFrame, **named: str) -> Estimate:
    """The number of one row."""
    return estimate(chosen(table, **named).iloc[0])


def sentence(
    barriers: pd.DataFrame, minimizers: pd.DataFrame, base: Setting, factor: str
) -> str:  # fmt: skip
    """What a factor does to the barrier, in one sentence.

    Args:
        barriers: As in `estimates`.
        minimizers: Columns of the setting, and ``train_error``.
        base: What the other factors are.
        factor: Column of the setting.

    Returns:
        The direction on the geodesic with the paper's matching, its size at both ends, the test
        images and the raw line beside it, and how well the networks had learnt.
    """
    table, change = estimates(barriers, base, factor), changes(barriers, base, factor)
    train = chosen(table, **PAPERS, split="train").sort_values(factor)
    first, last = train.iloc[0], train.iloc[-1]
    least = train.loc[train["value"].idxmin()]
    word = chosen(change, **PAPERS, split="train").iloc[0]["word"]
    raw = {**PAPERS, "weights": "raw", "path": "straight"}
    beside = {
        "on the test images": {**PAPERS, "split": "test"},
        "on the raw straight line": {**raw, "split": "train"},
    }
    error = 100 * _alone(minimizers, base, factor).groupby(factor)["train_error"].mean()
    error = error.loc[[first[factor], last[factor]]]  # of the levels that are compared
    if guessing(barriers, minimizers, base, factor):
        return (
            f"From {FACTORS[factor]} {first[factor]:g} to {last[factor]:g} the geodesic leads to "
            f"guessing at both ends: barriers of {estimate(first)} and {estimate(last)} percentage "
            f"points, with training errors of {error.iloc[0]:.2f} and {error.iloc[-1]:.2f} %."
        )
    told = {
        "rises": f"rises from {estimate(first)} to {estimate(last)} percentage points",
        "falls": f"falls from {estimate(first)} to {estimate(last)} percentage points",
    }.get(
        word,
        f"is {estimate(first)} percentage points at the one and {estimate(last)} at the other, "
        "which these networks do not tell apart",
    )
    inside = "" if least.name in (first.name, last.name) else (
        f"; it is least in between, at {least[factor]:g} ({estimate(least)})"
    )  # fmt: skip
    others = "; ".join(f"{k} the change is {_one(change, **v)}" for k, v in beside.items())
    return (
        f"From {FACTORS[factor]} {first[factor]:g} to {last[factor]:g} the training barrier on the "
        f"geodesic {told}{inside}; {others}; the mean training error goes from "
        f"{error.iloc[0]:.2f} to {error.iloc[-1]:.2f} %."
    )


def summary(barriers: pd.DataFrame, minimizers: pd.DataFrame, base: Setting) -> str:
    """Which factors raise the barrier and which lower it, in one sentence.

    Args:
        barriers: As in `estimates`.
        minimizers: As in `unlearnt`.
        base: What the other factors are.
    """
    found: dict[str, list[str]] = {"falls": [], "rises": [], "is not told apart": []}
    blind = [factor for factor in FACTORS if guessing(barriers, minimizers, base, factor)]
    for factor in (factor for factor in FACTORS if factor not in blind):
        row = chosen(changes(barriers, base, factor), **PAPERS, split="train").iloc[0]
        found[row["word"]].append(f"{FACTORS[factor]} {estimate(row)}")
    words = {
        "falls": "The training barrier between aligned networks, on the geodesic, falls with:",
        "rises": "it rises with:", "is not told apart": "it is not told apart over the range of:",
    }  # fmt: skip
    clauses = [f"{words[k]} {', '.join(v) or 'none of them'}" for k, v in found.items()]
    where = ", ".join(FACTORS[factor] for factor in blind)
    blank = f"half way is guessing at both ends of the range of {where}"
    if len(blind) == len(FACTORS):
        return f"Between aligned networks, on the geodesic, {blank}: no barrier tells them apart."
    said = f"{'; '.join(clauses)} (changes over the range, in percentage points)"
    if blind:
        return f"{said}; {blank}."
    joint = chosen(interaction(barriers, base), **PAPERS, split="train").iloc[0]
    return f"{said}; {with_images(joint['word'])}: {estimate(joint)}."


def with_images(word: str) -> str:
    """What an interaction of width and images says.

    Args:
        word: As `direction`, of `interaction`.
    """
    return {
        "falls": "with more images it falls further with the width",
        "rises": "with more images it falls less with the width",
    }.get(word, "whether the number of images changes what the width does is not told")


def panels(table: pd.DataFrame, **line: str) -> pd.DataFrame:
    """Estimates as `toroid.book.plotting.dependence` draws them: by matching, by kind of path.

    Networks as found are drawn beside every matching.

    Args:
        table: As `estimates`.
        **line: Columns and values that a row must have, e.g. ``split="train"``.

    Returns:
        The table with the columns ``panel`` and ``line``.
    """
    table = chosen(table, **line) if line else table
    found, aligned = (table[table["alignment"] == k] for k in ("as found", "aligned"))
    methods = list(aligned["method"].unique())
    every = pd.concat([*(found.assign(method=m) for m in methods), aligned])
    lines = every["weights"] + ", " + every["path"] + ", " + every["alignment"]
    return every.assign(panel=every["method"], line=lines)
