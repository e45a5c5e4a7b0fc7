"""Threads that are kept for the next piece of work."""

from __future__ import annotations

import contextvars
import os
import threading
import time

import pytest

from prerouter.workers import Workers

VALUE = contextvars.ContextVar("VALUE", default=0)


def test_work_runs_at_once_however_much_there_is() -> None:
    pool, barrier, met = Workers(), threading.Barrier(9), []

    def work() -> None:
        barrier.wait(10)
        met.append(threading.current_thread())

    for _ in range(8):
        pool.run(work)
    barrier.wait(10)
    _until(lambda: len(met) == 8)
    assert len(set(met)) == 8


def test_a_thread_is_used_again() -> None:
    pool, seen = Workers(), list[threading.Thread]()
    for n in range(1, 21):
        pool.run(lambda: seen.append(threading.current_thread()))
        _until(lambda n=n: len(seen) == n)
        time.sleep(0.001)
    assert len(set(seen)) < 20


def test_work_sees_the_callers_context() -> None:
    pool, seen = Workers(), list[int]()
    VALUE.set(7)
    pool.run(lambda: seen.append(VALUE.get()))
    _until(lambda: seen == [7])


def test_an_idle_thread_ends() -> None:
    pool, seen = Workers(idle_s=0.01), list[threading.Thread]()
    pool.run(lambda: seen.append(threading.current_thread()))
    _until(lambda: bool(seen))
    seen[0].join(10)
    assert not seen[0].is_alive()
    pool.run(lambda: seen.append(threading.current_thread()))
    _until(lambda: len(seen) == 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    pool, done = Workers(), threading.Event()
    pool.run(done.set)
    assert done.wait(10)
    time.sleep(0.05)  # it is idle now: the child must not count on it
    if pid := os.fork():
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        return
    own = threading.Event()
    pool.run(own.set)
    os._exit(0 if own.wait(10) else 1)


def _until(true: object) -> None:
    end = time.monotonic() + 10
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.001)
