"""The arithmetic of the live bound: evidence, audit by audit, that a share of errors has come to be above its limit.

A Shiryaev-Roberts e-detector (Shin, Ramdas & Rinaldo 2024, "E-detectors: a nonparametric framework for sequential
change detection") whose factors are bets against the limit (Waudby-Smith & Ramdas 2024, "Estimating means of bounded
random variables by betting"), several stakes mixed. It asks at every audit whether the share rose at some earlier,
unknown one, so a long quiet time before a jump does not delay the alarm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

LEVEL = 0.05
# (share of errors that a stake is best against, in multiples of the limit; its weight). The middle one is about twice
# the limit plus two points for the contracts in use; the others lose little there, and gain on creeps and collapses.
STAKES = ((1.5, 0.25), (2.5, 0.5), (5.0, 0.25))
_MOST = 1e300  # before a float overflows; an alarm comes long before


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence that the share of errors is above `limit`, in (0, 1). parts: each stake's, at least 0.

    While the share, given the past, is at most `limit`, the mean of `value` after T audits is at most T.
    """

    limit: float
    parts: tuple[float, ...] = (0.0,) * len(STAKES)

    @property
    def value(self) -> float:
        """The mixture of the stakes."""
        return sum([weight * part for (_, weight), part in zip(STAKES, self.parts, strict=True)])

    def after(self, error: bool) -> Evidence:
        """With one more audit: M <- (1 + M) * L, L the likelihood ratio of the stake's share against the limit.

        L is the bet 1 + s * (x - limit), x being 1 for an error and else 0, with s = (share - limit) / (limit *
        (1 - limit)): its mean is 1 at the limit and less below, whatever the order of the audits.
        """
        factors = zip(self.parts, _factors(self.limit, error), strict=True)
        return Evidence(self.limit, tuple([min((1 + part) * factor, _MOST) for part, factor in factors]))


@lru_cache(maxsize=1024)
def _factors(limit: float, error: bool) -> tuple[float, ...]:
    shares = (min(times * limit, (1 + limit) / 2) for times, _ in STAKES)
    return tuple(share / limit if error else (1 - share) / (1 - limit) for share in shares)


def alarm_at(horizon: float, part: float = 1.0) -> float:
    """The `Evidence.value` that is an alarm: within `horizon` audits a false one has a chance of at most LEVEL * part.

    Within T audits the value is at most a sum of T e-processes, one per possible moment of the change, that start at
    1 each; by Ville's inequality it reaches T / level with a chance of at most `level`. And on average at least
    `horizon / (LEVEL * part)` audits pass before a false alarm (Shin et al. 2024). part: in (0, 1], this
    detector's share of the level where several watch; their parts sum to 1.
    """
    return horizon / (LEVEL * part)
