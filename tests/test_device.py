"""Elsewhere than on the CPU every step gives what it gives there: see elsewhere.py."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch cannot pretend a device",
)
@pytest.mark.parametrize("step", ["refusals", "torus", "landscape", "trainings", "bends", "binary"])
def test_elsewhere_it_is_as_here(step):
    program = Path(__file__).with_name("device_steps.py")
    command = [sys.executable, "-W", "ignore", str(program), step]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
