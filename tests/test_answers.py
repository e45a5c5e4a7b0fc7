"""`prerouter evaluate --answers` from outside, against a fake Claude: who wins, resuming, caps, wrong files, output."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import model_help
import pytest
from fake_claude import Error, FakeClaude, Hang, Refusal
from shadow_help import HAIKU, OPUS, SONNET, judging, prefers

from prerouter import cli
from prerouter.files import shipped

ONE, MANY = "One prompt wrote this.", "A specialist wrote this."
SECRET = "sk-ant-api03-" + "x" * 40
PROMPT = "You do all of it, whatever it is."


def speaking(judge: Any) -> Any:
    """Answers that say which side they are of, judged by `judge`."""
    ruled = judging(judge)

    def answer(body: Mapping[str, Any]) -> Mapping[str, Any] | str:
        if body.get("output_config"):
            return ruled(body)  # type: ignore[no-any-return]
        return ONE if PROMPT in json.dumps(body.get("system", "")) else MANY

    return answer


@pytest.fixture
def keyed(claude: FakeClaude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeClaude:
    """A fake Claude that the environment names, in a workspace whose champion knows `easy` and `hard`."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", claude.valid_key)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)
    model_help.workspace(tmp_path / "ws")
    model_help.save(tmp_path / "ws" / "models" / "mine")
    (tmp_path / "ws" / "models" / "champion").symlink_to("mine")
    monkeypatch.setenv("PREROUTER_WORKSPACE", str(tmp_path / "ws"))
    (tmp_path / "monolith.md").write_text(PROMPT)
    claude.answer = speaking(prefers(MANY))
    return claude


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def requests(n: int, word: str = "easy", **fields: Any) -> list[dict[str, Any]]:
    return [{"id": f"{word}{i}", "text": f"{word} please do this {i}", **fields} for i in range(n)]


def arguments(tmp_path: Path, file: Path, *more: object) -> list[str]:
    sides = ("--taxonomy", shipped("labels/complexity.toml"), "--against-prompt", tmp_path / "monolith.md")
    return ["evaluate", "--answers", str(file), *map(str, sides), *map(str, more)]


def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, file: Path, *more: object) -> tuple[int, Any, str]:
    code = cli.main([*arguments(tmp_path, file, *more), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


@pytest.mark.parametrize(("winner", "finding", "won"), [(MANY, "better", 1.0), (ONE, "worse", 0.0)])
def test_the_known_winner_comes_out(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str], winner: str, finding: str, won: float
) -> None:
    keyed.answer = speaking(prefers(winner))
    file = write(tmp_path / "r.jsonl", [*requests(8), *requests(2, "hard")])
    code, found, _ = run(capsys, tmp_path, file, "-o", tmp_path / "p.jsonl")
    assert (code, found["made"], found["finding"]) == (0, 10, finding)
    assert (found["all"]["won"]["share"], found["all"]["lost"]["share"]) == (won, 1 - won)
    assert {name: route["n"] for name, route in found["by_route"].items()} == {"simple": 8, "complex": 2}
    assert (found["against_model"], found["judge"]) == (OPUS, OPUS)
    assert found["first_place"]["n"] == 10
    assert found["all"]["won"]["lower"] == pytest.approx(0.025 ** (1 / 10) if won else 0.0)  # exact
    assert found["seconds"]["specialists"]["n"] == found["seconds"]["one_prompt"]["n"] == 10


def test_cost_is_what_was_billed_and_each_side_gets_its_own_prompt(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"id": "own", "system": "Be terse.", "messages": [{"role": "user", "content": "easy please"}]}
    file = write(tmp_path / "r.jsonl", [*requests(2), {"id": "open", "text": "do this now"}, own])
    code, found, _ = run(capsys, tmp_path, file, "-o", tmp_path / "p.jsonl", "--against-model", SONNET)
    assert (code, found["made"]) == (0, 4)
    assert found["usd"] == pytest.approx(float(keyed.billed()), abs=1e-6)
    per = found["usd_per_1000"]
    assert per["of_which_classifier"] > 0  # the third row is asked about
    total = (per["specialists"] + per["one_prompt"]) * 4 / 1000 + found["judge_usd"]
    assert total == pytest.approx(found["usd"], abs=1e-5)
    bodies = [call.body for call in keyed.calls(SONNET)]
    assert [body["system"][0]["text"] for body in bodies] == [PROMPT] * 4
    assert [block["text"] for body in bodies for block in body["system"][1:]] == ["Be terse."]
    assert all(PROMPT not in json.dumps(call.body) for call in keyed.calls(OPUS))  # the judge does not see it


def test_ties_and_refusals(keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keyed.answer = speaking(lambda first, second: "tie")
    file = write(tmp_path / "r.jsonl", requests(6))
    code, found, _ = run(capsys, tmp_path, file, "-o", tmp_path / "p.jsonl")
    assert (code, found["all"]["tied"]["share"], found["finding"], found["first_place"]) == (0, 1.0, "unclear", None)
    keyed.always(Refusal(), when=HAIKU)
    file = write(tmp_path / "r2.jsonl", requests(3, "easy now"))
    found = run(capsys, tmp_path, file, "-o", tmp_path / "p2.jsonl")[1]
    assert found["all"]["lost"]["share"] == 1.0  # a refusal is no answer
    keyed.always(None, when=HAIKU)
    keyed.always(Refusal(), when=OPUS)
    found = run(capsys, tmp_path, file, "-o", tmp_path / "p3.jsonl")[1]
    assert found["all"]["won"]["share"] == 1.0


def test_labels_in_the_file_give_the_accuracy_of_routing(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*requests(3, label="simple"), *requests(1, "hard", label="Simple"), *requests(2, "easy today")]
    found = run(capsys, tmp_path, write(tmp_path / "r.jsonl", rows), "-o", tmp_path / "p.jsonl")[1]
    assert (found["labelled"], found["routing_accuracy"]["estimate"]) == (4, 0.75)


def test_the_same_command_again_goes_on(keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, pairs = write(tmp_path / "r.jsonl", requests(5)), tmp_path / "p.jsonl"
    run(capsys, tmp_path, file, "-o", pairs)
    kept = pairs.read_text().splitlines(keepends=True)
    pairs.write_text("".join(kept[:2]) + kept[2][:30])  # killed while it wrote the third
    calls = len(keyed.calls())
    code, found, _ = run(capsys, tmp_path, file, "-o", pairs)
    assert (code, found["made"], found["all"]["n"]) == (0, 3, 5)
    assert len(keyed.calls()) - calls == 9  # an answer each, and a ruling
    assert run(capsys, tmp_path, file, "-o", pairs)[1]["made"] == 0
    assert len(keyed.calls()) - calls == 9
    (tmp_path / "monolith.md").write_text(f"{PROMPT} Or not.")
    code, told, _ = run(capsys, tmp_path, file, "-o", pairs)
    assert (code, len(keyed.calls()) - calls) == (2, 9)
    assert "another taxonomy, prompt, model or judge" in told["error"]["message"]


def test_ctrl_c_keeps_what_was_paid_for(keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, pairs = write(tmp_path / "r.jsonl", requests(4)), tmp_path / "p.jsonl"
    keyed.always(Hang(), when=lambda body: "do this 2" in json.dumps(body["messages"]))
    command = [sys.executable, "-m", "prerouter", *arguments(tmp_path, file, "-o", pairs, "--concurrency", 1)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        keyed.wait_for_calls(7, timeout_s=60)  # two whole trials, and the first call of the third
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=30)[1]
    assert (process.returncode, "the work so far is kept" in err) == (130, True)
    assert len(pairs.read_text().splitlines()) == 2
    keyed.always(None, when=lambda body: True)


@pytest.mark.parametrize("cap", [0.25, 0.3])
def test_a_cap_holds(keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str], cap: float) -> None:
    file = write(tmp_path / "r.jsonl", requests(30, max_tokens=500))
    code, found, err = run(capsys, tmp_path, file, "-o", tmp_path / "p.jsonl", "--max-usd", cap)
    assert (code, keyed.billed() <= cap) == (1, True)
    assert 0 < found["made"] < 30
    assert found["left_out"]["capped"] + found["made"] == 30
    assert "--max-usd" in err


def test_a_cap_that_is_too_small_sends_nothing(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "r.jsonl", requests(2))
    code, found, _ = run(capsys, tmp_path, file, "-o", tmp_path / "p.jsonl", "--max-usd", "0.001")
    assert (code, found["usd"], keyed.calls()) == (1, 0.0, [])


def test_an_estimate_sends_nothing_and_is_near(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "r.jsonl", requests(6))
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    code, found, _ = run(capsys, tmp_path, file, "--estimate")
    assert (code, keyed.requests, found["all"]) == (0, [], None)
    assert 0.001 < found["estimate_usd"] < found["at_most_usd"]
    code, told, _ = run(capsys, tmp_path, file, "-o", tmp_path / "p.jsonl")
    assert (code, "needs a key" in told["error"]["message"]) == (2, True)


def test_what_fails_is_tried_again_then_left_for_the_next_run(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keyed.script(Error(529), Error(529), when=HAIKU)
    file = write(tmp_path / "r.jsonl", requests(3))
    code, found, _ = run(capsys, tmp_path, file, "-o", tmp_path / "p.jsonl", "--concurrency", "1")
    assert (code, found["made"]) == (0, 3)
    assert found["seconds"]["specialists"]["n"] == 2  # one took several tries
    keyed.script(Error(400), when=OPUS)
    file = write(tmp_path / "r.jsonl", requests(5))
    code, found, _ = run(capsys, tmp_path, file, "-o", tmp_path / "p.jsonl")
    assert (code, found["left_out"], found["all"]["n"]) == (1, {"failed": 1}, 4)
    assert run(capsys, tmp_path, file, "-o", tmp_path / "p.jsonl")[0] == 0


def test_a_claude_that_refuses_all_calls_is_exit_3(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keyed.always(Error(401, SECRET, SECRET, f"invalid x-api-key {SECRET}", headers={"request-id": SECRET}))
    code = cli.main(arguments(tmp_path, write(tmp_path / "r.jsonl", requests(8)), "-o", tmp_path / "p.jsonl"))
    out, err = capsys.readouterr()
    assert (code, "does not answer" in err, SECRET in out + err) == (3, True, False)
    assert len(keyed.calls()) <= 4


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{broken", "not a line of JSON"),
        ('{"text": " "}', "nothing to send"),
        ('{"messages": []}', "messages"),
        ('{"id": "x"}', "neither"),
        ('{"text": "hi", "label": "hardest"}', "'hardest' is not in the taxonomy"),
        ('{"text": "hi", "label": 3}', "label 3"),
        ('{"text": "hi", "id": [1]}', "id"),
    ],
)
def test_wrong_rows_are_named_before_anything_is_sent(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, told: str
) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps({"text": "easy please"}) + f"\n{line}\n")
    code, found, _ = run(capsys, tmp_path, file, "-o", tmp_path / "p.jsonl")
    assert (code, keyed.calls()) == (2, [])
    assert told in found["error"]["message"] + found["error"]["where"]
    assert found["error"]["where"].endswith("r.jsonl, line 2")


def test_no_text_is_kept(keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, page = write(tmp_path / "r.jsonl", [{"text": f"easy please {SECRET}"}]), tmp_path / "page.html"
    run(capsys, tmp_path, file, "-o", tmp_path / "p.jsonl", "--html", page)
    for kept in (tmp_path / "p.jsonl", page):
        assert "simple" in kept.read_text()
        assert SECRET not in kept.read_text()
        assert "wrote this" not in kept.read_text()


def test_people_get_tables(keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*requests(6, label="simple"), *requests(1, "hard"), requests(1)[0]]
    file = write(tmp_path / "r.jsonl", rows)
    assert cli.main(arguments(tmp_path, file, "-o", tmp_path / "p.jsonl")) == 0
    out = capsys.readouterr().out
    assert f"against monolith.md on {OPUS}: 7 requests, 7 compared now" in out  # one stands there twice
    assert "the specialists win more often than they lose" in out
    assert "may favour its own" in out
    assert "of which classification" in out
    assert cli.main(arguments(tmp_path, file, "--estimate")) == 0
    assert "at most" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--answers", "r.jsonl"], "compares two sides"),
        (["--answers", "r.jsonl", "--taxonomy", "t", "--against-prompt", "m", "--fixed"], "--fixed does not go"),
        (["--answers", "r.jsonl", "--taxonomy", "t", "--against-prompt", "m"], "nowhere to put the pairs"),
        (["models/x", "rows.jsonl", "--taxonomy", "t"], "go with --answers"),
    ],
)
def test_flags_that_do_not_fit(
    keyed: FakeClaude, capsys: pytest.CaptureFixture[str], more: list[str], told: str
) -> None:
    assert cli.main(["evaluate", *more]) == 2
    assert told in capsys.readouterr().err


def test_switched_off_it_compares_nothing(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREROUTER_MODE", "shadow")
    code, told, _ = run(capsys, tmp_path, write(tmp_path / "r.jsonl", requests(1)), "-o", tmp_path / "p.jsonl")
    assert (code, told["error"]["where"], keyed.calls()) == (2, "PREROUTER_MODE", [])
