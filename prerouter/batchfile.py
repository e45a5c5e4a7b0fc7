"""The requests of `prerouter batch submit FILE`, and the replies that `prerouter batch results` writes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from prerouter.errors import DataError, InvalidRequest
from prerouter.files import expanded, read_jsonl
from prerouter.sending import request_of


def read_requests(name: str, usual: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The items of a JSONL file, "-" for standard input; all of it is checked. Raises DataError, OSError.

    A line is a request as `prerouter send` takes it, or the API's own object with `params`. usual: what a request gets
    that does not say it itself. Its custom_id is `custom_id`, else `id`, else the number of its line.
    """
    if name == "-":
        return _items(sys.stdin.buffer, name, usual)
    with open(expanded(name), "rb") as lines:
        return _items(lines, name, usual)


def _items(lines: Any, name: str, usual: Mapping[str, Any]) -> list[dict[str, Any]]:
    items, seen = [], dict[str, int]()
    for number, value in read_jsonl(lines, name):
        if isinstance(value, DataError):
            raise DataError(value.what, file=name, line=number, next_step="mend it")
        item = _item(value, usual, name, number)
        if seen.setdefault(item["custom_id"], number) != number:
            what = f"the id {item['custom_id']!r} is that of line {seen[item['custom_id']]} too"
            raise DataError(what, file=name, line=number, next_step="give every line its own")
        items.append(item)
    if not items:
        raise DataError("there is no request in it", file=name, next_step="name a file with a request a line")
    return items


def _item(value: Mapping[str, Any], usual: Mapping[str, Any], name: str, number: int) -> dict[str, Any]:
    custom_id = next((value[key] for key in ("custom_id", "id") if value.get(key) is not None), number)
    if type(custom_id) not in (str, int) or custom_id == "":
        raise DataError("the id is neither a text nor a number", file=name, line=number, next_step="mend it")
    try:
        params = _full(value, usual) if "params" in value else request_of(value, usual, f"line {number}")
    except InvalidRequest as error:
        raise DataError(error.what, file=name, line=number, next_step=error.next_step) from error
    return {"custom_id": str(custom_id), "params": params}


def _full(value: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """`params` as they stand, nothing left out, with what they do not say."""
    params = value["params"]
    if not isinstance(params, Mapping) or not isinstance(params.get("messages"), list):
        raise InvalidRequest("params are no request with messages", next_step="mend it")
    configs = [usual, value, params]
    if not all(isinstance(holder.get("dispatch_config") or {}, Mapping) for holder in configs):
        raise InvalidRequest("dispatch_config is not an object", next_step='such as {"priority": "cost"}')
    config = {key: said for holder in configs for key, said in (holder.get("dispatch_config") or {}).items()}
    return {**usual, **params} | ({"dispatch_config": config} if config else {})


def line_of(result: Any) -> dict[str, Any]:
    """A line of the output: id, then `message` or `error`, and `routing` (null: not routed, or not sent)."""
    told = result.result
    routing = {"routing": result.routing.to_json() if result.routing else None}
    if told.type == "succeeded":
        return {"id": result.custom_id, "message": told.message.to_dict(mode="json"), **routing}
    error = {"type": told.type, "message": None}
    if told.type == "errored":
        error = {"type": told.error.error.type, "message": told.error.error.message}
    return {"id": result.custom_id, "error": error, **routing}
