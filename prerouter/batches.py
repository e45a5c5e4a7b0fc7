"""Asking through Message Batches: half the price, limits of their own, hours of time. No batch is paid twice.

Before a batch is sent, the journal notes a nonce, the time and the questions; every custom_id carries the nonce. A
batch whose id is not known, because this process was killed or the reply was lost, is looked for in the API's list
before its questions are sent again: batches of that size made since then are waited for, and the custom_ids of their
results tell whose they are. Results come in any order and may be read again: a question is recorded once.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar

from prerouter.ballot import Ballot
from prerouter.errors import UpstreamError
from prerouter.flights import Fault
from prerouter.intake import asked
from prerouter.journal import Answer, Ask, Batch, Journal
from prerouter.purse import Purse, n_bytes, prompt_tokens
from prerouter.sdkbatches import BatchSdk, BatchState
from prerouter.sections import LabelSettings
from prerouter.tiers import cost

T = TypeVar("T")

ROUNDS = 3  # a question that a batch leaves open is asked in so many batches, at most
TRIES, PAUSE_S, PAUSE_MAX_S = 8, 0.5, 30.0  # of a request about batches; not of sending one
SKEW_S = 3600.0  # by which this clock and the API's may differ
GRACE_S = 10.0  # after which a batch that was sent is in the list, if it was accepted
RECORDED = 500  # results per transaction
# What the API said of an item that no further batch will change (CLAUDE_API.md, section 8).
_NEVER = frozenset(("invalid_request_error", "request_too_large", "not_found_error", "permission_error"))


class Batches:
    """Asks questions in batches. told: called with how many were answered. capped: some were left for the money."""

    def __init__(
        self,
        sdk: BatchSdk,
        journal: Journal,
        ballot: Ballot,
        purse: Purse,
        settings: LabelSettings,
        told: Callable[[int], None],
    ) -> None:
        self._sdk, self._journal, self._ballot, self._purse = sdk, journal, ballot, purse
        self._settings, self._told = settings, told
        self.capped = False
        self._refused = False  # whether the API took no further batch while others were on their way
        self._tried = False  # whether one question was found to be acceptable

    async def run(self, pending: Callable[[], Iterator[Ask]]) -> None:
        """Ask all of `pending()`, which is read anew for each round. Raises UpstreamError."""
        await self.collect()
        rounds = 0
        while rounds < ROUNDS:
            self.capped = self._refused = False
            if not await self._round(pending()):
                return
            if self.capped and not self._purse.worth_more():
                return
            rounds += not (self.capped or self._refused)

    async def collect(self) -> None:
        """Wait for the batches that an earlier run left, and record their results. Raises UpstreamError."""
        for batch in self._journal.batches():
            self._purse.reserved += batch.reserved
            if batch.id is None:
                await self._recover(batch)
        while self._journal.batches():
            await self._poll()

    async def _round(self, asks: Iterator[Ask]) -> bool:
        """Send the questions, as queue and money have room, and record the answers; False when none was sent."""
        sent, chunks = False, self._chunks(asks)
        while True:
            while not self._refused and self._has_room() and (chunk := next(chunks, None)):
                sent = await self._send(*chunk) or sent
            if not self._journal.batches():
                return sent
            await self._poll()

    def _has_room(self) -> bool:
        queued = sum(batch.count for batch in self._journal.batches())
        return not queued or queued + self._settings.batch_requests <= self._settings.batch_queue

    def _chunks(self, asks: Iterator[Ask]) -> Iterator[tuple[list[Ask], list[dict[str, Any]], Decimal]]:
        """Questions with their bodies and the dollars that they cost at most, as many as one batch takes."""
        chunk: list[Ask] = []
        bodies: list[dict[str, Any]] = []
        size, upper = 0, Decimal(0)
        for ask in asks:
            body = self._ballot.prompt(ask.prompt, ask.vote).body(asked(ask.data))
            more, dollars = n_bytes(body), self._upper(ask, body)
            full = len(chunk) >= self._settings.batch_requests or size + more > self._settings.batch_mb * 700_000
            self.capped = self.capped or not self._purse.fits(upper + dollars)
            if chunk and (full or self.capped):
                yield chunk, bodies, upper
                chunk, bodies, size, upper = [], [], 0, Decimal(0)
                # What was sent is in the purse now; where it is full, results may make room for more in a next round.
            if self.capped:
                return
            chunk.append(ask)
            bodies.append(body)
            size, upper = size + more, upper + dollars
        if chunk:
            yield chunk, bodies, upper

    def _upper(self, ask: Ask, body: dict[str, Any]) -> Decimal:
        model = self._ballot.prompt(ask.prompt, ask.vote).model
        return self._purse.upper(model, n_bytes(body), body["max_tokens"], batch=True)

    async def _send(self, asks: list[Ask], bodies: list[dict[str, Any]], upper: Decimal) -> bool:
        """Send one batch. False when none is taken while others are on their way. Raises UpstreamError."""
        await self._try_one(bodies[0])
        nonce = os.urandom(6).hex()
        batch = self._journal.intend(nonce, asks, upper)
        self._purse.reserved += upper
        items = [{"custom_id": _custom_id(nonce, ask), "params": body} for ask, body in zip(asks, bodies, strict=True)]
        fault = await self._submit(batch, items)
        if fault is None:
            return True
        self._forget(batch)
        self._refused = fault.retry and bool(self._journal.batches())
        if not self._refused:
            raise _upstream(fault, "a batch") from fault
        return False

    async def _submit(self, batch: Batch, items: list[dict[str, Any]]) -> Fault | None:
        """Send one batch until it is certain that it exists, or that it does not: then why."""
        fault = Fault("classifier_error", "no try")
        for attempt in range(TRIES):
            try:
                self._journal.sent(batch.nonce, await self._sdk.submit(items))
                return None
            except Fault as error:
                fault = error
            if not _was_refused(fault):  # it may be on its way: sending it again could pay it twice
                if await self._recover(batch, keep=True):
                    return None
            elif fault.sent and not fault.retry:
                break
            await _pause(attempt, fault)
        return fault

    async def _try_one(self, body: dict[str, Any]) -> None:
        """Have one question checked before thousands are sent: a batch tells what is wrong only when it has ended."""
        if self._tried:
            return
        try:
            await self._patiently(lambda: self._sdk.count_tokens(body), "a token count")
        except UpstreamError as error:
            if getattr(error.cause, "status", 0) in (400, 401, 402, 403):
                raise
        self._tried = True

    async def _recover(self, batch: Batch, *, keep: bool = False) -> bool:
        """Find a batch whose id is not known. One that is nowhere is forgotten, unless `keep`; whether it was found."""
        found = await self._find(batch)
        if found:
            self._journal.sent(batch.nonce, found)
        elif not keep:
            self._forget(batch)
        return found is not None

    def _forget(self, batch: Batch) -> None:
        self._journal.drop(batch.nonce)
        self._purse.reserved -= batch.reserved

    async def _find(self, batch: Batch) -> str | None:
        others = {str(other.id) for other in self._journal.batches()}
        until = time.time() + GRACE_S
        while True:
            listed = await self._patiently(lambda: self._sdk.since(batch.at - SKEW_S), "the list of batches")
            alike = [state for state in listed if state.count == batch.count and state.id not in others]
            for state in alike:
                if state.ended and await self._is(batch, state):
                    return state.id
            others |= {state.id for state in alike if state.ended}
            if all(state.ended for state in alike) and time.time() >= until:
                return None
            await asyncio.sleep(min(self._settings.poll_s, GRACE_S / 4))

    async def _is(self, batch: Batch, state: BatchState) -> bool:
        """Whether the results of a batch carry our nonce."""
        if not state.readable:
            return False
        async for result in self._results(state.id):
            return str(result.get("custom_id")).startswith(f"{batch.nonce}-")
        return False

    async def _poll(self) -> None:
        """Record the results of the batches that have ended; when none has, wait."""
        ended = False
        for batch in self._journal.batches():
            state = await self._patiently(partial(self._sdk.state, str(batch.id)), f"batch {batch.id}")
            if state.ended:
                await self._read(batch, state)
                ended = True
        if not ended:
            self._told(0)
            await asyncio.sleep(self._settings.poll_s)

    async def _read(self, batch: Batch, state: BatchState) -> None:
        """Record the results of a batch that has ended. Raises UpstreamError when they cannot be had whole."""
        if state.readable:
            for attempt in range(TRIES):
                if await self._read_once(batch):
                    break
                await _pause(attempt, None)
            else:
                step = "run the same command again: the batch is paid for and its results are kept for 29 days"
                raise UpstreamError("the results of a batch come incomplete", where=state.id, next_step=step)
        self._forget(batch)

    async def _read_once(self, batch: Batch) -> bool:
        """Whether all results came. Some may have been recorded before."""
        group: list[Answer] = []
        came = 0
        try:
            async for result in self._results(str(batch.id)):
                came += 1
                answer = self._answer(batch, result)
                if answer and self._journal.in_batch(batch.nonce, answer.request, answer.prompt, answer.vote):
                    group.append(answer)
                if len(group) >= RECORDED:
                    group = self._record(group)
        finally:
            self._record(group)
        return came >= batch.count

    async def _results(self, batch_id: str) -> AsyncIterator[dict[str, Any]]:
        """The results, until the stream breaks off: what is missing is read again."""
        try:
            async for result in self._sdk.results(batch_id):
                yield result
        except Fault as fault:
            if fault.status and not fault.retry:
                raise _upstream(fault, "the results of a batch") from fault

    def _record(self, group: list[Answer]) -> list[Answer]:
        if group:
            self._journal.record(group)
            self._purse.spent += sum((answer.usd for answer in group), Decimal(0))
            self._told(sum(answer.label is not None for answer in group))
        return []

    def _answer(self, batch: Batch, result: dict[str, Any]) -> Answer | None:
        """What one item came to; None for one that is not ours."""
        question = _question(batch, str(result.get("custom_id")), self._ballot)
        if question is None:
            return None
        outcome = result.get("result") or {}
        if outcome.get("type") != "succeeded":
            error, final = _error(outcome)
            return Answer(*question, None, 0.0, error, final, 1, time.time())
        prompt = self._ballot.prompt(question[1], question[2])
        verdict = prompt.verdict(outcome.get("message"))
        usd = cost(prompt.model, verdict.usage, batch=True) if verdict.cost_usd else Decimal(0)
        refused = verdict.reason == "classifier_refused"
        wrong = "refused by the labeller" if refused else "the answer does not fit the schema"
        tokens = prompt_tokens(verdict.usage), verdict.usage.output_tokens
        failed = None if verdict.label else wrong
        final = refused or verdict.label is not None
        return Answer(*question, verdict.label, verdict.confidence, failed, final, 1, time.time(), usd, *tokens)

    async def _patiently(self, ask: Callable[[], Awaitable[T]], what: str) -> T:
        """The answer to a request that changes nothing, tried again where that may help. Raises UpstreamError."""
        for attempt in range(TRIES):
            try:
                return await ask()
            except Fault as fault:
                if (fault.status and not fault.retry) or attempt == TRIES - 1:
                    raise _upstream(fault, what) from fault
                await _pause(attempt, fault)
        raise AssertionError("unreachable")


def _custom_id(nonce: str, ask: Ask) -> str:
    """At most 64 of a-z, 0-9, _ and -: 12 + 1 + 12 + 1 + 12 + 1 + 2."""
    return f"{nonce}-{ask.prompt}-{ask.request}-{ask.vote}"


def _question(batch: Batch, custom_id: str, ballot: Ballot) -> tuple[int, str, int] | None:
    nonce, _, rest = custom_id.partition("-")
    prompt, _, numbers = rest.partition("-")
    request, _, vote = numbers.partition("-")
    if nonce != batch.nonce or not (request.isdecimal() and vote.isdecimal()):
        return None
    return (int(request), prompt, int(vote)) if ballot.knows(prompt, int(vote)) else None


def _error(outcome: dict[str, Any]) -> tuple[str, bool]:
    """What is wrong with an item, and whether that is final."""
    told = ((outcome.get("error") or {}).get("error") or {}) if outcome.get("type") == "errored" else {}
    kind = told.get("type")
    return f"batch item {outcome.get('type')}" + (f": {kind}" if kind else ""), kind in _NEVER


def _was_refused(fault: Fault) -> bool:
    """Whether the batch surely does not exist."""
    return not fault.sent or (400 <= fault.status < 500 and fault.status not in (408, 409))


def _upstream(fault: Fault, what: str) -> UpstreamError:
    step = "what was answered is kept: check key, account and network, then run the same command again"
    return UpstreamError(f"Claude refused {what}: {fault.told}", next_step=step, cause=fault)


async def _pause(attempt: int, fault: Fault | None) -> None:
    backoff = random.uniform(0, min(PAUSE_MAX_S, PAUSE_S * 2**attempt))
    await asyncio.sleep(max(fault.retry_after_s if fault else 0.0, backoff))
