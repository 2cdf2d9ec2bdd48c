"""How many units of a moved copy each matching finds again.

A network with random weights, biases and BatchNorm statistics; noise on its weights, relative to
their norm; and a copy of the noisy one, moved by a random element of the symmetry: units permuted,
then rescaled too, then flipped too (signs before a BatchNorm among them), then mixed as well, where
heads of attention are. Each matching aligns the copy to the network without noise. A unit is found
if what makes it has, with what made it in the noisy network before it was moved, a cosine of 1 or
near it. Beside the matchings of this package, of the normal forms and of the raw weights, stands
the package rebasin, if it is installed (``pip install -e ".[benchmarks]"``); what it cannot read is
left blank. *Outputs off* is by how much the outputs of what was aligned differ from those before,
the most of all, but for a factor: a matching that moves what it may not move, or leaves behind what
belongs to a unit (BatchNorm's statistics), changes them.

    python benchmarks/planted.py --seeds 3 --noise 0 0.5
"""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
import toroid
from torch import nn
from toroid.alignment._matching import cosines_of_pairs
from toroid.book import measures
from toroid.symmetry._elements import Element

ALIKE = 0.9  # cosine: exchanged units have 1 or far less, a turn is estimated in spite of the noise
KINDS = ("permutation", "and scale", "and sign", "and turn")


class Tokens(nn.Module):
    """Patches, two layers of attention with a norm before each, the mean."""

    def __init__(self) -> None:
        """With fresh weights."""
        super().__init__()
        layer = {"dim_feedforward": 128, "dropout": 0.0, "batch_first": True, "norm_first": True}
        self.embed = nn.Conv2d(3, 64, 8, stride=8)
        self.layers = nn.Sequential(*(nn.TransformerEncoderLayer(64, 4, **layer) for _ in "ab"))
        self.end = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.end(self.layers(self.embed(x).flatten(2).transpose(1, 2)).mean(1))


def build(name: str, width: float) -> nn.Module:
    made = Tokens() if name == "attention" else toroid.models.build(name, (3, 32, 32), 10, width)
    return made.double().eval()


def planted(symmetry: toroid.Symmetry, kind: str, generator: torch.Generator) -> Element:
    """A random element with as many kinds of moves as asked for."""
    element = Element.random(symmetry, generator)
    turns = {name: frame(turn, generator) @ turn for name, turn in element.turns.items()}
    moves = (element.permutations, element.factors, element.signs, turns)
    kept = [move if KINDS.index(kind) >= i else {} for i, move in enumerate(moves)]
    gains = element.gains if kept[2] else {}
    return Element(symmetry, kept[0], kept[2], kept[1], gains, kept[3])


def frame(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random orthogonal matrix."""
    numbers = torch.randn(like.shape, generator=generator, dtype=like.dtype)
    return torch.linalg.qr(numbers)[0]


Ways = dict[str, Callable[[dict, dict], dict]]


def ways(model: nn.Module, symmetry: toroid.Symmetry, inputs: torch.Tensor) -> Ways:
    """Each way takes the reference and the copy, and gives the copy aligned."""
    form = {"gains": "positive", "turns": "orthonormal"}

    def by(method: str, torus: bool) -> Callable[[dict, dict], dict]:
        def way(a: dict, b: dict) -> dict:
            a, b = (toroid.normalize(s, symmetry, **form) if torus else s for s in (a, b))
            how: Any = {"model": model, "inputs": inputs} if method == "activation" else {}
            return toroid.align(b, to=a, symmetry=symmetry, method=method, turns=torus, **how).state

        return way

    def rebasin(a: dict, b: dict) -> dict:
        from rebasin import PermutationCoordinateDescent

        models = [copy.deepcopy(model).float() for _ in "ab"]
        for network, state in zip(models, (a, b), strict=True):
            network.load_state_dict(state)
        PermutationCoordinateDescent(*models, inputs[:2].float()).rebasin()
        return {k: v.to(b[k].dtype) for k, v in models[1].state_dict().items()}

    found = {
        f"{method}, {'torus' if torus else 'raw'}": by(method, torus)
        for torus, method in itertools.product((True, False), ("sequential", "coordinate"))
    }
    return {**found, "activation, torus": by("activation", True), "rebasin": rebasin}


def found(aligned: dict, wanted: dict, symmetry: toroid.Symmetry) -> float:
    """The share of units that are where they were before the copy was moved."""
    form = {"gains": "positive", "turns": "orthonormal"}
    a, b = (toroid.normalize(s, symmetry, **form) for s in (aligned, wanted))
    groups = [group for group in symmetry.groups if not group.whole]
    same = [cosines_of_pairs(a, b, group) > ALIKE for group in groups]
    return float(torch.cat(same).double().mean())


def trials(name: str, width: float, noise: float, seed: int) -> Iterator[dict[str, Any]]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, inputs = build(name, width), torch.randn(64, 3, 32, 32, dtype=torch.float64)
    symmetry = toroid.find_symmetries(model, inputs[:2])
    state = measures.random_state(model, generator)
    noisy = {
        k: v + noise * v.std() * torch.randn(v.shape, generator=generator) if v.dim() > 1 else v
        for k, v in state.items()
    }
    for kind in KINDS if any(g.turn for g in symmetry.groups) else KINDS[:3]:
        moved = planted(symmetry, kind, generator).act(noisy)
        for way, function in ways(model, symmetry, inputs).items():
            try:
                aligned = function(state, moved)
                off = toroid.same_function(model, moved, aligned, inputs[:8]).difference
                share = found(aligned, noisy, symmetry)
            except (ImportError, NotImplementedError, RuntimeError, KeyError, AttributeError):
                share = off = float("nan")
            yield {
                "network": name, "planted": kind, "noise": noise, "way": way,
                "units found": share, "outputs off": off,
            }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Units of a moved copy that are found again.")
    parser.add_argument("--networks", nargs="+", default=["vgg16_bn", "resnet18", "attention"])
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--noise", nargs="+", type=float, default=[0.0, 0.5])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    places = itertools.product(options.networks, options.noise, range(options.seeds))
    rows = [row for name, noise, seed in places for row in trials(name, options.width, noise, seed)]
    table = pd.DataFrame(rows).groupby(["network", "noise", "planted", "way"], sort=False)
    means = table.agg({"units found": "mean", "outputs off": "max"})
    print(means["units found"].unstack("way", sort=False).round(3).to_string())
    print("\noutputs off, the most")
    print(means.groupby("way", sort=False)["outputs off"].max().to_string())


if __name__ == "__main__":
    main()
