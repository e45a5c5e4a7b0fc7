"""`prerouter log`: where the routing log is and what is in it."""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import TYPE_CHECKING, Any

from prerouter.errors import ConfigError
from prerouter.files import open_output
from prerouter.settings import load_settings, tag_pair

if TYPE_CHECKING:
    from prerouter.routelog import LogRow, RouteLog

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def run_log(options: argparse.Namespace) -> int:
    """Exit code of `prerouter log VERB`."""
    from prerouter.routelog import RouteLog

    with RouteLog.open(settings=load_settings()) as log:
        verbs = {"path": _path, "tail": _tail, "export": _export, "prune": _prune, "stats": _stats}
        verbs[options.verb](log, options)
    return 0


def _path(log: RouteLog, options: argparse.Namespace) -> None:
    print(json.dumps({"path": log.where}) if options.json else log.where)


def _tail(log: RouteLog, options: argparse.Namespace) -> None:
    rows = log.tail(options.n)
    if options.json and not options.follow:
        print(json.dumps({"rows": [row.to_json() for row in rows]}, ensure_ascii=False))
        return
    for row in rows:
        _show(row, options.json)
    if options.follow:
        for row in log.follow(rows[-1].seq if rows else 0):
            _show(row, options.json)


def _show(row: LogRow, as_json: bool) -> None:
    print(json.dumps(row.to_json(), ensure_ascii=False) if as_json else _one_line(row.to_json()), flush=True)


def _one_line(row: dict[str, Any]) -> str:
    audit = "  audit" if row["audit"] else ""
    route = f"{row['label']} -> {row['model'] or '-'}"
    return f"{row['at']}  {row['id']}  {route}  {row['decided_by']}, {row['reason']}, {row['confidence']:.2f}{audit}"


def _export(log: RouteLog, options: argparse.Namespace) -> None:
    own = [f"{log.where}{end}" for end in ("", "-wal", "-shm", ".key")]
    with open_output(options.file, sources=own) as out:
        rows = log.export(out)
    if options.json and options.file != "-":
        print(json.dumps({"rows": rows, "file": options.file}, ensure_ascii=False))
    print(f"prerouter: {rows:,} rows exported", file=sys.stderr)


def _prune(log: RouteLog, options: argparse.Namespace) -> None:
    if not (options.older_than or options.tag):
        raise ConfigError("say what to prune", where="log prune", next_step="--older-than 30d, --tag K=V, or both")
    rows = log.prune(older_than_s=_age(options.older_than), tag=tag_pair(options.tag) if options.tag else None)
    print(json.dumps({"rows": rows}) if options.json else f"{rows:,} rows deleted")


def _age(text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text)
    if not match:
        raise ConfigError(f"{text!r} is not an age", where="--older-than", next_step="such as 30d, 12h or 90m")
    return int(match[1]) * SECONDS[match[2]]


def _stats(log: RouteLog, options: argparse.Namespace) -> None:
    stats = log.stats().to_json()
    if options.json:
        print(json.dumps(stats, ensure_ascii=False))
        return
    for key, value in stats.items():
        shown = ", ".join(f"{k} {v:,}" for k, v in value.items()) if isinstance(value, dict) else value
        print(f"{key:14} {'-' if shown in (None, '', []) else shown}")
