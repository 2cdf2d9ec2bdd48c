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


def largest_of_the_batch(h):
    return h - h.gather(0, h.argmax(0, keepdim=True))


@pytest.mark.parametrize(
    "choose", [of_the_batch, mask_of_the_batch, where_it_is, largest_of_the_batch]
)
def test_places_along_another_dimension_are_numbers_of_the_units(choose):
    model = coded(choose)
    symmetry = toroid.find_symmetries(model, X)
    assert [(g.name, g.size) for g in symmetry.groups] == [("e", 8)]
    state = random_state(model, 0)
    assert toroid.same_function(model, state, moved(state, symmetry), X)


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
