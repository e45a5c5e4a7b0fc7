"""The figures of models/default that other models do not have, shares as [estimate, lower, upper].

Used by rebuild_default.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from plan import SEED
from rows import FILES, HERE, Rows, injections, joined, read_file

from prerouter import figures, text
from prerouter.figures import NOVEL, Figures, Seen
from prerouter.local import LocalClassifier
from prerouter.modelfolder import Gate
from prerouter.stages import Learnt

MEASURES = ("accuracy", "coverage", "disagreement", "under_routing", "joint_disagreement", "joint_under_routing")
INJECTIONS_PER_ROW = 8


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A model with its gates. learnt: its stages; held_out: its certify rows; away: of sources that it never saw."""

    local: LocalClassifier
    learnt: tuple[Learnt, ...]
    held_out: Rows
    away: Rows

    def look(self, rows: Rows) -> Seen:
        """What both stages say of the rows."""
        return figures.look(self.local, rows.requests, rows.truth, rows.groups)

    def look_alone(self, number: int) -> Seen:
        """What one stage says of all rows, those of `away` as of no label: its gate is open, its guard measures."""
        stage, rows = self.local.model.stages[number], joined(self.held_out, self.away)
        model = replace(self.local.model, stages=(replace(stage, gate=Gate(math.inf, math.inf)),))
        local = LocalClassifier(model, [self.learnt[number].encoder])
        known = np.arange(len(rows.truth)) < len(self.held_out.truth)
        return figures.look(local, rows.requests, np.where(known, rows.truth, NOVEL), rows.groups)

    def summarise(self, seen: Seen) -> Figures:
        """Its figures, without dollars."""
        return figures.summarise(seen, self.local, {}, seed=SEED)

    def shares(self, seen: Seen) -> dict[str, Any]:
        """n and MEASURES; None where there is nothing to take a share of."""
        found = self.summarise(seen)
        return {"n": found.n} | {name: interval(found, name) for name in MEASURES}

    def shares_by_stage(self, seen: Seen) -> list[dict[str, Any]]:
        """Of each stage's decisions."""
        return [self.shares(seen.decided_by(i)) for i in range(len(self.learnt))]


def interval(found: Figures, name: str) -> list[float] | None:
    """One figure; None where there is none."""
    value = getattr(found, name)
    return None if value is None else [round(v, 4) for v in (value, *found.intervals[name])]


def held_out(one: Opened, seen: Seen) -> dict[str, Any]:
    """By file, label and stage. seen: the held-out rows."""
    rows, names = one.held_out, one.local.taxonomy_names
    alone = [one.summarise(one.look_alone(i)) for i in range(len(one.learnt))]
    return {
        "shares": one.shares(seen),
        "shares_by_file": {name: one.shares(seen.take(rows.file == name)) for name in FILES},
        "shares_by_label": {name: one.shares(seen.take(rows.truth == i)) for i, name in enumerate(names)},
        "shares_by_stage": one.shares_by_stage(seen),
        "ece_by_stage": [found.ece for found in alone],
    }


def unseen(rotations: Sequence[Opened]) -> dict[str, Any]:
    """On sources never seen, over all rotations; guard_auroc: how each stage's guard tells them from held-out rows."""
    first, groups = rotations[0], [group for one in rotations for group in one.away.groups]
    seen = figures.pooled([one.look(one.away) for one in rotations], groups)
    everyone = [group for one in rotations for rows in (one.held_out, one.away) for group in rows.groups]
    alone = [
        figures.pooled([one.look_alone(i) for one in rotations], everyone) for i in range(len(first.learnt))
    ]  # fmt: skip
    return first.shares(seen) | {
        "rotations": len(rotations),
        "by_stage": first.shares_by_stage(seen),
        "guard_auroc": [interval(first.summarise(each), "auroc_novel") for each in alone],
    }


def ceiling(rows: Rows) -> dict[str, Any]:
    """How often two labellers agree on each file's rows with a second label."""
    found = {}
    for name in FILES:
        twice = (rows.second >= 0) & (rows.file == name)
        k, n = int((rows.truth == rows.second)[twice].sum()), int(twice.sum())
        if n:
            found[name] = {"n": n, "agreement": [round(v, 4) for v in (k / n, *figures.exact(k, n))]}
    return found


def attacked(one: Opened) -> dict[str, Any]:
    """Complex held-out requests with injections that it was not trained on; requests in other languages."""
    rng, lines, top = np.random.default_rng(SEED), np.array(injections("test")), len(one.local.taxonomy_names) - 1
    hard = [words for words, truth in zip(one.held_out.texts, one.held_out.truth.tolist(), strict=True) if truth == top]
    groups = [words for words in hard for _ in range(INJECTIONS_PER_ROW)]
    behind = [line for _ in hard for line in rng.choice(lines, INJECTIONS_PER_ROW, replace=False)]
    pairs = [text.render(f"{words}\n\n{line}") for words, line in zip(groups, behind, strict=True)]
    injected = figures.look(one.local, pairs, [top] * len(pairs), groups)
    foreign = read_file(HERE / "other_languages.jsonl")
    languages = np.array([row["language"] for row in foreign])
    seen = figures.look(one.local, [text.render(row["text"]) for row in foreign], [NOVEL] * len(foreign))
    decided = {str(name): one.summarise(seen.take(languages == name)) for name in np.unique(languages)}
    return {
        "injected_decided_too_low": interval(one.summarise(injected), "joint_under_routing"),
        "injected_pairs": len(pairs),
        "other_languages_decided": {name: interval(found, "novel_coverage") for name, found in decided.items()},
    }
