"""Tasks and data of any kind, each against a plain loop over the batches."""

import warnings

import numpy as np
import pytest
import torch
import toroid
from networks import gap
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from toroid import tasks
from toroid.tasks import Task


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def number(x):
    return float(x.detach())


class Two(nn.Module):
    """Two inputs, one of them of other units."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 8), nn.Linear(7, 8), nn.Linear(16, 3)

    def forward(self, x, y):
        return self.head(torch.cat([F.relu(self.a(x)), F.relu(self.b(y))], 1))


class Words(nn.Module):
    """Tokens to a class."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(40, 8)
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x):
        return self.body(self.words(x).mean(1))


class Next(nn.Module):
    """A token from those before it."""

    def __init__(self):
        super().__init__()
        self.words, self.body = nn.Embedding(9, 6), nn.Linear(6, 9)

    def forward(self, x):
        return self.body(self.words(x).cumsum(1))


class Pixels(nn.Module):
    """A class for each pixel."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.out = nn.Conv2d(4, 3, 1)

    def forward(self, x):
        return self.out(self.down(x))


def images(classes=3, many=60):
    return torch.randn(many, 5), torch.randint(classes, (many,))


def mlp(outputs):
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, outputs))


# --- what is right, written down ------------------------------------------------------------------


def slow(task, model, rows):
    """Mean error and loss, one example after the other."""
    errors, losses = [], []
    with torch.no_grad():
        for x, y in rows:
            output = model(x[None])
            error, loss = REFERENCE[task](output[0], y)
            errors.append(float(error))
            losses.append(float(loss))
    return np.mean(errors), np.mean(losses)


def _pixelwise(output, y, classes_last):
    rows = output if classes_last else output.movedim(0, -1)
    pairs = [(o, t) for o, t in zip(rows.flatten(0, -2), y.flatten(), strict=True) if t >= 0]
    wrong = [float(o.argmax() != t) for o, t in pairs]
    return np.mean(wrong), np.mean([float(-o.log_softmax(0)[t]) for o, t in pairs])


REFERENCE = {
    "classification": lambda o, y: (o.argmax() != y, -o.log_softmax(0)[y]),
    "binary": lambda o, y: ((o > 0) != (y > 0), -F.logsigmoid(o * (2 * y - 1))),
    "multilabel": lambda o, y: (
        ((o > 0) != (y > 0)).double().mean(),
        -F.logsigmoid(o * (2 * y - 1)).mean(),
    ),
    "regression": lambda o, y: (((o - y) ** 2).mean(),) * 2,
    "segmentation": lambda o, y: _pixelwise(o, y, classes_last=False),
    "language": lambda o, y: _pixelwise(o, y, classes_last=True),
}


def problem(task):
    """A network, inputs and targets of a task."""
    x, y = images()
    if task == "classification":
        return mlp(3), x, y
    if task == "binary":
        return mlp(1), x, (x[:, 0] > 0).long()
    if task == "multilabel":
        return mlp(4), x, (torch.rand(60, 4) > 0.4).float()
    if task == "regression":
        return mlp(2), x, torch.randn(60, 2)
    if task == "segmentation":
        return Pixels().eval(), torch.randn(20, 1, 8, 8), torch.randint(-1, 3, (20, 8, 8))
    return Next(), torch.randint(9, (20, 7)), torch.randint(-1, 9, (20, 7))


KINDS = ["list", "loader", "torch data set", "batches of one"]


@pytest.mark.parametrize(
    ("task", "kind"),
    [*((task, kind) for task in REFERENCE for kind in KINDS), ("classification", "workers")],
)
def test_evaluate_is_the_plain_loop_for_every_task_and_kind_of_data(task, kind):
    model, x, y = problem(task)
    pairs = TensorDataset(x, y)
    data = {
        "list": [(x[:7], y[:7]), (x[7:], y[7:])],
        "loader": DataLoader(pairs, batch_size=16, shuffle=True),
        "workers": DataLoader(pairs, batch_size=16, num_workers=2, shuffle=True),
        "torch data set": pairs,
        "batches of one": DataLoader(pairs),
    }[kind]
    found = toroid.evaluate(model.state_dict(), model, data, task=getattr(tasks, task))
    assert found == pytest.approx(slow(task, model, pairs), rel=1e-4)


def test_the_default_is_a_dataset_of_classes():
    model, x, y = problem("classification")
    data = toroid.data.Dataset(x, y, 3)
    state = model.state_dict()
    assert toroid.evaluate(state, model, data) == pytest.approx(
        toroid.evaluate(state, model, [(x, y)], task=tasks.classification)
    )


@pytest.mark.parametrize("shape", ["(N, 1)", "(N,)"])
def test_a_column_of_numbers_is_numbers(shape):
    """Never one number less another example's: (N, 1) and (N,) broadcast to (N, N)."""
    model, x, _ = problem("binary")
    y = x.sum(1, keepdim=True) if shape == "(N, 1)" else x.sum(1)
    found = toroid.evaluate(model.state_dict(), model, [(x, y)], task=tasks.regression)
    assert found.loss == pytest.approx(number(F.mse_loss(model(x), x.sum(1, keepdim=True))))
    squeezed = nn.Sequential(*model, nn.Flatten(0))
    state = squeezed.state_dict()
    again = toroid.evaluate(state, squeezed, [(x, y)], task=tasks.regression)
    assert again == pytest.approx(found)
    labels = (y > 0).long()
    binary = [
        toroid.evaluate(m.state_dict(), m, [(x, labels)], task=tasks.binary)
        for m in (model, squeezed)
    ]
    assert binary[0] == binary[1]


def test_next_tokens_are_those_after_a_place():
    model, x, _ = problem("language")
    state, logits = model.state_dict(), model(x)[:, :-1]
    expected = number(F.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten()))
    error = float((logits.argmax(2) != x[:, 1:]).double().mean())
    padded = torch.where(torch.arange(7) < 5, x, -100)
    short = number(F.cross_entropy(logits[:, :4].flatten(0, 1), x[:, 1:5].flatten()))
    for batch, loss in (
        (x, expected),  # one tensor
        ([x], expected),
        ((x, x), expected),
        ({"input_ids": x}, None),  # no name that forward knows: one argument, a dict
        ((x[:, :-1], x[:, 1:]), expected),  # shifted already
        ((x, padded), short),
    ):
        task = tasks.language if isinstance(batch, (torch.Tensor, list, tuple)) else None
        if task is None:
            task = tasks.language(inputs="input_ids")
        found = toroid.evaluate(state, model, [batch], task=task)
        assert found.loss == pytest.approx(loss or expected, rel=1e-5)
        if loss != short:
            assert found.error == pytest.approx(error)


def test_an_autoencoder_is_its_own_target():
    model, (x, y) = nn.Linear(5, 5), images()
    state, expected = model.state_dict(), number(F.mse_loss(model(x), x))
    for data, task in (
        ([x], tasks.regression),
        (DataLoader(TensorDataset(x), batch_size=60), tasks.regression),
        ([(x, y)], tasks.regression(inputs=0, targets=0)),
        (toroid.data.Dataset(x, y, 3), tasks.regression(inputs=0, targets=0)),
    ):
        assert toroid.evaluate(state, model, data, task=task).loss == pytest.approx(expected)


# --- how a network is called ----------------------------------------------------------------------


def test_two_inputs_go_by_place():
    model, other = Two(), Two()
    x, y, t = torch.randn(50, 5), torch.randn(50, 7), torch.randint(3, (50,))
    symmetry = toroid.find_symmetries(model, (x[:4], y[:4]))
    a, b = (toroid.normalize(m.state_dict(), symmetry) for m in (model, other))
    b = toroid.align(b, to=a, symmetry=symmetry).state
    expected = F.cross_entropy(torch.func.functional_call(model, a, (x, y)), t)
    nested = [((x, y), t)]
    loader = DataLoader([((u, v), w) for u, v, w in zip(x, y, t, strict=True)], batch_size=9)
    for data in ([(x, y, t)], TensorDataset(x, y, t), nested, loader):
        curve = toroid.along(toroid.Geodesic(a, b, symmetry), model, data, points=3)
        assert curve.loss[0] == pytest.approx(float(expected), rel=1e-5)
    swapped = Task(inputs=(1, 0), targets=2)
    assert toroid.evaluate(a, model, [(y, x, t)], task=swapped).loss == pytest.approx(
        float(expected), rel=1e-5
    )


def test_dicts_are_named_arguments_where_forward_knows_the_names():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(5, 3)

        def forward(self, batch):
            return {"features": self.a(batch["x"]), "logits": 2 * self.a(batch["x"])}

    whole, two, (x, t) = Whole(), Two(), images()
    task = tasks.classification(outputs="logits")
    found = toroid.evaluate(whole.state_dict(), whole, [{"x": x, "labels": t}], task=task)
    assert found.loss == pytest.approx(number(F.cross_entropy(2 * whole.a(x), t)))
    y = torch.randn(60, 7)
    named = {"y": y, "x": x, "target": t}
    score = toroid.evaluate(two.state_dict(), two, [named])
    assert score.loss == pytest.approx(number(F.cross_entropy(two(x, y), t)))
    with pytest.raises(ValueError, match=r"outputs are a dict of 'features', 'logits'; .*outputs="):
        toroid.evaluate(whole.state_dict(), whole, [{"x": x, "labels": t}])
    with pytest.raises(ValueError, match=r"dict of 'x', none of which is called labels.*targets="):
        toroid.evaluate(whole.state_dict(), whole, [{"x": x}])
    with pytest.raises(ValueError, match="a dict has no part 'age'; there are 'x', 'labels'"):
        toroid.evaluate(
            whole.state_dict(), whole, [{"x": x, "labels": t}], task=Task(targets="age")
        )


def test_outputs_that_count():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(5, 3)

        def forward(self, x):
            return self.a(x).sum(1), self.a(x)

    model, (x, t) = Both(), images()
    expected = number(F.cross_entropy(model.a(x), t))
    for outputs in (1, -1, lambda found: found[1]):
        task = tasks.classification(outputs=outputs)
        score = toroid.evaluate(model.state_dict(), model, [(x, t)], task=task)
        assert score.loss == pytest.approx(expected)
    own = Task(  # all of them
        loss=lambda o, y: o[0].abs().mean() + F.cross_entropy(o[1], y),
        error=lambda o, y: o[0].abs(),
    )
    score = toroid.evaluate(model.state_dict(), model, [(x, t)], task=own)
    assert score == pytest.approx(
        (number(model(x)[0].abs().mean()), expected + number(model(x)[0].abs().mean()))
    )


def test_tokens_stay_integers_everywhere():
    models, x, t = (Words(), Words()), torch.randint(40, (60, 7)), torch.randint(3, (60,))
    states = [{k: v.double() for k, v in m.state_dict().items()} for m in models]
    data = toroid.data.Dataset(x, t, 3)
    first = models[0].double()
    with torch.no_grad():
        expected = number(F.cross_entropy(first(x), t))
    assert toroid.evaluate(states[0], first, data).loss == pytest.approx(expected)
    path = toroid.Linear(*states)
    assert toroid.along(path, first, data, points=2).loss[0] == pytest.approx(expected)
    assert len(toroid.local_energy(states[0], first, data, sigma=0.1, draws=2)) == 1
    assert toroid.hessian(states[0], first, data).eigenvalue > 0
    assert toroid.sharpness(states[0], first, data) > 0
    assert toroid.fisher_rao(states[0], first, data) > 0


# --- data -----------------------------------------------------------------------------------------


def test_refresh_with_a_loader_is_what_pytorch_does():
    x, t = images()
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    loader = DataLoader(TensorDataset(x, t), batch_size=16)  # the last batch is smaller
    fresh = toroid.refresh(model.state_dict(), model, loader)
    update_bn(loader, model)
    assert gap(fresh, model.state_dict()) < 1e-6


class Noisy(Dataset):
    """Images with an augmentation of their own."""

    def __init__(self, draw):
        self.draw, (self.x, self.t) = draw, images()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i] + self.draw(), self.t[i]


@pytest.mark.parametrize(("workers", "own"), [(0, False), (0, True), (1, False)])
def test_a_loader_that_shuffles_gives_the_same_batches_for_every_state(workers, own):
    generator = torch.Generator().manual_seed(3) if own else None
    data = DataLoader(
        Noisy(lambda: torch.randn(())), batch_size=16, shuffle=True, drop_last=True,
        num_workers=workers, generator=generator,
    )  # fmt: skip
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    state, before = model.state_dict(), torch.get_rng_state()
    where = generator.get_state() if own else None
    curve = toroid.along(lambda t: state, model, data, points=2, refresh=data)
    assert curve.loss[0] == curve.loss[1]
    assert torch.equal(before, torch.get_rng_state())
    if own:
        assert torch.equal(where, generator.get_state())


def test_other_batches_on_the_second_walk_are_an_error():
    model, generator = mlp(3), np.random.default_rng(0)
    state = model.state_dict()
    data = DataLoader(Noisy(lambda: float(generator.normal())), batch_size=16)
    toroid.evaluate(state, model, data)  # one walk
    with pytest.raises(ValueError, match=r"DataLoader\) gave other batches .*Pass list\(data\)"):
        toroid.along(lambda t: state, model, data, points=2)
    curve = toroid.along(lambda t: state, model, list(data), points=2)  # as the message says
    assert curve.loss[0] == curve.loss[1]

    class Once:
        def __init__(self):
            self.walk = iter([images()])

        def __iter__(self):
            return self.walk

    with pytest.raises(ValueError, match=r"Once\) gave other batches than before, 0 of them"):
        toroid.along(lambda t: state, model, Once(), points=2)


def test_what_can_be_walked_only_once_is_refused_by_name():
    model, (x, t) = mlp(3), images()
    state = model.state_dict()
    for once in (iter([(x, t)]), ((x, t) for _ in range(1)), zip([x], [t], strict=True)):
        with pytest.raises(ValueError, match=f"data are a {type(once).__name__}, .*once only"):
            toroid.evaluate(state, model, once)
    for data in ((x, t), x, x.numpy(), {"x": x}, model, "digits", 3, None):
        with pytest.raises(ValueError, match=r"data are a \w+; they take .*DataLoader, or a list"):
            toroid.evaluate(state, model, data)
    for empty in ([], DataLoader(TensorDataset(x[:0], t[:0]))):
        with pytest.raises(ValueError, match="gave no batch"):
            toroid.evaluate(state, model, empty)


def test_a_stream_of_examples_is_cut_into_batches():
    x, t = images()

    class Stream(IterableDataset):
        def __iter__(self):
            yield from zip(x, t, strict=True)

    model = mlp(3)
    found = toroid.evaluate(model.state_dict(), model, Stream(), batch_size=9)
    assert found.loss == pytest.approx(number(F.cross_entropy(model(x), t)), rel=1e-5)


def test_a_network_that_writes_into_its_input_leaves_every_batch_as_it_is():
    model, (x, t) = nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Linear(5, 3)), images()
    kept = x.clone()
    assert len({toroid.evaluate(model.state_dict(), model, [(x, t)]) for _ in range(3)}) == 1
    assert torch.equal(x, kept)


def test_what_a_data_set_keeps_is_of_use_in_a_training_later():
    kept = []

    class Caching(Noisy):
        def __getitem__(self, i):
            kept.append(self.x[i] * 2)
            return kept[-1], self.t[i]

    model = mlp(3)
    toroid.evaluate(model.state_dict(), model, DataLoader(Caching(None), batch_size=16))
    assert not kept[0].is_inference()


# --- what must not mislead ------------------------------------------------------------------------


def test_running_statistics_on_a_path_are_warned_of():
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    state, data = model.state_dict(), [images()]
    path = toroid.Linear(state, state)
    with pytest.warns(UserWarning, match=r"running statistics .*Pass refresh="):
        toroid.along(path, model, data, points=2)
    toroid.along(path, model, data, points=2, refresh=data)
    toroid.along(path, model, data, points=2, refresh=False)
    others = [
        {k: v + torch.rand_like(v) if v.is_floating_point() else v for k, v in state.items()}
        for _ in range(2)
    ]
    with pytest.warns(UserWarning, match="Pass refresh="):
        toroid.plane([state, *others], model, data, points=2)


def test_the_factor_of_the_ends_brings_the_loss_back():
    (model, other), (x, t) = (mlp(3).double() for _ in "ab"), images()
    x = x.double()
    symmetry = toroid.find_symmetries(model, x[:2])
    ends = [m.state_dict() for m in (model, other)]
    normal = [toroid.normalize(s, symmetry) for s in ends]
    factor = tuple(
        1 / toroid.same_function(model, s, n, x).factor for s, n in zip(ends, normal, strict=True)
    )
    path = toroid.Geodesic(*normal, symmetry)
    curve = toroid.along(path, model, [(x, t)], points=3, factor=factor)
    raw = [toroid.evaluate(s, model, [(x, t)]) for s in ends]
    assert curve.loss[[0, 2]] == pytest.approx([s.loss for s in raw])
    middle = torch.func.functional_call(model, path(0.5), (x,)) * (factor[0] * factor[1]) ** 0.5
    assert curve.loss[1] == pytest.approx(number(F.cross_entropy(middle, t)))
    assert curve.note == ""
    plain = toroid.along(path, model, [(x, t)], points=3)
    assert "arbitrary temperature" in plain.note
    assert plain.error.tolist() == curve.error.tolist()
    assert toroid.along(toroid.Linear(*ends), model, [(x, t)], points=3).note == ""
    with pytest.raises(ValueError, match="factor is -1"):
        toroid.along(path, model, [(x, t)], factor=-1)


def test_an_error_that_depends_on_the_size_of_the_outputs_is_warned_of():
    (model, other), (x, _) = (mlp(2) for _ in "ab"), images()
    symmetry, y = toroid.find_symmetries(model, x[:2]), torch.randn(60, 2)
    path = toroid.Geodesic(
        *(toroid.normalize(m.state_dict(), symmetry) for m in (model, other)), symmetry
    )
    with pytest.warns(UserWarning, match=r"depends on the size of the outputs.*output=\"keep\""):
        toroid.along(path, model, [(x, y)], points=2, task=tasks.regression)
    toroid.along(path, model, [(x, y)], points=2, task=tasks.regression, factor=2.0)


def test_agreement_of_one_output_is_that_of_signs():
    model, (x, _) = mlp(1), images()
    state = model.state_dict()
    report = toroid.same_function(model, state, state, x)
    assert bool(report)
    assert report.agreement == 1
    moved = {k: -v if k.startswith("2") else v for k, v in state.items()}
    opposite = toroid.same_function(model, state, moved, x)
    assert not opposite
    assert opposite.agreement == 0


def test_outputs_that_must_stay_as_they_are_take_no_factor():
    model, (x, _) = mlp(2), images()
    state = model.state_dict()
    doubled = {k: 2 * v if k.startswith("2") else v for k, v in state.items()}
    assert toroid.same_function(model, state, doubled, x)
    report = toroid.same_function(model, state, doubled, x, output="keep")
    assert not report
    assert report.factor == 1
    assert toroid.same_function(model, state, state, x, output="keep")
    with pytest.raises(ValueError, match="output is 'sphere'; it can be 'factor', 'keep'"):
        toroid.same_function(model, state, state, x, output="sphere")


# --- tensors that modules keep --------------------------------------------------------------------


class Keeping(nn.Module):
    """Keeps a tensor of its parameters in evaluation mode, one of some ways."""

    def __init__(self, way):
        super().__init__()
        self.way, self.body, self.bias = way, nn.Linear(5, 3), nn.Parameter(torch.randn(6))
        self.register_buffer("index", torch.tensor([4, 0, 2]))
        self.kept = {"dict": {}, "list": [], "none": None, "absent": None}[way]
        self.shift = torch.tensor([1.0, 0.0, 2.0])  # a constant, no buffer
        if way == "absent":
            del self.kept

    def table(self):
        made = self.bias[self.index] * 3
        if self.training:
            return made
        if self.way == "dict":
            return self.kept.setdefault("cpu", made)
        if self.way == "list":
            self.kept = self.kept or [made]
            return self.kept[0]
        if getattr(self, "kept", None) is None:
            self.kept = made
        return self.kept

    def forward(self, x):
        return self.body(x) + self.table() + self.shift


@pytest.mark.parametrize("way", ["dict", "list", "none", "absent"])
@pytest.mark.parametrize("before", ["fresh", "evaluated", "with a graph"])
def test_what_a_state_leaves_on_the_modules_is_forgotten(way, before):
    model, other, (x, t) = Keeping(way), Keeping(way), images()
    a, b = model.state_dict(), other.state_dict()
    expected = []
    for state in (a, b):
        plain = Keeping(way)  # in training mode: nothing is kept
        plain.load_state_dict(state)
        expected.append(number(F.cross_entropy(plain(x), t)))
    model.eval()
    if before == "evaluated":
        with torch.no_grad():
            model(x)
    elif before == "with a graph":
        model(x)
    found = toroid.along(toroid.Linear(a, b), model, [(x, t)], points=2).loss
    assert found == pytest.approx(expected, rel=1e-5)
    assert toroid.evaluate(b, model, [(x, t)]).loss == pytest.approx(expected[1], rel=1e-5)
    assert not toroid.same_function(model, a, b, x)
    assert toroid.fisher_rao(b, model, [(x, t)]) == pytest.approx(
        toroid.fisher_rao(b, other.train(), [(x, t)]), rel=1e-5
    )


class Attention(nn.Module):
    """Shows its maps after every call."""

    def __init__(self):
        super().__init__()
        self.q, self.v, self.h = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)
        self.maps = []

    def forward(self, x):
        q = self.q(x)
        self.attention = (q @ q.transpose(1, 2)).softmax(-1)
        self.maps.append(self.attention)
        return self.h((self.attention @ self.v(x)).mean(1))


def test_kept_attention_is_no_trouble_and_does_not_pile_up():
    model, x, t = Attention(), torch.randn(20, 5, 6), torch.randint(3, (20,))
    state = model.state_dict()
    fresh = toroid.evaluate(state, model, [(x, t)])
    model(x).sum().backward()  # a graph hangs on it now
    with torch.no_grad():
        model(x)
    maps = list(model.maps)
    assert toroid.evaluate(state, model, [(x, t)]) == fresh
    assert toroid.sharpness(state, model, [(x, t)]) > 0
    assert all(u is v for u, v in zip(model.maps, maps, strict=True))  # the caller's are as before


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_weights_that_a_hook_computes_are_those_of_the_state():
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(5, 8)), nn.ReLU(), nn.Linear(8, 3))
    other = nn.Sequential(nn.utils.weight_norm(nn.Linear(5, 8)), nn.ReLU(), nn.Linear(8, 3))
    x, t = images()
    found = toroid.evaluate(other.state_dict(), model, [(x, t)]).loss
    assert found == pytest.approx(number(F.cross_entropy(other(x), t)), rel=1e-5)


def test_a_list_of_targets_has_as_many_examples_as_it_is_long():
    """As detectors have them: a dict for each image, of any number of boxes."""
    model, x = nn.Linear(5, 4), torch.randn(4, 5)
    task = Task(loss=lambda out, y: out.square().mean(), error=lambda out, y: out.square().mean(1))
    boxes = [torch.rand(n, 4) for n in (2, 3, 0, 2)]
    alone = toroid.evaluate(model.state_dict(), model, [(x, x)], task=task)
    for targets in ([{"boxes": b} for b in boxes], boxes, [x, x], [{"a": x}, {"b": x}]):
        found = toroid.evaluate(model.state_dict(), model, [(x, targets)], task=task)
        assert found == alone
    several = task(inputs=lambda batch: (torch.stack(batch[0]),))
    pairs = [([*x], [{"boxes": b} for b in boxes])]
    assert toroid.evaluate(model.state_dict(), model, pairs, task=several) == alone


def test_probabilities_in_place_of_logits_are_warned_of():
    torch.manual_seed(0)
    logit = nn.Sequential(nn.Linear(5, 1)).double()
    sigmoid = nn.Sequential(logit[0], nn.Sigmoid())
    x = torch.randn(60, 5).double()
    data = [(x[:9], (x[:9, 0] > 0).long()), (x[9:], (x[9:, 0] > 0).long())]

    def score(model, task=tasks.binary):
        return toroid.evaluate(model.state_dict(), model, data, task=task)

    with pytest.warns(UserWarning, match=r"lie in \[0, 1\].*torch.logit"):
        score(sigmoid)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = score(logit)
        found = score(sigmoid, tasks.binary(outputs=lambda p: torch.logit(p, 1e-6)))
        assert found == pytest.approx(expected)


def test_predictions_of_one_output_are_its_sign():
    torch.manual_seed(0)
    column = nn.Sequential(nn.Linear(5, 1)).double()
    flat = nn.Sequential(column[0], nn.Flatten(0))
    x = torch.randn(60, 5).double()
    a = {k: v.clone() for k, v in column.state_dict().items()}
    b = {k: v + torch.randn_like(v) for k, v in a.items()}
    signs = [torch.func.functional_call(column, s, (x,))[:, 0] > 0 for s in (a, b)]
    expected = float((signs[0] != signs[1]).double().mean())
    assert expected > 0
    data = [(x, (x[:, 0] > 0).long())]
    for model, task in ((column, tasks.binary), (flat, tasks.binary), (flat, tasks.regression)):
        assert toroid.disagreement(a, b, model, data, task=task) == expected


def test_predictions_are_read_off_one_tensor():
    model, (x, t) = mlp(3), images()
    model.append(nn.Identity())
    model[-1].forward = lambda out: {"logits": out, "loss": out.mean()}
    task = Task(
        loss=lambda out, y: F.cross_entropy(out["logits"], y),
        error=lambda out, y: out["logits"].argmax(1) != y,
    )
    state = model.state_dict()
    with pytest.raises(ValueError, match=r"outputs are a dict of 'logits', 'loss'; .*outputs="):
        toroid.disagreement(state, state, model, [(x, t)], task=task)


class Waves(nn.Module):
    """All of its weights are complex, its inputs and outputs are not."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 5, dtype=torch.complex128))

    def forward(self, x):
        assert x.dtype == torch.float64
        return (x.to(self.w.dtype) @ self.w.T).abs()


def test_inputs_have_the_precision_of_complex_weights():
    torch.manual_seed(0)
    model, (x, t) = Waves(), images()
    found = toroid.evaluate(model.state_dict(), model, [(x, t)])
    assert found.loss == pytest.approx(number(F.cross_entropy(model(x.double()), t)), rel=1e-12)
    trained = toroid.training.sgd(model, [(x, t)], epochs=3, generator=torch.Generator())
    assert trained.history["loss"].is_monotonic_decreasing


# --- errors ---------------------------------------------------------------------------------------


def test_outputs_and_targets_that_do_not_fit_the_task():
    x, t = images()

    def score(outputs, targets, task=tasks.classification, flat=False):
        model = nn.Sequential(*mlp(outputs), *([nn.Flatten(0)] if flat else []))
        return toroid.evaluate(model.state_dict(), model, [(x, targets)], task=task)

    with pytest.raises(ValueError, match=r"one output.*toroid.tasks.binary"):
        score(1, t)
    with pytest.raises(ValueError, match=r"outputs are \(60,\), the targets \(60,\)"):
        score(1, t, flat=True)
    with pytest.raises(ValueError, match=r"targets \(60, 3\) of torch.int64"):
        score(3, F.one_hot(t, 3))
    with pytest.raises(ValueError, match=r"targets \(60,\) of torch.float32"):
        score(3, t.float())
    with pytest.raises(ValueError, match=r"targets go from 0 to 8, .* 3 classes, 0 to 2"):
        score(3, torch.arange(60) % 9)
    with pytest.raises(ValueError, match=r"regression takes .*\(60, 2\), the targets \(60,\)"):
        score(2, t.float(), tasks.regression)
    with pytest.raises(ValueError, match="targets hold -1; the task binary takes 0 and 1"):
        score(1, 2 * (t > 0).long() - 1, tasks.binary)
    with pytest.raises(ValueError, match=r"segmentation takes .*\(N, classes, height"):
        score(3, t, tasks.segmentation)
    with pytest.raises(ValueError, match=r"error gave \(60, 3\) for 60 examples"):
        score(3, t, Task(error=lambda o, y: o))
    with pytest.raises(ValueError, match=r"loss gave \(60,\); it must give the mean"):
        score(3, t, Task(loss=lambda o, y: F.cross_entropy(o, y, reduction="none")))
    with pytest.raises(ValueError, match=r"task is 'regression'; it takes a toroid.Task"):
        score(3, t, "regression")
    model = mlp(3)
    for labels in (t.numpy(), t.tolist()):
        with pytest.raises(ValueError, match=r"targets are a \w+; .*torch.as_tensor\(\)"):
            score(3, labels)
    with pytest.raises(ValueError, match=r"targets are a list; .*Say which counts"):
        score(3, [t, t])
    with pytest.raises(ValueError, match="holds no tensor of examples: targets are a list"):
        toroid.evaluate(model.state_dict(), model, [([1.0], [1])])
    with pytest.raises(ValueError, match=r"no tensor but ndarray: torch.as_tensor\(\)"):
        toroid.evaluate(model.state_dict(), model, [(x.numpy(), t)])
    with pytest.raises(TypeError, match=r"no argument n_points; .*batch_size, precision"):
        toroid.evaluate(model.state_dict(), model, [(x, t)], n_points=5)


# --- tied weights ---------------------------------------------------------------------------------


class Tied(nn.Module):
    """An embedding whose weight is the head's."""

    def __init__(self):
        super().__init__()
        self.words, self.body = nn.Embedding(9, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x):
        return self.head(torch.relu(self.body(self.words(x))))


@pytest.fixture
def tied():
    model, words = Tied(), torch.randint(9, (40,))
    return model, [(words, words.roll(1))]


TRAININGS = {
    "sgd": {}, "swa": {}, "sam": {}, "entropy_sgd": {"inner": 2}, "replicated_sgd": {"gmax": 10},
    "adversarial": {"confusion_epochs": 1},
}  # fmt: skip


def test_a_tied_network_is_evaluated_as_it_runs(tied):
    model, data = tied
    (x, y) = data[0]
    with torch.no_grad():
        loss = number(F.cross_entropy(model(x), y))
    for state in (model.state_dict(), {k: v.clone() for k, v in model.state_dict().items()}):
        assert toroid.evaluate(state, model, data).loss == pytest.approx(loss)
    assert toroid.local_energy(model.state_dict(), model, data, sigma=0.5)["energy"].notna().all()
    curve = toroid.along(toroid.Linear(state, state), model, data, points=3)
    assert curve.loss == pytest.approx([loss] * 3)
    state["head.weight"] = state["head.weight"] + 1
    with pytest.raises(ValueError, match=r"'head\.weight' and 'words\.weight' are one tensor"):
        toroid.evaluate(state, model, data)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_tied_network_stays_tied_in_training(tied, name):
    model, data = tied
    train = getattr(toroid.training, name)
    options = {"epochs": 2, "lr": 0.05, "generator": torch.Generator().manual_seed(0)}
    state = train(model, data * 3, **options, **TRAININGS[name]).state
    assert torch.equal(state["words.weight"], state["head.weight"])
    assert not torch.equal(state["words.weight"], model.words.weight)
    assert np.isfinite(toroid.evaluate(state, model, data).loss)


def test_the_curvature_of_a_tied_network_is_that_of_the_one_tensor(tied):
    model, data = tied
    model = model.double()
    found = toroid.hessian(model.state_dict(), model, data, draws=400, largest=1)
    parameters = dict(model.named_parameters())
    flat = torch.cat([p.detach().flatten() for p in parameters.values()])

    def loss(flat):
        parts = flat.split([p.numel() for p in parameters.values()])
        state = {k: v.view_as(p) for (k, p), v in zip(parameters.items(), parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, state, data[0][0]), data[0][1])

    matrix = torch.autograd.functional.hessian(loss, flat)
    values = torch.linalg.eigvalsh(matrix)
    assert found.eigenvalue == pytest.approx(number(values[-1]), rel=1e-3)
    assert abs(found.trace - number(values.sum())) < 5 * found.trace_error + 1e-9


def test_a_chain_of_tied_networks(tied):
    model, data = tied
    options = {"epochs": 1, "lr": 0.1, "generator": torch.Generator().manual_seed(0)}
    a, b = (toroid.training.sgd(model, data * 3, **options).state for _ in range(2))
    corner = toroid.bend(a, b, model, data, **options).path(0.5)
    assert torch.equal(corner["words.weight"], corner["head.weight"])


def test_a_tied_layer_is_not_repaired(tied):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.c(torch.relu(self.b(torch.relu(self.a(x)))))

    model, (x, y) = Twice(), images()
    state = model.state_dict()
    data = toroid.data.Dataset(x, y, 3)
    with pytest.raises(ValueError, match=r"'a\.weight' is tied to 'b\.weight'"):
        toroid.repair(state, model, (state, state), 0.5, data)
