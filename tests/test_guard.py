"""The guard knows what it was shown, and turns away what it was not: by distance and by language."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerouter import guard

ENGLISH = ["what is the capital of france", "write a summary of the report", "is the review positive or negative"] * 3


def test_centroids_and_distances() -> None:
    rng = np.random.default_rng(13)
    centres = np.eye(8, dtype=np.float32)
    data = np.repeat(centres, 50, axis=0) + rng.normal(scale=0.01, size=(400, 8)).astype(np.float32)
    found = guard.fit_centroids(data, n_centroids=40)
    assert found.shape == (40, 8)
    assert guard.distances(data, found).max() < 0.1
    assert guard.distances(-centres, found).min() > 1.0
    brute = np.sqrt(((data[:, None] - found[None]) ** 2).sum(-1)).min(axis=1)
    assert guard.distances(data, found) == pytest.approx(brute, abs=2e-3)
    assert np.array_equal(found, guard.fit_centroids(data, n_centroids=40))
    assert len(guard.fit_centroids(data[:5])) == 5


def test_words_must_occur_in_several_texts() -> None:
    words = guard.common_words(["Call ACME, acme acme", "call bob", "CALL_bob 77"], min_texts=2)
    assert words == {"call", "bob"}


def test_unknown_share_counts_letters() -> None:
    assert guard.unknown_share("Call bob 12 now!", {"call", "now"}) == pytest.approx(3 / 10)
    assert guard.unknown_share("1 + 1 = ?", {"call"}) == 1.0
    assert guard.unknown_share("", {"call"}) == 1.0
    assert guard.unknown_share("フランスの首都はどこですか", {"call"}) == 1.0
    assert guard.unknown_share("call " * 60 + "zzz " * 1000, {"call"}) == 0.0


@given(st.text())
def test_unknown_share_is_a_share(text: str) -> None:
    assert 0.0 <= guard.unknown_share(text, {"the"}) <= 1.0


def test_limits_lose_their_share_of_what_is_known() -> None:
    rng = np.random.default_rng(1)
    data = rng.normal(size=(2000, 16)).astype(np.float32)
    data /= np.linalg.norm(data, axis=1, keepdims=True)
    texts = [f"{'the ' * 9}{'strange' if i % 50 == 0 else 'the'}" for i in range(2000)]
    made = guard.fit(data[:1000], ENGLISH, data[1000:], texts[1000:])
    turned_away = (made.measure(data[1000:], texts[1000:]) > made.limit).mean()
    assert guard.LOST * 0.9 < turned_away <= 2 * guard.LOST


def test_other_language_and_nothing_are_furthest() -> None:
    data = np.eye(9, dtype=np.float32)
    made = guard.fit(data, ENGLISH, data, ENGLISH)
    texts = ["what is the report", "wie heißt die Hauptstadt", "ما هي عاصمة فرنسا", ""]
    measured = made.measure(data[:4], texts)
    assert measured[0] == pytest.approx(0, abs=1e-3)
    assert measured[1:].tolist() == [guard.MAX_DISTANCE] * 3


def test_without_held_out_rows_nothing_unknown_passes() -> None:
    data = np.eye(4, dtype=np.float32)
    made = guard.fit(data, ENGLISH[:4], data[:0], [])
    assert (made.limit, made.max_unknown) == (0.0, 0.0)
