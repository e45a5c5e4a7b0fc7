"""The routing log: every request with its Decision, written off the request path.

Acknowledged means covered by `flush()`: such a row survives kill -9, and with `durable` a power loss. Every row that
was appended is either kept or counted as dropped.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from prerouter import logtables, logwriter, rollups
from prerouter.errors import ConfigError
from prerouter.files import expanded
from prerouter.logcommit import Later, NewRow, Row
from prerouter.logfile import FileStore
from prerouter.logreader import LogReader
from prerouter.logrecords import Origin, RowLabel, RowRef, State
from prerouter.logschema import LogRow, Reply
from prerouter.logstore import Db, Store
from prerouter.logtables import LogStats
from prerouter.records import Decision, Request, Scores
from prerouter.rollups import AuditCount, Latency, Rollup
from prerouter.sections import LogSettings
from prerouter.settings import Mode, Settings, load_settings
from prerouter.tables import tag_value

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "AuditCount",
    "Latency",
    "LogRow",
    "LogStats",
    "Origin",
    "Reply",
    "Rollup",
    "RouteLog",
    "RowLabel",
    "RowRef",
    "State",
]

PRUNED_AT_ONCE = 5_000  # row numbers per transaction that deletes


class RouteLog(LogReader):
    """A routing log. Thread-safe and safe after fork; several processes may use one.

    `open` touches no file: the first `append` starts the writer thread, which makes the log. What is appended is
    written within milliseconds; `close`, or the interpreter's exit, writes the rest. A process that ends by
    `os._exit`, as multiprocessing's forked workers do, must call `flush` itself.
    """

    def __init__(self, store: Store, settings: LogSettings, *, clock: Callable[[], float] = time.time) -> None:
        self._keep_text, self._clock = settings.text, clock
        super().__init__(store, logwriter.Writer(store, settings, clock))

    @classmethod
    def open(
        cls, url: str | Path | None = None, *, settings: Settings | None = None, clock: Callable[[], float] = time.time
    ) -> RouteLog:
        """At `url`: a path, sqlite:///PATH or postgresql://USER@HOST/DATABASE.

        None: `log.path` of the settings, else routes.db of the state folder.

        clock: UTC seconds since 1970. Raises ConfigError for another kind of URL.
        """
        settings = settings or load_settings()
        return cls(_store(url, settings), settings.log, clock=clock)

    @property
    def where(self) -> str:
        """Where it is, for people."""
        return self._store.where

    @property
    def path(self) -> Path:
        """The file. Raises ConfigError for a log in a database."""
        if isinstance(self._store, FileStore):
            return self._store.path
        raise ConfigError("the routing log is no file", where=self.where, next_step="use `where`")

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
        scores: Scores | None = None,
        mode: Mode | None = None,
        labelled_by: str | None = None,
        digest: bytes | None = None,
    ) -> RowRef:
        """Hand a row to the writer thread; returns at once, and raises nothing for the state of disk or file.

        request: as `text.render` made it, or a body, which is rendered here. reply: a `Reply`, a Message, or a mapping
        like one. features: (n_features,) float; kept only with the fingerprint of their encoder; None: those of
        `scores`, what local said, kept on heads rows. labelled_by: whose label. digest: `text_digest` of a `request`
        without its text. A row that finds `log.queue` rows waiting is dropped and counted. Raises InvalidRequest.
        """
        made = rendered or (request if isinstance(request, Request) else _render(request, decision.text_version))
        features = scores.features if features is None and scores else features
        row = LogRow(
            at=round(self._clock(), 6),
            decision=decision if self._keep_text else _wordless(decision),
            tags={str(key): tag_value(value) for key, value in tags.items()} if tags else {},
            text=made.text if self._keep_text else None,
            n_chars=made.n_chars,
            signals=made.signals,
            reply=reply if reply is None or isinstance(reply, Reply) else Reply.of(reply),
            fingerprint=fingerprint,
            features=None if features is None else features.copy(),
            scores=scores.by_stage if scores and decision.audit else (),
            mode=mode,
            labelled_by=labelled_by,
        )
        self._writer.put(NewRow(row, digest or text_digest(made.text)))
        return row.ref

    def add_label(self, row: Row, label: RowLabel) -> None:
        """Hand a label of a row to the writer thread; as `append`, after what was appended before.

        row: what `append` returned, a row's number, or a request id: of several rows the newest.
        """
        self._writer.put(Later(row, label, self._clock()))

    def add_scores(self, row: Row, scores: Sequence[Scores]) -> None:
        """Hand what every local stage says of a heads row to the writer thread; it takes the place of `row.scores`."""
        self._writer.put(Later(row, tuple(scores), self._clock()))

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
        self._store.close()

    def __enter__(self) -> RouteLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def set_state(self, key: str, value: Any, *, if_version: int | None = None) -> int | None:
        """Set a value that all processes see, at once; its new version.

        value: JSON, NaN excluded. if_version: set it only while this is its version, 0 while there is none; else None
        is returned. Makes the log where there is none. Raises ValueError or TypeError for what is no JSON.
        """
        packed = logtables.json_value(value)
        with self._changing(create=True) as db:
            return logtables.write_state(db, key, packed, self._clock(), if_version) if db else None

    def stats(self) -> LogStats:
        """Figures of the whole log, other processes' rows included."""
        with self._reading() as db:
            stats = LogStats.read(db) if db else LogStats()
        return replace(stats, dropped=stats.dropped + self._writer.dropped, bytes=self._store.size())

    def prune(self, older_than_s: float | None = None, tag: tuple[str, str] | None = None) -> int:
        """Delete the rows older than so many seconds, or with this tag (key, value), or both; how many it were.

        What they got after the fact goes with them, and with `tag` what the roll-ups say of it. The space goes back to
        the file system. Raises ConfigError when neither is given.
        """
        if older_than_s is None and tag is None:
            step = "give older_than_s, tag or both"
            raise ConfigError("nothing says which rows to delete", where="prune", next_step=step)
        before = None if older_than_s is None else self._clock() - older_than_s
        deleted = 0
        for after in range(0, self._newest(), PRUNED_AT_ONCE):
            with self._changing() as db:
                deleted += logtables.delete(db, after, after + PRUNED_AT_ONCE, before, tag) if db else 0
        with self._changing() as db:
            if db and tag:
                rollups.forget(db, tag, before)
            elif db and before is not None:
                logtables.delete_strays(db, before)
        while deleted and self._store.shrink():
            pass
        return deleted

    def _changing(self, *, create: bool = False) -> AbstractContextManager[Db | None]:
        logwriter.hook()
        return self._store.changing(create=create)


def _store(url: str | Path | None, settings: Settings) -> Store:
    named = url or settings.log.path
    if named is None:
        return FileStore((settings.state_dir / "routes.db").absolute(), durable=settings.log.durable)
    scheme, separator, rest = str(named).partition("://")
    if separator and scheme in ("postgresql", "postgres"):
        from prerouter.postgres import PostgresStore

        return PostgresStore(str(named))
    if separator and (scheme != "sqlite" or not rest.startswith("/") or rest == "/"):
        step = "give a path, sqlite:///PATH or postgresql://USER@HOST/DATABASE"
        raise ConfigError(f"no routing log at such a URL: {scheme}://", where="log.path", next_step=step)
    path = Path(rest[1:]) if separator else expanded(str(named))
    return FileStore((path if url else settings.resolve(str(path))).absolute(), durable=settings.log.durable)


def _wordless(decision: Decision) -> Decision:
    """Without what the classifier wrote about the request."""
    told = decision.rationale is not None or decision.params
    return replace(decision, rationale=None, params={}) if told else decision


def text_digest(text: str) -> bytes:
    """SHA-256 of a rendered text: what the log makes its hash of.

    It waits in the queue instead of the text, so that the queue stays small however long the disk is away.
    """
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def _render(body: str | Mapping[str, Any], version: int) -> Request:
    from prerouter.text import render

    return render(body, version=version)
