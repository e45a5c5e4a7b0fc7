"""Fine-tune the token vectors of a static encoder on labelled requests. Used by rebuild_default.py; needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy, dropout, embedding_bag, normalize

from prerouter.encoder import STATIC_FILES, STATIC_HEAD_TOKENS, STATIC_TAIL_TOKENS

# Chosen by out-of-fold loss among 0.0005 to 0.01 and 4 to 8 epochs, see README.md of this folder.
EPOCHS, BATCH, RATE, HEAD_RATE, DROPOUT = 4, 64, 2e-3, 5e-3, 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """What to fit: texts, standardised signals (n, n_signals), labels (n,), weights (n,) and a head to start from.

    head: (n_labels, n_features + n_signals); bias: (n_labels,).
    """

    texts: Sequence[str]
    signals: np.ndarray
    truth: np.ndarray
    weights: np.ndarray
    head: np.ndarray
    bias: np.ndarray


def fine_tune(base: Path, out: Path, examples: Examples, seed: int) -> None:
    """Write to `out` the encoder in `base` with its token vectors moved towards telling the labels apart.

    Cross-entropy of a linear head on the encoder's features and the signals, by Adam; head and vectors learn
    together, the head is thrown away. One thread and a fixed seed make two runs alike.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    tensors = load_file(base / "model.safetensors")
    vectors = torch.tensor(tensors["embeddings"].astype(np.float32), requires_grad=True)
    head = torch.tensor(examples.head, requires_grad=True)
    bias = torch.tensor(examples.bias, requires_grad=True)
    optimiser = torch.optim.Adam([{"params": [vectors], "lr": RATE}, {"params": [head, bias], "lr": HEAD_RATE}])
    pieces = _pieces(base, examples.texts)
    rng = np.random.default_rng(seed)
    for _ in range(EPOCHS):
        order = rng.permutation(len(pieces))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            loss = _loss(vectors, head, bias, [pieces[i] for i in batch], examples, batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    _write(base, out, tensors | {"embeddings": vectors.detach().numpy().astype(np.float16)})


def _pieces(base: Path, texts: Sequence[str]) -> list[list[np.ndarray]]:
    """Each text's tokens as the encoder pools them: all, head, tail. A text without tokens stands for [UNK]."""
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    rows = [np.array(tokenizer.encode(text, add_special_tokens=False).ids or [0], np.int64) for text in texts]
    return [[ids, ids[:STATIC_HEAD_TOKENS], ids[-STATIC_TAIL_TOKENS:]] for ids in rows]


def _loss(
    vectors: torch.Tensor,
    head: torch.Tensor,
    bias: torch.Tensor,
    pieces: Sequence[list[np.ndarray]],
    examples: Examples,
    batch: np.ndarray,
) -> torch.Tensor:
    flat = [ids for three in pieces for ids in three]
    offsets = np.cumsum([0, *(len(ids) for ids in flat[:-1])])
    pooled = embedding_bag(torch.tensor(np.concatenate(flat)), vectors, torch.tensor(offsets), mode="mean")
    features = dropout(normalize(pooled.view(len(batch), 3, -1), dim=2).flatten(1), DROPOUT)
    logits = torch.cat([features, torch.tensor(examples.signals[batch])], dim=1) @ head.T + bias
    losses = cross_entropy(logits, torch.tensor(examples.truth[batch]), reduction="none")
    # The head's penalty is that of the logistic regression which is fitted afterwards.
    return (losses * torch.tensor(examples.weights[batch])).mean() + 0.5 * (head**2).sum() / len(examples.truth)


def _write(base: Path, out: Path, tensors: dict[str, np.ndarray]) -> None:
    out.mkdir(parents=True)
    for name in STATIC_FILES:
        if name != "model.safetensors":
            (out / name).write_bytes((base / name).read_bytes())
    (out / "model.safetensors").write_bytes(save(tensors))
