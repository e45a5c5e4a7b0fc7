"""One response of the Messages API as it comes in, read without IO: what it says, and whether it is whole.

A stream's bytes are looked at, never changed. Held back is what comes before its first content: until then the request
can still be sent elsewhere (`Reading.ready`). Content is a delta with something in it, or the start of a block that is
neither text nor thinking; a signature is none, so that an answer which is all thinking can still be replaced.

A specialist may give its request back (`Reading.given_back`): by the tool `escalate`, or by {"escalate": true, ...} for
its whole answer. Where it may, a stream is held back until its first block after thinking shows that it is neither.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

Way = Literal["tool", "text"]  # how a request is given back
State = Literal["waiting", "ready", "over"]

MAX_ERROR_BYTES = 2**20  # of an error's body that are read; the API's are below 1 kB
ESCALATE = "escalate"  # the tool that gives a request back, and the key of the JSON that does
_GIVEN_BACK = '{"escalate":true'
_FENCE_CHARS = 12  # of a line that opens a code block, at most
_HELD = ("text", "thinking", "redacted_thinking")  # blocks whose start shows nothing to the caller
_DELTAS = ("text", "thinking", "partial_json", "citation")
_TOLD = frozenset((b"message_start", b"content_block_start", b"message_delta", b"message_stop", b"error"))
_UNREAD = (b"", b"ping")  # events that the SDK passes over; of all others it takes the data for JSON


class Reading:
    """What has come of one response.

    state: "waiting", "ready" (a stream has shown content, or is over), "over" (nothing more comes). status: of HTTP, 0
    without a response. message: the answer, of a stream what its events said of it without the texts. fault: the name
    of what went wrong on the way, None if nothing did. began_s, content_s, ended_s: when, on the caller's clock.
    guard: the ways in which this answer may give its request back.
    """

    def __init__(self, *, stream: bool, began_s: float, guard: tuple[Way, ...] = ()) -> None:
        self.stream, self.began_s, self.guard = stream, began_s, guard
        self.state: State = "waiting"
        self.status, self.headers = 0, dict[str, str]()
        self.message: dict[str, Any] | None = None
        self.error: dict[str, Any] = {}
        self.fault: str | None = None
        self.content_s: float | None = None
        self.ended_s: float | None = None
        self.whole = False
        self._body, self._events = bytearray(), _Events()

    @property
    def succeeded(self) -> bool:
        """The API took the request, whatever became of the answer."""
        return 200 <= self.status < 300

    @property
    def content(self) -> list[dict[str, Any]]:
        """The answer's content blocks; of a stream without their texts."""
        return [block for block in (self.message or {}).get("content") or () if isinstance(block, dict)]

    @property
    def text(self) -> str:
        """What the answer's text blocks say so far."""
        blocks = (block for block in self.content if block.get("type") == "text")
        return "".join("".join(block.get("text parts") or [block.get("text") or ""]) for block in blocks)

    @property
    def given_back(self) -> str | None:
        """Why the request was given back, "" if that was not said; None when it was not. Of whole answers only."""
        for block in self.content if "tool" in self.guard and self.whole else ():
            if block.get("type") == "tool_use" and block.get("name") == ESCALATE:
                return _reason(block.get("input") or _json(str(block.get("partial_json")).encode()))
        if "text" not in self.guard or not self.whole or not _may_give_back(self.text):
            return None
        said = _json(self.text.strip().strip("`").removeprefix("json").strip().encode())
        return _reason(said) if said.get(ESCALATE) is True else None

    @property
    def _undecided(self) -> bool:
        """Whether what has come so far may still become a request given back."""
        shown = [block for block in self.content if block.get("type") not in ("thinking", "redacted_thinking")]
        if not self.guard or not shown:
            return bool(self.guard)
        if shown[0].get("type") == "tool_use":
            return "tool" in self.guard and shown[0].get("name") == ESCALATE
        return shown[0].get("type") == "text" and "text" in self.guard and _may_give_back(self.text)

    @property
    def error_code(self) -> str | None:
        """The API's code of an error, where there is one."""
        details = self.error.get("details")
        code = details.get("error_code") if isinstance(details, dict) else None
        return code if isinstance(code, str) else None

    @property
    def body(self) -> bytes:
        """All of a response that is no stream."""
        return bytes(self._body)

    @property
    def has_output(self) -> bool:
        """Whether there is anything but thinking in the answer."""
        return any(block.get("type") not in ("thinking", "redacted_thinking") for block in self.content)

    def opened(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of the response came."""
        self.status, self.headers = status, {name.lower(): value for name, value in headers.items()}

    def feed(self, chunk: bytes, now: float) -> bool:
        """More of the body came. False where it broke the stream, which is then over."""
        if not (self.stream and self.succeeded):
            room = len(chunk) if self.succeeded else max(0, MAX_ERROR_BYTES - len(self._body))
            self._body += chunk[:room]
            return True
        events = ((name, data) for name, data in self._events.feed(chunk) if data and name not in _UNREAD)
        if not all(self._event(name, data) for name, data in events):
            self.broke("an event is no JSON object", now)
            return False
        if self.content_s is None and ((self._shown and not self._undecided) or self.error):
            self.content_s, self.state = now, "ready"
        return True

    def ended(self, now: float) -> None:
        """The body ended as HTTP wants it."""
        self._over(now)
        if self.stream and self.succeeded:
            self.fault = self.fault or (None if self.whole or self.error else "the stream ended without message_stop")
            return
        value = _json(self._body)
        if not self.succeeded:
            error = value.get("error")
            self.error = error if isinstance(error, dict) else {}
        elif value.get("type") == "message" and isinstance(value.get("content"), list) and value.get("stop_reason"):
            self.message, self.whole = value, True
        else:
            self.fault = "the body is no whole message"

    def broke(self, what: str, now: float) -> None:
        """The response broke off, or none came. what: a name, never a text of the caller's."""
        self.fault = self.fault or what
        self._over(now)

    def _over(self, now: float) -> None:
        self.state, self.ended_s = "over", now

    _shown = False

    def _event(self, name: bytes, data: bytes) -> bool:
        """Take an event in; False when it is none."""
        event = _json(data)
        if name == b"content_block_delta":
            self._delta(event)
        elif name in _TOLD:
            self._told(event)
        return bool(event)

    def _delta(self, event: dict[str, Any]) -> None:
        delta, index, blocks = event.get("delta"), event.get("index"), self.content
        if not isinstance(delta, dict):
            return
        self._shown = self._shown or any(delta.get(key) for key in _DELTAS)
        if isinstance(index, int) and 0 <= index < len(blocks):
            # What a conversation is known by when it comes back, and why a request was given back.
            for key in ("text", "signature", *(("partial_json",) if blocks[index].get("name") == ESCALATE else ())):
                if isinstance(delta.get(key), str):
                    blocks[index].setdefault(f"{key} parts", []).append(delta[key])

    def _told(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "message_start" and isinstance(event.get("message"), dict):
            self.message = {**event["message"], "content": []}
        elif kind == "error":
            error = event.get("error")
            self.error = error if isinstance(error, dict) else {"type": "error"}
        elif self.message is not None:
            self._more(self.message, kind, event)

    def _more(self, message: dict[str, Any], kind: object, event: dict[str, Any]) -> None:
        if kind == "content_block_start" and isinstance(event.get("content_block"), dict):
            message["content"].append(event["content_block"])
            self._shown = self._shown or event["content_block"].get("type") not in _HELD
        elif kind == "message_delta":
            message.update(event["delta"] if isinstance(event.get("delta"), dict) else {})
            told = event["usage"] if isinstance(event.get("usage"), dict) else {}
            message["usage"] = (message.get("usage") or {}) | {k: v for k, v in told.items() if v is not None}
        elif kind == "message_stop":
            self.whole = True
            for block in self.content:
                for key in ("text", "signature", "partial_json"):
                    if parts := block.pop(f"{key} parts", None):
                        block[key] = "".join(parts)


class _Events:
    """Server-sent events out of chunks of bytes (WHATWG HTML, section 9.2.6): pairs of event name and data."""

    def __init__(self) -> None:
        self._line, self._after_cr = bytearray(), False
        self._name, self._data = b"", list[bytes]()

    def feed(self, chunk: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The events that `chunk` completes."""
        if self._after_cr and chunk.startswith(b"\n"):  # a line end that two chunks share
            chunk = chunk[1:]
        self._after_cr = chunk.endswith(b"\r") if chunk else self._after_cr
        *lines, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._line += line
            done, self._line = bytes(self._line), bytearray()
            if done:
                self._field(done)
            elif self._name or self._data:
                yield self._name, b"\n".join(self._data)
                self._name, self._data = b"", []
        self._line += rest

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if name == b"event":
            self._name = value
        elif name == b"data":
            self._data.append(value)


def _may_give_back(text: str) -> bool:
    """Whether `text`, which may go on, is or begins the JSON that gives a request back; in a code block, too."""
    text = text.lstrip()
    if text.startswith("`"):
        line, end, rest = text.partition("\n")
        if len(line) > _FENCE_CHARS:
            return False
        text = rest if end else ""
    begun = re.sub(r"\s", "", text[: 4 * len(_GIVEN_BACK)])[: len(_GIVEN_BACK)]
    return _GIVEN_BACK.startswith(begun)


def _reason(said: object) -> str:
    reason = said.get("reason") if isinstance(said, dict) else None
    return reason if isinstance(reason, str) else ""


def _json(data: bytes | bytearray) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
