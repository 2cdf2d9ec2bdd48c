"""Data as a task sees them: batch after batch, as often as they are needed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from ._random import Drawing, lent, seed
from .data import Dataset
from .tasks import Task

Data = Any  # a Dataset, a DataLoader, a list of batches: see `check_data`


class Batch(NamedTuple):
    """What a network takes, what it is judged by, and how many examples these are."""

    arguments: tuple[Any, ...]
    named: dict[str, Any]
    targets: Any
    examples: int


class Batches:
    """The batches of some data; two walks see the same ones, or it is an error.

    A `Dataset` is cut into parts of nearly equal size (BatchNorm's statistics weigh them alike);
    anything else comes in the batches that it gives, without those of no example. What a loader
    draws from torch's generator (its order, augmentation) is drawn from the same seed at every
    walk.
    """

    def __init__(self, data: Data, task: Task, size: int, model: nn.Module) -> None:
        """Data as the caller gave them; `size` is that of the batches they do not come in."""
        self.data, self.task, self.size = _checked(data, size), task, size
        self.parameters = inspect.signature(model.forward).parameters
        self.seen: list[float] | None = None  # one number for each batch of the first walk

    def __iter__(self) -> Iterator[Batch]:
        """Each batch, taken apart."""
        if isinstance(self.data, Dataset):
            parts = -(-len(self.data) // self.size)
            pairs = (self.data.images.tensor_split(parts), self.data.labels.tensor_split(parts))
            yield from map(self.taken, zip(*pairs, strict=True))
            return
        seen: list[float] = []
        for whole in _seeded(self.data, 0):
            batch = self.taken(whole)
            if not batch.examples:
                continue
            seen.append(_fingerprint(batch))
            if self.seen is not None and self.seen[: len(seen)] != seen:
                break
            yield batch
        if self.seen is not None and self.seen != seen:
            raise ValueError(
                f"the data (a {type(self.data).__name__}) gave other batches than before, "
                f"{len(seen)} of them and not {len(self.seen)} or with other numbers: two states "
                "can be compared on the same batches only. Pass list(data), or a loader without "
                "shuffling and augmentation"
            )
        self.seen = seen
        if not seen:
            raise ValueError(
                f"the data (a {type(self.data).__name__}) gave no batch of examples; are they "
                "empty?"
            )

    def taken(self, whole: Any) -> Batch:
        """A batch as the task takes it apart."""
        inputs, targets = self.task.split(whole)
        arguments, named = self._arguments(inputs)
        return Batch(arguments, named, targets, _count(targets, inputs))

    def _arguments(self, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """By place and by name: a dict is named arguments where `forward` knows the names."""
        if isinstance(inputs, tuple):
            return inputs, {}
        if isinstance(inputs, Mapping) and inputs and self._takes(inputs):
            return (), dict(inputs)
        return (inputs,), {}

    def _takes(self, names: Mapping[str, Any]) -> bool:
        kinds = {p.kind for p in self.parameters.values()}
        return inspect.Parameter.VAR_KEYWORD in kinds or names.keys() <= self.parameters.keys()


class Shuffled:
    """The batches of some data, each epoch in another order; what trainings walk.

    A torch data set of single examples is cut into batches of `size`, the remainder left out, and
    a list's batches are put in another order; a loader shuffles as it was told to, from a seed.
    """

    def __init__(self, data: Data, size: int) -> None:
        """Data as the caller gave them, which are no `Dataset`."""
        check_data(data)
        if isinstance(data, TorchDataset):
            order = not isinstance(data, IterableDataset)
            size = min(size, len(data)) if order else size  # type: ignore[arg-type]
            data = DataLoader(data, batch_size=size, shuffle=order, drop_last=order)
        self.data = data
        try:
            self.count = len(data)
        except TypeError:
            self.count = sum(1 for _ in _seeded(data, 0))
        if not self.count:
            raise ValueError(f"the data (a {type(data).__name__}) gave no batch; are they empty?")

    def walks(self, generators: Sequence[torch.Generator]) -> Iterator[tuple[Any, ...]]:
        """One batch for each generator, which draws its order, until the epoch ends."""
        own = _generators(self.data)
        before = [g.get_state() for g in own]
        try:
            yield from zip(*map(self._walk, generators), strict=True)
        finally:
            for g, kept in zip(own, before, strict=True):
                g.set_state(kept)

    def _walk(self, generator: torch.Generator) -> Iterator[Any]:
        if isinstance(self.data, Sequence):
            order = torch.randperm(len(self.data), generator=generator).tolist()
            return iter([self.data[i] for i in order])
        return _seeded(self.data, seed(generator))


def beside(x: Any, device: torch.device) -> Any:
    """A target where the outputs are; no gradient goes into it."""
    if not isinstance(x, Tensor):
        return x
    return x.detach().to(device, non_blocking=device.type == "cuda")


def _count(targets: Any, inputs: Any) -> int:
    """How many examples: the length of the targets, or of the inputs if those have none.

    A list of targets may have one for each example: dicts, or tensors of any length.
    """
    own, given = (_first_length(x) for x in (targets, inputs))
    listed = isinstance(targets, list) and len(targets) > 0 and own != given
    if listed and (len(targets) == given or all(isinstance(x, Mapping) for x in targets)):
        return len(targets)
    found = given if own is None else own
    if found is None:
        raise ValueError(
            f"a batch holds no tensor of examples: targets are a {type(targets).__name__}, inputs "
            f"a {type(inputs).__name__}. Batches are of tensors: torch.as_tensor()"
        )
    return found


def _first_length(x: Any) -> int | None:
    """Of the first tensor that has one."""
    lengths = (len(leaf) for leaf in tree_leaves(x) if isinstance(leaf, Tensor) and leaf.dim())
    return next(lengths, None)


def _fingerprint(batch: Batch) -> float:
    """A number that other examples, or the same in another order, do not have."""
    total = 0.0
    for x in tree_leaves(batch[:3]):
        if isinstance(x, Tensor) and x.numel():
            real = torch.view_as_real(x) if x.is_complex() else x
            kind = torch.float64 if real.is_floating_point() else torch.int64
            total = 3.1 * total + float(real.flatten()[0]) + 1.7 * float(real.sum(dtype=kind))
    return total


def _generators(data: Data) -> list[torch.Generator]:
    """Those that a loader was given for itself."""
    found = (getattr(x, "generator", None) for x in (data, getattr(data, "sampler", None)))
    return [g for g in found if isinstance(g, torch.Generator)]


def _seeded(data: Data, start: int) -> Iterator[Any]:
    """Walk a loader as if torch's generator had just been seeded; the caller's is not moved.

    Nor is it read, whatever other threads draw. With workers one thread waits for the other.
    """
    if not isinstance(data, DataLoader):
        yield from data
        return
    own = _generators(data)
    before = [g.get_state() for g in own]
    drawing, walk, end = torch.Generator().manual_seed(start), None, object()
    # workers are copies of this process, and must not draw from one generator all of them
    seeded = lent if data.num_workers else Drawing
    try:
        for g in own:
            g.manual_seed(start)
        while True:
            # what a data set keeps of this must be of use in a training later
            with seeded(drawing), torch.inference_mode(False):
                walk = iter(data) if walk is None else walk
                batch = next(walk, end)
            if batch is end:
                return
            yield batch
    finally:
        for g, kept in zip(own, before, strict=True):
            g.set_state(kept)


def _checked(data: Data, size: int) -> Data:
    """Data that can be walked as often as needed; a torch data set of single examples is cut."""
    check_data(data)
    if isinstance(data, TorchDataset):
        return DataLoader(data, batch_size=size)
    return data


def check_data(data: Data) -> None:
    """A `Dataset` that is not empty, or what can be walked again and again and yields batches."""
    if isinstance(data, Dataset):
        if not len(data):
            raise ValueError(f"the data set {data.name!r} is empty")
    elif isinstance(data, Iterator):
        raise ValueError(
            f"data are a {type(data).__name__}, which can be walked once only; every state is "
            "evaluated on all of them: pass list(data), or what it was made from"
        )
    elif isinstance(data, (Tensor, np.ndarray, str, Mapping, tuple, nn.Module)) or not (
        hasattr(data, "__iter__") or hasattr(data, "__getitem__")
    ):
        raise ValueError(
            f"data are a {type(data).__name__}; they take a toroid.data.Dataset(images, labels, "
            "classes) of tensors, a torch.utils.data.DataLoader, or a list of batches, e.g. "
            "[(inputs, targets)]"
        )
