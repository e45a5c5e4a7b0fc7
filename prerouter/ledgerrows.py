"""One request in the ledger, and sums over requests."""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

from prerouter.dispatchrecords import Account, Action, Attempt
from prerouter.purse import prompt_tokens

_WHOLE = ("refused", "no_text", "empty")  # replies that are returned when nothing better comes


@dataclass(slots=True)
class Line:
    """A sum over requests. Tokens are those of the answers, each in its model's own; a prompt counts cached or not.

    cached_tokens: of the prompts, read from the cache. several: requests that asked for several routes' work.
    """

    requests: int = 0
    answered: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    several: int = 0
    usd: Decimal = Decimal(0)
    baseline_usd: Decimal = Decimal(0)

    @property
    def saved_usd(self) -> Decimal:
        """Net of the classifier and of attempts that failed; negative when routing cost more than it saved."""
        return self.baseline_usd - self.usd

    def add(self, row: Row) -> None:
        """Count one request."""
        self.requests += 1
        self.answered += row.ok
        self.prompt_tokens += row.prompt_tokens
        self.cached_tokens += row.cached_tokens
        self.several += bool(row.also)
        self.output_tokens += row.output_tokens
        self.usd += row.usd
        self.baseline_usd += row.baseline_usd or 0

    def copy(self) -> Line:
        """One that stays as it is."""
        return Line(**{f.name: getattr(self, f.name) for f in fields(self)})

    def to_json(self) -> dict[str, Any]:
        """The sum as a JSON object."""
        return _plain(self) | {"saved_usd": float(self.saved_usd)}


@dataclass(frozen=True, slots=True)
class Row:
    """One request. usd: classifier and every attempt; classifier_usd, wasted_usd: the part of both that is overhead.

    at: UTC seconds since 1970. tier, model: of the attempt that served, None when none did. seconds: in all.
    baseline_usd: None where there is no answer to compare.
    """

    id: str
    at: float
    ok: bool
    label: str | None
    tier: str | None
    model: str | None
    prompt_tokens: int
    output_tokens: int
    usd: Decimal
    classifier_usd: Decimal
    wasted_usd: Decimal
    baseline_usd: Decimal | None
    seconds: float
    error: str | None
    attempts: tuple[Attempt, ...]
    cached_tokens: int = 0
    action: Action = "answer"
    also: tuple[str, ...] = ()

    @classmethod
    def of(cls, account: Account) -> Row:
        """The row of an account."""
        routing, usage = account.routing, account.usage
        attempts = routing.attempts if routing else ()
        served = _serving(attempts, routing.model) if routing and account.ok else None
        tried = sum((attempt.cost_usd for attempt in attempts), Decimal(0))
        usd = routing.cost_usd if routing else Decimal(0)
        return cls(
            id=account.id,
            at=account.at,
            ok=account.ok,
            label=account.label,
            tier=routing.tier if routing and account.ok else None,
            model=routing.model if routing and account.ok else None,
            prompt_tokens=prompt_tokens(usage),
            output_tokens=usage.output_tokens,
            usd=usd,
            classifier_usd=usd - tried,
            wasted_usd=tried - (served.cost_usd if served else 0),
            baseline_usd=routing.baseline_usd if routing else None,
            seconds=routing.seconds if routing else 0.0,
            error=account.error,
            attempts=attempts,
            cached_tokens=usage.cache_read_tokens,
            action=routing.action if routing else "answer",
            also=routing.also if routing else (),
        )

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON object."""
        return _plain(self) | {"attempts": [attempt.to_json() for attempt in self.attempts], "also": list(self.also)}


def _serving(attempts: tuple[Attempt, ...], model: str | None) -> Attempt | None:
    """The attempt whose reply was returned: the last answer, else the first whole one of the model that served."""
    answers = [attempt for attempt in attempts if attempt.outcome == "answered"]
    whole = (attempt for attempt in attempts if attempt.model == model and attempt.outcome in _WHOLE)
    return answers[-1] if answers else next(whole, None)


def _plain(record: Any) -> dict[str, Any]:
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    return {name: float(value) if isinstance(value, Decimal) else value for name, value in values.items()}
