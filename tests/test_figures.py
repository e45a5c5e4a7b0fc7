"""Figures against what counting by hand gives, and intervals against what is known of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_local import CERTIFICATE, TAXONOMY, make_model, make_stage, write_encoder

from prerouter import figures, modelfolder, text
from prerouter.certify import lower_bound, upper_bound
from prerouter.costs import PriceBook
from prerouter.figures import NOVEL, auroc, measure
from prerouter.local import LocalClassifier
from prerouter.settings import Settings
from prerouter.taxonomy import Taxonomy

SIMPLE, MODERATE, COMPLEX = range(3)
# What the tiny model says: "easy" is simple, "hard" is complex, both decided; anything else is left open.
ROWS = [
    ("easy please", SIMPLE, 40),
    ("easy please", MODERATE, 5),
    ("hard please", COMPLEX, 20),
    ("hard please", MODERATE, 3),
    ("do this please", MODERATE, 12),
    ("do this please", SIMPLE, 20),
]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> LocalClassifier:
    return make_local(tmp_path_factory.mktemp("figures"))


def make_local(folder: Path, **kind: object) -> LocalClassifier:
    encoder = write_encoder(folder / "encoder")
    model = replace(make_model(make_stage(encoder)), **kind)  # type: ignore[arg-type]
    modelfolder.save(folder / "model", model, "# card\n")
    return LocalClassifier.load(folder / "model")


def rows(table: list[tuple[str, int, int]]) -> tuple[list[text.Request], list[int]]:
    spread = [(words, truth) for words, truth, times in table for _ in range(times)]
    return [text.render(words) for words, _ in spread], [truth for _, truth in spread]


def test_shares_are_what_counting_gives(local: LocalClassifier) -> None:
    found = measure(local, *rows(ROWS))
    assert (found.n, found.n_novel, found.gate) == (100, 0, "open")
    assert found.coverage == pytest.approx(0.68)
    assert found.disagreement == pytest.approx(8 / 68)
    assert (found.under_routing, found.over_routing) == (pytest.approx(5 / 68), pytest.approx(3 / 68))
    assert (found.joint_disagreement, found.joint_under_routing) == (pytest.approx(0.08), pytest.approx(0.05))
    # Of what is left open the best label counts too: all three are equally likely there, and the first is taken.
    assert found.accuracy == pytest.approx((40 + 20 + 20) / 100)
    assert found.auroc_novel is None
    assert found.novel_coverage is None
    assert found.certificate == CERTIFICATE


def test_per_label_and_by_stage(local: LocalClassifier) -> None:
    found = measure(local, *rows(ROWS))
    assert found.per_label["moderate"] == {
        "n": 20,
        "precision": None,
        "recall": 0.0,
        "coverage": 8 / 20,
        "disagreement": 1.0,
        "under_routing": 5 / 8,
    }
    assert found.per_label["simple"]["precision"] == pytest.approx(60 / 77)
    assert found.per_label["complex"]["recall"] == 1.0
    assert found.by_stage == ({"stage": 0, "n": 68, "coverage": 0.68, "disagreement": 8 / 68, "under_routing": 5 / 68},)


def test_the_calibration_error_is_the_gap_in_each_bin(local: LocalClassifier) -> None:
    found = measure(local, *rows(ROWS))
    sure, open_ = 1.0, 1 / 3  # of "easy" and "hard"; of what the model knows nothing about
    by_hand = 68 / 100 * abs(sure - 60 / 68) + 32 / 100 * abs(open_ - 20 / 32)
    assert found.ece == pytest.approx(by_hand, abs=1e-3)


def test_json_has_every_key_of_the_contract_and_no_nan(local: LocalClassifier) -> None:
    found = json.loads(json.dumps(measure(local, *rows(ROWS)).to_json(), allow_nan=False))
    keys = "n accuracy coverage disagreement under_routing over_routing joint_disagreement joint_under_routing ece"
    keys += " per_label by_stage auroc_novel novel_coverage cost gate certificate"
    assert set(keys.split()) <= set(found)
    assert found["certificate"] == CERTIFICATE.to_json()
    assert found["cost"] == {}


def test_without_a_local_decision_shares_of_decisions_are_null(tmp_path: Path) -> None:
    local = make_local(tmp_path, certificate=replace(CERTIFICATE, valid=False, needed_rows=7))
    found = measure(local, *rows([("do this please", SIMPLE, 5)]))
    assert (found.coverage, found.disagreement, found.under_routing, found.over_routing) == (0.0, None, None, None)
    assert (found.joint_disagreement, found.joint_under_routing) == (0.0, 0.0)
    assert "disagreement" not in found.intervals
    assert found.intervals["coverage"][1] == pytest.approx(upper_bound(0, 5, 0.975))


def test_a_closed_gate_says_so_and_still_ranks_novel_rows(tmp_path: Path) -> None:
    stage = make_stage(write_encoder(tmp_path / "other"), threshold=None)
    local = make_local(tmp_path, stages=(stage,))
    found = measure(local, *rows([("easy please", SIMPLE, 4), ("do this please", NOVEL, 4)]))
    assert (found.gate, found.coverage, found.novel_coverage) == ("closed", 0.0, 0.0)
    assert found.auroc_novel == 1.0


def test_unordered_labels_know_no_under_routing(tmp_path: Path) -> None:
    unordered = Taxonomy.inferred(["a", "b", "c"])
    certificate = replace(CERTIFICATE, max_under=None, upper_under=None, errors_under=None)
    local = make_local(tmp_path, taxonomy=unordered, certificate=certificate)
    found = measure(local, *rows(ROWS))
    assert (found.under_routing, found.over_routing, found.joint_under_routing) == (None, None, None)
    assert found.disagreement == pytest.approx(8 / 68)
    assert {"under_routing", "joint_under_routing"} & set(found.intervals) == set()
    assert PriceBook.load(unordered, Settings()) is None


def test_novel_rows_count_only_in_their_own_figures(local: LocalClassifier) -> None:
    novel = [("easy please", NOVEL, 2), ("gibberish qqq zzz", NOVEL, 6)]
    with_novel, without = measure(local, *rows(ROWS + novel)), measure(local, *rows(ROWS))
    assert (with_novel.n, with_novel.n_novel) == (100, 8)
    assert with_novel.novel_coverage == 0.25
    for name in ("accuracy", "coverage", "disagreement", "ece"):
        assert getattr(with_novel, name) == getattr(without, name)
    # Six of eight novel rows are as far from decided as the 32 known ones that are left open (half a point each) and
    # farther than the other 68; two are as near as these.
    assert with_novel.auroc_novel == pytest.approx((6 * (0.68 + 0.32 / 2) + 2 * 0.68 / 2) / 8)


def test_costs_are_per_thousand_with_intervals_around_them(local: LocalClassifier) -> None:
    book = PriceBook.load(TAXONOMY, Settings())
    found = measure(local, *rows(ROWS), book=book)
    assert list(found.cost) == ["always-haiku", "always-sonnet", "always-opus", "haiku-first", "prerouter", "oracle"]
    assert found.enough["prerouter"] == pytest.approx(0.95)
    for name, dollars in found.cost.items():
        low, high = found.intervals[f"cost.{name}"]
        assert low <= dollars <= high


def test_the_same_seed_gives_the_same_intervals(local: LocalClassifier) -> None:
    assert measure(local, *rows(ROWS), seed=3) == measure(local, *rows(ROWS), seed=3)
    assert measure(local, *rows(ROWS), seed=3).intervals != measure(local, *rows(ROWS), seed=4).intervals


def test_intervals_are_never_narrower_than_exact_ones(local: LocalClassifier) -> None:
    low, high = measure(local, *rows(ROWS)).intervals["disagreement"]
    assert low <= lower_bound(8, 68, 0.975)
    assert high >= upper_bound(8, 68, 0.975)


def test_rows_of_one_group_widen_the_intervals(local: LocalClassifier) -> None:
    requests, truth = rows(ROWS)
    alone = measure(local, requests, truth).intervals["accuracy"]
    groups = [f"{words.text} {label}" for words, label in zip(requests, truth, strict=True)]
    together = measure(local, requests, truth, groups=groups).intervals["accuracy"]
    assert together[1] - together[0] > 1.5 * (alone[1] - alone[0])


def test_a_part_of_the_rows_has_the_figures_of_these_rows_alone(local: LocalClassifier) -> None:
    requests, truth = rows(ROWS)
    seen = figures.look(local, requests, truth)
    part = figures.look(local, requests[40:70], truth[40:70])
    for chosen in (np.arange(40, 70), (np.arange(100) >= 40) & (np.arange(100) < 70)):
        assert figures.summarise(seen.take(chosen), local, {}) == figures.summarise(part, local, {})
    nothing = figures.summarise(seen.take(np.array([], np.int64)), local, {})
    assert (nothing.n, nothing.accuracy, nothing.intervals) == (0, None, {})


def test_a_stages_own_decisions_leave_the_rest_open(local: LocalClassifier) -> None:
    seen = figures.look(local, *rows(ROWS))
    own, other = (figures.summarise(seen.decided_by(stage), local, {}) for stage in (0, 1))
    assert own == figures.summarise(seen, local, {})
    assert (other.n, other.coverage, other.disagreement) == (100, 0.0, None)
    assert other.accuracy == own.accuracy


def test_pooled_rows_keep_groups_that_span_the_parts(local: LocalClassifier) -> None:
    requests, truth = rows(ROWS)
    groups = [f"group {i // 10}" for i in range(100)]
    whole = figures.look(local, requests, truth, groups)
    parts = [figures.look(local, requests[at], truth[at], groups[at]) for at in (slice(0, 45), slice(45, 100))]
    assert figures.summarise(figures.pooled(parts, groups), local, {}) == figures.summarise(whole, local, {})


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Coverage of the interval of the AUROC and of accuracy over draws from a known population."""
    rng, held = np.random.default_rng(0), {"accuracy": 0, "auroc_novel": 0}
    right = {"accuracy": 0.8, "auroc_novel": 0.7602499}  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    for draw in range(60):
        truth = np.where(np.arange(240) < 160, 0, NOVEL)
        predicted = (rng.random(240) < 0.2).astype(np.int64)
        strange = rng.normal(size=240) + (truth == NOVEL)
        seen = figures.Seen(truth, predicted, np.zeros(240, np.int64), np.full(240, 0.8), strange, np.arange(240))
        found = figures.summarise(seen, _Named(), {}, seed=draw)  # type: ignore[arg-type]
        for name in held:
            low, high = found.intervals[name]
            held[name] += low <= right[name] <= high
    # 95 % of 60 is 57; below 51 such an interval would be seen less than once in 100 trials.
    assert min(held.values()) >= 51


class _Named:
    """As much of a classifier as `summarise` reads."""

    taxonomy_names, ordered, certificate = ("a", "b"), True, CERTIFICATE

    class model:
        stages = ()


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=1, max_size=40))
def test_auroc_is_the_share_of_pairs_in_order(items: list[tuple[int, bool, int]]) -> None:
    scores, positive, weights = (np.array(column) for column in zip(*items, strict=True))
    pairs = [(s > t) + 0.5 * (s == t) for s, p, w in items for t, q, v in items if p and not q for _ in range(w * v)]
    found = auroc(scores, positive.astype(bool), weights)
    assert found is None if not pairs else found == pytest.approx(sum(pairs) / len(pairs))
