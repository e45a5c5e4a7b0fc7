"""The SDK's own replies, streams, responses and errors, with `.routing`: what callers of Dispatch are given.

`.routing` is a property of a subclass: an attribute set on a reply would show up in `to_json`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from prerouter.dispatchrecords import Routing
from prerouter.errors import UpstreamError
from prerouter.run import Run
from prerouter.sdk import is_async
from prerouter.spoken import Spoken

if TYPE_CHECKING:
    import httpx2

ROUTING = "prerouter_routing"  # key in the extensions of an HTTP response, for errors that the SDK makes of it
CONNECT_S = 30.0  # at most; the five of the SDK are over soon when a thousand requests begin at once
_CLASSES = 256  # routed types kept: `parse` makes one for each output type
_ENCODED = ("content-encoding", "content-length", "transfer-encoding")  # no longer true of a body that was decoded


def routed(value: Any, run: Run) -> Any:
    """`value`, a reply or a stream as the SDK made it, with `.routing`; anything else as it is."""
    import anthropic

    if isinstance(value, anthropic.BaseModel):
        return routed_message(value, run.routing())
    if isinstance(value, anthropic.Stream | anthropic.AsyncStream):
        stream: Any = value
        stream.__class__, stream._run = _routed_stream(_kind(value)), run
    return value


def routed_message(message: Any, routing: Routing | None) -> Any:
    """`message` with `.routing`."""
    message.__class__, message._routing = _routed_model(_kind(message)), routing
    return message


def response_of(answer: Any, http: httpx2.Response, run: Run) -> Any:
    """`answer`, an APIResponse or AsyncAPIResponse, of the response `http` in place of its own."""
    http.extensions[ROUTING] = run.routing
    made = copy.copy(answer)
    made.__class__ = _routed_response(_kind(answer))
    made.http_response, made._run, made._parsed_by_type = http, run, {}
    return made


def spoken_response(request: Any, client: Any, run: Run, spoken: Spoken) -> Any:
    """The response to `request` that `spoken` is, as if the API had sent it."""
    import anthropic
    import httpx2

    kind = "text/event-stream; charset=utf-8" if request.stream else "application/json"
    headers = {"content-type": kind, "request-id": f"prerouter_{spoken.message['id']}"}
    sent = httpx2.Request("POST", httpx2.URL(str(client.base_url)).join("/v1/messages"))
    http = httpx2.Response(200, headers=headers, request=sent, content=spoken.body(stream=request.stream))
    http.elapsed = timedelta(seconds=run.parts.clock() - run.started)
    made: Any = anthropic.AsyncAPIResponse if is_async(client) else anthropic.APIResponse
    about = {"cast_to": request.cast_to, "stream": request.stream, "stream_cls": request.stream_cls}
    run.finish()
    return response_of(made(raw=http, client=client, options=request.options, **about), http, run)


def with_body(response: Any, body: bytes) -> Any:
    """`response`, whose body was read in pieces, with the body that its `read` would have kept."""
    response._content = body  # there is no public way; a second Response with headers of its own takes longer
    return response


def with_stream(original: httpx2.Response, stream: httpx2.SyncByteStream | httpx2.AsyncByteStream) -> Any:
    """A response like `original` whose decoded body is `stream`."""
    import httpx2

    headers = httpx2.Headers([(k, v) for k, v in original.headers.multi_items() if k.lower() not in _ENCODED])
    extensions = dict(original.extensions)
    return httpx2.Response(
        original.status_code, headers=headers, request=original.request, extensions=extensions, stream=stream
    )


def is_connection_error(error: Exception) -> bool:
    """Whether it is the connection's fault; anything else is the caller's affair: no key, a hook that raised."""
    import anthropic

    return isinstance(error, anthropic.APIConnectionError)


@cache
def middleware_of(side: type) -> Any:
    """`side` as middleware that the SDK takes."""
    import anthropic

    return type("Dispatching", (side, anthropic.Middleware), {"__doc__": "Routes requests for claude-dispatch."})


def model_info(fields: Mapping[str, Any]) -> Any:
    """A model as `models.list` shows it."""
    from anthropic.types import ModelInfo

    return ModelInfo.model_validate(fields)


def timeout(seconds: float, client: Any, asked: Any) -> Any:
    """The SDK's timeouts for a call that may take so long: shorter where the request, else the client, has shorter
    ones. asked: what the request says, as the SDK passes it on."""
    import anthropic
    import httpx2

    given = client.timeout if isinstance(asked, anthropic.NotGiven) else asked
    if given is None or given == anthropic.DEFAULT_TIMEOUT:
        return httpx2.Timeout(seconds, connect=min(seconds, CONNECT_S))
    phases = httpx2.Timeout(given).as_dict()
    return httpx2.Timeout(**{name: min(seconds, seconds if s is None else s) for name, s in phases.items()})


def sdk_error(error: UpstreamError, run: Run, request: Any = None) -> UpstreamError:
    """`error` with `.routing`, as one that `except anthropic.APIConnectionError` or `APITimeoutError` catches too."""
    late = bool(getattr(error, "timed_out", False))
    made: UpstreamError = _rebuilt(late, error.args, error.__dict__, run.routing(), request)
    return made


def _rebuilt(late: bool, args: tuple[Any, ...], state: dict[str, Any], routing: Any, request: Any = None) -> Any:
    kind = _error_type(late)
    made = kind.__new__(kind, *args)
    made.__dict__.update(state)
    made.message, made.request, made.body = str(made), request, None
    made.type = made.error_code = None
    made.routing = routing
    return made


@cache
def _error_type(late: bool) -> Any:
    import anthropic

    like: type[Exception] = anthropic.APITimeoutError if late else anthropic.APIConnectionError

    def reduce(self: Any) -> Any:
        kept = {k: v for k, v in self.__dict__.items() if k not in ("request", "routing", "__cause__")}
        return _rebuilt, (late, self.args, kept, self.routing)

    # Neither __init__ is called, for they do not know of each other: see `_rebuilt`.
    return type("UpstreamError", (UpstreamError, like), {"__module__": __name__, "__reduce__": reduce})


@lru_cache(_CLASSES)
def _routed_model(base: Any) -> Any:
    if hasattr(base, "routing"):
        return base

    def reduce(self: Any) -> Any:
        return _unpickled, (base, self.__getstate__())

    fields = {"routing": property(_kept_routing), "__reduce__": reduce, "__module__": base.__module__}
    return type(base)(base.__name__, (base,), fields)


def _kept_routing(self: Any) -> Routing | None:
    """How the request was served."""
    kept: Routing | None = self.__dict__.get("_routing")
    return kept


def _unpickled(base: Any, state: Any) -> Any:
    made = base.__new__(base)
    made.__setstate__(state)
    made.__class__ = _routed_model(base)
    return made


@lru_cache(_CLASSES)
def _routed_stream(base: Any) -> Any:
    if hasattr(base, "routing"):
        return base

    def events(self: Any) -> Iterator[Any]:
        with _telling():
            yield from base.__stream__(self)

    async def aevents(self: Any) -> AsyncIterator[Any]:
        with _telling():
            async for event in base.__stream__(self):
                yield event

    method: Callable[..., Any] = aevents if hasattr(base, "__aiter__") else events
    return type(base.__name__, (base,), {"routing": property(_running), "__stream__": method})


def _running(self: Any) -> Routing | None:
    """How the request is served, so far."""
    run: Run = self._run
    return run.routing()


@lru_cache(_CLASSES)
def _routed_response(base: Any) -> Any:
    import anthropic

    if hasattr(base, "routing"):
        return base

    def parse(self: Any, *, to: Any = None) -> Any:
        return routed(base.parse(self, to=to), self._run)

    async def aparse(self: Any, *, to: Any = None) -> Any:
        return routed(await base.parse(self, to=to), self._run)

    asynchronous = issubclass(base, anthropic.AsyncAPIResponse)
    method: Callable[..., Any] = aparse if asynchronous else parse
    return type(base.__name__, (base,), {"parse": method, "routing": property(_running)})


def with_error_routing(call: Callable[..., Any], *args: Any, **arguments: Any) -> Any:
    """What `call` returns; exceptions of the API's errors have `.routing`, awaited or not."""
    try:
        value = call(*args, **arguments)
    except Exception as error:
        _tell(error)
        raise
    return _awaited(value) if inspect.iscoroutine(value) else value


async def _awaited(value: Any) -> Any:
    with _telling():
        return await value


@contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        _tell(error)
        raise


def _tell(error: Exception) -> None:
    kept = getattr(getattr(error, "response", None), "extensions", {}).get(ROUTING)
    if kept:
        error.__dict__["routing"] = kept()


def routed_manager(manager: Any) -> Any:
    """What `.stream()` returns, with `.routing` on the stream that it opens and on its final message."""
    return _AsyncManager(manager) if hasattr(manager, "__aenter__") else _Manager(manager)


class _Manager:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __enter__(self) -> Any:
        with _telling():
            return _with_routing(self._inner.__enter__())

    def __exit__(self, *error: Any) -> Any:
        return self._inner.__exit__(*error)


class _AsyncManager:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def __aenter__(self) -> Any:
        with _telling():
            return _with_routing(await self._inner.__aenter__())

    async def __aexit__(self, *error: Any) -> Any:
        return await self._inner.__aexit__(*error)


def _with_routing(stream: Any) -> Any:
    stream.__class__ = _routed_message_stream(_kind(stream))
    return stream


@lru_cache(_CLASSES)
def _routed_message_stream(base: Any) -> Any:
    def of_raw(self: Any) -> Routing | None:
        """How the request is served, so far."""
        raw: Any = self._raw_stream
        return raw.routing if hasattr(raw, "routing") else None

    def final(self: Any) -> Any:
        return routed_message(base.get_final_message(self), of_raw(self))

    async def afinal(self: Any) -> Any:
        return routed_message(await base.get_final_message(self), of_raw(self))

    method: Callable[..., Any] = afinal if hasattr(base, "__aenter__") else final
    return type(base.__name__, (base,), {"routing": property(of_raw), "get_final_message": method})


def _kind(value: Any) -> Any:
    return type(value)
