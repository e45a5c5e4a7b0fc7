"""A request with its Decision, before it is logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from prerouter.policy import Limits
from prerouter.records import Decision, Reason, Request, Verdict
from prerouter.routecase import Case

if TYPE_CHECKING:
    from prerouter.claude import Asked, Classifier
    from prerouter.logrecords import RowRef
    from prerouter.routelog import RouteLog
    from prerouter.settings import Mode
    from prerouter.taxonomy import Taxonomy


class Judge(Protocol):
    """What a `Judged` needs of the router that made it."""

    classifier: Classifier
    taxonomy: Taxonomy

    def _answered(self, case: Case, verdict: Verdict) -> Decision: ...

    def _default(self, case: Case, reason: Reason) -> Decision: ...

    def _append(
        self, log: RouteLog, case: Case, decision: Decision, reply: object = None, how: Mode | None = None
    ) -> RowRef: ...


@dataclass(slots=True)
class Judged:
    """What `PreRouter.judge` found without asking anybody. decision: None until the classifier is asked, or skipped."""

    _judge: Judge
    _case: Case
    decision: Decision | None
    _asked: Asked | None = None
    verdict: Verdict | None = None  # the classifier's, once it is whole

    @property
    def limits(self) -> Limits:
        """What the caller and the matching rules ask of the request."""
        return self._case.limits

    @property
    def request(self) -> Request:
        """The rendered request."""
        return self._case.request

    def ask(self, max_wait_s: float, classifier: Classifier | None = None) -> None:
        """Have the classifier (None: the router's) decide, within so many seconds.

        What it says after its label is left for `complete`, unless that decides too.
        """
        asked = self._begin(max_wait_s, classifier)
        if asked:
            self._told((self._label_is_enough and asked.label()) or asked.verdict())

    async def aask(self, max_wait_s: float, classifier: Classifier | None = None) -> None:
        """As `ask`, without blocking the event loop."""
        asked = self._begin(max_wait_s, classifier)
        if asked:
            self._told((self._label_is_enough and await asked.alabel()) or await asked.averdict())

    def complete(self) -> None:
        """Wait for what the classifier says after its label: confidence and cost."""
        if self._asked:
            self._completed(self._asked.verdict())

    async def acomplete(self) -> None:
        """As `complete`, without blocking the event loop."""
        if self._asked:
            self._completed(await self._asked.averdict())

    def skip(self, reason: Reason) -> Decision:
        """The default Decision, for this reason, without asking."""
        self.decision = self._judge._default(self._case, reason)
        return self.decision

    def log(
        self, log: RouteLog, decision: Decision, reply: object, how: Mode, tags: Mapping[str, str] | None = None
    ) -> RowRef:
        """Append the request to `log`, with its Decision, whether carried out or only made, as the mode says.

        tags: further ones.
        """
        self._case.tags = {**self._case.tags, **(tags or {})}
        return self._judge._append(log, self._case, decision, reply, how)

    @property
    def _label_is_enough(self) -> bool:
        # Quality moves a tier by the confidence too; a specialist is told what comes after the label.
        return self._case.limits.priority != "quality" and self._judge.taxonomy.handoff is None

    def _begin(self, max_wait_s: float, classifier: Classifier | None) -> Asked | None:
        self._asked = (classifier or self._judge.classifier).begin(self._case.request, max_wait_s=max_wait_s)
        return self._asked

    def _told(self, said: str | Verdict) -> None:
        if isinstance(said, Verdict):
            self._asked = None
            self.verdict = verdict = said
        else:
            verdict = Verdict(said, "classified", prompt_id=self._judge.classifier.prompt.id)
        self.decision = self._judge._answered(self._case, verdict)

    def _completed(self, verdict: Verdict) -> None:
        """The label that was acted on stands, even where the rest never came."""
        assert self.decision
        self._asked = None
        self.decision = replace(
            self.decision,
            confidence=verdict.confidence,
            fallback_label=verdict.fallback_label,
            rationale=verdict.rationale,
            params=verdict.params,
            cost_usd=round(float(verdict.cost_usd), 9),
        )
