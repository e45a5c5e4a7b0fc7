"""Every fault, streamed or not, on every tier: a whole answer or a typed error, within the deadline plus half a second.

What we count as spent is what the fake billed, as far as it was told.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anthropic
import pytest
from dispatch_help import MODELS, TYPED, Caller, Side, ask, caller, text
from fake_claude import (
    Answer,
    CutJson,
    Drip,
    EmptyEndTurn,
    Error,
    FakeClaude,
    Hang,
    MaxTokens,
    Outcome,
    Refusal,
    Reset,
    StreamCutClean,
    StreamCutEvent,
    StreamErrorEvent,
    StreamReset,
)

from prerouter.errors import PreRouterError
from prerouter.router import PreRouter

DEADLINE_S, PATIENT_S = 2.0, 20.0  # of faults that take time, and of those that do not
SAID = "A simulated answer."
SETTINGS: dict[str, Any] = {"dispatch": {"retries": 1}, "classifier": {"fall_through": "off"}}
HURRIED: dict[str, Any] = SETTINGS | {"dispatch": {"retries": 1, "attempt_s": 1.0}}
FIRST = ("claude-haiku-5-5", "claude-sonnet-5-5")  # a fault of these leaves others; bounds leave opus alone
STATUSES: dict[str, Outcome] = {f"http {n}": Error(n) for n in (400, 401, 403, 404, 408, 409, 413, 429, 500, 503, 529)}
BOTH: dict[str, Outcome] = STATUSES | {
    "429 long": Error(429, retry_after=60),
    "429 spent": Error(429, code="enforced_spend_limit_reached"),
    "reset": Reset(),
    "reset mid-body": Reset(mid_body=True),
    "hang": Hang(30.0),
    "drip": Drip(30.0),
    "drip headers": Drip(30.0, headers=True),
    "slow but whole": Drip(0.2),
    "empty": EmptyEndTurn(),
    "no text": MaxTokens(),
    "refusal": Refusal(None),
    "refusal cyber": Refusal("cyber"),
    "refusal after output": Refusal(None, "I can"),
    "another model": Answer(served="claude-opus-5"),
}
ONE: dict[str, Outcome] = {"cut json": CutJson()}
STREAMED: dict[str, Outcome] = {
    f"{kind.__name__} {after}": kind(after=after)
    for kind in (StreamCutClean, StreamReset, StreamErrorEvent, StreamCutEvent)
    for after in ("headers", "start", "delta", "text", "stop")
}
TIMED = ("hang", "drip", "drip headers")
PLACES: tuple[Literal["first", "everywhere"], ...] = ("first", "everywhere")


@pytest.fixture(scope="module")
def routers() -> Iterator[tuple[PreRouter, PreRouter]]:
    with PreRouter.load(settings=SETTINGS) as patient, PreRouter.load(settings=HURRIED) as hurried:
        yield patient, hurried


def send(calling: Caller, streams: tuple[bool, ...], deadline_s: float) -> list[Any]:
    """A request for each tier, streamed or not; no later than it may be."""
    results = calling.all([ask(stream=s, min_tier=tier, deadline_s=deadline_s) for tier in MODELS for s in streams])
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # the half second is one of a processor of our own
    assert calling.slowest_s < deadline_s + 0.5 * busy
    return results


def check(result: Any) -> str:
    """ "whole", "incomplete" (and says so), or the name of a typed error."""
    if isinstance(result, Exception):
        assert isinstance(result, TYPED), repr(result)
        assert result.routing is not None, repr(result)  # type: ignore[union-attr]
        assert "2 + 2" not in str(result)
        return type(result).__name__
    assert isinstance(result, anthropic.types.Message)
    assert result.stop_reason is not None
    if text(result) == SAID:
        assert result.stop_reason == "end_turn"
        return "whole"
    assert result.stop_reason in ("refusal", "max_tokens") or not result.content
    return "incomplete"


@pytest.mark.parametrize("side", ["sync", "async"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", [*BOTH, *ONE, *STREAMED])
def test_a_whole_answer_or_a_typed_error_in_time(
    claude: FakeClaude, routers: tuple[PreRouter, PreRouter], tmp_path: Path, side: Side, place: str, name: str
) -> None:
    streams = (False,) if name in ONE else (True,) if name in STREAMED else (False, True)
    fault = (BOTH | ONE | STREAMED)[name]
    claude.always(fault, when=lambda body: place == "everywhere" or body["model"] in FIRST)
    with caller(claude, side, tmp_path, routers[name in TIMED]) as calling:
        results = send(calling, streams, DEADLINE_S if name in TIMED else PATIENT_S)
        came = {check(result) for result in results}
        calling.log.flush()
        stats = calling.log.stats()
    assert came <= expected(name, place)
    assert (stats.rows, stats.dropped) == (len(results), 0)
    if isinstance(fault, Reset | StreamReset):  # what was sent and not yet read is lost in a reset
        assert calling.spent() <= claude.billed(told=True)
    elif not isinstance(fault, Drip | Hang):  # their readers leave, at a moment that nobody knows
        assert calling.spent() == claude.billed(told=True)


def expected(name: str, place: str) -> set[str]:
    """What a fault may come to."""
    if name in ("slow but whole", "another model"):
        return {"whole"}
    if name in ("empty", "no text", "refusal", "refusal cyber", "refusal after output"):
        return {"whole", "incomplete"} if place == "first" else {"incomplete", "whole"}
    typed = {"UpstreamError", *_names(anthropic.APIError), *_names(PreRouterError)}
    final = name in ("http 400", "http 401", "http 413", "429 spent")
    begun = name in STREAMED and name.split()[1] in ("text", "stop")  # content was shown: no other model may go on
    if place == "everywhere" or final or begun or name in TIMED:
        return typed | ({"whole"} if place == "first" else set())
    return {"whole"}


def _names(kind: type[Exception]) -> set[str]:
    children: list[type[Exception]] = kind.__subclasses__()
    return {kind.__name__, *(name for child in children for name in _names(child))}
