"""Gates that live audits closed, as every process of one log sees them; see `livebound`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from prerouter.breaker import RateBucket
from prerouter.errors import PreRouterError
from prerouter.records import Scores

if TYPE_CHECKING:
    from prerouter.routelog import RouteLog

PREFIX = "gate:"
_NONE: frozenset[str] = frozenset()


def key(model_folder_id: str, label: str) -> str:
    """Key of the state that says that a label's gate is closed for a model folder."""
    return f"{PREFIX}{model_folder_id}:{label}"


def closed(log: RouteLog, model_folder_id: str) -> dict[str, Mapping[str, Any]]:
    """{label: how it came to it} of a model folder's closed gates."""
    prefix = key(model_folder_id, "")
    return {name.removeprefix(prefix): state.value for name, state in log.states(prefix).items()}


class ClosedGates:
    """What a router knows of closed gates. Thread-safe.

    log: where they are kept; `look` reads it, off the request path. rpm: fall-throughs per minute of this process for
    requests that a closed gate turned away; a burst of six seconds' worth is allowed.
    """

    def __init__(self, log: RouteLog, rpm: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock, self._bucket = log, clock, RateBucket(rpm)
        self._closed: Mapping[str, Collection[str]] = {}

    def begin(self) -> None:
        """The first look, which must come before the first request. What fails is told by the next one."""
        with suppress(PreRouterError):
            self.look()

    def look(self) -> None:
        """Read which gates are closed. Raises DataError or UpstreamError; what was known then stays in force."""
        found: dict[str, set[str]] = {}
        for name in self._log.states(PREFIX):
            model_folder_id, _, label = name.removeprefix(PREFIX).partition(":")
            found.setdefault(model_folder_id, set()).add(label)
        self._closed = found

    def closes(self, model_folder_id: str, label: str) -> bool:
        """Whether this gate is closed."""
        return label in self._closed.get(model_folder_id, _NONE)

    def held(self, model_folder_id: str, scores: Scores) -> Scores:
        """`scores`, turned into an abstention where they decide for a label whose gate is closed."""
        if scores.decided and self.closes(model_folder_id, scores.label):
            return replace(scores, reason="gate_closed")
        return scores

    def may_ask(self, model_folder_id: str, scores: Scores | None) -> bool:
        """Whether the classifier may be asked: about those that `held` turned away, only so often."""
        if scores is None or scores.reason != "gate_closed" or not self.closes(model_folder_id, scores.label):
            return True
        # No lock, which a forked child might find held: that two threads now and then share a token does no harm.
        return self._bucket.reserve(self._clock(), 0.0) is not None
