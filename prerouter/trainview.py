"""`prerouter train` on the command line: what came out, for people or as JSON."""

from __future__ import annotations

import argparse
import json
import sys

from prerouter import modelcard
from prerouter.evaluation import shares
from prerouter.training import TrainResult, train

SHOWN = 5  # suspects


def run_train(options: argparse.Namespace) -> int:
    """Exit code of `prerouter train`: 0 also with a closed gate, which it says."""
    found = train(
        options.files,
        options.output,
        taxonomy=options.taxonomy,
        novel_label=options.novel_label,
        test=options.test,
        certify_on=options.certify_on,
        recipe=options.recipe,
        track=not options.no_track,
        encoder=options.encoder,
        finetune=options.finetune,
        max_under=options.max_under,
        max_disagreement=options.max_disagreement,
        confidence=options.confidence,
        seed=options.seed,
    )
    print(json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False) if options.json else to_text(found))
    for note in (*found.notes, *found.findings.health, *_hints(found)):
        print(f"prerouter: {note}", file=sys.stderr)
    return 0


def to_text(found: TrainResult) -> str:
    """A page for people."""
    training, lines = found.model.training, []
    counts = ", ".join(f"{part} {n:,}" for part, n in training["rows"].items())
    lines.append(f"{found.folder}: {found.model.model_folder_id}, gate {found.figures.gate}")
    lines.append(f"  rows: {counts}; labels: {_labels(found)}")
    lines += [f"  {line}" for line in _encoder(found)]
    lines.append(f"  {modelcard.certificate(found.model.certificate)}")
    lines.append(f"  measured on {found.figures.n:,} {found.measured_on}, with 95 % intervals:")
    lines += [f"    {name.replace('_', ' '):22} {value}" for name, value in shares(found.figures).items()]
    if (top := found.findings.ceiling) is not None:
        between = f"{top.agreement:.1%} to {top.upper:.1%}"
        lines.append(f"    {'ceiling of accuracy':22} {between}, for labels are noise ({top.n:,} rows, by {top.by})")
    return "\n".join(lines)


def _labels(found: TrainResult, shown: int = 8) -> str:
    """Counts and shares, the commonest first: how uneven they are."""
    counts = found.model.training["labels"]
    total, order = sum(counts.values()) or 1, sorted(counts.items(), key=lambda item: -item[1])
    names = ", ".join(f"{name} {n:,} ({n / total:.0%})" for name, n in order[:shown])
    return names + (f", and {len(order) - shown} with fewer" if len(order) > shown else "")


def _encoder(found: TrainResult) -> list[str]:
    training = found.model.training
    strength = f", C = {training['C']:g}" if training["C"] else ""
    if not found.candidates:
        return [f"encoder: {training['encoder']}{strength}"]
    scored = [c for c in found.candidates if c["log_loss"] is not None]
    if not scored:
        return [f"encoder: {training['encoder']}{strength}, the first named: too few rows to compare encoders"]
    scores = "; ".join(f"{c['name']} {c['log_loss']:.3f} ({c['accuracy']:.1%} right)" for c in scored)
    return [f"encoder: {training['encoder']}{strength}, for its log-loss in cross-validation is the least: {scores}"]


def _hints(found: TrainResult) -> list[str]:
    hints = []
    if found.findings.file:
        n = len(found.findings.suspects)
        hints.append(f"{n:,} labels look wrong; to review them: prerouter review {found.findings.file}")
        hints += [
            f"  {s.file}, line {s.line}: {s.label}, or rather {s.suggested} ({s.probability:.2f} against {s.own:.2f})"
            for s in found.findings.suspects[:SHOWN]
        ]
    made = found.model.certificate
    if not made.valid:
        hints.append(f"the gate is closed: nothing is decided locally until about {made.needed_rows:,} more rows")
    else:
        hints.append(f"next: prerouter promote {found.folder}")
    return hints
