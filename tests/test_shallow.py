"""Closed forms against counting and other quadratures; samplers against known distributions."""

import math
from itertools import combinations, permutations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import toroid
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.integrate import dblquad, quad
from scipy.optimize import brentq, linear_sum_assignment
from scipy.stats import binom, norm
from toroid import shallow
from toroid.book import plotting

OVERLAPS = st.floats(-0.99, 0.99)
state = shallow.Perceptron.state


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def unit(rows):
    return rows / rows.norm(dim=-1, keepdim=True)


def sphere(size):
    model = shallow.Perceptron(size).double()
    return toroid.find_symmetries(model, torch.zeros(2, size, dtype=torch.float64)), model


# --- the model ----------------------------------------------------------------------------------


def test_the_perceptron_is_one_point_of_one_sphere():
    symmetry, model = sphere(7)
    assert [(s.name, s.fixed) for s in symmetry.scales] == [("output", "")]
    assert symmetry.groups == ()
    normal = toroid.normalize(state(torch.arange(1.0, 8).double()), symmetry)
    assert torch.allclose(normal["linear.weight"], unit(torch.arange(1.0, 8).double())[None])
    a, b = unit(torch.randn(2, 7, generator=generator(), dtype=torch.float64))
    theta = math.acos(float(a @ b))
    middle = toroid.geodesic(state(a), state(b), 0.3, symmetry)["linear.weight"][0]
    circle = (math.sin(0.7 * theta) * a + math.sin(0.3 * theta) * b) / math.sin(theta)
    assert torch.allclose(middle, circle, atol=1e-12)
    assert toroid.distance(state(a), state(b), symmetry) == pytest.approx(theta)
    x = torch.randn(50, 7, generator=generator(1), dtype=torch.float64)
    model.load_state_dict(state(a))
    assert torch.equal(model(x).argmax(1), (x @ a > 0).long())


def test_a_margin_counts_the_patterns_below_it():
    weights = unit(torch.randn(30, generator=generator(), dtype=torch.float64))
    data = shallow.gaussian(500, inputs=30, generator=generator(1))
    for margin in (-0.5, 0.0, 0.4):
        error = toroid.evaluate(state(weights), shallow.Perceptron(30, margin).double(), data).error
        assert error == pytest.approx(float((data.images @ weights < margin).double().mean()))


def test_a_teacher_makes_no_error_on_its_own_patterns():
    teacher = torch.randn(20, generator=generator(), dtype=torch.float64)
    data = shallow.gaussian(300, teacher=teacher, generator=generator(1))
    assert toroid.evaluate(state(teacher), shallow.Perceptron(20).double(), data).error == 0
    assert bool((shallow.signed(data) @ teacher > 0).all())
    assert 0.4 < float(data.labels.double().mean()) < 0.6


@given(OVERLAPS, st.integers(0, 100))
def test_vectors_have_the_products_that_were_asked_for(q, seed):
    gram = [[1, q, 0.1], [q, 1, 0.0], [0.1, 0.0, 4]]
    found = shallow.vectors(gram, 12, generator=generator(seed))
    assert torch.allclose(found @ found.T, torch.tensor(gram, dtype=torch.float64), atol=1e-12)
    disturbed = shallow.disturb(found[:2], q, generator=generator(seed))
    assert torch.allclose((disturbed * found[:2]).sum(1), torch.tensor([q, q]).double())
    assert torch.allclose(disturbed.norm(dim=1), torch.ones(2).double())


# --- exact formulas ------------------------------------------------------------------------------


@given(OVERLAPS)
def test_the_error_is_the_angle_over_pi(r):
    assert float(shallow.error(r)) == pytest.approx(math.acos(r) / math.pi, abs=1e-12)
    assert float(shallow.error(-r)) == pytest.approx(1 - math.acos(r) / math.pi, abs=1e-12)


def test_the_error_is_exact_near_an_overlap_of_one():
    """An arccos of a rounded product would have lost half of the digits."""
    angle = 1e-6
    r = 1 - 2 * math.sin(angle / 2) ** 2
    assert float(shallow.error(r)) == pytest.approx(angle / math.pi, rel=1e-4)
    assert list(shallow.error(np.array([1, 0, -1]))) == [0, 0.5, 1]


@given(OVERLAPS, OVERLAPS, OVERLAPS, st.floats(0, 1), st.floats(0.1, 10))
def test_the_overlap_along_a_path_is_that_of_the_package(first, second, mutual, t, norm_b):
    gram = np.array([[1, first, second], [first, 1, mutual], [second, mutual, 1]])
    assume(np.linalg.eigvalsh(gram)[0] > 1e-3)
    teacher, a, b = shallow.vectors(gram.tolist(), 15, generator=generator())
    symmetry, _ = sphere(15)
    paths = {
        ("geodesic", (1.0, 1.0)): toroid.Geodesic(state(a), state(b), symmetry),
        ("straight", (1.0, 1.0)): toroid.Linear(state(a), state(b)),
        ("straight", (1.0, norm_b)): toroid.Linear(state(a), state(norm_b * b)),
    }
    for (kind, norms), path in paths.items():
        exact = shallow.path_overlap(t, first, second, mutual, path=kind, norms=norms)
        found = unit(path(t)["linear.weight"])[0] @ teacher
        assert float(exact) == pytest.approx(float(found), abs=1e-9)


@given(st.floats(0, 0.99), st.floats(0, 0.99), OVERLAPS)
def test_no_place_of_a_geodesic_is_worse_than_the_worse_end(first, second, mutual):
    t = np.linspace(0, 1, 41)
    along = shallow.path_overlap(t, first, second, mutual)
    assert along.min() >= min(first, second) - 1e-12
    half_angle = math.acos(mutual) / 2
    middle = min((first + second) / (2 * math.cos(half_angle)), 1)
    assert along[20] == pytest.approx(middle, abs=1e-9)


def test_a_geodesic_between_students_worse_than_chance_can_be_worse():
    assert shallow.path_overlap(0.5, -0.5, -0.5, 0.0) < -0.7


def test_measured_errors_are_within_their_sampling_error():
    teacher, a, b = shallow.vectors(
        [[1, 0.8, 0.5], [0.8, 1, 0.2], [0.5, 0.2, 1]], 50, generator=generator(3)
    )
    test = shallow.gaussian(20_000, teacher=teacher, generator=generator(4))
    symmetry, model = sphere(50)
    curve = toroid.along(
        toroid.Geodesic(state(a), state(b), symmetry), model, test, points=7, batch_size=5000
    )
    exact = shallow.error(shallow.path_overlap(curve.t, 0.8, 0.5, 0.2))
    off = (curve.error - exact) / np.sqrt(exact * (1 - exact) / len(test))
    assert np.abs(off).max() < 4
    assert np.abs(curve.error - exact[::-1]).max() > 0.05  # which end is which is seen


def test_the_worst_of_many_normal_numbers():
    draws = np.abs(np.random.default_rng(0).standard_normal((4000, 50))).max(1)
    error = draws.std() / len(draws) ** 0.5
    assert shallow.expected_worst(50) == pytest.approx(draws.mean(), abs=4 * error)


def test_the_energy_of_a_teacher_is_exact():
    teacher = shallow.vectors([[1.0]], 30, generator=generator())[0]
    data = shallow.gaussian(4000, teacher=teacher, generator=generator(1))
    symmetry, model = sphere(30)
    found = toroid.local_energy(
        state(teacher), model, data, sigma=[0.1, 0.5], symmetry=symmetry, draws=200, batch_size=4000
    )
    for sigma, energy, spread in found.to_numpy():
        exact, variance = shallow.turned_error(30, sigma)
        assert energy == pytest.approx(exact, abs=4 * (exact / 4000) ** 0.5)
        drawn = spread**2 * 200  # of a draw: the turn, and the patterns; within three deviations
        assert 0.7 * variance < drawn < 1.3 * (variance + exact / 400)
    weights = torch.ones(101, dtype=torch.float64)
    data = shallow.gaussian(4000, teacher=weights, generator=generator(2))
    found = toroid.local_energy(
        state(weights),
        sphere(101)[1],
        data,
        sigma=[0.05, 0.3],
        noise="flips",
        draws=40,
        batch_size=4000,
    )
    for share, energy, _ in found.to_numpy():
        exact, variance = shallow.flipped_error(101, share)
        assert energy == pytest.approx(exact, abs=4 * (exact / 4000 + variance / 40) ** 0.5)


@pytest.mark.parametrize(("size", "overlap"), [(10, 0.0), (10, 0.6), (200, 0.3)])
def test_the_angle_of_matched_units(size, overlap):
    rows = unit(torch.randn(4000, size, generator=generator(), dtype=torch.float64))
    a, b = (shallow.disturb(rows, overlap, generator=generator(seed)) for seed in (1, 2))
    if overlap == 0:  # unrelated, in all dimensions
        b = unit(torch.randn(4000, size, generator=generator(3), dtype=torch.float64))
    squares = (a * b).sum(1).arccos().square()
    error = float(squares.std()) / len(rows) ** 0.5
    assert shallow.matched_angle(size, overlap) ** 2 == pytest.approx(
        float(squares.mean()), abs=4 * error
    )


def test_the_expected_number_of_solutions_near_a_teacher():
    counts = []
    for seed in range(400):
        teacher = torch.ones(31, dtype=torch.float64)
        data = shallow.gaussian(10, teacher=teacher, generator=generator(seed))
        counts.append(shallow.neighbours(shallow.signed(data), teacher))
    error = np.std(counts) / 20
    assert shallow.expected_neighbours(31, 10) == pytest.approx(np.mean(counts), abs=4 * error)
    assert shallow.expected_neighbours(31, 0, 2) == pytest.approx(31 * 30 / 2)


@given(st.floats(0, 1), st.integers(1, 1000))
def test_the_error_of_a_share_is_that_of_a_binomial_count(share, count):
    exact = binom(count, share).std() / count
    assert float(shallow.binomial_error(share, count)) == pytest.approx(exact, abs=1e-12)


def test_the_angle_of_units_in_a_random_order():
    """The mean over all orders, of which each leaves one unit at its place on average."""
    matched, other = shallow.matched_angle(20, 0.7), shallow.matched_angle(20)
    squares = [
        np.mean([matched**2 if i == j else other**2 for i, j in enumerate(order)])
        for order in permutations(range(4))
    ]
    assert shallow.shuffled_angle(20, 0.7, 4) == pytest.approx(np.mean(squares) ** 0.5)


def test_the_mean_cosine_of_the_best_assignment():
    """Of one unit it is a normal number's mean; of two the larger of two sums, over two."""
    assert shallow.chance_cosine(1, draws=10_000) == pytest.approx(0, abs=0.04)
    larger = math.sqrt(2) / math.sqrt(math.pi)  # of two normal numbers of variance 2
    assert shallow.chance_cosine(2, draws=10_000) == pytest.approx(larger / 2, abs=0.02)


def test_the_share_of_flips_that_survive():
    """Around all teachers at once, every set of two flips of five weights."""
    sets = list(combinations(range(5), 2))
    shares = []
    for seed in range(600):
        teacher = torch.ones(5, dtype=torch.float64)
        data = shallow.gaussian(2, teacher=teacher, generator=generator(seed))
        patterns, kept = shallow.signed(data), 0
        for places in sets:
            moved = teacher.clone()
            moved[list(places)] *= -1
            kept += bool((patterns @ moved > 0).all())
        shares.append(kept / len(sets))
    error = np.std(shares) / len(shares) ** 0.5
    assert shallow.surviving_share(5, 2, 2) == pytest.approx(np.mean(shares), abs=4 * error)
    drawn = shallow.surviving(patterns, teacher, 2, generator=generator(), tries=4000)
    assert drawn == pytest.approx(shares[-1], abs=4 * (0.25 / 4000) ** 0.5)
    assert 0 < shares[-1] < 1


@given(st.integers(0, 100), st.integers(1, 9))
def test_neighbours_are_what_survives_one_flip(seed, count):
    patterns = torch.randn(count, 9, generator=generator(seed), dtype=torch.float64)
    patterns *= torch.where(patterns.sum(1, keepdim=True) > 0, 1.0, -1.0)
    weights = torch.ones(9, dtype=torch.float64)
    share = shallow.surviving(patterns, weights, 1, generator=generator(), tries=2000)
    exact = shallow.neighbours(patterns, weights) / 9
    assert share == pytest.approx(exact, abs=4.5 * (max(exact * (1 - exact), 1e-6) / 2000) ** 0.5)
    assert shallow.surviving(patterns, weights, 9, generator=generator()) == 0  # all: -w


# --- replica-symmetric theory --------------------------------------------------------------------


def hazard(u):
    return norm.pdf(u) / norm.sf(u)


@pytest.mark.parametrize("kappa", [-1.0, 0.0, 0.7])
def test_capacity_is_the_integral_it_says(kappa):
    moment, _ = quad(lambda z: (z + kappa) ** 2 * norm.pdf(z), -kappa, 12)
    assert shallow.capacity(kappa) == pytest.approx(1 / moment)
    assert shallow.capacity(0.0) == pytest.approx(2)


@pytest.mark.parametrize(("alpha", "kappa"), [(0.3, 0.0), (1.5, 0.0), (1.0, -0.5), (0.4, 0.5)])
def test_the_typical_overlap_makes_the_free_entropy_stationary(alpha, kappa):
    def entropy(q):
        def term(z):
            return norm.pdf(z) * norm.logsf((kappa + math.sqrt(q) * z) / math.sqrt(1 - q))

        return 0.5 * (math.log(1 - q) + q / (1 - q)) + alpha * quad(term, -9, 9)[0]

    q = shallow.typical_overlap(alpha, kappa)
    slope = (entropy(q + 1e-4) - entropy(q - 1e-4)) / 2e-4
    assert abs(slope) < 1e-5
    assert abs(entropy(q + 0.02) - entropy(q)) > 1e-6


def test_limits_of_the_learning_curves():
    assert shallow.typical_overlap(0.0) == 0
    # few patterns: w · ξ is |normal|, so that each adds 2/π
    assert shallow.typical_overlap(1e-3) == pytest.approx(2e-3 / math.pi, rel=0.01)
    assert shallow.typical_overlap(1e-3, teacher=True) == pytest.approx(2e-3 / math.pi, rel=0.01)
    assert shallow.typical_overlap(1.99) > 0.99
    r = shallow.typical_overlap(50.0, teacher=True)
    assert 50 * float(shallow.error(r)) == pytest.approx(0.625, abs=0.002)  # Györgyi and Tishby
    assert 50 * float(shallow.error(r**0.5)) == pytest.approx(0.442, abs=0.002)  # Opper, Haussler
    with pytest.raises(ValueError, match=r"alpha is 2.1; solutions of margin 0.0 .* below 2"):
        shallow.typical_overlap(2.1)
    with pytest.raises(ValueError, match=r"with a teacher's labels the margin is 0"):
        shallow.typical_overlap(1.0, 0.2, teacher=True)


def test_the_overlap_of_two_margins():
    q1, q2 = shallow.typical_overlap(1.0, -0.5), shallow.typical_overlap(1.0, 0.0)
    p = shallow.cross_overlap(1.0, -0.5, 0.0)
    assert p == pytest.approx(shallow.cross_overlap(1.0, 0.0, -0.5))
    assert q1 < p < math.sqrt(q1 * q2)
    c = p / math.sqrt(q1 * q2)

    def term(y, z):
        u1 = (-0.5 + math.sqrt(q1) * z) / math.sqrt(1 - q1)
        u2 = math.sqrt(q2) * (c * z + math.sqrt(1 - c * c) * y) / math.sqrt(1 - q2)
        return norm.pdf(y) * norm.pdf(z) * hazard(u1) * hazard(u2)

    mean, _ = dblquad(term, -7, 7, -7, 7, epsabs=1e-5)
    assert p == pytest.approx(math.sqrt((1 - q1) * (1 - q2)) * mean, abs=1e-4)


@pytest.mark.parametrize("first", [-0.5, -0.35])
def test_the_error_on_a_geodesic_against_drawing_its_fields(first):
    """Draw z1, z2 and the two truncated normal fields, and count."""
    kappa, t, rng, count = -0.5, np.array([0.3, 0.5, 0.8]), np.random.default_rng(0), 400_000
    q1, q2 = (shallow.typical_overlap(1.0, k) for k in (first, kappa))
    p = shallow.cross_overlap(1.0, first, kappa)
    z1, y = rng.standard_normal((2, count))
    c = p / math.sqrt(q1 * q2)
    z2 = c * z1 + math.sqrt(1 - c * c) * y

    def field(q, z, k):
        low = norm.cdf((k - math.sqrt(q) * z) / math.sqrt(1 - q))
        x = norm.ppf(low + (1 - low) * rng.random(count))
        return math.sqrt(q) * z + math.sqrt(1 - q) * x

    h1, h2 = field(q1, z1, first), field(q2, z2, kappa)
    theta = math.acos(p)
    for place, exact in zip(t, shallow.geodesic_error(t, 1.0, first, kappa, kappa), strict=True):
        a, b = (math.sin(s * theta) / math.sin(theta) for s in (1 - place, place))
        counted = np.mean(a * h1 + b * h2 < kappa)
        assert exact == pytest.approx(counted, abs=4 * (counted / count) ** 0.5 + 1e-6)


def test_the_star_begins_where_the_error_ends():
    star = shallow.star_margin(1.0, -0.5)
    assert star == pytest.approx(-0.5 * shallow.cross_overlap(1.0, star, -0.5), abs=1e-4)
    t = np.linspace(0, 1, 201)
    assert shallow.geodesic_error(t, 1.0, star + 0.002, -0.5, -0.5).max() == 0
    assert shallow.geodesic_error(t, 1.0, star - 0.02, -0.5, -0.5).max() > 0
    with pytest.raises(ValueError, match="are a convex set"):
        shallow.star_margin(1.0, 0.1)
    with pytest.raises(ValueError, match=r"do not keep -0.5"):
        shallow.geodesic_error(t, 1.0, -0.6, -0.5, -0.5)


@given(st.floats(-0.9, 0.99), st.floats(-0.9, -0.05), st.floats(0, 0.1))
def test_a_margin_of_kappa_times_the_overlap_sees_everything(p, kappa, more):
    """The lemma behind `star_margin`, for the worst pattern, of norm 1 in the teacher's place."""
    t = np.linspace(0, 1, 501)
    assert shallow.path_overlap(t, kappa * p + more, kappa, p).min() >= kappa - 1e-9
    assert shallow.path_overlap(t, kappa * p - 0.05, kappa, p).min() < kappa


def test_known_capacities_of_the_binary_perceptron():
    assert brentq(shallow.binary_entropy, 0.7, 0.95) == pytest.approx(0.833, abs=5e-4)
    zero = brentq(lambda a: shallow.binary_entropy(a, teacher=True), 1.1, 1.3)
    assert zero == pytest.approx(1.245, abs=1e-3)
    assert shallow.binary_capacity() == pytest.approx(0.833, abs=5e-4)
    assert shallow.binary_capacity(teacher=True) == pytest.approx(zero, abs=1e-4)
    with pytest.raises(ValueError, match="alpha is -1; a load is not negative"):
        shallow.binary_entropy(-1)


def test_the_binary_entropy_of_a_teacher_against_enumeration():
    """The mean logarithm of the number of solutions, all 2^13 weights looked at."""
    size, patterns = 13, 5
    every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * size).double()
    logs = []
    for seed in range(200):
        teacher = torch.ones(size, dtype=torch.float64)
        data = shallow.gaussian(patterns, teacher=teacher, generator=generator(seed))
        logs.append(math.log(int(((every @ shallow.signed(data).T) > 0).all(1).sum())) / size)
    exact = shallow.binary_entropy(patterns / size, teacher=True)
    assert np.mean(logs) == pytest.approx(exact, abs=0.02)
    assert abs(np.mean(logs) - shallow.binary_entropy(2 * patterns / size, teacher=True)) > 0.05


# --- samplers and algorithms ---------------------------------------------------------------------


def test_the_billiard_is_uniform_on_a_spherical_triangle():
    """Against points drawn uniformly on the sphere and kept where they are solutions."""
    patterns = torch.tensor([[1.0, 0.2, 0], [-0.3, 1, 0.4], [0.1, 0, 1]], dtype=torch.float64)
    for margin in (0.0, 0.2, -0.4):
        draws = unit(torch.randn(200_000, 3, generator=generator(), dtype=torch.float64))
        kept = draws[((draws @ patterns.T) >= margin).all(1)]
        starts = kept[:1].repeat(4000, 1)  # all at one place
        ends = shallow.billiard(
            patterns, starts, generator=generator(1), margin=margin, flights=25, length=1.3
        )
        assert bool((ends @ patterns.T >= margin - 1e-12).all())
        for moment in (lambda w: w, lambda w: w**2, lambda w: w * w.roll(1, 1)):
            a, b = moment(ends), moment(kept)
            error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
            assert bool(((a.mean(0) - b.mean(0)).abs() < 4 * error).all())


def test_the_billiard_goes_from_atypical_solutions_to_typical_ones():
    size, load = 120, 0.8
    overlaps = {"start": [], "typical": []}
    for seed in range(6):
        draws = generator(seed)
        patterns = torch.randn(round(load * size), size, generator=draws, dtype=torch.float64)
        starts = shallow.feasible(patterns, count=4, generator=draws)
        ends = shallow.billiard(patterns, starts, generator=draws, flights=8)
        assert bool((ends @ patterns.T >= -1e-12).all())
        for name, w in (("start", starts), ("typical", ends)):
            overlaps[name].append(float((w @ w.T).sum() - 4) / 12)
    theory = shallow.typical_overlap(load)
    error = np.std(overlaps["typical"], ddof=1) / 6**0.5
    assert np.mean(overlaps["typical"]) == pytest.approx(theory, abs=4 * error)
    assert np.mean(overlaps["start"]) < theory - 0.1


def test_the_billiard_refuses_what_is_no_solution():
    with pytest.raises(ValueError, match=r"below the margin 0.5: it is no solution"):
        shallow.billiard(torch.eye(2), torch.eye(2), generator=generator(), margin=0.5)


def test_what_cannot_be_solved_is_said():
    patterns = torch.randn(80, 20, generator=generator(), dtype=torch.float64)  # twice capacity
    with pytest.raises(RuntimeError, match=r"2 of 2 searches .* of margin 0.0 at load 4 in 50"):
        shallow.feasible(patterns, generator=generator(), count=2, steps=50)
    with pytest.raises(RuntimeError, match=r"no binary solution at load 4 .* in 50 steps"):
        shallow.entropic(patterns, generator=generator(), steps=50)


def test_entropic_solutions_are_dense_and_teachers_isolated():
    draws = generator(0)
    teacher = torch.ones(1001, dtype=torch.float64)
    patterns = shallow.signed(shallow.gaussian(600, teacher=teacher, generator=draws))
    found = shallow.entropic(patterns, generator=draws)
    assert bool((patterns @ found > 0).all())
    assert set(found.tolist()) == {-1.0, 1.0}
    assert shallow.neighbours(patterns, teacher) == 0
    count = shallow.neighbours(patterns, found)
    assert count > 50
    i = int((((patterns @ found)[:, None] - 2 * patterns * found) > 0).all(0).nonzero()[0])
    found[i] = -found[i]
    assert bool((patterns @ found > 0).all())


def test_the_chance_similarity_of_unrelated_networks():
    """After alignment, the best assignment among normal numbers, over the root of N."""
    size, hidden, rng = 300, 6, np.random.default_rng(0)
    net = torch.nn.Sequential(torch.nn.Linear(size, hidden, bias=False), torch.nn.ReLU(),
                              torch.nn.Linear(hidden, 2, bias=False)).double()  # fmt: skip
    symmetry = toroid.find_symmetries(net, torch.zeros(2, size, dtype=torch.float64))
    found = []
    for seed in range(60):
        draws = generator(seed)
        a, b = (
            toroid.normalize({k: torch.randn(v.shape, generator=draws, dtype=v.dtype) for k, v in net.state_dict().items()}, symmetry)
            for _ in range(2)
        )  # fmt: skip
        found.append(toroid.align(b, to=a, symmetry=symmetry).similarity["0"] * size**0.5)
    chance = []
    for _ in range(2000):
        matrix = rng.standard_normal((hidden, hidden))
        chance.append(matrix[linear_sum_assignment(matrix, maximize=True)].mean())
    error = np.std(found) / len(found) ** 0.5
    assert np.mean(found) == pytest.approx(np.mean(chance), abs=4 * error)


def test_wrong_overlaps_and_paths_are_named():
    with pytest.raises(ValueError, match=r"an overlap is 1.2; those of unit vectors"):
        shallow.error(1.2)
    with pytest.raises(ValueError, match=r"path is 'curved'; it can be 'geodesic', 'straight'"):
        shallow.path_overlap(0.5, 0, 0, 0, path="curved")
    with pytest.raises(ValueError, match="opposite ones have no path"):
        shallow.path_overlap(0.5, 0.1, -0.1, -1.0)
    with pytest.raises(ValueError, match="no 2 vectors of length 5 have products"):
        shallow.vectors([[1, 2], [2, 1]], 5, generator=generator())
    with pytest.raises(ValueError, match="inputs is 0; give a teacher"):
        shallow.gaussian(3, generator=generator())


def test_a_figure_of_agreement_shows_marks_lines_and_residuals():
    table = pd.DataFrame({
        "panel": "p", "series": ["a", "a", "b"], "x": [1.0, 2.0, 3.0], "measured": [0.3, np.nan, 0.5],
        "exact": [0.2, 0.4, np.nan], "standard_error": [0.05, np.nan, 0.1],
    })  # fmt: skip
    figure = plotting.agreement(table, x="t", y="error", residuals=True, log="x")
    top, below = figure.axes
    line, mark, _, other = (entry.get_xydata().tolist() for entry in top.lines[:4])
    assert line == [[1, 0.2], [2, 0.4]]
    assert mark == [[1, 0.3]]
    assert other == [[3, 0.5]]
    assert below.lines[0].get_ydata()[0] == pytest.approx(2)
    assert top.get_xscale() == "log"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    plt.close(figure)
