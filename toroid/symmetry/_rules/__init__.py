"""What each operation says about units and their scales: the whole knowledge of operations.

`RULES` maps an ATen operation to a rule, and each module holds a family of them. To support an
operation, write its rule in the family where it belongs.
"""

from . import _elementwise, _layers, _moves, _places, _products, _ranks, _recurrent
from ._table import NAMES, RULES, operation

__all__ = [
    "NAMES", "RULES", "_elementwise", "_layers", "_moves", "_places", "_products", "_ranks",
    "_recurrent", "operation",
]  # fmt: skip
