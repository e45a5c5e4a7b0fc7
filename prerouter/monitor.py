"""Is the model in use still as good as its certificate says, and is traffic still what it was? From the log alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from prerouter import certify, gatestate, livebound, webhook
from prerouter.certify import lower_bound, upper_bound
from prerouter.champion import model_folder
from prerouter.livebound import DAY, Kind, LiveBound, Scope
from prerouter.local import LocalClassifier
from prerouter.progress import Progress
from prerouter.routelog import RouteLog
from prerouter.sections import MonitorSettings
from prerouter.settings import Settings, load_settings
from prerouter.traffic import Traffic, look

if TYPE_CHECKING:
    from prerouter.routelog import AuditCount

Status = Literal["confirmed", "unconfirmed", "broken"]
KINDS: tuple[Kind, ...] = ("disagreement", "under_routing")
LEVEL = 0.95
SHIPPED = "shipped data"  # scope of a certificate that this workspace's traffic had no part in
FEWEST = 100  # requests, or audits, that a share of them is worth a note
UNLABELLED = 0.2  # share of the audits from which on those without a label may be of another kind than the rest
SENT = "monitor:sent"


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of audited local decisions with its exact two-sided interval (Clopper & Pearson 1934) at 95 %.

    limit: what the contract, or for a label its certify rows, allow. None where there is nothing to take a share of.
    """

    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    errors: int = 0
    limit: float | None = None

    @classmethod
    def of(cls, errors: int, n: int, limit: float | None) -> Rate:
        """errors of n; of a kind that the taxonomy does not have, without a limit, there is no rate."""
        if not n or limit is None:
            return cls(limit=limit)
        side = (1 + LEVEL) / 2
        return cls(errors / n, lower_bound(errors, n, side), upper_bound(errors, n, side), errors, limit)


@dataclass(frozen=True, slots=True)
class Alarm:
    """What is wrong: disagreement or under_routing of `label`, whose gate is closed; or, without a label, inputs,
    labels, coverage, fallback_rate."""

    what: str
    label: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Watched:
    """What `prerouter monitor` found.

    state: "broken" when a gate was closed, "confirmed" when enough audits by the certificate's labeller did not close
    one, else "unconfirmed". audits: audited local decisions that count, of the last `horizon_days`; audits_of_others:
    by another labeller or prompt; unlabelled: without a label so far. by_label: each label's audits and rates.
    evidence: of each detector, as a share of its alarm. closed: {label: its `livebound.Closing`}.
    traffic: of the last `window_days`.
    """

    state: Status
    model_folder_id: str
    audits: int
    audits_of_others: int
    unlabelled: int
    disagreement: Rate
    under_routing: Rate
    by_label: Mapping[str, Mapping[str, Any]]
    evidence: Mapping[str, float]
    closed: Mapping[str, Mapping[str, Any]]
    traffic: Traffic
    alarms: tuple[Alarm, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The object of CONTRACT.md, and what it rests on."""
        plain = (
            "state",
            "model_folder_id",
            "audits",
            "audits_of_others",
            "unlabelled",
            "by_label",
            "evidence",
            "closed",
        )
        rates = {kind: asdict(getattr(self, kind)) for kind in KINDS}
        alarms = {"alarms": [asdict(alarm) for alarm in self.alarms], "notes": list(self.notes)}
        return {name: getattr(self, name) for name in plain} | rates | self.traffic.to_json() | alarms


def monitor(
    *, settings: Settings | None = None, log: RouteLog | None = None, clock: Callable[[], float] = time.time
) -> Watched:
    """Look at the log of the model in use: new audits are counted, and gates closed, before the figures are taken.

    log: None is the workspace's. clock: UTC seconds. Raises ConfigError, ModelFolderError, DataError, UpstreamError.
    """
    settings = settings or load_settings()
    local = LocalClassifier.load(model_folder(None, settings))
    with nullcontext(log) if log else RouteLog.open(settings=settings) as source:
        bound = _caught_up(source, local, settings.monitor.horizon_days)
        return _watched(source, local, bound, settings.monitor, clock())


def tell(log: RouteLog, found: Watched, settings: MonitorSettings) -> str | None:
    """Post alarms that are new since the last call to the webhook, if there is one; why that failed, or None.

    What could not be posted is new again at the next call.
    """
    state = log.state(SENT)
    sent = set(state.value) if state else set()
    current = {f"{found.model_folder_id}:{alarm.what}:{alarm.label or ''}": alarm for alarm in found.alarms}
    fresh = [alarm for name, alarm in current.items() if name not in sent]
    failed = None
    if settings.webhook and fresh:
        text = "prerouter monitor: " + "; ".join(alarm.text for alarm in fresh)
        about = {"text": text, "state": found.state, "model_folder_id": found.model_folder_id}
        content = about | {"alarms": [asdict(alarm) for alarm in fresh]}
        failed = webhook.post(settings.webhook, content, settings.webhook_timeout_s)
    if failed is None and set(current) != sent:
        log.set_state(SENT, sorted(current))
    return failed


def _caught_up(log: RouteLog, local: LocalClassifier, horizon_days: int) -> LiveBound:
    with Progress("counting audits") as progress:
        while n := livebound.advance(log, local, horizon_days=horizon_days):
            progress.advance(n)
    return livebound.load(log, local, horizon_days=horizon_days)


def _watched(log: RouteLog, local: LocalClassifier, bound: LiveBound, settings: MonitorSettings, now: float) -> Watched:
    since = now - settings.horizon_days * DAY
    audits, limits = _Audits.of(local, log.audit_counts(since)), livebound.limits_of(local)
    closed, traffic = gatestate.closed(log, local.model_folder_id), look(log, local, settings, now)
    ours = ("local", local.model_folder_id)
    tossed = sum(r.heads for r in log.rollups(since) if (r.decided_by, r.model_folder_id) == ours)
    unlabelled = max(0, tossed - audits.n() - audits.n_others)
    return Watched(
        state=_state(local, audits.n(), bool(closed)),
        model_folder_id=local.model_folder_id,
        audits=audits.n(),
        audits_of_others=audits.n_others,
        unlabelled=unlabelled,
        disagreement=audits.rate(Scope(None, "disagreement"), limits),
        under_routing=audits.rate(Scope(None, "under_routing"), limits),
        by_label={label: audits.figures(label, limits) for label in local.taxonomy_names},
        evidence=bound.shares_of_alarm(),
        closed=closed,
        traffic=traffic,
        alarms=(*_closings(closed), *_shifts(traffic, local), *_fallback(traffic, settings)),
        notes=(*_about_audits(local, audits, unlabelled), *_about_traffic(traffic, local, settings)),
    )


@dataclass(frozen=True, slots=True)
class _Audits:
    """Audited local decisions of one model folder: {(decided, truth): n} by the certificate's labeller; n_others."""

    local: LocalClassifier
    pairs: Mapping[tuple[str, str], int]
    n_others: int

    @classmethod
    def of(cls, local: LocalClassifier, counts: Iterable[AuditCount]) -> _Audits:
        made, pairs, n_others = local.certificate, Counter[tuple[str, str]](), 0
        for c in counts:
            if (c.decided_by, c.model_folder_id) != ("local", local.model_folder_id):
                continue
            if (c.labelled_by, c.prompt_id) == (made.labelled_by, made.prompt_id):
                pairs[c.label, c.truth] += c.n
            else:
                n_others += c.n
        return cls(local, pairs, n_others)

    def n(self, label: str | None = None) -> int:
        """Audits of the decisions for `label`, None: of all."""
        return sum(n for (decided, _), n in self.pairs.items() if label in (None, decided))

    def rate(self, scope: Scope, limits: Mapping[Scope, float]) -> Rate:
        """Errors in a scope."""
        own = {pair: n for pair, n in self.pairs.items() if scope.label in (None, pair[0])}
        errors = sum(n for pair, n in own.items() if scope.kind in livebound.errors_of(self.local, *pair))
        return Rate.of(errors, sum(own.values()), limits.get(scope))

    def figures(self, label: str, limits: Mapping[Scope, float]) -> dict[str, Any]:
        """One label's."""
        return {"audits": self.n(label)} | {kind: asdict(self.rate(Scope(label, kind), limits)) for kind in KINDS}


def _enough(local: LocalClassifier) -> int:
    """Audits from which on a certificate may be called confirmed: as many as show its contract if none is an error."""
    made = local.certificate
    return certify.rows_for(0, min(made.max_disagreement, made.max_under or 1.0), made.confidence)


def _state(local: LocalClassifier, n_audits: int, closed: bool) -> Status:
    if closed:
        return "broken"
    return "confirmed" if local.certificate.valid and n_audits >= _enough(local) else "unconfirmed"


def _closings(closed: Mapping[str, Mapping[str, Any]]) -> Iterator[Alarm]:
    for label, how in closed.items():
        where = "over all labels" if how["overall"] else "in its decisions"
        what = f"the gate of {label!r} is closed since {how['at']}: {how['kind'].replace('_', '-')} {where}"
        step = "its requests fall through until a model with a new certificate is promoted: prerouter retrain"
        yield Alarm(how["kind"], label, f"{what} is above {how['limit']:.1%}; {step}")


def _shifts(traffic: Traffic, local: LocalClassifier) -> Iterator[Alarm]:
    found = {"labels": (traffic.labels, "got other labels"), "coverage": (traffic.decided, "are decided otherwise")}
    for what, (shift, how) in found.items():
        if shift and shift.alarm:
            yield Alarm(what, None, f"{shift.moved:.0%} of the requests {how} than in the weeks before")
    if traffic.inputs and traffic.inputs.alarm and local.certificate.scope != SHIPPED:
        yield Alarm("inputs", None, _unlike(traffic))


def _fallback(traffic: Traffic, settings: MonitorSettings) -> Iterator[Alarm]:
    rate = traffic.fallback_rate
    if rate is not None and rate > settings.max_fallback and traffic.requests >= FEWEST:
        what = f"{rate:.1%} of the requests ended in the default label, more than {settings.max_fallback:.1%}"
        yield Alarm("fallback_rate", None, f"{what}; prerouter doctor looks at key and model")


def _about_audits(local: LocalClassifier, audits: _Audits, unlabelled: int) -> Iterator[str]:
    made, n, every = local.certificate, audits.n(), audits.n() + audits.n_others + unlabelled
    if not made.valid:
        yield "the certificate is not valid: there is no bound to check"
    elif n < _enough(local):
        yield f"{n:,} audits by the certificate's labeller, {made.labelled_by}; {_enough(local):,} would confirm it"
    if audits.n_others:
        yield f"{audits.n_others:,} audits are by another labeller or prompt: they say nothing about the certificate"
    if every >= FEWEST and unlabelled > UNLABELLED * every:
        yield f"{unlabelled:,} of {every:,} audits have no label: what is measured may not hold for them"


def _about_traffic(traffic: Traffic, local: LocalClassifier, settings: MonitorSettings) -> Iterator[str]:
    rate, enough = traffic.fallback_rate, traffic.requests >= FEWEST
    if rate is not None and rate < settings.min_fallback and enough:
        yield f"only {rate:.1%} of the requests ended in the default label: see that unclear ones are not forced"
    if traffic.inputs and traffic.inputs.alarm and local.certificate.scope == SHIPPED:
        yield f"{_unlike(traffic)}: the shipped certificate does not speak of it; prerouter retrain makes one that does"
    if not traffic.requests and traffic.others:
        yield f"{traffic.others:,} requests were routed by other model folders, none by this one"


def _unlike(traffic: Traffic) -> str:
    moved = traffic.inputs.moved if traffic.inputs else 0.0
    return f"{moved:.0%} of the requests are unlike those that the model was trained on"
