"""The price and ability table, its overrides, and cost arithmetic against figures worked out by hand."""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerouter.errors import ConfigError, UnsupportedRequest
from prerouter.records import Usage
from prerouter.tiers import Model, TierTable, compare, convert_tokens, cost, thinking_off, thinks, turn_cost

TABLE = TierTable.load()
HAIKU, SONNET, OPUS = (TABLE.model(f"claude-{name}-5-5") for name in ("haiku", "sonnet", "opus"))
IDS = sorted(TABLE.models)


# ---- worked cases ------------------------------------------------------------------------------------------------


def test_150k_conversation_on_opus_is_cheaper_to_stay_than_to_switch_to_haiku() -> None:
    # 150,000 x 0.20 = 30,000; 200 x 4 = 800; 500 x 20 = 10,000; together 40,800 millionths.
    assert turn_cost(OPUS, cached=150_000, new=200, output=500) == Decimal("0.0408")
    # 150,200 tokens are over 100,000, so at the higher rate: 150,200 x 0.50 = 75,100; 500 x 2.50 = 1,250.
    assert turn_cost(HAIKU, new=150_200, output=500) == Decimal("0.07635")


def test_50k_conversation_on_sonnet_is_cheapest_switched_down_and_dearest_switched_up() -> None:
    # 50,000 x 0.10 = 5,000; 200 x 2 = 400; 300 x 10 = 3,000.
    assert turn_cost(SONNET, cached=50_000, new=200, output=300) == Decimal("0.0084")
    # 50,200 x 0.10 = 5,020; 300 x 0.50 = 150.
    assert turn_cost(HAIKU, new=50_200, output=300) == Decimal("0.00517")
    # 50,200 x 4 = 200,800; 300 x 20 = 6,000.
    assert turn_cost(OPUS, new=50_200, output=300) == Decimal("0.2068")


@pytest.mark.parametrize(
    ("write", "dollars"),
    [
        (None, "0.00517"),
        ("5m", "0.006425"),  # 50,200 x 0.125 = 6,275; 300 x 0.50 = 150
        ("1h", "0.01019"),  # 50,200 x 0.20 = 10,040; 300 x 0.50 = 150
    ],
)
def test_switching_with_a_cache_mark_pays_the_write(write: Any, dollars: str) -> None:
    assert turn_cost(HAIKU, new=50_200, output=300, write=write) == Decimal(dollars)


def test_a_prompt_below_the_minimum_is_billed_as_uncached_although_marked() -> None:
    # 511 x 0.10 = 51.1; 512 x 0.125 = 64
    assert turn_cost(HAIKU, new=511, output=0, write="5m") == Decimal("0.0000511")
    assert turn_cost(HAIKU, new=512, output=0, write="5m") == Decimal("0.000064")


def test_the_band_ends_at_100_000_prompt_tokens() -> None:
    # 100,000 x 0.10 + 1,000 x 0.50 = 10,500; one token more: 100,001 x 0.50 + 1,000 x 2.50 = 52,500.5
    assert cost(HAIKU, Usage(input_tokens=100_000, output_tokens=1_000)) == Decimal("0.0105")
    assert cost(HAIKU, Usage(input_tokens=100_001, output_tokens=1_000)) == Decimal("0.0525005")


@pytest.mark.parametrize(
    ("usage", "dollars"),
    [
        # 1 x 0.50 + 60,000 x 0.05 + 40,000 x 0.625 = 28,000.5
        (Usage(input_tokens=1, cache_read_tokens=60_000, cache_write_5m_tokens=40_000), "0.0280005"),
        # 1 x 0.50 + 60,000 x 0.05 + 40,000 x 1.00 = 43,000.5
        (Usage(input_tokens=1, cache_read_tokens=60_000, cache_write_1h_tokens=40_000), "0.0430005"),
        # output does not count: 60,000 x 0.01 + 40,000 x 0.125 + 90,000 x 0.50 = 50,600
        (Usage(output_tokens=90_000, cache_read_tokens=60_000, cache_write_5m_tokens=40_000), "0.0506"),
    ],
)
def test_cache_reads_and_writes_count_toward_the_band(usage: Usage, dollars: str) -> None:
    assert cost(HAIKU, usage) == Decimal(dollars)


def test_batch_geo_and_fast_are_factors_on_everything() -> None:
    usage = Usage(input_tokens=1_000, output_tokens=1_000, cache_read_tokens=10_000)
    # Opus: 1,000 x 4 + 1,000 x 20 + 10,000 x 0.20 = 26,000
    assert cost(OPUS, usage) == Decimal("0.026")
    assert cost(OPUS, usage, batch=True) == Decimal("0.013")
    assert cost(OPUS, usage, geo_us=True) == Decimal("0.0286")
    assert cost(OPUS, usage, batch=True, geo_us=True) == Decimal("0.0143")
    assert cost(OPUS, usage, fast=True) == Decimal("0.052")


@pytest.mark.parametrize(
    ("model", "flags"),
    [
        ("claude-haiku-5-5", {"fast": True}),
        ("claude-haiku-4-5", {"geo_us": True}),
        ("claude-opus-5-5", {"fast": True, "batch": True}),
    ],
)
def test_what_the_api_refuses_has_no_price(model: str, flags: dict[str, bool]) -> None:
    with pytest.raises(UnsupportedRequest) as caught:
        cost(TABLE.model(model), Usage(input_tokens=1), **flags)
    assert model in str(caught.value)
    assert caught.value.next_step


def test_haiku_5_5_costs_a_7_7th_of_haiku_4_5_for_the_same_text_not_a_tenth() -> None:
    old = TABLE.model("claude-haiku-4-5")
    assert convert_tokens(10_000, old, HAIKU) == 13_000
    assert convert_tokens(13_000, HAIKU, old) == 10_000
    # 10,000 x 1 = 10,000 against 13,000 x 0.10 = 1,300
    assert turn_cost(old, new=10_000, output=0) == Decimal("0.01")
    assert turn_cost(HAIKU, new=convert_tokens(10_000, old, HAIKU), output=0) == Decimal("0.0013")


def test_counts_carry_over_within_a_tokenizer_generation_and_round_up_across() -> None:
    assert convert_tokens(12_345, OPUS, TABLE.model("claude-opus-4-7")) == 12_345
    assert convert_tokens(12_345, TABLE.model("claude-opus-4-6"), TABLE.model("claude-sonnet-4-5")) == 12_345
    assert convert_tokens(1, TABLE.model("claude-opus-4-6"), TABLE.model("claude-opus-4-7")) == 2


# ---- properties --------------------------------------------------------------------------------------------------

models = st.sampled_from(IDS).map(TABLE.model)
# Four prompt counts of at most 10,000: a prompt, and the sum of two, stays inside the lower band of 100,000.
counts = st.integers(0, 10_000)
usages = st.builds(Usage, counts, counts, counts, counts, counts)
FIELDS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens")


def _added(a: Usage, b: Usage) -> Usage:
    return Usage(**{name: getattr(a, name) + getattr(b, name) for name in FIELDS})


@given(models, usages, usages)
def test_cost_is_additive_within_a_band(model: Model, a: Usage, b: Usage) -> None:
    assert cost(model, _added(a, b)) == cost(model, a) + cost(model, b)


@given(models, usages, st.sampled_from(FIELDS))
def test_cost_rises_with_every_count(model: Model, usage: Usage, name: str) -> None:
    assert cost(model, _added(usage, Usage(**{name: 1}))) > cost(model, usage) >= 0


@given(models, usages)
def test_batch_is_exactly_half_and_always_decimal(model: Model, usage: Usage) -> None:
    full, half = cost(model, usage), cost(model, usage, batch=True)
    assert half + half == full
    assert type(full) is type(half) is Decimal


@given(models, st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_turn_is_a_cost_of_its_counts_also_at_extreme_sizes(model: Model, cached: int, new: int) -> None:
    turn = turn_cost(model, cached=cached, new=new, output=7)
    assert turn == cost(model, Usage(input_tokens=new, cache_read_tokens=cached, output_tokens=7))
    assert turn <= turn_cost(model, cached=cached, new=new, output=7, write="5m")
    assert turn_cost(model, cached=cached, new=new, output=7, write="5m") <= turn_cost(
        model, cached=cached, new=new, output=7, write="1h"
    )


# ---- the shipped table -------------------------------------------------------------------------------------------


def test_default_tiers_weakest_first() -> None:
    assert [tier.name for tier in TABLE.tiers] == ["haiku", "sonnet", "opus"]
    assert [TABLE.rank(name) for name in ("haiku", "sonnet", "opus")] == [0, 1, 2]
    assert [TABLE.first_model(tier.name) for tier in TABLE.tiers] == [HAIKU.id, SONNET.id, OPUS.id]
    assert TABLE.as_of == datetime.date(2026, 11, 20)


PRICES = """
fable-5-2     8  40   10     16    0.20
mythos-5-2    8  40   10     16    0.20
fable-5-1    10  50   12.50  20    0.25
mythos-5-1   10  50   12.50  20    0.25
fable-5      10  50   12.50  20    1.00
mythos-5     10  50   12.50  20    1.00
haiku-5-5  0.10 0.50  0.125  0.20  0.01
sonnet-5-5    2  10   2.50   4     0.10
opus-5-5      4  20   5      8     0.20
opus-5        5  25   6.25   10    0.50
sonnet-5      2  10   2.50   4     0.20
opus-4-8      5  25   6.25   10    0.50
opus-4-7      5  25   6.25   10    0.50
opus-4-6      5  25   6.25   10    0.50
opus-4-5      5  25   6.25   10    0.50
sonnet-4-6    3  15   3.75   6     0.30
sonnet-4-5    3  15   3.75   6     0.30
haiku-4-5     1   5   1.25   2     0.10
"""


@pytest.mark.parametrize("row", PRICES.strip().splitlines(), ids=lambda row: row.split()[0])
def test_prices_as_published(row: str) -> None:
    name, *published = row.split()
    model = TABLE.model(f"claude-{name}")
    assert [model.input, model.output, model.cache_write_5m, model.cache_write_1h, model.cache_read] == [
        Decimal(price) for price in published
    ]


def test_every_known_model_has_a_published_price() -> None:
    assert {f"claude-{row.split()[0]}" for row in PRICES.strip().splitlines()} == set(IDS)


@pytest.mark.parametrize("name", IDS)
def test_every_model_is_consistent_with_itself(name: str) -> None:
    model = TABLE.model(name)
    assert model.output == 5 * model.input
    assert model.cache_read < model.input < model.cache_write_5m < model.cache_write_1h == 2 * model.input
    assert model.max_output_tokens <= model.context_tokens
    assert set(model.off_efforts) <= set(model.efforts)
    assert model.default_effort in model.efforts or not model.efforts
    assert not (model.prefill and model.thinks_by_default)


def test_limits_and_minimum_cacheable_lengths() -> None:
    small = {name for name in IDS if TABLE.model(name).context_tokens == 200_000}
    assert small == {"claude-haiku-4-5", "claude-sonnet-4-5", "claude-opus-4-5"}
    assert {TABLE.model(name).max_output_tokens for name in small} == {64_000}
    minimum = {name.removeprefix("claude-"): TABLE.model(name).min_cacheable_tokens for name in IDS}
    assert {name: n for name, n in minimum.items() if n != 512} == {
        "sonnet-5": 1024,
        "opus-4-8": 1024,
        "opus-4-7": 2048,
        "opus-4-6": 4096,
        "opus-4-5": 4096,
        "sonnet-4-6": 1024,
        "sonnet-4-5": 1024,
        "haiku-4-5": 4096,
    }


def test_who_refuses_forced_tools() -> None:
    refusing = {name.removeprefix("claude-") for name in IDS if not TABLE.model(name).forced_tools}
    assert refusing == {"sonnet-5-5", "opus-5-5", "fable-5-1", "mythos-5-1", "fable-5-2", "mythos-5-2"}


def test_who_takes_prefill_sampling_geo_and_fast() -> None:
    def who(key: str) -> set[str]:
        return {name.removeprefix("claude-") for name in IDS if getattr(TABLE.model(name), key)}

    four_five = {"haiku-4-5", "sonnet-4-5", "opus-4-5"}
    assert who("prefill") == four_five
    assert who("free_sampling") == four_five | {"opus-4-6", "sonnet-4-6"}
    assert who("us_factor") == {name.removeprefix("claude-") for name in IDS} - four_five
    assert who("fast_factor") == {"opus-5-5", "opus-5", "opus-4-8"}


@pytest.mark.parametrize(
    ("name", "effort", "sent", "still_thinks"),
    [
        ("haiku-5-5", None, {"type": "disabled"}, False),
        ("haiku-5-5", "xhigh", None, True),
        ("sonnet-5-5", None, {"type": "between_tools"}, False),
        ("sonnet-5-5", "max", None, True),
        ("opus-5-5", "low", None, True),
        ("fable-5-2", "low", None, True),
        ("opus-5", "high", {"type": "disabled"}, False),
        ("opus-5", "xhigh", None, True),
        ("sonnet-5", "max", {"type": "disabled"}, False),
        ("opus-4-8", None, None, False),
        ("haiku-4-5", None, None, False),
    ],
)
def test_how_thinking_is_turned_off(name: str, effort: str | None, sent: dict[str, str], still_thinks: bool) -> None:
    model = TABLE.model(f"claude-{name}")
    assert thinking_off(model, effort) == sent
    assert thinks(model, effort) is still_thinks


def test_dated_aliases_are_known_only_up_to_4_5() -> None:
    assert TABLE.model("claude-haiku-4-5-20251001") is TABLE.model("claude-haiku-4-5")
    with pytest.raises(ConfigError, match="did you mean 'claude-haiku-5-5'"):
        TABLE.model("claude-haiku-5-5-20261007")


def test_what_belongs_to_one_model_is_not_taken_over_by_those_like_it() -> None:
    assert TABLE.model("claude-sonnet-4-5").retires_at == datetime.date(2026, 11, 30)
    assert TABLE.model("claude-sonnet-4-5").aliases == ("claude-sonnet-4-5-20250929",)
    assert TABLE.model("claude-opus-4-5").tool_prompt_tokens is None
    assert TABLE.model("claude-opus-4-8").retires_not_before is None


def test_every_price_in_the_file_is_quoted_so_that_it_is_read_exactly() -> None:
    def floats(value: Any) -> list[float]:
        if isinstance(value, Mapping):
            return [number for item in value.values() for number in floats(item)]
        return [value] if isinstance(value, float) else []

    file = Path(__file__).parent.parent / "prerouter" / "tiers.toml"
    assert floats(tomllib.loads(file.read_text("utf-8"))) == []


# ---- overrides ---------------------------------------------------------------------------------------------------


def test_a_price_override_changes_that_price_and_no_other_model() -> None:
    table = TierTable.load({"models": {"claude-opus-4-7": {"input": "4.50"}}})
    assert table.model("claude-opus-4-7").input == Decimal("4.50")
    assert table.model("claude-opus-4-7").output == 25
    assert table.model("claude-opus-4-6").input == 5  # written as `like` opus-4-7 in the shipped file


@pytest.mark.parametrize("price", ["0.08", 0.08, Decimal("0.08")])
def test_prices_are_exact_however_they_are_written(price: object) -> None:
    table = TierTable.load({"models": {"claude-haiku-5-5": {"input": price, "long_prompt": {"input": 1}}}})
    model = table.model("claude-haiku-5-5")
    assert model.input == Decimal("0.08")
    assert model.long_prompt
    assert (model.long_prompt.input, model.long_prompt.output) == (1, Decimal("2.50"))


def test_a_tier_can_be_moved_to_another_model_and_back_by_id() -> None:
    table = TierTable.load({"haiku": {"models": ["claude-haiku-4-5-20251001", "claude-haiku-5-5"]}})
    assert table.first_model("haiku") == "claude-haiku-4-5-20251001"  # what the user wrote is what is sent
    for name in ("claude-haiku-4-5", "claude-haiku-4-5-20251001", "claude-haiku-5-5"):
        assert table.tier_of_model(name) == table.tier("haiku")


def test_the_first_accepting_model_of_a_tier_wins() -> None:
    table = TierTable.load({"haiku": {"models": ["claude-haiku-4-5", "claude-haiku-5-5"]}})
    assert table.first_model("haiku", lambda model: model.context_tokens >= 500_000) == "claude-haiku-5-5"
    with pytest.raises(UnsupportedRequest, match=r"no model of tier 'haiku'.*claude-haiku-4-5, claude-haiku-5-5"):
        table.first_model("haiku", lambda model: model.context_tokens > 1_000_000)


def test_a_model_in_two_tiers_belongs_where_it_is_preferred() -> None:
    table = TierTable.load({"haiku": {"models": ["claude-haiku-5-5", "claude-sonnet-5-5"]}})
    assert table.tier_of_model("claude-sonnet-5-5") == table.tier("sonnet")
    assert table.tier_of_model("claude-haiku-5-5") == table.tier("haiku")
    assert table.tier_of_model("claude-fable-5-2") is None
    assert table.tier_of_model("gpt-9") is None


def test_new_tiers_and_models() -> None:
    new = {"like": "claude-opus-5-5", "input": "6", "context_tokens": 2_000_000}
    table = TierTable.load(
        {
            "fable": {"order": 40, "models": ["claude-fable-5-2", "claude-opus-6"]},
            "tiny": {"order": 5, "models": ["claude-haiku-4-5"]},
            "models": {"claude-opus-6": new},
        }
    )
    assert [tier.name for tier in table.tiers] == ["tiny", "haiku", "sonnet", "opus", "fable"]
    assert table.rank("fable") == 4
    model = table.model("claude-opus-6")
    assert (model.input, model.output, model.context_tokens) == (6, 20, 2_000_000)


def test_a_tier_without_models_is_left_out() -> None:
    table = TierTable.load({"sonnet": {"models": []}})
    assert [tier.name for tier in table.tiers] == ["haiku", "opus"]
    assert table.rank("opus") == 1


def test_overrides_are_not_changed_by_loading() -> None:
    overrides = {"models": {"claude-x": {"like": "claude-opus-5-5"}}, "haiku": {"order": 1}}
    TierTable.load(overrides)
    assert overrides == {"models": {"claude-x": {"like": "claude-opus-5-5"}}, "haiku": {"order": 1}}


BROKEN: list[tuple[Any, str]] = [
    ({"models": {"claude-haiku-5-5": {"inptu": "1"}}}, r"unknown key tiers\.models\.claude-haiku-5-5\.inptu"),
    ({"models": {"claude-haiku-5-5": {"inptu": "1"}}}, r"did you mean 'input'"),
    ({"haiku": {"model": ["claude-haiku-4-5"]}}, r"unknown key tiers\.haiku\.model .*did you mean 'models'"),
    ({"models": {"claude-haiku-5-5": {"long_prompt": {"above": 1}}}}, r"long_prompt\.above .*known: above_tokens"),
    ({"models": {"claude-x": {"input": "1"}}}, r"tiers\.models\.claude-x\.output is missing .*like = "),
    ({"models": {"claude-opus-5": {"long_prompt": {"above_tokens": 1}}}}, r"long_prompt\.input is missing"),
    ({"models": {"claude-haiku-5-5": {"like": "claude-opus-9-5"}}}, r"like names no model above it"),
    ({"models": {"a": {"like": "b"}, "b": {"like": "a"}}}, r"tiers\.models\.a\.like names no model above it: 'b'"),
    ({"haiku": {"models": ["claude-hiaku-5-5"]}}, r"unknown model 'claude-hiaku-5-5'.*did you mean 'claude-haiku-5-5'"),
    ({"haiku": {"models": ["claude-opus-4-20250514"]}}, r"model 'claude-opus-4-20250514' is retired"),
    ({"hiaku": {"models": ["claude-haiku-4-5"]}}, r"tiers\.hiaku\.order is missing .*haiku, sonnet or opus"),
    ({"sonnet": {"order": 10}}, r"two tiers have the same order"),
    ({tier: {"models": []} for tier in ("haiku", "sonnet", "opus")}, r"there is no tier with a model"),
    ({"haiku": {"models": "claude-haiku-5-5"}}, r"tiers\.haiku\.models must be a list"),
    ({"haiku": "claude-haiku-5-5"}, r"tiers\.haiku must be a table"),
    ({"models": ["claude-haiku-5-5"]}, r"tiers\.models must be a table"),
    ("cheap", r"tiers must be a table, not 'cheap'"),
    ({"as_of": "2026-11-20"}, r"tiers\.as_of must be a date"),
    *(
        ({"models": {"claude-haiku-5-5": {"input": bad}}}, r"\.input must be a number above zero")
        for bad in ("cheap", "", "-1", 0, "NaN", float("nan"), float("inf"), "1e999999", "1e-999999", True, None, [1])
    ),
    *(({"models": {"claude-haiku-5-5": {"context_tokens": bad}}}, "a whole number") for bad in (-1, 1.5, "1", True)),
    ({"models": {"claude-haiku-5-5": {"prefill": "no"}}}, r"\.prefill must be true or false"),
    ({"models": {"claude-haiku-5-5": {"default_effort": ""}}}, r"\.default_effort must be text"),
]


@pytest.mark.parametrize(("overrides", "message"), BROKEN)
def test_a_wrong_override_is_named_with_file_and_next_step(overrides: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        TierTable.load(overrides, where="team/prerouter.toml")
    assert "team/prerouter.toml" in caught.value.where
    assert caught.value.next_step


def test_an_unknown_model_or_tier_names_the_file_to_edit_and_what_is_known() -> None:
    table = TierTable.load({}, where="team/prerouter.toml")
    with pytest.raises(ConfigError) as caught:
        table.model("gpt-9")
    assert '[tiers.models."gpt-9"] in team/prerouter.toml' in str(caught.value)
    with pytest.raises(ConfigError, match="known, weakest first: haiku, sonnet, opus") as caught:
        table.tier("gpt")
    assert "team/prerouter.toml" in str(caught.value)


# ---- against GET /v1/models --------------------------------------------------------------------------------------


def _listed(name: str, **changed: Any) -> dict[str, Any]:
    model = TABLE.model(name)
    supported = {"supported": True}
    return {
        "id": name,
        "lifecycle": "active",
        "retires_at": None,
        "max_input_tokens": model.context_tokens,
        "max_tokens": model.max_output_tokens,
        "capabilities": {
            "effort": {"supported": True, **dict.fromkeys(model.efforts, supported)},
            "thinking": {"supported": True, "types": dict.fromkeys(model.thinking_types, supported)},
        },
        **changed,
    }


LISTING = [_listed(name) for tier in TABLE.tiers for name in tier.models]


def _found(changed: dict[str, Any]) -> list[tuple[str, str, bool]]:
    listing = [_listed(HAIKU.id, **changed), *LISTING[1:]]
    return [(finding.problem, finding.text, finding.serious) for finding in compare(TABLE, listing)]


def test_a_listing_that_agrees_gives_no_finding() -> None:
    assert compare(TABLE, LISTING) == []
    assert compare(TABLE, [{"id": item["id"], "capabilities": None} for item in LISTING]) == []


@pytest.mark.parametrize(
    ("changed", "problem", "words", "serious"),
    [
        ({"id": "claude-other"}, "missing", "not in the API's list", True),
        ({"lifecycle": "retired"}, "retired", "requests to it fail", True),
        ({"lifecycle": "deprecated", "retires_at": "2027-01-31T00:00:00Z"}, "deprecated", "on 2027-01-31", False),
        (
            {"lifecycle": "deprecated", "retires_at": datetime.datetime(2027, 1, 31, tzinfo=datetime.UTC)},
            "deprecated",
            "on 2027-01-31",
            False,
        ),
        ({"lifecycle": "deprecated"}, "deprecated", "(tier haiku): deprecated", False),
        ({"max_input_tokens": 500_000}, "limit", "context_tokens is 1000000 in the table, 500000 at the API", False),
        ({"max_tokens": 64_000}, "limit", "max_output_tokens is 128000 in the table, 64000", False),
        ({"capabilities": {"effort": {"low": {"supported": False}}}}, "ability", "effort 'low'", False),
        (
            {"capabilities": {"thinking": {"types": {"disabled": {"supported": False}}}}},
            "ability",
            "thinking type 'disabled'",
            False,
        ),
    ],
)
def test_each_difference_is_found_once(changed: dict[str, Any], problem: str, words: str, serious: bool) -> None:
    (finding,) = _found(changed)
    assert (finding[0], finding[2]) == (problem, serious)
    assert words in finding[1]


def test_a_dated_id_in_the_listing_is_the_configured_alias() -> None:
    table = TierTable.load({"haiku": {"models": ["claude-haiku-4-5"]}})
    listing = [_listed("claude-haiku-4-5", id="claude-haiku-4-5-20251001"), *LISTING[1:]]
    assert compare(table, listing) == []


def test_models_outside_the_tiers_are_not_compared() -> None:
    assert compare(TABLE, [*LISTING, {"id": "claude-sonnet-4-5", "lifecycle": "deprecated"}]) == []
