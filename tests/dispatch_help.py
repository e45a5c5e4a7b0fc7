"""Dispatch in front of the fake Claude, sync and async behind one face."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import anthropic
from fake_claude import FakeClaude

from prerouter.dispatch import AsyncDispatch, Dispatch
from prerouter.errors import PreRouterError
from prerouter.routelog import RouteLog
from prerouter.router import PreRouter

Side = Literal["sync", "async"]
TYPED = (PreRouterError, anthropic.APIError)
# On a busy machine too no answer comes too late, nor is an audit under way when the bill is read.
PATIENT = {"classifier": {"deadline_s": 120}, "audit": {"ask": False}}
ASK: dict[str, Any] = {"model": "claude-dispatch", "max_tokens": 2000}
MODELS = {"haiku": "claude-haiku-5-5", "sonnet": "claude-sonnet-5-5", "opus": "claude-opus-5-5"}


def ask(text: str = "What is 2 + 2?", *, stream: bool = False, **config: Any) -> dict[str, Any]:
    """A request; `stream`: whether `Caller.all` streams it."""
    body = {**ASK, "messages": [{"role": "user", "content": text}], "stream": stream}
    return body | ({"dispatch_config": config} if config else {})


class Caller:
    """Sends many requests at once through one Dispatch, each to a whole Message or the error it ended in."""

    def __init__(self, claude: FakeClaude, side: Side, log: RouteLog, router: PreRouter) -> None:
        self.side, self.log, self._claude, self._router = side, log, claude, router
        self.report: Any = None
        self.slowest_s = 0.0  # of all requests

    def all(self, requests: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Replies or errors, in order."""
        if self.side == "async":
            return asyncio.run(self._all(requests))
        with Dispatch(client=self._claude.client(), router=self._router, log=self.log) as client:
            with ThreadPoolExecutor(len(requests)) as pool:
                results = list(pool.map(lambda request: self._timed(client, request), requests))
            self.report = client.report()
        return results

    def map(self, requests: Sequence[Mapping[str, Any]], **options: Any) -> list[Any]:
        """What the client's own `map` gives."""
        if self.side == "async":
            return asyncio.run(self._map(requests, options))
        with Dispatch(client=self._claude.client(), router=self._router, log=self.log) as client:
            results = client.map(requests, **options)
            self.report = client.report()
        return results

    async def _map(self, requests: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> list[Any]:
        async with self._claude.aclient() as bare, AsyncDispatch(bare, self._router, self.log) as client:
            results = await client.map(requests, **options)
            self.report = client.report()
        return results

    async def _all(self, requests: Sequence[Mapping[str, Any]]) -> list[Any]:
        async with self._claude.aclient() as bare, AsyncDispatch(bare, self._router, self.log) as client:
            results = await asyncio.gather(*(self._atimed(client, request) for request in requests))
            self.report = client.report()
        return list(results)

    def _timed(self, client: Dispatch, request: Mapping[str, Any]) -> Any:
        started = time.monotonic()
        result = _sync(client, request)
        self.slowest_s = max(self.slowest_s, time.monotonic() - started)
        return result

    async def _atimed(self, client: AsyncDispatch, request: Mapping[str, Any]) -> Any:
        started = time.monotonic()
        result = await _async(client, request)
        self.slowest_s = max(self.slowest_s, time.monotonic() - started)
        return result

    def spent(self) -> Decimal:
        """US dollars as we counted them, those of classifier calls that came too late and of audits included."""
        usd: Decimal = self.report.billed_usd
        return usd


@contextmanager
def caller(claude: FakeClaude, side: Side, folder: Path, router: PreRouter | None = None) -> Iterator[Caller]:
    """A Caller with a log of its own in `folder`. router: None: one of its own, that asks the fake."""
    with RouteLog.open(folder / "routes.db") as log:
        if router:
            yield Caller(claude, side, log, router)
            return
        with PreRouter.load(client=claude.client(), settings=PATIENT) as own:
            yield Caller(claude, side, log, own)


def _sync(client: Dispatch, request: Mapping[str, Any]) -> Any:
    body = {**request}
    try:
        if not body.pop("stream"):
            return client.messages.create(**body)
        with client.messages.stream(**body) as stream:
            return stream.get_final_message()
    except Exception as error:
        return error


async def _async(client: AsyncDispatch, request: Mapping[str, Any]) -> Any:
    body = {**request}
    try:
        if not body.pop("stream"):
            return await client.messages.create(**body)
        async with client.messages.stream(**body) as stream:
            return await stream.get_final_message()
    except Exception as error:
        return error


def text(reply: Any) -> str:
    """The text of a reply."""
    return "".join(block.text for block in reply.content if block.type == "text")
