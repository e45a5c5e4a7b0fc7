"""Requests whose label shows in their words, as many as a test needs."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Words that mean something to the shipped encoder.
TELLING = {
    "simple": "translate capital weather spell define today price colour date name convert word city phone",
    "moderate": "summarise email draft function explain compare table notes rewrite script blog query review",
    "complex": "prove distributed architecture consensus theorem migrate optimise liability protocol ledger",
}
FILLER = (
    "the a of for please with my our and this that in to from about customer report order team market system file "
    "garden kitchen window river music student doctor travel holiday library engine camera bridge forest island"
)


def rows(
    n: int, labels: Sequence[str] = tuple(TELLING), *, seed: int = 0, noise: float = 0.0, n_words: int = 12
) -> list[dict[str, Any]]:
    """n rows; a share of `noise` has a label drawn at random."""
    rng, found = random.Random(seed), []
    for i in range(n):
        label = rng.choice(list(labels))
        words = rng.choices(TELLING[label].split(), k=4) + rng.choices(FILLER.split(), k=n_words - 4)
        rng.shuffle(words)
        shown = rng.choice(list(labels)) if rng.random() < noise else label
        found.append({"id": f"r{seed}-{i}", "text": " ".join(words), "label": shown})
    return found


def write(path: Path, table: Iterable[Mapping[str, Any]]) -> Path:
    """`table` as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in table), "utf-8")
    return path
