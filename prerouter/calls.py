"""One call of the sync side on its way: on the caller's own thread, or on one that the caller can stop waiting for.

No timeout of an HTTP client bounds a name look-up, or a server that sends a byte now and then: only who waits for a
thread can stop waiting. That takes two changes of threads, which a loaded machine makes wait, so it is for short
deadlines and for calls that run beside the classifier's. A call that was given up ends with its next byte.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from prerouter.attempts import TIMEOUT
from prerouter.reading import Reading
from prerouter.routingreply import is_connection_error

AHEAD = 64  # chunks of a stream that are read before the caller wants them
LINGER_S = 1.0  # for the end of a stream that has said everything
Clock = Callable[[], float]


def fault_of(error: Exception) -> str:
    """The name of what went wrong with a connection; TIMEOUT where the API was waited for."""
    cause = error.__cause__ or error
    return TIMEOUT if type(cause).__name__ in ("ReadTimeout", "WriteTimeout") else type(cause).__name__


class Direct:
    """One call on the caller's thread, sent by the first `wait`. raised: what is for the caller.

    Later than `until` by at most one wait for bytes, whose length is what was left when it was sent.
    """

    def __init__(self, send: Callable[[float], Any], reading: Reading, clock: Clock) -> None:
        self.reading = reading
        self.answer: Any = None
        self.raised: Exception | None = None
        self._send, self._clock = send, clock
        self._head: deque[bytes] = deque()
        self._bytes: Iterator[bytes] | None = None

    def wait(self, until: float) -> None:
        """Until there is content or nothing more comes, at most until `until`."""
        try:
            self.answer = self._send(until)
        except Exception as error:
            self.raised = None if is_connection_error(error) else error
            self.reading.broke(fault_of(error), self._clock())
            return
        self.reading.opened(self.answer.status_code, self.answer.headers)
        self._bytes = self.answer.http_response.iter_bytes()
        streams = self.reading.stream and self.reading.succeeded
        while self.reading.state == "waiting" and (chunk := self._more(until)) is not None:
            if streams:
                self._head.append(chunk)
        if self.reading.state == "over":
            self.drop()

    def drop(self) -> None:
        """Not wanted any more: close the connection."""
        if self.answer is not None:
            closed(self.answer)

    def forget(self) -> None:
        """As `drop`: there is nobody to tell."""
        self.drop()

    def chunk(self, until: float) -> bytes | None:
        """The next bytes of a stream; None when it is over or, at `until`, has nothing to give."""
        return self._head.popleft() if self._head else self._more(until)

    def _more(self, until: float) -> bytes | None:
        if self.reading.state == "over" or self._bytes is None or self._clock() >= until:
            return None
        try:
            chunk = next(self._bytes, None)
        except Exception as error:
            self.reading.broke(fault_of(error), self._clock())
            return None
        if chunk is None:
            self.reading.ended(self._clock())
            return None
        return chunk if self.reading.feed(chunk, self._clock()) else None  # what broke it is not for the caller


class Threaded:
    """One call on its way, on a thread of its own. raised: what is for the caller."""

    def __init__(self, send: Callable[[float], Any], reading: Reading, until: float, clock: Clock) -> None:
        self.reading = reading
        self.answer: Any = None
        self.raised: Exception | None = None
        self._send, self._until, self._clock = send, until, clock
        self._changed = threading.Condition()
        self._chunks: deque[bytes] = deque()
        self._dropped = False

    def work(self) -> None:
        """Send it and read what comes. On the call's thread; never raises."""
        try:
            answer = self._send(self._until)
        except Exception as error:
            self._tell(partial(self._broke, error))
            return
        try:
            if self._tell(lambda: self._opened(answer)):
                for chunk in answer.http_response.iter_bytes():
                    if not self._fed(chunk):
                        return
                self._tell(lambda: self.reading.ended(self._clock()))
        except Exception as error:
            name = fault_of(error)
            self._tell(lambda: self.reading.broke(name, self._clock()))
        finally:
            closed(answer)

    def wait(self, until: float) -> None:
        """Until there is content or nothing more comes, at most until `until`."""
        with self._changed:
            while self.reading.state == "waiting" and (left := until - self._clock()) > 0:
                self._changed.wait(left)

    def drop(self) -> None:
        """Not wanted any more: what still comes is not read."""
        with self._changed:
            self._dropped = True
            self._changed.notify_all()

    def forget(self) -> None:
        """As `drop`, without telling anybody: it takes no lock."""
        self._dropped = True

    def chunk(self, until: float) -> bytes | None:
        """The next bytes of a stream; None when it is over or, at `until`, has nothing to give."""
        with self._changed:
            while not self._chunks and self.reading.state != "over":
                if (left := until - self._clock()) <= 0:
                    return None
                self._changed.wait(left)
            self._changed.notify_all()
            return self._chunks.popleft() if self._chunks else None

    def _tell(self, change: Callable[[], None]) -> bool:
        """Make a change that others wait for; False when nobody does any more."""
        with self._changed:
            if self._dropped:
                return False
            change()
            self._changed.notify_all()
            return True

    def _opened(self, answer: Any) -> None:
        self.answer = answer
        self.reading.opened(answer.status_code, answer.headers)

    def _broke(self, error: Exception) -> None:
        if not is_connection_error(error):
            self.raised = error
        self.reading.broke(fault_of(error), self._clock())

    def _fed(self, chunk: bytes) -> bool:
        with self._changed:
            while len(self._chunks) >= AHEAD and self.reading.state == "ready" and not self._dropped:
                self._changed.wait(LINGER_S)  # and look whether a stream was dropped where no lock may be taken
            if self._dropped:
                return False
            waiting = self.reading.state == "waiting"
            sound = self.reading.feed(chunk, self._clock())
            if self.reading.stream and self.reading.succeeded and sound:
                self._chunks.append(chunk)
            if not waiting or self.reading.state != "waiting":
                self._changed.notify_all()
            return sound


def closed(answer: Any) -> None:
    with suppress(Exception):  # the connection is gone already
        answer.close()
