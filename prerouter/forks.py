"""Locks that a forked child can take: one that a thread of its parent held would be held in the child for ever."""

from __future__ import annotations

import os
from functools import cache
from threading import Lock
from typing import Protocol
from weakref import WeakSet


class Owner(Protocol):
    """Keeps its lock as `_lock`."""

    _lock: Lock


_owners: WeakSet[Owner] = WeakSet()


def new_lock(owner: Owner) -> Lock:
    """A lock for `owner._lock`; a child of this process finds a fresh one there."""
    _watch()
    _owners.add(owner)
    return Lock()


@cache
def _watch() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_renew)


def _renew() -> None:
    for owner in list(_owners):
        owner._lock = Lock()
