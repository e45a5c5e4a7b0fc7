"""A fake Claude API: a real HTTP server on loopback, as strict as the real one, with scriptable outcomes.

    with FakeClaude() as claude:
        claude.script(Error(529), Answer({"label": "complex"}))  # in this order, then the default again
        with claude.client(max_retries=0) as client: ...         # the real SDK
        claude.calls()                                           # what arrived

Serves POST /v1/messages (and streaming), POST /v1/messages/count_tokens, GET /v1/models and /v1/models/{id}, and
Message Batches (`batches`, see fake_claude_batches.py); fields that only beta headers allow are not looked into.
Invalid requests are refused, using up no scripted outcome. `bills` is what was billed, at prices of its own.
By hand: python tests/fake_claude.py --port 8399
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from fake_claude_answers import PromptCache, default_answer, default_draft, input_tokens, message
from fake_claude_batches import BATCHES, MAX_BYTES, Batches
from fake_claude_bill import Bill, bill
from fake_claude_http import Connection, Reply, Request, Send
from fake_claude_models import MODELS, MODELS_PATH, look_up
from fake_claude_outcomes import (
    Answer,
    Blocks,
    CutJson,
    Drip,
    EmptyEndTurn,
    Error,
    Hang,
    Held,
    InvalidLabel,
    Lost,
    MaxTokens,
    OffSchema,
    Outcome,
    Refusal,
    Reset,
    StreamCutClean,
    StreamCutEvent,
    StreamErrorEvent,
    StreamReset,
    ToolUse,
    TruncatedAnswer,
    error_reply,
    json_reply,
    message_reply,
    stamp,
    told,
)
from fake_claude_plan import Plan, When, asks_for_label
from fake_claude_rules import NEW_VERSION, check, check_headers
from fake_claude_shapes import Rejected

if TYPE_CHECKING:
    import anthropic

__all__ = [
    "Answer", "Bill", "Blocks", "CutJson", "Drip", "EmptyEndTurn", "Error", "FakeClaude", "Hang", "Held",
    "InvalidLabel", "Lost", "MaxTokens", "OffSchema", "Outcome", "Record", "Refusal", "Reset", "StreamCutClean",
    "StreamCutEvent", "StreamErrorEvent", "StreamReset", "ToolUse", "TruncatedAnswer", "asks_for_label",
    "default_answer",
]  # fmt: skip

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
# Top-level fields that a request may have when it names a beta (SDK `types/beta/message_create_params.py`).
BETA_FIELDS = {
    *("billing_policy", "compaction", "context_management", "fallback_credit_token", "fallbacks", "mcp_servers"),
    *("thread", "user_profile_id", "workspace_id"),
}
_AUTH = {"authorization": "bearer", "x-api-key": "x-api-key"}


class _HangUp(Exception):
    """Reset the connection without a reply."""


@dataclass(frozen=True, slots=True)
class Record:
    """One request that arrived. auth: "bearer", "x-api-key", "both" or None; its value is redacted in `headers`."""

    method: str
    path: str
    body: Any
    headers: Mapping[str, str]
    auth: str | None
    at: float  # time.monotonic()
    retry_count: int

    @property
    def model(self) -> str | None:
        """The model asked for."""
        return self.body.get("model") if isinstance(self.body, dict) else None


class FakeClaude:
    """The server. Constructing it does nothing; `start` and `close`, or use it as a context manager.

    answer: `answer(body) -> dict | str` makes the unscripted answers; it must not block (use `Held` for that).
    models: what each model accepts, by id; change it to retire one.
    rpm: POST /v1/messages in any 60 seconds; what is more is a 429. None: without a limit.
    draw: `draw() -> Outcome`, what calls come to that nothing else was said about.
    in_flight, in_flight_max: requests that arrived and are not answered yet, now and at most.
    bills: what was billed, in the order of arrival of the calls; Message Batches left out.
    faults: errors of the fake itself, an outcome that does not fit the call among them; `close` raises the first.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        valid_key: str = "test-key",
        answer: Callable[[Mapping[str, Any]], Mapping[str, Any] | str] = default_answer,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.valid_key, self.answer, self.models = valid_key, answer, dict(MODELS)
        self.requests: list[Record] = []
        self.rpm: int | None = None
        self.draw: Callable[[], Outcome] = Answer
        self.batches = Batches(self._respond, lambda: self.url)
        self._recent: deque[float] = deque()
        self.in_flight = self.in_flight_max = 0
        self.port, self._log = port, log
        self.faults: list[BaseException] = []
        self.bills: list[Bill] = []
        self._unfinished: dict[int, Callable[[], None]] = {}  # what to do when a call's reader goes away
        self._plan = Plan()
        self._changed = threading.Condition()
        self._cache = PromptCache()
        self._clients: list[anthropic.Anthropic] = []
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Base URL for the SDK."""
        return f"http://127.0.0.1:{self.port}"

    def script(self, *outcomes: Outcome, path: str = MESSAGES, when: When = None) -> None:
        """What the next valid calls of `path` come to, in order; afterwards the default again.

        when: only calls to this model, or of bodies that it says yes to (`asks_for_label`).
        """
        with self._changed:
            self._plan.script(outcomes, path, when)

    def always(self, outcome: Outcome | None, path: str = MESSAGES, when: When = None) -> None:
        """What unscripted calls of `path` come to from now on; None: the default."""
        with self._changed:
            self._plan.always(outcome, path, when)

    def billed(self, *, told: bool | None = None) -> Decimal:
        """US dollars of all bills; of those only that callers were, or were not, `told` of."""
        with self._changed:
            return sum((b.usd for b in self.bills if told in (None, b.told)), Decimal(0))

    def calls(self, model: str | None = None) -> list[Record]:
        """The POST /v1/messages that arrived, to one model or all."""
        with self._changed:
            return self._calls(model)

    def wait_for_calls(self, n: int, timeout_s: float = 5.0) -> list[Record]:
        """The calls, once there are `n`; TimeoutError if that does not happen."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._calls(None)) >= n, timeout_s):
                raise TimeoutError(f"{len(self._calls(None))} calls, not {n}, after {timeout_s} s")
            return self._calls(None)

    def wait_until_idle(self, timeout_s: float = 5.0) -> None:
        """Return once no request is in flight; TimeoutError if that does not happen."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.in_flight == 0, timeout_s):
                raise TimeoutError(f"{self.in_flight} requests in flight after {timeout_s} s")

    def client(self, **kw: Any) -> anthropic.Anthropic:
        """A real SDK client of this server; closed with the server."""
        import anthropic

        self._clients.append(anthropic.Anthropic(**{"api_key": self.valid_key, "base_url": self.url} | kw))
        return self._clients[-1]

    def aclient(self, **kw: Any) -> anthropic.AsyncAnthropic:
        """The same, asynchronous; to be closed by the caller (`async with`)."""
        import anthropic

        return anthropic.AsyncAnthropic(**{"api_key": self.valid_key, "base_url": self.url} | kw)

    def _calls(self, model: str | None) -> list[Record]:
        return [r for r in self.requests if (r.method, r.path) == ("POST", MESSAGES) and model in (None, r.model)]

    def start(self) -> FakeClaude:
        """Listen; returns when the server accepts connections."""
        listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        self.port = listener.getsockname()[1]
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(listener, started)), daemon=True)
        self._thread.start()
        started.wait()
        return self

    def close(self) -> None:
        """Stop at once, whatever is in flight. Raises the first fault of the server's own, if there was one."""
        if self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = None
        for client in self._clients:
            client.close()
        if self.faults:
            raise self.faults[0]

    def __enter__(self) -> FakeClaude:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _serve(self, listener: socket.socket, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        connections: set[Connection] = set()
        server = await self._loop.create_server(
            lambda: Connection(self._handle, connections), sock=listener, backlog=1024
        )
        started.set()
        await self._stop.wait()
        server.close()
        for _ in range(3):  # what asyncio accepted just now becomes a connection: cancelled before, its socket is lost
            await asyncio.sleep(0)
        tasks = [connection.reset() for connection in list(connections)]
        await asyncio.gather(*(task for task in tasks if task), return_exceptions=True)

    async def _handle(self, request: Request, send: Send) -> None:
        number = self._arrived(request)
        try:
            reply = await self._reply(request, number)
            if self._log:
                status = reply.status if reply else "reset"
                self._log(f"{request.method} {request.path} {self.requests[number - 1].model or '-'} {status}")
            await send(reply)
        except asyncio.CancelledError:  # the caller went away
            if number in self._unfinished:
                self._unfinished[number]()
            raise
        finally:
            self._unfinished.pop(number, None)
            with self._changed:
                self.in_flight -= 1
                self._changed.notify_all()

    async def _reply(self, request: Request, number: int) -> Reply | None:
        try:
            reply = await self._route(request, number)
        except _HangUp:
            return None
        except Rejected as error:
            reply = error_reply(Error(error.status, error.kind, message=error.message))
        except Exception as error:
            self.faults.append(error)
            reply = error_reply(Error(500, message=f"fault of the fake itself: {error!r}"))
        left = None if self.rpm is None else (self.rpm, self.rpm - len(self._recent))
        stamp(reply, f"req_fake{number:06d}", number, left)
        return reply

    def _arrived(self, request: Request) -> int:
        headers = {k: "redacted" if k in _AUTH else v for k, v in request.headers.items()}
        kinds = [_AUTH[name] for name in headers if name in _AUTH]
        auth = "both" if len(kinds) == 2 else kinds[0] if kinds else None
        tries = headers.get("x-stainless-retry-count", "0")
        body = _parsed(request.body)
        retries = int(tries) if tries.isdecimal() else 0
        record = Record(request.method, request.path, body, headers, auth, time.monotonic(), retries)
        with self._changed:
            self.requests.append(record)
            self.in_flight += 1
            self.in_flight_max = max(self.in_flight_max, self.in_flight)
            self._changed.notify_all()
            return len(self.requests)

    async def _route(self, request: Request, number: int) -> Reply:
        batch = f"{request.path}/".startswith(f"{BATCHES}/")
        if batch and len(request.body) > MAX_BYTES:
            raise Rejected("Request exceeds the maximum size", 413, "request_too_large")
        version = check_headers(request.headers, 0 if batch else len(request.body), self.valid_key)
        if batch:
            return await self._batch(request)
        if request.path in (MESSAGES, COUNT) and request.method == "POST":
            return await self._post(request, version, number)
        if f"{request.path}/".startswith(f"{MODELS_PATH}/") and request.method == "GET":
            spoiled = (await self._play(MODELS_PATH))[1]
            return spoiled or json_reply(look_up(self.models, request.path, request.query))
        if request.path in (MESSAGES, COUNT, MODELS_PATH):
            raise Rejected("Method Not Allowed", 405)
        raise Rejected("Not found", 404, "not_found_error")

    async def _batch(self, request: Request) -> Reply:
        """`script` knows sending a batch as BATCHES, the rest as BATCHES + /list, /state, /cancel or /results."""
        parts = request.path.removeprefix(BATCHES).strip("/").split("/")
        what = "/list" if not parts[0] else f"/{parts[1]}" if len(parts) > 1 else "/state"
        outcome, reply = await self._play(BATCHES + ("" if what == "/list" and request.method == "POST" else what))
        if reply is not None:
            return reply
        reply = self.batches.handle(request, _parsed(request.body) if request.body else None)
        if isinstance(outcome, Lost):
            await asyncio.sleep(outcome.seconds)
            raise _HangUp
        reply.reset = isinstance(outcome, Reset)
        return reply

    def _respond(self, body: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
        model = check(body, NEW_VERSION, self.models)
        draft = outcome.draft(lambda: default_draft(body, self.answer), body)
        return message(body, model, draft, self._cache.usage(body, model), f"msg_batch{len(self.batches.paid):06d}")

    async def _post(self, request: Request, version: str, number: int) -> Reply:
        body = _parsed(request.body)
        if not isinstance(body, dict):
            raise Rejected("The request body is not valid JSON")
        counting = request.path == COUNT
        beta = BETA_FIELDS if "anthropic-beta" in request.headers else ()
        model = check({k: v for k, v in body.items() if k not in beta}, version, self.models, counting=counting)
        if not counting:
            self._admit()
        size = input_tokens(body, model)
        if size > model.max_input:
            raise Rejected(f"prompt is too long: {size} tokens > {model.max_input} maximum")
        outcome, reply = await self._play(request.path, body)
        if reply is not None or counting:
            return reply or json_reply({"input_tokens": size})
        draft = outcome.draft(lambda: default_draft(body, self.answer), body)
        said = message(body, model, draft, self._cache.usage(body, model), f"msg_fake{number:06d}")
        reply = message_reply(said, outcome, stream=body.get("stream", False))
        self._unfinished[number] = self._charge(said, outcome, body)
        return reply

    def _charge(self, said: Mapping[str, Any], outcome: Outcome, body: Mapping[str, Any]) -> Callable[[], None]:
        """Bill a call; returns what to call when its reader goes away."""
        stream = body.get("stream", False)
        said = {**said, "model": outcome.served or said["model"]}
        heard = told(said, outcome, stream=stream)
        kept = bill(heard or said, body, told=heard is not None)
        with self._changed:
            self.bills.append(kept)

        def left() -> None:
            begun = told(said, StreamReset(after="start"), stream=stream) if stream else None
            less = bill(begun or said, body)
            kept.usage, kept.usd, kept.told = less.usage, less.usd, begun is not None

        return left

    def _admit(self) -> None:
        """Count a call; raises Rejected when it is one too many within 60 seconds."""
        now = time.monotonic()
        while self._recent and self._recent[0] <= now - 60:
            self._recent.popleft()
        if self.rpm and len(self._recent) >= self.rpm:
            raise Rejected("This request would exceed your rate limit", 429, "rate_limit_error")
        self._recent.append(now)

    async def _play(self, path: str, body: Any = None) -> tuple[Outcome, Reply | None]:
        """The outcome of this call, waited for, and the reply if that does not depend on the request."""
        with self._changed:
            outcome = self._plan.take(path, body) or (self.draw() if path == MESSAGES else Answer())
        while isinstance(outcome, Held):
            while not outcome.release.is_set():
                await asyncio.sleep(0.02)
            outcome = outcome.then
        await asyncio.sleep(outcome.delay_s)
        if isinstance(outcome, Hang):
            await asyncio.sleep(outcome.seconds)
        if isinstance(outcome, Hang) or (isinstance(outcome, Reset) and not outcome.mid_body):
            raise _HangUp
        return outcome, error_reply(outcome) if isinstance(outcome, Error) else None


def _parsed(body: bytes) -> Any:
    """The JSON value, or the bytes as they are."""
    try:
        parsed = json.loads(body)
        json.dumps(parsed, ensure_ascii=False, allow_nan=False).encode()  # NaN and lone surrogates are not JSON either
    except (ValueError, RecursionError):
        return body
    return parsed


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A fake Claude API on loopback.")
    parser.add_argument("--port", type=int, default=8399)
    parser.add_argument("--key", default="test-key", help="the API key it accepts")
    args = parser.parse_args()
    log = functools.partial(print, file=sys.stderr, flush=True)
    with FakeClaude(port=args.port, valid_key=args.key, log=log) as claude:
        print(claude.url, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)


if __name__ == "__main__":
    main()
