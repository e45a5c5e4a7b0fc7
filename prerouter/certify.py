"""When local may decide: temperature, gate, certificate. The guard, which comes before the gate, is `guard`.

The gate orders requests by `risk` and lets the least risky pass. How far is decided in two steps on separate rows:
the calibrate part proposes an ordered path of gates, the certify part walks it with exact binomial tests and stops at
the first that fails (fixed-sequence testing; Angelopoulos et al. 2021, "Learn then Test", section 2.3). Whatever the
model, the chance that the walk ends at a gate whose true risk is above the contract is at most 1 - confidence, over
draws of the certify part from the traffic.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from prerouter.modelfolder import Certificate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]  # float32 or float64
    Ints = NDArray[np.int64]

Part = Literal["fit", "calibrate", "certify"]
# Half of the rows fit, a tenth chooses temperature, path and guard, the rest tests: a contract of 2 % needs at least
# 149 accepted rows, so testing is what small data sets run out of first.
SHARES: dict[Part, float] = {"fit": 0.5, "calibrate": 0.1, "certify": 0.4}
MAX_GATES = 60
# A gate with its true risk at the limit never passes; at four fifths of it, some 40 errors' worth of rows do.
ATTAINABLE = 0.8
PRIOR = 10  # rows; see `needed_rows`


@dataclass(frozen=True, slots=True)
class Contract:
    """The largest shares of local decisions, in (0, 1), that may be weaker than or differ from the labeller's label.

    max_under is None for an unordered taxonomy. `confidence` in (0, 1) is the chance that both hold.
    """

    max_under: float | None
    max_disagreement: float
    confidence: float = 0.95


@dataclass(frozen=True, slots=True)
class Provenance:
    """Whose labels on whose requests a certificate speaks about."""

    labelled_by: str
    prompt_id: str | None
    scope: str
    text_version: int
    created_at: str


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Labelled rows as the stages see them, n_stages x n_rows.

    risk: float, `inf` where the guard abstains. predicted: label indices. truth: (n_rows,) label indices.
    """

    risk: Floats
    predicted: Ints
    truth: Ints

    def take(self, rows: Ints) -> Scored:
        """The rows at these positions."""
        return Scored(self.risk[:, rows], self.predicted[:, rows], self.truth[rows])


@dataclass(frozen=True, slots=True)
class Tally:
    """Rows accepted at a gate, of `n_rows`, and how many of them are errors of each kind."""

    n_rows: int
    n_accepted: int
    n_under: int
    n_disagreement: int

    def p_value(self, contract: Contract) -> float:
        """Exact p-value of "this gate breaks the contract": small is good. Both risks must pass, so the larger."""
        p = binomial_tail(self.n_disagreement, self.n_accepted, contract.max_disagreement)
        if contract.max_under is None:
            return p
        return max(p, binomial_tail(self.n_under, self.n_accepted, contract.max_under))


def split(groups: Sequence[str], seed: int = 0) -> dict[Part, Ints]:
    """Row positions of each part; rows of one group (conversation, near-duplicates) stay together.

    The part hangs on the group's hash alone, so a row keeps it when others come or go. Certify gets one row per
    group, the one first in the order given: two rows of a group are not independent draws.
    """
    draws = [int(hashlib.sha256(f"{seed}:{g}".encode()).hexdigest()[:12], 16) / 16**12 for g in groups]
    edge, last = SHARES["fit"], SHARES["fit"] + SHARES["calibrate"]
    fit = [i for i, u in enumerate(draws) if u < edge]
    calibrate = [i for i, u in enumerate(draws) if edge <= u < last]
    first = {groups[i]: i for i in range(len(groups) - 1, -1, -1) if draws[i] >= last}
    certify = sorted(first.values())
    return {"fit": _ints(fit), "calibrate": _ints(calibrate), "certify": _ints(certify)}


def fit_temperature(logits: Floats, truth: Ints) -> float:
    """T > 0 that minimises the negative log-likelihood of softmax(logits / T); Guo et al. 2017, section 4.2.

    logits: (n_rows, n_labels). Golden-section search over log T in [log 0.05, log 20]: the likelihood is concave in
    1/T, hence unimodal in log T. 1.0 without rows.
    """
    if not len(truth):
        return 1.0
    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(0.05), math.log(20.0)
    for _ in range(60):  # shrinks the bracket by 0.618^60 = 3e-13
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        if _nll(logits, truth, math.exp(a)) < _nll(logits, truth, math.exp(b)):
            high = b
        else:
            low = a
    return math.exp((low + high) / 2)


def softmax(logits: Floats) -> Floats:
    """Probabilities along the last axis."""
    shifted: Floats = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shifted /= shifted.sum(axis=-1, keepdims=True)
    return shifted


def risk(probabilities: Floats, contract: Contract) -> Floats:
    """(n_rows,) the larger share of the contract that deciding each row would use up: lower is surer.

    max(P(higher label) / max_under, P(other label) / max_disagreement), for the most probable label of each row of
    `probabilities` (n_rows, n_labels in the taxonomy's order). Plain confidence treats both errors alike and doubles
    under-routing at the same coverage.
    """
    best = probabilities.argmax(axis=1)
    is_best = np.arange(probabilities.shape[1]) == best[:, None]
    used: Floats = np.where(is_best, 0.0, probabilities).sum(axis=1) / contract.max_disagreement
    if contract.max_under is not None:
        is_higher = np.arange(probabilities.shape[1]) > best[:, None]
        used = np.maximum(used, np.where(is_higher, probabilities, 0.0).sum(axis=1) / contract.max_under)
    return used


def decide(rows: Scored, thresholds: Sequence[float]) -> Ints:
    """(n_rows,) the first stage whose risk is within its threshold; -1 where every stage abstains."""
    passes = rows.risk <= np.asarray(thresholds)[:, None]
    return np.where(passes.any(axis=0), passes.argmax(axis=0), -1)


def tally(rows: Scored, thresholds: Sequence[float]) -> Tally:
    """Count decisions and errors of these thresholds, one per stage."""
    stage = decide(rows, thresholds)
    accepted = stage >= 0
    label = rows.predicted[stage, np.arange(len(stage))]
    wrong, under = accepted & (label != rows.truth), accepted & (label < rows.truth)
    return Tally(len(stage), int(accepted.sum()), int(under.sum()), int(wrong.sum()))


def propose_path(calibrate: Scored, contract: Contract) -> tuple[float, ...]:
    """At most MAX_GATES thresholds, strictest first, from the calibrate part; the first is where its p-value is best.

    A walk that starts too strict fails for want of accepted rows, one that starts too open for its errors. All stages
    share one threshold: their risks are calibrated probabilities in units of the same contract.
    """
    least = np.sort(np.where(np.isfinite(calibrate.risk), calibrate.risk, np.inf).min(axis=0))
    least = least[np.isfinite(least)]
    if not len(least):
        return ()
    ranks = np.unique(np.linspace(0, len(least) - 1, 4 * MAX_GATES).round().astype(int))
    gates = [float(t) for t in np.unique(least[ranks])]
    n_stages = len(calibrate.risk)
    p_values = [tally(calibrate, (t,) * n_stages).p_value(contract) for t in gates]
    path = gates[int(np.argmin(p_values)) :]
    steps = np.unique(np.linspace(0, len(path) - 1, MAX_GATES).round().astype(int))
    return tuple(path[i] for i in steps)


def walk(path: Sequence[float], certify: Scored, contract: Contract) -> int:
    """How many gates of the path pass, from its start, before the first that does not."""
    n_stages, alpha = len(certify.risk), 1 - contract.confidence
    for i, threshold in enumerate(path):
        if tally(certify, (threshold,) * n_stages).p_value(contract) > alpha:
            return i
    return len(path)


@dataclass(frozen=True, slots=True)
class Certified:
    """The outcome: thresholds of the used and of the strictest certified gate (None: closed), and the certificate."""

    threshold: float | None
    quality_threshold: float | None
    certificate: Certificate


def certify(path: tuple[float, ...], rows: Scored, contract: Contract, provenance: Provenance) -> Certified:
    """Walk `path` on the certify part and write down what was shown.

    The last gate passed is used, the first is the stricter gate of `priority="quality"`. A closed gate is reported
    with the figures of the gate that failed. The bounds of the certificate agree with the test: a one-sided
    Clopper-Pearson bound is below the limit exactly when the binomial test at the same level rejects.
    """
    n_passed, n_stages = walk(path, rows, contract), len(rows.risk)
    tried = path[max(n_passed - 1, 0)] if path else -1.0
    found, confidence = tally(rows, (tried,) * n_stages), contract.confidence
    ordered = contract.max_under is not None
    certificate = Certificate(
        valid=n_passed > 0,
        confidence=confidence,
        max_under=contract.max_under,
        max_disagreement=contract.max_disagreement,
        upper_under=upper_bound(found.n_under, found.n_accepted, confidence) if ordered else None,
        upper_disagreement=upper_bound(found.n_disagreement, found.n_accepted, confidence),
        n_certify=found.n_rows,
        n_groups=found.n_rows,
        n_accepted=found.n_accepted,
        errors_under=found.n_under if ordered else None,
        errors_disagreement=found.n_disagreement,
        labelled_by=provenance.labelled_by,
        prompt_id=provenance.prompt_id,
        scope=provenance.scope,
        text_version=provenance.text_version,
        created_at=provenance.created_at,
        needed_rows=None if n_passed else needed_rows(path, rows, contract),
    )
    if not n_passed:
        return Certified(None, None, certificate)
    return Certified(tried, path[0], certificate)


def needed_rows(path: tuple[float, ...], rows: Scored, contract: Contract) -> int:
    """About how many further labelled requests, over all parts, would open the closed gate.

    Of each gate of the path, since with more rows another one comes first: the accepted rows at which the errors that
    certify showed pass both tests, divided by the share accepted and by certify's share of all rows, less the rows
    there are. The least of these, which was picked and so flatters: no less than a tenth of the rows there are. Few
    rows show little, so PRIOR rows are added of which half are accepted, and to these as many, with half of an error,
    as hold one at the limit. Where errors are what is in the way (more than ATTAINABLE of a limit), no number of rows
    would do: the error rate is then taken to fall to ATTAINABLE, as it must before any helps, and the answer is a lower
    bound, at least as many rows again as there are: errors fall slowly with the rows to learn from.
    """
    gates = [tally(rows, (gate,) * len(rows.risk)) for gate in path] or [Tally(len(rows.truth), 0, 0, 0)]
    n = len(rows.truth)
    missing = (_rows_to_pass(gate, contract) - n for gate in gates)
    return math.ceil(max(min(more if more > 0 else n for more in missing), n / 10, 1) / SHARES["certify"])


def _rows_to_pass(gate: Tally, contract: Contract) -> float:
    """Certify rows at which `gate`, with its expected errors, passes."""
    accepted = (gate.n_accepted + PRIOR / 2) / (gate.n_rows + PRIOR)
    kinds = [(gate.n_disagreement, contract.max_disagreement)]
    kinds += [(gate.n_under, contract.max_under)] if contract.max_under is not None else []
    needed = []
    for errors, limit in kinds:
        rate = min((errors + 0.5) / (gate.n_accepted + 1 / limit), ATTAINABLE * limit)
        sizes = ((k, rows_for(k, limit, contract.confidence)) for k in count())
        needed.append(next(size for k, size in sizes if size * rate <= k + 0.5))
    return max(needed) / accepted


@lru_cache(maxsize=4096)
def rows_for(n_errors: int, limit: float, confidence: float = 0.95) -> int:
    """The fewest accepted rows at which `n_errors` errors still show a risk below `limit`.

    For 2 % at 95 %: 149 without an error, 313 with two, 523 with five, 845 with ten.
    """
    alpha, low, high = 1 - confidence, n_errors, max(2 * n_errors, 1)
    while binomial_tail(n_errors, high, limit) > alpha:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if binomial_tail(n_errors, middle, limit) <= alpha else (middle, high)
    return high


def binomial_tail(n_errors: int, n_rows: int, rate: float) -> float:
    """P(X <= n_errors) for X ~ Binomial(n_rows, rate), exact: the p-value of "the risk is at least `rate`"."""
    if n_errors >= n_rows or rate <= 0:
        return 1.0
    if rate >= 1:
        return 0.0
    log_odds, log_none = math.log(rate) - math.log1p(-rate), n_rows * math.log1p(-rate)
    log_n = math.lgamma(n_rows + 1)
    terms = (
        math.exp(log_n - math.lgamma(k + 1) - math.lgamma(n_rows - k + 1) + k * log_odds + log_none)
        for k in range(n_errors + 1)
    )
    return min(1.0, math.fsum(terms))


def upper_bound(n_errors: int, n_rows: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson upper bound of a share (Clopper & Pearson 1934): 1.0 without rows."""
    if n_errors >= n_rows:
        return 1.0
    low, high = n_errors / n_rows, 1.0
    for _ in range(60):  # halves the bracket each time: below 1e-18
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_tail(n_errors, n_rows, middle) > 1 - confidence else (low, middle)
    return high


def lower_bound(n_errors: int, n_rows: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson lower bound of a share: 0.0 without rows."""
    return 1.0 - upper_bound(n_rows - n_errors, n_rows, confidence) if n_rows else 0.0


def _nll(logits: Floats, truth: Ints, temperature: float) -> float:
    scaled = np.asarray(logits, np.float64) / temperature
    top = scaled.max(axis=1)
    log_total = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
    return float((log_total - scaled[np.arange(len(truth)), truth]).mean())


def _ints(values: Sequence[int]) -> Ints:
    return np.asarray(values, np.int64)
