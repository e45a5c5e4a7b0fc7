"""The results of a batch of ours: read part by part in any order, counted once, given out in the order asked."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import IO, Any

from prerouter.batchaccounts import routing_of, settle
from prerouter.batchapi import BatchApi
from prerouter.batches import PAUSE_MAX_S, PAUSE_S, TRIES
from prerouter.batchreply import result_of
from prerouter.batchstore import BatchStore, Part, Place
from prerouter.errors import UpstreamError
from prerouter.flights import Fault
from prerouter.parts import Parts

COUNTED = 500  # results that are counted in one transaction
NEVER_SENT = "this item never reached the API: create the same batch again to send it"


class Spool:
    """Results by the place of their item, in a file that goes with this object: memory does not grow with them."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        self._at: dict[int, tuple[int, int]] = {}
        self._end = 0

    def put(self, n: int, result: Mapping[str, Any]) -> None:
        """Keep the result of item `n`."""
        data = json.dumps(result).encode()
        self._file.seek(self._end)
        self._file.write(data)
        self._at[n], self._end = (self._end, len(data)), self._end + len(data)

    def get(self, n: int) -> dict[str, Any] | None:
        """The result of item `n`."""
        if n not in self._at:
            return None
        at, size = self._at[n]
        self._file.seek(at)
        return dict(json.loads(self._file.read(size)))

    def close(self) -> None:
        """Forget all."""
        self._file.close()

    def __del__(self) -> None:  # of results that nobody began to read
        self._file.close()


async def read(api: BatchApi, store: BatchStore, parts: Parts, spool: Spool | None = None) -> None:
    """Read the results of all parts, which have ended, and count what was not counted yet. Raises Fault, UpstreamError.

    spool: gets them; None: they are only counted.
    """
    kept = store.known()
    for part in store.parts():
        if not part.gone and (part.state or {}).get("results_url"):
            await _read_part(api, store, parts, part, kept, spool)


async def _read_part(
    api: BatchApi, store: BatchStore, parts: Parts, part: Part, kept: Mapping[int, Any], spool: Spool | None
) -> None:
    seen: set[int] = set()
    for attempt in range(TRIES):
        group: list[tuple[int, dict[str, Any]]] = []
        try:
            async for line in api.results(str(part.id)):
                nonce, _, number = str(line.get("custom_id")).partition("-")
                if nonce != part.nonce or not number.isdecimal() or int(number) in seen:
                    continue
                seen.add(int(number))
                group.append((int(number), line.get("result") or {}))
                if len(group) >= COUNTED:
                    _count(store, parts, kept, group, spool)
                    group = []
        except Fault as fault:  # the stream broke off: what is missing is read again
            if fault.status and not fault.retry:
                raise
        finally:
            _count(store, parts, kept, group, spool)
        if len(seen) >= part.count:
            return
        await asyncio.sleep(random.uniform(0, min(PAUSE_MAX_S, PAUSE_S * 2**attempt)))
    step = "ask for the results again: they are kept for 29 days"
    raise UpstreamError("the results of a batch come incomplete", where=str(part.id), next_step=step)


def _count(
    store: BatchStore,
    parts: Parts,
    kept: Mapping[int, Any],
    group: list[tuple[int, dict[str, Any]]],
    spool: Spool | None,
) -> None:
    new = store.settle([(n, str(result.get("type"))) for n, result in group]) if group else set()
    for n, result in group:
        if n in new and n in kept:
            settle(parts, store.id, kept[n], result)
        if spool:
            spool.put(n, result)


class Results:
    """The results in the order asked, each the SDK's own with `.routing`; to be gone through once, sync or async.

    done: called when the last one was given out.
    """

    def __init__(
        self, parts: Parts, places: Iterator[Place], spool: Spool, done: Callable[[], None], *, beta: bool
    ) -> None:
        self._parts, self._spool, self._done, self._beta = parts, spool, done, beta
        self._results = self._each(list(places))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._results)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        for result in self._results:
            return result
        raise StopAsyncIteration

    def close(self) -> None:
        """Give back what is not read."""
        self._results.close()
        self._spool.close()

    def _each(self, places: list[Place]) -> Any:
        try:
            for place in places:
                yield self._one(place)
            self._done()
        finally:
            self._spool.close()

    def _one(self, place: Place) -> Any:
        result = self._spool.get(place.first) if place.error is None else None
        told = result or _unsent(place)
        routing = None
        if place.kept is not None and result is not None:
            routing = routing_of(self._parts.table, place.kept, result, copy=place.n != place.first)
        return result_of({"custom_id": place.custom_id, "result": told}, routing, beta=self._beta)


class AsyncResults(Results):
    """As `Results`; closed by `await close()`, as the SDK's own."""

    async def close(self) -> None:  # type: ignore[override]
        """Give back what is not read."""
        super().close()


def _unsent(place: Place) -> dict[str, Any]:
    """The result of an item that was not sent, as the API tells of one that it rejects."""
    kind, message = ("invalid_request_error", place.error[1]) if place.error else ("api_error", NEVER_SENT)
    return {"type": "errored", "error": {"type": "error", "error": {"type": kind, "message": message}}}
