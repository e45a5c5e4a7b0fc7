"""Thinking blocks and tool loops at the fake Claude, with the real SDK."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from fake_claude import Blocks, FakeClaude, ToolUse

TOOL: Any = {"name": "f", "input_schema": {"type": "object"}}
HI: dict[str, Any] = {"role": "user", "content": "hi"}
MODELS = ("claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5")


@pytest.fixture
def client(claude: FakeClaude) -> anthropic.Anthropic:
    return claude.client(max_retries=0)


def step(client: anthropic.Anthropic, turns: list[Any], model: str, **kw: Any) -> list[Any]:
    """`turns` with the model's answer."""
    reply = client.messages.create(model=model, max_tokens=900, messages=turns, tools=[TOOL], **kw)
    return [*turns, {"role": "assistant", "content": [block.to_dict() for block in reply.content]}]


def results(turns: list[Any]) -> list[Any]:
    calls = [block["id"] for block in turns[-1]["content"] if block["type"] == "tool_use"]
    said = [{"type": "tool_result", "tool_use_id": name, "content": "42"} for name in calls]
    return [*turns, {"role": "user", "content": said}]


def without_thoughts(turns: list[Any]) -> list[Any]:
    def kept(content: Any) -> Any:
        return content if isinstance(content, str) else [b for b in content if b["type"] != "thinking"]

    return [turn | {"content": kept(turn["content"])} for turn in turns]


def test_a_loop_of_five_steps_on_one_model_is_legal(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    claude.script(*[ToolUse("f", {"x": i}, times=1 + i % 2) for i in range(4)])
    turns = [HI]
    for _ in range(4):
        turns = results(step(client, turns, "claude-opus-5-5"))
    kinds = [block["type"] for block in step(client, turns, "claude-opus-5-5")[-1]["content"]]
    assert kinds == ["thinking", "text"]


@pytest.mark.parametrize("model", MODELS)
def test_a_thought_of_another_model_is_refused_and_none_is_missed(
    claude: FakeClaude, client: anthropic.Anthropic, model: str
) -> None:
    turns = [*step(client, [HI], "claude-opus-5-5"), HI]
    if model == "claude-opus-5-5":
        step(client, turns, model)
    else:
        with pytest.raises(anthropic.BadRequestError, match="another model"):
            step(client, turns, model)
    step(client, without_thoughts(turns), model)


def test_within_a_loop_a_thought_may_not_be_dropped(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    claude.script(ToolUse("f"))
    turns = results(step(client, [HI], "claude-sonnet-5-5"))
    with pytest.raises(anthropic.BadRequestError, match="cannot be modified"):
        step(client, without_thoughts(turns), "claude-sonnet-5-5")
    step(client, turns, "claude-sonnet-5-5")


@pytest.mark.parametrize(
    "edit",
    [
        lambda turns: [turns[0] | {"content": "hello"}, *turns[1:]],
        lambda turns: [turns[0], turns[0], *turns[1:]],
    ],
)
def test_an_edited_history_breaks_its_thoughts(client: anthropic.Anthropic, edit: Any) -> None:
    turns = [*step(client, [HI], "claude-opus-5-5"), HI]
    with pytest.raises(anthropic.BadRequestError, match="different conversation"):
        step(client, edit(turns), "claude-opus-5-5")


def test_marks_and_blocks_instead_of_strings_do_not_edit_it(client: anthropic.Anthropic) -> None:
    turns = [*step(client, [HI], "claude-opus-5-5"), HI]
    text = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
    step(client, [{"role": "user", "content": [text]}, *turns[1:]], "claude-opus-5-5")


def test_an_unknown_signature_is_refused(client: anthropic.Anthropic) -> None:
    thought = {"type": "thinking", "thinking": "", "signature": "c2ltdWxhdGVk"}
    turns = [HI, {"role": "assistant", "content": [thought, {"type": "text", "text": "x"}]}, HI]
    for model in (*MODELS, "claude-opus-4-8"):
        with pytest.raises(anthropic.BadRequestError, match="Invalid `signature`"):
            step(client, turns, model)


def test_any_content_can_be_said_and_streamed(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    cited = {
        "type": "char_location", "cited_text": "x", "document_index": 0, "document_title": None, "file_id": None,
        "start_char_index": 0, "end_char_index": 1,
    }  # fmt: skip
    content = (
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "A simulated answer.", "citations": [cited]},
    )
    claude.script(Blocks(content, "pause_turn"), Blocks(content, "pause_turn"))
    body: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 900, "messages": [HI]}
    whole = client.messages.create(**body)
    with client.messages.stream(**body) as stream:
        final = stream.get_final_message()
    assert [block.type for block in whole.content[1:]] == [block["type"] for block in content]
    assert [block.to_dict() for block in final.content] == [block.to_dict() for block in whole.content]
    assert (final.stop_reason, whole.stop_reason) == ("pause_turn", "pause_turn")
