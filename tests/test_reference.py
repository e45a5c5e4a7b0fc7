"""What a model folder keeps for the monitor: counts of its held-out rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import synthetic
from test_local import make_stage, write_encoder

from prerouter import reference, train
from prerouter.certify import Scored
from prerouter.guard import Guard
from prerouter.local import LocalClassifier
from prerouter.modelfolder import Gate, Stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return make_stage(write_encoder(tmp_path / "encoder"))


def test_errors_of_each_label_are_of_the_decisions_for_it(stage: Stage) -> None:
    stages = [replace(stage, gate=Gate(0.5, 0.1))] * 2
    rows = Scored(
        risk=np.array([[0.1, 0.4, 0.9, 0.9, np.inf, 0.2], [0.0, 0.0, 0.3, 0.9, 0.4, 0.0]]),
        predicted=np.array([[0, 0, 0, 0, 0, 2], [1, 1, 1, 1, 1, 0]]),
        truth=np.array([0, 2, 0, 0, 1, -1]),
    )
    assert reference.by_label(("simple", "moderate", "complex"), stages, rows) == {
        "simple": {"n_accepted": 2, "n_under": 1, "n_disagreement": 1},
        "moderate": {"n_accepted": 2, "n_under": 0, "n_disagreement": 1},
        "complex": {"n_accepted": 1, "n_under": 0, "n_disagreement": 1},  # a row of no class
    }


def test_with_closed_gates_nothing_is_decided(stage: Stage) -> None:
    rows = Scored(np.zeros((1, 3)), np.zeros((1, 3), np.int64), np.zeros(3, np.int64))
    found = reference.by_label(("a", "b"), [replace(stage, gate=Gate())], rows)
    assert {label["n_accepted"] for label in found.values()} == {0}


def test_places_are_the_nearest_centroid_or_beyond_the_limit() -> None:
    known = Guard(np.eye(3, dtype=np.float32), 0.5, frozenset(), 1.0)
    rows = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 0, 1], [-1, 0, 0]], np.float32)
    assert reference.places(rows, known).tolist() == [2, 0, 1, 1]
    assert reference.places(rows[:0], known).tolist() == [0, 0, 0, 0]


def test_regions_keep_every_row_and_those_beyond_apart() -> None:
    rng = np.random.default_rng(0)
    known = Guard(rng.normal(size=(256, 8)).astype(np.float32), 0.5, frozenset(), 1.0)
    counts = rng.integers(0, 9, 257)
    found = reference.regions(counts, known)
    assert len(found) == reference.N_REGIONS + 1
    assert (found.sum(), found[-1]) == (counts.sum(), counts[-1])


@pytest.mark.parametrize("kept", [None, [1, 2], "x", {}])
def test_a_folder_that_keeps_none_or_another_has_none(kept: object) -> None:
    known = Guard(np.eye(3, dtype=np.float32), 0.5, frozenset(), 1.0)
    assert reference.expected({} if kept is None else {"inputs": kept}, known) is None


def test_training_keeps_it(tmp_path: Path) -> None:
    rows = synthetic.write(tmp_path / "rows.jsonl", synthetic.rows(900, noise=0.02))
    made = train(rows, tmp_path / "model", encoder="static", track=False)
    local = LocalClassifier.load(tmp_path / "model")
    kept, found = local.model.training["certified_by_label"], made.model.certificate
    assert sum(label["n_accepted"] for label in kept.values()) == found.n_accepted
    assert sum(label["n_disagreement"] for label in kept.values()) == found.errors_disagreement
    assert sum(label["n_under"] for label in kept.values()) == found.errors_under
    expected = reference.expected(local.model.training, local.model.stages[0].guard)
    assert expected is not None
    parts = local.model.training["rows"]
    assert expected.sum() == parts["calibrate"] + parts["certify"]
