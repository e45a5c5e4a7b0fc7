"""The model card of models/default, every number from the record. Used by rebuild_default.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gates import MIN_COVERAGE
from measures import MEASURES

from prerouter.modelfolder import Certificate, FolderModel

TEMPLATE = Path(__file__).with_name("default_card.md")


def card(model: FolderModel) -> str:
    """The card as Markdown."""
    training, figures, enough = model.training, model.figures, model.figures["enough"]
    unseen, complex_ = figures["left_out_sources"], figures["shares_by_label"]["complex"]
    stages = zip(figures["shares_by_stage"], unseen["by_stage"], strict=True)
    seen = {"all held-out rows": figures["shares"]}
    seen |= {f"of {name}": found for name, found in figures["shares_by_file"].items()}
    seen |= {f"labelled {name}": found for name, found in figures["shares_by_label"].items()}
    seen |= {"sources never seen": unseen}
    return TEMPLATE.read_text("utf-8").format(
        made=model.certificate,
        gate=gate(model.certificate),
        min_coverage=f"{MIN_COVERAGE:.0%}",
        power="; ".join(f"{contract}: {share:.0%}" for contract, share in figures["contract_choice"].items()),
        header=" | ".join(name.replace("_", " ") for name in MEASURES),
        rule="---|" * len(MEASURES),
        table="\n".join(row(title, found) for title, found in seen.items()),
        stages="\n".join(stage_row(i, *found) for i, found in enumerate(stages)),
        calibration="; ".join(f"stage {i}: {ece:.3f}" for i, ece in enumerate(figures["ece_by_stage"])),
        auroc="; ".join(f"stage {i}: {percent(found)}" for i, found in enumerate(unseen["guard_auroc"])),
        rotations=unseen["rotations"],
        ceiling="; ".join(f"{name}: {percent(f['agreement'])} of {f['n']}" for name, f in figures["ceiling"].items()),
        policies="\n".join(f"| {name} | {usd:.2f} | {enough[name]:.1%} |" for name, usd in figures["cost"].items()),
        assumptions=figures["cost_assumptions"],
        complex_low=percent(complex_["joint_under_routing"]),
        injected_low=percent(figures["injected_decided_too_low"]),
        injected_pairs=figures["injected_pairs"],
        languages="; ".join(f"{name} {percent(found)}" for name, found in figures["other_languages_decided"].items()),
        complex_right=percent(complex_["accuracy"]),
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
    """One line of the table of figures."""
    return f"| {title} | {found['n']:,} | " + " | ".join(percent(found[name]) for name in MEASURES) + " |"


def stage_row(stage: int, held_out: Mapping[str, Any], unseen: Mapping[str, Any]) -> str:
    """One line of the table of stages."""
    names = ("coverage", "disagreement", "under_routing")
    return f"| {stage} | " + " | ".join(percent(found[name]) for found in (held_out, unseen) for name in names) + " |"


def percent(value: list[float] | None) -> str:
    """`12.3 % (10.0 to 15.1)`, or a dash without rows."""
    return "-" if value is None else f"{value[0]:.1%} ({100 * value[1]:.1f} to {100 * value[2]:.1f})"
