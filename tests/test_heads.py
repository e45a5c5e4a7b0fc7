"""Heads: what is learnt, how strongly, and that held-out rows are held out."""

from __future__ import annotations

import numpy as np
import pytest

from prerouter import heads
from prerouter.heads import Rows

N_SIGNALS = 3


def _rows(
    n: int, n_labels: int, *, spread: float = 1.0, signal: float = 0.0, n_signals: int = N_SIGNALS, seed: int = 0
) -> Rows:
    """Labels as clusters in 8 dimensions, `spread` wide; `signal`: how far the first signal follows the label."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, n_labels, n)
    centres = rng.normal(size=(n_labels, 8))
    x = centres[truth] + spread * rng.normal(size=(n, 8))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    signals = rng.normal(size=(n, n_signals))
    signals[:, 0] += signal * truth
    return Rows(x.astype(np.float32), signals.astype(np.float32), truth, np.ones(n), [f"g{i}" for i in range(n)])


def _accuracy(head: heads.Head, rows: Rows) -> float:
    return float((heads.logits(head, rows.features, rows.signals).argmax(axis=1) == rows.truth).mean())


@pytest.mark.parametrize("n_labels", [2, 3, 5])
def test_a_head_learns_to_tell_labels_apart(n_labels: int) -> None:
    rows = _rows(400, n_labels, spread=0.3)
    head = heads.fit_head(rows.take(np.arange(300)), n_labels, strength=10.0)
    assert head.weights.shape == (n_labels, 8 + N_SIGNALS)
    assert head.weights.dtype == head.bias.dtype == np.float32
    assert _accuracy(head, rows.take(np.arange(300, 400))) > 0.9


def test_a_label_without_rows_is_never_chosen() -> None:
    rows = _rows(200, 2)
    shifted = Rows(rows.features, rows.signals, rows.truth * 2, rows.weights, rows.groups)  # labels 0 and 2
    head = heads.fit_head(shifted, 4, strength=1.0)
    assert set(heads.logits(head, rows.features, rows.signals).argmax(axis=1).tolist()) == {0, 2}


def test_weights_count() -> None:
    rows = _rows(200, 2, spread=3.0)
    weights = np.where(rows.truth == 1, 50.0, 1.0)
    heavy = Rows(rows.features, rows.signals, rows.truth, weights, rows.groups)
    head = heads.fit_head(heavy, 2, strength=1.0)
    assert heads.logits(head, rows.features, rows.signals).argmax(axis=1).mean() > 0.95


def test_without_signals_their_weights_are_zero() -> None:
    head = heads.fit_head(_rows(100, 3), 3, strength=1.0, signals=False)
    assert not head.weights[:, 8:].any()
    assert head.weights.shape == (3, 8 + N_SIGNALS)


def test_the_search_uses_signals_where_they_tell_and_not_where_they_do_not() -> None:
    assert heads.search(_rows(400, 3, spread=2.0, signal=3.0), 3).signals
    assert not heads.search(_rows(150, 3, spread=0.5, n_signals=25), 3).signals


def test_the_search_is_out_of_fold() -> None:
    """Labels that are noise cannot be predicted, though a head on all rows would seem to."""
    rng = np.random.default_rng(1)
    noise = Rows(
        rng.normal(size=(300, 150)).astype(np.float32),
        np.zeros((300, N_SIGNALS), np.float32),
        rng.integers(0, 2, 300),
        np.ones(300),
        [f"g{i}" for i in range(300)],
    )
    found = heads.search(noise, 2)
    assert found.accuracy is not None
    assert found.loss is not None
    assert found.accuracy < 0.62
    assert found.loss > 0.66
    assert found.strength == heads.STRENGTHS[0]
    assert _accuracy(heads.fit_head(noise, 2, strength=100.0), noise) > 0.8


def test_rows_of_one_group_are_in_one_fold() -> None:
    """Each row stands there ten times; by row, its copies would tell its label."""
    rng, once = np.random.default_rng(2), 60
    x = np.repeat(rng.normal(size=(once, 80)), 10, axis=0).astype(np.float32)
    truth = np.repeat(rng.integers(0, 2, once), 10)
    signals, groups = np.zeros((len(x), N_SIGNALS), np.float32), [str(i // 10) for i in range(len(x))]
    found = heads.search(Rows(x, signals, truth, np.ones(len(x)), groups), 2)
    alone = heads.search(Rows(x, signals, truth, np.ones(len(x)), [str(i) for i in range(len(x))]), 2)
    assert found.accuracy is not None
    assert alone.accuracy is not None
    assert found.accuracy < 0.75 < 0.95 < alone.accuracy


def test_the_search_goes_up_while_it_helps_and_its_losses_are_all_there() -> None:
    found = heads.search(_rows(500, 3, spread=0.5), 3)
    assert found.strength == min(found.losses, key=lambda c: found.losses[c])
    assert list(found.losses) == list(heads.STRENGTHS[: len(found.losses)])
    assert found.logits is not None
    assert found.logits.shape == (500, 3)
    assert found.loss == pytest.approx(found.losses[found.strength])


@pytest.mark.parametrize("n", [0, 10, heads.MIN_ROWS - 1])
def test_too_few_rows_are_not_searched(n: int) -> None:
    found = heads.search(_rows(n, 2) if n else _rows(1, 2).take(np.array([], np.int64)), 2)
    assert (found.strength, found.losses, found.logits, found.accuracy) == (heads.DEFAULT_STRENGTH, {}, None, None)


def test_a_label_of_three_rows_does_not_stop_the_search() -> None:
    rows = _rows(200, 2)
    truth = rows.truth.copy()
    truth[:3] = 2
    found = heads.search(Rows(rows.features, rows.signals, truth, rows.weights, rows.groups), 3)
    assert found.logits is not None
    assert np.isfinite(found.logits).all()


def test_two_searches_and_fits_are_alike() -> None:
    rows = _rows(300, 3)
    assert heads.search(rows, 3).losses == heads.search(rows, 3).losses
    one, two = (heads.fit_head(rows, 3, strength=1.0) for _ in range(2))
    assert np.array_equal(one.weights, two.weights)
