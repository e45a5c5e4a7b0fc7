"""How many tokens the prompt of a Messages body has, from its characters: no tokenizer of Claude is public.

An estimate of whether it fits and of what it costs; what was billed is in the usage of the reply.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prerouter.tiers import Lifetime, Model

# Characters per token of Claude 4.6 and earlier: English prose, as in settings.CostSettings. Every byte of UTF-8 beyond
# one per character counts half a token: one for a Chinese character, half for a Cyrillic or Arabic letter, and more.
CHARS_PER_TOKEN, TOKENS_PER_EXTRA_BYTE = 4.0, 0.5
MESSAGE_TOKENS = 4  # role and borders of a message
KEY_TOKENS = 2  # a key of a JSON object, with its punctuation
IMAGE_TOKENS = 1_600  # one of 1,100 pixels squared or more; smaller ones take less, on 5.x large ones up to three times
PDF_CHARS_PER_TOKEN = 22  # of base64: pages of some 50 kB with some 1,700 tokens of text and picture each
FILE_TOKENS = 30_000  # a document that only its address is known of: some ten pages
# The estimate may be this much above what the API counts: code, tables and logs have fewer tokens than they seem.
LEAST_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class Size:
    """text: tokens of all text, in the tokenizer of 4.6 and earlier. media: tokens of images and documents.

    forced_tool, tools: whether the request has tools, and must use one. write: lifetime of its longest cache mark.
    """

    text: int
    media: int
    tools: bool = False
    forced_tool: bool = False
    write: Lifetime | None = None

    def prompt_tokens(self, model: Model) -> int:
        """The prompt in `model`'s own tokens, with what tools add to it."""
        hidden = model.forced_tool_prompt_tokens if self.forced_tool else model.tool_prompt_tokens
        return math.ceil(self.text * model.tokens_per_text) + self.media + (hidden or 0 if self.tools else 0)

    def least(self, model: Model) -> int:
        """Tokens that the prompt has for certain."""
        return int(self.prompt_tokens(model) * LEAST_SHARE)


def measure(body: Mapping[str, Any]) -> Size:
    """The size of a body as the SDK sends it. Linear in its length, whatever it holds."""
    tally = _Tally()
    output = body.get("output_config")
    tools = body.get("tools") if isinstance(body.get("tools"), list) else None
    tally.add(body.get("system"), body.get("messages"))
    tally.text += _written(tools) + _written(output.get("format") if isinstance(output, dict) else None)
    for holder in (body, *(tools or ())):
        tally.mark(holder)
    choice = body.get("tool_choice")
    forced = isinstance(choice, dict) and choice.get("type") in ("any", "tool")
    write: Lifetime | None = "1h" if "1h" in tally.marks else "5m" if tally.marks else None
    return Size(math.ceil(tally.text), tally.media, bool(tools), forced, write)


class _Tally:
    """Adds up JSON values. With a stack of its own: values may be nested deeper than Python's calls may."""

    def __init__(self) -> None:
        self.text, self.media, self.marks = 0.0, 0, set[str]()

    def add(self, *values: object) -> None:
        stack = list(values)
        while stack:
            value = stack.pop()
            if isinstance(value, str):
                self.text += _tokens(value)
            elif isinstance(value, list | tuple):
                stack += value
            elif isinstance(value, dict):
                stack += self._inside(value)
            elif value is not None:
                self.text += 1

    def mark(self, holder: object) -> None:
        """Note the cache mark of a block, a tool or a body."""
        mark = holder.get("cache_control") if isinstance(holder, Mapping) else None
        if isinstance(mark, Mapping):
            self.marks.add(str(mark.get("ttl") or "5m"))

    def _inside(self, value: dict[str, Any]) -> list[Any]:
        """What of an object is text that the model reads."""
        if "cache_control" in value:
            self.mark(value)
        kind = value.get("type")
        if kind in ("thinking", "redacted_thinking"):
            hidden = _length(value.get("signature")) + _length(value.get("data"))  # base64, four characters for three
            self.text += max(_length(value.get("thinking")), hidden * 3 // 4) / CHARS_PER_TOKEN
            return []
        if kind in ("image", "document") and isinstance(value.get("source"), dict):
            return self._media(value, value["source"])
        if isinstance(value.get("role"), str) and "content" in value:
            self.text += MESSAGE_TOKENS
            return [value["content"]]
        if kind == "text" and "text" in value:
            return [value["text"]]
        if kind == "tool_use":
            self.text += _written(value.get("input"))
            return []
        self.text += len(value) * KEY_TOKENS
        return [item for key, item in value.items() if key != "cache_control"]

    def _media(self, block: dict[str, Any], source: dict[str, Any]) -> list[Any]:
        kind = source.get("type")
        if block["type"] == "image":
            self.media += IMAGE_TOKENS
        elif kind == "base64":
            self.media += _length(source.get("data")) // PDF_CHARS_PER_TOKEN
        elif kind in ("url", "file"):
            self.media += FILE_TOKENS
        else:
            return [block.get("title"), block.get("context"), source.get("data"), source.get("content")]
        return [block.get("title"), block.get("context")]


def _tokens(text: str) -> float:
    extra = 0 if text.isascii() else len(text.encode("utf-8", "surrogatepass")) - len(text)
    return len(text) / CHARS_PER_TOKEN + extra * TOKENS_PER_EXTRA_BYTE


def _length(value: object) -> int:
    return len(value) if isinstance(value, str) else 0


def _written(value: object) -> float:
    """Tokens of a value that the model sees as JSON. What cannot be written is not sent either."""
    try:
        return _tokens(json.dumps(value, ensure_ascii=False)) if value else 0.0
    except (TypeError, ValueError, RecursionError):
        return 0.0
