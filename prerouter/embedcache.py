"""Features kept on disk: a second training on the same texts encodes nothing.

One folder per encoder, named by its fingerprint, of files with up to CHUNK rows: a hash of the text, then its features.
A file appears whole, under a name that is the hash of its content, so a damaged one is seen and ignored, runs at the
same time do not disturb each other, and Ctrl-C loses at most the rows being encoded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prerouter.encoder import Encoder
from prerouter.files import write_whole
from prerouter.progress import Progress

Floats = NDArray[np.float32]

CHUNK = 4096  # rows of a file: 6 MB of a static encoder's features
BATCH = 64  # texts encoded by one thread at a time
_HASH = 16  # bytes that a text is known by


class CachedEncoder:
    """An encoder whose features are read from `folder` where they are known and written there where not.

    folder: None keeps nothing on disk. n_encoded: texts that had to be encoded so far.
    """

    def __init__(self, encoder: Encoder, folder: Path | None) -> None:
        self.n_dims, self.n_features, self.n_encoded = encoder.n_dims, encoder.n_features, 0
        self._encoder = encoder
        self._folder = folder / encoder.fingerprint if folder else None
        self._width = _HASH + 4 * encoder.n_features
        self._known: dict[bytes, Floats] | None = None

    @property
    def fingerprint(self) -> str:
        """That of the encoder."""
        return self._encoder.fingerprint

    def encode(self, texts: Sequence[str]) -> Floats:
        """As the encoder's: the embedding of the whole text; not kept."""
        return self._encoder.encode(texts)

    def features(self, texts: Sequence[str]) -> Floats:
        """(n_texts, n_features) float32, equal to the encoder's."""
        known = self._known = self._read() if self._known is None else self._known
        keys = [_key(text) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        self._encode(list(missing), list(missing.values()), known)
        out = np.empty((len(texts), self.n_features), np.float32)
        for row, key in zip(out, keys, strict=True):
            row[:] = known[key]
        return out

    def _encode(self, keys: list[bytes], texts: list[str], known: dict[bytes, Floats]) -> None:
        """Encode `texts` into `known`, and into files of CHUNK rows."""
        with Progress("embedding", total=len(texts)) as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(texts), CHUNK):
                part = texts[start : start + CHUNK]
                batches = [part[i : i + BATCH] for i in range(0, len(part), BATCH)]
                found = []
                for features in pool.map(self._encoder.features, batches):
                    found.append(features)
                    progress.advance(len(features))
                rows = np.concatenate(found)
                known.update(zip(keys[start : start + CHUNK], rows, strict=True))
                self._write(keys[start : start + CHUNK], rows)
                self.n_encoded += len(part)

    def _write(self, keys: Sequence[bytes], rows: Floats) -> None:
        if self._folder:
            data = b"".join(key + row.astype("<f4").tobytes() for key, row in zip(keys, rows, strict=True))
            write_whole(self._folder / _name(data), data)

    def _read(self) -> dict[bytes, Floats]:
        known: dict[bytes, Floats] = {}
        for data in self._files():
            table = np.frombuffer(data, np.uint8).reshape(-1, self._width)
            rows = np.ascontiguousarray(table[:, _HASH:]).view("<f4").astype(np.float32)
            known.update(zip((key.tobytes() for key in table[:, :_HASH]), rows, strict=True))
        return known

    def _files(self) -> Iterator[bytes]:
        for path in sorted(self._folder.glob("*.rows")) if self._folder else ():
            data = path.read_bytes()
            if path.name == _name(data) and len(data) % self._width == 0:
                os.utime(path)  # used now: `prune` takes the others first
                yield data


def prune(folder: Path, max_bytes: int) -> int:
    """Delete the files least recently used, of all encoders, until `max_bytes` are left; returns how many went."""
    files = sorted(((s := path.stat()).st_mtime, s.st_size, path) for path in folder.glob("*/*.rows"))
    excess, gone = sum(size for _, size, _ in files) - max_bytes, 0
    for _, size, path in files:
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess, gone = excess - size, gone + 1
    return gone


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=_HASH).digest()


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16] + ".rows"
