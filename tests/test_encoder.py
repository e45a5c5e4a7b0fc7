from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from prerouter.encoder import STATIC_HEAD_TOKENS, STATIC_TAIL_TOKENS, StaticEncoder, TransformerEncoder, load_encoder
from prerouter.errors import ConfigError, ModelFolderError
from prerouter.export import export_transformer, minilm_folder
from prerouter.files import shipped

STATIC = shipped("models/default") / "stages/0/encoder"
# Blanks, scripts, control characters, special tokens and words too long for the vocabulary.
TEXTS = [
    "What is the capital of France?",
    "",
    " \t\r\n ",
    "hello",
    "🙂 thanks 🙂🙂",
    "Привет, как дела? 你好吗 こんにちは שלום नमस्ते",
    "naïve café — “quoted” ‘x’ … don't e-mail a_b c#d 3.14 £5 µm",
    "nul\x00inside bell\x07 form\x0cfeed nbsp\xa0 ideographic\u3000space next\x85line line\u2028separator",
    "zero\u200bwidth \ufeffmark \U000e0041tag e\u0301 combined",
    "[UNK] [CLS] [SEP] [MASK] [PAD] [unused1]",
    "a" * 500 + " " + "é" * 200,
    "def f(x):\n\treturn {'a': [x ** 2 for x in range(10)]}  # comment\n" * 40,
    "İstanbul ΣΊΣΥΦΟΣ ﬁne ½ ™ ǅ",
]


class Definition:
    """The definition, written down independently: unit-length mean of the token vectors, in float64."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.rows = load_file(folder / "model.safetensors")["embeddings"].astype(np.float64)

    def __call__(self, text: str, part: slice = slice(None)) -> np.ndarray:
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids[part]
        mean = self.rows[ids].mean(axis=0) if ids else np.zeros(self.rows.shape[1])
        return mean / (np.linalg.norm(mean) or 1.0)


EXPECTED = Definition(STATIC)


@pytest.fixture(scope="module")
def static() -> StaticEncoder:
    return StaticEncoder.load(STATIC)


@pytest.fixture(scope="module")
def transformer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("minilm")
    export_transformer(minilm_folder(), folder, int8=False)
    return folder


def test_static_equals_sentence_transformers(static: StaticEncoder) -> None:
    from sentence_transformers import SentenceTransformer

    texts = [*TEXTS, "The report, line 17: pay £3,000 to naïve café №5 — thanks 🙂\n" * 4_000]
    expected = SentenceTransformer(str(STATIC), device="cpu").encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(static.encode(texts), expected, atol=1e-5)


@pytest.mark.parametrize("normaliser", ["bert", "plain"])
def test_static_folder_that_sentence_transformers_wrote(tmp_path: Path, normaliser: str) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import normalizers, pre_tokenizers

    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    if normaliser == "plain":
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = np.random.default_rng(0).normal(0.1, 1, (tokenizer.get_vocab_size(), 8)).astype(np.float32)
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu")
    model.save(str(tmp_path / "saved"))
    expected = model.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(load_encoder(tmp_path / "saved").encode(TEXTS), expected, atol=1e-5)


def test_static_folder_in_the_format_of_model2vec(tmp_path: Path, static: StaticEncoder) -> None:
    folder = shutil.copytree(STATIC, tmp_path / "static")
    rows = load_file(folder / "model.safetensors")["embeddings"]
    shared = {"embeddings": rows[::-1].copy(), "mapping": np.arange(len(rows))[::-1].copy()}
    save_file(shared | {"weights": np.full(len(rows), 3.0)}, folder / "model.safetensors")
    np.testing.assert_allclose(load_encoder(folder).encode(TEXTS), static.encode(TEXTS), atol=1e-6)


_WORDS = ["the", "The", "don't", "x=1;", "[UNK]", "ünïcödé", "你好", "\x00", "\x1c", "\x85", "\u2028", "e\u0301", "Σ"]
_BLANKS = [" ", "\n", "\t", "\r\n", "  ", "", "\xa0", "\u3000"]
_MIXED = st.lists(st.sampled_from([*_WORDS, *_BLANKS]) | st.text(max_size=3)).map("".join)


@settings(max_examples=1000, deadline=None)
@given(text=st.text() | _MIXED)
def test_new_and_remembered_words_give_what_the_tokenizer_gives(text: str, static: StaticEncoder) -> None:
    new, remembered = static.encode([text, text])
    np.testing.assert_allclose(new, EXPECTED(text), atol=1e-5)
    np.testing.assert_array_equal(new, remembered)


def test_more_words_than_are_remembered(static: StaticEncoder) -> None:
    texts = [" ".join(f"w{i:x}z" for i in range(start, start + 400)) for start in range(0, 40_000, 400)]
    for _ in range(2):
        np.testing.assert_allclose(static.encode(texts), [EXPECTED(text) for text in texts], atol=1e-5)
    everything = " ".join(texts)  # float32 sums of so many tokens are not exact
    np.testing.assert_allclose(static.encode([everything])[0], EXPECTED(everything), atol=1e-3)


def test_static_features_are_whole_head_and_tail(static: StaticEncoder) -> None:
    short, long = "please fix the bug", "first things first. " * 30 + "then the rest of it, " * 30
    whole, head, tail = static.features([long]).reshape(3, static.n_dims)
    np.testing.assert_allclose(whole, EXPECTED(long), atol=1e-5)
    np.testing.assert_allclose(head, EXPECTED(long, slice(STATIC_HEAD_TOKENS)), atol=1e-5)
    np.testing.assert_allclose(tail, EXPECTED(long, slice(-STATIC_TAIL_TOKENS, None)), atol=1e-5)
    np.testing.assert_allclose(static.features([short]).reshape(3, -1), [EXPECTED(short)] * 3, atol=1e-5)


def test_shapes_and_lengths(static: StaticEncoder) -> None:
    features = static.features(TEXTS)
    assert (features.shape, features.dtype) == ((len(TEXTS), static.n_features), np.float32)
    assert static.n_features == 3 * static.n_dims == 384
    lengths = np.linalg.norm(features.reshape(-1, static.n_dims), axis=1).reshape(-1, 3)
    np.testing.assert_allclose(lengths, [[float(bool(text.strip()))] * 3 for text in TEXTS], atol=1e-6)
    assert static.features([]).shape == (0, 384)
    assert static.encode([]).shape == (0, 128)


def test_a_text_counts_alone(static: StaticEncoder) -> None:
    np.testing.assert_array_equal(static.features(TEXTS), np.concatenate([static.features([text]) for text in TEXTS]))


def test_threads_share_an_encoder() -> None:
    texts = [f"{word} number {i} says {i * i:x} to {text}" for i in range(40) for word in "ab" for text in TEXTS]
    encoder, expected = StaticEncoder.load(STATIC), StaticEncoder.load(STATIC).features(texts)
    with ThreadPoolExecutor(8) as pool:
        for features in pool.map(encoder.features, [texts] * 16):
            np.testing.assert_array_equal(features, expected)


def test_transformer_equals_sentence_transformers(transformer_folder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    encoder, texts = load_encoder(transformer_folder), [*TEXTS, "over the limit " * 400]
    expected = SentenceTransformer(str(minilm_folder()), device="cpu").encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-4)
    np.testing.assert_array_equal(encoder.encode(texts), np.concatenate([encoder.encode([text]) for text in texts]))
    assert (encoder.n_dims, encoder.n_features) == (384, 384)
    assert encoder.encode([]).shape == encoder.features([]).shape == (0, 384)


def test_transformer_features_keep_head_and_tail(transformer_folder: Path) -> None:
    encoder = load_encoder(transformer_folder)
    words = ["one", "two", "three", "four", "five", "six", "seven"] * 100  # one token each
    kept = " ".join(words[:110] + words[-80:])
    np.testing.assert_allclose(encoder.features([" ".join(words)]), encoder.encode([kept]), atol=1e-6)
    np.testing.assert_array_equal(encoder.features(TEXTS[:5]), encoder.encode(TEXTS[:5]))


def test_threads_share_one_session(transformer_folder: Path) -> None:
    encoder, expected = TransformerEncoder.load(transformer_folder), load_encoder(transformer_folder).encode(TEXTS)
    with ThreadPoolExecutor(8) as pool:
        for embeddings in pool.map(encoder.encode, [TEXTS] * 8):
            np.testing.assert_allclose(embeddings, expected, atol=1e-5)


def run(script: str, *arguments: object) -> str:
    """Standard output of a fresh interpreter, which must succeed with nothing on standard error."""
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parent.parent)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_static_serving_loads_nothing_heavy() -> None:
    script = """if True:
        import sys
        from pathlib import Path
        from prerouter.encoder import load_encoder
        load_encoder(Path(sys.argv[1])).features(["hello", "a longer one " * 99])
        heavy = "torch transformers sentence_transformers onnxruntime onnx sklearn scipy anthropic huggingface_hub"
        print([name for name in heavy.split() if name in sys.modules])
    """
    assert run(script, STATIC) == "[]\n"


def test_transformer_serving_loads_no_torch(transformer_folder: Path) -> None:
    script = """if True:
        import sys
        from pathlib import Path
        from prerouter.encoder import load_encoder
        encoder = load_encoder(Path(sys.argv[1]))
        early = "onnxruntime" in sys.modules
        encoder.features(["hello"])
        heavy = "torch transformers sentence_transformers onnx sklearn scipy anthropic"
        print(early, [name for name in heavy.split() if name in sys.modules])
    """
    assert run(script, transformer_folder) == "False []\n"


def test_both_sides_of_a_fork(transformer_folder: Path) -> None:
    script = """if True:
        import os, sys
        from pathlib import Path
        import numpy as np
        from prerouter.encoder import TransformerEncoder, load_encoder
        texts = ["hello", "a longer one " * 99]
        for encoder in (load_encoder(Path(sys.argv[1])), TransformerEncoder.load(Path(sys.argv[2]), threads=2)):
            before = encoder.features(texts)
            child = os.fork()
            same = np.allclose(encoder.features(texts), before, atol=1e-5)
            if child == 0:
                os._exit(0 if same else 1)
            print(same, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert run(script, STATIC, transformer_folder) == "True 0\n" * 2


def test_fingerprint(tmp_path: Path, static: StaticEncoder) -> None:
    folder = shutil.copytree(STATIC, tmp_path / "copy")
    (folder / "README.md").write_text("not part of the encoder")
    assert load_encoder(folder).fingerprint == static.fingerprint
    assert len(bytes.fromhex(static.fingerprint)) == 6
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))  # the same tokens, other bytes
    assert load_encoder(folder).fingerprint != static.fingerprint


def test_fingerprint_of_a_transformer(tmp_path: Path, transformer_folder: Path) -> None:
    folder = shutil.copytree(transformer_folder, tmp_path / "copy")
    before = load_encoder(folder).fingerprint
    assert before == load_encoder(transformer_folder).fingerprint
    spec = json.loads((folder / "encoder.json").read_text())
    (folder / "encoder.json").write_text(json.dumps(spec | {"head_tokens": 109}))
    assert load_encoder(folder).fingerprint != before


def _save(folder: Path, **tensors: np.ndarray) -> None:
    save_file(tensors, folder / "model.safetensors")


def _modules(folder: Path, *kinds: str) -> None:
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": ""} for kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "nothing there": lambda folder: (folder / "modules.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "cut weights": lambda folder: (folder / "model.safetensors").write_bytes(
        STATIC_WEIGHTS[: len(STATIC_WEIGHTS) // 2]
    ),
    "other weights": lambda folder: _save(folder, other=np.zeros((3, 2))),
    "flat weights": lambda folder: _save(folder, embeddings=np.zeros(90_000)),
    "no rows": lambda folder: _save(folder, embeddings=np.zeros((0, 128))),
    "not a number": lambda folder: _save(folder, embeddings=np.full((40_000, 2), np.nan)),
    "infinite": lambda folder: _save(folder, **{"embedding.weight": np.full((40_000, 2), np.inf)}),
    "fewer rows than tokens": lambda folder: _save(folder, embeddings=np.ones((1000, 128), np.float16)),
    "mapping beyond the rows": lambda folder: _save(folder, embeddings=np.ones((9, 8)), mapping=np.arange(40_000)),
    "weights of another length": lambda folder: _save(folder, embeddings=np.ones((40_000, 8)), weights=np.ones(7)),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "broken tokenizer": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "broken modules": lambda folder: (folder / "modules.json").write_text("[["),
    "no modules": lambda folder: (folder / "modules.json").write_text("[]"),
    "modules of another form": lambda folder: (folder / "modules.json").write_text('{"type": 1}'),
    "a transformer without a graph": lambda folder: _modules(folder, "Transformer", "Pooling"),
    "a module that changes the vectors": lambda folder: _modules(folder, "StaticEmbedding", "Dense"),
}
STATIC_WEIGHTS = (STATIC / "model.safetensors").read_bytes()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_static_folder(tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(STATIC, tmp_path / "static")
    DAMAGE[damage](folder)
    with pytest.raises(ModelFolderError) as caught:
        load_encoder(folder)
    assert str(folder) in caught.value.where
    assert caught.value.next_step


TRANSFORMER_DAMAGE: dict[str, Callable[[Path], object]] = {
    "no graph": lambda folder: (folder / "model.onnx").unlink(),
    "cut graph": lambda folder: (folder / "model.onnx").write_bytes(b"\x08\x08onnx"),
    "no spec": lambda folder: (folder / "encoder.json").unlink(),
    "spec without keys": lambda folder: (folder / "encoder.json").write_text("{}"),
    "spec with text for a size": lambda folder: (folder / "encoder.json").write_text(
        '{"n_dims":"384","max_tokens":256,"head_tokens":110,"tail_tokens":80,"prefix_ids":[101],"suffix_ids":[102]}'
    ),
    "spec of another form": lambda folder: (folder / "encoder.json").write_text("[1]"),
    "broken spec": lambda folder: (folder / "encoder.json").write_text("{"),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "broken tokenizer": lambda folder: (folder / "tokenizer.json").write_text("{"),
}


@pytest.mark.parametrize("damage", TRANSFORMER_DAMAGE)
def test_damaged_transformer_folder(tmp_path: Path, transformer_folder: Path, damage: str) -> None:
    folder = shutil.copytree(transformer_folder, tmp_path / "transformer")
    TRANSFORMER_DAMAGE[damage](folder)
    with pytest.raises(ModelFolderError) as caught:
        load_encoder(folder).encode(["hello"])
    assert str(folder) in caught.value.where
    assert caught.value.next_step


def test_threads_must_be_positive(transformer_folder: Path) -> None:
    with pytest.raises(ConfigError, match="threads is 0"):
        TransformerEncoder.load(transformer_folder, threads=0)
