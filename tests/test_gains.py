"""The sign of a unit before a BatchNorm: (w, b, mean) and γ change theirs together."""

import pytest
import torch
import toroid
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import gap, random_element, random_state
from torch import nn


class Residual(nn.Module):
    """Two blocks on one stream: each BatchNorm has a sign of its own."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(2, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.a, self.bna = nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.b, self.bnb = nn.Conv2d(6, 5, 1, bias=False), nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = self.bn(self.stem(x))
        x = x + self.bnb(self.b(torch.relu(self.bna(self.a(x)))))
        return self.head(torch.relu(x).mean((2, 3)))


def chain(activation):
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), activation, nn.Linear(6, 5, bias=False),
        nn.BatchNorm1d(5), activation, nn.Linear(5, 3),
    )  # fmt: skip


class Preactivated(nn.Module):
    """Two BatchNorms read one stream of units, which has one sign."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.first, self.second = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.cat([self.first(x).relu(), self.second(x).relu()], 1))


VECTORS, IMAGES = torch.randn(7, 4, dtype=torch.float64), torch.randn(3, 2, 4, 4).double()
# name: (network, inputs, for each layer before a BatchNorm: prefix of the layer and of the norm)
NETWORKS = {
    "ReLU": (chain(nn.ReLU()), VECTORS, [("0", "1"), ("3", "4")]),
    "tanh": (chain(nn.Tanh()), VECTORS, [("0", "1"), ("3", "4")]),
    "nothing": (chain(nn.Identity()), VECTORS, [("0", "1"), ("3", "4")]),
    "residual": (Residual(), IMAGES, [("stem", "bn"), ("a", "bna"), ("b", "bnb")]),
}


def planted(state, pairs, seed):
    """The closed form: rows of the layer, its bias, the running mean and γ, negated together."""
    generator, state = torch.Generator().manual_seed(seed), dict(state)
    for layer, norm in pairs:
        rows = state[f"{layer}.weight"]
        sign = (torch.randint(2, (len(rows),), generator=generator) * 2 - 1).to(rows)
        state[f"{layer}.weight"] = rows * sign.view(-1, *[1] * (rows.dim() - 1))
        for name in (f"{layer}.bias", f"{norm}.running_mean", f"{norm}.weight"):
            if name in state:
                state[name] = state[name] * sign
    return state


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_planted_sign_is_undone_exactly(name, seed):
    model, x, pairs = NETWORKS[name]
    symmetry = toroid.find_symmetries(model, x.float(), verify=False)
    state = random_state(model, seed)
    copy = planted(state, pairs, seed)
    assert toroid.same_function(model, state, copy, x, tolerance=1e-10, output="keep")
    normal, other = (toroid.normalize(s, symmetry, gains="positive") for s in (state, copy))
    assert gap(normal, other) < 1e-12
    assert toroid.distance(normal, other, symmetry) < 1e-6
    assert toroid.same_function(model, state, normal, x, tolerance=1e-10)
    assert gap(toroid.normalize(normal, symmetry, gains="positive"), normal) < 1e-12
    for _, norm in pairs:
        assert (normal[f"{norm}.weight"] >= 0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_gain_has_a_sign_and_the_random_element_moves_it(name):
    model, x, pairs = NETWORKS[name]
    symmetry = toroid.find_symmetries(model, x.float())  # verified with random signs
    assert {gain.axes[0].parameter for gain in symmetry.gains} == {f"{n}.weight" for _, n in pairs}
    assert toroid.Symmetry.from_json(symmetry.to_json()) == symmetry


def test_with_all_else_moved_too_the_normal_form_and_alignment_give_it_back():
    model, x, pairs = NETWORKS["residual"]
    symmetry = toroid.find_symmetries(model, x.float(), verify=False)
    state = random_state(model, 3)
    permutations, factors = random_element(symmetry, 4)
    moved = planted(toroid.rescale(state, factors, symmetry), pairs, 5)
    moved = toroid.permute(moved, permutations, symmetry)
    normal, other = (toroid.normalize(s, symmetry, gains="positive") for s in (state, moved))
    aligned = toroid.align(other, to=normal, symmetry=symmetry)
    assert toroid.distance(normal, aligned.state, symmetry) < 1e-6
    kept = [toroid.normalize(s, symmetry) for s in (state, moved)]
    left = toroid.align(kept[1], to=kept[0], symmetry=symmetry).state
    assert toroid.distance(kept[0], left, symmetry) > 1  # the default leaves the signs in


def test_norms_that_share_what_they_read_share_its_sign():
    model = Preactivated()
    symmetry = toroid.find_symmetries(model, VECTORS.float())
    (gain,) = symmetry.gains
    assert [a.parameter for a in gain.axes].count("second.weight") == 1
    state = random_state(model, 0)
    normal = toroid.normalize(state, symmetry, gains="positive")
    assert (normal["first.weight"] >= 0).all()
    negative = (state["first.weight"] < 0) != (state["second.weight"] < 0)
    assert torch.equal(normal["second.weight"] < 0, negative)


def test_a_norm_that_is_used_twice_keeps_its_signs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.norm = nn.Linear(4, 5), nn.Linear(5, 5), nn.BatchNorm1d(5)

        def forward(self, x):
            return self.norm(self.b(self.norm(self.a(x)).relu()))[:, :3]

    assert toroid.find_symmetries(Twice(), VECTORS.float()).gains == ()


def test_a_gain_of_zero_and_a_network_without_norms_stay_as_they_are():
    model, x, _ = NETWORKS["ReLU"]
    symmetry = toroid.find_symmetries(model, x.float(), verify=False)
    state = random_state(model, 0)
    state["1.weight"] = torch.zeros_like(state["1.weight"])
    normal = toroid.normalize(state, symmetry, gains="positive")
    assert (normal["1.weight"] == 0).all()
    plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    assert toroid.find_symmetries(plain, x.float()).gains == ()


def test_the_word_is_checked():
    model, x, _ = NETWORKS["ReLU"]
    symmetry = toroid.find_symmetries(model, x.float(), verify=False)
    with pytest.raises(ValueError, match="gains is 'negative'"):
        toroid.normalize(model.state_dict(), symmetry, gains="negative")
