"""How fast to call: within the limits per minute that the API names, on the caller's clock, in seconds.

No clock, no lock and no waiting of its own. Three token buckets (requests, input and output tokens), each refilled
evenly at SHARE of its limit and no deeper than BURST_S seconds' worth, so that any 60 seconds see at most
SHARE + BURST_S / 60 of the limit leave here: a server that counts a minute from any moment, or second by second,
sees its limit kept, and what is left covers the time that requests are on their way.

What the limits do not tell is learnt: when most calls are pushed back, all slow down by a factor and come back evenly
(additive increase, multiplicative decrease; Chiu and Jain 1989). A few that are pushed back among many that are
answered say nothing about the rate: those calls wait for themselves.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

SHARE = 0.95  # of a limit that is used
BURST_S = 1.0
DEFAULT_RPM = 1000  # where neither the user nor the API says: the lowest limit of Haiku (CLAUDE_API.md, section 8)
START = 0.25  # of the rate at first, since sharp ramps are pushed back; all of it after RAMP_S seconds
RAMP_S = 10.0
FLOOR = 0.02
LOOK_BACK, MOST, SLOWER, SLOWER_EVERY_S = 20, 0.3, 0.7, 2.0  # calls, share of them, factor, seconds
FIRST_CALLS = 4  # at a time until the first answer has told the limits
LATENCY_S = 8.0  # without a given number, so many calls may be open as the rate starts in this time
MAX_OPEN = 512
# A call is given up after SLOW times what 95 % of the answers took: a call that hangs holds its place until then.
FIRST_TIMEOUT_S, MIN_TIMEOUT_S, MAX_TIMEOUT_S, SLOW = 30.0, 2.5, 120.0, 4.0

KINDS = ("requests", "input-tokens", "output-tokens")


@dataclass(slots=True)
class _Bucket:
    """Tokens that may be spent now; below zero what was spent too much. per_s: refill."""

    per_s: float
    held: float
    at: float

    def fill(self, now: float, factor: float) -> None:
        deepest = max(1.0, BURST_S * self.per_s)
        self.held = min(deepest, self.held + max(0.0, now - self.at) * self.per_s * factor)
        self.at = max(self.at, now)

    def wait_s(self, needed: float, factor: float) -> float:
        # A call may be larger than the bucket is deep: it then goes when the bucket is full, and leaves it in debt.
        missing = min(needed, max(1.0, BURST_S * self.per_s)) - self.held
        return max(0.0, missing / (self.per_s * factor)) if missing > 1e-9 else 0.0


class Pace:
    """When the next call may start. rpm, concurrency: the user's own limits, or None."""

    def __init__(self, rpm: int | None, concurrency: int | None, now: float) -> None:
        self._rpm, self._concurrency = rpm, concurrency
        self._buckets: dict[str, _Bucket] = {}
        self._limits: dict[str, int] = {}
        self._factor, self._at, self._slowed = START, now, -math.inf
        self._paused_until = -math.inf
        self._outcomes: deque[bool] = deque(maxlen=LOOK_BACK)
        self._latencies: deque[float] = deque(maxlen=200)
        self._answered = False
        self._output = 0.0  # tokens of an answer, on average
        self._limit(KINDS[0], rpm or DEFAULT_RPM, now)

    @property
    def rpm(self) -> int:
        """The requests per minute that are kept to."""
        return self._limits[KINDS[0]]

    @property
    def most_open(self) -> int:
        """Calls that may be open at a time."""
        if not self._answered:
            return min(FIRST_CALLS, self._concurrency or FIRST_CALLS)
        wanted = self._concurrency or min(MAX_OPEN, max(16, math.ceil(self.rpm / 60 * LATENCY_S)))
        return max(1, min(wanted, math.ceil(wanted * self._factor)))

    @property
    def timeout_s(self) -> float:
        """Seconds after which a call is given up."""
        if len(self._latencies) < LOOK_BACK:
            return FIRST_TIMEOUT_S
        slow = sorted(self._latencies)[int(0.95 * len(self._latencies))]
        return min(MAX_TIMEOUT_S, max(MIN_TIMEOUT_S, SLOW * slow))

    def wait_s(self, now: float, input_tokens: float) -> float:
        """Seconds (>= 0) until a call with so many tokens may start."""
        self._recover(now)
        for bucket in self._buckets.values():
            bucket.fill(now, self._factor)
        needs = self._needs(input_tokens).items()
        waits = [self._buckets[kind].wait_s(n, self._factor) for kind, n in needs if kind in self._buckets]
        return max(0.0, self._paused_until - now, *waits)

    def start(self, input_tokens: float) -> None:
        """A call starts now."""
        self._spend(self._needs(input_tokens))

    def answered(self, now: float, seconds: float, input_tokens: tuple[float, int], output_tokens: int) -> None:
        """A call was answered after `seconds`; input_tokens: as estimated at its start, and as billed."""
        self._answered = True
        self._outcomes.append(True)
        self._latencies.append(seconds)
        guessed = self._output
        self._output += (output_tokens - self._output) / min(len(self._latencies), 50)
        estimate, billed = input_tokens
        self._spend({"input-tokens": billed - estimate, "output-tokens": output_tokens - guessed})

    def gave_up(self, seconds: float) -> None:
        """A call was given up after `seconds`; `pushed_back` as well.

        It counts as an answer that took so long: when all answers come to take longer, more is waited for.
        """
        self._latencies.append(seconds)

    def pushed_back(self, now: float, retry_after_s: float = 0.0) -> None:
        """A call was refused for now (429, 5xx), or broke off."""
        self._outcomes.append(False)
        often = self._outcomes.count(False) > MOST * LOOK_BACK
        if often and now - self._slowed >= SLOWER_EVERY_S:
            self._factor, self._slowed = max(FLOOR, self._factor * SLOWER), now
            self._paused_until = max(self._paused_until, now + min(retry_after_s, 60.0))
            self._outcomes.clear()

    def read(self, now: float, headers: Mapping[str, str]) -> None:
        """Take over the limits that a response names."""
        for kind in KINDS:
            limit = headers.get(f"anthropic-ratelimit-{kind}-limit", "")
            if limit.isdecimal() and int(limit) > 0:
                least = min(int(limit), self._rpm or int(limit)) if kind == KINDS[0] else int(limit)
                self._limit(kind, least, now)

    def _needs(self, input_tokens: float) -> dict[str, float]:
        return dict(zip(KINDS, (1.0, input_tokens, self._output), strict=True))

    def _spend(self, amounts: Mapping[str, float]) -> None:
        for kind, amount in amounts.items():
            if kind in self._buckets:
                self._buckets[kind].held -= amount

    def _limit(self, kind: str, limit: int, now: float) -> None:
        if self._limits.get(kind) == limit:
            return
        known = self._buckets.get(kind)
        self._limits[kind] = limit
        # A new bucket starts empty but for one call: what left before is not known to it.
        held = known.held if known else float(kind == KINDS[0])
        self._buckets[kind] = _Bucket(SHARE * limit / 60, held, now)

    def _recover(self, now: float) -> None:
        if any(self._outcomes):  # not before the first answer, nor between a slow-down and the next answer
            self._factor = min(1.0, self._factor + max(0.0, now - self._at) * (1 - START) / RAMP_S)
        self._at = max(self._at, now)
