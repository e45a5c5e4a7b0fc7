"""A plain usage log: requests that were answered, one JSON object a line, as any service may have written them.

A row holds a Messages body and what was answered. The body may be the row itself or stand under `request`, `params` or
`body`; the answer (a Messages response, or just its `usage`) may be the row itself or stand under `response`,
`message`, `reply` or `result`. `at`, `id` and `tags` are the row's own and optional.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import IO, Any

from prerouter.errors import DataError
from prerouter.examples import body_of
from prerouter.files import expanded, read_jsonl
from prerouter.logschema import Reply
from prerouter.progress import Progress
from prerouter.records import Usage
from prerouter.tables import tag_value

REQUEST_KEYS, REPLY_KEYS = ("request", "params", "body"), ("response", "message", "reply", "result")
TIME_KEYS = ("at", "timestamp", "created_at", "time")
_MEND = "mend the row or pass --skip-bad"
_MILLISECONDS = 1e11  # as seconds this is the year 5138: a larger number counts milliseconds


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One request that was answered.

    body: what was asked, as `text.render` takes it. params: the whole Messages body, {} for a row with `text` alone.
    model: the one that answered, "" when the row does not say. usage: None when the row does not say.
    at: UTC seconds since 1970. batch, us, fast: how it was billed. content: the answer's blocks, [] when not logged.
    """

    id: str
    line: int
    body: str | Mapping[str, Any]
    model: str
    usage: Usage | None
    at: float | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    batch: bool = False
    us: bool = False
    fast: bool = False
    params: Mapping[str, Any] = field(default_factory=dict)
    content: tuple[Mapping[str, Any], ...] = ()
    stop_reason: str | None = None


def read_usage(path: str) -> Iterator[UsageRow | DataError]:
    """The rows of a usage log ("-": standard input) in order, or what is wrong with one, in bounded memory.

    Raises DataError for a file that cannot be read.
    """
    with ExitStack() as stack:
        source = _opened(path, stack)
        progress = stack.enter_context(Progress("reading", source))
        for line, row in read_jsonl(iter(source), path):
            progress.advance(1)
            yield row if isinstance(row, DataError) else _row(row, path, line)


def _opened(path: str, stack: ExitStack) -> IO[bytes]:
    if path == "-":
        return sys.stdin.buffer
    try:
        return stack.enter_context(open(expanded(path), "rb"))
    except OSError as error:
        raise DataError(f"cannot read it: {error.strerror}", file=path, next_step="check the path") from error


def _row(row: Mapping[str, Any], path: str, line: int) -> UsageRow | DataError:
    try:
        request, reply = _part(row, REQUEST_KEYS, "messages"), _part(row, REPLY_KEYS, "usage")
        said, usage = Reply.of(reply), reply.get("usage")
        if any(getattr(said.usage, name) < 0 for name in Usage.__slots__):
            raise ValueError("a count of tokens is negative")
        body = body_of(request, path, line)
        return UsageRow(
            id=str(row["id"]) if row.get("id") not in (None, "") else str(line),
            line=line,
            body=body,
            model=said.model or _text(request.get("model")) or _text(row.get("model")),
            usage=said.usage if isinstance(usage, Mapping) else None,
            at=_time(row),
            tags=_tags(row.get("tags")),
            batch=_says(usage, "service_tier", "batch"),
            us=_says(usage, "inference_geo", "us"),
            fast=_says(usage, "speed", "fast"),
            params={} if isinstance(body, str) else request,
            content=tuple(block for block in _items(reply.get("content")) if isinstance(block, Mapping)),
            stop_reason=said.stop_reason,
        )
    except DataError as error:
        return error
    except (ValueError, OverflowError, RecursionError) as error:
        return DataError(f"not a row of a usage log: {error}", file=path, line=line, next_step=_MEND)


def _part(row: Mapping[str, Any], keys: tuple[str, ...], telling: str) -> Mapping[str, Any]:
    """The object under the first of `keys` that holds `telling`, however deep in such objects, else the row itself."""
    for key in keys:
        found = row.get(key)
        if isinstance(found, str) and found.lstrip()[:1] == "{":  # a column of JSON
            found = json.loads(found)
        if isinstance(found, Mapping):
            inner = _part(found, keys, telling)
            if telling in inner or telling not in row:
                return inner
    return row


def _time(row: Mapping[str, Any]) -> float | None:
    value = next((row[key] for key in TIME_KEYS if row.get(key) not in (None, "")), None)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        if isinstance(value, str):
            at = datetime.datetime.fromisoformat(value)
            return (at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp()
        seconds = value / 1e3 if value > _MILLISECONDS else float(value)
        datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError("its time is neither ISO 8601 nor seconds since 1970") from error
    return seconds


def _tags(value: object) -> dict[str, str]:
    return {str(key): tag_value(item) for key, item in value.items()} if isinstance(value, Mapping) else {}


def _says(usage: object, key: str, value: str) -> bool:
    return isinstance(usage, Mapping) and usage.get(key) == value


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else [{"type": "text", "text": value}] if isinstance(value, str) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
