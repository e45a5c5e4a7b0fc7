"""The parts of a `LogSet` to a model: a new head, temperature and guard for the first stage, one certificate for all.

The encoder stays, for the log holds its features. Later stages stay as they are: their features are not in the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerouter import certify, guard, heads, replay, stages
from prerouter.certify import Certified, Contract, Provenance
from prerouter.encoder import Encoder
from prerouter.guard import Guard
from prerouter.heads import Search
from prerouter.local import LocalClassifier
from prerouter.logset import LogSet
from prerouter.modelfolder import Gate, Head, Stage
from prerouter.recipe import Recipe
from prerouter.replay import Heads

Floats = NDArray[Any]

MIN_UNSEEN = 50  # audited rows that the parent did not learn from, to say whose head is better


@dataclass(frozen=True, slots=True, eq=False)
class Relearnt:
    """What came of it. kept_head: the first stage's is the parent's. new_words: its guard learnt words, too."""

    stages: tuple[Stage, ...]
    outcome: Certified
    search: Search
    kept_head: bool
    new_words: bool


def relearn(
    rows: LogSet,
    parent: LocalClassifier,
    encoder: Encoder,
    recipe: Recipe,
    provenance: Provenance,
    *,
    learn_words: bool = False,
) -> Relearnt:
    """Learn from `rows`, under the parent's contract. encoder: the parent's first. learn_words: see `_guarded`."""
    made, first = parent.certificate, parent.model.stages[0]
    contract = Contract(made.max_under, made.max_disagreement, made.confidence)
    n_labels = len(parent.taxonomy_names)
    searched = rows.fit.take(_drawn(len(rows.fit.truth), recipe.cv_rows, recipe.seed))
    search = heads.search(searched, n_labels)
    learnt_head = heads.fit_head(rows.fit, n_labels, strength=search.strength, signals=search.signals)
    kept_head = _is_better(first.head, learnt_head, rows.calibrate, after=learnt_up_to(parent))
    head = first.head if kept_head else learnt_head
    logits = heads.logits(head, rows.calibrate.features, rows.calibrate.signals)
    temperature = certify.fit_temperature(logits, rows.calibrate.truth)
    known, new_words = _guarded(rows, first.guard, encoder, recipe, learn_words)
    learnt = [Stage(first.encoder, first.fingerprint, head, temperature, Gate(), known), *parent.model.stages[1:]]
    path = certify.propose_path(replay.scored(rows.calibrate, learnt, contract), contract)
    outcome = certify.certify(path, replay.scored(rows.certify, learnt, contract), contract, provenance)
    gate = Gate(outcome.threshold, outcome.quality_threshold)
    return Relearnt(tuple(replace(stage, gate=gate) for stage in learnt), outcome, search, kept_head, new_words)


def learnt_up_to(local: LocalClassifier) -> float:
    """UTC seconds of the newest audited row that `local` learnt from; 0 when it never learnt from a log."""
    return float(local.model.training.get("log", {}).get("learnt_up_to", 0.0))


def _is_better(old: Head, new: Head, rows: Heads, *, after: float) -> bool:
    """Whether the parent's head, which may have learnt from many more rows, says more about rows unseen by both."""
    unseen = rows.take(rows.at > after)
    if len(unseen) < MIN_UNSEEN:
        return False
    losses = [heads.loss(heads.logits(head, unseen.features, unseen.signals), unseen.truth) for head in (old, new)]
    return losses[0] < losses[1]


def _guarded(rows: LogSet, old: Guard, encoder: Encoder, recipe: Recipe, learn_words: bool) -> tuple[Guard, bool]:
    """The guard on the new training data. It learns words, if asked to, only where every heads row shows its text.

    Without it nobody could say which of the rows the new words let pass, and the certificate would not hold.
    """
    held_out = rows.calibrate.features[:, : encoder.n_dims]
    centroids = guard.fit_centroids(rows.fit.features[:, : encoder.n_dims], seed=recipe.seed)
    limit = float(np.quantile(guard.distances(held_out, centroids), 1 - guard.LOST))
    known = Guard(centroids, min(limit, guard.MAX_DISTANCE), old.words, old.max_unknown)
    texts = [text for part in (rows.calibrate, rows.certify, rows.holdout) for text in part.texts]
    complete = learn_words and all(text is not None for text in texts)
    if complete:
        words = old.words | guard.common_words(rows.fit_texts)
        unknown = [guard.unknown_share(text, words) for text in rows.calibrate.texts]
        known = replace(known, words=words, max_unknown=float(np.quantile(unknown, 1 - guard.LOST)))
    return _parted(known, rows, held_out, encoder, recipe), complete


def _parted(known: Guard, rows: LogSet, held_out: Floats, encoder: Encoder, recipe: Recipe) -> Guard:
    """The guard with its limit set by base rows of no class, where there are enough of them; see `stages.closed`."""
    if len(rows.novel_texts) < stages.MIN_NOVEL:
        return known
    texts: Sequence[str] = rows.novel_texts
    away = known.measure(encoder.features(texts)[:, : encoder.n_dims], texts)
    limit = stages.parting(guard.distances(held_out, known.centroids), away, recipe.max_lost)
    return replace(known, limit=limit)


def _drawn(n: int, most: int, seed: int) -> NDArray[np.int64]:
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))
