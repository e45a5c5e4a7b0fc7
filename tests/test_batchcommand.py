"""`prerouter batch`: submit, status, results; interrupted, killed, too dear, wrong."""

from __future__ import annotations

import datetime
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_claude import Answer, Error, FakeClaude, Lost, asks_for_label
from fake_claude_batches import BATCHES
from label_help import finish, read, rows_file
from model_help import save

from prerouter.cli import main

TEXTS = ["easy 1", "hard 2", "Prove that 3", "easy 1"]


@pytest.fixture
def source(claude: FakeClaude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of requests, in a workspace with the tiny model and a key."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", claude.valid_key)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)
    save(tmp_path / "models" / "tiny")
    (tmp_path / "cwd" / "prerouter.toml").write_text(
        f'model = "{tmp_path}/models/tiny"\n[classifier]\ndeadline_s = 60\n[label]\npoll_s = 0.05\n'
    )
    return rows_file(tmp_path / "in.jsonl", TEXTS)


def prerouter(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error of `prerouter batch`."""
    code = main(["batch", *map(str, args)])
    out, err = capsys.readouterr()
    return code, out, err


def start(*args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-m", "prerouter", "batch", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_submit_status_results(
    claude: FakeClaude, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claude.batches.seconds = 3600
    code, out, err = prerouter(capsys, "submit", source)
    name = out.strip()
    assert (code, len(claude.batches.all)) == (0, 1), err
    assert "4 items" in err
    assert "1 equal to another" in err
    code, out, err = prerouter(capsys, "results", name, "--json")
    assert (code, json.loads(out)["processing_status"]) == (1, "in_progress")
    code, out, err = prerouter(capsys, "status", name, "--json")
    told = json.loads(out)
    assert (code, told["id"], told["request_counts"]["processing"]) == (0, name, 4)
    assert told["by_model"] == {"claude-haiku-5-5": 2, "claude-opus-5-5": 2}

    claude.batches.all["msgbatch_fake0000"].ends = 0
    output = tmp_path / "out.jsonl"
    code, out, err = prerouter(capsys, "results", "--wait", "-o", output, "--json")
    assert code == 0, err
    assert [(row["id"], row["message"]["model"]) for row in read(output)] == [
        *(("r0", "claude-haiku-5-5"), ("r1", "claude-opus-5-5"), ("r2", "claude-opus-5-5"), ("r3", "claude-haiku-5-5")),
    ]
    told = json.loads(out)
    assert (told["rows"], told["answered"], told["failed"]) == (4, 4, 0)
    assert told["cost_usd"] == pytest.approx(sum(row["routing"]["cost_usd"] for row in read(output)), abs=1e-8)
    code, out, err = prerouter(capsys, "status")
    assert (code, out.split()[:2]) == (0, [name, "ended"])


def test_the_same_command_sends_nothing_twice(
    claude: FakeClaude, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {prerouter(capsys, "submit", source)[1] for _ in range(2)}
    assert (len(names), len(claude.batches.all), len(claude.calls())) == (1, 1, 1)


def test_killed_between_acceptance_and_reply(
    claude: FakeClaude, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claude.script(Lost(3600), path=BATCHES)
    process = start("submit", source)
    _until(lambda: len(claude.batches.all) == 1)
    process.kill()
    finish(process, 300)
    code, _, err = prerouter(capsys, "submit", source)
    assert code == 0, err
    code, out, err = prerouter(capsys, "results", "--wait")
    assert (code, len(out.splitlines())) == (0, 4), err
    assert (len(claude.batches.all), len(claude.calls()), len(claude.batches.paid)) == (1, 1, 3)


def test_at_waits_and_ctrl_c_loses_nothing(claude: FakeClaude, source: Path) -> None:
    later = datetime.datetime.now() + datetime.timedelta(hours=2)
    process = start("submit", source, "--at", f"{later:%H:%M}")
    assert process.stderr
    seen = ""
    while "waiting until" not in seen:
        seen += process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert finish(process, 300)[0] == 130
    assert claude.requests == []


def test_at_a_time_that_comes(claude: FakeClaude, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soon = datetime.datetime.now() + datetime.timedelta(seconds=3)
    assert prerouter(capsys, "submit", source, "--at", f"{soon:%H:%M:%S}")[0] == 0
    assert datetime.datetime.now() >= soon.replace(microsecond=0)
    assert len(claude.batches.all) == 1


def test_estimate_and_cap(claude: FakeClaude, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = prerouter(capsys, "submit", source, "--estimate", "--json")
    told = json.loads(out)
    assert (code, told["items"], told["different"], told["undecided"]) == (0, 4, 3, 1), err
    assert 0 < told["usd_expected"] < told["usd_at_most"]
    code, out, err = prerouter(capsys, "submit", source, "--max-usd", 0.0001, "--json")
    assert (code, json.loads(out)["error"]["type"]) == (1, "BudgetExceeded")
    assert "nothing was sent" in err
    assert claude.batches.all == {}
    assert prerouter(capsys, "submit", source, "--max-usd", 5)[0] == 0
    assert len(claude.calls()) == 1  # what was decided is not asked again
    most = told["usd_at_most"]
    prerouter(capsys, "results", "--wait", "-o", "out.jsonl")
    assert sum(row["routing"]["cost_usd"] for row in read(Path("out.jsonl"))) < most


def test_an_estimate_needs_no_key(source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert prerouter(capsys, "submit", source, "--estimate")[0] == 0
    code, _, err = prerouter(capsys, "submit", source)
    assert (code, "no key" in err) == (3, True)


def test_lines_of_the_api_s_own_kind_and_rows_that_fail(
    claude: FakeClaude, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"custom_id": "own", "params": {"model": "claude-opus-5", "max_tokens": 9, "messages": _says("easy")}},
        {"custom_id": "routed", "params": {"messages": _says("easy")}, "dispatch_config": {"min_tier": "opus"}},
        {"text": "easy", "max_tokens": 0},
        {"id": 7, "text": "hard"},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    claude.batches.outcome = lambda name: "expired" if name.endswith("-3") else Answer()
    code, _, err = prerouter(capsys, "submit", source)
    assert (code, "1 that cannot be sent" in err) == (1, True)
    code, out, _ = prerouter(capsys, "results", "--wait")
    told = [json.loads(line) for line in out.splitlines()]
    assert (code, [line["id"] for line in told]) == (1, ["own", "routed", "3", "7"])
    assert [line["message"]["model"] for line in told[:2]] == ["claude-opus-5", "claude-opus-5-5"]
    assert told[0]["routing"] is None
    assert "max_tokens is 0" in told[2]["error"]["message"]
    assert told[3]["error"]["type"] == "expired"


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        ('{"text": "easy"}\n{"text": \n', 2, "not a line of JSON"),
        ('{"text": "easy"}\n\n{"txt": "easy"}\n', 3, "neither `text` nor `messages`"),
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', 2, "that of line 1 too"),
        ('{"id": [], "text": "x"}\n', 1, "neither a text nor a number"),
        ('{"params": {"max_tokens": 5}}\n', 1, "no request with messages"),
        ('{"text": "x", "dispatch_config": 5}\n', 1, "not an object"),
        ("", 0, "no request in it"),
    ],
)
def test_wrong_files(
    claude: FakeClaude, source: Path, capsys: pytest.CaptureFixture[str], content: str, line: int, what: str
) -> None:
    source.write_text(content)
    code, _, err = prerouter(capsys, "submit", source)
    assert (code, err.count("\n"), claude.requests) == (2, 1, [])
    assert what in err
    assert (f"{source}, line {line}" if line else str(source)) in err


def test_wrong_usage(claude: FakeClaude, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args, what in [
        (("submit", source, "--at", "noon"), "no time of day"),
        (("submit", source, "--min-tier", "huge"), "huge"),
        (("status", "prbatch_000000000000000000000000"), "no batch"),
        (("results",), "no batch is known"),
        (("results", "nonsense"), "no batch"),
        (("submit", "missing.jsonl"), "missing.jsonl"),
    ]:
        code, _, err = prerouter(capsys, *args)
        assert (code, what in err) == (2, True), err


def test_a_refusal_of_the_api_exits_3_and_the_same_command_goes_on(
    claude: FakeClaude, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claude.script(Error(402), path=BATCHES)
    code, _, err = prerouter(capsys, "submit", source)
    assert (code, "HTTP 402" in err) == (3, True)
    assert prerouter(capsys, "submit", source)[0] == 0
    assert len([call for call in claude.calls() if asks_for_label(call.body)]) == 1


def _says(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _until(true: Any) -> None:
    until = time.monotonic() + 300
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)
