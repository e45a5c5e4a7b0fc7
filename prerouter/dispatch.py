"""Dispatch and AsyncDispatch: the user's own Claude client, with the model "claude-dispatch".

client = Dispatch()                      # or Dispatch(anthropic.Anthropic(...), router, log)
reply = client.messages.create(model="claude-dispatch", max_tokens=1024, messages=[...])
reply.routing.model, reply.routing.cost_usd
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from prerouter.batchverbs import BatchVerbs
from prerouter.budgets import Budgets
from prerouter.calibration import calibration_of
from prerouter.conversations import Conversations
from prerouter.dispatchconfig import DispatchConfig
from prerouter.errors import ConfigError
from prerouter.forks import new_lock
from prerouter.human import Case, People
from prerouter.ledger import Ledger, Report
from prerouter.levels import stronger_of
from prerouter.lookups import how
from prerouter.parts import Parts
from prerouter.plan import DeadModels
from prerouter.router import PreRouter
from prerouter.routingreply import middleware_of
from prerouter.sdk import check_client, is_async, new_client
from prerouter.shadowlane import ShadowLane
from prerouter.surface import Clients, Surface
from prerouter.taxonomy import Taxonomy

if TYPE_CHECKING:
    from prerouter.routelog import RouteLog

_log = logging.getLogger("prerouter.dispatch")


class _Base:
    """What both clients share. The constructor starts nothing; everything is made at the first use."""

    _asynchronous = False

    def __init__(
        self,
        client: Any = None,
        router: PreRouter | None = None,
        log: RouteLog | None = None,
        *,
        taxonomy: Taxonomy | str | Path | None = None,
        on_human: Callable[[Case], Any] | None = None,
    ) -> None:
        self._given, self._router, self._log = client, router, log
        self._taxonomy, self._on_human = taxonomy, on_human
        self._own_router = router is None
        self._lock = new_lock(self)
        self._made: Clients | None = None
        self._made_parts: Parts | None = None
        self.messages = Surface(self._clients, ("messages",))
        self.beta = Surface(self._clients, ("beta",))
        self.models = Surface(self._clients, ("models",))
        if client is not None:
            _check(client, type(self).__name__, asynchronous=self._asynchronous)
        if router is not None and taxonomy is not None:
            step = "PreRouter.load(taxonomy=...)"
            raise ConfigError("a router has its taxonomy already", where="taxonomy", next_step=step)
        if on_human is not None and not self._asynchronous and inspect.iscoroutinefunction(on_human):
            step = "pass a plain function, or use AsyncDispatch"
            raise ConfigError("on_human must be awaited, which Dispatch does not", where="on_human", next_step=step)

    @property
    def router(self) -> PreRouter:
        """What decides."""
        return self._parts().router

    @property
    def rate_headers(self) -> Mapping[str, Mapping[str, str]]:
        """The rate limits that the API last named, as its headers, by model."""
        return self._parts().rates

    @property
    def routed_batches(self) -> BatchVerbs:
        """What `messages.batches` does where an item names claude-dispatch."""
        return self._clients().batches

    def report(self) -> Report:
        """What the requests so far cost, in this process; see `ledger.Report`."""
        parts = self._parts()
        return parts.ledger.report(parts.budgets.states())

    def feedback(
        self, request_id: str, *, label: str | None = None, score: float | None = None, outcome: str | None = None
    ) -> None:
        """Tell what became of a request: `reply.routing.decision.id`. See `PreRouter.feedback`."""
        self.router.feedback(request_id, label=label, score=score, outcome=outcome)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._clients().plain, name)

    def _parts(self) -> Parts:
        if self._made_parts is not None:
            return self._made_parts
        with self._lock:
            if self._made_parts is None:
                given = _for_classifier(self._given)
                router = self._router or PreRouter.load(client=given, taxonomy=self._taxonomy)
                self._made_parts = _parts_of(router, self._log, self._on_human, given)
            return self._made_parts

    def _clients(self) -> Clients:
        if self._made is not None:
            return self._made
        with self._lock:
            if self._made is None:
                self._made = self._new_clients()
            return self._made

    def _new_clients(self) -> Clients:
        plain = new_client(asynchronous=self._asynchronous) if self._given is None else self._given
        middleware = middleware_of(_side(self._asynchronous))(self._parts, plain)
        stack = [*plain.middleware, middleware]
        routing = plain.with_options(middleware=stack, max_retries=0)
        light = plain.with_options(middleware=stack)
        batches = BatchVerbs(self._parts, plain, how)
        return Clients(
            plain,
            routing,
            light,
            self._check_config,
            lambda name: self._parts().table.find(name),
            self._has_routes,
            batches,
        )

    def _has_routes(self) -> bool:
        return self._parts().router.taxonomy.handoff is not None

    def _check_config(self, value: object) -> DispatchConfig:
        return DispatchConfig.read(value, self._parts().settings)

    def _with(self, options: Mapping[str, Any]) -> Any:
        plain = self._clients().plain.with_options(**options)
        made = type(self)(plain, self.router, self._log, on_human=self._on_human)
        made._made_parts, made._own_router = self._parts(), False
        return made

    def _ended(self) -> None:
        parts = self._made_parts
        if parts is None:
            return
        parts.clear_up()
        parts.budgets.close()
        if parts.settings.dispatch.summary and (summary := parts.ledger.summary()):
            _log.warning("%s", summary)
        if parts.lane:
            parts.lane.close()
        if parts.log:
            parts.log.flush()
        if self._own_router:
            parts.router.close()
        if parts.stronger:
            parts.stronger.close()


class Dispatch(_Base):
    """An `anthropic.Anthropic` (or Vertex, Foundry, Bedrock client) that also knows the model "claude-dispatch".

    client: None: `anthropic.Anthropic()`, made at the first call. router: None: `PreRouter.load()`. log: gets every
    request with its reply; None: the router's log, if it has one. taxonomy: as for `PreRouter.load`, where there is no
    router. on_human: gets the requests that a rule or a route hands to people (`human.Case`); its text, if it returns
    one, is the reply. Thread-safe.
    Raises ConfigError for what is no sync client.
    """

    def map(self, requests: Iterable[Mapping[str, Any]], *, concurrency: int = 5, **options: Any) -> list[Any]:
        """Replies, or exceptions, for many requests, in their order; see `mapping.run`."""
        from prerouter.mapping import run

        return run(self, requests, concurrency=concurrency, **options)

    def with_options(self, **options: Any) -> Dispatch:
        """A Dispatch whose client has these options (`max_retries` has no meaning here), with the same router, ledger,
        budgets and conversations."""
        made: Dispatch = self._with(options)
        return made

    copy = with_options

    def close(self) -> None:
        """Flush the log, and close what was made here: the client, the router."""
        self._ended()
        if self._given is None and self._made:
            self._made.plain.close()

    def __enter__(self) -> Dispatch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class AsyncDispatch(_Base):
    """As `Dispatch`, around an `anthropic.AsyncAnthropic`; on asyncio."""

    _asynchronous = True

    async def map(self, requests: Iterable[Mapping[str, Any]], *, concurrency: int = 5, **options: Any) -> list[Any]:
        """Replies, or exceptions, for many requests, in their order; see `mapping.arun`."""
        from prerouter.mapping import arun

        return await arun(self, requests, concurrency=concurrency, **options)

    def with_options(self, **options: Any) -> AsyncDispatch:
        """As `Dispatch.with_options`."""
        made: AsyncDispatch = self._with(options)
        return made

    copy = with_options

    async def close(self) -> None:
        """As `Dispatch.close`."""
        import asyncio

        await asyncio.to_thread(self._ended)
        if self._given is None and self._made:
            await self._made.plain.close()

    async def __aenter__(self) -> AsyncDispatch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()


def _parts_of(router: PreRouter, log: RouteLog | None, on_human: Callable[[Case], Any] | None, client: Any) -> Parts:
    if any(label.tier is None for label in router.taxonomy.labels):
        step = "give every label of the taxonomy a tier"
        raise ConfigError("labels without a tier cannot be dispatched", where="taxonomy", next_step=step)
    settings, table, log = router.settings, router.tiers, log or router.log
    lane = ShadowLane(settings, table, log, client=client) if log else None

    def aside() -> Decimal:
        return sum((each.cost_usd for each in (router.audits, lane) if each), Decimal(0))

    return Parts(
        router=router,
        talks=Conversations(table),
        ledger=Ledger(table, asked=lambda: router.classifier.stats.cost_usd, aside=aside),
        budgets=Budgets(settings, table),
        dead=DeadModels(settings.dispatch.dead_model_s),
        people=People(settings.state_dir, on_human),
        stronger=stronger_of(router.taxonomy, table, settings.classifier, client=client),
        calibrated=calibration_of(router.taxonomy),
        log=log,
        lane=lane,
    )


def _check(client: Any, ours: str, *, asynchronous: bool) -> None:
    if isinstance(client, _Base):
        step = f"pass the client that it was made of, or {ours}.with_options"
        raise ConfigError(f"{type(client).__name__} is one already", where="client", next_step=step)
    if not (hasattr(client, "messages") and hasattr(client, "with_options") and hasattr(client, "middleware")):
        what = f"{type(client).__name__} is no anthropic client with middleware"
        raise ConfigError(what, where="client", next_step="pass a client of the anthropic package, 2.11 or later")
    if is_async(client) != asynchronous:
        other = "Dispatch" if asynchronous else "AsyncDispatch"
        step = f"use {other}, or another client"
        raise ConfigError(f"{type(client).__name__} does not go into {ours}", where="client", next_step=step)


def _for_classifier(client: Any) -> Any:
    """The client that the router may use too; None where it needs its own."""
    try:
        check_client(client)
    except ConfigError:
        return None
    return client


def _side(asynchronous: bool) -> type:
    if asynchronous:
        from prerouter.amiddleware import AsyncSide

        return AsyncSide
    from prerouter.middleware import SyncSide

    return SyncSide
