"""`prerouter review` as a person meets it: the command in a process of its own, its page in Chromium."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, Page, browser, chromium

from prerouter.cli import main

LABELS = ("simple", "moderate", "complex")
TRAP = "<img src=x onerror=\"document.title='gone'\"> & \u202eevil\u202c <b>bold</b>"


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests here."""
    if chromium() is None:
        pytest.skip("no Chromium: apt-get install chromium, or name one in PREROUTER_TEST_BROWSER")
    with browser(tmp_path_factory.mktemp("chrome") / "profile") as started:
        yield started


def _rows(n: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            "id": f"r{i}",
            "text": f"request {i}",
            "label": LABELS[i % 3],
            "votes": {LABELS[i % 3]: 2, LABELS[(i + 1) % 3]: 1},
            "confidence": 0.67,
            "labelled_by": "claude-haiku-5-5",
        }
        for i in range(n)
    ]
    rows[0] |= {"text": TRAP}
    rows[1] = {k: v for k, v in rows[1].items() if k != "text"} | {
        "system": "You are a clerk.",
        "messages": [{"role": "user", "content": "long line\n" * 400 + "and the question?"}],
    }
    return rows


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def _saved(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@contextmanager
def _running(file: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and the address that it prints."""
    command = [sys.executable, "-m", "prerouter", "review", str(file), "--json", *more]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    root = str(Path(__file__).parent.parent)
    with subprocess.Popen(command, text=True, env=os.environ | {"PYTHONPATH": root}, **pipes) as running:
        assert running.stderr
        said = running.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/#\S+", said)
        assert found, said
        try:
            yield running, found[0]
        finally:
            running.kill()


def _opened(chrome: Browser, url: str) -> Page:
    page = chrome.page(url)
    page.wait("document.querySelector('.label')")
    return page


def _press(page: Page, key: str) -> None:
    page.press(key)
    page.wait("!busy")


def _text(page: Page, element: str) -> str:
    return str(page.value(f"document.getElementById('{element}').textContent"))


def _given(page: Page) -> str:
    return str(page.value("document.querySelector('.label.given').dataset.label"))


def test_keys_confirm_correct_undo_and_finish(chrome: Browser, tmp_path: Path) -> None:
    file = _write(tmp_path / "labels.jsonl", _rows(7))
    with _running(file, "--seed", "3") as (running, url):
        page = _opened(chrome, url)
        shown = []
        for key in ("1", "2", "3", "Enter"):  # three labels, and the one that is given
            label = LABELS[int(key) - 1] if key != "Enter" else _given(page)
            shown.append((_text(page, "about"), _given(page), label))
            _press(page, key)
        saved = _saved(tmp_path / "labels.reviewed.jsonl")
        assert [(row["reviewed"]["label"], row["label"]) for row in saved] == [row[1:] for row in shown]
        assert all(about.startswith(f"id {row['id']} ") for row, (about, *_) in zip(saved, shown, strict=True))
        n_corrected = sum(given != label for _, given, label in shown)
        assert f"4 of 7 · {n_corrected} corrected" in _text(page, "standing")
        assert n_corrected > 0
        _press(page, "u")
        assert _text(page, "about") == shown[3][0]
        assert len(_saved(tmp_path / "labels.reviewed.jsonl")) == 3
        _press(page, "s")
        assert _text(page, "about") != shown[3][0]
        for _ in range(4):
            _press(page, "Enter")
        assert page.value("document.getElementById('work').hidden")
        assert _text(page, "result").startswith("7 of 7 rows reviewed")
        page.press("q")
        page.wait("document.getElementById('verdict').textContent.startsWith('Finished')")
        out, _ = running.communicate(timeout=60)
        assert running.returncode == 0
        told = json.loads(out)
        assert (told["done"], told["left"], told["file"]) == (7, 0, str(tmp_path / "labels.reviewed.jsonl"))
        assert told["agreement"]["n_rows"] == 7
        assert page.complaints == []


def test_the_mouse_does_what_the_keys_do_and_enter_after_it_confirms(chrome: Browser, tmp_path: Path) -> None:
    with _running(_write(tmp_path / "x.jsonl", _rows(5))) as (_, url):
        page = _opened(chrome, url)
        page.click("[data-label=complex]")
        page.wait("!busy && shown.standing.done == 1")
        given = _given(page)
        _press(page, "Enter")
        page.click("#undo")
        page.wait("!busy && shown.standing.done == 1")
        assert _given(page) == given
        page.click("#skip")
        page.wait("!busy")
        assert [row["label"] for row in _saved(tmp_path / "x.reviewed.jsonl")] == ["complex"]
        assert page.complaints == []


def test_a_request_is_shown_as_text_whatever_it_holds(chrome: Browser, tmp_path: Path) -> None:
    with _running(_write(tmp_path / "x.jsonl", _rows(2)), "--seed", "1") as (_, url):
        page, seen = _opened(chrome, url), {}
        for _ in range(2):
            seen[_text(page, "about")] = (_text(page, "text"), _text(page, "context"))
            assert page.value("document.querySelectorAll('#text *').length") == 0
            _press(page, "s")
        about = sorted(seen)
        assert seen[about[0]] == (TRAP, "")
        assert seen[about[1]][0].endswith("and the question?")
        assert seen[about[1]][1] == "System: You are a clerk."
        assert page.value("document.title") == "prerouter review"
        assert page.complaints == []


def test_votes_and_meanings_stand_with_the_labels(chrome: Browser, tmp_path: Path) -> None:
    with _running(_write(tmp_path / "x.jsonl", _rows(3)[2:])) as (_, url):
        page = _opened(chrome, url)
        assert _given(page) == "complex"
        votes = page.value("Object.fromEntries([...document.querySelectorAll('.label')].map(l => "
                           "[l.dataset.label, l.querySelector('.votes').textContent]))")  # fmt: skip
        assert votes == {"simple": "●", "moderate": "", "complex": "●●"}
        assert "Labelled complex by claude-haiku-5-5, confidence 0.67." in _text(page, "said")
        assert "One step" in page.value("document.querySelector('[data-label=simple] small').textContent")
        fits = "document.documentElement.scrollHeight <= innerHeight && document.querySelector('#finish')"
        assert page.value(f"{fits}.getBoundingClientRect().bottom <= innerHeight")


def test_held_keys_and_two_tabs_answer_each_row_once(chrome: Browser, tmp_path: Path) -> None:
    with _running(_write(tmp_path / "x.jsonl", _rows(6))) as (_, url):
        one, two = _opened(chrome, url), _opened(chrome, url)
        for repeat in (False, True, True, True):
            key = {"type": "keyDown", "key": "1", "text": "1", "windowsVirtualKeyCode": 49, "autoRepeat": repeat}
            one.command("Input.dispatchKeyEvent", key)
        one.wait("!busy && shown.standing.done == 1")
        _press(two, "2")  # about a row that the first tab has answered
        assert two.value("shown.standing.done") == 1
        assert _text(two, "text") == _text(one, "text")
        assert [row["label"] for row in _saved(tmp_path / "x.reviewed.jsonl")] == ["simple"]


def test_kill_9_keeps_what_was_answered_and_the_page_says_how_to_go_on(chrome: Browser, tmp_path: Path) -> None:
    file = _write(tmp_path / "x.jsonl", _rows(5))
    with _running(file) as (running, url):
        page = _opened(chrome, url)
        _press(page, "1")
        _press(page, "2")
        running.send_signal(signal.SIGKILL)
        running.wait(60)
        _press(page, "3")
        assert "run prerouter review again" in _text(page, "trouble")
        assert page.value("!document.getElementById('trouble').hidden")
    with _running(file) as (_, url):
        page = _opened(chrome, url)
        assert page.value("shown.standing.done") == 2
        _press(page, "u")
        assert page.value("shown.standing.done") == 1


def test_an_address_without_its_token_shows_no_request(chrome: Browser, tmp_path: Path) -> None:
    with _running(_write(tmp_path / "x.jsonl", _rows(3))) as (_, url):
        page = chrome.page(url.split("#")[0])
        page.wait("document.getElementById('trouble')?.hidden === false")
        assert "lacks its token" in _text(page, "trouble")
        assert "request" not in page.value("document.getElementById('text').textContent")


def test_ctrl_c_ends_it_with_130_and_the_summary(tmp_path: Path) -> None:
    with _running(_write(tmp_path / "x.jsonl", _rows(3))) as (running, _):
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert json.loads(out)["done"] == 0
    assert "0 of 3 rows reviewed" in err
    assert not (tmp_path / "x.reviewed.jsonl").exists()


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["-"], "a review needs a file"),
        (["none.jsonl"], "cannot read it"),
        (["x.jsonl", "-o", "x.jsonl"], "the output would overwrite what is read"),
        (["x.jsonl", "--sample", "0"], "not a whole number"),
        (["x.jsonl", "--taxonomy", "none.toml"], "no such file"),
        (["x.jsonl", "--port", "99999"], "99999 is not a port"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_2(more: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    _write(Path("x.jsonl"), _rows(2))
    assert main(["review", *more]) == 2
    err = capsys.readouterr().err
    assert what in err
    assert "Traceback" not in err


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    _write(Path("x.jsonl"), _rows(2))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["review", "x.jsonl", "--port", port]) == 2
    assert f"port {port} cannot be had" in capsys.readouterr().err


def test_two_reviews_of_one_file_do_not_run_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _write(tmp_path / "x.jsonl", _rows(2))
    with _running(file):
        assert main(["review", str(file)]) == 2
    assert "another review of this file is running" in capsys.readouterr().err
