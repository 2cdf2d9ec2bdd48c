"""Training, in plain PyTorch with the data resident: minimizers of chosen flatness.

Every algorithm starts from a model's own weights and returns a `Trained`. They share `Settings` and
the loop over the epochs; each has its own step.
"""

from ._averaging import swa
from ._checkpoint import Checkpoint
from ._confusion import adversarial
from ._descent import sgd, sgd_many
from ._langevin import entropy_sgd
from ._replicas import replicated_sgd
from ._settings import SCHEDULES, Settings
from ._sharpness_aware import sam
from ._trained import NEAR_ZERO, Trained

__all__ = [
    "NEAR_ZERO", "SCHEDULES", "Checkpoint", "Settings", "Trained", "adversarial", "entropy_sgd",
    "replicated_sgd", "sam", "sgd", "sgd_many", "swa",
]  # fmt: skip
