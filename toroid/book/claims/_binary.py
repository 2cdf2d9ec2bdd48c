"""C7: the claims C2 to C6 of networks with binary weights, one by one."""

from __future__ import annotations

import pandas as pd

from ._flatness import Flatness, c4_of
from ._paths import c2_of, c5_of, c6_of
from ._runs import Run, missing
from ._words import NOT, PARTLY, REPRODUCED, Verdict, decide, undecided

#: Hamming distance for the angle, random orders of flips for the geodesic.
BEFORE = {"weights": "binary", "path": "random order", "alignment": "as found"}
AFTER = {**BEFORE, "alignment": "aligned"}


def c7(run: Run) -> Verdict:
    """The same picture holds for networks with binary weights and activations.

    The test: C2, C3, C4, C5 and C6 of binary networks one by one, with the tests above; the Hamming
    distance stands for the angle, random orders of flips for the geodesic (a pair's barrier is
    their mean), flips for the noise. Reproduced: C2, C3(a) and C4 hold and alignment lowers every
    mean barrier. Partly reproduced: two of those four. The rest is shown.

    Known then: the kept runs on 500 and 1,000 patterns.

    Args:
        run: Of the page ``binary``.
    """
    table, flat = run["barriers"], run["flatness"]
    if table.empty or flat.empty:
        return undecided("barriers and local energies of binary networks (not kept)")
    train = table[table["split"] == "train"]
    found = parts_of(run)
    lowered, of = alignment_lowers(train)
    energies = Flatness.of(flat)
    holds = [
        found["C2"].word == REPRODUCED, energies.ordered, found["C4"].word == REPRODUCED,
        lowered == of > 0,
    ]  # fmt: skip
    lacking = list(missing(run, train[train["alignment"] == "aligned"], paths=True))
    lacking += [m for v in (found["C2"], found["C4"]) for m in v.missing if m not in lacking]
    parts = {
        "C2": found["C2"].word,
        "C3(a), the order": "holds" if energies.ordered else "does not hold",
        "C4": found["C4"].word, "alignment lowers mean barriers": f"{lowered} of {of}",
        "C3(b), τ over all networks": str(energies.tau),
        "C3(b), τ without ADV": str(energies.without),
        "C5": found["C5"].word, "C6": found["C6"].word,
    }  # fmt: skip
    word = REPRODUCED if all(holds) else PARTLY if sum(holds) >= 2 else NOT
    evidence = (
        f"RSGD is flatter than SGD in {energies.flat} pairs, SGD than ADV in {energies.sharp}; "
        f"alignment lowers {lowered} of {of} mean barriers. {found['C2'].evidence}"
    )
    first = found["C2"]
    return decide(
        word, evidence, tuple(lacking), label=first.label, number=first.number, bound=first.bound,
        networks=first.networks, pairs=first.pairs, parts=parts,
    )  # fmt: skip


def parts_of(run: Run) -> dict[str, Verdict]:
    """C2, C4, C5 and C6 of binary networks.

    Args:
        run: Of the page ``binary``.
    """
    table = run["barriers"]
    train = table[table["split"] == "train"]
    found = {"C2": c2_of(run, train, BEFORE, AFTER), "C5": c5_of(run, train, BEFORE, AFTER)}
    pairs = run["distances"]
    found["C4"] = undecided("distances (not kept)") if pairs.empty else c4_of(run, pairs, "aligned")
    found["C6"] = c6_of(run, {"weights": "binary", "alignment": "aligned"})
    return found


def alignment_lowers(barriers: pd.DataFrame) -> tuple[int, int]:
    """In how many kinds of pairs the mean training barrier is lower aligned, and of how many.

    Args:
        barriers: Of the training error.
    """
    chosen = barriers[barriers["path"] == "random order"]
    means = chosen.groupby(["kind", "alignment"])["barrier"].mean().unstack()
    lower = means["aligned"] < means["as found"]
    return int(lower.sum()), len(lower)
