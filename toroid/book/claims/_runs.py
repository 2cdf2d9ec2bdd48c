"""A run as the tests see it: its tables, its scale, and the preconditions that it meets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

#: The algorithms of the claims, from the flattest minima to the sharpest, with their short names.
ALGORITHMS = ("replicated_sgd", "sgd", "adversarial")
SHORT = ("RSGD", "SGD", "ADV")
#: Pairs within an algorithm, in the same order, and those of untrained networks.
WITHIN = ("RSGD-RSGD", "SGD-SGD", "ADV-ADV")
#: The baseline, SGD with the weight decay of RSGD, and its pairs.
DECAYED, DECAYED_PAIRS = "sgd_decayed", "SGD+-SGD+"
UNTRAINED = "untrained-untrained"

#: Preconditions of every empirical verdict.
TRAINING_ERROR, SEEDS, PAIRS, PLACES, IMAGES = 0.005, 3, 3, 11, 2000

_PAIR = ("kind", "first_seed", "second_seed")

#: Runs that were seen when the tests were written down, by the first digits of their stamp.
SEEN = frozenset({
    "c9505d3a", "90c6dd5d", "cc4fed91", "c1018436", "2cfd520c", "99063768", "e6bcea15",
    "a78d1a96", "a1961ee3", "e97cd007", "7e8be935", "daa9bdc9", "6756a594", "969db666",
    "265b2258", "61634f59", "aa8436fc", "8f211788", "e42abb26",
})  # fmt: skip


class Scale(NamedTuple):
    """How large a run is; by it the decisive run is chosen.

    Attributes:
        images: Training images.
        width: Of the widest network, in multiples of the paper's.
        seeds: Of the algorithm that has the fewest.
        places: Along a path; not a number where the page has no paths.
        evaluated: Images in the smallest evaluation.
    """

    images: float
    width: float
    seeds: int
    places: float
    evaluated: float


@dataclass(frozen=True)
class Run:
    """A run of one page.

    Attributes:
        label: Data set, network, number of training images.
        tables: By the name of their file, as the package's docstring describes them.
        values: Its parameters; they give the scale of runs that keep no table of it.
        seen: Whether it had been seen when the tests were written down.
        made: On which device and how long it took.
    """

    label: str
    tables: Mapping[str, pd.DataFrame]
    values: Mapping[str, Any] = field(default_factory=dict)
    seen: bool = False
    made: str = ""

    @classmethod
    def of(
        cls, label: str, tables: Mapping[str, pd.DataFrame], values: Mapping[str, Any],
        stamp: str = "", made: str = "",
    ) -> Run:  # fmt: skip
        """A run from its tables as they are kept, those of older runs completed.

        Args:
            label: What it is called.
            tables: By the name of their file.
            values: Parameters.
            stamp: Of the run, see `toroid.book.notebooks.stamp`.
            made: Where and how long.
        """
        full = {name: _completed(name, table) for name, table in tables.items()}
        if "minimizers" not in full and "flatness" in full and "failed" in full["flatness"]:
            full["minimizers"] = full["flatness"]
        return cls(label, _fitted(full), values, stamp[:8] in SEEN, made)

    def __getitem__(self, name: str) -> pd.DataFrame:
        """A table; one without rows where the run has none of that name."""
        return self.tables.get(name, pd.DataFrame())

    @property
    def scale(self) -> Scale:
        """From its table, or from the parameters of a run that keeps none."""
        seeds = self.seeds
        if len(table := self["scale"]):
            row = table.iloc[0]
            keys = ("training images", "width", "places", "images")
            images, width, places, evaluated = (float(row.get(k, np.nan)) for k in keys)
            return Scale(images, width, seeds, places, evaluated)
        subset = float(self.values.get("subset") or np.nan)
        width = max(self.values.get("widths") or [self.values.get("width", np.nan)])
        evaluated = min(subset, float(self.values.get("evaluate_on") or np.nan))
        places = float(self.values.get("points") or np.nan)
        return Scale(subset, float(width), seeds, places, evaluated)

    @property
    def minimizers(self) -> pd.DataFrame:
        """Those of the three algorithms of the claims."""
        table = self["minimizers"]
        return table[table["algorithm"].isin(ALGORITHMS)] if len(table) else table

    @property
    def unfit(self) -> pd.DataFrame:
        """The rows of the baseline's networks that miss the training error."""
        return _unfit_baseline(self["minimizers"])

    @property
    def seeds(self) -> int:
        """How many seeds the algorithm with the fewest has."""
        return min(self.seeds_of.values())

    @property
    def seeds_of(self) -> dict[str, int]:
        """How many seeds each of the three algorithms has, by its short name."""
        table = self.minimizers
        if not len(table):
            return dict.fromkeys(SHORT, len(self.values.get("seeds", [])))
        counts = table.groupby("algorithm")["seed"].nunique().reindex(ALGORITHMS).fillna(0)
        return dict(zip(SHORT, counts.astype(int), strict=True))


def _completed(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """A table with the columns that came with these tests, where an older one implies them."""
    if name not in ("barriers", "distances", "chains", "curves") or "kind" not in table:
        return table
    if "first_seed" not in table:
        ends = (
            table["pair"].astype(str).str.split("-", expand=True)
            if "pair" in table
            else pd.DataFrame({k: table[k].str.split().str[-1] for k in ("first", "second")})
        )
        table = table.assign(first_seed=ends.iloc[:, 0], second_seed=ends.iloc[:, 1])
    if name == "distances" and "aligned, weights" in table:
        table = _long(table)
    if "alignment" in table and "method" not in table:
        found = table["alignment"] == "as found"
        table = table.assign(
            method=np.where(found, "none", "sequential"), matched=table.get("weights", "normalised")
        )
    return table.astype({"first_seed": int, "second_seed": int})


def _fitted(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Tables without the pairs of baseline networks that miss the training error.

    No verdict asks for them, so that none is missing where they fail; in a mean they would stand
    for what weight decay does.
    """
    seeds = set(_unfit_baseline(tables.get("minimizers", pd.DataFrame())).get("seed", []))
    found = dict(tables)
    for name, table in tables.items():
        if seeds and {"kind", "first_seed"} <= {*table}:
            own = table["first_seed"].isin(seeds) | table["second_seed"].isin(seeds)
            found[name] = table[~(own & (table["kind"] == DECAYED_PAIRS))]
    return found


def _unfit_baseline(minimizers: pd.DataFrame) -> pd.DataFrame:
    if not {"algorithm", "train_error"} <= {*minimizers}:
        return pd.DataFrame()
    return minimizers[above(minimizers) & (minimizers["algorithm"] == DECAYED)]


def above(minimizers: pd.DataFrame) -> pd.Series:
    """Which networks miss the training error of a minimizer; one that is not known does."""
    return ~(minimizers["train_error"] <= TRAINING_ERROR)


def _long(table: pd.DataFrame) -> pd.DataFrame:
    """Distances of an older run: a row for each pair and alignment."""
    keys = ["kind", "related", "first_seed", "second_seed", "raw"]
    found = table[keys].assign(alignment="as found", angle=table["as found"])
    moved = table[keys].assign(alignment="aligned", angle=table["aligned"])
    for part in ("weights", "BatchNorm"):
        moved[f"angle, {part}"] = table[f"aligned, {part}"]
    return pd.concat([found, moved], ignore_index=True)


def missing(run: Run, pairs: pd.DataFrame | None = None, *, paths: bool = False) -> tuple[str, ...]:
    """Which preconditions of an empirical verdict a run does not meet, in words.

    Args:
        run: Of any page.
        pairs: Pairs that the verdict is about, of which each kind is to have enough.
        paths: Whether the verdict is about paths.
    """
    found = [*_unfit(run.minimizers), *_few(run)]
    if pairs is not None:
        own = pairs[~pairs["kind"].str.contains("untrained")] if len(pairs) else pairs
        counts = own.drop_duplicates([*_PAIR])["kind"].value_counts().to_dict() if len(own) else {}
        kinds = [*WITHIN, *(k for k in counts if k not in WITHIN and _claimed(k))]
        few = [f"{kind} {counts.get(kind, 0)}" for kind in kinds if counts.get(kind, 0) < PAIRS]
        if few:
            found.append(f"{PAIRS} pairs of each kind ({', '.join(few)})")
    scale = run.scale
    if paths and not scale.places >= PLACES:
        found.append(f"{PLACES} places along a path ({_count(scale.places)})")
    if not scale.evaluated >= IMAGES:
        found.append(f"{IMAGES:,} images in every evaluation ({_count(scale.evaluated)})")
    return tuple(found)


def _claimed(kind: str) -> bool:
    return set(kind.split("-")) <= set(SHORT)


def _unfit(table: pd.DataFrame) -> list[str]:
    """What is wrong with the minimizers of a run."""
    if not len(table):
        return ["training errors of the networks (not kept)"]
    found, unfit = [], above(table)
    high = table.loc[unfit, "train_error"]
    if len(high):
        found.append(
            f"a training error of at most {100 * TRAINING_ERROR} % in every network "
            f"({len(high)} of {len(table)} above, {100 * high.max():.2f} % at worst)"
        )
    others = int(((table["failed"].fillna("") != "") & ~unfit).sum())
    if others:
        more = " otherwise" if len(high) else ""
        found.append(f"trainings without a failure ({others} of {len(table)} failed{more})")
    return found


def _few(run: Run) -> list[str]:
    few = ", ".join(f"{name} {n}" for name, n in run.seeds_of.items() if n < SEEDS)
    return [f"{SEEDS} seeds of each algorithm ({few})"] if few else []


def _count(number: float) -> str:
    return "not kept" if np.isnan(number) else f"{number:,.0f}"
