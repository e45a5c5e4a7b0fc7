"""The fake Claude refuses what the API refuses: a row per rule, over raw HTTP since the SDK cannot send most of it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fake_claude import FakeClaude
from fake_claude_models import MODELS
from fake_claude_thoughts import sign

OLD, NEW = "2023-06-01", "2026-10-21"
HI = {"role": "user", "content": "hi"}
OK_SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
TOOL = {"name": "f", "input_schema": {"type": "object"}}
USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "done"}
MARK = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA=="}}


class Raw:
    """One kept-alive connection that says anything."""

    def __init__(self, claude: FakeClaude) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", claude.port, timeout=10)

    def send(self, body: Any, *, path: str = "/v1/messages", method: str = "POST", **headers: str | None) -> Any:
        named = {"authorization": "Bearer test-key", "anthropic_version": NEW} | headers
        sent = {name.replace("_", "-"): value for name, value in named.items() if value is not None}
        self.connection.request(method, path, body if isinstance(body, bytes) else json.dumps(body), sent)
        self.reply = self.connection.getresponse()
        return json.loads(self.reply.read())

    def outcome(self, patch: dict[str, Any], **kw: Any) -> str:
        """ "ok", or the message of the 400."""
        body = {"model": "claude-haiku-5-5", "max_tokens": 2000, "messages": [HI]} | patch
        said = self.send({name: value for name, value in body.items() if value is not ...}, **kw)
        if self.reply.status == 200:
            return "ok"
        assert (self.reply.status, said["type"], said["error"]["type"]) == (400, "error", "invalid_request_error")
        assert said["request_id"] == self.reply.headers["request-id"]
        return said["error"]["message"]


@pytest.fixture(scope="module")
def raw() -> Iterator[Raw]:
    with FakeClaude() as claude:
        raw = Raw(claude)
        yield raw
        raw.connection.close()


def turns(*contents: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]}


def text(**fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": "hi", **fields}


def thought(*said: Any, model: str = "claude-haiku-5-5") -> dict[str, Any]:
    """The thinking block of an answer to these turns."""
    return {"type": "thinking", "thinking": "", "signature": sign(turns(*said), MODELS[model], "")}


def schema(**fields: Any) -> dict[str, Any]:
    return {"output_config": {"format": {"type": "json_schema", "schema": {**OK_SCHEMA, **fields}}}}


def prop(value: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return schema(properties={"a": value}, **fields)


def many(n: int, value: dict[str, Any]) -> dict[str, Any]:
    return {f"p{i}": value for i in range(n)}


REFUSED = [
    # top level
    ({"foo": 1}, "foo: Extra inputs are not permitted"),
    ({"temperature": 1}, "temperature: Extra inputs are not permitted"),
    ({"top_p": 0.99}, "top_p: Extra inputs are not permitted"),
    ({"top_k": 5}, "top_k: Extra inputs are not permitted"),
    ({"output_format": {}}, "output_format: Extra inputs are not permitted"),
    ({"model": ...}, "model: Field required"),
    ({"max_tokens": ...}, "max_tokens: Field required"),
    ({"messages": ...}, "messages: Field required"),
    ({"model": 5}, "model: Input should be a valid string"),
    ({"max_tokens": "9"}, "max_tokens: Input should be a valid integer"),
    ({"max_tokens": True}, "max_tokens: Input should be a valid integer"),
    ({"stream": "yes"}, "stream: Input should be a valid boolean"),
    ({"stop_sequences": "x"}, "stop_sequences: Input should be a valid list"),
    ({"system": None}, "system: Input should be a valid list"),
    ({"system": [{"type": "text", "text": ""}]}, "system: text content blocks must be non-empty"),
    ({"system": [PDF]}, "system.0: Input tag 'document'"),
    ({"metadata": {"name": "x"}}, "metadata.name: Extra inputs"),
    ({"service_tier": "fast"}, "service_tier: Input should be 'auto'"),
    # max_tokens
    ({"max_tokens": -1}, "max_tokens: Input should be greater"),
    ({"max_tokens": 128_001}, "max_tokens: 128001 > 128000"),
    ({"model": "claude-haiku-4-5", "max_tokens": 64_001}, "max_tokens: 64001 > 64000"),
    ({"max_tokens": 0, "stream": True}, "max_tokens: 0 may not"),
    ({"max_tokens": 0} | schema(), "max_tokens: 0 may not"),
    ({"max_tokens": 0, "tools": [TOOL], "tool_choice": {"type": "any"}}, "max_tokens: 0 may not"),
    # messages and blocks
    ({"messages": []}, "messages: from 1"),
    ({"messages": [{"role": "system", "content": "x"}, HI]}, "messages.0.role"),
    ({"model": "claude-sonnet-5", "messages": [HI, {"role": "system", "content": "x"}]}, "messages.1.role"),
    ({"messages": [HI, {"role": "system", "content": [PDF]}]}, "system messages take text blocks only"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: Input should be"),
    ({"messages": [HI | {"name": "me"}]}, "messages.0.name: Extra inputs"),
    ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
    (turns(""), "messages.0: all messages must have non-empty content"),
    (turns([]), "messages.0: all messages must have non-empty content"),
    (turns([{"type": "text", "text": ""}]), "messages.0: text content blocks must be non-empty"),
    (turns([{"type": "poem"}]), "messages.0.content.0: Input tag 'poem'"),
    (turns([{"text": "hi"}]), "messages.0.content.0: Input tag None"),
    (turns([text(bold=True)]), "messages.0.content.0.text.bold: Extra inputs"),
    (turns([{"type": "image", "source": {"type": "base64", "media_type": "image/bmp", "data": ""}}]), "media_type"),
    (turns([USE]), "`tool_use` blocks cannot be in `user` messages"),
    (turns([{"type": "thinking", "thinking": "", "signature": "x"}]), "`thinking` blocks cannot be in `user`"),
    (turns("hi", [RESULT], "hi"), "`tool_result` blocks cannot be in `assistant` messages"),
    (turns("hi", [PDF], "hi"), "document blocks are not permitted in assistant messages"),
    (turns([text(citations=[{"x": 1}])]), "citations are not permitted on user text blocks"),
    (turns("hi", "I am"), "does not support assistant message prefill"),
    ({"model": "claude-haiku-4-5"} | turns("hi", "I am") | schema(), "does not support assistant message prefill"),
    # tools
    ({"tools": [TOOL, TOOL]}, "Tool names must be unique"),
    ({"tools": [TOOL | {"name": "a b"}]}, "String should match pattern"),
    ({"tools": [TOOL | {"foo": 1}]}, "foo: Extra inputs"),
    ({"tools": [{"name": "f"}]}, "input_schema: Field required"),
    ({"tools": [{"name": "f", "input_schema": {"type": "string"}}]}, "Input should be 'object'"),
    ({"tools": [{"name": "f", "type": "crystal_ball"}]}, "Input tag 'crystal_ball'"),
    ({"tool_choice": {"type": "any"}}, "may only be specified while providing tools"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "Tool 'g' not found"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.tool.name: Field required"),
    ({"tools": [TOOL], "tool_choice": {"type": "none", "name": "f"}}, "tool_choice.none.name: Extra inputs"),
    (turns("hi", [USE], "hi"), "without `tool_result` blocks after: {'t1'}"),
    (turns([RESULT]), "unexpected `tool_use_id` in `tool_result` blocks: {'t1'}"),
    (turns("hi", [USE], [RESULT], [USE], [RESULT]), "`tool_use` ids must be unique"),
    # thinking
    ({"thinking": {"type": "disabled", "display": "omitted"}}, "thinking.disabled.display: Extra inputs"),
    ({"model": "claude-sonnet-5-5", "thinking": {"type": "between_tools", "budget_tokens": 1}}, "Extra inputs"),
    ({"thinking": {"type": "off"}}, "thinking: Input tag 'off'"),
    ({"model": "claude-haiku-4-5", "thinking": {"type": "enabled", "budget_tokens": 1023}}, "budget_tokens"),
    ({"model": "claude-haiku-4-5", "thinking": {"type": "enabled", "budget_tokens": 2000}}, "budget_tokens"),
    ({"model": "claude-haiku-4-5", "thinking": {"type": "enabled"}}, "budget_tokens: Field required"),
    (
        {
            "model": "claude-haiku-4-5",
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "tools": [TOOL],
            "tool_choice": {"type": "any"},
        },
        "Thinking may not be enabled when tool_choice forces",
    ),
    # output_config and other options
    ({"output_config": {"effort": "extreme"}}, "output_config.effort: Input should be"),
    ({"output_config": {"style": "x"}}, "output_config.style: Extra inputs"),
    ({"output_config": {"format": {"type": "json"}}}, "output_config.format: Input tag 'json'"),
    (schema() | turns([PDF | {"citations": {"enabled": True}}]), "may not be used with citations"),
    ({"model": "claude-opus-4-5", "inference_geo": "us"}, "inference_geo: not supported"),
    ({"speed": "fast"}, "speed: fast mode is not supported"),
    # caching
    (turns([text(cache_control=MARK)] * 5), "A maximum of 4 blocks"),
    ({"cache_control": MARK} | turns([text(cache_control=MARK)] * 4), "A maximum of 4 blocks"),
    (turns([text(cache_control=MARK), text(cache_control=HOUR)]), "must not come after a ttl='5m'"),
    (turns([text(cache_control={"type": "ephemeral", "ttl": "2h"})]), "ttl: Input should be"),
    # schemas
    (schema(additionalProperties=True), "'additionalProperties' must be explicitly set to false"),
    (prop({"type": "object", "properties": {}}), "'additionalProperties' must be explicitly set to false"),
    *((prop({"type": "number", key: 1}), f"{key} are not supported") for key in ("minimum", "maximum", "multipleOf")),
    *((prop({"type": "string", key: 1}), f"{key} are not supported") for key in ("minLength", "maxLength")),
    (prop({"oneOf": [{"type": "string"}]}), "oneOf are not supported"),
    (prop({"type": "array", "items": {"type": "string"}, "maxItems": 3}), "maxItems are not supported"),
    (prop({"type": "array", "items": {"type": "string"}, "minItems": 2}), "minItems"),
    (prop({"type": "string", "format": "phone"}), "format 'phone' is not supported"),
    (prop({"type": "text"}), "unknown type"),
    (prop({"enum": [["x"]]}), "primitive values only"),
    (prop({"enum": []}), "schema needs a type"),
    (prop({"description": "anything"}), "schema needs a type"),
    (schema(required=["b"]), "required names unknown properties ['b']"),
    (schema(properties="a"), "properties: Input should be a valid dictionary"),
    (prop({"$ref": "https://example.com/x.json"}), "external or unknown reference"),
    (prop({"$ref": "#/$defs/B"}), "external or unknown reference"),
    (prop({"$ref": "#"}), "recursive schemas"),
    (prop({"$ref": "#/$defs/A"}, **{"$defs": {"A": {"anyOf": [{"$ref": "#/$defs/A"}]}}}), "recursive schemas"),
    (schema(properties=many(25, {"type": "string"}), required=[]), "too many optional parameters (25)"),
    (
        schema(properties=many(17, {"type": ["string", "null"]}), required=[*many(17, {})]),
        "too many union-typed parameters (17)",
    ),
    ({"tools": [TOOL | {"name": f"f{i}", "strict": True} for i in range(21)]}, "too many strict tools (21)"),
    ({"tools": [TOOL | {"strict": True}]}, "'additionalProperties' must be explicitly set to false"),
]
ACCEPTED = [
    {"max_tokens": 0},
    {"max_tokens": 128_000},
    {"stop_sequences": ["x"], "metadata": {"user_id": None}, "service_tier": "auto", "inference_geo": "us"},
    {"diagnostics": {"previous_message_id": None}, "container": None, "cache_control": None, "speed": None},
    {"model": "claude-opus-5-5", "speed": "fast"},
    {"messages": [HI, {"role": "system", "content": "x"}]},
    {"system": [text(cache_control=HOUR)], "cache_control": MARK},
    turns([text(cache_control=HOUR), text(cache_control=MARK)]),
    turns([PDF, text()], [text(), USE], [RESULT, text()]),
    turns([{"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}]),
    turns("hi", [thought("hi"), text(citations=None)], "hi"),
    {"tools": [TOOL | {"strict": True, "input_schema": OK_SCHEMA}], "tool_choice": {"type": "auto"}},
    {"tools": [{"type": "web_search_20260318", "name": "web_search"}]},
    schema(),
    prop({"anyOf": [{"type": "string", "format": "uuid", "pattern": "^a"}, {"type": "null"}]}),
    prop({"$ref": "#/$defs/A"}, **{"$defs": {"A": {"enum": ["x", 1, None]}}}),
    prop({"type": "array", "items": {"const": "x"}, "minItems": 1}),
    schema(properties=many(24, {"type": "string"}), required=[]),
]


@pytest.mark.parametrize(("patch", "message"), REFUSED)
def test_refused(raw: Raw, patch: dict[str, Any], message: str) -> None:
    assert message in raw.outcome(patch)


@pytest.mark.parametrize("patch", ACCEPTED)
def test_accepted(raw: Raw, patch: dict[str, Any]) -> None:
    assert raw.outcome(patch) == "ok"


# What each model accepts, laid out by ability and not by model as the fake's own table is.
NEWEST = ("claude-fable-5-2", "claude-mythos-5-2", "claude-fable-5-1", "claude-mythos-5-1", "claude-opus-5-5")
FABLE_5 = ("claude-fable-5", "claude-mythos-5")
FOUR_7_8 = ("claude-opus-4-7", "claude-opus-4-8")
FOUR_6 = ("claude-opus-4-6", "claude-sonnet-4-6")
FOUR_5 = ("claude-opus-4-5", "claude-haiku-4-5", "claude-sonnet-4-5")
FIVE = ("claude-haiku-5-5", "claude-sonnet-5-5", "claude-sonnet-5", "claude-opus-5", *NEWEST, *FABLE_5)
EVERY = (*FIVE, *FOUR_7_8, *FOUR_6, *FOUR_5)
THINKING = {
    "adaptive": {*EVERY} - {*FOUR_5},
    "enabled": {*FOUR_6, *FOUR_5},
    "disabled": {"claude-haiku-5-5", "claude-sonnet-5", "claude-opus-5", *FOUR_7_8, *FOUR_6, *FOUR_5},
    "between_tools": {"claude-sonnet-5-5"},
}
OFF_BELOW_XHIGH = {"claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5"}


@pytest.mark.parametrize("model", EVERY)
@pytest.mark.parametrize("kind", THINKING)
def test_thinking_types(raw: Raw, model: str, kind: str) -> None:
    thinking = {"type": kind} | ({"budget_tokens": 1024} if kind == "enabled" else {})
    assert (raw.outcome({"model": model, "thinking": thinking}) == "ok") == (model in THINKING[kind])


@pytest.mark.parametrize("effort", ["low", "medium", "high", "xhigh", "max"])
@pytest.mark.parametrize("model", EVERY)
def test_efforts(raw: Raw, model: str, effort: str) -> None:
    body: dict[str, Any] = {"model": model, "output_config": {"effort": effort}}
    refused = {"claude-opus-4-5": ("xhigh", "max")} | dict.fromkeys(FOUR_6, ("xhigh",))
    accepted = model not in ("claude-haiku-4-5", "claude-sonnet-4-5") and effort not in refused.get(model, ())
    assert (raw.outcome(body) == "ok") == accepted
    off = "between_tools" if model == "claude-sonnet-5-5" else "disabled"
    if accepted and model in THINKING[off]:
        stays_off = not (model in OFF_BELOW_XHIGH and effort in ("xhigh", "max"))
        assert (raw.outcome(body | {"thinking": {"type": off}}) == "ok") == stays_off


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "f"}])
@pytest.mark.parametrize("model", EVERY)
def test_forced_tools(raw: Raw, model: str, choice: dict[str, str], path: str) -> None:
    limit = {} if path == "/v1/messages" else {"max_tokens": ...}
    said = raw.outcome({"model": model, "tools": [TOOL], "tool_choice": choice} | limit, path=path)
    refused = model in (*NEWEST, "claude-sonnet-5-5")
    assert said == ('tool_choice: type "tool" and "any" are not supported for this model.' if refused else "ok")


@pytest.mark.parametrize("model", EVERY)
def test_prefill_and_sampling_on_the_old_version(raw: Raw, model: str) -> None:
    assert (raw.outcome({"model": model} | turns("hi", "I am")) == "ok") == (model in FOUR_5)
    fixed = model not in (*FOUR_5, *FOUR_6)
    for name, value in (("temperature", 0), ("top_p", 0.5), ("top_k", 5)):
        assert (raw.outcome({"model": model, name: value}, anthropic_version=OLD) == "ok") != fixed
        assert "Extra inputs" in raw.outcome({"model": model, name: value}, anthropic_version=NEW)
    assert raw.outcome({"model": model, "temperature": 1, "top_p": 0.99}, anthropic_version=OLD) == "ok"


def test_the_old_version_takes_documents_and_citations(raw: Raw) -> None:
    assert raw.outcome(turns("hi", [PDF], [text(citations=[{}])]), anthropic_version=OLD) == "ok"
    assert "temperature" in raw.outcome({"model": FOUR_5[1], "temperature": 1.5}, anthropic_version=OLD)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": None}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "test-key"}, 401),
        ({"authorization": None, "x_api_key": "test-key"}, 200),
        ({"authorization": "Bearer wrong", "x_api_key": "test-key"}, 200),  # x-api-key wins
        ({"x_api_key": "wrong"}, 401),
        ({"anthropic_version": None}, 400),
        ({"anthropic_version": "2024-01-01"}, 400),
    ],
)
def test_headers(raw: Raw, headers: dict[str, str | None], status: int) -> None:
    said = raw.send({"model": "claude-haiku-5-5", "max_tokens": 500, "messages": [HI]}, **headers)
    assert raw.reply.status == status
    kinds = {200: None, 400: "invalid_request_error", 401: "authentication_error"}
    assert said.get("error", {}).get("type") == kinds[status]


@pytest.mark.parametrize(
    "model", ["claude-haiku-6", "claude-haiku-5-5-20261001", "claude-3-haiku-20240307", "claude-mythos-preview"]
)
def test_unknown_and_retired_models_are_not_found(raw: Raw, model: str) -> None:
    said = raw.send({"model": model, "max_tokens": 5, "messages": [HI]})
    assert (raw.reply.status, said["error"]) == (404, {"type": "not_found_error", "message": f"model: {model}"})


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"max_tokens": NaN}', b'{"model": "\\ud800"}', b"[" * 100_000])
def test_what_is_not_a_json_object(raw: Raw, body: bytes) -> None:
    said = raw.send(body)
    assert (raw.reply.status, said["error"]["message"]) == (400, "The request body is not valid JSON")


def test_size_window_route_and_method(raw: Raw) -> None:
    assert raw.send(b" " * (32 * 1024 * 1024 + 1))["error"]["type"] == "request_too_large"
    assert raw.reply.status == 413
    assert "prompt is too long" in raw.outcome({"model": "claude-haiku-4-5"} | turns("x" * 900_000))
    assert raw.outcome(turns("x" * 900_000)) == "ok"
    assert "messages: from 1 to 100000" in raw.outcome(turns(*["x"] * 100_001))
    raw.send({}, path="/v1/complete")
    assert raw.reply.status == 404
    raw.send({}, method="GET")
    assert raw.reply.status == 405


def test_count_tokens_takes_no_max_tokens_and_models_no_unknown_query(raw: Raw) -> None:
    assert "max_tokens: Extra inputs" in raw.outcome({}, path="/v1/messages/count_tokens")
    for query, message in (
        ("foo=1", "foo"),
        ("limit=0", "limit"),
        ("lifecycle[]=old", "lifecycle"),
        ("after_id=x", ""),
    ):
        said = raw.send(b"", method="GET", path=f"/v1/models?{query}")
        assert (raw.reply.status, said["error"]["message"][: len(message)]) == (400, message)
