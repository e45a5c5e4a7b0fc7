"""New topics: found where rows have gathered that were not there before, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from prerouter.clusters import FEWEST, MOST, MOST_ROWS, topics

N_DIMS = 32


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def spread(rng: np.random.Generator, n: int) -> np.ndarray:
    return unit(rng.normal(size=(n, N_DIMS)))


def gathered(rng: np.random.Generator, n: int, axis: int = 0) -> np.ndarray:
    """n rows within some 0.5 of each other."""
    return unit(np.eye(N_DIMS)[axis] + rng.normal(scale=0.05, size=(n, N_DIMS)))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_new_topic_is_found_whole(rng: np.random.Generator) -> None:
    recent = np.concatenate([spread(rng, 400), gathered(rng, 40), spread(rng, 60)])
    (topic,) = topics(recent, spread(rng, 800), 0.7)
    assert set(topic.rows.tolist()) == set(range(400, 440))
    assert topic.share == pytest.approx(0.08)
    assert topic.before == 0.0


def test_the_rows_nearest_to_the_middle_come_first(rng: np.random.Generator) -> None:
    recent = np.concatenate([gathered(rng, 60), spread(rng, 300)])
    (topic,) = topics(recent, spread(rng, 500), 0.7)
    away = np.linalg.norm(recent[topic.rows] - recent[topic.rows[0]], axis=1)
    assert (np.diff(away) >= 0).all()


def test_a_topic_that_was_always_there_is_not_new(rng: np.random.Generator) -> None:
    recent = np.concatenate([spread(rng, 400), gathered(rng, 40)])
    assert topics(recent, np.concatenate([spread(rng, 800), gathered(rng, 80)]), 0.7) == ()
    (grown,) = topics(recent, np.concatenate([spread(rng, 800), gathered(rng, 10)]), 0.7)
    assert 0.01 < grown.before < 0.02


def test_several_come_in_the_order_of_their_surplus(rng: np.random.Generator) -> None:
    parts = [gathered(rng, 20 + 10 * i, axis=i) for i in range(MOST + 2)]
    found = topics(np.concatenate([*parts, spread(rng, 200)]), spread(rng, 900), 0.7)
    assert [len(topic.rows) for topic in found] == [80, 70, 60, 50, 40]
    rows = np.concatenate([topic.rows for topic in found])
    assert len(set(rows.tolist())) == len(rows)


def test_without_anything_new_next_to_nothing_is_found() -> None:
    """At most one in a hundred; here rows that gather in places, as traffic does."""
    n_found = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        centres = unit(rng.normal(size=(12, N_DIMS)))

        def traffic(n: int, rng: np.random.Generator = rng, centres: np.ndarray = centres) -> np.ndarray:
            return unit(centres[rng.integers(0, 12, n)] + rng.normal(scale=0.08, size=(n, N_DIMS)))

        n_found += bool(topics(traffic(300), traffic(300), 0.7))
    assert n_found <= 1


def test_few_rows_or_none_are_no_topic(rng: np.random.Generator) -> None:
    assert topics(gathered(rng, FEWEST - 1), spread(rng, 500), 0.7) == ()
    assert topics(np.empty((0, N_DIMS), np.float32), spread(rng, 500), 0.7) == ()
    assert topics(gathered(rng, 100), np.empty((0, N_DIMS), np.float32), 0.7) == ()


def test_equal_requests_are_a_topic_and_much_is_cut(rng: np.random.Generator) -> None:
    recent = np.concatenate([spread(rng, MOST_ROWS), np.repeat(gathered(rng, 1), 100, axis=0)])
    (topic,) = topics(recent, spread(rng, 3 * MOST_ROWS), 0.7)
    assert len(topic.rows) == 100
    assert topic.rows.max() < MOST_ROWS
