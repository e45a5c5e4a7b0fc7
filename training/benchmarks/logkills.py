"""Kill -9 against the routing log: `python training/benchmarks/logkills.py`.

A process appends 2,000 rows a second and acknowledges what `flush` says is durable; it is killed at a random moment,
100 times, always on the same file. Of what was acknowledged nothing may be missing, of the rest no row may be there
without the ones before it, and the roll-ups have to say the same as the rows. Prints the figures as JSON and writes
them to logkills.json beside this file.
"""

from __future__ import annotations

import json
import os
import platform
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from prerouter.routelog import RouteLog
from prerouter.settings import Settings

KILLS = 100
RATE = 2_000  # rows per second
STEP = 100  # rows between two pauses, and between two acknowledgements
KILL_AFTER_S = 0.01, 1.0  # from the first acknowledgement

CHILD = f"""
import sys, time
from dataclasses import replace
sys.path.insert(0, {str(Path(__file__).parent)!r})
from routelog import RouteLog, append, decision
from prerouter.settings import Settings
log, run, start = RouteLog.open(sys.argv[1], settings=Settings()), sys.argv[2], time.perf_counter()
for i in range(10**9):
    append(log, replace(decision(i), id=f"{{run}}-{{i}}"))
    if i % {STEP} == {STEP} - 1:
        print(i + 1, log.flush(60), time.perf_counter() - start, flush=True)
        time.sleep(max(0.0, start + (i + 1) / {RATE} - time.perf_counter()))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, rng = Path(folder) / "routes.db", random.Random(0)
        runs = [one_kill(path, run, rng.uniform(*KILL_AFTER_S)) for run in range(KILLS)]
        with RouteLog.open(path, settings=Settings()) as log:
            kept: dict[str, list[int]] = {}
            for row in log.rows():
                run, number = row.decision.id.split("-")
                kept.setdefault(run, []).append(int(number))
            rows, rolled_up = log.stats().rows, sum(each.rows for each in log.rollups())
        db = sqlite3.connect(path)
        whole = db.execute("PRAGMA integrity_check").fetchone()[0]
        db.close()
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "sqlite": sqlite3.sqlite_version,
        "load": round(os.getloadavg()[0], 1),
        "kills": KILLS,
        "rows_per_s": {"asked": RATE, "median": sorted(run["rows_per_s"] for run in runs)[KILLS // 2]},
        "appended": sum(run["appended"] for run in runs),
        "acknowledged": sum(run["acknowledged"] for run in runs),
        "kept": rows,
        "acknowledged_and_lost": sum(max(0, r["acknowledged"] - len(kept.get(str(i), []))) for i, r in enumerate(runs)),
        "runs_with_gaps": sum(numbers != list(range(len(numbers))) for numbers in kept.values()),
        "rows_in_roll_ups": rolled_up,
        "integrity_check": whole,
    }
    text = json.dumps(result, indent=2)
    Path(__file__).with_suffix(".json").write_text(text + "\n")
    print(text)


def one_kill(path: Path, run: int, after_s: float) -> dict[str, Any]:
    """Start, wait for a first acknowledgement, kill; what was appended and acknowledged at the least."""
    command = [sys.executable, "-c", CHILD, str(path), str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        lines = [process.stdout.readline()]
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        lines += [line for line in process.stdout if line.endswith("\n")]
    appended, acknowledged, seconds = lines[-1].split()
    rate = round(int(appended) / float(seconds))
    return {"appended": int(appended), "acknowledged": int(acknowledged), "rows_per_s": rate}


if __name__ == "__main__":
    main()
