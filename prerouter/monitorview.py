"""`prerouter monitor`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

from prerouter.monitor import Rate, Watched, monitor, tell
from prerouter.routelog import RouteLog
from prerouter.settings import load_settings
from prerouter.traffic import NewTopic


def run_monitor(options: argparse.Namespace) -> int:
    """Exit code of `prerouter monitor`: 1 on an alarm."""
    settings = load_settings()
    with RouteLog.open(settings=settings) as log:
        found = monitor(settings=settings, log=log)
        failed = tell(log, found, settings.monitor)
    print(json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False) if options.json else to_text(found))
    for alarm in found.alarms:
        print(f"prerouter: alarm: {alarm.text}", file=sys.stderr)
    for note in found.notes:
        print(f"prerouter: {note}", file=sys.stderr)
    if failed:
        print(f"prerouter: the webhook was not told: {failed}; the next run tries again", file=sys.stderr)
    return 1 if found.alarms else 0


def to_text(found: Watched) -> str:
    """A page for people."""
    return "\n".join(_lines(found))


def _lines(found: Watched) -> Iterator[str]:
    traffic, closed = found.traffic, ", ".join(found.closed) or "none"
    yield f"{found.model_folder_id}: {found.state}, {found.audits:,} audits of local decisions; closed gates: {closed}"
    yield ""
    yield f"  disagreement           {_rate(found.disagreement)}"
    yield f"  under-routing          {_rate(found.under_routing)}"
    strongest = max(found.evidence.items(), key=lambda item: item[1], default=None)
    if strongest:
        yield f"  strongest evidence     {strongest[1]:.1%} of an alarm ({strongest[0]})"
    yield f"  requests               {traffic.requests:,}"
    yield f"  coverage               {_share(traffic.coverage)}"
    yield f"  fallback rate          {_share(traffic.fallback_rate)}"
    shifts = {"inputs": traffic.inputs, "labels": traffic.labels, "coverage": traffic.decided}
    for name, shift in shifts.items():
        shown = f"{shift.moved:.1%} moved, p = {shift.p_value:.3f}" if shift else "too few requests to tell"
        yield f"  drift of {name:13} {shown}"
    for i, topic in enumerate(traffic.topics, 1):
        yield f"  new topic {i:<12} {_topic(topic)}"


def _rate(rate: Rate) -> str:
    if rate.estimate is None or rate.lower is None or rate.upper is None or rate.limit is None:
        return "-"
    return f"{rate.estimate:.1%} ({rate.lower:.1%} to {rate.upper:.1%}), at most {rate.limit:.1%} promised"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _topic(topic: NewTopic) -> str:
    seen = topic.examples or (", ".join(topic.tags) or "request " + ", ".join(topic.ids),)
    sample = " ".join(seen[0].split())
    return f"{topic.share:.1%} of the fall-throughs ({topic.before:.1%} before), such as: {sample}"
