"""Figures of trials: quantiles with intervals, the sign test, sums, what a file of trials holds."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from prerouter.errors import DataError
from prerouter.pairs import dumped, read_as
from prerouter.trials import Trial, finding, quantile, summary

TRIAL = Trial(
    *("1", "docs", "haiku", "opus", "won", True, 0.9, "judge", "abc", 0.002, 0.01, 0.003, 0.0),
    classifier_usd=0.0005,
    routed_s=1.5,
    reference_s=None,
    decided_by="llm",
    action="answer",
    rejected=False,
    expected="docs",
    contest="0123456789ab",
)


def test_a_quantile_and_its_order_statistics() -> None:
    values = [float(i) for i in range(1, 101)]
    # The tables of Conover (1999): for n = 100 the 95 % interval of the median is x(40) to x(61).
    assert quantile(values, 0.5) == {"estimate": 50.5, "lower": 40.0, "upper": 61.0}
    assert quantile([3.0, 1.0, 2.0], 0.5) == {"estimate": 2.0, "lower": None, "upper": None}
    assert quantile(values[:20], 0.9)["upper"] is None  # 20 values do not reach so far
    assert quantile([], 0.9) == {"estimate": None, "lower": None, "upper": None}


def test_the_interval_of_a_quantile_covers_it() -> None:
    rng, true, covered = random.Random(0), 0.9, 0
    for _ in range(400):
        found = quantile([rng.random() for _ in range(80)], 0.9)
        assert found["lower"] is not None
        covered += found["lower"] <= true <= (found["upper"] or 1.0)
    assert covered >= 0.95 * 400 - 8


SIGNS = [(6, 0, "better"), (5, 0, "unclear"), (0, 6, "worse"), (14, 6, "unclear"), (15, 5, "better")]


@pytest.mark.parametrize(("won", "lost", "said"), SIGNS)
def test_a_finding_is_the_exact_sign_test(won: int, lost: int, said: str) -> None:
    trials = [TRIAL] * won + [replace(TRIAL, outcome="lost")] * lost + [replace(TRIAL, outcome="tied")] * 30
    assert finding(trials) == said  # two-sided p: 0.031, 0.063, 0.031, 0.115, 0.041


def test_sums_and_shares() -> None:
    other = replace(TRIAL, id="2", label="code", action="clarify", rejected=True, decided_by="default", expected=None)
    found = summary([TRIAL, TRIAL, TRIAL, other])
    assert found["usd_per_1000"] == {"specialists": 2.0, "of_which_classifier": 0.5, "one_prompt": 10.0}
    assert found["all"]["cheaper_by"]["share"] == pytest.approx(0.8)
    assert [(label, route["n"]) for label, route in found["by_route"].items()] == [("docs", 3), ("code", 1)]
    shares = {name: found[name]["estimate"] for name in ("rejected", "clarified", "planned", "undecided")}
    assert shares == {"rejected": 0.25, "clarified": 0.25, "planned": 0.0, "undecided": 0.25}
    assert (found["labelled"], found["routing_accuracy"]["estimate"]) == (3, 1.0)
    assert (found["seconds"]["specialists"]["n"], found["seconds"]["one_prompt"]["n"]) == (4, 0)
    assert summary([])["all"] is None


def test_a_file_of_trials(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(dumped(TRIAL) + dumped(replace(TRIAL, routed_s=2)) + dumped(TRIAL)[:20])
    assert list(read_as(Trial, file)) == [TRIAL, replace(TRIAL, routed_s=2)]
    for change in ({"rejected": "no"}, {"routed_s": "fast"}, {"contest": None}, {"outcome": "draw"}):
        file.write_text(json.dumps(TRIAL.to_json() | change) + "\n" + dumped(TRIAL))
        with pytest.raises(DataError, match="line 1"):
            list(read_as(Trial, file))
