"""What connectivity depends on: its settings, estimates, sentences and costs."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import toroid
from toroid.book import claims, costs, dependence, notebooks, parameters, plotting

BASE = {"width": 1.0, "lr": 0.1, "weight_decay": 0.0, "epochs": 30, "images": 500}
LEVELS = {
    "width": [0.5, 1.0, 2.0],
    "lr": [0.1, 0.2],
    "weight_decay": [0.0, 0.1],
    "epochs": [3, 30],
    "images": [100, 500],
}


def paths():
    """What names each treatment."""
    yield {"weights": "raw", "path": "straight", "alignment": "as found", "method": "none"}
    for method in ("sequential", "coordinate"):
        yield {**dependence.PAPERS, "method": method}
        yield {"weights": "raw", "path": "straight", "alignment": "aligned", "method": method}


def table(height, seeds=3):
    """Barriers of every setting: `height` of the setting, and a little of the pair and the path."""
    rows = []
    for setting in dependence.settings(BASE, LEVELS):
        for k, named in enumerate(paths()):
            for split in ("train", "test"):
                rows += [
                    {
                        **setting,
                        "kind": "SGD-SGD",
                        "pair": f"{a}-{b}",
                        "first_seed": a,
                        "second_seed": b,
                        **named,
                        "split": split,
                        "barrier": height(setting) + 0.001 * (a + b) + 0.01 * k,
                    }
                    for a, b in combinations(range(seeds), 2)
                ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def barriers():
    """Falls with the width, and less so with fewer images; rises with the learning rate."""
    return table(lambda s: 0.1 + 0.1 * s["lr"] - 0.02 * s["width"] * s["images"] / 500)


def test_every_setting_is_planned_once_and_the_base_first():
    found = dependence.settings(BASE, LEVELS)
    assert found[0] == BASE
    assert len({tuple(s.values()) for s in found}) == len(found) == 1 + 2 + 1 + 1 + 1 + 1 + 2
    assert all(list(s) == list(dependence.FACTORS) for s in found)
    both = {(s["width"], s["images"]) for s in found}
    assert both == {(w, n) for w in LEVELS["width"] for n in LEVELS["images"]}


def test_the_parameters_of_the_page_say_what_is_planned():
    values = {key: p.default for key, p in parameters.declared("dependence").items()}
    base, found = dependence.planned(values)
    assert base["images"] == values["subset"]
    assert {s["epochs"] for s in found} == {*values["lengths"], values["epochs"]}
    assert {s["images"] for s in found} == {*values["subsets"], values["subset"]}
    fewer = {**base, "images": values["subset"] // 2}
    assert dependence.parameters(fewer, values)["epochs"] == 2 * values["epochs"]
    held = dependence.parameters(fewer, {**values, "hold": "epochs"})
    assert held["epochs"] == values["epochs"]
    assert held["subset"] == values["subset"] // 2
    assert held["algorithms"] == [values["algorithm"]]


def test_estimates_are_means_over_pairs_with_the_bootstrap_of_the_claims(barriers):
    found = dependence.estimates(barriers, BASE, "width")
    assert sorted(found["width"].unique()) == LEVELS["width"]
    (row,) = dependence.chosen(found, **dependence.PAPERS, split="test", width=2.0).itertuples()
    own = barriers[(barriers["width"] == 2.0) & (barriers["images"] == 500)]
    own = dependence.chosen(own, **dependence.PAPERS, split="test")
    wanted = claims.Networks(own).mean(own, 100 * own["barrier"]).estimate
    assert len(own) == 3
    np.testing.assert_allclose(dependence.estimate(row), wanted, atol=1e-8)


def test_a_change_between_networks_of_the_same_seeds_has_no_spread(barriers):
    """What a seed adds is the same at every level, so that the bootstrap leaves the difference."""
    found = dependence.changes(barriers, BASE, "width")
    np.testing.assert_allclose(found[["value", "low", "high"]], -3.0, atol=1e-8)
    assert (found["word"] == "falls").all()
    assert found[["from", "to"]].drop_duplicates().to_numpy().tolist() == [[0.5, 2.0]]
    rises = dependence.changes(barriers, BASE, "lr")
    assert (rises["word"] == "rises").all()
    flat = dependence.changes(barriers, BASE, "epochs")
    assert (flat["word"] == "is not told apart").all()
    assert (flat[["value", "low", "high"]] == 0).all().all()


def test_an_interaction_is_a_difference_of_differences(barriers):
    found = dependence.interaction(barriers, BASE)
    np.testing.assert_allclose(found["value"], -100 * 0.02 * 1.5 * (1 - 0.2), atol=1e-8)
    assert (found["word"] == "falls").all()
    assert "falls further" in dependence.with_images("falls")


def test_a_factor_in_one_sentence(barriers):
    scores = pd.DataFrame([{**s, "train_error": 0.01} for s in dependence.settings(BASE, LEVELS)])
    said = dependence.sentence(barriers, scores, BASE, "width")
    assert said.startswith("From width 0.5 to 2 the training barrier on the geodesic falls from")
    assert "the mean training error goes from 1.00 to 1.00 %" in said
    assert "least in between" not in said
    bent = table(lambda s: 0.1 + 0.1 * abs(s["width"] - 1))
    assert "it is least in between, at 1 (" in dependence.sentence(bent, scores, BASE, "width")
    assert "do not tell apart" in dependence.sentence(barriers, scores, BASE, "epochs")


def test_all_factors_in_one_sentence(barriers):
    scores = pd.DataFrame([{**s, "train_error": 0.01} for s in dependence.settings(BASE, LEVELS)])
    said = dependence.summary(barriers, scores, BASE)
    assert "falls with: width -3.00 (-3.00 to -3.00), training images" in said
    assert "it rises with: learning rate 1.00" in said
    assert "not told apart over the range of: weight decay 0.00 (0.00 to 0.00), epochs" in said
    assert "with more images it falls further with the width" in said


def test_where_every_path_leads_to_guessing_no_factor_is_told():
    """Barriers that rise with the width because narrow networks err on more of their own images."""

    def error(s):
        return 0.4 / s["width"] if s["width"] < 1 else 0.0

    plan = dependence.settings(BASE, LEVELS)
    scores = pd.DataFrame([{**s, "train_error": error(s)} for s in plan])
    full = table(lambda s: 0.9 - error(s))
    assert dependence.guessing(full, scores, BASE, "width")
    said = dependence.sentence(full, scores, BASE, "width")
    assert "leads to guessing at both ends" in said
    assert "with training errors of 80.00 and 0.00 %" in said
    assert "no barrier tells them apart" in dependence.summary(full, scores, BASE)
    half = table(lambda s: 0.9 - error(s) if s["width"] < 2 else 0.3)
    assert not dependence.guessing(half, scores, BASE, "width")
    said = dependence.summary(half, scores, BASE)
    assert "at both ends of the range of learning rate, weight decay, epochs, training" in said


def test_the_figure_has_a_panel_for_each_matching_and_split(barriers):
    found = dependence.panels(dependence.estimates(barriers, BASE, "width"))
    figure = plotting.dependence(found, factor="width", label="width")
    assert [len(ax.containers) for ax in figure.axes] == [3] * 4  # two matchings, two splits
    labels = [text.get_text() for text in figure.axes[-1].get_xticklabels()]
    assert labels == ["0.5", "1", "2"]
    plotting.plt.close(figure)
    part = dependence.panels(dependence.estimates(barriers, BASE, "width"), split="test")
    assert set(part["split"]) == {"test"}


def test_networks_that_have_not_learnt_are_left_out(barriers):
    def errors(*chance):
        rows = [{**s, "train_error": 0.01} for s in dependence.settings(BASE, LEVELS)]
        return pd.DataFrame(
            [{**r, "train_error": 0.9} if i in chance else r for i, r in enumerate(rows)]
        )

    settings = dependence.settings(BASE, LEVELS)
    raised = next(i for i, s in enumerate(settings) if s["lr"] == 0.2)
    assert dependence.unlearnt(errors(0, raised), BASE)["lr"].tolist() == [0.2]  # never the base
    found = dependence.learnt(barriers, errors(raised), BASE)
    pd.testing.assert_frame_equal(found, barriers[barriers["lr"] == 0.1])
    (change,) = dependence.chosen(
        dependence.changes(found, BASE, "lr"), **dependence.PAPERS, split="train"
    ).itertuples()
    assert (change.value, change.word) == (0, "is not told apart")
    corner = next(i for i, s in enumerate(settings) if s["width"] == 0.5 and s["images"] == 100)
    lacking = dependence.interaction(dependence.learnt(barriers, errors(corner), BASE), BASE)
    narrower = barriers[barriers["width"] >= 1]  # the widths that have both numbers of images
    pd.testing.assert_frame_equal(lacking, dependence.interaction(narrower, BASE))


def test_the_figure_of_all_factors_has_a_column_for_each_run(barriers):
    table = dependence.panels(dependence.estimates(barriers, BASE, "width"), split="train")
    table = dependence.chosen(table, method="sequential").rename(columns={"width": "level"})
    figure = plotting.dependences({name: {"width": table, "again": table} for name in "ab"})
    assert [len(ax.containers) for ax in figure.axes] == [table["line"].nunique()] * 4
    assert [ax.get_title() for ax in figure.axes] == ["a", "b", "", ""]
    assert [ax.get_xlabel() for ax in figure.axes] == ["width", "width", "again", "again"]
    (line,) = {c.get_label() for c in figure.axes[0].containers} - {
        "raw, straight, as found",
        "raw, straight, aligned",
    }
    drawn = next(c for c in figure.axes[0].containers if c.get_label() == line)[0].get_ydata()
    assert list(drawn) == list(table[table["line"] == line].sort_values("level")["value"])
    plotting.plt.close(figure)


# --- costs ---------------------------------------------------------------------------------------


def test_operations_are_those_of_the_loops_written_out():
    hidden, inputs, classes, images = [5, 4], 3, 2, 7
    weights = 3 * 5 + 5 * 4 + 4 * 2
    found = costs.operations(hidden, inputs, classes, images)
    assert found["one place of a path"] == 2 * images * weights
    assert found["local energy"] == 3 * found["one place of a path"]
    assert found["matching"] == 2 * 5 * 5 * 3 + 5**3 + 2 * 4 * 4 * 5 + 4**3
    assert found["discovery"] == 1 + 2 * 2 + 1  # flatten; two layers of two operations; the last


def test_the_counted_exponents_are_those_of_the_laws():
    wide = [("hidden units", [units] * 2) for units in (2**14, 2**15)]
    rows = [
        {"grows": grows, "units": hidden[0], "layers": 2, "step": step, "repeat": 0,
         "seconds": 3 * count, "operations": count}
        for grows, hidden in wide
        for step, count in costs.operations(hidden, 64, 10, 100).items()
    ]  # fmt: skip
    found = costs.exponents(pd.DataFrame(rows)).set_index("step")
    wanted = {"discovery": 0, "matching": 3, "one place of a path": 2, "local energy": 2}
    for step, exponent in wanted.items():
        assert found.loc[step, "counted"] == pytest.approx(exponent, abs=0.01)
        assert found.loc[step, "measured"] == pytest.approx(found.loc[step, "counted"])
    assert "matching (L n³): 3.00 in the hidden units (counted 3.00)" in costs.told(
        costs.exponents(pd.DataFrame(rows))
    )
    drawn = costs.drawn(pd.DataFrame(rows))
    np.testing.assert_allclose(drawn["measured"], drawn["exact"])


def test_every_step_is_timed_at_every_size():
    data = toroid.data.load("digits", subset=20)[0]
    networks = [("hidden units", [4, 4]), ("hidden units", [8, 8]), ("hidden layers", [4, 4])]
    found = costs.grown(networks, data, repeats=2)
    assert len(found) == len(networks) * 2 * len(costs.STEPS)
    assert (found["seconds"] > 0).all()
    same = found[found["units"] == 4].groupby(["step", "repeat"])["seconds"].nunique()
    assert (same == 1).all()  # a shape is timed once
    figure = plotting.costs(costs.drawn(found))
    assert [ax.get_xlabel() for ax in figure.axes] == ["hidden units", "hidden layers"]
    plotting.plt.close(figure)


@pytest.mark.slow
def test_the_page_runs_at_another_place(tmp_path):
    """A smaller run of the page, to its end: two seeds make one pair."""
    small = {
        "subset": 60, "subsets": [30, 60], "seeds": [0, 1], "epochs": 1, "lengths": [1, 2],
        "width": 0.05, "widths": [0.03, 0.05], "lrs": [0.1, 0.2], "weight_decays": [0.0, 0.01],
        "cost_units": [8, 16], "cost_layers": [1, 2], "cost_repeats": 1, "points": 3,
        "store": str(tmp_path / "store"), "results": str(tmp_path),
    }  # fmt: skip
    notebooks.run("dependence", small, tmp_path / "dependence.ipynb")
    written = {path.stem for path in tmp_path.glob("*.csv")}
    assert written == {
        "barriers", "changes", "costs", "estimates", "exponents", "interaction", "minimizers",
    }  # fmt: skip
    assert len(pd.read_csv(tmp_path / "barriers.csv")) == 8 * 7 * 2
    assert not (tmp_path / "parts").exists()
