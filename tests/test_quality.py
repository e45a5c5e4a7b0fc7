"""Doubtful labels, ceilings and unhealthy taxonomies are found where they were put."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest

from prerouter import quality, text
from prerouter.examples import Example
from prerouter.taxonomy import Taxonomy

NAMES = ("simple", "moderate", "complex")


def _example(label: str | None, line: int = 1, **given: Any) -> Example:
    values: dict[str, Any] = {
        "request": text.render("a"),
        "label": label,
        "is_novel": label is None,
        "weight": 1.0,
        "group": None,
        "at": None,
        "votes": {},
        "second": None,
        "confidence": None,
        "labelled_by": None,
        "prompt_id": None,
        "source": None,
        "id": str(line),
        "file": "rows.jsonl",
        "line": line,
    }
    return Example(**values | given)


def _probabilities(predicted: list[int], n_labels: int, sure: float) -> np.ndarray:
    table = np.full((len(predicted), n_labels), (1 - sure) / (n_labels - 1))
    table[np.arange(len(predicted)), predicted] = sure
    return table


def test_wrong_labels_come_first_in_the_order_of_doubt() -> None:
    truth = np.array([0] * 40 + [1] * 40 + [2] * 40)
    p = _probabilities(truth.tolist(), 3, 0.9)
    p[7], p[50] = [0.01, 0.98, 0.01], [0.85, 0.10, 0.05]
    found = quality.suspects([_example(NAMES[k], i) for i, k in enumerate(truth)], truth, p, NAMES)
    assert [(s.line, s.label, s.suggested) for s in found] == [(7, "simple", "moderate")]  # 0.85 is less than usual
    p[50] = [0.95, 0.03, 0.02]
    found = quality.suspects([_example(NAMES[k], i) for i, k in enumerate(truth)], truth, p, NAMES)
    assert [s.line for s in found] == [7, 50]
    assert found[0].to_json()["probability"] == 0.98


def test_no_row_is_doubted_where_the_model_agrees_or_knows_nothing() -> None:
    truth = np.array([0, 1, 2] * 20)
    examples = [_example(NAMES[k], i) for i, k in enumerate(truth)]
    assert quality.suspects(examples, truth, _probabilities(truth.tolist(), 3, 0.8), NAMES) == []
    assert quality.suspects(examples, truth, np.full((60, 3), 1 / 3), NAMES) == []
    assert quality.suspects([], truth[:0], np.empty((0, 3)), NAMES) == []


def test_the_ceiling_of_second_labels_is_their_agreement_to_its_root() -> None:
    """The README of the shipped data: 89.5 % agreement, a perfect classifier between 0.895 and 0.945."""
    rows = [_example("simple", second="simple")] * 179 + [_example("simple", second="complex")] * 21
    found = quality.ceiling([*rows, _example("simple"), _example(None, second="simple")])
    assert found is not None
    assert (found.agreement, found.n, found.by) == (0.895, 200, "second labels")
    assert found.upper == pytest.approx(sqrt(0.895))


def test_the_ceiling_of_votes_is_the_chance_that_two_agree() -> None:
    votes: list[dict[str, int]] = [{"simple": 3}, {"simple": 2, "moderate": 1}]
    found = quality.ceiling([_example("simple", votes=v) for v in votes * 15])
    assert found is not None
    assert found.agreement == pytest.approx((1 + 1 / 3) / 2)
    assert found.by == "votes"


def test_no_ceiling_without_evidence() -> None:
    assert quality.ceiling([_example("simple", votes={"simple": 1})] * 50) is None
    assert quality.ceiling([_example("simple", second="simple")] * (quality.MIN_ROWS - 1)) is None


def test_an_ordered_label_needs_fifty_rows_and_one_per_cent() -> None:
    taxonomy = Taxonomy.load()
    (line,) = quality.health(taxonomy, np.array([0] * 500 + [1] * 500 + [2] * 49), None)
    assert "'complex' (49)" in line
    (line,) = quality.health(taxonomy, np.array([0] * 8000 + [1] * 8000 + [2] * 100), None)
    assert "'complex' (100)" in line
    assert quality.health(taxonomy, np.array([0] * 500 + [1] * 500 + [2] * 50), None) == []
    assert quality.health(taxonomy, np.array([], np.int64), None) == []
    some, every = np.array([0] * 5 + [1] * 5 + [2] * 5), np.array([0] * 50 + [1] * 50 + [2] * 50)
    assert quality.health(taxonomy, some, None, every) == []


def _unordered(n: int) -> Taxonomy:
    return Taxonomy.inferred([f"label{i:03}" for i in range(n)])


def test_rare_and_common_labels() -> None:
    truth = np.array([0] * 450 + [1] * 300 + [2] * 235 + [3] * 15)
    rare, common = quality.health(_unordered(4), truth, None)
    assert rare.startswith("under 2.0% of rows")
    assert rare.endswith("'label003' (15)")
    assert common == "over 40% of rows: split 'label000' (450)"


def test_many_labels_are_not_all_called_rare() -> None:
    truth = np.repeat(np.arange(150), 20)
    (line,) = quality.health(_unordered(150), truth, None)
    assert line.startswith("150 labels are more than 10")


def test_two_labels_that_are_one() -> None:
    rng, truth = np.random.default_rng(0), np.repeat(np.arange(4), 100)
    predicted = np.where(truth < 2, rng.integers(0, 2, 400), truth)
    found = quality.health(_unordered(4), truth, _probabilities(predicted.tolist(), 4, 0.62))
    (line,) = found
    assert "'label000' and 'label001' are hardly told apart" in line
    assert "median confidence 0.62" in line
    good = _probabilities(truth.tolist(), 4, 0.9)
    assert quality.health(_unordered(4), truth, good) == []
