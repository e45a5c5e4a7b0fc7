"""New topics among the requests that local does not decide: neighbourhoods of embeddings that have filled up.

A scan over the recent rows (after Kulldorff 1997, "A spatial scan statistic"): each is the centre of a ball, and the
ball is a topic when it holds more recent rows than earlier ones make likely.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]
    Ints = NDArray[np.int64]

MOST_ROWS = 2000  # of either sample: all distances are held at once
MOST = 5  # topics
FEWEST = 10  # rows of a topic
FEWEST_EARLIER = 100  # rows that can tell what is new
LEAST = 0.02  # share of the recent rows
GROWTH = 3.0  # times its earlier share, at least
LEVEL = 0.01  # chance of finding any topic where nothing is new
# Of the guard's limit, the distance within which a request is like one that was trained on; a topic is closer together.
RADIUS = 0.85


@dataclass(frozen=True, slots=True, eq=False)
class Topic:
    """rows: positions in the recent rows, nearest to the centre first. share, before: of the recent and the earlier
    rows, in [0, 1]."""

    rows: Ints
    share: float
    before: float


def topics(recent: Floats, earlier: Floats, radius: float) -> tuple[Topic, ...]:
    """What is new in `recent`, largest surplus first.

    recent, earlier: (n, n_dims) float32, at most MOST_ROWS are looked at, the last ones. earlier: rows of a time that
    is past, or the centroids of the training data in their place. radius: of a topic.
    """
    recent, earlier = recent[-MOST_ROWS:], earlier[-MOST_ROWS:]
    if len(recent) < FEWEST or not len(earlier):
        return ()
    near, near_before = _within(recent, recent, radius), _within(recent, earlier, radius).sum(axis=1)
    before, n, found = near_before / len(earlier), len(recent), list[Topic]()
    left = np.ones(n, bool)
    while len(found) < MOST:
        sizes = (near & left).sum(axis=1)
        surplus = np.where(left & _is_new(sizes, near_before, n, len(earlier)), sizes - n * before, 0.0)
        centre = int(surplus.argmax())
        if surplus[centre] <= 0:
            break
        rows = np.flatnonzero(near[centre] & left)
        order = np.argsort(((recent[rows] - recent[centre]) ** 2).sum(axis=1), kind="stable")
        found.append(Topic(rows[order], len(rows) / n, float(before[centre])))
        left[rows] = False
    return tuple(found)


def _within(rows: Floats, others: Floats, radius: float) -> NDArray[np.bool_]:
    """(n_rows, n_others) whether each two are within `radius`."""
    squares = (rows**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * rows @ others.T
    return np.asarray(squares <= radius**2)


def _is_new(sizes: Ints, before: Ints, n: int, n_before: int) -> NDArray[np.bool_]:
    """Whether each ball is large, has grown, and is neither by chance: sizes of n rows, `before` of n_before."""
    large = (sizes >= FEWEST) & (sizes >= LEAST * n) & (sizes / n >= GROWTH * before / n_before)
    out = np.zeros(len(sizes), bool)
    for i in np.flatnonzero(large).tolist():
        out[i] = _tail(int(sizes[i]), int(before[i]), n, n_before) <= LEVEL / n
    return out


def _tail(k: int, k_before: int, n: int, n_before: int) -> float:
    """Chance that at least k of the k + k_before rows in a ball are recent ones, if nothing changed: binomial."""
    total, share = k + k_before, n / (n + n_before)
    log_odds, log_none = math.log(share) - math.log1p(-share), total * math.log1p(-share)
    log_all = math.lgamma(total + 1) + log_none
    terms = (log_all - math.lgamma(i + 1) - math.lgamma(total - i + 1) + i * log_odds for i in range(k, total + 1))
    return min(1.0, math.fsum(map(math.exp, terms)))
