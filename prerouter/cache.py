"""Answers kept: least recently used out first, and none older than its time to live.

No lock: the owner guards it (see `claude.Classifier`), so that a forked child never inherits a held one.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class AnswerCache(Generic[T]):
    """At most `size` values (0: none), each for `ttl_s` seconds after `put`; `now` is in seconds of one clock."""

    def __init__(self, size: int, ttl_s: float) -> None:
        self._size, self._ttl_s = size, ttl_s
        self._kept: OrderedDict[bytes, tuple[float, T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes, now: float) -> T | None:
        """The value of `key`, which becomes the most recently used; None when unknown or too old."""
        found = self._kept.get(key)
        if found is None:
            return None
        expires, value = found
        if now >= expires:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return value

    def put(self, key: bytes, value: T, now: float) -> None:
        """Keep `value`; the least recently used one makes room."""
        self._kept[key] = (now + self._ttl_s, value)
        self._kept.move_to_end(key)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)
