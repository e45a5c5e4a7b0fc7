"""The report on a labelled file, and the comparison with gold labels, as they are counted by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fake_claude import FakeClaude

from prerouter.cli import main
from prerouter.errors import DataError
from prerouter.labelreport import Against, check_gold, compare, survey
from prerouter.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load()


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def _row(number: int, label: str, **more: Any) -> dict[str, Any]:
    return {"id": f"r{number}", "text": f"request {number}", "label": label, "labelled_by": "haiku"} | more


def test_shares_noise_and_failures_are_counted(tmp_path: Path) -> None:
    rows = [_row(n, "simple", votes={"simple": 3}, confidence=1.0) for n in range(6)]
    rows += [_row(n, "moderate", votes={"moderate": 2, "complex": 1}, confidence=0.67) for n in range(6, 9)]
    rows.append(_row(9, "complex", labelled_by="sonnet"))
    errors = [{"id": str(n), "error": "refused by the labeller", "attempts": 1} for n in range(2)]
    file, failed = _write(tmp_path / "rows", rows), _write(tmp_path / "errors", errors)
    found = survey(file, TAXONOMY, errors=failed, cost_usd=Decimal("0.0123"))
    assert (found.rows, found.counts) == (10, {"simple": 6, "moderate": 3, "complex": 1})
    assert found.shares == pytest.approx({"simple": 0.6, "moderate": 0.3, "complex": 0.1})
    assert found.labelled_by == {"haiku": 9, "sonnet": 1}
    assert (found.noise.n_rows, found.noise.n_split) == (9, 3)
    assert found.noise.disagreement is not None
    assert found.noise.disagreement.estimate == pytest.approx(3 * (2 / 3) / 9)
    assert found.failed == {"refused by the labeller": 2}
    assert {example.id for example in found.boundary} == {"r6", "r7", "r8"}
    told = found.to_text(100)
    assert "simple    ████████████████████████████████████████  60.0%  6" in told
    for part in ("complex / moderate 3", "refused by the labeller 2", "$0.0123", "request 7", "haiku 9, sonnet 1"):
        assert part in told
    assert json.loads(json.dumps(found.to_json()))["noise"]["n_split"] == 3


def test_shares_are_those_of_the_traffic_where_rows_have_weights(tmp_path: Path) -> None:
    rows = [_row(0, "simple", weight=9.0), _row(1, "complex", weight=1.0)]
    found = survey(_write(tmp_path / "rows", rows), TAXONOMY)
    assert found.shares == pytest.approx({"simple": 0.9, "moderate": 0.0, "complex": 0.1})
    assert "weighted" in found.to_text(80)


def test_the_boundary_holds_the_least_sure_and_obeys_no_control_characters(tmp_path: Path) -> None:
    rows = [_row(n, "simple", confidence=0.5 + n / 1000) for n in range(300)]
    rows[3]["text"] = "\x1b[2J wipe\u202e the screen"
    found = survey(_write(tmp_path / "rows", rows), TAXONOMY)
    assert [example.id for example in found.boundary] == ["r0", "r1", "r2", "r3", "r4"]
    assert "[2J wipe the screen" in found.to_text(200)
    assert not any(ord(sign) < 32 or sign == "\u202e" for sign in found.to_text(200).replace("\n", ""))


def test_no_line_is_wider_than_the_terminal(tmp_path: Path) -> None:
    rows = [_row(n, "simple", text="word " * 300, confidence=0.5, labelled_by=f"model-{n}") for n in range(30)]
    told = survey(_write(tmp_path / "rows", rows), TAXONOMY).to_text(60)
    assert max(map(len, told.splitlines())) <= 60


def test_an_empty_file_has_no_shares_and_says_that_noise_is_not_known(tmp_path: Path) -> None:
    found = survey(_write(tmp_path / "rows", []), TAXONOMY, errors=tmp_path / "none")
    assert (found.rows, found.shares, found.boundary) == (0, {}, ())
    assert "not known" in found.to_text(80)
    assert "0.0%" in found.to_text(80)


def _compared(tmp_path: Path, rows: list[dict[str, Any]], gold: list[dict[str, Any]], target: float = 0.8) -> Against:
    return compare(_write(tmp_path / "rows", rows), _write(tmp_path / "gold", gold), TAXONOMY, target=target)


def test_rows_meet_their_gold_label_by_the_request(tmp_path: Path) -> None:
    labels = ["simple"] * 8 + ["moderate", "complex"]
    gold = [{"text": f"request {n}", "label": "Simple"} for n in range(9)] + [{"text": "elsewhere", "label": "complex"}]
    found = _compared(tmp_path, [_row(n, label) for n, label in enumerate(labels)], gold)
    assert (found.agreement.n_rows, found.agreement.n_agree, found.missing, found.under) == (9, 8, 1, 0)
    assert found.passed
    assert "simple -> moderate 1" in found.to_text(80)
    assert "1 more are not in the file" in found.to_text(80)


def test_the_target_decides_and_weaker_labels_are_counted(tmp_path: Path) -> None:
    rows = [_row(n, "simple") for n in range(10)]
    gold = [{"text": f"request {n}", "label": "complex" if n < 3 else "simple"} for n in range(10)]
    found = _compared(tmp_path, rows, gold)
    assert (found.agreement.n_agree, found.under, found.passed) == (7, 3, False)
    assert "80% missed; too few rows to be sure of it" in found.to_text(80)
    assert _compared(tmp_path, rows, gold, target=0.7).passed
    assert found.to_json()["passed"] is False


def test_redacted_rows_meet_gold_rows_that_are_not_and_the_other_way_round(tmp_path: Path) -> None:
    raw, redacted = "Mail eve@x.com about it", "Mail [EMAIL_1] about it"
    body = {"messages": [{"role": "user", "content": redacted}]}
    found = _compared(tmp_path, [_row(1, "simple", text=redacted)], [{"text": raw, "label": "simple"}])
    assert found.agreement.n_rows == 1
    found = _compared(tmp_path, [_row(1, "simple", text=raw)], [body | {"label": "simple"}])
    assert found.agreement.n_rows == 1


def test_gold_rows_without_a_request_are_found_by_their_id(tmp_path: Path) -> None:
    gold = [{"id": "r1", "label": "simple"}, {"id": "r9", "label": "complex"}]
    found = _compared(tmp_path, [_row(1, "simple"), _row(2, "simple")], gold)
    assert (found.agreement.n_rows, found.missing) == (1, 1)


def test_nothing_in_common_does_not_pass(tmp_path: Path) -> None:
    found = _compared(tmp_path, [_row(1, "simple")], [{"text": "elsewhere", "label": "simple"}])
    assert not found.passed
    assert "none of its 1 rows is in the file" in found.to_text(80)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"text": "x"}, "no label"),
        ({"text": "x", "label": "easy"}, "'easy' is not a label"),
        ({"label": "simple"}, "neither"),
        ({"messages": [], "label": "simple"}, "no message"),
    ],
)
def test_a_gold_row_that_says_nothing_is_refused_with_its_line(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    gold = _write(tmp_path / "gold", [{"text": "fine", "label": "simple"}, row])
    with pytest.raises(DataError, match=what) as caught:
        check_gold(gold, TAXONOMY)
    assert caught.value.line == 2


def test_label_shows_the_report_and_exits_1_below_the_target(
    claude: FakeClaude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", claude.valid_key)
    history = _write(tmp_path / "history.jsonl", [{"text": f"request {n}: mail eve{n}@x.com"} for n in range(6)])
    command = ["label", str(history), "-o", str(tmp_path / "out.jsonl"), "--votes", "3", "--report"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "rows        6; labelled by claude-haiku-5-5 6" in shown
    label = json.loads((tmp_path / "out.jsonl").read_text("utf-8").splitlines()[0])["label"]
    other = next(name for name in TAXONOMY.names if name != label)
    gold = [{"text": f"request {n}: mail eve{n}@x.com", "label": label} for n in range(4)]
    good = _write(tmp_path / "good.jsonl", gold)
    assert main([*command, "--against", str(good), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["against"]["agreement"]["n_agree"], told["report"]["rows"], told["labelled"]) == (4, 6, 6)
    bad = _write(tmp_path / "bad.jsonl", [row | {"label": other} for row in gold])
    assert main([*command, "--against", str(bad)]) == 1
    assert "80% missed" in capsys.readouterr().out


def test_label_reads_the_gold_file_before_it_asks(
    claude: FakeClaude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", claude.valid_key)
    history = _write(tmp_path / "history.jsonl", [{"text": "request"}])
    gold = _write(tmp_path / "gold.jsonl", [{"text": "request"}])
    assert main(["label", str(history), "-o", str(tmp_path / "out.jsonl"), "--against", str(gold)]) == 2
    assert claude.calls() == []
