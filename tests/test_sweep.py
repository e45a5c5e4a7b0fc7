from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_local import make_model, make_stage, write_encoder

from prerouter import certify, modelfolder, sweep, text
from prerouter.local import LocalClassifier

TEXTS = ["easy please", "medium please", "hard please", "do this please", "das verstehe ich nicht", "please easy now"]
TRUTH = np.array([0, 1, 2, 1, 1, 2])


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> LocalClassifier:
    """Stage 0 knows easy and hard, stage 1 medium too."""
    folder = tmp_path_factory.mktemp("sweep")
    encoder = write_encoder(folder / "encoder")
    stages = make_stage(encoder), make_stage(encoder, sees="easy medium hard", strict=0.02)
    modelfolder.save(folder / "model", make_model(*stages), "# card\n")
    return LocalClassifier.load(folder / "model")


@pytest.fixture(scope="module")
def requests() -> list[text.Request]:
    return [text.render(words) for words in TEXTS]


def test_every_stage_sees_every_row(local: LocalClassifier, requests: list[text.Request]) -> None:
    rows = sweep.scored(local, requests, TRUTH)
    assert rows.risk.shape == rows.predicted.shape == (2, len(TEXTS))
    assert rows.predicted[1, :3].tolist() == [0, 1, 2]
    assert np.isinf(rows.risk[:, 4]).all()  # the guard does not know these words
    assert rows.risk[1, 1] < 0.1 < rows.risk[0, 1]  # only the second stage knows "medium"


def test_the_gate_in_use_is_what_is_served(local: LocalClassifier, requests: list[text.Request]) -> None:
    rows = sweep.scored(local, requests, TRUTH)
    used = sweep.in_use(local, rows)
    served = local.score_many(requests)
    decided = [(s.label, truth) for s, truth in zip(served, TRUTH.tolist(), strict=True) if s.decided]
    wrong = sum(local.taxonomy_names.index(label) != truth for label, truth in decided)
    assert used is not None
    assert (used.found.n_accepted, used.found.n_disagreement) == (len(decided), wrong) == (4, 1)
    strict = sweep.in_use(local, rows, strict=True)
    assert strict is not None
    assert strict.thresholds == (0.01, 0.02)


def test_wider_gates_decide_more(local: LocalClassifier, requests: list[text.Request]) -> None:
    rows = sweep.scored(local, requests, TRUTH)
    points = sweep.sweep(rows, 4)
    counts = [point.found.n_accepted for point in points]
    assert counts == sorted(counts)
    assert counts[-1] == 5  # all but the row that the guard turns away
    assert all(point.found == certify.tally(rows, point.thresholds) for point in points)
    assert [len(set(point.thresholds)) for point in points] == [1] * len(points)


def test_where_the_guard_turns_everything_away_there_is_no_gate() -> None:
    nothing = certify.Scored(np.full((1, 3), np.inf), np.zeros((1, 3), np.int64), np.zeros(3, np.int64))
    assert sweep.sweep(nothing, 5) == []


def test_a_closed_gate_is_not_in_use(tmp_path: Path, requests: list[text.Request]) -> None:
    encoder = write_encoder(tmp_path / "encoder")
    modelfolder.save(tmp_path / "model", make_model(make_stage(encoder, threshold=None)), "# card\n")
    closed = LocalClassifier.load(tmp_path / "model")
    assert sweep.in_use(closed, sweep.scored(closed, requests, TRUTH)) is None
