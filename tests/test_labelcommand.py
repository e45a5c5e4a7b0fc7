"""`prerouter label` as a command in a process of its own: exit codes, output, Ctrl-C, kill -9."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from fake_claude import Answer, Error, FakeClaude
from label_help import asked_texts, errors, finish, read, rows_file, start, texts

from prerouter.cli import main


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return rows_file(tmp_path / "in.jsonl", texts(12))


@pytest.fixture
def key(claude: FakeClaude, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", claude.valid_key)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)


@pytest.mark.usefixtures("key")
def test_json_is_one_object_with_the_promised_keys(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = source.with_name("out.jsonl")
    assert main(["label", str(source), "-o", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    wanted = {"rows", "labelled", "failed", "skipped_duplicates", "cost_usd", "input_tokens", "output_tokens"}
    assert wanted | {"distribution", "seconds"} <= set(found)
    assert found["labelled"] == 12
    assert "12 of 12 rows labelled (moderate 12)" in printed.err
    assert main(["label", str(source), "-o", str(out)]) == 0
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.usefixtures("key")
def test_unanswered_rows_exit_1_and_name_their_file(
    claude: FakeClaude, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claude.script(*[Answer()] * 8, Error(400))
    assert main(["label", str(source), "-o", str(source.with_name("out.jsonl"))]) == 1
    assert "1 rows without an answer" in capsys.readouterr().err


@pytest.mark.usefixtures("key")
def test_refused_by_claude_exits_3_with_one_line(
    claude: FakeClaude, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claude.always(Error(401))
    assert main(["label", str(source), "-o", str(source.with_name("out.jsonl")), "--json"]) == 3
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["type"] == "UpstreamError"
    assert "Traceback" not in printed.err


def test_calls_that_fail_together_leave_no_traceback(claude: FakeClaude, source: Path) -> None:
    """The first failure stops the run; those of the other open calls are asyncio's to complain about."""
    claude.always(Error(401))
    for _ in range(3):
        code, _, err = finish(start(claude, source, "-o", source.with_name("out.jsonl")))
        assert (code, err.count("prerouter: error:"), "Traceback" in err) == (3, 1, False)


@pytest.mark.usefixtures("key")
def test_the_cap_exits_1(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["label", str(source), "-o", str(source.with_name("out.jsonl")), "--max-usd", "0.0006", "--json"])
    assert code == 1
    assert json.loads(capsys.readouterr().out)["cost_usd"] <= 0.0006


@pytest.mark.parametrize(
    "more",
    [["--max-usd", "free"], ["--votes", "0"], ["--batch", "--live"], ["--stratify"], [], ["--poll-seconds", "-1"]],
)
def test_usage_exits_2(source: Path, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    output = ["-o", str(source.with_name("out.jsonl"))] if more else []
    assert main(["label", str(source), *output, *more]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.usefixtures("key")
def test_the_estimate_is_near_the_bill_and_sends_no_request(
    claude: FakeClaude, source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["label", str(source), "--estimate", "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)
    assert claude.calls() == []
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    n = len(claude.requests)
    assert main(["label", str(source), "--estimate", "--json"]) == 0
    offline = json.loads(capsys.readouterr().out)
    assert len(claude.requests) == n
    monkeypatch.setenv("ANTHROPIC_API_KEY", claude.valid_key)
    assert main(["label", str(source), "-o", str(source.with_name("out.jsonl")), "--json"]) == 0
    billed = json.loads(capsys.readouterr().out)
    assert (counted["method"], offline["method"]) == ("count_tokens", "offline")
    assert counted["input_tokens"] == pytest.approx(billed["input_tokens"], rel=0.01)
    assert offline["input_tokens"] == pytest.approx(billed["input_tokens"], rel=0.3)
    assert counted["usd_batch"] == pytest.approx(counted["usd_live"] / 2, abs=1e-6)
    assert set(counted) >= {"rows", "input_tokens", "output_tokens", "usd_live", "usd_batch", "seconds_live", "method"}


def test_ctrl_c_keeps_what_was_answered(claude: FakeClaude, tmp_path: Path) -> None:
    claude.draw = lambda: Answer(delay_s=0.1)
    source, out = rows_file(tmp_path / "in.jsonl", texts(300)), tmp_path / "out.jsonl"
    process = start(claude, source, "-o", out)
    claude.wait_for_calls(40, 60)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert (code, out.exists()) == (130, False)
    assert "Traceback" not in err
    answered = len(claude.calls())
    code, _, err = finish(start(claude, source, "-o", out))
    assert code == 0, err
    assert len(claude.calls()) <= 300 + min(answered, 60)  # no more than was open is asked again
    assert [row["text"] for row in read(out)] == texts(300)


def test_kill_9_loses_nothing_and_repeats_only_open_calls(claude: FakeClaude, tmp_path: Path) -> None:
    claude.draw = lambda: Answer(delay_s=random.random() / 10)
    source, out = rows_file(tmp_path / "in.jsonl", texts(300)), tmp_path / "out.jsonl"
    dice, kills = random.Random(1), 5
    for _ in range(kills):
        process = start(claude, source, "-o", out, "--concurrency", 8)
        claude.wait_for_calls(len(claude.calls()) + dice.randrange(40), 60)
        time.sleep(dice.random() / 4)
        process.kill()
        finish(process)
        assert not out.exists()
    code, _, err = finish(start(claude, source, "-o", out, "--concurrency", 8))
    assert (code, errors(out)) == (0, []), err
    assert [row["id"] for row in read(out)] == [f"r{i}" for i in range(300)]
    asked = Counter(asked_texts(claude))
    # Open were 8, some answered but not on disk yet; and a busy machine may make a call look hung.
    assert sum(asked.values()) - 300 <= kills * 8 * 2
    code, _, err = finish(start(claude, source, "-o", out))
    assert (code, len(claude.calls())) == (0, sum(asked.values()))
    assert "nothing to do" in err


def test_two_runs_do_not_share_an_output(claude: FakeClaude, tmp_path: Path) -> None:
    claude.draw = lambda: Answer(delay_s=0.2)
    source, out = rows_file(tmp_path / "in.jsonl", texts(100)), tmp_path / "out.jsonl"
    first = start(claude, source, "-o", out, "--concurrency", 2)
    claude.wait_for_calls(2, 60)
    code, _, err = finish(start(claude, source, "-o", out))
    assert (code, err.count("\n")) == (2, 1)
    assert "another prerouter label is at work" in err
    first.kill()
    finish(first)
