"""The SDK's resources as Dispatch shows them: every method and property is there, `dispatch_config` is taken.

A call with model "claude-dispatch" goes to the client that routes; any other goes to the user's own client, untouched.
In shadow mode (PREROUTER_MODE) that model still answers, and what would have been decided is logged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prerouter.batchverbs import BatchVerbs
from prerouter.dispatchrecords import DISPATCH
from prerouter.lookups import CONFIG, how
from prerouter.routingreply import routed_manager, with_error_routing

_SENDING = ("create", "stream", "parse")
_WRAPPED = ("with_raw_response", "with_streaming_response")


class Clients:
    """The three clients behind a Dispatch. plain: the user's own. routing: routes, and retries by itself.

    light: for what only looks (counting tokens, listing models), with the SDK's own retries. check: reads a
    dispatch_config, raising ConfigError. knows: whether a model is in the table. has_routes: whether
    a route may name max_tokens. batches: those that are routed.
    """

    def __init__(
        self,
        plain: Any,
        routing: Any,
        light: Any,
        check: Callable[[object], object],
        knows: Callable[[str], object],
        has_routes: Callable[[], bool],
        batches: BatchVerbs,
    ) -> None:
        self.plain, self.routing, self.light, self.check, self.knows = plain, routing, light, check, knows
        self.has_routes, self.batches = has_routes, batches

    def for_call(self, path: tuple[str, ...], arguments: Mapping[str, Any]) -> Any:
        """The client for this call."""
        if "models" in path or ("batches" in path and path[-1] == "list"):
            return self.light
        if arguments.get("model") == DISPATCH:
            return self.light if path[-1] == "count_tokens" else self.routing
        sends = "messages" in path and "batches" not in path and path[-1] in _SENDING
        shadowed = sends and how() == "shadow"
        return self.routing if shadowed and self.knows(str(arguments.get("model"))) else self.plain


class Surface:
    """A resource of the SDK, such as `client.beta.messages`, found anew at each use."""

    def __init__(self, clients: Callable[[], Clients], path: tuple[str, ...]) -> None:
        self._clients, self._path = clients, path

    def __getattr__(self, name: str) -> Any:
        path = (*self._path, name)
        found = _at(self._clients().plain, path)
        if name in _WRAPPED or (hasattr(found, "_client") and not callable(found)):
            return Surface(self._clients, path)
        return Method(self._clients, path) if callable(found) else found


class Method:
    """A method of a resource."""

    def __init__(self, clients: Callable[[], Clients], path: tuple[str, ...]) -> None:
        self._clients, self._path = clients, path

    def __call__(self, *args: Any, dispatch_config: Mapping[str, Any] | None = None, **arguments: Any) -> Any:
        clients = self._clients()
        if dispatch_config is not None:
            clients.check(dispatch_config)
        if "batches" in self._path and (ours := clients.batches.of(self._path, args, arguments)):
            return ours(dispatch_config)
        client = clients.for_call(self._path, arguments)
        if dispatch_config is not None and client is not clients.plain:
            arguments["extra_body"] = {**(arguments.get("extra_body") or {}), CONFIG: dict(dispatch_config)}
        routed = client is clients.routing and arguments.get("model") == DISPATCH
        if routed and "max_tokens" not in arguments and clients.has_routes():
            # The SDK wants one; null, which the body then has, stands for the route's.
            arguments = {**arguments, "max_tokens": 1}
            arguments["extra_body"] = {**(arguments.get("extra_body") or {}), "max_tokens": None}
        call = _at(client, self._path)
        if client is not clients.routing:
            return call(*args, **arguments)
        made = with_error_routing(call, *args, **arguments)
        return routed_manager(made) if self._path[-2:] == ("messages", "stream") else made


def _at(client: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        client = getattr(client, name)
    return client
