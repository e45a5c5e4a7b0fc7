"""Recent traffic of one model folder, from the log: who decided, how it moved, what new topics local cannot decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from prerouter import clusters, guard, reference
from prerouter.drift import Shift, shift

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prerouter.local import LocalClassifier
    from prerouter.logschema import LogRow
    from prerouter.rollups import Rollup
    from prerouter.routelog import RouteLog
    from prerouter.sections import MonitorSettings

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int64]

DAY = 86_400
EARLIER = 4  # windows before the recent one, which it is compared with
SAMPLE = 4000  # rows read of each
SLICES = 48  # that a larger log is read in, so that every time of day is among them
SHOWN = 3  # examples and tags of a topic
CHARS = 200  # of an example


@dataclass(frozen=True, slots=True)
class NewTopic:
    """Requests like each other that local left to others, and that there were fewer of before.

    rows: of the sample; share, before: of the fall-throughs now and earlier, in [0, 1]. labels: {label: rows}. tags:
    {"KEY=VALUE": rows}, the most frequent. ids: of the requests nearest to the middle; examples: their texts, redacted,
    where the log keeps texts.
    """

    rows: int
    share: float
    before: float
    labels: dict[str, int]
    tags: dict[str, int]
    ids: tuple[str, ...]
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests of the recent window that were routed with the model folder; shares are None without any.

    coverage: share decided locally, of those that were not pinned; fall_through_rate: the rest. fallback_rate: share
    that nothing decided, or that the taxonomy's default label took where labels are topics (unordered). inputs: against
    the training data; labels, decided (locally or not): against the four windows before. topics: new ones among the
    fall-throughs, against the same, or against the training data while there is too little. others: requests of other
    model folders.
    """

    requests: int
    coverage: float | None
    fall_through_rate: float | None
    fallback_rate: float | None
    inputs: Shift | None
    labels: Shift | None
    decided: Shift | None
    topics: tuple[NewTopic, ...]
    others: int

    def to_json(self) -> dict[str, Any]:
        """As a part of CONTRACT.md's object."""
        shifts = {"inputs": self.inputs, "labels": self.labels, "coverage": self.decided}
        return {
            "requests": self.requests,
            "requests_of_other_models": self.others,
            "coverage": self.coverage,
            "fall_through_rate": self.fall_through_rate,
            "fallback_rate": self.fallback_rate,
            "drift": {name: found.to_json() if found else None for name, found in shifts.items()},
            "clusters": [
                asdict(topic) | {"ids": list(topic.ids), "examples": list(topic.examples)} for topic in self.topics
            ],
        }


def look(log: RouteLog, local: LocalClassifier, settings: MonitorSettings, now: float) -> Traffic:
    """The window that ends at `now`, in UTC seconds. Raises DataError or UpstreamError when the log cannot be read."""
    span = settings.window_days * DAY
    since, start = now - span, now - (1 + EARLIER) * span
    every = [r for r in log.rollups(start, now) if r.mode != "off"]
    own = [r for r in every if r.model_folder_id == local.model_folder_id]
    recent, earlier = [r for r in own if r.hour >= since], [r for r in own if r.hour < since]
    before, rows = _samples(log, local, start, since)
    asked = [r for r in recent if r.decided_by != "pinned"]
    covered = _share(_rows(r for r in asked if r.decided_by == "local"), _rows(asked))
    ordered, default = local.ordered, local.taxonomy.default
    lost = (r for r in recent if r.decided_by == "default" or (not ordered and r.label == default))
    return Traffic(
        requests=_rows(recent),
        coverage=covered,
        fall_through_rate=None if covered is None else 1 - covered,
        fallback_rate=_share(_rows(lost), _rows(recent)),
        inputs=_inputs(local, rows),
        labels=shift(_labels(recent, local), _labels(earlier, local)),
        decided=shift(_decided(recent), _decided(earlier)),
        topics=_topics(local, rows, before),
        others=_rows(r for r in every if r.hour >= since) - _rows(recent),
    )


def _rows(rollups: Iterable[Rollup]) -> int:
    return sum(r.rows for r in rollups)


def _share(k: int, n: int) -> float | None:
    return k / n if n else None


def _labels(rollups: Iterable[Rollup], local: LocalClassifier) -> Ints:
    """(n_labels,) requests that somebody decided."""
    counts: Counter[str] = Counter()
    for r in rollups:
        if r.decided_by in ("local", "llm", "cache"):
            counts[r.label] += r.rows
    return np.array([counts[name] for name in local.taxonomy_names], np.int64)


def _decided(rollups: Sequence[Rollup]) -> Ints:
    """(2,) requests decided locally, and others that were not pinned."""
    n_local = _rows(r for r in rollups if r.decided_by == "local")
    return np.array([n_local, _rows(r for r in rollups if r.decided_by != "pinned") - n_local], np.int64)


def _samples(log: RouteLog, local: LocalClassifier, start: float, since: float) -> tuple[list[LogRow], list[LogRow]]:
    """At most about SAMPLE rows from [start, since) and from then on, evenly by number."""
    earliest, first = (next(log.rows(at, batch=1), None) for at in (start, since))
    if earliest is None:
        return [], []
    last = log.tail(1)[0].seq
    middle = first.seq if first else last + 1
    earlier, recent = _spread(log, earliest.seq, middle), _spread(log, middle, last + 1)
    return (
        _telling([row for row in earlier if start <= row.at < since], local),
        _telling([row for row in recent if row.at >= since], local),
    )


def _spread(log: RouteLog, first: int, end: int) -> Iterator[LogRow]:
    """About SAMPLE of the rows numbered [first, end), or all."""
    n = -(-SAMPLE // SLICES)
    step = max(n, -(-(end - first) // SLICES))
    for start in range(first, end, step):
        until = min(start + step, end)
        yield from (row for row in islice(log.rows(after=start - 1, batch=n), n) if row.seq < until)


def _telling(rows: Iterable[LogRow], local: LocalClassifier) -> list[LogRow]:
    """The rows of this model, with its features, one of each conversation."""
    seen: set[str] = set()
    out = []
    for row in rows:
        talk = row.tags.get("conversation_id")
        ours = row.decision.model_folder_id == local.model_folder_id and row.mode != "off"
        if ours and row.features is not None and row.fingerprint == local.fingerprint and talk not in seen:
            out.append(row)
            seen |= {talk} if talk else set()
    return out


def _embeddings(rows: Sequence[LogRow], local: LocalClassifier) -> Floats:
    n_dims = local.model.stages[0].guard.centroids.shape[1]
    kept = [row.features[:n_dims] for row in rows if row.features is not None]
    return np.array(kept, np.float32).reshape(-1, n_dims)


def _inputs(local: LocalClassifier, rows: Sequence[LogRow]) -> Shift | None:
    """Where requests are in the embedding space, against held-out rows of the training.

    A folder that does not keep where those were still has the guard's limit, beyond which a known share of them was.
    """
    known, training = local.model.stages[0].guard, local.model.training
    found, expected = reference.places(_embeddings(rows, local), known), reference.expected(training, known)
    if expected is not None:
        return shift(reference.regions(found, known), reference.regions(expected, known))
    n = training.get("rows", {}).get("calibrate", 0)
    beyond = round(guard.LOST * n)
    return shift(np.array([found[:-1].sum(), found[-1]]), np.array([n - beyond, beyond]))


def _topics(local: LocalClassifier, rows: Sequence[LogRow], before: Sequence[LogRow]) -> tuple[NewTopic, ...]:
    known, recent = local.model.stages[0].guard, [row for row in rows if row.decision.decided_by in _FELL_THROUGH]
    earlier = _embeddings([row for row in before if row.decision.decided_by in _FELL_THROUGH], local)
    past = earlier if len(earlier) >= clusters.FEWEST_EARLIER else known.centroids
    recent = recent[-clusters.MOST_ROWS :]
    found = clusters.topics(_embeddings(recent, local), past, clusters.RADIUS * known.limit)
    return tuple(_described(topic, [recent[i] for i in topic.rows.tolist()]) for topic in found)


def _described(topic: clusters.Topic, rows: Sequence[LogRow]) -> NewTopic:
    tags = Counter(f"{key}={value}" for row in rows for key, value in row.tags.items() if key != "conversation_id")
    texts = [row.text[:CHARS] for row in rows[:SHOWN] if row.text]  # redacted by the log
    labels = Counter(row.decision.label for row in rows)
    return NewTopic(
        rows=len(rows),
        share=topic.share,
        before=topic.before,
        labels=dict(labels.most_common()),
        tags=dict(tags.most_common(SHOWN)),
        ids=tuple(row.decision.id for row in rows[:SHOWN]),
        examples=tuple(texts),
    )


_FELL_THROUGH = ("llm", "cache", "default")
