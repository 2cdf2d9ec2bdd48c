"""Training, in plain PyTorch with the data resident: minimizers of chosen flatness.

Every algorithm starts from a model's own weights and returns a `Trained`. They share the loop over
the epochs; each has its own step, and its own class of `Settings`.
"""

from ._averaging import SWA, swa
from ._checkpoint import Checkpoint
from ._confusion import Adversarial, adversarial
from ._descent import SGD, sgd, sgd_many
from ._langevin import EntropySGD, entropy_sgd
from ._replicas import ReplicatedSGD, replicated_sgd
from ._settings import SCHEDULES, Settings
from ._sharpness_aware import SAM, sam
from ._trained import NEAR_ZERO, Trained

__all__ = [
    "NEAR_ZERO", "SAM", "SCHEDULES", "SETTINGS", "SGD", "SWA", "Adversarial", "Checkpoint",
    "EntropySGD", "ReplicatedSGD", "Settings", "Trained", "adversarial", "entropy_sgd",
    "replicated_sgd", "sam", "sgd", "sgd_many", "swa",
]  # fmt: skip

#: The settings of the algorithms, by their names.
SETTINGS: dict[str, type[Settings]] = {
    kind.algorithm: kind for kind in (SGD, ReplicatedSGD, Adversarial, SAM, SWA, EntropySGD)
}
