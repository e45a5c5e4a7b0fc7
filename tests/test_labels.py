"""What labels/README.md says of the rows beside it."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prerouter import text
from prerouter.taxonomy import Taxonomy

LABELS = Path(__file__).parent.parent / "labels"
README = (LABELS / "README.md").read_text("utf-8")
NAMES = ("examples", "heldout")


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (LABELS / f"{name}.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_counts(name: str) -> None:
    labels = Taxonomy.load().names
    counts = Counter(row["label"] for row in _rows(name))
    expected = " | ".join(str(n) for n in (counts.total(), *(counts[label] for label in labels)))
    assert f"| `{name}.jsonl` | {expected} |" in README
    assert set(counts) == set(labels)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_can_be_routed(name: str) -> None:
    for row in _rows(name):
        assert text.render({"messages": row["messages"]} if "messages" in row else row["text"]).text


def test_no_request_is_in_both() -> None:
    seen = [
        {" ".join(re.findall(r"\w+", json.dumps(r.get("text", r.get("messages"))).lower())) for r in _rows(n)}
        for n in NAMES
    ]
    assert seen[0] & seen[1] == set()
    assert {row["id"] for row in _rows("examples")} & {row["id"] for row in _rows("heldout")} == set()


def test_noise() -> None:
    twice = [row for name in NAMES for row in _rows(name) if "second" in row]
    agreed = sum(row["label"] == row["second"] for row in twice)
    assert (
        f"Of the {len(twice)} rows with a second label {agreed} agree ({agreed / len(twice):.1%})".replace("%", " %")
        in README
    )
