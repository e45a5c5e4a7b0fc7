"""Flags of `prerouter report` and `prerouter shadow`."""

from __future__ import annotations

from typing import Any

from prerouter.flags import Parser, age, command, dollars, few, lazy, positive, share


def report(commands: Any, shared: Parser) -> None:
    """Add `report`."""
    example = """  prerouter report --from usage.jsonl
  prerouter report --since 30d --html report.html
  prerouter report --what-if models/challenger --json

A row of usage.jsonl is what any service has: a Messages body and the answer's model and usage, such as
  {"messages": [...], "model": "claude-opus-5-5", "usage": {"input_tokens": 812, "output_tokens": 97}, "at": ...}
or both as they went over the wire: {"request": {...}, "response": {...}, "at": ..., "tags": {...}}"""
    about = "What routing saves and costs: from the routing log, or from a plain usage log before installing anything."
    parser = command(commands, shared, "report", about, example)
    parser.add_argument(
        "--from", dest="source", metavar="USAGE.jsonl", help="a usage log; - is stdin (default: the log)"
    )
    parser.add_argument("--what-if", metavar="DIR", help="another model folder: the audited requests replayed under it")
    parser.add_argument(
        "--max-under", type=share, metavar="X", help="what if the contract allowed this (with or without)"
    )
    parser.add_argument("--max-disagreement", type=share, metavar="X", help="the same for disagreement")
    parser.add_argument("--since", type=age, default=30 * 86_400.0, metavar="AGE", help="such as 12h (default 30d)")
    parser.add_argument("--pairs", metavar="FILE", help="judged pairs (prerouter shadow), for the measured savings")
    parser.add_argument("--html", metavar="FILE", help="write one self-contained page as well")
    parser.add_argument("--skip-bad", action="store_true", help="leave out broken rows of --from; exit 1")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=lazy("prerouter.report", "run_report"))


def shadow(commands: Any, shared: Parser) -> None:
    """Add `shadow`."""
    example = """  prerouter shadow usage.jsonl --estimate
  prerouter shadow usage.jsonl -o pairs.jsonl --sample 200 --max-usd 5"""
    about = "Would the routed model have answered as well? A judge compares answers, blind, on a sample of a usage log."
    parser = command(commands, shared, "shadow", about, example)
    parser.add_argument("file", metavar="USAGE.jsonl", help="a usage log, with the answers; - is stdin")
    parser.add_argument("-o", "--output", metavar="FILE", help="JSONL of pairs, appended to; the same again goes on")
    parser.add_argument("--sample", type=positive, default=200, metavar="N", help="rows looked at (default 200)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="names the sample (default 0)")
    parser.add_argument("--model", metavar="DIR", help="model folder (default: models/champion, else the shipped one)")
    parser.add_argument("--judge", metavar="MODEL", help="default: the first model of the strongest tier")
    parser.add_argument("--max-usd", type=dollars, metavar="X", help="what this run may cost at most")
    parser.add_argument("--concurrency", type=few, default=4, metavar="N", help="comparisons at a time (default 4)")
    parser.add_argument("--local-only", action="store_true", help="compare local decisions alone; ask no classifier")
    parser.add_argument("--estimate", action="store_true", help="say what it may cost; nothing is sent")
    parser.add_argument("--skip-bad", action="store_true", help="leave out broken rows")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=lazy("prerouter.shadow", "run_shadow"))


COMMANDS = (report, shadow)
