"""The claims about flatness and distance: C3 and C4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from ._paths import PAPERS, treated
from ._runs import (
    ALGORITHMS,
    DECAYED,
    DECAYED_PAIRS,
    SHORT,
    UNTRAINED,
    WITHIN,
    Run,
    missing,
)
from ._statistics import (
    Estimate,
    Networks,
    Paired,
    Sample,
    Settings,
    correlation,
    networks_in,
    written,
)
from ._words import (
    NOT,
    PARTLY,
    REPRODUCED,
    TITLES,
    UNDECIDED,
    Verdict,
    decide,
    undecided,
)

SETTING = ["width", "lr", "batch_size", "seed"]


class Flatness(NamedTuple):
    """What C3 asks of one architecture.

    Attributes:
        flat: In how many pairs of one setting and seed RSGD is flatter than SGD.
        sharp: In how many SGD is flatter than ADV.
        tau: Kendall's τ of local energy and test error, over all networks.
        without: The same without ADV.
        networks: How many.
    """

    flat: Paired
    sharp: Paired
    tau: Estimate
    without: Estimate
    networks: int

    @classmethod
    def of(cls, table: pd.DataFrame) -> Flatness:
        """From the rows of one architecture; other algorithms than the three do not count."""
        table = table[table["algorithm"].isin(ALGORITHMS)]
        settings = _settings(table)
        rest = table[table["algorithm"] != ALGORITHMS[-1]]
        tau, without = (
            correlation(t["local energy"], t["test_error"], _names(t))["tau"] for t in (table, rest)
        )
        flat, middle, sharp = ALGORITHMS
        compared = settings.compare(flat, middle), settings.compare(middle, sharp)
        return cls(*compared, tau, without, len(table))

    @property
    def ordered(self) -> bool:
        """C3(a)."""
        return self.flat.holds and self.sharp.holds

    @property
    def predicted(self) -> bool:
        """C3(b)."""
        return self.tau.positive and self.without.positive


def by_arch(table: pd.DataFrame) -> dict[str, Flatness]:
    """What C3 asks of each architecture, by what a reader calls it."""
    parts = table.groupby("arch", sort=False)
    return {TITLES.get(str(arch), str(arch)): Flatness.of(part) for arch, part in parts}


def _names(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Setting and seed of each row."""
    return list(table[[c for c in SETTING if c in table]].itertuples(index=False, name=None))


def _settings(table: pd.DataFrame) -> Settings:
    index = [c for c in SETTING if c in table]
    return Settings(table.pivot(index=index, columns="algorithm", values="local energy"))


def c3(run: Run) -> Verdict:
    """RSGD, SGD and ADV minima are ordered in flatness, and flatness predicts the test error.

    The test: (a) the order: in paired comparisons (same setting and seed) RSGD is flatter than SGD,
    and SGD flatter than ADV, each in at least three quarters of the pairs. (b) the prediction:
    Kendall's τ of local energy and test error is above 0 with its whole interval, over all networks
    and without ADV. Reproduced: (a) and (b) in every architecture. Partly reproduced: (b) over all
    networks in every architecture.

    Known then: the kept runs, in which SGD was below ADV in all of some settings and in half of
    others, and some intervals of τ without ADV held 0.

    Args:
        run: Of the page ``flatness``.
    """
    table = run["flatness"]
    lacking = list(missing(run))
    if table.empty or not set(ALGORITHMS) <= set(table["algorithm"]):
        return undecided(*lacking, "local energies of all three algorithms")
    archs = by_arch(table)
    for arch, part in table.groupby("arch", sort=False):
        own = part[part["algorithm"].isin(ALGORITHMS)]
        if holes := int(_settings(own).wide.isna().to_numpy().sum()):
            name = TITLES.get(str(arch), arch)
            lacking.append(f"{holes} networks of {name} (left out of its table)")
    word = REPRODUCED if all(f.ordered and f.predicted for f in archs.values()) else NOT
    if word == NOT and all(f.tau.positive for f in archs.values()):
        word = PARTLY
    parts = {}
    for arch, found in archs.items():
        parts[f"{arch}: RSGD flatter than SGD"] = str(found.flat)
        parts[f"{arch}: SGD flatter than ADV"] = str(found.sharp)
        parts[f"{arch}: τ, all networks"] = str(found.tau)
        parts[f"{arch}: τ without ADV"] = str(found.without)
    name, least = min(archs.items(), key=lambda item: item[1].without.low)
    evidence = "; ".join(
        (f"{arch}: " if len(archs) > 1 else "")
        + f"RSGD is flatter than SGD in {f.flat} pairs, SGD than ADV in {f.sharp}; τ with "
        f"the test error is {f.tau}, without ADV {f.without}"
        for arch, f in archs.items()
    )
    return decide(
        word, evidence + _narrow(table) + ".", tuple(lacking), number=least.without, parts=parts,
        label=f"τ of local energy and test error without ADV, {name}",
        networks=sum(f.networks for f in archs.values()),
    )  # fmt: skip


def _narrow(table: pd.DataFrame) -> str:
    """A warning where intervals are drawn over so few settings that they are too narrow."""
    count = table[[c for c in SETTING if c in table]].drop_duplicates().shape[0]
    return f" (intervals over {count} settings, narrower than they should be)" if count < 5 else ""


def energies(run: Run) -> dict[str, float]:
    """The mean local energy of each of the three algorithms, in points, by its short name.

    Args:
        run: Of a page that keeps a table ``flatness``; nothing where it lacks an algorithm.
    """
    table = run["flatness"]
    if not {"algorithm", "local energy"} <= {*table}:
        return {}
    means = 100 * table.groupby("algorithm")["local energy"].mean().reindex(ALGORITHMS)
    return {} if means.isna().any() else dict(zip(SHORT, means, strict=True))


def flattest(run: Run) -> str:
    """That the algorithms do not stand in the order of their local energies, where they do not.

    Args:
        run: As `energies`.
    """
    found = energies(run)
    order = sorted(found, key=lambda name: found[name])
    if tuple(order) in ((), SHORT):
        return ""
    listed = ", ".join(f"{name} {written(found[name])}" for name in order)
    return (
        f"in the order of the algorithms; by local energy {order[0]} is the flattest there, with "
        f"{listed} points"
    )


def decay_closeness(found: Mapping[str, Sample]) -> Estimate | None:
    """How much of what sets the closeness of RSGD pairs apart weight decay makes alone.

    Args:
        found: As `closeness`.

    Returns:
        SGD+ minus SGD over RSGD minus SGD; None where a kind of pairs is not there.
    """
    flat, middle = WITHIN[:2]
    if not {flat, middle, DECAYED_PAIRS} <= found.keys():
        return None
    return (found[DECAYED_PAIRS] - found[middle]).over(found[flat] - found[middle]).estimate


def decay_share(table: pd.DataFrame) -> Estimate:
    """How much of the difference between RSGD and SGD its stronger weight decay makes alone.

    The mean local energy of SGD minus that of SGD with as much weight decay as RSGD, over that of
    SGD minus that of RSGD: 0 if weight decay does nothing, 1 if it does all.

    Args:
        table: As C3, with the algorithm ``sgd_decayed``; of one architecture.

    Returns:
        With its interval over settings; not numbers where the table lacks an algorithm.

    Example:
        >>> import pandas as pd
        >>> rows = [("sgd", 0.3), ("sgd_decayed", 0.2), ("replicated_sgd", 0.1)]
        >>> table = pd.DataFrame(rows, columns=["algorithm", "local energy"])
        >>> round(decay_share(table.assign(seed=0)).value, 2)
        0.5
    """
    names = (ALGORITHMS[1], DECAYED, ALGORITHMS[0])
    chosen = table[table["algorithm"].isin(names)]
    if set(names) != set(chosen["algorithm"]):
        return Estimate(float("nan"), float("nan"), float("nan"))
    settings = Settings(_settings(chosen).wide.dropna())
    plain, decayed, flat = map(settings.mean, names)
    return (plain - decayed).over(plain - flat).estimate


def sides(distances: pd.DataFrame, matching: tuple[str, str] = PAPERS) -> pd.DataFrame:
    """Pairs as found and aligned, side by side.

    Args:
        distances: A row for each pair and treatment.
        matching: As `treated`; of the paper's the permutation is found of normalised weights.

    Returns:
        A row for each pair: ``kind, first_seed, second_seed, related, raw`` (as found), and the
        angles ``as found, aligned, aligned, weights, aligned, BatchNorm``.
    """
    keys = ["kind", "first_seed", "second_seed", "related"]
    where = ("sequential", "normalised") if matching == PAPERS else matching
    found = distances[distances["alignment"] == "as found"].set_index(keys)
    moved = treated(distances, {"alignment": "aligned"}, where).set_index(keys)
    table = found[["raw"]].assign(**{"as found": found["angle"], "aligned": moved["angle"]})
    for part in ("weights", "BatchNorm"):
        table[f"aligned, {part}"] = moved[f"angle, {part}"]
    return table.reset_index()


def closeness(
    table: pd.DataFrame, column: str, networks: Networks | None = None
) -> dict[str, Sample]:
    """How much closer pairs are than untrained ones: 1 minus the ratio of the mean distances.

    Args:
        table: Pairs, those of untrained networks among them.
        column: Their distance.
        networks: Draws to share.

    Returns:
        For each kind of pairs within an algorithm that is there, the baseline's among them.
    """
    drawn, means = networks or Networks(table), {}
    kinds = (*WITHIN, DECAYED_PAIRS)
    for kind in (UNTRAINED, *kinds):
        part = table[table["kind"] == kind]
        if len(part):
            means[kind] = drawn.mean(part, part[column])
    return {kind: means[kind].over(means[UNTRAINED]).below() for kind in kinds if kind in means}


def c4(run: Run, matching: tuple[str, str] = PAPERS) -> Verdict:
    """Flatter minima are closer to each other, in function space.

    The test: closeness of pairs is 1 minus their aligned root mean square angle over that of
    untrained aligned pairs, of weights alone where there is BatchNorm. Reproduced: the mean
    closeness descends from RSGD to SGD to ADV, the interval of RSGD minus ADV is above 0, and that
    of RSGD is at least 0.05. Partly reproduced: the order and the interval, with a smaller
    closeness.

    Known then: that on CIFAR-10 pairs of untrained networks were as far apart as ADV pairs, and
    RSGD pairs half a percent closer.

    Args:
        run: Of the page ``distances``.
        matching: As in `treated`.
    """
    table = run["distances"]
    if table.empty:
        return undecided("distances (not kept)")
    column = angle_column(table)
    where = ("sequential", "normalised") if matching == PAPERS else matching
    return c4_of(run, treated(table, {"alignment": "aligned"}, where), column)


def angle_column(table: pd.DataFrame) -> str:
    """The angle that C4 is about: of weights alone where there is BatchNorm."""
    parts = table.get("angle, BatchNorm")
    return "angle" if parts is None or parts.isna().all() else "angle, weights"


def c4_of(run: Run, pairs: pd.DataFrame, column: str) -> Verdict:
    """C4 of any table of aligned pairs and any distance; see `c4`."""
    lacking = missing(run, pairs)
    within = pairs[pairs["kind"].isin(WITHIN)]
    means = within.groupby("kind")[column].mean().reindex(WITHIN)
    if means.isna().any():
        return undecided(*lacking, "pairs of all three algorithms")
    if not (pairs["kind"] == UNTRAINED).any():
        listed = ", ".join(f"{m:.3f} ({k})" for k, m in zip(SHORT, means, strict=True))
        lacking += ("distances of untrained pairs (not kept)",)
        evidence = f"Mean distances of aligned pairs: {listed}; there is nothing to compare with."
        return Verdict(
            UNDECIDED, evidence, missing=lacking, networks=networks_in(within), pairs=len(within)
        )
    drawn = Networks(pairs)
    found = closeness(pairs, column, drawn)
    values = [found[kind].value for kind in WITHIN]
    gap = (found[WITHIN[0]] - found[WITHIN[-1]]).estimate
    ordered = values[0] > values[1] > values[2] and gap.positive
    word = NOT if not ordered else REPRODUCED if values[0] >= 0.05 else PARTLY
    named = [*zip(SHORT, WITHIN, strict=True)]
    parts = {f"closeness, {k}": str(found[kind].estimate) for k, kind in named}
    parts["closeness, RSGD minus ADV"] = str(gap)
    if "disagreement" in pairs and pairs["disagreement"].notna().any():
        for short, kind in named:
            part = within[within["kind"] == kind]
            share = drawn.mean(part, 100 * part["disagreement"]).estimate
            parts[f"test images predicted differently, {short} (%)"] = str(share)
    listed = ", ".join(f"{100 * v:.1f} % ({k})" for k, v in zip(SHORT, values, strict=True))
    evidence = f"Aligned pairs are closer than untrained ones by {listed}."
    if DECAYED_PAIRS in found:
        parts["closeness, SGD+"] = str(found[DECAYED_PAIRS].estimate)
        parts["what SGD+ has of RSGD minus SGD"] = str(decay_closeness(found))
    return decide(
        word, evidence, lacking, number=found[WITHIN[0]].estimate, bound=0.05, parts=parts,
        label="closeness of flat pairs, 0 as untrained ones and 1 if alike",
        networks=networks_in(within), pairs=len(within), but=flattest(run),
    )  # fmt: skip
