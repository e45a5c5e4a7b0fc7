"""`prerouter label`."""

from __future__ import annotations

import argparse
import json
import sys
from decimal import Decimal
from typing import Any

from prerouter.errors import ConfigError
from prerouter.labelling import LabelResult, estimate, label
from prerouter.labelout import errors_path
from prerouter.labelreport import check_gold, compare, survey, taxonomy_named
from prerouter.outcomes import run_from_outcomes
from prerouter.settings import load_settings


def run_label(options: argparse.Namespace) -> int:
    """Exit code of `prerouter label`."""
    if options.estimate:
        return _estimate(options)
    if not options.output:
        raise ConfigError("no output", where="prerouter label", next_step="add -o FILE, or --estimate")
    if options.from_outcomes:
        return run_from_outcomes(options)
    if options.against:  # before any money is spent
        check_gold(options.against, taxonomy_named(options.taxonomy))
    result = label(
        options.inputs,
        options.output,
        batch=options.batch,
        votes=options.votes,
        taxonomy=options.taxonomy,
        sample=options.sample,
        stratify=options.stratify,
        certify=options.certify,
        seed=options.seed,
        max_usd=options.max_usd,
        rpm=options.rpm,
        concurrency=options.concurrency,
        poll_seconds=options.poll_seconds,
        redact=options.redact,
        labeller=options.labeller,
        escalate_to=options.escalate_to,
    )
    print(_summary(result), file=sys.stderr)
    shown, passed = _shown(options, result)
    if options.json:
        print(json.dumps(result.to_json() | {name: part.to_json() for name, part in shown.items()}, ensure_ascii=False))
    elif shown:
        print("\n\n".join(part.to_text() for part in shown.values()))
    return 1 if result.failed or result.capped or not passed else 0


def _shown(options: argparse.Namespace, result: LabelResult) -> tuple[dict[str, Any], bool]:
    """What `--report` and `--against` show, and whether the target is reached."""
    shown: dict[str, Any] = {}
    if not (options.report or options.against):
        return shown, True
    taxonomy = taxonomy_named(options.taxonomy)
    if options.report:
        cost = Decimal(str(result.cost_usd))
        shown["report"] = survey(result.output, taxonomy, errors=errors_path(result.output), cost_usd=cost)
    if options.against:
        target = load_settings().label.target
        shown["against"] = compare(result.output, options.against, taxonomy, target=target)
    return shown, not options.against or shown["against"].passed


def _estimate(options: argparse.Namespace) -> int:
    votes = options.votes or (3 if options.certify or options.escalate_to else 1)
    found = estimate(
        options.inputs,
        votes=votes,
        taxonomy=options.taxonomy,
        sample=options.sample,
        stratify=options.stratify,
        seed=options.seed,
        redact=options.redact,
        rpm=options.rpm,
        labeller=options.labeller,
    )
    if options.json:
        print(json.dumps(found.to_json()))
        return 0
    how = "counted by the API on a sample" if found.method == "count_tokens" else "estimated from the texts' length"
    print(f"{found.rows:,} rows, {found.calls:,} calls, {found.input_tokens:,} tokens in ({how})")
    print(f"live  ${found.usd_live:,.4f}, about {found.seconds_live / 60:,.0f} minutes")
    print(f"batch ${found.usd_batch:,.4f}, mostly within an hour, at most 24")
    return 0


def _summary(result: LabelResult) -> str:
    if result.nothing_to_do:
        told = f"prerouter: nothing to do: {result.labelled:,} of {result.rows:,} rows are labelled in {result.output}"
    else:
        shares = ", ".join(f"{name} {n:,}" for name, n in result.distribution.items() if n)
        told = f"prerouter: {result.labelled:,} of {result.rows:,} rows labelled ({shares or 'none'})"
        told += f", {result.skipped_duplicates:,} by another's answer; ${result.cost_usd:.6f}"
    if result.split:
        told += f"; {result.split:,} requests with split votes"
    if result.failed:
        told += f"; {result.failed:,} rows without an answer: {errors_path(result.output)}"
    return told + ("; the cap is reached: raise --max-usd to go on" if result.capped else "")
