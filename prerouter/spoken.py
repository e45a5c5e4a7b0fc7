"""Replies that no model gave as they are: a clarifying question, a word about a person, the answer of a plan."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prerouter.reading import Reading
from prerouter.records import Usage
from prerouter.taxonomy import Taxonomy

PREROUTER = "prerouter"  # the model that such a reply names
_NONE = Usage()


class Spoken:
    """A reply made here, as a ticket of the engine. message: a Message as JSON."""

    def __init__(self, message: dict[str, Any], now: float) -> None:
        self.message = message
        self.reading = Reading(stream=False, began_s=now)
        self.reading.opened(200, {})
        self.reading.feed(json.dumps(message).encode(), now)
        self.reading.ended(now)

    def drop(self) -> None:
        """There is no connection."""

    def body(self, *, stream: bool) -> bytes:
        """What the API would have sent."""
        return b"".join(_events(self.message)) if stream else self.reading.body


def said(
    text: str | Sequence[str], request_id: str, now: float, *, usage: Usage = _NONE, model: str = PREROUTER
) -> Spoken:
    """A reply of one or several texts."""
    texts = [text] if isinstance(text, str) else text
    message = {
        "id": f"msg_prerouter_{request_id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": text, "citations": None} for text in texts],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "usage": _usage(usage),
    }
    return Spoken(message, now)


def question(taxonomy: Taxonomy, labels: Sequence[str], asked: str) -> str:
    """The clarifying question: the classifier's own, else one made of the labels that it wavers between."""
    if asked.strip():
        return asked.strip()
    told = [taxonomy.label(name) for name in dict.fromkeys(labels)]
    lines = [f"{i}. {label.name}: {label.definition}" for i, label in enumerate(told, start=1)]
    return "\n".join(["I am not sure what you need. Which of these is it?", *lines])


def _usage(usage: Usage) -> dict[str, Any]:
    short, long = usage.cache_write_5m_tokens, usage.cache_write_1h_tokens
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "cache_creation_input_tokens": short + long,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
    }


def _events(message: Mapping[str, Any]) -> Iterator[bytes]:
    """The message as server-sent events, in the API's order (CLAUDE_API.md, section 5)."""
    start = {**message, "content": [], "stop_reason": None, "usage": {**message["usage"], "output_tokens": 0}}
    yield _event({"type": "message_start", "message": start})
    for index, block in enumerate(message["content"]):
        yield _event({"type": "content_block_start", "index": index, "content_block": {**block, "text": ""}})
        delta = {"type": "text_delta", "text": block["text"]}
        yield _event({"type": "content_block_delta", "index": index, "delta": delta})
        yield _event({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield _event({"type": "message_delta", "delta": delta, "usage": message["usage"]})
    yield _event({"type": "message_stop"})


def _event(event: Mapping[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
