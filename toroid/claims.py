"""The tests that decide the paper's claims, each written down before its numbers were looked at.

A test takes the tables that a page writes; the same test decides for a quick run and a kept one.
"""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

__all__ = ["Verdict", "c2", "c5"]

#: Pairs within an algorithm, from the flattest minima to the sharpest.
WITHIN = ("RSGD-RSGD", "SGD-SGD", "ADV-ADV")
BEFORE = {"weights": "raw", "path": "straight", "alignment": "as found", "split": "train"}
AFTER = {"weights": "normalised", "path": "geodesic", "alignment": "aligned", "split": "train"}


class Verdict(NamedTuple):
    """What a claim comes to.

    Attributes:
        word: ``"reproduced"``, ``"partly reproduced"``, ``"not reproduced"`` or ``"not decided"``.
        evidence: The numbers, in a sentence.
    """

    word: str
    evidence: str


def _barriers(table: pd.DataFrame, treatment: dict[str, str], kind: str) -> pd.Series:
    """Barriers of the pairs of one kind, in percentage points."""
    same = (table[list(treatment)] == pd.Series(treatment)).all(axis=1)
    return 100 * table.loc[same & (table["kind"] == kind), "barrier"]


def _range(values: pd.Series) -> str:
    return f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})"


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

    def tells(values: list[pd.Series]) -> bool:
        means = [v.mean() for v in values]
        return means == sorted(means) and values[0].max() < values[-1].min()

    listed = [
        ", ".join(f"{kind} {_range(v)}" for kind, v in zip(WITHIN, values, strict=True))
        for values in (after, before)
    ]
    evidence = (
        f"Barriers of the training error, aligned and on the geodesic, in percentage points: "
        f"{listed[0]}; as found and on the raw straight line: {listed[1]}."
    )
    if not tells(after):
        return Verdict("not reproduced", evidence)
    return Verdict("partly reproduced" if tells(before) else "reproduced", evidence)


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
