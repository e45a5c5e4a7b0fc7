"""What a model folder remembers of its held-out rows, for the monitor to compare live traffic with: counts, no texts.

In `training` of model.json: `certified_by_label`, errors of each label's decisions among the certify rows; `inputs`,
how many held-out rows fall where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from prerouter import certify, guard
from prerouter.certify import Scored
from prerouter.guard import Guard

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prerouter.modelfolder import Stage

    Floats = NDArray[Any]
    Ints = NDArray[np.int64]


N_REGIONS = 24


def record(names: Sequence[str], stages: Sequence[Stage], certified: Scored, held_out: Floats) -> dict[str, Any]:
    """Both, of a model about to be saved. certified: the certify rows as its stages see them.

    held_out: (n, n_dims) first-stage embeddings of rows that no stage was fitted to, of traffic like the live one.
    """
    return {
        "certified_by_label": by_label(names, stages, certified),
        "inputs": places(held_out, stages[0].guard).tolist(),
    }


def by_label(names: Sequence[str], stages: Sequence[Stage], rows: Scored) -> dict[str, dict[str, int]]:
    """Of each label: rows decided for it (n_accepted), those too weak (n_under) and different (n_disagreement)."""
    gates = [-1.0 if stage.gate.threshold is None else stage.gate.threshold for stage in stages]
    stage = certify.decide(rows, gates)
    decided = np.where(stage >= 0, rows.predicted[stage, np.arange(len(stage))], -1)
    out = {}
    for i, name in enumerate(names):
        own = decided == i
        n = {"n_under": own & (rows.truth > i), "n_disagreement": own & (rows.truth != i), "n_accepted": own}
        out[name] = {key: int(found.sum()) for key, found in n.items()}
    return out


def places(embeddings: Floats, known: Guard) -> Ints:
    """(n_centroids + 1,) how many embeddings are nearest to each centroid; last, those beyond the guard's limit."""
    n = len(known.centroids)
    if not len(embeddings):
        return np.zeros(n + 1, np.int64)
    nearest, away = guard.nearest(embeddings, known.centroids)
    return np.bincount(np.where(away <= known.limit, nearest, n), minlength=n + 1).astype(np.int64)


def regions(counts: Ints, known: Guard) -> Ints:
    """`places` in at most N_REGIONS neighbouring groups of centroids, and those beyond the limit.

    Hundreds of places with a few rows each would hide a shift in the noise of all.
    """
    centres = guard.fit_centroids(known.centroids, n_centroids=N_REGIONS)
    region, _ = guard.nearest(known.centroids, centres)
    return np.bincount(np.append(region, len(centres)), counts).astype(np.int64)


def expected(training: Mapping[str, Any], known: Guard) -> Ints | None:
    """`places` of the held-out rows, as the folder keeps them; None when it does not."""
    kept = training.get("inputs")
    if not isinstance(kept, list) or len(kept) != len(known.centroids) + 1:
        return None
    return np.array(kept, np.int64)
