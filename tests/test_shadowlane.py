"""Shadow mode's comparisons: off the path, bounded by share and money, into the log as labels of origin "judge"."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_claude import Answer, Error, FakeClaude, Held
from shadow_help import HAIKU, OPUS, judging, prefers

from prerouter.logreport import logged_pairs
from prerouter.records import Decision
from prerouter.routelog import RouteLog, RowRef
from prerouter.sections import ShadowSettings
from prerouter.settings import Settings
from prerouter.shadowlane import ShadowLane
from prerouter.text import render
from prerouter.tiers import TierTable

TIERS = TierTable.load()
ALL = Settings(shadow=ShadowSettings(rate=1.0))
DECISION = Decision(
    "q1", "simple", "haiku", HAIKU, "local", 0, "above_gate", (), 0.9, {"simple": 1.0}, None, None, {}, False, 0.05,
    "0" * 12, None, 1, 0.001, 0.0,
)  # fmt: skip
BODY: dict[str, Any] = {
    "model": OPUS,
    "max_tokens": 500,
    "messages": [{"role": "user", "content": "Capital of France?"}],
}
REPLY: dict[str, Any] = {
    "model": OPUS,
    "content": [{"type": "text", "text": "Paris, of course."}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 100, "output_tokens": 50},
}
SECRET = "sk-ant-api03-" + "y" * 40


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RouteLog]:
    with RouteLog.open(tmp_path / "routes.db") as log:
        yield log


@pytest.fixture
def lane(claude: FakeClaude, log: RouteLog) -> Iterator[ShadowLane]:
    claude.answer = judging(prefers("simulated"))
    lane = ShadowLane(ALL, TIERS, log, client=claude.client())
    yield lane
    lane.close()


def offer(lane: ShadowLane, log: RouteLog, number: int = 0, reply: object = None, **change: Any) -> bool:
    decision = replace(DECISION, id=f"q{number}", **change)
    reply = REPLY if reply is None else reply
    row = log.append(render(BODY), decision, reply, mode="shadow")
    return lane.offer(row, BODY, decision, reply)


def test_the_outcome_is_in_the_log_and_no_text(claude: FakeClaude, lane: ShadowLane, log: RouteLog) -> None:
    assert offer(lane, log)
    assert lane.flush(30)
    ((label, row),) = log.labelled(origin="judge")
    assert (label.outcome, label.label, label.labelled_by, row.decision.id) == ("won", None, OPUS, "q0")
    assert label.score is not None
    assert 0 < label.score < label.cost_usd
    (pair,) = logged_pairs(log, TIERS, None, time.time() + 1)
    assert (pair.route, pair.outcome) == (f"{OPUS} -> {HAIKU}", "won")
    assert pair.routed_first is not None
    assert pair.reference_usd == pytest.approx(100 * 4e-6 + 50 * 20e-6)
    log.close()
    assert b"simulated" not in (log.path or Path()).read_bytes()


def test_a_real_message_is_a_reply(claude: FakeClaude, lane: ShadowLane, log: RouteLog) -> None:
    said = claude.client().messages.create(**BODY)
    assert offer(lane, log, 1, said)
    lane.flush(30)
    assert [label.outcome for label in log.labels()] == ["tied"]  # the fake says the same on every model


@pytest.mark.parametrize(
    ("reply", "change"),
    [
        (REPLY | {"model": HAIKU}, {}),  # the same model
        (REPLY | {"model": "gpt-5"}, {}),
        (REPLY | {"stop_reason": "max_tokens"}, {}),
        (REPLY | {"stop_reason": "refusal"}, {}),
        ({}, {}),
        (REPLY, {"model": None, "tier": None}),
    ],
)
def test_what_cannot_be_compared_is_not_drawn(
    claude: FakeClaude, lane: ShadowLane, log: RouteLog, reply: dict[str, Any], change: dict[str, Any]
) -> None:
    assert not offer(lane, log, 1, reply, **change)
    assert claude.calls() == []


def test_rate_kill_switch_and_key(
    claude: FakeClaude, lane: ShadowLane, log: RouteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = ShadowLane(Settings(shadow=ShadowSettings(rate=0.0)), TIERS, log, client=claude.client())
    assert not offer(never, log)
    assert not offer(ShadowLane(ALL, TIERS, log), log)  # no key anywhere
    monkeypatch.setenv("PREROUTER_MODE", "off")
    assert not offer(lane, log)
    assert claude.calls() == []


def test_an_offer_waits_for_nothing_and_the_queue_is_bounded(claude: FakeClaude, log: RouteLog) -> None:
    gate = threading.Event()
    claude.always(Held(gate, Answer()))
    settings = Settings(shadow=ShadowSettings(rate=1.0, concurrency=2, queue=3))
    lane = ShadowLane(settings, TIERS, log, client=claude.client())
    started = time.monotonic()
    drawn = [offer(lane, log, i) for i in range(12)]
    assert time.monotonic() - started < 5
    assert sum(drawn) == 5
    assert lane.missed == 7
    claude.wait_for_calls(2, 30)
    assert len(claude.calls()) == 2  # concurrency
    gate.set()
    claude.always(None)
    assert lane.flush(60)
    lane.close()
    assert len(list(log.labels(origin="judge"))) == 5


def test_money_is_bounded_over_all_processes(claude: FakeClaude, log: RouteLog) -> None:
    claude.answer = judging(prefers("simulated"))
    settings = Settings(shadow=ShadowSettings(rate=1.0, usd_per_day=0.2, concurrency=1))
    for process in range(3):
        lane = ShadowLane(settings, TIERS, log, client=claude.client())
        for i in range(20):
            offer(lane, log, 20 * process + i)
        assert lane.flush(60)
        lane.close()
        log.flush()
    spent = sum(label.cost_usd for label in log.labels(origin="judge"))
    assert 0.02 < spent <= 0.2


def test_a_claude_that_fails_costs_no_request_and_no_word(
    claude: FakeClaude, lane: ShadowLane, log: RouteLog, caplog: pytest.LogCaptureFixture
) -> None:
    claude.always(Error(400, message=SECRET))
    assert offer(lane, log)
    assert lane.flush(30)
    assert lane.missed == 1
    assert list(log.labels()) == []
    assert "HTTP 400" in caplog.text
    assert SECRET not in caplog.text


def test_closing_breaks_off_what_hangs(claude: FakeClaude, log: RouteLog) -> None:
    claude.answer = judging(prefers("simulated"))
    claude.always(Held(threading.Event()))
    lane = ShadowLane(ALL, TIERS, log, client=claude.client())
    offer(lane, log)
    claude.wait_for_calls(1, 30)
    started = time.monotonic()
    lane.close(0.1)
    assert time.monotonic() - started < 20
    assert lane.offer(RowRef("q9", time.time()), BODY, DECISION, REPLY)  # opens again
    lane.close(0.1)


def test_whatever_is_offered_raises_nothing(
    claude: FakeClaude, lane: ShadowLane, log: RouteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = RowRef("q1", time.time())
    for reply in (None, 5, {"model": OPUS, "stop_reason": "end_turn", "content": 7}, REPLY | {"content": [object()]}):
        lane.offer(row, BODY, DECISION, reply)
    for body in ({}, {"messages": 5}, {"messages": [5]}, {"messages": []}):
        lane.offer(row, body, DECISION, REPLY)
    monkeypatch.setenv("PREROUTER_MODE", "shadwo")
    assert not lane.offer(row, BODY, DECISION, REPLY)
    assert lane.flush(30)
