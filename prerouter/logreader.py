"""What reads the routing log: rows, labels, shared states, roll-ups."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TextIO

from prerouter import logtables, logwriter, rollups
from prerouter.logcommit import Row, catch_up
from prerouter.logrecords import Origin, RowLabel, State
from prerouter.logschema import LogRow
from prerouter.logstore import Db, Store
from prerouter.rollups import AuditCount, Latency, Rollup, TagValues

OWN_ROWS_S = 5.0  # how long what reads waits for what its own process appended before
PAGE = 500  # rows read at a time: bounded memory, and no reader that keeps the write-ahead file growing


class LogReader:
    """The reading half of `RouteLog`.

    All of it sees what this object could write before. It raises DataError for what is no routing log, or a newer one,
    UpstreamError for one that cannot be read now, and finds nothing where there is none yet. Times are UTC seconds
    since 1970; a span is [since, until), None for no bound.
    """

    def __init__(self, store: Store, writer: logwriter.Writer) -> None:
        self._store, self._writer = store, writer

    def tail(self, n: int = 10) -> list[LogRow]:
        """The last `n` rows, oldest first."""
        with self._reading() as db:
            return logtables.read_rows(db, "ORDER BY rows.seq DESC LIMIT ?", max(0, n))[::-1] if db else []

    def follow(self, after: int | None = None, *, poll_s: float = 0.25) -> Iterator[LogRow]:
        """Every row after the one numbered `after` (None: after the newest there is), for ever, as it is written.

        poll_s: seconds between two looks.
        """
        last = self._newest() if after is None else after
        return self._following(last, poll_s)

    def rows(
        self,
        since: float | None = None,
        until: float | None = None,
        *,
        heads_only: bool = False,
        lessons: bool = False,
        after: int = 0,
        batch: int = PAGE,
    ) -> Iterator[LogRow]:
        """The rows there are now, in the order of their numbers; `batch` of them in memory at a time.

        heads_only: those whose audit coin fell heads. lessons: those that something can be learnt from: heads rows,
        what the classifier decided, and what got a label. after: only rows numbered above it.
        """
        with self._reading() as db:
            which = logtables.Which.between(db, since, until, after, heads_only, lessons) if db else None
        while which:
            with self._connected() as db:
                found = which.page(db, batch) if db else []
            yield from found
            which = which.after(found[-1].seq) if found else None

    def row(self, row: Row) -> LogRow | None:
        """One row: by its number, by its request id, of several rows the newest, or by what `append` returned."""
        with self._reading() as db:
            return logtables.read_row(db, row) if db else None

    def labels(
        self,
        since: float | None = None,
        until: float | None = None,
        *,
        origin: Origin | None = None,
        after: int = 0,
        batch: int = PAGE,
    ) -> Iterator[RowLabel]:
        """The labels that rows got after the fact, in the order in which they were stored; numbered above `after`."""
        self._writer.flush(OWN_ROWS_S)
        while True:
            with self._connected() as db:
                found = logtables.read_labels(db, since, until, origin, after, batch) if db else []
            yield from found
            if not found:
                return
            after = found[-1].number

    def labelled(
        self, *, origin: Origin | None = None, after: int = 0, batch: int = PAGE
    ) -> Iterator[tuple[RowLabel, LogRow]]:
        """As `labels`, each with its row; those without one are left out."""
        self._writer.flush(OWN_ROWS_S)
        while True:
            with self._connected() as db:
                found = logtables.read_labels(db, None, None, origin, after, batch) if db else []
                rows = logtables.rows_of(db, found) if db else {}
            yield from ((label, rows[label.seq]) for label in found if label.seq in rows)
            if not found:
                return
            after = found[-1].number

    def state(self, key: str) -> State | None:
        """A value that the processes of this log share. Well under a millisecond, or as long as the disk hangs."""
        with self._connected() as db:
            return logtables.read_state(db, key) if db else None

    def states(self, prefix: str = "") -> dict[str, State]:
        """All of them whose key starts with `prefix`, at one moment."""
        with self._connected() as db:
            return logtables.read_states(db, prefix) if db else {}

    def rollups(
        self, since: float | None = None, until: float | None = None, *, tag: str | None = None, step_s: int = 3600
    ) -> list[Rollup]:
        """Sums per kind of request and hour, or step of `step_s` seconds, whole hours; of every value of `tag`."""
        with self._rolled_up() as db:
            return rollups.read_rollups(db, *_span(since, until), tag, step_s) if db else []

    def latencies(
        self, since: float | None = None, until: float | None = None, *, step_s: int | None = None
    ) -> list[Latency]:
        """How long things took, per path; over the whole span, or per step of `step_s` seconds, whole hours."""
        with self._rolled_up() as db:
            return rollups.read_latencies(db, *_span(since, until), step_s) if db else []

    def audit_counts(
        self, since: float | None = None, until: float | None = None, *, step_s: int = 3600
    ) -> list[AuditCount]:
        """Audited rows by decision and by what the labeller says, per hour or step of `step_s` seconds, whole hours."""
        with self._rolled_up() as db:
            return rollups.read_audit_counts(db, *_span(since, until), step_s) if db else []

    def tags(self) -> list[str]:
        """The tags that `rollups` knows."""
        with self._rolled_up() as db:
            return rollups.read_tags(db) if db else []

    def export(self, out: TextIO, *, features: bool = False) -> int:
        """Write all rows to `out` as JSON lines, oldest first, in bounded memory; the number of rows.

        features: include them, as lists.
        """
        written = 0
        for row in self.rows():
            out.write(json.dumps(row.to_json(features=features), ensure_ascii=False) + "\n")
            written += 1
        return written

    def _following(self, last: int, poll_s: float) -> Iterator[LogRow]:
        while True:
            with self._connected() as db:
                rows = logtables.read_rows(db, "WHERE rows.seq > ? ORDER BY rows.seq LIMIT ?", last, PAGE) if db else []
            yield from rows
            if rows:
                last = rows[-1].seq
            else:
                time.sleep(poll_s)

    def _newest(self) -> int:
        with self._reading() as db:
            return logtables.newest(db) if db else 0

    def _reading(self) -> AbstractContextManager[Db | None]:
        self._writer.flush(OWN_ROWS_S)
        return self._connected()

    def _connected(self) -> AbstractContextManager[Db | None]:
        logwriter.hook()
        return self._store.reading()

    def _rolled_up(self) -> AbstractContextManager[Db | None]:
        """As `_reading`, with the rows from before there were roll-ups in them."""
        with self._reading() as db:
            behind = bool(db and logtables.unrolled(db))
        while behind:
            with self._store.changing() as db:
                behind = bool(db and catch_up(db, TagValues()))
        return self._connected()


def _span(since: float | None, until: float | None) -> tuple[float, float]:
    return (0.0 if since is None else since), (math.inf if until is None else until)
