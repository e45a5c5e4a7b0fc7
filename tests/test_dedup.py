"""Duplicates are found as they are defined, and nothing else is taken for one."""

from __future__ import annotations

import random
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from prerouter import dedup

LONG = (
    "Please summarise the attached minutes of the quarterly planning meeting for the leadership team, and list who "
    "promised what until when, in the order in which the promises were made"
)


def _find(*texts: str, labels: str = "", conversations: list[str | None] | None = None) -> dedup.Duplicates:
    return dedup.find(texts, labels or "a" * len(texts), conversations or [None] * len(texts))


def _grams(text: str) -> set[str]:
    plain = dedup.normal(text)
    return {plain[i : i + dedup.GRAM] for i in range(max(1, len(plain) - dedup.GRAM + 1))}


def _alike(one: str, other: str) -> bool:
    a, b = _grams(one), _grams(other)
    return len(a & b) / len(a | b) >= dedup.ALIKE


def test_the_first_of_exact_duplicates_stays() -> None:
    found = _find("What is the capital of France?", "Sort this list.", "what is the  capital of France?")
    assert (found.kept, found.exact, found.near) == ((0, 1), (2,), ())
    assert found.groups[0] == found.groups[2] != found.groups[1]


def test_digits_do_not_tell_rows_apart() -> None:
    found = _find("Where is order 48213 from 3 May?", "Where is order 7 from 21 May?")
    assert (found.kept, found.exact) == ((0,), (1,))


def test_near_duplicates_are_removed_and_others_are_not() -> None:
    found = _find(LONG, LONG + ".", LONG.replace("minutes", "notes"), "Translate the minutes into Spanish.")
    assert (found.kept, found.exact, found.near) == ((0, 3), (), (1, 2))


def test_rows_with_another_label_stay_in_one_group() -> None:
    """One document with work of two kinds is the best of lessons, but must not be in two parts."""
    found = _find(LONG, LONG + " please", LONG, labels="aba")
    assert found.kept == (0, 1)
    assert len(set(found.groups)) == 1
    assert (found.exact, found.contradictions) == ((2,), ())


def test_the_same_request_with_two_labels_is_a_contradiction() -> None:
    found = _find("Is this spam?", "Sort this list.", "is this spam?", labels="aab")
    assert found.kept == (0, 1, 2)
    assert found.contradictions == ((2, 0),)


def test_conversations_stay_together_even_through_duplicates() -> None:
    found = _find("one", "two", "three", "two", conversations=["x", "x", "y", "y"], labels="abcb")
    assert len(set(found.groups)) == 1


def test_a_group_keeps_its_name_when_rows_are_added() -> None:
    texts = ["What is the capital of France?", "Sort this list.", LONG]
    before = _find(*texts).groups
    assert _find(*texts, LONG + "!", "Another one.").groups[:3] == before


def test_short_and_empty_texts() -> None:
    found = _find("", "hi", "ho", "", "hi", "7", "12")
    assert found.kept == (0, 1, 2, 5)
    assert dedup.find([], [], []).kept == ()


def test_small_steps_do_not_join_what_is_unlike() -> None:
    words = [f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(120)]
    chain = [" ".join(words[i : i + 40]) for i in range(0, 80, 2)]
    found = _find(*chain)
    assert len(found.kept) >= 10
    assert all(not _alike(chain[i], chain[j]) for i, j in combinations(found.kept, 2))


_WORDS = ["refund", "order", "please", "translate", "the", "minutes", "into", "Spanish", "2024", "now", "of", "a", "é"]

_TEXTS = st.lists(st.sampled_from(_WORDS), max_size=14).map(" ".join)


@settings(max_examples=200)
@given(
    texts=st.lists(st.lists(st.sampled_from(_WORDS), max_size=14).map(" ".join), max_size=25), seed=st.integers(0, 9)
)
def test_what_is_kept_is_unlike_and_what_is_not_kept_is_like_something_kept(texts: list[str], seed: int) -> None:
    texts += [text.replace("please", "pleased") for text in texts]
    labels = [random.Random(seed).choice("ab") for _ in texts]
    found = dedup.find(texts, labels, [None] * len(texts))
    kept = set(found.kept)
    for i, j in combinations(sorted(kept), 2):
        assert labels[i] != labels[j] or not _alike(texts[i], texts[j])
    for i in set(range(len(texts))) - kept:
        assert any(j < i and labels[j] == labels[i] and _alike(texts[i], texts[j]) for j in kept)
    assert sorted([*found.exact, *found.near, *kept]) == list(range(len(texts)))


def test_many_fillings_of_one_template_take_bounded_work() -> None:
    """Each pair is just below the limit: comparing all of them exactly would be two million comparisons."""
    rng, letters = random.Random(0), "abcdefghijklmnopqrstuvwxyz "
    rows = [LONG[:66] + "".join(rng.choices(letters, k=30)) for _ in range(2000)]
    assert len(_find(*rows).kept) == 2000
