"""Where a request may go, and where it goes when a model fails."""

from __future__ import annotations

import pytest

from prerouter.plan import DeadModels, Place, Threads, first_places, next_places
from prerouter.policy import Bound, Limits
from prerouter.tiers import TierTable

TABLE = TierTable.load(
    {
        "haiku": {"models": ["claude-haiku-5-5"]},
        "sonnet": {"models": ["claude-sonnet-5-5", "claude-sonnet-5"]},
        "opus": {"models": ["claude-opus-5-5"]},
    }
)
FREE = Limits()


def tiers(places: list[Place]) -> list[str]:
    return [f"{place.tier}/{place.model.removeprefix('claude-')}" for place in places]


def test_a_request_goes_to_its_tier_or_above() -> None:
    assert tiers(first_places(TABLE, "sonnet", FREE)) == ["sonnet/sonnet-5-5", "sonnet/sonnet-5", "opus/opus-5-5"]
    assert tiers(first_places(TABLE, "sonnet", Limits(upper=Bound("sonnet", "max_tier")))) == [
        "sonnet/sonnet-5-5",
        "sonnet/sonnet-5",
    ]


@pytest.mark.parametrize(
    ("fallback", "expected"),
    [
        ("availability", ["sonnet/sonnet-5", "haiku/haiku-5-5", "opus/opus-5-5"]),
        ("quality", ["sonnet/sonnet-5", "opus/opus-5-5"]),
        ("off", []),
    ],
)
def test_after_a_failure_the_policy_says_where(fallback: str, expected: list[str]) -> None:
    chosen = Place("sonnet", "claude-sonnet-5-5")
    assert tiers(next_places(TABLE, chosen, FREE, fallback)) == expected  # type: ignore[arg-type]


def test_the_top_tier_falls_down_step_by_step() -> None:
    chosen = Place("opus", "claude-opus-5-5")
    down = tiers(next_places(TABLE, chosen, FREE, "availability"))
    assert down == ["sonnet/sonnet-5-5", "sonnet/sonnet-5", "haiku/haiku-5-5"]
    assert next_places(TABLE, chosen, FREE, "quality") == []


def test_bounds_hold_after_a_failure_too() -> None:
    limits = Limits(lower=Bound("sonnet", "min_tier"), upper=Bound("sonnet", "max_tier"))
    assert tiers(next_places(TABLE, Place("sonnet", "claude-sonnet-5-5"), limits, "availability")) == [
        "sonnet/sonnet-5"
    ]


def test_a_forced_model_has_no_other() -> None:
    limits = Limits(force_model="claude-sonnet-5-5")
    assert next_places(TABLE, Place("sonnet", "claude-sonnet-5-5"), limits, "availability") == []
    assert next_places(TABLE, Place(None, "claude-fable-5"), FREE, "availability") == []


def test_a_dead_model_comes_back_after_a_while() -> None:
    now = [0.0]
    dead = DeadModels(10.0, clock=lambda: now[0])
    assert dead.now() == ()
    dead.add("m")
    now[0] = 9.0
    assert dead.now() == ("m",)
    now[0] = 10.0
    assert dead.now() == ()


def test_threads_are_forgotten_oldest_first() -> None:
    threads = Threads(size=2)
    for name in ("a", "b", "c"):
        threads.add(name, None, name)  # type: ignore[arg-type]
    found = [threads.find({"thread": {"type": "continue", "previous_message_id": name}}) for name in ("a", "b", "c")]
    assert [model[1] if model else None for model in found] == [None, "b", "c"]
    assert [threads.find(body) for body in ({}, {"thread": "x"}, {"thread": {"type": "create"}})] == [None] * 3
