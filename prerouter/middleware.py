"""Dispatch inside the SDK: the sync side of `engine.serve`, and what both sides make of a request.

See `calls` for how a call is sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from prerouter.abilities import SAMPLING
from prerouter.attempts import TIMEOUT, is_whole, outcome_of
from prerouter.batchverbs import replace_parts
from prerouter.calls import LINGER_S, Direct, Threaded
from prerouter.dispatchconfig import DispatchConfig
from prerouter.dispatchrecords import DISPATCH
from prerouter.effects import Ask, Await, Complete, Drop, Effect, Hand, Pause, Start
from prerouter.engine import given_up, serve
from prerouter.errors import PreRouterError, UnsupportedRequest, UpstreamError
from prerouter.lookups import CONFIG, counted_as, how, is_first_page, listed, lists_batches, own_model, path_of
from prerouter.parts import Parts, Try
from prerouter.reading import Reading
from prerouter.routingreply import response_of, sdk_error, spoken_response, timeout, with_body, with_stream
from prerouter.run import Run
from prerouter.sdk import streams_events
from prerouter.spoken import Spoken
from prerouter.workers import Workers

PATH = "/v1/messages"
STRICT_S = 120.0  # a deadline shorter than this is kept to the letter, at the price of a thread
_RAW = "X-Stainless-Raw-Response"  # "stream": the SDK does not read the body itself


def run_of(request: Any, parts: Parts, client: Any) -> Run | None:
    """The Run of a request of `client`; None when it is not for us.

    Raises ConfigError for a bad dispatch_config, UnsupportedRequest for what the client cannot stream.
    """
    body = request.json
    if path_of(request) != PATH or not isinstance(body, dict):
        return None
    fixed = None if body.get("model") == DISPATCH else parts.table.find(str(body.get("model")))
    if body.get("model") != DISPATCH and (fixed is None or how() != "shadow"):
        return None
    if request.stream and not streams_events(client):
        step = "use AnthropicBedrockMantle, or create() without stream"
        what = "a stream of Bedrock's is not made of server-sent events and cannot be checked for being whole"
        raise UnsupportedRequest(what, where=type(client).__name__, next_step=step)
    config = DispatchConfig.read(body.get(CONFIG), parts.settings)
    return Run(
        parts,
        {key: value for key, value in body.items() if key != CONFIG},
        config,
        stream=request.stream,
        mode=how(),
        timeout_s=request.timeout if isinstance(request.timeout, int | float) else None,
        fixed=fixed,
        free_sampling=any(map(body.__contains__, SAMPLING)) and _version(request, client) == "2023-06-01",
    )


def _version(request: Any, client: Any) -> Any:
    return request.headers.get("anthropic-version") or client.default_headers.get("anthropic-version")


def failed(run: Run, error: BaseException) -> None:
    """Account for a request that ends with an error of ours, or because the caller wants no answer any more."""
    for one in run.tries:
        if one.reading.state != "over":
            one.reading.broke(type(error).__name__, run.parts.clock())
            one.outcome = "cancelled"
    if isinstance(error, PreRouterError):
        error.__dict__["routing"] = run.routing()
    run.finish(error)


def sent_as(request: Any, body: Mapping[str, Any], seconds: float, client: Any, *, stream: bool) -> Any:
    """`request` of `client` with another body, its answer unread. Not by its own `copy`, which copies the body deeply.

    seconds: that it may take, unless request or client have less patience.
    """
    options = request.options.model_copy()
    options.json_data, options.timeout = dict(body), timeout(max(0.001, seconds), client, request.timeout)
    options.headers = {**request.headers, _RAW: "stream"}
    return type(request)(
        options=options,
        cast_to=request.cast_to,
        stream=stream,
        stream_cls=request.stream_cls,
        retries_taken=request.retries_taken,
    )


def reading_of(run: Run, start: Start) -> Reading:
    """What the answer to a call is read with."""
    return Reading(stream=run.stream and not start.whole, began_s=run.parts.clock(), guard=start.guard)


def stream_over(run: Run, one: Try) -> UpstreamError | None:
    """Account for a stream that is over; the error that the caller must see when it was not whole."""
    one.outcome = outcome_of(one.reading, one.body)
    if one.outcome == "answered" and one.reading.given_back is not None:  # too late to ask another: words were shown
        one.outcome = "escalated"
    if is_whole(one.outcome) or one.reading.error:  # an error event reaches the SDK, which raises its own exception
        run.finish(one.reading.error.get("type"))
        return None
    error = given_up(run, one)
    run.finish(error)
    return error


def stream_left(run: Run, one: Try) -> None:
    """Account for a stream that the caller closed."""
    reading, now = one.reading, run.parts.clock()
    if reading.state != "over":
        if reading.whole:
            reading.ended(now)
        else:
            reading.broke("closed by the caller", now)
    one.outcome = outcome_of(reading, one.body)
    if one.outcome == "cut":
        one.outcome = "cancelled"
    run.finish(reading.error.get("type") or (None if is_whole(one.outcome) else "cancelled"))


class SyncSide:
    """Serves the requests of one sync client."""

    def __init__(self, parts: Callable[[], Parts], client: Any) -> None:
        self._parts, self._client, self._workers = parts, client, Workers()

    def handle(self, request: Any, call_next: Callable[[Any], Any]) -> Any:
        """The SDK's middleware: see `anthropic.Middleware`."""
        parts = self._parts()
        parts.clear_up()
        run = run_of(request, parts, self._client)
        return self._looked_up(request, parts, call_next) if run is None else self._routed(run, request, call_next)

    def _looked_up(self, request: Any, parts: Parts, call_next: Callable[[Any], Any]) -> Any:
        if own := own_model(request):
            return own
        body = counted_as(request, parts)
        response = call_next(request if body is None else request.copy(body=body))
        if is_first_page(request) and response.http_response.is_success:
            listed(response.parse())
        if lists_batches(request) and response.http_response.is_success:
            replace_parts(response.parse(), parts.settings)
        return response

    def _routed(self, run: Run, request: Any, call_next: Callable[[Any], Any]) -> Any:
        try:
            call = self._served(run, request, call_next)
        except UpstreamError as error:
            run.finish(error)
            raise sdk_error(error, run) from None
        except BaseException as error:
            for one in run.tries:
                one.ticket.drop()
            failed(run, error)
            raise
        if isinstance(call, Spoken):
            return spoken_response(request, self._client, run, call)
        return self._reply(run, call)

    def _served(self, run: Run, request: Any, call_next: Callable[[Any], Any]) -> Direct | Threaded | Spoken:
        work, told = serve(run), None
        try:
            while True:
                told = self._done(run, work.send(told), request, call_next)
        except StopIteration as end:
            call: Direct | Threaded | Spoken = end.value
            return call

    def _done(self, run: Run, effect: Effect, request: Any, call_next: Callable[[Any], Any]) -> Any:
        clock = run.parts.clock
        if isinstance(effect, Start):
            reading = reading_of(run, effect)

            def send(until: float) -> Any:
                return call_next(sent_as(request, effect.body, until - clock(), self._client, stream=reading.stream))

            if run.decision and effect.until - run.started >= STRICT_S:
                return Direct(send, reading, clock)
            call = Threaded(send, reading, effect.until, clock)
            self._workers.run(call.work)
            return call
        if isinstance(effect, Await):
            waited: Any = effect.ticket
            waited.wait(effect.until)
            if waited.raised:
                raise waited.raised
        elif isinstance(effect, Drop):
            dropped: Any = effect.ticket
            dropped.drop()
        elif isinstance(effect, Pause):
            time.sleep(effect.seconds)
        elif isinstance(effect, Ask) and run.judged:
            run.judged.ask(effect.max_wait_s, effect.classifier)
        elif isinstance(effect, Hand):
            return run.parts.people.hand(effect.how, effect.case)
        elif isinstance(effect, Complete) and run.judged:
            run.judged.complete()
        return None

    def _reply(self, run: Run, call: Direct | Threaded) -> Any:
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

    class Body(httpx2.SyncByteStream):
        """The bytes of a stream, with an error at its end when it was not whole."""

        def __init__(self, run: Run, one: Try, call: Direct | Threaded) -> None:
            self._run, self._one, self._call = run, one, call

        def __iter__(self) -> Iterator[bytes]:
            while (chunk := self._call.chunk(self._until())) is not None:
                yield chunk
            reading = self._call.reading
            if reading.state != "over":
                self._call.drop()
                ended = reading.ended if reading.whole else lambda now: reading.broke(TIMEOUT, now)
                ended(self._run.parts.clock())
            error = stream_over(self._run, self._one)
            if error:
                raise sdk_error(error, self._run)

        def _until(self) -> float:
            due = self._run.due
            return min(due, self._run.parts.clock() + LINGER_S) if self._call.reading.whole else due

        def close(self) -> None:
            self._call.drop()
            stream_left(self._run, self._one)

        def __del__(self) -> None:
            self._call.forget()
            self._run.parts.left.put(self.close)  # not now: garbage is collected while anybody may hold any lock

    return Body
