"""Fitting and conversations through the public door: the real SDK, the strict fake, whose 400 fails a test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_claude import Answer, FakeClaude, ToolUse, asks_for_label

from prerouter.claude import Classifier
from prerouter.dispatch import AsyncDispatch, Dispatch
from prerouter.errors import ConfigError, RequestTooLarge, UnsupportedRequest
from prerouter.files import shipped
from prerouter.local import LocalClassifier
from prerouter.router import PreRouter
from prerouter.settings import Settings
from prerouter.tiers import TierTable

HAIKU, SONNET, OPUS = (f"claude-{name}-5-5" for name in ("haiku", "sonnet", "opus"))
TOOL = {"name": "add", "description": "Adds.", "input_schema": {"type": "object", "properties": {}}}
# Local abstains on it, so the classifier is asked: its labels are scripted.
UNSURE = "次の文を英語に翻訳してください。「会議は来週の火曜日に延期されました。」"
Send = Callable[..., Any]


@pytest.fixture(scope="module")
def local() -> LocalClassifier:
    return LocalClassifier.load(shipped("models/default"))


def _router(claude: FakeClaude, local: LocalClassifier, **settings: Any) -> PreRouter:
    chosen = Settings(**settings)
    tiers = TierTable.load(chosen.tiers)
    classifier = Classifier(local.taxonomy, tiers, chosen.classifier, client=claude.client())
    return PreRouter(local, local.taxonomy, classifier, tiers, chosen)


@pytest.fixture
def router(claude: FakeClaude, local: LocalClassifier) -> Iterator[PreRouter]:
    with _router(claude, local) as router:
        yield router


@pytest.fixture(params=["create", "stream", "async"])
def send(request: pytest.FixtureRequest, claude: FakeClaude, router: PreRouter) -> Iterator[Send]:
    """Sends one request to claude-dispatch through one client, which remembers."""
    if request.param == "async":
        yield from _asynchronous(claude, router)
        return
    with claude.client() as bare, Dispatch(bare, router) as client:

        def sent(**body: Any) -> Any:
            if request.param == "create":
                return client.messages.create(model="claude-dispatch", **body)
            with client.messages.stream(model="claude-dispatch", **body) as stream:
                return stream.get_final_message()

        yield sent


def _asynchronous(claude: FakeClaude, router: PreRouter) -> Iterator[Send]:
    with asyncio.Runner() as runner:
        bare = claude.aclient()
        client = AsyncDispatch(bare, router)
        yield lambda **body: runner.run(client.messages.create(model="claude-dispatch", **body))
        runner.run(client.close())
        runner.run(bare.close())


@pytest.fixture
def client(claude: FakeClaude, router: PreRouter) -> Iterator[Dispatch]:
    with claude.client() as bare, Dispatch(bare, router) as client:
        yield client


def _label(claude: FakeClaude, *labels: str) -> None:
    """What the classifier answers next."""
    claude.script(*(Answer({"label": label, "confidence": 0.9}) for label in labels), when=asks_for_label)


def _served(claude: FakeClaude) -> list[str | None]:
    """Models of the calls that were not the classifier's."""
    return [record.model for record in claude.calls() if not asks_for_label(record.body)]


def _blocks(message: Any) -> list[dict[str, Any]]:
    return [block.to_dict() for block in message.content]


def _turn(messages: list[Any], reply: Any) -> None:
    """Keep the reply, as an agent does, and answer its tool calls."""
    messages.append({"role": "assistant", "content": _blocks(reply)})
    calls = [block.id for block in reply.content if block.type == "tool_use"]
    if calls:
        results = [{"type": "tool_result", "tool_use_id": name, "content": "3"} for name in calls]
        messages.append({"role": "user", "content": results})


# ---- conversations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("label", ["simple", "moderate", "complex"])
def test_a_five_step_tool_loop_with_thinking_stays_legal_and_with_its_model(
    send: Send, claude: FakeClaude, label: str, per_step: bool
) -> None:
    _label(claude, label)
    claude.script(*[ToolUse("add")] * 5, when=lambda body: not asks_for_label(body))
    messages: list[Any] = [{"role": "user", "content": UNSURE}]
    asked = {"max_tokens": 3_000, "tools": [TOOL], "dispatch_config": {"per_step": per_step}}
    replies = []
    for step in range(6):
        replies.append(send(messages=messages, **asked))
        _turn(messages, replies[-1])
        other = ("simple", "complex")[step % 2]  # what every later step would be judged to be
        claude.always(Answer({"label": other, "confidence": 0.9}), when=asks_for_label)
    assert [reply.stop_reason for reply in replies] == ["tool_use"] * 5 + ["end_turn"]
    assert all(reply.content[0].type == "thinking" for reply in replies)
    assert set(_served(claude)) == {{"simple": HAIKU, "moderate": SONNET, "complex": OPUS}[label]}
    assert len(_served(claude)) == 6
    labels = [reply.routing.decision.label for reply in replies]
    assert labels == [label] * 6 if not per_step else labels[0] == label
    _label(claude, "moderate")
    messages.append({"role": "user", "content": f"もう一度。{UNSURE}"})
    send(messages=messages, **asked)
    assert _served(claude)[-1] == SONNET


def test_a_conversation_through_all_tiers_stays_legal_and_each_model_sees_its_own_thoughts(
    send: Send, claude: FakeClaude
) -> None:
    messages: list[Any] = []
    for turn, label in enumerate(("complex", "simple", "moderate", "complex", "simple", "complex")):
        _label(claude, label)
        messages.append({"role": "user", "content": f"{turn}. {UNSURE}"})
        reply = send(messages=messages, max_tokens=2_000)
        _turn(messages, reply)
    assert _served(claude) == [OPUS, HAIKU, SONNET, OPUS, HAIKU, OPUS]
    shown = claude.calls(OPUS)[-1].body["messages"][1::2]
    assert [message["content"][0]["type"] == "thinking" for message in shown] == [True, False, False, True, False]
    assert reply.routing.adaptations == ("3 thinking blocks of other models left out",)


def test_the_label_of_the_last_turn_is_told_to_the_classifier(client: Dispatch, claude: FakeClaude) -> None:
    _label(claude, "complex", "simple")
    messages: list[Any] = [{"role": "user", "content": UNSURE}]
    _turn(messages, client.messages.create(model="claude-dispatch", max_tokens=2_000, messages=messages))
    messages.append({"role": "user", "content": f"もう一度。{UNSURE}"})
    client.messages.create(model="claude-dispatch", max_tokens=2_000, messages=messages)
    asked = [record.body["messages"][0]["content"] for record in claude.calls() if asks_for_label(record.body)]
    assert ["last turn: complex" in text for text in asked] == [False, True]


def test_a_switch_has_to_pay_for_the_prompt_cache_that_it_loses(client: Dispatch, claude: FakeClaude) -> None:
    _label(claude, "complex", "simple", "simple")
    long = "The quick brown fox jumps over the lazy dog. " * 12_000  # about 175,000 tokens on 5.x
    mark = {"type": "text", "text": long, "cache_control": {"type": "ephemeral"}}
    messages: list[Any] = [{"role": "user", "content": UNSURE}]
    asked: dict[str, Any] = {"model": "claude-dispatch", "max_tokens": 2_000, "system": [mark]}
    _turn(messages, client.messages.create(messages=messages, **asked))
    messages.append({"role": "user", "content": f"もう一度。{UNSURE}"})
    reply = client.messages.create(messages=messages, **asked)
    assert (reply.routing.decision.label, reply.routing.model) == ("simple", OPUS)
    assert reply.routing.decision.adjusted_by == ("stickiness",)
    _turn(messages, reply)
    messages.append({"role": "user", "content": f"最後に。{UNSURE}"})
    reply = client.messages.create(messages=messages, **asked, dispatch_config={"max_tier": "haiku"})
    assert reply.routing.model == HAIKU


@pytest.mark.parametrize(("words", "model"), [(12_000, "claude-opus-5"), (100, HAIKU)])
def test_a_step_decided_anew_stays_with_the_prompt_cache_where_leaving_does_not_pay(
    send: Send, claude: FakeClaude, words: int, model: str
) -> None:
    _label(claude, "complex", "simple")
    claude.script(ToolUse("add"), when=lambda body: not asks_for_label(body))
    messages: list[Any] = [{"role": "user", "content": UNSURE}]
    mark = {"type": "text", "text": "The quick brown fox jumps. " * words, "cache_control": {"type": "ephemeral"}}
    asked = {"max_tokens": 2_000, "tools": [TOOL], "system": [mark], "thinking": {"type": "disabled"}}
    _turn(messages, send(messages=messages, **asked, dispatch_config={"per_step": True}))
    messages[-1]["content"].append({"type": "text", "text": f"もう一度。{UNSURE}"})
    reply = send(messages=messages, **asked, dispatch_config={"per_step": True})
    assert (_served(claude), reply.routing.decision.label) == (["claude-opus-5", model], "simple")
    assert ("stickiness" in reply.routing.decision.adjusted_by) == (model != HAIKU)


# ---- fitting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "fields", "model", "adaptations"),
    [
        ("simple", {"thinking": {"type": "disabled"}}, HAIKU, ()),
        ("moderate", {"thinking": {"type": "disabled"}}, SONNET, ("thinking disabled -> between_tools",)),
        ("complex", {"thinking": {"type": "disabled"}}, "claude-opus-5", ()),
        ("complex", {"thinking": {"type": "enabled", "budget_tokens": 1_024}}, OPUS, ("thinking enabled -> adaptive",)),
        ("simple", {"tools": [TOOL], "tool_choice": {"type": "any"}}, HAIKU, ()),
        ("moderate", {"tools": [TOOL], "tool_choice": {"type": "any"}}, "claude-sonnet-5", ()),
        ("complex", {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "add"}}, "claude-opus-5", ()),
        ("simple", {"speed": "fast"}, OPUS, ()),
        ("moderate", {"extra_body": {"temperature": 1.0}}, SONNET, ("temperature left out",)),
        ("complex", {"output_config": {"effort": "max"}}, OPUS, ()),
    ],
)
def test_what_a_model_refuses_is_adapted_or_goes_to_one_that_takes_it_never_to_a_weaker_tier(
    send: Send, claude: FakeClaude, label: str, fields: dict[str, Any], model: str, adaptations: tuple[str, ...]
) -> None:
    _label(claude, label)
    reply = send(messages=[{"role": "user", "content": UNSURE}], max_tokens=3_000, **fields)
    assert (reply.routing.model, reply.routing.adaptations) == (model, adaptations)
    assert _served(claude) == [model]


@pytest.mark.parametrize(
    ("fields", "config", "told"),
    [
        ({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "The"}]}, {}, "prefill"),
        ({"extra_body": {"temperature": 0}}, {}, "temperature"),
        ({"max_tokens": 200_000}, {}, "max_tokens 200,000 is over its 128,000"),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, {"force_model": OPUS}, "tool_choice any"),
        ({"speed": "fast"}, {"max_tier": "sonnet"}, "fast mode"),
    ],
)
def test_what_no_allowed_model_takes_is_refused_before_any_call(
    client: Dispatch, claude: FakeClaude, fields: dict[str, Any], config: dict[str, Any], told: str
) -> None:
    asked = {"messages": [{"role": "user", "content": "What is the capital of Mongolia?"}], "max_tokens": 100} | fields
    with pytest.raises(UnsupportedRequest) as caught:
        client.messages.create(model="claude-dispatch", dispatch_config=config, timeout=60.0, **asked)
    assert told in str(caught.value)
    assert caught.value.next_step
    assert _served(claude) == []


def test_over_every_window_is_too_large_with_counts_before_any_call(client: Dispatch, claude: FakeClaude) -> None:
    messages: list[Any] = [{"role": "user", "content": "word " * 1_300_000}]
    with pytest.raises(RequestTooLarge, match=r"about 2,112,\d{3} tokens, the widest window allowed has 1,000,000"):
        client.messages.create(model="claude-dispatch", max_tokens=100, messages=messages)
    assert _served(claude) == []


def test_extended_leaves_out_smaller_windows(claude: FakeClaude, local: LocalClassifier) -> None:
    tiers = {"haiku": {"models": ["claude-haiku-4-5", HAIKU]}}
    with claude.client() as bare, _router(claude, local, tiers=tiers) as router:
        client = Dispatch(bare, router)
        asked: dict[str, Any] = {"model": "claude-dispatch", "max_tokens": 100}
        asked |= {"messages": [{"role": "user", "content": "What is the capital of Mongolia?"}]}
        models = [
            client.messages.create(**asked, dispatch_config={"context_window": window}).routing.model
            for window in ("standard", "extended")
        ]
    assert models == ["claude-haiku-4-5", HAIKU]


def test_an_unknown_key_is_a_config_error_before_any_call(client: Dispatch, claude: FakeClaude) -> None:
    with pytest.raises(ConfigError, match="did you mean 'priority'"):
        client.messages.create(
            model="claude-dispatch",
            max_tokens=100,
            messages=[{"role": "user", "content": "hi"}],
            dispatch_config={"prioritty": "cost"},
        )
    assert claude.requests == []
