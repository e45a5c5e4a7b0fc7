from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from test_export import bert

from prerouter.encoder import load_encoder
from prerouter.errors import ConfigError
from prerouter.export import HEAD_TOKENS, TAIL_TOKENS, export_transformer
from prerouter.finetune import Finetuned, Recipe, finetune

WORDS = ["the", "of", "cat", "mat", "naive", "café", "£", "α"]
QUICK = Recipe(epochs=25, rate=3e-3, layer_decay=1.0, head_rate=1e-2, batch=16)
N_TOKENS = HEAD_TOKENS + TAIL_TOKENS


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads cost more than they save on so small a model, and wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert(tmp_path_factory.mktemp("bert"), max_tokens=256)


@pytest.fixture(scope="module")
def examples() -> tuple[list[str], np.ndarray]:
    """Label 1 when the text says "sat" anywhere, which the untrained encoder hardly shows."""
    rng = np.random.default_rng(0)
    texts, labels = [], rng.integers(0, 2, 192)
    for label in labels:
        words = list(rng.choice(WORDS, rng.integers(4, 12)))
        words[rng.integers(len(words))] = "sat" if label else "the"
        texts.append(" ".join(words))
    return texts, labels


@pytest.fixture(scope="module")
def made(source: Path, examples: tuple[list[str], np.ndarray]) -> Finetuned:
    return finetune(examples[0][:128], examples[1][:128], n_labels=2, source=source, recipe=QUICK)


def logits(made: Finetuned, texts: list[str]) -> np.ndarray:
    return made.features(texts) @ made.weights.T + made.bias


def test_it_learns_what_a_head_on_the_frozen_encoder_does_not(
    source: Path, examples: tuple[list[str], np.ndarray], made: Finetuned
) -> None:
    texts, labels = examples
    frozen = Recipe(epochs=25, rate=0.0, head_rate=1e-2, batch=16)
    only_head = finetune(texts[:128], labels[:128], n_labels=2, source=source, recipe=frozen)
    right, before = ((logits(m, texts[128:]).argmax(axis=1) == labels[128:]).mean() for m in (made, only_head))
    assert right > 0.9
    assert before < right - 0.1


def test_the_head_starts_where_a_probe_of_the_features_puts_it(
    source: Path, examples: tuple[list[str], np.ndarray]
) -> None:
    seen: list[np.ndarray] = []

    def probe(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(features)
        return np.arange(2 * features.shape[1], dtype=np.float32).reshape(2, -1), np.array([3, -4], np.float32)

    still = Recipe(epochs=1, rate=0.0, head_rate=0.0)
    found = finetune(examples[0][:8], examples[1][:8], n_labels=2, source=source, recipe=still, probe=probe)
    np.testing.assert_allclose(found.features(examples[0][:8]), seen[0], atol=1e-6)
    np.testing.assert_allclose(found.weights, np.arange(found.weights.size).reshape(2, -1), rtol=1e-5)
    np.testing.assert_allclose(found.bias, [3, -4])


def test_features_and_head_are_what_the_exported_encoder_serves(tmp_path: Path, made: Finetuned) -> None:
    long = " ".join(WORDS * 60).split()
    texts = ["the cat sat", "", "of mats!", *(" ".join(long[:n]) for n in (N_TOKENS - 1, N_TOKENS, N_TOKENS + 1, 400))]
    made.save(tmp_path / "model")
    export_transformer(tmp_path / "model", tmp_path / "onnx", int8=False)
    served = load_encoder(tmp_path / "onnx").features(texts)
    np.testing.assert_allclose(made.features(texts), served, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(served, axis=1), 1, atol=1e-5)
    assert (made.weights.shape, made.bias.shape) == ((2, served.shape[1]), (2,))


def test_the_middle_of_a_long_text_is_not_read(made: Finetuned) -> None:
    words = (WORDS * 60)[:400]
    other = [*words[:HEAD_TOKENS], *["sat"] * (400 - N_TOKENS), *words[-TAIL_TOKENS:]]
    same, first = [" ".join(words), " ".join(other)], " ".join(["sat", *words[1:]])
    features = made.features([*same, first])
    np.testing.assert_allclose(features[0], features[1], atol=1e-6)
    assert np.abs(features[0] - features[2]).max() > 1e-3


def test_the_same_seed_gives_the_same_weights(source: Path, examples: tuple[list[str], np.ndarray]) -> None:
    texts, labels = examples
    recipe = Recipe(epochs=1, batch=16)
    torch.manual_seed(1)
    a = finetune(texts, labels, n_labels=2, source=source, recipe=recipe, seed=5)
    torch.manual_seed(2)
    expected = torch.rand(3)
    torch.manual_seed(2)
    b = finetune(texts, labels, n_labels=2, source=source, recipe=recipe, seed=5)
    c = finetune(texts, labels, n_labels=2, source=source, recipe=recipe, seed=6)
    np.testing.assert_array_equal(a.features(texts), b.features(texts))
    np.testing.assert_array_equal(a.weights, b.weights)
    assert np.abs(a.weights - c.weights).max() > 1e-3
    assert torch.equal(torch.rand(3), expected), "the caller's random numbers were disturbed"
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_row_without_weight_teaches_nothing(source: Path, examples: tuple[list[str], np.ndarray]) -> None:
    texts, labels = examples
    wrong, weights = labels.copy(), np.ones(192)
    wrong[::3] = 1 - wrong[::3]
    weights[::3] = 0
    recipe = Recipe(epochs=1, batch=16)
    a = finetune(texts, labels, n_labels=2, weights=weights, source=source, recipe=recipe)
    b = finetune(texts, wrong, n_labels=2, weights=weights, source=source, recipe=recipe)
    np.testing.assert_array_equal(a.features(texts), b.features(texts))


def test_it_learns_probabilities(source: Path, examples: tuple[list[str], np.ndarray]) -> None:
    texts, labels = examples
    soft = np.where(labels[:, None] == [[0, 1]], 0.7, 0.3)
    made = finetune(texts, soft, n_labels=2, source=source, recipe=QUICK)
    found = torch.softmax(torch.tensor(logits(made, texts)), 1).numpy()
    assert np.abs(found - soft).mean() < 0.1


def test_smoothing_is_the_same_as_smooth_targets(source: Path, examples: tuple[list[str], np.ndarray]) -> None:
    texts, labels = examples
    soft = np.where(labels[:, None] == [[0, 1]], 0.9, 0.1)
    a = finetune(texts, labels, n_labels=2, source=source, recipe=Recipe(epochs=1, smoothing=0.2))
    b = finetune(texts, soft, n_labels=2, source=source, recipe=Recipe(epochs=1))
    np.testing.assert_allclose(a.weights, b.weights, atol=1e-4)


def test_progress_goes_to_standard_error_with_nothing_on_output(
    source: Path, examples: tuple[list[str], np.ndarray], capfd: pytest.CaptureFixture[str]
) -> None:
    finetune(examples[0][:8], examples[1][:8], n_labels=2, source=source, recipe=Recipe(epochs=1))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("labels", "weights", "complaint"),
    [
        ([0, 1], None, r"3 texts, labels of shape \(2, 2\)"),
        ([0, 1, 2], None, "labels outside 0 to 1"),
        ([-1, 0, 1], None, "labels outside 0 to 1"),
        ([[0.5, 0.5]] * 2, None, r"labels of shape \(2, 2\)"),
        ([0, 1, 0], [1.0], r"weights of shape \(1,\)"),
        ([0, 1, 0], [1.0, -1.0, 1.0], "negative or all zero"),
        ([0, 1, 0], [0.0, 0.0, 0.0], "negative or all zero"),
    ],
)
def test_refuses_what_does_not_fit(
    source: Path, labels: list[int], weights: list[float] | None, complaint: str
) -> None:
    given = None if weights is None else np.array(weights)
    with pytest.raises(ConfigError, match=complaint):
        finetune(["a", "b", "c"], np.array(labels), n_labels=2, weights=given, source=source)


def test_refuses_no_texts(source: Path) -> None:
    with pytest.raises(ConfigError, match="0 texts"):
        finetune([], np.array([], int), n_labels=2, source=source)


def test_refuses_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot load the model"):
        finetune(["a"], np.array([0]), n_labels=2, source=tmp_path)
