"""RouteLLM's metrics on routers whose values are known."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def outcomes() -> ModuleType:
    path = Path(__file__).parent.parent / "training" / "benchmarks" / "outcomes.py"
    spec = importlib.util.spec_from_file_location("benchmark_outcomes", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WEAK = np.array([0, 0, 1, 1, 0, 1, 0, 0, 1, 1], float)
STRONG = np.array([1, 1, 1, 1, 0, 1, 1, 1, 1, 1], float)  # four prompts that only the strong model gets right


def test_a_router_that_knows_everything(outcomes: ModuleType) -> None:
    found = outcomes.figures(STRONG - WEAK + np.arange(10) / 100, WEAK, STRONG)
    assert (found["n"], found["weak"], found["strong"]) == (10, 0.5, 0.9)
    assert found["cpt_50"][0] == pytest.approx(0.2)
    assert found["cpt_80"][0] == pytest.approx(0.32)
    assert found["apgr"][0] == pytest.approx(1 - 0.4 / 2)  # a triangle of four tenths is missing


def test_a_router_that_says_the_same_of_all_is_random(outcomes: ModuleType) -> None:
    found = outcomes.metrics(STRONG - WEAK, np.zeros(10), np.ones(10))
    assert found == {"apgr": pytest.approx(0.5), "cpt_50": pytest.approx(0.5), "cpt_80": pytest.approx(0.8)}


def test_a_router_that_is_always_wrong(outcomes: ModuleType) -> None:
    found = outcomes.figures(WEAK - STRONG + np.arange(10) / 100, WEAK, STRONG)
    assert found["apgr"][0] == pytest.approx(0.2)
    assert found["cpt_50"][0] == pytest.approx(0.8)


def test_intervals_hold_their_estimate(outcomes: ModuleType) -> None:
    rng = np.random.default_rng(1)
    weak = (rng.random(400) < 0.6).astype(float)
    strong = np.maximum(weak, (rng.random(400) < 0.7).astype(float))
    found = outcomes.figures(rng.random(400) + 0.5 * (strong - weak), weak, strong)
    for name in ("apgr", "cpt_50", "cpt_80"):
        value, low, high = found[name]
        assert low < value < high
    assert found["apgr"][1] > 0.5


def test_a_missing_folder_is_named(outcomes: ModuleType, tmp_path: Path) -> None:
    from prerouter.errors import DataError

    with pytest.raises(DataError, match="routellm"):
        outcomes.read(tmp_path)
