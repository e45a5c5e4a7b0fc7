"""A model folder is read back as it was written, and anything wrong with it is refused with the next step."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save_file

from prerouter import modelfolder
from prerouter.errors import ModelFolderError
from prerouter.guard import Guard
from prerouter.modelfolder import Certificate, FolderModel, Gate, Head, Probe, Stage
from prerouter.taxonomy import Taxonomy
from prerouter.text import SIGNAL_NAMES

CERTIFICATE = Certificate(
    valid=True,
    confidence=0.95,
    max_under=0.02,
    max_disagreement=0.05,
    upper_under=0.0195,
    upper_disagreement=0.04,
    n_certify=900,
    n_groups=900,
    n_accepted=420,
    errors_under=3,
    errors_disagreement=9,
    labelled_by="claude-haiku-5-5",
    prompt_id="0123456789ab",
    scope="shipped data",
    text_version=1,
    created_at="2026-01-01T00:00:00Z",
    needed_rows=None,
)


def make_model(encoder: Path, n_stages: int = 2) -> FolderModel:
    rng = np.random.default_rng(0)
    n_signals = len(SIGNAL_NAMES)

    def array(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    stages = tuple(
        Stage(
            encoder=encoder,
            fingerprint="abcdef012345",
            head=Head(array(3, 6 + n_signals), array(3), array(n_signals), array(n_signals) ** 2),
            temperature=1.25,
            gate=Gate(0.8, 0.4) if i else Gate(),
            guard=Guard(array(5, 2), 0.7, frozenset({"the", "straße"}), 0.25),
        )
        for i in range(n_stages)
    )
    probes = (Probe("Was kostet “das”? 😀", ((0.2, 0.3, 0.5), (0.1, 0.2, 0.7))),)
    return FolderModel(
        taxonomy=Taxonomy.from_dict(
            {
                "name": "sizes",
                "ordered": True,
                "default": "middle",
                "labels": [
                    {"name": name, "definition": "d", "distinction": "e", "examples": ["f", "g", "h"], "tier": tier}
                    for name, tier in (("small", "haiku"), ("middle", "sonnet"), ("large", "opus"))
                ],
            },
            "test",
        ),
        text_version=1,
        stages=stages,
        certificate=CERTIFICATE,
        probes=probes,
        training={"fingerprint": "feedfeedfeed", "rows": {"fit": 10}},
        figures={"coverage": 0.5},
        versions=modelfolder.versions("safetensors"),
    )


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "encoder-source"
    (folder / "1_Normalize").mkdir(parents=True)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "1_Normalize" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def saved(tmp_path: Path, encoder: Path) -> Path:
    modelfolder.save(tmp_path / "models" / "model", make_model(encoder), "# card\n")
    return tmp_path / "models" / "model"


def reseal(folder: Path, change: Any) -> None:
    """Rewrite model.json with a change and a correct checksum: what a hostile or a newer writer could make."""
    path = folder / "model.json"
    content = json.loads(path.read_text("utf-8"))
    change(content)

    def dump(value: dict[str, Any]) -> str:
        return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    content.pop("checksum")
    content["checksum"] = hashlib.sha256(dump(content).encode()).hexdigest()
    path.write_text(dump(content), "utf-8")


def test_comes_back_as_it_went(saved: Path, encoder: Path) -> None:
    expected, found = make_model(encoder), modelfolder.load(saved)
    assert found.taxonomy == expected.taxonomy
    assert found.certificate == expected.certificate
    assert found.probes == expected.probes
    assert (found.training, found.figures, found.versions) == (expected.training, expected.figures, expected.versions)
    for i, (a, b) in enumerate(zip(found.stages, expected.stages, strict=True)):
        assert a.encoder == saved / "stages" / str(i) / "encoder"
        assert (a.fingerprint, a.temperature, a.gate) == (b.fingerprint, b.temperature, b.gate)
        assert (a.guard.limit, a.guard.words, a.guard.max_unknown) == (0.7, {"the", "straße"}, 0.25)
        assert np.array_equal(a.guard.centroids, b.guard.centroids)
        for name in ("weights", "bias", "signal_mean", "signal_scale"):
            assert np.array_equal(getattr(a.head, name), getattr(b.head, name))
    assert (saved / "README.md").read_text() == "# card\n"


def test_id_is_of_the_bytes_and_saving_is_repeatable(saved: Path, tmp_path: Path, encoder: Path) -> None:
    found = modelfolder.load(saved)
    assert found.model_folder_id == hashlib.sha256((saved / "model.json").read_bytes()).hexdigest()[:12]
    again = modelfolder.save(tmp_path / "again", make_model(encoder), "# card\n")
    assert again.model_folder_id == found.model_folder_id
    other = modelfolder.save(tmp_path / "other", make_model(encoder, n_stages=1), "# card\n")
    assert other.model_folder_id != found.model_folder_id


def test_only_plain_data_is_written(saved: Path) -> None:
    kinds = {path.suffix for path in saved.rglob("*") if path.is_file()}
    assert kinds == {".json", ".md", ".safetensors", ".txt"}


def test_replacing_is_whole_and_leaves_nothing_beside(saved: Path, encoder: Path, tmp_path: Path) -> None:
    (saved / "notes.txt").write_text("old")
    modelfolder.save(saved, make_model(encoder, n_stages=1), "# new\n")
    assert len(modelfolder.load(saved).stages) == 1
    assert not (saved / "notes.txt").exists()
    assert not (saved / "stages" / "1").exists()
    assert sorted(path.name for path in saved.parent.iterdir()) == ["encoder-source", "model"]


def test_a_failed_save_leaves_the_old_folder(saved: Path, tmp_path: Path) -> None:
    before = (saved / "model.json").read_bytes()
    with pytest.raises(OSError, match="nowhere"):
        modelfolder.save(saved, make_model(tmp_path / "nowhere"), "# card\n")
    assert (saved / "model.json").read_bytes() == before
    assert sorted(path.name for path in saved.parent.iterdir()) == ["encoder-source", "model"]


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path, encoder: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("irreplaceable")
    with pytest.raises(ModelFolderError, match="will not overwrite"):
        modelfolder.save(tmp_path / "thesis", make_model(encoder), "# card\n")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "irreplaceable"


def test_a_link_is_written_through(tmp_path: Path, saved: Path, encoder: Path) -> None:
    link = saved.parent / "champion"
    link.symlink_to("model")
    modelfolder.save(link, make_model(encoder, n_stages=1), "# card\n")
    assert link.is_symlink()
    assert len(modelfolder.load(saved).stages) == 1


def test_every_flipped_byte_is_seen(saved: Path) -> None:
    for path in [path for path in saved.rglob("*") if path.is_file()]:
        whole = path.read_bytes()
        for place in {0, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
            damaged = bytearray(whole)
            damaged[place] ^= 0x01
            path.write_bytes(damaged)
            with pytest.raises(ModelFolderError) as refusal:
                modelfolder.load(saved)
            assert refusal.value.next_step
        path.write_bytes(whole)
    modelfolder.load(saved)


def test_every_byte_of_model_json_counts(saved: Path) -> None:
    path = saved / "model.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x04
        path.write_bytes(damaged)
        with pytest.raises(ModelFolderError):
            modelfolder.load(saved)


def test_every_missing_file_is_named(saved: Path) -> None:
    for path in [path for path in saved.rglob("*") if path.is_file()]:
        whole = path.read_bytes()
        path.unlink()
        with pytest.raises(ModelFolderError, match=rf"{path.name} is missing"):
            modelfolder.load(saved)
        path.write_bytes(whole)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="no such model folder"):
        modelfolder.load(tmp_path / "none")
    with pytest.raises(ModelFolderError, match=r"model\.json is missing"):
        modelfolder.load(tmp_path)


def test_newer_schema_says_upgrade(saved: Path) -> None:
    reseal(saved, lambda content: content.update(schema_version=2, something_new=[1]))
    with pytest.raises(ModelFolderError, match=r"made by a newer prerouter.*pip install --upgrade prerouter"):
        modelfolder.load(saved)


def test_unknown_text_version(saved: Path) -> None:
    reseal(saved, lambda content: content.update(text_version=99))
    with pytest.raises(ModelFolderError, match=r"unknown text version 99; this prerouter knows 1"):
        modelfolder.load(saved)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b'{"schema_version": "1"}', b'{"schema_version": NaN}', b"\xff\xfe", b"[" * 100_000],
    ids=["empty", "cut", "list", "null", "wrong type", "NaN", "not UTF-8", "deep"],
)
def test_malformed_json(saved: Path, data: bytes) -> None:
    (saved / "model.json").write_bytes(data)
    with pytest.raises(ModelFolderError) as refusal:
        modelfolder.load(saved)
    assert "model.json" in refusal.value.where


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "stages/../../outside", "a\\..\\b", "C:x", "a\0b"])
def test_file_names_stay_inside(saved: Path, name: str) -> None:
    (saved.parent / "outside").write_text("secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    reseal(saved, lambda content: content["files"].update({name: digest}))
    with pytest.raises(ModelFolderError, match="unsafe file name"):
        modelfolder.load(saved)


def drop_second_stage(content: dict[str, Any]) -> None:
    content["files"] = {name: digest for name, digest in content["files"].items() if "stages/1" not in name}


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("stages"),
        lambda c: c.update(stages=[]),
        lambda c: c.update(stages=7),
        lambda c: c.update(files=[]),
        lambda c: c["certificate"].pop("valid"),
        lambda c: c["stages"][0].update(temperature=0),
        lambda c: c["stages"][0].update(temperature="hot"),
        lambda c: c["stages"][0]["gate"].update(threshold=-1),
        lambda c: c["stages"][0]["gate"].update(unknown=1),
        lambda c: c["stages"][0]["guard"].update(limit=True),
        lambda c: c["taxonomy"].update(default="none such"),
        lambda c: c["probes"].append({}),
        drop_second_stage,
    ],
)
def test_wrong_content_is_refused(saved: Path, change: Any) -> None:
    reseal(saved, change)
    with pytest.raises(ModelFolderError) as refusal:
        modelfolder.load(saved)
    assert refusal.value.next_step


def damage_head(folder: Path, **arrays: np.ndarray) -> None:
    path = folder / "stages" / "0" / "head.safetensors"
    save_file(load_arrays(path.read_bytes()) | arrays, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    reseal(folder, lambda content: content["files"].update({"stages/0/head.safetensors": digest}))


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"bias": np.array([0, np.nan, 0], np.float32)}, "bias holds NaN"),
        ({"bias": np.array([0, np.inf, 0], np.float32)}, "bias holds NaN or infinity"),
        ({"bias": np.zeros(4, np.float32)}, "shapes do not fit"),
        ({"signal_mean": np.zeros(1, np.float32)}, "shapes do not fit"),
        ({"weights": np.zeros((3, 2))}, "weights must be a float32 array"),
        ({"centroids": np.zeros((0, 2), np.float32)}, "centroids must be"),
    ],
)
def test_wrong_arrays_are_refused(saved: Path, arrays: dict[str, np.ndarray], what: str) -> None:
    damage_head(saved, **arrays)
    with pytest.raises(ModelFolderError, match=what):
        modelfolder.load(saved)


def test_head_that_is_no_safetensors_file(saved: Path) -> None:
    path = saved / "stages" / "0" / "head.safetensors"
    path.write_bytes(b"\x80\x04cos\nsystem\n")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    reseal(saved, lambda content: content["files"].update({"stages/0/head.safetensors": digest}))
    with pytest.raises(ModelFolderError, match="not a safetensors file"):
        modelfolder.load(saved)


def test_nan_cannot_be_saved(tmp_path: Path, encoder: Path) -> None:
    model = dataclasses.replace(make_model(encoder), figures={"coverage": float("nan")})
    with pytest.raises(ValueError, match="JSON compliant"):
        modelfolder.save(tmp_path / "models" / "model", model, "# card\n")
    assert not (tmp_path / "models" / "model").exists()


def test_loading_imports_nothing_heavy(saved: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from prerouter import modelfolder; "
        f"modelfolder.load(Path({str(saved)!r})); "
        "print({'torch', 'sklearn', 'scipy', 'anthropic', 'mlflow', 'pickle'} & set(sys.modules) - set(BEFORE))"
    )
    # numpy itself imports pickle; what counts is that loading adds nothing to that.
    environ = {**os.environ, "PYTHONPATH": str(Path(modelfolder.__file__).parents[1])}
    before = "import numpy, sys; BEFORE = list(sys.modules); "
    done = subprocess.run(
        [sys.executable, "-c", before + code], capture_output=True, text=True, check=True, env=environ
    )
    assert done.stdout.strip() == "set()"
