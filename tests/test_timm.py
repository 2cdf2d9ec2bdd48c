"""timm's networks, of a family each: a random element of the symmetry leaves the function as it is.

They need ``pip install toroid[models]``; without it these tests are skipped. Nothing is downloaded.
"""

import pytest
import torch
import toroid
from networks import random_element, random_signs, random_state
from toroid import _torchvision

_torchvision.load()  # timm imports it
timm = pytest.importorskip("timm")

QUICK = ["test_byobnet", "test_convnext", "test_efficientnet", "test_mambaout", "test_resnet",
         "test_vit"]  # fmt: skip


@pytest.mark.parametrize("name", QUICK)
def test_a_network_is_understood_and_exact(name):
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False)
    image = torch.randn(1, *model.default_cfg["input_size"], dtype=torch.float64)
    symmetry = toroid.find_symmetries(model, image.float(), verify=False)
    assert symmetry.refused == ()
    moved = sum(group.size for group in symmetry.groups)
    assert moved > 100
    assert not symmetry.stays
    state = random_state(model, 0)
    permutations, factors = random_element(symmetry, 0, spread=0.3)
    copy = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    copy = toroid.flip(copy, random_signs(symmetry, 0), symmetry)
    normal = toroid.normalize(state, symmetry, gains="positive")
    aligned = toroid.align(toroid.normalize(copy, symmetry, gains="positive"), normal, symmetry)
    for other in (copy, normal, aligned.state):
        assert toroid.same_function(model, state, other, image, tolerance=1e-9)
    assert toroid.distance(normal, aligned.state, symmetry) < 1e-6


def test_what_is_not_understood_is_refused_by_name():
    model = timm.create_model("test_nfnet", pretrained=False)
    with pytest.raises(toroid.UnsupportedError, match="weight is computed, not a parameter"):
        toroid.find_symmetries(model, torch.zeros(1, 3, 64, 64))
