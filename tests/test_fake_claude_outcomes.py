"""Every scripted outcome of the fake Claude as the real SDK meets it."""

from __future__ import annotations

import json
import time
from typing import Any, Literal

import anthropic
import fake_claude
import httpx2
import pydantic
import pytest
from fake_claude import (
    Answer,
    CutJson,
    Drip,
    EmptyEndTurn,
    Error,
    FakeClaude,
    Hang,
    InvalidLabel,
    MaxTokens,
    OffSchema,
    Refusal,
    Reset,
    StreamCutClean,
    StreamErrorEvent,
    StreamReset,
    ToolUse,
    TruncatedAnswer,
)

ASK: dict[str, Any] = {"model": "claude-haiku-5-5", "max_tokens": 500, "thinking": {"type": "disabled"}}
HI: Any = [{"role": "user", "content": "hi"}]


class Label(pydantic.BaseModel):
    label: Literal["simple", "moderate", "complex"]
    confidence: float


@pytest.fixture
def client(claude: FakeClaude) -> anthropic.Anthropic:
    return claude.client(max_retries=0)


def classify(client: anthropic.Anthropic, text: str = "hi", **kw: Any) -> Any:
    return client.messages.parse(messages=[{"role": "user", "content": text}], output_format=Label, **(ASK | kw))


def test_scripted_fields_replace_those_of_the_default(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    claude.script(Answer({"label": "complex"}), Answer({"confidence": 0.5}))
    assert classify(client).parsed_output == Label(label="complex", confidence=0.9)
    assert classify(client).parsed_output == Label(label="simple", confidence=0.5)


@pytest.mark.parametrize(
    ("outcome", "text", "stop"),
    [
        (Answer("Hello."), "Hello.", "end_turn"),
        (Answer("Hel", "stop_sequence"), "Hel", "stop_sequence"),
        (MaxTokens(), "", "max_tokens"),
        (MaxTokens(with_text=True), "A simulated answer.", "max_tokens"),
        (EmptyEndTurn(), "", "end_turn"),
        (Refusal(), "", "refusal"),
        (Refusal("bio", "I can"), "I can", "refusal"),
        (OffSchema(), '{"surprise": [1, 2, 3]}', "end_turn"),
        (OffSchema([1]), "[1]", "end_turn"),
        (TruncatedAnswer(), "A simulat", "max_tokens"),
        (Drip(0.05), "A simulated answer.", "end_turn"),
    ],
)
def test_what_the_model_says(
    claude: FakeClaude, client: anthropic.Anthropic, outcome: fake_claude.Outcome, text: str, stop: str
) -> None:
    claude.script(outcome)
    reply = client.messages.create(messages=HI, **ASK)
    assert ("".join(block.text for block in reply.content if block.type == "text"), reply.stop_reason) == (text, stop)
    if isinstance(outcome, Refusal):
        assert reply.stop_details
        assert reply.stop_details.category == outcome.category
    assert client.messages.create(messages=HI, **ASK).content[0].type == "text"


@pytest.mark.parametrize("outcome", [InvalidLabel(), Answer({"label": "simple"}, upper=True), TruncatedAnswer()])
def test_answers_that_do_not_parse(
    claude: FakeClaude, client: anthropic.Anthropic, outcome: fake_claude.Outcome
) -> None:
    claude.script(outcome)
    with pytest.raises(pydantic.ValidationError):
        classify(client)
    claude.script(Refusal())
    assert classify(client).parsed_output is None


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (401, "authentication_error", anthropic.AuthenticationError),
        (402, "billing_error", anthropic.APIStatusError),
        (403, "permission_error", anthropic.PermissionDeniedError),
        (404, "not_found_error", anthropic.NotFoundError),
        (409, "conflict_error", anthropic.ConflictError),
        (413, "request_too_large", anthropic.APIStatusError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (500, "api_error", anthropic.InternalServerError),
        (504, "timeout_error", anthropic.InternalServerError),
        (529, "overloaded_error", anthropic.InternalServerError),
    ],
)
def test_errors(
    claude: FakeClaude, client: anthropic.Anthropic, status: int, kind: str, error: type[anthropic.APIStatusError]
) -> None:
    claude.script(Error(status, code="some_code", retry_after=86400, headers={"x-more": "1"}))
    with pytest.raises(error) as caught:
        client.messages.create(messages=HI, **ASK)
    said = caught.value
    assert (said.status_code, said.type, said.error_code) == (status, kind, "some_code")
    assert said.request_id == "req_fake000001" == said.body["request_id"]
    assert (said.response.headers["retry-after"], said.response.headers["x-more"]) == ("86400", "1")


def test_the_sdk_retries_and_says_so_unless_told_not_to(claude: FakeClaude) -> None:
    client = claude.client(max_retries=1)
    quick = {"retry-after-ms": "1"}
    claude.script(Error(529, headers=quick), Answer("Hello."), Error(529, x_should_retry=False))
    assert client.messages.create(messages=HI, **ASK).content[0].type == "text"
    assert [call.retry_count for call in claude.calls()] == [0, 1]
    with pytest.raises(anthropic.InternalServerError):
        client.messages.create(messages=HI, **ASK)
    assert len(claude.calls()) == 3


def test_always_holds_until_it_is_lifted(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    claude.always(Error(429))
    claude.script(Answer("once"))
    assert client.messages.create(messages=HI, **ASK).content[0].type == "text"
    for _ in range(2):
        with pytest.raises(anthropic.RateLimitError):
            client.messages.create(messages=HI, **ASK)
    claude.always(None)
    client.messages.create(messages=HI, **ASK)


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (CutJson(), json.JSONDecodeError),
        (Reset(), anthropic.APIConnectionError),
        (Reset(mid_body=True), anthropic.APIConnectionError),
        (Hang(), anthropic.APITimeoutError),
        (Hang(0.01), anthropic.APIConnectionError),
        (Answer("late", delay_s=60), anthropic.APITimeoutError),
    ],
)
def test_broken_transport(claude: FakeClaude, outcome: fake_claude.Outcome, error: type[Exception]) -> None:
    claude.script(outcome)
    with pytest.raises(error):
        claude.client(max_retries=0, timeout=0.3).messages.create(messages=HI, **ASK)
    claude.wait_until_idle()


@pytest.mark.parametrize("headers", [False, True])
def test_a_drip_defeats_a_timeout_per_read(claude: FakeClaude, headers: bool) -> None:
    claude.script(Drip(0.6, headers=headers))
    start = time.monotonic()
    reply = claude.client(max_retries=0, timeout=0.3).messages.create(messages=HI, **ASK)
    assert time.monotonic() - start > 0.5
    assert reply.stop_reason == "end_turn"


def test_a_tool_loop_goes_round(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    tools: Any = [{"name": "add", "input_schema": {"type": "object"}}]
    claude.script(ToolUse("add", {"a": 1}), ToolUse("add"))
    turns = list(HI)
    for _ in range(2):
        reply = client.messages.create(model="claude-sonnet-5-5", max_tokens=900, messages=turns, tools=tools)
        assert (reply.stop_reason, [block.type for block in reply.content]) == ("tool_use", ["thinking", "tool_use"])
        done = {"type": "tool_result", "tool_use_id": reply.content[1].id, "content": "2"}
        turns += [reply.to_param(), {"role": "user", "content": [done]}]
    last = client.messages.create(model="claude-sonnet-5-5", max_tokens=900, messages=turns, tools=tools)
    assert last.stop_reason == "end_turn"


def test_broken_streams(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    def final() -> Any:
        with client.messages.stream(messages=HI, **ASK) as stream:
            return stream.get_final_message()

    claude.script(StreamCutClean(), StreamReset(), StreamErrorEvent(), Reset(mid_body=True))
    cut = final()
    assert (cut.stop_reason, cut.content[0].text) == (None, "A simulated ")
    with pytest.raises(httpx2.ReadError):
        final()
    with pytest.raises(anthropic.APIStatusError) as error:
        final()
    assert (error.value.status_code, error.value.type) == (200, "overloaded_error")
    with pytest.raises(httpx2.ReadError):
        final()
    assert final().stop_reason == "end_turn"
