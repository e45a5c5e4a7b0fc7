"""What dispatch tells of a request: its attempts, its routing, its account."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, Literal

from prerouter.records import Decision, Usage
from prerouter.settings import Mode

DISPATCH = "claude-dispatch"  # the model name that is routed

Why = Literal[
    "first", "retry", "next_model", "next_tier", "refusal", "no_text", "speculative", "shadow", "rejection", "step"
]
Action = Literal["answer", "clarify", "human", "plan"]  # what a request came to
Outcome = Literal[
    "open",  # a stream that still runs
    "answered",
    "refused",
    "no_text",  # max_tokens without any text: all of it went into thinking
    "empty",  # end_turn without content
    "rejected",  # 4xx: the same request would fail again
    "limited",  # 429
    "failed",  # 5xx, 408, 409, or an error event before the first content
    "dead_model",  # 404: no such model
    "unreachable",
    "timeout",
    "cut",  # broke off, or is not what a whole answer looks like
    "cancelled",  # not wanted any more: a speculation that lost, a stream that was closed
    "escalated",  # the specialist gave the request back
    "unanswered",  # an item of a batch that expired or was cancelled: nothing is billed
]

_NO_TOKENS = Usage()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call to the API.

    model: asked for. served: what the response names. status: of HTTP, 0 without a response.
    cost_usd: of `usage` at list prices; 0 where nothing is billed or nothing was told.
    seconds: until its end; first_byte_s: until its first content, streams only. request_id: the API's.
    error: names and codes, never a word of the request.
    """

    model: str
    tier: str | None
    why: Why
    outcome: Outcome
    status: int = 0
    served: str | None = None
    stop_reason: str | None = None
    usage: Usage = _NO_TOKENS
    cost_usd: Decimal = Decimal(0)
    seconds: float = 0.0
    first_byte_s: float | None = None
    request_id: str | None = None
    adaptations: tuple[str, ...] = ()
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The attempt as a JSON object."""
        shown = {name: getattr(self, name) for name in _ATTEMPT_KEYS}
        usage = {name: getattr(self.usage, name) for name in Usage.__slots__}
        return shown | {"usage": usage, "cost_usd": float(self.cost_usd), "adaptations": list(self.adaptations)}


@dataclass(frozen=True, slots=True)
class Routing:
    """How a request was served: `.routing` of a reply or, so far, of a stream.

    model, tier: asked of the attempt that serves, None when none does; served: the model that its response names.
    adaptations: made for that model. cost_usd: classifier and all attempts, US dollars; baseline_usd: the same answer
    at the top tier's prices, None before it is known. seconds: since the request came in; first_byte_s: until the first
    content, streams only. action: what the request came to. also: labels of further pieces of work in it. steps: labels
    of a plan, as far as it was carried out. rejected: label whose specialist gave the request back.
    """

    decision: Decision
    attempts: tuple[Attempt, ...]
    mode: Mode
    model: str | None = None
    tier: str | None = None
    served: str | None = None
    adaptations: tuple[str, ...] = ()
    cost_usd: Decimal = Decimal(0)
    baseline_usd: Decimal | None = None
    seconds: float = 0.0
    first_byte_s: float | None = None
    warnings: tuple[str, ...] = ()
    action: Action = "answer"
    also: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    rejected: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The routing as a JSON object."""
        shown = {name: getattr(self, name) for name in _ROUTING_KEYS}
        return shown | {
            "decision": self.decision.to_json(),
            "attempts": [attempt.to_json() for attempt in self.attempts],
            **{name: list(getattr(self, name)) for name in ("adaptations", "warnings", "also", "steps")},
            "cost_usd": float(self.cost_usd),
            "baseline_usd": None if self.baseline_usd is None else float(self.baseline_usd),
        }


@dataclass(frozen=True, slots=True)
class Account:
    """One request that is over, for ledger and budgets.

    at: UTC seconds since 1970. ok: a whole answer was had. error: the name of the error's class. usage: of the attempt
    that served. routing: None when the request failed before its Decision.
    """

    id: str
    at: float
    ok: bool
    error: str | None
    label: str | None
    tags: Mapping[str, str]
    routing: Routing | None
    usage: Usage = _NO_TOKENS


_ATTEMPT_KEYS = tuple(f.name for f in fields(Attempt))
_ROUTING_KEYS = tuple(f.name for f in fields(Routing))
