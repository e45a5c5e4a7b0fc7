"""Fine-tune a transformer encoder on labelled requests. Needs the `transformer` extra; serving needs none of it.

The encoder learns through what will serve it: the first and last tokens that `TransformerEncoder.features` takes, the
pooled unit-length embedding, a linear head on that.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prerouter import export
from prerouter.errors import ConfigError
from prerouter.progress import Progress

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Probe = Callable[[Floats], tuple[Floats, Floats]]  # (n, n_dims) -> (n_labels, n_dims), (n_labels,)

_LAYER = re.compile(r"\.layers?\.(\d+)\.")  # in the name of a parameter; embeddings have none
_BUCKET = 16  # batches that are sorted by length together: little padding, and yet other batches in every epoch
_CLIP = 1.0  # of the gradient's norm; with WARM_UP and WEIGHT_DECAY as in Devlin et al. 2019 (BERT), appendix A
_WARM_UP, _WEIGHT_DECAY = 0.1, 0.01
_LEAST = 1e-6  # weight of a batch, so that one in which no row counts divides by something


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to fine-tune: AdamW (Loshchilov & Hutter 2019), the rate rising over a tenth of the steps, then falling to 0.

    rate: peak rate of the top layer; each layer has `layer_decay` times that of the one above (Howard & Ruder 2018).
    head_rate: peak rate of the head. batch: texts per step.
    dropout: share of the embedding dropped before the head. smoothing: share of each target spread over all labels.
    """

    epochs: int = 6
    rate: float = 2e-4
    layer_decay: float = 0.8
    head_rate: float = 1e-3
    batch: int = 32
    dropout: float = 0.1
    smoothing: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Finetuned:
    """The encoder, and the head on its features: weights (n_labels, n_dims) and bias (n_labels,), float32."""

    model: SentenceTransformer
    weights: Floats
    bias: Floats

    def save(self, folder: Path) -> None:
        """Write the encoder as sentence-transformers and `export.export_transformer` read it."""
        self.model.save(str(folder), create_model_card=False)

    def features(self, texts: Sequence[str], *, batch: int = 32) -> Floats:
        """(n_texts, n_dims) float32, unit length: what `TransformerEncoder.features` gives after a float32 export."""
        return _features(self.model, texts, batch=batch)


def finetune(
    texts: Sequence[str],
    labels: NDArray[Any],
    *,
    n_labels: int,
    weights: NDArray[Any] | None = None,
    source: str | Path | None = None,
    recipe: Recipe | None = None,
    probe: Probe | None = None,
    seed: int = 0,
) -> Finetuned:
    """Fine-tune `source`, a sentence-transformers name or folder (None: all-MiniLM-L6-v2), and a head, on `texts`.

    labels: (n_texts,) indices, or (n_texts, n_labels) probabilities to learn from. weights: (n_texts,), each >= 0.
    probe: fits the head to start from on the features before fine-tuning (Kumar et al. 2022: a head at random first
    pulls the encoder off); None: a random one.
    Uses a GPU if there is one, and bfloat16 where the processor multiplies it fast. The same seed gives the same
    weights on the same machine with the same number of torch threads. Progress goes to standard error.

    Raises ConfigError for shapes that do not fit and for a source that is none; MissingExtraError.
    """
    recipe = recipe or Recipe()
    targets, row_weights = _targets(len(texts), labels, n_labels, weights)
    targets = (1 - recipe.smoothing) * targets + np.float32(recipe.smoothing / n_labels)
    model = export.load_transformer(source or export.minilm_folder(), model_kwargs={"attn_implementation": "eager"})
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with _repeatable(seed):
        head = torch.nn.Linear(_width(model), n_labels)
        if probe:
            _start_at(head, *probe(_features(model.eval(), texts)), _scale(model))
        head = head.to(device)
        _train(model.to(device), head, _read(model, texts), targets, row_weights, recipe, seed)
    scale = np.float32(_scale(model))
    return Finetuned(model.to("cpu").eval(), head.weight.numpy(force=True) * scale, head.bias.numpy(force=True))


def _features(model: SentenceTransformer, texts: Sequence[str], *, batch: int = 32) -> Floats:
    import torch

    rows = _read(model, texts)
    out = np.empty((len(rows), _width(model)), np.float32)
    order = np.argsort([len(row) for row in rows], kind="stable")
    with torch.inference_mode(), Progress("embedding", total=len(rows)) as progress:
        for start in range(0, len(rows), batch):
            at = order[start : start + batch]
            out[at] = _embed(model, [rows[i] for i in at]).numpy(force=True)
            progress.advance(len(at))
    return out


def _start_at(head: torch.nn.Linear, weights: Floats, bias: Floats, scale: float) -> None:
    import torch

    with torch.no_grad():
        head.weight.copy_(torch.tensor(weights / scale))
        head.bias.copy_(torch.tensor(bias))


def _targets(n_texts: int, labels: NDArray[Any], n_labels: int, weights: NDArray[Any] | None) -> tuple[Floats, Floats]:
    """Probabilities (n_texts, n_labels) and weights (n_texts,), checked."""
    labels, step = np.asarray(labels), "give one label and one weight per text"
    if labels.ndim == 1:
        if len(labels) and not (labels.min() >= 0 and labels.max() < n_labels):
            raise ConfigError(f"labels outside 0 to {n_labels - 1}", where="finetune", next_step=step)
        labels = np.eye(n_labels)[labels]
    weights = np.ones(n_texts) if weights is None else np.asarray(weights)
    if labels.shape != (n_texts, n_labels) or weights.shape != (n_texts,) or not n_texts:
        what = f"{n_texts} texts, labels of shape {labels.shape}, weights of shape {weights.shape}"
        raise ConfigError(what, where="finetune", next_step=step)
    if not (weights.min() >= 0 and weights.max() > 0):
        raise ConfigError("weights are negative or all zero", where="finetune", next_step="give positive weights")
    return labels.astype(np.float32), weights.astype(np.float32)


def _train(
    model: SentenceTransformer,
    head: torch.nn.Module,
    rows: Sequence[Ids],
    targets: Floats,
    weights: Floats,
    recipe: Recipe,
    seed: int,
) -> None:
    import torch

    model.train()
    optimiser = torch.optim.AdamW(_groups(model, head, recipe), weight_decay=_WEIGHT_DECAY)
    n_steps = recipe.epochs * math.ceil(len(rows) / recipe.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _rise_and_fall(n_steps))
    parameters = [*model.parameters(), *head.parameters()]
    rng, lengths = np.random.default_rng(seed), [len(row) for row in rows]
    with Progress("fine-tuning", total=recipe.epochs * len(rows)) as progress:
        for _ in range(recipe.epochs):
            for at in _batches(lengths, recipe.batch, rng):
                losses = _losses(model, head, [rows[i] for i in at], targets[at], recipe.dropout)
                share = torch.tensor(weights[at] / max(weights[at].sum(), _LEAST), device=losses.device)
                torch.autograd.backward(losses @ share)
                torch.nn.utils.clip_grad_norm_(parameters, _CLIP)
                optimiser.step()
                optimiser.zero_grad()
                schedule.step()
                progress.advance(len(at))


def _losses(
    model: SentenceTransformer, head: torch.nn.Module, rows: Sequence[Ids], targets: Floats, dropout: float
) -> torch.Tensor:
    """(n_rows,) cross-entropies."""
    import torch
    from torch.nn import functional

    device = model.device.type
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda" or _has_bfloat16()):
        embeddings = _embed(model, rows)
    logits = head(functional.dropout(embeddings * _scale(model), dropout))
    return functional.cross_entropy(logits, torch.tensor(targets, device=model.device), reduction="none")


def _embed(model: SentenceTransformer, rows: Sequence[Ids]) -> torch.Tensor:
    """(n_rows, n_dims) float32, unit length."""
    import torch
    from torch.nn import functional

    # Padding is masked, so any id will do; float32 because the lengths of bfloat16 vectors are coarse.
    ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)
    lengths = torch.tensor([[len(row)] for row in rows])
    mask = (torch.arange(ids.shape[1]) < lengths).long()
    out = model({"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)})
    return functional.normalize(out["sentence_embedding"].float(), dim=1)


def _read(model: SentenceTransformer, texts: Sequence[str]) -> list[Ids]:
    """What the served encoder reads of each text: first and last tokens between the special ones."""
    spec = export.transformer_spec(model, export.HEAD_TOKENS, export.TAIL_TOKENS)
    tokenizer = model.tokenizer.backend_tokenizer
    tokenizer.no_truncation()
    tokenizer.no_padding()
    rows = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        ends = ids[: spec.head_tokens] + ids[max(spec.head_tokens, len(ids) - spec.tail_tokens) :]
        rows.append(np.array(spec.prefix_ids + ends + spec.suffix_ids, np.int64))
    return rows


def _groups(model: SentenceTransformer, head: torch.nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters with their rates; the embeddings lie below the first layer."""
    depths: dict[int, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        found = _LAYER.search(name)
        depths.setdefault(int(found[1]) + 1 if found else 0, []).append(parameter)
    top = max(depths)
    layers = [{"params": p, "lr": recipe.rate * recipe.layer_decay ** (top - depth)} for depth, p in depths.items()]
    return [*layers, {"params": list(head.parameters()), "lr": recipe.head_rate}]


def _rise_and_fall(n_steps: int) -> Callable[[int], float]:
    """step -> factor of the peak rate, in (0, 1]."""
    warm = max(1, round(_WARM_UP * n_steps))
    return lambda step: min((step + 1) / warm, max(n_steps - step, 1) / max(n_steps - warm, 1), 1.0)


def _batches(lengths: Sequence[int], size: int, rng: np.random.Generator) -> list[Ids]:
    """Positions of one epoch's batches: texts of about equal length together, in random order."""
    order, span, batches = rng.permutation(len(lengths)), size * _BUCKET, []
    for start in range(0, len(order), span):
        bucket = order[start : start + span]
        bucket = bucket[np.argsort(np.asarray(lengths)[bucket], kind="stable")]
        batches += [bucket[i : i + size] for i in range(0, len(bucket), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _width(model: SentenceTransformer) -> int:
    return model.get_embedding_dimension() or 0


def _scale(model: SentenceTransformer) -> float:
    """Brings a unit vector's entries to the size, about 1, that a linear layer and its rate are made for."""
    return math.sqrt(_width(model))


def _has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself: emulated it is slower than float32, else twice as fast."""
    import torch

    if not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.10
        return False
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """Deterministic algorithms and seeded random numbers, without lasting effect on the caller's."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
