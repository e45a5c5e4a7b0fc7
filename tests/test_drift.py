"""Two samples of counts: no false alarm without a change, an alarm for a large one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prerouter.drift import FEWEST, LEAST, LEVEL, shift


def counts(rng: np.random.Generator, n: int, shares: list[float]) -> np.ndarray:
    return rng.multinomial(n, shares).astype(np.int64)


SHARES = [0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.02, 0.02, 0.01]


def test_p_values_are_uniform_without_a_change() -> None:
    rng = np.random.default_rng(0)
    found = [shift(counts(rng, 400, SHARES), counts(rng, 700, SHARES), seed=i) for i in range(300)]
    p = np.array([s.p_value for s in found if s])
    assert len(p) == 300
    for level in (0.05, 0.2, 0.5):
        assert abs((p <= level).mean() - level) < 4 * np.sqrt(level * (1 - level) / 300)
    assert not any(s.alarm for s in found if s)


@pytest.mark.parametrize("n", [500, 5000])
@pytest.mark.parametrize("share", [0.2, 0.35])
def test_the_share_that_moved_is_told(n: int, share: float) -> None:
    rng = np.random.default_rng(1)
    moved = [(1 - share) * s for s in SHARES[:-1]] + [share + (1 - share) * SHARES[-1]]
    found = shift(counts(rng, n, moved), counts(rng, 2000, SHARES))
    assert found
    assert found.alarm
    assert found.p_value <= LEVEL
    assert found.moved == pytest.approx(share, abs=0.06)


def test_a_small_change_in_millions_of_requests_is_real_and_no_alarm() -> None:
    rng = np.random.default_rng(2)
    found = shift(counts(rng, 3_000_000, [0.52, 0.48]), counts(rng, 9_000_000, [0.5, 0.5]))
    assert found
    assert found.p_value <= LEVEL
    assert 0.01 < found.moved < 0.03 < LEAST
    assert not found.alarm


def test_too_few_rows_say_nothing() -> None:
    assert shift(np.array([FEWEST - 1, 0]), np.array([500, 500])) is None
    assert shift(np.array([500, 500]), np.array([0, 0])) is None


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=40))
def test_any_counts_will_do(both: list[tuple[int, int]]) -> None:
    recent, reference = np.array(both, np.int64).T
    found = shift(recent, reference)
    if found:
        assert (found.n, found.n_reference) == (recent.sum(), reference.sum())
        assert 0 < found.p_value <= 1
        assert 0 <= found.moved <= 1
        again = shift(recent, reference)
        assert found == again


def test_nothing_in_common_is_all_of_the_traffic() -> None:
    found = shift(np.array([1000, 0]), np.array([0, 1000]))
    assert found
    assert found.moved > 0.95
    assert found.alarm
