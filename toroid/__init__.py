"""toroid: neural networks on toroids.

Remove the rescaling and permutation symmetries of a network, and compare, align and connect
what is left. After Pittorino et al., "Deep Networks on Toroids" (ICML 2022).

    symmetry = toroid.find_symmetries(model, example)
    a = toroid.normalize(model_a.state_dict(), symmetry)
    b = toroid.normalize(model_b.state_dict(), symmetry)
    alignment = toroid.align(b, to=a, symmetry=symmetry)
    curve = toroid.along(toroid.Geodesic(a, alignment.state, symmetry), model, data)
"""

from importlib.metadata import version as _version

from . import (
    alignment,
    bends,
    binary,
    curvature,
    data,
    directions,
    evaluation,
    flatness,
    landscape,
    merging,
    minimizers,
    models,
    paths,
    shallow,
    symmetry,
    tasks,
    torus,
    training,
    zoo,
)
from .alignment import Alignment, align, align_all, match
from .bends import Bend, bend
from .curvature import Hessian, Spectrum, fisher_rao, hessian, sharpness, spectrum
from .directions import direction
from .evaluation import Evaluation, Score, disagreement, evaluate, refresh, repair
from .flatness import local_energy
from .landscape import Curve, Plane, along, line, plane
from .merging import Merged, merge, renorm
from .minimizers import Minimizer, Store, Stored, train_all
from .models import (
    binary_cnn,
    binary_committee,
    binary_mlp,
    lenet,
    mlp,
    resnet18,
    vgg16,
    vgg16_bn,
)
from .paths import Geodesic, Hamming, Joined, Linear, Polygon, Ray
from .symmetry import (
    Axis,
    Group,
    Report,
    Scale,
    Symmetry,
    UnsupportedError,
    find_symmetries,
    flip,
    permute,
    rescale,
    same_function,
    turn,
)  # fmt: skip
from .tasks import Task
from .torus import angles, balance, distance, exp, geodesic, log, normalize

__version__ = _version("toroid")

__all__ = [
    "Alignment",
    "Axis",
    "Bend",
    "Curve",
    "Evaluation",
    "Geodesic",
    "Group",
    "Hamming",
    "Hessian",
    "Joined",
    "Linear",
    "Merged",
    "Minimizer",
    "Plane",
    "Polygon",
    "Ray",
    "Report",
    "Scale",
    "Score",
    "Spectrum",
    "Store",
    "Stored",
    "Symmetry",
    "Task",
    "UnsupportedError",
    "align",
    "align_all",
    "alignment",
    "along",
    "angles",
    "balance",
    "bend",
    "bends",
    "binary",
    "binary_cnn",
    "binary_committee",
    "binary_mlp",
    "curvature",
    "data",
    "direction",
    "directions",
    "disagreement",
    "distance",
    "evaluate",
    "evaluation",
    "exp",
    "find_symmetries",
    "fisher_rao",
    "flatness",
    "flip",
    "geodesic",
    "hessian",
    "landscape",
    "lenet",
    "line",
    "local_energy",
    "log",
    "match",
    "merge",
    "merging",
    "minimizers",
    "mlp",
    "models",
    "normalize",
    "paths",
    "permute",
    "plane",
    "refresh",
    "renorm",
    "repair",
    "rescale",
    "resnet18",
    "same_function",
    "shallow",
    "sharpness",
    "spectrum",
    "symmetry",
    "tasks",
    "torus",
    "train_all",
    "training",
    "turn",
    "vgg16",
    "vgg16_bn",
    "zoo",
]
