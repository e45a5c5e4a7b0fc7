"""Audited heads rows of the log, without their texts, as the stages of a model folder see them.

The first stage works on stored features. What needs the text, the guard's look at the language and the later stages,
is taken from what the log kept of it, which holds for every folder with the same guard words and later stages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerouter import certify, guard, heads
from prerouter.certify import Contract, Scored
from prerouter.costs import ABSTAINED
from prerouter.figures import Seen
from prerouter.local import LocalClassifier
from prerouter.modelfolder import Stage
from prerouter.records import Request, Scores
from prerouter.routelog import LogRow, RowLabel

Floats = NDArray[Any]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """n audited rows, in the order of their numbers.

    seq, at: (n,) the rows' numbers and UTC seconds; since: when their label came.
    truth: (n,) label indices. weights: (n,) 1 / probability that the row was audited.
    keys: names; equal for equal requests. conversations: names or None.
    features: (n, n_features) float32; signals: (n, n_signals) float32: the first stage's inputs.
    familiar: (n,) whether the guard of the folder that logged it knew the language. texts: None where it was not kept.
    later: (n_later, n, n_labels) probabilities of the stages after the first; inside: (n_later, n) their guards' word.
    """

    seq: Ints
    at: Floats
    since: Floats
    truth: Ints
    weights: Floats
    keys: NDArray[np.str_]
    conversations: NDArray[np.object_]
    features: Floats
    signals: Floats
    familiar: NDArray[np.bool_]
    texts: NDArray[np.object_]
    later: Floats
    inside: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.at)

    def familiar_to(self, known: guard.Guard) -> NDArray[np.bool_]:
        """(n,) whether a guard knows the language: from the text where it was kept, else as it was logged."""
        rows = zip(self.texts, self.familiar.tolist(), strict=True)
        return np.array([was if text is None else known.speaks(text) for text, was in rows], bool)

    def take(self, at: Ints | NDArray[np.bool_]) -> Heads:
        """The rows at these positions."""
        by_row = {f.name: getattr(self, f.name)[at] for f in fields(self) if f.name not in ("later", "inside")}
        return Heads(**by_row, later=self.later[:, at], inside=self.inside[:, at])


def read(
    rows: Iterable[LogRow], local: LocalClassifier, like: Collection[str], whose: tuple[str | None, str | None] | None
) -> tuple[Heads, Counter[str]]:
    """The heads rows of `rows` that a replay can take, and how many others there are, by the reason.

    like: ids of the folders whose guard words and later stages are those of `local`. whose: the labeller and the
    prompt id whose labels count; None: everyone's. Rows whose text was kept are scored anew where that is needed.
    """
    found: list[tuple[LogRow, RowLabel, Any, Sequence[Scores]]] = []
    left: Counter[str] = Counter()
    for row in rows:
        reason, label = why_not(row, local, whose)
        scored = scores_of(row, local, like) if reason is None else None
        if label is not None and scored is not None:
            found.append((row, label, *scored))
        else:
            left[reason or "another model"] += 1
    return _heads(found, local), left


def why_not(
    row: LogRow, local: LocalClassifier, whose: tuple[str | None, str | None] | None
) -> tuple[str | None, RowLabel | None]:
    """Why a heads row says nothing about local decisions, or None; and its label."""
    label = row.audited
    if row.decision.decided_by == "pinned":
        return "pinned", None  # local never decides such requests
    if label is None or label.label is None:
        return "not audited", None
    if label.label not in local.taxonomy_names:
        return "another label", None
    if whose and (label.labelled_by, label.prompt_id) != whose:
        return "another labeller", None
    return None, label


def scores_of(row: LogRow, local: LocalClassifier, like: Collection[str]) -> tuple[Any, Sequence[Scores]] | None:
    """Features and each stage's scores: as they were logged, else from the text; None when neither can be had."""
    n_stages = len(local.model.stages)
    known = row.features is not None and row.fingerprint == local.fingerprint
    if known and row.decision.model_folder_id in like and len(row.scores) == n_stages:
        return row.features, row.scores
    if row.text is None or row.decision.text_version != local.text_version:
        return None
    scores = local.every_stage(Request(row.text, "", row.signals, row.decision.text_version, row.n_chars))
    return scores[0].features, scores


def scored(rows: Heads, stages: Sequence[Stage], contract: Contract) -> Scored:
    """The rows as the gates of `stages` see them; see `certify`."""
    p, away = first_stage(rows, stages[0])
    risks = [np.where(away <= stages[0].guard.limit, certify.risk(p, contract), np.inf)]
    predicted = [p.argmax(axis=1)]
    for probabilities, inside in zip(rows.later, rows.inside, strict=True):
        risks.append(np.where(inside, certify.risk(probabilities, contract), np.inf))
        predicted.append(probabilities.argmax(axis=1))
    return Scored(np.array(risks), np.array(predicted, np.int64), rows.truth)


def first_stage(rows: Heads, stage: Stage) -> tuple[Floats, Floats]:
    """Probabilities (n, n_labels) and the guard's distances (n,)."""
    p = certify.softmax(heads.logits(stage.head, rows.features, rows.signals) / stage.temperature)
    embeddings = rows.features[:, : stage.guard.centroids.shape[1]]
    away = guard.distances(embeddings, stage.guard.centroids)
    return p, np.where(rows.familiar_to(stage.guard), away, guard.MAX_DISTANCE)


def look(local: LocalClassifier, rows: Heads, groups: Sequence[str] | None = None) -> Seen:
    """What `local` would have said of each row, as `figures.look` of rows with texts."""
    model, made, n = local.model, local.certificate, np.arange(len(rows))
    contract = Contract(made.max_under, made.max_disagreement, made.confidence)
    found = scored(rows, model.stages, contract)
    gates = [-1.0 if stage.gate.threshold is None else stage.gate.threshold for stage in model.stages]
    stage = certify.decide(found, gates)
    last = np.where(stage == ABSTAINED, len(gates) - 1, stage)
    probabilities = np.concatenate([first_stage(rows, model.stages[0])[0][None], rows.later])
    names = rows.keys if groups is None else groups
    return Seen(
        truth=rows.truth,
        predicted=found.predicted[last, n],
        stage=stage,
        confidence=probabilities.max(axis=2)[last, n],
        strangeness=np.minimum(found.risk.min(axis=0) / max(*gates, 1e-9), 1e9),
        groups=np.unique(np.asarray(names), return_inverse=True)[1].astype(np.int64),
    )


def _heads(found: Sequence[tuple[LogRow, RowLabel, Any, Sequence[Scores]]], local: LocalClassifier) -> Heads:
    index, n_later = {name: i for i, name in enumerate(local.taxonomy_names)}, len(local.model.stages) - 1
    shape, n_inputs = (len(found), n_later), local.model.stages[0].head.weights.shape[1]
    rows, labels, features, scores = zip(*found, strict=True) if found else ((), (), (), ())
    n_signals = len(local.model.stages[0].head.signal_mean)
    packed = np.array(features, np.float32).reshape(-1, n_inputs - n_signals)
    later = np.array([[s.probabilities for s in each[1:]] for each in scores], np.float64)
    inside = np.array([[s.distance <= s.limit for s in each[1:]] for each in scores], bool)
    return Heads(
        seq=np.array([row.seq for row in rows], np.int64),
        at=np.array([row.at for row in rows], np.float64),
        since=np.array([label.at for label in labels], np.float64),
        truth=np.array([index[label.label or ""] for label in labels], np.int64),
        weights=np.array([1 / row.decision.audit_p for row in rows], np.float64),
        keys=np.array(keys(packed), np.str_),
        conversations=_objects([row.tags.get("conversation_id") for row in rows]),
        features=packed,
        signals=np.array([row.signals for row in rows], np.float32).reshape(-1, n_signals),
        familiar=np.array([each[0].distance < guard.MAX_DISTANCE for each in scores], bool),
        texts=_objects([row.text for row in rows]),
        later=np.moveaxis(later.reshape(*shape, len(index)), 0, 1),
        inside=np.moveaxis(inside.reshape(shape), 0, 1),
    )


def keys(features: Floats) -> list[str]:
    """A name for each row's features as the log keeps them; equal requests have equal ones, kept as text or not.

    Letters only, and unlike each other: `dedup` takes them for texts.
    """
    from hashlib import blake2b

    to_letters = bytes.maketrans(b"0123456789", b"ghijklmnop")
    halves = np.asarray(features, np.float16)
    return [
        blake2b(row.tobytes(), digest_size=16).hexdigest().encode().translate(to_letters).decode() for row in halves
    ]


def _objects(values: Sequence[Any]) -> NDArray[np.object_]:
    out = np.empty(len(values), object)
    out[:] = values
    return out
