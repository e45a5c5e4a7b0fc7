"""Progress on a real terminal (a pseudo-terminal) and without one."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from prerouter.progress import Progress

class Fast(Progress):
    QUIET_S = 0.0

with open(sys.argv[1], "rb") as source, Fast("routing", source) as progress:
    source.readline()
    progress.advance(1)
"""


def _source(tmp_path: Path) -> str:
    (tmp_path / "rows").write_bytes(b"x\n" * 100_000)
    return str(tmp_path / "rows")


def test_without_a_terminal_a_line_is_printed_with_the_time_left(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, _source(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr.startswith("prerouter: routing: 1 rows, ")
    assert done.stderr.endswith(" s left\n")
    assert "\r" not in done.stderr


def test_on_a_terminal_one_line_is_rewritten(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", SCRIPT, _source(tmp_path)], stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert shown.startswith("\rprerouter: routing: 1 rows, ")
    assert shown.endswith("\x1b[K\r\n")


def test_short_work_shows_nothing_and_a_pipe_has_no_time_left(tmp_path: Path) -> None:
    quiet = SCRIPT.replace("QUIET_S = 0.0", "QUIET_S = 60.0")
    command = [sys.executable, "-c", quiet, _source(tmp_path)]
    assert subprocess.run(command, capture_output=True, check=True).stderr == b""
    piped = SCRIPT.replace('open(sys.argv[1], "rb")', "sys.stdin.buffer")
    done = subprocess.run([sys.executable, "-c", piped], input=b"x\n", capture_output=True, check=True)
    assert done.stderr.startswith(b"prerouter: routing: 1 rows")
    assert b"left" not in done.stderr


def test_a_total_gives_the_time_left(capsys: object) -> None:
    script = SCRIPT.replace('Fast("routing", source)', 'Fast("routing", total=4)').replace(
        "sys.argv[1]", "sys.executable"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert io.StringIO(done.stderr).readline().endswith(" s left\n")
