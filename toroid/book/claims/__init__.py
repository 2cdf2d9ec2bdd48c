"""The tests that decide the paper's claims, fixed before any run on all of CIFAR-10 existed.

A test takes a `Run`, the tables that a page writes, and the same test decides for a quick run and
a kept one. *Identities* (C1, C8) must hold if the code is right; *theory* (C9) concerns models
with known answers; *empirical* claims (C2 to C7) are what the paper found, and are counted apart.

A verdict on C2 to C7 has preconditions: a training error of at most 0.5 % in every network, no
failure in the report of its training, three seeds of each algorithm, three pairs of each kind,
eleven places along a path, 2,000 images in every evaluation. A run that misses one is *not decided
at this scale*. The decisive run of a claim is, among those that meet them, the one with the most
training images, then the widest network, then the most seeds.

Tables, one file each, a row for each thing, fractions and not per cent:

- ``scale`` (one row): ``dataset, network, training images, width`` (multiples of the paper's; the
  widest), ``seeds, places`` (along a path; empty without paths), ``images`` (in the smallest
  evaluation), ``chance`` (the error of guessing).
- ``minimizers``: ``algorithm, seed, train_error, test_error, failed`` (why, or empty), and the
  setting where several are swept. Algorithms are ``replicated_sgd, sgd, adversarial`` (RSGD, SGD,
  ADV) and ``sgd_decayed``, SGD with the weight decay that RSGD's learning rate gives it; others do
  not count.
- Of pairs: ``kind`` (``"RSGD-ADV"``, ``"untrained-untrained"``), ``pair``, ``first_seed,
  second_seed``; ``alignment`` (``"as found"`` or ``"aligned"``); ``method`` (``"sequential",
  "coordinate", "activation"``; ``"none"`` as found) and ``matched``: of which weights the
  permutation was found, ``"raw"``, ``"normalised"`` or ``"balanced"``, or ``"values"`` for
  that of the units' values.
- ``barriers``: pairs, ``weights`` (``"raw"`` or ``"normalised"``), ``path`` (``"straight"`` or
  ``"geodesic"``), ``split`` (``"train"`` or ``"test"``), ``barrier, over the worse end, loss
  barrier``.
- ``distances``: pairs, ``related`` (one seed, two algorithms), ``raw`` (over the mean norm),
  ``angle``, ``angle, weights`` and ``angle, BatchNorm`` (root mean squares in radians, of
  normalised networks), ``similarity`` (mean cosine of matched units), ``disagreement`` (share of
  the test images).
- ``chains``: pairs, ``weights``, the largest errors ``ends, train``, ``segment, train``, ``chain,
  train`` (and test), ``trained`` (epochs of the bend), ``converged`` (its loss no longer fell).
- ``flatness``: a row of ``minimizers`` with ``arch, width, lr, batch_size`` and ``local energy``.
- ``temperatures``: ``error, raw``, ``error, normalised``, ``loss, raw``, ``loss, normalised``,
  ``loss, restored``. ``classifiers``: ``network, refused, permuted, rescaled, normalised, aligned,
  apart, found`` (share of planted units), ``units, hidden, why``. ``points`` and ``predictions``:
  as C9.
- Of binary networks: ``barriers`` with ``weights`` binary, ``path`` ``"random order"`` or
  ``"greedy order"`` and ``order``; ``distances`` with the shares ``as found`` and ``aligned``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from ._binary import c7, parts_of
from ._flatness import (
    Flatness,
    angle_column,
    c3,
    c4,
    closeness,
    decay_closeness,
    decay_share,
    energies,
    flattest,
    sides,
)
from ._identities import c1, c8, c9
from ._paths import (
    AFTER,
    BEFORE,
    barriers,
    by_treatment,
    c2,
    c5,
    c6,
    contrasts,
    ends,
    gains,
    matchings,
    means,
    said,
    treated,
    under,
)
from ._runs import ALGORITHMS, UNTRAINED, WITHIN, Run, Scale, missing
from ._sentences import barrier_table, freely, left_out, matching_table, shows, work
from ._statistics import Chance, Estimate, Networks, Sample, correlation, written
from ._words import NOT, PARTLY, REPRODUCED, TITLES, UNDECIDED, WORDS, Claim, Verdict

__all__ = [
    "AFTER",
    "ALGORITHMS",
    "BEFORE",
    "CLAIMS",
    "NOT",
    "PARTLY",
    "REPRODUCED",
    "TITLES",
    "UNDECIDED",
    "UNTRAINED",
    "WITHIN",
    "WORDS",
    "Chance",
    "Claim",
    "Decided",
    "Estimate",
    "Flatness",
    "Networks",
    "Run",
    "Sample",
    "Scale",
    "Verdict",
    "angle_column",
    "answers",
    "barrier_table",
    "barriers",
    "by_matching",
    "by_treatment",
    "c1",
    "c2",
    "c3",
    "c4",
    "c5",
    "c6",
    "c7",
    "c8",
    "c9",
    "closeness",
    "contrasts",
    "correlation",
    "decay_closeness",
    "decay_share",
    "decide",
    "ends",
    "energies",
    "flattest",
    "freely",
    "gains",
    "headline",
    "left_out",
    "matching_table",
    "matchings",
    "means",
    "missing",
    "parts_of",
    "said",
    "shows",
    "sides",
    "summary",
    "treated",
    "under",
    "work",
    "written",
]  # fmt: skip

#: The paper's claims by their number in this project.
CLAIMS = {
    "C1": Claim(
        "Rescaling and permutation can be removed without changing the classifier.",
        "identity", "classifiers", c1,
    ),
    "C2": Claim(
        "Barriers tell flat minima from sharp ones only after the symmetries are removed.",
        "empirical", "connectivity", c2,
    ),
    "C3": Claim(
        "RSGD finds flatter minima than SGD, and SGD than SGD from an adversarial initialisation; "
        "flatness predicts the test error.", "empirical", "flatness", c3,
    ),
    "C4": Claim("Flatter minima are closer to each other.", "empirical", "distances", c4),
    "C5": Claim(
        "Barriers along the geodesics between flat minima are small.",
        "empirical", "connectivity", c5,
    ),
    "C6": Claim(
        "Minimizers are joined by paths of zero error with a single bend.", "empirical", "bend", c6
    ),
    "C7": Claim(
        "The same picture holds for networks with binary weights and activations.",
        "empirical", "binary", c7,
    ),
    "C8": Claim(
        "Normalisation changes the loss by a temperature, and the error not at all.",
        "identity", "connectivity", c8,
    ),
    "C9": Claim(
        "What is measured agrees with what is known analytically of simple shallow models.",
        "theory", "shallow", c9,
    ),
}  # fmt: skip


class Decided(NamedTuple):
    """A claim as its runs decide it.

    Attributes:
        run: The decisive run; where none meets the preconditions the largest; None without any.
        verdict: Its verdict.
        all: Every run with its verdict, in the order given.
    """

    run: Run | None
    verdict: Verdict
    all: list[tuple[Run, Verdict]]


def decide(name: str, runs: Sequence[Run]) -> Decided:
    """What a claim comes to: the verdict of its decisive run.

    Args:
        name: Of the claim, ``"C1"`` to ``"C9"``.
        runs: Of its page.

    Example:
        >>> decide("C2", []).verdict.word
        'not decided at this scale'
    """
    found = [(run, CLAIMS[name].test(run)) for run in runs]
    if not found:
        nothing = Verdict(UNDECIDED, "No run is kept.", missing=("a kept run",))
        return Decided(None, nothing, [])
    run, verdict = max(found, key=lambda pair: _rank(*pair))
    return Decided(run, verdict, found)


def summary(page: str, runs: Sequence[Run], claim: str | None = None) -> str:
    """What a page shows: by the decisive run, and by the largest where that is another one.

    Args:
        page: Its name.
        runs: Of that page, the largest last.
        claim: Whose decisive run it is; None for the largest alone.
    """
    if not runs:
        return "No run is kept."
    decisive, largest = (decide(claim, runs).run if claim else None) or runs[-1], runs[-1]
    said = shows(page, decisive)
    if largest is decisive:
        return said
    more = shows(page, largest)
    return f"{said} On {largest.label}: {more[0].lower()}{more[1:]}"


def answers(decided: Mapping[str, Decided]) -> list[str]:
    """The empirical claims in four sentences: what holds, in part, not, and what is open.

    Beside the decisive run of a claim they tell the largest, whatever it misses, the last one, and
    every one on which the claim is not reproduced.

    Args:
        decided: By claim, the runs of each from the smallest to the largest.

    Returns:
        A sentence of each kind; where there is nothing of a kind, it says so.
    """
    said: dict[str, list[str]] = {word: [] for word in WORDS}
    lacking: dict[tuple[str, str], dict[str, Verdict]] = {}  # by run and precondition
    for name, found in decided.items():
        if CLAIMS[name].kind != "empirical":
            continue
        for run, verdict in [(found.run, found.verdict), *_beside(found)]:
            if run is None or verdict.missing:
                where = f" on {run.label}" if run else ""
                lacking.setdefault((where, verdict.missing[0]), {})[name] = verdict
            else:
                tell = _told if run is found.run else _found
                said[verdict.word].append(tell(name, run, verdict))
    said[UNDECIDED] = [_open(*what, verdicts) for what, verdicts in lacking.items()]
    return [
        f"{start} {'; '.join(said[word]) or 'nothing'}."
        for start, word in (
            ("What holds:", REPRODUCED), ("What holds in part:", PARTLY),
            ("What does not hold:", NOT),
            ("What is open:", UNDECIDED),
        )
    ]  # fmt: skip


def _beside(found: Decided) -> list[tuple[Run, Verdict]]:
    """The largest run, whatever it misses, the last one, and all that the claim fails on."""
    if not found.all:
        return []
    told = {id(max(found.all, key=lambda pair: _sizes(pair[0]))), id(found.all[-1])}
    told |= {id(pair) for pair in found.all if pair[1].word == NOT}
    return [pair for pair in found.all if id(pair) in told and pair[0] is not found.run]


def _told(name: str, run: Run, verdict: Verdict) -> str:
    """What the decisive run says: the claim itself where it holds."""
    if verdict.word != REPRODUCED:
        return _found(name, run, verdict)
    but = f", {verdict.but}" if verdict.but else ""
    return f"{_within(CLAIMS[name].statement)} ({name}: {run.label}{but})"


def _found(name: str, run: Run, verdict: Verdict) -> str:
    """What a run found."""
    return f"{name} on {run.label}: {_within(verdict.evidence)}"


def _open(where: str, lacks: str, verdicts: Mapping[str, Verdict]) -> str:
    """What a run lacks for a verdict of some claims, and what their tests say alone."""
    *before, last = verdicts
    told = f"{', '.join(before)} and {last}" if before else last
    told += f"{where}, which lacks {lacks}"
    for name, verdict in verdicts.items():
        if verdict.regardless:
            found = f": {_within(verdict.evidence)}" if verdict.regardless == NOT else ""
            told += f", {f'{name} ' if before else ''}{verdict.regardless} by the test alone{found}"
    return told


def _within(sentence: str) -> str:
    """A sentence as a part of another."""
    told = sentence if sentence[:2].isupper() else sentence[0].lower() + sentence[1:]
    return told.rstrip(".")


def _rank(run: Run, verdict: Verdict) -> tuple[float, ...]:
    """A run that misses a precondition never outranks one that meets them all."""
    return not verdict.missing, *_sizes(run)


def _sizes(run: Run) -> tuple[float, ...]:
    scale = run.scale
    sizes = (scale.images, scale.width, scale.seeds)
    return tuple(size if size == size else 0 for size in sizes)


def by_matching(name: str, run: Run) -> dict[str, Verdict]:
    """The verdict of each matching of a run, the paper's first.

    Args:
        name: ``"C2"``, ``"C4"`` or ``"C5"``.
        run: Of its page.
    """
    tests = {"C2": (c2, "barriers"), "C4": (c4, "distances"), "C5": (c5, "barriers")}
    test, table = tests[name]
    return {said(way): test(run, way) for way in matchings(run[table])} if len(run[table]) else {}


def headline(verdicts: dict[str, Verdict]) -> str:
    """How many claims come to what: the empirical ones apart from identities and theory.

    Args:
        verdicts: By claim.

    Example:
        >>> headline({"C2": Verdict(REPRODUCED, ""), "C8": Verdict(REPRODUCED, "")})
        'Of 1 empirical claim: 1 reproduced. The identities hold.'
    """
    words = pd.Series({k: v.word for k, v in verdicts.items()})
    kinds = pd.Series({k: CLAIMS[k].kind for k in verdicts})
    empirical = words[kinds == "empirical"]
    counts = ", ".join(f"{n} {w}" for w in WORDS if (n := int((empirical == w).sum())))
    sentences = [f"Of {len(empirical)} empirical claim{'s' * (len(empirical) != 1)}: {counts}."]
    for kind, name, verb in (
        ("identity", "The identities", ("hold", "do not all hold")),
        ("theory", "Theory", ("agrees", "does not agree in all")),
    ):
        own = words[kinds == kind]
        if len(own):
            undecided = ", ".join(own.index[own == UNDECIDED])
            holds = (own[own != UNDECIDED] == REPRODUCED).all()
            word = verb[0] if holds else verb[1]
            if undecided:
                word += f", as far as they are decided ({undecided} is not)"
            sentences.append(f"{name} {word}.")
    return " ".join(sentences)
