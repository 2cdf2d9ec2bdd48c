"""Groups against those of another package: torch-pruning finds the channels that must be cut together."""

import pytest
import torch
import torch_pruning
import toroid
from test_classifiers import classifier

CLASSIFIERS = ["convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "mobilenet_v2", "mobilenet_v3_small",
               "regnet_y_400mf", "resnet18", "resnext50_32x4d", "squeezenet1_1"]  # fmt: skip


def ours(model, example):
    """For each group the modules that make or read its units."""
    symmetry = toroid.find_symmetries(model, example, verify=False)

    def side(axis):  # the filters of a depthwise convolution are made and read in one
        return "in" if axis.role == "in" and (axis.dim, axis.span) != (0, 1) else "out"

    return {
        frozenset((a.module, side(a)) for a in group.axes)
        for group in symmetry.groups
        if not group.whole
    }


def theirs(model, example):
    """The same of torch-pruning, which also cuts what the classes are."""
    graph = torch_pruning.DependencyGraph().build_dependency(model.eval(), example, verbose=False)
    names = {module: name for name, module in model.named_modules()}
    groups = set()
    for group in graph.get_all_groups(root_module_types=[torch.nn.Conv2d, torch.nn.Linear]):
        cuts = [(names.get(d.target.module), d.target.module, d.handler.__name__) for d, _ in group]
        groups.add(
            frozenset(
                (name, "in" if "in_channels" in cut else "out")
                for name, module, cut in cuts
                if name and list(module.parameters(recurse=False))
            )
        )
    return groups


def check(model, example):
    # ConvNeXt's layer scale is a parameter of a whole block, which torch-pruning does not see
    blocks = {
        name.rpartition(".")[0] for name, _ in model.named_parameters() if "layer_scale" in name
    }
    found = {frozenset(x for x in group if x[0] not in blocks) for group in ours(model, example)}
    last = [
        name
        for name, m in model.named_modules()
        if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))
    ][-1]
    assert theirs(model, example) - found == {frozenset({(last, "out")})}
    assert found - theirs(model, example) == set()


@pytest.mark.parametrize("name", toroid.models.ARCHITECTURES)
def test_the_books_networks_have_the_groups_that_torch_pruning_finds(name):
    classes = 2 if name == "binary_committee" else 10
    check(toroid.models.build(name, (3, 32, 32), classes, width=0.1), torch.zeros(1, 3, 32, 32))


@pytest.mark.filterwarnings("ignore:forward does not run aux1")  # googlenet's, of training alone
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_have_the_groups_that_torch_pruning_finds(name):
    model, example = classifier(name, size=96)
    check(model, example)
