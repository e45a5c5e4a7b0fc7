"""How good the labels are: rows to look at again, how right a model can be at all, and labels that do not work.

Everything is judged by probabilities from models that did not learn from the row (out of fold).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerouter.examples import Example
from prerouter.taxonomy import MANY, Taxonomy

Floats = NDArray[Any]
Ints = NDArray[np.int64]

MIN_ROWS = 20  # of a label, or of a kind of evidence, from which on it is judged
# Shares of rows beyond which a label is reported. An ordered label under MIN_ORDERED_ROWS rows is, too.
TOO_RARE, TOO_COMMON = 0.02, 0.40
TOO_RARE_ORDERED, MIN_ORDERED_ROWS = 0.01, 50
# Two labels that are told apart this badly should be one: the shares right of each, averaged, where 0.5 is not at all.
# Such a pair shows as a hump of confidences at 0.6 to 0.7.
TOLD_APART = 0.75
SHOWN = 5  # names in one finding


@dataclass(frozen=True, slots=True)
class Suspect:
    """A row whose label the models that did not learn from it call wrong: to look at again.

    suggested: what they say, with its probability. own: the probability of the label that it has.
    """

    file: str
    line: int
    id: str
    label: str
    suggested: str
    probability: float
    own: float

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Between which accuracies a perfect model would lie, in [0, 1], for labels themselves are noise.

    agreement: how often two labels of one row agree: the lower end, where all noise is in the label that is compared
    with; the square root is the upper one, where both are equally noisy. n: rows that show it. by: votes or seconds.
    """

    agreement: float
    upper: float
    n: int
    by: str


def suspects(examples: Sequence[Example], truth: Ints, probabilities: Floats, names: Sequence[str]) -> list[Suspect]:
    """Rows whose label is doubtful, the most doubtful first.

    Confident learning (Northcutt, Jiang & Chuang 2021): a row is reported when another label is at least as probable
    as it is on average for rows that bear it. probabilities: (n_rows, n_labels), out of fold.
    """
    if not len(truth):
        return []
    own = probabilities[np.arange(len(truth)), truth]
    usual = np.array([own[truth == k].mean() if (truth == k).any() else np.inf for k in range(len(names))])
    margins = np.where(probabilities >= usual, probabilities, -1.0)
    best = margins.argmax(axis=1)
    found = np.flatnonzero((best != truth) & (margins[np.arange(len(truth)), best] > own))
    order = found[np.argsort(own[found] - probabilities[found, best[found]], kind="stable")].tolist()
    return [_suspect(examples[i], names[best[i]], probabilities[i, best[i]], own[i]) for i in order]


def ceiling(examples: Sequence[Example]) -> Ceiling | None:
    """From votes where there are enough rows with two or more, else from second labels, else None."""
    votes = [_agreeing(e.votes) for e in examples if e.label and sum(e.votes.values()) >= 2]
    seconds = [float(e.second == e.label) for e in examples if e.label and e.second]
    for shares, by in ((votes, "votes"), (seconds, "second labels")):
        if len(shares) >= MIN_ROWS:
            agreement = sum(shares) / len(shares)
            return Ceiling(agreement, sqrt(agreement), len(shares), by)
    return None


def health(taxonomy: Taxonomy, truth: Ints, probabilities: Floats | None, every: Ints | None = None) -> list[str]:
    """What is wrong with the labels themselves, one line each.

    probabilities: of the rows in `truth`, out of fold. every: the labels of all rows, where `truth` has only some.
    """
    counts = np.bincount(truth if every is None else every, minlength=len(taxonomy.names))
    if not counts.sum():
        return []
    shares = counts / counts.sum()
    if taxonomy.ordered:
        rare = np.flatnonzero((shares < TOO_RARE_ORDERED) | (counts < MIN_ORDERED_ROWS))
        what = f"under {TOO_RARE_ORDERED:.0%} of rows or under {MIN_ORDERED_ROWS} rows: add rows of"
        return _named(what, rare, taxonomy, counts)
    even = 1 / len(counts)  # with 150 labels none can reach 2 %
    rare = np.flatnonzero(shares < min(TOO_RARE, even / 2))
    found = _named(f"under {min(TOO_RARE, even / 2):.1%} of rows: merge, or add rows of", rare, taxonomy, counts)
    found += _named(f"over {TOO_COMMON:.0%} of rows: split", np.flatnonzero(shares > TOO_COMMON), taxonomy, counts)
    if len(counts) > MANY:
        found.append(f"{len(counts)} labels are more than {MANY}: beyond that a classifier model chooses worse")
    return found + ([] if probabilities is None else _confused(taxonomy, truth, probabilities))


def _confused(taxonomy: Taxonomy, truth: Ints, probabilities: Floats) -> list[str]:
    """Pairs of labels that are hardly told apart, the worst first."""
    predicted, n_labels = probabilities.argmax(axis=1), len(taxonomy.names)
    table = np.zeros((n_labels, n_labels), int)
    np.add.at(table, (truth, predicted), 1)
    found = []
    for a, b in {(min(p), max(p)) for p in np.argwhere(table > 0).tolist() if p[0] != p[1]}:
        pair = table[np.ix_([a, b], [a, b])]
        if pair.sum(axis=1).min() >= MIN_ROWS:
            right = float((pair.diagonal() / pair.sum(axis=1)).mean())
            if right < TOLD_APART:
                either = np.isin(truth, (a, b)) & np.isin(predicted, (a, b))
                found.append((right, a, b, float(np.median(probabilities[either].max(axis=1)))))
    return [
        f"{taxonomy.names[a]!r} and {taxonomy.names[b]!r} are hardly told apart ({right:.0%} right between the two, "
        f"median confidence {middle:.2f}): they may be one label"
        for right, a, b, middle in sorted(found)
    ]


def _named(what: str, which: Ints, taxonomy: Taxonomy, counts: Ints) -> list[str]:
    if not len(which):
        return []
    order = which[np.argsort(counts[which], kind="stable")].tolist()
    names = ", ".join(f"{taxonomy.names[i]!r} ({counts[i]:,})" for i in order[:SHOWN])
    more = f" and {len(order) - SHOWN} more" if len(order) > SHOWN else ""
    return [f"{what} {names}{more}"]


def _agreeing(votes: Mapping[str, int]) -> float:
    """The chance that two of a row's votes agree."""
    n = sum(votes.values())
    return sum(k * (k - 1) for k in Counter(votes).values()) / (n * (n - 1))


def _suspect(example: Example, suggested: str, probability: float, own: float) -> Suspect:
    return Suspect(
        file=example.file,
        line=example.line,
        id=example.id,
        label=example.label or "",
        suggested=suggested,
        probability=round(float(probability), 4),
        own=round(float(own), 4),
    )
