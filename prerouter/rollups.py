"""Hourly roll-ups of the routing log: what a report over months needs, without reading rows.

Kept in the transaction that stores the rows, hence never behind or ahead of them. They name no request and no text,
and outlive the rows; `prune --tag` also takes that tag's.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, cast

from prerouter.logschema import LogRow, packed
from prerouter.records import Usage

if TYPE_CHECKING:
    from prerouter.logstore import Db

HOUR = 3600
TAG_VALUES = 100  # of one tag in one hour and process; further ones are counted together
OTHER = "(other)"
NOT_ROLLED_UP = frozenset(("conversation_id",))  # tags with a value of their own for nearly every request
GROWTH = 1.1  # of the buckets of seconds: quantiles are off by at most (GROWTH - 1) / (GROWTH + 1), that is 4.8 %
FASTEST_S = 1e-7
MOST = 1e9  # tokens or dollars of one request

What = Literal["decide", "reply", "first_byte"]


@dataclass(frozen=True, slots=True)
class Rollup:
    """Requests of one kind in one hour, or in one step of several.

    hour: UTC seconds since 1970 at which it starts. tag, value: None for all requests; else those with this tag, over
    all labels, reasons, stages, tiers, models, modes and model folders, which are then "" or None.
    heads: rows whose audit coin fell heads. cost_usd: of the classifier. replies: rows with a reply; attempts: calls
    for them. reply_usd, baseline_usd: summed over the `priced` replies, which have both. usage: summed.
    """

    hour: int
    tag: str | None
    value: str | None
    decided_by: str
    label: str
    reason: str
    stage: int | None
    tier: str | None
    model: str | None
    reply_model: str | None
    mode: str | None
    model_folder_id: str
    rows: int
    heads: int
    cost_usd: float
    replies: int
    attempts: int
    reply_usd: float
    baseline_usd: float
    priced: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class Latency:
    """How long something took, as counts of buckets that grow by GROWTH (DDSketch; Masson, Rim & Lee, VLDB 2019).

    what: "decide": the decision, by path "local 0", "llm" and so on; "reply", "first_byte": by the model that answered.
    counts: {bucket: rows}; bucket i holds GROWTH**i to GROWTH**(i + 1) seconds. hour: start of the step.
    """

    hour: int
    what: What
    path: str
    counts: Mapping[int, int]

    @property
    def n(self) -> int:
        """Rows."""
        return sum(self.counts.values())

    def quantile(self, q: float) -> float:
        """Seconds that a share `q` in [0, 1] of the rows stayed within, off by at most 4.8 %. NaN without rows."""
        left = q * (self.n - 1)
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left < 0:
                return GROWTH**bucket * 2 * GROWTH / (1 + GROWTH)
        return math.nan

    def merged(self, other: Latency) -> Latency:
        """This and `other` together."""
        return Latency(self.hour, self.what, self.path, Counter(self.counts) + Counter(other.counts))


@dataclass(frozen=True, slots=True)
class AuditCount:
    """Heads rows of one hour by what was decided, `label`, and what the labeller says, `truth`.

    hour: the row's. What Haiku decided counts as its own truth.
    """

    hour: int
    decided_by: str
    stage: int | None
    label: str
    truth: str
    model_folder_id: str
    labelled_by: str | None
    prompt_id: str | None
    n: int


class TagValues:
    """Bounds the values of a tag in an hour: a tag that names users would make the roll-ups as long as the log."""

    def __init__(self) -> None:
        self._seen: defaultdict[tuple[int, str], set[str]] = defaultdict(set)

    def of(self, hour: int, tag: str, value: str) -> str:
        """`value`, or OTHER once the hour has had TAG_VALUES others."""
        if len(self._seen) > 10_000:
            self._seen.clear()
        seen = self._seen[hour, tag]
        if value not in seen:
            if len(seen) >= TAG_VALUES:
                return OTHER
            seen.add(value)
        return value


class Tally:
    """What the rows of one transaction add to the roll-ups."""

    def __init__(self, values: TagValues) -> None:
        self._values = values
        self._rollups: dict[tuple[Any, ...], list[float]] = {}
        self._latencies: Counter[tuple[int, str, str, int]] = Counter()
        self._audits: Counter[tuple[Any, ...]] = Counter()

    def add(self, row: LogRow) -> None:
        """Count a row that was just stored."""
        hour, decision, reply = _hour(row.at), row.decision, row.reply
        sums = _sums(row)
        stage = -1 if decision.stage is None else decision.stage
        where = (decision.tier, decision.model, reply.model if reply else None, row.mode, decision.model_folder_id)
        what = (decision.decided_by, decision.label, decision.reason, stage, *(name or "" for name in where))
        self._sum((hour, "", "", *what), sums)
        for tag, value in row.tags.items():
            if tag and tag not in NOT_ROLLED_UP:
                kept = self._values.of(hour, tag, value)
                self._sum((hour, tag, kept, decision.decided_by, "", "", -1, "", "", "", "", ""), sums)
        path = f"local {stage}" if decision.decided_by == "local" else decision.decided_by
        self._time(hour, "decide", path, decision.seconds)
        if reply:
            self._time(hour, "reply", reply.model or "", reply.seconds)
            self._time(hour, "first_byte", reply.model or "", reply.first_byte_s)
        if row.is_own_audit:
            whose = (decision.model_folder_id, row.labelled_by, decision.prompt_id)
            self.audited(row.at, decision.decided_by, decision.stage, decision.label, decision.label, *whose)

    def audited(
        self,
        at: float,
        decided_by: str,
        stage: int | None,
        label: str,
        truth: str,
        model_folder_id: str,
        labelled_by: str | None,
        prompt_id: str | None,
    ) -> None:
        """Count the labeller's label, `truth`, of a heads row."""
        what = (decided_by, -1 if stage is None else stage, label, truth)
        self._audits[tuple(map(packed, (_hour(at), *what, model_folder_id, labelled_by or "", prompt_id or "")))] += 1

    def write(self, db: Db) -> None:
        """Add all of it to the store."""
        _upsert(db, "rollups", _DIMENSIONS, _SUMS, [(*key, *sums) for key, sums in self._rollups.items()])
        _upsert(db, "latencies", _LATENCY, ("rows",), [(*key, n) for key, n in self._latencies.items()])
        _upsert(db, "audit_counts", _AUDIT, ("rows",), [(*key, n) for key, n in self._audits.items()])

    def _sum(self, kind: tuple[Any, ...], sums: tuple[float, ...]) -> None:
        key = tuple(map(packed, kind))
        old = self._rollups.get(key)
        self._rollups[key] = [a + b for a, b in zip(old, sums, strict=True)] if old else list(sums)

    def _time(self, hour: int, what: str, path: str, seconds: float | None) -> None:
        if seconds is not None and math.isfinite(seconds):
            self._latencies[hour, what, packed(path), bucket(seconds)] += 1


def read_rollups(db: Db, since: float, until: float, tag: str | None, step_s: int) -> list[Rollup]:
    """The roll-ups of the hours that [since, until) touches, added up to steps of `step_s` seconds, a whole hour's."""
    sql = f"""
        SELECT hour / {step_s} * {step_s}, {", ".join(_DIMENSIONS[1:])}, {", ".join(f"sum({name})" for name in _SUMS)}
        FROM rollups WHERE tag = ? AND hour >= ? AND hour < ?
        GROUP BY 1, {", ".join(_DIMENSIONS[1:])} ORDER BY 1
    """
    return [_rollup(values) for values in db.execute(sql, (tag or "", _hour(since), _end(until)))]


def read_latencies(db: Db, since: float, until: float, step_s: int | None) -> list[Latency]:
    """One per step, what and path; one step for all when `step_s` is None."""
    start = f"hour / {step_s} * {step_s}" if step_s else "min(hour)"
    by = "1, what, path, bucket" if step_s else "what, path, bucket"
    sql = f"""
        SELECT {start}, what, path, bucket, sum(rows) FROM latencies
        WHERE hour >= ? AND hour < ? GROUP BY {by} ORDER BY 1
    """
    found: dict[tuple[int, str, str], dict[int, int]] = {}
    for hour, what, path, index, n in db.execute(sql, (_hour(since), _end(until))):
        found.setdefault((hour if step_s else 0, what, path), {})[index] = int(n)
    first = _hour(since) if since > 0 else 0
    return [Latency(hour or first, cast("What", what), path, found[hour, what, path]) for hour, what, path in found]


def read_audit_counts(db: Db, since: float, until: float, step_s: int) -> list[AuditCount]:
    """Counts of the hours that [since, until) touches, added up to steps."""
    sql = f"""
        SELECT hour / {step_s} * {step_s}, {", ".join(_AUDIT[1:])}, sum(rows) FROM audit_counts
        WHERE hour >= ? AND hour < ? GROUP BY 1, {", ".join(_AUDIT[1:])} ORDER BY 1
    """
    found = db.execute(sql, (_hour(since), _end(until)))
    return [
        AuditCount(hour, by, None if stage < 0 else stage, label, truth, folder, whose or None, prompt or None, int(n))
        for hour, by, stage, label, truth, folder, whose, prompt, n in found
    ]


def read_tags(db: Db) -> list[str]:
    """The tags that there are roll-ups of."""
    return [tag for (tag,) in db.execute("SELECT DISTINCT tag FROM rollups WHERE tag <> '' ORDER BY 1")]


def forget(db: Db, tag: tuple[str, str], before: float | None) -> None:
    """Delete the roll-ups of one value of a tag, up to the hour of `before`."""
    hour = 1 << 62 if before is None else _hour(before)
    db.execute("DELETE FROM rollups WHERE tag = ? AND value = ? AND hour < ?", (*map(packed, tag), hour))


def bucket(seconds: float) -> int:
    """The bucket of `Latency.counts` that `seconds` fall into."""
    return math.floor(math.log(max(seconds, FASTEST_S)) / math.log(GROWTH))


_USAGE = tuple(f.name for f in fields(Usage))
_DIMENSIONS = tuple(f.name for f in fields(Rollup)[:12])
_SUMS = (*(f.name for f in fields(Rollup)[12:20]), *_USAGE)
_LATENCY = ("hour", "what", "path", "bucket")
_AUDIT = tuple(f.name for f in fields(AuditCount)[:-1])


def _sums(row: LogRow) -> tuple[float, ...]:
    reply = row.reply
    head = (1, int(row.decision.audit), _kept(row.decision.cost_usd))
    if reply is None:
        return (*head, 0, 0, 0.0, 0.0, 0, 0, 0, 0, 0, 0)
    priced = reply.cost_usd is not None and reply.baseline_usd is not None
    usd = (_kept(reply.cost_usd or 0.0), _kept(reply.baseline_usd or 0.0)) if priced else (0.0, 0.0)
    tokens = (int(_kept(getattr(reply.usage, name))) for name in _USAGE)
    return (*head, 1, max(1, len(reply.attempts)), *usd, int(priced), *tokens)


def _kept(amount: float) -> float:
    """`amount`, or 0 for one that cannot be: a single lie of a server must not spoil a sum for ever."""
    return amount if 0 <= amount <= MOST else 0


def _rollup(values: tuple[Any, ...]) -> Rollup:
    hour, tag, value, by, label, reason, stage, tier, model, reply_model, mode, folder = values[:12]
    rows, heads, cost, replies, attempts, reply_usd, baseline_usd, priced, *tokens = values[12:]
    return Rollup(
        hour,
        tag or None,
        value if tag else None,
        by,
        label,
        reason,
        None if stage < 0 else stage,
        tier or None,
        model or None,
        reply_model or None,
        mode or None,
        folder,
        int(rows),
        int(heads),
        cost,
        int(replies),
        int(attempts),
        reply_usd,
        baseline_usd,
        int(priced),
        Usage(*map(int, tokens)),
    )


def _upsert(db: Db, table: str, keys: tuple[str, ...], sums: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    if rows:
        added = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in sums)
        sql = f"""
            INSERT INTO {table} ({", ".join((*keys, *sums))}) VALUES ({", ".join("?" * len(keys + sums))})
            ON CONFLICT ({", ".join(keys)}) DO UPDATE SET {added}
        """
        db.executemany(sql, rows)


def _hour(at: float) -> int:
    return int(at // HOUR * HOUR)


def _end(until: float) -> int:
    return 1 << 62 if until == math.inf else math.ceil(until)
