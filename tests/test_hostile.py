"""What a hostile tester found: networks that write or draw, late or seldom, and what is the process's."""

import copy
import os
import socket
import threading
from pathlib import Path

import pytest
import torch
import toroid
from networks import Apply, gap
from torch import nn
from torch.nn import functional as F
from toroid._network import ALONE
from toroid.book import references
from toroid.minimizers._batch import _Here

torch.manual_seed(0)
X, Y = torch.randn(20, 4).clamp(-3, 3), torch.arange(20) % 3
DATA = toroid.data.Dataset(X, Y, 3)


def draw():
    return torch.Generator().manual_seed(0)


def layers():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def test_a_network_that_writes_to_its_weights_now_and_then_changes_nothing_of_the_callers():
    def forward(m, x):
        if float(x.max()) > 5:
            with torch.no_grad():
                m.a.weight.clamp_(-0.05, 0.05)
        return m.a(x)

    model, images = Apply(forward, a=nn.Linear(4, 3)), X.clone()
    images[15] = 9
    data = toroid.data.Dataset(images, Y, 3)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    kept = {k: v.clone() for k, v in state.items()}
    first = toroid.evaluate(state, model, data, batch_size=5)
    assert toroid.evaluate(state, model, data, batch_size=5) == first
    toroid.local_energy(state, model, data, sigma=0.1, noise="additive", draws=2, batch_size=5)
    assert all(torch.equal(state[k], v) for k, v in kept.items())


def test_what_a_network_draws_as_it_is_measured_is_the_same_each_time_and_not_the_callers():
    model = Apply(
        lambda m, x: m.b(F.dropout(m.a(x).relu(), 0.5)), a=nn.Linear(4, 8), b=nn.Linear(8, 3)
    )
    state, before = model.state_dict(), torch.get_rng_state()
    assert toroid.disagreement(state, state, model, DATA) == 0
    for measure in (
        lambda: toroid.evaluate(state, model, DATA),
        lambda: toroid.sharpness(state, model, DATA),
        lambda: toroid.hessian(state, model, DATA, draws=2).trace,
        lambda: toroid.fisher_rao(state, model, DATA),
    ):
        assert measure() == measure()
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_not_trained_stays_in_all_replicas():
    model = layers()
    model[0].requires_grad_(False)
    found = toroid.training.replicated_sgd(model, DATA, epochs=2, generator=draw(), batch_size=10)
    assert torch.allclose(found.state["0.weight"], model[0].weight)
    assert not torch.equal(found.state["2.weight"], model[2].weight)


def test_a_path_is_of_states_of_the_model_everywhere():
    model = layers()
    state = model.state_dict()
    without = {k: v for k, v in state.items() if k != "2.weight"}
    with pytest.raises(ValueError, match=r"lacks 2\.weight|2\.weight"):
        toroid.along(lambda t: without if t else state, model, DATA, points=3)


def test_statistics_of_a_module_that_is_called_twice_are_those_of_all_calls():
    def forward(m, x):
        return m.norm(m.norm(x) * 2 + 1)

    model = Apply(forward, norm=nn.BatchNorm1d(4))
    batches = [(X[:10], Y[:10]), (X[10:], Y[10:])]
    found = toroid.refresh(model.state_dict(), model, batches)
    torch.optim.swa_utils.update_bn([x for x, _ in batches], model)
    for name in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
        assert torch.allclose(found[name], model.state_dict()[name])


def test_two_seeds_have_no_draw_in_common():
    model, images = layers(), torch.randn(2000, 4)
    state, data = model.state_dict(), toroid.data.Dataset(images, torch.arange(2000) % 3, 3)

    def energy(draws, seed):
        how = {"sigma": 1.0, "noise": "additive", "draws": draws, "seed": seed}
        return toroid.local_energy(state, model, data, **how)["energy"][0]

    assert energy(1, 1) != pytest.approx(2 * energy(2, 0) - energy(1, 0))  # the second of seed 0


def test_targets_that_evaluation_refuses_have_no_curvature():
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    data = [(X, 2.0 * (Y > 0) - 1)]
    for measure in (toroid.evaluate, toroid.sharpness, toroid.fisher_rao):
        with pytest.raises(ValueError, match="targets hold -1"):
            measure(model.state_dict(), model, data, task=toroid.tasks.binary)


def test_a_class_that_is_none_is_refused():
    model, targets = layers(), Y.clone()
    targets[3] = -100
    with pytest.raises(ValueError, match="targets hold -100, the number of no class"):
        toroid.evaluate(model.state_dict(), model, [(X, targets)])


def test_the_callers_autocast_is_not_a_trainings():
    model = layers()
    how = {"epochs": 2, "batch_size": 10}
    alone = toroid.training.sgd(model, DATA, generator=draw(), **how).state
    with torch.autocast("cpu", torch.bfloat16):
        within = toroid.training.sgd(model, DATA, generator=draw(), **how).state
    assert all(torch.equal(alone[k], within[k]) for k in alone)


def test_curvature_in_threads_leaves_the_kernels_of_attention_as_they_were():
    model = layers()

    def measure():
        toroid.sharpness(model.state_dict(), model, DATA)

    threads = [threading.Thread(target=measure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.mem_efficient_sdp_enabled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_a_thread_that_it_has_not():
    held, done = threading.Event(), threading.Event()

    def hold():
        with ALONE:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    if not (child := os.fork()):
        os._exit(0 if ALONE.acquire(timeout=5) else 1)
    status = os.waitpid(child, 0)[1]
    done.set()
    thread.join()
    assert status == 0


def test_a_worker_of_before_looks_where_the_caller_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOROID_DATA", "elsewhere")
    (tmp_path / "here").mkdir()
    host, precision = socket.gethostname(), torch.get_float32_matmul_precision()
    for place in (
        _Here(host, os.getpid(), tmp_path / "here", "data", precision),  # a thread of ours
        _Here("another host", os.getpid() + 1, tmp_path / "here", "data", precision),
    ):
        place.come()
        assert (Path.cwd(), os.environ["TOROID_DATA"]) == (tmp_path, "elsewhere")
    _Here(host, os.getpid() + 1, tmp_path / "here", None, precision).come()
    assert Path.cwd() == tmp_path / "here"
    assert "TOROID_DATA" not in os.environ


def test_a_kept_run_is_there_whenever_a_key_is_pressed(tmp_path, monkeypatch):
    folder, new = tmp_path / "kept", tmp_path / "new.csv"
    folder.mkdir()
    (folder / "old.csv").write_text("old")
    new.write_text("new")
    rename, calls = Path.rename, []

    def pressed(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", pressed)
    with pytest.raises(KeyboardInterrupt):
        references.replace(folder, [new], {})
    assert [p.name for p in folder.iterdir()] == ["old.csv"]


class MaxNorm(nn.Linear):
    """Sets its weight's data as it runs, as a constraint on the norm is often written."""

    def forward(self, x):
        self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=0.5)
        return super().forward(x)


class Halved(nn.Linear):
    """Writes into its weight's data as it runs."""

    def forward(self, x):
        self.weight.data.mul_(0.5)
        return super().forward(x)


@pytest.mark.parametrize("layer", [MaxNorm, Halved])
def test_a_forward_that_sets_data_changes_neither_state_nor_model(layer):
    model = nn.Sequential(layer(4, 6), nn.ReLU(), nn.Linear(6, 3))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = {k: v.clone() for k, v in before.items()}
    x = torch.randn(20, 4)
    data = [(x, (x[:, 0] > 0).long())]
    first = toroid.evaluate(state, model, data)
    assert toroid.evaluate(state, model, data) == first
    toroid.local_energy(state, model, data, sigma=0.1, noise="additive", draws=2)
    with pytest.raises(toroid.UnsupportedError):
        toroid.find_symmetries(model, x)
    assert gap(state, before) == gap(model.state_dict(), before) == 0
    assert toroid.evaluate(state, copy.deepcopy(model), data) == first


def test_a_training_does_not_miss_data_that_are_set():
    model, x = nn.Sequential(MaxNorm(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(20, 4)
    with pytest.raises(ValueError, match=r"gives '0\.weight' another tensor as its data"):
        toroid.training.sgd(
            model, [(x, torch.zeros(20).long())], epochs=1, generator=torch.Generator()
        )


class Energy(nn.Module):
    """The gradient of an energy by the input: a score, a Hamiltonian's flow."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 1)

    def forward(self, x):
        with torch.enable_grad():
            x = x.requires_grad_()
            energy = self.b(self.a(x).tanh()).sum()
            return torch.autograd.grad(energy, x, create_graph=True)[0]


def test_a_network_that_takes_a_gradient_is_evaluated_and_trained():
    model, task = Energy(), toroid.tasks.regression
    x, y = torch.randn(20, 3), torch.randn(20, 3)
    data, state = [(x, y)], model.state_dict()
    plain = float((model(x.clone()) - y).square().mean().detach())
    assert toroid.evaluate(state, model, data, task=task).loss == pytest.approx(plain)
    trained = toroid.training.sgd(
        model, data, epochs=20, lr=0.05, task=task, generator=torch.Generator()
    )
    assert trained.history.loss.iloc[-1] < trained.history.loss.iloc[0]
    assert [part.requires_grad for part in (x, y)] == [False, False]


class OwnNorm(nn.Module):
    """A BatchNorm that is not torch's."""

    def __init__(self, units):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(units))
        self.register_buffer("running_var", torch.ones(units))

    def forward(self, x):
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, training=self.training
        )


def test_statistics_that_are_not_estimated_are_told():
    model, x = nn.Sequential(nn.Linear(4, 6), OwnNorm(6), nn.Linear(6, 3)), torch.randn(20, 4)
    data, state = [(x, torch.zeros(20).long())], model.state_dict()
    with pytest.warns(UserWarning, match="1 of the model: running statistics of no BatchNorm"):
        found = toroid.refresh(state, model, data)
    assert gap(found, state) == 0


def test_layers_that_repair_does_not_reach_are_told():
    norm = nn.utils.parametrizations.weight_norm
    model = nn.Sequential(norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 5), nn.Linear(5, 3))
    state, x = model.state_dict(), torch.randn(20, 4)
    with pytest.warns(UserWarning, match=r"does not reach 0\.parametrizations\.weight: it moves"):
        toroid.repair(state, model, (state, state), 0.5, [(x, torch.zeros(20).long())])


def test_directions_do_not_depend_on_the_order_of_names():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    state = model.state_dict()
    other = {k: state[k] for k in sorted(state)}
    assert [*other] != [*state]
    symmetry = toroid.find_symmetries(model, torch.randn(2, 4))
    normal = toroid.normalize(state, symmetry)
    again = {k: normal[k] for k in sorted(normal)}
    for a, b, torus in ((state, other, None), (normal, again, symmetry)):
        pair = (toroid.direction(s, model, symmetry=torus, seed=3) for s in (a, b))
        assert gap(*pair) == 0


def test_a_model_that_was_made_under_inference_is_evaluated():
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    data = [(torch.randn(24, 6), torch.zeros(24).long())]
    assert 0 <= toroid.evaluate(model.state_dict(), model, data).error <= 1
    assert toroid.sharpness(model.state_dict(), model, data) > 0


class Frozen(nn.Module):
    """A norm whose numbers are all buffers, as detectors have it."""

    def __init__(self, units):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(units))

    def forward(self, x):
        return (x - self.running_mean) / self.running_var * self.weight + self.bias


class Placed(nn.Module):
    """What is added at places and a scale of units: no layer."""

    def __init__(self):
        super().__init__()
        self.table, self.scale = nn.Parameter(torch.ones(1, 4, 6)), nn.Parameter(torch.ones(6))
        self.norm = nn.LayerNorm((4, 6))

    def forward(self, x):
        return self.norm(x[:, None] + self.table).mean(1) * self.scale


def test_no_warning_where_nothing_is_missed():
    model = nn.Sequential(nn.Linear(4, 6), Frozen(6), Placed(), nn.Linear(6, 3))
    model[1].register_buffer("unused", None)
    data, state = [(torch.randn(20, 4), torch.zeros(20).long())], model.state_dict()
    toroid.refresh(state, model, data)
    toroid.repair(state, model, (state, state), 0.5, data)


class Listed(nn.Module):
    """Reaches a weight through a list of its own, and has a token for training alone."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.token = (
            nn.Linear(6, 8),
            nn.Linear(8, 3),
            nn.Parameter(torch.ones(1, 6)),
        )
        self.weights = [self.a.weight]

    def forward(self, x):
        x = x + self.token if self.training else x
        return self.b((x @ self.weights[0].T + self.a.bias).relu())


def test_what_is_read_in_another_way_is_not_told_as_unread():
    model = Listed()
    toroid.find_symmetries(model, torch.randn(4, 6), strict=False)  # warns of nothing
