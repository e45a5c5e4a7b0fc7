"""Flags of `prerouter batch`."""

from __future__ import annotations

import argparse
from typing import Any

from prerouter.flags import Parser, command, lazy, number, positive

_dollars = number(float, lambda usd: 0 < usd < 1e9, "an amount of US dollars above 0")
_seconds = number(float, lambda s: 0.01 <= s <= 86_400, "a number of seconds from 0.01 to 86,400")
_RUN = "prerouter.batchcommand"


def _batch(commands: Any, shared: Parser) -> None:
    example = """  prerouter batch submit requests.jsonl --estimate
  prerouter batch submit requests.jsonl --at 02:00 --max-usd 5
  prerouter batch status
  prerouter batch results prbatch_0123456789abcdef01234567 --wait -o replies.jsonl"""
    about = "Send many requests through Message Batches at half the price, each to the model that it needs."
    parser = command(commands, shared, "batch", about, example)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=Parser)
    _submit(verbs, shared)
    about = "How a batch stands; without an ID all that are known here."
    status = command(verbs, shared, "status", about, "  prerouter batch status --json")
    status.add_argument("id", nargs="?", metavar="ID", help="as `submit` printed it")
    status.add_argument("--json", action="store_true", help="print one JSON object")
    status.set_defaults(run=lazy(_RUN, "run_status"))
    _results(verbs, shared)


def _submit(verbs: Any, shared: Parser) -> None:
    example = """  prerouter batch submit requests.jsonl --max-usd 5
  prerouter batch submit requests.jsonl --at 02:00"""
    about = "Decide and send the requests of FILE, and print the batch's id. Again: go on where it was left."
    parser: argparse.ArgumentParser = command(verbs, shared, "submit", about, example)
    parser.add_argument(
        "file", metavar="FILE", help="JSONL as for `send`, or with `custom_id` and `params`; - is stdin"
    )
    parser.add_argument("--at", metavar="HH:MM", help="wait until then (local time) before anything is asked or sent")
    parser.add_argument("--estimate", action="store_true", help="only say what it would cost; nothing is sent")
    parser.add_argument("--max-usd", type=_dollars, metavar="X", help="send nothing if it may cost more")
    parser.add_argument("--model", default="claude-dispatch", metavar="NAME", help="default: claude-dispatch, routed")
    parser.add_argument("--max-tokens", type=positive, default=4096, metavar="N", help="of an answer (default 4096)")
    parser.add_argument("--system", metavar="FILE", help="system prompt, for requests that have none of their own")
    parser.add_argument("--min-tier", metavar="T", help="never below this tier")
    parser.add_argument("--max-tier", metavar="T", help="never above this tier")
    parser.add_argument("--priority", choices=("quality", "speed", "cost"), help="default: cost")
    parser.add_argument("--tag", metavar="K=V", action="append", default=[], help="for rules, budgets and the log")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=lazy(_RUN, "run_submit"))


def _results(verbs: Any, shared: Parser) -> None:
    about = "The replies of a batch that has ended, in the order of its lines; exit 1 while it has not."
    parser = command(verbs, shared, "results", about, "  prerouter batch results --wait -o replies.jsonl")
    parser.add_argument("id", nargs="?", metavar="ID", help="as `submit` printed it; default: the newest batch")
    parser.add_argument("-o", "--output", metavar="FILE", help="JSONL, a reply or an error a line; default: stdout")
    parser.add_argument("--wait", action="store_true", help="wait until it has ended")
    parser.add_argument("--poll-seconds", type=_seconds, metavar="S", help="between two looks (default 30)")
    parser.add_argument("--json", action="store_true", help="with -o FILE: print a summary")
    parser.set_defaults(run=lazy(_RUN, "run_results"))


COMMANDS = (_batch,)
