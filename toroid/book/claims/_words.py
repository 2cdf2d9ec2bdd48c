"""Verdicts and claims: the words, and what stands beside them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ._runs import Run
from ._statistics import Estimate, written

REPRODUCED, PARTLY, NOT = "reproduced", "partly reproduced", "not reproduced"
UNDECIDED = "not decided at this scale"
WORDS = (REPRODUCED, PARTLY, NOT, UNDECIDED)

#: What a reader calls data sets, networks and algorithms; others have their own names.
TITLES = {
    "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10",
    "digits-binary": "binary digits", "mnist-binary": "binary MNIST",
    "fashion-mnist-binary": "binary Fashion-MNIST", "random-patterns": "random inputs",
    "teacher-student": "a teacher", "hidden-manifold": "the hidden manifold",
    "mlp": "MLP", "lenet": "LeNet", "vgg16": "VGG16", "vgg16_bn": "VGG16-BN",
    "resnet18": "ResNet18", "binary_mlp": "binary MLP", "binary_committee": "binary committee",
    "binary_cnn": "binary CNN", "replicated_sgd": "RSGD", "sgd": "SGD", "adversarial": "ADV",
    "all": "all of torchvision", "large": "larger sizes",
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What a claim comes to in one run.

    Attributes:
        word: One of `WORDS`.
        evidence: What was found, in one sentence.
        label: What the one number that decides is.
        number: That number with its interval; without one where nothing is drawn at random; None
            where there is none to give.
        bound: What it is compared with.
        networks: How many networks it is of.
        pairs: Of how many pairs; 0 where it is not of pairs.
        parts: What the claim is made of, each with a word or a number, one by one.
        missing: Preconditions that the run does not meet; none unless it is not decided.
        regardless: The word of the test alone, whatever is missing; empty where it has none.
        but: What the claim's own words do not say of the run, a clause; empty if nothing.
    """

    word: str
    evidence: str
    label: str = ""
    number: Estimate | float | None = None
    bound: float = 0.0
    networks: int = 0
    pairs: int = 0
    parts: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    regardless: str = ""
    but: str = ""

    def __post_init__(self) -> None:
        if self.word not in WORDS or (self.word == UNDECIDED) != bool(self.missing):
            raise ValueError(f"{self.word!r} with {self.missing or 'nothing'} missing: no verdict")

    @property
    def figure(self) -> str:
        """The number as pages print it."""
        number = self.number
        if number is None:
            return ""
        return str(number) if isinstance(number, Estimate) else written(number)

    @property
    def sentence(self) -> str:
        """What was found, and what is missing."""
        lacking = f" Missing: {'; '.join(self.missing)}." if self.missing else ""
        return self.evidence + lacking


def decide(word: str, evidence: str, missing: tuple[str, ...], **details: Any) -> Verdict:
    """A verdict, which a run that misses a precondition does not get."""
    return Verdict(
        UNDECIDED if missing else word, evidence, missing=missing, regardless=word, **details
    )


def undecided(*missing: str) -> Verdict:
    """Where a run has too little to compute anything."""
    return Verdict(UNDECIDED, "Nothing can be said of this run.", missing=missing)


class Claim(NamedTuple):
    """A claim of the paper, and how it is decided.

    Attributes:
        statement: In our words.
        kind: ``"empirical"``, ``"identity"`` or ``"theory"``.
        page: The notebook that measures it.
        test: From a run to a verdict; its docstring says what is asked for.
    """

    statement: str
    kind: str
    page: str
    test: Callable[[Run], Verdict]

    @property
    def asked(self) -> str:
        """The paragraph of the test's docstring that says what is asked for."""
        return self._paragraph("The test: ")

    @property
    def known(self) -> str:
        """The paragraph that says what was known when the test was fixed."""
        return self._paragraph("Known then: ")

    def _paragraph(self, start: str) -> str:
        paragraphs = (inspect.getdoc(self.test) or "").split("\n\n")
        (found,) = (p for p in paragraphs if p.startswith(start))
        return " ".join(found.removeprefix(start).split())
