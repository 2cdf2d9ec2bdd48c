"""What a page's experiment starts from: its parameters, its trained networks, and their pairs.

::

    page = pages.Page(globals(), "connectivity")
    networks = page.networks()
    for pair in networks.pairs():
        path = toroid.Geodesic(*pair.states("normalised", "sequential"), networks.symmetry)
        curves = networks.walks.along(path, points, pair.ends("normalised"))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import Tensor, nn

from .. import evaluation, paths
from .._files import write
from .._state import State
from ..alignment import Alignment, align
from ..data import Dataset
from ..evaluation import Score
from ..landscape import Curve, along
from ..minimizers import Minimizer, Store, Stored, train_all
from ..symmetry import Symmetry, find_symmetries
from ..torus import normalize
from ..training import ReplicatedSGD
from . import claims, measures, notebooks, parameters, references, tables
from .notebooks import End
from .plotting import SHORT

__all__ = [
    "DECAYED", "MATCHINGS", "Networks", "Page", "Pair", "Walks", "batchnorm", "named", "treatments",
]  # fmt: skip

K = TypeVar("K")

#: Training images on which activations are compared.
MATCHED_ON = 500
#: SGD with as much weight decay as the learning rate of replicated SGD gives it.
DECAYED = "sgd_decayed"
#: Every matching: its method, and of which weights the permutation is found, or the units' values.
MATCHINGS = (
    ("sequential", "normalised"), ("sequential", "raw"), ("coordinate", "normalised"),
    ("coordinate", "raw"), ("coordinate", "balanced"), ("activation", "values"),
)  # fmt: skip


class Page:
    """A page's run: its parameters, what it trains, what it has finished and what it keeps.

    Args:
        namespace: ``globals()`` of the notebook; its parameters are put back in their types.
        name: The notebook's name.

    Attributes:
        values: The parameters.
        folder: Where its tables go.
        device: Where its networks run.
        saved: The tables that it has kept so far, by name.
        symmetries: Those of its networks, by data set, architecture and width.
        parts: What the same run has finished before, see `toroid.book.notebooks.Parts`.

    Raises:
        ParameterError: As `toroid.book.parameters.check`.
    """

    def __init__(self, namespace: dict[str, Any], name: str) -> None:
        """Check the parameters and make the folder."""
        parameters.check(namespace, name)
        self.name = name
        self.values = {key: namespace[key] for key in parameters.declared(name)}
        self.folder = Path(self.values["results"])
        self.folder.mkdir(parents=True, exist_ok=True)
        self.saved: dict[str, pd.DataFrame] = {}
        self.symmetries: dict[tuple[str, str, float], Symmetry] = {}
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    @cached_property
    def parts(self) -> notebooks.Parts:
        """Under a digest of the page and the parameters, so that no other run sees them."""
        return notebooks.Parts(self.values, self.name)

    def described(self, **other: Any) -> dict[End, Minimizer]:
        """The minimizers that the parameters speak of, by algorithm and seed.

        Args:
            **other: Parameters with another value, e.g. ``lr=0.05``.
        """
        values = {**self.values, **other}
        algorithms = values["algorithms"]
        found = notebooks.described(values, [a for a in algorithms if a != DECAYED])
        if DECAYED in algorithms:
            values["weight_decay"] *= ReplicatedSGD.replicas
            plain = notebooks.described(values, ["sgd"])
            found |= {(DECAYED, seed): minimizer for (_, seed), minimizer in plain.items()}
        return {end: m for name in algorithms for end, m in found.items() if end[0] == name}

    def trained(self, described: Mapping[K, Minimizer]) -> dict[K, Stored]:
        """Minimizers from the store, or trained and put there, under the same keys.

        Args:
            described: Descriptions by any key.
        """
        store = Store(self.values["store"] or None)
        found = train_all(described.values(), store, n_jobs=self.values["n_jobs"], progress=False)
        return dict(zip(described, found, strict=True))

    def networks(
        self, *, take: Callable[[State], dict[str, Tensor]] = dict, **other: Any
    ) -> Networks:
        """Trained networks of one architecture, by algorithm and seed.

        Args:
            take: What counts of a trained state, e.g. `toroid.binary.signs`.
            **other: Parameters with another value.
        """
        described = self.described(**other)
        return Networks(self, described, self.trained(described), take)

    def save(self, name: str, table: pd.DataFrame, index: bool = False) -> None:
        """Write a table: ``name.csv`` in the folder of the results.

        Args:
            name: Of the file, without its ending.
            table: Numbers and words.
            index: Whether the index is a column of the table.
        """
        write(self.folder / f"{name}.csv", table.to_csv(index=index).encode())
        self.saved[name] = table

    def save_scale(
        self, networks: Networks, *, places: int | None = None, images: int | None = None
    ) -> float:
        """Keep how large the run is, as `toroid.book.claims` describes it: a table of one row.

        Args:
            networks: Those that were trained.
            places: Along a path; None on a page without paths.
            images: In the smallest evaluation; None for the smaller part that paths are walked on.

        Returns:
            The error of guessing.
        """
        every, chance = networks.described.values(), 1 - 1 / networks.train.classes
        row = {
            "dataset": networks.first.dataset,
            "network": " and ".join(dict.fromkeys(m.architecture for m in every)),
            "training images": len(networks.train), "width": max(m.width for m in every),
            "seeds": len(self.values["seeds"]), "places": math.nan if places is None else places,
            "images": min(map(len, networks.few.values())) if images is None else images,
            "chance": chance,
        }  # fmt: skip
        self.save("scale", pd.DataFrame([row]))
        return chance

    @property
    def run(self) -> claims.Run:
        """This run as the claims' tests take it: the tables kept so far."""
        label = references.label_of(self.values) or self.name
        return claims.Run.of(label, self.saved, self.values)

    def glue(self, **values: Any) -> None:
        """Keep numbers and words for the page's prose, see `toroid.book.notebooks.glue`."""
        for name, value in values.items():
            notebooks.glue(name, value)

    def kept(self, table: str) -> list[references.Kept]:
        """A table of every kept run of this page, see `toroid.book.references.kept`."""
        return references.kept(self.name, table)

    def runs(self, name: str, table: pd.DataFrame) -> list[references.Kept]:
        """A table of every kept run; where none is kept, of this one.

        Args:
            name: Of the table.
            table: This run's.
        """
        label = self.values.get("dataset", self.name)
        return self.kept(name) or [references.Kept(label, table, "", self.values)]

    def made(self, table: str) -> str:
        """Where the kept runs that have a table were made, and how long they took."""
        return tables.listed(run.made for run in self.kept(table))

    def decide(self, name: str) -> claims.Verdict:
        """The verdict on a claim; glues it, its evidence, and those of all kept runs.

        Args:
            name: A key of `toroid.book.claims.CLAIMS`; its tables were saved before.

        Returns:
            This run's verdict: glued as ``verdict_c2`` (the word), ``c2`` (what was found and what
            is missing), and with ``kept_c2``, the words of the kept runs.
        """
        test, key = claims.CLAIMS[name].test, name.lower()
        verdict = test(self.run)
        words = [f"{test(run).word} ({run.label})" for run in references.runs(self.name)]
        kept = {f"kept_{key}": tables.listed(words)}
        self.glue(**{key: verdict.sentence, f"verdict_{key}": verdict.word}, **kept)
        return verdict

    def shows(self, claim: str | None = None) -> None:
        """Glue what the page shows: ``shows`` by this run, ``kept_shows`` by those that are kept.

        Args:
            claim: Whose decisive run comes first; None for the largest alone.
        """
        runs = references.runs(self.name)
        largest = runs[-1] if runs else None
        run = claims.decide(claim, runs).run if claim else largest
        kept = claims.summary(self.name, runs, claim)
        where = "" if run is None else f"{run.label}{', seen before' if run.seen else ''}"
        here = claims.shows(self.name, self.run)
        self.glue(shows=here, kept_shows=kept, kept_shown=where or "none")


@dataclass(frozen=True)
class Walks:
    """How a page evaluates a state, at the ends of a path and along it.

    Attributes:
        model: The network.
        parts: Data by the name of the part.
        refresh: Data on which BatchNorm's statistics are estimated again; None without BatchNorm.
        how: Fields of `toroid.Evaluation`.
    """

    model: nn.Module
    parts: Mapping[str, Dataset]
    refresh: Dataset | None
    how: Mapping[str, Any] = field(default_factory=dict)

    def score(self, state: State) -> dict[str, Score]:
        """Error and loss of one state on each part."""
        if self.refresh is not None:
            state = evaluation.refresh(state, self.model, self.refresh, **self.how)
        return {
            k: evaluation.evaluate(state, self.model, v, **self.how) for k, v in self.parts.items()
        }

    def along(
        self, path: paths.Path, points: int,
        ends: Mapping[str, tuple[Score, Score]] | None = None,
    ) -> dict[str, Curve]:  # fmt: skip
        """Error and loss along a path on each part.

        Args:
            path: From t in [0, 1] to a state.
            points: Places along it, with both ends.
            ends: Scores at both ends, if they are known.
        """
        return along(
            path, self.model, self.parts, points=points, refresh=self.refresh, ends=ends, **self.how
        )


class Networks:
    """Trained networks of one architecture, in the forms that a page compares.

    Args:
        page: Whose parameters count: ``evaluate_on``, ``precision``, ``seeds``, ``algorithms``.
        described: Minimizers by algorithm and seed.
        stored: The same, trained.
        take: What counts of a trained state.
    """

    def __init__(
        self, page: Page, described: Mapping[End, Minimizer], stored: Mapping[End, Stored],
        take: Callable[[State], dict[str, Tensor]] = dict,
    ) -> None:  # fmt: skip
        """Take them; data and states are made when they are asked for."""
        self.page, self.described, self.stored, self._take = page, described, stored, take
        self._known: dict[tuple[str, End], dict[str, Score]] = {}

    @property
    def first(self) -> Minimizer:
        """One of them: data and architecture are those of all."""
        return next(iter(self.described.values()))

    @cached_property
    def _data(self) -> tuple[Dataset, Dataset]:
        train, test = (part.to(self.page.device) for part in self.first.load())
        return train, test

    @property
    def train(self) -> Dataset:
        """All training data."""
        return self._data[0]

    @cached_property
    def few(self) -> dict[str, Dataset]:
        """Training and test data, at most ``evaluate_on`` images of each."""
        most = self.page.values["evaluate_on"]
        parts = zip(("train", "test"), self._data, strict=True)
        return {name: part.take(min(most, len(part))) for name, part in parts}

    @cached_property
    def model(self) -> nn.Module:
        """The network; its own weights do not matter."""
        return self.first.model(self.train.shape, self.train.classes).to(self.page.device)

    @cached_property
    def symmetry(self) -> Symmetry:
        """Of the network; settings of its training share it."""
        key = (self.first.dataset, self.first.architecture, self.first.width)
        known = self.page.symmetries
        if key not in known:
            known[key] = find_symmetries(self.model, self.train.images[:2])
        return known[key]

    @property
    def refresh(self) -> Dataset | None:
        """Data on which BatchNorm's statistics are estimated again, if there is a BatchNorm."""
        return self.few["train"] if batchnorm(self.symmetry) else None

    @cached_property
    def raw(self) -> dict[End, dict[str, Tensor]]:
        """The states as trained, in the model's order, which a file does not keep."""
        device, names = self.page.device, self.model.state_dict()
        taken = {end: self._take(m.state) for end, m in self.stored.items()}
        return {
            end: {k: state[k].to(device) for k in names if k in state}
            for end, state in taken.items()
        }

    @cached_property
    def normal(self) -> dict[End, dict[str, Tensor]]:
        """The normalised states."""
        return {end: normalize(state, self.symmetry) for end, state in self.raw.items()}

    def states(self, weights: str) -> dict[End, dict[str, Tensor]]:
        """All states, ``"raw"`` or ``"normalised"``."""
        return {"raw": lambda: self.raw, "normalised": lambda: self.normal}[weights]()

    @cached_property
    def walks(self) -> Walks:
        """How they are evaluated: networks of ±1 in integers, which changes nothing."""
        how: dict[str, Any] = {"precision": "int8" if self.train.binary else "float32"}
        if "precision" in self.page.values:
            how = {"channels_last": True, "precision": self.page.values["precision"]}
        flat = all(x.dim() < 3 for x in self.model.state_dict().values())
        if flat or self.page.device == "cuda":  # what computes waits for the next call otherwise
            how["batch_size"] = 1000 if flat else 2500
        return Walks(self.model, self.few, self.refresh, how)

    def known(self, end: End, weights: str = "raw") -> dict[str, Score]:
        """Error and loss of one of them; it is the end of many paths and evaluated once.

        Args:
            end: Algorithm and seed.
            weights: ``"raw"`` or ``"normalised"``; what moves along a symmetry has the same.
        """
        if (weights, end) not in self._known:
            self._known[weights, end] = self.walks.score(self.states(weights)[end])
        return self._known[weights, end]

    def table(self, *more: str) -> pd.DataFrame:
        """A row for each: errors, more of its record, and why it failed, if it did."""
        return tables.trained(self.stored, ("train_error", "test_error", *more))

    @property
    def failed(self) -> str:
        """How many trainings are not what was asked for."""
        failed = self.table()["failed"] != ""
        return f"{failed.sum()} of {len(failed)}"

    def untrained(self) -> Networks:
        """Networks of the same architecture before their training, one for each seed."""
        described = {
            ("untrained", seed): replace(self.first, seed=seed)
            for seed in self.page.values["seeds"]
        }
        shape, classes = self.train.shape, self.train.classes
        stored = {
            end: Stored(dict(m.model(shape, classes).state_dict()), {})
            for end, m in described.items()
        }
        return Networks(self.page, described, stored, self._take)

    def pair(self, a: End, b: End) -> Pair:
        """Two of them."""
        return Pair(self, a, b)

    def pairs(
        self, kinds: Iterable[tuple[str, str]] | None = None, each: int | None = None
    ) -> Iterator[Pair]:
        """Pairs of each kind, of different seeds before those of the same.

        Args:
            kinds: Pairs of algorithms; by default all of the page's. SGD with more weight decay is
                a baseline for pairs within an algorithm, and makes no others.
            each: How many of each kind at most; by default the page's ``pairs_each``.
        """
        values = self.page.values
        each = values["pairs_each"] if each is None else each
        for first, second in kinds or self._kinds():
            for a, b in notebooks.pairs(first, second, values["seeds"])[:each]:
                yield self.pair(a, b)

    def _kinds(self) -> list[tuple[str, str]]:
        """Those of all the page's algorithms."""
        kinds = combinations_with_replacement(self.page.values["algorithms"], 2)
        return [kind for kind in kinds if DECAYED not in kind or kind[0] == kind[1]]


@dataclass(frozen=True)
class Pair:
    """Two networks, and the ways to move the second to the first.

    Attributes:
        networks: Among which they are.
        a: Algorithm and seed of the first, which stays where it is.
        b: Those of the second.
    """

    networks: Networks
    a: End
    b: End
    _found: dict[tuple[str, str], Alignment] = field(default_factory=dict, repr=False)

    @property
    def what(self) -> dict[str, str]:
        """Columns that name it: ``kind`` (RSGD-SGD) and ``pair`` (its seeds, 0-1)."""
        (first, i), (second, j) = self.a, self.b
        return {"kind": f"{SHORT[first]}-{SHORT[second]}", "pair": f"{i}-{j}"}

    @property
    def key(self) -> str:
        """The same in a word, e.g. for its parts of a run: ``RSGD-SGD.0-1``."""
        return ".".join(self.what.values())

    def alignment(self, method: str = "sequential", weights: str = "normalised") -> Alignment:
        """The second moved to the first; each way is computed once.

        Args:
            method: As in `toroid.align`.
            weights: ``"raw"``, ``"normalised"`` or ``"balanced"``: which of them are compared; in
                place of balanced ones the raw state is moved.
        """
        if (method, weights) not in self._found:
            balanced, train = weights == "balanced", self.networks.train
            states = self.networks.states("raw" if balanced else weights)
            self._found[method, weights] = align(
                states[self.b], to=states[self.a], symmetry=self.networks.symmetry, method=method,
                balanced=balanced, model=self.networks.model, inputs=train.images[:MATCHED_ON],
            )  # fmt: skip
        return self._found[method, weights]

    def states(
        self, weights: str = "normalised", method: str | None = None, by: str | None = None
    ) -> tuple[State, State]:
        """The two ends of a path.

        Args:
            weights: ``"raw"`` or ``"normalised"``.
            method: How the second is moved to the first; None leaves it as found.
            by: Which weights decide how it is moved; by default those of the path.
        """
        a, b = (self.networks.states(weights)[end] for end in (self.a, self.b))
        if method is None:
            return a, b
        found = self.alignment(method, by or weights)
        if by in (None, weights):
            return a, found.state
        return a, measures.moved(b, found.permutations, found.signs, self.networks.symmetry)

    def matched(self, weights: str, method: str | None, by: str = "own") -> tuple[State, State]:
        """The two ends of a path, by a matching as tables name it.

        Args:
            weights: ``"raw"`` or ``"normalised"``.
            method: As in `states`.
            by: Of which weights the permutation is found: ``"raw"``, ``"normalised"``,
                ``"balanced"``, ``"own"`` for those of the path; ``"values"`` for activations, which
                no rescaling changes.
        """
        return self.states(weights, method, {"own": None, "values": "normalised"}.get(by, by))

    def ends(self, weights: str = "normalised") -> dict[str, tuple[Score, Score]]:
        """Scores of both ends on each part, moved or not.

        Args:
            weights: ``"raw"`` or ``"normalised"``.
        """
        first, second = (self.networks.known(end, weights) for end in (self.a, self.b))
        return {split: (first[split], second[split]) for split in first}


def batchnorm(symmetry: Symmetry) -> bool:
    """Whether a network has statistics that are estimated again along a path.

    Args:
        symmetry: The network's.
    """
    return any(axis.role == "var" for group in symmetry.groups for axis in group.axes)


def named(method: str | None, weights: str, by: str = "own") -> dict[str, str]:
    """The columns ``alignment, method, matched`` of a pair's table.

    Args:
        method: How the second network is moved; None as found.
        weights: Those of the path.
        by: As in `Pair.matched`.

    Example:
        >>> named("sequential", "raw")
        {'alignment': 'aligned', 'method': 'sequential', 'matched': 'raw'}
    """
    if method is None:
        return {"alignment": "as found", "method": "none", "matched": weights}
    where = "values" if method == "activation" else weights if by == "own" else by
    return {"alignment": "aligned", "method": method, "matched": where}


def treatments(method: str) -> Sequence[tuple[str, str | None]]:
    """The two alignments of every figure, and how each moves the second network.

    Args:
        method: As in `toroid.align`.

    Example:
        >>> treatments("sequential")
        (('as found', None), ('aligned', 'sequential'))
    """
    return ("as found", None), ("aligned", method)
