"""Looks are made off the request path, now and then, while somebody glances."""

from __future__ import annotations

import logging
import os
import threading

import pytest

from prerouter.lookout import Lookout


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_glance_looks_and_the_next_when_it_is_due() -> None:
    clock, made = Clock(), []
    lookout = Lookout(2.0, clock=clock)
    lookout.glance()
    lookout.add(lambda: made.append(threading.current_thread().name))
    for clock.now in (0.0, 1.0, 1.9, 2.0, 2.1, 9.0):
        lookout.glance()
        assert lookout.wait()
    assert made == ["prerouter-lookout"] * 3


def test_a_look_that_fails_is_logged_once_and_keeps_no_other_from_being_made(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, made = Clock(), []
    lookout, fails = Lookout(1.0, clock=clock), True

    def look() -> None:
        if fails:
            raise OSError("the disk is gone")

    lookout.add(look)
    lookout.add(lambda: made.append(1))
    with caplog.at_level(logging.WARNING):
        for clock.now in range(6):
            fails = clock.now != 3
            lookout.glance()
            assert lookout.wait()
    assert len(made) == 6
    assert len(caplog.records) == 2  # once, and once again after it had succeeded


def test_a_slow_look_is_never_made_twice_at_a_time() -> None:
    clock, may_end, made = Clock(), threading.Event(), []
    lookout = Lookout(1.0, clock=clock)

    def look() -> None:
        made.append(1)
        may_end.wait(20)

    lookout.add(look)
    for clock.now in range(5):
        lookout.glance()
    assert not lookout.wait(0)
    may_end.set()
    assert lookout.wait(20)
    lookout.glance()
    assert lookout.wait(20)
    assert len(made) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_in_the_middle_of_a_look_makes_its_own() -> None:
    clock, may_end, begun = Clock(), threading.Event(), threading.Event()
    lookout, parent = Lookout(1.0, clock=clock), os.getpid()

    def look() -> None:
        begun.set()
        if os.getpid() == parent:
            may_end.wait(20)

    lookout.add(look)
    lookout.glance()
    assert begun.wait(20)
    pid = os.fork()
    if pid == 0:
        begun.clear()
        clock.now = 5.0
        lookout.glance()
        os._exit(0 if begun.wait(20) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    may_end.set()
    assert lookout.wait(20)
