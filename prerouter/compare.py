"""Which of two model folders is worth more on the same labelled requests: paired bootstrap of their utility.

The utility of a row is 1 when local decides it rightly and 0 when local abstains. An error costs ERROR_PRICE of what
would make deciding pointless at the contract's limit: with at most 5 % under-routing, one weaker decision costs 10
right ones. So a model at one of its limits is still worth half its coverage: it may be there, but fewer errors are
better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prerouter import figures, overlap
from prerouter.errors import ConfigError, DataError
from prerouter.examples import Example, read_examples
from prerouter.local import LocalClassifier
from prerouter.modelfolder import Certificate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

ERROR_PRICE = 0.5
DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two. coverage: share of all rows. disagreement, under_routing: shares of its local decisions; None
    without any, the latter also when unordered. utility: mean over all rows, at most 1."""

    model_folder_id: str
    coverage: float
    disagreement: float | None
    under_routing: float | None
    utility: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Challenger against champion on n rows in n_groups groups.

    n_known: rows left out because one of them learnt from these. unchecked: a folder does not say what it learnt from.
    difference: the challenger's utility less the champion's, with a two-sided interval at LEVEL. p_worse: share of
    bootstrap draws in which the challenger is worth less.
    """

    n: int
    n_groups: int
    n_known: int
    unchecked: bool
    challenger: Side
    champion: Side
    difference: float
    interval: tuple[float, float]
    p_worse: float

    @property
    def not_worse(self) -> bool:
        """Whether the challenger is rather as good or better than worse. Of two that are alike, either may serve."""
        return self.p_worse <= 0.5

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {"interval": list(self.interval), "not_worse": self.not_worse}


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """What challenger and champion say of the same rows. n_known, unchecked: as in `Comparison`."""

    challenger: figures.Seen
    champion: figures.Seen
    n_known: int = 0
    unchecked: bool = False


def compare(
    challenger: LocalClassifier, champion: LocalClassifier, files: Sequence[Path], *, seed: int = 0
) -> Comparison:
    """Both on the rows of `files` that neither learnt from; the champion's contract prices the errors of both.

    Raises ConfigError when their labels differ, DataError for broken rows and when no row is left.
    """
    return judge(challenger, champion, look(challenger, champion, files), seed=seed)


def look(challenger: LocalClassifier, champion: LocalClassifier, files: Sequence[Path]) -> Pair:
    """What both say of the rows of `files` that neither learnt from. Raises as `compare`."""
    if not comparable(challenger, champion):
        what = f"labels {list(challenger.taxonomy_names)} are not the champion's {list(champion.taxonomy_names)}"
        raise ConfigError(what, where="comparing", next_step="--force promotes without comparing")
    sides = (challenger, champion)
    rows = [_rows(local, files) for local in sides]
    known, unchecked = _known(sides, rows)
    left = [i for i in range(len(rows[0])) if i not in known]
    if not left:
        step = "--data FILE with labelled requests that neither model learnt from"
        what = f"nothing to compare on: {len(known):,} rows, all in the training data" if known else "no labelled rows"
        raise DataError(what, file=", ".join(map(str, files)), next_step=step)
    seen = [_seen(local, [examples[i] for i in left]) for local, examples in zip(sides, rows, strict=True)]
    return Pair(seen[0], seen[1], len(known), unchecked)


def judge(challenger: LocalClassifier, champion: LocalClassifier, pair: Pair, *, seed: int = 0) -> Comparison:
    """Which of the two is worth more on the rows of `pair`; the champion's contract prices the errors of both."""
    values = [_utility(seen, champion.certificate) for seen in (pair.challenger, pair.champion)]
    groups = pair.challenger.groups
    draws = _differences(values[0] - values[1], groups, seed)
    low, high = np.percentile(draws, (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
    return Comparison(
        n=len(groups),
        n_groups=len(np.unique(groups)),
        n_known=pair.n_known,
        unchecked=pair.unchecked,
        challenger=_side(challenger, pair.challenger, values[0]),
        champion=_side(champion, pair.champion, values[1]),
        difference=float((values[0] - values[1]).mean()),
        interval=(float(low), float(high)),
        p_worse=float((draws < 0).mean()),
    )


def comparable(one: LocalClassifier, other: LocalClassifier) -> bool:
    """Whether both choose among the same labels, in the same order where order means something."""
    if one.ordered or other.ordered:
        return one.ordered == other.ordered and one.taxonomy_names == other.taxonomy_names
    return set(one.taxonomy_names) == set(other.taxonomy_names)


def _rows(local: LocalClassifier, files: Sequence[Path]) -> list[Example]:
    """The rows as `local` reads them: rendered with its own text version."""
    novel = local.model.training.get("novel_label")
    return read_examples(files, local.taxonomy, text_version=local.text_version, novel_label=novel)


def _known(sides: Sequence[LocalClassifier], rows: Sequence[Sequence[Example]]) -> tuple[set[int], bool]:
    known: set[int] = set()
    unchecked = False
    for local, examples in zip(sides, rows, strict=True):
        remembered = overlap.of_model(local.model.training)
        unchecked |= remembered is None
        if remembered is not None:
            known |= set(overlap.known([row.request.text for row in examples], remembered))
    return known, unchecked


def _seen(local: LocalClassifier, rows: Sequence[Example]) -> figures.Seen:
    truth = [figures.NOVEL if row.label is None else local.taxonomy.index(row.label) for row in rows]
    groups = [row.group or f"row {i}" for i, row in enumerate(rows)]
    return figures.look(local, [row.request for row in rows], truth, groups)


def _utility(seen: figures.Seen, contract: Certificate) -> Floats:
    """(n,) of each row. A decision on a row of no label is an error."""
    counts = seen.counted()
    local, wrong = counts["local"] | counts["novel_local"], counts["wrong"] | counts["novel_local"]
    cost = wrong * (ERROR_PRICE / contract.max_disagreement)
    if contract.max_under is not None:
        cost = np.maximum(cost, counts["under"] * (ERROR_PRICE / contract.max_under))
    return (local - cost).astype(np.float64)


def _differences(difference: Floats, groups: NDArray[np.int64], seed: int) -> Floats:
    """(DRAWS,) means of `difference` over groups drawn with replacement (Efron & Tibshirani 1993, chapter 13)."""
    rng, n_groups = np.random.default_rng(seed), int(groups.max()) + 1
    sums, sizes = np.bincount(groups, difference, n_groups), np.bincount(groups, minlength=n_groups)
    draws = np.empty(DRAWS)
    for i in range(DRAWS):
        at = rng.integers(0, n_groups, n_groups)
        draws[i] = sums[at].sum() / sizes[at].sum()
    return draws


def _side(local: LocalClassifier, seen: figures.Seen, values: Floats) -> Side:
    counts = seen.counted()
    decided = counts["local"] | counts["novel_local"]
    n = int(decided.sum())
    wrong = int((counts["wrong"] | counts["novel_local"]).sum())
    return Side(
        model_folder_id=local.model_folder_id,
        coverage=n / len(values),
        disagreement=wrong / n if n else None,
        under_routing=int(counts["under"].sum()) / n if n and local.ordered else None,
        utility=float(values.mean()),
    )
