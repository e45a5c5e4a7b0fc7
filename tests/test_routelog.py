"""The routing log, through its public door, on real files and in real processes."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_help import DECISION, REQUEST, ROOT, open_log, run, start, wait_until

from prerouter.errors import ConfigError, DataError, InvalidRequest, UpstreamError
from prerouter.records import Decision, Request, Usage
from prerouter.routelog import LogRow, Reply, RouteLog
from prerouter.sections import LogSettings
from prerouter.settings import Settings

CONTRACT_STATS = [
    "rows",
    "dropped",
    "bytes",
    "first_at",
    "last_at",
    "by_decided_by",
    "audits",
    "fingerprints",
    "labels",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "routes.db"


def append(log: RouteLog, *names: object, **options: Any) -> None:
    for name in names:
        log.append(REQUEST, dataclasses.replace(DECISION, id=str(name)), **options)


def ids(log: RouteLog) -> list[str]:
    return [row.decision.id for row in log.tail(1_000_000)]


@pytest.fixture
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """Another user of the file, in the middle of a transaction."""
    with open_log(path) as log:
        append(log, "before")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield other
    other.close()


# Rows


finite = st.floats(allow_nan=False, allow_infinity=False)
share = st.floats(0, 1)
plain = st.text(max_size=20)
whole = st.integers(-(2**63), 2**63 - 1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain, inner, max_size=3),
    max_leaves=6,
)
decisions = st.builds(
    Decision,
    id=plain,
    label=plain,
    tier=st.none() | plain,
    model=st.none() | plain,
    decided_by=st.sampled_from(["local", "llm", "cache", "pinned", "default"]),
    stage=st.none() | whole,
    reason=st.sampled_from(["above_gate", "classified", "no_key"]),
    adjusted_by=st.lists(plain, max_size=3).map(tuple),
    confidence=share,
    probabilities=st.dictionaries(plain, share, max_size=4),
    fallback_label=st.none() | plain,
    rationale=st.none() | plain,
    params=st.dictionaries(plain, json_values, max_size=3),
    audit=st.booleans(),
    audit_p=share,
    model_folder_id=plain,
    prompt_id=st.none() | plain,
    text_version=whole,
    seconds=finite,
    cost_usd=finite,
)
requests = st.builds(
    Request,
    text=st.text(),
    context=plain,
    signals=st.lists(finite, max_size=5).map(tuple),
    text_version=st.just(1),
    n_chars=st.integers(0, 10**9),
)
rows = st.lists(st.tuples(requests, decisions, st.dictionaries(plain, plain, max_size=3)), min_size=1, max_size=10)


@pytest.mark.parametrize("text", [True, False])
def test_what_was_appended_is_what_is_read(path: Path, text: bool) -> None:
    with open_log(path, text=text) as log:

        @settings(max_examples=100, deadline=None)
        @given(rows)
        def check(rows: list[tuple[Request, Decision, dict[str, str]]]) -> None:
            for request, decision, tags in rows:
                log.append(request, decision, tags=tags)
            read = log.tail(len(rows))
            for (request, decision, tags), row in zip(rows, read, strict=True):
                kept = decision if text else dataclasses.replace(decision, rationale=None, params={})
                assert row.decision == kept
                assert (row.tags, row.signals, row.n_chars) == (tags, request.signals, request.n_chars)
                assert row.text == (request.text if text else None)
            assert [row.seq for row in read] == list(range(read[0].seq, read[0].seq + len(rows)))

        check()
        out = io.StringIO()
        written = log.export(out)
    lines = [json.loads(line) for line in out.getvalue().split("\n")[:-1]]
    assert written == len(lines) == log.stats().rows
    assert lines == [json.loads(json.dumps(row.to_json())) for row in log.tail(written)]


def test_a_row_is_the_decision_plus_what_happened(path: Path) -> None:
    with open_log(path, clock=lambda: 1_700_000_000.25) as log:
        append(log, "a", tags={"team": "search", "vip": True, "n": 3})
        (row,) = log.tail(5)
    assert row.at == 1_700_000_000.25
    assert row.tags == {"team": "search", "vip": "true", "n": "3"}
    shown = row.to_json()
    assert {key: shown[key] for key in DECISION.to_json()} == dataclasses.replace(DECISION, id="a").to_json()
    assert shown["at"] == "2023-11-14T22:13:20.250000Z"
    assert (shown["text"], shown["reply"], shown["seq"], "features" in shown) == (None, None, 1, False)


def test_the_caller_may_change_what_it_passed(path: Path) -> None:
    tags, features = {"k": "before"}, np.ones(3, np.float32)
    with open_log(path) as log:
        append(log, "a", tags=tags, features=features, fingerprint="f" * 12)
        tags["k"], features[0] = "after", 7
        (row,) = log.tail(1)
    assert row.tags == {"k": "before"}
    assert row.features is not None
    assert row.features.tolist() == [1, 1, 1]


def test_features_are_kept_as_float16_with_their_fingerprint(path: Path) -> None:
    features = np.random.default_rng(0).normal(size=384).astype(np.float32)
    with open_log(path) as log:
        append(log, "kept", features=features, fingerprint="abcdefabcdef")
        append(log, "overflows", features=features * 1e6, fingerprint="abcdefabcdef")
        append(log, "of no encoder", features=features)
        kept, large, neither = log.tail(3)
        assert log.stats().fingerprints == {"abcdefabcdef": 2}
    assert kept.features is not None
    assert large.features is not None
    assert (kept.features.dtype, kept.features.shape, kept.fingerprint) == (np.float16, (384,), "abcdefabcdef")
    np.testing.assert_array_equal(kept.features, features.astype(np.float16))
    np.testing.assert_array_equal(large.features, features * np.float32(1e6))
    assert (neither.features, neither.fingerprint) == (None, None)
    assert kept.to_json(features=True)["features"] == kept.features.tolist()


def test_the_reply_is_kept_as_model_stop_reason_and_tokens(path: Path) -> None:
    from anthropic.types import Message

    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "claude-haiku-5-5",
        "stop_reason": "end_turn",
        "usage": {
            "input_tokens": 10,
            "output_tokens": 5,
            "cache_read_input_tokens": 7,
            "cache_creation_input_tokens": 30,
            "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        },
    }
    with open_log(path) as log:
        append(log, "a", reply=message)
        append(log, "b", reply=Message.model_validate(message))
        append(log, "c", reply={"usage": {"output_tokens": 1, "cache_creation_input_tokens": 4}})
        append(log, "d", reply=object())
        first, second, third, fourth = (row.reply for row in log.tail(4))
    assert first == second
    assert first is not None
    assert (first.model, first.stop_reason, first.usage) == ("claude-haiku-5-5", "end_turn", Usage(10, 5, 7, 10, 20))
    assert third is not None
    assert third.usage == Usage(output_tokens=1, cache_write_5m_tokens=4)
    assert fourth is not None
    assert fourth.usage == Usage()


def test_a_body_is_rendered_when_no_request_is_given(path: Path) -> None:
    from prerouter.text import render

    body = {"messages": [{"role": "user", "content": "Sort this list"}]}
    with open_log(path, text=True) as log:
        log.append("Sort this list", DECISION)
        log.append(body, DECISION)
        log.append(body, DECISION, rendered=REQUEST)
        assert [row.text for row in log.tail(3)] == [render(body).text] * 2 + [REQUEST.text]
        with pytest.raises(InvalidRequest):
            log.append({"messages": "none"}, DECISION)


def test_texts_leave_no_trace_unless_kept(path: Path) -> None:
    secret = dataclasses.replace(REQUEST, text="sk-secret-4711")
    decision = dataclasses.replace(DECISION, rationale="asks for sk-secret-4711", params={"key": "sk-secret-4711"})
    with open_log(path) as log:
        log.append(secret, decision)
        log.flush()
        assert all(b"sk-secret-4711" not in file.read_bytes() for file in path.parent.iterdir())
        assert log.tail(1)[0].decision.params == {}


def test_keys_and_personal_data_are_in_no_file_even_when_texts_are_kept(path: Path) -> None:
    key, mail = "sk-ant-api03-" + "x9Y8" * 8, "jane.doe@example.com"
    quote = f"my key is {key}, mail {mail}"
    attempts = ({"model": "claude-haiku-5-5", "error": f"401 for Bearer {key}"}, {"model": "m", "error": None})
    with open_log(path, text=True) as log:
        log.append(
            dataclasses.replace(REQUEST, text=quote),
            dataclasses.replace(DECISION, rationale=quote, params={"said": [quote]}),
            Reply("claude-haiku-5-5", "end_turn", Usage(), attempts=attempts),
        )
        log.flush()
        everything = b"".join(file.read_bytes() for file in path.parent.iterdir())
        (row,) = log.tail(1)
    assert key.encode() not in everything
    assert mail.encode() not in everything
    assert row.text == "my key is [KEY_1], mail [EMAIL_1]"
    assert row.decision.params == {"said": ["my key is [KEY_1], mail [EMAIL_1]"]}
    assert row.reply is not None
    assert [attempt["model"] for attempt in row.reply.attempts] == ["claude-haiku-5-5", "m"]


def test_equal_texts_have_equal_hashes_only_within_one_log(tmp_path: Path) -> None:
    hashes = []
    for name in ("one.db", "two.db"):
        for _ in range(2):
            with open_log(tmp_path / name) as log:
                append(log, "a")
        log.append(dataclasses.replace(REQUEST, text="another"), DECISION)
        hashes.append([row.text_hash for row in log.tail(3)])
        log.close()
        key = (tmp_path / f"{name}.key").read_bytes()
        assert len(key) == 32
        assert key not in (tmp_path / name).read_bytes()
    assert hashes[0][0] == hashes[0][1] != hashes[0][2]
    assert not set(hashes[0]) & set(hashes[1])
    assert {len(text_hash) for text_hash in hashes[0]} == {32}


# Files


def test_nothing_happens_before_the_first_row(path: Path) -> None:
    out = run("print('sqlite3' in sys.modules, threading.active_count(), Path(sys.argv[1]).parent.exists())", path)
    assert out.split()[1:] == ["1", "False"]
    light = "import sys, prerouter.routelog; print([m for m in ('sqlite3', 'numpy') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", light], cwd=ROOT, text=True).strip() == "[]"


def test_reading_a_log_that_does_not_exist_creates_nothing(path: Path) -> None:
    log = open_log(path)
    assert log.stats().to_json() == dict.fromkeys(CONTRACT_STATS, 0) | {
        "first_at": None,
        "last_at": None,
        "by_decided_by": {},
        "fingerprints": {},
        "labels": {},
    }
    assert (log.tail(5), log.export(io.StringIO()), log.prune(older_than_s=0), log.flush()) == ([], 0, 0, 0)
    assert not path.parent.exists()


def test_reading_leaves_no_files_behind(path: Path) -> None:
    with open_log(path) as log:
        append(log, "a")
    before = sorted(path.parent.iterdir())
    assert ids(open_log(path)) == ["a"]
    assert open_log(path).stats().rows == 1
    assert sorted(path.parent.iterdir()) == before


def test_folder_and_files_are_for_the_owner_only(path: Path) -> None:
    with open_log(path) as log:
        append(log, "a")
        log.flush()
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert modes == dict.fromkeys(["routes.db", "routes.db-wal", "routes.db-shm", "routes.db.key"], 0o600)


@pytest.mark.parametrize("wal", [False, True], ids=["closed", "being written"])
def test_a_log_in_a_folder_that_is_read_only_can_be_read(wal: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "routes.db"
        log = open_log(path)
        append(log, "a")
        if wal:
            log.flush()
        else:
            log.close()
        for file in (path.parent, *path.parent.iterdir()):
            file.chmod(0o555)
        as_other_user = """
import sqlite3
if os.getuid() == 0: os.setuid(65534)  # root may write everywhere
print(*[row.decision.id for row in log.tail(5)], log.stats().rows)
"""
        assert run(as_other_user, path) == "a 1\n"
        path.parent.chmod(0o755)
        log.close()


def test_where_the_log_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    inside = Settings(workspace=tmp_path / "w")
    assert RouteLog.open(settings=Settings()).path == tmp_path / "prerouter" / "routes.db"
    assert RouteLog.open(settings=inside).path == tmp_path / "w" / ".prerouter" / "routes.db"
    named = dataclasses.replace(inside, log=LogSettings(path="logs/r.db"))
    assert RouteLog.open(settings=named).path == tmp_path / "w" / "logs" / "r.db"
    assert RouteLog.open(f"sqlite:///{tmp_path}/x.db", settings=named).path == tmp_path / "x.db"
    assert RouteLog.open("x.db", settings=named).path == Path.cwd() / "x.db"


@pytest.mark.parametrize("url", ["oracle://db/routes", "sqlite://", "sqlite:///", "https://x/y.db", "mysql://u:pw@h/d"])
def test_another_kind_of_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="no routing log") as caught:
        RouteLog.open(url, settings=Settings())
    assert "pw" not in str(caught.value)  # a URL may carry a password


def test_a_name_with_special_characters_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a b?mode=memory#%41 é.db"
    with open_log(path) as log:
        append(log, "a")
    assert path.exists()
    assert ids(open_log(path)) == ["a"]


@pytest.mark.parametrize("content", [b"not a database, but long enough to be one. " * 40, b"short"])
def test_a_file_that_is_no_database(path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    log = open_log(path)
    append(log, "a", "b")
    assert log.flush(0.3) == 0
    reader = open_log(path)
    reads = [reader.stats, reader.follow, lambda: reader.tail(1), lambda: reader.export(io.StringIO())]
    for read in [*reads, lambda: reader.prune(older_than_s=1)]:
        with pytest.raises(DataError, match=r"not a routing log.*move the file away"):
            read()
    assert path.read_bytes() == content
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    path.unlink()
    assert log.flush() == 2  # tried again by itself, nothing lost
    log.close()


def test_another_programs_database_is_not_filled(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE rows (theirs)")
    db.close()
    log = open_log(path)
    append(log, "a")
    log.close(0.2)
    with pytest.raises(DataError, match="another program's database"):
        log.stats()
    db = sqlite3.connect(path)
    assert [name for (name,) in db.execute("SELECT name FROM sqlite_master")] == ["rows"]
    db.close()


def test_a_newer_schema_says_to_upgrade(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_log(path) as log:
        append(log, "a")
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    append(log, "b")
    assert log.flush(0.2) == 1
    with pytest.raises(DataError, match=r"schema version 99.*upgrade prerouter"):
        log.tail(1)
    log.close(0.1)
    assert "upgrade prerouter" in caplog.text


# Trouble


def test_a_full_queue_drops_counts_and_never_waits(
    path: Path, locked: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    log = open_log(path, queue=5)
    started = time.monotonic()
    append(log, *range(2_000))
    assert time.monotonic() - started < 2
    waiting = log.stats()  # other processes' transactions do not stop readers
    assert waiting.rows == 1
    assert waiting.dropped >= 2_000 - 512 - 5
    locked.execute("COMMIT")
    kept = log.flush()
    assert log.stats().dropped == 2_000 - kept == waiting.dropped
    log.close()
    again = open_log(path)
    assert (again.stats().rows, again.stats().dropped) == (1 + kept, 2_000 - kept)
    append(again, "more")
    again.close()
    assert again.stats().dropped == 2_000 - kept
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2  # one for the lock, one for the drops
    assert "database is locked" in warnings[0]
    assert f"{2_000 - kept} rows were dropped" in warnings[1]


def test_rows_outlast_another_process_that_holds_the_file(path: Path, locked: sqlite3.Connection) -> None:
    with open_log(path) as log:
        append(log, *range(20))
        assert log.flush(0.4) == 0
        locked.execute("ROLLBACK")
        assert log.flush() == 20


def test_close_gives_up_in_time_and_says_what_is_lost(
    path: Path, locked: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    log = open_log(path)
    append(log, *range(30))
    started = time.monotonic()
    log.close(0.1)
    assert time.monotonic() - started < 3
    assert "30 rows dropped" in caplog.text
    locked.execute("ROLLBACK")
    append(log, "later")  # the log opens again, and the file learns of the loss
    log.close()
    assert (ids(log), log.stats().dropped) == (["before", "later"], 30)


@pytest.mark.parametrize("where", ["/dev/null", "/dev/null/x/routes.db", "/proc/x/routes.db"])
def test_close_does_not_wait_for_what_no_wait_helps(where: str, caplog: pytest.LogCaptureFixture) -> None:
    log = open_log(Path(where))
    append(log, *range(2_000))
    started = time.monotonic()
    log.close()
    assert time.monotonic() - started < 1
    assert "2000 rows dropped" in caplog.text


def test_close_does_not_wait_for_another_kind_of_file(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_text("not a database")
    log = open_log(path)
    append(log, "a")
    started = time.monotonic()
    log.close()
    assert time.monotonic() - started < 1
    assert "1 rows dropped" in caplog.text
    path.unlink()
    append(log, "later")
    log.close()
    assert (ids(log), log.stats().dropped) == (["later"], 1)


def test_neither_close_nor_exit_waits_for_a_full_disk(path: Path) -> None:
    script = """
import resource, time
append("first"); assert log.flush() == 1
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
for i in range(5_000): append(i)
started = time.monotonic()
log.close()
print(time.monotonic() - started)
"""
    assert float(run(script, path)) < 3  # what fits is written first


def test_close_waits_for_another_processs_lock(path: Path, locked: sqlite3.Connection) -> None:
    log = open_log(path)
    append(log, "a")
    closing = threading.Thread(target=log.close)
    closing.start()
    closing.join(0.6)
    assert closing.is_alive()
    locked.execute("ROLLBACK")
    closing.join()
    assert ids(log) == ["before", "a"]


def test_a_full_disk_loses_nothing_that_fits_later(path: Path) -> None:
    script = """
import resource
append("first"); assert log.flush() == 1
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
for i in range(5_000): append(i)
full = log.flush(0.5)
assert 1 <= full < 5_001, full
assert log.stats().rows == full
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
print(full, log.flush(), log.stats().rows, log.stats().dropped)
"""
    assert run(script, path).split()[1:] == ["5001", "5001", "0"]


def test_a_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    log = open_log(tmp_path / "file" / "routes.db")
    append(log, "a")
    assert log.flush(0.2) == 0
    assert "cannot write" in caplog.text
    (tmp_path / "file").unlink()
    assert log.flush() == 1
    log.close()


def test_a_deleted_folder_is_made_again(path: Path) -> None:
    with open_log(path) as log:
        append(log, "a")
        log.flush()
        for file in path.parent.iterdir():
            file.unlink()
        path.parent.rmdir()
        append(log, "b")
        assert log.flush() == 2
        assert ids(open_log(path)) == ["b"]


def test_a_row_that_cannot_be_stored_costs_only_itself(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_log(path, text=True) as log:
        append(log, "a")
        log.append(REQUEST, dataclasses.replace(DECISION, text_version=2**70))
        log.append(REQUEST, dataclasses.replace(DECISION, params={"x": object()}))
        log.append(REQUEST, dataclasses.replace(DECISION, confidence=float("nan")))
        log.append(REQUEST, DECISION, features=[1.0], fingerprint="f" * 12)  # type: ignore[arg-type]
        append(log, "b")
        assert log.flush() == 2
        assert ids(log) == ["a", "b"]
        assert log.stats().dropped == 4
    assert "rows were dropped (" in caplog.text
    assert len(caplog.records) == 1


def test_a_lone_surrogate_becomes_a_question_mark(path: Path) -> None:
    with open_log(path, text=True) as log:
        log.append(
            dataclasses.replace(REQUEST, text="x\ud800"),
            dataclasses.replace(DECISION, id="\udfff1"),
            tags={"\ud800": "\ud800"},
        )
        (row,) = log.tail(1)
        log.export(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert (row.text, row.decision.id, row.tags) == ("x?", "?1", {"?": "?"})


def test_a_damaged_key_is_named(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.with_name("routes.db.key").write_bytes(b"half")
    log = open_log(path)
    append(log, "a")
    assert log.flush(0.2) == 0
    wait_until(lambda: "not a key of 32 bytes" in caplog.text)
    path.with_name("routes.db.key").unlink()
    assert log.flush() == 1
    log.close()


# Threads and processes


@pytest.mark.parametrize("durable", [False, True])
def test_an_acknowledged_row_survives_kill_9(path: Path, durable: bool) -> None:
    script = """
log = RouteLog.open(sys.argv[1], settings=Settings(log=LogSettings(durable=sys.argv[2] == "True")))
for i in range(10**9):
    append(f"{os.getpid()}-{i}")
    if i % 50 == 49: print(log.flush(), flush=True)
"""
    acknowledged = 0
    for kill_after in (1, 2, 7, 20, 40):
        with start(script, path, durable) as process:
            assert process.stdout
            counts = [int(process.stdout.readline()) for _ in range(kill_after)]
            process.send_signal(signal.SIGKILL)
            counts += [int(line) for line in process.communicate()[0].splitlines()]
        assert counts == list(range(50, 50 * len(counts) + 1, 50))
        acknowledged += counts[-1]
        kept = [name for name in ids(open_log(path)) if name.startswith(f"{process.pid}-")]
        assert len(kept) >= counts[-1]
        assert kept == [f"{process.pid}-{i}" for i in range(len(kept))]
    assert open_log(path).stats().rows >= acknowledged


def test_two_processes_write_one_file_while_a_third_reads(path: Path) -> None:
    script = """
for i in range(2_000): append(f"{sys.argv[2]}-{i}")
print(log.flush(30))
"""
    with start(script, path, "a") as one, start(script, path, "b") as two:
        reader = open_log(path)
        seen = [reader.stats().rows]
        while one.poll() is None or two.poll() is None:
            seen.append(reader.stats().rows)
        for process in (one, two):
            assert process.communicate(timeout=60)[0] == "2000\n"
    assert seen == sorted(seen)
    assert sorted(ids(reader)) == sorted(f"{name}-{i}" for name in "ab" for i in range(2_000))
    assert len({row.text_hash for row in reader.tail(4_000)}) == 1


def test_forked_children_write_their_rows_and_not_their_parents(path: Path) -> None:
    script = """
done = threading.Event()
def busy():
    i = 0
    while not done.is_set():
        append(f"parent-{i}"); i += 1
        if i % 5 == 0: done.wait(0.005)
    print(i)
thread = threading.Thread(target=busy); thread.start()
def child(n):
    for i in range(10): append(f"child-{n}-{i}")
    assert log.flush() == 10
    assert len([r for r in log.tail(10**6) if r.decision.id.startswith(f"child-{n}-")]) == 10
    if n % 2: log.close()
children = []
for n in range(12):
    log.stats()
    pid = os.fork()
    if pid == 0:
        try: child(n)
        except BaseException: os._exit(1)
        os._exit(0)
    children.append(pid)
assert {os.waitpid(pid, 0)[1] for pid in children} == {0}
done.set(); thread.join(); log.close()
"""
    n = int(run(script, path))
    expected = [f"parent-{i}" for i in range(n)] + [f"child-{c}-{i}" for c in range(12) for i in range(10)]
    assert sorted(ids(open_log(path))) == sorted(expected)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_a_child_shares_no_connection_with_its_parent(path: Path) -> None:
    # An inherited connection makes the child believe that it holds the parent's locks. The parent, closing, then takes
    # itself for the last user and removes the write-ahead file under the child.
    script = """
append("parent"); log.flush()
closed, close = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    append("early"); log.flush(); os.write(close[1], b"x")
    os.read(closed[0], 1)
    append("late"); os._exit(log.flush() - 2)
os.read(close[0], 1); log.close(); os.write(closed[1], b"x")
assert os.waitpid(pid, 0)[1] == 0
"""
    run(script, path)
    assert ids(open_log(path)) == ["parent", "early", "late"]


def test_a_process_that_ends_without_close_has_written_its_rows(path: Path) -> None:
    run("for i in range(300): append(i)", path)
    run("append('exits'); sys.exit(0)", path)
    assert ids(open_log(path)) == [*map(str, range(300)), "exits"]


def test_many_threads_lose_nothing_while_the_log_is_closed_again_and_again(path: Path) -> None:
    log = open_log(path)
    threads = [threading.Thread(target=append, args=(log, *(f"{t}-{i}" for i in range(500)))) for t in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        log.close()
    for thread in threads:
        thread.join()
    assert log.flush() == 4_000
    assert sorted(ids(log)) == sorted(f"{t}-{i}" for t in range(8) for i in range(500))
    log.close()


# Reading


def test_tail_gives_the_last_rows_oldest_first(path: Path) -> None:
    with open_log(path) as log:
        append(log, *range(30))
        assert [row.decision.id for row in log.tail(3)] == ["27", "28", "29"]
        assert len(log.tail(100)) == 30
        assert log.tail(0) == log.tail(-1) == []


def test_follow_gives_each_later_row_once(path: Path) -> None:
    with open_log(path) as log:
        from_the_first_row = log.follow(0, poll_s=0.01)
        append(log, "old")
        assert next(from_the_first_row).decision.id == "old"
        later = log.follow(poll_s=0.01)
        run("append('new'); append('newer')", path)
        assert [next(later).decision.id for _ in range(2)] == ["new", "newer"]
        assert [next(from_the_first_row).decision.id for _ in range(2)] == ["new", "newer"]


def test_export_needs_little_memory_however_long_the_log(path: Path) -> None:
    class Counting(io.TextIOBase):
        lines = 0

        def write(self, text: str) -> int:
            self.lines += text.count("\n")
            return len(text)

    with open_log(path, text=True, queue=10_000) as log:
        long = dataclasses.replace(REQUEST, text="x" * 6_000)
        for _ in range(4_000):
            log.append(long, DECISION)
        assert log.flush(30) == 4_000
        out = Counting()
        tracemalloc.start()
        assert log.export(out) == out.lines == 4_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 10e6  # the texts alone are 24 MB


def test_stats_have_the_contracts_keys(path: Path) -> None:
    times = iter([100.0, 50.5, 200.0])
    with open_log(path, clock=lambda: next(times)) as log:
        append(log, "a", features=np.ones(3, np.float32), fingerprint="f" * 12)
        log.append(REQUEST, dataclasses.replace(DECISION, decided_by="default", reason="no_key", audit=True))
        append(log, "c", features=np.ones(3, np.float32), fingerprint="0" * 12)
        stats = log.stats().to_json()
    assert list(stats) == CONTRACT_STATS
    assert stats.pop("bytes") >= path.stat().st_size - 1
    assert stats == {
        "rows": 3,
        "dropped": 0,
        "first_at": "1970-01-01T00:00:50.500000Z",
        "last_at": "1970-01-01T00:03:20.000000Z",
        "by_decided_by": {"default": 1, "local": 2},
        "audits": 1,
        "fingerprints": {"0" * 12: 1, "f" * 12: 1},
        "labels": {},
    }


def test_prune_by_age_by_tag_and_by_both(path: Path) -> None:
    now = [1_000.0]
    with open_log(path, clock=lambda: now[0]) as log:
        append(log, "old", "old too", tags={"team": "a"})
        append(log, "old b", tags={"team": "b", "a.b\"'": "1"})
        now[0] = 2_000.0
        append(log, "new", tags={"team": "a"})
        assert log.prune(older_than_s=5_000) == 0
        assert log.prune(tag=("team", "c")) == log.prune(tag=("a", "team")) == 0
        assert log.prune(older_than_s=500, tag=("team", "a")) == 2
        assert ids(log) == ["old b", "new"]
        assert log.prune(tag=("a.b\"'", "1")) == 1
        now[0] = 9_000.0
        assert log.prune(older_than_s=1) == 1
        append(log, "next")
        assert [row.seq for row in log.tail(5)] == [5]  # numbers are not used again
        with pytest.raises(ConfigError, match="which rows"):
            log.prune()


def test_prune_gives_the_space_back(path: Path) -> None:
    features = np.random.default_rng(0).normal(size=384).astype(np.float32)
    with open_log(path) as log:
        append(log, *range(6_000), features=features, fingerprint="f" * 12)
        log.flush(30)
        before = log.stats().bytes
        append(log, "kept", tags={"keep": "no"})
        assert log.prune(older_than_s=0) == 6_001
        append(log, "kept")
        assert ids(log) == ["kept"]
        assert before > 6_000 * 2 * 384
        assert log.stats().bytes < before / 20


def test_a_reader_that_may_not_read_is_told_so(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(UpstreamError, match="cannot use the routing log") as caught:
        open_log(path).stats()
    assert caught.value.next_step


def test_rows_are_read_by_the_class_that_writes_them(path: Path) -> None:
    with open_log(path) as log:
        append(log, "a")
        (row,) = log.tail(1)
    assert isinstance(row, LogRow)
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.at = 0.0  # type: ignore[misc]
    assert os.fspath(log.path) == str(path)
