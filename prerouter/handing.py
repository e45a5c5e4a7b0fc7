"""Between a request's Decision and its call: who gets it, a specialist, a person, or the caller back with a question.

Only in a taxonomy with routes, but for rules that hand requests to people. What local decided has its certificate and
is followed whatever its confidence; what the classifier decided is followed from its route's threshold on.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

from prerouter.effects import Ask, Effect, Hand, Ticket
from prerouter.errors import InvalidRequest
from prerouter.human import QUEUED, Case
from prerouter.records import DecidedBy, Decision, Reason
from prerouter.routes import Handoff, Human, Route
from prerouter.run import Run
from prerouter.specialist import Specialist
from prerouter.spoken import Spoken, question, said

Handing = Generator[Effect, Any, Ticket | None]
_BY_CLASSIFIER = ("llm", "cache")


def handed(run: Run) -> Handing:
    """Choose the specialist of `run`; the reply, where no model is to give one. Raises InvalidRequest, ConfigError."""
    if run.mode == "shadow" or run.fixed:
        return None
    if run.config.handoff:
        return (yield from _to_a_person(run, run.config.handoff))
    handoff = run.parts.router.taxonomy.handoff
    if handoff is None or run.thread:
        return None
    known = run.standing.route if run.standing and (run.in_tool_loop or run.standing.bound) else None
    if known:  # what stands before an unfinished turn must stay
        run.specialist, run.avoided = known.specialist, known.avoided
        _limit(run, handoff.routes[_decided(run).label])
        return None
    ticket = yield from _settled(run, handoff)
    if ticket is None:
        route = handoff.routes[_decided(run).label]
        if route.handoff:
            return (yield from _to_a_person(run, route.handoff))
        dress(run, handoff, may_escalate=True)
    return ticket


def presumed(run: Run) -> None:
    """For counting its tokens: have the specialist of what local alone would decide, which names no max_tokens."""
    handoff = run.parts.router.taxonomy.handoff
    decision = _decided(run)
    if handoff and decision.decided_by != "pinned" and (route := handoff.routes[decision.label]).is_specialist:
        run.specialist = Specialist(replace(route, max_tokens=None))


def given_back(run: Run) -> None:
    """The specialist gave the request back: choose who gets it instead. Once: the next one may not do so."""
    handoff = run.parts.router.taxonomy.handoff
    assert handoff
    decision = _decided(run)
    run.rejected = decision
    run.avoided |= {decision.label}
    if run.in_tool_loop:  # its tools and words must stay before the turn: it goes on without tools
        run.body = {**run.body, "tool_choice": {"type": "none"}}
        run.guarded = False
        return
    label = _instead(run, handoff, decision)
    if label:
        _move(run, decision, label, "rejected", "rejection", decision.decided_by)
    dress(run, handoff, may_escalate=False)


def dress(run: Run, handoff: Handoff, *, may_escalate: bool) -> None:
    """Have the decided route's specialist answer, if it has one; nobody's when the caller named the model."""
    decision = _decided(run)
    route = handoff.routes[decision.label]
    _limit(run, route)
    dressed = route.is_specialist and decision.decided_by != "pinned"
    run.specialist = Specialist(route, decision.params, may_escalate) if dressed else None


def _settled(run: Run, handoff: Handoff) -> Handing:
    """Settle the label: parameters that it needs, doubts about it, labels that gave this conversation back."""
    decision = _decided(run)
    run.avoided = run.standing.route.avoided if run.standing and run.standing.route else frozenset()
    if decision.decided_by in _BY_CLASSIFIER:
        run.also = _others(run, decision)
        ticket = yield from _if_unsure(run, handoff)
        if ticket:
            return ticket
    elif decision.decided_by == "local" and handoff.routes[decision.label].needs_params:
        yield from _with_params(run, decision)
    decision = _decided(run)
    if decision.label in run.avoided and decision.decided_by != "pinned" and (to := _instead(run, handoff, decision)):
        _move(run, decision, to, "rejected", "rejection", decision.decided_by)
    return None


def _others(run: Run, decision: Decision) -> tuple[str, ...]:
    verdict = run.judged.verdict if run.judged else None
    left_out = run.avoided | {decision.label}
    return tuple(name for name in verdict.also if name not in left_out) if verdict else ()


def _with_params(run: Run, decision: Decision) -> Generator[Effect, Any, None]:
    """Ask for the parameters of a route that local chose; the label stays, and one that differs gives none."""
    assert run.judged
    yield Ask(run.left_s())
    told = run.judged.decision
    assert told
    params = told.params if told.label == decision.label else {}
    run.judged.decision = replace(decision, params=params, cost_usd=told.cost_usd, seconds=told.seconds)
    run.decide()


def _if_unsure(run: Run, handoff: Handoff) -> Handing:
    decision = _decided(run)
    if _is_sure(run, handoff, decision):
        return None
    step = handoff.low_confidence(decision.label)
    if step == "stronger_classifier" and run.parts.stronger:
        yield from _asked_again(run, decision)
        if _is_sure(run, handoff, _decided(run)):
            return None
    clarified = run.standing.route.clarified if run.standing and run.standing.route else False
    if step == "clarify" and not clarified:  # once: a second question would be a quiz
        return _clarified(run, decision)
    run.also = ()
    default = run.parts.router.taxonomy.default
    if default != decision.label:
        _move(run, _decided(run), default, "low_confidence", "low_confidence", "default")
    return None


def _is_sure(run: Run, handoff: Handoff, decision: Decision) -> bool:
    if decision.decided_by not in _BY_CLASSIFIER:
        return False
    return run.parts.calibrated(decision.confidence) >= handoff.routes[decision.label].threshold


def _asked_again(run: Run, decision: Decision) -> Generator[Effect, Any, None]:
    """Have the stronger classifier decide. One that does not answer leaves the first Decision as it was."""
    assert run.judged
    yield Ask(run.left_s(), run.parts.stronger)
    told = run.judged.decision
    assert told
    decided = told if told.decided_by in _BY_CLASSIFIER else decision
    run.judged.decision = replace(decided, cost_usd=round(decision.cost_usd + told.cost_usd, 9))
    if decided is told:
        run.also = _others(run, decided)
    run.decide()


def _clarified(run: Run, decision: Decision) -> Spoken:
    verdict = run.judged.verdict if run.judged else None
    labels = [name for name in (decision.label, decision.fallback_label) if name]
    asked = question(run.parts.router.taxonomy, labels, verdict.question if verdict else "")
    run.action = "clarify"
    return said(asked, decision.id, run.parts.clock())


def _to_a_person(run: Run, how: Human) -> Handing:
    decision = _decided(run)
    case = Case(decision.id, run.body, decision.label, run.config.tags, run.parts.wall())
    told = yield Hand(how, case)
    run.action = "human"
    return said(told if isinstance(told, str) and told.strip() else QUEUED, decision.id, run.parts.clock())


def _instead(run: Run, handoff: Handoff, decision: Decision) -> str | None:
    """Who takes a request that the decided route does not: the classifier's second best, the route's own, local's."""
    local = sorted(decision.probabilities, key=lambda name: -decision.probabilities[name])
    route = handoff.routes[decision.label]
    named = (decision.fallback_label, route.fallback_route, *local, run.parts.router.taxonomy.default)
    return next((name for name in named if name and name != decision.label and name not in run.avoided), None)


def _move(run: Run, decision: Decision, label: str, reason: Reason, name: str, by: DecidedBy) -> None:
    """Have `label` decided instead; tier, budget and conversation are looked at anew."""
    assert run.judged
    choice = run.parts.router.policy.choose(label, run.limits)
    run.judged.decision = replace(
        decision,
        label=label,
        tier=choice.tier,
        model=choice.model,
        decided_by=by,
        reason=reason,
        adjusted_by=(*choice.adjusted_by, name),
        confidence=0.0,
        fallback_label=decision.label,
        params={},
    )
    run.decide()


def _limit(run: Run, route: Route) -> None:
    """The route's max_tokens, where the caller named none."""
    if run.asked_max_tokens is None:
        limit = route.max_tokens or run.body.get("max_tokens")
        if limit is None:
            step = f"pass max_tokens, or set it in {route.label}/route.toml"
            raise InvalidRequest("max_tokens is missing", where="max_tokens", next_step=step)
        run.body = {**run.body, "max_tokens": limit}


def _decided(run: Run) -> Decision:
    assert run.decision
    return run.decision
