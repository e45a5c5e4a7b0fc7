"""The answer cache against a plain model of what it should keep."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prerouter.cache import AnswerCache


def test_the_least_recently_used_goes_first() -> None:
    cache: AnswerCache[int] = AnswerCache(2, 100.0)
    cache.put(b"a", 1, 0.0)
    cache.put(b"b", 2, 0.0)
    assert cache.get(b"a", 1.0) == 1
    cache.put(b"c", 3, 1.0)
    assert [cache.get(key, 2.0) for key in (b"a", b"b", b"c")] == [1, None, 3]


def test_an_answer_lives_from_its_last_put_not_from_its_last_use() -> None:
    cache: AnswerCache[int] = AnswerCache(2, 10.0)
    cache.put(b"a", 1, 0.0)
    assert cache.get(b"a", 9.9) == 1
    assert cache.get(b"a", 10.0) is None
    assert len(cache) == 0
    cache.put(b"a", 2, 10.0)
    assert cache.get(b"a", 19.9) == 2


@given(st.integers(0, 4), st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=80))
def test_it_keeps_the_last_used_ones_and_no_more(size: int, steps: list[tuple[bool, int]]) -> None:
    cache: AnswerCache[int] = AnswerCache(size, 1e9)
    used: list[int] = []  # most recent last
    for put, key in steps:
        kept = used[-size:] if size else []
        if put:
            cache.put(bytes([key]), key, 0.0)
        else:
            assert cache.get(bytes([key]), 0.0) == (key if key in kept else None)
        if put or key in kept:
            used = [k for k in kept if k != key] + [key]
    assert len(cache) <= size
