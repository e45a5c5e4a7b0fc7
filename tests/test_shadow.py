"""`prerouter shadow` from outside, against a fake Claude: sampling, resuming, caps, faults, what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import model_help
import pytest
from fake_claude import Answer, Error, FakeClaude
from shadow_help import HAIKU, OPUS, judging, prefers, usage_file, usage_row

from prerouter import cli

SECRET = "sk-ant-api03-" + "x" * 40


@pytest.fixture
def keyed(claude: FakeClaude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeClaude:
    """A fake Claude that the environment names, in a workspace whose champion knows `easy` and `hard`."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", claude.valid_key)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)
    model_help.workspace(tmp_path / "ws")
    model_help.save(tmp_path / "ws" / "models" / "mine")
    (tmp_path / "ws" / "models" / "champion").symlink_to("mine")
    monkeypatch.setenv("PREROUTER_WORKSPACE", str(tmp_path / "ws"))
    claude.answer = judging(prefers("simulated"))
    return claude


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any, str]:
    code = cli.main(["shadow", *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


def rows(n: int) -> list[dict[str, Any]]:
    return [usage_row(f"easy please do this {'task ' * (i % 4)}", id=f"r{i}") for i in range(n)]


def test_won_tied_lost_per_route(keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = usage_file(tmp_path / "u.jsonl", [*rows(4), usage_row("hard please"), usage_row("easy please", HAIKU)])
    code, found, _ = run(capsys, file, "-o", tmp_path / "pairs.jsonl", "--local-only")
    assert code == 0
    assert (found["sampled"], found["same"], found["made"]) == (6, 2, 4)  # hard stays with opus, easy with haiku
    route = found["pairs"]["by_route"][f"{OPUS} -> {HAIKU}"]
    assert (route["n"], route["won"]["share"]) == (4, 1.0)
    assert 0 < found["pairs"]["all"]["saved"]["share"] < 1
    assert found["usd"] > 0
    assert {call.model for call in keyed.calls()} == {OPUS, HAIKU}


def test_the_same_command_again_goes_on(keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, pairs = usage_file(tmp_path / "u.jsonl", rows(6)), tmp_path / "pairs.jsonl"
    run(capsys, file, "-o", pairs, "--local-only")
    kept = pairs.read_text().splitlines(keepends=True)
    pairs.write_text("".join(kept[:2]) + kept[2][:30])  # killed while it wrote the third
    calls = len(keyed.calls())
    code, found, _ = run(capsys, file, "-o", pairs, "--local-only")
    assert (code, found["made"], found["pairs"]["all"]["n"]) == (0, 4, 6)
    assert len(keyed.calls()) - calls == 8
    assert len(pairs.read_text().splitlines()) == 6


def test_a_cap_ends_the_run_with_exit_1(keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = usage_file(tmp_path / "u.jsonl", rows(20))
    code, found, err = run(capsys, file, "-o", tmp_path / "p.jsonl", "--local-only", "--max-usd", "0.15")
    assert (code, found["usd"] <= 0.15) == (1, True)
    assert found["left_out"]["capped"] + found["made"] == 20
    assert "capped" in err


def test_an_estimate_sends_nothing_and_needs_no_key(
    tmp_path: Path, claude: FakeClaude, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)
    model_help.save(tmp_path / "m")
    file = usage_file(tmp_path / "u.jsonl", rows(3))
    code, found, _ = run(capsys, file, "--model", tmp_path / "m", "--estimate")
    assert (code, claude.requests) == (0, [])
    assert 0 < found["estimate_usd"] < 0.1
    assert cli.main(["shadow", str(file), "--model", str(tmp_path / "m"), "-o", str(tmp_path / "p.jsonl")]) == 2
    assert "needs a key" in capsys.readouterr().err


def test_what_local_leaves_open_is_asked_about(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = usage_file(tmp_path / "u.jsonl", [usage_row("do this now")])
    code, found, err = run(capsys, file, "-o", tmp_path / "p.jsonl", "--local-only")
    assert (code, found["left_out"]) == (0, {"undecided": 1})
    assert "not compared: undecided" in err
    code, found, _ = run(capsys, file, "-o", tmp_path / "p.jsonl")
    assert (code, found["made"]) == (0, 1)  # the fake labels it simple
    assert len(keyed.calls()) == 3


def test_a_claude_that_refuses_all_calls_is_exit_3(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keyed.always(Error(401, SECRET, SECRET, f"invalid x-api-key {SECRET}", headers={"request-id": SECRET}))
    file = usage_file(tmp_path / "u.jsonl", rows(8))
    code = cli.main(["shadow", str(file), "-o", str(tmp_path / "p.jsonl"), "--local-only"])
    out, err = capsys.readouterr()
    assert code == 3
    assert "does not answer" in err
    assert SECRET not in out + err + (tmp_path / "p.jsonl").read_text()
    assert len(keyed.calls()) <= 4  # what was on its way when the first came back


def test_one_that_fails_later_is_exit_1_and_keeps_what_was_made(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keyed.script(*[Answer()] * 2, *[Error(400)] * 4)
    file = usage_file(tmp_path / "u.jsonl", rows(4))
    code, found, _ = run(capsys, file, "-o", tmp_path / "p.jsonl", "--local-only", "--concurrency", "1")
    assert (code, found["made"] + found["left_out"]["failed"]) == (1, 4)


def test_the_sample_is_uniform_and_the_same_for_its_seed(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = usage_file(tmp_path / "u.jsonl", rows(60))

    def ids(seed: int) -> set[str]:
        pairs = tmp_path / f"{seed}.{len(list(tmp_path.iterdir()))}.jsonl"
        run(capsys, file, "-o", pairs, "--local-only", "--sample", "10", "--seed", seed)
        return {json.loads(line)["id"] for line in pairs.read_text().splitlines()}

    assert ids(1) == ids(1)
    assert len(ids(1)) == 10
    assert ids(1) != ids(2)


def test_rows_without_an_answer_to_compare_with_are_no_sample(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = usage_row("easy please")
    cut["response"]["stop_reason"] = "max_tokens"
    unknown, silent = usage_row("easy please", "gpt-5"), usage_row("easy please")
    del silent["response"]["content"]
    file = usage_file(tmp_path / "u.jsonl", [cut, unknown, silent])
    assert cli.main(["shadow", str(file), "-o", str(tmp_path / "p.jsonl")]) == 2
    assert "no row can be compared" in capsys.readouterr().err


def test_broken_rows_are_named_or_left_out(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = usage_file(tmp_path / "u.jsonl", rows(1))
    file.write_text(file.read_text() + "{broken\n")
    assert cli.main(["shadow", str(file), "-o", str(tmp_path / "p.jsonl")]) == 2
    assert "line 2" in capsys.readouterr().err
    assert run(capsys, file, "-o", tmp_path / "p.jsonl", "--skip-bad", "--local-only")[0] == 0


def test_no_text_is_in_the_file_of_pairs(keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = usage_file(tmp_path / "u.jsonl", [usage_row(f"easy please {SECRET}", answer=f"Yes. {SECRET}")])
    run(capsys, file, "-o", tmp_path / "p.jsonl", "--local-only")
    kept = (tmp_path / "p.jsonl").read_text()
    assert "pair" not in kept
    assert SECRET not in kept
    assert "easy" not in kept


def test_people_get_a_table(keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = usage_file(tmp_path / "u.jsonl", rows(3))
    assert cli.main(["shadow", str(file), "-o", str(tmp_path / "p.jsonl"), "--local-only"]) == 0
    out = capsys.readouterr().out
    assert f"{OPUS} -> {HAIKU}" in out
    assert "Blind, in random order" in out
    assert cli.main(["shadow", str(file)]) == 2
    assert "nowhere to put the pairs" in capsys.readouterr().err
