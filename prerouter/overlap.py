"""Whether requests were in a model's training data: short hashes of its rows, which model.json keeps.

A test on rows that a model has learnt from says nothing, so `evaluate` refuses it, and `train` does not certify on rows
that the encoder was fine-tuned on. The hashes reveal no text, but whoever guesses a text can find out that it is among
them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerouter.errors import ModelFolderError

KEPT = 200_000  # hashes: 1.3 MB of model.json. Of larger data the lowest are kept, which still finds their share of it
N_BYTES = 5  # two texts share a hash by chance once in 10^12: with KEPT hashes one test row in 5 million looks known
_WORD = re.compile(r"\w+")


def remember(texts: Iterable[str], *, kept: int = KEPT) -> str:
    """The lowest `kept` hashes of `texts`, base64, for `known`. Case, punctuation and spacing do not count."""
    return _packed(np.array([_hash(text) for text in texts], np.uint64), kept)


def joined(remembered: Iterable[str], *, kept: int = KEPT) -> str:
    """Several of `remember` in one. Raises ModelFolderError for a broken one."""
    return _packed(np.concatenate([np.empty(0, np.uint64), *map(_unpacked, remembered)]), kept)


def of_model(training: Mapping[str, Any]) -> str | None:
    """Of the rows that a model learnt from, its encoders included; None when its training record does not say."""
    rows = training.get("row_hashes")
    return None if rows is None else joined([rows, training.get("encoder_hashes") or ""])


def of_encoders(training: Mapping[str, Any]) -> str:
    """Of the rows that a model's encoders learnt from; of all its rows where its record does not tell them apart."""
    return training.get("encoder_hashes", training.get("row_hashes")) or ""


def known(texts: Sequence[str], remembered: str) -> list[int]:
    """Positions of the texts whose hash is among those of `remember`. Raises ModelFolderError for a broken one."""
    hashes = np.array([_hash(text) for text in texts], np.uint64)
    return np.flatnonzero(np.isin(hashes, _unpacked(remembered))).tolist()


def _packed(hashes: NDArray[np.uint64], kept: int) -> str:
    hashes = np.unique(hashes)[:kept]
    return base64.b64encode(hashes.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 8 - N_BYTES :].tobytes()).decode()


def _unpacked(remembered: str) -> NDArray[np.uint64]:
    try:
        packed = np.frombuffer(base64.b64decode(remembered, validate=True), np.uint8).reshape(-1, N_BYTES)
    except (binascii.Error, ValueError, TypeError) as error:
        step = "train it again, or pass --allow-overlap"
        raise ModelFolderError(f"broken row hashes: {error}", where="model.json, training", next_step=step) from error
    padded = np.zeros((len(packed), 8), np.uint8)
    padded[:, 8 - N_BYTES :] = packed
    return padded.reshape(-1).view(">u8").astype(np.uint64)


def _hash(text: str) -> int:
    words = " ".join(_WORD.findall(text.lower())) or text
    return int.from_bytes(hashlib.sha256(words.encode("utf-8", "surrogatepass")).digest()[:N_BYTES])
