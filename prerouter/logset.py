"""The rows of a retraining: audited heads rows to certify on; base labels and the log's other labels to fit.

Heads rows are a random sample of the traffic, so temperature, gate, certificate and comparison rest on them alone. What
else has a label (fall-throughs, feedback, reviews, rejections) is not, and only teaches the head.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerouter import dedup, heads, replay
from prerouter.certify import rows_for
from prerouter.embedcache import CachedEncoder
from prerouter.encoder import load_encoder
from prerouter.examples import Example, read_examples
from prerouter.lessons import DAY_S, TRUST, Lesson, Lessons, lesson, recency
from prerouter.local import LocalClassifier
from prerouter.recipe import Recipe
from prerouter.replay import Heads
from prerouter.routelog import LogRow
from prerouter.sections import RetrainSettings
from prerouter.taxonomy import Taxonomy

Floats = NDArray[Any]
Ints = NDArray[np.int64]

CALIBRATE = 0.2  # share of the heads rows that are not held out; the rest certifies
# Share of them that the head learns from when neither base labels nor older heads rows show what local decides.
FIT = 0.5
CERTIFYING = ("calibrate", "certify", "holdout")  # parts that are heads rows alone
# The newest heads rows certify: as many as a contract takes at ten errors and half of the rows decided, at least.
ERRORS, DECIDED = 10, 0.5


@dataclass(frozen=True, slots=True, eq=False)
class LogSet:
    """Everything that a retraining reads. No group is in two of the parts.

    fit: what the head learns from; fit_texts: the texts of those rows that have one; novel_texts: of base rows that
    belong to no class. calibrate, certify, holdout: heads rows, `holdout` the newest; holdout_groups: its groups.
    origins: {origin: rows of the log and base labels that were taken}. left: {why not: rows}. duplicates: left out.
    learnt_up_to: UTC seconds of the newest heads row that is not held out.
    """

    fit: heads.Rows
    fit_texts: Sequence[str]
    novel_texts: Sequence[str]
    calibrate: Heads
    certify: Heads
    holdout: Heads
    holdout_groups: Sequence[str]
    origins: Mapping[str, int]
    left: Mapping[str, int]
    duplicates: int
    learnt_up_to: float


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was found in the log, before it is split. labellers: of the heads rows, with their prompts."""

    heads: Heads
    lessons: Sequence[Lesson]
    left: Counter[str]
    labellers: frozenset[tuple[str | None, str | None]]

    @property
    def seqs(self) -> tuple[int, int]:
        """The first and the last row's number; zeros without rows."""
        every = [*self.heads.seq.tolist(), *(lesson.seq for lesson in self.lessons)]
        return min(every, default=0), max(every, default=0)

    def since(self, at: float) -> int:
        """How many labels came at `at` (UTC seconds) or later."""
        return int((self.heads.since >= at).sum()) + sum(lesson.since >= at for lesson in self.lessons)

    @property
    def origins(self) -> dict[str, int]:
        """{origin: rows}"""
        return dict(Counter(lesson.origin for lesson in self.lessons)) | {"audit": len(self.heads)}


def gather(
    rows: Iterable[LogRow],
    local: LocalClassifier,
    like: frozenset[str],
    whose: tuple[str | None, str | None] | None,
    taxonomy: Taxonomy,
    settings: RetrainSettings,
    now: float,
) -> Gathered:
    """The usable rows of the log, the newest `settings.rows` of each kind. See `replay.read` for `like` and `whose`."""
    audited: deque[LogRow] = deque(maxlen=settings.rows)
    lessons: deque[Lesson] = deque(maxlen=settings.rows)
    left: Counter[str] = Counter()
    for row in rows:
        if row.decision.audit and replay.why_not(row, local, whose)[1] is not None:
            audited.append(row)
        elif taught := lesson(row, local, taxonomy, float(recency(row.at, now, settings.half_life_days))):
            lessons.append(taught)
        elif row.decision.audit:
            left[replay.why_not(row, local, whose)[0] or ""] += 1
        else:
            left["no label or features"] += 1
    found, unusable = replay.read(audited, local, like, whose)
    labellers = frozenset((label.labelled_by, label.prompt_id) for row in audited if (label := row.audited))
    return Gathered(found, lessons, left + unusable, labellers)


def split(
    found: Gathered,
    local: LocalClassifier,
    base: Sequence[Path],
    fixed: Sequence[Path],
    recipe: Recipe,
    settings: RetrainSettings,
    *,
    after: float,
    now: float,
    cache: Path,
) -> LogSet:
    """Base labels and gathered rows, in parts.

    fixed: rows to compare on, which are no lesson. after, now: UTC seconds; only heads rows after `after`, which the
    champion has not seen, are held out. cache: folder of features on disk. Raises DataError for broken base rows.
    """
    held, rows = (_examples(files, local) for files in (fixed, base))
    lessons = _lessons(found, rows, local, cache)
    names, kept = _groups([row.request.text for row in held], found.heads, lessons)
    groups, n, window = names[: len(found.heads)], len(found.heads), _window(found.heads.at, local, settings)
    parts = _parts(found.heads.at, groups, window, after, recipe, local, settings.holdout, taught=bool(base))
    apart = {groups[i] for part in CERTIFYING for i in parts[part].tolist()} | set(names[n + len(lessons) :])
    own = [i for i in range(len(lessons)) if n + i in kept and names[n + i] not in apart]
    surplus = np.asarray([i for i in parts["fit"].tolist() if i in kept and groups[i] not in apart], np.int64)
    older = found.heads.take(surplus)
    taught = lessons.take(own) + Lessons.of_heads(older, recency(older.at, now, settings.half_life_days))
    fit_groups = [*(names[n + i] for i in own), *(groups[i] for i in surplus.tolist())]
    learnt = np.concatenate([parts["fit"], parts["calibrate"], parts["certify"]])
    return LogSet(
        fit=heads.Rows(taught.features, taught.signals, taught.truth, taught.weights, fit_groups),
        fit_texts=[text for text in taught.texts if text is not None],
        novel_texts=[row.request.text for row in rows if row.label is None],
        **{part: found.heads.take(parts[part]) for part in CERTIFYING},
        holdout_groups=[groups[i] for i in parts["holdout"].tolist()],
        origins=dict(Counter(lessons.origins)) | {"audit": n},
        left=dict(found.left),
        duplicates=len(lessons) - len(own),
        learnt_up_to=float(found.heads.at[learnt].max(initial=0.0)),
    )


def _examples(files: Sequence[Path], local: LocalClassifier) -> list[Example]:
    novel_label = local.model.training.get("novel_label")
    return read_examples(files, local.taxonomy, text_version=local.text_version, novel_label=novel_label)


def _lessons(found: Gathered, base: Sequence[Example], local: LocalClassifier, cache: Path) -> Lessons:
    """Of two alike the first stays: what people said, then what was chosen as base, then what was asked on the way."""
    encoder = CachedEncoder(load_encoder(local.model.stages[0].encoder), cache)
    labelled = Lessons.of_base([row for row in base if row.label is not None], local, encoder)
    people, others = ([x for x in found.lessons if (TRUST[x.origin] > 1) == human] for human in (True, False))
    return Lessons.of_log(people, encoder) + labelled + Lessons.of_log(others, encoder)


def _groups(held: Sequence[str], rows: Heads, lessons: Lessons) -> tuple[list[str], set[int]]:
    """Of heads rows, lessons and rows held for comparing, in this order: group names; positions to keep.

    Rows without text are known by their features, which are equal for equal requests.
    """
    keys = [*rows.keys.tolist(), *replay.keys(lessons.features)]
    texts = [*rows.texts.tolist(), *lessons.texts]
    known = {key: text for key, text in zip(keys, texts, strict=True) if text}
    names = [text or known.get(key) or key for key, text in zip(keys, texts, strict=True)]
    labels = [*rows.truth.tolist(), *lessons.truth.tolist(), *([-1] * len(held))]
    conversations = [*rows.conversations.tolist(), *lessons.conversations, *([None] * len(held))]
    found = dedup.find([*names, *held], labels, conversations)
    contradicted = {later for later, _ in found.contradictions}
    return _named(found.groups, keys), set(found.kept) - contradicted


def _named(groups: Sequence[str], keys: Sequence[str]) -> list[str]:
    """The groups by the key of their first row, so that the same rows are in the same parts with and without texts."""
    first: dict[str, str] = {}
    for group, key in zip(groups, keys, strict=False):  # rows held for comparing have no key
        first.setdefault(group, key)
    return [first.get(group, group) for group in groups]


def _window(at: Floats, local: LocalClassifier, settings: RetrainSettings) -> int:
    """How many heads rows, the newest, certify and compare; the older ones are of a traffic that may be no more."""
    made = local.certificate
    limits = [limit for limit in (made.max_under, made.max_disagreement) if limit is not None]
    accepted = max(rows_for(ERRORS, limit, made.confidence) for limit in limits)
    needed = math.ceil(accepted / DECIDED / (1 - CALIBRATE) / (1 - settings.holdout))
    return max(needed, int((at >= at.max(initial=0.0) - settings.certify_days * DAY_S).sum()))


def _parts(
    at: Floats,
    groups: Sequence[str],
    window: int,
    after: float,
    recipe: Recipe,
    local: LocalClassifier,
    holdout: float,
    *,
    taught: bool,
) -> dict[str, Ints]:
    """Positions of the heads rows of each part, by time and then by the hash of their group.

    window: rows, the newest, that are more than lessons. taught: whether other lessons show what local
    decides.
    """
    most, seed = recipe.most(ordered=local.taxonomy.ordered), recipe.seed
    order = np.argsort(at, kind="stable")
    older, recent = order[: max(len(order) - window, 0)], order[-window:]
    newest = recent[len(recent) - round(holdout * len(recent)) :]
    held = newest[at[newest] > after]
    names = {groups[i] for i in held.tolist()}
    rest = [i for i in recent.tolist() if groups[i] not in names]
    fit = 0.0 if taught or len(older) >= len(recent) else FIT
    draws, edge = {i: _draw(groups[i], seed) for i in rest}, fit + (1 - fit) * CALIBRATE
    calibrate = _first([i for i in rest if fit <= draws[i] < edge], groups, draws, most["calibrate"])
    certify = _first([i for i in rest if draws[i] >= edge], groups, draws, most["certify"])
    apart = names | {groups[i] for i in (*calibrate, *certify)}
    lessons = [i for i in order.tolist() if groups[i] not in apart]
    parts = {"fit": lessons, "calibrate": calibrate, "certify": certify, "holdout": sorted(held.tolist())}
    return {name: np.asarray(rows, np.int64) for name, rows in parts.items()}


def _first(rows: Sequence[int], groups: Sequence[str], draws: Mapping[int, float], most: int) -> list[int]:
    """One row of each group, of at most so many groups, which the hash of their names picks."""
    first = {groups[i]: i for i in reversed(rows)}
    return sorted(sorted(first.values(), key=lambda i: draws[i])[:most])


def _draw(name: str, seed: int) -> float:
    return int(hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()[:12], 16) / 16**12
