from __future__ import annotations

import itertools
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerouter.errors import ConfigError, InvalidRequest
from prerouter.policy import TIE_CONFIDENCE, Policy
from prerouter.records import Priority
from prerouter.sections import RouterSettings, Rule
from prerouter.settings import Settings
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable

TIERS = TierTable.load()
TAXONOMY = Taxonomy.load()
ORDER = ("haiku", "sonnet", "opus")
MODELS = {"haiku": "claude-haiku-5-5", "sonnet": "claude-sonnet-5-5", "opus": "claude-opus-5-5"}


def _policy(*rules: Rule, **router: Any) -> Policy:
    return Policy(Settings(rules=rules, router=RouterSettings(**router)), TAXONOMY, TIERS)


CUSTOMER = Rule("customer-facing", {"audience": "customer"}, min_tier="sonnet")


@pytest.mark.parametrize(("label", "tier"), [("simple", "haiku"), ("moderate", "sonnet"), ("complex", "opus")])
def test_a_label_goes_to_its_tier(label: str, tier: str) -> None:
    policy = _policy()
    choice = policy.choose(label, policy.limits())
    assert (choice.tier, choice.model, choice.adjusted_by) == (tier, MODELS[tier], ())


def test_min_tier_lifts_and_says_so() -> None:
    policy = _policy()
    choice = policy.choose("simple", policy.limits(min_tier="sonnet"))
    assert (choice.tier, choice.model, choice.adjusted_by) == ("sonnet", "claude-sonnet-5-5", ("min_tier",))


def test_max_tier_lowers_and_says_so() -> None:
    policy = _policy()
    assert policy.choose("complex", policy.limits(max_tier="sonnet")).adjusted_by == ("max_tier",)


def test_a_bound_that_moves_nothing_is_not_named() -> None:
    policy = _policy()
    assert policy.choose("moderate", policy.limits(min_tier="haiku", max_tier="opus")).adjusted_by == ()


def test_a_rule_applies_to_its_tags_only() -> None:
    policy = _policy(CUSTOMER)
    lifted = policy.choose("simple", policy.limits(tags={"audience": "customer", "team": "x"}))
    assert (lifted.tier, lifted.adjusted_by) == ("sonnet", ("rule:customer-facing",))
    assert policy.choose("simple", policy.limits(tags={"audience": "staff"})).tier == "haiku"
    assert policy.choose("simple", policy.limits()).tier == "haiku"


def test_a_tag_given_as_a_boolean_matches_the_rules_true() -> None:
    policy = _policy(Rule("vip", {"vip": "true"}, min_tier="opus"))
    assert policy.choose("simple", policy.limits(tags={"vip": True})).tier == "opus"


def test_the_tightest_of_several_bounds_holds() -> None:
    policy = _policy(CUSTOMER, Rule("legal", {"legal": "true"}, min_tier="opus"))
    tags = {"audience": "customer", "legal": "true"}
    assert policy.choose("simple", policy.limits(tags=tags, min_tier="haiku")).adjusted_by == ("rule:legal",)


def test_a_rules_lower_bound_stands_above_the_callers_upper_bound() -> None:
    policy = _policy(CUSTOMER)
    choice = policy.choose("complex", policy.limits(tags={"audience": "customer"}, max_tier="haiku"))
    assert (choice.tier, choice.adjusted_by) == ("sonnet", ("max_tier", "rule:customer-facing"))


def test_quality_sends_a_coin_toss_one_tier_up() -> None:
    policy = _policy(priority="quality")
    unsure = policy.choose("simple", policy.limits(), confidence=TIE_CONFIDENCE - 0.01)
    assert (unsure.tier, unsure.adjusted_by) == ("sonnet", ("priority",))
    assert policy.choose("simple", policy.limits(), confidence=TIE_CONFIDENCE).tier == "haiku"
    assert policy.choose("complex", policy.limits(), confidence=0.1).tier == "opus"


def test_the_calls_priority_stands_above_rule_and_settings() -> None:
    rule = Rule("fast", {"fast": "true"}, priority="speed")
    policy = _policy(rule, priority="quality")
    assert policy.limits(tags={"fast": True}).priority == "speed"
    assert policy.limits(tags={"fast": True}, priority="cost").priority == "cost"
    assert policy.limits().priority == "quality"


def test_a_forced_label_still_meets_the_bounds() -> None:
    policy = _policy()
    label, choice = policy.pinned(policy.limits(force_label="SIMPLE", min_tier="opus"))
    assert (label, choice.tier, choice.adjusted_by) == ("simple", "opus", ("min_tier",))


def test_a_forced_model_stands_above_every_bound() -> None:
    policy = _policy(CUSTOMER)
    limits = policy.limits(force_model="claude-haiku-5-5", tags={"audience": "customer"}, min_tier="opus")
    label, choice = policy.pinned(limits)
    assert (label, choice.tier, choice.model) == ("simple", "haiku", "claude-haiku-5-5")


def test_a_forced_model_outside_the_tiers_keeps_the_default_labels_tier() -> None:
    policy = _policy()
    label, choice = policy.pinned(policy.limits(force_model="claude-opus-4-8"))
    assert (label, choice.tier, choice.model) == ("moderate", "sonnet", "claude-opus-4-8")


def test_asking_is_pointless_only_when_no_answer_changes_the_tier() -> None:
    policy = _policy()
    assert not policy.asking_is_pointless(policy.limits())
    assert not policy.asking_is_pointless(policy.limits(min_tier="sonnet"))
    assert policy.asking_is_pointless(policy.limits(min_tier="opus"))
    assert policy.asking_is_pointless(policy.limits(min_tier="sonnet", max_tier="sonnet"))


def test_a_failed_classifier_goes_to_the_top_tier_only_by_setting() -> None:
    assert _policy().undecided(_policy().limits(), failed=True).tier == "sonnet"
    policy = _policy(on_failure="top_tier")
    assert policy.undecided(policy.limits(), failed=False).tier == "sonnet"
    choice = policy.undecided(policy.limits(), failed=True)
    assert (choice.tier, choice.adjusted_by) == ("opus", ("rule:on_failure",))
    assert policy.undecided(policy.limits(max_tier="haiku"), failed=True).tier == "haiku"


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_tier": "gold"},
        {"max_tier": "Opus "},
        {"force_model": "gpt-5"},
        {"force_label": "hard"},
        {"priority": "cheap"},
        {"min_tier": "opus", "max_tier": "haiku"},
    ],
    ids=str,
)
def test_what_does_not_exist_is_an_invalid_request_with_a_next_step(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _policy().limits(**wrong)
    assert caught.value.next_step


@pytest.mark.parametrize(
    "rule",
    [
        Rule("r", {}, min_tier="gold"),
        Rule("r", {}, force_model="gpt-5"),
        Rule("r", {}, min_tier="opus", max_tier="haiku"),
    ],
    ids=["tier", "model", "crossed"],
)
def test_a_rule_that_cannot_work_is_refused_when_the_router_is_made(rule: Rule) -> None:
    with pytest.raises(ConfigError):
        _policy(rule)


def test_a_taxonomy_without_tiers_has_no_tier_and_no_model() -> None:
    intents = Taxonomy.inferred(["refund", "other"])
    policy = Policy(Settings(), intents, TIERS)
    assert policy.choose("refund", policy.limits()).model is None


tier_or_none = st.none() | st.sampled_from(ORDER)


@given(
    st.sampled_from(TAXONOMY.names),
    tier_or_none,
    tier_or_none,
    tier_or_none,
    st.sampled_from(["cost", "quality", "speed"]),
    st.floats(0, 1),
)
def test_the_tier_stays_within_the_bounds(
    label: str, low: str | None, high: str | None, rule_low: str | None, priority: str, confidence: float
) -> None:
    policy = _policy(Rule("r", {"t": "1"}, min_tier=rule_low))
    if low and high and ORDER.index(low) > ORDER.index(high):
        return
    limits = policy.limits(min_tier=low, max_tier=high, tags={"t": 1}, priority=cast(Priority, priority))
    choice = policy.choose(label, limits, confidence=confidence)
    assert choice.tier is not None
    floor = max((ORDER.index(name) for name in (low, rule_low) if name), default=0)
    ceiling = max(floor, ORDER.index(high) if high else 2)
    assert floor <= ORDER.index(choice.tier) <= ceiling
    assert choice.model == MODELS[choice.tier]
    assert bool(choice.adjusted_by) == (choice.tier != TAXONOMY.tier_of(label)) or len(choice.adjusted_by) > 1


def test_a_stronger_label_never_goes_to_a_weaker_tier() -> None:
    policy = _policy(CUSTOMER)
    for low, high in itertools.combinations_with_replacement(ORDER, 2):
        limits = policy.limits(min_tier=low, max_tier=high)
        ranks = [ORDER.index(str(policy.choose(label, limits).tier)) for label in TAXONOMY.names]
        assert ranks == sorted(ranks)
