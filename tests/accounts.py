"""Accounts of requests that were never sent, for tests of what is done with them."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from prerouter.dispatchrecords import Account, Attempt, Outcome, Routing
from prerouter.records import Decision, Usage
from prerouter.tiers import TierTable

TABLE = TierTable.load()
USED = Usage(10, 20)
DECISION = Decision(
    id="x", label="simple", tier="haiku", model="claude-haiku-5-5", decided_by="local", stage=0, reason="above_gate",
    adjusted_by=(), confidence=0.9, probabilities={}, fallback_label=None, rationale=None, params={}, audit=False,
    audit_p=0.05, model_folder_id="0" * 12, prompt_id=None, text_version=1, seconds=0.0, cost_usd=0.0,
)  # fmt: skip


def attempt(model: str, *, outcome: Outcome = "answered", usd: str = "0", usage: Usage = USED) -> Attempt:
    """One attempt."""
    tier = TABLE.tier_of_model(model)
    return Attempt(model, tier.name if tier else None, "first", outcome, usage=usage, cost_usd=Decimal(usd))


def account(
    name: str = "x",
    *,
    attempts: tuple[Attempt, ...] = (),
    classifier: float = 0.0,
    ok: bool = True,
    tags: Mapping[str, str] | None = None,
    baseline: str | None = None,
    **routing: Any,
) -> Account:
    """A request that is over; with `ok` its last attempt served it."""
    usd = Decimal(str(classifier)) + sum((a.cost_usd for a in attempts), Decimal(0))
    model = attempts[-1].model if attempts and ok else None
    tier = attempts[-1].tier if attempts and ok else None
    top = None if baseline is None else Decimal(baseline)
    told = Routing(DECISION, attempts, "on", model, tier, cost_usd=usd, baseline_usd=top, **routing)
    usage = attempts[-1].usage if attempts and ok else Usage()
    return Account(name, 0.0, ok, None if ok else "UpstreamError", "simple", tags or {}, told, usage)
