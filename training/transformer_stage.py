"""The second stage: the transformer, fine-tuned on the labels. Used by rebuild_default.py; needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import kept
import numpy as np
from plan import SEED, Plan, Run
from rows import Rows, balanced, believed, with_injections

from prerouter import stages
from prerouter.export import load_transformer
from prerouter.finetune import Finetuned, finetune
from prerouter.modelfolder import Head
from prerouter.stages import Learnt

AUTHORED_WEIGHT = 2.0  # their labels agree in 98.6 %, the others' in 91.7 %


def learn(fit: Rows, n_labels: int, folder: Path, cache: Path, plan: Plan, runs: Sequence[Run]) -> Learnt:
    """The mean of what `runs` fine-tune on `fit`; kept in `folder`, its features in `cache`."""

    def soup() -> Head:
        tuned = [_run(fit, n_labels, folder / f"run-{plan.runs.index(run)}", plan, run) for run in runs]
        return stages.exported(average(tuned), folder / "transformer")

    return kept.stage(folder / "transformer", {"runs": [run_record(fit, plan, run) for run in runs]}, soup, cache)


def average(tuned: Sequence[Finetuned]) -> Finetuned:
    """One model with the mean of all weights."""
    first, *others = tuned
    if not others:
        return first
    states: list[dict[str, Any]] = [each.model.state_dict() for each in tuned]
    means = {
        name: sum(state[name] for state in states) / len(states) if value.is_floating_point() else value
        for name, value in states[0].items()
    }
    first.model.load_state_dict(means)
    weights, bias = (np.mean([getattr(each, name) for each in tuned], axis=0) for name in ("weights", "bias"))
    return Finetuned(first.model, weights, bias)


def run_record(fit: Rows, plan: Plan, run: Run) -> dict[str, Any]:
    """What a run hangs on, as JSON."""
    constants = {"targets": "second opinion", "authored": AUTHORED_WEIGHT, "rows": _rows_of(fit, run).fingerprint()}
    return {**plan.record(), **asdict(plan.recipe), **constants, **asdict(run), "written": [*run.written]}


def _rows_of(fit: Rows, run: Run) -> Rows:
    names = [f"written-{number}" for number in run.written]
    return fit.take(np.flatnonzero((fit.file != "written.jsonl") | np.isin(fit.source, names)))


def _run(fit: Rows, n_labels: int, folder: Path, plan: Plan, run: Run) -> Finetuned:
    def learn() -> kept.Arrays:
        made = _finetuned(_rows_of(fit, run), n_labels, plan, run)
        made.save(folder / "model")
        return {"weights": made.weights, "bias": made.bias}

    head = kept.once(folder, run_record(fit, plan, run), learn)
    return Finetuned(load_transformer(folder / "model", model_kwargs={"attn_implementation": "eager"}), **head)


def _finetuned(fit: Rows, n_labels: int, plan: Plan, run: Run) -> Finetuned:
    copies = with_injections(fit.take(balanced(fit.truth, run.n_injected, SEED)).texts, SEED)
    targets = np.concatenate([believed(fit, n_labels), np.full((len(copies), n_labels), 1 / n_labels)])
    weights = np.ones(len(fit.truth))
    weights[fit.file == "authored.jsonl"] *= AUTHORED_WEIGHT
    weights[fit.file == "written.jsonl"] *= run.weight
    return finetune(
        [*fit.texts, *copies],
        targets,
        n_labels=n_labels,
        weights=np.concatenate([weights, np.ones(len(copies))]),
        source=plan.start,
        recipe=plan.recipe,
        seed=run.seed,
    )
