"""Shallow models whose landscape is known exactly: formulas, and solutions to compare with them.

A perceptron is ``sign(w · x)``; its weights, normalised, are one point of one sphere, so that the
geodesics of the package are great circles. Inputs are standard normal. A teacher gives the labels,
or they are random; random ones are taken as all positive, which has the same law.
"""

from ._exact import (
    binomial_error,
    chance_cosine,
    error,
    expected_neighbours,
    expected_worst,
    flipped_error,
    matched_angle,
    path_overlap,
    shuffled_angle,
    surviving_share,
    turned_error,
)
from ._solutions import (
    Perceptron,
    billiard,
    disturb,
    entropic,
    feasible,
    gaussian,
    neighbours,
    signed,
    surviving,
    vectors,
)
from ._theory import (
    binary_capacity,
    binary_entropy,
    capacity,
    cross_overlap,
    geodesic_error,
    star_margin,
    typical_overlap,
)

__all__ = [
    "Perceptron", "billiard", "binary_capacity", "binary_entropy", "binomial_error", "capacity",
    "chance_cosine", "cross_overlap", "disturb", "entropic", "error", "expected_neighbours",
    "expected_worst", "feasible", "flipped_error", "gaussian", "geodesic_error", "matched_angle",
    "neighbours", "path_overlap", "shuffled_angle", "signed", "star_margin", "surviving",
    "surviving_share", "turned_error", "typical_overlap", "vectors",
]  # fmt: skip
