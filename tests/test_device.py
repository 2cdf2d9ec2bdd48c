"""Elsewhere than on the CPU every step gives what it gives there: see elsewhere.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

STEPS = ["refusals", "torus", "landscape", "trainings", "bends", "binary"]


@pytest.fixture(scope="module")
def failures():
    """Of all steps in one process, since a device is there for good."""
    program = Path(__file__).with_name("device_steps.py")
    command = [sys.executable, "-W", "ignore", str(program), *STEPS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch cannot pretend a device",
)
@pytest.mark.parametrize("step", STEPS)
def test_elsewhere_it_is_as_here(step, failures):
    assert not failures[step], failures[step][-3000:]
