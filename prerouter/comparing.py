"""A second model answers a request that one has answered, and a judge says which answer is better."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from prerouter.dispatchconfig import DispatchConfig
from prerouter.fitting import Fitted, Misfit, fits, measure
from prerouter.flights import Fault
from prerouter.judge import ANSWER_CHARS, Judge, Ruling, obvious, shown, visible
from prerouter.pairs import Pair
from prerouter.prompt import usage_of
from prerouter.purse import Purse
from prerouter.sdk import Sdk
from prerouter.tiers import Model, TierTable, cost

ATTEMPTS = 3  # of each call
BACKOFF_S, BACKOFF_MAX_S = 0.5, 8.0  # full jitter, as in `flights`
MAX_PAUSE_S = 60.0  # whatever the API asks for
ANSWER_TIMEOUT_S, JUDGE_TIMEOUT_S = 300.0, 120.0  # a long answer takes minutes, and nobody waits for it
# What a Messages body may hold that every model takes, or that `replayed` adapts. The rest (stream, metadata,
# service_tier, container and the like) changes how an answer arrives or what it is billed to, not what it says.
KEPT = ("messages", "system", "tools", "tool_choice", "stop_sequences", "output_config", "thinking", "max_tokens")
DEFAULT_MAX_TOKENS = 4096  # where the log does not say
MOST_CHARS_A_TOKEN = 16  # of an answer, for the bound of what judging it may cost

WHOLE = ("end_turn", "stop_sequence", "tool_use", "max_tokens")  # stop reasons of what can be judged

Replay = Callable[[Mapping[str, Any], Model], dict[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What served a request: the model, its content blocks, what they cost in US dollars."""

    model: str
    content: Sequence[Mapping[str, Any]]
    usd: float


@dataclass(frozen=True, slots=True)
class Question:
    """A pair to be made. request: a Messages body. served: the answer that there is. other: the model to answer too.

    other_is_routed: whether `other` is what the router chose (shadow mode), or what served (without routing).
    refusal_is_answer: a refusal of `other` is judged as an answer without a word, instead of making no pair.
    """

    id: str
    label: str
    request: Mapping[str, Any]
    served: Answer
    other: str
    other_is_routed: bool = True
    refusal_is_answer: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """What a question came to: a pair, or why there is none; and what was paid for it, in US dollars.

    why: "unfit": the other model takes no such request. "unseen": the judge could not see all of it (images,
    documents). "refused", "unfinished": the other model's answer is none. "no_ruling": the judge's is none. "capped":
    the money did not allow a call. "failed": Claude did not answer, see `fault`.
    seconds: of the other model's answer; None when it took more than one try.
    """

    pair: Pair | None = None
    why: str = ""
    usd: Decimal = Decimal(0)
    fault: Fault | None = None
    seconds: float | None = None


class Comparer:
    """Makes pairs, on an event loop. replay: the body for the other model, None where it takes no such request.

    A pair is begun when the money allows both its calls at their most; while others are open it waits for theirs.
    """

    def __init__(self, sdk: Sdk, judge: Judge, tiers: TierTable, purse: Purse, *, replay: Replay | None = None) -> None:
        self.judge = judge
        self._sdk, self._tiers, self._purse, self._replay = sdk, tiers, purse, replay or replayed
        self._open, self._ended = 0, asyncio.Event()

    async def compare(self, question: Question) -> Made:
        """Make the pair. Never raises for what happens upstream."""
        body = self.body(question.request, question.other)
        if isinstance(body, str):
            return Made(why=body)
        upper = self.upper(question.request, body, question.served)
        if not await self.reserve(upper):
            return Made(why="capped")
        try:
            return await self.made(question, body)
        finally:
            self.release(upper, last=True)

    def body(self, request: Mapping[str, Any], other: str) -> dict[str, Any] | str:
        """The body with which the model `other` answers; or why there can be no pair, see `Made`."""
        body = self._replay(request, self._tiers.model(other))
        return "unfit" if body is None else body if visible(request) else "unseen"

    def upper(self, request: Mapping[str, Any], body: Mapping[str, Any], served: Answer | int) -> Decimal:
        """US dollars that the answer to `body` and its ruling cost at most.

        served: the answer that there is; while it is still to come, the most tokens that it can have.
        """
        there, to_come = ("", _most_chars(served)) if isinstance(served, int) else (shown(served.content), 0)
        judged = self.judge.question(request, "", there, routed_first=True)
        to_come += _most_chars(int(body["max_tokens"]))
        answer = self._purse.upper(self._tiers.model(body["model"]), _size(body), int(body["max_tokens"]))
        return answer + self._purse.upper(self.judge.model, _size(judged) + to_come, int(judged["max_tokens"]))

    async def reserve(self, upper: Decimal) -> bool:
        """Set so much aside for a pair, once others have ended if need be; whether the money allows it."""
        while not self._purse.fits(upper):
            if not self._open:
                return False
            self._ended.clear()
            await self._ended.wait()
        self._purse.reserved += upper
        self._open += 1
        return True

    def release(self, usd: Decimal, *, last: bool = False) -> None:
        """What was set aside, or a part of it whose bill is known, is free again. last: the pair has ended."""
        self._purse.reserved -= usd
        self._open -= last
        self._ended.set()

    async def made(self, question: Question, body: dict[str, Any]) -> Made:
        """The pair, with money that is set aside. body: see `body`."""
        bill = _Bill()
        try:
            found = await self._compared(question, body, bill)
        except Fault as fault:
            return Made(why="failed", usd=bill.usd, fault=fault)
        if isinstance(found, str):
            return Made(why=found, usd=bill.usd)
        return Made(found, usd=bill.usd, seconds=bill.seconds)

    async def _compared(self, question: Question, body: dict[str, Any], bill: _Bill) -> Pair | str:
        model = self._tiers.model(question.other)
        said, usd, bill.seconds = await self._call(model, body, ANSWER_TIMEOUT_S, bill)
        content = [block for block in _blocks(said) if isinstance(block, Mapping)]
        if said.get("stop_reason") == "refusal" and question.refusal_is_answer:
            content = []
        elif said.get("stop_reason") not in WHOLE:
            return "refused" if said.get("stop_reason") == "refusal" else "unfinished"
        other = Answer(model.id, content, float(usd))
        routed, reference = (other, question.served) if question.other_is_routed else (question.served, other)
        ruling = await self._ruling(question, shown(routed.content), shown(reference.content), bill)
        return _pair(question, routed, reference, ruling, self.judge) if ruling else "no_ruling"

    async def _ruling(self, question: Question, routed: str, reference: str, bill: _Bill) -> Ruling | None:
        clear = obvious(routed, reference)
        if clear:
            return clear
        first = self.judge.routed_first(question.id)
        body = self.judge.question(question.request, routed, reference, routed_first=first)
        said, _, _ = await self._call(self.judge.model, body, JUDGE_TIMEOUT_S, bill)
        return self.judge.ruling(said, routed_first=first)

    async def _call(
        self, model: Model, body: Mapping[str, Any], timeout_s: float, bill: _Bill
    ) -> tuple[dict[str, Any], Decimal, float | None]:
        """The response, its price, and its seconds where the first try brought it.

        Raises Fault after the tries that help, and that the money allows.
        """
        size, attempt = _size(body), 1
        while True:
            began = time.monotonic()
            try:
                said, _ = await self._sdk.call(body, timeout_s)
                seconds = time.monotonic() - began
                break
            except Fault as fault:
                if fault.sent and not fault.status:  # it may have been answered, and billed
                    self._spend(bill, self._purse.upper(model, size, int(body["max_tokens"])))
                if not fault.retry or attempt == ATTEMPTS or not self._purse.fits(Decimal(0)):
                    raise
                backoff = random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2**attempt))
                pause = min(MAX_PAUSE_S, max(fault.retry_after_s, backoff))
            await asyncio.sleep(pause)
            attempt += 1
        used, refused = usage_of(said.get("usage")), said.get("stop_reason") == "refusal" and not said.get("content")
        self._purse.observe(size, used)
        usd = Decimal(0) if refused else cost(model, used)  # a refusal before any output is not billed
        self._spend(bill, usd)
        return said, usd, seconds if attempt == 1 else None

    def _spend(self, bill: _Bill, usd: Decimal) -> None:
        self._purse.spent += usd
        bill.usd += usd


@dataclass(slots=True)
class _Bill:
    """What one question cost so far, and how long the other model took."""

    usd: Decimal = Decimal(0)
    seconds: float | None = None


def replayed(request: Mapping[str, Any], model: Model) -> dict[str, Any] | None:
    """The body with which `model` answers the same request, in its own way of thinking where it refuses the asked one.

    None where it cannot (CLAUDE_API.md, section 3).
    """
    body = {key: request[key] for key in KEPT if request.get(key) is not None}
    limit, messages = body.get("max_tokens"), body.get("messages")
    body["max_tokens"] = min(
        limit if isinstance(limit, int) and limit > 0 else DEFAULT_MAX_TOKENS, model.max_output_tokens
    )
    if not isinstance(messages, list) or not messages or not all(isinstance(m, Mapping) for m in messages):
        return None
    if _mid_thought(messages):
        return None
    body["messages"] = [_without_thinking(message) for message in messages]
    if not all(message.get("content") for message in body["messages"]):
        return None
    size, config = measure(body), DispatchConfig()
    found = fits(body, model, size, config)
    if isinstance(found, Misfit):
        found = fits(_thinking_as_usual(body), model, size, config)
    return found.body if isinstance(found, Fitted) else None


def _thinking_as_usual(body: Mapping[str, Any]) -> dict[str, Any]:
    config = {key: value for key, value in (body.get("output_config") or {}).items() if key != "effort"}
    rest = {key: value for key, value in body.items() if key not in ("thinking", "output_config")}
    return rest | ({"output_config": config} if config else {})


def _mid_thought(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether tools were called from a thought that goes on: it must be sent back, and another model refuses it."""
    returned = any(_kind(block).endswith("tool_result") for block in _blocks(messages[-1]))
    return returned and len(messages) > 1 and any("thinking" in _kind(block) for block in _blocks(messages[-2]))


def _blocks(message: Mapping[str, Any]) -> Sequence[Any]:
    content = message.get("content")
    return content if isinstance(content, list) else ()


def _kind(block: object) -> str:
    return str(block.get("type")) if isinstance(block, Mapping) else ""


def _without_thinking(message: Mapping[str, Any]) -> dict[str, Any]:
    """Thinking blocks are tied to the model that thought: another refuses or drops them."""
    blocks = _blocks(message)
    return {**message, "content": [b for b in blocks if "thinking" not in _kind(b)]} if blocks else dict(message)


def _most_chars(tokens: int) -> int:
    """Of an answer as a judge sees it."""
    return min(tokens * MOST_CHARS_A_TOKEN, ANSWER_CHARS)


def _size(body: Mapping[str, Any]) -> int:
    """UTF-8 bytes of a body, of which no token is shorter than one."""
    return len(json.dumps(body, ensure_ascii=False, default=str).encode("utf-8", "replace"))


def _pair(question: Question, routed: Answer, reference: Answer, ruling: Ruling, judge: Judge) -> Pair:
    return Pair(
        id=question.id,
        label=question.label,
        routed=routed.model,
        reference=reference.model,
        outcome=ruling.outcome,
        routed_first=ruling.routed_first,
        confidence=ruling.confidence,
        judge=judge.model.id,
        prompt_id=judge.id,
        routed_usd=routed.usd,
        reference_usd=reference.usd,
        judge_usd=float(ruling.cost_usd),
        at=time.time(),
    )
