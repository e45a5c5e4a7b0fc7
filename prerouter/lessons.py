"""Labelled rows to fit on: what a row of the log teaches, and with which weight; base labels; surplus audited rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerouter.embedcache import CachedEncoder
from prerouter.examples import Example
from prerouter.feedback import REJECTED
from prerouter.local import LocalClassifier
from prerouter.replay import Heads
from prerouter.routelog import LogRow, RowLabel
from prerouter.taxonomy import Taxonomy
from prerouter.text import SIGNAL_NAMES

Floats = NDArray[Any]
Ints = NDArray[np.int64]

DAY_S = 86_400.0
MAX_WEIGHT = 10.0  # of one row: beyond it, single rows would move the head
MIN_WEIGHT = 1e-3
TRUST = {"review": 5.0, "feedback": 3.0, "rejection": 1.0, "judge": 1.0, "llm": 1.0}  # weights; the first that is there


def recency(at: Floats | float, now: float, half_life_days: float) -> Floats:
    """In (0, 1]: how much rows of these UTC seconds count; 0.5 at `half_life_days` of age.

    Age is taken in whole days, so that a dry run and the run after it learn the same.
    """
    days = np.floor(np.maximum(now - np.asarray(at, np.float64), 0.0) / DAY_S)
    found: Floats = 0.5 ** (days / half_life_days)
    return found


@dataclass(frozen=True, slots=True)
class Lesson:
    """A row of the log to fit on. features: (n_features,), None where only the text can give them.

    seq, at: the row's. since: UTC seconds when its label came.
    """

    seq: int
    at: float
    since: float
    features: Floats | None
    signals: Floats
    truth: int
    weight: float
    conversation: str | None
    text: str | None
    origin: str


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """Rows to fit on, column by column. origins: base, audit, or as in TRUST."""

    features: Floats
    signals: Floats
    truth: Ints
    weights: Floats
    conversations: Sequence[str | None]
    texts: Sequence[str | None]
    origins: Sequence[str]

    def __len__(self) -> int:
        return len(self.truth)

    def __add__(self, other: Lessons) -> Lessons:
        return Lessons(
            np.concatenate([self.features, other.features]),
            np.concatenate([self.signals, other.signals]),
            np.concatenate([self.truth, other.truth]),
            np.concatenate([self.weights, other.weights]),
            [*self.conversations, *other.conversations],
            [*self.texts, *other.texts],
            [*self.origins, *other.origins],
        )

    def take(self, at: Sequence[int]) -> Lessons:
        """The rows at these positions."""
        rows = np.asarray(at, np.int64)
        return Lessons(
            self.features[rows],
            self.signals[rows],
            self.truth[rows],
            self.weights[rows],
            [self.conversations[i] for i in at],
            [self.texts[i] for i in at],
            [self.origins[i] for i in at],
        )

    @classmethod
    def of_log(cls, rows: Sequence[Lesson], encoder: CachedEncoder) -> Lessons:
        """The newest first. Those without features are encoded."""
        rows = sorted(rows, key=lambda row: -row.at)
        without = [row.text or "" for row in rows if row.features is None]
        encoded = iter(encoder.features(without)) if without else iter(())
        features = [next(encoded) if row.features is None else row.features for row in rows]
        return cls(
            np.array(features, np.float32).reshape(-1, encoder.n_features),
            np.array([row.signals for row in rows], np.float32).reshape(-1, len(SIGNAL_NAMES)),
            np.array([row.truth for row in rows], np.int64),
            np.array([row.weight for row in rows], np.float32),
            [row.conversation for row in rows],
            [row.text for row in rows],
            [row.origin for row in rows],
        )

    @classmethod
    def of_base(cls, rows: Sequence[Example], local: LocalClassifier, encoder: CachedEncoder) -> Lessons:
        """Labelled examples of the workspace's files."""
        texts = [row.request.text for row in rows]
        return cls(
            encoder.features(texts) if texts else np.empty((0, encoder.n_features), np.float32),
            np.array([row.request.signals for row in rows], np.float32).reshape(-1, len(SIGNAL_NAMES)),
            np.array([local.taxonomy_names.index(row.label or "") for row in rows], np.int64),
            np.array([min(row.weight, MAX_WEIGHT) for row in rows], np.float32),
            [row.group for row in rows],
            texts,
            ["base"] * len(rows),
        )

    @classmethod
    def of_heads(cls, rows: Heads, recent: Floats) -> Lessons:
        """Heads rows that certify nothing; each stands for those that were not audited, too. recent: see `recency`."""
        weights = np.clip(rows.weights * recent, MIN_WEIGHT, MAX_WEIGHT).astype(np.float32)
        texts, names = rows.texts.tolist(), rows.conversations.tolist()
        return cls(rows.features, rows.signals, rows.truth, weights, names, texts, ["audit"] * len(rows))


def lesson(row: LogRow, local: LocalClassifier, taxonomy: Taxonomy, recent: float) -> Lesson | None:
    """What a row of the log teaches; None without a label of the taxonomy, or without features and text.

    recent: see `recency`.
    """
    found = _label(row, taxonomy)
    same = row.decision.text_version == local.text_version
    known = row.features is not None and row.fingerprint == local.fingerprint
    if found is None or not same or not (known or row.text):
        return None
    label, origin, weight = found
    return Lesson(
        seq=row.seq,
        at=row.at,
        since=max((label.at for label in row.labels), default=row.at),
        features=row.features if known else None,
        signals=np.array(row.signals, np.float32),
        truth=taxonomy.names.index(label),
        weight=max(min(weight * TRUST[origin] * recent, MAX_WEIGHT), MIN_WEIGHT),
        conversation=row.tags.get("conversation_id"),
        text=row.text,
        origin=origin,
    )


def _label(row: LogRow, taxonomy: Taxonomy) -> tuple[str, str, float] | None:
    """(label, origin, weight) of the most trusted label that the row has; of several by one origin the newest."""
    by_origin = {label.origin: label for label in row.labels}  # oldest first, so the newest stays
    for origin in TRUST:
        given = by_origin.get(origin)  # type: ignore[call-overload]
        name = _meant(given, row, taxonomy) if given else None
        if given and name and given.weight > 0:
            return name, origin, given.weight
    if row.decision.decided_by == "llm" and row.decision.label in taxonomy.names:
        return row.decision.label, "llm", 1.0
    return None


def _meant(given: RowLabel, row: LogRow, taxonomy: Taxonomy) -> str | None:
    """The label of a RowLabel; of a rejection the next stronger one, where the answer came from the label's tier."""
    if given.label is not None:
        return given.label if given.label in taxonomy.names else None
    decision = row.decision
    served = taxonomy.ordered and decision.label in taxonomy.names and decision.tier == taxonomy.tier_of(decision.label)
    if given.outcome != REJECTED or not served:
        return None
    stronger = taxonomy.names.index(decision.label) + 1
    return taxonomy.names[stronger] if stronger < len(taxonomy.names) else None
