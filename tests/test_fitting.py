"""Every row of the ability table, against the strict fake's own rules, which were written apart from this code."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, cast

import pytest
from fake_claude_models import MODELS
from fake_claude_rules import check
from fake_claude_shapes import Rejected
from hypothesis import given
from hypothesis import strategies as st

from prerouter.conversations import Conversations
from prerouter.dispatchconfig import DispatchConfig
from prerouter.errors import PreRouterError, RequestTooLarge, UnsupportedRequest
from prerouter.fitting import Fitted, Misfit, calmer, fits, measure, none_fits, worst_case_usd
from prerouter.records import Decision, Usage
from prerouter.tiers import Model, TierTable

TABLE = TierTable.load()
PLAIN, EXTENDED = DispatchConfig(), DispatchConfig(context_window="extended")
HI = {"role": "user", "content": "hi"}
TOOL = {"name": "t", "input_schema": {"type": "object"}}
WORDS = "word " * 10  # 12.5 tokens of the older tokenizer
NEW, OLD = "2026-10-21", "2023-06-01"


def _body(**fields: Any) -> dict[str, Any]:
    return {"model": "claude-dispatch", "max_tokens": 4096, "messages": [HI], **fields}


def _fit(body: dict[str, Any], name: str, config: DispatchConfig = PLAIN, **options: Any) -> Fitted | Misfit:
    return fits(body, TABLE.model(f"claude-{name}"), measure(body), config, **options)


def _fitted(body: dict[str, Any], name: str, **options: Any) -> Fitted:
    found = _fit(body, name, **options)
    assert isinstance(found, Fitted), found
    check(found.body, NEW, MODELS)
    return found


def _misfit(body: dict[str, Any], name: str, config: DispatchConfig = PLAIN, **options: Any) -> Misfit:
    found = _fit(body, name, config, **options)
    assert isinstance(found, Misfit), found
    assert found.model == f"claude-{name}"
    return found


# ---- one test per row of the ability table -----------------------------------------------------------------------

ADAPTIVE, ENABLED = {"type": "adaptive"}, {"type": "enabled", "budget_tokens": 2048}
DISABLED, BETWEEN = {"type": "disabled"}, {"type": "between_tools"}
FORCED = {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "t"}}
PREFILL = {"messages": [HI, {"role": "assistant", "content": "The"}]}
SYSTEM = {"messages": [HI, {"role": "assistant", "content": "yes"}, {"role": "system", "content": "be brief"}, HI]}
EFFORTS = ("low", "medium", "high", "xhigh", "max")
# id; thinking adaptive, enabled, disabled, between_tools (without tools); efforts; what else it takes. What a request
# becomes: = as it is, ! refused, else the type that is sent instead.
ROWS = """
haiku-5-5   =        adaptive =             disabled      low,medium,high,xhigh,max forced,system
sonnet-5-5  =        adaptive between_tools =             low,medium,high,xhigh,max system
opus-5-5    =        adaptive !             !             low,medium,high,xhigh,max system,fast
fable-5-2   =        adaptive !             !             low,medium,high,xhigh,max .
mythos-5-2  =        adaptive !             !             low,medium,high,xhigh,max .
fable-5-1   =        adaptive !             !             low,medium,high,xhigh,max .
mythos-5-1  =        adaptive !             !             low,medium,high,xhigh,max .
fable-5     =        adaptive !             !             low,medium,high,xhigh,max forced,system
mythos-5    =        adaptive !             !             low,medium,high,xhigh,max forced,system
opus-5      =        adaptive =             disabled      low,medium,high,xhigh,max forced,system,fast
sonnet-5    =        adaptive =             disabled      low,medium,high,xhigh,max forced
opus-4-8    =        adaptive =             disabled      low,medium,high,xhigh,max forced,system,fast
opus-4-7    =        adaptive =             disabled      low,medium,high,xhigh,max forced
opus-4-6    =        =        =             disabled      low,medium,high,max       forced
sonnet-4-6  =        =        =             disabled      low,medium,high,max       forced
opus-4-5    !        =        =             disabled      low,medium,high,max       forced,prefill,small
haiku-4-5   !        =        =             disabled      high,max                  forced,prefill,small
sonnet-4-5  !        =        =             disabled      high,max                  forced,prefill,small
"""
TABLE_ROWS = [line.split() for line in ROWS.strip().splitlines()]


@pytest.mark.parametrize("row", TABLE_ROWS, ids=lambda row: row[0])
def test_a_row_of_the_ability_table(row: list[str]) -> None:
    name, *thinking, efforts, abilities = row
    for asked, becomes in zip((ADAPTIVE, ENABLED, DISABLED, BETWEEN), thinking, strict=True):
        _check_thinking(name, asked, becomes)
    for effort in EFFORTS:
        _check_effort(name, effort, taken=effort in efforts.split(","))
    takes = abilities.split(",")
    asked_for = {"forced": FORCED, "prefill": PREFILL, "system": SYSTEM, "fast": {"speed": "fast"}}
    asked_for |= {"us": {"inference_geo": "us"}, "128k": {"max_tokens": 128_000}}
    takes += [] if "small" in takes else ["us", "128k"]
    for ability, fields in asked_for.items():
        found = _fit(_body(**fields), name)
        assert isinstance(found, Fitted) == (ability in takes), (ability, found)
        if isinstance(found, Fitted):
            assert (found.body, found.adaptations) == (_body(**fields, model=f"claude-{name}"), ())
            check(found.body, NEW, MODELS)


def _check_thinking(name: str, asked: dict[str, Any], becomes: str) -> None:
    body = _body(thinking=asked)
    if becomes == "!":
        assert _misfit(body, name).text == f"takes no thinking {asked['type']}"
        return
    found = _fitted(body, name)
    if becomes == "=":
        assert (found.body["thinking"], found.adaptations) == (asked, ())
        return
    assert found.body["thinking"] == {"type": becomes}
    assert found.adaptations == (f"thinking {asked['type']} -> {becomes}",)


def _check_effort(name: str, effort: str, *, taken: bool) -> None:
    found = _fit(_body(output_config={"effort": effort}), name)
    assert isinstance(found, Fitted) == taken, (effort, found)
    if isinstance(found, Fitted):
        check(found.body, NEW, MODELS)
        kept = found.body.get("output_config") == {"effort": effort}
        assert kept == (not found.adaptations)


def test_the_rows_are_all_known_models() -> None:
    assert {f"claude-{row[0]}" for row in TABLE_ROWS} == set(TABLE.models)


# ---- everything that is asked for together, on every model ------------------------------------------------------


def _bodies() -> Iterator[dict[str, Any]]:
    thinkings = (None, ADAPTIVE, {**ADAPTIVE, "display": "summarized"}, ENABLED, DISABLED, BETWEEN)
    choices = ({}, {"tools": [TOOL]}, {"tools": [TOOL], "tool_choice": {"type": "any"}}, FORCED)
    for thinking, effort, choice, tail in itertools.product(thinkings, (None, *EFFORTS), choices, ({}, PREFILL)):
        fields = {"thinking": thinking} if thinking else {}
        yield _body(**fields, **choice, **tail, **({"output_config": {"effort": effort}} if effort else {}))
    sampling = ({"temperature": 1}, {"temperature": 0}, {"top_p": 0.99}, {"top_p": 1}, {"top_k": 40})
    others = ({}, SYSTEM, {"inference_geo": "us"}, {"speed": "fast"}, {"max_tokens": 100_000}, {"max_tokens": 128_001})
    for sampled, other, thinking in itertools.product(({}, *sampling), others, (None, DISABLED, ENABLED)):
        yield _body(**sampled, **other, **({"thinking": thinking} if thinking else {}))


def _legal(body: dict[str, Any], model: Model, version: str) -> bool:
    try:
        check({**body, "model": model.id}, version, MODELS)
    except Rejected:
        return False
    return True


@pytest.mark.parametrize("version", [NEW, OLD])
def test_what_is_sent_is_legal_what_is_legal_is_sent_and_nothing_is_changed_without_need(version: str) -> None:
    seen = {True: 0, False: 0}
    for body in _bodies():
        size, before = measure(body), repr(body)
        for model in TABLE.models.values():
            found, legal = fits(body, model, size, PLAIN, free_sampling=version == OLD), _legal(body, model, version)
            seen[isinstance(found, Fitted)] += 1
            if isinstance(found, Misfit):
                assert not legal, (body, found)
                continue
            assert _legal(found.body, model, version), (found, body)
            assert bool(found.adaptations) != legal, (found, body)
        assert repr(body) == before
    assert min(seen.values()) > 1_000


# ---- adaptations one by one -------------------------------------------------------------------------------------


def test_what_thinking_has_beside_its_budget_is_kept() -> None:
    found = _fitted(_body(thinking={**ENABLED, "display": "summarized"}), "opus-5-5")
    assert found.body["thinking"] == {"type": "adaptive", "display": "summarized"}


@pytest.mark.parametrize("off", [DISABLED, BETWEEN])
def test_an_off_switch_that_a_quiet_model_does_not_have_is_left_out(off: dict[str, Any]) -> None:
    quiet = {"like": "claude-opus-4-8", "thinking_types": ["adaptive"]}
    model = TierTable.load({"models": {"quiet": quiet}}).model("quiet")
    found = fits(_body(thinking=off), model, measure(_body()), PLAIN)
    assert isinstance(found, Fitted)
    assert (found.body, found.adaptations) == (_body(model="quiet"), (f"thinking {off['type']} -> none",))


def test_thinking_cannot_be_off_at_every_effort() -> None:
    body = _body(thinking=DISABLED, output_config={"effort": "xhigh"})
    assert _misfit(body, "haiku-5-5").text == "takes no thinking disabled at effort xhigh"
    assert _misfit(body, "sonnet-5-5").reason == _misfit(body, "opus-5").reason == "thinking"
    assert _fitted(body, "sonnet-5").adaptations == ()


def test_between_tools_is_no_off_switch_where_there_are_tools() -> None:
    assert _misfit(_body(thinking=BETWEEN, tools=[TOOL]), "haiku-5-5").reason == "thinking"
    assert _fitted(_body(thinking=BETWEEN, tools=[TOOL]), "sonnet-5-5").adaptations == ()
    assert _fitted(_body(thinking=DISABLED, tools=[TOOL]), "sonnet-5-5").body["thinking"] == BETWEEN


def test_manual_thinking_gives_way_to_a_forced_tool_where_adaptive_need_not() -> None:
    assert _fitted(_body(thinking=ENABLED, **FORCED), "opus-4-6").body["thinking"] == ADAPTIVE
    assert _misfit(_body(thinking=ENABLED, **FORCED), "haiku-4-5").reason == "thinking"


def test_effort_max_is_the_highest_level_and_the_rest_of_output_config_stays() -> None:
    form = {"type": "json_schema", "schema": {"type": "object", "properties": {}, "additionalProperties": False}}
    body = _body(output_config={"effort": "max", "format": form})
    assert _fitted(body, "opus-4-5").body["output_config"] == {"effort": "high", "format": form}
    assert _fitted(body, "haiku-4-5").body["output_config"] == {"format": form}
    assert "output_config" not in _fitted(_body(output_config={"effort": "high"}), "haiku-4-5").body
    assert _misfit(_body(output_config={"effort": "low"}), "haiku-4-5").text == "has no effort low"


def test_sampling_is_left_out_only_where_it_is_the_models_own() -> None:
    assert _fitted(_body(temperature=1.0, top_p=0.99), "haiku-5-5").adaptations == (
        "temperature left out",
        "top_p left out",
    )
    for sampled in ({"temperature": 0}, {"temperature": 0.7}, {"top_p": 0.5}, {"top_k": 400}):
        assert _misfit(_body(**sampled), "haiku-4-5").reason == "sampling"
        free = _fit(_body(**sampled), "haiku-4-5", free_sampling=True)
        assert isinstance(free, Fitted)
        assert free.adaptations == ()
        assert isinstance(_fit(_body(**sampled), "haiku-5-5", free_sampling=True), Misfit)


def test_a_paused_turn_is_no_prefill() -> None:
    call = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    paused = _body(messages=[HI, {"role": "assistant", "content": [call]}])
    assert isinstance(_fit(paused, "opus-5-5"), Fitted)
    said = _body(messages=[HI, {"role": "assistant", "content": [{"type": "text", "text": "The"}]}])
    assert _misfit(said, "opus-5-5").reason == "prefill"


def test_what_no_rule_knows_goes_through() -> None:
    odd = _body(
        thinking={"type": "dreaming"},
        output_config={"effort": "colossal", "shape": "round"},
        tool_choice={"type": "perhaps"},
        mood="good",
        max_tokens="many",
        temperature=None,
        service_tier="auto",
    )
    for model in TABLE.models:
        found = _fit(odd, model.removeprefix("claude-"))
        assert isinstance(found, Fitted)
        assert (found.body, found.adaptations) == ({**odd, "model": model}, ())
    for broken in (_body(messages="hi"), _body(messages=[3]), _body(thinking="on", output_config=3, tool_choice=[])):
        assert isinstance(_fit(broken, "opus-5-5"), Fitted)


# ---- context window, output limit, prices ------------------------------------------------------------------------


def _long(words: int, **fields: Any) -> dict[str, Any]:
    return _body(messages=[{"role": "user", "content": WORDS * words}], **fields)


def test_the_window_is_measured_in_the_models_own_tokens() -> None:
    body = _long(13_000)  # 162,500 tokens of the older tokenizer, 211,250 of the newer one
    small = TierTable.load({"models": {"tiny": {"like": "claude-haiku-5-5", "context_tokens": 200_000}}}).model("tiny")
    assert isinstance(_fit(body, "haiku-4-5"), Fitted)
    found = fits(body, small, measure(body), PLAIN)
    assert isinstance(found, Misfit)
    assert (found.reason, found.limit) == ("context", 200_000)
    assert found.needed is not None
    assert 211_000 < found.needed < 212_000


def test_the_answer_needs_room_too_unless_nothing_else_is_left() -> None:
    body = _long(13_000, max_tokens=60_000)
    assert _misfit(body, "haiku-4-5").needed == pytest.approx(222_500, abs=100)
    assert isinstance(_fit(body, "haiku-4-5", lenient=True), Fitted)
    assert isinstance(_fit(_long(20_000), "haiku-4-5", lenient=True), Fitted)  # 250,000 estimated: perhaps it fits
    assert _misfit(_long(30_000), "haiku-4-5", lenient=True).reason == "context"  # 375,000: it does not


def test_extended_leaves_out_windows_below_a_million() -> None:
    assert _misfit(_body(), "haiku-4-5", EXTENDED).reason == "context_window"
    assert isinstance(_fit(_body(), "haiku-5-5", EXTENDED), Fitted)


def test_over_every_window_is_too_large_with_counts() -> None:
    body = _long(140_000)
    misfits = [_misfit(body, name, lenient=True) for name in ("haiku-5-5", "sonnet-5-5", "opus-5-5")]
    error = none_fits(misfits)
    assert isinstance(error, RequestTooLarge)
    assert "about 2,275,0" in error.what
    assert "1,000,000" in error.what
    assert error.next_step
    left_out = _misfit(body, "haiku-4-5", EXTENDED)
    assert isinstance(none_fits([left_out, *misfits]), RequestTooLarge)
    assert isinstance(none_fits([left_out]), UnsupportedRequest)


def test_otherwise_the_error_names_every_models_reason_and_no_word_of_the_request() -> None:
    body = _body(messages=[{"role": "user", "content": "my secret"}], **FORCED)
    misfits = [_misfit(body, name) for name in ("sonnet-5-5", "opus-5-5")]
    error: PreRouterError = none_fits([*misfits, _misfit(_long(140_000), "haiku-5-5")])
    assert isinstance(error, UnsupportedRequest)
    assert "claude-sonnet-5-5 takes no tool_choice tool; claude-opus-5-5 takes no tool_choice tool" in str(error)
    assert "secret" not in str(error)
    assert isinstance(none_fits([]), UnsupportedRequest)


def test_the_worst_case_knows_bands_cache_marks_and_factors() -> None:
    short, long = _fitted(_body(), "haiku-5-5"), _fit(_long(10_000, max_tokens=1_000), "haiku-5-5")
    haiku, opus = TABLE.model("claude-haiku-5-5"), TABLE.model("claude-opus-5-5")
    # 4,096 x 0.50 = 2,048 and a few tokens of prompt
    assert Decimal("0.002048") < worst_case_usd(short, haiku) < Decimal("0.00205")
    assert isinstance(long, Fitted)
    # over 100,000 tokens, so at the higher rate
    prompt = long.prompt_tokens
    assert worst_case_usd(long, haiku) == (prompt * Decimal("0.50") + 1_000 * Decimal("2.50")).scaleb(-6)
    marked = _fit(_long(10_000, max_tokens=0, cache_control={"type": "ephemeral", "ttl": "1h"}), "opus-5-5")
    assert isinstance(marked, Fitted)
    assert worst_case_usd(marked, opus) == (marked.prompt_tokens * Decimal(8)).scaleb(-6)
    fast = _fitted(_body(speed="fast", inference_geo="us"), "opus-5-5")
    plain = _fitted(_body(), "opus-5-5")
    assert worst_case_usd(fast, opus) == worst_case_usd(plain, opus) * Decimal("2.2")


# ---- calmer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fields", "changed"),
    [
        ("haiku-5-5", {}, {"thinking": DISABLED}),
        ("haiku-5-5", {"thinking": ADAPTIVE}, {"thinking": DISABLED}),
        ("haiku-5-5", {"thinking": DISABLED}, None),
        ("haiku-5-5", {"output_config": {"effort": "max"}}, {"output_config": {"effort": "low"}}),
        ("sonnet-5-5", {}, {"thinking": BETWEEN}),
        ("sonnet-5-5", {"thinking": BETWEEN}, {"output_config": {"effort": "low"}}),
        ("opus-5-5", {}, {"output_config": {"effort": "low"}}),
        ("opus-5-5", {"output_config": {"effort": "low"}}, None),
        ("fable-5-1", {"thinking": ADAPTIVE}, {"output_config": {"effort": "low"}}),
        ("opus-4-8", {}, None),
        ("opus-4-8", {"thinking": ADAPTIVE}, {"thinking": None}),
        ("haiku-4-5", {"thinking": ENABLED}, {"thinking": None}),
        ("haiku-4-5", {"thinking": DISABLED}, None),
    ],
)
def test_calmer_turns_thinking_off_or_effort_low(
    name: str, fields: dict[str, Any], changed: dict[str, Any] | None
) -> None:
    body, model = _fitted(_body(**fields), name).body, TABLE.model(f"claude-{name}")
    calm = calmer(body, model)
    if changed is None:
        assert calm is None
        return
    assert calm == {key: value for key, value in {**body, **changed}.items() if value is not None}
    check(calm, NEW, MODELS)


@pytest.mark.parametrize("model", TABLE.models.values(), ids=lambda model: model.id)
def test_a_model_that_thinks_can_be_calmed_and_then_not_any_further(model: Model) -> None:
    body: dict[str, Any] | None = _body(model=model.id)
    steps = 0
    while body and (body := calmer(body, model)):
        check(body, NEW, MODELS)
        steps += 1
    assert (steps > 0) == model.thinks_by_default
    assert steps <= 2


# ---- whatever a body holds ---------------------------------------------------------------------------------------

WORDS_IN_BODIES = [
    "user", "assistant", "system", "text", "thinking", "tool_use", "tool_result", "image", "document", "base64", "url",
    "disabled", "between_tools", "enabled", "adaptive", "low", "max", "any", "tool", "fast", "us", "ephemeral", "1h",
]  # fmt: skip
KEYS = [
    "role", "content", "type", "text", "thinking", "signature", "data", "source", "input", "id", "tool_use_id", "ttl",
    "cache_control", "effort", "format",
]  # fmt: skip
FIELDS = [
    "messages", "system", "tools", "thinking", "output_config", "tool_choice", "max_tokens", "temperature", "top_p",
    "inference_geo", "speed", "cache_control", "mood",
]  # fmt: skip
words, names, fields = st.sampled_from(WORDS_IN_BODIES), st.sampled_from(KEYS), st.sampled_from(FIELDS)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=5)
things = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4))
messages = st.lists(
    st.fixed_dictionaries({"role": words, "content": st.lists(things, max_size=3) | things}), max_size=4
)
bodies = st.dictionaries(fields, things, max_size=6) | st.builds(lambda said: {"messages": said}, messages)


@given(bodies, st.sampled_from(sorted(TABLE.models)), st.booleans())
def test_no_body_is_too_odd_to_be_fitted(body: dict[str, Any], name: str, flag: bool) -> None:
    before, model, known = repr(body), TABLE.model(name), Conversations(TABLE)
    standing, size = known.look(body, PLAIN), measure(body)
    known.remember(standing, cast(Decision, None), name, [], Usage())
    prepared = known.prepared(standing, body, name)
    assert prepared is not None
    found = fits(prepared[0], model, size, PLAIN, lenient=flag, free_sampling=flag)
    if isinstance(found, Fitted):
        assert worst_case_usd(found, model) >= 0
        calmer(found.body, model)
    else:
        assert none_fits([found]).next_step
    assert repr(body) == before
