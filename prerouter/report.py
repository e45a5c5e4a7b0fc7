"""`prerouter report`: what routing costs and saves, from the routing log or from a plain usage log."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from prerouter import logreportview, usageview
from prerouter.champion import model_folder
from prerouter.errors import ConfigError
from prerouter.files import expanded
from prerouter.local import LocalClassifier
from prerouter.logreport import log_report
from prerouter.pairs import read_pairs
from prerouter.reportview import Section, to_text, write_html
from prerouter.routelog import RouteLog
from prerouter.router import PreRouter
from prerouter.settings import load_settings
from prerouter.usagereport import usage_report
from prerouter.whatif import WhatIf, what_if


def run_report(options: argparse.Namespace) -> int:
    """Exit code of `prerouter report`."""
    return _from_usage(options) if options.source else _from_log(options)


def _from_usage(options: argparse.Namespace) -> int:
    if options.max_under or options.max_disagreement:
        step = "leave --from out: only audited requests of the routing log can tell"
        raise ConfigError("another contract cannot be tried on a usage log", where="report", next_step=step)
    with PreRouter.load(options.what_if, settings=load_settings()) as router:
        found = usage_report(options.source, router, skip_bad=options.skip_bad)
    found.pairs = list(read_pairs(expanded(options.pairs))) if options.pairs else []
    _show(options, found.to_json(), *usageview.view(found), sources=[options.source])
    for error in found.errors:
        print(f"prerouter: left out: {error}", file=sys.stderr)
    if found.skipped:
        print(f"prerouter: {found.skipped:,} broken rows left out", file=sys.stderr)
    return 1 if found.skipped else 0


def _from_log(options: argparse.Namespace) -> int:
    settings, now = load_settings(), time.time()
    since = now - options.since
    with RouteLog.open(settings=settings) as log, PreRouter.load(settings=settings) as router:
        found = log_report(log, router, since=since, until=now)
        found.pairs += read_pairs(expanded(options.pairs)) if options.pairs else []
        other = _what_if(options, log, router, since, now)
    title, sections = logreportview.view(found)
    if other:
        sections.insert(1, logreportview.replayed(other))
    _show(options, found.to_json() | {"what_if": other.to_json() if other else None}, title, sections)
    if not found.total.rows:
        print(f"prerouter: no requests in the log ({found.where}); --from USAGE.jsonl needs none", file=sys.stderr)
    return 0


def _what_if(
    options: argparse.Namespace, log: RouteLog, router: PreRouter, since: float, until: float
) -> WhatIf | None:
    if not (options.what_if or options.max_under or options.max_disagreement):
        return None
    local = LocalClassifier.load(model_folder(options.what_if, router.settings)) if options.what_if else router.local
    under, differ = options.max_under, options.max_disagreement
    return what_if(log, router, local, since=since, until=until, max_under=under, max_disagreement=differ)


def _show(
    options: argparse.Namespace, found: object, title: str, sections: Sequence[Section], *, sources: Sequence[str] = ()
) -> None:
    print(json.dumps(found, ensure_ascii=False, allow_nan=False) if options.json else to_text(title, sections))
    if options.html:
        write_html(Path(options.html), title, sections, sources=sources)
        print(f"prerouter: report: {options.html}", file=sys.stderr)
