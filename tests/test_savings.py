"""What answered requests would have cost elsewhere, by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest
from test_local import TAXONOMY

from prerouter.policy import Policy
from prerouter.records import Reason, Scores, Usage
from prerouter.savings import COLD, CURRENT, FLOOR, LOGGED, ROUTED, Answered, Pricing, Sum, tier_name
from prerouter.sections import Rule
from prerouter.settings import Settings
from prerouter.tiers import TierTable

TIERS = TierTable.load()
ASKING = Decimal("0.0001")

SETTINGS = Settings(
    rules=(
        Rule("sonnet-at-least", {"team": "x"}, min_tier="sonnet"),
        Rule("opus", {"pin": "y"}, force_model="claude-opus-5-5"),
    )
)
POLICY = Policy(SETTINGS, TAXONOMY, TIERS)
PRICING = Pricing(POLICY, TAXONOMY, TIERS, "claude-haiku-5-5")


def scores(label: str, probabilities: tuple[float, float, float], reason: Reason = "above_gate") -> Scores:
    return Scores(label, probabilities, 0, reason, 0.1, 0.5, 0.1, 1.0)


EACH = Usage(100_000, 100_000)


def answered(model: str, usage: Usage = EACH, **how: bool) -> Answered:
    return Answered(TIERS.model(model), usage, **how)


def bill(call: Answered, said: Scores, **tags: str) -> dict[str, Decimal]:
    return PRICING.bill(call, said, ASKING, POLICY.limits(tags=tags))


def test_the_same_tokens_at_list_prices() -> None:
    usd = bill(answered("claude-opus-5-5"), scores("simple", (1.0, 0.0, 0.0)))
    # 0.1 million tokens each way: opus 4 + 20, sonnet 2 + 10, haiku 0.10 + 0.50 US dollars a million.
    assert usd[LOGGED] == usd[CURRENT] == usd["always-opus"] == Decimal("2.4")
    assert usd["always-sonnet"] == Decimal("1.2")
    assert usd["always-haiku"] == usd[ROUTED] == usd[FLOOR] == usd[COLD] == Decimal("0.06")
    assert usd["haiku-first"] == Decimal("0.06") + ASKING
    assert PRICING.top == "always-opus"
    assert PRICING.first == "haiku-first"


def test_what_local_leaves_open_is_asked_about_and_goes_where_it_is_likely() -> None:
    usd = bill(answered("claude-opus-5-5"), scores("simple", (0.5, 0.25, 0.25), "abstained_gate"))
    likely = Decimal("0.5") * Decimal("0.06") + Decimal("0.25") * Decimal("1.2") + Decimal("0.25") * Decimal("2.4")
    assert usd[ROUTED] == usd["haiku-first"] == likely + ASKING
    assert usd[FLOOR] == usd[COLD] == Decimal("2.4") + ASKING  # at least: it stays where it was


def test_tokens_are_converted_between_tokenizers_and_an_old_model_stands_in_its_own_tier() -> None:
    usd = bill(answered("claude-haiku-4-5"), scores("simple", (1.0, 0.0, 0.0)))
    assert usd[LOGGED] == Decimal("0.6")  # 1 + 5 US dollars a million
    # 30 % more tokens for the same text, 130,000: above 100,000 the whole request is at the higher prices.
    assert usd[CURRENT] == usd["always-haiku"] == Decimal("0.13") * (Decimal("0.5") + Decimal("2.5"))
    assert tier_name(TIERS, TIERS.model("claude-opus-4-5")) == "opus"
    assert tier_name(TIERS, TIERS.model("claude-fable-5")) is None


def test_a_cache_is_not_found_on_another_model() -> None:
    call = answered("claude-opus-5-5", Usage(0, 0, cache_read_tokens=50_000))
    usd = bill(call, scores("simple", (1.0, 0.0, 0.0)))
    assert usd[FLOOR] == Decimal("0.0005")
    assert usd[COLD] == Decimal("0.00625")
    same = bill(call, scores("complex", (0.0, 0.0, 1.0)))
    assert same[COLD] == same[LOGGED]


def test_batches_cost_half_and_speed_is_dropped_where_a_model_has_none() -> None:
    half = bill(answered("claude-opus-5-5", batch=True), scores("simple", (1.0, 0.0, 0.0)))
    assert (half[LOGGED], half[ROUTED]) == (Decimal("1.2"), Decimal("0.03"))
    fast = bill(answered("claude-opus-5-5", fast=True), scores("simple", (1.0, 0.0, 0.0)))
    assert (fast[LOGGED], fast[ROUTED]) == (Decimal("4.8"), Decimal("0.06"))


def test_rules_hold_as_they_would() -> None:
    said = scores("simple", (1.0, 0.0, 0.0))
    assert bill(answered("claude-opus-5-5"), said, team="x")[ROUTED] == Decimal("1.2")
    pinned = bill(answered("claude-sonnet-5-5"), said, pin="y")
    assert {pinned[name] for name in (ROUTED, FLOOR, COLD, "haiku-first")} == {Decimal("2.4")}


def test_dollars_that_move() -> None:
    def moved(said: Scores, **tags: str) -> Decimal:
        return PRICING.moved(answered("claude-opus-5-5"), said, POLICY.limits(tags=tags))

    assert moved(scores("simple", (1.0, 0.0, 0.0))) == Decimal("2.4")
    assert moved(scores("complex", (0.0, 0.0, 1.0))) == 0
    assert moved(scores("simple", (0.5, 0.25, 0.25), "abstained_gate")) == Decimal("1.8")
    assert moved(scores("simple", (1.0, 0.0, 0.0)), pin="y") == 0


def test_a_sum_says_what_is_saved() -> None:
    total = Sum()
    total.add({LOGGED: Decimal(3), ROUTED: Decimal(1)}, True)
    total.add({LOGGED: Decimal(1), ROUTED: Decimal(1)}, False)
    found = total.to_json()
    assert (found["rows"], found["coverage"]) == (2, 0.5)
    assert found["policies"][ROUTED] == {
        "usd": 2.0,
        "usd_per_1000": 1000.0,
        "saved_usd": 2.0,
        "saved": pytest.approx(0.5),
    }
    assert Sum().to_json() == {"rows": 0, "coverage": None, "policies": {}}
