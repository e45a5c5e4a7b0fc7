"""What of a model folder goes into a run: names that MLflow takes, finite numbers, no text and no row."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from model_help import save

from prerouter import modelfolder
from prerouter.files import shipped
from prerouter.runrecord import ID_TAG, run_record

TRAINING: dict[str, Any] = {
    "files": {"history.jsonl": 120, "more.parquet": 30},
    "fingerprint": "feedfeedfeed",
    "rows": {"fit": 60, "certify": 48},
    "recipe": {"encoder": ["static"], "seed": 3, "finetuning": {"epochs": 4}},
    "candidates": [
        {"name": "static", "C": 1.0, "log_loss": 0.61, "accuracy": 0.74, "rows": 4000},
        {"name": "minilm", "C": 3.0, "log_loss": 0.55, "accuracy": None, "rows": 4000},
    ],
    "cross_validation": {"0.3": 0.62, "1.0": 0.61},
    "sources": {f"source {i}": 1 for i in range(100)},
}
FIGURES: dict[str, Any] = {
    "accuracy": 0.75,
    "coverage": [0.4, 0.35, 0.45],
    "ece": None,
    "gate": "open",
    "per_label": {"a label: 100 %!": {"n": 7, "recall": 0.5}},
    "intervals": {"accuracy": [0.7, 0.8]},
    "cost": {"always-opus": 12.5},
}


@pytest.fixture
def record(tmp_path: Path) -> Any:
    return run_record(save(tmp_path / "model", training=TRAINING, figures=FIGURES, versions={"python": "3.11"}))


def test_metrics_are_estimates_with_the_ends_of_their_intervals(record: Any) -> None:
    assert record.metrics["accuracy"] == 0.75
    assert (record.metrics["accuracy.lower"], record.metrics["accuracy.upper"]) == (0.7, 0.8)
    assert [record.metrics[f"coverage{end}"] for end in ("", ".lower", ".upper")] == [0.4, 0.35, 0.45]
    assert record.metrics["cost.always-opus"] == 12.5
    assert "ece" not in record.metrics
    assert "gate" not in record.metrics


def test_names_are_such_as_mlflow_takes(record: Any) -> None:
    assert record.metrics["per_label.a label_ 100 _.recall"] == 0.5


def test_the_certificate_is_among_the_metrics_and_tags(record: Any) -> None:
    assert record.metrics["certificate.valid"] == 1.0
    assert record.metrics["certificate.upper_disagreement"] == 0.04
    assert record.tags["prerouter.gate"] == "open"
    assert record.tags["prerouter.labelled_by"] == "claude-haiku-5-5"
    assert len(record.tags[ID_TAG]) == 12
    assert record.tags["version.python"] == "3.11"


def test_the_recipe_is_params_and_what_is_told_elsewhere_is_not(record: Any) -> None:
    assert record.params["recipe.seed"] == "3"
    assert record.params["recipe.finetuning.epochs"] == "4"
    assert record.params["contract.max_under"] == "0.02"
    assert record.params["rows.fit"] == "60"
    assert not [name for name in record.params if name.startswith(("row_hashes", "files", "candidates", "sources"))]


def test_data_is_named_and_digested(record: Any) -> None:
    assert (record.files, record.digest) == ({"history.jsonl": 120, "more.parquet": 30}, "feedfeedfeed")


def test_what_was_compared_becomes_runs(record: Any) -> None:
    assert [run.name for run in record.candidates] == ["encoder static", "encoder minilm", "C = 0.3", "C = 1.0"]
    assert record.candidates[0].params == {"name": "static", "C": "1.0"}
    assert record.candidates[0].metrics == {"log_loss": 0.61, "accuracy": 0.74, "rows": 4000.0}
    assert record.candidates[1].metrics == {"log_loss": 0.55, "rows": 4000.0}
    assert (record.candidates[2].params, record.candidates[2].metrics) == ({"C": "0.3"}, {"log_loss": 0.62})


def test_a_folder_that_says_little_still_makes_a_run(tmp_path: Path) -> None:
    model = save(tmp_path / "model")
    record = run_record(model)
    assert record.digest == model.model_folder_id
    assert (record.files, record.candidates) == ({}, ())


def test_every_number_of_the_shipped_model_is_finite_and_every_value_short() -> None:
    record = run_record(modelfolder.load(shipped("models/default")))
    assert len(record.metrics) > 20
    assert all(math.isfinite(value) for value in record.metrics.values())
    assert max(len(value) for value in record.params.values()) <= 500
