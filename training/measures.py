"""What models/default is measured by, and how. Used by rebuild_default.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gates
import numpy as np
from gates import Parts, Seen
from rows import FILES, HERE, Rows, injections, read_file

from prerouter import certify, text
from prerouter.certify import Contract, lower_bound, upper_bound
from prerouter.costs import PriceBook
from prerouter.encoder import load_encoder
from prerouter.local import LocalClassifier
from prerouter.modelfolder import FolderModel, Stage
from prerouter.records import Request
from prerouter.settings import Settings
from prerouter.taxonomy import Taxonomy

SEED = 0
INJECTIONS_PER_ROW = 8
N_BINS = 10


def held_out(
    rows: Rows, seen: Seen, stages: tuple[Stage, ...], contract: Contract, parts: Parts, taxonomy: Taxonomy
) -> dict[str, Any]:
    """Figures on the certify rows: all, of each file, label and stage; calibration; policies in dollars."""
    at = parts["certify"]

    def figures(of: np.ndarray, only: int | None = None) -> dict[str, Any]:
        return shares(gates.counts(rows, seen, stages, contract, of, only))

    return {
        "held_out": figures(at),
        "held_out_by_file": {name: figures(at[rows.file[at] == name]) for name in FILES},
        "held_out_by_label": {name: figures(at[rows.truth[at] == i]) for i, name in enumerate(taxonomy.names)},
        "held_out_by_stage": [figures(at, i) for i in range(len(stages))],
        "policies": dollars(rows, seen, stages, contract, at, taxonomy),
        "calibration": [calibration(seen.logits[i][at] / s.temperature, rows.truth[at]) for i, s in enumerate(stages)],
    }


def ceiling(rows: Rows) -> dict[str, Any]:
    """How often two labellers agree, [estimate, lower, upper], on each file's rows with a second label."""
    twice = rows.second >= 0
    return {
        name: {"n": int(of.sum()), "agreement": share(int((rows.truth == rows.second)[of].sum()), int(of.sum()))}
        for name in FILES
        if (of := twice & (rows.file == name)).any()
    }


def dollars(
    rows: Rows, seen: Seen, stages: tuple[Stage, ...], contract: Contract, at: np.ndarray, taxonomy: Taxonomy
) -> dict[str, Any]:
    """Each policy on the rows at `at`: US dollars per 1,000 requests, share served by a tier that is strong enough."""
    book = PriceBook.load(taxonomy, Settings())
    if book is None:
        return {}
    requests = [Request(rows.texts[i], "", tuple(rows.signals[i].tolist()), text.TEXT_VERSION, 0) for i in at]
    bills = book.bills(requests, rows.truth[at], gates.decisions(rows, seen, stages, contract, at)[1])
    policies = {
        name: [round(1000 * float(bill.usd.mean()), 3), round(float(bill.enough.mean()), 4)]
        for name, bill in bills.items()
    }
    return {"assumptions": book.assumptions(), "policies": policies}


def shares(n: Mapping[str, int]) -> dict[str, Any]:
    """Each share as [estimate, lower, upper]; None without rows."""
    return {
        "n": n["n"],
        "accuracy": share(n["right"], n["n"]),
        "coverage": share(n["local"], n["n"]),
        "disagreement": share(n["wrong"], n["local"]),
        "under_routing": share(n["under"], n["local"]),
        "joint_disagreement": share(n["wrong"], n["n"]),
        "joint_under_routing": share(n["under"], n["n"]),
    }


def share(k: int, n: int) -> list[float] | None:
    """[estimate, lower, upper], 95 % Clopper-Pearson (2.5 % on each side); None without rows."""
    if not n:
        return None
    return [round(v, 4) for v in (k / n, lower_bound(k, n, 0.975), upper_bound(k, n, 0.975))]


def calibration(logits: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Expected calibration error over N_BINS of equal width (Guo et al. 2017), and what each bin holds."""
    p = certify.softmax(logits)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == truth
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    table = [
        (int((bins == b).sum()), confidence[bins == b], right[bins == b]) for b in range(N_BINS) if (bins == b).any()
    ]
    error = sum(n * abs(stated.mean() - found.mean()) for n, stated, found in table) / len(truth)
    reliability = [[n, round(float(stated.mean()), 3), round(float(found.mean()), 3)] for n, stated, found in table]
    return {"ece": round(float(error), 4), "reliability": reliability}


def guard_auroc(rows: Rows, seen: Seen, stages: tuple[Stage, ...], known: np.ndarray, novel: np.ndarray) -> list[float]:
    """Per stage: the chance that a novel row is further away than a known one (ties count half)."""
    out = []
    for stage, x in zip(stages, seen.embeddings, strict=True):
        near, far = (stage.guard.measure(x[at], [rows.texts[i] for i in at]) for at in (known, novel))
        ordered = np.sort(near)
        below, within = (np.searchsorted(ordered, far, side=side) for side in ("left", "right"))
        out.append(float((below + within).mean() / 2 / len(near)))
    return out


def attacked(rows: Rows, model: FolderModel, at: np.ndarray) -> dict[str, Any]:
    """Complex requests with injections that it was not trained on; requests in other languages. Through the library.

    Shares are [estimate, lower, upper]; those of injections count each pair as a draw, though pairs share requests.
    """
    local = LocalClassifier(model, [load_encoder(stage.encoder) for stage in model.stages])
    rng, lines, top = np.random.default_rng(SEED), np.array(injections("test")), int(rows.truth.max())
    hard = [rows.texts[i] for i in at[rows.truth[at] == top]]
    names = model.taxonomy.names

    def too_low(texts: list[str]) -> list[float] | None:
        found = local.score_many([text.render(words) for words in texts])
        return share(sum(s.decided and s.label != names[top] for s in found), len(found))

    pairs = [f"{words}\n\n{line}" for words in hard for line in rng.choice(lines, INJECTIONS_PER_ROW, replace=False)]
    foreign = read_file(HERE / "other_languages.jsonl")
    scores = local.score_many([text.render(row["text"]) for row in foreign])
    languages = sorted({row["language"] for row in foreign})
    decided = {
        name: share(
            sum(s.decided for s, row in zip(scores, foreign, strict=True) if row["language"] == name),
            sum(row["language"] == name for row in foreign),
        )
        for name in languages
    }
    return {
        "complex_decided_too_low": too_low(hard),
        "injected_decided_too_low": too_low(pairs),
        "injected_pairs": len(pairs),
        "other_languages_decided": decided,
    }
