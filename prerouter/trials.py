"""Requests that were answered twice, by a taxonomy's specialists and by one prompt, and judged: what came of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from prerouter.pairs import LEVEL, OUTCOMES, Pair, between, first_place, rate, tally

Finding = Literal["better", "worse", "unclear"]

QUANTILES = {"p50": 0.5, "p90": 0.9}


@dataclass(frozen=True, slots=True)
class Trial(Pair):
    """A pair whose routed answer is the specialists', and whose reference is the one prompt's.

    routed_usd: all that the specialists' answer cost, classification included, of which classifier_usd is that part.
    routed_s, reference_s: seconds from the request to the end of the answer; None where it took more than one try.
    decided_by, action: see `Decision` and `Routing`. rejected: whether a specialist gave the request back.
    expected: label that the file gives. contest: 12 hex characters of what was compared, see `roster.Roster`.
    """

    classifier_usd: float
    routed_s: float | None
    reference_s: float | None
    decided_by: str
    action: str
    rejected: bool
    expected: str | None
    contest: str


def finding(trials: Iterable[Pair]) -> Finding:
    """Whether the specialists win more often than they lose: the exact sign test at 1 - LEVEL, ties left out."""
    counted = [pair.outcome for pair in trials if pair.outcome != "tied"]
    low, high = between(counted.count("won"), len(counted)) if counted else (0.0, 1.0)
    return "better" if low > 0.5 else "worse" if high < 0.5 else "unclear"


def by_label(trials: Iterable[Trial]) -> dict[str, list[Trial]]:
    """{label: its trials}, the most frequent first."""
    labels: dict[str, list[Trial]] = {}
    for trial in trials:
        labels.setdefault(trial.label, []).append(trial)
    return dict(sorted(labels.items(), key=lambda item: -len(item[1])))


def quantile(values: Sequence[float], share: float) -> dict[str, float | None]:
    """{estimate, lower, upper} of a quantile: order statistics, free of the distribution (Conover 1999, section 3.2).

    A bound is None where there are too few values for it.
    """
    n, ordered = len(values), sorted(values)
    if not n:
        return {"estimate": None, "lower": None, "upper": None}
    logs = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)]
    terms = [log + k * math.log(share) + (n - k) * math.log(1 - share) for k, log in enumerate(logs)]
    below = np.cumsum(np.exp(terms))  # P(at most k of n values are below the quantile)
    low = int((below <= (1 - LEVEL) / 2).sum())
    high = int((below < (1 + LEVEL) / 2).sum()) + 1
    return {
        "estimate": float(np.quantile(ordered, share)),
        "lower": ordered[low - 1] if low else None,
        "upper": ordered[high - 1] if high <= n else None,
    }


def summary(trials: Sequence[Trial]) -> dict[str, Any]:
    """All figures as a JSON object; `all` is None without trials."""
    labelled = [trial for trial in trials if trial.expected is not None]
    return {
        "finding": finding(trials),
        "all": _figures(trials) if trials else None,
        "by_route": {label: _figures(some) for label, some in by_label(trials).items()},
        "first_place": first_place(trials),
        "usd_per_1000": _per_1000(trials) if trials else None,
        "seconds": {"specialists": _seconds(t.routed_s for t in trials)}
        | {"one_prompt": _seconds(t.reference_s for t in trials)},
        "rejected": rate(sum(t.rejected for t in trials), len(trials)),
        "clarified": rate(sum(t.action == "clarify" for t in trials), len(trials)),
        "planned": rate(sum(t.action == "plan" for t in trials), len(trials)),
        "undecided": rate(sum(t.decided_by == "default" for t in trials), len(trials)),
        "routing_accuracy": rate(sum(t.label == t.expected for t in labelled), len(labelled)) if labelled else None,
        "labelled": len(labelled),
        "judge_usd": round(sum(t.judge_usd for t in trials), 6),
    }


def _figures(trials: Sequence[Trial]) -> dict[str, Any]:
    found = tally(trials).to_json()
    return {name: found[name] for name in ("n", *OUTCOMES)} | {"cheaper_by": found["saved"]}


def _per_1000(trials: Sequence[Trial]) -> dict[str, float]:
    names = {"specialists": "routed_usd", "of_which_classifier": "classifier_usd", "one_prompt": "reference_usd"}
    sums = {name: sum(getattr(trial, key) for trial in trials) for name, key in names.items()}
    return {name: round(1000 * usd / len(trials), 6) for name, usd in sums.items()}


def _seconds(values: Iterable[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {"n": len(known)} | {name: quantile(known, share) for name, share in QUANTILES.items()}
