"""What is read from the routing log beside rows, and deleted from it: labels, states, figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from prerouter.logcommit import Row, which_row
from prerouter.logrecords import RowLabel, State, iso
from prerouter.logschema import SELECT, LogRow, micros, packed
from prerouter.logstore import Db

_LABEL = (
    *("label", "origin", "labelled_by", "prompt_id", "confidence", "score", "outcome", "weight", "cost_usd", "at"),
    *("number", "seq", "request_id"),
)
# A row may come after its label, from another process: its number is looked up again.
_SEQ = "CASE WHEN seq > 0 THEN seq ELSE coalesce((SELECT max(rows.seq) FROM rows WHERE id = request_id), 0) END"
_LESSONS = (
    "rows.seq FROM rows WHERE audit = 1 AND {where}",
    "rows.seq FROM rows WHERE decided_by = 'llm' AND {where}",
    # A CROSS JOIN, which has SQLite go through the labels: they are fewer.
    "DISTINCT rows.seq FROM labels CROSS JOIN rows WHERE rows.seq = labels.seq AND labels.seq > {last} AND {where}",
)
_SELECT_LABELS = f"SELECT {', '.join(_SEQ if name == 'seq' else name for name in _LABEL)} FROM labels"


@dataclass(frozen=True, slots=True)
class LogStats:
    """Figures of a log.

    dropped: rows and labels that could not be kept, restarts included. bytes: of the file and its write-ahead part, or
    of the database. first_at, last_at: UTC seconds since 1970; None when there are no rows. by_decided_by:
    {decided_by: rows}. audits: rows whose audit coin fell heads. fingerprints: {encoder fingerprint: rows with its
    features}. labels: {origin: labels that rows got after the fact}.
    """

    rows: int = 0
    dropped: int = 0
    bytes: int = 0
    first_at: float | None = None
    last_at: float | None = None
    by_decided_by: Mapping[str, int] = field(default_factory=dict)
    audits: int = 0
    fingerprints: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, db: Db) -> LogStats:
        """The figures in `db`; `bytes` is left 0."""
        rows = db.execute("SELECT count(*) FROM rows").fetchone()[0]
        first, last = db.execute("SELECT (SELECT min(at) FROM rows), (SELECT max(at) FROM rows)").fetchone()
        return cls(
            rows=rows,
            dropped=db.execute("SELECT value FROM counters WHERE name = 'dropped'").fetchone()[0],
            first_at=first / 1e6 if rows else None,
            last_at=last / 1e6 if rows else None,
            by_decided_by=_counts(db, "SELECT decided_by, count(*) FROM rows GROUP BY 1 ORDER BY 1"),
            audits=db.execute("SELECT count(*) FROM rows WHERE audit = 1").fetchone()[0],
            fingerprints=_counts(db, "SELECT fingerprint, count(*) FROM features GROUP BY 1 ORDER BY 1"),
            labels=_counts(db, "SELECT origin, count(*) FROM labels GROUP BY 1 ORDER BY 1"),
        )

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object; times in ISO 8601."""
        times = {name: None if at is None else iso(at) for name, at in self._times()}
        return {f.name: getattr(self, f.name) for f in fields(self)} | times

    def _times(self) -> tuple[tuple[str, float | None], ...]:
        return ("first_at", self.first_at), ("last_at", self.last_at)


@dataclass(frozen=True, slots=True)
class Which:
    """Rows that are read page by page: those numbered (last, newest] that `where` takes. lessons: only such."""

    where: str
    values: tuple[int, ...]
    lessons: bool
    last: int
    newest: int

    @classmethod
    def between(
        cls, db: Db, since: float | None, until: float | None, after: int, heads_only: bool, lessons: bool
    ) -> Which:
        """See `LogReader.rows`."""
        where, values, last = "rows.seq > ? AND rows.seq <= ?", list[int](), after
        for sign, at in ((">=", since), ("<", until)):
            if at is not None:
                # A row's number says little about its time where processes or clocks differ. The + has the index of
                # the numbers used and not that of the times.
                where += f" AND +rows.at {sign} ?"
                values.append(micros(at))
        if since is not None:
            # Not min(seq), for which SQLite reads all rows from the first on.
            first = db.execute("SELECT min(+seq) FROM rows WHERE at >= ?", (micros(since),)).fetchone()[0]
            last = max(after, newest(db) if first is None else first - 1)
        if heads_only:
            where += " AND audit = 1"
        return cls(where, tuple(values), lessons and not heads_only, last, newest(db))

    def page(self, db: Db, n: int) -> list[LogRow]:
        """The next `n` rows."""
        one = (self.last, self.newest, *self.values)
        if not self.lessons:
            return read_rows(db, f"WHERE {self.where} ORDER BY rows.seq LIMIT ?", *one, n)
        # Three short ways, each with an index of its own; an OR would read all rows.
        kinds = (kind.format(where=self.where, last=self.last) for kind in _LESSONS)
        turns = (f"SELECT seq FROM (SELECT {kind} ORDER BY rows.seq LIMIT ?) AS part" for kind in kinds)
        found = db.execute(f"{' UNION '.join(turns)} ORDER BY seq LIMIT ?", (*(*one, n) * len(_LESSONS), n)).fetchall()
        numbers = ", ".join(str(int(seq)) for (seq,) in found)
        return read_rows(db, f"WHERE rows.seq IN ({numbers}) ORDER BY rows.seq") if numbers else []

    def after(self, seq: int) -> Which:
        """What is left after the row `seq`."""
        return replace(self, last=seq)


def read_rows(db: Db, how: str, *values: Any) -> list[LogRow]:
    """The rows that a SELECT gives, with their labels."""
    rows = [LogRow.read(found) for found in db.execute(f"{SELECT} {how}", values)]
    if not rows:
        return rows
    numbers = [row.seq for row in rows]
    labels = labels_of(db, min(numbers), max(numbers))
    return [replace(row, labels=tuple(labels[row.seq])) if row.seq in labels else row for row in rows]


def read_row(db: Db, row: Row) -> LogRow | None:
    """One row, see `LogReader.row`."""
    where, values = which_row(row)
    found = read_rows(db, f"WHERE {where} ORDER BY rows.seq DESC LIMIT 1", *values)
    return found[0] if found else None


def rows_of(db: Db, labels: list[RowLabel]) -> dict[int, LogRow]:
    """{seq: row} of the rows that have these labels."""
    found = {seq: read_row(db, seq) for seq in {label.seq for label in labels}}
    return {seq: row for seq, row in found.items() if row}


def newest(db: Db) -> int:
    """The highest number of a row, 0 without rows."""
    return int(db.execute("SELECT coalesce(max(seq), 0) FROM rows").fetchone()[0])


def unrolled(db: Db) -> int:
    """Rows up to this number are not in the roll-ups yet."""
    return int(db.execute("SELECT value FROM counters WHERE name = 'unrolled'").fetchone()[0])


def read_labels(
    db: Db, since: float | None, until: float | None, origin: str | None, after: int, n: int
) -> list[RowLabel]:
    """The first `n` labels numbered above `after` with `at` in [since, until), of `origin`; by number upwards."""
    bounds = (-(1 << 62) if since is None else micros(since), 1 << 62 if until is None else micros(until))
    which, whose = ("AND origin = ?", (origin,)) if origin else ("", ())
    sql = f"{_SELECT_LABELS} WHERE number > ? AND at >= ? AND at < ? {which} ORDER BY number LIMIT ?"
    return [_label(values) for values in db.execute(sql, (after, *bounds, *whose, n))]


def labels_of(db: Db, first: int, last: int) -> dict[int, list[RowLabel]]:
    """{seq: labels, oldest first} of the rows numbered [first, last]."""
    found: dict[int, list[RowLabel]] = {}
    for values in db.execute(f"{_SELECT_LABELS} WHERE seq >= ? AND seq <= ? ORDER BY number", (first, last)):
        label = _label(values)
        found.setdefault(label.seq, []).append(label)
    return found


def read_states(db: Db, prefix: str) -> dict[str, State]:
    """The states whose key starts with `prefix`."""
    sql = "SELECT key, value, version, at FROM state WHERE substr(key, 1, ?) = ? ORDER BY key"
    return {state.key: state for state in map(_state, db.execute(sql, (len(prefix), prefix)))}


def read_state(db: Db, key: str) -> State | None:
    """The state of `key`."""
    found = db.execute("SELECT key, value, version, at FROM state WHERE key = ?", (key,)).fetchone()
    return _state(found) if found else None


def write_state(db: Db, key: str, value: str, at: float, if_version: int | None) -> int | None:
    """Set it, unless its version is another than `if_version`, 0 for none; its new version, or None."""
    old = read_state(db, key)
    version = old.version if old else 0
    if if_version is not None and if_version != version:
        return None
    sql = """
        INSERT INTO state (key, value, version, at) VALUES (?, ?, ?, ?)
        ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version, at = excluded.at
    """
    db.execute(sql, (key, value, version + 1, micros(at)))
    return version + 1


def delete(db: Db, after: int, up_to: int, before: float | None, tag: tuple[str, str] | None) -> int:
    """Delete, of the rows numbered (after, up_to], those with `at` before `before` and with `tag`; how many."""
    return delete_rows(db, *_which(after, up_to, before, tag))


def delete_rows(db: Db, where: str, values: Sequence[int | str]) -> int:
    """Delete these rows, and what they got after the fact; how many."""
    for table in ("features", "labels"):
        db.execute(f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM rows WHERE {where})", values)
    return db.execute(f"DELETE FROM rows WHERE {where}", values).rowcount


def delete_strays(db: Db, before: float) -> None:
    """Delete the labels from before `before` that no row was ever found for."""
    db.execute("DELETE FROM labels WHERE seq = 0 AND at < ?", (micros(before),))


def _which(
    after: int, up_to: int, before: float | None, tag: tuple[str, str] | None
) -> tuple[str, tuple[int | str, ...]]:
    where, values = "seq > ? AND seq <= ?", list[int | str]((after, up_to))
    if before is not None:
        where += " AND at < ?"
        values.append(micros(before))
    if tag:
        # The tag as it stands in the JSON text. Inside of a string the quotes would have a backslash before them.
        pair = packed(dict([tag]))[1:-1]
        where += " AND (replace(tags, ?, '') <> tags OR replace(tags, ?, '') <> tags)"
        values += (f"{{{pair}", f", {pair}")
    return where, tuple(values)


def _label(values: tuple[Any, ...]) -> RowLabel:
    row = dict(zip(_LABEL, values, strict=True))
    return RowLabel(**(row | {"at": row["at"] / 1e6}))


def _state(values: tuple[Any, ...]) -> State:
    key, value, version, at = values
    return State(key, json.loads(value), version, at / 1e6)


def _counts(db: Db, sql: str) -> dict[str, int]:
    return {name: int(n) for name, n in db.execute(sql)}


def json_value(value: Any) -> str:
    """`value` as JSON. Raises ValueError or TypeError for what is none; NaN is none."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False)
