"""What the requests of one Dispatch share, and one attempt of one of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from queue import Empty, SimpleQueue
from typing import Any

from prerouter import attempts
from prerouter.budgets import Budgets
from prerouter.claude import Classifier
from prerouter.conversations import Conversations
from prerouter.dispatchrecords import Attempt, Outcome, Why
from prerouter.human import People
from prerouter.ledger import Ledger
from prerouter.plan import Candidate, DeadModels, Threads
from prerouter.reading import Reading
from prerouter.routelog import RouteLog
from prerouter.router import PreRouter
from prerouter.settings import Settings
from prerouter.shadowlane import ShadowLane
from prerouter.tiers import TierTable


@dataclass(frozen=True, slots=True)
class Parts:
    """What all requests of one Dispatch share. clock: seconds; wall: UTC seconds since 1970.

    lane: compares answers in shadow mode; with a log only.
    people: who gets what no model may. stronger: the classifier of what the router's is not sure of. calibrated: the
    classifier's stated confidence -> the share of its answers that are right.
    rates: by model, the headers of its last response that tell of rate limits.
    odd: warnings that were logged once.
    left: work that a destructor must not do itself; `SimpleQueue.put` is safe there.
    """

    router: PreRouter
    talks: Conversations
    ledger: Ledger
    budgets: Budgets
    dead: DeadModels
    people: People
    log: RouteLog | None = None
    lane: ShadowLane | None = None
    stronger: Classifier | None = None
    calibrated: Callable[[float], float] = float
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    threads: Threads = field(default_factory=Threads)
    rates: dict[str, dict[str, str]] = field(default_factory=dict)
    odd: set[str] = field(default_factory=set)
    left: SimpleQueue[Callable[[], None]] = field(default_factory=SimpleQueue)

    def clear_up(self) -> None:
        """Account for streams that the caller dropped without closing them."""
        while not self.left.empty():
            try:
                self.left.get_nowait()()
            except Empty:  # another thread was quicker
                return

    @property
    def settings(self) -> Settings:
        """Those of the router."""
        return self.router.settings

    @property
    def table(self) -> TierTable:
        """Models and tiers, as the router has them."""
        return self.router.tiers


@dataclass(slots=True, eq=False)
class Try:
    """One attempt. outcome: None while it runs; then it stays, except that an open stream comes to something else.

    ticket: of the side that sends. estimated_usd: what a cancelled call will have cost, where nothing was told.
    """

    candidate: Candidate
    body: dict[str, Any]
    why: Why
    reading: Reading
    ticket: Any = None
    outcome: Outcome = "open"
    estimated_usd: Decimal = Decimal(0)
    _bill: attempts.Bill | None = None

    def record(self, table: TierTable, now: float) -> Attempt:
        """What is told of it."""
        place, billed = self.candidate.place, self.bill(table)
        return attempts.attempt(
            self.reading,
            billed,
            model=place.model,
            tier=place.tier,
            why=self.why,
            outcome=self.outcome,
            usd=billed.usd or self.estimated_usd,
            adaptations=self.candidate.fitted.adaptations,
            now=now,
        )

    def bill(self, table: TierTable) -> attempts.Bill:
        """What was told of its cost."""
        if self._bill is not None:
            return self._bill
        billed = attempts.bill(self.reading, self.candidate.model, table, self.body)
        if self.reading.state == "over":
            self._bill = billed
        return billed
