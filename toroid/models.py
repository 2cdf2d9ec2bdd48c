"""The paper's architectures, each with a width factor, for images of 1 or 3 channels.

Sizes and layouts follow the sources; what had to be chosen for small images is said in each
docstring. Fresh weights are PyTorch's defaults, drawn from torch's global generator.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from math import prod

from torch import Tensor, nn

__all__ = ["ARCHITECTURES", "build", "lenet", "mlp", "resnet18", "vgg16", "vgg16_bn"]

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


def vgg16(
    shape: Shape, classes: int = 10, *, width: float = 1.0, batchnorm: bool = False
) -> nn.Sequential:
    """VGG16 for small images: 13 convolutions (Simonyan and Zisserman 2015), one linear layer.

    A block's pooling is left out once the image is one pixel high or wide, so that 8x8 digits pass.

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
            layers.append(nn.Conv2d(channels, channels := _scaled(outputs, width), 3, padding=1))
            layers += [nn.BatchNorm2d(channels), nn.ReLU()] if batchnorm else [nn.ReLU()]
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
        return self.relu(y + self.shortcut(x))


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


#: The architectures by name, as parameters and descriptions give them.
ARCHITECTURES: dict[str, Callable[..., nn.Sequential]] = {
    "mlp": mlp, "lenet": lenet, "vgg16": vgg16, "vgg16_bn": vgg16_bn, "resnet18": resnet18,
}  # fmt: skip


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
