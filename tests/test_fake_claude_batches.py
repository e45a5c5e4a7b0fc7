"""The fake's Message Batches through the real SDK: as strict as the API is said to be."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from fake_claude import Error, FakeClaude

BODY: dict[str, Any] = {
    "model": "claude-haiku-5-5",
    "max_tokens": 300,
    "thinking": {"type": "disabled"},
    "messages": [{"role": "user", "content": "Hello."}],
}


@pytest.fixture
def client(claude: FakeClaude) -> anthropic.Anthropic:
    return claude.client(max_retries=0)


def items(n: int, **changes: Any) -> Any:
    return [{"custom_id": f"a-{i}", "params": BODY | changes} for i in range(n)]


def kinds(client: anthropic.Anthropic, batch_id: str) -> dict[str, str]:
    return {line.custom_id: line.result.type for line in client.messages.batches.results(batch_id)}


def test_results_come_in_another_order_and_are_complete(client: anthropic.Anthropic) -> None:
    made = client.messages.batches.create(requests=items(50))
    found = kinds(client, made.id)
    assert list(found) != sorted(found, key=lambda name: int(name[2:]))
    assert found == {f"a-{i}": "succeeded" for i in range(50)}


def test_counts_are_processing_until_the_batch_ends(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    claude.batches.seconds = 3600
    made = client.messages.batches.create(requests=items(3))
    assert (made.processing_status, made.request_counts.processing, made.results_url) == ("in_progress", 3, None)
    with pytest.raises(anthropic.AnthropicError):
        client.messages.batches.results(made.id)
    claude.batches.all[made.id].ends = 0
    ended = client.messages.batches.retrieve(made.id)
    assert (ended.processing_status, ended.request_counts.succeeded) == ("ended", 3)


@pytest.mark.parametrize(
    "requests",
    [
        [],
        [{"custom_id": "x y", "params": BODY}],
        [{"custom_id": "x" * 65, "params": BODY}],
        [{"custom_id": "x", "params": BODY}] * 2,
        [{"custom_id": "x"}],
    ],
)
def test_a_malformed_batch_is_refused(client: anthropic.Anthropic, requests: Any) -> None:
    with pytest.raises(anthropic.BadRequestError):
        client.messages.batches.create(requests=requests)


@pytest.mark.parametrize(
    "changes", [{"stream": True}, {"max_tokens": 0}, {"model": "claude-3-opus"}, {"max_tokens": -1}]
)
def test_bodies_are_checked_when_the_batch_is_at_work(client: anthropic.Anthropic, changes: dict[str, Any]) -> None:
    made = client.messages.batches.create(requests=items(2, **changes))
    assert set(kinds(client, made.id).values()) == {"errored"}


def test_items_may_fail_each_in_its_way(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    claude.batches.outcome = lambda name: {"a-0": "expired", "a-1": "canceled"}.get(
        name, Error(529, "overloaded_error")
    )
    made = client.messages.batches.create(requests=items(3))
    assert kinds(client, made.id) == {"a-0": "expired", "a-1": "canceled", "a-2": "errored"}
    assert claude.batches.paid == []


def test_the_queue_is_limited(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    claude.batches.queue, claude.batches.seconds = 5, 3600
    client.messages.batches.create(requests=items(4))
    with pytest.raises(anthropic.RateLimitError):
        client.messages.batches.create(requests=items(2))


def test_the_list_has_pages_newest_first(client: anthropic.Anthropic) -> None:
    made = [client.messages.batches.create(requests=items(1)).id for _ in range(5)]
    assert [batch.id for batch in client.messages.batches.list(limit=2)] == made[::-1]


def test_cancel_and_delete(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    claude.batches.seconds = 3600
    made = client.messages.batches.create(requests=items(2))
    assert client.messages.batches.cancel(made.id).processing_status == "canceling"
    with pytest.raises(anthropic.BadRequestError):
        client.messages.batches.delete(made.id)
    claude.batches.all[made.id].ends = 0
    assert set(kinds(client, made.id).values()) == {"canceled"}
    client.messages.batches.delete(made.id)
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve(made.id)


def test_the_rate_limit_counts_sixty_seconds(claude: FakeClaude, client: anthropic.Anthropic) -> None:
    claude.rpm = 3
    for _ in range(3):
        client.messages.create(**BODY)
    with pytest.raises(anthropic.RateLimitError) as error:
        client.messages.create(**BODY)
    assert error.value.response.headers["anthropic-ratelimit-requests-limit"] == "3"
    assert error.value.response.headers["anthropic-ratelimit-requests-remaining"] == "0"
