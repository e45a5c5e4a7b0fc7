"""The fake Claude as the real SDK sees it: unscripted answers, streams, models, recording, and the server's life."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import anthropic
import fake_claude
import pydantic
import pytest
from fake_claude import Answer, Error, FakeClaude, Hang, Held, StreamReset
from fake_claude_models import MODELS
from fake_claude_rules import VERSIONS, check
from fake_claude_shapes import Rejected
from hypothesis import given, settings
from hypothesis import strategies as st

ASK: dict[str, Any] = {"model": "claude-haiku-5-5", "max_tokens": 500, "thinking": {"type": "disabled"}}
NAMES = [
    "model", "messages", "max_tokens", "system", "tools", "tool_choice", "output_config", "thinking", "cache_control",
    "speed", "role", "content", "type", "text", "source", "id", "input", "tool_use_id", "name", "input_schema",
    "strict", "format", "schema", "effort", "properties", "required", "enum", "anyOf", "items", "$ref", "$defs",
]  # fmt: skip
HI: Any = [{"role": "user", "content": "hi"}]


class Label(pydantic.BaseModel):
    label: Literal["simple", "moderate", "complex"]
    confidence: float


@pytest.fixture
def client(claude: FakeClaude) -> anthropic.Anthropic:
    return claude.client(max_retries=0)


def classify(client: anthropic.Anthropic, text: str = "hi", **kw: Any) -> Any:
    return client.messages.parse(messages=[{"role": "user", "content": text}], output_format=Label, **(ASK | kw))


# --- unscripted ----------------------------------------------------------------------------------------------------
def test_a_thinking_model_thinks_first_unless_told_not_to(client: anthropic.Anthropic) -> None:
    thinking = client.messages.create(messages=HI, model="claude-haiku-5-5", max_tokens=500)
    assert [(block.type, getattr(block, "thinking", None)) for block in thinking.content] == [
        ("thinking", ""),
        ("text", None),
    ]
    details = thinking.usage.output_tokens_details
    assert details
    assert details.thinking_tokens == 150 < thinking.usage.output_tokens
    plain = client.messages.create(messages=HI, **ASK)
    assert [block.type for block in plain.content] == ["text"]
    assert plain.stop_reason == "end_turn"
    assert plain._request_id == "req_fake000002"
    shown = client.messages.create(messages=HI, **ASK | {"thinking": {"type": "adaptive", "display": "summarized"}})
    assert shown.content[0].type == "thinking"
    assert shown.content[0].thinking


def test_too_small_a_limit_leaves_no_text(client: anthropic.Anthropic) -> None:
    reply = client.messages.create(messages=HI, model="claude-haiku-5-5", max_tokens=10)
    assert [block.type for block in reply.content] == ["thinking"]
    assert (reply.stop_reason, reply.usage.output_tokens) == ("max_tokens", 10)
    cut = client.messages.create(messages=HI, **ASK | {"max_tokens": 2})
    assert (cut.stop_reason, cut.content[0].type, len(cut.content[0].text)) == ("max_tokens", "text", 6)
    warmed = client.messages.create(messages=HI, **ASK | {"max_tokens": 0})
    assert (warmed.content, warmed.stop_reason, warmed.usage.output_tokens) == ([], "max_tokens", 0)


@pytest.mark.parametrize(
    ("text", "label"),
    [("hi", "simple"), ("Summarise this mail.", "moderate"), ("Prove that P is not NP.", "complex")],
)
def test_structured_answers_conform(client: anthropic.Anthropic, text: str, label: str) -> None:
    assert classify(client, text).parsed_output == Label(label=label, confidence=0.9)


def test_any_supported_schema_is_answered(client: anthropic.Anthropic) -> None:
    class Inner(pydantic.BaseModel):
        when: Literal["now"] | None
        tags: list[str]

    class Outer(pydantic.BaseModel):
        n: int
        inner: Inner
        id: str | None = None

    reply = client.messages.parse(messages=HI, output_format=Outer, **ASK)
    assert reply.parsed_output == Outer(n=1, inner=Inner(when="now", tags=[]))


def test_a_forced_tool_is_called_without_thinking(client: anthropic.Anthropic) -> None:
    props = {"label": {"type": "string", "enum": ["a", "b"]}, "more": {"type": "string"}}
    tool = {"name": "pick", "input_schema": {"type": "object", "properties": props, "required": ["label"]}}
    reply = client.messages.create(
        messages=HI, model="claude-haiku-5-5", max_tokens=500, tools=[tool], tool_choice={"type": "any"}
    )
    (block,) = reply.content
    assert (reply.stop_reason, block.type, block.name, block.input) == ("tool_use", "tool_use", "pick", {"label": "a"})


def test_aliases_resolve_and_longer_prompts_cost_more(client: anthropic.Anthropic) -> None:
    short = client.messages.create(model="claude-haiku-4-5", max_tokens=50, messages=HI)
    assert short.model == "claude-haiku-4-5-20251001"
    long = [{"role": "user", "content": "x" * 4000}]
    old = client.messages.count_tokens(model="claude-haiku-4-5", messages=long).input_tokens
    new = client.messages.count_tokens(model="claude-haiku-5-5", messages=long).input_tokens
    assert old == 1000 + short.usage.input_tokens - 1
    assert new == pytest.approx(1.3 * old, rel=0.01)


def test_prompt_cache_is_written_once_then_read_also_by_a_longer_conversation(client: anthropic.Anthropic) -> None:
    def usage(*texts: str, model: str = "claude-haiku-5-5") -> tuple[int, int, int]:
        turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        system = "s" * 4000
        used = client.messages.create(
            model=model, max_tokens=500, system=system, messages=turns, cache_control={"type": "ephemeral"}
        ).usage
        return used.input_tokens, used.cache_creation_input_tokens or 0, used.cache_read_input_tokens or 0

    first, again, longer = usage("hi"), usage("hi"), usage("hi", "hello", "more")
    assert (first[0], first[2], again) == (0, 0, (0, 0, first[1]))
    assert (longer[0], longer[2]) == (0, first[1])
    assert 0 < longer[1] < 100
    assert usage("hi", model="claude-sonnet-5-5")[2] == 0
    assert usage("hi", model="claude-opus-4-6")[1] == 0  # below its minimum of 4,096 tokens


def test_models(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    listed = [model.id for model in client.models.list(limit=4)]
    assert (len(listed), listed[2]) == (18, "claude-haiku-5-5")
    page = client.models.list(limit=2, before_id="claude-haiku-5-5")
    assert ([model.id for model in page.data], page.has_more) == (["claude-fable-5-2", "claude-mythos-5-2"], False)
    assert {model.lifecycle for model in client.models.list(lifecycle=["retired"])} == {"retired"}
    haiku = client.models.retrieve("claude-haiku-5-5")
    assert haiku.capabilities
    assert (haiku.max_tokens, haiku.line, haiku.capabilities.thinking.types.between_tools.supported) == (
        128_000,
        "haiku",
        False,
    )
    assert client.models.retrieve("claude-sonnet-4-5").lifecycle == "deprecated"
    with pytest.raises(anthropic.NotFoundError, match="claude-x"):
        client.models.retrieve("claude-x")
    claude.script(Error(503), path="/v1/models")
    with pytest.raises(anthropic.InternalServerError):
        client.models.list()


def test_success_carries_ids_and_rate_limits(client: anthropic.Anthropic) -> None:
    headers = client.messages.with_raw_response.create(messages=HI, **ASK).headers
    assert headers["request-id"] == "req_fake000001"
    for name in ("requests", "tokens", "input-tokens", "output-tokens"):
        limit, remaining = (headers[f"anthropic-ratelimit-{name}-{key}"] for key in ("limit", "remaining"))
        assert 0 < int(remaining) < int(limit)


# --- streams -------------------------------------------------------------------------------------------------------
def test_stream_events_come_in_order_and_add_up(client: anthropic.Anthropic) -> None:
    body: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 1000, "messages": HI}
    whole = client.messages.create(**body)
    with client.messages.create(stream=True, **body) as stream:
        kinds = [event.type for event in stream]
    thinking = ["content_block_start", "content_block_delta", "content_block_stop"]
    text = ["content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"]
    assert kinds == ["message_start", *thinking, *text, "message_delta", "message_stop"]
    with client.messages.stream(**body) as stream:
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert (final.content[1].text, final.usage) == (whole.content[1].text, whole.usage)
    with client.messages.stream(messages=HI, output_format=Label, **ASK) as parsed:
        assert parsed.get_final_message().parsed_output == Label(label="simple", confidence=0.9)


def test_a_forced_tool_streams_its_input_in_pieces(client: anthropic.Anthropic) -> None:
    props = {"text": {"type": "string", "enum": ["a longer piece of text"]}}
    tool = {"name": "f", "input_schema": {"type": "object", "properties": props, "required": ["text"]}}
    with client.messages.stream(messages=HI, tools=[tool], tool_choice={"type": "any"}, **ASK) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        (block,) = stream.get_final_message().content
    assert len(pieces) > 1
    assert block.type == "tool_use"
    assert block.input == {"text": "a longer piece of text"}


# --- the server ----------------------------------------------------------------------------------------------------
def test_what_arrived_is_recorded_without_the_key(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    client.messages.create(messages=HI, **ASK)
    client.messages.count_tokens(model="claude-opus-5-5", messages=HI)
    call, count = claude.requests
    assert claude.calls() == claude.calls("claude-haiku-5-5") == [call]
    assert claude.calls("claude-opus-5-5") == []
    assert (call.method, call.path, call.body["messages"], call.auth) == ("POST", "/v1/messages", HI, "bearer")
    assert (count.path, count.model) == ("/v1/messages/count_tokens", "claude-opus-5-5")
    assert call.headers["anthropic-version"] == "2026-10-21"
    assert "test-key" not in repr(claude.requests)


def test_two_hundred_calls_at_once(claude: FakeClaude) -> None:
    release = threading.Event()
    claude.always(Held(release, Answer("done")))

    async def ask_all() -> list[anthropic.types.Message]:
        async with claude.aclient(max_retries=0) as client:
            asking = asyncio.gather(*(client.messages.create(messages=HI, **ASK) for _ in range(200)))
            await asyncio.to_thread(claude.wait_for_calls, 200, 20)
            release.set()
            return await asking

    assert len(asyncio.run(ask_all())) == claude.in_flight_max == 200
    assert claude.in_flight == 0


def test_waiting_gives_up(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    with pytest.raises(TimeoutError, match="0 calls, not 1"):
        claude.wait_for_calls(1, timeout_s=0.01)
    release = threading.Event()
    claude.script(Held(release))
    asking = threading.Thread(target=client.messages.create, kwargs={"messages": HI, **ASK})
    asking.start()
    claude.wait_for_calls(1)
    with pytest.raises(TimeoutError, match="1 requests in flight"):
        claude.wait_until_idle(timeout_s=0.01)
    release.set()
    asking.join()


def test_closing_does_not_wait_for_what_hangs() -> None:
    caught: list[Exception] = []
    with FakeClaude() as claude:
        claude.always(Hang())
        client = claude.client(max_retries=0)

        def ask() -> None:
            try:
                client.messages.create(messages=HI, **ASK)
            except anthropic.APIConnectionError as error:
                caught.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        claude.wait_for_calls(1)
        start = time.monotonic()
    asking.join()
    assert time.monotonic() - start < 5
    assert len(caught) == 1


def test_connections_are_kept_and_bodies_may_be_announced(claude: FakeClaude) -> None:
    body = json.dumps({"model": "claude-haiku-5-5", "max_tokens": 9, "messages": HI}).encode()
    head = (
        "POST /v1/messages HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nAuthorization: Bearer test-key\r\n"
        f"anthropic-version: 2026-10-21\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", claude.port), timeout=5) as peer:
        for _ in range(2):
            peer.sendall(head)
            assert peer.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            peer.sendall(body)
            reply = http.client.HTTPResponse(peer)
            reply.begin()
            assert json.loads(reply.read())["stop_reason"] == "max_tokens"
            reply.close()
        peer.sendall(b"nonsense\r\n\r\n")
        assert peer.recv(1000).startswith(b"HTTP/1.1 400")


def test_another_key_and_another_answer() -> None:
    with FakeClaude(valid_key="k2", answer=lambda body: {"label": "moderate", "confidence": 1.0}) as claude:
        assert classify(claude.client(max_retries=0)).parsed_output == Label(label="moderate", confidence=1.0)
        with pytest.raises(anthropic.AuthenticationError):
            classify(claude.client(max_retries=0, api_key="test-key"))


def _raises(body: Any) -> str:
    raise KeyError("in the answer")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["", "text", "tool_use", "object", "ephemeral", "#/$defs/a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
)


@settings(max_examples=500, deadline=None)
@given(patch=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=3), version=st.sampled_from(VERSIONS))
def test_no_body_is_a_fault_of_the_fake(patch: dict[str, Any], version: str) -> None:
    with contextlib.suppress(Rejected):
        check(ASK | {"messages": HI} | patch, version, MODELS)


@pytest.mark.parametrize(
    ("answer", "outcome", "fault"),
    [(_raises, Answer(), KeyError), (lambda body: "x", StreamReset(), TypeError)],
)
def test_a_fault_of_the_test_itself_is_raised_at_the_end(
    answer: Callable[[Any], str], outcome: fake_claude.Outcome, fault: type[Exception]
) -> None:
    claude = FakeClaude(answer=answer).start()
    claude.script(outcome)
    with pytest.raises(anthropic.InternalServerError, match="fault of the fake itself"):
        claude.client(max_retries=0).messages.create(messages=HI, **ASK)
    with pytest.raises(fault):
        claude.close()


def test_a_retired_model_is_gone(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    del claude.models["claude-haiku-5-5"]
    with pytest.raises(anthropic.NotFoundError, match="model: claude-haiku-5-5"):
        client.messages.create(messages=HI, **ASK)


def test_it_runs_by_hand() -> None:
    command = [sys.executable, str(Path(__file__).parent / "fake_claude.py"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout
        assert server.stderr
        url = server.stdout.readline().strip()
        with anthropic.Anthropic(api_key="test-key", base_url=url) as client:
            client.messages.create(messages=HI, **ASK)
        assert server.stderr.readline() == "POST /v1/messages claude-haiku-5-5 200\n"
        server.terminate()
