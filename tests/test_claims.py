"""Tables and verdicts, against the rows that they are made of."""

import itertools

import numpy as np
import pandas as pd
import pytest
from toroid.book import claims, parameters, predictions, references

KINDS = ["RSGD-RSGD", "RSGD-SGD", "RSGD-ADV", "SGD-SGD", "SGD-ADV", "ADV-ADV"]
PATHS = [("raw", "straight"), ("normalised", "straight"), ("normalised", "geodesic")]


@pytest.fixture(scope="module")
def barriers():
    """Numbers that are all different, in the order in which a page makes them."""
    rows = []
    for kind, pair in itertools.product(KINDS, range(3)):
        for alignment, (weights, path) in itertools.product(("as found", "aligned"), PATHS):
            for split in ("train", "test"):
                what = {"kind": kind, "pair": pair, "weights": weights, "path": path}
                rows.append({**what, "alignment": alignment, "split": split})
    heights = np.random.default_rng(0).permutation(len(rows)) / 1000
    return pd.DataFrame(rows).assign(barrier=heights)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_barrier_stands_in_its_row_and_column(barriers, split):
    table = claims.barrier_table(barriers, split)
    assert list(table.index) == [*itertools.product(("as found", "aligned"), KINDS)]
    assert list(table.columns) == [", ".join(path) for path in PATHS]
    for (alignment, kind), (weights, path) in itertools.product(table.index, PATHS):
        chosen = barriers.query(
            "kind == @kind and weights == @weights and path == @path and alignment == @alignment "
            "and split == @split"
        )["barrier"]
        expected = (
            f"{100 * chosen.mean():.2f} ({100 * chosen.min():.2f} to {100 * chosen.max():.2f})"
        )
        assert table.loc[(alignment, kind), f"{weights}, {path}"] == expected


def within(heights_after, heights_before):
    """Barriers of pairs within each algorithm, two pairs each."""
    rows = []
    for treatment, heights in ((claims.AFTER, heights_after), (claims.BEFORE, heights_before)):
        for kind, pair in zip(claims.WITHIN, heights, strict=True):
            rows += [{"kind": kind, **treatment, "barrier": height} for height in pair]
    return pd.DataFrame(rows)


LOW, MIDDLE, HIGH = (0.001, 0.002), (0.004, 0.005), (0.03, 0.04)


@pytest.mark.parametrize(
    ("after", "before", "word"),
    [
        ((LOW, MIDDLE, HIGH), (HIGH, LOW, MIDDLE), "reproduced"),
        ((LOW, MIDDLE, HIGH), (LOW, MIDDLE, HIGH), "partly reproduced"),
        ((MIDDLE, LOW, HIGH), (HIGH, LOW, MIDDLE), "not reproduced"),
        (((0.001, 0.035), (0.02, 0.02), HIGH), (HIGH, LOW, MIDDLE), "not reproduced"),  # overlap
    ],
)
def test_c2_asks_for_the_order_after_and_not_before(after, before, word):
    verdict = claims.c2(within(after, before))
    assert verdict.word == word
    assert f"{100 * np.mean(after[0]):.2f}" in verdict.evidence


def test_each_kind_of_path_is_asked_whether_its_barriers_tell(barriers):
    found = claims.orders(barriers)
    assert [*found.columns] == ["as found", "aligned"]
    assert [*found.index] == [", ".join(path) for path in PATHS]
    for (weights, path), alignment in itertools.product(PATHS, found.columns):
        same = barriers.query(
            "weights == @weights and path == @path and alignment == @alignment and split == 'train'"
        )
        flat, middle, sharp = (same[same["kind"] == kind]["barrier"] for kind in claims.WITHIN)
        ascend = flat.mean() < middle.mean() < sharp.mean() and flat.max() < sharp.min()
        assert found.loc[f"{weights}, {path}", alignment] == ("yes" if ascend else "no")
    told = claims.orders(within((LOW, MIDDLE, HIGH), (HIGH, LOW, MIDDLE)))
    assert told.loc["normalised, geodesic", "aligned"] == "yes"
    assert told.loc["raw, straight", "as found"] == "no"


def test_c5_asks_for_every_pair_of_the_flattest():
    assert claims.c5(within((LOW, LOW, LOW), (HIGH, HIGH, HIGH))).word == "reproduced"
    assert claims.c5(within(((0.001, 0.011), LOW, LOW), ((0.2, 0.2), HIGH, HIGH))).word == (
        "partly reproduced"
    )
    assert claims.c5(within((HIGH, LOW, LOW), (HIGH, HIGH, HIGH))).word == "not reproduced"


def test_what_a_run_does_not_have_is_not_decided():
    few = within((LOW, MIDDLE, HIGH), (LOW, MIDDLE, HIGH)).query("kind == 'SGD-SGD'")
    assert claims.c2(few).word == claims.c5(few).word == "not decided"
    assert claims.c4(pd.DataFrame({"kind": ["SGD-SGD"], "aligned": [1.0]})).word == "not decided"


def energies(flat, middle, sharp, errors):
    names = ["replicated_sgd", "sgd", "adversarial"]
    rows = [
        {"arch": "mlp", "width": 1.0, "lr": 0.1, "batch_size": 128, "seed": seed,
         "algorithm": name, "local energy": energy + 0.01 * seed, "test_error": error + 0.001 * seed}
        for name, energy, error in zip(names, (flat, middle, sharp), errors, strict=True)
        for seed in range(4)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        ((0.1, 0.2, 0.3, (0.01, 0.02, 0.03)), "reproduced"),
        ((0.1, 0.2, 0.3, (0.03, 0.02, 0.01)), "partly reproduced"),  # ordered, predicts nothing
        ((0.2, 0.1, 0.3, (0.02, 0.01, 0.03)), "partly reproduced"),  # predicts, not ordered
        ((0.3, 0.2, 0.1, (0.01, 0.02, 0.03)), "not reproduced"),
    ],
)
def test_c3_asks_for_the_order_and_the_prediction(numbers, word):
    assert claims.c3(energies(*numbers)).word == word


def test_an_interval_holds_its_estimate_and_nothing_is_said_of_constants():
    generator = np.random.default_rng(1)
    x = pd.Series(generator.normal(size=40))
    found = claims.correlation(x, x + generator.normal(size=40))
    for estimate in found.values():
        assert 0 < estimate.low < estimate.value < estimate.high < 1
    assert np.isnan(claims.correlation(x, 0 * x)["tau"].value)


def test_c1_asks_for_every_network():
    rows = [{"network": str(k), "refused": np.nan, "permuted": 1e-15, "rescaled": 1e-15,
             "normalised": 1e-14, "aligned": np.nan} for k in range(10)]  # fmt: skip
    table = pd.DataFrame(rows)
    assert claims.c1(table).word == "reproduced"
    assert "10 of 10 networks" in claims.c1(table).evidence
    table.loc[3, "rescaled"] = 2e-8
    assert claims.c1(table).word == "partly reproduced"
    table["refused"] = table["refused"].astype(object)
    table.loc[4, "refused"] = "an operation"
    assert claims.c1(table).word == "not reproduced"


def test_c8_asks_for_the_same_error_and_the_loss_restored():
    row = {"error, raw": 0.02, "error, normalised": 0.02, "loss, raw": 0.2,
           "loss, normalised": 0.9, "loss, restored": 0.2}  # fmt: skip
    assert claims.c8(pd.DataFrame([row, row])).word == "reproduced"
    for column, value in (("error, normalised", 0.022), ("loss, restored", 0.202)):
        assert claims.c8(pd.DataFrame([row, {**row, column: value}])).word == "not reproduced"
    for size in (1e-4, 1.0, 100.0):  # a thousandth of the loss, whatever its size
        for off, word in ((1.0005, "reproduced"), (1.002, "not reproduced")):
            scaled = {**row, "loss, raw": size, "loss, restored": size * off}
            assert claims.c8(pd.DataFrame([scaled])).word == word


@pytest.mark.parametrize("name", claims.CLAIMS)
def test_every_claim_says_what_it_asks_for_and_decides_the_kept_runs(name):
    claim = claims.CLAIMS[name]
    assert len(claim.asked) > 40
    assert claim.page in parameters.names()
    for runs in zip(*(references.kept(claim.page, table) for table in claim.tables), strict=True):
        word, evidence = claim.test(*(run.table for run in runs))
        assert word in ("reproduced", "partly reproduced", "not reproduced", "not decided")
        assert len(evidence) > 20


def binary_pairs(aligned, found):
    """Barriers of binary pairs within each algorithm, two pairs of two orders each."""
    rows = []
    for alignment, heights in (("aligned", aligned), ("as found", found)):
        for kind, pair in zip(claims.WITHIN, heights, strict=True):
            for number, height in enumerate(pair):
                what = {"kind": kind, "pair": number, **claims.BINARY, "alignment": alignment}
                rows += [{**what, "order": k, "barrier": height * (0.5 + k)} for k in range(2)]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("aligned", "found", "energy", "word"),
    [
        ((LOW, MIDDLE, HIGH), (HIGH, HIGH, (0.5, 0.6)), (1, 2, 3), "reproduced"),
        ((LOW, MIDDLE, HIGH), (HIGH, HIGH, (0.5, 0.6)), (2, 1, 3), "partly reproduced"),
        ((LOW, MIDDLE, HIGH), (HIGH, HIGH, LOW), (1, 2, 3), "partly reproduced"),
        ((LOW, HIGH, MIDDLE), (HIGH, (0.5, 0.6), HIGH), (1, 2, 3), "partly reproduced"),
        ((LOW, LOW, (0.002, 0.003)), (HIGH, HIGH, LOW), (1, 2, 3), "not reproduced"),
    ],
)
def test_c7_asks_for_both_orders_and_for_alignment(aligned, found, energy, word):
    flat = pd.DataFrame({"algorithm": claims.ALGORITHMS, "local energy": energy})
    barriers = binary_pairs(aligned, found)
    assert claims.c7(barriers, flat).word == word
    noise = barriers.assign(path="greedy order", barrier=1.0)  # other rows do not count
    assert claims.c7(pd.concat([barriers, noise]), flat).word == word
    assert claims.c7(barriers, flat.iloc[:2]).word == "not decided"
    assert claims.c7(barriers[barriers["kind"] != "ADV-ADV"], flat).word == "not decided"


def exact_points(off):
    return pd.DataFrame({"curve": "path", "measured": [0.1, 0.2 + off * 0.01], "exact": [0.1, 0.2], "standard_error": 0.01})  # fmt: skip


@pytest.mark.parametrize(
    ("off", "numbers", "word"),
    [
        (3.9, {"star": 0.0, "dense": 1.0}, "reproduced"),
        (-4.1, {"star": 0.0, "dense": 1.0}, "not reproduced"),
        (0.0, {"star": 0.0, "dense": 1.0, "flat": 1.01}, "partly reproduced"),
        (0.0, {"star": 0.0, "dense": 0.0}, "not reproduced"),  # half is not more than half
    ],
)
def test_c9_wants_every_point_and_every_prediction(off, numbers, word):
    verdict = claims.c9(exact_points(off), predictions.predicted(numbers))
    assert verdict.word == word
    assert f"{abs(off):.2f} standard errors" in verdict.evidence
    assert ("not: flat." in verdict.evidence) == ("flat" in numbers)


def test_every_prediction_is_decided_by_its_bound():
    at = {name: p.bound for name, p in predictions.PREDICTIONS.items()}
    assert predictions.predicted(at)["holds"].all()
    beyond = {
        name: p.bound + (1e-9 if p.relation == "<=" else -1e-9)
        for name, p in predictions.PREDICTIONS.items()
    }
    assert not predictions.predicted(beyond)["holds"].any()
    assert not predictions.predicted({"star": float("nan")})["holds"].any()
    with pytest.raises(ValueError, match="no prediction stars; there are convex"):
        predictions.predicted({"stars": 0.0})
