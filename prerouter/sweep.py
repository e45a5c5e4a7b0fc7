"""What other gates would have done on labelled rows: coverage against errors over all thresholds.

For looking at, not for choosing: a gate picked where these rows look best overstates how good it is. Gates are chosen
by `certify`, on rows set aside for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prerouter.certify import Scored, Tally, tally
from prerouter.encoder import load_encoder
from prerouter.local import CHUNK, LocalClassifier
from prerouter.progress import Progress
from prerouter.records import Request


@dataclass(frozen=True, slots=True)
class GatePoint:
    """A gate and what passes it. thresholds: the largest risk of each stage; below 0 where it is closed."""

    thresholds: tuple[float, ...]
    found: Tally


def scored(local: LocalClassifier, requests: Sequence[Request], truth: NDArray[np.int64]) -> Scored:
    """Every stage on every request, also where an earlier one decides. truth: (n,) label indices."""
    model = local.model
    alone = [LocalClassifier(replace(model, stages=(s,)), [load_encoder(s.encoder)]) for s in model.stages]
    index = {name: i for i, name in enumerate(local.taxonomy_names)}
    risk, predicted = np.empty((2, len(alone), len(requests)))
    with Progress("scoring every stage", total=len(alone) * len(requests)) as progress:
        for row, stage in enumerate(alone):
            for start in range(0, len(requests), CHUNK):
                chunk = stage.score_many(requests[start : start + CHUNK])
                at = slice(start, start + len(chunk))
                risk[row, at] = [s.risk if s.distance <= s.limit else np.inf for s in chunk]
                predicted[row, at] = [index[s.label] for s in chunk]
                progress.advance(len(chunk))
    return Scored(risk, predicted.astype(np.int64), np.asarray(truth, np.int64))


def sweep(rows: Scored, n_points: int) -> list[GatePoint]:
    """At most `n_points` gates from the strictest on, evenly spaced in coverage; all stages share a threshold."""
    least = np.sort(rows.risk.min(axis=0))
    least = least[np.isfinite(least)]
    if not len(least):
        return []
    ranks = np.unique(np.linspace(0, len(least) - 1, n_points + 1)[1:].round().astype(int))
    gates = [(float(least[rank]),) * len(rows.risk) for rank in ranks]
    return [GatePoint(gate, tally(rows, gate)) for gate in gates]


def in_use(local: LocalClassifier, rows: Scored, *, strict: bool = False) -> GatePoint | None:
    """The classifier's own gate on `rows`, `strict`: that of `priority="quality"`; None when it is closed."""
    gates = [stage.gate.quality_threshold if strict else stage.gate.threshold for stage in local.model.stages]
    if all(gate is None for gate in gates):
        return None
    thresholds = tuple(-1.0 if gate is None else gate for gate in gates)
    return GatePoint(thresholds, tally(rows, thresholds))
