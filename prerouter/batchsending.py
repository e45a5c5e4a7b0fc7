"""Items in parts to Message Batches: no part is sent twice, whatever became of the reply or of this process.

As in `batches`: before a part is sent, the file of the batch names it, and every custom_id carries that name. A part
whose id is not known is looked for in the API's list before it would be sent again: batches of its size made since then
can be it, and the results of those that have ended tell. While one of them has not ended nothing is sent: the part
stays open, and is looked for again whenever the batch is asked for.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prerouter.batchapi import BatchApi, was_refused
from prerouter.batches import GRACE_S, PAUSE_MAX_S, PAUSE_S, SKEW_S, TRIES
from prerouter.batchitems import written
from prerouter.batchstore import BatchStore, Part
from prerouter.flights import Fault
from prerouter.sections import BatchSettings

FRAME_BYTES = 80  # of an item on the wire beside its params: custom_id, names, punctuation
LOOK_S = 2.5  # between two looks at the list
Body = Callable[[int], Mapping[str, Any]]


class BatchSender:
    """Sends the items of one batch. body: an item's params as they are sent. told: called with how many were sent.

    extra: arguments of the SDK's `create` beside the requests.
    """

    def __init__(
        self,
        api: BatchApi,
        store: BatchStore,
        settings: BatchSettings,
        body: Body,
        extra: Mapping[str, Any],
        told: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._api, self._store, self._settings = api, store, settings
        self._body, self._extra, self._told = body, extra, told

    async def send(self, items: Sequence[int]) -> None:
        """Send those of `items` that no part holds. Raises Fault: what was sent stays sent, and the rest can follow."""
        sent = self._store.sent_items()
        for chunk in self._chunks([n for n in items if n not in sent]):
            await self._send(chunk)
            self._told(len(chunk))

    async def recover(self) -> None:
        """Find what an earlier run sent without learning its id. What is nowhere is free to be sent."""
        for part in self._store.parts():
            if part.gone or (part.id is None and await find(self._api, self._store, part, wait=True) == "nowhere"):
                self._store.drop(part.nonce)

    def _chunks(self, items: Sequence[int]) -> Iterator[list[int]]:
        chunk: list[int] = []
        size, most = 0, self._settings.megabytes * 1_000_000
        for n in items:
            more = len(written(self._body(n))) + FRAME_BYTES
            if chunk and (len(chunk) >= self._settings.requests or size + more > most):
                yield chunk
                chunk, size = [], 0
            chunk.append(n)
            size += more
        if chunk:
            yield chunk

    async def _send(self, chunk: Sequence[int]) -> None:
        """Send one part until it is certain that it exists, may exist, or does not."""
        part = self._store.intend(os.urandom(6).hex(), chunk)
        wire = [{"custom_id": f"{part.nonce}-{n}", "params": self._body(n)} for n in chunk]
        for attempt in range(TRIES):
            try:
                self._store.saw(part.nonce, await self._api.send(wire, self._extra))
                return
            except Fault as fault:
                if not was_refused(fault):
                    if await find(self._api, self._store, part, wait=True) != "nowhere":
                        return
                elif not fault.retry or attempt == TRIES - 1:
                    self._store.drop(part.nonce)
                    raise
                if attempt == TRIES - 1:
                    self._store.drop(part.nonce)
                    raise
                backoff = random.uniform(0, min(PAUSE_MAX_S, PAUSE_S * 2**attempt))
                await asyncio.sleep(max(fault.retry_after_s, backoff))


async def find(api: BatchApi, store: BatchStore, part: Part, *, wait: bool) -> str:
    """Look for a part whose id is not known: "found", "open" (it may be one that has not ended), or "nowhere".

    wait: until a batch that was accepted is in the list for certain; else one that was sent just now is "open".
    Raises Fault.
    """
    others = {other.id for other in store.parts() if other.id}
    until = (time.time() if wait else part.at) + GRACE_S
    while True:
        listed = await api.since(part.at - SKEW_S)
        alike = [state for state in listed if state.count == part.count and state.id not in others]
        for state in alike:
            if state.readable and await _is(api, part, state.id):
                store.saw(part.nonce, await api.look(state.id))
                return "found"
        others |= {state.id for state in alike if state.ended}
        if not all(state.ended for state in alike):
            return "open"
        if time.time() >= until:
            return "nowhere"
        if not wait:
            return "open"
        await asyncio.sleep(LOOK_S)


async def _is(api: BatchApi, part: Part, batch_id: str) -> bool:
    """Whether the results of a batch carry the part's name."""
    async for result in api.results(batch_id):
        return str(result.get("custom_id")).startswith(f"{part.nonce}-")
    return False
