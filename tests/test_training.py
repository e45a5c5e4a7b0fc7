"""Training end to end: the folder, its certificate, what is said about the labels, and what goes wrong."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from safetensors.numpy import load_file, save_file

import prerouter
from prerouter import certify, modelfolder, overlap
from prerouter.cli import main
from prerouter.errors import ConfigError, DataError
from prerouter.files import shipped
from prerouter.local import LocalClassifier
from prerouter.settings import Settings
from prerouter.training import TrainResult, train

STATIC = shipped("models/default") / "stages" / "0" / "encoder"
SHARED_KEYS = {
    *("n", "accuracy", "coverage", "disagreement", "under_routing", "over_routing", "joint_disagreement"),
    *("joint_under_routing", "ece", "per_label", "by_stage", "auroc_novel", "novel_coverage", "cost", "gate"),
    "certificate",
}


def _labelled(n: int, **options: Any) -> list[dict[str, Any]]:
    who = {"labelled_by": "claude-haiku-5-5", "prompt_id": "0123456789ab"}
    return [row | who | {"second": row["label"]} for row in synthetic.rows(n, **options)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of this module's own."""
    return tmp_path_factory.mktemp("team")


@pytest.fixture(scope="module")
def settings(place: Path) -> Settings:
    return Settings(workspace=place)


@pytest.fixture(scope="module")
def examples(place: Path) -> Path:
    table = _labelled(500, noise=0.03)
    return synthetic.write(place / "labels" / "examples.jsonl", [*table, table[0], table[1]])


@pytest.fixture(scope="module")
def made(place: Path, settings: Settings, examples: Path) -> TrainResult:
    return train(examples, place / "models" / "mine", encoder="static", track=False, settings=settings)


def test_the_folder_serves_and_decides(made: TrainResult) -> None:
    local = LocalClassifier.load(made.folder)
    assert local.model_folder_id == made.model.model_folder_id
    router = prerouter.PreRouter.load(made.folder)
    rows = synthetic.rows(60, seed=5)
    decisions = router.decide_many([row["text"] for row in rows])
    local_right = [d.label == row["label"] for d, row in zip(decisions, rows, strict=True) if d.decided_by == "local"]
    assert len(local_right) > 20
    assert sum(local_right) > 0.85 * len(local_right)


def test_the_certificate_says_what_was_shown_and_by_whom(made: TrainResult) -> None:
    shown = made.model.certificate
    assert shown.valid
    assert (shown.max_under, shown.max_disagreement, shown.confidence) == (0.05, 0.10, 0.95)
    assert (shown.labelled_by, shown.prompt_id) == ("claude-haiku-5-5", "0123456789ab")
    assert shown.scope == made.folder.parent.parent.name
    assert shown.n_certify == made.model.training["rows"]["certify"] == made.figures.n
    assert shown.upper_disagreement == pytest.approx(
        certify.upper_bound(shown.errors_disagreement, shown.n_accepted, 0.95)
    )
    assert 0 < shown.n_accepted <= shown.n_certify


def test_the_record_tells_how_it_was_made(made: TrainResult, examples: Path) -> None:
    record = made.model.training
    assert record["encoder"] == "static"
    assert record["duplicates"] == {"exact": 2, "near": 0, "overlap": 0}
    assert sum(record["rows"].values()) == 500
    assert str(record["C"]) in record["cross_validation"]
    assert record["recipe"]["max_under"] == 0.05
    texts = [json.loads(line)["text"] for line in examples.read_text().splitlines()]
    assert len(overlap.known(texts, record["row_hashes"])) == len(texts)
    assert overlap.known(["not a row of it"], record["row_hashes"]) == []


def test_no_text_of_a_request_is_in_the_folder(made: TrainResult, examples: Path) -> None:
    content = b"".join(path.read_bytes() for path in made.folder.rglob("*") if path.suffix in (".json", ".md", ".txt"))
    for line in examples.read_text().splitlines():
        assert json.loads(line)["text"].encode() not in content


def test_json_has_the_keys_of_the_contract(made: TrainResult) -> None:
    found = made.to_json()
    assert set(found) >= SHARED_KEYS
    assert found["gate"] == "open"
    assert found["measured_on"] == "certify rows"
    assert found["novel_coverage"] is None
    assert found["ceiling"]["agreement"] == 1.0
    assert found["cost"]["prerouter"] > 0
    json.dumps(found, allow_nan=False)


def test_the_card_has_the_figures(made: TrainResult) -> None:
    card = (made.folder / "README.md").read_text()
    shown = made.model.certificate
    assert f"of {shown.n_certify:,} certify rows {shown.n_accepted:,} are decided" in card
    assert f"{made.figures.coverage:.1%}" in card
    assert "A perfect model" not in card
    assert "a perfect model would reach 100.0% to 100.0%" in card


def test_wrong_labels_are_listed_with_their_rows_outside_the_model_folder(made: TrainResult, place: Path) -> None:
    """3 % of the labels were drawn at random, two thirds of them wrong."""
    file = made.findings.file
    assert file == place / ".prerouter" / "suspects" / "mine.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    wrong = [row for row in rows if not set(row["text"].split()) & set(synthetic.TELLING[row["label"]].split())]
    assert 3 <= len(wrong) <= 20
    assert len(wrong) >= 0.8 * len(rows)
    assert rows[0]["suspect"]["probability"] > 0.5
    assert rows[0]["suspect"]["suggested"] != rows[0]["label"]


def test_a_second_training_encodes_nothing_and_finds_the_same(
    made: TrainResult, place: Path, settings: Settings, examples: Path
) -> None:
    kept = {path: path.read_bytes() for path in (place / ".prerouter" / "embeddings").rglob("*.rows")}
    again = train(examples, place / "models" / "again", encoder="static", track=False, settings=settings)
    assert {path: path.read_bytes() for path in (place / ".prerouter" / "embeddings").rglob("*.rows")} == kept
    one, two = (load_file(result.folder / "stages" / "0" / "head.safetensors") for result in (made, again))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert again.figures.to_json() | {"certificate": None} == made.figures.to_json() | {"certificate": None}


def test_twenty_rows_give_a_closed_gate_that_says_what_would_open_it(tmp_path: Path, settings: Settings) -> None:
    path = synthetic.write(tmp_path / "few.jsonl", _labelled(20))
    found = train(path, tmp_path / "few", encoder="static", track=False, settings=settings)
    shown = found.model.certificate
    assert not shown.valid
    assert shown.needed_rows is not None
    assert shown.needed_rows > 100
    assert found.figures.gate == "closed"
    assert found.figures.coverage == 0.0
    assert found.to_json()["disagreement"] is None
    assert f"about {shown.needed_rows:,} more labelled requests" in (found.folder / "README.md").read_text()


def test_contradicting_labels_close_the_gate(tmp_path: Path, settings: Settings) -> None:
    rng = np.random.default_rng(0)
    rows = [row | {"label": str(rng.choice(list(synthetic.TELLING)))} for row in synthetic.rows(300)]
    path = synthetic.write(tmp_path / "noise.jsonl", rows)
    found = train(path, tmp_path / "noise", encoder="static", track=False, settings=settings)
    assert not found.model.certificate.valid
    assert (found.model.certificate.needed_rows or 0) > 0


@pytest.fixture(scope="module")
def intents(place: Path) -> Path:
    topics = ("simple", "moderate", "complex")
    rows = [row | {"label": f"about {row['label']}"} for row in synthetic.rows(420, topics, seed=3, noise=0.02)]
    rng = np.random.default_rng(0)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    odd = [{"text": " ".join("".join(rng.choice(letters, 7)) for _ in range(9)), "label": "oos"} for _ in range(60)]
    return synthetic.write(place / "intents.jsonl", [*rows, *odd])


def test_labels_of_the_rows_without_order_and_rows_of_no_class(place: Path, settings: Settings, intents: Path) -> None:
    found = train(
        intents,
        place / "models" / "intents",
        taxonomy="infer",
        novel_label="oos",
        encoder="static",
        track=False,
        settings=settings,
    )
    shown = found.model.certificate
    assert found.model.taxonomy.names == ("about complex", "about moderate", "about simple")
    assert (shown.max_under, shown.upper_under, shown.errors_under) == (None, None, None)
    assert found.figures.under_routing is found.figures.over_routing is None
    assert found.figures.novel_coverage is not None
    assert found.figures.novel_coverage <= 0.1
    assert found.figures.auroc_novel is not None
    assert found.figures.auroc_novel > 0.9
    assert found.model.training["novel"] == 60
    assert found.model.training["novel_label"] == "oos"
    assert shown.n_certify == found.figures.n + found.figures.n_novel  # what is decided of these is an error, too


def test_of_several_encoders_the_best_is_taken_and_it_is_said_why(
    tmp_path: Path, settings: Settings, examples: Path
) -> None:
    blind = tmp_path / "blind"
    shutil.copytree(STATIC, blind)
    tensors = load_file(blind / "model.safetensors")
    tensors["embeddings"] = (
        np.random.default_rng(0).normal(size=(1, 128)).astype(np.float16).repeat(len(tensors["embeddings"]), axis=0)
    )
    save_file(tensors, blind / "model.safetensors")
    found = train(examples, tmp_path / "out", encoder=[str(blind), "static"], track=False, settings=settings)
    assert found.model.training["encoder"] == "static"
    names = [candidate["name"] for candidate in found.candidates]
    assert names == [str(blind), "static"]
    assert found.candidates[0]["log_loss"] > found.candidates[1]["log_loss"]
    assert found.model.training["candidates"] == list(found.candidates)


def test_two_stages_share_one_certificate(tmp_path: Path, settings: Settings, examples: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(STATIC, other)
    test = synthetic.write(tmp_path / "test.jsonl", _labelled(120, seed=9))
    found = train(examples, tmp_path / "out", encoder=f"static+{other}", test=test, track=False, settings=settings)
    assert len(found.model.stages) == 2
    assert found.measured_on == "test rows"
    assert found.figures.n == 120
    assert len(found.figures.by_stage) == 2
    assert len(found.model.probes[0].probabilities) == 2


def test_the_command_prints_one_json_object(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = synthetic.write(tmp_path / "rows.jsonl", _labelled(60))
    arguments = ["train", str(path), "-o", str(tmp_path / "m"), "--encoder", "static", "--no-track", "--json"]
    assert main([*arguments, "--max-under", "0.2", "--max-disagreement", "0.3", "--confidence", "0.8"]) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert set(found) >= SHARED_KEYS
    assert found["certificate"]["max_under"] == 0.2
    assert found["certificate"]["scope"] == "rows.jsonl"
    assert "Traceback" not in err
    assert main(["train", str(path), "-o", str(tmp_path / "m"), "--encoder", "static", "--no-track"]) == 0
    out, err = capfd.readouterr()
    assert "gate " in out
    assert "accuracy" in out
    assert "simple" in out
    assert "under 50 rows" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl"], "cannot read it: No such file or directory (none.jsonl)"),
        (["rows.jsonl", "--encoder", "./none"], "no such folder (--encoder ./none)"),
        (["rows.jsonl", "--max-under", "2"], "2 is not a number between 0 and 1"),
        (["rows.jsonl", "--recipe", "none.toml"], "no such file of the recipe (none.toml)"),
        (["rows.jsonl", "--taxonomy", "none.toml"], "none.toml"),
        (["bad.jsonl"], "'hard' is not a label of the taxonomy 'complexity' (bad.jsonl, line 2)"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    synthetic.write(Path("rows.jsonl"), synthetic.rows(30))
    synthetic.write(Path("bad.jsonl"), [{"text": "a", "label": "simple"}, {"text": "b", "label": "hard"}])
    assert main(["train", *arguments, "-o", "out", "--no-track", "--json"]) == 2
    out, err = capfd.readouterr()
    assert message in err
    assert json.loads(out)["error"]["next"]
    assert not Path("out").exists()


def test_outputs_that_may_not_be_written_are_refused_before_the_work(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    (tmp_path / "used").mkdir()
    (tmp_path / "champion").symlink_to("used")
    messages = {"full": "will not overwrite", "champion": "the output is champion", "used": "the output is champion"}
    for name, message in messages.items():
        with pytest.raises(ConfigError, match=message):
            train("no such file", tmp_path / name, track=False, settings=settings)


def test_a_failed_training_leaves_the_old_folder_alone(made: TrainResult, tmp_path: Path, settings: Settings) -> None:
    folder = shutil.copytree(made.folder, tmp_path / "old")
    path = synthetic.write(tmp_path / "bad.jsonl", [{"text": "a", "label": "simple"}] * 30)
    with pytest.raises(DataError, match="every row is labelled"):
        train(path, folder, track=False, settings=settings)
    assert modelfolder.load(folder).model_folder_id == made.model.model_folder_id


@pytest.mark.parametrize("seconds", [0.5, 4.0])
def test_killed_at_any_moment_the_folder_in_use_stays_whole(
    made: TrainResult, examples: Path, tmp_path: Path, seconds: float
) -> None:
    folder = shutil.copytree(made.folder, tmp_path / "in_use")
    command = [sys.executable, "-m", "prerouter", "train", str(examples), "-o", str(folder), "--no-track"]
    running = subprocess.Popen([*command, "--encoder", "static"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)  # wherever it is by then
    running.send_signal(signal.SIGKILL)
    running.wait()
    LocalClassifier.load(folder)


def test_fine_tuning_makes_a_stage_of_its_own(tmp_path: Path, settings: Settings) -> None:
    pytest.importorskip("torch")
    from test_export import bert

    rng, rows = np.random.default_rng(0), []
    for i in range(80):
        words = [*rng.choice(["the", "of", "sat", "café", "α"], 6), "mat" if i % 2 else "cat", f"naive {i}"]
        rows.append({"text": _spelled(" ".join(words)), "label": "complex" if i % 2 else "simple"})
    path = synthetic.write(tmp_path / "rows.jsonl", rows)
    found = train(
        path,
        tmp_path / "tuned",
        encoder=str(bert(tmp_path / "bert", max_tokens=256)),
        finetune=True,
        finetuning={"epochs": 1},
        track=False,
        settings=settings,
    )
    assert found.model.training["encoder"].startswith("fine-tuned ")
    assert found.model.training["C"] is None
    assert not found.model.stages[0].head.weights[:, -21:].any()
    assert (found.folder / "stages" / "0" / "encoder" / "model.onnx").is_file()


def test_what_the_encoder_was_fine_tuned_on_certifies_nothing(place: Path, settings: Settings) -> None:
    root = Path(__file__).parent.parent
    files = [root / "labels" / name for name in ("examples.jsonl", "heldout.jsonl")]
    found = train(files, place / "models" / "known", encoder="static", track=False, settings=settings)
    record, n_known = found.model.training, len(files[0].read_text("utf-8").splitlines())
    assert record["known_to_encoder"] == n_known
    assert record["rows"]["calibrate"] + record["rows"]["certify"] < len(files[1].read_text("utf-8").splitlines())
    alone = train(files[0], place / "models" / "all known", encoder="static", track=False, settings=settings)
    assert (alone.figures.gate, alone.figures.n, alone.model.certificate.n_certify) == ("closed", 0, 0)
    with pytest.raises(DataError, match=f"{n_known} of {n_known} rows are in the training data"):
        prerouter.evaluate(place / "models" / "mine", files[0], settings=settings)


def _spelled(text: str) -> str:
    """Numbers in letters, so that rows are no duplicates."""
    return "".join(chr(97 + int(c)) if c.isdigit() else c for c in text)
