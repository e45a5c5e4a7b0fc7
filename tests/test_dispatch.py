"""The drop-in client through its public door: the real SDK, the strict fake, sync and async."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pydantic
import pytest
from fake_claude import (
    Answer,
    Drip,
    Error,
    FakeClaude,
    Hang,
    Held,
    MaxTokens,
    Outcome,
    Refusal,
    Reset,
    StreamCutClean,
    ToolUse,
    asks_for_label,
)
from shadow_help import judging, prefers

from prerouter import AsyncDispatch, Dispatch, PreRouter, RouteLog
from prerouter.claude import Classifier
from prerouter.errors import (
    BudgetExceeded,
    ConfigError,
    InvalidRequest,
    UnsupportedRequest,
    UpstreamError,
)
from prerouter.files import shipped
from prerouter.local import LocalClassifier
from prerouter.settings import load_settings
from prerouter.tiers import TierTable

HAIKU, SONNET, OPUS = "claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"
EASY = "What is 2 + 2?"
UNSURE = "次の文を英語に翻訳してください。「会議は来週の火曜日に延期されました。」"  # local abstains on it
HARD = [{"role": "user", "content": UNSURE}]
SAID = "A simulated answer."
Send = Callable[..., Any]


def ask(text: str = EASY, **more: Any) -> dict[str, Any]:
    return {"model": "claude-dispatch", "max_tokens": 2000, "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RouteLog]:
    with RouteLog.open(tmp_path / "routes.db") as log:
        yield log


@pytest.fixture(scope="module")
def local() -> LocalClassifier:
    return LocalClassifier.load(shipped("models/default"))


def routing(claude: FakeClaude, local: LocalClassifier, **tables: Any) -> PreRouter:
    one_each = {"sonnet": {"models": [SONNET]}, "opus": {"models": [OPUS]}}
    settings = load_settings(flags={"dispatch": {"retries": 1}, "tiers": one_each, **tables})
    table = TierTable.load(settings.tiers)
    classifier = Classifier(local.taxonomy, table, settings.classifier, client=claude.client())
    return PreRouter(local, local.taxonomy, classifier, table, settings)


@pytest.fixture
def router(claude: FakeClaude, local: LocalClassifier) -> Iterator[PreRouter]:
    with routing(claude, local) as router:
        yield router


@pytest.fixture
def client(claude: FakeClaude, router: PreRouter, log: RouteLog) -> Iterator[Dispatch]:
    with Dispatch(claude.client(), router, log) as client:
        yield client


@pytest.fixture(params=["create", "stream", "async create", "async stream"])
def send(request: pytest.FixtureRequest, claude: FakeClaude, router: PreRouter, log: RouteLog) -> Iterator[Send]:
    """`send(**body)` is a whole reply, however it was had."""
    kind = request.param.split()[-1]
    if request.param.startswith("async"):
        with asyncio.Runner() as runner:
            bare = claude.aclient()
            aclient = AsyncDispatch(bare, router, log)
            yield lambda **body: runner.run(_asent(aclient, kind, body))
            runner.run(bare.close())
        return
    with Dispatch(claude.client(), router, log) as client:
        yield lambda **body: _sent(client, kind, body)


def _sent(client: Dispatch, kind: str, body: Mapping[str, Any]) -> Any:
    if kind == "create":
        return client.messages.create(**body)
    with client.messages.stream(**body) as stream:
        return stream.get_final_message()


async def _asent(client: AsyncDispatch, kind: str, body: Mapping[str, Any]) -> Any:
    if kind == "create":
        return await client.messages.create(**body)
    async with client.messages.stream(**body) as stream:
        return await stream.get_final_message()


def models(claude: FakeClaude) -> list[str | None]:
    """The models that were called for answers."""
    return [call.model for call in claude.calls() if not asks_for_label(call.body)]


def outcomes(reply: Any) -> list[tuple[str, str, str]]:
    return [(tried.model, tried.why, tried.outcome) for tried in reply.routing.attempts]


# ------------------------------------------------------------------------------------------------ what comes back


def test_a_reply_is_the_sdks_own_and_tells_its_routing(send: Send, claude: FakeClaude, log: RouteLog) -> None:
    reply = send(**ask(dispatch_config={"tags": {"team": "search"}}))
    assert issubclass(type(reply), anthropic.types.Message)
    assert reply.content[-1].text == SAID
    assert "routing" not in reply.to_json()
    routing = reply.routing
    assert (routing.decision.label, routing.model, routing.served, routing.tier) == ("simple", HAIKU, HAIKU, "haiku")
    assert (routing.mode, routing.warnings, outcomes(reply)) == ("on", (), [(HAIKU, "first", "answered")])
    assert routing.cost_usd == claude.billed() > 0
    assert routing.baseline_usd == 40 * routing.cost_usd
    assert json.loads(json.dumps(routing.to_json()))["attempts"][0]["request_id"]
    log.flush()
    (row,) = log.tail()
    assert row.reply
    assert (row.reply.model, row.tags, row.decision.id) == (HAIKU, {"team": "search"}, routing.decision.id)


def test_what_arrives_is_what_was_given_but_for_the_model(send: Send, claude: FakeClaude) -> None:
    body = ask(
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        tools=[{"name": "f", "input_schema": {"type": "object", "properties": {}}}],
        tool_choice={"type": "auto"},
        stop_sequences=["END"],
        metadata={"user_id": "u"},
        extra_body={"speed": "standard"},
        extra_headers={"x-mine": "1"},
    )
    send(**body, dispatch_config={"min_tier": "haiku"})
    (call,) = claude.calls()
    sent = {**call.body}
    sent.pop("stream", None)
    kept = {key: value for key, value in body.items() if not key.startswith("extra")}
    assert sent == kept | {"model": HAIKU, "speed": "standard"}
    assert call.headers["x-mine"] == "1"


def test_streams_tell_their_routing_before_the_first_event(client: Dispatch, claude: FakeClaude) -> None:
    events = client.messages.create(**ask(stream=True))
    assert (events.routing.model, outcomes(events)) == (HAIKU, [(HAIKU, "first", "open")])
    kinds = [event.type for event in events]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert outcomes(events) == [(HAIKU, "first", "answered")]
    assert events.routing.cost_usd == claude.billed()
    assert 0 < events.routing.first_byte_s <= events.routing.seconds


def test_text_streams_and_parsed_answers(client: Dispatch, claude: FakeClaude) -> None:
    class Sum(pydantic.BaseModel):
        total: int

    with client.messages.stream(**ask()) as stream:
        assert stream.routing.model == HAIKU
        assert "".join(stream.text_stream) == SAID
    claude.script(Answer('{"total": 4}'))
    reply = client.messages.parse(**ask(output_format=Sum))
    assert (reply.parsed_output, reply.routing.model) == (Sum(total=4), HAIKU)


def test_raw_and_beta_replies(client: Dispatch) -> None:
    raw = client.messages.with_raw_response.create(**ask())
    assert (raw.routing.model, raw.parse().routing.model, raw.status_code) == (HAIKU, HAIKU, 200)
    assert raw.http_response.elapsed.total_seconds() > 0
    with client.messages.with_streaming_response.create(**ask()) as response:
        assert json.loads("".join(response.iter_lines()))["model"] == HAIKU
    beta = client.beta.messages.create(**ask(betas=["some-beta"]))
    assert issubclass(type(beta), anthropic.types.beta.BetaMessage)
    assert beta.routing.model == HAIKU


def test_a_reply_can_be_copied_and_pickled(client: Dispatch) -> None:
    reply = client.messages.create(**ask())
    for twin in (pickle.loads(pickle.dumps(reply)), copy.deepcopy(reply), reply.model_copy(deep=True)):
        assert (twin.to_json(), twin.routing) == (reply.to_json(), reply.routing)


def test_the_list_of_models_shows_ours_first(client: Dispatch, claude: FakeClaude) -> None:
    assert [model.id for model in client.models.list(limit=1)].count("claude-dispatch") == 1
    assert next(iter(client.models.list())).id == "claude-dispatch"
    assert client.models.retrieve("claude-dispatch").type == "model"
    assert client.models.retrieve(HAIKU).id == HAIKU


def test_tokens_are_counted_for_the_model_it_would_go_to(client: Dispatch, claude: FakeClaude) -> None:
    count = {"model": "claude-dispatch", "messages": ask()["messages"]}
    assert client.messages.count_tokens(**count, dispatch_config={"min_tier": "opus"}).input_tokens > 0
    assert claude.requests[-1].model == OPUS
    assert client.report().total.requests == 0


def test_other_models_go_to_the_users_own_client(claude: FakeClaude, router: PreRouter, log: RouteLog) -> None:
    given = claude.client(max_retries=1)
    client = Dispatch(given, router, log)
    claude.script(Error(500))
    reply = client.messages.create(**ask() | {"model": "claude-opus-4-8"})
    assert not hasattr(reply, "routing")
    assert [call.retry_count for call in claude.calls()] == [0, 1]
    assert client.api_key == given.api_key
    log.flush()
    assert log.tail() == []


def test_options_make_another_client_with_the_same_ledger(client: Dispatch, claude: FakeClaude) -> None:
    other = client.with_options(default_headers={"x-mine": "1"})
    other.messages.create(**ask())
    assert claude.calls()[-1].headers["x-mine"] == "1"
    assert client.report().total.requests == 1


# ------------------------------------------------------------------------------------------------ before any call


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"dispatch_config": {"prioritty": "cost"}}, ConfigError),
        ({"dispatch_config": {"min_tier": "gold"}}, InvalidRequest),
        ({"dispatch_config": {"max_usd": 0.000001}}, BudgetExceeded),
        ({"messages": []}, InvalidRequest),
        ({"max_tokens": 999_999, "timeout": 60}, UnsupportedRequest),
    ],
)
def test_what_cannot_be_is_said_before_any_call(send: Send, claude: FakeClaude, change: Any, error: Any) -> None:
    with pytest.raises(error):
        send(**ask() | change)
    assert claude.requests == []


def test_the_kind_of_client_is_checked(claude: FakeClaude) -> None:
    with pytest.raises(ConfigError, match="AsyncDispatch"):
        Dispatch(claude.aclient())
    with pytest.raises(ConfigError, match="Dispatch"):
        AsyncDispatch(claude.client())
    with pytest.raises(ConfigError, match="no anthropic client"):
        Dispatch(object())
    with pytest.raises(ConfigError, match="one already"):
        Dispatch(Dispatch(claude.client()))


def test_a_copy_is_a_dispatch_too_and_what_is_closed_twice_is_closed(
    claude: FakeClaude, client: Dispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.copy(timeout=50.0).messages.create(**ask()).routing.model == HAIKU
    monkeypatch.setenv("ANTHROPIC_API_KEY", claude.valid_key)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)
    own = Dispatch()
    assert own.messages.create(**ask()).routing.model == HAIKU
    for closing in (own, own, Dispatch()):
        closing.close()


def test_a_bedrock_stream_is_refused_in_words(router: PreRouter, claude: FakeClaude) -> None:
    bedrock = anthropic.AnthropicBedrock(aws_region="x", api_key="k", base_url=claude.url)
    with pytest.raises(UnsupportedRequest, match="Bedrock"), Dispatch(bedrock, router).messages.stream(**ask()):
        pass


def test_a_foundry_client_works(router: PreRouter, claude: FakeClaude) -> None:
    with anthropic.AnthropicFoundry(api_key=claude.valid_key, base_url=claude.url) as foundry:
        assert Dispatch(foundry, router).messages.create(**ask()).routing.model == HAIKU


# ------------------------------------------------------------------------------------------------ failure


@pytest.mark.parametrize("fault", [Error(529), Error(500), Reset(), Error(429)])
def test_what_passes_is_tried_again(send: Send, claude: FakeClaude, fault: Outcome) -> None:
    claude.script(fault)
    reply = send(**ask())
    assert [why for _, why, _ in outcomes(reply)] == ["first", "retry"]
    assert models(claude) == [HAIKU, HAIKU]


def test_an_overloaded_tier_falls_to_the_next_by_policy(send: Send, claude: FakeClaude) -> None:
    claude.always(Error(529), when=SONNET)
    reply = send(**ask(dispatch_config={"min_tier": "sonnet"}))
    assert outcomes(reply)[-1] == (OPUS, "next_tier", "answered")
    assert reply.routing.decision.model == SONNET
    claude.always(Error(529), when=OPUS)
    claude.always(None, when=SONNET)
    claude.always(Answer({"label": "complex"}), when=asks_for_label)
    assert send(**ask(dispatch_config={"priority": "cost", "tags": {}}) | {"messages": HARD}).routing.model == SONNET


def test_bounds_hold_in_failure(send: Send, claude: FakeClaude) -> None:
    claude.always(Error(529), when=HAIKU)
    with pytest.raises(anthropic.InternalServerError) as caught:
        send(**ask(dispatch_config={"max_tier": "haiku"}))
    assert {tried.model for tried in caught.value.routing.attempts} == {HAIKU}  # type: ignore[attr-defined]


def test_a_dead_model_is_left_out_afterwards(send: Send, claude: FakeClaude) -> None:
    claude.always(Error(404), when=HAIKU)
    assert outcomes(send(**ask())) == [(HAIKU, "first", "dead_model"), (SONNET, "next_tier", "answered")]
    assert outcomes(send(**ask())) == [(SONNET, "first", "answered")]


@pytest.mark.parametrize("status", [400, 401, 402, 413])
def test_the_apis_own_errors_are_as_without_us(send: Send, claude: FakeClaude, log: RouteLog, status: int) -> None:
    claude.always(Error(status))
    with pytest.raises(anthropic.APIStatusError) as caught:
        send(**ask())
    assert (caught.value.status_code, len(claude.calls())) == (status, 1)
    assert caught.value.routing.attempts[0].outcome == "rejected"  # type: ignore[attr-defined]
    log.flush()
    assert len(log.tail()) == 1


def test_a_spend_limit_stops_at_once(send: Send, claude: FakeClaude) -> None:
    claude.always(Error(429, code="enforced_spend_limit_reached"))
    with pytest.raises(anthropic.RateLimitError):
        send(**ask())
    assert len(claude.calls()) == 1


def test_a_long_retry_after_is_not_waited_for(send: Send, claude: FakeClaude) -> None:
    claude.always(Error(429, retry_after=60), when=HAIKU)
    assert send(**ask()).routing.model == SONNET


def test_a_refusal_goes_once_to_another_model(send: Send, claude: FakeClaude) -> None:
    claude.always(Refusal(None), when=HAIKU)
    reply = send(**ask())
    assert outcomes(reply) == [(HAIKU, "first", "refused"), (SONNET, "refusal", "answered")]
    assert reply.routing.cost_usd == claude.billed()
    claude.always(Refusal(None))
    assert send(**ask()).stop_reason == "refusal"
    assert len(claude.calls()) == 4


@pytest.mark.parametrize("more", [{}, {"extra_body": {"fallbacks": []}}])
def test_some_refusals_are_not_ours_to_handle(send: Send, claude: FakeClaude, more: Any) -> None:
    claude.always(Refusal("cyber" if not more else None))
    if more:
        more = {"extra_body": {"fallbacks": [{"model": SONNET}]}, "extra_headers": {"anthropic-beta": "x"}}
    assert send(**ask(**more)).stop_reason == "refusal"
    assert len(claude.calls()) == 1


def test_an_answer_that_was_all_thinking_is_asked_for_once_more(send: Send, claude: FakeClaude) -> None:
    claude.script(MaxTokens())
    reply = send(**ask())
    assert outcomes(reply) == [(HAIKU, "first", "no_text"), (HAIKU, "no_text", "answered")]
    assert reply.routing.adaptations == ("thinking off",)
    assert claude.calls()[1].body["thinking"] == {"type": "disabled"}
    claude.always(MaxTokens())
    assert send(**ask()).stop_reason == "max_tokens"


def test_a_text_cut_by_max_tokens_is_returned_as_it_is(send: Send, claude: FakeClaude) -> None:
    claude.always(MaxTokens(with_text=True))
    assert send(**ask()).stop_reason == "max_tokens"
    assert len(claude.calls()) == 1


def test_a_served_model_that_was_not_asked_for_is_named_and_paid(send: Send, claude: FakeClaude) -> None:
    claude.script(Answer(served="claude-opus-5"))
    reply = send(**ask())
    assert reply.routing.warnings == (f"asked for {HAIKU}, served by claude-opus-5",)
    assert (reply.routing.model, reply.routing.served) == (HAIKU, "claude-opus-5")


@pytest.mark.parametrize("timeout", [0.3, httpx2.Timeout(30.0, read=0.3)])
def test_a_client_without_patience_is_not_made_to_wait(
    claude: FakeClaude, router: PreRouter, timeout: float | httpx2.Timeout
) -> None:
    claude.always(Hang(30))
    started = time.monotonic()
    with pytest.raises(anthropic.APITimeoutError) as caught:
        Dispatch(claude.client(timeout=timeout), router).messages.create(**ask())
    tried = caught.value.routing.attempts  # type: ignore[attr-defined]
    assert [(one.model, one.outcome) for one in tried] == [(name, "timeout") for name in (HAIKU, SONNET, OPUS)]
    assert time.monotonic() - started < 3 * 0.3 + 3


def test_who_interrupts_leaves_nothing_behind(claude: FakeClaude, client: Dispatch) -> None:
    claude.script(Hang(30))
    ready = threading.Thread(target=lambda: (claude.wait_for_calls(1), signal.raise_signal(signal.SIGINT)))
    ready.start()
    with pytest.raises(KeyboardInterrupt):
        client.messages.create(**ask())
    ready.join()
    claude.wait_until_idle()
    assert client.messages.create(**ask()).routing.model == HAIKU
    report = client.report()
    assert (report.attempts, report.errors) == ({"cancelled": 1, "answered": 1}, {"KeyboardInterrupt": 1})


@pytest.mark.parametrize("shown", [False, True])
def test_a_stream_of_garbage_is_never_whole(router: PreRouter, shown: bool) -> None:
    def respond(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=parts(), headers={"content-type": "text/event-stream"})

    def parts() -> Iterator[bytes]:
        start = {"type": "message_start", "message": {"model": HAIKU, "usage": {"input_tokens": 9}}}
        text = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Four"}}
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        for event in (start, block, text) if shown else (start, block):
            yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        yield b"event: content_block_delta\ndata: {garbage\n\nevent: message_stop\ndata: {}\n\n"

    http = httpx2.Client(transport=httpx2.MockTransport(respond))
    bare = anthropic.Anthropic(api_key="k", base_url="http://a.invalid", http_client=http)
    client = Dispatch(bare, router)
    with pytest.raises(UpstreamError) as caught:
        list(client.messages.create(**ask(stream=True)))
    routing = caught.value.routing  # type: ignore[attr-defined]
    assert {one.outcome for one in routing.attempts} == {"cut"}
    assert (len(routing.attempts) == 1) == shown  # what was shown is not begun anew
    assert routing.cost_usd == client.report().total.usd > 0


def test_no_answer_in_time_is_an_error_of_both_kinds(send: Send, claude: FakeClaude, log: RouteLog) -> None:
    claude.always(Hang(30))
    started = time.monotonic()
    with pytest.raises(anthropic.APITimeoutError) as caught:
        send(**ask(dispatch_config={"deadline_s": 0.3}))
    assert time.monotonic() - started < 0.3 + 1
    error = caught.value
    assert isinstance(error, UpstreamError)
    assert (error.attempts, error.routing.attempts[0].outcome) == (1, "timeout")  # type: ignore[attr-defined]
    assert str(error) == f"no answer within the deadline ({HAIKU} timeout); raise deadline_s"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    log.flush()
    assert len(log.tail()) == 1


@pytest.mark.parametrize("headers", [True, False])
def test_a_dripping_server_is_given_up_in_time(send: Send, claude: FakeClaude, headers: bool) -> None:
    claude.always(Drip(60, 0.05, headers=headers))
    started = time.monotonic()
    with pytest.raises(UpstreamError):
        send(**ask(dispatch_config={"deadline_s": 0.5}))
    assert time.monotonic() - started < 0.5 + 1


def test_nobody_listening_is_an_error_of_both_kinds(router: PreRouter) -> None:
    with anthropic.Anthropic(api_key="k", base_url="http://127.0.0.1:9") as bare:
        with pytest.raises(anthropic.APIConnectionError) as caught:
            Dispatch(bare, router).messages.create(**ask())
        assert isinstance(caught.value, UpstreamError)
        assert caught.value.attempts == 2
        assert "2 + 2" not in str(caught.value)


def test_a_missing_key_is_told_as_the_sdk_tells_it(router: PreRouter) -> None:
    with anthropic.Anthropic(api_key="k", base_url="http://127.0.0.1:9") as bare:
        bare.api_key = None
        with pytest.raises(TypeError, match="authentication"):
            Dispatch(bare, router).messages.create(**ask())


def test_a_stream_cut_after_content_raises_and_is_not_sent_again(client: Dispatch, claude: FakeClaude) -> None:
    claude.script(StreamCutClean(after="text", delay_s=0.0))
    claude.script(Answer())
    stream = client.messages.create(**ask(stream=True))
    assert next(stream).type == "message_start"
    with pytest.raises(UpstreamError) as caught:
        list(stream)
    assert caught.value.routing.attempts[-1].outcome == "cut"  # type: ignore[attr-defined]
    assert len(claude.calls()) == len(caught.value.routing.attempts)  # type: ignore[attr-defined]


def test_a_stream_that_is_closed_early_is_accounted_once(client: Dispatch, claude: FakeClaude, log: RouteLog) -> None:
    claude.always(Drip(2.0, 0.01))
    with client.messages.stream(**ask()) as stream:
        next(iter(stream.text_stream))
    assert outcomes(stream) == [(HAIKU, "first", "cancelled")]
    log.flush()
    assert (len(log.tail()), client.report().total.requests) == (1, 1)


def test_a_stream_that_is_dropped_unread_is_accounted_by_the_next_call(client: Dispatch, log: RouteLog) -> None:
    client.messages.create(**ask(stream=True))
    gc.collect()
    client.messages.create(**ask())
    assert client.report().total.requests == 2


def test_a_users_middleware_is_kept_and_sees_one_request(claude: FakeClaude, router: PreRouter) -> None:
    seen: list[Any] = []

    def mine(request: Any, call_next: Any) -> Any:
        seen.append(request.json["model"])
        return call_next(request)

    claude.script(Error(529))
    Dispatch(claude.client(middleware=[mine]), router).messages.create(**ask())
    assert (seen, len(claude.calls())) == (["claude-dispatch"], 2)


# ------------------------------------------------------------------------------------------------ speed


def test_a_speculation_that_wins_is_the_answer(send: Send, claude: FakeClaude) -> None:
    asked = threading.Event()
    claude.script(Held(asked, Answer({"label": "simple"})), when=asks_for_label)

    def release() -> None:
        claude.wait_for_calls(2, 20)
        asked.set()

    threading.Thread(target=release).start()
    reply = send(**ask(UNSURE, dispatch_config={"speculative": "cheap"}))
    assert outcomes(reply) == [(HAIKU, "speculative", "answered")]
    assert reply.routing.cost_usd == claude.billed()


def test_a_speculation_that_loses_is_cancelled_and_counted(send: Send, claude: FakeClaude) -> None:
    claude.always(Hang(30), when=lambda body: body["model"] == HAIKU and not asks_for_label(body))
    claude.script(Answer({"label": "complex"}), when=asks_for_label)
    reply = send(**ask(UNSURE, dispatch_config={"speculative": "cheap"}))
    assert outcomes(reply) == [(HAIKU, "speculative", "cancelled"), (OPUS, "first", "answered")]
    assert reply.routing.attempts[0].cost_usd > 0


def test_the_generalist_is_the_default_labels_tier(send: Send, claude: FakeClaude) -> None:
    claude.script(Answer({"label": "moderate"}), when=asks_for_label)
    reply = send(**ask(UNSURE, dispatch_config={"speculative": "generalist"}))
    assert outcomes(reply) == [(SONNET, "speculative", "answered")]


def test_nothing_is_speculated_when_local_decides(send: Send, claude: FakeClaude) -> None:
    assert outcomes(send(**ask(dispatch_config={"speculative": "generalist"}))) == [(HAIKU, "first", "answered")]


@pytest.mark.parametrize("priority", ["cost", "quality"])
def test_the_label_is_acted_on_before_the_rest_of_it_comes(claude: FakeClaude, local: Any, priority: str) -> None:
    said = {"label": "complex", "confidence": 0.9, "rationale": "because " * 200}
    claude.answer = lambda body: said if asks_for_label(body) else SAID
    claude.script(Drip(2.0, 0.02), when=asks_for_label)
    with routing(claude, local, classifier={"ask": ("rationale",), "deadline_s": 30.0}) as router:
        reply = Dispatch(claude.client(), router).messages.create(
            **ask(UNSURE, dispatch_config={"priority": priority}), timeout=60
        )
    asked, answered = (call.at for call in claude.calls())
    assert (answered - asked < 1.8) is (priority == "cost")  # for quality the confidence matters too
    decision = reply.routing.decision
    assert (decision.decided_by, decision.confidence, decision.rationale) == ("llm", 0.9, said["rationale"])
    assert reply.routing.cost_usd == claude.billed()


def test_a_classification_cut_after_its_label_still_counts(send: Send, claude: FakeClaude) -> None:
    claude.script(StreamCutClean(after="stop"), when=asks_for_label)
    decision = send(**ask(UNSURE)).routing.decision
    assert decision.decided_by in ("llm", "default")  # the label came, or everything was lost at once


def test_a_question_that_cannot_pay_is_not_asked(send: Send, claude: FakeClaude) -> None:
    reply = send(**ask("あ") | {"max_tokens": 1})
    assert reply.routing.decision.reason == "unprofitable"
    assert not any(asks_for_label(call.body) for call in claude.calls())


# ------------------------------------------------------------------------------------------------ modes


def test_in_shadow_mode_the_given_model_serves(
    send: Send, claude: FakeClaude, log: RouteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREROUTER_MODE", "shadow")
    reply = send(**ask() | {"model": OPUS})
    assert (reply.model, reply.routing.decision.model, reply.routing.mode) == (OPUS, HAIKU, "shadow")
    ours = send(**ask())
    assert (ours.model, ours.routing.decision.model) == (OPUS, HAIKU)
    log.flush()
    assert [(row.decision.model, row.reply and row.reply.model) for row in log.tail()] == [(HAIKU, OPUS)] * 2


@pytest.mark.parametrize("stream", [False, True])
def test_shadowed_answers_are_compared_with_the_routed_model(
    claude: FakeClaude, local: LocalClassifier, log: RouteLog, stream: bool
) -> None:
    claude.answer = judging(prefers("simulated"))
    with Dispatch(claude.client(), routing(claude, local, shadow={"rate": 1.0}), log) as client:
        body = ask(dispatch_config={"shadow": True})
        if stream:
            with client.messages.stream(**body) as events:
                served = events.get_final_message()
        else:
            served = client.messages.create(**body)
    log.flush()
    (found,) = log.labels(origin="judge")
    assert (served.model, found.outcome in ("won", "tied", "lost"), found.label) == (OPUS, True, None)
    assert [row.mode for row in log.rows()] == ["shadow"]
    assert sum(call.body.get("model") == HAIKU for call in claude.calls()) == 1


def test_audits_are_in_the_report(claude: FakeClaude, log: RouteLog) -> None:
    with PreRouter.load(client=claude.client(), settings={"audit": {"rate": 1.0}}, log=log) as router:
        client = Dispatch(claude.client(), router)
        for i in range(3):
            client.messages.create(**ask(f"What is 2 + {i}?"))
        client.close()
    report = client.report()
    asked = sum(asks_for_label(call.body) for call in claude.calls())
    assert asked == 3
    assert report.billed_usd == claude.billed(told=True)
    assert report.aside_usd > 0
    log.flush()
    assert len(list(log.labels(origin="audit"))) == sum(row.decision.decided_by == "local" for row in log.rows())


def test_feedback_becomes_a_label_of_the_log(claude: FakeClaude, local: LocalClassifier, log: RouteLog) -> None:
    router = routing(claude, local)
    router.log = log
    with Dispatch(claude.client(), router) as client:
        client.feedback(client.messages.create(**ask()).routing.decision.id, label="moderate", score=0.4)
    log.flush()
    assert [(found.label, found.score, found.origin) for found in log.labels()] == [("moderate", 0.4, "feedback")]


def test_one_request_can_be_shadowed(send: Send) -> None:
    reply = send(**ask(dispatch_config={"shadow": True}))
    assert (reply.routing.model, reply.routing.decision.model, reply.routing.mode) == (OPUS, HAIKU, "shadow")


def test_the_kill_switch_sends_to_the_default(send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREROUTER_MODE", "off")
    reply = send(**ask())
    assert (reply.routing.model, reply.routing.decision.decided_by, reply.routing.mode) == (SONNET, "default", "off")


def test_a_thread_that_the_api_keeps_stays_with_its_model(client: Dispatch, claude: FakeClaude) -> None:
    beta = {"anthropic-beta": "threads"}
    first = client.beta.messages.create(
        **ask(extra_body={"thread": {"type": "create"}}, extra_headers=beta, dispatch_config={"min_tier": "opus"})
    )
    assert first.routing.model == OPUS
    more = {"thread": {"type": "continue", "previous_message_id": first.id}}
    again = client.beta.messages.create(**ask("Thanks!", extra_body=more, extra_headers=beta))
    assert again.routing.model == OPUS


# ------------------------------------------------------------------------------------------------ many at once


def test_a_hundred_threads_share_a_client(client: Dispatch, claude: FakeClaude, log: RouteLog) -> None:
    claude.draw = lambda: Answer()
    errors: list[BaseException] = []

    def work(n: int) -> None:
        try:
            assert client.messages.create(**ask(f"{EASY} {n}")).content[-1].text == SAID
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    log.flush()
    assert (log.stats().rows, client.report().total.requests) == (100, 100)
    assert client.report().total.usd == claude.billed()


def test_cancelling_an_async_call_ends_its_connection(claude: FakeClaude, router: PreRouter) -> None:
    async def main() -> None:
        async with claude.aclient() as bare:
            client = AsyncDispatch(bare, router)
            task = asyncio.create_task(client.messages.create(**ask()))
            await asyncio.to_thread(claude.wait_for_calls, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert client.report().total.requests == 1

    claude.always(Hang(30))
    asyncio.run(main())
    claude.wait_until_idle()


def test_tools_go_round_on_one_model(send: Send, claude: FakeClaude) -> None:
    tool = {"name": "add", "input_schema": {"type": "object", "properties": {}}}
    claude.script(ToolUse("add"))
    messages: list[Any] = [{"role": "user", "content": EASY}]
    first = send(**ask(tools=[tool]) | {"messages": messages})
    call = first.content[-1]
    messages += [
        {"role": "assistant", "content": [block.to_dict() for block in first.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "4"}]},
    ]
    second = send(**ask(tools=[tool]) | {"messages": messages})
    assert (first.routing.model, second.routing.model) == (HAIKU, HAIKU)
    assert second.routing.decision.label == first.routing.decision.label
