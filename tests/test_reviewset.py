"""Which rows a review shows, in which order, and what it makes of the answers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from prerouter.errors import ConfigError, DataError
from prerouter.examples import read_examples
from prerouter.reviewset import Choice, Review
from prerouter.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load()


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def _row(number: int, **more: Any) -> dict[str, Any]:
    label = TAXONOMY.names[number % 3]
    given = {"label": label, "votes": {label: 2, "moderate": 1}, "labelled_by": "haiku", "prompt_id": "p" * 12}
    return {"id": f"r{number}", "text": f"request {number}", "confidence": 0.5 + number / 1000, **given} | more


def _review(tmp_path: Path, rows: Iterable[Mapping[str, Any]], **choice: Any) -> Review:
    file = _write(tmp_path / "rows.jsonl", rows)
    return Review(file, tmp_path / "out.jsonl", TAXONOMY, Choice(**{"sample": 1000} | choice))


def _shown(review: Review) -> list[str]:
    """Confirm every row; their ids in the order in which they were shown."""
    ids = []
    while item := review.current:
        ids.append(item.row["id"])
        assert review.answer(item.key, item.label)
    return ids


def _saved(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]


def test_every_row_comes_once_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [_row(n) for n in range(30)]
    with _review(tmp_path, rows + rows[:5]) as review:
        first = _shown(review)
    assert sorted(first) == sorted(row["id"] for row in rows)
    assert first != [row["id"] for row in rows]
    (tmp_path / "out.jsonl").unlink()
    random.Random(1).shuffle(rows)
    with _review(tmp_path, rows) as review:
        assert _shown(review) == first


def test_a_larger_sample_begins_with_the_smaller_one_and_a_seed_names_another(tmp_path: Path) -> None:
    rows, shown = [_row(n) for n in range(60)], {}
    for sample, seed in ((10, 0), (25, 0), (10, 1)):
        with _review(tmp_path, rows, sample=sample, seed=seed) as review:
            shown[sample, seed] = _shown(review)
        (tmp_path / "out.jsonl").unlink()
    assert shown[25, 0][:10] == shown[10, 0]
    assert set(shown[10, 0]) != set(shown[10, 1])


def test_the_sample_is_uniform(tmp_path: Path) -> None:
    rows = [_row(n) for n in range(10)]
    counts = dict.fromkeys((row["id"] for row in rows), 0)
    for seed in range(300):
        with _review(tmp_path, rows, sample=3, seed=seed) as review:
            for item in review._items.values():
                counts[item.row["id"]] += 1
    assert all(55 < count < 130 for count in counts.values())  # 90 expected, 8 standard deviation


def test_doubtful_rows_come_in_the_order_of_doubt(tmp_path: Path) -> None:
    with _review(tmp_path, [_row(n) for n in reversed(range(30))], sample=4, doubtful=True) as review:
        assert _shown(review) == ["r0", "r1", "r2", "r3"]
    assert {row["reviewed"]["chosen"] for row in _saved(tmp_path)} == {"doubtful"}


def test_a_reviewed_row_is_an_example_with_the_reviewers_label(tmp_path: Path) -> None:
    with _review(tmp_path, [_row(0, group="g", weight=2.0)]) as review:
        assert review.current
        review.answer(review.current.key, "COMPLEX")
    row = _saved(tmp_path)[0]
    before = {"label": "simple", "votes": {"simple": 2, "moderate": 1}, "confidence": 0.5, "labelled_by": "haiku"}
    assert row["reviewed"] == before | {"prompt_id": "p" * 12, "chosen": "random"}
    example = read_examples([tmp_path / "out.jsonl"], TAXONOMY)[0]
    assert (example.label, example.labelled_by, example.group, example.weight) == ("complex", "human", "g", 2.0)
    assert (example.votes, example.prompt_id, example.confidence) == ({}, None, None)


def test_undo_shows_the_row_again_also_after_a_restart(tmp_path: Path) -> None:
    rows = [_row(n) for n in range(4)]
    with _review(tmp_path, rows) as review:
        first = review.current
        assert first
        assert not review.can_undo
        assert not review.undo()
        review.answer(first.key, "moderate")
        assert review.undo()
        assert review.current == first
        review.answer(first.key, "complex")
    with _review(tmp_path, rows) as review:
        assert review.standing().done == 1
        assert review.undo()
        assert review.current == first
    assert not (tmp_path / "out.jsonl").exists()


def test_an_answer_about_another_row_changes_nothing(tmp_path: Path) -> None:
    with _review(tmp_path, [_row(n) for n in range(3)]) as review:
        first = review.current
        assert first
        assert review.answer(first.key, "simple")
        assert not review.answer(first.key, "complex")  # pressed twice
        assert not review.skip(first.key)
        assert review.standing().done == 1
        with pytest.raises(ConfigError, match="unknown label"):
            review.answer(first.key, "easy")


def test_skipped_rows_come_last(tmp_path: Path) -> None:
    with _review(tmp_path, [_row(n) for n in range(5)]) as review:
        assert review.current
        skipped = review.current
        assert review.skip(skipped.key)
        assert _shown(review)[-1] == skipped.row["id"]


def test_the_standing_compares_labeller_and_reviewer_on_random_rows_only(tmp_path: Path) -> None:
    rows = [_row(n) for n in range(30)]
    with _review(tmp_path, rows, sample=5, doubtful=True) as review:
        while item := review.current:
            review.answer(item.key, "complex" if item.label != "complex" else "simple")
        assert (review.standing().corrected, review.standing().agreement.n_rows) == (5, 0)
    with _review(tmp_path, rows, sample=20) as review:
        others = 5 - review.standing().done
        _shown(review)
        standing = review.standing()
        assert (standing.total, standing.done, standing.others) == (20, 20, others)
        assert standing.agreement.n_agree == standing.agreement.n_rows == 20 - (5 - others)
        assert standing.to_json()["left"] == 0


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"text": "x"}, "no label"),
        ({"text": "x", "label": "easy"}, "not a label"),
        ({"label": "simple"}, "neither"),
        ({"text": "x", "label": "simple", "n": float("nan")}, "JSON"),
    ],
)
def test_a_row_that_cannot_be_reviewed_is_refused_with_its_line(tmp_path: Path, row: Any, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        _review(tmp_path, [_row(1), row])
    assert caught.value.line == 2
    assert not (tmp_path / "out.jsonl").exists()
    with _review(tmp_path, [_row(1)]):
        pass  # the lock was let go


def test_without_rows_there_is_no_review(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no row to look at"):
        _review(tmp_path, [])
