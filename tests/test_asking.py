"""Asking live, in virtual time against a strict simulated API: fast, within every limit, each question once."""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from virtual_time import run

from prerouter.asking import Live, Recorder
from prerouter.ballot import Ballot
from prerouter.errors import UpstreamError
from prerouter.flights import Fault
from prerouter.journal import Ask, Journal
from prerouter.labelrun import alongside
from prerouter.pace import Pace
from prerouter.prompt import Prompt
from prerouter.purse import Purse
from prerouter.records import Request, Usage, Verdict
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable

HAIKU = TierTable.load().model("claude-haiku-5-5")
BALLOT = Ballot.of(Taxonomy.load(), HAIKU, 1)
USD = Decimal("0.0001")


@dataclass
class Api:
    """The API as Live sees it: `rpm` calls in any 60 seconds, `burst` at once at most; `fate` draws what happens."""

    rpm: int = 10**9
    fate: Callable[[], str] = lambda: "ok"
    latency: Callable[[], float] = lambda: 0.5
    arrivals: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    open: int = 0
    most_open: int = 0
    over: int = 0
    window: deque[float] = field(default_factory=deque)

    async def message(self, prompt: Prompt, request: Request, timeout_s: float) -> tuple[Verdict, dict[str, str]]:
        now = asyncio.get_running_loop().time()
        self.arrivals.append(now)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            self._admit(now)
            return await self._answer(prompt, request)
        finally:
            self.open -= 1

    def _admit(self, now: float) -> None:
        while self.window and self.window[0] <= now - 60:
            self.window.popleft()
        self.window.append(now)
        if len(self.window) > self.rpm:
            self.over += 1
            raise Fault("classifier_error", "HTTP 429", retry=True, retry_after_s=5, status=429)

    async def _answer(self, prompt: Prompt, request: Request) -> tuple[Verdict, dict[str, str]]:
        fate = self.fate()
        if fate == "hang":
            await asyncio.sleep(10**6)
        if fate == "429":
            raise Fault("classifier_error", "HTTP 429", retry=True, retry_after_s=1, status=429)
        await asyncio.sleep(self.latency())
        if fate == "529":
            raise Fault("classifier_error", "HTTP 529", retry=True, status=529)
        if fate == "reset":
            raise Fault("classifier_error", "no connection", retry=True)
        if fate == "cut":
            raise Fault("classifier_invalid", "the response is not JSON")
        self.answers[request.text] += 1
        headers = {"anthropic-ratelimit-requests-limit": str(self.rpm)}
        return Verdict("simple", "classified", 0.9, cost_usd=USD, usage=Usage(600, 20), prompt_id=prompt.id), headers


def filled(path: Path, n: int) -> Journal:
    journal = Journal(path / "journal")
    with journal.writing():
        for seq in range(1, n + 1):
            journal.add_row(seq, str(seq).encode(), f"r{seq}", f'{{"text": "Request {seq}."}}')
    return journal


def ask(api: Any, journal: Journal, *, attempts: int = 8, cap: Decimal | None = None, **limits: int) -> Live:
    pace = Pace(limits.get("rpm"), limits.get("concurrency"), 0.0)
    recorder = Recorder(journal, lambda n: None)
    live = Live(api, BALLOT, pace, Purse(cap, Decimal(0)), recorder, attempts)
    run(alongside(live.run(journal.pending(BALLOT.id, 1)), recorder.run()))
    return live


def worst_minute(times: list[float]) -> int:
    return max(bisect_right(times, at + 60) - i for i, at in enumerate(times))


def faulty(dice: random.Random) -> Callable[[], str]:
    """5 % 429, 2 % 529, 1 % hangs, 1 % resets, 1 % cut JSON."""

    def fate() -> str:
        x = dice.random()
        kinds = ((0.05, "429"), (0.07, "529"), (0.08, "hang"), (0.09, "reset"), (0.10, "cut"))
        return next((kind for share, kind in kinds if x < share), "ok")

    return fate


@pytest.mark.parametrize(
    ("rpm", "concurrency", "mean_s", "n"),
    [
        (1200, 200, 0.5, 1500),  # the rate limits: 20 a second
        (60_000, 10, 0.5, 1500),  # the open calls limit: 20 a second
        (60_000, 20, 2.0, 1000),
        (600, 50, 0.2, 1500),
    ],
)
def test_most_of_what_is_allowed_is_used_and_no_minute_is_over(
    tmp_path: Path, rpm: int, concurrency: int, mean_s: float, n: int
) -> None:
    dice = random.Random(1)
    api = Api(rpm, faulty(dice), lambda: mean_s * dice.lognormvariate(-0.08, 0.4))  # mean 1
    with filled(tmp_path, n) as journal:
        ask(api, journal, concurrency=concurrency)
        assert journal.n_answered(BALLOT.id, 1) == n
    assert worst_minute(api.arrivals) <= rpm
    assert api.over == 0
    assert api.most_open <= concurrency
    assert set(api.answers.values()) == {1}
    allowed = min(rpm / 60, concurrency / mean_s)
    end = api.arrivals[-1] - 5 * mean_s - 2  # the last retries are few
    answered = 0.9 * sum(30 <= at <= end for at in api.arrivals) / (end - 30)
    assert answered >= 0.8 * allowed


def test_the_default_number_of_open_calls_follows_the_limit(tmp_path: Path) -> None:
    api = Api(2400, latency=lambda: 3.0)
    with filled(tmp_path, 3000) as journal:
        ask(api, journal)
    assert sum(30 <= at <= 60 for at in api.arrivals) >= 0.9 * 1200
    assert api.most_open >= 100


def test_an_overloaded_api_is_left_in_peace_until_it_recovers(tmp_path: Path) -> None:
    clock: list[float] = []

    class Overloaded(Api):
        async def _answer(self, prompt: Prompt, request: Request) -> tuple[Verdict, dict[str, str]]:
            now = asyncio.get_running_loop().time()
            clock.append(now)
            if 40 <= now <= 100:
                raise Fault("classifier_error", "HTTP 529", retry=True, status=529)
            return await super()._answer(prompt, request)

    api = Overloaded(3000)
    with filled(tmp_path, 4000) as journal:
        ask(api, journal, attempts=30)
        assert journal.n_answered(BALLOT.id, 1) == 4000
    during, after = (sum(a <= at < b for at in clock) for a, b in ((70, 100), (130, 160)))
    assert during < 0.3 * 1500
    assert after == 0 or after > 0.5 * 1500 or clock[-1] < 160


def test_when_all_answers_come_to_take_longer_they_are_waited_for(tmp_path: Path) -> None:
    api = Api(1200, latency=lambda: 0.5 if len(api.arrivals) < 300 else 20.0)
    with filled(tmp_path, 600) as journal:
        ask(api, journal, attempts=20)
        assert journal.n_answered(BALLOT.id, 1) == 600
    assert len(api.arrivals) < 1500


def test_a_key_that_is_taken_back_stops_the_run(tmp_path: Path) -> None:
    class Closing(Api):
        async def _answer(self, prompt: Prompt, request: Request) -> tuple[Verdict, dict[str, str]]:
            if len(self.arrivals) > 100:
                raise Fault("classifier_error", "HTTP 401", status=401)
            return await super()._answer(prompt, request)

    api = Closing(6000)
    with filled(tmp_path, 1000) as journal:
        with pytest.raises(UpstreamError, match="HTTP 401"):
            ask(api, journal)
        assert 60 <= journal.n_answered(BALLOT.id, 1) <= 100
    assert len(api.arrivals) < 200


def test_an_api_that_is_gone_stops_the_run_and_leaves_the_questions_open(tmp_path: Path) -> None:
    api = Api(6000, fate=lambda: "529")
    with filled(tmp_path, 500) as journal:
        with pytest.raises(UpstreamError, match="does not answer"):
            ask(api, journal)
        assert len(list(journal.pending(BALLOT.id, 1))) == 500


def test_the_cap_counts_open_and_lost_calls(tmp_path: Path) -> None:
    dice = random.Random(2)
    api = Api(6000, faulty(dice))
    with filled(tmp_path, 2000) as journal:
        live = ask(api, journal, cap=Decimal("0.05"))
        spent = journal.spent()
    assert live.capped
    # What the API billed: every answer, those too that came too late or broken.
    assert USD * api.answers.total() == spent.usd
    assert Decimal("0.02") < spent.usd + spent.lost_usd <= Decimal("0.05")


def test_a_question_with_answers_off_the_schema_is_given_up(tmp_path: Path) -> None:
    class Babbling(Api):
        async def _answer(self, prompt: Prompt, request: Request) -> tuple[Verdict, dict[str, str]]:
            said, headers = await super()._answer(prompt, request)
            if request.text == "Request 7.":
                return Verdict(None, "classifier_invalid", cost_usd=USD, usage=Usage(600, 20)), headers
            return said, headers

    with filled(tmp_path, 20) as journal:
        ask(Babbling(), journal, attempts=3)
        assert [ask.request for ask in journal.pending(BALLOT.id, 1)] == [7]
        (failed,) = journal.answers(7)
        assert (failed.attempts, failed.final) == (3, False)
        assert journal.spent().usd == USD * 22  # what was answered is billed, of use or not


def test_a_journal_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    class Full(Journal):
        def record(self, answers: Any, *, lost: Decimal = Decimal(0)) -> None:
            raise OSError("no space left")

    filled(tmp_path, 50).close()
    with Full(tmp_path / "journal") as journal, pytest.raises(OSError, match="no space left"):
        ask(Api(), journal)


def test_nothing_to_ask(tmp_path: Path) -> None:
    api = Api()
    with filled(tmp_path, 0) as journal:
        ask(api, journal)
    assert api.arrivals == []


def test_a_question_keeps_its_place_in_the_journal() -> None:
    assert Ask(1, "p", 0, "{}") == Ask(1, "p", 0, "{}")
