"""`prerouter doctor`: is everything in place to route?"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

from prerouter.checks import Check, State, problem
from prerouter.errors import PreRouterError, UpstreamError
from prerouter.files import expanded
from prerouter.settings import Settings, load_settings, mode

# Prices have moved every one to two months (CLAUDE_API: section 10), so a table older than that deserves a look.
STALE_DAYS = 60


def run_doctor(options: argparse.Namespace) -> int:
    """Exit code of `prerouter doctor`: 1 when a check is a problem."""
    found = _taxonomy(options.taxonomy) if options.taxonomy else examine(options.model)
    checks = list(found)
    problems = [check for check in checks if check.state == "problem"]
    if options.json:
        report = {"ok": not problems, "checks": [check.to_json() for check in checks]}
        print(json.dumps(report, ensure_ascii=False))
    else:
        for check in checks:
            print(f"{check.state:8} {check.name:9} {check.found}" + (f"; {check.next}" if check.next else ""))
    return 1 if problems else 0


def examine(model: str | None = None) -> Iterator[Check]:
    """Every check in turn. One that fails does not stop the next."""
    try:
        settings = load_settings()
        mode()
    except PreRouterError as error:
        yield problem("settings", error)
        return
    yield Check("settings", "ok", f"workspace {settings.workspace or 'none'}, mode {mode()}")
    for name, look in _CHECKS.items():
        try:
            yield from look(settings, model)
        except PreRouterError as error:
            yield problem(name, error)


def _taxonomy(folder: str) -> Iterator[Check]:
    from prerouter.taxonomycheck import examine_taxonomy

    return examine_taxonomy(expanded(folder), load_settings())


def _model(settings: Settings, model: str | None) -> Iterator[Check]:
    from prerouter.router import PreRouter

    with PreRouter.load(model, settings=settings) as router:
        router.decide("What is the capital of Mongolia?", local_only=True)
        certificate = router.local.certificate
        state = "certified" if certificate and certificate.valid else "gate closed: every request falls through"
        labels = ", ".join(router.taxonomy.names)
        yield Check("model", "ok", f"{router.local.model_folder_id}, labels {labels}, {state}")
        for warning in router.taxonomy.warnings:
            yield Check("taxonomy", "note", warning)


def _prices(settings: Settings, _: str | None) -> Iterator[Check]:
    from prerouter.tiers import TierTable

    as_of = TierTable.load(settings.tiers).as_of
    age = (date.today() - as_of).days
    if age > STALE_DAYS:
        yield Check("prices", "note", f"table of {as_of}, {age} days old", "upgrade prerouter or set prices in [tiers]")
    else:
        yield Check("prices", "ok", f"table of {as_of}")


def _log(settings: Settings, _: str | None) -> Iterator[Check]:
    from prerouter.routelog import RouteLog

    with RouteLog.open(settings=settings) as log:
        rows = log.stats().rows
        if "://" in log.where:
            yield Check("log", "ok", f"{log.where}, {rows:,} rows")
            return
        folder = next(p for p in (Path(log.path), *Path(log.path).parents) if p.exists())
        writable = os.access(folder, os.W_OK)
        found = f"{log.path}, {rows:,} rows" + ("" if writable else ", not writable")
        yield Check("log", "ok" if writable else "problem", found, None if writable else f"make {folder} writable")


def _claude(settings: Settings, _: str | None) -> Iterator[Check]:
    from prerouter.sdk import has_key, list_models
    from prerouter.tiers import TierTable, compare

    if not has_key():
        yield Check("key", "note", "none found: unsure requests get the default label", "set ANTHROPIC_API_KEY")
        return
    try:
        listing = list_models(settings.classifier)
    except UpstreamError as error:
        yield problem("claude", error)
        return
    yield Check("claude", "ok", f"{len(listing)} models offered")
    for finding in compare(TierTable.load(settings.tiers), listing):
        state: State = "problem" if finding.serious else "note"
        yield Check("models", state, finding.text, "change the tier's models in [tiers] of prerouter.toml")


_CHECKS: dict[str, Callable[[Settings, str | None], Iterator[Check]]] = {
    "model": _model,
    "prices": _prices,
    "log": _log,
    "claude": _claude,
}
