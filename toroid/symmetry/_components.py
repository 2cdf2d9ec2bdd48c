"""Connected components of labels: what ties join, directly or through others, is one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ._labels import Gain, Trace


class Components:
    """Connected components of one kind of label, and why some of them are frozen.

    Args:
        trace: Of all of the graph.
        kind: ``unit``, ``scale`` or ``sign``.
        through: Of signs: the gains that let them through; by default all.
    """

    def __init__(self, trace: Trace, kind: str, through: Sequence[Gain] | None = None) -> None:
        ties = [*trace.ties[kind]]
        if kind == "sign":
            ties += [(g.before, g.behind) for g in (trace.gains if through is None else through)]
        a, b = (
            torch.cat([torch.empty(0).long(), *(pair[side] for pair in ties)]) for side in (0, 1)
        )
        graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(trace.count, trace.count))
        self.of = connected_components(graph, directed=False)[1]  # (labels,), label -> component
        self.reasons: dict[int, str] = {}
        for labels, reason in trace.frozen[kind]:
            for component in np.unique(self.of[labels.numpy()]).tolist():
                self.reasons.setdefault(component, reason)  # the first reason is the one to show
        self.frozen = np.isin(self.of, list(self.reasons))  # label -> whether it is frozen
