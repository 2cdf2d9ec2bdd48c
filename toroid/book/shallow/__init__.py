"""The experiments of the shallow page: each function makes one of its tables or numbers.

Formulas and samplers are in `toroid.shallow`; here they meet what the package measures, which
stands on floors above it.
"""

from ._binary import (
    Binary,
    annealed,
    barrier_ratio,
    binary,
    energy_curves,
    energy_ratios,
    entropy_curves,
    errors_on_paths,
    exact_on_paths,
    surviving_curves,
)
from ._negative import Negative, meet, negative
from ._overlaps import (
    deviation,
    extrapolated,
    least_gain,
    overlap_curves,
    overlaps_beside,
    sampled,
)
from ._students import PLANTED, along_paths, overlaps, rsgd, sgd, students, teacher_energies
from ._tables import line, rows, seeded, sphere, spread
from ._two_layers import (
    angle,
    chance_exponent,
    hide,
    pair_curves,
    planted_pair,
    planted_pairs,
    trained_pair,
    trained_pairs,
    two_layers,
)
from ._typical import Learnt, Typical, alike, learn, typical

__all__ = [
    "PLANTED", "Binary", "Learnt", "Negative", "Typical", "alike", "along_paths", "angle",
    "annealed", "barrier_ratio", "binary", "chance_exponent", "deviation", "energy_curves",
    "energy_ratios", "entropy_curves", "errors_on_paths", "exact_on_paths", "extrapolated",
    "hide", "learn", "least_gain", "line", "meet", "negative", "overlap_curves", "overlaps",
    "overlaps_beside", "pair_curves", "planted_pair", "planted_pairs", "rows", "rsgd",
    "sampled", "seeded", "sgd", "sphere", "spread", "students", "surviving_curves",
    "teacher_energies", "trained_pair", "trained_pairs", "two_layers", "typical",
]  # fmt: skip
