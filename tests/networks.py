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


class Squeeze(nn.Module):
    """A gate for each channel, made from all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)
        self.end = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        gate = self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.end((x * gate).mean((2, 3)))


class Attention(nn.Module):
    """Tokens, positions, a class token and two heads of width 3 in a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(3, 6), nn.LayerNorm(6)
        self.position, self.token = (
            nn.Parameter(torch.zeros(1, 5, 6)),
            nn.Parameter(torch.zeros(1, 1, 6)),
        )
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.up, self.down, self.end = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 3)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(2).transpose(1, 2))
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0] * self.scale
        x = x + self.down(nn.functional.gelu(self.up(x)))
        return self.end(x[:, 0])


class Gated(nn.Module):
    """A gate that cannot flip, and what it gates, which can."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.value, self.end = nn.Linear(12, 6), nn.Linear(12, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.end(nn.functional.silu(self.gate(x)) * self.value(x))


class Sign(nn.Module):
    """Binary units."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sign()


class Biased(nn.Module):
    """Attention with a learned bias for each head, and positions that a layer makes of constants."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place, self.qkv = nn.Linear(3, 6), nn.Linear(2, 6), nn.Linear(6, 18)
        self.table, self.join, self.end = nn.Parameter(torch.zeros(7, 2)), nn.Linear(6, 6), nn.Linear(6, 3)  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        here = torch.linspace(0, 1, 4).to(x)
        x = self.embed(x.flatten(2).transpose(1, 2)) + self.place(torch.stack([here, here**2], 1))
        q, k, v = self.qkv(x).view(len(x), 4, 3, 2, 3).permute(2, 0, 3, 1, 4)
        steps = torch.arange(4)[:, None] - torch.arange(4) + 3
        bias = self.table[steps].permute(2, 0, 1)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.end(self.join(y.transpose(1, 2).flatten(2)).relu().mean(1))


class Gained(nn.Module):
    """A number multiplies some units and not the others: they cannot be exchanged with them."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.end = nn.Linear(12, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x.flatten(1)).relu()
        return self.end(torch.cat([2 * x[:, :3], x[:, 3:]], 1))


class TwoRoles(nn.Module):
    """One vector is a bias here and a slope there."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (
            nn.Linear(12, 6),
            nn.Linear(6, 3),
            nn.Linear(12, 6),
            nn.Linear(6, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.b(nn.functional.prelu(self.a(x), self.c.bias)) + self.d(self.c(x).relu())


class ShiftOnly(nn.Module):
    """A BatchNorm with β and without γ."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(12, 6), nn.Linear(6, 3), nn.BatchNorm1d(6)
        self.norm.weight = None

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        x = nn.functional.batch_norm(
            self.a(x.flatten(1)), norm.running_mean, norm.running_var, None, norm.bias
        )
        return self.b(x.relu())


class Positions(nn.Module):
    """What is added at each place is made from constants: the coordinates are units too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(4, 2))  # (places, coordinates)
        self.made = nn.Sequential(nn.Linear(2, 5), nn.LeakyReLU(), nn.Linear(5, 3))
        self.end = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.end((x.flatten(2).mT + self.made(self.table)).flatten(1))


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
        "squeeze": Squeeze(), "attention": Attention(), "biased": Biased(), "gated": Gated(), "gained": Gained(), "two roles": TwoRoles(), "shift": ShiftOnly(), "positions": Positions(),
        "depthwise": nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1, groups=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1, groups=8), nn.ReLU(), flat, nn.Linear(32, 3)),
        "grouped": nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1, groups=2), nn.ReLU(), flat, nn.Linear(16, 3)),
        "groupnorm": nn.Sequential(nn.Conv2d(3, 6, 1), nn.GroupNorm(2, 6), nn.ReLU(), flat, nn.Linear(24, 3)),
        "transposed": nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), flat, nn.Linear(5, 3)),
        "sign": nn.Sequential(flat, nn.Linear(12, 6), Sign(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)),
        "odd": nn.Sequential(nn.Conv2d(3, 4, 1), nn.Tanh(), nn.Conv2d(4, 5, 1), nn.AvgPool2d(2), flat, nn.Linear(5, 4), nn.Hardtanh(), nn.Linear(4, 4), nn.MaxPool1d(1), nn.Linear(4, 3)),
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
        shape, classes = (1, 8, 8), 2 if name == "binary_committee" else 5
        model = toroid.models.build(name, shape, classes, width=0.08)
    example = torch.randn(6, *shape, generator=generator, dtype=torch.float64)
    return model, example, toroid.find_symmetries(model, example[:2].float())


class Apply(nn.Module):
    """A function of modules and tensors: ``function(self, *inputs)``."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if type(part) is torch.Tensor:
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *x):
        return self.function(self, *x)


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


def random_signs(symmetry: toroid.Symmetry, seed: int) -> dict:
    """A sign for each unit that can flip."""
    generator = torch.Generator().manual_seed(seed)
    return {
        g.name: torch.randint(2, (g.size,), generator=generator) * 2 - 1
        for g in symmetry.groups
        if g.flip
    }


def gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference between two states, relative to numbers above 1."""
    return max(float(((a[k] - b[k]).abs() / a[k].abs().clamp_min(1)).max()) for k in a)
