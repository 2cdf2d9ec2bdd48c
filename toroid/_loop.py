"""What the algorithms of training share: settings, networks side by side, epochs, checkpoints."""

from __future__ import annotations

import glob
import json
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy, pad
from tqdm.auto import tqdm

from ._checks import check_choice, check_whole
from ._graph import structure
from .data import Dataset
from .landscape import PRECISIONS

#: Factor on the learning rate as a function of the fraction of the training that is done.
SCHEDULES = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "steps": lambda done: 0.2 ** ((done >= 1 / 2) + (done >= 3 / 4)),  # epochs 150 and 225 of 300
}


@dataclass(frozen=True)
class Settings:
    """What every algorithm takes, by name; the result depends on all of it.

    The defaults are those of the paper's authors (their code for arXiv 2006.07897), but for the
    schedule, which is theirs with ``"steps"``.

    Args:
        epochs: Passes over the data, an integer; 0 returns the start.
        batch_size: Images in a step, at most all of them; an epoch leaves out the remainder
            (another one each time).
        lr: Learning rate at the start, after the warm-up; positive.
        momentum: In [0, 1).
        nesterov: Nesterov's momentum (ignored without momentum).
        weight_decay: Times the weights, added to the gradient; not negative.
        schedule: ``"cosine"`` to 0, ``"steps"`` (divided by 5 at 1/2 and 3/4 of the epochs),
            ``"constant"``.
        warmup: Epochs over which a factor on the learning rate rises linearly to 1, an integer: a
            network without BatchNorm that starts at a high rate may never leave chance.
        augment: Shift by up to 4 pixels (an eighth of a CIFAR image) and flip left and right;
            takes images (N, channels, height, width).
        precision: ``"float32"``: that of the weights; ``"bfloat16"``: layers compute in it (by
            autocast, convolutions channels last), weights and updates stay as they are.

    Raises:
        ValueError: If a value is none of those; says which there are.
    """

    epochs: int
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup: int = 0
    augment: bool = False
    precision: str = "float32"

    def __post_init__(self) -> None:
        check_choice("schedule", self.schedule, tuple(SCHEDULES))
        check_choice("precision", self.precision, tuple(PRECISIONS))
        for name, least in (("epochs", 0), ("batch_size", 1), ("warmup", 0)):
            object.__setattr__(self, name, check_whole(name, getattr(self, name), least))
        for name, valid, what in (
            ("lr", 0 < self.lr < math.inf, "positive"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or positive"),
        ):
            if not valid:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {what}")

    @classmethod
    def of(cls, **settings: Any) -> Settings:
        """Those of a caller's keyword arguments.

        Raises:
            TypeError: If there is no such setting, or ``epochs`` is missing; names the valid ones.
            ValueError: As `Settings`.
        """
        valid = [f.name for f in fields(cls)]
        if unknown := [name for name in settings if name not in valid]:
            raise TypeError(f"no setting {', '.join(unknown)}; there are {', '.join(valid)}")
        if "epochs" not in settings:
            raise TypeError("the setting epochs is missing: how many passes over the data")
        return cls(**settings)

    def optimizer(self, weights: Sequence[Tensor]) -> torch.optim.SGD:
        """Steps down a gradient."""
        return torch.optim.SGD(
            weights, self.lr, self.momentum, weight_decay=self.weight_decay,
            nesterov=self.nesterov and self.momentum > 0,
        )  # fmt: skip


class Checkpoint:
    """A file that a training is cut off and goes on from, with the same final bits.

    It holds all that changes from epoch to epoch, is replaced as a whole after each, and is not a
    pickle. A training with other settings or shapes does not go on from it: that is a ValueError.

    Args:
        path: A safetensors file; it need not exist.

    Example:
        >>> import tempfile, torch, toroid
        >>> from toroid.training import Checkpoint, sgd
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(8,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoint = Checkpoint(f"{folder}/run.safetensors")
        ...     options = {"generator": torch.Generator(), "checkpoint": checkpoint}
        ...     trained = sgd(model, train, epochs=2, **options)
        ...     again = sgd(model, train, epochs=2, **options)  # nothing is left to do
        >>> bool((trained.state["1.weight"] == again.state["1.weight"]).all())
        True
    """

    def __init__(self, path: str | os.PathLike) -> None:
        """Name the file."""
        self.path = Path(path)

    def part(self, name: str) -> Checkpoint:
        """That of one part of a training."""
        return Checkpoint(self.path.with_suffix(f".{name}{self._ending}"))

    @property
    def _ending(self) -> str:
        return self.path.suffix or ".safetensors"

    def remove(self) -> None:
        """Delete the file, those of parts, and what was only half written; nothing else."""
        stem = glob.escape(self.path.stem)
        for pattern in (f"{stem}.*{glob.escape(self._ending)}", f"{stem}.*-[0-9]*.part"):
            for path in self.path.parent.glob(pattern):
                path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def save(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Replace what is there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(f".{platform.node()}-{os.getpid()}.part")
        flat = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        save_file(flat, part, {"record": json.dumps(record, default=float)})
        part.replace(self.path)

    def load(self, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved; None if nothing was, or the file cannot be read."""
        try:
            with safe_open(self.path, "pt") as file:
                tensors = {k: file.get_tensor(k).to(device) for k in file.keys()}  # noqa: SIM118
                return tensors, json.loads(file.metadata()["record"])
        except (FileNotFoundError, SafetensorError):
            return None


class Networks:
    """Networks of one shape that are trained together: each its own weights and buffers.

    On a GPU they run as one (`vmap` over stacked tensors), elsewhere one after the other, which
    there is faster (benchmarks/training.py). The results are the same within rounding.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        device: torch.device,
        precision: str = "float32",
        stacked: bool | None = None,
    ) -> None:
        self.type = PRECISIONS[precision]
        states = [m.state_dict() for m in models]
        self.state = {
            k: self._place(torch.stack([s[k].detach().to(device) for s in states]))
            for k in states[0]
        }  # each (networks, ...)
        free = [k for k, p in models[0].named_parameters() if p.requires_grad]
        self.weights = {k: self.state[k].requires_grad_() for k in free}
        self.buffers = {k: v for k, v in self.state.items() if k not in self.weights}
        self.module = structure(models[0]).train()
        self.stacked = device.type == "cuda" and len(models) > 1 if stacked is None else stacked

    def _place(self, tensor: Tensor) -> Tensor:
        """Channels innermost where they are to be so; values and shape as they were."""
        if self.type is None or tensor.dim() != 5:  # (networks, ...) of images or of kernels
            return tensor
        return tensor.movedim(2, -1).contiguous().movedim(-1, 2)

    def outputs(self, images: Tensor, state: dict[str, Tensor] | None = None) -> Tensor:
        """(networks, batch, classes) of images (networks, batch, ...); their state or another."""
        state = self.state if state is None else state

        def one(single: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self.module, single, (x,))

        images = self._place(images)
        with torch.autocast(images.device.type, self.type, enabled=self.type is not None):
            if self.stacked:
                outputs = vmap(one, randomness="different")(state, images)
            else:
                rows = zip(*(v.unbind(0) for v in state.values()), strict=True)
                states = (dict(zip(state, row, strict=True)) for row in rows)
                outputs = torch.stack([one(s, x) for s, x in zip(states, images, strict=True)])
        return outputs if self.type is None else outputs.float()

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of each network, and how many it gets wrong."""
        return losses(self.outputs(images), labels)

    def single(self, index: int = 0) -> dict[str, Tensor]:
        """The state of one network."""
        return {k: v[index].detach().contiguous() for k, v in self.state.items()}


def losses(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of outputs (networks, batch, classes): mean loss of each network, and how many are wrong."""
    each = cross_entropy(outputs.flatten(0, 1), labels.flatten(), reduction="none")
    wrong = (outputs.detach().argmax(2) != labels).sum(1)
    return each.view(labels.shape).mean(1), wrong


@dataclass
class Loop:
    """Epochs over the data, each network in its own order.

    What an algorithm adds: a `step`, an `after` that ends each epoch (and the loop, by None), a
    `memory` of what it changes in place from epoch to epoch, and its `own` settings, as JSON can
    hold them: with the shared ones they say whether a checkpoint is of the same run.
    """

    networks: Networks
    train: Dataset
    generators: Sequence[torch.Generator]
    settings: Settings
    progress: bool = False
    checkpoint: Checkpoint | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weights = list(self.networks.weights.values())
        self.optimizer = self.settings.optimizer(weights)
        if self.settings.augment and self.train.images.dim() != 4:
            raise ValueError(
                "augment shifts and flips images (N, channels, height, width); these have shape "
                f"{tuple(self.train.images.shape)}: train with augment=False"
            )
        if self.train.images.is_floating_point():  # once, in the precision of the weights
            self.train = replace(self.train, images=self.train.images.to(weights[0].dtype))
        self.size = min(self.settings.batch_size, len(self.train))
        self.batches = len(self.train) // self.size
        self.rows: list[list[dict]] = [[] for _ in self.generators]
        self.done = 0  # steps

    def down(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """A step down the gradient; the networks do not see each other."""
        losses, wrong = self.networks.losses(images, labels)
        self.optimizer.zero_grad()
        losses.sum().backward()
        self.optimizer.step()
        return losses, wrong

    def run(
        self,
        step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
        after: Callable[[int], dict[str, float] | None] = lambda epoch: {},
        rate: Callable[[float], float] | None = None,
    ) -> list[pd.DataFrame]:
        """All epochs that are left; the history of each network."""
        ended = self._resume()
        rate = self._warmed(rate or SCHEDULES[self.settings.schedule])
        ahead = range(len(self.rows[0]), 0 if ended else self.settings.epochs)
        for epoch in tqdm(ahead, disable=not self.progress, leave=False):
            lr = self.settings.lr * rate(self._fraction())
            loss, wrong = self._epoch(step or self.down, rate)
            self._check(loss, epoch)
            more = after(epoch)
            for rows, mean, error in zip(self.rows, loss.tolist(), wrong.tolist(), strict=True):
                rows.append(
                    {"epoch": epoch, "lr": lr, "loss": mean, "error": error, **(more or {})}
                )
            if self.checkpoint:
                record = {"rows": self.rows, "ended": more is None, "run": self._run()}
                self.checkpoint.save(self._changing(), record)
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

    def _epoch(self, step: Callable, rate: Callable[[float], float]) -> tuple[Tensor, Tensor]:
        """Mean loss and error of each network, while it moves."""
        loss, wrong = torch.zeros(2, len(self.generators), device=self.train.images.device)
        for images, labels in self._minibatches():
            self.optimizer.param_groups[0]["lr"] = self.settings.lr * rate(self._fraction())
            losses, errors = step(images, labels)
            self.done += 1
            loss += losses.detach() / self.batches
            wrong += errors / (self.batches * self.size)
        return loss, wrong

    def _minibatches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (networks, batch, ...) and labels; the remainder is left out."""
        orders = torch.stack(
            [torch.randperm(len(self.train), generator=g) for g in self.generators]
        )
        orders = orders[:, : self.batches * self.size].to(self.train.images.device)
        for batch in orders.split(self.size, 1):
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
        return {**vars(self.settings), "images": len(self.train), **self.own}

    def _check_saved(self, path: Path, tensors: Mapping[str, Tensor], record: Mapping) -> None:
        """A checkpoint is of this run: by the settings that both know, and by shapes."""
        saved, now = (
            {**settings, **{k: list(v.shape) for k, v in found.items()}}
            for settings, found in (
                (record.get("run", {}), tensors), (self._run(), self._changing())
            )
        )  # fmt: skip
        shared = saved.keys() & now.keys()
        networks = {k for k in saved.keys() | now.keys() if k.startswith(("state.", "memory."))}
        differ = sorted(k for k in shared | networks if saved.get(k) != now.get(k))
        if differ:
            told = "; ".join(f"{k} {saved.get(k)}, now {now.get(k)}" for k in differ[:5])
            raise ValueError(
                f"{path} was saved by another run: {told}. Give this run another file, or remove "
                "that one (Checkpoint.remove)"
            )

    @torch.no_grad()
    def _resume(self) -> bool:
        """Put back what was saved, if anything was; whether that was the end."""
        saved = self.checkpoint and self.checkpoint.load(self.train.images.device)
        if not (self.checkpoint and saved):
            return False
        tensors, record = saved
        self._check_saved(self.checkpoint.path, tensors, record)
        for kind, values in (("state", self.networks.state), ("memory", self.memory)):
            for k, v in values.items():
                v.copy_(tensors[f"{kind}.{k}"])
        for k, w in self.networks.weights.items():
            if f"momentum.{k}" in tensors:
                self.optimizer.state[w]["momentum_buffer"] = tensors[f"momentum.{k}"]
        for i, generator in enumerate(self.generators):
            generator.set_state(tensors[f"generator.{i}"].cpu())
        self.rows = record["rows"]
        self.done = len(self.rows[0]) * self.batches
        return record["ended"]


def augment(images: Tensor, generator: torch.Generator, shift: int = 4) -> Tensor:
    """Each image moved by up to `shift` pixels (zeros come in) and flipped, at random."""
    count, _, height, width = images.shape
    draw = torch.randint(0, 2 * shift + 1, (2, count), generator=generator).to(images.device)
    flip = torch.rand(count, generator=generator).to(images.device) < 0.5
    padded = pad(images, [shift] * 4)  # (N, C, H + 2s, W + 2s)
    rows = draw[0][:, None] + torch.arange(height, device=images.device)  # (N, H)
    across = torch.arange(width, device=images.device).expand(count, -1)
    columns = draw[1][:, None] + torch.where(flip[:, None], across.flip(1), across)  # (N, W)
    index = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )
