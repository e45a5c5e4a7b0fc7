"""The report about a usage log, for people."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prerouter.pairs import summary
from prerouter.reportview import Section, count, dollars, percent
from prerouter.savings import COLD, CURRENT, FLOOR, LOGGED, MEANING, ROUTED, Sum
from prerouter.shadowview import judged
from prerouter.svg import Axis, Chart, Line, Times
from prerouter.usagereport import UsageReport

SHOWN_TAGS = 8  # values of each tag on the page, those with the most dollars


def view(found: UsageReport) -> tuple[str, list[Section]]:
    """Title and sections."""
    known = found.first_at is not None and found.last_at is not None
    days = f", {_day(found.first_at or 0)} to {_day(found.last_at or 0)}" if known else ""
    name = "standard input" if found.file == "-" else Path(found.file).name
    title = f"What would it save? {found.total.rows:,} requests of {name}{days}"
    sections = [_answer(found), *([judged(summary(found.pairs))] if found.pairs else [])]
    sections += [_policies(found), _decided(found), _over_time(found)]
    sections += [
        _groups("By model that answered", found.models),
        _groups("By label that local thinks best", found.labels),
    ]
    for key, values in found.tags.items():
        if 2 * len(values) > sum(group.rows for group in values.values()):
            continue  # an id rather than a tag: nearly every request has its own
        top = sorted(values.items(), key=lambda item: -item[1].usd.get(LOGGED, 0))[:SHOWN_TAGS]
        sections.append(_groups(f"By tag {key}", dict(top)))
    return title, sections


def _answer(found: UsageReport) -> Section:
    data = found.to_json()
    policies, real = data["policies"], data["savings"]["measured"]
    floor, likely, logged = (policies[name] for name in (FLOOR, ROUTED, LOGGED))
    cells = [
        ("billed", dollars(logged["usd"]), ""),
        ("saved at least", dollars(floor["saved_usd"]), percent(floor["saved"])),
        ("saved as expected", dollars(likely["saved_usd"]), percent(likely["saved"])),
    ]
    if real:
        ends = (
            f" ({dollars(real['lower_usd'])} to {dollars(real['upper_usd'])})" if real["lower_usd"] is not None else ""
        )
        share = percent(real["saved_usd"] / logged["usd"]) if logged["usd"] else "-"
        cells.append((f"saved as measured{ends}", dollars(real["saved_usd"]), share))
    note = (
        "US dollars, with the same tokens unless measured. At least: only what is decided locally moves. As expected: "
        "what local leaves open moves where its probabilities say. As measured: on judged pairs, each model with the "
        "tokens that it used. The classifier's calls are paid for in the first two. That answers stay as good is not "
        f"in these figures: {_certified(found.certificate)}"
    )
    return Section("Saved", note, ("", "USD", "of billed"), cells)


def _certified(made: Mapping[str, Any] | None) -> str:
    if not made or not made["valid"]:
        return "the model's gate is closed, so nothing is decided locally."
    under = "" if made["upper_under"] is None else f", at most {made['upper_under']:.1%} to a weaker model,"
    return (
        f"of the local decisions at most {made['upper_disagreement']:.1%} differ{under} from what "
        f"{made['labelled_by']} would say, at {made['confidence']:.0%} confidence, scope: {made['scope']}. "
        "`prerouter shadow` measures how good the answers are."
    )


def _policies(found: UsageReport) -> Section:
    policies = found.to_json()["policies"]
    cells = [
        (name, dollars(p["usd"]), dollars(p["usd_per_1000"]), dollars(p["saved_usd"]), percent(p["saved"]))
        for name, p in policies.items()
    ]
    meant = "; ".join(f"{name}: {MEANING[name]}" for name in (CURRENT, ROUTED, FLOOR, COLD))
    note = f"{meant}; {found.first}: the classifier is asked about everything. {found.assumptions}."
    return Section("Every policy", note, ("policy", "USD", "per 1,000", "saved", "of billed"), cells)


def _decided(found: UsageReport) -> Section:
    total = found.total
    cells = [(name, count(n), percent(n / total.rows)) for name, n in found.reasons.most_common()]
    parts = [f"decided locally: {percent(total.local / total.rows)}"]
    if found.estimated:
        parts.append(f"{found.estimated:,} rows have no usage: their tokens are estimated")
    if found.unpriced:
        names = ", ".join(f"{name or 'no model'} {n:,}" for name, n in found.unpriced.most_common(5))
        parts.append(f"{sum(found.unpriced.values()):,} rows without a known price are left out ({names})")
    if found.cached_tokens:
        parts.append(f"{percent(found.cached_tokens / found.prompt_tokens)} of prompt tokens were read from a cache")
    return Section("Who would decide", "; ".join(parts), ("", "requests", "of all"), cells)


def _over_time(found: UsageReport) -> Section:
    days = sorted(found.days.items())
    at = [datetime.datetime.fromisoformat(day).replace(tzinfo=datetime.UTC).timestamp() for day, _ in days]
    charts = []
    if len(days) > 1:
        times = Times("UTC day", at[0], at[-1])
        share = [(x, s.local / s.rows) for x, (_, s) in zip(at, days, strict=True)]
        usd = {name: [(x, float(s.usd[name])) for x, (_, s) in zip(at, days, strict=True)] for name in (LOGGED, FLOOR)}
        top = 1.1 * max([y for line in usd.values() for _, y in line] + [1e-6])
        lines = [Line(LOGGED, usd[LOGGED], "red"), Line(FLOOR, usd[FLOOR], "blue")]
        charts = [
            ("Dollars a day", Chart(times, Axis("US dollars a day", 0, top), lines), "Billed, and prerouter's least."),
            ("Coverage", Chart(times, Axis("decided locally", 0, 1, True), [Line("", share, "blue")]), "Share by day."),
        ]
    cells = [(day, count(s.rows), percent(s.local / s.rows), *_money(s)) for day, s in days]
    return Section("By day", "", ("UTC day", *_HEADER), cells, charts)


_HEADER = ("requests", "decided locally", "billed", "saved at least", "of billed", "as expected", "of billed")


def _groups(title: str, groups: Mapping[str, Sum]) -> Section:
    cells = [(name, count(s.rows), percent(s.local / s.rows), *_money(s)) for name, s in groups.items()]
    return Section(title, "", ("", *_HEADER), cells)


def _money(group: Sum) -> tuple[str, ...]:
    of = group.to_json()["policies"]
    saved = [cell for name in (FLOOR, ROUTED) for cell in (dollars(of[name]["saved_usd"]), percent(of[name]["saved"]))]
    return dollars(of[LOGGED]["usd"]), *saved


def _day(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).date().isoformat()
