"""`prerouter review --log`: rows of the log that kept their texts, and the reviewer's labels back in the log."""

from __future__ import annotations

from pathlib import Path

import pytest
import retrain_help
from test_local import TAXONOMY

from prerouter import cli
from prerouter.errors import ConfigError
from prerouter.reviewlog import reviewable
from prerouter.reviewset import Choice, Review
from prerouter.routelog import RouteLog
from prerouter.settings import Settings

WORDS = {"easy": 0.5, "hard": 0.5}


@pytest.fixture
def space(tmp_path: Path) -> Settings:
    settings = retrain_help.space(tmp_path / "ws", text="[log]\ntext = true\n")
    retrain_help.serve(settings, retrain_help.requests(20, WORDS))
    return settings


def review(settings: Settings, answers: int, *, interrupted: bool = False) -> list[str]:
    """Answer so many rows with `complex`; the ids of these."""
    ids = []
    with reviewable(settings, TAXONOMY) as (file, output), Review(file, output, TAXONOMY, Choice(50)) as under_way:
        for _ in range(answers):
            item = under_way.current
            assert item is not None
            ids.append(str(item.row["id"]))
            under_way.answer(item.key, "complex")
        if interrupted:
            raise KeyboardInterrupt
    return ids


def labels(settings: Settings) -> dict[str, str | None]:
    with RouteLog.open(settings=settings) as log:
        return {label.request_id: label.label for label in log.labels(origin="review")}


def test_the_labels_reach_their_rows_and_no_file_with_texts_is_left(space: Settings) -> None:
    ids = review(space, 3)
    assert labels(space) == dict.fromkeys(ids, "complex")
    with RouteLog.open(settings=space) as log:
        given = [row.labels[-1] for row in log.rows() if row.decision.id in ids]
    assert {(label.origin, label.labelled_by) for label in given} == {("review", "human")}
    assert list((space.state_dir / "review").iterdir()) == []


def test_the_next_review_begins_with_rows_that_nobody_looked_at(space: Settings) -> None:
    first = review(space, 3)
    second = review(space, 3)
    assert set(first) & set(second) == set()
    assert labels(space) == dict.fromkeys([*first, *second], "complex")


def test_an_interrupted_review_keeps_what_was_answered(space: Settings) -> None:
    with pytest.raises(KeyboardInterrupt):
        review(space, 1, interrupted=True)
    assert list(labels(space).values()) == ["complex"]


def test_a_log_without_texts_is_refused_with_what_to_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = retrain_help.space(tmp_path / "ws")
    retrain_help.serve(settings, retrain_help.requests(5, WORDS))
    with pytest.raises(ConfigError, match=r"no row .* set log\.text = true"), reviewable(settings, TAXONOMY):
        pass
    for arguments in (["--log", "x.jsonl"], [], ["--log", "-o", "x.jsonl"]):
        assert cli.main(["review", *arguments]) == 2
        assert "name a file, --log or --queue" in capsys.readouterr().err
