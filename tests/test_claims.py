"""The claims' tests, on made-up tables whose answer is known."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr
from toroid.book import claims, parameters, predictions, references
from toroid.book.claims import NOT, PARTLY, REPRODUCED, UNDECIDED, UNTRAINED, WITHIN, Run

ALGORITHMS = claims.ALGORITHMS
SEEDS = (0, 1, 2)
PAIRS = [*itertools.combinations(SEEDS, 2)]


def run_of(scale=None, **tables):
    """A run that meets every precondition, unless `scale` or a table says otherwise."""
    usual = {"training images": 50_000, "width": 1.0, "places": 25, "images": 10_000}
    minimizers = pd.DataFrame(
        [
            {"algorithm": a, "seed": s, "train_error": 0.0, "test_error": 0.1, "failed": np.nan}
            for a, s in itertools.product(ALGORITHMS, SEEDS)
        ]
    )
    tables = {
        "minimizers": minimizers,
        "scale": pd.DataFrame([{**usual, **(scale or {})}]),
        **tables,
    }
    return Run.of("made up", tables, {})


def pairs_of(kind, heights, seeds=PAIRS, **columns):
    """Rows of a table of pairs, one for each height."""
    return [
        {"kind": kind, "pair": f"{a}-{b}", "first_seed": a, "second_seed": b, **columns, "barrier": height}
        for (a, b), height in zip(seeds, heights, strict=True)
    ]  # fmt: skip


FLAT, SHARP = (0.02, 0.021, 0.022), (0.2, 0.21, 0.22)


def curved(after, before, more=()):
    """Barriers of RSGD and ADV pairs, after and before; SGD pairs lie between."""
    rows = []
    for treatment, heights in ((claims.AFTER, after), (claims.BEFORE, before), *more):
        flat, sharp = (np.array(h) for h in heights)
        method = {"method": "sequential" if treatment["alignment"] == "aligned" else "none"}
        what = {**treatment, **method, "matched": treatment["weights"], "split": "train"}
        for kind, height in zip(WITHIN, (flat, (flat + sharp) / 2, sharp), strict=True):
            rows += pairs_of(kind, height, **what)
    return pd.DataFrame(rows)


# --- preconditions and the decisive run ----------------------------------------------------------


def failed(run):
    table = run["minimizers"].copy()
    table["failed"] = table["failed"].astype(object)
    table.loc[4, "failed"] = "replicas apart"
    return {"minimizers": table}


def unlearnt(run):
    table = run["minimizers"].copy()
    table.loc[0, "train_error"] = 0.006  # of a centre of RSGD
    return {"minimizers": table}


BREAKS = {
    "training error": unlearnt,
    "failure": failed,
    "not kept": lambda run: {"minimizers": pd.DataFrame()},
    "seeds": lambda run: {"minimizers": run["minimizers"].query("seed < 2")},
    "pairs": lambda run: {"barriers": run["barriers"].drop_duplicates(["kind", "alignment"])},
    "places": lambda run: {"scale": run["scale"].assign(places=10)},
    "images": lambda run: {"scale": run["scale"].assign(images=1999)},
}


@pytest.mark.parametrize("what", BREAKS)
def test_no_verdict_is_had_from_a_run_that_misses_a_precondition(what):
    good = run_of(barriers=curved((FLAT, SHARP), (SHARP, SHARP)))
    assert claims.c2(good).word == REPRODUCED
    bad = Run.of("bad", {**good.tables, **BREAKS[what](good)}, {})
    for verdict in (claims.c2(bad), claims.c5(bad)):
        assert verdict.word == UNDECIDED
        assert what in " ".join(verdict.missing)


def test_at_the_bounds_the_preconditions_are_met():
    run = run_of(
        {"places": 11, "images": 2000}, barriers=curved((FLAT, SHARP), (SHARP, SHARP))
    )  # fmt: skip
    run["minimizers"]["train_error"] = 0.005
    assert claims.c2(run).missing == ()
    other = run["minimizers"].assign(algorithm="sgd_decayed", train_error=0.9)
    more = Run.of("", {**run.tables, "minimizers": pd.concat([run["minimizers"], other])}, {})
    assert claims.c2(more).missing == ()  # a control's networks are not the claim's


def test_a_verdict_without_what_it_needs_cannot_be_written():
    with pytest.raises(ValueError, match="no verdict"):
        claims.Verdict(REPRODUCED, "", missing=("seeds",))
    with pytest.raises(ValueError, match="no verdict"):
        claims.Verdict(UNDECIDED, "")


@given(
    st.permutations(range(5)),
    st.lists(
        st.tuples(st.booleans(), st.integers(1, 3), st.integers(1, 2)), min_size=5, max_size=5
    ),
)
@settings(max_examples=5, deadline=None)
def test_the_decisive_run_meets_the_preconditions_and_is_the_largest(order, sizes):
    table = curved((FLAT, SHARP), (SHARP, SHARP))
    runs = [
        Run.of(
            str(k),
            run_of(
                {"training images": n, "width": w, "images": 2000 if good else 10}, barriers=table
            ).tables,
            {},
        )
        for k, (good, n, w) in enumerate(sizes)
    ]
    found = claims.decide("C2", [runs[k] for k in order])
    best = max((good, n, w) for good, n, w in sizes)
    assert sizes[int(found.run.label)] == best
    assert (found.verdict.word == UNDECIDED) == (not best[0])
    assert len(found.all) == 5


def test_what_was_kept_when_the_tests_were_fixed_is_marked():
    for page in ("connectivity", "bend", "shallow"):
        for run in references.runs(page):
            assert run.seen == ("scale" not in run.tables)
    assert not Run.of("new", {}, {}, stamp="0" * 64).seen


# --- the bootstrap -------------------------------------------------------------------------------


def test_networks_are_drawn_and_not_pairs():
    """Against a loop over draws that is written out."""
    generator = np.random.default_rng(3)
    table = pd.DataFrame([
        {"kind": "RSGD-ADV", "first_seed": a, "second_seed": b, "barrier": generator.random()}
        for a in range(3) for b in range(4)
    ] + pairs_of("ADV-ADV", generator.random(6), [*itertools.combinations(range(4), 2)]))  # fmt: skip
    drawn = claims.Networks(table, draws=50)
    for kind in ("RSGD-ADV", "ADV-ADV"):
        part = table[table["kind"] == kind]
        found = drawn.mean(part, part["barrier"])
        assert found.value == pytest.approx(part["barrier"].mean())
        for counts, mean in zip(drawn.counts, found.draws, strict=True):
            count = {end: counts[place] for end, place in drawn.place.items()}
            assert sum(count["RSGD", s] for s in range(3)) == 3
            first, second = kind.split("-")
            values = [
                row.barrier
                for row in part.itertuples()
                for _ in range(int(count[first, row.first_seed] * count[second, row.second_seed]))
            ]
            assert np.isnan(mean) if not values else mean == pytest.approx(np.mean(values))


@given(st.permutations(range(10, 14)))
@settings(max_examples=4, deadline=None)
def test_what_seeds_are_called_does_not_matter(names):
    seeds = [*itertools.combinations(range(4), 2)]
    heights = np.random.default_rng(0).random((4, 6))
    tables = []
    for call in (lambda s: s, lambda s: names[s]):
        called = [(call(a), call(b)) for a, b in seeds]
        rows = [
            row
            for treatment, (flat, sharp) in zip((claims.AFTER, claims.BEFORE), heights.reshape(2, 2, 6), strict=True)
            for kind, h in zip((WITHIN[0], WITHIN[-1]), (flat, sharp), strict=True)
            for row in pairs_of(kind, h, called, **treatment, split="train")
        ]  # fmt: skip
        tables.append(run_of(barriers=pd.DataFrame(rows)))
    first, second = map(claims.c2, tables)
    assert first.number == second.number
    assert first.parts == second.parts


def simulated(generator, networks, effect):
    """Pairs whose number is the sum of one of each network, and a little of their own."""
    rows = []
    for kind, shift in ((WITHIN[0], 0.0), (WITHIN[-1], effect)):
        own = generator.normal(size=networks)
        for a, b in itertools.combinations(range(networks), 2):
            value = shift + own[a] + own[b] + 0.3 * generator.normal()
            rows.append({"kind": kind, "first_seed": a, "second_seed": b, "barrier": value})
    return pd.DataFrame(rows)


def test_an_interval_over_networks_covers_what_one_over_pairs_misses():
    generator, covered, of_pairs, runs = np.random.default_rng(1), 0, 0, 150
    for _ in range(runs):
        table = simulated(generator, 8, 3.0)
        drawn = claims.Networks(table, draws=400)
        parts = [table[table["kind"] == kind] for kind in (WITHIN[-1], WITHIN[0])]
        sharp, flat = (drawn.mean(part, part["barrier"]) for part in parts)
        found = (sharp - flat).estimate
        covered += found.low <= 3.0 <= found.high
        values = [part["barrier"].to_numpy() for part in parts]
        means = [v[generator.integers(len(v), size=(400, len(v)))].mean(1) for v in values]
        low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
        of_pairs += low <= 3.0 <= high
    assert 0.85 <= covered / runs <= 0.99
    assert of_pairs / runs < 0.8


def test_nothing_over_nothing_is_one_and_something_over_nothing_infinite():
    table = curved(((0.0, 0.0, 0.0), SHARP), ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)))
    verdict = claims.c2(run_of(barriers=table))
    assert verdict.word == REPRODUCED
    assert verdict.number.value == np.inf
    assert "infinite" in verdict.parts["after"]
    assert verdict.parts["before"].startswith("ratio 1.00")


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), min_size=4, max_size=12
    )
)
@settings(max_examples=30, deadline=None)
def test_correlations_are_those_of_scipy(rows):
    x, y, _ = map(pd.Series, zip(*rows, strict=True))
    found = claims.correlation(x, y)
    if min(x.nunique(), y.nunique()) < 2:
        assert np.isnan(found["tau"].value)
        return
    assert found["tau"].value == pytest.approx(kendalltau(x, y)[0])
    assert found["rho"].value == pytest.approx(spearmanr(x, y)[0])
    assert found["tau"].low <= found["tau"].high


def test_the_draws_of_a_correlation_are_of_whole_settings():
    """Networks of one setting that agree are no more evidence than one of them."""
    generator = np.random.default_rng(1)
    x = pd.Series(generator.normal(size=12))
    y = x + generator.normal(size=12)
    alone = claims.correlation(x, y)["tau"]
    thrice = [pd.concat([v] * 3, ignore_index=True) for v in (x, y)]
    together = claims.correlation(*thrice, [*range(12)] * 3)["tau"]
    apart = claims.correlation(*thrice)["tau"]
    assert (alone.low, alone.high) == pytest.approx((together.low, together.high), abs=0.06)
    assert apart.high - apart.low < 0.75 * (together.high - together.low)


def test_three_disjoint_ranges_by_chance():
    generator = np.random.default_rng(0)
    values = generator.random((100_000, 3, 3))
    low, high = values.min(-1), values.max(-1)
    ordered = ((high[:, 0] < low[:, 1]) & (high[:, 1] < low[:, 2])).mean()
    chance = claims.Chance.of(3)
    assert chance.one_order == pytest.approx(ordered, abs=3e-4)
    assert chance.any_order == pytest.approx(6 * chance.one_order)
    assert chance.shared > chance.one_order  # pairs that share networks are alike


# --- C2 and C5 -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "before", "word"),
    [
        ((FLAT, SHARP), (SHARP, SHARP), REPRODUCED),  # nothing to see before
        ((FLAT, SHARP), ((0.2, 0.2, 0.2), (0.24, 0.24, 0.24)), REPRODUCED),  # a ratio of 1.2
        ((FLAT, SHARP), ((0.2, 0.2, 0.2), (0.26, 0.26, 0.26)), PARTLY),  # amplified
        ((FLAT, SHARP), ((0.01, 0.01, 0.01), (0.3, 0.3, 0.3)), NOT),  # more to see before
        ((FLAT, (0.03, 0.031, 0.032)), (SHARP, SHARP), NOT),  # a ratio below 2
        ((SHARP, FLAT), (FLAT, FLAT), NOT),  # the wrong way round
    ],
)
def test_c2_asks_for_a_contrast_after_and_none_before(after, before, word):
    verdict = claims.c2(run_of(barriers=curved(after, before)))
    assert verdict.word == word
    assert verdict.number.value == pytest.approx(np.mean(after[1]) / np.mean(after[0]))
    assert (verdict.networks, verdict.pairs) == (6, 6)


def test_a_swap_of_two_flat_algorithms_does_not_hide_a_contrast_before():
    """Four points against twenty-four are visible, whatever stands between them."""
    flat, sharp = (0.047,) * 3, (0.239,) * 3
    table = curved((FLAT, SHARP), (flat, sharp))
    found = (table["kind"] == "SGD-SGD") & (table["alignment"] == "as found")
    table.loc[found, "barrier"] = 0.04  # SGD below RSGD
    assert claims.c2(run_of(barriers=table)).word == PARTLY


def test_what_weight_decay_does_stands_beside_the_contrast():
    table = curved((FLAT, SHARP), (FLAT, SHARP))
    like = table[(table["kind"] == "SGD-SGD") & (table["alignment"] == "aligned")]
    more = pd.concat([table, like.assign(kind="SGD+-SGD+", barrier=0.05)])
    found = claims.contrasts(run_of(barriers=more)).set_index("alignment")
    assert found.loc["aligned", "SGD+"].value == pytest.approx(5)
    assert pd.isna(found.loc["as found", "SGD+"])
    assert "SGD+" not in claims.contrasts(run_of(barriers=table))
    assert claims.c2(run_of(barriers=more)).number == claims.c2(run_of(barriers=table)).number
    complete = ((FLAT, SHARP), (FLAT, SHARP), *(
        [{"weights": w, "path": p, "alignment": a}, (FLAT, SHARP)]
        for w, p, a in (("raw", "straight", "aligned"), ("normalised", "geodesic", "as found"))
    ))  # fmt: skip
    table = curved(*complete[:2], complete[2:])
    like = table[(table["kind"] == "SGD-SGD") & (table["alignment"] == "aligned")]
    more = pd.concat([table, like.assign(kind="SGD+-SGD+", barrier=0.05)])
    assert "weight decay leaves 5.00;" in claims.shows("connectivity", run_of(barriers=more))
    assert "weight decay" not in claims.shows("connectivity", run_of(barriers=table))


def test_each_symmetry_is_looked_at_alone():
    alone = [
        ({"weights": "raw", "path": "straight", "alignment": "aligned"}, ((0.03,) * 3, (0.3,) * 3)),
        ({"weights": "normalised", "path": "geodesic", "alignment": "as found"}, ((0.4,) * 3,) * 2),
    ]
    run = run_of(barriers=curved((FLAT, SHARP), (SHARP, SHARP), alone))
    parts = claims.c2(run).parts
    assert parts["permutations alone"].startswith("ratio 10.00 (10.00 to 10.00)")
    assert parts["scales alone"].startswith("ratio 1.00 (1.00 to 1.00)")
    assert len(claims.contrasts(run)) == 4
    said = claims.shows("connectivity", run)
    assert "the geodesic lowers barriers beyond the permutations" in said
    worse = run["barriers"].copy()
    worse.loc[(worse["path"] == "geodesic") & (worse["alignment"] == "aligned"), "barrier"] += 0.1
    said = claims.shows("connectivity", run_of(barriers=worse))
    assert "the permutations do the work, and the geodesic does not lower barriers" in said


def test_without_sharp_minima_the_flat_ones_are_still_told_of():
    """As ADV was not trained: no contrast, and which symmetry does the work all the same."""
    alone = [
        ({"weights": "raw", "path": "straight", "alignment": "aligned"}, ((0.5,) * 3, SHARP)),
        ({"weights": "normalised", "path": "geodesic", "alignment": "as found"}, ((0.9,) * 3,) * 2),
    ]
    table = curved(((0.3,) * 3, SHARP), ((0.9,) * 3, SHARP), alone)
    run = run_of(barriers=table[table["kind"] != "ADV-ADV"])
    said = claims.shows("connectivity", run)
    assert said.startswith("This run has no sharp minima")
    assert "lowers barriers beyond the permutations" in said
    assert "30.00 points are left" in said
    found = claims.contrasts(run)
    assert len(found) == 4
    assert {"ADV", "contrast", "ratio"}.isdisjoint(found)
    verdict = claims.c5(run)
    assert (verdict.word, verdict.regardless) == (UNDECIDED, NOT)
    assert any("each kind" in what for what in verdict.missing)


def test_the_gain_of_the_geodesic_is_that_of_one_permutation():
    way = {"alignment": "aligned", "method": "coordinate", "split": "train", "matched": "raw"}
    lines = {"raw": ("straight", (0.5, 0.6, 0.7)), "normalised": ("geodesic", (0.1, 0.2, 0.3))}
    rows = [
        row
        for weights, (path, heights) in lines.items()
        for row in pairs_of("SGD-SGD", heights, **way, weights=weights, path=path)
    ]
    other = pairs_of(
        "SGD-SGD", (0.0,) * 3, **{**way, "matched": "normalised"}, weights="raw", path="straight"
    )
    found = claims.gains(run_of(barriers=pd.DataFrame([*rows, *other])))
    assert found[["pairs", "method", "matched"]].to_numpy().tolist() == [
        ["SGD-SGD", "coordinate", "raw"]
    ]
    assert found[["straight", "geodesic", "gain"]].to_numpy()[0] == pytest.approx([60, 20, 40])


def test_a_summary_tells_of_the_largest_run_beside_the_decisive_one():
    small = run_of(barriers=curved((FLAT, SHARP), (SHARP, SHARP)))
    table = small["barriers"]
    large = replace(run_of(barriers=table[table["kind"] != "ADV-ADV"]), label="large")
    first, both = claims.shows("connectivity", small), [small, large]
    said = claims.summary("connectivity", both, "C2")
    assert said.startswith(f"{first} On large: this run")
    assert claims.summary("connectivity", [small], "C2") == first
    assert claims.summary("connectivity", both) == claims.shows("connectivity", large)
    assert claims.summary("connectivity", [], "C2") == "No run is kept."


def matched(table, method, weights, heights):
    """The table with RSGD pairs, aligned on the geodesic, under another matching."""
    what = {**claims.AFTER, "method": method, "matched": weights, "split": "train"}
    rows = [pairs_of(kind, heights, **what) for kind in WITHIN]
    return pd.concat([table, pd.DataFrame(itertools.chain(*rows))], ignore_index=True)


@pytest.mark.parametrize(
    ("after", "before", "word"),
    [
        ((0.001, 0.002, 0.0099), 0.02, REPRODUCED),
        ((0.001, 0.002, 0.011), 0.2, PARTLY),  # a mean below 5 points and below a fifth
        ((0.001, 0.002, 0.011), 0.02, NOT),  # not below a fifth
        ((0.06, 0.06, 0.06), 0.9, NOT),  # not below 5 points
    ],
)
def test_c5_asks_for_every_pair_of_the_flattest(after, before, word):
    table = curved((after, SHARP), ((before,) * 3, SHARP))
    verdict = claims.c5(run_of(barriers=table))
    assert verdict.word == word
    assert verdict.number.value == pytest.approx(100 * np.mean(after))


def test_c5_is_partly_reproduced_by_another_matching_and_says_by_which():
    table = curved(((0.06,) * 3, SHARP), ((0.2,) * 3, SHARP))
    high = matched(table, "coordinate", "raw", (0.02,) * 3)
    assert claims.c5(run_of(barriers=high)).word == NOT
    low = matched(high, "activation", "values", (0.009,) * 3)
    verdict = claims.c5(run_of(barriers=low))
    assert verdict.word == PARTLY
    assert "below 1 with activation matching" in verdict.evidence
    beside = claims.by_matching("C5", run_of(barriers=low))
    assert {k: v.word for k, v in beside.items()} == {
        "sequential matching": PARTLY, "coordinate matching of raw weights": PARTLY,
        "activation matching": REPRODUCED,
    }  # fmt: skip


def test_other_splits_paths_and_matchings_change_no_verdict():
    table = curved((FLAT, SHARP), (SHARP, SHARP))
    noise = pd.concat([
        table.assign(split="test", barrier=9.0),
        table.assign(path="bent", barrier=9.0),
        table.assign(method="coordinate", barrier=9.0)[table["alignment"] == "aligned"],
    ])  # fmt: skip
    first, second = (claims.c2(run_of(barriers=t)) for t in (table, pd.concat([table, noise])))
    assert first == second


# --- C3 ------------------------------------------------------------------------------------------


def energies(flat=0.1, middle=0.2, sharp=0.3, errors=(0.01, 0.02, 0.03), arch="mlp"):
    """Twelve networks of four settings; test errors follow flatness within each algorithm too."""
    rows = [
        {"arch": arch, "width": 1.0, "lr": lr, "batch_size": 128, "seed": seed, "algorithm": name,
         "local energy": energy + 0.001 * (seed + lr), "test_error": error + 0.0001 * (seed + lr),
         "train_error": 0.0, "failed": np.nan}
        for name, energy, error in zip(ALGORITHMS, (flat, middle, sharp), errors, strict=True)
        for seed, lr in itertools.product(SEEDS, (0.1, 0.2))
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("table", "word"),
    [
        (energies(), REPRODUCED),
        (energies(errors=(0.03, 0.02, 0.01)), NOT),  # ordered, predicts the contrary
        (energies(0.2, 0.1, 0.3, (0.02, 0.01, 0.03)), PARTLY),  # predicts, not ordered
        (energies(errors=(0.02, 0.0201, 0.04)).assign(
            test_error=lambda x: x["test_error"] - 0.04 * x["local energy"].where(
                x["algorithm"] != "adversarial", 0)), PARTLY),  # without ADV it is the contrary
        (pd.concat([energies(), energies(0.3, 0.2, 0.1, arch="lenet")]), NOT),  # in one network only
    ],
)  # fmt: skip
def test_c3_asks_for_the_order_and_the_prediction(table, word):
    assert claims.c3(run_of(flatness=table)).word == word


@pytest.mark.parametrize("pair", [0, 1])
def test_c3_compares_networks_of_one_setting_and_seed(pair):
    table = energies()
    lower, upper = ALGORITHMS[pair : pair + 2]
    rows = [table.index[table["algorithm"] == name] for name in (lower, upper)]
    for swapped, ordered in ((1, True), (2, False)):  # 5 of 6 are enough, 4 of 6 are not
        turned = table.copy()
        values = [table.loc[r[:swapped], "local energy"].to_numpy() for r in rows]
        turned.loc[rows[0][:swapped], "local energy"] = values[1]
        turned.loc[rows[1][:swapped], "local energy"] = values[0]
        assert claims.Flatness.of(turned).ordered == ordered


def test_c3_does_not_count_other_algorithms_and_notices_who_is_left_out():
    table = energies()
    control = table[table["algorithm"] == "sgd"].assign(algorithm="sgd_decayed", test_error=0.9)
    assert claims.c3(run_of(flatness=pd.concat([table, control]))) == claims.c3(
        run_of(flatness=table)
    )
    verdict = claims.c3(run_of(flatness=table.drop(index=3)))
    assert verdict.word == UNDECIDED
    assert "1 networks of MLP" in verdict.missing[0]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_how_much_weight_decay_does_is_known_where_it_is_planted(share):
    table = energies()
    control = table[table["algorithm"] == "sgd"].assign(algorithm="sgd_decayed")
    control["local energy"] -= share * 0.1
    found = claims.decay_share(pd.concat([table, control]))
    assert found.value == pytest.approx(share)
    assert found.low == pytest.approx(found.high) == pytest.approx(share)
    assert np.isnan(claims.decay_share(table).value)


def test_intervals_over_few_settings_are_said_to_be_too_narrow():
    table = energies()
    few = table[table["seed"] < 2]
    assert "narrower than they should be" in claims.c3(run_of(flatness=few)).evidence
    assert "narrower than they should be" not in claims.c3(run_of(flatness=table)).evidence


# --- C4 ------------------------------------------------------------------------------------------


def apart(flat, middle, sharp, untrained=1.5, column="angle", **more):
    """Aligned pairs and their distances; a little of each network's own."""
    rows = []
    for kind, angle in zip((*WITHIN, UNTRAINED), (flat, middle, sharp, untrained), strict=True):
        rows += pairs_of(
            kind, angle + np.array([0, 1e-3, 2e-3]), alignment="aligned", method="sequential",
            matched="normalised", **more,
        )  # fmt: skip
    return pd.DataFrame(rows).rename(columns={"barrier": column})


@pytest.mark.parametrize(
    ("angles", "word"),
    [
        ((1.2, 1.3, 1.4), REPRODUCED),
        ((1.45, 1.46, 1.47), PARTLY),  # three hundredths closer than untrained networks
        ((1.2, 1.4, 1.3), NOT),
        ((1.4, 1.3, 1.2), NOT),
        ((1.3, 1.3, 1.3), NOT),
    ],
)
def test_c4_asks_for_more_than_untrained_networks_are(angles, word):
    verdict = claims.c4(run_of(distances=apart(*angles)))
    assert verdict.word == word
    assert verdict.number.value == pytest.approx(1 - (angles[0] + 0.001) / 1.501)
    assert (verdict.networks, verdict.pairs) == (9, 9)


def test_c4_is_of_weights_alone_where_there_is_batchnorm():
    table = apart(1.2, 1.3, 1.4, column="angle, weights").assign(angle=1.0)
    assert claims.c4(run_of(distances=table.assign(**{"angle, BatchNorm": 0.1}))).word == REPRODUCED
    assert claims.c4(run_of(distances=table.assign(**{"angle, BatchNorm": np.nan}))).word == NOT


def test_c4_is_not_decided_without_untrained_pairs():
    table = apart(1.2, 1.3, 1.4).query("kind != @UNTRAINED")
    verdict = claims.c4(run_of(distances=table))
    assert verdict.word == UNDECIDED
    assert verdict.missing == ("distances of untrained pairs (not kept)",)


def test_c4_has_the_share_of_images_on_which_pairs_differ_beside_it():
    parts = claims.c4(run_of(distances=apart(1.2, 1.3, 1.4, disagreement=0.07))).parts
    assert parts["test images predicted differently, RSGD (%)"] == "7.00 (7.00 to 7.00)"


# --- C6 ------------------------------------------------------------------------------------------

KINDS = [*WITHIN, "RSGD-SGD", "RSGD-ADV", "SGD-ADV"]


def chained(worst, ends=0.0, converged=True, weights="normalised", alignment="aligned"):
    """Chains of all kinds of pairs, with their largest error."""
    rows = [
        row
        for kind, errors in zip(KINDS, np.array(worst).reshape(6, 3), strict=True)
        for row in pairs_of(kind, errors, weights=weights, alignment=alignment)
    ]
    table = pd.DataFrame(rows).rename(columns={"barrier": "chain, train"})
    return table.assign(**{"ends, train": ends, "converged": converged, "trained": 40})


@pytest.mark.parametrize(
    ("worst", "word"),
    [
        ([0.0009] * 18, REPRODUCED),
        ([0.0009] * 17 + [0.001], PARTLY),
        ([0.0] * 10 + [0.1] * 8, PARTLY),
        ([0.0] * 8 + [0.1] * 10, NOT),
    ],
)
def test_c6_asks_for_every_chain_or_the_median_one(worst, word):
    verdict = claims.c6(run_of(chains=chained(worst)))
    assert verdict.word == word
    assert verdict.number.value == pytest.approx(100 * np.median(worst))
    assert "trained for 40 epochs" in verdict.evidence


def test_whether_alignment_helps_a_bend_is_said():
    good, bad = chained([0.0] * 18), chained([0.1] * 18, alignment="as found")
    alike = chained([0.0] * 18, alignment="as found")
    for other, words in ((bad, "more of them succeed between aligned"), (alike, "does not show")):
        chains = pd.concat([good, other]).assign(**{"segment, train": 0.3})
        assert words in claims.shows("bend", run_of(chains=chains))


def test_c6_has_a_verdict_for_each_treatment():
    other = chained([0.1] * 18, weights="raw", alignment="as found")
    run = run_of(chains=pd.concat([chained([0.0] * 18), other]))
    words = {name: verdict.word for name, verdict in claims.by_treatment(run).items()}
    assert words["normalised, aligned"] == claims.c6(run).word == REPRODUCED
    assert words["raw, as found"] == NOT
    assert words["raw, aligned"] == UNDECIDED


def test_c6_is_not_decided_by_a_chain_whose_loss_still_fell():
    table = chained([0.0] * 17 + [0.1], converged=[True] * 17 + [False])
    verdict = claims.c6(run_of(chains=table))
    assert verdict.word == UNDECIDED
    assert "1 of 18 still do" in verdict.missing[0]
    done = chained([0.0] * 18, converged=False)  # nothing more to reach
    assert claims.c6(run_of(chains=done)).word == REPRODUCED


def test_c6_of_a_run_that_did_not_keep_how_training_ended():
    """It matters only where a chain has not succeeded."""
    good, bad = (chained([0.0] * 17 + [h]).drop(columns=["converged", "trained"]) for h in (0, 0.1))
    assert claims.c6(run_of(chains=good)).word == REPRODUCED
    assert "still fell" in claims.c6(run_of(chains=bad)).missing[0]


def test_c6_does_not_count_chains_whose_ends_have_errors():
    bad = chained([0.0] * 17 + [0.1], ends=[0.0] * 17 + [0.002])
    verdict = claims.c6(run_of(chains=bad))
    assert verdict.word == UNDECIDED  # two pairs of the last kind are left
    assert verdict.parts["ends above 0.1 %, not counted"] == "1 of 18"
    assert "SGD-ADV 2" in verdict.missing[0]


# --- C7 ------------------------------------------------------------------------------------------


def binary(aligned, found, flat=0.3, middle=0.35, sharp=0.4, energy=(0.1, 0.2, 0.3)):
    """A run of binary networks; each pair has two orders, which average to its height."""
    rows = []
    for alignment, heights in (("aligned", aligned), ("as found", found)):
        low, high = (np.array(h) for h in heights)
        for kind, height in zip(WITHIN, (low, (low + high) / 2, high), strict=True):
            for order in range(2):
                what = {
                    "weights": "binary",
                    "path": "random order",
                    "order": order,
                    "split": "train",
                }
                rows += pairs_of(kind, height * (0.5 + order), alignment=alignment, **what)
    away = apart(flat, middle, sharp, 0.45, column="aligned").drop(columns=["alignment"])
    return run_of(
        barriers=pd.DataFrame(rows), distances=away, flatness=energies(*energy, arch="binary_mlp")
    )


@pytest.mark.parametrize(
    ("run", "word"),
    [
        (binary((FLAT, SHARP), ((0.5,) * 3, (0.5,) * 3)), REPRODUCED),
        (binary((FLAT, SHARP), ((0.5,) * 3, (0.5,) * 3), energy=(0.2, 0.1, 0.3)), PARTLY),
        (binary((FLAT, SHARP), ((0.5,) * 3, (0.1,) * 3), energy=(0.2, 0.1, 0.3)), PARTLY),
        (binary((SHARP, SHARP), ((0.5,) * 3, (0.1,) * 3), energy=(0.2, 0.1, 0.3)), NOT),
        (binary((SHARP, SHARP), ((0.5,) * 3, (0.5,) * 3), 0.44, energy=(0.2, 0.1, 0.3)), NOT),
    ],
)
def test_c7_asks_for_four_things(run, word):
    assert claims.c7(run).word == word


def test_c7_has_the_preconditions_of_its_parts():
    run = binary((FLAT, SHARP), ((0.5,) * 3, (0.5,) * 3))
    few = Run.of("", {**run.tables, "scale": run["scale"].assign(images=1000)}, {})
    assert claims.c7(few).word == UNDECIDED
    bare = Run.of("", {**run.tables, "distances": run["distances"].query("kind != @UNTRAINED")}, {})
    assert claims.c7(bare).missing == ("distances of untrained pairs (not kept)",)
    assert {*claims.parts_of(run)} == {"C2", "C4", "C5", "C6"}


# --- identities and theory -----------------------------------------------------------------------


def networks(**columns):
    row = {"network": "lenet", "refused": np.nan, "permuted": 1e-15, "rescaled": 1e-15,
           "normalised": 1e-14, "aligned": 1e-14, "apart": 1e-9, "found": 1.0, "units": 9,
           "hidden": 9, "why": np.nan}  # fmt: skip
    return Run.of("", {"classifiers": pd.DataFrame([row, {**row, **columns}])}, {})


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        ({}, REPRODUCED),
        ({"units": 5, "why": "4 meet in a residual stream"}, REPRODUCED),
        ({"rescaled": 1e-8}, NOT),
        ({"found": 0.99}, NOT),  # a package that finds no symmetry does not pass
        ({"apart": 1e-5}, NOT),
        ({"refused": "an operation"}, NOT),
        ({"units": 5}, UNDECIDED),  # nobody says why
        ({"apart": np.nan}, UNDECIDED),
    ],
)
def test_c1_asks_for_every_network_and_every_unit(columns, word):
    assert claims.c1(networks(**columns)).word == word


def test_c8_asks_for_the_same_error_and_the_loss_restored():
    row = {"error, raw": 0.02, "error, normalised": 0.02, "loss, raw": 0.2,
           "loss, normalised": 0.9, "loss, restored": 0.2}  # fmt: skip

    def word(**columns):
        table = pd.DataFrame([row, {**row, **columns}])
        return claims.c8(Run.of("", {"temperatures": table}, {})).word

    assert word() == REPRODUCED
    assert word(**{"error, normalised": 0.022}) == NOT
    for size in (1e-4, 1.0, 100.0):  # a thousandth of the loss, whatever its size
        for off, expected in ((1.0005, REPRODUCED), (1.002, NOT)):
            assert word(**{"loss, raw": size, "loss, restored": size * off}) == expected


def theory(off, numbers, noise=0.01):
    points = pd.DataFrame({"curve": "path", "measured": [0.1, 0.2 + off * 0.01], "exact": [0.1, 0.2],
                           "standard_error": [0.001, noise]})  # fmt: skip
    return Run.of("", {"points": points, "predictions": predictions.predicted(numbers)}, {})


@pytest.mark.parametrize(
    ("off", "numbers", "word"),
    [
        (3.9, {"star": 0.0, "dense": 1.0}, REPRODUCED),
        (-4.1, {"star": 0.0, "dense": 1.0}, NOT),
        (0.0, {"star": 0.0, "dense": 1.0, "flat": 1.01}, PARTLY),
        (0.0, {"star": 0.0, "dense": 0.0}, NOT),  # half is not more than half
    ],
)
def test_c9_wants_every_point_and_every_prediction(off, numbers, word):
    verdict = claims.c9(theory(off, numbers))
    assert verdict.word == word
    assert ("not: flat." in verdict.evidence) == ("flat" in numbers)


def test_a_noisy_point_counts_for_nothing():
    assert claims.c9(theory(10.0, {"star": 0.0})).word == NOT
    noisy = claims.c9(theory(10.0, {"star": 0.0}, noise=0.1))
    assert noisy.word == REPRODUCED
    assert noisy.parts["points that count"] == "1 of 2"
    run = theory(0.0, {"star": 0.0})
    more = pd.DataFrame({"measured": [0.1, 0.1, 0.0], "standard_error": [0.01, 0.02, 0.01]})
    both = Run.of("", {**run.tables, "negative": more, "overlaps": more}, {})
    assert "of those held to theory 4 are too noisy to count" in claims.c9(both).evidence


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


# --- the baseline ---------------------------------------------------------------------------------


def with_baseline(run, errors, **tables):
    """A run with networks of SGD+ of these training errors."""
    rows = [
        {"algorithm": "sgd_decayed", "seed": s, "train_error": e, "test_error": 0.1, "failed": np.nan}
        for s, e in enumerate(errors)
    ]  # fmt: skip
    minimizers = pd.concat([run["minimizers"], pd.DataFrame(rows)], ignore_index=True)
    return Run.of("made up", {**run.tables, "minimizers": minimizers, **tables}, {})


def baseline_of(table, heights):
    """A table of barriers, and pairs of SGD+ with these, wherever RSGD has pairs."""
    own = table[table["kind"] == WITHIN[0]]
    height = dict(zip(own["pair"].unique(), heights, strict=True))
    own = own.assign(kind="SGD+-SGD+", barrier=own["pair"].map(height))
    return pd.concat([table, own], ignore_index=True)


def test_networks_of_the_baseline_that_did_not_fit_are_in_no_mean_and_named():
    more = [
        (claims.BEFORE | {"alignment": "aligned"}, (FLAT, SHARP)),
        (claims.AFTER | {"alignment": "as found"}, (FLAT, SHARP)),
    ]
    table = baseline_of(curved((FLAT, SHARP), (SHARP, SHARP), more), (0.8, 0.7, 0.3))
    pair = table.loc[table["kind"] == "SGD+-SGD+", "pair"].unique()[-1]
    (lost,) = {0, 1, 2} - {int(seed) for seed in pair.split("-")}
    errors = [0.0072 if seed == lost else 0.001 for seed in range(3)]
    run = with_baseline(run_of(), errors, barriers=table)
    assert claims.means(run["barriers"], claims.AFTER)["SGD+"].value == pytest.approx(30)
    said = claims.shows("connectivity", run)
    left_out = "(1 of its networks left out with a training error of 0.72 %)"
    assert f"leaves 30.00 (one pair) {left_out}" in said
    assert claims.left_out([run]) == f"made up, seed {lost} with 0.72 %"
    fit = with_baseline(run_of(), [0.001] * 3, barriers=table)
    assert claims.means(fit["barriers"], claims.AFTER)["SGD+"].value == pytest.approx(60)
    assert claims.left_out([fit]) == "none"
    assert claims.c2(fit) == claims.c2(run)  # no verdict is about it


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_how_much_of_closeness_is_weight_decay_is_known_where_it_is_planted(share):
    table = apart(1.0, 1.2, 1.4)
    middle = table[table["kind"] == WITHIN[1]]["angle"].to_numpy()
    flat = table[table["kind"] == WITHIN[0]]
    own = flat.assign(kind="SGD+-SGD+", angle=middle + share * (flat["angle"].to_numpy() - middle))
    run = with_baseline(run_of(), [0.0] * 3, distances=pd.concat([table, own]))
    found = claims.closeness(run["distances"].query("alignment == 'aligned'"), "angle")
    assert claims.decay_closeness(found).value == pytest.approx(share)
    assert "closeness, SGD+" in claims.c4(run).parts
    assert "of the way from SGD to RSGD" in claims.shows("distances", run)
    assert claims.decay_closeness({k: v for k, v in found.items() if "+" not in k}) is None


# --- the claims, and what pages say --------------------------------------------------------------


@pytest.mark.parametrize("name", claims.CLAIMS)
def test_every_claim_says_what_it_asks_for_and_decides_the_kept_runs(name):
    claim = claims.CLAIMS[name]
    assert len(claim.asked) > 40
    assert len(claim.known) > 20
    assert claim.page in parameters.names()
    found = claims.decide(name, references.runs(claim.page))
    for run, verdict in found.all:
        assert verdict.word in claims.WORDS
        assert len(verdict.sentence) > 20
        assert len(claims.shows(claim.page, run)) > 40
    assert found.verdict in [verdict for _, verdict in found.all]


def test_the_answers_say_what_holds_what_in_part_what_does_not_and_what_is_open():
    table = curved((SHARP, SHARP), (SHARP, SHARP))
    flat = curved((FLAT, SHARP), (SHARP, SHARP))
    flat.loc[flat["kind"] == "RSGD-RSGD", "barrier"] = [0.001] * 3 + [0.2] * 3
    small = replace(run_of({"training images": 60_000}, barriers=flat), label="small")
    large = replace(run_of(barriers=table[table["kind"] != "ADV-ADV"]), label="large")
    decided = {
        "C5": claims.decide("C5", [small, large]), "C6": claims.decide("C6", []),
        "C8": claims.decide("C8", []),
    }  # fmt: skip
    holds, partly, against, unknown = claims.answers(decided)
    assert holds == (
        "What holds: barriers along the geodesics between flat minima are small (C5: small)."
    )
    assert partly == "What holds in part: nothing."
    assert against == "What does not hold: nothing."
    start = "What is open: C5 on large, which lacks 3 pairs of each kind ("
    assert unknown.startswith(start)
    assert "), not reproduced by the test alone: between flat minima" in unknown
    assert unknown.endswith("; C6, which lacks a kept run.")
    assert claims.answers({})[0] == "What holds: nothing."


def test_the_largest_run_is_told_whatever_it_misses():
    flat = curved((FLAT, SHARP), (SHARP, SHARP))
    small, large, last = (
        replace(run_of({"training images": n}, barriers=flat), label=label)
        for n, label in ((2_000, "small"), (60_000, "large"), (1_000, "last"))
    )
    lacking = replace(large, tables=large.tables | {"minimizers": pd.DataFrame()})
    told = claims.answers({"C5": claims.decide("C5", [small, lacking, last])})
    assert "C5 on small: " in told[1] + told[2]
    assert "C5 on last: " in told[1] + told[2]  # the last one is of another data set
    assert "C5 on large, which lacks training errors of the networks (not kept), " in told[3]
    decided = claims.decide("C5", [small, lacking, last])
    told = claims.answers(dict.fromkeys(("C2", "C4", "C5"), decided))
    assert "C2, C4 and C5 on large, which lacks training errors of the networks (not" in told[3]


def test_every_run_on_which_a_claim_fails_is_told():
    table, failing = curved((FLAT, SHARP), (SHARP, SHARP)), curved((SHARP, SHARP), (SHARP, SHARP))
    table.loc[table["kind"] == "RSGD-RSGD", "barrier"] = [0.001] * 3 + [0.2] * 3
    small, middle, large, last = (
        replace(run_of({"training images": n}, barriers=barriers), label=label)
        for n, label, barriers in (
            (2_000, "small", table), (4_000, "middle", failing), (60_000, "large", table),
            (1_000, "last", table),
        )
    )  # fmt: skip
    decided = claims.decide("C5", [small, middle, large, last])
    assert [verdict.word for _, verdict in decided.all] == [REPRODUCED, NOT, REPRODUCED, REPRODUCED]
    told = claims.answers({"C5": decided})
    assert "C5 on middle: between flat minima" in told[2]
    assert "C5 on small" not in " ".join(told)


def test_a_claim_that_holds_says_what_its_words_do_not():
    distances = apart(1.2, 1.3, 1.4)
    plain = [("replicated_sgd", 0.02), ("sgd", 0.01), ("adversarial", 0.3)]
    energies = pd.DataFrame(plain, columns=["algorithm", "local energy"])
    run = run_of(distances=distances, flatness=energies)
    (holds, *_) = claims.answers({"C4": claims.decide("C4", [run])})
    assert holds.endswith(
        "(C4: made up, in the order of the algorithms; by local energy SGD is the flattest there, "
        "with SGD 1.00, RSGD 2.00, ADV 30.00 points)."
    )
    energies.loc[0, "local energy"] = 0.005
    assert claims.flattest(run_of(flatness=energies)) == claims.flattest(run_of()) == ""


@pytest.mark.parametrize(
    ("word", "at"), [(claims.REPRODUCED, 0), (claims.PARTLY, 1), (claims.NOT, 2)]
)
def test_a_claim_is_told_as_far_as_it_holds_and_once(word, at):
    run = replace(run_of(barriers=curved((FLAT, SHARP), (SHARP, SHARP))), label="one")
    verdict = claims.Verdict(word, "RSGD is flatter in 0 of 3 pairs.")
    said = claims.answers({"C3": claims.Decided(run, verdict, [(run, verdict)])})
    told = (
        "C3: one" if word == claims.REPRODUCED else ": C3 on one: RSGD is flatter in 0 of 3 pairs."
    )
    assert told in said.pop(at)
    assert all(sentence.endswith(": nothing.") for sentence in said)


def test_the_ends_of_each_pair_are_its_barriers_before_and_after():
    run = run_of(barriers=curved((FLAT, SHARP), (SHARP, SHARP)))
    found = claims.ends(run).set_index(["algorithm", "pair"])
    assert found.loc["RSGD", "before"].tolist() == pytest.approx([20, 21, 22])
    assert found.loc["RSGD", "after"].tolist() == pytest.approx([2, 2.1, 2.2])
    assert sorted({*found.index.get_level_values(0)}) == ["ADV", "RSGD", "SGD"]
    assert "nothing can be said" in claims.work(run)  # each symmetry alone was not measured


def test_c1_is_about_the_networks_that_its_test_was_fixed_for():
    row = {"refused": "", "units": 2, "hidden": 2, "why": "", "apart": 0.0, "found": 1.0}
    row |= dict.fromkeys(("permuted", "rescaled", "normalised", "aligned"), 1e-12)
    table = pd.DataFrame([{"network": "resnet18", **row}, {"network": "vgg11", **row}])
    assert claims.c1(run_of(classifiers=table)).word == REPRODUCED
    table.loc[1, ["network", "aligned"]] = "timm/test_vit", 1e-7
    verdict = claims.c1(run_of(classifiers=table))
    assert (verdict.word, verdict.regardless) == (UNDECIDED, NOT)
    assert "1 are of timm" in verdict.missing[0]
    sentence = claims.shows("classifiers", run_of(classifiers=table))
    assert "1 of 1 network of torchvision and 1 of 1 network of timm are understood" in sentence


def test_what_merging_shows_is_the_share_that_the_geodesic_has_of_repair():
    heights = {
        ("raw straight", "alone"): 0.5,
        ("raw straight", "repair"): 0.3,
        ("geodesic", "alone"): 0.35,
    }
    curves = pd.DataFrame(
        [{"path": p, "repair": r, "t": t, "error": e if t == 0.5 else 0.1}
         for (p, r), e in heights.items() for t in (0.0, 0.5, 1.0)]
    )  # fmt: skip
    ways = {"one of them": 0.1, "Karcher mean": 0.2, "mean": 0.4, "ensemble of the outputs": 0.05}
    merged = pd.DataFrame(
        [{"trained on": "all images", "way": way, "error": error} for way, error in ways.items()]
    )
    said = claims.shows("merging", run_of(curves=curves, merged=merged))
    assert "gains 20.00 points" in said
    assert "without data, gains 15.00, 75 % of that" in said
    assert claims.freely(run_of(curves=curves)) == pytest.approx(15)
    assert "two networks (Karcher mean) errs on 20.00 %, one of them on 10.00 %" in said
    assert claims.shows("merging", run_of(curves=curves, merged=merged), 1).endswith("of that.")
    curves.loc[curves["repair"] == "repair", "error"] = 0.6
    worse = claims.shows("merging", run_of(curves=curves, merged=merged))
    assert "gains -10.00 points" in worse
    assert "% of that" not in worse


def test_nothing_is_said_of_a_run_without_tables():
    for name, claim in claims.CLAIMS.items():
        assert claim.test(Run.of("", {}, {})).word == UNDECIDED, name
    with pytest.raises(ValueError, match="no sentence for the page 'nothing'"):
        claims.shows("nothing", Run.of("", {}, {}))


def test_empirical_claims_are_counted_apart():
    kinds = Counter(claim.kind for claim in claims.CLAIMS.values())
    assert kinds == {"empirical": 6, "identity": 2, "theory": 1}
    made = {name: claims.Verdict(REPRODUCED, "") for name in claims.CLAIMS}
    assert claims.headline(made) == (
        "Of 6 empirical claims: 6 reproduced. The identities hold. Theory agrees."
    )
    made["C3"] = claims.Verdict(NOT, "")
    made["C1"] = claims.Verdict(UNDECIDED, "", missing=("why",))
    made["C8"] = claims.Verdict(NOT, "")
    assert claims.headline(made).startswith(
        "Of 6 empirical claims: 5 reproduced, 1 not reproduced. "
    )
    assert "do not all hold, as far as they are decided (C1 is not)" in claims.headline(made)


def test_every_barrier_stands_in_its_row_and_column():
    paths = [("raw", "straight"), ("normalised", "straight"), ("normalised", "geodesic")]
    rows = []
    for alignment, (weights, path) in itertools.product(("as found", "aligned"), paths):
        for kind, split in itertools.product(KINDS, ("train", "test")):
            what = {"weights": weights, "path": path, "alignment": alignment, "split": split}
            rows += pairs_of(kind, (0, 0, 0), **what)
    heights = np.random.default_rng(0).permutation(len(rows)) / 1000
    table = pd.DataFrame(rows).assign(barrier=heights)
    shown = claims.barrier_table(table, "test")
    assert list(shown.index) == [*itertools.product(("as found", "aligned"), KINDS)]
    for (alignment, kind), (weights, path) in itertools.product(shown.index, paths):
        same = table.query(
            "kind == @kind and weights == @weights and path == @path and alignment == @alignment "
            "and split == 'test'"
        )
        h = 100 * same["barrier"]
        expected = f"{h.mean():.2f} ({h.min():.2f} to {h.max():.2f})"
        assert shown.loc[(alignment, kind), f"{weights}, {path}"] == expected
