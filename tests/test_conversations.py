from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from fake_claude_models import MODELS
from fake_claude_rules import check
from fake_claude_thoughts import sign
from hypothesis import given
from hypothesis import strategies as st

from prerouter.conversations import Conversations, Standing
from prerouter.dispatchconfig import DispatchConfig
from prerouter.promptsize import Size, measure
from prerouter.records import Decision, Usage
from prerouter.tiers import TierTable

TABLE = TierTable.load()
HAIKU, SONNET, OPUS = (f"claude-{name}-5-5" for name in ("haiku", "sonnet", "opus"))
MODEL_OF = {"simple": HAIKU, "moderate": SONNET, "complex": OPUS}
PLAIN = DispatchConfig()
TOOL = {"name": "n", "input_schema": {"type": "object"}}


def _decision(label: str, **fields: Any) -> Decision:
    model = MODEL_OF[label]
    tier = TABLE.tier_of_model(model)
    assert tier
    made = Decision(
        id="i",
        label=label,
        tier=tier.name,
        model=model,
        decided_by="llm",
        stage=None,
        reason="classified",
        adjusted_by=(),
        confidence=0.9,
        probabilities={},
        fallback_label=None,
        rationale=None,
        params={},
        audit=False,
        audit_p=0.05,
        model_folder_id="0" * 12,
        prompt_id=None,
        text_version=1,
        seconds=0.0,
        cost_usd=0.0,
    )
    return replace(made, **fields)


def _body(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": "claude-dispatch", "max_tokens": 1_000, "messages": list(messages), **fields}


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _say(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}]


def _call(name: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": name, "name": "n", "input": {}}


def _result(name: str) -> dict[str, Any]:
    return _user([{"type": "tool_result", "tool_use_id": name, "content": "3"}])


class Talk:
    """A conversation as a caller keeps it, answered by models that sign their thoughts as the strict fake does."""

    def __init__(self, known: Conversations, config: DispatchConfig = PLAIN, **fields: Any) -> None:
        self.known, self.config, self.fields = known, config, fields
        self.messages: list[dict[str, Any]] = []

    @property
    def body(self) -> dict[str, Any]:
        return _body(*self.messages, **self.fields)

    def look(self) -> Standing:
        return self.known.look(self.body, self.config)

    def ask(self, content: Any) -> Standing:
        self.messages.append(_user(content))
        return self.look()

    def answered(
        self,
        model: str,
        content: Sequence[Mapping[str, Any]],
        *,
        label: str = "moderate",
        thinks: bool = False,
        usage: Usage | None = None,
    ) -> None:
        """The API's answer to what `prepared` makes of the body; fails where the strict fake would refuse it."""
        standing = self.look()
        prepared = self.known.prepared(standing, self.body, model)
        assert prepared is not None
        sent = {**prepared[0], "model": model}
        check(sent, "2026-10-21", MODELS)
        said = [_thought(sent, model), *content] if thinks else list(content)
        spent = usage or Usage(10, 20)
        self.known.remember(standing, _decision(label), model, said, spent)
        self.messages.append({"role": "assistant", "content": said})


def _thought(sent: Mapping[str, Any], model: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": "", "signature": sign(sent, MODELS[model], "")}


@pytest.fixture
def known() -> Conversations:
    return Conversations(TABLE)


# ---- where a request stands --------------------------------------------------------------------------------------


def test_a_first_request_is_not_known(known: Conversations) -> None:
    standing = known.look(_body(_user("hi")), PLAIN)
    shown = (standing.key, standing.in_tool_loop, standing.decision, standing.model, standing.hint, standing.bound)
    assert shown == (None, False, None, None, None, False)


def test_a_follow_up_knows_the_last_model_and_label_but_is_decided_anew(known: Conversations) -> None:
    talk = Talk(known)
    talk.ask("hi")
    talk.answered(SONNET, _say("hello"))
    standing = talk.ask("and now?")
    assert standing.key
    assert (standing.in_tool_loop, standing.decision) == (False, None)
    assert (standing.model, standing.hint) == (SONNET, "moderate")


def test_the_label_is_no_hint_when_nobody_decided_it(known: Conversations) -> None:
    first = known.look(_body(_user("hi")), PLAIN)
    known.remember(first, _decision("moderate", decided_by="default"), SONNET, _say("hello"), Usage())
    follow = _body(_user("hi"), {"role": "assistant", "content": "hello"}, _user("why?"))
    assert (known.look(follow, PLAIN).model, known.look(follow, PLAIN).hint) == (SONNET, None)


def test_a_tool_loop_keeps_its_decision_to_the_end(known: Conversations) -> None:
    talk = Talk(known, tools=[TOOL])
    talk.ask("what is 1 + 2, step by step?")
    talk.answered(OPUS, [_call("t1")], label="complex", thinks=True)
    for step in range(1, 5):
        talk.messages.append(_result(f"t{step}"))
        standing = talk.look()
        assert (standing.in_tool_loop, standing.bound, standing.model) == (True, True, OPUS)
        assert standing.decision == _decision("complex")
        talk.answered(OPUS, [_call(f"t{step + 1}")] if step < 4 else _say("3"), label="complex", thinks=True)
    assert talk.ask("thanks").in_tool_loop is False


def test_the_model_that_served_counts_not_the_one_that_was_decided(known: Conversations) -> None:
    talk = Talk(known, tools=[TOOL])
    talk.ask("sum?")
    talk.answered("claude-sonnet-5", [_call("t1")], label="moderate", thinks=True)  # fell back from sonnet-5-5
    talk.messages.append(_result("t1"))
    standing = talk.look()
    assert standing.decision is not None
    assert (standing.decision.model, standing.model) == (SONNET, "claude-sonnet-5")


def test_equal_conversations_served_by_different_models_are_told_apart_by_their_thoughts(known: Conversations) -> None:
    talks = [Talk(known, tools=[TOOL]) for _ in range(2)]
    for talk, model in zip(talks, (SONNET, OPUS), strict=True):
        talk.ask("sum?")
        talk.answered(model, [_call("t1")], thinks=True)
    for talk, model in zip(talks, (SONNET, OPUS), strict=True):
        talk.messages.append(_result("t1"))
        assert talk.look().model == model
        talk.answered(model, _say("3"), thinks=True)


def test_a_conversation_is_known_by_its_id_where_its_answers_are_not_sent_back_as_they_were(
    known: Conversations,
) -> None:
    talk = Talk(known, DispatchConfig(conversation_id="c1"))
    talk.ask("hi")
    talk.answered(OPUS, _say("hello"), label="complex")
    edited = _body(_user("hi"), {"role": "assistant", "content": "(shortened)"}, _user("why?"))
    assert known.look(edited, PLAIN).model is None
    assert known.look(edited, DispatchConfig(conversation_id="c2")).model is None
    standing = known.look(edited, DispatchConfig(conversation_id="c1"))
    assert (standing.key, standing.model, standing.hint) == ("c1", OPUS, "complex")


def test_an_id_is_part_of_what_an_answer_is_known_by(known: Conversations) -> None:
    for name, model in (("a", HAIKU), ("b", OPUS)):
        talk = Talk(known, DispatchConfig(conversation_id=name))
        talk.ask("hi")
        talk.answered(model, _say("hello"))
    follow = _body(_user("hi"), {"role": "assistant", "content": "hello"}, _user("why?"))
    assert known.look(follow, DispatchConfig(conversation_id="a")).model == HAIKU
    assert known.look(follow, DispatchConfig(conversation_id="b")).model == OPUS
    assert known.look(follow, PLAIN).model is None


def test_memory_is_bounded_and_the_least_recently_used_go_first() -> None:
    known = Conversations(TABLE, size=3)
    talks = [Talk(known) for _ in range(4)]
    for number, talk in enumerate(talks[:3]):
        talk.ask(f"question {number}")
        talk.answered(SONNET, _say(f"answer {number}"))
        talk.messages.append(_user("go on"))
    assert talks[0].look().model == SONNET
    talks[3].ask("question 3")
    talks[3].answered(SONNET, _say("answer 3"))
    assert [talk.look().model for talk in talks[:3]] == [SONNET, None, SONNET]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": "hi"},
        {"messages": []},
        {"messages": [3, None]},
        {"messages": [{"role": "assistant"}]},
        {"messages": [{"role": "user", "content": [3]}, {"role": "assistant", "content": 3}, {"content": "x"}]},
        {"messages": [{"role": ["user"], "content": {}}]},
    ],
)
def test_no_body_is_too_odd_to_be_looked_at(known: Conversations, body: dict[str, Any]) -> None:
    standing = known.look(body, PLAIN)
    assert known.prepared(standing, body, HAIKU) == (body, ())
    assert known.prefer(standing, _decision("simple"), body, Size(1, 0)) == _decision("simple")


# ---- which model the next turn goes to ---------------------------------------------------------------------------


def _after(
    known: Conversations, model: str, label: str, cached: int, output: int = 500, *, long: bool = False
) -> tuple[Standing, dict[str, Any]]:
    """A follow-up in a conversation of which `cached` tokens lie in `model`'s cache."""
    talk = Talk(known)
    talk.ask("hi")
    written = {"cache_write_1h_tokens" if long else "cache_write_5m_tokens": cached}
    talk.answered(model, _say("hello"), label=label, usage=Usage(output_tokens=output, **written))
    standing = talk.ask("and now?")
    return standing, talk.body


def _prompt(tokens: int) -> Size:
    """A prompt of so many tokens of the newer tokenizer."""
    size = Size(0, tokens)
    assert size.prompt_tokens(TABLE.model(HAIKU)) == tokens
    return size


def test_150k_on_opus_stay_although_a_simple_turn_comes(known: Conversations) -> None:
    # Staying 0.0408, switching to haiku 0.07635: tests/test_tiers.py works it out.
    standing, body = _after(known, OPUS, "complex", 150_000)
    kept = known.prefer(standing, _decision("simple"), body, _prompt(150_200))
    assert (kept.model, kept.tier, kept.label, kept.adjusted_by) == (OPUS, "opus", "simple", ("stickiness",))


def test_50k_on_sonnet_go_down_to_haiku(known: Conversations) -> None:
    # Staying 0.0084, switching to haiku 0.00517.
    standing, body = _after(known, SONNET, "moderate", 50_000, 300)
    assert known.prefer(standing, _decision("simple"), body, _prompt(50_200)) == _decision("simple")


def test_a_stronger_label_goes_up_whatever_it_costs(known: Conversations) -> None:
    # Staying 0.0084, switching to opus 0.2068; a weaker model than the label's is never worth it.
    standing, body = _after(known, SONNET, "moderate", 50_000, 300)
    assert known.prefer(standing, _decision("complex"), body, _prompt(50_200)) == _decision("complex")


def test_without_a_cache_there_is_nothing_to_lose(known: Conversations) -> None:
    standing, body = _after(known, OPUS, "complex", 0)
    assert known.prefer(standing, _decision("simple"), body, _prompt(150_200)).model == HAIKU


@pytest.mark.parametrize(("long", "seconds", "stays"), [(False, 299, True), (False, 301, False), (True, 3_599, True)])
def test_a_cache_that_ran_out_is_none(long: bool, seconds: float, stays: bool) -> None:
    now = 0.0
    known = Conversations(TABLE, clock=lambda: now)
    standing, body = _after(known, OPUS, "complex", 150_000, long=long)
    now += seconds
    standing = known.look(body, PLAIN)
    assert (known.prefer(standing, _decision("simple"), body, _prompt(150_200)).model == OPUS) == stays


def test_a_read_renews_the_cache_for_as_long_as_it_was_written_for() -> None:
    now = 0.0
    known = Conversations(TABLE, clock=lambda: now)
    talk = Talk(known)
    talk.ask("hi")
    talk.answered(OPUS, _say("hello"), label="complex", usage=Usage(output_tokens=500, cache_write_1h_tokens=150_000))
    now += 3_000
    talk.ask("more")
    talk.answered(OPUS, _say("yes"), label="complex", usage=Usage(output_tokens=500, cache_read_tokens=150_000))
    now += 3_000
    standing = talk.ask("more")
    assert known.prefer(standing, _decision("simple"), talk.body, _prompt(150_200)).model == OPUS


def test_the_cache_of_the_model_before_the_last_counts_too(known: Conversations) -> None:
    talk = Talk(known)
    talk.ask("hi")
    talk.answered(HAIKU, _say("hello"), label="simple", usage=Usage(output_tokens=500, cache_write_5m_tokens=60_000))
    talk.ask("harder")
    talk.answered(OPUS, _say("yes"), label="complex", usage=Usage(output_tokens=500, cache_write_5m_tokens=60_200))
    standing = talk.ask("easy")
    # Opus 60,200 x 0.20 + 200 x 4 + 500 x 20 = 22,840; haiku uncached 60,400 x 0.10 + 250 = 6,290; cached 890.
    assert known.prefer(standing, _decision("simple"), talk.body, _prompt(60_400)).model == HAIKU
    assert standing.route is not None
    assert {name: cached.tokens for name, cached in standing.route.caches.items()} == {HAIKU: 60_000, OPUS: 60_200}


def test_a_cache_mark_makes_the_switch_dearer(known: Conversations) -> None:
    # 80,000 tokens on sonnet, a new turn of 1,000, an answer of 20. Staying: 8,000 + 2,000 + 200 = 10,200; haiku
    # unmarked 81,000 x 0.10 + 10 = 8,110. Marked for an hour: 8,000 + 4,000 + 200 = 12,200 and 16,210.
    standing, body = _after(known, SONNET, "moderate", 80_000, 20)
    assert known.prefer(standing, _decision("simple"), body, _prompt(81_000)).model == HAIKU
    marked = replace(_prompt(81_000), write="1h")
    assert known.prefer(standing, _decision("simple"), body, marked).model == SONNET


@pytest.mark.parametrize(("max_tier", "model"), [(None, OPUS), ("opus", OPUS), ("sonnet", HAIKU), ("haiku", HAIKU)])
def test_no_preference_goes_above_max_tier(known: Conversations, max_tier: str | None, model: str) -> None:
    standing, body = _after(known, OPUS, "complex", 150_000)
    assert known.prefer(standing, _decision("simple"), body, _prompt(150_200), max_tier=max_tier).model == model


def test_a_pinned_decision_and_one_without_a_model_stay_as_they_are(known: Conversations) -> None:
    standing, body = _after(known, OPUS, "complex", 150_000)
    for decision in (_decision("simple", decided_by="pinned"), _decision("simple", model=None, tier=None)):
        assert known.prefer(standing, decision, body, _prompt(150_200)) == decision


def test_a_model_of_no_tier_is_not_preferred(known: Conversations) -> None:
    standing, body = _after(known, "claude-opus-4-8", "complex", 150_000)
    assert known.prefer(standing, _decision("simple"), body, _prompt(150_200)).model == HAIKU


def test_what_was_moved_before_is_still_named(known: Conversations) -> None:
    standing, body = _after(known, OPUS, "complex", 150_000)
    lifted = _decision("moderate", adjusted_by=("min_tier",))
    assert known.prefer(standing, lifted, body, _prompt(150_200)).adjusted_by == ("min_tier", "stickiness")


labels = st.sampled_from(["simple", "moderate", "complex"])


@given(labels, labels, st.integers(0, 300_000), st.integers(0, 900_000), st.sampled_from([None, "5m", "1h"]))
def test_a_preference_is_never_weaker_than_the_label_and_never_dearer(
    last: str, now: str, cached: int, prompt: int, write: Any
) -> None:
    known = Conversations(TABLE)
    standing, body = _after(known, MODEL_OF[last], last, cached)
    size = replace(_prompt(prompt), write=write)
    chosen = known.prefer(standing, _decision(now), body, size)
    assert chosen.model in (MODEL_OF[last], MODEL_OF[now])
    assert chosen.tier is not None
    assert TABLE.rank(chosen.tier) >= TABLE.rank(str(_decision(now).tier))
    assert (chosen.adjusted_by == ("stickiness",)) == (chosen.model != MODEL_OF[now])


# ---- thinking blocks ---------------------------------------------------------------------------------------------


def test_the_blocks_of_other_models_are_left_out_and_the_callers_body_stays(known: Conversations) -> None:
    talk = Talk(known)
    for number, model in enumerate((OPUS, SONNET, OPUS, HAIKU)):
        talk.ask(f"question {number}")
        talk.answered(model, _say(f"answer {number}"), thinks=True)  # checks signatures as the strict fake does
    before = repr(talk.messages)
    standing = talk.ask("and now?")
    prepared = known.prepared(standing, talk.body, OPUS)
    assert prepared is not None
    thinkers = [len(message["content"]) == 2 for message in prepared[0]["messages"][1::2]]
    assert thinkers == [True, False, True, False]
    assert prepared[1] == ("2 thinking blocks of other models left out",)
    assert repr(talk.messages[:-1]) == before


def test_a_conversation_that_stays_is_sent_as_it_is(known: Conversations) -> None:
    talk = Talk(known)
    for number in range(3):
        talk.ask(f"question {number}")
        talk.answered(OPUS, _say(f"answer {number}"), thinks=True)
    standing = talk.ask("and now?")
    body = talk.body
    prepared = known.prepared(standing, body, OPUS)
    assert prepared == (body, ())
    assert prepared is not None
    assert prepared[0] is body


def test_unknown_blocks_are_left_out_and_then_the_view_stays_the_same() -> None:
    elsewhere, here = Conversations(TABLE), Conversations(TABLE)
    talk = Talk(elsewhere)
    for number in range(2):
        talk.ask(f"question {number}")
        talk.answered(OPUS, _say(f"answer {number}"), thinks=True)
    for process in (here, elsewhere, here, elsewhere):  # a conversation whose turns reach two processes by chance
        talk.known = process
        talk.ask("go on")
        talk.answered(OPUS, _say("more"), thinks=True)


def test_within_a_tool_loop_nothing_is_left_out_and_no_other_model_may_go_on(known: Conversations) -> None:
    talk = Talk(known, tools=[TOOL])
    talk.ask("first")
    talk.answered(OPUS, _say("done"), thinks=True)
    talk.ask("second")
    talk.answered(SONNET, [_call("t1")], thinks=True)
    talk.messages.append(_result("t1"))
    standing = talk.look()
    assert known.prepared(standing, talk.body, OPUS) is None
    prepared = known.prepared(standing, talk.body, SONNET)
    assert prepared is not None
    assert [len(m["content"]) for m in prepared[0]["messages"] if m["role"] == "assistant"] == [1, 2]
    talk.answered(SONNET, _say("3"), thinks=True)


@pytest.mark.parametrize("wanted", ["simple", "moderate", "complex"])
def test_deciding_every_step_keeps_a_loop_with_thoughts_on_its_model(known: Conversations, wanted: str) -> None:
    talk = Talk(known, DispatchConfig(per_step=True), tools=[TOOL])
    talk.ask("sum?")
    talk.answered(SONNET, [_call("t1")], thinks=True)
    talk.messages.append(_result("t1"))
    standing = talk.look()
    chosen = known.prefer(standing, _decision(wanted), talk.body, measure(talk.body), max_tier="haiku")
    assert (chosen.label, chosen.model, chosen.tier) == (wanted, SONNET, "sonnet")


def test_deciding_every_step_may_change_the_model_of_a_loop_without_thoughts(known: Conversations) -> None:
    talk = Talk(known, DispatchConfig(per_step=True), tools=[TOOL])
    talk.ask("sum?")
    talk.answered(SONNET, [_call("t1")])
    talk.messages.append(_result("t1"))
    standing = talk.look()
    assert (standing.in_tool_loop, standing.bound, standing.hint) == (True, False, "moderate")
    assert known.prefer(standing, _decision("complex"), talk.body, measure(talk.body)).model == OPUS
    talk.answered(OPUS, _say("3"), thinks=True)


def test_a_loop_that_began_elsewhere_is_sent_as_it_is(known: Conversations) -> None:
    talk = Talk(Conversations(TABLE), tools=[TOOL])
    talk.ask("sum?")
    talk.answered(OPUS, [_call("t1")], thinks=True)
    talk.known = known
    talk.messages.append(_result("t1"))
    standing = talk.look()
    assert (standing.in_tool_loop, standing.model, standing.bound) == (True, None, False)
    assert known.prepared(standing, talk.body, OPUS) == (talk.body, ())


def test_dated_names_are_the_same_model(known: Conversations) -> None:
    first = known.look(_body(_user("hi")), PLAIN)
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    answer = [thought, *_say("hello")]
    known.remember(first, _decision("simple"), "claude-haiku-4-5-20251001", answer, Usage())
    body = _body(_user("hi"), {"role": "assistant", "content": answer}, _user("why?"))
    standing = known.look(body, PLAIN)
    assert standing.model == "claude-haiku-4-5"
    assert known.prepared(standing, body, "claude-haiku-4-5") == (body, ())
    assert known.prepared(standing, body, "claude-haiku-4-5-20251001") == (body, ())
    assert known.prepared(standing, body, "some-model-of-my-own") != (body, ())


# ---- many at once, and after a fork ------------------------------------------------------------------------------


def test_a_thousand_conversations_from_many_threads_keep_apart() -> None:
    known, wrong = Conversations(TABLE), list[str]()

    def talk(number: int) -> None:
        for each in range(number, 1_000, 8):
            model = (HAIKU, SONNET, OPUS)[each % 3]
            asked = _body(_user(f"question {each}"))
            thought = {"type": "thinking", "thinking": "", "signature": f"s{each}"}
            answer = [thought, *_say(f"answer {each}")]
            known.remember(known.look(asked, PLAIN), _decision("moderate"), model, answer, Usage())
            follow = _body(*asked["messages"], {"role": "assistant", "content": answer}, _user("why?"))
            standing = known.look(follow, PLAIN)
            if standing.model != model or known.prepared(standing, follow, model) != (follow, ()):
                wrong.append(f"{each}")

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_is_not_kept_waiting_by_a_lock_that_its_parent_held(known: Conversations) -> None:
    with known._lock:
        child = os.fork()
        if child == 0:
            known.look(_body(_user("hi")), PLAIN)
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
