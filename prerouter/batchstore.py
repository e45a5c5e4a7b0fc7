"""What is kept of a batch of ours while it is under way: how its items were decided, in which parts they were sent.

A SQLite file for each batch in the state folder, readable by its owner only. It says what was about to be sent before
it is sent, and survives kill -9 and power loss. No text of a request is in it, unless the routing log keeps texts:
then its rows wait here for their replies.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from prerouter.errors import ConfigError, DataError

PREFIX = "prbatch_"
VERSION = 1
KEPT_S = 30 * 86_400.0  # the API keeps results for 29 days (CLAUDE_API.md, section 7)
PAGE = 1_000  # items read at a time
_PRINT, _NONCE = 16, 8  # hex characters in an id: of what was asked, and at random
_BUSY_S = 5.0  # that another process's transaction is waited for

# items.first: n of the first item that is equal; its answer is that of all. kept: see `batchrouting.Kept`, null for an
# item of another model. error: why it cannot be sent, as [type, message]. part: nonce of what it was sent in.
# outcome: the type of its result, once that was read and counted.
_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE items (n INTEGER PRIMARY KEY, custom_id TEXT NOT NULL, first INTEGER NOT NULL, kept TEXT, error TEXT,
    part TEXT, outcome TEXT);
CREATE TABLE parts (nonce TEXT PRIMARY KEY, at REAL NOT NULL, count INTEGER NOT NULL, id TEXT, state TEXT);
CREATE INDEX items_part ON items (part);
PRAGMA user_version = {VERSION};
"""


@dataclass(frozen=True, slots=True)
class Part:
    """A batch of the API that was sent, or was about to be: then `id` is None. at: UTC seconds. state: as last seen.

    gone: it was looked for and is nowhere: its items never reached the API.
    """

    nonce: str
    at: float
    count: int
    id: str | None
    state: Mapping[str, Any] | None

    @property
    def gone(self) -> bool:
        return self.id == ""

    @property
    def ended(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.gone or (self.state or {}).get("processing_status") == "ended"


@dataclass(frozen=True, slots=True)
class Place:
    """One item as it was asked, and what is known of it. kept, error, part, outcome: of the first that is equal."""

    n: int
    custom_id: str
    first: int
    kept: dict[str, Any] | None
    error: tuple[str, str] | None
    part: str | None
    outcome: str | None


class BatchStore:
    """The file of one batch. alone: no other process may use it meanwhile.

    Raises ConfigError while another one holds it, DataError for what is no such file.
    """

    def __init__(self, path: Path, *, alone: bool = False) -> None:
        self.path = path
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        self._db = sqlite3.connect(path, timeout=0.2 if alone else _BUSY_S, isolation_level=None)
        try:
            self._open(alone)
        except sqlite3.OperationalError as error:
            self._db.close()
            what = "another process is at work on this batch" if "lock" in str(error) else str(error)
            raise ConfigError(what, where=self.id, next_step="wait for it, then try again") from error
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise DataError(f"not the file of a batch: {error}", file=path, next_step="move it away") from error

    def _open(self, alone: bool) -> None:
        if alone:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("BEGIN EXCLUSIVE" if alone else "BEGIN")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        self._db.execute("COMMIT")
        if version == 0:
            self._db.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        elif version != VERSION:
            raise DataError(f"a batch of version {version}", file=self.path, next_step="upgrade prerouter")

    @property
    def id(self) -> str:
        """The batch's id."""
        return self.path.stem

    def close(self) -> None:
        """Close the file; it stays."""
        self._db.close()

    def remove(self) -> None:
        """Close the file and delete it."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def __enter__(self) -> BatchStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction: all of what is written inside, on disk when it returns, or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def get(self, key: str) -> str | None:
        """A value that `note` kept."""
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(found[0]) if found else None

    def note(self, **values: str) -> None:
        """Keep values."""
        with self.writing():
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())

    # The items.

    def ask(self, items: Iterable[tuple[int, str, int]], at: float) -> None:
        """Note what is asked, once: n, custom_id and first of every item."""
        if self.get("at") is None:
            with self.writing():
                insert = "INSERT INTO items (n, custom_id, first) VALUES (?, ?, ?)"
                self._db.executemany(insert, items)
                self._db.execute("INSERT INTO meta VALUES ('at', ?)", (repr(at),))

    def keep(self, decided: Mapping[int, Mapping[str, Any]], refused: Mapping[int, tuple[str, str]]) -> None:
        """Note how items were decided, and why others cannot be sent."""
        with self.writing():
            update = "UPDATE items SET kept = ?, error = NULL WHERE n = ?"
            self._db.executemany(update, ((_packed(kept), n) for n, kept in decided.items()))
            update = "UPDATE items SET error = ? WHERE n = ?"
            self._db.executemany(update, ((_packed(list(error)), n) for n, error in refused.items()))

    def known(self) -> dict[int, dict[str, Any]]:
        """What `keep` noted of decided items, by n."""
        rows = self._db.execute("SELECT n, kept FROM items WHERE kept NOT NULL")
        return {n: json.loads(kept) for n, kept in rows}

    def refused(self) -> set[int]:
        """The items that cannot be sent."""
        return {n for (n,) in self._db.execute("SELECT n FROM items WHERE error NOT NULL")}

    def sent_items(self) -> set[int]:
        """The items that were sent, or may have been."""
        return {n for (n,) in self._db.execute("SELECT n FROM items WHERE part NOT NULL")}

    def places(self) -> Iterator[Place]:
        """Every item in the order asked. The store stays free for others meanwhile."""
        own = "f.kept, f.error, f.part, f.outcome FROM items i JOIN items f ON f.n = i.first"
        select, last = f"SELECT i.n, i.custom_id, i.first, {own} WHERE i.n > ? ORDER BY i.n LIMIT {PAGE}", -1
        while rows := self._db.execute(select, (last,)).fetchall():
            last = rows[-1][0]
            for n, name, first, kept, error, part, outcome in rows:
                told = tuple(json.loads(error)) if error else None
                yield Place(n, name, first, json.loads(kept) if kept else None, told, part, outcome)

    def tally(self) -> dict[tuple[str | None, str | None], tuple[int, int]]:
        """By part (None: never sent) and outcome: items as asked, and how many different ones."""
        rows = self._db.execute(
            "SELECT f.part, f.outcome, count(*), count(DISTINCT f.n) FROM items i JOIN items f ON f.n = i.first "
            "GROUP BY f.part, f.outcome"
        )
        return {(part, outcome): (asked, different) for part, outcome, asked, different in rows}

    def settle(self, results: Sequence[tuple[int, str]]) -> set[int]:
        """Note the types of results; those that were not known before, to be counted now, by whoever asks."""
        with self.writing():
            update = "UPDATE items SET outcome = ? WHERE n = ? AND outcome IS NULL"
            return {n for n, kind in results if self._db.execute(update, (kind, n)).rowcount}

    # The parts.

    def intend(self, nonce: str, items: Sequence[int]) -> Part:
        """Note that these items are about to be sent."""
        part = Part(nonce, time.time(), len(items), None, None)
        with self.writing():
            self._db.execute("INSERT INTO parts VALUES (?, ?, ?, NULL, NULL)", (nonce, part.at, part.count))
            self._db.executemany("UPDATE items SET part = ? WHERE n = ?", ((nonce, n) for n in items))
        return part

    def saw(self, nonce: str, state: Mapping[str, Any]) -> None:
        """Note a part as the API shows it."""
        with self.writing():
            update = "UPDATE parts SET id = ?, state = ? WHERE nonce = ?"
            self._db.execute(update, (state["id"], _packed(state), nonce))

    def lost(self, nonce: str) -> None:
        """Note that a part is nowhere."""
        with self.writing():
            self._db.execute("UPDATE parts SET id = '' WHERE nonce = ?", (nonce,))

    def drop(self, nonce: str) -> None:
        """Forget a part that never came to be: its items are free."""
        with self.writing():
            self._db.execute("UPDATE items SET part = NULL WHERE part = ?", (nonce,))
            self._db.execute("DELETE FROM parts WHERE nonce = ?", (nonce,))

    def parts(self) -> list[Part]:
        """The parts, in the order in which they were sent."""
        rows = self._db.execute("SELECT nonce, at, count, id, state FROM parts ORDER BY at, nonce")
        return [Part(nonce, at, n, name, json.loads(state) if state else None) for nonce, at, n, name, state in rows]


def path_of(folder: Path, batch_id: object) -> Path | None:
    """The file of the batch with this id; None for one that is not ours."""
    hexes = str(batch_id).removeprefix(PREFIX)
    ours = str(batch_id).startswith(PREFIX) and len(hexes) == _PRINT + _NONCE and set(hexes) <= set("0123456789abcdef")
    path = folder / f"{batch_id}.db"
    return path if ours and path.exists() else None


def all_paths(folder: Path) -> list[Path]:
    """The files of all batches, newest first."""
    found = [path for path in folder.glob(f"{PREFIX}*.db") if path_of(folder, path.stem)]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def forget_old(folder: Path) -> None:
    """Remove the files of batches whose results the API no longer has."""
    for path in all_paths(folder):
        if path.stat().st_mtime < time.time() - KEPT_S:
            BatchStore(path).remove()


def open_for(folder: Path, fingerprint: str) -> BatchStore:
    """The file of the batch that was asked like this and whose results nobody has read, else a new one; alone."""
    asked = fingerprint[:_PRINT]
    for path in sorted(folder.glob(f"{PREFIX}{asked}{'?' * _NONCE}.db")):
        store = BatchStore(path, alone=True)
        if store.get("over") is None:
            return store
        store.close()
    return BatchStore(folder / f"{PREFIX}{asked}{os.urandom(_NONCE // 2).hex()}.db", alone=True)


def _packed(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))
