"""Request -> Decision: overrides, then local, then the classifier, then the default label. Nothing else is sent."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from prerouter import text
from prerouter.errors import ConfigError, InvalidRequest
from prerouter.files import shipped
from prerouter.judged import Case, Judged
from prerouter.policy import Choice, Policy, check_options
from prerouter.records import DecidedBy, Decision, Priority, Reason, Scores, Verdict
from prerouter.settings import Settings, load_settings, mode
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable

if TYPE_CHECKING:
    from prerouter.claude import Classifier
    from prerouter.local import Explanation, LocalClassifier
    from prerouter.routelog import RouteLog

Body = str | Mapping[str, Any]
_NO_VERDICT = Verdict(None, "fall_through_off")
_COIN_SIDES = float(1 << 32)


class Options(TypedDict, total=False):
    """What `decide` and `adecide` take beside the request; all optional."""

    local_only: bool  # never call out
    force_model: str | None  # pin the model; stands above every bound
    force_label: str | None  # pin the label; bounds still hold
    min_tier: str | None
    max_tier: str | None
    priority: Priority | None  # cost: the certified gate; quality: stricter, ties go up; speed: never ask
    tags: Mapping[str, object] | None  # matched by rules, kept in the log
    conversation_id: str | None  # kept in the log
    max_wait_s: float | None  # seconds; lowers the classifier's deadline
    request_id: str | None  # becomes Decision.id
    hint: str | None  # label of the conversation's last turn, shown to the classifier


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
    ) -> None:
        self.local, self.taxonomy, self.classifier, self.log = local, taxonomy, classifier, log
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
        from prerouter.claude import Classifier
        from prerouter.local import LocalClassifier

        settings = settings if isinstance(settings, Settings) else load_settings(flags=settings)
        mode()  # a misspelt kill switch is refused here, once, and not by every request
        local = LocalClassifier.load(model_folder(source, settings))
        labels, tiers = _taxonomy(taxonomy, settings, local), TierTable.load(settings.tiers)
        return cls(local, labels, Classifier(labels, tiers, settings.classifier, client=client), tiers, settings, log)

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
        cases = [self._open(body, where=f"requests[{i}]", local_only=True) for i, body in enumerate(requests)]
        for case, scores in zip(cases, self._score_many(cases), strict=True):
            case.scores = scores
        share = (time.perf_counter() - started) / max(len(cases), 1)
        return [self._logged(case, self._settled(case, share)) for case in cases]

    def ask(self, request: Body) -> Verdict:
        """What the classifier says about `request`, whatever local would say: a label to learn from."""
        return self.classifier.classify(text.render(request, version=self.local.text_version))

    def explain(self, request: Body) -> Explanation:
        """Why the local stages say what they say about `request`."""
        return self.local.explain(text.render(request, version=self.local.text_version))

    def warm(self) -> None:
        """Load now what is otherwise loaded by the first request that needs it: later stages, the anthropic SDK."""
        self.local.warm()
        self.classifier.warm()

    def close(self) -> None:
        """End background calls and connections. A log that was passed in stays open."""
        self.classifier.close()

    def __enter__(self) -> PreRouter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _open(
        self,
        body: Body,
        *,
        where: str = "",
        local_only: bool = False,
        max_wait_s: float | None = None,
        request_id: str | None = None,
        tags: Mapping[str, object] | None = None,
        conversation_id: str | None = None,
        hint: str | None = None,
        **overrides: Any,
    ) -> Case:
        started = time.perf_counter()
        # One read of the system's generator gives id and coin: it cannot repeat itself in a forked child.
        random = os.urandom(20)
        try:
            request = text.render(body, version=self.local.text_version)
        except InvalidRequest as error:
            place = ".".join(filter(None, (where, error.where)))
            raise InvalidRequest(error.what, where=place, next_step=error.next_step) from error
        check_options(max_wait_s, request_id, tags, conversation_id, hint)
        if hint:
            request = replace(request, hint=self.taxonomy.match(hint) or "")
        limits = self.policy.limits(tags=tags, **overrides)
        audit = int.from_bytes(random[16:]) / _COIN_SIDES < self.settings.audit.rate
        all_tags = {**(tags or {}), **({"conversation_id": conversation_id} if conversation_id else {})}
        name = random[:16].hex() if request_id is None else request_id
        return Case(name, request, limits, audit, started, local_only, max_wait_s, all_tags)

    def _without_asking(self, case: Case) -> Decision | None:
        """The Decision that needs no call, or None."""
        if case.limits.force_model or case.limits.force_label:
            return self._pinned(case)
        if _switched_off():
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
        if _switched_off():
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
        return "unprofitable" if self.policy.asking_is_pointless(case.limits) else None

    def _score(self, case: Case) -> Scores | None:
        try:
            return self.local.score(case.request, strict=case.limits.priority == "quality")
        except Exception:
            _local_failed()
            return None

    def _score_many(self, cases: list[Case]) -> list[Scores | None]:
        strict = self.settings.router.priority == "quality"
        try:
            return list(self.local.score_many([case.request for case in cases], strict=strict))
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
            probabilities=dict(zip(self.taxonomy.names, scores.probabilities, strict=True)) if scores else {},
            fallback_label=verdict.fallback_label,
            rationale=verdict.rationale,
            params=verdict.params,
            audit=case.audit,
            audit_p=self.settings.audit.rate,
            model_folder_id=self.local.model_folder_id,
            prompt_id=verdict.prompt_id,
            text_version=case.request.text_version,
            seconds=time.perf_counter() - case.started if case.seconds is None else case.seconds,
            cost_usd=round(float(verdict.cost_usd), 9),
        )

    def _logged(self, case: Case, decision: Decision) -> Decision:
        if self.log:
            self._append(self.log, case, decision)
        return decision

    def _append(self, log: RouteLog, case: Case, decision: Decision, reply: object = None) -> None:
        features = case.scores.features if case.scores else None
        log.append(case.request, decision, reply, case.tags, features=features, fingerprint=self.local.fingerprint)


def model_folder(source: str | Path | None, settings: Settings) -> Path:
    """The folder that `source` means, see `PreRouter.load`; one in a registry is downloaded, or found in the cache."""
    if source is None and settings.model:
        source = settings.model if settings.model.startswith("models:/") else settings.resolve(settings.model)
    if source is None:
        champion = settings.workspace / "models" / "champion" if settings.workspace else None
        # A link whose folder is gone must not mean another model without anyone noticing.
        return champion if champion and os.path.lexists(champion) else shipped("models/default")
    if str(source).startswith("models:/"):
        from prerouter.registry import fetch

        return fetch(str(source), settings)
    return Path(source)


def _taxonomy(given: Taxonomy | str | Path | None, settings: Settings, local: LocalClassifier) -> Taxonomy:
    """The taxonomy in force: its labels must be the model's, in the model's order."""
    where = given or (settings.resolve(settings.taxonomy) if settings.taxonomy else None)
    if where is None:
        return local.taxonomy
    taxonomy = where if isinstance(where, Taxonomy) else Taxonomy.load(Path(where))
    if taxonomy.names != local.taxonomy.names or taxonomy.ordered != local.taxonomy.ordered:
        ours, theirs = (f"{list(t.names)}, {'' if t.ordered else 'not '}ordered," for t in (taxonomy, local.taxonomy))
        raise ConfigError(
            f"labels {ours} are not the model's {theirs[:-1]}",
            where=f"taxonomy {taxonomy.name!r}",
            next_step="train a model on this taxonomy, or leave the taxonomy out",
        )
    return taxonomy


def _switched_off() -> bool:
    try:
        return mode() == "off"
    except ConfigError:
        return True  # whoever misspells a kill switch meant to use it


def _local_failed() -> None:
    logging.getLogger("prerouter").warning("the local classifier failed; the classifier is asked", exc_info=True)
