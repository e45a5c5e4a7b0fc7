"""Canonical JSON sealed with a checksum over itself, so that any changed byte is seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NoReturn


class Broken(ValueError):
    """The bytes are no JSON object."""


def write(content: Mapping[str, Any]) -> bytes:
    """`content` as UTF-8 JSON for people and for `read`. Raises ValueError for NaN and infinity."""
    body = {key: value for key, value in content.items() if key != "checksum"}
    return _dump(body | {"checksum": sha256(_dump(body))})


def read(data: bytes) -> dict[str, Any]:
    """The object in `data`, not yet checked with `is_whole`. Raises Broken when it is no JSON object."""
    try:
        content = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Broken(str(error)) from error
    if not isinstance(content, dict):
        raise Broken("not an object")
    return content


def is_whole(content: Mapping[str, Any], data: bytes) -> bool:
    """Whether `data`, which `content` was read from, is byte for byte what `write` wrote."""
    try:
        return write(content) == data
    except (ValueError, TypeError, RecursionError):
        return False


def sha256(data: bytes) -> str:
    """64 hex characters."""
    return hashlib.sha256(data).hexdigest()


def _dump(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
