"""The pace of calls, on a clock of its own: limits hold in every minute, and little is left unused."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prerouter.pace import DEFAULT_RPM, FIRST_CALLS, MAX_OPEN, Pace


def headers(**limits: int) -> dict[str, str]:
    return {f"anthropic-ratelimit-{kind.replace('_', '-')}-limit": str(n) for kind, n in limits.items()}


def warm(pace: Pace, now: float = 0.0, seconds: float = 0.5) -> None:
    """Twenty answers, so that latency is known."""
    for _ in range(20):
        pace.answered(now, seconds, (0.0, 0), 0)


def sent(
    pace: Pace, seconds: float, tokens: float = 0.0, stall: Callable[[float], float] = lambda _: 0.0
) -> list[float]:
    """When calls leave in so many seconds if they leave as soon as they may; stall: seconds lost at a moment."""
    now, times = 0.0, []
    while now < seconds:
        wait = pace.wait_s(now, tokens)
        if wait > 0:
            now += wait
            continue
        pace.start(tokens)
        times.append(now)
        now += stall(now)
    return times


def worst_minute(times: list[float]) -> int:
    return max(bisect_right(times, at + 60) - i for i, at in enumerate(times))


@given(
    limit=st.integers(30, 6000),
    stalls=st.lists(st.floats(0.0, 20.0), max_size=5),
)
@settings(max_examples=60)
def test_no_minute_sees_more_than_the_limit(limit: int, stalls: list[float]) -> None:
    pace = Pace(None, None, 0.0)
    warm(pace)
    pace.read(0.0, headers(requests=limit))
    left = list(stalls)
    times = sent(pace, 150.0, stall=lambda now: left.pop() if left and now > 30 else 0.0)
    assert worst_minute(times) <= 0.98 * limit + 1


@pytest.mark.parametrize("limit", [60, 1000, 4000])
def test_after_half_a_minute_most_of_the_limit_is_used(limit: int) -> None:
    pace = Pace(None, None, 0.0)
    warm(pace)
    pace.read(0.0, headers(requests=limit))
    times = sent(pace, 90.0)
    assert sum(at >= 30 for at in times) >= 0.94 * limit


def test_the_first_seconds_are_slow_since_sharp_ramps_are_refused() -> None:
    pace = Pace(None, None, 0.0)
    warm(pace)
    pace.read(0.0, headers(requests=6000))
    times = sent(pace, 12.0)
    assert sum(at < 2 for at in times) < 0.5 * sum(10 <= at < 12 for at in times)


def test_the_users_own_limit_stands_below_the_apis() -> None:
    pace = Pace(100, None, 0.0)
    pace.read(0.0, headers(requests=4000))
    assert pace.rpm == 100
    pace.read(0.0, headers(requests=50))
    assert pace.rpm == 50


def test_without_any_word_the_lowest_limit_of_the_api_is_kept() -> None:
    assert Pace(None, None, 0.0).rpm == DEFAULT_RPM


def test_input_tokens_bind_when_requests_are_large() -> None:
    pace = Pace(None, None, 0.0)
    warm(pace)
    pace.read(0.0, headers(requests=6000, input_tokens=60_000))
    times = sent(pace, 150.0, tokens=2_000)
    assert worst_minute(times) * 2_000 <= 0.98 * 60_000 + 2_000
    assert len(times) > 50


def test_a_request_larger_than_a_minutes_tokens_still_goes() -> None:
    pace = Pace(None, None, 0.0)
    warm(pace)
    pace.read(0.0, headers(input_tokens=1_000))
    assert len(sent(pace, 300.0, tokens=2_000)) >= 2


def test_the_bill_corrects_the_estimate() -> None:
    pace, other = Pace(None, None, 0.0), Pace(None, None, 0.0)
    for one in (pace, other):
        warm(one)
        one.read(0.0, headers(requests=60_000, input_tokens=60_000))
        one.wait_s(60.0, 900)
        one.start(900)
    pace.answered(60.0, 0.5, (900, 100), 0)
    other.answered(60.0, 0.5, (900, 900), 0)
    assert pace.wait_s(60.0, 900) < other.wait_s(60.0, 900)


def test_few_refusals_among_many_answers_change_nothing() -> None:
    pace = Pace(None, None, 0.0)
    warm(pace)
    pace.read(0.0, headers(requests=6000))
    pace.wait_s(20.0, 0)
    for i in range(200):
        if i % 10 == 0:
            pace.pushed_back(20.0 + i, 1.0)
        else:
            pace.answered(20.0 + i, 0.5, (0.0, 0), 0)
    times = [at for at in sent(pace, 320.0) if at > 230]
    assert worst_minute(times) > 0.9 * 6000


def test_when_most_calls_are_refused_all_slow_down_and_come_back() -> None:
    pace = Pace(None, 100, 0.0)
    warm(pace)
    pace.read(0.0, headers(requests=6000))
    pace.wait_s(20.0, 0)
    assert pace.most_open == 100
    for i in range(40):
        pace.pushed_back(20.0 + i / 4, 2.0)
    assert pace.most_open < 50
    assert pace.wait_s(30.0, 0) > 0.5  # what the API asked for
    pace.wait_s(60.0, 0)
    assert pace.most_open < 50  # nothing has been answered since
    pace.answered(60.0, 0.5, (0.0, 0), 0)
    pace.wait_s(75.0, 0)
    assert pace.most_open == 100


def test_open_calls() -> None:
    pace = Pace(None, None, 0.0)
    assert pace.most_open == FIRST_CALLS
    warm(pace)
    pace.read(0.0, headers(requests=1_000_000))
    pace.wait_s(60.0, 0)
    assert pace.most_open == MAX_OPEN
    assert Pace(None, 2, 0.0).most_open == 2


def test_a_call_is_given_up_after_a_few_times_the_usual_latency() -> None:
    pace = Pace(None, None, 0.0)
    assert pace.timeout_s == 30.0
    warm(pace, seconds=2.0)
    assert pace.timeout_s == 8.0
    fast = Pace(None, None, 0.0)
    warm(fast, seconds=0.01)
    assert fast.timeout_s == 2.5


@pytest.mark.parametrize("value", ["", "0", "-3", "many", "1e9"])
def test_an_unreadable_header_is_ignored(value: str) -> None:
    pace = Pace(None, None, 0.0)
    pace.read(0.0, {"anthropic-ratelimit-requests-limit": value})
    assert pace.rpm == DEFAULT_RPM
