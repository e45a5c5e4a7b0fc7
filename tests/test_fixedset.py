"""`prerouter evaluate --fixed`: the same set every week, and what falls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import model_help
import pytest
from fake_claude import Error, FakeClaude

from prerouter import cli


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "ws"
    model_help.workspace(folder)
    for name, kind in (("good", {}), ("narrow", {"sees": "easy"}), ("turned", {"turned": True})):
        model_help.save(folder / "models" / name, **kind)
    champion(folder, "good")
    model_help.rows(folder / "labels" / "heldout.jsonl")
    monkeypatch.setenv("PREROUTER_WORKSPACE", str(folder))
    return folder


def champion(folder: Path, name: str) -> None:
    link = folder / "models" / "champion"
    link.unlink(missing_ok=True)
    link.symlink_to(name)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any, str]:
    code = cli.main(["evaluate", "--fixed", *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


def test_the_first_run_is_the_reference_and_the_same_again_is_no_fall(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found, _ = run(capsys)
    assert (code, found["n"], found["runs"], found["fell"]) == (0, 120, 1, [])
    assert found["figures"]["coverage"]["last"] is None
    code, found, _ = run(capsys)
    assert (code, found["runs"]) == (0, 2)
    coverage = found["figures"]["coverage"]
    assert coverage["value"] == coverage["last"] == coverage["reference"] == pytest.approx(2 / 3)


def test_a_worse_champion_is_noticed(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys)
    champion(workspace, "narrow")
    code, found, err = run(capsys)
    assert code == 1
    assert "coverage" in found["fell"]
    assert found["figures"]["coverage"]["fell"] == ["last", "reference"]
    assert "coverage fell by more than its interval" in err
    champion(workspace, "turned")
    code, found, _ = run(capsys)
    assert code == 1
    assert {"accuracy", "disagreement"} <= set(found["fell"])


def test_a_fall_stays_one_until_it_is_the_new_reference(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys)
    champion(workspace, "narrow")
    run(capsys)
    code, found, _ = run(capsys)
    assert (code, found["figures"]["coverage"]["fell"]) == (1, ["reference"])
    assert run(capsys, "--rebase")[0] == 0
    assert run(capsys)[0] == 0


def test_a_better_champion_is_no_fall(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    champion(workspace, "narrow")
    run(capsys)
    champion(workspace, "good")
    assert run(capsys)[0] == 0


def test_another_content_is_another_set(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(capsys)[1]
    model_help.rows(workspace / "labels" / "heldout.jsonl", 30)
    second = run(capsys)[1]
    assert first["set_id"] != second["set_id"]
    assert second["runs"] == 1


def test_a_folder_and_a_file_may_be_named(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = model_help.rows(tmp_path / "own.jsonl", 20)
    code, found, _ = run(capsys, workspace / "models" / "turned", file)
    assert (code, found["n"], found["file"]) == (0, 60, str(file))
    assert found["figures"]["accuracy"]["value"] < 0.5


def test_a_labeller_that_changed_is_noticed(
    workspace: Path, claude: FakeClaude, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", claude.valid_key)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)
    truth = {"easy": "simple", "medium": "moderate", "hard": "complex"}

    def right(body: Any) -> str:
        request = body["messages"][0]["content"].split("<request ")[1]
        return json.dumps({"label": next(truth[word] for word in truth if word in request), "confidence": 0.9})

    claude.answer = right
    code, found, _ = run(capsys, "--ask", "30")
    agreement = found["figures"]["labeller_agreement"]
    assert (code, found["asked"], agreement["value"]) == (0, 30, 1.0)
    assert found["cost_usd"] > 0
    claude.answer = lambda body: json.dumps({"label": "complex", "confidence": 0.9})
    code, found, _ = run(capsys, "--ask", "30")
    assert (code, found["fell"]) == (1, ["labeller_agreement"])
    claude.always(Error(400))
    assert cli.main(["evaluate", "--fixed", "--ask", "5"]) == 3
    assert "labelled none of 5 rows" in capsys.readouterr().err


def test_people_get_a_table(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--fixed"]) == 0
    out = capsys.readouterr().out
    assert "run 1 on heldout.jsonl" in out
    assert "coverage" in out


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--fixed", "--html", "x.html"], "--fixed compares figures"),
        (["--ask", "5", "models/x", "f"], "go with --fixed"),
        ([], "takes a model folder and a file"),
        (["--fixed", "none"], "none"),
    ],
)
def test_wrong_use(workspace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], what: str) -> None:
    assert cli.main(["evaluate", *arguments]) == 2
    assert what in capsys.readouterr().err


def test_outside_of_a_workspace_a_file_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", "--fixed"]) == 2
    assert "no workspace whose held-out rows" in capsys.readouterr().err
