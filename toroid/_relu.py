"""ReLU that asks for no memory of its own: inside the convolution before it, or in its place.

Only in networks of torch's own modules that nobody else holds, where a sequence says that nothing
else sees what comes before the ReLU. The bits are the same.
"""

from __future__ import annotations

import itertools
from functools import partial

import torch
from torch import Tensor, nn

FRESH = (nn.Linear, nn.Conv2d, nn.BatchNorm2d)  # their outputs are new


def overwrite(network: nn.Module) -> None:
    """Let the sequences of a network make no tensor that only a ReLU reads."""
    for sequence in [m for m in network.modules() if type(m) is nn.Sequential]:
        for (_, before), (name, after) in itertools.pairwise([*sequence._modules.items()]):
            if isinstance(before, FRESH) and type(after) is nn.ReLU:
                sequence._modules[name] = nn.ReLU(inplace=True)
        vars(sequence)["forward"] = partial(_through, sequence)


def _through(sequence: nn.Sequential, x: Tensor) -> Tensor:
    """What a sequence says: a convolution and the ReLU after it at once where that can be done."""
    modules, done = [*sequence], False
    for module, after in itertools.zip_longest(modules, modules[1:]):
        if done:  # with the convolution before it
            done = False
            continue
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        done = type(after) is nn.ReLU and _takes_relu(module, x, kind)
        x = _rectified(module, x.to(kind)) if done else module(x)
    return x


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


def _rectified(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """ReLU of a convolution, as one operation."""
    bias = None if conv.bias is None else conv.bias.to(x.dtype)
    sizes = conv.padding, conv.stride, conv.dilation, conv.groups
    weight = conv.weight.to(x.dtype)
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *sizes, "relu", [], "")
