"""The first stage: a static encoder that learns the second's soft labels. Used by rebuild_default.py; needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import kept
import numpy as np
import torch
from plan import SEED, Plan
from rows import Rows, balanced, believed, digest, with_injections
from safetensors.numpy import load_file, save
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy, dropout, embedding_bag, normalize

from prerouter import certify, heads
from prerouter.encoder import STATIC_FILES, STATIC_HEAD_TOKENS, STATIC_TAIL_TOKENS
from prerouter.export import distil_static
from prerouter.modelfolder import Head
from prerouter.records import Request
from prerouter.stages import Learnt

# Chosen on calibrate rows, see README.md of this folder. TEACHER_SHARE: of the target of a labelled row; the rest is
# its label. N_INJECTED: as `plan.Run`'s.
EPOCHS, BATCH, RATE, HEAD_RATE, DROPOUT, TEACHER_SHARE, N_INJECTED = 6, 64, 2e-3, 5e-3, 0.4, 0.8, 600


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What to learn: texts, their signals (n, n_signals) and probabilities of each label (n, n_labels)."""

    texts: Sequence[str]
    signals: np.ndarray
    targets: np.ndarray


def learn(
    fit: Rows, calibrate: Rows, unlabelled: Sequence[Request], teacher: Learnt, folder: Path, cache: Path, plan: Plan
) -> Learnt:
    """What `teacher` says of all these rows; kept in `folder`, its features in `cache`.

    calibrate: sets the temperature of the soft labels only.
    """
    target = folder / "static"
    record = {
        **plan.record(),
        "n_dims": plan.n_dims,
        "constants": [EPOCHS, BATCH, RATE, HEAD_RATE, DROPOUT, TEACHER_SHARE, N_INJECTED],
        "teacher": [teacher.encoder.fingerprint, digest(map(str, teacher.head.weights.ravel().tolist()))],
        "rows": [fit.fingerprint(), calibrate.fingerprint(), digest(request.text for request in unlabelled)],
    }

    def taught() -> Head:
        distil_static(plan.start, target / "base", n_dims=plan.n_dims)
        return distil(target / "base", target / "encoder", _lesson(fit, calibrate, unlabelled, teacher))

    return kept.stage(target, record, taught, cache)


def _lesson(fit: Rows, calibrate: Rows, unlabelled: Sequence[Request], teacher: Learnt) -> Lesson:
    def asked(requests: Sequence[Request]) -> np.ndarray:
        signals = np.array([request.signals for request in requests], np.float32)
        return heads.logits(teacher.head, teacher.encoder.features([request.text for request in requests]), signals)

    temperature = certify.fit_temperature(asked(calibrate.requests), calibrate.truth)
    soft = [certify.softmax(asked(requests) / temperature) for requests in (fit.requests, unlabelled)]
    n_labels = soft[0].shape[1]
    injected = fit.take(balanced(fit.truth, N_INJECTED, SEED))
    return Lesson(
        [*fit.texts, *with_injections(injected.texts, SEED), *(request.text for request in unlabelled)],
        np.concatenate([fit.signals, injected.signals, [request.signals for request in unlabelled]], dtype=np.float32),
        np.concatenate([
            TEACHER_SHARE * soft[0] + (1 - TEACHER_SHARE) * believed(fit, n_labels),
            np.full((len(injected.truth), n_labels), 1 / n_labels),
            soft[1],
        ]),
    )  # fmt: skip


def distil(base: Path, out: Path, lesson: Lesson) -> Head:
    """Write to `out` the encoder in `base`, its token vectors moved towards the lesson, and return the head on it.

    Cross-entropy of a linear head on the encoder's features and the signals (Hinton et al. 2015, with the teacher's
    calibrated probabilities), by Adam; head and vectors learn together. One thread and a fixed seed make two runs
    alike.
    """
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    tensors = load_file(base / "model.safetensors")
    vectors = torch.tensor(tensors["embeddings"].astype(np.float32), requires_grad=True)
    mean, scale = lesson.signals.mean(axis=0), lesson.signals.std(axis=0)
    scale[scale < 1e-6] = 1.0  # a signal that never varies gets no weight, and must not be divided by nothing
    empty = Head(np.empty((0, 0), np.float32), np.empty(0, np.float32), mean, scale)
    signals, targets = torch.tensor(empty.standard(lesson.signals)), torch.tensor(lesson.targets, dtype=torch.float32)
    n_inputs = 3 * vectors.shape[1] + signals.shape[1]
    weights = torch.zeros((targets.shape[1], n_inputs), requires_grad=True)
    bias = torch.zeros(targets.shape[1], requires_grad=True)
    optimiser = torch.optim.Adam([{"params": [vectors], "lr": RATE}, {"params": [weights, bias], "lr": HEAD_RATE}])
    pieces, rng = _pieces(base, lesson.texts), np.random.default_rng(SEED)
    for _ in range(EPOCHS):
        order = rng.permutation(len(pieces))
        for start in range(0, len(order), BATCH):
            at = order[start : start + BATCH]
            logits = torch.cat([_features(vectors, [pieces[i] for i in at]), signals[at]], dim=1) @ weights.T + bias
            loss = cross_entropy(logits, targets[at]) + 0.5 * (weights**2).sum() / len(pieces)  # a ridge penalty of 1
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
    _write(base, out, tensors | {"embeddings": vectors.detach().numpy().astype(np.float16)})
    return Head(weights.detach().numpy(), bias.detach().numpy(), mean, scale)


def _pieces(base: Path, texts: Sequence[str]) -> list[list[np.ndarray]]:
    """Each text's tokens as the encoder pools them: all, head, tail. A text without tokens stands for [UNK]."""
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    rows = [np.array(tokenizer.encode(text, add_special_tokens=False).ids or [0], np.int64) for text in texts]
    return [[ids, ids[:STATIC_HEAD_TOKENS], ids[-STATIC_TAIL_TOKENS:]] for ids in rows]


def _features(vectors: torch.Tensor, pieces: Sequence[list[np.ndarray]]) -> torch.Tensor:
    """(n_texts, 3 * n_dims), with dropout."""
    flat = [ids for three in pieces for ids in three]
    offsets = np.cumsum([0, *(len(ids) for ids in flat[:-1])])
    pooled = embedding_bag(torch.tensor(np.concatenate(flat)), vectors, torch.tensor(offsets), mode="mean")
    return dropout(normalize(pooled.view(len(pieces), 3, -1), dim=2).flatten(1), DROPOUT)


def _write(base: Path, out: Path, tensors: dict[str, np.ndarray]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in STATIC_FILES:
        if name != "model.safetensors":
            (out / name).write_bytes((base / name).read_bytes())
    (out / "model.safetensors").write_bytes(save(tensors))
