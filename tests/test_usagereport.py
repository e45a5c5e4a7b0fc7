"""`prerouter report --from`: what routing would have saved on a plain usage log, by hand and from outside."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import model_help
import pytest
from shadow_help import HAIKU, OPUS, SONNET, usage_file, usage_row
from test_local import CERTIFICATE

from prerouter import cli
from prerouter.errors import ConfigError, DataError
from prerouter.router import PreRouter
from prerouter.taxonomy import Taxonomy
from prerouter.usagereport import KEPT, UsageReport, usage_report

EASY, HARD, OPEN = "easy please", "hard please", "do this now"
USD = {OPUS: 400 * 4e-6 + 200 * 20e-6, SONNET: 400 * 2e-6 + 200 * 10e-6, HAIKU: 400 * 1e-7 + 200 * 5e-7}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "mine"
    model_help.save(folder)
    return folder


@pytest.fixture
def router(folder: Path) -> PreRouter:
    return PreRouter.load(folder)


def report(tmp_path: Path, router: PreRouter, rows: list[dict[str, Any]], **options: Any) -> UsageReport:
    return usage_report(str(usage_file(tmp_path / "u.jsonl", rows)), router, **options)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main(["report", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_what_was_billed_and_what_would_have_been(tmp_path: Path, router: PreRouter) -> None:
    rows = [usage_row(EASY), usage_row(HARD), usage_row(EASY, SONNET), usage_row(HARD, HAIKU)]
    found = report(tmp_path, router, rows).to_json()
    usd = {name: policy["usd"] for name, policy in found["policies"].items()}
    assert (found["rows"], found["coverage"]) == (4, 1.0)
    assert usd["as-logged"] == pytest.approx(2 * USD[OPUS] + USD[SONNET] + USD[HAIKU])
    assert usd["prerouter"] == usd["prerouter-floor"] == pytest.approx(2 * USD[OPUS] + 2 * USD[HAIKU])
    assert usd["always-opus"] == pytest.approx(4 * USD[OPUS])
    assert usd["haiku-first"] > usd["prerouter"]
    saved = found["savings"]["same_tokens"]["prerouter-floor"]
    assert saved["saved_usd"] == pytest.approx(USD[SONNET] - USD[HAIKU])
    assert saved["saved"] == pytest.approx(saved["saved_usd"] / usd["as-logged"])
    assert found["savings"]["measured"] is None


def test_what_local_leaves_open_is_at_least_paid_for(tmp_path: Path, router: PreRouter) -> None:
    found = report(tmp_path, router, [usage_row(OPEN)]).to_json()
    usd = {name: policy["usd"] for name, policy in found["policies"].items()}
    assert found["by_reason"] == {"abstained_gate": 1}
    question = usd["prerouter-floor"] - USD[OPUS]
    assert 0 < question < 0.001
    assert usd["prerouter"] < usd["prerouter-floor"]


def test_groups_by_day_tag_model_and_label(tmp_path: Path, router: PreRouter) -> None:
    rows = [
        usage_row(EASY, at="2026-11-01T12:00:00Z", tags={"team": "a"}),
        usage_row(HARD, at="2026-11-01T23:59:59Z", tags={"team": "b"}),
        usage_row(EASY, SONNET, at="2026-11-03T00:00:00Z"),
    ]
    found = report(tmp_path, router, rows).to_json()
    assert {day: part["rows"] for day, part in found["by_day"].items()} == {"2026-11-01": 2, "2026-11-03": 1}
    assert {name: part["rows"] for name, part in found["by_model"].items()} == {OPUS: 2, SONNET: 1}
    assert {name: part["rows"] for name, part in found["by_label"].items()} == {"simple": 2, "complex": 1}
    assert list(found["by_tag"]["team"]) == ["a", "b"]
    assert (found["first_at"][:10], found["last_at"][:10]) == ("2026-11-01", "2026-11-03")


def test_tags_without_end_do_not_fill_the_memory(tmp_path: Path, router: PreRouter) -> None:
    rows = [usage_row(EASY, tags={"user": str(i)}) for i in range(KEPT + 50)]
    found = report(tmp_path, router, rows)
    assert len(found.tags["user"]) == KEPT + 1
    assert found.tags["user"]["(other)"].rows == 50


def test_rows_without_usage_are_estimated_and_unknown_models_left_out(tmp_path: Path, router: PreRouter) -> None:
    silent, other = usage_row(EASY), usage_row(EASY, "gpt-5")
    del silent["response"]["usage"]
    found = report(tmp_path, router, [silent, other, usage_row(EASY, ""), usage_row(EASY, "claude-3-haiku-20240307")])
    assert (found.total.rows, found.estimated) == (1, 1)
    assert dict(found.unpriced) == {"gpt-5": 1, "": 1, "claude-3-haiku-20240307": 1}
    with pytest.raises(DataError, match="no row names a model with known prices"):
        report(tmp_path, router, [other])


def test_rules_of_the_workspace_hold(tmp_path: Path, folder: Path) -> None:
    rule = {"name": "r", "tags": {"team": "a"}, "min_tier": "opus"}
    router = PreRouter.load(folder, settings={"rules": [rule]})
    found = report(tmp_path, router, [usage_row(EASY, tags={"team": "a"}), usage_row(EASY)]).to_json()
    assert found["policies"]["prerouter"]["usd"] == pytest.approx(USD[OPUS] + USD[HAIKU])


def test_broken_rows(tmp_path: Path, router: PreRouter) -> None:
    bad: dict[str, Any] = {"messages": [{"role": "robot", "content": "x"}], "model": OPUS}
    rows = [usage_row(EASY), bad, usage_row(EASY)]
    with pytest.raises(DataError, match="line 2"):
        report(tmp_path, router, rows)
    found = report(tmp_path, router, rows, skip_bad=True)
    assert (found.total.rows, found.skipped) == (2, 1)
    assert "line 2" in found.errors[0]


def test_labels_without_tiers_cost_nothing_anywhere(tmp_path: Path) -> None:
    plain = Taxonomy.inferred(("simple", "moderate", "complex"))
    unordered = replace(CERTIFICATE, max_under=None, upper_under=None, errors_under=None)
    model_help.save(tmp_path / "plain", taxonomy=plain, certificate=unordered)
    with pytest.raises(ConfigError, match="no tiers"):
        report(tmp_path, PreRouter.load(tmp_path / "plain"), [usage_row(EASY)])


def test_nothing_is_sent_and_only_the_base_package_is_needed(tmp_path: Path) -> None:
    file = usage_file(tmp_path / "u.jsonl", [usage_row("What is 2 + 2?")])
    code = (
        "import sys\nfrom prerouter.cli import main\n"
        f"assert main(['report', '--from', {str(file)!r}, '--json']) == 0\n"
        "print(' '.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"anthropic", "httpx2", "torch", "sklearn", "mlflow", "pyarrow", "joblib", "transformers"}
    assert set(done.stderr.splitlines()[-1].split()) & heavy == set()
    assert json.loads(done.stdout)["rows"] == 1


def test_the_command(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [usage_row(EASY, at=f"2026-11-0{1 + i % 3}T12:00:00Z", tags={"team": "ab"[i % 2]}) for i in range(12)]
    file = usage_file(tmp_path / "u.jsonl", rows)
    code, out, err = run(capsys, "--from", file, "--what-if", folder, "--html", tmp_path / "r.html")
    assert (code, err.count("\n")) == (0, 1)
    for words in ("What would it save?", "saved at least", "Every policy", "By day", "By tag team", "list prices of"):
        assert words in out
    page = (tmp_path / "r.html").read_text()
    assert page.count("<svg") == 2
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    code, out, _ = run(capsys, "--from", "-", "--what-if", folder, "--json")
    assert (code, json.loads(out)["rows"]) == (0, 12)


def test_the_command_on_broken_rows(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = usage_file(tmp_path / "u.jsonl", [usage_row(EASY)])
    file.write_text(file.read_text() + "{broken\n")
    assert run(capsys, "--from", file, "--what-if", folder)[0] == 2
    code, out, err = run(capsys, "--from", file, "--what-if", folder, "--skip-bad", "--json")
    assert (code, json.loads(out)["skipped"]) == (1, 1)
    assert "1 broken rows left out" in err
    assert run(capsys, "--from", file, "--what-if", folder, "--html", file, "--skip-bad")[0] == 2  # not over its input
    assert "easy please" in file.read_text()


def test_pairs_turn_the_estimate_into_a_measurement(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from test_pairs import pairs

    from prerouter.pairs import dumped

    kept = tmp_path / "pairs.jsonl"
    kept.write_text("".join(map(dumped, pairs(10, 10, 0))))
    file = usage_file(tmp_path / "u.jsonl", [usage_row(EASY), usage_row(HARD)])
    code, out, _ = run(capsys, "--from", file, "--what-if", folder, "--pairs", kept, "--json")
    real = json.loads(out)["savings"]["measured"]
    assert code == 0
    assert (real["share"], real["moved_usd"]) == (pytest.approx(0.9), pytest.approx(USD[OPUS]))
    out = run(capsys, "--from", file, "--what-if", folder, "--pairs", kept)[1]
    assert "measured" in out
