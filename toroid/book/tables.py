"""Tables that pages share: minimizers and their errors, curves by treatment, means and ranges."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from ..landscape import Curve
from ..minimizers import Stored

__all__ = [
    "SHORT", "below", "by_network", "errors", "heights", "labelled", "listed", "matrix", "spread",
    "spread_of", "styled", "trained", "training", "worst",
]  # fmt: skip

#: What tables and figures call an algorithm.
SHORT = {
    "sgd": "SGD", "replicated_sgd": "RSGD", "adversarial": "ADV", "sam": "SAM", "swa": "SWA",
    "entropy_sgd": "ESGD", "annealing": "SA", "sgd_decayed": "SGD+",
    "untrained": "untrained",
}  # fmt: skip
#: What names a minimizer on a page with one setting.
NAMES = ("algorithm", "seed")


def spread(values: pd.Series, digits: int = 3, factor: float = 1.0, unit: str = "") -> str:
    """Mean and range: ``mean (least to most)``.

    Args:
        values: Numbers.
        digits: After the point.
        factor: On all of them, e.g. 100 for per cent.
        unit: Behind the mean.

    Example:
        >>> spread(pd.Series([0.01, 0.02]), 1, 100)
        '1.5 (1.0 to 2.0)'
    """
    mean, low, high = (factor * x for x in (values.mean(), values.min(), values.max()))
    return f"{mean:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})"


def spread_of(digits: int = 3, factor: float = 1.0) -> Callable[[pd.Series], str]:
    """`spread` as an aggregation.

    Args:
        digits: As in `spread`.
        factor: As in `spread`.
    """
    return lambda values: spread(values, digits, factor)


def worst(values: pd.Series) -> str:
    """The largest, in per cent.

    Example:
        >>> worst(pd.Series([0.01, 0.025]))
        '2.50'
    """
    return f"{100 * values.max():.2f}"


def below(values: pd.Series, bound: float = 1e-3) -> str:
    """How many stay below a bound.

    Args:
        values: Numbers.
        bound: What they are compared with.

    Example:
        >>> below(pd.Series([0.0, 0.0005, 0.02]))
        '2 of 3'
    """
    return f"{(values < bound).sum()} of {len(values)}"


def listed(words: Iterable[str], none: str = "none is kept") -> str:
    """Words in a sentence, parted by semicolons.

    Args:
        words: Words.
        none: What stands there without any.

    Example:
        >>> listed(["a", "b"]), listed([])
        ('a; b', 'none is kept')
    """
    return "; ".join(words) or none


def by_network(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each architecture, and all where there are several.

    Args:
        table: With a column ``arch``.

    Example:
        >>> list(by_network(pd.DataFrame({"arch": ["mlp", "lenet"]})))
        ['mlp', 'lenet', 'all']
    """
    groups = {str(arch): part for arch, part in table.groupby("arch", sort=False)}
    return groups if len(groups) == 1 else {**groups, "all": table}


def styled(table: pd.DataFrame, caption: str = "") -> Styler:
    """A table that a page shows: its words are shown as they are, whatever file they come from.

    Algorithms have the names that they have in figures.

    Args:
        table: Any; words in it, and of its rows and columns, are no HTML.
        caption: A title, no HTML either.

    Returns:
        Its style, to format numbers with, to hide rows with.

    Example:
        >>> "&lt;b&gt;" in styled(pd.DataFrame({"run": ["<b>"]})).to_html()
        True
    """

    def safe(value: Any) -> Any:
        return html.escape(SHORT.get(value, value)) if isinstance(value, str) else value

    shown = table.map(safe).rename(index=safe, columns=safe).rename_axis(index=safe, columns=safe)
    # the same table has the same name in any run: by default it is drawn at random
    name = hashlib.sha256(f"{caption}\n{shown.to_csv()}".encode()).hexdigest()[:8]
    style = Styler(shown, uuid=name, cell_ids=False)  # ids are a third of a table
    return style.set_caption(safe(caption)) if caption else style


# --- minimizers ----------------------------------------------------------------------------------


def trained(
    minimizers: Mapping[Any, Stored],
    scores: Sequence[str] = ("train_error", "test_error"),
    names: Sequence[str] = NAMES,
) -> pd.DataFrame:
    """A row for each minimizer: what it is, its scores, and why it failed, if it did.

    Args:
        minimizers: Trained, by what they are, a tuple as long as `names`.
        scores: Entries of their records.
        names: Columns for what they are.

    Returns:
        Columns `names`, `scores` and ``failed``, which is empty or says why.
    """
    rows = [
        {
            **dict(zip(names, what, strict=True)),
            **{k: m.record[k] for k in scores}, "failed": m.record["report"]["failed"],
        }
        for what, m in minimizers.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _failures(values: pd.Series) -> str:
    return f"{(values.fillna('') != '').sum()} of {len(values)}"


def errors(table: pd.DataFrame, by: Sequence[str] = ("algorithm",)) -> pd.DataFrame:
    """Mean errors of each algorithm, and how many trainings failed.

    Args:
        table: As `trained`.
        by: What the rows are.

    Example:
        >>> row = {"algorithm": "sgd", "seed": 0, "train_error": 0.0, "test_error": 0.02}
        >>> found = errors(pd.DataFrame([{**row, "failed": ""}]))
        >>> found.loc["SGD", ["test_error", "failed"]].tolist()
        ['2.00 %', '0 of 1']
    """
    formats: dict[str, tuple[str, Any]] = {
        "networks": ("seed", "count"),
        "train_error": ("train_error", lambda x: f"{100 * x.mean():.2f} %"),
        "test_error": ("test_error", lambda x: f"{100 * x.mean():.2f} %"),
        "train_loss": ("train_loss", lambda x: f"{x.mean():.4f}"),
        "failed": ("failed", _failures),
    }
    shown = {k: v for k, v in formats.items() if v[0] in table}
    return table.groupby([*by], sort=False).agg(**shown).rename(index=SHORT)


def training(table: pd.DataFrame, by: Sequence[str] = ("algorithm",)) -> pd.DataFrame:
    """What trainings come to: mean and range over the seeds.

    Args:
        table: Columns ``train_error, test_error, train_loss, norm, seconds, failed``.
        by: What the rows are.
    """
    rows = table.groupby([*by], sort=False)
    return pd.DataFrame({
        "train error (%)": rows["train_error"].agg(spread_of(2, 100)),
        "test error (%)": rows["test_error"].agg(spread_of(2, 100)),
        "train loss": rows["train_loss"].agg(spread_of(4)),
        "norm": rows["norm"].agg(lambda x: f"{x.mean():.1f}"),
        "seconds": rows["seconds"].agg(lambda x: f"{x.mean():.0f}"),
        "failed": rows["failed"].agg(_failures),
    }).rename(index=SHORT)  # fmt: skip


RECIPE = ["epochs", "augment", "lr", "weight_decay"]


def recipes(table: pd.DataFrame, bound: float) -> pd.DataFrame:
    """What recipes reach, and which one the rule takes: the lowest test error of those that fit.

    Args:
        table: Columns of `RECIPE`, ``train_error, test_error``.
        bound: Training error, as a fraction, up to which a recipe fits.

    Returns:
        A row for each, the best test error first; ``taken`` is true in one, if any fits.
    """
    found = table[[*RECIPE, "train_error", "test_error"]].sort_values("test_error")
    fits = found["train_error"] <= bound
    return found.assign(taken=found.index == fits.idxmax() if fits.any() else False)


# --- pairs of minimizers -------------------------------------------------------------------------


def labelled(curves: Mapping[str, Curve], **what: Any) -> pd.DataFrame:
    """The curves of one path: a row for each place, and columns that say what it is.

    Args:
        curves: By the part of the data, as `toroid.along` gives them.
        **what: Columns and their value.

    Returns:
        Columns ``t, error, loss``, those of `what`, and ``split``.

    Example:
        >>> curve = Curve(np.array([0.0, 1.0]), np.array([0.1, 0.2]), np.array([1.0, 2.0]))
        >>> labelled({"train": curve}, path="straight").values.tolist()[0]
        [0.0, 0.1, 1.0, 'straight', 'train']
    """
    return pd.concat(curve.frame.assign(**what, split=split) for split, curve in curves.items())


def heights(curves: pd.DataFrame) -> dict[str, float]:
    """The largest error along each path, and of each chain the error at its corner.

    Args:
        curves: Columns ``path, split, t, error``; the corner of ``"chain"`` is at t = 1/2.

    Returns:
        By path and split, ``"segment, train"``, and ``"corner, train"`` for the chain.

    Example:
        >>> rows = {"path": "chain", "split": "train", "t": [0, 0.5, 1], "error": [0, 0.1, 0.2]}
        >>> heights(pd.DataFrame(rows))
        {'chain, train': 0.2, 'corner, train': 0.1}
    """
    found = {}
    for (path, split), curve in curves.groupby(["path", "split"], sort=False):
        found[f"{path}, {split}"] = float(curve["error"].max())
        if path == "chain":
            found[f"corner, {split}"] = float(np.interp(0.5, curve["t"], curve["error"]))
    return found


def matrix(table: pd.DataFrame, names: Sequence[str], value: str = "aligned") -> pd.DataFrame:
    """Distances of pairs as a symmetric matrix with zeros on its diagonal.

    Args:
        table: Columns ``first, second`` and `value`, a row for each pair.
        names: Rows and columns, in this order.
        value: The distance.

    Example:
        >>> row = {"first": "a", "second": "b", "aligned": 0.5}
        >>> matrix(pd.DataFrame([row]), ["a", "b"]).values.tolist()
        [[0.0, 0.5], [0.5, 0.0]]
    """
    found = pd.DataFrame(0.0, index=[*names], columns=[*names])
    for first, second, distance in table[["first", "second", value]].itertuples(index=False):
        found.loc[first, second] = found.loc[second, first] = distance
    return found
