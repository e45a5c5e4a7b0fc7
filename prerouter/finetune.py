"""Fine-tune a transformer encoder on labelled requests. Needs the `transformer` extra; serving needs none of it.

The encoder learns through what it will serve: the first and last tokens that `encoder.TransformerEncoder.features`
takes, its pooled unit-length embedding, and a linear head on that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prerouter import export
from prerouter.encoder import TransformerSpec
from prerouter.errors import ConfigError
from prerouter.progress import Progress

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

Floats = NDArray[np.float32]
_LAYER = re.compile(r"\.layers?\.(\d+)\.")
_BUCKET = 16  # batches sorted by length together: little padding, and batches still differ from epoch to epoch


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to fine-tune.

    rate: the top layer's peak learning rate; each layer below has `layer_decay` times that of the one above.
    dropout: share of the embedding's entries dropped before the head. smoothing: label smoothing, in [0, 1).
    """

    epochs: int = 3
    batch: int = 32
    rate: float = 5e-5
    layer_decay: float = 1.0
    head_rate: float = 1e-3
    warm_up: float = 0.1
    weight_decay: float = 0.01
    dropout: float = 0.1
    smoothing: float = 0.0
    train_words: bool = True
    under: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Finetuned:
    """The encoder and the head on its features: weights (n_labels, n_dims), bias (n_labels,), float32."""

    model: SentenceTransformer
    weights: Floats
    bias: Floats

    def save(self, folder: Path) -> None:
        """Write the encoder to `folder` as `export.export_transformer` and sentence-transformers read it."""
        self.model.save(str(folder), create_model_card=False)

    def features(self, texts: Sequence[str], batch: int = 32) -> Floats:
        """(n_texts, n_dims) float32, unit length: what `TransformerEncoder.features` gives after a float32 export."""
        import torch

        rows, out = _tokens(self.model, texts), np.empty((len(texts), self.weights.shape[1]), np.float32)
        order = np.argsort([len(row) for row in rows], kind="stable")
        with torch.inference_mode(), Progress("features", total=len(texts)) as progress:
            for start in range(0, len(order), batch):
                at = order[start : start + batch]
                out[at] = _embed(self.model.eval(), [rows[i] for i in at]).numpy(force=True)
                progress.advance(len(at))
        return out


def finetune(
    texts: Sequence[str],
    labels: NDArray[Any],
    *,
    n_labels: int,
    weights: Floats | None = None,
    source: str | Path | None = None,
    recipe: Recipe = Recipe(),
    seed: int = 0,
) -> Finetuned:
    """Fine-tune `source` (a sentence-transformers name or folder; None: all-MiniLM-L6-v2) and a linear head.

    labels: (n_texts,) indices, or (n_texts, n_labels) probabilities to learn from. weights: (n_texts,) >= 0.
    """
    import torch

    targets = _targets(labels, n_labels, recipe.smoothing)
    weights = np.ones(len(texts), np.float32) if weights is None else weights
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with _repeatable(seed):
        model = export._transformer(source or export.minilm_folder(), model_kwargs={"attn_implementation": "eager"})
        model.to(device)
        head = torch.nn.Linear(model.get_embedding_dimension() or 0, n_labels, device=device)
        rows = _tokens(model, texts)
        _train(
            model, head, rows, torch.tensor(targets, device=device), torch.tensor(weights, device=device), recipe, seed
        )
    scale = np.float32(_scale(model))
    return Finetuned(model.to("cpu").eval(), head.weight.numpy(force=True) * scale, head.bias.numpy(force=True))


def _targets(labels: NDArray[Any], n_labels: int, smoothing: float) -> Floats:
    labels = np.asarray(labels)
    targets = np.eye(n_labels, dtype=np.float32)[labels] if labels.ndim == 1 else labels.astype(np.float32)
    return (1 - smoothing) * targets + smoothing / n_labels


def _train(model, head, rows, targets, weights, recipe: Recipe, seed: int) -> None:
    import torch
    from torch.nn.functional import dropout, log_softmax

    model.train()
    if not recipe.train_words:
        model[0].auto_model.get_input_embeddings().requires_grad_(False)
    optimizer = torch.optim.AdamW(_groups(model, head, recipe), weight_decay=recipe.weight_decay)
    n_steps = recipe.epochs * -(-len(rows) // recipe.batch)
    warm = max(1, round(recipe.warm_up * n_steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, max(0.0, (n_steps - step) / max(1, n_steps - warm)))
    )
    rng = np.random.default_rng(seed)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with Progress("fine-tuning", total=recipe.epochs * len(rows)) as progress:
        for _ in range(recipe.epochs):
            for at in _batches([len(row) for row in rows], recipe.batch, rng):
                with torch.autocast(model.device.type, torch.bfloat16, enabled=_fast_bfloat16()):
                    embedding = _embed(model, [rows[i] for i in at])
                logits = head(dropout(embedding * _scale(model), recipe.dropout))
                logp = log_softmax(logits, 1)
                loss = -(targets[at] * logp).sum(1)
                if recipe.under:
                    # expected probability mass below the label
                    above = torch.cumsum(targets[at].flip(1), 1).flip(1) - targets[at]  # mass of target above k
                    loss = loss + recipe.under * (above * logp.exp()).sum(1)
                loss = (loss * weights[at]).sum() / weights[at].sum().clamp_min(1e-6)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                progress.advance(len(at))


def _groups(model: SentenceTransformer, head: torch.nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    depth = {name: int(found[1]) + 1 if (found := _LAYER.search(name)) else 0 for name, _ in named}
    top = max(depth.values())
    groups = [{"params": [p], "lr": recipe.rate * recipe.layer_decay ** (top - depth[name])} for name, p in named]
    return [*groups, {"params": list(head.parameters()), "lr": recipe.head_rate}]


def _batches(lengths: Sequence[int], size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    order = rng.permutation(len(lengths))
    span, batches = size * _BUCKET, []
    for start in range(0, len(order), span):
        bucket = order[start : start + span]
        bucket = bucket[np.argsort(np.asarray(lengths)[bucket], kind="stable")]
        batches += [bucket[i : i + size] for i in range(0, len(bucket), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _tokens(model: SentenceTransformer, texts: Sequence[str]) -> list[list[int]]:
    """What the served encoder reads of each text, with its special tokens."""
    spec = export._spec(model, export.HEAD_TOKENS, export.TAIL_TOKENS)
    tokenizer = model.tokenizer.backend_tokenizer
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [
        spec.prefix_ids + _ends(tokenizer.encode(text, add_special_tokens=False).ids, spec) + spec.suffix_ids
        for text in texts
    ]


def _ends(ids: list[int], spec: TransformerSpec) -> list[int]:
    return ids[: spec.head_tokens] + ids[max(spec.head_tokens, len(ids) - spec.tail_tokens) :]


def _embed(model: SentenceTransformer, rows: Sequence[list[int]]) -> torch.Tensor:
    """(n_rows, n_dims), unit length."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
    pooled = model({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]
    return torch.nn.functional.normalize(pooled.float(), dim=1)


def _scale(model: SentenceTransformer) -> float:
    return float((model.get_embedding_dimension() or 0) ** 0.5)


def _fast_bfloat16() -> bool:
    import torch

    return torch.cuda.is_available() or torch.cpu.get_capabilities().get("avx512_bf16", False)


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
