"""Flags of `prerouter train`, `retrain`, `promote`, `rollback` and `track`."""

from __future__ import annotations

import argparse
from typing import Any

from prerouter.flags import Parser, age, command, lazy, number, share


def _train(commands: Any, shared: Parser) -> None:
    example = """  prerouter train labels/examples.jsonl -o models/mine
  prerouter train intents.jsonl -o models/intents --taxonomy infer --novel-label oos --encoder minilm
  prerouter train day1.jsonl day2.parquet -o models/strict --max-under 0.02 --max-disagreement 0.05"""
    about = "Train a local classifier on labelled requests, and certify it."
    parser = command(commands, shared, "train", about, example)
    parser.add_argument("files", nargs="+", metavar="FILE", help="labelled requests, JSONL or Parquet; - is stdin")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="model folder to write")
    parser.add_argument("--taxonomy", metavar="FILE", help="labels, or `infer`: those of the rows, unordered")
    parser.add_argument("--novel-label", metavar="LABEL", help="rows with it are of no class; they test the guard")
    _how(parser)
    parser.add_argument("--test", metavar="FILE", action="append", default=[], help="rows that are only measured")
    parser.add_argument("--certify-on", metavar="FILE", action="append", default=[], help="rows to certify on")
    parser.add_argument("--no-track", action="store_true", help="do not log the training to MLflow")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=lazy("prerouter.trainview", "run_train"))


def _how(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how (stands above --recipe)")
    about = "auto, static, minilm, NAME or DIR; A+B: two stages; repeatable: the best is taken (default: auto)"
    group.add_argument("--encoder", metavar="NAME", action="append", help=about)
    group.add_argument("--finetune", action="store_true", default=None, help="fine-tune the encoder on the labels")
    group.add_argument("--max-under", type=share, metavar="X", help="of local decisions, too weak (default 0.05)")
    group.add_argument("--max-disagreement", type=share, metavar="X", help="of them, different (default 0.10)")
    group.add_argument("--confidence", type=share, metavar="X", help="that both hold (default 0.95)")
    group.add_argument("--recipe", metavar="FILE", help="TOML (default: the workspace's training/default.toml)")
    group.add_argument("--seed", type=int, metavar="N", help="of split and samples (default 0)")


_pause = number(float, lambda x: 0.1 <= x <= 10**7, "a number of seconds from 0.1 to 10,000,000")


def _retrain(commands: Any, shared: Parser) -> None:
    example = """  prerouter retrain --dry-run
  prerouter retrain --since 90d --json
  prerouter retrain --watch 3600"""
    about = "Learn from the routing log, and promote the challenger if it is certified and no worse; exit 1 if not."
    parser = command(commands, shared, "retrain", about, example)
    parser.add_argument("--since", type=age, metavar="AGE", help="of the log, such as 90d (default: retrain.days, 30)")
    parser.add_argument("--dry-run", action="store_true", help="train and compare, change nothing")
    parser.add_argument("--watch", type=_pause, metavar="SECONDS", help="do it again and again, with such pauses")
    parser.add_argument("--no-track", action="store_true", help="do not log the challenger to MLflow")
    parser.add_argument("--json", action="store_true", help="print JSON; with --watch one line a round")
    parser.set_defaults(run=lazy("prerouter.retrainview", "run_retrain"))


def _promote(commands: Any, shared: Parser) -> None:
    example = """  prerouter promote models/mine
  prerouter promote models/mine --data labels/heldout.jsonl --json"""
    about = "Make a model folder the champion, if its certificate is valid and it is no worse; exit 1 if not."
    parser = command(commands, shared, "promote", about, example)
    parser.add_argument("dir", metavar="DIR", help="model folder, the challenger")
    parser.add_argument("--against", metavar="DIR", help="compare with this one (default: the champion)")
    parser.add_argument("--data", metavar="FILE", help="labelled rows to compare on (default: labels/heldout.jsonl)")
    parser.add_argument("--force", action="store_true", help="promote whatever the comparison says")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=lazy("prerouter.promote", "run_promote"))


def _rollback(commands: Any, shared: Parser) -> None:
    about = "Make the previous model folder the champion again."
    parser = command(
        commands, shared, "rollback", about, "  prerouter rollback\n  prerouter rollback --to 1f2e3d4c5b6a"
    )
    parser.add_argument("--to", metavar="ID", help="id of a model folder (default: the previous one)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=lazy("prerouter.promote", "run_rollback"))


def _track(commands: Any, shared: Parser) -> None:
    about = "Log a finished model folder to MLflow and register it."
    parser = command(commands, shared, "track", about, "  prerouter track models/mine")
    parser.add_argument("dir", metavar="DIR", help="model folder")
    parser.add_argument("--file", metavar="FILE", action="append", default=[], help="a further artefact; repeatable")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=lazy("prerouter.track", "run_track"))


COMMANDS = (_train, _retrain, _promote, _rollback, _track)
