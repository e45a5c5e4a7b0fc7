"""What is read of a response: whole or cut, content or none, whatever the chunks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerouter.reading import MAX_ERROR_BYTES, Reading

START = {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 7, "output_tokens": 1}}}
TEXT = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
THOUGHT = {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}
STOP = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}
END = {"type": "message_stop"}


def delta(index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


def wire(*events: Mapping[str, Any], end: str = "\n") -> bytes:
    lines = (f"event: {event['type']}{end}data: {json.dumps(event)}{end}{end}" for event in events)
    return "".join(lines).encode()


WHOLE = (START, TEXT, delta(type="text_delta", text="Hé"), delta(type="text_delta", text="llo"), STOP, END)


def reading(*chunks: bytes, stream: bool = True, status: int = 200) -> Reading:
    made = Reading(stream=stream, began_s=0.0)
    made.opened(status, {"Request-Id": "req_1"})
    for at, chunk in enumerate(chunks, 1):
        made.feed(chunk, float(at))
    return made


@given(cuts=st.lists(st.integers(0, len(wire(*WHOLE)) + 40), max_size=8), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_a_stream_reads_the_same_however_it_is_cut(cuts: list[int], end: str) -> None:
    data, places = wire(*WHOLE, end=end), sorted(cuts)
    made = reading(*(data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)))
    made.ended(99.0)
    assert made.message == {
        "model": "m",
        "content": [{"type": "text", "text": "Héllo"}],
        "usage": {"input_tokens": 7, "output_tokens": 5},
        "stop_reason": "end_turn",
    }
    assert (made.whole, made.fault, made.state) == (True, None, "over")


def test_headers_are_known_in_small_letters() -> None:
    assert reading().headers == {"request-id": "req_1"}


@pytest.mark.parametrize(
    "shown",
    [
        delta(type="text_delta", text="a"),
        delta(type="thinking_delta", thinking="hm"),
        delta(type="input_json_delta", partial_json="{"),
        delta(type="citations_delta", citation={"type": "char_location"}),
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "n"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "web_search_tool_result"}},
    ],
)
def test_content_makes_a_stream_ready(shown: Mapping[str, Any]) -> None:
    made = reading(wire(START, THOUGHT), wire(shown))
    assert (made.state, made.content_s) == ("ready", 2.0)


@pytest.mark.parametrize(
    "held",
    [
        delta(type="text_delta", text=""),
        delta(type="thinking_delta", thinking=""),
        delta(type="signature_delta", signature="s"),
        {"type": "content_block_stop", "index": 0},
        {"type": "ping"},
        {"type": "a_new_event", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "redacted_thinking", "data": "x"}},
    ],
)
def test_what_shows_nothing_leaves_it_waiting(held: Mapping[str, Any]) -> None:
    assert reading(wire(START, THOUGHT), wire(held)).state == "waiting"


def test_a_signature_is_kept_with_its_block() -> None:
    made = reading(wire(START, THOUGHT, delta(type="signature_delta", signature="s1"), STOP, END))
    assert made.content == [{"type": "thinking", "thinking": "", "signature": "s1"}]
    assert not made.has_output


def test_a_stream_that_ends_early_is_not_whole() -> None:
    made = reading(wire(*WHOLE[:-1]))
    made.ended(1.0)
    assert (made.whole, made.fault) == (False, "the stream ended without message_stop")


def test_an_event_cut_in_its_middle_does_not_count() -> None:
    made = reading(wire(*WHOLE)[:-5])
    made.ended(1.0)
    assert not made.whole


def test_an_error_event_is_known_by_its_type() -> None:
    made = reading(wire(START, {"type": "error", "error": {"type": "overloaded_error", "message": "secret"}}))
    assert (made.state, made.error["type"]) == ("ready", "overloaded_error")
    made.ended(1.0)
    assert made.fault is None


@pytest.mark.parametrize(
    "junk",
    [b"event: ping\ndata: {\n\n", b"event: message_start\n\n", b"data: x\n\n", b"\xff\n\n", b":\n\n\n"],
)
def test_junk_that_the_sdk_passes_over_is_passed_over(junk: bytes) -> None:
    made = reading(junk, wire(*WHOLE))
    made.ended(1.0)
    assert made.whole


@pytest.mark.parametrize("name", ["message_start", "content_block_delta", "content_block_stop", "error", "new_in_2027"])
@pytest.mark.parametrize("data", ["{", "[1]", "null"])
def test_a_stream_with_an_event_that_the_sdk_cannot_read_is_over(name: str, data: str) -> None:
    made = reading(wire(*WHOLE[:3]), f"event: {name}\ndata: {data}\n\n".encode())
    assert (made.state, made.whole, made.fault) == ("over", False, "an event is no JSON object")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"type": "message"}',
        b'{"type": "message", "content": [], "stop_reason": null}',
        b'{"type": "message", "content": "x", "stop_reason": "end_turn"}',
        b'{"type": "error", "error": {"type": "x"}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_message_is_not_whole(body: bytes) -> None:
    made = reading(body, stream=False)
    made.ended(1.0)
    assert (made.whole, made.fault) == (False, "the body is no whole message")


@given(cut=st.integers(0, 60))
def test_a_cut_body_is_never_whole(cut: int) -> None:
    body = json.dumps({"type": "message", "content": [], "stop_reason": "end_turn", "model": "m"}).encode()
    made = reading(body[:cut], stream=False)
    made.ended(1.0)
    assert made.whole is (cut >= len(body))


def test_an_error_body_is_read_as_far_as_it_is_wanted() -> None:
    told = {"type": "error", "error": {"type": "x_error", "details": {"error_code": "c"}}}
    made = reading(json.dumps(told).encode(), status=500, stream=True)
    made.ended(1.0)
    assert (made.error["type"], made.error_code) == ("x_error", "c")
    long = reading(b"x" * (3 * MAX_ERROR_BYTES), status=500)
    long.ended(1.0)
    assert (len(long.body), long.error) == (MAX_ERROR_BYTES, {})


def test_the_first_name_of_what_went_wrong_is_kept() -> None:
    made = reading(wire(START))
    made.broke("ReadError", 3.0)
    made.broke("cancelled", 4.0)
    assert (made.fault, made.state) == ("ReadError", "over")
