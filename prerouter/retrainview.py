"""`prerouter retrain`: what came of it, once or again and again."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping

from prerouter.challenger import KEPT_HEAD
from prerouter.errors import PreRouterError
from prerouter.modelcard import certificate
from prerouter.retraining import Retrained, retrain


def run_retrain(options: argparse.Namespace) -> int:
    """Exit code of `prerouter retrain`: 1 when a challenger was made and not promoted."""
    found = _once(options)
    while options.watch is not None:
        time.sleep(options.watch)
        try:
            found = _once(options)
        except PreRouterError as error:  # the log, MLflow or a file that is being written: the next round may do
            print(f"prerouter: {error}; trying again in {options.watch:g} s", file=sys.stderr)
    return 1 if found.refused else 0


def _once(options: argparse.Namespace) -> Retrained:
    found = retrain(since_s=options.since, dry_run=options.dry_run, track=not options.no_track)
    shown = json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False) if options.json else _text(found)
    print(shown, flush=True)
    for hint in found.hints:
        print(f"prerouter: {hint}", file=sys.stderr)
    return found


def _text(found: Retrained) -> str:
    left = f"; left out: {_counts(found.left)}" if found.left else ""
    lines = [f"{_outcome(found)}{found.why}", f"rows: {_counts(found.rows)}{left}"]
    if found.model and found.model.training.get("head") == KEPT_HEAD:
        lines.append("head: the parent's, which tells the audited rows' labels better than the one learnt")
    if found.model and found.model.certificate.valid:
        lines.append(f"challenger {found.challenger or '(dry run)'}: {certificate(found.model.certificate)}")
    if found.comparison:
        sides = (found.comparison.champion, found.comparison.challenger)
        old, new = (f"{side.coverage:.1%}" for side in sides)
        lines.append(f"coverage on {found.comparison.n:,} rows that neither learnt from: {old} before, {new} now")
    return "\n".join(lines)


def _outcome(found: Retrained) -> str:
    if found.model is None:
        return "no challenger: "
    if found.challenger is None:
        return "dry run: "
    return "promoted: " if found.promoted else f"not promoted ({found.challenger}): "


def _counts(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {_ORIGINS.get(name, name)}" for name, n in rows.items() if n) or "none"


_ORIGINS = {"audit": "audited", "llm": "labelled by the classifier", "base": "base labels", "judge": "judged"}
