"""What was encoded once is read from disk, and a damaged file is not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from prerouter import embedcache
from prerouter.embedcache import CachedEncoder
from prerouter.encoder import load_encoder
from prerouter.files import shipped

STATIC = shipped("models/default") / "stages" / "0" / "encoder"
TEXTS = ["What is 2 + 2?", "", "Prove it.", "What is 2 + 2?", "Übersetze das."]


class Interrupted:
    """An encoder that is stopped by Ctrl-C after so many texts."""

    def __init__(self, after: int) -> None:
        self._real, self._left = load_encoder(STATIC), after
        self.n_dims, self.n_features = self._real.n_dims, self._real.n_features

    @property
    def fingerprint(self) -> str:
        return self._real.fingerprint

    def encode(self, texts: Sequence[str]) -> NDArray[Any]:
        return self._real.encode(texts)

    def features(self, texts: Sequence[str]) -> NDArray[Any]:
        self._left -= len(texts)
        if self._left < 0:
            raise KeyboardInterrupt
        return self._real.features(texts)


def test_features_are_the_encoders_and_the_second_run_encodes_nothing(tmp_path: Path) -> None:
    encoder = load_encoder(STATIC)
    first, second = CachedEncoder(encoder, tmp_path), CachedEncoder(encoder, tmp_path)
    expected = encoder.features(TEXTS)
    assert np.array_equal(first.features(TEXTS), expected)
    assert first.n_encoded == 4  # one of them stands there twice
    assert np.array_equal(second.features(TEXTS), expected)
    assert second.n_encoded == 0
    assert second.features(["new"]).shape == (1, encoder.n_features)
    assert second.n_encoded == 1
    assert (second.fingerprint, second.n_dims) == (encoder.fingerprint, encoder.n_dims)
    assert np.array_equal(second.encode(TEXTS), encoder.encode(TEXTS))


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    cached = CachedEncoder(load_encoder(STATIC), None)
    cached.features(TEXTS)
    cached.features(TEXTS)
    assert cached.n_encoded == 4
    assert cached.features([]).shape == (0, cached.n_features)
    assert list(tmp_path.rglob("*.rows")) == []


def test_a_damaged_file_is_ignored(tmp_path: Path) -> None:
    encoder = load_encoder(STATIC)
    CachedEncoder(encoder, tmp_path).features(TEXTS)
    (path,) = tmp_path.rglob("*.rows")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    again = CachedEncoder(encoder, tmp_path)
    assert np.array_equal(again.features(TEXTS), encoder.features(TEXTS))
    assert again.n_encoded == 4


def test_ctrl_c_loses_at_most_the_chunk_at_work(tmp_path: Path) -> None:
    texts = [f"text number {chr(97 + i % 26)} {i}" for i in range(embedcache.CHUNK + 200)]
    with pytest.raises(KeyboardInterrupt):
        CachedEncoder(Interrupted(embedcache.CHUNK), tmp_path).features(texts)
    again = CachedEncoder(load_encoder(STATIC), tmp_path)
    again.features(texts)
    assert again.n_encoded == 200


def test_pruning_deletes_what_was_not_used_for_longest(tmp_path: Path) -> None:
    encoder = load_encoder(STATIC)
    for text in ("one", "two", "three"):
        CachedEncoder(encoder, tmp_path).features([text])
    paths = sorted(tmp_path.rglob("*.rows"))
    for age, path in enumerate(paths):
        os.utime(path, (1_000_000 + age, 1_000_000 + age))
    size = paths[0].stat().st_size
    assert embedcache.prune(tmp_path, 2 * size) == 1
    assert sorted(tmp_path.rglob("*.rows")) == paths[1:]
    assert embedcache.prune(tmp_path / "none", 0) == 0
