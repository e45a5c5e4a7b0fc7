"""The audit lane: heads rows of the log get the labeller's label off the request path, whoever decided them.

The coin falls before anything is decided, so the audited rows are a random sample of all requests: what certificates,
the monitor and what-if rest on. Its probability falls where traffic times rate would break a bound, and is never 0.
Texts are held in memory until their label is there, and no longer.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

from prerouter.claude import Classifier
from prerouter.levels import classifier_of
from prerouter.local import LocalClassifier
from prerouter.logrecords import RowLabel, RowRef
from prerouter.records import Decision, Request, Scores, Verdict
from prerouter.sections import AuditSettings
from prerouter.settings import Settings, mode
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable

if TYPE_CHECKING:
    from prerouter.routelog import RouteLog

FLOOR = 1e-4  # of the coin: one request in ten thousand is audited at any traffic and price
ADAPT_S = 30.0  # seconds between two looks at traffic and spending
HOUR_S = 3600.0
PRICE = 0.001  # US dollars that a call under way is taken to cost: a text of 10,000 tokens
EXIT_S = 2.0  # at the end of a process whose router was not closed
MIN_PRICED = 20  # audits whose mean cost is taken for the next one's
DEADLINE_S = 30.0  # seconds that an audit may take: nobody waits for it
IDLE_S = 10.0  # seconds without an audit after which a thread ends
RETRY_S = (2.0, 20.0, 120.0)  # seconds until an audit that the upstream failed is tried again
ONE_THREAD_RPM = 90  # audits per minute of one thread, at some 600 ms each
MAX_THREADS = 8
_FINAL = ("classifier_refused", "classifier_invalid")  # asking again would be billed and answered alike
_OWN = ("llm", "cache")  # who decided by the labeller's label already


@dataclass(frozen=True, slots=True)
class _Audit:
    log: RouteLog
    row: RowRef
    request: Request
    local: LocalClassifier
    scores: Scores | None
    ask: bool


class _Work:
    """What waits, and who works on it, in one process. None in the queue ends a thread."""

    def __init__(self) -> None:
        self.pid, self.lock, self.looking = os.getpid(), threading.Lock(), threading.Lock()
        self.queue: queue.SimpleQueue[_Audit | None] = queue.SimpleQueue()
        self.threads: list[threading.Thread] = []
        self.closing, self.given_up = threading.Event(), threading.Event()

    def next(self) -> _Audit | None:
        """The next audit; None when this thread shall end."""
        with suppress(queue.Empty):
            return self.queue.get(timeout=IDLE_S)
        with self.lock:
            if self.queue.qsize():
                return self.queue.get()
            self.threads.remove(threading.current_thread())
        return None

    def finish(self, until: float) -> None:
        """Let the threads do what waits, until `until` of the monotonic clock, then leave the rest."""
        self.closing.set()  # no further tries of what fails
        with self.lock:
            threads = list(self.threads)
        for _ in threads:
            self.queue.put(None)
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        self.given_up.set()


def _end(lane: weakref.ref[AuditLane]) -> None:
    """Python breaks daemon threads off at exit; one that is in C++ code, loading a stage, would abort the process."""
    found = lane()
    if found:
        found.close(EXIT_S)


class AuditLane:
    """Labels heads rows. Thread-safe; safe after fork, where what waited belongs to the parent.

    classifier: of its own, so that audits neither wait for nor take from what requests may call. labelled_by: its
    model. rate: the coin's probability now. missed: rows of this process that were not audited, for a full queue, an
    exhausted bound or an upstream that kept failing.
    """

    def __init__(
        self, classifier: Classifier, labelled_by: str, settings: AuditSettings, *, clock: Callable[[], float]
    ) -> None:
        self.classifier, self.labelled_by, self.rate = classifier, labelled_by, settings.rate
        self._settings, self._clock, self._spending = settings, clock, _Spending()
        self._n_threads = min(MAX_THREADS, -(-settings.rpm // ONE_THREAD_RPM))
        self._work, self._log = _Work(), cast("RouteLog | None", None)
        self._seen, self._looked_at, self.missed, self._failing = 0, 0.0, 0, False
        self._hooked = False

    @classmethod
    def load(
        cls,
        taxonomy: Taxonomy,
        tiers: TierTable,
        settings: Settings,
        *,
        client: Any = None,
        clock: Callable[[], float] = time.time,
    ) -> AuditLane:
        """The lane of a router: its classifier's prompt and model, with a rate and patience of its own."""
        patient = replace(settings.classifier, deadline_s=DEADLINE_S, rpm=settings.audit.rpm, fall_through="wait")
        asks = classifier_of(taxonomy, tiers, patient, client=client)
        return cls(asks, tiers.model(settings.classifier.model).id, settings.audit, clock=clock)

    @property
    def cost_usd(self) -> Decimal:
        """US dollars that the audits of this process were billed so far."""
        return self.classifier.stats.cost_usd

    def toss(self) -> float:
        """The coin's probability for one more request."""
        self._seen += 1  # now and then lost between threads, which a rate of requests can bear
        return self.rate

    def offer(
        self, log: RouteLog, row: RowRef, request: Request, local: LocalClassifier, scores: Scores | None, by: Decision
    ) -> None:
        """Audit the heads row `row` of `log` later; returns at once. scores: what the stages asked so far say."""
        if not self._hooked:  # after the log's own hook, which then runs later and stores what comes of this one
            self._hooked = True
            atexit.register(_end, weakref.ref(self))
        work = self._own_work()
        self._log = log
        if work.queue.qsize() >= self._settings.queue:
            self.missed += 1
            return
        ask = self._settings.ask and by.decided_by not in _OWN and bool(request.text.strip())
        work.queue.put(_Audit(log, row, request, local, scores, ask))
        with work.lock, suppress(RuntimeError):  # no thread to be had now: the next audit tries again
            if len(work.threads) < min(self._n_threads, work.queue.qsize()):
                thread = threading.Thread(target=self._run, args=(work,), name="prerouter-audit", daemon=True)
                thread.start()
                work.threads.append(thread)

    def look(self) -> None:
        """Adapt the coin to traffic and spending of all processes of the log, now and then; not on the request path."""
        with self._own_work().looking:
            now = self._clock()
            if self._log is None or (self._looked_at and now < self._looked_at + ADAPT_S):
                return
            seen, self._seen = self._seen, 0
            per_s = seen / max(now - self._looked_at, 1.0) if self._looked_at else 0.0
            self._looked_at = now
            self._spending.read(self._log, now)
            every = max(per_s, _requests_per_s(self._log, now))
            self.rate = min(self._settings.rate, max(FLOOR, self._bound(per_s, every)))

    def close(self, timeout_s: float = 5.0) -> None:
        """Audit what waits for at most so many seconds, then leave the rest, which stays unaudited; end the threads."""
        self._own_work().finish(time.monotonic() + timeout_s)
        self.classifier.close()  # breaks off what is still asked
        self._work = _Work()

    def _own_work(self) -> _Work:
        if self._work.pid != os.getpid():  # a forked child: what waits there is the parent's
            self._work, self._spending = _Work(), _Spending()
        return self._work

    def _run(self, work: _Work) -> None:
        while not work.given_up.is_set() and (audit := work.next()):
            try:
                self._do(audit, work.closing)
                self._failing = False
            except Exception:  # whatever it is, the next row is audited
                self.missed += 1
                if not self._failing:
                    self._failing = True
                    logging.getLogger("prerouter").warning("an audit failed; its row stays unaudited", exc_info=True)

    def _do(self, audit: _Audit, closing: threading.Event) -> None:
        every = audit.local.every_stage(audit.request, audit.scores)
        if audit.scores is None or len(every) > len(audit.scores.by_stage):
            audit.log.add_scores(audit.row, every)
        if not audit.ask or mode() == "off":  # the kill switch: nothing is sent
            return
        self.look()  # before the first audit: what other processes have spent counts
        found = self._label(audit.request, closing)
        if found:
            audit.log.add_label(audit.row, found)
        else:
            self.missed += 1

    def _label(self, request: Request, closing: threading.Event) -> RowLabel | None:
        """The labeller's label; one without a label where it refuses; None where it cannot be asked now."""
        for pause in (*RETRY_S, None):
            if not self._spending.begin(self._clock(), self._settings.usd_per_hour):
                return None
            verdict = self.classifier.classify(request)
            self._spending.end(self._clock(), float(verdict.cost_usd))
            if verdict.label is not None or verdict.reason in _FINAL:
                return self._made(verdict)
            if verdict.reason == "no_key" or pause is None or closing.wait(pause):
                return None
        return None

    def _made(self, verdict: Verdict) -> RowLabel:
        return RowLabel(
            label=verdict.label,
            origin="audit",
            labelled_by=self.labelled_by,
            prompt_id=self.classifier.prompt.id,
            confidence=verdict.confidence if verdict.label else None,
            outcome=None if verdict.label else verdict.reason,
            cost_usd=float(verdict.cost_usd),
        )

    def _bound(self, own_per_s: float, all_per_s: float) -> float:
        """The largest rate at which neither the calls of this process nor the dollars of all go over their bound."""
        rate = 1.0
        if own_per_s:
            rate = min(rate, self._settings.rpm / 60 / own_per_s)
        if all_per_s and (price := self._spending.mean()):
            rate = min(rate, self._settings.usd_per_hour / HOUR_S / price / all_per_s)
        return rate


class _Spending:
    """What the audits of the last hour cost, those of other processes included once they are read from the log."""

    def __init__(self) -> None:
        self._known: deque[tuple[float, float]] = deque()  # (at, US dollars), read from the log
        self._own: deque[tuple[float, float]] = deque()  # of this process, since then
        self._after = self._under_way = 0
        self._lock = threading.Lock()

    def read(self, log: RouteLog, now: float) -> None:
        found = list(log.labels(since=now - HOUR_S, origin="audit", after=self._after))
        with self._lock:
            self._own.clear()
            self._known.extend((label.at, label.cost_usd) for label in found)
            self._after = found[-1].number if found else self._after

    def begin(self, now: float, usd_per_hour: float) -> bool:
        """Whether one more call may be made: there is money left, or none was made for an hour. Tell its `end`."""
        with self._lock:
            for spent in (self._known, self._own):
                while spent and spent[0][0] < now - HOUR_S:
                    spent.popleft()
            made = [usd for spent in (self._known, self._own) for _, usd in spent]
            may = not (made or self._under_way) or sum(made) + self._under_way * PRICE < usd_per_hour
            self._under_way += may
        return may

    def end(self, now: float, usd: float) -> None:
        with self._lock:
            self._under_way -= 1
            if usd:
                self._own.append((now, usd))

    def mean(self) -> float | None:
        """US dollars of one audit; None while too few are known. Answers from a cache, which cost nothing, count."""
        with self._lock:
            made = [usd for spent in (self._known, self._own) for _, usd in spent]
        return sum(made) / len(made) if len(made) >= MIN_PRICED else None


def _requests_per_s(log: RouteLog, now: float) -> float:
    """Of all processes, over this hour and the one before."""
    first = (now // HOUR_S - 1) * HOUR_S
    return sum(found.rows for found in log.rollups(since=first)) / max(now - first, 1.0)
