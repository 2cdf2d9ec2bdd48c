"""What the site's interactive figures show: tables of the kept runs, small enough for a page.

``book/_ext/explorer.py`` puts them into a page, ``book/_static/explorer.js`` draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.interpolate import RegularGridInterpolator

from . import claims, references
from .plotting import COLORS

__all__ = ["FIGURES", "paths", "planes"]

#: What a line of a second and a third treatment looks like, as `plotting.LINES`.
DASHES = ("solid", "dash", "dashdot", "dot")
#: Of each kind that are drawn: a page is smaller than a megabyte.
PAIRS = 5


def paths() -> dict[str, Any]:
    """Error and loss along the paths of the kept runs of the page ``connectivity``.

    Of each kind the first `PAIRS` pairs; all of them are in the run's table.

    Returns:
        ``choices``: names and their values, in the order in which a reader makes them; ``rows``:
        ``at``, a place in each of the choices, and ``t, error, loss`` along a path, errors in per
        cent; ``colors`` and ``dashes``, of the values of the choice ``second network``.
    """
    runs = [
        pd.DataFrame({
            "run": run.label, "pairs": run.table["kind"],
            "path": run.table["weights"] + ", " + run.table["path"],
            "images": run.table["split"], "second network": _treatment(run.table),
            "pair": run.table["pair"], "t": run.table["t"], "error": 100 * run.table["error"],
            "loss": run.table["loss"],
        })
        for run in map(_first_pairs, _decisive_first())
    ]  # fmt: skip
    found = _rows(runs, ["t", "error", "loss"])
    return {**found, "draw": "curves", "colors": COLORS, "dashes": DASHES} if runs else {}


def _first_pairs(run: references.Kept) -> references.Kept:
    """As many pairs of each kind as a page has room for."""
    few = run.table.groupby("kind")["pair"].transform(lambda pairs: pd.factorize(pairs)[0] < PAIRS)
    return run._replace(table=run.table[few.astype(bool)])


def _decisive_first() -> list[references.Kept]:
    """The curves of the kept runs; those that decide C2, which a reader meets first, lead."""
    decisive = claims.decide("C2", references.runs("connectivity")).run
    kept = references.kept("connectivity", "curves")
    return sorted(kept, key=lambda run: decisive is None or run.label != decisive.label)


def _treatment(table: pd.DataFrame) -> pd.Series:
    """As found, or aligned; by which matching, where a path of a pair has several."""
    if "method" not in table:
        return table["alignment"]
    ways = table[["method", "matched"]].astype(str).apply(tuple, axis=1)
    aligned = table["alignment"] == "aligned"
    several = ways[aligned].groupby([table["weights"], table["path"]]).nunique().max() > 1
    said = ", " + ways.map(claims.said) if several else ""
    return (table["alignment"] + said).where(aligned, table["alignment"])


def _rows(tables: Sequence[pd.DataFrame], measured: list[str]) -> dict[str, Any]:
    """The choices that tables have, all columns but those measured, and what was measured."""
    if not tables:
        return {}
    table = pd.concat(tables, ignore_index=True)
    names = [column for column in table if column not in measured]
    places = {name: {v: i for i, v in enumerate(table[name].unique())} for name in names}
    rows = [
        {
            "at": [places[name][value] for name, value in zip(names, what, strict=True)],
            **{column: _short(part[column]) for column in measured},
        }
        for what, part in table.groupby(names, sort=False)
    ]
    choices = [{"name": name, "values": [*places[name]]} for name in names]
    return {"choices": choices, "rows": rows}


def _short(values: Any) -> Any:
    """Numbers in four figures: more than a drawing shows, in a third of the room."""
    if np.ndim(values) > 1:
        return [_short(row) for row in values]
    return [float(f"{value:.4g}") for value in values]


def planes() -> dict[str, Any]:
    """The planes of the kept runs of the page ``bend``, and the lines on them.

    Returns:
        As `paths`; of each row ``x, y``, and ``error`` (in per cent) and ``loss`` as matrices.
        Where the corners of the plane were kept, ``lines``: by name, places ``x, y`` on the map,
        and the error and loss there, between the points of the map by interpolation.
    """
    corners = {run.label: run.table for run in references.kept("bend", "corners")}
    names: dict[str, dict[str, int]] = {"run": {}, "treatment": {}}
    rows = []
    for run in references.kept("bend", "planes"):
        for treatment, part in run.table.groupby("treatment", sort=False):
            what = (run.label, str(treatment))
            at = [k.setdefault(v, len(k)) for k, v in zip(names.values(), what, strict=True)]
            found = corners.get(run.label, pd.DataFrame(columns=["treatment", "x", "y"]))
            rows.append({"at": at, **_map(part, found[found["treatment"] == treatment])})
    choices = [{"name": name, "values": [*values]} for name, values in names.items()]
    return {"choices": choices, "rows": rows, "draw": "plane", "colors": COLORS} if rows else {}


def _map(part: pd.DataFrame, corners: pd.DataFrame) -> dict[str, Any]:
    """One map as matrices, and the chain and the segment on it."""
    matrices = {name: part.pivot(index="y", columns="x", values=name) for name in ("error", "loss")}
    matrices["error"] *= 100
    x, y = (matrices["error"].columns.to_numpy(), matrices["error"].index.to_numpy())
    lines = {}
    if len(corners) == 3:
        a, b, corner = corners[["x", "y"]].to_numpy()
        for name, ends in {"segment": [a, b], "chain": [a, corner, b]}.items():
            turns = np.linspace(0, len(ends) - 1, 41)
            line = np.stack([np.interp(turns, range(len(ends)), c) for c in np.transpose(ends)], 1)
            lines[name] = {"x": _short(line[:, 0]), "y": _short(line[:, 1])} | {
                k: _short(RegularGridInterpolator((y, x), m.to_numpy())(line[:, ::-1]))
                for k, m in matrices.items()
            }
    drawn = {name: _short(matrix.to_numpy()) for name, matrix in matrices.items()}
    return {"x": _short(x), "y": _short(y), **drawn, "lines": lines}


#: By the name that ``{explorer} NAME`` has in a page.
FIGURES = {"paths": paths, "planes": planes}
