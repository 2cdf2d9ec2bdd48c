"""The paper's architectures, each with a width factor, for images of 1 or 3 channels.

Sizes and layouts follow the sources; what had to be chosen for small images is said in each
docstring. Fresh weights are PyTorch's defaults, drawn from torch's global generator; those of
`vgg16` without BatchNorm are Kaiming's, since the defaults let the signal die in so deep a network.

Networks with binary weights and activations hold real numbers, and are the network of their signs:
``sign(W) x / sqrt(fan-in)`` in each layer, the last one too, without biases. Training sees the
identity in place of a weight's sign, and the hard tanh in place of an activation's, in the gradient
only (straight-through, Hubara et al. 2016). Weights are never 0 at the start; a unit whose sum is 0
puts out 0, so that a flipped unit is its exact negative. Hidden layers have an odd size: the sum of
an odd number of ±1 is never 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import hardtanh, linear

__all__ = [
    "ARCHITECTURES", "binary_cnn", "binary_committee", "binary_mlp", "build", "lenet", "mlp",
    "resnet18", "vgg16", "vgg16_bn",
]  # fmt: skip

Shape = Sequence[int]


def _scaled(size: int, width: float) -> int:
    if not width > 0:
        raise ValueError(f"width is {width}; it must be positive")
    return max(1, round(size * width))


def mlp(
    shape: Shape, classes: int = 10, *, width: float = 1.0, hidden: Sequence[int] = (512, 512)
) -> nn.Sequential:
    """Fully connected ReLU network.

    Args:
        shape: Shape of one input, e.g. ``(1, 28, 28)``; flattened.
        classes: Number of outputs.
        width: Factor on every hidden size.
        hidden: Hidden sizes at width 1.

    Example:
        >>> [tuple(p.shape) for p in mlp((1, 8, 8), classes=10, hidden=(16,)).parameters()]
        [(16, 64), (16,), (10, 16), (10,)]
    """
    sizes = [prod(shape), *(_scaled(size, width) for size in hidden)]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))


def lenet(shape: Shape, classes: int = 10, *, width: float = 1.0) -> nn.Sequential:
    """LeNet-5 with ReLU and maximum pooling (LeCun et al. 1998).

    Both convolutions pad to keep the image size, so that 8x8 digits pass as well.

    Args:
        shape: ``(channels, height, width)`` of one input.
        classes: Number of outputs.
        width: Factor on every hidden size.

    Example:
        >>> sum(p.numel() for p in lenet((1, 28, 28), classes=10).parameters())
        107786
    """
    channels, height, breadth = shape
    a, b, c, d = (_scaled(size, width) for size in (6, 16, 120, 84))
    return nn.Sequential(
        nn.Conv2d(channels, a, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(b * (height // 4) * (breadth // 4), c), nn.ReLU(),
        nn.Linear(c, d), nn.ReLU(), nn.Linear(d, classes),
    )  # fmt: skip


class _RectifiedConv2d(nn.Conv2d):
    """A 3x3 convolution of padding 1 before ReLU, whose fresh weights keep the signal's size.

    They are Kaiming normal (He et al. 2015), of variance 2 / fan-in, where the fan-in counts the
    places inside the image only: on one pixel that is one of nine. Fresh biases are 0.
    """

    def __init__(self, inputs: int, outputs: int, size: Shape) -> None:
        self.fan_in = inputs * prod(3 - 2 / side for side in size)  # the mean over the places
        super().__init__(inputs, outputs, 3, padding=1)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=(2 / self.fan_in) ** 0.5)
        if self.bias is not None:  # as its type says
            nn.init.zeros_(self.bias)


def vgg16(
    shape: Shape, classes: int = 10, *, width: float = 1.0, batchnorm: bool = False
) -> nn.Sequential:
    """VGG16 for small images: 13 convolutions (Simonyan and Zisserman 2015), one linear layer.

    A block's pooling is left out once the image is one pixel high or wide, so that 8x8 digits pass.
    Without BatchNorm, convolutions start from Kaiming normal weights and zero biases (He et al.
    2015); with it, from PyTorch's defaults, whose size it divides out.

    Args:
        shape: ``(channels, height, width)`` of one input.
        classes: Number of outputs.
        width: Factor on every number of channels.
        batchnorm: Whether a BatchNorm follows each convolution.

    Example:
        >>> model = vgg16((3, 32, 32), classes=10)
        >>> sum(p.numel() for p in model.parameters())
        14719818
    """
    channels, *size = shape
    layers: list[nn.Module] = []
    for outputs, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            units = _scaled(outputs, width)
            if batchnorm:
                layers += [nn.Conv2d(channels, units, 3, padding=1), nn.BatchNorm2d(units)]
            else:
                layers.append(_RectifiedConv2d(channels, units, size))
            layers.append(nn.ReLU())
            channels = units
        if min(size) > 1:
            layers.append(nn.MaxPool2d(2))
            size = [side // 2 for side in size]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * prod(size), classes))


def vgg16_bn(shape: Shape, classes: int = 10, *, width: float = 1.0) -> nn.Sequential:
    """`vgg16` with BatchNorm.

    Example:
        >>> sum(isinstance(m, nn.BatchNorm2d) for m in vgg16_bn((1, 8, 8), width=0.1))
        13
    """
    return vgg16(shape, classes, width=width, batchnorm=True)


class _Block(nn.Module):
    """Two convolutions with BatchNorm and a way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        end: Tensor = self.relu(y + self.shortcut(x))
        return end


def resnet18(shape: Shape, classes: int = 10, *, width: float = 1.0) -> nn.Sequential:
    """ResNet18 (He et al. 2016) with the small-image stem: one 3x3 convolution, no pooling.

    Args:
        shape: ``(channels, height, width)`` of one input.
        classes: Number of outputs.
        width: Factor on every number of channels.

    Example:
        >>> sum(p.numel() for p in resnet18((3, 32, 32), classes=10).parameters())
        11173962
    """
    channels = _scaled(64, width)
    layers: list[nn.Module] = [
        nn.Conv2d(shape[0], channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
    ]  # fmt: skip
    for base, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        outputs = _scaled(base, width)
        layers += [_Block(channels, outputs, stride), _Block(outputs, outputs, 1)]
        channels = outputs
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


def _sign(x: Tensor, slope: Tensor | None) -> Tensor:
    """The sign of `x`, exactly; its gradient is that of `slope`, or zero."""
    return x.sign() if slope is None else x.sign() + (slope - slope.detach())


Weighted = nn.Linear | nn.Conv2d


def _fan_in(layer: Weighted) -> int:
    return prod(layer.weight.shape[1:])


def _signs(layer: Weighted) -> Tensor:
    return _sign(layer.weight, layer.weight if layer.training else None)


def _scaled_down(layer: Weighted, sums: Tensor) -> Tensor:
    return torch.div(sums, _fan_in(layer) ** 0.5)


@torch.no_grad()
def _never_zero(layer: Weighted) -> None:
    layer.weight.masked_fill_(layer.weight == 0, _fan_in(layer) ** -0.5)


class _BinaryLinear(nn.Linear):
    """``sign(W) x / sqrt(fan-in)``; with weights as `packed` returns them, of an `x` of ±1."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        _never_zero(self)

    def forward(self, input: Tensor) -> Tensor:
        if self.weight.dtype == torch.int8:
            sums = torch._int_mm(input.to(torch.int8), self.weight.T)
        else:
            sums = linear(input, _signs(self))
        return _scaled_down(self, sums)

    def packed(self, weight: Tensor) -> Tensor:
        """Signs as 8-bit integers, for the same sums, faster.

        A GPU's integer products take certain shapes only; there the weights stay as they are.
        """
        return weight.sign().to(torch.int8) if weight.device.type == "cpu" else weight


class _BinaryConv2d(nn.Conv2d):
    """The same, at every place."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        _never_zero(self)

    def forward(self, input: Tensor) -> Tensor:
        return _scaled_down(self, self._conv_forward(input, _signs(self), None))


class _Sign(nn.Module):
    """The sign of each number, 0 of 0."""

    def forward(self, x: Tensor) -> Tensor:
        return _sign(x, hardtanh(x) if self.training else None)


class _Majority(nn.Module):
    """The vote of all units, as two classes: ``(-s, s)`` with ``s = Σ x / sqrt(units)``."""

    def forward(self, x: Tensor) -> Tensor:
        votes = x.sum(1, keepdim=True) / x.shape[1] ** 0.5
        return torch.cat([-votes, votes], 1)


def _odd(size: int, width: float) -> int:
    return 2 * (_scaled(size, width) // 2) + 1


def binary_mlp(
    shape: Shape, classes: int = 10, *, width: float = 1.0, hidden: Sequence[int] = (101, 101)
) -> nn.Sequential:
    """Fully connected network of binary weights and sign units.

    Args:
        shape: Shape of one input; flattened.
        classes: Number of outputs.
        width: Factor on every hidden size, which becomes odd.
        hidden: Hidden sizes at width 1.

    Example:
        >>> [tuple(p.shape) for p in binary_mlp((1, 8, 8), classes=10, hidden=(16,)).parameters()]
        [(17, 64), (10, 17)]
    """
    sizes = [prod(shape), *(_odd(size, width) for size in hidden)]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [_BinaryLinear(inputs, outputs, bias=False), _Sign()]
    return nn.Sequential(*layers, _BinaryLinear(sizes[-1], classes, bias=False))


def binary_committee(
    shape: Shape, classes: int = 2, *, width: float = 1.0, hidden: int = 5
) -> nn.Sequential:
    """Committee machine: one layer of binary weights, whose sign units vote (Baldassi et al. 2016).

    Nothing but the first layer's weights can change; units cannot flip, since the vote is fixed.

    Args:
        shape: Shape of one input; flattened.
        classes: Two.
        width: Factor on the number of units, which becomes odd.
        hidden: Number of units at width 1.

    Raises:
        ValueError: If there are not two classes.

    Example:
        >>> [tuple(p.shape) for p in binary_committee((321,)).parameters()]
        [(5, 321)]
    """
    if classes != 2:
        raise ValueError(f"a committee votes on 2 classes, not {classes}")
    layer = _BinaryLinear(prod(shape), _odd(hidden, width), bias=False)
    return nn.Sequential(nn.Flatten(), layer, _Sign(), _Majority())


def binary_cnn(shape: Shape, classes: int = 10, *, width: float = 1.0) -> nn.Sequential:
    """Two convolutions of binary weights and a linear layer.

    The mean over 2x2 places comes before the sign: unlike the maximum it lets a unit flip. Places
    beyond the edge are 0.

    Args:
        shape: ``(channels, height, width)`` of one input, each side at least 4.
        classes: Number of outputs.
        width: Factor on the numbers of channels, which become odd.

    Example:
        >>> [tuple(p.shape) for p in binary_cnn((1, 8, 8), width=0.5).parameters()]
        [(9, 1, 3, 3), (17, 9, 3, 3), (10, 68)]
    """
    channels, height, breadth = shape
    a, b = _odd(16, width), _odd(32, width)
    return nn.Sequential(
        _BinaryConv2d(channels, a, 3, padding=1, bias=False), nn.AvgPool2d(2), _Sign(),
        _BinaryConv2d(a, b, 3, padding=1, bias=False), nn.AvgPool2d(2), _Sign(), nn.Flatten(),
        _BinaryLinear(b * (height // 4) * (breadth // 4), classes, bias=False),
    )  # fmt: skip


#: The architectures by name, as parameters and descriptions give them.
ARCHITECTURES: dict[str, Callable[..., nn.Sequential]] = {
    "mlp": mlp, "lenet": lenet, "vgg16": vgg16, "vgg16_bn": vgg16_bn, "resnet18": resnet18,
    "binary_mlp": binary_mlp, "binary_committee": binary_committee, "binary_cnn": binary_cnn,
}  # fmt: skip


#: Architectures whose fresh weights are not PyTorch's defaults, and what they are: descriptions of
#: minimizers say so.
INITIALIZATIONS = {"vgg16": "kaiming_normal"}


def build(architecture: str, shape: Shape, classes: int, width: float = 1.0) -> nn.Sequential:
    """An architecture by its name.

    Args:
        architecture: A key of `ARCHITECTURES`.
        shape: Shape of one input.
        classes: Number of outputs.
        width: Factor on every hidden size.

    Raises:
        ValueError: If there is no such architecture.

    Example:
        >>> build("lenet", (1, 8, 8), classes=10, width=0.5)[0]
        Conv2d(1, 3, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2))
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"no architecture {architecture!r}; there are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[architecture](shape, classes, width=width)
