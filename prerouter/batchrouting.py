"""Which model each item of a batch goes to: decided locally, else by the classifier live, then fitted to its model.

Items that local leaves open are asked about some at a time. Nobody waits for a single one, so what may pass (a limit,
a breaker, a slow answer) is waited out; the default label is taken only when the classifier says nothing for
`batch.patience_s` seconds.
"""

from __future__ import annotations

import asyncio
import base64
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from prerouter.background import in_thread
from prerouter.batchitems import Item
from prerouter.choice import Choice
from prerouter.economics import asking_pays
from prerouter.errors import ConfigError, PreRouterError, UnsupportedRequest
from prerouter.fitting import worst_case_usd
from prerouter.handing import dress
from prerouter.logrecords import RowRef
from prerouter.parts import Parts
from prerouter.plan import Candidate
from prerouter.records import Decision, Request, Scores
from prerouter.routelog import text_digest
from prerouter.run import Run
from prerouter.settings import Mode

if TYPE_CHECKING:
    pass

GROUP = 200  # items that are decided, then written to the batch's file
BACKOFF_S, BACKOFF_MAX_S = 0.25, 10.0
_PASSING = ("classifier_timeout", "classifier_error", "classifier_budget", "breaker_open")
_NOT_IN_BATCHES = ("stream", "speed")  # CLAUDE_API.md, section 7; and max_tokens 0


@dataclass(frozen=True, slots=True)
class Kept:
    """What a batch's file keeps of a routed item, as JSON.

    decision, tier, model, adaptations, mode: as in `dispatchrecords.Routing`. asked: what of the body the bill depends
    on. at_most_usd: see `fitting.worst_case_usd`; in a batch. row: what the routing log is to be given, or None.
    """

    decision: dict[str, Any]
    tier: str | None
    model: str
    adaptations: list[str]
    mode: Mode
    tags: dict[str, str]
    asked: dict[str, Any]
    prompt_tokens: int
    at_most_usd: str
    row: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}


def decision_of(kept: Mapping[str, Any]) -> Decision:
    """The Decision that `Kept.to_json` holds."""
    told: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in kept["decision"].items()}
    return Decision(**told)


@dataclass(frozen=True, slots=True)
class Routed:
    """What an item came to: what is kept of it and the body that is sent, or why it cannot be sent."""

    item: Item
    kept: Kept | None
    body: dict[str, Any] | None
    error: PreRouterError | None = None


class ItemRouter:
    """Decides the items of one batch.

    ask: False leaves the default label where local abstains, and keeps no account of what cannot be sent. told: called
    with how many more are decided.
    """

    def __init__(
        self,
        parts: Parts,
        mode: Mode,
        *,
        free_sampling: bool = False,
        ask: bool = True,
        told: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._parts, self._mode, self._free, self._asks, self._told = parts, mode, free_sampling, ask, told
        self._settings = parts.settings.batch
        self._answered_at = math.inf

    async def route(
        self,
        items: Sequence[Item],
        known: Mapping[int, Mapping[str, Any]],
        keep: Callable[[list[Routed]], None],
    ) -> None:
        """Decide `items`; what came of them goes to `keep`, group by group, also when this is cancelled.

        known: what an earlier run kept, by n: what the classifier said is not asked again. Raises ConfigError for a
        dispatch_config that cannot be.
        """
        for start in range(0, len(items), GROUP):
            begun = await _thread(self._judged, items[start : start + GROUP], known)
            open_runs = [run for _, run, _ in begun if run and run.judged and run.judged.decision is None]
            try:
                await self._ask(open_runs)
            finally:
                keep(await _thread(self._placed, begun))

    def _judged(self, items: Iterable[Item], known: Mapping[int, Mapping[str, Any]]) -> list[_Begun]:
        return [self._judge(item, known.get(item.first)) for item in items]

    def _judge(self, item: Item, known: Mapping[str, Any] | None) -> _Begun:
        assert item.config
        body = {key: value for key, value in item.params.items() if key != "stream" or value}
        run = Run(self._parts, body, item.config, stream=False, mode=self._mode, free_sampling=self._free)
        try:
            _check(body)
            run.judge(local_only=not self._asks)
        except ConfigError:
            raise
        except PreRouterError as error:
            return item, run, error
        assert run.judged
        if known and known["decision"]["decided_by"] in ("llm", "cache"):
            run.judged.decision = decision_of(known)
        elif run.judged.decision is None and not self._asking_pays(run):
            run.judged.skip("unprofitable")
        return item, run, None

    def _asking_pays(self, run: Run) -> bool:
        """At batch prices; routes differ in more than their tier."""
        router = self._parts.router
        assert run.judged
        return bool(router.taxonomy.handoff) or asking_pays(router, run.judged, run.body, run.size, batch=True)

    async def _ask(self, runs: list[Run]) -> None:
        left = iter(runs)

        async def work() -> None:
            for run in left:
                await self._ask_one(run)

        self._answered_at = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._settings.concurrency, len(runs))):
                group.create_task(work())

    async def _ask_one(self, run: Run) -> None:
        assert run.judged
        attempt = 0
        while True:
            await run.judged.aask(math.inf)
            await run.judged.acomplete()
            decision = run.judged.decision
            if decision is None or decision.reason not in _PASSING:
                self._answered_at = time.monotonic()
                return
            if time.monotonic() - self._answered_at >= self._settings.patience_s:
                return
            run.judged.decision = None  # should this be cancelled now, it was not decided
            attempt += 1
            await asyncio.sleep(random.uniform(0.05, min(BACKOFF_MAX_S, BACKOFF_S * 2**attempt)))

    def _placed(self, begun: Iterable[_Begun]) -> list[Routed]:
        """What the items came to, those left out that were not decided."""
        decided = [one for one in begun if one[2] or (one[1].judged and one[1].judged.decision)]
        routed = [self._place(*one) for one in decided]
        self._told(len(routed))
        return routed

    def _place(self, item: Item, run: Run, error: PreRouterError | None) -> Routed:
        try:
            if error:
                raise error
            run.decide()
            assert run.decision
            assert run.decision.tier
            _dress(run)
            top = self._parts.table.tiers[-1].name
            candidate = Choice(run, top if run.mode == "shadow" else run.decision.tier).first()
            run.placed(candidate)
        except PreRouterError as refused:
            if self._asks:
                run.finish(refused)
            return Routed(item, None, None, refused)
        return Routed(item, self._kept(run, candidate), candidate.fitted.body)

    def _kept(self, run: Run, candidate: Candidate) -> Kept:
        assert run.judged
        assert run.decision
        decision = replace(run.decision, audit=False)  # no head: its text is gone when its row is written
        if not self._parts.settings.log.text:  # the classifier's words may quote the request
            decision = replace(decision, rationale=None, params={})
        captured = _Captured(keeps_text=self._parts.settings.log.text)
        if self._parts.log:
            # What it needs of a log is `append`.
            run.judged.log(captured, decision, None, run.mode)  # type: ignore[arg-type]
        place, body = candidate.place, candidate.fitted.body
        return Kept(
            decision=decision.to_json(),
            tier=place.tier,
            model=place.model,
            adaptations=list(candidate.fitted.adaptations),
            mode=run.mode,
            tags=dict(run.config.tags),
            asked={key: body[key] for key in ("max_tokens", "inference_geo") if key in body},
            prompt_tokens=candidate.fitted.prompt_tokens,
            at_most_usd=str(worst_case_usd(candidate.fitted, candidate.model) * candidate.model.batch_factor),
            row=captured.row,
        )


_Begun = tuple[Item, Run, PreRouterError | None]


class _Captured:
    """A log that only remembers the row that it was given, to be appended with its reply."""

    def __init__(self, *, keeps_text: bool) -> None:
        self._keeps_text = keeps_text
        self.row: dict[str, Any] | None = None

    def append(
        self,
        request: Request,
        decision: Decision,
        reply: object,
        tags: Mapping[str, object],
        *,
        scores: Scores | None,
        fingerprint: str,
        mode: Mode,
        labelled_by: str | None,
    ) -> RowRef:
        features = scores.features if scores else None
        self.row = {
            "text": request.text if self._keeps_text else None,
            "digest": text_digest(request.text).hex(),
            "n_chars": request.n_chars,
            "signals": list(request.signals),
            "tags": {str(key): str(value) for key, value in tags.items()},
            "fingerprint": fingerprint,
            "labelled_by": labelled_by,
            "features": None if features is None else base64.b64encode(features.astype("<f4").tobytes()).decode(),
        }
        return RowRef(decision.id, 0.0)


def _dress(run: Run) -> None:
    """Have the decided route's specialist answer. It may not give the item back: nobody would be there to take it."""
    handoff = run.parts.router.taxonomy.handoff
    if run.mode == "shadow" or run.thread or run.decision is None:
        return
    if run.config.handoff or (handoff and handoff.routes[run.decision.label].handoff):
        step = "send it by itself"
        raise UnsupportedRequest("a batch hands no request to a person", where="handoff", next_step=step)
    if handoff:
        dress(run, handoff, may_escalate=False)


def _check(body: Mapping[str, Any]) -> None:
    for name in _NOT_IN_BATCHES:
        if body.get(name):
            raise UnsupportedRequest(f"{name} is not possible in a batch", where="params", next_step="leave it out")
    if body.get("max_tokens") == 0:
        raise UnsupportedRequest("max_tokens is 0 in a batch", where="params", next_step="ask for at least one token")


async def _thread(work: Callable[..., Any], *args: Any) -> Any:
    """On a thread of its own: deciding takes the processor, and the event loop may be the caller's."""
    return await asyncio.wrap_future(in_thread(work, *args))
