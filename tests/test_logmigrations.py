"""Logs that earlier versions wrote open, are read, and get their roll-ups."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from store_help import ROOT, append, ids, open_log, wait_until

from prerouter import logmigrations
from prerouter.logtables import LogStats

# As version 1 wrote a row: without what rows get after the fact, modes and figures of replies.
OLD_ROW = {
    "at": 5_400_250_000,
    "id": "old",
    "label": "simple",
    "tier": "haiku",
    "model": "claude-haiku-5-5",
    "decided_by": "local",
    "stage": 0,
    "reason": "above_gate",
    "adjusted_by": "[]",
    "confidence": 0.9,
    "probabilities": '{"simple": 0.9, "complex": 0.1}',
    "params": "{}",
    "audit": 1,
    "audit_p": 0.05,
    "model_folder_id": "0123456789ab",
    "text_version": 1,
    "seconds": 0.0001,
    "cost_usd": 0.0,
    "tags": '{"team": "search"}',
    "text_hash": "0" * 32,
    "n_chars": 14,
    "signals": "[0.5]",
}


def old_log(path: Path, n: int) -> None:
    db = sqlite3.connect(path)
    db.executescript(logmigrations.SQLITE[0])
    sql = f"INSERT INTO rows ({', '.join(OLD_ROW)}) VALUES ({', '.join('?' * len(OLD_ROW))})"
    db.executemany(sql, [tuple((OLD_ROW | {"id": f"old{i}"}).values()) for i in range(n)])
    db.execute("INSERT INTO features VALUES (1, 'ffffffffffff', 'float16', '[2]', ?)", (b"\0<\0@",))
    db.execute("DELETE FROM rows WHERE seq = ?", (n,))  # its number is never used again
    db.executescript(f"PRAGMA user_version = 1; PRAGMA application_id = {0x50524C47}; PRAGMA journal_mode = WAL")
    db.commit()
    db.close()


def test_an_old_log_is_read_labelled_and_rolled_up_by_a_reader(tmp_path: Path) -> None:
    old_log(tmp_path / "routes.db", 4_501)
    log = open_log(tmp_path / "routes.db")
    assert log.stats() == LogStats(
        4_500,
        0,
        log.stats().bytes,
        5_400.25,
        5_400.25,
        {"local": 4_500},
        4_500,
        {"ffffffffffff": 1},
        {},
    )
    row = log.row(1)
    assert row is not None
    assert (row.decision.id, row.scores, row.mode, row.audited) == ("old0", (), None, None)
    assert row.features is not None
    assert row.features.tolist() == [1, 2]
    assert [(each.hour, each.rows, each.heads) for each in log.rollups()] == [(3_600, 4_500, 4_500)]
    assert [each.rows for each in log.rollups(tag="team")] == [4_500]
    assert [each.n for each in log.latencies()] == [4_500]


def test_an_old_log_is_rolled_up_by_the_writer_while_it_takes_rows(tmp_path: Path) -> None:
    old_log(tmp_path / "routes.db", 4_501)
    with open_log(tmp_path / "routes.db") as log:
        append(log, "new")
        assert log.flush() == 1
        wait_until(lambda: sqlite_value(tmp_path, "SELECT value FROM counters WHERE name = 'unrolled'") == 0)
        assert sqlite_value(tmp_path, "SELECT sum(rows) FROM rollups WHERE tag = ''") == 4_501
        assert log.tail(1)[0].seq == 4_502
        assert sum(each.rows for each in log.rollups()) == 4_501


def sqlite_value(folder: Path, sql: str) -> object:
    db = sqlite3.connect(folder / "routes.db")
    try:
        return db.execute(sql).fetchone()[0]
    finally:
        db.close()


def test_an_old_log_that_cannot_be_changed_says_so() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "routes.db"
        old_log(path, 3)
        path.chmod(0o444)
        path.parent.chmod(0o555)
        script = f"""
import os, sqlite3
from prerouter.errors import DataError
from prerouter.routelog import RouteLog
if os.getuid() == 0: os.setuid(65534)  # root may write everywhere
try: RouteLog.open({str(path)!r}).stats()
except DataError as error: print(error)
"""
        said = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True)
        path.parent.chmod(0o755)
        assert "older routing log" in said
        assert "copy it" in said
        path.chmod(0o644)
        with open_log(path) as log:
            assert ids(log) == ["old0", "old1"]


def test_both_stores_have_the_same_tables(tmp_path: Path) -> None:
    with open_log(tmp_path / "routes.db") as log:
        append(log, "a")
    db = sqlite3.connect(tmp_path / "routes.db")
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    ours = {name: [row[1] for row in db.execute(f"PRAGMA table_info({name})")] for name in tables}
    db.close()
    theirs = {
        made[1]: re.findall(r"(?:^|[,(])\s*([a-z][a-z_0-9]*) [A-Z]", made[2])
        for statement in logmigrations.POSTGRES[0].split(";")
        if (made := re.search(r"CREATE TABLE (\w+) (\(.*)", statement, re.DOTALL))
    }
    assert theirs.pop("log_key") == ["key"]  # beside an SQLite file it is a file
    ours = {name: columns for name, columns in ours.items() if not name.startswith("sqlite_")}
    assert {name: sorted(columns) for name, columns in theirs.items()} == {
        name: sorted(columns) for name, columns in ours.items()
    }


def test_an_earlier_version_may_still_write_while_the_new_one_does(tmp_path: Path) -> None:
    old_log(tmp_path / "routes.db", 3)
    with open_log(tmp_path / "routes.db") as log:
        append(log, "new")
        log.flush()
        db = sqlite3.connect(tmp_path / "routes.db")  # as a process that opened it before it was migrated
        sql = f"INSERT INTO rows ({', '.join(OLD_ROW)}) VALUES ({', '.join('?' * len(OLD_ROW))})"
        db.execute(sql, tuple((OLD_ROW | {"id": "old again"}).values()))
        db.commit()
        db.close()
        append(log, "newest")
        assert log.flush() == 2
        assert [row.seq for row in log.rows()] == [1, 2, 4, 5, 6]
        assert ids(log) == ["old0", "old1", "new", "old again", "newest"]
