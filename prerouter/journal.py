"""The journal of a labelling run, beside its output: what is to be asked, what was answered, what it cost.

A SQLite file, so that memory stays bounded at any number of rows. Whatever `record` took is on disk when it returns
and survives kill -9 and power loss. Requests with the same text share one entry: they are asked about once. Texts are
stored as they were handed over, that is redacted.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any

from prerouter.errors import ConfigError, DataError

VERSION = 1
PAGE = 500  # requests read at a time
CACHE_KB = 8_000
_BUSY = 0.5  # seconds that another process's lock is waited for

# A request's questions differ in `prompt` (an id, see `prompt.Prompt`) and `vote`. `final`: asking again is no use.
# `settled`: an earlier output's answer, as the JSON of its fields; null: it cannot be asked about.
# `pick`: place in the random order of the sample.
_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE requests (n INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, wanted INTEGER NOT NULL, row INTEGER NOT NULL,
    settled TEXT);
CREATE TABLE rows (seq INTEGER PRIMARY KEY, request INTEGER NOT NULL, id TEXT NOT NULL, pick INTEGER NOT NULL,
    stratum TEXT NOT NULL, weight REAL NOT NULL, data TEXT NOT NULL);
CREATE TABLE answers (request INTEGER, prompt TEXT, vote INTEGER, label TEXT, confidence REAL NOT NULL, error TEXT,
    final INTEGER NOT NULL, attempts INTEGER NOT NULL, at REAL NOT NULL, PRIMARY KEY (request, prompt, vote)
    ) WITHOUT ROWID;
CREATE TABLE batches (nonce TEXT PRIMARY KEY, at REAL NOT NULL, count INTEGER NOT NULL, id TEXT, reserved TEXT NOT NULL
    ) WITHOUT ROWID;
CREATE TABLE items (request INTEGER, prompt TEXT, vote INTEGER, nonce TEXT NOT NULL,
    PRIMARY KEY (request, prompt, vote)) WITHOUT ROWID;
PRAGMA user_version = {VERSION};
"""
_DONE = "EXISTS (SELECT 1 FROM answers a WHERE a.request = r.n AND a.prompt = ? AND a.vote = ? AND a.final)"
_SENT = "EXISTS (SELECT 1 FROM items i WHERE i.request = r.n AND i.prompt = ? AND i.vote = ?)"


@dataclass(frozen=True, slots=True)
class Ask:
    """One question: request number `request` under prompt `prompt` for the `vote`-th time. data: its row as JSON."""

    request: int
    prompt: str
    vote: int
    data: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question came to. error: why there is no label. final: asking again is no use. usd: billed."""

    request: int
    prompt: str
    vote: int
    label: str | None
    confidence: float
    error: str | None
    final: bool
    attempts: int
    at: float
    usd: Decimal = Decimal(0)
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the output to be. settled: an earlier output's answer as JSON (null: there can be none), or None."""

    request: int
    id: str
    weight: float
    data: str
    settled: str | None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that was sent, or was about to be: then `id` is None. at: UTC seconds. reserved: dollars, at most."""

    nonce: str
    at: float
    count: int
    id: str | None
    reserved: Decimal


@dataclass(frozen=True, slots=True)
class Spent:
    """All that was spent for this output. lost_usd: at most so much more, for calls whose bill never came."""

    usd: Decimal = Decimal(0)
    input_tokens: int = 0
    output_tokens: int = 0
    lost_usd: Decimal = Decimal(0)


class Journal:
    """The journal at `path`, held by this process alone. Thread-safe. Raises ConfigError while another one holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_new = not path.exists()
        self._lock = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        try:
            for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.execute(f"PRAGMA cache_size = -{CACHE_KB}")
            self._db.execute("PRAGMA temp_store = FILE")
            self._db.execute("BEGIN EXCLUSIVE")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            what = "another prerouter label is at work on this output" if "lock" in str(error) else str(error)
            raise ConfigError(what, where=str(self.path), next_step="wait for it, or name another output") from error
        except sqlite3.DatabaseError as error:
            raise DataError(f"not a journal: {error}", file=self.path, next_step="move it away") from error
        if version == 0:
            self._db.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        elif version != VERSION:
            raise DataError(f"a journal of version {version}", file=self.path, next_step="upgrade prerouter")

    def close(self) -> None:
        """Close the file; it stays."""
        with self._lock:
            self._db.close()

    def remove(self) -> None:
        """Close the file and delete it: the output has all that it held."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction: all of what is written inside, or nothing."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def get(self, key: str) -> str | None:
        """A value that `set` kept."""
        found = self._one("SELECT value FROM meta WHERE key = ?", key)
        return str(found[0]) if found else None

    def set(self, **values: str) -> None:
        """Keep values, inside `writing`."""
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())

    # The rows that are to be labelled.

    def clear_rows(self) -> None:
        """Forget the rows, not the answers to them."""
        self._db.execute("DELETE FROM rows")
        self._db.execute("UPDATE requests SET wanted = 0")

    def add_row(
        self, seq: int, key: bytes, name: str, data: str, *, weight: float = 1.0, pick: int = 0, stratum: str = ""
    ) -> int:
        """Add the row numbered `seq`, whose text has the hash `key`; the number of its request."""
        insert = "INSERT INTO requests (key, wanted, row) VALUES (?, 1, ?) ON CONFLICT (key) DO UPDATE SET "
        # An entry of an earlier input now stands for the row that is here.
        insert += "row = CASE WHEN wanted THEN row ELSE excluded.row END, wanted = 1 RETURNING n"
        n = int(self._db.execute(insert, (key, seq)).fetchone()[0])
        self._db.execute("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)", (seq, n, name, pick, stratum, weight, data))
        return n

    def trim(self, stratum: str, most: int) -> int | None:
        """Keep the `most` rows of a stratum that are first in the sample's order; the last kept one's place."""
        ordered = "FROM rows WHERE stratum = ? ORDER BY pick, seq LIMIT 1 OFFSET ?"
        last = self._one(f"SELECT pick {ordered}", stratum, most - 1) if most else (-1,)
        if last is None:
            return None
        self._db.execute("DELETE FROM rows WHERE stratum = ? AND pick > ?", (stratum, last[0]))
        return int(last[0])

    def weigh(self, stratum: str, factor: float) -> None:
        """Multiply the weights of a stratum's rows."""
        self._db.execute("UPDATE rows SET weight = weight * ? WHERE stratum = ?", (factor, stratum))

    def finish_rows(self) -> None:
        """Note which requests the rows that were kept are about."""
        self._db.execute("UPDATE requests SET wanted = 0")
        first = "SELECT request, min(seq) AS row FROM rows GROUP BY request"
        self._db.execute(f"UPDATE requests SET wanted = 1, row = f.row FROM ({first}) f WHERE requests.n = f.request")

    def knows(self, key: bytes) -> int | None:
        """The number of the wanted request with this hash."""
        found = self._one("SELECT n FROM requests WHERE key = ? AND wanted", key)
        return int(found[0]) if found else None

    def settle(self, request: int, fields: str) -> None:
        """Take over an earlier answer to a request, inside `writing`."""
        self._db.execute("UPDATE requests SET settled = ? WHERE n = ?", (fields, request))

    def rows(self) -> Iterator[Row]:
        """Every row, in order."""
        select = "SELECT seq, request, id, weight, data, settled FROM rows JOIN requests ON n = request"
        last = 0
        while page := self._all(f"{select} WHERE seq > ? ORDER BY seq LIMIT {PAGE}", last):
            last = page[-1][0]
            yield from (Row(*values[1:]) for values in page)

    def count(self) -> tuple[int, int]:
        """Rows, and distinct requests among them."""
        rows, requests = "SELECT count(*) FROM rows", "SELECT count(*) FROM requests WHERE wanted"
        return self._one(rows)[0], self._one(requests)[0]

    # What is asked and answered.

    def pending(self, prompt: str, votes: int, *, split: Sequence[str] = ()) -> Iterator[Ask]:
        """Questions without a final answer that are in no batch, request by request.

        split: only about requests whose answers under these prompts differ, or have no label for good.
        """
        where, values = "r.wanted AND r.settled IS NULL", []
        if split:
            marks = ", ".join("?" * len(split))
            own = f"SELECT label FROM answers a WHERE a.request = r.n AND a.prompt IN ({marks}) AND a.final"
            where += (
                f" AND (SELECT count(*) > 0 AND (count(DISTINCT label) > 1 OR count(label) < count(*)) FROM ({own}))"
            )
            values = list(split)
        missing = " OR ".join([f"NOT ({_DONE} OR {_SENT})"] * votes)
        asked = [value for vote in range(votes) for value in (prompt, vote) * 2]
        select = f"SELECT n, data FROM requests r JOIN rows ON seq = r.row WHERE n > ? AND {where} AND ({missing})"
        last = 0
        while page := self._all(f"{select} ORDER BY n LIMIT {PAGE}", last, *values, *asked):
            last = page[-1][0]
            for n, data in page:
                yield from (Ask(n, prompt, vote, data) for vote in range(votes) if not self._closed(n, prompt, vote))

    def _closed(self, n: int, prompt: str, vote: int) -> bool:
        select = f"SELECT {_DONE} OR {_SENT} FROM (SELECT ? AS n) r"
        return bool(self._one(select, prompt, vote, prompt, vote, n)[0])

    def n_answered(self, prompt: str, votes: int) -> int:
        """Questions about the rows that need not be asked any more, those of settled requests included."""
        joined = "answers JOIN requests ON n = request WHERE wanted AND settled IS NULL"
        done = self._one(f"SELECT count(*) FROM {joined} AND prompt = ? AND vote < ? AND final", prompt, votes)[0]
        return int(done) + votes * int(self._one("SELECT count(*) FROM requests WHERE wanted AND settled NOT NULL")[0])

    def n_split(self, prompt: str) -> int:
        """Requests whose answers differ."""
        joined = "answers JOIN requests ON n = request WHERE wanted AND prompt = ? AND label NOT NULL"
        split = f"SELECT 1 FROM {joined} GROUP BY request HAVING count(DISTINCT label) > 1"
        return int(self._one(f"SELECT count(*) FROM ({split})", prompt)[0])

    def record(self, answers: Iterable[Answer], *, lost: Decimal = Decimal(0)) -> None:
        """Keep answers and what they cost; on disk when it returns. lost: dollars that may have been billed besides."""
        with self.writing():
            spent = self.spent()
            usd, given, taken = spent.usd, spent.input_tokens, spent.output_tokens
            for answer in answers:
                self._put(answer)
                usd, given, taken = usd + answer.usd, given + answer.input_tokens, taken + answer.output_tokens
            self.set(usd=str(usd), tokens=f"{given} {taken}", lost=str(spent.lost_usd + lost))

    def _put(self, answer: Answer) -> None:
        key = (answer.request, answer.prompt, answer.vote)
        update = ", ".join(f"{name} = excluded.{name}" for name in ("label", "confidence", "error", "final", "at"))
        outcome = (answer.label, answer.confidence, answer.error, answer.final, answer.attempts, answer.at)
        insert = "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        self._db.execute(f"{insert} {update}, attempts = attempts + excluded.attempts", (*key, *outcome))
        self._db.execute("DELETE FROM items WHERE request = ? AND prompt = ? AND vote = ?", key)

    def answers(self, request: int) -> list[Answer]:
        """What is known of a request, in the order of votes; costs are not kept one by one."""
        columns = "prompt, vote, label, confidence, error, final, attempts, at"
        rows = self._all(f"SELECT {columns} FROM answers WHERE request = ? ORDER BY prompt, vote", request)
        return [Answer(request, *values) for values in rows]

    def spent(self) -> Spent:
        """What was spent so far, earlier runs included."""
        given, taken = (self.get("tokens") or "0 0").split()
        return Spent(Decimal(self.get("usd") or 0), int(given), int(taken), Decimal(self.get("lost") or 0))

    # Batches.

    def intend(self, nonce: str, asks: Sequence[Ask], reserved: Decimal) -> Batch:
        """Note that a batch of these questions is about to be sent; on disk when it returns."""
        batch = Batch(nonce, time.time(), len(asks), None, reserved)
        with self.writing():
            values = (nonce, batch.at, batch.count, str(reserved))
            self._db.execute("INSERT INTO batches VALUES (?, ?, ?, NULL, ?)", values)
            insert = "INSERT INTO items VALUES (?, ?, ?, ?)"
            self._db.executemany(insert, ((ask.request, ask.prompt, ask.vote, nonce) for ask in asks))
        return batch

    def sent(self, nonce: str, batch_id: str) -> None:
        """Note the id that the API gave a batch."""
        with self.writing():
            self._db.execute("UPDATE batches SET id = ? WHERE nonce = ?", (batch_id, nonce))

    def drop(self, nonce: str) -> None:
        """Forget a batch that never came to be, or all of whose results are recorded. Its other questions are free."""
        with self.writing():
            self._db.execute("DELETE FROM items WHERE nonce = ?", (nonce,))
            self._db.execute("DELETE FROM batches WHERE nonce = ?", (nonce,))

    def batches(self) -> list[Batch]:
        """The batches whose results are not recorded yet, oldest first."""
        rows = self._all("SELECT nonce, at, count, id, reserved FROM batches ORDER BY at, nonce")
        return [Batch(nonce, at, count, name, Decimal(reserved)) for nonce, at, count, name, reserved in rows]

    def in_batch(self, nonce: str, request: int, prompt: str, vote: int) -> bool:
        """Whether the batch holds this question and no result of it is recorded."""
        select = "SELECT 1 FROM items WHERE request = ? AND prompt = ? AND vote = ? AND nonce = ?"
        return self._one(select, request, prompt, vote, nonce) is not None

    def _one(self, sql: str, *values: object) -> Any:
        with self._lock:
            return self._db.execute(sql, values).fetchone()

    def _all(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()
