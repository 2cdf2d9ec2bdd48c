"""What each operation says: the kinds of networks that people bring, exact or refused by name."""

import pytest
import torch
import torch.nn.functional as F
import toroid
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from networks import Apply, gap, random_element, random_signs, random_state
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint
from toroid.symmetry import _graph
from toroid.symmetry._labels import OWN
from toroid.symmetry._rules import NAMES, RULES

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

SEEDS = st.integers(0, 2**31 - 1)
X, IMAGE = torch.zeros(4, 5), torch.zeros(2, 3, 6, 6)
WORDS = torch.arange(14).reshape(2, 7)


def test_every_operation_of_the_table_is_one_of_torch():
    assert [name for name in sorted(NAMES) if not hasattr(torch.ops.aten, name)] == []
    assert len(RULES) > len(NAMES)  # their overloads, too


def two(function, a=5, hidden=16, **parts):
    """Two layers, and what stands between them."""
    return Apply(
        lambda m, x: m.b(function(m, m.a(x))), a=nn.Linear(a, hidden), b=nn.LazyLinear(3), **parts
    )


def parameter(*shape):
    return nn.Parameter(torch.randn(shape))


def frozen_norm(m, x):
    factor = (m.gain * (m.var + 1e-5).rsqrt()).view(1, -1, 1, 1)
    x = m.a(x) * factor + (m.shift.view(1, -1, 1, 1) - m.mean.view(1, -1, 1, 1) * factor)
    return m.b(x.relu().mean((2, 3)))


def loop(m, x):
    h = x.new_zeros(len(x), 6)
    for t in range(x.shape[1]):
        h = torch.tanh(m.into(x[:, t]) + m.back(h))
    return m.head(h)


def cells(m, x):
    state = [x.new_zeros(len(x), 6) for _ in range(m.states)]
    for t in range(x.shape[1]):
        found = m.cell(x[:, t], tuple(state) if m.states > 1 else state[0])
        state = list(found) if m.states > 1 else [found]
    return m.head(state[0])


def attention_gate(how):
    def forward(m, x):
        h = m.a(x).relu()
        g = m.g(torch.cat([h.mean(1, keepdim=True), h.amax(1, keepdim=True)], 1)).sigmoid()
        g = {"as": lambda: g.expand_as(h), "to": lambda: g.expand(-1, 6, -1, -1),
             "repeat": lambda: g.repeat(1, 6, 1, 1), "": lambda: g}[how]()  # fmt: skip
        return m.b((h * g).mean((2, 3)))

    return Apply(forward, a=nn.Conv2d(3, 6, 3), g=nn.Conv2d(2, 1, 1), b=nn.Linear(6, 3))


def no_grad(m, x):
    with torch.no_grad():
        x = m.a(x).relu()
    return m.b(x)


def autocast(m, x):
    with torch.autocast("cpu", enabled=False):
        x = m.a(x.to(m.a.weight.dtype)).relu()
    return m.b(x)


def inner(how):
    layers = {"a": nn.Linear(5, 8), "b": nn.Linear(8, 3)}
    if how == "checkpoint":
        return Apply(
            lambda m, x: m.b(checkpoint(lambda y: m.a(y).relu(), x, use_reentrant=False)), **layers
        )
    return Apply({"no_grad": no_grad, "autocast": autocast}[how], **layers)


def grouped_queries(m, x):
    q, k, v = (layer(x).view(2, 4, -1, 4).transpose(1, 2) for layer in (m.query, m.key, m.value))
    x = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return m.end(x.transpose(1, 2).flatten(2))


def masked_heads(m, x, mask):
    """A mask with a place for each head, made of two numbers."""
    q, k, v = (layer(x).view(2, 4, 2, 3).transpose(1, 2) for layer in (m.query, m.key, m.value))
    mask = torch.where(mask[:, None, None, :], torch.zeros(1, 2, 4, 4), -1e30)
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return m.end(x.transpose(1, 2).flatten(2))


def rotary(m, x):
    q, k = (layer(x).view(2, 4, 2, 6) for layer in (m.query, m.key))
    angle = torch.arange(4.0, dtype=x.dtype)[:, None, None] * torch.tensor([1.0, 0.3, 0.1]).to(x)

    def turn(z):
        a, b = z.chunk(2, -1)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    a = torch.einsum("blhd,bmhd->bhlm", turn(q), turn(k)).softmax(-1)
    return m.end((a @ m.value(x).view(2, 4, 2, 3).transpose(1, 2)).transpose(1, 2).flatten(2))


def tied_language_model():
    model = Apply(
        lambda m, i: m.head(m.b(m.a(m.words(i)).relu())),
        words=nn.Embedding(20, 8), a=nn.Linear(8, 16), b=nn.Linear(16, 8),
        head=nn.Linear(8, 20, bias=False),
    )  # fmt: skip
    model.head.weight = model.words.weight
    return model


def beside(function, **parts):
    """Two layers beside each other, and what makes one activation of them."""
    return Apply(
        lambda m, x: m.b(function(m, m.a(x).relu(), m.c(x).relu())),
        a=nn.Linear(5, 8), c=nn.Linear(5, 8), b=nn.Linear(8, 3), **parts,
    )  # fmt: skip


def pieces(function):
    """A layer, and a function of its units three by three."""
    return Apply(lambda m, x: m.b(function(m.a(x))), a=nn.Linear(5, 12), b=nn.Linear(4, 3))


PARTS = torch.tensor([0.3, 0.7])[:, None, None]


def powers(p):
    """A mean between the mean and the maximum over places, by an exponent that is learned."""
    return Apply(
        lambda m, x: m.b(
            m.a(x).clamp(min=0.1).pow(m.p).mean((2, 3), keepdim=True).pow(1 / m.p).flatten(1)
        ),
        a=nn.Conv2d(3, 6, 1), b=nn.Linear(6, 3), p=p,
    )  # fmt: skip


def attending(need_weights=False, heads=2, **how):
    return Apply(
        lambda m, x: m.b(m.m(h := m.a(x), h, h, need_weights=need_weights)[0].mean(1)),
        a=nn.Linear(5, 6), b=nn.Linear(6, 3),
        m=nn.MultiheadAttention(6, heads, batch_first=True, **how),
    )  # fmt: skip


def met(function, **parts):
    """Two layers, and a function in which they meet."""
    return Apply(
        lambda m, x: m.b(function(m, m.a(x), m.c(x))),
        a=nn.Linear(5, 6), c=nn.Linear(5, 6), b=nn.LazyLinear(3), **parts,
    )  # fmt: skip


def unpooled(m, x):
    x, places = F.max_pool2d(m.a(x).relu(), 2, return_indices=True)
    return m.b(F.max_unpool2d(m.c(x), places, 2).mean((2, 3)))


BLUR = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])[None] / 16
EDGES = torch.arange(108.0).view(4, 3, 3, 3).sin()


def blurred(kernel):
    """Each channel filtered alone, by constants."""
    return Apply(
        lambda m, x: m.b(F.conv2d(m.a(x).relu(), kernel.to(x), groups=6).mean((2, 3))),
        a=nn.Conv2d(3, 6, 1), b=nn.Linear(6, 3),
    )  # fmt: skip


def assigned(function):
    """Two layers, written into one memory."""
    return Apply(
        lambda m, x: m.b(function(x, m.a(x).relu(), m.c(x).relu())),
        a=nn.Linear(5, 8), c=nn.Linear(5, 8), b=nn.Linear(16, 3),
    )  # fmt: skip


def halves(x, u, v):
    h = x.new_zeros(len(x), 16)
    h[:, :8], h[:, 8:] = u, v
    return h.clone()


def columns(x, u, v):
    h = torch.empty(len(x), 2, 8, dtype=x.dtype)
    for i, part in enumerate((u, v)):
        h[:, i] = part
    return h.flatten(1)


def places(x, u, v):
    h = x.new_zeros(len(x), 16)
    h[:, torch.arange(0, 16, 2)] = u
    h[:, 1::2].add_(v)
    return h


def added(x, u, v):
    return x.new_zeros(len(x), 16).index_add(1, torch.arange(16).roll(3), torch.cat([u, v], 1))


def again(x, u, v):
    h = torch.cat([u, v], 1)
    h[:, 8:] = u.flip(1)
    return h


def ones(x, u, v):
    h = torch.ones(len(x), 16).to(x)
    h[:, :8] = u
    return torch.cat([h[:, :8] * h[:, 8:], v], 1)


def inputs(x, u, v):
    h = torch.cat([u, v], 1)
    h[:, 8:13] = x
    return h


def selective(m, x):
    u = torch.stack([m.a(x).relu(), m.b(x).relu()], 1)
    z = m.z(u.sum(1).mean((2, 3))).relu()
    gates = torch.stack([m.p(z), m.q(z)], 1).softmax(1)[..., None, None]
    return m.o((u * gates).sum(1).mean((2, 3)))


def diagonal(m, x):
    """A state-space layer: each channel has a state of its own, several numbers."""
    h, outputs = x.new_zeros(len(x), 6, 4), []
    for u in m.i(x).unbind(1):
        h = torch.exp(-m.decay.exp()) * h + m.b * u[..., None]
        outputs.append((h * m.c).sum(-1))
    return m.o(torch.stack(outputs, 1).mean(1))


# name: (network, example, sizes of its groups)
KINDS = {
    "frozen BatchNorm": lambda: (
        Apply(frozen_norm, a=nn.Conv2d(3, 8, 3), b=nn.Linear(8, 3),
              **{k: torch.rand(8) + 0.1 for k in ("gain", "shift", "mean", "var")}), IMAGE, [8]),
    "a loop from zeros": lambda: (
        Apply(loop, into=nn.Linear(5, 6), back=nn.Linear(6, 6), head=nn.Linear(6, 3)),
        torch.zeros(2, 4, 5), [6]),
    "expand_as": lambda: (attention_gate("as"), IMAGE, [6]),
    "expand": lambda: (attention_gate("to"), IMAGE, [6]),
    "repeat": lambda: (attention_gate("repeat"), IMAGE, [6]),
    "broadcast": lambda: (attention_gate(""), IMAGE, [6]),
    "lstm": lambda: (
        Apply(lambda m, i: m.head(m.cell(m.words(i))[0][:, -1]), words=nn.Embedding(20, 8),
              cell=nn.LSTM(8, 12, 2, batch_first=True, bidirectional=True), head=nn.Linear(24, 3)),
        WORDS, [8, 12, 12, 12, 12]),
    "lstm with a learned start": lambda: (
        Apply(lambda m, x: m.head(m.cell(x, (m.h.expand(-1, len(x), -1), m.c.expand(-1, len(x), -1)))[0][:, -1]),
              cell=nn.LSTM(5, 6, batch_first=True), head=nn.Linear(6, 3), h=parameter(1, 1, 6), c=parameter(1, 1, 6)),
        torch.zeros(2, 4, 5), [6]),
    "lstm that projects": lambda: (
        Apply(lambda m, x: m.head(m.cell(x)[1][0][-1]), cell=nn.LSTM(5, 12, proj_size=4),
              head=nn.Linear(4, 3)), torch.zeros(6, 2, 5), [12, 4]),
    "gru": lambda: (
        Apply(lambda m, x: m.head(m.cell(x)[0].mean(1)), cell=nn.GRU(5, 7, batch_first=True),
              head=nn.Linear(7, 3)), torch.zeros(2, 6, 5), [7]),
    "rnn": lambda: (
        Apply(lambda m, x: m.head(m.cell(x)[1][0]), cell=nn.RNN(5, 7, nonlinearity="relu"),
              head=nn.Linear(7, 3)), torch.zeros(6, 2, 5), [7]),
    "rnn with tanh": lambda: (
        Apply(lambda m, x: m.head(m.cell(x)[1][0]), cell=nn.RNN(5, 7), head=nn.Linear(7, 3)),
        torch.zeros(6, 2, 5), [7]),
    "lstm cell": lambda: (
        Apply(cells, cell=nn.LSTMCell(5, 6), head=nn.Linear(6, 3), states=2),
        torch.zeros(2, 3, 5), [6]),
    "gru cell": lambda: (
        Apply(cells, cell=nn.GRUCell(5, 6), head=nn.Linear(6, 3), states=1),
        torch.zeros(2, 3, 5), [6]),
    "embedding bag": lambda: (
        Apply(lambda m, i: m.b(m.a(m.bag(i)).relu()), bag=nn.EmbeddingBag(20, 8),
              a=nn.Linear(8, 6), b=nn.Linear(6, 3)), WORDS, [8, 6]),
    "tied embedding and head": lambda: (tied_language_model(), WORDS, [8, 16]),
    "a table that an input indexes": lambda: (
        Apply(lambda m, i: m.b(m.a(m.table[i]).relu()).mean(1), table=parameter(20, 4),
              a=nn.Linear(4, 6), b=nn.Linear(6, 3)), WORDS, [4, 6]),
    "x @ W": lambda: (
        Apply(lambda m, x: (x @ m.w + m.c).relu() @ m.v, w=parameter(5, 6), c=parameter(6),
              v=parameter(6, 3)), X, [6]),
    "mm": lambda: (
        Apply(lambda m, x: torch.mm(torch.mm(x, m.w.t()).relu(), m.v), w=parameter(6, 5),
              v=parameter(6, 3)), X, [6]),
    "addmm": lambda: (
        Apply(lambda m, x: torch.addmm(m.c, x, m.w).relu() @ m.v, w=parameter(5, 6),
              c=parameter(6), v=parameter(6, 3)), X, [6]),
    "einsum": lambda: (
        Apply(lambda m, x: torch.einsum("bi,io->bo", torch.einsum("bi,io->bo", x, m.w).relu(), m.v),
              w=parameter(5, 6), v=parameter(6, 3)), X, [6]),
    "F.linear(x, W.t())": lambda: (
        Apply(lambda m, x: F.linear(F.linear(x, m.w.t()).relu(), m.v), w=parameter(5, 6),
              v=parameter(3, 6)), X, [6]),
    "an autoencoder with one weight": lambda: (
        Apply(lambda m, x: F.linear(F.linear(x, m.w).relu(), m.w.t()), w=parameter(6, 5)), X, [6]),
    "masked_fill": lambda: (two(lambda m, h: h.masked_fill(h < 0, 0.0)), X, [16]),
    "where": lambda: (two(lambda m, h: torch.where(h > 0, h, 0.1 * h)), X, [16]),
    "maximum": lambda: (two(lambda m, h: torch.maximum(h, -0.2 * h)), X, [16]),
    "max over units": lambda: (two(lambda m, h: h - h.max(1, keepdim=True)[0]), X, [16]),
    "std": lambda: (two(lambda m, h: h.relu() / (h.std(1, keepdim=True) + 0.1)), X, [16]),
    "logsumexp": lambda: (two(lambda m, h: h - h.logsumexp(1, keepdim=True)), X, [16]),
    "type_as": lambda: (two(lambda m, h: h.type_as(m.a.weight).relu()), X, [16]),
    "gather along places": lambda: (
        Apply(lambda m, x, i: m.b(torch.gather(m.a(x).relu(), 1, i[:, :1, None].expand(-1, 1, 6))),
              a=nn.Linear(5, 6), b=nn.Linear(6, 3)), (torch.zeros(2, 7, 5), WORDS % 7), [6]),
    "rms_norm": lambda: (two(lambda m, h: m.n(h).relu(), n=nn.RMSNorm(16)), X, [16]),
    "instance_norm": lambda: (
        Apply(lambda m, x: m.b(m.n(m.a(x)).relu().mean((2, 3))), a=nn.Conv2d(3, 6, 1),
              n=nn.InstanceNorm2d(6, affine=True), b=nn.Linear(6, 3)), IMAGE, [6]),
    "BatchNorm without statistics": lambda: (
        two(lambda m, h: m.n(h).relu(), n=nn.BatchNorm1d(16, track_running_stats=False)), X, [16]),
    "glu": lambda: (two(lambda m, h: F.glu(h)), X, [8]),
    "SwiGLU": lambda: (
        Apply(lambda m, x: m.down(F.silu(m.gate(x)) * m.up(x)), gate=nn.Linear(5, 8),
              up=nn.Linear(5, 8), down=nn.Linear(8, 3)), X, [8]),
    "adaptive_max_pool": lambda: (
        Apply(lambda m, x: m.b(F.adaptive_max_pool2d(m.a(x).relu(), 1).flatten(1)),
              a=nn.Conv2d(3, 6, 1), b=nn.Linear(6, 3)), IMAGE, [6]),
    "reflect and circular padding": lambda: (
        Apply(lambda m, x: m.b(m.c(m.a(x).relu()).relu().mean((2, 3))),
              a=nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"),
              c=nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"), b=nn.Linear(4, 3)),
        IMAGE, [6, 4]),
    "unfold": lambda: (
        Apply(lambda m, x: m.b(F.unfold(m.a(x).relu(), 3).transpose(1, 2)).mean(1),
              a=nn.Conv2d(3, 4, 1), b=nn.Linear(36, 3)), IMAGE, [4]),
    "bilinear": lambda: (
        Apply(lambda m, x: m.both(m.a(x).relu(), m.c(x).relu()), a=nn.Linear(5, 6),
              c=nn.Linear(5, 4), both=nn.Bilinear(6, 4, 3)), X, [6, 4]),
    "cosine_similarity": lambda: (
        Apply(lambda m, x: F.cosine_similarity(m.a(x), m.c(x.flip(1)), dim=1)[:, None] * m.w,
              a=nn.Linear(5, 6), c=nn.Linear(5, 6), w=parameter(1, 3)), X, [6]),
    "a grouped transposed convolution": lambda: (
        Apply(lambda m, x: m.b(m.c(m.a(x).relu()).relu().mean((2, 3))), a=nn.Conv2d(3, 6, 1),
              c=nn.ConvTranspose2d(6, 4, 2, 2, groups=2), b=nn.Linear(4, 3)),
        IMAGE, [2, 3, 3, 2, 2]),
    "a temperature": lambda: (two(lambda m, h: h.relu() / m.t, t=parameter()), X, [16]),
    "ReZero": lambda: (
        Apply(lambda m, x: m.b((h := m.a(x)) + m.t * m.c(h).relu()), a=nn.Linear(5, 6),
              c=nn.Linear(6, 6), b=nn.Linear(6, 3), t=parameter()), X, [6]),
    "a vector for a weight": lambda: (
        Apply(lambda m, x: torch.stack([F.linear(m.a(x).relu(), m.v), x[:, 0]], 1),
              a=nn.Linear(5, 6), v=parameter(6)), X, [6]),
    "grouped queries": lambda: (
        Apply(grouped_queries, query=nn.Linear(5, 16), key=nn.Linear(5, 8), value=nn.Linear(5, 8),
              end=nn.Linear(16, 3)), torch.zeros(2, 4, 5), None),
    "rotary embeddings": lambda: (
        Apply(rotary, query=nn.Linear(5, 12), key=nn.Linear(5, 12), value=nn.Linear(5, 6),
              end=nn.Linear(6, 3)), torch.zeros(2, 4, 5), None),
    "a mask for each head": lambda: (
        Apply(masked_heads, **{k: nn.Linear(5, 6) for k in ("query", "key", "value")},
              end=nn.Linear(6, 3)),
        (torch.zeros(2, 4, 5), torch.ones(2, 4).bool()), [2, 3, 3, 3, 3]),
    "a padding mask": lambda: (
        Apply(lambda m, x, mask: m.b(m.a(x, src_key_padding_mask=mask).mean(1)),
              a=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), b=nn.Linear(8, 3)),
        (torch.zeros(2, 4, 8), torch.arange(8).view(2, 4) > 5), None),
    "a sum of stacked layers": lambda: (
        beside(lambda m, u, v: torch.stack([u, v]).sum(0)), X, [8]),
    "the largest of stacked layers": lambda: (
        beside(lambda m, u, v: torch.stack([u, v], 2).amax(2)), X, [8]),
    "a mean over a view": lambda: (
        beside(lambda m, u, v: torch.cat([u, v], 1).view(-1, 2, 8).mean(1)), X, [8]),
    "stacked layers with weights": lambda: (
        beside(lambda m, u, v: (torch.stack([u, v]) * m.g[:, None, None]).sum(0), g=parameter(2)),
        X, [8]),
    "stacked layers with constant weights": lambda: (
        beside(lambda m, u, v: (torch.stack([u, v]) * PARTS).sum(0)), X, [8]),
    "layers with the elements of a weight": lambda: (
        beside(lambda m, u, v: m.g[0] * u + m.g[1] * v, g=parameter(2)), X, [8]),
    "a mixture of layers": lambda: (
        Apply(lambda m, x: m.b((torch.stack([m.a(x).relu(), m.c(x).relu()], 1)
                                * m.g(x).softmax(1)[..., None]).sum(1)),
              a=nn.Linear(5, 8), c=nn.Linear(5, 8), g=nn.Linear(5, 2), b=nn.Linear(8, 3)), X, [8]),
    "selective kernels": lambda: (
        Apply(selective, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(3, 8, 3, padding=1), z=nn.Linear(8, 4),
              p=nn.Linear(4, 8), q=nn.Linear(4, 8), o=nn.Linear(8, 3)), IMAGE, [8, 4]),
    "an ensemble": lambda: (
        Apply(lambda m, x: torch.stack([f(x) for f in m.members]).mean(0),
              members=nn.ModuleList([nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
                                     for _ in "ab"])), X, [6, 6]),
    "a layer written as a sum of products": lambda: (
        Apply(lambda m, x: m.b((x[:, :, None] * m.w).sum(1).relu()), w=parameter(5, 8),
              b=nn.Linear(8, 3)), X, [8]),
    "one layer in two halves with constant weights": lambda: (
        Apply(lambda m, x: m.b((m.a(x).relu().view(-1, 2, 8) * PARTS[..., 0]).sum(1)),
              a=nn.Linear(5, 16), b=nn.Linear(8, 3)), X, [8]),
    "a diagonal state": lambda: (
        Apply(diagonal, i=nn.Linear(5, 6), o=nn.Linear(6, 3), decay=parameter(6, 4),
              b=parameter(6, 4), c=parameter(6, 4)),
        torch.zeros(2, 3, 5), [6, 4, 4, 4, 4, 4, 4]),
    "a maximum of sums": lambda: (
        Apply(lambda m, x: m.b(torch.stack([torch.stack([m.a(x), m.c(x)]).relu().sum(0),
                                            m.d(x).relu()]).amax(0)),
              **{k: nn.Linear(5, 6) for k in "acd"}, b=nn.Linear(6, 3)), X, [6]),
    "maxout of maxout": lambda: (
        Apply(lambda m, x: m.b(m.a(x).view(-1, 2, 2, 3).amax(3).amax(2)), a=nn.Linear(5, 12),
              b=nn.Linear(2, 3)), X, [3, 3, 3, 3]),
    "maxout": lambda: (pieces(lambda h: h.view(-1, 4, 3).amax(2)), X, [4, 3, 3, 3, 3]),
    "maxout by a pool": lambda: (
        pieces(lambda h: F.max_pool1d(h[:, None], 3)[:, 0]), X, [4, 3, 3, 3, 3]),
    "lengths of pairs": lambda: (pieces(lambda h: h.view(-1, 4, 3).norm(dim=2)), X,
                                 [4, 3, 3, 3, 3]),
    "a pool of units over squares": lambda: (
        Apply(lambda m, x: m.b(F.avg_pool2d(m.a(x).view(-1, 1, 4, 4), 2).relu().flatten(1)),
              a=nn.Linear(5, 16), b=nn.Linear(4, 3)), X, [4, 4, 4, 4, 4]),
    "a pool whose windows overlap": lambda: (
        Apply(lambda m, x: m.b(F.max_pool1d(m.a(x)[:, None], 3, 2)[:, 0]), a=nn.Linear(5, 7),
              b=nn.Linear(3, 3)), X, [1]),
    "a pool whose windows have gaps": lambda: (
        Apply(lambda m, x: m.b(F.max_pool1d(m.a(x)[:, None], 2, 2, 0, 2)[:, 0]),
              a=nn.Linear(5, 9), b=nn.Linear(4, 3)), X, [1]),
    "a pool that reaches over the edge": lambda: (
        Apply(lambda m, x: m.b(F.max_pool1d(m.a(x)[:, None], 2, 2, 1)[:, 0]), a=nn.Linear(5, 7),
              b=nn.Linear(4, 3)), X, [1]),
    "a learned exponent": lambda: (powers(parameter(1)), IMAGE, [6]),
    "a learned exponent without a dimension": lambda: (powers(parameter()), IMAGE, [6]),
    "a learned exponent of each unit": lambda: (powers(parameter(6, 1, 1)), IMAGE, [6]),
    "units to the power of units": lambda: (
        Apply(lambda m, x: m.b((m.a(x).abs() + 0.5) ** m.c(x)), a=nn.Linear(5, 6),
              c=nn.Linear(5, 6), b=nn.Linear(6, 3)), X, [6]),
    "slices that are assigned": lambda: (assigned(halves), X, [8, 8]),
    "slices that are assigned to empty memory": lambda: (assigned(columns), X, [8, 8]),
    "places that are assigned": lambda: (assigned(places), X, [8, 8]),
    "an index that is added": lambda: (assigned(added), X, [8, 8]),
    "slices that are assigned again": lambda: (assigned(again), X, [8]),
    "a slice of ones": lambda: (assigned(ones), X, [8, 8]),
    "a weight times columns of a constant": lambda: (
        Apply(lambda m, x: m.b((x @ (m.w * (torch.arange(6) % 2 + 1.0))).relu()),
              w=parameter(5, 6), b=nn.Linear(6, 3)), X, [3, 3]),
    "a slice of the input": lambda: (assigned(inputs), X, [8, 3]),
    "pairwise_distance": lambda: (
        met(lambda m, u, v: F.pairwise_distance(u, v, keepdim=True)), X, [6]),
    "cdist of activations": lambda: (
        met(lambda m, u, v: torch.cdist(u[:, None], v[:, None])[..., 0]), X, [6]),
    "cdist to rows": lambda: (met(lambda m, u, v: torch.cdist(u + v, m.w), w=parameter(4, 6)),
                              X, [6, 4]),
    "cdist from rows": lambda: (
        met(lambda m, u, v: torch.cdist(m.w, (u + v).tanh()).T, w=parameter(4, 6)), X, [6, 4]),
    "linalg.norm": lambda: (
        met(lambda m, u, v: torch.linalg.norm(u - v, dim=1, keepdim=True)), X, [6]),
    "linalg.vecdot": lambda: (met(lambda m, u, v: torch.linalg.vecdot(u, v)[:, None]), X, [6]),
    "vecdot along another dimension": lambda: (
        met(lambda m, u, v: torch.linalg.vecdot(u.view(-1, 2, 3), v.view(-1, 2, 3), dim=1)),
        X, [3, 2, 2, 2]),
    "inner": lambda: (
        met(lambda m, u, v: torch.inner((u + v).relu(), m.w), w=parameter(4, 6)), X, [6, 4]),
    "heaviside": lambda: (
        met(lambda m, u, v: torch.heaviside(u + v, torch.tensor(0.5).to(u))), X, [6]),
    "max_unpool2d": lambda: (Apply(unpooled, a=nn.Conv2d(3, 6, 1), c=nn.Conv2d(6, 6, 1),
                                   b=nn.Linear(6, 3)), IMAGE, [6]),
    "a blur": lambda: (blurred(BLUR.repeat(6, 1, 1, 1)), IMAGE, [6]),
    "a blur that is a buffer": lambda: (
        Apply(lambda m, x: m.b(F.conv2d(m.a(x).relu(), m.k.repeat(6, 1, 1, 1), groups=6)
                               .mean((2, 3))),
              a=nn.Conv2d(3, 6, 1), b=nn.Linear(6, 3), k=BLUR[None]), IMAGE, [6]),
    "filters of the input": lambda: (
        Apply(lambda m, x: m.b(m.a(F.conv2d(x, EDGES.to(x)).relu()).relu().mean((2, 3))),
              a=nn.Conv2d(4, 6, 1), b=nn.Linear(6, 3)), IMAGE, [6]),
    "heads with a learned place more": lambda: (
        attending(add_bias_kv=True), torch.zeros(2, 4, 5), [6, 6, 2, 3, 3, 3, 3]),
    "heads with an empty place more": lambda: (
        attending(add_zero_attn=True), torch.zeros(2, 4, 5), [6, 6, 2, 3, 3, 3, 3]),
    "heads with both places more": lambda: (
        attending(True, add_bias_kv=True, add_zero_attn=True), torch.zeros(2, 4, 5),
        [6, 6, 2, 3, 3, 3, 3]),
    "one head with a learned place more": lambda: (
        attending(heads=1, add_bias_kv=True), torch.zeros(2, 4, 5), [6, 6, 6, 6]),
    "no_grad": lambda: (inner("no_grad"), X, [8]),
    "autocast": lambda: (inner("autocast"), X, [8]),
    "checkpoint": lambda: (inner("checkpoint"), X, [8]),
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    torch.manual_seed(0)
    model, example, sizes = KINDS[request.param]()
    model(*(example if isinstance(example, tuple) else (example,)))  # lazy layers
    return model, example, sizes, toroid.find_symmetries(model, example)


def of_inputs(example, seed):
    generator = torch.Generator().manual_seed(seed)
    parts = example if isinstance(example, tuple) else (example,)
    return tuple(
        torch.randn(x.shape, generator=generator).double() if x.is_floating_point() else x
        for x in parts
    )


def tied(model, state):
    """A random state in which a tensor with two names has one value."""
    first = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        state[name] = state[first.setdefault(id(tensor), name)]
    return {k: v.abs() + 0.1 if k == "var" else v for k, v in state.items()}


def test_its_units_are_found(kind):
    _, _, sizes, symmetry = kind
    assert symmetry.refused == ()
    assert {stay.why for stay in symmetry.stays} <= set(OWN)
    if sizes is None:
        assert symmetry.groups
    else:
        assert sorted(g.size for g in symmetry.groups) == sorted(sizes)


@settings(max_examples=4, phases=[Phase.generate])
@given(seed=SEEDS)
def test_a_random_element_leaves_the_function_as_it_is(kind, seed):
    model, example, _, symmetry = kind
    state, x = tied(model, random_state(model, seed)), of_inputs(example, seed)
    permutations, factors = random_element(symmetry, seed, spread=0.3)
    moved = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    moved = toroid.flip(moved, random_signs(symmetry, seed), symmetry)
    assert toroid.same_function(model, state, moved, x, tolerance=1e-10)
    normal, copy = toroid.normalize(state, symmetry), toroid.normalize(moved, symmetry)
    assert toroid.same_function(model, state, normal, x, tolerance=1e-10)
    assert gap(toroid.normalize(normal, symmetry), normal) < 1e-12
    assert toroid.same_function(model, normal, copy, x, tolerance=1e-10, output="keep")


@pytest.mark.parametrize(
    "mix",
    [
        lambda u, v: torch.stack([u, v]).sum(0),
        lambda u, v: (torch.stack([u, v]) * PARTS).sum(0),
        lambda u, v: torch.cat([u, v], 1).view(-1, 2, 8).amax(1),
    ],
)
def test_units_of_stacked_layers_are_as_those_of_a_sum(mix):
    model = beside(lambda m, u, v: mix(u, v))
    (group,), (scale,) = (found := toroid.find_symmetries(model, X)).groups, found["a"].scales
    assert (group.whole, scale.fixed) == (False, "")
    assert {(a.parameter, a.index) for a in group.axes} == {
        (name, tuple((i,) for i in range(8)))
        for name in ("a.weight", "a.bias", "c.weight", "c.bias", "b.weight")
    }
    state = toroid.normalize(random_state(model, 0), found)
    moved = toroid.permute(state, {"a": torch.arange(8).roll(3)}, found)
    assert gap(toroid.align(moved, state, found).state, state) < 1e-9


@pytest.mark.parametrize(
    ("function", "free"),
    [
        (lambda h: h.view(-1, 4, 3).amax(2), True),
        (lambda h: F.avg_pool1d(h[:, None], 3)[:, 0], True),
        (lambda h: h.view(-1, 4, 3).norm(dim=2), True),
        (lambda h: h.view(-1, 4, 3).amax(2).tanh(), False),
        (lambda h: h.view(-1, 4, 3).logsumexp(2), False),
    ],
)
def test_pieces_of_a_unit_are_exchanged_among_themselves_and_have_one_factor(function, free):
    model = pieces(function)
    symmetry = toroid.find_symmetries(model, X)
    whole = symmetry["a"]
    assert whole.whole
    assert [len(names) for names in whole.parts] == [4]
    assert [s.name for s in symmetry.scales] == (["a", "output"] if free else ["output"])
    assert toroid.Symmetry.from_json(symmetry.to_json()) == symmetry
    state = toroid.normalize(random_state(model, 0), symmetry)
    rows = state["a.weight"].view(4, 15).norm(dim=1)
    assert torch.allclose(rows, torch.ones(4).double()) == free
    permutations, factors = random_element(symmetry, 1)
    permutations["a"] = torch.tensor([2, 0, 3, 1])
    factors.pop("output")
    moved = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    back = toroid.align(toroid.normalize(moved, symmetry), state, symmetry)
    assert gap(back.state, state) < 1e-9


@pytest.mark.parametrize(
    "mix",
    [
        lambda u, v: (torch.stack([u, v]) * torch.arange(16.0).view(2, 1, 8)).sum(0),
        lambda u, v: torch.stack([u, v]).cumsum(2).sum(0),
        lambda u, v: torch.stack([u, v]).flatten(1).cumsum(1).view(2, -1, 8).sum(0),
    ],
)
def test_units_of_stacked_layers_that_differ_in_a_constant_or_an_order_stay(mix):
    model = beside(lambda m, u, v: mix(u, v))
    symmetry = toroid.find_symmetries(model, X, strict=False, verify=False)
    assert symmetry.groups == ()
    assert sum(stay.size for stay in symmetry.stays) == 16


def test_parts_of_one_layer_are_told_apart_by_what_they_meet():
    """Halves, one of them turned around: a unit is a pair, and the pairs are where they meet."""
    model = Apply(
        lambda m, x: m.b((torch.stack([(h := m.a(x).relu())[:, :4], h[:, 4:].flip(1)])
                          * PARTS).sum(0)),
        a=nn.Linear(5, 8), b=nn.Linear(4, 3),
    )  # fmt: skip
    (group,) = toroid.find_symmetries(model, X).groups
    assert group.axes[0].index == ((0, 7), (1, 6), (2, 5), (3, 4))


def test_a_weight_of_a_whole_layer_stays():
    model = beside(lambda m, u, v: (torch.stack([u, v]) * m.g.tanh()[:, None, None]).sum(0))
    model.g = parameter(2)
    (stay,) = toroid.find_symmetries(model, X).stays
    assert (stay.axis.parameter, stay.size, stay.why in OWN) == ("g", 2, True)


# --- refused, by name, line and what to do ------------------------------------------------------


def computed(make):
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    make(model[0])
    return model


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("make", "undo"),
    [
        (nn.utils.weight_norm, "remove_weight_norm"),
        (nn.utils.spectral_norm, "remove_spectral_norm"),
        (parametrizations.weight_norm, "parametrize.remove_parametrizations"),
        (parametrizations.spectral_norm, "parametrize.remove_parametrizations"),
        (lambda m: prune.l1_unstructured(m, "weight", 0.5), "prune.remove"),
    ],
)
def test_computed_weights_are_refused_with_the_call_that_folds_them(make, undo):
    model = computed(make)
    with pytest.raises(toroid.UnsupportedError) as error:
        toroid.find_symmetries(model, X)
    call = str(error.value).partition("call ")[2].partition(" first")[0]
    assert call.startswith(f"torch.nn.utils.{undo}(")
    eval(call, {"torch": torch, "model": model})  # as the message says
    assert [g.size for g in toroid.find_symmetries(model, X).groups] == [6]


def test_what_is_added_to_a_weight_is_refused_with_its_cause():
    model = Apply(
        lambda m, x: m.b(F.linear(x, m.w + m.up @ m.down).relu()), w=parameter(6, 5),
        up=parameter(6, 2), down=parameter(2, 5), b=nn.Linear(6, 3),
    )  # fmt: skip
    with pytest.raises(toroid.UnsupportedError, match=r"a product of two weights.*networks\.py"):
        toroid.find_symmetries(model, X)


class Wrong(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.a, self.b = function, nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.b(self.function(self.a(x)))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("cumsum", lambda h: h.cumsum(1)),
        ("linalg_matrix_exp", lambda h: h @ torch.linalg.matrix_exp(h.T @ h)),
        ("dropout", lambda h: F.dropout(h, 0.5, True)),
        ("div", lambda h: torch.div(h, 2, rounding_mode="floor")),
    ],
)
def test_an_operation_that_is_not_understood_is_named_with_its_line(name, function):
    with pytest.raises(toroid.UnsupportedError, match=rf"'{name}'.*test_rules\.py.*self\.a") as e:
        toroid.find_symmetries(Wrong(function), X)
    assert e.value.__cause__ is not None
    symmetry = toroid.find_symmetries(Wrong(function), X, strict=False)
    assert symmetry.groups == ()
    assert len(symmetry.refused) >= 1
    assert sum(stay.size for stay in symmetry.stays) == 6


def test_a_transformed_function_is_refused_and_torch_is_as_before():
    with pytest.raises(toroid.UnsupportedError, match=r"torch\.vmap.*test_rules\.py"):
        toroid.find_symmetries(Wrong(torch.vmap(torch.relu)), X)
    assert torch.randn(2).shape == (2,)  # none is drawn inside a vmap that is never left


def test_padded_units_have_no_vectors_to_turn():
    model = Apply(
        lambda m, x: m.end(F.pad(m.start(x).relu(), (1, 1))),
        start=nn.Linear(5, 4), end=nn.Linear(6, 2),
    ).double()  # fmt: skip
    x = torch.randn(9, 5).double()
    symmetry, state = toroid.find_symmetries(model, x), model.state_dict()
    normal = toroid.normalize(state, symmetry, turns="orthonormal")
    assert toroid.same_function(model, state, normal, x, tolerance=1e-10)


def test_what_depends_on_numbers_is_refused_with_its_line():
    def forward(h):
        return h if bool((h > 0).all()) else -h

    with pytest.raises(toroid.UnsupportedError, match=r"depends on numbers.*test_rules\.py"):
        toroid.find_symmetries(Wrong(forward), X)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_compiled_model_is_refused_with_what_to_pass():
    traced = torch.jit.trace(nn.Linear(5, 3), X)
    with pytest.raises(ValueError, match=r"pass the torch\.nn\.Module that it was made from"):
        toroid.find_symmetries(traced, X)


# --- every unit is accounted for ----------------------------------------------------------------


def test_units_that_stay_are_in_the_table_with_their_reason():
    twins = nn.Linear(5, 5)
    model = nn.Sequential(twins, nn.ReLU(), twins, nn.ReLU(), nn.Linear(5, 3))
    symmetry = toroid.find_symmetries(model, X)
    (stay,) = symmetry.stays
    assert (stay.axis.parameter, stay.size, stay.why) == ("0.weight", 5, "the input")
    assert str(symmetry).splitlines()[-1].split() == ["-", "5", "0", "-", "stays:", "the", "input"]
    assert toroid.Symmetry.from_json(symmetry.to_json()) == symmetry


def test_a_network_that_makes_numbers_in_one_precision_is_verified_in_it():
    def forward(m, x):
        return m.b((m.a(x) + m.back(torch.zeros(len(x), 6))).relu())

    model = Apply(forward, a=nn.Linear(5, 6), back=nn.Linear(6, 6), b=nn.Linear(6, 3))
    symmetry = toroid.find_symmetries(model, X)
    assert sorted(g.axes[0].parameter for g in symmetry.groups) == ["a.weight", "back.weight"]


def test_units_that_a_constant_holds_are_warned_of():
    numbers = torch.rand(6)  # in no state
    model = Wrong(lambda h: h.relu() * numbers.to(h))
    with pytest.warns(UserWarning, match=r"6 hidden units stay .*6 of 'a': a constant"):
        symmetry = toroid.find_symmetries(model, X)
    assert symmetry.groups == ()
    assert "stays: a constant with a number" in str(symmetry)


def test_a_group_by_hand_takes_units_from_those_that_stay():
    model = Wrong(lambda h: torch.special.i0e(h))
    found = toroid.find_symmetries(model, X, strict=False)
    axes = (
        toroid.Axis("a.weight", 0, "out", range(2, 5)),
        toroid.Axis("a.bias", 0, "bias", range(2, 5)),
        toroid.Axis("b.weight", 1, "in", range(2, 5)),
    )
    group = toroid.Group("a", (toroid.Scale("a", axes, fixed="i0e"),))
    both = toroid.find_symmetries(model, X, strict=False, given=toroid.Symmetry((group,)))
    assert [s.size for s in found.stays] == [6]
    assert [s.axis.index for s in both.stays] == [((0,), (1,), (5,))]


def test_only_the_outputs_that_count_hold_units():
    model = Apply(
        lambda m, x: {"features": (h := m.a(x).relu()), "logits": m.b(h)},
        a=nn.Linear(5, 6), b=nn.Linear(6, 3),
    )  # fmt: skip
    both = toroid.find_symmetries(model, X)
    assert both.groups == ()
    assert [(s.size, s.why) for s in both.stays] == [(6, "classes")]

    def logits(out):
        return out["logits"]

    symmetry = toroid.find_symmetries(model, X, outputs=logits)
    assert [g.size for g in symmetry.groups] == [6]
    state, x = random_state(model, 0), torch.randn(4, 5).double()
    normal = toroid.normalize(state, symmetry)
    assert toroid.same_function(model, state, normal, x, outputs=logits)
    assert not toroid.same_function(model, state, normal, x)


def test_an_index_that_is_an_input_holds_the_units_that_it_chooses():
    model = Apply(
        lambda m, x, i: m.b(m.a(x).relu()[torch.arange(2), i]), a=nn.Linear(4, 6), b=nn.Linear(6, 3)
    )
    symmetry = toroid.find_symmetries(model, (torch.randn(2, 5, 4), WORDS[:, 0] % 5))
    assert [g.size for g in symmetry.groups] == [6]
    chosen = Apply(
        lambda m, x, i: m.b(m.a(x)).relu().gather(1, i), a=nn.Linear(4, 6), b=nn.Linear(6, 3)
    )
    symmetry = toroid.find_symmetries(chosen, (torch.randn(2, 4), WORDS[:, :2] % 3))
    assert [(g.name, g.size) for g in symmetry.groups] == [("a", 6)]


def test_large_images_are_read_on_smaller_ones_where_the_graph_is_the_same():
    wide = torch.zeros(1, 3, 512, 512)
    free = Apply(
        lambda m, x: m.b(m.a(x).relu().mean((2, 3))), a=nn.Conv2d(3, 6, 3), b=nn.Linear(6, 3)
    )
    branches = Apply(lambda m, x: m.f(m, x if x.shape[-1] > 300 else x.tanh()),
                     f=free.function, a=nn.Conv2d(3, 6, 3), b=nn.Linear(6, 3))  # fmt: skip
    flat = nn.Sequential(nn.Conv2d(3, 2, 1, 64), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    for model, shape in ((free, (1, 3, 64, 64)), (branches, wide.shape), (flat, wide.shape)):
        exported = _graph.export(model, wide)
        assert _graph.smaller(model, wide, None, exported)[1].shape == shape
        units = {g.size for g in toroid.find_symmetries(model, wide).groups}
        assert units == ({2} if model is flat else {6})
    assert _graph.smaller(free, IMAGE, None, _graph.export(free, IMAGE))[1] is IMAGE


@pytest.mark.parametrize("bias", [True, False])
def test_units_pass_a_layer_across_places(bias):
    # a mixer: a layer over the places of every channel alike, and one over the channels
    model = Apply(
        lambda m, x: m.head((m.stem(x) + m.mix(m.stem(x).mT).mT).relu().mean(1)),
        stem=nn.Linear(4, 6), mix=nn.Linear(5, 5, bias=bias), head=nn.Linear(6, 3),
    )  # fmt: skip
    x = torch.randn(2, 5, 4)
    with pytest.warns(UserWarning, match="5 of 'mix': a layer across places"):
        symmetry = toroid.find_symmetries(model, x)
    assert [(g.name, g.size) for g in symmetry.groups] == [("stem", 6)]
    assert bool(symmetry.groups[0].scales[0].fixed) is bias  # one bias is added to all units
    assert [(s.axis.module, s.size) for s in symmetry.stays] == [("mix", 5)]


def test_units_pass_a_convolution_and_a_normalisation_of_their_places():
    # a gate over places as gMLP has it: the places of every unit are channels of a convolution
    model = Apply(
        lambda m, x: m.head((x := m.stem(x)) * m.mix(m.norm(x.mT).mT)).mean(1),
        stem=nn.Linear(4, 6), mix=nn.Conv1d(5, 5, 1), norm=nn.LayerNorm(5), head=nn.Linear(6, 3),
    ).double()  # fmt: skip
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    with pytest.warns(UserWarning, match="15 hidden units stay.*5 of 'norm': a layer across"):
        symmetry = toroid.find_symmetries(model, x)
    assert [(g.name, g.size) for g in symmetry.groups] == [("stem", 6)]
    state = random_state(model, 0)
    permutations, _ = random_element(symmetry, 0)
    assert toroid.same_function(model, state, toroid.permute(state, permutations, symmetry), x)


def test_a_wide_convolution_of_places_makes_one_unit_of_all():
    model = Apply(
        lambda m, x: m.head(m.mix(m.stem(x)).relu().mean(2)),
        stem=nn.Linear(4, 6), mix=nn.Conv1d(5, 5, 3), head=nn.Linear(5, 3),
    )  # fmt: skip
    symmetry = toroid.find_symmetries(model, torch.randn(2, 5, 4))
    assert [(g.name, g.size) for g in symmetry.groups] == [("stem", 1), ("mix", 5)]


def test_units_of_an_outer_product_are_warned_of():
    model = Apply(
        lambda m, x: m.c((m.a(x)[:, :, None] * m.b(x)[:, None]).flatten(1)),
        a=nn.Linear(5, 4), b=nn.Linear(5, 3), c=nn.Linear(12, 2),
    )  # fmt: skip
    with pytest.warns(UserWarning, match="4 hidden units stay.*4 of 'a': an outer product"):
        symmetry = toroid.find_symmetries(model, X)
    assert [(g.name, g.size) for g in symmetry.groups] == [("b", 3)]


@pytest.mark.parametrize(("channels", "blocks"), [(6, 2), (8, 2), (6, 3)])
@pytest.mark.parametrize("by_hand", [False, True])
def test_blocks_of_shuffled_channels_are_exchanged_in_the_order_that_is_read(
    channels, blocks, by_hand
):
    def shuffled(x):
        return x.unflatten(1, (blocks, -1)).transpose(1, 2).flatten(1, 2)

    model = Apply(
        lambda m, x: m.c(m.b(m.shuffle(m.a(x).relu())).relu().mean((2, 3))),
        shuffle=shuffled if by_hand else nn.ChannelShuffle(blocks),
        a=nn.Conv2d(3, channels, 1), b=nn.Conv2d(channels, channels, 1, groups=blocks),
        c=nn.Linear(channels, 2),
    ).double()  # fmt: skip
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    symmetry = toroid.find_symmetries(model, x)
    (whole,) = (group for group in symmetry.groups if group.whole)
    assert whole.size == blocks
    assert [len(kind) for kind in whole.parts] == [blocks, blocks]
    state = random_state(model, 0)
    permutations, factors = random_element(symmetry, 1)
    permutations[whole.name] = torch.arange(blocks).roll(1)
    moved = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    assert toroid.same_function(model, state, moved, x)
    ends = [toroid.normalize(end, symmetry) for end in (state, moved)]
    found = toroid.align(ends[1], ends[0], symmetry)
    assert toroid.distance(found.state, ends[0], symmetry) < 1e-6


def test_pairs_that_a_complex_number_turns_move_together():
    angles = torch.polar(torch.ones(6, 1), torch.arange(6.0)[:, None])

    def turned(m, x):
        c = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(c * m.angles).flatten(-2)

    def forward(m, x):
        q, k = (turned(m, f(x)) for f in (m.q, m.k))
        return m.o((q @ k.mT).softmax(-1) @ m.v(x)).mean(1)

    model = Apply(
        forward, q=nn.Linear(5, 8), k=nn.Linear(5, 8), v=nn.Linear(5, 8), o=nn.Linear(8, 3)
    )
    model.register_buffer("angles", angles, persistent=False)
    symmetry = toroid.find_symmetries(model.double(), torch.randn(2, 6, 5).double())
    group = symmetry["q"]
    assert group.size == 4  # the same angle for all pairs
    assert group.axes[0].index == ((0, 1), (2, 3), (4, 5), (6, 7))
    state, x = random_state(model, 0), torch.randn(2, 6, 5).double()
    permutations, factors = random_element(symmetry, 1)
    moved = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    assert toroid.same_function(model, state, moved, x)


def heads(x):
    return x.unflatten(-1, (4, 6)).transpose(1, 2)


def test_heads_that_turn_by_the_same_angles_are_exchanged_as_wholes():
    angles = torch.arange(5.0)[:, None] * torch.tensor([1.0, 0.3, 0.1])
    cosine, sine = (torch.cat([f(angles)] * 2, -1).double() for f in (torch.cos, torch.sin))

    def turned(x):
        a, b = x.chunk(2, -1)
        return x * cosine + torch.cat([-b, a], -1) * sine

    def forward(m, x):
        q, k, v = (heads(f(x)) for f in (m.q, m.k, m.v))
        return m.o(
            F.scaled_dot_product_attention(turned(q), turned(k), v).transpose(1, 2).flatten(2)
        )

    layers = {name: nn.Linear(24, 24) for name in "qkv"}
    model = Apply(lambda m, x: forward(m, x).mean(1), o=nn.Linear(24, 3), **layers).double()
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    symmetry = toroid.find_symmetries(model, x)
    assert [(g.name, g.size) for g in symmetry.groups if g.whole] == [("q", 4)]
    assert [(s.axis.module, s.size) for s in symmetry.stays] == [("q", 24)]
    state = random_state(model, 0)
    permutations, factors = random_element(symmetry, 1)
    permutations["q"] = torch.tensor([2, 0, 3, 1])
    moved = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    assert toroid.same_function(model, state, moved, x)
    ends = [toroid.normalize(end, symmetry) for end in (state, moved)]
    found = toroid.align(ends[1], ends[0], symmetry)
    assert toroid.distance(found.state, ends[0], symmetry) < 1e-6


PATTERN = torch.tensor([1.0, 2.0, 2.0, 1.0, 3.0, 2.0])[:, None] * torch.arange(1.0, 5.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_units_for_which_a_constant_has_the_same_numbers_are_alike(dtype):
    def forward(m, x):
        h = m.a(x).relu()[..., None] * PATTERN.to(dtype)  # (examples, units, places)
        return m.b((h.abs() if h.is_complex() else h).mean(2))

    model = Apply(forward, a=nn.Linear(5, 6), b=nn.Linear(6, 3))
    model = model.to(dtype) if dtype == torch.bfloat16 else model
    symmetry = toroid.find_symmetries(
        model, X.to(model.a.weight.dtype), verify=dtype != torch.bfloat16
    )
    assert [g.axes[0].index for g in symmetry.groups] == [((0,), (3,)), ((1,), (2,), (5,))]
    (stay,) = symmetry.stays
    assert (stay.axis.index, stay.why) == (((4,),), "a constant that differs from place to place")


def test_the_sign_of_a_zero_tells_units_apart():
    zeros = torch.tensor([0.0, -0.0, 0.0, -0.0])[:, None] * torch.ones(3)
    zeros[:, 0] = 1.0
    model = Apply(
        lambda m, x: m.b(torch.copysign(m.a(x)[..., None], zeros).mean(2)),
        a=nn.Linear(5, 4), b=nn.Linear(4, 3),
    )  # fmt: skip
    symmetry = toroid.find_symmetries(model, X)
    assert [g.axes[0].index for g in symmetry.groups] == [((0,), (2,)), ((1,), (3,))]


def test_blocks_that_meet_constants_in_another_order_are_not_exchanged():
    places = torch.tensor([1.0, 2.0, 2.0, 1.0])[:, None, None] * torch.arange(1.0, 7.0)
    model = Apply(
        lambda m, x: m.c(m.b(m.a(x) * places).relu().mean((2, 3))),
        a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1, groups=2), c=nn.Linear(4, 3),
    )  # fmt: skip
    symmetry = toroid.find_symmetries(model, IMAGE)
    assert [(g.name, g.size) for g in symmetry.groups] == [("b", 2), ("b#2", 2)]


@pytest.mark.filterwarnings("ignore:forward does not run")
@pytest.mark.parametrize(
    "middle",
    [
        lambda m, x: m.e(m.n(m.c(x)).relu()).relu().mean(2),  # units of the convolution
        lambda m, x: m.e(torch.max_pool1d(m.c(x), 2)).relu().mean(2),
    ],
)
def test_of_units_that_pass_a_layer_and_its_own_the_more_count(middle):
    model = Apply(
        lambda m, x: m.h(middle(m, m.a(x))), a=nn.Linear(8, 6), c=nn.Conv1d(3, 16, 1),
        n=nn.BatchNorm1d(16), e=nn.Conv1d(16, 9, 3), h=nn.Linear(9, 3),
    )  # fmt: skip
    symmetry = toroid.find_symmetries(model, torch.randn(2, 3, 8))
    assert {g.name: g.size for g in symmetry.groups} == {"a": 1, "c": 16, "e": 9}


def test_constants_are_those_of_the_whole_image():
    limits = torch.tensor([20, 40, 300, 400, 500, 500])

    def forward(m, x):
        mask = torch.arange(x.shape[-1]) < limits[:, None]
        return m.h((m.a(x) * mask[:, None]).mean((2, 3)))

    model = Apply(forward, a=nn.Conv2d(3, 6, 1), h=nn.Linear(6, 3))
    symmetry = toroid.find_symmetries(model, torch.randn(1, 3, 512, 512))
    assert [g.axes[0].index for g in symmetry.groups] == [((4,), (5,))]


@pytest.mark.parametrize(
    "mixed",
    [
        lambda h: h @ (torch.eye(4) - 0.25),
        lambda h: torch.einsum("bi,ij->bj", h, torch.arange(16.0).view(4, 4)),
        lambda h: (torch.arange(16.0).view(4, 4) @ h.T).T,
    ],
)
def test_units_that_a_constant_matrix_mixes_are_warned_of(mixed):
    model = Apply(lambda m, x: m.b(mixed(m.a(x).relu())), a=nn.Linear(5, 4), b=nn.Linear(4, 3))
    with pytest.warns(UserWarning, match="4 of 'a': a constant with a number for each unit"):
        assert toroid.find_symmetries(model, X).groups == ()


def test_a_power_of_units_by_constants():
    powers = torch.tensor([1.0, 2.0, 1.0, 3.0])
    model = Apply(
        lambda m, x: m.b((m.a(x).abs() + 1) ** powers), a=nn.Linear(5, 4), b=nn.Linear(4, 3)
    )
    with pytest.warns(UserWarning, match="4 hidden units stay"):
        assert toroid.find_symmetries(model, X).groups == ()


def test_an_exponent_of_a_place_moves_no_unit():
    """One for each place of an image is no unit's; with one for each unit, the two go together."""
    model = Apply(
        lambda m, x: m.b((m.a(x).abs() + 0.5).pow(m.p).mean(2)), a=nn.Conv1d(5, 6, 1),
        b=nn.Linear(6, 3), p=parameter(4),
    )  # fmt: skip
    (group,) = toroid.find_symmetries(model, torch.zeros(2, 5, 4)).groups
    assert {axis.parameter for axis in group.axes} == {"a.weight", "a.bias", "b.weight"}
    (group,) = toroid.find_symmetries(powers(parameter(6, 1, 1)), IMAGE).groups
    assert {axis.parameter for axis in group.axes} == {"a.weight", "a.bias", "b.weight", "p"}


def test_units_that_are_assigned_move_with_the_columns_of_their_places():
    symmetry = toroid.find_symmetries(assigned(places), X)
    for name, start in (("a", 0), ("c", 1)):
        (axis,) = (a for a in symmetry[name].axes if a.parameter == "b.weight")
        assert axis.index == tuple((i,) for i in range(start, 16, 2))


def test_units_over_which_numbers_are_assigned_stay():
    def forward(x, u, v):
        h = torch.cat([u, v], 1)
        h[:, 4:8] = torch.arange(4.0).to(h)
        return h

    with pytest.warns(UserWarning, match="4 of 'a': a constant"):
        symmetry = toroid.find_symmetries(assigned(forward), X)
    assert symmetry["a"].axes[0].index == ((0,), (1,), (2,), (3,))
    assert [group.size for group in symmetry.groups] == [4, 8]


def test_units_over_which_one_number_is_assigned_are_alike():
    def forward(x, u, v):
        h = torch.cat([u, v], 1)
        h[:, 4:8] = 0.0
        return h

    symmetry = toroid.find_symmetries(assigned(forward), X)
    assert sorted(group.size for group in symmetry.groups) == [4, 4, 8]


def test_a_learned_place_moves_and_turns_with_the_units_of_its_head():
    model, x = attending(add_bias_kv=True).double(), torch.randn(2, 4, 5).double()
    symmetry = toroid.find_symmetries(model, x)
    state, generator = random_state(model, 0), torch.Generator().manual_seed(0)
    turns = {
        g.name: torch.randn(g.size, g.size, generator=generator).double()
        for g in symmetry.groups
        if g.turn
    }
    moved = toroid.turn(state, turns, symmetry)
    assert toroid.same_function(model, state, moved, x)
    assert not torch.equal(moved["m.bias_k"], state["m.bias_k"])
    assert not torch.equal(moved["m.bias_v"], state["m.bias_v"])


def test_rows_of_a_computed_weight_are_no_places():
    """Each row has units of its own: a product that would make one of them is refused."""
    model = Apply(
        lambda m, x: m.b(m.a(x) @ (m.w / m.w.norm(dim=1, keepdim=True)).T), a=nn.Linear(5, 6),
        b=nn.Linear(4, 3), w=parameter(4, 6),
    )  # fmt: skip
    with pytest.raises(toroid.UnsupportedError, match="mixes units in another way"):
        toroid.find_symmetries(model, X)


def test_channels_whose_filters_are_the_same_are_alike():
    kernel = torch.cat([BLUR.repeat(4, 1, 1, 1), BLUR.roll(1, -1).repeat(2, 1, 1, 1)])
    groups = toroid.find_symmetries(blurred(kernel), IMAGE).groups
    assert [g.axes[0].index for g in groups] == [((0,), (1,), (2,), (3,)), ((4,), (5,))]
    assert toroid.find_symmetries(blurred(torch.randn(6, 1, 3, 3)), IMAGE).groups == ()


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda m, u, v: torch.linalg.norm(u[:, :, None] * v[:, None], 2, (1, 2))[:, None],
         "a norm of a matrix"),
        (lambda m, u, v: F.conv1d(u[..., None], v[0].view(6, 1, 1), groups=6)[..., 0],
         "its weight is computed"),
    ],
)  # fmt: skip
def test_what_is_no_function_of_units_alone_is_refused(function, why):
    model = met(function)
    model(X)
    with pytest.raises(toroid.UnsupportedError, match=why):
        toroid.find_symmetries(model, X)


@pytest.mark.parametrize(
    ("function", "free"),
    [
        (lambda m, u, v: torch.linalg.norm(torch.stack([u, v]), dim=0), ["a", "output"]),
        (lambda m, u, v: F.pairwise_distance(u[..., None], v[..., None]), ["output"]),
        (lambda m, u, v: F.pairwise_distance(u[..., None], v[..., None], eps=0.0), ["a", "output"]),
    ],
)
def test_distances_have_the_factors_that_they_let_through(function, free):
    model = met(function)
    model(X)
    assert [scale.name for scale in toroid.find_symmetries(model, X).scales] == free


def test_places_that_numbers_choose_are_not_added_to():
    def forward(x, u, v):
        h = torch.cat([u, v], 1)
        return h.index_put_((h > 1,), torch.ones(()).to(h), accumulate=True)

    with pytest.raises(toroid.UnsupportedError, match=r"'index_put_'.*places that depend on"):
        toroid.find_symmetries(assigned(forward), X)


def test_heads_with_a_slope_of_their_own_stay():
    places = torch.arange(5)[:, None] - torch.arange(5.0)
    slopes = torch.tensor([1.0, 2.0, 1.0, 0.5])

    def forward(m, x):
        q, k, v = (heads(f(x)) for f in (m.q, m.k, m.v))
        bias = (slopes[:, None, None] * places).double()
        y = (q @ k.mT + bias).softmax(-1) @ v
        return m.o(y.transpose(1, 2).flatten(2)).mean(1)

    layers = {name: nn.Linear(24, 24) for name in "qkv"}
    model = Apply(forward, o=nn.Linear(24, 3), **layers).double()
    symmetry = toroid.find_symmetries(model, torch.randn(2, 5, 24, dtype=torch.float64))
    (whole,) = (g for g in symmetry.groups if g.whole)
    assert whole.axes[0].index == (tuple(range(6)), tuple(range(12, 18)))


def test_complex_weights_are_refused_or_named():
    model = Apply(lambda m, x: m.b((x.to(m.a.dtype) @ m.a).abs()), b=nn.Linear(4, 2))
    model.a = nn.Parameter(torch.randn(5, 4, dtype=torch.complex64))
    with pytest.raises(toroid.UnsupportedError, match="the parameter 'a' is complex"):
        toroid.find_symmetries(model, X)
    (left,) = toroid.find_symmetries(model, X, strict=False).refused
    assert "'a' is complex" in left


def test_heads_that_read_places_through_one_table_keep_their_own_units():
    def forward(m, x):
        x = m.first(x).relu()
        q, k, v = (
            f(x).unflatten(-1, (3, 4)).transpose(1, 2).flatten(0, 1) for f in (m.q, m.k, m.v)
        )
        weights = (q @ k.mT + q @ m.table.T).softmax(-1)
        y = (weights @ v).unflatten(0, (-1, 3)).transpose(1, 2).flatten(2)
        return m.out(y.relu()).mean(1)

    layers = {name: nn.Linear(12, 12) for name in "qkv"}
    model = Apply(forward, first=nn.Linear(4, 12), out=nn.Linear(12, 2), **layers)
    model.table = parameter(5, 4)
    symmetry = toroid.find_symmetries(model, torch.randn(2, 5, 4))  # verified
    assert [g.size for g in symmetry.groups if g.name.startswith("v")] == [4, 4, 4]


def test_a_table_of_places_may_be_resized():
    model = Apply(
        lambda m, x: m.b((m.a(x) + F.interpolate(m.table, size=(4, 4), mode="bilinear"))
                         .relu().mean((2, 3))),
        a=nn.Conv2d(3, 6, 3), b=nn.Linear(6, 3),
    )  # fmt: skip
    model.table = parameter(1, 6, 2, 2)
    assert [g.size for g in toroid.find_symmetries(model, IMAGE).groups] == [6]
