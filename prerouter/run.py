"""One request on its way through dispatch: what is known of it, and what is kept of it once it is over."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from prerouter import attempts
from prerouter.conversations import Standing
from prerouter.dispatchconfig import DispatchConfig
from prerouter.dispatchrecords import Account, Action, Routing
from prerouter.economics import asking_pays
from prerouter.fitting import Size, measure
from prerouter.judged import Judged
from prerouter.ledger import baseline_usd
from prerouter.logrecords import RowRef
from prerouter.logschema import Reply
from prerouter.parts import Parts, Try
from prerouter.plan import Candidate
from prerouter.policy import Limits
from prerouter.records import Decision, Usage
from prerouter.rejections import note_rejection, rejection_tags
from prerouter.settings import Mode
from prerouter.specialist import Specialist
from prerouter.spoken import Spoken
from prerouter.tiers import Model, cost

_log = logging.getLogger("prerouter.dispatch")


class Run:
    """One request. Not shared between threads, but for `routing` and `finish`, which may be called from any.

    body: as the caller sent it. due: end of the whole request, on the clock of `parts`. own_fallbacks: the body has the
    API's own fallbacks, so refusals are not ours to handle. free_sampling: anthropic-version 2023-06-01.
    fixed: the model that serves whatever is decided, and gets the body as it is.
    """

    def __init__(
        self,
        parts: Parts,
        body: Mapping[str, Any],
        config: DispatchConfig,
        *,
        stream: bool,
        mode: Mode,
        timeout_s: float | None = None,
        free_sampling: bool = False,
        fixed: Model | None = None,
    ) -> None:
        self.parts, self.body, self.config, self.stream = parts, body, config, stream
        self.mode: Mode = "shadow" if config.shadow and mode == "on" else mode
        self.fixed = fixed
        self.free_sampling, self.own_fallbacks = free_sampling, bool(body.get("fallbacks"))
        self.started = parts.clock()
        seconds = config.deadline_s or min(parts.settings.dispatch.deadline_s, timeout_s or float("inf"))
        self.due = self.started + seconds
        self.size: Size = measure(body)
        self.judged: Judged | None = None
        self.standing: Standing | None = None
        self.thread: tuple[Decision, str] | None = None  # which the API keeps: its model must stay
        self.decision: Decision | None = None
        self.ceiling: str | None = None  # tier that a budget does not let it above
        self.asked_max_tokens = body.get("max_tokens")
        self.specialist: Specialist | None = None  # who answers, in a taxonomy with routes
        self.guarded = True  # whether it may still give the request back
        self.rejected: Decision | None = None  # whose specialist did
        self.avoided: frozenset[str] = frozenset()  # labels that gave this conversation back
        self.also: tuple[str, ...] = ()  # labels of further pieces of work
        self.steps: list[tuple[str, Try]] = []  # of a plan, as far as it came
        self.notes: list[str] = []  # warnings beside those about the model
        self.action: Action = "answer"
        self.spoken: Spoken | None = None  # the reply, where no model gave it
        self.tries: list[Try] = []
        self.served: Try | None = None
        self._over, self._lock = False, threading.Lock()
        self._kept: Routing | None = None  # once it is over

    @property
    def limits(self) -> Limits:
        """What the caller and the matching rules ask."""
        assert self.judged is not None
        return self.judged.limits

    @property
    def in_tool_loop(self) -> bool:
        """Whether it goes on with a user turn that is decided already."""
        return bool(self.standing and self.standing.in_tool_loop) and not self.config.per_step

    def left_s(self) -> float:
        """Seconds until it is due, 0 or more."""
        return max(0.0, self.due - self.parts.clock())

    def judge(self, *, local_only: bool = False) -> None:
        """Look at budgets, conversation and text. Raises BudgetExceeded, InvalidRequest."""
        config, router = self.config, self.parts.router
        self.ceiling = self.parts.budgets.before(config.tags).max_tier
        self.standing = self.parts.talks.look(self.body, config)
        self.thread = self.parts.threads.find(self.body)
        known = self.thread[0] if self.thread else self.standing.decision if self.in_tool_loop else None
        self.judged = router.judge(
            self.body,
            local_only=local_only or known is not None,
            force_model=config.force_model,
            min_tier=config.min_tier,
            max_tier=config.max_tier,
            priority=config.priority,
            tags=config.tags,
            conversation_id=config.conversation_id,
            hint=self.standing.hint,
        )
        if known and self.judged.decision and self.judged.decision.decided_by != "pinned":
            kept = self.judged.decision
            self.judged.decision = replace(known, id=kept.id, seconds=kept.seconds, cost_usd=0.0, audit=False)
        elif self.judged.decision is None and config.handoff:  # what people are to see, no model is shown before
            self.judged.skip("fall_through_off")
        elif self.judged.decision is None and not self._asking_pays():
            self.judged.skip("unprofitable")

    def decide(self) -> None:
        """Take the judged Decision, moved by the conversation and by budgets."""
        assert self.judged
        assert self.judged.decision
        assert self.standing
        decision = self.judged.decision
        if decision.decided_by != "pinned" and not (self.in_tool_loop or self.thread):
            highest = self._highest()
            decision = self.parts.talks.prefer(self.standing, decision, self.body, self.size, max_tier=highest)
        self.decision = self._within_budget(decision)

    def follow(self, decision: Decision) -> None:
        """Take this Decision, for a step of a plan; a budget may lower its tier."""
        self.decision = self._within_budget(decision)

    def complete(self) -> None:
        """Take over what the classifier said after its label."""
        told = self.judged.decision if self.judged else None
        if told and self.decision:
            fields = ("confidence", "fallback_label", "rationale", "params", "cost_usd")
            self.decision = replace(self.decision, **{name: getattr(told, name) for name in fields})

    def _asking_pays(self) -> bool:
        """Routes differ in more than their tier: there it always does."""
        router = self.parts.router
        assert self.judged
        return bool(router.taxonomy.handoff) or asking_pays(router, self.judged, self.body, self.size)

    def guess(self) -> str | None:
        """The tier whose answer starts while the classifier is asked; None: nothing is to start."""
        table, policy = self.parts.table, self.parts.router.policy
        if self.mode == "shadow":
            return table.tiers[-1].name
        if self.config.speculative is None or self.parts.router.taxonomy.handoff:  # whose words come first is not known
            return None
        taxonomy = self.parts.router.taxonomy
        names = taxonomy.names if self.config.speculative == "cheap" else (taxonomy.default,)
        tiers = [policy.choose(name, self.limits).tier for name in names]
        return min((tier for tier in tiers if tier), key=table.rank, default=None)

    def prompt_usd(self, candidate: Candidate) -> Decimal:
        """What the prompt alone costs there."""
        return cost(candidate.model, Usage(input_tokens=candidate.fitted.prompt_tokens))

    def placed(self, candidate: Candidate) -> None:
        """Note where it goes; in shadow mode the Decision stays what would have been done."""
        assert self.decision
        place = candidate.place
        if self.mode == "shadow" or place.model == self.decision.model:
            return
        moved = () if place.tier == self.decision.tier else ("stickiness" if self.in_tool_loop else "capability",)
        self.decision = replace(
            self.decision,
            tier=place.tier,
            model=place.model,
            adjusted_by=(
                *self.decision.adjusted_by,
                *(name for name in moved if name not in self.decision.adjusted_by),
            ),
        )

    def heard(self, one: Try) -> None:
        """Note what a response says of rate limits."""
        told = {key: value for key, value in one.reading.headers.items() if key.startswith("anthropic-ratelimit-")}
        if told:
            self.parts.rates[one.candidate.model.id] = told

    def routing(self) -> Routing | None:
        """How it is served, so far; None before its Decision."""
        if self._kept is not None or self.decision is None:
            return self._kept
        table, now = self.parts.table, self.parts.clock()
        tried = tuple(one.record(table, now) for one in self.tries)
        served = tried[self.tries.index(self.served)] if self.served else None
        over_s = self.served.reading.ended_s if self.served else None
        first = self.served.reading.content_s if self.served and self.stream else None
        return Routing(
            decision=self.decision,
            attempts=tried,
            mode=self.mode,
            model=served.model if served else None,
            tier=served.tier if served else None,
            served=served.served if served else None,
            adaptations=served.adaptations if served else (),
            cost_usd=Decimal(repr(self.decision.cost_usd)) + sum((one.cost_usd for one in tried), Decimal(0)),
            baseline_usd=self._baseline_usd(),
            seconds=(now if over_s is None else over_s) - self.started,
            first_byte_s=None if first is None else first - self.started,
            warnings=self.warnings(),
            action=self.action,
            also=self.also,
            steps=tuple(label for label, _ in self.steps),
            rejected=self.rejected.label if self.rejected else None,
        )

    def warnings(self) -> tuple[str, ...]:
        """What is odd about the answer, for people."""
        if not self.served:
            return tuple(self.notes)
        asked, said = self.served.candidate.model, (self.served.reading.message or {}).get("model")
        same = said is None or said == asked.id or self.parts.table.find(str(said)) is asked
        return (*self.notes, *(() if same else (f"asked for {asked.id}, served by {said}",)))

    def finish(self, error: BaseException | str | None = None) -> None:
        """Keep what is kept of a request that is over: once, whoever calls first. Never raises."""
        with self._lock:
            if self._over:
                return
            self._over = True
        try:
            self._keep(error if error is None or isinstance(error, str) else type(error).__name__)
        except Exception as failed:  # the answer is there: no book-keeping may take it away
            _log.warning("a request could not be accounted: %s", type(failed).__name__)

    def _keep(self, error: str | None) -> None:
        routing, served = self.routing(), self.served
        self._kept = routing
        whole = self.spoken is not None or (served is not None and attempts.is_whole(served.outcome))
        usage = self.usage()
        account = Account(
            id=self.decision.id if self.decision else os.urandom(16).hex(),
            at=self.parts.wall(),
            ok=whole,
            error=None if whole else error or (served.outcome if served else "error"),
            label=self.decision.label if self.decision else None,
            tags=self.config.tags,
            routing=routing,
            usage=usage,
        )
        self.parts.ledger.add(account)
        self.parts.budgets.spent(account)
        if self.judged and self.decision and self.parts.log:
            told = rejection_tags(self.rejected, self.decision)
            decided, reply = self.rejected or self.decision, _reply(routing, served, usage)
            row = self.judged.log(self.parts.log, decided, reply, self.mode, told)
            note_rejection(self.parts.log, row, self.rejected, self.decision)
            if self.mode == "shadow" and whole and served:
                self._compare(row, served)
        if whole and self.standing and self.decision:
            self._remember(self.standing, self.decision, usage)
            if served and self.body.get("thread"):
                self.parts.threads.add(
                    str((served.reading.message or {}).get("id")), self.decision, served.candidate.place.model
                )

    def usage(self) -> Usage:
        """Tokens of the answer; of a plan, of all its steps."""
        served = [one for _, one in self.steps] or ([self.served] if self.served else [])
        bills = [one.bill(self.parts.table).usage for one in served]
        return Usage(*(sum(getattr(bill, name) for bill in bills) for name in Usage.__slots__))

    def _remember(self, standing: Standing, decision: Decision, usage: Usage) -> None:
        talks, avoided = self.parts.talks, self.avoided
        if self.spoken and self.action == "clarify":
            talks.remember(standing, decision, "", self.spoken.message["content"], Usage(), avoided=avoided)
        elif self.served and not self.spoken:
            content, model = self.served.reading.content, self.served.candidate.place.model
            talks.remember(standing, decision, model, content, usage, specialist=self.specialist, avoided=avoided)

    def _compare(self, row: RowRef, served: Try) -> None:
        """Have the routed model answer too, perhaps and later. A stream's tool input was not kept."""
        told = {str(block.get("type")) for block in served.reading.content}
        if self.parts.lane and self.decision and served.reading.message and not (self.stream and "tool_use" in told):
            self.parts.lane.offer(row, self.body, self.decision, served.reading.message)

    def _highest(self) -> str | None:
        """The lowest of the tiers that must not be gone above."""
        upper = self.limits.upper
        tiers = [tier for tier in (upper.tier if upper else None, self.ceiling) if tier]
        return min(tiers, key=self.parts.table.rank, default=None)

    def _within_budget(self, decision: Decision) -> Decision:
        table, low = self.parts.table, self.limits.lower
        if self.ceiling is None or decision.tier is None or decision.decided_by == "pinned":
            return decision
        rank = max(table.rank(self.ceiling), table.rank(low.tier) if low else 0)
        if table.rank(decision.tier) <= rank:
            return decision
        tier = table.tiers[rank].name
        return replace(
            decision, tier=tier, model=table.first_model(tier), adjusted_by=(*decision.adjusted_by, "budget")
        )

    def _baseline_usd(self) -> Decimal | None:
        served = [one for _, one in self.steps] or ([self.served] if self.served else [])
        if not served or not all(one.reading.message for one in served):
            return None
        return sum((self._baseline_of(one) for one in served), Decimal(0))

    def _baseline_of(self, one: Try) -> Decimal:
        table, billed = self.parts.table, one.bill(self.parts.table)
        model: Model = (table.find(billed.served) if billed.served else None) or one.candidate.model
        return baseline_usd(table, model, billed.usage, geo_us=billed.geo_us, fast=billed.fast)


def _reply(routing: Routing | None, served: Try | None, usage: Usage) -> Reply | None:
    if routing is None:
        return None
    record = routing.attempts
    return Reply(
        model=routing.served,
        stop_reason=(served.reading.message or {}).get("stop_reason") if served else None,
        usage=usage,
        cost_usd=float(sum((one.cost_usd for one in record), Decimal(0))),
        baseline_usd=None if routing.baseline_usd is None else float(routing.baseline_usd),
        seconds=routing.seconds,
        first_byte_s=routing.first_byte_s,
        attempts=tuple(one.to_json() for one in record),
    )
