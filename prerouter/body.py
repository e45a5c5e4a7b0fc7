"""A Messages API body, read and checked: its turns, the words of its system prompt, the names of its tools.

Read as the SDK sends it: blocks may be dicts or SDK objects, lists may be tuples, unknown fields and block types are
accepted. Nothing is changed, copied or used up. Checked are every role, every block's type and every text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from prerouter.errors import InvalidRequest

MAX_DEPTH = (
    6  # of values inside a block; the SDK's deepest: fetch result > page > document > source > list > block > text
)

_ROLES = ("user", "assistant", "system")
_TEXT_KEYS = ("title", "context", "text", "stdout", "stderr", "content")


@dataclass(frozen=True, slots=True)
class Block:
    """One content block."""

    kind: str
    raw: Any

    @property
    def is_result(self) -> bool:
        """True for what a tool returned, the caller's or the server's."""
        return self.kind.endswith("tool_result")

    @property
    def text(self) -> str:
        """All text inside: a title, words, what a tool printed; never encoded data."""
        return str(_get(self.raw, "text")) if self.kind == "text" else _text(self.raw, MAX_DEPTH)

    @property
    def mark(self) -> str:
        """What stands for a block that is no text: `[image]`, `[tool_use: search]`."""
        return _mark(self.raw)


@dataclass(slots=True)
class Turn:
    """Consecutive messages of one role: what was said, and what tools returned. Thinking is left out."""

    role: str
    said: list[Block] = field(default_factory=list)
    results: list[Block] = field(default_factory=list)

    def add(self, blocks: list[Block]) -> None:
        """Append the blocks of one more message."""
        for block in blocks:
            if block.kind not in ("thinking", "redacted_thinking"):
                (self.results if block.is_result else self.said).append(block)


@dataclass(slots=True)
class Conversation:
    """turns: without system messages. system: the system prompt, then the system messages, as texts. tools: names."""

    turns: list[Turn]
    system: list[str]
    tools: list[str]

    def count(self, *kinds: str) -> int:
        """Blocks of these types that were said."""
        return sum(block.kind in kinds for turn in self.turns for block in turn.said)

    @property
    def n_results(self) -> int:
        """Blocks that tools returned."""
        return sum(len(turn.results) for turn in self.turns)


def read(body: Mapping[str, Any]) -> Conversation:
    """The conversation of a body. Raises InvalidRequest with the place, e.g. `messages[2].content[0].type`."""
    if not isinstance(body, Mapping):
        _bad(f"expected a string or a Messages body, not {type(body).__name__}", "request", "pass a str or a dict")
    system, tools = body.get("system"), body.get("tools")
    talk = Conversation([], _texts(_blocks(system, "system")) if system else [], [])
    for number, message in enumerate(_messages(body)):
        _add(talk, message, f"messages[{number}]")
    if tools:
        talk.tools += [_tool(tool, f"tools[{number}]") for number, tool in enumerate(_items(tools, "tools"))]
    return talk


def _add(talk: Conversation, message: object, where: str) -> None:
    role = _get(message, "role")
    if role not in _ROLES:
        _bad(f"a message's role must be user, assistant or system, not {role!r:.40}", f"{where}.role")
    blocks = _blocks(_get(message, "content"), f"{where}.content")
    if role == "system":
        talk.system += _texts(blocks)
        return
    if not talk.turns or talk.turns[-1].role != role:
        talk.turns.append(Turn(role))
    talk.turns[-1].add(blocks)


def _bad(what: str, where: str, next_step: str = "see the Messages API reference") -> NoReturn:
    raise InvalidRequest(what, where=where, next_step=next_step)


def _get(thing: object, key: str) -> Any:
    """`key` of a JSON object or of an SDK object."""
    return thing.get(key) if isinstance(thing, (dict, Mapping)) else getattr(thing, key, None)


def _items(value: object, where: str, what: str = "a list") -> Collection[Any]:
    """A list, or whatever else can be read twice."""
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, Iterator):
        _bad("reading an iterator would use it up", where, "pass a list")
    if isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Collection):
        _bad(f"expected {what}, not {type(value).__name__}", where)
    return value


def _messages(body: Mapping[str, Any]) -> Collection[Any]:
    if "messages" not in body:
        _bad("the body has no messages", "messages", 'add "messages": [{"role": "user", "content": "..."}]')
    messages = _items(body["messages"], "messages")
    if not messages:
        _bad("there is no message", "messages", 'add {"role": "user", "content": "..."}')
    return messages


def _blocks(content: object, where: str, depth: int = MAX_DEPTH) -> list[Block]:
    if isinstance(content, str):
        return [Block("text", {"text": content})]
    items = _items(content, where, "a string or a list of content blocks")
    return [Block(_kind(block, f"{where}[{number}]", depth), block) for number, block in enumerate(items)]


def _kind(block: object, where: str, depth: int) -> str:
    """The type of a block, checked with everything inside that will be read."""
    kind = _get(block, "type")
    if not isinstance(kind, str):
        _bad("a content block must be an object with a type", f"{where}.type")
    if kind == "text" and not isinstance(_get(block, "text"), str):
        _bad("the text of a text block must be a string", f"{where}.text")
    if kind in ("tool_result", "search_result"):
        _check_content(block, where, depth)
    if kind == "document":
        _check_source(_get(block, "source"), f"{where}.source", depth)
    return kind


def _check_source(source: object, where: str, depth: int) -> None:
    kind = _get(source, "type")
    if not isinstance(kind, str):
        _bad("a document must have a source with a type", where)
    if kind == "text" and not isinstance(_get(source, "data"), str):
        _bad("the data of a text source must be a string", f"{where}.data")
    _check_content(source, where, depth)


def _check_content(holder: object, where: str, depth: int) -> None:
    content = _get(holder, "content")
    if content is not None and depth > 0:
        _blocks(content, f"{where}.content", depth - 1)


def _texts(blocks: list[Block]) -> list[str]:
    return [block.text for block in blocks if block.kind == "text"]


def _tool(tool: object, where: str) -> str:
    for name in (_get(tool, "name"), _get(tool, "type")):
        if isinstance(name, str):
            return name
    _bad("a tool must be an object with a name or a type", where)


def _mark(raw: object) -> str:
    kind, name = _get(raw, "type"), _get(raw, "name")
    return f"[{kind}: {name}]" if isinstance(name, str) else f"[{kind}]"


def _text(value: object, depth: int) -> str:
    if isinstance(value, str):
        return value
    if depth < 0 or value is None:
        return ""
    if isinstance(value, Collection) and not isinstance(value, Mapping):
        return "\n".join(_text(item, depth - 1) or _mark(item) for item in value)
    inside = [_get(value, key) for key in _TEXT_KEYS]
    kind = _get(value, "type")
    inside.append(_get(value, "source") if kind == "document" else _get(value, "data") if kind == "text" else None)
    return "\n".join(filter(None, (_text(item, depth - 1) for item in inside)))
