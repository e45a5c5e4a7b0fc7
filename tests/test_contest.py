"""`prerouter evaluate --answers` with a folder of specialists: whose prompt answers, rejections, questions, plans."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import assistant
import pytest
from fake_claude import Answer, FakeClaude, ToolUse, asks_for_label
from shadow_help import OPUS, judging, prefers

from prerouter import cli

PROMPT = "You are a developer assistant: you review, debug, design and look things up."
REVIEW, DEBUG, DOCS = "Review this diff: -a +b", "Why the error: KeyError?", "Where in the docs is 409?"


@pytest.fixture
def keyed(claude: FakeClaude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeClaude:
    """A fake Claude that the environment names; it classifies, answers as the specialist it is asked as, and judges."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", claude.valid_key)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)
    ruled = judging(prefers("Answered by"))

    def answer(body: Mapping[str, Any]) -> Mapping[str, Any] | str:
        asked = (body.get("output_config") or {}).get("format", {}).get("schema", {}).get("properties", {})
        if "better" in asked:
            return ruled(body)
        return "All in one." if PROMPT in json.dumps(body.get("system", "")) else assistant.answer(body)

    claude.answer = answer
    (tmp_path / "monolith.md").write_text(PROMPT)
    assistant.write(tmp_path / "routes")
    return claude


def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, texts: list[str], *more: object) -> tuple[int, Any]:
    file = tmp_path / "r.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    sides = (
        "--taxonomy",
        tmp_path / "routes",
        "--against-prompt",
        tmp_path / "monolith.md",
        "-o",
        tmp_path / "p.jsonl",
    )
    code = cli.main(["evaluate", "--answers", str(file), *map(str, (*sides, *more)), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_each_request_is_answered_by_its_specialist(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = run(capsys, tmp_path, [REVIEW, DEBUG, DOCS, "Hello there"])
    assert (code, found["made"], found["against_model"]) == (0, 4, OPUS)  # the tier of architecture, the strongest
    assert found["all"]["won"]["share"] == 1.0
    assert set(found["by_route"]) == {"code_review", "debugging", "docs_lookup", "general"}
    special = [json.dumps(call.body) for call in keyed.calls() if not asks_for_label(call.body)]
    for label in ("code_review", "debugging", "docs_lookup"):
        (body,) = [one for one in special if assistant.FILES[f"{label}/system.md"] in one]
        assert PROMPT not in body
    assert found["usd"] == pytest.approx(float(keyed.billed()), abs=1e-6)
    assert found["usd_per_1000"]["of_which_classifier"] > 0
    assert not (tmp_path / "state").exists() or not list((tmp_path / "state").rglob("routes.db"))  # nothing is logged


def test_a_limit_is_the_routes_own(keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "routes" / "docs_lookup" / "route.toml").unlink()
    run(capsys, tmp_path, [REVIEW, DOCS], "--max-tokens", "1234")
    limits = {
        json.dumps(call.body["system"]): call.body["max_tokens"]
        for call in keyed.calls()
        if "output_config" not in call.body
    }
    for system, limit in limits.items():
        assert limit == (4000 if assistant.FILES["code_review/system.md"] in system else 1234)


def test_a_rejection_is_counted_and_its_price(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rejected = ToolUse("escalate", {"reason": "no code"})
    keyed.script(rejected, when=lambda body: "escalate" in json.dumps(body.get("tools", [])))
    code, found = run(capsys, tmp_path, [REVIEW], "--max-usd", "5")
    assert (code, found["rejected"]["estimate"]) == (0, 1.0)
    assert found["usd"] == pytest.approx(float(keyed.billed()), abs=1e-6)


def test_a_clarifying_question_is_an_answer_that_is_judged(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = tmp_path / "routes" / "taxonomy.toml"
    toml.write_text(toml.read_text().replace("plan = true", 'on_low_confidence = "clarify"'))
    unsure = {"label": "code_review", "confidence": 0.2, "fallback_label": "debugging", "rationale": "", "also": []}
    unsure |= {"params": {"route": "code_review", "language": "python"}, "question": "What shall I look at?"}
    keyed.script(Answer(unsure), when=asks_for_label)
    code, found = run(capsys, tmp_path, [REVIEW])
    assert (code, found["clarified"]["estimate"], found["all"]["tied"]["share"]) == (0, 1.0, 1.0)


def test_a_plan_is_one_answer(keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(capsys, tmp_path, ["Write the docs and review this"], "--max-usd", "9")
    assert (code, found["made"], found["planned"]["estimate"]) == (0, 1, 1.0)
    assert found["usd"] == pytest.approx(float(keyed.billed()), abs=1e-6)


def test_nothing_gets_into_a_persons_queue(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "routes" / "docs_lookup" / "route.toml").write_text('handoff = "queue"')
    code, found = run(capsys, tmp_path, [DOCS, REVIEW])
    assert (code, found["made"], found["left_out"]) == (0, 1, {"human": 1})
    assert list(tmp_path.rglob("human.jsonl")) == []


def test_another_specialists_prompt_is_another_comparison(
    keyed: FakeClaude, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, tmp_path, [REVIEW])
    (tmp_path / "routes" / "code_review" / "system.md").write_text("You review nothing.")
    code, found = run(capsys, tmp_path, [REVIEW])
    assert (code, found["error"]["type"]) == (2, "DataError")
