"""What the two stages of models/default learn. Used by rebuild_default.py; needs torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import static_stage
from rows import Rows, with_injections
from safetensors.numpy import load_file, save_file

from prerouter import certify
from prerouter.encoder import load_encoder
from prerouter.export import distil_static, export_transformer, load_transformer, minilm_folder
from prerouter.finetune import Finetuned, Recipe, finetune
from prerouter.modelfolder import Head

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SEED = 0
N_DIMS = 128  # of the static stage's vectors: 7.6 MB
RECIPE = Recipe()  # 3 epochs, rate 2e-4, each layer 0.8 of the one above: the best of nine, see README.md
AUTHORED_WEIGHT = 2.0  # their labels agree in 98.6 %, the others' in 91.7 %
TEACHER_SHARE = 0.8  # of the target of a labelled row; the rest is its label


@dataclass(frozen=True, slots=True)
class Run:
    """One fine-tuning. written: which sources of written.jsonl it learns from, with `weight`.

    n_injected: copies with prompt injections, as many of each label. What to do with them is not known, so all labels
    are their target alike: a request that talks to the router is left to fall through.
    """

    seed: int
    written: tuple[int, ...]
    weight: float = 0.4
    n_injected: int = 600


# Of several runs the weights are averaged (Wortsman et al. 2022, "Model soups").
RUNS = (Run(0, (0, 1, 2, 3, 4, 5, 6)), Run(1, (0, 1, 4, 6)))


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """The folders of the stages' encoders and the heads on these; static first."""

    encoders: tuple[Path, ...]
    heads: tuple[Head, ...]


def learn(fit: Rows, calibrate: Rows, unlabelled: Rows, folder: Path, runs: Sequence[Run]) -> Learnt:
    """Fine-tune the transformer on `fit`, then distil it into the static stage; written to `folder`.

    calibrate: sets the temperature of the soft labels only. A run that an earlier call left in `folder`, made from the
    same rows in the same way, is used again.
    """
    tuned = [_run(fit, run, folder / f"run-{RUNS.index(run)}") for run in runs]
    encoders = folder / "0", folder / "1"
    model = average(tuned)
    model.save(folder / "model")
    export_transformer(folder / "model", encoders[1])
    # The signals told it nothing that it had not seen in the text (README.md), so their weights are zero.
    n_labels, n_signals = len(model.bias), fit.signals.shape[1]
    padded = np.hstack([model.weights, np.zeros((n_labels, n_signals), np.float32)])
    head = Head(padded, model.bias, np.zeros(n_signals, np.float32), np.ones(n_signals, np.float32))
    return Learnt(encoders, (_static(fit, calibrate, unlabelled, encoders, head), head))


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


def run_record(fit: Rows, run: Run) -> dict[str, Any]:
    """What a run hangs on, as JSON."""
    constants = {"targets": "second opinion", "authored": AUTHORED_WEIGHT}
    constants |= {"fit": _rows_of(fit, run).fingerprint()}
    return {
        "rows": _rows_of(fit, run).fingerprint(),
        **asdict(RECIPE),
        **constants,
        **asdict(run),
        "written": [*run.written],
    }


def _rows_of(fit: Rows, run: Run) -> Rows:
    names = [f"written-{number}" for number in run.written]
    return fit.take(np.flatnonzero((fit.file != "written.jsonl") | np.isin(fit.source, names)))


def _run(fit: Rows, run: Run, folder: Path) -> Finetuned:
    record, done = run_record(fit, run), folder / "done.json"
    if not (done.is_file() and json.loads(done.read_text()) == record):
        made = _finetuned(_rows_of(fit, run), run)
        made.save(folder / "model")
        save_file({"weights": made.weights, "bias": made.bias}, folder / "head")
        done.write_text(json.dumps(record))
    model: SentenceTransformer = load_transformer(folder / "model", model_kwargs={"attn_implementation": "eager"})
    return Finetuned(model, **load_file(folder / "head"))


def _finetuned(fit: Rows, run: Run) -> Finetuned:
    n_labels = int(fit.truth.max()) + 1
    copies = with_injections(fit.take(_balanced(fit.truth, run.n_injected)).texts, SEED)
    targets = np.concatenate([believed(fit), np.full((len(copies), n_labels), 1 / n_labels)])
    weights = np.ones(len(fit.truth))
    weights[fit.file == "authored.jsonl"] *= AUTHORED_WEIGHT
    weights[fit.file == "written.jsonl"] *= run.weight
    weights = np.concatenate([weights, np.ones(len(copies))])
    return finetune([*fit.texts, *copies], targets, n_labels=n_labels, weights=weights, recipe=RECIPE, seed=run.seed)


def believed(fit: Rows) -> np.ndarray:
    """(n_rows, n_labels) what to believe of each row: its label, or where its labeller was not sure a second opinion.

    The second opinion on a label is how independent labellers labelled such rows, of those that two have labelled, one
    added to every count (Laplace's rule). Between neighbours a row then leaves the doubt that there is.
    """
    n_labels = int(fit.truth.max()) + 1
    opinions = np.ones((n_labels, n_labels))
    doubted = np.flatnonzero(~fit.sure & (fit.second >= 0))
    np.add.at(opinions, (fit.truth[doubted], fit.second[doubted]), 1)
    opinions /= opinions.sum(axis=1, keepdims=True)
    return np.where(fit.sure[:, None], np.eye(n_labels)[fit.truth], opinions[fit.truth])


def _balanced(truth: np.ndarray, n_rows: int) -> np.ndarray:
    """Positions of `n_rows` rows, as many of each label; a row may come twice where a label has few."""
    rng, labels = np.random.default_rng(SEED), np.unique(truth)
    return np.concatenate([rng.choice(np.flatnonzero(truth == k), n_rows // len(labels)) for k in labels])


def stage_logits(features: np.ndarray, head: Head, rows: Rows) -> np.ndarray:
    """(n_rows, n_labels), before temperature."""
    return np.hstack([features, head.standard(rows.signals)]).astype(float) @ head.weights.T + head.bias


def _static(fit: Rows, calibrate: Rows, unlabelled: Rows, encoders: tuple[Path, Path], teacher: Head) -> Head:
    """The static stage's head. Its encoder is written to the first of `encoders`; the second is its teacher's."""
    base, encoder, n_labels = encoders[0].parent / "base", load_encoder(encoders[1]), len(teacher.bias)
    distil_static(minilm_folder(), base, n_dims=N_DIMS)
    logits = [stage_logits(encoder.features(rows.texts), teacher, rows) for rows in (calibrate, fit, unlabelled)]
    temperature = certify.fit_temperature(logits[0], calibrate.truth)
    soft = [certify.softmax(each / temperature) for each in logits[1:]]
    injected = fit.take(_balanced(fit.truth, RUNS[-1].n_injected))
    lesson = static_stage.Lesson(
        [*fit.texts, *with_injections(injected.texts, SEED), *unlabelled.texts],
        np.concatenate([fit.signals, injected.signals, unlabelled.signals]),
        np.concatenate([
            TEACHER_SHARE * soft[0] + (1 - TEACHER_SHARE) * believed(fit),
            np.full((len(injected.truth), n_labels), 1 / n_labels),
            soft[1],
        ]),
    )  # fmt: skip
    return static_stage.distil(base, encoders[0], lesson, SEED)
