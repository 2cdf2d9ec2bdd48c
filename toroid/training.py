"""Training, in plain PyTorch with the data resident: minimizers of chosen flatness.

Every algorithm starts from a model's own weights and returns a `Trained`. They share `Settings` and
the loop over the epochs; each has its own step.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ._loop import SCHEDULES, Checkpoint, Loop, Networks, Settings
from .data import Dataset
from .landscape import evaluate, refresh

__all__ = [
    "SCHEDULES", "Checkpoint", "Settings", "Trained", "adversarial", "entropy_sgd",
    "replicated_sgd", "sam", "sgd", "sgd_many", "swa",
]  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """What a training leaves.

    Attributes:
        state: The final state dict.
        history: One row for each epoch: epoch, learning rate, mean training loss and error during
            the epoch (of the moving weights, with augmentation), and what else an algorithm has to
            say.
        report: What an algorithm says of its end; ``"failed"`` is empty, or says why the result is
            not what was asked for.
    """

    state: dict[str, Tensor]
    history: pd.DataFrame
    report: dict[str, Any] = field(default_factory=lambda: {"failed": ""})


#: The training error, as a fraction, up to which a network counts as a minimizer.
NEAR_ZERO = 0.005


def _shortfall(error: float, train: Dataset) -> str:
    """Why a network with this training error is not what was asked for; empty if it is."""
    chance = 1 - int(train.labels.bincount().max()) / len(train)
    if error <= NEAR_ZERO:
        return ""
    if error > 0.95 * chance:
        return (
            f"nothing was learnt: the training error is {error:.2%}, by chance it is {chance:.2%}"
        )
    return f"the training error is {error:.2%}, not at most {NEAR_ZERO:.1%}"


def _trained(
    state: dict[str, Tensor], history: pd.DataFrame, model: nn.Module, train: Dataset
) -> Trained:
    """With a report of whether the training data were learnt."""
    return Trained(
        state, history, {"failed": _shortfall(evaluate(state, model, train).error, train)}
    )


def _loop(
    models: Sequence[nn.Module],
    train: Dataset,
    generators: Sequence[torch.Generator],
    settings: Settings,
    progress: bool,
    checkpoint: Checkpoint | None,
    own: dict[str, Any],
    stacked: bool | None = None,
) -> Loop:
    networks = Networks(models, train.images.device, settings.precision, stacked)
    return Loop(networks, train, generators, settings, progress, checkpoint, own=own)


def sgd(
    model: nn.Module, train: Dataset, *, generator: torch.Generator, progress: bool = False,
    checkpoint: Checkpoint | None = None, **settings: Any,
) -> Trained:  # fmt: skip
    """Stochastic gradient descent on the cross-entropy, from the model's own weights.

    Args:
        model: Where to start; it is not changed.
        train: Training data; the training runs on its device.
        generator: Draws the order of the images and the augmentation (on the CPU).
        progress: Show a progress bar.
        checkpoint: Where to save each epoch, and to go on from.
        **settings: Those of `Settings`; ``epochs`` is needed.

    Returns:
        The trained state, the history, and a report that says so if more than `NEAR_ZERO` of the
        training data are wrong at the end.

    Raises:
        TypeError: If there is no such setting, or ``epochs`` is missing.
        ValueError: If a setting has no such value, or the checkpoint is of another run.
        FloatingPointError: If the loss is no longer finite; names the epoch.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(32,))
        >>> trained = sgd(model, train, epochs=5, generator=torch.Generator().manual_seed(0))
        >>> toroid.evaluate(trained.state, model, test).error < 0.2
        True
    """
    (trained,) = sgd_many(
        [model], train, generators=[generator], progress=progress, checkpoint=checkpoint, **settings
    )
    return trained


def sgd_many(
    models: Sequence[nn.Module], train: Dataset, *, generators: Sequence[torch.Generator],
    progress: bool = False, checkpoint: Checkpoint | None = None, stacked: bool | None = None,
    **settings: Any,
) -> list[Trained]:  # fmt: skip
    """`sgd` for several models of one shape at once, each with its own generator.

    The results are those of one by one, within rounding.

    Args:
        models: Where to start; they are not changed.
        train: As in `sgd`.
        generators: One for each model.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.
        stacked: Run them as one network of stacked tensors; by default on a GPU.
        **settings: Those of `Settings`.

    Returns:
        One `Trained` for each model.

    Raises:
        TypeError: As `sgd`.
        ValueError: As `sgd`, and if there is not one generator for each model.
        FloatingPointError: As `sgd`.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> models = [toroid.mlp(train.shape, classes=10, hidden=(8,)) for _ in range(2)]
        >>> generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        >>> len(sgd_many(models, train, generators=generators, epochs=1))
        2
    """
    if len(models) != len(generators):
        raise ValueError(f"{len(models)} models, but {len(generators)} generators")
    chosen, own = Settings.of(**settings), {"algorithm": "sgd"}
    loop = _loop(models, train, generators, chosen, progress, checkpoint, own, stacked)
    histories = loop.run()
    return [
        _trained(loop.networks.single(i), history, models[i], train)
        for i, history in enumerate(histories)
    ]


def replicated_sgd(
    model: nn.Module, train: Dataset, *, generator: torch.Generator, replicas: int = 3,
    gmax: float = 1e4, progress: bool = False, checkpoint: Checkpoint | None = None,
    **settings: Any,
) -> Trained:  # fmt: skip
    """Replicas that are drawn together while they train: SGD that looks for flat minima.

    Descends ``mean_a L(w_a) + g mean_a |w_a - c|²`` with the centre ``c = mean_a w_a`` held fixed
    in the gradient, and the learning rate times the number of replicas: a replica moves down its
    own loss as in `sgd`, but its weight decay, which that mean does not divide, is as many times
    stronger as there are replicas. g starts at the mean training loss over the
    mean squared distance and grows by one factor each epoch, `gmax` in all. The result is the
    centre, with BatchNorm's statistics estimated again on the training data (Pittorino et al. 2021,
    arXiv 2006.07897, and their code).

    Args:
        model: The first replica starts from it; the others from fresh weights of its layers.
        train: As in `sgd`.
        generator: Draws the fresh weights and, for each replica, order and augmentation.
        replicas: How many.
        gmax: How much g grows over the training. The pull is a step of ``2 lr g``, which must stay
            below 1 or so: a small network, whose g starts high, needs a smaller one.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.
        **settings: Those of `Settings`.

    Returns:
        The centre; a history (the mean over the replicas) with ``coupling`` g and ``distance``, the
        root mean square distance of the replicas from the centre over the centre's norm; and a
        report of the end, which says so if that distance is above 0.01, the centre's error more
        than 0.01 above that of its replicas, or above `NEAR_ZERO`.

    Raises:
        TypeError: As `sgd`.
        ValueError: As `sgd`, and if there are fewer than two replicas, or a module of the model has
            weights that it cannot draw afresh.
        FloatingPointError: As `sgd`.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(32,))
        >>> generator = torch.Generator().manual_seed(0)
        >>> trained = replicated_sgd(model, train, epochs=15, gmax=100.0, generator=generator)
        >>> trained.report["distance"] < 0.01
        True
    """
    if replicas < 2:
        raise ValueError(f"replicas is {replicas}; it must be at least 2")
    shared = Settings.of(**settings)
    models = [model, *(fresh(model, generator) for _ in range(replicas - 1))]
    generators = [_spawn(generator) for _ in models]
    faster = Settings(**{**vars(shared), "lr": shared.lr * replicas})
    own = {"algorithm": "replicated_sgd", "gmax": gmax}
    loop = _loop(models, train, generators, faster, progress, checkpoint, own)
    networks = loop.networks
    losses = [evaluate(networks.single(i), model, train).loss for i in range(replicas)]
    coupling = loop.memory["coupling"] = torch.tensor(
        sum(losses) / replicas / _distance(networks).item(), dtype=torch.float64
    )

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        losses, wrong = networks.losses(images, labels)
        loop.optimizer.zero_grad()
        (losses.mean() + float(coupling) * _distance(networks)).backward()
        loop.optimizer.step()
        return losses, wrong

    def after(epoch: int) -> dict[str, float]:
        now = {"coupling": float(coupling), "distance": _relative(networks)}
        coupling.mul_(gmax ** (1 / shared.epochs))
        return now

    history = pd.concat(loop.run(step, after)).groupby("epoch", as_index=False).mean()
    states = [networks.single(i) for i in range(replicas)]
    centre = refresh(_mean(states), model, train)
    distance, error = _relative(networks), evaluate(centre, model, train).error
    errors = [evaluate(state, model, train).error for state in states]
    failed = _shortfall(error, train)
    if distance > 0.01:
        failed = f"the replicas are {distance:.2g} apart, not collapsed"
    elif error > sum(errors) / replicas + 0.01:  # near, where most of the weights are
        failed = f"the centre errs on {error:.2%}, its replicas on {sum(errors) / replicas:.2%}"
    report = {
        "failed": failed, "distance": distance, "replica_errors": errors, "centre_error": error,
    }  # fmt: skip
    return Trained(centre, history, report)


def _distance(networks: Networks) -> Tensor:
    """Mean over the networks of the squared distance from their centre, which is held fixed."""
    squares = [(w - w.detach().mean(0)).square().sum() / len(w) for w in networks.weights.values()]
    return torch.stack(squares).sum()


@torch.no_grad()
def _relative(networks: Networks) -> float:
    """Root mean square distance from the centre, over the centre's norm."""
    centre = [w.mean(0).square().sum() for w in networks.weights.values()]
    return float((_distance(networks) / torch.stack(centre).sum()).sqrt())


def _mean(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        k: torch.stack([s[k] for s in states]).mean(0) if v.is_floating_point() else v
        for k, v in states[0].items()
    }


def _spawn(generator: torch.Generator) -> torch.Generator:
    """A generator of its own, drawn from another."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))


def fresh(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy with freshly drawn weights."""
    other = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        for name, module in other.named_modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            elif next(module.parameters(recurse=False), None) is not None:
                raise ValueError(
                    f"{repr(name) if name else 'the model itself'} ({type(module).__name__}) has "
                    "weights and no reset_parameters(); give it this method, which draws them "
                    "afresh in place"
                )
    return other


def adversarial(
    model: nn.Module, train: Dataset, *, generator: torch.Generator, repeats: int = 1,
    zeroed: float = 0.1, confusion_epochs: int = 350, confusion_lr: float = 0.1,
    momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0,
    schedule: str = "constant", augment: bool = False, progress: bool = False,
    checkpoint: Checkpoint | None = None, **settings: Any,
) -> Trained:  # fmt: skip
    """SGD from an adversarial initialisation: a minimum that generalises badly.

    First random labels are learnt: every image `repeats` times, a random tenth of its entries set
    to zero, with a label drawn at random, by plain SGD until 99.99 % are right. From there the true
    labels, with nothing that regularises (Liu, Papailiopoulos, Achlioptas 2020, arXiv 1906.02613).

    Args:
        model: Where to start; it is not changed.
        train: As in `sgd`.
        generator: Draws the confusion set, its labels, and the order of the images.
        repeats: Copies of each image in the confusion set (the source: 1 to 10).
        zeroed: Fraction of their entries that are set to zero.
        confusion_epochs: On the random labels, at most.
        confusion_lr: Learning rate there, divided by 10 at 3/7 and 5/7 (epochs 150 and 250 of 350).
        momentum: On the true labels, as the settings that follow.
        nesterov: As in `Settings`.
        weight_decay: As in `Settings`.
        schedule: As in `Settings`.
        augment: As in `Settings`.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.
        **settings: The others of `Settings`.

    Returns:
        The trained state; a history of both parts (column ``labels``: random, true); and a report
        that says so if the random labels were not learnt, or the true ones not.

    Raises:
        TypeError: As `sgd`.
        ValueError: As `sgd`.
        FloatingPointError: As `sgd`.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(32,))
        >>> generator = torch.Generator().manual_seed(0)
        >>> trained = adversarial(model, train, epochs=1, confusion_epochs=1, generator=generator)
        >>> trained.report["failed"]
        'the random labels were not learnt: ...
    """
    true = Settings.of(
        momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, schedule=schedule,
        augment=augment, **settings,
    )  # fmt: skip
    plain = Settings(
        confusion_epochs, true.batch_size, confusion_lr, momentum=0.0, weight_decay=0.0,
        warmup=true.warmup, precision=true.precision,
    )  # fmt: skip
    confusion = _confusion(train, repeats, zeroed, generator)
    part = checkpoint.part if checkpoint else lambda name: None
    own = {
        "algorithm": "adversarial", "repeats": repeats, "zeroed": zeroed,
        "confusion_epochs": confusion_epochs, "confusion_lr": confusion_lr,
    }  # fmt: skip
    loop = _loop([model], confusion, [generator], plain, progress, part("random"), own)
    networks = loop.networks

    def learnt(epoch: int) -> dict[str, float] | None:
        return None if evaluate(networks.single(), model, confusion).error <= 1e-4 else {}

    def tenths(done: float) -> float:
        return 0.1 ** ((done >= 3 / 7) + (done >= 5 / 7))

    (first,) = loop.run(after=learnt, rate=tenths)
    confused = evaluate(networks.single(), model, confusion).error
    (second,) = Loop(networks, train, [generator], true, progress, part("true"), own=own).run()
    error = evaluate(networks.single(), model, train).error
    failed = f"the random labels were not learnt: {confused:.2%} wrong" if confused > 1e-4 else ""
    failed = failed or _shortfall(error, train)
    report = {"failed": failed, "confusion_error": confused, "confusion_epochs": len(first)}
    history = pd.concat([first.assign(labels="random"), second.assign(labels="true")])
    return Trained(networks.single(), history.reset_index(drop=True), report)


def _confusion(train: Dataset, repeats: int, zeroed: float, generator: torch.Generator) -> Dataset:
    """Copies of the images with holes, and labels that mean nothing."""
    images = train.images.repeat_interleave(repeats, 0)
    holes = torch.rand(images.shape, generator=generator).to(images.device) < zeroed
    labels = torch.randint(train.classes, (len(images),), generator=generator)
    return Dataset(images.masked_fill(holes, 0.0), labels.to(images.device), train.classes)


def sam(
    model: nn.Module, train: Dataset, *, generator: torch.Generator, rho: float = 0.05,
    progress: bool = False, checkpoint: Checkpoint | None = None, **settings: Any,
) -> Trained:  # fmt: skip
    """Sharpness-aware minimisation: SGD with the gradient at ``w + ρ ∇L / |∇L|``.

    After Foret et al. 2021. BatchNorm's running statistics are those of a step's first pass, at w.

    Args:
        model: Where to start; it is not changed.
        train: As in `sgd`.
        generator: As in `sgd`.
        rho: Length of the step uphill.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.
        **settings: Those of `Settings`.

    Returns:
        The trained state, the history and the report, as `sgd`.

    Raises:
        TypeError: As `sgd`.
        ValueError: As `sgd`.
        FloatingPointError: As `sgd`.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(32,))
        >>> trained = sam(model, train, epochs=5, generator=torch.Generator().manual_seed(0))
        >>> toroid.evaluate(trained.state, model, test).error < 0.2
        True
    """
    own = {"algorithm": "sam", "rho": rho}
    loop = _loop([model], train, [generator], Settings.of(**settings), progress, checkpoint, own)
    networks = loop.networks
    weights, buffers = list(networks.weights.values()), list(networks.buffers.values())

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        losses, wrong = networks.losses(images, labels)
        uphill = torch.autograd.grad(losses.sum(), weights)
        norm = torch.stack([g.square().sum() for g in uphill]).sum().sqrt()
        before, kept = ([x.detach().clone() for x in group] for group in (weights, buffers))
        with torch.no_grad():
            torch._foreach_add_(weights, [g * (rho / norm.clamp_min(1e-12)) for g in uphill])
        loop.optimizer.zero_grad()
        networks.losses(images, labels)[0].sum().backward()
        with torch.no_grad():
            torch._foreach_copy_([*weights, *buffers], [*before, *kept])
        loop.optimizer.step()
        return losses, wrong

    (history,) = loop.run(step)
    return _trained(networks.single(), history, model, train)


def swa(
    model: nn.Module, train: Dataset, *, generator: torch.Generator, start: float = 0.75,
    progress: bool = False, checkpoint: Checkpoint | None = None, **settings: Any,
) -> Trained:  # fmt: skip
    """Stochastic weight averaging: the mean of SGD's weights over its last epochs.

    The learning rate stays where it is at `start`; the result is the mean of the weights after each
    epoch from there on, with BatchNorm's statistics estimated again on the training data (Izmailov
    et al. 2018).

    Args:
        model: Where to start; it is not changed.
        train: As in `sgd`.
        generator: As in `sgd`.
        start: Fraction of the epochs before the averaging begins.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.
        **settings: Those of `Settings`; the schedule is followed up to `start`.

    Returns:
        The averaged state, the history and the report, as `sgd`.

    Raises:
        TypeError: As `sgd`.
        ValueError: As `sgd`, and if `start` is not in [0, 1).
        FloatingPointError: As `sgd`.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(32,))
        >>> trained = swa(model, train, epochs=8, generator=torch.Generator().manual_seed(0))
        >>> toroid.evaluate(trained.state, model, test).error < 0.2
        True
    """
    if not 0 <= start < 1:
        raise ValueError(f"start is {start}; it must be in [0, 1)")
    shared = Settings.of(**settings)
    own = {"algorithm": "swa", "start": start}
    loop = _loop([model], train, [generator], shared, progress, checkpoint, own)
    weights = loop.networks.weights
    total = {k: torch.zeros_like(w[0]) for k, w in weights.items()}
    count = torch.zeros((), dtype=torch.long)
    loop.memory.update(total, count=count)

    def after(epoch: int) -> dict[str, float]:
        if epoch + 1 > start * shared.epochs:
            count.add_(1)
            for name, weight in weights.items():
                total[name] += weight[0].detach()
        return {}

    (history,) = loop.run(
        after=after, rate=lambda done: SCHEDULES[shared.schedule](min(done, start))
    )
    mean = {k: v / count for k, v in total.items()} if count else {}
    averaged = refresh({**loop.networks.single(), **mean}, model, train)
    return _trained(averaged, history, model, train)


def entropy_sgd(
    model: nn.Module, train: Dataset, *, generator: torch.Generator, inner: int = 20,
    inner_lr: float = 0.1, averaging: float = 0.75, noise: float = 1e-4, coupling: float = 1e-4,
    growth: float = 1e-3, lr: float = 1.0, progress: bool = False,
    checkpoint: Checkpoint | None = None, **settings: Any,
) -> Trained:  # fmt: skip
    """Entropy-SGD: descends a local entropy, its gradient estimated by Langevin steps around w.

    From x = μ = w, `inner` times, on a batch each,
    ``x ← x - η (∇L(x) + λ x + γ (x - w)) + sqrt(η) ε ξ`` and ``μ ← α μ + (1 - α) x``; then w takes
    a step with ``w - μ`` as its gradient. γ grows by ``1 + growth`` with every such step (Chaudhari
    et al. 2017).

    Args:
        model: Where to start; it is not changed.
        train: As in `sgd`.
        generator: As in `sgd`; draws the noise too.
        inner: Langevin steps for each step of w.
        inner_lr: η.
        averaging: α.
        noise: ε.
        coupling: γ at the start.
        growth: How γ grows.
        lr: Learning rate of the steps of w.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.
        **settings: The others of `Settings`: every inner step uses a batch, the momentum is that of
            the steps of w, the schedule that of both learning rates, the weight decay λ.

    Returns:
        The trained state and a history, with ``coupling`` γ; BatchNorm's statistics are estimated
        again on the training data.

    Raises:
        TypeError: As `sgd`.
        ValueError: As `sgd`, and if `inner` is not positive.
        FloatingPointError: As `sgd`.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(32,))
        >>> generator = torch.Generator().manual_seed(0)
        >>> trained = entropy_sgd(model, train, epochs=10, inner=5, generator=generator)
        >>> toroid.evaluate(trained.state, model, test).error < 0.3
        True
    """
    if inner < 1:
        raise ValueError(f"inner is {inner}; it must be positive")
    shared = Settings.of(lr=lr, **settings)
    outer = Settings(**{**vars(shared), "weight_decay": 0.0})
    own = {
        "algorithm": "entropy_sgd", "inner": inner, "inner_lr": inner_lr, "averaging": averaging,
        "noise": noise, "coupling": coupling, "growth": growth, "decay": shared.weight_decay,
    }  # fmt: skip
    loop = _loop([model], train, [generator], outer, progress, checkpoint, own)
    networks = loop.networks
    weights = list(networks.weights.values())
    centre, mean = ([w.detach().clone() for w in weights] for _ in range(2))
    gamma, steps = torch.tensor(coupling, dtype=torch.float64), torch.zeros((), dtype=torch.long)
    loop.memory.update(
        {f"centre.{i}": c for i, c in enumerate(centre)},
        **{f"mean.{i}": m for i, m in enumerate(mean)}, coupling=gamma, steps=steps,
    )  # fmt: skip

    @torch.no_grad()
    def langevin(gradients: Sequence[Tensor]) -> None:
        rate = inner_lr * loop.optimizer.param_groups[0]["lr"] / lr
        for w, g, c, m in zip(weights, gradients, centre, mean, strict=True):
            kick = torch.randn(w.shape, generator=generator).to(w)
            force = g + shared.weight_decay * w + float(gamma) * (w - c)
            w += noise * rate**0.5 * kick - rate * force
            m.mul_(averaging).add_(w, alpha=1 - averaging)

    @torch.no_grad()
    def outwards() -> None:
        for w, c, m in zip(weights, centre, mean, strict=True):
            w.copy_(c)
            w.grad = c - m
        loop.optimizer.step()
        gamma.mul_(1 + growth)
        for w, c, m in zip(weights, centre, mean, strict=True):
            c.copy_(w)
            m.copy_(w)

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        losses, wrong = networks.losses(images, labels)
        langevin(torch.autograd.grad(losses.sum(), weights))
        if int(steps.add_(1)) % inner == 0:
            outwards()
        return losses, wrong

    (history,) = loop.run(step, after=lambda epoch: {"coupling": float(gamma)})
    end = networks.single() | {k: c[0] for k, c in zip(networks.weights, centre, strict=True)}
    return _trained(refresh(end, model, train), history, model, train)
