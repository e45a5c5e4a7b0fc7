"""Has traffic moved? Two samples of counts compared by a permutation test: is the difference real, and is it large.

Real: the test is exact whatever the counts, so without a change it says "real" with a chance of LEVEL. Large: at large
counts every difference is real, so an alarm also takes a share of LEAST of the traffic to be elsewhere than before.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

LEVEL = 0.001
LEAST = 0.1  # share of traffic
FEWEST = 100  # rows in either sample
DRAWS = 999  # permutations: the smallest p-value is 0.001
FULL = 10  # rows of both samples in a bin, at least; sparser ones are put together


@dataclass(frozen=True, slots=True)
class Shift:
    """Recent rows against a reference. moved: share of the traffic, in [0, 1], that is elsewhere than in the reference,
    beyond what chance alone shows; p_value: of "nothing has changed"."""

    n: int
    n_reference: int
    moved: float
    p_value: float
    alarm: bool

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def shift(recent: Ints, reference: Ints, *, seed: int = 0) -> Shift | None:
    """Compare counts, (n_bins,) each; None when either has fewer than FEWEST rows.

    The statistic is chi-square of homogeneity, its distribution that of tables with the same margins (Good 2005,
    "Permutation, Parametric and Bootstrap Tests of Hypotheses", chapter 7), drawn DRAWS times.
    """
    n, n_reference = int(recent.sum()), int(reference.sum())
    if min(n, n_reference) < FEWEST:
        return None
    recent, pooled = _full(recent, recent + reference)
    draws = np.random.default_rng(seed).multivariate_hypergeometric(pooled, n, size=DRAWS, method="marginals")
    found, by_chance = _chi_square(recent, pooled, n), _chi_square(draws, pooled, n)
    p_value = (1 + int((by_chance >= found * (1 - 1e-12)).sum())) / (1 + DRAWS)
    distance, usual = float(_distance(recent, pooled, n)), float(_distance(draws, pooled, n).mean())
    # The noise of the counts adds to a distance about as the sides of a right triangle do.
    moved = math.sqrt(max(0.0, distance**2 - usual**2))
    return Shift(n, n_reference, moved, p_value, p_value <= LEVEL and moved >= LEAST)


def _full(recent: Ints, pooled: Ints) -> tuple[Ints, Ints]:
    """Both in bins of at least FULL pooled rows, the sparse ones put together.

    The pooled counts alone say which, and they are the same in every permutation: the test stays exact.
    """
    bins, current, held = np.zeros(len(pooled), np.int64), 0, 0
    for i in np.argsort(pooled, kind="stable").tolist():
        bins[i], held = current, held + int(pooled[i])
        if held >= FULL:
            current, held = current + 1, 0
    if held:
        bins[bins == current] = max(current - 1, 0)
    return np.bincount(bins, recent).astype(np.int64), np.bincount(bins, pooled).astype(np.int64)


def _chi_square(recent: Ints, pooled: Ints, n: int) -> Floats:
    """(...,) the statistic of (..., n_bins) counts of n recent rows, up to a factor that the margins fix."""
    found: Floats = ((recent - pooled * (n / pooled.sum())) ** 2 / pooled).sum(axis=-1)
    return found


def _distance(recent: Ints, pooled: Ints, n: int) -> Floats:
    """(...,) total variation distance between the two samples' shares."""
    found: Floats = np.abs(recent / n - (pooled - recent) / (pooled.sum() - n)).sum(axis=-1) / 2
    return found
