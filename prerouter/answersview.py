"""Specialists against one prompt, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prerouter.pairs import LEVEL, OUTCOMES
from prerouter.reportview import Section, count, dollars
from prerouter.shadowview import interval

FINDINGS = {
    "better": "the specialists win more often than they lose",
    "worse": "the specialists lose more often than they win",
    "unclear": "no difference is shown",
}


def sections(found: Mapping[str, Any]) -> tuple[str, list[Section]]:
    """Title and sections of the JSON object of `prerouter evaluate --answers`."""
    sides = f"{found['taxonomy']} against {found['prompt']} on {found['against_model']}"
    if found["estimate_usd"] is not None:
        note = "Of what is left to compare. About: every route alike frequent, each answer as long as `[costs]` says."
        cells = [("about", dollars(found["estimate_usd"])), ("at most", dollars(found["at_most_usd"]))]
        return f"{sides}: {found['sampled']:,} requests", [Section("Estimate", note, ("", "USD"), cells)]
    title = f"{sides}: {found['sampled']:,} requests, {found['made']:,} compared now for {dollars(found['usd'])} USD"
    if not found["all"]:
        return title, [Section("Answers", "nothing was compared")]
    return title, [_answers(found), _cost(found), _latency(found), _routing(found)]


def _answers(found: Mapping[str, Any]) -> Section:
    groups = {**found["by_route"], **({"all": found["all"]} if len(found["by_route"]) > 1 else {})}
    header = ("route", "pairs", *(name for outcome in OUTCOMES for name in (outcome, "")), "cheaper by", "")
    cells = [
        (route, count(t["n"]), *(cell for name in OUTCOMES for cell in interval(t[name])), *interval(t["cheaper_by"]))
        for route, t in groups.items()
    ]
    title = f"Answers of the specialists: {FINDINGS[found['finding']]}"
    return Section(title, "; ".join(_notes(found)) + ".", header, cells)


def _notes(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"Blind, in random order; exact {LEVEL:.0%} intervals; judged by {found['judge']}"
    place = found["first_place"]
    if place:
        share, between = interval(place)
        yield f"the answer that stood first was the better one in {share} {between} of {place['n']:,} decided"
    if found["judge"] == found["against_model"]:
        yield "the judge is the one prompt's model and may favour its own: --judge names another"
    yield "a clarifying question counts as an answer, a refusal as none"


def _cost(found: Mapping[str, Any]) -> Section:
    per, saved = found["usd_per_1000"], interval(found["all"]["cheaper_by"])
    cells = [
        ("specialists, classification included", dollars(per["specialists"])),
        ("  of which classification", dollars(per["of_which_classifier"])),
        (f"{found['prompt']} on {found['against_model']}", dollars(per["one_prompt"])),
        ("cheaper by", " ".join(filter(None, saved))),
    ]
    note = "As billed at list prices, each side with its own tokens and its own prompt cache; judging is not in it."
    return Section("US dollars per 1,000 requests", note, ("", "USD"), cells)


def _latency(found: Mapping[str, Any]) -> Section:
    note = "Whole answers, not streamed; of requests that took one try."
    sides = {"specialists": "specialists, classification included", "one_prompt": "one prompt"}
    cells = []
    for side, shown in sides.items():
        told = found["seconds"][side]
        cells.append((shown, count(told["n"]), *_span(told["p50"]), *_span(told["p90"])))
    return Section("Seconds to the end of the answer", note, ("", "answers", "p50", "", "p90", ""), cells)


def _routing(found: Mapping[str, Any]) -> Section:
    shares = {
        "given back by a specialist, and re-routed": found["rejected"],
        "answered by a question": found["clarified"],
    }
    shares |= {"answered by a plan of several": found["planned"], "not classified (default label)": found["undecided"]}
    if found["routing_accuracy"]:
        shares[f"routed to the label in the file ({found['labelled']:,} have one)"] = found["routing_accuracy"]
    cells = [(name, *interval({**rate, "share": rate["estimate"]})) for name, rate in shares.items()]
    return Section("Routing", "", ("requests", "share", ""), cells)


def _span(found: Mapping[str, float | None]) -> tuple[str, str]:
    value, low, high = (found[name] for name in ("estimate", "lower", "upper"))
    if value is None:
        return "-", ""
    ends = ("?" if end is None else f"{end:.2f}" for end in (low, high))
    return f"{value:.2f}", f"({' to '.join(ends)})" if low is not None or high is not None else ""
