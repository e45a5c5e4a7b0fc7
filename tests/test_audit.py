"""The audit lane through the router: heads rows get the labeller's label, whoever decided, within its bounds."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_claude import Answer, Error, FakeClaude, Refusal
from model_help import save
from test_local import make_model, make_stage, write_encoder

from prerouter import PreRouter, modelfolder
from prerouter.audit import FLOOR, AuditLane
from prerouter.logschema import LogRow
from prerouter.routelog import RouteLog, RowLabel
from prerouter.settings import Settings, load_settings
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable

SURE, UNSURE = "please do the easy easy task", "please do the medium medium task"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "model", sees="easy hard")
    return tmp_path / "model"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RouteLog]:
    with RouteLog.open(tmp_path / "routes.db", settings=Settings()) as log:
        yield log


def load(claude: FakeClaude, folder: Path, log: RouteLog, **audit: Any) -> PreRouter:
    tables = {"audit": {"rate": 1.0, "rpm": 6000, **audit}}
    return PreRouter.load(folder, client=claude.client(), settings=load_settings(flags=tables), log=log)


def rows(log: RouteLog) -> list[LogRow]:
    log.flush()
    return list(log.rows())


def test_a_local_decision_gets_the_labellers_label(claude: FakeClaude, folder: Path, log: RouteLog) -> None:
    claude.script(Answer({"label": "complex", "confidence": 0.7}))
    with load(claude, folder, log) as router:
        decision = router.decide(SURE)
    (row,) = rows(log)
    assert (decision.decided_by, decision.label, decision.audit, decision.audit_p) == ("local", "simple", True, 1.0)
    found = row.audited
    assert found is not None
    assert (found.label, found.origin, found.confidence) == ("complex", "audit", 0.7)
    assert (found.labelled_by, found.prompt_id) == ("claude-haiku-5-5", router.classifier.prompt.id)
    assert found.cost_usd > 0
    assert (row.text, len(claude.requests)) == (None, 1)


def test_what_the_classifier_decided_is_not_asked_about_again(claude: FakeClaude, folder: Path, log: RouteLog) -> None:
    claude.always(Answer({"label": "moderate", "confidence": 0.9}))
    with load(claude, folder, log) as router:
        assert [router.decide(UNSURE).decided_by for _ in range(2)] == ["llm", "cache"]
    assert [row.audited.label if row.audited else None for row in rows(log)] == ["moderate", "moderate"]
    assert len(claude.requests) == 1


def test_every_stage_is_scored_on_heads_rows_also_after_one_that_decides(
    claude: FakeClaude, tmp_path: Path, log: RouteLog
) -> None:
    stages = [make_stage(write_encoder(tmp_path / sees), sees=sees) for sees in ("easy", "medium")]
    modelfolder.save(tmp_path / "two", make_model(*stages), "# card\n")
    with load(claude, tmp_path / "two", log) as router:
        decisions = [router.decide(text) for text in (SURE, UNSURE, "please do the hard task")]
    assert [(d.decided_by, d.stage) for d in decisions] == [("local", 0), ("local", 1), ("llm", None)]
    for row in rows(log):
        assert [scores.stage for scores in row.scores] == [0, 1]
        assert all(len(scores.probabilities) == 3 for scores in row.scores)


def test_tails_rows_are_left_alone(claude: FakeClaude, folder: Path, log: RouteLog) -> None:
    with load(claude, folder, log, rate=1e-6) as router:
        router.decide(SURE)
    (row,) = rows(log)
    assert (row.decision.audit, row.scores, row.labels, claude.requests) == (False, (), (), [])


@pytest.mark.parametrize("how", ["local_only", "off", "ask", "many"])
def test_who_says_that_nothing_may_be_sent_is_heard(
    claude: FakeClaude, folder: Path, log: RouteLog, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with load(claude, folder, log, ask=how != "ask") as router:
        if how == "off":
            monkeypatch.setenv("PREROUTER_MODE", "off")
        if how == "many":
            router.decide_many([SURE])
        else:
            router.decide(SURE, local_only=how == "local_only")
    (row,) = rows(log)
    assert (row.decision.audit, row.labels, claude.requests) == (True, (), [])


def test_audits_go_on_where_requests_never_ask(claude: FakeClaude, folder: Path, log: RouteLog) -> None:
    with load(claude, folder, log) as router:
        assert router.decide(UNSURE, priority="speed").decided_by == "default"
    (row,) = rows(log)
    assert row.audited is not None
    assert len(claude.requests) == 1


def test_a_refusal_is_noted_as_no_label_and_not_asked_again(claude: FakeClaude, folder: Path, log: RouteLog) -> None:
    claude.always(Refusal())
    with load(claude, folder, log) as router:
        router.decide(SURE)
    (row,) = rows(log)
    assert (row.audited, [(label.label, label.outcome) for label in row.labels]) == (
        None,
        [(None, "classifier_refused")],
    )


def test_a_failing_upstream_delays_no_request_and_closing_takes_seconds(
    claude: FakeClaude, folder: Path, log: RouteLog
) -> None:
    claude.always(Error(401, "authentication_error"))
    with load(claude, folder, log) as router:
        started = time.monotonic()
        for _ in range(50):
            assert router.decide(SURE).decided_by == "local"
        assert time.monotonic() - started < 5
        lane = router.audits
    assert time.monotonic() - started < 20
    assert lane is not None
    assert lane.missed >= 1
    assert [row.audited for row in rows(log)] == [None] * 50


def test_what_failed_for_a_while_is_asked_again(
    claude: FakeClaude, folder: Path, log: RouteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prerouter.audit.RETRY_S", (0.01, 0.01, 0.01))  # the pause alone
    claude.script(Error(400, "invalid_request_error"), Error(400, "invalid_request_error"))
    router = load(claude, folder, log)
    router.decide(SURE)
    assert _waited(lambda: len(claude.requests) == 3)
    router.close()
    (row,) = rows(log)
    assert row.audited is not None


def test_the_dollars_of_an_hour_bound_all_processes_together(claude: FakeClaude, folder: Path, log: RouteLog) -> None:
    """The first audit of an hour is always made: the rate is never 0."""
    for _ in range(2):
        with load(claude, folder, log, usd_per_hour=1e-6) as router:
            for i in range(3):
                router.decide(SURE + i * " now")
        log.flush()
    audited = [row for row in rows(log) if row.audited]
    assert len(audited) == 1


def test_a_full_queue_counts_what_it_leaves_out(claude: FakeClaude, folder: Path, log: RouteLog) -> None:
    claude.always(Answer(delay_s=0.5))
    with load(claude, folder, log, queue=2, rpm=60) as router:
        for i in range(20):
            router.decide(f"{SURE} {('now', 'this', 'the', 'do')[i % 4]}")
        lane = router.audits
        assert lane is not None
        assert lane.missed >= 15


class Clock:
    now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


def lane_of(claude: FakeClaude, clock: Clock, **audit: Any) -> AuditLane:
    settings = load_settings(flags={"audit": {"rate": 0.2, **audit}})
    return AuditLane.load(Taxonomy.load(), TierTable.load(), settings, client=claude.client(), clock=clock)


def test_the_coin_falls_less_often_under_heavy_traffic_and_recovers(
    claude: FakeClaude, folder: Path, tmp_path: Path
) -> None:
    clock = Clock()
    with RouteLog.open(tmp_path / "r.db", settings=Settings(), clock=clock) as log, load(claude, folder, log) as router:
        lane = lane_of(claude, clock, rpm=60)
        lane._log, rates = log, []
        for n in (0, 30_000, 30_000, 3, 3, 3_000_000):
            clock.now += 60
            for _ in range(min(n, 1000)):
                lane.toss()
            lane._seen += max(0, n - 1000)
            lane.look()
            rates.append(lane.rate)
        assert router.decide(SURE).decided_by == "local"
    assert rates[0] == 0.2
    assert rates[1:5] == pytest.approx([0.002, 0.002, 0.2, 0.2])  # 60 of 30,000 a minute
    assert rates[5] == FLOOR


def test_the_coin_falls_less_often_when_audits_are_dear(claude: FakeClaude, folder: Path, tmp_path: Path) -> None:
    clock = Clock()
    with RouteLog.open(tmp_path / "r.db", settings=Settings(), clock=clock) as log:
        with load(claude, folder, log, ask=False) as router:
            for _ in range(40):
                decision = router.decide(SURE)
                log.add_label(decision.id, RowLabel("simple", "audit", cost_usd=0.01))
        lane = lane_of(claude, clock, usd_per_hour=0.36)
        lane._log = log
        clock.now += 60
        lane.toss()
        lane.look()
        # 0.36 dollars an hour are 36 audits at 1 cent; the log has 40 requests in this hour and the one before.
        per_s = 40 / (clock.now - (clock.now // 3600 - 1) * 3600)
        assert lane.rate == pytest.approx(min(0.2, 36 / 3600 / per_s), rel=0.01)
        assert not lane._spending.begin(clock.now, 0.36)
        clock.now += 3700
        assert lane._spending.begin(clock.now, 0.36)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_audits_its_own_requests(claude: FakeClaude, folder: Path, log: RouteLog) -> None:
    router = load(claude, folder, log)
    router.decide(SURE)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            router.decide(SURE + " now")
            router.close()
            log.flush()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    router.close()
    assert [row.audited is not None for row in rows(log)] == [True, True]


def test_threads_end_with_the_router(claude: FakeClaude, folder: Path, log: RouteLog) -> None:
    with load(claude, folder, log) as router:
        router.decide(SURE)
    assert [t.name for t in threading.enumerate() if t.name == "prerouter-audit"] == []


def _waited(condition: Any, seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return bool(condition())


EXITS = """
import sys
from pathlib import Path
from prerouter import PreRouter, RouteLog
log = RouteLog.open(Path(sys.argv[1]))
router = PreRouter.load(log=log, settings={"audit": {"rate": 1.0}})
router.decide("What is 2 + 2?")
"""


@pytest.mark.parametrize("run", range(3))
def test_a_process_that_closes_nothing_ends_well(tmp_path: Path, run: int) -> None:
    """A thread that was broken off while it loaded the second stage aborted the process."""
    done = subprocess.run([sys.executable, "-c", EXITS, str(tmp_path / "routes.db")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
