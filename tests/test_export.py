from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from prerouter.encoder import load_encoder
from prerouter.errors import ConfigError
from prerouter.export import distil_static, export_transformer, minilm_folder
from prerouter.files import shipped

SPECIAL = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
KEPT = [".", "!", "→", "£", "ß", "α", "µ", "the", "of", "cat", "##s", "sat", "mat", "café", "naive", "[", "]", "##ly"]
FOREIGN = ["я", "##я", "猫", "か", "א", "ক", "한"]
TEXTS = ["the cat sat", "", "cats of the mat!", "the 猫 sat", "я", "[MASK] the [SEP] cat", "the cat " * 40]


def bert(folder: Path, *, pooling: str = "mean", max_tokens: int = 64) -> Path:
    """A SentenceTransformer folder with a BERT of random weights, made in a fraction of a second."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(SPECIAL + KEPT + FOREIGN)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_tokens, **names)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), initializer_range=0.5, **sizes)).save_pretrained(folder / "bert")
    fast.save_pretrained(folder / "bert")
    modules = [Transformer(str(folder / "bert")), Pooling(32, pooling_mode=pooling)]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"))
    return folder / "model"


def encode(folder: Path, texts: list[str]) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(texts, normalize_embeddings=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert(tmp_path_factory.mktemp("bert"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_distilling_twice_gives_the_same_bytes(tmp_path: Path, source: Path) -> None:
    distil_static(source, tmp_path / "a", n_dims=8)
    distil_static(source, tmp_path / "b", n_dims=8)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a").keys() == {"model.safetensors", "modules.json", "tokenizer.json"}


def test_distilled_folder_serves_as_in_sentence_transformers(tmp_path: Path, source: Path) -> None:
    distil_static(source, tmp_path / "static", n_dims=8)
    encoder = load_encoder(tmp_path / "static")
    assert (encoder.n_dims, encoder.n_features) == (8, 24)
    np.testing.assert_allclose(encoder.encode(TEXTS), encode(tmp_path / "static", TEXTS), atol=1e-5)
    assert load_file(tmp_path / "static/model.safetensors")["embeddings"].dtype == np.float16


def test_distilling_drops_what_cannot_matter(tmp_path: Path, source: Path) -> None:
    distil_static(source, tmp_path / "static", n_dims=8)
    tokenizer = json.loads((tmp_path / "static/tokenizer.json").read_text())
    assert list(tokenizer["model"]["vocab"].items()) == [(token, i) for i, token in enumerate(["[UNK]", *KEPT])]
    assert tokenizer["added_tokens"] == []
    unknown, russian, chinese = load_encoder(tmp_path / "static").encode(["zzz", "я", "猫"])
    np.testing.assert_array_equal([russian, chinese], [unknown, unknown])
    assert np.linalg.norm(unknown) == pytest.approx(1)  # seen by the guard, not silently nothing


def test_frequent_tokens_weigh_less(tmp_path: Path, source: Path) -> None:
    distil_static(source, tmp_path / "flat", n_dims=8, sif_a=1e6)
    distil_static(source, tmp_path / "weighted", n_dims=8, sif_a=1e-2)
    flat, weighted = (
        np.linalg.norm(load_file(tmp_path / name / "model.safetensors")["embeddings"].astype(np.float64), axis=1)
        for name in ("flat", "weighted")
    )
    factors = weighted / flat
    p = 1 / np.array([len(KEPT) + 1, *range(2, len(KEPT) + 2)])  # Zipf's law; [UNK] counts as rarest
    p /= p.sum()
    np.testing.assert_allclose(factors / factors[-1], (1e-2 + p[-1]) / (1e-2 + p), rtol=0.05)


def test_principal_axes_keep_most_of_the_distances(tmp_path: Path, source: Path) -> None:
    """At full width PCA only turns the space: cosines between centred token vectors stay as they were."""
    full, half = tmp_path / "full", tmp_path / "half"
    distil_static(source, full, n_dims=len(KEPT), sif_a=1e6)
    distil_static(source, half, n_dims=8, sif_a=1e6)
    tokens = [token for token in KEPT if not token.startswith("##")]
    exact, reduced = (load_encoder(folder).encode(tokens) for folder in (full, half))
    assert np.corrcoef((exact @ exact.T).ravel(), (reduced @ reduced.T).ravel())[0, 1] > 0.9


@pytest.mark.parametrize("n_dims", [0, 33])
def test_distilling_to_a_width_the_model_has_not(tmp_path: Path, source: Path, n_dims: int) -> None:
    with pytest.raises(ConfigError, match=f"n_dims is {n_dims}.*choose 1 to 32"):
        distil_static(source, tmp_path / "static", n_dims=n_dims)


def test_shipped_encoder_is_small_and_equal() -> None:
    folder = shipped("models/default") / "stages/0/encoder"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8_000_000
    texts = [
        "What is the capital of France?",
        "Paris is the capital city of France.",
        "How do I bake a chocolate cake?",
    ]
    embeddings = load_encoder(folder).encode(texts)
    np.testing.assert_allclose(embeddings, encode(folder, texts), atol=1e-5)
    assert embeddings[0] @ embeddings[1] > embeddings[0] @ embeddings[2] + 0.3


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_exported_graph_pools_as_the_model_does(tmp_path: Path, pooling: str) -> None:
    folder = bert(tmp_path, pooling=pooling)
    export_transformer(folder, tmp_path / "onnx", int8=False)
    np.testing.assert_allclose(load_encoder(tmp_path / "onnx").encode(TEXTS), encode(folder, TEXTS), atol=1e-4)


def test_head_and_tail_fit_a_model_of_few_tokens(tmp_path: Path) -> None:
    export_transformer(bert(tmp_path, max_tokens=21), tmp_path / "onnx", int8=False)
    encoder, words = load_encoder(tmp_path / "onnx"), ["the", "cat", "sat", "of", "mat"] * 9
    kept = " ".join(words[:11] + words[-8:])  # 19 tokens and two special ones
    np.testing.assert_allclose(encoder.features([" ".join(words)]), encoder.encode([kept]), atol=1e-6)


def test_int8_export_of_the_real_model(tmp_path: Path) -> None:
    texts = [
        "Summarise the attached contract in five bullet points and list the risks for the buyer.",
        "def quicksort(xs):\n    return xs if len(xs) < 2 else quicksort([x for x in xs[1:] if x < xs[0]])",
        "Translate to German: the train to Hamburg leaves at 17:04 from platform 3.",
        "Customer says the invoice is wrong. Write a friendly reply and offer a refund. " * 40,
    ]
    export_transformer(minilm_folder(), tmp_path)
    assert (tmp_path / "model.onnx").stat().st_size < 25_000_000
    cosines = (load_encoder(tmp_path).encode(texts) * encode(minilm_folder(), texts)).sum(axis=1)
    assert cosines.min() > 0.985
    assert cosines.mean() > 0.99


REFUSED: dict[str, Callable[[Path, Path], None]] = {
    "distil": lambda source, out: distil_static(source, out),
    "export": lambda source, out: export_transformer(source, out),
}


@pytest.mark.parametrize("verb", REFUSED)
def test_a_folder_without_a_model(tmp_path: Path, verb: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="cannot load the model"):
        REFUSED[verb](tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", REFUSED)
def test_a_static_model_is_no_source(tmp_path: Path, verb: str) -> None:
    with pytest.raises(ConfigError, match="not a transformer"):
        REFUSED[verb](shipped("models/default") / "stages/0/encoder", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_default_prompt_is_refused(tmp_path: Path, source: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(source), device="cpu", prompts={"query": "query: "}, default_prompt_name="query")
    model.save(str(tmp_path / "prompted"))
    with pytest.raises(ConfigError, match="needs a prompt"):
        export_transformer(tmp_path / "prompted", tmp_path / "out")
