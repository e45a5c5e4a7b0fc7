"""Flags of `prerouter send`."""

from __future__ import annotations

from typing import Any

from prerouter.flags import Parser, command, lazy, number, positive

_many = number(int, lambda n: 1 <= n <= 1_000, "a whole number from 1 to 1,000")


def send(commands: Any, shared: Parser) -> None:
    """Add `send`."""
    example = """  prerouter send "Translate into Spanish: the invoice is attached."
  prerouter send --stream --max-tokens 2000 "Design a rate limiter for ten regions."
  prerouter send --input requests.jsonl --output replies.jsonl --concurrency 20"""
    about = "Send requests to the models that they need: routed, adapted, retried, accounted."
    parser = command(commands, shared, "send", about, example)
    parser.add_argument("text", nargs="?", metavar="TEXT", help="a request, or a Messages body as JSON; - reads stdin")
    parser.add_argument("--input", metavar="FILE", help="JSONL with `text` or a Messages body a line; - is stdin")
    parser.add_argument("--output", metavar="FILE", help="JSONL, a reply or an error a line, in order; - is stdout")
    parser.add_argument("--model", default="claude-dispatch", metavar="NAME", help="default: claude-dispatch, routed")
    parser.add_argument("--max-tokens", type=positive, default=4096, metavar="N", help="of an answer (default 4096)")
    parser.add_argument("--system", metavar="FILE", help="system prompt, for requests that have none of their own")
    parser.add_argument("--concurrency", type=_many, default=5, metavar="N", help="requests at a time (default 5)")
    parser.add_argument("--stream", action="store_true", help="print the answer as it comes (one request)")
    parser.add_argument("--min-tier", metavar="T", help="never below this tier")
    parser.add_argument("--max-tier", metavar="T", help="never above this tier")
    parser.add_argument("--priority", choices=("quality", "speed", "cost"), help="default: cost")
    parser.add_argument("--tag", metavar="K=V", action="append", default=[], help="for rules, budgets and the log")
    parser.add_argument("--json", action="store_true", help="print the Message; with --output FILE a summary")
    parser.set_defaults(run=lazy("prerouter.sending", "run_send"))


COMMANDS = (send,)
