"""Money: upper bounds hold, and learn from bills."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from prerouter.prompt import Prompt
from prerouter.purse import OBSERVED, Purse, guessed_tokens, n_bytes, prompt_tokens
from prerouter.records import Usage
from prerouter.taxonomy import Taxonomy
from prerouter.text import render
from prerouter.tiers import TierTable, cost

HAIKU = TierTable.load().model("claude-haiku-5-5")
PROMPT = Prompt.load(Taxonomy.load(), HAIKU)


def test_without_a_cap_everything_fits_and_nothing_is_reserved() -> None:
    purse = Purse(None, Decimal(5))
    assert purse.fits(Decimal(10**9))
    assert purse.upper(HAIKU, 10**6, 128) == 0
    assert purse.worth_more()


def test_what_is_on_its_way_counts() -> None:
    purse = Purse(Decimal(1), Decimal("0.5"))
    assert purse.fits(Decimal("0.5"))
    purse.reserved = Decimal("0.25")
    assert purse.fits(Decimal("0.25"))
    assert not purse.fits(Decimal("0.26"))


@given(st.text(max_size=500))
def test_a_call_costs_no_more_than_its_bound(text: str) -> None:
    body = PROMPT.body(render(text))
    most = Usage(n_bytes(body) + 300, body["max_tokens"])  # a token for each byte, and a hidden prompt
    assert Purse(Decimal(1), Decimal(0)).upper(HAIKU, n_bytes(body), body["max_tokens"]) >= cost(HAIKU, most)


def test_bills_tell_how_many_tokens_a_byte_has() -> None:
    purse = Purse(Decimal(1), Decimal(0))
    first = purse.upper(HAIKU, 10_000, 0)
    for _ in range(OBSERVED):
        purse.observe(10_000, Usage(2_000, 20, cache_read_tokens=500))
    learnt = purse.upper(HAIKU, 10_000, 0)
    assert cost(HAIKU, Usage(2_500)) < learnt < first / 2


def test_batches_cost_half() -> None:
    purse = Purse(Decimal(1), Decimal(0))
    assert purse.upper(HAIKU, 1000, 128, batch=True) * 2 == purse.upper(HAIKU, 1000, 128)


def test_a_little_rest_is_not_worth_another_batch() -> None:
    purse = Purse(Decimal(1), Decimal("0.94"))
    assert purse.worth_more()
    purse.spent = Decimal("0.96")
    assert not purse.worth_more()


def test_all_parts_of_a_prompt_are_counted() -> None:
    assert prompt_tokens(Usage(1, 100, 2, 4, 8)) == 15
    assert guessed_tokens(HAIKU, 4000) == 1300
