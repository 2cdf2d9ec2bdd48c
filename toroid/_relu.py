"""ReLU that asks for no memory of its own: inside the convolution before it, or in its place.

Only in networks of torch's own modules that nobody else holds, where a sequence says that nothing
else sees what comes before the ReLU. The bits are the same, but where a BatchNorm is taken along.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

FRESH = (nn.Linear, nn.Conv2d, nn.BatchNorm2d)  # their outputs are new


def overwrite(network: nn.Module) -> None:
    """Let the sequences of a network make no tensor that only a ReLU reads."""
    for sequence in [m for m in network.modules() if type(m) is nn.Sequential]:
        for (_, before), (name, after) in itertools.pairwise([*sequence._modules.items()]):
            if isinstance(before, FRESH) and type(after) is nn.ReLU:
                sequence._modules[name] = nn.ReLU(inplace=True)
        vars(sequence)["forward"] = partial(_through, sequence)


def _through(sequence: nn.Sequential, x: Tensor) -> Tensor:
    """What a sequence says, with modules that oneDNN can do at once done at once."""
    modules = [*sequence]
    while modules:
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        taken = _together(modules, x, kind)
        x = _rectified(x.to(kind), *modules[: taken - 1]) if taken > 1 else modules[0](x)
        modules = modules[taken:]
    return x


def _together(modules: Sequence[nn.Module], x: Tensor, kind: torch.dtype) -> int:
    """How many of the next modules are one operation: a convolution, a BatchNorm, a ReLU.

    BatchNorm only in bfloat16, where bits say little: the weights that take it up are rounded once,
    and what comes between the two is not rounded at all.
    """
    conv, *after = modules[:3]
    if not _takes_relu(conv, x, kind):
        return 1
    if [type(m) for m in after[:1]] == [nn.ReLU]:
        return 2
    folds = kind == torch.bfloat16 and [type(m) for m in after] == [nn.BatchNorm2d, nn.ReLU]
    return 3 if folds and _settled(after[0]) else 1


def _takes_relu(module: nn.Module, x: Tensor, kind: torch.dtype) -> bool:
    """Whether oneDNN would do this convolution, and nothing else asks for what it says."""
    return (
        isinstance(module, nn.Conv2d)
        and type(module).forward is nn.Conv2d.forward
        and (module.padding_mode, type(module.padding)) == ("zeros", tuple)
        and not (module._forward_hooks or torch.is_grad_enabled())
        and (x.device.type, x.dim(), len(x) > 1, x.is_floating_point()) == ("cpu", 4, True, True)
        and torch.backends.mkldnn.is_available()
        and (
            kind == torch.float32
            or (kind == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
        )
    )


def _settled(norm: nn.Module) -> bool:
    """Whether a BatchNorm multiplies and adds what its state says, and nothing else asks."""
    return not (norm.training or norm._forward_hooks) and norm.running_var is not None


def _rectified(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> Tensor:
    """ReLU of a convolution, normalised or not, as one operation."""
    weight, bias = conv.weight, conv.bias
    if norm is not None and norm.running_mean is not None and norm.running_var is not None:
        weight, bias = fuse_conv_bn_weights(
            weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
    sizes = conv.padding, conv.stride, conv.dilation, conv.groups
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *sizes, "relu", [], "")
