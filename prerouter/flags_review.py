"""Flags of `prerouter review`."""

from __future__ import annotations

import argparse
from typing import Any

from prerouter.flags import Parser, command, lazy, positive


def _port(value: str) -> int:
    if not (value.isascii() and value.isdigit() and int(value) < 65_536):
        raise argparse.ArgumentTypeError(f"{value} is not a port: a whole number from 0 to 65,535")
    return int(value)


def review(commands: Any, shared: Parser) -> None:
    """Add `review`."""
    example = """  prerouter review labels/history.jsonl
  prerouter review labels/history.jsonl --doubtful --sample 50
  prerouter review --log"""
    about = "Look at labelled requests in the browser and confirm or correct their labels, a key each."
    parser = command(commands, shared, "review", about, example)
    parser.add_argument("file", nargs="?", metavar="FILE", help="JSONL or Parquet, as prerouter label writes it")
    parser.add_argument("--log", action="store_true", help="rows of the routing log, where it keeps texts (log.text)")
    parser.add_argument("--queue", action="store_true", help="instead: the requests that were handed to people")
    parser.add_argument("-o", "--output", metavar="FILE", help="reviewed rows (default: FILE.reviewed.jsonl beside it)")
    parser.add_argument("--taxonomy", metavar="FILE", help="labels (default: the workspace's, else the shipped ones)")
    parser.add_argument("--sample", type=positive, default=200, metavar="N", help="rows to look at (default 200)")
    parser.add_argument("--doubtful", action="store_true", help="the least sure ones instead of random ones")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="names the random choice (default 0)")
    parser.add_argument("--port", type=_port, default=0, metavar="N", help="of 127.0.0.1 (default: a free one)")
    parser.add_argument("--open", action="store_true", help="open the browser, too")
    parser.add_argument("--json", action="store_true", help="print what it came to as JSON")
    parser.set_defaults(run=lazy("prerouter.review", "run_review"))


COMMANDS = (review,)
