"""Flights over a stand-in for the API that does what the test says; faults of the real one are in test_claude."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal

import pytest

from prerouter.cache import AnswerCache
from prerouter.flights import BACKOFF_MAX_S, Fault, Flight, Flights
from prerouter.records import Request, Usage, Verdict
from prerouter.sections import ClassifierSettings

REQUEST = Request("text", "", (), 1, 4)
ANSWER = Verdict("simple", "classified", 0.9, cost_usd=Decimal("0.001"), usage=Usage(10, 2))
Act = Callable[[], Awaitable[Verdict]]


class FakeApi:
    """Does `acts` one after the other, the last one for ever."""

    busy = 0

    def __init__(self, *acts: Act) -> None:
        self.acts, self.calls, self.closed = list(acts), 0, 0

    async def open(self) -> None:
        pass

    async def ask(self, request: Request, timeout_s: float) -> Verdict:
        self.calls += 1
        return await (self.acts.pop(0) if len(self.acts) > 1 else self.acts[0])()

    async def close(self) -> None:
        self.closed += 1


async def answer() -> Verdict:
    return ANSWER


async def hang() -> Verdict:
    return await asyncio.Future()


def fail(error: Exception) -> Act:
    async def act() -> Verdict:
        raise error

    return act


Make = Callable[..., Flights]


@pytest.fixture
def make() -> Iterator[Make]:
    """Flights that are stopped afterwards."""
    made: list[Flights] = []

    def _make(api: FakeApi, **settings: float) -> Flights:
        chosen = ClassifierSettings(**{"rpm": 10**6, **settings})  # type: ignore[arg-type]
        made.append(Flights(chosen, AnswerCache(10, 60.0), api, time.monotonic))
        return made[-1]

    yield _make
    for flights in made:
        flights.stop()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does without telling."""
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def board(flights: Flights, key: bytes = b"k", deadline_s: float = 30.0) -> Flight:
    boarded = flights.board(key, REQUEST, time.monotonic() + deadline_s)
    assert isinstance(boarded, tuple)
    return boarded[0]


def test_one_flight_for_all_who_ask_the_same(make: Make) -> None:
    go = threading.Event()

    async def wait() -> Verdict:
        while not go.is_set():
            await asyncio.sleep(0.002)
        return ANSWER

    flights = make(FakeApi(wait))
    flight = board(flights)
    assert flights.board(b"k", REQUEST, 0.0) == (flight, False)
    assert not flight.future.cancel()
    go.set()
    assert flight.future.result(5) == ANSWER
    known = flights.board(b"k", REQUEST, 0.0)
    assert isinstance(known, Verdict)
    assert (known.label, known.reason, known.cost_usd, known.usage) == ("simple", "cached", 0, Usage())
    stats = flights.stats()
    assert (stats.calls, stats.joined, stats.hits, stats.cost_usd) == (1, 1, 1, ANSWER.cost_usd)
    assert stats.usage == ANSWER.usage


@pytest.mark.parametrize("error", [OSError(), KeyError("x"), Fault("classifier_error", "told")])
def test_whatever_is_raised_ends_as_a_verdict(error: Exception, make: Make) -> None:
    flights = make(FakeApi(fail(error)))
    assert board(flights).future.result(5).reason == "classifier_error"
    assert flights.stats().last_error in (type(error).__name__, "told")


def test_only_what_may_pass_is_tried_again(make: Make) -> None:
    passing, lasting = Fault("classifier_error", "", retry=True), Fault("classifier_error", "")
    api = FakeApi(fail(passing), fail(lasting), answer)
    assert board(make(api, attempts=9)).future.result(5).reason == "classifier_error"
    assert api.calls == 2


def test_tries_are_bounded_by_their_number_and_by_the_deadline(make: Make) -> None:
    passing = Fault("classifier_error", "", retry=True)
    api = FakeApi(fail(passing))
    board(make(api, attempts=2)).future.result(5)
    assert api.calls == 2
    late = FakeApi(fail(Fault("classifier_error", "", retry=True, retry_after_s=31.0)))
    start = time.monotonic()
    board(make(late, attempts=2)).future.result(5)
    assert late.calls == 1
    assert time.monotonic() - start < BACKOFF_MAX_S


def test_a_late_answer_does_not_make_up_for_the_missed_deadline(make: Make) -> None:
    go = threading.Event()

    async def late() -> Verdict:
        while not go.is_set():
            await asyncio.sleep(0.002)
        return ANSWER

    flights = make(FakeApi(answer, late), breaker_failures=1)
    board(flights, b"first").future.result(5)
    flight = board(flights, deadline_s=0.0)
    flights.give_up(flight)
    assert flights.stats().breaker == "open"
    go.set()
    assert flight.future.result(5) == ANSWER
    assert flights.stats().breaker == "open"
    assert flights.cached(b"k") is not None


def test_who_gives_up_early_tells_nothing_about_the_api(make: Make) -> None:
    flights = make(FakeApi(answer, hang), breaker_failures=1)
    board(flights, b"first").future.result(5)
    flights.give_up(board(flights))
    assert flights.stats().breaker == "closed"


def test_calls_that_start_beside_the_first_are_exempt_and_later_ones_are_not(make: Make) -> None:
    flights = make(FakeApi(hang), breaker_failures=1)
    for flight in [board(flights, bytes([i]), deadline_s=0.3) for i in range(3)]:
        until(lambda flight=flight: flight.judged)
    assert flights.stats().breaker == "closed", "all three may have waited for the schema"
    flights.give_up(board(flights, b"warm", deadline_s=0.0))
    assert flights.stats().breaker == "open"


def test_places_that_lost_calls_hold_are_taken(make: Make) -> None:
    api = FakeApi(answer)
    flights = make(api, max_in_flight=2)
    api.busy = 2
    assert flights.board(b"k", REQUEST, 0.0) == Verdict(None, "classifier_budget")
    api.busy = 1
    assert board(flights).future.result(5) == ANSWER


def test_what_is_broken_off_says_nothing_about_the_api(make: Make) -> None:
    flights = make(FakeApi(answer, hang), breaker_failures=1)
    board(flights, b"first").future.result(5)
    board(flights)
    flights.stop()
    assert flights.stats().breaker == "closed"


def test_stop_answers_everybody_and_start_is_possible_again(make: Make) -> None:
    api = FakeApi(hang)
    flights = make(api)
    flight = board(flights)
    flights.stop()
    assert flight.future.result(0).reason == "classifier_error"
    assert (flights.stats().in_flight, api.closed) == (0, 1)
    flights.stop()
    api.acts = [answer]
    assert board(flights).future.result(5) == ANSWER
