"""Looking now and then, off the request path and only while requests come, at what may have changed outside.

No thread waits between looks: an idle process has none, and a forked child starts its own at its first request.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable


class Lookout:
    """Runs looks on a daemon thread, at most every `every_s` seconds, the first at the first `glance`.

    A look that raises is logged once until it succeeds again, and keeps no other from being made.
    """

    def __init__(self, every_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._looks: tuple[Callable[[], None], ...] = ()
        self._failing: set[Callable[[], None]] = set()
        self._due = float("inf")
        self._thread: threading.Thread | None = None
        self._lock, self._pid = threading.Lock(), os.getpid()
        atexit.register(_end, weakref.ref(self))

    def add(self, look: Callable[[], None]) -> None:
        """Have `look` made from now on."""
        self._looks, self._due = (*self._looks, look), self._clock()

    def glance(self) -> None:
        """What a request does: start the looks if they are due. Takes a fraction of a microsecond when not."""
        if self._clock() >= self._due:
            self._start()

    def wait(self, timeout_s: float = 5.0) -> bool:
        """Until the looks under way are done; False when they take longer."""
        thread = self._thread
        if thread:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def _start(self) -> None:
        if self._pid != os.getpid():  # a forked child: whoever held the lock or looked is not here
            self._lock, self._thread, self._pid = threading.Lock(), None, os.getpid()
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._clock() >= self._due and not (self._thread and self._thread.is_alive()):
                self._due = self._clock() + self._every_s
                thread = threading.Thread(target=self._run, name="prerouter-lookout", daemon=True)
                thread.start()
                self._thread = thread
        except RuntimeError:  # no thread to be had now: the next one that is due tries again
            pass
        finally:
            self._lock.release()

    def _run(self) -> None:
        for look in self._looks:
            try:
                look()
                self._failing.discard(look)
            except Exception:  # whatever it is, requests go on and the other looks are made
                if look not in self._failing:
                    self._failing.add(look)
                    logging.getLogger("prerouter").warning("a look at what may have changed failed", exc_info=True)


def _end(lookout: weakref.ref[Lookout]) -> None:
    """Let a look end: Python breaks daemon threads off at exit, and C++ code that one is in then aborts the process."""
    found = lookout()
    if found:
        found.wait()
