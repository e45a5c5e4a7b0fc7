"""Pairs of answers, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prerouter.pairs import LEVEL, OUTCOMES
from prerouter.reportview import Section, count, dollars, percent


def sections(found: Mapping[str, Any]) -> tuple[str, list[Section]]:
    """Title and sections of the JSON object of `prerouter shadow`."""
    title = f"{found['sampled']:,} requests sampled, {found['same']:,} keep their tier"
    if found["estimate_usd"] is not None:
        note = "What local leaves open is asked about when it runs; here it goes where the default label goes."
        cells = [("comparing would cost about", dollars(found["estimate_usd"]))]
        return title, [Section("Estimate", note, ("", "USD"), cells)]
    return f"{title}, {found['made']:,} compared now for {dollars(found['usd'])} USD", [judged(found["pairs"])]


def judged(pairs: Mapping[str, Any]) -> Section:
    """The table of `pairs.summary`."""
    title = "Answers of the routed model, judged against those of the model that served"
    if not pairs["all"]:
        return Section(title, "no pairs yet")
    groups = {**pairs["by_route"], **({"all": pairs["all"]} if len(pairs["by_route"]) > 1 else {})}
    header = ("route", "pairs", *(name for outcome in OUTCOMES for name in (outcome, "")), "cheaper by", "")
    cells = [
        (route, count(t["n"]), *(cell for name in OUTCOMES for cell in interval(t[name])), *interval(t["saved"]))
        for route, t in groups.items()
    ]
    return Section(title, _note(pairs), header, cells)


def interval(found: Mapping[str, float | None] | None) -> tuple[str, str]:
    """A share and its interval, as two cells."""
    if found is None:
        return "-", ""
    low, high = found["lower"], found["upper"]
    return percent(found["share"]), "" if low is None or high is None else f"({100 * low:.1f} to {100 * high:.1f})"


def _note(pairs: Mapping[str, Any]) -> str:
    parts = [f"Blind, in random order; {LEVEL:.0%} intervals; judged by {', '.join(pairs['judges'])}"]
    place = pairs["first_place"]
    if place:
        share, between = interval(place)
        parts.append(f"the answer that stood first was the better one in {share} {between} of {place['n']:,} decided")
    parts.append("cheaper by: measured, each model with the tokens that it used itself")
    return "; ".join(parts) + "."
