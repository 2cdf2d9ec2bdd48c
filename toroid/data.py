"""Every data set as tensors: embedded, on disk, or downloaded.

The digits that come with scikit-learn need nothing. MNIST, Fashion-MNIST and CIFAR-10 are read
from the folder that ``TOROID_DATA`` names, or fetched there by torchvision when asked to
(``download=True``); any folder of ``train/<class>/*`` and ``test/<class>/*`` images is a data set
too. Data of ±1, for binary networks: the same images with a threshold, and three models of
patterns whose learning is understood, drawn anew from a fixed seed.
"""

from __future__ import annotations

import hashlib
import os
import struct
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from . import _torchvision
from ._files import DamagedError, read_tensors, write_tensors
from ._state import check_whole

__all__ = ["DATASETS", "Dataset", "load", "sha256"]

IMAGES = ("digits", "mnist", "fashion-mnist", "cifar10")
THRESHOLDED = {f"{name}-binary": name for name in ("digits", "mnist", "fashion-mnist")}
#: Drawn data sets, and the seeds that they are drawn from.
PATTERNS = {"random-patterns": 0, "teacher-student": 1, "hidden-manifold": 2}
DATASETS = (*IMAGES, *PATTERNS, *THRESHOLDED)
#: What Pillow raises of a broken file.
BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Dataset:
    """Images and labels, resident as two tensors.

    Attributes:
        images: (N, ...), floating, as the network takes them; augmentation needs (N, channels,
            height, width). Those of `load` are standardised with the training images' mean and
            standard deviation of each channel, or ±1; a pattern is (1, 1, inputs).
        labels: (N,), int64, from 0 to below `classes`.
        classes: Number of classes.
        name: What it is, e.g. ``"digits/train"``.

    Raises:
        ValueError: If images and labels differ in number, or labels are not as they must be.
    """

    images: Tensor
    labels: Tensor
    classes: int
    name: str = ""

    def __post_init__(self) -> None:
        for what, x in (("images", self.images), ("labels", self.labels)):
            if not isinstance(x, Tensor):
                raise ValueError(
                    f"{what} are a {type(x).__name__}; a Dataset takes tensors: torch.as_tensor(). "
                    "Several inputs come as a list of batches, see toroid.Task"
                )
        object.__setattr__(self, "classes", check_whole("classes", self.classes, 1))
        images, labels = (x.shape[:1] for x in (self.images, self.labels))
        if images != labels:
            raise ValueError(f"{images.numel()} images but {labels.numel()} labels")
        if self.labels.dtype != torch.int64 or self.labels.dim() != 1:
            raise ValueError(
                f"labels are {self.labels.dtype} of shape {tuple(self.labels.shape)}; they must be "
                "torch.int64 of shape (N,), the number of each image's class. Other targets come "
                "as a torch.utils.data.TensorDataset(inputs, targets), with task= to judge them, "
                "e.g. toroid.tasks.regression"
            )
        low, high = self.labels.aminmax() if len(self) else (0, 0)
        if low < 0 or high >= self.classes:
            raise ValueError(
                f"labels go from {int(low)} to {int(high)}; with {self.classes} classes they must "
                f"be 0 to {self.classes - 1}"
            )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return tuple(self.images.shape[1:])

    @cached_property
    def binary(self) -> bool:
        """Whether every number of the images is -1, 0 or 1."""
        return torch.equal(self.images.sign(), self.images)

    def to(self, device: torch.device | str) -> Dataset:
        """The same data on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def take(self, count: int) -> Dataset:
        """A subset with the same number of each class (as near as it goes), always the same one.

        Args:
            count: Number of images.

        Raises:
            ValueError: If there are not so many.
        """
        if not 0 < check_whole("count", count) <= len(self):
            raise ValueError(f"cannot take {count} of the {len(self)} images of {self.name}")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        labels = self.labels.cpu()[order]
        turn = torch.empty_like(labels)  # the how manieth of its class an image is
        for k in range(self.classes):
            turn[labels == k] = torch.arange(int((labels == k).sum()))
        chosen = order[turn.argsort(stable=True)[:count]].to(self.labels.device)
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])


def load(
    name: str = "digits",
    *,
    root: str | os.PathLike[str] | None = None,
    subset: int | None = None,
    download: bool = False,
) -> tuple[Dataset, Dataset]:
    """The training and the test part of a data set.

    Images are decoded once and kept as a safetensors file beside their source.

    Args:
        name: ``"digits"`` (scikit-learn's 1,797 images of 8x8, split 1,297 / 500), ``"mnist"``,
            ``"fashion-mnist"``, ``"cifar10"``, or the path of a folder of ``train/<class>/*`` and
            ``test/<class>/*``; ``"digits-binary"``, ``"mnist-binary"``, ``"fashion-mnist-binary"``,
            whose pixels are 1 above half of full brightness, else -1; ``"random-patterns"``,
            ``"teacher-student"``, ``"hidden-manifold"``, 10,000 and 2,000 patterns of 201 numbers
            ±1 in two classes: independent, with labels at random or by a committee of 5 binary
            units, or ``sign(W z)`` with 25 latent Gaussian numbers z, W Gaussian, and labels by a
            committee of 5 units on z (Goldt et al. 2020).
        root: Folder that holds the data sets; by default ``$TOROID_DATA``, else ``./data``.
        subset: Number of training images to keep, the same number of each class.
        download: Let torchvision fetch what is missing into `root`.

    Returns:
        Training and test data, standardised by the whole training part, or ±1.

    Raises:
        FileNotFoundError: If the data is not there; says how to get it.
        ValueError: If there is no such data set, or a file of it is damaged or of another kind;
            names the file.

    Example:
        >>> train, test = load("digits")
        >>> train.images.shape, len(test)
        (torch.Size([1297, 1, 8, 8]), 500)
    """
    if subset is not None:
        check_whole("subset", subset, 1)
    parts = _parts(name, root, download)
    title = Path(name).name
    train, test = (_dataset(*parts[split], f"{title}/{split}") for split in ("train", "test"))
    if name in THRESHOLDED:
        train, test = (replace(part, images=_two(part.images - 0.5)) for part in (train, test))
    elif name not in PATTERNS:
        train, test = _standardised(train, test)
    return train if subset is None else train.take(subset), test


def _standardised(train: Dataset, test: Dataset) -> tuple[Dataset, Dataset]:
    mean = train.images.mean((0, 2, 3), keepdim=True)
    deviation = train.images.std((0, 2, 3), keepdim=True).clamp_min(
        1e-6
    )  # a constant channel stays
    first, second = (
        replace(part, images=(part.images - mean) / deviation) for part in (train, test)
    )
    return first, second


def _two(x: Tensor) -> Tensor:
    """1 above 0, else -1."""
    return torch.where(x > 0, 1.0, -1.0).float()


Arrays = tuple[Tensor, Tensor]  # images (N, C, H, W) of bytes or floats, labels (N,)


def _parts(name: str, root: str | os.PathLike[str] | None, download: bool) -> dict[str, Arrays]:
    """The training and the test part as they are stored."""
    source = THRESHOLDED.get(name, name)
    if name in PATTERNS:
        return _patterns(name)
    if source == "digits":
        return _digits()
    if folder := class_folders(name, root):
        return _class_folders(folder)
    if source in IMAGES:
        return _known(source, _root(root), download)
    raise ValueError(
        f"no data set {name!r}: it is none of {', '.join(DATASETS)} and no folder of that name"
    )


def _root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder that holds the data sets."""
    return Path(root or os.environ.get("TOROID_DATA") or "data").expanduser()


def class_folders(name: str, root: str | os.PathLike[str] | None = None) -> Path | None:
    """The folder of a data set's images, if it comes as one: by its name, or as a path."""
    source = THRESHOLDED.get(name, name)
    if source in IMAGES:
        folder = _root(root) / source
        return folder if source != "digits" and (folder / "train").is_dir() else None
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else None


def sha256(name: str, root: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """What a data set is, whatever its files are called: a digest of each part.

    Args:
        name: As in `load`.
        root: As in `load`.

    Returns:
        SHA-256 of the bytes of images and labels as they are stored, before they are standardised,
        of ``"train"`` and ``"test"``.

    Raises:
        FileNotFoundError: As `load`.
        ValueError: As `load`.

    Example:
        >>> {part: digest[:8] for part, digest in sha256("digits").items()}
        {'train': 'cfa18bcc', 'test': 'ac01c7fb'}
    """
    digests = {}
    for part, tensors in _parts(name, root, download=False).items():
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(tensor.contiguous().numpy().tobytes())
        digests[part] = digest.hexdigest()
    return digests


def _dataset(images: Tensor, labels: Tensor, name: str) -> Dataset:
    scaled = images.float() / 255 if images.dtype == torch.uint8 else images
    return Dataset(scaled, labels.long(), int(labels.max()) + 1, name)


def _digits() -> dict[str, Arrays]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    split = train_test_split(
        digits.images, digits.target, test_size=500, stratify=digits.target, random_state=0
    )
    images, more_images, labels, more_labels = map(torch.from_numpy, split)
    parts = {"train": (images, labels), "test": (more_images, more_labels)}
    return {k: (x.float()[:, None] / 16, y) for k, (x, y) in parts.items()}


def _patterns(
    name: str, train: int = 10_000, test: int = 2_000, inputs: int = 201, latent: int = 25
) -> dict[str, Arrays]:
    """Patterns of ±1 and two classes, always the same; what is fixed is drawn before them."""
    generator = torch.Generator().manual_seed(PATTERNS[name])

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float32)

    if name == "hidden-manifold":
        features, teacher = draw(inputs, latent), draw(5, latent)
        z = draw(train + test, latent)
        x, votes = _two(z @ features.T), _two(z @ teacher.T)
    else:
        teacher = _two(draw(5, inputs))
        x = _two(draw(train + test, inputs))
        votes = _two(x @ teacher.T) if name == "teacher-student" else draw(train + test, 1)
    images, labels = x[:, None, None], (votes.sum(1) > 0).long()
    return {
        "train": (images[:train], labels[:train]), "test": (images[train:], labels[train:])
    }  # fmt: skip


def _known(name: str, folder: Path, download: bool) -> dict[str, Arrays]:
    """A named data set in torchvision's files."""
    datasets: Any = _torchvision.load().datasets
    maker = {
        "mnist": datasets.MNIST,
        "fashion-mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
    }[name]
    parts = {}
    for split in ("train", "test"):
        try:
            source = maker(str(folder), train=split == "train", download=download)
        except (RuntimeError, ValueError, AssertionError) as error:
            _check_files(name, folder, split)
            if download:
                raise
            raise FileNotFoundError(
                f"{name} is not in {folder.resolve()}. Set TOROID_DATA (or root) to the folder "
                "that holds it, or fetch it there once: python -c "
                f'"import toroid; toroid.data.load({name!r}, root={str(folder)!r}, download=True)"'
            ) from error
        images, labels = torch.as_tensor(np.asarray(source.data)), torch.as_tensor(source.targets)
        if len(labels) and int(labels.max()) > 9:
            raise ValueError(
                f"{name}/{split} in {folder.resolve()} has the label {int(labels.max())}; its "
                "labels are 0 to 9: the file is damaged. Remove it and fetch it again"
            )
        images = images[:, None] if images.dim() == 3 else images.permute(0, 3, 1, 2)
        parts[split] = (images, labels)
    return parts


def _check_files(name: str, folder: Path, split: str) -> None:
    """Of files that torchvision did not take: which is there, and is not what was published."""
    again = "it is damaged. Remove it and fetch it again"
    if name == "cifar10":
        if (found := folder / "cifar-10-batches-py").is_dir():
            raise ValueError(f"{found} lacks a file of CIFAR-10, or has another: {again}")
        return
    raw = folder / {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}[name] / "raw"
    for kind, magic, numbers in (("images-idx3", 2051, 4), ("labels-idx1", 2049, 2)):
        path = raw / f"{'train' if split == 'train' else 't10k'}-{kind}-ubyte"
        if not path.is_file():
            continue
        whole = _idx_size(path, magic, numbers)
        if not whole or path.stat().st_size != whole:
            told = f"{whole} that its head says" if whole else "many of an IDX file"
            raise ValueError(f"{path} has {path.stat().st_size} bytes, not the {told}: {again}")


def _idx_size(path: Path, magic: int, numbers: int) -> int:
    """The size that an IDX file's head tells; 0 if it has no such head."""
    with path.open("rb") as file:
        head = file.read(4 * numbers)
    told = struct.unpack(f">{numbers}I", head.ljust(4 * numbers, b"\0"))
    return 4 * numbers + prod(told[1:]) if told[0] == magic and len(head) == 4 * numbers else 0


def _class_folders(folder: Path) -> dict[str, Arrays]:
    """``folder/{train,test}/<class>/*``: decoded once, then read from a file beside them."""
    for split in ("train", "test"):
        if not (folder / split).is_dir():
            raise FileNotFoundError(
                f"{folder} has no folder {split!r}; it takes train/<class>/* and test/<class>/*"
            )
    names = [
        sorted(p.name for p in (folder / split).iterdir() if p.is_dir())
        for split in ("train", "test")
    ]
    if names[0] != names[1]:
        differ = sorted(set(names[0]) ^ set(names[1]))
        raise ValueError(
            f"only one of {folder}/train and {folder}/test has the classes {differ[:5]}"
        )
    return {split: _cached(folder, split, _decode) for split in ("train", "test")}


def _cached(folder: Path, split: str, decode: Callable[[Path], Arrays]) -> Arrays:
    """Images and labels from the file beside their folder, if it is whole and of these images."""
    cache, source = folder / f"{split}.safetensors", _fingerprint(folder / split)
    with suppress(FileNotFoundError, DamagedError):
        tensors, record = read_tensors(cache)
        if record["source"] == source:
            return tensors["images"], tensors["labels"]
    images, labels = decode(folder / split)
    try:
        write_tensors(cache, {"images": images, "labels": labels}, {"source": source})
    except OSError as error:
        warnings.warn(f"the decoded images cannot be kept in {folder}: {error}", stacklevel=4)
    return images, labels


def _fingerprint(folder: Path) -> str:
    """Changes when a file below `folder` is added, removed or written.

    A copy may have the time of writing of another file, but not its time of change.
    """
    digest = hashlib.sha256()
    below = os.walk(folder, followlinks=True)  # as deep as ImageFolder looks
    for path in sorted(Path(place, name) for place, _, names in below for name in names):
        stat = path.stat()
        times = f"{stat.st_mtime_ns} {stat.st_ctime_ns}"
        digest.update(f"{path.relative_to(folder)} {stat.st_size} {times}\n".encode())
    return digest.hexdigest()


def _decode(folder: Path) -> Arrays:
    source = _torchvision.load().datasets.ImageFolder(str(folder), loader=_read)
    images, labels = [], []
    for image, label in tqdm(source, desc=f"decoding {folder}", leave=False):
        images.append(np.asarray(image))
        labels.append(label)
    kinds = {(image.shape, str(image.dtype)) for image in images}
    if len(kinds) != 1:
        raise ValueError(f"the images in {folder} differ in size or depth: {sorted(kinds)[:4]}")
    stacked = torch.from_numpy(np.stack(images))
    channels_first = stacked[:, None] if stacked.dim() == 3 else stacked.permute(0, 3, 1, 2)
    return channels_first.contiguous(), torch.tensor(labels)


def _read(path: str) -> Image.Image | NDArray[Any]:
    """An image in grey if it is stored in grey, else in colour; one of 16 bits as its own kind."""
    try:
        with Image.open(path) as image:
            if image.mode == "F":
                raise ValueError("its numbers are floating; save it with 8 or 16 bits")
            if image.mode.startswith("I"):
                return _deep(np.asarray(image))
            return image.convert("L" if image.mode in ("1", "L") else "RGB")
    except BROKEN as error:
        raise ValueError(
            f"{path} cannot be read as an image: {error}. Replace it, or take it out of the folder"
        ) from error


def _deep(pixels: NDArray[Any]) -> NDArray[Any]:
    """Grey levels of 16 bits as numbers from 0 to 1, which 8 bits do not hold."""
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("its numbers are not of 16 bits; save it with 8 or 16 bits")
    return (pixels / 65535).astype(np.float32)
