"""Scriptable outcomes of one call to the fake Claude, and the HTTP reply that each comes to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from fake_claude_answers import Body, Draft, events, say, use_tool
from fake_claude_http import Reply
from fake_claude_rules import response_format

_KINDS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What happens to one call. delay_s: seconds before anything is sent. served: see below."""

    delay_s: float = 0.0
    served: str | None = None  # the model that the reply names, if not the one asked for

    def draft(self, default: Callable[[], Draft], body: Body) -> Draft:
        """What the model says; `default` is what it would say unscripted."""
        return default()


@dataclass(frozen=True, slots=True)
class Answer(Outcome):
    """Content of the answer: text, or fields that replace those of the default JSON. upper: labels in capitals."""

    content: Mapping[str, Any] | str | None = None
    stop_reason: str | None = None
    upper: bool = field(default=False, kw_only=True)

    def draft(self, default: Callable[[], Draft], body: Body) -> Draft:
        said = default()
        text = said.content[0].get("text", "")
        if isinstance(self.content, Mapping):
            text = json.dumps((json.loads(text) if response_format(body) else {}) | dict(self.content))
        elif self.content is not None:
            text = self.content
        if self.upper:
            fields = json.loads(text)
            text = json.dumps({k: v.upper() if isinstance(v, str) else v for k, v in fields.items()})
        content = said.content if self.content is None and not self.upper else say(text)
        return replace(said, content=content, stop_reason=self.stop_reason)


@dataclass(frozen=True, slots=True)
class Blocks(Outcome):
    """An answer of these content blocks, whatever they are."""

    content: tuple[Mapping[str, Any], ...]
    stop_reason: str | None = None

    def draft(self, default: Callable[[], Draft], body: Body) -> Draft:
        return Draft(tuple(dict(block) for block in self.content), self.stop_reason)


@dataclass(frozen=True, slots=True)
class ToolUse(Outcome):
    """A call of this tool; with `times`, so many at once."""

    name: str
    input: Mapping[str, Any] = field(default_factory=dict)
    times: int = 1

    def draft(self, default: Callable[[], Draft], body: Body) -> Draft:
        return Draft(sum((use_tool(self.name, dict(self.input), body, i) for i in range(self.times)), ()))


@dataclass(frozen=True, slots=True)
class OffSchema(Outcome):
    """Valid JSON that does not have the asked shape."""

    content: Any = field(default_factory=lambda: {"surprise": [1, 2, 3]})

    def draft(self, default: Callable[[], Draft], body: Body) -> Draft:
        return Draft(say(json.dumps(self.content)))


def InvalidLabel(label: str = "no-such-label", **kw: Any) -> Answer:
    """The asked JSON with a label outside the enum."""
    return Answer({"label": label}, **kw)


@dataclass(frozen=True, slots=True)
class TruncatedAnswer(Outcome):
    """The answer's text cut in its middle by max_tokens."""

    def draft(self, default: Callable[[], Draft], body: Body) -> Draft:
        text = default().content[0]["text"]
        return Draft(say(text[: len(text) // 2]), "max_tokens")


@dataclass(frozen=True, slots=True)
class MaxTokens(Outcome):
    """stop_reason max_tokens, with the whole text or without any."""

    with_text: bool = False

    def draft(self, default: Callable[[], Draft], body: Body) -> Draft:
        return Draft(default().content if self.with_text else (), "max_tokens")


@dataclass(frozen=True, slots=True)
class EmptyEndTurn(Outcome):
    """end_turn without content."""

    def draft(self, default: Callable[[], Draft], body: Body) -> Draft:
        return Draft((), "end_turn")


@dataclass(frozen=True, slots=True)
class Refusal(Outcome):
    """HTTP 200 with stop_reason refusal; `partial`: text that came before it."""

    category: str | None = "cyber"
    partial: str = ""

    def draft(self, default: Callable[[], Draft], body: Body) -> Draft:
        details = {"type": "refusal", "category": self.category, "explanation": None}
        return Draft(say(self.partial) if self.partial else (), "refusal", details)


@dataclass(frozen=True, slots=True)
class Error(Outcome):
    """An HTTP error; `kind` None: the error type that belongs to the status."""

    status: int
    kind: str | None = None
    code: str | None = None
    message: str = "simulated"
    retry_after: float | str | None = field(default=None, kw_only=True)
    x_should_retry: bool | None = field(default=None, kw_only=True)
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True, slots=True)
class CutJson(Outcome):
    """HTTP 200 with the first half of the body, well-formed as HTTP; of a stream little more than its start."""


@dataclass(frozen=True, slots=True)
class Drip(Outcome):
    """The reply in pieces, one every `interval_s`, over `total_s` in all. headers: they drip too."""

    total_s: float
    interval_s: float = 0.02
    headers: bool = False


@dataclass(frozen=True, slots=True)
class Hang(Outcome):
    """Nothing for `seconds`, then the connection closes."""

    seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class Reset(Outcome):
    """Connection reset before the headers, or in the middle of the body (of a stream: after its first delta)."""

    mid_body: bool = False


@dataclass(frozen=True, slots=True)
class Lost(Outcome):
    """A batch is accepted, but the reply never comes: the connection is reset after `seconds`."""

    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Held(Outcome):
    """`then`, once `release` is set."""

    release: threading.Event
    then: Outcome = field(default_factory=Answer)


@dataclass(frozen=True, slots=True)
class Broken(Outcome):
    """A stream that breaks off. after: its headers, message_start, first delta, first delta of text or tool input, or
    all but message_stop ("headers", "start", "delta", "text", "stop").
    """

    after: Literal["headers", "start", "delta", "text", "stop"] = field(default="delta", kw_only=True)


@dataclass(frozen=True, slots=True)
class StreamCutClean(Broken):
    """It ends as if it were complete."""


@dataclass(frozen=True, slots=True)
class StreamReset(Broken):
    """Its connection is reset."""


@dataclass(frozen=True, slots=True)
class StreamErrorEvent(Broken):
    """It ends with `event: error`."""

    kind: str = "overloaded_error"


@dataclass(frozen=True, slots=True)
class StreamCutEvent(Broken):
    """It ends, well-formed as HTTP, in the middle of the next event."""


def error_reply(error: Error) -> Reply:
    """The reply of an `Error`; `stamp` adds the request id."""
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.x_should_retry is not None:
        headers["x-should-retry"] = str(error.x_should_retry).lower()
    usual = "api_error" if error.status >= 500 else "invalid_request_error"
    return json_reply(_error_body(error.kind or _KINDS.get(error.status, usual), error), error.status, headers)


def _error_body(kind: str, error: Error) -> dict[str, Any]:
    details = {"details": {"error_code": error.code}} if error.code else {}
    return {"type": "error", "error": {"type": kind, "message": error.message, **details}}


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """A reply of one JSON value."""
    body = json.dumps(value).encode()
    return Reply(status, body, {"content-type": "application/json", **(headers or {})})


def message_reply(message: Mapping[str, Any], outcome: Outcome, *, stream: bool) -> Reply:
    """The reply that carries `message`, whole or spoiled by `outcome`."""
    outcome = _as_stream(outcome) if stream else outcome
    if not stream and isinstance(outcome, Broken):
        raise TypeError(f"{outcome} does not fit a call with stream={stream}")
    shown = {**message, "model": outcome.served or message["model"]}
    reply = _stream_reply(shown, outcome) if stream else json_reply(shown)
    if isinstance(outcome, CutJson) and isinstance(reply.body, bytes):
        reply.body = reply.body[: len(reply.body) // 2]
    if isinstance(outcome, Drip):
        reply.drip_s, reply.interval_s, reply.drip_head = outcome.total_s, outcome.interval_s, outcome.headers
    reply.reset = isinstance(outcome, (Reset, StreamReset))
    return reply


def told(message: Mapping[str, Any], outcome: Outcome, *, stream: bool) -> Mapping[str, Any] | None:
    """`message` with the usage and content that a caller whose reply `outcome` spoiled was told of; None: nothing."""
    outcome = _as_stream(outcome) if stream else outcome
    if isinstance(outcome, Lost | CutJson) or (isinstance(outcome, Reset) and not stream):
        return None
    if not stream:
        return message
    sent = _sent(list(events(message)), outcome)
    if sent and "message_delta" in [event["type"] for event in sent]:
        return message
    return {**message, "usage": sent[0]["message"]["usage"], "stop_reason": None} if sent else None


def _as_stream(outcome: Outcome) -> Outcome:
    return StreamCutEvent(after="start") if isinstance(outcome, CutJson) else outcome


def _stream_reply(message: Mapping[str, Any], outcome: Outcome) -> Reply:
    whole = list(events(message))
    said = _sent(whole, outcome)
    pieces = [_event(event) for event in said]
    if isinstance(outcome, StreamErrorEvent):
        pieces.append(_event({"type": "error", "error": {"type": outcome.kind, "message": "Overloaded"}}))
    if isinstance(outcome, StreamCutEvent):
        following = _event(whole[len(said)])
        pieces.append(following[: len(following) // 2])
    return Reply(200, pieces, {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"})


def _event(event: Mapping[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def _sent(said: list[dict[str, Any]], outcome: Outcome) -> list[dict[str, Any]]:
    """The events that go out before a stream breaks off; all of them where it does not."""
    after = outcome.after if isinstance(outcome, Broken) else "delta" if isinstance(outcome, Reset) else None
    if after is None:
        return said
    shown = ("text_delta", "input_json_delta")
    first = {
        "headers": -1,
        "start": 0,
        "delta": _first(said, lambda delta: True),
        "text": _first(said, lambda delta: delta["type"] in shown),
        "stop": len(said) - 2,
    }
    return said[: first[after] + 1]


def _first(said: list[dict[str, Any]], wanted: Callable[[Any], bool]) -> int:
    deltas = (i for i, e in enumerate(said) if e["type"] == "content_block_delta" and wanted(e["delta"]))
    return next(deltas, 0)


def stamp(reply: Reply, request_id: str, number: int, left: tuple[int, int] | None = None) -> None:
    """Add what every reply carries: ids, and the rate limits. left: requests a minute, and what is left of them."""
    if reply.status >= 400 and isinstance(reply.body, bytes):
        reply.body = json.dumps(json.loads(reply.body) | {"request_id": request_id}).encode()
    ids = {"request-id": request_id, "anthropic-organization-id": "org_fake", "anthropic-workspace-id": "wrkspc_fake"}
    reply.headers = ids | (_rate_limits(number, left) if reply.status < 400 or left else {}) | reply.headers


def _rate_limits(number: int, left: tuple[int, int] | None) -> dict[str, str]:
    reset = (datetime.now(UTC) + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    limits = {"requests": 5000, "tokens": 6_000_000, "input-tokens": 5_000_000, "output-tokens": 1_000_000}
    headers: dict[str, str] = {}
    for name, limit in limits.items():
        used = number if name == "requests" else 1000 * number
        if name == "requests" and left:
            limit, used = left[0], left[0] - left[1]
        values = {"limit": str(limit), "remaining": str(max(0, limit - used)), "reset": reset}
        headers |= {f"anthropic-ratelimit-{name}-{key}": value for key, value in values.items()}
    return headers
