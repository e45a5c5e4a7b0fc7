"""What came of an attempt, what it cost, and what to do next. Pure: nothing is sent, no clock is read.

| outcome | next |
|---|---|
| answered, open | it is served |
| refused before any output | once on another model, unless its category is final |
| no_text | once more with thinking off or at low effort |
| empty | once more, unless the request brought tool results: then there was nothing to add |
| failed, unreachable, cut | the same model again with jitter, then another, unless there is no connection at all |
| limited (429) | the same model again if the API asks for a short wait, then another; a spend limit: stop |
| timeout, dead_model (404) | another model |
| rejected | stop; another model where it is the model that does not accept it, or is not open to this key |
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from prerouter.dispatchrecords import Attempt, Outcome, Why
from prerouter.errors import UnsupportedRequest
from prerouter.flights import BACKOFF_MAX_S, BACKOFF_S
from prerouter.logschema import Reply
from prerouter.reading import Reading
from prerouter.records import Usage
from prerouter.sdkfaults import SPENT, retry_after_s
from prerouter.tiers import Model, TierTable, cost

Next = Literal["serve", "again", "other", "stop"]

PATIENCE_S = 2.0  # the longest wait that a 429 may ask for before another model is preferred
TIMEOUT = "timeout"  # `Reading.fault` of an attempt that was given up

_BROKE_OFF = ("ReadError", "WriteError", "RemoteProtocolError")  # connections that there were
_NAME = re.compile(r"[a-z0-9_/]{1,64}")
_WHOLE: tuple[Outcome, ...] = ("answered", "refused", "no_text", "empty")
_TRANSIENT: tuple[Outcome, ...] = ("failed", "unreachable", "cut", "limited")


@dataclass(frozen=True, slots=True)
class Step:
    """What to do after an attempt; pause_s: seconds to wait before."""

    next: Next
    pause_s: float = 0.0


def is_whole(outcome: Outcome) -> bool:
    """Whether the API gave an answer that is complete, if not the wanted one."""
    return outcome in _WHOLE


def outcome_of(reading: Reading, body: Mapping[str, Any]) -> Outcome:
    """What `reading` comes to for the request `body`."""
    if not reading.succeeded:
        return _unanswered(reading)
    if reading.error:
        return "limited" if reading.error.get("type") == "rate_limit_error" else "failed"
    if reading.fault:
        return "timeout" if reading.fault == TIMEOUT else "cut"
    if reading.state != "over":
        return "open"
    return _stopped(reading, body)


def _unanswered(reading: Reading) -> Outcome:
    status = reading.status
    if status == 0:
        return "timeout" if reading.fault == TIMEOUT else "unreachable"
    if status == 404:
        return "dead_model"
    if status == 429:
        return "limited"
    return "failed" if status in (408, 409) or status >= 500 else "rejected"


def _stopped(reading: Reading, body: Mapping[str, Any]) -> Outcome:
    reason = (reading.message or {}).get("stop_reason")
    if reason == "refusal":
        return "refused"
    if reason == "max_tokens" and not reading.has_output and body.get("max_tokens") != 0:  # 0 warms the cache
        return "no_text"
    return "empty" if reason == "end_turn" and not reading.content else "answered"


def after(outcome: Outcome, reading: Reading, *, tries: int, retries: int, others: bool) -> Step:
    """What follows an attempt that brought no whole answer. tries: made on this model; others: whether any is left."""
    if outcome == "rejected":
        return Step("other" if others and _of_the_model(reading) else "stop")
    if outcome == "limited" and reading.error_code in SPENT:
        return Step("stop")
    again = outcome in _TRANSIENT and tries <= retries and reading.headers.get("x-should-retry") != "false"
    asked_s = retry_after_s(reading.headers)
    if again and not (others and asked_s > PATIENCE_S):
        return Step("again", max(asked_s, random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2 ** (tries - 1)))))
    if outcome == "unreachable" and reading.fault not in _BROKE_OFF:  # the other models live at the same address
        return Step("stop")
    return Step("other" if others else "stop")


def _of_the_model(reading: Reading) -> bool:
    """Whether another model may accept what this one rejected.

    The API has no code for it: its messages name the model (CLAUDE_API.md, section 3). Taken wrongly, this costs one
    more call that is not billed.
    """
    return reading.status == 403 or (reading.status == 400 and "model" in str(reading.error.get("message", "")))


def refusal_is_final(reading: Reading, final: tuple[str, ...]) -> bool:
    """Whether this refusal is not tried elsewhere: its category is final, or part of an answer came before it."""
    details = (reading.message or {}).get("stop_details")
    return bool(reading.content_s) or (isinstance(details, dict) and details.get("category") in final)


@dataclass(frozen=True, slots=True)
class Bill:
    """What an attempt used and what that costs, in US dollars at list prices."""

    usage: Usage
    usd: Decimal
    served: str | None
    stop_reason: str | None
    geo_us: bool
    fast: bool


def bill(reading: Reading, model: Model, table: TierTable, body: Mapping[str, Any], *, batch: bool = False) -> Bill:
    """The bill of a response to `body`, as far as its usage tells. `model`: asked for, and taken for an unknown one.

    batch: it came through Message Batches.
    """
    message = reading.message or {}
    told = Reply.of(message)
    usage = message.get("usage") if isinstance(message.get("usage"), dict) else {}
    served = table.find(told.model) if told.model else None
    geo_us = _asked(usage, body, "inference_geo") == "us"
    fast = _asked(usage, body, "speed") == "fast"
    # A refusal before any output is not billed, though its usage shows tokens (CLAUDE_API.md, section 5).
    free = told.stop_reason == "refusal" and not reading.content
    usd = Decimal(0) if free else _price(served or model, told.usage, batch=batch, geo_us=geo_us, fast=fast)
    return Bill(told.usage, usd, told.model, told.stop_reason, geo_us, fast)


def _asked(usage: Any, body: Mapping[str, Any], key: str) -> Any:
    return usage.get(key) or body.get(key)


def _price(model: Model, usage: Usage, *, batch: bool, geo_us: bool, fast: bool) -> Decimal:
    try:
        return cost(model, usage, batch=batch, geo_us=geo_us, fast=fast)
    except UnsupportedRequest:  # the table knows no such factor, the API did
        return cost(model, usage, batch=batch)


def attempt(
    reading: Reading,
    billed: Bill,
    *,
    model: str,
    tier: str | None,
    why: Why,
    outcome: Outcome,
    usd: Decimal,
    adaptations: tuple[str, ...],
    now: float,
) -> Attempt:
    """The record of an attempt, so far or at its end. usd: `billed`'s, or an estimate where nothing was told."""
    until = now if reading.ended_s is None else reading.ended_s
    return Attempt(
        model=model,
        tier=tier,
        why=why,
        outcome=outcome,
        status=reading.status,
        served=billed.served,
        stop_reason=billed.stop_reason,
        usage=billed.usage,
        cost_usd=usd,
        seconds=max(0.0, until - reading.began_s),
        first_byte_s=reading.content_s - reading.began_s if reading.stream and reading.content_s is not None else None,
        request_id=reading.headers.get("request-id"),
        adaptations=adaptations,
        error=_name(reading),
    )


def _name(reading: Reading) -> str | None:
    said = (name for name in (reading.error.get("type"), reading.error_code) if isinstance(name, str))
    names = [name if _NAME.fullmatch(name) else "unknown" for name in said]  # whatever a gateway puts there
    return " ".join([*names, *([reading.fault] if reading.fault else [])]) or None
