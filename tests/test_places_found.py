"""Places among units: read as numbers they hold the units; as a way back they do not."""

import pytest
import torch
import toroid
from networks import Apply, random_element, random_state
from torch import nn

X = torch.randn(16, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def coded(choose, read=8):
    """Eight units of a code, of which something is chosen, and a decoder."""
    return Apply(lambda m, x: m.d(choose(m.e(x))), e=nn.Linear(5, 8), d=nn.Linear(read, 4)).double()


def moved(state, symmetry):
    permutations, factors = random_element(symmetry, 1)
    return toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)


def topk(h):
    values, places = h.topk(3, -1)
    return torch.zeros_like(h).scatter(-1, places, values.relu())


def topk_in_place(h):
    values, places = h.topk(3, -1)
    code = torch.zeros_like(h)
    code.scatter_(-1, places, values)
    return code


def mask(h):
    return h * torch.zeros_like(h).scatter(-1, h.topk(2, -1)[1], 1.0)


def winner(h):
    return torch.zeros_like(h).scatter(-1, h.argmax(-1, keepdim=True), 1.0)


def without_largest(h):
    return h - h.gather(-1, h.argmax(-1, keepdim=True))


def of_others(h):
    places = h.topk(3, -1)[1]
    return torch.ones_like(h).scatter(-1, places, h.tanh().gather(-1, places))


def weighted(h):
    values, places = h.topk(3, -1)
    return torch.zeros_like(h).scatter(-1, places, values.softmax(-1))


def sorted_sums(h):
    values, places = h.sort(-1)
    return torch.zeros_like(h).scatter(-1, places, values.cumsum(-1))


@pytest.mark.parametrize(
    "choose",
    [topk, topk_in_place, mask, winner, without_largest, of_others, weighted, sorted_sums],
)
def test_what_leads_back_to_the_units_lets_them_move(choose):
    model = coded(choose)
    symmetry = toroid.find_symmetries(model, X)
    assert [(g.name, g.size) for g in symmetry.groups] == [("e", 8)]
    for seed in range(3):
        state = random_state(model, seed)
        assert toroid.same_function(model, state, moved(state, symmetry), X)


def of_the_batch(h):
    values, places = h.topk(2, 0)
    return torch.zeros_like(h).scatter(0, places, values)


def mask_of_the_batch(h):
    return torch.zeros_like(h).scatter(0, h.topk(2, 0)[1], 1.0)


def where_it_is(h):
    return h * h.argmax(0, keepdim=True)


def in_their_order(h):
    places = h.topk(5, 0)[1].sort(0)[0]  # those of each unit, as they follow each other
    return h.gather(0, places).cumsum(0)[-1:] + h


def largest_of_the_batch(h):
    return h - h.gather(0, h.argmax(0, keepdim=True))


@pytest.mark.parametrize(
    "choose", [of_the_batch, mask_of_the_batch, where_it_is, largest_of_the_batch, in_their_order]
)
def test_places_along_another_dimension_are_numbers_of_the_units(choose):
    model = coded(choose)
    symmetry = toroid.find_symmetries(model, X)
    assert [(g.name, g.size) for g in symmetry.groups] == [("e", 8)]
    state = random_state(model, 0)
    assert toroid.same_function(model, state, moved(state, symmetry), X)


def winners(h):
    pairs = h.unflatten(-1, (4, 2))
    mask = torch.zeros_like(pairs).scatter(-1, pairs.argmax(-1, keepdim=True), 1.0)
    return (pairs * mask).flatten(-2)


def test_pairs_of_which_one_wins_are_exchanged_as_wholes():
    model = coded(winners)
    symmetry = toroid.find_symmetries(model, X)
    (whole,) = (group for group in symmetry.groups if group.whole)
    assert whole.size == 4
    assert [g.size for g in symmetry.groups if not g.whole] == [2] * 4
    permutations, factors = random_element(symmetry, 1)
    permutations[whole.name] = torch.tensor([1, 3, 0, 2])
    state = random_state(model, 0)
    after = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    assert toroid.same_function(model, state, after, X)


def test_units_of_places_that_another_chooses_are_units():
    def forward(m, x):
        h = m.e(x)
        places = m.s(h).squeeze(-1).topk(2, 1)[1]
        return m.d(h.gather(1, places[..., None].expand(-1, -1, 8)).relu()).mean(1)

    model = Apply(forward, e=nn.Linear(5, 8), s=nn.Linear(8, 1), d=nn.Linear(8, 3)).double()
    x = X.view(4, 4, 5)
    symmetry = toroid.find_symmetries(model, x)
    assert [(g.name, g.size) for g in symmetry.groups] == [("e", 8)]
    state = random_state(model, 0)
    assert toroid.same_function(model, state, moved(state, symmetry), x)


def counted(h):
    values, places = h.topk(2, -1)
    return torch.zeros_like(h).scatter(-1, places, values) + places.sum(-1, keepdim=True)


def by_rank(h):
    places = h.topk(2, -1)[1]
    return torch.zeros_like(h).scatter(-1, places, places.to(h.dtype))


def added(h):
    values, places = h.topk(2, -1)
    return h.scatter(-1, places, values, reduce="add")


def of_half(h):
    return h[:, :4] * h.gather(-1, h[:, :4].argmax(-1, keepdim=True))


@pytest.mark.filterwarnings("ignore:The reduce argument of torch.scatter:UserWarning")
@pytest.mark.parametrize("choose", [counted, by_rank, added, of_half])
def test_what_reads_places_as_numbers_keeps_the_units_where_they_are(choose):
    model = coded(choose, read=4 if choose is of_half else 8)
    symmetry = toroid.find_symmetries(model, X, strict=False)
    assert all(group.name != "e" for group in symmetry.groups)
    assert sum(stay.size for stay in symmetry.stays if stay.axis.module == "e") == 8
    state = random_state(model, 0)
    assert toroid.same_function(model, state, moved(state, symmetry), X)
