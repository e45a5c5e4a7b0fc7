"""Rows, labels after the fact and shared states, in both kinds of store."""

from __future__ import annotations

import math
import random
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_claude import Answer, FakeClaude
from model_help import save
from store_help import DECISION, REQUEST, SCORES, append, ids, open_log, run

from prerouter import PreRouter
from prerouter.routelog import LogRow, RouteLog, RowLabel, RowRef
from prerouter.settings import load_settings

BY_HAIKU = RowLabel("complex", "audit", labelled_by="claude-haiku-5-5", prompt_id="p1", confidence=0.8, cost_usd=0.001)


def one(log: RouteLog, which: RowRef | int | str) -> LogRow:
    row = log.row(which)
    assert row is not None
    return row


def test_a_label_finds_its_row_by_reference_number_and_id(log_url: str) -> None:
    with open_log(log_url, clock=lambda: 50.25) as log:
        refs = [append(log, "same") for _ in range(2)]
        log.add_label(refs[0], BY_HAIKU)
        assert one(log, refs[0]).labels[0].seq == 2  # two rows with one id at one moment: the newer
    now = [100.0]
    with open_log(log_url, clock=lambda: now[0]) as log:
        first = append(log, "same")
        now[0] = 101.0
        append(log, "same")
        log.add_label(first, replace(BY_HAIKU, at=7.5))
        log.add_label("same", RowLabel(None, "feedback", score=0.5, outcome="retried", weight=3.0))
        log.add_label(1, RowLabel("simple", "review", labelled_by="human"))
        log.add_label("nobody", RowLabel("simple", "feedback"))
        log.add_label(999, RowLabel("simple", "feedback"))
        labels = list(log.labels(after=1))
        rows = list(log.rows())
    assert [(label.number, label.seq, label.request_id) for label in labels] == [
        (2, 3, "same"),
        (3, 4, "same"),
        (4, 1, "same"),
        (5, 0, "nobody"),
        (6, 0, ""),
    ]
    assert labels[0] == replace(BY_HAIKU, at=7.5, number=2, seq=3, request_id="same")
    assert (labels[1].score, labels[1].outcome, labels[1].weight, labels[1].at) == (0.5, "retried", 3.0, 101.0)
    assert [[label.number for label in row.labels] for row in rows] == [[4], [1], [2], [3]]


def test_a_label_that_comes_before_its_row_finds_it_later(log_url: str) -> None:
    with open_log(log_url) as log:
        append(log, "first")
        log.add_label("late", BY_HAIKU)
        append(log, "late")
        (label,) = log.labels()
        assert (label.seq, label.request_id) == (2, "late")
        assert [(label.label, row.decision.id) for label, row in log.labelled()] == [("complex", "late")]


def test_labels_are_read_by_origin_time_and_number(log_url: str) -> None:
    now = [0.0]
    with open_log(log_url, clock=lambda: now[0]) as log:
        for i in range(10):
            now[0] = 100.0 + i
            log.add_label(append(log, i), replace(BY_HAIKU, origin="audit" if i % 2 else "feedback"))
        assert [label.request_id for label in log.labels(102, 105, batch=2)] == ["2", "3", "4"]
        assert [label.request_id for label in log.labels(origin="audit", after=4, batch=1)] == ["5", "7", "9"]
        pairs = list(log.labelled(origin="feedback", after=3, batch=2))
        assert [(label.number, row.decision.id) for label, row in pairs] == [(5, "4"), (7, "6"), (9, "8")]
        assert log.stats().labels == {"audit": 5, "feedback": 5}
        assert log.prune(older_than_s=5.5) == 4
        assert log.stats().labels == {"audit": 3, "feedback": 3}
        assert ids(log) == ["4", "5", "6", "7", "8", "9"]


def test_the_labellers_word_on_a_heads_row(log_url: str) -> None:
    with open_log(log_url) as log:
        for name, audit, by in (("tails", False, "local"), ("heads", True, "local"), ("open", True, "default")):
            log.add_label(append(log, name, audit=audit, decided_by=by), BY_HAIKU)
        log.add_label("heads", replace(BY_HAIKU, label="simple"))
        log.add_label(append(log, "no answer", audit=True), replace(BY_HAIKU, label=None))
        log.add_label(append(log, "reviewed", audit=True), replace(BY_HAIKU, origin="review"))
        asked = {"labelled_by": "claude-haiku-5-5"}
        log.add_label(append(log, "asked", asked, audit=True, decided_by="llm", prompt_id="p2"), BY_HAIKU)
        append(log, "cached", asked, audit=True, decided_by="cache", prompt_id="p2")
        found = {row.decision.id: row.audited for row in log.rows()}
    assert {name: label.label if label else None for name, label in found.items()} == {
        "tails": None,
        "heads": "complex",  # the first counts: who asks again until the answer suits measures nothing
        "open": "complex",
        "no answer": None,
        "reviewed": None,
        "asked": "simple",
        "cached": "simple",
    }
    asked_label = found["asked"]
    assert asked_label is not None
    assert (asked_label.labelled_by, asked_label.prompt_id, asked_label.confidence) == ("claude-haiku-5-5", "p2", 0.9)


def test_the_stages_scores_are_kept_on_heads_rows_and_can_be_completed(log_url: str) -> None:
    features = np.ones(4, np.float32)
    first = replace(SCORES, reason="abstained_guard", distance=math.nan, risk=math.inf, features=features)
    both = replace(SCORES, stage=1, features=features, before=(first,))
    with open_log(log_url) as log:
        append(log, "tails", {"scores": both, "fingerprint": "f" * 12})
        heads = append(log, "heads", {"scores": both, "fingerprint": "f" * 12, "mode": "shadow"}, audit=True)
        early = append(log, "decided early", {"scores": SCORES}, audit=True)
        log.add_scores(early, (SCORES, replace(SCORES, stage=1)))
        log.add_scores(12345, (SCORES,))
        tails_row, heads_row, early_row = log.rows()
        assert log.stats().dropped == 0
    assert tails_row.scores == ()
    assert [scores.stage for scores in heads_row.scores] == [0, 1]
    assert heads_row.scores[1] == replace(SCORES, stage=1)
    assert math.isnan(heads_row.scores[0].distance)
    assert heads_row.features is not None
    assert heads_row.features.tolist() == tails_row.features.tolist() == [1, 1, 1, 1]  # type: ignore[union-attr]
    assert (heads_row.mode, tails_row.mode, heads_row.ref) == ("shadow", None, heads)
    assert early_row.scores == (SCORES, replace(SCORES, stage=1))
    assert heads_row.to_json()["scores"][0]["distance"] is None


def test_rows_by_time_number_and_kind_are_those_that_a_filter_finds(log_url: str) -> None:
    rng = random.Random(5)
    now = [0.0]
    with open_log(log_url, clock=lambda: now[0]) as log:
        for i in range(150):
            now[0] = float(rng.randrange(100))  # processes and clocks differ: times are not in the order of numbers
            ref = append(log, i, audit=rng.random() < 0.2, decided_by=rng.choice(["local", "llm", "cache"]))
            if rng.random() < 0.1:
                log.add_label(ref, RowLabel("simple", "feedback"))
        everything = log.tail(1_000)
        assert len(everything) == 150
        for _ in range(60):
            since, until = (rng.choice([None, rng.randrange(-5, 110)]) for _ in range(2))
            after, heads, lessons = rng.choice([0, 30, 149, 500]), rng.random() < 0.5, rng.random() < 0.5
            expected = [
                row
                for row in everything
                if (since is None or row.at >= since)
                and (until is None or row.at < until)
                and row.seq > after
                and (row.decision.audit or not heads)
                and (row.decision.audit or row.decision.decided_by == "llm" or row.labels or not lessons)
            ]
            kind = {"heads_only": heads, "lessons": lessons, "after": after, "batch": rng.choice([1, 7, 500])}
            assert list(log.rows(since, until, **kind)) == expected


def test_rows_that_come_while_rows_are_read_are_not_read(log_url: str) -> None:
    with open_log(log_url) as log:
        for i in range(5):
            append(log, i)
        reading = log.rows(batch=2)
        assert next(reading).decision.id == "0"
        append(log, "later")
        log.flush()
        assert [row.decision.id for row in reading] == ["1", "2", "3", "4"]


def test_a_log_that_does_not_exist_holds_nothing_and_is_not_made_by_reading(log_url: str) -> None:
    log = open_log(log_url)
    assert (list(log.rows()), list(log.labels()), list(log.labelled()), log.tail()) == ([], [], [], [])
    assert (log.state("k"), log.states(), log.row(1), log.row("x"), log.tags()) == (None, {}, None, None, [])
    assert (log.rollups(), log.latencies(), log.audit_counts(), log.prune(older_than_s=0)) == ([], [], [], 0)
    assert log.stats().bytes == 0
    log.close()


# States


def test_states_have_versions_and_change_only_from_the_one_that_was_seen(log_url: str) -> None:
    with open_log(log_url, clock=lambda: 12.5) as log:
        assert log.set_state("gate:a:simple", {"closed": True, "why": "é\0"}) == 1
        found = log.state("gate:a:simple")
        assert found is not None
        assert (found.key, found.value, found.version, found.at) == (
            "gate:a:simple",
            {"closed": True, "why": "é\0"},
            1,
            12.5,
        )
        assert log.set_state("gate:a:simple", None, if_version=0) is None
        assert log.set_state("gate:a:simple", None, if_version=1) == 2
        assert log.set_state("gate:b:simple", [1], if_version=0) == 1
        assert log.set_state("gat", 1) == 1
        assert {key: state.value for key, state in log.states("gate:").items()} == {
            "gate:a:simple": None,
            "gate:b:simple": [1],
        }
        assert log.states("gate:%") == {}
        assert set(log.states()) == {"gat", "gate:a:simple", "gate:b:simple"}
        for wrong in (math.nan, object(), {1, 2}):
            with pytest.raises((ValueError, TypeError)):
                log.set_state("gat", wrong)
        assert log.stats().rows == 0


def test_of_many_who_count_up_none_is_lost(log_url: str) -> None:
    def count(log: RouteLog) -> None:
        for _ in range(10):
            done = None
            while done is None:
                seen = log.state("n")
                done = log.set_state("n", (seen.value if seen else 0) + 1, if_version=seen.version if seen else 0)

    logs = [open_log(log_url) for _ in range(2)]
    threads = [threading.Thread(target=count, args=(logs[i % 2],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = logs[0].state("n")
    assert state is not None
    assert (state.value, state.version) == (40, 40)
    for log in logs:
        log.close()


def test_another_process_sees_a_state_and_a_label_at_once(log_url: str) -> None:
    with open_log(log_url) as log:
        append(log, "here", audit=True)
        log.set_state("gate", "closed")
        log.flush()
        script = """
print(log.state("gate").value)
log.add_label("here", RowLabel("complex", "audit"))
log.flush(); log.set_state("gate", "open"); log.close()
"""
        assert run(script, log_url) == "closed\n"
        state, label = log.state("gate"), one(log, "here").audited
    assert state is not None
    assert (state.value, state.version) == ("open", 2)
    assert label is not None
    assert (label.label, label.seq) == ("complex", 1)


def test_a_label_and_a_state_need_no_row_before_them(log_url: str) -> None:
    with open_log(log_url) as log:
        log.add_label("r", BY_HAIKU)
        assert log.flush() == 0  # counts rows
        assert [label.request_id for label in log.labels()] == ["r"]
        log.append(REQUEST, DECISION)
        assert log.flush() == 1


def test_what_the_router_logs_of_a_heads_row(tmp_path: Path) -> None:
    settings = load_settings(flags={"audit": {"rate": 1.0, "ask": False}})
    with open_log(tmp_path / "routes.db") as log, PreRouter.load(settings=settings, log=log) as router:
        decision = router.decide("What is 2 + 2?", local_only=True)
        (row,) = log.rows()
    assert decision.audit
    assert row.mode == "on"
    assert row.labelled_by is None
    assert [scores.stage for scores in row.scores][:1] == [0]
    assert row.scores[-1].probabilities == tuple(decision.probabilities.values())
    assert row.features is not None
    assert row.fingerprint == router.local.fingerprint


def test_what_the_classifier_decided_names_who(tmp_path: Path, claude: FakeClaude) -> None:
    save(tmp_path / "model", sees="easy hard")
    claude.script(Answer({"label": "complex", "confidence": 0.7}))
    with (
        open_log(tmp_path / "routes.db") as log,
        claude.client() as client,
        PreRouter.load(tmp_path / "model", client=client, settings=load_settings(), log=log) as router,
    ):
        for _ in range(2):  # the second answer is from the cache
            router.decide("please do the medium medium task")
        rows = list(log.rows())
        prompt_id = router.classifier.prompt.id
    assert [row.decision.decided_by for row in rows] == ["llm", "cache"]
    assert [(row.labelled_by, row.decision.prompt_id) for row in rows] == [("claude-haiku-5-5", prompt_id)] * 2
