"""`PreRouter.feedback`: what came of a request, into the log, for fitting only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_help import save

from prerouter import PreRouter
from prerouter.errors import ConfigError
from prerouter.routelog import RouteLog, RowLabel
from prerouter.settings import Settings


@pytest.fixture
def router(tmp_path: Path) -> Iterator[PreRouter]:
    save(tmp_path / "model")
    with (
        RouteLog.open(tmp_path / "routes.db", settings=Settings()) as log,
        PreRouter.load(tmp_path / "model", settings=Settings(), log=log) as router,
    ):
        yield router


def labels(router: PreRouter) -> list[RowLabel]:
    assert router.log is not None
    router.log.flush()
    return list(router.log.labels())


def test_a_label_a_score_and_an_outcome_reach_the_row(router: PreRouter) -> None:
    decision = router.decide("the easy task", request_id="r1")
    router.feedback(decision.id, label="COMPLEX")
    router.feedback("r1", score=0.25, outcome="edited")
    router.feedback("r1", outcome="rejected")
    found = [(f.label, f.origin, f.score, f.outcome, f.request_id, f.seq) for f in labels(router)]
    assert found == [
        ("complex", "feedback", None, None, "r1", 1),
        (None, "feedback", 0.25, "edited", "r1", 1),
        (None, "rejection", None, "rejected", "r1", 1),
    ]
    assert router.log is not None
    row = router.log.row("r1")
    assert row is not None
    assert row.audited is None  # feedback is no random sample


def test_feedback_on_an_unknown_request_hurts_nobody(router: PreRouter) -> None:
    router.feedback("nobody", label="simple")
    assert [f.seq for f in labels(router)] == [0]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "nothing is said"),
        ({"label": "huge"}, "no such label"),
        ({"label": 3}, "no such label"),
        ({"score": 1.5}, "score must be"),
        ({"score": float("nan")}, "score must be"),
        ({"score": True}, "score must be"),
        ({"outcome": ""}, "outcome must be"),
        ({"outcome": "x" * 65}, "outcome must be"),
        ({"request_id": "", "label": "simple"}, "request_id must be"),
    ],
)
def test_what_cannot_be_meant_is_refused(router: PreRouter, said: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        router.feedback(**({"request_id": "r1"} | said))
    assert labels(router) == []


def test_a_users_text_in_the_wrong_place_is_not_repeated(router: PreRouter) -> None:
    secret = "my patient's diagnosis is"
    with pytest.raises(ConfigError) as caught:
        router.feedback("r1", label=secret)
    assert secret not in str(caught.value)


def test_without_a_log_it_is_said(tmp_path: Path) -> None:
    save(tmp_path / "model2")
    with PreRouter.load(tmp_path / "model2", settings=Settings()) as router, pytest.raises(ConfigError, match="no log"):
        router.feedback("r1", label="simple")
