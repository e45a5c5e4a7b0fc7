"""Flags of `prerouter label`."""

from __future__ import annotations

import argparse
from typing import Any

from prerouter.flags import Parser, command, lazy, number, positive

_dollars = number(float, lambda usd: 0 < usd < 1e9, "an amount of US dollars above 0")
_seconds = number(float, lambda s: 0.01 <= s <= 86_400, "a number of seconds from 0.01 to 86,400")


def _label(commands: Any, shared: Parser) -> None:
    example = """  prerouter label history.jsonl --estimate
  prerouter label history.jsonl -o labelled.jsonl --sample 5000 --max-usd 2
  prerouter label history.jsonl -o labelled.jsonl --batch
  prerouter label history.jsonl -o certify.jsonl --sample 2000 --certify"""
    about = "Label historical requests with Claude Haiku. The same command again finishes what was left."
    parser = command(commands, shared, "label", about, example)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="JSONL, Parquet or a routing log; - is stdin")
    parser.add_argument("-o", "--output", metavar="FILE", help="JSONL; rows without an answer: FILE.errors.jsonl")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--batch", action="store_true", help="Message Batches: half the price, within hours")
    way.add_argument("--live", action="store_true", help="one call per request (the default)")
    _which(parser)
    _how(parser)
    parser.add_argument("--report", action="store_true", help="show distribution, noise, confused pairs, cost")
    parser.add_argument("--against", metavar="GOLD", help="agreement with these labels; exit 1 below the target")
    _outcomes(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=lazy("prerouter.labelcommand", "run_label"))


def _which(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which rows")
    group.add_argument("--sample", type=positive, metavar="N", help="a uniform sample of so many rows")
    group.add_argument("--stratify", action="store_true", help="as many of each source and length, weighted back")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="names the sample (default 0)")
    group.add_argument("--certify", action="store_true", help="a sample to certify on: uniform, three votes")
    group.add_argument(
        "--redact",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="take e-mails, phone and card numbers, keys out of what is sent and stored (default: yes)",
    )


def _how(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("who is asked, how, for how much")
    group.add_argument("--estimate", action="store_true", help="only say what it would cost")
    group.add_argument("--max-usd", type=_dollars, metavar="X", help="stop before so much is spent for FILE")
    group.add_argument("--taxonomy", metavar="FILE", help="labels (default: the workspace's, else complexity)")
    group.add_argument("--labeller", metavar="MODEL", help="default: the classifier's model")
    group.add_argument("--votes", type=positive, metavar="N", help="times each request is asked about")
    group.add_argument("--escalate-to", metavar="MODEL", help="settles split votes")
    group.add_argument("--rpm", type=positive, metavar="N", help="calls a minute (default: the API's limit)")
    group.add_argument("--concurrency", type=positive, metavar="N", help="calls at a time")
    group.add_argument("--poll-seconds", type=_seconds, metavar="S", help="between two looks at batches")


def _outcomes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("labels from outcomes")
    group.add_argument("--from-outcomes", action="store_true", help="label by per-tier `scores`; asks nobody")
    group.add_argument("--threshold", type=float, metavar="X", help="least score that is good enough (default 0.5)")
    group.add_argument(
        "--none-enough",
        choices=("skip", "top", "cheapest"),
        default="skip",
        help="label of rows that no tier did well (default: skip, they are left out)",
    )


COMMANDS = (_label,)
