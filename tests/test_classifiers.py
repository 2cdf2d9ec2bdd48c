"""Every torchvision classifier: a random element of its symmetry leaves its function as it is.

The quick part runs always, one of each family on small images; the whole with ``pytest -m slow``.
"""

import pytest
import torch
import toroid
from networks import random_element, random_signs, random_state
from toroid import _torchvision

tv = _torchvision.load().models
ALL = tv.list_models(module=tv)
QUICK = ["efficientnet_b0", "googlenet", "mobilenet_v3_small", "resnet18",
         "shufflenet_v2_x0_5", "squeezenet1_1"]  # fmt: skip
SIZES = {"inception_v3": 299, "vit_h_14": 224, "maxvit_t": 224}
FIXED = ("vit", "maxvit", "swin_v2")  # these take one size only


def classifier(name, size=None):
    """A network with random weights and an example of its input."""
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = tv.get_model(name, weights=None, **extra)
    size = SIZES.get(name) or (224 if size is None or name.startswith(FIXED) else size)
    return model, torch.zeros(1, 3, size, size)


def check(model, example):
    symmetry = toroid.find_symmetries(model, example, verify=False)
    state = random_state(model, 0)
    example = torch.randn(
        example.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    permutations, factors = random_element(symmetry, 0, spread=0.3)
    moved = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    moved = toroid.flip(moved, random_signs(symmetry, 0), symmetry)
    ways = [lambda: moved, lambda: toroid.normalize(state, symmetry)]
    if sum(p.numel() for p in model.parameters()) < 1e8:  # of larger ones no third state fits here
        ways.append(lambda: toroid.align(moved, to=state, symmetry=symmetry).state)
    for way in ways:
        report = toroid.same_function(model, state, way(), example, tolerance=1e-9)
        assert report or report.difference < 5 * rounding(model, state, example), report
    covered = {axis.parameter for group in symmetry.all_groups for axis in group.axes}
    weights = {k for k, p in model.named_parameters() if p.dim() > 1 and "logit_scale" not in k}
    assert covered >= {
        k for k in weights if not k.lower().startswith("aux")
    }  # not run in evaluation
    assert symmetry.refused == ()


def rounding(model, state, example):
    """What the last place of the weights does to the outputs: random statistics amplify it."""
    generator = torch.Generator().manual_seed(0)
    nudged = {}
    for key, tensor in state.items():
        nudge = torch.randn(tensor.shape, dtype=torch.float64, generator=generator)
        nudged[key] = tensor * (1 + 2.2e-16 * nudge) if tensor.is_floating_point() else tensor
    return toroid.same_function(model, state, nudged, example).difference


@pytest.mark.filterwarnings("ignore:forward does not run aux1")  # googlenet's, of training alone
@pytest.mark.parametrize("name", QUICK)
def test_a_classifier_of_each_family(name):
    check(*classifier(name, size=96))


def test_a_small_vision_transformer():
    sizes = {"num_layers": 2, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 48}
    model = tv.VisionTransformer(image_size=32, patch_size=16, **sizes)
    check(model, torch.zeros(1, 3, 32, 32))


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_every_classifier(name):
    check(*classifier(name, size=96))
