"""Daemon threads that are kept for the next piece of work: starting one takes as long as a local decision."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

IDLE_S = 10.0  # a thread without work for so long ends

Work = Callable[[], None]


class Workers:
    """Runs work at once, each piece on a thread of its own. Thread-safe, and safe after fork. Nothing is waited for."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._forget()

    def run(self, work: Work) -> None:
        """Start `work`, in a copy of the caller's context. It must not raise. RuntimeError when no thread can start."""
        if self._pid != os.getpid():
            self._forget()
        job = (contextvars.copy_context(), work)
        with self._lock:
            idle = self._idle > 0
            self._idle -= idle
        if idle:
            self._queue.put(job)
        else:
            threading.Thread(target=self._serve, args=job, name="prerouter-dispatch", daemon=True).start()

    def _forget(self) -> None:
        self._pid, self._lock, self._idle = os.getpid(), threading.Lock(), 0
        self._queue: SimpleQueue[tuple[contextvars.Context, Work]] = SimpleQueue()

    def _serve(self, context: contextvars.Context, work: Work) -> None:
        queue = self._queue
        while True:
            context.run(work)
            del context, work  # what it holds must not live as long as an idle thread
            with self._lock:
                self._idle += 1
            try:
                context, work = queue.get(timeout=self._idle_s)
            except Empty:
                with self._lock:
                    if self._idle > 0:
                        self._idle -= 1
                        return
                context, work = queue.get()  # given this work in the same moment
