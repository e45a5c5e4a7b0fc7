"""Figures and model card of models/default, every number from the record. Used by rebuild_default.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prerouter.certify import lower_bound, upper_bound
from prerouter.modelfolder import Certificate, FolderModel

MEASURES = (
    "accuracy",
    "coverage",
    "disagreement",
    "under_routing",
    "joint_disagreement",
    "joint_under_routing",
)


def card(model: FolderModel) -> str:
    """The card as Markdown."""
    training, figures = model.training, model.figures
    seen = {"all held-out rows": figures["test"]}
    seen |= {f"of {name}": found for name, found in figures["test_by_file"].items()}
    seen |= {f"labelled {name}": found for name, found in figures["test_by_label"].items()}
    seen |= {"sources never seen": figures["left_out_sources"]}
    return CARD.format(
        made=model.certificate,
        gate=gate(model.certificate),
        power="; ".join(f"{contract}: {share:.0%}" for contract, share in figures["contract_choice"].items()),
        header=" | ".join(name.replace("_", " ") for name in MEASURES),
        rule="---|" * len(MEASURES),
        table="\n".join(row(title, found) for title, found in seen.items()),
        complex_right=percent(figures["test_by_label"]["complex"]["accuracy"]),
        complex_under=percent(figures["test_by_label"]["complex"]["under_routing"]),
        rotations=figures["left_out_sources"]["rotations"],
        counts=", ".join(f"{name} {n:,}" for name, n in training["files"].items()),
        sources=", ".join(training["sources"]),
        rows=training["rows"],
        fingerprint=training["fingerprint"],
        versions=", ".join(f"{name} {v}" for name, v in model.versions.items()),
    )


def gate(made: Certificate) -> str:
    """One sentence on how the walk ended."""
    if not made.valid:
        return f"Closed: about {made.needed_rows:,} more labelled requests would open it."
    return (
        f"Open: {made.n_accepted:,} of {made.n_certify:,} certify rows decided; of them {made.errors_disagreement} "
        f"differ (at most {made.upper_disagreement:.1%}), {made.errors_under} go lower "
        f"(at most {made.upper_under:.1%})."
    )


def row(title: str, found: Mapping[str, Any]) -> str:
    """One line of the table."""
    return f"| {title} | {found['n']:,} | " + " | ".join(percent(found[name]) for name in MEASURES) + " |"


def shares(n: Mapping[str, int]) -> dict[str, Any]:
    """Each share as [estimate, lower, upper]; None without rows."""
    return {
        "n": n["n"],
        "accuracy": share(n["right"], n["n"]),
        "coverage": share(n["local"], n["n"]),
        "disagreement": share(n["wrong"], n["local"]),
        "under_routing": share(n["under"], n["local"]),
        "joint_disagreement": share(n["wrong"], n["n"]),
        "joint_under_routing": share(n["under"], n["n"]),
    }


def share(k: int, n: int) -> list[float] | None:
    """[estimate, lower, upper], 95 % Clopper-Pearson (2.5 % on each side); None without rows."""
    if not n:
        return None
    return [round(v, 4) for v in (k / n, lower_bound(k, n, 0.975), upper_bound(k, n, 0.975))]


def percent(value: list[float] | None) -> str:
    """`12.3 % (10.0 to 15.1)`, or a dash without rows."""
    return "-" if value is None else f"{value[0]:.1%} ({100 * value[1]:.1f} to {100 * value[2]:.1f})"


CARD = """# models/default

Says how capable a Claude model a request needs (simple, moderate, complex), or abstains. One static stage, which runs
in numpy: token vectors of 128 dimensions, distilled from all-MiniLM-L6-v2 and fine-tuned on the labels; their mean over
the whole text, its head and its tail; shape signals; multinomial logistic regression.

## Certificate

Contract: of the local decisions at most {made.max_under:.0%} go lower than the labeller's label and at most
{made.max_disagreement:.0%} differ from it, at {made.confidence:.0%} confidence.
{gate}

Labelled by {made.labelled_by}, rubric {made.prompt_id}. Scope: {made.scope}. It says nothing about your traffic until
your own audits do. The contract was chosen before the certify rows were looked at: the strictest of which at least 80 %
of simulated draws opened and decided at least 10 % ({power}).
An earlier recipe, without fine-tuning, was walked on the same certify rows and stayed closed; whoever counts both tries
reads the confidence as 90 %. The held-out rows below were only measured.

## Figures

Estimates with 95 % intervals. Held-out rows were in no training part. Sources never seen: {rotations} rotations, each
trained anew without a fifth of the sources and measured on these. Disagreement and under-routing are shares of local
decisions, joint rates shares of all requests.

| rows | n | {header} |
|---|---|{rule}
{table}

## Bad at

- Kinds of requests that it was not trained on: the last line of the table. The certificate does not hold there, and
  the guard hardly helps.
- What is asked for when length and topic do not give it away: the line authored.jsonl. A mean of token vectors does
  not see it.
- Complex requests: {complex_right} are recognised, and of those decided locally {complex_under} go lower.
- Other languages than English: they fall through, by design.

## Training data

{counts} requests, labelled by {made.labelled_by}.
Parts: fit {rows[fit]:,}, calibrate {rows[calibrate]:,}, certify
{rows[certify]:,}, held out {rows[test]:,}. Fingerprint {fingerprint}. Labels carry noise: two labellers agree on 89.5 %
of train.jsonl and on 98.9 % of authored.jsonl.

Sources: {sources}.

`stages/0/words.txt` lists the words of at least three training requests. No training text is in this folder.

Made by `python training/rebuild_default.py DATA_DIR` at {made.created_at} with {versions}.
Licence Apache-2.0, like all-MiniLM-L6-v2.
"""
