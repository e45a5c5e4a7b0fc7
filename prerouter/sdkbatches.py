"""Message Batches and token counts through the client of `sdk`, without its retries.

Source of limits and states: CLAUDE_API.md, section 7.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from prerouter.background import in_thread
from prerouter.flights import Fault
from prerouter.sdk import Sdk, is_async
from prerouter.sdkfaults import fault

UPLOAD_S, ASK_S = 600.0, 60.0  # seconds for sending a batch or reading its results, and for asking about it
LISTED = 100  # batches on one page of the list
READ_AT_ONCE = 500  # results from a client that blocks


@dataclass(frozen=True, slots=True)
class BatchState:
    """What the API says of a batch. at: UTC seconds of its creation. readable: it ended and its results are there."""

    id: str
    at: float
    count: int
    ended: bool
    readable: bool


class BatchSdk(Sdk):
    """The anthropic SDK for the labelling pipeline. Every method raises Fault."""

    async def count_tokens(self, body: Mapping[str, Any]) -> int:
        """Input tokens of a Messages request, as the API counts them; refused like the request itself would be."""
        asked = {key: value for key, value in body.items() if key != "max_tokens"}
        counted = await self._call(self.client().messages.count_tokens, **asked, timeout=ASK_S)
        return int(counted.input_tokens)

    async def submit(self, requests: Sequence[Mapping[str, Any]]) -> str:
        """The id of a new batch. After a Fault without a 4xx status it may exist all the same."""
        made = await self._call(self._batches().create, requests=requests, timeout=UPLOAD_S)
        return str(made.id)

    async def state(self, batch_id: str) -> BatchState:
        """How a batch stands."""
        return _state(await self._call(self._batches().retrieve, batch_id, timeout=ASK_S))

    async def since(self, at: float) -> list[BatchState]:
        """All batches made at or after `at`, newest first."""
        found: list[BatchState] = []
        page = await self._call(self._batches().list, limit=LISTED, timeout=ASK_S)
        while True:
            states = [_state(item) for item in page.data]
            found += [state for state in states if state.at >= at]
            if any(state.at < at for state in states) or not page.has_next_page():
                return found
            page = await self._call(page.get_next_page)

    async def results(self, batch_id: str) -> AsyncIterator[dict[str, Any]]:
        """The results of a batch that ended, in any order: objects with `custom_id` and `result`."""
        lines = await self._call(self._batches().results, batch_id, timeout=UPLOAD_S)
        try:
            if hasattr(lines, "__aiter__"):
                async for line in lines:
                    yield line.to_dict(mode="json")
            else:
                while group := await _in_thread(lambda: list(islice(lines, READ_AT_ONCE))):
                    for line in group:
                        yield line.to_dict(mode="json")
        except Exception as error:  # the connection, or a line cut in its middle
            raise fault(error) from error
        finally:
            closed = lines.close()
            if hasattr(closed, "__await__"):
                await closed

    def _batches(self) -> Any:
        try:
            return self.client().messages.batches
        except AttributeError as error:
            raise Fault("classifier_error", "this client has no Message Batches", status=404) from error

    async def _call(self, method: Any, *args: Any, **kw: Any) -> Any:
        try:
            if is_async(self.client()):
                return await method(*args, **kw)
            return await _in_thread(lambda: method(*args, **kw))
        except Exception as error:
            raise fault(error) from error


async def _in_thread(work: Any, *args: Any) -> Any:
    return await asyncio.wrap_future(in_thread(work, *args))


def _state(batch: Any) -> BatchState:
    made = batch.created_at
    at = made.timestamp() if isinstance(made, datetime.datetime) else 0.0
    counts = batch.request_counts
    count = sum(getattr(counts, name) or 0 for name in ("processing", "succeeded", "errored", "canceled", "expired"))
    ended = batch.processing_status == "ended"
    return BatchState(str(batch.id), at, count, ended, ended and bool(batch.results_url))
