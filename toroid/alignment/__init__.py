"""The permutation symmetry removed, and that of signs, relative to a reference.

`match` finds which unit of one network is which of the other; `align` moves a network's units to
the places of their partners in the reference, `align_all` those of many networks.
"""

from ._align import Alignment, align, align_all, match

__all__ = ["Alignment", "align", "align_all", "match"]
