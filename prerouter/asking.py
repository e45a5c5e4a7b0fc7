"""Asking live: many calls at a time within rate and money, each question until it has an answer or cannot have one.

One task takes questions from the journal one by one, so that memory does not grow with their number, and starts a call
whenever rate, open calls and money allow. A call that fails waits outside, without holding a place, and goes again.
Answers are written at once, those that come meanwhile as a group; they count when they are on disk.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar

from prerouter.background import in_thread
from prerouter.ballot import Ballot
from prerouter.errors import UpstreamError
from prerouter.flights import Fault
from prerouter.intake import asked
from prerouter.journal import Answer, Ask, Journal
from prerouter.pace import MAX_TIMEOUT_S, Pace
from prerouter.prompt import Prompt
from prerouter.purse import Purse, guessed_tokens, n_bytes, prompt_tokens
from prerouter.records import Request, Usage, Verdict
from prerouter.sdk import Sdk

T = TypeVar("T")

TICKS = 8  # in which the time of a call is taken
# Full jitter, as in `flights`, but patient: nobody waits for a single answer.
BACKOFF_S, BACKOFF_MAX_S = 0.5, 30.0
LONGEST_S = 600.0  # a question that may go again only after this is given up for this run
ALIKE = 3  # first requests that are all turned down
GONE = 100  # calls in a row without an answer: Claude is away, and asking on would only use up questions
_STOP = frozenset((401, 402, 403, 404))  # of key, account or model: no question can be answered
_NEVER = frozenset((400, 413))  # of this request: no later try can be answered


class Recorder:
    """Takes answers and writes them to the journal in groups. told: called with how many are on disk."""

    def __init__(self, journal: Journal, told: Callable[[int], None]) -> None:
        self._journal, self._told = journal, told
        self._waiting: list[Answer] = []
        self._lost = Decimal(0)
        self._writing: Future[None] | None = None
        self._some = asyncio.Event()

    def put(self, answer: Answer) -> None:
        """Have an answer written soon."""
        self._waiting.append(answer)
        self._some.set()

    def lose(self, usd: Decimal) -> None:
        """Have it noted that so much may have been billed for nothing."""
        self._lost += usd
        self._some.set()

    async def run(self) -> None:
        """Write until cancelled; then once more."""
        try:
            while True:
                await self._some.wait()
                self._some.clear()
                group, lost = self._taken()
                self._writing = in_thread(self._write, group, lost)
                await asyncio.shield(asyncio.wrap_future(self._writing))
                self._told(len(group))
        finally:
            if self._writing:
                self._writing.result()
            self.flush()

    def flush(self) -> None:
        """Write what waits, now."""
        group, lost = self._taken()
        if group or lost:
            self._write(group, lost)
            self._told(len(group))

    def _taken(self) -> tuple[list[Answer], Decimal]:
        group, self._waiting = self._waiting, []
        lost, self._lost = self._lost, Decimal(0)
        return group, lost

    def _write(self, group: list[Answer], lost: Decimal) -> None:
        self._journal.record(group, lost=lost)


@dataclass(slots=True)
class _Job:
    """A question on its way. size: bytes of its body. tokens: of input, estimated. upper: dollars a call, at most.

    usd, usage: billed so far.
    """

    ask: Ask
    prompt: Prompt
    request: Request
    size: int
    answer_tokens: int
    tokens: float
    upper: Decimal = Decimal(0)
    attempts: int = 0
    usd: Decimal = Decimal(0)
    usage: Usage = field(default_factory=Usage)


class Live:
    """Asks questions through `sdk`. capped: some were left because of the money."""

    def __init__(self, sdk: Sdk, ballot: Ballot, pace: Pace, purse: Purse, recorder: Recorder, attempts: int) -> None:
        self._sdk, self._ballot, self._pace, self._purse, self._recorder = sdk, ballot, pace, purse, recorder
        self._most_attempts = attempts
        self.capped = False
        self._open: set[asyncio.Task[None]] = set()
        self._later: list[tuple[float, int, _Job]] = []
        self._order = itertools.count()
        self._changed = asyncio.Event()
        self._stopped: UpstreamError | None = None
        self._answered, self._in_a_row = 0, 0
        self._tokens_a_byte = 0.0

    async def run(self, asks: Iterable[Ask]) -> None:
        """Ask all of `asks`. Raises UpstreamError when Claude answers none of them any more."""
        fresh = iter(asks)
        try:
            while (job := await self._next(fresh)) is not None and await self._turn(job):
                self._start(job)
        finally:
            await self._end()
        if self._stopped:
            raise self._stopped

    async def _next(self, fresh: Iterator[Ask]) -> _Job | None:
        """The next question that may go; None when all are done, or nothing can be done any more."""
        while not self._stopped:
            now = _now()
            if self._later and self._later[0][0] <= now:
                return heapq.heappop(self._later)[2]
            ask = next(fresh, None)
            if ask is not None:
                return self._job(ask)
            if not self._later and not self._open:
                return None
            await self._wait(self._later[0][0] - now if self._later else None)
        return None

    async def _turn(self, job: _Job) -> bool:
        """Wait until rate, open calls and money allow the call; False when it will not be made."""
        while not self._stopped:
            job.upper = self._purse.upper(job.prompt.model, job.size, job.answer_tokens)
            pause = self._pace.wait_s(_now(), job.tokens)
            if len(self._open) >= self._pace.most_open:
                await self._wait(None)
            elif not self._purse.fits(job.upper):
                if not self._open:
                    self.capped = True
                    return False
                await self._wait(None)
            elif pause > 0:
                await asyncio.sleep(pause)
            else:
                return True
        return False

    async def _end(self) -> None:
        """Break off what is open, which may have been billed, and give up what waits."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        for _, _, job in self._later:
            self._recorder.lose(job.usd)

    async def _wait(self, timeout_s: float | None) -> None:
        """Until a call ends, or so many seconds."""
        self._changed.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _job(self, ask: Ask) -> _Job:
        request = asked(ask.data)
        prompt = self._ballot.prompt(ask.prompt, ask.vote)
        body = prompt.body(request)
        size = n_bytes(body)
        tokens = size * self._tokens_a_byte or guessed_tokens(prompt.model, size)
        return _Job(ask, prompt, request, size, body["max_tokens"], tokens)

    def _start(self, job: _Job) -> None:
        self._pace.start(job.tokens)
        self._purse.reserved += job.upper
        task = asyncio.get_running_loop().create_task(self._call(job))
        self._open.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()):
            self._stopped = UpstreamError(f"unforeseen {type(error).__name__}: {error}", cause=error)

    async def _call(self, job: _Job) -> None:
        """One call, and what follows from it."""
        started, timeout_s = _now(), self._pace.timeout_s
        job.attempts += 1
        try:
            verdict, headers = await _within(timeout_s, self._sdk.message(job.prompt, job.request, MAX_TIMEOUT_S))
            now = _now()
            self._pace.read(now, headers)
            billed = prompt_tokens(verdict.usage)
            self._pace.answered(now, now - started, (job.tokens, billed), verdict.usage.output_tokens)
            self._billed(job, verdict)
        except TimeoutError:
            self._pace.gave_up(timeout_s)
            self._failed(job, Fault("classifier_timeout", f"no answer in {timeout_s:.1f} s", retry=True))
        except Fault as fault:
            self._failed(job, fault)
        except asyncio.CancelledError:
            self._lose(job)
            raise
        finally:
            self._purse.reserved -= job.upper

    def _billed(self, job: _Job, verdict: Verdict) -> None:
        self._purse.spent += verdict.cost_usd
        self._purse.observe(job.size, verdict.usage)
        self._tokens_a_byte = prompt_tokens(verdict.usage) / job.size
        self._in_a_row = 0
        job.usd, job.usage = job.usd + verdict.cost_usd, _sum(job.usage, verdict.usage)
        if verdict.label is not None:
            self._answered += 1
            self._record(job, verdict.label, verdict.confidence, None)
        elif verdict.reason == "classifier_refused":
            self._record(job, None, 0.0, "refused by the labeller", final=True)
        else:
            self._again(job, Fault(verdict.reason, "the answer does not fit the schema", retry=True))

    def _failed(self, job: _Job, fault: Fault) -> None:
        if fault.sent and not fault.status:  # no refusal by the API: it may have been answered, and billed
            self._lose(job)
        self._in_a_row += 1
        if fault.status in _STOP or (fault.status == 429 and not fault.retry):  # the second: a spend limit
            self._stop(fault, job.attempts)
        elif fault.status in _NEVER:
            self._unfit(job, fault)
        else:
            self._pace.pushed_back(_now(), fault.retry_after_s)
            self._again(job, fault)

    def _unfit(self, job: _Job, fault: Fault) -> None:
        """The API does not take this request. Where it took none so far, the fault may be in what all have."""
        if self._answered or self._in_a_row < ALIKE:
            self._record(job, None, 0.0, fault.told, final=self._answered > 0)
        else:
            self._stop(fault, job.attempts)

    def _lose(self, job: _Job) -> None:
        self._purse.spent += job.upper
        self._recorder.lose(job.upper)

    def _again(self, job: _Job, fault: Fault) -> None:
        backoff = random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2 ** (job.attempts - 1)))
        pause = max(fault.retry_after_s, backoff)
        if job.attempts < self._most_attempts and pause <= LONGEST_S:
            heapq.heappush(self._later, (_now() + pause, next(self._order), job))
        elif not self._answered or self._in_a_row >= GONE:
            self._stop(fault, job.attempts)
        else:
            self._record(job, None, 0.0, fault.told)

    def _stop(self, fault: Fault, attempts: int) -> None:
        step = "what was answered is kept: check key, account and network, then run the same command again"
        told = UpstreamError(f"Claude does not answer: {fault.told}", next_step=step, cause=fault, attempts=attempts)
        self._stopped = self._stopped or told

    def _record(self, job: _Job, label: str | None, confidence: float, error: str | None, final: bool = False) -> None:
        ask, usage = job.ask, job.usage
        answer = Answer(
            ask.request,
            ask.prompt,
            ask.vote,
            label,
            confidence,
            error,
            final or label is not None,
            job.attempts,
            time.time(),
            job.usd,
            prompt_tokens(usage),
            usage.output_tokens,
        )
        self._recorder.put(answer)


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; TimeoutError after `seconds` of this process's own time.

    Time is taken in ticks of the event loop: while the machine lets this process wait, no call is late.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(_seen)
    try:
        for _ in range(TICKS):
            if (await asyncio.wait((task,), timeout=seconds / TICKS))[0]:
                return task.result()
        raise TimeoutError
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _sum(a: Usage, b: Usage) -> Usage:
    return Usage(*(getattr(a, name) + getattr(b, name) for name in Usage.__slots__))


def _seen(task: asyncio.Task[Any]) -> None:
    """Look at the outcome: when its caller was broken off first, asyncio would print the error that nobody took."""
    if not task.cancelled():
        task.exception()
