"""Calls on their way: one per distinct request, each within a deadline, behind a circuit breaker and a rate bucket.

A flight is one question to the classifier, retries included. Whoever asks the same meanwhile joins it. Whoever waits
gives up at the deadline; the flight itself may go on for BACKGROUND_FACTOR times as long, so that its answer, already
paid for, still reaches the cache. Nothing here knows the SDK: see `Api`.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from prerouter.breaker import Breaker, BreakerState, RateBucket
from prerouter.cache import AnswerCache
from prerouter.records import Reason, Request, Usage, Verdict
from prerouter.sections import ClassifierSettings

if TYPE_CHECKING:
    from concurrent.futures import Future

    from prerouter.background import Background

BACKGROUND_FACTOR = 5  # deadlines after which a flight that nobody waits for any more is dropped, with its connection
RATE_WAIT_SHARE = 0.5  # of the deadline may pass in the rate bucket's queue: the call itself needs the rest
# Full jitter, the least total work for a contended service: M. Brooker, Exponential Backoff and Jitter, AWS 2015.
BACKOFF_S, BACKOFF_MAX_S = 0.25, 2.0
_TICK_S = 0.001  # a timed wait may end this much early

_log = logging.getLogger("prerouter.classifier")


class Fault(Exception):
    """One call that brought no answer. `told` goes to the log: status and error type, never a word of the request.

    retry: whether another try may help. retry_after_s: what the API asked for, in seconds. status: of HTTP, or 0.
    sent: whether the request may have arrived. usage, cost_usd: what was told of its bill before it failed.
    """

    usage, cost_usd = Usage(), Decimal(0)

    def __init__(
        self,
        reason: Reason,
        told: str,
        *,
        retry: bool = False,
        retry_after_s: float = 0.0,
        status: int = 0,
        sent: bool = True,
    ) -> None:
        super().__init__(told)
        self.reason, self.told, self.retry, self.retry_after_s = reason, told, retry, retry_after_s
        self.status, self.sent = status, sent


@dataclass(frozen=True, slots=True)
class Stats:
    """Totals of one classifier in one process.

    calls: sent to the API, retries included. hits: answered from the cache. joined: waited for another's call.
    failures: {reason: verdicts without a label}. cost_usd, usage: of all answers, those that came too late included.
    last_error: what the last failed call died of; no request text.
    """

    calls: int = 0
    hits: int = 0
    joined: int = 0
    failures: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    cost_usd: Decimal = Decimal(0)
    usage: Usage = field(default_factory=Usage)
    breaker: BreakerState = "closed"
    in_flight: int = 0
    last_error: str | None = None


class Api(Protocol):
    """What sends the calls. All but `busy` run on the flights' own event loop; none may block it for long."""

    @property
    def busy(self) -> int:
        """Calls that still run although they were given up: they hold a place in flight."""

    async def open(self) -> None:
        """Make ready what the first call needs."""

    async def ask(self, request: Request, timeout_s: float) -> Verdict:
        """Send one call. Raises Fault when it brings no answer. Cancelled, it drops its connection."""

    async def ask_early(self, request: Request, timeout_s: float, told: Callable[[str], None]) -> Verdict:
        """As `ask`; `told`, on any thread, gets the label as soon as it can be read."""

    async def close(self) -> None:
        """Close all connections; a later call opens new ones."""


@dataclass(slots=True, eq=False)
class Flight:
    """One question on its way. future: never raises and cannot be cancelled. due: its deadline on time.monotonic.

    pause_s: seconds to wait first, for the rate. exempt: the breaker does not count it.
    early: where it is streamed, the label as soon as it can be read; "" when it ends without.
    """

    key: bytes
    request: Request
    future: Future[Verdict]
    due: float
    pause_s: float
    exempt: bool
    probe: bool = False
    judged: bool = False
    early: Future[str] | None = None

    def tell(self, label: str) -> None:
        """Its label is known, or it ends without one. Only the first word counts."""
        if self.early:
            with suppress(Exception):  # InvalidStateError: it was told before, perhaps just now on another thread
                self.early.set_result(label)


class Flights:
    """The flights of one process. Thread-safe; a forked child needs its own, for threads and locks do not survive."""

    def __init__(
        self, settings: ClassifierSettings, cache: AnswerCache[Verdict], api: Api, clock: Callable[[], float]
    ) -> None:
        self._settings, self._cache, self._api, self._clock = settings, cache, api, clock
        self._pid = os.getpid()
        self._lock = threading.Lock()  # guards the cache and all below; held for look-ups, never while waiting
        self._breaker = Breaker(settings.breaker_failures, settings.breaker_reset_s)
        self._bucket = RateBucket(settings.rpm)
        self._flying: dict[bytes, Flight] = {}
        self._stats = Stats()
        self._background: Background | None = None
        self._stopping = False
        self._schema_used = False

    def cached(self, key: bytes) -> Verdict | None:
        """The kept answer, if there is one."""
        with self._lock:
            return self._hit(key)

    def board(self, key: bytes, request: Request, due: float, *, early: bool = False) -> tuple[Flight, bool] | Verdict:
        """The flight to wait for and whether this request started it; a Verdict when there is none to wait for.

        due: when whoever waits the full deadline gives up. early: a new flight is streamed.
        Raises RuntimeError or OSError when no thread can start.
        """
        import prerouter.background  # noqa: F401  # asyncio takes 60 ms to import: not while the lock is held

        with self._lock:
            return self._hit(key) or self._seat(key, request, due, early)

    def give_up(self, flight: Flight) -> None:
        """Tell that somebody no longer waits. After the flight's deadline the breaker counts it as failed."""
        with self._lock:
            if time.monotonic() >= flight.due - _TICK_S:
                self._judge(flight, "classifier_timeout")

    def count_failure(self, reason: Reason) -> None:
        """Count a verdict without a label."""
        with self._lock:
            failures = {**self._stats.failures, reason: self._stats.failures.get(reason, 0) + 1}
            self._stats = replace(self._stats, failures=MappingProxyType(failures))

    def stats(self) -> Stats:
        """The totals so far."""
        with self._lock:
            state = self._breaker.state(self._clock())
            return replace(self._stats, breaker=state, in_flight=len(self._flying))

    def warm(self) -> None:
        """Make ready what the first call needs; returns when it is, or cannot be: the first call will tell."""
        import concurrent.futures

        import prerouter.background  # noqa: F401

        with self._lock:
            if self._stopping:
                return
            opened = self._loop().run(self._api.open)
        concurrent.futures.wait((opened,))

    def stop(self) -> None:
        """End all flights, connections and the thread, within seconds. A later call starts them again."""
        with self._lock:
            if self._background is None or self._stopping:
                return
            self._stopping, flights = True, tuple(self._flying.values())
            for flight in flights:
                flight.judged = True  # that we break it off says nothing about the API
        self._background.stop(self._api.close)
        for flight in flights:  # those cancelled before their first step, or on a loop that hangs
            self._land(flight, Verdict(None, "classifier_error"))
        with self._lock:
            self._background, self._stopping = None, False

    def abandon(self) -> None:
        """As `stop`, but waits for nothing and takes no lock: garbage collection calls it, on any thread."""
        if self._background and self._pid == os.getpid():
            self._background.stop(self._api.close, wait=False)

    def _hit(self, key: bytes) -> Verdict | None:
        found = self._cache.get(key, self._clock())
        if found:
            self._stats = replace(self._stats, hits=self._stats.hits + 1)
        return found

    def _seat(self, key: bytes, request: Request, due: float, early: bool) -> tuple[Flight, bool] | Verdict:
        now = self._clock()
        if self._stopping:
            return Verdict(None, "classifier_error")
        if self._breaker.blocks(now):
            return Verdict(None, "breaker_open")
        if key in self._flying:
            self._stats = replace(self._stats, joined=self._stats.joined + 1)
            return self._flying[key], False
        full = max(len(self._flying), self._api.busy) >= self._settings.max_in_flight
        pause = None if full else self._bucket.reserve(now, RATE_WAIT_SHARE * self._settings.deadline_s)
        if pause is None:
            return Verdict(None, "classifier_budget")
        return self._depart(key, request, due, pause, early), True

    def _depart(self, key: bytes, request: Request, due: float, pause_s: float, early: bool) -> Flight:
        from concurrent.futures import Future

        flight = Flight(key, request, Future(), due, pause_s, exempt=not self._schema_used)
        if early:
            flight.early = Future()
            flight.early.set_running_or_notify_cancel()
        flight.future.set_running_or_notify_cancel()  # from here on cancel() does nothing: others may wait for it too
        self._loop().run(partial(self._fly, flight))
        flight.probe = self._breaker.start()
        self._flying[key] = flight
        return flight

    def _loop(self) -> Background:
        from prerouter.background import Background

        self._background = self._background or Background()
        return self._background

    async def _fly(self, flight: Flight) -> None:
        import asyncio

        overdue = asyncio.get_running_loop().call_at(flight.due, self.give_up, flight)
        verdict = Verdict(None, "classifier_error")  # what is left when `stop` cancels the flight
        try:
            async with asyncio.timeout_at(flight.due + (BACKGROUND_FACTOR - 1) * self._settings.deadline_s):
                verdict = await self._tries(flight)
        except TimeoutError:
            verdict = self._lost(Fault("classifier_timeout", f"no answer in {BACKGROUND_FACTOR} deadlines, dropped"))
        finally:
            overdue.cancel()
            self._land(flight, verdict)

    async def _tries(self, flight: Flight) -> Verdict:
        import asyncio

        pause, usage, cost_usd = flight.pause_s, Usage(), Decimal(0)
        for attempt in itertools.count(1):
            await asyncio.sleep(pause)
            answer = await self._try(flight, BACKGROUND_FACTOR * self._settings.deadline_s)
            usage, cost_usd = _sum(usage, answer.usage), cost_usd + answer.cost_usd
            again = None
            if isinstance(answer, Fault):
                again = self._pause(answer, attempt, flight.due - time.monotonic())
            if again is None:
                verdict = answer if isinstance(answer, Verdict) else self._lost(answer)
                return replace(verdict, usage=usage, cost_usd=cost_usd)
            pause = again
        raise AssertionError("unreachable")

    async def _try(self, flight: Flight, timeout_s: float) -> Verdict | Fault:
        with self._lock:
            self._stats = replace(self._stats, calls=self._stats.calls + 1)
        try:
            if flight.early:
                return await self._api.ask_early(flight.request, timeout_s, flight.tell)
            return await self._api.ask(flight.request, timeout_s)
        except Fault as fault:
            return fault
        except Exception as error:  # whatever the SDK lets through: the type tells the operator, the text may not
            return Fault("classifier_error", type(error).__name__)

    def _pause(self, fault: Fault, attempt: int, left_s: float) -> float | None:
        """Seconds until the next try; None when it would not help or could not start within the deadline."""
        if not fault.retry or attempt >= self._settings.attempts:
            return None
        backoff = random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2 ** (attempt - 1)))
        wait = max(fault.retry_after_s, backoff)
        if wait >= left_s:
            return None
        with self._lock:
            turn = self._bucket.reserve(self._clock(), left_s)
        return None if turn is None else max(wait, turn)

    def _lost(self, fault: Fault) -> Verdict:
        _log.warning("classifier call failed: %s", fault.told)
        with self._lock:
            self._stats = replace(self._stats, last_error=fault.told)
        return Verdict(None, fault.reason)

    def _land(self, flight: Flight, verdict: Verdict) -> None:
        with self._lock:
            if self._flying.get(flight.key) is not flight:
                return
            del self._flying[flight.key]
            self._judge(flight, verdict.reason)
            if verdict.label is not None:
                kept = replace(verdict, reason="cached", cost_usd=Decimal(0), usage=Usage())
                self._cache.put(flight.key, kept, self._clock())
            usage, cost_usd = _sum(self._stats.usage, verdict.usage), self._stats.cost_usd + verdict.cost_usd
            self._stats = replace(self._stats, usage=usage, cost_usd=cost_usd)
        flight.future.set_result(verdict)
        flight.tell("")

    def _judge(self, flight: Flight, reason: Reason) -> None:
        """Tell the breaker once: late counts as failed even if the answer still comes.

        A refusal or a bad answer is a success here: the API works, and no sender of odd requests may close the
        classifier for all others. What started before the first flight of the schema was judged is exempt: compiling a
        schema's grammar is slow the first time (CLAUDE_API.md, section 4).
        """
        if flight.judged:
            return
        flight.judged = self._schema_used = True
        if reason not in ("classifier_error", "classifier_timeout"):
            self._breaker.success(probe=flight.probe)
        elif not flight.exempt:
            self._breaker.failure(self._clock(), probe=flight.probe)


def _sum(a: Usage, b: Usage) -> Usage:
    return Usage(*(getattr(a, name) + getattr(b, name) for name in Usage.__slots__))
