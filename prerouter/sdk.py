"""The anthropic SDK behind a few functions of our own: the only room that imports it.

Nothing of it is imported before it is used: that takes most of a second.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from prerouter.errors import ConfigError, UpstreamError
from prerouter.flights import Fault
from prerouter.prompt import Prompt
from prerouter.reading import Reading
from prerouter.records import Request, Verdict
from prerouter.sdkfaults import BadBody, fault
from prerouter.sections import ClassifierSettings

if TYPE_CHECKING:
    from concurrent.futures import Future

Seen = Callable[[bytes], None]  # gets the chunks of a body as they come
Headers = Mapping[str, str]  # of a response; names in any capitals

KEYS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")  # without a client, one of these says that calls are wanted

LISTING_S = 15.0  # seconds for the list of models, the SDK's import included

MAX_BYTES = 2**20  # of a response, decoded; an answer is some 2 kB. More would cost memory and hold up the other calls
MAX_REDIRECTS = 2  # the API has none, a gateway may have one; httpx2 would follow 20 for each try

_NO_EVENTS = {"AnthropicBedrock", "AsyncAnthropicBedrock"}  # their streams are not server-sent events
_LABEL = re.compile(r'\s*\{\s*"label"\s*:\s*"([^"\\]*)"')  # the schema has the label first


def has_key(client: Any = None) -> bool:
    """Whether there is a key to call with: the client's, without a client one in the environment, read anew.

    Bedrock, Vertex and the like have ways of their own to sign their requests and count as having one.
    """
    if client is None:
        return any(map(os.environ.get, KEYS))
    if type(client).__name__ not in ("Anthropic", "AsyncAnthropic") or getattr(client, "credentials", None) is not None:
        return True
    return not {"authorization", "x-api-key"}.isdisjoint(map(str.lower, client.default_headers))


def list_models(settings: ClassifierSettings) -> list[dict[str, Any]]:
    """What `GET /v1/models` says of every model, retired ones too. Raises UpstreamError, in bounded time."""
    from prerouter.background import in_thread

    try:
        return in_thread(_listing).result(max(LISTING_S, settings.deadline_s))
    except TimeoutError as error:
        told, cause = "no answer in time", cast(Exception, error)
    except Exception as error:
        told, cause = type(error).__name__ if isinstance(error, ImportError) else fault(error).told, error
    step = "check the key, ANTHROPIC_BASE_URL and the network"
    raise UpstreamError(f"Claude did not list its models: {told}", where="GET /v1/models", next_step=step, cause=cause)


def _listing() -> list[dict[str, Any]]:
    import anthropic

    with anthropic.DefaultHttpxClient(max_redirects=MAX_REDIRECTS) as http:
        client = anthropic.Anthropic(max_retries=1, http_client=http)
        pages = client.models.list(limit=1000, lifecycle=["active", "deprecated", "retired"])
        return [model.to_dict(mode="json") for model in pages]


@contextmanager
def offline_client(answer: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Iterator[Any]:
    """A real sync client whose requests never leave the process: `answer(body)` makes each Messages response."""
    import anthropic
    import httpx2

    def respond(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json=answer(json.loads(request.content)))

    with anthropic.DefaultHttpxClient(transport=httpx2.MockTransport(respond)) as http:
        yield anthropic.Anthropic(api_key="offline", base_url="http://offline.invalid", http_client=http)


class Sdk:
    """The anthropic SDK as `flights.Api`."""

    def __init__(self, prompt: Prompt | None, given: Any) -> None:
        """prompt: of `ask`, which nobody else needs. given: a client, or None for one from the environment."""
        self._prompt, self._given = prompt, given
        self._shares_http = given is not None and _has_own_http(given)
        self._client: Any = None
        self._threads: set[Future[tuple[bytes, Headers]]] = set()

    @property
    def busy(self) -> int:
        return len(self._threads)

    async def open(self) -> None:
        self.client()

    async def ask(self, request: Request, timeout_s: float) -> Verdict:
        assert self._prompt is not None
        return (await self.message(self._prompt, request, timeout_s))[0]

    async def ask_early(self, request: Request, timeout_s: float, told: Callable[[str], None]) -> Verdict:
        client, prompt = self.client(), self._prompt
        assert prompt is not None
        if not streams_events(client):
            return await self.ask(request, timeout_s)
        early = _Early(prompt, told)
        try:
            send = _send if is_async(client) else self._send_in_thread
            await send(client, prompt.body(request) | {"stream": True}, timeout_s, early.feed)
        except Exception as error:
            raise early.billed(fault(error)) from error
        return early.verdict()

    async def message(self, prompt: Prompt, request: Request, timeout_s: float) -> tuple[Verdict, Headers]:
        """One call with any prompt, and the headers of the response. Raises Fault."""
        said, headers = await self.call(prompt.body(request), timeout_s)
        return prompt.verdict(said), headers

    async def call(self, body: Mapping[str, Any], timeout_s: float) -> tuple[dict[str, Any], Headers]:
        """One call with any body of the Messages API: the response as JSON, and its headers. Raises Fault."""
        client = self.client()
        try:
            send = _send if is_async(client) else self._send_in_thread
            raw, headers = await send(client, dict(body), timeout_s)
        except Exception as error:
            raise fault(error) from error
        try:
            said = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise Fault("classifier_invalid", "the response is not JSON") from error
        return (said if isinstance(said, dict) else {}), headers

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is None or self._shares_http:
            return
        if is_async(client):
            await client.close()
        else:
            self._close_after_calls(client)

    def _close_after_calls(self, client: Any) -> None:
        """A connection that is just being made under a client that closes would be left open."""
        left = set(self._threads)

        def ended(call: Future[tuple[bytes, Headers]]) -> None:
            left.discard(call)
            if not left:
                client.close()

        if not left:
            client.close()
        for call in tuple(left):
            call.add_done_callback(ended)

    def client(self) -> Any:
        """The client, made on the flights' thread: importing the SDK takes most of a second."""
        if self._client is None:
            self._client = _copy(self._given)
        return self._client

    async def _send_in_thread(
        self, client: Any, body: dict[str, Any], timeout_s: float, seen: Seen | None = None
    ) -> tuple[bytes, Headers]:
        import asyncio

        from prerouter.background import in_thread

        sent = in_thread(_send_blocking, client, body, timeout_s, seen)
        self._threads.add(sent)
        sent.add_done_callback(self._threads.discard)
        return await asyncio.wrap_future(sent)


class _Early:
    """A streamed answer, whose label is told when its closing quote is there."""

    def __init__(self, prompt: Prompt, told: Callable[[str], None]) -> None:
        self._prompt, self._told = prompt, told
        self._reading = Reading(stream=True, began_s=0.0)
        self._reading.opened(200, {})

    def feed(self, chunk: bytes) -> None:
        """More of it came."""
        self._reading.feed(chunk, 0.0)
        found = _LABEL.match(self._reading.text)
        label = self._prompt.taxonomy.match(found[1]) if found else None
        if label:
            self._told(label)

    def verdict(self) -> Verdict:
        """What all of it says. Raises Fault."""
        reading = self._reading
        reading.ended(0.0)
        if reading.error:
            raise self.billed(Fault("classifier_error", f"error event: {reading.error.get('type')}", retry=True))
        return self._prompt.verdict(reading.message)  # one that broke off is invalid, and billed

    def billed(self, fault: Fault) -> Fault:
        """`fault` with what was told of its bill."""
        told = self._prompt.verdict(self._reading.message)
        fault.usage, fault.cost_usd = told.usage, told.cost_usd
        return fault


async def _send(client: Any, body: dict[str, Any], timeout_s: float, seen: Seen | None = None) -> tuple[bytes, Headers]:
    async with client.messages.with_streaming_response.create(**body, timeout=timeout_s) as response:
        with _reading() as read:
            async for chunk in response.iter_bytes():
                _add(read, chunk, seen)
    return bytes(read), response.headers


def _send_blocking(
    client: Any, body: dict[str, Any], timeout_s: float, seen: Seen | None = None
) -> tuple[bytes, Headers]:
    until = time.monotonic() + timeout_s
    with client.messages.with_streaming_response.create(**body, timeout=timeout_s) as response, _reading() as read:
        for chunk in itertools.takewhile(lambda _: time.monotonic() < until, response.iter_bytes()):
            _add(read, chunk, seen)
    return bytes(read), response.headers


@contextmanager
def _reading() -> Iterator[bytearray]:
    """A body to be filled; whatever goes wrong meanwhile is a BadBody."""
    try:
        yield bytearray()
    except BadBody:
        raise
    except Exception as error:
        raise BadBody("the response broke off") from error


def _add(body: bytearray, chunk: bytes, seen: Seen | None) -> None:
    body += chunk
    if seen:
        seen(chunk)
    if len(body) > MAX_BYTES:
        raise BadBody(f"the response is longer than {MAX_BYTES} bytes")


def new_client(*, asynchronous: bool) -> Any:
    """A client made from the environment."""
    import anthropic

    return anthropic.AsyncAnthropic() if asynchronous else anthropic.Anthropic()


def check_client(client: Any) -> None:
    """Raise ConfigError for what is no client, and for an async client whose connections cannot be replaced."""
    if client is None:
        return
    if not (hasattr(client, "messages") and hasattr(client, "with_options")):
        what = f"{type(client).__name__} is no anthropic client"
        raise ConfigError(what, where="client", next_step="pass an anthropic.Anthropic, or None")
    if is_async(client) and _has_own_http(client):
        what = "an async client with its own http_client belongs to its event loop"
        raise ConfigError(what, where="client", next_step="pass an anthropic.Anthropic with that http_client")


def streams_events(client: Any) -> bool:
    """Whether a stream of this client is made of server-sent events."""
    return _NO_EVENTS.isdisjoint(kind.__name__ for kind in type(client).__mro__)


def is_async(client: Any) -> bool:
    return hasattr(client, "__aenter__")


def _has_own_http(client: Any) -> bool:
    """Whether the user made the HTTP client: the SDK wraps those that it makes itself."""
    return not type(getattr(client, "_client", None)).__name__.endswith("HttpxClientWrapper")


def _copy(given: Any) -> Any:
    """A client for the flights alone: no retries of the SDK's, which know no deadline, and no shared connections."""
    import anthropic

    if given is not None and _has_own_http(given):
        return given.with_options(max_retries=0)
    asynchronous = given is None or is_async(given)
    kind = anthropic.DefaultAsyncHttpxClient if asynchronous else anthropic.DefaultHttpxClient
    own: dict[str, Any] = {"max_retries": 0, "http_client": kind(max_redirects=MAX_REDIRECTS)}
    return anthropic.AsyncAnthropic(**own) if given is None else given.with_options(**own)
