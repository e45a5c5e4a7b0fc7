"""An event loop on a daemon thread of its own, so that threads and event loops can wait for the same call.

Everything here is a daemon: a process whose call hangs still ends when its main thread does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar, cast

T = TypeVar("T")

_CLOSE_S = 2.0  # how long `stop` waits for connections to close before it leaves them to the process's end


def in_thread(work: Callable[..., T], *args: Any) -> Future[T]:
    """`work(*args)` on a daemon thread. The future cannot be cancelled: it is done when the thread is."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()
    threading.Thread(target=_fill, args=(future, work, args), name="prerouter-call", daemon=True).start()
    return future


def _fill(future: Future[T], work: Callable[..., T], args: tuple[Any, ...]) -> None:
    try:
        result = work(*args)
    except BaseException as error:  # even SystemExit must reach the waiter, or it waits for ever
        future.set_exception(error)
    else:
        future.set_result(result)


class _Loop(asyncio.SelectorEventLoop):
    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        # Name look-ups come here. The default pool's threads are joined at exit: a dead DNS server would hold it up.
        return asyncio.wrap_future(in_thread(func, *args), loop=self)


class _Later(Coroutine[Any, Any, T]):
    """The coroutine `make()`, made at its first step.

    Python warns of a coroutine that was made and never ran; where a process ends right after `run`, that may happen.
    """

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._make, self._made = make, cast("Coroutine[Any, Any, T] | None", None)

    def send(self, value: Any) -> Any:
        self._made = self._made or self._make()
        return self._made.send(value)

    def throw(self, kind: Any, value: Any = None, at: Any = None) -> Any:
        error = value or (kind() if isinstance(kind, type) else kind)
        if self._made is None:
            raise error
        return self._made.throw(error)

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._make().__await__()


class Background:
    """Runs coroutines on its own thread, which starts with the object. RuntimeError or OSError if none can be had."""

    def __init__(self) -> None:
        self._loop = _Loop()
        self._thread = threading.Thread(target=self._serve, name="prerouter-classifier", daemon=True)
        try:
            self._thread.start()
        except BaseException:  # no thread to be had
            self._loop.close()
            raise

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Start `make()` on the loop. Cancelling the future cancels the coroutine."""
        return asyncio.run_coroutine_threadsafe(_Later(make), self._loop)

    def stop(self, cleanup: Callable[[], Coroutine[Any, Any, None]], *, wait: bool = True) -> None:
        """Cancel what runs, await `cleanup()`, end the thread. With `wait` returns when done, at most 3 s later."""
        try:
            self._loop.call_soon_threadsafe(self._begin_stop, cleanup)
        except RuntimeError:  # the loop has ended
            return
        if wait:
            self._thread.join(_CLOSE_S + 1)

    def _begin_stop(self, cleanup: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._stopping = self._loop.create_task(_Later(partial(self._wind_up, cleanup)))

    async def _wind_up(self, cleanup: Callable[[], Coroutine[Any, Any, None]]) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await asyncio.gather(*others, return_exceptions=True)
                await cleanup()
        except Exception:  # closing is best effort: the sockets close with the process
            pass
        finally:
            self._loop.call_soon(self._loop.stop)  # after the callbacks that tell waiters about tasks that just ended

    def _serve(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()
