"""The circuit breaker and the rate bucket, on a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerouter.breaker import Breaker, RateBucket


def _opened(failures: int = 3, reset_s: float = 10.0) -> Breaker:
    breaker = Breaker(failures, reset_s)
    for _ in range(failures):
        breaker.start()
        breaker.failure(0.0)
    return breaker


def test_only_failures_in_a_row_open_it() -> None:
    breaker = Breaker(3, 10.0)
    for _ in range(5):
        breaker.failure(0.0)
        breaker.failure(0.0)
        breaker.success()
    assert breaker.state(0.0) == "closed"
    for _ in range(3):
        breaker.failure(0.0)
    assert breaker.state(0.0) == "open"


def test_it_blocks_until_the_reset_time_and_then_lets_one_probe_through() -> None:
    breaker = _opened()
    assert breaker.blocks(9.99)
    assert not breaker.blocks(10.0)
    assert breaker.state(10.0) == "half_open"
    assert breaker.start()
    assert breaker.blocks(10.0)
    assert breaker.blocks(1e9), "a second call must not start while the probe is out"


def test_the_probe_closes_it_or_opens_it_for_another_reset_time() -> None:
    breaker = _opened()
    breaker.start()
    breaker.failure(10.0, probe=True)
    assert (breaker.state(19.9), breaker.state(20.0)) == ("open", "half_open")
    breaker.start()
    breaker.success(probe=True)
    assert breaker.state(20.0) == "closed"
    breaker.failure(20.0)
    assert breaker.state(20.0) == "closed", "the count of failures starts anew"


def test_calls_from_before_it_opened_change_nothing() -> None:
    breaker = _opened()
    breaker.success()
    breaker.failure(9.0)
    assert (breaker.state(9.9), breaker.state(10.0)) == ("open", "half_open")


def test_a_call_while_closed_is_no_probe() -> None:
    assert not Breaker(1, 1.0).start()


def test_the_bucket_allows_six_seconds_of_calls_and_then_its_rate() -> None:
    bucket = RateBucket(480)  # 8 a second
    assert [bucket.reserve(5.0, 0.0) for _ in range(49)] == [0.0] * 48 + [None]
    assert bucket.reserve(5.125, 0.0) == 0.0
    assert bucket.reserve(5.125, 0.0) is None


def test_waiting_in_the_bucket_is_a_queue() -> None:
    bucket = RateBucket(6)
    assert [bucket.reserve(0.0, 25.0) for _ in range(4)] == [0.0, 10.0, 20.0, None]
    assert bucket.reserve(10.0, 25.0) == pytest.approx(20.0), "who was refused has not taken a place"


@given(
    st.integers(1, 6000),
    st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), max_size=60),
)
def test_no_second_sees_more_than_the_rate_and_one_burst(rpm: int, steps: list[tuple[float, float]]) -> None:
    bucket, now, starts = RateBucket(rpm), 0.0, []
    for step, max_wait in steps:
        now += step
        wait = bucket.reserve(now, max_wait)
        assert wait is None or 0 <= wait <= max_wait
        if wait is not None:
            starts.append(now + wait)
    per_s = rpm / 60
    for start in starts:
        assert sum(start <= at < start + 1 for at in starts) <= per_s + max(1.0, 6 * per_s) + 1
