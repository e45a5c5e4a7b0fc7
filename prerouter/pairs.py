"""Two models' answers to the same requests, judged: won, tied, lost per route, and what the cheaper one really costs.

"Routed" is the model that the router chose, "reference" the one that serves without routing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import NormalDist
from typing import Any, Self, TypeVar, get_args, get_type_hints

import numpy as np

from prerouter.certify import lower_bound, upper_bound
from prerouter.errors import DataError
from prerouter.files import read_jsonl
from prerouter.judge import Outcome

LEVEL = 0.95  # of every interval
DRAWS = 2000
MANY = 2000
LEAST_DRAWN = 10  # pairs from which a bootstrap interval is given: draws of fewer hardly differ
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True, slots=True)
class Pair:
    """One comparison. No text of request or answers is in it.

    outcome: of the routed model's answer. routed_first: see `judge.Ruling`. label: what the router decided.
    routed_usd, reference_usd: what each answer cost. judge_usd: what judging cost. at: UTC seconds since 1970.
    """

    id: str
    label: str
    routed: str
    reference: str
    outcome: Outcome
    routed_first: bool | None
    confidence: float
    judge: str
    prompt_id: str
    routed_usd: float
    reference_usd: float
    judge_usd: float
    at: float

    @property
    def route(self) -> str:
        """Where the request went instead."""
        return f"{self.reference} -> {self.routed}"

    def to_json(self) -> dict[str, Any]:
        """As a line of a file of pairs."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """The pair of such a line. Raises ValueError."""
        for name, kind in get_type_hints(cls).items():
            if not isinstance(row.get(name, ...), _KINDS.get(kind, kind)):
                raise ValueError(f"`{name}` is missing or of another type")
        if row["outcome"] not in OUTCOMES:
            raise ValueError(f"`outcome` is none of {', '.join(OUTCOMES)}")
        return cls(**{f.name: row[f.name] for f in fields(cls)})


_KINDS: dict[Any, Any] = {Outcome: str, float: int | float, float | None: int | float | None}  # of JSON, by annotation


P = TypeVar("P", bound=Pair)


@dataclass(frozen=True, slots=True)
class Tally:
    """Judged pairs of one route. Shares of n in [0, 1] with exact two-sided intervals (Clopper & Pearson 1934).

    routed_usd, reference_usd: of their answers together. saved: 1 - routed / reference, with a bootstrap interval over
    pairs; None where the reference cost nothing.
    """

    n: int
    shares: Mapping[Outcome, float]
    intervals: Mapping[Outcome, tuple[float, float]]
    routed_usd: float
    reference_usd: float
    saved: float | None
    saved_interval: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object: n, {won, tied, lost: {share, lower, upper}}, dollars, saved."""
        kinds: dict[str, Any] = {
            name: {"share": self.shares[name], "lower": self.intervals[name][0], "upper": self.intervals[name][1]}
            for name in OUTCOMES
        }
        low, high = self.saved_interval or (None, None)
        saved = None if self.saved is None else {"share": self.saved, "lower": low, "upper": high}
        usd = {"routed_usd": round(self.routed_usd, 6), "reference_usd": round(self.reference_usd, 6)}
        return {"n": self.n, **kinds, **usd, "saved": saved}


def tally(pairs: Sequence[Pair]) -> Tally:
    """The figures of these pairs, of which there is at least one."""
    n = len(pairs)
    counts = {name: sum(pair.outcome == name for pair in pairs) for name in OUTCOMES}
    routed, reference = (np.array([getattr(p, name) for p in pairs]) for name in ("routed_usd", "reference_usd"))
    total = float(reference.sum())
    return Tally(
        n=n,
        shares={name: k / n for name, k in counts.items()},
        intervals={name: between(k, n) for name, k in counts.items()},
        routed_usd=float(routed.sum()),
        reference_usd=total,
        saved=1 - float(routed.sum()) / total if total > 0 else None,
        saved_interval=_saved_interval(routed, reference) if total > 0 and n >= LEAST_DRAWN else None,
    )


def rate(k: int, n: int) -> dict[str, float | None]:
    """{estimate, lower, upper} of k in n; the interval is `between`'s."""
    low, high = between(k, n)
    return {"estimate": k / n if n else None, "lower": low, "upper": high}


def between(k: int, n: int) -> tuple[float, float]:
    """Two-sided interval of a share at LEVEL: exact (Clopper & Pearson 1934), for many rows Wilson's (1927).

    The two differ by less than 0.1 points from MANY rows on, where the exact one takes seconds.
    """
    side = (1 + LEVEL) / 2
    if n <= MANY:
        return lower_bound(k, n, side), upper_bound(k, n, side)
    z = NormalDist().inv_cdf(side)
    middle, spread = (k + z * z / 2) / (n + z * z), z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return max(0.0, middle - spread), min(1.0, middle + spread)


def by_route(pairs: Iterable[Pair]) -> dict[str, Tally]:
    """{route: figures}, the most frequent first."""
    routes: dict[str, list[Pair]] = {}
    for pair in pairs:
        routes.setdefault(pair.route, []).append(pair)
    return {route: tally(routes[route]) for route in sorted(routes, key=lambda route: -len(routes[route]))}


def first_place(pairs: Iterable[Pair]) -> dict[str, Any] | None:
    """How often the answer that stood first was the better one, of those that were judged and not tied.

    A half: the judge has no favourite place. None when there are no such pairs.
    """
    decided = [pair for pair in pairs if pair.routed_first is not None and pair.outcome != "tied"]
    n, k = len(decided), sum((p.outcome == "won") == p.routed_first for p in decided)
    return {"n": n, "share": k / n} | dict(zip(("lower", "upper"), between(k, n), strict=True)) if n else None


def summary(pairs: Sequence[Pair]) -> dict[str, Any]:
    """All of it as a JSON object; `all` is None without pairs."""
    return {
        "all": tally(pairs).to_json() if pairs else None,
        "by_route": {route: found.to_json() for route, found in by_route(pairs).items()},
        "first_place": first_place(pairs),
        "judges": sorted({f"{pair.judge} {pair.prompt_id}" for pair in pairs}),
        "judge_usd": round(sum(pair.judge_usd for pair in pairs), 6),
    }


def measured(pairs: Sequence[Pair], moved_usd: float) -> dict[str, Any] | None:
    """What routing saves by the tokens that both models really used: the pairs' share of the dollars that it moves.

    moved_usd: of all requests that routing moves, on the model that would have served. None without pairs.
    """
    saved = tally(pairs).to_json()["saved"] if pairs else None
    if saved is None:
        return None
    usd = {f"{name}_usd": None if saved[key] is None else round(saved[key] * moved_usd, 6) for name, key in _ENDS}
    return {"pairs": len(pairs), **saved, "moved_usd": round(moved_usd, 6), **usd}


_ENDS = (("saved", "share"), ("lower", "lower"), ("upper", "upper"))


def read_pairs(path: Path) -> Iterator[Pair]:
    """The pairs of a file, in order; a last line that was cut off is left out. Raises DataError."""
    return read_as(Pair, path)


def read_as(kind: type[P], path: Path) -> Iterator[P]:
    """As `read_pairs`, of pairs of one kind."""
    try:
        with open(path, "rb") as file:
            last: P | DataError | None = None
            for line, row in read_jsonl(iter(file), path):
                if isinstance(last, DataError):
                    raise last
                last = row if isinstance(row, DataError) else _pair(kind, row, path, line)
                if isinstance(last, kind):
                    yield last
    except OSError as error:
        raise DataError(f"cannot read it: {error.strerror}", file=path, next_step="check the path") from error


def dumped(pair: Pair) -> str:
    """Its line."""
    return json.dumps(pair.to_json(), allow_nan=False) + "\n"


def _pair(kind: type[P], row: Mapping[str, Any], path: Path, line: int) -> P | DataError:
    try:
        return kind.from_json(row)
    except ValueError as error:
        step = "name a file that this command made, or a new one"
        return DataError(f"not a pair: {error}", file=path, line=line, next_step=step)


def _saved_interval(routed: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    at = rng.integers(0, len(routed), (DRAWS, len(routed)))
    sums = reference[at].sum(axis=1)
    low, high = np.percentile(1 - routed[at].sum(axis=1) / np.where(sums > 0, sums, np.nan), (2.5, 97.5))
    return float(low), float(high)
