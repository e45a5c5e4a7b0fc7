"""Flags of `prerouter evaluate`."""

from __future__ import annotations

import argparse
from typing import Any

from prerouter.errors import ConfigError
from prerouter.flags import Parser, command, lazy, positive


def evaluate(commands: Any, shared: Parser) -> None:
    """Add `evaluate`."""
    example = """  prerouter evaluate models/mine held_out.jsonl --html report.html
  prerouter evaluate models/mine held_out.jsonl --require-valid --json
  prerouter evaluate --fixed --ask 100"""
    about = "Measure a model folder on labelled requests that it did not learn from."
    parser = command(commands, shared, "evaluate", about, example)
    parser.add_argument("model", nargs="?", metavar="DIR", help="model folder, or models:/NAME@ALIAS")
    parser.add_argument("file", nargs="?", metavar="FILE", help="labelled requests, JSONL or Parquet; - is stdin")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--html", metavar="FILE", help="write a report with charts, one self-contained page")
    parser.add_argument("--require-valid", action="store_true", help="exit 1 unless the certificate is valid and holds")
    parser.add_argument("--allow-overlap", action="store_true", help="also measure on rows that it learnt from")
    parser.add_argument("--novel-label", metavar="LABEL", help="label of rows of no class (default: as in training)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the intervals' draws (default 0)")
    _fixed(parser)
    parser.set_defaults(run=_run)


def _fixed(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the same set every week")
    about = "hold against earlier runs; exit 1 when a figure fell (default: champion, labels/heldout.jsonl)"
    group.add_argument("--fixed", action="store_true", help=about)
    group.add_argument("--ask", type=positive, default=0, metavar="N", help="have the classifier label N rows anew")
    group.add_argument("--rebase", action="store_true", help="hold later runs against this one")


def _run(options: argparse.Namespace) -> int:
    if options.fixed and (options.html or options.require_valid or options.novel_label):
        step = "leave --html, --require-valid and --novel-label out"
        raise ConfigError("--fixed compares figures and nothing else", where="evaluate", next_step=step)
    if options.fixed:
        return lazy("prerouter.fixedset", "run_fixed")(options)
    if not (options.model and options.file):
        step = "prerouter evaluate DIR FILE, or prerouter evaluate --fixed"
        raise ConfigError("evaluate takes a model folder and a file", where="evaluate", next_step=step)
    if options.ask or options.rebase:
        raise ConfigError("--ask and --rebase go with --fixed", where="evaluate", next_step="add --fixed")
    return lazy("prerouter.evaluation", "run_evaluate")(options)


COMMANDS = (evaluate,)
