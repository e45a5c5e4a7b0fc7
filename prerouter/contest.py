"""One request answered twice, by the specialists and by the one prompt, within the money that is set aside for it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

from prerouter.comparing import ATTEMPTS, BACKOFF_MAX_S, BACKOFF_S, MAX_PAUSE_S, WHOLE, Answer, Comparer, Made, Question
from prerouter.dispatch import AsyncDispatch
from prerouter.dispatchrecords import DISPATCH, Attempt, Routing
from prerouter.errors import BudgetExceeded, InvalidRequest, PreRouterError, RequestTooLarge, UnsupportedRequest
from prerouter.flights import Fault
from prerouter.purse import Purse
from prerouter.records import Usage
from prerouter.roster import Roster
from prerouter.sdkfaults import fault as fault_of
from prerouter.trials import Trial

_UNTOLD = ("timeout", "cut", "cancelled")  # outcomes after which a bill may never have been told
_UNFIT = (InvalidRequest, UnsupportedRequest, RequestTooLarge)


@dataclass(frozen=True, slots=True)
class Entry:
    """A request of the file. request: a Messages body without a model. expected: label that the file gives."""

    id: str
    request: Mapping[str, Any]
    expected: str | None = None


@dataclass(slots=True)
class _Said:
    """What the specialists said. usd: all tries, of which asked is what the classifier cost."""

    routing: Routing | None = None
    model: str = ""
    content: list[Mapping[str, Any]] = field(default_factory=list)
    usd: Decimal = Decimal(0)
    asked: Decimal = Decimal(0)
    tries: int = 1


class Contest:
    """Makes trials, on an event loop. Their answers come one after the other: a specialist's, the one prompt's."""

    def __init__(self, roster: Roster, client: AsyncDispatch, comparer: Comparer, purse: Purse) -> None:
        self._roster, self._client, self._comparer, self._purse = roster, client, comparer, purse
        self._id = roster.id

    async def make(self, entry: Entry) -> Made:
        """The trial of a request. Never raises for what happens upstream.

        why, beside those of `comparing.Made`: "too_dear": a specialist's call may cost more than was set aside.
        "human": it was handed to a person, who is not asked here.
        """
        body = self._comparer.body(entry.request, self._roster.against.id)
        if isinstance(body, str):
            return Made(why=body)
        sent = self._roster.to_specialists(entry.request)
        first = self._roster.most_usd(sent, self._purse)
        held = first + self._comparer.upper(entry.request, body, self._roster.most_tokens(sent))
        if not await self._comparer.reserve(held):
            return Made(why="capped")
        try:
            said = await self._said(entry, sent)
            self._comparer.release(first)  # its bill is counted
            held -= first
            return said if isinstance(said, Made) else await self._judged(entry, said, body)
        finally:
            self._comparer.release(held, last=True)

    async def _judged(self, entry: Entry, said: _Said, body: dict[str, Any]) -> Made:
        routing = said.routing
        assert routing
        served = Answer(said.model, said.content, float(said.usd))
        made = await self._comparer.made(
            Question(
                entry.id,
                routing.decision.label,
                entry.request,
                served,
                self._roster.against.id,
                other_is_routed=False,
                refusal_is_answer=True,
            ),
            body,
        )
        if made.pair is None:
            return made
        return Made(
            Trial(
                **asdict(made.pair),
                classifier_usd=float(said.asked),
                routed_s=routing.seconds if said.tries == 1 else None,
                reference_s=made.seconds,
                decided_by=routing.decision.decided_by,
                action=routing.action,
                rejected=routing.rejected is not None,
                expected=entry.expected,
                contest=self._id,
            ),
            usd=made.usd,
        )

    async def _said(self, entry: Entry, sent: Mapping[str, Any]) -> _Said | Made:
        """The specialists' answer, after the tries that help; a refusal is an answer without a word."""
        said = _Said()
        config: dict[str, Any] = {"conversation_id": entry.id}  # two rows of the file are never one conversation
        if self._purse.cap is not None:
            config["max_usd"] = self._roster.call_usd(sent)
        while True:
            try:
                reply = await self._client.messages.create(model=DISPATCH, dispatch_config=config, **sent)
                break
            except _UNFIT:
                return Made(why="unfit")
            except BudgetExceeded:
                return Made(why="too_dear")
            except Exception as error:
                self._pay(said, getattr(error, "routing", None), sent)
                found = _fault(error)
                if not found.retry or said.tries == ATTEMPTS or not self._purse.fits(Decimal(0)):
                    return Made(why="failed", usd=said.usd, fault=found)
            backoff = random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2**said.tries))
            await asyncio.sleep(min(MAX_PAUSE_S, max(found.retry_after_s, backoff)))
            said.tries += 1
        return self._read(said, reply, sent)

    def _read(self, said: _Said, reply: Any, sent: Mapping[str, Any]) -> _Said | Made:
        said.routing = reply.routing
        self._pay(said, reply.routing, sent)
        if reply.routing.action == "human":
            return Made(why="human", usd=said.usd)
        if reply.stop_reason not in (*WHOLE, "refusal"):
            return Made(why="unfinished", usd=said.usd)
        blocks = [] if reply.stop_reason == "refusal" else reply.content
        said.model, said.content = reply.routing.model or reply.model, [block.to_dict(mode="json") for block in blocks]
        return said

    def _pay(self, said: _Said, routing: Routing | None, sent: Mapping[str, Any]) -> None:
        """Count what a try cost; an attempt whose bill never came counts as the most that it can have cost."""
        if routing is None:
            return
        asked = routing.cost_usd - sum((one.cost_usd for one in routing.attempts), Decimal(0))
        said.usd, said.asked = said.usd + routing.cost_usd, said.asked + asked
        untold = sum(map(_is_untold, routing.attempts))
        self._purse.spent += routing.cost_usd + untold * self._roster.call_usd(sent)


def _is_untold(attempt: Attempt) -> bool:
    return attempt.outcome in _UNTOLD and attempt.usage == Usage()


def _fault(error: Exception) -> Fault:
    """Why there is no answer. Raises what is the user's to mend."""
    if isinstance(error, PreRouterError):
        if error.exit_code != 3:
            raise error
        return Fault("classifier_error", error.what, retry=True)
    return fault_of(error)
