"""The one thread of a process that writes to a routing log.

Rows wait in a bounded queue; the thread takes what has come together and commits it in one transaction. What cannot be
written now (disk full, file locked or damaged, folder gone) is tried again while newer rows wait, then are dropped and
counted. The count goes into the file with the next commit, so it outlives the process.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import queue
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from prerouter import logfile
from prerouter.logschema import LogRow
from prerouter.settings import LogSettings

if TYPE_CHECKING:
    import sqlite3

LINGER_S = 0.005  # a commit waits this long for more rows: few commits under load, few wake-ups beside the callers
BATCH = 512  # rows per commit: other processes, and a fork, wait for milliseconds
RETRY_S = 0.05, 5.0  # seconds until a failed commit is tried again: at first, and at most
WARN_EVERY_S = 60.0  # at most one warning of failed commits in this time, and one until they succeed again

Waiting = tuple[LogRow, bytes]  # a row, and the SHA-256 of its text
_END = object()


class Writer:
    """Queue and thread of one log. The thread starts with the first row, and again with the first after `close`.

    kept: rows committed by this object in this process. dropped: rows dropped whose count is not in the file yet.
    """

    def __init__(self, path: Path, settings: LogSettings) -> None:
        self.path, self._settings = path, settings
        self._watched = False
        self.reset()

    def reset(self) -> None:
        """Forget rows and thread: what a forked child does, whose parent has both."""
        self.kept = self.dropped = 0
        self._lock = threading.Lock()  # of queue, counts and thread; held for microseconds
        self._queue: queue.SimpleQueue[Waiting | threading.Event | object] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None
        self._closing = self._given_up = self._warned = self._warned_of_drops = False
        self._silent_until = 0.0
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._key, self._refused = b"", ""

    def put(self, row: LogRow, digest: bytes) -> None:
        """Queue a row, or drop and count it when `queue` rows of the settings wait."""
        if not self._watched:
            _watch(self)
        with self._lock:
            if self._queue.qsize() >= self._settings.queue:
                self.dropped += 1
                return
            self._queue.put((row, digest))
            if self._thread is None:
                self._start()

    def flush(self, timeout_s: float) -> int:
        """Wait until what was put before is kept or dropped, or `timeout_s` seconds; `kept`."""
        with self._lock:
            if self._thread is None:
                return self.kept
            mark = threading.Event()
            self._queue.put(mark)
        self._hurry.set()
        mark.wait(timeout_s)
        return self.kept

    def close(self, timeout_s: float) -> None:
        """Write what waits and end the thread; drop what cannot be written within `timeout_s` seconds.

        Waits only for other processes' locks: what else keeps the file from being written is tried twice.
        """
        with self._lock:
            thread = self._thread
            if thread is None:
                return
            self._closing = True
            self._queue.put(_END)
        self._hurry.set()
        thread.join(timeout_s)
        with self._lock:
            self._given_up = self._thread is thread
        if self._given_up:
            self._hurry.set()
            thread.join(2 * logfile.BUSY_S)

    def disconnect(self) -> None:
        """Close the connection; the next commit opens another. Call with `logfile.in_use` held."""
        if self._db:
            self._db.close()
        self._db = None

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="prerouter-log", daemon=True)
        with suppress(RuntimeError):  # no thread to be had now: the rows wait, and the next one tries again
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        ended = False
        while not ended:
            items = self._collect()
            self._deliver([item for item in items if isinstance(item, tuple)])
            for item in items:
                if isinstance(item, threading.Event):
                    item.set()
            ended = items[-1] is _END
        self._end()

    def _end(self) -> None:
        if self.dropped:
            what = "ends with %d rows dropped that the file does not count"
            _logger().warning(f"routing log %s: {what}", self.path, self.dropped)
        with logfile.in_use:
            self.disconnect()
        with self._lock:
            self._thread, self._closing, self._given_up = None, False, False
            if not self._queue.empty():
                self._start()

    def _collect(self) -> list[Waiting | threading.Event | object]:
        items = [self._queue.get()]
        if self._queue.qsize() < BATCH:
            self._hurry.wait(LINGER_S)
            self._hurry.clear()
        with suppress(queue.Empty):
            while len(items) < BATCH and items[-1] is not _END:
                items.append(self._queue.get_nowait())
        return items

    def _deliver(self, rows: list[Waiting]) -> None:
        """Commit `rows`, trying until it succeeds or there is no use while `close` waits."""
        delay = RETRY_S[0]
        while (rows or self.dropped) and not self._given_up:
            failure = self._committed(rows)
            if not (failure and rows):
                return
            # The first try may have failed for a connection to a file that is gone; the next opens the file anew.
            again = delay > RETRY_S[0]
            if again and self._closing and not logfile.may_pass(failure):
                self._given_up = True  # at once for what still waits behind these rows, too
                break
            self._hurry.wait(delay)  # a flush asks for a try at once
            self._hurry.clear()
            delay = min(2 * delay, RETRY_S[1])
        with self._lock:
            self.dropped += len(rows)

    def _committed(self, rows: list[Waiting]) -> Exception | None:
        """Why `rows` are not in the file; None when they are."""
        counted = self.dropped
        with logfile.in_use:
            try:
                kept, failure = self._transaction(rows, counted), None
            except Exception as error:  # whatever it is, this thread must live to count what is lost
                failure = error
                self.disconnect()
        if failure:
            self._warn(failure)
            return failure
        with self._lock:
            self.kept += kept
            self.dropped -= counted
        self._recovered(counted + len(rows) - kept)
        return None

    def _transaction(self, rows: list[Waiting], dropped: int) -> int:
        db = self._connected()
        db.execute("BEGIN IMMEDIATE")
        with db:
            self._key = self._key or logfile.text_key(self.path)
            kept = sum(self._write(db, row, digest) for row, digest in rows)
            dropped += len(rows) - kept
            if dropped:
                db.execute("UPDATE counters SET value = value + ? WHERE name = 'dropped'", (dropped,))
        return kept

    def _write(self, db: sqlite3.Connection, row: LogRow, digest: bytes) -> bool:
        try:
            row.write(db, logfile.keyed(self._key, digest))
        except Exception as error:
            if logfile.of_the_file(error):
                raise
            self._refused = f" ({type(error).__name__}: {error})"
            return False
        return True

    def _connected(self) -> sqlite3.Connection:
        # A file that was deleted or replaced still takes writes, into nowhere.
        if self._db and self._file != _identity(self.path):
            self.disconnect()
        if self._db is None:
            self._db = logfile.open_for_writing(self.path, durable=self._settings.durable)
            self._file, self._key = _identity(self.path), b""
        return self._db

    def _warn(self, error: Exception) -> None:
        if not self._warned and time.monotonic() >= self._silent_until:
            self._warned, self._silent_until = True, time.monotonic() + WARN_EVERY_S
            what = "cannot write: %s; rows wait, then are dropped and counted; trying again"
            _logger().warning(f"routing log %s: {what}", self.path, error)

    def _recovered(self, dropped: int) -> None:
        if dropped and not self._warned_of_drops:
            self._warned_of_drops = True
            what = "%d rows were dropped%s; `prerouter log stats` counts them"
            _logger().warning(f"routing log %s: {what}", self.path, dropped, self._refused)
        if self._warned:
            self._warned = False
            _logger().info("routing log %s: writing again", self.path)


# Writers of this process, so that a fork and the interpreter's end find them.
_live: weakref.WeakValueDictionary[int, Writer] = weakref.WeakValueDictionary()
_hook_calls = itertools.count()


def _watch(writer: Writer) -> None:
    _live[id(writer)] = writer
    hook()
    writer._watched = True


def hook() -> None:
    """Have forks and the interpreter's end treat the logs of this process well. Call before the first connection."""
    if next(_hook_calls) == 0:  # one step of the interpreter: of several threads one registers
        atexit.register(_at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=_before_fork, after_in_parent=logfile.in_use.release, after_in_child=_in_child)


def _writers() -> list[Writer]:
    return [writer for ref in _live.valuerefs() if (writer := ref())]


def _at_exit() -> None:
    deadline = time.monotonic() + 5
    for writer in _writers():
        writer.close(max(0.0, deadline - time.monotonic()))


def _before_fork() -> None:
    logfile.in_use.acquire()
    for writer in _writers():
        writer.disconnect()


def _in_child() -> None:
    for writer in _writers():
        writer.reset()
    logfile.in_use.release()


def _identity(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def _logger() -> logging.Logger:
    return logging.getLogger("prerouter")
