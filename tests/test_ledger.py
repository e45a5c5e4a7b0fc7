"""What the ledger adds up."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from accounts import TABLE, account, attempt
from hypothesis import given
from hypothesis import strategies as st

from prerouter.dispatchrecords import Account
from prerouter.ledger import MOST_TAGS, OTHER_TAGS, Ledger, baseline_usd
from prerouter.records import Usage
from prerouter.tiers import cost

OPUS, HAIKU = TABLE.model("claude-opus-5-5"), TABLE.model("claude-haiku-5-5")


def test_the_baseline_is_the_same_tokens_at_the_top_tiers_prices() -> None:
    usage = Usage(1_000, 200, cache_read_tokens=5_000, cache_write_5m_tokens=100)
    assert baseline_usd(TABLE, HAIKU, usage) == Decimal("0.0040") + Decimal("0.0040") + Decimal("0.001") + Decimal(
        "0.0005"
    )
    assert baseline_usd(TABLE, OPUS, usage) == cost(OPUS, usage)
    old = TABLE.model("claude-haiku-4-5")  # counts about 30 % fewer tokens for the same text
    assert baseline_usd(TABLE, old, Usage(1_000)) == cost(OPUS, Usage(1_300))
    assert baseline_usd(TABLE, HAIKU, usage, geo_us=True, fast=True) == cost(OPUS, usage, geo_us=True, fast=True)


def test_sums_by_tier_label_tag_and_what_is_overhead() -> None:
    ledger = Ledger(TABLE, clock=lambda: 60.0)
    failed = attempt("claude-opus-5-5", outcome="cut", usd="0.004")
    ledger.add(account("a", attempts=(attempt("claude-haiku-5-5", usd="0.001"),), tags={"team": "x"}, baseline="0.01"))
    ledger.add(
        account(
            "b",
            attempts=(failed, attempt("claude-sonnet-5-5", usd="0.002")),
            classifier=0.0005,
            tags={"team": "x", "user": "1"},
            baseline="0.02",
        )
    )
    ledger.add(account("c", attempts=(replace(failed, cost_usd=Decimal(0), usage=Usage()),), ok=False))
    report = ledger.report()
    assert (report.total.requests, report.total.answered) == (3, 2)
    assert report.total.usd == Decimal("0.0075")
    assert (report.classifier_usd, report.wasted_usd) == (Decimal("0.0005"), Decimal("0.004"))
    assert report.saved_usd == Decimal("0.03") - Decimal("0.0075")
    assert list(report.by_tier) == ["haiku", "sonnet", "(none)"]
    assert report.by_tier["sonnet"].usd == Decimal("0.0065")
    assert {tag: line.requests for tag, line in report.by_tag.items()} == {"team=x": 2, "user=1": 1}
    assert report.attempts == {"answered": 2, "cut": 2}
    assert (report.untold, report.errors) == (1, {"UpstreamError": 1})
    assert [row.id for row in report.rows] == ["a", "b", "c"]
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["saved_usd"] == pytest.approx(0.0225)


def test_a_refusal_that_is_returned_is_what_was_served_and_not_wasted() -> None:
    refused = attempt("claude-haiku-5-5", outcome="refused", usd="0.003")
    other = attempt("claude-sonnet-5-5", outcome="failed", usd="0.001")
    one = account("x", attempts=(refused, other))
    assert one.routing
    one = replace(one, routing=replace(one.routing, model="claude-haiku-5-5", tier="haiku"))
    ledger = Ledger(TABLE)
    ledger.add(one)
    report = ledger.report()
    assert (report.wasted_usd, list(report.by_tier)) == (Decimal("0.001"), ["haiku"])


def test_the_summary_names_shares_and_requests() -> None:
    ledger = Ledger(TABLE)
    assert ledger.summary() == ""
    for i in range(30):
        model = "claude-haiku-5-5" if i % 3 else "claude-opus-5-5"
        ledger.add(account(f"request-{i}", attempts=(attempt(model, usd="0.001"),), baseline="0.002"))
    said = ledger.summary()
    assert "30 requests: $0.030000 instead of $0.060000 (50.0% less)" in said
    assert "66.7%" in said
    assert "33.3%" in said
    assert "request-29" in said
    assert "request-9 " not in said
    assert "the newest 20 of 30" in said
    assert all(len(line) <= 120 for line in said.splitlines())


def test_a_request_that_never_had_a_decision_is_counted() -> None:
    ledger = Ledger(TABLE)
    ledger.add(Account("x", 0.0, False, "InvalidRequest", None, {}, None))
    assert ledger.report().errors == {"InvalidRequest": 1}
    assert "InvalidRequest" in ledger.summary()


def test_a_classifier_that_was_billed_for_more_than_the_requests_tell() -> None:
    billed = [Decimal("0.5")]
    ledger = Ledger(TABLE, asked=lambda: billed[0])
    ledger.add(account("x", attempts=(attempt("claude-haiku-5-5", usd="0.1"),), classifier=0.01, baseline="1"))
    billed[0] += Decimal("0.03")
    report = ledger.report()
    assert (report.late_usd, report.total.usd) == (Decimal("0.02"), Decimal("0.11"))
    assert report.saved_usd == Decimal("0.87")
    assert report.to_json()["saved_usd"] == 0.87
    assert "too late $0.020000" in ledger.summary()


def test_memory_is_bounded() -> None:
    ledger = Ledger(TABLE, rows=10)
    for i in range(MOST_TAGS + 5):
        ledger.add(account(str(i), tags={"request": str(i)}))
    report = ledger.report()
    assert len(report.rows) == 10
    assert len(report.by_tag) == MOST_TAGS + 1
    assert report.by_tag[OTHER_TAGS].requests == 5


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.booleans()), max_size=20))
def test_nothing_is_lost_between_requests_and_sums(costs: list[tuple[int, int, bool]]) -> None:
    ledger = Ledger(TABLE)
    for i, (served, failed, ok) in enumerate(costs):
        tries = (
            attempt("claude-opus-5-5", outcome="cut", usd=f"{failed}e-9"),
            attempt("claude-haiku-5-5", usd=f"{served}e-9"),
        )
        ledger.add(account(str(i), attempts=tries, ok=ok, classifier=0.00008))
    report = ledger.report()
    spent = sum((Decimal(served + failed).scaleb(-9) for served, failed, _ in costs), Decimal(0))
    assert report.total.usd == spent + len(costs) * Decimal("0.00008")
    for group in (report.by_tier, report.by_model, report.by_label):
        assert sum((line.usd for line in group.values()), Decimal(0)) == report.total.usd
    assert report.classifier_usd == len(costs) * Decimal("0.00008")


def test_threads_do_not_lose_requests() -> None:
    ledger = Ledger(TABLE)
    one = account("x", attempts=(attempt("claude-haiku-5-5", usd="0.001"),), tags={"team": "x"})

    def add() -> None:
        for _ in range(500):
            ledger.add(one)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.report().by_tag["team=x"].usd == 4


def test_a_report_does_not_change_afterwards() -> None:
    ledger = Ledger(TABLE)
    before: Any = ledger.report()
    ledger.add(account("x"))
    assert (before.total.requests, dict(before.by_tier)) == (0, {})
