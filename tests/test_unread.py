"""Tables that are cut to the length of the example: what is not read moves along, or stays."""

import pytest
import torch
import toroid
from networks import Apply, random_element
from torch import nn

WORDS = torch.randint(12, (2, 6), generator=torch.Generator().manual_seed(0))
LONG = torch.randint(12, (2, 16), generator=torch.Generator().manual_seed(1))


def added(cut, **tables):
    """Embedded words, a table of positions cut to their number, and two layers."""
    return Apply(
        lambda m, i: m.end((m.embed(i) + cut(m, i.shape[1])).mul(m.scale).tanh()),
        embed=nn.Embedding(12, 8), end=nn.Linear(8, 3), scale=nn.Parameter(torch.rand(8)), **tables,
    )  # fmt: skip


def rotated(m, i):
    """Queries and keys times tables of cosines, cut to the number of words."""
    x = m.embed(i)
    q, k = (x @ w * m.table[: i.shape[1]] for w in (m.q, m.k))
    return m.end((q @ k.mT).softmax(-1) @ x)


TABLES = {
    "parameter": lambda: added(lambda m, n: m.table[:, :n], table=nn.Parameter(torch.randn(1, 16, 8))),
    "embedding": lambda: added(lambda m, n: m.table.weight[:n], table=nn.Embedding(16, 8)),
    "buffer": lambda: added(lambda m, n: m.table[:n], table=torch.randn(16, 8)),
    "rotary": lambda: Apply(
        rotated, embed=nn.Embedding(12, 8), end=nn.Linear(8, 3), table=torch.randn(16, 5),
        q=nn.Parameter(torch.randn(8, 5)), k=nn.Parameter(torch.randn(8, 5)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_longer_inputs_see_the_same_function(name):
    model = TABLES[name]().double()
    symmetry = toroid.find_symmetries(model, WORDS)
    assert max(group.size for group in symmetry.groups) == 8
    state = model.state_dict()
    permutations, factors = random_element(symmetry, 1)
    moved = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    normal = toroid.normalize(state, symmetry, output="keep")
    for other in (moved, normal):
        for words in (WORDS, LONG):
            assert toroid.same_function(model, state, other, words, tolerance=1e-10)


def test_units_of_a_wider_network_that_are_not_read_stay():
    def forward(m, x):
        n = m.used
        x = nn.functional.linear(x, m.a.weight[:n], m.a.bias[:n]).relu()
        return nn.functional.linear(x, m.b.weight[:, :n], m.b.bias)

    model = Apply(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 3)).double()
    model.used = 4
    x = torch.randn(7, 5, dtype=torch.float64)
    symmetry = toroid.find_symmetries(model, x)
    (group,) = symmetry.groups
    assert group.size == 4
    assert [(stay.size, stay.why) for stay in symmetry.stays] == [(4, "not read for the example")]
    state = model.state_dict()
    moved = toroid.permute(state, {group.name: torch.tensor([3, 0, 1, 2])}, symmetry)
    model.used = 8
    assert toroid.same_function(model, state, moved, x, tolerance=1e-10)


def test_a_table_larger_than_an_image_that_is_read_at_a_smaller_size():
    model = Apply(
        lambda m, x: m.end((m.first(x) + m.table[:, :, : x.shape[2], : x.shape[3]]).relu().mean((2, 3))),
        first=nn.Conv2d(3, 4, 3, padding=1), table=torch.randn(1, 4, 264, 264), end=nn.Linear(4, 2),
    ).double()  # fmt: skip
    x = torch.randn(1, 3, 256, 256, dtype=torch.float64)
    symmetry = toroid.find_symmetries(model, x)
    assert [group.size for group in symmetry.groups] == [4]
    permutations, factors = random_element(symmetry, 0)
    state = model.state_dict()
    moved = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    assert toroid.same_function(model, state, moved, x, tolerance=1e-9)


def test_outputs_that_a_buffer_alone_makes_have_no_vector():
    model = Apply(
        lambda m, x: (m.layer(x).softmax(-1) * m.values).sum(-1, keepdim=True),
        layer=nn.Linear(5, 6), values=torch.linspace(-1, 1, 6),
    ).double()  # fmt: skip
    symmetry = toroid.find_symmetries(model, torch.randn(3, 5).double())
    assert symmetry.output is None
    state = model.state_dict()
    x = torch.randn(9, 5).double()
    normal = toroid.normalize(state, symmetry)
    assert toroid.same_function(model, state, normal, x, output="keep", tolerance=1e-10)


# --- parameters that no output of the example says anything about ------------------------------


class Heads(nn.Module):
    """A network of several tasks, each with a head."""

    def __init__(self):
        super().__init__()
        self.body, self.heads = nn.Linear(4, 8), nn.ModuleList(nn.Linear(8, 2) for _ in range(3))

    def forward(self, x, task=0):
        return self.heads[task](self.body(x).relu())


class Auxiliary(nn.Module):
    """A head that is run in training only."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.extra = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        h = self.body(x).relu()
        return (self.head(h), self.extra(h)) if self.training else self.head(h)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (Heads(), r"heads\.1\.weight, heads\.2\.weight on this example"),
        (Auxiliary(), r"extra\.weight on this example"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_parameters_that_the_example_does_not_run_are_told(model, names, strict):
    with pytest.warns(UserWarning, match=f"forward does not run {names}"):
        symmetry = toroid.find_symmetries(model, torch.randn(2, 4), strict=strict)
    assert symmetry["body"].size == 8


def test_parameters_under_two_names_are_read_under_one():
    model = Apply(lambda m, x: m.second(m.first(x).relu()).relu().sum(1, keepdim=True),
                  alias=nn.Linear(4, 4), first=nn.Linear(4, 4), second=nn.Linear(4, 4))  # fmt: skip
    model.alias = model.first
    toroid.find_symmetries(model, torch.randn(2, 4))  # warns of nothing


class Detector(nn.Module):
    """Logits and a box, and what is made and thrown away."""

    def __init__(self):
        super().__init__()
        self.body, self.logits = nn.Linear(4, 8), nn.Linear(8, 3)
        self.box, self.waste = nn.Linear(8, 5), nn.Linear(8, 8)

    def forward(self, x):
        h = self.body(x).relu()
        return {"logits": self.logits(h), "box": self.box(h).tanh(), "sum": h + self.waste(h)}


def test_outputs_that_do_not_count_stay_as_they_are():
    model, x = Detector().double(), torch.randn(6, 4, dtype=torch.float64)
    symmetry = toroid.find_symmetries(model, x.float(), outputs=lambda out: out["logits"])
    assert [group.name for group in symmetry.groups] == ["body"]
    assert {stay.axis.parameter: stay.why for stay in symmetry.stays} == {
        "box.weight": "no output depends on it"
    }
    permutations, _ = random_element(symmetry, 0)
    moved = toroid.permute(model.state_dict(), permutations, symmetry)
    before = model(x)
    after = torch.func.functional_call(model, moved, (x,))
    assert torch.allclose(before["logits"], after["logits"])
    assert torch.allclose(before["box"], after["box"])


class Categories(nn.Module):
    """A column of floating numbers that are indices, as tables of data have it."""

    def __init__(self):
        super().__init__()
        self.table, self.body, self.head = nn.Embedding(4, 8), nn.Linear(10, 8), nn.Linear(8, 2)

    def forward(self, x):
        words = self.table(x[:, 0].long())
        return self.head(self.body(torch.cat([words, x[:, 1:]], 1)).relu())


def test_what_random_inputs_do_not_fit_is_told():
    x = torch.cat([torch.randint(4, (6, 1)).float(), torch.randn(6, 2)], 1)
    told = r"does not run on random inputs like the example \(.*index out of range.*verify=False"
    with pytest.raises(toroid.UnsupportedError, match=told):
        toroid.find_symmetries(Categories(), x)
    symmetry = toroid.find_symmetries(Categories(), x, verify=False)
    assert [(group.name, group.size) for group in symmetry.groups] == [("table", 8), ("body", 8)]


def test_a_single_input_without_a_finite_output_is_left_out():
    model = Apply(
        lambda m, x: m.b(m.a(x).relu()) + torch.where(x[:, :1] > 1.5, torch.nan, 0.0),
        a=nn.Linear(4, 6), b=nn.Linear(6, 3),
    )  # fmt: skip
    symmetry = toroid.find_symmetries(model, torch.zeros(40, 4))
    assert [(group.name, group.size) for group in symmetry.groups] == [("a", 6)]
    never = Apply(lambda m, x: m.b(m.a(x).relu()) / 0 * 0, a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    with pytest.raises(toroid.UnsupportedError, match="no output of a random copy is finite"):
        toroid.find_symmetries(never, torch.zeros(40, 4))
