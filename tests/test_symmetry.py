"""Groups are those a person would find, and every element of the symmetry leaves the function as it is."""

import copy

import pytest
import torch
import toroid
from hypothesis import given
from hypothesis import strategies as st
from networks import ALL, BOOK, Apply, gap, network, random_element, random_signs, random_state
from torch import nn

SEEDS = st.integers(0, 10_000)


@pytest.mark.parametrize("name", ALL)
@given(seed=SEEDS, dead=st.booleans())
def test_a_random_element_leaves_the_function_as_it_is(name, seed, dead):
    model, example, symmetry = network(name)
    state = random_state(model, seed, dead)
    permutations, factors = random_element(symmetry, seed)
    moved = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    moved = toroid.flip(moved, random_signs(symmetry, seed), symmetry)
    report = toroid.same_function(model, state, moved, example, tolerance=1e-10)
    assert report, report
    if "output" in factors:
        assert report.factor == pytest.approx(float(factors["output"]), rel=1e-9)


@pytest.mark.parametrize("name", ALL)
@given(seed=SEEDS)
def test_permuting_there_and_back(name, seed):
    model, _, symmetry = network(name)
    state = random_state(model, seed)
    permutations, _ = random_element(symmetry, seed)
    back = {name: p.argsort() for name, p in reversed(permutations.items())}
    assert (
        gap(state, toroid.permute(toroid.permute(state, permutations, symmetry), back, symmetry))
        == 0
    )


EXPECTED = {
    "leaky": {"1": (6, "free"), "3": (5, "free")},
    "gelu": {"1": (6, "gelu")},
    "tanh": {"1": (6, "free"), "3": (5, "tanh")},
    "width 1": {"1": (1, "free")},
    "no hidden": {},
    "residual": {"start": (7, "free"), "read": (5, "free")},
    "branches": {"left": (4, "free"), "right": (3, "free"), "right#2": (3, "free"), "first": (5, "free")},
    "shuffle": {"a": (2, "free"), "a#2": (2, "free"), "b": (2, "free"), "b#2": (2, "free")},
    "channels last": {"conv": (5, "free")},
    "half": {"start": (3, "free"), "start#2": (3, "gelu")},
    "reused": {"start": (6, "free")},
    "inplace": {"a": (4, "free")},
}  # fmt: skip


FLIPS = {
    "tanh": ["3"],
    "sign": ["1", "3"],
    "odd": ["0", "2", "5"],
    "leaky": [],
    "norm1d": [],
    "no hidden": [],
}


@pytest.mark.parametrize("name", FLIPS)
def test_units_flip_where_their_activation_is_odd(name):
    assert [g.name for g in network(name)[2].groups if g.flip] == FLIPS[name]


def test_a_flip_changes_what_makes_a_unit_and_what_reads_it_and_no_gain():
    flip = network("sign")[2]["3"].flip
    assert [a.parameter for a in flip.axes] == [
        "3.weight", "3.bias", "4.running_mean", "4.running_var", "4.bias", "6.weight"]  # fmt: skip
    model, _, symmetry = network("sign")
    state = random_state(model, 0)
    flipped = toroid.flip(state, {"3": torch.tensor([-1, 1, 1, 1, 1])}, symmetry)
    assert torch.equal(flipped["4.running_var"], state["4.running_var"])
    assert torch.equal(flipped["3.weight"][0], -state["3.weight"][0])
    assert torch.equal(flipped["4.weight"], state["4.weight"])


@pytest.mark.parametrize("name", EXPECTED)
def test_groups_are_those_a_person_finds(name):
    symmetry = network(name)[2]
    last = {g.name: (g.size, g.scales[-1].fixed or "free") for g in symmetry.groups}
    assert last == EXPECTED[name]


def test_a_flatten_gives_a_unit_a_block_of_columns():
    lenet = network("lenet")[2]
    (reader,) = (a for a in lenet["3"].axes if a.role == "in")
    assert reader.index == ((0, 1, 2, 3),)  # 2 x 2 places, channels first
    (reader,) = (a for a in network("channels last")[2]["conv"].axes if a.role == "in")
    assert reader.index[1] == (1, 6, 11, 16)


def test_a_residual_stream_is_one_group():
    stream = network("resnet18")[2]["0"]
    makers = [
        a.parameter for a in stream.axes if a.role == "out" and a.parameter.endswith("conv2.weight")
    ]
    assert makers == ["3.conv2.weight", "4.conv2.weight"]


def test_weights_that_read_their_own_stream_stay_out_of_the_norm():
    roles = {a.parameter: a.role for a in network("residual")[2]["start"].axes if a.role != "in"}
    assert roles == {
        "start.weight": "out",
        "start.bias": "bias",
        "write.weight": "late",
        "write.bias": "bias",
    }


def test_the_last_layer_has_one_factor_unless_something_follows():
    output = network("mlp")[2].output
    assert output.size == 1
    assert [a.parameter for a in output.axes] == ["5.weight", "5.bias"]
    assert network("softmax")[2].output is None


def test_the_result_does_not_depend_on_weights():
    model, example, symmetry = network("resnet18")
    other = copy.deepcopy(model)
    other.load_state_dict(random_state(model, 1))
    assert toroid.find_symmetries(other, example) == symmetry


@pytest.mark.parametrize("name", ALL)
def test_classes_keep_their_places(name):
    model, example, symmetry = network(name)
    state = random_state(model, 0)
    moved = toroid.permute(state, random_element(symmetry, 0)[0], symmetry)
    outputs = [torch.func.functional_call(model.eval(), s, (example,)) for s in (state, moved)]
    assert torch.allclose(*outputs, atol=1e-9)  # class by class, no factor
    end = [k for k in state if k.endswith("weight")][-1]
    assert not any(a.parameter == end and a.dim == 0 for g in symmetry.groups for a in g.axes)


def test_the_result_does_not_depend_on_the_order_in_which_layers_are_made():
    class Turned(type(network("residual")[0])):
        def __init__(self):
            super().__init__()
            self._modules = dict(reversed(self._modules.items()))

    assert toroid.find_symmetries(Turned(), torch.zeros(2, 3, 2, 2)) == network("residual")[2]


@pytest.mark.parametrize("name", ["branches", "resnet18", "sign"])
def test_json_there_and_back(name):
    symmetry = network(name)[2]
    assert toroid.Symmetry.from_json(symmetry.to_json()) == symmetry


def test_printing_lists_every_group():
    printed = str(network("resnet18")[2]).splitlines()
    assert printed[0].split() == ["group", "units", "made", "by", "read", "by", "scale"]
    assert len(printed) == 1 + sum(len(g.scales) for g in network("resnet18")[2].all_groups)
    assert "fixed: gelu" in str(network("gelu")[2])


class Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.end = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = self.first(x).relu()
        return self.end(self.second(x.cumsum(1)).relu())


def test_an_unknown_operation_is_refused_by_name_and_place():
    with pytest.raises(
        toroid.UnsupportedError,
        match=r"'cumsum' is not understood .it takes units in their order.*test_symmetry\.py.*cumsum\(1\)",
    ):
        toroid.find_symmetries(Unknown(), torch.zeros(2, 4))


def test_what_is_not_understood_is_left_as_it_is():
    model, example = Unknown(), torch.randn(5, 4, dtype=torch.float64)
    symmetry = toroid.find_symmetries(model, torch.zeros(2, 4), strict=False)
    assert [g.name for g in symmetry.groups] == ["second"]
    assert "cumsum" in str(symmetry)
    state = random_state(model, 0)
    permutations, factors = random_element(symmetry, 1)
    moved = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    assert toroid.same_function(model, state, moved, example, tolerance=1e-10)


def written(fixed="i0e", reader="second.weight", size=6):
    """A group as a person writes it."""
    units = range(size)
    axes = (
        toroid.Axis("first.weight", 0, "out", units),
        toroid.Axis("first.bias", 0, "bias", units),
        toroid.Axis(reader, 1, "in", units),
    )
    return toroid.Symmetry((toroid.Group("first", (toroid.Scale("first", axes, fixed=fixed),)),))


class Bessel(Unknown):
    """An activation without a rule, that acts on each unit alone."""

    def forward(self, x):
        x = torch.special.i0e(self.first(x))
        return self.end(self.second(x).relu())


def test_a_group_can_be_written_by_hand():
    model, example = Bessel(), torch.zeros(2, 4)
    found = toroid.find_symmetries(model, example, strict=False)
    assert [g.name for g in found.groups] == ["second"]
    symmetry = toroid.find_symmetries(model, example, strict=False, given=written())
    assert [g.name for g in symmetry.groups] == ["first", "second"]
    assert symmetry == found | written()
    assert toroid.Symmetry.from_json(symmetry.to_json()) == symmetry
    state = random_state(model, 0)
    permutations, factors = random_element(symmetry, 1)
    moved = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    x = torch.randn(5, 4, dtype=torch.float64)
    assert toroid.same_function(model, state, moved, x, tolerance=1e-10)


def test_a_wrong_group_by_hand_is_found_out():
    model, example = Bessel(), torch.zeros(2, 4)
    for wrong, group in ((Unknown(), written()), (model, written(fixed=""))):  # it has no scale
        with pytest.raises(toroid.UnsupportedError, match=r"not alike after all \(first\)"):
            toroid.find_symmetries(wrong, example, strict=False, given=group)
    with pytest.raises(ValueError, match="'first' and 'first' cannot be merged: they both act on"):
        written() | written()
    with pytest.raises(ValueError, match=r"no tensor 'third\.weight'"):
        toroid.find_symmetries(model, example, strict=False, given=written(reader="third.weight"))
    with pytest.raises(ValueError, match="role is 'reads'; it can be 'out'"):
        toroid.Axis("first.weight", 0, "reads", range(3))


class Threshold(nn.Module):
    """Rectifies, by an operation that has no rule."""

    def forward(self, x):
        return x * ~torch.signbit(x)


def by_hand(made, read, size=6, **options):
    units = range(size)
    axes = (
        toroid.Axis(f"{made}.weight", 0, "out", units),
        toroid.Axis(f"{made}.bias", 0, "bias", units),
        toroid.Axis(f"{read}.weight", 1, "in", units),
    )
    return toroid.Symmetry((toroid.Group(made, (toroid.Scale(made, axes, **options),)),))


def test_a_group_by_hand_has_its_place_in_the_graph():
    model = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), Threshold(), nn.Linear(6, 3)
    )  # fmt: skip
    symmetry = toroid.find_symmetries(
        model, torch.zeros(2, 4), strict=False, given=by_hand("4", "6")
    )
    assert [g.name for g in symmetry.groups] == ["0", "2", "4"]
    state = random_state(model, 0)
    permutations, factors = random_element(symmetry, 0)
    copy = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    a, b = (toroid.normalize(s, symmetry) for s in (state, copy))
    assert gap(toroid.normalize(a, symmetry), a) < 1e-14
    assert gap(toroid.align(b, to=a, symmetry=symmetry).state, a) < 1e-12


class Mixed(nn.Module):
    """Mixes its units, by an operation that has no rule."""

    def forward(self, x):
        return x.cumsum(1)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_a_deep_network_does_not_hide_what_is_wrong_in_front(activation):
    deep = [layer for _ in range(40) for layer in (nn.Linear(6, 6), activation())]
    model = nn.Sequential(nn.Linear(4, 6), Mixed(), *deep, nn.Linear(6, 3))
    with pytest.raises(toroid.UnsupportedError, match="Mend groups that were given by hand"):
        toroid.find_symmetries(
            model, torch.zeros(2, 4), strict=False, given=by_hand("0", "2", fixed="?")
        )


def test_a_network_without_a_finite_output_cannot_be_verified():
    class Root(nn.Module):
        def forward(self, x):
            return x.abs().add(1).neg().log()

    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), Root())
    with pytest.raises(toroid.UnsupportedError, match="no output of a random copy is finite"):
        toroid.find_symmetries(model, torch.zeros(2, 4))


@pytest.mark.parametrize("persistent", [True, False])
def test_a_mask_in_the_state_is_what_one_beside_it_is(persistent):
    layer = nn.TransformerEncoderLayer(8, 2, 6, batch_first=True)
    model = Apply(lambda m, x: m.end(m.layer(x, src_mask=m.mask)), layer=layer, end=nn.Linear(8, 3))
    mask = torch.full((4, 4), -torch.inf).triu(1)
    model.register_buffer("mask", mask, persistent=persistent)
    groups = toroid.find_symmetries(model, torch.randn(2, 4, 8)).groups
    assert sorted(group.size for group in groups) == [2, 4, 4, 4, 4, 6]


def test_a_table_that_no_unit_is_of_keeps_its_numbers():
    """Random ones would have no logarithm."""
    model = Apply(
        lambda m, x: m.b(m.a(x).relu() * (torch.arange(5) * m.shares.neg().log1p()).sum()),
        a=nn.Linear(4, 6), b=nn.Linear(6, 3), shares=torch.linspace(0.1, 0.9, 5),
    )  # fmt: skip
    assert [g.size for g in toroid.find_symmetries(model, torch.zeros(2, 4)).groups] == [6]


def test_networks_without_units_have_no_groups():
    for model in (nn.Flatten(), nn.Sequential(nn.ReLU())):
        symmetry = toroid.find_symmetries(model, torch.zeros(2, 4))
        assert symmetry.groups == ()


def test_outputs_of_several_shapes():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x):
            y = self.b(self.a(x).relu())
            return {"logits": y, "mean": y.mean()}

    assert [g.size for g in toroid.find_symmetries(Both(), torch.zeros(2, 4)).groups] == [5]


def test_groups_that_are_no_groups_are_refused():
    for index in ((), ((0, 1), (2,)), (-1, 0), (0.5, 1), [[0, 1], [2, 3]]):
        with pytest.raises(ValueError, match="takes positions from 0 on"):
            toroid.Axis("w", 0, "out", index)
    axes = (toroid.Axis("a", 0, "out", range(3)), toroid.Axis("b", 1, "in", range(4)))
    with pytest.raises(ValueError, match=r"one number of units, got \{'a': 3, 'b': 4\}"):
        toroid.Group("a", (toroid.Scale("a", axes),))


class Swapped(nn.Module):
    """A channel's places in two orders: its columns do not correspond one to one."""

    def __init__(self):
        super().__init__()
        self.conv, self.end = nn.Conv2d(3, 4, 1), nn.Linear(16, 3)

    def forward(self, x):
        x = self.conv(x).relu()
        turned = x[:, 1:].transpose(2, 3)
        return self.end(torch.cat([x[:, :1].flatten(1), turned.flatten(1)], 1))


def test_what_the_rules_got_wrong_is_found_by_running_it():
    example = torch.zeros(2, 3, 2, 2)
    with pytest.raises(
        toroid.UnsupportedError, match=r"units that are not alike after all \(conv\)"
    ):
        toroid.find_symmetries(Swapped(), example)
    symmetry = toroid.find_symmetries(Swapped(), example, strict=False)
    assert symmetry.groups == ()
    assert "not alike" in symmetry.refused[0]
    assert toroid.find_symmetries(Swapped(), example, verify=False).groups  # the rules alone


def test_heads_and_what_is_inside_them():
    sizes = {g.name: (g.size, len(g.axes[0].index[0])) for g in network("attention")[2].groups}
    heads = {name: size for name, size in sizes.items() if name.startswith("attention")}
    assert sorted(heads.values()) == [(2, 9), (3, 1), (3, 1), (3, 2), (3, 2)]  # heads; v; q with k


def test_blocks_of_a_grouped_convolution():
    groups = {g.name: g.size for g in network("grouped")[2].groups}
    assert groups == {"0": 2, "0#2": 3, "0#3": 3, "2": 2, "2#2": 2}


def test_an_example_of_several_inputs():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x, y):
            return self.c((self.a(x) + self.b(y)).relu())

    model, example = Sum(), (torch.randn(2, 4), torch.randn(2, 3))
    symmetry = toroid.find_symmetries(model, example)
    state = random_state(model, 0)
    permutations, _ = random_element(symmetry, 0)
    assert toroid.same_function(
        model, state, toroid.permute(state, permutations, symmetry), example
    )


def test_the_model_is_not_changed():
    model = toroid.resnet18((1, 8, 8), width=0.05).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    toroid.find_symmetries(model, torch.randn(2, 1, 8, 8))
    toroid.same_function(model, before, before, torch.randn(2, 1, 8, 8))
    assert gap(before, model.state_dict()) == 0
    assert all(module.training for module in model.modules())


def test_a_buffer_that_is_not_saved_takes_the_precision_of_the_state():
    class Offset(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)
            self.register_buffer("places", torch.randn(3, 4), persistent=False)

        def forward(self, x):
            return self.b(self.a(self.places + x).relu())

    model, example = Offset(), torch.randn(3, 4)
    symmetry = toroid.find_symmetries(model, example)
    state = random_state(model, 0)
    assert toroid.same_function(model, state, toroid.normalize(state, symmetry), example)


@pytest.mark.parametrize("name", BOOK)
def test_same_function_tells_another_function(name):
    model, example, _ = network(name)
    assert not toroid.same_function(model, random_state(model, 0), random_state(model, 1), example)
    negative = {
        k: -v if k.startswith(("5.", "11.")) else v for k, v in random_state(model, 0).items()
    }
    if name == "mlp":
        report = toroid.same_function(model, random_state(model, 0), negative, example)
        assert report.factor == pytest.approx(-1)
        assert not report


def test_wrong_permutations_and_factors_say_what_is_wrong():
    model, _, symmetry = network("leaky")
    state = random_state(model, 0)
    with pytest.raises(ValueError, match="no group '9' to permute; there are 1, 3"):
        toroid.permute(state, {"9": torch.arange(6)}, symmetry)
    with pytest.raises(ValueError, match="permutation of its 6 units"):
        toroid.permute(state, {"1": torch.zeros(6).long()}, symmetry)
    with pytest.raises(ValueError, match="takes 6 positive finite factors"):
        toroid.rescale(state, {"1": torch.tensor([1.0, 1, 1, 1, 1, -1])}, symmetry)
    with pytest.raises(ValueError, match="no free scale 'x'; there are 1, 3, output"):
        toroid.rescale(state, {"x": torch.ones(6)}, symmetry)
    with pytest.raises(ValueError, match="no group '1' whose sign is free; there are none"):
        toroid.flip(state, {"1": torch.ones(6)}, symmetry)
    odd = network("tanh")[2]
    with pytest.raises(ValueError, match="takes 5 signs, each 1 or -1"):
        toroid.flip(random_state(network("tanh")[0], 0), {"3": torch.zeros(5)}, odd)
    with pytest.raises(ValueError, match=r"no tensor '1\.weight'.*another network"):
        toroid.permute({}, {}, symmetry)
    with pytest.raises(ValueError, match=r"shape \(2, 12\).*another network"):
        toroid.permute({**state, "1.weight": state["1.weight"][:2]}, {}, symmetry)
    with pytest.raises(KeyError, match="there are 1, 3, output"):
        symmetry["x"]


def test_an_index_that_is_a_constant_only_moves():
    order = torch.tensor([3, 1, 0, 2, 5, 4])
    model = Apply(
        lambda m, x: m.b(m.a(x).relu()[:, m.order]),
        a=nn.Linear(4, 6),
        b=nn.Linear(6, 3),
        order=order,
    )
    (group,) = toroid.find_symmetries(model, torch.zeros(2, 4)).groups
    assert group.axes[-1].index == tuple((int(i),) for i in order.argsort())


@pytest.mark.parametrize(
    "first",
    [nn.LeakyReLU(0.1, inplace=True), Apply(lambda m, x: x.sub_(0.5)), nn.ReLU(inplace=True)],
)
def test_a_network_that_writes_into_its_input_leaves_the_callers_as_it_is(first):
    model, x = nn.Sequential(first, nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(5, 4)
    kept = x.clone()
    symmetry = toroid.find_symmetries(model, x)
    assert [g.size for g in symmetry.groups] == [6]
    state = model.state_dict()
    assert toroid.same_function(model, state, toroid.normalize(state, symmetry), x)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("constant", [nn.Parameter(torch.ones(1)), torch.ones(1)])
def test_an_output_that_is_a_constant_leaves_no_factor(constant):
    model = Apply(
        lambda m, x: (m.b(m.a(x).relu()), m.c), a=nn.Linear(4, 6), b=nn.Linear(6, 3), c=constant
    )
    symmetry = toroid.find_symmetries(model, torch.zeros(2, 4))
    assert [g.name for g in symmetry.all_groups] == ["a"]
    state = random_state(model, 0)
    normal = toroid.normalize(state, symmetry)
    assert toroid.same_function(model, state, normal, torch.randn(5, 4), tolerance=1e-10)


def test_a_factor_of_the_last_layer_that_is_wrong_is_found_out_by_name():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.Sigmoid())
    axis = toroid.Axis("2.weight", 0, "out", ((0, 1, 2),))
    factor = toroid.Symmetry((), toroid.Group("output", (toroid.Scale("output", (axis,)),)))
    for strict in (True, False):
        with pytest.raises(toroid.UnsupportedError, match=r"not alike after all \(output\)"):
            toroid.find_symmetries(model, torch.zeros(2, 4), strict=strict, given=factor)


def test_a_cast_to_integers_fixes_the_scale():
    model = Apply(
        lambda m, x: m.b((m.a(x).relu() / 100).to(torch.int32).to(x.dtype)),
        a=nn.Linear(4, 6),
        b=nn.Linear(6, 3),
    )
    (group,) = toroid.find_symmetries(model, torch.zeros(2, 4)).groups
    assert [s.fixed for s in group.scales] == ["a cast to integers"]


def test_same_function_takes_whole_states():
    model, example, _ = network("mlp")
    state = random_state(model, 0)
    for part in ({}, {"1.bias": state["1.bias"]}):
        for pair in ((state, part), (part, state)):
            with pytest.raises(ValueError, match="the state lacks"):
                toroid.same_function(model, *pair, example)


def test_what_is_no_tensor_no_symmetry_or_no_model_is_refused():
    model, example, symmetry = network("leaky")
    state, order = random_state(model, 0), list(range(6))
    for wrong, kind in ((order, "a list"), (torch.arange(6).numpy(), "a ndarray")):
        with pytest.raises(ValueError, match=f"permutation of '1' is {kind}; it takes a tensor"):
            toroid.permute(state, {"1": wrong}, symmetry)
    for wrong in (torch.arange(6.0), torch.ones(6, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"tensor of torch\.\w+; it takes integers"):
            toroid.permute(state, {"1": wrong}, symmetry)
    for wrong, kind in ((order, "a list"), (2.0, "a float")):
        with pytest.raises(ValueError, match=f"factor of '1' is {kind}; it takes a tensor"):
            toroid.rescale(state, {"1": wrong}, symmetry)
    with pytest.raises(ValueError, match="sign of '3' is a list; it takes a tensor"):
        toroid.flip(random_state(network("tanh")[0], 0), {"3": [1] * 5}, network("tanh")[2])
    normal = toroid.normalize(state, symmetry)
    with pytest.raises(ValueError, match=r"symmetry is 0\.5; it takes what find_symmetries"):
        toroid.geodesic(normal, normal, symmetry, 0.5)
    with pytest.raises(ValueError, match="symmetry is None; it takes what find_symmetries"):
        toroid.align(state, to=state, symmetry=None)
    with pytest.raises(ValueError, match=r"takes the model, a torch\.nn\.Module, got a dict"):
        toroid.find_symmetries(state, example)


class CastNorm(nn.LayerNorm):
    """Computes in float32, whatever comes in."""

    def forward(self, x):
        return super().forward(x.float()).to(x.dtype)


def soft(dtype):
    return Apply(lambda m, x: torch.softmax(x, -1, dtype=dtype).to(x.dtype))


def root_mean_square(m, x):
    wide = x.float()
    return m.gain * (wide * (wide.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype)


@pytest.mark.parametrize(
    "middle",
    [
        CastNorm(6),
        Apply(root_mean_square, gain=nn.Parameter(torch.ones(6))),
        soft(torch.float32),
        soft(torch.bfloat16),
        Apply(lambda m, x: x.to(torch.bfloat16).relu().to(x.dtype)),
    ],
)
def test_a_network_that_casts_is_verified_at_that_precision(middle):
    model = nn.Sequential(nn.Linear(4, 6), middle, nn.Linear(6, 3))
    (group,) = toroid.find_symmetries(model, torch.zeros(2, 4)).groups
    assert group.size == 6
    wrong = nn.Sequential(nn.Linear(4, 6), Mixed(), nn.Linear(6, 6), middle, nn.Linear(6, 3))
    with pytest.raises(toroid.UnsupportedError, match=r"not alike after all \(0\)"):
        toroid.find_symmetries(
            wrong, torch.zeros(2, 4), strict=False, given=by_hand("0", "2", fixed="?")
        )


def test_inputs_in_a_dict():
    model = Apply(lambda m, d: m.b(m.a(d["x"]).relu()), a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    for example in ({"x": torch.randn(5, 4)}, ({"x": torch.randn(5, 4)},)):
        symmetry = toroid.find_symmetries(model, example)
        assert [g.size for g in symmetry.groups] == [6]
        state = random_state(model, 0)
        assert toroid.same_function(model, state, toroid.normalize(state, symmetry), example)
