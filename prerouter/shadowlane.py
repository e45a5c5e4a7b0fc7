"""Shadow mode's comparisons: of a sample of requests the routed model answers too, and a judge compares, off the path.

In shadow mode (`PREROUTER_MODE=shadow`) the model that was asked for serves. A request's text and both answers are held
in memory until they are judged, and stored nowhere: the log gets the outcome as a label of origin "judge", its `score`
being the US dollars of the routed model's answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from decimal import Decimal
from typing import Any

from prerouter.background import Background, in_thread
from prerouter.comparing import Answer, Comparer, Made, Question, Replay
from prerouter.errors import ConfigError
from prerouter.judge import Judge
from prerouter.logrecords import RowLabel, RowRef
from prerouter.logschema import Reply
from prerouter.purse import Purse
from prerouter.records import Decision
from prerouter.routelog import RouteLog
from prerouter.sdk import Sdk, check_client, has_key
from prerouter.settings import Settings, mode
from prerouter.tiers import TierTable, cost

DAY_S = 86_400.0
LOOK_S = 60.0  # between two looks at what all processes have spent
_log = logging.getLogger("prerouter.shadow")


class ShadowLane:
    """Compares a sample of what it is offered. Thread-safe; safe after fork, where what waits belongs to the parent.

    client: an anthropic client, None for one from the environment. replay: the body for the routed model, None where
    it cannot answer such a request. missed: offers of this process that were drawn and not compared. cost_usd: what
    its comparisons were billed so far, in US dollars.
    """

    def __init__(
        self,
        settings: Settings,
        tiers: TierTable,
        log: RouteLog,
        *,
        client: Any = None,
        replay: Replay | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_client(client)
        top = tiers.tiers[-1].name
        self._judge = Judge.load(tiers.model(settings.shadow.judge or tiers.first_model(top)))
        self._settings, self._tiers, self._log, self._client = settings.shadow, tiers, log, client
        self._replay, self._clock = replay, clock
        self._background: Background | None = None
        self._reset()

    def offer(self, row: RowRef, request: Mapping[str, Any], decision: Decision, reply: object) -> bool:
        """Compare the routed model with the one that served, perhaps and later; returns at once whether it was drawn.

        request: the Messages body. decision: what the router would have done. reply: a Message, or a mapping like one.
        Raises nothing.
        """
        try:
            return self._offered(row, request, decision, reply)
        except Exception:  # whatever it is, the request was served and its answer must reach the caller
            _log.warning("a comparison could not begin", exc_info=True)
            return False

    def _offered(self, row: RowRef, request: Mapping[str, Any], decision: Decision, reply: object) -> bool:
        if self._pid != os.getpid():
            self._reset()
        if random.random() >= self._settings.rate or mode() == "off" or not has_key(self._client):
            return False
        question = self._question(row, request, decision, reply)
        if question is None:
            return False
        with self._lock:
            if len(self._open) >= self._settings.concurrency + self._settings.queue:
                self.missed += 1
                return False
            self._start(row, question)
        return True

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait for what was drawn, at most so many seconds; whether all of it is done."""
        return not wait(list(self._open), timeout_s).not_done

    def close(self, timeout_s: float = 5.0) -> None:
        """Give what was drawn so many seconds, then break it off and close all connections."""
        self.flush(timeout_s)
        background, self._background = self._background, None
        if background and self._pid == os.getpid():
            background.stop(self._sdk.close)
        self._open.clear()

    def _reset(self) -> None:
        self._pid, self._lock, self.missed = os.getpid(), threading.Lock(), 0
        self.cost_usd = Decimal(0)
        self._open: set[Future[None]] = set()
        self._background = None
        self._purse = Purse(Decimal(str(self._settings.usd_per_day)), Decimal(0))
        self._sdk = Sdk(None, self._client)
        self._comparer = Comparer(self._sdk, self._judge, self._tiers, self._purse, replay=self._replay)
        self._places: asyncio.Semaphore | None = None
        self._look_at = 0.0

    def _question(self, row: RowRef, request: Mapping[str, Any], decision: Decision, reply: object) -> Question | None:
        """None when there is nothing to compare: the same model, no answer, or one that was cut."""
        said = Reply.of(reply)
        if not decision.model or not said.model or said.stop_reason not in ("end_turn", "stop_sequence", "tool_use"):
            return None
        try:
            model, routed = self._tiers.model(said.model), self._tiers.model(decision.model)
        except ConfigError:  # an unknown model has no price
            return None
        if model.id == routed.id:
            return None
        content = reply.get("content") if isinstance(reply, Mapping) else getattr(reply, "content", None)
        served = Answer(model.id, [_plain(block) for block in content or ()], float(cost(model, said.usage)))
        return Question(decision.id, decision.label, request, served, decision.model)

    def _start(self, row: RowRef, question: Question) -> None:
        self._background = self._background or Background()
        future = self._background.run(lambda: self._compare(row, question))
        self._open.add(future)
        future.add_done_callback(self._open.discard)

    async def _compare(self, row: RowRef, question: Question) -> None:
        self._places = self._places or asyncio.Semaphore(self._settings.concurrency)
        async with self._places:
            try:
                if self._clock() >= self._look_at:
                    self._look_at = self._clock() + LOOK_S
                    self._purse.spent = await asyncio.wrap_future(in_thread(self._spent))
                self._note(row, await self._comparer.compare(question))
            except Exception:  # whatever it is, the next one is compared
                self.missed += 1
                _log.warning("a comparison failed", exc_info=True)

    def _spent(self) -> Decimal:
        """By all processes, in the last day."""
        found = self._log.labels(since=self._clock() - DAY_S, origin="judge")
        return sum((Decimal(str(label.cost_usd)) for label in found), Decimal(0))

    def _note(self, row: RowRef, made: Made) -> None:
        self.cost_usd += made.usd
        if made.fault:
            _log.warning("a comparison failed: %s", made.fault.told)
        if made.pair is None:
            self.missed += 1
        if made.pair is None and not made.usd:
            return
        pair = made.pair
        label = RowLabel(
            label=None,
            origin="judge",
            labelled_by=self._judge.model.id,
            prompt_id=self._judge.id,
            confidence=pair.confidence if pair else None,
            score=pair.routed_usd if pair else None,
            outcome=pair.outcome if pair else made.why,
            cost_usd=float(made.usd),
        )
        self._log.add_label(row, label)


def _plain(block: Any) -> Mapping[str, Any]:
    """A content block as JSON."""
    if isinstance(block, Mapping):
        return block
    found = block.to_dict(mode="json") if hasattr(block, "to_dict") else {}
    return found if isinstance(found, Mapping) else {}
