"""Locks in a forked child."""

from __future__ import annotations

import os
import threading
import warnings

import pytest

from prerouter.conversations import Conversations
from prerouter.forks import new_lock
from prerouter.ledger import Ledger
from prerouter.plan import DeadModels, Threads
from prerouter.tiers import TierTable


class Owner:
    def __init__(self) -> None:
        self._lock = new_lock(self)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_can_take_what_its_parent_held() -> None:
    table = TierTable.load()
    owners = [Owner(), Ledger(table), Conversations(table), DeadModels(1.0), Threads()]
    held = [owner._lock for owner in owners]
    for lock in held:
        lock.acquire()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # since Python 3.12 of every fork of a process with threads
        pid = os.fork()
    if not pid:
        os._exit(0 if all(owner._lock.acquire(timeout=1) for owner in owners) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert all(owner._lock is lock and lock.locked() for owner, lock in zip(owners, held, strict=True))


def test_two_owners_have_two_locks() -> None:
    assert Owner()._lock is not Owner()._lock
    assert isinstance(Owner()._lock, type(threading.Lock()))
