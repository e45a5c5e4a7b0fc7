"""The live bound: audits checked against the certificate; a label whose decisions break it has its gate closed.

Each audit of a local decision, by the certificate's own labeller, is evidence for or against the contract: over all
labels, and for each label alone. A label's gate closes for the model folder that was caught: a new certificate is
another folder, whose gates are open. Audits of another labeller or prompt say nothing about the certificate.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from prerouter import certify, gatestate
from prerouter.edetector import LEVEL, Evidence, alarm_at
from prerouter.logrecords import iso

if TYPE_CHECKING:
    from prerouter.local import LocalClassifier
    from prerouter.logrecords import RowLabel, State
    from prerouter.logschema import LogRow
    from prerouter.routelog import RouteLog

Kind = Literal["under_routing", "disagreement"]

DAY = 86_400
# The part of the level that watches all decisions together, which is what the certificate is about; the labels share
# the rest. With all of it a jump over all labels is found no sooner, one in a single label in 577 audits, not in 346
# (medians; training/benchmarks/monitor.py, 1,000 audits a month).
OVERALL = 0.7
FEWEST = 500  # audits in a horizon, at least, that the alarm is set for: a first quiet day says little about a month
SUSPECT = 1 / LEVEL  # evidence, without regard to a horizon, that makes a label go along when the whole breaks
BATCH = 1000  # audits looked at in one go


@dataclass(frozen=True, slots=True)
class Scope:
    """What a detector watches: errors of `kind` among the decisions for `label`; None: among all."""

    label: str | None
    kind: Kind

    def __str__(self) -> str:
        return f"{self.label or 'all'}.{self.kind}"


@dataclass(frozen=True, slots=True)
class Closing:
    """A gate that was closed. kind: the errors that were too many; overall: among all decisions, not only this label's.

    evidence: the detector's value, and where its alarm begins. audits: of this label's decisions in the horizon. at:
    UTC, ISO 8601.
    """

    label: str
    kind: Kind
    overall: bool
    limit: float
    evidence: float
    alarm_at: float
    audits: int
    at: str

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


class LiveBound:
    """The detectors of one model folder. cursor: number of the last audit label that was looked at.

    limits: per scope, see `limits_of`. closed: labels whose gates are closed. horizon_days: false alarms have a chance
    of at most LEVEL in so many days of traffic like the last ones. state: what `to_json` gave.
    """

    def __init__(
        self,
        limits: Mapping[Scope, float],
        *,
        horizon_days: int = 30,
        closed: Iterable[str] = (),
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.closed, self._horizon_days = set(closed), horizon_days
        self.evidence = {scope: Evidence(limit) for scope, limit in limits.items()}
        self._part = _parts(limits)
        self.cursor = 0
        self._days: dict[int, dict[str, int]] = {}  # audits of each label by day since 1970
        self._n = Counter[str | None]()  # their sums over the horizon, None: of all labels
        self._pace = 1.0  # how often the days so far fit into a horizon
        if state:
            self._restore(state)

    def add(self, label: str, errors: Collection[Kind], at: float) -> tuple[Closing, ...]:
        """An audit of a local decision for `label`: what is wrong with it, and when, in UTC seconds since 1970."""
        if label in self.closed:
            return ()  # decided before its gate was closed everywhere
        self._count(label, int(at // DAY))
        watching = [scope for scope in self.evidence if scope.label in (None, label)]
        for scope in watching:
            self.evidence[scope] = self.evidence[scope].after(scope.kind in errors)
        alarms = [scope for scope in watching if self.evidence[scope].value >= self.alarm_at(scope)]
        closings = [self._closing(which, scope, at) for scope in alarms for which in self._guilty(scope)]
        found = {closing.label: closing for closing in reversed(closings)}
        self.closed |= found.keys()
        if any(scope.label is None for scope in alarms):
            # What is left is another set of decisions: evidence about the closed ones must not count against it.
            self._forget(scope for scope in self.evidence if scope.label is None)
        return tuple(found.values())

    def alarm_at(self, scope: Scope) -> float:
        """Where the alarm of `scope` begins: by the audits that a horizon of such traffic brings."""
        of_label = (self._n[scope.label] + 1) / (self._n[None] + 1)
        return alarm_at(max(FEWEST, self._n[None] * self._pace) * of_label, self._part[scope])

    def shares_of_alarm(self) -> dict[str, float]:
        """Evidence of each open scope as a share of its alarm: 1 raises it."""
        open_ = {scope: e for scope, e in self.evidence.items() if scope.label not in self.closed}
        return {str(scope): e.value / self.alarm_at(scope) for scope, e in open_.items()}

    def to_json(self) -> dict[str, Any]:
        """What a later process goes on from."""
        evidence = [[scope.label, scope.kind, list(e.parts)] for scope, e in self.evidence.items()]
        return {"cursor": self.cursor, "evidence": evidence, "days": {str(d): n for d, n in self._days.items()}}

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.cursor = state["cursor"]
        self._days = {int(day): dict(counts) for day, counts in state["days"].items()}
        for counts in self._days.values():
            self._n.update(counts)
        self._n[None] = sum(self._n.values())
        if self._days:
            self._drop_old_days()
        for label, kind, parts in state["evidence"]:
            scope = Scope(label, kind)
            if scope in self.evidence and len(parts) == len(self.evidence[scope].parts):
                self.evidence[scope] = Evidence(self.evidence[scope].limit, tuple(parts))

    def _count(self, label: str, day: int) -> None:
        if day not in self._days:
            self._days[day] = {}
            self._drop_old_days()
        counts = self._days.get(day)
        if counts is not None:  # None: an audit from before the horizon, from a clock that is off
            counts[label] = counts.get(label, 0) + 1
            self._n.update((label, None))

    def _drop_old_days(self) -> None:
        newest = max(self._days)
        for old in [day for day in self._days if day <= newest - self._horizon_days]:
            gone = self._days.pop(old)
            self._n.subtract(gone)
            self._n[None] -= sum(gone.values())
        self._pace = self._horizon_days / (newest - min(self._days) + 1)

    def _guilty(self, alarm: Scope) -> list[str]:
        """The open labels that an alarm closes: its own; where all broke together, the worst and the other suspects."""
        if alarm.label is not None:
            return [alarm.label]
        own = {s.label: e.value for s, e in self.evidence.items() if s.kind == alarm.kind and s.label is not None}
        open_ = {label: value for label, value in own.items() if label not in self.closed}
        worst = max(open_.values())
        return [label for label, value in open_.items() if value >= min(SUSPECT, worst)]

    def _closing(self, label: str, alarm: Scope, at: float) -> Closing:
        found = self.evidence[alarm]
        return Closing(
            label=label,
            kind=alarm.kind,
            overall=alarm.label is None,
            limit=found.limit,
            evidence=found.value,
            alarm_at=self.alarm_at(alarm),
            audits=self._n[label],
            at=iso(at),
        )

    def _forget(self, scopes: Iterable[Scope]) -> None:
        for scope in list(scopes):
            self.evidence[scope] = Evidence(self.evidence[scope].limit)


def limits_of(local: LocalClassifier) -> dict[Scope, float]:
    """The largest share of errors that each scope may have, by the certificate of `local`.

    Over all labels it is the contract's. The certificate promises nothing about a single label, and some are harder
    than others: a label may have the contract's share or, if that is more, what its own certify rows leave possible at
    99 % confidence, where the folder records them (`certified_by_label`).
    """
    made, recorded = local.certificate, local.model.training.get("certified_by_label", {})
    contract: dict[Kind, float] = {"disagreement": made.max_disagreement}
    contract |= {"under_routing": made.max_under} if made.max_under is not None else {}
    limits = {Scope(None, kind): limit for kind, limit in contract.items()}
    for label in local.taxonomy_names:
        for kind, limit in contract.items():
            if kind == "disagreement" or label != local.taxonomy_names[-1]:  # nothing is above the highest label
                limits[Scope(label, kind)] = max(limit, _shown(recorded.get(label), kind))
    return limits


def errors_of(local: LocalClassifier, label: str, truth: str) -> tuple[Kind, ...]:
    """What is wrong with deciding `label` where the labeller says `truth`."""
    if label == truth:
        return ()
    names = local.taxonomy_names
    under = local.certificate.max_under is not None and truth in names and names.index(label) < names.index(truth)
    return ("disagreement", "under_routing") if under else ("disagreement",)


def load(log: RouteLog, local: LocalClassifier, *, horizon_days: int = 30) -> LiveBound:
    """The detectors of `local` as the log keeps them. Raises DataError or UpstreamError when it cannot be read."""
    return _load(log.state(_key(local)), log, local, horizon_days)


def advance(log: RouteLog, local: LocalClassifier, *, horizon_days: int = 30, most: int = BATCH) -> int:
    """Look at up to `most` audits that no process has looked at yet: close gates, keep the evidence in the log.

    Gives their number. Any number of processes may do this at the same time: who comes second finds the state
    changed, and leaves it. Raises DataError or UpstreamError when the log cannot be read or written.
    """
    state = log.state(_key(local))
    audits = list(islice(log.labelled(origin="audit", after=state.value["cursor"] if state else 0), most))
    if not audits:
        return 0
    bound = _load(state, log, local, horizon_days)
    for label, row in audits:
        bound.cursor = label.number
        if _counts(label, row, local):
            errors = errors_of(local, row.decision.label, label.label or "")
            for closing in bound.add(row.decision.label, errors, label.at):
                _close(log, local, closing)
    log.set_state(_key(local), bound.to_json(), if_version=state.version if state else 0)
    return len(audits)


def _close(log: RouteLog, local: LocalClassifier, closing: Closing) -> None:
    """Close a gate. Before the evidence is kept: who dies in between leaves a closed gate, not an unseen breach."""
    if log.set_state(gatestate.key(local.model_folder_id, closing.label), closing.to_json(), if_version=0):
        what = "the gate of %r is closed: live audits of model folder %s show more %s than its certificate allows"
        logging.getLogger("prerouter").warning(what, closing.label, local.model_folder_id, closing.kind)


def _key(local: LocalClassifier) -> str:
    return f"monitor:{local.model_folder_id}"


def _load(state: State | None, log: RouteLog, local: LocalClassifier, horizon_days: int) -> LiveBound:
    closed = gatestate.closed(log, local.model_folder_id)
    kept = state.value if state else None
    return LiveBound(limits_of(local), horizon_days=horizon_days, closed=closed, state=kept)


def _counts(label: RowLabel, row: LogRow, local: LocalClassifier) -> bool:
    """Whether an audit says something about the certificate of `local`."""
    made, decision = local.certificate, row.decision
    ours = decision.model_folder_id == local.model_folder_id and decision.decided_by == "local"
    known = label.label is not None and decision.label in local.taxonomy_names
    return (
        ours
        and known
        and row.decision.audit
        and (label.labelled_by, label.prompt_id) == (made.labelled_by, made.prompt_id)
    )


def _parts(limits: Mapping[Scope, float]) -> dict[Scope, float]:
    """Each scope's part of the level; they sum to 1."""
    whole = [scope for scope in limits if scope.label is None]
    n_labels = len(limits) - len(whole)
    return {s: OVERALL / len(whole) if s.label is None else (1 - OVERALL) / n_labels for s in limits}


def _shown(recorded: Mapping[str, int] | None, kind: Kind) -> float:
    """The share of errors of a label that its certify rows leave possible; 0.0 where there is no record."""
    if not recorded:
        return 0.0
    errors = recorded["n_under" if kind == "under_routing" else "n_disagreement"]
    return min(0.99, certify.upper_bound(errors, recorded["n_accepted"], 0.99))
