"""A stage as a scikit-learn pipeline: the same probabilities, and a file of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from model_help import save
from test_local import TAXONOMY, make_model, make_stage, write_encoder

from prerouter import modelfolder, sklearnmodel, text
from prerouter.errors import ModelFolderError
from prerouter.files import shipped
from prerouter.local import LocalClassifier
from prerouter.taxonomy import Taxonomy

BODIES = [
    "What is 2 + 2?",
    "",
    "Design a ledger and prove that no entry is lost.\n\n```py\nx = [1]\n```",
    {"messages": [{"role": "user", "content": "Translate: the invoice is attached."}], "system": "Be brief."},
]


def test_its_probabilities_are_the_stages() -> None:
    folder = shipped("models/default")
    found = sklearnmodel.pipeline(folder).predict_proba(BODIES)
    local = LocalClassifier.load(folder)
    expected = [scores.probabilities for scores in local.score_many([text.render(body) for body in BODIES])]
    if len(local.model.stages) == 1:  # `score_many` shows the last stage that was asked
        assert np.abs(found - np.array(expected)).max() < 1e-5
    assert found.sum(axis=1) == pytest.approx(1.0)
    assert list(sklearnmodel.pipeline(folder).classes_) == list(local.taxonomy_names)


def test_each_stage_has_its_own(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder")
    stages = make_stage(encoder, sees="easy"), make_stage(encoder, sees="hard")
    modelfolder.save(tmp_path / "two", make_model(*stages), "# card\n")
    paths = sklearnmodel.dump(tmp_path / "two", tmp_path)
    assert [path.name for path in paths] == ["pipeline-0.joblib", "pipeline-1.joblib"]
    assert sklearnmodel.pipeline(tmp_path / "two", 0).predict(["easy"]) == ["simple"]
    assert sklearnmodel.pipeline(tmp_path / "two", 1).predict(["hard"]) == ["complex"]


def test_two_labels(tmp_path: Path) -> None:
    stage = make_stage(write_encoder(tmp_path / "encoder"))
    head = replace(stage.head, weights=stage.head.weights[[0, 2]], bias=np.array([0.1, -0.2], np.float32))
    table = TAXONOMY.to_dict() | {"default": "simple"}
    taxonomy = Taxonomy.from_dict(table | {"labels": [table["labels"][0], table["labels"][2]]})
    model = replace(make_model(replace(stage, head=head)), taxonomy=taxonomy)
    modelfolder.save(tmp_path / "two", model, "# card\n")
    words = ["easy task", "hard task", "do this"]
    found = sklearnmodel.pipeline(tmp_path / "two").predict_proba(words)
    expected = LocalClassifier.load(tmp_path / "two").score_many([text.render(word) for word in words])
    assert np.abs(found - [scores.probabilities for scores in expected]).max() < 1e-6


def test_the_file_needs_neither_the_folder_nor_anything_but_joblib(tmp_path: Path) -> None:
    save(tmp_path / "model")
    [path] = sklearnmodel.dump(tmp_path / "model", tmp_path)
    shutil.rmtree(tmp_path / "model")
    code = f"import joblib; p = joblib.load({str(path)!r}); print(p.predict(['easy please', 'hard please']).tolist())"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['simple', 'complex']"


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "model")
    (tmp_path / "model" / "stages" / "0" / "words.txt").write_text("damaged")
    with pytest.raises(ModelFolderError):
        sklearnmodel.pipeline(tmp_path / "model")
