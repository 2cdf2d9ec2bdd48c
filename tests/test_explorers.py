"""What the interactive figures show is what the kept runs say."""

import json

import numpy as np
import pandas as pd
import pytest
from toroid.book import claims, explorers, references

PAIR = ("pair", "first_seed", "second_seed")  # columns that say which pair of a kind it is
CURVE = {"kind": "RSGD-ADV", "pair": "0-1", "weights": "raw", "path": "straight", "split": "train"}


def given(monkeypatch, **tables):
    """Runs that are kept in place of the book's, with these tables."""
    runs = {
        name: [references.Kept("made up", table, "", {})] if table is not None else []
        for name, table in tables.items()
    }
    monkeypatch.setattr(references, "kept", lambda page, name: runs.get(name, []))
    monkeypatch.setattr(references, "runs", lambda page: [])


def named(data, row):
    return {c["name"]: c["values"][i] for c, i in zip(data["choices"], row["at"], strict=True)}


def test_every_path_has_the_barrier_that_its_run_kept():
    data = explorers.paths()
    kept = {run.label: run.table for run in references.kept("connectivity", "curves")}
    rows = [named(data, row) | {"row": row} for row in data["rows"]]
    assert len({tuple(row["at"]) for row in data["rows"]}) == len(rows)
    for label, table in kept.items():
        names = [c for c in table if c not in ("t", "error", "loss")]
        curves = claims.barriers(table)
        of_run = [row for row in rows if row["run"] == label]
        each = table[names].drop_duplicates().groupby([c for c in names if c not in PAIR])
        assert len(of_run) == each["pair"].nunique().clip(upper=explorers.PAIRS).sum()
        for row in of_run:
            chosen = curves[
                (curves["kind"] == row["pairs"])
                & (curves["pair"] == row["pair"])
                & (curves["weights"] + ", " + curves["path"] == row["path"])
                & (curves["split"] == row["images"])
            ]
            chosen = chosen[[row["second network"].startswith(a) for a in chosen["alignment"]]]
            t, error = (np.array(row["row"][key]) for key in ("t", "error"))
            barrier = (error - (1 - t) * error[0] - t * error[-1]).max()
            assert np.abs(100 * chosen["barrier"] - barrier).min() < 0.02  # four figures are kept


def test_the_run_that_decides_leads():
    decided = claims.decide("C2", references.runs("connectivity"))
    (runs,) = (c["values"] for c in explorers.paths()["choices"] if c["name"] == "run")
    assert runs[0] == decided.run.label


def test_a_matching_is_a_choice_where_there_are_several(monkeypatch):
    ways = [("as found", "none"), ("aligned", "sequential"), ("aligned", "coordinate")]
    table = pd.DataFrame([
        {**CURVE, "alignment": alignment, "method": method, "matched": "raw", "t": t,
         "error": 0.1 * t, "loss": t}
        for alignment, method in ways for t in (0.0, 1.0)
    ])  # fmt: skip

    def second_networks(curves):
        given(monkeypatch, curves=curves)
        return next(c["values"] for c in explorers.paths()["choices"] if "second" in c["name"])

    assert second_networks(table) == [
        "as found",
        "aligned, sequential matching of raw weights",
        "aligned, coordinate matching of raw weights",
    ]
    one = table[table["method"] != "coordinate"]
    assert second_networks(one) == ["as found", "aligned"]
    assert second_networks(one.drop(columns=["method", "matched"])) == ["as found", "aligned"]


def test_lines_lie_on_the_surface_between_their_corners(monkeypatch):
    x, y = (grid.ravel() for grid in np.meshgrid(np.linspace(-1, 5, 4), np.linspace(-1, 3, 5)))
    plane = pd.DataFrame({"x": x, "y": y, "error": 0.1 + 0.01 * x + 0.02 * y, "loss": x - y})
    plane["treatment"] = "raw, as found"
    ends = {"x": [0.0, 4.0, 1.0], "y": [0.0, 0.0, 2.0], "treatment": "raw, as found"}
    given(monkeypatch, planes=plane, corners=pd.DataFrame(ends))
    (row,) = explorers.planes()["rows"]
    assert np.array(row["error"]).shape == (5, 4)
    for line in row["lines"].values():
        x, y = np.array(line["x"]), np.array(line["y"])
        assert np.allclose(line["error"], 10 + x + 2 * y, rtol=1e-3)
        assert np.allclose(line["loss"], x - y, atol=1e-3)
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 4, 0)
    assert max(row["lines"]["segment"]["y"]) == 0
    assert max(row["lines"]["chain"]["y"]) == 2
    given(monkeypatch, planes=plane)
    assert explorers.planes()["rows"][0]["lines"] == {}


@pytest.mark.parametrize("name", explorers.FIGURES)
def test_a_figure_is_json_and_empty_without_a_kept_run(monkeypatch, name):
    data = explorers.FIGURES[name]()
    assert len(json.dumps(data, allow_nan=False)) < 600_000
    given(monkeypatch)
    assert explorers.FIGURES[name]() == {}
