"""The epochs: minibatches, steps, schedules, checkpoints."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._pytree import tree_leaves
from tqdm.auto import tqdm

from .._batches import Batches, Data, Shuffled
from .._state import digest
from ..data import Dataset
from ..tasks import classification, identity
from ._checkpoint import Checkpoint
from ._networks import Networks
from ._settings import SCHEDULES, Settings

#: From images (networks, batch, ...) and labels, or a batch for each network and nothing, to each
#: network's loss and number of errors, or mean error.
Step = Callable[[Any, Any], tuple[Tensor, Tensor]]


@dataclass
class Loop:
    """Epochs over the data, each network in its own order.

    What an algorithm adds: a `step`, an `after` that ends each epoch (and the loop, by None), and a
    `memory` of what it changes in place from epoch to epoch. A checkpoint is of the same run if
    `identity` is the same, which JSON can hold: that of the settings, or where the steps take
    others than the caller gave, that of the caller's; if it began from the same bits; and if its
    first step was the same, which tells networks and tasks apart that have the same names.
    """

    networks: Networks
    train: Data
    generators: Sequence[torch.Generator]
    settings: Settings
    progress: bool = False
    checkpoint: Checkpoint | None = None
    identity: Mapping[str, Any] | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if torch.is_inference_mode_enabled():
            raise ValueError("no gradient is taken in torch.inference_mode: train outside of it")
        weights = list(self.networks.weights.values())
        self.rows: list[list[dict[str, Any]]] = [[] for _ in self.generators]
        self.done = 0  # steps
        self.first: dict[str, float] = {}  # what the first step did
        self.began: dict[str, str] = {}
        if not weights:
            raise ValueError("every weight is frozen: none has requires_grad=True to be trained")
        self.optimizer = self.settings.optimizer(weights)
        self.device = weights[0].device
        if not isinstance(self.train, Dataset):
            self._other()
            return
        if not len(self.train):
            raise ValueError(f"the data set {self.train.name!r} is empty")
        if self.settings.augment and self.train.images.dim() != 4:
            raise ValueError(
                "augment shifts and flips images (N, channels, height, width); these have shape "
                f"{tuple(self.train.images.shape)}: train with augment=False"
            )
        if self.train.images.is_floating_point():  # once, in the precision of the weights
            images = self.train.images.detach().to(weights[0].dtype)
            self.train = replace(self.train, images=images)
        self.size = min(self.settings.batch_size, len(self.train))
        self.batches = len(self.train) // self.size
        self.scale = self.size if self.networks.task is classification else 1

    def _other(self) -> None:
        """Data that come in batches of their own."""
        if self.settings.augment:
            raise ValueError(
                "augment shifts and flips the images of a toroid.data.Dataset; the data are a "
                f"{type(self.train).__name__}: train with augment=False and let the loader's own "
                "transforms augment"
            )
        self.train = Shuffled(self.train, self.settings.batch_size)
        self.batches, self.scale = self.train.count, 1

    def down(self, images: Any, labels: Any) -> tuple[Tensor, Tensor]:
        """A step down the gradient; the networks do not see each other."""
        losses, wrong = self.networks.losses(images, labels)
        self.optimizer.zero_grad()
        torch.autograd.backward(losses.sum())
        self.optimizer.step()
        return losses, wrong

    @torch.enable_grad()
    def run(
        self,
        step: Step | None = None,
        after: Callable[[int], dict[str, float] | None] = lambda epoch: {},
        rate: Callable[[float], float] | None = None,
    ) -> list[pd.DataFrame]:
        """All epochs that are left; the history of each network."""
        self.began = self._beginning() if self.checkpoint else {}
        step, rate = step or self.down, self._warmed(rate or SCHEDULES[self.settings.schedule])
        ended = self._resume(step, rate)
        ahead = range(len(self.rows[0]), 0 if ended else self.settings.epochs)
        for epoch in tqdm(ahead, disable=not self.progress, leave=False):
            lr = self.settings.lr * rate(self._fraction())
            loss, wrong = self._epoch(step, rate)
            self._check(loss, epoch)
            more = after(epoch)
            for rows, mean, error in zip(self.rows, loss.tolist(), wrong.tolist(), strict=True):
                rows.append(
                    {"epoch": epoch, "lr": lr, "loss": mean, "error": error, **(more or {})}
                )
            if self.checkpoint and (more is None or self.checkpoint.due):
                record = {"rows": self.rows, "ended": more is None, "first": self.first}
                self.checkpoint.save(self._changing(), {**record, "run": self._run()})
            if more is None:
                break
        columns = ["epoch", "lr", "loss", "error"]
        return [pd.DataFrame(rows, columns=None if rows else columns) for rows in self.rows]

    def _warmed(self, rate: Callable[[float], float]) -> Callable[[float], float]:
        """A schedule that rises from 0 first, step by step."""
        steps = self.settings.warmup * self.batches
        return lambda done: rate(done) * (min(1.0, (self.done + 1) / steps) if steps else 1.0)

    def _fraction(self) -> float:
        return self.done / max(1, self.settings.epochs * self.batches)

    def _epoch(self, step: Step, rate: Callable[[float], float]) -> tuple[Tensor, Tensor]:
        """Mean loss and error of each network, while it moves."""
        sums = torch.zeros(2, len(self.generators), dtype=torch.float32)
        loss, wrong = sums.to(self.device)
        for images, labels in self._minibatches():
            losses, errors = self._stepped(step, rate, images, labels)
            loss += losses.detach() / self.batches
            wrong += errors.to(wrong.dtype) / (self.batches * self.scale)
        return loss, wrong

    def _stepped(
        self, step: Step, rate: Callable[[float], float], images: Any, labels: Any
    ) -> tuple[Tensor, Tensor]:
        """One step; of the first, what it does is kept: the loss before it, and how far it goes."""
        self.optimizer.param_groups[0]["lr"] = self.settings.lr * rate(self._fraction())
        watched = self.networks.weights, self.networks.buffers
        before = [_numbers(x) for x in watched] if self.checkpoint and not self.done else []
        with torch.autocast(self.device.type, enabled=False):  # the caller's is not ours
            losses, errors = step(images, labels)
        if before:
            ways = [(_numbers(x) - b).norm() for x, b in zip(watched, before, strict=True)]
            self.first = {"loss": float(losses.detach().mean()), "way": float(ways[0]),
                          "way of the buffers": float(ways[1])}  # fmt: skip
        self.done += 1
        return losses, errors

    def _minibatches(self) -> Iterator[tuple[Any, Any]]:
        """What a step takes, as often as an epoch has batches."""
        task, model = self.networks.task, self.networks.module
        if isinstance(self.train, Dataset) and task is classification:
            yield from self._resident()
            return
        if isinstance(self.train, Dataset):
            wholes = (zip(*pair, strict=True) for pair in self._resident())
        else:
            wholes = self.train.walks(self.generators)
        taken = Batches([], task, 1, model).taken
        for each in wholes:
            batches = [taken(whole) for whole in each]
            if not all(batch.examples for batch in batches):
                raise ValueError("a batch of the data has no example; leave it out")
            yield batches, None

    def _resident(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (networks, batch, ...) and labels; the remainder is left out."""
        orders = torch.stack(
            [torch.randperm(len(self.train), generator=g) for g in self.generators]
        )
        orders = orders[:, : self.batches * self.size].to(self.train.images.device)
        for batch in torch.split(orders, self.size, 1):
            images = self.train.images[batch]
            if self.settings.augment:
                pairs = zip(images, self.generators, strict=True)
                images = torch.stack([augment(x, g) for x, g in pairs])
            yield images, self.train.labels[batch]

    def _check(self, loss: Tensor, epoch: int) -> None:
        if not loss.isfinite().all():
            raise FloatingPointError(
                f"the loss is {float(loss.max())} in epoch {epoch}; a smaller lr than "
                f"{self.settings.lr} may help"
            )

    def _changing(self) -> dict[str, Tensor]:
        """By name: weights and buffers, momenta, the generators' states, an algorithm's memory."""
        momenta = {
            k: self.optimizer.state[w].get("momentum_buffer")
            for k, w in self.networks.weights.items()
        }
        return {
            **{f"state.{k}": v for k, v in self.networks.state.items()},
            **{f"momentum.{k}": v for k, v in momenta.items() if v is not None},
            **{f"generator.{i}": g.get_state() for i, g in enumerate(self.generators)},
            **{f"memory.{k}": v for k, v in self.memory.items()},
        }

    def _run(self) -> dict[str, Any]:
        """What a run that goes on must have in common with the one that was cut off."""
        settings = self.identity or self.settings.identity()
        return {**settings, **identity(self.networks.task), **self._many(), **self.began}

    def _beginning(self) -> dict[str, str]:
        """Digests of what a run begins from; a loader's batches may be drawn anew at each walk."""
        names = "\n".join(self.networks.weights)
        if isinstance(self.train, Dataset):
            examples: list[Any] = [self.train.images, self.train.labels]
        else:
            examples = tree_leaves(self.train.data) if isinstance(self.train.data, list) else []
        parts = {
            "first weights": self.networks.state,
            "generator": {str(i): g.get_state() for i, g in enumerate(self.generators)},
            "data": {str(i): x for i, x in enumerate(examples) if isinstance(x, Tensor)},
        }
        found = {name: f"of digest {digest(part)[:16]}" for name, part in parts.items()}
        trained = f"{len(self.networks.weights)} tensors of digest {_short(names)}"
        return {**found, "what is trained": trained}

    def _many(self) -> dict[str, int]:
        if isinstance(self.train, Dataset):
            return {"images": len(self.train)}
        return {"batches": self.batches}

    def _check_saved(
        self, path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]
    ) -> None:
        """A checkpoint is of this run: by all settings, and by shapes."""
        saved, now = (
            {**run, **{k: list(v.shape) for k, v in found.items() if not k.startswith("momentum.")}}
            for run, found in ((record["run"], tensors), (self._run(), self._changing()))
        )  # momenta are not there before the first step
        differ = sorted(
            (k for k in saved.keys() | now.keys() if saved.get(k) != now.get(k)),
            key=lambda k: (k in self.began, k),  # a digest says least
        )
        if differ:
            told = "; ".join(f"{k} {saved.get(k)}, now {now.get(k)}" for k in differ[:5])
            raise _another(path, told)

    def _check_first(
        self, path: Path, saved: Mapping[str, float], again: Callable[[], Mapping[str, float]]
    ) -> None:
        """The first step was the one that this run takes, up to rounding on another machine.

        One that is another each time (it draws from elsewhere) says nothing.
        """
        first = again()
        if not self._near(saved, first) and self._near(first, again()):
            before, now = (f"{x['way']:.3g} from a loss of {x['loss']:.3g}" for x in (saved, first))
            raise _another(
                path,
                f"its first step went {before}, this one's goes {now}, so that the network or the "
                "task is another one, or draws numbers that are not the generator's",
            )

    def _near(self, a: Mapping[str, float], b: Mapping[str, float]) -> bool:
        """Whether two first steps are one, on whatever machines."""
        near = 2e-3 if self.settings.precision == "float32" else 5e-2
        return all(math.isclose(a[k], b[k], rel_tol=near) for k in a)

    @property
    def _walked_alike(self) -> bool:
        """Whether the first batch is the same each time: a loader may draw another one."""
        return isinstance(self.train, Dataset) or isinstance(self.train.data, list)

    def _resume(self, step: Step, rate: Callable[[float], float]) -> bool:
        """Put back what was saved, if anything was; whether that was the end."""
        saved = self.checkpoint and self.checkpoint.load(self.device)
        if not (self.checkpoint and saved):
            return False
        tensors, record = saved
        self._check_saved(self.checkpoint.path, tensors, record)
        if self._walked_alike and record["first"]:
            start = {k: v.clone() for k, v in self._changing().items()}

            def again() -> Mapping[str, float]:
                self._restore(start)
                self.done = 0
                self._stepped(step, rate, *next(self._minibatches()))
                return self.first

            self._check_first(self.checkpoint.path, record["first"], again)
        self.first = record["first"]
        self._restore(tensors)
        self.rows = record["rows"]
        self.done = len(self.rows[0]) * self.batches
        return bool(record["ended"])

    @torch.no_grad()
    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        """What `_changing` gave, put back."""
        self.optimizer.state.clear()
        for kind, values in (("state", self.networks.state), ("memory", self.memory)):
            for k, v in values.items():
                v.copy_(tensors[f"{kind}.{k}"])
        for k, w in self.networks.weights.items():
            if f"momentum.{k}" in tensors:
                self.optimizer.state[w]["momentum_buffer"] = tensors[f"momentum.{k}"]
        for i, generator in enumerate(self.generators):
            generator.set_state(tensors[f"generator.{i}"].cpu())


def _numbers(tensors: Mapping[str, Tensor]) -> Tensor:
    """All floating numbers of some tensors in a row, as a copy."""
    rows = [x.detach().double().flatten() for x in tensors.values() if x.is_floating_point()]
    return torch.cat(rows) if rows else torch.zeros(1)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _another(path: Path, told: str) -> ValueError:
    return ValueError(
        f"{path} was saved by another run: {told}. Give this run another file, or remove that one "
        "(Checkpoint.remove)"
    )


def augment(images: Tensor, generator: torch.Generator, shift: int = 4) -> Tensor:
    """Each image moved by up to `shift` pixels (zeros come in) and flipped, at random."""
    count, _, height, width = images.shape
    draw = torch.randint(0, 2 * shift + 1, (2, count), generator=generator).to(images.device)
    chance = torch.rand(count, generator=generator, dtype=torch.float32)
    flip = chance.to(images.device) < 0.5
    padded = pad(images, [shift] * 4)  # (N, C, H + 2s, W + 2s)
    rows = draw[0][:, None] + torch.arange(height, device=images.device)  # (N, H)
    across = torch.arange(width, device=images.device).expand(count, -1)
    columns = draw[1][:, None] + torch.where(flip[:, None], across.flip(1), across)  # (N, W)
    index = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )
