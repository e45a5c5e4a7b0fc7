"""Scoring through tiny real model folders, and the shipped one: gate, guard, stages, explanations."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from prerouter import certify, local, modelfolder, text
from prerouter.encoder import load_encoder
from prerouter.errors import ModelFolderError
from prerouter.files import shipped
from prerouter.guard import MAX_DISTANCE, Guard
from prerouter.local import LocalClassifier
from prerouter.modelfolder import Certificate, FolderModel, Gate, Head, Probe, Stage
from prerouter.taxonomy import Taxonomy

WORDS = ("[UNK]", "easy", "hard", "medium", "please", "do", "this", "the", "task", "now")
CERTIFICATE = Certificate(
    valid=True,
    confidence=0.95,
    max_under=0.02,
    max_disagreement=0.05,
    upper_under=0.019,
    upper_disagreement=0.04,
    n_certify=900,
    n_groups=900,
    n_accepted=420,
    errors_under=3,
    errors_disagreement=9,
    labelled_by="claude-haiku-5-5",
    prompt_id=None,
    scope="tests",
    text_version=1,
    created_at="2026-01-01T00:00:00Z",
    needed_rows=None,
)
TAXONOMY = Taxonomy.from_dict(
    {
        "name": "complexity",
        "ordered": True,
        "default": "moderate",
        "labels": [
            {"name": name, "definition": "d", "distinction": "e", "examples": ["f", "g", "h"], "tier": tier}
            for name, tier in (("simple", "haiku"), ("moderate", "sonnet"), ("complex", "opus"))
        ],
    },
    "test",
)


def write_encoder(folder: Path, words: Sequence[str] = WORDS) -> Path:
    """A static encoder whose words are orthogonal: `easy`, `hard` and `medium` can be told apart exactly."""
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file({"embeddings": np.eye(len(words), dtype=np.float32)}, folder / "model.safetensors")
    kinds = ("StaticEmbedding", "Normalize")
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": "" if i == 0 else "1_Normalize",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def make_stage(
    encoder: Path,
    *,
    sees: str = "easy hard",
    threshold: float | None = 0.5,
    strict: float = 0.01,
    words: Sequence[str] = WORDS,
) -> Stage:
    """A stage that is sure of the labels of the words in `sees` and knows nothing else. words: its encoder's."""
    loaded, n_signals, n = load_encoder(encoder), len(text.SIGNAL_NAMES), len(words)
    weights = np.zeros((3, loaded.n_features + n_signals), np.float32)
    for label, word in enumerate(("easy", "medium", "hard")):
        if word in sees.split():
            weights[label, words.index(word)] = 40.0
    head = Head(weights, np.zeros(3, np.float32), np.zeros(n_signals, np.float32), np.ones(n_signals, np.float32))
    guard = Guard(np.full((2, n), 0.3 * (10 / n) ** 0.5, np.float32), 1.2, frozenset(words), 0.4)
    return Stage(encoder, loaded.fingerprint, head, 2.0, Gate(threshold, None if threshold is None else strict), guard)


def make_model(*stages: Stage, certificate: Certificate = CERTIFICATE, probes: tuple[Probe, ...] = ()) -> FolderModel:
    return FolderModel(TAXONOMY, 1, stages, certificate, probes)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoders") / "encoder")


@pytest.fixture(scope="module")
def one(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalClassifier:
    folder = tmp_path_factory.mktemp("models") / "one"
    modelfolder.save(folder, make_model(make_stage(encoder)), "# card\n")
    return LocalClassifier.load(folder)


@pytest.fixture(scope="module")
def two(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalClassifier:
    folder = tmp_path_factory.mktemp("models") / "two"
    stages = make_stage(encoder, sees="easy"), make_stage(encoder, sees="easy hard medium", threshold=0.6)
    modelfolder.save(folder, make_model(*stages), "# card\n")
    return LocalClassifier.load(folder)


@pytest.fixture(scope="module")
def default() -> LocalClassifier:
    return LocalClassifier.load(shipped("models/default"))


def test_sure_requests_are_decided(one: LocalClassifier) -> None:
    scores = one.score(text.render("do the easy task"))
    assert (scores.label, scores.reason, scores.stage, scores.decided) == ("simple", "above_gate", 0, True)
    assert scores.risk <= scores.threshold == 0.5
    assert scores.distance <= scores.limit == 1.2
    assert one.score(text.render("do the hard task")).label == "complex"


def test_unsure_requests_are_left(one: LocalClassifier) -> None:
    scores = one.score(text.render("do this task now"))
    assert (scores.reason, scores.decided) == ("abstained_gate", False)
    assert scores.probabilities == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_strict_uses_the_quality_threshold(one: LocalClassifier) -> None:
    request = text.render("please do this easy task now")
    assert one.score(request).decided
    assert one.score(request, strict=True).reason == "abstained_gate"
    assert one.score(request, strict=True).threshold == 0.01
    assert [scores.reason for scores in one.score_many([request], strict=True)] == ["abstained_gate"]


@pytest.mark.parametrize("words", ["", "   \n", "leichte Aufgabe bitte", "簡単な仕事 easy", "سهل"])
def test_nothing_and_other_languages_are_left_to_others(one: LocalClassifier, words: str) -> None:
    scores = one.score(text.render(words))
    assert (scores.reason, scores.distance) == ("abstained_guard", MAX_DISTANCE)
    assert sum(scores.probabilities) == pytest.approx(1)


def test_far_from_the_training_data(encoder: Path) -> None:
    stage = make_stage(encoder)
    narrow = dataclasses.replace(stage, guard=dataclasses.replace(stage.guard, limit=0.1))
    scores = LocalClassifier(make_model(narrow), [load_encoder(encoder)]).score(text.render("easy"))
    assert (scores.reason, scores.limit) == ("abstained_guard", 0.1)
    assert 0.1 < scores.distance < MAX_DISTANCE


def test_closed_gate(encoder: Path) -> None:
    closed = LocalClassifier(make_model(make_stage(encoder, threshold=None)), [load_encoder(encoder)])
    request = text.render("do the easy task")
    assert closed.score(request).reason == "gate_closed"
    assert closed.score(request, strict=True).reason == "gate_closed"
    assert closed.score(request).label == "simple"


def test_what_the_first_stage_leaves_goes_to_the_second(two: LocalClassifier) -> None:
    found = [two.score(text.render(words)) for words in ("easy task", "hard task", "medium task", "this task")]
    assert [(s.label, s.stage, s.reason) for s in found[:3]] == [
        ("simple", 0, "above_gate"),
        ("complex", 1, "above_gate"),
        ("moderate", 1, "above_gate"),
    ]
    assert (found[3].stage, found[3].reason, found[3].threshold) == (1, "abstained_gate", 0.6)


def test_what_every_stage_says_is_known_or_asked_for(two: LocalClassifier) -> None:
    for words in ("easy task", "hard task", "this task"):
        request = text.render(words)
        alone = two.every_stage(request)
        assert [scores.stage for scores in alone] == [0, 1]
        for scores in (two.score(request), *two.score_many([request])):
            assert [each.stage for each in scores.by_stage] == [0, 1][: scores.stage + 1]
            assert scores.by_stage[-1] is scores
            every = two.every_stage(request, scores)
            assert every[: scores.stage + 1] == scores.by_stage
            assert [(each.label, each.reason) for each in every] == [(each.label, each.reason) for each in alone]
            assert [each.risk for each in every] == pytest.approx([each.risk for each in alone], abs=1e-3)


def test_features_are_the_first_stages(two: LocalClassifier, encoder: Path) -> None:
    for words in ("easy task", "hard task"):
        expected = load_encoder(encoder).features([words])[0]
        for scores in (two.score(text.render(words)), *two.score_many([text.render(words)])):
            assert scores.features is not None
            assert scores.features == pytest.approx(expected)
    assert two.fingerprint == load_encoder(encoder).fingerprint


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text() | st.lists(st.sampled_from(WORDS)).map(" ".join), max_size=8))
def test_many_is_each(two: LocalClassifier, texts: list[str]) -> None:
    requests = [text.render(words) for words in texts if not any("\ud800" <= c <= "\udfff" for c in words)]
    for alone, among in zip([two.score(r) for r in requests], two.score_many(requests), strict=True):
        assert (alone.label, alone.stage, alone.reason) == (among.label, among.stage, among.reason)
        assert alone.probabilities == pytest.approx(among.probabilities, abs=1e-5)
        assert (alone.risk, alone.distance) == pytest.approx((among.risk, among.distance), abs=1e-3)


def test_many_of_none_and_more_than_a_chunk(one: LocalClassifier) -> None:
    assert one.score_many([]) == []
    requests = [text.render("easy" if i % 3 else "hard") for i in range(2 * local.CHUNK + 5)]
    assert [s.label for s in one.score_many(requests)] == [
        "simple" if i % 3 else "complex" for i in range(len(requests))
    ]


def test_probabilities_have_the_temperature_and_the_risk_is_the_certificates(encoder: Path) -> None:
    stage = make_stage(encoder)
    scores = LocalClassifier(make_model(stage), [load_encoder(encoder)]).score(text.render("easy task"))
    features = load_encoder(encoder).features(["easy task"])
    expected = certify.softmax(features @ stage.head.weights[:, : features.shape[1]].T / 2.0)
    assert scores.probabilities == pytest.approx(expected[0], rel=1e-4)
    assert scores.risk == pytest.approx(certify.risk(expected, certify.Contract(0.02, 0.05))[0], rel=1e-3)


def test_unordered_taxonomy_has_no_higher_label(encoder: Path) -> None:
    taxonomy = Taxonomy.inferred(["a", "b", "c"])
    made = dataclasses.replace(CERTIFICATE, max_under=None, upper_under=None, errors_under=None)
    model = dataclasses.replace(make_model(make_stage(encoder), certificate=made), taxonomy=taxonomy)
    classifier = LocalClassifier(model, [load_encoder(encoder)])
    scores = classifier.score(text.render("easy now task this"))
    assert classifier.ordered is False
    assert scores.risk == pytest.approx((1 - max(scores.probabilities)) / 0.05)


def test_threads_agree(two: LocalClassifier) -> None:
    requests = [text.render(f"{word} task {i}") for i in range(100) for word in ("easy", "hard", "medium")]
    expected = two.score_many(requests)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(two.score, requests))
    assert [(s.label, s.stage, s.reason) for s in found] == [(s.label, s.stage, s.reason) for s in expected]


def probe(encoder: Path, words: str, change: float = 0.0) -> Probe:
    scores = LocalClassifier(make_model(make_stage(encoder)), [load_encoder(encoder)]).score(text.render(words))
    first, second, third = scores.probabilities
    return Probe(words, ((first + change, second, third - change),))


def test_probes_are_reproduced_or_refused(encoder: Path, tmp_path: Path) -> None:
    good = make_model(make_stage(encoder), probes=(probe(encoder, "easy task"), probe(encoder, "hard now", 5e-5)))
    modelfolder.save(tmp_path / "good", good, "# card\n")
    LocalClassifier.load(tmp_path / "good").warm()
    bad = dataclasses.replace(good, probes=(*good.probes, probe(encoder, "this task", 2e-4)))
    modelfolder.save(tmp_path / "bad", bad, "# card\n")
    with pytest.raises(ModelFolderError, match="does not reproduce its probes"):
        LocalClassifier.load(tmp_path / "bad")


def test_head_and_encoder_must_belong_together(encoder: Path, tmp_path: Path) -> None:
    stage = make_stage(encoder)
    modelfolder.save(tmp_path / "other", make_model(dataclasses.replace(stage, fingerprint="0" * 12)), "# card\n")
    with pytest.raises(ModelFolderError, match="trained on another encoder"):
        LocalClassifier.load(tmp_path / "other")
    narrow = dataclasses.replace(stage.head, weights=stage.head.weights[:, 1:])
    modelfolder.save(tmp_path / "narrow", make_model(dataclasses.replace(stage, head=narrow)), "# card\n")
    with pytest.raises(ModelFolderError, match="inputs"):
        LocalClassifier.load(tmp_path / "narrow")


def test_explanation_names_the_words_and_the_gate(one: LocalClassifier) -> None:
    found = one.explain(text.render("please do this easy task now"))
    assert (found.label, found.stage, found.reason) == ("simple", 0, "above_gate")
    assert found.words[0].text == "easy"
    assert found.words[0].effect > 0.5
    assert set(found.probabilities) == {"simple", "moderate", "complex"}
    assert {signal.name for signal in found.signals} <= set(text.SIGNAL_NAMES)
    assert json.loads(json.dumps(found.to_json()))["words"][0]["text"] == "easy"
    for part in ("stage 0: simple", "risk", "distance", "'easy'", found.signals[0].name):
        assert part in found.to_text()


def test_explanation_is_of_the_stage_that_decided(two: LocalClassifier) -> None:
    found = two.explain(text.render("do the hard task"))
    assert (found.stage, found.label, found.words[0].text) == (1, "complex", "hard")


def test_explanation_says_when_the_language_is_unknown(one: LocalClassifier) -> None:
    assert "words that the training data does not know" in one.explain(text.render("leichte Aufgabe bitte")).to_text()
    assert "does not know" not in one.explain(text.render("easy task")).to_text()


@pytest.mark.parametrize("words", ["", "?", "the " * 3000, "x" * 6000])
def test_everything_can_be_explained(one: LocalClassifier, words: str) -> None:
    found = one.explain(text.render(words))
    assert found.to_text()
    assert len(found.words) <= 5


GERMAN = (
    "Was ist die Hauptstadt von Frankreich?",
    "Bitte schreibe eine höfliche Antwort an einen verärgerten Kunden.",
    "Ist dieser Satz positiv oder negativ: Das Essen war kalt.",
    "Erkläre mir den Unterschied zwischen TCP und UDP.",
    "Nenne mir drei Vorteile von Solarenergie.",
    "Wie viele Einwohner hat Hamburg?",
    "Sortiere diese Liste nach Datum und entferne doppelte Einträge.",
)
JAPANESE = (
    "フランスの首都はどこですか？",
    "この文章を三行で要約してください。",
    "Pythonでリストをソートするには？",
    "次のレビューは肯定的ですか：とても美味しかったです。",
    "富士山の高さは何メートルですか",
)
ARABIC = (
    "ما هي عاصمة فرنسا؟",
    "لخص هذا النص في ثلاث جمل.",
    "هل هذا التقييم إيجابي أم سلبي: الطعام كان باردا",
    "كم عدد سكان القاهرة؟",
    "ترجم هذه الجملة إلى الإنجليزية",
)


def test_shipped_model_leaves_other_languages(default: LocalClassifier) -> None:
    found = default.score_many([text.render(words) for words in (*GERMAN, *JAPANESE, *ARABIC)])
    assert [scores.label for scores in found if scores.decided] == []


def test_shipped_model_decides_what_is_plain(default: LocalClassifier) -> None:
    easy = (
        "Translate 'good morning' into Spanish.",
        "how do I list hidden files in bash",
        "what year did the war end?",
    )
    found = default.score_many([text.render(words) for words in easy])
    assert all(scores.decided and scores.label == "simple" for scores in found)


def test_shipped_model_certificate_is_within_its_contract(default: LocalClassifier) -> None:
    made = default.certificate
    assert made.valid
    assert made.upper_under is not None
    assert made.max_under is not None
    assert made.upper_under <= made.max_under
    assert made.upper_disagreement <= made.max_disagreement
    assert made.upper_under == pytest.approx(certify.upper_bound(made.errors_under or 0, made.n_accepted))
    assert made.upper_disagreement == pytest.approx(certify.upper_bound(made.errors_disagreement, made.n_accepted))
    assert default.text_version == made.text_version


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc")
def test_shipped_model_is_light() -> None:
    folder = shipped("models/default")
    code = (
        "import sys; from pathlib import Path; from prerouter import text; "
        "from prerouter.local import LocalClassifier; "
        f"LocalClassifier.load(Path({str(folder)!r})).score(text.render('What is the capital of France?')); "
        "heavy = {'torch', 'sklearn', 'scipy', 'anthropic', 'mlflow', 'onnxruntime', 'joblib'} & set(sys.modules); "
        "peak = Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]; "
        "print(int(peak) // 1024, sorted(heavy))"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(local.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    megabytes, heavy = done.stdout.split(maxsplit=1)
    assert heavy.strip() == "[]"
    assert int(megabytes) < 100
