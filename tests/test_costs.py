"""Dollars of policies against the price table, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from prerouter import text
from prerouter.costs import ABSTAINED, PriceBook
from prerouter.errors import ConfigError
from prerouter.records import Usage
from prerouter.sections import CostSettings
from prerouter.settings import Settings, load_settings
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable, cost

COMPLEXITY = Taxonomy.load()
TIERS = TierTable.load()
REQUESTS = [text.render("x" * 400), text.render("Why? " * 200), text.render("Prove it.")]
TRUTH = np.array([0, 1, 2])


def book(**assumed: float) -> PriceBook:
    found = PriceBook.load(COMPLEXITY, Settings(costs=CostSettings(**assumed)))  # type: ignore[arg-type]
    assert found
    return found


def test_always_one_tier_is_its_price_for_every_request() -> None:
    bill = book().bills(REQUESTS, TRUTH, TRUTH)["always-sonnet"]
    # 400 characters are 100 tokens of Claude 4.6's tokenizer, 130 of Sonnet 5.5's; the answer has 400.
    assert bill.usd[0] == pytest.approx(float(cost(TIERS.model("claude-sonnet-5-5"), Usage(130, 400))))
    assert bill.usd[0] == pytest.approx((130 * 2 + 400 * 10) / 1e6)
    assert bill.enough.tolist() == [True, True, False]


def test_the_oracle_pays_for_what_is_needed_and_nothing_else() -> None:
    bills = book().bills(REQUESTS, TRUTH, np.full(3, ABSTAINED))
    always = [bills[f"always-{tier}"].usd[i] for i, tier in enumerate(("haiku", "sonnet", "opus"))]
    assert bills["oracle"].usd.tolist() == pytest.approx(always)
    assert bills["oracle"].enough.all()


def test_prerouter_that_decides_nothing_costs_what_asking_about_everything_costs() -> None:
    bills = book().bills(REQUESTS, TRUTH, np.full(3, ABSTAINED))
    assert bills["prerouter"].usd.tolist() == bills["haiku-first"].usd.tolist()
    asked = bills["haiku-first"].usd - bills["oracle"].usd
    assert (asked > 0.00003).all()  # some 400 tokens in, 20 out, at 0.10 and 0.50 dollars a million
    assert (asked < 0.0002).all()


def test_prerouter_that_decides_everything_pays_for_its_own_labels_only() -> None:
    bills = book().bills(REQUESTS, TRUTH, np.array([0, 0, 2]))
    wrong = bills["always-haiku"].usd[1]
    assert bills["prerouter"].usd.tolist() == pytest.approx(
        [bills["oracle"].usd[0], wrong, bills["oracle"].usd[2]], abs=1e-12
    )
    assert bills["prerouter"].enough.tolist() == [True, False, True]


def test_dollars_are_those_of_exact_decimals() -> None:
    bills = book(chars_per_token=1.3, answer_tokens=1).bills(REQUESTS[:1], TRUTH[:1], TRUTH[:1])
    assert Decimal(bills["always-opus"].usd[0]).quantize(Decimal("1e-9")) == Decimal("0.001620000")  # 400 x 4 + 20


def test_assumptions_can_be_set_and_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREROUTER_COSTS__ANSWER_TOKENS", "1000")
    found = PriceBook.load(COMPLEXITY, load_settings())
    assert found
    assert "1,000 tokens of answer" in found.assumptions()
    assert str(TIERS.as_of) in found.assumptions()
    more = (
        found.bills(REQUESTS, TRUTH, TRUTH)["always-opus"].usd - book().bills(REQUESTS, TRUTH, TRUTH)["always-opus"].usd
    )
    assert more.tolist() == pytest.approx([600 * 20 / 1e6] * 3)


def test_other_tokens_are_a_prompt_that_every_answer_pays_for() -> None:
    plain, more = (b.bills(REQUESTS, TRUTH, TRUTH)["always-haiku"].usd for b in (book(), book(other_tokens=3000)))
    assert (more - plain).tolist() == pytest.approx([3000 * 0.10 / 1e6] * 3)


def test_prices_of_the_settings_are_used() -> None:
    settings = Settings(tiers={"models": {"claude-opus-5-5": {"output": "40"}}})
    found = PriceBook.load(COMPLEXITY, settings)
    assert found
    dearer = (
        found.bills(REQUESTS, TRUTH, TRUTH)["always-opus"].usd - book().bills(REQUESTS, TRUTH, TRUTH)["always-opus"].usd
    )
    assert dearer.tolist() == pytest.approx([400 * 20 / 1e6] * 3)


def test_a_taxonomy_of_two_tiers_has_two_plain_policies() -> None:
    two = Taxonomy.from_dict(
        COMPLEXITY.to_dict() | {"labels": COMPLEXITY.to_dict()["labels"][::2], "default": "simple", "torn": "simple"}
    )
    found = PriceBook.load(two, Settings())
    assert found
    bills = found.bills(REQUESTS[:2], np.array([0, 1]), np.array([0, 1]))
    assert list(bills) == ["always-haiku", "always-opus", "haiku-first", "prerouter", "oracle"]
    assert bills["oracle"].usd[1] == bills["always-opus"].usd[1]


def test_labels_without_tiers_have_no_price() -> None:
    assert PriceBook.load(Taxonomy.inferred(["a", "b"]), Settings()) is None


def test_an_unknown_classifier_model_is_refused() -> None:
    settings = Settings(classifier=replace(Settings().classifier, model="claude-haiku-9"))
    with pytest.raises(ConfigError, match="unknown model"):
        PriceBook.load(COMPLEXITY, settings)
