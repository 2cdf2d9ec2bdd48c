"""What is written into a constant, at places that come in, or through a gate, has units of its own."""

import pytest
import torch
import toroid
from networks import Apply
from torch import nn
from toroid.symmetry._elements import Element

X = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).double()
EDGES = torch.tensor([[0, 1, 2, 3, 3], [1, 2, 3, 0, 1]])


def decoder(m, x):
    out, h = x.new_zeros(len(x), 4, 3), x.new_zeros(len(x), 7)
    for t in range(4):
        h = (m.a(x) + m.r(h)).tanh()
        out[:, t] = m.c(h)
    return out


def halves(m, x):
    out = torch.zeros(len(x), 6).to(x)
    out[:, :3] = m.c(m.a(x).relu())
    out[:, 3:] = m.c(m.r(m.a(x)).relu())
    return out


def rows(m, x):
    out = x.new_empty(len(x), 3)
    out[:4], out[4:] = m.c(m.a(x[:4]).relu()), m.c(m.r(m.a(x[4:])).relu())
    return out


@pytest.mark.parametrize("forward", [decoder, halves, rows])
def test_an_output_that_was_written_keeps_its_places(forward):
    model = Apply(forward, a=nn.Linear(5, 7), r=nn.Linear(7, 7), c=nn.Linear(7, 3)).double()
    symmetry = toroid.find_symmetries(model, X)  # verified: not all were
    assert "c" not in {group.name for group in symmetry.groups if not group.whole}
    assert all(group.size == 7 for group in symmetry.groups if not group.whole)


@pytest.mark.parametrize("gate", [torch.relu, nn.functional.leaky_relu])
def test_what_a_gate_lets_through_flips(gate):
    model = Apply(
        lambda m, x: m.c(gate(m.a(x)) * m.g(x)),
        a=nn.Linear(5, 6),
        g=nn.Linear(5, 6),
        c=nn.Linear(6, 3),
    ).double()
    symmetry, state = toroid.find_symmetries(model, X), model.state_dict()
    (group,) = (group for group in symmetry.groups if not group.whole)
    flipped = {axis.parameter for axis in group.axes if group.flips(axis)}
    assert flipped == {"g.weight", "g.bias", "c.weight"}
    moved = toroid.flip(state, {group.name: torch.tensor([1, -1, 1, -1, -1, 1])}, symmetry)
    assert toroid.same_function(model, state, moved, X, output="keep")
    a, b = (toroid.normalize(s, symmetry) for s in (state, moved))
    assert toroid.distance(a, toroid.align(b, to=a, symmetry=symmetry).state, symmetry) < 1e-9


def summed(m, h, e):
    return torch.zeros_like(h).index_add(0, e[1], h[e[0]])


def mean(m, h, e):
    count = h.new_zeros(len(h)).index_add(0, e[1], h.new_ones(e.shape[1]))
    return h.index_add(0, e[1], h[e[0]]) / (count + 1)[:, None]


def latest(m, h, e):
    return h.new_zeros(h.shape).index_copy(0, e[1], h[e[0]])


def scattered(spread, how=""):
    """Messages that are summed, or what `how` says, at places repeated for all units."""

    def passed(m, h, e):
        where, zeros = spread(e[1][:, None], h), torch.zeros_like(h)
        if how:
            return zeros.scatter_reduce(0, where, h[e[0]], how)
        return zeros.scatter_add(0, where, h[e[0]])

    return passed


EXPANDED = lambda where, h: where.expand(-1, h.shape[1])  # noqa: E731
PASSED = [
    summed, mean, latest, scattered(EXPANDED), scattered(lambda e, h: e.repeat(1, h.shape[1])),
    *(scattered(EXPANDED, how) for how in ("sum", "mean", "amax", "amin")),
]  # fmt: skip


@pytest.mark.parametrize("act", [torch.relu, torch.tanh])
@pytest.mark.parametrize("passed", PASSED)
def test_messages_go_along_edges_that_come_in(passed, act):
    model = Apply(
        lambda m, x, e: m.c(passed(m, act(m.a(x)), e)), a=nn.Linear(5, 7), c=nn.Linear(7, 3)
    ).double()
    symmetry = toroid.find_symmetries(model, (X, EDGES))
    assert [group.size for group in symmetry.groups if not group.whole] == [7]
    other = torch.tensor([[3, 1, 0, 5, 6, 2, 2], [0, 0, 1, 4, 2, 7, 6]])
    state, element = model.state_dict(), Element.random(symmetry, torch.Generator().manual_seed(1))
    assert toroid.same_function(model, state, element.act(state), (X, other))


def test_places_of_each_number_of_their_own_are_refused():
    def own(m, x, e):
        h = m.a(x).relu()
        return m.c(torch.zeros_like(h).scatter_add(0, (h > 0).long(), h))

    def product(m, x, e):
        return m.c(scattered(EXPANDED, "prod")(m, m.a(x).relu(), e))

    for forward in (own, product):
        model = Apply(forward, a=nn.Linear(5, 7), c=nn.Linear(7, 3)).double()
        with pytest.raises(toroid.UnsupportedError, match="that other numbers choose"):
            toroid.find_symmetries(model, (X, EDGES))


@pytest.mark.filterwarnings("ignore:.* hidden units stay")
def test_units_that_numbers_choose_stay():
    def columns(m, x, e):
        h = m.a(x).relu()
        return m.c(torch.zeros_like(h).index_add(1, e[1], h[:, e[0]]))

    def largest(m, x, e):
        h = m.a(x).relu()
        return m.c(torch.zeros_like(h).index_add(0, h.argmax(1), h))

    for forward in (columns, largest):
        model = Apply(forward, a=nn.Linear(5, 7), c=nn.Linear(7, 3)).double()
        symmetry = toroid.find_symmetries(model, (X, EDGES), verify=False)
        assert [group for group in symmetry.groups if not group.whole] == []


def at(function):
    def forward(m, x):
        h = m.a(x) * 1
        function(h)
        return m.c(h.relu())

    return forward


@pytest.mark.parametrize(
    "blank",
    [
        lambda h: h[:, 0].zero_(),
        lambda h: h[:, 1:3].fill_(2.0),
        lambda h: h[0].copy_(torch.zeros(5, 7).to(h)),
        lambda h: h[:, :2].copy_(torch.ones(7).to(h)),
    ],
)
def test_places_that_are_blanked_for_all_units_hold_none(blank):
    model = Apply(at(blank), a=nn.Linear(6, 7), c=nn.Linear(7, 3)).double()
    symmetry = toroid.find_symmetries(model, torch.randn(4, 5, 6).double())
    assert [group.size for group in symmetry.groups if not group.whole] == [7]


def own_mask(h, rows):
    h[h > 0.5] = 0.0


def of_rows(h, rows):
    h[rows] = 0.0


def of_rows_to_one(h, rows):
    h[rows] = torch.ones(6).to(h)


def of_a_statistic(h, rows):
    h[h < h.mean(1, keepdim=True)] = 0.0


def of_places(h, rows):
    scores = h @ h.mT
    scores[rows[:, None] & rows] = -torch.inf
    h.copy_(scores.softmax(-1).nan_to_num() @ h)


@pytest.mark.parametrize("write", [own_mask, of_rows, of_rows_to_one, of_a_statistic, of_places])
def test_one_number_at_the_places_of_a_mask(write):
    def forward(m, x, rows):
        h = m.b(m.a(x).relu()).relu().clone()
        write(h, rows)
        return m.c(h)

    model = Apply(forward, a=nn.Linear(5, 6), b=nn.Linear(6, 6), c=nn.Linear(6, 3)).double()
    mask = torch.tensor([1, 0, 0, 1, 0, 1, 0, 0]).bool()
    symmetry = toroid.find_symmetries(model, (X, mask))
    assert [group.name for group in symmetry.groups if not group.whole] == ["a", "b"]
    state, element = model.state_dict(), Element.random(symmetry, torch.Generator().manual_seed(1))
    assert toroid.same_function(model, state, element.act(state), (2 * X, ~mask))


def test_several_numbers_at_the_places_of_a_mask_are_refused():
    def forward(m, x, rows):
        h = m.a(x).relu().clone()
        h[rows] = torch.arange(6.0).to(h)
        return m.c(h)

    model = Apply(forward, a=nn.Linear(5, 6), c=nn.Linear(6, 3)).double()
    with pytest.raises(toroid.UnsupportedError, match="places that depend on the numbers"):
        toroid.find_symmetries(model, (X, torch.arange(8) > 3))
