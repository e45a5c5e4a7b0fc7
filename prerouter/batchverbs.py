"""`client.messages.batches` for batches with claude-dispatch in them: create, retrieve, results, cancel, delete, list.

Whatever concerns other batches goes to the user's own client, untouched. One object of the SDK's type stands for the
parts that were sent: its id is ours, for its items, their order and their errors are those of no batch of the API.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from prerouter.background import in_thread
from prerouter.batchapi import BatchApi, original
from prerouter.batchestimate import Estimate, estimate
from prerouter.batchitems import Item, fingerprint, read_items, wants_routing
from prerouter.batchreply import batch_of, counts_of, deleted_of, fields_of, like, not_ended, paid_counts
from prerouter.batchresults import AsyncResults, Results, Spool, read
from prerouter.batchrouting import ItemRouter, Routed
from prerouter.batchsending import BatchSender, find
from prerouter.batchstore import PREFIX, BatchStore, all_paths, forget_old, open_for, path_of
from prerouter.errors import ConfigError, DataError, UnsupportedRequest, UpstreamError
from prerouter.flights import Fault
from prerouter.labelrun import in_background
from prerouter.parts import Parts
from prerouter.sdk import is_async
from prerouter.settings import Mode, Settings

Told = Callable[[int], None]
Call = Callable[[Mapping[str, Any] | None], Any]
_BY_ID = ("retrieve", "results", "cancel", "delete")


def folder_of(settings: Settings) -> Path:
    """Where the files of batches are."""
    return settings.state_dir / "batches"


class BatchVerbs:
    """The batches of one Dispatch. parts: made at the first batch that is ours. how: PREROUTER_MODE, read anew."""

    def __init__(self, parts: Callable[[], Parts], client: Any, how: Callable[[], Mode]) -> None:
        self._parts, self._client, self._how = parts, client, how

    def of(self, path: tuple[str, ...], args: Sequence[Any], arguments: dict[str, Any]) -> Call | None:
        """What does this call of the SDK, given its dispatch_config; None: it is not about a batch of ours.

        `requests` among the arguments may be an iterator: it is a list afterwards. Raises UnsupportedRequest for the
        SDK's raw responses, ConfigError for a batch that is not in the state folder.
        """
        verb, beta = path[-1], path[0] == "beta"
        if verb == "create":
            requests = arguments.get("requests")
            if not isinstance(requests, Iterable):
                return None
            arguments["requests"] = requests = list(requests)
            if not wants_routing(requests):
                return None
            extra = {key: value for key, value in arguments.items() if key != "requests"}
            work: Callable[..., Any] = partial(self.create, requests, extra, beta=beta)
        else:
            name = args[0] if args else arguments.get("message_batch_id")
            if verb not in _BY_ID or not str(name).startswith(PREFIX):
                return None
            work = partial(getattr(self, verb), str(name), beta=beta)
        if path[-2] != "batches":
            step = "call it without with_raw_response"
            raise UnsupportedRequest("a batch of several has no raw response", where=".".join(path), next_step=step)
        return lambda config: self.run(partial(work, config=config) if verb == "create" else work)

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """What `work` comes to: a value, of an async client a coroutine. Its errors are the SDK's own."""
        told = partial(_with_original_errors, work)
        return told() if is_async(self._client) else in_background(told)

    async def create(
        self,
        requests: Sequence[Any],
        extra: Mapping[str, Any],
        *,
        beta: bool,
        config: Mapping[str, Any] | None = None,
        told: Told = lambda _: None,
        sending: Callable[[Estimate], None] | None = None,
    ) -> Any:
        """Decide and send. sending: is shown what it may cost before anything is sent; what it raises ends it all."""
        parts = self._parts()
        settings, folder = parts.settings, folder_of(parts.settings)
        items = await asyncio.wrap_future(in_thread(_items, parts, requests, config))
        forget_old(folder)
        print_ = fingerprint(items, str(getattr(self._client, "base_url", "")), str(beta))
        with open_for(folder, print_) as store:
            store.ask(((item.n, item.custom_id, item.first) for item in items), parts.wall())
            bodies: dict[int, Mapping[str, Any]] = {item.n: item.params for item in items if item.config is None}
            sender = BatchSender(self._api(beta), store, settings.batch, bodies.__getitem__, extra)
            await sender.recover()
            await self._decide(store, items, bodies, extra, told)
            if sending:
                sending(estimate(parts, items, store.known(), store.refused()))
            await sender.send(sorted(bodies))
            return self._shown(store, beta) or await self._counted(store, beta)

    async def estimate(self, requests: Sequence[Any]) -> Estimate:
        """What it may cost, as far as local can tell: nothing is asked, sent or kept."""
        parts = self._parts()
        items = await asyncio.wrap_future(in_thread(_items, parts, requests, None))
        kept: dict[int, dict[str, Any]] = {}
        refused: set[int] = set()

        def keep(group: list[Routed]) -> None:
            kept.update({one.item.n: one.kept.to_json() for one in group if one.kept})
            refused.update(one.item.n for one in group if one.error)

        todo = [item for item in items if item.config and item.first == item.n]
        await ItemRouter(parts, self._how(), ask=False).route(todo, {}, keep)
        return estimate(parts, items, kept, refused)

    def known(self) -> list[str]:
        """The ids of the batches in the state folder, the newest first."""
        return [path.stem for path in all_paths(folder_of(self._parts().settings))]

    def by_model(self, batch_id: str) -> dict[str, int]:
        """How many of its items went to which model; "(as asked)": those that were not routed."""
        with self._opened(batch_id) as store:
            places = list(store.places())
        return dict(Counter(place.kept["model"] if place.kept else "(as asked)" for place in places if not place.error))

    async def retrieve(self, batch_id: str, *, beta: bool) -> Any:
        """The batch as it is now."""
        with self._opened(batch_id) as store:
            await self._look(store, beta)
            return self._shown(store, beta) or await self._counted(store, beta)

    async def results(self, batch_id: str, *, beta: bool) -> Any:
        """Its results in the order asked. Raises the SDK's AnthropicError while it has not ended."""
        parts = self._parts()
        with self._opened(batch_id) as store:
            await self._look(store, beta)
            if not all(part.ended for part in store.parts()):
                raise not_ended(batch_id, "in_progress")
            spool = Spool()
            try:
                await read(self._api(beta), store, parts, spool)
                done = partial(self._over, batch_id)
                kind = AsyncResults if is_async(self._client) else Results
                return kind(parts, store.places(), spool, done, beta=beta)
            except BaseException:
                spool.close()
                raise

    async def cancel(self, batch_id: str, *, beta: bool) -> Any:
        """The batch, being cancelled."""
        api = self._api(beta)
        with self._opened(batch_id) as store:
            await self._look(store, beta)
            open_parts = [part for part in store.parts() if not part.ended]
            for part in open_parts:
                if part.id:
                    store.saw(part.nonce, await api.cancel(part.id))
            store.note(over="cancelled")
            if not all(part.id for part in open_parts):
                step = "cancel it again later"
                raise UpstreamError("a part is still looked for: its reply was lost", where=batch_id, next_step=step)
            return self._shown(store, beta) or await self._counted(store, beta)

    async def delete(self, batch_id: str, *, beta: bool) -> Any:
        """Delete its parts, and what is kept of it. Raises the API's own error while it has not ended."""
        api = self._api(beta)
        with self._opened(batch_id) as store:
            await self._look(store, beta)
            for part in sorted(store.parts(), key=lambda part: part.ended):  # the error first
                if part.id:
                    await api.delete(part.id)
            store.remove()
        return deleted_of(batch_id, beta=beta)

    async def _decide(
        self,
        store: BatchStore,
        items: Sequence[Item],
        bodies: dict[int, Mapping[str, Any]],
        extra: Mapping[str, Any],
        told: Told,
    ) -> None:
        """Decide the items that are neither sent nor refused; `bodies` gets what is to be sent of them."""
        sent, refused, known = store.sent_items(), store.refused(), store.known()
        todo = [item for item in items if item.config and item.first == item.n and item.n not in sent | refused]

        def keep(group: list[Routed]) -> None:
            decided = {one.item.n: one.kept.to_json() for one in group if one.kept}
            errors = {one.item.n: (type(one.error).__name__, str(one.error)) for one in group if one.error}
            store.keep(decided, errors)
            bodies.update({one.item.n: one.body for one in group if one.body is not None})

        free = _version(self._client, extra) == "2023-06-01"
        await ItemRouter(self._parts(), self._how(), free_sampling=free, told=told).route(todo, known, keep)

    async def _look(self, store: BatchStore, beta: bool) -> None:
        """Note how the parts are that have not ended."""
        api = self._api(beta)
        for part in store.parts():
            if part.id is None:
                if await find(api, store, part, wait=False) == "nowhere":
                    store.lost(part.nonce)
            elif not part.ended:
                store.saw(part.nonce, await api.look(part.id))

    async def _counted(self, store: BatchStore, beta: bool) -> Any:
        """The batch, after a look at its results."""
        await read(self._api(beta), store, self._parts())
        return self._shown(store, beta)

    def _shown(self, store: BatchStore, beta: bool) -> Any:
        """The SDK's object; None where only the results tell how many items came to what."""
        parts = store.parts()
        counts = counts_of(store, parts)
        return None if counts is None else batch_of(fields_of(store, parts, counts), parts, beta=beta)

    def _over(self, batch_id: str) -> None:
        """Its results were given out: whoever asks the same again wants it again."""
        with self._opened(batch_id) as store:
            if not any(part.gone for part in store.parts()):
                store.note(over="read")

    def _opened(self, batch_id: str) -> BatchStore:
        folder = folder_of(self._parts().settings)
        path = path_of(folder, batch_id)
        if path is None:
            step = "name the workspace that it was sent from"
            raise ConfigError(f"no batch {batch_id}", where=str(folder), next_step=step)
        return BatchStore(path)

    def _api(self, beta: bool) -> BatchApi:
        return BatchApi(self._client, beta=beta)


def _items(parts: Parts, requests: Sequence[Any], config: Mapping[str, Any] | None) -> list[Item]:
    """The items as asked. Raises InvalidRequest and ConfigError: the configuration is looked at before anything."""
    items = read_items(requests, config, parts.settings)
    for said in {repr(item.config): item.config for item in items if item.config}.values():
        names = ("force_model", "min_tier", "max_tier", "priority", "tags")
        parts.router.policy.limits(**{name: getattr(said, name) for name in names})
    return items


def replace_parts(page: Any, settings: Settings) -> None:
    """On a page of the API's batches, put each batch of ours in the place of its first part; its other parts go.

    One stays where the page would be empty otherwise: the SDK asks for no page after an empty one.
    """
    data, folder = getattr(page, "data", None), folder_of(settings)
    if not isinstance(data, list) or not data or not folder.is_dir():
        return
    shown: dict[str, Any] = {str(batch.id): batch for batch in data}
    for path in all_paths(folder):
        with suppress(ConfigError, DataError), BatchStore(path) as store:  # one that is at work stays as it is
            _replace(shown, store)
    page.data[:] = [batch for batch in shown.values() if batch is not None] or data[:1]


def _replace(shown: dict[str, Any], store: BatchStore) -> None:
    ids = [part.id for part in store.parts() if part.id]
    on_page = [name for name in ids if name in shown]
    if not on_page:
        return
    for part in store.parts():
        if part.id in on_page:
            store.saw(part.nonce, shown[part.id].to_dict(mode="json"))
    parts = store.parts()
    fields = fields_of(store, parts, counts_of(store, parts) or paid_counts(parts))
    kind = type(shown[on_page[0]])
    shown.update({name: like(kind, fields, parts) if name == ids[0] else None for name in on_page})


async def _with_original_errors(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    try:
        return await work()
    except Fault as fault:
        raise original(fault) from None


def _version(client: Any, extra: Mapping[str, Any]) -> Any:
    headers = {**getattr(client, "default_headers", {}), **(extra.get("extra_headers") or {})}
    return headers.get("anthropic-version")
