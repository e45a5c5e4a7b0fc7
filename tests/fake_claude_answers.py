"""What the fake Claude says unscripted, and the Message around it: thinking, usage, prompt cache, stream of events."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fake_claude_models import Model
from fake_claude_rules import blocks, effort, forced, response_format
from fake_claude_thoughts import call_id, sign

Body = Mapping[str, Any]
CHARS_PER_TOKEN = 4  # of the tokenizer of 4.6 and earlier; a rough estimate that only has to be plausible
THINKING_TOKENS = {"low": 60, "medium": 150, "high": 300, "xhigh": 600, "max": 1200}
_BLOCK_TOKENS = 4  # markup around each block
_TOOL_TOKENS, _FORCED_TOOL_TOKENS, _FORMAT_TOKENS = 290, 410, 60  # hidden prompts; that of formats: size [?]
_KEYWORDS = {
    "complex": ("prove", "architecture", "design", "debug", "refactor", "optimi", "concurren", "trade-off"),
    "moderate": ("summar", "explain", "compare", "write", "analy", "function"),
}


_EXAMPLES = {
    "string": "text",
    "integer": 1,
    "number": 0.9,
    "boolean": True,
    "null": None,
    "date-time": "2026-11-20T12:00:00Z",
    "time": "12:00:00Z",
    "date": "2026-11-20",
    "duration": "PT1H",
    "email": "someone@example.com",
    "hostname": "example.com",
    "uri": "https://example.com/",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


@dataclass(frozen=True, slots=True)
class Draft:
    """What the model says, before thinking and max_tokens shape it into a Message. stop_reason None: by content."""

    content: tuple[dict[str, Any], ...]
    stop_reason: str | None = None
    stop_details: dict[str, Any] | None = None


def say(text: str) -> tuple[dict[str, Any], ...]:
    """Content of one text block."""
    return ({"type": "text", "text": text, "citations": None},)


def use_tool(name: str, value: Any, body: Body, number: int = 0) -> tuple[dict[str, Any], ...]:
    """Content of one tool_use block; `message` gives it its id. number: of several calls in one answer."""
    return ({"type": "tool_use", "id": number, "name": name, "input": value},)


def default_answer(body: Body) -> str:
    """A sane answer: JSON of the asked shape with a label by keywords and confidence 0.9, else one sentence."""
    schema = response_format(body)
    if schema is None:
        return "A simulated answer."
    text = last_user_text(body).lower()
    wanted = next((name for name, words in _KEYWORDS.items() if any(word in text for word in words)), None)
    return json.dumps(conform(schema, schema, wanted))


def last_user_text(body: Body) -> str:
    """Text of the last user message."""
    last = next(message for message in reversed(body["messages"]) if message["role"] == "user")
    return "\n".join(block["text"] for block in blocks(last) if block["type"] == "text")


def conform(schema: Any, root: Any, wanted: str | None = None) -> Any:
    """The smallest value that has this schema; enums take `wanted` if they list it.

    `pattern` is not honoured; of what only tools without `strict` may use, neither.
    """
    if not isinstance(schema, Mapping):
        return None
    if "$ref" in schema:
        place, _, name = schema["$ref"].rpartition("/")
        return conform(root.get(place.removeprefix("#/"), {}).get(name), root, wanted)
    if "enum" in schema or "const" in schema:
        values = schema.get("enum") or [schema["const"]]
        return wanted if wanted in values else values[0]
    if "anyOf" in schema:
        return conform(schema["anyOf"][0], root, wanted)
    if "allOf" in schema:
        parts = [conform(part, root, wanted) for part in schema["allOf"]]
        return {k: v for part in parts for k, v in part.items()} if isinstance(parts[0], dict) else parts[0]
    return _of_type(schema, root, wanted)


def _of_type(schema: Mapping[str, Any], root: Any, wanted: str | None) -> Any:
    declared = schema.get("type", "null")
    kind = declared[0] if isinstance(declared, list) else declared
    if kind == "object":
        properties, required = schema.get("properties") or {}, schema.get("required") or ()
        return {name: conform(value, root, wanted) for name, value in properties.items() if name in required}
    if kind == "array":
        return [conform(schema.get("items"), root, wanted)] if schema.get("minItems") else []
    return _EXAMPLES.get(schema.get("format", kind), _EXAMPLES.get(kind))


def tokens(chars: int, model: Model) -> int:
    """Estimated tokens of a text."""
    return math.ceil(chars / CHARS_PER_TOKEN * model.tokens_per_text)


def thinks(body: Body, model: Model) -> bool:
    """Whether the answer begins with a thinking block."""
    kind = (body.get("thinking") or {}).get("type", "adaptive" if model.thinks else "disabled")
    return kind in ("adaptive", "enabled") and not forced(body)


class PromptCache:
    """Prompt caching: exact prefixes per model, written at marks, found from up to 20 blocks after them.

    A prefix below the model's minimum is not cached. Entries do not expire here.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    def usage(self, body: Body, model: Model) -> dict[str, Any]:
        """Input side of `usage`; what it counts as written is read by the next call."""
        total, prefixes = _prompt(body, model)
        marks = [i for i, (_, size, ttl) in enumerate(prefixes) if ttl and size >= model.min_cacheable]
        near = (prefixes[j] for i in marks for j in range(max(0, i - 20), i + 1))
        read = done = max((size for key, size, _ in near if key in self._known), default=0)
        written = {"5m": 0, "1h": 0}
        for key, size, ttl in (prefixes[i] for i in marks):
            written[ttl or "5m"] += max(0, size - done)
            done = max(size, done)
            self._known.add(key)
        return {
            "input_tokens": total - done,
            "cache_creation_input_tokens": sum(written.values()),
            "cache_read_input_tokens": read,
            "cache_creation": {f"ephemeral_{ttl}_input_tokens": n for ttl, n in written.items()},
        }


def input_tokens(body: Body, model: Model) -> int:
    """Estimated tokens of the whole prompt."""
    return _prompt(body, model)[0]


def _prompt(body: Body, model: Model) -> tuple[int, list[tuple[str, int, str | None]]]:
    """Tokens of the whole prompt, and (key, tokens, ttl of the mark on it) of the prefix that ends at each block."""
    count = _hidden_tokens(body)
    digest = hashlib.sha256(json.dumps([model.id, response_format(body)], sort_keys=True).encode())
    prefixes: list[tuple[str, int, str | None]] = []
    for place, part in _parts(body):
        bare = {name: value for name, value in part.items() if name != "cache_control"}
        digest.update(json.dumps([place, bare], sort_keys=True).encode())
        count += _BLOCK_TOKENS + tokens(_chars(part), model)
        prefixes.append((digest.hexdigest(), count, _ttl(part)))
    if prefixes and _ttl(body):
        key, size, own = prefixes[-1]
        prefixes[-1] = (key, size, own or _ttl(body))
    return count, prefixes


def _ttl(part: Body) -> str | None:
    mark = part.get("cache_control")
    return mark.get("ttl", "5m") if mark else None


def _parts(body: Body) -> Iterator[tuple[Any, Body]]:
    """Blocks in the order of the cache, with what else their prefix depends on."""
    yield from (("tools", tool) for tool in body.get("tools", ()))
    system = body.get("system", ())
    for block in [{"type": "text", "text": system}] if isinstance(system, str) else system:
        yield "system", block
    settings = [body.get("tool_choice"), body.get("thinking"), (body.get("output_config") or {}).get("effort")]
    for turn in body["messages"]:
        yield from (([turn["role"], settings], block) for block in blocks(turn))


def _hidden_tokens(body: Body) -> int:
    tools = (_FORCED_TOOL_TOKENS if forced(body) else _TOOL_TOKENS) if body.get("tools") else 0
    return 3 + tools + (_FORMAT_TOKENS if response_format(body) else 0)


def _chars(node: Any) -> int:
    if isinstance(node, str):
        return len(node)
    if isinstance(node, Mapping):  # pictures and files count as about 1,500 tokens, whatever their size
        return sum(6000 if key in ("data", "file_id") else _chars(value) for key, value in node.items())
    return sum(map(_chars, node)) if isinstance(node, Sequence) else 1


def default_draft(body: Body, answer: Callable[[Body], Mapping[str, Any] | str]) -> Draft:
    """The unscripted answer: a tool call when one is forced, else what `answer` says."""
    if forced(body):
        wanted = body["tool_choice"].get("name")
        tool = next(tool for tool in body["tools"] if wanted in (None, tool.get("name")))
        schema = tool.get("input_schema", {"type": "object"})
        return Draft(use_tool(tool.get("name", "tool"), conform(schema, schema), body))
    said = answer(body)
    return Draft(say(said if isinstance(said, str) else json.dumps(said)))


def message(body: Body, model: Model, draft: Draft, usage: dict[str, Any], message_id: str) -> dict[str, Any]:
    """The Message: thinking first if the model thinks, everything within max_tokens."""
    limit = body["max_tokens"]
    silent = not draft.content and draft.stop_reason != "max_tokens"  # refused before any output, empty end_turn
    thought = min(THINKING_TOKENS[effort(body, model)], limit) if thinks(body, model) and not silent else 0
    said, used, cut = _fit(draft.content, limit - thought, model)
    stop = "max_tokens" if cut else draft.stop_reason
    if stop is None:
        stop = "tool_use" if any(block["type"] == "tool_use" for block in said) else "end_turn"
    said = [_with_id(block, body, thoughtful=bool(thought)) for block in said]
    content = [_thinking_block(body, model), *said] if thought else said
    output = limit if stop == "max_tokens" else thought + used or 2
    spent = {"output_tokens": output, "output_tokens_details": {"thinking_tokens": thought}}
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model.id,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "stop_details": draft.stop_details,
        "usage": usage | spent | {"service_tier": "standard", "inference_geo": body.get("inference_geo")},
    }


def _thinking_block(body: Body, model: Model) -> dict[str, Any]:
    shown = (body.get("thinking") or {}).get("display") == "summarized" or "-4-" in model.id
    thought = "Simulated thoughts."
    return {"type": "thinking", "thinking": thought if shown else "", "signature": sign(body, model, thought)}


def _with_id(block: dict[str, Any], body: Body, *, thoughtful: bool) -> dict[str, Any]:
    if block["type"] != "tool_use" or isinstance(block["id"], str):
        return block
    return block | {"id": call_id(body, thoughtful, block["id"])}


def _fit(content: Sequence[dict[str, Any]], room: int, model: Model) -> tuple[list[dict[str, Any]], int, bool]:
    """What fits into `room` tokens, the tokens it takes, and whether anything was cut."""
    said, used = [], 0
    for block in content:
        size = tokens(_chars(block.get("text") or json.dumps(block.get("input") or block.get("content"))), model)
        if used + size <= room:
            said.append(block)
            used += size
            continue
        chars = int((room - used) * CHARS_PER_TOKEN / model.tokens_per_text)
        part = [block | {"text": block["text"][:chars]}] if "text" in block and chars else []
        return said + part, room, True
    return said, used, False


def events(reply: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The stream of events that adds up to `reply`."""
    usage = dict(reply["usage"])
    begun = usage | {"output_tokens": 1, "output_tokens_details": None}
    start = {**reply, "content": [], "stop_reason": None, "stop_details": None, "usage": begun}
    yield {"type": "message_start", "message": start}
    for index, block in enumerate(reply["content"]):
        empty, deltas = _pieces(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        if index == 0:
            yield {"type": "ping"}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    delta = {name: reply[name] for name in ("stop_reason", "stop_sequence", "stop_details")}
    spent = {name: n for name, n in usage.items() if name.endswith("tokens") or name == "output_tokens_details"}
    yield {"type": "message_delta", "delta": delta, "usage": spent}
    yield {"type": "message_stop"}


def _pieces(block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it starts, and the deltas that fill it."""
    if block["type"] == "thinking":
        shown = [{"type": "thinking_delta", "thinking": block["thinking"]}] if block["thinking"] else []
        signed = {"type": "signature_delta", "signature": block["signature"]}
        return {**block, "thinking": "", "signature": ""}, [*shown, signed]
    if block["type"] == "tool_use":
        parts = _cut(json.dumps(block["input"]))
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": part} for part in parts]
    if block["type"] != "text":  # blocks of server tools, redacted thoughts: whole at their start
        return dict(block), []
    said = [{"type": "text_delta", "text": part} for part in _cut(block["text"])]
    cited = [{"type": "citations_delta", "citation": citation} for citation in block.get("citations") or ()]
    return {**block, "text": "", "citations": [] if cited else None}, said + cited


def _cut(text: str, size: int = 12) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]
