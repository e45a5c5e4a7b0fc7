"""Names of encoders stand for folders that serve."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from prerouter import encoders, modelfolder, overlap
from prerouter.errors import ConfigError, ModelFolderError, PreRouterError
from prerouter.files import shipped

ROOT = Path(__file__).parent.parent
STATIC = shipped("models/default") / "stages" / "0" / "encoder"


def test_static_is_the_shipped_one_and_auto_is_every_shipped_one(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (static,) = encoders.candidates(["static"], cache)
    assert (static.name, static.folders) == ("static", (STATIC,))
    names = [candidate.name for candidate in encoders.candidates(["auto", "static"], cache)]
    stages = list((shipped("models/default") / "stages").iterdir())
    assert names[0] == "static"
    assert len(names) == len(set(names)) == len(stages)
    assert not cache.exists()  # nothing had to be exported


def test_a_folder_is_served_as_it_is_and_a_plus_makes_two_stages(tmp_path: Path) -> None:
    folder = tmp_path / "a+b"
    shutil.copytree(STATIC, folder)
    (found,) = encoders.candidates([str(folder)], tmp_path / "cache")
    assert found.folders == (folder,)
    shutil.copytree(STATIC, tmp_path / "own")
    (two,) = encoders.candidates([f"static+{tmp_path / 'own'}"], tmp_path / "cache")
    assert two.folders == (STATIC, tmp_path / "own")
    assert two.encoders[0].fingerprint == two.encoders[1].fingerprint


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this is a whole model folder") as error:
        encoders.candidates([str(shipped("models/default"))], tmp_path)
    assert "stages/0/encoder" in error.value.next_step
    (tmp_path / "empty").mkdir()
    with pytest.raises(PreRouterError):
        encoders.candidates([str(tmp_path / "empty")], tmp_path / "cache")
    broken = tmp_path / "broken"
    shutil.copytree(STATIC, broken)
    (broken / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelFolderError):
        encoders.candidates([str(broken)], tmp_path / "cache")


def test_a_sentence_transformers_folder_is_exported_once(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from test_export import bert

    source, cache = bert(tmp_path / "bert", max_tokens=256), tmp_path / "cache"
    (found,) = encoders.candidates([str(source)], cache)
    assert found.encoders[0].features(["the cat"]).shape == (1, found.encoders[0].n_features)
    stamps = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    (again,) = encoders.candidates([str(source)], cache)
    assert again.folders == found.folders
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == stamps


def test_what_is_fine_tuned() -> None:
    assert encoders.source_of("auto") is encoders.source_of("minilm") is None
    assert encoders.source_of("some/model") == "some/model"
    for name in ("static", "transformer", "static+minilm"):
        with pytest.raises(ConfigError, match="cannot be fine-tuned"):
            encoders.source_of(name)


def test_the_rows_that_an_encoder_was_fine_tuned_on_are_known_wherever_it_lies(tmp_path: Path) -> None:
    (row, *_) = (ROOT / "labels" / "examples.jsonl").read_text("utf-8").splitlines()
    text = json.loads(row)["text"]
    shutil.copytree(STATIC, tmp_path / "elsewhere")
    for name in ("auto", "static", "transformer", "minilm+static", str(STATIC), str(tmp_path / "elsewhere")):
        assert overlap.known([text, "new to everyone"], encoders.lessons([name])) == [0], name
    assert encoders.lessons(["minilm", "some/model", str(tmp_path / "none")]) == ""


def test_of_a_trained_folder_the_encoders_rows_count_and_not_the_heads(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    model = modelfolder.load(shipped("models/default"))
    training = {"row_hashes": overlap.remember(["the head's"]), "encoder_hashes": overlap.remember(["the encoder's"])}
    modelfolder.save(folder, replace(model, training=training), "A card.")
    found = encoders.lessons([str(folder / "stages" / "0" / "encoder")])
    assert overlap.known(["the head's", "the encoder's"], found) == [1]
