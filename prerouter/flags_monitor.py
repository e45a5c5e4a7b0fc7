"""Flags of `prerouter monitor`."""

from __future__ import annotations

from typing import Any

from prerouter.flags import Parser, command, lazy


def _monitor(commands: Any, shared: Parser) -> None:
    example = """  prerouter monitor
  prerouter monitor --json > monitor.json || echo an alarm"""
    about = "Check live traffic against the certificate, and for drift; exit 1 on an alarm."
    parser = command(commands, shared, "monitor", about, example)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=lazy("prerouter.monitorview", "run_monitor"))


COMMANDS = (_monitor,)
