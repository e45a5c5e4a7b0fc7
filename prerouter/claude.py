"""Asks Claude which label a request has.

`Classifier` never raises for what happens upstream: every fault ends as a Verdict without a label and with its reason.

| what happened | reason |
|---|---|
| no key and no client | no_key |
| no answer within the deadline; or `fall_through = "async"`, which waits zero seconds | classifier_timeout |
| 4xx, 5xx, no connection, after the tries that help; SDK missing or broken | classifier_error |
| stop_reason refusal | classifier_refused |
| cut body, max_tokens, off the schema, unknown label; a request that is empty or not Unicode | classifier_invalid |
| too many failures in a row | breaker_open |
| rate bucket empty or too many calls in flight | classifier_budget |
| `fall_through = "off"`, or more labels than can be asked for | fall_through_off |

Whoever starts a call pays for it; who joins it or finds its answer in the cache pays nothing. The cost of an answer
that came after the deadline is in `stats` only. What was answered is billed and therefore never asked again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

from prerouter.cache import AnswerCache
from prerouter.flights import Flight, Flights, Stats
from prerouter.prompt import Prompt
from prerouter.records import Request, Usage, Verdict
from prerouter.sdk import Sdk, check_client, has_key, list_models, offline_client
from prerouter.sections import ClassifierSettings
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable

__all__ = ["Classifier", "Stats", "has_key", "list_models", "offline_client"]


class Classifier:
    """Labels requests with a Claude model. Thread-safe, usable from any event loop, and safe after a fork.

    client: an anthropic client of either kind, Bedrock and Vertex included; None: one from the environment, made at
        first use. Calls go through a copy of it without the SDK's retries and with connections of its own; only a sync
        client with its own `http_client` keeps that. A sync client's call that misses its deadline cannot be broken off
        before the next byte arrives; until then it holds a place in flight.
    clock: seconds, for the cache, the breaker and the rate; deadlines are real time.

    Raises ConfigError for an unknown model and for an async client with its own `http_client`.
    """

    def __init__(
        self,
        taxonomy: Taxonomy,
        tiers: TierTable,
        settings: ClassifierSettings,
        *,
        client: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_client(client)
        self._taxonomy, self._settings, self._client, self._clock = taxonomy, settings, client, clock
        self._model = tiers.model(settings.model)
        self._cache: AnswerCache[Verdict] = AnswerCache(settings.cache_size, settings.cache_ttl_s)
        self._by_process: dict[int, Flights] = {}  # a forked child finds none of its own and makes one
        self._prompt: Prompt | None = None

    @property
    def has_key(self) -> bool:
        """Whether there is a key to call with: the client's, else one in the environment, which is read anew."""
        return has_key(self._client)

    @property
    def prompt(self) -> Prompt:
        """What is asked; read from its files at first use."""
        self._prompt = self._prompt or Prompt.load(self._taxonomy, self._model, self._settings.ask)
        return self._prompt

    @property
    def stats(self) -> Stats:
        """Totals of this process."""
        return self._flights().stats()

    def classify(self, request: Request, *, max_wait_s: float | None = None) -> Verdict:
        """The label of `request`, or why there is none, within the deadline or `max_wait_s` if that is less."""
        started = time.monotonic()
        return Asked(self, self._begin(request, started), started + self._wait_s(max_wait_s)).verdict()

    async def aclassify(self, request: Request, *, max_wait_s: float | None = None) -> Verdict:
        """As `classify`, without blocking the event loop. Cancelling it does not cancel the shared call."""
        started = time.monotonic()
        return await Asked(self, self._begin(request, started), started + self._wait_s(max_wait_s)).averdict()

    def begin(self, request: Request, *, max_wait_s: float | None = None) -> Asked:
        """Ask, over a stream, and return at once: whoever needs no more than the label need not wait for the rest."""
        started = time.monotonic()
        return Asked(self, self._begin(request, started, early=True), started + self._wait_s(max_wait_s))

    def cached(self, request: Request) -> Verdict | None:
        """The kept answer to `request`, if there is one. Never calls."""
        key = self._key(request)
        return self._flights().cached(key) if key else None

    def warm(self) -> None:
        """Import the SDK and make the client, so that the first call need not. Sends nothing, raises nothing."""
        with suppress(Exception):  # no thread, a broken SDK: the first call tells, in its Verdict
            if self.has_key and self._settings.fall_through != "off":
                self._flights().warm()

    def close(self) -> None:
        """Break off this process's calls and close its connections, within seconds. A later call opens new ones."""
        flights = self._by_process.get(os.getpid())
        if flights:
            flights.stop()

    def _begin(self, request: Request, now: float, *, early: bool = False) -> tuple[Flight, bool] | Verdict:
        """What to wait for and whether this request pays for it; a Verdict when there is nothing to wait for."""
        key = self._key(request)
        if key is None:
            return self._failed(Verdict(None, "classifier_invalid"))
        if self._settings.fall_through == "off" or not self._taxonomy.askable:
            return self.cached(request) or self._failed(Verdict(None, "fall_through_off"))
        if not self.has_key:
            return self.cached(request) or self._failed(Verdict(None, "no_key"))
        try:
            boarded = self._flights().board(key, request, now + self._settings.deadline_s, early=early)
        except (OSError, RuntimeError, ImportError):  # no thread or no file handle left: the request is still served
            boarded = Verdict(None, "classifier_error")
        if isinstance(boarded, Verdict):
            return boarded if boarded.label else self._failed(boarded)
        return boarded

    def _handed_out(self, verdict: Verdict, leads: bool) -> Verdict:
        mine = verdict if leads else replace(verdict, cost_usd=Decimal(0), usage=Usage())
        return mine if mine.label else self._failed(replace(mine, prompt_id=self.prompt.id))

    def _given_up(self, flight: Flight) -> Verdict:
        self._flights().give_up(flight)
        return self._failed(Verdict(None, "classifier_timeout", prompt_id=self.prompt.id))

    def _failed(self, verdict: Verdict) -> Verdict:
        self._flights().count_failure(verdict.reason)
        return verdict

    def _wait_s(self, max_wait_s: float | None) -> float:
        if self._settings.fall_through == "async":
            return 0.0
        return min(self._settings.deadline_s, self._settings.deadline_s if max_wait_s is None else max_wait_s)

    def _key(self, request: Request) -> bytes | None:
        """Hash of the text and of how it is asked about; None for a request that cannot be asked about.

        The label of the conversation's last turn is part of it: it is shown as a hint. `context` is not: the label is
        about the work asked for, which is in the text, and a system prompt with the time of day in it would make every
        request new. Of requests that differ in context alone the first one's answer serves.
        """
        if not request.text.strip():
            return None
        hint = [request.hint] if request.hint else []
        parts = json.dumps([request.text, self.prompt.id, *hint], ensure_ascii=False)
        try:
            return hashlib.sha256(parts.encode()).digest()
        except UnicodeEncodeError:  # a lone surrogate
            return None

    def _flights(self) -> Flights:
        pid = os.getpid()
        return self._by_process.get(pid) or self._new_flights(pid)

    def _new_flights(self, pid: int) -> Flights:
        made = Flights(self._settings, self._cache, Sdk(self.prompt, self._client), self._clock)
        kept = self._by_process.setdefault(pid, made)  # of two threads that come first, both use the same
        if kept is made:
            weakref.finalize(self, made.abandon).atexit = False  # at exit there is nothing to wait for
        return kept


class Asked:
    """A question on its way. Its methods wait until the deadline at most, and never raise."""

    def __init__(self, classifier: Classifier, begun: tuple[Flight, bool] | Verdict, until: float) -> None:
        self._classifier, self._begun, self._until = classifier, begun, until

    def label(self) -> str | None:
        """The label, as soon as it can be read; None: only the verdict tells."""
        if isinstance(self._begun, Verdict) or self._begun[0].early is None:
            return None
        with suppress(TimeoutError):
            return self._begun[0].early.result(self._left_s()) or None
        return None

    async def alabel(self) -> str | None:
        """As `label`, without blocking the event loop."""
        import asyncio

        if isinstance(self._begun, Verdict) or self._begun[0].early is None:
            return None
        label = asyncio.wrap_future(self._begun[0].early)
        await asyncio.wait((label,), timeout=self._left_s())
        return label.result() or None if label.done() else None

    def verdict(self) -> Verdict:
        """The whole verdict, as `Classifier.classify` gives it."""
        if isinstance(self._begun, Verdict):
            return self._begun
        flight, leads = self._begun
        try:
            return self._classifier._handed_out(flight.future.result(self._left_s()), leads)
        except TimeoutError:
            return self._classifier._given_up(flight)

    async def averdict(self) -> Verdict:
        """As `verdict`, without blocking the event loop."""
        import asyncio

        if isinstance(self._begun, Verdict):
            return self._begun
        flight, leads = self._begun
        answer = asyncio.wrap_future(flight.future)
        await asyncio.wait((answer,), timeout=self._left_s())
        return (
            self._classifier._handed_out(answer.result(), leads)
            if answer.done()
            else self._classifier._given_up(flight)
        )

    def _left_s(self) -> float:
        return max(0.0, self._until - time.monotonic())
