"""What the result of a batch's item comes to: its routing, and one entry in ledger, budgets and log."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from prerouter import attempts
from prerouter.batchrouting import decision_of
from prerouter.dispatchrecords import Account, Attempt, Outcome, Routing
from prerouter.ledger import baseline_usd
from prerouter.logschema import Reply
from prerouter.parts import Parts
from prerouter.reading import Reading
from prerouter.records import Request, Usage
from prerouter.routelog import RouteLog
from prerouter.tiers import TierTable

BATCH_TAG = "batch"  # in the log: the id of the batch
# Types of errors, as CLAUDE_API.md, section 8, has them; any other is the API's own failure.
_OUTCOMES: dict[str, Outcome] = {
    "invalid_request_error": "rejected",
    "request_too_large": "rejected",
    "permission_error": "rejected",
    "authentication_error": "rejected",
    "billing_error": "rejected",
    "not_found_error": "dead_model",
    "rate_limit_error": "limited",
}
_NAME = re.compile(r"[a-z0-9_]{1,64}")


def routing_of(table: TierTable, kept: Mapping[str, Any], result: Mapping[str, Any], *, copy: bool = False) -> Routing:
    """How an item of a batch was served. kept: as `batchrouting.Kept`. copy: of an equal item's answer, paid there."""
    decision = decision_of(kept)
    attempt = _attempt(table, kept, result)
    whole = attempts.is_whole(attempt.outcome)
    baseline = _baseline(table, kept, result) if whole and not copy else None
    asked = Decimal(0) if copy else Decimal(repr(decision.cost_usd))
    return Routing(
        decision=replace(decision, cost_usd=0.0) if copy else decision,
        attempts=() if copy else (attempt,),
        mode=kept["mode"],
        model=kept["model"] if whole else None,
        tier=kept["tier"] if whole else None,
        served=attempt.served,
        adaptations=tuple(kept["adaptations"]),
        cost_usd=Decimal(0) if copy else asked + attempt.cost_usd,
        baseline_usd=baseline,
    )


def settle(parts: Parts, batch_id: str, kept: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Count an item in ledger and budgets, and give the log its row."""
    routing = routing_of(parts.table, kept, result)
    (attempt,) = routing.attempts
    whole = attempts.is_whole(attempt.outcome)
    account = Account(
        id=routing.decision.id,
        at=parts.wall(),
        ok=whole,
        error=None if whole else attempt.error or attempt.outcome,
        label=routing.decision.label,
        tags=kept["tags"],
        routing=routing,
        usage=attempt.usage if whole else Usage(),
    )
    parts.ledger.add(account)
    parts.budgets.spent(account)
    if attempt.outcome == "dead_model":
        parts.dead.add(kept["model"])
    if parts.log and kept["row"]:
        _log(parts.log, batch_id, kept, routing)


def _attempt(table: TierTable, kept: Mapping[str, Any], result: Mapping[str, Any]) -> Attempt:
    kind = result.get("type")
    if kind != "succeeded":
        return _unserved(kept, str(kind), result)
    reading = _reading(result)
    billed = attempts.bill(reading, table.model(kept["model"]), table, kept["asked"], batch=True)
    return attempts.attempt(
        reading,
        billed,
        model=kept["model"],
        tier=kept["tier"],
        why="first",
        outcome=attempts.outcome_of(reading, kept["asked"]),
        usd=billed.usd,
        adaptations=tuple(kept["adaptations"]),
        now=0.0,
    )


def _reading(result: Mapping[str, Any]) -> Reading:
    """The answer, as if it had come by itself."""
    reading = Reading(stream=False, began_s=0.0)
    reading.opened(200, {})
    reading.feed(json.dumps(result.get("message")).encode(), 0.0)
    reading.ended(0.0)
    return reading


def _unserved(kept: Mapping[str, Any], kind: str, result: Mapping[str, Any]) -> Attempt:
    error = str(((result.get("error") or {}).get("error") or {}).get("type")) if kind == "errored" else kind
    outcome: Outcome = _OUTCOMES.get(error, "failed") if kind == "errored" else "unanswered"
    name = error if _NAME.fullmatch(error) else "unknown"
    adapted = tuple(kept["adaptations"])
    return Attempt(kept["model"], kept["tier"], "first", outcome, adaptations=adapted, error=name)


def _baseline(table: TierTable, kept: Mapping[str, Any], result: Mapping[str, Any]) -> Decimal:
    """The same answer at the top tier, in a batch too: the discount is not the router's merit."""
    model = table.model(kept["model"])
    billed = attempts.bill(_reading(result), model, table, kept["asked"], batch=True)
    served = (table.find(billed.served) if billed.served else None) or model
    return baseline_usd(table, served, billed.usage, batch=True, geo_us=billed.geo_us)


def _log(log: RouteLog, batch_id: str, kept: Mapping[str, Any], routing: Routing) -> None:
    import numpy as np

    row: Mapping[str, Any] = kept["row"]
    text, packed = row["text"] or "", row["features"]
    features = None if packed is None else np.frombuffer(base64.b64decode(packed), "<f4").astype(np.float32)
    decision, (attempt,) = routing.decision, routing.attempts
    log.append(
        Request(text, "", tuple(row["signals"]), decision.text_version, row["n_chars"]),
        decision,
        Reply(
            model=routing.served,
            stop_reason=attempt.stop_reason,
            usage=attempt.usage,
            cost_usd=float(attempt.cost_usd),
            baseline_usd=None if routing.baseline_usd is None else float(routing.baseline_usd),
            attempts=(attempt.to_json(),),
        ),
        {**row["tags"], BATCH_TAG: batch_id},
        features=features,
        fingerprint=row["fingerprint"],
        mode=kept["mode"],
        labelled_by=row["labelled_by"],
        digest=bytes.fromhex(row["digest"]),
    )
