"""The live bound: audits in the log close gates when they break the certificate, and only then."""

from __future__ import annotations

import importlib.util
import json
import logging
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_help import save
from monitor_help import NOW, Traffic, pairs
from test_local import CERTIFICATE

from prerouter import gatestate, livebound
from prerouter.errors import UpstreamError
from prerouter.livebound import Kind, LiveBound, Scope, advance, errors_of, limits_of
from prerouter.local import LocalClassifier
from prerouter.routelog import RouteLog

Made = Callable[..., Traffic]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> LocalClassifier:
    folder = tmp_path_factory.mktemp("live") / "model"
    save(folder)
    return LocalClassifier.load(folder)


@pytest.fixture
def made(tmp_path: Path, local: LocalClassifier) -> Iterator[Made]:
    """Makes logs of traffic of a model."""
    logs: list[RouteLog] = []

    def make(model: LocalClassifier = local, **options: Any) -> Traffic:
        traffic = Traffic(tmp_path / f"routes{len(logs)}.db", model, **options)
        logs.append(traffic.log)
        return traffic

    yield make
    for log in logs:
        log.close()


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parent.parent / "training" / "benchmarks" / "monitor.py"
    spec = importlib.util.spec_from_file_location("benchmark_monitor", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def look(log: RouteLog, local: LocalClassifier) -> dict[str, Any]:
    """Everything that is new, and then the closed gates."""
    while advance(log, local):
        pass
    return dict(gatestate.closed(log, local.model_folder_id))


def test_stationary_months_at_the_contracts_rate_seldom_raise_an_alarm(benchmark: ModuleType) -> None:
    # All 200 months, of three sizes, and three contracts: training/benchmarks/monitor.json.
    found = benchmark.stationary(benchmark.Rates(0.05, 0.10), 300, months=40)
    assert found["alarms"] <= 5
    assert found["fresh"] <= 5


def test_a_jump_to_twice_the_contract_and_two_points_is_caught_within_400_audits(benchmark: ModuleType) -> None:
    found = benchmark.jump(benchmark.Rates(0.05, 0.10), 1000, "both", runs=40)
    assert found["caught"] >= 0.9


def test_the_measured_figures_are_the_promised_ones() -> None:
    path = Path(__file__).parent.parent / "training" / "benchmarks" / "monitor.json"
    found = json.loads(path.read_text())
    assert found["months"] == 200
    assert max(run["alarms"] for run in found["stationary"]) <= 16
    shipped = [run for run in found["jumps"] if run["under"] == 0.05 and run["jump"] == "both"]
    assert len(shipped) == 2
    assert min(run["caught"] for run in shipped) >= 0.9


def test_a_label_that_breaks_the_contract_has_its_gate_closed_and_the_others_not(
    made: Made, local: LocalClassifier, caplog: pytest.LogCaptureFixture
) -> None:
    traffic = made()
    traffic.audits([pair for one in zip(pairs(400), pairs(400, label="moderate"), strict=True) for pair in one])
    assert look(traffic.log, local) == {}
    bad, good = pairs(400, under=4), pairs(400, label="moderate")
    with caplog.at_level(logging.WARNING, "prerouter"):
        traffic.audits([pair for one in zip(bad, good, strict=True) for pair in one])
        closed = look(traffic.log, local)
    assert list(closed) == ["simple"]
    how = closed["simple"]
    assert how["kind"] == "under_routing"
    assert how["limit"] == 0.02
    assert how["evidence"] >= how["alarm_at"]
    assert caplog.text.count("the gate of 'simple' is closed") == 1
    assert look(traffic.log, local) == closed  # nothing new, nothing changes


def test_disagreement_upwards_counts_too(made: Made, local: LocalClassifier) -> None:
    traffic = made()
    traffic.audits(pairs(300, label="complex", other=4))
    closed = look(traffic.log, local)
    assert [how["kind"] for how in closed.values()] == ["disagreement"]
    assert list(closed) == ["complex"]


@pytest.mark.parametrize(
    "other",
    [
        {"whose": ("claude-sonnet-5-5", None)},
        {"whose": ("claude-haiku-5-5", "0123456789ab")},
        {"whose": (None, None)},
        {"origin": "feedback"},
        {"audit": False},
        {"decided_by": "llm"},
        {"model_folder_id": "000000000000"},
    ],
    ids=str,
)
def test_what_is_no_audit_of_this_certificate_never_closes_a_gate(
    made: Made, local: LocalClassifier, other: dict[str, Any]
) -> None:
    traffic = made()
    traffic.audits(pairs(200, under=2), **other)
    assert look(traffic.log, local) == {}
    assert livebound.load(traffic.log, local).shares_of_alarm() == dict.fromkeys(map(str, limits_of(local)), 0.0)


def test_a_label_that_the_labeller_did_not_give_is_no_error(made: Made, local: LocalClassifier) -> None:
    traffic = made()
    traffic.audits([("simple", None)] * 100)  # type: ignore[list-item]
    assert look(traffic.log, local) == {}


def test_a_closed_gate_stays_closed_and_a_new_model_folder_begins_open(
    made: Made, local: LocalClassifier, tmp_path: Path
) -> None:
    traffic = made()
    traffic.audits(pairs(200, under=4))
    assert "simple" in look(traffic.log, local)
    traffic.audits(pairs(500))
    assert "simple" in look(traffic.log, local)
    save(tmp_path / "next", sees="easy")
    assert look(traffic.log, LocalClassifier.load(tmp_path / "next")) == {}


def test_many_who_look_at_once_count_every_audit_once(made: Made, local: LocalClassifier) -> None:
    one, many = made(), made()
    for traffic in (one, many):
        traffic.audits(pairs(120, under=60, other=35))
        traffic.log.flush()
    look(one.log, local)

    def all_of_it(_: int) -> None:
        while advance(many.log, local, most=11):
            pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(all_of_it, range(4)))
    expected, found = (traffic.log.state(f"monitor:{local.model_folder_id}") for traffic in (one, many))
    assert expected is not None
    assert found is not None
    assert found.value == expected.value


class Dies:
    """A log whose process ends at the moment of keeping the evidence."""

    def __init__(self, log: RouteLog) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def set_state(self, key: str, value: Any, **options: Any) -> int | None:
        if key.startswith("monitor:"):
            raise UpstreamError("gone")
        return self._log.set_state(key, value, **options)


def test_who_dies_in_between_leaves_the_gate_closed_and_the_next_one_goes_on(
    made: Made, local: LocalClassifier
) -> None:
    traffic = made()
    traffic.audits(pairs(200, under=4))
    with pytest.raises(UpstreamError):
        advance(Dies(traffic.log), local)  # type: ignore[arg-type]
    closed = gatestate.closed(traffic.log, local.model_folder_id)
    assert list(closed) == ["simple"]
    assert look(traffic.log, local) == closed


def test_pruned_rows_are_passed_over(made: Made, local: LocalClassifier) -> None:
    traffic = made(start=NOW - 20 * 86_400)
    traffic.audits(pairs(300, under=4))
    traffic.clock.now = NOW
    assert traffic.log.prune(older_than_s=1.0) == 300
    assert look(traffic.log, local) == {}
    traffic.audits(pairs(200, under=4))
    assert list(look(traffic.log, local)) == ["simple"]


KINDS: tuple[tuple[Kind, ...], ...] = ((), ("disagreement",), ("disagreement", "under_routing"))
audits = st.lists(st.tuples(st.sampled_from(("simple", "moderate", "complex")), st.sampled_from(KINDS)), max_size=60)


@settings(max_examples=60)
@given(audits, st.integers(0, 60), st.integers(1, 40))
def test_what_was_kept_goes_on_as_if_nothing_had_been(
    local: LocalClassifier, found: list[tuple[str, tuple[Kind, ...]]], cut: int, days_apart: int
) -> None:
    limits = limits_of(local)
    whole, halves = LiveBound(limits), LiveBound(limits)
    for i, (label, errors) in enumerate(found):
        if i == cut:
            halves = LiveBound(limits, closed=halves.closed, state=json.loads(json.dumps(halves.to_json())))
        at = NOW + i * days_apart * 20_000
        assert halves.add(label, errors, at) == whole.add(label, errors, at)
    assert halves.shares_of_alarm() == whole.shares_of_alarm()


def test_the_alarm_is_set_for_the_audits_that_a_horizon_brings() -> None:
    limits = {Scope(None, "disagreement"): 0.1, Scope("simple", "disagreement"): 0.1}
    busy, idle = LiveBound(limits), LiveBound(limits)
    for i in range(3000):
        busy.add("simple", (), NOW + i * 40)
        idle.add("simple", (), NOW + i * 40_000)
    scope = Scope(None, "disagreement")
    assert busy.alarm_at(scope) == pytest.approx(3000 * 30 / 2 / (0.05 * livebound.OVERALL), rel=0.01)  # in two days
    assert idle.alarm_at(scope) == pytest.approx(livebound.FEWEST / (0.05 * livebound.OVERALL))


def test_a_clock_that_goes_back_is_borne() -> None:
    bound = LiveBound({Scope(None, "disagreement"): 0.1, Scope("simple", "disagreement"): 0.1})
    for at in (NOW, NOW - 400 * 86_400, NOW + 400 * 86_400, 0.0, NOW):
        bound.add("simple", (), at)
        assert all(0 <= share < 1 for share in bound.shares_of_alarm().values())


def test_where_all_labels_break_together_the_suspects_close_and_the_innocent_stays() -> None:
    rng = random.Random(3)
    scopes = [Scope(label, "disagreement") for label in (None, "a", "b", "c")]
    bound = LiveBound(dict.fromkeys(scopes, 0.05))
    for i in range(4000):
        label = rng.choice("abc")
        wrong: tuple[Kind, ...] = ("disagreement",) if label != "c" and rng.random() < 0.12 else ()
        bound.add(label, wrong, NOW + i * 600)
    assert bound.closed == {"a", "b"}


def test_a_label_may_be_as_hard_as_its_certify_rows_were(tmp_path: Path) -> None:
    shown = {
        "simple": {"n_accepted": 300, "n_under": 2, "n_disagreement": 2},
        "moderate": {"n_accepted": 60, "n_under": 6, "n_disagreement": 9},
    }
    save(tmp_path / "model", training={"certified_by_label": shown})
    limits = limits_of(LocalClassifier.load(tmp_path / "model"))
    assert limits[Scope(None, "under_routing")] == 0.02
    assert limits[Scope("simple", "disagreement")] == 0.05  # its record allows less than the contract
    assert 0.15 < limits[Scope("moderate", "under_routing")] < 0.25
    assert 0.25 < limits[Scope("moderate", "disagreement")] < 0.32
    assert limits[Scope("complex", "disagreement")] == 0.05
    assert Scope("complex", "under_routing") not in limits  # nothing is above it


def test_an_unordered_taxonomy_knows_no_under_routing(tmp_path: Path) -> None:
    save(tmp_path / "model", certificate=replace(CERTIFICATE, max_under=None, upper_under=None, errors_under=None))
    local = LocalClassifier.load(tmp_path / "model")
    assert {scope.kind for scope in limits_of(local)} == {"disagreement"}
    assert errors_of(local, "simple", "complex") == ("disagreement",)


def test_errors_of_a_decision(local: LocalClassifier) -> None:
    assert errors_of(local, "simple", "simple") == ()
    assert set(errors_of(local, "simple", "moderate")) == {"disagreement", "under_routing"}
    assert errors_of(local, "complex", "simple") == ("disagreement",)
    assert errors_of(local, "simple", "a label of another taxonomy") == ("disagreement",)
