"""The wire shapes of the fake Claude API: which fields a body may have, and which JSON schemas it may ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Check = Callable[[Any, str], None]  # takes a value and its path; raises Rejected
Fields = Mapping[str, Check]


class Rejected(Exception):
    """The API's refusal of a request."""

    def __init__(self, message: str, status: int = 400, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.message, self.status, self.kind = message, status, kind


def ANY(value: Any, path: str) -> None:
    """Every value."""


def _is(kinds: type | tuple[type, ...], words: str) -> Check:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise Rejected(f"{path}: Input should be a valid {words}")

    return check


def _one_of(*values: str) -> Check:
    def check(value: Any, path: str) -> None:
        if value not in values:
            raise Rejected(f"{path}: Input should be {' or '.join(map(repr, values))}")

    return check


def _nullable(inner: Check) -> Check:
    return lambda value, path: None if value is None else inner(value, path)


def _list(inner: Check) -> Check:
    def check(value: Any, path: str) -> None:
        LIST(value, path)
        for i, item in enumerate(value):
            inner(item, f"{path}.{i}")

    return check


def _text_or(inner: Check) -> Check:
    return lambda value, path: None if isinstance(value, str) else inner(value, path)


def record(required: Fields, optional: Fields | None = None) -> Check:
    """An object with these fields and no others."""
    known = {**required, **(optional or {})}

    def check(value: Any, path: str) -> None:
        OBJECT(value, path or "body")
        prefix = f"{path}." if path else ""
        for name, item in value.items():
            if name not in known:
                raise Rejected(f"{prefix}{name}: Extra inputs are not permitted")
            known[name](item, prefix + name)
        for name in required:
            if name not in value:
                raise Rejected(f"{prefix}{name}: Field required")

    return check


def _open(fields: Fields) -> Check:
    """An object of which only these fields are checked."""

    def check(value: Any, path: str) -> None:
        OBJECT(value, path)
        for name in fields.keys() & value.keys():
            fields[name](value[name], f"{path}.{name}")

    return check


def _tagged(table: Mapping[str, Check]) -> Check:
    """Objects told apart by their `type`."""

    def check(value: Any, path: str) -> None:
        OBJECT(value, path)
        tag = value.get("type")
        if not isinstance(tag, str) or tag not in table:
            raise Rejected(f"{path}: Input tag {tag!r} found using 'type' does not match any of the expected tags")
        table[tag](value, f"{path}.{tag}")

    return check


def _kinds(**tags: tuple[Fields, Fields]) -> dict[str, Check]:
    """`type` -> shape, from `type=(required fields, optional fields)`."""
    return {tag: record({"type": _one_of(tag), **need}, may) for tag, (need, may) in tags.items()}


TEXT, INT, BOOL = _is(str, "string"), _is(int, "integer"), _is(bool, "boolean")
NUMBER, OBJECT, LIST = _is((int, float), "number"), _is(dict, "dictionary"), _is(list, "list")
_TEXTS = _list(TEXT)
_MARK = {"cache_control": _nullable(record({"type": _one_of("ephemeral")}, {"ttl": _one_of("5m", "1h")}))}
_CITED = {**_MARK, "citations": _nullable(record({}, {"enabled": BOOL}))}
_TEXT = _kinds(text=({"text": TEXT}, {**_MARK, "citations": _nullable(LIST)}))
_LINKED = _kinds(url=({"url": TEXT}, {}), file=({"file_id": TEXT}, {}))
_PICTURE = {"media_type": _one_of("image/jpeg", "image/png", "image/gif", "image/webp"), "data": TEXT}
_IMAGE_SOURCE = _tagged(_LINKED | _kinds(base64=(_PICTURE, {})))
_IMAGE = _kinds(image=({"source": _IMAGE_SOURCE}, {**_MARK, "transformations": _nullable(OBJECT)}))
_DOCUMENT_SOURCE = _tagged(
    _LINKED
    | _kinds(
        base64=({"media_type": _one_of("application/pdf"), "data": TEXT}, {}),
        text=({"media_type": _one_of("text/plain"), "data": TEXT}, {}),
        content=({"content": _text_or(_list(_tagged(_TEXT | _IMAGE)))}, {}),
    )
)
_MEDIA = (
    _TEXT
    | _IMAGE
    | _kinds(
        document=({"source": _DOCUMENT_SOURCE}, {**_CITED, "title": _nullable(TEXT), "context": _nullable(TEXT)}),
        search_result=({"source": TEXT, "title": TEXT, "content": _list(_tagged(_TEXT))}, _CITED),
    )
)
_RESULT = _text_or(_list(_tagged(_MEDIA | dict.fromkeys(("tool_reference", "browser_state"), _open(_MARK)))))
_TOOL_MARKS = {**_MARK, "toolset_name": _nullable(TEXT)}
_SERVER_BLOCKS = (  # of server tools: only their type is checked
    "server_tool_use",
    "web_search_tool_result",
    "web_fetch_tool_result",
    "code_execution_tool_result",
    "bash_code_execution_tool_result",
    "text_editor_code_execution_tool_result",
    "tool_search_tool_result",
    "container_upload",
)
_BLOCKS = (
    _MEDIA
    | dict.fromkeys(_SERVER_BLOCKS, _open(_MARK))
    | _kinds(
        thinking=({"thinking": TEXT, "signature": TEXT}, {}),
        redacted_thinking=({"data": TEXT}, {}),
        tool_use=({"id": TEXT, "name": TEXT, "input": OBJECT}, {**_TOOL_MARKS, "caller": OBJECT}),
        tool_result=({"tool_use_id": TEXT}, {**_TOOL_MARKS, "content": _RESULT, "is_error": BOOL}),
    )
)
_MESSAGE = record({"role": _one_of("user", "assistant", "system"), "content": _text_or(_list(_tagged(_BLOCKS)))})
_DISPLAY = {"display": _nullable(_one_of("summarized", "omitted"))}
_THINKING = _tagged(
    _kinds(
        adaptive=({}, _DISPLAY),
        enabled=({"budget_tokens": INT}, _DISPLAY),
        disabled=({}, {}),
        between_tools=({}, {}),
    )
)
_SERIAL = {"disable_parallel_tool_use": BOOL}
_TOOL_CHOICE = _tagged(_kinds(auto=({}, _SERIAL), any=({}, _SERIAL), tool=({"name": TEXT}, _SERIAL), none=({}, {})))
_CUSTOM_TOOL = record(
    {"name": TEXT, "input_schema": OBJECT},
    {
        **_MARK,
        "type": _nullable(_one_of("custom")),
        "description": TEXT,
        "strict": BOOL,
        "allowed_callers": _TEXTS,
        "defer_loading": BOOL,
        "eager_input_streaming": _nullable(BOOL),
        "input_examples": _list(OBJECT),
    },
)
# Anthropic's own tools: only their type is checked.
_SERVER_TOOLS = {"tool_search_tool_bm25", "tool_search_tool_regex"} | {
    f"{name}_{version}"
    for name, versions in {
        "bash": (20250124,),
        "code_execution": (20250522, 20250825, 20260120, 20260521),
        "text_editor": (20250124, 20250429, 20250728),
        "web_search": (20250305, 20260209, 20260318),
        "web_fetch": (20250910, 20260209, 20260309, 20260318),
        "memory": (20250818,),
        "browser_toolset": (20260801,),
        "computer_toolset": (20260801,),
        "tool_search_tool_bm25": (20251119,),
        "tool_search_tool_regex": (20251119,),
    }.items()
    for version in versions
}


_ANY_TOOL = _open({**_MARK, "type": _nullable(TEXT), "name": TEXT})


def _tool(value: Any, path: str) -> None:
    _ANY_TOOL(value, path)
    if value.get("type") in (None, "custom"):
        _CUSTOM_TOOL(value, path)
    elif value["type"] not in _SERVER_TOOLS:
        raise Rejected(
            f"{path}: Input tag {value['type']!r} found using 'type' does not match any of the expected tags"
        )


_FORMAT = _tagged(_kinds(json_schema=({"schema": OBJECT}, {})))
_EFFORT = _one_of("low", "medium", "high", "xhigh", "max")
_COUNTED = {  # what count_tokens takes besides model and messages
    **_MARK,
    "output_config": record({}, {"effort": _nullable(_EFFORT), "format": _nullable(_FORMAT)}),
    "speed": _nullable(_one_of("standard", "fast")),
    "system": _text_or(_list(_tagged(_TEXT))),
    "thinking": _THINKING,
    "tool_choice": _TOOL_CHOICE,
    "tools": _list(_tool),
}
_OPTIONAL = {
    **_COUNTED,
    "container": _nullable(_text_or(record({}, {"id": _nullable(TEXT), "skills": _nullable(LIST)}))),
    "diagnostics": _nullable(record({}, {"previous_message_id": _nullable(TEXT)})),
    "inference_geo": _nullable(TEXT),
    "metadata": record({}, {"user_id": _nullable(TEXT)}),
    "service_tier": _one_of("auto", "standard_only"),
    "stop_sequences": _TEXTS,
    "stream": BOOL,
}
SAMPLING = {"temperature": NUMBER, "top_p": NUMBER, "top_k": INT}
_REQUIRED = {"model": TEXT, "messages": _list(_MESSAGE)}
COUNT_SHAPE = record(_REQUIRED, _COUNTED)
MESSAGES_SHAPE = record(_REQUIRED | {"max_tokens": INT}, _OPTIONAL)
OLD_MESSAGES_SHAPE = record(_REQUIRED | {"max_tokens": INT}, _OPTIONAL | SAMPLING)

# JSON schemas of structured outputs and strict tools.
_KEYWORDS: Fields = {
    "type": _text_or(_list(TEXT)),
    "properties": OBJECT,
    "required": _list(TEXT),
    "additionalProperties": BOOL,
    "items": OBJECT,
    "enum": LIST,
    "const": ANY,
    "anyOf": LIST,
    "allOf": LIST,
    "$ref": TEXT,
    "$defs": OBJECT,
    "definitions": OBJECT,
    "format": TEXT,
    "pattern": TEXT,
    "minItems": INT,
    "description": TEXT,
    "title": TEXT,
    "default": ANY,
}
_LISTS = ("type", "enum", "anyOf", "allOf")  # none of them may be empty
_TYPES = {"object", "array", "string", "integer", "number", "boolean", "null"}
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
_LIMITS = {"optional parameters": 24, "union-typed parameters": 16}


def check_schemas(schemas: Iterable[tuple[Any, str]]) -> None:
    """Raise Rejected unless every (schema, path) is in the supported subset and all together are within the limits."""
    counts: Counter[str] = Counter()
    for schema, path in schemas:
        _Schema(schema, counts).check(schema, path, ())
    for what, limit in _LIMITS.items():
        if counts[what] > limit:
            raise Rejected(f"Schemas contain too many {what} ({counts[what]}); the limit is {limit} per request")


class _Schema:
    def __init__(self, root: Any, counts: Counter[str]) -> None:
        self.root, self.counts = root, counts

    def check(self, node: Any, path: str, trail: tuple[str, ...]) -> None:
        """`trail`: the definitions that lead here; coming back to one of them is recursion."""
        OBJECT(node, path)
        unknown = sorted(set(node) - set(_KEYWORDS))
        if unknown:
            raise Rejected(f"{path}: properties {', '.join(unknown)} are not supported")
        for keyword, value in node.items():
            _KEYWORDS[keyword](value, f"{path}.{keyword}")
        for name, definition in {**node.get("$defs", {}), **node.get("definitions", {})}.items():
            self.check(definition, f"{path}.{name}", (*trail, f"#/$defs/{name}", f"#/definitions/{name}"))
        if "$ref" in node:
            self._follow(node["$ref"], path, trail)
        for group in ("anyOf", "allOf"):
            for i, part in enumerate(node.get(group, ())):
                self.check(part, f"{path}.{group}.{i}", trail)
        self._check_values(node, path)
        self._check_types(node, path, trail)

    def _follow(self, ref: Any, path: str, trail: tuple[str, ...]) -> None:
        if ref in trail or ref == "#":
            raise Rejected(f"{path}: recursive schemas are not supported ({ref})")
        place, _, name = str(ref).rpartition("/")
        definitions = self.root.get(place.removeprefix("#/"), {}) if place in ("#/$defs", "#/definitions") else {}
        if name not in definitions:
            raise Rejected(f"{path}: external or unknown reference {ref!r}")
        _Schema(self.root, Counter()).check(definitions[name], path, (*trail, ref))  # counted where it is defined

    def _check_values(self, node: Any, path: str) -> None:
        values = [*node.get("enum", ()), *([node["const"]] if "const" in node else [])]
        if any(isinstance(value, (dict, list)) for value in values):
            raise Rejected(f"{path}: enum and const take primitive values only")
        if not {"type", "enum", "const", "anyOf", "allOf", "$ref"} & set(node) or [] in map(node.get, _LISTS):
            raise Rejected(f"{path}: schema needs a type, enum, const, anyOf, allOf or $ref")

    def _check_types(self, node: Any, path: str, trail: tuple[str, ...]) -> None:
        declared = node.get("type", [])
        types = set(declared if isinstance(declared, list) else [declared])
        self.counts["union-typed parameters"] += "anyOf" in node or len(types) > 1
        if types - _TYPES:
            raise Rejected(f"{path}: unknown type {sorted(map(str, types - _TYPES))}")
        if "object" in types or "properties" in node:
            self._check_object(node, path, trail)
        if "items" in node:
            self.check(node["items"], f"{path}.items", trail)
        if node.get("minItems", 0) not in (0, 1):
            raise Rejected(f"{path}: For 'array' type, 'minItems' values other than 0 or 1 are not supported")
        if node.get("format", "uuid") not in _FORMATS:
            raise Rejected(f"{path}: For 'string' type, format {node['format']!r} is not supported")

    def _check_object(self, node: Any, path: str, trail: tuple[str, ...]) -> None:
        if node.get("additionalProperties") is not False:
            raise Rejected(f"{path}: For 'object' type, 'additionalProperties' must be explicitly set to false")
        properties = node.get("properties", {})
        missing = set(node.get("required", ())) - set(properties)
        if missing:
            raise Rejected(f"{path}: required names unknown properties {sorted(missing)}")
        self.counts["optional parameters"] += len(set(properties) - set(node.get("required", ())))
        for name, child in properties.items():
            self.check(child, f"{path}.properties.{name}", trail)
