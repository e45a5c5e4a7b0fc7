"""What is known of conversations: who served their last turn, what lies in whose prompt cache, who thought which block.

A turn is decided once and its model stays while its tools are answered. The next turn is decided anew, in the context
that `text.render` shows and with the last label as a hint; a cheaper model then has to pay for the prompt cache that
it does not have. Kept in memory, bounded, for this process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from prerouter import thoughts
from prerouter.cache import AnswerCache
from prerouter.dispatchconfig import DispatchConfig
from prerouter.errors import ConfigError
from prerouter.forks import new_lock
from prerouter.promptsize import Size
from prerouter.records import Decision, Usage
from prerouter.specialist import Specialist
from prerouter.tiers import Model, Tier, TierTable, turn_cost

CACHE_S, LONG_CACHE_S = 300.0, 3_600.0  # lifetimes of a prompt cache entry, renewed by every read
ANSWER_TOKENS = 400  # expected of the next answer before there was one; as settings.CostSettings assumes
BLOCKS_PER_TURN = 10  # thinking blocks remembered for every turn remembered


@dataclass(frozen=True, slots=True)
class Cached:
    """A prefix of `tokens` in one model's prompt cache until `until`, unless a read within `ttl_s` renews it."""

    tokens: int
    until: float
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Route:
    """How a conversation's last answer came about: its Decision, the model that gave it, caches by model.

    specialist: what was put before the conversation. avoided: labels whose specialists gave it back. clarified: the
    answer was a clarifying question; its model is "".
    """

    decision: Decision
    model: str
    output_tokens: int
    caches: Mapping[str, Cached]
    specialist: Specialist | None = None
    avoided: frozenset[str] = frozenset()
    clarified: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a request stands in its conversation.

    key: what the conversation is known by; None before its first answer. in_tool_loop: the turn is unfinished: its
    model must stay. decision: that of the turn, when unfinished and known. model: the one that gave the last answer,
    in a tool loop the one whose thinking blocks stand in it. hint: label of the last turn, None when nobody decided it.
    bound: whether thinking blocks of the unfinished turn tie it to `model`.
    """

    key: str | None
    in_tool_loop: bool
    decision: Decision | None = None
    model: str | None = None
    hint: str | None = None
    bound: bool = False
    at: float = 0.0
    begins: int = 0  # place of the unfinished turn in the messages
    thoughtful: bool = False  # whether there are thinking blocks at all
    conversation_id: str | None = None
    tail: bytes = b""  # gist of the last message
    route: Route | None = field(default=None, repr=False)


class Conversations:
    """Thread-safe, and safe after fork. clock: seconds. size: answers remembered, the least recently used go first."""

    def __init__(self, table: TierTable, *, clock: Callable[[], float] = time.monotonic, size: int = 10_000) -> None:
        self._table, self._clock = table, clock
        self._routes: AnswerCache[Route] = AnswerCache(size, math.inf)
        self._makers: AnswerCache[str] = AnswerCache(size * BLOCKS_PER_TURN, math.inf)
        self._lock = new_lock(self)

    def look(self, body: Mapping[str, Any], config: DispatchConfig) -> Standing:
        """Where `body` stands. Never raises for what a body holds; says little about what it cannot read."""
        messages = thoughts.messages_of(body)
        name, begins = config.conversation_id, thoughts.unfinished(messages)
        keys = [key for key in (_last_answer(messages, name), _named(name)) if key]
        open_blocks = thoughts.thinking(messages[begins:])
        with self._lock:
            route = next(filter(None, (self._routes.get(key, 0) for key in keys)), None)
            makers = [self._makers.get(thoughts.stamp(block), 0) for block in open_blocks]
        maker = next(filter(None, makers), None)
        model = maker.split()[0] if maker else route.model if route else None
        return Standing(
            key=name or (keys[0].hex() if keys else None),
            in_tool_loop=begins < len(messages),
            decision=route.decision if route and begins < len(messages) else None,
            model=model,
            hint=route.decision.label if route and route.decision.decided_by != "default" else None,
            bound=bool(open_blocks and model),
            at=self._clock(),
            begins=begins,
            thoughtful=bool(open_blocks or thoughts.thinking(messages[:begins])),
            conversation_id=name,
            tail=thoughts.gist(messages[-1]) if messages else b"",
            route=route,
        )

    def prefer(
        self,
        standing: Standing,
        decision: Decision,
        body: Mapping[str, Any],
        size: Size,
        *,
        max_tier: str | None = None,
    ) -> Decision:
        """`decision`, or the same with the last model where that must or should stay ("stickiness" in adjusted_by).

        It must where thinking blocks of an unfinished turn tie it to its model. It should when its tier is no weaker
        than the decided one nor above `max_tier` and the next turn costs no more there, prompt caches considered.
        """
        model, decided = standing.model, decision.model
        if model is None or decided is None or decision.decided_by == "pinned" or self._id(decided) == model:
            return decision
        tier = self._table.tier_of_model(model)
        if not standing.bound and not (tier and self._stays(standing, decision, tier, body, size, max_tier)):
            return decision
        name = tier.name if tier else decision.tier
        return replace(decision, tier=name, model=model, adjusted_by=(*decision.adjusted_by, "stickiness"))

    def prepared(
        self, standing: Standing, body: Mapping[str, Any], model: str, specialist: Specialist | None = None
    ) -> tuple[Mapping[str, Any], tuple[str, ...]] | None:
        """`body` without the thinking blocks of finished turns that `model` did not make, and what was left out.

        So are those that it made behind another specialist's words: they are tied to all that came before them.
        Blocks whose maker is unknown go too. The same object when there is nothing to leave out; None when the
        unfinished turn holds blocks of another model: they may not be taken out, and this model may not be given them.
        """
        if not standing.thoughtful:
            return body, ()
        messages, maker = thoughts.messages_of(body), _maker_name(self._id(model), specialist)
        unknown = standing.model == self._id(model)  # what nobody remembers is taken for the last model's
        if standing.bound and not all(
            made == maker if (made := self._maker(block)) else unknown
            for block in thoughts.thinking(messages[standing.begins :])
        ):
            return None
        kept, gone = thoughts.without(messages, standing.begins, lambda block: self._maker(block) != maker)
        if not gone:
            return body, ()
        return {**body, "messages": kept}, (f"{gone} thinking block{'s' * (gone > 1)} of other models left out",)

    def remember(
        self,
        standing: Standing,
        decision: Decision,
        model: str,
        content: Sequence[Mapping[str, Any]],
        usage: Usage,
        *,
        specialist: Specialist | None = None,
        avoided: frozenset[str] = frozenset(),
    ) -> None:
        """Keep what a whole answer tells: who gave it, who made its thinking blocks, what lies in the cache now.

        model: "" for a clarifying question. content: the answer's blocks as JSON objects. specialist, avoided: as in
        `Route`.
        """
        model, answer = self._id(model), {"role": "assistant", "content": list(content)}
        caches, clarified = _caches(standing, model, usage), not model
        route = Route(decision, model, usage.output_tokens, caches, specialist, avoided, clarified)
        keys = (_joined(standing.tail, answer, standing.conversation_id), _named(standing.conversation_id))
        with self._lock:
            for key in filter(None, keys):
                self._routes.put(key, route, 0)
            for block in thoughts.thinking([answer]):
                self._makers.put(thoughts.stamp(block), _maker_name(model, specialist), 0)

    def _stays(
        self,
        standing: Standing,
        decision: Decision,
        tier: Tier,
        body: Mapping[str, Any],
        size: Size,
        max_tier: str | None,
    ) -> bool:
        rank, last = self._table.rank, standing.route
        if last is None or decision.tier is None or decision.model is None or rank(tier.name) < rank(decision.tier):
            return False
        if max_tier and rank(tier.name) > rank(max_tier):
            return False
        limit = body.get("max_tokens")
        answer = last.output_tokens or ANSWER_TOKENS
        answer = min(answer, limit) if type(limit) is int else answer
        stay, leave = (
            _turn_usd(self._table.model(name), last.caches.get(self._id(name)), size, answer, standing.at)
            for name in (last.model, decision.model)
        )
        return stay <= leave

    def _maker(self, block: Mapping[str, Any]) -> str | None:
        with self._lock:
            return self._makers.get(thoughts.stamp(block), 0)

    def _id(self, model: str) -> str:
        """A model's id in the table, for a dated name too."""
        try:
            return self._table.model(model).id
        except ConfigError:
            return model


def _maker_name(model: str, specialist: Specialist | None) -> str:
    return f"{model} {specialist.id}" if specialist else model


def _turn_usd(model: Model, cached: Cached | None, size: Size, answer: int, now: float) -> Decimal:
    """The next turn's price on `model`, with what of the prompt still lies in its cache."""
    prompt = size.prompt_tokens(model)
    read = min(cached.tokens, prompt) if cached and now < cached.until else 0
    return turn_cost(model, cached=read, new=prompt - read, output=answer, write=size.write)


def _caches(standing: Standing, model: str, usage: Usage) -> dict[str, Cached]:
    """All caches that still live, `model`'s as `usage` shows it. Lifetimes run from the start of a request."""
    before = standing.route.caches if standing.route else {}
    living = {name: cached for name, cached in before.items() if standing.at < cached.until and name != model}
    tokens = usage.cache_read_tokens + usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    if tokens:
        long = usage.cache_write_1h_tokens or (model in before and before[model].ttl_s == LONG_CACHE_S)
        ttl_s = LONG_CACHE_S if long else CACHE_S
        living[model] = Cached(tokens, standing.at + ttl_s, ttl_s)
    return living


def _last_answer(messages: Sequence[Any], name: str | None) -> bytes | None:
    """What the conversation's last answer was remembered as: by it, by what it answers, by the conversation's name."""
    at = next((i for i in reversed(range(len(messages))) if thoughts.role(messages[i]) == "assistant"), 0)
    return _joined(thoughts.gist(messages[at - 1]), messages[at], name) if at else None


def _joined(asked: bytes, answer: Mapping[str, Any], name: str | None) -> bytes:
    return asked + thoughts.gist(answer) + (name or "").encode("utf-8", "surrogatepass")


def _named(name: str | None) -> bytes | None:
    return b"name " + name.encode("utf-8", "surrogatepass") if name else None
