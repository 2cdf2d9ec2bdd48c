"""The experiments of the shallow page, against closed forms and tables that are written by hand."""

import math
from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
import torch
import toroid
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from toroid import shallow
from toroid.book import shallow as experiments

state = shallow.Perceptron.state


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def off(table):
    """Distances from the formula in standard errors, where there is one."""
    seen = table[table["standard_error"] > 0].dropna(subset=["measured", "exact"])
    return (seen["measured"] - seen["exact"]) / seen["standard_error"]


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9))
def test_the_spread_is_a_mean_and_its_standard_error(values):
    mean, error = experiments.spread(values)
    assert mean == pytest.approx(sum(values) / len(values))
    assert error == pytest.approx(stats.sem(values), abs=1e-9)


# --- students ------------------------------------------------------------------------------------


def test_planted_students_have_the_products_of_their_name():
    pairs = list(experiments.students(12, epochs=2, generator=generator()))
    assert [name for name, *_ in pairs] == [*experiments.PLANTED, "trained by SGD"]
    for name, teacher, a, b in pairs[:-1]:
        gram = experiments.PLANTED[name]
        expected = (gram[0][1], gram[0][2], gram[1][2])
        assert experiments.overlaps(teacher, a, b) == pytest.approx(expected, abs=1e-12)
        norms = [float(s["linear.weight"].norm()) for s in (a, b)]
        assert norms == pytest.approx([1, 4])


@pytest.mark.parametrize("train", [experiments.sgd, experiments.rsgd])
def test_a_trained_student_knows_its_teacher_and_its_seed(train):
    (teacher,) = shallow.vectors([[1.0]], 10, generator=generator())
    data = shallow.gaussian(400, teacher=teacher, generator=generator(1))
    first, again, other = (train(data, epochs=20, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first["linear.weight"], again["linear.weight"])
    assert not torch.equal(first["linear.weight"], other["linear.weight"])
    known, known_too, alike = experiments.overlaps(teacher, first, other)
    assert min(known, known_too, alike) > 0.95


def test_errors_on_the_paths_are_within_their_sampling_error():
    how = {"points": 5, "patterns": 4000, "epochs": 2}
    table = experiments.along_paths(15, **how, generator=generator(2))
    assert len(table) == 4 * 3 * 5
    assert off(table).abs().max() < 4
    ends = table[table["x"].isin([0, 1])].groupby(["panel", "x"])
    for column in ("measured", "exact"):  # norms are no matter where a path begins and ends
        assert (ends[column].max() - ends[column].min()).max() < 1e-12
    middle = table[table["x"] == 0.5].pivot(index="panel", columns="series", values="exact")
    assert (middle["geodesic"] - middle["straight, normalised"]).abs().max() < 1e-12
    assert (middle["geodesic"] - middle["straight, raw"]).abs().max() > 0.01


def test_energies_of_teachers_are_within_their_standard_errors():
    sizes = {"angles": (0.1, 0.4), "shares": (0.02, 0.2)}
    table = experiments.teacher_energies(10, 31, **sizes, patterns=2000, generator=generator())
    assert table["x"].tolist() == [0.1, 0.4, 0.02, 0.2]
    assert off(table).abs().max() < 4
    # the flips drawn anew: how many, then for each set of 100 how many patterns fail
    rng, flips = np.random.default_rng(0), table[table["panel"] == "flips"]
    for share, exact, error in flips[["x", "exact", "standard_error"]].to_numpy():
        chances = shallow.error(1 - 2 * rng.binomial(31, share, (4000, 20)) / 31)
        means = (rng.binomial(100, chances) / 100).mean(1)
        assert exact == pytest.approx(means.mean(), abs=4 * means.std() / 4000**0.5)
        assert error == pytest.approx(means.std(), rel=0.05)


# --- typical solutions ---------------------------------------------------------------------------


@pytest.mark.parametrize("labels", ["random", "teacher"])
def test_what_is_learnt_solves_its_patterns(labels):
    epochs = 60 if labels == "teacher" else None
    found = experiments.learn(labels, 30, 0.5, 0, chains=3, flights=3, epochs=epochs)
    assert list(found.solutions) == ["start", "typical", *(["SGD", "RSGD"] if epochs else [])]
    signed = shallow.signed(found.data)
    assert signed.shape == (15, 30)
    for kind, weights in found.solutions.items():
        assert torch.allclose(weights.norm(dim=1), torch.ones(len(weights)).double())
        wrong = ((weights @ signed.T) <= 0).double().mean(1).max()
        assert found.errors()[kind] == pytest.approx(float(wrong))
    solved = sum(error == 0 for error in found.errors().values())
    assert solved >= 2
    assert found.walls() == [0.0] * math.comb(solved, 2)
    energies = found.energies((0.1, 0.3))
    assert list(energies["kind"].unique()) == [k for k in found.solutions if k != "start"]
    assert bool((signed @ found.teacher > 0).all()) == (labels == "teacher")


@given(st.integers(2, 6), st.integers(0, 100))
def test_the_mean_overlap_is_that_of_all_pairs(count, seed):
    weights = torch.randn(count, 4, generator=generator(seed), dtype=torch.float64)
    pairs = [float(weights[i] @ weights[j]) for i, j in permutations(range(count), 2)]
    assert experiments.alike(weights) == pytest.approx(sum(pairs) / len(pairs))
    assert math.isnan(experiments.alike(weights[:1]))


def test_the_table_of_typical_solutions_has_a_row_for_each_kind():
    found = experiments.typical(
        [12, 20], [0.3, 0.5], 2, chains=2, flights=2, epochs=2, angles=(0.1, 0.2)
    )
    kinds = found.learnt.groupby(["labels", "size"])["kind"].unique().apply(list)
    assert kinds[("random", 20)] == kinds[("teacher", 12)] == ["start", "typical"]
    assert kinds[("teacher", 20)] == ["start", "typical", "SGD", "RSGD"]
    assert (found.learnt.groupby(["labels", "size", "load", "kind"]).size() == 2).all()
    solved = found.learnt[found.learnt["kind"].isin(["start", "typical"])]
    assert found.wall == 0 == solved["error"].max()
    assert len(found.energies) == 2 * 3 * 2  # sets, kinds, angles
    assert set(found.energies["kind"]) == {"typical", "SGD", "RSGD"}


SIZES = st.lists(st.integers(10, 1000), min_size=2, max_size=4, unique=True)


@given(SIZES, st.floats(-1, 1), st.floats(-5, 5), st.floats(0.01, 1))
def test_an_extrapolation_is_exact_for_what_is_linear_in_1_over_n(sizes, limit, slope, error):
    index = pd.MultiIndex.from_product([sizes, [0.5, 1.0]], names=["size", "load"])
    means = [limit + slope / size for size in sizes for _ in range(2)]
    table = pd.DataFrame({"mean": means, "sem": error}, index).sort_index()
    mean, errors = experiments.extrapolated(table)
    assert mean.tolist() == pytest.approx([limit] * 2, abs=1e-9)
    one, two = sorted(sizes)[-2:]
    propagated = error * math.hypot(two, one) / (two - one)
    assert errors.tolist() == pytest.approx([propagated] * 2)
    alone, same = experiments.extrapolated(table.loc[[two]])
    assert alone.tolist() == pytest.approx([limit + slope / two] * 2)
    assert same.tolist() == pytest.approx([error] * 2)


def written(shift=0.0):
    """A table ``learnt`` whose overlaps are theory, a term in 1/N, and `shift`, with a scatter."""
    table, scatter = [], (-0.02, 0.0, 0.02)
    loads, sets = (0.5, 1.0), enumerate(scatter)
    for labels, size, load, (sample, noise) in product(("random", "teacher"), (50, 100), loads, sets):  # fmt: skip
        q = shallow.typical_overlap(load, teacher=labels == "teacher") + 1 / size + noise + shift
        gains = {"typical": 0, "start": -0.1, "SGD": 0.1 - noise, "RSGD": 0.2 + noise}
        for kind, more in gains.items():
            row = {"labels": labels, "size": size, "load": load, "sample": sample, "kind": kind}
            table.append({**row, "q": q + more, "R": q + more, "error": 0.0})
    return pd.DataFrame(table)


@given(st.floats(-0.2, 0.2))
def test_deviations_are_in_standard_errors_of_the_extrapolation(shift):
    sem = 0.02 / 3**0.5 * math.hypot(100, 50) / 50
    expected = pytest.approx(abs(shift) / sem, abs=1e-6)
    assert experiments.deviation(written(shift), "random", "q") == expected
    assert experiments.deviation(written(shift), "teacher", "R") == expected


def test_what_is_noisy_agrees_with_nothing():
    from toroid.book.shallow._tables import farthest

    points = pd.DataFrame({"x": [1.0, 1.0, 0.0], "theory": [1.3, 5.0, 1.0], "e": [0.1, 0.11, 0.1]})
    assert farthest(points["x"], points["theory"], points["e"]) == pytest.approx(3)
    noisy = points.iloc[1:]
    assert farthest(noisy["x"], noisy["theory"], noisy["e"]) == math.inf


def test_overlaps_stand_beside_theory():
    table = experiments.overlaps_beside(written(0.01))
    assert len(table) == 3 * 2
    first = table.iloc[0]
    theory = shallow.typical_overlap(0.5)
    assert first["theory"] == pytest.approx(theory)
    assert first["N = 50"] == f"{theory + 0.03:.3f} ± 0.012"
    assert first["extrapolated"] == f"{theory + 0.01:.3f} ± 0.026"
    assert {*table["counts"]} == {"yes"}
    assert table["in standard errors"].abs().max() == pytest.approx(
        experiments.deviation(written(0.01), "random", "q")
    )
    curves = experiments.overlap_curves(written())
    theory, measured = (curves.dropna(subset=c) for c in ("exact", "measured"))
    assert len(theory) == 3 * 40
    extrapolated = measured[measured["series"] == "extrapolated"]
    for panel, teacher in (("random labels: mutual overlap", False), ("a teacher: overlap with it", True)):  # fmt: skip
        line = theory[(theory["panel"] == panel) & (theory["series"] == "typical")]
        marks = extrapolated[extrapolated["panel"] == panel]
        for load, q in zip(marks["x"], marks["measured"], strict=True):
            assert q == pytest.approx(shallow.typical_overlap(load, teacher=teacher))
            assert q == pytest.approx(np.interp(load, line["x"], line["exact"]), abs=1e-3)


def test_the_least_gain_is_that_of_the_worse_algorithm():
    table, error = written(), 0.02 / 3**0.5
    assert experiments.least_gain(table) == pytest.approx(0.1 / error)
    table.loc[(table["kind"] == "RSGD") & (table["load"] == 1.0), "R"] -= 0.3
    assert experiments.least_gain(table) == pytest.approx(-0.1 / error)


# --- negative margins ----------------------------------------------------------------------------


def test_at_the_margin_0_no_pattern_fails_on_the_way():
    how = {"size": 30, "load": 0.8, "flights": 2, "points": 5}
    mean, worst = experiments.meet((0.0, 0.0), 0, **how)
    assert mean.tolist() == [0.0] * 5
    assert worst == 0


def test_the_barrier_of_a_negative_margin_and_its_star():
    margin, load = -0.8, 1.5
    found = experiments.negative(margin, [0.0], 3, size=60, load=load, flights=3, points=5)
    hump, robust = (found.curves[found.curves["margin"] == k] for k in (margin, 0.0))
    t = np.linspace(0, 1, 5)
    exact = shallow.geodesic_error(t, load, margin, margin, margin)
    assert hump["exact"].tolist() == pytest.approx(exact.tolist())
    assert hump["measured"].iloc[[0, -1]].tolist() == [0, 0]
    assert hump["measured"].iloc[2] > 0
    assert 0 < found.worst[margin] >= hump["measured"].max()
    assert shallow.star_margin(load, margin) < 0  # so that the margin 0 sees everything
    assert found.worst[0.0] == robust["measured"].max() == robust["exact"].max() == 0
    sure = found.curves.assign(standard_error=found.curves["standard_error"] / 100)
    largest = 100 * off(hump).abs().max()
    assert found._replace(curves=sure).deviation() == pytest.approx(largest)
    inner = found.typical()
    assert set(inner["x"]) <= {0.25, 0.5, 0.75}
    theory = found.heights[found.heights["series"] == "theory"]
    assert theory["exact"].iloc[0] == pytest.approx(exact.max())
    assert theory["exact"].iloc[-1] == 0
    measured = found.heights[found.heights["series"] == "measured"]
    assert measured["x"].tolist() == [margin, 0.0]
    assert measured["measured"].tolist() == pytest.approx([hump["measured"].iloc[2], 0])


# --- binary weights ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found():
    return experiments.binary(
        101, 0.3, 3, flips=(1, 20), shares=(0.05, 0.2), points=5, patterns=1000
    )


def test_binary_solutions_and_what_is_near_them(found):
    assert found.solutions["solution"].tolist() == ["teacher", "entropic"] * 3
    teachers = found.solutions[found.solutions["solution"] == "teacher"]
    assert (teachers["overlap with the teacher"] == 1).all()
    one = found.near[found.near["x"] == 1]["share"].to_numpy()
    whole = found.solutions["neighbours"].to_numpy() / 101  # all single flips, not 200 drawn ones
    errors = np.sqrt(np.clip(whole * (1 - whole), 1e-4, None) / 200)
    assert (np.abs(one - whole) / errors).max() < 4
    assert len(found.energies) == 3 * 2 * 2
    assert found.energies["sample"].unique().tolist() == [0, 1, 2]


def test_errors_on_hamming_paths_are_within_their_sampling_error(found):
    points = experiments.exact_on_paths(found.paths)
    assert off(points).abs().max() < 4
    assert len(points) == len(found.paths) - 3  # each teacher's own error is 0 and not measured
    assert list(points) == list(experiments.along_paths(
        10, points=2, patterns=10, epochs=1, generator=generator()
    ))  # fmt: skip
    shown = experiments.errors_on_paths(found.paths)
    assert shown["panel"].unique().tolist() == ["generalisation error", "training error"]
    train = shown[shown["panel"] == "training error"]
    assert train["measured"].tolist() == found.paths[found.paths["number"] == 0]["train"].tolist()
    assert train["measured"].iloc[[0, 4, 5, 9]].max() == 0  # all ends are solutions


def test_the_ratio_of_barriers():
    paths = pd.DataFrame([
        {"series": series, "number": number, "x": x, "train": height * (x == 0.5)}
        for series, heights in (("to another such solution", (0.1, 0.3)), ("to a typical solution", (0.4, 0.6)))
        for number, height in enumerate(heights) for x in (0.0, 0.5, 1.0)
    ])  # fmt: skip
    assert experiments.barrier_ratio(paths) == pytest.approx(0.2 / 0.5)


def test_ratios_and_curves_of_energies():
    values = {"RSGD": (0.1, 0.3), "SGD": (0.2, 0.6), "entropic": (0.1, 0.3), "teacher": (0.2, 0.4)}
    table = pd.DataFrame([
        {"kind": kind, "sigma": sigma, "energy": energy + noise}
        for kind, pair in values.items() for sigma, energy in zip((0.1, 0.2), pair, strict=True)
        for noise in (-0.01, 0.01)
    ])  # fmt: skip
    halves = [table[:8], table[8:]]
    ratios = experiments.energy_ratios(*halves)
    assert ratios == pytest.approx({"replicated": 0.5, "flat": 0.75})
    what = {"curve": "torus", "panel": "torus", "series": "teacher (exact)"}
    exact = experiments.rows(what, [0.1], [0.2], [0.2], [0.01])
    curves = experiments.energy_curves(exact, *halves)
    assert curves["series"].unique().tolist() == ["teacher (exact)", "RSGD", "SGD", "entropic"]
    assert curves["panel"].tolist() == ["torus"] * 5 + ["flips"] * 2
    assert curves["measured"].tolist()[1:3] == pytest.approx([0.1, 0.3])
    assert curves["standard_error"].tolist()[1:] == pytest.approx([0.01] * 6)


def test_shares_that_survive_and_entropies():
    near = pd.DataFrame({"kind": "teacher", "x": [1, 5, 1, 5], "share": [0.5, 0.0, 0.3, 0.0]})
    curves = experiments.surviving_curves(near, 101, 0.3)
    measured, line = (curves.dropna(subset=c) for c in ("measured", "exact"))
    assert measured["x"].tolist() == [1]  # a share of 0 has no place on a logarithmic axis
    assert measured[["measured", "standard_error"]].to_numpy()[0] == pytest.approx([0.4, 0.1])
    assert line["x"].tolist() == [1, 5]
    assert line["exact"].iloc[0] * 101 == pytest.approx(shallow.expected_neighbours(101, 30))
    for labels, part in experiments.entropy_curves().groupby("series"):
        zero = shallow.binary_capacity(teacher=labels == "a teacher")
        assert part["exact"].iloc[0] == pytest.approx(math.log(2))
        assert ((part["exact"] > 0) == (part["x"] < zero)).all()


def test_annealing_an_easy_load_leaves_nothing_wrong():
    torch.manual_seed(0)
    start = shallow.Perceptron(31).double()
    before = start.linear.weight.detach().clone()
    assert experiments.annealed(start, 0.1, sweeps=20) == 0
    assert experiments.annealed(start, 1.8, sweeps=1) > 0
    assert torch.equal(start.linear.weight, before)


# --- two layers ----------------------------------------------------------------------------------


@given(st.integers(0, 100))
def test_a_hidden_network_is_the_same_function(seed):
    symmetry, model = experiments.two_layers(6, 4)
    draws = generator(seed)
    units, outputs = (
        torch.randn(n, generator=draws, dtype=torch.float64) for n in ((4, 6), (2, 4))
    )
    hidden, order = experiments.hide(units, outputs, draws)
    plain, x = {"0.weight": units, "2.weight": outputs}, torch.randn(9, 6, dtype=torch.float64)
    assert toroid.same_function(model, plain, hidden, x, tolerance=1e-10)
    a, b = (toroid.normalize(s, symmetry) for s in (plain, hidden))
    assert torch.allclose(b["0.weight"], a["0.weight"][order])
    assert experiments.angle(a, a, symmetry) == 0
    turned = {**b, "0.weight": b["0.weight"].roll(1, 0)}
    assert experiments.angle(b, turned, symmetry) > 0.1


def test_copies_of_a_teacher_are_aligned_exactly():
    pair = experiments.planted_pair(12, 0, hidden=5, overlap=1.0)
    assert pair["found"] == 1
    assert pair["after"] < 1e-6 < pair["before"]


def test_pairs_of_students_have_the_angles_that_are_expected():
    how = {"hidden": 3, "overlap": 0.9}
    pairs = experiments.planted_pairs([100, 200], 60, **how)
    curves = experiments.pair_curves(pairs, **how)
    assert (pairs["found"] == 1).all()  # so that matched units are those of one teacher's unit
    assert off(curves).abs().max() < 4
    assert curves["panel"].unique().tolist() == ["angle", "units found", "unrelated networks"]


@given(st.floats(-1.5, -0.1), st.floats(0.1, 5))
def test_the_exponent_of_a_power_is_found(exponent, factor):
    sizes = np.array([10, 20, 40, 80])
    pairs = pd.DataFrame({"size": sizes, "unrelated": factor * sizes**exponent})
    assert experiments.chance_exponent(pairs) == pytest.approx(exponent)


def test_trained_pairs_are_aligned_and_learn():
    table = experiments.trained_pairs([6], 2)
    assert table["inputs"].tolist() == [6, 6]
    assert (table["aligned"] <= table["rms angle as found"] + 1e-9).all()
    errors = [float(e) for text in table["training error (%)"] for e in text.split(" and ")]
    cosines = [float(c) for text in table["cosine with the teacher"] for c in text.split(" and ")]
    assert len(errors) == len(cosines) == 4
    assert max(errors) < 20  # of 50 by chance
    assert shallow.chance_cosine(4) / 6**0.5 < np.mean(cosines) < 1
