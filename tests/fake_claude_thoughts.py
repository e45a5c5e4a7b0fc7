"""Thinking blocks of the fake Claude: signed for a model and for what came before them, and checked when they return.

Transcribed from notes of 2026-11-20 on the Claude API; where they leave a choice ("dropped silently or 400 after
edits") the strict side is taken. Nothing is remembered: signatures and the ids of tool calls carry what is checked.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fake_claude_models import Model
from fake_claude_shapes import Rejected

Body = Mapping[str, Any]
TIED = ("-5-5", "-5-1", "-5-2")  # families whose blocks are tied to the model and to unedited history
THOUGHTS = ("thinking", "redacted_thinking")
_KEY = b"fake-claude"


def sign(body: Body, model: Model, thought: str) -> str:
    """The signature of a thought that answers `body`."""
    return _sealed({"model": model.id, "before": _prefix(body, body["messages"]), "thought": _digest(thought)})


def call_id(body: Body, thoughtful: bool, number: int = 0) -> str:
    """Id of a tool call, new in its conversation; says whether a thinking block stands before the call."""
    return f"toolu_fake{len(body['messages'])}x{number}{'t' if thoughtful else ''}"


def check_thoughts(body: Body, model: Model) -> None:
    """Raise Rejected for a thinking block that this model may not be given, and for one that a tool loop lacks."""
    thinking = (body.get("thinking") or {}).get("type", "adaptive" if model.thinks else "disabled") != "disabled"
    for i, j, block in _blocks(body["messages"]):
        if block["type"] == "thinking":
            _check(body, i, f"messages.{i}.content.{j}", block, model)
    if thinking:
        _check_loop(body["messages"])


def _check(body: Body, i: int, path: str, block: Mapping[str, Any], model: Model) -> None:
    told = _opened(block["signature"])
    if told is None or (block["thinking"] and told["thought"] != _digest(block["thinking"])):
        raise Rejected(f"{path}: Invalid `signature` in `thinking` block")
    tied = model.id.endswith(TIED) or told["model"].endswith(TIED)
    if told["model"] != model.id and tied:
        raise Rejected(f"{path}: this `thinking` block was produced by another model")
    if tied and told["before"] != _prefix(body, body["messages"][:i]):
        raise Rejected(f"{path}: this `thinking` block belongs to a different conversation")


def _check_loop(messages: Sequence[Any]) -> None:
    """Within an open tool loop every call that came after a thought still comes after one."""
    if messages[-1]["role"] != "user" or not _of(messages[-1], "tool_result"):
        return
    for i in range(len(messages) - 1, -1, -1):
        message = messages[i]
        if message["role"] == "user" and not _of(message, "tool_result"):
            return  # where the turn began
        calls = [call["id"] for call in _of(message, "tool_use")]
        thought = any(name.startswith("toolu_fake") and name.endswith("t") for name in calls)
        if thought and not any(_of(message, kind) for kind in THOUGHTS):
            raise Rejected(
                f"messages.{i}: `thinking` or `redacted_thinking` blocks in the latest assistant message cannot be "
                "modified. These blocks must remain as they were in the original response."
            )


def _blocks(messages: Sequence[Any]) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    for i, message in enumerate(messages):
        if isinstance(message["content"], list):
            yield from ((i, j, block) for j, block in enumerate(message["content"]))


def _of(message: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    content = message["content"]
    return [block for block in content if block["type"] == kind] if isinstance(content, list) else []


def _prefix(body: Body, messages: Sequence[Any]) -> str:
    """Digest of system prompt, tools and messages, without cache marks, other thinking blocks and empty fields."""
    kept = [{"role": m["role"], "content": _plain(m["content"])} for m in messages]
    return _digest(json.dumps([_plain(body.get("system")), _plain(body.get("tools")), kept], sort_keys=True))


def _plain(node: Any) -> Any:
    if isinstance(node, str):
        return [{"type": "text", "text": node}]
    if not isinstance(node, list):
        return node
    kept = [block for block in node if not (isinstance(block, dict) and block.get("type") in THOUGHTS)]
    return [
        {k: v for k, v in b.items() if k != "cache_control" and v is not None} if isinstance(b, dict) else b
        for b in kept
    ]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _sealed(told: Mapping[str, str]) -> str:
    raw = json.dumps(told, sort_keys=True).encode()
    return base64.b64encode(hashlib.sha256(_KEY + raw).digest()[:8] + raw).decode()


def _opened(signature: str) -> dict[str, str] | None:
    try:
        sealed = base64.b64decode(signature, validate=True)
    except ValueError:
        return None
    if hashlib.sha256(_KEY + sealed[8:]).digest()[:8] != sealed[:8]:
        return None
    told: dict[str, str] = json.loads(sealed[8:])
    return told
