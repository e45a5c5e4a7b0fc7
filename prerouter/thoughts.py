"""Thinking blocks of a conversation: which turn is unfinished, whose blocks stand in it, and a body without others'.

Since Claude 5.1 a thinking block can be read by the model that made it and by few others, and only while nothing
before it has changed (platform.claude.com, "Preserved thinking"). Hence each model is always shown the same view of a
conversation: its own blocks, in their places, and nobody else's. Within an unfinished tool loop nothing is taken out:
the API wants the blocks of the turn back as they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Block = Mapping[str, Any]
KINDS = ("thinking", "redacted_thinking")
_GIST_CHARS = 4_000  # of a message are enough to know it again; its length is compared too


def messages_of(body: Mapping[str, Any]) -> list[Any]:
    """The messages of a body; none when they are not a list."""
    messages = body.get("messages")
    return messages if isinstance(messages, list) else []


def role(message: object) -> str:
    """The role of a message, or ""."""
    return str(message.get("role")) if isinstance(message, Mapping) else ""


def blocks(message: object) -> list[Block]:
    """The content blocks of a message; none when it is a string."""
    content = message.get("content") if isinstance(message, Mapping) else None
    return [block for block in content if isinstance(block, Mapping)] if isinstance(content, list) else []


def thinking(messages: Sequence[object]) -> list[Block]:
    """All thinking blocks in these messages."""
    said = (message for message in messages if role(message) == "assistant")
    return [block for message in said for block in blocks(message) if block.get("type") in KINDS]


def unfinished(messages: Sequence[object]) -> int:
    """Where the unfinished turn begins: after the last user message that brings no tool result; len(messages) if none.

    Unfinished is a turn whose tools were just answered, or that ends with the assistant's own words (a paused turn, a
    prefill).
    """
    end = len(messages)
    while end and role(messages[end - 1]) == "system":
        end -= 1
    if not end or _asks(messages[end - 1]):
        return len(messages)
    while end and not _asks(messages[end - 1]):
        end -= 1
    return end


def stamp(block: Block) -> bytes:
    """What a thinking block is known by."""
    return _digest(str(block.get("signature") or block.get("data") or ""))


def gist(message: object) -> bytes:
    """What a message is known by when it comes back: its words and the ids of its tool calls, without thoughts."""
    content = message.get("content") if isinstance(message, Mapping) else None
    said = content if isinstance(content, str) else "\n".join(filter(None, map(_said, blocks(message))))
    return _digest(f"{len(said)} {said[:_GIST_CHARS]}")


def without(messages: list[Any], before: int, foreign: Callable[[Block], bool]) -> tuple[list[Any], int]:
    """`messages` without the thinking blocks before the place `before` that are `foreign`; and how many those were.

    A message of which nothing is left goes too: the API takes no empty ones. The same list when nothing was foreign.
    """
    kept: list[Any] = []
    gone = 0
    for message in messages[:before]:
        out = {id(block) for block in thinking([message]) if foreign(block)}
        rest = [block for block in message["content"] if id(block) not in out] if out else None
        gone += len(out)
        if rest is None or rest:
            kept.append(message if rest is None else {**message, "content": rest})
    return (kept + messages[before:], gone) if gone else (messages, 0)


def _asks(message: object) -> bool:
    """Whether this is a user message without tool results: the begin of a turn."""
    return role(message) == "user" and not any(b.get("type") == "tool_result" for b in blocks(message))


def _said(block: Block) -> str:
    kind = str(block.get("type"))
    if kind == "text":
        return str(block.get("text"))
    return "" if kind in KINDS else f"[{kind} {block.get('id') or block.get('tool_use_id')}]"


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
