"""Flags of `prerouter evaluate`."""

from __future__ import annotations

from typing import Any

from prerouter.flags import Parser, command, lazy


def evaluate(commands: Any, shared: Parser) -> None:
    """Add `evaluate`."""
    example = """  prerouter evaluate models/mine held_out.jsonl --html report.html
  prerouter evaluate models/mine held_out.jsonl --require-valid --json"""
    about = "Measure a model folder on labelled requests that it did not learn from."
    parser = command(commands, shared, "evaluate", about, example)
    parser.add_argument("model", metavar="DIR", help="model folder, or models:/NAME@ALIAS")
    parser.add_argument("file", metavar="FILE", help="labelled requests, JSONL or Parquet; - is stdin")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--html", metavar="FILE", help="write a report with charts, one self-contained page")
    parser.add_argument("--require-valid", action="store_true", help="exit 1 unless the certificate is valid and holds")
    parser.add_argument("--allow-overlap", action="store_true", help="also measure on rows that it learnt from")
    parser.add_argument("--novel-label", metavar="LABEL", help="label of rows of no class (default: as in training)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the intervals' draws (default 0)")
    parser.set_defaults(run=lazy("prerouter.evaluation", "run_evaluate"))


COMMANDS = (evaluate,)
