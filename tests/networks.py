"""Networks that are awkward in one way each, and random states for them."""

from __future__ import annotations

from functools import cache

import torch
import toroid
from torch import Tensor, nn


class Residual(nn.Module):
    """A residual stream without BatchNorm: what writes to it also reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(12, 7)
        self.read, self.write = nn.Linear(7, 5), nn.Linear(5, 7)
        self.end = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x.flatten(1)).relu()
        x = (x + self.write(self.read(x).relu())).relu()
        return self.end(x)


class ClassStream(nn.Module):
    """A residual stream whose units are the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.read, self.write = nn.Linear(12, 3), nn.Linear(3, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x.flatten(1))
        return x + self.write(self.read(x).relu())


class Branches(nn.Module):
    """Two branches that are concatenated, cut again at another place, and read apart."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.first, self.second = nn.Conv2d(7, 5, 1), nn.Conv2d(3, 5, 1)
        self.end = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), self.right(x)], 1).relu()
        a, b = x.split([7, 3], 1)
        return self.end((self.first(a) + self.second(b)).relu().mean((2, 3)))


class Shuffle(nn.Module):
    """Channels in interleaved order, as in ShuffleNet."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.c, self.d = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.a(x), self.b(x)], 1).relu()
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        first, second = x.chunk(2, 1)
        return (self.c(first) + self.d(second)).flatten(2).mean(2)


class ChannelsLast(nn.Module):
    """A flatten that puts the channels last: a unit's columns are not next to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.end = nn.Conv2d(3, 5, 1), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.conv(x).relu().permute(0, 2, 3, 1).flatten(1))


class Half(nn.Module):
    """Half of the units are rectified, the others are not homogeneous: they cannot be exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.end = nn.Linear(12, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x.flatten(1))
        return self.end(torch.cat([x[:, :3].relu(), torch.nn.functional.gelu(x[:, 3:])], 1))


class Reused(nn.Module):
    """One layer, used twice: its rows and its columns are the same units."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.middle, self.end = nn.Linear(12, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x.flatten(1)).relu()
        return self.end(self.middle(self.middle(x).relu()).relu())


class Inplace(nn.Module):
    """Operations that write into their input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.end = (
            nn.Conv2d(3, 4, 1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 1),
            nn.Linear(4, 3),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.a(x)))
        y = self.b(x)
        y += x
        return self.end(self.relu(y).mean((2, 3)))


def _small() -> dict[str, nn.Module]:
    """Takes 3x2x2 images, gives 3 classes."""
    flat = nn.Flatten()
    return {
        "leaky": nn.Sequential(flat, nn.Linear(12, 6), nn.LeakyReLU(), nn.Linear(6, 5, bias=False), nn.PReLU(5), nn.Linear(5, 3)),
        "gelu": nn.Sequential(flat, nn.Linear(12, 6), nn.GELU(), nn.Linear(6, 3)),
        "tanh": nn.Sequential(flat, nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)),
        "norm1d": nn.Sequential(flat, nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3)),
        "plain norm": nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5, affine=False), nn.ReLU(), flat, nn.Linear(20, 3)),
        "conv1d": nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 5, 2), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(5, 3)),
        "width 1": nn.Sequential(flat, nn.Linear(12, 1), nn.ReLU(), nn.Linear(1, 3)),
        "no hidden": nn.Sequential(flat, nn.Linear(12, 3)),
        "softmax": nn.Sequential(flat, nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3), nn.Sigmoid()),
        "residual": Residual(),
        "class stream": ClassStream(), "branches": Branches(), "shuffle": Shuffle(), "channels last": ChannelsLast(),
        "half": Half(), "reused": Reused(), "inplace": Inplace(),
    }  # fmt: skip


SMALL = tuple(_small())
BOOK = tuple(toroid.models.ARCHITECTURES)
ALL = SMALL + BOOK


@cache
def network(name: str) -> tuple[nn.Module, Tensor, toroid.Symmetry]:
    """A network, an example in float64, and its symmetry."""
    generator = torch.Generator().manual_seed(0)
    if name in SMALL:
        model, shape = _small()[name], (3, 2, 2)
    else:
        model, shape = toroid.models.build(name, (1, 8, 8), classes=5, width=0.08), (1, 8, 8)
    example = torch.randn(6, *shape, generator=generator, dtype=torch.float64)
    return model, example, toroid.find_symmetries(model, example[:2].float())


def random_state(model: nn.Module, seed: int, dead: bool = False) -> dict[str, Tensor]:
    """Random weights, biases and BatchNorm statistics, γ of both signs; some dead units if asked."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            fan_in = tensor[0].numel() if tensor.dim() > 1 else 1
            tensor = (
                torch.randn(tensor.shape, generator=generator, dtype=torch.float64) / fan_in**0.5
            )
            tensor = tensor.abs() + 0.05 if name.endswith("running_var") else tensor
            if dead and tensor.dim() > 0 and len(tensor) > 2 and not name.endswith("running_var"):
                tensor[int(torch.randint(len(tensor), (), generator=generator))] = 0
        state[name] = tensor
    return state


def random_element(symmetry: toroid.Symmetry, seed: int, spread: float = 1.0) -> tuple[dict, dict]:
    """A permutation of each group and factors for each scale."""
    generator = torch.Generator().manual_seed(seed)
    permutations = {g.name: torch.randperm(g.size, generator=generator) for g in symmetry.groups}
    factors = {
        s.name: (
            spread * torch.randn(len(s.axes[0].index), generator=generator, dtype=torch.float64)
        ).exp()
        for s in symmetry.scales
    }
    return permutations, factors


def gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference between two states."""
    return max(float((a[k] - b[k]).abs().max()) for k in a)
