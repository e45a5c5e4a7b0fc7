"""What an attempt comes to, and what follows it."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from prerouter.attempts import TIMEOUT, after, attempt, bill, outcome_of, refusal_is_final
from prerouter.reading import Reading
from prerouter.tiers import TierTable

TABLE = TierTable.load()
OPUS = TABLE.model("claude-opus-5-5")
BODY = {"max_tokens": 100}
TEXT = {"type": "text", "text": "Hi"}
THOUGHT = {"type": "thinking", "thinking": "", "signature": "s"}
USAGE = {"input_tokens": 1_000_000, "output_tokens": 100_000}


def answer(*content: Any, stop: str = "end_turn", **fields: Any) -> Reading:
    message = {"type": "message", "model": OPUS.id, "content": content, "stop_reason": stop, "usage": USAGE} | fields
    return whole(json.dumps(message).encode())


def whole(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Reading:
    made = Reading(stream=False, began_s=0.0)
    made.opened(status, headers or {})
    made.feed(body, 1.0)
    made.ended(1.0)
    return made


def error(status: int, kind: str = "x", message: str = "", code: str = "", **headers: str) -> Reading:
    told = {"type": kind, "message": message, "details": {"error_code": code} if code else None}
    return whole(
        json.dumps({"type": "error", "error": told}).encode(),
        status,
        {k.replace("_", "-"): v for k, v in headers.items()},
    )


def lost(fault: str) -> Reading:
    made = Reading(stream=False, began_s=0.0)
    made.broke(fault, 1.0)
    return made


@pytest.mark.parametrize(
    ("reading", "outcome"),
    [
        (answer(TEXT), "answered"),
        (answer(TEXT, stop="max_tokens"), "answered"),
        (answer(THOUGHT, stop="max_tokens"), "no_text"),
        (answer({"type": "tool_use", "id": "t", "name": "n", "input": {}}, stop="max_tokens"), "answered"),
        (answer(stop="pause_turn"), "answered"),
        (answer(stop="a_new_reason"), "answered"),
        (answer(), "empty"),
        (answer(stop="refusal"), "refused"),
        (whole(b"{"), "cut"),
        (error(400), "rejected"),
        (error(401), "rejected"),
        (error(404), "dead_model"),
        (error(408), "failed"),
        (error(409), "failed"),
        (error(429), "limited"),
        (error(529), "failed"),
        (lost("ConnectError"), "unreachable"),
        (lost(TIMEOUT), "timeout"),
    ],
)
def test_every_response_has_one_outcome(reading: Reading, outcome: str) -> None:
    assert outcome_of(reading, BODY) == outcome


def test_warming_the_cache_needs_no_text() -> None:
    assert outcome_of(answer(stop="max_tokens"), {"max_tokens": 0}) == "answered"


def step(reading: Reading, *, tries: int = 1, others: bool = True) -> str:
    return after(outcome_of(reading, BODY), reading, tries=tries, retries=2, others=others).next


@pytest.mark.parametrize(
    ("reading", "with_others", "alone"),
    [
        (error(500), "again", "again"),
        (error(500, x_should_retry="false"), "other", "stop"),
        (error(429), "again", "again"),
        (error(429, retry_after="1"), "again", "again"),
        (error(429, retry_after="60"), "other", "again"),
        (error(429, code="enforced_spend_limit_reached"), "stop", "stop"),
        (error(404), "other", "stop"),
        (error(400, message="bad"), "stop", "stop"),
        (error(400, message="thinking is not supported on this model"), "other", "stop"),
        (error(403), "other", "stop"),
        (error(401, message="this model"), "stop", "stop"),
        (error(413), "stop", "stop"),
        (lost("ReadError"), "again", "again"),
        (lost(TIMEOUT), "other", "stop"),
        (whole(b"{"), "again", "again"),
    ],
)
def test_what_follows(reading: Reading, with_others: str, alone: str) -> None:
    assert (step(reading), step(reading, others=False)) == (with_others, alone)


def test_tries_come_to_an_end() -> None:
    assert [step(error(500), tries=n) for n in (1, 2, 3)] == ["again", "again", "other"]
    assert step(error(500), tries=3, others=False) == "stop"


def test_no_other_model_is_asked_where_there_is_no_connection() -> None:
    assert [step(lost("ConnectTimeout"), tries=n) for n in (1, 2, 3)] == ["again", "again", "stop"]
    assert step(lost("ReadError"), tries=3) == "other"


def test_an_error_is_told_by_names_only() -> None:
    odd = error(500, kind="your key sk-ant-api03-abc", code="a_code")
    made = attempt(
        odd,
        bill(odd, OPUS, TABLE, BODY),
        model="m",
        tier=None,
        why="first",
        outcome="failed",
        usd=Decimal(0),
        adaptations=(),
        now=2.0,
    )
    assert (made.error, made.seconds) == ("unknown a_code", 1.0)


def test_a_pause_is_as_long_as_asked_and_jittered() -> None:
    waits = [after("failed", error(500), tries=2, retries=2, others=True).pause_s for _ in range(200)]
    assert 0 <= min(waits) < 0.1 < 0.4 < max(waits) <= 0.5
    assert after("limited", error(429, retry_after="1.5"), tries=1, retries=2, others=True).pause_s == 1.5


@pytest.mark.parametrize(("category", "final"), [("cyber", True), ("general_harms", False), (None, False)])
def test_some_refusals_are_final(category: str | None, final: bool) -> None:
    reading = answer(stop="refusal", stop_details={"type": "refusal", "category": category})
    assert refusal_is_final(reading, ("cyber", "bio")) is final


@pytest.mark.parametrize(
    ("reading", "usd"),
    [
        (answer(TEXT), "6"),
        (answer(TEXT, stop="refusal"), "6"),
        (answer(stop="refusal"), "0"),
        (answer(TEXT, model="claude-sonnet-5-5"), "3"),
        (answer(TEXT, model="claude-unknown"), "6"),
        (answer(TEXT, usage=USAGE | {"speed": "fast"}), "12"),
        (answer(TEXT, usage=USAGE | {"inference_geo": "us"}), "6.6"),
        (answer(TEXT, usage=None), "0"),
        (error(500), "0"),
    ],
)
def test_a_bill_follows_what_the_response_says(reading: Reading, usd: str) -> None:
    assert bill(reading, OPUS, TABLE, BODY).usd == Decimal(usd)


def test_the_bill_takes_factors_from_the_request_where_the_response_is_silent() -> None:
    assert bill(answer(TEXT), OPUS, TABLE, {"speed": "fast"}).usd == 12
    assert bill(answer(TEXT), TABLE.model("claude-haiku-4-5"), TABLE, {"speed": "fast"}).usd == 12
