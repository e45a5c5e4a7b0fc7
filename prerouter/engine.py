"""How one request is served, without IO: a generator that asks for calls, waits and the classifier, and is told.

`serve(run)` yields `Effect`s, is sent what came of each, and returns the ticket of the response to hand out. Sync and
async sides only carry the effects out (see `middleware`). What a `Run` knows at any time is its `routing`.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from dataclasses import replace
from decimal import Decimal
from typing import Any

from prerouter import attempts, steps
from prerouter.attempts import Step
from prerouter.choice import Choice
from prerouter.dispatchrecords import Why
from prerouter.effects import Ask, Await, Complete, Drop, Effect, Pause, Start, Ticket, Work
from prerouter.errors import PreRouterError, UpstreamError
from prerouter.fitting import calmer, worst_case_usd
from prerouter.handing import given_back, handed, presumed
from prerouter.parts import Try
from prerouter.plan import Candidate
from prerouter.run import Run
from prerouter.spoken import Spoken

_log = logging.getLogger("prerouter.dispatch")


def serve(run: Run) -> Work:
    """Serve `run`. The ticket returned has an answer, a stream that shows content, or an HTTP error for the caller.

    Raises InvalidRequest, UnsupportedRequest, RequestTooLarge, BudgetExceeded before any call; UpstreamError when no
    response can be handed out.
    """
    run.judge()
    begun = yield from _begin_early(run)
    asked = run.judged is not None and run.judged.decision is None
    if asked:
        yield Ask(run.left_s())
    run.decide()
    try:
        ticket: Ticket = yield from _answered(run, begun)
    except PreRouterError:
        if asked:
            yield Complete()
            run.complete()
        raise
    if asked:
        yield Complete()
        run.complete()
    return ticket


def _answered(run: Run, begun: Try | None) -> Work:
    """The answer of a model, of several in turn, or of none; a specialist may give the request back once."""
    ticket = yield from handed(run)
    if isinstance(ticket, Spoken):
        run.spoken = ticket
        return ticket
    labels = steps.planned(run)
    if labels:
        planned: Ticket = yield from _stepwise(run, labels)
        return planned
    served: Ticket = yield from _placed(run, begun)
    if run.tries and run.tries[-1].outcome == "escalated":
        given_back(run)
        served = yield from _placed(run, None, "rejection")
    return served


def _stepwise(run: Run, labels: tuple[str, ...]) -> Work:
    """A plan: its steps in turn, none streamed, and one answer at the end."""
    first, texts, spent = run.decision, list[str](), Decimal(0)
    assert first
    ticket: Ticket | None = None
    while len(texts) < len(labels):
        steps.begin(run, first, labels, texts)
        if ticket and _too_dear(run, spent, labels[len(texts)]):
            break
        ticket = yield from _placed(run, None, "step" if texts else "first", whole=True)
        first = first if texts else run.decision or first
        if ticket is None or run.served is None:  # an error of the API's, for the caller
            return ticket
        run.steps.append((labels[len(texts)], run.served))
        spent = sum((one.record(run.parts.table, run.parts.clock()).cost_usd for one in run.tries), Decimal(0))
        if not steps.is_useful(run.served):
            break
        texts.append(run.served.reading.text)
    run.decision, run.action, run.served = first, "plan", run.steps[-1][1]
    run.spoken = steps.combined(run, first)
    assert run.spoken
    return run.spoken


def _too_dear(run: Run, spent: Decimal, label: str) -> bool:
    handoff = run.parts.router.taxonomy.handoff
    most = handoff.plan_usd if handoff else None
    if most is None:
        return False
    candidate = Choice(run, _serving_tier(run)).first()
    if spent + worst_case_usd(candidate.fitted, candidate.model) <= most:
        return False
    run.notes.append(f"the plan ended before {label}: it could have come above plan_usd")
    return True


def _placed(run: Run, begun: Try | None, why: Why = "first", *, whole: bool = False) -> Work:
    choice = Choice(run, _serving_tier(run))
    candidate = replace(choice.first(), why=why)
    run.placed(candidate)
    if begun and begun.candidate.model is not candidate.model:
        yield from _cancel(run, begun)
        begun = None
    ticket: Ticket = yield from _tries(run, choice, candidate, begun, whole)
    return ticket


def would_go_to(run: Run) -> Candidate:
    """Where local alone would send `run`. Nothing is sent or kept. Raises as `serve`."""
    run.judge(local_only=True)
    run.decide()
    presumed(run)
    return Choice(run, _serving_tier(run)).first()


def _serving_tier(run: Run) -> str:
    assert run.decision
    assert run.decision.tier
    return run.parts.table.tiers[-1].name if run.mode == "shadow" else run.decision.tier


def _begin_early(run: Run) -> Generator[Effect, Any, Try | None]:
    """The call that starts while the classifier is asked: in shadow mode the one that serves, else a speculation."""
    if run.judged is None or run.judged.decision is not None:
        return None
    tier = run.guess()
    found = Choice(run, tier).find() if tier else None
    if found is None:
        return None
    why: Why = "shadow" if run.mode == "shadow" else "speculative"
    return (yield from _start(run, replace(found, why=why), found.fitted.body))


def _cancel(run: Run, one: Try) -> Generator[Effect, Any, None]:
    """End a speculation that lost, and count it: what of it is billed is not told, its prompt is the least."""
    one.outcome = attempts.outcome_of(one.reading, one.body)
    if one.outcome == "open" or one.reading.state != "over":
        yield Drop(one.ticket)
        one.reading.broke("cancelled", run.parts.clock())
        one.outcome, one.estimated_usd = "cancelled", run.prompt_usd(one.candidate)


def _start(run: Run, candidate: Candidate, body: dict[str, Any], whole: bool = False) -> Generator[Effect, Any, Try]:
    guard = run.specialist.ways(run.body) if run.specialist and run.guarded else ()
    sent = {key: value for key, value in body.items() if key != "stream"} if whole else body
    ticket = yield Start(sent, run.due, guard, whole)
    one = Try(candidate, body, candidate.why, ticket.reading, ticket)
    run.tries.append(one)
    return one


def _tries(run: Run, choice: Choice, candidate: Candidate, begun: Try | None, whole: bool) -> Work:
    body, tries, spare = candidate.fitted.body, 1, list[Try]()
    while True:
        one = begun or (yield from _start(run, candidate, body, whole))
        begun = None
        yield from _wait(run, one, choice)
        if one.outcome == "escalated":
            return one.ticket  # type: ignore[no-any-return]
        if one.outcome in ("answered", "open") or (spare and attempts.is_whole(one.outcome)):
            return _served(run, one)
        if spare:  # the second try of an answer that was whole, if not the wanted one, failed
            return _served(run, spare[0])
        if attempts.is_whole(one.outcome):
            better = _better(run, one, choice)
            if better is None:
                return _served(run, one)
            spare.append(one)
            candidate, body = better
            continue
        step = _step(run, one, choice, tries)
        if step.next == "stop":
            return _failed(run, one)
        tries = tries + 1 if step.next == "again" else 1
        candidate = replace(candidate, why="retry") if step.next == "again" else choice.next()
        body = candidate.fitted.body
        yield Pause(step.pause_s)


def _wait(run: Run, one: Try, choice: Choice) -> Generator[Effect, Any, None]:
    patient = run.parts.clock() + run.parts.settings.dispatch.attempt_s
    yield Await(one.ticket, patient if patient < run.due and choice.has_places else run.due)
    if one.reading.state == "waiting":
        yield Drop(one.ticket)
        one.reading.broke(attempts.TIMEOUT, run.parts.clock())
    one.outcome = attempts.outcome_of(one.reading, one.body)
    if one.outcome == "answered" and one.reading.given_back is not None:
        one.outcome = "escalated"
    if one.outcome != "open" and one.reading.state != "over":  # an error event: nothing more comes
        yield Drop(one.ticket)
        one.reading.ended(run.parts.clock())
    run.heard(one)
    if one.outcome == "dead_model":
        run.parts.dead.add(one.candidate.model.id)


def _step(run: Run, one: Try, choice: Choice, tries: int) -> Step:
    """What follows a failed attempt, within the time that is left."""
    settings = run.parts.settings.dispatch
    left_s = run.left_s()
    step = attempts.after(one.outcome, one.reading, tries=tries, retries=settings.retries, others=choice.others)
    if step.next == "again" and step.pause_s >= left_s:
        step = Step("other" if choice.others else "stop")
    return step if left_s else Step("stop")


def _better(run: Run, one: Try, choice: Choice) -> tuple[Candidate, dict[str, Any]] | None:
    """The one more call for an answer that is whole, but refused or without any text; None: it is served as it is."""
    candidate = one.candidate
    if run.fixed or not run.left_s():
        return None
    if one.outcome == "no_text":
        body = calmer(one.body, candidate.model)
        return (_calmed(candidate, body), body) if body else None
    if one.outcome == "empty":
        return None if run.standing and run.standing.in_tool_loop else (replace(candidate, why="retry"), one.body)
    final = attempts.refusal_is_final(one.reading, run.parts.settings.dispatch.refusal_final)
    if final or run.own_fallbacks or not choice.others:
        return None
    other = choice.next()
    return replace(other, why="refusal"), other.fitted.body


def _calmed(candidate: Candidate, body: dict[str, Any]) -> Candidate:
    how = "thinking off" if body.get("output_config") == candidate.fitted.body.get("output_config") else "effort low"
    fitted = replace(candidate.fitted, adaptations=(*candidate.fitted.adaptations, how))
    return replace(candidate, why="no_text", fitted=fitted)


def _served(run: Run, one: Try) -> Ticket:
    run.served = one
    for text in run.warnings():
        if text not in run.parts.odd:
            run.parts.odd.add(text)
            _log.warning("%s", text)
    return one.ticket  # type: ignore[no-any-return]


def _failed(run: Run, last: Try) -> Ticket:
    """The ticket of the API's error, which the SDK turns into its own exception. Raises UpstreamError without one."""
    if last.reading.status >= 400:
        return last.ticket  # type: ignore[no-any-return]
    raise given_up(run, last)


def given_up(run: Run, last: Try) -> UpstreamError:
    """The error of a request without an answer."""
    names = ", ".join(f"{one.candidate.place.model} {one.outcome}" for one in run.tries)
    over = not run.left_s()
    late = over or last.outcome == "timeout"
    what = "no answer within the deadline" if over else "no answer in time" if late else "Claude gave no whole answer"
    step = "raise deadline_s" if over else "raise the client's timeout or dispatch.attempt_s" if late else "try again"
    error = UpstreamError(what, where=names, next_step=step, attempts=len(run.tries))
    error.timed_out = late  # type: ignore[attr-defined]
    return error
