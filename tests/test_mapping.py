"""Many requests through one client: order, errors, limits, progress. The client here answers without a network."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from prerouter.errors import ConfigError
from prerouter.mapping import arun, run


class Client:
    """What mapping needs of a Dispatch; `answer(request) -> reply`."""

    def __init__(self, answer: Callable[[Mapping[str, Any]], Any]) -> None:
        self.answer, self.messages = answer, self
        self.rate_headers: dict[str, dict[str, str]] = {}
        self.open = self.most_open = 0
        self.starts: list[float] = []
        self._lock = threading.Lock()

    def create(self, **request: Any) -> Any:
        with self._lock:
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            self.starts.append(time.monotonic())
        try:
            return self.answer(request)
        finally:
            with self._lock:
                self.open -= 1


class AsyncClient(Client):
    async def create(self, **request: Any) -> Any:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await asyncio.sleep(0)
        try:
            return self.answer(request)
        finally:
            self.open -= 1


def reply(text: str) -> Any:
    usage = SimpleNamespace(input_tokens=10, output_tokens=20, cache_creation_input_tokens=None)
    return SimpleNamespace(text=text, usage=usage)


def echo(request: Mapping[str, Any]) -> Any:
    if request["messages"] == "boom":
        raise ValueError(request["n"])
    return reply(request["messages"])


def both(client: Callable[[], Client], aclient: Callable[[], AsyncClient], requests: Any, **options: Any) -> list[Any]:
    """Results of both ways, which must be the same."""
    results = run(client(), requests(), **options)
    again = asyncio.run(arun(aclient(), requests(), **options))
    assert [repr(result) for result in results] == [repr(result) for result in again]
    return results


def test_order_and_errors_stay_where_they_belong() -> None:
    def requests() -> Iterator[Any]:
        for i in range(60):
            yield {"messages": "boom" if i % 7 == 0 else str(i), "n": i} if i != 30 else "a string"

    results = both(lambda: Client(echo), lambda: AsyncClient(echo), requests, concurrency=8)
    assert [r.text for r in results if hasattr(r, "text")] == [str(i) for i in range(60) if i % 7 and i != 30]
    assert [r.args[0] for r in results if type(r) is ValueError] == list(range(0, 60, 7))
    assert isinstance(results[30], ConfigError)
    assert "requests[30] is str" in str(results[30])


def test_nothing_comes_to_nothing() -> None:
    assert both(lambda: Client(echo), lambda: AsyncClient(echo), list) == []


def test_the_model_is_dispatched_unless_it_is_named() -> None:
    seen: list[str] = []

    def answer(request: Mapping[str, Any]) -> Any:
        seen.append(request["model"])
        return reply("")

    run(Client(answer), [{"messages": "a"}, {"messages": "b", "model": "claude-opus-5-5"}], concurrency=1)
    assert seen == ["claude-dispatch", "claude-opus-5-5"]


def test_so_many_at_a_time_and_no_more() -> None:
    barrier = threading.Barrier(7)  # breaks unless seven are open at once

    def answer(request: Mapping[str, Any]) -> Any:
        barrier.wait(20)
        return reply("")

    client = Client(answer)
    run(client, [{"messages": "x"}] * 21, concurrency=7)
    assert client.most_open == 7


def test_requests_are_read_as_they_are_needed() -> None:
    read: list[int] = []
    seen: list[int] = []
    barrier = threading.Barrier(3, action=lambda: seen.append(len(read)))

    def requests() -> Iterator[Any]:
        for i in range(30):
            read.append(i)
            yield {"messages": str(i)}

    def answer(request: Mapping[str, Any]) -> Any:
        barrier.wait(20)
        return reply("")

    run(Client(answer), requests(), concurrency=3)
    assert seen == list(range(3, 31, 3))


@pytest.mark.parametrize("concurrency", [0, -1, 1_001])
def test_a_senseless_concurrency_is_refused(concurrency: int) -> None:
    with pytest.raises(ConfigError, match="concurrency is"):
        run(Client(echo), [], concurrency=concurrency)


def test_progress_counts_and_each_takes_the_results_over() -> None:
    seen: list[Any] = []
    got: dict[int, Any] = {}
    requests = [{"messages": str(i)} for i in range(10)]
    assert run(Client(echo), requests, progress=lambda *done: seen.append(done), each=got.__setitem__) == []
    assert seen == [(i, 10) for i in range(1, 11)]
    assert [got[i].text for i in range(10)] == [str(i) for i in range(10)]
    run(Client(echo), iter(requests), progress=lambda *done: seen.append(done))
    assert seen[-1] == (10, None)


@pytest.mark.parametrize("where", ["requests", "progress", "each"])
def test_an_error_of_the_callers_own_ends_it(where: str) -> None:
    def broken(*_: Any) -> Any:
        raise LookupError(where)

    def requests() -> Iterator[Any]:
        yield {"messages": "x"}
        if where == "requests":
            broken()
        yield from [{"messages": "x"}] * 1_000

    options: Any = {where: broken} if where != "requests" else {}
    with pytest.raises(LookupError, match=where):
        run(Client(echo), requests(), **options)
    with pytest.raises(LookupError, match=where):
        asyncio.run(arun(AsyncClient(echo), requests(), **options))


def test_cancelling_cancels_what_is_on_its_way() -> None:
    cancelled: list[bool] = []

    class Slow(AsyncClient):
        async def create(self, **request: Any) -> Any:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

    async def main() -> None:
        task = asyncio.ensure_future(arun(Slow(echo), [{"messages": "x"}] * 9, concurrency=4))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert cancelled == [True] * 4


def limits(rpm: int, remaining: int = 100, reset_s: float = 0.0) -> dict[str, str]:
    reset = (datetime.now(UTC) + timedelta(seconds=reset_s)).isoformat().replace("+00:00", "Z")
    prefix = "anthropic-ratelimit-requests-"
    return {f"{prefix}limit": str(rpm), f"{prefix}remaining": str(remaining), f"{prefix}reset": reset}


def test_the_strictest_limit_of_all_models_is_kept() -> None:
    client = Client(echo)
    client.rate_headers = {"claude-haiku-5-5": limits(100_000), "claude-opus-5-5": limits(600)}
    run(client, [{"messages": "x"}] * 25, concurrency=10)
    assert client.starts[-1] - client.starts[0] > 1.0  # ten a second at most; at 100,000 it takes some milliseconds


def test_a_limit_that_is_used_up_is_waited_for() -> None:
    client = Client(echo)

    def answer(request: Mapping[str, Any]) -> Any:
        if len(client.starts) == 1:
            client.rate_headers = {"claude-opus-5-5": limits(60_000, 0, 0.6)}
        else:
            client.rate_headers = {"claude-opus-5-5": limits(60_000)}
        return reply("")

    client.answer = answer
    run(client, [{"messages": "x"}] * 2, concurrency=1)
    assert client.starts[1] - client.starts[0] >= 0.55


@pytest.mark.parametrize("reset", ["", "soon", "2026-01-01", "2999-01-01T00:00:00"])
def test_headers_that_say_nothing_are_left_alone(reset: str) -> None:
    client = Client(echo)
    client.rate_headers = {"m": limits(60_000, 0) | {"anthropic-ratelimit-requests-reset": reset}}
    client.rate_headers["n"] = {"anthropic-ratelimit-requests-limit": "many"}
    assert len(run(client, [{"messages": "x"}] * 3)) == 3


def test_results_are_not_json_of_ours() -> None:
    (result,) = run(Client(lambda request: reply(json.dumps(sorted(request)))), [{"messages": "x", "max_tokens": 5}])
    assert json.loads(result.text) == ["max_tokens", "messages", "model"]
