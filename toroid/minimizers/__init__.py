"""A described, trained and stored minimizer; many of them at once.

A `Minimizer` says all that its weights depend on. Its key is the SHA-256 of that description, so
that the store never has to ask whether a file is the right one.
"""

from .._files import DamagedError
from ._batch import train_all
from ._description import ALGORITHMS, Minimizer, Stored, grid
from ._store import Store

__all__ = ["ALGORITHMS", "DamagedError", "Minimizer", "Store", "Stored", "grid", "train_all"]
