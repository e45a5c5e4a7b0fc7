"""The file of reviewed rows survives what ends a process, and one process has it at a time."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerouter.errors import ConfigError, DataError
from prerouter.reviewed import Saved, key_of


def _row(number: int, label: str = "simple") -> dict[str, Any]:
    return {"text": f"request {number}", "label": label, "reviewed": {"label": "complex", "chosen": "random"}}


def _append(saved: Saved, number: int, label: str = "simple") -> None:
    saved.append(key_of(_row(number)), _row(number, label))


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_what_was_appended_is_there_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    saved = Saved(path)
    _append(saved, 1)
    _append(saved, 2, "moderate")
    saved.close()
    again = Saved(path)
    assert [answer.label for answer in again.answers.values()] == ["simple", "moderate"]
    assert key_of(_row(1)) in again
    assert again.last == key_of(_row(2))
    assert _rows(path) == [_row(1), _row(2, "moderate")]
    again.close()


@given(st.lists(st.one_of(st.integers(0, 5), st.just("undo"), st.just("restart")), max_size=30))
def test_any_sequence_of_answers_undos_and_restarts_is_kept(acts: list[Any]) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path, kept = Path(folder) / "x.jsonl", list[int]()
        saved = Saved(path)
        for act in acts:
            if act == "restart":
                saved.close()
                saved = Saved(path)
            elif act == "undo" and kept:
                assert saved.take_back() == key_of(_row(kept.pop()))
            elif act != "undo" and act not in kept:
                _append(saved, act)
                kept.append(act)
            assert list(saved.answers) == [key_of(_row(number)) for number in kept]
        saved.close()
        assert (_rows(path) if path.exists() else []) == [_row(number) for number in kept]


@pytest.mark.parametrize("torn", [b'{"text": "cut', b'{"text": "\xf0\x9f', b'{"text": "' + b"x" * 200_000])
def test_a_line_that_a_crash_cut_off_is_dropped(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "x.jsonl"
    whole = (json.dumps(_row(1)) + "\n").encode()
    path.write_bytes(whole + torn)
    saved = Saved(path)
    assert list(saved.answers) == [key_of(_row(1))]
    _append(saved, 2)
    saved.close()
    assert _rows(path) == [_row(1), _row(2)]


def test_kill_9_at_any_time_loses_no_answer_that_was_acknowledged(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from prerouter.reviewed import Saved
saved = Saved(Path(sys.argv[1]))
for number in range(10**6):
    saved.append(str(number), {"text": f"request {number}", "label": "simple"})
    print(number, flush=True)
"""
    path = tmp_path / "x.jsonl"
    for start in range(3):
        path.unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as writing:
            assert writing.stdout
            told = [int(writing.stdout.readline()) for _ in range(5 + 40 * start)]
            os.kill(writing.pid, signal.SIGKILL)
            told += [int(line) for line in writing.stdout if line.endswith(b"\n")]
        saved = Saved(path)
        assert len(saved.answers) in (len(told), len(told) + 1)
        assert [row["text"] for row in _rows(path)][: len(told)] == [f"request {number}" for number in told]
        saved.close()


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    saved = Saved(path)
    _append(saved, 1)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            _append(saved, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == before
    _append(saved, 3)
    saved.close()
    assert _rows(path) == [_row(1), _row(3)]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    saved = Saved(path)
    with pytest.raises(ConfigError, match="another review of this file is running"):
        Saved(path)
    _append(saved, 1)
    saved.close()
    Saved(path).close()
    assert _rows(path) == [_row(1)]


def test_a_file_that_was_never_written_to_goes(tmp_path: Path) -> None:
    Saved(tmp_path / "x.jsonl").close()
    assert not (tmp_path / "x.jsonl").exists()


def test_a_last_row_without_a_line_break_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(_row(1)), "utf-8")
    saved = Saved(path)
    _append(saved, 2)
    saved.close()
    assert _rows(path) == [_row(1), _row(2)]


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\0\0", b"no rows", b'{"text": "x"}\nno row', b'{\n"a": 1\n}'])
def test_a_file_that_is_not_ours_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError):
        Saved(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("line", ["not JSON", "[1]"])
def test_a_broken_line_in_the_middle_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f"{json.dumps(_row(1))}\n{line}\n{json.dumps(_row(2))}\n", "utf-8")
    with pytest.raises(DataError) as caught:
        Saved(path)
    assert caught.value.line == 2
    Path(path).write_text("", "utf-8")
    Saved(path).close()  # the lock was let go


def test_rows_with_the_same_request_have_the_same_key() -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "system": "y"}
    assert key_of(body | {"id": 1, "label": "simple"}) == key_of(dict(reversed(body.items())))
    assert key_of(body) != key_of(body | {"system": "z"})
    assert key_of({"text": "\ud800"}) != key_of({"text": "x"})
