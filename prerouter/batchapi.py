"""Message Batches through the user's own client, as JSON; errors are the SDK's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from prerouter.flights import Fault
from prerouter.prompt import Prompt
from prerouter.sdkbatches import UPLOAD_S, BatchSdk


class BatchApi(BatchSdk):
    """The batches of one client, of its `beta` part if so said. Every method raises Fault.

    Sending is tried once: whoever sends decides what follows. All else has the client's own retries.
    """

    def __init__(self, client: Any, *, beta: bool) -> None:
        super().__init__(cast(Prompt, None), client)  # nothing is asked with it
        self._beta = beta

    def client(self) -> Any:
        """The user's own, on the event loop that it belongs to."""
        return self._given

    async def send(self, requests: Sequence[Mapping[str, Any]], extra: Mapping[str, Any]) -> dict[str, Any]:
        """A new batch. After a Fault without a 4xx status it may exist all the same."""
        create = _resource(self._given.with_options(max_retries=0), self._beta).create
        return _json(await self._call(create, requests=requests, **({"timeout": UPLOAD_S} | dict(extra))))

    async def look(self, batch_id: str) -> dict[str, Any]:
        """A batch as it is now."""
        return _json(await self._call(self._batches().retrieve, batch_id))

    async def cancel(self, batch_id: str) -> dict[str, Any]:
        """The batch, being cancelled."""
        return _json(await self._call(self._batches().cancel, batch_id))

    async def delete(self, batch_id: str) -> None:
        """Delete a batch that has ended; one that is not there any more is no error."""
        try:
            await self._call(self._batches().delete, batch_id)
        except Fault as fault:
            if fault.status != 404:
                raise

    async def close(self) -> None:
        """Nothing: the client is the user's."""

    def _batches(self) -> Any:
        return _resource(self._given, self._beta)


def was_refused(fault: Fault) -> bool:
    """Whether a batch that this came of surely does not exist."""
    return not fault.sent or (400 <= fault.status < 500 and fault.status not in (408, 409))


def original(fault: Fault) -> BaseException:
    """The SDK's own exception."""
    return fault.__cause__ or fault


def _resource(client: Any, beta: bool) -> Any:
    return (client.beta if beta else client).messages.batches


def _json(value: Any) -> dict[str, Any]:
    return dict(value.to_dict(mode="json"))
