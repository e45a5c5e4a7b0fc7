"""read: what a legal body is, and where an illegal one is wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import anthropic
import pytest
from anthropic.types import Message

from prerouter.body import read
from prerouter.errors import InvalidRequest


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def messages(*given: Any) -> dict[str, Any]:
    return {"messages": list(given)}


def document(source: Any) -> dict[str, Any]:
    return messages(user([{"type": "document", "source": source}]))


def returned(content: Any) -> dict[str, Any]:
    return messages(user([{"type": "tool_result", "tool_use_id": "t", "content": content}]))


HI = {"role": "user", "content": "Hi"}
NAMELESS = [{"input_schema": {}}]
WRONG: dict[str, tuple[Any, str]] = {
    "a list": ([HI], "request"),
    "no messages": ({"model": "claude-haiku-5-5"}, "messages"),
    "messages null": ({"messages": None}, "messages"),
    "messages a string": ({"messages": "Hi"}, "messages"),
    "messages a dict": ({"messages": HI}, "messages"),
    "no message": (messages(), "messages"),
    "a message that is a string": (messages("Hi"), "messages[0].role"),
    "no role": (messages({"content": "Hi"}), "messages[0].role"),
    "a role of another API": (messages(HI, {"role": "tool", "content": "x"}), "messages[1].role"),
    "a role that is a list": (messages({"role": ["user"], "content": "Hi"}), "messages[0].role"),
    "no content": (messages({"role": "user"}), "messages[0].content"),
    "content a number": (messages(HI, HI, user(5)), "messages[2].content"),
    "content bytes": (messages(user(b"Hi")), "messages[0].content"),
    "content one block": (messages(user({"type": "text", "text": "Hi"})), "messages[0].content"),
    "a block that is a string": (messages(HI, user(["Hi"])), "messages[1].content[0].type"),
    "a block without a type": (messages(user([{"text": "Hi"}])), "messages[0].content[0].type"),
    "a type that is no string": (messages(user([{"type": 5}])), "messages[0].content[0].type"),
    "text missing": (messages(user([{"type": "text"}])), "messages[0].content[0].text"),
    "text a number": (messages(user([{"type": "text", "text": 5}])), "messages[0].content[0].text"),
    "a result that is a number": (returned(5), "messages[0].content[0].content"),
    "a result with a bad block": (returned([{"type": "text"}]), "messages[0].content[0].content[0].text"),
    "a document without source": (document(None), "messages[0].content[0].source"),
    "a text source without data": (document({"type": "text"}), "messages[0].content[0].source.data"),
    "a source with bad content": (
        document({"type": "content", "content": [5]}),
        "messages[0].content[0].source.content[0].type",
    ),
    "system a number": ({**messages(HI), "system": 5}, "system"),
    "system with a bad block": ({**messages(HI), "system": [{"type": "text"}]}, "system[0].text"),
    "a system message with a bad block": (
        messages(HI, {"role": "system", "content": [5]}),
        "messages[1].content[0].type",
    ),
    "tools a string": ({**messages(HI), "tools": "search"}, "tools"),
    "a tool without a name": ({**messages(HI), "tools": NAMELESS}, "tools[0]"),
}


@pytest.mark.parametrize(("body", "where"), WRONG.values(), ids=WRONG)
def test_an_illegal_body_says_what_where_and_the_next_step(body: Any, where: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(body)
    assert caught.value.where == where
    assert caught.value.what
    assert caught.value.next_step


def test_an_iterator_is_refused_unread() -> None:
    def given() -> Iterator[dict[str, Any]]:
        yield HI

    iterator = given()
    with pytest.raises(InvalidRequest, match="pass a list"):
        read({"messages": iterator})
    assert next(iterator) == HI


@pytest.mark.parametrize("place", ["messages[0].content", "messages[0].content[0].content"])
def test_an_iterator_inside_is_refused_too(place: str) -> None:
    blocks = iter([{"type": "text", "text": "Hi"}])
    body = messages(user(blocks)) if place == "messages[0].content" else returned(blocks)
    with pytest.raises(InvalidRequest) as caught:
        read(body)
    assert caught.value.where == place
    assert len(list(blocks)) == 1


@pytest.mark.parametrize("kind", [list, tuple, deque])
def test_any_list_that_can_be_read_twice_is_accepted(kind: Any) -> None:
    talk = read({"messages": kind([user(kind([{"type": "text", "text": "Hi"}]))])})
    assert [block.text for block in talk.turns[0].said] == ["Hi"]


def test_any_mapping_is_accepted() -> None:
    block = MappingProxyType({"type": "text", "text": "Hi"})
    talk = read(MappingProxyType({"messages": (MappingProxyType({"role": "user", "content": (block,)}),)}))
    assert talk.turns[0].said[0].text == "Hi"


def test_a_whole_reply_may_be_passed_back() -> None:
    reply = Message.model_construct(role="assistant", content=[{"type": "text", "text": "Hello"}])
    talk = read(messages(HI, reply, HI))
    assert [turn.role for turn in talk.turns] == ["user", "assistant", "user"]


def test_parameters_that_are_left_out_are_nothing() -> None:
    talk = read({**messages(HI), "system": anthropic.omit, "tools": anthropic.omit})
    assert (talk.system, talk.tools) == ([], [])


def test_what_only_some_models_accept_is_left_to_the_api() -> None:
    read(messages({"role": "assistant", "content": "Hello"}, HI, {"role": "assistant", "content": "Sure,"}))
    read(messages({"role": "system", "content": "Be terse."}, HI))


def test_messages_of_one_role_are_one_turn_and_results_stand_apart() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": "found"}
    talk = read(messages(HI, {"role": "system", "content": "Be terse."}, user([result, {"type": "image"}])))
    assert len(talk.turns) == 1
    assert [block.kind for block in talk.turns[0].said] == ["text", "image"]
    assert [block.text for block in talk.turns[0].results] == ["found"]
    assert talk.system == ["Be terse."]


PRINTED = {"type": "bash_code_execution_result", "stdout": "a", "stderr": "b", "return_code": 0, "content": []}
FOUND = {"type": "web_search_result", "title": "T", "url": "https://a.example", "encrypted_content": "x"}
PAGE = {"type": "document", "title": "P", "source": {"type": "text", "data": "page"}}
IMAGE = {"type": "image", "source": {"type": "base64", "data": "iVBOR"}}


@pytest.mark.parametrize(
    ("kind", "content", "text"),
    [
        ("bash_code_execution_tool_result", PRINTED, "a\nb"),
        ("web_search_tool_result", [FOUND], "T"),
        ("web_fetch_tool_result", {"type": "web_fetch_result", "content": PAGE}, "P\npage"),
        ("tool_result", [IMAGE], "[image]"),
        ("tool_result", None, ""),
    ],
)
def test_text_is_found_inside_what_tools_return_and_data_is_not(kind: str, content: Any, text: str) -> None:
    talk = read(messages(user([{"type": kind, "tool_use_id": "t", "content": content}])))
    assert talk.turns[0].results[0].text == text
