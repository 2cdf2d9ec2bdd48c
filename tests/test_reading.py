"""A network is read in silence, and neither it, its hooks nor torch's generator know of it."""

import functools

import pytest
import torch
import torch.nn.functional as F
import toroid
from networks import Apply, random_element
from torch import nn

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
STEPS = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def moved(model, x):
    """A state before and after a random element of what is found."""
    symmetry = toroid.find_symmetries(model, x)
    permutations, factors = random_element(symmetry, 1)
    state = model.state_dict()
    return state, toroid.permute(
        toroid.rescale(state, factors, symmetry), permutations, symmetry
    ), symmetry  # fmt: skip


# --- hooks that write into the caller's model --------------------------------------------------------

FEATURES = {}


class Collector:
    """Keeps what a layer says, in an object that is no module."""

    def __init__(self):
        self.seen = []

    def __call__(self, module, inputs, out):
        self.seen.append(out.detach())

    def method(self, module, inputs, out):
        self.seen.append(out.detach())


class Saving(nn.Module):
    """A hook keeps what the first layer says, in one of some ways."""

    def __init__(self, way):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)
        self.way = way
        self.feats, self.deep, self.last, own, collector = {}, {"x": []}, None, {}, Collector()

        def to_attribute(m, i, out):
            self.last = out.detach()

        hooks, self.where = {
            "dict": (lambda m, i, o: self.feats.update(a=o.detach()), lambda: self.feats),
            "nested": (lambda m, i, o: self.deep["x"].append(o), lambda: self.deep["x"]),
            "attribute": (to_attribute, lambda: [self.last]),
            "closure": (lambda m, i, o: own.update(a=o), lambda: own),
            "global": (lambda m, i, o: FEATURES.update(a=o), lambda: FEATURES),
            "object": (collector, lambda: collector.seen),
            "method": (collector.method, lambda: collector.seen),
            "partial": (
                functools.partial(lambda name, m, i, o: own.update({name: o}), "a"),
                lambda: own,
            ),
            "forward": (lambda m, i, o: None, lambda: FEATURES),
            "saver": (lambda m, i, o: collector.seen.append(o), lambda: collector.seen),
        }[way]
        self.a.register_forward_hook(hooks)

    def forward(self, x):
        x = self.a(x)
        if self.way == "forward":
            FEATURES["a"] = x.detach()
        return self.b(x.relu())


WAYS = [
    "dict",
    "nested",
    "attribute",
    "closure",
    "global",
    "object",
    "method",
    "saver",
    "partial",
    "forward",
]


@pytest.mark.parametrize("ran", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_what_a_hook_has_kept_is_as_before(way, ran):
    FEATURES.clear()
    model = Saving(way).double()
    if ran:
        model(X)
    held = model.where()
    before = dict(held) if isinstance(held, dict) else list(held)
    state, other, symmetry = moved(model, X)
    assert [group.size for group in symmetry.groups] == [8]
    assert toroid.same_function(model, state, other, X, tolerance=1e-10)
    with pytest.raises(ValueError, match="does not run on the example"):
        toroid.find_symmetries(model, X[:, :3])
    if way != "attribute":
        assert model.where() is held  # the hook still writes there
    now = model.where()
    assert len(now) == len(before)
    values = [x.values() if isinstance(x, dict) else x for x in (before, now)]
    assert all(x is y for x, y in zip(*values, strict=True))
    model(X)
    assert len(model.where()) == len(before) + (
        way in ("nested", "object", "method", "saver") or not before
    )
    assert type([*(model.where().values() if isinstance(held, dict) else model.where())][-1]) is (
        torch.Tensor
    )


def test_a_hook_may_name_what_is_not_there_yet():
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    model[0].register_forward_hook(lambda m, i, out: None if len(out) else later)
    assert [group.size for group in toroid.find_symmetries(model, X).groups] == [8]
    later = None


# --- states that are carried from call to call ------------------------------------------------------


@pytest.mark.parametrize("ran", [True, False])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_a_state_that_is_carried_on_is_none_of_the_networks(kind, ran):
    def forward(m, x):
        out, state = m.layer(x, m.carried)
        m.carried = tuple(s.detach() for s in state) if kind is nn.LSTM else state.detach()
        return m.end(out[:, -1])

    model = Apply(forward, layer=kind(5, 6, batch_first=True), end=nn.Linear(6, 3)).double()
    model.carried = None
    if ran:
        model(STEPS)
    carried = model.carried
    state, other, symmetry = moved(model, STEPS)
    assert [group.size for group in symmetry.groups] == [6]
    assert toroid.same_function(model, state, other, STEPS, tolerance=1e-10)
    assert model.carried is carried


# --- noise -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "sizes"),
    [
        (lambda m, h: m.b(h) + torch.randn(1, dtype=h.dtype), [8]),
        (lambda m, h: m.b(h * torch.rand(8, dtype=h.dtype)), []),
        (lambda m, h: m.b(h * torch.bernoulli(torch.full_like(h, 0.5))), []),
        (lambda m, h: m.b(F.dropout(h, training=True)), None),
        (lambda m, h: m.b(h + torch.randn_like(h)), None),
    ],
)
@pytest.mark.filterwarnings("ignore:.*hidden units stay")
def test_noise_in_evaluation_is_not_the_callers(noise, sizes):
    model = Apply(lambda m, x: noise(m, m.a(x).relu()), a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    model, before = model.double(), torch.get_rng_state()
    if sizes is None:
        with pytest.raises(toroid.UnsupportedError):
            toroid.find_symmetries(model, X)
    else:
        assert [group.size for group in toroid.find_symmetries(model, X).groups] == sizes
    with pytest.raises(ValueError, match="does not run on the example"):
        toroid.find_symmetries(model, X[:, :3])
    state = model.state_dict()
    assert toroid.same_function(model, state, state, X, tolerance=1e-12)  # both draw the same
    assert torch.equal(torch.get_rng_state(), before)


# --- what torch looks at, and says -------------------------------------------------------------------

MASK = nn.Transformer.generate_square_subsequent_mask(4)
MASKS = {
    "made": lambda m, given: nn.Transformer.generate_square_subsequent_mask(4),
    "buffer": lambda m, given: m.mask,
    "attribute": lambda m, given: m.constant,
    "bool": lambda m, given: torch.ones(4, 4, dtype=torch.bool).triu(1),
    "given": lambda m, given: given[0],
}


@pytest.mark.parametrize("decodes", [True, False])
@pytest.mark.parametrize("way", MASKS)
def test_a_causal_mask_without_a_flag(way, decodes, capfd):
    def forward(m, x, *given):
        mask = MASKS[way](m, given)
        return m.end(m.layers(x, x, tgt_mask=mask) if decodes else m.layers(x, mask))

    kind = nn.TransformerDecoderLayer if decodes else nn.TransformerEncoderLayer
    layer = kind(8, 2, 6, batch_first=True)
    stack = nn.TransformerDecoder(layer, 1) if decodes else (
        nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    )  # fmt: skip
    model = Apply(forward, layers=stack, end=nn.Linear(8, 3), mask=MASK.clone())
    model.constant = MASK
    x, detect = torch.randn(2, 4, 8), nn.modules.transformer._detect_is_causal_mask
    found = toroid.find_symmetries(model, (x, MASK) if way == "given" else x)
    sizes = [2, 2, *[4] * 8, 6] if decodes else [2, *[4] * 4, 6]
    assert sorted(group.size for group in found.groups) == sizes
    assert nn.modules.transformer._detect_is_causal_mask is detect
    assert capfd.readouterr() == ("", "")


def test_a_network_that_needs_its_size_is_read_in_silence(capfd):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 9, stride=8), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 33 * 33, 5)
    )
    symmetry = toroid.find_symmetries(model, torch.zeros(1, 3, 272, 272))
    assert [group.size for group in symmetry.groups] == [4]
    assert capfd.readouterr() == ("", "")


def test_a_refusal_prints_no_graph(capfd):
    model = Apply(lambda m, x: m.a(x) if x.sum() > 0 else x, a=nn.Linear(5, 5))
    with pytest.raises(toroid.UnsupportedError, match="depends on numbers"):
        toroid.find_symmetries(model, torch.zeros(2, 5))
    assert capfd.readouterr() == ("", "")


# --- packed sequences --------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("lengths", [lambda x: [3, 2], lambda x: (x[..., 0] < 9).sum(1)])
def test_packed_sequences_are_refused_with_a_way_out(lengths, strict, capfd):
    def forward(m, x):
        if m.packs:
            x = nn.utils.rnn.pack_padded_sequence(
                x, lengths(x), batch_first=True, enforce_sorted=False
            )
        return m.end(m.layer(x)[1][0][-1])

    model = Apply(forward, layer=nn.LSTM(5, 6, batch_first=True), end=nn.Linear(6, 3)).double()
    model.packs = True
    x = STEPS[:2]
    with pytest.raises(
        toroid.UnsupportedError, match=r"packs sequences .*test_reading\.py.*padded"
    ):
        toroid.find_symmetries(model, x, strict=strict)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ValueError, match="does not run on the example"):
        toroid.find_symmetries(model, x[..., :4])
    model.packs = False
    symmetry = toroid.find_symmetries(model, x)
    permutations, factors = random_element(symmetry, 0)
    model.packs, state = True, model.state_dict()
    other = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    assert toroid.same_function(model, state, other, x, tolerance=1e-10)


# --- arguments by name -------------------------------------------------------------------------------


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def says(self, x):
        return self.b(self.a(x).relu())


class Keyword(Named):
    def forward(self, *, x, labels=None):
        return self.says(x)


class Position(Named):
    def forward(self, x, labels=None):
        return self.says(x)


class AnyName(Named):
    def forward(self, **batch):
        return self.says(batch["x"])


class Whole(Named):
    """Takes the dict itself, by a name that is in it."""

    def forward(self, x):
        return self.says(x["x"])


@pytest.mark.parametrize("kind", [Keyword, Position, AnyName, Whole])
def test_a_dict_is_arguments_by_name_where_forward_knows_them(kind):
    model, example = kind().double(), {"x": X.clone()}
    state, other, symmetry = moved(model, example)
    assert [group.size for group in symmetry.groups] == [8]
    assert toroid.same_function(model, state, other, example, tolerance=1e-10)
    assert torch.equal(example["x"], X)


def test_names_that_forward_does_not_know():
    for example in ({"y": X}, {"x": X, "y": X}):
        with pytest.raises(ValueError, match="does not run on the example"):
            toroid.find_symmetries(Keyword().double(), example)


def test_images_by_name_are_cut_and_given_by_name():
    model = Apply(None, a=nn.Conv2d(3, 4, 3), b=nn.Linear(4, 3))
    model.forward = _pooled.__get__(model)
    symmetry = toroid.find_symmetries(model, {"image": torch.zeros(1, 3, 256, 256)})
    assert [group.size for group in symmetry.groups] == [4]


def _pooled(model, *, image):
    return model.b(model.a(image).relu().mean((2, 3)))
