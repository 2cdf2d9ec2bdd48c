"""What the pages share: their networks, pairs and tables, against the same thing done by hand."""

import dataclasses
import pickle
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
import toroid
from hypothesis import given
from hypothesis import strategies as st
from networks import gap
from toroid.book import claims, measures, notebooks, pages, parameters, plotting, references, tables


def double(state):
    return {k: v.double() if v.is_floating_point() else v for k, v in state.items()}


def page(folder, name="connectivity", **values):
    """A page with its own parameters but for some, that trains in next to no time."""
    declared = {key: p.default for key, p in parameters.declared(name).items()}
    small = {
        "algorithms": ["sgd", "sam"],
        "seeds": [0, 1],
        "epochs": 1,
        "evaluate_on": 60,
        "subset": 200,
    }
    here = {"results": str(folder / name), "store": str(folder / "store")}
    return pages.Page({**declared, **small, **here, **values}, name)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return page(tmp_path_factory.mktemp("page"), width=0.1, points=3).networks()


@pytest.fixture
def pair(networks):
    return networks.pair(("sgd", 0), ("sam", 1))


@pytest.fixture
def glued(monkeypatch):
    found = {}
    monkeypatch.setattr(notebooks, "glue", found.__setitem__)
    return found


# --- the page ------------------------------------------------------------------------------------


def test_a_page_refuses_what_is_no_parameter(tmp_path):
    with pytest.raises(parameters.ParameterError, match="Did you mean 'width'"):
        page(tmp_path, widht=0.1)


def test_a_page_keeps_tables_and_words(tmp_path, glued):
    here, table = page(tmp_path), pd.DataFrame({"a": [1 / 3, 1e-17]}, index=["x", "y"])
    here.save("one", table)
    here.save("two", table, index=True)
    assert (tmp_path / "connectivity" / "one.csv").read_text().splitlines()[0] == "a"
    assert pd.read_csv(tmp_path / "connectivity" / "two.csv", index_col=0).index.tolist() == [
        "x",
        "y",
    ]
    here.glue(first=1.5, second="word")
    assert glued == {"first": 1.5, "second": "word"}


def chains(height):
    """One chain, as the bend's page keeps it."""
    row = {"kind": "RSGD-ADV", "pair": "0-1", "weights": "normalised", "alignment": "aligned"}
    return pd.DataFrame(
        [{**row, "ends, train": 0.0, "segment, train": 0.3, "chain, train": height}]
    )


def test_a_verdict_stands_beside_those_of_the_kept_runs(tmp_path, glued, monkeypatch):
    kept = claims.Run.of("large", {"chains": chains(0.0)}, {}, stamp="c9505d3a")
    monkeypatch.setattr(references, "runs", lambda name: [kept] if name == "bend" else [])
    here = page(tmp_path, "bend")
    here.save("chains", chains(0.2))
    verdict = here.decide("C6")
    assert glued["c6"] == verdict.sentence != claims.c6(kept).sentence
    assert glued["verdict_c6"] == verdict.word == claims.UNDECIDED
    assert glued["kept_c6"] == f"{claims.UNDECIDED} (large)"
    here.shows("C6")
    assert (glued["kept_shows"], glued["kept_shown"]) == (
        claims.shows("bend", kept),
        "large, seen before",
    )
    assert glued["shows"] == claims.shows("bend", here.run) != glued["kept_shows"]


def test_a_pair_is_a_line_from_its_barrier_before_to_that_after():
    table = pd.DataFrame(
        {
            "algorithm": ["RSGD", "RSGD", "ADV"],
            "before": [5.0, 6.0, 70.0],
            "after": [0.2, 0.0, 60.0],
        }
    )
    figure = plotting.barriers({"one": table, "two": table[:2]}, least=0.02)
    first, second = figure.axes
    lines = [[*line.get_ydata()] for line in first.lines if len(line.get_ydata()) == 2]
    assert lines == [[5, 0.2], [6, 0.02], [70, 60], [1, 1]]  # the last one is the bound
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["RSGD", "ADV"]
    assert len(second.get_xticklabels()) == 1
    plotting.plt.close(figure)


def test_what_a_page_shows_without_a_kept_run(tmp_path, glued, monkeypatch):
    monkeypatch.setattr(references, "runs", lambda name: [])
    here = page(tmp_path, "bend")
    here.save("chains", chains(0.2))
    here.shows()
    assert (glued["kept_shows"], glued["kept_shown"]) == ("No run is kept.", "none")


def test_a_kept_run_says_where_it_was_made(tmp_path, monkeypatch):
    run = references.Kept("large", chains(0.0), "large: a machine", {})
    monkeypatch.setattr(references, "kept", lambda name, wanted: [run])
    assert page(tmp_path, "bend").made("chains") == "large: a machine"


def test_this_run_stands_in_where_none_is_kept(tmp_path, monkeypatch):
    table, kept = pd.DataFrame(), []
    monkeypatch.setattr(references, "kept", lambda name, wanted: kept)
    (run,) = page(tmp_path).runs("curves", table)
    assert (run.label, run.table is table) == ("digits", True)
    kept.append("a kept run")
    assert page(tmp_path).runs("curves", table) == kept
    assert page(tmp_path).kept("curves") == kept


def test_a_page_is_sent_to_another_process(networks):
    """Chains are trained side by side: what they need is pickled."""
    sent = pickle.loads(pickle.dumps(networks.page))
    assert sent.values == networks.page.values
    assert sent.parts.folder == networks.page.parts.folder


# --- its networks --------------------------------------------------------------------------------


def test_networks_are_those_that_the_parameters_describe(networks):
    assert list(networks.stored) == [("sgd", 0), ("sgd", 1), ("sam", 0), ("sam", 1)]
    store = toroid.Store(networks.page.values["store"])
    for end, minimizer in networks.described.items():
        assert (minimizer.algorithm, minimizer.seed, minimizer.width) == (*end, 0.1)
        assert gap(networks.raw[end], store.get(minimizer).state) == 0
        normal = toroid.normalize(networks.raw[end], networks.symmetry)
        assert gap(networks.normal[end], normal) == 0
    record = networks.stored["sam", 1].record
    row = networks.table("train_loss").iloc[-1]
    assert row["train_loss"] == record["train_loss"]
    assert (row["algorithm"], row["seed"], row["failed"]) == ("sam", 1, record["report"]["failed"])
    assert networks.failed.endswith(" of 4")


def test_networks_from_a_file_are_in_the_order_of_those_just_trained(networks):
    """A random order of flips counts the weights as they follow each other in a state."""
    names = list(networks.model.state_dict())
    stored = {
        end: dataclasses.replace(m, state=dict(sorted(m.state.items(), reverse=True)))
        for end, m in networks.stored.items()
    }
    other = pages.Networks(networks.page, networks.described, stored)
    assert [list(state) for state in other.raw.values()] == [names] * 4
    assert all(gap(state, networks.raw[end]) == 0 for end, state in other.raw.items())


def test_other_parameters_describe_other_networks(tmp_path):
    here = page(tmp_path, "flatness")
    one, other = (here.described(arch="lenet", width=1.0, lr=lr, batch_size=9) for lr in (0.1, 0.2))
    assert {m.settings["lr"] for m in one.values()} == {0.1}
    assert {m.settings["lr"] for m in other.values()} == {0.2}


def test_the_ends_of_a_path_are_known_from_walking_it(networks, pair):
    """To the last bit: a path whose ends are given has the numbers of one that is walked whole."""
    for weights in ("raw", "normalised"):
        path = toroid.Linear(*pair.states(weights))
        whole, given_ends = (networks.walks.along(path, 3, e) for e in (None, pair.ends(weights)))
        for split in ("train", "test"):
            np.testing.assert_array_equal(whole[split].error, given_ends[split].error)
            np.testing.assert_array_equal(whole[split].loss, given_ends[split].loss)


def test_every_end_is_evaluated_once(networks, pair, monkeypatch):
    first = pair.ends("raw")
    monkeypatch.setattr(pages.Walks, "score", None)
    assert networks.pair(("sam", 1), ("sgd", 0)).ends("raw") == {
        split: scores[::-1] for split, scores in first.items()
    }


def test_batchnorm_is_estimated_again_where_there_is_one(networks, tmp_path):
    assert networks.refresh is None
    values = {"arch": "resnet18", "width": 0.05, "algorithms": ["sgd"]}
    normed = page(tmp_path, **values).networks()
    assert normed.refresh is normed.few["train"]
    state = next(iter(normed.raw.values()))
    how = {"channels_last": True}
    fresh = toroid.refresh(state, normed.model, normed.refresh, **how)
    wanted = toroid.evaluate(fresh, normed.model, normed.few["test"], **how)
    assert normed.walks.score(state)["test"] == wanted
    assert wanted != toroid.evaluate(state, normed.model, normed.few["test"], **how)


def test_binary_networks_count_by_their_signs(tmp_path):
    here = page(tmp_path, "binary", algorithms=["sgd"], subset=60)
    found = here.networks(take=toroid.binary.signs)
    weights = [v for k, v in found.raw["sgd", 0].items() if k.endswith("weight")]
    assert all(v.abs().eq(1).all() for v in weights)
    assert found.walks.how == {"precision": "int8", "batch_size": 1000}
    plain = pages.Walks(found.model, found.few, None)
    assert found.walks.score(found.raw["sgd", 0]) == plain.score(found.raw["sgd", 0])


def test_how_large_a_run_is_stands_beside_it(networks):
    here = networks.page
    assert here.save_scale(networks, places=25) == pytest.approx(0.9)
    scale = here.run.scale
    assert (scale.images, scale.width, scale.places, scale.evaluated) == (200, 0.1, 25, 60)
    here.save_scale(networks, images=33)
    assert (np.isnan(here.run.scale.places), here.run.scale.evaluated) == (True, 33)


def test_sgd_with_the_weight_decay_that_replicas_have(tmp_path):
    names = ["replicated_sgd", "sgd_decayed", "sgd"]
    found = page(tmp_path, algorithms=names, weight_decay=0.001).described()
    assert [*dict.fromkeys(name for name, _ in found)] == names
    decayed = found["sgd_decayed", 1]
    assert (decayed.algorithm, decayed.seed) == ("sgd", 1)
    times = found["replicated_sgd", 0].settings["replicas"]
    assert decayed.settings["weight_decay"] == pytest.approx(times * 0.001)
    settings = {**decayed.settings, "weight_decay": 0.001}
    assert settings == found["sgd", 1].settings


def test_untrained_networks_are_those_that_training_starts_from(networks):
    fresh = networks.untrained()
    assert list(fresh.raw) == [("untrained", 0), ("untrained", 1)]
    start = networks.first.model(networks.train.shape, networks.train.classes)
    assert gap(fresh.raw["untrained", 0], start.state_dict()) == 0
    assert gap(fresh.raw["untrained", 0], fresh.raw["untrained", 1]) > 0.01
    (pair,) = fresh.pairs([("untrained", "untrained")])
    assert pair.what == {"kind": claims.UNTRAINED, "pair": "0-1"}


# --- their pairs ---------------------------------------------------------------------------------


def test_pairs_of_every_kind(networks):
    found = [(*p.what.values(), p.key) for p in networks.pairs(each=1)]
    assert found == [
        ("SGD-SGD", "0-1", "SGD-SGD.0-1"),
        ("SGD-SAM", "0-1", "SGD-SAM.0-1"),
        ("SAM-SAM", "0-1", "SAM-SAM.0-1"),
    ]
    assert len([*networks.pairs()]) == 1 + 3 + 1  # pairs_each is 3
    assert [p.a[0] for p in networks.pairs([("sam", "sgd")], each=2)] == ["sam", "sam"]


@pytest.mark.parametrize("method", ["sequential", "coordinate", "activation"])
@pytest.mark.parametrize("weights", ["raw", "normalised"])
def test_a_pair_is_aligned_as_by_hand(networks, pair, weights, method):
    states = networks.states(weights)
    moved = toroid.align(
        states[pair.b], to=states[pair.a], symmetry=networks.symmetry, method=method,
        model=networks.model, inputs=networks.train.images[:500],
    ).state  # fmt: skip
    a, b = pair.states(weights, method)
    assert gap(a, states[pair.a]) == gap(b, moved) == 0
    assert gap(pair.states(weights)[1], states[pair.b]) == 0


def test_a_permutation_found_on_one_form_moves_the_other(networks, pair):
    """Normalising commutes with it: the moved raw network has the moved normal one as normal form."""
    _, raw = pair.states("raw", "sequential", by="normalised")
    _, normal = pair.states("normalised", "sequential")
    assert gap(toroid.normalize(raw, networks.symmetry), normal) < 1e-5
    example = networks.train.images[:20]
    assert toroid.same_function(
        networks.model, double(networks.raw[pair.b]), double(raw), example.double()
    )


def test_every_matching_of_a_pair_says_which_weights_found_it(networks, pair):
    ways = {(way, weights): pages.named(way[0], weights, way[1])
            for way in pages.MATCHINGS for weights in ("raw", "normalised")}  # fmt: skip
    assert {(n["method"], n["matched"]) for n in ways.values()} == {*pages.MATCHINGS}
    for (method, by), _ in ways:
        raw, normal = (pair.matched(w, method, by)[1] for w in ("raw", "normalised"))
        assert gap(toroid.normalize(raw, networks.symmetry), normal) < 1e-5
    own, raw = (pair.matched("raw", "sequential", by)[1] for by in ("own", "raw"))
    assert gap(own, raw) == 0
    assert pages.named("sequential", "raw") == pages.named("sequential", "normalised", "raw")
    assert gap(pair.matched("raw", None)[1], networks.raw[pair.b]) == 0


def test_more_weight_decay_is_a_baseline_within_itself(tmp_path):
    here = page(tmp_path, algorithms=["sgd", "sgd_decayed"], epochs=1, width=0.1)
    kinds = [pair.what["kind"] for pair in here.networks().pairs()]
    assert kinds == ["SGD-SGD", "SGD+-SGD+"]


def test_each_alignment_of_a_pair_is_computed_once(pair, monkeypatch):
    found = {w: pair.alignment("sequential", w) for w in ("raw", "normalised")}
    monkeypatch.setattr(pages, "align", None)
    assert pair.alignment() is found["normalised"]
    assert pair.alignment("sequential", "raw") is found["raw"]
    assert pair.states("raw", "sequential")[1] is found["raw"].state


# --- what pages measure --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd():
    """A network whose units flip, with random weights."""
    layers = [torch.nn.Flatten(), torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)]
    model = torch.nn.Sequential(*layers)
    symmetry = toroid.find_symmetries(model, torch.zeros(2, 6))
    return model, symmetry, measures.random_state(model, torch.Generator().manual_seed(0))


def test_random_elements_leave_the_function(odd):
    model, symmetry, state = odd
    example = torch.randn(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    permutations, factors, signs = measures.random_element(
        symmetry, torch.Generator().manual_seed(0)
    )
    assert {-1, 1} == set(torch.cat([*signs.values()]).tolist())
    copy = measures.moved(toroid.rescale(state, factors, symmetry), permutations, signs, symmetry)
    assert measures.gap(state, copy) > 0.1
    assert toroid.same_function(model, state, copy, example).difference < 1e-10
    back = toroid.align(copy, to=state, symmetry=symmetry)
    assert measures.found_again(permutations, back.permutations) == 1
    again = measures.moved(copy, back.permutations, back.signs, symmetry)
    assert measures.gap(back.state, again) == 0


def test_units_are_back_in_their_place_or_not(odd):
    _, symmetry, state = odd
    planted = {"1": torch.tensor([4, 0, 1, 2, 3])}
    back = {"1": torch.tensor([1, 2, 3, 4, 0])}
    swapped = {"1": torch.tensor([2, 1, 3, 4, 0])}
    assert measures.returned(state, planted, back, symmetry) == 1
    assert measures.returned(state, planted, swapped, symmetry) == pytest.approx(3 / 5)
    assert measures.returned(state, planted, planted, symmetry) == 0


class Counted(torch.nn.Sequential):
    """Numbers of its own for each unit, and a layer that nobody reads."""

    def __init__(self):
        super().__init__(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
        self.spare = torch.nn.Linear(5, 2)

    def forward(self, x):
        return self[2](self[1](self[0](x)) * torch.arange(1.0, 6.0))


class Spare(torch.nn.Module):
    """A second head, for training only."""

    def __init__(self):
        super().__init__()
        self.first, self.head = torch.nn.Linear(6, 5), torch.nn.Linear(5, 3)
        self.spare = torch.nn.Linear(5, 2)

    def forward(self, x):
        hidden = torch.relu(self.first(x))
        return self.head(hidden) + self.spare(hidden).sum() if self.training else self.head(hidden)


def test_units_outside_every_group_are_counted_with_the_reason():
    model, example = Spare(), torch.zeros(2, 6)
    with pytest.warns(UserWarning, match="forward does not run spare"):
        symmetry = toroid.find_symmetries(model, example)
    idle = {"no output depends on it": [2]}
    assert measures.outside(model, symmetry, example) == idle
    assert measures.outside(model, symmetry, (example,), lambda out: out[:, :1]) == idle
    with pytest.warns(UserWarning, match="does not run|5 hidden units stay"):
        held = toroid.find_symmetries(Counted(), example)
    assert measures.outside(Counted(), held, example) == {
        "a constant with a number for each unit": [5],
        **idle,
    }
    assert measures.outside(torch.nn.Flatten(), toroid.Symmetry(()), example) == {}


def test_a_layer_is_used_however_its_weight_is_read():
    class Joined(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (torch.nn.Linear(6, n) for n in (2, 3, 4))

        def forward(self, x):
            return torch.nn.functional.linear(x, torch.cat([self.a.weight, self.b.weight]))

    found = measures.outside(Joined(), toroid.Symmetry(()), torch.zeros(2, 6))
    assert found == {"no output depends on it": [4]}


def test_the_precision_of_a_network_is_the_lowest_that_its_numbers_are_cast_to():
    class Rounded(torch.nn.Linear):
        def forward(self, x):
            mask = torch.ones(3, dtype=torch.bfloat16)  # none of its numbers
            return super().forward(x).float().double() * mask

    x = torch.zeros(1, 3, dtype=torch.float64)
    for layer, wanted in ((torch.nn.Linear, torch.float64), (Rounded, torch.float32)):
        model = layer(3, 3).double()
        assert measures.precision(model, model.state_dict(), x) == wanted
        assert measures.precision(model, model.state_dict(), (x,)) == wanted


def test_the_precision_is_that_of_its_numbers_and_not_of_buffers_that_are_not_saved():
    class Placed(torch.nn.Linear):
        def __init__(self):
            super().__init__(3, 3)
            self.register_buffer("places", torch.rand(3), persistent=False)

        def forward(self, x):
            return super().forward(x) + super().forward(self.places)

    model = Placed()
    state = {k: v.double() for k, v in model.state_dict().items()}
    assert measures.precision(model, state, torch.zeros(1, 3).double()) == torch.float64


def test_a_tensor_of_two_names_is_drawn_once():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3))
    model[2].weight = model[0].weight
    state = measures.random_state(model, torch.Generator().manual_seed(0))
    assert state["2.weight"] is state["0.weight"]
    assert not torch.equal(state["2.bias"], state["0.bias"])


def test_rows_of_a_grouped_convolution_are_counted_once():
    """Its inputs index rows and columns together, which are no rows."""
    conv = torch.nn.Conv2d
    layers = [
        conv(1, 8, 1),
        torch.nn.ReLU(),
        conv(8, 8, 3, groups=2),
        torch.nn.ReLU(),
        conv(8, 3, 1),
    ]
    model, example = torch.nn.Sequential(*layers, torch.nn.Flatten()), torch.zeros(1, 1, 3, 3)
    symmetry = toroid.find_symmetries(model, example)
    assert any(axis.span > 1 for group in symmetry.groups for axis in group.axes)
    assert measures.outside(model, symmetry, example) == {}


def test_draws_are_those_of_the_generator(odd):
    _, symmetry, _ = odd
    one, same, other = (
        measures.random_element(symmetry, torch.Generator().manual_seed(seed), spread=0.5)
        for seed in (3, 3, 4)
    )
    for first, second in zip(one, same, strict=True):
        assert all(torch.equal(v, second[k]) for k, v in first.items())
    assert any(not torch.equal(v, other[1][k]) for k, v in one[1].items())
    flat = measures.random_factors(symmetry.scales, torch.Generator().manual_seed(0), spread=0.0)
    assert all(v.eq(1).all() for v in flat.values())


def test_random_states_have_positive_variances_and_keep_counts():
    model = toroid.models.build("resnet18", (1, 8, 8), 3, 0.05)
    state = measures.random_state(model, torch.Generator().manual_seed(0))
    assert all(v.min() >= 0.1 for k, v in state.items() if k.endswith("running_var"))
    assert all(v.dtype == torch.float64 for v in state.values() if v.is_floating_point())
    assert state["1.num_batches_tracked"] == 0


def test_a_temperature_restores_the_loss(networks):
    raw, part, model = double(networks.raw["sgd", 0]), networks.few["train"], networks.model
    normal = toroid.normalize(raw, networks.symmetry)
    part = toroid.data.Dataset(part.images.double(), part.labels, part.classes)
    factor = toroid.same_function(model, raw, normal, part.images).factor
    wanted = toroid.evaluate(raw, model, part).loss
    assert measures.loss(raw, model, part) == pytest.approx(wanted, rel=1e-12)
    assert measures.loss(normal, model, part, factor) == pytest.approx(wanted, rel=1e-10)
    assert measures.loss(normal, model, part) != pytest.approx(wanted, rel=1e-3)


@given(st.floats(0.01, 100), st.integers(0, 100))
def test_networks_apart_are_so_in_any_unit(scale, seed):
    draw = torch.Generator().manual_seed(seed)
    a, b = ({"w": torch.randn(4, 3, generator=draw, dtype=torch.float64)} for _ in "ab")
    found = measures.apart(a, b, ["w"])
    assert 0 < found <= 2
    scaled = ({"w": scale * s["w"]} for s in (b, a))
    assert measures.apart(*scaled, ["w"]) == pytest.approx(found)


# --- tables --------------------------------------------------------------------------------------


def test_errors_of_minimizers_are_counted(networks):
    table = networks.table("train_loss")
    found, few = tables.errors(table), tables.errors(table.drop(columns="train_loss"))
    mean = 100 * table.loc[table["algorithm"] == "sam", "test_error"].mean()
    assert found.loc["SAM", "test_error"] == f"{mean:.2f} %"
    assert (found.loc["SGD", "networks"], "train_loss" in few) == (2, False)
    assert tables.errors(table.assign(failed=["why", "", None, ""]))["failed"].tolist() == [
        "1 of 2",
        "0 of 2",
    ]


def test_trainings_are_summed_up():
    row = {"algorithm": "sgd", "train_loss": 0.5, "norm": 3.0, "seconds": 2.0, "failed": None}
    rows = [{**row, "train_error": e, "test_error": 2 * e} for e in (0.01, 0.03)]
    found = tables.training(pd.DataFrame(rows)).loc["SGD"]
    assert found["train error (%)"] == "2.00 (1.00 to 3.00)"
    assert found["train loss"] == "0.5000 (0.5000 to 0.5000)"
    assert (found["seconds"], found["failed"]) == ("2", "0 of 2")


def test_the_heights_of_walked_paths(networks, pair):
    path = toroid.Linear(*pair.states("raw"))
    walked = networks.walks.along(path, 3)
    found = pd.concat(tables.labelled(walked, path=name) for name in ("segment", "chain"))
    got = tables.heights(found)
    assert len(got) == 6
    for split, curve in walked.items():
        assert got[f"segment, {split}"] == got[f"chain, {split}"] == curve.error.max()
        assert got[f"corner, {split}"] == curve.error[1]


def test_a_matrix_holds_every_distance_twice():
    names, rng = ["a", "b", "c"], np.random.default_rng(0)
    rows = [{"first": x, "second": y, "d": rng.random()} for x, y in combinations(names, 2)]
    found = tables.matrix(pd.DataFrame(rows), names, "d")
    assert (found.to_numpy() == found.to_numpy().T).all()
    assert (np.diag(found) == 0).all()
    assert all(found.loc[r["second"], r["first"]] == r["d"] for r in rows)


def test_figures_are_drawn_in_the_books_style():
    table = pd.DataFrame({"layer": ["1", "output"], "unit": 0, "before": [2.0, 3.0], "after": 1.0})
    figure = plotting.norms(table)
    assert figure.get_facecolor() == (1, 1, 1, 1)
    assert figure.dpi == 110
    lines = figure.axes[0].lines
    assert [line.get_ydata().tolist() for line in lines] == [[2.0], [3.0]]
    assert [line.get_ydata().tolist() for line in figure.axes[1].lines] == [[1.0], [1.0]]
    plotting.plt.close(figure)


@pytest.mark.parametrize(("top", "lines"), [(0.5, 1), (0.02, 0)])
def test_the_error_of_guessing_is_a_line_only_where_curves_come_near(top, lines):
    rows = [
        {"kind": "RSGD-ADV", "pair": "0-1", "weights": "raw", "path": "straight",
         "alignment": "as found", "split": "train", "t": t, "error": error}
        for t, error in ((0.0, 0.0), (0.5, top), (1.0, 0.0))
    ]  # fmt: skip
    figure = plotting.connectivity(pd.DataFrame(rows), chance=0.9)
    (ax,) = figure.axes
    dotted = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert [line.get_ydata()[0] for line in dotted] == [90] * lines
    assert [text.get_text() for text in ax.texts] == ["↑ chance: 90 %"] * (1 - lines)
    plotting.plt.close(figure)


def test_a_forest_fills_what_is_on_one_side_of_zero():
    table = pd.DataFrame(
        [("a", "one", 0.5, 0.2, 0.8), ("a", "two", 0.1, -0.2, 0.3), ("b", "one", np.nan, 0, 0),
         ("b", "two", -0.4, -0.6, -0.1)],
        columns=["row", "series", "value", "low", "high"],
    )  # fmt: skip
    figure = plotting.forest(table, label="τ")
    (ax,) = figure.axes
    marks = {line.get_xdata()[0]: line for line in ax.lines if len(line.get_xdata()) == 1}
    assert marks.keys() == {0.5, 0.1, -0.4}
    hollow = [x for x, line in marks.items() if line.get_markerfacecolor() == "white"]
    assert hollow == [0.1]
    bars = [tuple(line.get_xdata()) for line in ax.lines if line.get_linewidth() == 1.2]
    assert bars == [(0.2, 0.8), (-0.2, 0.3), (-0.6, -0.1)]
    assert marks[0.5].get_ydata()[0] < marks[0.1].get_ydata()[0] < 0.5 < marks[-0.4].get_ydata()[0]
    assert ax.get_ylim() == (1.5, -0.5)  # the first row is the upper one
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]
    plotting.plt.close(figure)


def test_planted_copies_are_drawn():
    columns = ["inner products, raw", "cosines, raw", "cosines, normalised"]
    middles = {"middle, raw": 0.5, "middle, normalised": 0.0}
    rows = [{"seed": i, "s": s, **dict.fromkeys(columns, 1 - 0.1 * s * i), **middles}
            for i in (0, 1) for s in (0.0, 1.0)]  # fmt: skip
    figure = plotting.planted(pd.DataFrame(rows))
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[1.0, 0.95]] * 3
    assert [line.get_ydata().tolist() for line in figure.axes[1].lines] == [[50.0] * 2, [0.0] * 2]
    plotting.plt.close(figure)
