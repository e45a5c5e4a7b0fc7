"""The routing log: every request with its Decision, written off the request path.

Acknowledged means covered by `flush()`: such a row survives kill -9, and with `durable` a power loss. Every row that
was appended is either kept or counted as dropped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from prerouter import logfile, logwriter
from prerouter.errors import ConfigError
from prerouter.files import expanded
from prerouter.logschema import SELECT, LogRow, LogStats, Reply
from prerouter.records import Decision, Request
from prerouter.settings import LogSettings, Settings, load_settings
from prerouter.tables import tag_value

if TYPE_CHECKING:
    import sqlite3

    import numpy as np

__all__ = ["LogRow", "LogStats", "Reply", "RouteLog"]

PAGE = 500  # rows read at a time: bounded memory, and no reader that keeps the write-ahead file growing
PRUNED_AT_ONCE = 5_000  # row numbers per transaction that deletes


class RouteLog:
    """A routing log on SQLite. Thread-safe and safe after fork; several processes may use one file.

    `open` touches no file: the first `append` starts the writer thread, which makes the file. What is appended is
    written within milliseconds; `close`, or the interpreter's exit, writes the rest. A process that ends by
    `os._exit`, as multiprocessing's forked workers do, must call `flush` itself.
    """

    def __init__(self, path: Path, settings: LogSettings, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._keep_text, self._clock = settings.text, clock
        self._writer = logwriter.Writer(path, settings)

    @classmethod
    def open(
        cls, url: str | Path | None = None, *, settings: Settings | None = None, clock: Callable[[], float] = time.time
    ) -> RouteLog:
        """At `url`, a path or `sqlite:///PATH`; None: `log.path` of the settings, else routes.db of the state folder.

        clock: UTC seconds since 1970. Raises ConfigError for another kind of URL.
        """
        settings = settings or load_settings()
        if url is not None:
            path = _path(url)
        elif settings.log.path:
            path = settings.resolve(str(_path(settings.log.path)))
        else:
            path = settings.state_dir / "routes.db"
        return cls(path.absolute(), settings.log, clock=clock)

    def append(
        self,
        request: Request | str | Mapping[str, Any],
        decision: Decision,
        reply: object = None,
        tags: Mapping[str, object] | None = None,
        *,
        features: np.ndarray | None = None,
        fingerprint: str | None = None,
        rendered: Request | None = None,
    ) -> None:
        """Hand a row to the writer thread; returns at once, and raises nothing for the state of disk or file.

        request: as `text.render` made it; a body, when `rendered` is missing, is rendered here. reply: a Message or
        a mapping like one. features: (n_features,) float; kept only with the fingerprint of their encoder.
        A row that finds `log.queue` rows waiting is dropped and counted.
        Raises InvalidRequest for a body that is none.
        """
        made = rendered or (request if isinstance(request, Request) else _render(request, decision.text_version))
        if not self._keep_text and (decision.rationale is not None or decision.params):
            decision = replace(decision, rationale=None, params={})
        row = LogRow(
            at=self._clock(),
            decision=decision,
            tags={str(key): tag_value(value) for key, value in tags.items()} if tags else {},
            text=made.text if self._keep_text else None,
            n_chars=made.n_chars,
            signals=made.signals,
            reply=reply if reply is None or isinstance(reply, Reply) else Reply.of(reply),
            fingerprint=fingerprint,
            features=None if features is None else features.copy(),
        )
        # The text ends here as a hash: what waits in the queue stays small however long the disk is away.
        self._writer.put(row, hashlib.sha256(made.text.encode("utf-8", "replace")).digest())

    def flush(self, timeout_s: float = 5) -> int:
        """Wait until all that was appended is kept or dropped, or `timeout_s` seconds; the rows durable so far.

        Counts the rows of this object in this process.
        """
        return self._writer.flush(timeout_s)

    def close(self, timeout_s: float = 5) -> None:
        """Write what waits, end the writer thread, close the file. Rows that cannot be written in time are dropped.

        Only another process's lock is waited for: no wait helps against a full disk or a missing permission.
        A later `append` opens the log again.
        """
        self._writer.close(timeout_s)

    def __enter__(self) -> RouteLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def tail(self, n: int = 10) -> list[LogRow]:
        """The last `n` rows, oldest first; this and the other readers see all rows that this object could write.

        Raises DataError for a file that is no routing log, or a newer one; UpstreamError when it cannot be read now.
        """
        self.flush(1)
        return self._select("ORDER BY seq DESC LIMIT ?", max(0, n))[::-1]

    def follow(self, after: int | None = None, *, poll_s: float = 0.25) -> Iterator[LogRow]:
        """Every row after the one numbered `after` (None: after the newest there is), for ever, as it is written.

        poll_s: seconds between two looks. Raises as `tail`.
        """
        last = self._newest() if after is None else after
        return self._following(last, poll_s)

    def export(self, out: TextIO, *, features: bool = False) -> int:
        """Write all rows to `out` as JSON lines, oldest first, in bounded memory; the number of rows.

        features: include them, as lists. Raises as `tail`.
        """
        self.flush(1)
        newest, written, last = self._newest(), 0, 0
        while rows := self._select("WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?", last, newest, PAGE):
            out.writelines(json.dumps(row.to_json(features=features), ensure_ascii=False) + "\n" for row in rows)
            written, last = written + len(rows), rows[-1].seq
        return written

    def stats(self) -> LogStats:
        """Figures of the whole file, other processes' rows included. Raises as `tail`."""
        self.flush(1)
        with self._existing() as db:
            stats = LogStats.read(db) if db else LogStats()
        return replace(stats, dropped=stats.dropped + self._writer.dropped, bytes=logfile.size(self.path))

    def prune(self, older_than_s: float | None = None, tag: tuple[str, str] | None = None) -> int:
        """Delete the rows older than so many seconds, or with this tag (key, value), or both; how many it were.

        The space goes back to the file system. Raises ConfigError when neither is given, else as `tail`.
        """
        if older_than_s is None and tag is None:
            step = "give older_than_s, tag or both"
            raise ConfigError("nothing says which rows to delete", where="prune", next_step=step)
        self.flush(1)
        before = None if older_than_s is None else self._clock() - older_than_s
        deleted = 0
        for after in range(0, self._newest(), PRUNED_AT_ONCE):
            with self._existing() as db:
                deleted += LogRow.delete(db, after, after + PRUNED_AT_ONCE, before, tag) if db else 0
        while self._shrink():
            pass
        return deleted

    def _shrink(self) -> bool:
        with self._existing() as db:
            return logfile.shrink(db) if db else False

    def _following(self, last: int, poll_s: float) -> Iterator[LogRow]:
        while True:
            rows = self._select("WHERE seq > ? ORDER BY seq LIMIT ?", last, PAGE)
            yield from rows
            if rows:
                last = rows[-1].seq
            else:
                time.sleep(poll_s)

    def _newest(self) -> int:
        with self._existing() as db:
            return db.execute("SELECT coalesce(max(seq), 0) FROM rows").fetchone()[0] if db else 0

    def _select(self, how: str, *values: int) -> list[LogRow]:
        with self._existing() as db:
            return [LogRow.read(values) for values in db.execute(f"{SELECT} {how}", values)] if db else []

    def _existing(self) -> AbstractContextManager[sqlite3.Connection | None]:
        logwriter.hook()
        return logfile.existing(self.path)


def _path(url: str | Path) -> Path:
    scheme, separator, rest = str(url).partition("://")
    if not separator:
        return expanded(url)
    if scheme != "sqlite" or not rest.startswith("/") or rest == "/":
        step = "this version keeps the log in SQLite: give a path, or sqlite:///PATH"
        raise ConfigError(f"no routing log at such a URL: {scheme}://", where="log.path", next_step=step)
    return Path(rest[1:])


def _render(body: str | Mapping[str, Any], version: int) -> Request:
    from prerouter.text import render

    return render(body, version=version)
