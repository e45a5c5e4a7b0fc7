"""A request that is judged but not yet decided, and its row in the log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_claude import Answer, FakeClaude

from prerouter.economics import asking_pays
from prerouter.promptsize import measure
from prerouter.routelog import RouteLog
from prerouter.router import PreRouter

UNSURE = "次の文を英語に翻訳してください。「会議は来週の火曜日に延期されました。」"  # local abstains on it


@pytest.fixture
def router(claude: FakeClaude) -> Iterator[PreRouter]:
    with PreRouter.load(client=claude.client()) as router:
        yield router


def test_what_local_decides_is_decided(router: PreRouter, claude: FakeClaude) -> None:
    judged = router.judge("What is 2 + 2?")
    assert judged.decision
    assert judged.decision.decided_by == "local"
    judged.complete()
    assert claude.requests == []


def test_what_it_leaves_open_can_be_asked_or_skipped(router: PreRouter, claude: FakeClaude) -> None:
    claude.script(Answer({"label": "complex"}))
    judged = router.judge(UNSURE)
    assert judged.decision is None
    judged.ask(3.0)
    judged.complete()
    judged.complete()
    assert judged.decision
    assert (judged.decision.label, judged.decision.confidence, judged.decision.decided_by) == ("complex", 0.9, "llm")
    assert judged.decision.cost_usd == float(claude.billed())
    assert router.judge(UNSURE + "!").skip("unprofitable").reason == "unprofitable"


def test_the_row_has_the_decision_that_was_carried_out(router: PreRouter, tmp_path: Path) -> None:
    judged = router.judge("What is 2 + 2?", tags={"team": "x"}, conversation_id="c")
    assert judged.decision
    with RouteLog.open(tmp_path / "routes.db") as log:
        judged.log(log, replace(judged.decision, model="claude-opus-5-5"), None, "on")
        (row,) = log.tail()
    assert (row.decision.model, row.tags, row.fingerprint) == (
        "claude-opus-5-5",
        {"team": "x", "conversation_id": "c"},
        router.local.fingerprint,
    )


@pytest.mark.parametrize(("max_tokens", "limits", "pays"), [(1000, {}, True), (1, {}, False), (0, {}, False)])
def test_asking_pays_when_the_tiers_differ_by_more_than_it_costs(
    router: PreRouter, max_tokens: int, limits: dict[str, str], pays: bool
) -> None:
    body = {"max_tokens": max_tokens, "messages": [{"role": "user", "content": "あ"}]}
    assert asking_pays(router, router.judge(body), body, measure(body)) is pays
