"""The log in a real PostgreSQL server: what is particular to it. What both stores do is in the tests of `log_url`."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import socket
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from postgres_server import PASSWORD, Server
from store_help import DECISION, REQUEST, ROOT, append, ids, open_log, run, start, wait_until

from prerouter import cli
from prerouter.errors import ConfigError, DataError, UpstreamError
from prerouter.routelog import RouteLog
from prerouter.settings import Settings

psycopg = pytest.importorskip("psycopg")


def test_a_row_comes_back_as_it_went(postgres: Server) -> None:
    odd = replace(
        DECISION,
        id="é\0\ud800",
        seconds=1e-300,
        cost_usd=1e300,
        text_version=2**63 - 1,
        params={"a": {"b": [None, 1.5, "\0"]}},
        audit=True,
        stage=None,
    )
    with open_log(postgres.url(), text=True) as log:
        log.append(replace(REQUEST, text="x?%s\\ '", signals=(1e-300, -1e300)), odd, tags={"%s": "?", "\0": "\0"})
        log.append(REQUEST, replace(DECISION, text_version=2**70))
        log.append(REQUEST, replace(DECISION, confidence=float("nan"), params={"x": object()}))
        append(log, "after")
        assert log.flush(60) == 2
        first, second = log.rows()
        assert log.stats().dropped == 2
        out = io.StringIO()
        assert log.export(out) == 2
    assert first.decision == replace(odd, id="é\ufffd?", params={"a": {"b": [None, 1.5, "\0"]}})
    assert (first.text, first.signals, first.tags) == ("x?%s\\ '", (1e-300, -1e300), {"%s": "?", "\0": "\0"})
    assert (first.seq, second.seq, second.decision.id) == (1, 2, "after")
    assert [json.loads(line)["id"] for line in out.getvalue().splitlines()] == ["é\ufffd?", "after"]


def test_processes_on_many_hosts_write_one_log_in_one_order(postgres: Server) -> None:
    script = """
for i in range(400): append(f"{sys.argv[2]}-{i}")
print(log.flush(90)); log.close()
"""
    followed: list[tuple[int, str]] = []
    with open_log(postgres.url()) as reader:
        following = reader.follow(0, poll_s=0.02)
        writers = [start(script, postgres.url(), name) for name in "abc"]
        while len(followed) < 1_200:
            row = next(following)
            followed.append((row.seq, row.decision.id))
        for writer in writers:
            assert writer.communicate(timeout=60)[0] == "400\n"
        assert sorted(name for _, name in followed) == sorted(f"{name}-{i}" for name in "abc" for i in range(400))
        assert [seq for seq, _ in followed] == list(range(1, 1_201))
        assert len({row.text_hash for row in reader.rows()}) == 1
        assert sum(each.rows for each in reader.rollups()) == 1_200


def test_an_acknowledged_row_survives_kill_9(postgres: Server) -> None:
    script = """
for i in range(10**9):
    append(f"{os.getpid()}-{i}")
    if i % 50 == 49: print(log.flush(60), flush=True)
"""
    for lines in (1, 3):
        with start(script, postgres.url()) as process:
            assert process.stdout
            counts = [int(process.stdout.readline()) for _ in range(lines)]
            process.send_signal(signal.SIGKILL)
            counts += [int(line) for line in process.communicate()[0].splitlines()]
        with open_log(postgres.url()) as log:
            kept = [name for name in ids(log) if name.startswith(f"{process.pid}-")]
            assert kept == [f"{process.pid}-{i}" for i in range(len(kept))]
            assert len(kept) >= counts[-1]
            assert sum(each.rows for each in log.rollups()) == log.stats().rows


def test_a_server_that_goes_and_comes_loses_no_row(postgres: Server, caplog: pytest.LogCaptureFixture) -> None:
    with open_log(postgres.url()) as log:
        append(log, "before")
        assert log.flush(60) == 1
        postgres.stop()
        for i in range(700):
            append(log, i)
        assert log.flush(0.5) == 1
        with pytest.raises(UpstreamError, match="cannot use the routing log") as caught:
            log.state("k")
        postgres.start()
        assert log.flush(60) == 701
        assert ids(log) == ["before", *map(str, range(700))]
        assert log.stats().dropped == 0
    shown = caplog.text + "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in shown
    assert "cannot write" in caplog.text


@contextmanager
def cutting(target: int, word: bytes) -> Iterator[tuple[int, list[bool]]]:
    """A relay to `target` that, while armed, passes on the client's first message with `word` and then cuts the line.

    So the server does what it was told, and the client never hears of it.
    """
    armed = [False]

    def relay(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", target)) as server:
            cut = threading.Event()

            def back() -> None:
                while (data := server.recv(65536)) and not cut.is_set():
                    client.sendall(data)

            answers = threading.Thread(target=lambda: quietly(back))
            answers.start()
            while data := quietly(lambda: client.recv(65536)):
                if armed[0] and word in data:
                    armed[0] = False
                    cut.set()
                    server.sendall(data)
                    wait_until(lambda: not answers.is_alive())  # the server has answered
                    client.shutdown(socket.SHUT_RDWR)
                    return
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)
            answers.join()

    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve() -> None:
            while True:
                threading.Thread(target=relay, args=(door.accept()[0],), daemon=True).start()

        threading.Thread(target=lambda: quietly(serve), daemon=True).start()
        yield door.getsockname()[1], armed
        door.shutdown(socket.SHUT_RDWR)


def quietly(work: object) -> bytes | None:
    try:
        return work()  # type: ignore[operator, no-any-return]
    except OSError:
        return None


def test_a_commit_whose_answer_is_lost_stores_nothing_twice(postgres: Server) -> None:
    with cutting(postgres.port, b"COMMIT") as (port, armed), open_log(postgres.url(port=port)) as log:
        append(log, "first")
        assert log.flush(60) == 1
        for name in ("in doubt", "in doubt again"):
            armed[0] = True
            append(log, name)
            wait_until(lambda: not armed[0])
            assert log.flush(60) == {"in doubt": 2, "in doubt again": 3}[name]
        with open_log(postgres.url()) as other:
            assert ids(other) == ["first", "in doubt", "in doubt again"]
            assert sum(each.rows for each in other.rollups()) == 3


def test_a_commit_that_never_reached_the_server_is_done_again(postgres: Server) -> None:
    with cutting(postgres.port, b"INSERT INTO rows") as (port, armed), open_log(postgres.url(port=port)) as log:
        append(log, "first")
        assert log.flush(60) == 1
        armed[0] = True
        append(log, "second")
        assert log.flush(60) == 2
        assert ids(log) == ["first", "second"]


def test_another_writer_is_waited_for(postgres: Server) -> None:
    with open_log(postgres.url()) as log:
        append(log, "before")
        log.flush(60)
        with psycopg.connect(postgres.url()) as other:
            other.execute(f"SELECT pg_advisory_xact_lock({0x50524C47})")
            append(log, "waits")
            assert log.flush(0.3) == 1
            with open_log(postgres.url()) as reader:
                assert reader.tail(1)[0].decision.id == "before"  # readers do not wait
        assert log.flush(60) == 2


def test_a_forked_child_uses_a_connection_of_its_own(postgres: Server) -> None:
    script = """
append("parent"); log.flush(60); log.state("x")
pid = os.fork()
if pid == 0:
    append("child"); log.set_state("x", 1); n = log.flush(60); log.close(); os._exit(n - 1)
assert os.waitpid(pid, 0)[1] == 0
append("parent again"); print(log.flush(60), log.state("x").value); log.close()
"""
    assert run(script, postgres.url()) == "2 1\n"
    with open_log(postgres.url()) as log:
        assert ids(log) == ["parent", "child", "parent again"]


def test_a_newer_schema_says_to_upgrade(postgres: Server) -> None:
    with open_log(postgres.url()) as log:
        append(log, "a")
        assert log.flush(60) == 1
    with psycopg.connect(postgres.url(), autocommit=True) as other:
        other.execute("UPDATE prerouter.schema_version SET version = 99")
    with pytest.raises(DataError, match=r"schema version 99.*upgrade prerouter"):
        open_log(postgres.url()).stats()


def test_a_user_who_may_not_make_tables_can_use_those_that_are_there(postgres: Server) -> None:
    with open_log(postgres.url()) as log:
        append(log, "a")
        log.flush(60)
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS plain")
        admin.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
        admin.execute("GRANT USAGE ON SCHEMA prerouter TO plain")
        admin.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA prerouter TO plain")
    plain = postgres.url().replace(f"tester:{PASSWORD}", "plain:plain")
    with open_log(plain) as log:
        append(log, "b")
        assert log.flush(60) == 1
        assert ids(log) == ["a", "b"]
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute("REVOKE ALL ON ALL TABLES IN SCHEMA prerouter FROM plain")
    with open_log(plain) as log, pytest.raises(UpstreamError, match="permission denied"):
        log.stats()
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute("DROP OWNED BY plain; DROP ROLE plain")


@pytest.mark.parametrize(
    "change",
    [
        (PASSWORD, "sk-ant-wrong-password"),
        ("/postgres", "/no_such_database"),
        (PASSWORD, "sk-ant-bad%zzescape"),
        ("127.0.0.1", "127.0.0.1:1,127.0.0.1"),
    ],
)
def test_no_message_shows_a_password(
    postgres: Server, change: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    url = postgres.url().replace(*change)
    log = open_log(url)
    append(log, "a")
    if "," not in url:
        with pytest.raises((UpstreamError, ConfigError)) as caught:
            log.stats()
        assert "sk-ant" not in "".join(traceback.format_exception(caught.value))
    log.close(2)
    assert "sk-ant" not in caplog.text + log.where
    assert bool(caplog.records) == ("," not in url)
    assert {record.levelno for record in caplog.records} <= {logging.WARNING}


def test_without_psycopg_the_extra_is_named(tmp_path: Path) -> None:
    script = """
sys.modules["psycopg"] = None
from prerouter.errors import MissingExtraError
log = RouteLog.open("postgresql://user:sk-ant-secret@localhost/db", settings=Settings())
try: log.stats()
except MissingExtraError as error: print(error)
"""
    assert "pip install 'prerouter[postgres]'" in run(script, tmp_path / "x.db")


def test_opening_connects_to_nothing() -> None:
    log = RouteLog.open("postgresql://user:pw@192.0.2.1:5/db?sslmode=require", settings=Settings())
    assert log.where == "postgresql://192.0.2.1:5/db"
    log.close()
    with pytest.raises(ConfigError, match="no file"):
        _ = log.path


def test_the_commands_show_it(
    postgres: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREROUTER_LOG__PATH", postgres.url())
    with RouteLog.open() as log:
        append(log, "a", {"tags": {"team": "x"}})
        log.flush(60)
    for verb, expected in (
        (["path"], f"postgresql://127.0.0.1:{postgres.port}/postgres"),
        (["stats"], "rows           1"),
        (["tail"], "simple -> claude-haiku-5-5"),
        (["prune", "--tag", "team=x"], "1 rows deleted"),
    ):
        assert cli.main(["log", *verb]) == 0
        assert expected in capsys.readouterr().out
    assert os.fspath(ROOT) not in postgres.url()
