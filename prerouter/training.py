"""`prerouter train`: labelled requests -> a model folder with a certificate, or a closed gate that says what it needs.

fit teaches the head, calibrate sets temperature, guard and the path of gates, certify is walked once (DESIGN.md 8).
Nothing is written to the output before the end, where the whole folder appears by a rename.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prerouter import (
    embedcache,
    encoders,
    figures,
    heads,
    links,
    modelcard,
    modelfolder,
    overlap,
    reference,
    stages,
    trainset,
)
from prerouter.certify import Provenance
from prerouter.costs import PriceBook
from prerouter.embedcache import CachedEncoder
from prerouter.errors import ConfigError
from prerouter.figures import Figures
from prerouter.files import expanded
from prerouter.findings import Findings, find
from prerouter.local import LocalClassifier
from prerouter.modelfolder import FolderModel, Probe
from prerouter.recipe import Recipe, load_recipe
from prerouter.settings import Settings, load_settings
from prerouter.stages import Learnt
from prerouter.taxonomy import Taxonomy
from prerouter.text import TEXT_VERSION, render
from prerouter.trainset import INFER, Table, TrainSet

if TYPE_CHECKING:
    from prerouter.track import RunInfo

# Of no user: what a loaded folder must reproduce.
PROBES = (
    "What is the capital of France?",
    "Is this review positive or negative? The battery died after two days.",
    "Write a Python function that merges two sorted lists, with type hints and a docstring.",
    "Design a multi-region payment ledger that stays consistent during partitions, and prove that no entry is lost.",
    "where is my card, it has not arrived yet",
    "Wie hoch ist der Eiffelturm?",
    "x",
)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished training. folder: the model folder. measured_on: which rows `figures` are about.

    candidates: of several encoders, each with its cross-validation; empty with one. notes: what the user should know,
    one line each. run: where MLflow has it, None when it was not logged.
    """

    folder: Path
    model: FolderModel
    figures: Figures
    measured_on: str
    candidates: tuple[Mapping[str, Any], ...]
    findings: Findings
    notes: tuple[str, ...]
    seconds: float
    run: RunInfo | None = None

    def to_json(self) -> dict[str, Any]:
        """The object of CONTRACT.md, and where things are."""
        training = self.model.training
        shown = ("encoder", "candidates", "C", "rows", "labels", "novel", "duplicates", "contradictions")
        return self.figures.to_json() | {
            "folder": str(self.folder),
            "model_folder_id": self.model.model_folder_id,
            "measured_on": self.measured_on,
            **{key: training[key] for key in shown},
            **self.findings.to_json(),
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
            "run": self.run.to_json() if self.run else None,
        }


def train(
    files: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    taxonomy: str | Path | Taxonomy | None = None,
    novel_label: str | None = None,
    test: str | Path | Sequence[str | Path] = (),
    certify_on: str | Path | Sequence[str | Path] = (),
    recipe: str | Path | None = None,
    track: bool = True,
    settings: Settings | None = None,
    **changes: Any,
) -> TrainResult:
    """Train on labelled requests in `files` (JSONL or Parquet) and write the model folder `out`.

    taxonomy: a file, "infer" for the labels that the rows hold (unordered), or None for the workspace's.
    novel_label: rows with it belong to no class; they set and test the guard. test: rows that are only measured.
    certify_on: rows that take the place of the certify part. recipe: a TOML file; changes: fields of `recipe.Recipe`,
    such as encoder="minilm" or max_under=0.02. track: log it to MLflow, if that is installed.
    Raises DataError with file and line, ConfigError, ModelFolderError, MissingExtraError. A closed gate is no error.
    """
    heads.check_extra()
    started, folder = datetime.datetime.now(datetime.UTC), _free(out)
    settings = settings or load_settings()
    made, labels = load_recipe(recipe, settings, changes), _taxonomy(taxonomy, settings)
    rows = trainset.load(
        _paths(files),
        labels,
        novel_label=novel_label,
        test=_paths(test),
        certify_on=_paths(certify_on),
        learnt="" if made.finetune else encoders.lessons(made.encoder),
        most=made.most(ordered=labels is not None and labels.ordered),
        seed=made.seed,
    )
    with tempfile.TemporaryDirectory() as scratch:
        shop = _Workshop(rows, made, settings, Path(scratch), started.isoformat(timespec="seconds"))
        result = shop.build(folder, novel_label)
    run = _tracked(result, settings) if track else None
    return replace(result, run=run, seconds=(datetime.datetime.now(datetime.UTC) - started).total_seconds())


@dataclass(frozen=True, slots=True, eq=False)
class _Workshop:
    """One training under way. scratch: a folder for encoders that are made on the way; started: UTC, ISO 8601."""

    rows: TrainSet
    recipe: Recipe
    settings: Settings
    scratch: Path
    started: str

    def build(self, out: Path, novel_label: str | None) -> TrainResult:
        """Learn, certify, measure, write."""
        name, learnt, candidates = self._learnt()
        model = self._certified(learnt)
        encoders_ = [each.encoder for each in learnt]
        local = LocalClassifier(model, encoders_)
        measured_on = "test rows" if self.rows.test else "certify rows"
        measured = self._figures(local, self.rows.test or self.rows.parts["certify"])
        findings = find(self.rows, model.stages, learnt, self.recipe, self.settings, out)
        kept = measured.to_json() | {"measured_on": measured_on, "ceiling": findings.ceiling_json()}
        kept.pop("certificate")
        model = replace(
            model,
            figures=kept,
            training=self._record(name, learnt, candidates) | {"novel_label": novel_label} | self._seen(model, learnt),
            probes=probes(local),
        )
        modelfolder.save(out, model, modelcard.card(model))
        model = LocalClassifier.load(out).model  # as a user would: hashes and probes are checked
        embedcache.prune(self.settings.state_dir / "embeddings", int(self.recipe.cache_gb * 1e9))
        return TrainResult(out, model, measured, measured_on, candidates, findings, self.rows.notes, 0.0)

    def _learnt(self) -> tuple[str, tuple[Learnt, ...], tuple[Mapping[str, Any], ...]]:
        """The encoder's name, what each stage learnt, and what was compared."""
        if self.recipe.finetune:
            name = self.recipe.encoder[0] if len(self.recipe.encoder) == 1 else ""
            source, fit = encoders.source_of(name), self.rows.parts["fit"]
            tuned = stages.finetuned(source, fit, len(self.rows.taxonomy.names), self.recipe, self.scratch)
            return f"fine-tuned {source or encoders.MINILM}", (tuned,), ()
        cache, n_labels = self.settings.state_dir, len(self.rows.taxonomy.names)
        found = [
            (candidate, [CachedEncoder(encoder, cache / "embeddings") for encoder in candidate.encoders])
            for candidate in encoders.candidates(self.recipe.encoder, cache / "encoders")
        ]
        candidates = tuple(self._compared(c.name, e[-1]) for c, e in found) if len(found) > 1 else ()
        best = min(range(len(found)), key=lambda i: _order(candidates[i]["log_loss"])) if candidates else 0
        chosen, cached = found[best]
        learnt = tuple(
            stages.learn(folder, encoder, self.rows.parts["fit"], self._sample(self.recipe.cv_rows), n_labels)
            for folder, encoder in zip(chosen.folders, cached, strict=True)
        )
        return chosen.name, learnt, candidates

    def _compared(self, name: str, encoder: CachedEncoder) -> Mapping[str, Any]:
        """A candidate's cross-validation; of two stages the last one's, which has the last word."""
        rows = self._sample(self.recipe.compare_rows)
        found = heads.search(stages.head_rows(rows, encoder), len(self.rows.taxonomy.names))
        return {
            "name": name,
            "C": found.strength,
            "log_loss": found.loss,
            "accuracy": found.accuracy,
            "rows": len(rows.truth),
        }

    def _sample(self, n: int) -> Table:
        return stages.sample(self.rows.compared.known, n, self.recipe.seed)

    def _certified(self, learnt: Sequence[Learnt]) -> FolderModel:
        parts, taxonomy = self.rows.parts, self.rows.taxonomy
        contract = self.recipe.contract(ordered=taxonomy.ordered)
        closed = [stages.closed(each, parts, max_lost=self.recipe.max_lost, seed=self.recipe.seed) for each in learnt]
        found, outcome = stages.certified(closed, learnt, parts, contract, self._provenance())
        return FolderModel(
            taxonomy=taxonomy,
            text_version=TEXT_VERSION,
            stages=found,
            certificate=outcome.certificate,
            probes=(),
            versions=modelfolder.versions("scikit-learn", "tokenizers", "safetensors"),
        )

    def _seen(self, model: FolderModel, learnt: Sequence[Learnt]) -> dict[str, Any]:
        """What the monitor compares live traffic with."""
        parts, contract = self.rows.parts, self.recipe.contract(ordered=self.rows.taxonomy.ordered)
        held_out = [stages.embeddings(learnt[0], parts[part]) for part in ("calibrate", "certify")]
        certified = stages.scored(model.stages, learnt, contract, parts["certify"])
        return reference.record(model.taxonomy.names, model.stages, certified, np.concatenate(held_out))

    def _provenance(self) -> Provenance:
        """Whose labels: those of the certify rows, which are what the certificate speaks of."""
        examples = self.rows.parts["certify"].examples
        pairs = {(e.labelled_by, e.prompt_id) for e in examples}
        labelled_by, prompt_id = pairs.pop() if len(pairs) == 1 else (None, None)
        several = " and ".join(sorted({by or "unknown" for by, _ in pairs})) if pairs else "unknown"
        workspace = self.settings.workspace
        scope = workspace.name if workspace else ", ".join(self.rows.record["files"])
        return Provenance(labelled_by or several, prompt_id, scope, TEXT_VERSION, self.started)

    def _figures(self, local: LocalClassifier, table: Table) -> Figures:
        book = PriceBook.load(self.rows.taxonomy, self.settings)
        requests = [example.request for example in table.examples]
        return figures.measure(local, requests, table.truth, groups=table.groups, book=book, seed=self.recipe.seed)

    def _record(self, name: str, learnt: Sequence[Learnt], candidates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        search = learnt[-1].search
        texts = [text for table in self.rows.parts.values() for text in table.texts]
        return dict(self.rows.record) | {
            "encoder": name,
            "candidates": [dict(candidate) for candidate in candidates],
            "C": search.strength if search else None,
            "cross_validation": {str(c): round(loss, 5) for c, loss in search.losses.items()} if search else {},
            "signals": search.signals if search else False,
            "recipe": asdict(self.recipe) | {"encoder": list(self.recipe.encoder)},
            "seed": self.recipe.seed,
            "row_hashes": overlap.remember(texts),
            "encoder_hashes": self._lessons(name),
        }

    def _lessons(self, name: str) -> str:
        """Of the rows that the encoder learnt from, in this training or before."""
        if self.recipe.finetune:
            return overlap.remember(self.rows.parts["fit"].texts)
        return encoders.lessons((name,))


def _order(loss: float | None) -> float:
    """Of a candidate: the one with too few rows to be told apart comes last."""
    return float("inf") if loss is None else loss


def probes(local: LocalClassifier) -> tuple[Probe, ...]:
    """PROBES, with what each stage of `local` says of them."""
    found = local.probabilities([render(probe, version=local.text_version) for probe in PROBES])
    return tuple(Probe(probe, p) for probe, p in zip(PROBES, found, strict=True))


def _tracked(result: TrainResult, settings: Settings) -> RunInfo | None:
    from prerouter.track import log_training

    return log_training(result.folder, settings)


def _paths(files: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [files] if isinstance(files, str | Path) else list(files)


def _taxonomy(wanted: str | Path | Taxonomy | None, settings: Settings) -> Taxonomy | None:
    """None: to be inferred."""
    if wanted == INFER:
        return None
    if isinstance(wanted, Taxonomy):
        return wanted
    if wanted is not None:
        return Taxonomy.load(expanded(wanted))
    return Taxonomy.load(settings.resolve(settings.taxonomy) if settings.taxonomy else None)


def _free(out: str | Path) -> Path:
    """The folder to write, if it may be written: said before the work, not after it. Raises ConfigError."""
    folder = expanded(out)
    if folder.is_symlink() or links.role(folder):
        step = "train into a folder of its own, then: prerouter promote DIR"
        what = f"the output is {links.role(folder) or 'a link'}: it would be replaced without being compared"
        raise ConfigError(what, where=str(folder), next_step=step)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / "model.json").is_file()):
        step = "choose another name"
        raise ConfigError("will not overwrite what is no model folder", where=str(folder), next_step=step)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder
