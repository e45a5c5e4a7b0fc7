"""Logs in both kinds of store, and rows to put into them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prerouter.records import Decision, Request, Scores
from prerouter.routelog import RouteLog, RowRef
from prerouter.sections import LogSettings
from prerouter.settings import Settings

ROOT = Path(__file__).parents[1]
REQUEST = Request("Sort this list", "", (1.0, 0.25), 1, 14)
DECISION = Decision(
    id="r1",
    label="simple",
    tier="haiku",
    model="claude-haiku-5-5",
    decided_by="local",
    stage=0,
    reason="above_gate",
    adjusted_by=("min_tier", "rule:night"),
    confidence=0.9,
    probabilities={"simple": 0.9, "complex": 0.1},
    fallback_label=None,
    rationale=None,
    params={},
    audit=False,
    audit_p=0.05,
    model_folder_id="0123456789ab",
    prompt_id=None,
    text_version=1,
    seconds=0.0001,
    cost_usd=0.000000001,
)
SCORES = Scores("simple", (0.9, 0.1), 0, "above_gate", 0.5, 1.0, 0.25, 1.25)
# What every script below starts with: a log at argv[1] and a way to append row number i.
PRELUDE = f"""
import dataclasses, os, signal, sys, threading, time
from pathlib import Path
from prerouter.routelog import *
from prerouter.sections import LogSettings
from prerouter.settings import Settings
from prerouter.records import Decision, Request
REQUEST = {REQUEST!r}
DECISION = {DECISION!r}
log = RouteLog.open(sys.argv[1], settings=Settings(log=LogSettings(queue=100_000)))
def append(name):
    log.append(REQUEST, dataclasses.replace(DECISION, id=str(name)))
"""


def open_log(url: str | Path, clock: Callable[[], float] = time.time, **log: Any) -> RouteLog:
    return RouteLog.open(url, settings=Settings(log=LogSettings(**log)), clock=clock)


def append(log: RouteLog, name: object, options: dict[str, Any] | None = None, **decision: Any) -> RowRef:
    return log.append(REQUEST, dataclasses.replace(DECISION, id=str(name), **decision), **(options or {}))


def ids(log: RouteLog) -> list[str]:
    return [row.decision.id for row in log.rows()]


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(script: str, *arguments: object) -> str:
    with start(script, *arguments) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
