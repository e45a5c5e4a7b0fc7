from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerouter.dispatchconfig import DispatchConfig
from prerouter.errors import ConfigError
from prerouter.sections import Rule
from prerouter.settings import Settings

PLAIN = Settings()
CUSTOMER = Rule(
    "customer",
    {"audience": "customer"},
    min_tier="sonnet",
    deadline_s=20.0,
    max_usd=Decimal("0.5"),
    speculative="generalist",
    context_window="extended",
    per_step=True,
    shadow=True,
)
BETA = Rule("beta", {"stage": "beta"}, deadline_s=5.0, speculative="cheap")
RULES = Settings(rules=(CUSTOMER, BETA))
EVERYTHING = {
    "priority": "quality",
    "context_window": "extended",
    "min_tier": "haiku",
    "max_tier": "opus",
    "force_model": "claude-opus-5-5",
    "conversation_id": "c1",
    "tags": {"team": "search", "vip": True, "seats": 3},
    "max_usd": 0.25,
    "deadline_s": 30,
    "speculative": "cheap",
    "per_step": True,
    "shadow": True,
}


def test_nothing_said_is_the_default() -> None:
    assert DispatchConfig.read(None, RULES) == DispatchConfig.read({}, RULES) == DispatchConfig()


def test_every_key_is_read() -> None:
    config = DispatchConfig.read(EVERYTHING, PLAIN)
    read = {name: getattr(config, name) for name in EVERYTHING}
    tags = {"team": "search", "vip": "true", "seats": "3"}
    assert read == EVERYTHING | {"tags": tags, "max_usd": Decimal("0.25"), "deadline_s": 30.0}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"prioritty": "cost"}, "did you mean 'priority'"),
        ({1: 2}, "unknown key 1"),
        ({"priority": "cheap"}, "one of quality, speed, cost"),
        ({"context_window": "big"}, "one of standard, extended"),
        ({"speculative": "yes"}, "one of cheap, generalist, off"),
        ({"speculative": False}, "speculative"),
        ({"per_step": "yes"}, "true or false"),
        ({"shadow": 1}, "true or false"),
        ({"min_tier": ""}, "text that is not empty"),
        ({"conversation_id": 5}, "text that is not empty"),
        ({"tags": ["a"]}, "tags must be a table"),
        ({"max_usd": 0}, "max_usd"),
        ({"max_usd": float("nan")}, "max_usd"),
        ({"max_usd": True}, "max_usd"),
        ({"deadline_s": 0}, "deadline_s is 0"),
        ({"deadline_s": -1}, "deadline_s is -1"),
        ({"deadline_s": float("inf")}, "deadline_s is inf"),
        ({"deadline_s": float("nan")}, "deadline_s is nan"),
        ({"deadline_s": "soon"}, "deadline_s must be a number"),
        ("cost", "must be a mapping, not str"),
        (["cost"], "must be a mapping, not list"),
        (0, "must be a mapping, not int"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_with_a_next_step(wrong: Any, told: str) -> None:
    with pytest.raises(ConfigError, match="dispatch_config") as caught:
        DispatchConfig.read(wrong, PLAIN)
    assert told in str(caught.value)
    assert caught.value.next_step


def test_none_is_the_same_as_leaving_a_key_out() -> None:
    assert DispatchConfig.read(dict.fromkeys(EVERYTHING), RULES) == DispatchConfig()


def test_a_rule_says_what_the_caller_did_not() -> None:
    config = DispatchConfig.read({"tags": {"audience": "customer"}, "max_usd": "0.1"}, RULES)
    assert (config.deadline_s, config.speculative, config.context_window) == (20.0, "generalist", "extended")
    assert (config.per_step, config.shadow, config.max_usd) == (True, True, Decimal("0.1"))
    assert config.min_tier is None  # the router applies it and names the rule


def test_a_caller_can_unsay_what_a_rule_says() -> None:
    said = {"tags": {"audience": "customer"}, "speculative": "off", "per_step": False, "context_window": "standard"}
    config = DispatchConfig.read(said, RULES)
    assert (config.speculative, config.per_step, config.context_window) == (None, False, "standard")


def test_of_two_rules_the_first_one_that_speaks_of_a_key_wins() -> None:
    tags = {"audience": "customer", "stage": "beta"}
    assert DispatchConfig.read({"tags": tags}, RULES).deadline_s == 20.0
    assert DispatchConfig.read({"tags": tags}, Settings(rules=(BETA, CUSTOMER))).deadline_s == 5.0
    assert DispatchConfig.read({"tags": tags}, Settings(rules=(BETA, CUSTOMER))).max_usd == Decimal("0.5")


def test_a_rule_applies_to_its_tags_only() -> None:
    assert DispatchConfig.read({"tags": {"audience": "staff"}}, RULES).deadline_s is None
    assert DispatchConfig.read({"conversation_id": "c"}, RULES).deadline_s is None


def test_a_rules_deadline_is_checked_too() -> None:
    settings = Settings(rules=(Rule("r", {"a": "1"}, deadline_s=0.0),))
    with pytest.raises(ConfigError, match="rule by tag"):
        DispatchConfig.read({"tags": {"a": 1}}, settings)


keys = st.sampled_from(sorted(EVERYTHING)) | st.text(max_size=12)
values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.dictionaries(keys, st.text())
)


@given(st.dictionaries(keys, values, max_size=4) | values)
def test_whatever_is_said_is_a_configuration_or_a_config_error(value: Any) -> None:
    try:
        config = DispatchConfig.read(value, RULES)
    except ConfigError:
        return
    assert isinstance(config, DispatchConfig)
    assert config.speculative in (None, "cheap", "generalist")
