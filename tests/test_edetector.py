"""The arithmetic of the live bound, against its definition."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerouter.edetector import LEVEL, STAKES, Evidence, alarm_at

limits = st.floats(0.001, 0.9)
audits = st.lists(st.booleans(), max_size=40)


def after(limit: float, errors: list[bool] | tuple[bool, ...]) -> Evidence:
    found = Evidence(limit)
    for error in errors:
        found = found.after(error)
    return found


def by_definition(limit: float, errors: list[bool]) -> float:
    """The sum over all possible moments of the change of the likelihood ratio since then, mixed over the stakes."""
    total = 0.0
    for times, weight in STAKES:
        share = min(times * limit, (1 + limit) / 2)
        ratios = [share / limit if error else (1 - share) / (1 - limit) for error in errors]
        total += weight * sum(math.prod(ratios[start:]) for start in range(len(errors)))
    return total


@given(limits, audits)
def test_evidence_is_the_sum_over_all_moments_of_a_change(limit: float, errors: list[bool]) -> None:
    assert after(limit, errors).value == pytest.approx(by_definition(limit, errors), rel=1e-9)


@pytest.mark.parametrize("limit", [0.02, 0.05, 0.3])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_its_mean_is_the_number_of_audits_at_the_limit_and_less_below(limit: float, share: float) -> None:
    n, rate = 10, share * limit
    mean = 0.0
    for errors in product((False, True), repeat=n):
        chance = math.prod(rate if error else 1 - rate for error in errors)
        mean += chance * after(limit, errors).value if chance else 0.0
    assert mean == pytest.approx(n) if share == 1 else mean < n


def test_the_weights_of_the_stakes_sum_to_one() -> None:
    assert sum(weight for _, weight in STAKES) == 1


@given(limits, audits)
def test_an_error_is_more_evidence_than_none(limit: float, errors: list[bool]) -> None:
    found = after(limit, errors)
    assert found.after(True).value > found.after(False).value >= 0


def test_a_long_quiet_time_does_not_delay_the_alarm() -> None:
    def delay(quiet: int) -> int:
        found, n = after(0.05, [False] * quiet), 0
        while found.value < alarm_at(3000):
            found, n = found.after(n % 5 == 0), n + 1
        return n

    assert delay(20_000) == delay(2_000) <= delay(0) + 25


def test_evidence_never_overflows() -> None:
    assert math.isfinite(after(0.001, [True] * 5000).value)


def test_the_alarm_grows_with_the_horizon_and_with_the_detectors_that_share_the_level() -> None:
    assert alarm_at(1000) == 1000 / LEVEL
    assert alarm_at(1000, 0.25) == 4 * alarm_at(1000)
