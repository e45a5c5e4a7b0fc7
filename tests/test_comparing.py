"""Pairs through the real SDK against a strict fake Claude: what is sent, what is billed, what cannot be compared."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from fake_claude import EmptyEndTurn, Error, FakeClaude, MaxTokens, Refusal, Reset
from shadow_help import HAIKU, OPUS, SONNET, judging, prefers

from prerouter.comparing import Answer, Comparer, Made, Question, replayed
from prerouter.judge import Judge
from prerouter.purse import Purse
from prerouter.sdk import Sdk
from prerouter.tiers import TierTable

TIERS = TierTable.load()
JUDGE = Judge.load(TIERS.model(OPUS))
BODY: dict[str, Any] = {
    "model": OPUS,
    "max_tokens": 500,
    "messages": [{"role": "user", "content": "Capital of France?"}],
}
SERVED = Answer(OPUS, [{"type": "text", "text": "Paris, of course."}], 0.05)
QUESTION = Question("q1", "simple", BODY, SERVED, HAIKU)


def compare(claude: FakeClaude, *questions: Question, cap: Decimal | None = None) -> tuple[list[Made], Purse]:
    purse = Purse(cap, Decimal(0))

    async def run() -> list[Made]:
        sdk = Sdk(None, claude.client())
        comparer = Comparer(sdk, JUDGE, TIERS, purse)
        try:
            return await asyncio.gather(*(comparer.compare(question) for question in questions))
        finally:
            await sdk.close()

    return asyncio.run(run()), purse


def content(*kinds: Mapping[str, Any]) -> dict[str, Any]:
    return BODY | {"messages": [{"role": "user", "content": list(kinds)}]}


@pytest.mark.parametrize(("wins", "outcome"), [("simulated", "won"), ("Paris", "lost"), ("nobody", "tied")])
def test_a_pair(claude: FakeClaude, wins: str, outcome: str) -> None:
    claude.answer = judging(prefers(wins))
    ((made,), purse) = compare(claude, QUESTION)
    assert made.pair
    assert (made.pair.outcome, made.pair.routed, made.pair.reference) == (outcome, HAIKU, OPUS)
    assert [call.model for call in claude.calls()] == [HAIKU, OPUS]
    assert claude.calls()[0].body["messages"] == BODY["messages"]
    assert made.usd == purse.spent > 0
    assert purse.reserved == 0
    assert made.pair.routed_usd + made.pair.judge_usd == pytest.approx(float(made.usd))
    assert made.pair.reference_usd == 0.05


def test_the_served_answer_may_be_the_routed_one(claude: FakeClaude) -> None:
    claude.answer = judging(prefers("Paris"))
    ((made,), _) = compare(claude, replace(QUESTION, other=SONNET, other_is_routed=False))
    assert made.pair
    assert (made.pair.outcome, made.pair.routed, made.pair.reference) == ("won", OPUS, SONNET)
    assert made.pair.routed_usd == 0.05


def test_no_judge_is_paid_where_the_outcome_is_plain(claude: FakeClaude) -> None:
    same = replace(QUESTION, served=replace(SERVED, content=[{"type": "text", "text": "A simulated answer."}]))
    ((made,), _) = compare(claude, same)
    assert made.pair
    assert (made.pair.outcome, made.pair.routed_first, made.pair.judge_usd) == ("tied", None, 0.0)
    claude.script(EmptyEndTurn())
    ((made,), _) = compare(claude, QUESTION)
    assert made.pair
    assert made.pair.outcome == "lost"


@pytest.mark.parametrize(
    ("outcomes", "why"),
    [
        ([Refusal()], "refused"),
        ([Error(400)], "failed"),
        ([Error(401)], "failed"),
        ([Error(529)] * 3, "failed"),
    ],
)
def test_what_is_no_pair(claude: FakeClaude, outcomes: list[Any], why: str) -> None:
    claude.script(*outcomes)
    ((made,), purse) = compare(claude, QUESTION)
    assert (made.pair, made.why) == (None, why)
    assert purse.reserved == 0


def test_a_ruling_off_the_schema_is_none(claude: FakeClaude) -> None:
    claude.answer = judging(lambda first, second: "both")
    ((made,), _) = compare(claude, QUESTION)
    assert (made.pair, made.why) == (None, "no_ruling")
    assert made.usd > 0


def test_what_may_help_is_tried_again_and_lost_calls_count_as_billed(claude: FakeClaude) -> None:
    claude.script(Error(529), Reset())
    ((made,), purse) = compare(claude, QUESTION, cap=Decimal(10))
    assert made.pair
    assert len(claude.calls()) == 4
    assert float(made.usd) > made.pair.routed_usd + made.pair.judge_usd  # the reset one may have been answered
    assert made.usd == purse.spent


def test_the_cap_holds_and_waits_for_what_is_open(claude: FakeClaude) -> None:
    questions = [replace(QUESTION, id=str(i)) for i in range(12)]
    made, purse = compare(claude, *questions, cap=Decimal("0.15"))
    assert purse.spent <= Decimal("0.15")
    assert {one.why for one in made} == {"", "capped"}
    assert sum(one.pair is not None for one in made) >= 2
    none, purse = compare(claude, QUESTION, cap=Decimal("0.001"))
    assert (none[0].why, purse.spent) == ("capped", 0)


def test_an_answer_that_max_tokens_cut_is_judged_as_it_is(claude: FakeClaude) -> None:
    claude.script(MaxTokens())
    ((made,), _) = compare(claude, QUESTION)
    assert made.pair


def test_requests_with_pictures_are_left_out(claude: FakeClaude) -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    ((made,), _) = compare(claude, replace(QUESTION, request=content(picture)))
    assert (made.why, claude.calls()) == ("unseen", [])


THOUGHT = {"type": "thinking", "thinking": "", "signature": "s"}
CALL = {"type": "tool_use", "id": "t1", "name": "search", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "found"}


@pytest.mark.parametrize(
    ("change", "model", "kept"),
    [
        ({"tool_choice": {"type": "any"}, "tools": []}, SONNET, None),
        ({"tool_choice": {"type": "any"}, "tools": []}, HAIKU, {"tool_choice": {"type": "any"}}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, HAIKU, {"thinking": {"type": "adaptive"}}),
        ({"thinking": {"type": "disabled"}}, HAIKU, {"thinking": {"type": "disabled"}}),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}}, HAIKU, {"thinking": None}),
        ({"thinking": {"type": "disabled"}}, OPUS, {"thinking": None}),
        ({"output_config": {"effort": "max"}}, "claude-opus-4-5", {"output_config": {"effort": "high"}}),
        ({"max_tokens": 10**6}, "claude-haiku-4-5", {"max_tokens": 64_000}),
        ({"max_tokens": None}, HAIKU, {"max_tokens": 4096}),
        ({"stream": True, "metadata": {"user_id": "u"}, "temperature": 0.1}, HAIKU, {"stream": None, "metadata": None}),
        ({"messages": [{"role": "assistant", "content": "{"}]}, HAIKU, None),
        ({"messages": []}, HAIKU, None),
        (
            {"messages": [*BODY["messages"], {"role": "assistant", "content": [THOUGHT]}, *BODY["messages"]]},
            HAIKU,
            None,
        ),
    ],
)
def test_the_request_as_another_model_takes_it(change: dict[str, Any], model: str, kept: dict[str, Any] | None) -> None:
    found = replayed(BODY | change, TIERS.model(model))
    if kept is None:
        assert found is None
    else:
        assert found
        assert {key: found.get(key) for key in kept} == kept
        assert found["model"] == model


def test_thoughts_are_left_out_but_never_in_the_middle_of_a_tool_loop() -> None:
    loop = [*BODY["messages"], {"role": "assistant", "content": [THOUGHT, CALL]}, {"role": "user", "content": [RESULT]}]
    assert replayed(BODY | {"messages": loop}, TIERS.model(HAIKU)) is None
    later = [*loop, {"role": "assistant", "content": "Done."}, {"role": "user", "content": "Thanks. And now?"}]
    found = replayed(BODY | {"messages": later}, TIERS.model(HAIKU))
    assert found
    assert found["messages"][1]["content"] == [CALL]
    plain = [*BODY["messages"], {"role": "assistant", "content": [CALL]}, {"role": "user", "content": [RESULT]}]
    assert replayed(BODY | {"messages": plain}, TIERS.model(HAIKU)) is not None


class Liar(Sdk):
    """An API whose answers are `said`."""

    def __init__(self, said: dict[str, Any]) -> None:
        super().__init__(None, None)
        self._said = said

    async def call(self, body: Mapping[str, Any], timeout_s: float) -> tuple[dict[str, Any], Mapping[str, str]]:
        return self._said, {}


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"stop_reason": ["end_turn"], "content": 5},
        {"stop_reason": "end_turn", "content": 5, "usage": "none"},
        {"stop_reason": "end_turn", "content": [5, None, {"type": "text", "text": None}, {"type": 7}], "usage": {}},
        {"stop_reason": "end_turn", "content": [{"type": "text", "text": "a"}], "usage": {"input_tokens": 10**40}},
        {"stop_reason": "end_turn", "content": [{"type": "tool_use", "input": float("nan"), "name": 4}]},
        {"stop_reason": "brand_new", "content": []},
    ],
)
def test_a_lying_server_ends_a_comparison_and_nothing_else(said: dict[str, Any]) -> None:
    comparer = Comparer(Liar(said), JUDGE, TIERS, Purse(Decimal(1), Decimal(0)))
    made = asyncio.run(comparer.compare(QUESTION))
    assert made.pair is None or made.pair.outcome == "lost"
    assert made.why in ("", "unfinished", "no_ruling", "failed")
