from __future__ import annotations

from typing import Any

import pytest

from prerouter import thoughts


def _user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else list(content)}


def _assistant(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content[0] if isinstance(content[0], str) else list(content)}


TEXT = {"type": "text", "text": "yes"}
CALL, RESULT = (
    {"type": "tool_use", "id": "t1", "name": "n", "input": {}},
    {"type": "tool_result", "tool_use_id": "t1", "content": "3"},
)
THOUGHT, HIDDEN = {"type": "thinking", "thinking": "", "signature": "s1"}, {"type": "redacted_thinking", "data": "d1"}
SYSTEM = {"role": "system", "content": "be brief"}


@pytest.mark.parametrize(
    ("messages", "begins"),
    [
        ([], 0),
        ([_user("hi")], 1),
        ([_user("hi"), _assistant("yes"), _user("why")], 3),
        ([_user("hi"), _assistant(CALL), _user(RESULT)], 1),
        ([_user("hi"), _assistant(CALL), _user(RESULT, TEXT)], 1),
        ([_user("hi"), _assistant(CALL), _user(RESULT), _assistant(CALL), _user(RESULT)], 1),
        ([_user("a"), _assistant("b"), _user("c"), _assistant(CALL), _user(RESULT)], 3),
        ([_user("a"), _assistant(CALL), _user(RESULT), _assistant("b"), _user("c")], 5),
        ([_user("a"), _assistant(CALL), _user(RESULT), SYSTEM], 1),
        ([_user("a"), _assistant("b"), _user("c"), SYSTEM], 4),
        ([_user("a"), SYSTEM, _assistant(CALL), _user(RESULT)], 1),
        ([_user("a"), _assistant("paused")], 1),
        ([_assistant(CALL), _user(RESULT)], 0),
        ([3, None, "x"], 0),
    ],
)
def test_where_the_unfinished_turn_begins(messages: list[Any], begins: int) -> None:
    assert thoughts.unfinished(messages) == begins


def test_blocks_are_left_out_up_to_a_place_and_only_foreign_ones() -> None:
    mine = {"type": "thinking", "thinking": "", "signature": "mine"}
    messages = [_user("a"), _assistant(THOUGHT, mine, HIDDEN, TEXT), _user("b"), _assistant(THOUGHT, CALL)]
    kept, gone = thoughts.without(messages, 3, lambda block: block is not mine)
    assert (kept, gone) == ([_user("a"), _assistant(mine, TEXT), _user("b"), _assistant(THOUGHT, CALL)], 2)
    assert messages[1] == _assistant(THOUGHT, mine, HIDDEN, TEXT)
    assert kept[0] is messages[0]


def test_a_message_of_which_nothing_is_left_goes_too() -> None:
    kept, gone = thoughts.without([_user("a"), _assistant(THOUGHT), _user("b")], 3, lambda block: True)
    assert (kept, gone) == ([_user("a"), _user("b")], 1)


def test_nothing_foreign_is_the_same_list() -> None:
    messages = [_user("a"), _assistant(THOUGHT, TEXT), _assistant("b"), _assistant([])]
    assert thoughts.without(messages, 4, lambda block: False) == (messages, 0)
    assert thoughts.without(messages, 4, lambda block: False)[0] is messages


def test_thinking_is_found_in_answers_only() -> None:
    messages = [_user(THOUGHT), _assistant(THOUGHT, TEXT, HIDDEN), _assistant("x"), 3, _assistant(None, "y")]
    assert thoughts.thinking(messages) == [THOUGHT, HIDDEN]


def test_an_answer_is_known_again_by_its_words_and_calls() -> None:
    same = [_assistant("yes"), _assistant(TEXT), _assistant(THOUGHT, TEXT), _assistant({**TEXT, "citations": None})]
    assert len({thoughts.gist(message) for message in same}) == 1
    other = [_assistant("no"), _assistant(TEXT, CALL), _assistant(CALL), _assistant({**CALL, "id": "t2"}), {}]
    other += [_assistant("x" * 5_000), _assistant("x" * 5_001), _assistant("\ud800"), _user(RESULT)]
    assert len({thoughts.gist(message) for message in [same[0], *other]}) == 1 + len(other)


def test_a_block_is_known_by_its_signature_or_data() -> None:
    assert thoughts.stamp(THOUGHT) == thoughts.stamp({**THOUGHT, "thinking": "shown"})
    assert len({thoughts.stamp(THOUGHT), thoughts.stamp(HIDDEN), thoughts.stamp({**HIDDEN, "data": "d2"})}) == 3


def test_bodies_that_are_no_bodies_have_no_messages() -> None:
    assert thoughts.messages_of({}) == thoughts.messages_of({"messages": "hi"}) == []
