"""Texts to embeddings: a static encoder in numpy and a transformer in ONNX behind one protocol.

Both serve from a folder of data files, without torch, transformers or sentence-transformers. `prerouter.export` makes
such folders.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prerouter.errors import ConfigError, ModelFolderError
from prerouter.tokens import REBUILD, Ids, TokenReader, load_tokenizer, token_reader

if TYPE_CHECKING:
    from onnxruntime import InferenceSession  # type: ignore[import-untyped]

Floats = NDArray[np.float32]

# About one long sentence: of 24, 32, 48, 64 and 96, 32 gave the best logistic regression on requests labelled by
# difficulty (4-fold accuracy 0.758; 0.725 without head and tail). Trained models depend on both numbers.
STATIC_HEAD_TOKENS = STATIC_TAIL_TOKENS = 32
STATIC_FILES = ("model.safetensors", "modules.json", "tokenizer.json")
TRANSFORMER_FILES = ("encoder.json", "model.onnx", "tokenizer.json")

_SUM_ROWS = 8192  # rows added at a time: 4 MB at 128 dimensions, so that a text of 5 MB does not need 600 MB


class Encoder(Protocol):
    """Texts to vectors. Thread-safe; usable on both sides of a fork. No lone surrogates in texts (`text.render`)."""

    n_dims: int
    n_features: int

    @property
    def fingerprint(self) -> str:
        """12 hex characters of the SHA-256 over names and contents of the encoder's files."""

    def encode(self, texts: Sequence[str]) -> Floats:
        """(n_texts, n_dims) float32, rows of unit length; zeros for a text without tokens (static encoder only).

        Equal to `SentenceTransformer(folder).encode(texts, normalize_embeddings=True)`.
        """

    def features(self, texts: Sequence[str]) -> Floats:
        """(n_texts, n_features) float32: what the classifier's head reads."""


def load_encoder(folder: Path) -> Encoder:
    """The encoder in `folder`, whose kind is told by its files. Raises ModelFolderError when there is none."""
    if (folder / "model.onnx").is_file():
        return TransformerEncoder.load(folder)
    if (folder / "modules.json").is_file():
        return StaticEncoder.load(folder)
    raise ModelFolderError("neither model.onnx nor modules.json is there", where=str(folder), next_step=REBUILD)


class StaticEncoder:
    """Mean of one vector per token (Tulkens & van Dongen 2024, Model2Vec), in numpy.

    features: (n_texts, 3 * n_dims): the unit-length embeddings of the whole text, of its first STATIC_HEAD_TOKENS
    and of its last STATIC_TAIL_TOKENS tokens, side by side. In a short text the three are the same.
    """

    def __init__(self, folder: Path, rows: Floats, tokens: TokenReader) -> None:
        self.n_dims = rows.shape[1]
        self.n_features = 3 * self.n_dims
        self._folder, self._rows, self._tokens = folder, rows, tokens

    @classmethod
    def load(cls, folder: Path) -> StaticEncoder:
        """Read a SentenceTransformer folder with a StaticEmbedding module. Raises ModelFolderError."""
        place = folder / _static_module(folder)
        tokenizer = load_tokenizer(place / "tokenizer.json")
        rows = _static_rows(place / "model.safetensors")
        if tokenizer.get_vocab_size() > len(rows):
            what = f"{tokenizer.get_vocab_size()} tokens but {len(rows)} vectors"
            raise ModelFolderError(what, where=str(folder), next_step=REBUILD)
        return cls(folder, rows, token_reader(tokenizer))

    @cached_property
    def fingerprint(self) -> str:
        place = Path(_static_module(self._folder))
        names = [name if name == "modules.json" else str(place / name) for name in STATIC_FILES]
        return _fingerprint(self._folder, names)

    def encode(self, texts: Sequence[str]) -> Floats:
        out = np.empty((len(texts), self.n_dims), np.float32)
        for i, ids in enumerate(self._tokens(texts)):
            out[i] = self._embedding(ids)
        return out

    def features(self, texts: Sequence[str]) -> Floats:
        out = np.empty((len(texts), 3, self.n_dims), np.float32)
        for i, ids in enumerate(self._tokens(texts)):
            out[i] = self._embedding(ids)
            if len(ids) > STATIC_HEAD_TOKENS:
                out[i, 1] = self._embedding(ids[:STATIC_HEAD_TOKENS])
            if len(ids) > STATIC_TAIL_TOKENS:
                out[i, 2] = self._embedding(ids[-STATIC_TAIL_TOKENS:])
        return out.reshape(len(texts), self.n_features)

    def _embedding(self, ids: Ids) -> Floats:
        """(n_dims,) of unit length, from the sum: it has the direction of the mean.

        One float32 addition after the other, as torch does: rounding, 3e-4 after a million tokens, is then the same.
        """
        total: Floats = np.add.reduce(self._rows.take(ids[:_SUM_ROWS], axis=0), axis=0)
        for start in range(_SUM_ROWS, len(ids), _SUM_ROWS):
            more = self._rows.take(ids[start : start + _SUM_ROWS], axis=0)
            total = np.add.reduce(np.concatenate([total[None], more]), axis=0)
        length = math.sqrt(total.dot(total))
        return total / length if length else total


@dataclass(frozen=True, slots=True)
class TransformerSpec:
    """`encoder.json`: sizes, all but n_dims in tokens, and the ids of the special tokens around every text."""

    n_dims: int
    max_tokens: int
    head_tokens: int
    tail_tokens: int
    prefix_ids: list[int]
    suffix_ids: list[int]

    @classmethod
    def read(cls, path: Path) -> TransformerSpec:
        """Raises ModelFolderError for missing or unknown keys and values of another type."""
        try:
            spec = cls(**_json(path))
            np.array([*astuple(spec)[:4], *spec.prefix_ids, *spec.suffix_ids]).astype(np.int64, casting="safe")
        except TypeError as error:
            raise ModelFolderError(f"not what it should be: {error}", where=str(path), next_step=REBUILD) from error
        return spec


class TransformerEncoder:
    """A sentence-transformers model as an ONNX graph (`export.export_transformer`), run by onnxruntime.

    features: (n_texts, n_dims): the embedding of the first `head_tokens` and last `tail_tokens` tokens of a text that
    is longer than both, since the instruction stands at either end; otherwise the same as `encode`.

    Texts run one by one: dynamic int8 quantisation takes the scale of activations from the whole batch, so in a batch
    a text's embedding would depend on its neighbours (measured: cosine down to 0.985 between alone and in a batch).
    """

    def __init__(self, folder: Path, spec: TransformerSpec, threads: int) -> None:
        self.n_dims = self.n_features = spec.n_dims
        self._folder, self._spec, self._threads = folder, spec, threads
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._session: InferenceSession | None = None
        self._inherited: list[InferenceSession | None] = []

    @classmethod
    def load(cls, folder: Path, *, threads: int = 1) -> TransformerEncoder:
        """Graph and tokenizer are loaded at first use. threads: that work on one text. Raises ModelFolderError."""
        missing = [name for name in TRANSFORMER_FILES if not (folder / name).is_file()]
        if missing:
            raise ModelFolderError(f"{missing[0]} is missing", where=str(folder), next_step=REBUILD)
        if threads < 1:
            raise ConfigError(f"threads is {threads}", where="TransformerEncoder.load", next_step="choose 1 or more")
        return cls(folder, TransformerSpec.read(folder / "encoder.json"), threads)

    @cached_property
    def fingerprint(self) -> str:
        return _fingerprint(self._folder, TRANSFORMER_FILES)

    def encode(self, texts: Sequence[str]) -> Floats:
        room = self._spec.max_tokens - len(self._spec.prefix_ids) - len(self._spec.suffix_ids)
        return self._run([ids[:room] for ids in self._tokens(texts)])

    def features(self, texts: Sequence[str]) -> Floats:
        head, tail = self._spec.head_tokens, self._spec.tail_tokens
        return self._run([np.r_[ids[:head], ids[max(head, len(ids) - tail) :]] for ids in self._tokens(texts)])

    def _run(self, rows: Sequence[Ids]) -> Floats:
        session, prefix, suffix = self._live(), self._spec.prefix_ids, self._spec.suffix_ids
        out = np.empty((len(rows), self.n_dims), np.float32)
        for row, ids in zip(out, rows, strict=True):
            tokens = np.concatenate([prefix, ids, suffix], dtype=np.int64)
            row[:] = session.run(None, {"input_ids": tokens[None]})[0][0]
        return out

    @cached_property
    def _tokens(self) -> TokenReader:
        return token_reader(load_tokenizer(self._folder / "tokenizer.json"))

    def _live(self) -> InferenceSession:
        """This process's session. A forked child makes its own: the threads of its parent's are not there."""
        if self._pid != os.getpid():
            # Kept, because destroying it would wait for those threads; a lock may have been held while forking.
            self._inherited.append(self._session)
            self._lock, self._session, self._pid = threading.Lock(), None, os.getpid()
        with self._lock:
            session = self._session = self._session or _session(self._folder / "model.onnx", self._threads)
        return session


def _fingerprint(folder: Path, names: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(names):
        data = (folder / name).read_bytes()
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()[:12]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"cannot read it: {error}", where=str(path), next_step=REBUILD) from error


def _static_module(folder: Path) -> str:
    """The path of the StaticEmbedding module; refuses a folder with modules that change its vectors."""
    path = folder / "modules.json"
    try:
        first, *rest = [(module["type"].rpartition(".")[2], str(module["path"])) for module in _json(path)]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ModelFolderError("not a list of modules", where=str(path), next_step=REBUILD) from error
    kinds = [first[0], *(kind for kind, _ in rest if kind != "Normalize")]
    if kinds != ["StaticEmbedding"]:
        what, step = f"cannot serve {', '.join(kinds)} without a graph", "use `prerouter.export.export_transformer`"
        raise ModelFolderError(what, where=str(path), next_step=step)
    return first[1]


def _static_rows(path: Path) -> Floats:
    """(n_tokens, n_dims) float32, as `StaticEmbedding.load` of sentence-transformers 6.2 makes them.

    Model2Vec's keys are `embeddings`, and optionally the row (`mapping`) and a factor (`weights`) of each token.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        rows = tensors["embedding.weight"] if "embedding.weight" in tensors else tensors["embeddings"]
        rows = np.ascontiguousarray(rows[tensors["mapping"]] if "mapping" in tensors else rows, np.float32)
        if "weights" in tensors:
            rows *= tensors["weights"].astype(np.float32)[:, None]
        if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
            raise ValueError(f"shape {rows.shape} or a value that is not finite")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelFolderError(f"no usable token vectors: {error}", where=str(path), next_step=REBUILD) from error
    return rows


def _session(path: Path, threads: int) -> InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors are raised; warnings would go to the service's standard error
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must not burn a core
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        raise ModelFolderError(f"not a usable graph: {error}", where=str(path), next_step=REBUILD) from error
