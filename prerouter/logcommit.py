"""What one transaction of the writer stores: rows, what rows got after the fact, and the roll-ups of both."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from prerouter.logrecords import RowLabel, RowRef
from prerouter.logschema import INSERT, INSERT_FEATURES, SELECT, LogRow, micros, packed, packed_scores
from prerouter.logstore import Db
from prerouter.records import Scores
from prerouter.rollups import TagValues, Tally

CAUGHT_UP_AT_ONCE = 2_000  # old rows added to the roll-ups in one transaction
# The rows' own, too: during an upgrade an earlier version may write the same file, which knows no such counter.
_LAST = """
    SELECT max(n) FROM (SELECT value AS n FROM counters WHERE name = 'seq' UNION ALL SELECT max(seq) FROM rows) AS known
"""
_FOUND = "SELECT seq, at, id, audit, decided_by, stage, label, model_folder_id FROM rows WHERE"
_LABEL = (
    *("seq", "request_id", "label", "origin", "labelled_by", "prompt_id", "confidence", "score", "outcome", "weight"),
    *("cost_usd", "at"),
)
_INSERT_LABEL = f"INSERT INTO labels ({', '.join(_LABEL)}) VALUES ({', '.join('?' * len(_LABEL))})"

Row = RowRef | int | str  # what refers to a row: what `append` returned, its number, or its id: the newest one's


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row that waits to be written. digest: the SHA-256 of its text."""

    row: LogRow
    digest: bytes


@dataclass(frozen=True, slots=True)
class Later:
    """What a row gets after the fact: a label, or what its local stages say. at: UTC seconds since 1970."""

    row: Row
    what: RowLabel | tuple[Scores, ...]
    at: float


Waiting = NewRow | Later


@dataclass(slots=True)
class Commit:
    """One transaction's work.

    dropped: rows lost before, to be counted in the store. alone: given when a first try failed for its values: around
    each row, so that its failure costs only itself. Once it is done: kept, refused: rows stored, and those of `items`
    that could not be, with one `why`; counted: the part of `dropped` that the store knows of.
    """

    items: Sequence[Waiting]
    values: TagValues
    of_the_store: Callable[[Exception], bool]
    alone: Callable[[Db], AbstractContextManager[None]] | None = None
    dropped: int = 0
    counted: int = 0
    kept: int = 0
    refused: int = 0
    why: str = ""

    def run(self, db: Db, key: bytes) -> Commit:
        """Store it all; itself. Raises what the store raised, or with `alone` only what is the store's own fault."""
        tally, self.kept, self.refused, self.counted = Tally(self.values), 0, 0, self.dropped
        self._rows(db, key, tally)
        for item in self.items:
            if isinstance(item, Later):
                self._try(db, partial(_write_later, db, item, tally))
        tally.write(db)
        lost = self.dropped + self.refused
        if lost:
            db.execute("UPDATE counters SET value = value + ? WHERE name = 'dropped'", (lost,))
        return self

    def _rows(self, db: Db, key: bytes, tally: Tally) -> None:
        items = [item for item in self.items if isinstance(item, NewRow)]
        found = [ready for item in items if (ready := self._packed(item, key))]
        if not found:
            return
        seq: int = db.execute(_LAST).fetchone()[0]
        pages = [[row] for row in found] if self.alone else [found]
        for page in pages:
            if self._try(db, partial(_insert, db, page, seq)):
                seq += len(page)
                self.kept += len(page)
                for row, _, _ in page:
                    tally.add(row)
        db.execute("UPDATE counters SET value = ? WHERE name = 'seq'", (seq,))

    def _packed(self, item: NewRow, key: bytes) -> _Packed | None:
        try:
            return item.row, item.row.values(_keyed(key, item.digest)), item.row.feature_values()
        except Exception as error:
            self._refuse(error)
            return None

    def _try(self, db: Db, work: Callable[[], None]) -> bool:
        if not self.alone:
            work()
            return True
        try:
            with self.alone(db):
                work()
        except Exception as error:
            if self.of_the_store(error):
                raise
            self._refuse(error)
            return False
        return True

    def _refuse(self, error: Exception) -> None:
        self.refused += 1
        self.why = f" ({type(error).__name__}: {error})"


def catch_up(db: Db, values: TagValues) -> bool:
    """Add some of the rows that are older than the roll-ups to them; False when there are none left."""
    left: int = db.execute("SELECT value FROM counters WHERE name = 'unrolled'").fetchone()[0]
    if not left:
        return False
    tally, start = Tally(values), max(0, left - CAUGHT_UP_AT_ONCE)
    for found in db.execute(f"{SELECT} WHERE rows.seq > ? AND rows.seq <= ?", (start, left)):
        tally.add(LogRow.read(found))
    tally.write(db)
    db.execute("UPDATE counters SET value = ? WHERE name = 'unrolled'", (start,))
    return start > 0


_Packed = tuple[LogRow, tuple[Any, ...], tuple[Any, ...] | None]


def _insert(db: Db, page: Sequence[_Packed], seq: int) -> None:
    """Rows numbered from `seq` + 1 on."""
    numbered = list(enumerate(page, seq + 1))
    db.executemany(INSERT, [(number, *values) for number, (_, values, _) in numbered])
    features = [(number, *values) for number, (_, _, values) in numbered if values]
    if features:
        db.executemany(INSERT_FEATURES, features)


def _write_later(db: Db, later: Later, tally: Tally) -> None:
    found = _find(db, later.row)
    if isinstance(later.what, RowLabel):
        _write_label(db, later, later.what, found, tally)
    elif found:
        db.execute("UPDATE rows SET scores = ? WHERE seq = ?", (packed_scores(later.what), found[0]))


def _write_label(db: Db, later: Later, label: RowLabel, found: tuple[Any, ...] | None, tally: Tally) -> None:
    named = later.row.id if isinstance(later.row, RowRef) else later.row if isinstance(later.row, str) else ""
    seq, at, name, audit, decided_by, *decided = found or (0, 0, named, 0, "", None, "", "")
    if label.origin == "audit" and label.label is not None and audit and decided_by not in ("llm", "cache"):
        before = "SELECT 1 FROM labels WHERE seq = ? AND origin = 'audit' AND label IS NOT NULL"
        if not db.execute(before, (seq,)).fetchone():
            stage, decision, folder = decided
            whose = (folder, label.labelled_by, label.prompt_id)
            tally.audited(at / 1e6, decided_by, stage, decision, label.label, *whose)
    own = (getattr(label, field) for field in _LABEL[2:-1])
    db.execute(_INSERT_LABEL, (seq, packed(name), *map(packed, own), micros(label.at or later.at)))


def _keyed(key: bytes, digest: bytes) -> str:
    """`LogRow.text_hash` for the SHA-256 of a text."""
    return hmac.digest(key, digest, "sha256").hex()[:32]


def which_row(row: Row) -> tuple[str, tuple[int | str, ...]]:
    """What a WHERE says to find it, and its values; of several rows with one id the newest is meant."""
    if isinstance(row, int):
        return "rows.seq = ?", (row,)
    if isinstance(row, str):
        return "id = ?", (packed(row),)
    return "id = ? AND at = ?", (packed(row.id), micros(row.at))


def _find(db: Db, row: Row) -> tuple[Any, ...] | None:
    where, values = which_row(row)
    found: tuple[Any, ...] | None = db.execute(f"{_FOUND} {where} ORDER BY seq DESC LIMIT 1", values).fetchone()
    return found
