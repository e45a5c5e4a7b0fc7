"""Roll-ups say what the rows say, in both kinds of store, whatever happens to the rows."""

from __future__ import annotations

import math
import random
import signal
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_help import append, open_log, start

from prerouter.records import Usage
from prerouter.rollups import OTHER, TAG_VALUES, Latency, Rollup, bucket
from prerouter.routelog import LogRow, Reply, RouteLog, RowLabel

HOUR = 3600
AUDIT = RowLabel("complex", "audit", labelled_by="haiku", prompt_id="p")


def fill(log: RouteLog, now: list[float], n: int, seed: int = 0) -> None:
    rng = random.Random(seed)
    for i in range(n):
        now[0] = rng.randrange(5 * HOUR) + rng.random()
        reply = Reply(
            rng.choice(["claude-haiku-5-5", "claude-opus-5"]),
            "end_turn",
            Usage(*(rng.randrange(1_000) for _ in range(5))),
            rng.choice([None, 0.25]),
            rng.choice([None, 0.5]),
            rng.choice([None, 1.5]),
            rng.choice([None, 0.5]),
            ({"model": "a"}, {"model": "b"})[: rng.randrange(3)],
        )
        options = {
            "reply": rng.choice([None, reply]),
            "tags": {"team": rng.choice("ab"), "conversation_id": f"c{i}"} if rng.random() < 0.5 else {},
            "mode": rng.choice(["on", "shadow", None]),
            "labelled_by": "haiku",
        }
        by, stage = rng.choice([("local", 0), ("local", 1), ("llm", None), ("default", None)])
        made = {"decided_by": by, "stage": stage, "label": rng.choice(["simple", "complex"]), "cost_usd": 0.125}
        ref = append(log, i, options, audit=rng.random() < 0.3, seconds=rng.random(), prompt_id="p", **made)
        if rng.random() < 0.3:
            log.add_label(ref, AUDIT)
            log.add_label(ref, replace(AUDIT, label="simple"))


def counted(rows: list[LogRow], step_s: int = HOUR) -> Counter[object]:
    """What the roll-ups of `rows` must be, worked out one row at a time."""
    found: Counter[object] = Counter()
    for row in rows:
        made, reply = row.decision, row.reply
        where = (made.tier, made.model, reply.model if reply else None, row.mode, made.model_folder_id)
        key = (int(row.at // step_s) * step_s, made.decided_by, made.label, made.reason, made.stage, *where)
        found[key, "rows"] += 1
        found[key, "heads"] += made.audit
        found[key, "cost_usd"] += made.cost_usd
        if reply:
            found[key, "replies"] += 1
            found[key, "attempts"] += max(1, len(reply.attempts))
            for name, n in asdict(reply.usage).items():
                found[key, name] += n
            if reply.cost_usd is not None and reply.baseline_usd is not None:
                found[key, "priced"] += 1
                found[key, "reply_usd"] += reply.cost_usd
                found[key, "baseline_usd"] += reply.baseline_usd
    return +found


def as_counted(rollups: list[Rollup]) -> Counter[object]:
    found: Counter[object] = Counter()
    for each in rollups:
        where = (each.tier, each.model, each.reply_model, each.mode, each.model_folder_id)
        key = (each.hour, each.decided_by, each.label, each.reason, each.stage, *where)
        for name in ("rows", "heads", "cost_usd", "replies", "attempts", "priced", "reply_usd", "baseline_usd"):
            found[key, name] += getattr(each, name)
        for name, n in asdict(each.usage).items():
            found[key, name] += n
    return +found


def test_the_sums_are_those_of_the_rows(log_url: str) -> None:
    now = [0.0]
    with open_log(log_url, clock=lambda: now[0]) as log:
        fill(log, now, 250)
        rows = list(log.rows())
        assert as_counted(log.rollups()) == counted(rows)
        assert as_counted(log.rollups(step_s=5 * HOUR)) == counted(rows, 5 * HOUR)
        some = [row for row in rows if HOUR <= row.at < 3 * HOUR]
        assert as_counted(log.rollups(HOUR, 3 * HOUR)) == counted(some)
        assert log.tags() == ["team"]
        teams = Counter[object]()
        for each in log.rollups(tag="team", step_s=5 * HOUR):
            assert (each.tag, each.label, each.model, each.stage) == ("team", "", None, None)
            teams[each.value, each.decided_by] += each.rows
        assert teams == Counter((row.tags["team"], row.decision.decided_by) for row in rows if row.tags)


def test_audits_are_counted_once_in_the_hour_of_their_row(log_url: str) -> None:
    now = [0.0]
    with open_log(log_url, clock=lambda: now[0]) as log:
        fill(log, now, 250, seed=1)
        expected = Counter(
            (int(row.at // HOUR) * HOUR, row.decision.decided_by, row.decision.stage, row.decision.label, truth.label)
            for row in log.rows()
            if (truth := row.audited)
        )
        found = Counter[object]()
        for each in log.audit_counts():
            assert (each.labelled_by, each.prompt_id, each.model_folder_id) == ("haiku", "p", "0123456789ab")
            found[each.hour, each.decided_by, each.stage, each.label, each.truth] += each.n
        assert found == expected
        assert sum(expected.values()) > 20
        assert sum(each.n for each in log.audit_counts(HOUR, 2 * HOUR, step_s=HOUR)) == sum(
            n for (hour, *_), n in expected.items() if hour == HOUR
        )


def test_latencies_are_kept_by_path(log_url: str) -> None:
    now = [0.0]
    with open_log(log_url, clock=lambda: now[0]) as log:
        fill(log, now, 200, seed=2)
        rows = list(log.rows())
        found = {(each.what, each.path): each for each in log.latencies()}
        local = [row.decision.seconds for row in rows if row.decision.stage == 1]
        assert found["decide", "local 1"].n == len(local)
        assert found["decide", "local 1"].quantile(0.5) == pytest.approx(float(np.median(local)), rel=0.15)
        replies = [row.reply for row in rows if row.reply and row.reply.model == "claude-opus-5"]
        assert found["reply", "claude-opus-5"].n == sum(reply.seconds is not None for reply in replies)
        assert found["first_byte", "claude-opus-5"].quantile(1) == pytest.approx(0.5, rel=0.05)
        by_hour = [each for each in log.latencies(step_s=HOUR) if each.path == "llm"]
        assert [each.hour for each in by_hour] == [0, HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR]
        together = by_hour[0]
        for each in by_hour[1:]:
            together = together.merged(each)
        assert together.counts == found["decide", "llm"].counts


@given(st.lists(st.floats(1e-6, 1e5), min_size=1, max_size=60), st.floats(0, 1))
def test_a_quantile_is_off_by_at_most_five_percent(seconds: list[float], q: float) -> None:
    found = Latency(0, "decide", "llm", Counter(map(bucket, seconds))).quantile(q)
    exact = sorted(seconds)[math.floor(q * (len(seconds) - 1))]
    assert found == pytest.approx(exact, rel=0.05)


def test_no_rows_have_no_quantile() -> None:
    assert math.isnan(Latency(0, "decide", "llm", {}).quantile(0.5))


def test_roll_ups_outlive_their_rows_but_not_a_tag_that_is_pruned(log_url: str) -> None:
    now = [0.0]
    with open_log(log_url, clock=lambda: now[0]) as log:
        for i in range(6):
            now[0] = i * HOUR + 1.0
            append(log, i, {"tags": {"team": "ab"[i % 2], "user": f"u{i}"}})
        before = as_counted(log.rollups())
        assert log.prune(older_than_s=4 * HOUR) == 1
        assert as_counted(log.rollups()) == before
        assert log.prune(tag=("team", "a")) == 2
        assert as_counted(log.rollups()) == before  # which says nothing of a team
        assert {each.value for each in log.rollups(tag="team")} == {"b"}
        assert log.prune(older_than_s=HOUR, tag=("team", "b")) == 2
        assert [(each.value, each.hour) for each in log.rollups(tag="team")] == [("b", 5 * HOUR)]


def test_a_tag_that_names_everyone_does_not_make_the_roll_ups_long(log_url: str) -> None:
    with open_log(log_url, clock=lambda: 10.0) as log:
        for i in range(TAG_VALUES + 20):
            append(log, i, {"tags": {"user": f"u{i}", "conversation_id": str(i), "": "x"}})
        found = {each.value: each.rows for each in log.rollups(tag="user")}
        assert log.tags() == ["user"]
    assert len(found) == TAG_VALUES + 1
    assert found[OTHER] == 20


def test_what_a_lying_server_reports_spoils_no_sum(log_url: str) -> None:
    odd = [
        Reply("m", None, Usage(10**18, -5), 1e300, math.inf, math.inf, math.nan),
        Reply("m", None, Usage(1, 2), math.nan, 1.0, -1.0, 1e308),
        Reply("m\ud800\0", None, Usage(1, 2), 0.5, 1.0, 1e-300, 0.0),
    ]
    with open_log(log_url, clock=lambda: 10.0) as log:
        for reply in odd:
            append(log, "a", {"reply": reply, "tags": {"\ud800": "\0"}})
        append(log, "b", {"reply": Reply("m", None, Usage(10**30))})  # no store holds that number
        append(log, "c", {"reply": Reply("m", None, Usage(4, 3))})
        assert log.flush() == 4
        found = log.rollups()
        assert log.stats().dropped == 1
        assert len(log.latencies()) >= 3
    assert sum(each.rows for each in found) == 4
    assert sum(each.usage.input_tokens for each in found) == 6
    assert sum(each.reply_usd for each in found) == 0.5
    assert all(math.isfinite(each.reply_usd + each.baseline_usd) for each in found)


def test_after_kill_9_the_sums_are_those_of_the_rows(tmp_path: Path) -> None:
    script = """
for i in range(10**9):
    append(i)
    if i % 50 == 49: print(log.flush(), flush=True)
"""
    path = tmp_path / "routes.db"
    for lines in (1, 3, 6):
        with start(script, path) as process:
            assert process.stdout
            for _ in range(lines):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            process.communicate()
        with open_log(path) as log:
            assert sum(each.rows for each in log.rollups()) == log.stats().rows >= 50 * lines
