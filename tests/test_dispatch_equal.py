"""What arrives is what the bare SDK would have sent, but for the model: every feature, on every surface, any client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import anthropic
import httpx2
import pydantic
import pytest

from prerouter.dispatch import AsyncDispatch, Dispatch
from prerouter.errors import UnsupportedRequest
from prerouter.router import PreRouter

HAIKU = "claude-haiku-5-5"  # where all of these go
TEXT = {"type": "text", "text": "What is 2 + 2?"}
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
TOOL = {
    "name": "f",
    "description": "Adds.",
    "input_schema": {"type": "object", "properties": {"a": {"type": "number"}}},
}
FORMAT = {"type": "json_schema", "schema": {"type": "object", "properties": {}, "additionalProperties": False}}
CALL = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1.0, "b": None}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": [TEXT, {"type": "image", "source": PNG}]}


def asks(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [*blocks, TEXT]}]}


FEATURES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "system and cache marks": {"system": [TEXT | {"cache_control": {"type": "ephemeral", "ttl": "1h"}}]},
    "automatic cache": {"cache_control": {"type": "ephemeral"}},
    "tools": {
        "tools": [TOOL | {"strict": True}],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    },
    "a forced tool": {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f"}},
    "server tools": {
        "tools": [
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
            {"type": "bash_20250124", "name": "bash"},
        ]
    },
    "a tool's result": {
        "tools": [TOOL],
        "messages": [
            {"role": "user", "content": "What is 2 + 2?"},
            {"role": "assistant", "content": [CALL]},
            {"role": "user", "content": [RESULT]},
        ],
    },
    "images": asks(
        {"type": "image", "source": PNG}, {"type": "image", "source": {"type": "url", "url": "https://a.b/c"}}
    ),
    "documents": asks(
        {
            "type": "document",
            "title": "t",
            "citations": {"enabled": True},
            "source": {"type": "text", "media_type": "text/plain", "data": "hello"},
        },
        {"type": "document", "source": PNG | {"media_type": "application/pdf"}},
    ),
    "search results": asks({"type": "search_result", "source": "s", "title": "t", "content": [TEXT]}),
    "structured output": {"output_config": {"format": FORMAT}},
    "thinking": {"thinking": {"type": "adaptive", "display": "summarized"}},
    "thinking off": {"thinking": {"type": "disabled"}},
    "the rest": {
        "metadata": {"user_id": "u"},
        "stop_sequences": ["END"],
        "service_tier": "standard_only",
        "inference_geo": "us",
        "container": "c_1",
    },
    "unknown fields": {"extra_body": {"brand_new": {"x": [1, None, "é"]}, "thinking": None}},
    "headers and query": {"extra_headers": {"x-mine": "1", "anthropic-beta": "b"}, "extra_query": {"beta": "true"}},
    "lone signs": {"messages": [{"role": "user", "content": "naïve 日本 \u2028 🎉"}]},
}


def message(model: str) -> dict[str, Any]:
    usage = {"input_tokens": 10, "output_tokens": 5}
    said = [{"type": "text", "text": '{"total": 4}', "citations": None}]
    made = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": said, "usage": usage}
    return made | {"stop_reason": "end_turn", "stop_sequence": None}


def events(model: str) -> bytes:
    whole = message(model)
    block, usage = whole["content"][0], whole["usage"]
    told: list[dict[str, Any]] = [
        {"type": "message_start", "message": whole | {"content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": block | {"text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": block["text"]}},
        {"type": "content_block_stop", "index": 0},
        {"type": "not_known_yet", "x": 1},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in told).encode()


class Wire:
    """A transport that keeps what was sent, and answers at once."""

    def __init__(self) -> None:
        self.sent: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.sent.append(request)
        body = json.loads(request.content) if request.content else {}
        model = body.get("model", HAIKU)
        if body.get("stream"):
            return httpx2.Response(200, content=events(model), headers={"content-type": "text/event-stream"})
        return httpx2.Response(200, json={"input_tokens": 7} if "count" in request.url.path else message(model))

    async def later(self, request: httpx2.Request) -> httpx2.Response:
        return self(request)

    def sync(self) -> httpx2.Client:
        return httpx2.Client(transport=httpx2.MockTransport(self))

    def asynchronous(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.MockTransport(self.later))

    def two(self) -> list[tuple[Any, ...]]:
        """The two requests, as far as they have to be equal."""
        return [(r.method, r.url, _headers(r), _without_model(json.loads(r.content))) for r in self.sent]


def _headers(request: httpx2.Request) -> dict[str, str]:
    ours = ("content-length", "idempotency-key", "x-stainless-timeout", "x-stainless-read-timeout")
    return {k: v for k, v in request.headers.items() if k not in (*ours, "x-stainless-raw-response")}


def _without_model(body: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != "model"}


class Sum(pydantic.BaseModel):
    total: int


def _streamed(messages: Any, body: Mapping[str, Any]) -> Any:
    with messages.stream(**body) as stream:
        return stream.get_final_message()


async def _astreamed(client: Any, body: Mapping[str, Any]) -> Any:
    async with client.messages.stream(**body) as stream:
        return await stream.get_final_message()


SURFACES: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "create": lambda client, body: client.messages.create(**body),
    "stream": lambda client, body: _streamed(client.messages, body),
    "raw": lambda client, body: client.messages.with_raw_response.create(**body).parse(),
    "beta": lambda client, body: client.beta.messages.create(betas=["some"], **body),
    "beta stream": lambda client, body: _streamed(client.beta.messages, body),
}
ASURFACES: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "create": lambda client, body: client.messages.create(**body),
    "stream": _astreamed,
}


@pytest.fixture(scope="module")
def router() -> Iterator[PreRouter]:
    with PreRouter.load(settings={"classifier": {"fall_through": "off"}}) as router:
        yield router


def body(feature: str, model: str, router: PreRouter) -> dict[str, Any]:
    plain = {"max_tokens": 1000, "messages": [{"role": "user", "content": "What is 2 + 2?"}]} | FEATURES[feature]
    forced = {} if model == HAIKU else {"dispatch_config": {"force_model": HAIKU}}
    return {"model": model, **plain, **forced}


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("surface", SURFACES)
def test_every_feature_arrives_as_it_was_given(router: PreRouter, surface: str, feature: str) -> None:
    wire = Wire()
    bare = anthropic.Anthropic(api_key="k", base_url="http://fake.invalid", http_client=wire.sync())
    replies = [
        SURFACES[surface](client, body(feature, model, router))
        for client, model in ((bare, HAIKU), (Dispatch(bare, router), "claude-dispatch"))
    ]
    theirs, ours = wire.two()
    assert ours == theirs
    assert replies[1].to_json() == replies[0].to_json()
    assert replies[1].routing.model == HAIKU


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("surface", ASURFACES)
def test_the_same_from_an_async_client(router: PreRouter, surface: str, feature: str) -> None:
    async def both(wire: Wire) -> list[Any]:
        bare = anthropic.AsyncAnthropic(api_key="k", base_url="http://fake.invalid", http_client=wire.asynchronous())
        pairs = ((bare, HAIKU), (AsyncDispatch(bare, router), "claude-dispatch"))
        return [await ASURFACES[surface](client, body(feature, model, router)) for client, model in pairs]

    wire = Wire()
    replies = asyncio.run(both(wire))
    theirs, ours = wire.two()
    assert ours == theirs
    assert replies[1].to_json() == replies[0].to_json()


def test_parsed_answers_and_counts_too(router: PreRouter) -> None:
    wire = Wire()
    bare = anthropic.Anthropic(api_key="k", base_url="http://fake.invalid", http_client=wire.sync())
    for client, model in ((bare, HAIKU), (Dispatch(bare, router), "claude-dispatch")):
        asked = body("nothing", model, router)
        assert client.messages.parse(output_format=Sum, **asked).parsed_output == Sum(total=4)
        counted = {key: value for key, value in asked.items() if key != "max_tokens"}
        assert client.messages.count_tokens(tools=[TOOL], **counted).input_tokens == 7
    parsed, counts, *ours = wire.two()
    assert ours == [parsed, counts]


# ------------------------------------------------------------------------------------------------ clouds

KINDS: dict[str, tuple[Callable[[httpx2.Client], Any], str]] = {
    "Bedrock": (
        lambda http: anthropic.AnthropicBedrock(
            aws_region="x", api_key="k", base_url="http://a.invalid", http_client=http
        ),
        f"/model/{HAIKU}/invoke",
    ),
    "Bedrock Mantle": (
        lambda http: anthropic.AnthropicBedrockMantle(
            aws_region="x", api_key="k", base_url="http://a.invalid", http_client=http
        ),
        "/v1/messages",
    ),
    "Vertex": (
        lambda http: anthropic.AnthropicVertex(
            region="r", project_id="p", access_token="t", base_url="http://a.invalid", http_client=http
        ),
        f"/projects/p/locations/r/publishers/anthropic/models/{HAIKU}:rawPredict",
    ),
    "Foundry": (
        lambda http: anthropic.AnthropicFoundry(api_key="k", base_url="http://a.invalid", http_client=http),
        "/v1/messages",
    ),
    "AWS": (
        lambda http: anthropic.AnthropicAWS(
            aws_region="x", api_key="k", workspace_id="w", base_url="http://a.invalid", http_client=http
        ),
        "/v1/messages",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_clients_of_clouds_work(router: PreRouter, kind: str) -> None:
    wire, (make, path) = Wire(), KINDS[kind]
    client = Dispatch(make(wire.sync()), router)
    asked = body("tools", "claude-dispatch", router)
    assert client.messages.create(**asked).routing.model == HAIKU
    assert wire.sent[0].url.path == path
    if kind == "Bedrock":
        with pytest.raises(UnsupportedRequest, match="use AnthropicBedrockMantle"):
            _streamed(client.messages, asked)
    else:
        assert _streamed(client.messages, asked).routing.attempts[0].outcome == "answered"
