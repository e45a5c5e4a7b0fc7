from __future__ import annotations

from typing import Any

import pytest

from prerouter.promptsize import FILE_TOKENS, IMAGE_TOKENS, LEAST_SHARE, measure
from prerouter.tiers import TierTable

TABLE = TierTable.load()
OLD, NEW = TABLE.model("claude-opus-4-6"), TABLE.model("claude-haiku-5-5")
WORDS = "The quick brown fox jumps over the lazy dog. "


def _said(content: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **fields}


def test_english_has_four_characters_a_token_and_newer_tokenizers_count_more() -> None:
    size = measure(_said(WORDS * 1_000))
    assert size.prompt_tokens(OLD) == pytest.approx(len(WORDS) * 1_000 / 4, rel=0.001)
    assert size.prompt_tokens(NEW) == pytest.approx(1.3 * size.prompt_tokens(OLD), rel=0.001)
    assert size.least(NEW) == int(size.prompt_tokens(NEW) * LEAST_SHARE)


@pytest.mark.parametrize(("text", "tokens"), [("猫", 1.25), ("кот", 2.25), ("\ud800", 1.25)])
def test_other_scripts_have_more_tokens_a_character(text: str, tokens: float) -> None:
    assert measure(_said(text * 1_000)).text == pytest.approx(tokens * 1_000, abs=6)


def test_text_counts_wherever_it_stands() -> None:
    text = WORDS * 100
    places: list[dict[str, Any]] = [
        _said(text),
        _said([{"type": "text", "text": text}]),
        _said("", system=text),
        _said("", system=[{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]),
        _said([{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": text}]}]),
        _said([{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": text}}]),
        _said([{"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": text}]}}]),
        _said([{"type": "tool_use", "id": "t", "name": "n", "input": {"a": [{"b": text}]}}]),
        _said("", tools=[{"name": "n", "description": text, "input_schema": {"type": "object"}}]),
        _said("", output_config={"format": {"type": "json_schema", "schema": {"description": text}}}),
        _said([{"type": "thinking", "thinking": text, "signature": ""}]),
    ]
    for place in places:
        assert len(text) / 4 <= measure(place).text < len(text) / 4 + 40, place


def test_a_schemas_properties_may_be_called_role_and_content_and_type() -> None:
    words = {"description": WORDS * 10}
    schema = {"type": "object", "properties": {"role": words, "type": words, "text": words, "source": words}}
    assert measure(_said("", tools=[{"name": "n", "input_schema": schema}])).text > 4 * len(WORDS) * 10 / 4


def test_encoded_data_is_not_counted_as_text() -> None:
    data = "QUJD" * 100_000
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    assert measure(_said([image, image])).media == 2 * IMAGE_TOKENS
    assert measure(_said([image])).text < 20
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": data}}
    assert 10_000 < measure(_said([pdf])).media < 40_000
    named = [{"type": "document", "source": {"type": "file", "file_id": "f"}, "title": "Annual report"}]
    assert measure(_said(named)).media == FILE_TOKENS
    thought = {"type": "redacted_thinking", "data": "A" * 4_000}
    assert measure(_said([thought])).text == pytest.approx(750, abs=5)


def test_tools_add_the_prompt_that_the_api_hides() -> None:
    sonnet = TABLE.model("claude-sonnet-5")
    tools = {"tools": [{"name": "n", "input_schema": {}}]}
    bare, auto = measure(_said("hi", **tools)), measure(_said("hi", **tools, tool_choice={"type": "any"}))
    assert bare.prompt_tokens(sonnet) - measure(_said("hi")).prompt_tokens(sonnet) > 354
    assert auto.prompt_tokens(sonnet) - bare.prompt_tokens(sonnet) == 474 - 354
    assert bare.prompt_tokens(NEW) < 40  # not known of it


@pytest.mark.parametrize(
    ("body", "write"),
    [
        (_said("hi"), None),
        (_said("hi", cache_control={"type": "ephemeral"}), "5m"),
        (_said([{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]), "1h"),
        (_said("hi", tools=[{"name": "n", "cache_control": {"type": "ephemeral", "ttl": "5m"}}]), "5m"),
        (_said([{"type": "image", "source": {"type": "url"}, "cache_control": {"type": "ephemeral"}}]), "5m"),
        (_said([{"type": "text", "text": "hi", "cache_control": None}]), None),
    ],
)
def test_the_lifetime_of_the_cache_marks_is_known(body: dict[str, Any], write: str | None) -> None:
    assert measure(body).write == write


def test_no_body_is_too_odd_to_measure() -> None:
    deep: Any = "x"
    for _ in range(50_000):
        deep = [deep]
    odd = [{}, {"messages": None}, {"messages": "x", "tools": 3}, _said([1, None, True, {"type": ["text"]}])]
    odd += [_said([{"type": "image", "source": 3}, {"type": "thinking", "signature": 4}]), {"cache_control": 3}]
    for body in [*odd, _said(deep), _said([{1: {2: "x"}}])]:
        assert measure(body).text >= 0
    while isinstance(deep, list):  # taken apart here: Python's own destructor would recurse
        deep = deep[0]
