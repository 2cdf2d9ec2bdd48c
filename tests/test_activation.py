"""What units compute is seen whatever operation makes or reads them: a planted permutation is undone."""

import dataclasses
from functools import partial

import pytest
import torch
import toroid
from networks import Apply, gap, network, random_element, random_signs, random_state
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from toroid.alignment._values import Values, centred

VECTORS = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).double()
SERIES = torch.randn(40, 4, 6, generator=torch.Generator().manual_seed(1)).double()
WORDS = torch.randint(20, (60, 5), generator=torch.Generator().manual_seed(2))


def free(*shape):
    return nn.Parameter(torch.randn(*shape))


def layers(function):
    """A hidden layer of 7 units from 5 numbers to 3, its weights as matrices."""
    return Apply(function, a=free(5, 7), b=free(7), c=free(7, 3))


def modules(function):
    return Apply(function, a=nn.Linear(5, 7), c=nn.Linear(7, 3))


@torch.no_grad()
def without_gradients(m, x):
    return m.c(m.a(x).relu())


def no_gradients_inside(m, x):
    with torch.set_grad_enabled(False):
        h = m.a(x)
    return m.c(h.relu())


def autocast(m, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return m.c(m.a(x).relu())


def one_by_one(m, x):
    h = x.new_zeros(len(x), 7)
    for step in x.unbind(1):
        h = torch.tanh(m.a(torch.cat([step, h], 1)))
    return m.c(h)


def recurrent(kind, **how):
    layer = kind(4, 6, batch_first=True, **how)
    width = (how.get("proj_size") or 6) * (1 + layer.bidirectional)
    parts = {"words": nn.Embedding(20, 4), "layer": layer, "end": nn.Linear(width, 3)}
    return Apply(lambda m, x: m.end(m.layer(m.words(x))[0][:, -1]), **parts)


def attention(function):
    heads = nn.MultiheadAttention(8, 2, batch_first=True)
    parts = {"a": nn.Linear(6, 8), "b": nn.Linear(6, 8), "heads": heads, "end": nn.Linear(8, 3)}
    return Apply(function, **parts)


def crossed(m, x):
    memory = m.b(x.flip(1))
    return m.end(m.heads(m.a(x), memory, memory)[0].mean(1))


def to_itself(m, x):
    return m.end(m.heads(m.a(x), m.b(x), m.b(x) + m.a(x))[0].mean(1))


def encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 6, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def without_a_flag(m, x):
    mask = nn.Transformer.generate_square_subsequent_mask(4).to(x)
    return m.end(m.layers(m.a(x), mask).mean(1))


KINDS = {
    "matmul": (lambda: layers(lambda m, x: torch.relu(x @ m.a + m.b) @ m.c), VECTORS),
    "addmm": (lambda: layers(lambda m, x: torch.addmm(m.b, x, m.a).relu().mm(m.c)), VECTORS),
    "einsum": (lambda: layers(lambda m, x: torch.einsum("bh,ho->bo", torch.einsum("bi,ih->bh", x, m.a).relu(), m.c)), VECTORS),
    "tensordot": (lambda: layers(lambda m, x: torch.tensordot(torch.tensordot(x, m.a, 1).relu(), m.c, 1)), VECTORS),
    "transposed": (lambda: layers(lambda m, x: F.linear(F.linear(x, m.a.t(), m.b).relu(), m.c.t())), VECTORS),
    "cast": (lambda: layers(lambda m, x: F.linear(x, m.a.to(x.dtype).T).relu() @ m.c.to(x.dtype)), VECTORS),
    "from the left": (lambda: layers(lambda m, x: (m.c.T @ torch.relu(m.a.T @ x.T)).T), VECTORS),
    "tied": (lambda: layers(lambda m, x: torch.relu(x @ m.a + m.b) @ m.a.T), VECTORS),
    "low rank": (lambda: Apply(lambda m, x: (m.w(x) + x @ m.a.T @ m.b.T).relu() @ m.c, w=nn.Linear(5, 7), a=free(4, 5), b=free(7, 4), c=free(7, 3)), VECTORS),
    "no_grad": (lambda: modules(without_gradients), VECTORS),
    "set_grad_enabled": (lambda: modules(no_gradients_inside), VECTORS),
    "autocast": (lambda: modules(autocast), VECTORS),
    "checkpoint": (lambda: modules(lambda m, x: m.c(checkpoint(lambda z: m.a(z).relu(), x, use_reentrant=True))), VECTORS),
    "several calls": (lambda: Apply(lambda m, x: m.c(torch.cat([m.a(p) for p in x.unbind(1)], 1).relu()), a=nn.Linear(6, 3), c=nn.Linear(12, 3)), SERIES),
    "hand-written": (lambda: Apply(one_by_one, a=nn.Linear(13, 7), c=nn.Linear(7, 3)), SERIES),
    "factors": (lambda: Apply(lambda m, x: (m.a(x[:, 0]) * m.b(x[:, 1])).sum(1), a=nn.Embedding(20, 6), b=nn.Embedding(20, 6)), WORDS),
    "lstm": (lambda: recurrent(nn.LSTM, num_layers=2, bidirectional=True, proj_size=5), WORDS),
    "gru": (lambda: recurrent(nn.GRU, num_layers=3), WORDS),
    "rnn": (lambda: recurrent(nn.RNN, num_layers=2, bidirectional=True), WORDS),
    "cross attention": (lambda: attention(crossed), SERIES),
    "three inputs": (lambda: attention(to_itself), SERIES),
    "causal mask": (lambda: Apply(without_a_flag, a=nn.Linear(6, 8), layers=encoder(), end=nn.Linear(8, 3)), SERIES),
}  # fmt: skip


def planted(model, inputs, seed=0):
    """A state, a moved copy of it, and their symmetry."""
    symmetry = toroid.find_symmetries(model, inputs[:4])
    state = toroid.normalize(random_state(model, seed), symmetry)
    permutations, _ = random_element(symmetry, seed)
    copy = toroid.permute(state, permutations, symmetry)
    return state, toroid.flip(copy, random_signs(symmetry, seed), symmetry), symmetry


def by_activation(model, inputs, state, copy, symmetry, **how):
    return toroid.align(
        copy, to=state, symmetry=symmetry, method="activation", model=model, inputs=inputs, **how
    )


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # of a checkpoint
@pytest.mark.filterwarnings("ignore:forward does not run")
@pytest.mark.parametrize("kind", KINDS)
def test_units_are_matched_wherever_they_are_made_and_read(kind, capfd):
    make, inputs = KINDS[kind]
    model = make().double()
    state, copy, symmetry = planted(model, inputs)
    found = by_activation(model, inputs, state, copy, symmetry)
    assert gap(found.state, state) < 1e-9
    assert min(found.similarity.values()) == pytest.approx(1)
    values = Values(model, (state, copy), [inputs], toroid.tasks.classification, symmetry)
    assert all(values.known(g) for g in symmetry.groups if not symmetry.inside(g))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("function", [crossed, to_itself])
def test_heads_that_were_turned_are_turned_back(function):
    model = attention(function).double()
    symmetry = toroid.find_symmetries(model, SERIES[:4])
    state = toroid.normalize(
        random_state(model, 0), symmetry, turns="orthonormal", gains="positive"
    )
    inside = [
        part for group in symmetry.groups for parts in symmetry.inside(group) for part in parts
    ]
    turns = {g.name: torch.linalg.qr(torch.randn(g.size, g.size).double())[0] for g in inside}
    heads = next(group.name for group in symmetry.groups if group.whole)
    copy = toroid.permute(
        toroid.turn(state, turns, symmetry), {heads: torch.tensor([1, 0])}, symmetry
    )
    found = by_activation(model, SERIES, state, copy, symmetry, turns=True)
    assert gap(found.state, state) < 1e-9


def test_values_are_those_of_all_calls_and_all_batches():
    model = KINDS["several calls"][0]().double()
    state, copy, symmetry = planted(model, SERIES)
    batches = [SERIES[:16], SERIES[16:32], SERIES[32:]]
    values = Values(model, (state, copy), batches, toroid.tasks.classification, symmetry)
    made, read = values.of(symmetry.groups[0])
    assert made.to.shape == read.to.shape == (3, 40 * 4)
    one = state["a.weight"] @ SERIES[:16, 0].T + state["a.bias"][:, None]
    assert torch.allclose(made.to[:, :16], one, rtol=1e-12)


@pytest.mark.parametrize("known", [(), ("1",), ("3",)])
def test_groups_without_values_are_matched_by_their_weights(monkeypatch, known):
    model, example, symmetry = network("mlp")
    state = random_state(model, 0)
    permutations, _ = random_element(symmetry, 0)
    copy = toroid.permute(state, permutations, symmetry)
    monkeypatch.setattr(Values, "known", lambda _, group: group.name in known)
    found = by_activation(model, example, state, copy, symmetry)
    assert gap(found.state, state) == 0


def test_values_that_are_the_same_on_all_data_say_nothing():
    model = modules(lambda m, x: m.c(m.a(x).relu())).double()
    state, copy, symmetry = planted(model, VECTORS)
    found = by_activation(model, VECTORS[:1].expand(9, -1), state, copy, symmetry)
    assert gap(found.state, state) == 0


def test_what_rounding_leaves_of_a_constant_is_nothing():
    same = torch.full((2, 1000), 0.1)
    same[1, ::7] = torch.nextafter(same[1, ::7], torch.ones(()))
    assert (same - same.mean(1, keepdim=True)).any(1).all()
    assert not centred(same).any()
    moving = torch.rand(2, 1000)
    assert torch.equal(centred(moving), moving - moving.mean(1, keepdim=True))
    assert centred(torch.full((1, 3), torch.nan)).isnan().all()  # for those who tell of it


def test_what_is_inside_sets_without_values_waits_for_the_sets(monkeypatch):
    model = attention(crossed).double()
    state, copy, symmetry = planted(model, SERIES)
    joined = Values.known
    monkeypatch.setattr(Values, "known", lambda v, g: " + " not in g.name and joined(v, g))
    assert gap(by_activation(model, SERIES, state, copy, symmetry).state, state) < 1e-9


@dataclasses.dataclass
class Out:
    logits: torch.Tensor
    hidden: torch.Tensor


@pytest.mark.parametrize("outputs", [None, "logits"])
def test_outputs_may_be_of_any_class(outputs):
    def forward(m, x):
        h = m.a(x).relu()
        return Out(m.c(h), h)

    model = modules(forward).double()
    symmetry = toroid.find_symmetries(model, VECTORS, outputs=lambda out: out.logits)
    state = random_state(model, 0)
    copy = toroid.permute(state, random_element(symmetry, 0)[0], symmetry)
    task = toroid.tasks.classification(outputs=outputs)
    assert gap(by_activation(model, VECTORS, state, copy, symmetry, task=task).state, state) == 0


def test_inputs_have_names_and_batches_any_length():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(5, 7), nn.Linear(4, 7), nn.Linear(7, 3)

        def forward(self, one, other):
            return self.c((self.a(one) + self.b(other)).relu())

    model = Named().double()
    symmetry = toroid.find_symmetries(model, (torch.randn(2, 5), torch.randn(2, 4)))
    state = random_state(model, 0)
    copy = toroid.permute(state, random_element(symmetry, 0)[0], symmetry)
    data = [
        {"other": torch.randn(n, 4), "one": torch.randn(n, 5), "labels": torch.zeros(n).long()}
        for n in (8, 8, 3)
    ]
    assert gap(by_activation(model, data, state, copy, symmetry).state, state) == 0


def test_what_does_not_fit_is_said_in_one_sentence(capfd):
    model = modules(lambda m, x: m.c(m.a(x).relu())).double()
    state, copy, symmetry = planted(model, VECTORS)
    run = partial(by_activation, state=state, copy=copy, symmetry=symmetry)
    with pytest.raises(ValueError, match=r"does not run on what it is given, float64 \(9, 4\)"):
        run(model, torch.randn(9, 4))
    with pytest.raises(ValueError, match=r"'a\.weight' has shape \(8, 5\)"):
        run(Apply(model.function, a=nn.Linear(5, 8), c=nn.Linear(8, 3)), VECTORS)
    with pytest.raises(ValueError, match="the units of 'a' compute NaN or infinite numbers"):
        run(model, VECTORS * torch.inf)
    assert capfd.readouterr().err == ""


def test_states_and_the_callers_generator_are_not_moved():
    def forward(m, x):  # the norm of words is cut in place; noise is drawn in evaluation mode
        h = F.dropout(m.words(x).flatten(1), 0.2, training=True) + torch.randn(20).to(m.a.weight)
        return m.c(m.a(h).relu())

    words = nn.Embedding(20, 4, max_norm=1.0)
    model = Apply(forward, words=words, a=nn.Linear(20, 7), c=nn.Linear(7, 3)).double()
    symmetry = toroid.find_symmetries(model, WORDS[:4], strict=False, verify=False)
    state = random_state(model, 0)
    copy = toroid.permute(state, {"a": torch.tensor([3, 1, 4, 0, 6, 5, 2])}, symmetry)
    copy = {k: v.clone() for k, v in copy.items()}
    kept = [{k: v.clone() for k, v in s.items()} for s in (state, copy, model.state_dict())]
    before = torch.get_rng_state()
    found = by_activation(model, WORDS, state, copy, symmetry)
    assert gap(found.state, state) == 0
    assert torch.equal(torch.get_rng_state(), before)
    assert all(gap(s, k) == 0 for s, k in zip((state, copy, model.state_dict()), kept, strict=True))


def test_what_a_hook_writes_into_the_model_is_taken_away():
    model = modules(lambda m, x: m.c(m.a(x).relu())).double()
    state, copy, symmetry = planted(model, VECTORS)
    model.seen = {}
    model.a.register_forward_hook(lambda *given: model.seen.update(last=given[2].detach()))
    found = by_activation(model, VECTORS, state, copy, symmetry)
    assert gap(found.state, state) == 0
    assert model.seen == {}
