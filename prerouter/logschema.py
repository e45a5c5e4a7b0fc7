"""The rows of the routing log: the record that writes a row and reads it, the schema, the figures."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from prerouter.records import Decision, Usage

if TYPE_CHECKING:
    import sqlite3

    import numpy as np

# Entry n takes a file from user_version n to n + 1. Entries are only ever added. `rows` stays narrow, so that counting
# need not read the features; AUTOINCREMENT, so that a pruned row's number is never given to another.
MIGRATIONS = (
    """
    CREATE TABLE rows (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL,
        id TEXT NOT NULL, label TEXT NOT NULL, tier TEXT, model TEXT, decided_by TEXT NOT NULL, stage INTEGER,
        reason TEXT NOT NULL, adjusted_by TEXT NOT NULL, confidence REAL NOT NULL, probabilities TEXT NOT NULL,
        fallback_label TEXT, rationale TEXT, params TEXT NOT NULL, audit INTEGER NOT NULL, audit_p REAL NOT NULL,
        model_folder_id TEXT NOT NULL, prompt_id TEXT, text_version INTEGER NOT NULL, seconds REAL NOT NULL,
        cost_usd REAL NOT NULL,
        tags TEXT NOT NULL, text_hash TEXT NOT NULL, text TEXT, n_chars INTEGER NOT NULL, signals TEXT NOT NULL,
        reply_model TEXT, stop_reason TEXT, input_tokens INTEGER, output_tokens INTEGER, cache_read_tokens INTEGER,
        cache_write_5m_tokens INTEGER, cache_write_1h_tokens INTEGER
    );
    CREATE INDEX rows_at ON rows (at);
    CREATE TABLE features (
        seq INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL, dtype TEXT NOT NULL, shape TEXT NOT NULL, data BLOB NOT NULL
    );
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
    INSERT INTO counters VALUES ('dropped', 0);
    """,
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the log keeps of a reply: the model that answered, why it stopped, its tokens; the rest from dispatch only.

    cost_usd: of all attempts, without the classifier; baseline_usd: of the same answer at the top tier, US dollars.
    seconds: until its end; first_byte_s: until its first content. attempts: `dispatchrecords.Attempt` as JSON objects.
    """

    model: str | None
    stop_reason: str | None
    usage: Usage
    cost_usd: float | None = None
    baseline_usd: float | None = None
    seconds: float | None = None
    first_byte_s: float | None = None
    attempts: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of(cls, message: object) -> Reply:
        """From an `anthropic.types.Message`, or a mapping with the same keys; what is missing counts as 0 or None."""
        usage = _get(message, "usage")
        written = _get(usage, "cache_creation")
        one_hour = _tokens(written, "ephemeral_1h_input_tokens")
        return cls(
            _name(_get(message, "model")),
            _name(_get(message, "stop_reason")),
            Usage(
                input_tokens=_tokens(usage, "input_tokens"),
                output_tokens=_tokens(usage, "output_tokens"),
                cache_read_tokens=_tokens(usage, "cache_read_input_tokens"),
                # The total is always there, its split by lifetime is not; without one the default lifetime applies.
                cache_write_5m_tokens=max(0, _tokens(usage, "cache_creation_input_tokens") - one_hour),
                cache_write_1h_tokens=one_hour,
            ),
        )


@dataclass(frozen=True, slots=True)
class LogRow:
    """One request, as it was routed.

    seq: the row's number in its file, from 1 upwards, never used twice; 0 before it is written.
    at: UTC seconds since 1970, to the microsecond.
    decision: without `rationale` and `params`, which quote the request, unless texts are kept.
    text_hash: 32 hex characters of HMAC-SHA-256 under the log's key over the text's SHA-256; equal texts, equal hashes.
    text: the rendered text, or None where texts are not kept (the default).
    n_chars, signals: as in `records.Request`.
    features, fingerprint: the first stage's features, float16 (float32 where float16 overflows), and their encoder.
    """

    at: float
    decision: Decision
    tags: Mapping[str, str]
    text: str | None
    n_chars: int
    signals: tuple[float, ...]
    text_hash: str = ""
    reply: Reply | None = None
    fingerprint: str | None = None
    features: np.ndarray | None = field(default=None, compare=False, repr=False)
    seq: int = 0

    def write(self, db: sqlite3.Connection, text_hash: str) -> None:
        """Insert this row. One that cannot be stored raises before anything is inserted; see `logfile.of_the_file`."""
        values = self._values(text_hash)
        features = _packed_features(self.features) if self.fingerprint and self.features is not None else None
        seq = db.execute(_INSERT, values).lastrowid
        if features:
            db.execute("INSERT INTO features VALUES (?, ?, ?, ?, ?)", (seq, self.fingerprint, *features))

    @classmethod
    def read(cls, values: tuple[Any, ...]) -> LogRow:
        """The row that a SELECT of `SELECT` gave."""
        row = dict(zip(_SELECTED, values, strict=True))
        usage = Usage(**{name: row[name] or 0 for name in _USAGE})
        return cls(
            seq=row["seq"],
            at=row["at"] / 1e6,
            decision=_decision(row),
            tags=json.loads(row["tags"]),
            text=row["text"],
            n_chars=row["n_chars"],
            signals=tuple(json.loads(row["signals"])),
            text_hash=row["text_hash"],
            reply=None if row["input_tokens"] is None else Reply(row["reply_model"], row["stop_reason"], usage),
            fingerprint=row["fingerprint"],
            features=_unpacked_features(row),
        )

    @staticmethod
    def delete(
        db: sqlite3.Connection, after: int, up_to: int, before: float | None, tag: tuple[str, str] | None
    ) -> int:
        """Delete, of the rows numbered (after, up_to], those with `at` before `before` and with `tag`; how many."""
        where = "seq > ? AND seq <= ?"
        values: list[int | str] = [after, up_to]
        if before is not None:
            where, values = f"{where} AND at < ?", [*values, round(before * 1e6)]
        if tag:
            has_tag = "EXISTS (SELECT 1 FROM json_each(rows.tags) WHERE key = ? AND value = ?)"
            where, values = f"{where} AND {has_tag}", [*values, *tag]
        db.execute("BEGIN IMMEDIATE")
        with db:
            db.execute(f"DELETE FROM features WHERE seq IN (SELECT seq FROM rows WHERE {where})", values)
            return db.execute(f"DELETE FROM rows WHERE {where}", values).rowcount

    def to_json(self, *, features: bool = False) -> dict[str, Any]:
        """The row as a flat JSON object: the Decision's keys, then its own; `features` as a list when asked for."""
        own = {name: getattr(self, name) for name in ("text", "text_hash", "n_chars", "fingerprint")}
        out = {"seq": self.seq, "at": iso(self.at)} | self.decision.to_json() | own
        out |= {
            "tags": dict(self.tags),
            "signals": list(self.signals),
            "reply": asdict(self.reply) if self.reply else None,
        }
        if features:
            out["features"] = None if self.features is None else self.features.tolist()
        return out

    def _values(self, text_hash: str) -> tuple[Any, ...]:
        reply, usage = self.reply, self.reply.usage if self.reply else None
        return (
            round(self.at * 1e6),
            *(_packed(getattr(self.decision, name)) for name in _DECISION),
            _packed(self.tags),
            text_hash,
            _packed(self.text),
            self.n_chars,
            _packed(self.signals),
            *(_packed(getattr(reply, name, None)) for name in ("model", "stop_reason")),
            *(getattr(usage, name, None) for name in _USAGE),
        )


@dataclass(frozen=True, slots=True)
class LogStats:
    """Figures of a log.

    dropped: rows that could not be kept, restarts included. bytes: of the file and its write-ahead part.
    first_at, last_at: UTC seconds since 1970; None when there are no rows. by_decided_by: {decided_by: rows}.
    audits: rows whose audit coin fell heads. fingerprints: {encoder fingerprint: rows with its features}.
    """

    rows: int = 0
    dropped: int = 0
    bytes: int = 0
    first_at: float | None = None
    last_at: float | None = None
    by_decided_by: Mapping[str, int] = field(default_factory=dict)
    audits: int = 0
    fingerprints: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, db: sqlite3.Connection) -> LogStats:
        """The figures in `db`, at one moment; `bytes` is left 0."""
        db.execute("BEGIN")
        rows, audits = db.execute("SELECT count(*), coalesce(sum(audit), 0) FROM rows").fetchone()
        first, last = db.execute("SELECT (SELECT min(at) FROM rows), (SELECT max(at) FROM rows)").fetchone()
        return cls(
            rows=rows,
            dropped=db.execute("SELECT value FROM counters WHERE name = 'dropped'").fetchone()[0],
            first_at=first / 1e6 if rows else None,
            last_at=last / 1e6 if rows else None,
            by_decided_by=dict(db.execute("SELECT decided_by, count(*) FROM rows GROUP BY 1 ORDER BY 1")),
            audits=audits,
            fingerprints=dict(db.execute("SELECT fingerprint, count(*) FROM features GROUP BY 1 ORDER BY 1")),
        )

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object; times in ISO 8601."""
        times = {name: None if at is None else iso(at) for name, at in self._times()}
        return {f.name: getattr(self, f.name) for f in fields(self)} | times

    def _times(self) -> tuple[tuple[str, float | None], ...]:
        return ("first_at", self.first_at), ("last_at", self.last_at)


def iso(at: float) -> str:
    """UTC seconds since 1970 as ISO 8601 with microseconds and Z."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


_DECISION = tuple(f.name for f in fields(Decision))
_USAGE = tuple(f.name for f in fields(Usage))
_OWN = ("at", *_DECISION, "tags", "text_hash", "text", "n_chars", "signals", "reply_model", "stop_reason", *_USAGE)
_SELECTED = ("seq", *_OWN, "fingerprint", "dtype", "shape", "data")
_INSERT = f"INSERT INTO rows ({', '.join(_OWN)}) VALUES ({', '.join('?' * len(_OWN))})"
SELECT = f"SELECT {', '.join(_SELECTED)} FROM rows LEFT JOIN features USING (seq)"


_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode  # json.dumps would make an encoder at each call


def _packed(value: Any) -> object:
    """`value` as SQLite takes it: mappings and tuples as JSON, lone surrogates, which UTF-8 cannot hold, as "?"."""
    if value is None or isinstance(value, int | float):
        return value
    if not isinstance(value, str):
        value = _json(value if isinstance(value, tuple) else dict(value))
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def _decision(row: dict[str, Any]) -> Decision:
    values = {name: row[name] for name in _DECISION}
    unpacked = {name: json.loads(values[name]) for name in ("probabilities", "params")}
    unpacked |= {"adjusted_by": tuple(json.loads(values["adjusted_by"])), "audit": bool(values["audit"])}
    return Decision(**(values | unpacked))


def _packed_features(features: np.ndarray) -> tuple[str, str, bytes]:
    import numpy as np

    with np.errstate(over="ignore"):
        half = features.astype(np.float16)
    kept = half if np.isfinite(half).all() else features.astype(np.float32)
    return kept.dtype.name, json.dumps(kept.shape), kept.tobytes()


def _unpacked_features(row: dict[str, Any]) -> np.ndarray | None:
    if row["data"] is None:
        return None
    import numpy as np

    return np.frombuffer(row["data"], dtype=row["dtype"]).reshape(json.loads(row["shape"]))


def _get(source: object, name: str) -> object:
    return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)


def _tokens(usage: object, name: str) -> int:
    value = _get(usage, name)
    return value if isinstance(value, int) else 0


def _name(value: object) -> str | None:
    return value if isinstance(value, str) else None
