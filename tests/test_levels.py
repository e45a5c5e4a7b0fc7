"""Labels with categories: asked level by level, one request after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from assistant import answer, write
from fake_claude import Answer, Error, FakeClaude, asks_for_label

from prerouter import Dispatch
from prerouter.claude import Classifier
from prerouter.errors import ConfigError
from prerouter.levels import classifier_of
from prerouter.settings import load_settings
from prerouter.taxonomy import Taxonomy
from prerouter.text import render
from prerouter.tiers import TierTable

NESTED = {
    "taxonomy.toml": """
name = "desk"
default = "chat"
labels = [
  { name = "code", tier = "sonnet", definition = "About code." },
  { name = "chat", tier = "haiku", definition = "Anything else." },
]
""",
    "code/taxonomy.toml": """
name = "code"
default = "python"
labels = [
  { name = "python", definition = "Python code." },
  { name = "rust", tier = "opus", definition = "Rust code." },
]
""",
    "code/rust/system.md": "You write Rust.",
    "code/rust/route.toml": 'params = {edition = {type = "string", required = true}}',
    "chat/route.toml": "threshold = 0.6",
}
RUST = {"label": "rust", "confidence": 0.9, "params": {"route": "rust", "edition": "2024"}}


@pytest.fixture
def claude() -> Iterator[FakeClaude]:
    with FakeClaude(answer=answer) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "desk", NESTED)


def labels(body: Any) -> list[str]:
    found: list[str] = body["output_config"]["format"]["schema"]["properties"]["label"]["enum"]
    return found


def at_top(body: Any) -> bool:
    return asks_for_label(body) and labels(body) == ["code", "chat"]


def below(body: Any) -> bool:
    return asks_for_label(body) and labels(body) == ["python", "rust"]


def made(claude: FakeClaude, folder: Path) -> Classifier:
    return classifier_of(Taxonomy.load(folder), TierTable.load(), load_settings().classifier, client=claude.client())


def test_the_lowest_labels_are_the_taxonomys(folder: Path) -> None:
    taxonomy = Taxonomy.load(folder)
    assert taxonomy.names == ("code/python", "code/rust", "chat")
    assert [taxonomy.tier_of(name) for name in taxonomy.names] == ["sonnet", "opus", "haiku"]
    assert taxonomy.handoff
    assert taxonomy.handoff.routes["code/rust"].system == "You write Rust."
    assert Taxonomy.from_dict(taxonomy.to_dict()) == taxonomy


def test_a_request_is_classified_level_by_level(claude: FakeClaude, folder: Path) -> None:
    claude.script(Answer({"label": "code", "confidence": 0.95, "fallback_label": "chat"}), when=at_top)
    claude.script(Answer(RUST | {"fallback_label": "python"}), when=below)
    body = {"model": "claude-dispatch", "max_tokens": 99, "messages": [{"role": "user", "content": "Borrow x."}]}
    with Dispatch(claude.client(), taxonomy=folder) as client:
        told = client.messages.create(**body).routing
        again = client.messages.create(**body).routing
    decision = told.decision
    assert (decision.label, decision.fallback_label, told.tier) == ("code/rust", "code/python", "opus")
    assert decision.confidence == pytest.approx(0.95 * 0.9)
    assert dict(decision.params) == {"edition": "2024"}
    assert told.cost_usd + again.cost_usd == claude.billed()
    assert (again.decision.decided_by, again.decision.prompt_id) == ("cache", decision.prompt_id)
    assert sum(asks_for_label(call.body) for call in claude.calls()) == 2
    assert claude.calls()[-1].body["system"][0]["text"].startswith("You write Rust.")


def test_a_label_without_categories_takes_one_question(claude: FakeClaude, folder: Path) -> None:
    classifier = made(claude, folder)
    claude.script(Answer({"label": "chat", "fallback_label": "code", "also": ["code"]}), when=at_top)
    verdict = classifier.classify(render("Hello."))
    assert (verdict.label, verdict.fallback_label, verdict.also) == ("chat", "code/python", ("code/python",))
    assert (classifier.stats.calls, classifier.stats.cost_usd) == (1, claude.billed())
    classifier.close()


def test_a_lower_level_that_does_not_answer_leaves_its_default_unsure(claude: FakeClaude, folder: Path) -> None:
    classifier = made(claude, folder)
    claude.script(Answer({"label": "code"}), when=at_top)
    claude.always(Error(400), when=below)
    verdict = asyncio.run(classifier.aclassify(render("Borrow x.")))
    assert (verdict.label, verdict.confidence) == ("code/python", 0.0)
    assert classifier.stats.calls == 2
    claude.always(Error(400), when=at_top)
    assert classifier.classify(render("Borrow y.")).label is None
    classifier.close()


def test_there_are_two_levels_at_most_and_one_place_for_their_handling(folder: Path) -> None:
    (folder / "code" / "taxonomy.toml").write_text("plan = true\n" + NESTED["code/taxonomy.toml"])
    with pytest.raises(ConfigError, match="only labels can stand here"):
        Taxonomy.load(folder)
    (folder / "code" / "taxonomy.toml").write_text(NESTED["code/taxonomy.toml"])
    (folder / "code" / "rust" / "taxonomy.toml").write_text("")
    with pytest.raises(ConfigError, match="only labels can stand here"):
        Taxonomy.load(folder)


def test_each_level_may_have_twelve_labels(tmp_path: Path) -> None:
    rows = ",".join(f'{{name = "c{i}", definition = "Kind {i}.", tier = "haiku"}}' for i in range(12))
    inner = f'name = "i"\ndefault = "c0"\nlabels = [{rows}]'
    files = {"taxonomy.toml": NESTED["taxonomy.toml"], "code/taxonomy.toml": inner}
    taxonomy = Taxonomy.load(write(tmp_path / "desk", files))
    assert len(taxonomy.names) == 13
    assert not taxonomy.askable
