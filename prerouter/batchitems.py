"""The items of a batch as they were asked: checked, their configuration read, the equal ones found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prerouter.dispatchconfig import DispatchConfig
from prerouter.dispatchrecords import DISPATCH
from prerouter.errors import InvalidRequest
from prerouter.settings import Settings

CONFIG = "dispatch_config"


@dataclass(frozen=True, slots=True)
class Item:
    """One item. n: its place, from 0. params: as they are sent; of a routed one plain JSON values.

    config: None for an item of another model, which travels as it is. first: place of the first item that is equal.
    key: hash of params and configuration.
    """

    n: int
    custom_id: str
    params: Mapping[str, Any]
    config: DispatchConfig | None
    first: int
    key: bytes


def wants_routing(requests: Sequence[Any]) -> bool:
    """Whether any of `requests` names claude-dispatch."""
    return any(_params(request).get("model") == DISPATCH for request in requests)


def read_items(requests: Sequence[Any], usual: Mapping[str, Any] | None, settings: Settings) -> list[Item]:
    """The items, in order. usual: configuration of those that do not say otherwise.

    Raises InvalidRequest for what is no list of items, ConfigError for a bad dispatch_config.
    """
    names: dict[str, int] = {}
    firsts: dict[bytes, int] = {}
    items = []
    for n, request in enumerate(requests):
        item = _item(n, request, usual or {}, settings, firsts)
        if names.setdefault(item.custom_id, n) != n:
            what = f"the custom_id {item.custom_id!r} is that of requests[{names[item.custom_id]}] too"
            raise InvalidRequest(what, where=f"requests[{n}]", next_step="give every item its own")
        items.append(item)
    return items


def fingerprint(items: Iterable[Item], *context: str) -> str:
    """64 hex characters of what is asked, and to whom."""
    told = hashlib.sha256(json.dumps(context).encode())
    for item in items:
        told.update(hashlib.sha256(item.custom_id.encode("utf-8", "replace")).digest() + item.key)
    return told.hexdigest()


def written(params: Mapping[str, Any]) -> bytes:
    """`params` as JSON: what they take on the wire, more or less."""
    return json.dumps(params, ensure_ascii=False, separators=(",", ":"), default=_plain).encode("utf-8", "replace")


def _item(n: int, request: Any, usual: Mapping[str, Any], settings: Settings, firsts: dict[bytes, int]) -> Item:
    params, where = _params(request), f"requests[{n}]"
    name = request.get("custom_id") if isinstance(request, Mapping) else None
    if not (isinstance(name, str) and name and params):
        raise InvalidRequest("no item with custom_id and params", where=where, next_step="give it both")
    sent = {key: value for key, value in params.items() if key != CONFIG}
    try:
        plain = json.dumps(sent, sort_keys=True, default=_plain).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"params are no JSON: {error}", where=where, next_step="make them plain values") from error
    if params.get("model") != DISPATCH:
        return Item(n, name, sent, None, n, hashlib.sha256(plain).digest())
    said = {**usual, **_config(request, where), **_config(params, where)}
    config = DispatchConfig.read(said, settings)
    key = hashlib.sha256(plain + repr(config).encode("utf-8", "replace")).digest()
    return Item(n, name, json.loads(plain), config, firsts.setdefault(key, n), key)


def _params(request: Any) -> Mapping[str, Any]:
    params = request.get("params") if isinstance(request, Mapping) else None
    return params if isinstance(params, Mapping) else {}


def _config(holder: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    said = holder.get(CONFIG) or {}
    if not isinstance(said, Mapping):
        raise InvalidRequest(f"{CONFIG} is not an object", where=where, next_step='such as {"priority": "cost"}')
    return said


def _plain(value: Any) -> Any:
    """A value of the SDK's own types, such as a block of an earlier reply, as JSON."""
    if hasattr(value, "to_dict"):
        return value.to_dict(mode="json")
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray):
        return list(value)
    raise TypeError(f"{type(value).__name__} cannot be sent")
