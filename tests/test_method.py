"""The page of the method: its pictures, the map of the paper and the glossary."""

import importlib
import re
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import toroid
import yaml
from toroid.book import claims, drawings, parameters
from toroid.landscape import Curve

ROOT = parameters.root()
MAP = yaml.safe_load((ROOT / "book" / "paper-map.yaml").read_text())


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def small(inputs, units, seed=0):
    """A network of two layers, normalised, and its symmetry."""
    torch.manual_seed(seed)
    first = torch.nn.Linear(inputs, units, bias=False)
    model = torch.nn.Sequential(first, torch.nn.ReLU(), torch.nn.Linear(units, 2, bias=False))
    symmetry = toroid.find_symmetries(model, torch.zeros(2, inputs))
    state = {name: w.double() for name, w in model.state_dict().items()}
    return model, toroid.normalize(state, symmetry), symmetry


def test_walks_go_along_great_circles_by_the_angle_that_is_asked_for():
    _, state, symmetry = small(5, 40)
    sizes = [0.0, 0.1, 0.2]
    walked = drawings.walks(state, symmetry, sizes, draws=50)
    assert walked.shape == (50, 3, 40, 5)
    start = state["0.weight"]
    torch.testing.assert_close(walked[:, 0], start.expand(50, 40, 5))
    torch.testing.assert_close(walked.norm(dim=-1), torch.ones(50, 3, 40).double())
    angles = 2 * torch.asin((walked - start).norm(dim=-1) / 2)
    torch.testing.assert_close(angles[:, 2], 2 * angles[:, 1])  # at constant speed
    rms = angles.square().mean((0, 2)).sqrt()
    assert np.allclose(rms, sizes, rtol=0.05)  # 2,000 directions of 4 degrees of freedom: 0.8 %


def test_walks_are_the_noise_of_the_local_energy():
    """Its energy is that of the walked first layer and of a last layer walked by hand."""
    model, state, symmetry = small(3, 4)
    data = toroid.data.Dataset(torch.randn(60, 3), torch.arange(60) % 2, 2)
    found = toroid.local_energy(state, model, data, sigma=0.7, symmetry=symmetry, draws=6)
    start = toroid.evaluate(state, model, data).error
    walked, torus = drawings.walks(state, symmetry, [0.7], draws=6)[:, 0], []
    generator = torch.Generator().manual_seed(0)
    for first in walked:
        z = {k: torch.randn(v.shape, generator=generator).double() for k, v in state.items()}
        last, way = state["2.weight"].flatten(), z["2.weight"].flatten()
        way = (way - way @ last * last) / (len(last) - 1) ** 0.5 * 0.7
        moved = last * way.norm().cos() + way * (way.norm().sin() / way.norm())
        torus.append({"0.weight": first, "2.weight": moved.reshape(2, 4)})
    grown = [toroid.evaluate(point, model, data).error - start for point in torus]
    assert found["energy"].item() == pytest.approx(np.mean(grown))


def test_walks_start_on_the_torus():
    _, state, symmetry = small(3, 4)
    with pytest.raises(ValueError, match="normalize"):
        drawings.walks({**state, "0.weight": 2 * state["0.weight"]}, symmetry, [0.1])


def test_arrows_end_at_the_weights():
    before = torch.tensor([[1.5, 0.5], [-0.2, 0.7]])
    after = before / before.norm(dim=1, keepdim=True)
    for ax, vectors in zip(drawings.spheres(before, after).axes, (before, after), strict=True):
        ends = [text.xy for text in ax.texts if not text.get_text()]
        assert np.allclose(ends, vectors)


def test_a_path_stays_on_the_drawn_torus():
    _, a, symmetry = small(2, 2)
    _, b, _ = small(2, 2, seed=1)
    path = toroid.Geodesic(a, b, symmetry)
    drawn = torch.stack([path(t)["0.weight"] for t in np.linspace(0, 1, 9)])
    right = drawings.torus(drawn).axes[1]
    x, y, z = (np.asarray(v, float) for v in right.lines[0].get_data_3d())
    tube = np.hypot(np.hypot(x, y) - drawings.RING, z)
    assert np.allclose(tube, 1.04 * drawings.TUBE)
    turned = np.unwrap(np.arctan2(drawn[:, 0, 1], drawn[:, 0, 0]))
    assert np.allclose(np.unwrap(np.arctan2(y, x)), turned)


def test_a_unit_takes_its_lines_along():
    _, before, symmetry = small(2, 3)
    order = torch.tensor([2, 0, 1])
    after = toroid.permute(before, {symmetry.groups[0].name: order}, symmetry)
    panels = []
    for ax in drawings.exchanged(before, after, order.tolist()).axes:
        edges = [line for line in ax.lines if line.get_linestyle() != "None"]
        assert len(edges) == 3 * (2 + 2)
        looks = [(x.get_color(), x.get_linestyle(), round(x.get_linewidth(), 6)) for x in edges]
        panels.append(Counter(looks))
        assert [t.get_text() for t in ax.texts] in (["1", "2", "3"], ["3", "1", "2"])
    assert panels[0] == panels[1]


def test_paths_of_a_unit_are_drawn_with_their_norms():
    points = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    left, right = drawings.chords({"chord": points}).axes
    assert np.allclose(np.stack(left.lines[1].get_data(), 1), points)
    assert np.allclose(right.lines[0].get_ydata(), [1, 0.5**0.5, 1])


def test_an_arrow_is_as_long_as_the_barrier():
    error = np.array([0.1, 0.5, 0.2])
    curve = Curve(np.array([0, 0.5, 1]), error, error)
    flat = Curve(np.array([0, 0.5, 1]), np.array([0.1, 0.0, 0.1]), error)
    (ax,) = drawings.heights({"high": curve, "none": flat}).axes
    (arrow,) = ax.texts  # where there is no barrier there is no arrow
    assert arrow.xy[1] - arrow.xyann[1] == pytest.approx(100 * curve.barrier)
    assert [line.get_label() for line in ax.lines[::2]] == [
        "high: barrier 35.0 %", "none: barrier 0.0 %",
    ]  # fmt: skip


def test_energies_are_in_percent():
    table = pd.DataFrame(
        {"algorithm": "sgd", "sigma": [0.1, 0.2], "energy": [0.1, 0.3], "standard_error": 0.01}
    )
    _, state, symmetry = small(3, 2)
    walked = drawings.walks(state, symmetry, [0, 0.2], draws=4)[:, :, 0]
    left, right = drawings.energy(walked, table).axes
    assert np.allclose(right.containers[0].lines[0].get_ydata(orig=False), [10, 30])
    assert len(left.lines) == 2 * 4 + 1


def test_the_two_parts_of_a_training_follow_each_other():
    history = pd.DataFrame({"epoch": [0, 1], "loss": [2.0, 1.0], "distance": [0.5, 0.1]})
    two = pd.DataFrame({"loss": [3.0, 2.0, 1.0], "labels": ["random", "random", "true"]})
    left, right = drawings.trainings(history, two).axes
    assert [line.get_ydata().tolist() for line in left.lines] == [[2, 1], [0.5, 0.1]]
    assert [line.get_xdata().tolist() for line in right.lines] == [[1, 2], [3]]


# --- the map of the paper ------------------------------------------------------------------------


@pytest.mark.parametrize("entry", MAP, ids=lambda entry: entry["item"])
def test_what_an_entry_of_the_map_names_is_there(entry):
    assert entry.keys() == {"item", "source", "page", "function", "test", "status"}
    assert entry["source"] in ("slides", "abstract")
    assert entry["page"] in parameters.names()
    assert entry["status"] in ("same", "ours", *claims.CLAIMS)
    module, _, name = entry["function"].rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))
    file, test = entry["test"].split("::")
    code = (ROOT / "tests" / file).read_text()
    assert re.search(rf"^def {test}\(", code, re.MULTILINE)


def test_every_claim_is_on_the_map_once_at_its_page():
    entries = {e["status"]: e for e in MAP if e["status"] in claims.CLAIMS}
    assert entries.keys() == claims.CLAIMS.keys()
    assert sum(e["status"] in claims.CLAIMS for e in MAP) == len(entries)
    for key, claim in claims.CLAIMS.items():
        assert entries[key]["page"] == claim.page
    assert len({e["item"] for e in MAP}) == len(MAP)


# --- the glossary --------------------------------------------------------------------------------


def test_every_word_of_the_glossary_is_there_once_and_every_link_finds_one():
    """A link that finds none is a warning of the build only where the build is asked to be strict."""
    text = (ROOT / "book" / "glossary.md").read_text()
    words = re.findall(r"^([A-Za-z].*)\n    \S", text, re.MULTILINE)
    assert len(words) == len(set(words)) > 15
    linked = [
        re.sub(r".*<(.*)>$", r"\1", target)
        for page in (ROOT / "book").glob("*.md")
        for target in re.findall(r"\{term\}`([^`]*)`", page.read_text())
    ]
    assert len(linked) > 8
    assert set(linked) <= set(words)
