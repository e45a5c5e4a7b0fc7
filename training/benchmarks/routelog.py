"""What the routing log costs its caller, and how much it takes: `python training/benchmarks/routelog.py [URL]`.

URL: of a PostgreSQL database; the log in it is measured too, and its tables are left there.
Prints the figures as JSON and writes them to routelog.json beside this file. The rows are as the router makes them:
a 400-character text, hashed, not kept; three probabilities; two tags; 384 features.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from prerouter.records import Decision, Request
from prerouter.routelog import RouteLog
from prerouter.sections import LogSettings
from prerouter.settings import Settings

RATES = (200, 2_000)  # rows per second that a caller appends at an even pace
SECONDS = 5.0  # of each rate
ROWS = 50_000  # appended as fast as possible, for the rate that can be sustained
REQUEST = Request("Summarise this ticket. " * 17 + "Thank you", "", (0.5,) * 20, 1, 400)
TAGS = {"team": "search", "conversation_id": "c0123456789"}
FEATURES = np.random.default_rng(0).normal(size=384).astype(np.float32)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        load = round(os.getloadavg()[0], 1)
        paced = [at_a_rate(Path(folder) / f"{rate}.db", rate) for rate in RATES]
        result = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "load_before": load,  # what others ran: above the number of cores, times are inflated
            "append": paced,
            "sustained": [flat_out(Path(folder) / f"{durable}.db", durable) for durable in (False, True)],
            "postgres": [flat_out(url, False) for url in sys.argv[1:]],
        }
    text = json.dumps(result, indent=2)
    Path(__file__).with_suffix(".json").write_text(text + "\n")
    print(text)


def at_a_rate(path: Path, rate: int) -> dict[str, Any]:
    """Microseconds that one append takes its caller while the writer thread works beside it."""
    n = int(rate * SECONDS)
    taken = np.empty(n)
    with open_log(path, durable=False) as log:
        append(log, decision(0))  # starts the thread
        start = time.perf_counter()
        for i in range(n):
            time.sleep(max(0.0, start + i / rate - time.perf_counter()))
            made = decision(i)
            before = time.perf_counter_ns()
            append(log, made)
            taken[i] = (time.perf_counter_ns() - before) / 1e3
        kept = log.flush(60)
    p50, p99 = np.quantile(taken, [0.5, 0.99])
    return {"rows_per_s": rate, "rows": n, "p50_us": round(p50, 1), "p99_us": round(p99, 1), "lost": n + 1 - kept}


def flat_out(path: Path | str, durable: bool) -> dict[str, Any]:
    """Rows per second from the first append until the last row is durable, in one process."""
    with open_log(path, durable=durable) as log:
        start, cpu = time.perf_counter(), time.process_time()
        for i in range(ROWS):
            append(log, decision(i))
        kept = log.flush(600)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        n_bytes = log.stats().bytes
    assert kept == ROWS
    rates = {"rows_per_s": round(ROWS / seconds), "rows_per_cpu_s": round(ROWS / cpu)}
    return {"durable": durable, **rates, "bytes_per_row": round(n_bytes / ROWS)}


def open_log(path: Path | str, *, durable: bool) -> RouteLog:
    return RouteLog.open(path, settings=Settings(log=LogSettings(durable=durable, queue=ROWS)))


def append(log: RouteLog, made: Decision) -> None:
    log.append(REQUEST, made, tags=TAGS, features=FEATURES, fingerprint="0123456789ab")


def decision(i: int) -> Decision:
    return Decision(
        id=f"r{i}",
        label="simple",
        tier="haiku",
        model="claude-haiku-5-5",
        decided_by="local",
        stage=0,
        reason="above_gate",
        adjusted_by=(),
        confidence=0.93,
        probabilities={"simple": 0.93, "moderate": 0.06, "complex": 0.01},
        fallback_label=None,
        rationale=None,
        params={},
        audit=i % 20 == 0,
        audit_p=0.05,
        model_folder_id="0123456789ab",
        prompt_id=None,
        text_version=1,
        seconds=0.0001,
        cost_usd=0.0,
    )


if __name__ == "__main__":
    main()
