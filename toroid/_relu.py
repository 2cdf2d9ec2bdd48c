"""ReLU that asks for no memory of its own: inside the convolution before it, or in its place.

Only in networks of torch's own modules that nobody else holds, where a sequence says that nothing
else sees what comes before the ReLU. The bits are the same, but where a BatchNorm is taken along.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

FRESH = (nn.Linear, nn.Conv2d, nn.BatchNorm2d)  # their outputs are new
KEEPING = (nn.MaxPool2d, nn.Dropout, nn.Identity)  # they say nothing larger than they were told
SAFE = torch.finfo(torch.float32).max / 4  # nothing that is smaller becomes infinite by rounding


def overwrite(network: nn.Module) -> None:
    """Let the sequences of a network make no tensor that only a ReLU reads."""
    for sequence in [m for m in network.modules() if type(m) is nn.Sequential]:
        for (_, before), (name, after) in itertools.pairwise([*sequence._modules.items()]):
            if isinstance(before, FRESH) and type(after) is nn.ReLU:
                sequence._modules[name] = nn.ReLU(inplace=True)
        vars(sequence)["forward"] = partial(_through, sequence)


def _through(sequence: nn.Sequential, input: Any) -> Any:
    """What a sequence says, with modules that oneDNN can do at once done at once."""
    modules, reach = [*sequence], None
    while modules:
        taken = _together(modules, input)
        if taken > 1:
            weight, bias = _affine(*modules[: taken - 1])
            reach = _most(weight, bias, input.abs().max() if reach is None else reach)
            if reach < SAFE:
                input = _rectified(input, modules[0], weight, bias)
                modules = modules[taken:]
                continue
        module = modules.pop(0)
        input = module(input)
        reach = reach if isinstance(module, KEEPING) else None
    return input


def _together(modules: Sequence[nn.Module], x: Any) -> int:
    """How many of the next modules are one operation: a convolution, a BatchNorm, a ReLU.

    BatchNorm only in bfloat16, where bits say little: the weights that take it up are rounded once,
    and what comes between the two is not rounded at all.
    """
    conv, *after = modules[:3]
    if not isinstance(x, Tensor) or not _takes_relu(conv, x):
        return 1
    if [type(m) for m in after[:1]] == [nn.ReLU]:
        return 2
    folds = [type(m) for m in after] == [nn.BatchNorm2d, nn.ReLU] and _settled(after[0])
    return 3 if folds and _precision(x) == torch.bfloat16 else 1


def _precision(x: Tensor) -> torch.dtype:
    """In which a convolution of a tensor is computed."""
    cast = torch.is_autocast_enabled("cpu") and x.dtype in (torch.float32, torch.bfloat16)
    return torch.get_autocast_dtype("cpu") if cast else x.dtype


def _takes_relu(module: nn.Module, x: Tensor) -> bool:
    """Whether oneDNN would do this convolution, and nothing else asks for what it says."""
    return (
        isinstance(module, nn.Conv2d)
        and type(module).forward is nn.Conv2d.forward
        and type(module)._conv_forward is nn.Conv2d._conv_forward
        and "_conv_forward" not in vars(module)
        and module.padding_mode == "zeros"
        and all(isinstance(s, tuple) for s in (module.padding, module.stride, module.dilation))
        and not (module._forward_hooks or torch.is_grad_enabled())
        and (x.device.type, x.dim(), len(x) > 1, x.is_floating_point()) == ("cpu", 4, True, True)
        and torch.backends.mkldnn.is_available()
        and (
            _precision(x) == torch.float32
            or (_precision(x) == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
        )
    )


def _settled(norm: nn.Module) -> bool:
    """Whether a BatchNorm multiplies and adds what its state says, and nothing else asks."""
    return not (norm.training or norm._forward_hooks) and norm.running_var is not None


def _affine(conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution, normalised or not."""
    if norm is None or norm.running_mean is None or norm.running_var is None:
        return conv.weight, conv.bias
    return fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )


def _most(weight: Tensor, bias: Tensor | None, reach: Tensor) -> Tensor:
    """What no number that a layer says exceeds, if none of its input exceeds `reach`.

    oneDNN's ReLU makes 0 of what is no number. Where all are finite there is none. A sum of n
    products is at most √n times the norm of the weights times `reach` (Cauchy and Schwarz).
    """
    norm = torch.linalg.vector_norm(weight, dim=(1, 2, 3)).max() * weight[0].numel() ** 0.5
    return reach.float() * norm + (0 if bias is None else bias.abs().max())


def _rectified(x: Tensor, conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> Tensor:
    """ReLU of a convolution, as one operation."""
    kind = _precision(x)
    sizes = conv.padding, conv.stride, conv.dilation, conv.groups
    bias = None if bias is None else bias.to(kind)
    return torch.ops.mkldnn._convolution_pointwise(
        x.to(kind), weight.to(kind), bias, *sizes, "relu", [], ""
    )
