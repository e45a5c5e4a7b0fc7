"""`prerouter evaluate` from outside, and `prerouter.evaluation.evaluate`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_local import CERTIFICATE, make_model, make_stage, write_encoder

from prerouter import cli, modelfolder, overlap
from prerouter.errors import DataError
from prerouter.evaluation import evaluate

GOOD = [
    {"text": "easy please", "label": "simple"},
    {"text": "hard please", "label": "complex"},
    {"text": "do this please", "label": "moderate"},
]
SAME_LABELLER = {"labelled_by": CERTIFICATE.labelled_by, "prompt_id": CERTIFICATE.prompt_id}


def save_model(folder: Path, *, valid: bool = True, **kind: Any) -> Path:
    encoder = folder.parent / f"{folder.name}-encoder"
    stage = make_stage(write_encoder(encoder), threshold=0.5 if valid else None)
    certificate = CERTIFICATE if valid else replace(CERTIFICATE, valid=False, needed_rows=1234)
    modelfolder.save(folder, replace(make_model(stage, certificate=certificate), **kind), "# card\n")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main(["evaluate", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_json_is_one_object_with_the_figures(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    code, out, _ = run(capsys, model, write_rows(tmp_path / "rows.jsonl", GOOD), "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["n"], found["accuracy"], found["gate"]) == (3, pytest.approx(2 / 3), "open")
    assert found["coverage"] == pytest.approx(2 / 3)
    assert found["disagreement"] == 0.0
    assert set(found["cost"]) == {"always-haiku", "always-sonnet", "always-opus", "haiku-first", "prerouter", "oracle"}
    assert found["certificate"]["valid"] is True


def test_people_get_a_page_with_intervals_and_dollars(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    code, out, err = run(capsys, model, write_rows(tmp_path / "rows.jsonl", GOOD))
    assert code == 0
    assert "coverage                 66.7% (" in out
    assert "prerouter" in out
    assert "characters a token" in out
    assert "not checked" in err  # this folder does not say what it was trained on


def test_require_valid_says_no_to_a_closed_gate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    closed, rows = save_model(tmp_path / "closed", valid=False), write_rows(tmp_path / "rows.jsonl", GOOD)
    assert run(capsys, closed, rows)[0] == 0
    code, out, err = run(capsys, closed, rows, "--require-valid", "--json")
    assert code == 1
    assert json.loads(out)["gate"] == "closed"
    assert "1,234 more labelled requests" in err


def test_rows_of_the_same_labeller_can_refute_a_certificate(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    wrong = [{"text": f"easy please {i}", "label": "complex"} | SAME_LABELLER for i in range(9)]
    rows = write_rows(tmp_path / "rows.jsonl", wrong)
    code, out, err = run(capsys, model, rows, "--require-valid", "--json")
    assert (code, json.loads(out)["state"]) == (1, "broken")
    assert "refute" in err
    assert run(capsys, model, rows)[0] == 0


def test_another_labeller_confirms_and_refutes_nothing(model: Path, tmp_path: Path) -> None:
    wrong = [{"text": f"easy please {i}", "label": "complex", "labelled_by": "someone"} for i in range(9)]
    assert evaluate(model, write_rows(tmp_path / "a.jsonl", wrong)).state == "unconfirmed"
    assert evaluate(model, write_rows(tmp_path / "b.jsonl", [row | SAME_LABELLER for row in GOOD])).state == "confirmed"


def test_rows_that_were_trained_on_are_refused_with_file_and_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    training = {"row_hashes": overlap.remember(["Hard, please!", "something else"])}
    model, rows = save_model(tmp_path / "seen", training=training), write_rows(tmp_path / "rows.jsonl", GOOD)
    code, out, err = run(capsys, model, rows, "--json")
    error = json.loads(out)["error"]
    assert (code, error["type"]) == (2, "DataError")
    assert "1 of 3 rows are in the training data" in error["message"]
    assert error["where"].endswith("rows.jsonl, line 2")
    assert "--allow-overlap" in err
    code, out, err = run(capsys, model, rows, "--json", "--allow-overlap")
    assert (code, json.loads(out)["known_rows"]) == (0, 1)
    assert "flatter" in err


def test_novel_rows_are_told_by_the_label_of_training_or_of_the_flag(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [*GOOD, {"text": "das verstehe ich nicht", "label": "oos"}])
    trained = save_model(tmp_path / "trained", training={"novel_label": "oos"})
    plain = save_model(tmp_path / "plain")
    for found in (evaluate(trained, rows), evaluate(plain, rows, novel_label="OOS")):
        assert (found.figures.n, found.figures.n_novel, found.figures.novel_coverage) == (3, 1, 0.0)
    with pytest.raises(DataError, match="not a label"):
        evaluate(plain, rows)


def test_several_files_are_one_data_set(model: Path, tmp_path: Path) -> None:
    files = [write_rows(tmp_path / f"{i}.jsonl", GOOD[i:]) for i in range(2)]
    assert evaluate(model, files).figures.n == 5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no labelled rows"),
        ('{"text": "easy", "label": "simple"}\n{"text": "easy", "label": "huge"}\n', "line 2"),
        ('{"text": "easy", "label": "simple"}\n{"text": "easy"\n', "line 2"),
        ('{"text": "easy"}\n', "label"),
        ('{"text": "easy", "label": NaN}\n', "line 1"),
    ],
)
def test_broken_data_ends_in_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(content)
    code, out, err = run(capsys, model, tmp_path / "rows.jsonl")
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_a_missing_file_and_a_missing_model_are_named(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    for folder, rows, named in (
        (model, "no.jsonl", "no.jsonl"),
        ("no-model", write_rows(tmp_path / "r", GOOD), "no-model"),
    ):
        code, _, err = run(capsys, folder, rows)
        assert code == 2
        assert named in err


def test_the_report_stands_where_it_was_asked_for(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", GOOD)
    code, _, err = run(capsys, model, rows, "--html", tmp_path / "out.html")
    assert code == 0
    assert "out.html" in err
    assert (tmp_path / "out.html").read_text("utf-8").startswith("<!doctype html>")
    assert run(capsys, model, rows, "--html", rows)[0] == 2  # it would overwrite the rows
    assert len(Path(rows).read_text().splitlines()) == 3
