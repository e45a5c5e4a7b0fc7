"""Model folders in MLflow and back: runs, versions, aliases, serving, and what is never logged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
import pytest
from model_help import rows, save, workspace
from test_runrecord import FIGURES, TRAINING

from prerouter import registry, tracker
from prerouter.errors import ConfigError, ModelFolderError
from prerouter.files import shipped
from prerouter.local import LocalClassifier
from prerouter.promote import promote, rollback
from prerouter.router import PreRouter
from prerouter.settings import Settings, load_settings
from prerouter.text import render
from prerouter.track import RunInfo, track

PATIENT = "[track]\ntimeout_s = 3600\n"  # a busy machine is not a defect
SECRET = "sk-ant-a-key-of-the-user"
PLOTTED = FIGURES | {"per_label": {"simple": {"n": 5, "recall": 0.5, "coverage": 0.5, "disagreement": 0.0}}}


@dataclass(frozen=True)
class Space:
    """A workspace in whose store two models were logged, the second one cut short once, and then promoted."""

    settings: Settings
    folder: Path
    first: RunInfo
    again: RunInfo
    second: RunInfo
    ids: tuple[str, str]
    promoted: Any


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    folder = tmp_path_factory.mktemp("tracked") / "ws"
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("MLFLOW_", "PREROUTER_"))]:
            patch.delenv(name)
        patch.setenv("ANTHROPIC_API_KEY", SECRET)
        settings = workspace(folder, PATIENT)
        rows(folder / "labels" / "heldout.jsonl")
        models = folder / "models"
        a = save(models / "a", sees="easy", training=TRAINING, figures=PLOTTED)
        b = save(models / "b")
        (folder / "report.html").write_text("<p>report</p>")
        promote(models / "a", settings=settings)  # before there is a registry
        first = track(models / "a", settings, files=[folder / "report.html"])
        again = track(models / "a", settings)
        second = track(models / "b", settings)
        promoted = promote(models / "b", settings=settings)
        yield Space(settings, folder, first, again, second, (a.model_folder_id, b.model_folder_id), promoted)


@pytest.fixture(scope="module")
def store(space: Space) -> Any:
    """What is in the store, see `mlflow_look`."""
    script = Path(__file__).with_name("mlflow_look.py")
    command = [sys.executable, "-P", str(script), tracker.store(space.settings), "prerouter"]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=space.folder)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def run(store: Any) -> Any:
    [found] = [run for run in store["runs"] if run["parent"] is None and run["metrics"].get("accuracy")]
    return found


def test_a_training_is_one_run_and_one_version(space: Space, store: Any) -> None:
    assert (space.first.version, space.first.already) == ("1", False)
    assert (space.again.version, space.again.run_id, space.again.already) == ("1", space.first.run_id, True)
    assert space.second.version == "2"
    assert len([run for run in store["runs"] if run["parent"] is None]) == 2
    assert {run["status"] for run in store["runs"]} == {"FINISHED"}


def test_the_run_holds_recipe_figures_certificate_versions_and_data(run: Any) -> None:
    assert run["params"]["recipe.seed"] == "3"
    assert (run["metrics"]["accuracy"], run["metrics"]["accuracy.lower"]) == (0.75, 0.7)
    assert run["metrics"]["certificate.upper_under"] == 0.019
    assert run["tags"]["prerouter.gate"] == "open"
    assert "the card of a" in run["tags"]["mlflow.note.content"]
    assert [data[:2] for data in run["data"]] == [["history.jsonl", "feedfeedfeed"], ["more.parquet", "feedfeedfeed"]]
    assert json.loads(run["data"][0][2]) == {"num_rows": 120}


def test_the_run_holds_plots_files_and_the_pipeline(run: Any) -> None:
    assert set(run["files"]) == {
        "README.md",
        "certificate.json",
        "figures.json",
        "plots/labels.png",
        "plots/shares.png",
        "report.html",
        "sklearn/pipeline-0.joblib",
        "taxonomy.json",
        "training.json",
    }


def test_what_was_compared_is_runs_inside_the_run(run: Any, store: Any) -> None:
    inner = [other for other in store["runs"] if other["parent"] == run["id"]]
    assert {other["name"] for other in inner} == {"encoder static", "encoder minilm", "C = 0.3", "C = 1.0"}
    assert next(o["metrics"]["log_loss"] for o in inner if o["name"] == "C = 0.3") == 0.62


def test_versions_name_their_folder_and_aliases_follow_the_links(space: Space, store: Any) -> None:
    tags = {version: tags["prerouter.model_folder_id"] for version, tags in store["versions"].items()}
    assert tags == {"1": space.ids[0], "2": space.ids[1]}
    assert store["aliases"] == {"champion": "2", "previous": "1"}
    assert (space.promoted.champion, space.promoted.previous, space.promoted.hints) == (space.ids[1], space.ids[0], ())


def test_the_served_model_decides_as_the_router_does(space: Space, store: Any) -> None:
    served = store["served"]
    with PreRouter.load(space.folder / "models" / "a", settings=Settings()) as router:
        expected = [router.decide(words, local_only=True) for words in ("easy please", "the hard task", "do this")]
    assert [row["label"] for row in served["batch"]] == [decision.label for decision in expected]
    assert [row["decided_by"] for row in served["batch"]] == ["local", "default", "default"]
    assert served["batch"][0]["model"] == expected[0].model
    assert served["batch"][0]["probabilities"] == pytest.approx(dict(expected[0].probabilities), abs=1e-6)
    assert served["wire"]["predictions"][0]["label"] == "simple"
    assert served["refused"] == 400
    assert json.loads(served["signature"]["inputs"])[0]["name"] == "text"
    assert list(served["example"][0]) == ["text"]


def test_no_secret_and_no_row_is_in_the_store(space: Space) -> None:
    texts = [json.loads(line)["text"] for line in (space.folder / "labels" / "heldout.jsonl").read_text().splitlines()]
    unwanted = [SECRET.encode(), b"row_hashes", texts[0].encode()]
    kept = [path for path in space.settings.state_dir.rglob("*") if path.is_file()]
    assert len(kept) > 10
    found = {path.name for path in kept if path.name != "model.json" for word in unwanted if word in path.read_bytes()}
    assert found == set()


def test_a_service_loads_the_champion_from_the_registry(space: Space) -> None:
    with PreRouter.load("models:/prerouter@champion", settings=space.settings) as router:
        assert router.local.model_folder_id == space.ids[1]
        assert router.decide("the hard task", local_only=True).label == "complex"
    cached = space.settings.state_dir / "registry" / space.ids[1]
    kept = sorted(path.name for path in cached.iterdir())
    assert kept == ["README.md", "model.json", "stages"]  # data, and no code

    # What is damaged in the cache is downloaded again.
    (cached / "stages" / "0" / "words.txt").write_text("damaged")
    assert registry.fetch("models:/prerouter/2", space.settings) == cached
    with PreRouter.load(cached, settings=space.settings) as router:
        assert router.local.model_folder_id == space.ids[1]


def test_a_running_service_follows_the_alias(space: Space) -> None:
    quick = load_settings(space.folder, flags={"router": {"look_s": 0.05}})
    with PreRouter.load("models:/prerouter@champion", settings=quick) as router:
        try:
            for wanted in (space.ids[0], space.ids[1]):
                tracker.ask("set_aliases", quick, name="prerouter", aliases={"champion": wanted})
                until = time.monotonic() + 120  # MLflow takes seconds to import
                while router.decide("the easy task", local_only=True).model_folder_id != wanted:
                    assert time.monotonic() < until
                    time.sleep(0.05)
        finally:
            tracker.ask("set_aliases", quick, name="prerouter", aliases={"champion": space.ids[1]})


def test_an_unknown_alias_is_refused(space: Space) -> None:
    with pytest.raises(ConfigError, match="alias") as refusal:
        registry.fetch("models:/prerouter@nobody", space.settings)
    assert refusal.value.exit_code == 2


@pytest.fixture
def copied(space: Space, tmp_path: Path) -> Settings:
    """A copy of the workspace whose store may be broken. Its artefacts are the original's, unless they were moved."""
    shutil.copytree(space.folder, tmp_path / "ws", symlinks=True)
    return workspace(tmp_path / "ws", PATIENT)


def test_code_in_the_registry_is_never_run_and_damage_is_refused(space: Space, tmp_path: Path) -> None:
    [folder] = [
        path.parent
        for path in space.settings.state_dir.rglob("mlflow-artifacts/**/artifacts/model_folder/model.json")
        if space.ids[0] in _id(path)
    ]
    marker, model = tmp_path / "ran", folder.parent.parent
    script = next(path for path in model.rglob("*.py"))
    whole, words = script.read_text(), (folder / "stages" / "0" / "words.txt").read_bytes()
    try:
        script.write_text(f"open({str(marker)!r}, 'w').close()\n{whole}")
        assert registry.fetch("models:/prerouter/1", space.settings).name == space.ids[0]
        assert not marker.exists()
        shutil.rmtree(space.settings.state_dir / "registry" / space.ids[0])
        (folder / "stages" / "0" / "words.txt").write_bytes(words + b"\nmore")
        with pytest.raises(ModelFolderError, match="damaged"):
            registry.fetch("models:/prerouter/1", space.settings)
        assert not (space.settings.state_dir / "registry" / space.ids[0]).exists()
    finally:
        script.write_text(whole)
        (folder / "stages" / "0" / "words.txt").write_bytes(words)


def _id(model_json: Path) -> str:
    import hashlib

    return hashlib.sha256(model_json.read_bytes()).hexdigest()[:12]


def test_a_registry_that_fails_leaves_what_it_said_last_and_does_not_stop_a_rollback(
    copied: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    registry.fetch("models:/prerouter@champion", copied)
    for beside in copied.state_dir.glob("mlflow.db*"):
        beside.write_bytes(b"this is no database")
    with caplog.at_level("WARNING", "prerouter"):
        folder = registry.fetch("models:/prerouter@champion", copied)
    assert PreRouter.load(folder, settings=copied).local.model_folder_id == folder.name
    assert "using what it was when last asked" in caplog.text
    found = rollback(settings=copied)
    assert found.promoted
    assert os.readlink(copied.resolve("models/champion")) == "a"
    assert "aliases are as before" in found.hints[0]


def test_a_folder_with_two_stages_goes_in_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "PREROUTER_"))]:
        monkeypatch.delenv(name)
    settings, folder = workspace(tmp_path / "ws", PATIENT), shipped("models/default")
    version = track(folder, settings).version
    [plots] = settings.state_dir.rglob("plots")
    assert {path.name for path in plots.iterdir()} == {"shares.png", "labels.png", "cost.png"}
    texts, local = ["What is 2 + 2?", "Prove that no entry of the ledger is lost."], LocalClassifier.load(folder)
    wanted = local.probabilities([render(text) for text in texts])
    for i in range(2):
        pipeline = joblib.load(plots.parent / "sklearn" / f"pipeline-{i}.joblib")
        assert pipeline.predict_proba(texts) == pytest.approx(np.array([p[i] for p in wanted]), abs=1e-5)
    with PreRouter.load(f"models:/prerouter/{version}", settings=settings) as router:
        assert router.local.probabilities([render(text) for text in texts]) == wanted
    [kept] = settings.state_dir.rglob(f"registry/{local.model_folder_id}")
    with (kept / "stages" / "1" / "encoder" / "model.onnx").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"tampered")
    with pytest.raises(ModelFolderError, match="damaged"):
        LocalClassifier.load(kept)
