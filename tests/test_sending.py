"""prerouter send, through the command line and the fake Claude."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_claude import (
    Answer,
    CutJson,
    Error,
    FakeClaude,
    Hang,
    Held,
    MaxTokens,
    Refusal,
    StreamCutClean,
    asks_for_label,
)

from prerouter.cli import main

EASY = "What is the capital of Mongolia?"  # decided locally
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(claude: FakeClaude, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, standard output, standard error of `prerouter send ...`."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", claude.valid_key)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)
    monkeypatch.setenv("PREROUTER_DISPATCH__RETRIES", "0")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["send", *arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def sent(claude: FakeClaude) -> list[Any]:
    """Bodies of the calls that were not the classifier's."""
    return [call.body for call in claude.calls() if not asks_for_label(call.body)]


def test_text_in_answer_out_routing_on_standard_error(claude: FakeClaude, run: Run) -> None:
    code, out, err = run(EASY)
    assert (code, out) == (0, "A simulated answer.\n")
    (line,) = err.splitlines()
    assert line.startswith("prerouter: simple -> claude-haiku-5-5  (")
    assert "1 attempt" in line
    assert "instead of $" in line
    (body,) = sent(claude)
    assert (body["model"], body["max_tokens"]) == ("claude-haiku-5-5", 4096)
    assert "dispatch_config" not in body


def test_flags_reach_the_request(claude: FakeClaude, run: Run, tmp_path: Path) -> None:
    (tmp_path / "system.txt").write_text("Be brief. 你好")
    code, out, _ = run(
        EASY, "--system", str(tmp_path / "system.txt"), "--max-tokens", "900", "--min-tier", "sonnet", "--tag", "a=b",
        "--json",
    )  # fmt: skip
    message = json.loads(out)
    assert (code, message["type"], message["model"]) == (0, "message", "claude-sonnet-5-5")
    assert "routing" not in message
    (body,) = sent(claude)
    assert (body["system"], body["max_tokens"]) == ("Be brief. 你好", 900)


def test_a_named_model_is_sent_to_as_it_is(claude: FakeClaude, run: Run) -> None:
    code, _, err = run(EASY, "--model", "claude-opus-4-8")
    assert (code, "not routed" in err) == (0, True)
    assert [body["model"] for body in sent(claude)] == ["claude-opus-4-8"]


def test_a_body_as_json_and_standard_input(claude: FakeClaude, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {
        "messages": [{"role": "user", "content": EASY}],
        "max_tokens": 700,
        "system": "Own.",
        "stop_sequences": ["x"],
    }
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(body)))
    assert run("-")[0] == 0
    assert {name: sent(claude)[0][name] for name in body} == body


def test_an_answer_is_streamed_as_it_comes(claude: FakeClaude, run: Run) -> None:
    code, out, err = run(EASY, "--stream")
    assert (code, out) == (0, "A simulated answer.\n")
    assert "prerouter: simple ->" in err
    assert sent(claude)[0]["stream"] is True
    code, out, _ = run(EASY, "--stream", "--json")
    assert json.loads(out)["content"][-1]["text"] == "A simulated answer."


@pytest.mark.parametrize(
    ("outcome", "flags", "told"),
    [
        (Error(401), [], "authentication_error"),
        (Error(400), [], "invalid_request_error"),
        (Error(529), [], "overloaded_error"),
        (CutJson(), [], "no whole answer"),
        (StreamCutClean(after="text"), ["--stream"], ""),
        (Refusal("cyber"), [], "the answer has no text (refusal, cyber)"),
        (MaxTokens(), [], "the answer has no text (max_tokens)"),
    ],
)
def test_without_a_reply_it_exits_3(claude: FakeClaude, run: Run, outcome: Any, flags: list[str], told: str) -> None:
    claude.always(outcome)
    code, out, err = run(EASY, *flags)
    assert code == 3
    last = err.splitlines()[-1]
    assert last.startswith("prerouter: error: ")
    assert told in last
    assert EASY not in err
    assert "test-key" not in err
    assert flags or out == ""


def test_json_of_an_error(claude: FakeClaude, run: Run) -> None:
    claude.always(Error(529))
    code, out, _ = run(EASY, "--json")
    assert (code, json.loads(out)["error"]["type"]) == (3, "UpstreamError")


def test_without_a_key_nothing_is_sent(claude: FakeClaude, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    code, out, err = run(EASY)
    assert (code, out) == (3, "")
    assert "set ANTHROPIC_API_KEY" in err
    assert claude.requests == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give a request or --input"),
        ([EASY, "--input", "x"], "one of the two"),
        ([EASY, "--output", "x"], "--output goes with --input"),
        (["--input", "x", "--stream"], "--stream is for one request"),
        ([EASY, "--system", "missing.txt"], "missing.txt"),
        ([EASY, "--min-tier", "huge"], "huge"),
        ([EASY, "--concurrency", "0"], "0 is not"),
        ([EASY, "--tag", "x"], "'x' is not K=V"),
        (["  "], "nothing to send"),
        (['{"messages": 5}'], ""),
        (["--input", "missing.jsonl"], "missing.jsonl"),
        ([EASY, "--frobnicate"], "--frobnicate"),
    ],
)
def test_usage_errors_exit_2_and_send_nothing(claude: FakeClaude, run: Run, arguments: list[str], told: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("prerouter: error: ")
    assert told in err
    assert claude.requests == []


def test_a_file_comes_back_in_order_with_ids(claude: FakeClaude, run: Run, tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "Own body."}], "max_tokens": 50, "model": "claude-opus-4-8"}
    rows = [{"text": EASY, "label": "simple", "votes": {"simple": 1}}, {"id": "b", **body}, {"id": 3, "text": "C"}]
    source, target = write(tmp_path / "in.jsonl", rows[0], "", *rows[1:]), tmp_path / "out.jsonl"
    release = iter([Answer("one", delay_s=0.3), Answer("two"), Answer("three")])
    claude.draw = lambda: next(release, Answer())
    code, out, err = run(
        "--input", source, "--output", str(target), "--concurrency", "1", "--json", "--priority", "speed"
    )
    assert code == 0
    found = lines(target)
    assert [row["id"] for row in found] == ["1", "b", "3"]
    assert [row["message"]["content"][-1]["text"] for row in found] == ["one", "two", "three"]
    assert found[0]["routing"]["decision"]["label"] == "simple"
    assert found[1]["routing"] is None
    told = json.loads(out)
    assert (told["rows"], told["answered"], told["failed"]) == (3, 3, 0)
    assert "3 replies" in err
    assert all({"label", "votes", "id"}.isdisjoint(body) for body in sent(claude))


def test_a_row_that_fails_is_told_and_the_others_go_on(claude: FakeClaude, run: Run, tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", *[{"text": f"{EASY} ({i})"} for i in range(6)]), tmp_path / "o.jsonl"
    claude.always(Error(400), when=lambda body: "(3)" in json.dumps(body["messages"]))
    code, _, err = run("--input", source, "--output", str(target), "--concurrency", "6")
    assert code == 1
    found = lines(target)
    assert [row["id"] for row in found] == [str(i) for i in range(1, 7)]
    assert ["error" in row for row in found] == [False] * 3 + [True] + [False] * 2
    assert "(3)" not in json.dumps(found[3])
    assert "1 without a reply" in err


def test_a_wrong_key_stops_at_once_and_keeps_the_old_output(claude: FakeClaude, run: Run, tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", *[{"text": f"{i}"} for i in range(200)]), tmp_path / "out.jsonl"
    target.write_text("old\n")
    claude.always(Error(401))
    code, _, err = run("--input", source, "--output", str(target), "--priority", "speed")
    assert (code, target.read_text()) == (3, "old\n")
    assert "authentication_error" in err
    assert len(claude.calls()) < 50


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{", "not a line of JSON"),
        ("[]", "must be a JSON object"),
        ('{"x": 1}', "neither"),
        ('{"text": " "}', "nothing to send"),
    ],
)
def test_a_broken_line_is_found_before_anything_is_sent(
    claude: FakeClaude, run: Run, tmp_path: Path, row: str, told: str
) -> None:
    source = write(tmp_path / "in.jsonl", *[{"text": EASY}] * 5, row)
    code, _, err = run("--input", source, "--output", str(tmp_path / "out.jsonl"))
    assert code == 2
    assert told in err
    assert "line 6" in err
    assert claude.requests == []
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_takes_nothing(claude: FakeClaude, run: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", *[{"text": EASY}] * 100)
    code, _, err = run("--input", source, "--output", "/dev/full")
    assert (code, "No space left" in err) == (2, True)
    assert len(sent(claude)) < 50


def test_interrupted_it_keeps_what_was_paid_for(claude: FakeClaude, tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", *[{"text": EASY}] * 9), tmp_path / "out.jsonl"
    claude.script(Answer(), Answer(), Answer())
    claude.always(Hang())
    keys = {"ANTHROPIC_API_KEY": claude.valid_key, "ANTHROPIC_BASE_URL": claude.url}
    command = ["send", "--input", source, "--output", str(target), "--concurrency", "2"]
    environ = {**os.environ, **keys, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-m", "prerouter", *command], env=environ, stderr=subprocess.PIPE
    ) as process:
        claude.wait_for_calls(5, 60)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr
        process.stderr.read()
    assert len([line for line in lines(target) if "message" in line]) == 3


def test_standard_input_and_output(claude: FakeClaude, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO(f'{{"text": "{EASY}"}}\n{{"text": "{EASY}"}}\n'.encode())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(raw, encoding="utf-8"))
    code, out, _ = run("--input", "-")
    assert (code, [json.loads(line)["id"] for line in out.splitlines()]) == (0, ["1", "2"])


def test_requests_are_sent_at_a_time(claude: FakeClaude, run: Run, tmp_path: Path) -> None:
    release = threading.Event()
    source, target = write(tmp_path / "in.jsonl", *[{"text": f"{EASY} {i}"} for i in range(12)]), tmp_path / "out.jsonl"
    claude.always(Held(release))

    def wait() -> None:
        claude.wait_for_calls(8, 20)
        release.set()

    threading.Thread(target=wait).start()
    arguments = ("--input", source, "--output", str(target), "--concurrency", "8", "--priority", "speed")
    assert run(*arguments)[0] == 0
    assert claude.in_flight_max == 8


def test_rows_have_models_and_dispatch_configs_of_their_own(claude: FakeClaude, run: Run, tmp_path: Path) -> None:
    rows = [
        {"text": EASY, "dispatch_config": {"min_tier": "sonnet"}},
        {"text": EASY, "model": "claude-opus-4-8"},
        {"text": EASY, "dispatch_config": {"mni_tier": "sonnet"}},
    ]
    source, target = write(tmp_path / "in.jsonl", *rows), tmp_path / "out.jsonl"
    code, _, _ = run("--input", source, "--output", str(target), "--tag", "team=x", "--concurrency", "1")
    assert code == 1
    found = lines(target)
    assert [row["message"]["model"] for row in found[:2]] == ["claude-sonnet-5-5", "claude-opus-4-8"]
    assert found[2]["error"]["type"] == "ConfigError"
