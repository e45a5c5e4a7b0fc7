"""Judged pairs: shares with intervals, measured savings, the file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prerouter.certify import lower_bound, upper_bound
from prerouter.errors import DataError
from prerouter.pairs import (
    MANY,
    Pair,
    between,
    by_route,
    dumped,
    first_place,
    measured,
    rate,
    read_pairs,
    summary,
    tally,
)

PAIR = Pair("1", "simple", "haiku", "opus", "won", True, 0.9, "judge", "abc", 0.001, 0.01, 0.002, 0.0)


def pairs(won: int, tied: int, lost: int) -> list[Pair]:
    outcomes = ["won"] * won + ["tied"] * tied + ["lost"] * lost
    return [replace(PAIR, id=str(i), outcome=outcome) for i, outcome in enumerate(outcomes)]  # type: ignore[arg-type]


def test_won_tied_lost_with_exact_intervals() -> None:
    found = tally(pairs(2, 5, 3)).to_json()
    assert [found[name]["share"] for name in ("won", "tied", "lost")] == [0.2, 0.5, 0.3]
    assert found["won"]["lower"] == pytest.approx(0.0252, abs=1e-4)  # Clopper & Pearson, 2 of 10
    assert found["won"]["upper"] == pytest.approx(0.5561, abs=1e-4)


def test_what_is_saved_is_measured_on_both_answers() -> None:
    found = tally(pairs(10, 10, 0))
    assert found.saved == pytest.approx(0.9)
    assert found.saved_interval == pytest.approx((0.9, 0.9))
    few = tally(pairs(2, 0, 0))
    assert few.saved == pytest.approx(0.9)
    assert few.saved_interval is None
    assert tally([replace(PAIR, reference_usd=0.0)]).saved is None


def test_the_interval_of_the_saving_covers_the_truth() -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(60):
        usd = rng.exponential(1.0, 80)
        routed = usd * rng.uniform(0.1, 0.3, 80)  # of a population in which a fifth is left
        made = [replace(PAIR, routed_usd=float(a), reference_usd=float(b)) for a, b in zip(routed, usd, strict=True)]
        low, high = tally(made).saved_interval or (1.0, 0.0)
        covered += low <= 0.8 <= high
    assert covered >= 52


def test_routes_are_told_apart() -> None:
    mixed = [*pairs(1, 0, 0), *(replace(p, routed="sonnet") for p in pairs(0, 2, 0))]
    assert [(route, found.n) for route, found in by_route(mixed).items()] == [
        ("opus -> sonnet", 2),
        ("opus -> haiku", 1),
    ]


def test_a_favourite_place_is_seen() -> None:
    first_wins = [
        replace(PAIR, outcome="won", routed_first=True),
        replace(PAIR, outcome="lost", routed_first=False),
    ] * 20
    found = first_place(first_wins)
    assert found
    assert found["share"] == 1.0
    assert found["lower"] > 0.9
    fair = [replace(p, routed_first=i % 2 == 0) for i, p in enumerate(first_wins)] + [replace(PAIR, routed_first=None)]
    assert (first_place(fair) or {})["n"] == 40
    assert first_place(pairs(0, 3, 0)) is None


def test_measured_savings_are_the_share_of_what_moves() -> None:
    found = measured(pairs(10, 10, 0), 100.0)
    assert found
    assert (found["saved_usd"], found["moved_usd"], found["pairs"]) == (90.0, 100.0, 20)
    assert measured([], 100.0) is None


@pytest.mark.parametrize("k", [0, 1, 40, 1000, 2000, 2001])
def test_many_rows_have_nearly_the_exact_interval(k: int) -> None:
    n = MANY + 1
    assert between(k, n) == pytest.approx((lower_bound(k, n, 0.975), upper_bound(k, n, 0.975)), abs=0.002)


def test_an_interval_without_rows_says_nothing() -> None:
    assert rate(0, 0) == {"estimate": None, "lower": 0.0, "upper": 1.0}


def test_the_file_keeps_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(dumped(PAIR) + dumped(replace(PAIR, id="2")) + dumped(PAIR)[:20])
    assert [pair.id for pair in read_pairs(path)] == ["1", "2"]


@pytest.mark.parametrize("change", [{"outcome": "drew"}, {"routed_usd": "much"}, {"routed_first": 1}, {"at": None}])
def test_other_files_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(PAIR.to_json() | change) + "\n" + dumped(PAIR))
    with pytest.raises(DataError, match="line 1"):
        list(read_pairs(path))


def test_a_summary_of_nothing() -> None:
    assert summary([]) == {"all": None, "by_route": {}, "first_place": None, "judges": [], "judge_usd": 0}
