"""Agreement and noise, against published examples, scikit-learn, exact fractions and simulated labellers."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from prerouter.agreement import EXACT_ROWS, Confusion, agreement, noise, share_interval

LABELS = ("simple", "moderate", "complex")
PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), max_size=40)
VOTES = st.lists(st.dictionaries(st.sampled_from(LABELS), st.integers(0, 4)), max_size=20)


@given(PAIRS)
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    found = agreement(pairs)
    if len({name for pair in pairs for name in pair}) < 2:
        assert found.kappa is None
    else:
        assert found.kappa is not None
        assert found.kappa.estimate == pytest.approx(cohen_kappa_score(*zip(*pairs, strict=True)))
        assert found.kappa.lower <= found.kappa.estimate + 1e-9


@given(PAIRS)
def test_what_does_not_agree_is_confused(pairs: list[tuple[str, str]]) -> None:
    found = agreement(pairs)
    assert found.n_rows == len(pairs)
    assert found.n_agree + sum(c.n for c in found.confused) == len(pairs)
    assert [c.n for c in found.confused] == sorted((c.n for c in found.confused), reverse=True)
    assert all(c.first != c.second for c in found.confused)


def test_the_direction_of_a_confusion_is_kept() -> None:
    found = agreement([("simple", "complex")] * 2 + [("complex", "simple")] + [("simple", "simple")])
    assert found.confused == (Confusion("simple", "complex", 2), Confusion("complex", "simple", 1))


def test_without_rows_nothing_is_claimed() -> None:
    assert agreement([]).to_json() == {"n_rows": 0, "n_agree": 0, "share": None, "kappa": None, "confused": ()}
    nothing = noise([{}, {"simple": 1}])
    assert (nothing.n_rows, nothing.disagreement, nothing.kappa) == (0, None, None)


def test_full_agreement_on_few_rows_is_not_taken_for_certain() -> None:
    found = agreement([("simple", "simple"), ("complex", "complex")] * 5)
    assert found.share is not None
    assert found.kappa is not None
    assert (found.share.estimate, found.kappa.estimate) == (1.0, 1.0)
    assert found.share.lower == pytest.approx(0.025 ** (1 / 10))
    assert found.kappa.lower == pytest.approx((0.025**0.1 - 0.5) / 0.5)
    quiet = noise([{"simple": 3}, {"complex": 3}] * 5)
    assert quiet.disagreement is not None
    assert quiet.disagreement.estimate == 0.0
    assert quiet.disagreement.upper == pytest.approx(1 - 0.025**0.1)


def test_fleiss_kappa_of_the_worked_example() -> None:
    """The table of ten subjects, fourteen raters, five categories with which Fleiss' kappa is taught: 0.210."""
    table = [
        *([0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]),
        *([7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]),
    ]
    found = noise({str(i): n for i, n in enumerate(row)} for row in table)
    assert found.kappa is not None
    assert found.disagreement is not None
    assert found.kappa.estimate == pytest.approx(0.210, abs=0.0005)
    assert 1 - found.disagreement.estimate == pytest.approx(0.378, abs=0.0005)
    assert (found.n_rows, found.n_votes, found.n_split) == (10, 140, 9)


@given(VOTES)
def test_the_noise_is_the_share_of_vote_pairs_that_differ(votes: list[dict[str, int]]) -> None:
    found = noise(votes)
    shares = [_pairs_that_differ(row) for row in votes if sum(row.values()) > 1]
    assert found.n_rows == len(shares)
    assert found.n_split == sum(share > 0 for share in shares)
    if shares:
        assert found.disagreement is not None
        assert found.disagreement.estimate == pytest.approx(float(sum(shares) / len(shares)))


def _pairs_that_differ(row: dict[str, int]) -> Fraction:
    said = [name for name, n in row.items() for _ in range(n)]
    pairs = [(a, b) for i, a in enumerate(said) for b in said[i + 1 :]]
    return Fraction(sum(a != b for a, b in pairs), len(pairs))


def test_a_split_row_confuses_every_pair_of_its_labels_once() -> None:
    found = noise([{"simple": 2, "moderate": 1}, {"moderate": 1, "complex": 1, "simple": 1}, {"simple": 3}])
    assert found.confused[0] == Confusion("moderate", "simple", 2)
    assert Counter({(c.first, c.second): c.n for c in found.confused}).total() == 4


@pytest.mark.parametrize(("n_hits", "n_rows"), [(0, 1), (1, 1), (0, 20), (7, 10), (95, 100), (3, 300)])
def test_the_exact_interval_is_where_the_binomial_tails_are_a_fortieth(n_hits: int, n_rows: int) -> None:
    found = share_interval(n_hits, n_rows)
    assert found.lower <= found.estimate <= found.upper
    assert found.upper == 1.0 if n_hits == n_rows else _at_most(n_hits, n_rows, found.upper) == pytest.approx(0.025)
    if n_hits:
        assert 1 - _at_most(n_hits - 1, n_rows, found.lower) == pytest.approx(0.025)
    else:
        assert found.lower == pytest.approx(0.0, abs=1e-15)


def _at_most(n_hits: int, n_rows: int, rate: float) -> float:
    return math.fsum(math.comb(n_rows, k) * rate**k * (1 - rate) ** (n_rows - k) for k in range(n_hits + 1))


@pytest.mark.parametrize("share", [0.8, 0.99, 1.0])
def test_large_samples_take_another_formula_for_the_same_interval(share: float) -> None:
    exact = share_interval(round(share * EXACT_ROWS), EXACT_ROWS)
    other = share_interval(round(share * (EXACT_ROWS + 1)), EXACT_ROWS + 1)
    assert other.lower == pytest.approx(exact.lower, abs=0.0005)
    assert other.upper == pytest.approx(exact.upper, abs=0.0005)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Two labellers of known agreement: kappa's interval, and that of the noise, cover it in about 95 of 100 runs."""
    random = np.random.default_rng(7)
    truth_kappa, truth_noise, hits = (0.8**2 + 2 * 0.1**2 - 1 / 3) / (2 / 3), 1 - (0.8**2 + 2 * 0.1**2), Counter[str]()
    for run in range(60):
        rows = [_answers(random) for _ in range(150)]
        kappa = agreement(rows, seed=run).kappa
        disagreement = noise([Counter(pair) for pair in rows], seed=run).disagreement
        assert kappa is not None
        assert disagreement is not None
        hits["kappa"] += kappa.lower <= truth_kappa <= kappa.upper
        hits["noise"] += disagreement.lower <= truth_noise <= disagreement.upper
    assert min(hits["kappa"], hits["noise"]) >= 52


def _answers(random: np.random.Generator) -> tuple[str, str]:
    """A request of uniform truth, answered twice by a labeller right in 80 % and else wrong either way."""
    truth = int(random.integers(3))
    shifts = random.choice(3, size=2, p=[0.8, 0.1, 0.1])
    return LABELS[(truth + shifts[0]) % 3], LABELS[(truth + shifts[1]) % 3]


def test_the_same_seed_gives_the_same_interval() -> None:
    pairs = [("simple", "moderate"), ("simple", "simple"), ("complex", "complex")] * 9
    assert agreement(pairs) == agreement(iter(pairs))
    assert agreement(pairs, seed=1).kappa != agreement(pairs, seed=2).kappa
