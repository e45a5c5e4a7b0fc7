"""Dispatch inside the SDK: the async side of `engine.serve`, on asyncio. See `middleware` for what both sides share."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import cache
from typing import Any

from prerouter.attempts import TIMEOUT
from prerouter.batchverbs import replace_parts
from prerouter.calls import LINGER_S, fault_of
from prerouter.effects import Ask, Await, Complete, Drop, Effect, Hand, Pause, Start
from prerouter.engine import serve
from prerouter.errors import UpstreamError
from prerouter.lookups import counted_as, is_first_page, listed, lists_batches, own_model
from prerouter.middleware import (
    failed,
    reading_of,
    run_of,
    sent_as,
    stream_left,
    stream_over,
)
from prerouter.parts import Parts, Try
from prerouter.reading import Reading
from prerouter.routingreply import (
    is_connection_error,
    response_of,
    sdk_error,
    spoken_response,
    with_body,
    with_stream,
)
from prerouter.run import Run
from prerouter.spoken import Spoken

NextCall = Callable[[Any], Awaitable[Any]]


class AsyncCall:
    """One call on its way. What comes before the first content is read by `wait`, or, where the call has to run beside
    something else, by a task of its own; the rest by whoever reads the stream. raised: what is for the caller."""

    def __init__(
        self, send: Callable[[], Awaitable[Any]], reading: Reading, clock: Callable[[], float], *, beside: bool
    ) -> None:
        self.reading = reading
        self.answer: Any = None
        self.raised: Exception | None = None
        self.head: list[bytes] = []
        self._send, self._clock = send, clock
        self._bytes: AsyncIterator[bytes] | None = None
        self._task = asyncio.create_task(self._begin()) if beside else None

    async def wait(self, until: float) -> None:
        """Until there is content or nothing more comes, at most until `until`."""
        left_s = max(0.0, until - self._clock())
        if self._task:
            await asyncio.wait((self._task,), timeout=left_s)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(left_s):
                await self._begin()

    async def drop(self) -> None:
        """Not wanted any more: break it off."""
        if self._task:
            self._task.cancel()
            await asyncio.wait((self._task,))
        await self.closed()

    async def closed(self) -> None:
        """Release its connection."""
        with suppress(Exception):  # the connection is gone already
            if self.answer is not None:
                await self.answer.close()

    async def more(self, until: float) -> bytes | None:
        """The next bytes of a stream; None when it is over. TimeoutError at `until`."""
        if self.reading.state == "over":
            return None
        async with asyncio.timeout(max(0.0, until - self._clock())):
            return await self._more()

    async def _begin(self) -> None:
        try:
            self.answer = await self._send()
        except Exception as error:
            self.raised = None if is_connection_error(error) else error
            self.reading.broke(fault_of(error), self._clock())
            return
        self.reading.opened(self.answer.status_code, self.answer.headers)
        self._bytes = self.answer.http_response.aiter_bytes()
        while self.reading.state == "waiting":
            chunk = await self._more()
            if chunk is not None and self.reading.stream and self.reading.succeeded:
                self.head.append(chunk)
        if self.reading.state == "over":
            await self.closed()

    async def _more(self) -> bytes | None:
        assert self._bytes
        try:
            chunk = await anext(self._bytes, None)
        except Exception as error:
            self.reading.broke(fault_of(error), self._clock())
            return None
        if chunk is None:
            self.reading.ended(self._clock())
            return None
        return chunk if self.reading.feed(chunk, self._clock()) else None  # what broke it is not for the caller


class AsyncSide:
    """Serves the requests of one async client."""

    def __init__(self, parts: Callable[[], Parts], client: Any) -> None:
        self._parts, self._client = parts, client

    async def handle_async(self, request: Any, call_next: NextCall) -> Any:
        """The SDK's middleware: see `anthropic.Middleware`."""
        parts = self._parts()
        parts.clear_up()
        run = run_of(request, parts, self._client)
        if run is None:
            return await self._looked_up(request, parts, call_next)
        return await self._routed(run, request, call_next)

    async def _looked_up(self, request: Any, parts: Parts, call_next: NextCall) -> Any:
        if own := own_model(request):
            return own
        body = counted_as(request, parts)
        response = await call_next(request if body is None else request.copy(body=body))
        if is_first_page(request) and response.http_response.is_success:
            listed(await response.parse())
        if lists_batches(request) and response.http_response.is_success:
            replace_parts(await response.parse(), parts.settings)
        return response

    async def _routed(self, run: Run, request: Any, call_next: NextCall) -> Any:
        try:
            call = await self._served(run, request, call_next)
        except UpstreamError as error:
            run.finish(error)
            raise sdk_error(error, run) from None
        except BaseException as error:
            await asyncio.gather(*(one.ticket.drop() for one in run.tries), return_exceptions=True)
            failed(run, error)
            raise
        if isinstance(call, Spoken):
            return spoken_response(request, self._client, run, call)
        return self._reply(run, call)

    async def _served(self, run: Run, request: Any, call_next: NextCall) -> AsyncCall | Spoken:
        work, told = serve(run), None
        try:
            while True:
                told = await self._done(run, work.send(told), request, call_next)
        except StopIteration as end:
            call: AsyncCall | Spoken = end.value
            return call

    async def _done(self, run: Run, effect: Effect, request: Any, call_next: NextCall) -> Any:
        clock = run.parts.clock
        if isinstance(effect, Start):
            reading = reading_of(run, effect)
            sent = sent_as(request, effect.body, effect.until - clock(), self._client, stream=reading.stream)
            return AsyncCall(lambda: call_next(sent), reading, clock, beside=run.decision is None)
        if isinstance(effect, Await):
            waited: Any = effect.ticket
            await waited.wait(effect.until)
            if waited.raised:
                raise waited.raised
        elif isinstance(effect, Drop):
            dropped: Any = effect.ticket
            await dropped.drop()
        elif isinstance(effect, Pause):
            await asyncio.sleep(effect.seconds)
        elif isinstance(effect, Ask) and run.judged:
            await run.judged.aask(effect.max_wait_s, effect.classifier)
        elif isinstance(effect, Hand):
            told = run.parts.people.hand(effect.how, effect.case)
            return await told if inspect.isawaitable(told) else told
        elif isinstance(effect, Complete) and run.judged:
            await run.judged.acomplete()
        return None

    def _reply(self, run: Run, call: AsyncCall) -> Any:
        original = call.answer.http_response
        if run.served and run.stream:
            http = with_stream(original, _body_type()(run, run.served, call))
        else:
            http = with_body(original, call.reading.body)
            run.finish(call.reading.error.get("type"))
        return response_of(call.answer, http, run)


@cache
def _body_type() -> Any:
    import httpx2

    class Body(httpx2.AsyncByteStream):
        """The bytes of a stream, with an error at its end when it was not whole."""

        def __init__(self, run: Run, one: Try, call: AsyncCall) -> None:
            self._run, self._one, self._call = run, one, call

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for chunk in self._call.head:
                yield chunk
            try:
                while (more := await self._call.more(self._until())) is not None:
                    yield more
            except TimeoutError:
                reading = self._call.reading
                ended = reading.ended if reading.whole else lambda now: reading.broke(TIMEOUT, now)
                ended(self._run.parts.clock())
            error = stream_over(self._run, self._one)
            if error:
                raise sdk_error(error, self._run)

        def _until(self) -> float:
            due = self._run.due
            return min(due, self._run.parts.clock() + LINGER_S) if self._call.reading.whole else due

        async def aclose(self) -> None:
            stream_left(self._run, self._one)
            await self._call.closed()

        def __del__(self) -> None:
            run, one = self._run, self._one
            run.parts.left.put(lambda: stream_left(run, one))

    return Body
