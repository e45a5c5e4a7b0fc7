"""The event loop on its own thread."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from typing import Any

import pytest

from prerouter.background import Background, in_thread


async def _nothing() -> None:
    pass


def test_a_coroutine_runs_on_the_loops_own_thread() -> None:
    background = Background()

    async def where() -> str:
        return threading.current_thread().name

    assert background.run(where).result(5) != threading.current_thread().name
    background.stop(_nothing)
    background.stop(_nothing)


def test_blocking_work_of_the_loop_is_on_daemon_threads() -> None:
    background = Background()

    async def daemon() -> bool:
        return await asyncio.get_running_loop().run_in_executor(None, lambda: threading.current_thread().daemon)

    assert background.run(daemon).result(5)
    background.stop(_nothing)


def test_stop_cancels_what_runs_and_then_cleans_up() -> None:
    background, seen, started = Background(), list[str](), threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            seen.append("cancelled")

    async def cleanup() -> None:
        seen.append("cleaned up")

    background.run(work)
    assert started.wait(5)
    background.stop(cleanup)
    assert seen == ["cancelled", "cleaned up"]


def test_a_cleanup_that_fails_does_not_keep_the_thread() -> None:
    before = threading.active_count()
    background = Background()

    async def cleanup() -> None:
        raise OSError

    background.stop(cleanup)
    assert threading.active_count() == before


def test_stop_without_waiting_returns_at_once() -> None:
    background, hold = Background(), threading.Event()

    async def block() -> None:
        hold.wait(5)

    blocked = background.run(block)
    background.stop(_nothing, wait=False)
    assert not blocked.done()
    hold.set()
    blocked.result(5)
    background.stop(_nothing)


def test_a_coroutine_is_made_only_where_and_when_it_runs() -> None:
    background, made_on = Background(), list[str]()

    def make() -> Coroutine[Any, Any, None]:
        made_on.append(threading.current_thread().name)
        return _nothing()

    background.run(make).result(5)
    background.stop(make)
    with pytest.raises(RuntimeError):
        background.run(make)
    assert made_on == ["prerouter-classifier"] * 2


def test_what_is_cancelled_before_it_starts_is_never_made() -> None:
    background, made, busy, go = Background(), list[str](), threading.Event(), threading.Event()

    async def block() -> None:
        busy.set()
        go.wait(5)

    async def work() -> None:
        made.append("it ran")

    background.run(block)
    assert busy.wait(5)
    background.stop(_nothing, wait=False)
    cancelled = background.run(work)
    go.set()
    with pytest.raises(CancelledError):
        cancelled.result(5)
    assert made == []


def test_whatever_ends_a_thread_reaches_its_future() -> None:
    assert in_thread(int, "7").result(5) == 7
    with pytest.raises(ValueError, match="invalid literal"):
        in_thread(int, "x").result(5)
    with pytest.raises(SystemExit):
        in_thread(sys.exit, 1).result(5)


def test_a_thread_cannot_be_cancelled() -> None:
    hold = threading.Event()
    future = in_thread(hold.wait, 5)
    assert not future.cancel()
    hold.set()
    assert future.result(5)
