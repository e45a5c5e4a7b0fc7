"""What the Claude API refuses beyond the shape of a body: rules per model, version and between fields.

Transcribed from notes of 2026-11-20 on the Claude API; [3P] marks what rests on third parties, [?] what nobody could
verify: there the strict side is taken. Error texts are close to the real ones; only status and type are reliable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fake_claude_models import Model, find_model
from fake_claude_shapes import COUNT_SHAPE, MESSAGES_SHAPE, OLD_MESSAGES_SHAPE, Rejected, check_schemas
from fake_claude_thoughts import check_thoughts

MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_MESSAGES = 100_000
MAX_CACHE_MARKS = 4
NEW_VERSION = "2026-10-21"  # takes no sampling parameters at all
VERSIONS = ("2023-06-01", NEW_VERSION)


def check_headers(headers: Mapping[str, str], size: int, valid_key: str) -> str:
    """The anthropic-version; raises Rejected for a body of too many bytes, a bad key or a bad version."""
    if size > MAX_BODY_BYTES:
        raise Rejected("Request exceeds the maximum size", 413, "request_too_large")
    bearer = headers.get("authorization", "")
    key = headers.get("x-api-key", bearer[7:] if bearer.lower().startswith("bearer ") else None)  # x-api-key wins [3P]
    if key != valid_key:
        raise Rejected("invalid x-api-key" if key else "an API key is required", 401, "authentication_error")
    version = headers.get("anthropic-version")
    if version not in VERSIONS:
        raise Rejected(f"anthropic-version: {version!r} is not a valid version")
    return version


def check(body: Any, version: str, models: Mapping[str, Model], *, counting: bool = False) -> Model:
    """The model that would serve `body`; raises Rejected for everything the API refuses."""
    shape = COUNT_SHAPE if counting else MESSAGES_SHAPE if version == NEW_VERSION else OLD_MESSAGES_SHAPE
    shape(body, "")
    model = find_model(body["model"], models)
    for rule in (_system, _messages, _tools, _tool_choice, _thinking, _max_tokens, _output, _extras):
        rule(body, model)
    if version == NEW_VERSION:
        _new_version(body)
    else:
        _sampling(body, model)
    _tool_pairs(body["messages"])
    check_thoughts(body, model)
    _cache_marks(body)
    return model


def effort(body: Mapping[str, Any], model: Model) -> str:
    """The effort level in force."""
    return (body.get("output_config") or {}).get("effort") or model.effort


def forced(body: Mapping[str, Any]) -> bool:
    """Whether `tool_choice` forces a tool."""
    return (body.get("tool_choice") or {}).get("type") in ("any", "tool")


def response_format(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The JSON schema that the answer must have."""
    wanted = (body.get("output_config") or {}).get("format")
    return wanted["schema"] if wanted else None


def blocks(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Content of a message as blocks."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _system(body: Any, model: Model) -> None:
    system = body.get("system", ())
    if not isinstance(system, str) and not all(block["text"] for block in system):
        raise Rejected("system: text content blocks must be non-empty")


def _messages(body: Any, model: Model) -> None:
    messages = body["messages"]
    if not messages or len(messages) > MAX_MESSAGES:
        raise Rejected(f"messages: from 1 to {MAX_MESSAGES} messages are required")
    if messages[-1]["role"] == "assistant" and ("prefill" not in model.abilities or response_format(body)):
        raise Rejected(
            "This model does not support assistant message prefill. The conversation must end with a user message."
        )
    for i, message in enumerate(messages):
        _message(message, f"messages.{i}", model, first=i == 0)
        if not message["content"] and not (message["role"] == "assistant" and i == len(messages) - 1):
            raise Rejected(f"messages.{i}: all messages must have non-empty content")


_ASSISTANT_ONLY = ("tool_use", "thinking", "redacted_thinking", "server_tool_use")


def _message(message: Any, path: str, model: Model, *, first: bool) -> None:
    role = message["role"]
    if role == "system" and (first or "system" not in model.abilities):
        raise Rejected(f"{path}.role: Input should be 'user' or 'assistant'")
    for block in blocks(message):
        kind = block["type"]
        if kind == "text" and not block["text"] and message["content"]:
            raise Rejected(f"{path}: text content blocks must be non-empty")
        if role == "system" and kind != "text":
            raise Rejected(f"{path}: system messages take text blocks only")
        if (role == "user" and kind in _ASSISTANT_ONLY) or (role == "assistant" and kind == "tool_result"):
            raise Rejected(f"{path}: `{kind}` blocks cannot be in `{role}` messages")


def _new_version(body: Any) -> None:
    for i, message in enumerate(body["messages"]):
        for block in blocks(message):
            if message["role"] == "assistant" and block["type"] == "document":
                raise Rejected(f"messages.{i}: document blocks are not permitted in assistant messages")
            if message["role"] == "user" and block["type"] == "text" and block.get("citations"):
                raise Rejected(f"messages.{i}: citations are not permitted on user text blocks")


_FIXED = {"temperature": 1, "top_p": 0.99}


def _sampling(body: Any, model: Model) -> None:
    """On 2023-06-01: free up to 4.6, later these two values only ([?] for other models than haiku-5-5)."""
    for name in ("temperature", "top_p", "top_k"):
        value = body.get(name)
        if value is None:
            continue
        if "sampling" not in model.abilities and value != _FIXED.get(name):
            raise Rejected(f"{name}: this value is not supported for this model")
        if value < 0 or (name != "top_k" and value > 1):
            raise Rejected(f"{name}: Input should be from 0 to 1")


def _tool_pairs(messages: list[Any]) -> None:
    """Every tool_use is answered in the next turn, every tool_result answers one of the turn before."""
    seen: set[str] = set()
    open_ids: set[str] = set()
    for i, (role, turn) in enumerate(_turns(messages)):
        if role == "user":
            answered = {block["tool_use_id"] for block in turn if block["type"] == "tool_result"}
            if answered - open_ids:
                raise Rejected(f"turn {i}: unexpected `tool_use_id` in `tool_result` blocks: {answered - open_ids}")
            if open_ids - answered:
                raise Rejected(f"turn {i}: `tool_use` ids without `tool_result` blocks after: {open_ids - answered}")
            open_ids = set()
        else:
            ids = [block["id"] for block in turn if block["type"] == "tool_use"]
            if len({*ids}) < len(ids) or seen & {*ids}:
                raise Rejected(f"turn {i}: `tool_use` ids must be unique")
            open_ids = set(ids)
            seen |= open_ids


def _turns(messages: list[Any]) -> list[tuple[str, list[Any]]]:
    """Consecutive messages of one role are one turn; system messages belong to none."""
    turns: list[tuple[str, list[Any]]] = []
    for message in messages:
        if message["role"] == "system":
            continue
        if not turns or turns[-1][0] != message["role"]:
            turns.append((message["role"], []))
        turns[-1][1].extend(blocks(message))
    return turns


def _tools(body: Any, model: Model) -> None:
    names = [tool["name"] for tool in body.get("tools", ()) if "name" in tool]
    if len(set(names)) < len(names):
        raise Rejected("tools: Tool names must be unique.")
    for i, tool in enumerate(body.get("tools", ())):
        if tool.get("type") not in (None, "custom"):
            continue
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", tool["name"]):
            raise Rejected(f"tools.{i}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
        if tool["input_schema"].get("type") != "object":
            raise Rejected(f"tools.{i}.custom.input_schema.type: Input should be 'object'")


def _tool_choice(body: Any, model: Model) -> None:
    choice = body.get("tool_choice")
    if not choice:
        return
    if forced(body) and "forced" not in model.abilities:
        raise Rejected('tool_choice: type "tool" and "any" are not supported for this model.')
    if not body.get("tools"):
        raise Rejected("tool_choice: may only be specified while providing tools")
    if choice["type"] == "tool" and choice["name"] not in [tool.get("name") for tool in body["tools"]]:
        raise Rejected(f"tool_choice: Tool {choice['name']!r} not found in provided tools")


_THINKING_TEXTS = {
    "enabled": '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and '
    '"output_config.effort" to control thinking behavior.',
    "adaptive": "adaptive thinking is not supported on this model",
}


def _thinking(body: Any, model: Model) -> None:
    thinking = body.get("thinking")
    if not thinking:
        return
    kind = thinking["type"]
    if kind not in model.thinking:
        raise Rejected(_THINKING_TEXTS.get(kind, f'"thinking.type.{kind}" is not supported for this model.'))
    if kind in ("disabled", "between_tools") and effort(body, model) not in model.off_efforts:
        raise Rejected(f'"thinking.type.{kind}" is not supported at effort {effort(body, model)!r}')
    if kind != "enabled":
        return
    if forced(body):
        raise Rejected("Thinking may not be enabled when tool_choice forces tool use.")
    if not 1024 <= thinking["budget_tokens"] < body.get("max_tokens", 10**9):
        raise Rejected("thinking.enabled.budget_tokens: Input should be from 1024 to below `max_tokens`")


def _max_tokens(body: Any, model: Model) -> None:
    asked = body.get("max_tokens", 1)
    if asked < 0:
        raise Rejected("max_tokens: Input should be greater than or equal to 0")
    if asked > model.max_output:
        raise Rejected(f"max_tokens: {asked} > {model.max_output}, the maximum number of output tokens for {model.id}")
    enabled = (body.get("thinking") or {}).get("type") == "enabled"
    if asked == 0 and (body.get("stream") or response_format(body) or forced(body) or enabled):
        raise Rejected("max_tokens: 0 may not be used with stream, format, a forced tool or enabled thinking")


def _output(body: Any, model: Model) -> None:
    level = (body.get("output_config") or {}).get("effort")
    if level and level not in model.efforts:
        raise Rejected(f"output_config.effort: {level!r} is not supported for this model")
    cited = any((block.get("citations") or {}).get("enabled") for block in _documents(body["messages"]))
    if response_format(body) and cited:
        raise Rejected("output_config.format: may not be used with citations")
    strict = [tool for tool in body.get("tools", ()) if tool.get("strict") and "input_schema" in tool]
    if len(strict) > 20:
        raise Rejected(f"tools: too many strict tools ({len(strict)}); the limit is 20")
    schemas = [(tool["input_schema"], f"tools.{tool['name']}.input_schema") for tool in strict]
    if response_format(body) is not None:
        schemas.append((response_format(body), "output_config.format.schema"))
    check_schemas(schemas)


def _documents(messages: list[Any]) -> Iterator[dict[str, Any]]:
    for message in messages:
        yield from (block for block in blocks(message) if block["type"] in ("document", "search_result"))


def _extras(body: Any, model: Model) -> None:
    if body.get("inference_geo") and "us" not in model.abilities:
        raise Rejected("inference_geo: not supported for this model")
    if body.get("speed") == "fast" and "fast" not in model.abilities:
        raise Rejected("speed: fast mode is not supported for this model")


def _cache_marks(body: Any) -> None:
    marks = [mark.get("ttl", "5m") for mark in (*_marks(body.get("tools")), *_marks(body.get("system")))]
    for message in body["messages"]:
        marks += [mark.get("ttl", "5m") for mark in _marks(message["content"])]
    if body.get("cache_control"):
        marks.append(body["cache_control"].get("ttl", "5m"))
    if len(marks) > MAX_CACHE_MARKS:
        raise Rejected(f"A maximum of {MAX_CACHE_MARKS} blocks with cache_control may be provided. Found {len(marks)}.")
    if marks != sorted(marks):  # "1h" sorts before "5m"
        raise Rejected("a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block")  # [3P]


def _marks(items: Any) -> list[dict[str, Any]]:
    """The cache marks of a list of blocks or tools, those inside tool results too."""
    found: list[dict[str, Any]] = []
    for item in items if isinstance(items, list) else ():
        if item.get("type") == "tool_result":
            found += _marks(item.get("content"))
        if item.get("cache_control"):
            found.append(item["cache_control"])
    return found
