"""torchvision is imported as it is where that works, and beside a CPU-only torch with two declarations."""

import subprocess
import sys

import pytest

NATIVE = """
import sys, types
sys.modules["torchvision"] = types.ModuleType("torchvision")  # an import that works at once
from toroid import _torchvision
assert _torchvision.load() is sys.modules["torchvision"]
assert not _torchvision._declared
"""

GUARDED = """
import importlib, types
from toroid import _torchvision
real, calls = importlib.import_module, []
def fake(name):
    calls.append(name)
    if len(calls) == 1:
        raise RuntimeError("operator torchvision::nms does not exist")
    return types.ModuleType(name)
importlib.import_module = fake
assert _torchvision.load().__name__ == "torchvision"
assert calls == ["torchvision", "torchvision"]
assert len(_torchvision._declared) == 1
import torch
assert torch.ops.torchvision.nms.default._schema.name == "torchvision::nms"
"""

OTHER = """
import importlib
from toroid import _torchvision
def broken(name):
    raise RuntimeError("something else")
importlib.import_module = broken
try:
    _torchvision.load()
except RuntimeError as error:
    assert str(error) == "something else"
else:
    raise AssertionError("another error was swallowed")
"""

REAL = """
from toroid import _torchvision
models = _torchvision.load().models
assert models.resnet18(num_classes=3).fc.out_features == 3
"""


@pytest.mark.parametrize(
    "code", [NATIVE, GUARDED, OTHER, REAL], ids=["native", "guarded", "other", "real"]
)
def test_import(code):
    subprocess.run([sys.executable, "-c", code], check=True)
