"""The card of a model folder that `prerouter train` made: README.md, every number from the record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prerouter.modelfolder import Certificate, FolderModel

_SHARES = {
    "accuracy": "best label of all rows",
    "coverage": "share decided locally",
    "disagreement": "of local decisions, with another label than the labeller's",
    "under_routing": "of local decisions, with a weaker label",
    "over_routing": "of local decisions, with a stronger label",
    "ece": "expected calibration error",
    "novel_coverage": "share of rows of no class that is decided all the same",
}


def card(model: FolderModel) -> str:
    """The card as Markdown."""
    training, figures = model.training, model.figures
    rows, lost = training["rows"], training["duplicates"]
    return _CARD.format(
        taxonomy=f"{model.taxonomy.name}, {len(model.taxonomy.names)} labels, "
        + ("ordered" if model.taxonomy.ordered else "unordered"),
        certificate=certificate(model.certificate),
        measured_on=figures["measured_on"],
        n=figures["n"],
        figures="\n".join(_lines(figures)),
        ceiling=_ceiling(figures.get("ceiling")),
        files=", ".join(f"{name} ({n:,})" for name, n in training["files"].items()),
        rows=", ".join(f"{part} {n:,}" for part, n in rows.items()),
        duplicates=f"{lost['exact']:,} exact and {lost['near']:,} near",
        labels=_labels(training["labels"]),
        fingerprint=training["fingerprint"],
        encoder=training["encoder"],
        made=_made(training),
        versions=", ".join(f"{name} {version}" for name, version in model.versions.items()),
    )


def certificate(made: Certificate) -> str:
    """What was shown, in two sentences."""
    under = f" and at most {made.max_under:.1%} go lower" if made.max_under is not None else ""
    contract = f"Contract: of the local decisions at most {made.max_disagreement:.1%} differ from the labeller's{under}"
    if not made.valid:
        return f"{contract}. The gate is closed: about {made.needed_rows:,} more labelled requests would open it."
    lower = f", {made.errors_under} go lower (at most {made.upper_under:.1%})" if made.upper_under is not None else ""
    return (
        f"{contract}, at {made.confidence:.0%} confidence. The gate is open: of {made.n_certify:,} certify rows "
        f"{made.n_accepted:,} are decided; {made.errors_disagreement} differ (at most "
        f"{made.upper_disagreement:.1%}){lower}. Labelled by {made.labelled_by}; scope: {made.scope}."
    )


def _lines(figures: Mapping[str, Any]) -> list[str]:
    found, between = [], figures.get("intervals", {})
    for name, meaning in _SHARES.items():
        if figures.get(name) is not None:
            low, high = between.get(name, (None, None))
            interval = f" ({100 * low:.1f} to {100 * high:.1f})" if low is not None else ""
            found.append(f"| {name.replace('_', ' ')} | {figures[name]:.1%}{interval} | {meaning} |")
    return found


def _ceiling(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "How noisy the labels are is not known: the rows have neither votes nor second labels."
    return (
        f"Labels are noisy: a perfect model would reach {found['agreement']:.1%} to {found['upper']:.1%} "
        f"({found['n']:,} rows, by {found['by']})."
    )


def _made(training: Mapping[str, Any]) -> str:
    log = training.get("log")
    if not log:
        return "`prerouter train`"
    rows = f"rows {log['first_seq']:,} to {log['last_seq']:,} of the routing log"
    return f"`prerouter retrain` from model folder {training['parent']} and {rows},"


def _labels(counts: Mapping[str, int], shown: int = 12) -> str:
    order = sorted(counts.items(), key=lambda item: -item[1])
    names = ", ".join(f"{name} {n:,}" for name, n in order[:shown])
    return names + (f", and {len(order) - shown} labels with fewer" if len(order) > shown else "")


_CARD = """# A prerouter model

Taxonomy: {taxonomy}. Encoder: {encoder}, with multinomial logistic regression.

## Certificate

{certificate}
It holds for requests like the ones that were labelled, and against this labeller; live audits check both.

## Figures

Measured on {n:,} {measured_on}, with 95 % intervals.

| figure | measured | meaning |
|---|---|---|
{figures}

{ceiling}

## Training data

{files}. Duplicates left out: {duplicates}. Parts: {rows}. Labels: {labels}.
Fingerprint {fingerprint}. No request's text is in this folder; `words.txt` lists words of at least three of them, and
model.json has short hashes of the rows.

Made by {made} with {versions}.
"""
