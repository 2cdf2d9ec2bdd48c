"""Which units of a network can be exchanged or rescaled without changing its function.

A `Symmetry` is data: groups of units, and for every group the places (axes) where its units appear
in the state dict. `find_symmetries` reads it off the network's graph; `permute`, `rescale`, `flip`
and `turn` apply an element of it to a whole state; `same_function` checks that nothing changed.
"""

from .._network import UnsupportedError
from ._actions import flip, permute, rescale, turn
from ._comparison import Report, same_function
from ._discovery import find_symmetries
from ._groups import Axis, Group, Scale, Stay, Symmetry

__all__ = [
    "Axis", "Group", "Report", "Scale", "Stay", "Symmetry", "UnsupportedError", "find_symmetries",
    "flip", "permute", "rescale", "same_function", "turn",
]  # fmt: skip
