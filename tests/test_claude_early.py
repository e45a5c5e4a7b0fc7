"""A streamed classification: its label is there before the rest, and whatever becomes of the rest is billed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from fake_claude import Answer, Drip, Error, FakeClaude, Held, Outcome, StreamCutClean, StreamErrorEvent, StreamReset

from prerouter.claude import Classifier
from prerouter.sections import ClassifierSettings
from prerouter.taxonomy import Taxonomy
from prerouter.text import render
from prerouter.tiers import TierTable

REQUEST = render("Classify me.")
REASONS = {"label": "complex", "confidence": 0.9, "rationale": "because " * 200}


@pytest.fixture
def classifier(claude: FakeClaude) -> Iterator[Classifier]:
    settings = ClassifierSettings(ask=("rationale",), attempts=2)
    classifier = Classifier(Taxonomy.load(), TierTable.load(), settings, client=claude.client())
    claude.answer = lambda body: REASONS
    yield classifier
    classifier.close()
    claude.wait_until_idle()


def test_the_label_comes_before_the_verdict(claude: FakeClaude, classifier: Classifier) -> None:
    claude.script(Drip(1.5, 0.02))
    asked = classifier.begin(REQUEST)
    assert asked.label() == "complex"
    assert classifier.cached(REQUEST) is None  # the rest is still on its way
    verdict = asked.verdict()
    assert (verdict.label, verdict.confidence, verdict.rationale) == ("complex", 0.9, REASONS["rationale"])
    assert verdict.cost_usd == claude.billed() > 0


def test_the_same_without_blocking_a_loop(claude: FakeClaude, classifier: Classifier) -> None:
    async def main() -> tuple[str | None, str | None]:
        asked = classifier.begin(REQUEST)
        return await asked.alabel(), (await asked.averdict()).label

    assert asyncio.run(main()) == ("complex", "complex")


def test_whoever_leaves_takes_the_label_from_nobody(claude: FakeClaude, classifier: Classifier) -> None:
    async def main() -> str | None:
        first, second = classifier.begin(REQUEST), classifier.begin(REQUEST)
        task = asyncio.create_task(first.alabel())
        await asyncio.sleep(0)
        task.cancel()
        label = await second.alabel()
        assert (await second.averdict()).label == label
        return label

    assert asyncio.run(main()) == "complex"
    assert len(claude.calls()) == 1


def test_an_answer_that_is_known_is_a_verdict_at_once(claude: FakeClaude, classifier: Classifier) -> None:
    classifier.classify(REQUEST)
    asked = classifier.begin(REQUEST)
    assert (asked.label(), asked.verdict().reason) == (None, "cached")


@pytest.mark.parametrize("fault", [Error(500), StreamErrorEvent(after="start"), StreamErrorEvent(after="headers")])
def test_what_passes_is_asked_again(claude: FakeClaude, classifier: Classifier, fault: Outcome) -> None:
    claude.script(fault)
    asked = classifier.begin(REQUEST)
    assert (asked.label(), asked.verdict().label) == ("complex", "complex")
    assert asked.verdict().cost_usd == claude.billed(told=True)


@pytest.mark.parametrize("kind", [StreamCutClean, StreamReset])
def test_what_broke_off_is_billed_as_far_as_it_told(claude: FakeClaude, classifier: Classifier, kind: type) -> None:
    claude.always(kind(after="start"))
    asked = classifier.begin(REQUEST)
    verdict = asked.verdict()
    assert (asked.label(), verdict.label) == (None, None)
    assert verdict.cost_usd in (claude.billed(), 0)  # a reset may take with it what was sent but not yet read
    assert classifier.stats.cost_usd == verdict.cost_usd


def test_no_label_in_time_is_a_timeout(claude: FakeClaude, classifier: Classifier) -> None:
    release = threading.Event()
    claude.always(Held(release))
    asked = classifier.begin(REQUEST, max_wait_s=0.05)
    assert (asked.label(), asked.verdict().reason) == (None, "classifier_timeout")
    release.set()
    claude.wait_until_idle()


def test_a_label_outside_the_taxonomy_is_not_told(claude: FakeClaude, classifier: Classifier) -> None:
    claude.always(Answer(REASONS | {"label": "gigantic"}))
    asked = classifier.begin(REQUEST)
    assert (asked.label(), asked.verdict().reason) == (None, "classifier_invalid")
