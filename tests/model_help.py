"""Tiny model folders and workspaces for tests of what happens to finished models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from test_local import CERTIFICATE, WORDS, make_model, make_stage, write_encoder

from prerouter import modelfolder, overlap
from prerouter.modelfolder import Certificate, FolderModel
from prerouter.settings import Settings, load_settings

LABELS = {"easy": "simple", "medium": "moderate", "hard": "complex"}


def save(
    folder: Path,
    *,
    sees: str = "easy hard",
    turned: bool = False,
    valid: bool = True,
    certificate: Certificate = CERTIFICATE,
    learnt: Iterable[str] | None = (),
    training: Mapping[str, Any] | None = None,
    words: Sequence[str] = WORDS,
    **kind: Any,
) -> FolderModel:
    """A model that is sure of the words in `sees`; `turned`: of their opposites. learnt: texts that it was trained on,
    None where the folder does not say. words: what its encoder can tell apart."""
    encoder = folder.parent / f".encoder-{folder.name}"
    stage = make_stage(encoder if encoder.exists() else write_encoder(encoder, words), sees=sees, words=words)
    if turned:
        stage = replace(stage, head=replace(stage.head, weights=np.ascontiguousarray(stage.head.weights[::-1])))
    made = certificate if valid else replace(certificate, valid=False, needed_rows=1234)
    record = dict(training or {}) | ({} if learnt is None else {"row_hashes": overlap.remember(learnt)})
    model = replace(make_model(stage, certificate=made), training=record, **kind)
    return modelfolder.save(folder, model, f"# the card of {folder.name}\n")


def rows(path: Path, n: int = 40, *, words: Iterable[str] = ("easy", "medium", "hard"), **fields: Any) -> Path:
    """`n` labelled requests for each of the words, all different."""
    fillers = ("please", "do", "this", "the", "task", "now")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as out:
        for word in words:
            for i in range(n):
                text = " ".join([word, *(fillers[(i // 6**k) % 6] for k in range(3))])
                out.write(json.dumps({"text": text, "label": LABELS[word], **fields}) + "\n")
    return path


def workspace(folder: Path, text: str = "") -> Settings:
    """Settings of a workspace made in `folder`."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    (folder / "prerouter.toml").write_text(text)
    return load_settings(folder)
