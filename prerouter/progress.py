"""Progress on standard error for work that takes longer than two seconds, with the time left."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import IO


class Progress:
    """Counts rows; reads how far `source` has been consumed to estimate what is left.

    With a terminal one line is rewritten in place; without one a line is printed every 30 seconds.
    """

    QUIET_S = 2.0

    def __init__(self, doing: str, source: IO[bytes] | None = None, total: int | None = None) -> None:
        self._doing, self._source, self._total = doing, source, total
        self._rows, self._started = 0, time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._next = self._started + self.QUIET_S
        self._shown = False

    def __enter__(self) -> Progress:
        return self

    def advance(self, rows: int) -> None:
        """Count `rows` more and print if it is time."""
        self._rows += rows
        now = time.monotonic()
        if now >= self._next:
            self._next = now + (0.5 if self._terminal else 30.0)
            self._print(now)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._shown and self._terminal:
            print(file=sys.stderr)

    def _print(self, now: float) -> None:
        self._shown = True
        seconds = now - self._started
        left = self._left(seconds)
        line = f"prerouter: {self._doing}: {self._rows:,} rows, {self._rows / seconds:,.0f} a second{left}"
        print(f"\r{line}\033[K" if self._terminal else line, end="" if self._terminal else "\n", file=sys.stderr)
        sys.stderr.flush()

    def _left(self, seconds: float) -> str:
        done = self._share()
        return f", {seconds / done - seconds:,.0f} s left" if done else ""

    def _share(self) -> float | None:
        """Share of the work done, in (0, 1], or None when it cannot be known."""
        if self._total:
            return self._rows / self._total or None
        try:
            assert self._source is not None
            return self._source.tell() / os.fstat(self._source.fileno()).st_size or None
        except (AssertionError, OSError, ValueError, ZeroDivisionError):
            return None  # a pipe
