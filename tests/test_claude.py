"""The classifier against the real SDK and a strict fake server: every fault ends in a Verdict, within the deadline."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anthropic
import pytest
from fake_claude import (
    Answer,
    CutJson,
    Drip,
    EmptyEndTurn,
    Error,
    FakeClaude,
    Hang,
    Held,
    InvalidLabel,
    MaxTokens,
    OffSchema,
    Outcome,
    Refusal,
    Reset,
    TruncatedAnswer,
)

from prerouter.background import in_thread
from prerouter.claude import Classifier
from prerouter.errors import ConfigError
from prerouter.records import Request, Usage, Verdict
from prerouter.sections import ClassifierSettings
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable

TIERS, TAXONOMY = TierTable.load(), Taxonomy.load()
MARGIN_S = 2.0  # what a loaded machine may add to a deadline; far below any wait that the faults ask for
Make = Callable[..., Classifier]


def ask(text: str = "Prove it.", context: str = "") -> Request:
    return Request(text, context, (), 1, len(text))


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def make(claude: FakeClaude, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Classifiers that call the fake, closed afterwards."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", claude.valid_key)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)
    made: list[Classifier] = []

    def _make(*, client: Any = None, clock: Callable[[], float] = time.monotonic, **settings: Any) -> Classifier:
        made.append(Classifier(TAXONOMY, TIERS, ClassifierSettings(**settings), client=client, clock=clock))
        return made[-1]

    yield _make
    for classifier in made:
        classifier.close()


def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait for what another thread does without telling."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


# --- an answer -------------------------------------------------------------------------------------------------------
def test_a_request_gets_a_label_and_its_cost(make: Make, claude: FakeClaude) -> None:
    verdict = make().classify(ask("Prove it."))
    assert (verdict.label, verdict.reason, verdict.confidence) == ("complex", "classified", 0.9)
    usage = verdict.usage
    assert usage.input_tokens > 200
    assert verdict.cost_usd == (usage.input_tokens * Decimal("0.10") + usage.output_tokens * Decimal("0.50")) / 10**6
    (call,) = claude.calls()
    assert call.body["thinking"] == {"type": "disabled"}
    assert not {"temperature", "top_p", "top_k", "tools", "tool_choice"} & set(call.body)
    assert call.retry_count == 0


def test_asyncio_callers_get_the_same(make: Make, claude: FakeClaude) -> None:
    classifier = make()
    verdict = asyncio.run(classifier.aclassify(ask("Prove it.")))
    assert (verdict.label, verdict.reason) == ("complex", "classified")
    assert asyncio.run(classifier.aclassify(ask("Prove it."))).reason == "cached"
    assert len(claude.calls()) == 1


def test_labels_are_compared_without_case(make: Make, claude: FakeClaude) -> None:
    claude.script(Answer(upper=True))
    assert make().classify(ask()).label == "complex"


def test_what_is_asked_for_comes_back(make: Make, claude: FakeClaude) -> None:
    claude.script(Answer({"fallback_label": "Moderate", "rationale": "Hard.", "params": [{"name": "a", "value": "b"}]}))
    verdict = make(ask=("rationale", "params", "fallback_label")).classify(ask())
    assert (verdict.fallback_label, verdict.rationale, dict(verdict.params)) == ("moderate", "Hard.", {"a": "b"})


@pytest.mark.parametrize("kind", ["client", "aclient"])
def test_a_given_client_is_used_with_its_key_and_address(kind: str, claude: FakeClaude) -> None:
    given = getattr(claude, kind)(max_retries=5)
    classifier = Classifier(TAXONOMY, TIERS, ClassifierSettings(), client=given)
    assert classifier.classify(ask()).label == "complex"
    claude.always(Error(500))
    assert classifier.classify(ask("other")).reason == "classifier_error"
    classifier.close()
    assert not given.is_closed()
    assert len(claude.calls()) == 1 + ClassifierSettings().attempts
    if kind == "aclient":
        asyncio.run(given.close())


def test_a_sync_client_with_its_own_http_client_keeps_it(claude: FakeClaude) -> None:
    with anthropic.DefaultHttpxClient(headers={"x-mark": "mine"}) as http:
        given = claude.client(http_client=http)
        classifier = Classifier(TAXONOMY, TIERS, ClassifierSettings(), client=given)
        assert classifier.classify(ask()).label == "complex"
        classifier.close()
        assert not http.is_closed
    assert claude.calls()[0].headers["x-mark"] == "mine"


def test_an_async_client_with_its_own_http_client_is_refused(claude: FakeClaude) -> None:
    async def main() -> None:
        async with claude.aclient(http_client=anthropic.DefaultAsyncHttpxClient()) as given:
            with pytest.raises(ConfigError, match=r"pass an anthropic\.Anthropic"):
                Classifier(TAXONOMY, TIERS, ClassifierSettings(), client=given)

    asyncio.run(main())


def test_what_is_no_client_or_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="is no anthropic client"):
        Classifier(TAXONOMY, TIERS, ClassifierSettings(), client="test-key")
    with pytest.raises(ConfigError, match="claude-haiku-9"):
        Classifier(TAXONOMY, TIERS, ClassifierSettings(model="claude-haiku-9"))


# --- faults ----------------------------------------------------------------------------------------------------------
FAULTS: list[tuple[Outcome, str, int]] = [  # outcome, reason, calls out of three possible
    (Error(400), "classifier_error", 1),
    (Error(401), "classifier_error", 1),
    (Error(402), "classifier_error", 1),
    (Error(403), "classifier_error", 1),
    (Error(404), "classifier_error", 1),
    (Error(413), "classifier_error", 1),
    (Error(400, x_should_retry=True), "classifier_error", 1),
    (Error(429), "classifier_error", 3),
    (Error(429, code="enforced_spend_limit_reached"), "classifier_error", 1),
    (Error(429, code="contract_spend_limit_reached"), "classifier_error", 1),
    (Error(429, x_should_retry=False), "classifier_error", 1),
    (Error(418, x_should_retry=True), "classifier_error", 3),
    (Error(418), "classifier_error", 1),
    (Error(500), "classifier_error", 3),
    (Error(503), "classifier_error", 3),
    (Error(529), "classifier_error", 3),
    (Reset(), "classifier_error", 3),
    (Reset(mid_body=True), "classifier_invalid", 1),
    (CutJson(), "classifier_invalid", 1),
    (Refusal(), "classifier_refused", 1),
    (Refusal(partial='{"label"'), "classifier_refused", 1),
    (MaxTokens(), "classifier_invalid", 1),
    (MaxTokens(with_text=True), "classifier_invalid", 1),
    (TruncatedAnswer(), "classifier_invalid", 1),
    (OffSchema(), "classifier_invalid", 1),
    (InvalidLabel(), "classifier_invalid", 1),
    (Answer({"confidence": "high"}), "classifier_invalid", 1),
    (Answer("complex"), "classifier_invalid", 1),
    (EmptyEndTurn(), "classifier_invalid", 1),
]


@pytest.mark.parametrize(("outcome", "reason", "calls"), FAULTS, ids=repr)
def test_every_fault_has_its_reason(outcome: Outcome, reason: str, calls: int, make: Make, claude: FakeClaude) -> None:
    claude.always(outcome)
    classifier = make()
    verdict = classifier.classify(ask())
    assert (verdict.label, verdict.reason, verdict.confidence) == (None, reason, 0.0)
    assert verdict.prompt_id == classifier.prompt.id
    assert len(claude.calls()) == calls == classifier.stats.calls
    assert classifier.stats.failures == {reason: 1}


@pytest.mark.parametrize("kind", ["client", "aclient"])
@pytest.mark.parametrize(
    ("outcome", "reason"),
    [(Error(401), "classifier_error"), (Reset(mid_body=True), "classifier_invalid"), (CutJson(), "classifier_invalid")],
    ids=repr,
)
def test_given_clients_fail_alike(kind: str, outcome: Outcome, reason: str, make: Make, claude: FakeClaude) -> None:
    claude.always(outcome)
    given = getattr(claude, kind)()
    assert make(client=given).classify(ask()).reason == reason
    if kind == "aclient":
        asyncio.run(given.close())


class _Endless(BaseHTTPRequestHandler):
    """A success whose body has no end; the server's `dropped` is set when the other side has gone."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        with suppress(OSError):
            while True:
                self.wfile.write(b" " * 2**16)
        vars(self.server)["dropped"].set()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("kind", [None, "client", "aclient"])
def test_a_body_without_end_is_given_up_and_its_connection_dropped(
    kind: str | None, make: Make, claude: FakeClaude, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Endless) as server:
        dropped = vars(server)["dropped"] = threading.Event()
        in_thread(server.serve_forever, 0.01)
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
        given = getattr(claude, kind)(base_url=url) if kind else None
        classifier = make(client=given, deadline_s=30.0)
        assert classifier.classify(ask()).reason == "classifier_invalid"
        assert "longer than" in str(classifier.stats.last_error)
        assert dropped.wait(5)
        server.shutdown()
    if kind == "aclient":
        asyncio.run(given.close())


@pytest.mark.parametrize("kind", [None, "client", "aclient"])
def test_redirects_in_a_circle_are_followed_twice(kind: str | None, make: Make, claude: FakeClaude) -> None:
    claude.always(Error(307, headers={"location": "/v1/messages"}))
    given = getattr(claude, kind)() if kind else None
    assert make(client=given).classify(ask()).reason == "classifier_error"
    assert len(claude.calls()) == 3
    if kind == "aclient":
        asyncio.run(given.close())


def test_redirects_of_the_users_own_http_client_are_not_tried_again(make: Make, claude: FakeClaude) -> None:
    claude.always(Error(307, headers={"location": "/v1/messages"}))
    with anthropic.DefaultHttpxClient(max_redirects=4) as http:
        assert make(client=claude.client(http_client=http)).classify(ask()).reason == "classifier_error"
    assert len(claude.calls()) == 5


def test_a_passing_fault_is_retried_within_the_deadline(make: Make, claude: FakeClaude) -> None:
    claude.script(Error(529), Error(429, retry_after=0.1))
    verdict = make().classify(ask())
    assert verdict.label == "complex"
    first, second, third = claude.calls()
    assert third.at - second.at >= 0.1
    assert second.at - first.at < 1.0


@pytest.mark.parametrize("wait", ["86400", "inf", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_retry_after_a_day_costs_nobody_more_than_the_deadline(wait: str, make: Make, claude: FakeClaude) -> None:
    claude.always(Error(429, retry_after=wait))
    start = time.monotonic()
    assert make().classify(ask()).reason == "classifier_error"
    assert time.monotonic() - start < ClassifierSettings().deadline_s, "there was nothing to wait for"
    assert len(claude.calls()) == 1


@pytest.mark.parametrize("value", ["nan", "-5", "0", "soon", ""])
def test_an_unreadable_retry_after_is_ignored(value: str, make: Make, claude: FakeClaude) -> None:
    claude.script(Error(429, headers={"retry-after": value}))
    assert make().classify(ask()).label == "complex"


def test_no_server_at_all(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    assert make().classify(ask()).reason == "classifier_error"


def test_the_log_and_stats_tell_the_error_but_never_the_request(
    make: Make, claude: FakeClaude, caplog: pytest.LogCaptureFixture
) -> None:
    claude.always(Error(401, message="the secret request"))
    classifier = make()
    with caplog.at_level(logging.DEBUG, logger="prerouter"):
        classifier.classify(ask("the secret request"))
    assert "HTTP 401 authentication_error" in caplog.text
    assert "secret" not in caplog.text
    assert claude.valid_key not in caplog.text
    assert "HTTP 401" in str(classifier.stats.last_error)


@pytest.mark.parametrize("text", ["", " \n", "\ud800"])
def test_what_cannot_be_asked_about_is_not(text: str, make: Make, claude: FakeClaude) -> None:
    classifier = make()
    assert classifier.classify(ask(text)).reason == "classifier_invalid"
    assert classifier.cached(ask(text)) is None
    assert claude.calls() == []


# --- the deadline ----------------------------------------------------------------------------------------------------
SLOW: list[Outcome] = [Hang(), Drip(30.0), Drip(30.0, headers=True), Answer(delay_s=30.0)]


@pytest.mark.parametrize("outcome", SLOW, ids=repr)
@pytest.mark.parametrize("kind", [None, "client"])
def test_the_deadline_holds(outcome: Outcome, kind: str | None, make: Make, claude: FakeClaude) -> None:
    claude.always(outcome)
    classifier = make(client=claude.client() if kind else None, deadline_s=0.3)
    start = time.monotonic()
    verdict = classifier.classify(ask())
    assert (verdict.label, verdict.reason) == (None, "classifier_timeout")
    assert 0.3 <= time.monotonic() - start < 0.3 + MARGIN_S


def test_the_deadline_holds_for_asyncio(make: Make, claude: FakeClaude) -> None:
    claude.always(Drip(30.0, headers=True))
    start = time.monotonic()
    assert asyncio.run(make(deadline_s=0.3).aclassify(ask())).reason == "classifier_timeout"
    assert time.monotonic() - start < 0.3 + MARGIN_S


def test_the_deadline_holds_for_an_error_that_drips(make: Make, claude: FakeClaude) -> None:
    claude.always(Error(500, delay_s=0.25))
    start = time.monotonic()
    assert make(deadline_s=0.4, attempts=10).classify(ask()).reason in ("classifier_error", "classifier_timeout")
    assert time.monotonic() - start < 0.4 + MARGIN_S


def test_a_caller_may_wait_for_less(make: Make, claude: FakeClaude) -> None:
    claude.always(Hang())
    classifier = make(deadline_s=30.0)
    start = time.monotonic()
    assert classifier.classify(ask(), max_wait_s=0.1).reason == "classifier_timeout"
    assert classifier.classify(ask(), max_wait_s=-1).reason == "classifier_timeout"
    assert asyncio.run(classifier.aclassify(ask(), max_wait_s=0.1)).reason == "classifier_timeout"
    assert time.monotonic() - start < 0.2 + MARGIN_S


def test_a_late_answer_fills_the_cache(make: Make, claude: FakeClaude) -> None:
    release = threading.Event()
    claude.script(Held(release))
    classifier = make(deadline_s=1.0)
    assert classifier.classify(ask(), max_wait_s=0.1).reason == "classifier_timeout"
    release.set()
    until(lambda: classifier.stats.in_flight == 0)
    verdict = classifier.classify(ask())
    assert (verdict.label, verdict.reason, verdict.cost_usd) == ("complex", "cached", 0)
    assert len(claude.calls()) == 1
    assert classifier.stats.cost_usd > 0, "it was billed all the same"


@pytest.mark.parametrize("outcome", [Hang(), Drip(60.0), Drip(60.0, headers=True)], ids=repr)
def test_a_call_that_never_ends_is_dropped_with_its_connection(
    outcome: Outcome, make: Make, claude: FakeClaude
) -> None:
    claude.always(outcome)
    classifier = make(deadline_s=0.2)
    classifier.warm()
    classifier.classify(ask())
    claude.wait_for_calls(1)
    assert claude.in_flight == 1
    until(lambda: classifier.stats.in_flight == 0)
    until(lambda: claude.in_flight == 0)


def test_a_sync_clients_lost_thread_keeps_its_place_in_flight(make: Make, claude: FakeClaude) -> None:
    claude.always(Drip(60.0, headers=True))
    classifier = make(client=claude.client(), deadline_s=0.1, max_in_flight=1)
    classifier.warm()
    assert classifier.classify(ask("a")).reason == "classifier_timeout"
    until(lambda: classifier.stats.in_flight == 0)
    assert classifier.classify(ask("b")).reason == "classifier_budget"


# --- one call for many -----------------------------------------------------------------------------------------------
def _payers(verdicts: list[Verdict]) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.cost_usd > 0]


def test_200_identical_threads_make_one_call(make: Make, claude: FakeClaude) -> None:
    release = threading.Event()
    claude.script(Held(release))
    classifier = make(deadline_s=30.0)
    futures: list[Future[Verdict]] = [in_thread(classifier.classify, ask()) for _ in range(200)]
    until(lambda: classifier.stats.joined == 199, 20)
    release.set()
    wait(futures)
    verdicts = [future.result() for future in futures]
    assert {(v.label, v.reason) for v in verdicts} == {("complex", "classified")}
    assert len(claude.calls()) == len(_payers(verdicts)) == 1
    assert {v.usage for v in verdicts if v.cost_usd == 0} == {Usage()}


def test_200_identical_tasks_make_one_call(make: Make, claude: FakeClaude) -> None:
    async def main() -> list[Verdict]:
        return await asyncio.gather(*(classifier.aclassify(ask()) for _ in range(200)))

    classifier = make(deadline_s=30.0)
    verdicts = asyncio.run(main())
    assert {v.label for v in verdicts} == {"complex"}
    assert len(claude.calls()) == len(_payers(verdicts)) == 1


def test_threads_and_tasks_share_a_call(make: Make, claude: FakeClaude) -> None:
    release = threading.Event()
    claude.script(Held(release))
    classifier = make(deadline_s=30.0)
    from_thread: Future[Verdict] = in_thread(classifier.classify, ask())
    claude.wait_for_calls(1)
    threading.Timer(0.05, release.set).start()
    verdict = asyncio.run(classifier.aclassify(ask()))
    assert verdict.label == from_thread.result().label == "complex"
    assert (verdict.cost_usd, len(claude.calls())) == (0, 1)


def test_a_cancelled_task_does_not_cancel_the_call_of_the_others(make: Make, claude: FakeClaude) -> None:
    release = threading.Event()
    claude.script(Held(release))
    classifier = make(deadline_s=30.0)

    async def main() -> Verdict:
        leader = asyncio.create_task(classifier.aclassify(ask()))
        follower = asyncio.create_task(classifier.aclassify(ask()))
        await asyncio.sleep(0)
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        release.set()
        return await follower

    assert asyncio.run(main()).label == "complex"
    assert len(claude.calls()) == 1


def test_a_failure_is_shared_with_those_who_wait_and_not_kept(make: Make, claude: FakeClaude) -> None:
    release = threading.Event()
    claude.script(Held(release, Error(400)))
    classifier = make(deadline_s=30.0)
    futures: list[Future[Verdict]] = [in_thread(classifier.classify, ask()) for _ in range(5)]
    until(lambda: classifier.stats.joined == 4)
    release.set()
    assert [future.result().reason for future in futures] == ["classifier_error"] * 5
    assert classifier.stats.failures == {"classifier_error": 5}
    assert classifier.classify(ask()).label == "complex"


def test_what_differs_in_text_is_asked_apart_and_what_differs_in_context_is_not(make: Make, claude: FakeClaude) -> None:
    classifier = make()
    for request in (ask("a", "It is 9:00."), ask("ab"), ask("a"), ask("a", "It is 9:01.")):
        classifier.classify(request)
    assert len(claude.calls()) == 2
    assert (classifier.stats.calls, classifier.stats.hits) == (2, 2)


# --- the cache -------------------------------------------------------------------------------------------------------
def test_an_answer_is_kept_for_its_time(make: Make, claude: FakeClaude) -> None:
    clock = Clock()
    classifier = make(clock=clock, cache_ttl_s=60.0)
    assert classifier.cached(ask()) is None
    classifier.classify(ask())
    clock.now += 59
    verdict = classifier.classify(ask())
    assert (verdict.reason, verdict.label, verdict.confidence) == ("cached", "complex", 0.9)
    assert (verdict.cost_usd, verdict.usage) == (0, Usage())
    clock.now += 1
    assert classifier.cached(ask()) is None
    assert classifier.classify(ask()).reason == "classified"
    assert len(claude.calls()) == 2


def test_a_cache_of_size_zero_keeps_nothing(make: Make, claude: FakeClaude) -> None:
    classifier = make(cache_size=0)
    assert [classifier.classify(ask()).reason for _ in range(2)] == ["classified", "classified"]


# --- when not to call ------------------------------------------------------------------------------------------------
def _breaker(make: Make, claude: FakeClaude, outcome: Outcome, **settings: Any) -> tuple[Classifier, Clock]:
    """A classifier whose first flight, which the breaker does not count, is over, and whose breaker is open."""
    clock = Clock()
    classifier = make(clock=clock, breaker_failures=2, breaker_reset_s=30.0, attempts=1, rpm=10**6, **settings)
    classifier.warm()
    claude.always(outcome)
    reasons = [classifier.classify(ask(f"{i}")).reason for i in range(4)]
    assert reasons[3] == "breaker_open"
    assert "breaker_open" not in reasons[:3]
    return classifier, clock


@pytest.mark.parametrize("outcome", [Error(401), Error(529), Reset(), Hang()], ids=repr)
def test_failures_open_the_breaker_but_the_first_call_does_not_count(
    outcome: Outcome, make: Make, claude: FakeClaude
) -> None:
    classifier, _ = _breaker(make, claude, outcome, deadline_s=0.2 if isinstance(outcome, Hang) else 3.0)
    claude.wait_for_calls(3)
    assert classifier.stats.breaker == "open"
    assert classifier.stats.calls == 3
    assert classifier.classify(ask("more")).prompt_id is None


def test_after_its_time_one_probe_decides(make: Make, claude: FakeClaude) -> None:
    classifier, clock = _breaker(make, claude, Error(500))
    clock.now += 30
    assert classifier.stats.breaker == "half_open"
    assert classifier.classify(ask("probe")).reason == "classifier_error"
    assert classifier.classify(ask("next")).reason == "breaker_open"
    clock.now += 30
    release = threading.Event()
    claude.script(Held(release))
    probe: Future[Verdict] = in_thread(classifier.classify, ask("probe"))
    claude.wait_for_calls(5)
    assert classifier.classify(ask("during")).reason == "breaker_open"
    claude.always(None)
    release.set()
    assert probe.result().label == "simple"
    assert classifier.stats.breaker == "closed"
    assert classifier.classify(ask("after")).label == "simple"


def test_an_open_breaker_still_reads_the_cache(make: Make, claude: FakeClaude) -> None:
    clock = Clock()
    classifier = make(clock=clock, breaker_failures=1, attempts=1)
    classifier.classify(ask("known"))
    claude.always(Error(500))
    clock.now += 1
    classifier.classify(ask("new"))
    assert classifier.stats.breaker == "open"
    assert classifier.classify(ask("known")).reason == "cached"


@pytest.mark.parametrize("outcome", [Refusal(), OffSchema(), TruncatedAnswer()], ids=repr)
def test_odd_requests_cannot_open_the_breaker(outcome: Outcome, make: Make, claude: FakeClaude) -> None:
    claude.always(outcome)
    classifier = make(breaker_failures=1, rpm=10**6)
    for i in range(4):
        classifier.classify(ask(f"{i}"))
    assert classifier.stats.breaker == "closed"


def test_the_rate_is_kept(make: Make, claude: FakeClaude) -> None:
    clock = Clock()
    classifier = make(clock=clock, rpm=6)
    assert classifier.classify(ask("a")).label == "simple"
    assert classifier.classify(ask("b")).reason == "classifier_budget"
    clock.now += 10
    assert classifier.classify(ask("b")).label == "simple"
    assert len(claude.calls()) == 2


def test_a_short_wait_for_the_rate_is_waited(make: Make, claude: FakeClaude) -> None:
    classifier = make(rpm=50, deadline_s=30.0)
    start = time.monotonic()
    verdicts = [in_thread(classifier.classify, ask(f"{i}")) for i in range(6)]
    assert {future.result().reason for future in verdicts} == {"classified"}
    last = max(call.at for call in claude.calls())
    assert last - start >= 1.15, "five leave at once, the sixth 1.2 s after the first left, whenever that arrived"


def test_100_distinct_requests_at_once_pass_at_the_default_rate(make: Make, claude: FakeClaude) -> None:
    release = threading.Event()
    claude.always(Held(release))
    classifier = make(max_in_flight=100, clock=Clock())
    classifier.warm()
    verdicts = [in_thread(classifier.classify, ask(f"{i}")) for i in range(100)]
    claude.wait_for_calls(100)
    release.set()
    assert "classifier_budget" not in {future.result().reason for future in verdicts}


def test_retries_are_paid_for_from_the_same_rate(make: Make, claude: FakeClaude) -> None:
    claude.always(Error(500))
    assert make(clock=Clock(), rpm=6).classify(ask()).reason == "classifier_error"
    assert len(claude.calls()) == 1


def test_in_flight_is_limited(make: Make, claude: FakeClaude) -> None:
    claude.always(Hang())
    classifier = make(max_in_flight=2, deadline_s=30.0, rpm=10**6)
    for i in range(2):
        classifier.classify(ask(f"{i}"), max_wait_s=0)
    assert classifier.classify(ask("third")).reason == "classifier_budget"
    assert classifier.stats.in_flight == 2
    assert classifier.classify(ask("0"), max_wait_s=0).reason == "classifier_timeout", "who joins needs no place"


def test_2000_distinct_callers_at_once_need_few_threads_and_leave_nothing(make: Make, claude: FakeClaude) -> None:
    release = threading.Event()
    claude.always(Held(release))
    classifier = make(max_in_flight=8, rpm=10**6, deadline_s=30.0)
    threads = threading.active_count()

    async def main() -> list[Verdict]:
        tasks = [asyncio.create_task(classifier.aclassify(ask(f"{i}"))) for i in range(2000)]
        await asyncio.wait(tasks[8:])
        assert classifier.stats.in_flight == 8
        assert threading.active_count() <= threads + 1 + 8, "the loop, and one that each call may use in passing"
        release.set()
        return await asyncio.gather(*tasks)

    reasons = [verdict.reason for verdict in asyncio.run(main())]
    assert reasons == ["classified"] * 8 + ["classifier_budget"] * 1992
    assert len(claude.calls()) == 8
    assert classifier.stats.in_flight == 0


# --- fall_through and keys -------------------------------------------------------------------------------------------
def test_async_answers_at_once_and_fills_the_cache(make: Make, claude: FakeClaude) -> None:
    release = threading.Event()
    claude.script(Held(release))
    classifier = make(fall_through="async")
    assert classifier.classify(ask()).reason == "classifier_timeout"
    assert asyncio.run(classifier.aclassify(ask())).reason == "classifier_timeout"
    release.set()
    until(lambda: classifier.cached(ask()) is not None)
    assert classifier.classify(ask()).reason == "cached"
    assert len(claude.calls()) == 1


def test_off_never_calls(make: Make, claude: FakeClaude) -> None:
    classifier = make(fall_through="off")
    classifier.warm()
    assert classifier.classify(ask()).reason == "fall_through_off"
    assert asyncio.run(classifier.aclassify(ask())).reason == "fall_through_off"
    assert claude.requests == []


def test_without_a_key_nothing_happens(make: Make, claude: FakeClaude, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    classifier = make()
    assert not classifier.has_key
    classifier.warm()
    assert classifier.classify(ask()).reason == "no_key"
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", claude.valid_key)
    assert classifier.has_key
    assert classifier.classify(ask()).label == "complex"


def test_a_client_without_a_key_is_no_key(make: Make, claude: FakeClaude, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with anthropic.Anthropic() as bare, anthropic.Anthropic(auth_token=claude.valid_key) as with_token:
        assert make(client=bare).classify(ask()).reason == "no_key"
        assert make(client=with_token).classify(ask()).label == "complex"
    with anthropic.Anthropic(default_headers={"x-api-key": claude.valid_key}) as behind_a_gateway:
        assert make(client=behind_a_gateway).classify(ask()).label == "complex"


def test_more_labels_than_can_be_asked_for_are_not(claude: FakeClaude) -> None:
    many = Taxonomy.inferred([f"label {i}" for i in range(13)])
    classifier = Classifier(many, TIERS, ClassifierSettings(), client=claude.client())
    assert classifier.classify(ask()).reason == "fall_through_off"


# --- life ------------------------------------------------------------------------------------------------------------
def test_warm_makes_the_client_and_sends_nothing(make: Make, claude: FakeClaude) -> None:
    make().warm()
    assert claude.requests == []


def test_warm_never_raises(make: Make, claude: FakeClaude, tmp_path: Path) -> None:
    (tmp_path / "anthropic.py").write_text("raise ImportError('broken')")
    done = _run(
        """
import threading
make().warm()
def none(self): raise RuntimeError("can't start new thread")
start, threading.Thread.start = threading.Thread.start, none
make().warm()
assert make().classify(ask("a")).reason == "classifier_error"
""",
        claude,
        first=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_close_twice_and_then_call_again(make: Make, claude: FakeClaude) -> None:
    classifier = make()
    classifier.close()
    classifier.classify(ask("a"))
    classifier.close()
    classifier.close()
    assert not [t for t in threading.enumerate() if t.name == "prerouter-classifier"]
    assert classifier.classify(ask("b")).label == "simple"


def test_close_releases_whoever_waits(make: Make, claude: FakeClaude) -> None:
    claude.always(Hang())
    classifier = make(deadline_s=60.0)
    waiting: Future[Verdict] = in_thread(classifier.classify, ask())
    claude.wait_for_calls(1)
    classifier.close()
    assert waiting.result(MARGIN_S).reason == "classifier_error"


def test_a_classifier_that_is_dropped_takes_its_thread_along(claude: FakeClaude) -> None:
    with claude.client() as given:
        Classifier(TAXONOMY, TIERS, ClassifierSettings(), client=given).classify(ask())
    gc.collect()
    until(lambda: not [t for t in threading.enumerate() if t.name == "prerouter-classifier"])


def _run(script: str, claude: FakeClaude, *flags: str, first: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, with a key and the fake's address; warnings are errors.

    first: a folder whose modules are found before all installed ones.
    """
    path = os.pathsep.join(str(folder) for folder in (first, Path(__file__).parent.parent) if folder)
    extra = {"ANTHROPIC_API_KEY": claude.valid_key, "ANTHROPIC_BASE_URL": claude.url, "PYTHONPATH": path}
    command = [sys.executable, "-W", "error", *flags, "-c", PREAMBLE + script]
    return subprocess.run(command, env=os.environ | extra, capture_output=True, text=True, timeout=60)


PREAMBLE = """
import os, sys
from prerouter.claude import Classifier
from prerouter.records import Request
from prerouter.sections import ClassifierSettings
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable
def make(**settings):
    return Classifier(Taxonomy.load(), TierTable.load(), ClassifierSettings(**settings))
def ask(text):
    return Request(text, "", (), 1, len(text))
"""


def test_the_sdk_is_imported_at_the_first_call(claude: FakeClaude) -> None:
    done = _run(
        """
classifier = make()
classifier.cached(ask("a")), classifier.stats, classifier.has_key, classifier.prompt
key = os.environ.pop("ANTHROPIC_API_KEY")
assert classifier.classify(ask("a")).reason == "no_key"
assert not {"anthropic", "asyncio"} & set(sys.modules)
os.environ["ANTHROPIC_API_KEY"] = key
assert classifier.classify(ask("a"), max_wait_s=3600).reason in ("classified", "classifier_timeout")
assert "anthropic" in sys.modules
classifier.close()
""",
        claude,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_child_has_calls_of_its_own(claude: FakeClaude) -> None:
    done = _run(
        """
import threading, time
classifier = make(deadline_s=30.0)
classifier.warm()
assert classifier.classify(ask("known")).reason == "classified"
threading.Thread(target=classifier.classify, args=(ask("in flight"),)).start()
while not classifier.stats.in_flight:
    time.sleep(0.001)
pid = os.fork()
if pid == 0:
    assert classifier.classify(ask("known")).reason == "cached"
    assert classifier.classify(ask("in flight")).reason == "classified"
    assert classifier.classify(ask("new")).reason == "classified"
    assert classifier.stats.calls == 2
    classifier.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert classifier.classify(ask("parent")).reason == "classified"
classifier.close()
""",
        claude,
        "-W",
        "ignore:This process:DeprecationWarning",
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("wait_s", [0.2, 0.0])
def test_a_hanging_call_does_not_keep_the_process(wait_s: float, claude: FakeClaude) -> None:
    claude.always(Hang())
    start = time.monotonic()
    done = _run(f"make(deadline_s=600.0).classify(ask('a'), max_wait_s={wait_s})", claude)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - start < 30


def test_a_hanging_name_look_up_keeps_neither_caller_nor_process(claude: FakeClaude) -> None:
    done = _run(
        """
import socket, threading, time
socket.getaddrinfo = lambda *args, **kw: threading.Event().wait()
os.environ["ANTHROPIC_BASE_URL"] = "http://claude.invalid"
start = time.monotonic()
classifier = make(deadline_s=0.5)
assert classifier.classify(ask("a")).reason == "classifier_timeout"
assert time.monotonic() - start < 5
""",
        claude,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("sdk", "reason"),
    [
        ("import threading; threading.Event().wait()", "classifier_timeout"),
        ("raise ImportError('broken')", "classifier_error"),
    ],
)
def test_an_sdk_that_cannot_be_imported(sdk: str, reason: str, claude: FakeClaude, tmp_path: Path) -> None:
    (tmp_path / "anthropic.py").write_text(sdk)
    done = _run(
        f"""
import logging, time
logging.disable()
start = time.monotonic()
classifier = make(deadline_s=0.3)
assert classifier.classify(ask("a")).reason == {reason!r}
assert time.monotonic() - start < 5
""",
        claude,
        first=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
