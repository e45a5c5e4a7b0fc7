"""Which models may serve a decided request, and in what order. Pure, but for the list of dead models."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prerouter.dispatchrecords import Why
from prerouter.fitting import Fitted
from prerouter.forks import new_lock
from prerouter.policy import Limits
from prerouter.records import Decision
from prerouter.tiers import Model, Tier, TierTable

Fallback = Literal["availability", "quality", "off"]


@dataclass(frozen=True, slots=True)
class Place:
    """A model in a tier; tier None: one that stands in no tier."""

    tier: str | None
    model: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that accepts the request, and the body that it accepts."""

    place: Place
    model: Model
    fitted: Fitted
    why: Why


def first_places(table: TierTable, tier: str, limits: Limits) -> list[Place]:
    """Where a request of `tier` goes: to its models, else to those of higher tiers, never above the upper bound."""
    return list(_places(_allowed(table, limits, range(table.rank(tier), len(table.tiers)))))


def next_places(table: TierTable, chosen: Place, limits: Limits, fallback: Fallback) -> list[Place]:
    """Where it goes when `chosen` fails: its tier's other models; then, for availability, the tiers below, the nearest
    first, and those above; for quality only those above. Within the bounds. off: nowhere."""
    if fallback == "off" or limits.force_model or chosen.tier is None:
        return []
    rank = table.rank(chosen.tier)
    above, below = range(rank + 1, len(table.tiers)), range(rank - 1, -1, -1)
    ranks = [rank, *(below if fallback == "availability" else ()), *above]
    own = table.tiers[rank].name
    places = _places(tier for tier in _allowed(table, limits, ranks, spared=own))
    return [place for place in places if place != chosen]


def _places(tiers: Iterable[Tier]) -> Iterator[Place]:
    return (Place(tier.name, model) for tier in tiers for model in tier.models)


def _allowed(table: TierTable, limits: Limits, ranks: Iterable[int], *, spared: str = "") -> Iterator[Tier]:
    """The tiers within both bounds; where those cross the lower one holds (see `policy.Limits`)."""
    low = table.rank(limits.lower.tier) if limits.lower else 0
    high = max(low, table.rank(limits.upper.tier)) if limits.upper else len(table.tiers)
    return (table.tiers[rank] for rank in ranks if low <= rank <= high or table.tiers[rank].name == spared)


class DeadModels:
    """Models that answered 404, left out for a while. Thread-safe. clock: seconds."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock, self._lock = seconds, clock, new_lock(self)
        self._until: dict[str, float] = {}

    def add(self, model: str) -> None:
        """Leave `model` out from now on."""
        with self._lock:
            self._until[model] = self._clock() + self._seconds

    def now(self) -> Collection[str]:
        """The models that are left out now."""
        if not self._until:
            return ()
        with self._lock:
            now = self._clock()
            self._until = {model: until for model, until in self._until.items() if until > now}
            return tuple(self._until)


class Threads:
    """Which model holds a conversation that the API keeps (`thread` in a body), by the id of its last message.

    Thread-safe. size: of the newest ones remembered.
    """

    def __init__(self, size: int = 10_000) -> None:
        self._size, self._lock = size, new_lock(self)
        self._models: dict[str, tuple[Decision, str]] = {}

    def add(self, message_id: str, decision: Decision, model: str) -> None:
        """A thread goes on from this message, which `model` wrote."""
        with self._lock:
            self._models[message_id] = (decision, model)
            if len(self._models) > self._size:
                del self._models[next(iter(self._models))]

    def find(self, body: Mapping[str, Any]) -> tuple[Decision, str] | None:
        """Decision and model of the thread that `body` continues, if it is known."""
        thread = body.get("thread")
        name = thread.get("previous_message_id") if isinstance(thread, dict) else None
        return self._models.get(name) if isinstance(name, str) else None
