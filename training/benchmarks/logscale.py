"""How a routing log of 10 million rows reads: `python training/benchmarks/logscale.py [ROWS]`.

One day goes through `RouteLog.append` as a service would write it; the other 29 are copies of its rows and roll-ups,
moved back by whole days. Then everything that a report over 30 days asks for is timed, warm, and the report itself.
Prints the figures as JSON and writes them to logscale.json beside this file. Needs some 10 GB of disk for a while.
"""

from __future__ import annotations

import json
import os
import platform
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from routelog import REQUEST, decision

from prerouter import PreRouter
from prerouter.local import LocalClassifier
from prerouter.records import Usage
from prerouter.routelog import Reply, RouteLog, RowLabel
from prerouter.sections import LogSettings
from prerouter.settings import Settings

DAYS, DAY = 30, 86_400
NOW = 1_800_000_000 // DAY * DAY
COPIED = ("rows", "rollups", "latencies", "audit_counts", "labels")
TEAMS, FEATURES_OF = 20, 20  # tag values, and every so many rows with features: those are not what is measured


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "routes.db"
        per_day = rows // DAYS
        written = write_a_day(path, per_day)
        copy_to_earlier_days(path, per_day)
        result = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "load": round(os.getloadavg()[0], 1),  # what others ran: above the number of cores, times are inflated
            "rows": per_day * DAYS,
            "gb": round(path.stat().st_size / 1e9, 1),
            "written": written,
            "seconds": measured(path),
        }
    text = json.dumps(result, indent=2)
    Path(__file__).with_suffix(".json").write_text(text + "\n")
    print(text)


def write_a_day(path: Path, n: int) -> dict[str, Any]:
    """The last day, through the writer; rows per second that it took."""
    rng, now = random.Random(0), [0.0]
    local = PreRouter.load().local
    vector = np.random.default_rng(0).normal(size=384).astype(np.float32)
    with open_log(path, clock=lambda: now[0]) as log:
        log.set_state("made", True)
        db = sqlite3.connect(path)
        db.execute("UPDATE counters SET value = ? WHERE name = 'seq'", ((DAYS - 1) * n,))
        db.commit()
        db.close()
        start = time.process_time()
        for i in range(n):
            now[0] = NOW - DAY + i * DAY / n
            append_one(log, i, rng, vector if i % FEATURES_OF == 0 else None, local)
            if i % 5_000 == 0:
                log.flush(600)
        log.flush(600)
        return {"rows": n, "rows_per_cpu_s": round(n / (time.process_time() - start))}


def append_one(log: RouteLog, i: int, rng: random.Random, vector: np.ndarray | None, local: LocalClassifier) -> None:
    by, stage, reason = rng.choices(
        [
            ("local", 0, "above_gate"),
            ("local", 1, "above_gate"),
            ("llm", None, "classified"),
            ("default", None, "no_key"),
        ],
        [60, 15, 23, 2],
    )[0]
    label = rng.choice(local.taxonomy_names)
    made = replace(
        decision(i),
        label=label,
        tier={"simple": "haiku", "moderate": "sonnet"}.get(label, "opus"),
        model={"simple": "claude-haiku-5-5", "moderate": "claude-sonnet-5"}.get(label, "claude-opus-5"),
        decided_by=by,
        stage=stage,
        reason=reason,
        audit=rng.random() < 0.05,
        seconds=rng.lognormvariate(-9 if by == "local" else -1, 0.5),
        cost_usd=0.0004 if by == "llm" else 0.0,
        prompt_id="0123456789ab" if by == "llm" else None,
        model_folder_id=local.model_folder_id,
    )
    usage = Usage(rng.randrange(50, 3_000), rng.randrange(20, 900))
    reply = Reply(made.model, "end_turn", usage, 0.004, 0.01, rng.lognormvariate(1, 0.5), rng.lognormvariate(-0.5, 0.5))
    tags = {"team": f"team{rng.randrange(TEAMS)}", "conversation_id": f"c{i // 3}"}
    more = {"features": vector, "fingerprint": local.fingerprint, "labelled_by": "claude-haiku-5-5"}
    ref = log.append(REQUEST, made, reply, tags, mode="on", **more)
    if made.audit and by == "local":
        truth = label if rng.random() < 0.96 else "complex"
        log.add_label(ref, RowLabel(truth, "audit", "claude-haiku-5-5", "0123456789ab", cost_usd=0.0004))


def copy_to_earlier_days(path: Path, n: int) -> None:
    db = sqlite3.connect(path)
    db.execute("PRAGMA synchronous = OFF")
    indexes = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall()
    for name, _ in indexes:
        db.execute(f"DROP INDEX {name}")
    for table in COPIED:
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[1] != "number"]
        moved = {"seq": f"seq - :back * {n}", "at": f"at - :back * {DAY}000000", "hour": f"hour - :back * {DAY}"}
        sql = f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(moved.get(c, c) for c in columns)}"
        last = f"FROM {table} WHERE {'hour' if 'hour' in columns else 'at'} >= :since"
        since = (NOW - DAY) * (1 if "hour" in columns else 1_000_000)
        for back in range(1, DAYS):
            db.execute(f"{sql} {last}", {"back": back, "since": since})
            db.commit()
    for _, sql in indexes:
        db.execute(sql)
    db.commit()
    db.close()


def measured(path: Path) -> dict[str, Any]:
    """Seconds of each call; on a busy machine those of the processor say more than those of the wall."""
    from prerouter.logreport import log_report

    since, calls = NOW - DAYS * DAY, dict[str, Callable[[], object]]()
    with open_log(path, clock=lambda: float(NOW)) as log, PreRouter.load() as router:
        log.set_state("gate:x", {"closed": True})
        calls["rollups of 30 days by hour"] = lambda: log.rollups(since, NOW)
        calls["rollups of 30 days by day"] = lambda: log.rollups(since, NOW, step_s=DAY)
        calls["rollups of 30 days by team"] = lambda: log.rollups(since, NOW, tag="team", step_s=DAYS * DAY)
        calls["latencies of 30 days"] = lambda: log.latencies(since, NOW)
        calls["audit counts of 30 days by day"] = lambda: log.audit_counts(since, NOW, step_s=DAY)
        calls["report of 30 days"] = lambda: log_report(log, router, since=since, until=NOW).to_json()
        calls["state"] = lambda: log.state("gate:x")
        calls["row by request id"] = lambda: log.row("r4711")
        calls["the last 1,000 rows"] = lambda: log.tail(1_000)
        calls["rows of one hour"] = lambda: sum(1 for _ in log.rows(NOW - 3_600, NOW))
        calls["heads rows of one day"] = lambda: sum(1 for _ in log.rows(NOW - DAY, NOW, heads_only=True))
        calls["lessons of one day"] = lambda: sum(1 for _ in log.rows(NOW - DAY, NOW, lessons=True))
        calls["stats"] = log.stats
        return {name: timed(call) for name, call in calls.items()}


def timed(call: Callable[[], object]) -> dict[str, float]:
    """The best of five, or of two where one takes more than a second; the first is not counted."""
    call()
    found: list[tuple[float, float]] = []
    while len(found) < (2 if found and found[0][0] > 1 else 5):
        start = time.perf_counter(), time.process_time()
        call()
        found.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall, cpu = map(min, zip(*found, strict=True))
    return {"wall": round(wall, 4), "cpu": round(cpu, 4)}


def open_log(path: Path, clock: Callable[[], float]) -> RouteLog:
    settings = Settings(log=LogSettings(queue=100_000, max_gb=None))
    return RouteLog.open(path, settings=settings, clock=clock)


if __name__ == "__main__":
    main()
