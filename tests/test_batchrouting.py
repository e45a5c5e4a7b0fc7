"""Batches through Dispatch: each item on its model, in order, paid once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import json
import pickle
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import assistant
import pytest
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse
from dispatch_help import MODELS
from fake_claude import Answer, Error, FakeClaude, Lost, Outcome, Reset, asks_for_label
from fake_claude_batches import BATCHES
from fake_claude_bill import price
from model_help import save

from prerouter.dispatch import AsyncDispatch, Dispatch
from prerouter.errors import ConfigError, InvalidRequest, UnsupportedRequest
from prerouter.routelog import RouteLog
from prerouter.router import PreRouter

SETTINGS = {"classifier": {"deadline_s": 120, "rpm": 1_000_000}, "batch": {"patience_s": 5}}
WORDS = {"easy": "claude-haiku-5-5", "hard": "claude-opus-5-5"}  # what the tiny model decides by itself


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / "tiny"
    save(made)
    return made


@pytest.fixture
def router(claude: FakeClaude, folder: Path) -> Iterator[PreRouter]:
    with PreRouter.load(folder, client=claude.client(), settings=SETTINGS) as made:
        yield made


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RouteLog]:
    with RouteLog.open(tmp_path / "routes.db") as made:
        yield made


@pytest.fixture
def client(claude: FakeClaude, router: PreRouter, log: RouteLog) -> Iterator[Dispatch]:
    with Dispatch(claude.client(), router, log) as made:
        yield made


def item(name: str, text: str, **params: Any) -> dict[str, Any]:
    """One request of a batch."""
    body = {"model": "claude-dispatch", "max_tokens": 2000, "messages": [{"role": "user", "content": text}]}
    return {"custom_id": name, "params": body | params}


def sent(claude: FakeClaude) -> list[Mapping[str, Any]]:
    """The params of all items that reached the API."""
    return [item["params"] for batch in claude.batches.all.values() for item in batch.items]


def billed(claude: FakeClaude, without: str = "") -> Decimal:
    """What the API bills: classifier calls, and half the list price of every answer. without: a model left out."""
    lines = [json.loads(line)["result"] for batch in claude.batches.all.values() for line in batch.lines or []]
    messages = [result["message"] for result in lines if result["type"] == "succeeded"]
    batch = sum((price(m["model"], m["usage"]) for m in messages if m["model"] != without), Decimal(0)) / 2
    return batch + claude.billed()


def test_every_item_goes_to_its_model_and_comes_back_in_its_place(claude: FakeClaude, client: Dispatch) -> None:
    asked = [item("z", "hard please"), item("a", "easy please"), item("m", "easy now", model="claude-sonnet-5")]
    batch = client.messages.batches.create(requests=asked)
    assert isinstance(batch, MessageBatch)
    assert (batch.processing_status, batch.request_counts.succeeded) == ("ended", 3)
    results = list(client.messages.batches.results(batch.id))
    assert all(isinstance(result, MessageBatchIndividualResponse) for result in results)
    assert [result.custom_id for result in results] == ["z", "a", "m"]
    assert [r.result.message.model for r in results] == ["claude-opus-5-5", "claude-haiku-5-5", "claude-sonnet-5"]


def few(n: int = 6) -> list[dict[str, Any]]:
    """Items that local decides."""
    return [item(f"q{i}", f"{'easy' if i % 2 else 'hard'} {i}") for i in range(n)]


def replies(client: Dispatch, batch: Any) -> list[str]:
    """The type of every result; their order is looked at too."""
    return [result.result.type for result in client.messages.batches.results(batch.id)]


def test_equal_items_are_asked_about_and_paid_once(claude: FakeClaude, client: Dispatch) -> None:
    asked = [item(f"q{i}", "What is 2 + 2?") for i in range(5)] + [item("other", "What is 2 + 2?", max_tokens=99)]
    batch = client.messages.batches.create(requests=asked)
    results = list(client.messages.batches.results(batch.id))
    assert (len(claude.calls()), len(sent(claude)), batch.request_counts.succeeded) == (1, 2, 6)
    assert [bool(result.routing.cost_usd) for result in results] == [True, False, False, False, False, True]
    assert results[0].result.message.routing is results[0].routing
    assert "routing" not in results[0].to_dict()


def test_configuration_in_the_call_beside_params_and_in_them(claude: FakeClaude, client: Dispatch) -> None:
    inside = item("in", "easy", dispatch_config={"force_model": "claude-opus-5"})
    beside = item("by", "easy now") | {"dispatch_config": {"min_tier": "sonnet"}}
    client.messages.batches.create(requests=[inside, beside, item("x", "hard")], dispatch_config={"max_tier": "sonnet"})
    assert [params["model"] for params in sent(claude)] == [
        *("claude-opus-5", "claude-sonnet-5-5", "claude-sonnet-5-5"),
    ]
    with pytest.raises(ConfigError, match="max_teir"):
        client.messages.batches.create(requests=few(), dispatch_config={"max_teir": "sonnet"})
    with pytest.raises(InvalidRequest, match="huge"):
        client.messages.batches.create(requests=[item("x", "easy", dispatch_config={"min_tier": "huge"})])
    assert len(claude.batches.all) == 1


def test_items_are_fitted_to_their_model(claude: FakeClaude, client: Dispatch) -> None:
    asked = [item("t", "easy", thinking={"type": "disabled"}, dispatch_config={"min_tier": "sonnet"})]
    batch = client.messages.batches.create(requests=asked)
    (result,) = client.messages.batches.results(batch.id)
    assert sent(claude)[0]["thinking"] == {"type": "between_tools"}
    assert result.routing.adaptations == ("thinking disabled -> between_tools",)


def test_a_batch_of_other_models_is_not_touched(claude: FakeClaude, client: Dispatch) -> None:
    asked = [item("mine", "easy", model="claude-opus-5")]
    batch = client.messages.batches.create(requests=iter(asked))
    assert batch.id.startswith("msgbatch_")
    assert [line.custom_id for line in client.messages.batches.results(batch.id)] == ["mine"]
    assert [dict(entry) for entry in claude.batches.all[batch.id].items] == asked


def test_errors_stay_with_their_item(claude: FakeClaude, client: Dispatch) -> None:
    kinds: list[Outcome | str] = ["expired", "canceled", Error(529, "overloaded_error"), Error(404, "not_found_error")]
    claude.batches.outcome = lambda name: kinds[n] if (n := int(name.split("-")[1])) < len(kinds) else Answer()
    bad = [item("none", ""), item("warm", "easy", max_tokens=0), item("geo", "easy", speed="fast")]
    bad[0]["params"]["messages"] = []
    batch = client.messages.batches.create(requests=[*few(), *bad])
    results = list(client.messages.batches.results(batch.id))
    told = [r.result.error.error.type if r.result.type == "errored" else r.result.type for r in results]
    wrong = ["invalid_request_error"] * 3
    assert told == ["expired", "canceled", "overloaded_error", "not_found_error", "succeeded", "succeeded", *wrong]
    assert "max_tokens is 0" in results[7].result.error.error.message
    assert [r.routing.attempts[0].outcome for r in results[:4]] == ["unanswered", "unanswered", "failed", "dead_model"]
    counts = client.messages.batches.retrieve(batch.id).request_counts.to_dict()
    assert counts == {"processing": 0, "succeeded": 2, "errored": 5, "canceled": 1, "expired": 1}
    report = client.report()
    assert (report.total.requests, report.total.answered, report.untold) == (9, 2, 0)
    assert report.total.usd == billed(claude)


def test_counts_of_equal_items_that_failed_are_read_from_the_results(claude: FakeClaude, client: Dispatch) -> None:
    claude.batches.outcome = lambda name: "expired" if name.endswith("-0") else Answer()
    asked = [item(f"a{i}", "easy") for i in range(3)] + [item("b", "hard")]
    counts = client.messages.batches.create(requests=asked).request_counts
    assert (counts.expired, counts.succeeded) == (3, 1)
    assert client.report().total.requests == 2


@pytest.mark.parametrize("lost", [Lost(), Error(500), Reset()])
def test_a_lost_reply_is_looked_for_before_anything_is_sent_again(
    claude: FakeClaude, client: Dispatch, lost: Outcome
) -> None:
    client.messages.batches.create(requests=few(5))  # one of the same size that is not it
    claude.script(lost, path=BATCHES)
    batch = client.messages.batches.create(requests=few(6)[1:])
    assert (batch.processing_status, len(batch.parts), len(claude.batches.all)) == ("ended", 1, 2)
    assert replies(client, batch) == ["succeeded"] * 5


def test_a_lost_batch_that_has_not_ended_stays_open_until_its_results_tell(
    claude: FakeClaude, client: Dispatch
) -> None:
    claude.batches.seconds = 3600
    claude.script(Lost(), path=BATCHES)
    batch = client.messages.batches.create(requests=few())
    assert (batch.processing_status, batch.parts, batch.request_counts.processing) == ("in_progress", (), 6)
    with pytest.raises(anthropic.AnthropicError, match="finished"):
        client.messages.batches.results(batch.id)
    assert client.messages.batches.create(requests=few()).id == batch.id
    for one in claude.batches.all.values():
        one.ends = 0
    again = client.messages.batches.retrieve(batch.id)
    assert (again.processing_status, again.parts) == ("ended", ("msgbatch_fake0000",))
    assert replies(client, batch) == ["succeeded"] * 6
    assert len(claude.batches.all) == 1


def test_a_part_that_is_nowhere_is_sent_by_the_same_call(claude: FakeClaude, client: Dispatch) -> None:
    claude.batches.seconds = 3600
    client.messages.batches.create(requests=few(4))  # somebody else's, of the same size
    (other,) = claude.batches.all.values()
    claude.batches.seconds = 0
    claude.script(Reset(), path=BATCHES)
    batch = client.messages.batches.create(requests=few(5)[1:])
    assert batch.processing_status == "in_progress"  # the other one could be it
    other.ends = 0
    until = time.monotonic() + 60
    while client.messages.batches.retrieve(batch.id).processing_status != "ended":  # once it would be in the list
        assert time.monotonic() < until
        time.sleep(0.5)
    assert replies(client, batch) == ["errored"] * 4
    assert client.messages.batches.create(requests=few(5)[1:]).id == batch.id
    assert replies(client, batch) == ["succeeded"] * 4


def test_the_same_list_is_one_batch_until_its_results_were_read(claude: FakeClaude, client: Dispatch) -> None:
    first = client.messages.batches.create(requests=few())
    assert client.messages.batches.create(requests=few()).id == first.id
    assert replies(client, first) == ["succeeded"] * 6
    assert client.messages.batches.create(requests=few()).id != first.id
    assert len(claude.batches.all) == 2


def test_what_the_api_refuses_is_its_own_error_and_can_be_sent_again(claude: FakeClaude, client: Dispatch) -> None:
    claude.script(Error(402), path=BATCHES)
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.batches.create(requests=few())
    assert caught.value.status_code == 402
    assert replies(client, client.messages.batches.create(requests=few())) == ["succeeded"] * 6


def test_a_large_batch_is_split_and_stays_one(claude: FakeClaude, folder: Path, log: RouteLog) -> None:
    settings = {**SETTINGS, "batch": {"requests": 4, "megabytes": 1}}
    with PreRouter.load(folder, settings=settings, client=claude.client()) as router:
        client = Dispatch(claude.client(), router, log)
        claude.batches.seconds = 3600
        asked = [*few(9), *(item(name, f"easy {name} " + "x" * 700_000) for name in ("large", "larger"))]
        batch = client.messages.batches.create(requests=asked)
        assert [len(one.items) for one in claude.batches.all.values()] == [4, 4, 2, 1]
        assert batch.parts == tuple(claude.batches.all)
        next(iter(claude.batches.all.values())).ends = 0
        half = client.messages.batches.retrieve(batch.id)
        assert (half.processing_status, half.request_counts.processing) == ("in_progress", 11)
        assert [one.id for one in client.messages.batches.list()] == [batch.id]
        claude.batches.seconds = 0
        plain = client.messages.batches.create(requests=[item("p", "easy", model="claude-opus-5")])
        assert [one.id for one in client.messages.batches.list()] == [plain.id, batch.id]
        paged = [one.id for one in client.messages.batches.list(limit=2)]  # no page may be empty: the SDK would stop
        assert paged == [plain.id, batch.parts[2], batch.id]
        for one in claude.batches.all.values():
            one.ends = 0
        assert replies(client, batch) == ["succeeded"] * 11
        shown = client.messages.batches.retrieve(batch.id)
        assert shown.request_counts.succeeded == 11
        assert "parts" not in shown.to_dict()
        assert pickle.loads(pickle.dumps(shown)).parts == batch.parts


def test_results_that_break_off_are_read_again(claude: FakeClaude, client: Dispatch) -> None:
    claude.script(Reset(mid_body=True), Reset(mid_body=True), path=f"{BATCHES}/results")
    batch = client.messages.batches.create(requests=few(30))
    assert replies(client, batch) == ["succeeded"] * 30
    assert client.report().total.requests == 30


def test_cancel_and_delete(claude: FakeClaude, client: Dispatch) -> None:
    claude.batches.seconds = 3600
    batch = client.messages.batches.create(requests=few())
    with pytest.raises(anthropic.BadRequestError):
        client.messages.batches.delete(batch.id)
    assert client.messages.batches.cancel(batch.id).processing_status == "canceling"
    for one in claude.batches.all.values():
        one.ends = 0
    assert client.messages.batches.retrieve(batch.id).request_counts.canceled == 6
    assert client.messages.batches.delete(batch.id).to_dict() == {"id": batch.id, "type": "message_batch_deleted"}
    assert claude.batches.all == {}
    with pytest.raises(ConfigError, match="no batch"):
        client.messages.batches.retrieve(batch.id)


def test_what_is_no_list_of_items(client: Dispatch) -> None:
    for requests, what in [
        ([item("x", "easy"), item("x", "hard")], r"'x' is that of requests\[0\]"),
        ([item("x", "easy"), {"custom_id": "y"}], r"custom_id and params \(requests\[1\]"),
        ([item("", "easy")], "custom_id"),
        ([item("x", "easy", metadata=object())], "no JSON"),
    ]:
        with pytest.raises(InvalidRequest, match=what):
            client.messages.batches.create(requests=requests)
    with pytest.raises(UnsupportedRequest, match="raw"):
        client.messages.batches.with_raw_response.create(requests=few())


def test_no_text_of_a_request_is_in_the_file(claude: FakeClaude, client: Dispatch, tmp_path: Path) -> None:
    client.messages.batches.create(requests=[item("x", "hard xylophone"), item("y", "Prove that marmalade")])
    files = [path for path in (tmp_path / "state").rglob("prbatch_*") if path.is_file()]
    data = b"".join(path.read_bytes() for path in files)
    assert files
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    assert b"xylophone" not in data
    assert b"marmalade" not in data


def test_a_classifier_in_trouble_is_waited_for(claude: FakeClaude, client: Dispatch) -> None:
    claude.script(*[Error(500)] * 4, when=asks_for_label)
    batch = client.messages.batches.create(requests=[item("x", "Prove that 1"), item("y", "Prove that 2")])
    assert [params["model"] for params in sent(claude)] == ["claude-opus-5-5"] * 2
    assert replies(client, batch) == ["succeeded"] * 2


def test_without_a_classifier_the_default_label_serves(claude: FakeClaude, folder: Path) -> None:
    claude.always(Error(401), when=asks_for_label)
    settings = {**SETTINGS, "batch": {"patience_s": 0}}
    with PreRouter.load(folder, settings=settings, client=claude.client()) as router:
        client = Dispatch(claude.client(), router)
        (result,) = client.messages.batches.results(
            client.messages.batches.create(requests=[item("x", "Prove that 1")]).id
        )
        assert (result.routing.decision.decided_by, result.routing.model) == ("default", "claude-sonnet-5-5")


def test_the_async_side(claude: FakeClaude, router: PreRouter, log: RouteLog) -> None:
    async def work() -> None:
        async with claude.aclient() as bare, AsyncDispatch(bare, router, log) as client:
            batches = client.messages.batches
            claude.script(Lost(), path=BATCHES)
            batch = await batches.create(requests=[*few(), item("w", "What is 1 + 1?")])
            results = [result async for result in await batches.results(batch.id)]
            assert [result.custom_id for result in results] == [*(f"q{i}" for i in range(6)), "w"]
            assert (await batches.retrieve(batch.id)).request_counts.succeeded == 7
            assert [one.id async for one in batches.list()] == [batch.id]
            assert client.report().total.usd == billed(claude)
            claude.batches.seconds = 3600
            other = await batches.create(requests=few(3))
            assert (await batches.cancel(other.id)).processing_status == "canceling"
            assert (await batches.delete(batch.id)).id == batch.id
            assert len(claude.batches.all) == 1

    asyncio.run(work())


def test_the_beta_side(claude: FakeClaude, client: Dispatch) -> None:
    batch = client.beta.messages.batches.create(requests=few(2), betas=["output-300k-2026-03-24"])
    assert type(batch).__mro__[1].__name__ == "BetaMessageBatch"
    results = list(client.beta.messages.batches.results(batch.id))
    assert [type(result).__mro__[1].__name__ for result in results] == ["BetaMessageBatchIndividualResponse"] * 2
    (made,) = [r for r in claude.requests if (r.method, r.path) == ("POST", BATCHES)]
    assert "output-300k" in made.headers["anthropic-beta"]


def test_what_was_decided_is_not_asked_again(claude: FakeClaude, folder: Path) -> None:
    asked = [item(f"q{i}", f"Prove that {i}") for i in range(20)]
    for outcome in (Error(401), Answer()):
        with PreRouter.load(folder, settings=SETTINGS, client=claude.client()) as router:  # another process
            claude.always(outcome, path=BATCHES)
            client = Dispatch(claude.client(), router)
            with suppress(anthropic.AuthenticationError):
                client.messages.batches.create(requests=asked)
    assert (len(claude.calls()), len(claude.batches.all)) == (20, 1)


def test_five_thousand_mixed_items(claude: FakeClaude, client: Dispatch, log: RouteLog) -> None:
    asked, expected = mixed(5_000)
    batch = client.messages.batches.create(requests=asked)
    assert batch.request_counts.succeeded == 5_000
    results = list(client.messages.batches.results(batch.id))
    assert [result.custom_id for result in results] == [entry["custom_id"] for entry in asked]
    assert [result.result.message.model for result in results] == expected
    kinds = Counter(_kind(entry["params"]) for entry in asked)
    copies = kinds.total() - len(distinct(asked))
    assert len(sent(claude)) == 5_000 - copies
    assert len(claude.calls()) == len({text for kind, text in kinds_and_texts(asked) if kind == "asked"})

    report = client.report()
    routed = [result for result in results if result.routing]
    own = sum((result.routing.cost_usd for result in routed), Decimal(0))
    untouched = [result for result in results if result.routing is None]
    assert own == report.total.usd == billed(claude, without="claude-sonnet-5")
    assert len(untouched) == kinds["untouched"]
    assert report.total.requests == len(distinct(asked)) - kinds["untouched"]
    assert report.saved_usd > 0
    log.flush(60)
    assert log.stats().rows == report.total.requests
    assert abs(sum(row.decision.cost_usd for row in log.tail(10_000)) - float(claude.billed())) < 1e-6
    list(client.messages.batches.results(batch.id))  # again: nothing is counted twice
    assert client.report().total.usd == own


def mixed(n: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Items of every kind, and the model that each belongs to."""
    asked, expected = [], []
    for i in range(n):
        kind = ("easy", "hard", "asked", "copy", "untouched", "bounded")[i % 6]
        name = f"{kind}-{i}"
        if kind in WORDS:
            asked.append(item(name, f"{kind} {i}"))
            expected.append(WORDS[kind])
        elif kind == "asked":
            label, words = (("haiku", "What is"), ("opus", "Prove that"))[i // 6 % 2]
            asked.append(item(name, f"{words} {i // 6 % 100}", max_tokens=2000 + i))
            expected.append(MODELS[label])
        elif kind == "copy":
            asked.append(item(name, "easy now"))
            expected.append(WORDS["easy"])
        elif kind == "untouched":
            asked.append(item(name, "hard", model="claude-sonnet-5"))
            expected.append("claude-sonnet-5")
        else:
            asked.append(item(name, f"easy {i}", dispatch_config={"min_tier": "sonnet"}))
            expected.append(MODELS["sonnet"])
    return asked, expected


def _kind(params: Mapping[str, Any]) -> str:
    text = params["messages"][0]["content"]
    return "untouched" if params["model"] != "claude-dispatch" else "asked" if text[0].isupper() else text


def kinds_and_texts(asked: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(_kind(entry["params"]), entry["params"]["messages"][0]["content"]) for entry in asked]


def distinct(asked: list[dict[str, Any]]) -> set[str]:
    """The items that are paid for: equal ones once, those of other models each."""
    return {e["custom_id"] if _kind(e["params"]) == "untouched" else repr(e["params"]) for e in asked}


def test_items_have_the_specialist_of_their_route(claude: FakeClaude, tmp_path: Path) -> None:
    claude.answer = assistant.answer
    taxonomy = assistant.write(tmp_path / "routes")
    with PreRouter.load(taxonomy=taxonomy, client=claude.client(), settings=SETTINGS) as router:
        client = Dispatch(claude.client(), router)
        texts = {"a": "Review this diff.", "b": "Design a rate limiter.", "c": "Good morning."}
        batch = client.messages.batches.create(requests=[item(name, text) for name, text in texts.items()])
        results = list(client.messages.batches.results(batch.id))
    assert [r.routing.decision.label for r in results] == ["code_review", "architecture", "general"]
    assert [r.routing.tier for r in results] == ["sonnet", "opus", "haiku"]
    review, design, other = sent(claude)
    assert "You review code." in json.dumps(review["system"])
    assert "You design systems." in json.dumps(design["system"])
    assert "system" not in other
