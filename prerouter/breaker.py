"""When not to call: a circuit breaker and a rate bucket. Pure state machines on the caller's clock, in seconds.

No locks: the owner guards them (see `claude.Classifier`), so that a forked child never inherits a held one.
"""

from __future__ import annotations

from typing import Literal

BreakerState = Literal["closed", "open", "half_open"]

# The API's own limit is a token bucket too, refilled all the time (CLAUDE_API.md, section 8), so a burst after a quiet
# time is within it: 100 calls at the default rate. A sharp ramp may get 429s, which the retries absorb; a bucket of
# one second's worth instead refused most of a burst that a healthy API would have answered.
BURST_S = 6.0


class Breaker:
    """Opens after `failures` failures in a row; `reset_s` later lets one probe through, which closes or reopens it.

    Source: M. Nygard, Release It!, 2nd edition (2018), "Circuit Breaker".
    """

    def __init__(self, failures: int, reset_s: float) -> None:
        self._limit, self._reset_s = failures, reset_s
        self._failures = 0  # in a row
        self._opened_at: float | None = None
        self._probing = False

    def state(self, now: float) -> BreakerState:
        """closed: calls pass; open: none does; half_open: one probe may pass or is under way."""
        if self._opened_at is None:
            return "closed"
        return "half_open" if self._probing or now - self._opened_at >= self._reset_s else "open"

    def blocks(self, now: float) -> bool:
        """Whether a call may not start now. Changes nothing."""
        return self.state(now) == "open" or self._probing

    def start(self) -> bool:
        """Note that a call starts; True when it is the probe, whose outcome must be told with `probe=True`."""
        self._probing = self._opened_at is not None
        return self._probing

    def success(self, *, probe: bool = False) -> None:
        """A call was answered. While open only the probe counts: a call from before tells nothing about now."""
        if self._opened_at is None or probe:
            self._failures, self._opened_at, self._probing = 0, None, False

    def failure(self, now: float, *, probe: bool = False) -> None:
        """A call failed. While open only the probe counts, so stragglers do not prolong the pause."""
        if self._opened_at is not None and not probe:
            return
        self._failures += 1
        if probe or self._failures >= self._limit:
            self._opened_at, self._probing = now, False


class RateBucket:
    """Token bucket of `rpm` calls a minute whose burst is BURST_S seconds' worth, at least one."""

    def __init__(self, rpm: int) -> None:
        self._per_s = rpm / 60
        self._burst = max(1.0, BURST_S * self._per_s)
        self._tokens, self._at = self._burst, float("-inf")

    def reserve(self, now: float, max_wait_s: float) -> float | None:
        """Seconds (>= 0) to wait before the call, which is then paid for; None when that is more than `max_wait_s`."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._per_s)
        self._at = max(self._at, now)
        wait = max(0.0, (1 - self._tokens) / self._per_s)
        if wait > max_wait_s:
            return None
        self._tokens -= 1  # below zero: the wait of those who come next
        return wait
