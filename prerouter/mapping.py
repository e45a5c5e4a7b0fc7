"""`client.map`: many requests through one client, in order, within the rate limits that the API names.

Which model a request goes to is not known before it is sent, so all keep to the strictest limits of the models that
have answered so far. A request that fails gives its error in place of a reply; the others go on.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from prerouter.dispatchrecords import DISPATCH
from prerouter.errors import ConfigError
from prerouter.pace import KINDS, Pace
from prerouter.progress import Progress

NO_LIMIT = 1_000_000  # requests per minute
BYTES_PER_TOKEN = 4.0  # of a request's text, roughly: the pace learns from what was billed
LONGEST_WAIT_S = 60.0  # for a used-up minute; a reset further away is not believed
Seen = Callable[[int, int | None], None]
Each = Callable[[int, Any], None]


class Client(Protocol):
    """What of a Dispatch or an AsyncDispatch is used. rate_headers: last seen rate-limit headers, by model."""

    @property
    def messages(self) -> Any: ...

    @property
    def rate_headers(self) -> Mapping[str, Mapping[str, str]]: ...


def run(
    client: Client,
    requests: Iterable[Mapping[str, Any]],
    *,
    concurrency: int = 5,
    progress: Seen | bool = False,
    each: Each | None = None,
) -> list[Any]:
    """A reply or an exception for each of `requests`, in their order.

    requests: the keyword arguments of `messages.create`, read as they are needed; `model` is "claude-dispatch" where
    there is none. concurrency: at a time, from 1 to 1,000. progress: True prints to standard error; a function gets
    (done, total or None) after each.
    each: gets (position, reply or exception) as it comes, one at a time; the list returned is then empty.
    An exception is what `messages.create` raised. Ctrl-C ends the whole at once, and so does an exception of
    `requests`, `progress` or `each`. Raises ConfigError.
    """
    with ExitStack() as stack:
        work = _Work(client, requests, concurrency, _shown(progress, requests, stack), each)
        threads = [threading.Thread(target=_serve, args=(work, client), daemon=True) for _ in range(concurrency)]
        stack.callback(work.stop)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return work.results()


async def arun(
    client: Client,
    requests: Iterable[Mapping[str, Any]],
    *,
    concurrency: int = 5,
    progress: Seen | bool = False,
    each: Each | None = None,
) -> list[Any]:
    """As `run`. Cancelling it cancels what is on its way."""
    with ExitStack() as stack:
        work = _Work(client, requests, concurrency, _shown(progress, requests, stack), each)
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(_aserve(work, client))
        return work.results()


def _serve(work: _Work, client: Client) -> None:
    while (job := work.take()) is not None:
        while (wait_s := work.wait_s(job)) > 0:
            work.stopped.wait(wait_s)
        try:
            result = job.problem or client.messages.create(**job.request)
        except Exception as error:
            result = error
        work.done(job, result)


async def _aserve(work: _Work, client: Client) -> None:
    while (job := work.take()) is not None:
        while (wait_s := work.wait_s(job)) > 0:
            await asyncio.sleep(wait_s)
        try:
            result = job.problem or await client.messages.create(**job.request)
        except Exception as error:
            result = error
        work.done(job, result)


@dataclass(slots=True)
class _Job:
    """One request, or what is wrong with it. tokens: of its prompt, estimated; began: time.monotonic()."""

    at: int
    request: Mapping[str, Any]
    tokens: float
    problem: ConfigError | None = None
    began: float = 0.0


class _Work:
    """What is to be done, what is done, and when the next may start. One lock; waits and sends nothing."""

    def __init__(
        self,
        client: Client,
        requests: Iterable[Mapping[str, Any]],
        concurrency: int,
        seen: Seen | None,
        each: Each | None,
    ) -> None:
        if not 1 <= concurrency <= 1_000:
            step = "choose a whole number from 1 to 1,000"
            raise ConfigError(f"concurrency is {concurrency}", where="map", next_step=step)
        self.stopped = threading.Event()
        self._total = len(requests) if isinstance(requests, Sized) else None
        self._jobs = self._numbered(requests)
        self._client, self._seen, self._each = client, seen, each
        self._lock = threading.RLock()  # the iterable may be a generator that itself uses the client
        self._results: dict[int, Any] = {}
        self._done = 0
        self._error: BaseException | None = None
        self._pace = Pace(NO_LIMIT, concurrency, time.monotonic())  # until the first answer tells one
        self._resting_until = 0.0

    def take(self) -> _Job | None:
        """The next request, or None."""
        with self._lock:
            if self.stopped.is_set():
                return None
            try:
                return next(self._jobs, None)
            except Exception as error:  # of the caller's own iterable
                self.broke(error)
                return None

    def wait_s(self, job: _Job) -> float:
        """Seconds until `job` may start; 0: it starts now."""
        with self._lock:
            now = time.monotonic()
            wait_s = max(self._pace.wait_s(now, job.tokens), self._resting_until - now)
            if wait_s > 0 and not self.stopped.is_set():
                return wait_s
            self._pace.start(job.tokens)
            job.began = now
            return 0.0

    def done(self, job: _Job, result: Any) -> None:
        """Keep a reply or an error, or hand it over, and learn from it."""
        with self._lock:
            try:
                self._learn(job, result, time.monotonic())
                self._done += 1
                if self._each:
                    self._each(job.at, result)
                else:
                    self._results[job.at] = result
                if self._seen:
                    self._seen(self._done, self._total)
            except BaseException as error:
                self.broke(error)

    def broke(self, error: BaseException) -> None:
        """End everything: code of the caller failed."""
        with self._lock:
            self._error = self._error or error
            self.stop()

    def stop(self) -> None:
        """Start nothing more."""
        self.stopped.set()

    def results(self) -> list[Any]:
        """All of them, in order. Raises what ended the work."""
        if self._error is not None:
            raise self._error
        return [self._results[i] for i in range(len(self._results))]

    def _numbered(self, requests: Iterable[Mapping[str, Any]]) -> Iterator[_Job]:
        for i, request in enumerate(requests):
            if isinstance(request, Mapping):
                yield _Job(i, {"model": DISPATCH, **request}, _size(request) / BYTES_PER_TOKEN)
                continue
            what = f"requests[{i}] is {type(request).__name__}, not the keyword arguments of messages.create"
            step = 'such as {"max_tokens": 500, "messages": [...]}'
            yield _Job(i, {}, 0.0, ConfigError(what, where="map", next_step=step))

    def _learn(self, job: _Job, result: Any, now: float) -> None:
        for _ in range(_pushed_back(result)):
            self._pace.pushed_back(now)
        headers = _strictest(self._client.rate_headers)
        self._pace.read(now, headers)
        self._resting_until = max(self._resting_until, now + _rest_s(headers))
        usage = getattr(result, "usage", None)
        if usage is not None:
            billed = (usage.input_tokens or 0) + (usage.cache_creation_input_tokens or 0)  # reads are free of limits
            self._pace.answered(now, now - job.began, (job.tokens, billed), usage.output_tokens or 0)


def _pushed_back(result: Any) -> int:
    """How often the API said "not now" to a request."""
    routing = getattr(result, "routing", None)
    attempts = routing.attempts if routing else ()
    return sum(attempt.outcome in ("limited", "failed") for attempt in attempts)


def _strictest(models: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Of each kind of limit the lowest, and of what is left of it the least, of all models."""
    strictest: dict[str, str] = {}
    for headers in list(models.values()):
        for kind in KINDS:
            for what in ("limit", "remaining"):
                name = f"anthropic-ratelimit-{kind}-{what}"
                value, known = headers.get(name, ""), strictest.get(name)
                if value.isdecimal() and (known is None or int(value) < int(known)):
                    strictest[name] = value
                    reset = headers.get(f"anthropic-ratelimit-{kind}-reset")
                    if what == "remaining" and reset:
                        strictest[f"anthropic-ratelimit-{kind}-reset"] = reset
    return strictest


def _rest_s(headers: Mapping[str, str]) -> float:
    """Seconds until a limit of which nothing is left is whole again: others may use it up as well."""
    from datetime import UTC, datetime

    waits = [0.0]
    for kind in KINDS:
        if headers.get(f"anthropic-ratelimit-{kind}-remaining") != "0":
            continue
        try:
            reset = datetime.fromisoformat(headers.get(f"anthropic-ratelimit-{kind}-reset", ""))
        except ValueError:
            continue
        if reset.tzinfo:
            waits.append((reset - datetime.now(UTC)).total_seconds())
    return min(LONGEST_WAIT_S, max(waits))


def _size(node: Any) -> int:
    """Characters of all strings of a request; files and pictures count as little as their names."""
    if isinstance(node, str):
        return len(node)
    if isinstance(node, Mapping):
        return sum(_size(value) for key, value in node.items() if key != "data")
    return sum(map(_size, node)) if isinstance(node, list | tuple) else 0


def _shown(progress: Seen | bool, requests: Iterable[Any], stack: ExitStack) -> Seen | None:
    if not isinstance(progress, bool):
        return progress
    if not progress:
        return None
    bar = stack.enter_context(Progress("sending", total=len(requests) if isinstance(requests, Sized) else None))
    return lambda done, total: bar.advance(1)
