"""Figures of a local classifier on labelled requests: what `train` and `evaluate` print, each with its interval.

Intervals are two-sided at LEVEL: percentiles of a bootstrap over groups (Efron & Tibshirani 1993, chapter 13), and for
shares the wider of that and the exact one (Clopper & Pearson 1934), which is not [0, 0] where no error was seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from prerouter.certify import lower_bound, upper_bound
from prerouter.costs import ABSTAINED, Bill, PriceBook
from prerouter.local import CHUNK, LocalClassifier
from prerouter.modelfolder import Certificate
from prerouter.progress import Progress
from prerouter.records import Request, Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]
    Ints = NDArray[np.int64]

NOVEL = -1  # truth of a row that belongs to no label
LEVEL = 0.95
N_BINS = 15  # of the calibration error, as in Guo et al. 2017
DRAWS = 1000
SHARES = {  # name: (what is counted, of what)
    "accuracy": ("right", "known"),
    "coverage": ("local", "known"),
    "disagreement": ("wrong", "local"),
    "under_routing": ("under", "local"),
    "over_routing": ("over", "local"),
    "joint_disagreement": ("wrong", "known"),
    "joint_under_routing": ("under", "known"),
    "novel_coverage": ("novel_local", "novel"),
}
COUNTED = ("known", "novel", "right", "local", "novel_local", "wrong", "under", "over")
ORDERED_ONLY = ("under_routing", "over_routing", "joint_under_routing")
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Requests as the local stages see them, n rows in the order given.

    truth: label indices, or NOVEL. predicted: the best label of the stage that decided or was asked last.
    stage: the one that decided, or ABSTAINED. confidence: probability of `predicted`, in [0, 1].
    strangeness: >= 0; in this order gate and guard turn requests away, at 1 in an open gate.
    groups: whole numbers; rows of one group (a conversation) are not independent.
    """

    truth: Ints
    predicted: Ints
    stage: Ints
    confidence: Floats
    strangeness: Floats
    groups: Ints

    @property
    def known(self) -> NDArray[np.bool_]:
        """(n,) rows that have a label."""
        return np.not_equal(self.truth, NOVEL)

    def counted(self) -> dict[str, NDArray[np.bool_]]:
        """The rows of each of `COUNTED`."""
        known, local = self.known, self.stage != ABSTAINED
        return {
            "known": known,
            "novel": ~known,
            "right": known & (self.predicted == self.truth),
            "local": known & local,
            "novel_local": ~known & local,
            "wrong": known & local & (self.predicted != self.truth),
            "under": known & local & (self.predicted < self.truth),
            "over": known & local & (self.predicted > self.truth),
        }

    def take(self, rows: Ints | NDArray[np.bool_]) -> Seen:
        """The rows at these positions, or where a mask is true."""
        columns = {field.name: getattr(self, field.name)[rows] for field in fields(self)}
        return Seen(**columns | {"groups": np.unique(columns["groups"], return_inverse=True)[1]})

    def decided_by(self, stage: int) -> Seen:
        """All rows, as if the other stages had abstained."""
        return replace(self, stage=np.where(self.stage == stage, stage, ABSTAINED))


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of CONTRACT.md. Shares are in [0, 1]; None where there is nothing to take a share of.

    n: labelled rows; n_novel: rows of no label, which only the last two shares are about.
    disagreement, under_routing, over_routing: of local decisions; joint_...: of all n rows.
    ece: expected calibration error of `predicted`, N_BINS bins of equal width (Naeini et al. 2015).
    auroc_novel: chance that a novel row is turned away before a known one; 0.5 is blind.
    cost: US dollars per 1,000 requests by policy; enough: share of them served by at least the tier their label needs.
    intervals: by the name of the figure, `cost.POLICY` for dollars; two-sided at LEVEL.
    """

    n: int
    n_novel: int
    accuracy: float | None
    coverage: float | None
    disagreement: float | None
    under_routing: float | None
    over_routing: float | None
    joint_disagreement: float | None
    joint_under_routing: float | None
    ece: float | None
    per_label: Mapping[str, Mapping[str, Any]]
    by_stage: tuple[Mapping[str, Any], ...]
    auroc_novel: float | None
    novel_coverage: float | None
    cost: Mapping[str, float]
    enough: Mapping[str, float]
    gate: Literal["open", "closed"]
    certificate: Certificate | None
    intervals: Mapping[str, Interval]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {
            "by_stage": list(self.by_stage),
            "certificate": self.certificate.to_json() if self.certificate else None,
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
        }


def measure(
    local: LocalClassifier,
    requests: Sequence[Request],
    truth: Sequence[int] | Ints,
    *,
    groups: Sequence[str] | None = None,
    book: PriceBook | None = None,
    seed: int = 0,
) -> Figures:
    """The figures of `local` on labelled requests.

    truth: label indices in the taxonomy's order, or NOVEL. groups: rows of one group are drawn together in the
    bootstrap; None: each on its own. book: prices; None leaves `cost` empty.
    """
    seen = look(local, requests, truth, groups)
    return summarise(seen, local, bills(seen, requests, book), seed=seed)


def look(
    local: LocalClassifier,
    requests: Sequence[Request],
    truth: Sequence[int] | Ints,
    groups: Sequence[str] | None = None,
) -> Seen:
    """What `local` says of each request."""
    scores: list[Scores] = []
    rest = iter(requests)
    with Progress("measuring", total=len(requests)) as progress:
        while chunk := list(islice(rest, CHUNK)):
            scores += local.score_many(chunk)
            progress.advance(len(chunk))
    index = {name: i for i, name in enumerate(local.taxonomy_names)}
    numbers = np.arange(len(requests)) if groups is None else np.unique(groups, return_inverse=True)[1]
    return Seen(
        truth=np.asarray(truth, np.int64),
        predicted=np.array([index[s.label] for s in scores], np.int64),
        stage=np.array([s.stage if s.decided else ABSTAINED for s in scores], np.int64),
        confidence=np.array([max(s.probabilities) for s in scores], np.float64),
        strangeness=np.array([_strangeness(s) for s in scores], np.float64),
        groups=numbers.astype(np.int64),
    )


def pooled(parts: Sequence[Seen], groups: Sequence[str]) -> Seen:
    """The rows of all parts, in order. groups: of all these rows, by name, since one group may be in several parts."""
    columns = {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Seen)}
    return Seen(**columns | {"groups": np.unique(groups, return_inverse=True)[1]})


def bills(seen: Seen, requests: Sequence[Request], book: PriceBook | None) -> dict[str, Bill]:
    """Each policy's bill on the rows that have a label."""
    if book is None or not seen.known.any():
        return {}
    known = np.flatnonzero(seen.known)
    local = np.where(seen.stage == ABSTAINED, ABSTAINED, seen.predicted)
    return book.bills([requests[i] for i in known.tolist()], seen.truth[known], local[known])


def summarise(seen: Seen, local: LocalClassifier, costs: Mapping[str, Bill], *, seed: int = 0) -> Figures:
    """The figures of rows already scored."""
    counts = seen.counted()
    n = {name: int(rows.sum()) for name, rows in counts.items()}
    shares = {name: _share(n[of], n[base]) for name, (of, base) in SHARES.items()}
    if not local.ordered:
        shares |= dict.fromkeys(ORDERED_ONLY)
    columns = _columns(seen, counts, costs)
    found = _statistics(columns.sum(axis=1), costs) | {"auroc_novel": auroc(seen.strangeness, ~seen.known)}
    intervals = _intervals(seen, columns, costs, seed)
    found_exactly = {name: exact(n[of], n[base]) for name, (of, base) in SHARES.items() if n[base]}
    intervals |= {name: _wider(intervals.get(name), interval) for name, interval in found_exactly.items()}
    return Figures(
        n=n["known"],
        n_novel=n["novel"],
        **shares,
        ece=found["ece"],
        per_label=_per_label(seen, local, counts),
        by_stage=_by_stage(seen, local, counts),
        auroc_novel=found["auroc_novel"],
        cost={name: round(1000 * float(bill.usd.mean()), 6) for name, bill in costs.items()},
        enough={name: float(bill.enough.mean()) for name, bill in costs.items()},
        gate="open" if any(stage.gate.threshold is not None for stage in local.model.stages) else "closed",
        certificate=local.certificate,
        intervals={name: interval for name, interval in intervals.items() if shares.get(name, 0) is not None},
    )


def auroc(scores: Floats, positive: NDArray[np.bool_], weights: Floats | None = None) -> float | None:
    """Area under the ROC curve of `scores`, ties counting half (Mann & Whitney 1947); None when one side is empty.

    scores: (n,), higher for the positive. weights: (n,) how often each row counts.
    """
    return _auroc(_ranks(scores), positive, np.ones(len(scores)) if weights is None else weights)


def _ranks(scores: Floats) -> Ints:
    """(n,) position of each score among the distinct ones, from 0."""
    return np.unique(scores, return_inverse=True)[1]


def _auroc(ranks: Ints, positive: NDArray[np.bool_], weights: Floats) -> float | None:
    found = np.bincount(ranks, weights * positive)
    below = np.bincount(ranks, weights * ~positive)
    pairs = found.sum() * below.sum()
    return float((found * (np.cumsum(below) - below / 2)).sum() / pairs) if pairs else None


def _strangeness(scores: Scores) -> float:
    """How far a request is from being decided: 1 at the limit of gate or guard. A closed gate counts from risk 1."""
    return max(scores.risk / (scores.threshold or 1.0), scores.distance / max(scores.limit, 1e-9))


def _share(k: int, n: int) -> float | None:
    return k / n if n else None


def exact(k: int, n: int) -> Interval:
    """Of the share k / n, two-sided at LEVEL (Clopper & Pearson 1934)."""
    side = (1 + LEVEL) / 2
    return lower_bound(k, n, side), upper_bound(k, n, side)


def _wider(one: Interval | None, other: Interval) -> Interval:
    return (min(one[0], other[0]), max(one[1], other[1])) if one else other


def _columns(seen: Seen, counts: Mapping[str, NDArray[np.bool_]], costs: Mapping[str, Bill]) -> Floats:
    """(n_columns, n) float64 whose weighted row sums every figure but the AUROC can be had from; see `_statistics`."""
    known = seen.known
    bins = np.minimum((seen.confidence * N_BINS).astype(int), N_BINS - 1)
    gaps = known * (seen.confidence - counts["right"])
    dollars = []
    for bill in costs.values():
        dollars.append(np.zeros(len(known)))
        dollars[-1][known] = bill.usd
    return np.array(
        [*(counts[name] for name in COUNTED), *(gaps * (bins == i) for i in range(N_BINS)), *dollars], np.float64
    )


def _statistics(sums: Floats, costs: Mapping[str, Bill]) -> dict[str, float | None]:
    """Figures by name from the sums of `_columns`."""
    of = dict(zip(COUNTED, sums.tolist(), strict=False))
    out: dict[str, float | None] = {"ece": None}
    out |= {name: of[a] / of[b] if of[b] else None for name, (a, b) in SHARES.items()}
    gaps, dollars = np.split(sums[len(COUNTED) :], [N_BINS])
    if of["known"]:
        out["ece"] = float(np.abs(gaps).sum() / of["known"])
        out |= {f"cost.{name}": 1000 * usd / of["known"] for name, usd in zip(costs, dollars.tolist(), strict=True)}
    return out


def _intervals(seen: Seen, columns: Floats, costs: Mapping[str, Bill], seed: int) -> dict[str, Interval]:
    """Percentile intervals of DRAWS draws of groups, with replacement."""
    rng, n_groups = np.random.default_rng(seed), int(seen.groups.max(initial=-1)) + 1
    drawn: dict[str, list[float]] = {}
    novel, ranks = ~seen.known, _ranks(seen.strangeness)
    with Progress("drawing for the intervals", total=DRAWS) as progress:
        for _ in range(DRAWS if n_groups else 0):
            weights = np.bincount(rng.integers(0, n_groups, n_groups), minlength=n_groups)[seen.groups]
            found = _statistics(columns @ weights, costs)
            if novel.any():
                found["auroc_novel"] = _auroc(ranks, novel, weights)
            for name, value in found.items():
                if value is not None:
                    drawn.setdefault(name, []).append(value)
            progress.advance(1)
    ends = (50 * (1 - LEVEL), 50 * (1 + LEVEL))
    return {name: (float(low), float(high)) for name, v in drawn.items() for low, high in [np.percentile(v, ends)]}


def _per_label(
    seen: Seen, local: LocalClassifier, counts: Mapping[str, NDArray[np.bool_]]
) -> dict[str, dict[str, float | int | None]]:
    """Of each label: rows; precision and recall of the best label; coverage; errors among its local decisions."""
    out = {}
    for i, name in enumerate(local.taxonomy_names):
        own, said = seen.truth == i, seen.known & (seen.predicted == i)
        n, right, decided = int(own.sum()), int((own & said).sum()), int((own & counts["local"]).sum())
        out[name] = {
            "n": n,
            "precision": _share(right, int(said.sum())),
            "recall": _share(right, n),
            "coverage": _share(decided, n),
            "disagreement": _share(int((own & counts["wrong"]).sum()), decided),
            "under_routing": _share(int((own & counts["under"]).sum()), decided) if local.ordered else None,
        }
    return out


def _by_stage(
    seen: Seen, local: LocalClassifier, counts: Mapping[str, NDArray[np.bool_]]
) -> tuple[dict[str, Any], ...]:
    """Of each stage: its decisions as a share of all rows, and the errors among them."""
    out = []
    for stage in range(len(local.model.stages)):
        here = counts["local"] & (seen.stage == stage)
        n = int(here.sum())
        out.append(
            {
                "stage": stage,
                "n": n,
                "coverage": _share(n, int(seen.known.sum())),
                "disagreement": _share(int((here & counts["wrong"]).sum()), n),
                "under_routing": _share(int((here & counts["under"]).sum()), n) if local.ordered else None,
            }
        )
    return tuple(out)
