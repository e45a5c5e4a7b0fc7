"""What the README says of the shipped model and can be told without its training data."""

from __future__ import annotations

import pytest

from prerouter import PreRouter, Settings

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
