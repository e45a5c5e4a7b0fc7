"""The report about the routing log, for people."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from prerouter.logreport import DAY_S, LogReport, Part, Wrong, timing
from prerouter.pairs import LEVEL, rate, summary
from prerouter.reportview import Section, count, dollars, percent
from prerouter.shadowview import judged
from prerouter.svg import Axis, Chart, Line, Times
from prerouter.traffic import NewTopic, Traffic
from prerouter.whatif import WhatIf

EXAMPLE_CHARS = 80
SHOWN_TAGS = 12  # values of each tag, those with the most requests
_COUNTS = {"decided_by": "Decided by", "reason": "Reason", "label": "Label", "tier": "Tier", "mode": "Mode"}


def view(found: LogReport) -> tuple[str, list[Section]]:
    """Title and sections."""
    since = "the first row" if found.since is None else _at(found.since)
    title = f"{found.total.rows:,} requests from {since} to {_at(found.until)} UTC"
    sections = [_money(found), _over_time(found), *_decided(found), _wrong(found), judged(summary(found.pairs))]
    sections += [_latency(found), _drift(found), _topics(found.traffic)]
    sections += [_tag(tag, parts) for tag, parts in found.tags.items()]
    return title, sections


def _money(found: LogReport) -> Section:
    total, data = found.total, found.to_json()
    same, real = data["savings"]["same_tokens"], data["savings"]["measured"]
    cells = [
        ("answers", dollars(total.reply_usd), ""),
        ("classifier", dollars(total.classifier_usd), ""),
        ("always the strongest tier, same tokens", dollars(total.top_usd), ""),
        ("saved against it, same tokens", dollars(same["saved_usd"]), percent(same["saved"])),
        ("haiku first: every request asked about", dollars(same["haiku_first_usd"]), ""),
        ("saved against haiku first", dollars(same["saved_against_haiku_first_usd"]), ""),
    ]
    if total.shadow_usd:
        share = same["shadow_saved_usd"] / total.shadow_usd
        cells.append(("shadow mode would save, same tokens", dollars(same["shadow_saved_usd"]), percent(share)))
    if real:
        between = f"{dollars(real['lower_usd'])} to {dollars(real['upper_usd'])}"  # "-" where there are too few pairs
        cells.append(
            (f"saved by moving requests, measured ({between})", dollars(real["saved_usd"]), percent(real["share"]))
        )
    return Section("Cost and savings", _money_note(total, bool(real)), ("US dollars", "", ""), cells)


def _money_note(total: Part, real: bool) -> str:
    parts = [f"{total.replies:,} of {total.rows:,} requests have a reply in the log"]
    if total.estimated:
        parts.append(f"{total.estimated:,} replies are priced from their tokens, at the mean length of their hour")
    if total.unpriced:
        parts.append(f"{total.unpriced:,} replies came from models without a known price")
    if not real:
        parts.append("measured savings need pairs: PREROUTER_MODE=shadow, or `prerouter shadow`")
    return "; ".join(parts) + "."


def _over_time(found: LogReport) -> Section:
    points = sorted(found.points.items())
    cells = [
        (_at(at, found.step_s), count(p.rows), percent(p.coverage), *_usd(p), *_errors(found.wrong_at.get(at)))
        for at, p in points
    ]
    header = ("UTC", "requests", "coverage", *_USD, "audited", "differ")
    return Section("Over time", "", header, cells[::-1], _charts(found) if len(points) > 1 else ())


def _charts(found: LogReport) -> list[tuple[str, Chart, str]]:
    points = sorted(found.points.items())
    times = Times("UTC", points[0][0], points[-1][0])
    coverage = [(float(at), p.coverage or 0.0) for at, p in points]
    share = Chart(times, Axis("decided locally", 0, 1, True), [Line("", coverage, "blue")])
    charts = [("Coverage", share, "Share of requests decided locally.")]
    usd = {
        "always the strongest tier": ([(float(at), p.top_usd) for at, p in points], "red"),
        "spent": ([(float(at), p.reply_usd + p.classifier_usd) for at, p in points], "blue"),
    }
    top = max(y for line, _ in usd.values() for _, y in line)
    if top > 0:
        lines = [Line(name, line, color) for name, (line, color) in usd.items()]
        charts.append(("Dollars", Chart(times, Axis("US dollars", 0, 1.2 * top), lines), "With the same tokens."))
    audited = [(float(at), wrong) for at, wrong in sorted(found.wrong_at.items()) if wrong.n]
    if len(audited) > 1:
        charts.append(
            ("Disagreement", _wrong_chart(times, audited), f"Of audited local decisions, {LEVEL:.0%} intervals.")
        )
    return charts


def _wrong_chart(times: Times, audited: list[tuple[float, Wrong]]) -> Chart:
    band = [(at, *_between(rate(wrong.disagreement, wrong.n))) for at, wrong in audited]
    line = [(at, wrong.disagreement / wrong.n) for at, wrong in audited]
    top = max(0.02, min(1.0, 1.2 * max(high for _, _, high in band)))
    return Chart(times, Axis("differ", 0, top, True), [Line("", line, "red", band=band)])


def _between(found: Mapping[str, float | None]) -> tuple[float, float]:
    return found["lower"] or 0.0, 1.0 if found["upper"] is None else found["upper"]


def _decided(found: LogReport) -> list[Section]:
    rows = found.total.rows
    return [
        Section(title, "", ("", "requests", "of all"), [(k, count(n), percent(n / rows)) for k, n in c.most_common()])
        for what, title in _COUNTS.items()
        if (c := found.counts.get(what))
    ]


def _wrong(found: LogReport) -> Section:
    groups = {"all local decisions": found.wrong}
    for what, of in found.wrong_by.items():
        if len(of) > 1 or what == "by_labeller":
            groups |= {f"{what.removeprefix('by_').replace('_', ' ')} {name}": wrong for name, wrong in of.items()}
    cells = []
    for name, wrong in groups.items():
        row = wrong.to_json(found.ordered)
        cells.append((name, count(wrong.n), *_interval(row["disagreement"]), *_interval(row["under_routing"])))
    note = (
        f"Of {found.audits:,} audited requests {found.wrong.n:,} were decided locally; exact two-sided {LEVEL:.0%} "
        "intervals. Audits are a random sample of all requests, labelled off the request path."
    )
    return Section("Disagreement", note, ("", "audited", "differ", "", "weaker", ""), cells if found.wrong.n else ())


def _interval(found: Mapping[str, float | None] | None) -> tuple[str, str]:
    if not found or found["estimate"] is None:
        return "-", ""
    low, high = _between(found)
    return percent(found["estimate"]), f"({100 * low:.1f} to {100 * high:.1f})"


def _latency(found: LogReport) -> Section:
    cells = []
    for one in found.latencies:
        row = timing(one)
        cells.append(
            (
                f"{one.what}: {one.path}",
                count(one.n),
                *(_seconds(v) for k, v in row.items() if k[0] == "p" and k[-2:] == "_s"),
            )
        )
    note = "Wall time of each path: the decision by who made it, replies and their first byte by model."
    return Section("Latency", note, ("", "requests", "p50", "p90", "p99"), cells)


def _seconds(value: float) -> str:
    for unit, factor in (("µs", 1e6), ("ms", 1e3)):
        if value * factor < 1000:
            return f"{value * factor:.3g} {unit}"
    return f"{value:.3g} s"


def _drift(found: LogReport) -> Section:
    """What moved in the last window, and closed gates."""
    traffic = found.traffic
    shifts = {"inputs": traffic.inputs, "labels": traffic.labels, "coverage": traffic.decided} if traffic else {}
    cells = [
        (name, count(s.n), count(s.n_reference), percent(s.moved), f"{s.p_value:.3f}", "alarm" if s.alarm else "")
        for name, s in shifts.items()
        if s
    ]
    closed = f"Gates closed by live audits: {', '.join(found.closed)}. " if found.closed else ""
    about = (
        "The last window of the model in use: inputs against its training data, labels and coverage against the "
        "windows before. Moved: share of the traffic that is elsewhere, beyond chance. `prerouter monitor` watches it."
    )
    header = ("", "requests", "against", "moved", "p", "")
    return Section("Drift", closed + about if cells or closed else "", header, cells)


def _topics(found: Traffic | None) -> Section:
    """New topics among what local leaves open."""
    cells = [
        (_topic(one), count(one.rows), percent(one.before), percent(one.share))
        for one in (found.topics if found else ())
    ]
    note = "Among what local leaves open: requests like each other of which there were fewer before." if cells else ""
    return Section("New topics", note, ("such as", "of a sample", "share before", "now"), cells)


def _topic(one: NewTopic) -> str:
    """A text where the log keeps them, else what is known without."""
    if one.examples:
        return " ".join(one.examples[0].split())[:EXAMPLE_CHARS]
    known = [*one.tags, *(f"labelled {label}" for label in one.labels)]
    return ", ".join(known[:3]) or f"request {one.ids[0]}"


def _tag(tag: str, parts: Mapping[str, Part]) -> Section:
    top = sorted(parts.items(), key=lambda item: -item[1].rows)
    cells = [(value, count(p.rows), percent(p.coverage), *_usd(p)) for value, p in top[:SHOWN_TAGS]]
    left = f"the {SHOWN_TAGS} with the most requests of {len(top)}" if len(top) > SHOWN_TAGS else ""
    return Section(f"By tag {tag}", left, ("", "requests", "coverage", *_USD), cells)


_USD = ("spent USD", "always strongest", "saved")


def _usd(part: Part) -> tuple[str, str, str]:
    saved = percent(part.saved_usd / part.top_usd) if part.top_usd else "-"
    return dollars(part.reply_usd + part.classifier_usd), dollars(part.top_usd), saved


def _errors(wrong: Wrong | None) -> tuple[str, str]:
    return (count(wrong.n), percent(wrong.disagreement / wrong.n)) if wrong and wrong.n else ("-", "-")


def _at(at: float, step_s: int = DAY_S) -> str:
    found = datetime.datetime.fromtimestamp(at, datetime.UTC)
    return found.strftime("%Y-%m-%d" if step_s == DAY_S else "%Y-%m-%d %H:%M")


def replayed(found: WhatIf) -> Section:
    """What another model folder or contract would have done."""
    data = found.to_json()
    before, after = data["as_it_was"], data["what_if"]
    names = {
        "coverage": "decided locally",
        "disagreement": "of these, differ",
        "under_routing": "of these, weaker",
        "joint_under_routing": "weaker, of all",
    }
    cells = [
        (shown, *_interval(before[name]), *_interval(after[name])) for name, shown in names.items() if before[name]
    ]
    cells.append(("USD per 1,000", dollars(before["usd_per_1000"]), "", dollars(after["usd_per_1000"]), ""))
    made, changed = found.contract, found.changed
    under = "" if made.max_under is None else f"{made.max_under:.1%} weaker, "
    parts = [f"{data['rows']:,} audited requests replayed under {found.model_folder_id}"]
    parts.append(f"contract {under}{made.max_disagreement:.1%} different")
    parts += [f"{n:,} {how.replace('_', ' ')}" for how, n in changed.items()]
    parts += [f"left out, {why}: {n:,}" for why, n in found.left.items()]
    if found.certificate and not found.certificate.valid:
        needed = f"{found.certificate.needed_rows or 0:,}"
        parts.append(f"such a contract would close the gate: about {needed} more audited requests would open it")
    return Section("What if", "; ".join(parts) + ".", ("", "as it was", "", "what if", ""), cells)
