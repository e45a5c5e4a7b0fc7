"""How often does the live bound cry wolf, and how late? python training/benchmarks/monitor.py

Audits of local decisions are drawn at known error rates and given to `livebound.LiveBound`, as `prerouter monitor` and
every service do. Stationary: MONTHS months at exactly the contract's rates, under-routing and disagreement alike, for
every label and therefore over all: the hardest traffic of which no alarm is due. At 5 % a month 10 false alarms are
allowed on average, and 16 in 97 of 100 such counts. Jump: after QUIET audits at three fifths of the contract's rates
these go to twice the contract plus two points; the alarm is to come within LATEST audits in 90 % of runs. Prints a
table and writes monitor.json beside this file; exits 1 when one of the two does not hold at the shipped contract.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prerouter.livebound import DAY, Kind, LiveBound, Scope

MONTHS, DAYS = 200, 30
QUIET, LATEST = 1000, 400
RUNS = 200
LABELS = {"simple": 0.65, "moderate": 0.35}  # shares of the local decisions
CONTRACTS = ((0.05, 0.10), (0.03, 0.06), (0.02, 0.05))  # under-routing, disagreement; the first is the shipped model's


@dataclass(frozen=True)
class Rates:
    """Shares of the local decisions that are too weak, and that are different, which those are too."""

    under: float
    disagreement: float

    def times(self, factor: float) -> Rates:
        """Both multiplied."""
        return Rates(self.under * factor, self.disagreement * factor)

    def jumped(self) -> Rates:
        """Twice as large plus two points."""
        return Rates(2 * self.under + 0.02, 2 * self.disagreement + 0.02)


def main() -> int:
    """Simulate, print, write."""
    quiet, jumps = [], []
    for contract in (Rates(*limits) for limits in CONTRACTS):
        for audits in (300, 1000, 3000):
            quiet.append(asdict(contract) | stationary(contract, audits))
            print("stationary", json.dumps(quiet[-1]), flush=True)
        for audits in (1000, 3000):
            for which in ("both", "under", "disagreement", "both, of one label"):
                jumps.append(asdict(contract) | jump(contract, audits, which))
                print("jump", json.dumps(jumps[-1]), flush=True)
    out = {"months": MONTHS, "runs": RUNS, "quiet": QUIET, "latest": LATEST, "stationary": quiet, "jumps": jumps}
    Path(__file__).with_suffix(".json").write_text(json.dumps(out, indent=1) + "\n")
    loud = any(found["alarms"] > 16 for found in quiet)
    late = any(j["caught"] < 0.9 for j in jumps if j["under"] == CONTRACTS[0][0] and j["jump"] == "both")
    return int(loud or late)


def stationary(contract: Rates, audits: int, *, months: int = MONTHS, seed: int = 0) -> dict[str, Any]:
    """False alarms of `months` months of `audits` audits each, one after the other; an alarm begins anew.

    `fresh`: of months that each begin without a history.
    """
    counts = {}
    for name in ("alarms", "fresh"):
        rng, bound, counts[name] = random.Random(seed), LiveBound(limits(contract), horizon_days=DAYS), 0
        for month in range(months):
            if name == "fresh":
                bound = LiveBound(limits(contract), horizon_days=DAYS)
            for at in times(month, audits):
                label, errors = draw(rng, contract)
                if bound.add(label, errors, at):
                    counts[name] += 1
                    bound = LiveBound(limits(contract), horizon_days=DAYS)
                    if name == "fresh":
                        break
    return {"audits_a_month": audits} | counts


def jump(contract: Rates, audits: int, which: str, *, runs: int = RUNS, seed: int = 1) -> dict[str, Any]:
    """How soon a jump is noticed, over `runs` runs, in audits of local decisions after it.

    which: what jumps: "both" kinds of errors, one of them, or both but of the second label alone.
    """
    rng, delays = random.Random(seed), list[int]()
    while len(delays) < runs:
        bound = LiveBound(limits(contract), horizon_days=DAYS)
        clock = times(0, audits, n=QUIET + 3 * LATEST)
        before = [bound.add(*draw(rng, contract.times(0.6)), next(clock)) for _ in range(QUIET)]
        if not any(before):
            delays.append(_delay(rng, bound, contract, which, clock))
    delays.sort()
    return {
        "audits_a_month": audits,
        "jump": which,
        "caught": sum(delay <= LATEST for delay in delays) / runs,
        "median": delays[runs // 2],
        "90 %": delays[int(0.9 * runs)],
    }


def _delay(rng: random.Random, bound: LiveBound, contract: Rates, which: str, clock: Iterator[float]) -> int:
    """Audits until the alarm; 3 * LATEST if it does not come sooner."""
    quiet, jumped = contract.times(0.6), contract.jumped()
    now = {"under": Rates(jumped.under, max(jumped.under, quiet.disagreement))}
    now["disagreement"] = Rates(quiet.under, jumped.disagreement)
    for n in range(1, 3 * LATEST):
        label, errors = draw(rng, now.get(which, jumped))
        if which == "both, of one label" and label != list(LABELS)[-1]:
            errors = draw(rng, quiet)[1]
        if bound.add(label, errors, next(clock)):
            return n
    return 3 * LATEST


def limits(contract: Rates) -> dict[Scope, float]:
    """What `livebound.limits_of` gives for a folder without records of its labels."""
    found: dict[Scope, float] = {}
    for label in (None, *LABELS):
        found |= {Scope(label, "under_routing"): contract.under, Scope(label, "disagreement"): contract.disagreement}
    return found


def draw(rng: random.Random, rates: Rates) -> tuple[str, tuple[Kind, ...]]:
    """One audit: the label that was decided, and what is wrong."""
    label = "simple" if rng.random() < LABELS["simple"] else "moderate"
    at = rng.random()
    if at < rates.under:
        return label, ("under_routing", "disagreement")
    return label, (("disagreement",) if at < rates.disagreement else ())


def times(month: int, audits: int, n: int | None = None) -> Iterator[float]:
    """When `n` audits of a month's traffic come (None: those of one month), evenly, in seconds."""
    return ((month * DAYS + DAYS * i / audits) * DAY for i in range(audits if n is None else n))


if __name__ == "__main__":
    sys.exit(main())
