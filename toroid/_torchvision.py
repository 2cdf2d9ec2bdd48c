"""torchvision, imported in a way that also works beside a CPU-only torch.

The registry's torchvision registers two fake kernels for compiled operators when it is imported;
where its compiled part does not load (a CPU build of torch), the operators are unknown and the
import fails. Declaring them first mends that: data sets, transforms and classification models
need neither.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from torch import library

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[library.Library] = []  # declarations live as long as what declares them


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
    operators = library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(name + _SCHEMA)
    _declared.append(operators)
    return importlib.import_module("torchvision")
