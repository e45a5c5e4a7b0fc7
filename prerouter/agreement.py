"""How far labels can be trusted: agreement of two labellers, noise of one labeller's votes.

Everything is counted into tables of label pairs or vote patterns first, so memory does not grow with the rows.
Intervals are two-sided: exact (Clopper & Pearson 1934) for a share of rows, percentiles of a seeded bootstrap (Efron &
Tibshirani 1993, chapter 13) for what is not. A bootstrap of rows is one multinomial draw over the distinct patterns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from prerouter.certify import lower_bound, upper_bound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]  # float64
    Parts = Callable[[Floats], tuple[Floats, Floats]]  # counts to agreement observed and by chance

Pattern = tuple[tuple[str, int], ...]  # votes of one row: (label, how many), by label

CONFIDENCE = 0.95
EXACT_ROWS = 5_000  # above, exact tails take seconds and differ from Wilson's by less than 0.0005
DRAWS = 2_000  # bootstrap draws: percentiles of 2.5 % rest on 50 of them


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the two-sided interval that holds the true value with `confidence`, all in the same unit."""

    estimate: float
    lower: float
    upper: float
    confidence: float = CONFIDENCE


@dataclass(frozen=True, slots=True)
class Confusion:
    """Two labels, and how often the same request got one of them and the other."""

    first: str
    second: str
    n: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two labellers on the same rows.

    share: rows on which they agree, in [0, 1]; None without rows. kappa: Cohen's, at most 1; None where it is not
    defined: no rows, or both gave one and the same label throughout. confused: (first's label, second's label, rows),
    most frequent first.
    """

    n_rows: int
    n_agree: int
    share: Interval | None
    kappa: Interval | None
    confused: tuple[Confusion, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Noise:
    """One labeller asked several times.

    n_rows: rows with at least two votes. n_split: those whose votes differ. disagreement: probability that two answers
    about the same request differ, in [0, 1]. kappa: Fleiss'. Both None without such rows. confused: pairs of labels
    in split votes, by rows, most frequent first.
    """

    n_rows: int
    n_votes: int
    n_split: int
    disagreement: Interval | None
    kappa: Interval | None
    confused: tuple[Confusion, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def agreement(pairs: Iterable[tuple[str, str]], *, seed: int = 0) -> Agreement:
    """Compare the labels that two labellers gave to the same rows, as (first's, second's)."""
    table = Counter(pairs)
    n_rows, n_agree = table.total(), sum(n for (a, b), n in table.items() if a == b)
    confused = sorted((Confusion(a, b, n) for (a, b), n in table.items() if a != b), key=_order)
    share = share_interval(n_agree, n_rows) if n_rows else None
    return Agreement(n_rows, n_agree, share, _cohen(table, n_agree, seed), tuple(confused))


def noise(votes: Iterable[Mapping[str, int]], *, seed: int = 0) -> Noise:
    """What repeated answers say about a labeller; rows with fewer than two votes say nothing and are left out."""
    return noise_of(Counter(map(pattern_of, votes)), seed=seed)


def pattern_of(votes: Mapping[str, int]) -> Pattern:
    """The same for rows whose votes are the same."""
    return tuple(sorted((name, n) for name, n in votes.items() if n > 0))


def noise_of(patterns: Counter[Pattern], *, seed: int = 0) -> Noise:
    """`noise` of rows that were counted by their `pattern_of` already."""
    patterns = Counter({p: n for p, n in patterns.items() if sum(count for _, count in p) > 1})
    split = {p: n for p, n in patterns.items() if len(p) > 1}
    confused: Counter[tuple[str, str]] = Counter()
    for pattern, n in split.items():
        names = [name for name, _ in pattern]
        confused.update({(a, b): n for i, a in enumerate(names) for b in names[i + 1 :]})
    disagreement, kappa = _fleiss(patterns, sum(split.values()), seed)
    return Noise(
        n_rows=patterns.total(),
        n_votes=sum(n * sum(count for _, count in p) for p, n in patterns.items()),
        n_split=sum(split.values()),
        disagreement=disagreement,
        kappa=kappa,
        confused=tuple(sorted((Confusion(a, b, n) for (a, b), n in confused.items()), key=_order)),
    )


def share_interval(n_hits: int, n_rows: int, confidence: float = CONFIDENCE) -> Interval:
    """Share of hits with its interval: Clopper-Pearson, above EXACT_ROWS Wilson's (1927). `n_rows` is at least 1."""
    each = (1 + confidence) / 2
    if n_rows <= EXACT_ROWS:
        lower, upper = lower_bound(n_hits, n_rows, each), upper_bound(n_hits, n_rows, each)
        return Interval(n_hits / n_rows, lower, upper, confidence)
    share, z2 = n_hits / n_rows, NormalDist().inv_cdf(each) ** 2
    middle = (share + z2 / (2 * n_rows)) / (1 + z2 / n_rows)
    half = math.sqrt(z2 * (share * (1 - share) / n_rows + z2 / (4 * n_rows**2))) / (1 + z2 / n_rows)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), confidence)


def _order(confusion: Confusion) -> tuple[int, str, str]:
    return -confusion.n, confusion.first, confusion.second


def _cohen(table: Counter[tuple[str, str]], n_agree: int, seed: int) -> Interval | None:
    """Cohen 1960, "A coefficient of agreement for nominal scales": (p_o - p_e) / (1 - p_e)."""
    names = sorted({name for pair in table for name in pair})
    pairs = np.array([(names.index(a), names.index(b)) for a, b in table], np.int64).reshape(-1, 2)
    same = pairs[:, 0] == pairs[:, 1]
    is_first, is_second = (pairs[:, side, None] == np.arange(len(names)) for side in (0, 1))

    def parts(counts: Floats) -> tuple[Floats, Floats]:
        total = counts.sum(axis=1)
        chance = ((counts @ is_first) * (counts @ is_second)).sum(axis=1) / total**2
        return counts[:, same].sum(axis=1) / total, chance

    return _kappa_interval(table, parts, 1.0 if n_agree == table.total() else None, seed)


def _fleiss(patterns: Counter[Pattern], n_split: int, seed: int) -> tuple[Interval | None, Interval | None]:
    """1 - observed agreement, and kappa: Fleiss 1971, "Measuring nominal scale agreement among many raters".

    Rows may have different numbers of votes: a row's agreement is that of its own pairs of votes, agreement by chance
    is that of all votes pooled.
    """
    names = sorted({name for pattern in patterns for name, _ in pattern})
    votes = np.array([[dict(pattern).get(name, 0) for name in names] for pattern in patterns], np.float64)
    votes = votes.reshape(len(patterns), len(names))
    n_votes = votes.sum(axis=1)
    agree = (votes * (votes - 1)).sum(axis=1) / (n_votes * (n_votes - 1))

    def parts(counts: Floats) -> tuple[Floats, Floats]:
        pooled = counts @ votes
        shares = pooled / pooled.sum(axis=1, keepdims=True)
        return counts @ agree / counts.sum(axis=1), (shares**2).sum(axis=1)

    whole = None if n_split else 1.0
    found = _bootstrapped(patterns, lambda counts: 1 - parts(counts)[0], seed)
    if found and whole:
        found = replace(found, upper=share_interval(0, patterns.total()).upper)
    return found, _kappa_interval(patterns, parts, whole, seed)


def _kappa_interval(rows: Counter[Any], parts: Parts, agree: float | None, seed: int) -> Interval | None:
    """(observed - by chance) / (1 - by chance). Rows without any disagreement (`agree` is 1) give every draw 1: the
    lower end is then that of the exact interval of the agreement.
    """

    def kappas(counts: Floats) -> Floats:
        observed, chance = parts(counts)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(chance < 1 - 1e-12, (observed - chance) / (1 - chance), np.nan)

    found = _bootstrapped(rows, kappas, seed)
    if found is None or agree is None:
        return found
    chance = float(parts(np.array([list(rows.values())], np.float64))[1][0])
    least = share_interval(rows.total(), rows.total()).lower
    return replace(found, lower=(least - chance) / (1 - chance))


def _bootstrapped(rows: Counter[Any], statistic: Callable[[Floats], Floats], seed: int) -> Interval | None:
    """`statistic` maps (n_draws, n_patterns) counts to (n_draws,). None where it is not a number, or without rows."""
    if not rows:
        return None
    counts = np.array(list(rows.values()), np.float64)
    estimate = float(statistic(counts[None])[0])
    if not math.isfinite(estimate):
        return None
    random, total, at_once = np.random.default_rng(seed), rows.total(), max(1, 2**20 // len(counts))
    sizes = [min(at_once, DRAWS - start) for start in range(0, DRAWS, at_once)]
    shares = counts / total
    values = np.concatenate([statistic(random.multinomial(total, shares, n).astype(np.float64)) for n in sizes])
    tail = (1 - CONFIDENCE) / 2
    lower, upper = np.nanquantile(values, [tail, 1 - tail])
    return Interval(estimate, float(lower), float(upper))
