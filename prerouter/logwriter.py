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
from collections.abc import Callable
from contextlib import suppress

from prerouter import logfile
from prerouter.logcommit import Commit, Waiting
from prerouter.logstore import Db, Store
from prerouter.logtidy import Step, tidy
from prerouter.rollups import TagValues
from prerouter.sections import LogSettings

LINGER_S = 0.005  # a commit waits this long for more rows: few commits under load, few wake-ups beside the callers
BATCH = 512  # rows per commit: other processes, and a fork, wait for milliseconds
RETRY_S = 0.05, 5.0  # seconds until a failed commit is tried again: at first, and at most
TIDY_EVERY_S, TIDY_PAUSE_S = 60.0, 0.05  # seconds between two looks at age and size, and between steps of deleting
WARN_EVERY_S = 60.0  # at most one warning of failed commits in this time, and one until they succeed again

_END = object()


class Writer:
    """Queue and thread of one log. The thread starts with the first row, and again with the first after `close`.

    kept: rows committed by this object in this process. dropped: rows dropped whose count is not in the file yet.
    """

    def __init__(self, store: Store, settings: LogSettings, clock: Callable[[], float]) -> None:
        self.store, self._settings, self._clock = store, settings, clock
        self._watched = False
        self.reset()

    def reset(self) -> None:
        """Forget rows and thread: what a forked child does, whose parent has both."""
        self.kept = self.dropped = 0
        self._lock = threading.Lock()  # of queue, counts and thread; held for microseconds
        self._queue: queue.SimpleQueue[Waiting | threading.Event | object] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None
        self._closing = self._given_up = self._warned = self._warned_of_drops = self._warned_of_size = self._shrinks = (
            False
        )
        self._silent_until = 0.0
        self._refused = ""
        self._tidy_at = 0.0
        self._tag_values = TagValues()

    def put(self, item: Waiting) -> None:
        """Queue it, or drop and count it when `queue` rows of the settings wait."""
        if not self._watched:
            _watch(self)
        with self._lock:
            if self._queue.qsize() >= self._settings.queue:
                self.dropped += 1
                return
            self._queue.put(item)
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

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="prerouter-log", daemon=True)
        with suppress(RuntimeError):  # no thread to be had now: the rows wait, and the next one tries again
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        ended = False
        while not ended:
            items = self._collect()
            self._deliver([item for item in items if isinstance(item, Waiting)])
            for item in items:
                if isinstance(item, threading.Event):
                    item.set()
            ended = bool(items) and items[-1] is _END
            if not ended and time.monotonic() >= self._tidy_at:
                self._tidy()
        self._end()

    def _end(self) -> None:
        if self.dropped:
            what = "ends with %d rows dropped that the file does not count"
            _logger().warning(f"routing log %s: {what}", self.store.where, self.dropped)
        self.store.disconnect()
        with self._lock:
            self._thread, self._closing, self._given_up = None, False, False
            if not self._queue.empty():
                self._start()

    def _tidy(self) -> None:
        """One step of keeping the log within its bounds."""
        done: Step = ""
        try:
            done = self.store.write(self._tidied)
            self._shrinks = done != "" or (self._shrinks and self.store.shrink())
        except Exception as error:  # it is not this thread's main work; the next step tries again
            _logger().debug("routing log %s: not tidied: %s", self.store.where, error)
            self._shrinks = False
        if done == "too large" and not self._warned_of_size:
            self._warned_of_size = True
            what = "holds more than log.max_gb (%g): its oldest rows are being deleted"
            _logger().warning(f"routing log %s: {what}", self.store.where, self._settings.max_gb)
        self._tidy_at = time.monotonic() + (TIDY_PAUSE_S if self._shrinks else TIDY_EVERY_S)

    def _tidied(self, db: Db, _: bytes) -> Step:
        return tidy(db, self._settings, self.store.used(db), self._clock(), self._tag_values)

    def _collect(self) -> list[Waiting | threading.Event | object]:
        try:
            # Without rows a log grows no larger, but older.
            idle_s = max(0.0, self._tidy_at - time.monotonic())
            ages = self._settings.keep_days is not None
            items = [self._queue.get(timeout=idle_s if ages or self._shrinks else None)]
        except queue.Empty:
            return []
        if self._queue.qsize() < BATCH:
            self._hurry.wait(LINGER_S)
            self._hurry.clear()
        with suppress(queue.Empty):
            while len(items) < BATCH and items[-1] is not _END:
                items.append(self._queue.get_nowait())
        return items

    def _deliver(self, items: list[Waiting]) -> None:
        """Commit `items`, trying until it succeeds or there is no use while `close` waits."""
        delay, work = RETRY_S[0], Commit(items, self._tag_values, self.store.of_the_store)
        while (items or self.dropped) and not self._given_up:
            failure = self._failure(work)
            if not (failure and items):
                return
            # The first try may have failed for a connection to a file that is gone; the next opens the file anew.
            again = delay > RETRY_S[0]
            if again and self._closing and not self.store.may_pass(failure):
                self._given_up = True  # at once for what still waits behind these rows, too
                break
            self._hurry.wait(delay)  # a flush asks for a try at once
            self._hurry.clear()
            delay = min(2 * delay, RETRY_S[1])
        with self._lock:
            self.dropped += len(items)

    def _failure(self, work: Commit) -> Exception | None:
        """Why it is not in the store; None when it is."""
        work.dropped = self.dropped
        try:
            done = self._done(work)
        except Exception as error:  # whatever it is, this thread must live to count what is lost
            self._warn(error)
            return error
        self._refused = done.why or self._refused
        with self._lock:
            self.kept += done.kept
            self.dropped -= done.counted
        self._recovered(done.counted + done.refused)
        return None

    def _done(self, work: Commit) -> Commit:
        try:
            return self.store.write(work.run)
        except Exception as error:
            if work.alone or self.store.of_the_store(error):
                raise
        work.alone = self.store.row_at_a_time
        return self.store.write(work.run)

    def _warn(self, error: Exception) -> None:
        if not self._warned and time.monotonic() >= self._silent_until:
            self._warned, self._silent_until = True, time.monotonic() + WARN_EVERY_S
            what = "cannot write: %s; rows wait, then are dropped and counted; trying again"
            _logger().warning(f"routing log %s: {what}", self.store.where, error)

    def _recovered(self, dropped: int) -> None:
        if dropped and not self._warned_of_drops:
            self._warned_of_drops = True
            what = "%d rows were dropped%s; `prerouter log stats` counts them"
            _logger().warning(f"routing log %s: {what}", self.store.where, dropped, self._refused)
        if self._warned:
            self._warned = False
            _logger().info("routing log %s: writing again", self.store.where)


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
        writer.store.before_fork()


def _in_child() -> None:
    for writer in _writers():
        writer.store.in_child()
        writer.reset()
    logfile.in_use.release()


def _logger() -> logging.Logger:
    return logging.getLogger("prerouter")
