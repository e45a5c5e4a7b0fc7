"""Request -> Decision: overrides, then local, then the classifier, then the default label. Nothing else is sent."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

from prerouter import text
from prerouter.champion import Watch, model_folder, taxonomy_in_force
from prerouter.errors import ConfigError
from prerouter.gatestate import ClosedGates
from prerouter.judged import Judged
from prerouter.lookout import Lookout
from prerouter.policy import Choice, Policy
from prerouter.records import DecidedBy, Decision, Reason, Scores, Verdict
from prerouter.routecase import Body, Case, Options, opened
from prerouter.settings import Mode, Settings, load_settings, mode
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable

if TYPE_CHECKING:
    from prerouter.audit import AuditLane
    from prerouter.claude import Classifier
    from prerouter.local import Explanation, LocalClassifier
    from prerouter.logrecords import RowRef
    from prerouter.routelog import RouteLog

_NO_VERDICT = Verdict(None, "fall_through_off")


class PreRouter:
    """Routes each request to the cheapest tier that its label allows.

    Thread-safe, and safe after fork. Made by `PreRouter.load`; the constructor takes the parts and starts nothing.
    """

    def __init__(
        self,
        local: LocalClassifier,
        taxonomy: Taxonomy,
        classifier: Classifier,
        tiers: TierTable,
        settings: Settings,
        log: RouteLog | None = None,
        audits: AuditLane | None = None,
        gates: ClosedGates | None = None,
    ) -> None:
        self.local, self.taxonomy, self.classifier, self.log = local, taxonomy, classifier, log
        self.audits, self.gates, self.lookout = audits, gates, Lookout(settings.router.look_s)
        self.settings, self.tiers, self.policy = settings, tiers, Policy(settings, taxonomy, tiers)

    @classmethod
    def load(
        cls,
        source: str | Path | None = None,
        *,
        taxonomy: Taxonomy | str | Path | None = None,
        client: Any = None,
        settings: Settings | Mapping[str, Any] | None = None,
        log: RouteLog | None = None,
    ) -> PreRouter:
        """A router from a model folder.

        source: a model folder, or models:/NAME@ALIAS or models:/NAME/VERSION of an MLflow registry; None: `model` of
            the settings, else the workspace's models/champion, else the shipped one. taxonomy: other definitions or
            tiers for the model's own labels; None: `taxonomy` of the settings, else the model folder's. client: the
            anthropic client that the classifier uses; None: made from the environment at the first fall-through.
            settings: all of them, or tables that stand above environment and file, such as
            {"classifier": {"deadline_s": 1.0}}. log: gets every decision.
        Raises ConfigError, ModelFolderError, UpstreamError when a registry could not be asked.
        """
        from prerouter.audit import AuditLane
        from prerouter.levels import classifier_of
        from prerouter.local import LocalClassifier
        from prerouter.nolocal import fitted

        settings = settings if isinstance(settings, Settings) else load_settings(flags=settings)
        mode()  # a misspelt kill switch is refused here, once, and not by every request
        watch = Watch(source, settings, taxonomy)  # before loading: a switch in between must not go unnoticed
        local = LocalClassifier.load(model_folder(source, settings))
        named = source is not None or settings.model is not None
        labels, tiers = taxonomy_in_force(taxonomy, settings, local, named=named), TierTable.load(settings.tiers)
        local = fitted(local, labels)
        classifier = classifier_of(labels, tiers, settings.classifier, client=client)
        audits = AuditLane.load(labels, tiers, settings, client=client)
        gates = ClosedGates(log, settings.monitor.closed_rpm) if log else None
        router = cls(local, labels, classifier, tiers, settings, log, audits, gates)
        router._look_out(watch)
        return router

    def decide(self, request: Body, **options: Unpack[Options]) -> Decision:
        """Where `request` (a string or a Messages API body) goes; `Options` lists the keywords.

        Raises InvalidRequest and nothing else: every other failure ends in a safe Decision that names it.
        """
        case = self._open(request, **options)
        decision = self._without_asking(case)
        if decision is None:
            decision = self._answered(case, self.classifier.classify(case.request, max_wait_s=case.max_wait_s))
        return self._logged(case, decision)

    async def adecide(self, request: Body, **options: Unpack[Options]) -> Decision:
        """As `decide`, waiting for the classifier without blocking the event loop."""
        case = self._open(request, **options)
        decision = self._without_asking(case)
        if decision is None:
            verdict = await self.classifier.aclassify(case.request, max_wait_s=case.max_wait_s)
            decision = self._answered(case, verdict)
        return self._logged(case, decision)

    def judge(self, request: Body, **options: Unpack[Options]) -> Judged:
        """As `decide`, but nothing is logged and nobody is asked: see `Judged`. Raises InvalidRequest."""
        case = self._open(request, **options)
        return Judged(self, case, self._without_asking(case))

    def decide_many(self, requests: Iterable[Body]) -> list[Decision]:
        """Local decisions for `requests`, in their order; `seconds` is each one's equal share of the batch.

        Raises InvalidRequest, naming the position, when one of them is illegal.
        """
        started = time.perf_counter()
        local = self.local  # one model for all of them
        cases = [
            self._open(body, local=local, where=f"requests[{i}]", local_only=True) for i, body in enumerate(requests)
        ]
        for case, scores in zip(cases, self._score_many(cases), strict=True):
            case.scores = scores
        share = (time.perf_counter() - started) / max(len(cases), 1)
        return [self._logged(case, self._settled(case, share)) for case in cases]

    def ask(self, request: Body) -> Verdict:
        """What the classifier says about `request`, whatever local would say: a label to learn from."""
        return self.classifier.classify(text.render(request, version=self.local.text_version))

    def explain(self, request: Body) -> Explanation:
        """Why the local stages say what they say about `request`."""
        local = self.local
        return local.explain(text.render(request, version=local.text_version))

    def feedback(
        self, request_id: str, *, label: str | None = None, score: float | None = None, outcome: str | None = None
    ) -> None:
        """Tell the log what came of a logged request; it is learnt from at the next `prerouter retrain`.

        request_id: `Decision.id`. label: the one that would have been right. score: of the answer, in [0, 1].
        outcome: a word of at most 64 characters; "rejected" says that the answer was too weak. Returns at once.
        Raises ConfigError without a log, for an unknown label, and when nothing is said.
        """
        from prerouter.feedback import given

        given(self.log, self.taxonomy, request_id, label=label, score=score, outcome=outcome)

    def warm(self) -> None:
        """Load now what is otherwise loaded by the first request that needs it: later stages, the anthropic SDK."""
        self.local.warm()
        self.classifier.warm()

    def close(self) -> None:
        """End background calls and connections. A log that was passed in stays open.

        Audits under way and waiting are given five seconds.
        """
        if self.audits:
            self.audits.close()
        self.classifier.close()

    def __enter__(self) -> PreRouter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _look_out(self, watch: Watch) -> None:
        if watch.can_change:
            self.lookout.add(lambda: self._renew(watch))
        if self.audits:
            self.lookout.add(self.audits.look)
        if self.gates:
            self.gates.begin()
            self.lookout.add(self._check_bound)
            self.lookout.add(self.gates.look)

    def _renew(self, watch: Watch) -> None:
        """Serve what `watch` found; requests under way end with the model that they began with."""
        found = watch.changed(self.local, self.taxonomy)
        if found:
            self.local = found
            logging.getLogger("prerouter").info("serving model folder %s", found.model_folder_id)

    def _check_bound(self) -> None:
        """Count the audits that came in against the certificate; a gate that breaks it is closed for every process."""
        from prerouter.livebound import advance

        if self.log:
            advance(self.log, self.local, horizon_days=self.settings.monitor.horizon_days)

    def _open(self, body: Body, local: LocalClassifier | None = None, **options: Any) -> Case:
        self.lookout.glance()
        audit_p = self.audits.toss() if self.audits else self.settings.audit.rate
        return opened(body, local or self.local, self.policy, audit_p, **options)

    def _without_asking(self, case: Case) -> Decision | None:
        """The Decision that needs no call, or None."""
        if case.limits.force_model or case.limits.force_label:
            return self._pinned(case)
        if _mode() == "off":
            return self._default(case, "fall_through_off")
        case.scores = self._score(case)
        if case.scores and case.scores.decided:
            return self._local(case, case.scores)
        reason = self._why_not_ask(case)
        if reason is None:
            return None
        known = self.classifier.cached(case.request) if reason == "fall_through_off" else None
        return self._answered(case, known) if known else self._default(case, reason)

    def _settled(self, case: Case, seconds: float) -> Decision:
        case.seconds = seconds
        if _mode() == "off":
            return self._default(case, "fall_through_off")
        if case.scores and case.scores.decided:
            return self._local(case, case.scores)
        return self._default(case, case.scores.reason if case.scores else "local_error")

    def _why_not_ask(self, case: Case) -> Reason | None:
        if case.local_only:
            return case.scores.reason if case.scores else "local_error"
        if not case.request.text:
            return "abstained_guard"  # there is nothing to ask about
        if case.limits.priority == "speed" or self.settings.classifier.fall_through == "off":
            return "fall_through_off"
        if self.policy.asking_is_pointless(case.limits):
            return "unprofitable"
        may = self.gates is None or self.gates.may_ask(case.local.model_folder_id, case.scores)
        return None if may else "gate_closed"

    def _score(self, case: Case) -> Scores | None:
        try:
            scores = case.local.score(case.request, strict=case.limits.priority == "quality")
            return self.gates.held(case.local.model_folder_id, scores) if self.gates else scores
        except Exception:
            _local_failed()
            return None

    def _score_many(self, cases: list[Case]) -> list[Scores | None]:
        strict = self.settings.router.priority == "quality"
        try:
            local = cases[0].local if cases else self.local
            found = local.score_many([case.request for case in cases], strict=strict)
            return [self.gates.held(local.model_folder_id, scores) if self.gates else scores for scores in found]
        except Exception:
            _local_failed()
            return [None] * len(cases)

    def _local(self, case: Case, scores: Scores) -> Decision:
        confidence = max(scores.probabilities)
        choice = self.policy.choose(scores.label, case.limits)
        return self._decision(case, scores.label, "local", "above_gate", choice, confidence)

    def _pinned(self, case: Case) -> Decision:
        label, choice = self.policy.pinned(case.limits)
        return self._decision(case, label, "pinned", "forced", choice, 1.0)

    def _default(self, case: Case, reason: Reason, verdict: Verdict = _NO_VERDICT) -> Decision:
        choice = self.policy.undecided(case.limits, failed=verdict is not _NO_VERDICT)
        return self._decision(case, self.taxonomy.default, "default", reason, choice, 0.0, verdict)

    def _answered(self, case: Case, verdict: Verdict) -> Decision:
        if verdict.label is None:
            return self._default(case, verdict.reason, verdict)
        by: DecidedBy = "cache" if verdict.reason == "cached" else "llm"
        choice = self.policy.choose(verdict.label, case.limits, confidence=verdict.confidence)
        return self._decision(case, verdict.label, by, verdict.reason, choice, verdict.confidence, verdict)

    def _decision(
        self,
        case: Case,
        label: str,
        by: DecidedBy,
        reason: Reason,
        choice: Choice,
        confidence: float,
        verdict: Verdict = _NO_VERDICT,
    ) -> Decision:
        scores = case.scores
        return Decision(
            id=case.id,
            label=label,
            tier=choice.tier,
            model=choice.model,
            decided_by=by,
            stage=scores.stage if scores and by == "local" else None,
            reason=reason,
            adjusted_by=choice.adjusted_by,
            confidence=confidence,
            probabilities=_named(self.taxonomy, scores),
            fallback_label=verdict.fallback_label,
            rationale=verdict.rationale,
            params=verdict.params,
            audit=case.audit,
            audit_p=case.audit_p,
            model_folder_id=case.local.model_folder_id,
            prompt_id=verdict.prompt_id,
            text_version=case.request.text_version,
            seconds=time.perf_counter() - case.started if case.seconds is None else case.seconds,
            cost_usd=round(float(verdict.cost_usd), 9),
        )

    def _logged(self, case: Case, decision: Decision) -> Decision:
        if self.log:
            self._append(self.log, case, decision)
        return decision

    def _append(
        self, log: RouteLog, case: Case, decision: Decision, reply: object = None, how: Mode | None = None
    ) -> RowRef:
        asked = decision.decided_by in ("llm", "cache")
        row = log.append(
            case.request,
            decision,
            reply,
            case.tags,
            scores=case.scores,
            fingerprint=case.local.fingerprint,
            mode=how or _mode(),
            labelled_by=self.classifier.prompt.model.id if asked else None,
        )
        if decision.audit and self.audits and not case.local_only:  # who says local_only wants no call at all
            self.audits.offer(log, row, case.request, case.local, case.scores, decision)
        return row


def _named(taxonomy: Taxonomy, scores: Scores | None) -> dict[str, float]:
    return dict(zip(taxonomy.names, scores.probabilities, strict=True)) if scores and scores.probabilities else {}


def _mode() -> Mode:
    try:
        return mode()
    except ConfigError:
        return "off"  # whoever misspells a kill switch meant to use it


def _local_failed() -> None:
    logging.getLogger("prerouter").warning("the local classifier failed; the classifier is asked", exc_info=True)
