"""Flags of `prerouter evaluate`."""

from __future__ import annotations

import argparse
from typing import Any

from prerouter.errors import ConfigError
from prerouter.flags import Parser, command, dollars, few, lazy, positive


def evaluate(commands: Any, shared: Parser) -> None:
    """Add `evaluate`."""
    example = """  prerouter evaluate models/mine held_out.jsonl --html report.html
  prerouter evaluate models/mine held_out.jsonl --require-valid --json
  prerouter evaluate --fixed --ask 100
  prerouter evaluate --answers requests.jsonl --taxonomy routes --against-prompt monolith.md -o pairs.jsonl"""
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
    _answers(parser)
    parser.set_defaults(run=_run)


def _fixed(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the same set every week")
    about = "hold against earlier runs; exit 1 when a figure fell (default: champion, labels/heldout.jsonl)"
    group.add_argument("--fixed", action="store_true", help=about)
    group.add_argument("--ask", type=positive, default=0, metavar="N", help="have the classifier label N rows anew")
    group.add_argument("--rebase", action="store_true", help="hold later runs against this one")


def _answers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("specialists against one prompt, judged blind (DIR: the local model)")
    group.add_argument("--answers", metavar="FILE", help="requests, JSONL or Parquet; labels are optional; - is stdin")
    group.add_argument("--taxonomy", metavar="DIR", help="folder of the taxonomy and its specialists, or a file")
    group.add_argument("--against-prompt", metavar="FILE", help="system prompt that is to do all of it")
    about = "that answers under it (default: the first of the strongest tier of the taxonomy's routes)"
    group.add_argument("--against-model", metavar="MODEL", help=about)
    group.add_argument("--judge", metavar="MODEL", help="default: the first model of the strongest tier")
    group.add_argument("-o", "--output", metavar="FILE", help="JSONL of pairs, appended to; the same again goes on")
    group.add_argument("--sample", type=positive, default=200, metavar="N", help="requests compared (default 200)")
    about = "of an answer, where neither request nor route says (default 4096)"
    group.add_argument("--max-tokens", type=positive, metavar="N", help=about)
    group.add_argument("--max-usd", type=dollars, metavar="X", help="what this run may cost at most")
    group.add_argument("--concurrency", type=few, default=4, metavar="N", help="comparisons at a time (default 4)")
    group.add_argument("--estimate", action="store_true", help="say what it may cost; nothing is sent")


def _run(options: argparse.Namespace) -> int:
    where = "evaluate"
    if options.answers:
        return _run_answers(options)
    if options.taxonomy or options.against_prompt or options.output or options.estimate or options.max_usd:
        step = "add --answers FILE"
        raise ConfigError(
            "--taxonomy, --against-prompt, -o and the like go with --answers", where=where, next_step=step
        )
    if options.fixed and (options.html or options.require_valid or options.novel_label):
        step = "leave --html, --require-valid and --novel-label out"
        raise ConfigError("--fixed compares figures and nothing else", where=where, next_step=step)
    if options.fixed:
        return lazy("prerouter.fixedset", "run_fixed")(options)
    if not (options.model and options.file):
        step = "prerouter evaluate DIR FILE, or prerouter evaluate --fixed"
        raise ConfigError("evaluate takes a model folder and a file", where=where, next_step=step)
    if options.ask or options.rebase:
        raise ConfigError("--ask and --rebase go with --fixed", where=where, next_step="add --fixed")
    return lazy("prerouter.evaluation", "run_evaluate")(options)


def _run_answers(options: argparse.Namespace) -> int:
    if not (options.taxonomy and options.against_prompt):
        step = "--taxonomy DIR --against-prompt FILE"
        raise ConfigError("--answers compares two sides", where="evaluate", next_step=step)
    others = ("file", "fixed", "ask", "rebase", "require_valid", "novel_label", "allow_overlap")
    odd = [name for name in others if getattr(options, name)]
    if odd:
        what = f"{'a second file' if odd[0] == 'file' else '--' + odd[0].replace('_', '-')} does not go with --answers"
        raise ConfigError(what, where="evaluate", next_step="leave it out")
    return lazy("prerouter.answers", "run_answers")(options)


COMMANDS = (evaluate,)
