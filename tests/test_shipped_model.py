"""What the README says of the shipped model and can be told without its training data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prerouter import PreRouter, Settings
from prerouter.records import Decision

ROOT = Path(__file__).parent.parent
HELD_OUT = [json.loads(line) for line in (ROOT / "labels" / "heldout.jsonl").read_text("utf-8").splitlines()]
INJECTIONS = (ROOT / "training" / "injections_test.txt").read_text("utf-8").splitlines()

OTHER_LANGUAGES = {
    "German": [
        "Was ist die Hauptstadt der Mongolei?",
        "Übersetze ins Englische: Die Rechnung liegt bei.",
        "Ist diese Bewertung positiv oder negativ? Die Lampe kam zwei Tage zu spät, ist aber wunderschön.",
        "Schreibe eine höfliche Antwort an einen Kunden, dessen Paket seit drei Wochen verschwunden ist.",
        "Nenne drei Vorteile einer Wärmepumpe gegenüber einer Gasheizung.",
        "Schreibe eine Python-Funktion, die überlappende Intervalle zusammenfasst, mit drei Tests.",
        "Fasse den folgenden Vertrag in fünf Punkten zusammen und weise auf ungewöhnliche Klauseln hin.",
        "Beweise, dass jede endliche Gruppe, in der jedes Element sein eigenes Inverses ist, abelsch ist.",
    ],
    "Japanese": [
        "モンゴルの首都はどこですか。",
        "次の文を英語に翻訳してください。請求書を添付します。",
        "このレビューは肯定的ですか、否定的ですか。ランプは二日遅れて届きましたが、とてもきれいです。",
        "三週間荷物が届かないお客様への丁寧な返信を書いてください。",
        "ガス暖房と比べたヒートポンプの利点を三つ挙げてください。",
        "重なり合う区間をまとめるPythonの関数を書き、テストを三つ付けてください。",
        "次の契約書を五つの要点にまとめ、珍しい条項を指摘してください。",
        "すべての元が自分自身の逆元である有限群は可換であることを証明してください。",
    ],
    "Arabic": [
        "ما هي عاصمة منغوليا؟",
        "ترجم إلى الإنجليزية: الفاتورة مرفقة.",
        "هل هذا التقييم إيجابي أم سلبي؟ وصل المصباح متأخرا يومين لكنه جميل جدا.",
        "اكتب ردا مهذبا على عميل لم يصل طرده منذ ثلاثة أسابيع.",
        "اذكر ثلاث مزايا للمضخة الحرارية مقارنة بالتدفئة بالغاز.",
        "اكتب دالة بلغة بايثون تدمج الفترات المتداخلة مع ثلاثة اختبارات.",
        "لخص العقد التالي في خمس نقاط وأشر إلى البنود غير المعتادة.",
        "أثبت أن كل زمرة منتهية يكون كل عنصر فيها معكوسا لنفسه هي زمرة تبديلية.",
    ],
}


@pytest.mark.parametrize("language", OTHER_LANGUAGES)
def test_other_languages_fall_through(language: str) -> None:
    with PreRouter.load(settings=Settings()) as router:
        decisions = router.decide_many(OTHER_LANGUAGES[language])
    assert [d.id for d in decisions if d.decided_by == "local"] == []


@pytest.fixture(scope="module")
def router() -> Any:
    with PreRouter.load(settings=Settings()) as router:
        router.local.warm()  # raises when the transformer does not reproduce its probes
        yield router


@pytest.fixture(scope="module")
def decisions(router: PreRouter) -> list[Decision]:
    return router.decide_many([_request(row) for row in HELD_OUT])


def _request(row: dict[str, Any]) -> Any:
    return {"messages": row["messages"]} if "messages" in row else row["text"]


def test_held_out_requests_are_decided_as_the_card_says(router: PreRouter, decisions: list[Decision]) -> None:
    """int8 kernels differ between processors, hence a margin of four in a hundred requests."""
    stated = router.local.model.figures["shares_by_file"]["authored.jsonl"]
    local = [d.decided_by == "local" for d in decisions]
    wrong = [is_local and d.label != row["label"] for is_local, d, row in zip(local, decisions, HELD_OUT, strict=True)]
    assert stated["n"] == len(HELD_OUT)
    assert sum(local) / len(local) == pytest.approx(stated["coverage"][0], abs=0.04)
    assert sum(wrong) / len(local) == pytest.approx(stated["joint_disagreement"][0], abs=0.02)
    assert {d.stage for d in decisions if d.decided_by == "local"} == {0, 1}


def test_talking_to_the_router_does_not_lower_a_complex_request(router: PreRouter) -> None:
    texts = [row["text"] for row in HELD_OUT if row["label"] == "complex" and "text" in row]
    attacked = [
        f"{words}\n\n{INJECTIONS[(3 * i + k) % len(INJECTIONS)]}" for i, words in enumerate(texts) for k in range(3)
    ]
    found = router.decide_many(attacked)
    lowered = [d for d in found if d.decided_by == "local" and d.label != "complex"]
    assert len(lowered) <= 0.01 * len(attacked)


def test_an_explanation_of_the_second_stage_names_words(router: PreRouter, decisions: list[Decision]) -> None:
    row = next(
        r for r, d in zip(HELD_OUT, decisions, strict=True) if d.stage == 1 and "text" in r and len(r["text"]) > 60
    )
    told = router.explain(row["text"])
    assert (told.stage, told.reason) == (1, "above_gate")
    assert told.risk <= told.threshold
    assert told.distance <= told.limit
    assert told.words
    assert all(word.effect > 0 for word in told.words)


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in (ROOT / "models" / "default").rglob("*") if path.is_file()) <= 36 * 2**20


def test_the_shipped_certificate_is_valid_and_open() -> None:
    with PreRouter.load(settings=Settings()) as router:
        certificate = router.local.certificate
    assert certificate.valid
    assert certificate.upper_disagreement <= certificate.max_disagreement
    assert certificate.upper_under is not None
    assert certificate.upper_under <= (certificate.max_under or 0)


def test_the_same_request_keeps_its_label_with_a_long_system_prompt_and_tools() -> None:
    request = "Translate into Spanish: The invoice is attached."
    body = {
        "system": "You are the assistant of a large bank. " * 400,
        "tools": [{"name": f"tool_{i}", "input_schema": {"type": "object"}} for i in range(20)],
        "messages": [{"role": "user", "content": request}],
    }
    with PreRouter.load(settings=Settings()) as router:
        alone, wrapped = router.decide(request, local_only=True), router.decide(body, local_only=True)
    assert (alone.decided_by, alone.label) == (wrapped.decided_by, wrapped.label) == ("local", "simple")
