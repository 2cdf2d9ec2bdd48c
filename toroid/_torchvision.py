"""torchvision, imported in a way that also works beside a CPU-only torch.

The registry's torchvision registers two fake kernels for compiled operators when it is imported;
where its compiled part does not load (a CPU build of torch), the operators are unknown and the
import fails. Declaring them first mends that: data sets, transforms and classification models
need neither.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # a library's declarations live as long as it does


def load() -> ModuleType:
    """The torchvision package.

    Raises:
        RuntimeError: What the import raises, if it is not about the missing operators.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(name + _SCHEMA)
    _declared.append(library)
    return importlib.import_module("torchvision")
