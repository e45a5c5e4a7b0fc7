"""What the fake Claude bills, and outcomes for some calls only."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import anthropic
import httpx2
import pytest
from fake_claude import (
    Answer,
    CutJson,
    Drip,
    Error,
    FakeClaude,
    MaxTokens,
    Refusal,
    StreamCutClean,
    StreamCutEvent,
    StreamErrorEvent,
    StreamReset,
    asks_for_label,
)

HI: Any = [{"role": "user", "content": "hi"}]
ASK: dict[str, Any] = {"model": "claude-opus-5-5", "max_tokens": 1000, "messages": HI}
ENUM = {"type": "object", "properties": {"label": {"enum": ["a", "b"]}}, "required": ["label"]}
LABEL: Any = {"format": {"type": "json_schema", "schema": ENUM | {"additionalProperties": False}}}


@pytest.fixture
def client(claude: FakeClaude) -> anthropic.Anthropic:
    return claude.client(max_retries=0)


def test_a_bill_is_usage_at_list_price(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    used = client.messages.create(**ASK, system="s" * 4000, cache_control={"type": "ephemeral", "ttl": "1h"}).usage
    written = used.cache_creation_input_tokens or 0
    assert (used.input_tokens, written > 1000) == (0, True)
    assert claude.billed() == (20 * used.output_tokens + 8 * written) * Decimal("1e-6")
    client.messages.create(**ASK, inference_geo="us", speed="fast")
    plain = client.messages.create(**ASK).usage
    assert claude.bills[1].usd == claude.bills[2].usd * Decimal("2.2")
    assert claude.bills[2].usd == (4 * plain.input_tokens + 20 * plain.output_tokens) * Decimal("1e-6")
    with client.messages.stream(**ASK) as stream:
        stream.until_done()
    assert claude.bills[3] == claude.bills[2]


def test_a_long_prompt_costs_haiku_more_for_every_token(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    long = [{"role": "user", "content": "x" * 400_000}]
    used = client.messages.create(**ASK | {"model": "claude-haiku-5-5", "messages": long}).usage
    assert used.input_tokens > 100_000
    assert claude.billed() == (Decimal("0.5") * used.input_tokens + Decimal("2.5") * used.output_tokens) * Decimal(
        "1e-6"
    )


@pytest.mark.parametrize(
    ("outcome", "free"),
    [(Error(529), True), (Refusal(), True), (Refusal(partial="I can"), False), (MaxTokens(), False)],
)
def test_what_is_free(claude: FakeClaude, client: anthropic.Anthropic, outcome: Any, free: bool) -> None:
    claude.always(outcome)
    try:
        client.messages.create(**ASK)
    except anthropic.APIStatusError:
        assert claude.bills == []
    assert (claude.billed() == 0) is free


@pytest.mark.parametrize("kind", [StreamCutClean, StreamReset, StreamErrorEvent, StreamCutEvent])
@pytest.mark.parametrize(
    ("after", "seen"),
    [
        ("headers", []),
        ("start", ["message_start"]),
        ("delta", ["thinking"]),
        ("text", ["thinking", "text"]),
        ("stop", ["thinking", "text", "message_delta"]),
    ],
)
def test_a_stream_breaks_where_it_is_told_to(
    claude: FakeClaude, client: anthropic.Anthropic, kind: Any, after: Any, seen: list[str]
) -> None:
    claude.script(kind(after=after))
    events: list[Any] = []
    try:
        with client.messages.create(**ASK, stream=True) as stream:
            events.extend(stream)
    except (httpx2.ReadError, httpx2.RemoteProtocolError, anthropic.APIStatusError, ValueError):
        assert kind is not StreamCutClean
    else:
        assert kind in (StreamCutClean, StreamCutEvent)  # the SDK drops an event that is not finished
    names = [event.content_block.type if event.type == "content_block_start" else event.type for event in events]
    kept = [name for name in names if name in ("thinking", "text", "message_delta", "message_stop")]
    assert (kept or names[:1]) == seen
    last = next((event.usage for event in reversed(events) if event.type == "message_delta"), None)
    spent = last or (events[0].message.usage if events else None)
    assert claude.bills[0].told is bool(events)
    if spent:
        assert claude.billed() == (4 * claude.bills[0].usage["input_tokens"] + 20 * spent.output_tokens) * Decimal(
            "1e-6"
        )


def test_a_reply_that_was_cut_is_billed_and_not_told(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    claude.script(CutJson())
    with pytest.raises(json.JSONDecodeError):
        client.messages.create(**ASK)
    assert claude.billed(told=False) == claude.billed() > 0


def test_a_stream_whose_reader_leaves_is_billed_from_its_start(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    claude.script(Drip(30.0))
    with client.messages.create(**ASK, stream=True) as stream:
        assert next(iter(stream)).type == "message_start"
    claude.wait_until_idle()
    assert claude.bills[0].usage["output_tokens"] == 1
    assert claude.bills[0].told


def test_outcomes_for_some_calls_only(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    claude.always(Error(529), when="claude-opus-5-5")
    claude.script(Answer({"label": "b"}), when=asks_for_label)
    claude.script(Answer("plain"), Answer("again"), when="claude-haiku-5-5")
    haiku = {"model": "claude-haiku-5-5", "thinking": {"type": "disabled"}}
    said = [client.messages.create(**ASK | haiku | extra).content[0] for extra in ({"output_config": LABEL}, {}, {})]
    assert [block.text for block in said if block.type == "text"] == ['{"label": "b"}', "plain", "again"]
    for _ in range(2):
        with pytest.raises(anthropic.APIStatusError):
            client.messages.create(**ASK)
    claude.always(None, when="claude-opus-5-5")
    assert client.messages.create(**ASK).model == "claude-opus-5-5"


def test_a_reply_may_name_another_model_and_is_billed_as_its_own(
    claude: FakeClaude, client: anthropic.Anthropic
) -> None:
    claude.script(Answer(served="claude-opus-5"))
    assert client.messages.create(**ASK).model == "claude-opus-5"
    assert claude.bills[0].model == "claude-opus-5"


def test_beta_fields_need_a_beta(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    fields: Any = {"context_management": {"edits": []}}
    client.beta.messages.create(**ASK, betas=["context-management-2025-06-27"], **fields)
    with pytest.raises(anthropic.BadRequestError, match="Extra inputs"):
        client.messages.create(**ASK, extra_body=fields)
